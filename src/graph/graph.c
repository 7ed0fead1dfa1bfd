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

/* f32 factors in one file, decimals in the other */
static bool same_numbers(const double *a, const double *b, size_t n)
{
	for (size_t i = 0; i < n; i++)
		if (!(fabs(a[i] - b[i]) <= 1e-7 * fabs(b[i])))
			return false;
	return true;
}

static uint32_t effective_window(const struct st_node *n, size_t positions)
{
	return positions && n->window >= positions ? 0 : n->window;
}

/* A f32 in one file, decimals in the other. */
static bool near(double a, double b) { return a == b || fabs(a - b) <= 1e-7 * fabs(b); }

static uint32_t effective_chunk(const struct st_node *n, size_t positions)
{
	return positions && n->chunk >= positions ? 0 : n->chunk;
}

/* What holds once more positions have been seen; of no account where none are. */
static bool same_beyond(const struct st_node *a, const struct st_node *b, size_t positions)
{
	bool never = positions && (a->beyond.from == 0 || a->beyond.from >= positions)
	          && (b->beyond.from == 0 || b->beyond.from >= positions);
	if (never || (a->beyond.from == 0 && b->beyond.from == 0))
		return true;
	return a->beyond.from == b->beyond.from && near(a->beyond.mscale, b->beyond.mscale)
	    && near(a->beyond.theta, b->beyond.theta) && near(a->beyond.factor, b->beyond.factor)
	    && !a->beyond.inv_freq == !b->beyond.inv_freq
	    && (!a->beyond.inv_freq || same_numbers(a->beyond.inv_freq, b->beyond.inv_freq, a->n_rot / 2));
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

bool st_node_same_parameters(const struct st_node *a, const struct st_node *b, size_t positions)
{
	return a->op == b->op && (float)a->eps == (float)b->eps && a->heads == b->heads && a->head_dim == b->head_dim
	    && a->kv_heads == b->kv_heads && effective_window(a, positions) == effective_window(b, positions)
	    && effective_chunk(a, positions) == effective_chunk(b, positions) && near(a->slopes, b->slopes)
	    && near(a->slope_scale, b->slope_scale) && near(a->scale, b->scale) && near(a->plus, b->plus)
	    && near(a->low, b->low) && near(a->high, b->high) && near(a->jitter, b->jitter)
	    && near(a->softcap, b->softcap) && a->act == b->act && near(a->mscale, b->mscale)
	    && a->from[0] == b->from[0] && a->from[1] == b->from[1] && a->offset == b->offset
	    && a->own_weights == b->own_weights && a->state_size == b->state_size && a->groups_of == b->groups_of
	    && a->each == b->each && a->choices == b->choices && a->groups.all == b->groups.all
	    && a->groups.used == b->groups.used && a->groups.best == b->groups.best
	    && a->shares.shares == b->shares.shares && near(a->shares.plus, b->shares.plus)
	    && near(a->shares.least, b->shares.least) && near(a->shares.by, b->shares.by) && a->n_rot == b->n_rot
	    && !a->inv_freq == !b->inv_freq && (!a->inv_freq || same_numbers(a->inv_freq, b->inv_freq, a->n_rot / 2))
	    && same_beyond(a, b, positions) && same_xielu(a, b);
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
	return a->stage == b->stage && a->layer == b->layer && a->op == b->op && a->width == b->width && a->n_w == b->n_w
	    && a->heads == b->heads && a->head_dim == b->head_dim && a->kv_heads == b->kv_heads
	    && a->choices == b->choices && a->groups.all == b->groups.all && a->groups.used == b->groups.used;
}
