/* neighbours.c - walks from a product back to the matrices whose results it reads. */
#include "compare/neighbours.h"

#include <string.h>

uint64_t st_part_rows(const struct st_weight *w)
{
	return w->n_experts ? st_tensor_rows(&w->experts[0]) : st_weight_rows(w);
}

static uint64_t elements(const struct st_weight *w) { return w->tensor ? w->tensor->n_elems : 0; }

static bool is_product(const struct st_node *n)
{
	return (n->op == ST_OP_LINEAR || n->op == ST_OP_LINEAR_AT) && n->softcap == 0;
}

bool st_is_norm(const struct st_node *n)
{
	return (n->op == ST_OP_RMSNORM || (n->op == ST_OP_LAYERNORM && !n->heads)) && n->n_w > 0 && n->w[0];
}

/* The one of weights side by side that covers features [from, from + width) exactly, or NULL. */
static const struct st_weight *covering(const struct st_node *n, uint64_t from, uint64_t width, bool vectors)
{
	uint64_t at = 0;
	for (uint32_t i = 0; i < n->n_w && n->w[i]; i++) {
		uint64_t rows = vectors ? elements(n->w[i]) : st_part_rows(n->w[i]);
		if (at == from && rows == width)
			return n->w[i];
		at += rows;
	}
	return NULL;
}

const struct st_weight *st_bias_behind(const struct st_graph *g, uint32_t product, uint64_t from, uint64_t rows)
{
	for (uint32_t i = product + 1; i < g->n_nodes && g->nodes[i].layer == g->nodes[product].layer; i++)
		if (g->nodes[i].op == ST_OP_BIAS && g->nodes[i].in[0] == product && g->nodes[i].from[0] == 0)
			return covering(&g->nodes[i], from, rows, true);
	return NULL;
}

/* Whether features [from, from + width) of node i are read by the nodes marked alone. Who reads from elsewhere on reads
 * other features: parts lie side by side. */
static bool is_read_by(const struct st_graph *g, uint32_t i, uint64_t from, uint64_t width, const uint32_t *marked,
                       size_t n)
{
	for (uint32_t j = i + 1; j < g->n_nodes; j++)
		for (uint32_t k = 0; k < ST_NODE_ALL_INPUTS; k++) {
			bool in = false;
			if (st_node_input(&g->nodes[j], k) != i)
				continue;
			uint64_t at = st_node_from(&g->nodes[j], k);
			for (size_t m = 0; m < n; m++)
				in |= marked[m] == j;
			if (!in && at >= from && at < from + width)
				return false;
		}
	return true;
}

#define MOST_NODES 24 /* between two matrices */

struct walk {
	const struct st_graph *g;
	struct st_neurons *group;
	uint32_t node[MOST_NODES];
	uint64_t from[MOST_NODES], width[MOST_NODES];
	size_t n;
	uint32_t choice; /* of a stack: the node that chooses; else ST_NO_NODE */
};

static bool add_term(struct walk *w, const struct st_node *n, uint64_t from, uint64_t width, bool direct,
                     const struct st_weight *bias)
{
	struct st_neurons *g = w->group;
	const struct st_weight *m = covering(n, from, width, false);
	bool stack = n->op == ST_OP_LINEAR_AT;
	if (!m || !is_product(n) || n->from[0] || g->n_in == ST_MOST_TERMS || stack != (w->choice != ST_NO_NODE)
	    || (stack && n->in[1] != w->choice) || (g->n_in && g->source != n->in[0]))
		return false;
	for (size_t i = 0; i < g->n_in; i++)
		if (g->in[i].w == m)
			return false; /* read twice: a factor counts twice */
	g->source = n->in[0];
	g->in[g->n_in++] = (struct st_term){ m, bias, direct };
	return true;
}

/* Features [from, from + width) of node i, each of which is made of the same row of every term. */
static bool walk_back(struct walk *w, uint32_t i, uint64_t from, uint64_t width, bool direct,
                      const struct st_weight *bias)
{
	const struct st_node *n = i == ST_NO_NODE ? NULL : &w->g->nodes[i];
	if (!n || w->n == MOST_NODES)
		return false;
	w->node[w->n] = i;
	w->from[w->n] = from;
	w->width[w->n++] = width;
	switch (n->op) {
	case ST_OP_LINEAR:
	case ST_OP_LINEAR_AT:
		return add_term(w, n, from, width, direct, bias);
	case ST_OP_BIAS:
		bias = bias ? NULL : covering(n, from, width, true);
		return bias && w->g->nodes[n->in[0]].op == ST_OP_LINEAR
		    && walk_back(w, n->in[0], from + n->from[0], width, direct, bias);
	case ST_OP_ACT:
		return !bias && walk_back(w, n->in[0], from + n->from[0], width, direct && n->act == ST_ACT_RELU, NULL);
	case ST_OP_SCALE:
		return !bias && n->n_w == 0
		    && walk_back(w, n->in[0], from + n->from[0], width, direct && n->plus == 0, NULL);
	case ST_OP_CLAMP:
	case ST_OP_SOFTPLUS:
		return !bias && walk_back(w, n->in[0], from + n->from[0], width, false, NULL);
	case ST_OP_MUL:
		return !bias && walk_back(w, n->in[0], from + n->from[0], width, direct, NULL)
		    && walk_back(w, n->in[1], from + n->from[1], width, direct, NULL);
	default:
		return false;
	}
}

bool st_neurons_at(const struct st_graph *g, uint32_t node, struct st_neurons *out)
{
	const struct st_node *n = &g->nodes[node];
	*out = (struct st_neurons){ .source = ST_NO_NODE };
	if ((n->op != ST_OP_LINEAR && n->op != ST_OP_LINEAR_AT) || n->n_w != 1 || n->in[0] == ST_NO_NODE || n->from[0])
		return false;
	const struct st_node *in = &g->nodes[n->in[0]];
	bool stack = n->op == ST_OP_LINEAR_AT;
	if (st_is_norm(in) || is_product(in) || (stack && n->choices == 0))
		return false; /* nothing stands between */
	struct walk w = { .g = g, .group = out, .choice = stack ? n->in[1] : ST_NO_NODE };
	uint64_t width = stack ? in->width / g->nodes[n->in[1]].width : in->width;
	out->out = n->w[0];
	if (!walk_back(&w, n->in[0], 0, width, true, NULL) || out->n_in == 0 || w.n + 1 > MOST_NODES)
		return false;
	w.node[w.n] = node;
	for (size_t i = 0; i < w.n; i++)
		if (!is_read_by(g, w.node[i], w.from[i], w.width[i], w.node, w.n + 1))
			return false;
	return true;
}

/* ---- heads ---- */

/* What stands between a product and the attention. */
struct line {
	struct st_term term;
	const struct st_weight *norm;
	uint32_t source, n_rot;
	bool fixed;
};

static bool line_back(const struct st_graph *g, uint32_t i, uint64_t from, uint64_t width, uint32_t reader,
                      struct line *l)
{
	*l = (struct line){ .source = ST_NO_NODE };
	while (i != ST_NO_NODE) {
		const struct st_node *n = &g->nodes[i];
		if (!is_read_by(g, i, from, width, &reader, 1))
			return false;
		switch (n->op) {
		case ST_OP_LINEAR:
			l->term.w = covering(n, from, width, false);
			l->source = n->in[0];
			return l->term.w && is_product(n) && !n->from[0];
		case ST_OP_BIAS:
			l->term.bias = l->term.bias ? NULL : covering(n, from, width, true);
			if (!l->term.bias || g->nodes[n->in[0]].op != ST_OP_LINEAR)
				return false;
			break;
		case ST_OP_ROPE:
			if (l->n_rot || l->norm)
				return false;
			l->n_rot = n->n_rot;
			break;
		case ST_OP_HEADNORM:
			if (l->norm || (n->n_w && n->w[0] && elements(n->w[0]) != n->head_dim))
				return false;
			l->norm = n->n_w ? n->w[0] : NULL;
			l->fixed = true;
			break;
		case ST_OP_SCALE:
			if (n->n_w || n->plus != 0)
				return false;
			break;
		case ST_OP_CLAMP:
			l->fixed = true;
			break;
		default:
			return false;
		}
		reader = i;
		from += n->from[0];
		i = n->in[0];
	}
	return false;
}

bool st_heads_at(const struct st_graph *g, uint32_t node, struct st_heads *out)
{
	const struct st_node *m = &g->nodes[node];
	memset(out, 0, sizeof *out);
	if (m->op != ST_OP_MIX)
		return false;
	const struct st_node *soft = &g->nodes[m->in[0]];
	if (soft->op != ST_OP_SOFTMAX || g->nodes[soft->in[0]].op != ST_OP_SCORES)
		return false;
	const struct st_node *s = &g->nodes[soft->in[0]], *o = NULL;
	struct line q, k, v;
	uint32_t scores = soft->in[0], reader = ST_NO_NODE;
	for (uint32_t i = node + 1; i < g->n_nodes && !o; i++)
		if (g->nodes[i].in[0] == node) {
			o = &g->nodes[i];
			reader = i;
		}
	uint64_t H = s->heads, G = s->kv_heads, d = s->head_dim, d_v = m->head_dim;
	if (!o || o->op != ST_OP_LINEAR || o->n_w != 1 || o->from[0] || m->heads != H || m->kv_heads != G
	    || !is_read_by(g, node, 0, m->width, &reader, 1) || !line_back(g, s->in[0], s->from[0], H * d, scores, &q)
	    || !line_back(g, s->in[1], s->from[1], G * d, scores, &k)
	    || !line_back(g, m->in[1], m->from[1], G * d_v, node, &v) || v.n_rot || v.norm || q.n_rot != k.n_rot
	    || q.source != k.source || q.source != v.source)
		return false;
	*out = (struct st_heads){ .source = q.source,
		                  .q = q.term,
		                  .k = k.term,
		                  .v = v.term,
		                  .o = o->w[0],
		                  .sinks = soft->n_w ? soft->w[0] : NULL,
		                  .q_norm = q.norm,
		                  .k_norm = k.norm,
		                  .heads = s->heads,
		                  .groups = s->kv_heads,
		                  .d = s->head_dim,
		                  .d_v = m->head_dim,
		                  .n_rot = q.n_rot,
		                  .numbered = s->slopes != 0,
		                  .fixed_scores = q.fixed || k.fixed,
		                  .fixed_values = v.fixed };
	return true;
}

/* ---- the stream ---- */

/* Whether what node i gives ends in a sum with the stream, times numbers at most. */
static bool ends_in_sum(const struct st_graph *g, uint32_t i)
{
	for (uint32_t j = i + 1; j < g->n_nodes; j++) {
		const struct st_node *n = &g->nodes[j];
		if (n->in[0] != i && n->in[1] != i)
			continue;
		if (n->op == ST_OP_ADD)
			return true;
		bool linear = n->op == ST_OP_BIAS || n->op == ST_OP_WEIGHTED_SUM
		           || (n->op == ST_OP_SCALE && n->plus == 0);
		return linear && n->in[0] == i && ends_in_sum(g, j);
	}
	return false;
}

struct st_stream_use st_stream_use_of(const struct st_graph *g, uint32_t product)
{
	const struct st_node *n = &g->nodes[product];
	bool reads = n->in[0] != ST_NO_NODE && g->nodes[n->in[0]].op == ST_OP_RMSNORM && !n->from[0];
	return (struct st_stream_use){ reads ? n->in[0] : ST_NO_NODE, !reads && ends_in_sum(g, product) };
}
