/*
 * st_matmul against the contract of docs/numerics.md, written out here as plain loops: for every stored
 * type, layout, level, mode, number of threads and of tokens the result has exactly those bits.
 */
#include "kernel_test.h"
#include "pools.h"

#include "dtype/geometry.h"
#include "dtype/half.h"
#include "kernel/kernels.h"

static void random_block(struct st_xoshiro *r, enum st_dtype t, uint8_t *p, size_t bytes)
{
	for (size_t i = 0; i < bytes; i++)
		p[i] = (uint8_t)st_xoshiro_next(r);
	float f = uniform(r), g = uniform(r) * 0.1f;
	double d = (double)f;
	switch (t) {
	case ST_DTYPE_F32:
		memcpy(p, &f, 4);
		return;
	case ST_DTYPE_F64:
		memcpy(p, &d, 8);
		return;
	case ST_DTYPE_F8_E4M3:
	case ST_DTYPE_F8_E5M2:
		p[0] &= 0xBB;
		return; /* no infinities, no NaN */
	case ST_DTYPE_F16:
		memcpy(p, &(uint16_t){ st_f32_to_f16(f) }, 2);
		return;
	case ST_DTYPE_BF16:
		memcpy(p, &(uint16_t){ st_f32_to_bf16(f) }, 2);
		return;
	case ST_DTYPE_Q8_1: /* d and the sum */
		memcpy(p + 2, &(uint16_t){ st_f32_to_f16(g) }, 2);
		break;
	/* Types whose blocks have no descriptor: where their factor lies. */
	case ST_DTYPE_IQ1_S:
	case ST_DTYPE_IQ2_XXS:
	case ST_DTYPE_IQ2_XS:
	case ST_DTYPE_IQ2_S:
	case ST_DTYPE_IQ3_XXS:
	case ST_DTYPE_IQ3_S:
		memcpy(p, &(uint16_t){ st_f32_to_f16(g) }, 2);
		return;
	case ST_DTYPE_TQ1_0:
		memcpy(p + 52, &(uint16_t){ st_f32_to_f16(g) }, 2);
		return;
	case ST_DTYPE_IQ1_M: /* four bits in the top of each of four words */
		for (int j = 0; j < 4; j++)
			p[49 + 2 * j] = (uint8_t)((p[49 + 2 * j] & 0x0F) | (st_f32_to_f16(g) >> (4 * j) & 15) << 4);
		return;
	default:
		break;
	}
	/* The factors of a block are finite numbers. */
	const struct st_geometry *geometry = st_dtype_geometry(t);
	const int at[2] = { geometry->d_at, geometry->m_at };
	for (int j = 0; j < 2; j++) {
		if (at[j] < 0)
			continue;
		if (geometry->factor == ST_FACTOR_F16)
			memcpy(p + at[j], &(uint16_t){ st_f32_to_f16(g) }, 2);
		else if (geometry->factor == ST_FACTOR_F32)
			memcpy(p + at[j], &g, 4);
		else
			p[at[j]] = (uint8_t)(120 + p[at[j]] % 10);
	}
}

/* A [N, K] tensor of random blocks; ragged rows get whole blocks. gap: bytes between rows. The bytes
 * lie between guard pages, at an odd address when the layout allows it (side 1). */
static void make_tensor(struct st_xoshiro *r, struct st_tensor *w, struct guarded *g, enum st_dtype t,
                        enum st_layout layout, size_t N, size_t K, size_t gap, int side)
{
	const struct st_dtype_info *info = st_dtype_info(t);
	size_t be = info->block_elems, bb = info->block_bytes;
	memset(w, 0, sizeof *w);
	w->name = "w";
	w->dtype = t;
	w->layout = layout;
	w->ndim = 2;
	w->shape[0] = N;
	w->shape[1] = K;
	w->n_elems = N * K;
	w->scale = t == ST_DTYPE_APR_Q8 ? 0.0123f : 1.0f;
	size_t row = (K + be - 1) / be * bb, blocks = layout == ST_LAYOUT_FLAT ? (N * K + be - 1) / be : 0;
	w->row_bytes = layout == ST_LAYOUT_ROWS ? row + gap : 0;
	w->n_bytes = layout == ST_LAYOUT_FLAT ? blocks * bb : (N - 1) * (row + gap) + row;
	uint8_t *p = guard_alloc(g, w->n_bytes, side);
	w->data = p;
	if (layout == ST_LAYOUT_FLAT) {
		for (size_t i = 0; i < blocks; i++)
			random_block(r, t, p + i * bb, bb);
	} else {
		for (size_t n = 0; n < N; n++)
			for (size_t i = 0; i < row / bb; i++)
				random_block(r, t, p + n * (row + gap) + i * bb, bb);
	}
	if (layout == ST_LAYOUT_STRIDED) { /* the same bytes read as [K, N] transposed */
		w->strides[0] = 1;
		w->strides[1] = (int64_t)N;
	}
}

/* ---- the contract ---- */

static float fast_sum(const float *w, const float *x, size_t K)
{
	float acc[16] = { 0 };
	for (size_t k = 0; k < (K + 15) / 16 * 16; k++)
		acc[k % 16] = fmaf(k < K ? w[k] : 0, k < K ? x[k] : 0, acc[k % 16]);
	for (int h = 8; h; h /= 2)
		for (int l = 0; l < h; l++)
			acc[l] = acc[l] + acc[l + h];
	return acc[0];
}

static float exact_sum(const float *w, const float *x, size_t K)
{
	double acc[8] = { 0 };
	for (size_t k = 0; k < (K + 7) / 8 * 8; k++)
		acc[k % 8] = fma(k < K ? (double)w[k] : 0, k < K ? (double)x[k] : 0, acc[k % 8]);
	for (int h = 4; h; h /= 2)
		for (int l = 0; l < h; l++)
			acc[l] = acc[l] + acc[l + h];
	return (float)acc[0];
}

/* An activation row as the mode stores it. */
static void store_row(enum st_mode mode, const float *x, size_t K, float *y)
{
	for (size_t i = 0; i < K; i++)
		y[i] = mode == ST_MODE_EMULATE_F16  ? st_f16_to_f32(st_f32_to_f16(x[i]))
		     : mode == ST_MODE_EMULATE_BF16 ? st_bf16_to_f32(st_f32_to_bf16(x[i]))
		                                    : x[i];
	size_t block = mode == ST_MODE_EMULATE_Q8_K && K % 256 == 0 ? 256 : 32;
	if ((mode != ST_MODE_EMULATE_Q8_0 && mode != ST_MODE_EMULATE_Q8_K) || K % 32 != 0)
		return;
	for (size_t b = 0; b < K; b += block) {
		float top = 0; /* signed value of the largest magnitude */
		for (size_t i = 0; i < block; i++)
			top = fabsf(x[b + i]) > fabsf(top) ? x[b + i] : top;
		for (size_t i = 0; i < block; i++) {
			if (block == 256) {
				float s = -127.0f / top, q = top == 0 ? 0 : nearbyintf(x[b + i] * s);
				y[b + i] = top == 0 ? 0 : 1.0f / s * fminf(q, 127);
			} else {
				float d = fabsf(top) / 127.0f, s = d != 0 ? 1.0f / d : 0, q = roundf(x[b + i] * s);
				y[b + i] = st_f16_to_f32(st_f32_to_f16(d)) * q;
			}
		}
	}
}

/* y: [T, N] by the contract */
static void contract(enum st_mode mode, const struct st_tensor *w, const float *x, size_t T, size_t N, size_t K,
                     float *y)
{
	float *row = malloc(K * sizeof *row), *xs = malloc(T * K * sizeof *xs);
	for (size_t t = 0; t < T; t++)
		store_row(mode, x + t * K, K, xs + t * K);
	for (size_t n = 0; n < N; n++) {
		st_tensor_decode(w, n, 1, row);
		if (mode == ST_MODE_EMULATE_F16 || mode == ST_MODE_EMULATE_BF16)
			store_row(mode, row, K, row);
		for (size_t t = 0; t < T; t++)
			y[t * N + n] = mode == ST_MODE_EXACT ? exact_sum(row, xs + t * K, K)
			                                     : fast_sum(row, xs + t * K, K);
	}
	free(row);
	free(xs);
}

/* Every level, several thread counts, against expected bits; y and x between guard pages. */
static void check_levels(enum st_mode mode, const struct st_tensor *w, const float *x, size_t T, size_t N, size_t K,
                         int side)
{
	const struct st_kernels *levels[ST_CPU_COUNT];
	size_t n_levels = usable_levels(levels);
	float *want = malloc(T * N * sizeof *want);
	contract(mode, w, x, T, N, K, want);
	struct guarded gx, gy, gs;
	float *xs = guard_alloc(&gx, T * K * sizeof *xs, side);
	memcpy(xs, x, T * K * sizeof *xs);
	size_t ldy = N + 3;
	float *y = guard_alloc(&gy, ((T - 1) * ldy + N) * sizeof *y, side);
	for (size_t l = 0; l < n_levels; l++)
		for (int threads = 1; threads <= 3; threads++) {
			struct st_exec e = { .k = levels[l], .mode = mode, .pool = pool_of(threads) };
			void *scratch = guard_alloc(&gs, st_matmul_scratch(&e, T, K), side);
			memset(scratch, 0xFF, st_matmul_scratch(&e, T, K)); /* NaN wherever it is read unwritten */
			memset(y, 0xFF, ((T - 1) * ldy + N) * sizeof *y);
			st_matmul(&e, w, xs, T, K, y, ldy, scratch);
			for (size_t t = 0; t < T; t++)
				for (size_t n = 0; n < N; n++)
					if (memcmp(&y[t * ldy + n], &want[t * N + n], 4) != 0)
						fail_msg("%s %s, layout %d, %s, %d threads: T %zu N %zu K %zu side %d: "
						         "y[%zu][%zu] is %a, contract says %a",
						         st_dtype_info(w->dtype)->name, st_mode_name(mode), w->layout,
						         st_cpu_name(st_kernels_cpu(levels[l])), threads, T, N, K, side,
						         t, n, (double)y[t * ldy + n], (double)want[t * N + n]);
			for (size_t t = 0; t + 1 < T; t++) /* nothing written between rows */
				for (size_t n = N; n < ldy; n++)
					assert_true(isnan(y[t * ldy + n]));
			guard_free(&gs);
		}
	guard_free(&gx);
	guard_free(&gy);
	free(want);
}

static void run(enum st_dtype t, enum st_layout layout, enum st_mode mode, size_t T, size_t N, size_t K, size_t gap,
                int side)
{
	struct st_xoshiro r;
	st_xoshiro_seed(&r, (uint64_t)t * 1000 + T * 100 + N * 10 + K);
	struct st_tensor w;
	struct guarded g;
	make_tensor(&r, &w, &g, t, layout, N, K, gap, side);
	float *x = malloc(T * K * sizeof *x);
	fill_values(&r, x, T * K);
	check_levels(mode, &w, x, T, N, K, side);
	free(x);
	guard_free(&g);
}

static void every_type_has_the_contracts_bits(void **state)
{
	(void)state;
	static const size_t Ks[] = { 256, 1280, 2304 };
	for (int t = 0; t < ST_DTYPE_COUNT; t++)
		for (size_t i = 0; i < 3; i++)
			for (int mode = ST_MODE_EXACT; mode <= ST_MODE_FAST; mode++)
				run((enum st_dtype)t, ST_LAYOUT_ROWS, (enum st_mode)mode, 3, 37, Ks[i], 0,
				    (int)(i % 2));
}

static void ragged_rows_and_other_layouts(void **state)
{
	(void)state;
	for (int t = 0; t < ST_DTYPE_COUNT; t++)
		for (int side = 0; side < 2; side++) {
			run((enum st_dtype)t, ST_LAYOUT_ROWS, ST_MODE_FAST, 2, 5, 1100, 6, side);
			run((enum st_dtype)t, ST_LAYOUT_ROWS, ST_MODE_EXACT, 2, 5, 77, 3, side);
			run((enum st_dtype)t, ST_LAYOUT_FLAT, ST_MODE_FAST, 5, 21, 300, 0, side);
			run((enum st_dtype)t, ST_LAYOUT_FLAT, ST_MODE_EXACT, 5, 21, 1100, 0, side);
			run((enum st_dtype)t, ST_LAYOUT_FLAT, ST_MODE_FAST, 4, 18, 512, 0, side);
			if (st_dtype_info((enum st_dtype)t)->block_elems == 1) {
				run((enum st_dtype)t, ST_LAYOUT_STRIDED, ST_MODE_FAST, 2, 19, 53, 0, side);
				run((enum st_dtype)t, ST_LAYOUT_STRIDED, ST_MODE_EXACT, 2, 19, 53, 0, side);
			}
		}
}

/* Where tiles end: all small T, N and K around lane counts and blocks. */
static void every_tile_shape(void **state)
{
	(void)state;
	static const size_t Ks[] = { 1, 2, 7, 8, 9, 15, 16, 17, 31, 33, 100, 1023, 1024, 1025 };
	static const size_t Ns[] = { 1, 2, 3, 4, 5, 8, 9, 16, 17, 35 };
	for (size_t T = 1; T <= 9; T++)
		for (size_t i = 0; i < sizeof Ks / sizeof Ks[0]; i++)
			for (size_t j = 0; j < sizeof Ns / sizeof Ns[0]; j++) {
				run(ST_DTYPE_F32, ST_LAYOUT_ROWS, ST_MODE_FAST, T, Ns[j], Ks[i], 0, (int)(T % 2));
				run(ST_DTYPE_F16, ST_LAYOUT_ROWS, ST_MODE_EXACT, T, Ns[j], Ks[i], 0, (int)(j % 2));
			}
}

/* The functions that decode as they multiply take up to 4 tokens and rows by fours; 5 tokens go the long way. */
static void few_tokens(void **state)
{
	(void)state;
	static const enum st_dtype types[] = { ST_DTYPE_Q4_0, ST_DTYPE_Q8_0, ST_DTYPE_Q4_K, ST_DTYPE_Q5_K,
		                               ST_DTYPE_Q6_K };
	for (size_t t = 0; t < 5; t++)
		for (size_t T = 1; T <= 5; T++)
			for (size_t N = 1; N <= 9; N += 2)
				for (int mode = ST_MODE_EXACT; mode <= ST_MODE_FAST; mode++)
					run(types[t], ST_LAYOUT_ROWS, (enum st_mode)mode, T, N, N == 3 ? 768 : 256,
					    N == 5 ? 3 : 0, (int)(N / 2 % 2));
}

static void many_tokens_and_wide_matrices(void **state)
{
	(void)state;
	run(ST_DTYPE_Q8_0, ST_LAYOUT_ROWS, ST_MODE_FAST, 64, 33, 1056, 0, 1);
	run(ST_DTYPE_F32, ST_LAYOUT_ROWS, ST_MODE_FAST, 97, 19, 515, 0, 1);
	run(ST_DTYPE_Q4_K, ST_LAYOUT_ROWS, ST_MODE_EXACT, 200, 17, 512, 0, 1);
	run(ST_DTYPE_Q6_K, ST_LAYOUT_ROWS, ST_MODE_FAST, 4, 1000, 1024, 0, 0);
}

static void emulated_operands(void **state)
{
	(void)state;
	static const size_t Ks[] = { 19, 32, 96, 256, 1312, 2304 };
	static const enum st_dtype types[] = { ST_DTYPE_F32, ST_DTYPE_Q8_0, ST_DTYPE_F16, ST_DTYPE_Q4_K };
	for (int mode = ST_MODE_EMULATE_F16; mode < ST_MODE_COUNT; mode++)
		for (size_t i = 0; i < sizeof Ks / sizeof Ks[0]; i++)
			for (size_t t = 0; t < 4; t++) {
				run(types[t], ST_LAYOUT_ROWS, (enum st_mode)mode, 5, 18, Ks[i], 0, (int)(i % 2));
				run(types[t], ST_LAYOUT_FLAT, (enum st_mode)mode, 2, 18, Ks[i], 0, (int)(i % 2));
			}
}

/* Against f64 sums in the plainest order, with the error a sum of K roundings may have. */
static void close_to_the_true_sum(void **state)
{
	(void)state;
	const struct st_kernels *levels[ST_CPU_COUNT];
	size_t n_levels = usable_levels(levels), T = 4, N = 64, K = 3584;
	struct st_xoshiro r;
	st_xoshiro_seed(&r, 7);
	struct st_tensor w;
	struct guarded g;
	make_tensor(&r, &w, &g, ST_DTYPE_Q4_K, ST_LAYOUT_ROWS, N, K, 0, 1);
	float *x = malloc(T * K * sizeof *x), *row = malloc(K * sizeof *row), *y = malloc(T * N * sizeof *y);
	fill_values(&r, x, T * K);
	for (size_t l = 0; l < n_levels; l++)
		for (int mode = ST_MODE_EXACT; mode <= ST_MODE_FAST; mode++) {
			struct st_exec e = { .k = levels[l], .mode = (enum st_mode)mode, .pool = pool_of(2) };
			void *scratch = aligned_alloc(64, st_matmul_scratch(&e, T, K));
			st_matmul(&e, &w, x, T, K, y, N, scratch);
			free(scratch);
			for (size_t n = 0; n < N; n++) {
				st_tensor_decode(&w, n, 1, row);
				for (size_t t = 0; t < T; t++) {
					long double sum = 0, size = 0;
					for (size_t k = 0; k < K; k++) {
						sum += (long double)row[k] * x[t * K + k];
						size += fabsl((long double)row[k] * x[t * K + k]);
					}
					/* K/16 + 4 roundings a lane, half an ulp each, at worst; the square root of it
					 * as a rule. */
					long double bound = mode == ST_MODE_EXACT
					                          ? fabsl(sum) * 0x1p-24L + size * 0x1p-47L
					                          : size * 0x1p-24L * 16;
					assert_true(fabsl((long double)y[t * N + n] - sum) <= bound);
				}
			}
		}
	free(x);
	free(row);
	free(y);
	guard_free(&g);
}

/* A NaN or infinity reaches exactly the outputs it belongs to, and every NaN written is the same one. */
static void not_finite_goes_through(void **state)
{
	(void)state;
	enum { T = 3, N = 20, K = 40 };
	const struct st_kernels *levels[ST_CPU_COUNT];
	size_t n_levels = usable_levels(levels);
	float wv[N * K], x[T * K], y[T * N];
	for (size_t i = 0; i < N * K; i++)
		wv[i] = 1;
	for (size_t i = 0; i < T * K; i++)
		x[i] = 1;
	wv[3 * K + 39] = NAN;
	wv[5 * K + 2] = INFINITY;
	wv[6 * K + 2] = INFINITY;
	wv[6 * K + 3] = -INFINITY;
	x[1 * K + 38] = -NAN;
	x[2 * K + 2] = 0;
	struct st_tensor w = { .name = "w",
		               .dtype = ST_DTYPE_F32,
		               .layout = ST_LAYOUT_ROWS,
		               .ndim = 2,
		               .shape = { N, K },
		               .n_elems = N * K,
		               .n_bytes = sizeof wv,
		               .row_bytes = K * 4,
		               .scale = 1,
		               .data = (const uint8_t *)wv };
	for (size_t l = 0; l < n_levels; l++)
		for (int mode = 0; mode < ST_MODE_COUNT; mode++) {
			struct st_exec e = { .k = levels[l], .mode = (enum st_mode)mode, .pool = pool_of(2) };
			void *scratch = aligned_alloc(64, st_matmul_scratch(&e, T, K));
			st_matmul(&e, &w, x, T, K, y, N, scratch);
			free(scratch);
			for (size_t t = 0; t < T; t++)
				for (size_t n = 0; n < N; n++) {
					uint32_t bits = st_f32_bits(y[t * N + n]);
					if (n == 3 || n == 6 || t == 1 || (t == 2 && n == 5))
						assert_int_equal(bits, 0x7FC00000);
					else if (n == 5)
						assert_int_equal(bits, 0x7F800000);
					else
						assert_true(y[t * N + n] == (t == 2 ? K - 1 : K));
				}
		}
}

/* The decoders of a level against those of the dtype room. */
static void decoders_agree(void **state)
{
	(void)state;
	const struct st_kernels *levels[ST_CPU_COUNT];
	size_t n_levels = usable_levels(levels), seen = 0;
	struct st_xoshiro r;
	st_xoshiro_seed(&r, 99);
	for (size_t l = 0; l < n_levels; l++)
		for (int t = 0; t < ST_DTYPE_COUNT; t++) {
			if (!levels[l]->decode[t])
				continue;
			const struct st_dtype_info *info = st_dtype_info((enum st_dtype)t);
			for (size_t blocks = 1; blocks < 70; blocks += 1 + blocks / 8)
				for (int side = 0; side < 2; side++) {
					struct guarded gs, gd;
					size_t n = blocks * info->block_elems;
					uint8_t *src = guard_alloc(&gs, blocks * info->block_bytes, side);
					float *dst = guard_alloc(&gd, n * 4, side), *want = malloc(n * 4);
					/* any bytes at all: every code, scale, infinity and NaN */
					for (size_t i = 0; i < blocks * info->block_bytes; i++)
						src[i] = (uint8_t)st_xoshiro_next(&r);
					levels[l]->decode[t](src, dst, n);
					info->decode(src, want, n);
					for (size_t i = 0; i < n; i++)
						if (memcmp(&dst[i], &want[i], 4) != 0
						    && !(isnan(dst[i]) && isnan(want[i])))
							fail_msg("%s %s: element %zu of %zu is %a, not %a",
							         st_cpu_name(levels[l]->cpu), info->name, i, n,
							         (double)dst[i], (double)want[i]);
					free(want);
					guard_free(&gs);
					guard_free(&gd);
					seen++;
				}
		}
	if (n_levels > 1)
		assert_true(seen > 0);
}

static void nothing_to_do(void **state)
{
	(void)state;
	struct st_tensor w = { .dtype = ST_DTYPE_F32,
		               .layout = ST_LAYOUT_ROWS,
		               .ndim = 2,
		               .shape = { 3, 0 },
		               .scale = 1,
		               .data = (const uint8_t *)"" };
	struct st_exec e = st_exec_default();
	_Alignas(64) static char scratch[1 << 20];
	float y[6] = { 1, 1, 1, 1, 1, 1 };
	assert_true(st_matmul_scratch(&e, 2, 0) <= sizeof scratch);
	st_matmul(&e, &w, y, 2, 0, y, 3, scratch); /* an empty sum is 0 */
	for (int i = 0; i < 6; i++)
		assert_true(y[i] == 0);
	st_matmul(&e, &w, y, 0, 0, NULL, 3, scratch);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(decoders_agree),
		cmocka_unit_test(every_type_has_the_contracts_bits),
		cmocka_unit_test(ragged_rows_and_other_layouts),
		cmocka_unit_test(every_tile_shape),
		cmocka_unit_test(few_tokens),
		cmocka_unit_test(many_tokens_and_wide_matrices),
		cmocka_unit_test(emulated_operands),
		cmocka_unit_test(close_to_the_true_sum),
		cmocka_unit_test(not_finite_goes_through),
		cmocka_unit_test(nothing_to_do),
	};
	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests_name("kernel matmul", tests, NULL, NULL);
}
