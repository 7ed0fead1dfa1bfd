/* level_avx2.c - x86 with AVX2, FMA and F16C. The 16 lanes of an f32 sum are two registers. */
#if defined(__x86_64__)
#define VEC_AVX2
#include "kernel/vec.h"

#include "dtype/blocks.h"
#include "kernel/pointwise_template.h"

/* 2 x 3 sums of two registers, 2 rows and a token: 15 of 16 registers. One token: 8 chains. */
#define ROWS 2
#define COLS 3
#define ROWS1 4
#include "kernel/dots.h"
#include "kernel/x86_sums.h"

/* 6 x 2 sums, 2 of b, 1 of a: 15 of 16 registers. */
#define GEMM_ROWS 6
#define GEMM_VECTORS 2
#include "kernel/gemm_template.h"

/* ---- decoders: 8 elements a step; the operations and their order are those of the dtype room ---- */

ST_INLINE ST_TARGET __m256i bytes(const void *p) { return _mm256_cvtepu8_epi32(_mm_loadl_epi64(p)); }
ST_INLINE ST_TARGET __m256i lows(__m256i v) { return _mm256_and_si256(v, _mm256_set1_epi32(15)); }
ST_INLINE ST_TARGET __m256i highs(__m256i v) { return _mm256_srli_epi32(v, 4); }

/* scale * (code - bias) */
ST_INLINE ST_TARGET void put_scaled(float *dst, __m256 scale, __m256i code, int bias)
{
	__m256i c = _mm256_sub_epi32(code, _mm256_set1_epi32(bias));
	_mm256_storeu_ps(dst, _mm256_mul_ps(scale, _mm256_cvtepi32_ps(c)));
}

/* scale * code - min, exact products, so fused or not is the same */
ST_INLINE ST_TARGET void put_offset(float *dst, __m256 scale, __m256i code, __m256 min)
{
	_mm256_storeu_ps(dst, _mm256_fmsub_ps(scale, _mm256_cvtepi32_ps(code), min));
}

ST_TARGET static void decode_f16(const void *src, float *dst, size_t n)
{
	const uint8_t *p = src;
	size_t i = 0;
	for (; i + 8 <= n; i += 8)
		_mm256_storeu_ps(dst + i, _mm256_cvtph_ps(_mm_loadu_si128((const void *)(p + 2 * i))));
	for (; i < n; i++) {
		uint16_t h;
		__builtin_memcpy(&h, p + 2 * i, 2);
		dst[i] = st_f16_to_f32(h);
	}
}

ST_TARGET static void decode_bf16(const void *src, float *dst, size_t n)
{
	const uint8_t *p = src;
	size_t i = 0;
	for (; i + 8 <= n; i += 8) {
		__m256i v = _mm256_cvtepu16_epi32(_mm_loadu_si128((const void *)(p + 2 * i)));
		_mm256_storeu_ps(dst + i, _mm256_castsi256_ps(_mm256_slli_epi32(v, 16)));
	}
	for (; i < n; i++) {
		uint16_t h;
		__builtin_memcpy(&h, p + 2 * i, 2);
		dst[i] = st_bf16_to_f32(h);
	}
}

ST_TARGET static void decode_q4_0(const void *src, float *dst, size_t n)
{
	const struct st_block_q4_0 *b = src;
	for (const float *end = dst + n; dst < end; b++, dst += ST_QK) {
		__m256 d = _mm256_set1_ps(st_f16_to_f32(b->d));
		for (int i = 0; i < 16; i += 8) {
			__m256i q = bytes(b->qs + i);
			put_scaled(dst + i, d, lows(q), 8);
			put_scaled(dst + 16 + i, d, highs(q), 8);
		}
	}
}

ST_TARGET static void decode_q8_0(const void *src, float *dst, size_t n)
{
	const struct st_block_q8_0 *b = src;
	for (const float *end = dst + n; dst < end; b++, dst += ST_QK) {
		__m256 d = _mm256_set1_ps(st_f16_to_f32(b->d));
		for (int i = 0; i < 32; i += 8)
			put_scaled(dst + i, d, _mm256_cvtepi8_epi32(_mm_loadl_epi64((const void *)(b->qs + i))), 0);
	}
}

ST_TARGET static void decode_q4_k(const void *src, float *dst, size_t n)
{
	const struct st_block_q4_k *b = src;
	for (const float *end = dst + n; dst < end; b++, dst += ST_QKK) {
		float d = st_f16_to_f32(b->d), dmin = st_f16_to_f32(b->dmin);
		for (unsigned g = 0; g < 4; g++) {
			unsigned sc0, m0, sc1, m1;
			st_k4_scale_min(b->scales, 2 * g, &sc0, &m0);
			st_k4_scale_min(b->scales, 2 * g + 1, &sc1, &m1);
			__m256 s0 = _mm256_set1_ps(d * (float)sc0), t0 = _mm256_set1_ps(dmin * (float)m0);
			__m256 s1 = _mm256_set1_ps(d * (float)sc1), t1 = _mm256_set1_ps(dmin * (float)m1);
			for (unsigned i = 0; i < 32; i += 8) {
				__m256i q = bytes(b->qs + 32 * g + i);
				put_offset(dst + 64 * g + i, s0, lows(q), t0);
				put_offset(dst + 64 * g + 32 + i, s1, highs(q), t1);
			}
		}
	}
}

ST_TARGET static void decode_q5_k(const void *src, float *dst, size_t n)
{
	const struct st_block_q5_k *b = src;
	for (const float *end = dst + n; dst < end; b++, dst += ST_QKK) {
		float d = st_f16_to_f32(b->d), dmin = st_f16_to_f32(b->dmin);
		for (unsigned j = 0; j < 8; j++) {
			unsigned sc, m;
			st_k4_scale_min(b->scales, j, &sc, &m);
			__m256 scale = _mm256_set1_ps(d * (float)sc), min = _mm256_set1_ps(dmin * (float)m);
			for (unsigned i = 0; i < 32; i += 8) {
				__m256i q = bytes(b->qs + 32 * (j / 2) + i), h = bytes(b->qh + i);
				q = j % 2 ? highs(q) : lows(q);
				h = _mm256_and_si256(_mm256_srl_epi32(h, _mm_cvtsi32_si128((int)j)),
				                     _mm256_set1_epi32(1));
				put_offset(dst + 32 * j + i, scale, _mm256_or_si256(q, _mm256_slli_epi32(h, 4)), min);
			}
		}
	}
}

ST_TARGET static void decode_q6_k(const void *src, float *dst, size_t n)
{
	const struct st_block_q6_k *b = src;
	__m256i high2 = _mm256_set1_epi32(0x30);
	for (const float *end = dst + n; dst < end; b++, dst += ST_QKK) {
		float d = st_f16_to_f32(b->d);
		for (unsigned h = 0; h < 2; h++)
			for (unsigned i = 0; i < 32; i += 8) {
				__m256i l0 = bytes(b->ql + 64 * h + i), l1 = bytes(b->ql + 64 * h + 32 + i),
					t = bytes(b->qh + 32 * h + i);
				/* runs 0..3 take bits 0-1, 2-3, 4-5, 6-7 of t as bits 4-5 of the code */
				__m256i code[4] = {
					_mm256_or_si256(lows(l0), _mm256_and_si256(_mm256_slli_epi32(t, 4), high2)),
					_mm256_or_si256(lows(l1), _mm256_and_si256(_mm256_slli_epi32(t, 2), high2)),
					_mm256_or_si256(highs(l0), _mm256_and_si256(t, high2)),
					_mm256_or_si256(highs(l1), _mm256_and_si256(_mm256_srli_epi32(t, 2), high2)),
				};
				const int8_t *scales = b->scales + 8 * h + i / 16;
				UNROLL for (unsigned r = 0; r < 4; r++)
					put_scaled(dst + 128 * h + 32 * r + i, _mm256_set1_ps(d * (float)scales[2 * r]),
				                   code[r], 32);
			}
	}
}

const struct st_kernels st_kernels_avx2 = {
	.cpu = ST_CPU_AVX2,
	.decode = {
		[ST_DTYPE_F16] = decode_f16, [ST_DTYPE_BF16] = decode_bf16,
		[ST_DTYPE_Q4_0] = decode_q4_0, [ST_DTYPE_Q8_0] = decode_q8_0,
		[ST_DTYPE_Q4_K] = decode_q4_k, [ST_DTYPE_Q5_K] = decode_q5_k, [ST_DTYPE_Q6_K] = decode_q6_k,
	},
	.dot_f32 = dot_f32, .dot_f64 = dot_f64, .sum_f32 = sum_f32, .sum_f64 = sum_f64,
	.mix_f32 = mix_f32, .mix_f64 = mix_f64,
	ST_POINTWISE_TABLE,
	ST_GEMM_TABLE,
};
#endif
