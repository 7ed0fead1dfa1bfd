/*
 * gguf.c - reading GGUF v2 and v3, in one file or in splits.
 *
 * A file is: "GGUF", u32 version, u64 tensors, u64 keys; the keys, each a string, a u32 type
 * and a value; the tensor table, each a name, u32 n_dims, u64 dims (fastest first), u32 type and u64 offset;
 * zeros up to the alignment; the tensors. Strings are a u64 length and bytes. Versions 2 and 3 differ
 * in nothing a little-endian reader sees.
 */
#include "format/gguf.h"
#include "format/tensors.h"

#include "base/cursor.h"
#include "base/error.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Least bytes of a key (length, type, a one-byte value) and of a tensor (length, n_dims, type, offset):
 * what a count is checked against before a table is allocated for it. */
#define MIN_KEY_BYTES 13
#define MIN_TENSOR_BYTES 24

/* One file of the model. */
struct part {
	struct st_kv_table keys;
	uint32_t version;
	uint64_t alignment;
	struct st_cursor cur;
	uint32_t file;
	uint64_t n_tensors;
};

static enum st_status read_value(struct st_cursor *cur, struct st_kv *kv)
{
	if (kv->type == ST_KV_STR || (kv->type == ST_KV_ARR && kv->elem == ST_KV_STR)) {
		/* Each string has at least its length; checked first so that a huge count fails at once. */
		if (kv->type == ST_KV_ARR && kv->count > st_cursor_left(cur) / 8)
			return st_fail_at(cur->err, ST_ERR_FORMAT, st_cursor_offset(cur), kv->key,
			                  "array of %llu strings cannot fit in the %llu bytes left",
			                  (unsigned long long)kv->count, (unsigned long long)st_cursor_left(cur));
		for (uint64_t i = 0; i < kv->count && cur->st == ST_OK; i++)
			st_cursor_bytes(cur, st_cursor_u64(cur, kv->key), kv->key);
		return cur->st;
	}
	enum st_kv_type t = kv->type == ST_KV_ARR ? kv->elem : kv->type;
	uint64_t bytes;
	if (!st_mul_u64(kv->count, st_kv_size(t), &bytes))
		bytes = UINT64_MAX;
	const uint8_t *p = st_cursor_bytes(cur, bytes, kv->key);
	if (p && t == ST_KV_BOOL)
		for (uint64_t i = 0; i < kv->count; i++)
			if (p[i] > 1)
				return st_fail_at(cur->err, ST_ERR_FORMAT, kv->offset + i, kv->key,
				                  "bool has the value %u, must be 0 or 1", p[i]);
	return cur->st;
}

static enum st_status read_type(struct st_cursor *cur, const char *key, enum st_kv_type *out)
{
	uint64_t at = st_cursor_offset(cur);
	uint32_t t = st_cursor_u32(cur, key);
	ST_TRY(cur->st);
	if (t >= ST_KV_COUNT)
		return st_fail_at(cur->err, ST_ERR_FORMAT, at, key, "unknown value type %u", t);
	*out = (enum st_kv_type)t;
	return ST_OK;
}

static enum st_status read_string_name(struct st_container *c, struct st_cursor *cur, uint64_t max, const char *what,
                                       const char **out)
{
	uint64_t at = st_cursor_offset(cur), n = st_cursor_u64(cur, what);
	const uint8_t *s = st_cursor_bytes(cur, n, what);
	ST_TRY(cur->st);
	return st_container_name(c, (const char *)s, n, max, at, what, out, cur->err);
}

static enum st_status read_keys(struct st_container *c, struct part *p)
{
	struct st_cursor *cur = &p->cur;
	for (size_t i = 0; i < p->keys.n; i++) {
		struct st_kv *kv = &p->keys.kv[i];
		ST_TRY(read_string_name(c, cur, ST_GGUF_MAX_KEY, "key", &kv->key));
		ST_TRY(read_type(cur, kv->key, &kv->type));
		kv->count = 1;
		if (kv->type == ST_KV_ARR) {
			uint64_t at = st_cursor_offset(cur);
			ST_TRY(read_type(cur, kv->key, &kv->elem));
			if (kv->elem == ST_KV_ARR)
				return st_fail_at(cur->err, ST_ERR_UNSUPPORTED, at, kv->key,
				                  "arrays of arrays are not supported");
			kv->count = st_cursor_u64(cur, kv->key);
			ST_TRY(cur->st);
		}
		kv->offset = st_cursor_offset(cur);
		kv->data = cur->base + cur->pos;
		ST_TRY(read_value(cur, kv));
	}
	return ST_OK;
}

static enum st_status check_version(uint32_t v, struct st_error *err)
{
	if (v == 2 || v == 3)
		return ST_OK;
	/* A big-endian file has its version the other way round. */
	if (v && (v & 0xFFFF) == 0)
		return st_fail_at(err, ST_ERR_UNSUPPORTED, 4, "version",
		                  "big-endian GGUF is not supported, only little-endian");
	if (v == 1)
		return st_fail_at(
			err, ST_ERR_UNSUPPORTED, 4, "version",
			"GGUF v1 (32-bit counts, 2023) is not supported, only v2 and v3; convert the file anew");
	return st_fail_at(err, ST_ERR_UNSUPPORTED, 4, "version", "GGUF v%u is not supported, only v2 and v3", v);
}

/* Everything up to the tensor table. */
static enum st_status read_head(struct st_container *c, struct part *p, uint32_t file, struct st_error *err)
{
	const struct st_map *m = &c->maps[file];
	struct st_cursor *cur = &p->cur;
	p->file = file;
	st_cursor_init(cur, m->data, m->size, 0, err);
	const uint8_t *magic = st_cursor_bytes(cur, 4, "magic");
	if (magic && memcmp(magic, "GGUF", 4) != 0)
		return st_fail_at(err, ST_ERR_FORMAT, 0, "magic", "is not GGUF");
	p->version = st_cursor_u32(cur, "version");
	ST_TRY(cur->st);
	ST_TRY(check_version(p->version, err));
	p->n_tensors = st_cursor_u64(cur, "tensor count");
	uint64_t n_kv = st_cursor_u64(cur, "key count");
	ST_TRY(cur->st);
	uint64_t left = st_cursor_left(cur);
	if (p->n_tensors > left / MIN_TENSOR_BYTES)
		return st_fail_at(err, ST_ERR_FORMAT, 8, "tensor count",
		                  "is %llu, more than the %llu bytes that follow can hold",
		                  (unsigned long long)p->n_tensors, (unsigned long long)left);
	if (n_kv > left / MIN_KEY_BYTES)
		return st_fail_at(err, ST_ERR_FORMAT, 16, "key count",
		                  "is %llu, more than the %llu bytes that follow can hold", (unsigned long long)n_kv,
		                  (unsigned long long)left);
	p->keys.kv = st_container_table(c, n_kv, sizeof *p->keys.kv, "keys", err);
	if (!p->keys.kv)
		return err->code;
	p->keys.n = (size_t)n_kv;
	ST_TRY(read_keys(c, p));
	ST_TRY(st_kv_index(&p->keys, &c->arena, err));

	bool found;
	p->alignment = ST_GGUF_ALIGNMENT;
	ST_TRY(st_kv_u64(&p->keys, "general.alignment", &p->alignment, &found, err));
	uint64_t a = p->alignment;
	if (a == 0 || (a & (a - 1)) != 0)
		return st_fail_at(err, ST_ERR_FORMAT, st_kv_find(&p->keys, "general.alignment")->offset,
		                  "general.alignment", "is %llu, must be a power of two", (unsigned long long)a);
	return ST_OK;
}

static enum st_status refuse_type(const struct st_tensor *t, uint32_t type, uint64_t at, struct st_error *err)
{
	char supported[256];
	st_gguf_supported(supported, sizeof supported);
	const char *name = st_gguf_type_name(type);
	if (!name)
		return st_fail_at(err, ST_ERR_FORMAT, at, t->name, "unknown type %u; supported: %s", type, supported);
	return st_fail_at(err, ST_ERR_UNSUPPORTED, at, t->name, "type %s (%u) is not supported yet; supported: %s",
	                  name, type, supported);
}

/* The table of one file into t[0 .. n_tensors), then their places, which begin after the table. */
static enum st_status read_tensors(struct st_container *c, struct part *p, struct st_tensor *t, struct st_error *err)
{
	struct st_cursor *cur = &p->cur;
	for (uint64_t i = 0; i < p->n_tensors; i++) {
		t[i].file = p->file;
		ST_TRY(read_string_name(c, cur, ST_GGUF_MAX_NAME, "tensor name", &t[i].name));
		uint64_t at = st_cursor_offset(cur);
		t[i].ndim = st_cursor_u32(cur, t[i].name);
		if (t[i].ndim > ST_GGUF_MAX_DIMS)
			return st_fail_at(err, ST_ERR_FORMAT, at, t[i].name, "has %u dimensions, GGUF allows %u",
			                  t[i].ndim, ST_GGUF_MAX_DIMS);
		/* [in, out] of the file becomes [out, in]: the same bytes, named outermost first. */
		for (uint32_t d = 0; d < t[i].ndim; d++)
			t[i].file_dims[d] = t[i].shape[t[i].ndim - 1 - d] = st_cursor_u64(cur, t[i].name);
		at = st_cursor_offset(cur);
		uint32_t type = st_cursor_u32(cur, t[i].name);
		ST_TRY(cur->st);
		if (!st_gguf_type_to(type, &t[i].dtype))
			return refuse_type(&t[i], type, at, err);
		at = st_cursor_offset(cur);
		t[i].offset = st_cursor_u64(cur, t[i].name);
		ST_TRY(cur->st);
		if (t[i].offset % p->alignment != 0)
			return st_fail_at(err, ST_ERR_FORMAT, at, t[i].name,
			                  "offset %llu is no multiple of the alignment %llu",
			                  (unsigned long long)t[i].offset, (unsigned long long)p->alignment);
	}
	const struct st_span span = { c->maps[p->file].data, c->maps[p->file].size, 0 };
	uint64_t base, where;
	if (!st_round_up(st_cursor_offset(cur), p->alignment, &base))
		base = UINT64_MAX; /* an alignment beyond any file: tensors, if any, cannot be placed */
	for (uint64_t i = 0; i < p->n_tensors; i++) {
		if (!st_add_u64(base, t[i].offset, &where))
			return st_fail_at(err, ST_ERR_FORMAT, base, t[i].name, "offset %llu overflows 64 bits",
			                  (unsigned long long)t[i].offset);
		const struct st_dtype_info *info = st_dtype_info(t[i].dtype);
		if (st_tensor_cols(&t[i]) % info->block_elems != 0)
			return st_fail_at(err, ST_ERR_FORMAT, ST_NO_OFFSET, t[i].name,
			                  "rows of %llu elements are no multiple of the block of %u of %s",
			                  (unsigned long long)st_tensor_cols(&t[i]), info->block_elems, info->name);
		ST_TRY(st_tensor_place(&t[i], &span, where, err));
	}
	return ST_OK;
}

static int by_offset(const void *a, const void *b)
{
	const struct st_tensor *x = *(const struct st_tensor *const *)a, *y = *(const struct st_tensor *const *)b;
	return (x->offset > y->offset) - (x->offset < y->offset);
}

/* No writer shares bytes between tensors; two tables that overlap mean that one of them is wrong. */
static enum st_status check_overlap(struct st_container *c, const struct st_tensor *t, uint64_t n, struct st_error *err)
{
	const struct st_tensor **order = st_alloc_array(n, sizeof *order);
	if (!order)
		return st_fail(err, ST_ERR_NOMEM, "out of memory");
	size_t k = 0;
	for (uint64_t i = 0; i < n; i++)
		if (t[i].n_bytes)
			order[k++] = &t[i];
	qsort(order, k, sizeof *order, by_offset);
	enum st_status st = ST_OK;
	for (size_t i = 1; i < k && st == ST_OK; i++)
		if (order[i]->offset - order[i - 1]->offset < order[i - 1]->n_bytes)
			st = st_fail_at(err, ST_ERR_FORMAT, order[i]->offset, order[i]->name,
			                "overlaps tensor %s, whose %llu bytes begin at byte %llu", order[i - 1]->name,
			                (unsigned long long)order[i - 1]->n_bytes,
			                (unsigned long long)order[i - 1]->offset);
	free(order);
	if (st != ST_OK)
		st_error_in(err, c->maps[t->file].path);
	return st;
}

/* ---- splits ---- */

/* The last "-DDDDD-of-DDDDD" of the file's name: what separates the splits of one model. */
static const char *split_mark(const char *path)
{
	const char *base = strrchr(path, '/'), *mark = NULL;
	for (const char *p = base ? base + 1 : path; *p; p++) {
		size_t i = 0;
		for (const char *form = "-00000-of-00000"; form[i] && p[i]; i++)
			if (form[i] == '0' ? !isdigit((unsigned char)p[i]) : p[i] != form[i])
				break;
		if (i == 15)
			mark = p;
	}
	return mark;
}

static const char *split_path(struct st_container *c, const char *path, uint64_t no, uint64_t count)
{
	const char *mark = split_mark(path);
	return st_arena_printf(&c->arena, "%.*s-%05llu-of-%05llu%s", (int)(mark - path), path,
	                       (unsigned long long)no + 1, (unsigned long long)count, mark + 15);
}

struct split {
	uint64_t no, count, tensors;
	bool total_known;
};

static enum st_status read_split(const struct part *p, struct split *s, struct st_error *err)
{
	bool found;
	*s = (struct split){ .count = 1 };
	ST_TRY(st_kv_u64(&p->keys, "split.count", &s->count, &found, err));
	ST_TRY(st_kv_u64(&p->keys, "split.no", &s->no, &found, err));
	return st_kv_u64(&p->keys, "split.tensors.count", &s->tensors, &s->total_known, err);
}

/* Map and read the heads of the other splits; the first one's keys stand for the model. */
static enum st_status read_other_heads(struct st_container *c, const char *path, struct part *parts,
                                       const struct split *first, struct st_error *err)
{
	for (uint64_t i = 1; i < first->count; i++) {
		const char *other = split_path(c, path, i, first->count);
		if (!other)
			return st_fail(err, ST_ERR_NOMEM, "out of memory");
		uint32_t file;
		struct split s;
		ST_TRY(st_container_add_file(c, other, &file, err));
		enum st_status st = read_head(c, &parts[i], file, err);
		if (st == ST_OK)
			st = read_split(&parts[i], &s, err);
		if (st == ST_OK && (s.no != i || s.count != first->count))
			st = st_fail_at(err, ST_ERR_FORMAT, ST_NO_OFFSET, "split.no",
			                "the file says it is split %llu of %llu, its name says %llu of %llu",
			                (unsigned long long)s.no + 1, (unsigned long long)s.count,
			                (unsigned long long)i + 1, (unsigned long long)first->count);
		if (st == ST_OK && s.total_known && first->total_known && s.tensors != first->tensors)
			st = st_fail_at(err, ST_ERR_FORMAT, ST_NO_OFFSET, "split.tensors.count",
			                "is %llu, the first split says %llu", (unsigned long long)s.tensors,
			                (unsigned long long)first->tensors);
		if (st != ST_OK) {
			st_error_in(err, other);
			return st;
		}
	}
	return ST_OK;
}

static enum st_status check_first(struct st_container *c, const char *path, const struct split *s, struct st_error *err)
{
	if (s->count == 0 || s->count > 99999) /* five digits in the name */
		return st_fail_at(err, ST_ERR_FORMAT, st_kv_find(&c->keys, "split.count")->offset, "split.count",
		                  "is %llu, must be 1 to 99999", (unsigned long long)s->count);
	if (s->count == 1 && s->no == 0)
		return ST_OK;
	if (!split_mark(path))
		return st_fail_at(err, ST_ERR_FORMAT, ST_NO_OFFSET, "split.count",
		                  "the model is split into %llu files, and this one's name does not end in "
		                  "-00001-of-%05llu.gguf, "
		                  "so the others cannot be found",
		                  (unsigned long long)s->count, (unsigned long long)s->count);
	const char *name = split_path(c, path, 0, s->count);
	if (!name)
		return st_fail(err, ST_ERR_NOMEM, "out of memory");
	if (s->no != 0)
		return st_fail_at(err, ST_ERR_USAGE, ST_NO_OFFSET, "split.no",
		                  "is split %llu of %llu; open the first one, %s", (unsigned long long)s->no + 1,
		                  (unsigned long long)s->count, name);
	if (strcmp(name, path) != 0)
		return st_fail_at(err, ST_ERR_FORMAT, ST_NO_OFFSET, "split.no",
		                  "the file says it is split 1 of %llu, its name says otherwise",
		                  (unsigned long long)s->count);
	return ST_OK;
}

enum st_status st_gguf_open(struct st_container *c, const char *path, struct st_error *err)
{
	uint32_t file;
	struct part first = { 0 }, *parts = &first;
	struct split split;
	c->format = ST_FORMAT_GGUF;
	ST_TRY(st_container_add_file(c, path, &file, err));
	ST_TRY(read_head(c, &first, file, err));
	c->version = first.version;
	c->alignment = first.alignment;
	c->keys = first.keys;

	ST_TRY(read_split(&first, &split, err));
	ST_TRY(check_first(c, path, &split, err));
	if (split.count > 1) {
		parts = st_container_table(c, split.count, sizeof *parts, "splits", err);
		if (!parts)
			return err->code;
		parts[0] = first;
		ST_TRY(read_other_heads(c, path, parts, &split, err));
	}
	uint64_t total = 0;
	for (uint64_t i = 0; i < split.count; i++)
		total += parts[i].n_tensors; /* each is below its file's size */
	if (split.count > 1 && split.total_known && total != split.tensors)
		return st_fail_at(err, ST_ERR_FORMAT, ST_NO_OFFSET, "split.tensors.count",
		                  "is %llu, but the splits hold %llu tensors", (unsigned long long)split.tensors,
		                  (unsigned long long)total);
	c->tensors = st_container_table(c, total, sizeof *c->tensors, "tensors", err);
	if (!c->tensors)
		return err->code;
	for (uint64_t i = 0; i < split.count; i++) {
		struct st_tensor *t = c->tensors + c->n_tensors;
		enum st_status st = read_tensors(c, &parts[i], t, err);
		if (st != ST_OK) {
			st_error_in(err, c->maps[parts[i].file].path);
			return st;
		}
		c->n_tensors += (size_t)parts[i].n_tensors;
		ST_TRY(check_overlap(c, t, parts[i].n_tensors, err));
	}
	c->describe = split.count == 1 ? st_arena_printf(&c->arena, "GGUF v%u", c->version)
	                               : st_arena_printf(&c->arena, "GGUF v%u, %llu splits", c->version,
	                                                 (unsigned long long)split.count);
	if (!c->describe)
		return st_fail(err, ST_ERR_NOMEM, "out of memory");
	return ST_OK;
}
