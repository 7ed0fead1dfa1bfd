/* inspect: statistics of stored tensors against plain loops, in every layout, for every number of threads. */
#include "pools.h"

#include <stele/inspect.h>

#include <math.h>

/* Two passes in long double over the whole tensor, element by element. */
static void naive(const double *x, uint64_t rows, uint64_t cols, struct st_tensor_stats *s)
{
	long double sum = 0, m2 = 0;
	uint64_t finite = 0;
	memset(s, 0, sizeof *s);
	s->min = INFINITY;
	s->max = -INFINITY;
	for (uint64_t i = 0; i < rows * cols; i++) {
		s->n_nan += isnan(x[i]) != 0;
		s->n_inf += isinf(x[i]) != 0;
		if (!isfinite(x[i]))
			continue;
		finite++;
		sum += x[i];
		s->min = fmin(s->min, x[i]);
		s->max = fmax(s->max, x[i]);
	}
	s->mean = finite ? (double)(sum / finite) : NAN;
	for (uint64_t i = 0; i < rows * cols; i++)
		if (isfinite(x[i]))
			m2 += ((long double)x[i] - sum / finite) * ((long double)x[i] - sum / finite);
	s->std = finite ? (double)sqrtl(m2 / finite) : NAN;
	s->constant = rows * cols > 1;
	for (uint64_t r = 0; r < rows; r++) {
		bool same = cols > 1;
		for (uint64_t c = 0; c < cols; c++) {
			same &= x[r * cols + c] == x[r * cols];
			s->constant &= x[r * cols + c] == x[0];
		}
		if (same && s->constant_rows++ == 0)
			s->first_constant_row = r;
	}
}

static struct st_tensor tensor(enum st_dtype type, const void *data, uint64_t rows, uint64_t cols)
{
	const struct st_dtype_info *d = st_dtype_info(type);
	struct st_tensor t = { .name = "t",
		               .dtype = type,
		               .ndim = 2,
		               .shape = { rows, cols },
		               .n_elems = rows * cols,
		               .scale = 1,
		               .data = data };
	t.row_bytes = cols / d->block_elems * d->block_bytes;
	t.n_bytes = rows * t.row_bytes;
	return t;
}

static void check(const struct st_tensor *t, const double *x, uint64_t rows, uint64_t cols)
{
	struct st_tensor_stats want, got, again;
	struct st_error err = ST_ERROR_INIT;
	naive(x, rows, cols, &want);
	for (int threads = 1; threads <= 3; threads++) {
		assert_ok(st_tensor_stats_of(t, pool_of(threads), NULL, &got, &err), &err);
		if (threads == 1)
			again = got;
		assert_memory_equal(&again, &got, sizeof got);
	}
	assert_true(got.n_nan == want.n_nan && got.n_inf == want.n_inf);
	assert_true(got.constant == want.constant && got.constant_rows == want.constant_rows);
	assert_true(got.first_constant_row == want.first_constant_row);
	if (isnan(want.mean)) {
		assert_true(isnan(got.mean) && isnan(got.std) && isnan(got.min) && isnan(got.max));
		return;
	}
	assert_true(got.min == want.min && got.max == want.max);
	/* Sums of n f64 terms, pairwise enough: a few ulp of the largest partial sum. */
	double scale = fmax(fabs(want.min), fabs(want.max));
	assert_true(fabs(got.mean - want.mean) <= 1e-12 * scale);
	assert_true(fabs(got.std - want.std) <= 1e-12 * scale);
}

static double noise(uint64_t i)
{
	uint64_t z = (i + 1) * 0x9E3779B97F4A7C15u;
	z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
	z ^= z >> 27;
	return (double)(int64_t)z * 0x1p-62 + 3;
}

static void floats_of_many_shapes(void **state)
{
	(void)state;
	const uint64_t shapes[][2] = { { 1, 1 },      { 3, 5 },     { 1, 7 },     { 300, 1000 }, { 5, 70000 },
		                       { 1, 200001 }, { 70000, 1 }, { 2, 65536 }, { 3, 65537 } };
	for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
		uint64_t rows = shapes[i][0], cols = shapes[i][1], n = rows * cols;
		float *f = malloc(n * sizeof *f);
		double *x = malloc(n * sizeof *x);
		for (uint64_t k = 0; k < n; k++)
			f[k] = (float)noise(k);
		for (uint64_t k = 0; k < cols; k++) /* the last row is constant */
			f[(rows - 1) * cols + k] = 0.25f;
		if (n > 12) {
			f[2] = NAN;
			f[n / 2] = INFINITY;
			f[n / 3] = -INFINITY;
		}
		for (uint64_t k = 0; k < n; k++)
			x[k] = f[k];
		struct st_tensor t = tensor(ST_DTYPE_F32, f, rows, cols);
		check(&t, x, rows, cols);
		free(f);
		free(x);
	}
}

static void wide_types_keep_their_digits(void **state)
{
	(void)state;
	enum { N = 100000 };
	double *x = malloc(N * sizeof *x);
	for (uint64_t k = 0; k < N; k++)
		x[k] = 1e9 + noise(k); /* f32 would see one value */
	struct st_tensor t = tensor(ST_DTYPE_F64, x, 1, N);
	check(&t, x, 1, N);
	int64_t ids[6] = { 16777217, 16777216, 16777219, 5, 5, 5 };
	double xi[6];
	for (int k = 0; k < 6; k++)
		xi[k] = (double)ids[k];
	struct st_tensor ti = tensor(ST_DTYPE_I64, ids, 2, 3);
	check(&ti, xi, 2, 3);
	free(x);
}

static void quantised_long_row_is_cut_at_blocks(void **state)
{
	(void)state;
	enum { COLS = 65536 + 320, BLOCKS = COLS / 32 };
	/* Q8_0: f16 scale, 32 int8. Scale 0.5 is 0x3800. */
	uint8_t *q = malloc(2 * BLOCKS * 34);
	double *x = malloc(2 * (size_t)COLS * sizeof *x);
	for (uint64_t b = 0; b < 2 * BLOCKS; b++) {
		q[b * 34] = 0;
		q[b * 34 + 1] = 0x38;
		for (uint64_t k = 0; k < 32; k++) {
			int8_t v = b < BLOCKS ? (int8_t)(b * 7 + k * 3) : 11; /* second row constant */
			q[b * 34 + 2 + k] = (uint8_t)v;
			x[b * 32 + k] = 0.5 * v;
		}
	}
	struct st_tensor t = tensor(ST_DTYPE_Q8_0, q, 2, COLS);
	check(&t, x, 2, COLS);
	free(q);
	free(x);
}

static void strided_views_are_read_in_their_order(void **state)
{
	(void)state;
	/* [2, 3, 70000] seen through strides that reverse the storage order of all three axes. */
	enum { A = 2, B = 3, C = 70000 };
	float *f = malloc(sizeof *f * A * B * C);
	double *x = malloc(sizeof *x * A * B * C);
	for (uint64_t k = 0; k < A * B * C; k++)
		f[k] = (float)noise(k);
	for (uint64_t c = 0; c < C; c++)
		f[1 + 2 * (2 + 3 * c)] = 7; /* row (1, 2) is constant */
	for (uint64_t a = 0; a < A; a++)
		for (uint64_t b = 0; b < B; b++)
			for (uint64_t c = 0; c < C; c++)
				x[(a * B + b) * C + c] = f[a + 2 * (b + 3 * c)];
	struct st_tensor t = { .name = "t",
		               .dtype = ST_DTYPE_F32,
		               .layout = ST_LAYOUT_STRIDED,
		               .ndim = 3,
		               .shape = { A, B, C },
		               .strides = { 1, A, A * B },
		               .n_elems = A * B * C,
		               .n_bytes = sizeof *f * A * B * C,
		               .scale = 1,
		               .data = (uint8_t *)f };
	check(&t, x, A * B, C);
	free(f);
	free(x);
}

static void flat_blocks_cross_rows(void **state)
{
	(void)state;
	/* Rows of 40 over blocks of 32: APR's own 4-bit type runs over the whole tensor. */
	enum { ROWS = 8, COLS = 40, BLOCKS = ROWS * COLS / 32 };
	uint8_t q[BLOCKS * 18];
	double x[ROWS * COLS];
	for (uint64_t b = 0; b < BLOCKS; b++) {
		q[b * 18] = 0;
		q[b * 18 + 1] = 0x3C; /* f16 1.0 */
		for (uint64_t k = 0; k < 16; k++) {
			uint8_t lo = (uint8_t)((b + k) % 16), hi = (uint8_t)((3 * b + 5 * k) % 16);
			q[b * 18 + 2 + k] = (uint8_t)(lo | hi << 4);
			x[b * 32 + 2 * k] = (double)lo - 8;
			x[b * 32 + 2 * k + 1] = (double)hi - 8;
		}
	}
	struct st_tensor t = { .name = "t",
		               .dtype = ST_DTYPE_APR_Q4,
		               .layout = ST_LAYOUT_FLAT,
		               .ndim = 2,
		               .shape = { ROWS, COLS },
		               .n_elems = ROWS * COLS,
		               .n_bytes = sizeof q,
		               .scale = 1,
		               .data = q };
	check(&t, x, ROWS, COLS);
}

static void nothing_finite_and_nothing_at_all(void **state)
{
	(void)state;
	float f[4] = { NAN, INFINITY, -INFINITY, NAN };
	double x[4] = { NAN, INFINITY, -INFINITY, NAN };
	struct st_tensor t = tensor(ST_DTYPE_F32, f, 1, 4);
	check(&t, x, 1, 4);
	struct st_tensor empty = tensor(ST_DTYPE_F32, f, 0, 4);
	check(&empty, x, 0, 4);
}

static void cancelled(void **state)
{
	(void)state;
	float f[4] = { 0 };
	struct st_tensor t = tensor(ST_DTYPE_F32, f, 1, 4);
	struct st_tensor_stats s;
	struct st_error err = ST_ERROR_INIT;
	st_cancel();
	assert_int_equal(st_tensor_stats_of(&t, NULL, NULL, &s, &err), ST_ERR_CANCELLED);
	st_cancel_reset();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(floats_of_many_shapes),
		cmocka_unit_test(wide_types_keep_their_digits),
		cmocka_unit_test(quantised_long_row_is_cut_at_blocks),
		cmocka_unit_test(strided_views_are_read_in_their_order),
		cmocka_unit_test(flat_blocks_cross_rows),
		cmocka_unit_test(nothing_finite_and_nothing_at_all),
		cmocka_unit_test(cancelled),
	};
	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
