/* elements.c - what each stored number stands for: its neighbours, and the rounding of its block's factors. */
#include "dtype/layouts.h"

#include "base/levels.h"
#include "base/mem.h"
#include "dtype/apart.h"
#include "dtype/blocks.h"
#include "dtype/codec.h"
#include "dtype/half.h"
#include "dtype/iq.h"

#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Half of the distance between neighbours of a factor. */
static float half_unit(enum st_factor f, float v)
{
	if (f == ST_FACTOR_F16) {
		/* |v| in [2^e, 2^(e + 1)) has the unit 2^(e - 10), at least 2^-24. */
		int e = (int)(st_f32_bits(v) >> 23 & 255) - 127;
		return st_bits_f32((uint32_t)((e > -14 ? e : -14) - 11 + 127) << 23);
	}
	return f == ST_FACTOR_F32 ? fabsf(v) * 0x1p-24f : 0; /* a power of two is chosen, not rounded */
}

/* Elements of one step, which is not zero; their codes are evenly spaced. With a negative step they run downwards. */
ST_LEVELS static void even_codes(const struct st_geometry *g, const int16_t *restrict code, bool down, float size,
                                 float fixed, float unit, const struct st_elements *e)
{
	float *restrict lower = down ? e->above : e->below, *restrict upper = down ? e->below : e->above;
	float *restrict rounding = e->rounding;
	int lowest = g->lowest, highest = g->highest, bias = g->bias;
	for (unsigned i = 0, n = g->sub; i < n; i++) {
		int c = code[i];
		lower[i] = c <= lowest ? INFINITY : size;
		upper[i] = c >= highest ? INFINITY : size;
		rounding[i] = fixed + unit * (fabsf((float)(c - bias)) + 0.5f);
	}
}

static void table_codes(const struct st_geometry *g, const int16_t *code, bool down, float size, float fixed,
                        float unit, const struct st_elements *e)
{
	float below[16], above[16], rounding[16];
	const struct st_levels *l = g->levels;
	for (unsigned c = 0; c < 16; c++) {
		float lower = l->below[c] ? size * l->below[c] : INFINITY;
		float upper = l->above[c] ? size * l->above[c] : INFINITY;
		below[c] = down ? upper : lower;
		above[c] = down ? lower : upper;
		unsigned gap = l->below[c] > l->above[c] ? l->below[c] : l->above[c];
		rounding[c] = fixed + unit * (fabsf((float)l->level[c]) + 0.5f * (float)gap);
	}
	for (unsigned i = 0; i < g->sub; i++) {
		unsigned c = (unsigned)code[i] & 15;
		e->below[i] = below[c];
		e->above[i] = above[c];
		e->rounding[i] = rounding[c];
	}
}

/*
 * How large a number may have been whose step was rounded to zero, by f16 or as the integer of its sub-block
 * (docs/floors.md, "Cells").
 *
 * An encoder of super-blocks finds a scale for every sub-block, then the factor d that suits these scales, then the
 * nearest integers. With importances the fit may double d, so a scale of up to d can have become 0.
 *
 * A scale is a fit, too. Without a minimum it is a weighted mean of number / code. A code of 1 stands for half of a
 * step or more, so the largest number of the sub-block is at most (levels + 0.9) / 0.5 scales. With a minimum it is a
 * slope, which two important elements can make as small as they like. Nothing bounds that; 3.3 of LOST_WITH_SLOPE was
 * seen.
 */
#define LOST_WITH_SLOPE 8

static float lost_with_step(const struct st_geometry *g, const struct st_block_parts *p)
{
	float levels = (float)st_geometry_largest_level(g);
	float least = half_unit(g->factor, 0) * (float)g->scale_top;
	if (g->n_sub == 1)
		return least * levels;
	float scale = p->d == 0 ? least : fabsf(p->d);
	return g->min.bits ? LOST_WITH_SLOPE * (0.5f * scale * levels + 0.5f * fabsf(p->m))
	                   : scale * (levels + 0.9f) / 0.5f;
}

/*
 * Whether nothing is known of a sub-block whose scale is 0, in a type with a table of uneven levels. Its smallest level
 * is 1 and stands for numbers up to 7, so a mean of number / level bounds nothing. An encoder chooses the codes after
 * the scale: under a scale of 0 all of them are the one nearest to zero.
 */
static bool is_unknown(const struct st_geometry *g, const struct st_block_parts *p, const int16_t *code)
{
	bool others = false;
	for (unsigned j = 0; j < g->n_sub; j++)
		others |= p->scale[j] != 0;
	if (!g->levels || p->d == 0 || !others)
		return false;
	for (unsigned i = 0; i < g->sub; i++)
		if (abs(g->levels->level[code[i] & 15]) != 1)
			return false;
	return true;
}

static void sub_block(const struct st_geometry *g, const struct st_block_parts *p, unsigned j,
                      const struct st_elements *e)
{
	const int16_t *code = p->code + (size_t)j * g->sub;
	float step = g->scale.bits ? p->d * (float)p->scale[j] : p->d, size = fabsf(step);
	float unit_d = half_unit(g->factor, p->d) * fabsf((float)p->scale[j]);
	float fixed = g->m_at < 0 ? 0 : half_unit(g->factor, p->m) * (g->min.bits ? (float)p->min[j] : 1);
	if (size == 0) {
		float ends = is_unknown(g, p, code) ? INFINITY : 0, left = fixed + lost_with_step(g, p);
		for (unsigned i = 0; i < g->sub; i++) {
			e->below[i] = e->above[i] = ends;
			e->rounding[i] = left;
		}
		return;
	}
	(g->levels ? table_codes : even_codes)(g, code, step < 0, size, fixed, unit_d, e);
}

static struct st_elements moved(const struct st_elements *e, uint64_t by)
{
	return (struct st_elements){ e->value + by, e->below + by, e->above + by, e->rounding + by };
}

/*
 * Types whose codes choose a vector for several elements at once.
 *
 * steps: of each sub-block, what the table's magnitudes are multiplied by.
 * top:   the largest magnitude. An element that has it may have been clipped, so its cell has no outer end.
 * wide:  how many steps from an element its number may have been: the vector was chosen for all its elements together,
 *        and by importances. Where 7 signs of 8 are stored, the eighth may be wrong, which is twice the top.
 * most:  steps of the largest number, in units of the block's factor.
 */
static const struct vectors {
	enum st_dtype type;
	unsigned (*steps)(const void *block, float step[16]);
	float top, wide, most;
} vectors[] = {
	{ ST_DTYPE_IQ2_XXS, st_iq2_xxs_steps, 43, 86, 167 }, { ST_DTYPE_IQ2_XS, st_iq2_xs_steps, 43, 86, 167 },
	{ ST_DTYPE_IQ2_S, st_iq2_s_steps, 43, 43, 167 },     { ST_DTYPE_IQ3_XXS, st_iq3_xxs_steps, 62, 124, 481 },
	{ ST_DTYPE_IQ3_S, st_iq3_s_steps, 15, 15, 465 },     { ST_DTYPE_IQ1_S, st_iq1_s_steps, 0.875f, 2, 17 },
	{ ST_DTYPE_IQ1_M, st_iq1_m_steps, 0.875f, 2, 17 },
};

static void vector_elements(const struct vectors *v, const uint8_t *block, unsigned n, const struct st_elements *e)
{
	float step[16];
	unsigned n_sub = v->steps(block, step), sub = n / n_sub;
	for (unsigned i = 0; i < n; i++) {
		float x = e->value[i], size = fabsf(step[i / sub]), wide = 2 * v->wide * size;
		bool end = fabsf(x) >= v->top * size;
		e->below[i] = end && x <= 0 ? INFINITY : wide;
		e->above[i] = end && x >= 0 ? INFINITY : wide;
		e->rounding[i] = size == 0 ? 0x1p-25f * v->most : fabsf(x) * 0x1p-11f;
	}
}

/* A digit is -1, 0 or 1 times the block's factor. */
static void ternary_elements(float d, unsigned n, const struct st_elements *e)
{
	float size = fabsf(d);
	for (unsigned i = 0; i < n; i++) {
		float x = e->value[i];
		e->below[i] = x < 0 ? INFINITY : size;
		e->above[i] = x > 0 ? INFINITY : size;
		e->rounding[i] = size == 0 ? 0x1p-25f : size * 0x1p-11f;
	}
}

/* E2M1 under a scale with 3 bits of fraction, whose smallest number that is not 0 is 2^-9. */
static void nvfp4_elements(const struct st_block_nvfp4 *b, const struct st_elements *e)
{
	const struct st_levels *l = st_dtype_geometry(ST_DTYPE_MXFP4)->levels;
	for (unsigned i = 0; i < 64; i++) {
		unsigned j = i / 16, byte = 8 * j + i % 8, code = b->qs[byte] >> (i % 16 < 8 ? 0 : 4) & 15u;
		float step = st_nvfp4_step(b->d[j]);
		e->below[i] = l->below[code] ? step * l->below[code] : INFINITY;
		e->above[i] = l->above[code] ? step * l->above[code] : INFINITY;
		e->rounding[i] = fmaxf(step * 0x1p-4f, 0x1p-11f) * fabsf((float)l->level[code]);
		if (step == 0) {
			e->below[i] = e->above[i] = 0;
			e->rounding[i] = 0x1p-11f * 12;
		}
	}
}

/* One block of a type without codes of its own; e->value is filled. */
static void block_of_vectors(enum st_dtype t, const uint8_t *block, const struct st_elements *e)
{
	for (size_t i = 0; i < sizeof vectors / sizeof *vectors; i++)
		if (vectors[i].type == t) {
			vector_elements(&vectors[i], block, ST_QKK, e);
			return;
		}
	if (t == ST_DTYPE_TQ1_0)
		ternary_elements(st_f16_to_f32(((const struct st_block_tq1_0 *)block)->d), ST_QKK, e);
	else if (t == ST_DTYPE_NVFP4)
		nvfp4_elements((const struct st_block_nvfp4 *)block, e);
}

/* Elements [first, first + n) of the block at src, to *e. */
static void block_elements(const struct st_tensor *t, const uint8_t *src, unsigned first, unsigned n,
                           const struct st_elements *e)
{
	const struct st_geometry *g = st_dtype_geometry(t->dtype);
	unsigned all = st_dtype_info(t->dtype)->block_elems;
	struct st_block_parts p;
	float part[4][ST_BLOCK_MOST];
	bool whole = n == all;
	struct st_elements to = whole ? *e : (struct st_elements){ part[0], part[1], part[2], part[3] };
	st_dtype_info(t->dtype)->decode(src, to.value, all);
	if (g->sub == 0)
		block_of_vectors(t->dtype, src, &to);
	else
		st_block_unpack(g, src, &p);
	for (unsigned j = 0; j < g->n_sub; j++) {
		struct st_elements sub = moved(&to, (uint64_t)j * g->sub);
		sub_block(g, &p, j, &sub);
	}
	if (whole)
		return;
	memcpy(e->value, to.value + first, n * sizeof(float));
	memcpy(e->below, to.below + first, n * sizeof(float));
	memcpy(e->above, to.above + first, n * sizeof(float));
	memcpy(e->rounding, to.rounding + first, n * sizeof(float));
}

/* Neighbours of floats follow from the values alone. */
ST_LEVELS static void float_elements(enum st_dtype t, uint64_t n, const struct st_elements *e)
{
	const float *restrict value = e->value;
	float *restrict below = e->below, *restrict above = e->above, *restrict rounding = e->rounding;
	const struct st_geometry *g = st_dtype_geometry(t);
	/* F64 is decoded to f32: what is known of it has f32's unit. */
	int fraction = g->fraction < 23 ? g->fraction : 23;
	int least = g->least_exponent > -126 ? g->least_exponent : -126;
	double largest = st_dtype_largest(t);
	if (isinf(largest))
		largest = FLT_MAX;
	/* Units of normal f32 size are bit patterns; those below are whole multiples of 2^-149. */
	float most = (float)largest, tiny = least - fraction < -126 ? st_bits_f32(1u << (least - fraction + 149)) : 0;
	for (uint64_t i = 0; i < n; i++) {
		float x = value[i], size = fabsf(x);
		uint32_t bits = st_f32_bits(size);
		int exponent = (int)(bits >> 23) - 127; /* -127 for zero and subnormals of f32 */
		bool power = (exponent > least) & ((bits & 0x7FFFFFu) == 0);
		exponent = exponent > least ? exponent : least;
		int place = exponent - fraction; /* the unit is 2^place */
		float unit = st_bits_f32((uint32_t)(place + 127) << 23);
		unit = place < -126 ? tiny * st_bits_f32((uint32_t)(exponent - least + 127) << 23) : unit;
		float inwards = power ? 0.5f * unit : unit, outwards = size >= most ? INFINITY : unit;
		below[i] = x > 0 ? inwards : outwards;
		above[i] = x < 0 ? inwards : outwards;
		rounding[i] = 0;
	}
}

/* int8 times one f32 of the tensor. */
static void tensor_step_elements(const struct st_tensor *t, uint64_t n, const struct st_elements *e)
{
	float size = fabsf(t->scale);
	for (uint64_t i = 0; i < n; i++) {
		float x = e->value[i];
		bool end = size == 0 || roundf(fabsf(x) / size) >= 127;
		e->below[i] = end && x < 0 ? INFINITY : size;
		e->above[i] = end && x > 0 ? INFINITY : size;
		e->rounding[i] = fabsf(x) * 0x1p-24f;
	}
}

/* A view that is multiplied as a whole: the steps are those of what is stored, times the factor. */
static void multiplied_elements(const struct st_tensor *t, uint64_t row, const struct st_elements *e)
{
	struct st_tensor stored = *t;
	float size = fabsf(t->scale);
	stored.scale = 1;
	st_tensor_elements(&stored, row, e);
	for (uint64_t i = 0; i < st_tensor_cols(t); i++) {
		float below = size * e->below[i], above = size * e->above[i];
		e->value[i] *= t->scale;
		e->below[i] = t->scale > 0 ? below : above;
		e->above[i] = t->scale > 0 ? above : below;
		e->rounding[i] = size * e->rounding[i] + fabsf(e->value[i]) * 0x1p-24f;
	}
}

void st_tensor_elements(const struct st_tensor *t, uint64_t row, const struct st_elements *e)
{
	const struct st_dtype_info *info = st_dtype_info(t->dtype);
	uint64_t cols = st_tensor_cols(t), be = info->block_elems;
	if (t->scale != 1 && t->dtype != ST_DTYPE_APR_Q8 && t->layout != ST_LAYOUT_APART) {
		multiplied_elements(t, row, e);
		return;
	}
	if (t->layout == ST_LAYOUT_APART) {
		st_apart_row(t->apart, row, e);
		return;
	}
	if (be == 1) {
		st_tensor_decode(t, row, 1, e->value);
		if (t->dtype == ST_DTYPE_APR_Q8) {
			tensor_step_elements(t, cols, e);
		} else if (info->kind == ST_KIND_FLOAT) {
			float_elements(t->dtype, cols, e);
		} else {
			for (uint64_t i = 0; i < cols; i++)
				e->below[i] = e->above[i] = e->rounding[i] = 0;
		}
		return;
	}
	/* Blocks of the row, or of the whole tensor, which a row may begin and end inside. */
	uint64_t first = t->layout == ST_LAYOUT_FLAT ? row * cols : 0;
	const uint8_t *src = t->layout == ST_LAYOUT_FLAT ? t->data : t->data + row * t->row_bytes;
	for (uint64_t at = 0; at < cols;) {
		uint64_t place = first + at, inside = place % be, n = be - inside < cols - at ? be - inside : cols - at;
		struct st_elements here = moved(e, at);
		block_elements(t, src + place / be * info->block_bytes, (unsigned)inside, (unsigned)n, &here);
		at += n;
	}
}

/* ---- questions about a type ---- */

double st_dtype_largest(enum st_dtype t)
{
	const struct st_geometry *g = st_dtype_geometry(t);
	switch (t) {
	case ST_DTYPE_F16:
		return 65504;
	case ST_DTYPE_BF16:
		return 0x1.FEp127;
	case ST_DTYPE_F8_E4M3:
		return 448;
	case ST_DTYPE_F8_E5M2:
		return 57344;
	default:
		break;
	}
	switch (g->factor) {
	case ST_FACTOR_F16:
		return 65504.0 * g->scale_top * st_geometry_largest_level(g);
	case ST_FACTOR_E8M0:
		return 0x1p127 * st_geometry_largest_level(g);
	default:
		return INFINITY;
	}
}

bool st_dtype_has_nibbles(enum st_dtype t)
{
	const struct st_geometry *g = st_dtype_geometry(t);
	/* Q6_K keeps the lower four bits of its codes in nibbles as well, but with two bits missing no order of them is
	 * a layout that anybody writes. */
	return g->code.bits == 4 && g->code_high.bits <= 1;
}

void st_block_reorder(enum st_dtype t, uint8_t *block, enum st_code_order order)
{
	st_layout_reorder(st_dtype_geometry(t), block, order);
}
