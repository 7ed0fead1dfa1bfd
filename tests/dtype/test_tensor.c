/* dtype: rows of stored tensors in every layout, against a loop over single elements. */
#include "support.h"

#include <stele/dtype.h>

#include "dtype/blocks.h"

#include <float.h>

static struct st_tensor tensor(enum st_dtype t, enum st_layout layout, uint64_t rows, uint64_t cols,
                               const uint8_t *data)
{
	return (struct st_tensor){ .name = "t",
		                   .dtype = t,
		                   .layout = layout,
		                   .ndim = 2,
		                   .shape = { rows, cols },
		                   .n_elems = rows * cols,
		                   .scale = 1,
		                   .data = data };
}

/* Random bytes whose f16 scales are finite: the sign and exponent bits of every byte stay moderate. */
static void fill(uint8_t *p, size_t n, uint64_t seed)
{
	struct st_xoshiro g;
	st_xoshiro_seed(&g, seed);
	for (size_t i = 0; i < n; i++)
		p[i] = (uint8_t)(st_xoshiro_next(&g) & 0x3F);
}

/* Element i of blocks at p, the slow way. */
static float element(enum st_dtype t, const uint8_t *p, uint64_t i)
{
	const struct st_dtype_info *info = st_dtype_info(t);
	float y[ST_QKK];
	info->decode(p + i / info->block_elems * info->block_bytes, y, info->block_elems);
	return y[i % info->block_elems];
}

static void check_rows(const struct st_tensor *t, uint64_t row0, uint64_t n, const float *want)
{
	size_t count = (size_t)(n * st_tensor_cols(t));
	struct guarded f = guard(4 * count, false), d = guard(8 * count, false);
	st_tensor_decode(t, row0, n, (float *)(void *)f.p);
	st_tensor_decode_f64(t, row0, n, (double *)(void *)d.p);
	for (size_t i = 0; i < count; i++) {
		float a;
		double b;
		memcpy(&a, f.p + 4 * i, 4);
		memcpy(&b, d.p + 8 * i, 8);
		assert_true(a == want[i] && b == (double)want[i]);
	}
	unguard(f);
	unguard(d);
}

static void flat_rows_begin_inside_blocks(void **state)
{
	(void)state;
	static const enum st_dtype types[] = { ST_DTYPE_APR_Q4, ST_DTYPE_Q4_K, ST_DTYPE_F16, ST_DTYPE_Q8_0 };
	static const uint64_t shapes[][2] = { { 7, 37 }, { 3, 300 }, { 5, 32 }, { 2, 512 }, { 11, 1 }, { 1, 1000 } };
	for (size_t k = 0; k < 4; k++)
		for (size_t s = 0; s < 6; s++) {
			const struct st_dtype_info *info = st_dtype_info(types[k]);
			uint64_t rows = shapes[s][0], cols = shapes[s][1], n = rows * cols;
			size_t size = (size_t)((n + info->block_elems - 1) / info->block_elems * info->block_bytes);
			struct guarded g = guard(size, false);
			fill(g.p, size, 10 * k + s);
			struct st_tensor t = tensor(types[k], ST_LAYOUT_FLAT, rows, cols, g.p);
			t.scale = 0.5f;
			float *want = malloc(4 * n);
			for (uint64_t i = 0; i < n; i++)
				want[i] = element(types[k], g.p, i) * 0.5f;
			for (uint64_t r = 0; r <= rows; r++)
				for (uint64_t m = 0; m <= rows - r; m++)
					check_rows(&t, r, m, want + r * cols);
			free(want);
			unguard(g);
		}
}

/* Rows that begin at a block and may end inside one, with and without a gap behind them. */
static void rows_padded_to_blocks(void **state)
{
	(void)state;
	static const enum st_dtype types[] = { ST_DTYPE_Q6_K, ST_DTYPE_Q4_0, ST_DTYPE_F32, ST_DTYPE_I8 };
	for (size_t k = 0; k < 4; k++)
		for (uint64_t cols = 255; cols < 258; cols++)
			for (uint64_t gap = 0; gap < 6; gap += 5) {
				const struct st_dtype_info *info = st_dtype_info(types[k]);
				uint64_t rows = 4, row_bytes = (cols + info->block_elems - 1) / info->block_elems
				                                     * info->block_bytes
				                             + gap;
				/* The last row has no gap behind it, and nothing may be read there. */
				size_t size = (size_t)(rows * row_bytes - gap);
				struct guarded g = guard(size, false);
				fill(g.p, size, cols);
				if (types[k] == ST_DTYPE_F32) /* random bytes may be NaN, which equals nothing */
					memset(g.p, 0x3E, size);
				struct st_tensor t = tensor(types[k], ST_LAYOUT_ROWS, rows, cols, g.p);
				t.row_bytes = row_bytes;
				float *want = malloc(4 * rows * cols);
				for (uint64_t i = 0; i < rows * cols; i++)
					want[i] = element(types[k], g.p + i / cols * row_bytes, i % cols);
				check_rows(&t, 0, rows, want);
				check_rows(&t, 1, 2, want + cols);
				check_rows(&t, 3, 1, want + 3 * cols);
				free(want);
				unguard(g);
			}
}

static void strided_views(void **state)
{
	(void)state;
	/* A [3, 4, 600] tensor stored with its axes in the order 2, 0, 1; and one read backwards. */
	static uint16_t store[600][3][4];
	float *want = malloc(sizeof(float) * 7200);
	for (unsigned a = 0; a < 3; a++)
		for (unsigned b = 0; b < 4; b++)
			for (unsigned c = 0; c < 600; c++)
				want[(a * 4 + b) * 600 + c] = (float)(store[c][a][b] = (uint16_t)(a * 20000 + b * 5000
				                                                                  + c));
	struct st_tensor t = { .name = "t",
		               .dtype = ST_DTYPE_U16,
		               .layout = ST_LAYOUT_STRIDED,
		               .ndim = 3,
		               .shape = { 3, 4, 600 },
		               .strides = { 4, 1, 12 },
		               .n_elems = 7200,
		               .scale = 1,
		               .data = (const uint8_t *)store };
	assert_int_equal(st_tensor_rows(&t), 12);
	check_rows(&t, 0, 12, want);
	check_rows(&t, 5, 3, want + 5 * 600);
	free(want);

	static const double column[] = { 1, 2, 3 };
	struct st_tensor back = { .name = "t",
		                  .dtype = ST_DTYPE_F64,
		                  .layout = ST_LAYOUT_STRIDED,
		                  .ndim = 1,
		                  .shape = { 3 },
		                  .strides = { -1 },
		                  .n_elems = 3,
		                  .scale = 1,
		                  .data = (const uint8_t *)(column + 2) };
	check_rows(&back, 0, 1, (const float[]){ 3, 2, 1 });
	/* Stride 0 repeats one element. */
	back.strides[0] = 0;
	check_rows(&back, 0, 1, (const float[]){ 3, 3, 3 });
}

static void f64_is_exact_where_f32_is_not(void **state)
{
	(void)state;
	static const int64_t i64[] = { (1ll << 53) - 1, -(1ll << 53) + 1 };
	static const double f64[] = { 0.1, DBL_MAX };
	static const uint32_t u32[] = { UINT32_MAX, 16777217 };
	double d[2];
	struct st_tensor t = tensor(ST_DTYPE_I64, ST_LAYOUT_FLAT, 1, 2, (const uint8_t *)i64);
	st_tensor_decode_f64(&t, 0, 1, d);
	assert_true(d[0] == 0x1.fffffffffffffp52 && d[1] == -0x1.fffffffffffffp52);
	t = tensor(ST_DTYPE_F64, ST_LAYOUT_FLAT, 1, 2, (const uint8_t *)f64);
	st_tensor_decode_f64(&t, 0, 1, d);
	assert_true(d[0] == 0.1 && d[1] == DBL_MAX);
	t = tensor(ST_DTYPE_U32, ST_LAYOUT_FLAT, 1, 2, (const uint8_t *)u32);
	st_tensor_decode_f64(&t, 0, 1, d);
	assert_true(d[0] == 4294967295.0 && d[1] == 16777217.0);
}

static void scalars_and_empty_tensors(void **state)
{
	(void)state;
	const float seven = 7;
	struct st_tensor t = { .name = "s",
		               .dtype = ST_DTYPE_F32,
		               .layout = ST_LAYOUT_ROWS,
		               .n_elems = 1,
		               .scale = 1,
		               .data = (const uint8_t *)&seven };
	assert_int_equal(st_tensor_rows(&t), 1);
	assert_int_equal(st_tensor_cols(&t), 1);
	check_rows(&t, 0, 1, &seven);
	struct st_tensor empty = tensor(ST_DTYPE_Q4_0, ST_LAYOUT_ROWS, 5, 0, NULL);
	assert_int_equal(st_tensor_rows(&empty), 5);
	check_rows(&empty, 0, 5, NULL);
	empty = tensor(ST_DTYPE_F16, ST_LAYOUT_FLAT, 0, 5, NULL);
	assert_int_equal(st_tensor_rows(&empty), 0);
	check_rows(&empty, 0, 0, NULL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(flat_rows_begin_inside_blocks),
		cmocka_unit_test(rows_padded_to_blocks),
		cmocka_unit_test(strided_views),
		cmocka_unit_test(f64_is_exact_where_f32_is_not),
		cmocka_unit_test(scalars_and_empty_tensors),
	};
	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
