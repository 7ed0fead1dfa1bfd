/* aprq.c - the two quantised types of APR files. */
#include "dtype/aprq.h"

#include "dtype/blocks.h"
#include "dtype/codec.h"
#include "dtype/half.h"

#include <math.h>

void st_decode_apr_q4(const void *src, float *dst, size_t n)
{
	const struct st_block_apr_q4 *b = src;
	for (const float *end = dst + n; dst < end; b++, dst += ST_QK) {
		float d = st_f16_to_f32(b->d);
		for (unsigned i = 0; i < 16; i++) {
			dst[2 * i] = d * (float)((b->qs[i] & 15) - 8);
			dst[2 * i + 1] = d * (float)((b->qs[i] >> 4) - 8);
		}
	}
}

/* v within [lo, hi]; NaN gives 0. */
static inline float clamped(float v, float lo, float hi)
{
	v = v > lo ? v : v != v ? 0 : lo;
	return v < hi ? v : hi;
}

/*
 * The element of largest magnitude takes the code -8, which has no positive partner. The step is therefore largest / 8,
 * not largest / 7, and has the sign that this takes. Codes are chosen with the step as it is stored.
 *
 * Ties go to even. Half of the numbers that come out of Q5_0 are ties; rounded away from zero they would make a gain of
 * 1.05.
 */
void st_encode_apr_q4(const float *src, void *dst, size_t n)
{
	struct st_block_apr_q4 *b = dst;
	for (const float *end = src + n; src < end; b++, src += ST_QK) {
		float largest = 0;
		for (unsigned i = 0; i < ST_QK; i++)
			if (fabsf(src[i]) > fabsf(largest) && isfinite(src[i]))
				largest = src[i];
		b->d = st_f32_to_f16(largest / -8);
		float d = st_f16_to_f32(b->d), inv = d == 0 ? 0 : 1.0f / d;
		for (unsigned i = 0; i < 16; i++) {
			int lo = (int)rintf(clamped(src[2 * i] * inv, -8, 7)) + 8,
			    hi = (int)rintf(clamped(src[2 * i + 1] * inv, -8, 7)) + 8;
			b->qs[i] = (uint8_t)(lo | hi << 4);
		}
	}
}

void st_decode_apr_q8(const void *src, float *dst, size_t n)
{
	const int8_t *q = src;
	for (size_t i = 0; i < n; i++)
		dst[i] = (float)q[i];
}

void st_encode_apr_q8(const float *src, void *dst, size_t n) { st_apr_q8_encode(src, n, 1.0f, dst); }

float st_apr_q8_largest(float so_far, const float *x, size_t n)
{
	for (size_t i = 0; i < n; i++)
		if (fabsf(x[i]) > so_far && isfinite(x[i]))
			so_far = fabsf(x[i]);
	return so_far;
}

float st_apr_q8_scale(float largest) { return largest / 127.0f; }

void st_apr_q8_encode(const float *x, size_t n, float scale, int8_t *q)
{
	/* Divide rather than multiply by a reciprocal: exact where x is a multiple of the scale. */
	for (size_t i = 0; i < n; i++)
		q[i] = (int8_t)(scale == 0 ? 0 : roundf(clamped(x[i] / scale, -127, 127)));
}
