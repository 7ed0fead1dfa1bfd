/*
 * neighbours.h - which weights compute together, by the graph.
 *
 * Between a matrix that writes a value and the one that reads it the value may be kept in another order, another unit
 * or another basis, and the two together compute the same. What stands between them says which of these may be.
 */
#ifndef ST_COMPARE_NEIGHBOURS_H
#define ST_COMPARE_NEIGHBOURS_H

#include "graph/graph.h"

#include <stele/model.h>

#define ST_MOST_TERMS 4

/* A matrix that writes, and its bias or NULL. direct: a factor above zero on its result is one on what is read. */
struct st_term {
	const struct st_weight *w, *bias;
	bool direct;
};

/* Neurons: the rows of every term and the columns of `out`, which is read by nobody else. Of a stack there is one such
 * group for each expert. */
struct st_neurons {
	uint32_t source; /* node that all terms read whole */
	struct st_term in[ST_MOST_TERMS];
	size_t n_in;
	const struct st_weight *out;
};

/* Heads of d features in queries and keys, of d_v in values; group h / (heads / groups) is what query head h reads. */
struct st_heads {
	uint32_t source; /* node that all three read whole */
	struct st_term q, k, v;
	const struct st_weight *o;
	const struct st_weight *sinks;           /* a number for each query head, or NULL */
	const struct st_weight *q_norm, *k_norm; /* one for all heads, or NULL */
	uint32_t heads, groups, d, d_v, n_rot;   /* n_rot: features of a head that are turned, in two halves */
	bool numbered;                           /* heads are told apart by their number (ALiBi) */
	bool fixed_scores, fixed_values;         /* no factor may move between q and k; between v and o */
};

/* Whether the node is the product that reads such a group. */
bool st_neurons_at(const struct st_graph *g, uint32_t node, struct st_neurons *out);
/* Whether the node is the mix of values of such a group. */
bool st_heads_at(const struct st_graph *g, uint32_t node, struct st_heads *out);

/* The bias that is added to rows [from, from + rows) of a product, or NULL. */
const struct st_weight *st_bias_behind(const struct st_graph *g, uint32_t product, uint64_t from, uint64_t rows);

/* Rows of a matrix; of a stack those of one expert. */
uint64_t st_part_rows(const struct st_weight *w);

/* Whether the node is a norm of the whole width with weights. */
bool st_is_norm(const struct st_node *n);

/* How a matrix meets the residual stream. */
struct st_stream_use {
	uint32_t norm; /* RMS norm that its columns read the stream through; ST_NO_NODE: it does not read it so */
	bool writes;   /* its rows are added to the stream */
};
/* Of matrix w of a product. */
struct st_stream_use st_stream_use_of(const struct st_graph *g, uint32_t product);

#endif
