/* compare: metrics against plain loops, predicted noise against measured noise, configurations, causes. */
#include "arch/arch.h"
#include "compare/settings.h"
#include "graph/stage.h"
#include "pools.h"

#include <stele/compare.h>

#include "compare/noise.h"
#include "compare/pair.h"

#include <math.h>

static uint64_t seed;

static double uniform(void)
{
	seed = seed * 6364136223846793005u + 1442695040888963407u;
	return (double)(seed >> 11) * 0x1p-53;
}

static double normal(void) { return sqrt(-2 * log(uniform() + 1e-300)) * cos(6.283185307179586 * uniform()); }

/* ---- metrics ---- */

static void metrics_agree_with_plain_sums(void **state)
{
	(void)state;
	needs_long_double();
	static const size_t sizes[] = { 1, 2, 7, 8, 9, 31, 2047, 2048, 2049, 5000, 131072, 131073, 400001 };
	for (size_t k = 0; k < sizeof sizes / sizeof *sizes; k++) {
		size_t n = sizes[k];
		float *a = malloc(n * sizeof *a), *b = malloc(n * sizeof *b);
		seed = n;
		for (size_t i = 0; i < n; i++) {
			b[i] = (float)normal();
			a[i] = (float)(1.5 * b[i] + 0.1 * normal());
		}
		long double aa = 0, bb = 0, ab = 0, dd = 0, sum = 0, max = -1;
		size_t at = 0;
		for (size_t i = 0; i < n; i++) {
			long double d = (long double)a[i] - b[i];
			aa += (long double)a[i] * a[i];
			bb += (long double)b[i] * b[i];
			ab += (long double)a[i] * b[i];
			dd += d * d;
			sum += fabsl(d);
			if (fabsl(d) > max) {
				max = fabsl(d);
				at = i;
			}
		}
		for (int threads = 1; threads <= 3; threads++) {
			struct st_metrics m;
			st_metrics_of(a, b, n, pool_of(threads), &m);
			assert_true(fabs(m.rel_l2 - (double)sqrtl(dd / bb)) <= 1e-14 * m.rel_l2);
			assert_true(fabs(m.cosine - (double)(ab / sqrtl(aa * bb))) <= 1e-14);
			assert_true(fabs(m.gain - (double)(ab / bb)) <= 1e-14);
			assert_true(fabs(m.rms - (double)sqrtl(dd / n)) <= 1e-14 * m.rms);
			assert_true(fabs(m.mean_abs - (double)(sum / n)) <= 1e-14 * m.mean_abs);
			assert_true(m.max_abs == (double)max);
			assert_int_equal(m.max_abs_index, at);
			assert_int_equal(m.count, n);
		}
		free(a);
		free(b);
	}
}

static void metrics_do_not_depend_on_threads(void **state)
{
	(void)state;
	size_t n = 1000003;
	float *a = malloc(n * sizeof *a), *b = malloc(n * sizeof *b);
	for (size_t i = 0; i < n; i++) {
		a[i] = (float)normal();
		b[i] = (float)normal();
	}
	struct st_metrics one, m;
	st_metrics_of(a, b, n, NULL, &one);
	for (int threads = 2; threads <= 5; threads++) {
		st_metrics_of(a, b, n, pool_of(threads), &m);
		assert_memory_equal(&m, &one, sizeof m);
	}
	free(a);
	free(b);
}

static void nothing_finite_is_hidden(void **state)
{
	(void)state;
	float a[20], b[20];
	for (int i = 0; i < 20; i++)
		a[i] = b[i] = (float)(i + 1);
	struct st_metrics m;
	a[3] = b[3] = NAN;
	a[4] = b[4] = INFINITY;
	st_metrics_of(a, b, 20, NULL, &m);
	assert_int_equal(m.nonfinite_a, 2);
	assert_int_equal(m.nonfinite_b, 2);
	assert_int_equal(m.nonfinite_apart, 0);
	assert_true(m.max_abs == 0 && m.rel_l2 == 0);
	b[4] = -INFINITY; /* the other infinity is another value */
	b[9] = NAN;
	st_metrics_of(a, b, 20, NULL, &m);
	assert_int_equal(m.nonfinite_apart, 2);
	assert_true(isinf(m.max_abs) && isinf(m.rel_l2));
	assert_int_equal(m.max_abs_index, 4);
}

static void zero_vectors_have_no_direction(void **state)
{
	(void)state;
	float zero[5] = { 0 }, one[5] = { 1, 0, 0, 0, 0 };
	struct st_metrics m;
	st_metrics_of(zero, zero, 5, NULL, &m);
	assert_true(m.rel_l2 == 0 && isnan(m.cosine) && isnan(m.gain));
	st_metrics_of(one, zero, 5, NULL, &m);
	assert_true(isinf(m.rel_l2) && isnan(m.cosine));
	st_metrics_of(zero, one, 5, NULL, &m);
	assert_true(m.rel_l2 == 1 && m.gain == 0);
}

static void tensors_of_any_type_and_cut(void **state)
{
	(void)state;
	float x[24];
	double y[24];
	for (int i = 0; i < 24; i++) {
		x[i] = (float)i / 8;
		y[i] = i / 8.0;
	}
	y[17] += 0.25;
	struct st_tensor a = { .name = "a",
		               .dtype = ST_DTYPE_F32,
		               .layout = ST_LAYOUT_ROWS,
		               .ndim = 2,
		               .shape = { 4, 6 },
		               .n_elems = 24,
		               .n_bytes = 96,
		               .row_bytes = 24,
		               .scale = 1,
		               .data = (const uint8_t *)x };
	struct st_tensor b = { .name = "b",
		               .dtype = ST_DTYPE_F64,
		               .layout = ST_LAYOUT_ROWS,
		               .ndim = 1,
		               .shape = { 24 },
		               .n_elems = 24,
		               .n_bytes = 192,
		               .row_bytes = 192,
		               .scale = 1,
		               .data = (const uint8_t *)y };
	struct st_metrics m;
	struct st_error err = ST_ERROR_INIT;
	assert_ok(st_metrics_of_tensors(&a, &b, pool_of(2), &m, &err), &err);
	assert_true(m.max_abs == 0.25);
	assert_int_equal(m.max_abs_index, 17);
}

/* ---- noise ---- */

/* Store rows in a type and measure the error; the prediction must be right for any row, not only for N(0,1). */
static void check_noise(enum st_dtype t, double (*draw)(void), double scale, double low, double high)
{
	const struct st_dtype_info *info = st_dtype_info(t);
	enum { COLS = 1024, ROWS = 32 };
	float *x = malloc(COLS * sizeof *x), *y = malloc(COLS * sizeof *y);
	uint8_t *bytes = malloc(COLS * 8);
	double actual = 0, predicted = 0;
	for (int r = 0; r < ROWS; r++) {
		for (int i = 0; i < COLS; i++)
			x[i] = (float)(scale * draw());
		info->encode(x, bytes, COLS);
		info->decode(bytes, y, COLS);
		for (int i = 0; i < COLS; i++)
			actual += ((double)x[i] - y[i]) * ((double)x[i] - y[i]);
		struct st_tensor view = { .dtype = t, .scale = 1 };
		predicted += st_noise_row(&view, y, COLS);
	}
	double ratio = sqrt(actual / predicted);
	if (!(ratio > low && ratio < high))
		fail_msg("%s: measured noise is %.3g of the predicted", info->name, ratio);
	free(x);
	free(y);
	free(bytes);
}

static double heavy(void)
{
	double z = normal();
	return uniform() < 0.02 ? 8 * z : z;
}

static double flat(void) { return 2 * uniform() - 1; }

static void predicted_noise_is_the_measured_one(void **state)
{
	(void)state;
	seed = 7;
	static const enum st_dtype types[] = {
		ST_DTYPE_F16,  ST_DTYPE_BF16, ST_DTYPE_Q4_0, ST_DTYPE_Q4_1, ST_DTYPE_Q5_0,
		ST_DTYPE_Q5_1, ST_DTYPE_Q8_0, ST_DTYPE_Q4_K, ST_DTYPE_Q6_K,
	};
	for (size_t i = 0; i < sizeof types / sizeof *types; i++) {
		check_noise(types[i], normal, 1, 0.85, 1.15);
		check_noise(types[i], normal, 0.02, 0.7, 1.2);
		check_noise(types[i], heavy, 0.02, 0.5, 1.5);
		check_noise(types[i], flat, 0.05, 0.5, 2.0);
		/* Numbers so small that f16 scales go subnormal: some encoders lose the block, others save it, so the
		 * prediction is what may be lost. */
		check_noise(types[i], normal, 2e-6, 0, 2.0);
	}
}

/* The variance of a dot product is the sum over its elements. */
static void noise_of_a_product(void **state)
{
	(void)state;
	static const enum st_dtype types[] = { ST_DTYPE_BF16, ST_DTYPE_Q4_0, ST_DTYPE_Q6_K };
	seed = 11;
	for (size_t k = 0; k < 3; k++) {
		const struct st_dtype_info *info = st_dtype_info(types[k]);
		enum { N = 512, TRIALS = 400 };
		float x[N], w[N], q[N];
		uint8_t bytes[N * 4];
		double x2[N], out = 0, actual = 0;
		uint32_t block = st_noise_block(types[k]);
		for (int i = 0; i < N; i++)
			x[i] = (float)(i == 37 ? 50 : normal()); /* one massive activation */
		for (uint32_t b = 0; b < N / block; b++) {
			x2[b] = 0;
			for (uint32_t i = 0; i < block; i++)
				x2[b] += (double)x[b * block + i] * x[b * block + i];
		}
		for (int trial = 0; trial < TRIALS; trial++) {
			double e = 0;
			for (int i = 0; i < N; i++)
				w[i] = (float)(0.05 * normal());
			info->encode(w, bytes, N);
			info->decode(bytes, q, N);
			for (int i = 0; i < N; i++)
				e += ((double)q[i] - w[i]) * x[i];
			actual += e * e;
			struct st_tensor view = { .dtype = types[k], .scale = 1 };
			st_noise_dot(&view, q, N, x2, 1, &out);
		}
		double ratio = sqrt(actual / out);
		assert_true(ratio > 0.8 && ratio < 1.25);
	}
}

/* ---- configurations ---- */

static void configurations(void **state)
{
	(void)state;
	struct st_config a = { .arch = "llama",
		               .n_layers = 2,
		               .hidden = 64,
		               .norm_eps = 1e-5,
		               .rope_theta = 1e4,
		               .sliding_window = 0 },
			 b = a;
	struct st_config_diff d[ST_MAX_CONFIG_DIFFS];
	assert_int_equal(st_compare_configs(&a, &b, 10, d), 0);
	b.norm_eps = (float)1e-5; /* f32 in one container, decimals in the other */
	b.max_positions = 4096;
	b.sliding_window = 32;
	assert_int_equal(st_compare_configs(&a, &b, 10, d), 2);
	assert_false(d[0].matters || d[1].matters); /* a window of 32 hides nothing from 10 tokens */
	size_t n = st_compare_configs(&a, &b, 33, d);
	assert_int_equal(n, 2);
	assert_string_equal(d[0].key, "sliding_window");
	assert_true(d[0].matters);
	b = a;
	b.rope_theta = 1e6;
	assert_int_equal(st_compare_configs(&a, &b, 10, d), 1);
	assert_true(d[0].matters && d[0].stage == ST_STAGE_Q_POST_ROPE);
	assert_string_equal(d[0].a, "10000");
	assert_string_equal(d[0].b, "1000000");
	/* llama3's low and high factor count in proportion to the original length alone. */
	a.head_dim = 32;
	a.rope_scaling = ST_ROPE_SCALING_LLAMA3;
	a.rope_factor = 8;
	a.rope_low_freq = 2;
	a.rope_high_freq = 5;
	a.rope_original_positions = 128;
	b = a;
	b.rope_low_freq = 1;
	b.rope_high_freq = 2.5;
	b.rope_original_positions = 64;
	assert_int_equal(st_compare_configs(&a, &b, 10, d), 3);
	assert_false(d[0].matters || d[1].matters || d[2].matters);
	b.rope_high_freq = 2;
	assert_int_equal(st_compare_configs(&a, &b, 10, d), 3);
	assert_true(d[0].matters && d[1].matters && d[2].matters);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(metrics_agree_with_plain_sums),
		cmocka_unit_test(metrics_do_not_depend_on_threads),
		cmocka_unit_test(nothing_finite_is_hidden),
		cmocka_unit_test(zero_vectors_have_no_direction),
		cmocka_unit_test(tensors_of_any_type_and_cut),
		cmocka_unit_test(predicted_noise_is_the_measured_one),
		cmocka_unit_test(noise_of_a_product),
		cmocka_unit_test(configurations),
	};
	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
