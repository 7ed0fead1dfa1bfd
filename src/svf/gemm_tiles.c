/* gemm_tiles.c - one register tile per CPU level: MR x NR sums, a column of a and a row of b per step. */
#include "svf/gemm.h"

#include <math.h>

#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

#define UNROLL _Pragma("GCC unroll 16")

#define TILE(name, target, vec, lanes, MR, NV, zero, load, store, add, fma, splat)                            \
	target static void name(size_t kc, const float *a, const float *b, float *c, size_t ldc, bool adding) \
	{                                                                                                     \
		vec s[MR][NV];                                                                                \
		UNROLL for (int i = 0; i < MR; i++) UNROLL for (int j = 0; j < NV; j++) s[i][j] = zero;       \
		for (size_t k = 0; k < kc; k++, a += MR, b += NV * lanes) {                                   \
			vec row[NV];                                                                          \
			UNROLL for (int j = 0; j < NV; j++) row[j] = load(b + j * lanes);                     \
			UNROLL for (int i = 0; i < MR; i++)                                                   \
			{                                                                                     \
				vec x = splat(a[i]);                                                          \
				UNROLL for (int j = 0; j < NV; j++) s[i][j] = fma(x, row[j], s[i][j]);        \
			}                                                                                     \
		}                                                                                             \
		UNROLL for (int i = 0; i < MR; i++) UNROLL for (int j = 0; j < NV; j++)                       \
			store(c + (size_t)i * ldc + j * lanes,                                                \
		              adding ? add(load(c + (size_t)i * ldc + j * lanes), s[i][j]) : s[i][j]);        \
	}

#define PLAIN_LOAD(p) (*(p))
#define PLAIN_STORE(p, v) (*(p) = (v))
#define PLAIN_ADD(x, y) ((x) + (y))
#define PLAIN(x) (x)
TILE(tile_scalar, , float, 1, 4, 4, 0, PLAIN_LOAD, PLAIN_STORE, PLAIN_ADD, fmaf, PLAIN)
static const struct st_gemm_level scalar = { 4, 4, tile_scalar };

#if defined(__x86_64__)
/* 6 x 2 sums, 2 of b, 1 of a: 15 of 16 registers. */
TILE(tile_avx2, __attribute__((target("avx2,fma"))), __m256, 8, 6, 2, _mm256_setzero_ps(), _mm256_loadu_ps,
     _mm256_storeu_ps, _mm256_add_ps, _mm256_fmadd_ps, _mm256_set1_ps)
/* 12 x 2 sums, 2 of b, 1 of a: 27 of 32 registers. */
TILE(tile_avx512, __attribute__((target("avx512f"))), __m512, 16, 12, 2, _mm512_setzero_ps(), _mm512_loadu_ps,
     _mm512_storeu_ps, _mm512_add_ps, _mm512_fmadd_ps, _mm512_set1_ps)
static const struct st_gemm_level avx2 = { 6, 16, tile_avx2 }, avx512 = { 12, 32, tile_avx512 };
#elif defined(__aarch64__)
#define NEON_FMA(x, y, s) vfmaq_f32(s, x, y)
TILE(tile_neon, , float32x4_t, 4, 8, 2, vdupq_n_f32(0), vld1q_f32, vst1q_f32, vaddq_f32, NEON_FMA, vdupq_n_f32)
static const struct st_gemm_level neon = { 8, 8, tile_neon };
#endif

const struct st_gemm_level *st_gemm_level(enum st_cpu c)
{
	switch (c) {
#if defined(__x86_64__)
	case ST_CPU_AVX2:
		return &avx2;
	case ST_CPU_AVX512:
		return &avx512;
#elif defined(__aarch64__)
	case ST_CPU_NEON:
		return &neon;
#endif
	default:
		return &scalar;
	}
}
