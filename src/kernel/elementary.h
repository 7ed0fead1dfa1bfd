/*
 * elementary.h - exp, log, sin, cos and the activations, as inline functions on doubles.
 *
 * No call to libm can change a result: only + - * /, fma(), comparisons and the bits of a
 * double, each with one right answer under IEEE 754. Every function is free of branches, so
 * that a loop over it vectorises; each level compiles its own copy (pointwise_template.h) and
 * all copies give the same bits. Bounds: docs/numerics.md.
 *
 * Polynomials are Taylor series, cut where the next term is below 1/20 ulp on the reduced
 * range: a term or two more than a minimax fit, and nothing to take on trust.
 */
#ifndef ST_KERNEL_ELEMENTARY_H
#define ST_KERNEL_ELEMENTARY_H

#include <math.h>
#include <stdint.h>

/* Into the caller, whose target attributes decide what fma() becomes. */
#define ST_INLINE static inline __attribute__((always_inline))

static inline uint64_t st_f64_bits(double x)
{
	uint64_t u;
	__builtin_memcpy(&u, &x, 8);
	return u;
}
static inline double st_bits_f64(uint64_t u)
{
	double x;
	__builtin_memcpy(&x, &u, 8);
	return x;
}

/* Adding this rounds |t| < 2^51 to an integer (to nearest even), which then lies in the low bits. */
#define ST_SHIFTER 0x1.8p52

#define ST_LN2_HI 0x1.62e42fefa38p-1 /* 42 bits: times an 11-bit integer it is exact */
#define ST_LN2_LO 0x1.ef35793c7673p-45

/* x = n ln 2 + r, |r| <= 0.347; exp x = 2^n exp r. */
ST_INLINE double st_exp_inline(double x)
{
	double c = x > 710.0 ? 710.0 : x; /* exp(710) overflows, exp(-746) rounds to 0; NaN passes both */
	c = c < -746.0 ? -746.0 : c;
	double t = fma(c, 0x1.71547652b82fep+0, ST_SHIFTER);
	double n = t - ST_SHIFTER;
	double hi = fma(-n, ST_LN2_HI, c); /* exact */
	double r = fma(-n, ST_LN2_LO, hi);
	double lo = fma(-n, ST_LN2_LO, hi - r); /* what r lost */
	double p = 1.0 / 6227020800;            /* 1/13! */
	p = fma(p, r, 1.0 / 479001600);
	p = fma(p, r, 1.0 / 39916800);
	p = fma(p, r, 1.0 / 3628800);
	p = fma(p, r, 1.0 / 362880);
	p = fma(p, r, 1.0 / 40320);
	p = fma(p, r, 1.0 / 5040);
	p = fma(p, r, 1.0 / 720);
	p = fma(p, r, 1.0 / 120);
	p = fma(p, r, 1.0 / 24);
	p = fma(p, r, 1.0 / 6);
	p = fma(p, r, 0.5);
	p = fma(p, r * r, lo) + r;
	/* 2^n in two factors, so that a subnormal result is rounded once: n in [-1077, 1025]. */
	uint64_t e = st_f64_bits(t) - st_f64_bits(ST_SHIFTER) + 2 * 1023;
	uint64_t half = e >> 1;
	return (1.0 + p) * st_bits_f64(half << 52) * st_bits_f64((e - half) << 52);
}

/*
 * sin and cos of any |x| <= 2^45; NaN beyond (and for infinities). x - n pi/2 with pi/2 in
 * three parts of 53 bits: the first product cancels exactly because both sides are multiples
 * of one power of two and the difference fits a double.
 */
ST_INLINE void st_sincos_inline(double x, double *sin_out, double *cos_out)
{
	x = fabs(x) <= 0x1p45 ? x : (double)NAN;
	double t = fma(x, 0x1.45f306dc9c883p-1, ST_SHIFTER);
	double n = t - ST_SHIFTER;
	double a = fma(-n, 0x1.921fb54442d18p+0, x); /* exact */
	double p = n * 0x1.1a62633145c07p-54, p_lost = fma(n, 0x1.1a62633145c07p-54, -p);
	/* a - p with what it loses, whichever is larger: beside a multiple of pi/2 little is left of a. */
	double h = a - p, v = h - a;
	double l = (a - (h - v)) - (p + v) - p_lost;
	l = fma(-n, -0x1.f1976b7ed8fbcp-110, l);
	double r = h + l, lo = h - r + l;
	double z = r * r;
	double s = 1.0 / 355687428096000; /* 1/17! */
	s = fma(s, z, -1.0 / 1307674368000);
	s = fma(s, z, 1.0 / 6227020800);
	s = fma(s, z, -1.0 / 39916800);
	s = fma(s, z, 1.0 / 362880);
	s = fma(s, z, -1.0 / 5040);
	s = fma(s, z, 1.0 / 120);
	s = fma(s, z, -1.0 / 6);
	double half = 0.5 * z;
	double sine = r + fma(s * z, r, fma(-half, lo, lo));
	sine = x == 0 ? x : sine;           /* keeps -0 */
	double c = -1.0 / 6402373705728000; /* -1/18! */
	c = fma(c, z, 1.0 / 20922789888000);
	c = fma(c, z, -1.0 / 87178291200);
	c = fma(c, z, 1.0 / 479001600);
	c = fma(c, z, -1.0 / 3628800);
	c = fma(c, z, 1.0 / 40320);
	c = fma(c, z, -1.0 / 720);
	c = fma(c, z, 1.0 / 24);
	double w = 1.0 - half;
	double cosine = w + ((1.0 - w - half) + fma(c * z, z, -r * lo));
	uint64_t q = st_f64_bits(t);
	double first = q & 1 ? cosine : sine, second = q & 1 ? sine : cosine;
	*sin_out = st_bits_f64(st_f64_bits(first) ^ (q & 2) << 62);
	*cos_out = st_bits_f64(st_f64_bits(second) ^ ((q + 1) & 2) << 62);
}

/*
 * Phi(x), the standard normal distribution function, as erfc(z) / 2 with z = -x / sqrt 2:
 * for z >= 0, erfc(z) = t exp(P(s) - z^2), t = 2 / (2 + z), s the image of t on [-1, 1] for
 * z <= 12. P is the polynomial of degree 17 through log(erfc(z) / t) + z^2 at the Chebyshev
 * points, computed with 400 bits; it is within 2e-13. x must hold an f32, so that x^2 is exact.
 */
ST_INLINE double st_normal_cdf_inline(double x)
{
	double ax = fabs(x);
	ax = ax > 16.9 ? 16.9 : ax; /* z < 12; Phi(-16.9) is far below the least f32 */
	double t = 2.0 / fma(ax, 0x1.6a09e667f3bcdp-1, 2.0);
	double s = fma(t, 0x1.2aaaaaaaaaaabp+1, -0x1.5555555555555p+0);
	double p = -0x1.f335a09eba08bp-24;
	p = fma(p, s, 0x1.4c4ce06e99dadp-23);
	p = fma(p, s, 0x1.c8461f754129p-21);
	p = fma(p, s, -0x1.05c63cc844b02p-19);
	p = fma(p, s, -0x1.28c14a09cf154p-19);
	p = fma(p, s, 0x1.a8aa9c2f03487p-17);
	p = fma(p, s, -0x1.89dd2b04c598bp-18);
	p = fma(p, s, -0x1.ce0b26fd13e9cp-15);
	p = fma(p, s, 0x1.9ed3484d713c9p-14);
	p = fma(p, s, 0x1.5a1aca00ecc9fp-13);
	p = fma(p, s, -0x1.71181795b9d8fp-11);
	p = fma(p, s, -0x1.aeae1926fbb9ep-13);
	p = fma(p, s, 0x1.1b19987af9143p-8);
	p = fma(p, s, -0x1.cea242d861e7bp-10);
	p = fma(p, s, -0x1.0562b46bca2ap-5);
	p = fma(p, s, 0x1.3c993c0c7119fp-6);
	p = fma(p, s, 0x1.2bd40a0010a0ap-1);
	p = fma(p, s, -0x1.26562fc55f75ap-1);
	double lower = 0.5 * t * st_exp_inline(fma(-0.5 * ax, ax, p));
	return x > 0 ? 1.0 - lower : lower;
}

ST_INLINE double st_silu_inline(double x) { return x / (1.0 + st_exp_inline(-x)); }

/* x (1 + tanh u) / 2 with u = sqrt(2/pi) (x + 0.044715 x^3) is x / (1 + exp(-2u)). */
ST_INLINE double st_gelu_tanh_inline(double x)
{
	double u = 0x1.9884533d43651p-1 * x * fma(0.044715 * x, x, 1.0);
	return x / (1.0 + st_exp_inline(-2.0 * u));
}

ST_INLINE double st_gelu_inline(double x) { return x * st_normal_cdf_inline(x); }

ST_INLINE double st_relu_inline(double x) { return x < 0 ? 0 : x; } /* NaN stays NaN */
ST_INLINE double st_relu_squared_inline(double x) { return x < 0 ? 0 : x * x; }
ST_INLINE double st_sigmoid_inline(double x) { return 1.0 / (1.0 + st_exp_inline(-x)); }
ST_INLINE double st_gelu_quick_inline(double x) { return x / (1.0 + st_exp_inline(-1.702 * x)); }

/* Near 0 the quotient loses digits; there the series to z^9, whose next term is below 1e-17 of the sum. */
ST_INLINE double st_tanh_inline(double z)
{
	double q = z * z;
	double near = fma(62.0 / 2835, q, -17.0 / 315);
	near = fma(near, q, 2.0 / 15);
	near = fma(near, q, -1.0 / 3);
	near = fma(near * q, z, z);
	double far = 1.0 - 2.0 / (st_exp_inline(2.0 * z) + 1.0);
	return fabs(z) < 0.02 ? near : far;
}

#endif
