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
 * out: [T] sums over the features of the token. Includes f32 rounding of the result and what the mode adds, which
 * base [T] has alone.
 */
ST_MUST_CHECK enum st_status st_floor_of_node(const struct st_graph *ga, const struct st_graph *gb, uint32_t node,
                                              const struct st_run *r, const uint32_t *tokens,
                                              const struct st_held *const held[2], const struct st_exec *e, double *out,
                                              double *base, struct st_error *err);

/*
 * What the noise of the weights does to a token's result. `expected`: the variance of each output, added up, where the
 * differences of the two sides' weights are known in size and have signs by chance. `allowed`: chance exceeds it in a
 * share of 1e-9 / tests of the tokens (docs/floors.md, "What a stage may do").
 */
struct st_token_bound {
	double expected, allowed;
};

/*
 * For a matrix product whose weights are noise to each other. local2: squares of f_a(x) - f_b(x), [T]. Tokens beyond
 * their bound are looked at again with the inputs of equal differences added up first, since weights that are one
 * number err alike. out: [T]
 */
ST_MUST_CHECK enum st_status st_bound_of_linear(const struct st_node *a, const struct st_node *b, const float *x,
                                                size_t T, const double *local2, double tests, struct st_pool *pool,
                                                struct st_token_bound *out, struct st_error *err);

#endif
