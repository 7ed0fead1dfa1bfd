/*
 * The elementary functions against MPFR at 2e4 points and more each (1e5 with "all"), edge cases included. The bounds
 * are those of docs/numerics.md.
 */
#include "kernel_test.h"
#include "pools.h"
#include "whole.h"

#include "dtype/half.h"
#include "kernel/elementary.h"
#include "kernel/kernels.h"

#include <float.h>
#include <mpfr.h>

#define POINTS (whole ? 100000u : 20000u)

static uint64_t bits(double x) { return st_f64_bits(x); }

/* Distance of got from the exact value, in units in the last place of the double nearest to it. */
static double ulps(double got, const mpfr_t exact)
{
	double near = mpfr_get_d(exact, MPFR_RNDN);
	if (isnan(near) || isinf(near) || isnan(got) || isinf(got))
		return (isnan(near) && isnan(got)) || near == got ? 0 : INFINITY;
	int e;
	frexp(near, &e);
	mpfr_t diff;
	mpfr_init2(diff, 200);
	mpfr_sub_d(diff, exact, got, MPFR_RNDN);
	double d = fabs(mpfr_get_d(diff, MPFR_RNDN)) / ldexp(1.0, (e < -1021 ? -1021 : e) - 53);
	mpfr_clear(diff);
	return d;
}

struct worst {
	double ulps, at;
};

static void note(struct worst *w, double u, double x)
{
	if (!(u <= w->ulps)) {
		w->ulps = u;
		w->at = x;
	}
}

static void within(const char *name, struct worst w, double bound)
{
	print_message("# %s: %.3f ulp at %a\n", name, w.ulps, w.at);
	if (!(w.ulps <= bound))
		fail_msg("%s: %.3f ulp at %a, bound %.2f", name, w.ulps, w.at, bound);
}

/* Points of all sizes between lo and hi in magnitude, both signs. */
static double spread(struct st_xoshiro *r, double lo, double hi)
{
	double u = (double)(st_xoshiro_next(r) >> 11) * 0x1p-53;
	double v = lo * pow(hi / lo, u);
	return st_xoshiro_next(r) & 1 ? v : -v;
}

static void exp_is_within_a_ulp(void **state)
{
	(void)state;
	static const double edges[] = { 0,
		                        -0.0,
		                        1,
		                        -1,
		                        709.782712893384,
		                        709.7827128933841,
		                        710,
		                        1000,
		                        1e300,
		                        -708.3964185322641,
		                        -744.4400719213812,
		                        -745.1332191019412,
		                        -745.1332191019411,
		                        -746,
		                        -1e300,
		                        INFINITY,
		                        -INFINITY,
		                        DBL_MIN,
		                        5e-324,
		                        -5e-324 };
	struct st_xoshiro r;
	st_xoshiro_seed(&r, 1);
	struct worst w = { 0 }, tiny = { 0 };
	mpfr_t y;
	mpfr_init2(y, 200);
	for (size_t i = 0; i < 2 * POINTS + sizeof edges / sizeof edges[0]; i++) {
		double x = i < POINTS     ? spread(&r, 1e-20, 750)
		         : i < 2 * POINTS ? spread(&r, 0.1, 20)
		                          : edges[i - 2 * POINTS];
		mpfr_set_d(y, x, MPFR_RNDN);
		mpfr_exp(y, y, MPFR_RNDN);
		note(x < -708.3 ? &tiny : &w, ulps(st_exp(x), y), x);
	}
	mpfr_clear(y);
	assert_true(isnan(st_exp(NAN)));
	assert_true(st_exp(0) == 1);
	within("exp", w, 0.9);
	within("exp, subnormal", tiny, 1.1); /* rounded twice */
}

static void log_is_within_a_ulp(void **state)
{
	(void)state;
	static const double edges[] = { 1,
		                        2,
		                        0.5,
		                        DBL_MIN,
		                        5e-324,
		                        DBL_MAX,
		                        0x1.6a09e667f3bcdp-1,
		                        0x1.6a09e667f3bccp-1,
		                        0x1.6a09e667f3bcdp0,
		                        1 + DBL_EPSILON,
		                        1 - DBL_EPSILON / 2,
		                        INFINITY };
	struct st_xoshiro r;
	st_xoshiro_seed(&r, 2);
	struct worst w = { 0 };
	mpfr_t y;
	mpfr_init2(y, 200);
	for (size_t i = 0; i < 3 * POINTS + sizeof edges / sizeof edges[0]; i++) {
		double x = i < POINTS     ? fabs(spread(&r, 1e-320, 1e308))
		         : i < 2 * POINTS ? 1 + spread(&r, 1e-12, 0.5)
		         : i < 3 * POINTS ? fabs(spread(&r, 0.3, 3))
		                          : edges[i - 3 * POINTS];
		mpfr_set_d(y, x, MPFR_RNDN);
		mpfr_log(y, y, MPFR_RNDN);
		note(&w, ulps(st_log(x), y), x);
	}
	mpfr_clear(y);
	assert_true(isnan(st_log(-1)) && isnan(st_log(NAN)) && isnan(st_log(-INFINITY)));
	assert_true(st_log(0) == -INFINITY && st_log(-0.0) == -INFINITY);
	within("log", w, 0.9);
}

static void sincos_is_within_a_ulp(void **state)
{
	(void)state;
	struct st_xoshiro r;
	st_xoshiro_seed(&r, 3);
	struct worst ws = { 0 }, wc = { 0 };
	mpfr_t x, s, c;
	mpfr_inits2(400, x, s, c, (mpfr_ptr)0);
	for (size_t i = 0; i < 4 * POINTS; i++) {
		double v;
		if (i < POINTS)
			v = spread(&r, 1e-20, 4);
		else if (i < 2 * POINTS)
			v = spread(&r, 1, 1e7);
		else if (i < 3 * POINTS)
			v = spread(&r, 1e6, 0x1p45);
		else /* right beside a multiple of pi/2, where everything cancels */
			v = nextafter((double)(i - 3 * POINTS) * 0x1.921fb54442d18p+0, i & 1 ? INFINITY : -INFINITY);
		double gs, gc;
		st_sincos(v, &gs, &gc);
		mpfr_set_d(x, v, MPFR_RNDN);
		mpfr_sin_cos(s, c, x, MPFR_RNDN);
		note(&ws, ulps(gs, s), v);
		note(&wc, ulps(gc, c), v);
	}
	/* Numerators of the continued fraction of pi: integers close to a multiple of it. */
	static const double close[] = { 22,           355,          103993,        104348,       208341,
		                        312689,       833719,       1146408,       4272943,      5419351,
		                        80143857,     165707065,    245850922,     411557987,    1068966896,
		                        2549491779.0, 6167950454.0, 14885392687.0, 21053343141.0 };
	for (size_t i = 0; i < sizeof close / sizeof close[0]; i++) {
		double gs, gc;
		st_sincos(close[i], &gs, &gc);
		mpfr_set_d(x, close[i], MPFR_RNDN);
		mpfr_sin_cos(s, c, x, MPFR_RNDN);
		note(&ws, ulps(gs, s), close[i]);
		note(&wc, ulps(gc, c), close[i]);
	}
	mpfr_clears(x, s, c, (mpfr_ptr)0);
	double gs, gc;
	st_sincos(-0.0, &gs, &gc);
	assert_true(bits(gs) == bits(-0.0) && gc == 1);
	st_sincos(0, &gs, &gc);
	assert_true(bits(gs) == 0 && gc == 1);
	static const double none[] = { INFINITY, -INFINITY, NAN, 0x1.0000000000001p45, 1e300 };
	for (size_t i = 0; i < sizeof none / sizeof none[0]; i++) {
		st_sincos(none[i], &gs, &gc);
		assert_true(isnan(gs) && isnan(gc));
	}
	within("sin", ws, 0.9);
	within("cos", wc, 0.9);
}

/* f32 in, f64 inside, one rounding: half a ulp and a little. */
static void activations(void **state)
{
	(void)state;
	const struct st_kernels *levels[ST_CPU_COUNT];
	size_t n_levels = usable_levels(levels), n = POINTS + 64;
	float *x = malloc(n * sizeof *x), *first = malloc(n * sizeof *first);
	struct st_xoshiro r;
	st_xoshiro_seed(&r, 4);
	for (size_t i = 0; i < n; i++)
		x[i] = (float)spread(&r, 1e-30, i % 2 ? 120 : 8);
	static const float edges[] = { 0,   -0.0f, INFINITY, FLT_MAX, -FLT_MAX, FLT_MIN, -1e-45f, 13,
		                       -13, -14,   -88,      -104,    -120,     16.9f,   -16.9f,  -17 };
	memcpy(x, edges, sizeof edges);
	mpfr_t v, u, z;
	mpfr_inits2(160, v, u, z, (mpfr_ptr)0);
	static const char *const names[] = { "silu", "gelu (tanh)", "gelu" };
	for (int act = 0; act < 3; act++) {
		for (size_t l = 0; l < n_levels; l++)
			for (int threads = 1; threads < 4; threads += 2) {
				struct guarded gx, gy;
				float *in = guard_alloc(&gx, n * 4, (int)l % 2),
				      *out = guard_alloc(&gy, n * 4, (int)l % 2);
				memcpy(in, x, n * 4);
				struct st_exec e = { .k = levels[l], .mode = ST_MODE_EXACT, .pool = pool_of(threads) };
				st_activate(&e, (enum st_activation)act, in, n, out);
				if (l == 0 && threads == 1)
					memcpy(first, out, n * 4);
				assert_memory_equal(first, out, n * 4);
				st_activate(&e, (enum st_activation)act, in, n, in); /* in place */
				assert_memory_equal(first, in, n * 4);
				guard_free(&gx);
				guard_free(&gy);
			}
		double worst = 0;
		for (size_t i = 0; i < n; i++) {
			if (isinf(x[i])) {
				assert_true(first[i] == x[i]);
				continue;
			}
			mpfr_set_flt(v, x[i], MPFR_RNDN);
			if (act == ST_ACT_GELU) { /* x erfc(-x / sqrt 2) / 2 */
				mpfr_set_ui(u, 2, MPFR_RNDN);
				mpfr_sqrt(u, u, MPFR_RNDN);
				mpfr_div(z, v, u, MPFR_RNDN);
				mpfr_neg(z, z, MPFR_RNDN);
				mpfr_erfc(z, z, MPFR_RNDN);
				mpfr_mul(z, z, v, MPFR_RNDN);
				mpfr_div_ui(z, z, 2, MPFR_RNDN);
			} else {
				if (act == ST_ACT_SILU) {
					mpfr_neg(u, v, MPFR_RNDN);
				} else { /* -2 sqrt(2/pi) (x + 0.044715 x^3) */
					mpfr_sqr(u, v, MPFR_RNDN);
					mpfr_mul_d(u, u, 0.044715, MPFR_RNDN);
					mpfr_add_ui(u, u, 1, MPFR_RNDN);
					mpfr_mul(u, u, v, MPFR_RNDN);
					mpfr_const_pi(z, MPFR_RNDN);
					mpfr_ui_div(z, 8, z, MPFR_RNDN);
					mpfr_sqrt(z, z, MPFR_RNDN);
					mpfr_mul(u, u, z, MPFR_RNDN);
					mpfr_neg(u, u, MPFR_RNDN);
				}
				mpfr_exp(u, u, MPFR_RNDN);
				mpfr_add_ui(u, u, 1, MPFR_RNDN);
				mpfr_div(z, v, u, MPFR_RNDN);
			}
			double want = mpfr_get_d(z, MPFR_RNDN), d = ulps_f32(first[i], want);
			if (d > worst)
				worst = d;
			if (!(d <= 0.5001))
				fail_msg("%s(%a) is %a, true value %a: %.4f ulp", names[act], (double)x[i],
				         (double)first[i], want, d);
		}
		print_message("# %s: %.5f ulp of f32\n", names[act], worst);
	}
	mpfr_clears(v, u, z, (mpfr_ptr)0);
	/* x / (1 + exp(-x)) at minus infinity has no limit that IEEE arithmetic finds. */
	float odd[2] = { NAN, -INFINITY };
	struct st_exec e = st_exec_default();
	st_activate(&e, ST_ACT_SILU, odd, 2, odd);
	assert_int_equal(st_f32_bits(odd[0]), 0x7FC00000);
	assert_int_equal(st_f32_bits(odd[1]), 0x7FC00000);
	free(x);
	free(first);
}

/* tanh, inside softcap: f64 scores so that no rounding hides it. */
static void tanh_inside_softcap(void **state)
{
	(void)state;
	struct st_xoshiro r;
	st_xoshiro_seed(&r, 5);
	mpfr_t y;
	mpfr_init2(y, 160);
	double worst = 0;
	for (size_t i = 0; i < POINTS; i++) {
		double x = spread(&r, 1e-20, 30);
		mpfr_set_d(y, x, MPFR_RNDN);
		mpfr_tanh(y, y, MPFR_RNDN);
		double want = mpfr_get_d(y, MPFR_RNDN), rel = fabs(st_tanh_inline(x) - want) / fabs(want);
		worst = rel > worst ? rel : worst;
	}
	mpfr_clear(y);
	print_message("# tanh: relative error %.2g\n", worst);
	assert_true(worst < 0x1p-45);
	assert_true(st_tanh_inline(INFINITY) == 1 && st_tanh_inline(-INFINITY) == -1 && isnan(st_tanh_inline(NAN)));
}

int main(int argc, char **argv)
{
	whole_if_asked(argc, argv);
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(exp_is_within_a_ulp),    cmocka_unit_test(log_is_within_a_ulp),
		cmocka_unit_test(sincos_is_within_a_ulp), cmocka_unit_test(activations),
		cmocka_unit_test(tanh_inside_softcap),
	};
	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests_name("kernel elementary", tests, NULL, NULL);
}
