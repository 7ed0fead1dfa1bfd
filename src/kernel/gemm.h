/*
 * gemm.h - products of row blocks with one fixed matrix, in f32.
 *
 *   c[i, j] = sum_k (a[i, k] s[k]) b[k, j]      a: [M, K]  s: [K]  b: [K, N]  c: [M, N]
 *
 * a s is rounded to f32 first. k runs in blocks of 256; within a block the sum is one chain of fused
 * multiply-adds from zero in order of k, and block sums are added in order. So the bits depend neither on
 * the CPU level nor on threads nor on how rows are grouped into calls.
 */
#ifndef ST_KERNEL_GEMM_H
#define ST_KERNEL_GEMM_H

#include "kernel/kernel.h"

#include <stele/pool.h>

/* The second operand, packed once and used for every block of rows. */
struct st_gemm_b {
	const struct st_gemm_level *level;
	float *data; /* owned */
	size_t K, N;
};
/* transposed: src is [N, K], else [K, N]. NULL data when out of memory. */
bool st_gemm_pack(struct st_gemm_b *b, enum st_cpu cpu, const float *src, bool transposed, size_t K, size_t N,
                  struct st_pool *pool);
void st_gemm_release(struct st_gemm_b *b);
/* a: [M, K] contiguous, c: [M, N] contiguous. False when out of memory. */
bool st_gemm(const struct st_gemm_b *b, const float *a, const float *s, size_t M, float *c, struct st_pool *pool);

#endif
