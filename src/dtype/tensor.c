/* tensor.c - numbers out of a stored tensor, whatever its layout. */
#include <stele/dtype.h>

#include "base/mem.h"
#include "dtype/apart.h"
#include "dtype/blocks.h"
#include "dtype/codec.h"

#include <assert.h>
#include <string.h>

uint64_t st_tensor_cols(const struct st_tensor *t) { return t->ndim == 0 ? 1 : t->shape[t->ndim - 1]; }

uint64_t st_tensor_rows(const struct st_tensor *t)
{
	/* Not n_elems / cols: a tensor without columns still has rows. The product was checked when the tensor
	 * was made unless another dimension is 0, and then it is 0 whatever the order. */
	uint64_t rows = 1;
	for (uint32_t i = 0; i + 1 < t->ndim; i++)
		if (!st_mul_u64(rows, t->shape[i], &rows))
			return 0;
	return rows;
}

/* Where decoded numbers go: f32 or f64, exactly one of the two pointers. */
struct sink {
	const struct st_tensor *t;
	const struct st_dtype_info *info;
	float *f;
	double *d;
};

/* n elements of whole blocks at src. */
static void put_blocks(struct sink *s, const uint8_t *src, size_t n)
{
	float scale = s->t->scale;
	if (s->f) {
		s->info->decode(src, s->f, n);
		if (scale != 1)
			for (size_t i = 0; i < n; i++)
				s->f[i] *= scale;
		s->f += n;
		return;
	}
	if (st_decode_wide(s->t->dtype, src, s->d, n)) {
		if (scale != 1)
			for (size_t i = 0; i < n; i++)
				s->d[i] *= (double)scale;
		s->d += n;
		return;
	}
	while (n > 0) {
		float tmp[ST_QKK];
		size_t m = n < ST_QKK ? n : ST_QKK;
		s->info->decode(src, tmp, m);
		/* The product in f32, as an f32 reader sees it. */
		for (size_t i = 0; i < m; i++)
			s->d[i] = (double)(scale == 1 ? tmp[i] : tmp[i] * scale);
		s->d += m;
		src += m / s->info->block_elems * s->info->block_bytes;
		n -= m;
	}
}

/* Elements [first, first + n) of the one block at src. */
static void put_part(struct sink *s, const uint8_t *src, size_t first, size_t n)
{
	float tmp[ST_QKK];
	s->info->decode(src, tmp, s->info->block_elems);
	for (size_t i = 0; i < n; i++) {
		float v = s->t->scale == 1 ? tmp[first + i] : tmp[first + i] * s->t->scale;
		if (s->f)
			*s->f++ = v;
		else
			*s->d++ = (double)v;
	}
}

/* Elements [first, first + n) of the blocks that begin at src: a ragged head, whole blocks, a ragged tail. */
static void put_run(struct sink *s, const uint8_t *src, uint64_t first, uint64_t n)
{
	uint32_t be = s->info->block_elems, bb = s->info->block_bytes;
	src += first / be * bb;
	first %= be;
	if (first != 0) {
		size_t m = n < be - first ? (size_t)n : (size_t)(be - first);
		put_part(s, src, (size_t)first, m);
		src += bb;
		n -= m;
	}
	size_t whole = (size_t)(n - n % be);
	if (whole > 0)
		put_blocks(s, src, whole);
	if (n % be != 0)
		put_part(s, src + whole / be * bb, 0, (size_t)(n % be));
}

/* One row of a strided tensor: gather the elements, a piece at a time, then decode. */
static void put_strided_row(struct sink *s, uint64_t row)
{
	const struct st_tensor *t = s->t;
	int64_t at = 0, step = t->ndim == 0 ? 1 : t->strides[t->ndim - 1];
	for (uint32_t i = t->ndim; i-- > 1;) {
		at += (int64_t)(row % t->shape[i - 1]) * t->strides[i - 1];
		row /= t->shape[i - 1];
	}
	size_t size = s->info->block_bytes;
	uint64_t cols = st_tensor_cols(t);
	uint8_t gathered[ST_QKK * 8];
	for (uint64_t c = 0; c < cols;) {
		size_t m = 0;
		for (; m < ST_QKK && c < cols; m++, c++, at += step)
			memcpy(gathered + m * size, t->data + at * (int64_t)size, size);
		put_blocks(s, gathered, m);
	}
}

/* f64: the numbers as an f32 reader sees them, from the end backwards, in the room of the doubles. */
static void put_apart(struct sink *s, uint64_t row0, uint64_t n_rows)
{
	uint64_t cols = st_tensor_cols(s->t);
	for (uint64_t r = row0; r < row0 + n_rows; r++) {
		float *row = s->f ? s->f + (r - row0) * cols : (float *)(void *)(s->d + (r - row0) * cols);
		st_apart_row(s->t->apart, r, &(struct st_elements){ .value = row });
		for (uint64_t k = cols; !s->f && k-- > 0;) {
			float x;
			memcpy(&x, (const char *)(s->d + (r - row0) * cols) + k * sizeof x, sizeof x);
			s->d[(r - row0) * cols + k] = (double)x;
		}
	}
}

static void decode_rows(struct sink s, uint64_t row0, uint64_t n_rows)
{
	const struct st_tensor *t = s.t;
	uint64_t rows = st_tensor_rows(t), cols = st_tensor_cols(t);
	assert(row0 <= rows && n_rows <= rows - row0);
	if (cols == 0 || n_rows == 0)
		return;
	switch (t->layout) {
	case ST_LAYOUT_APART:
		put_apart(&s, row0, n_rows);
		return;
	case ST_LAYOUT_FLAT:
		put_run(&s, t->data, row0 * cols, n_rows * cols);
		return;
	case ST_LAYOUT_ROWS:
		/* Rows that follow each other without a gap are one run. */
		if (cols % s.info->block_elems == 0
		    && t->row_bytes == cols / s.info->block_elems * s.info->block_bytes) {
			put_run(&s, t->data + row0 * t->row_bytes, 0, n_rows * cols);
			return;
		}
		for (uint64_t r = row0; r < row0 + n_rows; r++)
			put_run(&s, t->data + r * t->row_bytes, 0, cols);
		return;
	case ST_LAYOUT_STRIDED:
		assert(s.info->block_elems == 1 && s.info->block_bytes <= 8);
		for (uint64_t r = row0; r < row0 + n_rows; r++)
			put_strided_row(&s, r);
		return;
	}
	assert(!"layout");
}

void st_tensor_decode(const struct st_tensor *t, uint64_t row0, uint64_t n_rows, float *dst)
{
	decode_rows((struct sink){ .t = t, .info = st_dtype_info(t->dtype), .f = dst }, row0, n_rows);
}

void st_tensor_decode_f64(const struct st_tensor *t, uint64_t row0, uint64_t n_rows, double *dst)
{
	decode_rows((struct sink){ .t = t, .info = st_dtype_info(t->dtype), .d = dst }, row0, n_rows);
}
