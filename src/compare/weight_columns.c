/*
 * weight_columns.c - columns of a matrix, or elements of a vector, that are wrong by themselves.
 *
 * One input channel that was zeroed, scaled or overwritten is a small part of every row and may make all of them bad.
 * Down the column most elements are outside, and elsewhere none is.
 */
#include "compare/weight_gain.h"
#include "compare/weight_trial.h"

#include <math.h>
#include <stdlib.h>

#define TOUCHED 0.5 /* of the elements of a wrong column are outside; a row that is wrong touches one of each */
#define BLOCK 32

/* What one column says. */
struct column {
	struct st_gain gain;
	double pred;
	struct st_fit fit;
	bool bad;
};

struct columns {
	struct column *c;
	uint64_t n_bad, first, last;
};

static enum st_status measure(struct st_trial *t, struct columns *s)
{
	uint64_t cols = t->a->cols, rows = t->a->rows;
	struct st_dense x, y;
	*s = (struct columns){ .c = st_arena_alloc(&t->arena, cols, sizeof *s->c) };
	if (!s->c)
		return st_fail(t->err, ST_ERR_NOMEM, "out of memory");
	ST_TRY(st_dense_make(&t->arena, 1, cols, &x, t->err));
	ST_TRY(st_dense_make(&t->arena, 1, cols, &y, t->err));
	struct st_cells a = st_dense_row(&x, 0), b = st_dense_row(&y, 0);
	for (uint64_t i = 0; i < cols; i++)
		s->c[i] = (struct column){ .gain = ST_GAIN_NONE };
	for (uint64_t r = 0; r < rows; r++) {
		t->a->get(t->a, r, &a);
		t->b->get(t->b, r, &b);
		float rms = (float)sqrt(t->stats[r].bb / (double)cols);
		for (uint64_t i = 0; i < cols; i++) {
			struct column *c = &s->c[i];
			struct st_cells xi = st_cells_from(&a, i), yi = st_cells_from(&b, i);
			struct st_fit one;
			st_gain_add(&c->gain, &a, &b, i, rms);
			c->pred += st_cells_variance(&xi, 1) + st_cells_variance(&yi, 1);
			st_fit_elements(&xi, &yi, 1, rms, &one);
			st_fit_add(&c->fit, &one);
		}
		if (r % 256 == 0)
			ST_TRY(st_check_cancel(t->err));
	}
	for (uint64_t i = 0; i < cols; i++) {
		s->c[i].bad = !st_fit_is_noise(&s->c[i].fit);
		if (!s->c[i].bad)
			continue;
		if (!s->n_bad++)
			s->first = i;
		s->last = i;
	}
	return ST_OK;
}

/* A side with each column times a factor of its own, or taken from the other side where that is NaN. */
struct column_gains {
	const struct st_rows *from, *other;
	const double *factor;
};

static void get_columns(const struct st_rows *s, uint64_t r, const struct st_cells *dst)
{
	const struct column_gains *x = s->ctx;
	struct st_cells other = { dst->spare, dst->spare + s->cols, dst->spare + 2 * s->cols, dst->spare + 3 * s->cols,
		                  NULL };
	x->other->get(x->other, r, &other);
	x->from->get(x->from, r, dst);
	for (uint64_t i = 0; i < s->cols; i++) {
		struct st_cells one = st_cells_from(dst, i);
		if (isnan(x->factor[i]))
			st_cells_copy(&other, i, dst, i, 1);
		else if (x->factor[i] != 1)
			st_cells_affine(&one, 1, x->factor[i], 0);
	}
}

/*
 * Whole blocks with one factor for all of their columns: wrong scales, which have a test of their own. Not every column
 * of such a block need stand out.
 */
static bool are_blocks(const struct columns *s, uint64_t cols)
{
	for (uint64_t i = s->first / BLOCK * BLOCK; i <= s->last; i += BLOCK) {
		uint64_t end = cols - i < BLOCK ? cols : i + BLOCK;
		double aa = 0, ab = 0, bb = 0, dd = 0, pred = 0;
		bool touched = false;
		for (uint64_t j = i; j < end; j++) {
			const struct column *c = &s->c[j];
			touched |= c->bad;
			aa += c->gain.aa;
			ab += c->gain.ab;
			bb += c->gain.bb;
			dd += c->gain.dd;
			pred += c->pred;
		}
		if (!touched)
			continue;
		double gain = bb > 0 ? ab / bb : 0, left = aa - 2 * gain * ab + gain * gain * bb;
		if (gain < 0.1 || left > 0.05 * dd + 2 * pred)
			return false;
	}
	return true;
}

/* The side whose wrong columns are of no size that a column has. */
static char odd_side(const struct columns *s, uint64_t cols)
{
	struct st_odd odd = { 0 };
	for (uint64_t i = 0; i < cols; i++)
		st_odd_add(&odd, s->c[i].gain.aa, s->c[i].gain.bb, s->c[i].bad);
	return st_odd_side(&odd);
}

enum st_status st_test_columns(struct st_trial *t)
{
	struct columns s;
	uint64_t cols = t->a->cols, outside = 0, n = 0;
	/* With fewer rows there is a column in every row that is wrong by itself. */
	if (t->a->rows < 8 && t->a->rows > 1)
		return ST_OK;
	ST_TRY(measure(t, &s));
	for (uint64_t i = 0; i < cols; i++) {
		outside += s.c[i].bad ? st_fit_apart(&s.c[i].fit) : 0;
		n += s.c[i].bad ? s.c[i].fit.judged : 0;
	}
	if (s.n_bad == 0 || (double)outside < TOUCHED * (double)n || are_blocks(&s, cols))
		return ST_OK;
	double *factor = st_arena_alloc(&t->arena, cols, sizeof *factor);
	if (!factor)
		return st_fail(t->err, ST_ERR_NOMEM, "out of memory");
	/* A few, or many that lie together; else each may have a factor of its own. */
	bool together = s.last - s.first + 1 == s.n_bad, few = s.n_bad * 4 <= cols * (together ? 3 : 1);
	/* A factor near 0 would explain anything by taking it away. */
	bool may_scale = t->a->rows > 1;
	for (uint64_t i = 0; i < cols; i++) {
		const struct st_gain *g = &s.c[i].gain;
		may_scale &= !s.c[i].bad || (g->ab != 0 && g->ab * g->ab >= 0.25 * g->aa * g->bb);
	}
	for (int scaled = !few; scaled < (may_scale ? 2 : 1) && !t->done; scaled++) {
		for (uint64_t i = 0; i < cols; i++)
			factor[i] = !s.c[i].bad ? 1 : !scaled ? NAN : st_gain_of(&s.c[i].gain);
		struct column_gains x = { t->b, t->a, factor };
		struct st_rows b = *t->b;
		b.get = get_columns;
		b.ctx = &x;
		struct st_cause c = { .code = scaled ? st_scaled_code(t->d->slot) : ST_CAUSE_WEIGHT_ROW_CORRUPT };
		st_cause_put_text(&c, ST_PARAM_AXIS, "column");
		if (!scaled) {
			st_cause_put(&c, ST_PARAM_COLUMNS, (double)s.n_bad);
			st_cause_put(&c, ST_PARAM_FIRST_COLUMN, (double)s.first);
			st_cause_put(&c, ST_PARAM_LAST_COLUMN, (double)s.last);
		}
		ST_TRY(st_trial_consider(t, t->a, &b, c, scaled || t->a->rows == 1 ? 0 : odd_side(&s, cols), false));
	}
	return ST_OK;
}
