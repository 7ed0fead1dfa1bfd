/* described_keys.c - the keys of a description, read from what a container carries. */
#include "arch/described.h"

#include "base/error.h"
#include "json/json.h"

#include <stele/family.h>

#include <float.h>
#include <inttypes.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAX_LIST 4096u /* layers */

enum st_status(st_described_fail)(const struct st_described *d, uint32_t line, struct st_error *err, const char *fmt,
                                  ...)
{
	va_list ap;
	va_start(ap, fmt);
	enum st_status st = st_family_vfail(d->family->file, line, ST_ERR_FORMAT, err, fmt, ap);
	va_end(ap);
	return st;
}

/* ---- what kind of file ---- */

static enum st_spelling spelling_of(const struct st_container *c)
{
	return c->format == ST_FORMAT_GGUF  ? ST_SPELLING_GGUF
	     : c->format == ST_FORMAT_APR ? ST_SPELLING_APR
	                                  : ST_SPELLING_CONFIG;
}

const json_t *st_described_config(const struct st_container *c)
{
	const json_t *o = c->format == ST_FORMAT_APR ? c->docs.metadata : c->docs.config;
	const json_t *text = json_object_get(o, "text_config");
	return json_is_object(text) ? text : o;
}

static bool text_of(const struct st_container *c, const char *key, const char **s, size_t *n)
{
	const json_t *o = st_described_config(c), *v = json_object_get(o, key);
	if (json_is_array(v))
		v = json_array_get(v, 0);
	*s = json_is_string(v) ? json_string_value(v) : NULL;
	*n = *s ? json_string_length(v) : 0;
	return *s != NULL;
}

/*
 * What the file calls its family, and under which key; GGUF's text lies in the map. In the metadata of APR files
 * "model_type" may be a writer's word of its own ("transformer_lm_q4k").
 */
static enum st_status architecture(const struct st_container *c, const char **key, const char **s, size_t *n,
                                   struct st_error *err)
{
	static const char *const keys[][3] = { [ST_SPELLING_GGUF] = { "general.architecture" },
		                               [ST_SPELLING_CONFIG] = { "model_type", "architecture", "architectures" },
		                               [ST_SPELLING_APR] = { "architecture", "model_type" } };
	const char *const *k = keys[spelling_of(c)];
	bool found;
	*key = k[0];
	*s = NULL;
	*n = 0;
	if (c->format == ST_FORMAT_GGUF)
		return st_kv_str(&c->keys, k[0], s, n, &found, err);
	for (size_t i = 0; i < 3 && k[i] && !*s; i++)
		if (text_of(c, k[i], s, n))
			*key = k[i];
	const json_t *other = json_object_get(st_described_config(c), k[0]);
	return *s || !other || json_is_null(other)
	             ? ST_OK
	             : st_fail_at(err, ST_ERR_FORMAT, ST_NO_OFFSET, k[0], "is no string");
}

const char *st_described_arch_key(const struct st_container *c)
{
	struct st_error none = ST_ERROR_INIT;
	const char *key, *s;
	size_t n;
	(void)architecture(c, &key, &s, &n, &none);
	return key;
}

enum st_status st_described_unknown(const struct st_container *c, struct st_error *err)
{
	const char *key, *s;
	size_t n;
	ST_TRY(architecture(c, &key, &s, &n, err));
	if (!s)
		return st_fail_at(err, ST_ERR_FORMAT, ST_NO_OFFSET, key, "is missing");
	return st_fail_at(err, ST_ERR_UNSUPPORTED, ST_NO_OFFSET, key,
	                  "unknown model family \"%.*s\": none of the %zu that stele family list shows",
	                  (int)(n < 64 ? n : 64), s, st_family_count());
}

/* "llama if expert_count": whether the key is there and not 0. */
static enum st_status condition(const struct st_container *c, const struct st_family_name *name, bool *holds,
                                struct st_error *err)
{
	char key[192];
	double v = 0;
	bool found;
	*holds = true;
	if (!name->key)
		return ST_OK;
	snprintf(key, sizeof key, "%.90s.%.90s", name->name, name->key);
	const struct st_kv *kv = st_kv_find(&c->keys, key);
	found = kv != NULL;
	if (kv && kv->type == ST_KV_BOOL)
		v = st_kv_number(kv->type, kv->data);
	else
		ST_TRY(st_kv_f64(&c->keys, key, &v, &found, err));
	*holds = (found && v != 0) != name->unless;
	return ST_OK;
}

/* The name of the family that fits; NULL: the file is of another one. */
static enum st_status called(const struct st_container *c, const struct st_family *f, const char **out,
                             struct st_error *err)
{
	enum st_spelling where = spelling_of(c);
	const char *s, *key;
	size_t n;
	*out = NULL;
	ST_TRY(architecture(c, &key, &s, &n, err));
	for (uint32_t i = 0; s && i < f->n_names[where] && !*out; i++) {
		const struct st_family_name *name = &f->names[where][i];
		bool holds = strlen(name->name) == n && memcmp(name->name, s, n) == 0;
		if (holds)
			ST_TRY(condition(c, name, &holds, err));
		if (holds)
			*out = name->name;
	}
	return ST_OK;
}

enum st_status st_described_family(const struct st_container *c, struct st_family **out, struct st_error *err)
{
	const char *own, *key;
	size_t n;
	*out = NULL;
	ST_TRY(architecture(c, &key, &own, &n, err));
	for (size_t i = 0; own && n && i < st_family_text_count && !*out; i++) {
		const struct st_family_text *t = &st_family_texts[i];
		const char *name;
		struct st_family *f;
		/* A page without that name somewhere is not of the family, and need not be read. */
		if (strstr(t->name, ".keys") || !memmem(t->text, t->size, own, n))
			continue;
		ST_TRY(st_family_parse(t->name, t->text, t->size, &f, err));
		f->built_in = true;
		enum st_status st = called(c, f, &name, err);
		if (st != ST_OK || !name)
			st_family_close(f);
		else
			*out = f;
		ST_TRY(st);
	}
	return ST_OK;
}

/* ---- one value ---- */

static enum st_status bad(const char *key, const char *what, struct st_error *err)
{
	return st_fail_at(err, ST_ERR_FORMAT, ST_NO_OFFSET, key, "is no %s", what);
}

static bool is_list(enum st_key_type t) { return t >= ST_KEY_COUNTS && t <= ST_KEY_NUMBERS; }
static enum st_key_type element_type(enum st_key_type t)
{
	return t == ST_KEY_SET     ? ST_KEY_COUNT
	     : t == ST_KEY_NUMBERS ? ST_KEY_REAL
	     : t == ST_KEY_LETTERS ? ST_KEY_TEXT
	     : is_list(t)          ? (enum st_key_type)(t - ST_KEY_COUNTS + ST_KEY_COUNT)
	                           : t;
}

static enum st_status check_number(const char *key, enum st_key_type t, double v, struct st_error *err)
{
	if (t == ST_KEY_COUNT && (!(v >= 0) || !(v <= UINT32_MAX) || v != floor(v)))
		return st_fail_at(err, ST_ERR_FORMAT, ST_NO_OFFSET, key, "is %.17g, not an integer from 1 to 4294967295, or 0",
		                  v);
	return isfinite(v) ? ST_OK : bad(key, "finite number", err);
}

/* A text as a list of its letters. */
static enum st_status take_letters(struct st_described *d, const char *key, struct st_setting *v, struct st_error *err)
{
	size_t n = strlen(v->text);
	if (n > MAX_LIST)
		return st_fail_at(err, ST_ERR_LIMIT, ST_NO_OFFSET, key, "is %zu letters; at most %u are read", n,
		                  MAX_LIST);
	struct st_setting *items = st_arena_alloc(&d->arena, n, sizeof *items);
	ST_NEED(items);
	for (size_t i = 0; i < n; i++) {
		items[i] = (struct st_setting){ .kind = ST_SETTING_TEXT,
			                        .text = st_arena_strndup(&d->arena, v->text + i, 1) };
		ST_NEED(items[i].text);
	}
	*v = (struct st_setting){ .kind = ST_SETTING_LIST, .items = items, .n = n };
	return ST_OK;
}

/* Of a text that may say few things: whether it says one of them. A list is looked at one by one. */
static enum st_status check_among(const struct st_family_key *k, const char *key, const struct st_setting *v,
                                  struct st_error *err)
{
	for (size_t i = 0; v->kind == ST_SETTING_LIST && i < v->n; i++)
		ST_TRY(check_among(k, key, &v->items[i], err));
	bool known = !k->among || v->kind != ST_SETTING_TEXT;
	for (uint32_t i = 0; i < k->n_among && !known; i++)
		known = strcmp(k->among[i], v->text) == 0;
	if (known)
		return ST_OK;
	char all[256];
	size_t n = 0;
	for (uint32_t i = 0; i < k->n_among && n < sizeof all; i++)
		n += (size_t)snprintf(all + n, sizeof all - n, "%s\"%s\"", i ? ", " : "", k->among[i]);
	return st_fail_at(err, ST_ERR_UNSUPPORTED, ST_NO_OFFSET, key, "\"%.64s\" is none of %s", v->text, all);
}

/* ---- config.json ---- */

static enum st_status json_scalar(struct st_described *d, const char *key, const json_t *v, enum st_key_type t,
                                  struct st_setting *out, struct st_error *err)
{
	if (t == ST_KEY_TEXT) {
		if (!json_is_string(v))
			return bad(key, "text", err);
		*out = (struct st_setting){ .kind = ST_SETTING_TEXT,
			                    .text = st_arena_strndup(&d->arena, json_string_value(v),
			                                             json_string_length(v)) };
		ST_NEED(out->text);
		return ST_OK;
	}
	*out = (struct st_setting){ .kind = ST_SETTING_NUMBER };
	const char *infinite = json_string_value(json_object_get(v, "__float__"));
	if (t == ST_KEY_REAL && infinite
	    && strcmp(infinite, "Infinity") == 0) { /* as transformers writes it: no bound */
		out->number = DBL_MAX;
		return ST_OK;
	}
	if (t == ST_KEY_FLAG ? !json_is_boolean(v) : !json_is_number(v))
		return bad(key,
		           t == ST_KEY_FLAG    ? "true or false"
		           : t == ST_KEY_COUNT ? "integer"
		                               : "number",
		           err);
	out->number = t == ST_KEY_FLAG ? json_is_true(v) : json_number_value(v);
	return check_number(key, t, out->number, err);
}

static enum st_status json_value(struct st_described *d, const char *key, const json_t *v, enum st_key_type t,
                                 struct st_setting *out, struct st_error *err)
{
	if (!is_list(t) || !json_is_array(v))
		return json_scalar(d, key, v, element_type(t), out, err);
	size_t n = json_array_size(v);
	if (n > MAX_LIST)
		return st_fail_at(err, ST_ERR_LIMIT, ST_NO_OFFSET, key, "is a list of %zu; at most %u are read", n,
		                  MAX_LIST);
	struct st_setting *items = st_arena_alloc(&d->arena, n, sizeof *items);
	ST_NEED(items);
	for (size_t i = 0; i < n; i++)
		ST_TRY(json_scalar(d, key, json_array_get(v, i), element_type(t), &items[i], err));
	*out = (struct st_setting){ .kind = ST_SETTING_LIST, .items = items, .n = n };
	return ST_OK;
}

/* "rope_parameters.rope_theta" leads into an object. */
static const json_t *json_path(const json_t *o, const char *path)
{
	char part[96];
	for (const char *dot; (dot = strchr(path, '.')); path = dot + 1) {
		if ((size_t)(dot - path) >= sizeof part)
			return NULL;
		memcpy(part, path, (size_t)(dot - path));
		part[dot - path] = '\0';
		o = json_object_get(o, part);
	}
	return json_object_get(o, path);
}

/* ---- GGUF ---- */

static enum st_status kv_scalar(struct st_described *d, const char *key, enum st_kv_type type, const uint8_t **at,
                                enum st_key_type t, struct st_setting *out, struct st_error *err)
{
	if (t == ST_KEY_TEXT || type == ST_KV_STR) {
		size_t n;
		if (t != ST_KEY_TEXT || type != ST_KV_STR)
			return bad(key, t == ST_KEY_TEXT ? "text" : "number", err);
		const char *s = st_kv_next_str(at, &n);
		*out = (struct st_setting){ .kind = ST_SETTING_TEXT, .text = st_arena_strndup(&d->arena, s, n) };
		ST_NEED(out->text);
		return ST_OK;
	}
	if ((t == ST_KEY_FLAG) != (type == ST_KV_BOOL))
		return bad(key, t == ST_KEY_FLAG ? "true or false" : "number", err);
	if (t == ST_KEY_COUNT && (type == ST_KV_F32 || type == ST_KV_F64))
		return bad(key, "integer", err);
	*out = (struct st_setting){ .kind = ST_SETTING_NUMBER, .number = st_kv_number(type, *at) };
	*at += st_kv_size(type);
	return check_number(key, t, out->number, err);
}

static enum st_status kv_value(struct st_described *d, const struct st_kv *kv, enum st_key_type t,
                               struct st_setting *out, struct st_error *err)
{
	const uint8_t *at = kv->data;
	if (kv->type != ST_KV_ARR)
		return kv_scalar(d, kv->key, kv->type, &at, element_type(t), out, err);
	if (!is_list(t))
		return bad(kv->key, "single value", err);
	if (kv->count > MAX_LIST)
		return st_fail_at(err, ST_ERR_LIMIT, kv->offset, kv->key,
		                  "is a list of %" PRIu64 "; at most %u are read", kv->count, MAX_LIST);
	struct st_setting *items = st_arena_alloc(&d->arena, kv->count, sizeof *items);
	ST_NEED(items);
	for (uint64_t i = 0; i < kv->count; i++)
		ST_TRY(kv_scalar(d, kv->key, kv->elem, &at, element_type(t), &items[i], err));
	*out = (struct st_setting){ .kind = ST_SETTING_LIST, .items = items, .n = (size_t)kv->count };
	return ST_OK;
}

/* ---- all keys ---- */

static const char *gguf_key(struct st_described *d, const char *key)
{
	if (key[0] == '/') /* stands by itself */
		return key + 1;
	return st_arena_printf(&d->arena, "%s.%s", d->settings.model, key);
}

static const char *last_part(const char *path)
{
	const char *dot = strrchr(path, '.');
	return dot ? dot + 1 : path;
}

/* The object that a name leads into, where the file has it and it holds something; NULL: none. */
static const json_t *owner_of(const struct st_described *d, const char *path)
{
	const char *dot = strchr(path, '.');
	char name[96];
	snprintf(name, sizeof name, "%.*s", dot ? (int)(dot - path) : 0, path);
	const json_t *o = dot ? json_object_get(st_described_config(d->c), name) : NULL;
	return json_object_size(o) ? o : NULL;
}

/* A key that stands in one of two objects alone (rope_scaling, rope_parameters): the other then says that it is as where
 * nothing is said. */
static enum st_status check_owners(struct st_described *d, const struct st_family_key *k, uint32_t said,
                                   const struct st_setting *v, struct st_error *err)
{
	enum st_spelling where = d->settings.spelling;
	struct st_setting assumed = { 0 };
	struct st_error none = ST_ERROR_INIT;
	const json_t *own = owner_of(d, k->spelled[where][said]);
	for (uint32_t i = 0; i < k->n_spelled[where]; i++)
		if (!strchr(k->spelled[where][i], '.'))
			return ST_OK; /* it may stand in neither */
	if (!own || !k->absent[where].n || st_expression_value(&k->absent[where], &d->settings, &assumed, &none) != ST_OK
	    || st_setting_same(v, &assumed))
		return ST_OK;
	for (uint32_t i = 0; i < k->n_spelled[where]; i++) {
		const char *other = k->spelled[where][i];
		const json_t *o = owner_of(d, other);
		bool says = false;
		for (uint32_t n = 0; n < k->n_spelled[where]; n++)
			says |= owner_of(d, k->spelled[where][n]) == o
			     && json_path(st_described_config(d->c), k->spelled[where][n]);
		if (o && o != own && !says)
			return st_fail_at(err, ST_ERR_FORMAT, ST_NO_OFFSET, k->spelled[where][said],
			                  "contradicts %.*s, which does not say it", (int)strcspn(other, "."), other);
	}
	return ST_OK;
}

/* config.json may say a key in two places (rope_theta, rope_parameters.rope_theta): not two values. In the metadata of APR
 * files all spellings are of one key. */
static enum st_status check_twins(struct st_described *d, const struct st_family_key *k, uint32_t said,
                                  const struct st_setting *v, struct st_error *err)
{
	enum st_spelling where = d->settings.spelling;
	for (uint32_t i = said + 1; i < k->n_spelled[where]; i++) {
		const char *first = k->spelled[where][said], *other = k->spelled[where][i];
		const json_t *twin = json_path(st_described_config(d->c), other);
		struct st_setting w;
		if (!twin || json_is_null(twin)
		    || (where == ST_SPELLING_CONFIG && strcmp(last_part(first), last_part(other)) != 0))
			continue;
		ST_TRY(json_value(d, other, twin, k->type, &w, err));
		if (!st_setting_same(v, &w))
			return st_fail_at(err, ST_ERR_FORMAT, ST_NO_OFFSET, other, "contradicts %s", first);
	}
	return check_owners(d, k, said, v, err);
}

static enum st_status look_up(struct st_described *d, const struct st_family_key *k, struct st_setting *out,
                              struct st_setting_origin *from, bool *null, struct st_error *err)
{
	enum st_spelling where = d->settings.spelling;
	*null = false;
	for (uint32_t i = 0; i < k->n_spelled[where]; i++) {
		const char *key = where == ST_SPELLING_GGUF ? gguf_key(d, k->spelled[where][i]) : k->spelled[where][i];
		ST_NEED(key);
		const struct st_kv *kv = where == ST_SPELLING_GGUF ? st_kv_find(&d->c->keys, key) : NULL;
		const json_t *v = where == ST_SPELLING_GGUF ? NULL : json_path(st_described_config(d->c), key);
		if (i == 0)
			from->key = key;
		if (!kv && (!v || json_is_null(v))) {
			*null |= v != NULL;
			continue;
		}
		*from = (struct st_setting_origin){ .said = true, .key = key };
		ST_TRY(kv ? kv_value(d, kv, k->type, out, err) : json_value(d, key, v, k->type, out, err));
		if (k->type == ST_KEY_LETTERS && out->kind == ST_SETTING_TEXT)
			ST_TRY(take_letters(d, key, out, err));
		else if (where != ST_SPELLING_GGUF)
			ST_TRY(check_twins(d, k, i, out, err));
		return check_among(k, key, out, err);
	}
	return ST_OK;
}

/* ---- what is left over ---- */

#define MAX_UNREAD 64u /* that are told */

/* "KEY" of a list of harmless ones, or "KEY=VALUE": harmless where it has that value. NULL: it is not about this key. */
static const char *about(const char *entry, const char *key)
{
	size_t n = strcspn(entry, "=");
	return strlen(key) == n && memcmp(entry, key, n) == 0 ? entry + n : NULL;
}

/* What stands behind the key of an entry: whether it says that this value changes no number. */
static bool is_harmless(const char *only, const struct st_setting *v)
{
	if (only[0] == '\0' || !v || (v->kind == ST_SETTING_TEXT && strcmp(v->text, only + 1) == 0))
		return true;
	char *end;
	double number = strtod(only + 1, &end);
	bool flag = strcmp(only + 1, "true") == 0;
	return v->kind == ST_SETTING_NUMBER && (flag ? v->number == 1 : !*end && v->number == number);
}

/* Whether a name of a JSON spelling leads into that object. */
static bool leads_into(const struct st_family *f, enum st_spelling where, const char *key, size_t n)
{
	for (uint32_t i = 0; i < f->n_keys; i++)
		for (uint32_t k = 0; k < f->keys[i].n_spelled[where]; k++) {
			const char *s = f->keys[i].spelled[where][k];
			if (strncmp(s, key, n) == 0 && s[n] == '.')
				return true;
		}
	return false;
}

/* Whether a key is a member of an object that names lead into. */
static bool is_member(const struct st_family *f, enum st_spelling where, const char *key)
{
	const char *dot = strrchr(key, '.');
	return dot && leads_into(f, where, key, (size_t)(dot - key));
}

/* Whether the description reads a key, or says that it changes no number, with this value. v: NULL: whatever it is. */
static bool is_named(const struct st_family *f, enum st_spelling where, const char *key, const struct st_setting *v)
{
	for (uint32_t i = 0; i < f->n_keys; i++)
		for (uint32_t k = 0; k < f->keys[i].n_spelled[where]; k++)
			if (strcmp(f->keys[i].spelled[where][k], key) == 0)
				return true;
	/* Of the metadata of APR files, into which writers put what they like, those are unread that the page knows to matter
	 * with other values than these. */
	bool apr = where == ST_SPELLING_APR, named = apr && !is_member(f, where, key);
	for (int group = apr ? ST_SPELLING_CONFIG : (int)where; group <= (int)where; group++)
		for (uint32_t i = 0; i < f->n_harmless[group]; i++) {
			const char *only = about(f->harmless[group][i], key);
			if (!only)
				continue;
			if (is_harmless(only, v))
				return true;
			named = false;
		}
	return named;
}

const char *st_described_scaling(const struct st_described *d)
{
	uint32_t key = st_family_find_key(d->family, "rope_type");
	const struct st_setting *v = key == ST_FAMILY_NONE ? NULL : &d->settings.keys[key];
	return !v || v->kind != ST_SETTING_TEXT || strcmp(v->text, "default") == 0 ? "none" : v->text;
}

bool st_described_names(const struct st_described *d, const char *key)
{
	enum st_spelling where = d->settings.spelling;
	size_t n = strlen(d->settings.model);
	if (where == ST_SPELLING_GGUF)
		return strncmp(key, d->settings.model, n) == 0 && key[n] == '.'
		    && is_named(d->family, where, key + n + 1, NULL);
	return is_named(d->family, where, key, NULL) || leads_into(d->family, where, key, strlen(key));
}

/* How weights are packed is no matter of arithmetic where they have been put together (format/packed.c). */
static bool tells_packing(const struct st_container *c, const char *path)
{
	static const char *const keys[] = { "quantization_config", "compression_config" };
	bool told = false, decoded = false;
	for (size_t i = 0; i < sizeof keys / sizeof *keys; i++)
		told |= strcmp(path, keys[i]) == 0;
	for (size_t i = 0; told && i < c->n_tensors && !decoded; i++)
		decoded = c->tensors[i].layout == ST_LAYOUT_APART;
	return decoded;
}

/* A member that is a number or a text; of others the value says nothing. */
static struct st_setting plain_value(const json_t *v)
{
	if (json_is_number(v) || json_is_boolean(v))
		return (struct st_setting){ .kind = ST_SETTING_NUMBER,
			                    .number = json_is_number(v) ? json_number_value(v) : json_is_true(v) };
	if (json_is_string(v))
		return (struct st_setting){ .kind = ST_SETTING_TEXT, .text = json_string_value(v) };
	return (struct st_setting){ .kind = ST_SETTING_NONE };
}

static enum st_status add_unread(struct st_described *d, const char *key, struct st_error *err)
{
	if (d->n_unread == MAX_UNREAD)
		return ST_OK;
	d->unread[d->n_unread] = st_arena_strndup(&d->arena, key, strlen(key));
	ST_NEED(d->unread[d->n_unread]);
	d->n_unread++;
	return ST_OK;
}

/* Null, false, and what holds nothing. */
static bool asks_for_nothing(const json_t *v)
{
	return json_is_null(v) || json_is_false(v) || (json_is_object(v) && json_object_size(v) == 0)
	    || (json_is_array(v) && json_array_size(v) == 0);
}

/* Members of an object, and of those in it that names lead into. */
static enum st_status unread_members(struct st_described *d, const json_t *o, const char *front, struct st_error *err)
{
	const char *key;
	json_t *v;
	json_object_foreach((json_t *)(uintptr_t)o, key, v)
	{
		char path[192];
		snprintf(path, sizeof path, "%.90s%.90s", front, key);
		struct st_setting value = plain_value(v);
		enum st_spelling where = d->settings.spelling;
		size_t n = strlen(path);
		bool object = leads_into(d->family, where, path, n);
		if (object && json_is_array(v))
			return bad(path, "object", err);
		if (asks_for_nothing(v) || tells_packing(d->c, path) || is_named(d->family, where, path, &value))
			continue;
		if (object && json_is_object(v)) {
			snprintf(path + n, sizeof path - n, ".");
			ST_TRY(unread_members(d, v, path, err));
		} else {
			ST_TRY(add_unread(d, path, err));
		}
	}
	return ST_OK;
}

static enum st_status unread_keys(struct st_described *d, struct st_error *err)
{
	const char *model = d->settings.model;
	size_t n = strlen(model);
	for (size_t i = 0; i < d->c->keys.n; i++) {
		const struct st_kv *kv = &d->c->keys.kv[i];
		struct st_setting v = { .kind = ST_SETTING_NONE };
		if (strncmp(kv->key, model, n) != 0 || kv->key[n] != '.')
			continue;
		if (kv->type != ST_KV_STR && kv->type != ST_KV_ARR)
			v = (struct st_setting){ .kind = ST_SETTING_NUMBER,
				                 .number = st_kv_number(kv->type, kv->data) };
		if (!is_named(d->family, ST_SPELLING_GGUF, kv->key + n + 1, &v))
			ST_TRY(add_unread(d, kv->key, err));
	}
	return ST_OK;
}

static enum st_status left_over(struct st_described *d, struct st_error *err)
{
	d->unread = st_arena_alloc(&d->arena, MAX_UNREAD, sizeof *d->unread);
	ST_NEED(d->unread);
	return d->settings.spelling == ST_SPELLING_GGUF ? unread_keys(d, err)
	                                                : unread_members(d, st_described_config(d->c), "", err);
}

static bool has_name(const struct st_family *f, enum st_spelling where, const char *name)
{
	for (uint32_t i = 0; i < f->n_names[where]; i++)
		if (strcmp(f->names[where][i].name, name) == 0)
			return true;
	return false;
}

/* The architecture that an APR file names decides; a model_type beside it is a word of the writer's, or agrees. */
static enum st_status check_model_type(const struct st_described *d, struct st_error *err)
{
	const json_t *o = d->c->docs.metadata;
	const char *type = json_string_value(json_object_get(o, "model_type")),
		   *name = json_string_value(json_object_get(o, "architecture"));
	if (d->settings.spelling != ST_SPELLING_APR || !type || !name || has_name(d->family, ST_SPELLING_APR, type))
		return ST_OK;
	for (size_t i = 0; i < st_family_text_count; i++)
		if (strcmp(st_family_texts[i].family, type) == 0 && !strstr(st_family_texts[i].name, ".keys"))
			return st_fail_at(err, ST_ERR_FORMAT, ST_NO_OFFSET, "model_type",
			                  "\"%.64s\" contradicts architecture \"%.64s\"", type, name);
	return ST_OK;
}

/* What a container is called by, before anything else of it is read. */
static enum st_status recognise(struct st_described *d, struct st_error *err)
{
	d->settings = (struct st_settings){
		.family = d->family, .spelling = spelling_of(d->c), .layer = -1, .file = d->c
	};
	ST_TRY(called(d->c, d->family, &d->settings.model, err));
	if (d->settings.model)
		ST_TRY(check_model_type(d, err));
	return d->settings.model ? ST_OK : st_fail(err, ST_ERR_MISMATCH, "is not of the family %s", d->family->name);
}

/* A list that says one value for each layer must say as many. */
static enum st_status check_lists(const struct st_described *d, struct st_error *err)
{
	for (uint32_t i = 0; i < d->family->n_keys; i++) {
		const struct st_setting *v = &d->settings.keys[i];
		if (v->kind == ST_SETTING_LIST && d->family->keys[i].type < ST_KEY_SET && v->n < d->n_layers)
			return st_fail_at(err, ST_ERR_FORMAT, ST_NO_OFFSET, d->origin[i].key,
			                  "is a list of %zu, the model has %u layers", v->n, d->n_layers);
	}
	return ST_OK;
}

static int64_t tensor_rows(const void *file, const char *name)
{
	const struct st_tensor *t = st_container_find(file, name);
	return t ? (int64_t)st_tensor_rows(t) : -1;
}

static enum st_status count_of(struct st_described *d, const char *name, uint32_t most, uint32_t *out,
                               struct st_error *err)
{
	uint32_t i = st_family_find_key(d->family, name);
	const struct st_setting *v = &d->settings.keys[i];
	if (v->kind != ST_SETTING_NUMBER || !(v->number >= 1) || !(v->number <= most))
		return st_fail_at(err, ST_ERR_FORMAT, ST_NO_OFFSET, d->origin[i].key ? d->origin[i].key : name,
		                  "is no number from 1 to %u", most);
	*out = (uint32_t)v->number;
	return ST_OK;
}

/* What a file does not say. A value for each layer may depend on it. */
static enum st_status absent_value(struct st_described *d, const struct st_family_key *k, const struct st_expression *e,
                                   struct st_setting *out, struct st_error *err)
{
	struct st_error alone = ST_ERROR_INIT;
	if (st_expression_value(e, &d->settings, out, &alone) == ST_OK)
		return ST_OK;
	uint32_t layers = st_family_find_key(d->family, "layers");
	double n = layers == ST_FAMILY_NONE ? 0 : d->settings.keys[layers].number;
	if (k->type < ST_KEY_COUNTS || k->type > ST_KEY_TEXTS || !(n >= 1) || !(n <= MAX_LIST)) {
		*err = alone;
		return alone.code;
	}
	struct st_setting *items = st_arena_alloc(&d->arena, (size_t)n, sizeof *items);
	ST_NEED(items);
	for (size_t i = 0; i < (size_t)n; i++) {
		struct st_settings s = st_described_at(d, (int32_t)i);
		ST_TRY(st_expression_value(e, &s, &items[i], err));
	}
	*out = (struct st_setting){ .kind = ST_SETTING_LIST, .items = items, .n = (size_t)n };
	return ST_OK;
}

/* Every key's value: the file's, else the page's. Keys that need one and have none are listed. */
static enum st_status read_keys(struct st_described *d, struct st_setting *values, struct st_error *err)
{
	const struct st_family *f = d->family;
	for (uint32_t i = 0; i < f->n_keys; i++) {
		const struct st_family_key *k = &f->keys[i];
		const struct st_expression *absent = &k->absent[d->settings.spelling];
		bool null;
		if (k->type == ST_KEY_LET)
			continue;
		ST_TRY(look_up(d, k, &values[i], &d->origin[i], &null, err));
		if (d->origin[i].said)
			continue;
		if (null && k->null.n)
			absent = &k->null;
		else if (null && k->type == ST_KEY_FLAG && d->settings.spelling == ST_SPELLING_CONFIG) {
			values[i] = (struct st_setting){ .kind = ST_SETTING_NUMBER }; /* as Python takes None */
			continue;
		}
		if (!absent->n) {
			d->absent[d->n_absent++] = i;
			continue;
		}
		/* Where another key is absent this default may have no value: that key is what is missing. */
		struct st_error why = ST_ERROR_INIT;
		enum st_status st = absent_value(d, k, absent, &values[i], &why);
		if (st != ST_OK && d->n_absent == 0)
			*err = why;
		if (st != ST_OK && (d->n_absent == 0 || st == ST_ERR_NOMEM))
			return st;
	}
	return ST_OK;
}

/* A requirement, and what the file says of the keys that it depends on. */
static enum st_status unfulfilled(const struct st_described *d, const struct st_expression *e, struct st_error *err)
{
	const struct st_family *f = d->family;
	char said[192] = "";
	size_t n = 0;
	for (uint32_t i = 0; i < f->n_keys && n < sizeof said; i++) {
		const struct st_setting *v = &d->settings.keys[i];
		if (!d->origin[i].said || !st_expression_names(f, e, i) || v->kind == ST_SETTING_LIST)
			continue;
		n += (size_t)snprintf(said + n, sizeof said - n, "%s%.60s is ", n ? ", " : ": ", d->origin[i].key);
		if (n >= sizeof said)
			break;
		if (v->kind == ST_SETTING_TEXT)
			n += (size_t)snprintf(said + n, sizeof said - n, "\"%.40s\"", v->text);
		else if (f->keys[i].type == ST_KEY_FLAG)
			n += (size_t)snprintf(said + n, sizeof said - n, "%s", v->number != 0 ? "true" : "false");
		else
			n += (size_t)snprintf(said + n, sizeof said - n, "%.9g", v->number);
	}
	return st_family_fail(f->file, e->line, ST_ERR_UNSUPPORTED, err, "this model does not fulfil \"%.250s\"%s", e->text,
	                      said);
}

enum st_status st_described_settings(struct st_described *d, struct st_error *err)
{
	const struct st_family *f = d->family;
	struct st_setting *values = st_arena_alloc(&d->arena, f->n_keys, sizeof *values);
	d->origin = st_arena_alloc(&d->arena, f->n_keys, sizeof *d->origin);
	d->absent = st_arena_alloc(&d->arena, f->n_keys, sizeof *d->absent);
	ST_NEED(values && d->origin && d->absent);
	ST_TRY(recognise(d, err));
	d->settings.keys = values;
	d->settings.tensor_rows = tensor_rows;
	struct st_error none = ST_ERROR_INIT;
	enum st_status st = read_keys(d, values, err), left = left_over(d, st == ST_OK ? err : &none);
	if (st != ST_OK || left != ST_OK)
		return st != ST_OK ? st : left;
	if (d->n_absent) {
		uint32_t i = d->absent[0];
		return st_fail_at(err, ST_ERR_FORMAT, ST_NO_OFFSET,
		                  d->origin[i].key ? d->origin[i].key : f->keys[i].name, "is missing");
	}
	ST_TRY(st_described_sizes(d, err));
	for (uint32_t i = 0; i < f->n_requirements; i++) {
		bool holds;
		const struct st_expression *e = &f->requirements[i].holds;
		ST_TRY(st_expression_holds(e, &d->settings, &holds, err));
		if (!holds)
			return unfulfilled(d, e, err);
	}
	ST_TRY(count_of(d, "layers", MAX_LIST, &d->n_layers, err));
	ST_TRY(count_of(d, "vocab", 1u << 28, &d->vocab, err));
	return check_lists(d, err);
}
