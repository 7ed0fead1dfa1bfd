/* container.c - the part of a container that every format shares: its files, names, tables, and questions about it. */
#include "format/container.h"

#include "base/cursor.h"
#include "base/error.h"
#include "base/hash.h"

#include <stdlib.h>
#include <string.h>

const char *st_format_name(enum st_format f)
{
	static const char *const names[ST_FORMAT_COUNT] = {
		"GGUF", "safetensors", "APR", "npy", "npz", "torch", "APRT"
	};
	return f < ST_FORMAT_COUNT ? names[f] : "unknown";
}

void st_container_close(struct st_container *c)
{
	if (!c)
		return;
	for (size_t i = 0; i < c->n_maps; i++)
		st_map_close(&c->maps[i]);
	json_decref(c->docs.metadata);
	json_decref(c->docs.config);
	json_decref(c->docs.generation_config);
	json_decref(c->docs.tokenizer);
	json_decref(c->docs.tokenizer_config);
	st_arena_release(&c->arena);
	free(c);
}

enum st_status st_container_add_file(struct st_container *c, const char *path, uint32_t *index, struct st_error *err)
{
	/* The array is full at 0, 1, 2, 4, ... files and then doubles; the arena keeps the old one, so
	 * that earlier pointers stay readable. */
	if ((c->n_maps & (c->n_maps - 1)) == 0) {
		struct st_map *maps = st_arena_alloc2(&c->arena, c->n_maps ? c->n_maps : 1, 2, sizeof *maps);
		if (!maps)
			return st_fail(err, ST_ERR_NOMEM, "out of memory");
		if (c->n_maps)
			memcpy(maps, c->maps, c->n_maps * sizeof *maps);
		c->maps = maps;
	}
	ST_TRY(st_map_open(&c->maps[c->n_maps], path, err));
	*index = (uint32_t)c->n_maps++;
	return ST_OK;
}

/* ---- tables and names ---- */

void *st_container_table(struct st_container *c, uint64_t n, size_t size, const char *what, struct st_error *err)
{
	/* The promise is file size + 64 MB in all; a table may have half of that, since names, indexes and a
	 * header's tree come on top. */
	uint64_t files = 0, want;
	for (size_t i = 0; i < c->n_maps; i++)
		files += c->maps[i].size;
	if (!st_mul_u64(n, size + 64, &want) || want > files / 2 + ((uint64_t)32 << 20)) {
		(void)st_fail(err, ST_ERR_LIMIT, "%llu %s are too many for %llu bytes of file", (unsigned long long)n,
		              what, (unsigned long long)files);
		return NULL;
	}
	void *p = st_arena_alloc(&c->arena, n, size);
	if (!p)
		(void)st_fail(err, ST_ERR_NOMEM, "out of memory");
	return p;
}

enum st_status st_container_name(struct st_container *c, const char *s, uint64_t n, uint64_t max, uint64_t offset,
                                 const char *what, const char **out, struct st_error *err)
{
	if (n == 0)
		return st_fail_at(err, ST_ERR_FORMAT, offset, what, "is empty");
	if (n > max)
		return st_fail_at(err, ST_ERR_LIMIT, offset, what, "has %llu bytes, at most %llu are allowed",
		                  (unsigned long long)n, (unsigned long long)max);
	if (memchr(s, 0, (size_t)n))
		return st_fail_at(err, ST_ERR_FORMAT, offset, what, "holds a NUL byte");
	if (!st_utf8_valid(s, (size_t)n))
		return st_fail_at(err, ST_ERR_FORMAT, offset, what, "is not UTF-8");
	*out = st_arena_strndup(&c->arena, s, (size_t)n);
	return *out ? ST_OK : st_fail(err, ST_ERR_NOMEM, "out of memory");
}

enum st_status st_container_name_of_file(struct st_container *c, const char *path, const char *suffix, const char **out,
                                         struct st_error *err)
{
	const char *slash = strrchr(path, '/'), *name = slash ? slash + 1 : path;
	size_t n = strlen(name), s = strlen(suffix);
	if (n > s && strcmp(name + n - s, suffix) == 0)
		n -= s;
	/* A file may have any bytes for a name; a tensor may not. */
	if (n == 0 || !st_utf8_valid(name, n)) {
		name = "array";
		n = strlen(name);
	}
	*out = st_arena_strndup(&c->arena, name, n);
	return *out ? ST_OK : st_fail(err, ST_ERR_NOMEM, "out of memory");
}

static int by_name(const void *a, const void *b)
{
	return strcmp((*(const struct st_tensor *const *)a)->name, (*(const struct st_tensor *const *)b)->name);
}

enum st_status st_container_index(struct st_container *c, struct st_error *err)
{
	c->by_name = st_arena_alloc(&c->arena, c->n_tensors, sizeof *c->by_name);
	if (!c->by_name)
		return st_fail(err, ST_ERR_NOMEM, "out of memory");
	for (size_t i = 0; i < c->n_tensors; i++)
		c->by_name[i] = &c->tensors[i];
	qsort(c->by_name, c->n_tensors, sizeof *c->by_name, by_name);
	for (size_t i = 1; i < c->n_tensors; i++) {
		const struct st_tensor *a = c->by_name[i - 1], *b = c->by_name[i];
		if (strcmp(a->name, b->name) != 0)
			continue;
		if (a->file != b->file)
			return st_fail(err, ST_ERR_FORMAT, "tensor %s is in two files, %s and %s", a->name,
			               c->maps[a->file].path, c->maps[b->file].path);
		return st_fail_at(err, ST_ERR_FORMAT, ST_NO_OFFSET, a->name,
		                  "the tensor is listed twice, with data at byte %llu and at byte %llu",
		                  (unsigned long long)a->offset, (unsigned long long)b->offset);
	}
	return ST_OK;
}

const struct st_tensor *st_container_find(const struct st_container *c, const char *name)
{
	for (size_t lo = 0, hi = c->n_tensors; lo < hi;) {
		size_t mid = lo + (hi - lo) / 2;
		int d = strcmp(name, c->by_name[mid]->name);
		if (d == 0)
			return c->by_name[mid];
		if (d < 0)
			hi = mid;
		else
			lo = mid + 1;
	}
	return NULL;
}

/* ---- questions ---- */

enum st_format st_container_format(const struct st_container *c) { return c->format; }
const char *st_container_describe(const struct st_container *c) { return c->describe; }
const char *st_container_path(const struct st_container *c) { return c->path; }
size_t st_container_n_files(const struct st_container *c) { return c->n_maps; }
const char *st_container_file_path(const struct st_container *c, size_t i) { return c->maps[i].path; }
uint64_t st_container_file_size(const struct st_container *c, size_t i) { return c->maps[i].size; }
size_t st_container_n_tensors(const struct st_container *c) { return c->n_tensors; }
const struct st_tensor *st_container_tensor(const struct st_container *c, size_t i) { return &c->tensors[i]; }

enum st_status st_container_sha256(const struct st_container *c, char hex[65], struct st_error *err)
{
	if (c->n_maps == 1)
		return st_sha256_hex(c->maps[0].data, c->maps[0].size, hex, err);
	struct st_sha256 *all = st_sha256_new();
	if (!all)
		return st_fail(err, ST_ERR_NOMEM, "out of memory");
	enum st_status st = ST_OK;
	uint8_t digest[32];
	for (size_t i = 0; i < c->n_maps && st == ST_OK; i++) {
		char one[65];
		st = st_sha256_hex(c->maps[i].data, c->maps[i].size, one, err);
		for (size_t k = 0; k < 32 && st == ST_OK; k++) {
			const char pair[3] = { one[2 * k], one[2 * k + 1], '\0' };
			digest[k] = (uint8_t)strtoul(pair, NULL, 16);
		}
		if (st == ST_OK)
			st_sha256_update(all, digest, sizeof digest);
	}
	st_sha256_final(all, digest);
	if (st == ST_OK)
		st_hex(digest, sizeof digest, hex);
	return st;
}

bool st_container_is_bundle(const struct st_container *c)
{
	const char *format = json_string_value(json_object_get(c->docs.metadata, "format"));
	return format && strcmp(format, "stele-trace") == 0;
}
