/*
 * safetensors.c - reading safetensors: one file, shards by index, a Hugging Face folder.
 *
 * A file is a u64 header length, a JSON object { name: { dtype, shape, data_offsets } } with
 * offsets into what follows, and the data. The ranges must cover the data exactly: no hole, no overlap,
 * nothing behind the last one. Nothing is aligned.
 */
#include "format/safetensors.h"
#include "format/writer.h"

#include "base/cursor.h"
#include "base/error.h"

#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

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

/* A list of at most `max` integers that are no less than 0. */
static bool read_counts(const json_t *list, size_t max, uint64_t *out)
{
	if (!json_is_array(list) || json_array_size(list) > max)
		return false;
	for (size_t i = 0; i < json_array_size(list); i++) {
		const json_t *v = json_array_get(list, i);
		if (!json_is_integer(v) || json_integer_value(v) < 0)
			return false;
		out[i] = (uint64_t)json_integer_value(v);
	}
	return true;
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
	if (!read_counts(shape, ST_MAX_DIMS, t->shape))
		return st_fail(err, ST_ERR_FORMAT, "shape is not a list of non-negative integers");
	t->ndim = (uint32_t)json_array_size(shape);
	memcpy(t->file_dims, t->shape, sizeof t->file_dims);
	uint64_t r[2], at;
	if (!read_counts(range, 2, r) || json_array_size(range) != 2)
		return st_fail(err, ST_ERR_FORMAT, "data_offsets is not a pair of non-negative integers");
	if (r[0] > r[1])
		return st_fail(err, ST_ERR_FORMAT, "data_offsets end at %llu, before they begin at %llu",
		               (unsigned long long)r[1], (unsigned long long)r[0]);
	if (!st_add_u64(s->data, r[0], &at))
		return st_fail(err, ST_ERR_FORMAT, "data_offsets overflow 64 bits");
	t->file = s->file;
	ST_TRY(st_container_place(c, t, at, err));
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
	if (!json_is_object(meta))
		return st_fail(err, ST_ERR_FORMAT, "is not an object");
	json_object_foreach(meta, key, v) if (!json_is_string(v)) return st_fail(
		err, ST_ERR_FORMAT, "the value of %.80s is not a string", key);
	if (!c->metadata) /* shards: the first one that has any */
		c->metadata = json_incref(meta);
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

static enum st_status add_shard(struct st_container *c, const char *path, struct shard *s, struct st_error *err)
{
	ST_TRY(st_container_add_file(c, path, &s->file, err));
	enum st_status st = st_safetensors_refuse_stranger(&c->maps[s->file], err);
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
	return st_container_index(c, err);
}

/* ---- shard index ---- */

static int by_text(const void *a, const void *b) { return strcmp(*(const char *const *)a, *(const char *const *)b); }

/* The distinct shard names of a weight_map, sorted. They come from a stranger: a name is one of the
 * folder, nothing with a path in it. Values point into the JSON. */
static enum st_status shard_names(json_t *map, const char ***out, size_t *n_out, struct st_error *err)
{
	size_t n = 0;
	const char *key;
	json_t *v;
	const char **names = st_alloc_array(json_object_size(map), sizeof *names);
	if (!names)
		return st_fail(err, ST_ERR_NOMEM, "out of memory");
	json_object_foreach(map, key, v)
	{
		const char *s = json_string_value(v);
		const char *why =
			!s ? "weight_map does not give it a file name"
			: !*s || strchr(s, '/') || strcmp(s, ".") == 0 || strcmp(s, "..") == 0
				? "weight_map points outside the index's folder; only plain file names are followed"
				: NULL;
		if (why) {
			free(names);
			return st_fail_at(err, ST_ERR_FORMAT, ST_NO_OFFSET, key, "%s", why);
		}
		names[n++] = s;
	}
	qsort(names, n, sizeof *names, by_text);
	size_t k = 0;
	for (size_t i = 0; i < n; i++)
		if (k == 0 || strcmp(names[k - 1], names[i]) != 0)
			names[k++] = names[i];
	*out = names;
	*n_out = k;
	return ST_OK;
}

/* Every tensor must be where the index says. Tensors the index does not list are no harm. */
static enum st_status check_map(const struct st_container *c, json_t *map, const char *const *names, size_t n,
                                struct st_error *err)
{
	const char *key;
	json_t *v;
	json_object_foreach(map, key, v)
	{
		const char *want = json_string_value(v);
		const char *const *slot = bsearch(&want, names, n, sizeof *names, by_text);
		const struct st_tensor *t = st_container_find(c, key);
		if (!t)
			return st_fail_at(err, ST_ERR_FORMAT, ST_NO_OFFSET, key,
			                  "weight_map puts it into %s, which does not hold it", want);
		if (t->file != (uint32_t)(slot - names))
			return st_fail_at(err, ST_ERR_FORMAT, ST_NO_OFFSET, key,
			                  "weight_map puts it into %s, but it is in %s", want, c->maps[t->file].path);
	}
	return ST_OK;
}

static enum st_status open_shards(struct st_container *c, const char *const *paths, size_t n, struct st_error *err)
{
	struct shard *shards = calloc(n ? n : 1, sizeof *shards);
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

/* Files of one model; the first one tells in which of the two formats of Hugging Face folders they are. */
static enum st_status open_files(struct st_container *c, const char *const *paths, size_t n, struct st_error *err)
{
	bool torch = false;
	if (n > 0) {
		struct st_map m;
		ST_TRY(st_map_open(&m, paths[0], err));
		torch = st_torch_is(&m);
		st_map_close(&m);
	}
	return torch ? st_torch_shards(c, paths, n, err) : open_shards(c, paths, n, err);
}

/* The index is not among the container's files: it holds no tensor. */
static enum st_status open_index(struct st_container *c, const char *path, const char *dir, json_t *index,
                                 struct st_error *err)
{
	json_t *map = json_object_get(index, "weight_map");
	const char **names = NULL;
	size_t n = 0;
	enum st_status st = json_is_object(map) ? shard_names(map, &names, &n, err)
	                                        : st_fail_at(err, ST_ERR_FORMAT, 0, NULL,
	                                                     "JSON without an object weight_map is no shard index; of "
	                                                     "a model in a folder, name the folder");
	if (st != ST_OK) {
		st_error_in(err, path);
		return st;
	}
	const char **paths = st_arena_alloc(&c->arena, n, sizeof *paths);
	st = paths ? ST_OK : st_fail(err, ST_ERR_NOMEM, "out of memory");
	for (size_t i = 0; i < n && st == ST_OK; i++) {
		paths[i] = st_arena_printf(&c->arena, "%s/%s", dir, names[i]);
		if (!paths[i])
			st = st_fail(err, ST_ERR_NOMEM, "out of memory");
	}
	if (st == ST_OK)
		st = open_files(c, paths, n, err);
	if (st == ST_OK)
		st = check_map(c, map, names, n, err);
	free(names);
	if (st != ST_OK)
		st_error_in(err, path);
	return st;
}

/* ---- entry ---- */

bool st_safetensors_is_index(const struct st_map *m)
{
	uint64_t n = m->size < 64 ? m->size : 64, i = 0;
	while (i < n && (m->data[i] == ' ' || m->data[i] == '\t' || m->data[i] == '\r' || m->data[i] == '\n'))
		i++;
	return i < n && (m->data[i] == '{' || m->data[i] == '[') && !memchr(m->data, 0, (size_t)(n < 8 ? n : 8));
}

static enum st_status open_weights(struct st_container *c, const char *path, const char *dir, struct st_error *err)
{
	json_t *index = NULL;
	struct st_map m;
	ST_TRY(st_map_open(&m, path, err));
	bool is_index = st_safetensors_is_index(&m);
	st_map_close(&m);
	if (!is_index)
		return open_files(c, &path, 1, err);
	enum st_status st = st_json_load(path, &index, err);
	if (st == ST_OK)
		st = open_index(c, path, dir, index, err);
	json_decref(index);
	return st;
}

static enum st_status describe(struct st_container *c, bool folder, struct st_error *err)
{
	const char *where = folder ? " (Hugging Face folder)" : "";
	c->describe = c->format == ST_FORMAT_TORCH ? st_arena_printf(&c->arena, "%s%s", c->describe, where)
	            : c->n_maps == 0               ? st_arena_printf(&c->arena, "Hugging Face folder without weights")
	            : c->n_maps == 1               ? st_arena_printf(&c->arena, "safetensors%s", where)
	                             : st_arena_printf(&c->arena, "safetensors, %zu shards%s", c->n_maps, where);
	return c->describe ? ST_OK : st_fail(err, ST_ERR_NOMEM, "out of memory");
}

enum st_status st_safetensors_open(struct st_container *c, const char *path, struct st_error *err)
{
	struct stat sb;
	bool folder = stat(path, &sb) == 0 && S_ISDIR(sb.st_mode);
	const char *slash = strrchr(path, '/'), *weights = path;
	const char *dir = folder || !slash
	                        ? NULL
	                        : st_arena_strndup(&c->arena, path, (size_t)(slash - path) + (slash == path));
	if (!dir && !folder && slash)
		return st_fail(err, ST_ERR_NOMEM, "out of memory");
	dir = folder ? path : slash ? dir : ".";
	c->format = ST_FORMAT_SAFETENSORS;
	if (folder)
		ST_TRY(st_hf_weights(&c->arena, dir, &weights, err));
	if (weights)
		ST_TRY(open_weights(c, weights, dir, err));
	else
		ST_TRY(st_container_index(c, err));
	/* A trace bundle may lie in a model's folder and is no model: its neighbours are not its own. */
	const char *kind = json_string_value(json_object_get(c->metadata, "format"));
	if (!kind || strcmp(kind, "stele-trace") != 0)
		ST_TRY(st_hf_documents(c, dir, err));
	return describe(c, folder, err);
}
