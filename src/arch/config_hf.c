/* config_hf.c - config.json of a Hugging Face folder. */
#include "arch/config.h"

#include "base/error.h"

#include <string.h>

/* model_type decides; without it the first of "architectures". */
static enum st_status family(const json_t *o, const struct st_arch **arch, struct st_config *cfg, struct st_error *err)
{
	const char *name = NULL, *key = NULL;
	const struct st_json_field f = { ST_JSON_IN(name), .key = { "model_type" } };
	ST_TRY(st_json_read_one(o, NULL, &f, &name, &key, err));
	if (!name) {
		key = "architectures";
		name = json_string_value(json_array_get(json_object_get(o, key), 0));
	}
	if (!name)
		return st_fail_at(err, ST_ERR_FORMAT, ST_NO_OFFSET, "model_type", "is missing");
	st_config_said(cfg, ST_CONFIG_ARCH, key, true);
	*arch = st_arch_find(name, strlen(name));
	return *arch ? ST_OK : st_config_unknown_family(key, name, strlen(name), err);
}

/* How weights are packed is no matter of arithmetic where they have been put together (format/packed.c). */
static enum st_status check_packing(const struct st_container *c, struct st_error *err)
{
	const json_t *q = json_object_get(c->docs.config, "quantization_config");
	bool decoded = false;
	for (size_t i = 0; i < c->n_tensors && !decoded; i++)
		decoded = c->tensors[i].layout == ST_LAYOUT_APART;
	if (!q || json_is_null(q) || json_is_false(q) || decoded)
		return ST_OK;
	return st_fail_at(err, ST_ERR_UNSUPPORTED, ST_NO_OFFSET, "quantization_config",
	                  "speaks of packed weights, and there are none that Stele can put together");
}

enum st_status st_config_hf(const struct st_container *c, struct st_config *cfg, const struct st_arch **arch,
                            struct st_error *err)
{
	const json_t *o = c->docs.config;
	if (!json_is_object(o))
		return st_fail(err, ST_ERR_FORMAT, "config.json is no object");
	ST_TRY(family(o, arch, cfg, err));
	ST_TRY(check_packing(c, err));
	/* All known families have separate heads unless the file says otherwise. */
	ST_TRY(st_config_json(o, false, cfg, err));
	/* What generation ends at stands there, if anywhere; config.json may keep the base model's. */
	return c->docs.generation_config ? st_config_json_id(c->docs.generation_config, false, ST_CONFIG_EOS, cfg, err)
	                                 : ST_OK;
}
