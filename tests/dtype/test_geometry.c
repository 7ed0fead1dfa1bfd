/*
 * test_geometry.c - blocks taken apart by their descriptors, and the neighbours of stored numbers.
 *
 * The decoders were written apart from the descriptors, so they are the oracle: a block taken apart gives the numbers
 * that its decoder gives, and the neighbours of a number are those that the decoder gives for other codes.
 */
#include "support.h"

#include "base/cursor.h"
#include "dtype/geometry.h"
#include "dtype/half.h"

#include <float.h>

/* Random bytes, with factors that are ordinary numbers of either sign. */
static void random_block(struct st_xoshiro *r, enum st_dtype t, uint8_t *p)
{
	const struct st_geometry *g = st_dtype_geometry(t);
	for (uint32_t i = 0; i < st_dtype_info(t)->block_bytes; i++)
		p[i] = (uint8_t)st_xoshiro_next(r);
	const int at[2] = { g->d_at, g->m_at };
	for (int k = 0; k < 2; k++) {
		float f = normal(r);
		uint16_t h = st_f32_to_f16(f);
		if (at[k] < 0)
			continue;
		if (g->factor == ST_FACTOR_F16)
			memcpy(p + at[k], &h, 2);
		else if (g->factor == ST_FACTOR_F32)
			memcpy(p + at[k], &f, 4);
		else
			p[at[k]] = (uint8_t)(120 + p[at[k]] % 16);
	}
}

static void parts_give_what_the_decoder_gives(void **state)
{
	(void)state;
	struct st_xoshiro r;
	st_xoshiro_seed(&r, 11);
	for (int t = 0; t < ST_DTYPE_COUNT; t++) {
		const struct st_dtype_info *info = st_dtype_info((enum st_dtype)t);
		const struct st_geometry *g = st_dtype_geometry((enum st_dtype)t);
		if (g->sub == 0) {
			/* Plain types, and blocks of which no bits belong to one element. */
			assert_true(info->block_elems == 1 || !info->encode);
			continue;
		}
		assert_int_equal(g->sub * g->n_sub, info->block_elems);
		assert_true(info->block_elems <= ST_BLOCK_MOST && info->block_bytes <= ST_BLOCK_BYTES_MOST);
		for (int k = 0; k < 200; k++) {
			uint8_t block[ST_BLOCK_BYTES_MOST], again[ST_BLOCK_BYTES_MOST];
			float want[ST_BLOCK_MOST], got[ST_BLOCK_MOST];
			struct st_block_parts p;
			random_block(&r, (enum st_dtype)t, block);
			info->decode(block, want, info->block_elems);
			st_block_unpack(g, block, &p);
			st_block_numbers(g, &p, got);
			for (uint32_t i = 0; i < info->block_elems; i++)
				if (memcmp(&want[i], &got[i], 4))
					fail_msg("%s element %u: %g by the decoder, %g by parts", info->name, i,
					         (double)want[i], (double)got[i]);
			/* Sums that follow from the codes are none of the parts. */
			memcpy(again, block, sizeof block);
			memset(again, 0, t == ST_DTYPE_Q8_K ? 260 : info->block_bytes);
			if (t == ST_DTYPE_Q8_1)
				memcpy(again + 2, block + 2, 2);
			st_block_pack(g, &p, again);
			assert_memory_equal(block, again, info->block_bytes);
		}
	}
}

/* The nearest other numbers that the block could hold in the place of element i, found by trying all codes. */
static void try_codes(enum st_dtype t, const uint8_t *block, unsigned i, double *below, double *above)
{
	const struct st_geometry *g = st_dtype_geometry(t);
	const struct st_dtype_info *info = st_dtype_info(t);
	struct st_block_parts p;
	float y[ST_BLOCK_MOST];
	uint8_t other[ST_BLOCK_BYTES_MOST];
	info->decode(block, y, info->block_elems);
	double own = (double)y[i];
	*below = *above = INFINITY;
	st_block_unpack(g, block, &p);
	for (int c = g->lowest; c <= g->highest; c++) {
		p.code[i] = (int16_t)c;
		memcpy(other, block, info->block_bytes);
		st_block_pack(g, &p, other);
		info->decode(other, y, info->block_elems);
		double d = (double)y[i] - own;
		if (d < 0 && -d < *below)
			*below = -d;
		if (d > 0 && d < *above)
			*above = d;
	}
}

static void near(const char *type, unsigned i, const char *what, double want, double got, double size)
{
	if (isinf(want) != isinf(got) || (!isinf(want) && fabs(want - got) > 1e-5 * want + 3e-7 * size))
		fail_msg("%s element %u, %s: %.9g by trying, %.9g", type, i, what, want, got);
}

static void neighbours_are_those_of_other_codes(void **state)
{
	(void)state;
	struct st_xoshiro r;
	st_xoshiro_seed(&r, 12);
	for (int t = 0; t < ST_DTYPE_COUNT; t++) {
		const struct st_dtype_info *info = st_dtype_info((enum st_dtype)t);
		uint32_t n = info->block_elems;
		if (st_dtype_geometry((enum st_dtype)t)->sub == 0)
			continue;
		for (int k = 0; k < 8; k++) {
			uint8_t block[ST_BLOCK_BYTES_MOST];
			float v[4][ST_BLOCK_MOST];
			random_block(&r, (enum st_dtype)t, block);
			struct st_tensor x = { .dtype = (enum st_dtype)t,
				               .layout = ST_LAYOUT_ROWS,
				               .ndim = 2,
				               .shape = { 1, n },
				               .n_elems = n,
				               .n_bytes = info->block_bytes,
				               .row_bytes = info->block_bytes,
				               .scale = 1,
				               .data = block };
			st_tensor_elements(&x, 0, &(struct st_elements){ v[0], v[1], v[2], v[3] });
			double largest = 0;
			for (uint32_t i = 0; i < n; i++)
				largest = fmax(largest, fabs((double)v[0][i]));
			for (uint32_t i = 0; i<n; i += n> 64 ? 3 : 1) {
				double below, above;
				try_codes((enum st_dtype)t, block, i, &below, &above);
				if (isinf(below) && isinf(above)) {
					/* a step of zero */
					assert_true(v[1][i] == 0 && v[2][i] == 0 && v[3][i] > 0);
					continue;
				}
				near(info->name, i, "below", below, (double)v[1][i], largest);
				near(info->name, i, "above", above, (double)v[2][i], largest);
			}
		}
	}
}

/* Neighbours of a float are the patterns beside its own. */
static void neighbours_of_floats_are_patterns(void **state)
{
	(void)state;
	static const struct {
		enum st_dtype t;
		uint32_t step,
			largest; /* between patterns that are tried, and the pattern of the largest finite number */
	} types[] = {
		{ ST_DTYPE_F16, 1, 0x7BFF },   { ST_DTYPE_BF16, 1, 0x7F7F },        { ST_DTYPE_F8_E4M3, 1, 0x7E },
		{ ST_DTYPE_F8_E5M2, 1, 0x7B }, { ST_DTYPE_F32, 65521, 0x7F7FFFFF },
	};
	for (size_t k = 0; k < sizeof types / sizeof *types; k++) {
		const struct st_dtype_info *info = st_dtype_info(types[k].t);
		for (uint64_t u = 0; u <= types[k].largest; u += types[k].step) {
			float v[4], next, last;
			uint32_t bits = (uint32_t)u, up = bits + 1, down = bits - 1;
			struct st_tensor x = { .dtype = types[k].t,
				               .layout = ST_LAYOUT_ROWS,
				               .ndim = 1,
				               .shape = { 1 },
				               .n_elems = 1,
				               .n_bytes = info->block_bytes,
				               .row_bytes = info->block_bytes,
				               .scale = 1,
				               .data = (uint8_t *)&bits };
			st_tensor_elements(&x, 0, &(struct st_elements){ v, v + 1, v + 2, v + 3 });
			info->decode(&up, &next, 1);
			info->decode(&down, &last, 1);
			double above = bits == types[k].largest ? (double)INFINITY : (double)next - (double)v[0];
			double below = bits == 0 ? above : (double)v[0] - (double)last;
			if ((double)v[1] != below || (double)v[2] != above || v[3] != 0)
				fail_msg("%s %x = %g: below %g, not %g; above %g, not %g", info->name, bits,
				         (double)v[0], (double)v[1], below, (double)v[2], above);
		}
	}
}

/* A ragged view of flat blocks gives what its elements have in whole blocks. */
static void rows_inside_flat_blocks(void **state)
{
	(void)state;
	struct st_xoshiro r;
	st_xoshiro_seed(&r, 13);
	uint8_t bytes[3 * 18];
	for (int b = 0; b < 3; b++)
		random_block(&r, ST_DTYPE_APR_Q4, bytes + (size_t)b * 18);
	float whole[4][96], row[4][19];
	struct st_tensor x = { .dtype = ST_DTYPE_APR_Q4,
		               .layout = ST_LAYOUT_FLAT,
		               .ndim = 2,
		               .shape = { 1, 96 },
		               .n_elems = 96,
		               .n_bytes = sizeof bytes,
		               .scale = 1,
		               .data = bytes };
	st_tensor_elements(&x, 0, &(struct st_elements){ whole[0], whole[1], whole[2], whole[3] });
	x.shape[0] = 5;
	x.shape[1] = 19;
	x.n_elems = 95;
	for (uint64_t i = 0; i < 5; i++) {
		st_tensor_elements(&x, i, &(struct st_elements){ row[0], row[1], row[2], row[3] });
		for (int k = 0; k < 4; k++)
			assert_memory_equal(row[k], whole[k] + i * 19, sizeof row[k]);
	}
}

/* Factors moved by half a unit: the number moves by what `rounding` says, and no further. */
/* From a level to the further one of its neighbours, by looking at all. */
static double widest_gap(const struct st_geometry *g, int level)
{
	double down = INFINITY, up = INFINITY;
	for (int c = g->lowest; c <= g->highest; c++) {
		int other = st_block_level(g, c);
		if (other < level)
			down = fmin(down, level - other);
		if (other > level)
			up = fmin(up, other - level);
	}
	return isinf(down) ? up : isinf(up) ? down : fmax(down, up);
}

/* How far the end of half a step moves when the factors do. */
static void rounding_is_what_the_factors_hide(void **state)
{
	(void)state;
	struct st_xoshiro r;
	st_xoshiro_seed(&r, 14);
	for (int t = 0; t < ST_DTYPE_COUNT; t++) {
		const struct st_geometry *g = st_dtype_geometry((enum st_dtype)t);
		const struct st_dtype_info *info = st_dtype_info((enum st_dtype)t);
		if (g->factor != ST_FACTOR_F16)
			continue;
		uint8_t block[ST_BLOCK_BYTES_MOST];
		float v[4][ST_BLOCK_MOST];
		uint32_t n = info->block_elems;
		random_block(&r, (enum st_dtype)t, block);
		struct st_tensor x = { .dtype = (enum st_dtype)t,
			               .layout = ST_LAYOUT_ROWS,
			               .ndim = 2,
			               .shape = { 1, n },
			               .n_elems = n,
			               .n_bytes = info->block_bytes,
			               .row_bytes = info->block_bytes,
			               .scale = 1,
			               .data = block };
		st_tensor_elements(&x, 0, &(struct st_elements){ v[0], v[1], v[2], v[3] });
		struct st_block_parts p;
		st_block_unpack(g, block, &p);
		for (uint32_t i = 0; i < n; i++) {
			double scale = p.scale[i / g->sub], level = st_block_level(g, p.code[i]);
			if (scale == 0)
				continue;
			/* the f16 pattern next to d lies one unit away; half of it is the most that rounding hides */
			double d = (double)p.d,
			       unit = fabs((double)st_f16_to_f32((uint16_t)(st_load_u16(block + g->d_at) + 1)) - d);
			double want = unit / 2 * fabs(scale) * (fabs(level) + widest_gap(g, (int)level) / 2);
			if (g->m_at >= 0) {
				double m = (double)p.m;
				unit = fabs((double)st_f16_to_f32((uint16_t)(st_load_u16(block + g->m_at) + 1)) - m);
				want += unit / 2 * (g->min.bits ? p.min[i / g->sub] : 1);
			}
			near(info->name, i, "rounding", want, (double)v[3][i], 0);
		}
	}
}

static void orders_of_codes(void **state)
{
	(void)state;
	for (int t = 0; t < ST_DTYPE_COUNT; t++) {
		if (!st_dtype_has_nibbles((enum st_dtype)t))
			continue;
		const struct st_geometry *g = st_dtype_geometry((enum st_dtype)t);
		uint32_t n = st_dtype_info((enum st_dtype)t)->block_elems;
		uint8_t block[ST_BLOCK_BYTES_MOST] = { 0 }, own[ST_BLOCK_BYTES_MOST];
		for (uint32_t i = 0; i < n / 2; i++) /* code e of 0 1 2 ... in nibble e % 2 of byte e / 2 */
			block[g->code.at + i] = (uint8_t)((2 * i % 16) | ((2 * i + 1) % 16) << 4);
		memcpy(own, block, sizeof own);
		st_block_reorder((enum st_dtype)t, own, ST_CODES_FROM_PAIRS);
		struct st_block_parts p;
		st_block_unpack(g, own, &p);
		for (uint32_t i = 0; i < n; i++)
			assert_int_equal(p.code[i] & 15, i % 16);
		st_block_reorder((enum st_dtype)t, own, ST_CODES_TO_PAIRS);
		assert_memory_equal(own, block, sizeof own);
		st_block_reorder((enum st_dtype)t, own, ST_CODES_EXCHANGED);
		for (uint32_t i = 0; i < n / 2; i++)
			assert_int_equal(own[g->code.at + i],
			                 (uint8_t)(block[g->code.at + i] << 4 | block[g->code.at + i] >> 4));
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(parts_give_what_the_decoder_gives),
		cmocka_unit_test(neighbours_are_those_of_other_codes),
		cmocka_unit_test(neighbours_of_floats_are_patterns),
		cmocka_unit_test(rows_inside_flat_blocks),
		cmocka_unit_test(rounding_is_what_the_factors_hide),
		cmocka_unit_test(orders_of_codes),
	};
	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
