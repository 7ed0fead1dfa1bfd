/* npy.c - numpy's .npy, versions 1.0 to 3.0 (numpy/lib/format.py describes them). */
#include "format/npy.h"
#include "format/tensors.h"

#include "base/cursor.h"
#include "base/error.h"

#include <dirent.h>
#include <stdlib.h>
#include <string.h>

/*
 * The header is the text of a Python dictionary with exactly the keys descr, fortran_order
 * and shape. It is read as that and nothing more: no expression is ever evaluated.
 */
struct text {
	const char *p, *end;
	const char *begin;
	uint64_t origin; /* file offset of begin */
	const char *what;
	struct st_error *err;
};

static enum st_status text_fail(const struct text *t, const char *why)
{
	return st_fail_at(t->err, ST_ERR_FORMAT, t->origin + (uint64_t)(t->p - t->begin), t->what, "header: %s", why);
}

static void skip_blanks(struct text *t)
{
	while (t->p < t->end && (*t->p == ' ' || *t->p == '\n' || *t->p == '\t' || *t->p == '\r'))
		t->p++;
}

/* Take the character when it comes next. */
static bool accept(struct text *t, char c)
{
	skip_blanks(t);
	if (t->p == t->end || *t->p != c)
		return false;
	t->p++;
	return true;
}

static bool accept_word(struct text *t, const char *word)
{
	size_t n = strlen(word);
	skip_blanks(t);
	if ((size_t)(t->end - t->p) < n || memcmp(t->p, word, n) != 0)
		return false;
	t->p += n;
	return true;
}

/* 'text' or "text", without escapes: no key and no type name needs them. */
static enum st_status read_string(struct text *t, const char **s, size_t *n)
{
	char quote = accept(t, '\'') ? '\'' : accept(t, '"') ? '"' : '\0';
	if (!quote)
		return text_fail(t, "expected a quoted string");
	const char *close = memchr(t->p, quote, (size_t)(t->end - t->p));
	if (!close || memchr(t->p, '\\', (size_t)(close - t->p)))
		return text_fail(t, "unterminated string");
	*s = t->p;
	*n = (size_t)(close - t->p);
	t->p = close + 1;
	return ST_OK;
}

static enum st_status read_dim(struct text *t, uint64_t *out)
{
	skip_blanks(t);
	const char *first = t->p;
	uint64_t v = 0;
	for (; t->p < t->end && *t->p >= '0' && *t->p <= '9'; t->p++)
		if (!st_mul_u64(v, 10, &v) || !st_add_u64(v, (uint64_t)(*t->p - '0'), &v))
			return text_fail(t, "a dimension does not fit 64 bits");
	if (t->p == first)
		return text_fail(t, "shape: expected a whole number, zero or more");
	accept(t, 'L'); /* as Python 2 wrote long integers */
	*out = v;
	return ST_OK;
}

/* (), (3,), (2, 3): one dimension needs its comma, as in Python. */
static enum st_status read_shape(struct text *t, struct st_npy_header *h)
{
	if (!accept(t, '('))
		return text_fail(t, "shape: expected a tuple");
	bool comma = true;
	for (h->ndim = 0; !accept(t, ')'); h->ndim++) {
		uint64_t dim = 0;
		if (!comma)
			return text_fail(t, "shape: expected a comma or a closing parenthesis");
		ST_TRY(read_dim(t, &dim));
		if (h->ndim == ST_MAX_DIMS)
			return st_fail_at(t->err, ST_ERR_LIMIT, t->origin, t->what, "more than %d dimensions",
			                  ST_MAX_DIMS);
		h->shape[h->ndim] = dim;
		comma = accept(t, ',');
	}
	return h->ndim == 1 && !comma ? text_fail(t, "shape: a number and no tuple") : ST_OK;
}

static const struct {
	char code[4];
	enum st_dtype dtype;
} numbers[] = {
	{ "f2", ST_DTYPE_F16 }, { "f4", ST_DTYPE_F32 }, { "f8", ST_DTYPE_F64 }, { "b1", ST_DTYPE_BOOL },
	{ "i1", ST_DTYPE_I8 },  { "i2", ST_DTYPE_I16 }, { "i4", ST_DTYPE_I32 }, { "i8", ST_DTYPE_I64 },
	{ "u1", ST_DTYPE_U8 },  { "u2", ST_DTYPE_U16 }, { "u4", ST_DTYPE_U32 }, { "u8", ST_DTYPE_U64 },
};

static enum st_status read_descr(struct text *t, struct st_npy_header *h)
{
	skip_blanks(t);
	if (t->p < t->end && *t->p == '[') {
		/* A record type: the list is skipped by brackets, since the kind is refused anyway. */
		h->kind = 'r';
		int depth = 0;
		do {
			if (t->p == t->end)
				return text_fail(t, "unterminated list");
			depth += (*t->p == '[') - (*t->p == ']');
			t->p++;
		} while (depth > 0);
		return ST_OK;
	}
	const char *s;
	size_t n;
	ST_TRY(read_string(t, &s, &n));
	h->big_endian = n > 0 && *s == '>';
	if (n > 0 && *s != '\0' && strchr("<>=|", *s)) {
		s++;
		n--;
	}
	for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++) {
		if (n == 2 && memcmp(s, numbers[i].code, 2) == 0) {
			h->kind = *s;
			h->dtype = numbers[i].dtype;
			return ST_OK;
		}
	}
	if (n == 0 || *s == '\0' || !strchr("OUSaVcMm", *s))
		return st_fail_at(t->err, ST_ERR_FORMAT, t->origin, t->what, "header: descr: unknown type '%.*s'",
		                  n < 40 ? (int)n : 40, s);
	h->kind = *s == 'a' ? 'S' : *s;
	return ST_OK;
}

static enum st_status read_dict(struct text *t, struct st_npy_header *h)
{
	static const char *const keys[3] = { "descr", "fortran_order", "shape" };
	bool seen[3] = { false, false, false };
	if (!accept(t, '{'))
		return text_fail(t, "expected a dictionary");
	for (bool comma = true; !accept(t, '}');) {
		const char *s;
		size_t n, k = 0;
		if (!comma)
			return text_fail(t, "expected a comma or a closing brace");
		ST_TRY(read_string(t, &s, &n));
		while (k < 3 && (n != strlen(keys[k]) || memcmp(s, keys[k], n) != 0))
			k++;
		if (k == 3)
			return text_fail(t, "unknown key");
		if (seen[k])
			return text_fail(t, "a key twice");
		seen[k] = true;
		if (!accept(t, ':'))
			return text_fail(t, "expected a colon");
		if (k == 0) {
			ST_TRY(read_descr(t, h));
		} else if (k == 1) {
			h->fortran = accept_word(t, "True");
			if (!h->fortran && !accept_word(t, "False"))
				return text_fail(t, "fortran_order: expected True or False");
		} else {
			ST_TRY(read_shape(t, h));
		}
		comma = accept(t, ',');
	}
	for (size_t k = 0; k < 3; k++)
		if (!seen[k])
			return st_fail_at(t->err, ST_ERR_FORMAT, t->origin, t->what, "header: no key %s", keys[k]);
	skip_blanks(t);
	return t->p == t->end ? ST_OK : text_fail(t, "text after the dictionary");
}

enum st_status st_npy_parse(const struct st_npy_bytes *b, struct st_npy_header *h, struct st_error *err)
{
	memset(h, 0, sizeof *h);
	struct st_cursor c;
	st_cursor_init(&c, b->p, b->n, b->origin, err);
	const uint8_t *magic = st_cursor_bytes(&c, 6, b->what);
	uint8_t major = st_cursor_u8(&c, b->what), minor = st_cursor_u8(&c, b->what);
	if (c.st == ST_OK && memcmp(magic, "\x93NUMPY", 6) != 0)
		return st_fail_at(err, ST_ERR_FORMAT, b->origin, b->what, "does not begin as a numpy array");
	if (c.st == ST_OK && (major < 1 || major > 3 || minor != 0))
		return st_fail_at(err, ST_ERR_UNSUPPORTED, b->origin + 6, b->what,
		                  "npy version %u.%u; 1.0, 2.0 and 3.0 are read", major, minor);
	uint64_t len = major == 1 ? st_cursor_u16(&c, b->what) : st_cursor_u32(&c, b->what);
	const char *s = (const char *)st_cursor_bytes(&c, len, b->what);
	if (c.st != ST_OK)
		return c.st;
	h->data = c.pos;
	struct text t = {
		.p = s, .end = s + len, .begin = s, .origin = b->origin + c.pos - len, .what = b->what, .err = err
	};
	return read_dict(&t, h);
}

static enum st_status refuse_kind(const struct st_npy_bytes *b, char kind, struct st_error *err)
{
	static const struct {
		char kind;
		const char *what;
	} others[] = {
		{ 'O', "Python objects (a pickle, which is never run)" },
		{ 'U', "text" },
		{ 'S', "text" },
		{ 'V', "raw bytes without a number type" },
		{ 'c', "complex numbers" },
		{ 'M', "dates" },
		{ 'm', "time spans" },
		{ 'r', "records" },
	};
	for (size_t i = 0; i < sizeof others / sizeof *others; i++)
		if (others[i].kind == kind)
			return st_fail_at(err, ST_ERR_UNSUPPORTED, b->origin, b->what,
			                  "an array of %s; numbers are read: f2 f4 f8 i1 i2 i4 i8 u1 u2 u4 u8 b1",
			                  others[i].what);
	return ST_OK;
}

/* Elements of `size` bytes in the other byte order. */
static void turn_round(const uint8_t *src, uint8_t *dst, uint64_t n, uint32_t size)
{
	for (uint64_t i = 0; i < n; i += size)
		for (uint32_t k = 0; k < size; k++)
			dst[i + k] = src[i + size - 1 - k];
}

enum st_status st_npy_tensor(const struct st_npy_bytes *b, const struct st_npy_header *h, struct st_arena *arena,
                             struct st_tensor *t, struct st_error *err)
{
	ST_TRY(refuse_kind(b, h->kind, err));
	uint32_t size = st_dtype_info(h->dtype)->block_bytes;
	t->dtype = h->dtype;
	t->ndim = h->ndim;
	memcpy(t->shape, h->shape, sizeof t->shape);
	memcpy(t->file_dims, h->shape, sizeof t->file_dims);
	if (!st_tensor_measure(t))
		return st_fail_at(err, ST_ERR_FORMAT, b->origin, b->what, "dimensions overflow 64 bits");
	if (t->n_bytes != b->n - h->data)
		return st_fail_at(err, ST_ERR_FORMAT, b->origin + h->data, b->what,
		                  "%llu bytes where type and shape make %llu", (unsigned long long)(b->n - h->data),
		                  (unsigned long long)t->n_bytes);
	if (h->fortran && h->ndim > 1 && t->n_elems > 0) {
		t->layout = ST_LAYOUT_STRIDED;
		int64_t stride = 1;
		for (uint32_t i = 0; i < h->ndim; i++) {
			t->strides[i] = stride;
			stride *= (int64_t)h->shape[i]; /* their product is what was measured */
		}
	}
	struct st_span span = { b->p + h->data, t->n_bytes, b->origin + h->data };
	if (h->big_endian && size > 1) {
		uint8_t *turned = st_arena_alloc(arena, t->n_bytes, 1);
		if (!turned)
			return st_fail(err, ST_ERR_NOMEM, "out of memory");
		turn_round(span.p, turned, t->n_bytes, size);
		span.p = turned;
	}
	return st_tensor_place(t, &span, 0, err);
}

/* The array of one file, but for its name. */
static enum st_status read_file(struct st_container *c, const char *path, struct st_tensor *t, struct st_npy_header *h,
                                struct st_error *err)
{
	uint32_t file;
	ST_TRY(st_container_add_file(c, path, &file, err));
	const struct st_map *m = &c->maps[file];
	const struct st_npy_bytes b = { .p = m->data, .n = m->size, .what = "npy array" };
	ST_TRY(st_npy_parse(&b, h, err));
	t->file = file;
	return st_npy_tensor(&b, h, &c->arena, t, err);
}

enum st_status st_npy_open(struct st_container *c, const char *path, struct st_error *err)
{
	struct st_npy_header h;
	c->format = ST_FORMAT_NPY;
	c->tensors = st_arena_alloc(&c->arena, 1, sizeof *c->tensors);
	ST_NEED(c->tensors);
	ST_TRY(read_file(c, path, &c->tensors[0], &h, err));
	c->n_tensors = 1;
	c->describe = st_arena_printf(&c->arena, "npy %u.0%s%s", c->maps[0].data[6], h.fortran ? ", Fortran order" : "",
	                              h.big_endian ? ", big endian" : "");
	ST_NEED(c->describe);
	return st_container_name_of_file(c, path, ".npy", &c->tensors[0].name, err);
}

/* ---- a folder of arrays ---- */

struct array_file {
	char *path, *name;
};

struct array_list {
	struct st_container *c;
	struct array_file *files;
	size_t n, cap;
};

static bool is_array_name(const char *name)
{
	size_t n = strlen(name);
	return n > 4 && strcmp(name + n - 4, ".npy") == 0;
}

/* NAME.npy is NAME, layer-3/NAME.npy is layers.3.NAME, as in a tree of stage files. */
static enum st_status list_arrays(struct array_list *l, const char *folder, const char *prefix, struct st_error *err)
{
	struct st_arena *a = &l->c->arena;
	enum st_status st = ST_OK;
	DIR *d = opendir(folder);
	if (!d)
		return st_fail_errno(err, folder, "cannot open");
	for (struct dirent *e; st == ST_OK && (e = readdir(d));) {
		bool layer = !prefix[0] && strncmp(e->d_name, "layer-", 6) == 0;
		if (e->d_name[0] == '.' || (!layer && !is_array_name(e->d_name)))
			continue;
		char *path = st_arena_printf(a, "%s/%s", folder, e->d_name);
		char *name = layer ? st_arena_printf(a, "layers.%s.", e->d_name + 6)
		                   : st_arena_printf(a, "%s%.*s", prefix, (int)strlen(e->d_name) - 4, e->d_name);
		void *p = l->files;
		if (!path || !name || (!layer && !st_grow(&p, &l->cap, l->n + 1, sizeof *l->files))) {
			st = st_fail(err, ST_ERR_NOMEM, "out of memory");
		} else if (layer) {
			st = list_arrays(l, path, name, err);
		} else {
			l->files = p;
			l->files[l->n++] = (struct array_file){ path, name };
		}
	}
	closedir(d);
	return st;
}

/* A folder has no order of its own. */
static int by_name(const void *a, const void *b)
{
	return strcmp(((const struct array_file *)a)->name, ((const struct array_file *)b)->name);
}

static enum st_status read_arrays(struct array_list *l, const char *path, struct st_error *err)
{
	struct st_container *c = l->c;
	ST_TRY(list_arrays(l, path, "", err));
	qsort(l->files, l->n, sizeof *l->files, by_name);
	c->tensors = st_arena_alloc(&c->arena, l->n, sizeof *c->tensors);
	ST_NEED(c->tensors);
	for (; c->n_tensors < l->n; c->n_tensors++) {
		const struct array_file *f = &l->files[c->n_tensors];
		struct st_npy_header h;
		struct st_tensor *t = &c->tensors[c->n_tensors];
		enum st_status st = read_file(c, f->path, t, &h, err);
		if (st == ST_OK)
			st = st_container_name(c, f->name, strlen(f->name), 1024, 0, "array name", &t->name, err);
		if (st != ST_OK)
			st_error_in(err, f->path);
		ST_TRY(st);
	}
	c->describe = st_arena_printf(&c->arena, "folder of %zu npy array%s", l->n, l->n == 1 ? "" : "s");
	ST_NEED(c->describe);
	return ST_OK;
}

enum st_status st_npy_folder_open(struct st_container *c, const char *path, struct st_error *err)
{
	struct array_list l = { .c = c };
	c->format = ST_FORMAT_NPY;
	enum st_status st = read_arrays(&l, path, err);
	free(l.files);
	return st;
}

bool st_npy_is_folder(const char *path)
{
	bool arrays = false, others = false;
	DIR *d = opendir(path);
	for (struct dirent *e; d && !others && (e = readdir(d));) {
		char inner[4096];
		others = strcmp(e->d_name, "trace.json") == 0;
		if (strncmp(e->d_name, "layer-", 6) == 0
		    && snprintf(inner, sizeof inner, "%s/%s", path, e->d_name) < (int)sizeof inner)
			arrays = arrays || st_npy_is_folder(inner);
		arrays = arrays || is_array_name(e->d_name);
	}
	if (d)
		closedir(d);
	return arrays && !others;
}
