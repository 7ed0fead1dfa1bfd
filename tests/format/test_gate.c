/* gate: sizes of tensors by hand, what overflows, what lies outside its bytes, and what is changed afterwards. */
#include "test.h"

#include "format/tensors.h"

#define MAX UINT64_MAX
#define BIT(n) (UINT64_C(1) << (n))

struct sized {
	enum st_dtype dtype;
	enum st_layout layout;
	uint32_t ndim;
	uint64_t shape[3];
	int64_t strides[3];
	bool fits;
	uint64_t n_elems, row_bytes, n_bytes;
};

static const struct sized cases[] = {
	/* A scalar is one element; a dimension of 0 makes none, whatever stands beside it. */
	{ ST_DTYPE_F32, ST_LAYOUT_ROWS, 0, { 0 }, { 0 }, true, 1, 4, 4 },
	{ ST_DTYPE_F32, ST_LAYOUT_ROWS, 1, { 0 }, { 0 }, true, 0, 0, 0 },
	{ ST_DTYPE_F32, ST_LAYOUT_ROWS, 2, { 0, 5 }, { 0 }, true, 0, 20, 0 },
	{ ST_DTYPE_F32, ST_LAYOUT_ROWS, 2, { 5, 0 }, { 0 }, true, 0, 0, 0 },
	{ ST_DTYPE_F16, ST_LAYOUT_ROWS, 3, { 2, 3, 5 }, { 0 }, true, 30, 10, 60 },
	/* 300 columns of K-quants: 2 blocks of 256 in rows, 900 elements are 4 blocks when they run on. */
	{ ST_DTYPE_Q4_K, ST_LAYOUT_ROWS, 2, { 3, 300 }, { 0 }, true, 900, 288, 864 },
	{ ST_DTYPE_Q4_K, ST_LAYOUT_FLAT, 2, { 3, 300 }, { 0 }, true, 900, 0, 576 },
	/* To the last element: 1 + 2 * 1 + 3 * 10. A dimension of one reaches nowhere. */
	{ ST_DTYPE_F32, ST_LAYOUT_STRIDED, 2, { 3, 4 }, { 1, 10 }, true, 12, 0, 132 },
	{ ST_DTYPE_F32, ST_LAYOUT_STRIDED, 2, { 1, 4 }, { INT64_MAX, 1 }, true, 4, 0, 16 },
	{ ST_DTYPE_F32, ST_LAYOUT_STRIDED, 2, { 0, 4 }, { 1, 1 }, true, 0, 0, 0 },
	/* Products that wrap: to a small number, to 0, in elements, in bytes, in strides, hidden behind a 0. */
	{ ST_DTYPE_F32, ST_LAYOUT_ROWS, 1, { BIT(62) + 256 }, { 0 }, false, 0, 0, 0 },
	{ ST_DTYPE_F32, ST_LAYOUT_ROWS, 2, { 1, BIT(62) + 256 }, { 0 }, false, 0, 0, 0 },
	{ ST_DTYPE_F32, ST_LAYOUT_ROWS, 2, { BIT(62) + 256, 1 }, { 0 }, false, 0, 0, 0 },
	{ ST_DTYPE_F32, ST_LAYOUT_FLAT, 1, { BIT(62) + 256 }, { 0 }, false, 0, 0, 0 },
	{ ST_DTYPE_F64, ST_LAYOUT_ROWS, 1, { BIT(61) }, { 0 }, false, 0, 0, 0 },
	{ ST_DTYPE_I8, ST_LAYOUT_ROWS, 1, { BIT(63) }, { 0 }, false, 0, 0, 0 },
	{ ST_DTYPE_I8, ST_LAYOUT_ROWS, 2, { BIT(32), BIT(32) }, { 0 }, false, 0, 0, 0 },
	{ ST_DTYPE_I8, ST_LAYOUT_ROWS, 3, { BIT(32), BIT(32), 0 }, { 0 }, false, 0, 0, 0 },
	{ ST_DTYPE_I8, ST_LAYOUT_ROWS, 3, { 0, BIT(32), BIT(32) }, { 0 }, false, 0, 0, 0 },
	{ ST_DTYPE_I8, ST_LAYOUT_ROWS, 2, { BIT(63), 0 }, { 0 }, false, 0, 0, 0 },
	{ ST_DTYPE_F32, ST_LAYOUT_ROWS, 2, { 0, BIT(62) }, { 0 }, false, 0, 0, 0 },
	{ ST_DTYPE_Q4_K, ST_LAYOUT_ROWS, 2, { BIT(62), 1 }, { 0 }, false, 0, 0, 0 },
	{ ST_DTYPE_Q4_K, ST_LAYOUT_ROWS, 2, { 1, MAX }, { 0 }, false, 0, 0, 0 },
	{ ST_DTYPE_F32, ST_LAYOUT_STRIDED, 2, { 3, 4 }, { INT64_MAX, 1 }, false, 0, 0, 0 },
	{ ST_DTYPE_F32, ST_LAYOUT_STRIDED, 1, { 2 }, { INT64_MAX / 2 }, false, 0, 0, 0 },
	{ ST_DTYPE_F32, ST_LAYOUT_STRIDED, 1, { 2 }, { -1 }, false, 0, 0, 0 },
	{ ST_DTYPE_Q8_0, ST_LAYOUT_STRIDED, 2, { 32, 32 }, { 1, 32 }, false, 0, 0, 0 },
	{ ST_DTYPE_I8, ST_LAYOUT_ROWS, ST_MAX_DIMS + 1, { 1, 1, 1 }, { 0 }, false, 0, 0, 0 },
};
#define N_CASES (sizeof cases / sizeof *cases)

static struct st_tensor tensor(const struct sized *c)
{
	struct st_tensor t = { .name = "t", .dtype = c->dtype, .layout = c->layout, .ndim = c->ndim };
	memcpy(t.shape, c->shape, sizeof c->shape);
	memcpy(t.strides, c->strides, sizeof c->strides);
	return t;
}

static void sizes(void **state)
{
	(void)state;
	for (size_t i = 0; i < N_CASES; i++) {
		struct st_tensor t = tensor(&cases[i]);
		bool fits = st_tensor_measure(&t);
		if (fits != cases[i].fits
		    || (fits
		        && (t.n_elems != cases[i].n_elems || t.row_bytes != cases[i].row_bytes
		            || t.n_bytes != cases[i].n_bytes)))
			fail_msg("case %zu: %d, %llu elements, rows of %llu, %llu bytes", i, fits,
			         (unsigned long long)t.n_elems, (unsigned long long)t.row_bytes,
			         (unsigned long long)t.n_bytes);
	}
}

static enum st_status place_at(struct st_tensor *t, uint64_t n, uint64_t at)
{
	static const uint8_t bytes[2048];
	struct st_error err = ST_ERROR_INIT;
	enum st_status st = st_tensor_place(t, &(struct st_span){ bytes, n, 100 }, at, &err);
	assert_int_equal(st, err.code);
	if (st == ST_OK) {
		assert_ptr_equal(t->data, bytes + at);
		assert_int_equal(t->offset, 100 + at);
		assert_true(t->scale == 1);
		assert_true(st_tensor_is_proved(t));
	} else {
		assert_null(t->data);
	}
	return st;
}

static void places(void **state)
{
	(void)state;
	for (size_t i = 0; i < N_CASES; i++) {
		struct st_tensor t = tensor(&cases[i]);
		uint64_t n = cases[i].fits ? cases[i].n_bytes : 1024;
		assert_int_equal(place_at(&t, n + 7, 7), cases[i].fits ? ST_OK : ST_ERR_FORMAT);
		if (!cases[i].fits || n == 0)
			continue;
		/* One byte less, one byte further, and an offset that wraps. */
		const uint64_t short_of[][2] = { { n + 6, 7 }, { n + 7, 8 }, { 1024, MAX - n + 1 }, { 1024, MAX } };
		for (size_t k = 0; k < 4; k++) {
			t = tensor(&cases[i]);
			assert_int_equal(place_at(&t, short_of[k][0], short_of[k][1]), ST_ERR_FORMAT);
		}
	}
}

/* Elements that lie on each other would make a row out of proportion to the file; so would a row of no columns. */
static void proportions(void **state)
{
	(void)state;
	struct st_tensor t = { .dtype = ST_DTYPE_F32, .layout = ST_LAYOUT_STRIDED, .ndim = 2, .shape = { 1, BIT(40) } };
	assert_int_equal(place_at(&t, 4, 0), ST_ERR_FORMAT);
	t = (struct st_tensor){ .dtype = ST_DTYPE_F32, .layout = ST_LAYOUT_STRIDED, .ndim = 2, .shape = { 4, 4 } };
	assert_int_equal(place_at(&t, 60, 0), ST_ERR_FORMAT);
	t = (struct st_tensor){ .dtype = ST_DTYPE_F32, .layout = ST_LAYOUT_STRIDED, .ndim = 2, .shape = { 4, 4 } };
	assert_int_equal(place_at(&t, 64, 0), ST_OK);
	static const uint64_t empty[][2] = { { 0, BIT(40) }, { BIT(40), 0 } },
			      small[][2] = { { 0, 151936 }, { 4096, 0 } };
	for (size_t i = 0; i < 2; i++) {
		t = (struct st_tensor){ .dtype = ST_DTYPE_F32, .ndim = 2, .shape = { empty[i][0], empty[i][1] } };
		assert_int_equal(place_at(&t, 1024, 0), ST_ERR_FORMAT);
		t = (struct st_tensor){ .dtype = ST_DTYPE_F32, .ndim = 2, .shape = { small[i][0], small[i][1] } };
		assert_int_equal(place_at(&t, 0, 0), ST_OK);
	}
}

/* What a reader does behind the gate's back does not pass the door. */
static void changed_afterwards(void **state)
{
	(void)state;
	const struct st_tensor sound = { .dtype = ST_DTYPE_F32, .ndim = 2, .shape = { 3, 5 } };
	struct st_tensor t = sound;
	assert_true(st_tensor_measure(&t));
	assert_false(st_tensor_is_proved(&t)); /* measured, and never placed */
	for (int change = 0; change < 5; change++) {
		t = sound;
		assert_int_equal(place_at(&t, 60, 0), ST_OK);
		switch (change) {
		case 0:
			t.shape[0] = 4;
			break;
		case 1:
			t.shape[1] = 4;
			break;
		case 2:
			t.dtype = ST_DTYPE_F64;
			break;
		case 3:
			t.layout = ST_LAYOUT_FLAT;
			break;
		case 4:
			t.n_bytes++;
			break;
		}
		assert_false(st_tensor_is_proved(&t));
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = { cmocka_unit_test(sizes), cmocka_unit_test(places),
		                            cmocka_unit_test(proportions), cmocka_unit_test(changed_afterwards) };
	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
