/*
 * level_neon.c - 64-bit ARM, where NEON and fma are always there. The 16 lanes of an f32 sum are four
 * registers, and so are the 8 of an f64 sum.
 */
#if defined(__aarch64__)
#define VEC_NEON
#include "kernel/vec.h"

#include "dtype/blocks.h"
#include "kernel/pointwise_template.h"

/* 2 x 3 sums of four registers, 2 rows and a token: 27 of 32 registers. */
#define ROWS 2
#define COLS 3
#define ROWS1 4
#include "kernel/dots.h"

/* 8 x 2 sums, 2 of b, 1 of a: 19 of 32 registers. */
#define GEMM_ROWS 8
#define GEMM_VECTORS 2
#include "kernel/gemm_template.h"

static void sum_f32(const float *acc, size_t n, float *y)
{
	for (size_t i = 0; i < n; i++, acc += ST_LANES_F32) {
		float32x4_t a = vaddq_f32(vld1q_f32(acc), vld1q_f32(acc + 8));
		float32x4_t b = vaddq_f32(vld1q_f32(acc + 4), vld1q_f32(acc + 12));
		a = vaddq_f32(a, b);
		float32x2_t h = vadd_f32(vget_low_f32(a), vget_high_f32(a));
		y[i] = vget_lane_f32(h, 0) + vget_lane_f32(h, 1);
	}
}

static void sum_f64(const double *acc, size_t n, double *y)
{
	for (size_t i = 0; i < n; i++, acc += ST_LANES_F64) {
		float64x2_t a = vaddq_f64(vld1q_f64(acc), vld1q_f64(acc + 4));
		float64x2_t b = vaddq_f64(vld1q_f64(acc + 2), vld1q_f64(acc + 6));
		a = vaddq_f64(a, b);
		y[i] = vgetq_lane_f64(a, 0) + vgetq_lane_f64(a, 1);
	}
}

/* ---- decoders: 16 codes a step ---- */

/* scale * code, 16 signed codes */
ST_INLINE void put_scaled(float *dst, float scale, int8x16_t q)
{
	int16x8_t lo = vmovl_s8(vget_low_s8(q)), hi = vmovl_s8(vget_high_s8(q));
	vst1q_f32(dst, vmulq_n_f32(vcvtq_f32_s32(vmovl_s16(vget_low_s16(lo))), scale));
	vst1q_f32(dst + 4, vmulq_n_f32(vcvtq_f32_s32(vmovl_s16(vget_high_s16(lo))), scale));
	vst1q_f32(dst + 8, vmulq_n_f32(vcvtq_f32_s32(vmovl_s16(vget_low_s16(hi))), scale));
	vst1q_f32(dst + 12, vmulq_n_f32(vcvtq_f32_s32(vmovl_s16(vget_high_s16(hi))), scale));
}

/* scale * code - min; exact products, so the fused form is the same */
ST_INLINE void put_offset(float *dst, float scale, uint8x16_t q, float min)
{
	uint16x8_t lo = vmovl_u8(vget_low_u8(q)), hi = vmovl_u8(vget_high_u8(q));
	float32x4_t s = vdupq_n_f32(scale), m = vdupq_n_f32(-min);
	vst1q_f32(dst, vfmaq_f32(m, vcvtq_f32_u32(vmovl_u16(vget_low_u16(lo))), s));
	vst1q_f32(dst + 4, vfmaq_f32(m, vcvtq_f32_u32(vmovl_u16(vget_high_u16(lo))), s));
	vst1q_f32(dst + 8, vfmaq_f32(m, vcvtq_f32_u32(vmovl_u16(vget_low_u16(hi))), s));
	vst1q_f32(dst + 12, vfmaq_f32(m, vcvtq_f32_u32(vmovl_u16(vget_high_u16(hi))), s));
}

ST_INLINE int8x16_t biased(uint8x16_t q, int8_t bias) { return vsubq_s8(vreinterpretq_s8_u8(q), vdupq_n_s8(bias)); }
ST_INLINE uint8x16_t lows(uint8x16_t q) { return vandq_u8(q, vdupq_n_u8(15)); }

static void decode_q4_0(const void *src, float *dst, size_t n)
{
	const struct st_block_q4_0 *b = src;
	for (const float *end = dst + n; dst < end; b++, dst += ST_QK) {
		float d = st_f16_to_f32(b->d);
		uint8x16_t q = vld1q_u8(b->qs);
		put_scaled(dst, d, biased(lows(q), 8));
		put_scaled(dst + 16, d, biased(vshrq_n_u8(q, 4), 8));
	}
}

static void decode_q8_0(const void *src, float *dst, size_t n)
{
	const struct st_block_q8_0 *b = src;
	for (const float *end = dst + n; dst < end; b++, dst += ST_QK) {
		float d = st_f16_to_f32(b->d);
		put_scaled(dst, d, vld1q_s8(b->qs));
		put_scaled(dst + 16, d, vld1q_s8(b->qs + 16));
	}
}

static void decode_q4_k(const void *src, float *dst, size_t n)
{
	const struct st_block_q4_k *b = src;
	for (const float *end = dst + n; dst < end; b++, dst += ST_QKK) {
		float d = st_f16_to_f32(b->d), dmin = st_f16_to_f32(b->dmin);
		for (unsigned g = 0; g < 4; g++) {
			unsigned sc0, m0, sc1, m1;
			st_k4_scale_min(b->scales, 2 * g, &sc0, &m0);
			st_k4_scale_min(b->scales, 2 * g + 1, &sc1, &m1);
			for (unsigned i = 0; i < 32; i += 16) {
				uint8x16_t q = vld1q_u8(b->qs + 32 * g + i);
				put_offset(dst + 64 * g + i, d * (float)sc0, lows(q), dmin * (float)m0);
				put_offset(dst + 64 * g + 32 + i, d * (float)sc1, vshrq_n_u8(q, 4), dmin * (float)m1);
			}
		}
	}
}

static void decode_q6_k(const void *src, float *dst, size_t n)
{
	const struct st_block_q6_k *b = src;
	uint8x16_t high2 = vdupq_n_u8(0x30);
	for (const float *end = dst + n; dst < end; b++, dst += ST_QKK) {
		float d = st_f16_to_f32(b->d);
		for (unsigned h = 0; h < 2; h++)
			for (unsigned i = 0; i < 32; i += 16) {
				uint8x16_t l0 = vld1q_u8(b->ql + 64 * h + i), l1 = vld1q_u8(b->ql + 64 * h + 32 + i);
				uint8x16_t t = vld1q_u8(b->qh + 32 * h + i);
				/* runs 0..3 take bits 0-1, 2-3, 4-5, 6-7 of t as bits 4-5 of the code */
				uint8x16_t code[4] = {
					vorrq_u8(lows(l0), vandq_u8(vshlq_n_u8(t, 4), high2)),
					vorrq_u8(lows(l1), vandq_u8(vshlq_n_u8(t, 2), high2)),
					vorrq_u8(vshrq_n_u8(l0, 4), vandq_u8(t, high2)),
					vorrq_u8(vshrq_n_u8(l1, 4), vandq_u8(vshrq_n_u8(t, 2), high2)),
				};
				for (unsigned r = 0; r < 4; r++)
					put_scaled(dst + 128 * h + 32 * r + i,
					           d * (float)b->scales[8 * h + 2 * r + i / 16], biased(code[r], 32));
			}
	}
}

/* F16 and BF16 are loops that the compiler vectorises in the dtype room. */
const struct st_kernels st_kernels_neon = {
	.cpu = ST_CPU_NEON,
	.decode = {
		[ST_DTYPE_Q4_0] = decode_q4_0, [ST_DTYPE_Q8_0] = decode_q8_0,
		[ST_DTYPE_Q4_K] = decode_q4_k, [ST_DTYPE_Q6_K] = decode_q6_k,
	},
	.dot_f32 = dot_f32, .dot_f64 = dot_f64, .sum_f32 = sum_f32, .sum_f64 = sum_f64,
	.mix_f32 = mix_f32, .mix_f64 = mix_f64,
	ST_POINTWISE_TABLE,
	ST_GEMM_TABLE,
};
#endif
