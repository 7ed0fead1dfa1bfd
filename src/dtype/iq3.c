/* iq3.c - IQ3_XXS and IQ3_S: vectors of 4 magnitudes out of a table, with signs. Decoders only. */
#include "dtype/codec.h"

#include "dtype/blocks.h"
#include "dtype/half.h"
#include "dtype/iq.h"

#include <string.h>

/* 4 elements: levels of 3 bits; bit i of `signs` for element i. */
static void put_four(float step, const uint8_t magnitudes[8], uint16_t vector, unsigned signs, float *y)
{
	for (unsigned i = 0; i < 4; i++) {
		float v = step * (float)magnitudes[vector >> (3 * i) & 7];
		y[i] = signs >> i & 1 ? -v : v;
	}
}

/* Of 32 elements: eight indices among qs, and behind them all 4 x 7 signs and a scale in 32 bits. */
unsigned st_iq3_xxs_steps(const void *block, float step[16])
{
	const struct st_block_iq3_xxs *b = block;
	for (unsigned j = 0; j < 8; j++)
		step[j] = st_f16_to_f32(b->d) * (0.5f + (float)(b->signs[4 * j + 3] >> 4)) * 0.5f;
	return 8;
}

void st_decode_iq3_xxs(const void *src, float *dst, size_t n)
{
	static const uint8_t magnitudes[8] = { 4, 12, 20, 28, 36, 44, 52, 62 };
	const struct st_block_iq3_xxs *b = src;
	for (const float *end = dst + n; dst < end; b++) {
		float step[16];
		st_iq3_xxs_steps(b, step);
		for (unsigned j = 0; j < 8; j++) {
			uint32_t rest;
			memcpy(&rest, b->signs + 4 * j, 4);
			for (unsigned l = 0; l < 8; l++, dst += 4) {
				/* The eighth sign makes the number of negative ones even. */
				unsigned seven = rest >> (7 * (l / 2)) & 127;
				unsigned eight = seven | (unsigned)(__builtin_popcount(seven) & 1) << 7;
				put_four(step[j], magnitudes, st_iq3_xxs_grid[b->qs[8 * j + l]], eight >> (4 * (l % 2)),
				         dst);
			}
		}
	}
}

unsigned st_iq3_s_steps(const void *block, float step[16])
{
	const struct st_block_iq3_s *b = block;
	for (unsigned j = 0; j < 8; j++)
		step[j] = st_f16_to_f32(b->d) * (float)(1 + 2 * (b->scales[j / 2] >> (4 * (j % 2)) & 15));
	return 8;
}

void st_decode_iq3_s(const void *src, float *dst, size_t n)
{
	static const uint8_t magnitudes[8] = { 1, 3, 5, 7, 9, 11, 13, 15 };
	const struct st_block_iq3_s *b = src;
	for (const float *end = dst + n; dst < end; b++) {
		float step[16];
		st_iq3_s_steps(b, step);
		for (unsigned l = 0; l < 64; l++, dst += 4) {
			unsigned high = b->qh[l / 8] >> (l % 8) & 1u;
			put_four(step[l / 8], magnitudes, st_iq3_s_grid[b->qs[l] | high << 8],
			         (unsigned)b->signs[l / 2] >> (4 * (l % 2)), dst);
		}
	}
}
