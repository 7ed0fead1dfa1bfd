/*
 * svd.c - thin factors of a matrix that need not fit into memory.
 *
 * A tall matrix A [m, n] is cut into blocks of rows. Each block gets an orthogonal-triangular factorisation, the
 * triangles are stacked and factorised again, and the last triangle, n x n, is decomposed in f64. A second pass over
 * the blocks factorises each again and turns its share of the small orthogonal factor into rows of U. So U is as
 * orthogonal as Householder reflections make it, and what is held is a few blocks and the stack of triangles. A wide
 * matrix is decomposed through its transpose.
 *
 * LAPACK counts columns first, so blocks are turned over on the way in and out: its factorisation of rows that follow
 * each other (sgelqf) is three times slower than that of columns.
 */
#include "linalg/lapack.h"
#include "linalg/linalg.h"

#include "base/error.h"
#include "base/mem.h"
#include "base/pool.h"
#include "kernel/gemm.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define BLOCK_ROWS ((uint64_t)8192)
#define HOLD_ROWS ((uint64_t)64)
#define MAX_HELD ((uint64_t)512 << 20) /* a wide matrix is held whole */

const char *st_lapack_name(char *buf, size_t n)
{
	const struct st_lapack *la = st_lapack_loaded();
	if (la)
		snprintf(buf, n, "%s, core %s", la->get_config(), la->get_corename());
	return la ? buf : NULL;
}

double st_svd_cost(uint64_t rows, uint64_t cols)
{
	double m = (double)(rows > cols ? rows : cols), n = (double)(rows < cols ? rows : cols);
	/* Two factorisations of the blocks, their reflections applied, the check of the residual; the small
	 * decomposition. */
	return 2 * 2 * m * n * n + 4 * m * n * n + 2 * m * n * n + 22 * n * n * n;
}

/* ---- the factorisation ---- */

struct job {
	const struct st_svd *d;
	const struct st_lapack *la;
	bool wide;
	uint64_t m, n, blocks, most; /* A: [m, n]; most: rows of the largest block */
	float *held;                 /* wide: A, [m, n] */
	float *block, *c, *tau;      /* [n, most] twice (columns of a block), [n] */
	float *rows;                 /* [most, n]: a block in its own order */
	float *stack, *stack_tau;    /* columns of [blocks n, n]: the triangles under each other */
	double *r, *left, *right,
		*s;            /* n x n, n x n, n x n, n: R = left diag(s) right^T; left in columns, right in rows */
	struct st_arena arena; /* of all these */
};

static uint64_t block_start(const struct job *j, uint64_t b) { return b * j->m / j->blocks; }

static enum st_status lapack(const struct job *j, const char *name, lapack_int info, struct st_error *err)
{
	if (info == 0)
		return ST_OK;
	if (info == LAPACK_WORK_MEMORY_ERROR)
		return st_fail(err, ST_ERR_NOMEM, "out of memory");
	return st_fail_at(err, ST_ERR_FORMAT, ST_NO_OFFSET, j->d->name,
	                  "%s ended with %d: the matrix cannot be decomposed", name, (int)info);
}

static enum st_status source_rows(const struct job *j, uint64_t row0, uint64_t n, float *dst, struct st_error *err)
{
	uint64_t cols = j->d->cols;
	ST_TRY(j->d->source.rows(j->d->source.ctx, row0, n, dst, err));
	for (uint64_t i = 0; i < n * cols; i++)
		if (!isfinite(dst[i]))
			return st_fail_at(err, ST_ERR_FORMAT, ST_NO_OFFSET, j->d->name,
			                  "number %llu of row %llu is not finite", (unsigned long long)(i % cols),
			                  (unsigned long long)(row0 + i / cols));
	return ST_OK;
}

/* Rows [row0, row0 + n) of A. */
static enum st_status rows_of(const struct job *j, uint64_t row0, uint64_t n, float *dst, struct st_error *err)
{
	if (!j->wide)
		return source_rows(j, row0, n, dst, err);
	memcpy(dst, j->held + row0 * j->n, n * j->n * sizeof *dst);
	return ST_OK;
}

static enum st_status hold(struct job *j, struct st_error *err)
{
	uint64_t n = j->d->rows, m = j->d->cols;
	if (m * n > MAX_HELD / sizeof *j->held)
		return st_fail_at(err, ST_ERR_LIMIT, ST_NO_OFFSET, j->d->name,
		                  "a wide matrix [%llu, %llu] takes more memory than the %llu MB allowed",
		                  (unsigned long long)n, (unsigned long long)m, (unsigned long long)(MAX_HELD >> 20));
	j->held = st_arena_alloc2(&j->arena, m, n, sizeof *j->held);
	float *rows = st_alloc_array2(HOLD_ROWS, m, sizeof *rows);
	enum st_status st = j->held && rows ? ST_OK : st_fail(err, ST_ERR_NOMEM, "out of memory");
	for (uint64_t r = 0; st == ST_OK && r < n; r += HOLD_ROWS) {
		uint64_t some = n - r < HOLD_ROWS ? n - r : HOLD_ROWS;
		st = source_rows(j, r, some, rows, err);
		for (uint64_t c = 0; st == ST_OK && c < m; c++)
			for (uint64_t i = 0; i < some; i++)
				j->held[c * n + r + i] = rows[i * m + c];
	}
	free(rows);
	return st;
}

static enum st_status start(struct job *j, struct st_error *err)
{
	const struct st_svd *d = j->d;
	j->wide = d->rows < d->cols;
	j->m = j->wide ? d->cols : d->rows;
	j->n = j->wide ? d->rows : d->cols;
	/* Every block at least as tall as wide. */
	uint64_t want = BLOCK_ROWS > j->n ? BLOCK_ROWS : j->n;
	j->blocks = j->m / want ? j->m / want : 1;
	j->most = st_ceil_div(j->m, j->blocks);
	struct st_arena *a = &j->arena;
	uint64_t tall = j->blocks * j->n; /* at most m */
	j->block = st_arena_alloc2(a, j->most, j->n, sizeof *j->block);
	j->c = st_arena_alloc2(a, j->most, j->n, sizeof *j->c);
	j->rows = st_arena_alloc2(a, j->most, j->n, sizeof *j->rows);
	j->stack = st_arena_alloc2(a, tall, j->n, sizeof *j->stack);
	j->tau = st_arena_alloc(a, j->n, sizeof *j->tau);
	j->stack_tau = st_arena_alloc(a, j->n, sizeof *j->stack_tau);
	j->r = st_arena_alloc2(a, j->n, j->n, sizeof *j->r);
	j->right = st_arena_alloc2(a, j->n, j->n, sizeof *j->right);
	j->left = st_arena_alloc2(a, j->n, j->n, sizeof *j->left);
	j->s = st_arena_alloc(a, j->n, sizeof *j->s);
	ST_NEED(j->block && j->c && j->rows && j->tau && j->stack && j->stack_tau && j->r && j->right && j->left
	        && j->s);
	return j->wide ? hold(j, err) : ST_OK;
}

/* The block's reflections and triangle, in j->block. */
static enum st_status factorise_block(struct job *j, uint64_t b, struct st_error *err)
{
	uint64_t r0 = block_start(j, b), r = block_start(j, b + 1) - r0;
	ST_TRY(st_check_cancel(err));
	st_hooks_progress(j->d->hooks, j->d->name, r0, j->m);
	ST_TRY(rows_of(j, r0, r, j->rows, err));
	st_matrix_turn(j->rows, r, j->n, j->block, 0, r, j->d->pool);
	return lapack(j, "sgeqrf",
	              j->la->sgeqrf(LAPACK_COL_MAJOR, (lapack_int)r, (lapack_int)j->n, j->block, (lapack_int)r, j->tau),
	              err);
}

/* The upper triangle [n, n] of a, whose columns are lda apart, to rows [at, at + n) of dst, whose columns are ldd
 * apart. */
static void triangle(const float *a, uint64_t lda, uint64_t n, float *dst, uint64_t at, uint64_t ldd)
{
	for (uint64_t c = 0; c < n; c++)
		for (uint64_t r = 0; r < n; r++)
			dst[c * ldd + at + r] = r <= c ? a[c * lda + r] : 0;
}

static enum st_status small_svd(struct job *j, struct st_error *err)
{
	lapack_int n = (lapack_int)j->n;
	if (!j->d->jacobi) /* right^T in columns is right in rows */
		return lapack(j, "dgesdd",
		              j->la->dgesdd(LAPACK_COL_MAJOR, 'S', n, n, j->r, n, j->s, j->left, n, j->right, n), err);
	double stat[6];
	/* V is output; LAPACKE looks for NaN in it, and `left` is zeros. */
	ST_TRY(lapack(j, "dgesvj",
	              j->la->dgesvj(LAPACK_COL_MAJOR, 'G', 'U', 'V', n, n, j->r, n, j->s, 0, j->left, n, stat), err));
	/* U has replaced R, V is in `left`, in columns; stat[0] scales the singular values. */
	for (uint64_t i = 0; i < j->n; i++) {
		j->s[i] *= stat[0];
		for (uint64_t r = 0; r < j->n; r++)
			j->right[r * j->n + i] = j->left[i * j->n + r];
	}
	memcpy(j->left, j->r, j->n * j->n * sizeof *j->left);
	return ST_OK;
}

/* First pass: the triangles, the small decomposition, and what turns each block's reflections into rows of U: the
 * block's rows of the small orthogonal factor times `left`, in place of its triangle. */
static enum st_status first_pass(struct job *j, struct st_error *err)
{
	uint64_t n = j->n, nn = n * n, tall = j->blocks * n;
	for (uint64_t b = 0; b < j->blocks; b++) {
		ST_TRY(factorise_block(j, b, err));
		triangle(j->block, block_start(j, b + 1) - block_start(j, b), n, j->stack, b * n, tall);
	}
	lapack_int ln = (lapack_int)n, lt = (lapack_int)tall;
	ST_TRY(lapack(j, "sgeqrf", j->la->sgeqrf(LAPACK_COL_MAJOR, lt, ln, j->stack, lt, j->stack_tau), err));
	float *small = st_arena_alloc2(&j->arena, n, n, sizeof *small),
	      *out = st_arena_alloc2(&j->arena, n, n, sizeof *out);
	ST_NEED(small && out);
	triangle(j->stack, tall, n, small, 0, n);
	for (uint64_t i = 0; i < nn; i++)
		j->r[i] = (double)small[i];
	ST_TRY(small_svd(j, err));
	ST_TRY(lapack(j, "sorgqr", j->la->sorgqr(LAPACK_COL_MAJOR, lt, ln, ln, j->stack, lt, j->stack_tau), err));
	for (uint64_t i = 0; i < nn; i++)
		small[i] = (float)j->left[i];
	for (uint64_t b = 0; b < j->blocks; b++) {
		float *q = j->stack + b * n;
		j->la->sgemm(CblasColMajor, CblasNoTrans, CblasNoTrans, ln, ln, ln, 1, q, lt, small, ln, 0, out, ln);
		for (uint64_t c = 0; c < n; c++)
			memcpy(q + c * tall, out + c * n, n * sizeof *out);
	}
	return ST_OK;
}

/* Rows of U of block b, into j->rows. */
static enum st_status block_of_u(struct job *j, uint64_t b, struct st_error *err)
{
	uint64_t n = j->n, r = block_start(j, b + 1) - block_start(j, b), tall = j->blocks * n;
	lapack_int ln = (lapack_int)n, lr = (lapack_int)r;
	ST_TRY(factorise_block(j, b, err));
	for (uint64_t c = 0; c < n; c++) {
		memcpy(j->c + c * r, j->stack + c * tall + b * n, n * sizeof *j->c);
		memset(j->c + c * r + n, 0, (r - n) * sizeof *j->c);
	}
	ST_TRY(lapack(j, "sormqr",
	              j->la->sormqr(LAPACK_COL_MAJOR, 'L', 'N', lr, ln, ln, j->block, lr, j->tau, j->c, lr), err));
	st_matrix_turn(j->c, n, r, j->rows, 0, n, j->d->pool);
	return ST_OK;
}

/* ---- writing and checking ---- */

/* Rows of A that are looked at together. */
enum { SOME = 256 };

struct check {
	double dd, aa, max;
	float *gram, *s, *a; /* a: [SOME, n] */
	struct st_gemm_b v;
};

/* A - U S V^T of a block: its rows of U are in j->rows. */
static enum st_status residual(struct job *j, uint64_t b, struct check *k, struct st_error *err)
{
	uint64_t r0 = block_start(j, b), r = block_start(j, b + 1) - r0, n = j->n;
	float *product = j->block;
	ST_NEED(st_gemm(&k->v, j->rows, k->s, r, product, j->d->pool));
	st_gram_add(j->rows, r, n, k->gram);
	for (uint64_t i = 0; i < r; i += SOME) {
		uint64_t m = r - i < SOME ? r - i : SOME;
		ST_TRY(rows_of(j, r0 + i, m, k->a, err));
		for (uint64_t x = 0; x < m * n; x++) {
			double d = fabs((double)k->a[x] - (double)product[i * n + x]);
			k->dd += d * d;
			k->aa += (double)k->a[x] * (double)k->a[x];
			k->max = d > k->max ? d : k->max;
		}
	}
	return ST_OK;
}

static int ascending(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;
	return (x > y) - (x < y);
}

static enum st_status gaps(struct job *j, struct st_svd_report *r, struct st_error *err)
{
	double *g = st_arena_alloc(&j->arena, j->n, sizeof *g);
	r->gap_min = r->gap_median = NAN;
	ST_NEED(g);
	for (uint64_t i = 0; i + 1 < j->n; i++) {
		g[i] = j->s[i] > 0 ? (j->s[i] - j->s[i + 1]) / j->s[i] : 0;
		r->close += g[i] < 1e-4;
		if (i == 0 || g[i] < r->gap_min) {
			r->gap_min = g[i];
			r->gap_at = i;
		}
	}
	if (j->n < 2)
		return ST_OK;
	qsort(g, j->n - 1, sizeof *g, ascending);
	r->gap_median = g[(j->n - 1) / 2];
	return ST_OK;
}

/* The factors go out: the n x n one, S, and the tall one [m, n] in blocks. */
static enum st_status put_factors(struct job *j, const float *v, struct check *k, struct st_error *err)
{
	const struct st_svd *d = j->d;
	uint64_t n = j->n;
	size_t tall = j->wide ? 2 : 0, square = j->wide ? 0 : 2; /* of U, S, V */
	ST_TRY(d->put(d->ctx, square, 0, v, n * n, err));
	ST_TRY(d->put(d->ctx, 1, 0, k->s, n, err));
	for (uint64_t b = 0; b < j->blocks; b++) {
		uint64_t r0 = block_start(j, b), rows = block_start(j, b + 1) - r0;
		ST_TRY(block_of_u(j, b, err));
		ST_TRY(d->put(d->ctx, tall, r0 * n, j->rows, rows * n, err));
		ST_TRY(residual(j, b, k, err));
	}
	return ST_OK;
}

static enum st_status second_pass(struct job *j, struct st_svd_report *r, struct st_error *err)
{
	uint64_t n = j->n;
	float *v = st_arena_alloc2(&j->arena, n, n, sizeof *v);
	struct check k = { .gram = st_arena_alloc2(&j->arena, ST_GRAM, n, sizeof *k.gram),
		           .s = st_arena_alloc(&j->arena, n, sizeof *k.s),
		           .a = st_arena_alloc2(&j->arena, SOME, n, sizeof *k.a) };
	double other = 0;
	ST_NEED(v && k.gram && k.s && k.a);
	for (uint64_t i = 0; i < n * n; i++)
		v[i] = (float)j->right[i];
	for (uint64_t i = 0; i < n; i++)
		k.s[i] = (float)j->s[i];
	ST_NEED(st_gemm_pack(&k.v, st_cpu_best(), v, true, n, n, j->d->pool));
	enum st_status st = put_factors(j, v, &k, err);
	st_gemm_release(&k.v);
	ST_TRY(st);
	ST_NEED(st_orthogonality(v, n, n, false, &other));
	double one = st_gram_error(k.gram, n);
	r->residual_rel = k.aa > 0 ? sqrt(k.dd / k.aa) : 0;
	r->residual_max = k.max;
	r->u_error = j->wide ? other : one;
	r->v_error = j->wide ? one : other;
	return gaps(j, r, err);
}

enum st_status st_svd_run(const struct st_svd *d, struct st_svd_report *r, struct st_error *err)
{
	struct job j = { .d = d };
	double t0 = st_clock();
	*r = (struct st_svd_report){ .method = d->jacobi ? "blocked sgeqrf, dgesvj" : "blocked sgeqrf, dgesdd" };
	ST_TRY(st_lapack_open(&j.la, err));
	j.la->set_num_threads((int)st_pool_threads(d->pool));
	st_arena_init(&j.arena);
	enum st_status st = start(&j, err);
	if (st == ST_OK)
		st = first_pass(&j, err);
	if (st == ST_OK)
		st = second_pass(&j, r, err);
	if (st == ST_ERR_FORMAT) /* the matrix itself */
		st_error_in(err, d->source.path);
	st_arena_release(&j.arena);
	r->seconds = st_clock() - t0;
	return st;
}
