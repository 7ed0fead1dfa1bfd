/*
 * engine.c - the formula, a block of rows at a time.
 *
 *   scaled = S (1 + o)    norm = sum S / sum scaled    W' = ((U o scaled) V^T) norm
 *
 * Everything is f32, with one rounding per operation and the product before the scalar. The two sums of
 * singular values are accumulated in f64 and rounded once.
 */
#include "svf/svf.h"

#include "base/error.h"
#include "dtype/half.h"

#include <math.h>
#include <omp.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

/* Buffers of one block never take more than this. */
#define MAX_BUFFER ((uint64_t)448 << 20)

double st_svf_clock(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* In squares that stay in the first cache. */
void st_svf_turn(const float *src, uint64_t rows, uint64_t cols, float *dst, uint64_t at, uint64_t width, int threads)
{
#pragma omp parallel for schedule(static) num_threads(threads)
	for (uint64_t r0 = 0; r0 < rows; r0 += 32)
		for (uint64_t c0 = 0; c0 < cols; c0 += 32)
			for (uint64_t c = c0; c < cols && c < c0 + 32; c++)
				for (uint64_t r = r0; r < rows && r < r0 + 32; r++)
					dst[c * width + at + r] = src[r * cols + c];
}

static enum st_status scale(struct st_svf_engine *g, const float *offsets, struct st_error *err)
{
	const struct st_svf_entry *e = g->e;
	double s = 0, scaled = 0;
	g->offsets = st_alloc_array(e->k, sizeof *g->offsets);
	g->scaled = st_alloc_array(e->k, sizeof *g->scaled);
	g->gram = calloc(ST_SVF_GRAM * e->k, sizeof *g->gram);
	if (!g->offsets || !g->scaled || !g->gram)
		return st_fail(err, ST_ERR_NOMEM, "out of memory");
	for (uint64_t i = 0; i < e->k; i++) {
		if (!isfinite(offsets[i]))
			return st_fail_at(err, ST_ERR_FORMAT, ST_NO_OFFSET, e->source_name, "offset %llu is not finite",
			                  (unsigned long long)i);
		g->offsets[i] = offsets[i];
		g->scaled[i] = g->f->s[i] * (1.0f + offsets[i]);
		s += (double)g->f->s[i];
		scaled += (double)g->scaled[i];
	}
	g->sum_s = (float)s;
	g->sum_scaled = (float)scaled;
	g->norm = g->sum_s / g->sum_scaled;
	if (g->sum_scaled != 0 && isfinite(g->sum_scaled) && isfinite(g->norm))
		return ST_OK;
	enum st_status st = st_fail_at(
		err, ST_ERR_FORMAT, ST_NO_OFFSET, e->source_name,
		"the scaled singular values sum to %g; the normalization %g / %g is not a number to multiply by",
		(double)g->sum_scaled, (double)g->sum_s, (double)g->sum_scaled);
	st_error_in(err, g->f->path);
	return st;
}

/* One allocation; rows are padded to nothing, the parts to 64 bytes. */
static enum st_status allocate(struct st_svf_engine *g, uint64_t chunk, struct st_error *err)
{
	uint64_t cols = g->e->cols, k = g->e->k, row = 4 * (4 * cols + 2 * k) + 2 * cols;
	uint64_t fit = MAX_BUFFER / row ? MAX_BUFFER / row : 1;
	g->chunk = chunk ? chunk : 8192;
	g->chunk = g->chunk > fit ? fit : g->chunk;
	g->chunk = g->chunk > g->e->rows ? g->e->rows : g->chunk;
	uint64_t c = (g->chunk * cols + 15) / 16 * 16, u = (g->chunk * k + 15) / 16 * 16;
	g->buffer = st_alloc_array(4 * c + 2 * u + c / 2 + 16, sizeof *g->buffer);
	g->row_sums = st_alloc_array(2 * g->chunk, sizeof *g->row_sums);
	if (!g->buffer || !g->row_sums)
		return st_fail(err, ST_ERR_NOMEM,
		               "no memory for blocks of %llu rows of %s; --chunk-rows makes them smaller",
		               (unsigned long long)g->chunk, g->e->source_name);
	g->src = g->buffer;
	g->matmul = g->src + c;
	g->zero = g->matmul + c;
	g->adapted = g->zero + c;
	g->u = g->adapted + c;
	g->u_scaled = g->u + u;
	g->bf16 = (uint16_t *)(void *)(g->u_scaled + u);
	return ST_OK;
}

enum st_status st_svf_engine_open(struct st_svf_engine *g, const struct st_svf_entry *e, const struct st_svf_factors *f,
                                  const float *offsets, struct st_svf_source source, uint64_t chunk, int threads,
                                  struct st_error *err)
{
	*g = (struct st_svf_engine){ .e = e, .f = f, .source = source, .threads = threads };
	enum st_status st = scale(g, offsets, err);
	if (st == ST_OK)
		st = allocate(g, chunk, err);
	if (st == ST_OK
	    && !st_gemm_pack(&g->b, st_cpu_best(), f->v, f->layout == ST_SVF_TORCH_V, e->k, e->cols, threads))
		st = st_fail(err, ST_ERR_NOMEM, "out of memory");
	if (st != ST_OK)
		st_svf_engine_close(g);
	return st;
}

void st_svf_engine_close(struct st_svf_engine *g)
{
	st_gemm_release(&g->b);
	free(g->offsets);
	free(g->scaled);
	free(g->gram);
	free(g->buffer);
	free(g->row_sums);
	g->row_sums = NULL;
	g->offsets = g->scaled = g->gram = g->buffer = NULL;
}

static enum st_status load_u(struct st_svf_engine *g, uint64_t row0, uint64_t n, struct st_error *err)
{
	uint64_t k = g->e->k;
	bool good = true;
#pragma omp parallel for schedule(static) num_threads(g->threads) reduction(&& : good)
	for (uint64_t i = 0; i < n; i++) {
		float *u = g->u + i * k, sum = 0;
		st_tensor_decode(g->f->u, row0 + i, 1, u);
		for (uint64_t j = 0; j < k; j++)
			sum += u[j] - u[j]; /* 0 unless one is not finite */
		good = good && sum == 0;
	}
	if (good)
		return ST_OK;
	uint64_t at = 0;
	while (at + 1 < n * k && isfinite(g->u[at]))
		at++;
	enum st_status st = st_fail_at(err, ST_ERR_FORMAT, g->f->u->offset, g->f->u->name,
	                               "number %llu of row %llu is %g", (unsigned long long)(at % k),
	                               (unsigned long long)(row0 + at / k), (double)g->u[at]);
	st_error_in(err, g->f->path);
	return st;
}

/* What follows the products: scalar, cast, and how far a zero offset is from the source. */
static void finish(struct st_svf_engine *g, uint64_t n)
{
	uint64_t cols = g->e->cols;
	double top = 0, top_bf16 = 0;
	/* Per row, then in order of rows: the same sums for any number of threads. */
	double *dd = g->row_sums;
#pragma omp parallel for schedule(static) num_threads(g->threads) reduction(max : top, top_bf16)
	for (uint64_t i = 0; i < n; i++) {
		const float *m = g->matmul + i * cols, *z = g->zero + i * cols, *s = g->src + i * cols;
		float *a = g->adapted + i * cols;
		uint16_t *b = g->bf16 + i * cols;
		double d2 = 0, s2 = 0;
		float most = 0, most_bf16 = 0;
		for (uint64_t j = 0; j < cols; j++) {
			a[j] = m[j] * g->norm;
			b[j] = st_f32_to_bf16(a[j]);
		}
		for (uint64_t j = 0; j < cols; j++) {
			float d = fabsf(z[j] - s[j]);
			float h = fabsf(z[j] - st_bf16_to_f32(st_f32_to_bf16(s[j])));
			most = d > most ? d : most;
			most_bf16 = h > most_bf16 ? h : most_bf16;
			d2 += (double)d * (double)d;
			s2 += (double)s[j] * (double)s[j];
		}
		top = (double)most > top ? (double)most : top;
		top_bf16 = (double)most_bf16 > top_bf16 ? (double)most_bf16 : top_bf16;
		dd[2 * i] = d2;
		dd[2 * i + 1] = s2;
	}
	for (uint64_t i = 0; i < n; i++) {
		g->zero_dd += dd[2 * i];
		g->source_dd += dd[2 * i + 1];
	}
	g->zero_error = top > g->zero_error ? top : g->zero_error;
	g->zero_error_bf16 = top_bf16 > g->zero_error_bf16 ? top_bf16 : g->zero_error_bf16;
}

enum st_status st_svf_engine_rows(struct st_svf_engine *g, uint64_t row0, uint64_t n, struct st_error *err)
{
	uint64_t k = g->e->k, cols = g->e->cols;
	double t0 = st_svf_clock();
	ST_TRY(st_check_cancel(err));
	ST_TRY(g->source.rows(g->source.ctx, row0, n, g->src, err));
	float bad = 0;
#pragma omp parallel for schedule(static) num_threads(g->threads) reduction(+ : bad)
	for (uint64_t i = 0; i < n * cols; i++)
		bad += g->src[i] - g->src[i];
	if (bad != 0) {
		enum st_status st = st_fail_at(
			err, ST_ERR_FORMAT, ST_NO_OFFSET, g->e->source_name,
			"the source holds numbers that are not finite between rows %llu and %llu",
			(unsigned long long)row0, (unsigned long long)(row0 + n));
		st_error_in(err, g->source.path);
		return st;
	}
	ST_TRY(load_u(g, row0, n, err));
#pragma omp parallel for schedule(static) num_threads(g->threads)
	for (uint64_t i = 0; i < n; i++)
		for (uint64_t j = 0; j < k; j++)
			g->u_scaled[i * k + j] = g->u[i * k + j] * g->scaled[j];
	st_svf_gram_add(g->u, n, k, g->gram);
	double t1 = st_svf_clock();
	if (!st_gemm(&g->b, g->u, g->scaled, n, g->matmul, g->threads)
	    || !st_gemm(&g->b, g->u, g->f->s, n, g->zero, g->threads))
		return st_fail(err, ST_ERR_NOMEM, "out of memory");
	double t2 = st_svf_clock();
	finish(g, n);
	if (row0 + n == g->e->rows)
		g->u_error = st_svf_gram_error(g->gram, k);
	if (g->times) {
		g->times->products += t2 - t1;
		g->times->rest += t1 - t0 + st_svf_clock() - t2;
	}
	return ST_OK;
}

enum st_status st_svf_engine_adapted(struct st_svf_engine *g, uint64_t row0, uint64_t n, float *dst,
                                     struct st_error *err)
{
	uint64_t cols = g->e->cols;
	for (uint64_t done = 0; done < n;) {
		uint64_t m = n - done < g->chunk ? n - done : g->chunk;
		ST_TRY(load_u(g, row0 + done, m, err));
		if (!st_gemm(&g->b, g->u, g->scaled, m, dst + done * cols, g->threads))
			return st_fail(err, ST_ERR_NOMEM, "out of memory");
		for (uint64_t i = done * cols; i < (done + m) * cols; i++)
			dst[i] *= g->norm;
		done += m;
	}
	return ST_OK;
}
