/*
 * What a product with noisy weights may differ by: by chance hardly ever more than its bound, and a gain, whose
 * differences all pull one way, goes beyond it.
 */
#include "test.h"

#include "judge/floors.h"

#include <math.h>

enum { N = 96, K = 128, T = 50 };

static double uniform(uint64_t *s)
{
	*s = *s * 6364136223846793005u + 1442695040888963407u;
	return (double)(*s >> 11) * 0x1p-53;
}

static double normal(uint64_t *s)
{
	double u = uniform(s), v = uniform(s);
	return sqrt(-2 * log(u + 1e-300)) * cos(6.283185307179586 * v);
}

static float wa[N * K], wb[N * K], x[T * K];
static double local2[T];

static struct st_tensor tensor_of(float *data)
{
	return (struct st_tensor){ .dtype = ST_DTYPE_F32,
		                   .layout = ST_LAYOUT_ROWS,
		                   .ndim = 2,
		                   .shape = { N, K },
		                   .n_elems = N * K,
		                   .n_bytes = sizeof wa,
		                   .row_bytes = K * sizeof *data,
		                   .scale = 1,
		                   .data = (const uint8_t *)data };
}

/* How many tokens are beyond their bound. *mean: of local over expected */
static size_t beyond(double *mean)
{
	struct st_tensor ta = tensor_of(wa), tb = tensor_of(wb);
	struct st_weight a = { .tensor = &ta, .heads = 1 }, b = { .tensor = &tb, .heads = 1 };
	struct st_node na = { .op = ST_OP_LINEAR, .w = { &a }, .n_w = 1 },
		       nb = { .op = ST_OP_LINEAR, .w = { &b }, .n_w = 1 };
	struct st_token_bound bound[T];
	struct st_error err = ST_ERROR_INIT;
	for (int t = 0; t < T; t++) {
		local2[t] = 0;
		for (int n = 0; n < N; n++) {
			double d = 0;
			for (int k = 0; k < K; k++)
				d += ((double)wa[n * K + k] - wb[n * K + k]) * x[t * K + k];
			local2[t] += d * d;
		}
	}
	assert_ok(st_bound_of_linear(&na, &nb, x, T, local2, T, NULL, bound, &err), &err);
	size_t n = 0;
	*mean = 0;
	for (int t = 0; t < T; t++) {
		n += local2[t] > bound[t].allowed;
		*mean += local2[t] / bound[t].expected / T;
	}
	return n;
}

static void make(double noise, double gain, double offset, uint64_t seed)
{
	for (int i = 0; i < N * K; i++) {
		wb[i] = (float)normal(&seed);
		wa[i] = (float)(wb[i] * gain + offset + noise * (uniform(&seed) - 0.5));
	}
	for (int i = 0; i < T * K; i++) /* one channel far above the others, as models have it */
		x[i] = (float)(normal(&seed) * (i % K == 7 ? 300 : 1) + 0.5);
}

static void noise_stays_below(void **state)
{
	(void)state;
	double mean;
	for (uint64_t seed = 1; seed < 9; seed++) {
		make(0.1, 1, 0, seed);
		assert_int_equal(beyond(&mean), 0);
		assert_true(mean > 0.7 && mean < 1.3);
		make(1e-25, 1, 0, seed); /* no difference is left of it in f32 */
		for (int i = 0; i < N * K; i++) {
			wb[i] *= 1e-20f;
			wa[i] = (float)(wb[i] * (1 + 1e-3 * (uniform(&seed) - 0.5)));
		}
		assert_int_equal(beyond(&mean), 0);
		assert_true(mean > 0.7 && mean < 1.3);
	}
}

static void what_pulls_one_way_is_beyond(void **state)
{
	(void)state;
	double mean;
	make(0, 1.01, 0, 3); /* a gain alone, of outputs whose terms have one sign */
	for (int i = 0; i < N * K; i++) {
		wb[i] = fabsf(wb[i]);
		wa[i] = wb[i] * 1.01f;
	}
	for (int i = 0; i < T * K; i++)
		x[i] = 1 + fabsf(x[i]) / 300;
	assert_int_equal(beyond(&mean), T);
	make(0.01, 1, 0.01, 3); /* an offset */
	for (int i = 0; i < T * K; i++)
		x[i] = 1;
	assert_int_equal(beyond(&mean), T);
}

/*
 * Numbers beyond the last level of a coarse type become smaller, all of them, and where a product has one large
 * direction that shows in every output. A gain of the same size beside fine noise is none of it.
 */
static void coarse_types_shrink(void **state)
{
	(void)state;
	double mean;
	make(0, 1, 0, 3);
	for (int i = 0; i < N * K; i++)
		wb[i] = (float)((wb[i] + sin(i / K + 1)) / sqrt(1.5));
	for (int i = 0; i < T * K; i++)
		x[i] = 1;
	for (int i = 0; i < N * K; i++)
		wa[i] = (float)fmin(fmax(rint(wb[i] / 0.8), -2), 2) * 0.8f;
	double ab = 0, bb = 0;
	for (int i = 0; i < N * K; i++) {
		ab += (double)wa[i] * wb[i];
		bb += (double)wb[i] * wb[i];
	}
	assert_true(ab / bb < 0.99);
	assert_int_equal(beyond(&mean), 0);
	assert_true(mean > 1.5);
	for (int i = 0; i < N * K; i++)
		wa[i] = (float)(wb[i] * (ab / bb) + (i % 2 ? 0.01 : -0.01));
	assert_int_equal(beyond(&mean), T);
}

/* A matrix of one number is rounded to one number: its errors all pull one way, and are no more than rounding. */
static void equal_numbers_err_alike(void **state)
{
	(void)state;
	double mean;
	make(0.1, 1, 0, 3);
	for (int i = 0; i < N * K; i++) {
		wb[i] = i % 3 ? 0.0123f : -0.5f;
		wa[i] = i % 3 ? 0.0124f : -0.51f;
	}
	assert_int_equal(beyond(&mean), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(noise_stays_below),
		cmocka_unit_test(what_pulls_one_way_is_beyond),
		cmocka_unit_test(coarse_types_shrink),
		cmocka_unit_test(equal_numbers_err_alike),
	};
	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
