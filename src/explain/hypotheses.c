/* hypotheses.c - every kind of mistake, the simple ones first. */
#include "explain/hypotheses.h"

#define B(op) ST_OP_BIT(ST_OP_##op)

static const struct st_hypothesis rows[] = {
	{ B(EMBED), st_test_embedding },
	{ B(EMBED_POSITION), st_test_positions },
	{ ~(B(TOP) | B(SCORES) | B(SOFTMAX)), st_test_capture },
	{ B(RMSNORM) | B(LAYERNORM) | B(HEADNORM), st_test_norm },
	{ B(BIAS), st_test_bias },
	{ B(BIAS_AT), st_test_expert_bias },
	{ B(ADD), st_test_position_sum },
	{ B(ADD), st_test_shared },
	{ B(ADD), st_test_add },
	{ B(ROPE), st_test_rope },
	{ B(ROPE), st_test_step_position },
	{ B(HEADNORM) | B(RMSNORM) | B(ROPE), st_test_order },
	{ B(SCORES) | B(SOFTMAX) | B(MIX), st_test_attention },
	{ B(SOFTMAX_ALL) | B(ACT), st_test_gating },
	{ B(TOP), st_test_choice },
	{ B(CHOSEN) | B(SOFTMAX_OF) | B(NEAR_SHARES), st_test_shares },
	{ B(WEIGHTED_SUM), st_test_weighted_sum },
	{ B(ACT), st_test_activation },
	{ B(MUL), st_test_product },
	{ B(CLAMP), st_test_clamp },
	{ B(SCALE), st_test_scale },
	{ B(LINEAR) | B(SCALE), st_test_head },
	{ B(LINEAR), st_test_linear },
	{ B(LINEAR_AT), st_test_expert_order },
	{ B(LINEAR_AT), st_test_linear },
	{ B(RMSNORM) | B(LAYERNORM) | B(LINEAR), st_test_source },
	{ B(LINEAR), st_test_router_input },
	{ B(RMSNORM) | B(LAYERNORM) | B(LINEAR), st_test_sequential },
	{ B(LINEAR) | B(LINEAR_AT), st_test_added_rank },
	{ ~UINT64_C(0), st_test_precision },
	{ ~(B(TOP) | B(SCORES) | B(SOFTMAX)), st_test_parts_of_result },
	{ B(RMSNORM) | B(LAYERNORM) | B(LINEAR), st_test_stitched },
	{ B(LINEAR) | B(LINEAR_AT), st_test_unrelated },
};
const struct st_hypothesis_list st_all_hypotheses = { rows, sizeof rows / sizeof *rows };
