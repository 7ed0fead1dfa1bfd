/* config_hf.c - config.json of a Hugging Face folder. */
#include "arch/config.h"

#include "base/error.h"

#include <string.h>

static const struct st_json_field fields[] = {
	{ offsetof(struct st_config, n_layers), true, { "num_hidden_layers" } },
	{ offsetof(struct st_config, hidden), true, { "hidden_size" } },
	{ offsetof(struct st_config, n_heads), true, { "num_attention_heads" } },
	{ offsetof(struct st_config, n_kv_heads), false, { "num_key_value_heads" } },
	{ offsetof(struct st_config, head_dim), false, { "head_dim" } },
	{ offsetof(struct st_config, ffn), true, { "intermediate_size" } },
	{ offsetof(struct st_config, vocab), true, { "vocab_size" } },
	{ offsetof(struct st_config, max_positions), false, { "max_position_embeddings" } },
};

/* model_type decides; without it the first of "architectures". */
static enum st_status family(const json_t *o, const struct st_arch **arch, struct st_error *err)
{
	const char *name = NULL, *key = "model_type";
	bool found;
	ST_TRY(st_json_str(o, ST_NAMES("model_type"), &name, &found, err));
	if (!found) {
		key = "architectures";
		const json_t *first = json_array_get(json_object_get(o, key), 0);
		if (!json_is_string(first))
			return st_fail_at(err, ST_ERR_FORMAT, ST_NO_OFFSET, "model_type", "is missing");
		name = json_string_value(first);
	}
	*arch = st_arch_find(name, strlen(name));
	return *arch ? ST_OK : st_config_unknown_family(key, name, strlen(name), err);
}

enum st_status st_config_hf(const struct st_container *c, struct st_config *cfg, const struct st_arch **arch,
                            struct st_error *err)
{
	const json_t *o = c->config;
	bool found;
	const char *name = NULL;
	if (!json_is_object(o))
		return st_fail(err, ST_ERR_FORMAT, "config.json is no object");
	ST_TRY(family(o, arch, err));
	ST_TRY(st_json_refuse(o, err));
	ST_TRY(st_json_fields(o, fields, sizeof fields / sizeof *fields, cfg, err));
	ST_TRY(st_json_f64(o, ST_NAMES("rms_norm_eps"), &cfg->norm_eps, &found, err));
	if (!found)
		return st_fail_at(err, ST_ERR_FORMAT, ST_NO_OFFSET, "rms_norm_eps", "is missing");
	ST_TRY(st_json_rope(o, cfg, err));
	/* All known families have separate heads unless the file says otherwise. */
	ST_TRY(st_json_bool(o, ST_NAMES("tie_word_embeddings"), &cfg->tied, &found, err));
	cfg->tie_said = !found ? ST_TIE_UNSAID : cfg->tied ? ST_TIE_YES : ST_TIE_NO;
	ST_TRY(st_json_id(o, ST_NAMES("bos_token_id"), &cfg->bos, err));
	ST_TRY(st_json_id(o, ST_NAMES("eos_token_id"), &cfg->eos, err));
	ST_TRY(st_json_str(o, ST_NAMES("_name_or_path"), &name, &found, err));
	if (found)
		snprintf(cfg->name, sizeof cfg->name, "%s", name);
	return ST_OK;
}
