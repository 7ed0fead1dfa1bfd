/* elementary.c - the elementary functions for single numbers. */
#include "kernel/elementary.h"
#include "kernel/kernel.h"

double st_exp(double x) { return st_exp_inline(x); }
void st_sincos(double x, double *s, double *c) { st_sincos_inline(x, s, c); }

/*
 * x = 2^k m, sqrt(1/2) <= m < sqrt 2; log m = 2 atanh(s), s = f / (2 + f), f = m - 1, |s| <= 0.172.
 * 2s = f - s f, so log m = f - (f^2/2 - s (f^2/2 + R(s^2))), where f is exact and the rest small.
 */
double st_log(double x)
{
	if (!(x > 0) || x > 0x1.fffffffffffffp1023)
		return x == 0 ? -(double)INFINITY : x > 0 ? x : (double)NAN;
	int64_t k = 0;
	if (x < 0x1p-1022) {
		x *= 0x1p54;
		k = -54;
	}
	uint64_t u = st_f64_bits(x);
	/* The exponent, counted from sqrt(1/2) up. */
	uint64_t shifted = u - st_f64_bits(0x1.6a09e667f3bcdp-1);
	int64_t e = (int64_t)(shifted >> 52) - (shifted >> 63 ? 4096 : 0);
	k += e;
	double m = st_bits_f64(u - ((uint64_t)e << 52));
	double f = m - 1.0, s = f / (2.0 + f), z = s * s;
	double r = 2.0 / 23;
	for (int i = 21; i >= 3; i -= 2)
		r = fma(r, z, 2.0 / i);
	double half = 0.5 * f * f, n = (double)k;
	/* R(z) = 2 z/3 + 2 z^2/5 + ..., times s */
	double small = half - fma(s, fma(r, z, half), n * ST_LN2_LO);
	return fma(n, ST_LN2_HI, -(small - f));
}
