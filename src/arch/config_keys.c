/* config_keys.c - the members of a configuration and their keys in every container: one row each. */
#include "arch/config.h"

#include "base/error.h"

#include <stdlib.h>
#include <string.h>

static const char *const scalings[] = {
	[ST_ROPE_SCALING_NONE] = "none", [ST_ROPE_SCALING_LINEAR] = "linear", [ST_ROPE_SCALING_LLAMA3] = "llama3", NULL
};

#define AT(m) ST_JSON_AT(struct st_config, m)
#define SAME_IN_APR  \
	{            \
		NULL \
	}
#define COUNT .min = 1, .max = UINT32_MAX

/* clang-format off */
const struct st_config_row st_config_rows[ST_CONFIG_MEMBERS] = {
	[ST_CONFIG_ARCH] = { "arch", { AT(arch), .key = { "model_type" } }, "general.architecture", { "architecture" }, 0 },
	[ST_CONFIG_NAME] = { "name", { AT(name), .key = { "_name_or_path" } }, "general.name", { "name" }, 0 },
	[ST_CONFIG_N_LAYERS] = { "n_layers", { AT(n_layers), .key = { "num_hidden_layers" }, COUNT }, "{arch}.block_count",
		{ "num_layers", "n_layers", "num_hidden_layers", "n_layer" }, ST_KEY_JSON | ST_KEY_GGUF | ST_KEY_NEEDED },
	[ST_CONFIG_HIDDEN] = { "hidden", { AT(hidden), .key = { "hidden_size" }, COUNT }, "{arch}.embedding_length",
		{ "hidden_size", "hidden_dim", "d_model", "n_embd" }, ST_KEY_JSON | ST_KEY_GGUF | ST_KEY_NEEDED },
	/* GGUF's key is optional: the embedding has one row per id. */
	[ST_CONFIG_VOCAB] = { "vocab", { AT(vocab), .key = { "vocab_size" }, COUNT }, "{arch}.vocab_size",
		{ "vocab_size", "n_vocab" }, ST_KEY_JSON | ST_KEY_GGUF | ST_KEY_NEEDED_IN_JSON },
	[ST_CONFIG_NORM_EPS] = { "norm_eps", { AT(norm_eps), .key = { "rms_norm_eps" } },
		"{arch}.attention.layer_norm_rms_epsilon", { "rms_norm_eps", "layer_norm_eps", "norm_eps" },
		ST_KEY_JSON | ST_KEY_GGUF | ST_KEY_NEEDED },
	[ST_CONFIG_N_HEADS] = { "n_heads", { AT(n_heads), .key = { "num_attention_heads" }, COUNT },
		"{arch}.attention.head_count", { "num_heads", "n_heads", "num_attention_heads", "n_head" },
		ST_KEY_JSON | ST_KEY_GGUF | ST_KEY_NEEDED },
	[ST_CONFIG_N_KV_HEADS] = { "n_kv_heads", { AT(n_kv_heads), .key = { "num_key_value_heads" } },
		"{arch}.attention.head_count_kv", { "num_kv_heads", "n_kv_heads", "num_key_value_heads" },
		ST_KEY_JSON | ST_KEY_GGUF },
	[ST_CONFIG_HEAD_DIM] = { "head_dim", { AT(head_dim), .key = { "head_dim" } }, "{arch}.attention.key_length",
		SAME_IN_APR, ST_KEY_JSON | ST_KEY_GGUF },
	[ST_CONFIG_FFN] = { "ffn", { AT(ffn), .key = { "intermediate_size" }, COUNT }, "{arch}.feed_forward_length",
		{ "intermediate_size", "ffn_dim", "intermediate_dim", "n_inner" }, ST_KEY_JSON | ST_KEY_GGUF | ST_KEY_NEEDED },
	[ST_CONFIG_QKV_BIAS] = { "qkv_bias", { AT(qkv_bias), .key = { "attention_bias" } }, NULL, SAME_IN_APR, 0 },
	[ST_CONFIG_QK_NORM] = { "qk_norm", { AT(qk_norm) }, NULL, SAME_IN_APR, 0 },
	[ST_CONFIG_ROPE_THETA] = { "rope_theta", { AT(rope_theta), .key = { "rope_theta" } }, "{arch}.rope.freq_base",
		SAME_IN_APR, 0 },
	[ST_CONFIG_ROPE_SCALING] = { "rope_scaling", { AT(rope_scaling), .key = { "rope_scaling" }, .choices = scalings },
		"{arch}.rope.scaling.type", SAME_IN_APR, 0 },
	[ST_CONFIG_ROPE_FACTOR] = { "rope_factor", { AT(rope_factor), .key = { "rope_scaling.factor" } },
		"{arch}.rope.scaling.factor", SAME_IN_APR, 0 },
	[ST_CONFIG_ROPE_LOW_FREQ] = { "rope_low_freq", { AT(rope_low_freq), .key = { "rope_scaling.low_freq_factor" } },
		NULL, SAME_IN_APR, 0 },
	[ST_CONFIG_ROPE_HIGH_FREQ] = { "rope_high_freq", { AT(rope_high_freq), .key = { "rope_scaling.high_freq_factor" } },
		NULL, SAME_IN_APR, 0 },
	[ST_CONFIG_ROPE_ORIGINAL_POSITIONS] = { "rope_original_positions", { AT(rope_original_positions),
		.key = { "rope_scaling.original_max_position_embeddings" } }, NULL, SAME_IN_APR, 0 },
	[ST_CONFIG_SLIDING_WINDOW] = { "sliding_window", { AT(sliding_window), .key = { "sliding_window" } },
		"{arch}.attention.sliding_window", SAME_IN_APR, ST_KEY_GGUF },
	[ST_CONFIG_WINDOW_FROM_LAYER] = { "window_from_layer", { AT(window_from_layer), .key = { "max_window_layers" } },
		NULL, SAME_IN_APR, 0 },
	[ST_CONFIG_TIED] = { "tied", { AT(tied), .key = { "tie_word_embeddings" } }, NULL,
		{ "tied_embeddings", "tie_word_embeddings" }, ST_KEY_JSON },
	[ST_CONFIG_MAX_POSITIONS] = { "max_positions", { AT(max_positions), .key = { "max_position_embeddings" } },
		"{arch}.context_length", { "max_position_embeddings", "max_seq_len", "context_length", "n_ctx" },
		ST_KEY_JSON | ST_KEY_GGUF },
	[ST_CONFIG_BOS] = { "bos", { AT(bos), .key = { "bos_token_id" } }, "tokenizer.ggml.bos_token_id",
		{ "tokenizer.bos_token_id", "bos_token_id" }, 0 },
	[ST_CONFIG_EOS] = { "eos", { AT(eos), .key = { "eos_token_id" } }, "tokenizer.ggml.eos_token_id",
		{ "tokenizer.eos_token_id", "eos_token_id" }, 0 },
};
/* clang-format on */

const char *st_config_member_name(enum st_config_member m) { return st_config_rows[m].name; }

struct st_json_field st_config_json_field(enum st_config_member m, bool apr)
{
	struct st_json_field f = st_config_rows[m].field;
	if (apr && st_config_rows[m].apr[0])
		memcpy(f.key, st_config_rows[m].apr, sizeof f.key);
	f.required = (st_config_rows[m].flags & (ST_KEY_NEEDED | ST_KEY_NEEDED_IN_JSON)) != 0;
	return f;
}

void st_config_said(struct st_config *cfg, enum st_config_member m, const char *key, bool said)
{
	struct st_config_origin *o = &cfg->origin[m];
	o->said = said;
	snprintf(o->key, sizeof o->key, "%s", key ? key : "");
}

/* f32 in one container and decimal text in the other are one number. */
static void show_number(float x, char *buf, size_t n)
{
	for (int digits = 7; digits <= 9; digits++) {
		snprintf(buf, n, "%.*g", digits, (double)x);
		if (strtof(buf, NULL) == x)
			return;
	}
}

void st_config_show(const struct st_config *cfg, enum st_config_member m, char *buf, size_t n)
{
	const struct st_json_field *f = &st_config_rows[m].field;
	const void *p = (const char *)cfg + f->offset;
	if (f->choices)
		snprintf(buf, n, "%s", f->choices[*(const uint32_t *)p]);
	else if (f->type == ST_JSON_CHARS)
		snprintf(buf, n, "%s", (const char *)p);
	else if (f->type == ST_JSON_U32)
		snprintf(buf, n, "%u", *(const uint32_t *)p);
	else if (f->type == ST_JSON_I64)
		snprintf(buf, n, "%lld", (long long)*(const int64_t *)p);
	else if (f->type == ST_JSON_BOOL)
		snprintf(buf, n, "%s", *(const bool *)p ? "true" : "false");
	else
		show_number((float)*(const double *)p, buf, n);
}

void st_config_tell(const char *value, const char *name, const struct st_config_origin *from, char *buf, size_t n)
{
	if (!from->key[0] || (from->said && strcmp(from->key, name) == 0))
		snprintf(buf, n, "%s", value);
	else
		snprintf(buf, n, "%s (%s%s)", value, from->said ? "" : "default: no ", from->key);
}
