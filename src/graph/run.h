/* run.h - the state of a run, shared by run.c (storage) and eval.c (arithmetic). */
#ifndef ST_GRAPH_RUN_H
#define ST_GRAPH_RUN_H

#include "graph/graph.h"

/*
 * One slot of storage per stage: a layer's values replace those of the layer before. The
 * residual stream alternates between two, so that every node of a layer can be evaluated
 * again while that layer is the current one.
 */
#define ST_SLOT_RESIDUAL_ODD ST_STAGE_COUNT
#define ST_SLOT_COUNT (ST_STAGE_COUNT + 1)

struct st_layer_cache {
	uint32_t k_node, v_node; /* whose values the cache rows are; ST_NO_NODE: layer without attention */
	uint32_t v_slice;        /* first feature of V in the value of v_node */
	size_t k_width, v_width;
	float *k, *v; /* [max_positions, width] */
};

struct st_run {
	const struct st_graph *g;
	struct st_exec e;
	size_t max_tokens, max_positions;
	unsigned flags;
	size_t T, P; /* current tokens; cached positions, the current ones included */

	void *block;                  /* the one allocation everything below lies in */
	struct st_layer_cache *cache; /* n_layers */
	uint32_t *tokens, *pos;       /* [max_tokens] */
	float *slot[ST_SLOT_COUNT];
	uint32_t held[ST_SLOT_COUNT]; /* node whose value for the current tokens the slot holds */
	float *vec;                   /* norm weights and biases, decoded */
	void *scratch;                /* st_matmul's */
	size_t scratch_size;
};

unsigned st_run_slot(const struct st_node *n);
/* The value of node i is complete: later nodes may use it, and the cache has its V. */
void st_run_settle(struct st_run *r, uint32_t i);

#endif
