/*
 * scaled.c - FP8 and int8 under factors that lie beside them: of the matrix, of each row, or of blocks (128 x 128).
 */
#include "dtype/apart.h"

#include <math.h>

void st_scaled_row(const struct st_apart *a, uint64_t r, const struct st_elements *e)
{
	const struct st_dtype_info *info = st_dtype_info(a->codes->dtype);
	uint64_t per_row = (a->cols + a->group - 1) / a->group;
	const uint8_t *src = a->codes->data + r * a->codes->row_bytes;
	const bool ints = info->kind == ST_KIND_INT;
	/* The row as it is stored; its neighbours are in the units of the codes. */
	info->decode(src, e->value, (size_t)a->cols);
	if (e->below && !ints) {
		struct st_tensor row = *a->codes;
		st_tensor_elements(&row, r, e);
	}
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
		}
		float below = scale < 0 ? e->above[k] : e->below[k], above = scale < 0 ? e->below[k] : e->above[k];
		e->below[k] = size == 0 ? 0 : below * size;
		e->above[k] = size == 0 ? 0 : above * size;
		e->rounding[k] = unit * fabsf(level);
	}
}
