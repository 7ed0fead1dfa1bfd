/*
 * weight_trial.c - what a proposal must fit to be a cause: the one place where a cause is confirmed.
 */
#include "compare/weight_trial.h"

#include "compare/lanes.h"
#include "compare/sums.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- proposing a cause ---- */

/* Best first; of one code the best that it has come to. */
static void add_candidate(struct st_weight_diff *d, enum st_cause_code code, double after)
{
	struct st_candidate *c = d->candidates;
	for (size_t i = 0; i < d->n_candidates; i++) {
		if (c[i].code != code)
			continue;
		if (!(after < c[i].residual_after))
			return;
		d->n_candidates--;
		memmove(c + i, c + i + 1, (d->n_candidates - i) * sizeof *c);
		break;
	}
	size_t at = 0;
	while (at < d->n_candidates && !(c[at].residual_after > after))
		at++;
	if (at == ST_MAX_CANDIDATES)
		return;
	if (d->n_candidates < ST_MAX_CANDIDATES)
		d->n_candidates++;
	memmove(c + at + 1, c + at, (d->n_candidates - 1 - at) * sizeof *c);
	c[at] = (struct st_candidate){ code, after };
}

void st_trial_decide(struct st_trial *t, struct st_cause c, char side)
{
	c.confidence = ST_CONFIRMED;
	c.residual_before = t->d->rel_l2;
	c.floor = t->d->predicted;
	t->d->cause = c;
	t->d->side = side;
	t->done = true;
}

/*
 * A second, smaller fault must not hide the first: of many rows that were bad, at most one in a hundred (or a single
 * one of fewer) may stay bad, and be taken for a fault of its own.
 */
static bool are_few(uint64_t bad, uint64_t n, uint64_t bad_before)
{
	return bad > 0 && bad * 100 <= (n < 100 ? 100 : n) && bad * 4 <= bad_before;
}

/* Judge all rows, or idx[0..n), and if few stay bad the others. *others: how many were left out. */
static enum st_status judge(struct st_trial *t, const struct st_rows *a, const struct st_rows *b, const uint64_t *idx,
                            uint64_t n, uint64_t bad_before, struct st_pair_summary *s, uint64_t *others)
{
	struct st_row_stat *stats = st_alloc_array(n, sizeof *stats);
	uint64_t *map = st_alloc_array(a->rows, sizeof *map);
	enum st_status st = stats && map ? st_pair_judge(a, b, idx, n, t->pool, stats, s, t->err)
	                                 : st_fail(t->err, ST_ERR_NOMEM, "out of memory");
	*others = 0;
	if (st == ST_OK && are_few(s->bad_rows, n, bad_before)) {
		for (uint64_t r = 0; r < a->rows; r++)
			map[r] = r;
		for (uint64_t i = 0; i < n; i++)
			if (stats[i].bad)
				map[idx ? idx[i] : i] = UINT64_MAX;
		struct st_mapped m = { .from = b, .else_from = a, .map = map };
		struct st_rows rest = st_rows_mapped(&m);
		struct st_pair_summary of_rest;
		uint64_t bad = s->bad_rows;
		st = st_pair_judge(a, &rest, idx, n, t->pool, stats, &of_rest, t->err);
		if (st == ST_OK && of_rest.noise) {
			*s = of_rest;
			*others = bad;
		}
	}
	free(stats);
	free(map);
	return st;
}

/* The sample first, and then every row. */
static enum st_status judge_all(struct st_trial *t, const struct st_rows *a, const struct st_rows *b, bool sampled,
                                struct st_pair_summary *s, uint64_t *others)
{
	ST_TRY(judge(t, a, b, t->sample, t->n_sample, t->before.bad_rows, s, others));
	if (!s->noise || sampled || a->rows <= t->n_sample)
		return ST_OK;
	return judge(t, a, b, NULL, a->rows, t->d->bad_rows, s, others);
}

/*
 * Most proposals are far off, and their numbers alone say so: cells that meet are no further apart than their widths, a
 * few times the expected size. Where half of some rows are no nearer than they were, and beyond that by far, nothing
 * is looked at closely.
 */
enum st_status st_trial_is_far_off(struct st_trial *t, const struct st_rows *a, const struct st_rows *b, bool *far_off)
{
	uint64_t cols = a->cols, n = t->n_sample < ST_GLANCE ? t->n_sample : ST_GLANCE, far = 0;
	float *buf = st_alloc_array2(ST_PAIR_BUFFER, cols, sizeof *buf);
	struct st_cells x, y;
	if (!buf)
		return st_fail(t->err, ST_ERR_NOMEM, "out of memory");
	st_pair_cells(buf, 0, cols, &x, &y);
	x.below = x.above = x.slack = y.below = y.above = y.slack = NULL;
	for (uint64_t i = 0; i < n; i++) {
		uint64_t r = t->sample[i * t->n_sample / n];
		double expected = t->before.predicted * t->before.predicted * t->stats[r].bb;
		struct st_sums s;
		a->get(a, r, &x);
		b->get(b, r, &y);
		st_sums_of(x.value, y.value, cols, 0, &s);
		far += !s.apart && s.dd >= t->stats[r].dd && s.dd > 16 * fmax(expected, t->stats[r].pred);
	}
	free(buf);
	*far_off = 2 * far > n;
	return ST_OK;
}

enum st_status st_trial_consider(struct st_trial *t, const struct st_rows *a, const struct st_rows *b,
                                 struct st_cause c, char side, bool sampled)
{
	struct st_pair_summary s;
	uint64_t others;
	bool far_off;
	ST_TRY(st_trial_is_far_off(t, a, b, &far_off));
	if (far_off)
		return ST_OK;
	ST_TRY(judge_all(t, a, b, sampled, &s, &others));
	s.noise &= s.rel < 1; /* cells as wide as the numbers meet whatever stands in them */
	/* What leaves as many elements outside or as large a difference as it found explains nothing. */
	double before = fmin(t->d->rel_l2, t->before.rel);
	if (!s.noise && !(s.rel < before))
		return ST_OK;
	add_candidate(t->d, c.code, s.rel);
	/* No more elements than before may be apart. */
	c.confidence = st_confidence_of(s.noise, before, s.rel);
	if (c.confidence == ST_UNEXPLAINED
	    || (c.confidence == ST_LIKELY && (t->likely || st_fit_apart(&s.fit) > st_fit_apart(&t->before.fit))))
		return ST_OK;
	c.residual_before = t->d->rel_l2;
	c.residual_after = s.rel;
	c.floor = s.predicted;
	if (sampled)
		st_cause_put(&c, ST_PARAM_ROWS_CHECKED, (double)t->n_sample);
	if (others)
		st_cause_put(&c, ST_PARAM_ROWS_BEYOND, (double)others);
	t->d->cause = c;
	t->d->side = side;
	t->done = s.noise;
	t->likely = true;
	return ST_OK;
}

#define ODD 1e4 /* a hundred times the largest row that both sides have */

void st_odd_add(struct st_odd *o, double aa, double bb, bool bad)
{
	if (bad) {
		o->bad_a = fmax(o->bad_a, aa);
		o->bad_b = fmax(o->bad_b, bb);
	} else {
		o->good = fmax(o->good, fmax(aa, bb));
	}
}

char st_odd_side(const struct st_odd *o)
{
	bool a = o->bad_a > ODD * o->good, b = o->bad_b > ODD * o->good;
	return o->good > 0 && a != b ? a ? 'a' : 'b' : 0;
}

enum st_status st_blocks_apart(struct st_trial *t, double *share)
{
	uint64_t cols = t->a->cols, apart = 0;
	float *x = st_arena_alloc(&t->arena, cols, sizeof *x), *y = st_arena_alloc(&t->arena, cols, sizeof *y);
	if (!x || !y)
		return st_fail(t->err, ST_ERR_NOMEM, "out of memory");
	t->a->get(t->a, t->d->first_bad_row, &(struct st_cells){ .value = x });
	t->b->get(t->b, t->d->first_bad_row, &(struct st_cells){ .value = y });
	const struct st_row_stat *row = &t->stats[t->d->first_bad_row];
	double whole = row->bb > 0 ? row->ab / row->bb : 1;
	for (uint64_t i = 0; i < cols; i += 32) {
		struct st_sums s;
		st_sums_of(x + i, y + i, cols - i < 32 ? cols - i : 32, 0, &s);
		apart += s.bb > 0 && fabs(s.ab / s.bb - whole) > 0.1 * fabs(whole) + 0.05;
	}
	*share = (double)apart / (double)st_ceil_div(cols, 32);
	return ST_OK;
}
