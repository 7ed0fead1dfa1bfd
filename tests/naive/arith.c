/* arith.c - roundings and sums, as engines have them. */
#include "naive.h"

#include <math.h>
#include <string.h>

const char *const arith_names[] = { "f64",       "f32",  "f16",  "bf16", "tf32", "bf16stream",
	                            "f16stream", "ggml", "q8_0", "q8_k", NULL };
const char *const order_names[] = { "sequential", "lanes", "blocked", NULL };
const char *const cache_names[] = { "plain", "f16", "bf16", "q8_0", NULL };
const char *const flash_names[] = { "none", "f32", "f16", NULL };

/* To nearest even among multiples of the unit: 2^(e - 10) in [2^e, 2^(e + 1)), 2^-24 at least. */
double to_f16(double x)
{
	double v = (double)(float)x;
	int e;
	if (v == 0 || !isfinite(v))
		return v;
	(void)frexp(v, &e);
	double unit = ldexp(1, (e - 1 > -14 ? e - 1 : -14) - 10), y = rint(v / unit) * unit;
	return fabs(y) > 65504 ? copysign((double)INFINITY, v) : y;
}

double f16_of_bits(uint16_t h)
{
	int e = h >> 10 & 31, m = h & 1023;
	double v = e == 31 ? (m ? (double)NAN : (double)INFINITY) : ldexp(e ? m + 1024 : m, (e ? e : 1) - 25);
	return h >> 15 ? -v : v;
}

uint16_t f16_bits(double x)
{
	double y = to_f16(x), size = fabs(y);
	uint16_t sign = signbit(y) ? 0x8000 : 0;
	int e;
	if (isnan(y))
		return 0x7E00;
	if (isinf(y) || size == 0)
		return (uint16_t)(sign | (size == 0 ? 0 : 0x7C00));
	(void)frexp(size, &e);
	e = e - 1 > -14 ? e - 1 : -14;
	/* Below 2^-14 the exponent is 0 and the fraction has no leading 1; above, both add up to the bits. */
	int units = (int)ldexp(size, 10 - e);
	return (uint16_t)(sign | (units < 1024 ? units : ((e + 15) << 10) + units - 1024));
}

/* The upper `keep` bits of a float, to nearest even. */
static double upper(double x, unsigned keep)
{
	float f = (float)x;
	uint32_t u, drop = 32 - keep;
	memcpy(&u, &f, 4);
	if ((u & 0x7F800000u) == 0x7F800000u)
		return f;
	u += ((1u << (drop - 1)) - 1) + (u >> drop & 1u);
	u &= ~((1u << drop) - 1);
	memcpy(&f, &u, 4);
	return f;
}

double to_bf16(double x) { return upper(x, 16); }
double to_tf32(double x) { return upper(x, 19); }

/* Blocks of 32: a scale in half precision, codes of -127 to 127. */
void to_q8_0(double *x, size_t n)
{
	for (size_t b = 0; b + 32 <= n; b += 32) {
		float most = 0;
		for (size_t i = 0; i < 32; i++)
			most = fmaxf(most, fabsf((float)x[b + i]));
		float d = most / 127, id = d != 0 ? 1 / d : 0;
		double stored = to_f16(d);
		for (size_t i = 0; i < 32; i++)
			x[b + i] = roundf((float)x[b + i] * id) * stored;
	}
}

/* Blocks of 256: a scale in f32 by the element of largest size, which gets code -127. */
void to_q8_k(double *x, size_t n)
{
	for (size_t b = 0; b + 256 <= n; b += 256) {
		float most = 0, at = 0;
		for (size_t i = 0; i < 256; i++) {
			float v = (float)x[b + i];
			if (fabsf(v) > most) {
				most = fabsf(v);
				at = v;
			}
		}
		if (most == 0)
			continue;
		float is = -127.f / at;
		for (size_t i = 0; i < 256; i++)
			x[b + i] = (double)(fminf(127, rintf(is * (float)x[b + i])) * (1 / is));
	}
}

double dot(enum arith a, enum order o, const double *x, const double *y, size_t n)
{
	if (a == ARITH_F64) {
		double s = 0;
		for (size_t i = 0; i < n; i++)
			s += x[i] * y[i];
		return s;
	}
	if (o == ORDER_LANES) { /* eight sums side by side, fused, then added in a tree */
		float s[8] = { 0 };
		for (size_t i = 0; i < n; i++)
			s[i % 8] = fmaf((float)x[i], (float)y[i], s[i % 8]);
		return (double)(((s[0] + s[4]) + (s[2] + s[6])) + ((s[1] + s[5]) + (s[3] + s[7])));
	}
	if (o == ORDER_BLOCKED) { /* each 16 of their own */
		float s = 0;
		for (size_t b = 0; b < n; b += 16) {
			float part = 0;
			for (size_t i = b; i < n && i < b + 16; i++)
				part += (float)x[i] * (float)y[i];
			s += part;
		}
		return (double)s;
	}
	float s = 0;
	for (size_t i = 0; i < n; i++)
		s += (float)x[i] * (float)y[i];
	return (double)s;
}
