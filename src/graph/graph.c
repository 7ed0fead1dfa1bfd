/* graph.c - looking things up in a graph. */
#include "graph/graph.h"

uint32_t st_graph_find(const struct st_graph *g, enum st_stage stage, int32_t layer)
{
	for (uint32_t i = 0; i < g->n_nodes; i++)
		if (g->nodes[i].stage == stage && g->nodes[i].layer == layer)
			return i;
	return ST_NO_NODE;
}
