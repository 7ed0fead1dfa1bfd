/*
 * safetensors.c - reading safetensors, in one file or in shards.
 *
 * A file is a u64 header length, a JSON object { name: { dtype, shape, data_offsets } } with
 * offsets into what follows, and the data. The ranges must cover the data exactly: no hole, no overlap,
 * nothing behind the last one. Nothing is aligned.
 */
#include "format/safetensors.h"
#include "format/recognise.h"
#include "format/tensors.h"
#include "format/writer.h"

#include "base/cursor.h"
#include "base/error.h"

#include <stdlib.h>
#include <string.h>

static const struct {
	const char *name;
	enum st_dtype dtype;
} types[] = {
	{ "F64", ST_DTYPE_F64 },   { "F32", ST_DTYPE_F32 },         { "F16", ST_DTYPE_F16 },
	{ "BF16", ST_DTYPE_BF16 }, { "F8_E4M3", ST_DTYPE_F8_E4M3 }, { "F8_E5M2", ST_DTYPE_F8_E5M2 },
	{ "I64", ST_DTYPE_I64 },   { "I32", ST_DTYPE_I32 },         { "I16", ST_DTYPE_I16 },
	{ "I8", ST_DTYPE_I8 },     { "U64", ST_DTYPE_U64 },         { "U32", ST_DTYPE_U32 },
	{ "U16", ST_DTYPE_U16 },   { "U8", ST_DTYPE_U8 },           { "BOOL", ST_DTYPE_BOOL },
};
#define N_TYPES (sizeof types / sizeof *types)

const char *st_safetensors_name_of(enum st_dtype t)
{
	for (size_t i = 0; i < N_TYPES; i++)
		if (types[i].dtype == t)
			return types[i].name;
	return NULL;
}

/* One mapped file and its parsed header; the header lives until the tensors are made. */
struct shard {
	uint32_t file;
	json_t *header;
	uint64_t data; /* file offset of the first data byte */
};

/* Where in the file a tensor's descriptor stands, for messages: its quoted name followed by a colon. A name
 * that the header spells with escapes is not found, and the message points at the header. */
static uint64_t place_of(const struct st_map *m, const struct shard *s, const char *name)
{
	size_t n = strlen(name);
	const char *p = (const char *)m->data + 8, *end = (const char *)m->data + s->data;
	while ((size_t)(end - p) > n + 2) {
		const char *q = memmem(p, (size_t)(end - p), name, n);
		if (!q || (size_t)(end - q) < n + 2)
			break;
		const char *after = q + n + 1;
		while (after < end && (*after == ' ' || *after == '\n' || *after == '\t' || *after == '\r'))
			after++;
		if (q[-1] == '"' && q[n] == '"' && after < end && *after == ':')
			return (uint64_t)(q - 1 - (const char *)m->data);
		p = q + 1;
	}
	return 8;
}

static enum st_status read_header(const struct st_container *c, struct shard *s, struct st_error *err)
{
	const struct st_map *m = &c->maps[s->file];
	if (m->size < 8)
		return st_fail_at(err, ST_ERR_FORMAT, 0, "header length", "needs 8 bytes, %llu are there",
		                  (unsigned long long)m->size);
	uint64_t n = st_load_u64(m->data);
	if (n == 0)
		return st_fail_at(err, ST_ERR_FORMAT, 0, "header length", "is 0");
	if (n > m->size - 8)
		return st_fail_at(err, ST_ERR_FORMAT, 0, "header length", "is %llu, but only %llu bytes follow",
		                  (unsigned long long)n, (unsigned long long)(m->size - 8));
	if (n > ST_SAFETENSORS_MAX_HEADER)
		return st_fail_at(err, ST_ERR_LIMIT, 0, "header length", "is %llu, at most %u are allowed",
		                  (unsigned long long)n, ST_SAFETENSORS_MAX_HEADER);
	if (m->data[8] != '{')
		return st_fail_at(err, ST_ERR_FORMAT, 8, "header", "does not begin with a brace");
	ST_TRY(st_json_parse_within((const char *)m->data + 8, n, 8, m->size + ((uint64_t)40 << 20), &s->header, err));
	if (!json_is_object(s->header))
		return st_fail_at(err, ST_ERR_FORMAT, 8, "header", "is not a JSON object");
	s->data = 8 + n;
	return ST_OK;
}

/* One descriptor into t, placed in the file. The messages need no offset: the caller puts the entry's. */
static enum st_status read_descriptor(const struct st_container *c, const struct shard *s, const json_t *d,
                                      struct st_tensor *t, struct st_error *err)
{
	const json_t *dtype = json_object_get(d, "dtype"), *shape = json_object_get(d, "shape"),
		     *range = json_object_get(d, "data_offsets");
	if (!json_is_object(d) || !dtype || !shape || !range)
		return st_fail(err, ST_ERR_FORMAT, "is not an object with dtype, shape and data_offsets");
	if (!json_is_string(dtype))
		return st_fail(err, ST_ERR_FORMAT, "dtype is not a string");
	size_t k = 0;
	while (k < N_TYPES && strcmp(json_string_value(dtype), types[k].name) != 0)
		k++;
	if (k == N_TYPES)
		return st_fail(err, ST_ERR_UNSUPPORTED,
		               "dtype %.40s is not supported; supported: F64 F32 F16 BF16 F8_E4M3 F8_E5M2 "
		               "I64 I32 I16 I8 U64 U32 U16 U8 BOOL",
		               json_string_value(dtype));
	t->dtype = types[k].dtype;
	if (json_is_array(shape) && json_array_size(shape) > ST_MAX_DIMS)
		return st_fail(err, ST_ERR_LIMIT, "has %zu dimensions, at most %d are supported",
		               json_array_size(shape), ST_MAX_DIMS);
	size_t n;
	if (!st_json_counts(shape, ST_MAX_DIMS, t->shape, &n))
		return st_fail(err, ST_ERR_FORMAT, "shape is not a list of non-negative integers");
	t->ndim = (uint32_t)n;
	memcpy(t->file_dims, t->shape, sizeof t->file_dims);
	uint64_t r[2], at;
	if (!st_json_counts(range, 2, r, &n) || n != 2)
		return st_fail(err, ST_ERR_FORMAT, "data_offsets is not a pair of non-negative integers");
	if (r[0] > r[1])
		return st_fail(err, ST_ERR_FORMAT, "data_offsets end at %llu, before they begin at %llu",
		               (unsigned long long)r[1], (unsigned long long)r[0]);
	if (!st_add_u64(s->data, r[0], &at))
		return st_fail(err, ST_ERR_FORMAT, "data_offsets overflow 64 bits");
	t->file = s->file;
	ST_TRY(st_tensor_place(t, &(struct st_span){ c->maps[s->file].data, c->maps[s->file].size, 0 }, at, err));
	if (t->n_bytes != r[1] - r[0])
		return st_fail(err, ST_ERR_FORMAT, "shape and dtype need %llu bytes, data_offsets span %llu",
		               (unsigned long long)t->n_bytes, (unsigned long long)(r[1] - r[0]));
	return ST_OK;
}

/* By place; an empty tensor comes before the one that begins where it stands. */
static int by_place(const void *a, const void *b)
{
	const struct st_tensor *x = a, *y = b;
	if (x->offset != y->offset)
		return x->offset < y->offset ? -1 : 1;
	if (x->n_bytes != y->n_bytes)
		return x->n_bytes < y->n_bytes ? -1 : 1;
	return strcmp(x->name, y->name);
}

static enum st_status check_cover(const struct st_container *c, const struct shard *s, const struct st_tensor *t,
                                  size_t n, struct st_error *err)
{
	uint64_t at = s->data, size = c->maps[s->file].size;
	for (size_t i = 0; i < n; i++) {
		if (t[i].offset < at)
			return st_fail_at(err, ST_ERR_FORMAT, t[i].offset, t[i].name,
			                  "overlaps tensor %s, which ends at byte %llu", t[i - 1].name,
			                  (unsigned long long)at);
		if (t[i].offset > at)
			return st_fail_at(err, ST_ERR_FORMAT, at, t[i].name, "%llu bytes before it belong to no tensor",
			                  (unsigned long long)(t[i].offset - at));
		at += t[i].n_bytes;
	}
	if (at != size)
		return st_fail_at(err, ST_ERR_FORMAT, at, NULL, "%llu bytes behind the last tensor belong to none",
		                  (unsigned long long)(size - at));
	return ST_OK;
}

static enum st_status read_metadata(struct st_container *c, json_t *meta, struct st_error *err)
{
	const char *key;
	json_t *v;
	if (json_is_null(meta)) /* MLX writes none so */
		return ST_OK;
	if (!json_is_object(meta))
		return st_fail(err, ST_ERR_FORMAT, "is not an object");
	json_object_foreach(meta, key, v) if (!json_is_string(v)) return st_fail(
		err, ST_ERR_FORMAT, "the value of %.80s is not a string", key);
	if (!c->docs.metadata) /* shards: the first one that has any */
		c->docs.metadata = json_incref(meta);
	return ST_OK;
}

/* The tensors of one shard onto the end of c->tensors, in the order of their data. */
static enum st_status read_tensors(struct st_container *c, const struct shard *s, struct st_error *err)
{
	struct st_tensor *t = c->tensors + c->n_tensors;
	size_t n = 0;
	const char *key;
	json_t *v;
	json_object_foreach(s->header, key, v)
	{
		enum st_status st;
		struct st_error why = ST_ERROR_INIT;
		if (strcmp(key, "__metadata__") == 0) {
			st = read_metadata(c, v, &why);
		} else {
			ST_TRY(st_container_name(c, key, strlen(key), SIZE_MAX, 8, "tensor name", &t[n].name, err));
			st = read_descriptor(c, s, v, &t[n++], &why);
		}
		if (st != ST_OK)
			return st_fail_at(err, st, place_of(&c->maps[s->file], s, key), key, "%s", why.message);
	}
	qsort(t, n, sizeof *t, by_place);
	c->n_tensors += n;
	return check_cover(c, s, t, n, err);
}

/* A file that a folder or an index calls one of weights may be something else, often a Git LFS pointer: say so. */
static enum st_status refuse_stranger(const struct st_map *m, struct st_error *err)
{
	return m->size > 8 && (m->data[8] == '{' || st_recognise(m) == ST_CONTENT_SAFETENSORS)
	             ? ST_OK
	             : st_refuse_stranger(m, err);
}

static enum st_status add_shard(struct st_container *c, const char *path, struct shard *s, struct st_error *err)
{
	ST_TRY(st_container_add_file(c, path, &s->file, err));
	enum st_status st = refuse_stranger(&c->maps[s->file], err);
	if (st == ST_OK)
		st = read_header(c, s, err);
	if (st != ST_OK)
		st_error_in(err, path);
	return st;
}

static enum st_status read_shards(struct st_container *c, const struct shard *s, size_t n, struct st_error *err)
{
	size_t total = 0;
	for (size_t i = 0; i < n; i++)
		total += json_object_size(s[i].header);
	c->tensors = st_container_table(c, total, sizeof *c->tensors, "tensors", err);
	if (!c->tensors)
		return err->code;
	for (size_t i = 0; i < n; i++) {
		enum st_status st = read_tensors(c, &s[i], err);
		if (st != ST_OK) {
			st_error_in(err, c->maps[s[i].file].path);
			return st;
		}
	}
	return ST_OK;
}

enum st_status st_safetensors_shards(struct st_container *c, const char *const *paths, size_t n, struct st_error *err)
{
	struct shard *shards = st_alloc_zeroed(n, sizeof *shards);
	enum st_status st = shards ? ST_OK : st_fail(err, ST_ERR_NOMEM, "out of memory");
	for (size_t i = 0; i < n && st == ST_OK; i++)
		st = add_shard(c, paths[i], &shards[i], err);
	if (st == ST_OK)
		st = read_shards(c, shards, n, err);
	for (size_t i = 0; i < n && shards; i++)
		json_decref(shards[i].header);
	free(shards);
	return st;
}
