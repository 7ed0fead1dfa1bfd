/* config_names.c - what a file says beside the arithmetic: the model's name, and where its texts begin and end. */
#include "arch/config.h"

#include "base/error.h"

#include <string.h>

/* ---- JSON: config.json and the metadata of APR files ---- */

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

enum st_status st_config_json_names(const json_t *o, bool apr, struct st_config *cfg, struct st_error *err)
{
	bool found;
	ST_TRY(st_config_json_id(o, apr, ST_CONFIG_BOS, cfg, err));
	ST_TRY(st_config_json_id(o, apr, ST_CONFIG_EOS, cfg, err));
	return st_config_json_member(o, apr, ST_CONFIG_NAME, cfg, &found, err);
}

/* ---- GGUF ---- */

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
