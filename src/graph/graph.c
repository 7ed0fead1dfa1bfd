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

bool st_node_same_parameters(const struct st_node *a, const struct st_node *b, size_t positions)
{
	return a->op == b->op && (float)a->eps == (float)b->eps && a->heads == b->heads && a->head_dim == b->head_dim
	    && a->kv_heads == b->kv_heads && effective_window(a, positions) == effective_window(b, positions)
	    && a->scale == b->scale && a->softcap == b->softcap && a->act == b->act && a->mscale == b->mscale
	    && a->from[0] == b->from[0] && a->from[1] == b->from[1] && a->offset == b->offset
	    && a->choices == b->choices && a->groups.all == b->groups.all && a->groups.used == b->groups.used
	    && a->groups.best == b->groups.best && a->shares.shares == b->shares.shares
	    && a->shares.plus == b->shares.plus && a->shares.least == b->shares.least && a->shares.by == b->shares.by
	    && a->n_rot == b->n_rot && !a->inv_freq == !b->inv_freq
	    && (!a->inv_freq || same_numbers(a->inv_freq, b->inv_freq, a->n_rot / 2));
}
