/* config_json.c - typed members of a JSON configuration. What is wrong is named, never defaulted. */
#include "arch/config.h"

#include "base/error.h"

#include <math.h>
#include <string.h>

static enum st_status wrong(struct st_error *err, const char *key, const char *want)
{
	return st_fail_at(err, ST_ERR_FORMAT, ST_NO_OFFSET, key, "is no %s", want);
}

/* The present member among some spellings, or NULL; two that disagree are refused. */
static enum st_status lookup(const json_t *o, st_names names, const json_t **v, const char **key, struct st_error *err)
{
	*v = NULL;
	for (; *names; names++) {
		const json_t *m = json_object_get(o, *names);
		if (!m || json_is_null(m))
			continue;
		if (!*v) {
			*v = m;
			*key = *names;
			continue;
		}
		bool equal = json_is_number(m) && json_is_number(*v) ? json_number_value(m) == json_number_value(*v)
		                                                     : json_equal(m, *v) != 0;
		if (!equal)
			return st_fail_at(err, ST_ERR_FORMAT, ST_NO_OFFSET, *names, "contradicts %s", *key);
	}
	return ST_OK;
}

enum st_status st_json_u32(const json_t *o, st_names names, uint32_t *out, bool *found, struct st_error *err)
{
	const json_t *v;
	const char *key = NULL;
	ST_TRY(lookup(o, names, &v, &key, err));
	*found = v != NULL;
	if (!v)
		return ST_OK;
	if (!json_is_integer(v))
		return wrong(err, key, "integer");
	json_int_t n = json_integer_value(v);
	if (n < 0 || n > UINT32_MAX)
		return st_fail_at(err, ST_ERR_FORMAT, ST_NO_OFFSET, key, "%lld is out of range", (long long)n);
	*out = (uint32_t)n;
	return ST_OK;
}

enum st_status st_json_f64(const json_t *o, st_names names, double *out, bool *found, struct st_error *err)
{
	const json_t *v;
	const char *key = NULL;
	ST_TRY(lookup(o, names, &v, &key, err));
	*found = v != NULL;
	if (!v)
		return ST_OK;
	if (!json_is_number(v) || !isfinite(json_number_value(v)))
		return wrong(err, key, "number");
	*out = json_number_value(v);
	return ST_OK;
}

enum st_status st_json_bool(const json_t *o, st_names names, bool *out, bool *found, struct st_error *err)
{
	const json_t *v;
	const char *key = NULL;
	ST_TRY(lookup(o, names, &v, &key, err));
	*found = v != NULL;
	if (!v)
		return ST_OK;
	if (!json_is_boolean(v))
		return wrong(err, key, "true or false");
	*out = json_is_true(v);
	return ST_OK;
}

enum st_status st_json_str(const json_t *o, st_names names, const char **out, bool *found, struct st_error *err)
{
	const json_t *v;
	const char *key = NULL;
	ST_TRY(lookup(o, names, &v, &key, err));
	*found = v != NULL;
	if (!v)
		return ST_OK;
	if (!json_is_string(v))
		return wrong(err, key, "string");
	*out = json_string_value(v);
	return ST_OK;
}

enum st_status st_json_id(const json_t *o, st_names names, int64_t *out, struct st_error *err)
{
	const json_t *v;
	const char *key = NULL;
	ST_TRY(lookup(o, names, &v, &key, err));
	if (v && json_is_array(v))
		v = json_array_get(v, 0);
	if (!v)
		return ST_OK;
	if (!json_is_integer(v))
		return wrong(err, key, "token id or list of them");
	if (json_integer_value(v) >= 0)
		*out = json_integer_value(v);
	return ST_OK;
}

enum st_status st_json_fields(const json_t *o, const struct st_json_field *fields, size_t n, struct st_config *cfg,
                              struct st_error *err)
{
	for (size_t i = 0; i < n; i++) {
		const struct st_json_field *f = &fields[i];
		uint32_t v = 0;
		bool found;
		ST_TRY(st_json_u32(o, f->names, &v, &found, err));
		if (!found && f->required)
			return st_fail_at(err, ST_ERR_FORMAT, ST_NO_OFFSET, f->names[0], "is missing");
		if (found && v == 0 && f->required)
			return st_fail_at(err, ST_ERR_FORMAT, ST_NO_OFFSET, f->names[0], "is 0");
		memcpy((char *)cfg + f->offset, &v, sizeof v);
	}
	return ST_OK;
}

/* ---- rotary embedding ---- */

struct rope {
	double theta; /* NaN: not given */
	enum st_rope_scaling scaling;
	double factor, low, high;
	uint32_t original;
};

static enum st_status need_f64(const json_t *o, const char *owner, const char *key, double *out, struct st_error *err)
{
	bool found;
	ST_TRY(st_json_f64(o, ST_NAMES(key), out, &found, err));
	return found ? ST_OK : st_fail_at(err, ST_ERR_FORMAT, ST_NO_OFFSET, owner, "%s is missing", key);
}

/* One of the two objects. "rope_type" was "type" in early files. */
static enum st_status rope_object(const json_t *o, const char *owner, struct rope *r, struct st_error *err)
{
	if (!json_is_object(o))
		return wrong(err, owner, "object");
	const char *key;
	json_t *member;
	json_object_foreach((json_t *)o, key, member) if (json_is_object(member)) return st_fail_at(
		err, ST_ERR_UNSUPPORTED, ST_NO_OFFSET, owner,
		"differs between layers (\"%s\"), which no known family has", key);
	const char *type = NULL;
	bool found;
	double partial = 1;
	ST_TRY(st_json_f64(o, ST_NAMES("rope_theta"), &r->theta, &found, err));
	ST_TRY(st_json_f64(o, ST_NAMES("partial_rotary_factor"), &partial, &found, err));
	if (partial != 1)
		return st_fail_at(err, ST_ERR_UNSUPPORTED, ST_NO_OFFSET, owner,
		                  "partial_rotary_factor %g is not supported", partial);
	ST_TRY(st_json_str(o, ST_NAMES("rope_type", "type"), &type, &found, err));
	if (!found && json_object_get(o, "factor"))
		return st_fail_at(err, ST_ERR_FORMAT, ST_NO_OFFSET, owner, "rope_type is missing");
	if (!found || strcmp(type, "default") == 0)
		return ST_OK;
	if (strcmp(type, "linear") == 0) {
		r->scaling = ST_ROPE_SCALING_LINEAR;
		return need_f64(o, owner, "factor", &r->factor, err);
	}
	if (strcmp(type, "llama3") != 0)
		return st_fail_at(err, ST_ERR_UNSUPPORTED, ST_NO_OFFSET, owner,
		                  "unknown rope scaling \"%.64s\"; known ones are default, linear, llama3", type);
	r->scaling = ST_ROPE_SCALING_LLAMA3;
	ST_TRY(need_f64(o, owner, "factor", &r->factor, err));
	ST_TRY(need_f64(o, owner, "low_freq_factor", &r->low, err));
	ST_TRY(need_f64(o, owner, "high_freq_factor", &r->high, err));
	ST_TRY(st_json_u32(o, ST_NAMES("original_max_position_embeddings"), &r->original, &found, err));
	return found ? ST_OK
	             : st_fail_at(err, ST_ERR_FORMAT, ST_NO_OFFSET, owner,
	                          "original_max_position_embeddings is missing");
}

static bool same_scaling(const struct rope *a, const struct rope *b)
{
	return a->scaling == b->scaling && a->factor == b->factor && a->low == b->low && a->high == b->high
	    && a->original == b->original;
}

enum st_status st_json_rope(const json_t *o, struct st_config *cfg, struct st_error *err)
{
	static const char *const owners[] = { "rope_parameters", "rope_scaling" };
	struct rope all = { .theta = NAN };
	bool found, scaled = false;
	ST_TRY(st_json_f64(o, ST_NAMES("rope_theta"), &all.theta, &found, err));
	for (size_t i = 0; i < 2; i++) {
		const json_t *member = json_object_get(o, owners[i]);
		if (!member || json_is_null(member))
			continue;
		struct rope one = { .theta = NAN };
		ST_TRY(rope_object(member, owners[i], &one, err));
		if (!isnan(one.theta) && !isnan(all.theta) && one.theta != all.theta)
			return st_fail_at(err, ST_ERR_FORMAT, ST_NO_OFFSET, owners[i],
			                  "rope_theta %g contradicts %g elsewhere", one.theta, all.theta);
		if (scaled && !same_scaling(&one, &all))
			return st_fail_at(err, ST_ERR_FORMAT, ST_NO_OFFSET, owners[i], "contradicts %s", owners[0]);
		if (isnan(one.theta))
			one.theta = all.theta;
		all = one;
		scaled = true;
	}
	cfg->rope_theta = all.theta;
	cfg->rope_scaling = all.scaling;
	cfg->rope_factor = all.factor;
	cfg->rope_low_freq = all.low;
	cfg->rope_high_freq = all.high;
	cfg->rope_original_positions = all.original;
	return ST_OK;
}

/* ---- keys that change the arithmetic ---- */

/* Absent, null and false are neutral for every key; so is the number given (0 for most). */
static const struct {
	const char *key;
	double neutral;
} refused[] = {
	{ "mlp_bias", 0 },
	{ "attn_logit_softcapping", 0 },
	{ "final_logit_softcapping", 0 },
	{ "query_pre_attn_scalar", 0 },
	{ "attention_multiplier", 0 },
	{ "clip_qkv", 0 },
	{ "logit_scale", 1 },
	{ "logits_scaling", 1 },
	{ "residual_multiplier", 1 },
	{ "embedding_multiplier", 1 },
	{ "scale_emb", 1 },
	{ "scale_depth", 0 },
	{ "partial_rotary_factor", 1 },
	{ "rotary_pct", 1 },
	{ "num_local_experts", 0 },
	{ "num_experts", 0 },
	{ "n_routed_experts", 0 },
	{ "use_qk_norm", 0 },
	{ "qk_layernorm", 0 },
	{ "attn_temperature_tuning", 0 },
	{ "attention_chunk_size", 0 },
	{ "no_rope_layers", 0 },
	{ "no_rope_layer_interval", 0 },
	{ "rope_interleaved", 0 },
	{ "rope_interleave", 0 },
	{ "use_mrope", 0 },
	{ "alibi", 0 },
	{ "parallel_attn", 0 },
	{ "use_parallel_residual", 0 },
	{ "quantization_config", 0 },
};

enum st_status st_json_refuse(const json_t *o, struct st_error *err)
{
	for (size_t i = 0; i < sizeof refused / sizeof *refused; i++) {
		const json_t *v = json_object_get(o, refused[i].key);
		if (!v || json_is_null(v) || json_is_false(v))
			continue;
		if (json_is_number(v) && json_number_value(v) == refused[i].neutral)
			continue;
		return st_fail_at(err, ST_ERR_UNSUPPORTED, ST_NO_OFFSET, refused[i].key,
		                  "changes the arithmetic in a way Stele does not know for this family");
	}
	const char *act = NULL;
	bool found;
	ST_TRY(st_json_str(o, ST_NAMES("hidden_act", "hidden_activation"), &act, &found, err));
	if (found && strcmp(act, "silu") != 0 && strcmp(act, "swish") != 0)
		return st_fail_at(err, ST_ERR_UNSUPPORTED, ST_NO_OFFSET, "hidden_act",
		                  "\"%.64s\" is not supported; known is silu", act);
	return ST_OK;
}

/* ---- sliding windows ---- */

enum st_status st_json_layer_types(const json_t *o, struct st_config *cfg, struct st_error *err)
{
	static const char key[] = "layer_types";
	const json_t *list = json_object_get(o, key);
	if (!list || json_is_null(list))
		return ST_OK;
	if (!json_is_array(list) || json_array_size(list) != cfg->n_layers)
		return st_fail_at(err, ST_ERR_FORMAT, ST_NO_OFFSET, key, "is no list of %u layers", cfg->n_layers);
	uint32_t from = cfg->n_layers;
	for (uint32_t l = 0; l < cfg->n_layers; l++) {
		const json_t *item = json_array_get(list, l);
		const char *type = json_is_string(item) ? json_string_value(item) : "";
		bool sliding = strcmp(type, "sliding_attention") == 0;
		if (!sliding && strcmp(type, "full_attention") != 0)
			return st_fail_at(err, ST_ERR_UNSUPPORTED, ST_NO_OFFSET, key,
			                  "layer %u is \"%.64s\"; known are full_attention, sliding_attention", l,
			                  type);
		if (sliding && from == cfg->n_layers)
			from = l;
		if (!sliding && from < l)
			return st_fail_at(
				err, ST_ERR_UNSUPPORTED, ST_NO_OFFSET, key,
				"full attention in layer %u after sliding attention in layer %u is not supported", l,
				from);
	}
	if (from < cfg->n_layers && cfg->sliding_window == 0)
		return st_fail_at(err, ST_ERR_FORMAT, ST_NO_OFFSET, key,
		                  "layer %u is sliding_attention, but no window is in use", from);
	cfg->window_from_layer = from;
	if (from == cfg->n_layers)
		cfg->sliding_window = 0;
	return ST_OK;
}

enum st_status st_json_qwen_window(const json_t *o, struct st_config *cfg, struct st_error *err)
{
	bool use = false, found;
	ST_TRY(st_json_bool(o, ST_NAMES("use_sliding_window"), &use, &found, err));
	if (use) {
		ST_TRY(st_json_u32(o, ST_NAMES("sliding_window"), &cfg->sliding_window, &found, err));
		if (!found || cfg->sliding_window == 0)
			return st_fail_at(err, ST_ERR_FORMAT, ST_NO_OFFSET, "sliding_window",
			                  "is missing, but use_sliding_window is true");
		ST_TRY(st_json_u32(o, ST_NAMES("max_window_layers"), &cfg->window_from_layer, &found, err));
		const json_t *types = json_object_get(o, "layer_types");
		if (!found && (!types || json_is_null(types)))
			return st_fail_at(err, ST_ERR_FORMAT, ST_NO_OFFSET, "max_window_layers",
			                  "is missing, but use_sliding_window is true");
	}
	return st_json_layer_types(o, cfg, err);
}
