/*
 * half.h - binary16 and bfloat16 to and from f32.
 *
 * Decoding is exact and keeps NaN payloads and signs. Encoding rounds to nearest, ties to even,
 * handles subnormals, overflows to infinity as IEEE 754 has it, and makes every NaN quiet.
 * All four assume the default rounding mode and no flush-to-zero. They have no branches that
 * keep a loop over them from being vectorised.
 */
#ifndef ST_DTYPE_HALF_H
#define ST_DTYPE_HALF_H

#include <stdint.h>

static inline uint32_t st_f32_bits(float x)
{
	uint32_t u;
	__builtin_memcpy(&u, &x, 4);
	return u;
}
static inline float st_bits_f32(uint32_t u)
{
	float x;
	__builtin_memcpy(&x, &u, 4);
	return x;
}

static inline float st_f16_to_f32(uint16_t h)
{
	uint32_t sign = (uint32_t)(h & 0x8000u) << 16, rest = (uint32_t)(h & 0x7FFFu) << 13;
	/* Normal: move the exponent's bias from 15 to 127; infinity and NaN: once more, to the top. */
	uint32_t normal = rest + (112u << 23) + (rest >= 0x7C00u << 13 ? 112u << 23 : 0);
	/* Subnormal: the fraction counts units of 2^-24; put it under 2^-14 and take that away again. */
	uint32_t small = st_f32_bits(st_bits_f32(rest + (113u << 23)) - 0x1p-14f);
	return st_bits_f32(sign | (rest < 0x0400u << 13 ? small : normal));
}

static inline uint16_t st_f32_to_f16(float x)
{
	uint32_t u = st_f32_bits(x), sign = u >> 16 & 0x8000u;
	u &= 0x7FFFFFFFu;
	/* Normal: add half of the last kept place, less one unless that place is odd, and cut. A carry
	 * out of the largest finite value gives 0x7C00, infinity. */
	uint32_t normal = (u - (112u << 23) + 0xFFFu + (u >> 13 & 1u)) >> 13;
	/* Below 2^-14: adding 1/2 makes the adder round to units of 2^-24. */
	uint32_t small = st_f32_bits(st_bits_f32(u < 113u << 23 ? u : 0) + 0.5f) - st_f32_bits(0.5f);
	uint32_t nan = 0x7E00u | (u >> 13 & 0x3FFu);
	uint32_t r = u < 113u << 23 ? small : normal;
	r = u >= 143u << 23 ? 0x7C00u : r;
	r = u > 255u << 23 ? nan : r;
	return (uint16_t)(sign | r);
}

static inline float st_bf16_to_f32(uint16_t h) { return st_bits_f32((uint32_t)h << 16); }

static inline uint16_t st_f32_to_bf16(float x)
{
	uint32_t u = st_f32_bits(x);
	uint32_t rounded = (u + 0x7FFFu + (u >> 16 & 1u)) >> 16;
	return (uint16_t)((u & 0x7FFFFFFFu) > 255u << 23 ? u >> 16 | 0x40u : rounded);
}

/* Half of the E8M0 scale 2^(e-127): 2^(e-128), an f32 subnormal for e < 2. e = 255, which the OCP text calls NaN, stays
 * the power of two it would be: existing readers agree on that. */
static inline float st_e8m0_half(uint8_t e) { return st_bits_f32(e < 2 ? 0x00200000u << e : (uint32_t)(e - 1) << 23); }

#endif
