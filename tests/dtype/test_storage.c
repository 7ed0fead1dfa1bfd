/*
 * dtype: storage_rel_rms of the table, measured again on N(0,1) data.
 *
 * Types that Stele encodes are measured through their encoder. The test also has plain quantisers in f64: they follow
 * a type's grid (levels, sub-blocks, integer scales under f16 factors) but not its bytes.
 */
#include "support.h"

#include <stele/dtype.h>

#include "dtype/aprq.h"
#include "dtype/blocks.h"
#include "dtype/half.h"

#define N (1u << 20)

static float *data, *back;

static int make_data(void **state)
{
	(void)state;
	struct st_xoshiro g;
	st_xoshiro_seed(&g, 20261120);
	data = malloc(N * sizeof *data);
	back = malloc(N * sizeof *back);
	for (size_t i = 0; i < N; i++)
		data[i] = normal(&g);
	return 0;
}

static int free_data(void **state)
{
	(void)state;
	free(data);
	free(back);
	return 0;
}

static void expect(enum st_dtype t, double measured)
{
	double stated = st_dtype_info(t)->storage_rel_rms;
	if (getenv("STELE_TEST_PRINT"))
		fprintf(stderr, "%-8s %.4g (table: %.4g)\n", st_dtype_info(t)->name, measured, stated);
	if (!(fabs(measured / stated - 1) < 0.05))
		fail_msg("%s: measured %g, the table says %g", st_dtype_info(t)->name, measured, stated);
}

/* The table states what the field's encoders lose. One that searches longer may lose a little less, but no more. */
static void expect_no_worse(enum st_dtype t, double measured)
{
	double stated = st_dtype_info(t)->storage_rel_rms;
	if (getenv("STELE_TEST_PRINT"))
		fprintf(stderr, "%-8s %.4g (table: %.4g)\n", st_dtype_info(t)->name, measured, stated);
	if (!(measured < 1.02 * stated && measured > 0.9 * stated))
		fail_msg("%s: measured %g, the table says %g", st_dtype_info(t)->name, measured, stated);
}

static void encoded_types(void **state)
{
	(void)state;
	uint8_t *bytes = malloc(4 * N);
	for (unsigned t = 0; t < ST_DTYPE_COUNT; t++) {
		const struct st_dtype_info *info = st_dtype_info((enum st_dtype)t);
		if (!info->encode || t == ST_DTYPE_F32 || t == ST_DTYPE_APR_Q8)
			continue;
		info->encode(data, bytes, N);
		info->decode(bytes, back, N);
		expect_no_worse((enum st_dtype)t, rel_rms(data, back, N));
	}
	/* One scale for a whole tensor: the figure depends, weakly, on the tensor's size. */
	float scale = st_apr_q8_scale(st_apr_q8_largest(0, data, N));
	st_apr_q8_encode(data, N, scale, (int8_t *)bytes);
	st_dtype_info(ST_DTYPE_APR_Q8)->decode(bytes, back, N);
	for (size_t i = 0; i < N; i++)
		back[i] *= scale;
	expect(ST_DTYPE_APR_Q8, rel_rms(data, back, N));
	free(bytes);
}

static void exact_types_state_zero(void **state)
{
	(void)state;
	for (unsigned t = 0; t < ST_DTYPE_COUNT; t++) {
		const struct st_dtype_info *info = st_dtype_info((enum st_dtype)t);
		bool exact = t == ST_DTYPE_F32 || t == ST_DTYPE_F64 || info->kind == ST_KIND_INT;
		assert_true(exact ? info->storage_rel_rms == 0 : info->storage_rel_rms > 0);
	}
}

/* Nearest of all values an 8-bit type has. */
static void eight_bit_floats(void **state)
{
	(void)state;
	static const enum st_dtype types[] = { ST_DTYPE_F8_E4M3, ST_DTYPE_F8_E5M2 };
	uint8_t all[256];
	float value[256];
	for (int i = 0; i < 256; i++)
		all[i] = (uint8_t)i;
	for (size_t k = 0; k < 2; k++) {
		st_dtype_info(types[k])->decode(all, value, 256);
		for (size_t i = 0; i < N / 16; i++) {
			back[i] = value[0];
			for (int c = 1; c < 256; c++)
				if (fabsf(value[c] - data[i]) < fabsf(back[i] - data[i]))
					back[i] = value[c];
		}
		expect(types[k], rel_rms(data, back, N / 16));
	}
}

static double half_of(double x) { return (double)st_f16_to_f32(st_f32_to_f16((float)x)); }
static double clamp(double v, double lo, double hi) { return v < lo ? lo : v > hi ? hi : v; }

/* 127 steps to the largest magnitude of a block; Q8_1 stores the step as f16, Q8_K as f32. */
static void eight_bit_blocks(void **state)
{
	(void)state;
	static const struct {
		enum st_dtype t;
		size_t n;
		bool half;
	} types[] = {
		{ ST_DTYPE_Q8_1, 32, true },
		{ ST_DTYPE_Q8_K, 256, false },
	};
	for (size_t k = 0; k < 2; k++) {
		for (size_t b = 0; b < N; b += types[k].n) {
			double amax = 0;
			for (size_t i = 0; i < types[k].n; i++)
				amax = fmax(amax, fabs((double)data[b + i]));
			double step = amax / 127, stored = types[k].half ? half_of(step) : step;
			for (size_t i = 0; i < types[k].n; i++)
				back[b + i] = (float)(stored * round((double)data[b + i] / step));
		}
		expect(types[k].t, rel_rms(data, back, N));
	}
}

/* ---- step and minimum per sub-block: Q2_K, Q5_K (and Q4_K, to show that the method is fair) ---- */

static void affine_fit(const float *x, size_t n, int top, bool rms_weight, double *step_out, double *min_out)
{
	double lo = 0, hi = -1e9, xx = 0, best = INFINITY;
	for (size_t i = 0; i < n; i++) {
		lo = fmin(lo, (double)x[i]);
		hi = fmax(hi, (double)x[i]);
		xx += (double)x[i] * (double)x[i];
	}
	double rms = rms_weight ? sqrt(xx / (double)n) : 0;
	*step_out = 0;
	*min_out = lo;
	for (int trial = 0; trial <= 20; trial++) {
		double inv = (top - 1 + 0.1 * trial) / (hi - *min_out), from = *min_out, sw = 0, sx = 0, s1 = 0, s2 = 0,
		       sc = 0;
		for (size_t i = 0; i < n; i++) {
			double v = (double)x[i], w = rms + fabs(v), c = clamp(round(inv * (v - from)), 0, top);
			sw += w;
			sx += w * v;
			s1 += w * c;
			s2 += w * c * c;
			sc += w * c * v;
		}
		double det = sw * s2 - s1 * s1, step = (sw * sc - sx * s1) / det,
		       min = fmin(0, (s2 * sx - s1 * sc) / det), loss = 0;
		if (!(det > 0))
			continue;
		for (size_t i = 0; i < n; i++) {
			double v = (double)x[i], e = step * clamp(round(inv * (v - from)), 0, top) + min - v;
			loss += (rms + fabs(v)) * e * e;
		}
		if (loss < best) {
			best = loss;
			*step_out = step;
			*min_out = min;
		}
	}
}

static void affine_types(void **state)
{
	(void)state;
	static const struct {
		enum st_dtype t;
		size_t sub;
		int top, scale_top;
		bool rms;
	} types[] = {
		{ ST_DTYPE_Q2_K, 16, 3, 15, false },
		{ ST_DTYPE_Q5_K, 32, 31, 63, true },
		{ ST_DTYPE_Q4_K, 32, 15, 63, true },
	};
	size_t n = N / 8;
	for (size_t k = 0; k < 3; k++) {
		size_t sub = types[k].sub, n_sub = 256 / sub;
		int st = types[k].scale_top;
		for (size_t b = 0; b < n; b += 256) {
			double step[16], min[16], max_step = 0, max_min = 0;
			for (size_t j = 0; j < n_sub; j++) {
				affine_fit(data + b + sub * j, sub, types[k].top, types[k].rms, &step[j], &min[j]);
				max_step = fmax(max_step, step[j]);
				max_min = fmax(max_min, -min[j]);
			}
			for (size_t i = 0; i < 256; i++) {
				double s = half_of(max_step / st) * round(st * step[i / sub] / max_step);
				double m = half_of(max_min / st) * round(st * -min[i / sub] / max_min);
				back[b + i] = (float)(s * clamp(round(((double)data[b + i] + m) / s), 0, types[k].top)
				                      - m);
			}
		}
		expect(types[k].t, rel_rms(data, back, n));
	}
}

/* ---- one step per sub-block times a fixed set of levels: Q3_K, IQ4_NL, IQ4_XS (and Q6_K) ---- */

static double nearest_level(double v, const double *level, size_t n_levels)
{
	double best = level[0];
	for (size_t i = 1; i < n_levels; i++)
		if (fabs(level[i] - v) < fabs(best - v))
			best = level[i];
	return best;
}

/* Weights x^2; the largest element lies near the outermost level, on one side or the other. */
static double level_fit(const float *x, size_t n, const double *level, size_t n_levels)
{
	double max = 0, best = 0, best_step = 0;
	for (size_t i = 0; i < n; i++)
		if (fabs((double)x[i]) > fabs(max))
			max = (double)x[i];
	for (int trial = -10; trial <= 10; trial++) {
		double inv = level[0] * (1 + 0.03 * trial) / max, s2 = 0, sx = 0;
		for (size_t i = 0; i < n; i++) {
			double v = (double)x[i], c = nearest_level(inv * v, level, n_levels);
			s2 += v * v * c * c;
			sx += v * v * c * v;
		}
		if (s2 > 0 && sx * sx > best * s2) {
			best = sx * sx / s2;
			best_step = sx / s2;
		}
	}
	return best_step;
}

static void level_types(void **state)
{
	(void)state;
	/* scale_half: integer scales -scale_half .. scale_half - 1 under an f16 factor; 0: the step itself is f16. */
	static const struct {
		enum st_dtype t;
		size_t sub;
		int half, scale_half;
	} types[] = {
		{ ST_DTYPE_Q3_K, 16, 4, 32 },
		{ ST_DTYPE_IQ4_NL, 32, 0, 0 },
		{ ST_DTYPE_IQ4_XS, 32, 0, 32 },
		{ ST_DTYPE_Q6_K, 16, 32, 128 },
	};
	size_t n = N / 32;
	for (size_t k = 0; k < 4; k++) {
		double level[64];
		size_t n_levels = types[k].half ? 2 * (size_t)types[k].half : 16, sub = types[k].sub;
		for (size_t i = 0; i < n_levels; i++)
			level[i] = types[k].half ? (double)i - types[k].half : st_iq4_values[i];
		for (size_t b = 0; b < n; b += 256) {
			double step[16], max = 0;
			for (size_t j = 0; j < 256 / sub; j++) {
				step[j] = level_fit(data + b + sub * j, sub, level, n_levels);
				if (fabs(step[j]) > fabs(max))
					max = step[j];
			}
			int sh = types[k].scale_half;
			for (size_t i = 0; i < 256; i++) {
				double s = step[i / sub];
				s = sh ? half_of(max / -sh) * clamp(round(-sh * s / max), -sh, sh - 1) : half_of(s);
				back[b + i] = (float)(s * nearest_level((double)data[b + i] / s, level, n_levels));
			}
		}
		expect(types[k].t, rel_rms(data, back, n));
	}
}

/* The shared exponent that puts the largest magnitude into E2M1's top octave, 4 to 8. */
static void microscaling(void **state)
{
	(void)state;
	double level[16];
	for (size_t i = 0; i < 16; i++)
		level[i] = st_mxfp4_values[i];
	for (size_t b = 0; b < N / 8; b += 32) {
		double amax = 0;
		for (size_t i = 0; i < 32; i++)
			amax = fmax(amax, fabs((double)data[b + i]));
		double s = ldexp(0.5, ilogb(amax) - 2);
		for (size_t i = 0; i < 32; i++)
			back[b + i] = (float)(s * nearest_level((double)data[b + i] / s, level, 16));
	}
	expect(ST_DTYPE_MXFP4, rel_rms(data, back, N / 8));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(encoded_types),    cmocka_unit_test(exact_types_state_zero),
		cmocka_unit_test(eight_bit_floats), cmocka_unit_test(eight_bit_blocks),
		cmocka_unit_test(affine_types),     cmocka_unit_test(level_types),
		cmocka_unit_test(microscaling),
	};
	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests(tests, make_data, free_data);
}
