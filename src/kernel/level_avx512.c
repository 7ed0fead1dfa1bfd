/*
 * level_avx512.c - x86 with AVX-512 F, BW, VL and DQ (and FMA, F16C). All 16 lanes of an f32 sum are
 * one register.
 */
#if defined(__x86_64__)
#define VEC_AVX512
#include "kernel/vec.h"

#include "dtype/blocks.h"
#include "kernel/pointwise_template.h"

/* 4 x 6 sums, 4 rows and a token: 29 of 32 registers. One token: 8 chains hide the latency of fma. */
#define ROWS 4
#define COLS 6
#define ROWS1 8
#include "kernel/dots.h"
#include "kernel/x86_sums.h"

/* 12 x 2 sums, 2 of b, 1 of a: 27 of 32 registers. */
#define GEMM_ROWS 12
#define GEMM_VECTORS 2
#include "kernel/gemm_template.h"

/* ---- decoders: 16 elements a step. A 4-bit code picks its value from a register of 16. ---- */

ST_INLINE ST_TARGET __m512 ramp(void) { return _mm512_setr_ps(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15); }

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
	__mmask16 m = first_((int)(n - i));
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
	__mmask16 m = first_((int)(n - i));
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
ST_INLINE ST_TARGET void k4_factors(const void *block, float *f)
{
	/* words: d and dmin, a, b, c; six bits from a and b each, four from c with two from a and b each */
	__m128i head = _mm_loadu_si128(block);
	__m128i low = _mm_srlv_epi32(_mm_shuffle_epi32(head, _MM_SHUFFLE(3, 2, 3, 1)), _mm_setr_epi32(0, 0, 0, 4));
	__m128i high = _mm_srli_epi32(_mm_shuffle_epi32(head, _MM_SHUFFLE(2, 2, 1, 1)), 2);
	low = _mm_and_si128(low, _mm_setr_epi32(0x3F3F3F3F, 0x0F0F0F0F, 0x3F3F3F3F, 0x0F0F0F0F));
	high = _mm_and_si128(high, _mm_setr_epi32(0, 0x30303030, 0, 0x30303030));
	__m512i pick_d = _mm512_setr_epi32(0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1);
	__m512 factor = _mm512_permutexvar_ps(pick_d, _mm512_castps128_ps512(_mm_cvtph_ps(head)));
	_mm512_storeu_ps(f, _mm512_mul_ps(factor, _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_or_si128(low, high)))));
}

/* scale * code - min for codes 0..15: scale is d * 6 bits and exact, its product with a code too, so
 * the fused form rounds where the plain one does. */
ST_INLINE ST_TARGET void prep_q4_k(const struct st_block_q4_k *b, float *f) { k4_factors(b, f); }
ST_INLINE ST_TARGET void group_q4_k(const struct st_block_q4_k *b, unsigned g, const float *f, float *y)
{
	__m512 lo = _mm512_fmsub_ps(_mm512_set1_ps(f[2 * g]), ramp(), _mm512_set1_ps(f[8 + 2 * g]));
	__m512 hi = _mm512_fmsub_ps(_mm512_set1_ps(f[2 * g + 1]), ramp(), _mm512_set1_ps(f[9 + 2 * g]));
	pick(b->qs + 32 * g, lo, hi, y, y + 32);
	pick(b->qs + 32 * g + 16, lo, hi, y + 16, y + 48);
}

/* The same 32 bytes in both halves. */
ST_INLINE ST_TARGET __m512i twice(const void *p) { return _mm512_broadcast_i64x4(_mm256_loadu_si256(p)); }
/* a in the 16-bit words of the lower half, b in those of the upper one. */
ST_INLINE ST_TARGET __m512i halves(short a, short b)
{
	return _mm512_inserti64x4(_mm512_set1_epi16(a), _mm256_set1_epi16(b), 1);
}

/* As Q4_K; the codes of the group are put together as bytes. */
ST_INLINE ST_TARGET void prep_q5_k(const struct st_block_q5_k *b, float *f) { k4_factors(b, f); }
ST_INLINE ST_TARGET void group_q5_k(const struct st_block_q5_k *b, unsigned g, const float *f, float *y)
{
	_Alignas(64) uint8_t code[64];
	__m512i low4 = _mm512_and_si512(_mm512_srlv_epi16(twice(b->qs + 32 * g), halves(0, 4)), _mm512_set1_epi8(15));
	__mmask64 top = _mm512_test_epi8_mask(twice(b->qh), halves((short)(0x0101 << 2 * g), (short)(0x0202 << 2 * g)));
	_mm512_store_si512(code, _mm512_mask_add_epi8(low4, top, low4, _mm512_set1_epi8(16)));
	UNROLL for (unsigned i = 0; i < 64; i += 16)
	{
		__m512 scale = _mm512_set1_ps(f[2 * g + i / 32]), min = _mm512_set1_ps(f[8 + 2 * g + i / 32]);
		_mm512_storeu_ps(y + i, _mm512_fmsub_ps(scale, _mm512_cvtepi32_ps(bytes(code + i)), min));
	}
}

ST_INLINE ST_TARGET void prep_q6_k(const struct st_block_q6_k *b, float *f)
{
	_mm512_storeu_ps(f, _mm512_mul_ps(_mm512_set1_ps(half(b->d)), signed_bytes(b->scales)));
}
/* Two runs of 32, put together as bytes. Runs 0..3 of each half block take bits 0-1, 2-3, 4-5, 6-7 of qh as bits 4-5.
 */
ST_INLINE ST_TARGET void group_q6_k(const struct st_block_q6_k *b, unsigned g, const float *f, float *y)
{
	_Alignas(64) int8_t code[64];
	__m512i low4 = _mm512_loadu_si512(b->ql + 64 * (g / 2)), high2 = twice(b->qh + 32 * (g / 2));
	low4 = _mm512_and_si512(g % 2 ? _mm512_srli_epi16(low4, 4) : low4, _mm512_set1_epi8(15));
	high2 = g % 2 ? _mm512_srlv_epi16(high2, halves(0, 2)) : _mm512_sllv_epi16(high2, halves(4, 2));
	high2 = _mm512_and_si512(high2, _mm512_set1_epi8(0x30));
	_mm512_store_si512(code, _mm512_sub_epi8(_mm512_or_si512(low4, high2), _mm512_set1_epi8(32)));
	UNROLL for (unsigned i = 0; i < 64; i += 16)
		_mm512_storeu_ps(y + i, _mm512_mul_ps(_mm512_set1_ps(f[4 * g + i / 16]), signed_bytes(code + i)));
}

#define BLOCK_DECODER(type, elems, group)                                          \
	ST_TARGET static void decode_##type(const void *src, float *dst, size_t n) \
	{                                                                          \
		const struct st_block_##type *b = src;                             \
		for (const float *end = dst + n; dst < end; b++, dst += (elems)) { \
			float f[16];                                               \
			prep_##type(b, f);                                         \
			UNROLL for (unsigned g = 0; g < (elems) / (group); g++)    \
				group_##type(b, g, f, dst + (group)*g);            \
		}                                                                  \
	}
BLOCK_DECODER(q4_0, 32, 32)
BLOCK_DECODER(q8_0, 32, 32)
BLOCK_DECODER(q4_k, 256, 64)
BLOCK_DECODER(q5_k, 256, 64)
BLOCK_DECODER(q6_k, 256, 64)

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
#define GROUP 64
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
	ST_GEMM_TABLE,
};
#endif
