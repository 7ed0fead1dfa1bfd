/*
 * packed.c - GPTQ, AWQ, MLX, bitsandbytes, compressed-tensors, FP8 and int8 with factors: known by the names of the
 * parts, proved by their shapes.
 */
#include "format/packed.h"

#include "base/error.h"
#include "dtype/apart.h"
#include "format/tensors.h"

#include <stdlib.h>
#include <string.h>

#define MOST_COLS (UINT64_C(1) << 16) /* twice what any model has; statistics take rows whole */

struct fold {
	struct st_container *c;
	const char *stem; /* of the name, with its dot: "model.layers.0.self_attn.q_proj." */
	size_t len;
	bool *part;      /* of each tensor: it belongs to a matrix */
	size_t taken[8]; /* of this matrix */
	size_t n_taken;
};

/* ---- parts ---- */

static const struct st_tensor *part(struct fold *f, const char *tail)
{
	char name[512];
	if ((size_t)snprintf(name, sizeof name, "%.*s%s", (int)f->len, f->stem, tail) >= sizeof name)
		return NULL;
	const struct st_tensor *t = st_container_find(f->c, name);
	if (t && f->n_taken < sizeof f->taken / sizeof *f->taken)
		f->taken[f->n_taken++] = (size_t)(t - f->c->tensors);
	return t;
}

static bool is_matrix(const struct st_tensor *t, uint64_t rows, uint64_t cols)
{
	return t && t->ndim == 2 && t->layout == ST_LAYOUT_ROWS && t->shape[0] == rows && t->shape[1] == cols;
}

static bool is_words(const struct st_tensor *t)
{
	return t && t->layout == ST_LAYOUT_ROWS && (t->dtype == ST_DTYPE_I32 || t->dtype == ST_DTYPE_U32);
}

static bool is_float(const struct st_tensor *t)
{
	return t && t->layout == ST_LAYOUT_ROWS && st_dtype_info(t->dtype)->kind == ST_KIND_FLOAT;
}

static const json_t *quantisation(const struct st_container *c)
{
	const json_t *o = json_object_get(c->docs.config, "quantization_config");
	return o ? o : json_object_get(c->docs.config, "quantization");
}

static uint64_t asked(const json_t *o, const char *key)
{
	json_int_t v = json_integer_value(json_object_get(o, key));
	return v > 0 ? (uint64_t)v : 0;
}

static bool says(const json_t *o, const char *key, const char *value)
{
	const char *s = json_string_value(json_object_get(o, key));
	return s && strcmp(s, value) == 0;
}

/* Every column's group must be there. */
static bool groups_exist(const struct st_tensor *order, uint64_t groups)
{
	for (uint64_t i = 0; i < order->n_elems; i++)
		if (!(st_apart_number(order, i) >= 0) || st_apart_number(order, i) >= (float)groups)
			return false;
	return true;
}

static uint64_t ceil_div(uint64_t a, uint64_t b) { return b ? st_ceil_div(a, b) : 0; }

/* ---- methods; each fills a, or says no ---- */

static bool gptq(struct fold *f, struct st_apart *a)
{
	const struct st_tensor *w = part(f, "qweight"), *z = part(f, "qzeros"), *s = part(f, "scales"),
			       *g = part(f, "g_idx");
	const json_t *q = quantisation(f->c);
	if (!is_words(w) || !is_words(z) || !is_float(s) || !is_words(g) || w->ndim != 2 || z->ndim != 2 || s->ndim != 2
	    || g->ndim != 1)
		return false;
	uint64_t out = s->shape[1], in = g->n_elems, groups = s->shape[0];
	uint64_t bits = out && in ? w->shape[0] * 32 / in : 0;
	if ((bits != 2 && bits != 3 && bits != 4 && bits != 8) || !is_matrix(w, ceil_div(in * bits, 32), out)
	    || !is_matrix(z, groups, ceil_div(out * bits, 32)) || !groups_exist(g, groups))
		return false;
	*a = (struct st_apart){ .method = ST_DTYPE_GPTQ,
		                .rows = out,
		                .cols = in,
		                .bits = (unsigned)bits,
		                .codes = w,
		                .scales = s,
		                .zeros = z,
		                .order = g,
		                .zeros_less_one = !says(q, "checkpoint_format", "gptq_v2") };
	return true;
}

static bool awq(struct fold *f, struct st_apart *a)
{
	const struct st_tensor *w = part(f, "qweight"), *z = part(f, "qzeros"), *s = part(f, "scales");
	const json_t *q = quantisation(f->c);
	bool other = json_object_get(q, "version") && !says(q, "version", "gemm") && !says(q, "version", "GEMM");
	if (!is_words(w) || !is_words(z) || !is_float(s) || w->ndim != 2 || s->ndim != 2 || part(f, "g_idx") || other)
		return false;
	uint64_t in = w->shape[0], out = s->shape[1], groups = s->shape[0];
	if (out % 8 || groups == 0 || in % groups || !is_matrix(w, in, out / 8) || !is_matrix(z, groups, out / 8))
		return false;
	*a = (struct st_apart){ .method = ST_DTYPE_AWQ,
		                .rows = out,
		                .cols = in,
		                .bits = 4,
		                .group = in / groups,
		                .codes = w,
		                .scales = s,
		                .zeros = z };
	return true;
}

/* One value in all groups: every encoder takes a group's factors from its own numbers, so this is a placeholder. */
static bool is_constant(const struct st_tensor *t)
{
	for (uint64_t i = 1; i < t->n_elems; i++)
		if (st_apart_number(t, i) != st_apart_number(t, 0))
			return false;
	return t->n_elems >= 8;
}

/* config.json's "quantization" may name single modules that have bits of their own. */
static bool mlx(struct fold *f, struct st_apart *a)
{
	const struct st_tensor *w = part(f, "weight"), *s = part(f, "scales"), *b = part(f, "biases");
	const json_t *q = quantisation(f->c), *own = NULL;
	char module[512];
	if (!is_words(w) || w->ndim != 2 || !is_float(s) || !is_float(b) || s->ndim != 2)
		return false;
	if ((size_t)snprintf(module, sizeof module, "%.*s", (int)f->len - 1, f->stem) < sizeof module)
		own = json_object_get(q, module);
	q = json_is_object(own) ? own : q;
	uint64_t bits = asked(q, "bits"), group = asked(q, "group_size"), rows = w->shape[0], groups = s->shape[1];
	group = group ? group : 64;
	bits = bits ? bits : groups ? w->shape[1] * 32 / (groups * group) : 0;
	uint64_t cols = groups * group;
	if (groups > MOST_COLS || group > 1024 || bits < 2 || bits > 8 || bits == 7 || cols * bits % 32
	    || !is_matrix(w, rows, cols * bits / 32) || !is_matrix(s, rows, groups) || !is_matrix(b, rows, groups))
		return false;
	if (is_constant(s) && is_constant(b))
		return false;
	*a = (struct st_apart){ .method = ST_DTYPE_MLX,
		                .rows = rows,
		                .cols = cols,
		                .bits = (unsigned)bits,
		                .group = group,
		                .codes = w,
		                .scales = s,
		                .zeros = b };
	return true;
}

static bool compressed(struct fold *f, struct st_apart *a)
{
	const struct st_tensor *w = part(f, "weight_packed"), *s = part(f, "weight_scale"),
			       *z = part(f, "weight_zero_point"), *shape = part(f, "weight_shape"),
			       *order = part(f, "weight_g_idx");
	if (!is_words(w) || w->ndim != 2 || !is_float(s) || !shape || shape->n_elems != 2
	    || shape->layout != ST_LAYOUT_ROWS || (shape->dtype != ST_DTYPE_I64 && shape->dtype != ST_DTYPE_I32))
		return false;
	float r = st_apart_number(shape, 0), c = st_apart_number(shape, 1);
	if (!(r >= 1 && r < 0x1p24f && c >= 1 && c < (float)MOST_COLS))
		return false;
	uint64_t rows = (uint64_t)r, cols = (uint64_t)c, groups = st_tensor_cols(s);
	bool whole = s->n_elems == 1;
	uint64_t bits = ceil_div(cols, 8) == w->shape[1] ? 4 : ceil_div(cols, 4) == w->shape[1] ? 8 : 0;
	if (!bits || !is_matrix(w, rows, ceil_div(cols, 32 / bits)) || groups == 0 || cols % groups
	    || (!whole && !is_matrix(s, rows, groups)) || (z && !is_words(z))
	    || (z && !is_matrix(z, ceil_div(rows, 32 / bits), groups))
	    || (order && (!is_words(order) || order->n_elems != cols || !groups_exist(order, groups))))
		return false;
	*a = (struct st_apart){ .method = ST_DTYPE_CT_PACK,
		                .rows = rows,
		                .cols = cols,
		                .bits = (unsigned)bits,
		                .group = cols / groups,
		                .codes = w,
		                .scales = s,
		                .zeros = z,
		                .order = order };
	return true;
}

/* What bitsandbytes packs into a tensor of bytes: JSON. */
static json_t *quant_state(const struct st_container *c, const struct st_tensor *t)
{
	json_t *o = NULL;
	struct st_error none = ST_ERROR_INIT;
	(void)c;
	if (!t || t->dtype != ST_DTYPE_U8 || t->layout != ST_LAYOUT_ROWS
	    || st_json_parse((const char *)t->data, t->n_bytes, t->offset, &o, &none) != ST_OK)
		return NULL;
	return o;
}

static bool bnb4_with(struct fold *f, struct st_apart *a, const json_t *o)
{
	const struct st_tensor *w = part(f, "weight"), *s = part(f, "weight.absmax"),
			       *map = part(f, "weight.quant_map"), *nested = part(f, "weight.nested_absmax"),
			       *nested_map = part(f, "weight.nested_quant_map");
	const json_t *shape = json_object_get(o, "shape");
	uint64_t block = asked(o, "blocksize"), nested_block = asked(o, "nested_blocksize"), n;
	json_int_t rows = json_integer_value(json_array_get(shape, 0)),
		   cols = json_integer_value(json_array_get(shape, 1));
	if (!w || w->dtype != ST_DTYPE_U8 || w->layout != ST_LAYOUT_ROWS || !s || s->layout != ST_LAYOUT_ROWS
	    || !is_float(map) || map->n_elems != 16 || json_array_size(shape) != 2 || rows < 1 || cols < 1
	    || (uint64_t)cols > MOST_COLS || !st_mul_u64((uint64_t)rows, (uint64_t)cols, &n) || block == 0
	    || w->n_bytes != ceil_div(n, 2) || s->n_elems != ceil_div(n, block))
		return false;
	bool twice = s->dtype == ST_DTYPE_U8;
	if (twice ? !is_float(nested) || !is_float(nested_map) || nested_map->n_elems != 256 || nested_block == 0
	                    || nested->n_elems != ceil_div(s->n_elems, nested_block)
	          : !is_float(s))
		return false;
	*a = (struct st_apart){ .method = ST_DTYPE_BNB4,
		                .rows = (uint64_t)rows,
		                .cols = (uint64_t)cols,
		                .bits = 4,
		                .group = block,
		                .codes = w,
		                .scales = s,
		                .map = map,
		                .nested = twice ? nested : NULL,
		                .nested_map = nested_map,
		                .nested_group = nested_block,
		                .nested_offset = (float)json_number_value(json_object_get(o, "nested_offset")) };
	return true;
}

static bool bnb4(struct fold *f, struct st_apart *a)
{
	const struct st_tensor *state = part(f, "weight.quant_state.bitsandbytes__nf4");
	state = state ? state : part(f, "weight.quant_state.bitsandbytes__fp4");
	json_t *o = quant_state(f->c, state);
	bool yes = o && bnb4_with(f, a, o);
	json_decref(o);
	return yes;
}

static bool int8_rows(struct fold *f, struct st_apart *a)
{
	const struct st_tensor *w = part(f, "weight"), *s = part(f, "SCB");
	(void)part(f, "weight_format");
	if (!w || w->dtype != ST_DTYPE_I8 || w->ndim != 2 || w->layout != ST_LAYOUT_ROWS || !is_float(s)
	    || s->n_elems != w->shape[0])
		return false;
	*a = (struct st_apart){ .method = ST_DTYPE_I8_SCALED,
		                .rows = w->shape[0],
		                .cols = w->shape[1],
		                .bits = 8,
		                .group = w->shape[1],
		                .group_rows = 1,
		                .codes = w,
		                .scales = s,
		                .nested_offset = 127 };
	return true;
}

/* Factors of the whole, of each row, or of blocks: config.json says which where DeepSeek's 128 x 128 is not meant. */
static bool factors(struct fold *f, struct st_apart *a)
{
	const struct st_tensor *w = part(f, "weight"), *s = part(f, "weight_scale_inv");
	s = s ? s : part(f, "weight_scale");
	(void)part(f, "input_scale"); /* of activations, as the two below */
	(void)part(f, "input_scale_inv");
	if (part(f, "weight_zero_point") || !w || w->ndim != 2 || w->layout != ST_LAYOUT_ROWS || !is_float(s))
		return false;
	bool ints = w->dtype == ST_DTYPE_I8;
	if (!ints && w->dtype != ST_DTYPE_F8_E4M3 && w->dtype != ST_DTYPE_F8_E5M2)
		return false;
	const json_t *size = json_object_get(quantisation(f->c), "weight_block_size");
	uint64_t rows = w->shape[0], cols = w->shape[1], br = 128, bc = 128;
	if (json_array_size(size) == 2) {
		json_int_t x = json_integer_value(json_array_get(size, 0)),
			   y = json_integer_value(json_array_get(size, 1));
		br = x > 0 ? (uint64_t)x : 128;
		bc = y > 0 ? (uint64_t)y : 128;
	}
	if (s->n_elems == 1) {
		br = rows;
		bc = cols;
	} else if (s->n_elems == rows && (s->ndim == 1 || st_tensor_cols(s) == 1)) {
		br = 1;
		bc = cols;
	} else if (!is_matrix(s, ceil_div(rows, br), ceil_div(cols, bc))) {
		return false;
	}
	*a = (struct st_apart){ .method = ints ? ST_DTYPE_I8_SCALED : ST_DTYPE_F8_SCALED,
		                .rows = rows,
		                .cols = cols,
		                .bits = 8,
		                .group = bc ? bc : 1,
		                .group_rows = br ? br : 1,
		                .codes = w,
		                .scales = s };
	return true;
}

/* gpt-oss: of stacks [experts, out, in], in blocks of 32 along the rows. */
static bool mxfp4(struct fold *f, struct st_apart *a)
{
	const struct st_tensor *w = part(f, "_blocks"), *s = part(f, "_scales");
	if (!w || !s || w->dtype != ST_DTYPE_U8 || s->dtype != ST_DTYPE_U8 || w->layout != ST_LAYOUT_ROWS
	    || s->layout != ST_LAYOUT_ROWS || w->ndim != 4 || s->ndim != 3 || w->shape[3] != 16
	    || memcmp(w->shape, s->shape, 3 * sizeof *w->shape) != 0 || s->shape[2] > MOST_COLS / 32)
		return false;
	*a = (struct st_apart){ .method = ST_DTYPE_MXFP4,
		                .rows = s->shape[0] * s->shape[1],
		                .cols = s->shape[2] * 32,
		                .bits = 4,
		                .group = 32,
		                .codes = w,
		                .scales = s };
	return true;
}

static const struct {
	const char *tail; /* of the part that every matrix of the method has, and only such a one */
	bool (*fold)(struct fold *f, struct st_apart *a);
} methods[] = {
	{ "qweight", gptq },
	{ "qweight", awq },
	{ "biases", mlx },
	{ "weight_packed", compressed },
	{ "weight.quant_map", bnb4 },
	{ "SCB", int8_rows },
	{ "weight_scale_inv", factors },
	{ "weight_scale", factors },
	{ "_blocks", mxfp4 },
};

/* ---- all of them ---- */

static bool ends(const char *s, const char *with, size_t *len)
{
	size_t n = strlen(s), k = strlen(with);
	*len = n > k ? n - k : 0;
	return n > k && strcmp(s + n - k, with) == 0 && (with[0] == '_' || s[n - k - 1] == '.');
}

/* The matrix that tensor i is a part of, if it is the one that tells. */
static enum st_status fold_one(struct fold *f, size_t i, struct st_tensor *out, bool *folded, struct st_error *err)
{
	struct st_apart a;
	*folded = false;
	f->stem = f->c->tensors[i].name;
	for (size_t k = 0; k < sizeof methods / sizeof *methods && !*folded; k++) {
		if (!ends(f->stem, methods[k].tail, &f->len))
			continue;
		f->n_taken = 0;
		*folded = methods[k].fold(f, &a);
	}
	if (!*folded || a.rows == 0 || a.cols == 0 || a.cols > MOST_COLS) {
		*folded = false;
		return ST_OK;
	}
	struct st_apart *kept = st_arena_alloc(&f->c->arena, 1, sizeof *kept);
	/* gpt-oss's stacks lie the other way round than the plain ones, so they do not have their name. */
	const char *last = a.method == ST_DTYPE_MXFP4 ? "_mxfp4" : "weight",
		   *name = st_arena_printf(&f->c->arena, "%.*s%s", (int)f->len, f->stem, last);
	if (!kept || !name)
		return st_fail(err, ST_ERR_NOMEM, "out of memory");
	*kept = a;
	for (size_t k = 0; k < f->n_taken; k++)
		f->part[f->taken[k]] = true;
	*out = (struct st_tensor){ .name = name,
		                   .dtype = a.method,
		                   .layout = ST_LAYOUT_APART,
		                   .ndim = 2,
		                   .shape = { a.rows, a.cols },
		                   .file_dims = { a.rows, a.cols },
		                   .scale = 1,
		                   .data = a.codes->data,
		                   .apart = kept,
		                   .offset = a.codes->offset,
		                   .file = a.codes->file };
	return st_tensor_measure(out)
	             ? ST_OK
	             : st_fail_at(err, ST_ERR_FORMAT, out->offset, name, "dimensions overflow 64 bits");
}

static bool may_be_packed(const struct st_container *c)
{
	size_t len;
	for (size_t i = 0; i < c->n_tensors; i++)
		for (size_t k = 0; k < sizeof methods / sizeof *methods; k++)
			if (ends(c->tensors[i].name, methods[k].tail, &len))
				return true;
	return false;
}

static enum st_status say(struct st_container *c, const struct st_tensor *t, size_t n, struct st_error *err)
{
	char *said = st_arena_printf(&c->arena, "%s, %zu matrices put together (%s)", c->describe, n,
	                             st_dtype_info(t->dtype)->name);
	if (!said)
		return st_fail(err, ST_ERR_NOMEM, "out of memory");
	c->describe = said;
	return ST_OK;
}

enum st_status st_packed_fold(struct st_container *c, struct st_error *err)
{
	if (!may_be_packed(c))
		return ST_OK;
	if (!c->by_name)
		ST_TRY(st_container_index(c, err));
	struct fold f = { .c = c, .part = st_arena_alloc(&c->arena, c->n_tensors, sizeof *f.part) };
	struct st_tensor *made = st_arena_alloc(&c->arena, c->n_tensors, sizeof *made);
	if (!f.part || !made)
		return st_fail(err, ST_ERR_NOMEM, "out of memory");
	size_t n = 0, kept = 0;
	for (size_t i = 0; i < c->n_tensors; i++) {
		bool folded;
		ST_TRY(fold_one(&f, i, &made[n], &folded, err));
		n += folded;
	}
	if (n == 0)
		return ST_OK;
	/* The parts stay where they are: the matrices point at them. */
	struct st_tensor *all = st_arena_alloc(&c->arena, c->n_tensors, sizeof *all);
	if (!all)
		return st_fail(err, ST_ERR_NOMEM, "out of memory");
	for (size_t i = 0; i < c->n_tensors; i++)
		if (!f.part[i])
			all[kept++] = c->tensors[i];
	memcpy(all + kept, made, n * sizeof *made);
	c->tensors = all;
	c->n_tensors = kept + n;
	c->by_name = NULL;
	ST_TRY(st_container_index(c, err));
	return say(c, made, n, err);
}
