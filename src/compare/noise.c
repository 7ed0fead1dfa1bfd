#include "compare/noise.h"

#include "base/levels.h"
#include "dtype/geometry.h"

#include <math.h>
#include <string.h>

/* How often the block's f16 scale is multiplied to reach its largest element; 0 for types without one. Where that scale
 * is subnormal its own rounding shows. */
static double scale_range(enum st_dtype t)
{
	const struct st_geometry *g = st_dtype_geometry(t);
	return g->factor == ST_FACTOR_F16 ? (double)g->scale_top * st_geometry_largest_level(g) : 0;
}

/*
 * What the rounding of a sub-block's integer scale may lose of a number, as a share of the super-block's largest
 * element: the integers have few bits and stand for shares of the largest scale. That shows where a sub-block is small
 * beside its neighbours, in a quiet channel, say.
 */
static double scale_error(enum st_dtype t)
{
	const struct st_geometry *g = st_dtype_geometry(t);
	return g->scale.bits ? 0.5 / g->scale_top : 0;
}

/* Half the smallest step of a float type: what is lost however small the numbers are. */
static double smallest_half_step(enum st_dtype t)
{
	const struct st_geometry *g = st_dtype_geometry(t);
	return st_dtype_info(t)->storage_rel_rms > 0 && g->fraction ? ldexp(0.5, g->least_exponent - g->fraction) : 0;
}

/*
 * E[max |z_i|] over n standard normals: turns the error measured on N(0,1) into a fraction of
 * a block's largest element. Integrated from 1 - (2 Phi(x) - 1)^n.
 */
static double expected_max(uint32_t n) { return n == 16 ? 2.0772 : n == 32 ? 2.3471 : 3.0442; }

uint32_t st_noise_block(enum st_dtype t)
{
	uint32_t sub = st_dtype_geometry(t)->sub;
	return sub ? sub : 1;
}

#define LANES ST_LANES

ST_LEVELS static void measure_lanes(const float *x, size_t n, float max[LANES], double sq[LANES])
{
	st_f32x8 top = { 0 }, m;
	st_f64x4 low = { 0 }, high = { 0 }, v;
	for (size_t i = 0; i + LANES <= n; i += LANES) {
		memcpy(&m, x + i, sizeof m);
		m = (st_f32x8)((st_i32x8)m & INT32_MAX);
		st_i32x8 more = m > top;
		top = (st_f32x8)((more & (st_i32x8)m) | (~more & (st_i32x8)top));
		st_widen4(x + i, &v);
		low += v * v;
		st_widen4(x + i + 4, &v);
		high += v * v;
	}
	memcpy(max, &top, sizeof top);
	memcpy(sq, &low, sizeof low);
	memcpy(sq + 4, &high, sizeof high);
}

/* Largest magnitude, NaN aside, and sum of squares, in lanes that do not depend on the compiler. */
static void measure(const float *x, size_t n, double *largest, double *squares)
{
	float max[LANES];
	double sq[LANES];
	measure_lanes(x, n, max, sq);
	for (size_t i = n / LANES * LANES, l = 0; i < n; i++, l++) {
		max[l] = fabsf(x[i]) > max[l] ? fabsf(x[i]) : max[l];
		sq[l] += (double)x[i] * x[i];
	}
	*largest = *squares = 0;
	for (size_t l = 0; l < LANES; l++) {
		*largest = max[l] > *largest ? max[l] : *largest;
		*squares += sq[l];
	}
}

/* Of each element of one (sub-)block of n decoded values; max: the largest of them. */
static double variance(enum st_dtype t, float scale, const float *block, size_t n, double *max)
{
	double rel = st_dtype_info(t)->storage_rel_rms, sq;
	measure(block, n, max, &sq);
	if (t == ST_DTYPE_APR_Q8)
		return (double)scale * scale / 12; /* uniform within one step */
	if (st_dtype_geometry(t)->sub == 0) {
		double least = smallest_half_step(t);
		return (rel * rel + ST_NOISE_F32_REL * ST_NOISE_F32_REL) * sq / (double)n + least * least / 3;
	}
	/* Where all elements of a block are equal, all are as large as the largest one, at which steps are coarsest or
	 * the codes end. */
	double c = rel / expected_max(st_noise_block(t)), v = fmax(c * c * *max * *max, rel * rel * sq / (double)n);
	double range = scale_range(t);
	if (range > 0 && *max < range * 0x1p-14)
		v += range * 0x1p-25 * range * 0x1p-25 / 3;
	return v;
}

uint32_t st_noise_group(enum st_dtype t) { return scale_error(t) > 0 ? 256 : st_noise_block(t); }

size_t st_noise_variances(const struct st_tensor *t, const float *row, size_t n, double v[ST_NOISE_BLOCKS])
{
	size_t size = st_noise_block(t->dtype), blocks = 0;
	double max = 0, largest, lost = scale_error(t->dtype);
	for (size_t i = 0; i < n; i += size) {
		v[blocks++] = variance(t->dtype, t->scale, row + i, n - i < size ? n - i : size, &largest);
		max = largest > max ? largest : max;
	}
	for (size_t b = 0; b < blocks && lost > 0; b++)
		v[b] += lost * max * lost * max / 3;
	return blocks;
}

double st_noise_row(const struct st_tensor *t, const float *row, size_t n)
{
	size_t size = st_noise_block(t->dtype), group = st_noise_group(t->dtype);
	double sum = 0, v[ST_NOISE_BLOCKS], max;
	if (size == 1)
		return variance(t->dtype, t->scale, row, n, &max) * (double)n;
	for (size_t i = 0; i < n; i += group) {
		size_t len = n - i < group ? n - i : group, blocks = st_noise_variances(t, row + i, len, v);
		for (size_t b = 0; b < blocks; b++)
			sum += v[b] * (double)(len - b * size < size ? len - b * size : size);
	}
	return sum;
}

ST_LEVELS static void weighted_lanes(const float *w, const double *x2, size_t n, double a[LANES], double b[LANES])
{
	st_f64x4 weighted[2] = { { 0 } }, plain[2] = { { 0 } }, v, x;
	for (size_t k = 0; k + LANES <= n; k += LANES)
		for (size_t h = 0; h < 2; h++) {
			st_widen4(w + k + 4 * h, &v);
			memcpy(&x, x2 + k + 4 * h, sizeof x);
			weighted[h] += v * v * x;
			plain[h] += x;
		}
	memcpy(a, weighted, sizeof weighted);
	memcpy(b, plain, sizeof plain);
}

/* sum_k w[k]^2 x2[k] and sum_k x2[k], in lanes that do not depend on the compiler. */
static void weighted_squares(const float *w, const double *x2, size_t n, double *weighted, double *plain)
{
	double a[LANES], b[LANES];
	weighted_lanes(w, x2, n, a, b);
	for (size_t k = n / LANES * LANES, l = 0; k < n; k++, l++) {
		a[l] += (double)w[k] * w[k] * x2[k];
		b[l] += x2[k];
	}
	*weighted = *plain = 0;
	for (size_t l = 0; l < LANES; l++) {
		*weighted += a[l];
		*plain += b[l];
	}
}

void st_noise_dot(const struct st_tensor *t, const float *row, size_t n, const double *x2, size_t T, double *out)
{
	size_t size = st_noise_block(t->dtype), group = st_noise_group(t->dtype), blocks = (n + size - 1) / size;
	if (size == 1 && t->dtype != ST_DTYPE_APR_Q8) {
		double rel = st_dtype_info(t->dtype)->storage_rel_rms, least = smallest_half_step(t->dtype), weighted,
		       plain;
		for (size_t s = 0; s < T; s++) {
			weighted_squares(row, x2 + s * n, n, &weighted, &plain);
			out[s] += (rel * rel + ST_NOISE_F32_REL * ST_NOISE_F32_REL) * weighted
			        + least * least / 3 * plain;
		}
		return;
	}
	double v[ST_NOISE_BLOCKS];
	for (size_t i = 0, at = 0; i < n; i += group) {
		size_t here = st_noise_variances(t, row + i, n - i < group ? n - i : group, v);
		for (size_t b = 0; b < here; b++, at++)
			for (size_t s = 0; s < T; s++)
				out[s] += v[b] * x2[s * blocks + at];
	}
}
