/* Inputs, factors, products and stages against published digests, plain loops and exact arithmetic. */
#include "fixture.h"

#include "base/hash.h"

#include "svf/stages.h"

#include <math.h>

static struct st_pool *pool; /* of three threads */

static int start_threads(void **state)
{
	struct st_error err = ST_ERROR_INIT;
	(void)state;
	return st_pool_open(3, &pool, &err) != ST_OK;
}

static int end_threads(void **state)
{
	(void)state;
	st_pool_close(pool);
	return 0;
}

/* ---- the published vector ---- */

static void hash_of(const float *x, size_t n, char hex[65])
{
	struct st_error err = ST_ERROR_INIT;
	assert_ok(st_sha256_hex(x, n * sizeof *x, hex, &err), &err);
}

static void test_golden(void **state)
{
	(void)state;
	static const char *const files[] = { "svf/sakana_model_iter_60.npy",
		                             "svf/trinity_router_es_vector.safetensors" };
	for (size_t i = 0; i < 2; i++) {
		struct st_arena a;
		struct st_svf_vector v;
		struct st_svf_reference r;
		struct st_error err = ST_ERROR_INIT;
		char hex[65];
		st_arena_init(&a);
		assert_ok(st_svf_vector_read(shared_path(files[i]), &a, &v, &err), &err);
		assert_int_equal(v.n, 19456);
		assert_string_equal(v.sha256_f32, "435cbcf83792d53eeb6e7475afe7750ce9924e4466f989f18708187d4a59fd22");
		assert_string_equal(v.file_sha256,
		                    i ? "b9bf105b818cc32f3a25877b75adce1ec65e5201d524b929d217eb045a6ffa05"
		                      : "769f64ee4e01080ff67e64a677ed3ce5268da69cdf7a44810accb096ef64ab10");
		assert_string_equal(v.safetensors_sha256,
		                    "b9bf105b818cc32f3a25877b75adce1ec65e5201d524b929d217eb045a6ffa05");
		assert_ok(st_svf_reference_read(shared_path("svf/sakana_python_reference_manifest.json"), &v, &a, &r,
		                                &err),
		          &err);
		assert_int_equal(r.n, 9);
		assert_int_equal(r.n_scales, 9216);
		assert_int_equal(r.head_rows, 10);
		assert_int_equal(r.head_cols, 1024);
		assert_string_equal(r.entries[r.sample].source_name, "model.layers.26.mlp.gate_proj.weight");
		assert_int_equal(r.entries[r.sample].start, 5120);
		hash_of(v.f32 + 5120, 1024, hex);
		assert_string_equal(hex, "7adfd2e884f17fa9642ff20d98244953b4fe3e954fe9d177bc117fe5f55838b7");
		hash_of(v.f32 + 9216, 10240, hex);
		assert_string_equal(hex, "1897dfc218680a0bbdbd095c25857931f1c4842de81611574ea8bcc6a20342c3");
		/* Layers are turned, k and v though they are square; embedding and head are not. */
		for (size_t k = 0; k < 9; k++)
			assert_int_equal(r.entries[k].turned, k > 0 && k < 8);
		st_svf_reference_release(&r);
		st_arena_release(&a);
	}
}

static void test_names(void **state)
{
	(void)state;
	struct st_arena a;
	st_arena_init(&a);
	assert_string_equal(st_svf_safe_name(&a, "model.layers.26.mlp.gate_proj.weight"),
	                    "model.layers.26.mlp.gate_proj.weight");
	assert_string_equal(st_svf_safe_name(&a, "a/b c-d_e.f"), "a__b__c-d_e.f");
	assert_string_equal(st_svf_safe_name(&a, "\xC3\xA4x"), "__x");
	st_arena_release(&a);
}

/* ---- products ---- */

/* The contract as it is written: chains of 256 fused multiply-adds, added in order. */
static float contract(const float *a, const float *s, const float *b, size_t K, size_t stride)
{
	float total = 0;
	for (size_t k0 = 0; k0 < K; k0 += 256) {
		float sum = 0;
		for (size_t k = k0; k < K && k < k0 + 256; k++) {
			float x = a[k] * s[k];
			sum = fmaf(x, b[k * stride], sum);
		}
		total = k0 ? total + sum : sum;
	}
	return total;
}

static void test_gemm(void **state)
{
	(void)state;
	static const struct {
		size_t M, K, N;
	} sizes[] = { { 1, 1, 1 }, { 5, 3, 7 }, { 13, 64, 33 }, { 100, 300, 65 }, { 37, 513, 48 }, { 12, 256, 32 } };
	struct st_xoshiro g;
	st_xoshiro_seed(&g, 3);
	for (size_t c = 0; c < sizeof sizes / sizeof *sizes; c++) {
		size_t M = sizes[c].M, K = sizes[c].K, N = sizes[c].N;
		float *a = malloc(4 * M * K), *s = malloc(4 * K), *b = malloc(4 * K * N), *bt = malloc(4 * K * N),
		      *y = malloc(4 * M * N), *want = malloc(4 * M * N);
		for (size_t i = 0; i < M * K; i++)
			a[i] = (float)fx_uniform(&g);
		for (size_t i = 0; i < K; i++)
			s[i] = (float)(1.5 + fx_uniform(&g));
		for (size_t k = 0; k < K; k++)
			for (size_t n = 0; n < N; n++)
				bt[n * K + k] = b[k * N + n] = (float)fx_uniform(&g);
		for (size_t i = 0; i < M; i++)
			for (size_t n = 0; n < N; n++)
				want[i * N + n] = contract(a + i * K, s, b + n, K, N);
		for (int level = 0; level < ST_CPU_COUNT; level++) {
			if (!st_cpu_usable((enum st_cpu)level))
				continue;
			for (int threads = 0; threads < 2; threads++)
				for (int turned = 0; turned < 2; turned++) {
					struct st_gemm_b p;
					assert_true(st_gemm_pack(&p, (enum st_cpu)level, turned ? bt : b, turned, K, N,
					                         threads ? pool : NULL));
					memset(y, 0xAA, 4 * M * N);
					assert_true(st_gemm(&p, a, s, M, y, threads ? pool : NULL));
					assert_memory_equal(y, want, 4 * M * N);
					/* One row at a time. */
					memset(y, 0xAA, 4 * M * N);
					for (size_t i = 0; i < M; i++)
						assert_true(
							st_gemm(&p, a + i * K, s, 1, y + i * N, threads ? pool : NULL));
					assert_memory_equal(y, want, 4 * M * N);
					st_gemm_release(&p);
				}
		}
		free(a);
		free(s);
		free(b);
		free(bt);
		free(y);
		free(want);
	}
}

/* ---- decomposition ---- */

struct matrix {
	const float *w;
	uint64_t cols;
};

static enum st_status matrix_rows(void *ctx, uint64_t row0, uint64_t n, float *dst, struct st_error *err)
{
	const struct matrix *m = ctx;
	(void)err;
	memcpy(dst, m->w + row0 * m->cols, n * m->cols * sizeof *dst);
	return ST_OK;
}

static void decompose(uint64_t rows, uint64_t cols, enum st_svf_svd method)
{
	struct st_error err = ST_ERROR_INIT;
	struct st_xoshiro g;
	uint64_t k = rows < cols ? rows : cols;
	char path[] = "/tmp/stele-svd-XXXXXX";
	float *w = malloc(4 * rows * cols);
	struct st_svd_report r;
	int fd = mkstemp(path);
	assert_true(fd >= 0);
	close(fd);
	st_xoshiro_seed(&g, rows + cols);
	for (uint64_t i = 0; i < rows * cols; i++)
		w[i] = (float)fx_uniform(&g);
	const struct st_svf_entry e = { .source_name = "w", .safe = "w", .rows = rows, .cols = cols, .k = k };
	struct matrix m = { w, cols };
	assert_ok(st_svf_decompose(&e, (struct st_row_source){ .rows = matrix_rows, .ctx = &m }, method, pool, path, &r,
	                           NULL, &err),
	          &err);
	struct st_container *c;
	assert_ok(st_container_open(path, &c, &err), &err);
	float *u = fx_values(c, "svd.U.%s", "w"), *s = fx_values(c, "svd.S.%s", "w"),
	      *v = fx_values(c, "svd.V.%s", "w");
	double worst = 0, u_worst = 0, v_worst = 0, frobenius = 0, squares = 0;
	for (uint64_t i = 0; i<rows; i += rows> 500 ? 97 : 1)
		for (uint64_t j = 0; j < cols; j++) {
			double sum = 0;
			for (uint64_t q = 0; q < k; q++)
				sum += (double)u[i * k + q] * s[q] * v[j * k + q];
			worst = fmax(worst, fabs(sum - w[i * cols + j]));
		}
	for (uint64_t p = 0; p < k; p++)
		for (uint64_t q = 0; q <= p; q++) {
			double uu = 0, vv = 0;
			for (uint64_t i = 0; i < rows; i++)
				uu += (double)u[i * k + p] * u[i * k + q];
			for (uint64_t i = 0; i < cols; i++)
				vv += (double)v[i * k + p] * v[i * k + q];
			u_worst = fmax(u_worst, fabs(uu - (p == q)));
			v_worst = fmax(v_worst, fabs(vv - (p == q)));
		}
	for (uint64_t i = 0; i < rows * cols; i++)
		frobenius += (double)w[i] * w[i];
	for (uint64_t q = 0; q < k; q++) {
		squares += (double)s[q] * s[q];
		assert_true(q == 0 || s[q] <= s[q - 1]);
	}
	/* f32 factors: each product of three carries a few roundings of its size. */
	if (!(worst < 5e-7 * s[0] && u_worst < 2e-5 && v_worst < 2e-5))
		fail_msg("[%llu, %llu]: product off by %g, U by %g, V by %g", (unsigned long long)rows,
		         (unsigned long long)cols, worst, u_worst, v_worst);
	/* The singular values carry the whole norm. */
	assert_true(fabs(squares / frobenius - 1) < 1e-5);
	assert_true(r.residual_rel < 5e-6 && r.u_error < 2e-5 && r.v_error < 2e-5 && !(r.gap_min < 0));
	free(w);
	free(u);
	free(s);
	free(v);
	st_container_close(c);
	unlink(path);
}

static void test_svd(void **state)
{
	(void)state;
	decompose(64, 64, ST_SVF_GESDD);
	decompose(192, 40, ST_SVF_GESDD);
	decompose(40, 192, ST_SVF_GESDD);
	decompose(1, 5, ST_SVF_GESDD);
	decompose(20000, 24, ST_SVF_GESDD); /* two blocks of rows */
	decompose(24, 20000, ST_SVF_GESDD);
	decompose(96, 40, ST_SVF_GESVJ);
	decompose(17000, 8, ST_SVF_GESVJ);
}

/* ---- stages against the oracle ---- */

static void stages_match(uint64_t rows, uint64_t cols, enum st_svf_layout layout, uint64_t chunk, bool threads)
{
	struct st_error err = ST_ERROR_INIT;
	struct st_xoshiro g;
	uint64_t k = rows < cols ? rows : cols;
	float *w = malloc(4 * rows * cols), *o = malloc(4 * k), *u = malloc(4 * rows * k), *s = malloc(4 * k),
	      *v = malloc(4 * cols * k), *vh = malloc(4 * cols * k);
	struct fx_stages want;
	st_xoshiro_seed(&g, 9);
	/* No factors of anything: the formula does not care. */
	for (uint64_t i = 0; i < rows * cols; i++)
		w[i] = (float)fx_uniform(&g);
	for (uint64_t i = 0; i < rows * k; i++)
		u[i] = (float)(fx_uniform(&g) / 8);
	for (uint64_t i = 0; i < k; i++) {
		s[i] = (float)(3 + fx_uniform(&g));
		o[i] = (float)(0.1 * fx_uniform(&g));
	}
	for (uint64_t c = 0; c < cols; c++)
		for (uint64_t i = 0; i < k; i++)
			vh[i * cols + c] = v[c * k + i] = (float)(fx_uniform(&g) / 8);
	fx_compute(&want, w, o, u, s, v, rows, cols, false, FX_NONE);
	const struct st_tensor ut = { .name = "u",
		                      .dtype = ST_DTYPE_F32,
		                      .ndim = 2,
		                      .shape = { rows, k },
		                      .n_elems = rows * k,
		                      .n_bytes = 4 * rows * k,
		                      .row_bytes = 4 * k,
		                      .scale = 1,
		                      .data = (const uint8_t *)u };
	const struct st_svf_entry e = { .source_name = "w", .safe = "w", .rows = rows, .cols = cols, .k = k };
	const struct st_svf_factors f = { .u = &ut, .s = s, .v = layout == ST_SVF_TORCH_V ? v : vh, .layout = layout };
	struct matrix m = { w, cols };
	struct st_svf_engine eng;
	assert_ok(st_svf_engine_open(&eng, &e, &f, o, (struct st_row_source){ .rows = matrix_rows, .ctx = &m }, chunk,
	                             threads ? pool : NULL, &err),
	          &err);
	assert_memory_equal(eng.offsets, want.offsets, 4 * k);
	assert_memory_equal(eng.scaled, want.scaled, 4 * k);
	assert_true(fabs((double)eng.norm - (double)want.norm) < 1e-6);
	for (uint64_t r = 0; r < rows; r += eng.chunk) {
		uint64_t n = rows - r < eng.chunk ? rows - r : eng.chunk;
		assert_ok(st_svf_engine_rows(&eng, r, n, &err), &err);
		assert_memory_equal(eng.src, want.source + r * cols, 4 * n * cols);
		assert_memory_equal(eng.u_scaled, want.u_scaled + r * k, 4 * n * k);
		for (uint64_t i = 0; i < n * cols; i++) {
			assert_true(fabs((double)eng.matmul[i] - (double)want.matmul[r * cols + i]) < 5e-6);
			assert_true(fabs((double)eng.zero[i] - (double)want.zero[r * cols + i]) < 5e-6);
			assert_true(fabs((double)eng.adapted[i] - (double)want.adapted[r * cols + i]) < 5e-6);
			/* Round to nearest even by the definition: no bf16 is nearer. */
			double x = eng.adapted[i], b = st_bf16_to_f32(eng.bf16[i]),
			       up = st_bf16_to_f32((uint16_t)(eng.bf16[i] + 1)),
			       down = eng.bf16[i] & 0x7FFF ? st_bf16_to_f32((uint16_t)(eng.bf16[i] - 1)) : b;
			assert_true(fabs(x - b) <= fabs(x - up) && fabs(x - b) <= fabs(x - down));
			assert_true(eng.bf16[i] % 2 == 0
			            || (fabs(x - b) < fabs(x - up) && fabs(x - b) < fabs(x - down)));
		}
	}
	st_svf_engine_close(&eng);
	fx_free(&want);
	free(w);
	free(o);
	free(u);
	free(s);
	free(v);
	free(vh);
}

static void test_engine(void **state)
{
	(void)state;
	stages_match(64, 64, ST_SVF_TORCH_V, 0, true);
	stages_match(64, 64, ST_SVF_VH, 7, false);
	stages_match(300, 48, ST_SVF_TORCH_V, 64, true);
	stages_match(48, 300, ST_SVF_NX, 48, true);
	stages_match(9, 1, ST_SVF_TORCH_V, 4, false);
	stages_match(3, 700, ST_SVF_TORCH_V, 2, false);
}

static void test_bad_numbers(void **state)
{
	(void)state;
	float u[16], s[4] = { 4, 3, 2, 1 }, v[16], w[16], o[4] = { 0 };
	const struct st_tensor ut = { .name = "u",
		                      .dtype = ST_DTYPE_F32,
		                      .ndim = 2,
		                      .shape = { 4, 4 },
		                      .n_elems = 16,
		                      .n_bytes = 64,
		                      .row_bytes = 16,
		                      .scale = 1,
		                      .data = (const uint8_t *)u };
	const struct st_svf_entry e = { .source_name = "the.tensor", .safe = "w", .rows = 4, .cols = 4, .k = 4 };
	const struct st_svf_factors f = { .u = &ut, .s = s, .v = v };
	struct matrix m = { w, 4 };
	struct st_svf_engine eng;
	for (int i = 0; i < 16; i++)
		u[i] = v[i] = w[i] = 0.5f;
	/* Sums of scaled singular values that cannot be divided by, and numbers that are none. */
	static const struct {
		float o[4];
		const char *says;
	} bad[] = {
		{ { -1, -1, -1, -1 }, "sum to 0" },
		{ { NAN, 0, 0, 0 }, "offset 0 is not finite" },
		{ { 0, 0, INFINITY, 0 }, "offset 2 is not finite" },
		{ { 3e38f, 3e38f, 0, 0 }, "sum to inf" },
	};
	for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
		struct st_error err = ST_ERROR_INIT;
		assert_int_not_equal(st_svf_engine_open(&eng, &e, &f, bad[i].o,
		                                        (struct st_row_source){ .rows = matrix_rows, .ctx = &m }, 0,
		                                        NULL, &err),
		                     ST_OK);
		assert_non_null(strstr(err.message, bad[i].says));
		assert_string_equal(err.where, "the.tensor");
	}
	for (int i = 0; i < 2; i++) {
		struct st_error err = ST_ERROR_INIT;
		(i ? w : u)[13] = NAN;
		assert_ok(st_svf_engine_open(&eng, &e, &f, o, (struct st_row_source){ .rows = matrix_rows, .ctx = &m },
		                             0, NULL, &err),
		          &err);
		assert_int_not_equal(st_svf_engine_rows(&eng, 0, 4, &err), ST_OK);
		assert_non_null(strstr(err.message, i ? "not finite" : "number 1 of row 3 is nan"));
		st_svf_engine_close(&eng);
		(i ? w : u)[13] = 0.5f;
	}
}

/* ---- metrics ---- */

static void test_metrics(void **state)
{
	(void)state;
	uint64_t n = 200000;
	float *a = malloc(4 * n), *b = malloc(4 * n);
	struct st_distance m = { .want = 3 };
	for (uint64_t i = 0; i < n; i++)
		a[i] = b[i] = (float)(i % 1000) / 7;
	b[150001] += 4;
	b[77] += 2;
	b[199999] -= 1;
	b[5] += 0.5f;
	st_distance_add(&m, a, b, 1000, pool);
	st_distance_add(&m, a + 1000, b + 1000, n - 1000, pool);
	assert_int_equal(m.count, n);
	assert_int_equal(m.mismatched, 4);
	assert_int_equal(m.n_worst, 3);
	assert_int_equal(m.worst[0].index, 150001);
	assert_int_equal(m.worst[1].index, 77);
	assert_int_equal(m.worst[2].index, 199999);
	assert_true(fabs(m.s.max - 4) < 1e-4 && fabs(st_distance_mean(&m) * (double)n - 7.5) < 1e-3);
	b[9] = NAN;
	memset(&m, 0, sizeof m);
	st_distance_add(&m, a, b, n, pool);
	assert_true(isinf(m.s.max) && m.s.apart == 1 && m.s.bad_b == 1 && m.worst[0].index == 9);
	/* Distances in units of the last place of bf16, across zero too. */
	float x[] = { 1, 1, 1, 1, 0, 1, 1, INFINITY },
	      y[] = { 1, 1.0078125f, 1.015625f, 1.03125f, -0.0f, 1.0625f, 2, 1 };
	m = (struct st_distance){ .by_ulps = true };
	st_distance_add(&m, x, y, 8, pool);
	static const uint64_t want[ST_ULP_CLASSES] = { 2, 1, 1, 1, 1, 1, 0, 1 };
	assert_memory_equal(m.ulps, want, sizeof want);
	free(a);
	free(b);
}

static void test_passed(void **state)
{
	(void)state;
	static const struct st_svf_tolerance t = { 0.5, 0.25, true };
	static const struct {
		float a[2], b[2];
		uint64_t n;
		bool passed;
	} cases[] = {
		{ { 1, 2 }, { 1, 2 }, 2, true },
		{ { 1, 2 }, { 1.5f, 2 }, 2, true },
		{ { 1, 2 }, { 1.5f, 2.5f }, 2, false },
		{ { 1, 2 }, { 1.75f, 2 }, 2, false },
		{ { 0, 0 }, { 0, 0 }, 0, false },
		{ { NAN, 2 }, { NAN, 2 }, 2, false },
		{ { 1, INFINITY }, { 1, INFINITY }, 2, false },
		{ { 1, NAN }, { 1, 2 }, 2, false },
		{ { 1, 2 }, { -INFINITY, 2 }, 2, false },
	};
	for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
		struct st_distance m = { .want = 1 };
		st_distance_add(&m, cases[i].a, cases[i].b, cases[i].n, NULL);
		if (st_svf_passed(&m, &t) != cases[i].passed)
			fail_msg("case %zu", i);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_golden),  cmocka_unit_test(test_names),  cmocka_unit_test(test_gemm),
		cmocka_unit_test(test_svd),     cmocka_unit_test(test_engine), cmocka_unit_test(test_bad_numbers),
		cmocka_unit_test(test_metrics), cmocka_unit_test(test_passed),
	};
	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests_name("svf stages", tests, start_threads, end_threads);
}
