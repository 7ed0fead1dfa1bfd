/*
 * weight_zeros.c - elements, rows or columns that are zero on one side alone, where all others agree: one was pruned.
 *
 * A few rows or columns that lie together are lost or corrupt, and have tests of their own.
 */
#include "compare/weight_trial.h"

#include <math.h>
#include <string.h>

#define LEAST 4 /* rows and columns that are touched */

/* A side that is zero where the other one is. */
struct pruned {
	const struct st_rows *from, *zeros;
};

static void get_pruned(const struct st_rows *s, uint64_t r, const struct st_cells *dst)
{
	const struct pruned *x = s->ctx;
	struct st_cells other = { dst->spare, dst->spare + s->cols, dst->spare + 2 * s->cols, dst->spare + 3 * s->cols,
		                  NULL };
	x->zeros->get(x->zeros, r, &other);
	x->from->get(x->from, r, dst);
	for (uint64_t i = 0; i < s->cols; i++)
		if (other.value[i] == 0)
			st_cells_copy(&other, i, dst, i, 1);
}

/* Where one side alone is zero, and no rounding made it so. */
struct zeros {
	uint64_t n, rows, first_row, last_row;
	uint64_t *of_col; /* [cols] */
};

static void note_zero(struct zeros *z, uint64_t r, uint64_t c)
{
	if (z->n == 0 || z->last_row != r) {
		z->first_row = z->n ? z->first_row : r;
		z->last_row = r;
		z->rows++;
	}
	z->n++;
	z->of_col[c]++;
}

static enum st_status count_zeros(struct st_trial *t, struct zeros z[2])
{
	uint64_t cols = t->a->cols;
	struct st_dense x, y;
	ST_TRY(st_dense_make(&t->arena, 1, cols, &x, t->err));
	ST_TRY(st_dense_make(&t->arena, 1, cols, &y, t->err));
	struct st_cells a = st_dense_row(&x, 0), b = st_dense_row(&y, 0);
	for (int k = 0; k < 2; k++) {
		z[k] = (struct zeros){ .of_col = st_arena_alloc(&t->arena, cols, sizeof *z[k].of_col) };
		if (!z[k].of_col)
			return st_fail(t->err, ST_ERR_NOMEM, "out of memory");
		memset(z[k].of_col, 0, cols * sizeof *z[k].of_col);
	}
	for (uint64_t r = 0; r < t->a->rows; r++) {
		t->a->get(t->a, r, &a);
		t->b->get(t->b, r, &b);
		float rms = (float)sqrt(t->stats[r].bb / (double)cols);
		for (uint64_t i = 0; i < cols; i++) {
			if ((a.value[i] == 0) == (b.value[i] == 0))
				continue;
			struct st_cells xi = st_cells_from(&a, i), yi = st_cells_from(&b, i);
			struct st_fit one;
			st_fit_elements(&xi, &yi, 1, rms, &one);
			if (st_fit_apart(&one))
				note_zero(&z[a.value[i] != 0], r, i);
		}
		if (r % 256 == 0)
			ST_TRY(st_check_cancel(t->err));
	}
	return ST_OK;
}

enum st_status st_test_zeros(struct st_trial *t)
{
	uint64_t rows = t->a->rows, cols = t->a->cols;
	struct zeros z[2];
	if (rows < LEAST || cols < LEAST || t->d->nonfinite_a || t->d->nonfinite_b)
		return ST_OK;
	ST_TRY(count_zeros(t, z));
	int k = z[1].n > z[0].n; /* the side with them */
	const struct zeros *s = &z[k];
	uint64_t touched = 0, whole = 0, first = cols, last = 0;
	for (uint64_t i = 0; i < cols; i++) {
		touched += s->of_col[i] > 0;
		whole += s->of_col[i] == rows;
		first = s->of_col[i] && first == cols ? i : first;
		last = s->of_col[i] ? i : last;
	}
	bool together = touched && (last - first + 1 == touched && touched < cols);
	bool rows_together = s->rows && s->last_row - s->first_row + 1 == s->rows && s->rows < rows;
	if (s->rows < LEAST || touched < LEAST || together || rows_together)
		return ST_OK;
	struct pruned x = { k ? t->a : t->b, k ? t->b : t->a };
	struct st_rows side = *x.from;
	side.get = get_pruned;
	side.ctx = &x;
	side.whole = false;
	struct st_cause c = { .code = ST_CAUSE_WEIGHT_TWO_MODELS };
	st_cause_put(&c, ST_PARAM_ZEROS, (double)s->n / ((double)rows * (double)cols));
	st_cause_put_text(&c, ST_PARAM_IN, k ? "B" : "A");
	if (s->n == s->rows * cols)
		st_cause_put(&c, ST_PARAM_ROWS, (double)s->rows);
	else if (whole == touched)
		st_cause_put(&c, ST_PARAM_COLUMNS, (double)touched);
	return st_trial_consider(t, k ? &side : t->a, k ? t->b : &side, c, 0, false);
}
