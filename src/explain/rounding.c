#include "explain/rounding.h"

#include "dtype/half.h"

#include <math.h>

#define BLOCK 32

static void round_q8_0(float *v, size_t n)
{
	const struct st_dtype_info *q8 = st_dtype_info(ST_DTYPE_Q8_0);
	uint8_t block[64];
	for (size_t i = 0; i < n; i += BLOCK) {
		q8->encode(v + i, block, BLOCK);
		q8->decode(block, v + i, BLOCK);
	}
}

void st_round_to(enum st_dtype type, float *v, size_t n, size_t row)
{
	if (type == ST_DTYPE_Q8_0 && row % BLOCK == 0)
		round_q8_0(v, n);
	for (size_t i = 0; i < n && type == ST_DTYPE_F16; i++)
		v[i] = st_f16_to_f32(st_f32_to_f16(v[i]));
	for (size_t i = 0; i < n && type == ST_DTYPE_BF16; i++)
		v[i] = st_bf16_to_f32(st_f32_to_bf16(v[i]));
}

/* The transform is its own inverse. */
void st_round_turned(const struct st_kernels *k, enum st_dtype type, float *v, size_t n, size_t block)
{
	for (size_t i = 0; i + block <= n; i += block) {
		st_fwht(k, v + i, block);
		st_round_to(type, v + i, block, block);
		st_fwht(k, v + i, block);
	}
}

double st_two_figures(double within, double v)
{
	double p = pow(10, floor(log10(v)) - 1), r = floor(v / p + 0.5) * p;
	return fabs(r - v) < within * v ? r : v;
}

int st_significant_bits(float v)
{
	uint32_t u = st_f32_bits(v) & 0x7FFFFFu;
	if (v == 0 || !isfinite(v))
		return 0;
	return u ? 24 - __builtin_ctz(u) : 1;
}

float st_unit_roundoff(enum st_dtype type)
{
	return type == ST_DTYPE_BF16 ? 0x1p-8f : type == ST_DTYPE_F16 ? 0x1p-11f : 0x1p-24f;
}

float st_half_unit(enum st_dtype type, float y)
{
	if (!isfinite(y))
		return 0;
	int e = y == 0 ? -126 : ilogbf(y), least = type == ST_DTYPE_F16 ? -14 : -126;
	return ldexpf(st_unit_roundoff(type), e > least ? e : least);
}
