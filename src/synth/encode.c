/* encode.c - Q4_K and Q6_K, fast. The layout of the blocks: dtype/blocks.h. */
#include "synth/numbers.h"

#include "base/levels.h"
#include "dtype/blocks.h"
#include "dtype/half.h"

#include <math.h>
#include <string.h>

/* Sixteen lanes whatever the machine has; sums go through one fixed tree. Everything is inlined into the
 * functions that are compiled for each level. */
#define LANES 16
typedef float vec __attribute__((vector_size(4 * LANES)));
typedef int32_t ivec __attribute__((vector_size(4 * LANES)));
#define INLINE static inline __attribute__((always_inline))

INLINE void load(vec *v, const float *p) { memcpy(v, p, sizeof *v); }
INLINE void spread(vec *v, float x)
{
	for (int i = 0; i < LANES; i++)
		(*v)[i] = x;
}

/* v = condition ? a : b, lane by lane */
#define SELECT(condition, a, b) ((vec)(((ivec)(a) & (condition)) | ((ivec)(b) & ~(condition))))

#if defined __clang__
#define HALF(v, d)                                                                                                     \
	__builtin_shufflevector(v, v, (0 ^ d), (1 ^ d), (2 ^ d), (3 ^ d), (4 ^ d), (5 ^ d), (6 ^ d), (7 ^ d), (8 ^ d), \
	                        (9 ^ d), (10 ^ d), (11 ^ d), (12 ^ d), (13 ^ d), (14 ^ d), (15 ^ d))
#else
#define HALF(v, d) __builtin_shuffle(v, (ivec){ 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15 } ^ (d))
#endif

INLINE float sum(const vec *p)
{
	vec v = *p;
	v += HALF(v, 8);
	v += HALF(v, 4);
	v += HALF(v, 2);
	v += HALF(v, 1);
	return v[0];
}

INLINE float largest(const vec *p)
{
	vec v = *p, w;
	w = HALF(v, 8), v = SELECT(v > w, v, w);
	w = HALF(v, 4), v = SELECT(v > w, v, w);
	w = HALF(v, 2), v = SELECT(v > w, v, w);
	w = HALF(v, 1), v = SELECT(v > w, v, w);
	return v[0];
}

/* Nearest integers in [lo, hi]. Adding and taking away 1.5 * 2^23 rounds to nearest even. */
INLINE void to_codes(vec *v, float lo, float hi)
{
	vec l, h;
	spread(&l, lo);
	spread(&h, hi);
	*v = SELECT(*v > l, *v, l);
	*v = SELECT(*v < h, *v, h);
	*v = (*v + 0x1.8p23f) - 0x1.8p23f;
}

INLINE uint8_t to_code(float v, float lo, float hi)
{
	v = v > lo ? v : lo;
	v = v < hi ? v : hi;
	return (uint8_t)(int)((v + 0x1.8p23f) - 0x1.8p23f);
}

/* ---- Q4_K: step * code - minimum, codes 0..15, 32 values to a step ---- */

/* The whole range cut by 3 %: the extremes lose a little, the others gain more. */
#define RANGE 0.97f

INLINE void fit_affine(const float *x, float *step_out, float *min_out)
{
	vec a, b, lo, hi, zero = { 0 };
	load(&a, x);
	load(&b, x + LANES);
	hi = SELECT(a > b, a, b);
	lo = SELECT(a > b, b, a);
	hi = SELECT(hi > zero, hi, zero); /* 0 is always within the range: the minimum is not positive */
	lo = -SELECT(lo < zero, lo, zero);
	float top = largest(&hi), bottom = -largest(&lo), range = top - bottom;
	if (!(range > 0)) {
		*step_out = *min_out = 0;
		return;
	}
	float step = range * (RANGE / 15), min = bottom + range * ((1 - RANGE) / 2), inv = 1 / step;
	vec p = (a - min) * inv, q = (b - min) * inv, s1, s2, sx, sv;
	to_codes(&p, 0, 15);
	to_codes(&q, 0, 15);
	s1 = p + q;
	s2 = p * p + q * q;
	sx = p * a + q * b;
	sv = a + b;
	float c1 = sum(&s1), c2 = sum(&s2), cx = sum(&sx), cv = sum(&sv), det = 32 * c2 - c1 * c1;
	if (det > 0) {
		step = (32 * cx - cv * c1) / det;
		min = (c2 * cv - c1 * cx) / det;
	}
	if (min > 0) {
		min = 0;
		step = cx / c2;
	}
	*step_out = step;
	*min_out = -min;
}

/* The inverse of st_k4_scale_min for all eight pairs. */
INLINE void pack_scales(const uint8_t sc[8], const uint8_t m[8], uint8_t out[12])
{
	for (unsigned j = 0; j < 4; j++) {
		out[j] = (uint8_t)(sc[j] | sc[j + 4] >> 4 << 6);
		out[j + 4] = (uint8_t)(m[j] | m[j + 4] >> 4 << 6);
		out[j + 8] = (uint8_t)((sc[j + 4] & 15) | (m[j + 4] & 15) << 4);
	}
}

ST_LEVELS
void st_synth_encode_q4_k(const float *src, void *dst, size_t n)
{
	struct st_block_q4_k *block = dst;
	for (const float *x = src; x < src + n; x += ST_QKK, block++) {
		float step[8], min[8], max_step = 0, max_min = 0;
		uint8_t sc[8], m[8];
		for (unsigned j = 0; j < 8; j++) {
			fit_affine(x + 32 * j, &step[j], &min[j]);
			max_step = step[j] > max_step ? step[j] : max_step;
			max_min = min[j] > max_min ? min[j] : max_min;
		}
		float inv_step = max_step > 0 ? 63 / max_step : 0, inv_min = max_min > 0 ? 63 / max_min : 0;
		for (unsigned j = 0; j < 8; j++) {
			sc[j] = to_code(inv_step * step[j], 0, 63);
			m[j] = to_code(inv_min * min[j], 0, 63);
		}
		block->d = st_f32_to_f16(max_step / 63);
		block->dmin = st_f32_to_f16(max_min / 63);
		pack_scales(sc, m, block->scales);
		float d = st_f16_to_f32(block->d), dmin = st_f16_to_f32(block->dmin);
		for (unsigned j = 0; j < 8; j += 2) { /* two sub-blocks share 32 bytes */
			int32_t codes[2][32];
			for (unsigned k = 0; k < 2; k++) {
				float scale = d * (float)sc[j + k], offset = dmin * (float)m[j + k],
				      inv = scale > 0 ? 1 / scale : 0;
				for (unsigned i = 0; i < 32; i += LANES) {
					vec v;
					load(&v, x + 32 * (j + k) + i);
					v = (v + offset) * inv;
					to_codes(&v, 0, 15);
					ivec c = __builtin_convertvector(v, ivec);
					memcpy(codes[k] + i, &c, sizeof c);
				}
			}
			for (unsigned i = 0; i < 32; i++)
				block->qs[16 * j + i] = (uint8_t)(codes[0][i] | codes[1][i] << 4);
		}
	}
}

/* ---- Q6_K: step * code, codes -32..31, 16 values to a step ---- */

/* Below this a block counts as zeros: its reciprocal would overflow. */
#define TINY 1e-15f

ST_LEVELS
void st_synth_encode_q6_k(const float *src, void *dst, size_t n)
{
	struct st_block_q6_k *block = dst;
	for (const float *x = src; x < src + n; x += ST_QKK, block++) {
		float step[16], max = 0;
		memset(block, 0, sizeof *block);
		for (unsigned j = 0; j < 16; j++) {
			vec v, a, w, s2, sx;
			load(&v, x + 16 * j);
			a = SELECT(v < 0, -v, v);
			float top = largest(&a);
			step[j] = 0;
			if (top < TINY)
				continue;
			w = v * (31 / top);
			to_codes(&w, -32, 31);
			s2 = w * w;
			sx = w * v;
			step[j] = sum(&sx) / sum(&s2);
			max = step[j] > max ? step[j] : max;
		}
		if (max < TINY)
			continue;
		block->d = st_f32_to_f16(max / 127);
		float d = st_f16_to_f32(block->d), inv_max = 127 / max;
		for (unsigned half = 0; half < 2; half++) {
			int32_t c[128];
			for (unsigned k = 0; k < 8; k++) {
				unsigned j = 8 * half + k;
				block->scales[j] = (int8_t)to_code(inv_max * step[j], 0, 127);
				float scale = d * (float)block->scales[j];
				vec v;
				load(&v, x + 16 * j);
				v *= scale > 0 ? 1 / scale : 0;
				to_codes(&v, -32, 31);
				ivec codes = __builtin_convertvector(v, ivec) + 32;
				memcpy(c + 16 * k, &codes, sizeof codes);
			}
			/* Value i of the half's four quarters: nibbles in two bytes, the upper two bits in one. */
			uint8_t *l = block->ql + 64 * half, *h = block->qh + 32 * half;
			for (unsigned i = 0; i < 32; i++) {
				l[i] = (uint8_t)((c[i] & 15) | (c[64 + i] & 15) << 4);
				l[32 + i] = (uint8_t)((c[32 + i] & 15) | (c[96 + i] & 15) << 4);
				h[i] = (uint8_t)(c[i] >> 4 | c[32 + i] >> 4 << 2 | c[64 + i] >> 4 << 4
				                 | c[96 + i] >> 4 << 6);
			}
		}
	}
}
