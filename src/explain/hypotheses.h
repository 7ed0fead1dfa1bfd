/* hypotheses.h - the tests of each kind of mistake: what is tried, how parameters are fitted. */
#ifndef ST_EXPLAIN_HYPOTHESES_H
#define ST_EXPLAIN_HYPOTHESES_H

#include "explain/explain.h"

#define ST_TEST(name) ST_MUST_CHECK enum st_status name(struct st_trial *t, struct st_error *err)
ST_TEST(st_test_norm);
ST_TEST(st_test_bias);
ST_TEST(st_test_add);
ST_TEST(st_test_capture);
ST_TEST(st_test_linear);
ST_TEST(st_test_added_rank);
ST_TEST(st_test_parts_of_result);
ST_TEST(st_test_unrelated);
ST_TEST(st_test_precision);
ST_TEST(st_test_source);
ST_TEST(st_test_rope);
ST_TEST(st_test_attention);
ST_TEST(st_test_step_position);
ST_TEST(st_test_order);
ST_TEST(st_test_activation);
ST_TEST(st_test_product);
ST_TEST(st_test_clamp);
ST_TEST(st_test_scale);
ST_TEST(st_test_gating);
ST_TEST(st_test_choice);
ST_TEST(st_test_shares);
ST_TEST(st_test_router_input);
ST_TEST(st_test_weighted_sum);
ST_TEST(st_test_expert_order);
ST_TEST(st_test_shared);
ST_TEST(st_test_embedding);
ST_TEST(st_test_positions);
ST_TEST(st_test_head);
ST_TEST(st_test_position_sum);
ST_TEST(st_test_expert_bias);
ST_TEST(st_test_sequential);
ST_TEST(st_test_stitched);

/* The rows of the node's value that count, and its width. */
static inline struct st_value st_trial_value(const struct st_trial *t) { return st_run_value(t->x->run, t->i); }
static inline const struct st_node *st_trial_node(const struct st_trial *t, uint32_t i) { return &t->x->g->nodes[i]; }
/* Whether token row r of the judged value was captured. */
static inline bool st_trial_has(const struct st_trial *t, size_t r)
{
	return t->x->have[st_trial_value(t).rows == 1 ? t->T - 1 : r % t->T];
}
/* A cause without parameters. */
static inline struct st_cause st_blame(enum st_cause_code code) { return (struct st_cause){ .code = code }; }

/* What is there instead: the value of another node. */
static inline struct st_cause st_blame_holding(enum st_cause_code code, const struct st_node *n)
{
	struct st_cause c = st_blame(code);
	char name[64];
	st_stage_place(n->stage, n->layer, name, sizeof name);
	st_cause_put_text(&c, ST_PARAM_HOLDS, name);
	return c;
}
/* Which part of a fused stage weight k of the node makes: "q", "k", "v"; nothing is said of other nodes. */
static inline void st_blame_part(const struct st_trial *t, uint32_t k, struct st_cause *c)
{
	static const char *const names[] = { "q", "k", "v" };
	if (t->n->n_w == 3)
		st_cause_put_text(c, ST_PARAM_PART, names[k]);
}

#endif
