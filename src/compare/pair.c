#include "compare/pair.h"

#include "base/error.h"
#include "base/mem.h"
#include "base/pool.h"
#include "compare/chain.h"
#include "compare/encoders.h"
#include "compare/importance.h"
#include "compare/lanes.h"
#include "compare/sums.h"
#include "dtype/apart.h"
#include "dtype/geometry.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define SAMPLE 64 /* rows that decide whether a past is worth trying on all of them */
/* No past widens a cell more than this many times. */
#define MOST_BY_PAST 4

struct measure {
	const struct st_rows *a, *b;
	const uint64_t *idx; /* which rows; NULL: 0, 1, ... */
	struct st_held via;
	float *buf; /* two rows of cells for every lane, with their spare room */
	struct st_row_stat *stats;
};

static enum st_refit refit_of(const struct st_rows *s, const struct st_rows *other)
{
	bool aligned = s->whole && other->whole && s->cols % ST_REFIT_BLOCK == 0;
	return aligned ? st_refit_of(s->held.type) : ST_REFIT_NONE;
}

/* packed: the one of the two whose codes have steps. */
static struct st_inner_sums sum_inner(const struct st_cells *x, const struct st_cells *y,
                                      const struct st_cells *packed, uint64_t n)
{
	struct st_inner_sums s = { 0 };
	for (uint64_t i = 0; i < n; i++) {
		double a = x->value[i], b = y->value[i], d = a - b;
		if (!isfinite(d) || isinf(x->below[i]) || isinf(x->above[i]) || isinf(y->below[i]) || isinf(y->above[i]))
			continue;
		s.aa += a * a;
		s.bb += b * b;
		s.ab += a * b;
		s.error_a += a * a * d * d;
		s.error_b += b * b * d * d;
		s.steps += packed->below[i] > 0 ? d * ST_GPTQ_STEPS / packed->below[i] : 0;
		s.n++;
	}
	return s;
}

static void measure_rows(void *ctx, unsigned lane, uint64_t begin, uint64_t end)
{
	const struct measure *m = ctx;
	const struct st_rows *a = m->a, *b = m->b;
	uint64_t cols = a->cols;
	struct st_cells x, y;
	st_pair_cells(m->buf, lane, cols, &x, &y);
	enum st_refit refit_a = refit_of(a, b), refit_b = refit_of(b, a);
	for (uint64_t i = begin; i < end && !st_cancelled(); i++) {
		struct st_row_stat *row = &m->stats[i];
		uint64_t r = m->idx ? m->idx[i] : i;
		struct st_sums s;
		a->get(a, r, &x);
		b->get(b, r, &y);
		st_sums_of(x.value, y.value, cols, 0, &s);
		*row = (struct st_row_stat){ .aa = s.aa,
			                     .bb = s.bb,
			                     .ab = s.ab,
			                     .dd = s.dd,
			                     .max = s.max,
			                     .bad_a = s.bad_a,
			                     .bad_b = s.bad_b,
			                     .apart = s.apart };
		row->largest_a = st_cells_largest(&x, cols);
		row->largest_b = st_cells_largest(&y, cols);
		if (s.dd == 0) {
			row->fit.judged = cols;
			continue;
		}
		st_cells_go_through(a, m->via, &x);
		st_cells_go_through(b, m->via, &y);
		st_fit_row(&x, &y, cols, refit_a, refit_b, (float)sqrt((s.aa + s.bb) / 2 / (double)cols), &row->fit);
		row->pred = st_cells_variance(&x, cols) + st_cells_variance(&y, cols);
		row->wide = a->held.type == ST_DTYPE_GPTQ || b->held.type == ST_DTYPE_GPTQ;
		if (row->wide)
			row->inner = sum_inner(&x, &y, a->held.type == ST_DTYPE_GPTQ ? &x : &y, cols);
	}
}

/*
 * A row may not ask for more refits than the others do: importances are those of columns, which all rows share. A
 * factor on one row makes nearly every block of it ask for another scale. docs/floors.md, "Refitted scales".
 */
static bool asks_for_more(const struct st_fit *r, const struct st_fit *all)
{
	if (r->refitted == 0)
		return false;
	double share = ((double)(all->refitted - r->refitted) + 1) / ((double)(all->blocks - r->blocks) + 2),
	       wanted = share * (double)r->blocks;
	return (double)r->refitted > wanted + 8 * sqrt(wanted * (1 - share)) + 5;
}

/*
 * Cells that are many steps wide hide a factor, so gains are bounded, of every row and of the whole: by twice what
 * least squares leaves, which is the relative variance of the error, and by eight standard deviations of a gain: those
 * that its own errors let one expect, or those that the rows have (docs/floors.md, "Packed by other programs"). Least
 * squares leaves it on the one side or on the other, so the gain is asked both ways.
 */
struct gains {
	struct st_inner_sums all;
	double spread[2]; /* standard deviation of the gains of the rows: of a in b, of b in a */
};

static double shrink_of(const struct st_inner_sums *s)
{
	return s->aa > 0 && s->bb > 0 && s->ab != 0 ? 1 - s->ab * s->ab / (s->aa * s->bb) : 1;
}

static double spread_of(const struct st_row_stat *stats, uint64_t n, bool of_b)
{
	double rows = 0, apart = 0, mean = 0;
	for (int again = 0; again < 2; again++)
		for (uint64_t i = 0; i < n; i++) {
			const struct st_inner_sums *s = &stats[i].inner;
			double square = of_b ? s->aa : s->bb, gain = s->ab / square;
			if (!(square > 0))
				continue;
			rows += !again;
			mean += again ? 0 : gain;
			apart += again ? fabs(gain - mean / rows) : 0;
		}
	return rows > 0 ? 1.25 * apart / rows : 0; /* the mean of |x| is 0.8 standard deviations */
}

static struct gains gains_of(const struct st_row_stat *stats, uint64_t n)
{
	struct gains g = { .spread = { spread_of(stats, n, false), spread_of(stats, n, true) } };
	for (uint64_t i = 0; i < n; i++) {
		const struct st_inner_sums *s = &stats[i].inner;
		g.all.aa += s->aa;
		g.all.bb += s->bb;
		g.all.ab += s->ab;
		g.all.error_a += s->error_a;
		g.all.error_b += s->error_b;
		g.all.steps += s->steps;
		g.all.n += s->n;
	}
	return g;
}

/*
 * A code is the nearest one to what the columns before it left of the weight, so all of them together are off by less
 * than half a step in the mean, whichever way the columns went.
 */
static bool is_displaced(const struct st_inner_sums *s) { return s->n && 2 * fabs(s->steps) > (double)s->n; }

/* Whether these sums, of `rows` rows, have a gain that the error cannot leave. */
static bool has_gain(const struct gains *all, double rows, double shrink, const struct st_inner_sums *s)
{
	double of_a = fmax(all->spread[0] / sqrt(rows), sqrt(s->error_b) / s->bb),
	       of_b = fmax(all->spread[1] / sqrt(rows), sqrt(s->error_a) / s->aa);
	return fabs(s->ab / s->bb - 1) > 8 * of_a + 2 * shrink || fabs(s->ab / s->aa - 1) > 8 * of_b + 2 * shrink;
}

static bool row_has_gain(const struct gains *all, const struct st_row_stat *r)
{
	if (!r->wide || r->inner.aa <= 0 || r->inner.bb <= 0)
		return false;
	/* A row with a few large numbers errs more than the others. */
	return has_gain(all, 1, fmax(shrink_of(&all->all), shrink_of(&r->inner)), &r->inner);
}

void st_pair_summarise(struct st_row_stat *stats, const uint64_t *idx, uint64_t n, struct st_pair_summary *s)
{
	bool wide = false;
	*s = (struct st_pair_summary){ .via = ST_NO_PAST };
	for (uint64_t i = 0; i < n; i++) {
		const struct st_row_stat *r = &stats[i];
		s->aa += r->aa;
		s->bb += r->bb;
		s->ab += r->ab;
		s->dd += r->dd;
		s->pred += r->pred;
		s->max = r->max > s->max ? r->max : s->max;
		s->nonfinite_a += r->bad_a;
		s->nonfinite_b += r->bad_b;
		s->apart += r->apart;
		st_fit_add(&s->fit, &r->fit);
		wide |= r->wide;
	}
	struct gains gains = gains_of(stats, n);
	bool displaced = wide && is_displaced(&gains.all);
	for (uint64_t i = 0; i < n; i++) {
		struct st_row_stat *r = &stats[i];
		r->bad = r->apart || !st_fit_is_noise(&r->fit) || asks_for_more(&r->fit, &s->fit)
		      || row_has_gain(&gains, r) || (displaced && is_displaced(&r->inner));
		if (!r->bad)
			continue;
		uint64_t at = idx ? idx[i] : i;
		if (!s->bad_rows++)
			s->first_bad = at;
		s->last_bad = at;
	}
	s->rel = s->apart ? INFINITY : s->dd == 0 ? 0 : s->bb > 0 ? sqrt(s->dd / s->bb) : INFINITY;
	s->predicted = s->bb > 0 ? sqrt(s->pred / s->bb) : 0;
	s->gain = s->bb > 0 ? s->ab / s->bb : NAN;
	bool gain = wide && has_gain(&gains, (double)n, shrink_of(&gains.all), &gains.all);
	s->noise = s->bad_rows == 0 && st_fit_is_noise(&s->fit) && !gain && !displaced;
}

#define ONE_WAY 64 /* refits: none in the other direction by a chance of 2^-63 */

/*
 * Whether an encoder can have made the refits of these rows. Least squares errs both ways, so some of many refits
 * stretched their scale and some shrank it. And one set of importances must fit all rows.
 */
static enum st_status are_refits(const struct st_rows *a, const struct st_rows *b, const uint64_t *idx, uint64_t n,
                                 struct st_held via, const struct st_fit *all, struct st_pool *pool, bool *are,
                                 struct st_error *err)
{
	enum st_refit refit_a = refit_of(a, b), refit_b = refit_of(b, a);
	*are = (all->stretched && all->shrunk) || all->stretched + all->shrunk <= ONE_WAY;
	if (*are && refit_a && refit_b && a->held.type == b->held.type)
		return st_same_importances_fit(a, b, idx, n, via, pool, are, err);
	if (!*are || (refit_a && refit_b))
		return ST_OK; /* no original is at hand */
	/* Experts that lie in one tensor have importances of their own. */
	const struct st_rows *fitted = refit_a ? a : b;
	const struct st_tensor *t = fitted->w->tensor;
	uint64_t one = t->ndim > 2 ? t->shape[t->ndim - 2] : n;
	if (t->ndim > 2 && (idx || n != st_tensor_rows(t)))
		return ST_OK;
	for (uint64_t r = 0; r < n && *are; r += one)
		ST_TRY(st_some_importances(fitted, refit_a ? b : a, idx, r, r + one, via, pool, are, err));
	return ST_OK;
}

/* What refits excuse is outside where they can be none. */
static enum st_status ask_refits(const struct st_rows *a, const struct st_rows *b, const uint64_t *idx, uint64_t n,
                                 struct st_held via, struct st_pool *pool, struct st_row_stat *stats,
                                 struct st_error *err)
{
	struct st_fit all = { 0 };
	bool are;
	for (uint64_t i = 0; i < n; i++)
		st_fit_add(&all, &stats[i].fit);
	if (all.refitted == 0)
		return ST_OK;
	ST_TRY(are_refits(a, b, idx, n, via, &all, pool, &are, err));
	for (uint64_t i = 0; i < n && !are; i++) {
		struct st_fit *f = &stats[i].fit;
		f->outside += f->excused;
		f->excused = f->refitted = f->stretched = f->shrunk = 0;
	}
	return ST_OK;
}

enum st_status st_pair_measure(const struct st_rows *a, const struct st_rows *b, const uint64_t *idx, uint64_t n,
                               struct st_held via, struct st_pool *pool, struct st_row_stat *stats,
                               struct st_error *err)
{
	struct measure m = {
		a, b, idx, via, st_alloc_array3(st_pool_threads(pool), ST_PAIR_BUFFER, a->cols, sizeof(float)), stats
	};
	if (!m.buf)
		return st_fail(err, ST_ERR_NOMEM, "out of memory");
	st_pool_each(pool, n, a->cols * 8, measure_rows, &m);
	free(m.buf);
	ST_TRY(st_check_cancel(err));
	return ask_refits(a, b, idx, n, via, pool, stats, err);
}

static enum st_status measure(const struct st_rows *a, const struct st_rows *b, const uint64_t *idx, uint64_t n,
                              struct st_held via, struct st_pool *pool, struct st_row_stat *stats,
                              struct st_pair_summary *s, struct st_error *err)
{
	ST_TRY(st_pair_measure(a, b, idx, n, via, pool, stats, err));
	st_pair_summarise(stats, idx, n, s);
	s->via = via;
	return ST_OK;
}

/*
 * Numbers that were rounded to F16 on the way to a coarser float are rounded twice. That makes a difference only where
 * F16 gave a tie, and a tie goes to the even number, so all that differ are even on the side that was rounded twice.
 */
static bool is_rounded_twice(const struct st_fit *f)
{
	return f->touching > 0 && (f->even_a == f->touching || f->even_b == f->touching);
}

static bool may_explain(const struct st_rows *a, const struct st_rows *b, struct st_held via,
                        const struct st_pair_summary *s)
{
	if (a->held.type == b->held.type && st_dtype_info(a->held.type)->kind == ST_KIND_FLOAT)
		return via.type == ST_DTYPE_F16 && is_rounded_twice(&s->fit);
	return st_may_come_through(a->held.type, via.type) || st_may_come_through(b->held.type, via.type);
}

/* The finest first: it explains least. */
static enum st_status try_pasts(const struct st_rows *a, const struct st_rows *b, const uint64_t *idx, uint64_t n,
                                struct st_pool *pool, struct st_row_stat *stats, struct st_pair_summary *s,
                                struct st_error *err)
{
	float largest = 0;
	for (uint64_t i = 0; i < n; i++)
		largest = fmaxf(largest, fmaxf(stats[i].largest_a, stats[i].largest_b));
	const struct st_held pasts[] = { { ST_DTYPE_F16, 1 },
		                         { ST_DTYPE_BF16, 1 },
		                         { ST_DTYPE_Q8_0, 1 },
		                         { ST_DTYPE_APR_Q8, largest / 127 },
		                         { ST_DTYPE_Q6_K, 1 } };
	struct st_row_stat part[SAMPLE];
	uint64_t rows[SAMPLE], few = n < SAMPLE ? n : SAMPLE;
	for (uint64_t i = 0; i < few; i++)
		rows[i] = idx ? idx[i * n / few] : i * n / few;
	for (size_t k = 0; k < sizeof pasts / sizeof *pasts; k++) {
		struct st_pair_summary one;
		if (!may_explain(a, b, pasts[k], s))
			continue;
		ST_TRY(measure(a, b, rows, few, pasts[k], pool, part, &one, err));
		if (!one.noise)
			continue;
		struct st_row_stat *all = st_alloc_array(n, sizeof *all);
		if (!all)
			return st_fail(err, ST_ERR_NOMEM, "out of memory");
		enum st_status st = measure(a, b, idx, n, pasts[k], pool, all, &one, err);
		if (st == ST_OK && one.noise) {
			memcpy(stats, all, n * sizeof *all);
			*s = one;
		}
		free(all);
		if (st != ST_OK || s->noise)
			return st;
	}
	return ST_OK;
}

/*
 * Whether refits may be left out. They are by far the dearest question, and of no use where rows are no noise with them
 * either: nine of ten rows of a sample.
 */
static enum st_status are_hopeless(const struct st_rows *a, const struct st_rows *b, uint64_t n, struct st_pool *pool,
                                   bool *hopeless, struct st_error *err)
{
	struct st_row_stat part[SAMPLE];
	struct st_pair_summary s;
	uint64_t rows[SAMPLE];
	*hopeless = false;
	if (n < 4 * SAMPLE || (!refit_of(a, b) && !refit_of(b, a)))
		return ST_OK;
	for (uint64_t i = 0; i < SAMPLE; i++)
		rows[i] = i * n / SAMPLE;
	ST_TRY(measure(a, b, rows, SAMPLE, ST_NO_PAST, pool, part, &s, err));
	*hopeless = 10 * s.bad_rows >= 9 * SAMPLE;
	return ST_OK;
}

enum st_status st_pair_judge(const struct st_rows *a, const struct st_rows *b, const uint64_t *idx, uint64_t n,
                             struct st_pool *pool, struct st_row_stat *stats, struct st_pair_summary *s,
                             struct st_error *err)
{
	struct st_rows plain = *a;
	bool hopeless = false;
	if (!idx)
		ST_TRY(are_hopeless(a, b, n, pool, &hopeless, err));
	plain.whole = false; /* blocks are not asked for */
	a = hopeless ? &plain : a;
	ST_TRY(measure(a, b, idx, n, ST_NO_PAST, pool, stats, s, err));
	return s->noise || s->apart || s->fit.worst > MOST_BY_PAST ? ST_OK
	                                                           : try_pasts(a, b, idx, n, pool, stats, s, err);
}

/*
 * Rows that came through the same coarser type on both sides keep what was said of them as they are stored: kept[r].
 * The others are what `held` says.
 */
static enum st_status keep_same_rows(const struct st_pair *p, const struct st_rows *held_a,
                                     const struct st_rows *held_b, struct st_pool *pool, struct st_row_stat *held,
                                     bool *kept, struct st_error *err)
{
	uint64_t rows = p->a.rows;
	bool *same = st_alloc_zeroed(rows, sizeof *same);
	if (!same)
		return st_fail(err, ST_ERR_NOMEM, "out of memory");
	enum st_status st = ST_OK;
	/* A coarse grid shows through Q8_0 that came behind it, by which the numbers moved a little. */
	enum st_dtype x = held_a->held.type, y = held_b->held.type;
	bool two = st_dtype_info(x)->kind == ST_KIND_QUANT && st_dtype_info(y)->kind == ST_KIND_QUANT
	        && (x == ST_DTYPE_Q8_0) != (y == ST_DTYPE_Q8_0);
	for (int k = 0; k < 2 && st == ST_OK && !two; k++) {
		const struct st_rows *own = k ? &p->b : &p->a, *grid = k ? held_b : held_a;
		if (grid->held.type == own->held.type)
			continue;
		st = st_same_chain(&p->a, &p->b, own, grid->held, (k ? held_a : held_b)->held, pool, same, err);
		for (uint64_t r = 0; r < rows && st == ST_OK; r++)
			if (same[r]) {
				held[r] = p->stats[r];
				kept[r] = true;
			}
	}
	free(same);
	return st;
}

/* What was judged anew takes the place of what was said first. */
static void take(struct st_pair *p, const struct st_row_stat *stats, struct st_held via)
{
	memcpy(p->stats, stats, p->a.rows * sizeof *stats);
	st_pair_summarise(p->stats, NULL, p->a.rows, &p->sum);
	p->sum.via = via;
}

/* Numbers that came out of blocks of one type on both sides. */
static enum st_status judge_encoders(struct st_pair *p, struct st_held a, struct st_held b, struct st_pool *pool,
                                     struct st_error *err)
{
	uint64_t rows = p->a.rows;
	struct st_encoders e = { p->a, p->b, st_rows_held(p->a.w, a), st_rows_held(p->b.w, b), NULL };
	struct st_row_stat *stats = st_alloc_array(rows, sizeof *stats);
	bool *same = st_alloc_zeroed(rows, sizeof *same);
	struct st_pair_summary sum;
	struct st_rows x, y;
	enum st_status st = stats && same ? st_encoders_look(&e, pool, same, err)
	                                  : st_fail(err, ST_ERR_NOMEM, "out of memory");
	if (st == ST_OK) {
		st_encoders_sides(&e, &x, &y);
		st = st_pair_judge(&x, &y, NULL, rows, pool, stats, &sum, err);
	}
	if (st == ST_OK) {
		for (uint64_t r = 0; r < rows; r++)
			stats[r] = same[r] ? p->stats[r] : stats[r];
		take(p, stats, sum.via);
	}
	free(e.exact);
	free(stats);
	free(same);
	return st;
}

/* Judged anew where the numbers came from coarser types than they are stored in. */
static enum st_status judge_as_held(struct st_pair *p, struct st_pool *pool, struct st_error *err)
{
	struct st_held a, b;
	uint64_t rows = p->a.rows;
	ST_TRY(st_held_type(p->a.w->tensor, &a, err));
	ST_TRY(st_held_type(p->b.w->tensor, &b, err));
	if (a.type == p->a.held.type && b.type == p->b.held.type)
		return ST_OK;
	/* Few numbers fit any grid, and one step for all is the same for every encoder. */
	if (a.type == b.type && st_dtype_info(a.type)->kind == ST_KIND_QUANT)
		return st_dtype_geometry(a.type)->sub && p->a.whole && p->b.whole
		             ? judge_encoders(p, a, b, pool, err)
		             : ST_OK;
	struct st_rows held_a = st_rows_held(p->a.w, a), held_b = st_rows_held(p->b.w, b);
	struct st_row_stat *stats = st_alloc_array(rows, sizeof *stats);
	bool *kept = st_alloc_zeroed(rows, sizeof *kept), as_stored = false;
	struct st_pair_summary sum;
	enum st_status st = stats && kept ? st_pair_judge(&held_a, &held_b, NULL, rows, pool, stats, &sum, err)
	                                  : st_fail(err, ST_ERR_NOMEM, "out of memory");
	if (st == ST_OK)
		st = keep_same_rows(p, &held_a, &held_b, pool, stats, kept, err);
	if (st == ST_OK) {
		take(p, stats, sum.via);
		/* What is wrong with numbers as they are stored is sought in them as they are stored. */
		for (uint64_t r = 0; r < rows; r++)
			as_stored |= kept[r] && (p->stats[r].bad || p->sum.bad_rows == 0);
		if (!as_stored) {
			p->a = held_a;
			p->b = held_b;
		}
	}
	free(stats);
	free(kept);
	return st;
}

enum st_status st_pair_open(struct st_pair *p, const struct st_weight *a, const struct st_weight *b,
                            struct st_pool *pool, struct st_error *err)
{
	*p = (struct st_pair){ .a = st_rows_of(a), .b = st_rows_of(b) };
	p->stats = st_alloc_array(p->a.rows, sizeof *p->stats);
	if (!p->stats)
		return st_fail(err, ST_ERR_NOMEM, "out of memory");
	enum st_status st = st_pair_judge(&p->a, &p->b, NULL, p->a.rows, pool, p->stats, &p->sum, err);
	if (st == ST_OK && !p->sum.noise)
		st = judge_as_held(p, pool, err);
	if (st != ST_OK)
		st_pair_close(p);
	return st;
}

void st_pair_close(struct st_pair *p)
{
	free(p->stats);
	p->stats = NULL;
}
