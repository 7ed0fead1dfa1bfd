/*
 * apart.h - matrices of other programs whose codes and factors lie in several tensors.
 *
 * A reader (format/packed.c) has proved that every part has the shape that the method asks for, so that rows can be
 * decoded without looking again. One file per program: gptq.c (GPTQ, AWQ), mlx.c (MLX, compressed-tensors),
 * bitsandbytes.c, scaled.c (FP8 and int8 under factors), mxfp4.c (gpt-oss).
 */
#ifndef ST_DTYPE_APART_H
#define ST_DTYPE_APART_H

#include "dtype/geometry.h"

struct st_apart {
	enum st_dtype method;
	uint64_t rows, cols;
	uint64_t first, step; /* of a view of some rows: row r is row first + r step of the parts; step 0: all of them */
	unsigned bits;       /* of a code */
	uint64_t group;      /* columns, or elements, that share a factor; of scaled.c: columns of a block */
	uint64_t group_rows; /* of scaled.c: rows of a block */
	const struct st_tensor *codes, *scales; /* each part: plain, ST_LAYOUT_ROWS */
	const struct st_tensor *zeros;          /* codes of zero, or what is added; or NULL: the middle code is 0 */
	const struct st_tensor *order;          /* the group of each column, or NULL */
	bool zeros_less_one;                    /* GPTQ before its second format stores the code of zero less 1 */
	const struct st_tensor *map;            /* bitsandbytes: the value of each code */
	const struct st_tensor *nested, *nested_map; /* the scales are codes themselves: factors and values of these */
	uint64_t nested_group;
	float nested_offset; /* of scaled.c: what the factors are divided by; 0: nothing */
};

/*
 * How many steps a weight may be from its number (docs/floors.md, "Packed by other programs"): GPTQ's cells reach as far
 * on either side. It rounds one column after the other and adds each one's error to the columns that follow, so a code
 * is not the nearest one to the weight. Up to 4.6 steps were seen, in matrices of 512 inputs under white, correlated and
 * uneven activations (three channels 50 times the others).
 */
#define ST_GPTQ_STEPS 6

/* Row r: the values, and unless e->below is NULL what they stand for. */
void st_apart_row(const struct st_apart *a, uint64_t r, const struct st_elements *e);

void st_gptq_row(const struct st_apart *a, uint64_t r, const struct st_elements *e);
void st_awq_row(const struct st_apart *a, uint64_t r, const struct st_elements *e);
void st_mlx_row(const struct st_apart *a, uint64_t r, const struct st_elements *e);
void st_ct_pack_row(const struct st_apart *a, uint64_t r, const struct st_elements *e);
void st_bnb4_row(const struct st_apart *a, uint64_t r, const struct st_elements *e);
void st_mxfp4_row(const struct st_apart *a, uint64_t r, const struct st_elements *e);
void st_scaled_row(const struct st_apart *a, uint64_t r, const struct st_elements *e);

/* ---- for these ---- */

/* Element i of a plain tensor. */
float st_apart_number(const struct st_tensor *t, uint64_t i);
/* Half of the distance from v to its neighbours in the tensor's type. */
float st_apart_half_unit(const struct st_tensor *t, float v);
/* Number i of `bits` bits that lie one behind the other, lowest first. */
unsigned st_apart_code(const uint8_t *p, uint64_t i, unsigned bits);

/* Element k is `code` of 0..highest, its number `value` on an even grid of `step`; rounding: of its factors. */
static inline void st_apart_put(const struct st_elements *e, uint64_t k, float value, int code, int highest, float step,
                                float rounding)
{
	e->value[k] = value;
	if (!e->below)
		return;
	float size = step < 0 ? -step : step, low = code <= 0 ? __builtin_inff() : size,
	      high = code >= highest ? __builtin_inff() : size;
	e->below[k] = size == 0 ? 0 : step < 0 ? high : low;
	e->above[k] = size == 0 ? 0 : step < 0 ? low : high;
	e->rounding[k] = rounding;
}

#endif
