/* weight.c - stored weights in the half-split basis. */
#include "graph/graph.h"
#include "graph/basis.h"

#include <assert.h>
#include <string.h>

void st_basis_to_half(float *x, size_t heads, size_t d)
{
	float tmp[ST_MAX_HEAD_DIM];
	assert(d <= ST_MAX_HEAD_DIM && d % 2 == 0);
	for (size_t h = 0; h < heads; h++, x += d) {
		memcpy(tmp, x, d * sizeof *x);
		for (size_t i = 0; i < d / 2; i++) {
			x[i] = tmp[2 * i];
			x[d / 2 + i] = tmp[2 * i + 1];
		}
	}
}

uint64_t st_weight_rows(const struct st_weight *w)
{
	uint64_t rows = st_tensor_rows(w->tensor);
	return w->group_rows ? rows / w->group_of * w->group_rows : rows;
}

/* Where row r of the weight is stored. d: rows of a head; 0: no pairs */
static uint64_t stored_row(const struct st_weight *w, uint64_t r, uint64_t d)
{
	if (d)
		return st_row_in_pairs(r, d);
	return w->group_rows ? r / w->group_rows * w->group_of + w->group_from + r % w->group_rows : r;
}

void st_weight_decode(const struct st_weight *w, uint64_t row0, uint64_t n, float *dst)
{
	const struct st_tensor *t = w->tensor;
	uint64_t cols = st_tensor_cols(t), rows = st_tensor_rows(t);
	if (w->interleaved && rows == 1) { /* a bias: its elements are the rows of its matrix */
		assert(row0 == 0 && n == 1);
		st_tensor_decode(t, 0, 1, dst);
		st_basis_to_half(dst, w->heads, (size_t)(cols / w->heads));
	} else if (w->interleaved || w->group_rows) {
		uint64_t d = w->interleaved ? rows / w->heads : 0;
		for (uint64_t r = 0; r < n; r++)
			st_tensor_decode(t, stored_row(w, row0 + r, d), 1, dst + r * cols);
	} else {
		st_tensor_decode(t, row0, n, dst);
	}
	for (uint64_t i = 0; w->plus_one && i < n * cols; i++)
		dst[i] = 1 + dst[i];
}
