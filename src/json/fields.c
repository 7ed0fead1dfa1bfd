/* fields.c - members of a JSON object into a struct, by a table. What is wrong is named, never defaulted. */
#include "json/json.h"

#include "base/error.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define MAX_KEYS (sizeof((struct st_json_field *)0)->key / sizeof(char *))

static const struct st_json_read plain;

/* "entries[3].key" */
static enum st_status fail(const struct st_json_read *how, const char *key, const char *text, struct st_error *err)
{
	char at[160];
	const char *in = how->where ? how->where : "";
	snprintf(at, sizeof at, "%s%s%s", in, in[0] ? "." : "", key);
	return st_fail_at(err, ST_ERR_FORMAT, how->offset ? how->offset : ST_NO_OFFSET, at, "%s", text);
}

/* A value as it stands in the file, cut short. */
static void show(const json_t *v, char *buf, size_t n)
{
	const char *kind = json_is_object(v)                          ? "an object"
	                 : json_is_array(v) && json_array_size(v) > 8 ? "a list"
	                                                              : NULL;
	char *s = kind ? NULL : st_json_print(v, JSON_COMPACT | JSON_ENCODE_ANY | JSON_REAL_PRECISION(15));
	if (s && strlen(s) > 80)
		snprintf(buf, n, "%.77s...", s);
	else
		snprintf(buf, n, "%s", s ? s : kind ? kind : "?");
	free(s);
}

static enum st_status refuse(const json_t *v, const struct st_json_read *how, const char *key, const char *words,
                             struct st_error *err)
{
	char is[96], text[384];
	if (!v)
		return fail(how, key, "is missing", err);
	show(v, is, sizeof is);
	snprintf(text, sizeof text, "is %s, %s", is, words);
	return fail(how, key, text, err);
}

enum st_status st_json_bad(const json_t *o, const struct st_json_read *how, const char *key, const char *words,
                           struct st_error *err)
{
	return refuse(json_object_get(o, key), how ? how : &plain, key, words, err);
}

/* The present member among some spellings, or NULL; two that disagree are refused. */
static enum st_status lookup(const json_t *o, const struct st_json_read *how, const struct st_json_field *f,
                             const json_t **v, const char **key, struct st_error *err)
{
	*v = NULL;
	*key = NULL;
	for (size_t i = 0; i < MAX_KEYS && f->key[i]; i++) {
		const json_t *m = json_object_get(o, f->key[i]);
		if (!m || json_is_null(m))
			continue;
		if (!*v) {
			*v = m;
			*key = f->key[i];
			continue;
		}
		bool equal = json_is_number(m) && json_is_number(*v) ? json_number_value(m) == json_number_value(*v)
		                                                     : json_equal(m, *v) != 0;
		if (!equal) {
			char is[96], words[256];
			show(*v, is, sizeof is);
			snprintf(words, sizeof words, "but %s, another spelling of it, is %s", *key, is);
			return refuse(m, how, f->key[i], words, err);
		}
	}
	return ST_OK;
}

/* ---- one value ---- */

static bool whole(const json_t *v, bool reals, double min, double max, int64_t *out)
{
	double x = json_number_value(v);
	if (json_is_integer(v))
		*out = json_integer_value(v);
	else if (reals && json_is_real(v) && x == floor(x) && fabs(x) <= 0x1p53)
		*out = (int64_t)x;
	else
		return false;
	return (double)*out >= min && (double)*out <= max;
}

/* Index of the first item that a list of this type cannot have; the list's length where there is none. */
static size_t odd_item(const json_t *v, enum st_json_type type)
{
	size_t i;
	json_t *item;
	json_array_foreach(v, i, item)
	{
		if (type == ST_JSON_TEXTS ? !json_is_string(item) : type == ST_JSON_NUMBERS && !json_is_number(item))
			break;
	}
	return i;
}

static bool list_of(const json_t *v, enum st_json_type type, size_t n, void *out)
{
	bool ok = json_is_array(v) && json_array_size(v) == n;
	for (size_t i = 0; ok && i < n; i++) {
		int64_t x;
		bool shape = type == ST_JSON_SHAPE;
		/* 2^31 is beyond any matrix and keeps products within 64 bits. */
		ok = whole(json_array_get(v, i), false, shape, shape ? INT32_MAX : UINT32_MAX, &x);
		if (ok && shape)
			((uint64_t *)out)[i] = (uint64_t)x;
		else if (ok)
			((uint32_t *)out)[i] = (uint32_t)x;
	}
	return ok;
}

static bool choose(const struct st_json_field *f, const json_t *v, void *out)
{
	for (uint32_t i = 0; json_is_string(v) && f->choices[i]; i++) {
		if (strcmp(f->choices[i], json_string_value(v)) != 0)
			continue;
		if (f->type == ST_JSON_TEXT)
			*(const char **)out = json_string_value(v);
		else
			*(uint32_t *)out = i;
		return true;
	}
	return false;
}

/* Too long a text is for people only and may be cut, but not inside a character. */
static void copy_text(char *to, size_t size, const char *s)
{
	size_t n = strlen(s);
	if (n >= size)
		for (n = size - 1; n > 0 && ((unsigned char)s[n] & 0xC0) == 0x80;)
			n--;
	memcpy(to, s, n);
	memset(to + n, 0, size - n);
}

static double most_of(const struct st_json_field *f)
{
	return f->max != 0            ? f->max
	     : f->type == ST_JSON_U32 ? UINT32_MAX
	     : f->type == ST_JSON_F64 ? INFINITY
	                              : (double)INT64_MAX;
}

static double least_of(const struct st_json_field *f)
{
	if (f->min != 0 || f->max != 0)
		return f->min;
	return f->type == ST_JSON_F64 ? -INFINITY : f->type == ST_JSON_I64 ? (double)INT64_MIN : 0;
}

static bool store(const struct st_json_field *f, const json_t *v, void *out)
{
	int64_t i;
	double x;
	if (f->choices)
		return choose(f, v, out);
	switch (f->type) {
	case ST_JSON_KNOWN:
		return true;
	case ST_JSON_U32:
	case ST_JSON_U64:
	case ST_JSON_I64:
		if (!whole(v, f->reals, least_of(f), most_of(f), &i))
			return false;
		if (f->type == ST_JSON_U32)
			*(uint32_t *)out = (uint32_t)i;
		else
			memcpy(out, &i, sizeof i);
		return true;
	case ST_JSON_F64:
		x = json_number_value(v);
		if (!json_is_number(v) || !isfinite(x) || x < least_of(f) || x > most_of(f))
			return false;
		*(double *)out = x;
		return true;
	case ST_JSON_BOOL:
		*(bool *)out = json_is_true(v);
		return json_is_boolean(v);
	case ST_JSON_TEXT:
		x = (double)json_string_length(v);
		if (!json_is_string(v) || x < f->min || (f->max != 0 && x > f->max))
			return false;
		*(const char **)out = json_string_value(v);
		return true;
	case ST_JSON_CHARS:
		if (!json_is_string(v))
			return false;
		copy_text(out, f->size, json_string_value(v));
		return true;
	case ST_JSON_U32S:
	case ST_JSON_SHAPE:
		return list_of(v, f->type, f->size / (f->type == ST_JSON_SHAPE ? 8 : 4), out);
	case ST_JSON_VALUE:
	case ST_JSON_LIST:
	case ST_JSON_TEXTS:
	case ST_JSON_NUMBERS:
	case ST_JSON_OBJECT:
		*(const json_t **)out = v;
		return f->type == ST_JSON_VALUE
		    || (f->type == ST_JSON_OBJECT ? json_is_object(v)
		                                  : json_is_array(v) && odd_item(v, f->type) == json_array_size(v));
	case ST_JSON_N_TYPES:
		break;
	}
	return false;
}

/* "not a whole number from 1 to 4096". */
static void wanted(const struct st_json_field *f, char *buf, size_t n)
{
	static const char *const words[ST_JSON_N_TYPES] = {
		[ST_JSON_U32] = "an integer",          [ST_JSON_U64] = "an integer",
		[ST_JSON_I64] = "an integer",          [ST_JSON_F64] = "a number",
		[ST_JSON_BOOL] = "true or false",      [ST_JSON_TEXT] = "a string",
		[ST_JSON_CHARS] = "a string",          [ST_JSON_LIST] = "a list",
		[ST_JSON_TEXTS] = "a list of strings", [ST_JSON_NUMBERS] = "a list of numbers",
		[ST_JSON_OBJECT] = "an object",
	};
	size_t at;
	if (f->choices) {
		at = (size_t)snprintf(buf, n, "not one of");
		for (size_t i = 0; f->choices[i] && at < n; i++)
			at += (size_t)snprintf(buf + at, n - at, "%s %s", i ? "," : "", f->choices[i]);
	} else if (f->type == ST_JSON_U32S || f->type == ST_JSON_SHAPE) {
		bool shape = f->type == ST_JSON_SHAPE;
		snprintf(buf, n, "not %s of %zu %s", shape ? "a shape" : "a list", f->size / (shape ? 8 : 4),
		         shape ? "dimensions" : "integers");
	} else {
		double least = least_of(f), most = most_of(f);
		bool number = f->type >= ST_JSON_U32 && f->type <= ST_JSON_F64;
		at = (size_t)snprintf(buf, n, "not %s", words[f->type] ? words[f->type] : "such a value");
		if (number && isfinite(least) && least > (double)INT64_MIN && most < (double)INT64_MAX)
			snprintf(buf + at, n - at, " from %.15g to %.15g", least, most);
		else if (number && isfinite(least) && least > (double)INT64_MIN)
			snprintf(buf + at, n - at, " of at least %.15g", least);
		else if (f->type == ST_JSON_TEXT && f->min > 0)
			snprintf(buf + at, n - at, " of at least %.0f bytes", f->min);
	}
}

static enum st_status read_here(const json_t *o, const struct st_json_read *how, const struct st_json_field *f,
                                void *out, const char **spelled, struct st_error *err)
{
	const json_t *v;
	const char *key;
	ST_TRY(lookup(o, how, f, &v, &key, err));
	if (spelled)
		*spelled = key;
	if (!v)
		return f->required ? fail(how, f->key[0], "is missing", err) : ST_OK;
	if (store(f, v, (char *)out + f->offset))
		return ST_OK;
	char words[256];
	if (json_is_array(v) && (f->type == ST_JSON_TEXTS || f->type == ST_JSON_NUMBERS)) {
		snprintf(words, sizeof words, "item %zu is not a %s", odd_item(v, f->type),
		         f->type == ST_JSON_TEXTS ? "string" : "number");
		return fail(how, key, words, err);
	}
	wanted(f, words, sizeof words);
	return refuse(v, how, key, words, err);
}

enum st_status st_json_read_one(const json_t *o, const struct st_json_read *how, const struct st_json_field *f,
                                void *out, const char **spelled, struct st_error *err)
{
	char where[160];
	struct st_json_read inner = how ? *how : plain;
	if (!f->in)
		return read_here(o, &inner, f, out, spelled, err);
	snprintf(where, sizeof where, "%s%s%s", inner.where ? inner.where : "", inner.where ? "." : "", f->in);
	inner.where = where;
	return read_here(json_object_get(o, f->in), &inner, f, out, spelled, err);
}

/* ---- whole tables ---- */

static bool named(const char *key, const struct st_json_field *fields, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		if (fields[i].in && strcmp(fields[i].in, key) == 0)
			return true;
		for (size_t k = 0; !fields[i].in && k < MAX_KEYS && fields[i].key[k]; k++)
			if (strcmp(fields[i].key[k], key) == 0)
				return true;
	}
	return false;
}

enum st_status st_json_read(const json_t *o, const struct st_json_read *how, const struct st_json_field *fields,
                            size_t n, void *out, const char **spelled, struct st_error *err)
{
	how = how ? how : &plain;
	for (size_t i = 0; i < n; i++)
		ST_TRY(st_json_read_one(o, how, &fields[i], out, spelled ? &spelled[i] : NULL, err));
	if (how->refuse_unknown) {
		const char *key;
		json_t *v;
		json_object_foreach((json_t *)(uintptr_t)o, key, v)
		{
			if (!named(key, fields, n))
				return refuse(v, how, key, "not a key that is known here", err);
		}
	}
	return ST_OK;
}

json_t *st_json_unread(const json_t *o, const struct st_json_field *fields, size_t n)
{
	json_t *list = json_array();
	const char *key;
	json_t *v;
	bool ok = list != NULL;
	json_object_foreach((json_t *)(uintptr_t)o, key, v)
	{
		if (ok && !named(key, fields, n))
			ok = json_array_append_new(list, json_string(key)) == 0;
	}
	if (ok)
		return list;
	json_decref(list);
	return NULL;
}

enum st_status st_json_u32s(const json_t *v, const char *key, struct st_arena *arena, uint32_t **out, size_t *n,
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
		int64_t x;
		if (!whole(json_array_get(v, i), false, 0, UINT32_MAX, &x))
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

bool st_json_counts(const json_t *list, size_t most, uint64_t *out, size_t *n)
{
	bool ok = json_is_array(list) && json_array_size(list) <= most;
	*n = json_array_size(list);
	for (size_t i = 0; ok && i < *n; i++) {
		const json_t *v = json_array_get(list, i);
		ok = json_is_integer(v) && json_integer_value(v) >= 0;
		out[i] = (uint64_t)json_integer_value(v);
	}
	return ok;
}

/* ---- writing ---- */

static json_t *value_of(const struct st_json_field *f, const void *at)
{
	if (f->choices && f->type != ST_JSON_TEXT)
		return json_string(f->choices[*(const uint32_t *)at]);
	switch (f->type) {
	case ST_JSON_U32:
		return json_integer(*(const uint32_t *)at);
	case ST_JSON_U64:
		return st_json_u64(*(const uint64_t *)at);
	case ST_JSON_I64:
		return json_integer(*(const int64_t *)at);
	case ST_JSON_F64:
		return st_json_number(*(const double *)at);
	case ST_JSON_BOOL:
		return json_boolean(*(const bool *)at);
	case ST_JSON_TEXT:
		return st_json_text(*(const char *const *)at);
	case ST_JSON_CHARS:
		return st_json_text(at);
	case ST_JSON_SHAPE:
		return st_json_shape(at, f->size / sizeof(uint64_t));
	case ST_JSON_U32S: {
		json_t *list = json_array();
		for (size_t i = 0; i < f->size / sizeof(uint32_t); i++)
			st_json_add(list, json_integer(((const uint32_t *)at)[i]));
		return list;
	}
	default: { /* what a value is read from */
		json_t *v = *(json_t *const *)at;
		return v ? json_incref(v) : json_null();
	}
	}
}

json_t *st_json_put_fields(json_t *o, const struct st_json_field *fields, size_t n, const void *from)
{
	for (const struct st_json_field *f = fields; f < fields + n; f++) {
		if (f->in && !json_object_get(o, f->in))
			st_json_put(o, f->in, json_object());
		if (f->type != ST_JSON_KNOWN)
			st_json_put(f->in ? json_object_get(o, f->in) : o, f->key[0],
			            value_of(f, (const char *)from + f->offset));
	}
	return o;
}
