/* stage.c - the vocabulary of traces: one row per stage, in graph order. */
#include <stele/model.h>

#include <strings.h>
#include <string.h>

struct stage_row {
	const char *name;
	const char *alias; /* further spelling accepted on input, or NULL */
	bool per_layer;
};

static const struct stage_row stages[ST_STAGE_COUNT] = {
	[ST_STAGE_EMBEDDING] = { "embedding", NULL, false },
	[ST_STAGE_ATTN_NORM] = { "attn_norm", NULL, true },
	[ST_STAGE_QKV_MATMUL] = { "qkv_matmul", NULL, true },
	[ST_STAGE_QKV_BIAS] = { "qkv_bias", NULL, true },
	[ST_STAGE_Q_POST_NORM] = { "q_post_norm", NULL, true },
	[ST_STAGE_K_POST_NORM] = { "k_post_norm", NULL, true },
	[ST_STAGE_Q_POST_ROPE] = { "q_post_rope", NULL, true },
	[ST_STAGE_K_POST_ROPE] = { "k_post_rope", NULL, true },
	[ST_STAGE_ATTN_SCORES] = { "attn_scores", NULL, true },
	[ST_STAGE_ATTN_SOFTMAX] = { "attn_softmax", NULL, true },
	[ST_STAGE_ATTENTION] = { "attention", NULL, true },
	[ST_STAGE_ATTN_OUT] = { "attn_out", NULL, true },
	[ST_STAGE_POST_ATTN_NORM] = { "post_attn_norm", NULL, true },
	[ST_STAGE_POST_ATTN_RESIDUAL] = { "post_attn_residual", NULL, true },
	[ST_STAGE_FFN_NORM] = { "ffn_norm", NULL, true },
	[ST_STAGE_MOE_ROUTER] = { "moe_router", NULL, true },
	[ST_STAGE_MOE_ROUTER_INDICES] = { "moe_router_indices", NULL, true },
	[ST_STAGE_FFN_GATE] = { "ffn_gate", NULL, true },
	[ST_STAGE_FFN_UP] = { "ffn_up", NULL, true },
	[ST_STAGE_FFN_SILU] = { "ffn_silu", NULL, true },
	[ST_STAGE_FFN_SWIGL] = { "ffn_swigl", NULL, true }, /* spelled so in existing files */
	[ST_STAGE_FFN_OUT] = { "ffn_out", NULL, true },
	[ST_STAGE_MOE_FFN_OUT] = { "moe_ffn_out", NULL, true },
	[ST_STAGE_POST_FFN_NORM] = { "post_ffn_norm", NULL, true },
	[ST_STAGE_POST_FFN_RESIDUAL] = { "post_ffn_residual", "layer_output", true },
	[ST_STAGE_FINAL_NORM] = { "final_norm", NULL, false },
	[ST_STAGE_LM_HEAD] = { "lm_head", NULL, false },
};

const char *st_stage_name(enum st_stage s) { return (unsigned)s < ST_STAGE_COUNT ? stages[s].name : "unknown"; }

static bool same(const char *known, const char *name, size_t len)
{
	return known && strlen(known) == len && strncasecmp(known, name, len) == 0;
}

bool st_stage_parse(const char *name, size_t len, enum st_stage *out)
{
	for (unsigned s = 0; s < ST_STAGE_COUNT; s++)
		if (same(stages[s].name, name, len) || same(stages[s].alias, name, len)) {
			*out = (enum st_stage)s;
			return true;
		}
	return false;
}

bool st_stage_per_layer(enum st_stage s) { return (unsigned)s < ST_STAGE_COUNT && stages[s].per_layer; }
