/* graph.c - placing nodes, and looking them up. */
#include "graph/graph.h"

#include <math.h>

/* A layer's values replace those of the layer before. The stream alternates between two places, so that every node of a
 * layer can be evaluated again while that layer is the current one. */
void st_node_place(struct st_node *n, enum st_stage stage, int32_t layer)
{
	n->stage = stage;
	n->layer = layer;
	n->slot = stage == ST_STAGE_POST_FFN_RESIDUAL && layer % 2 == 1 ? ST_STAGE_COUNT : stage;
	n->n_rot = n->n_rot ? n->n_rot : n->head_dim;
	if (n->op == ST_OP_EMBED && n->scale == 0)
		n->scale = 1;
}

uint32_t st_graph_find(const struct st_graph *g, enum st_stage stage, int32_t layer)
{
	for (uint32_t i = 0; i < g->n_nodes; i++)
		if (g->nodes[i].stage == stage && g->nodes[i].layer == layer)
			return i;
	return ST_NO_NODE;
}

/* f32 in one file, decimals in the other; no number is near to an infinite one. */
static bool same_number(double a, double b) { return a == b || (isfinite(b) && fabs(a - b) <= 1e-7 * fabs(b)); }

static bool same_numbers(const double *a, const double *b, size_t n)
{
	for (size_t i = 0; i < n; i++)
		if (!same_number(a[i], b[i]))
			return false;
	return true;
}

/* A window, a chunk or a bound that a prompt of so many positions does not reach is none. */
static uint32_t effective(uint32_t reach, size_t positions) { return positions && reach >= positions ? 0 : reach; }

static bool same_frequencies(const double *a, const double *b, uint32_t n)
{
	return !a == !b && (!a || same_numbers(a, b, n));
}

static bool same_beyond(const struct st_node *a, const struct st_node *b, size_t positions)
{
	uint32_t from = effective(a->beyond.from, positions);
	return from == effective(b->beyond.from, positions)
	    && (!from
	        || (same_number(a->beyond.mscale, b->beyond.mscale) && same_number(a->beyond.theta, b->beyond.theta)
	            && same_number(a->beyond.factor, b->beyond.factor)
	            && same_frequencies(a->beyond.inv_freq, b->beyond.inv_freq, a->n_rot / 2)));
}

/* Four numbers that one kind of file stores as weights and the other as keys; of two weights the weights speak. */
static bool same_xielu(const struct st_node *a, const struct st_node *b)
{
	for (int i = 0; i < 4 && a->op == ST_OP_XIELU; i++) {
		float x = (float)a->xielu[i], y = (float)b->xielu[i];
		if (a->w[i] && b->w[i])
			continue;
		if (a->w[i])
			st_weight_decode(a->w[i], 0, 1, &x);
		if (b->w[i])
			st_weight_decode(b->w[i], 0, 1, &y);
		if (x != y)
			return false;
	}
	return true;
}

/* A field that is forgotten here is a difference that nobody sees: who adds one to the node adds it here or below, too. */
_Static_assert(sizeof(struct st_node) == ST_NODE_SIZE,
               "st_node_same_parameters and st_node_same_form know every field");

bool st_node_same_parameters(const struct st_node *a, const struct st_node *b, size_t positions)
{
	return a->op == b->op && a->act == b->act && a->own_weights == b->own_weights && a->heads == b->heads
	    && a->head_dim == b->head_dim && a->kv_heads == b->kv_heads && a->from[0] == b->from[0]
	    && a->from[1] == b->from[1] && a->state_size == b->state_size && a->groups_of == b->groups_of
	    && a->each == b->each && a->choices == b->choices && a->groups.all == b->groups.all
	    && a->groups.used == b->groups.used && effective(a->window, positions) == effective(b->window, positions)
	    && effective(a->chunk, positions) == effective(b->chunk, positions) && same_number(a->eps, b->eps)
	    && same_number(a->scale, b->scale) && same_number(a->softcap, b->softcap) && same_number(a->low, b->low)
	    && same_number(a->high, b->high) && same_number(a->slopes, b->slopes)
	    && same_number(a->slope_scale, b->slope_scale) && same_number(a->plus, b->plus)
	    && same_number(a->jitter, b->jitter) && same_xielu(a, b) && a->offset == b->offset
	    && a->groups.best == b->groups.best && a->shares.shares == b->shares.shares
	    && same_number(a->shares.plus, b->shares.plus) && same_number(a->shares.least, b->shares.least)
	    && same_number(a->shares.by, b->shares.by) && same_number(a->mscale, b->mscale) && a->n_rot == b->n_rot
	    && same_frequencies(a->inv_freq, b->inv_freq, a->n_rot / 2) && same_beyond(a, b, positions);
}

bool st_node_same_form(const struct st_graph *ga, const struct st_graph *gb, uint32_t i)
{
	if (i >= ga->n_nodes || i >= gb->n_nodes)
		return false;
	const struct st_node *a = &ga->nodes[i], *b = &gb->nodes[i];
	for (int j = 0; j < ST_NODE_INPUTS; j++)
		if (a->in[j] != b->in[j] || a->from[j] != b->from[j]
		    || (a->in[j] != ST_NO_NODE && ga->nodes[a->in[j]].width != gb->nodes[b->in[j]].width))
			return false;
	for (uint32_t j = 0; j < ST_NODE_MORE && j < a->n_more; j++)
		if (b->n_more != a->n_more || a->more[j] != b->more[j] || a->more_from[j] != b->more_from[j]
		    || ga->nodes[a->more[j]].width != gb->nodes[b->more[j]].width)
			return false;
	return a->stage == b->stage && a->layer == b->layer && a->op == b->op && a->width == b->width
	    && (a->n_w == b->n_w || a->op == ST_OP_XIELU) && a->n_more == b->n_more && a->state == b->state
	    && a->state_size == b->state_size && a->groups_of == b->groups_of && a->each == b->each
	    && a->heads == b->heads && a->head_dim == b->head_dim && a->kv_heads == b->kv_heads
	    && a->choices == b->choices && a->groups.all == b->groups.all && a->groups.used == b->groups.used;
}

bool st_graph_same_form(const struct st_graph *a, const struct st_graph *b)
{
	bool same = a->n_nodes == b->n_nodes;
	for (uint32_t i = 0; same && i < a->n_nodes; i++)
		same = st_node_same_form(a, b, i);
	return same;
}

bool st_graph_is_plain(const struct st_graph *g)
{
	static const enum st_op ops[ST_STAGE_COUNT] = {
		[ST_STAGE_EMBEDDING] = ST_OP_EMBED,
		[ST_STAGE_ATTN_NORM] = ST_OP_RMSNORM,
		[ST_STAGE_QKV_MATMUL] = ST_OP_LINEAR,
		[ST_STAGE_QKV_BIAS] = ST_OP_BIAS,
		[ST_STAGE_Q_POST_NORM] = ST_OP_HEADNORM,
		[ST_STAGE_K_POST_NORM] = ST_OP_HEADNORM,
		[ST_STAGE_Q_POST_ROPE] = ST_OP_ROPE,
		[ST_STAGE_K_POST_ROPE] = ST_OP_ROPE,
		[ST_STAGE_ATTN_SCORES] = ST_OP_SCORES,
		[ST_STAGE_ATTN_SOFTMAX] = ST_OP_SOFTMAX,
		[ST_STAGE_ATTENTION] = ST_OP_MIX,
		[ST_STAGE_ATTN_OUT] = ST_OP_LINEAR,
		[ST_STAGE_POST_ATTN_RESIDUAL] = ST_OP_ADD,
		[ST_STAGE_FFN_NORM] = ST_OP_RMSNORM,
		[ST_STAGE_FFN_GATE] = ST_OP_LINEAR,
		[ST_STAGE_FFN_UP] = ST_OP_LINEAR,
		[ST_STAGE_FFN_SILU] = ST_OP_ACT,
		[ST_STAGE_FFN_SWIGL] = ST_OP_MUL,
		[ST_STAGE_FFN_OUT] = ST_OP_LINEAR,
		[ST_STAGE_POST_FFN_RESIDUAL] = ST_OP_ADD,
		[ST_STAGE_FINAL_NORM] = ST_OP_RMSNORM,
		[ST_STAGE_LM_HEAD] = ST_OP_LINEAR,
	};
	for (uint32_t i = 0; i < g->n_nodes; i++) {
		const struct st_node *n = &g->nodes[i];
		/* Stages without an operation above have that of the embedding there, which has one alone. */
		if (n->stage >= ST_STAGE_COUNT || n->op != ops[n->stage] || (n->op == ST_OP_EMBED) != (i == 0)
		    || (n->op == ST_OP_ACT && n->act != ST_ACT_SILU) || n->softcap != 0
		    || (n->op == ST_OP_EMBED && n->scale != 1) || (n->op == ST_OP_SOFTMAX && n->n_w) || n->beyond.from
		    || (n->op == ST_OP_RMSNORM && n->n_w && n->w[0]->plus_one))
			return false;
	}
	return g->n_nodes > 0;
}
