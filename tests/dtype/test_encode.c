/* dtype: what Stele writes - the reference's bytes where there are any, no worse than its search elsewhere. */
#include "support.h"

#include <stele/dtype.h>

#include "dtype/aprq.h"
#include "dtype/blocks.h"
#include "dtype/geometry.h"
#include "dtype/half.h"

#include <float.h>

/* Encode with both buffers against a guard page; the result is for the caller to free. */
static uint8_t *encode_guarded(enum st_dtype t, const float *x, size_t n, size_t *size)
{
	const struct st_dtype_info *info = st_dtype_info(t);
	*size = n / info->block_elems * info->block_bytes;
	uint8_t *out = malloc(*size + 1);
	for (int front = 0; front < 2; front++) {
		struct guarded src = guard(4 * n, front), dst = guard(*size, front);
		memcpy(src.p, x, 4 * n);
		info->encode((const float *)(const void *)src.p, dst.p, n);
		if (front)
			assert_memory_equal(out, dst.p, *size);
		memcpy(out, dst.p, *size);
		unguard(src);
		unguard(dst);
	}
	return out;
}

static void assert_bytes(const char *what, const uint8_t *got, const uint8_t *want, size_t n)
{
	for (size_t i = 0; i < n; i++)
		if (got[i] != want[i])
			fail_msg("%s: byte %zu is %02x, not %02x", what, i, got[i], want[i]);
}

static void reference_bytes(void **state)
{
	(void)state;
	static const enum st_dtype types[] = {
		ST_DTYPE_F16, ST_DTYPE_BF16, ST_DTYPE_Q4_0, ST_DTYPE_Q4_1, ST_DTYPE_Q5_0, ST_DTYPE_Q5_1, ST_DTYPE_Q8_0,
	};
	size_t n, size, want_size;
	float *x = load_npy_f32("quants/input.npy", &n);
	for (size_t i = 0; i < sizeof types / sizeof *types; i++) {
		char name[64];
		snprintf(name, sizeof name, "quants/%s.encoded.bin", st_dtype_info(types[i])->name);
		uint8_t *want = load_shared(name, &want_size), *got = encode_guarded(types[i], x, n, &size);
		assert_int_equal(size, want_size);
		assert_bytes(name, got, want, size);
		free(want);
		free(got);
	}
	free(x);
}

/* The bytes of ggml's own C encoders. The K-quants' search is the same in outline only, so for them what counts
 * is the loss; the bytes happen to agree on this input, and a change in that is worth knowing. */
static void ggml_bytes(void **state)
{
	(void)state;
	static const struct {
		enum st_dtype t;
		const char *stem;
	} cases[] = {
		{ ST_DTYPE_Q4_0, "q4_0_64" },  { ST_DTYPE_Q4_1, "q4_1_64" }, { ST_DTYPE_Q5_0, "q5_0_64" },
		{ ST_DTYPE_Q5_1, "q5_1_64" },  { ST_DTYPE_Q8_0, "q8_0_64" }, { ST_DTYPE_Q4_K, "q4_k_512" },
		{ ST_DTYPE_Q6_K, "q6_k_512" },
	};
	for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
		const struct st_dtype_info *info = st_dtype_info(cases[i].t);
		char name[80];
		size_t in_size, want_size, size;
		snprintf(name, sizeof name, "quants/ggml-neon/%s_noim_input.bin", cases[i].stem);
		float *x = (float *)(void *)load_shared(name, &in_size);
		snprintf(name, sizeof name, "quants/ggml-neon/%s_noim_expected.bin", cases[i].stem);
		uint8_t *want = load_shared(name, &want_size);
		size_t n = in_size / 4;
		uint8_t *got = encode_guarded(cases[i].t, x, n, &size);
		assert_int_equal(size, want_size);
		float *ours = malloc(in_size), *theirs = malloc(in_size);
		info->decode(got, ours, n);
		info->decode(want, theirs, n);
		assert_true(rel_rms(x, ours, n) <= 1.000001 * rel_rms(x, theirs, n));
		assert_bytes(name, got, want, size);
		free(x);
		free(want);
		free(got);
		free(ours);
		free(theirs);
	}
}

/* Zeros stay zeros; a block of one value loses no more than an f16 step does. */
static void zeros_and_constants(void **state)
{
	(void)state;
	for (unsigned t = 0; t < ST_DTYPE_COUNT; t++) {
		const struct st_dtype_info *info = st_dtype_info((enum st_dtype)t);
		if (!info->encode)
			continue;
		float x[ST_QKK] = { 0 }, y[ST_QKK];
		uint8_t bytes[4 * ST_QKK];
		info->encode(x, bytes, ST_QKK);
		info->decode(bytes, y, ST_QKK);
		for (size_t i = 0; i < ST_QKK; i++)
			assert_true(y[i] == 0);
		for (int sign = -1; sign <= 1; sign += 2) {
			for (size_t i = 0; i < ST_QKK; i++)
				x[i] = 3 * (float)sign;
			info->encode(x, bytes, ST_QKK);
			info->decode(bytes, y, ST_QKK);
			for (size_t i = 0; i < ST_QKK; i++)
				assert_true(fabsf(y[i] - x[i]) < 0.02f);
		}
	}
}

/* NaN, infinities, the largest and the smallest numbers: no trap, no write outside, and no undefined conversion
 * (the sanitizer build watches). */
static void wild_values(void **state)
{
	(void)state;
	static const float wild[] = { NAN,       -NAN,       INFINITY, -INFINITY, FLT_MAX, -FLT_MAX, FLT_MIN,
		                      0x1p-149f, -0x1p-149f, 1,        -1,        0,       -0.0f };
	struct st_xoshiro g;
	st_xoshiro_seed(&g, 3);
	for (unsigned t = 0; t < ST_DTYPE_COUNT; t++)
		for (unsigned round = 0; st_dtype_info((enum st_dtype)t)->encode && round < 200; round++) {
			float x[ST_QKK], y[ST_QKK];
			size_t size;
			for (size_t i = 0; i < ST_QKK; i++)
				x[i] = round < 13 ? wild[round]
				     : round & 1  ? wild[st_xoshiro_next(&g) % 13]
				                  : st_bits_f32((uint32_t)st_xoshiro_next(&g));
			uint8_t *bytes = encode_guarded((enum st_dtype)t, x, ST_QKK, &size);
			st_dtype_info((enum st_dtype)t)->decode(bytes, y, ST_QKK);
			free(bytes);
		}
}

/* A NaN among ordinary values costs its own element only, in the types with a scale per block. */
static void one_nan_spares_its_neighbours(void **state)
{
	(void)state;
	static const enum st_dtype types[] = { ST_DTYPE_Q4_0, ST_DTYPE_Q5_0, ST_DTYPE_Q8_0, ST_DTYPE_APR_Q4 };
	for (size_t k = 0; k < sizeof types / sizeof *types; k++) {
		float x[ST_QK], y[ST_QK];
		uint8_t bytes[4 * ST_QK];
		for (size_t i = 0; i < ST_QK; i++)
			x[i] = (float)i / 31;
		x[7] = NAN;
		st_dtype_info(types[k])->encode(x, bytes, ST_QK);
		st_dtype_info(types[k])->decode(bytes, y, ST_QK);
		for (size_t i = 0; i < ST_QK; i++)
			assert_true(i == 7 || fabsf(y[i] - x[i]) < 0.1f);
	}
}

/* AprQ4's order of nibbles and AprQ8's scale, on values that both types hold exactly. */
static void apr_types(void **state)
{
	(void)state;
	float x[64], y[64];
	uint8_t bytes[36];
	for (int i = 0; i < 64; i++)
		x[i] = 0.25f * (float)(i % 16 - 8);
	st_dtype_info(ST_DTYPE_APR_Q4)->encode(x, bytes, 64);
	assert_int_equal(bytes[0] | bytes[1] << 8, 0x3400); /* 0.25 */
	for (int i = 0; i < 8; i++)
		assert_int_equal(bytes[2 + i], 2 * i | (2 * i + 1) << 4);
	st_dtype_info(ST_DTYPE_APR_Q4)->decode(bytes, y, 64);
	assert_memory_equal(x, y, sizeof x);

	/* Numbers half-way between two codes go to the even one, so that they do not all grow. */
	static const float halves[] = { -8, 0.5f, 1.5f, 2.5f, -0.5f, -1.5f, -2.5f, -3.5f },
			   even[] = { -8, 0, 2, 2, 0, -2, -2, -4 };
	for (int i = 0; i < 32; i++)
		x[i] = halves[i % 8];
	st_dtype_info(ST_DTYPE_APR_Q4)->encode(x, bytes, 32);
	st_dtype_info(ST_DTYPE_APR_Q4)->decode(bytes, y, 32);
	for (int i = 0; i < 32; i++)
		assert_true(y[i] == even[i % 8]);

	int8_t q[4];
	float v[4] = { -254, 3, 5, NAN };
	assert_true(st_apr_q8_largest(0, v, 4) == 254 && st_apr_q8_largest(300, v, 4) == 300);
	assert_true(st_apr_q8_scale(254) == 2);
	st_apr_q8_encode(v, 4, 2, q);
	assert_int_equal(q[0], -127);
	assert_int_equal(q[1], 2); /* 1.5 goes away from zero */
	assert_int_equal(q[2], 3);
	assert_int_equal(q[3], 0);
}

/* Importances as an importance matrix has them: very unequal, some zero, and blocks where nothing is important. */
static void make_weighted(struct st_xoshiro *g, size_t n, float *x, float *importance)
{
	for (size_t i = 0; i < n; i++) {
		x[i] = normal(g);
		importance[i] = i % 13 == 0 || i / 256 == 3 ? 0 : expf(1.5f * normal(g));
	}
}

static double weighted_loss(const float *x, const float *y, const float *w, size_t n)
{
	double sum = 0;
	for (size_t i = 0; i < n; i++)
		sum += (double)w[i] * ((double)y[i] - (double)x[i]) * ((double)y[i] - (double)x[i]);
	return sum;
}

/* Where importances count, they lose less of what is important; and whatever a search weighs, every number gets the
 * code that is nearest under the scales as they are stored, or one at an end of the range. */
static void importances(void **state)
{
	(void)state;
	enum { N = 64 * 256 };
	struct st_xoshiro g;
	float *x = malloc(N * sizeof *x), *w = malloc(N * sizeof *w), *plain = malloc(N * sizeof *plain), *e[4];
	uint8_t *bytes = malloc(4 * N);
	for (int k = 0; k < 4; k++)
		e[k] = malloc(N * sizeof *e[k]);
	st_xoshiro_seed(&g, 9);
	make_weighted(&g, N, x, w);
	for (unsigned t = 0; t < ST_DTYPE_COUNT; t++) {
		const struct st_dtype_info *info = st_dtype_info((enum st_dtype)t);
		if (!info->encode || info->kind != ST_KIND_QUANT || t == ST_DTYPE_APR_Q8)
			continue;
		uint64_t size = N / info->block_elems * info->block_bytes;
		info->encode(x, bytes, N);
		info->decode(bytes, plain, N);
		st_dtype_encode((enum st_dtype)t, x, w, bytes, N);
		struct st_tensor s = {
			.dtype = (enum st_dtype)t,
			.layout = ST_LAYOUT_ROWS,
			.ndim = 2,
			.shape = { 1, N },
			.n_elems = N,
			.n_bytes = size,
			.row_bytes = size,
			.scale = 1,
			.data = bytes,
		};
		st_tensor_elements(&s, 0, &(struct st_elements){ e[0], e[1], e[2], e[3] });
		bool ignored = t == ST_DTYPE_Q8_0 || t == ST_DTYPE_APR_Q4;
		double before = weighted_loss(x, plain, w, N), after = weighted_loss(x, e[0], w, N);
		if (ignored ? after != before : !(after < 0.97 * before))
			fail_msg("%s: weighted loss %g with importances, %g without", info->name, after, before);
		for (size_t i = 0; i < N && !ignored; i++) {
			double d = (double)x[i] - (double)e[0][i], slack = 1e-5 * fabs((double)x[i]) + 1e-6;
			if (d > (double)e[2][i] / 2 + slack || -d > (double)e[1][i] / 2 + slack)
				fail_msg("%s element %zu: %g is stored as %g, with neighbours %g below and %g above",
				         info->name, i, (double)x[i], (double)e[0][i], (double)e[1][i],
				         (double)e[2][i]);
		}
	}
	for (int k = 0; k < 4; k++)
		free(e[k]);
	free(x);
	free(w);
	free(plain);
	free(bytes);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(reference_bytes),
		cmocka_unit_test(ggml_bytes),
		cmocka_unit_test(zeros_and_constants),
		cmocka_unit_test(wild_values),
		cmocka_unit_test(one_nan_spares_its_neighbours),
		cmocka_unit_test(apr_types),
		cmocka_unit_test(importances),
	};
	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
