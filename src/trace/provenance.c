/* provenance.c - what a trace says of itself: __metadata__ of a bundle, trace.json of a tree. One table for both ways.
 */
#include "trace/trace.h"

#include "base/error.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define FIELD(key, member)                                                                             \
	{                                                                                              \
		key, offsetof(struct st_provenance, member), sizeof((struct st_provenance *)0)->member \
	}

static const struct {
	const char *key;
	size_t offset, size;
} fields[] = {
	FIELD("engine", engine),
	FIELD("backend", backend),
	FIELD("mode", mode),
	FIELD("model", model),
	FIELD("model_sha256", model_sha256),
	FIELD("arch", arch),
	FIELD("weights", weights),
	FIELD("rope_layout", rope_layout),
	FIELD("kv_cache", kv_cache),
	FIELD("flash_attention", flash_attention),
	FIELD("activations", activations),
	FIELD("attn_scores.form", attn_scores_form),
	FIELD("tool", tool),
};
#define N_FIELDS (sizeof fields / sizeof *fields)

/* The values of an integer list; json is JSON text or the list itself. */
enum st_status st_list_read(const json_t *v, const char *key, struct st_arena *arena, uint32_t **out, size_t *n,
                            struct st_error *err)
{
	json_t *parsed = NULL;
	if (json_is_string(v)) {
		struct st_error why = ST_ERROR_INIT;
		enum st_status st = st_json_parse(json_string_value(v), json_string_length(v), 0, &parsed, &why);
		if (st != ST_OK)
			return st_fail_at(err, st, ST_NO_OFFSET, key, "is no JSON list: %s", why.message);
		v = parsed;
	}
	enum st_status st = ST_OK;
	size_t count = json_array_size(v);
	uint32_t *list = NULL;
	if (!json_is_array(v))
		st = st_fail_at(err, ST_ERR_FORMAT, ST_NO_OFFSET, key, "is no JSON list of integers");
	else if (!(list = st_arena_alloc(arena, count, sizeof *list)))
		st = st_fail(err, ST_ERR_NOMEM, "out of memory");
	for (size_t i = 0; i < count && st == ST_OK; i++) {
		const json_t *e = json_array_get(v, i);
		json_int_t x = json_integer_value(e);
		if (!json_is_integer(e) || x < 0 || x > UINT32_MAX)
			st = st_fail_at(err, ST_ERR_FORMAT, ST_NO_OFFSET, key,
			                "item %zu is no integer from 0 to 4294967295", i);
		else
			list[i] = (uint32_t)x;
	}
	json_decref(parsed);
	if (st == ST_OK) {
		*out = list;
		*n = count;
	}
	return st;
}

json_t *st_list_write(const uint32_t *v, size_t n)
{
	json_t *list = json_array();
	bool ok = list != NULL;
	for (size_t i = 0; i < n && ok; i++)
		ok = json_array_append_new(list, json_integer(v[i])) == 0;
	char *text = ok ? st_json_print(list, JSON_COMPACT) : NULL;
	json_t *s = text ? json_string(text) : NULL;
	free(text);
	json_decref(list);
	return s;
}

/* The two fields whose value decides how numbers are read. */
static enum st_status check_fields(const struct st_provenance *p, struct st_error *err)
{
	if (p->rope_layout[0] && strcmp(p->rope_layout, "half") != 0 && strcmp(p->rope_layout, "interleaved") != 0)
		return st_fail_at(err, ST_ERR_FORMAT, ST_NO_OFFSET, "rope_layout",
		                  "is \"%s\", neither half nor interleaved", p->rope_layout);
	size_t n = strspn(p->model_sha256, "0123456789abcdefABCDEF");
	if (p->model_sha256[0] && (n != 64 || p->model_sha256[n]))
		return st_fail_at(err, ST_ERR_FORMAT, ST_NO_OFFSET, "model_sha256", "is not 64 hexadecimal digits");
	return ST_OK;
}

enum st_status st_provenance_read(const json_t *meta, struct st_provenance *p, struct st_arena *arena,
                                  struct st_error *err)
{
	const json_t *version = json_object_get(meta, "version");
	if (version && (!json_is_string(version) || strcmp(json_string_value(version), "1") != 0))
		return st_fail_at(err, ST_ERR_UNSUPPORTED, ST_NO_OFFSET, "version",
		                  "is not \"1\", the only version there is");
	for (size_t i = 0; i < N_FIELDS; i++) {
		const json_t *v = json_object_get(meta, fields[i].key);
		if (!v)
			continue;
		if (!json_is_string(v))
			return st_fail_at(err, ST_ERR_FORMAT, ST_NO_OFFSET, fields[i].key, "is not a string");
		/* Too long a text is for people only and may be cut, but not inside a character. */
		const char *s = json_string_value(v);
		size_t len = strlen(s), room = fields[i].size - 1;
		for (len = len < room ? len : room; len > 0 && ((unsigned char)s[len] & 0xC0) == 0x80;)
			len--;
		memcpy((char *)p + fields[i].offset, s, len);
	}
	ST_TRY(check_fields(p, err));
	const json_t *prompt = json_object_get(meta, "prompt"), *tokens = json_object_get(meta, "tokens"),
		     *steps = json_object_get(meta, "steps.tokens"), *heads = json_object_get(meta, "heads");
	if (prompt && !json_is_string(prompt))
		return st_fail_at(err, ST_ERR_FORMAT, ST_NO_OFFSET, "prompt", "is not a string");
	if (prompt && !(p->prompt = st_arena_strndup(arena, json_string_value(prompt), json_string_length(prompt))))
		return st_fail(err, ST_ERR_NOMEM, "out of memory");
	if (tokens)
		ST_TRY(st_list_read(tokens, "tokens", arena, &p->tokens, &p->n_tokens, err));
	if (tokens && p->n_tokens == 0)
		return st_fail_at(err, ST_ERR_FORMAT, ST_NO_OFFSET, "tokens", "is empty");
	if (heads) {
		uint32_t *list;
		size_t n;
		ST_TRY(st_list_read(heads, "heads", arena, &list, &n, err));
		if (n != 3 || list[0] == 0 || list[1] == 0 || list[2] == 0)
			return st_fail_at(err, ST_ERR_FORMAT, ST_NO_OFFSET, "heads",
			                  "is no [query heads, key-value heads, head size]");
		memcpy(p->heads, list, sizeof p->heads);
	}
	if (steps)
		ST_TRY(st_list_read(steps, "steps.tokens", arena, &p->step_tokens, &p->n_steps, err));
	return ST_OK;
}

json_t *st_provenance_write(const struct st_provenance *p)
{
	json_t *o = json_object();
	bool ok = o && json_object_set_new(o, "format", json_string("stele-trace")) == 0
	       && json_object_set_new(o, "version", json_string("1")) == 0
	       && json_object_set_new(o, "tokens", st_list_write(p->tokens, p->n_tokens)) == 0;
	if (ok && p->heads[0])
		ok = json_object_set_new(o, "heads", st_list_write(p->heads, 3)) == 0;
	if (ok && p->prompt)
		ok = json_object_set_new(o, "prompt", json_string(p->prompt)) == 0;
	for (size_t i = 0; i < N_FIELDS && ok; i++) {
		const char *s = (const char *)p + fields[i].offset;
		if (s[0])
			ok = json_object_set_new(o, fields[i].key, json_string(s)) == 0;
	}
	if (!ok) {
		json_decref(o);
		return NULL;
	}
	return o;
}
