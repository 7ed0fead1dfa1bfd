#include "turboquant/codebook.h"

#include "base/error.h"

#include <float.h>
#include <math.h>
#include <string.h>

/*
 * Solving for 256 levels multiplies the error of the integrals by some 1e4 (the squared number of
 * levels), so they are evaluated in long double: 64 bits of mantissa on x86, 113 on AArch64.
 */
#define SQRT1_2L 0.70710678118654752440084436210485L

/* Density and upper tail of N(0,1). erfc keeps its relative accuracy in the tail. */
static long double pdf(long double x) { return 0.39894228040143267793994605993438L * expl(-0.5L * x * x); }
static long double tail(long double x) { return 0.5L * erfcl(x * SQRT1_2L); }

/* Mass of (a, b), 0 <= a < b, b may be infinite. erf is the exact complement where erfc nears 1,
 * which is where the difference of two tails would lose digits. */
static long double mass(long double a, long double b)
{
	if (b < 0.5L)
		return 0.5L * (erfl(b * SQRT1_2L) - erfl(a * SQRT1_2L));
	return tail(a) - (isinf(b) ? 0 : tail(b));
}

/* E[x | a < x < b] */
static long double cell_mean(long double a, long double b) { return (pdf(a) - (isinf(b) ? 0 : pdf(b))) / mass(a, b); }

/* Inverse of the upper tail by Newton; only a starting guess is needed of it. */
static long double tail_inverse(long double p)
{
	long double x = 0;
	for (int i = 0; i < 60; i++)
		x += (tail(x) - p) / pdf(x);
	return x;
}

static void round_levels(struct st_codebook *cb)
{
	for (unsigned i = 0; i < cb->n; i++)
		cb->level_f32[i] = (float)cb->level[i];
	for (unsigned i = 0; i + 1 < cb->n; i++)
		cb->bound_f32[i] = 0.5f * (cb->level_f32[i] + cb->level_f32[i + 1]);
	cb->bound_f32[cb->n - 1] = INFINITY;
}

/*
 * Newton on F_i(c) = c_i - E[x | cell i] over the positive half (the optimum is symmetric, so the
 * cells are those of |x| with b_{-1} = 0). F couples neighbours only: with g(a, b) the cell mean,
 * dg/da = f(a)(g - a)/P, dg/db = f(b)(b - g)/P and each boundary moves by half of either level:
 * a tridiagonal system, solved by elimination.
 */
static bool newton(long double *c, unsigned n)
{
	long double lower[ST_TQ_MAX_LEVELS / 2], diag[ST_TQ_MAX_LEVELS / 2], upper[ST_TQ_MAX_LEVELS / 2],
		r[ST_TQ_MAX_LEVELS / 2];
	for (int iter = 0; iter < 100; iter++) {
		for (unsigned i = 0; i < n; i++) {
			long double a = i ? 0.5L * (c[i - 1] + c[i]) : 0,
				    b = i + 1 < n ? 0.5L * (c[i] + c[i + 1]) : INFINITY;
			long double p = mass(a, b), g = cell_mean(a, b);
			long double da = i ? pdf(a) * (g - a) / p : 0, db = i + 1 < n ? pdf(b) * (b - g) / p : 0;
			lower[i] = -0.5L * da;
			upper[i] = -0.5L * db;
			diag[i] = 1 - 0.5L * (da + db);
			r[i] = c[i] - g;
		}
		for (unsigned i = 1; i < n; i++) {
			long double f = lower[i] / diag[i - 1];
			diag[i] -= f * upper[i - 1];
			r[i] -= f * r[i - 1];
		}
		long double step = 0;
		for (unsigned i = n; i-- > 0;) {
			r[i] = (r[i] - (i + 1 < n ? upper[i] * r[i + 1] : 0)) / diag[i];
			step = fmaxl(step, fabsl(r[i]));
		}
		/* Damped while far away, so that levels keep their order. */
		long double damp = step > 0.05L ? 0.05L / step : 1;
		for (unsigned i = 0; i < n; i++)
			c[i] -= damp * r[i];
		if (step < 1e-14L)
			return true;
	}
	return false;
}

bool st_codebook_generate(struct st_codebook *cb, unsigned bits)
{
	if (bits < ST_TQ_MIN_BITS || bits > ST_TQ_MAX_BITS)
		return false;
	memset(cb, 0, sizeof *cb);
	cb->bits = bits;
	cb->n = 1u << bits;
	unsigned half = cb->n / 2;
	/* High-resolution theory: level density ~ f^(1/3), which is a normal of variance 3. */
	long double c[ST_TQ_MAX_LEVELS / 2];
	for (unsigned i = 0; i < half; i++)
		c[i] = sqrtl(3.0L) * tail_inverse(0.5L - (i + 0.5L) / cb->n);
	if (!newton(c, half))
		return false;
	for (unsigned i = 0; i < half; i++) {
		cb->level[half + i] = (double)c[i];
		cb->level[half - 1 - i] = -(double)c[i];
	}
	round_levels(cb);
	return true;
}

enum st_status st_codebook_from_levels(struct st_codebook *cb, const double *level, size_t n, struct st_error *err)
{
	unsigned bits = 0;
	while (bits <= ST_TQ_MAX_BITS && (size_t)1 << bits != n)
		bits++;
	if (bits < ST_TQ_MIN_BITS || bits > ST_TQ_MAX_BITS)
		return st_fail(err, ST_ERR_USAGE, "%zu levels; a codebook has 4, 8, 16, 32, 64, 128 or 256", n);
	memset(cb, 0, sizeof *cb);
	cb->bits = bits;
	cb->n = (unsigned)n;
	for (size_t i = 0; i < n; i++) {
		if (!(fabs(level[i]) < 1e6))
			return st_fail(err, ST_ERR_FORMAT, "level %zu is %g", i, level[i]);
		if (i && !(level[i] > level[i - 1]))
			return st_fail(err, ST_ERR_FORMAT, "level %zu (%.9g) is not above the one before it (%.9g)", i,
			               level[i], level[i - 1]);
		cb->level[i] = level[i];
	}
	round_levels(cb);
	return ST_OK;
}

/* Positive halves as published with the cache format, 7 decimals. */
static const double published_2[] = { 0.4527800, 1.5104176 };
static const double published_3[] = { 0.2450942, 0.7560053, 1.3439093, 2.1519457 };
static const double published_4[] = {
	0.1283950, 0.3880483, 0.6567591, 0.9423405, 1.2562312, 1.6180464, 2.0690172, 2.7325896,
};

const struct st_codebook_known st_codebooks_known[] = {
	{ "published-2bit", 2, 2, published_2, 1.5104176, 0 },
	{ "published-3bit", 3, 4, published_3, 2.1519457, 0 },
	{ "published-4bit", 4, 8, published_4, 2.7325896, 0.097473 },
	/* Widely shipped and not an optimum: only these two figures of it are on record here. */
	{ "shipped-8bit", 8, 0, NULL, 5.0652659, 0.007921 },
};
const size_t st_codebooks_n_known = sizeof st_codebooks_known / sizeof *st_codebooks_known;

bool st_codebook_from_known(struct st_codebook *cb, const struct st_codebook_known *k)
{
	double level[ST_TQ_MAX_LEVELS];
	if (!k->n_levels)
		return false;
	for (unsigned i = 0; i < k->n_levels; i++) {
		level[k->n_levels + i] = k->half[i];
		level[k->n_levels - 1 - i] = -k->half[i];
	}
	struct st_error err = ST_ERROR_INIT;
	return st_codebook_from_levels(cb, level, 2 * (size_t)k->n_levels, &err) == ST_OK;
}

/* The cells of an asymmetric table may straddle zero: signed versions of the two integrals. */
static long double signed_mass(long double a, long double b)
{
	if (a >= 0)
		return mass(a, b);
	if (b <= 0)
		return mass(-b, -a);
	return 1 - tail(b) - tail(-a);
}

static long double signed_mean(long double a, long double b)
{
	if (a >= 0)
		return cell_mean(a, b);
	if (b <= 0)
		return -cell_mean(-b, -a);
	return ((isinf(a) ? 0 : pdf(a)) - (isinf(b) ? 0 : pdf(b))) / signed_mass(a, b);
}

/* int (x - c)^2 f = int x^2 f - 2 c int x f + c^2 P, where int_a^b x^2 f = P + a f(a) - b f(b). */
static long double cell_mse(long double a, long double b, long double c)
{
	long double p = signed_mass(a, b), ta = isinf(a) ? 0 : a * pdf(a), tb = isinf(b) ? 0 : b * pdf(b);
	return p + ta - tb - 2 * c * p * signed_mean(a, b) + c * c * p;
}

static double total_rmse(const struct st_codebook *cb)
{
	long double mse = 0;
	for (unsigned i = 0; i < cb->n; i++) {
		long double a = i ? 0.5L * (cb->level[i - 1] + cb->level[i]) : -INFINITY;
		long double b = i + 1 < cb->n ? 0.5L * (cb->level[i] + cb->level[i + 1]) : INFINITY;
		mse += cell_mse(a, b, cb->level[i]);
	}
	return (double)sqrtl(mse);
}

void st_codebook_lint(const struct st_codebook *cb, struct st_codebook_lint *out)
{
	struct st_codebook best;
	memset(out, 0, sizeof *out);
	if (!st_codebook_generate(&best, cb->bits))
		return;
	for (unsigned i = 0; i < cb->n; i++) {
		long double a = i ? 0.5L * (cb->level[i - 1] + cb->level[i]) : -INFINITY;
		long double b = i + 1 < cb->n ? 0.5L * (cb->level[i] + cb->level[i + 1]) : INFINITY;
		double move = (double)fabsl(cb->level[i] - signed_mean(a, b));
		if (move > out->lloyd_move) {
			out->lloyd_move = move;
			out->lloyd_level = i;
		}
		out->distance = fmax(out->distance, fabs(cb->level[i] - best.level[i]));
		out->asymmetry = fmax(out->asymmetry, fabs(cb->level[i] + cb->level[cb->n - 1 - i]));
	}
	out->rmse = total_rmse(cb);
	out->rmse_optimum = total_rmse(&best);
	out->mse_excess = (out->rmse * out->rmse) / (out->rmse_optimum * out->rmse_optimum) - 1;
	out->outermost = cb->level[cb->n - 1];
	out->outermost_optimum = best.level[cb->n - 1];
	out->ok = out->distance <= ST_CODEBOOK_TOLERANCE;
}
