/*
 * floors.h - the expected size of one stage's local difference, token by token.
 */
#ifndef ST_JUDGE_FLOORS_H
#define ST_JUDGE_FLOORS_H

#include <stele/judge.h>

#include "graph/graph.h"

/*
 * Variance per token of f_a(x) - f_b(x) for two nodes of equal form whose weights differ by the
 * noise of their stored types, on the inputs that run r (side b) holds now.
 * held: for each weight of ga's node, then of gb's, the type whose noise it has (st_weight_diff.held_a, held_b).
 * out: [T] sums over the features of the token. Includes f32 rounding of the result and what the mode adds.
 */
ST_MUST_CHECK enum st_status st_floor_of_node(const struct st_graph *ga, const struct st_graph *gb, uint32_t node,
                                              const struct st_run *r, const uint32_t *tokens,
                                              const struct st_held *const held[2], const struct st_exec *e, double *out,
                                              struct st_error *err);

#endif
