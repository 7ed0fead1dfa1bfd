/*
 * legacy_weighted.c - blocks of 32 elements by importances: a search for the step (and minimum) that loses least.
 *
 * The numbers are coded under the step as it is stored, so every code is the nearest one. Q8_0 has no such encoder,
 * since its steps are so small that importances have little to save.
 */
#include "dtype/codec.h"

#include "dtype/blocks.h"
#include "dtype/half.h"
#include "dtype/layouts.h"
#include "dtype/search.h"

/* Importance times size, since large numbers of a column carry more; all alike where nothing is important. */
static void weigh(const float *x, const float *importance, float w[ST_QK])
{
	float rms = st_rms(x, ST_QK), sum = 0;
	for (unsigned i = 0; i < ST_QK; i++) {
		w[i] = importance[i] * sqrtf(rms * rms + x[i] * x[i]);
		sum += w[i];
	}
	for (unsigned i = 0; !(sum > 0) && i < ST_QK; i++)
		w[i] = rms + fabsf(x[i]);
}

ST_SEARCH void encode_block(const struct st_geometry *g, const float *x, const float *importance, int top, bool offset,
                            uint8_t *block)
{
	struct st_block_parts p = { .scale = { 1 } };
	float w[ST_QK], min = 0;
	struct st_trials trials = { .start = -0.9f, .delta = 0.05f, .trials = 37 };
	weigh(x, importance, w);
	float step = offset ? st_fit_affine(x, w, ST_QK, top, trials, false, &min)
	                    : st_fit_symmetric(x, w, ST_QK, (top + 1) / 2);
	p.d = st_f16_to_f32(st_f32_to_f16(step));
	p.m = st_f16_to_f32(st_f32_to_f16(-min));
	for (unsigned i = 0; i < ST_QK; i++)
		p.code[i] = (int16_t)(p.d == 0 ? g->bias
		                               : (int)st_to_code((x[i] - p.m) / p.d + (float)g->bias, 0, (float)top));
	st_block_pack(g, &p, block);
}

#define ENCODER(type, top, offset)                                                                \
	ST_WEIGHTED_ENCODER(type)                                                                 \
	{                                                                                         \
		uint8_t *b = dst;                                                                 \
		for (size_t i = 0; i < n; i += ST_QK, b += sizeof(struct st_block_##type))        \
			encode_block(&st_layout_##type, src + i, importance + i, top, offset, b); \
	}

ENCODER(q4_0, 15, false)
ENCODER(q4_1, 15, true)
ENCODER(q5_0, 31, false)
ENCODER(q5_1, 31, true)
