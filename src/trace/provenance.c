/* provenance.c - what a trace says of itself: __metadata__ of a bundle, trace.json of a tree. One table for both ways.
 */
#include "trace/trace.h"

#include "base/error.h"

#include <stdlib.h>
#include <string.h>

#define AT(m) ST_JSON_AT(struct st_provenance, m)
/* Texts are for people: too long a one is cut. */
static const struct st_json_field fields[] = {
	{ AT(engine), .key = { "engine" } },
	{ AT(backend), .key = { "backend" } },
	{ AT(mode), .key = { "mode" } },
	{ AT(model), .key = { "model" } },
	{ AT(model_sha256), .key = { "model_sha256" } },
	{ AT(arch), .key = { "arch" } },
	{ AT(weights), .key = { "weights" } },
	{ AT(rope_layout), .key = { "rope_layout" } },
	{ AT(kv_cache), .key = { "kv_cache" } },
	{ AT(flash_attention), .key = { "flash_attention" } },
	{ AT(activations), .key = { "activations" } },
	{ AT(attn_scores_form), .key = { "attn_scores.form" } },
	{ AT(tool), .key = { "tool" } },
};
#define N_FIELDS (sizeof fields / sizeof *fields)

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
	const char *prompt = NULL;
	const json_t *version = json_object_get(meta, "version"), *tokens = json_object_get(meta, "tokens"),
		     *steps = json_object_get(meta, "steps.tokens"), *heads = json_object_get(meta, "heads");
	const struct st_json_field prompt_field = { ST_JSON_IN(prompt), .key = { "prompt" } };
	if (version && (!json_is_string(version) || strcmp(json_string_value(version), "1") != 0))
		return st_fail_at(err, ST_ERR_UNSUPPORTED, ST_NO_OFFSET, "version",
		                  "is not \"1\", the only version there is");
	ST_TRY(st_json_read(meta, NULL, fields, N_FIELDS, p, NULL, err));
	ST_TRY(check_fields(p, err));
	ST_TRY(st_json_read_one(meta, NULL, &prompt_field, &prompt, NULL, err));
	if (prompt && !(p->prompt = st_arena_strndup(arena, prompt, strlen(prompt))))
		return st_fail(err, ST_ERR_NOMEM, "out of memory");
	if (tokens)
		ST_TRY(st_json_u32s(tokens, "tokens", arena, &p->tokens, &p->n_tokens, err));
	if (tokens && p->n_tokens == 0)
		return st_fail_at(err, ST_ERR_FORMAT, ST_NO_OFFSET, "tokens", "is empty");
	if (heads) {
		uint32_t *list;
		size_t n;
		ST_TRY(st_json_u32s(heads, "heads", arena, &list, &n, err));
		if (n != 3 || list[0] == 0 || list[1] == 0 || list[2] == 0)
			return st_fail_at(err, ST_ERR_FORMAT, ST_NO_OFFSET, "heads",
			                  "is no [query heads, key-value heads, head size]");
		memcpy(p->heads, list, sizeof p->heads);
	}
	return steps ? st_json_u32s(steps, "steps.tokens", arena, &p->step_tokens, &p->n_steps, err) : ST_OK;
}

json_t *st_provenance_write(const struct st_provenance *p)
{
	json_t *o = json_object();
	bool ok = o && json_object_set_new(o, "format", json_string("stele-trace")) == 0
	       && json_object_set_new(o, "version", json_string("1")) == 0
	       && json_object_set_new(o, "tokens", st_list_write(p->tokens, p->n_tokens)) == 0;
	if (ok && p->heads[0] && p->heads[1] && p->heads[2]) /* latents have no one size of heads */
		ok = json_object_set_new(o, "heads", st_list_write(p->heads, 3)) == 0;
	if (ok && p->prompt)
		ok = json_object_set_new(o, "prompt", json_string(p->prompt)) == 0;
	for (size_t i = 0; i < N_FIELDS && ok; i++) {
		const char *s = (const char *)p + fields[i].offset;
		if (s[0])
			ok = json_object_set_new(o, fields[i].key[0], json_string(s)) == 0;
	}
	if (!ok) {
		json_decref(o);
		return NULL;
	}
	return o;
}
