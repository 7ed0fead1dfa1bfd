/*
 * vec_math.h - functions of whole vectors, and normal draws, in the operations of vec.h, which comes first. Constants
 * are the usual splits of ln 2 and minimax fits.
 */
#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

/* e^x, x <= 88; below -87 the result is 0. Error below 2 ulp. NaN stays NaN. */
VEC_INLINE v16 v_exp(v16 x)
{
	const v16 magic = v_set1(12582912.0f); /* 1.5 * 2^23: adding it rounds to an integer */
	v16 c = v_max(x, v_set1(-87.0f));
	v16 n = v_sub(v_fma(c, v_set1(1.44269504f), magic), magic);
	v16 r = v_fma(n, v_set1(-0.693359375f), x);
	r = v_fma(n, v_set1(2.12194440e-4f), r);
	v16 p = v_set1(1.9875691500e-4f);
	p = v_fma(p, r, v_set1(1.3981999507e-3f));
	p = v_fma(p, r, v_set1(8.3334519073e-3f));
	p = v_fma(p, r, v_set1(4.1665795894e-2f));
	p = v_fma(p, r, v_set1(1.6666665459e-1f));
	p = v_fma(p, r, v_set1(5.0000001201e-1f));
	p = v_fma(v_mul(r, r), p, v_add(r, v_set1(1.0f)));
	return v_lt(x, v_set1(-87.0f), v_set1(0.0f), v_mul(p, v_exp2i(n)));
}

/* tanh: odd polynomial near 0, where 1 - 2/(e^2x + 1) would cancel. */
VEC_INLINE v16 v_tanh(v16 x)
{
	v16 a = v_abs(x), z = v_mul(x, x), p = v_set1(-5.70498872745e-3f);
	p = v_fma(p, z, v_set1(2.06390887954e-2f));
	p = v_fma(p, z, v_set1(-5.37397155531e-2f));
	p = v_fma(p, z, v_set1(1.33314422036e-1f));
	p = v_fma(p, z, v_set1(-3.33332819422e-1f));
	v16 small = v_fma(v_mul(p, z), x, x);
	v16 e = v_exp(v_lt(a, v_set1(20.0f), v_add(a, a), v_set1(40.0f)));
	v16 large = v_sub(v_set1(1.0f), v_div(v_set1(2.0f), v_add(e, v_set1(1.0f))));
	large = v_lt(x, v_set1(0.0f), v_sub(v_set1(0.0f), large), large);
	return v_lt(a, v_set1(0.625f), small, large);
}

VEC_INLINE float lane_max(v16 x)
{
	float f[16], m;
	v_store(f, x);
	m = f[0];
	for (int l = 1; l < 16; l++)
		m = m > f[l] ? m : f[l];
	return m;
}

VEC_INLINE float lane_sum(v16 x)
{
	float f[16];
	v_store(f, x);
	for (int h = 8; h > 0; h /= 2)
		for (int l = 0; l < h; l++)
			f[l] += f[l + h];
	return f[0];
}

/* ---- normal draws: plain C that the compiler vectorises; no contraction, so one set of bits ---- */

static ST_TARGET void normals(const double *u, size_t n, float *x)
{
	for (size_t i = 0; i < n; i++) {
		/* log u1 = e ln 2 + log m, m in [sqrt 1/2, sqrt 2): the exponent by shifting that interval's end to
		 * 2^0. */
		double u1 = u[2 * i], u2 = u[2 * i + 1], m, e;
		uint64_t b, off;
		memcpy(&b, &u1, 8);
		off = b + (0x3ff0000000000000u - 0x3fe6a09e667f3bcdu);
		uint64_t mb = (off & 0x000fffffffffffffu) + 0x3fe6a09e667f3bcdu, eb = (off >> 52) + 0x4330000000000000u;
		memcpy(&m, &mb, 8);
		memcpy(&e, &eb, 8); /* 2^52 + biased exponent */
		e -= 4503599627370496.0 + 1023.0;
		double f = (m - 1) / (m + 1), z = f * f;
		double p = 1.0 / 19;
		p = p * z + 1.0 / 17;
		p = p * z + 1.0 / 15;
		p = p * z + 1.0 / 13;
		p = p * z + 1.0 / 11;
		p = p * z + 1.0 / 9;
		p = p * z + 1.0 / 7;
		p = p * z + 1.0 / 5;
		p = p * z + 1.0 / 3;
		double log_u = e * 0.69314718055994530942 + (2 * f + 2 * f * z * p);
		float mag = (float)sqrt(-2 * log_u), angle = (float)(6.28318530717958647693 * u2);
		/* Quarter turns by rounding with 1.5 * 2^52; Taylor on [-pi/4, pi/4], error below 1e-13. */
		double a = angle, t = a * 0.63661977236758134308 + 6755399441055744.0, q = t - 6755399441055744.0;
		uint64_t k;
		memcpy(&k, &t, 8);
		double r = a - q * 1.57079632679489661923, w = r * r, sn = 1.0 / 6227020800.0, cs = 1.0 / 479001600.0;
		sn = -1.0 / 39916800 + w * sn;
		sn = 1.0 / 362880 + w * sn;
		sn = -1.0 / 5040 + w * sn;
		sn = 1.0 / 120 + w * sn;
		sn = -1.0 / 6 + w * sn;
		sn = r + r * w * sn;
		cs = -1.0 / 3628800 + w * cs;
		cs = 1.0 / 40320 + w * cs;
		cs = -1.0 / 720 + w * cs;
		cs = 1.0 / 24 + w * cs;
		cs = -0.5 + w * cs;
		cs = 1 + w * cs;
		/* Odd quadrants swap sine and cosine; signs follow bit 1 of k and of k + 1. */
		double c1 = k & 1 ? sn : cs, s1 = k & 1 ? cs : sn;
		c1 = (k + 1) & 2 ? -c1 : c1;
		s1 = k & 2 ? -s1 : s1;
		x[2 * i] = mag * (float)c1;
		x[2 * i + 1] = mag * (float)s1;
	}
}
