/* parts.c - a part of a sum is left out, a part of a result is wrong, or differs by a matrix of few dimensions. */
#include "explain/product.h"

#include "base/error.h"
#include "compare/eigen.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- a part of the sum ---- */

/* Whether a few features give what was captured with inputs [first, end) alone; row: [K]. */
static bool sum_promises(const struct st_trial *t, const struct st_product *p, size_t first, size_t end, float *row)
{
	struct st_glance g = { 0 };
	size_t looks = p->N < ST_GLANCED ? p->N : ST_GLANCED;
	for (size_t e = 0; e < p->E; e++)
		for (size_t j = 0; j < looks; j++) {
			size_t n = j * p->N / looks;
			uint32_t k = 0;
			struct st_part part = st_product_part(t, 0);
			while (n >= part.at + part.len)
				part = st_product_part(t, ++k);
			bool decoded = false;
			for (size_t r = 0; r < p->rows; r++) {
				if (!st_product_has(p, r) || st_product_matrix(p, r) != e)
					continue;
				if (!decoded)
					st_product_row(p, part.w, e, n - part.at, row);
				decoded = true;
				const float *x = st_product_input(p, r);
				double y = 0;
				for (size_t i = first; i < end; i++)
					y += (double)row[i] * x[i];
				st_glance_add(&g, t->got[r * p->N + n], t->exact[r * p->N + n], y);
			}
		}
	return st_glance_promises(&g, t);
}

/* Inputs [first, end) alone are summed up. */
static enum st_status try_sum(struct st_trial *t, const struct st_product *p, size_t first, size_t end,
                              struct st_cause *c, struct st_error *err)
{
	struct st_value in = st_run_value(t->x->run, t->n->in[0]);
	float *row = st_alloc_array(p->K, sizeof *row);
	if (!row)
		return st_fail(err, ST_ERR_NOMEM, "out of memory");
	bool promise = !st_trial_direct(t) || sum_promises(t, p, first, end, row);
	free(row);
	if (!promise)
		return ST_OK;
	float *x = in.data, *kept = st_alloc_array2(in.rows, in.cols, sizeof *kept);
	if (!kept)
		return st_fail(err, ST_ERR_NOMEM, "out of memory");
	memcpy(kept, x, in.rows * in.cols * sizeof *x);
	for (size_t k = 0; k < in.rows * in.cols; k++) {
		size_t i = k % in.cols % p->K;
		x[k] = i < first || i >= end ? 0 : x[k];
	}
	enum st_status st = st_run_eval_as(t->x->run, t->i, t->n, &t->x->exec, st_trial_buffer(t), err);
	memcpy(x, kept, in.rows * in.cols * sizeof *x);
	free(kept);
	return st == ST_OK ? st_try_value(t, st_trial_buffer(t), c, err) : st;
}

enum st_status st_test_parts_of_sum(struct st_trial *t, struct st_error *err)
{
	struct st_product p = st_product_of(t);
	size_t K = p.K;
	if (t->n->from[0])
		return ST_OK;
	for (size_t tile = 4; tile <= 1024; tile *= 2) {
		size_t whole = K - K % tile;
		struct st_cause c = st_blame(ST_CAUSE_KERNEL_TAIL);
		st_cause_put(&c, ST_PARAM_FIRST_COLUMN, (double)whole);
		st_cause_put(&c, ST_PARAM_OF, (double)K);
		st_cause_put_text(&c, ST_PARAM_AXIS, "sum");
		if (whole && whole < K && (tile == 4 || whole != K - K % (tile / 2)))
			ST_TRY(try_sum(t, &p, 0, whole, &c, err));
	}
	for (size_t parts = 2; parts <= 8; parts *= 2)
		for (size_t i = 0; i < parts && K % parts == 0; i++) {
			struct st_cause c = st_blame(ST_CAUSE_KERNEL_PARTIAL_SUM);
			size_t from = i * K / parts, to = (i + 1) * K / parts;
			st_cause_put(&c, ST_PARAM_FIRST_COLUMN, (double)from);
			st_cause_put(&c, ST_PARAM_LAST_COLUMN, (double)(to - 1));
			st_cause_put(&c, ST_PARAM_OF, (double)K);
			ST_TRY(try_sum(t, &p, from, to, &c, err));
		}
	return ST_OK;
}

/* ---- a part of the result ---- */

/* The value of any operation, as rows of features; rows of different groups (experts) are wrong in features of their
 * own. */
struct result {
	size_t rows, N, groups;
	struct st_product p; /* of a product with chosen experts */
	bool product;
};

static struct result result_of(const struct st_trial *t)
{
	struct st_value v = st_trial_value(t);
	struct result s = { .rows = v.rows, .N = v.cols, .groups = 1 };
	if (t->n->op != ST_OP_LINEAR && t->n->op != ST_OP_LINEAR_AT)
		return s;
	s.product = true;
	s.p = st_product_of(t);
	s.rows = s.p.rows;
	s.N = s.p.N;
	s.groups = s.p.E;
	return s;
}

static bool row_is_there(const struct st_trial *t, const struct result *s, size_t r)
{
	return s->product ? st_product_has(&s->p, r) : st_trial_has(t, r);
}

static size_t group_of(const struct result *s, size_t r) { return s->groups > 1 ? st_product_matrix(&s->p, r) : 0; }

struct wrong {
	size_t n, first, last; /* features that are wrong at every captured row but a few */
	size_t groups, group;  /* that have such, and the first of them */
	bool zero;             /* and zero there */
	bool one_run;
	bool odd; /* most are of sizes that no other value has */
};

static int by_value(const void *a, const void *b)
{
	float x = *(const float *)a, y = *(const float *)b;
	return (x > y) - (x < y);
}

/* Differences of a row that stand out among those of its other features, or zeros where there should be none. */
static void count_row(const struct st_trial *t, const struct result *s, size_t r, float *d, float *sorted, float *count)
{
	const float *got = t->got + r * s->N, *exact = t->exact + r * s->N;
	double square = 0;
	for (size_t i = 0; i < s->N; i++) {
		d[i] = fabsf(got[i] - exact[i]);
		square += (double)exact[i] * exact[i];
	}
	memcpy(sorted, d, s->N * sizeof *d);
	qsort(sorted, s->N, sizeof *sorted, by_value);
	float least = (float)(1e-5 * sqrt(square / (double)s->N)), limit = 20 * sorted[s->N / 2] + least;
	for (size_t i = 0; i < s->N; i++)
		count[i] += d[i] > limit || (got[i] == 0 && d[i] > least) ? 1 : 0;
}

/* is: [groups, N]. */
static enum st_status wrong_features(const struct st_trial *t, const struct result *s, bool *is, struct wrong *w,
                                     struct st_error *err)
{
	size_t N = s->N;
	float *d = st_alloc_array2(3, N, sizeof *d), *count = d ? d + N : NULL, *sorted = d ? d + 2 * N : NULL;
	if (!d)
		return st_fail(err, ST_ERR_NOMEM, "out of memory");
	*w = (struct wrong){ .zero = true, .one_run = true };
	for (size_t g = 0; g < s->groups; g++) {
		size_t seen = 0, n = 0;
		memset(count, 0, N * sizeof *count);
		for (size_t r = 0; r < s->rows; r++)
			if (row_is_there(t, s, r) && group_of(s, r) == g) {
				count_row(t, s, r, d, sorted, count);
				seen++;
			}
		for (size_t i = 0; i < N; i++) {
			is[g * N + i] = seen && count[i] * 10 >= (float)seen * 6;
			if (!is[g * N + i])
				continue;
			w->one_run &= n == 0 ? w->n == 0 || i == w->first : w->last + 1 == i;
			w->first = w->n ? w->first : i;
			w->last = i;
			w->n++;
			n++;
		}
		w->group = n && !w->groups ? g : w->group;
		w->groups += n > 0;
	}
	size_t odd = 0, all = 0;
	for (size_t r = 0; r < s->rows; r++) {
		double square = 0;
		for (size_t i = 0; i < N; i++)
			square += (double)t->exact[r * N + i] * t->exact[r * N + i];
		double size = sqrt(square / (double)N);
		for (size_t i = 0; i < N && row_is_there(t, s, r); i++)
			if (is[group_of(s, r) * N + i]) {
				double v = fabs((double)t->got[r * N + i]);
				w->zero &= v == 0;
				odd += v > 1e3 * size || v < 1e-6 * size;
				all++;
			}
	}
	w->odd = odd * 4 > all * 3;
	free(d);
	return ST_OK;
}

static struct st_cause blame_part(const struct st_trial *t, const struct result *s, const struct wrong *w)
{
	bool tail = w->one_run && w->last + 1 == s->N && w->n / w->groups < 1024,
	     tile = w->one_run && w->first % 16 == 0 && (w->last + 1) % 16 == 0;
	bool uninitialised = w->one_run && w->odd && !w->zero;
	struct st_cause c = st_blame(uninitialised                      ? ST_CAUSE_KERNEL_UNINITIALISED
	                             : tail                             ? ST_CAUSE_KERNEL_TAIL
	                             : tile || t->n->op != ST_OP_LINEAR ? ST_CAUSE_KERNEL_STALE_TILE
	                                                                : ST_CAUSE_WEIGHT_ROW_CORRUPT);
	if (s->product && c.code == ST_CAUSE_KERNEL_STALE_TILE && !tile)
		c.code = ST_CAUSE_WEIGHT_ROW_CORRUPT;
	if (c.code == ST_CAUSE_WEIGHT_ROW_CORRUPT) {
		st_cause_put(&c, ST_PARAM_ROWS, (double)w->n);
		st_cause_put(&c, ST_PARAM_FIRST_ROW, (double)w->first);
		st_cause_put(&c, ST_PARAM_LAST_ROW, (double)w->last);
		return c;
	}
	st_cause_put(&c, ST_PARAM_FIRST_COLUMN, (double)w->first);
	if (c.code == ST_CAUSE_KERNEL_TAIL) {
		st_cause_put(&c, ST_PARAM_OF, (double)s->N);
		st_cause_put_text(&c, ST_PARAM_AXIS, "result");
	} else {
		st_cause_put(&c, ST_PARAM_LAST_COLUMN, (double)w->last);
	}
	return c;
}

/* Of what is wrong otherwise than by being zero only the place can be told. */
enum st_status st_test_parts_of_result(struct st_trial *t, struct st_error *err)
{
	struct result s = result_of(t);
	if (!st_trial_direct(t) || s.N < 4 || t->best->cause.confidence == ST_CONFIRMED)
		return ST_OK;
	bool *is = st_alloc_array2(s.groups, s.N, sizeof *is);
	if (!is)
		return st_fail(err, ST_ERR_NOMEM, "out of memory");
	struct wrong w;
	enum st_status st = wrong_features(t, &s, is, &w, err);
	bool some = w.n && (w.zero ? w.n < w.groups * s.N : w.n * 2 < w.groups * s.N);
	/* Other operations than products have no rows of a weight: a run of features is what a kernel leaves out. */
	if (st == ST_OK && some && (s.product || w.one_run)) {
		float *y = st_trial_buffer(t);
		for (size_t r = 0; r < s.rows; r++)
			for (size_t i = 0; i < s.N; i++) {
				size_t k = r * s.N + i;
				y[k] = !is[group_of(&s, r) * s.N + i] ? t->exact[k] : w.zero ? 0 : t->got[k];
			}
		struct st_cause c = blame_part(t, &s, &w);
		st = st_try_value(t, y, &c, err);
	}
	free(is);
	return st;
}

/* ---- a matrix of low rank was added ---- */

/* Products of the differences of rows that one matrix makes; others have nothing to do with each other. */
static void correlate(const struct st_trial *t, const struct st_product *p, double *a)
{
	size_t R = p->rows, N = p->N;
	memset(a, 0, R * R * sizeof *a);
	for (size_t i = 0; i < R; i++)
		for (size_t j = 0; j < R; j++) {
			if (!st_product_has(p, i) || !st_product_has(p, j)
			    || st_product_matrix(p, i) != st_product_matrix(p, j))
				continue;
			for (size_t k = 0; k < N; k++)
				a[i * R + j] += ((double)t->got[i * N + k] - t->exact[i * N + k])
				              * ((double)t->got[j * N + k] - t->exact[j * N + k]);
		}
}

static int by_size(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;
	return (x < y) - (x > y);
}

/* Of a difference with few dimensions beside noise: sizes that no noise has, which is what the smaller half shows. */
static size_t rank_of(const double *a, size_t R, double *least, double *sorted)
{
	size_t rank = 0;
	for (size_t i = 0; i < R; i++)
		sorted[i] = a[i * R + i];
	qsort(sorted, R, sizeof *sorted, by_size);
	*least = fmax(8 * sorted[R / 2], 1e-9 * sorted[0]);
	for (size_t i = 0; i < R; i++)
		rank += sorted[i] > *least;
	return rank;
}

/* What the largest directions leave of the difference is what has to be noise. */
static enum st_status try_rank(struct st_trial *t, const struct st_product *p, const double *a, const double *v,
                               double least, size_t rank, struct st_error *err)
{
	size_t R = p->rows, N = p->N;
	float *y = st_trial_buffer(t);
	for (size_t i = 0; i < R; i++)
		for (size_t k = 0; k < N; k++)
			y[i * N + k] = t->exact[i * N + k];
	for (size_t i = 0; i < R; i++)
		for (size_t j = 0; j < R; j++) {
			double weight = 0;
			for (size_t e = 0; e < R; e++)
				weight += a[e * R + e] > least ? v[e * R + i] * v[e * R + j] : 0;
			for (size_t k = 0; k < N && weight != 0; k++)
				y[i * N + k] += (float)(weight * ((double)t->got[j * N + k] - t->exact[j * N + k]));
		}
	struct st_cause c = st_blame(ST_CAUSE_WEIGHT_LOW_RANK);
	st_cause_put(&c, ST_PARAM_RANK, (double)rank);
	st_cause_put(&c, ST_PARAM_SHARE, t->before);
	return st_try_value(t, y, &c, err);
}

/* A few features that are wrong are few dimensions, too: what takes fewer numbers to say is the simpler one. */
static enum st_status is_simpler(const struct st_trial *t, const struct st_product *p, size_t rank, bool *simpler,
                                 struct st_error *err)
{
	struct result s = result_of(t);
	bool *is = st_alloc_array2(s.groups, s.N, sizeof *is);
	struct wrong w;
	if (!is)
		return st_fail(err, ST_ERR_NOMEM, "out of memory");
	enum st_status st = wrong_features(t, &s, is, &w, err);
	*simpler = w.n == 0 || (!w.zero && rank * (w.n + p->rows) < w.n * p->rows);
	free(is);
	return st;
}

/* The difference has fewer dimensions than there are rows: no rounding has that. */
enum st_status st_test_added_rank(struct st_trial *t, struct st_error *err)
{
	struct st_product p = st_product_of(t);
	size_t R = p.rows;
	if (!st_trial_direct(t) || R < 4 || R > 256 || p.N < 8 || t->best->cause.confidence == ST_CONFIRMED)
		return ST_OK;
	double *a = st_alloc_array3(R, R, 2, sizeof *a), *v = a ? a + R * R : NULL,
	       *sorted = st_alloc_array(R, sizeof *sorted), least;
	enum st_status st = a && sorted ? ST_OK : st_fail(err, ST_ERR_NOMEM, "out of memory");
	if (st == ST_OK) {
		correlate(t, &p, a);
		st_diagonalise(a, v, R);
		size_t rank = rank_of(a, R, &least, sorted);
		bool simpler = false;
		if (rank && rank * 2 <= R && rank * 2 <= p.N)
			st = is_simpler(t, &p, rank, &simpler, err);
		if (st == ST_OK && simpler)
			st = try_rank(t, &p, a, v, least, rank, err);
	}
	free(a);
	free(sorted);
	return st;
}
