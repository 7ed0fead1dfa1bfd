/* tensors.c - sizes of tensors, proved: see tensors.h. */
#include "format/tensors.h"
#include "format/writer.h"

#include "base/error.h"
#include "base/mem.h"
#include "dtype/apart.h"

#include <string.h>

/* Of a tensor without elements: what its other dimensions may amount to whatever the file's size. Arrays of no rows
 * are small files, and their rows may be as long as a vocabulary. */
#define EMPTY_DIMS (UINT64_C(1) << 20)

bool st_shape_elems(uint32_t ndim, const uint64_t *shape, uint64_t *not_zero, uint64_t *all)
{
	uint64_t n = 1;
	bool zero = false;
	if (ndim > ST_MAX_DIMS)
		return false;
	for (uint32_t i = 0; i < ndim; i++) {
		/* A dimension of 0 must not hide that the others overflow. */
		if (shape[i] == 0)
			zero = true;
		else if (!st_mul_u64(n, shape[i], &n))
			return false;
	}
	*not_zero = n;
	*all = zero ? 0 : n;
	return true;
}

/* Index of the last element from the first. */
static bool measure_strides(const struct st_tensor *t, uint64_t *last)
{
	*last = 0;
	for (uint32_t i = 0; i < t->ndim; i++) {
		uint64_t reach;
		if (t->strides[i] < 0
		    || (t->shape[i] > 1
		        && (!st_mul_u64(t->shape[i] - 1, (uint64_t)t->strides[i], &reach)
		            || !st_add_u64(*last, reach, last))))
			return false;
	}
	return true;
}

bool st_tensor_measure(struct st_tensor *t)
{
	const struct st_dtype_info *info = st_dtype_info(t->dtype);
	uint64_t be = info->block_elems, bb = info->block_bytes, not_zero, last, bytes = 0, row_bytes = 0;
	if (!st_shape_elems(t->ndim, t->shape, &not_zero, &t->n_elems) || not_zero > INT64_MAX)
		return false;
	uint64_t cols = st_tensor_cols(t);
	switch (t->layout) {
	case ST_LAYOUT_ROWS:
		if (!st_mul_u64(st_ceil_div(cols, be), bb, &row_bytes)
		    || (t->n_elems && !st_mul_u64(t->n_elems / cols, row_bytes, &bytes)))
			return false;
		break;
	case ST_LAYOUT_FLAT:
		if (!st_mul_u64(st_ceil_div(t->n_elems, be), bb, &bytes))
			return false;
		break;
	case ST_LAYOUT_APART: /* the codes, which have passed the gate themselves */
		bytes = t->apart->codes->n_bytes;
		break;
	case ST_LAYOUT_STRIDED:
		if (be != 1 || !measure_strides(t, &last)
		    || (t->n_elems && (!st_add_u64(last, 1, &bytes) || !st_mul_u64(bytes, bb, &bytes))))
			return false;
		break;
	}
	t->row_bytes = row_bytes;
	t->n_bytes = bytes;
	return bytes <= INT64_MAX;
}

bool st_stored_bytes(enum st_dtype t, uint32_t ndim, const uint64_t *shape, uint64_t *out)
{
	const struct st_dtype_info *info = st_dtype_info(t);
	/* APR's own types run over the flat tensor: nibble blocks with a short last one, and int8 after one f32
	 * scale. */
	bool flat = t == ST_DTYPE_APR_Q4 || t == ST_DTYPE_APR_Q8;
	struct st_tensor x = { .dtype = t, .ndim = ndim, .layout = flat ? ST_LAYOUT_FLAT : ST_LAYOUT_ROWS };
	if (ndim > ST_MAX_DIMS)
		return false;
	memcpy(x.shape, shape, ndim * sizeof *shape);
	if ((!flat && st_tensor_cols(&x) % info->block_elems != 0) || !st_tensor_measure(&x))
		return false;
	return st_add_u64(x.n_bytes, t == ST_DTYPE_APR_Q8 ? 4 : 0, out);
}

enum st_status st_tensor_place(struct st_tensor *t, const struct st_span *in, uint64_t at, struct st_error *err)
{
	static const uint8_t nothing[1];
	const struct st_dtype_info *info = st_dtype_info(t->dtype);
	uint64_t end, not_zero = 0, room;
	if (!st_tensor_measure(t) || !st_shape_elems(t->ndim, t->shape, &not_zero, &room))
		return st_fail_at(err, ST_ERR_FORMAT, ST_NO_OFFSET, t->name, "dimensions overflow 64 bits");
	if (!st_add_u64(at, t->n_bytes, &end) || end > in->n)
		return st_fail_at(err, ST_ERR_FORMAT, at, t->name,
		                  "data of %llu bytes reach past the end of the file at %llu",
		                  (unsigned long long)t->n_bytes, (unsigned long long)(in->origin + in->n));
	/* Elements that lie on each other (a view that repeats itself) could turn four bytes into terabytes. */
	if (!st_mul_u64(in->n / info->block_bytes, info->block_elems, &room))
		room = UINT64_MAX;
	if (t->n_elems > room)
		return st_fail_at(err, ST_ERR_FORMAT, at, t->name, "%llu elements in a view of %llu bytes",
		                  (unsigned long long)t->n_elems, (unsigned long long)in->n);
	if (t->n_elems == 0 && not_zero > EMPTY_DIMS && not_zero > in->n)
		return st_fail_at(err, ST_ERR_FORMAT, at, t->name,
		                  "holds no values, but dimensions of %llu in %llu bytes of file",
		                  (unsigned long long)not_zero, (unsigned long long)in->n);
	t->data = in->p ? in->p + at : nothing;
	t->offset = in->origin + at;
	t->scale = 1;
	return ST_OK;
}

bool st_tensor_is_proved(const struct st_tensor *t)
{
	struct st_tensor again = *t;
	return t->data && st_tensor_measure(&again) && again.n_elems == t->n_elems && again.n_bytes == t->n_bytes
	    && again.row_bytes == t->row_bytes;
}
