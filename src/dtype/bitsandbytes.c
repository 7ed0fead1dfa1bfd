/*
 * bitsandbytes.c - its 4-bit types: codes of a table under the largest magnitude of each block.
 *
 * Two codes to a byte, the first in the upper half, running over the whole matrix; blocks run over it as well. number =
 * map[code] * absmax[block]. absmax may be stored in 8 bits: nested_map[code] * nested_absmax[block of blocks] + an
 * offset; then it was rounded after the codes had been chosen.
 */
#include "dtype/apart.h"

#include <math.h>

enum { CODES = 16 };

struct level {
	float value, below, above; /* distance to the next ones; INFINITY: there is none */
};

/* The table in order of the codes; the values of FP4 are not sorted. */
static void read_map(const struct st_tensor *map, struct level *l)
{
	for (unsigned i = 0; i < CODES; i++)
		l[i] = (struct level){ st_apart_number(map, i), INFINITY, INFINITY };
	for (unsigned i = 0; i < CODES; i++)
		for (unsigned k = 0; k < CODES; k++) {
			float d = l[k].value - l[i].value;
			if (d > 0)
				l[i].above = fminf(l[i].above, d);
			if (d < 0)
				l[i].below = fminf(l[i].below, -d);
		}
}

/* The largest magnitude of a block, and how far its own rounding may have moved it. */
static float block_scale(const struct st_apart *a, uint64_t block, float *moved)
{
	*moved = 0;
	if (!a->nested) {
		float s = st_apart_number(a->scales, block);
		*moved = st_apart_half_unit(a->scales, s);
		return s;
	}
	unsigned code = a->scales->data[block];
	float by = st_apart_number(a->nested, block / a->nested_group), v = st_apart_number(a->nested_map, code);
	float gap = 0;
	for (int d = -1; d <= 1; d += 2)
		if ((int)code + d >= 0 && code + (unsigned)d < a->nested_map->n_elems)
			gap = fmaxf(gap, fabsf(st_apart_number(a->nested_map, code + (unsigned)d) - v));
	*moved = 0.5f * gap * fabsf(by);
	return v * by + a->nested_offset;
}

void st_bnb4_row(const struct st_apart *a, uint64_t r, const struct st_elements *e)
{
	struct level l[CODES];
	uint64_t last = UINT64_MAX;
	float scale = 0, moved = 0;
	read_map(a->map, l);
	for (uint64_t k = 0; k < a->cols; k++) {
		uint64_t i = r * a->cols + k, block = i / a->group;
		if (block != last) {
			scale = block_scale(a, block, &moved);
			last = block;
		}
		const struct level *x = &l[a->codes->data[i / 2] >> (i % 2 ? 0 : 4) & 15];
		e->value[k] = x->value * scale;
		if (!e->below)
			continue;
		e->below[k] = scale == 0 ? 0 : x->below * fabsf(scale);
		e->above[k] = scale == 0 ? 0 : x->above * fabsf(scale);
		/* The code was chosen under the scale as it was: the end of its cell lay at that times value and half a
		 * gap. */
		float half = 0.5f * fmaxf(isinf(x->below) ? 0 : x->below, isinf(x->above) ? 0 : x->above);
		e->rounding[k] = moved * (scale == 0 ? 1 : fabsf(x->value) + half);
	}
}
