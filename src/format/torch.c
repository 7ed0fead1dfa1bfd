/*
 * torch.c - checkpoints of torch.save since version 1.6: a zip file with data.pkl (which
 * tensors there are, read by pickle.c) and data/<key> (the bytes of each storage).
 *
 * Nested dictionaries become names joined by dots: {"model": {"fc.weight": T}} holds
 * "model.fc.weight"; items of lists and tuples are numbered. Values that are no tensors
 * (epochs, options of an optimiser) have no place in a container and are passed over.
 */
#include "format/container.h"
#include "format/pickle.h"
#include "format/tensors.h"
#include "format/zip.h"

#include "base/cursor.h"
#include "base/error.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAX_DEPTH 32 /* of nested dictionaries; a state dictionary has one, a training checkpoint about four */
#define MAX_NAME 1024

struct torch_file {
	struct st_container *c;
	struct st_zip zip;
	char *prefix; /* "archive/": folder of data.pkl inside the zip */
	uint32_t file;
	struct st_tensor *tensors; /* n of them, once they are counted */
	const char *stem;          /* name of a tensor that is the whole checkpoint */
	struct st_error *err;
	/* The walk over the unpickled value */
	uint64_t visits, max_visits;
	char name[MAX_NAME];
	bool fill; /* false: count only */
	size_t n;
};

/* ---- one tensor ---- */

static bool contiguous(const struct st_pkl_tensor *p)
{
	uint64_t step = 1;
	for (uint32_t i = p->ndim; i-- > 0;) {
		if (p->shape[i] != 1 && p->strides[i] != step)
			return false;
		if (!st_mul_u64(step, p->shape[i], &step)) /* refused when it is placed */
			return false;
	}
	return true;
}

static enum st_status find_storage(struct torch_file *f, const struct st_pkl_storage *s, const char *tensor,
                                   struct st_zip_member **out)
{
	char name[MAX_NAME];
	int n = snprintf(name, sizeof name, "%sdata/%.*s", f->prefix,
	                 s->key_len < MAX_NAME ? (int)s->key_len : MAX_NAME, s->key);
	*out = n < (int)sizeof name && !memchr(s->key, '\0', s->key_len) ? st_zip_find(&f->zip, name) : NULL;
	if (!*out)
		return st_fail_at(f->err, ST_ERR_FORMAT, ST_NO_OFFSET, tensor,
		                  "its storage data/%.*s is not in the file", s->key_len < 100 ? (int)s->key_len : 100,
		                  s->key);
	uint64_t want;
	uint32_t size = st_dtype_info(s->dtype)->block_bytes;
	if (!st_mul_u64(s->n, size, &want) || want != (*out)->size)
		return st_fail_at(f->err, ST_ERR_FORMAT, (*out)->offset, tensor,
		                  "storage %s has %llu bytes where %llu elements of %s were declared", (*out)->name,
		                  (unsigned long long)(*out)->size, (unsigned long long)s->n,
		                  st_dtype_info(s->dtype)->name);
	return st_zip_bytes(&f->zip, *out, f->err);
}

static enum st_status place(struct torch_file *f, const struct st_pkl_tensor *p, struct st_tensor *t)
{
	struct st_zip_member *m = NULL;
	ST_TRY(find_storage(f, p->storage, t->name, &m));
	uint32_t size = st_dtype_info(p->dtype)->block_bytes;
	t->dtype = p->dtype;
	t->ndim = p->ndim;
	t->file = f->file;
	bool zero = false;
	for (uint32_t i = 0; i < p->ndim; i++) {
		t->shape[i] = t->file_dims[i] = p->shape[i];
		zero |= p->shape[i] == 0;
	}
	t->layout = zero || contiguous(p) ? ST_LAYOUT_ROWS : ST_LAYOUT_STRIDED;
	/* Nothing is ever that far away along a dimension of one; torch writes anything there. */
	for (uint32_t i = 0; i < p->ndim && t->layout == ST_LAYOUT_STRIDED; i++)
		t->strides[i] = p->shape[i] > 1 ? (int64_t)p->strides[i] : 0;
	uint64_t at;
	if (!st_mul_u64(zero ? 0 : p->first, size, &at))
		at = UINT64_MAX;
	struct st_error why = ST_ERROR_INIT;
	if (st_tensor_place(t, &(struct st_span){ m->bytes, m->size, m->offset }, at, &why) != ST_OK)
		return st_fail_at(f->err, ST_ERR_FORMAT, ST_NO_OFFSET, t->name,
		                  "reaches beyond its storage of %llu elements", (unsigned long long)(m->size / size));
	if (m->deflated)
		t->offset = m->offset; /* what it unfolds to has no place in the file */
	return ST_OK;
}

static enum st_status emit(struct torch_file *f, const struct st_pkl_tensor *p, size_t len)
{
	size_t i = f->n++;
	if (!f->fill)
		return ST_OK;
	struct st_tensor *t = &f->tensors[i];
	if (len == 0)
		t->name = f->stem;
	else
		ST_TRY(st_container_name(f->c, f->name, len, MAX_NAME, ST_NO_OFFSET, "tensor name", &t->name, f->err));
	return place(f, p, t);
}

/* ---- the walk ---- */

static enum st_status walk(struct torch_file *f, const struct st_pkl *v, size_t len, unsigned depth);

/* One step down: the key or number joins the name, which has `len` bytes so far. */
static enum st_status descend(struct torch_file *f, const struct st_pkl *v, size_t len, unsigned depth, const char *key,
                              size_t n_key)
{
	if (v->kind < ST_PKL_TUPLE || v->kind == ST_PKL_GLOBAL || v->kind == ST_PKL_STORAGE)
		return ST_OK;
	size_t dot = len > 0;
	if (n_key + dot > MAX_NAME - len)
		return st_fail_at(f->err, ST_ERR_LIMIT, ST_NO_OFFSET, "pickle", "a tensor name of more than %d bytes",
		                  MAX_NAME);
	if (dot)
		f->name[len] = '.';
	memcpy(f->name + len + dot, key, n_key);
	return walk(f, v, len + dot + n_key, depth + 1);
}

static enum st_status walk_dict(struct torch_file *f, const struct st_pkl *v, size_t len, unsigned depth)
{
	for (uint32_t i = 0; i + 1 < v->n; i += 2) {
		const struct st_pkl *key = v->v.items[i];
		char number[24];
		if (key->kind == ST_PKL_STR) {
			ST_TRY(descend(f, v->v.items[i + 1], len, depth, key->v.s, key->n));
		} else if (key->kind == ST_PKL_INT) {
			int n = snprintf(number, sizeof number, "%lld", (long long)key->v.i);
			ST_TRY(descend(f, v->v.items[i + 1], len, depth, number, (size_t)n));
		} else {
			return st_fail_at(f->err, ST_ERR_UNSUPPORTED, ST_NO_OFFSET, "pickle",
			                  "a dictionary with a key that is neither string nor integer but %s",
			                  st_pkl_kind_name(key->kind));
		}
	}
	return ST_OK;
}

static enum st_status walk(struct torch_file *f, const struct st_pkl *v, size_t len, unsigned depth)
{
	/* Values may share parts and hold themselves: a small pickle can describe an endless tree. */
	if (depth > MAX_DEPTH || f->visits++ >= f->max_visits)
		return st_fail_at(f->err, ST_ERR_LIMIT, ST_NO_OFFSET, "pickle",
		                  depth > MAX_DEPTH ? "values nested more than 32 deep"
		                                    : "more nested values than the file has room for");
	if (v->kind == ST_PKL_TENSOR)
		return emit(f, v->v.tensor, len);
	if (v->kind == ST_PKL_DICT)
		return walk_dict(f, v, len, depth);
	for (uint32_t i = 0; i < v->n; i++) {
		char number[16];
		int n = snprintf(number, sizeof number, "%u", i);
		ST_TRY(descend(f, v->v.items[i], len, depth, number, (size_t)n));
	}
	return ST_OK;
}

/* ---- the file ---- */

/* How many instructions a pickle may run. About 45 describe a tensor; the machine takes up to 64 bytes for each. */
static uint64_t op_limit(uint64_t file_size) { return (UINT64_C(1) << 19) + file_size / 64; }

/* A pickle without a zip file around it holds no tensors of this format; what it would do is named if it is not
 * harmless. */
static enum st_status refuse_bare_pickle(const struct st_map *m, struct st_error *err)
{
	struct st_arena scratch;
	const struct st_pkl *value;
	st_arena_init(&scratch);
	enum st_status st = st_pickle_read(m->data, m->size, 0, op_limit(m->size), &scratch, &value, err);
	st_arena_release(&scratch);
	return st != ST_OK ? st
	                   : st_fail_at(err, ST_ERR_UNSUPPORTED, 0, NULL,
	                                "a bare pickle; zip checkpoints (torch 1.6 and later) are read");
}

/* Files of before 1.6, and what else arrives under these names. */
static enum st_status refuse_old(const struct st_map *m, struct st_error *err)
{
	/* PROTO 2, LONG1 of 10 bytes 0x1950a86a20f9469cfc6c, STOP: the magic number of torch.save until 1.5. */
	static const uint8_t magic[] = { 0x80, 2,    0x8a, 10,   0x6c, 0xfc, 0x9c, 0x46,
		                         0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19, '.' };
	if (m->size >= 2 && memcmp(m->data, "PK", 2) == 0)
		return ST_OK;
	const char *what = NULL;
	if (m->size >= sizeof magic && memcmp(m->data, magic, sizeof magic) == 0)
		what = "a torch checkpoint from before torch 1.6 (pickles in sequence)";
	else if (m->size >= 262 && memcmp(m->data + 257, "ustar", 5) == 0)
		what = "a tar file, perhaps a torch checkpoint from before 0.1.10";
	else if (m->size >= 2 && m->data[0] == 0x80)
		return refuse_bare_pickle(m, err);
	if (!what)
		return ST_OK; /* the zip reader says what is wrong with it */
	return st_fail_at(err, ST_ERR_UNSUPPORTED, 0, NULL,
	                  "%s; zip checkpoints are read, as torch 1.6 and later save them", what);
}

/* data.pkl lies in a folder named after the file as it was saved. */
static enum st_status find_pickle(struct torch_file *f, struct st_zip_member **out)
{
	static const char tail[] = "data.pkl";
	size_t n_tail = sizeof tail - 1;
	*out = NULL;
	for (size_t i = 0; i < f->zip.n_members; i++) {
		struct st_zip_member *m = &f->zip.members[i];
		size_t n = strlen(m->name);
		if (n < n_tail || strcmp(m->name + n - n_tail, tail) != 0
		    || (n > n_tail && m->name[n - n_tail - 1] != '/'))
			continue;
		if (*out)
			return st_fail_at(f->err, ST_ERR_FORMAT, m->offset, m->name,
			                  "a second data.pkl; the first is %s", (*out)->name);
		*out = m;
	}
	if (!*out)
		return st_fail(f->err, ST_ERR_FORMAT, "zip file without data.pkl: no torch checkpoint");
	f->prefix = st_arena_strndup(&f->c->arena, (*out)->name, strlen((*out)->name) - n_tail);
	return f->prefix ? ST_OK : st_fail(f->err, ST_ERR_NOMEM, "out of memory");
}

static enum st_status check_byte_order(struct torch_file *f)
{
	char name[MAX_NAME];
	if (snprintf(name, sizeof name, "%sbyteorder", f->prefix) >= (int)sizeof name)
		return ST_OK;
	struct st_zip_member *m = st_zip_find(&f->zip, name);
	if (!m) /* written since 2.0; before that every writer was little endian in practice */
		return ST_OK;
	ST_TRY(st_zip_bytes(&f->zip, m, f->err));
	if (m->size != 6 || memcmp(m->bytes, "little", 6) != 0)
		return st_fail_at(f->err, ST_ERR_UNSUPPORTED, m->offset, m->name, "byte order is not \"little\"");
	return ST_OK;
}

static enum st_status read_checkpoint(struct torch_file *f, struct st_arena *scratch)
{
	struct st_zip_member *m = NULL;
	const struct st_pkl *root = NULL;
	ST_TRY(find_pickle(f, &m));
	ST_TRY(check_byte_order(f));
	ST_TRY(st_zip_bytes(&f->zip, m, f->err));
	ST_TRY(st_zip_verify(m, f->err));
	f->max_visits = op_limit(f->zip.map->size);
	ST_TRY(st_pickle_read(m->bytes, m->size, m->offset, f->max_visits, scratch, &root, f->err));
	if (root->kind < ST_PKL_TUPLE || root->kind == ST_PKL_GLOBAL || root->kind == ST_PKL_STORAGE)
		return st_fail_at(f->err, ST_ERR_UNSUPPORTED, m->offset, m->name, "holds a %s and no tensors",
		                  st_pkl_kind_name(root->kind));
	ST_TRY(walk(f, root, 0, 0));
	f->tensors = st_container_table(f->c, f->n, sizeof *f->tensors, "tensors", f->err);
	if (!f->tensors)
		return f->err->code;
	f->fill = true;
	f->visits = f->n = 0;
	return walk(f, root, 0, 0);
}

static enum st_status read_file(struct torch_file *f)
{
	const char *path = f->c->maps[f->file].path;
	struct st_arena scratch;
	ST_TRY(refuse_old(&f->c->maps[f->file], f->err));
	ST_TRY(st_zip_open(&f->zip, &f->c->maps[f->file], &f->c->arena, f->err));
	ST_TRY(st_container_name_of_file(f->c, path, ".pt", &f->stem, f->err));
	st_arena_init(&scratch);
	enum st_status st = read_checkpoint(f, &scratch);
	st_arena_release(&scratch);
	return st;
}

/* The tensors of all files into one table. */
static enum st_status join(struct st_container *c, const struct torch_file *files, size_t n, struct st_error *err)
{
	uint64_t total = 0;
	for (size_t i = 0; i < n; i++)
		total += files[i].n;
	c->tensors = st_container_table(c, total, sizeof *c->tensors, "tensors", err);
	if (!c->tensors)
		return err->code;
	for (size_t i = 0; i < n; i++) {
		memcpy(c->tensors + c->n_tensors, files[i].tensors, files[i].n * sizeof *c->tensors);
		c->n_tensors += files[i].n;
	}
	return ST_OK;
}

enum st_status st_torch_shards(struct st_container *c, const char *const *paths, size_t n, struct st_error *err)
{
	struct torch_file *files = st_alloc_array(n, sizeof *files);
	enum st_status st = files ? ST_OK : st_fail(err, ST_ERR_NOMEM, "out of memory");
	for (size_t i = 0; i < n && st == ST_OK; i++) {
		files[i] = (struct torch_file){ .c = c, .err = err };
		st = st_container_add_file(c, paths[i], &files[i].file, err);
	}
	for (size_t i = 0; i < n && st == ST_OK; i++) {
		st = read_file(&files[i]);
		if (st != ST_OK)
			st_error_in(err, paths[i]);
	}
	if (st == ST_OK)
		st = join(c, files, n, err);
	free(files);
	c->format = ST_FORMAT_TORCH;
	c->describe = n == 1 ? st_arena_printf(&c->arena, "torch zip checkpoint")
	                     : st_arena_printf(&c->arena, "torch zip checkpoint, %zu shards", n);
	return st == ST_OK && !c->describe ? st_fail(err, ST_ERR_NOMEM, "out of memory") : st;
}
