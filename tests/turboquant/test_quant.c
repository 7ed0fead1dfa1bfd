/* quantiser: codebooks against MPFR and published figures, transform, packing, signs, cache writes. */
#include "tq_test.h"
#include "pools.h"

#include "turboquant/level.h"

#include <mpfr.h>

/* E[x | a < x < b] of N(0,1) with 200 bits; b may be infinite. */
static double exact_mean(double a, double b)
{
	mpfr_t fa, fb, pa, pb, t;
	mpfr_inits2(200, fa, fb, pa, pb, t, (mpfr_ptr)0);
	double x[2] = { a, b };
	for (int i = 0; i < 2; i++) {
		mpfr_ptr f = i ? fb : fa, p = i ? pb : pa;
		mpfr_set_d(t, x[i], MPFR_RNDN);
		if (isinf(x[i])) {
			mpfr_set_d(f, 0, MPFR_RNDN);
			mpfr_set_d(p, x[i] > 0 ? 0 : 2, MPFR_RNDN);
			continue;
		}
		mpfr_mul(f, t, t, MPFR_RNDN);
		mpfr_div_si(f, f, -2, MPFR_RNDN);
		mpfr_exp(f, f, MPFR_RNDN); /* sqrt(2 pi) times the density */
		mpfr_set_d(p, 2, MPFR_RNDN);
		mpfr_sqrt(p, p, MPFR_RNDN);
		mpfr_div(p, t, p, MPFR_RNDN);
		mpfr_erfc(p, p, MPFR_RNDN); /* twice the upper tail */
	}
	mpfr_sub(fa, fa, fb, MPFR_RNDN);
	mpfr_sub(pa, pa, pb, MPFR_RNDN);
	mpfr_const_pi(t, MPFR_RNDN);
	mpfr_mul_ui(t, t, 2, MPFR_RNDN);
	mpfr_sqrt(t, t, MPFR_RNDN);
	mpfr_div(fa, fa, t, MPFR_RNDN);
	mpfr_div(fa, fa, pa, MPFR_RNDN);
	mpfr_mul_ui(fa, fa, 2, MPFR_RNDN);
	double r = mpfr_get_d(fa, MPFR_RNDN);
	mpfr_clears(fa, fb, pa, pb, t, (mpfr_ptr)0);
	return r;
}

/* Both conditions of the optimum, from exact integrals. The levels of a fixed point of Lloyd's map lie within
 * move / (1 - contraction) of it; at 256 levels that factor is below 1e4. */
static void codebooks_are_optimal(void **state)
{
	(void)state;
	for (unsigned bits = 2; bits <= 8; bits++) {
		struct st_codebook cb;
		assert_true(st_codebook_generate(&cb, bits));
		assert_int_equal(cb.n, 1u << bits);
		for (unsigned i = 0; i < cb.n; i++) {
			double a = i ? 0.5 * (cb.level[i - 1] + cb.level[i]) : -INFINITY,
			       b = i + 1 < cb.n ? 0.5 * (cb.level[i] + cb.level[i + 1]) : INFINITY;
			double move = fabs(cb.level[i] - exact_mean(a, b));
			/* The levels are rounded to f64 in [0, 8): 4.4e-16 of each boundary and level. */
			if (move > 2e-15)
				fail_msg("%u bits, level %u moves by %g", bits, i, move);
			assert_true(cb.level[i] == -cb.level[cb.n - 1 - i]);
		}
	}
	struct st_codebook cb;
	assert_false(st_codebook_generate(&cb, 1));
	assert_false(st_codebook_generate(&cb, 9));
}

static void codebooks_match_published_figures(void **state)
{
	(void)state;
	static const struct {
		unsigned bits;
		double rmse;
	} rmse[] = { { 4, 0.097473 }, { 5, 0.050047 }, { 6, 0.025382 }, { 8, 0.006418 } };
	static const double two[] = { 0.4527800, 1.5104176 }, three[] = { 0.2450942, 0.7560053, 1.3439093, 2.1519457 };
	struct st_codebook cb;
	struct st_codebook_lint l;
	for (size_t i = 0; i < 4; i++) {
		st_codebook_generate(&cb, rmse[i].bits);
		st_codebook_lint(&cb, &l);
		assert_true(fabs(l.rmse - rmse[i].rmse) < 5e-7);
		assert_true(l.ok && l.lloyd_move < 1e-12);
	}
	st_codebook_generate(&cb, 2);
	for (int i = 0; i < 2; i++)
		assert_true(fabs(cb.level[2 + i] - two[i]) < 5.1e-8);
	st_codebook_generate(&cb, 3);
	for (int i = 0; i < 4; i++)
		assert_true(fabs(cb.level[4 + i] - three[i]) < 5.1e-8);
	st_codebook_generate(&cb, 4);
	for (int i = 0; i < 16; i++)
		assert_true(fabs(cb.level[i] - levels4[i]) < 5.1e-8);
	st_codebook_generate(&cb, 8);
	assert_true(fabs(cb.level[255] - 4.6035356) < 5.1e-8);
}

/* RMSE by a midpoint sum over the density: independent of the closed forms in the lint. */
static double plain_rmse(const double *level, unsigned n)
{
	double sum = 0;
	const double h = 1e-4;
	for (double x = -9 + h / 2; x < 9; x += h) {
		double best = 1e9;
		for (unsigned i = 0; i < n; i++)
			best = fmin(best, fabs(x - level[i]));
		sum += best * best * exp(-x * x / 2) * h / sqrt(2 * acos(-1));
	}
	return sqrt(sum);
}

/* The shipped 8-bit table is known by its outermost level and RMSE; a table with that outermost level and about
 * that RMSE - levels spread too far out - has to be caught, and so has one level slightly off. */
static void lint_catches(void **state)
{
	(void)state;
	struct st_codebook best, cb;
	struct st_codebook_lint l;
	struct st_error err = ST_ERROR_INIT;
	double level[256];
	st_codebook_generate(&best, 8);
	for (int i = 0; i < 256; i++)
		level[i] = best.level[i]
		         + (5.0652659 - best.level[255]) * pow(fabs(best.level[i] / best.level[255]), 3)
		                   * (i < 128 ? -1 : 1);
	assert_ok(st_codebook_from_levels(&cb, level, 256, &err), &err);
	st_codebook_lint(&cb, &l);
	assert_false(l.ok);
	assert_true(fabs(l.outermost - 5.0652659) < 1e-6 && l.distance > 0.4 && l.lloyd_move > 0.001);
	assert_true(fabs(l.rmse - plain_rmse(level, 256)) < 1e-6);
	assert_true(fabs(l.mse_excess - (l.rmse * l.rmse / (0.006418 * 0.006418) - 1)) < 1e-3);

	st_codebook_generate(&best, 4);
	memcpy(level, best.level, sizeof level);
	level[3] += 2e-6;
	assert_ok(st_codebook_from_levels(&cb, level, 16, &err), &err);
	st_codebook_lint(&cb, &l);
	assert_false(l.ok);
	assert_true(fabs(l.distance - 2e-6) < 1e-12);
	/* An asymmetric table with cells across zero. */
	for (int i = 0; i < 16; i++)
		level[i] = best.level[i] + 0.05;
	assert_ok(st_codebook_from_levels(&cb, level, 16, &err), &err);
	st_codebook_lint(&cb, &l);
	assert_true(!l.ok && fabs(l.asymmetry - 0.1) < 1e-9 && fabs(l.rmse - plain_rmse(level, 16)) < 1e-6);
	level[5] = level[4];
	assert_int_equal(st_codebook_from_levels(&cb, level, 16, &err), ST_ERR_FORMAT);
	st_error_clear(&err);
	assert_int_equal(st_codebook_from_levels(&cb, level, 12, &err), ST_ERR_USAGE);
}

/* The sign table as published, in hexadecimal. */
static void signs_match_the_table(void **state)
{
	(void)state;
	static const char hex[] = "a73b91f46dc2580eb37f24d68945ea1c63afd852970be13d76c419fe4a852cdb"
				  "d34ea8179c5be63172b90df5438a6ec7582f94e1b63d0a7cc561d84fa3971e85";
	for (uint32_t j = 0; j < 512; j++) {
		unsigned byte;
		sscanf(hex + 2 * (j / 8), "%2x", &byte);
		assert_true(st_tq_sign(j) == ((byte >> (j % 8) & 1) ? -1.0f : 1.0f));
	}
}

static void transform_is_the_hadamard_matrix(void **state)
{
	(void)state;
	FOR_LEVELS(cpu)
	{
		for (uint32_t d = 128; d <= 512; d *= 2) {
			float x[512], y[512];
			double a[512], b[512];
			fill_normal(x, d);
			for (uint32_t i = 0; i < d; i++)
				a[i] = x[i];
			memcpy(y, x, sizeof y);
			st_tq_level_get(cpu)->fwht(y, d);
			naive_hadamard(a, b, d);
			for (uint32_t i = 0; i < d; i++)
				assert_true(fabs(y[i] - b[i]) < 2e-6);
			st_tq_level_get(cpu)->fwht(y, d);
			for (uint32_t i = 0; i < d; i++)
				assert_true(fabs(y[i] - x[i]) < 2e-6);
			st_oracle_fwht(a, d);
			for (uint32_t i = 0; i < d; i++)
				assert_true(fabs(a[i] - b[i]) < 1e-12);
		}
	}
}

/* The format from its description: signs, matrix, norm, nearest level, nibbles - and what the codec wrote. A
 * coordinate within 1e-5 of a boundary may fall on either side. */
static void encoding_follows_the_format(void **state)
{
	(void)state;
	static const unsigned widths[] = { 4, 5, 6, 8 };
	struct st_error err = ST_ERROR_INIT;
	FOR_LEVELS(cpu)
	{
		for (int w = 0; w < 4; w++) {
			for (uint32_t d = 128; d <= 512; d *= 2) {
				struct st_tq_codec c;
				const unsigned bits = widths[w];
				const bool signs = (d / 128 + w) % 2;
				float x[512], norms[2], back[512];
				double a[512], y[512];
				uint8_t codes[512];
				assert_ok(st_tq_codec_init(&c, d, bits, signs, 1, cpu, &err), &err);
				fill_normal(x, d);
				for (uint32_t j = 0; j < d; j++)
					a[j] = (double)x[j] * 3.5 * (signs ? st_tq_sign(j) : 1);
				for (uint32_t j = 0; j < d; j++)
					x[j] *= 3.5f;
				naive_hadamard(a, y, d);
				st_tq_encode(&c, x, 1, codes, norms, NULL);
				st_tq_decode(&c, codes, norms, 1, back);
				const uint32_t nb = d == 512 ? 2 : 1, span = d / nb;
				double diff = 0, total = 0;
				for (uint32_t b = 0; b < nb; b++) {
					double ss = 0;
					for (uint32_t j = b * span; j < (b + 1) * span; j++)
						ss += y[j] * y[j];
					double norm = nb == 2 ? sqrt(ss / 256) : sqrt(ss);
					assert_true(fabs(norms[b] / norm - 1) < 1e-6);
					for (uint32_t j = b * span; j < (b + 1) * span; j++) {
						double v = nb == 2 ? y[j] / norm : y[j] * sqrt((double)d) / norm;
						unsigned code = bits == 4
						                      ? (j % 2 ? codes[j / 2] >> 4 : codes[j / 2] & 15)
						                      : codes[j];
						double near = 1e9, at = fabs(v - c.book.level[code]);
						for (unsigned k = 0; k < c.book.n; k++)
							near = fmin(near, fabs(v - c.book.level[k]));
						assert_true(at - near < 2e-5);
					}
				}
				for (uint32_t j = 0; j < d; j++) {
					diff += (back[j] - x[j]) * (back[j] - x[j]);
					total += x[j] * x[j];
				}
				static const double rmse[] = { 0.0975, 0.0500, 0.0254, 0.0064 };
				assert_true(fabs(sqrt(diff / total) / rmse[w] - 1) < 0.25);
			}
		}
	}
}

/* The midpoint itself belongs to the lower level; one step above it moves up. */
static void boundaries_are_strict(void **state)
{
	(void)state;
	struct st_codebook cb;
	st_codebook_generate(&cb, 4);
	FOR_LEVELS(cpu)
	{
		for (unsigned k = 0; k + 1 < cb.n; k++) {
			for (int above = 0; above < 2; above++) {
				/* Values of +-1 have a block RMS of exactly 1, so y = x: move a boundary onto 1 instead
				 * of a value onto a boundary. */
				float x[512], norms[2];
				uint8_t index[512];
				for (int j = 0; j < 512; j++)
					x[j] = j % 2 ? 1.0f : -1.0f;
				float bounds[16];
				memcpy(bounds, cb.bound_f32, sizeof bounds);
				bounds[k] = above ? nextafterf(1.0f, 0) : 1.0f;
				for (unsigned i = 0; i < k; i++)
					bounds[i] = -2 + (float)i * 0.01f;
				for (unsigned i = k + 1; i < 15; i++)
					bounds[i] = 2 + (float)i * 0.01f;
				st_tq_level_get(cpu)->quantise(x, 512, 4, bounds, true, index, norms);
				assert_true(norms[0] == 1.0f && norms[1] == 1.0f);
				assert_int_equal(index[1], above ? k + 1 : k);
			}
		}
	}
}

static void zero_and_tiny_vectors(void **state)
{
	(void)state;
	struct st_error err = ST_ERROR_INIT;
	FOR_LEVELS(cpu)
	{
		struct st_tq_codec c;
		float x[512] = { 0 }, norms[2] = { 7, 7 }, back[512];
		uint8_t codes[512];
		assert_ok(st_tq_codec_init(&c, 512, 4, true, 1, cpu, &err), &err);
		st_tq_encode(&c, x, 1, codes, norms, NULL);
		assert_true(norms[0] == 0 && norms[1] == 0);
		st_tq_decode(&c, codes, norms, 1, back);
		for (int j = 0; j < 512; j++)
			assert_true(back[j] == 0);
		assert_ok(st_tq_codec_init(&c, 128, 4, false, 1, cpu, &err), &err);
		x[0] = 5e-11f;
		st_tq_encode(&c, x, 1, codes, norms, NULL);
		assert_true(norms[0] == 0);
		x[0] = 2e-10f;
		st_tq_encode(&c, x, 1, codes, norms, NULL);
		assert_true(norms[0] > 0);
	}
}

static void levels_and_threads_agree(void **state)
{
	(void)state;
	static const unsigned widths[] = { 4, 5, 6, 8 };
	enum { N = 37 };
	struct st_error err = ST_ERROR_INIT;
	for (int w = 0; w < 4; w++) {
		for (uint32_t d = 128; d <= 512; d *= 2) {
			float *x = malloc(N * d * 4), *back = malloc(N * d * 4), *first = malloc(N * d * 4),
			      norms[2 * N], norms0[2 * N];
			uint8_t *codes = malloc(N * d), *codes0 = malloc(N * d);
			fill_normal(x, N * d);
			int seen = 0;
			FOR_LEVELS(cpu)
			{
				for (int threads = 1; threads <= 3; threads++) {
					struct st_tq_codec c;
					const size_t rb = st_tq_row_bytes(d, widths[w]), nb = st_tq_norm_blocks(d);
					assert_ok(st_tq_codec_init(&c, d, widths[w], true, 1, cpu, &err), &err);
					st_tq_encode(&c, x, N, codes, norms, pool_of(threads));
					st_tq_decode(&c, codes, norms, N, back);
					if (!seen++) {
						memcpy(codes0, codes, N * rb);
						memcpy(norms0, norms, N * nb * 4);
						memcpy(first, back, N * d * 4);
					}
					assert_memory_equal(codes, codes0, N * rb);
					assert_memory_equal(norms, norms0, N * nb * 4);
					assert_memory_equal(back, first, N * d * 4);
				}
			}
			free(x), free(back), free(first), free(codes), free(codes0);
		}
	}
}

static void f16_rounding(void **state)
{
	(void)state;
	static const struct {
		float x, y;
	} cases[] = {
		{ 0, 0 },
		{ 1, 1 },
		{ 1.00048828125f, 1 },
		{ 1.00048840f, 1.0009765625f },
		{ 1.00146484375f, 1.001953125f },
		{ 65504, 65504 },
		{ 65519.99f, 65504 },
		{ 65520, INFINITY },
		{ -65520, -INFINITY },
		{ 5.9604645e-8f, 5.9604645e-8f },
		{ 2.9802322e-8f, 0 },
		{ 2.98024e-8f, 5.9604645e-8f },
		{ 6.1035156e-5f, 6.1035156e-5f },
		{ 6.1005354e-5f, 6.1035156e-5f },
		{ -0.33325195f, -0.33325195f },
		{ 0.3333333f, 0.33325195f },
	};
	for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
		assert_true(st_tq_round_f16(cases[i].x) == cases[i].y);
	assert_true(isnan(st_tq_round_f16(NAN)));
}

static void ring_and_linear_writes(void **state)
{
	(void)state;
	struct st_error err = ST_ERROR_INIT;
	struct st_tq_codec c;
	struct st_tq_cache ring, linear;
	enum { CAP = 7, G = 2, D = 128, N = 17 };
	float x[N][G][D];
	assert_ok(st_tq_codec_init(&c, D, 4, true, 1, st_cpu_best(), &err), &err);
	assert_ok(st_tq_cache_init(&ring, &c, G, CAP, &err), &err);
	assert_ok(st_tq_cache_init(&linear, &c, G, CAP, &err), &err);
	for (int i = 0; i < N; i++) {
		fill_normal(&x[i][0][0], G * D);
		assert_int_equal(st_tq_ring_start((uint64_t)i, CAP), i < CAP ? 0 : i % CAP);
		assert_ok(st_tq_cache_append(&ring, &c, &x[i][0][0], true, &err), &err);
		if (i < CAP) {
			assert_ok(st_tq_cache_append(&linear, &c, &x[i][0][0], false, &err), &err);
			/* Same rows until the ring turns over. */
			assert_memory_equal(ring.codes, linear.codes, sizeof(uint8_t) * G * CAP * D / 2);
		} else {
			assert_int_equal(st_tq_cache_append(&linear, &c, &x[i][0][0], false, &err), ST_ERR_LIMIT);
			assert_string_equal(err.where, "kv_capacity");
			st_error_clear(&err);
		}
		/* Chronological order from ring_start gives the last positions, oldest first. */
		uint32_t start = st_tq_ring_start(ring.written, CAP),
			 len = ring.written < CAP ? (uint32_t)ring.written : CAP;
		for (uint32_t k = 0; k < len; k++) {
			uint64_t pos = ring.written - len + k;
			for (uint32_t g = 0; g < G; g++) {
				uint8_t codes[D / 2];
				float norm;
				st_tq_encode(&c, x[pos][g], 1, codes, &norm, NULL);
				size_t row = g * CAP + (start + k) % CAP;
				assert_memory_equal(codes, ring.codes + row * D / 2, D / 2);
				assert_true(norm == ring.norms[row]);
			}
		}
	}
	st_tq_cache_release(&ring);
	st_tq_cache_release(&linear);
}

static void codec_names_what_does_not_fit(void **state)
{
	(void)state;
	static const struct {
		uint32_t d;
		unsigned bits;
		double f;
		const char *where;
	} cases[] = {
		{ 64, 4, 1, "head_dim" },
		{ 0, 4, 1, "head_dim" },
		{ 384, 4, 1, "head_dim" },
		{ 256, 3, 1, "bits" },
		{ 256, 7, 1, "bits" },
		{ 512, 4, 0, "scale_factor_d512" },
		{ 512, 4, -1, "scale_factor_d512" },
		{ 512, 4, NAN, "scale_factor_d512" },
		{ 512, 4, INFINITY, "scale_factor_d512" },
	};
	for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
		struct st_error err = ST_ERROR_INIT;
		struct st_tq_codec c;
		assert_int_equal(
			st_tq_codec_init(&c, cases[i].d, cases[i].bits, false, cases[i].f, ST_CPU_SCALAR, &err),
			ST_ERR_USAGE);
		assert_string_equal(err.where, cases[i].where);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(codebooks_are_optimal),
		cmocka_unit_test(codebooks_match_published_figures),
		cmocka_unit_test(lint_catches),
		cmocka_unit_test(signs_match_the_table),
		cmocka_unit_test(transform_is_the_hadamard_matrix),
		cmocka_unit_test(encoding_follows_the_format),
		cmocka_unit_test(boundaries_are_strict),
		cmocka_unit_test(zero_and_tiny_vectors),
		cmocka_unit_test(levels_and_threads_agree),
		cmocka_unit_test(f16_rounding),
		cmocka_unit_test(ring_and_linear_writes),
		cmocka_unit_test(codec_names_what_does_not_fit),
	};
	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
