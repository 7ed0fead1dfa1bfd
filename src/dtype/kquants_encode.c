/*
 * kquants_encode.c - encoders of Q4_K and Q6_K: a search for the scales that lose least.
 *
 * Both work per sub-block: round the values to codes under a few trial steps, for each set of codes find the
 * best real step (and minimum) by weighted least squares, keep the best; then round the sub-blocks'
 * steps to the small integers that the super-block stores, and code the values again under those.
 *
 * Trial loops carry codes as f32 in vectors of four lanes, one partial sum per lane, summed in a fixed order:
 * the bits are the same on every machine. (Plain loops over lanes are left scalar by gcc 12.)
 */
#include "dtype/codec.h"

#include "dtype/blocks.h"
#include "dtype/half.h"

#include <math.h>
#include <string.h>

#define LANES 4
typedef float vec __attribute__((vector_size(4 * LANES)));
typedef int32_t mask __attribute__((vector_size(4 * LANES)));

static inline vec load(const float *p)
{
	vec v;
	memcpy(&v, p, sizeof v);
	return v;
}
static inline float sum_lanes(vec v) { return (v[0] + v[2]) + (v[1] + v[3]); }

/* Nearest code in [lo, hi], ties to even; NaN goes to lo. Adding and taking away 1.5 * 2^23 rounds |v| < 2^22 to an
 * integer, so clamp first. */
static inline float to_code(float v, float lo, float hi)
{
	v = v > lo ? v : lo;
	v = v < hi ? v : hi;
	return (v + 0x1.8p23f) - 0x1.8p23f;
}

static inline vec to_codes(vec v, float lo, float hi)
{
	mask above = v > lo;
	v = (vec)(((mask)v & above) | ((mask)(vec){ lo, lo, lo, lo } & ~above));
	mask below = v < hi;
	v = (vec)(((mask)v & below) | ((mask)(vec){ hi, hi, hi, hi } & ~below));
	return (v + 0x1.8p23f) - 0x1.8p23f;
}

/* ---- Q4_K: value = step * code - minimum, codes 0..15, minimum >= 0 ---- */

enum { SUB4 = 32, TOP4 = 15, TRIALS4 = 21 };

/* Step and minimum of one sub-block. Weights rms + |x|: large values matter more, small ones still count. */
static float fit_affine(const float *x, float *min_out)
{
	/* 0 is always within the range: the minimum is stored as a non-negative number to be taken away. */
	float lo = 0, hi = x[0];
	vec squares = { 0 };
	for (unsigned i = 0; i < SUB4; i++) {
		lo = x[i] < lo ? x[i] : lo;
		hi = x[i] > hi ? x[i] : hi;
	}
	*min_out = -lo;
	if (!(hi > lo))
		return 0;
	for (unsigned i = 0; i < SUB4; i += LANES)
		squares += load(x + i) * load(x + i);
	float rms = sqrtf(sum_lanes(squares) / SUB4), weight[SUB4];
	vec w[SUB4 / LANES], wx[SUB4 / LANES], lane_w = { 0 }, lane_wx = { 0 };
	for (unsigned i = 0; i < SUB4; i++)
		weight[i] = rms + fabsf(x[i]);
	for (unsigned i = 0; i < SUB4 / LANES; i++) {
		w[i] = load(weight + LANES * i);
		wx[i] = w[i] * load(x + LANES * i);
		lane_w += w[i];
		lane_wx += wx[i];
	}
	double sw = (double)sum_lanes(lane_w), swx = (double)sum_lanes(lane_wx), best = INFINITY;
	float best_step = 0, best_min = lo;
	for (int trial = -1; trial < TRIALS4; trial++) {
		/* Trial -1 takes the plain range as it is; the others begin at the best minimum found so far, scale
		 * the range by 15/14 to 15/16 and fit. */
		float inv = ((trial < 0 ? 0 : 0.1f * (float)trial - 1) + TOP4) / (hi - best_min);
		vec c1 = { 0 }, c2 = { 0 }, cx = { 0 }; /* lane sums of w c, w c^2, w c x */
		for (unsigned i = 0; i < SUB4 / LANES; i++) {
			vec c = to_codes(inv * (load(x + LANES * i) - best_min), 0, TOP4), wc = w[i] * c;
			c1 += wc;
			c2 += wc * c;
			cx += wx[i] * c;
		}
		double s1 = (double)sum_lanes(c1), s2 = (double)sum_lanes(c2), sx = (double)sum_lanes(cx);
		double step = (double)(1 / inv), min = (double)lo;
		if (trial >= 0) {
			double det = sw * s2 - s1 * s1;
			if (!(det > 0))
				continue;
			step = (sw * sx - swx * s1) / det;
			min = (s2 * swx - s1 * sx) / det;
			if (min > 0) {
				min = 0;
				step = sx / s2;
			}
		}
		/* sum of w (step c + min - x)^2, without the part that all trials share */
		double loss = step * (step * s2 + 2 * (min * s1 - sx)) + min * (min * sw - 2 * swx);
		if (loss < best) {
			best = loss;
			best_step = (float)step;
			best_min = (float)min;
		}
	}
	*min_out = -best_min;
	return best_step;
}

/* The inverse of st_k4_scale_min for all eight pairs. */
static void pack_scales(const uint8_t sc[8], const uint8_t m[8], uint8_t out[12])
{
	for (unsigned j = 0; j < 4; j++) {
		out[j] = (uint8_t)(sc[j] | sc[j + 4] >> 4 << 6);
		out[j + 4] = (uint8_t)(m[j] | m[j + 4] >> 4 << 6);
		out[j + 8] = (uint8_t)((sc[j + 4] & 15) | (m[j + 4] & 15) << 4);
	}
}

static void encode_q4_k_block(const float *x, struct st_block_q4_k *b)
{
	float step[8], min[8], max_step = 0, max_min = 0;
	for (unsigned j = 0; j < 8; j++) {
		step[j] = fit_affine(x + SUB4 * j, &min[j]);
		max_step = step[j] > max_step ? step[j] : max_step;
		max_min = min[j] > max_min ? min[j] : max_min;
	}
	float inv_step = max_step > 0 ? 63 / max_step : 0, inv_min = max_min > 0 ? 63 / max_min : 0;
	uint8_t sc[8], m[8];
	for (unsigned j = 0; j < 8; j++) {
		sc[j] = (uint8_t)to_code(inv_step * step[j], 0, 63);
		m[j] = (uint8_t)to_code(inv_min * min[j], 0, 63);
	}
	b->d = st_f32_to_f16(max_step / 63);
	b->dmin = st_f32_to_f16(max_min / 63);
	pack_scales(sc, m, b->scales);
	float d = st_f16_to_f32(b->d), dmin = st_f16_to_f32(b->dmin);
	memset(b->qs, 0, sizeof b->qs);
	for (unsigned j = 0; j < 8; j++) {
		float scale = d * (float)sc[j], offset = dmin * (float)m[j];
		if (scale == 0)
			continue;
		uint8_t *q = b->qs + 32 * (j / 2);
		unsigned shift = 4 * (j % 2);
		for (unsigned i = 0; i < SUB4; i++)
			q[i] |= (uint8_t)((unsigned)(int)to_code((x[SUB4 * j + i] + offset) / scale, 0, TOP4) << shift);
	}
}

void st_encode_q4_k(const float *src, void *dst, size_t n)
{
	struct st_block_q4_k *b = dst;
	for (const float *end = src + n; src < end; b++, src += ST_QKK)
		encode_q4_k_block(src, b);
}

/* ---- Q6_K: value = step * code, codes -32..31, step of either sign ---- */

enum { SUB6 = 16, HALF6 = 32, TRIALS6 = 19 };

/* Below this a sub-block, or a whole block, counts as zeros: its reciprocal would overflow. */
#define TINY 1e-15f

/* Step of one sub-block, weights x^2. */
static float fit_symmetric(const float *x)
{
	float amax = 0, max = 0;
	for (unsigned i = 0; i < SUB6; i++)
		if (fabsf(x[i]) > amax) {
			amax = fabsf(x[i]);
			max = x[i];
		}
	if (!(amax >= TINY))
		return 0;
	vec v[SUB6 / LANES], w[SUB6 / LANES], wx[SUB6 / LANES];
	for (unsigned i = 0; i < SUB6 / LANES; i++) {
		v[i] = load(x + LANES * i);
		w[i] = v[i] * v[i];
		wx[i] = w[i] * v[i];
	}
	float best_step = 0;
	double best = 0;
	for (int trial = 0; trial < TRIALS6; trial++) {
		/* The largest element gets the code -32 in the first trial, then -31.1 to -32.9 before clamping. */
		float inv = -(HALF6 + (trial == 0 ? 0 : 0.1f * (float)(trial <= 9 ? trial - 10 : trial - 9))) / max;
		vec c2 = { 0 }, cx = { 0 };
		for (unsigned i = 0; i < SUB6 / LANES; i++) {
			vec c = to_codes(inv * v[i], -HALF6, HALF6 - 1);
			c2 += w[i] * c * c;
			cx += wx[i] * c;
		}
		double s2 = (double)sum_lanes(c2), sx = (double)sum_lanes(cx);
		/* With the best step sx / s2 the loss is the same for all trials less sx^2 / s2. */
		if (s2 > 0 && sx * sx > best * s2) {
			best = sx * sx / s2;
			best_step = (float)(sx / s2);
		}
	}
	return best_step;
}

static void encode_q6_k_block(const float *x, struct st_block_q6_k *b)
{
	float step[16], max = 0;
	memset(b, 0, sizeof *b);
	for (unsigned j = 0; j < 16; j++) {
		step[j] = fit_symmetric(x + SUB6 * j);
		if (fabsf(step[j]) > fabsf(max))
			max = step[j];
	}
	if (!(fabsf(max) >= TINY))
		return;
	/* The largest step takes the integer -128, which has no positive partner. */
	float inv = -128 / max;
	b->d = st_f32_to_f16(1 / inv);
	float d = st_f16_to_f32(b->d);
	for (unsigned j = 0; j < 16; j++) {
		b->scales[j] = (int8_t)to_code(inv * step[j], -128, 127);
		float scale = d * (float)b->scales[j];
		if (scale == 0)
			continue;
		unsigned half = j / 8, r = j / 2 % 4, at = 16 * (j % 2);
		uint8_t *l = b->ql + 64 * half + 32 * (r % 2) + at, *h = b->qh + 32 * half + at;
		for (unsigned i = 0; i < SUB6; i++) {
			unsigned c = (unsigned)((int)to_code(x[SUB6 * j + i] / scale, -HALF6, HALF6 - 1) + HALF6);
			l[i] |= (uint8_t)((c & 15) << (4 * (r / 2)));
			h[i] |= (uint8_t)(c >> 4 << (2 * r));
		}
	}
}

void st_encode_q6_k(const float *src, void *dst, size_t n)
{
	struct st_block_q6_k *b = dst;
	for (const float *end = src + n; src < end; b++, src += ST_QKK)
		encode_q6_k_block(src, b);
}
