/*
 * engine.c - the formula, a block of rows at a time.
 *
 *   scaled = S (1 + o)    norm = sum S / sum scaled    W' = ((U o scaled) V^T) norm
 *
 * Everything is f32, with one rounding per operation and the product before the scalar. The two sums of
 * singular values are accumulated in f64 and rounded once.
 */
#include "svf/engine.h"

#include "base/error.h"
#include "base/pool.h"
#include "dtype/half.h"

#include <math.h>
#include <stdlib.h>

/* Buffers of one block never take more than this. */
#define MAX_BUFFER ((uint64_t)448 << 20)

/* What is known of a row: sums per row are added in order of rows, so that threads change nothing. */
struct st_svf_row {
	double zero_dd, source_dd; /* (zero - source)^2 and source^2 */
	float top, top_bf16;       /* largest |zero - source|, and against the source rounded to bf16 */
	bool source_finite, u_finite;
};

static enum st_status scale(struct st_svf_engine *g, const float *offsets, struct st_error *err)
{
	const struct st_svf_entry *e = g->e;
	double s = 0, scaled = 0;
	g->offsets = st_alloc_array(e->k, sizeof *g->offsets);
	g->scaled = st_alloc_array(e->k, sizeof *g->scaled);
	g->gram = st_alloc_zeroed(e->k, sizeof(float[ST_GRAM]));
	ST_NEED(g->offsets && g->scaled && g->gram);
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
	return st_in_file(
		g->f->path,
		st_fail_at(
			err, ST_ERR_FORMAT, ST_NO_OFFSET, e->source_name,
			"the scaled singular values sum to %g; the normalization %g / %g is not a number to multiply by",
			(double)g->sum_scaled, (double)g->sum_s, (double)g->sum_scaled),
		err);
}

/* One allocation; rows are padded to nothing, the parts to 64 bytes. */
static enum st_status allocate(struct st_svf_engine *g, uint64_t chunk, struct st_error *err)
{
	uint64_t cols = g->e->cols, k = g->e->k, row = 4 * (4 * cols + 2 * k) + 2 * cols;
	uint64_t fit = MAX_BUFFER / row ? MAX_BUFFER / row : 1;
	g->chunk = chunk ? chunk : 8192;
	g->chunk = g->chunk > fit ? fit : g->chunk;
	g->chunk = g->chunk > g->e->rows ? g->e->rows : g->chunk;
	uint64_t c = (g->chunk * cols + 15) / 16 * 16, u = (g->chunk * k + 15) / 16 * 16,
		 floats = 4 * c + 2 * u + c / 2 + 16;
	g->buffer = st_alloc_array(floats, sizeof *g->buffer);
	g->row_sums = st_alloc_array(g->chunk, sizeof *g->row_sums);
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
                                  const float *offsets, struct st_row_source source, uint64_t chunk,
                                  struct st_pool *pool, struct st_error *err)
{
	*g = (struct st_svf_engine){ .e = e, .f = f, .source = source, .pool = pool };
	enum st_status st;
	ST_TRY_OUT(scale(g, offsets, err));
	ST_TRY_OUT(allocate(g, chunk, err));
	st = st_have(st_gemm_pack(&g->b, st_cpu_best(), f->v, f->layout == ST_SVF_TORCH_V, e->k, e->cols, pool), err);
out:
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
	*g = (struct st_svf_engine){ 0 };
}

/* ---- rows in ---- */

struct loading {
	struct st_svf_engine *g;
	uint64_t row0;
	bool source; /* looked at too, and U scaled */
};

static bool all_finite(const float *x, uint64_t n)
{
	float sum = 0;
	for (uint64_t i = 0; i < n; i++)
		sum += x[i] - x[i]; /* 0 unless one is not finite */
	return sum == 0;
}

static void load_rows(void *ctx, unsigned lane, uint64_t begin, uint64_t end)
{
	const struct loading *l = ctx;
	struct st_svf_engine *g = l->g;
	uint64_t k = g->e->k, cols = g->e->cols;
	(void)lane;
	for (uint64_t i = begin; i < end; i++) {
		float *u = g->u + i * k;
		st_tensor_decode(g->f->u, l->row0 + i, 1, u);
		g->row_sums[i].u_finite = all_finite(u, k);
		g->row_sums[i].source_finite = !l->source || all_finite(g->src + i * cols, cols);
		for (uint64_t j = 0; l->source && j < k; j++)
			g->u_scaled[i * k + j] = u[j] * g->scaled[j];
	}
}

/* Rows of U, which must be finite as those of the source must. */
static enum st_status load(struct st_svf_engine *g, uint64_t row0, uint64_t n, bool source, struct st_error *err)
{
	uint64_t k = g->e->k, i = 0, at = 0;
	struct loading l = { g, row0, source };
	st_pool_run(g->pool, n, st_pool_piece(g->pool, n, 4 * k), load_rows, &l);
	while (i < n && g->row_sums[i].source_finite && g->row_sums[i].u_finite)
		i++;
	if (i == n)
		return ST_OK;
	const float *u = g->u + i * k;
	while (at + 1 < k && isfinite(u[at]))
		at++;
	unsigned long long row = row0 + i;
	if (!g->row_sums[i].source_finite)
		return st_in_file(g->source.path,
		                  st_fail_at(err, ST_ERR_FORMAT, ST_NO_OFFSET, g->e->source_name,
		                             "row %llu of the source holds numbers that are not finite", row),
		                  err);
	return st_in_file(g->f->path,
	                  st_fail_at(err, ST_ERR_FORMAT, g->f->u->offset, g->f->u->name,
	                             "number %llu of row %llu is %g", (unsigned long long)at, row, (double)u[at]),
	                  err);
}

/* ---- rows out ---- */

/* What follows the products: scalar, cast, and how far a zero offset is from the source. */
static void finish_rows(void *ctx, unsigned lane, uint64_t begin, uint64_t end)
{
	struct st_svf_engine *g = ctx;
	uint64_t cols = g->e->cols;
	(void)lane;
	for (uint64_t i = begin; i < end; i++) {
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
		g->row_sums[i] = (struct st_svf_row){
			.zero_dd = d2, .source_dd = s2, .top = most, .top_bf16 = most_bf16
		};
	}
}

static void add_rows(struct st_svf_engine *g, uint64_t n)
{
	for (uint64_t i = 0; i < n; i++) {
		const struct st_svf_row *r = &g->row_sums[i];
		g->zero_dd += r->zero_dd;
		g->source_dd += r->source_dd;
		g->zero_error = fmax(g->zero_error, (double)r->top);
		g->zero_error_bf16 = fmax(g->zero_error_bf16, (double)r->top_bf16);
	}
}

enum st_status st_svf_engine_rows(struct st_svf_engine *g, uint64_t row0, uint64_t n, struct st_error *err)
{
	uint64_t k = g->e->k;
	double t0 = st_clock();
	ST_TRY(st_check_cancel(err));
	ST_TRY(g->source.rows(g->source.ctx, row0, n, g->src, err));
	ST_TRY(load(g, row0, n, true, err));
	st_gram_add(g->u, n, k, g->gram);
	double t1 = st_clock();
	ST_NEED(st_gemm(&g->b, g->u, g->scaled, n, g->matmul, g->pool)
	        && st_gemm(&g->b, g->u, g->f->s, n, g->zero, g->pool));
	double t2 = st_clock();
	st_pool_run(g->pool, n, st_pool_piece(g->pool, n, 8 * g->e->cols), finish_rows, g);
	add_rows(g, n);
	if (row0 + n == g->e->rows)
		g->u_error = st_gram_error(g->gram, k);
	if (g->times) {
		g->times->products += t2 - t1;
		g->times->rest += t1 - t0 + st_clock() - t2;
	}
	return ST_OK;
}

enum st_status st_svf_engine_adapted(struct st_svf_engine *g, uint64_t row0, uint64_t n, float *dst,
                                     struct st_error *err)
{
	uint64_t cols = g->e->cols;
	for (uint64_t done = 0; done < n;) {
		uint64_t m = n - done < g->chunk ? n - done : g->chunk;
		ST_TRY(load(g, row0 + done, m, false, err));
		ST_NEED(st_gemm(&g->b, g->u, g->scaled, m, dst + done * cols, g->pool));
		for (uint64_t i = done * cols; i < (done + m) * cols; i++)
			dst[i] *= g->norm;
		done += m;
	}
	return ST_OK;
}
