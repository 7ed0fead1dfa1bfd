/* run.h - the state of a run, shared by run.c (storage) and eval.c (arithmetic). */
#ifndef ST_GRAPH_RUN_H
#define ST_GRAPH_RUN_H

#include "graph/graph.h"

struct st_layer_cache {
	uint32_t k_node, v_node; /* whose values the cache rows are; ST_NO_NODE: layer without attention */
	uint32_t k_from, v_from; /* the first feature of K and of V in those */
	size_t k_width, v_width;
	float *k, *v; /* [max_positions, width] */
};

/* The state of a node before the current tokens, and behind them once it is evaluated. */
struct st_node_state {
	double *before, *after;
	size_t before_at, after_at; /* positions that they have seen */
};

struct st_run {
	const struct st_graph *g;
	struct st_exec e;
	size_t max_tokens, max_positions;
	unsigned flags;
	size_t T, P; /* current tokens; cached positions, the current ones included */

	uint64_t *elems;              /* [n_slots]: floats of each */
	void *block;                  /* the one allocation everything below lies in */
	struct st_layer_cache *cache; /* n_layers */
	uint32_t *tokens, *pos;       /* [max_tokens] */
	struct st_node_state *state;  /* [n_nodes] */
	double *state_alone;          /* of a node that is evaluated alone */
	float **slot;                 /* [n_slots] */
	uint32_t *held;               /* [n_slots]: node whose value for the current tokens the slot holds */
	float *experts;               /* rows of tokens that chose one expert, and what it makes of them */
	float *vec;                   /* norm weights and biases, decoded */
	void *scratch;                /* st_matmul's */
	size_t scratch_size;
};

/* The value of node i is complete: later nodes may use it, and the cache has its V. */
void st_run_settle(struct st_run *r, uint32_t i);

#endif
