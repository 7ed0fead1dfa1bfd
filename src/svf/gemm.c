/* gemm.c - packing, blocking and threads around the kernel's register tiles. */
#include "svf/gemm.h"

#include "base/mem.h"

#include <stdlib.h>
#include <string.h>

#define KC ((size_t)256) /* part of the contract: the order of summation */
#define MAX_MR 16
#define MAX_NR 64
#define PANELS 8 /* register tiles of rows that one packed block holds: 8 x 12 x 1024 floats are 384 KB of L2 */

/* Panels of nr columns, each [K, nr], the last one filled up with zeros. */
bool st_gemm_pack(struct st_gemm_b *b, enum st_cpu cpu, const float *src, bool transposed, size_t K, size_t N,
                  int threads)
{
	const struct st_gemm_level *l = st_gemm_level(cpu);
	size_t nr = l->nr, panels = (size_t)st_ceil_div(N, nr);
	uint64_t bytes;
	*b = (struct st_gemm_b){ .level = l, .K = K, .N = N };
	if (!st_mul_u64(panels * nr, K, &bytes) || !(b->data = st_alloc_array(bytes ? bytes : 1, sizeof *b->data)))
		return false;
#pragma omp parallel for schedule(static) num_threads(threads)
	for (size_t p = 0; p < panels; p++) {
		float *dst = b->data + p * nr * K;
		size_t width = N - p * nr < nr ? N - p * nr : nr;
		for (size_t k = 0; k < K; k++, dst += nr)
			for (size_t j = 0; j < nr; j++)
				dst[j] = j >= width ? 0
				       : transposed ? src[(p * nr + j) * K + k]
				                    : src[k * N + p * nr + j];
	}
	return true;
}

void st_gemm_release(struct st_gemm_b *b)
{
	free(b->data);
	b->data = NULL;
}

/* One panel of mr rows, [K, mr]; rows past the end are zeros. */
static void pack_rows(const float *a, const float *s, size_t rows, size_t mr, size_t K, float *dst)
{
	for (size_t i = 0; i < mr; i++)
		for (size_t k = 0; k < K; k++)
			dst[k * mr + i] = i < rows ? a[i * K + k] * s[k] : 0;
}

static void tile_at(const struct st_gemm_b *b, const float *a, size_t k0, size_t rows, size_t j0, float *c)
{
	const struct st_gemm_level *l = b->level;
	size_t kc = b->K - k0 < KC ? b->K - k0 : KC, cols = b->N - j0 < l->nr ? b->N - j0 : l->nr;
	const float *ap = a + k0 * l->mr, *bp = b->data + j0 * b->K + k0 * l->nr;
	if (rows == l->mr && cols == l->nr) {
		l->tile(kc, ap, bp, c + j0, b->N, k0 > 0);
		return;
	}
	/* A ragged edge goes through a full tile of its own, so that it is summed the same way. */
	float edge[MAX_MR * MAX_NR];
	for (size_t i = 0; k0 > 0 && i < rows; i++)
		memcpy(edge + i * l->nr, c + i * b->N + j0, cols * sizeof *c);
	for (size_t i = rows; k0 > 0 && i < l->mr; i++)
		memset(edge + i * l->nr, 0, l->nr * sizeof *c);
	for (size_t i = 0; k0 > 0 && i < rows && cols < l->nr; i++)
		memset(edge + i * l->nr + cols, 0, (l->nr - cols) * sizeof *c);
	l->tile(kc, ap, bp, edge, l->nr, k0 > 0);
	for (size_t i = 0; i < rows; i++)
		memcpy(c + i * b->N + j0, edge + i * l->nr, cols * sizeof *c);
}

static void row_block(const struct st_gemm_b *b, const float *a, const float *s, size_t rows, float *packed, float *c)
{
	size_t mr = b->level->mr, nr = b->level->nr, K = b->K;
	for (size_t i = 0; i < rows; i += mr)
		pack_rows(a + i * K, s, rows - i < mr ? rows - i : mr, mr, K, packed + i * K);
	for (size_t k0 = 0; k0 < K; k0 += KC)
		for (size_t j0 = 0; j0 < b->N; j0 += nr)
			for (size_t i = 0; i < rows; i += mr)
				tile_at(b, packed + i * K, k0, rows - i < mr ? rows - i : mr, j0, c + i * b->N);
}

bool st_gemm(const struct st_gemm_b *b, const float *a, const float *s, size_t M, float *c, int threads)
{
	size_t mc = b->level->mr * PANELS, blocks = (size_t)st_ceil_div(M, mc);
	bool ok = true;
#pragma omp parallel num_threads(threads)
	{
		float *packed = st_alloc_array(mc * b->K, sizeof *packed);
#pragma omp for schedule(dynamic)
		for (size_t i = 0; i < blocks; i++) {
			size_t rows = M - i * mc < mc ? M - i * mc : mc;
			if (packed)
				row_block(b, a + i * mc * b->K, s, rows, packed, c + i * mc * b->N);
		}
		if (!packed) {
#pragma omp atomic write
			ok = false;
		}
		free(packed);
	}
	return ok;
}
