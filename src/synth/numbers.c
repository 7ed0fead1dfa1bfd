/* numbers.c - draws from a counter. */
#include "synth/numbers.h"

#include "base/levels.h"
#include "base/rng.h"

#include <string.h>

#define GOLDEN 0x9E3779B97F4A7C15u

uint64_t st_synth_tensor_key(uint64_t seed, const char *name)
{
	uint64_t h = 0xCBF29CE484222325u; /* FNV-1a */
	for (; *name; name++)
		h = (h ^ (uint8_t)*name) * 0x100000001B3u;
	return st_splitmix64_mix(st_splitmix64_mix(seed + GOLDEN) ^ h);
}

uint64_t st_synth_row_key(uint64_t tensor_key, uint64_t row)
{
	return st_splitmix64_mix(tensor_key + (row + 1) * GOLDEN);
}

/*
 * The sum of four 16-bit uniforms has standard deviation sqrt((2^32 - 1) / 3); standardised it is z, nearly
 * normal with |z| < 3.47. z (A + B z^2) has the variance A^2 + 2 A B m4 + B^2 m6 = 1, where m4 = 2.7 and
 * m6 = 10.93 are the moments of z, and a kurtosis of 4.4.
 */
#define STEP 2.6428998e-5f
#define A 0.7787f
#define B 0.07787f

static inline float shape(uint64_t h)
{
	int32_t sum = (int32_t)((h & 0xFFFF) + (h >> 16 & 0xFFFF) + (h >> 32 & 0xFFFF) + (h >> 48));
	float z = (float)(sum - 2 * 65535) * STEP;
	return z * (A + B * (z * z));
}

ST_LEVELS
void st_synth_draws(uint64_t key, uint64_t first, size_t n, float scale, float *dst)
{
	for (size_t i = 0; i < n; i++)
		dst[i] = scale * shape(st_splitmix64_mix(key + (first + i + 1) * GOLDEN));
}

float st_synth_factor(uint64_t key, uint64_t at)
{
	float v;
	st_synth_draws(key, at, 1, 1, &v);
	v = v < -3 ? -3 : v > 3 ? 3 : v;
	return 1 + 0.25f * v + 0.03f * (v * v); /* no root: always positive */
}
