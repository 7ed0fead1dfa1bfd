/*
 * level_avx512.c - x86 with AVX-512 F, BW, VL and DQ (and FMA, F16C). All 16 lanes of an f32 sum are
 * one register.
 */
#if defined(__x86_64__)
#include <immintrin.h>

#define ST_TARGET __attribute__((target("avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq")))
#include "dtype/blocks.h"
#include "kernel/pointwise_template.h"

#define ST_PASTE_(a, b) a##b
#define ST_PASTE(a, b) ST_PASTE_(a, b)
#define UNROLL _Pragma("GCC unroll 16")

/* 4 x 6 sums, 4 rows and a token: 29 of 32 registers. One token: 8 chains hide the latency of fma. */
#define ROWS 4
#define COLS 6
#define ROWS1 8

ST_INLINE ST_TARGET __mmask16 first(int n) { return n <= 0 ? 0 : n >= 16 ? 0xFFFF : (__mmask16)((1u << n) - 1); }

#define DOT dot_f32
#define MIX mix_f32
#define ELEM float
#define LANES 16
#define VEC __m512
#define REGS 1
#define LOAD(p) _mm512_loadu_ps(p)
#define LOAD_N(p, n) _mm512_maskz_loadu_ps(first(n), p)
#define GETX LOAD
#define GETX_N LOAD_N
#define SPLAT(x) _mm512_set1_ps(x)
#define FMA(a, b, c) _mm512_fmadd_ps(a, b, c)
#define GET(p) _mm512_load_ps(p)
#define PUT(p, v) _mm512_store_ps(p, v)
#include "kernel/dot_template.h"

#define DOT dot_f64
#define MIX mix_f64
#define ELEM double
#define LANES 8
#define VEC __m512d
#define REGS 1
#define LOAD(p) _mm512_cvtps_pd(_mm256_loadu_ps(p))
#define LOAD_N(p, n) _mm512_cvtps_pd(_mm256_maskz_loadu_ps((__mmask8)first(n), p))
#define GETX(p) _mm512_loadu_pd(p)
#define GETX_N(p, n) _mm512_maskz_loadu_pd((__mmask8)first(n), p)
#define SPLAT(x) _mm512_set1_pd((double)(x))
#define FMA(a, b, c) _mm512_fmadd_pd(a, b, c)
#define GET(p) _mm512_load_pd(p)
#define PUT(p, v) _mm512_store_pd(p, v)
#include "kernel/dot_template.h"

/* l + 8, then l + 4: four sums of four lanes left, one in each 128-bit vector. */
ST_INLINE ST_TARGET __m128 quarter(const float *acc)
{
	__m512 v = _mm512_load_ps(acc);
	__m256 h = _mm256_add_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps(v, 1));
	return _mm_add_ps(_mm256_castps256_ps128(h), _mm256_extractf128_ps(h, 1));
}

ST_INLINE ST_TARGET __m128d quarter_f64(const double *acc)
{
	__m512d v = _mm512_load_pd(acc);
	__m256d h = _mm256_add_pd(_mm512_castpd512_pd256(v), _mm512_extractf64x4_pd(v, 1));
	return _mm_add_pd(_mm256_castpd256_pd128(h), _mm256_extractf128_pd(h, 1));
}
#include "kernel/x86_sums.h"

/* ---- decoders: 16 elements a step. A 4-bit code picks its value from a register of 16. ---- */

ST_INLINE ST_TARGET __m512 ramp(void)
{
	return _mm512_setr_ps(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
}

/* In one instruction; signalling NaN become quiet, which no caller can see. */
ST_INLINE ST_TARGET float half(st_half h) { return _mm_cvtss_f32(_mm_cvtph_ps(_mm_cvtsi32_si128(h))); }

ST_INLINE ST_TARGET __m512i bytes(const void *p) { return _mm512_cvtepu8_epi32(_mm_loadu_si128(p)); }
ST_INLINE ST_TARGET __m512 signed_bytes(const void *p)
{
	return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(p)));
}

/* 16 bytes of two codes each: low halves to lo[0..15], high halves to hi[0..15]. vpermps looks at 4 bits only. */
ST_INLINE ST_TARGET void pick(const uint8_t *q, __m512 lo_table, __m512 hi_table, float *lo, float *hi)
{
	__m512i v = bytes(q);
	_mm512_storeu_ps(lo, _mm512_permutexvar_ps(v, lo_table));
	_mm512_storeu_ps(hi, _mm512_permutexvar_ps(_mm512_srli_epi32(v, 4), hi_table));
}

ST_TARGET static void decode_f16(const void *src, float *dst, size_t n)
{
	const uint8_t *p = src;
	size_t i = 0;
	for (; i + 16 <= n; i += 16)
		_mm512_storeu_ps(dst + i, _mm512_cvtph_ps(_mm256_loadu_si256((const void *)(p + 2 * i))));
	__mmask16 m = first((int)(n - i));
	_mm512_mask_storeu_ps(dst + i, m, _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(m, p + 2 * i)));
}

ST_TARGET static void decode_bf16(const void *src, float *dst, size_t n)
{
	const uint8_t *p = src;
	size_t i = 0;
	for (; i + 16 <= n; i += 16) {
		__m512i v = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const void *)(p + 2 * i)));
		_mm512_storeu_ps(dst + i, _mm512_castsi512_ps(_mm512_slli_epi32(v, 16)));
	}
	__mmask16 m = first((int)(n - i));
	__m512i v = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(m, p + 2 * i));
	_mm512_mask_storeu_ps(dst + i, m, _mm512_castsi512_ps(_mm512_slli_epi32(v, 16)));
}

ST_TARGET static void decode_q4_1(const void *src, float *dst, size_t n)
{
	const struct st_block_q4_1 *b = src;
	for (const float *end = dst + n; dst < end; b++, dst += ST_QK) {
		__m512 table = _mm512_mul_ps(_mm512_set1_ps(half(b->d)), ramp());
		table = _mm512_add_ps(table, _mm512_set1_ps(half(b->m)));
		pick(b->qs, table, table, dst, dst + 16);
	}
}

ST_TARGET static void decode_q5_0(const void *src, float *dst, size_t n)
{
	const struct st_block_q5_0 *b = src;
	__m512 base = _mm512_sub_ps(ramp(), _mm512_set1_ps(16));
	for (const float *end = dst + n; dst < end; b++, dst += ST_QK) {
		__m512 d = _mm512_set1_ps(half(b->d));
		__m512 low = _mm512_mul_ps(d, base), high = _mm512_mul_ps(d, ramp());
		uint32_t top;
		__builtin_memcpy(&top, b->qh, 4);
		__m512i v = bytes(b->qs), u = _mm512_srli_epi32(v, 4);
		/* bit 4 of the index picks the second table */
		v = _mm512_and_si512(v, _mm512_set1_epi32(15));
		v = _mm512_mask_or_epi32(v, (__mmask16)top, v, _mm512_set1_epi32(16));
		u = _mm512_mask_or_epi32(u, (__mmask16)(top >> 16), u, _mm512_set1_epi32(16));
		_mm512_storeu_ps(dst, _mm512_permutex2var_ps(low, v, high));
		_mm512_storeu_ps(dst + 16, _mm512_permutex2var_ps(low, u, high));
	}
}

/*
 * The block types in two steps, so that decoding to memory and multiplying at once (fused_template.h) share
 * them: prep_T(b, f) turns the factors of a block into floats, group_T(b, g, f, y) writes its g-th group of
 * elements. Both are inlined.
 */
ST_INLINE ST_TARGET void prep_q4_0(const struct st_block_q4_0 *b, float *f) { f[0] = half(b->d); }
ST_INLINE ST_TARGET void group_q4_0(const struct st_block_q4_0 *b, unsigned g, const float *f, float *y)
{
	(void)g;
	__m512 codes = _mm512_sub_ps(ramp(), _mm512_set1_ps(8)), table = _mm512_mul_ps(_mm512_set1_ps(f[0]), codes);
	pick(b->qs, table, table, y, y + 16);
}

ST_INLINE ST_TARGET void prep_q8_0(const struct st_block_q8_0 *b, float *f) { f[0] = half(b->d); }
ST_INLINE ST_TARGET void group_q8_0(const struct st_block_q8_0 *b, unsigned g, const float *f, float *y)
{
	(void)g;
	__m512 d = _mm512_set1_ps(f[0]);
	_mm512_storeu_ps(y, _mm512_mul_ps(d, signed_bytes(b->qs)));
	_mm512_storeu_ps(y + 16, _mm512_mul_ps(d, signed_bytes(b->qs + 16)));
}

/* The 8 scales times d, then the 8 minima times dmin, of a Q4_K or Q5_K block: st_k4_scale_min for all
 * sub-blocks at once, four bytes to a word. */
ST_INLINE ST_TARGET void k4_factors(const uint8_t scales[12], float d, float dmin, float *f)
{
	uint32_t a, b, c;
	__builtin_memcpy(&a, scales, 4);
	__builtin_memcpy(&b, scales + 4, 4);
	__builtin_memcpy(&c, scales + 8, 4);
	uint32_t six = 0x3F3F3F3F, four = 0x0F0F0F0F, top = 0x30303030;
	__m128i packed = _mm_setr_epi32((int)(a & six), (int)((c & four) | (a >> 2 & top)),
	                                (int)(b & six), (int)((c >> 4 & four) | (b >> 2 & top)));
	__m512 factor = _mm512_mask_blend_ps(0xFF00, _mm512_set1_ps(d), _mm512_set1_ps(dmin));
	_mm512_storeu_ps(f, _mm512_mul_ps(factor, _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(packed))));
}

/* scale * code - min for codes 0..15: scale is d * 6 bits and exact, its product with a code too, so
 * the fused form rounds where the plain one does. */
ST_INLINE ST_TARGET void prep_q4_k(const struct st_block_q4_k *b, float *f) { k4_factors(b->scales, half(b->d), half(b->dmin), f); }
ST_INLINE ST_TARGET void group_q4_k(const struct st_block_q4_k *b, unsigned g, const float *f, float *y)
{
	__m512 lo = _mm512_fmsub_ps(_mm512_set1_ps(f[2 * g]), ramp(), _mm512_set1_ps(f[8 + 2 * g]));
	__m512 hi = _mm512_fmsub_ps(_mm512_set1_ps(f[2 * g + 1]), ramp(), _mm512_set1_ps(f[9 + 2 * g]));
	pick(b->qs + 32 * g, lo, hi, y, y + 32);
	pick(b->qs + 32 * g + 16, lo, hi, y + 16, y + 48);
}

ST_INLINE ST_TARGET void prep_q5_k(const struct st_block_q5_k *b, float *f) { k4_factors(b->scales, half(b->d), half(b->dmin), f); }
ST_INLINE ST_TARGET void group_q5_k(const struct st_block_q5_k *b, unsigned g, const float *f, float *y)
{
	__m512 upper = _mm512_add_ps(ramp(), _mm512_set1_ps(16));
	UNROLL for (unsigned j = 2 * g; j < 2 * g + 2; j++) {
		__m512 scale = _mm512_set1_ps(f[j]), min = _mm512_set1_ps(f[8 + j]);
		__m512 low = _mm512_fmsub_ps(scale, ramp(), min), high = _mm512_fmsub_ps(scale, upper, min);
		UNROLL for (unsigned i = 0; i < 32; i += 16) {
			__m512i v = _mm512_srli_epi32(bytes(b->qs + 32 * g + i), 4 * (j % 2));
			__mmask16 top = _mm512_test_epi32_mask(bytes(b->qh + i), _mm512_set1_epi32(1 << j));
			v = _mm512_and_si512(v, _mm512_set1_epi32(15));
			v = _mm512_mask_or_epi32(v, top, v, _mm512_set1_epi32(16)); /* bit 4 picks the second table */
			_mm512_storeu_ps(y + 32 * (j % 2) + i, _mm512_permutex2var_ps(low, v, high));
		}
	}
}

ST_INLINE ST_TARGET void prep_q6_k(const struct st_block_q6_k *b, float *f)
{
	_mm512_storeu_ps(f, _mm512_mul_ps(_mm512_set1_ps(half(b->d)), signed_bytes(b->scales)));
}
ST_INLINE ST_TARGET void group_q6_k(const struct st_block_q6_k *b, unsigned g, const float *f, float *y)
{
	__m512i low4 = _mm512_set1_epi32(15), high2 = _mm512_set1_epi32(0x30), bias = _mm512_set1_epi32(32);
	UNROLL for (unsigned at = 0; at < 2; at++) {
		__m512i l0 = bytes(b->ql + 64 * g + 16 * at), l1 = bytes(b->ql + 64 * g + 32 + 16 * at);
		__m512i top = bytes(b->qh + 32 * g + 16 * at);
		/* runs 0..3 take bits 0-1, 2-3, 4-5, 6-7 of top as bits 4-5 of the code */
		__m512i code[4] = {
			_mm512_or_si512(_mm512_and_si512(l0, low4), _mm512_and_si512(_mm512_slli_epi32(top, 4), high2)),
			_mm512_or_si512(_mm512_and_si512(l1, low4), _mm512_and_si512(_mm512_slli_epi32(top, 2), high2)),
			_mm512_or_si512(_mm512_srli_epi32(l0, 4), _mm512_and_si512(top, high2)),
			_mm512_or_si512(_mm512_srli_epi32(l1, 4), _mm512_and_si512(_mm512_srli_epi32(top, 2), high2)),
		};
		UNROLL for (unsigned r = 0; r < 4; r++) {
			__m512 q = _mm512_cvtepi32_ps(_mm512_sub_epi32(code[r], bias));
			_mm512_storeu_ps(y + 32 * r + 16 * at, _mm512_mul_ps(_mm512_set1_ps(f[8 * g + 2 * r + at]), q));
		}
	}
}

#define BLOCK_DECODER(type, elems, group) \
	ST_TARGET static void decode_##type(const void *src, float *dst, size_t n) \
	{ \
		const struct st_block_##type *b = src; \
		for (const float *end = dst + n; dst < end; b++, dst += (elems)) { \
			float f[16]; \
			prep_##type(b, f); \
			UNROLL for (unsigned g = 0; g < (elems) / (group); g++) \
				group_##type(b, g, f, dst + (group) * g); \
		} \
	}
BLOCK_DECODER(q4_0, 32, 32)
BLOCK_DECODER(q8_0, 32, 32)
BLOCK_DECODER(q4_k, 256, 64)
BLOCK_DECODER(q5_k, 256, 64)
BLOCK_DECODER(q6_k, 256, 128)

/* Few tokens on the types that models are served in. */
#define TYPE q4_0
#define ELEMS 32
#define GROUP 32
#include "kernel/fused_template.h"
#define TYPE q8_0
#define ELEMS 32
#define GROUP 32
#include "kernel/fused_template.h"
#define TYPE q4_k
#define ELEMS 256
#define GROUP 64
#include "kernel/fused_template.h"
#define TYPE q5_k
#define ELEMS 256
#define GROUP 64
#include "kernel/fused_template.h"
#define TYPE q6_k
#define ELEMS 256
#define GROUP 128
#include "kernel/fused_template.h"

const struct st_kernels st_kernels_avx512 = {
	.cpu = ST_CPU_AVX512,
	.decode = {
		[ST_DTYPE_F16] = decode_f16, [ST_DTYPE_BF16] = decode_bf16,
		[ST_DTYPE_Q4_0] = decode_q4_0, [ST_DTYPE_Q4_1] = decode_q4_1, [ST_DTYPE_Q5_0] = decode_q5_0,
		[ST_DTYPE_Q8_0] = decode_q8_0,
		[ST_DTYPE_Q4_K] = decode_q4_k, [ST_DTYPE_Q5_K] = decode_q5_k, [ST_DTYPE_Q6_K] = decode_q6_k,
	},
	.fused_f32 = {
		[ST_DTYPE_Q4_0] = fused_q4_0_f32, [ST_DTYPE_Q8_0] = fused_q8_0_f32,
		[ST_DTYPE_Q4_K] = fused_q4_k_f32, [ST_DTYPE_Q5_K] = fused_q5_k_f32, [ST_DTYPE_Q6_K] = fused_q6_k_f32,
	},
	.fused_f64 = {
		[ST_DTYPE_Q4_0] = fused_q4_0_f64, [ST_DTYPE_Q8_0] = fused_q8_0_f64,
		[ST_DTYPE_Q4_K] = fused_q4_k_f64, [ST_DTYPE_Q5_K] = fused_q5_k_f64, [ST_DTYPE_Q6_K] = fused_q6_k_f64,
	},
	.dot_f32 = dot_f32, .dot_f64 = dot_f64, .sum_f32 = sum_f32, .sum_f64 = sum_f64,
	.mix_f32 = mix_f32, .mix_f64 = mix_f64,
	ST_POINTWISE_TABLE,
};
#endif
