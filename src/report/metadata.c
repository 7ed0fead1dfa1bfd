#include "report/metadata.h"

#include "format/container.h"
#include "report/json.h"
#include "report/table.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

/* Elements of a list, and bytes of a text, that the table shows. */
enum { SHOWN = 6, SHOWN_BYTES = 96 };

/* ---- GGUF's typed keys ---- */

static json_t *scalar(enum st_kv_type type, const uint8_t *p)
{
	int64_t v;
	bool big;
	if (st_kv_integer(type, p, &v, &big))
		return big ? st_json_u64((uint64_t)v) : json_integer(v);
	return type == ST_KV_BOOL ? json_boolean(*p != 0) : st_json_number(st_kv_number(type, p));
}

/* The value of a key; of a list at most `most` elements. */
static json_t *value_of(const struct st_kv *kv, uint64_t most)
{
	const uint8_t *p = kv->data;
	size_t len;
	if (kv->type == ST_KV_STR) {
		const char *s = st_kv_next_str(&p, &len);
		return st_json_textn(s, len);
	}
	if (kv->type != ST_KV_ARR)
		return scalar(kv->type, p);
	json_t *list = json_array();
	for (uint64_t i = 0; i < kv->count && i < most; i++) {
		if (kv->elem == ST_KV_STR) {
			const char *s = st_kv_next_str(&p, &len);
			st_json_add(list, st_json_textn(s, len));
		} else {
			st_json_add(list, scalar(kv->elem, p));
			p += st_kv_size(kv->elem);
		}
	}
	return list;
}

/* ---- all of them ---- */

static const struct document {
	const char *name;
	size_t offset; /* of struct st_documents */
} documents[] = {
	{ "metadata", offsetof(struct st_documents, metadata) },
	{ "config.json", offsetof(struct st_documents, config) },
	{ "generation_config.json", offsetof(struct st_documents, generation_config) },
	{ "tokenizer_config.json", offsetof(struct st_documents, tokenizer_config) },
	{ "tokenizer.json", offsetof(struct st_documents, tokenizer) },
};

static json_t *document_of(const struct st_container *c, const struct document *d)
{
	return *(json_t *const *)((const char *)&c->docs + d->offset);
}

json_t *st_report_metadata_json(const struct st_container *c)
{
	json_t *all = json_object();
	if (c->keys.n) {
		json_t *gguf = json_object();
		for (size_t i = 0; i < c->keys.n; i++)
			st_json_put(gguf, c->keys.kv[i].key, value_of(&c->keys.kv[i], UINT64_MAX));
		st_json_put(all, "gguf", gguf);
	}
	for (size_t i = 0; i < sizeof documents / sizeof *documents; i++)
		if (document_of(c, documents + i))
			st_json_put(all, documents[i].name, json_incref(document_of(c, documents + i)));
	json_t *j = st_json_object({ "path", st_json_text(st_container_path(c)) },
	                           { "format", json_string(st_container_describe(c)) }, { "documents", all });
	if (st_json_ok(j))
		return j;
	json_decref(j);
	return NULL;
}

/* A value on one line, cut where it is long. `n`: elements of a list, which may hold fewer here. */
static void cell(struct st_table *t, json_t *v, uint64_t n)
{
	json_t *few = NULL;
	if (json_is_array(v) && n > SHOWN) {
		few = json_array();
		for (size_t i = 0; i < SHOWN; i++)
			json_array_append(few, json_array_get(v, i));
	}
	char *s = st_json_print(few ? few : v, JSON_COMPACT | JSON_ENCODE_ANY | JSON_REAL_PRECISION(9));
	if (!s)
		t->text.failed = true;
	else if (json_is_object(v) && strlen(s) > SHOWN_BYTES)
		st_table_cellf(t, ST_STYLE_DIM, "{ %zu members }", json_object_size(v));
	else if (few)
		st_table_cellf(t, ST_STYLE_PLAIN, "%.*s ... of %" PRIu64, SHOWN_BYTES, s, n);
	else if (strlen(s) > SHOWN_BYTES)
		st_table_cellf(t, ST_STYLE_PLAIN, "%.*s... of %zu bytes", SHOWN_BYTES, s, strlen(s));
	else
		st_table_cell(t, ST_STYLE_PLAIN, s);
	free(s);
	json_decref(few);
}

static void gguf_keys(const struct st_container *c, struct st_text *out, const struct st_page *page)
{
	struct st_table t;
	st_table_init(&t, "lll");
	for (size_t i = 0; i < c->keys.n; i++) {
		const struct st_kv *kv = &c->keys.kv[i];
		json_t *v = value_of(kv, SHOWN + 1);
		st_table_cell(&t, ST_STYLE_PLAIN, kv->key);
		if (kv->type == ST_KV_ARR)
			st_table_cellf(&t, ST_STYLE_DIM, "%s[%" PRIu64 "]", st_kv_type_name(kv->elem), kv->count);
		else
			st_table_cell(&t, ST_STYLE_DIM, st_kv_type_name(kv->type));
		cell(&t, v, kv->count);
		json_decref(v);
	}
	st_table_render(&t, out, "  ", page);
	st_table_release(&t);
}

static void members(json_t *o, struct st_text *out, const struct st_page *page)
{
	struct st_table t;
	const char *key;
	json_t *v;
	st_table_init(&t, "ll");
	json_object_foreach(o, key, v)
	{
		st_table_cell(&t, ST_STYLE_PLAIN, key);
		cell(&t, v, json_array_size(v));
	}
	st_table_render(&t, out, "  ", page);
	st_table_release(&t);
}

void st_report_metadata(const struct st_container *c, struct st_text *out, const struct st_page *page)
{
	st_text_add_safe(out, st_container_path(c), strlen(st_container_path(c)));
	st_text_printf(out, "   %s\n", st_container_describe(c));
	bool any = c->keys.n > 0;
	gguf_keys(c, out, page);
	for (size_t i = 0; i < sizeof documents / sizeof *documents; i++) {
		json_t *o = document_of(c, documents + i);
		if (!o)
			continue;
		any = true;
		st_text_printf(out, "%s\n", documents[i].name);
		members(o, out, page);
	}
	if (!any)
		st_text_puts(out, "  no metadata\n");
}
