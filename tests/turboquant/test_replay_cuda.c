/* CUDA: transform, encode and attention against the CPU levels. Skips where no GPU can be used. */
#include "tq_test.h"

#include "turboquant/cuda/tq_cuda.h"

#define assert_cuda(expr)                              \
	do {                                           \
		const char *e_ = (expr);               \
		if (e_)                                \
			fail_msg("%s: %s", #expr, e_); \
	} while (0)

static void need_gpu(void)
{
	const char *why = st_tq_cuda_unavailable();
	if (why) {
		fprintf(stderr, "skipped: no GPU can be used here (%s)\n", why);
		skip();
	}
}

static void transform(void **state)
{
	(void)state;
	need_gpu();
	struct st_error err = ST_ERROR_INIT;
	for (uint32_t d = 256; d <= 512; d *= 2) {
		struct st_tq_codec c;
		enum { N = 33 };
		float *x = malloc(N * d * 4), *y = malloc(N * d * 4);
		assert_ok(st_tq_codec_init(&c, d, 4, true, 1, st_cpu_best(), &err), &err);
		fill_normal(x, N * d);
		memcpy(y, x, N * d * 4);
		assert_cuda(st_tq_cuda_fwht(y, N, d, c.sign));
		st_tq_rotate(&c, x, N);
		for (size_t i = 0; i < N * d; i++)
			assert_true(fabsf(x[i] - y[i]) < 2e-6f);
		free(x), free(y);
	}
}

/* Codes may differ by one where a coordinate lies within rounding of a boundary. */
static void encode(void **state)
{
	(void)state;
	need_gpu();
	struct st_error err = ST_ERROR_INIT;
	for (uint32_t d = 256; d <= 512; d *= 2) {
		struct st_tq_codec c;
		enum { N = 1000 };
		float *x = malloc(N * d * 4), n1[2 * N], n2[2 * N];
		uint8_t *c1 = malloc(N * d / 2), *c2 = malloc(N * d / 2);
		assert_ok(st_tq_codec_init(&c, d, 4, true, 1, st_cpu_best(), &err), &err);
		fill_normal(x, N * d);
		memset(x + 7 * d, 0, d * 4);
		st_tq_encode(&c, x, N, c1, n1, NULL);
		assert_cuda(st_tq_cuda_encode(x, N, d, c.sign, c.book.bound_f32, c2, n2));
		size_t differ = 0;
		for (size_t i = 0; i < N * d / 2; i++) {
			assert_true(abs((c1[i] & 15) - (c2[i] & 15)) <= 1 && abs((c1[i] >> 4) - (c2[i] >> 4)) <= 1);
			differ += c1[i] != c2[i];
		}
		assert_true(differ < N * d / 20000);
		for (size_t i = 0; i < N * (d / 256); i++)
			assert_true(fabsf(n1[i] - n2[i]) <= 1e-6f * n1[i]);
		free(x), free(c1), free(c2);
	}
}

static void attention(void **state)
{
	(void)state;
	need_gpu();
	static const struct st_tq_params cases[] = {
		{ 16, 8, 256, 1024, 1024, 0.0625, 2, 512, 0, 27, 1 },
		{ 8, 2, 512, 700, 900, 0.05, 0, 0, 30, 850, 1.5 },
		{ 6, 2, 256, 1, 16, 0.1, 1, 0, 0, 15, 1 },
		{ 3, 3, 512, 257, 300, 0.05, 2, 256, 0, 0, 1 },
	};
	struct st_error err = ST_ERROR_INIT;
	for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
		const struct st_tq_exec e = { .cpu = st_cpu_best(), .bits = 4, .signs = true };
		struct st_scene s;
		assert_ok(st_scene_init(&s, &cases[i], &e, &err), &err);
		const size_t n = (size_t)s.p.num_heads * s.p.head_dim;
		fill_normal(s.pre[0], (size_t)s.p.num_kv_heads * s.p.kv_seq_len * s.p.head_dim);
		fill_normal(s.pre[1], (size_t)s.p.num_kv_heads * s.p.kv_seq_len * s.p.head_dim);
		fill_normal(s.q, n);
		st_scene_encode(&s);
		struct st_tq_cuda_step step = { s.p.num_heads,
			                        s.p.num_kv_heads,
			                        s.p.head_dim,
			                        s.p.kv_seq_len,
			                        s.p.kv_capacity,
			                        s.p.ring_start,
			                        s.p.mask_type == ST_TQ_MASK_SLIDING ? s.p.sliding_window : 0,
			                        (float)s.p.scale,
			                        (float)s.p.softcap,
			                        s.p.head_dim == 512 ? (float)(1 / s.p.scale_factor_d512)
			                                            : 1 / sqrtf((float)s.p.head_dim),
			                        { 0 },
			                        s.codes[0],
			                        s.codes[1],
			                        s.norms[0],
			                        s.norms[1] };
		memcpy(step.levels, s.codec.book.level_f32, sizeof step.levels);
		float *q = malloc(n * 4);
		memcpy(q, s.q, n * 4);
		st_tq_rotate(&s.codec, q, s.p.num_heads);
		assert_cuda(st_tq_cuda_attention(&step, q, s.out));
		st_tq_unrotate(&s.codec, s.out, s.p.num_heads);
		double nrmse;
		assert_ok(st_scene_dequant(&s, &nrmse, &err), &err);
		if (!(nrmse < 1e-5))
			fail_msg("case %zu: nrmse %g against the oracle", i, nrmse);
		free(q);
		st_scene_release(&s);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(transform),
		cmocka_unit_test(encode),
		cmocka_unit_test(attention),
	};
	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
