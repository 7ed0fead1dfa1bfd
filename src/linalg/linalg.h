/*
 * linalg.h - singular values of matrices that need not fit into memory (svd.c), by LAPACK where it is installed
 * (lapack.c), and small things about matrices (matrix.c).
 */
#ifndef ST_LINALG_LINALG_H
#define ST_LINALG_LINALG_H

#include <stele/pool.h>
#include <stele/status.h>

/* ---- rows of a matrix, wherever they come from ---- */

struct st_row_source {
	/* Rows [row0, row0 + n) in f32. */
	enum st_status (*rows)(void *ctx, uint64_t row0, uint64_t n, float *dst, struct st_error *err);
	void *ctx;
	const char *path; /* of the file that the rows are from, for messages; or NULL */
};

/* ---- matrices (matrix.c) ---- */

/* src [rows, cols] transposed into columns [at, at + rows) of dst [cols, width]. */
void st_matrix_turn(const float *src, uint64_t rows, uint64_t cols, float *dst, uint64_t at, uint64_t width,
                    struct st_pool *pool);
/* Columns that stand for all when U^T U is looked at. */
#define ST_GRAM 16
/* gram [ST_GRAM, k] += picked columns^T u */
void st_gram_add(const float *u, uint64_t rows, uint64_t k, float *gram);
double st_gram_error(const float *gram, uint64_t k);
/* Of the n x k matrix whose columns should be orthonormal; x holds it [n, k] or, turned, [k, n]. False: no memory. */
bool st_orthogonality(const float *x, uint64_t n, uint64_t k, bool turned, double *error);

/* ---- singular value decomposition (svd.c) ---- */

/* A [rows, cols] = U diag(S) V^T with k = min(rows, cols) singular values, thin: U [rows, k], V [cols, k]. */
struct st_svd {
	const char *name; /* of the matrix, for messages */
	uint64_t rows, cols;
	struct st_row_source source;
	bool jacobi; /* the small decomposition by dgesvj instead of dgesdd */
	struct st_pool *pool;
	const struct st_hooks *hooks;
	/* Takes n numbers of U (factor 0), S (1) or V (2), from number `at` on, in any order. */
	enum st_status (*put)(void *ctx, size_t factor, uint64_t at, const float *x, uint64_t n, struct st_error *err);
	void *ctx;
};
struct st_svd_report {
	double residual_rel, residual_max, u_error, v_error;
	double gap_min, gap_median; /* relative gaps (s[i] - s[i+1]) / s[i] */
	uint64_t gap_at, close;     /* index of the smallest; pairs closer than 1e-4 */
	double seconds;
	const char *method;
};
ST_MUST_CHECK enum st_status st_svd_run(const struct st_svd *d, struct st_svd_report *r, struct st_error *err);
/* Operations that it takes, for a warning beforehand. */
double st_svd_cost(uint64_t rows, uint64_t cols);
/* What computes them, where it has been loaded; else NULL. */
const char *st_lapack_name(char *buf, size_t n);

#endif
