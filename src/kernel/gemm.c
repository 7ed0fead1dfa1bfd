/* gemm.c - packing, blocking and threads around the kernel's register tiles. */
#include "kernel/gemm.h"

#include "base/mem.h"
#include "base/pool.h"

#include <stdlib.h>
#include <string.h>

#define KC ((size_t)256) /* part of the contract: the order of summation */
#define MAX_MR 16
#define MAX_NR 64
#define PANELS 8 /* register tiles of rows that one packed block holds: 8 x 12 x 1024 floats are 384 KB of L2 */

struct packing {
	const struct st_gemm_b *b;
	const float *src;
	bool transposed;
};

/* Panels of nr columns, each [K, nr], the last one filled up with zeros. */
static void pack_panels(void *ctx, unsigned lane, uint64_t begin, uint64_t end)
{
	const struct packing *p = ctx;
	size_t nr = p->b->level->nr, K = p->b->K, N = p->b->N;
	(void)lane;
	for (size_t at = begin * nr; at < end * nr; at += nr) {
		float *dst = p->b->data + at * K;
		size_t width = N - at < nr ? N - at : nr;
		for (size_t k = 0; k < K; k++, dst += nr)
			for (size_t j = 0; j < nr; j++)
				dst[j] = j >= width    ? 0
				       : p->transposed ? p->src[(at + j) * K + k]
				                       : p->src[k * N + at + j];
	}
}

bool st_gemm_pack(struct st_gemm_b *b, enum st_cpu cpu, const float *src, bool transposed, size_t K, size_t N,
                  struct st_pool *pool)
{
	const struct st_gemm_level *l = st_gemm_level(cpu);
	uint64_t panels = st_ceil_div(N, l->nr);
	*b = (struct st_gemm_b){ .level = l, .K = K, .N = N };
	b->data = st_alloc_array3(panels, l->nr, K, sizeof *b->data);
	struct packing p = { b, src, transposed };
	if (b->data)
		st_pool_run(pool, panels, 1, pack_panels, &p);
	return b->data != NULL;
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

struct product {
	const struct st_gemm_b *b;
	const float *a, *s;
	size_t M;
	float *packed, *c; /* packed: [PANELS mr, K] for every lane */
};

static void row_blocks(void *ctx, unsigned lane, uint64_t begin, uint64_t end)
{
	const struct product *p = ctx;
	size_t mc = p->b->level->mr * PANELS, K = p->b->K;
	for (size_t at = begin * mc; at < end * mc && at < p->M; at += mc)
		row_block(p->b, p->a + at * K, p->s, p->M - at < mc ? p->M - at : mc, p->packed + lane * mc * K,
		          p->c + at * p->b->N);
}

bool st_gemm(const struct st_gemm_b *b, const float *a, const float *s, size_t M, float *c, struct st_pool *pool)
{
	size_t mc = b->level->mr * PANELS;
	struct product p = { b, a, s, M, st_alloc_array3(st_pool_threads(pool), mc, b->K, sizeof *a), c };
	if (p.packed)
		st_pool_run(pool, st_ceil_div(M, mc), 1, row_blocks, &p);
	free(p.packed);
	return p.packed != NULL;
}
