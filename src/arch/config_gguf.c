/* config_gguf.c - metadata keys of a GGUF file. */
#include "arch/config.h"

#include "base/error.h"

#include <math.h>
#include <string.h>

static enum st_status get_u32(const struct st_container *c, const char *key, uint32_t *out, bool *found,
                              struct st_error *err)
{
	uint64_t v = 0;
	ST_TRY(st_kv_u64(&c->keys, key, &v, found, err));
	if (!*found)
		return ST_OK;
	if (v > UINT32_MAX)
		return st_fail_at(err, ST_ERR_FORMAT, ST_NO_OFFSET, key,
		                  "is %llu, not a whole number from 0 to 4294967295", (unsigned long long)v);
	*out = (uint32_t)v;
	return ST_OK;
}

/* The member by its row: a count or a number. */
static enum st_status read_member(const struct st_container *c, const char *family, enum st_config_member m,
                                  struct st_config *cfg, struct st_error *err)
{
	const struct st_config_row *row = &st_config_rows[m];
	const struct st_key_text k = st_config_gguf_key(family, row->gguf);
	char *at = (char *)cfg + row->field.offset;
	bool found, needed = row->flags & ST_KEY_NEEDED;
	if (row->field.type == ST_JSON_F64) {
		double v = NAN;
		ST_TRY(st_kv_f64(&c->keys, k.text, &v, &found, err));
		memcpy(at, &v, sizeof v);
		if (found && isnan(v)) /* NaN would count as absent */
			return st_fail_at(err, ST_ERR_FORMAT, ST_NO_OFFSET, k.text, "is no number");
	} else {
		uint32_t v = 0;
		ST_TRY(get_u32(c, k.text, &v, &found, err));
		memcpy(at, &v, sizeof v);
		if (needed && found && v == 0)
			return st_fail_at(err, ST_ERR_FORMAT, ST_NO_OFFSET, k.text, "is 0");
	}
	st_config_said(cfg, m, k.text, found);
	return found || !needed ? ST_OK : st_fail_at(err, ST_ERR_FORMAT, ST_NO_OFFSET, k.text, "is missing");
}

/* Absent or equal to `neutral` (or 0, which writers use for "none"), or refused. */
static const struct {
	const char *key;
	double neutral;
} refused_numbers[] = {
	{ "{arch}.expert_count", 0 },
	{ "{arch}.logit_scale", 1 },
	{ "{arch}.residual_scale", 1 },
	{ "{arch}.embedding_scale", 1 },
	{ "{arch}.attention.scale", 0 },
	{ "{arch}.attention.output_scale", 1 },
	{ "{arch}.attn_logit_softcapping", 0 },
	{ "{arch}.final_logit_softcapping", 0 },
	{ "{arch}.attention.clamp_kqv", 0 },
	{ "{arch}.attention.max_alibi_bias", 0 },
	{ "{arch}.rope.scaling.attn_factor", 1 },
	{ "{arch}.attention.temperature_scale", 0 },
};

/* Refused whatever they hold. */
static const char *const refused_keys[] = {
	"{arch}.attention.sliding_window_pattern",
	"{arch}.rope.dimension_sections",
	"{arch}.attention.key_length_swa",
	"{arch}.attention.kv_lora_rank",
};

static enum st_status refuse(const struct st_container *c, const char *prefix, struct st_error *err)
{
	for (size_t i = 0; i < sizeof refused_numbers / sizeof *refused_numbers; i++) {
		struct st_key_text k = st_config_gguf_key(prefix, refused_numbers[i].key);
		double v = 0;
		bool found;
		ST_TRY(st_kv_f64(&c->keys, k.text, &v, &found, err));
		if (found && v != 0 && v != refused_numbers[i].neutral)
			return st_fail_at(err, ST_ERR_UNSUPPORTED, ST_NO_OFFSET, k.text,
			                  "%g changes the arithmetic in a way Stele does not know for this family", v);
	}
	for (size_t i = 0; i < sizeof refused_keys / sizeof *refused_keys; i++) {
		struct st_key_text k = st_config_gguf_key(prefix, refused_keys[i]);
		if (st_kv_find(&c->keys, k.text))
			return st_fail_at(err, ST_ERR_UNSUPPORTED, ST_NO_OFFSET, k.text,
			                  "changes the arithmetic in a way Stele does not know for this family");
	}
	struct st_key_text causal = st_config_gguf_key(prefix, "{arch}.attention.causal");
	bool v = true, found;
	ST_TRY(st_kv_bool(&c->keys, causal.text, &v, &found, err));
	return v ? ST_OK
	         : st_fail_at(err, ST_ERR_UNSUPPORTED, ST_NO_OFFSET, causal.text,
	                      "attention without a causal mask is not supported");
}

/* One head size for queries, keys, values and rotation. */
static enum st_status head_sizes(const struct st_container *c, const char *prefix, struct st_config *cfg,
                                 struct st_error *err)
{
	uint32_t d = cfg->head_dim ? cfg->head_dim : cfg->hidden / cfg->n_heads;
	static const char *const same[] = { "{arch}.attention.value_length", "{arch}.rope.dimension_count" };
	for (size_t i = 0; i < 2; i++) {
		struct st_key_text k = st_config_gguf_key(prefix, same[i]);
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
	ST_TRY(read_member(c, prefix, ST_CONFIG_ROPE_THETA, cfg, err));
	struct st_key_text k = st_config_gguf_key(prefix, "{arch}.rope.scaling.type");
	const char *type = NULL;
	size_t len = 0;
	ST_TRY(st_kv_str(&c->keys, k.text, &type, &len, &found, err));
	bool linear = false;
	if (found) {
		linear = len == 6 && memcmp(type, "linear", 6) == 0;
		if (!linear && !(len == 4 && memcmp(type, "none", 4) == 0))
			return st_fail_at(err, ST_ERR_UNSUPPORTED, ST_NO_OFFSET, k.text,
			                  "unknown rope scaling \"%.*s\"; known ones are none, linear and the tensor "
			                  "rope_freqs.weight",
			                  (int)(len < 64 ? len : 64), type);
	}
	struct st_key_text factor = st_config_gguf_key(prefix, "{arch}.rope.scaling.factor"),
			   old = st_config_gguf_key(prefix, "{arch}.rope.scale_linear");
	double v = 1, w = 1;
	bool have, have_old;
	ST_TRY(st_kv_f64(&c->keys, factor.text, &v, &have, err));
	ST_TRY(st_kv_f64(&c->keys, old.text, &w, &have_old, err)); /* the key's name until 2023 */
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
	st_config_said(cfg, ST_CONFIG_ROPE_SCALING,
	               !found && have_old ? old.text
	               : !found && have   ? factor.text
	                                  : k.text,
	               found || have || have_old);
	st_config_said(cfg, ST_CONFIG_ROPE_FACTOR, !have && have_old ? old.text : factor.text, have || have_old);
	return ST_OK;
}

static enum st_status token_id(const struct st_container *c, enum st_config_member m, struct st_config *cfg,
                               struct st_error *err)
{
	uint64_t v = 0;
	bool found;
	const char *key = st_config_rows[m].gguf;
	ST_TRY(st_kv_u64(&c->keys, key, &v, &found, err));
	found = found && v < UINT32_MAX; /* writers store "none" as -1 in a u32 */
	if (found)
		memcpy((char *)cfg + st_config_rows[m].field.offset, &v, sizeof v);
	st_config_said(cfg, m, key, found);
	return ST_OK;
}

/* End of turn and end of message end a text like EOS. */
static enum st_status further_ends(const struct st_container *c, struct st_config *cfg, struct st_error *err)
{
	static const char *const keys[] = { "tokenizer.ggml.eot_token_id", "tokenizer.ggml.eom_token_id" };
	for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
		uint64_t v = 0;
		bool found;
		ST_TRY(st_kv_u64(&c->keys, keys[i], &v, &found, err));
		if (found && v < UINT32_MAX)
			st_config_ends_at(cfg, (int64_t)v);
	}
	return ST_OK;
}

enum st_status st_config_gguf_ids(const struct st_container *c, struct st_config *cfg, struct st_error *err)
{
	ST_TRY(token_id(c, ST_CONFIG_BOS, cfg, err));
	ST_TRY(token_id(c, ST_CONFIG_EOS, cfg, err));
	return further_ends(c, cfg, err);
}

enum st_status st_config_gguf_names(const struct st_container *c, struct st_config *cfg, struct st_error *err)
{
	const char *title = NULL, *title_key = st_config_rows[ST_CONFIG_NAME].gguf;
	size_t len = 0;
	bool found;
	ST_TRY(st_config_gguf_ids(c, cfg, err));
	ST_TRY(st_kv_str(&c->keys, title_key, &title, &len, &found, err));
	if (found)
		snprintf(cfg->name, sizeof cfg->name, "%.*s", (int)(len < 127 ? len : 127), title);
	st_config_said(cfg, ST_CONFIG_NAME, title_key, found);
	return ST_OK;
}

enum st_status st_config_gguf(const struct st_container *c, struct st_config *cfg, const struct st_arch **arch,
                              struct st_error *err)
{
	const char *name = NULL;
	const char *family_key = st_config_rows[ST_CONFIG_ARCH].gguf;
	size_t len = 0;
	bool found;
	ST_TRY(st_kv_str(&c->keys, family_key, &name, &len, &found, err));
	if (!found)
		return st_fail_at(err, ST_ERR_FORMAT, ST_NO_OFFSET, family_key, "is missing");
	*arch = st_arch_find(name, len);
	if (!*arch)
		return st_config_unknown_family(family_key, name, len, err);
	st_config_said(cfg, ST_CONFIG_ARCH, family_key, true);
	char prefix[32];
	snprintf(prefix, sizeof prefix, "%.*s", (int)(len < 31 ? len : 31), name);

	for (int m = 0; m < ST_CONFIG_MEMBERS; m++)
		if (st_config_rows[m].flags & ST_KEY_GGUF)
			ST_TRY(read_member(c, prefix, (enum st_config_member)m, cfg, err));
	ST_TRY(refuse(c, prefix, err));
	ST_TRY(head_sizes(c, prefix, cfg, err));
	ST_TRY(rope(c, prefix, cfg, err));
	if (cfg->vocab == 0) { /* the key is optional; the embedding has one row per id */
		const struct st_tensor *t = st_container_find(c, "token_embd.weight");
		if (!t || t->ndim != 2 || t->shape[0] > UINT32_MAX)
			return st_fail_at(err, ST_ERR_FORMAT, ST_NO_OFFSET, "token_embd.weight",
			                  t ? "is no matrix" : "is missing");
		cfg->vocab = (uint32_t)t->shape[0];
	}
	cfg->tied = true; /* unless there is an output.weight */
	return st_config_gguf_names(c, cfg, err);
}
