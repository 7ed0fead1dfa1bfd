/* tensors.c - what every reader does with the tensors it finds: names, sizes, places, order. */
#include "format/writer.h"

#include "base/cursor.h"
#include "base/error.h"

#include <stdlib.h>
#include <string.h>

/* The rows * cols of a shape; a zero anywhere makes it zero, but never hides that the other
 * dimensions overflow. */
static bool count_elems(uint32_t ndim, const uint64_t *shape, uint64_t *out)
{
	uint64_t n = 1;
	bool zero = false;
	for (uint32_t i = 0; i < ndim; i++) {
		if (shape[i] == 0)
			zero = true;
		else if (!st_mul_u64(n, shape[i], &n))
			return false;
	}
	*out = zero ? 0 : n;
	return true;
}

bool st_stored_bytes(enum st_dtype t, uint32_t ndim, const uint64_t *shape, uint64_t *out)
{
	const struct st_dtype_info *info = st_dtype_info(t);
	uint64_t n, cols = ndim ? shape[ndim - 1] : 1;
	if (!count_elems(ndim, shape, &n))
		return false;
	/* APR's own types run over the flat tensor: nibble blocks with a short last one, and int8 after one f32 scale.
	 */
	if (t == ST_DTYPE_APR_Q4)
		return st_mul_u64(st_ceil_div(n, 32), 18, out);
	if (t == ST_DTYPE_APR_Q8)
		return st_add_u64(n, 4, out);
	if (cols % info->block_elems != 0)
		return false;
	return st_mul_u64(n / info->block_elems, info->block_bytes, out);
}

enum st_status st_container_place(const struct st_container *c, struct st_tensor *t, uint64_t offset,
                                  struct st_error *err)
{
	const struct st_dtype_info *info = st_dtype_info(t->dtype);
	const struct st_map *m = &c->maps[t->file];
	uint64_t cols = t->ndim ? t->shape[t->ndim - 1] : 1, end;
	if (cols % info->block_elems != 0)
		return st_fail_at(err, ST_ERR_FORMAT, ST_NO_OFFSET, t->name,
		                  "rows of %llu elements are no multiple of the block of %u of %s",
		                  (unsigned long long)cols, info->block_elems, info->name);
	if (!count_elems(t->ndim, t->shape, &t->n_elems)
	    || !st_mul_u64(t->n_elems / info->block_elems, info->block_bytes, &t->n_bytes))
		return st_fail_at(err, ST_ERR_FORMAT, ST_NO_OFFSET, t->name, "dimensions overflow 64 bits");
	if (!st_add_u64(offset, t->n_bytes, &end) || end > m->size)
		return st_fail_at(err, ST_ERR_FORMAT, offset, t->name,
		                  "data of %llu bytes reach past the end of the file at %llu",
		                  (unsigned long long)t->n_bytes, (unsigned long long)m->size);
	t->layout = ST_LAYOUT_ROWS;
	t->row_bytes = cols / info->block_elems * info->block_bytes;
	t->scale = 1;
	t->offset = offset;
	t->data = m->data + offset;
	return ST_OK;
}

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
