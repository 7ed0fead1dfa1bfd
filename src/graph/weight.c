/* weight.c - stored weights in the half-split basis. */
#include "graph/graph.h"
#include "graph/basis.h"

#include <assert.h>
#include <string.h>

void st_basis_to_half(float *x, size_t heads, size_t d, size_t n)
{
	float tmp[ST_MAX_HEAD_DIM];
	assert(d <= ST_MAX_HEAD_DIM && n % 2 == 0 && n <= d);
	for (size_t h = 0; h < heads; h++, x += d) {
		memcpy(tmp, x, n * sizeof *x);
		for (size_t i = 0; i < n / 2; i++) {
			x[i] = tmp[2 * i];
			x[n / 2 + i] = tmp[2 * i + 1];
		}
	}
}

void st_basis_to_pairs(float *x, size_t heads, size_t d, size_t n)
{
	float tmp[ST_MAX_HEAD_DIM];
	assert(d <= ST_MAX_HEAD_DIM && n % 2 == 0 && n <= d);
	for (size_t h = 0; h < heads; h++, x += d) {
		memcpy(tmp, x, n * sizeof *x);
		for (size_t i = 0; i < n / 2; i++) {
			x[2 * i] = tmp[i];
			x[2 * i + 1] = tmp[n / 2 + i];
		}
	}
}

uint64_t st_weight_cols(const struct st_weight *w)
{
	return w->tensor->ndim == 1 && w->group_rows ? st_weight_rows(w) : st_tensor_cols(w->tensor);
}

uint64_t st_weight_rows(const struct st_weight *w)
{
	uint64_t rows = w->tensor->ndim == 1 && w->group_rows ? w->tensor->n_elems : st_tensor_rows(w->tensor);
	return w->group_rows ? rows / w->group_of * w->group_rows : rows;
}

/* Features of a head of d that lie in pairs. */
static uint64_t paired(const struct st_weight *w, uint64_t d) { return w->pair_dims ? w->pair_dims : d; }

uint64_t st_weight_stored_row(const struct st_weight *w, uint64_t r)
{
	uint64_t d = w->interleaved ? st_weight_rows(w) / w->heads : 0, n = d ? paired(w, d) : 0;
	if (d && r % d < n)
		r = r - r % d + st_row_in_pairs(r % d, n);
	return w->group_rows ? r / w->group_rows * w->group_of + w->group_from + r % w->group_rows : r;
}

/* One piece of a vector: all of it, or the elements of one group. */
struct st_tensor st_weight_piece(const struct st_weight *w, uint64_t i)
{
	struct st_tensor t = *w->tensor;
	if (!w->group_rows)
		return t;
	uint64_t bytes = st_dtype_info(t.dtype)->block_bytes;
	t.data += (i * w->group_of + w->group_from) * bytes;
	t.shape[t.ndim - 1] = t.n_elems = w->group_rows;
	t.n_bytes = t.row_bytes = w->group_rows * bytes;
	return t;
}

uint64_t st_weight_pieces(const struct st_weight *w) { return w->group_rows ? st_weight_rows(w) / w->group_rows : 1; }

static void decode_vector(const struct st_weight *w, float *dst)
{
	uint64_t pieces = st_weight_pieces(w), n = st_weight_cols(w);
	for (uint64_t i = 0; i < pieces; i++) {
		struct st_tensor t = st_weight_piece(w, i);
		st_tensor_decode(&t, 0, 1, dst + i * w->group_rows);
	}
	if (w->interleaved)
		st_weight_vector_to_half(w, dst, n);
}

void st_weight_vector_to_half(const struct st_weight *w, float *x, uint64_t n)
{
	st_basis_to_half(x, w->heads, (size_t)(n / w->heads), (size_t)paired(w, n / w->heads));
}

void st_weight_decode(const struct st_weight *w, uint64_t row0, uint64_t n, float *dst)
{
	const struct st_tensor *t = w->tensor;
	uint64_t cols = st_tensor_cols(t), rows = st_tensor_rows(t);
	if (rows == 1 && (w->interleaved || w->group_rows)) { /* a bias: its elements are the rows of its matrix */
		assert(row0 == 0 && n == 1);
		decode_vector(w, dst);
		cols = st_weight_cols(w);
	} else if (w->interleaved || w->group_rows) {
		for (uint64_t r = 0; r < n; r++)
			st_tensor_decode(t, st_weight_stored_row(w, row0 + r), 1, dst + r * cols);
	} else {
		st_tensor_decode(t, row0, n, dst);
	}
	for (uint64_t i = 0; w->neg_exp && i < n * cols; i++)
		dst[i] = (float)-st_exp((double)dst[i]);
	for (uint64_t i = 0; w->plus_one && i < n * cols; i++)
		dst[i] = 1 + dst[i];
}
