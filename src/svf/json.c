/* json.c - reading and writing the JSON files of this room. */
#include "svf/svf.h"

#include "base/error.h"
#include "base/outfile.h"

#include <stdlib.h>
#include <string.h>

enum st_status st_svf_write_json(const char *path, const json_t *j, struct st_error *err)
{
	char *s = st_json_ok(j) ? json_dumps(j, JSON_INDENT(2) | JSON_SORT_KEYS | JSON_REAL_PRECISION(17)) : NULL;
	struct st_outfile *f = NULL;
	enum st_status st = s ? st_outfile_open(path, &f, err) : st_fail(err, ST_ERR_NOMEM, "out of memory");
	if (st == ST_OK)
		st = st_outfile_write(f, s, strlen(s), err);
	if (st == ST_OK)
		st = st_outfile_write(f, "\n", 1, err);
	if (st == ST_OK)
		st = st_outfile_commit(f, err);
	else
		st_outfile_abort(f);
	free(s);
	return st;
}

enum st_status st_svf_load_json(const char *path, json_t **out, struct st_error *err)
{
	ST_TRY(st_json_load(path, out, err));
	enum st_status st = ST_OK;
	if (!*out)
		st = st_fail(err, ST_ERR_IO, "no such file");
	else if (!json_is_object(*out))
		st = st_fail(err, ST_ERR_FORMAT, "holds a JSON value that is not an object");
	if (st != ST_OK) {
		st_error_in(err, path);
		json_decref(*out);
		*out = NULL;
	}
	return st;
}

/* "entries[3].key"; where may be empty. */
static void place(char *buf, size_t n, const char *where, const char *key)
{
	snprintf(buf, n, "%s%s%s", where, where[0] ? "." : "", key);
}

/* The value as it stands in the file, cut short. */
static enum st_status bad(const json_t *v, const char *where, const char *key, const char *wanted, struct st_error *err)
{
	char at[160];
	place(at, sizeof at, where, key);
	if (!v)
		return st_fail_at(err, ST_ERR_FORMAT, ST_NO_OFFSET, at, "is missing");
	char *s = json_dumps(v, JSON_COMPACT | JSON_ENCODE_ANY);
	enum st_status st = st_fail_at(err, ST_ERR_FORMAT, ST_NO_OFFSET, at, "is %.100s, not %s", s ? s : "?", wanted);
	free(s);
	return st;
}

enum st_status st_svf_get_text(const json_t *o, const char *where, const char *key, const char **out,
                               struct st_error *err)
{
	const json_t *v = json_object_get(o, key);
	if (!json_is_string(v) || json_string_length(v) == 0 || strlen(json_string_value(v)) != json_string_length(v))
		return bad(v, where, key, "a text", err);
	*out = json_string_value(v);
	return ST_OK;
}

enum st_status st_svf_get_u64(const json_t *o, const char *where, const char *key, uint64_t *out, struct st_error *err)
{
	const json_t *v = json_object_get(o, key);
	if (!json_is_integer(v) || json_integer_value(v) < 0)
		return bad(v, where, key, "a whole number", err);
	*out = (uint64_t)json_integer_value(v);
	return ST_OK;
}

enum st_status st_svf_get_shape(const json_t *o, const char *where, const char *key, uint64_t shape[2],
                                struct st_error *err)
{
	const json_t *v = json_object_get(o, key);
	bool ok = json_is_array(v) && json_array_size(v) == 2;
	for (size_t i = 0; ok && i < 2; i++) {
		const json_t *d = json_array_get(v, i);
		/* 2^31 is beyond any matrix and keeps products within 64 bits. */
		ok = json_is_integer(d) && json_integer_value(d) > 0 && json_integer_value(d) < (json_int_t)1 << 31;
		shape[i] = ok ? (uint64_t)json_integer_value(d) : 0;
	}
	return ok ? ST_OK : bad(v, where, key, "a shape of two dimensions", err);
}

static bool listed(const char *const *list, const char *key)
{
	for (; list && *list; list++)
		if (strcmp(*list, key) == 0)
			return true;
	return false;
}

enum st_status st_svf_check_keys(const json_t *o, const char *where, const char *const *required,
                                 const char *const *optional, struct st_error *err)
{
	const char *key;
	json_t *v;
	char at[160];
	for (const char *const *k = required; *k; k++)
		if (!json_object_get(o, *k)) {
			place(at, sizeof at, where, *k);
			return st_fail_at(err, ST_ERR_FORMAT, ST_NO_OFFSET, at, "is missing");
		}
	json_object_foreach((json_t *)(uintptr_t)o, key, v) if (!listed(required, key) && !listed(optional, key))
	{
		place(at, sizeof at, where, key);
		return bad(v, where, key, "a key that a manifest of this kind has", err);
	}
	return ST_OK;
}
