/*
 * scaled.c - FP8 and int8 under factors that lie beside them: of the matrix, of each row, or of blocks (128 x 128).
 */
#include "dtype/apart.h"

#include <math.h>

/* Distances to the next 8-bit floats, by sign and magnitude. */
static void neighbours(const struct st_dtype_info *info, uint8_t code, float *below, float *above)
{
	uint8_t sign = code & 0x80, size = code & 0x7F, next = (uint8_t)(sign | (size + 1)),
		back = size ? (uint8_t)(code - 1) : (uint8_t)((sign ^ 0x80) | 1);
	float x, out, in;
	info->decode(&code, &x, 1);
	info->decode(&next, &out, 1);
	info->decode(&back, &in, 1);
	float outwards = size < 0x7F && isfinite(out) ? fabsf(out - x) : INFINITY, inwards = fabsf(x - in);
	*below = sign ? outwards : inwards;
	*above = sign ? inwards : outwards;
}

void st_scaled_row(const struct st_apart *a, uint64_t r, const struct st_elements *e)
{
	const struct st_dtype_info *info = st_dtype_info(a->codes->dtype);
	uint64_t per_row = (a->cols + a->group - 1) / a->group;
	const uint8_t *src = a->codes->data + r * a->codes->row_bytes;
	const bool ints = info->kind == ST_KIND_INT;
	info->decode(src, e->value, (size_t)a->cols);
	for (uint64_t k = 0; k < a->cols; k++) {
		uint64_t i = r / a->group_rows * per_row + k / a->group;
		/* bitsandbytes stores the largest magnitude, which is code 127. */
		float scale = st_apart_number(a->scales, i), unit = st_apart_half_unit(a->scales, scale),
		      level = e->value[k];
		if (a->nested_offset != 0) {
			scale /= a->nested_offset;
			unit /= a->nested_offset;
		}
		e->value[k] = level * scale;
		if (!e->below)
			continue;
		float size = fabsf(scale);
		if (ints) {
			e->below[k] = level <= -127 ? INFINITY : 1;
			e->above[k] = level >= 127 ? INFINITY : 1;
		} else {
			neighbours(info, src[k], &e->below[k], &e->above[k]);
		}
		float below = scale < 0 ? e->above[k] : e->below[k], above = scale < 0 ? e->below[k] : e->above[k];
		e->below[k] = size == 0 ? 0 : below * size;
		e->above[k] = size == 0 ? 0 : above * size;
		e->rounding[k] = unit * fabsf(level);
	}
}
