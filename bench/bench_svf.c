/*
 * bench_svf.c - the products of a singular-value adaptation beside f32 fma, all stages with their digests beside the
 * products, and the factors of an embedding-sized matrix beside a stated time.
 */
#include "bench.h"

#include "base/mem.h"
#include "base/rng.h"
#include "svf/stages.h"

#include <cblas.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define K 1024
#define BLOCK 8192

static void *must(void *p)
{
	if (!p) {
		fprintf(stderr, "bench: no memory\n");
		exit(1);
	}
	return p;
}

static void ok(enum st_status st, const struct st_error *err)
{
	if (st != ST_OK) {
		fprintf(stderr, "bench: %s\n", err->message);
		exit(1);
	}
}

static float *numbers(size_t n, double scale)
{
	struct st_xoshiro g;
	float *x = must(st_alloc_array(n, sizeof *x));
	st_xoshiro_seed(&g, 1);
	for (size_t i = 0; i < n; i++)
		x[i] = (float)(scale * ((double)(st_xoshiro_next(&g) >> 11) * 0x1p-52 - 1.0));
	return x;
}

struct product {
	const struct bench *b;
	struct st_gemm_b v;
	float *u, *s, *packed, *y;
};

static void ours(void *arg)
{
	struct product *p = arg;
	if (!st_gemm(&p->v, p->u, p->s, BLOCK, p->y, p->b->pool))
		must(NULL);
}

static void theirs(void *arg)
{
	struct product *p = arg;
	cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, BLOCK, K, K, 1, p->u, K, p->packed, K, 0, p->y, K);
}

static void products(const struct bench *b)
{
	struct product p = { .b = b,
		             .u = numbers((size_t)BLOCK * K, 0.01),
		             .s = numbers(K, 1),
		             .packed = numbers((size_t)K * K, 0.01),
		             .y = numbers((size_t)BLOCK * K, 0) };
	if (!st_gemm_pack(&p.v, st_cpu_best(), p.packed, true, K, K, b->pool))
		must(NULL);
	openblas_set_num_threads((int)st_pool_threads(b->pool));
	bench_row(b, "svf product, 8192 rows of 1024 (>= 60 %)", ours, &p, 2.0 * BLOCK * K * K, bench_fma_peak,
	          "Gflop/s", 1e9);
	char what[80];
	snprintf(what, sizeof what, "the same by OpenBLAS (core %s)", openblas_get_corename());
	bench_row(b, what, theirs, &p, 2.0 * BLOCK * K * K, bench_fma_peak, "Gflop/s", 1e9);
	st_gemm_release(&p.v);
	free(p.u);
	free(p.s);
	free(p.packed);
	free(p.y);
}

/* The nine tensors of the published vector. */
static const struct {
	const char *name;
	uint64_t rows, cols;
} tensors[] = {
	{ "embed_tokens", 151936, 1024 }, { "q_proj", 2048, 1024 },    { "k_proj", 1024, 1024 },
	{ "v_proj", 1024, 1024 },         { "o_proj", 1024, 2048 },    { "gate_proj", 3072, 1024 },
	{ "up_proj", 3072, 1024 },        { "down_proj", 1024, 3072 }, { "lm_head", 151936, 1024 },
};
#define TENSORS (sizeof tensors / sizeof *tensors)

static enum st_status rows_of(void *ctx, uint64_t row0, uint64_t n, float *dst, struct st_error *err)
{
	const float *w = ctx;
	(void)err;
	for (uint64_t i = 0; i < n; i++)
		memcpy(dst + i * K, w + (row0 + i) % BLOCK * K, K * sizeof *dst);
	return ST_OK;
}

static enum st_status wide_rows(void *ctx, uint64_t row0, uint64_t n, float *dst, struct st_error *err)
{
	const struct st_svf_entry *e = ctx;
	(void)row0, (void)err;
	memset(dst, 0, n * e->cols * sizeof *dst);
	return ST_OK;
}

#define REPEATS ((151936 + BLOCK - 1) / BLOCK)

/* One block of rows mapped again and again, side by side: as tall as the embedding in 32 MB. */
static float *tall(void)
{
	size_t bytes = (size_t)BLOCK * K * sizeof(float);
	float *block = numbers((size_t)BLOCK * K, 0.01);
	FILE *f = tmpfile();
	uint8_t *p = mmap(NULL, REPEATS * bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (!f || p == MAP_FAILED || fwrite(block, 1, bytes, f) != bytes || fflush(f) != 0)
		must(NULL);
	for (size_t i = 0; i < REPEATS; i++)
		if (mmap(p + i * bytes, bytes, PROT_READ, MAP_PRIVATE | MAP_FIXED, fileno(f), 0) == MAP_FAILED)
			must(NULL);
	fclose(f);
	free(block);
	return (float *)(void *)p;
}

struct stages {
	const struct bench *b;
	float *w, *u, *s, *v, *o;
	struct st_svf_times t;
	double at_peak;
};

static void all_stages(void *arg)
{
	struct stages *x = arg;
	struct st_error err = ST_ERROR_INIT;
	double before = bench_fma_peak(x->b);
	x->t = (struct st_svf_times){ 0 };
	x->at_peak = 0;
	for (size_t i = 0; i < TENSORS; i++) {
		struct st_svf_entry e = { .source_name = tensors[i].name,
			                  .safe = tensors[i].name,
			                  .rows = tensors[i].rows,
			                  .cols = tensors[i].cols,
			                  .k = K };
		const struct st_tensor u = { .name = "u",
			                     .dtype = ST_DTYPE_F32,
			                     .ndim = 2,
			                     .shape = { e.rows, K },
			                     .n_elems = e.rows * K,
			                     .n_bytes = e.rows * K * 4,
			                     .row_bytes = K * 4,
			                     .scale = 1,
			                     .data = (const uint8_t *)x->u };
		const struct st_svf_factors f = { .u = &u, .s = x->s, .v = x->v };
		struct st_svf_engine g;
		struct st_svf_stages t = { .e = &e, .turned = i > 0 && i < 8, .summaries = true };
		const struct st_row_source source = e.cols == K
		                                          ? (struct st_row_source){ .rows = rows_of, .ctx = x->w }
		                                          : (struct st_row_source){ .rows = wide_rows, .ctx = &e };
		ok(st_svf_engine_open(&g, &e, &f, x->o, source, BLOCK, x->b->pool, &err), &err);
		g.times = &x->t;
		ok(st_svf_stages_run(&t, &g, &err), &err);
		st_svf_engine_close(&g);
		/* What the products would have taken at the peak, as it was around this tensor. With the zero-offset
		 * product. */
		double after = bench_fma_peak(x->b), peak = before > after ? before : after;
		x->at_peak += 2 * 2.0 * (double)e.rows * (double)e.cols * K / peak;
		before = after;
	}
}

static void replay(const struct bench *b)
{
	struct stages x = { .b = b,
		            .w = numbers((size_t)BLOCK * K, 0.05),
		            .u = tall(),
		            .s = numbers(K, 1),
		            .v = numbers((size_t)3 * K * K, 0.01),
		            .o = numbers(K, 0.1) };
	for (size_t i = 0; i < K; i++)
		x.s[i] += 5;
	all_stages(&x);
	double total = x.t.products + x.t.hashing + x.t.rest;
	printf("%-44s %9.2f %9.2f %-7s %6.1f %%\n", "svf products of nine tensors (>= 60 %)", x.t.products, x.at_peak,
	       "s", 100 * x.at_peak / x.t.products);
	printf("%-44s %9.2f %9.2f %-7s %6.1f %%\n", "svf nine tensors, ten stages, digests", total, 2.5 * x.t.products,
	       "s", 100 * total / (2.5 * x.t.products));
	printf("%-44s products %.2f s, digests %.2f s, rest %.2f s\n", "", x.t.products, x.t.hashing, x.t.rest);
	free(x.w);
	munmap(x.u, (size_t)REPEATS * BLOCK * K * sizeof *x.u);
	free(x.s);
	free(x.v);
	free(x.o);
}

static void decompose(const struct bench *b)
{
	struct st_error err = ST_ERROR_INIT;
	struct st_svd_report r;
	char path[] = "/tmp/stele-bench-svd-XXXXXX";
	int fd = mkstemp(path);
	if (fd < 0)
		return;
	close(fd);
	float *w = numbers((size_t)BLOCK * K, 0.05);
	const struct st_svf_entry e = {
		.source_name = "embedding", .safe = "embedding", .rows = 151936, .cols = K, .k = K
	};
	ok(st_svf_decompose(&e, (struct st_row_source){ .rows = rows_of, .ctx = w }, ST_SVF_GESDD, b->pool, path, &r,
	                    NULL, &err),
	   &err);
	printf("%-44s %9.3f %9.3f %-7s %6.1f %%\n", "thin svd of [151936, 1024]", r.seconds, 90.0, "s",
	       100 * r.seconds / 90);
	printf("%-44s residual %.2g, orthogonality %.2g\n", "", r.residual_rel, r.u_error);
	unlink(path);
	free(w);
}

void bench_svf(const struct bench *b)
{
	products(b);
	replay(b);
	decompose(b);
}
