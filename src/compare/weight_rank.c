/*
 * weight_rank.c - the difference is a matrix of low rank: an adapter was merged on one side, or lost, or merged twice.
 *
 * The rows of such a difference lie in a space of few dimensions. Some rows, spread evenly, span it; it is made better
 * known by all rows, and then every row of the one side must be the other's plus a combination of it. A
 * difference of full rank has no such space, and few dimensions cannot imitate one: each row has many more elements.
 */
#include "compare/weight_trial.h"

#include "base/pool.h"
#include "compare/eigen.h"

#include <float.h>
#include <math.h>
#include <string.h>

#define ROWS 160    /* that span the space */
#define SMALLEST 16 /* rows and columns of a matrix that can be said to have a rank */
#define SHARE 8     /* a rank is low up to this part of rows and columns */
#define EDGE 1.5    /* above the largest square of a singular value that noise of the expected size has */

struct space {
	uint64_t cols;
	size_t rank;
	const float *v;       /* [rank, cols], orthonormal */
	const double *square; /* [rank] of the combinations of all rows */
	const double *noise;  /* [cols] variance of an element */
	const double *of_v;   /* [rank] variance of a row's share of each, which noise brings */
};

static double dot(const float *x, const float *y, uint64_t n)
{
	double s[8] = { 0 };
	uint64_t i = 0;
	for (; i + 8 <= n; i += 8)
		for (size_t l = 0; l < 8; l++)
			s[l] += (double)x[i + l] * y[i + l];
	for (; i < n; i++)
		s[0] += (double)x[i] * y[i];
	return ((s[0] + s[4]) + (s[2] + s[6])) + ((s[1] + s[5]) + (s[3] + s[7]));
}

/* Gram-Schmidt, twice; rows that say nothing new become zero. */
static void orthonormalise(float *v, size_t n, uint64_t cols)
{
	for (size_t i = 0; i < n; i++) {
		float *x = v + i * cols;
		double first = sqrt(dot(x, x, cols));
		for (int twice = 0; twice < 2; twice++)
			for (size_t k = 0; k < i; k++) {
				double c = dot(x, v + k * cols, cols);
				for (uint64_t j = 0; j < cols; j++)
					x[j] -= (float)(c * v[k * cols + j]);
			}
		double len = sqrt(dot(x, x, cols));
		for (uint64_t j = 0; j < cols; j++)
			x[j] = len > 1e-6 * first ? (float)(x[j] / len) : 0;
	}
}

/* ---- the space ---- */

/* Row r of a - b. */
static void difference(const struct st_trial *t, uint64_t r, float *x, float *y)
{
	t->a->get(t->a, r, &(struct st_cells){ .value = x });
	t->b->get(t->b, r, &(struct st_cells){ .value = y });
	for (uint64_t k = 0; k < t->a->cols; k++)
		x[k] -= y[k];
}

/*
 * How many singular values of the n rows at d stand above what noise of variance `noise` gives, and the rows' own
 * combinations that belong to them: g [n, n] becomes their products, e the combinations, order[] the largest first.
 */
static size_t find_rank(const float *d, size_t n, uint64_t cols, double noise, double *g, double *e, size_t *order)
{
	double trace = 0, square = 0;
	for (size_t i = 0; i < n; i++)
		for (size_t k = 0; k <= i; k++) {
			double x = dot(d + i * cols, d + k * cols, cols);
			g[i * n + k] = g[k * n + i] = x;
			x -= i == k ? noise * (double)cols : 0;
			trace += i == k ? x : 0;
			square += (i == k ? 1 : 2) * x * x;
		}
	/* The number of dimensions that share the size evenly: of a full rank it is near n, and nothing more is
	 * asked. */
	if (!(trace > 0) || trace * trace > 0.5 * (double)n * square)
		return 0;
	st_diagonalise(g, e, n);
	double all = 0, edge = sqrt((double)n) + sqrt((double)cols);
	for (size_t i = 0; i < n; i++) {
		size_t at = i;
		while (at > 0 && g[order[at - 1] * n + order[at - 1]] < g[i * n + i]) {
			order[at] = order[at - 1];
			at--;
		}
		order[at] = i;
		all += g[i * n + i];
	}
	/* Each must stand out of the noise that is expected, and of what is left without it and the larger ones. */
	size_t rank = 0;
	double rest = all;
	for (size_t i = 0; i + 1 < n; i++) {
		double x = g[order[i] * n + order[i]];
		rest -= x;
		double level = fmax(noise, rest / ((double)(n - i - 1) * (double)cols));
		if (x > fmax(EDGE * level * edge * edge, 1e-9 * all))
			rank = i + 1;
	}
	return rank;
}

/* One step of subspace iteration over all rows: v becomes D^T D v, made orthonormal. square [rank]: |D v|^2. */
static enum st_status refine(struct st_trial *t, float *v, size_t rank, float *next, double *square)
{
	uint64_t cols = t->a->cols;
	float *x = st_arena_alloc(&t->arena, cols, sizeof *x), *y = st_arena_alloc(&t->arena, cols, sizeof *y);
	if (!x || !y)
		return st_fail(t->err, ST_ERR_NOMEM, "out of memory");
	memset(next, 0, rank * cols * sizeof *next);
	memset(square, 0, rank * sizeof *square);
	for (uint64_t r = 0; r < t->a->rows; r++) {
		ST_TRY(st_check_cancel(t->err));
		difference(t, r, x, y);
		for (size_t i = 0; i < rank; i++) {
			double c = dot(x, v + i * cols, cols);
			square[i] += c * c;
			for (uint64_t k = 0; k < cols; k++)
				next[i * cols + k] += (float)(c * x[k]);
		}
	}
	memcpy(v, next, rank * cols * sizeof *v);
	orthonormalise(v, rank, cols);
	return ST_OK;
}

/* ---- the hypothesis ---- */

/* b plus what of the difference lies in the space. */
struct completed {
	const struct st_rows *a, *b;
	const struct space *s;
};

static void get_completed(const struct st_rows *rows, uint64_t r, const struct st_cells *dst)
{
	const struct completed *c = rows->ctx;
	const struct space *s = c->s;
	float *x = dst->spare;
	c->b->get(c->b, r, dst);
	c->a->get(c->a, r, &(struct st_cells){ .value = x });
	for (uint64_t k = 0; k < s->cols; k++)
		x[k] -= dst->value[k];
	float *error = x + s->cols; /* of an element's share, squared */
	memset(error, 0, (size_t)s->cols * sizeof *error);
	for (size_t i = 0; i < s->rank; i++) {
		const float *v = s->v + i * s->cols;
		double f = dot(x, v, s->cols), share = s->square[i] > 0 ? f * f / s->square[i] : 0;
		for (uint64_t k = 0; k < s->cols; k++) {
			dst->value[k] += (float)(f * v[k]);
			error[k] += (float)(share * s->noise[k] + (double)v[k] * v[k] * s->of_v[i]);
		}
	}
	/*
	 * How far an element may be from a combination of the directions, beyond its own noise: the noise of the
	 * difference was fitted along with them. Both a direction at a column and a row's share of a direction are
	 * known only as well as the noise of that column and of that row allows. Four standard deviations.
	 */
	for (uint64_t k = 0; k < s->cols && dst->slack; k++)
		dst->slack[k] += 4 * sqrtf(error[k]);
}

/* The expected noise of an element of each column, in rows that are spread evenly; returns the mean in *all. */
static enum st_status noise_of(struct st_trial *t, const struct st_rows *a, const struct st_rows *b, size_t n,
                               double *of_col, double *all)
{
	uint64_t rows = a->rows, cols = a->cols;
	struct st_dense x, y;
	ST_TRY(st_dense_make(&t->arena, 1, cols, &x, t->err));
	ST_TRY(st_dense_make(&t->arena, 1, cols, &y, t->err));
	struct st_cells p = st_dense_row(&x, 0), q = st_dense_row(&y, 0);
	memset(of_col, 0, (size_t)cols * sizeof *of_col);
	*all = 0;
	for (size_t i = 0; i < n; i++) {
		a->get(a, i * rows / n, &p);
		b->get(b, i * rows / n, &q);
		for (uint64_t k = 0; k < cols; k++) {
			struct st_cells u = st_cells_from(&p, k), v = st_cells_from(&q, k);
			double one = st_cells_variance(&u, 1) + st_cells_variance(&v, 1);
			of_col[k] += one / (double)n;
			*all += one / ((double)n * (double)cols);
		}
	}
	return ST_OK;
}

/* That b is a but for the first `rank` combinations e of the rows d [n, cols] of their difference. */
static enum st_status consider_rank(struct st_trial *t, const struct st_rows *a, const struct st_rows *b,
                                    const float *d, size_t n, size_t rank, const double *e, const size_t *order,
                                    const double *noise)
{
	uint64_t cols = a->cols;
	float *v = st_arena_alloc2(&t->arena, rank, cols, sizeof *v),
	      *next = st_arena_alloc2(&t->arena, rank, cols, sizeof *next);
	double *square = st_arena_alloc(&t->arena, rank, sizeof *square),
	       *of_v = st_arena_alloc(&t->arena, rank, sizeof *of_v);
	if (!v || !next || !square || !of_v)
		return st_fail(t->err, ST_ERR_NOMEM, "out of memory");
	memset(v, 0, rank * cols * sizeof *v);
	for (size_t i = 0; i < rank; i++)
		for (size_t k = 0; k < n; k++) {
			float c = (float)e[order[i] * n + k];
			for (uint64_t j = 0; j < cols; j++)
				v[i * cols + j] += c * d[k * cols + j];
		}
	orthonormalise(v, rank, cols);
	ST_TRY(refine(t, v, rank, next, square));
	for (size_t i = 0; i < rank; i++) {
		of_v[i] = 0;
		for (uint64_t k = 0; k < cols; k++)
			of_v[i] += (double)v[i * cols + k] * v[i * cols + k] * noise[k];
	}
	struct space s = { .cols = cols, .rank = rank, .v = v, .square = square, .noise = noise, .of_v = of_v };
	struct completed c = { a, b, &s };
	struct st_rows side = *b;
	side.get = get_completed;
	side.ctx = &c;
	side.whole = false;
	struct st_cause cause = { .code = ST_CAUSE_WEIGHT_LOW_RANK };
	st_cause_put(&cause, ST_PARAM_RANK, (double)rank);
	st_cause_put(&cause, ST_PARAM_SHARE, t->d->rel_l2);
	return st_trial_consider(t, a, &side, cause, 0, false);
}

/* Rows d [n, cols] of a - b, whose noise follows from the cells of the two. */
static enum st_status try_rank(struct st_trial *t, const struct st_rows *a, const struct st_rows *b, const float *d,
                               size_t n)
{
	uint64_t rows = a->rows, cols = a->cols, least = rows < cols ? rows : cols;
	double mean;
	double *g = st_arena_alloc2(&t->arena, n, n, sizeof *g), *e = st_arena_alloc2(&t->arena, n, n, sizeof *e),
	       *noise = st_arena_alloc(&t->arena, cols, sizeof *noise);
	if (!g || !e || !noise)
		return st_fail(t->err, ST_ERR_NOMEM, "out of memory");
	ST_TRY(noise_of(t, a, b, n, noise, &mean));
	size_t order[ROWS];
	size_t rank = find_rank(d, n, cols, mean, g, e, order);
	/* As many rows that differ have a rank of their own: they are corrupt. */
	if (rank == 0 || rank * SHARE > least || rank * 2 > n || rank * 2 > t->d->bad_rows)
		return ST_OK;
	/* Noise that is larger in some elements looks like more dimensions: the fewest that explain it count. */
	for (size_t few = 1; few < rank && !t->done; few *= 2)
		ST_TRY(consider_rank(t, a, b, d, n, few, e, order, noise));
	return t->done ? ST_OK : consider_rank(t, a, b, d, n, rank, e, order, noise);
}

enum st_status st_test_low_rank(struct st_trial *t)
{
	uint64_t rows = t->a->rows, cols = t->a->cols, least = rows < cols ? rows : cols;
	size_t n = rows < ROWS ? (size_t)rows : ROWS;
	if (least < SMALLEST || t->d->nonfinite_a || t->d->nonfinite_b)
		return ST_OK;
	float *d = st_arena_alloc2(&t->arena, n, cols, sizeof *d), *y = st_arena_alloc(&t->arena, cols, sizeof *y);
	if (!d || !y)
		return st_fail(t->err, ST_ERR_NOMEM, "out of memory");
	for (size_t i = 0; i < n; i++)
		difference(t, i * rows / n, d + i * cols, y);
	/*
	 * Numbers that came out of blocks and were stored more finely since: what was added to them is as fine, and
	 * much smaller than the steps of these blocks.
	 */
	struct st_rows a = st_rows_of(t->a->w), b = st_rows_of(t->b->w);
	if (a.held.type != t->a->held.type || b.held.type != t->b->held.type)
		ST_TRY(try_rank(t, &a, &b, d, n));
	return t->done ? ST_OK : try_rank(t, t->a, t->b, d, n);
}
