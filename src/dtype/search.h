/*
 * search.h - the step, or step and minimum, that lose least of a run of numbers.
 *
 * Numbers are rounded to codes under a few trial steps. For each set of codes the best real step (and minimum) follows
 * by weighted least squares; the best of all trials is kept.
 *
 * Trial loops carry codes as f32 in vectors of four lanes, one partial sum per lane, summed in a fixed order: the bits
 * are the same on every machine. (Plain loops over lanes are left scalar by gcc 12.) Everything is inlined where n is a
 * constant.
 */
#ifndef ST_DTYPE_SEARCH_H
#define ST_DTYPE_SEARCH_H

#include <math.h>
#include <stdint.h>
#include <string.h>

#define ST_SEARCH static inline __attribute__((always_inline))
#define ST_LANES 4
#define ST_SEARCH_MOST 32 /* numbers that share a step */
typedef float st_vec __attribute__((vector_size(4 * ST_LANES)));
typedef int32_t st_vec_mask __attribute__((vector_size(4 * ST_LANES)));

/* Below this a run, or a whole block, counts as zeros: its reciprocal would overflow. */
#define ST_TINY 1e-15f

ST_SEARCH st_vec st_vec_load(const float *p)
{
	st_vec v;
	memcpy(&v, p, sizeof v);
	return v;
}
ST_SEARCH float st_vec_sum(st_vec v) { return (v[0] + v[2]) + (v[1] + v[3]); }

/* Nearest code in [lo, hi], ties to even; NaN goes to lo. Adding and taking away 1.5 * 2^23 rounds |v| < 2^22 to an
 * integer, so clamp first. */
ST_SEARCH float st_to_code(float v, float lo, float hi)
{
	v = v > lo ? v : lo;
	v = v < hi ? v : hi;
	return (v + 0x1.8p23f) - 0x1.8p23f;
}

ST_SEARCH st_vec st_to_codes(st_vec v, float lo, float hi)
{
	st_vec_mask above = v > lo;
	v = (st_vec)(((st_vec_mask)v & above) | ((st_vec_mask)(st_vec){ lo, lo, lo, lo } & ~above));
	st_vec_mask below = v < hi;
	v = (st_vec)(((st_vec_mask)v & below) | ((st_vec_mask)(st_vec){ hi, hi, hi, hi } & ~below));
	return (v + 0x1.8p23f) - 0x1.8p23f;
}

/* Root of the mean of squares of n numbers. */
ST_SEARCH float st_rms(const float *x, unsigned n)
{
	st_vec squares = { 0 };
	for (unsigned i = 0; i < n; i += ST_LANES)
		squares += st_vec_load(x + i) * st_vec_load(x + i);
	return sqrtf(st_vec_sum(squares) / (float)n);
}

/* The trials: the codes reach from start + delta * 0 to start + delta * (trials - 1) beyond the largest one. */
struct st_trials {
	float start, delta;
	int trials;
};

/*
 * x = step * code + minimum, codes 0 .. top; returns the step. With `no_positive` the minimum is at most 0, and 0 is
 * within the range: such types store a number that is not negative and taken away. *min_out is the minimum, negated.
 */
ST_SEARCH float st_fit_affine(const float *x, const float *weight, unsigned n, int top, struct st_trials t,
                              bool no_positive, float *min_out)
{
	float lo = no_positive ? 0 : x[0], hi = x[0];
	for (unsigned i = 0; i < n; i++) {
		lo = x[i] < lo ? x[i] : lo;
		hi = x[i] > hi ? x[i] : hi;
	}
	*min_out = -lo;
	if (!(hi > lo))
		return 0;
	st_vec w[ST_SEARCH_MOST / ST_LANES], wx[ST_SEARCH_MOST / ST_LANES], lane_w = { 0 }, lane_wx = { 0 };
	for (unsigned i = 0; i < n / ST_LANES; i++) {
		w[i] = st_vec_load(weight + ST_LANES * i);
		wx[i] = w[i] * st_vec_load(x + ST_LANES * i);
		lane_w += w[i];
		lane_wx += wx[i];
	}
	double sw = (double)st_vec_sum(lane_w), swx = (double)st_vec_sum(lane_wx), best = INFINITY;
	float best_step = 0, best_min = lo;
	for (int trial = -1; trial < t.trials; trial++) {
		/* Trial -1 takes the plain range as it is; the others begin at the best minimum found so far. */
		float inv = ((trial < 0 ? 0 : t.delta * (float)trial + t.start) + (float)top) / (hi - best_min);
		st_vec c1 = { 0 }, c2 = { 0 }, cx = { 0 }; /* lane sums of w c, w c^2, w c x */
		for (unsigned i = 0; i < n / ST_LANES; i++) {
			st_vec c = st_to_codes(inv * (st_vec_load(x + ST_LANES * i) - best_min), 0, (float)top),
			       wc = w[i] * c;
			c1 += wc;
			c2 += wc * c;
			cx += wx[i] * c;
		}
		double s1 = (double)st_vec_sum(c1), s2 = (double)st_vec_sum(c2), sx = (double)st_vec_sum(cx);
		double step = (double)(1 / inv), min = (double)lo;
		if (trial >= 0) {
			double det = sw * s2 - s1 * s1;
			if (!(det > 0))
				continue;
			step = (sw * sx - swx * s1) / det;
			min = (s2 * swx - s1 * sx) / det;
			if (min > 0 && no_positive) {
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

/* The number of largest magnitude, with its sign; the first of equals. NaN never wins. */
ST_SEARCH float st_signed_max(const float *x, unsigned n)
{
	float amax = 0, max = 0;
	for (unsigned i = 0; i < n; i++)
		if (fabsf(x[i]) > amax) {
			amax = fabsf(x[i]);
			max = x[i];
		}
	return max;
}

/* x = step * code, codes -half .. half - 1, which has room for the largest magnitude on one side only; returns the
 * step, of either sign. */
ST_SEARCH float st_fit_symmetric(const float *x, const float *weight, unsigned n, int half)
{
	float max = st_signed_max(x, n);
	if (!(fabsf(max) >= ST_TINY))
		return 0;
	st_vec v[ST_SEARCH_MOST / ST_LANES], w[ST_SEARCH_MOST / ST_LANES], wx[ST_SEARCH_MOST / ST_LANES];
	for (unsigned i = 0; i < n / ST_LANES; i++) {
		v[i] = st_vec_load(x + ST_LANES * i);
		w[i] = st_vec_load(weight + ST_LANES * i);
		wx[i] = w[i] * v[i];
	}
	float best_step = 0;
	double best = 0;
	for (int trial = 0; trial < 19; trial++) {
		/* The largest number gets the code -half in the first trial, then up to 0.9 more or less before
		 * clamping. */
		float inv = -((float)half + (trial == 0 ? 0 : 0.1f * (float)(trial <= 9 ? trial - 10 : trial - 9)))
		          / max;
		st_vec c2 = { 0 }, cx = { 0 };
		for (unsigned i = 0; i < n / ST_LANES; i++) {
			st_vec c = st_to_codes(inv * v[i], (float)-half, (float)(half - 1));
			c2 += w[i] * c * c;
			cx += wx[i] * c;
		}
		double s2 = (double)st_vec_sum(c2), sx = (double)st_vec_sum(cx);
		/* With the best step sx / s2 the loss is the same for all trials less sx^2 / s2. */
		if (s2 > 0 && sx * sx > best * s2) {
			best = sx * sx / s2;
			best_step = (float)(sx / s2);
		}
	}
	return best_step;
}

#endif
