/* agreement.h - next tokens of both sides, and what layers cost (agreement.c). */
#ifndef ST_JUDGE_AGREEMENT_H
#define ST_JUDGE_AGREEMENT_H

#include <stele/judge.h>

#include "base/mem.h"
#include "base/pool.h"
#include "graph/graph.h"

/* a, b: logits of the prompt's tokens, [T, V] each. */
ST_MUST_CHECK enum st_status st_agreement_add(struct st_agreement *g, uint32_t prompt, const uint32_t *tokens,
                                              struct st_value a, struct st_value b, struct st_pool *pool,
                                              struct st_error *err);
/* Both graphs evaluated for one more prompt of n tokens. */
ST_MUST_CHECK enum st_status st_agreement_of_prompt(struct st_agreement *g, const struct st_graph *ga,
                                                    const struct st_graph *gb, uint32_t prompt, const uint32_t *tokens,
                                                    size_t n, const struct st_exec *e, struct st_error *err);
/* Fills over_usual from the reports of stages. */
void st_agreement_usual(struct st_agreement *g, const struct st_stage_report *stages, size_t n);

/*
 * For every layer whose weights are apart by their stored types: B's logits with that layer taken from A, the rest B's.
 * stages: one report a node. out: room for n_nodes.
 */
ST_MUST_CHECK enum st_status st_layer_costs(const struct st_graph *ga, const struct st_graph *gb,
                                            const uint32_t *tokens, size_t T, const struct st_stage_report *stages,
                                            const struct st_exec *e, const struct st_hooks *hooks,
                                            struct st_layer_cost *out, size_t *n, struct st_error *err);

#endif
