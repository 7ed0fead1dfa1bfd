/* mxfp4.c - OCP Microscaling FP4: E2M1 codes under a shared power of two. */
#include "dtype/codec.h"

#include "dtype/apart.h"
#include "dtype/blocks.h"
#include "dtype/half.h"

#include <math.h>
#include <string.h>

void st_decode_mxfp4(const void *src, float *dst, size_t n)
{
	const struct st_block_mxfp4 *b = src;
	for (const float *end = dst + n; dst < end; b++, dst += ST_QK) {
		float d = st_e8m0_half(b->e);
		for (unsigned i = 0; i < 16; i++) {
			dst[i] = d * (float)st_mxfp4_values[b->qs[i] & 15];
			dst[i + 16] = d * (float)st_mxfp4_values[b->qs[i] >> 4];
		}
	}
}

/* Nearest code; a tie goes to the even one. The codes of magnitudes come first, their negatives 8 later. */
static uint8_t code_of(float v)
{
	static const float middle[7] = { 0.5f, 1.5f, 2.5f, 3.5f, 5, 7, 10 };
	float size = fabsf(v);
	uint8_t c = 0;
	for (unsigned i = 0; i < 7; i++)
		c = (uint8_t)(c + (i % 2 ? size >= middle[i] : size > middle[i]));
	return (uint8_t)(v < 0 && c ? c | 8 : c);
}

static double encode_block(const float *x, const float *importance, int exponent, struct st_block_mxfp4 *b)
{
	double loss = 0;
	b->e = (uint8_t)(exponent < 0 ? 0 : exponent > 254 ? 254 : exponent);
	double d = (double)st_e8m0_half(b->e);
	for (unsigned i = 0; i < ST_QK; i++) {
		uint8_t c = code_of((float)((double)x[i] / d));
		double e = d * st_mxfp4_values[c] - (double)x[i];
		b->qs[i % 16] = (uint8_t)(i < 16 ? c : b->qs[i % 16] | c << 4);
		loss += importance ? (double)importance[i] * e * e : e * e;
	}
	return loss;
}

/* The OCP text's choice puts the largest magnitude into the top octave, 4 to 8, where what lies above 6 is clipped.
 * With importances the exponents beside it are tried as well. */
void st_encode_weighted_mxfp4(const float *src, const float *importance, void *dst, size_t n)
{
	struct st_block_mxfp4 *b = dst, trial;
	for (const float *end = src + n; src < end; b++, src += ST_QK) {
		float amax = 0;
		for (unsigned i = 0; i < ST_QK; i++)
			amax = fabsf(src[i]) > amax && isfinite(src[i]) ? fabsf(src[i]) : amax;
		int exponent = amax > 0 ? ilogbf(amax) - 2 + 127 : 0;
		double best = encode_block(src, importance, exponent, b);
		for (int e = exponent - 1; importance && amax > 0 && e <= exponent + 1; e += 2) {
			double loss = encode_block(src, importance, e, &trial);
			if (!(loss < best))
				continue;
			best = loss;
			memcpy(b, &trial, sizeof trial);
		}
		importance = importance ? importance + ST_QK : NULL;
	}
}

void st_encode_mxfp4(const float *src, void *dst, size_t n) { st_encode_weighted_mxfp4(src, NULL, dst, n); }

/* How far the level of a code is from the next one in a direction; infinite behind the last. */
static float gap(unsigned code, int direction)
{
	int nearest = 0;
	for (unsigned c = 0; c < 16; c++) {
		int away = direction * (st_mxfp4_values[c] - st_mxfp4_values[code]);
		nearest = away > 0 && (!nearest || away < nearest) ? away : nearest;
	}
	return nearest ? (float)nearest : INFINITY;
}

/* A power of two is chosen, not rounded: a code stands for what lies between its neighbours. */
static void elements_of(const struct st_block_mxfp4 *b, const struct st_elements *e, uint64_t at)
{
	float d = st_e8m0_half(b->e);
	for (unsigned i = 0; i < ST_QK; i++) {
		unsigned c = b->qs[i % 16] >> (i < 16 ? 0 : 4) & 15u;
		e->below[at + i] = d * gap(c, -1);
		e->above[at + i] = d * gap(c, 1);
		e->rounding[at + i] = 0;
	}
}

/* Codes of a block two by two, exponents in a tensor of their own: put together as the block that they are. */
void st_mxfp4_row(const struct st_apart *a, uint64_t r, const struct st_elements *e)
{
	const uint8_t *codes = a->codes->data + r * (a->cols / 2), *exponents = a->scales->data + r * (a->cols / ST_QK);
	for (uint64_t k = 0; k < a->cols / ST_QK; k++) {
		struct st_block_mxfp4 b = { .e = exponents[k] };
		for (unsigned i = 0; i < ST_QK; i++) {
			unsigned code = codes[k * ST_QK / 2 + i / 2] >> 4 * (i % 2) & 15;
			b.qs[i % 16] |= (uint8_t)(code << 4 * (i / 16));
		}
		struct st_elements here = { .value = e->value + k * ST_QK };
		st_decode_mxfp4(&b, here.value, ST_QK);
		if (e->below)
			elements_of(&b, e, k * ST_QK);
	}
}
