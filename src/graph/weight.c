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

void st_weight_decode(const struct st_weight *w, uint64_t row0, uint64_t n, float *dst)
{
	const struct st_tensor *t = w->tensor;
	if (!w->interleaved) {
		st_tensor_decode(t, row0, n, dst);
		return;
	}
	uint64_t cols = st_tensor_cols(t), rows = st_tensor_rows(t);
	if (rows == 1) { /* a bias: its elements are the rows of its matrix */
		assert(row0 == 0 && n == 1);
		st_tensor_decode(t, 0, 1, dst);
		st_basis_to_half(dst, w->heads, (size_t)(cols / w->heads));
		return;
	}
	uint64_t d = rows / w->heads;
	for (uint64_t r = row0; r < row0 + n; r++, dst += cols)
		st_tensor_decode(t, st_row_in_pairs(r, d), 1, dst);
}
