/*
 * kquants_encode.c - encoders of the K-quants and IQ4: a search for the scales that lose least (dtype/search.h).
 *
 * The step (and minimum) of each sub-block is searched first. Then the sub-blocks' steps are rounded to the small
 * integers that the super-block stores, and the numbers are coded again under those: every code is the nearest one
 * under the scales as they are stored.
 *
 * With importances (one per number: how much its square matters, as an importance matrix has it) the weight of a number
 * also grows with its size, and the integers beside the rounded ones are tried as well.
 */
#include "dtype/codec.h"

#include "dtype/blocks.h"
#include "dtype/half.h"
#include "dtype/layouts.h"
#include "dtype/search.h"

/* Weights without importances: rms + |x|, so that large numbers matter more and small ones still count; or x^2. */
enum rule { MIXED, SQUARES };

static void weigh(const float *x, const float *importance, unsigned n, unsigned sub, enum rule rule, float *w)
{
	float spread = importance ? st_rms(x, n) : 0;
	for (unsigned j = 0; j < n; j += sub) {
		float sum = 0, rms = rule == MIXED ? st_rms(x + j, sub) : 0;
		for (unsigned i = j; importance && i < j + sub; i++) {
			w[i] = importance[i] * sqrtf(2 * spread * spread + x[i] * x[i]);
			sum += w[i];
		}
		/* Where nothing is important all numbers are alike. */
		for (unsigned i = j; !(sum > 0) && i < j + sub; i++)
			w[i] = rule == MIXED ? rms + fabsf(x[i]) : x[i] * x[i];
	}
}

static float as_f16(float x) { return st_f16_to_f32(st_f32_to_f16(x)); }

/* ---- step and minimum: Q2_K, Q4_K, Q5_K ---- */

/* Codes of a sub-block under a step and a number that is taken off; returns the weighted loss. */
ST_SEARCH double affine_codes(const float *x, const float *w, unsigned n, int top, float step, float off, int16_t *code)
{
	double loss = 0;
	for (unsigned i = 0; i < n; i++) {
		float c = step == 0 ? 0 : st_to_code((x[i] + off) / step, 0, (float)top);
		double e = (double)(step * c - off - x[i]);
		code[i] = (int16_t)(int)c;
		loss += (double)w[i] * e * e;
	}
	return loss;
}

/* The integers beside the rounded ones may lose less, since both of a sub-block and the codes depend on each other. */
ST_SEARCH void affine_integers(struct st_block_parts *p, unsigned j, const float *x, const float *w, unsigned n,
                               int top, int most)
{
	int16_t trial[ST_SEARCH_MOST], *code = p->code + (size_t)j * n;
	int scale = p->scale[j], min = p->min[j];
	double best = affine_codes(x, w, n, top, p->d * (float)scale, p->m * (float)min, code);
	for (int s = scale > 0 ? scale - 1 : 0; s <= scale + 1 && s <= most; s++) {
		for (int m = min > 0 ? min - 1 : 0; m <= min + 1 && m <= most; m++) {
			double loss = affine_codes(x, w, n, top, p->d * (float)s, p->m * (float)m, trial);
			if (!(loss < best))
				continue;
			best = loss;
			p->scale[j] = (int16_t)s;
			p->min[j] = (int16_t)m;
			memcpy(code, trial, n * sizeof *code);
		}
	}
}

ST_SEARCH void affine_block(const struct st_geometry *g, const float *x, const float *importance, unsigned sub, int top,
                            int most, struct st_trials trials, bool integers, uint8_t *block)
{
	struct st_block_parts p;
	float step[ST_SUBS_MOST], min[ST_SUBS_MOST], w[ST_BLOCK_MOST], max_step = 0, max_min = 0;
	unsigned n_sub = ST_BLOCK_MOST / sub;
	weigh(x, importance, ST_BLOCK_MOST, sub, MIXED, w);
	for (unsigned j = 0; j < n_sub; j++) {
		step[j] = st_fit_affine(x + sub * j, w + sub * j, sub, top, trials, true, &min[j]);
		max_step = step[j] > max_step ? step[j] : max_step;
		max_min = min[j] > max_min ? min[j] : max_min;
	}
	float inv_step = max_step > 0 ? (float)most / max_step : 0, inv_min = max_min > 0 ? (float)most / max_min : 0;
	p.d = as_f16(max_step / (float)most);
	p.m = as_f16(max_min / (float)most);
	for (unsigned j = 0; j < n_sub; j++) {
		p.scale[j] = (int16_t)st_to_code(inv_step * step[j], 0, (float)most);
		p.min[j] = (int16_t)st_to_code(inv_min * min[j], 0, (float)most);
		if (integers)
			affine_integers(&p, j, x + sub * j, w + sub * j, sub, top, most);
		else
			affine_codes(x + sub * j, w + sub * j, sub, top, p.d * (float)p.scale[j], p.m * (float)p.min[j],
			             p.code + (size_t)sub * j);
	}
	st_block_pack(g, &p, block);
}

#define AFFINE(type, sub, top, most, always, ...)                                                                    \
	ST_WEIGHTED_ENCODER(type)                                                                                    \
	{                                                                                                            \
		struct st_trials trials = { __VA_ARGS__ };                                                           \
		uint8_t *b = dst;                                                                                    \
		for (size_t i = 0; i < n; i += ST_BLOCK_MOST, b += sizeof(struct st_block_##type))                   \
			affine_block(&st_layout_##type, src + i, importance ? importance + i : NULL, sub, top, most, \
			             trials, always || importance, b);                                               \
	}                                                                                                            \
	ST_ENCODER(type) { st_encode_weighted_##type(src, NULL, dst, n); }

/* Q4_K without importances gives the bytes of the format's reference encoder on its test vectors. */
AFFINE(q2_k, 16, 3, 15, true, .start = -0.9f, .delta = 0.05f, .trials = 37)
AFFINE(q4_k, 32, 15, 63, false, .start = -1, .delta = 0.1f, .trials = 21)
AFFINE(q5_k, 32, 31, 63, true, .start = -0.9f, .delta = 0.1f, .trials = 19)

/* ---- one step for a set of levels: Q3_K, Q6_K, IQ4_NL, IQ4_XS ---- */

/* Nearest code; `mid` has the middle between each level and the next. */
ST_SEARCH int nearest(float v, const float *mid, int n_levels)
{
	int c = 0;
	for (int i = 0; i + 1 < n_levels; i++)
		c += v > mid[i];
	return c;
}

/* The step for IQ4's levels: the largest number near the outermost level, at one end of the range or the other. */
static float fit_levels(const float *x, const float *w, unsigned n, const int8_t *level, const float *mid)
{
	float max = st_signed_max(x, n), best_step = 0;
	double best = 0;
	if (!(fabsf(max) >= ST_TINY))
		return 0;
	for (int trial = 0; trial < 30; trial++) {
		float inv = ((float)(trial % 15 - 7) + (float)level[trial < 15 ? 0 : 15]) / max;
		double s2 = 0, sx = 0;
		for (unsigned i = 0; i < n; i++) {
			double q = level[nearest(inv * x[i], mid, 16)], wq = (double)w[i] * q;
			s2 += wq * q;
			sx += wq * (double)x[i];
		}
		if (s2 > 0 && sx * sx > best * s2) {
			best = sx * sx / s2;
			best_step = (float)(sx / s2);
		}
	}
	return best_step;
}

/* Codes of a sub-block under a step; levels NULL: the codes are levels, from -half to half - 1. */
ST_SEARCH double level_codes(const float *x, const float *w, unsigned n, int half, const int8_t *level,
                             const float *mid, float step, int16_t *code)
{
	double loss = 0;
	for (unsigned i = 0; i < n; i++) {
		int c = 0;
		float q = 0;
		if (step != 0 && level) {
			c = nearest(x[i] / step, mid, 16);
			q = (float)level[c];
		} else if (step != 0) {
			q = st_to_code(x[i] / step, (float)-half, (float)(half - 1));
			c = (int)q + half;
		}
		double e = (double)(step * q - x[i]);
		code[i] = (int16_t)c;
		loss += (double)w[i] * e * e;
	}
	return loss;
}

ST_SEARCH void level_block(const struct st_geometry *g, const float *x, const float *importance, unsigned n,
                           unsigned sub, enum rule rule, int half, int most, bool integers, uint8_t *block)
{
	struct st_block_parts p = { .d = 0 };
	float step[ST_SUBS_MOST], w[ST_BLOCK_MOST], max = 0, mid[15];
	const int8_t *level = g->levels ? g->levels->level : NULL;
	unsigned n_sub = n / sub;
	for (unsigned i = 0; level && i < 15; i++)
		mid[i] = 0.5f * (float)(level[i] + level[i + 1]);
	weigh(x, importance, n, sub, rule, w);
	for (unsigned j = 0; j < n_sub; j++) {
		step[j] = level ? fit_levels(x + sub * j, w + sub * j, sub, level, mid)
		                : st_fit_symmetric(x + sub * j, w + sub * j, sub, half);
		if (fabsf(step[j]) > fabsf(max))
			max = step[j];
	}
	if (!(fabsf(max) >= ST_TINY)) {
		st_block_pack(g, &p, block);
		return;
	}
	/* The largest step takes the lowest integer, which has no positive partner. */
	float inv = most ? (float)-most / max : 0;
	p.d = as_f16(most ? 1 / inv : max);
	for (unsigned j = 0; j < n_sub; j++) {
		int16_t trial[ST_SEARCH_MOST], *code = p.code + (size_t)sub * j;
		int scale = most ? (int)st_to_code(inv * step[j], (float)-most, (float)(most - 1)) : 1;
		double best = level_codes(x + sub * j, w + sub * j, sub, half, level, mid, p.d * (float)scale, code);
		p.scale[j] = (int16_t)scale;
		for (int s = scale - 1; integers && most && s <= scale + 1; s++) {
			if (s < -most || s > most - 1)
				continue;
			double loss = level_codes(x + sub * j, w + sub * j, sub, half, level, mid, p.d * (float)s,
			                          trial);
			if (!(loss < best))
				continue;
			best = loss;
			p.scale[j] = (int16_t)s;
			memcpy(code, trial, sub * sizeof *code);
		}
	}
	st_block_pack(g, &p, block);
}

#define LEVELS(type, elems, sub, rule, half, most, always)                                                            \
	ST_WEIGHTED_ENCODER(type)                                                                                     \
	{                                                                                                             \
		uint8_t *b = dst;                                                                                     \
		for (size_t i = 0; i < n; i += elems, b += sizeof(struct st_block_##type))                            \
			level_block(&st_layout_##type, src + i, importance ? importance + i : NULL, elems, sub, rule, \
			            half, most, always || importance, b);                                             \
	}                                                                                                             \
	ST_ENCODER(type) { st_encode_weighted_##type(src, NULL, dst, n); }

/* Q6_K without importances gives the bytes of the format's reference encoder on its test vectors. */
LEVELS(q3_k, 256, 16, MIXED, 4, 32, true)
LEVELS(q6_k, 256, 16, SQUARES, 32, 128, false)
LEVELS(iq4_nl, 32, 32, MIXED, 0, 0, true)
LEVELS(iq4_xs, 256, 32, MIXED, 0, 32, true)
