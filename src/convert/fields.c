/* fields.c - the numbers of a configuration: their keys in each container, and setting one by name. */
#include "convert/fields.h"

#include "arch/arch.h"
#include "base/cursor.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

const struct st_field st_fields[] = {
#define F(key, kind, ...)                                                \
	{                                                                \
#key, kind, offsetof(struct st_config, key), __VA_ARGS__ \
	}
	F(hidden, ST_FIELD_U32, "embedding_length", "hidden_size", "hidden_size",
	  { "hidden_dim", "d_model", "n_embd" }),
	F(n_layers, ST_FIELD_U32, "block_count", "num_hidden_layers", "num_layers",
	  { "n_layers", "num_hidden_layers", "n_layer" }),
	F(n_heads, ST_FIELD_U32, "attention.head_count", "num_attention_heads", "num_heads",
	  { "n_heads", "num_attention_heads", "n_head" }),
	F(n_kv_heads, ST_FIELD_U32, "attention.head_count_kv", "num_key_value_heads", "num_kv_heads",
	  { "n_kv_heads", "num_key_value_heads" }),
	F(head_dim, ST_FIELD_U32, "attention.key_length", "head_dim", "head_dim", { NULL }),
	F(ffn, ST_FIELD_U32, "feed_forward_length", "intermediate_size", "intermediate_size",
	  { "ffn_dim", "intermediate_dim", "n_inner" }),
	F(vocab, ST_FIELD_U32, "vocab_size", "vocab_size", "vocab_size", { "n_vocab" }),
	F(max_positions, ST_FIELD_U32, "context_length", "max_position_embeddings", "max_position_embeddings",
	  { "max_seq_len", "context_length", "n_ctx" }),
	F(norm_eps, ST_FIELD_F64, "attention.layer_norm_rms_epsilon", "rms_norm_eps", "rms_norm_eps",
	  { "layer_norm_eps", "norm_eps" }),
	F(rope_theta, ST_FIELD_F64, "rope.freq_base", "rope_theta", "rope_theta", { NULL }),
#undef F
};
const size_t st_n_fields = sizeof st_fields / sizeof *st_fields;

uint32_t st_field_u32(const struct st_config *cfg, const struct st_field *f)
{
	uint32_t v;
	memcpy(&v, (const char *)cfg + f->offset, sizeof v);
	return v;
}

double st_field_f64(const struct st_config *cfg, const struct st_field *f)
{
	double v;
	memcpy(&v, (const char *)cfg + f->offset, sizeof v);
	return v;
}

static bool parse_scaling(const char *text, enum st_rope_scaling *out)
{
	static const char *const names[] = { [ST_ROPE_SCALING_NONE] = "none",
		                             [ST_ROPE_SCALING_LINEAR] = "linear",
		                             [ST_ROPE_SCALING_LLAMA3] = "llama3" };
	for (size_t i = 0; i < 3; i++)
		if (strcmp(text, names[i]) == 0) {
			*out = (enum st_rope_scaling)i;
			return true;
		}
	return false;
}

bool st_config_set(struct st_config *cfg, const char *key, const char *text)
{
	static const struct {
		const char *key;
		size_t offset;
	} doubles[] = {
		{ "norm_eps", offsetof(struct st_config, norm_eps) }, { "rope_theta", offsetof(struct st_config, rope_theta) },
		{ "rope_factor", offsetof(struct st_config, rope_factor) }, { "rope_low_freq", offsetof(struct st_config, rope_low_freq) },
		{ "rope_high_freq", offsetof(struct st_config, rope_high_freq) },
	}, counts[] = {
		{ "n_heads", offsetof(struct st_config, n_heads) }, { "n_kv_heads", offsetof(struct st_config, n_kv_heads) },
		{ "head_dim", offsetof(struct st_config, head_dim) }, { "sliding_window", offsetof(struct st_config, sliding_window) },
		{ "window_from_layer", offsetof(struct st_config, window_from_layer) },
		{ "rope_original_positions", offsetof(struct st_config, rope_original_positions) },
		{ "max_positions", offsetof(struct st_config, max_positions) },
	};
	if (strcmp(key, "rope_scaling") == 0)
		return parse_scaling(text, &cfg->rope_scaling);
	char *end;
	for (size_t i = 0; i < sizeof doubles / sizeof *doubles; i++) {
		if (strcmp(doubles[i].key, key) != 0)
			continue;
		double v = strtod(text, &end);
		memcpy((char *)cfg + doubles[i].offset, &v, sizeof v);
		return end != text && *end == '\0' && isfinite(v);
	}
	for (size_t i = 0; i < sizeof counts / sizeof *counts; i++) {
		if (strcmp(counts[i].key, key) != 0)
			continue;
		unsigned long v = strtoul(text, &end, 10);
		uint32_t n = (uint32_t)v;
		memcpy((char *)cfg + counts[i].offset, &n, sizeof n);
		return end != text && *end == '\0' && v <= UINT32_MAX;
	}
	return false;
}

bool st_config_edited(const struct st_target *to, const char *prefix)
{
	for (size_t i = 0; i < to->n_edited; i++)
		if (strncmp(to->edited[i], prefix, strlen(prefix)) == 0)
			return true;
	return false;
}

bool st_config_has_key(enum st_format f, const char *key)
{
	for (size_t i = 0; i < st_n_fields; i++) {
		const struct st_field *x = &st_fields[i];
		if (strcmp(key, f == ST_FORMAT_GGUF ? x->gguf : f == ST_FORMAT_APR ? x->apr : x->hf) == 0)
			return true;
		for (size_t k = 0; f == ST_FORMAT_APR && k < sizeof x->aliases / sizeof *x->aliases && x->aliases[k];
		     k++)
			if (strcmp(key, x->aliases[k]) == 0)
				return true;
	}
	return false;
}

void st_config_rope_divisors(const struct st_config *cfg, float *by)
{
	for (uint32_t i = 0; i < cfg->head_dim / 2; i++)
		by[i] = (float)(1 / st_rope_llama3(cfg, pow(cfg->rope_theta, -2.0 * i / cfg->head_dim)));
}
