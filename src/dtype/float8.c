/* float8.c - the two 8-bit floats of the OCP FP8 specification. */
#include "dtype/codec.h"

#include "dtype/half.h"

/* E4M3 "fn": exponent bias 7, largest value 448, no infinities; only S.1111.111 is NaN. */
static float e4m3_to_f32(uint8_t b)
{
	uint32_t sign = (uint32_t)(b & 0x80u) << 24, rest = b & 0x7Fu;
	/* As an f32 with the same fields the value is 2^-120 times too small, subnormals included. */
	float magnitude = st_bits_f32(rest << 20) * 0x1p120f;
	return st_bits_f32(sign | (rest == 0x7Fu ? 0x7FC00000u : st_f32_bits(magnitude)));
}

void st_decode_f8_e4m3(const void *src, float *dst, size_t n)
{
	const uint8_t *p = src;
	for (size_t i = 0; i < n; i++)
		dst[i] = e4m3_to_f32(p[i]);
}

/* E5M2 is binary16 cut to its upper byte. */
void st_decode_f8_e5m2(const void *src, float *dst, size_t n)
{
	const uint8_t *p = src;
	for (size_t i = 0; i < n; i++)
		dst[i] = st_f16_to_f32((uint16_t)(p[i] << 8));
}
