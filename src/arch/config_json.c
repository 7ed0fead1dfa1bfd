/* config_json.c - a configuration in JSON: what config.json and APR metadata share. What is wrong is named, never
 * defaulted. */
#include "arch/config.h"

#include "base/error.h"

#include <math.h>
#include <string.h>

const json_t *st_config_object(const struct st_container *c)
{
	if (c->format == ST_FORMAT_GGUF)
		return NULL;
	return c->format == ST_FORMAT_APR ? c->docs.metadata : c->docs.config;
}

enum st_status st_config_json_member(const json_t *o, bool apr, enum st_config_member m, struct st_config *cfg,
                                     bool *found, struct st_error *err)
{
	const struct st_json_field f = st_config_json_field(m, apr);
	const char *key;
	ST_TRY(st_json_read_one(o, NULL, &f, cfg, &key, err));
	*found = key != NULL;
	st_config_said(cfg, m, *found ? key : f.key[0], *found);
	return ST_OK;
}

void st_config_ends_at(struct st_config *cfg, int64_t id)
{
	bool known = id < 0 || cfg->eos == id;
	for (uint32_t i = 0; i < cfg->n_eos_also; i++)
		known |= cfg->eos_also[i] == id;
	if (!known && cfg->n_eos_also < sizeof cfg->eos_also / sizeof *cfg->eos_also)
		cfg->eos_also[cfg->n_eos_also++] = id;
}

enum st_status st_config_json_id(const json_t *o, bool apr, enum st_config_member m, struct st_config *cfg,
                                 struct st_error *err)
{
	struct st_json_field f = st_config_json_field(m, apr);
	const json_t *v = NULL;
	const char *key;
	int64_t *to = m == ST_CONFIG_BOS ? &cfg->bos : &cfg->eos;
	f.type = ST_JSON_VALUE;
	f.offset = 0;
	ST_TRY(st_json_read_one(o, NULL, &f, &v, &key, err));
	if (!cfg->origin[m].said)
		st_config_said(cfg, m, key ? key : f.key[0], key != NULL);
	size_t n = json_is_array(v) ? json_array_size(v) : v ? 1 : 0;
	for (size_t i = 0; i < n; i++) {
		const json_t *item = json_is_array(v) ? json_array_get(v, i) : v;
		if (!json_is_integer(item))
			return st_json_bad(o, NULL, key, "not a token id or a list of them", err);
		int64_t id = json_integer_value(item);
		if (id >= 0 && *to < 0)
			*to = id;
		else if (m == ST_CONFIG_EOS)
			st_config_ends_at(cfg, id);
	}
	return ST_OK;
}

/* ---- rotary embedding ---- */

struct rope {
	double theta; /* NaN: not given */
	const char *type;
	double factor, low, high, partial;
	uint32_t original;
	enum st_rope_scaling scaling;
};

#define AT(m) ST_JSON_AT(struct rope, m)
static const struct st_json_field rope_fields[] = {
	{ AT(theta), .key = { "rope_theta" } },       { AT(partial), .key = { "partial_rotary_factor" } },
	{ AT(type), .key = { "rope_type", "type" } }, /* "type" in early files */
	{ AT(factor), .key = { "factor" } },          { AT(low), .key = { "low_freq_factor" } },
	{ AT(high), .key = { "high_freq_factor" } },  { AT(original), .key = { "original_max_position_embeddings" } },
};
enum { THETA, PARTIAL, TYPE, FACTOR, LOW, HIGH, ORIGINAL, N_ROPE_FIELDS };

/* One of the two objects. */
static enum st_status rope_object(const json_t *o, const char *owner, struct rope *r, struct st_error *err)
{
	static const int linear[] = { FACTOR, -1 }, llama3[] = { FACTOR, LOW, HIGH, ORIGINAL, -1 };
	const struct st_json_read how = { .where = owner };
	const char *spelled[N_ROPE_FIELDS], *key;
	json_t *member;
	json_object_foreach((json_t *)(uintptr_t)o, key, member)
	{
		if (json_is_object(member))
			return st_fail_at(err, ST_ERR_UNSUPPORTED, ST_NO_OFFSET, owner,
			                  "differs between layers (\"%s\"), which no known family has", key);
	}
	ST_TRY(st_json_read(o, &how, rope_fields, N_ROPE_FIELDS, r, spelled, err));
	if (r->partial != 1)
		return st_fail_at(err, ST_ERR_UNSUPPORTED, ST_NO_OFFSET, owner,
		                  "partial_rotary_factor %g is not supported", r->partial);
	if (!r->type && spelled[FACTOR])
		return st_json_bad(o, &how, "rope_type", "", err);
	if (!r->type || strcmp(r->type, "default") == 0)
		return ST_OK;
	r->scaling = strcmp(r->type, "linear") == 0 ? ST_ROPE_SCALING_LINEAR
	           : strcmp(r->type, "llama3") == 0 ? ST_ROPE_SCALING_LLAMA3
	                                            : ST_ROPE_SCALING_NONE;
	if (r->scaling == ST_ROPE_SCALING_NONE)
		return st_fail_at(err, ST_ERR_UNSUPPORTED, ST_NO_OFFSET, owner,
		                  "unknown rope scaling \"%.64s\"; known ones are default, linear, llama3", r->type);
	for (const int *need = r->scaling == ST_ROPE_SCALING_LINEAR ? linear : llama3; *need >= 0; need++)
		if (!spelled[*need])
			return st_json_bad(o, &how, rope_fields[*need].key[0], "", err);
	if (r->scaling == ST_ROPE_SCALING_LINEAR) { /* what else stands there means nothing */
		r->low = r->high = 0;
		r->original = 0;
	}
	return ST_OK;
}

static bool same_scaling(const struct rope *a, const struct rope *b)
{
	return a->scaling == b->scaling && a->factor == b->factor && a->low == b->low && a->high == b->high
	    && a->original == b->original;
}

/* Where theta and the scaling were found: "rope_parameters.rope_theta". */
static void rope_origins(struct st_config *cfg, const char *theta_in, const char *scaling_in)
{
	static const enum st_config_member scaling[] = { ST_CONFIG_ROPE_FACTOR, ST_CONFIG_ROPE_LOW_FREQ,
		                                         ST_CONFIG_ROPE_HIGH_FREQ, ST_CONFIG_ROPE_ORIGINAL_POSITIONS };
	struct st_key_text k;
	snprintf(k.text, sizeof k.text, "%s%srope_theta", theta_in ? theta_in : "", theta_in && theta_in[0] ? "." : "");
	st_config_said(cfg, ST_CONFIG_ROPE_THETA, k.text, theta_in != NULL);
	st_config_said(cfg, ST_CONFIG_ROPE_SCALING, scaling_in ? scaling_in : "rope_scaling", scaling_in != NULL);
	for (size_t i = 0; i < sizeof scaling / sizeof *scaling; i++) {
		const char *key = strchr(st_config_rows[scaling[i]].field.key[0], '.');
		snprintf(k.text, sizeof k.text, "%s%s", scaling_in ? scaling_in : "rope_scaling", key);
		st_config_said(cfg, scaling[i], k.text, scaling_in && cfg->rope_scaling != ST_ROPE_SCALING_NONE);
	}
}

/* rope_theta, rope_scaling (4.x) and rope_parameters (transformers 5), which must agree. */
static enum st_status read_rope(const json_t *o, struct st_config *cfg, struct st_error *err)
{
	static const char *const owners[] = { "rope_parameters", "rope_scaling" };
	const struct rope none = { .theta = NAN, .partial = 1 };
	struct rope all = none;
	const char *theta_in = NULL, *scaling_in = NULL;
	ST_TRY(st_json_read_one(o, NULL, &rope_fields[THETA], &all, &theta_in, err));
	theta_in = theta_in ? "" : NULL;
	for (size_t i = 0; i < 2; i++) {
		const json_t *member = NULL;
		const struct st_json_field f = { ST_JSON_IN(member), .key = { owners[i] } };
		ST_TRY(st_json_read_one(o, NULL, &f, &member, NULL, err));
		if (!member)
			continue;
		if (!json_is_object(member))
			return st_json_bad(o, NULL, owners[i], "not an object", err);
		struct rope one = none;
		ST_TRY(rope_object(member, owners[i], &one, err));
		if (!isnan(one.theta) && !isnan(all.theta) && one.theta != all.theta)
			return st_fail_at(err, ST_ERR_FORMAT, ST_NO_OFFSET, owners[i],
			                  "rope_theta %g contradicts %g elsewhere", one.theta, all.theta);
		if (scaling_in && !same_scaling(&one, &all))
			return st_fail_at(err, ST_ERR_FORMAT, ST_NO_OFFSET, owners[i], "contradicts %s", owners[0]);
		if (isnan(one.theta))
			one.theta = all.theta;
		else
			theta_in = owners[i];
		all = one;
		scaling_in = owners[i];
	}
	cfg->rope_theta = all.theta;
	cfg->rope_scaling = all.scaling;
	cfg->rope_factor = all.scaling == ST_ROPE_SCALING_NONE ? 0 : all.factor;
	cfg->rope_low_freq = all.low;
	cfg->rope_high_freq = all.high;
	cfg->rope_original_positions = all.original;
	rope_origins(cfg, theta_in, scaling_in);
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
};

static enum st_status refuse_unknown_arithmetic(const json_t *o, struct st_error *err)
{
	static const char *const activations[] = { "silu", "swish", NULL };
	for (size_t i = 0; i < sizeof refused / sizeof *refused; i++) {
		const json_t *v = json_object_get(o, refused[i].key);
		if (!v || json_is_null(v) || json_is_false(v))
			continue;
		if (json_is_number(v) && json_number_value(v) == refused[i].neutral)
			continue;
		return st_fail_at(err, ST_ERR_UNSUPPORTED, ST_NO_OFFSET, refused[i].key,
		                  "changes the arithmetic in a way Stele does not know for this family");
	}
	const char *act = activations[0], *key = NULL;
	const struct st_json_field f = { ST_JSON_IN(act), .key = { "hidden_act", "hidden_activation" } };
	ST_TRY(st_json_read_one(o, NULL, &f, &act, &key, err));
	if (strcmp(act, activations[0]) != 0 && strcmp(act, activations[1]) != 0)
		return st_fail_at(err, ST_ERR_UNSUPPORTED, ST_NO_OFFSET, key,
		                  "\"%.64s\" is not supported; known is silu", act);
	return ST_OK;
}

enum st_status st_config_json_names(const json_t *o, bool apr, struct st_config *cfg, struct st_error *err)
{
	bool found;
	ST_TRY(st_config_json_id(o, apr, ST_CONFIG_BOS, cfg, err));
	ST_TRY(st_config_json_id(o, apr, ST_CONFIG_EOS, cfg, err));
	return st_config_json_member(o, apr, ST_CONFIG_NAME, cfg, &found, err);
}

enum st_status st_config_json(const json_t *o, bool apr, struct st_config *cfg, struct st_error *err)
{
	bool found;
	ST_TRY(refuse_unknown_arithmetic(o, err));
	for (int m = 0; m < ST_CONFIG_MEMBERS; m++)
		if (st_config_rows[m].flags & ST_KEY_JSON)
			ST_TRY(st_config_json_member(o, apr, (enum st_config_member)m, cfg, &found, err));
	cfg->tie_said = !cfg->origin[ST_CONFIG_TIED].said ? ST_TIE_UNSAID : cfg->tied ? ST_TIE_YES : ST_TIE_NO;
	ST_TRY(read_rope(o, cfg, err));
	return st_config_json_names(o, apr, cfg, err);
}

/* ---- sliding windows ---- */

enum st_status st_config_layer_types(const json_t *o, struct st_config *cfg, struct st_error *err)
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

enum st_status st_config_qwen_window(const json_t *o, struct st_config *cfg, struct st_error *err)
{
	bool use = false, found;
	const char *key;
	const struct st_json_field f = { ST_JSON_IN(use), .key = { "use_sliding_window" } };
	ST_TRY(st_json_read_one(o, NULL, &f, &use, &key, err));
	st_config_said(cfg, ST_CONFIG_SLIDING_WINDOW, f.key[0], key != NULL);
	if (use) {
		ST_TRY(st_config_json_member(o, false, ST_CONFIG_SLIDING_WINDOW, cfg, &found, err));
		if (!found || cfg->sliding_window == 0)
			return st_fail_at(err, ST_ERR_FORMAT, ST_NO_OFFSET, "sliding_window",
			                  "is missing, but use_sliding_window is true");
		ST_TRY(st_config_json_member(o, false, ST_CONFIG_WINDOW_FROM_LAYER, cfg, &found, err));
		const json_t *types = json_object_get(o, "layer_types");
		if (!found && (!types || json_is_null(types)))
			return st_fail_at(err, ST_ERR_FORMAT, ST_NO_OFFSET, "max_window_layers",
			                  "is missing, but use_sliding_window is true");
	}
	return st_config_layer_types(o, cfg, err);
}
