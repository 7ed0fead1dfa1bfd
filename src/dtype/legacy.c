/*
 * legacy.c - blocks of 32 elements under one f16 scale, some with an f16 minimum.
 *
 * Encoders scale by the reciprocal of the unrounded f32 step and store the step rounded to f16: the
 * bytes then equal those of the format's reference encoder. Ties in the code round up for the
 * unsigned types (add one half, cut) and away from zero for Q8_0. Values that are not finite get
 * the lowest code or saturate; nothing overflows.
 */
#include "dtype/codec.h"

#include "base/levels.h"
#include "dtype/blocks.h"
#include "dtype/half.h"

#include <math.h>

ST_LEVELS void st_decode_q4_0(const void *src, float *dst, size_t n)
{
	const struct st_block_q4_0 *b = src;
	for (const float *end = dst + n; dst < end; b++, dst += ST_QK) {
		float d = st_f16_to_f32(b->d);
		for (unsigned i = 0; i < 16; i++) {
			dst[i] = d * (float)((b->qs[i] & 15) - 8);
			dst[i + 16] = d * (float)((b->qs[i] >> 4) - 8);
		}
	}
}

ST_LEVELS void st_decode_q4_1(const void *src, float *dst, size_t n)
{
	const struct st_block_q4_1 *b = src;
	for (const float *end = dst + n; dst < end; b++, dst += ST_QK) {
		float d = st_f16_to_f32(b->d), m = st_f16_to_f32(b->m);
		for (unsigned i = 0; i < 16; i++) {
			dst[i] = d * (float)(b->qs[i] & 15) + m;
			dst[i + 16] = d * (float)(b->qs[i] >> 4) + m;
		}
	}
}

/* Five-bit code of element i: bit i of qh on top of its nibble. */
static inline int code5(const uint8_t qh[4], const uint8_t qs[16], unsigned i)
{
	int low = i < 16 ? qs[i] & 15 : qs[i - 16] >> 4;
	return low | (qh[i / 8] >> (i % 8) & 1) << 4;
}

ST_LEVELS void st_decode_q5_0(const void *src, float *dst, size_t n)
{
	const struct st_block_q5_0 *b = src;
	for (const float *end = dst + n; dst < end; b++, dst += ST_QK) {
		float d = st_f16_to_f32(b->d);
		for (unsigned i = 0; i < ST_QK; i++)
			dst[i] = d * (float)(code5(b->qh, b->qs, i) - 16);
	}
}

ST_LEVELS void st_decode_q5_1(const void *src, float *dst, size_t n)
{
	const struct st_block_q5_1 *b = src;
	for (const float *end = dst + n; dst < end; b++, dst += ST_QK) {
		float d = st_f16_to_f32(b->d), m = st_f16_to_f32(b->m);
		for (unsigned i = 0; i < ST_QK; i++)
			dst[i] = d * (float)code5(b->qh, b->qs, i) + m;
	}
}

ST_LEVELS void st_decode_q8_0(const void *src, float *dst, size_t n)
{
	const struct st_block_q8_0 *b = src;
	for (const float *end = dst + n; dst < end; b++, dst += ST_QK) {
		float d = st_f16_to_f32(b->d);
		for (unsigned i = 0; i < ST_QK; i++)
			dst[i] = d * (float)b->qs[i];
	}
}

ST_LEVELS void st_decode_q8_1(const void *src, float *dst, size_t n)
{
	const struct st_block_q8_1 *b = src;
	for (const float *end = dst + n; dst < end; b++, dst += ST_QK) {
		float d = st_f16_to_f32(b->d);
		for (unsigned i = 0; i < ST_QK; i++)
			dst[i] = d * (float)b->qs[i];
	}
}

/* The element of largest magnitude, with its sign; the first of equals. NaN never wins. */
static float signed_max(const float *x)
{
	float best = 0, amax = 0;
	for (unsigned i = 0; i < ST_QK; i++)
		if (fabsf(x[i]) > amax) {
			amax = fabsf(x[i]);
			best = x[i];
		}
	return best;
}

/* Codes 0 .. 2 half - 1 of x / d, biased by `half`. The product is exact in f64, so each code rounds once. */
static void codes_symmetric(const float *x, float d, int half, uint8_t q[ST_QK])
{
	double inv = d == 0 ? 0 : (double)(1.0f / d), top = 2 * half - 1;
	for (unsigned i = 0; i < ST_QK; i++) {
		double v = (double)x[i] * inv + (half + 0.5);
		v = v > 0 ? v : 0; /* NaN goes to 0 */
		q[i] = (uint8_t)(v < top ? v : top);
	}
}

/* Codes 0 .. top of (x - min) / d; returns d, the step. */
static float codes_affine(const float *x, int top, uint8_t q[ST_QK], float *min_out)
{
	float min = x[0], max = x[0];
	for (unsigned i = 1; i < ST_QK; i++) {
		min = x[i] < min ? x[i] : min;
		max = x[i] > max ? x[i] : max;
	}
	float d = (max - min) / (float)top, inv = d == 0 ? 0 : 1.0f / d;
	for (unsigned i = 0; i < ST_QK; i++) {
		float v = (x[i] - min) * inv + 0.5f;
		v = v > 0 ? v : 0;
		q[i] = (uint8_t)(v < (float)top ? v : (float)top);
	}
	*min_out = min;
	return d;
}

static void pack_nibbles(const uint8_t q[ST_QK], uint8_t qs[16])
{
	for (unsigned i = 0; i < 16; i++)
		qs[i] = (uint8_t)((q[i] & 15) | (q[i + 16] & 15) << 4);
}

static void pack_fifth_bits(const uint8_t q[ST_QK], uint8_t qh[4])
{
	for (unsigned j = 0; j < 4; j++) {
		qh[j] = 0;
		for (unsigned i = 0; i < 8; i++)
			qh[j] |= (uint8_t)((q[8 * j + i] >> 4) << i);
	}
}

void st_encode_q4_0(const float *src, void *dst, size_t n)
{
	struct st_block_q4_0 *b = dst;
	for (const float *end = src + n; src < end; b++, src += ST_QK) {
		uint8_t q[ST_QK];
		float d = signed_max(src) / -8;
		codes_symmetric(src, d, 8, q);
		b->d = st_f32_to_f16(d);
		pack_nibbles(q, b->qs);
	}
}

void st_encode_q4_1(const float *src, void *dst, size_t n)
{
	struct st_block_q4_1 *b = dst;
	for (const float *end = src + n; src < end; b++, src += ST_QK) {
		uint8_t q[ST_QK];
		float min;
		b->d = st_f32_to_f16(codes_affine(src, 15, q, &min));
		b->m = st_f32_to_f16(min);
		pack_nibbles(q, b->qs);
	}
}

void st_encode_q5_0(const float *src, void *dst, size_t n)
{
	struct st_block_q5_0 *b = dst;
	for (const float *end = src + n; src < end; b++, src += ST_QK) {
		uint8_t q[ST_QK];
		float d = signed_max(src) / -16;
		codes_symmetric(src, d, 16, q);
		b->d = st_f32_to_f16(d);
		pack_nibbles(q, b->qs);
		pack_fifth_bits(q, b->qh);
	}
}

void st_encode_q5_1(const float *src, void *dst, size_t n)
{
	struct st_block_q5_1 *b = dst;
	for (const float *end = src + n; src < end; b++, src += ST_QK) {
		uint8_t q[ST_QK];
		float min;
		b->d = st_f32_to_f16(codes_affine(src, 31, q, &min));
		b->m = st_f32_to_f16(min);
		pack_nibbles(q, b->qs);
		pack_fifth_bits(q, b->qh);
	}
}

void st_encode_q8_0(const float *src, void *dst, size_t n)
{
	struct st_block_q8_0 *b = dst;
	for (const float *end = src + n; src < end; b++, src += ST_QK) {
		float d = fabsf(signed_max(src)) / 127, inv = d == 0 ? 0 : 1.0f / d;
		b->d = st_f32_to_f16(d);
		for (unsigned i = 0; i < ST_QK; i++) {
			float v = src[i] * inv;
			v = v > -127 ? v : -127; /* also where the reciprocal of a tiny step overflowed */
			v = v < 127 ? v : 127;
			b->qs[i] = (int8_t)roundf(v);
		}
	}
}
