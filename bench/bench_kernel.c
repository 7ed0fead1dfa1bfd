/* bench_kernel.c - matrix products on stored types, and the pointwise operations. */
#include "bench.h"

#include "base/mem.h"
#include "base/rng.h"
#include "dtype/blocks.h"
#include "dtype/half.h"
#include "kernel/kernel.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Features of a 7B model's layer; rows enough to be several times the last cache. */
#define K 3584

struct product {
	struct st_exec e;
	struct st_tensor w;
	float *x, *y;
	size_t T, N;
	void *scratch;
};

static void multiply(void *arg)
{
	struct product *p = arg;
	st_matmul(&p->e, &p->w, p->x, p->T, K, p->y, p->N, p->scratch);
}

static void *must(void *p)
{
	if (!p) {
		fprintf(stderr, "bench: no memory\n");
		exit(1);
	}
	return p;
}

static void fill(float *x, size_t n)
{
	struct st_xoshiro r;
	st_xoshiro_seed(&r, 1);
	for (size_t i = 0; i < n; i++)
		x[i] = (float)((double)(st_xoshiro_next(&r) >> 11) * 0x1p-52 - 1.0);
}

/* N rows of one encoded row each: the speed does not depend on the values. */
static void make_weights(struct product *p, enum st_dtype t, size_t N)
{
	const struct st_dtype_info *info = st_dtype_info(t);
	size_t row = K / info->block_elems * info->block_bytes;
	uint8_t *data = must(st_alloc_array(N, row));
	float *x = must(st_alloc_array(K, sizeof *x));
	fill(x, K);
	info->encode(x, data, K);
	free(x);
	for (size_t n = 1; n < N; n++)
		memcpy(data + n * row, data, row);
	p->w = (struct st_tensor){ .name = "w",
		                   .dtype = t,
		                   .layout = ST_LAYOUT_ROWS,
		                   .ndim = 2,
		                   .shape = { N, K },
		                   .n_elems = N * K,
		                   .n_bytes = N * row,
		                   .row_bytes = row,
		                   .scale = 1,
		                   .data = data };
	p->N = N;
}

static void product_row(const struct bench *b, enum st_dtype t, enum st_mode mode, enum st_cpu cpu, size_t T, size_t N)
{
	struct product p = { .e = { .k = st_kernels_get(cpu), .mode = mode, .pool = b->pool }, .T = T };
	if (!p.e.k)
		return;
	make_weights(&p, t, N);
	p.x = must(st_alloc_array(T * K, sizeof *p.x));
	p.y = must(st_alloc_array(T * N, sizeof *p.y));
	p.scratch = must(st_alloc_array(st_matmul_scratch(&p.e, T, K), 1));
	fill(p.x, T * K);
	memset(p.y, 0, T * N * sizeof *p.y);
	char what[80];
	snprintf(what, sizeof what, "matmul %s, %zu tokens, %s, %s", st_dtype_info(t)->name, T, st_mode_name(mode),
	         st_cpu_name(cpu));
	if (T <= 8)
		bench_row(b, what, multiply, &p, (double)p.w.n_bytes, bench_read_bandwidth, "GB/s", 1e9);
	else
		bench_row(b, what, multiply, &p, 2.0 * (double)T * (double)N * K, bench_fma_peak, "Gflop/s", 1e9);
	free((void *)(uintptr_t)p.w.data);
	free(p.x);
	free(p.y);
	free(p.scratch);
}

#define ACT_N ((size_t)18944 * 64)

struct activation {
	struct st_exec e;
	enum st_activation act;
	float *x, *y;
};

static void activate(void *arg)
{
	struct activation *a = arg;
	st_activate(&a->e, a->act, a->x, ACT_N, a->y);
}

struct attention {
	struct st_exec e;
	struct st_attn_shape s;
	float *q, *k, *v, *scores, *y;
};

static void attend(void *arg)
{
	struct attention *a = arg;
	size_t ldq = a->s.n_heads * a->s.head_dim, ldk = a->s.n_kv_heads * a->s.head_dim;
	st_attn_scores(&a->e, &a->s, a->q, ldq, a->k, ldk, a->scores);
	st_attn_softmax(&a->e, &a->s, a->scores, a->scores);
	st_attn_mix(&a->e, &a->s, a->scores, a->v, ldk, a->y);
}

static void attention_row(const struct bench *b, enum st_mode mode, size_t T, size_t P)
{
	struct attention a = {
		.e = { .k = st_kernels_get(st_cpu_best()), .mode = mode, .pool = b->pool },
		.s = { .T = T, .P = P, .n_heads = 28, .n_kv_heads = 4, .head_dim = 128, .scale = 0.088388 }
	};
	a.q = must(st_alloc_array(T * 28 * 128, 4));
	a.k = must(st_alloc_array(P * 4 * 128, 4));
	a.v = must(st_alloc_array(P * 4 * 128, 4));
	a.y = must(st_alloc_array(T * 28 * 128, 4));
	a.scores = must(st_alloc_array(T * P * 28, 4));
	fill(a.q, T * 28 * 128);
	fill(a.k, P * 4 * 128);
	fill(a.v, P * 4 * 128);
	char what[80];
	snprintf(what, sizeof what, "attention, %zu tokens at %zu, %s", T, P, st_mode_name(mode));
	/* products and mixture, the masked half counted too */
	bench_row(b, what, attend, &a, 4.0 * 28 * 128 * (double)T * (double)P, bench_fma_peak, "Gflop/s", 1e9);
	free(a.q);
	free(a.k);
	free(a.v);
	free(a.y);
	free(a.scores);
}

void bench_kernel(const struct bench *b)
{
	enum st_cpu best = st_cpu_best();
	static const struct {
		enum st_dtype t;
		size_t rows;
	} few[] = {
		{ ST_DTYPE_Q4_K, 75776 }, { ST_DTYPE_Q6_K, 56832 }, { ST_DTYPE_Q8_0, 37888 },
		{ ST_DTYPE_BF16, 18944 }, { ST_DTYPE_F16, 18944 },  { ST_DTYPE_F32, 18944 },
	};
	for (size_t i = 0; i < sizeof few / sizeof few[0]; i++)
		for (int mode = ST_MODE_EXACT; mode <= ST_MODE_FAST; mode++)
			product_row(b, few[i].t, (enum st_mode)mode, best, 4, few[i].rows);
	static const enum st_dtype many[] = { ST_DTYPE_Q4_K, ST_DTYPE_Q8_0, ST_DTYPE_BF16, ST_DTYPE_F32 };
	for (size_t i = 0; i < sizeof many / sizeof many[0]; i++)
		for (int mode = ST_MODE_EXACT; mode <= ST_MODE_FAST; mode++)
			product_row(b, many[i], (enum st_mode)mode, best, 64, 18944);
	if (best == ST_CPU_AVX512) {
		product_row(b, ST_DTYPE_Q4_K, ST_MODE_FAST, ST_CPU_AVX2, 4, 75776);
		product_row(b, ST_DTYPE_Q4_K, ST_MODE_FAST, ST_CPU_AVX2, 64, 18944);
	}
	product_row(b, ST_DTYPE_Q4_K, ST_MODE_FAST, best, 1, 75776);
	product_row(b, ST_DTYPE_Q4_K, ST_MODE_EXACT, best, 1, 75776);
	product_row(b, ST_DTYPE_Q4_K, ST_MODE_EMULATE_Q8_K, best, 4, 75776);

	for (int mode = ST_MODE_EXACT; mode <= ST_MODE_FAST; mode++) {
		attention_row(b, (enum st_mode)mode, 64, 1024);
		attention_row(b, (enum st_mode)mode, 1, 4096);
	}
	struct activation a = { .e = { .k = st_kernels_get(best), .mode = ST_MODE_EXACT, .pool = b->pool } };
	a.x = must(st_alloc_array(ACT_N, sizeof *a.x));
	a.y = must(st_alloc_array(ACT_N, sizeof *a.y));
	fill(a.x, ACT_N);
	static const char *const names[] = {
		[ST_ACT_SILU] = "silu", [ST_ACT_GELU_TANH] = "gelu (tanh)", [ST_ACT_GELU] = "gelu (erf)"
	};
	for (int act = 0; act < 3; act++) {
		a.act = (enum st_activation)act;
		bench_row(b, names[act], activate, &a, 2.0 * ACT_N * sizeof(float), bench_read_bandwidth, "GB/s", 1e9);
	}
	free(a.x);
	free(a.y);
}
