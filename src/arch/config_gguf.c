/* config_gguf.c - metadata keys of a GGUF file. */
#include "arch/config.h"

#include "base/error.h"

#include <math.h>
#include <string.h>

/* "{arch}.suffix" in a fixed buffer: family names are short, suffixes are ours. */
struct key {
	char text[96];
};

static struct key in_arch(const char *prefix, const char *suffix)
{
	struct key k;
	snprintf(k.text, sizeof k.text, "%.31s.%s", prefix, suffix);
	return k;
}

static enum st_status get_u32(const struct st_container *c, const char *key, uint32_t *out, bool *found,
                              struct st_error *err)
{
	uint64_t v = 0;
	ST_TRY(st_kv_u64(c, key, &v, found, err));
	if (!*found)
		return ST_OK;
	if (v > UINT32_MAX)
		return st_fail_at(err, ST_ERR_FORMAT, ST_NO_OFFSET, key, "%llu is out of range", (unsigned long long)v);
	*out = (uint32_t)v;
	return ST_OK;
}

static const struct {
	const char *suffix;
	size_t offset;
	bool required;
} fields[] = {
	{ "block_count", offsetof(struct st_config, n_layers), true },
	{ "embedding_length", offsetof(struct st_config, hidden), true },
	{ "feed_forward_length", offsetof(struct st_config, ffn), true },
	{ "attention.head_count", offsetof(struct st_config, n_heads), true },
	{ "attention.head_count_kv", offsetof(struct st_config, n_kv_heads), false },
	{ "attention.key_length", offsetof(struct st_config, head_dim), false },
	{ "context_length", offsetof(struct st_config, max_positions), false },
	{ "attention.sliding_window", offsetof(struct st_config, sliding_window), false },
	{ "vocab_size", offsetof(struct st_config, vocab), false },
};

/* Absent or equal to `neutral` (or 0, which writers use for "none"), or refused. */
static const struct {
	const char *suffix;
	double neutral;
} refused_numbers[] = {
	{ "expert_count", 0 },
	{ "logit_scale", 1 },
	{ "residual_scale", 1 },
	{ "embedding_scale", 1 },
	{ "attention.scale", 0 },
	{ "attention.output_scale", 1 },
	{ "attn_logit_softcapping", 0 },
	{ "final_logit_softcapping", 0 },
	{ "attention.clamp_kqv", 0 },
	{ "attention.max_alibi_bias", 0 },
	{ "rope.scaling.attn_factor", 1 },
	{ "attention.temperature_scale", 0 },
};

/* Refused whatever they hold. */
static const char *const refused_keys[] = {
	"attention.sliding_window_pattern",
	"rope.dimension_sections",
	"attention.key_length_swa",
	"attention.kv_lora_rank",
};

static enum st_status refuse(const struct st_container *c, const char *prefix, struct st_error *err)
{
	for (size_t i = 0; i < sizeof refused_numbers / sizeof *refused_numbers; i++) {
		struct key k = in_arch(prefix, refused_numbers[i].suffix);
		double v = 0;
		bool found;
		ST_TRY(st_kv_f64(c, k.text, &v, &found, err));
		if (found && v != 0 && v != refused_numbers[i].neutral)
			return st_fail_at(err, ST_ERR_UNSUPPORTED, ST_NO_OFFSET, k.text,
			                  "%g changes the arithmetic in a way Stele does not know for this family", v);
	}
	for (size_t i = 0; i < sizeof refused_keys / sizeof *refused_keys; i++) {
		struct key k = in_arch(prefix, refused_keys[i]);
		if (st_kv_find(c, k.text))
			return st_fail_at(err, ST_ERR_UNSUPPORTED, ST_NO_OFFSET, k.text,
			                  "changes the arithmetic in a way Stele does not know for this family");
	}
	struct key causal = in_arch(prefix, "attention.causal");
	bool v = true, found;
	ST_TRY(st_kv_bool(c, causal.text, &v, &found, err));
	return v ? ST_OK
	         : st_fail_at(err, ST_ERR_UNSUPPORTED, ST_NO_OFFSET, causal.text,
	                      "attention without a causal mask is not supported");
}

/* One head size for queries, keys, values and rotation. */
static enum st_status head_sizes(const struct st_container *c, const char *prefix, struct st_config *cfg,
                                 struct st_error *err)
{
	uint32_t d = cfg->head_dim ? cfg->head_dim : cfg->hidden / cfg->n_heads;
	static const char *const same[] = { "attention.value_length", "rope.dimension_count" };
	for (size_t i = 0; i < 2; i++) {
		struct key k = in_arch(prefix, same[i]);
		uint32_t v = 0;
		bool found;
		ST_TRY(get_u32(c, k.text, &v, &found, err));
		if (found && v != d)
			return st_fail_at(err, ST_ERR_UNSUPPORTED, ST_NO_OFFSET, k.text, "%u is not the head size %u",
			                  v, d);
	}
	return ST_OK;
}

static enum st_status rope(const struct st_container *c, const char *prefix, struct st_config *cfg,
                           struct st_error *err)
{
	bool found;
	struct key base = in_arch(prefix, "rope.freq_base");
	ST_TRY(st_kv_f64(c, base.text, &cfg->rope_theta, &found, err));
	if (found && isnan(cfg->rope_theta)) /* NaN would count as absent */
		return st_fail_at(err, ST_ERR_FORMAT, ST_NO_OFFSET, base.text, "is no number");
	struct key k = in_arch(prefix, "rope.scaling.type");
	const char *type = NULL;
	size_t len = 0;
	ST_TRY(st_kv_str(c, k.text, &type, &len, &found, err));
	bool linear = false;
	if (found) {
		linear = len == 6 && memcmp(type, "linear", 6) == 0;
		if (!linear && !(len == 4 && memcmp(type, "none", 4) == 0))
			return st_fail_at(err, ST_ERR_UNSUPPORTED, ST_NO_OFFSET, k.text,
			                  "unknown rope scaling \"%.*s\"; known ones are none, linear and the tensor "
			                  "rope_freqs.weight",
			                  (int)(len < 64 ? len : 64), type);
	}
	struct key factor = in_arch(prefix, "rope.scaling.factor"), old = in_arch(prefix, "rope.scale_linear");
	double v = 1, w = 1;
	bool have, have_old;
	ST_TRY(st_kv_f64(c, factor.text, &v, &have, err));
	ST_TRY(st_kv_f64(c, old.text, &w, &have_old, err)); /* the key's name until 2023 */
	if (linear && !have)
		return st_fail_at(err, ST_ERR_FORMAT, ST_NO_OFFSET, factor.text, "is missing, but %s is linear",
		                  k.text);
	if (have && have_old && v != w)
		return st_fail_at(err, ST_ERR_FORMAT, ST_NO_OFFSET, old.text, "%g contradicts %s, %g", w, factor.text,
		                  v);
	/* A factor without a type means linear; with type none it means nothing. */
	if (linear || (!found && (have || have_old))) {
		cfg->rope_scaling = ST_ROPE_SCALING_LINEAR;
		cfg->rope_factor = have ? v : w;
	}
	return ST_OK;
}

static enum st_status token_id(const struct st_container *c, const char *key, int64_t *out, struct st_error *err)
{
	uint64_t v = 0;
	bool found;
	ST_TRY(st_kv_u64(c, key, &v, &found, err));
	if (found && v < UINT32_MAX) /* writers store "none" as -1 in a u32 */
		*out = (int64_t)v;
	return ST_OK;
}

enum st_status st_config_gguf(const struct st_container *c, struct st_config *cfg, const struct st_arch **arch,
                              struct st_error *err)
{
	const char *name = NULL, *title = NULL;
	size_t len = 0, title_len = 0;
	bool found;
	ST_TRY(st_kv_str(c, "general.architecture", &name, &len, &found, err));
	if (!found)
		return st_fail_at(err, ST_ERR_FORMAT, ST_NO_OFFSET, "general.architecture", "is missing");
	*arch = st_arch_find(name, len);
	if (!*arch)
		return st_config_unknown_family("general.architecture", name, len, err);
	char prefix[32];
	snprintf(prefix, sizeof prefix, "%.*s", (int)(len < 31 ? len : 31), name);

	for (size_t i = 0; i < sizeof fields / sizeof *fields; i++) {
		struct key k = in_arch(prefix, fields[i].suffix);
		uint32_t v = 0;
		ST_TRY(get_u32(c, k.text, &v, &found, err));
		if (fields[i].required && (!found || v == 0))
			return st_fail_at(err, ST_ERR_FORMAT, ST_NO_OFFSET, k.text, found ? "is 0" : "is missing");
		memcpy((char *)cfg + fields[i].offset, &v, sizeof v);
	}
	ST_TRY(refuse(c, prefix, err));
	ST_TRY(head_sizes(c, prefix, cfg, err));
	struct key eps = in_arch(prefix, "attention.layer_norm_rms_epsilon");
	ST_TRY(st_kv_f64(c, eps.text, &cfg->norm_eps, &found, err));
	if (!found)
		return st_fail_at(err, ST_ERR_FORMAT, ST_NO_OFFSET, eps.text, "is missing");
	ST_TRY(rope(c, prefix, cfg, err));
	if (cfg->vocab == 0) { /* the key is optional; the embedding has one row per id */
		const struct st_tensor *t = st_container_find(c, "token_embd.weight");
		if (!t || t->ndim != 2 || t->shape[0] > UINT32_MAX)
			return st_fail_at(err, ST_ERR_FORMAT, ST_NO_OFFSET, "token_embd.weight",
			                  t ? "is no matrix" : "is missing");
		cfg->vocab = (uint32_t)t->shape[0];
	}
	cfg->tied = true; /* unless there is an output.weight */
	ST_TRY(token_id(c, "tokenizer.ggml.bos_token_id", &cfg->bos, err));
	ST_TRY(token_id(c, "tokenizer.ggml.eos_token_id", &cfg->eos, err));
	ST_TRY(st_kv_str(c, "general.name", &title, &title_len, &found, err));
	if (found)
		snprintf(cfg->name, sizeof cfg->name, "%.*s", (int)(title_len < 127 ? title_len : 127), title);
	return ST_OK;
}
