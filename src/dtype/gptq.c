/*
 * gptq.c - GPTQ and AWQ: codes in 32-bit words, one row of factors for each group of inputs.
 *
 * Both store the transpose, [in, out]:
 *
 *	qweight  GPTQ: [in * bits / 32, out], codes of 2, 3, 4 or 8 bits packed down a column
 *	         AWQ:  [in, out / 8], eight outputs in a word, in the order 0 2 4 6 1 3 5 7
 *	scales   [groups, out], floats
 *	qzeros   [groups, out * bits / 32], packed along the outputs, AWQ's in its order
 *
 * number = scale * (code - zero).
 */
#include "dtype/apart.h"

#include "base/cursor.h"

struct factors {
	float scale, half_unit;
	int zero;
};

/* Code number i of a column of words that are `stride` words apart. */
static unsigned column_code(const uint8_t *words, uint64_t stride, uint64_t i, unsigned bits)
{
	uint64_t bit = i * bits, w = bit / 32;
	unsigned at = (unsigned)(bit % 32);
	uint32_t v = st_load_u32(words + w * stride * 4) >> at;
	if (at + bits > 32)
		v |= st_load_u32(words + (w + 1) * stride * 4) << (32 - at);
	return v & ((1u << bits) - 1);
}

static struct factors factors_of(const struct st_apart *a, uint64_t group, uint64_t r, int zero,
                                 const struct st_elements *e)
{
	float s = st_apart_number(a->scales, group * a->rows + r);
	return (struct factors){ s, e->below ? st_apart_half_unit(a->scales, s) : 0, zero };
}

static void put(const struct st_elements *e, uint64_t k, const struct factors *f, int code, int highest)
{
	int level = code - f->zero;
	st_apart_put(e, k, f->scale * (float)level, code, highest, f->scale,
	             f->half_unit * (float)(level < 0 ? -level : level));
}

void st_gptq_row(const struct st_apart *a, uint64_t r, const struct st_elements *e)
{
	struct factors f = { 0 };
	uint64_t last = UINT64_MAX, zero_bytes = (a->rows * a->bits + 31) / 32 * 4;
	int highest = (1 << a->bits) - 1;
	for (uint64_t k = 0; k < a->cols; k++) {
		uint64_t g = a->order ? st_load_u32(a->order->data + 4 * k) : k / a->group;
		if (g != last) {
			int zero = (int)st_apart_code(a->zeros->data + g * zero_bytes, r, a->bits);
			if (a->zeros_less_one)
				zero = (zero + 1) & highest;
			f = factors_of(a, g, r, zero, e);
			last = g;
		}
		put(e, k, &f, (int)column_code(a->codes->data + 4 * r, a->rows, k, a->bits), highest);
		if (e->below && e->below[k] > 0) {
			e->below[k] *= 2 * ST_GPTQ_STEPS;
			e->above[k] *= 2 * ST_GPTQ_STEPS;
		}
	}
}

/* Which nibble of a word holds output 0, 1, ... of its eight. */
static const unsigned awq_nibble[8] = { 0, 4, 1, 5, 2, 6, 3, 7 };

void st_awq_row(const struct st_apart *a, uint64_t r, const struct st_elements *e)
{
	struct factors f = { 0 };
	uint64_t words = a->rows / 8, last = UINT64_MAX;
	unsigned shift = 4 * awq_nibble[r % 8];
	for (uint64_t k = 0; k < a->cols; k++) {
		uint64_t g = k / a->group;
		if (g != last) {
			int zero = (int)(st_load_u32(a->zeros->data + 4 * (g * words + r / 8)) >> shift & 15);
			f = factors_of(a, g, r, zero, e);
			last = g;
		}
		put(e, k, &f, (int)(st_load_u32(a->codes->data + 4 * (k * words + r / 8)) >> shift & 15), 15);
	}
}
