/* The vocabulary of stages. The names are an interface: files and command lines hold them. */
#include "graph/stage.h"
#include "test.h"

#include <stele/model.h>

/* Written out, not taken from the table under test. */
static const struct {
	enum st_stage stage;
	const char *name;
	bool per_layer;
} known[] = {
	{ ST_STAGE_EMBEDDING, "embedding", false },
	{ ST_STAGE_ATTN_NORM, "attn_norm", true },
	{ ST_STAGE_QKV_MATMUL, "qkv_matmul", true },
	{ ST_STAGE_QKV_BIAS, "qkv_bias", true },
	{ ST_STAGE_Q_POST_NORM, "q_post_norm", true },
	{ ST_STAGE_K_POST_NORM, "k_post_norm", true },
	{ ST_STAGE_Q_POST_ROPE, "q_post_rope", true },
	{ ST_STAGE_K_POST_ROPE, "k_post_rope", true },
	{ ST_STAGE_ATTN_SCORES, "attn_scores", true },
	{ ST_STAGE_ATTN_SOFTMAX, "attn_softmax", true },
	{ ST_STAGE_ATTENTION, "attention", true },
	{ ST_STAGE_ATTN_OUT, "attn_out", true },
	{ ST_STAGE_POST_ATTN_NORM, "post_attn_norm", true },
	{ ST_STAGE_POST_ATTN_RESIDUAL, "post_attn_residual", true },
	{ ST_STAGE_FFN_NORM, "ffn_norm", true },
	{ ST_STAGE_MOE_ROUTER, "moe_router", true },
	{ ST_STAGE_MOE_ROUTER_INDICES, "moe_router_indices", true },
	{ ST_STAGE_FFN_GATE, "ffn_gate", true },
	{ ST_STAGE_FFN_UP, "ffn_up", true },
	{ ST_STAGE_FFN_SILU, "ffn_silu", true },
	{ ST_STAGE_FFN_SWIGL, "ffn_swigl", true },
	{ ST_STAGE_FFN_OUT, "ffn_out", true },
	{ ST_STAGE_MOE_FFN_OUT, "moe_ffn_out", true },
	{ ST_STAGE_POST_FFN_NORM, "post_ffn_norm", true },
	{ ST_STAGE_POST_FFN_RESIDUAL, "post_ffn_residual", true },
	{ ST_STAGE_FINAL_NORM, "final_norm", false },
	{ ST_STAGE_LM_HEAD, "lm_head", false },
};

static bool parse(const char *s, enum st_stage *out) { return st_stage_parse(s, strlen(s), out); }

static void names_both_ways(void **state)
{
	(void)state;
	assert_int_equal(sizeof known / sizeof *known, ST_STAGE_COUNT);
	for (size_t i = 0; i < ST_STAGE_COUNT; i++) {
		enum st_stage s;
		char upper[64];
		assert_int_equal(known[i].stage, i);
		assert_string_equal(st_stage_name(known[i].stage), known[i].name);
		assert_int_equal(st_stage_per_layer(known[i].stage), known[i].per_layer);
		assert_true(parse(known[i].name, &s));
		assert_int_equal(s, known[i].stage);
		for (size_t k = 0; k <= strlen(known[i].name); k++)
			upper[k] = (char)(known[i].name[k] >= 'a' && known[i].name[k] <= 'z' ? known[i].name[k] - 32
			                                                                     : known[i].name[k]);
		assert_true(parse(upper, &s));
		assert_int_equal(s, known[i].stage);
	}
}

static void aliases_and_strangers(void **state)
{
	(void)state;
	enum st_stage s = ST_STAGE_COUNT;
	assert_true(parse("layer_output", &s));
	assert_int_equal(s, ST_STAGE_POST_FFN_RESIDUAL);
	s = ST_STAGE_COUNT;
	assert_false(parse("", &s));
	assert_false(parse("ffn_swiglu", &s));
	assert_false(parse("attn_nor", &s));
	assert_false(st_stage_parse("attn_norm,x", 8, &s)); /* a part of a name is none */
	assert_true(st_stage_parse("attn_norm,x", 9, &s));
	assert_int_equal(s, ST_STAGE_ATTN_NORM);
}

int main(void)
{
	const struct CMUnitTest tests[] = { cmocka_unit_test(names_both_ways),
		                            cmocka_unit_test(aliases_and_strangers) };
	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
