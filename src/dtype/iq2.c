/*
 * iq2.c - IQ2_XXS, IQ2_XS and IQ2_S: vectors of 8 magnitudes out of a table, with signs. Decoders only.
 *
 * The two smaller types store 7 signs of 8; the eighth is such that an even number is negative.
 */
#include "dtype/codec.h"

#include "dtype/blocks.h"
#include "dtype/half.h"
#include "dtype/iq.h"

#include <string.h>

static const float magnitudes[4] = { 8, 25, 43, 0 };

static uint8_t even_signs(unsigned seven) { return (uint8_t)(seven | (unsigned)(__builtin_popcount(seven) & 1) << 7); }

/* 8 elements: levels of 2 bits, bit i of `signs` for element i. */
static void put_eight(float step, uint16_t vector, uint8_t signs, float *y)
{
	for (unsigned i = 0; i < 8; i++) {
		float v = step * magnitudes[vector >> (2 * i) & 3];
		y[i] = signs >> i & 1 ? -v : v;
	}
}

/* 4 bits of a scale: odd multiples of an eighth. */
static float step_of(float d, unsigned scale) { return d * (0.5f + (float)scale) * 0.25f; }

/* Of 32 elements: four indices of 8 bits, then 4 x 7 signs and the scale in 32 bits. */
unsigned st_iq2_xxs_steps(const void *block, float step[16])
{
	const struct st_block_iq2_xxs *b = block;
	for (unsigned j = 0; j < 8; j++)
		step[j] = step_of(st_f16_to_f32(b->d), b->qs[8 * j + 7] >> 4);
	return 8;
}

void st_decode_iq2_xxs(const void *src, float *dst, size_t n)
{
	const struct st_block_iq2_xxs *b = src;
	for (const float *end = dst + n; dst < end; b++) {
		float step[16];
		st_iq2_xxs_steps(b, step);
		for (unsigned j = 0; j < 8; j++) {
			uint32_t rest;
			memcpy(&rest, b->qs + 8 * j + 4, 4);
			for (unsigned l = 0; l < 4; l++, dst += 8)
				put_eight(step[j], st_iq2_xxs_grid[b->qs[8 * j + l]], even_signs(rest >> (7 * l) & 127),
				          dst);
		}
	}
}

/* 9 bits of index and 7 signs in 16 bits; a scale of 4 bits for 16 elements. */
unsigned st_iq2_xs_steps(const void *block, float step[16])
{
	const struct st_block_iq2_xs *b = block;
	for (unsigned j = 0; j < 16; j++)
		step[j] = step_of(st_f16_to_f32(b->d), b->scales[j / 2] >> (4 * (j % 2)) & 15u);
	return 16;
}

void st_decode_iq2_xs(const void *src, float *dst, size_t n)
{
	const struct st_block_iq2_xs *b = src;
	for (const float *end = dst + n; dst < end; b++) {
		float step[16];
		st_iq2_xs_steps(b, step);
		for (unsigned l = 0; l < 32; l++, dst += 8)
			put_eight(step[l / 2], st_iq2_xs_grid[b->qs[l] & 511], even_signs(b->qs[l] >> 9), dst);
	}
}

/* 10 bits of index: 8, and 2 more in qh; 8 signs of their own. */
unsigned st_iq2_s_steps(const void *block, float step[16])
{
	const struct st_block_iq2_s *b = block;
	for (unsigned j = 0; j < 16; j++)
		step[j] = step_of(st_f16_to_f32(b->d), b->scales[j / 2] >> (4 * (j % 2)) & 15u);
	return 16;
}

void st_decode_iq2_s(const void *src, float *dst, size_t n)
{
	const struct st_block_iq2_s *b = src;
	for (const float *end = dst + n; dst < end; b++) {
		float step[16];
		st_iq2_s_steps(b, step);
		for (unsigned l = 0; l < 32; l++, dst += 8) {
			unsigned high = b->qh[l / 4] >> (2 * (l % 4)) & 3u;
			put_eight(step[l / 2], st_iq2_s_grid[b->qs[l] | high << 8], b->signs[l], dst);
		}
	}
}
