/* graph.c - placing nodes, and looking them up. */
#include "graph/graph.h"

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
