/*
 * mlx.c - MLX's affine types and compressed-tensors' packed ones: codes packed along a row, factors for each group.
 *
 * MLX: weight of 32-bit words [out, in * bits / 32], codes one behind the other; number = scale * code + bias.
 * compressed-tensors: weight_packed [out, ceil(in / n)] with n = 32 / bits codes to a word, each with half of the range
 * added; number = scale * (code - zero), zero 0 or packed in the same way down the outputs.
 */
#include "dtype/apart.h"

#include "base/cursor.h"

#include <math.h>

void st_mlx_row(const struct st_apart *a, uint64_t r, const struct st_elements *e)
{
	uint64_t groups = a->cols / a->group;
	const uint8_t *codes = a->codes->data + r * a->codes->row_bytes;
	int highest = (1 << a->bits) - 1;
	for (uint64_t g = 0; g < groups; g++) {
		float scale = st_apart_number(a->scales, r * groups + g),
		      bias = st_apart_number(a->zeros, r * groups + g);
		float unit = e->below ? st_apart_half_unit(a->scales, scale) : 0,
		      fixed = e->below ? st_apart_half_unit(a->zeros, bias) : 0;
		for (uint64_t k = g * a->group; k < (g + 1) * a->group; k++) {
			int code = (int)st_apart_code(codes, k, a->bits);
			st_apart_put(e, k, scale * (float)code + bias, code, highest, scale,
			             unit * (float)code + fixed);
		}
	}
}

/* Code i of words that hold 32 / bits codes each, `stride` words apart. */
static int word_code(const uint8_t *words, uint64_t stride, uint64_t i, unsigned bits)
{
	uint64_t n = 32 / bits;
	return (int)(st_load_u32(words + i / n * stride * 4) >> (i % n * bits) & ((1u << bits) - 1));
}

void st_ct_pack_row(const struct st_apart *a, uint64_t r, const struct st_elements *e)
{
	const uint8_t *codes = a->codes->data + r * a->codes->row_bytes;
	uint64_t per_row = a->scales->ndim ? a->scales->shape[a->scales->ndim - 1] : 1, n_scales = a->scales->n_elems,
		 last = UINT64_MAX;
	int middle = 1 << (a->bits - 1), zero = middle;
	float scale = 0, unit = 0;
	for (uint64_t k = 0; k < a->cols; k++) {
		uint64_t g = a->order ? st_load_u32(a->order->data + 4 * k) : k / a->group;
		if (g != last) {
			scale = st_apart_number(a->scales, n_scales == 1 ? 0 : r * per_row + g);
			unit = e->below ? st_apart_half_unit(a->scales, scale) : 0;
			if (a->zeros)
				zero = word_code(a->zeros->data + 4 * g, per_row, r, a->bits);
			last = g;
		}
		int code = word_code(codes, 1, k, a->bits), level = code - zero;
		/* The code is number / scale + zero, added up in the type of the scale. */
		float sum = a->zeros && e->below ? scale * st_apart_half_unit(a->scales, (float)(code - middle)) : 0;
		st_apart_put(e, k, scale * (float)level, code, 2 * middle - 1, scale,
		             unit * (float)(level < 0 ? -level : level) + sum);
	}
}
