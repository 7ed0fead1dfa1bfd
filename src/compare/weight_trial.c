/*
 * weight_trial.c - which mistake turns one weight into the other: the tests in their order, and what a proposal
 * must fit. They are tried simplest first, and the first confirmed one wins.
 */
#include "compare/weight_trial.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define LIKELY 0.1 /* residual left by a cause that is at least likely */

bool st_role_is_norm(enum st_role r)
{
	return r == ST_ROLE_ATTN_NORM || r == ST_ROLE_FFN_NORM || r == ST_ROLE_FINAL_NORM || r == ST_ROLE_Q_NORM
	    || r == ST_ROLE_K_NORM;
}

bool st_role_is_bias(enum st_role r) { return r == ST_ROLE_Q_BIAS || r == ST_ROLE_K_BIAS || r == ST_ROLE_V_BIAS; }

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

/*
 * Nothing beyond noise but, at most, one row in a hundred (or a single one of fewer) where there were many: a second,
 * smaller fault must not hide the first.
 */
static bool fits(const struct st_pair_summary *s, uint64_t n, uint64_t bad_before)
{
	bool few = s->bad_rows * 100 <= (n < 100 ? 100 : n) && s->bad_rows * 4 <= bad_before;
	return s->noise || (few && !s->apart && s->rest_noise);
}

/*
 * An explanation leaves less to explain: of the rows that are beyond noise as stored, half the residual at most; of
 * a whole that is beyond it while no row is, what a gain worth noticing makes up (pair.c). Without this a change too
 * small to matter would be confirmed where all but a few rows agree anyway.
 */
static bool helps(const struct st_trial *t, const struct st_row_stat *part)
{
	bool rows = t->d->bad_rows > 0;
	double before = 0, after = 0;
	for (uint64_t i = 0; i < t->n_sample; i++) {
		const struct st_row_stat *r = &t->stats[t->sample[i]];
		if (r->apart || (rows && !st_row_is_bad(r, t->a->cols)))
			continue;
		before += r->dd;
		after += part[i].dd;
	}
	return after <= (rows ? 0.5 : 0.85) * before;
}

enum st_status st_trial_consider(struct st_trial *t, const struct st_rows *a, const struct st_rows *b,
                                 struct st_cause c, char side, bool sampled)
{
	struct st_row_stat part[ST_SAMPLE];
	struct st_pair_summary s;
	ST_TRY(st_pair_measure(a, b, t->sample, t->n_sample, t->pool, part, t->err));
	st_pair_summarise(part, t->sample, t->n_sample, a->cols, &s);
	bool fit = fits(&s, t->n_sample, t->before.bad_rows) && helps(t, part);
	if (fit && !sampled && a->rows > t->n_sample) {
		struct st_row_stat *all = st_alloc_array(a->rows, sizeof *all);
		if (!all)
			return st_fail(t->err, ST_ERR_NOMEM, "out of memory");
		enum st_status st = st_pair_measure(a, b, NULL, a->rows, t->pool, all, t->err);
		if (st == ST_OK)
			st_pair_summarise(all, NULL, a->rows, a->cols, &s);
		free(all);
		ST_TRY(st);
		fit = fits(&s, a->rows, t->d->bad_rows);
	}
	add_candidate(t->d, c.code, s.rel);
	/* Nine tenths of the difference, and of the tensor: of one that is far too large almost anything takes most
	 * away. */
	double most = fmin(1, fmin(t->d->rel_l2, t->before.rel));
	bool likely = !t->likely && isfinite(s.rel) && s.rel <= LIKELY * most;
	if (!fit && !likely)
		return ST_OK;
	c.confidence = fit ? ST_CONFIRMED : ST_LIKELY;
	c.residual_before = t->d->rel_l2;
	c.residual_after = s.rel;
	c.floor = s.predicted;
	if (sampled)
		st_cause_put(&c, ST_PARAM_ROWS_CHECKED, (double)t->n_sample);
	t->d->cause = c;
	t->d->side = side;
	t->done = fit;
	t->likely = true;
	return ST_OK;
}

static enum st_status (*const tests[])(struct st_trial *) = {
#define WEIGHT_TEST(name, function) st_test_##function,
#include <stele/causes.def>
};

/* Half of the sample spread evenly, the other half the first of the rows beyond their noise. */
static void choose_sample(struct st_trial *t)
{
	uint64_t n = t->a->rows, even = n < ST_SAMPLE ? n : ST_SAMPLE / 2;
	for (uint64_t i = 0; i < even; i++)
		t->sample[i] = i * n / even;
	t->n_sample = even;
	for (uint64_t r = 0; n > ST_SAMPLE && r < n && t->n_sample < ST_SAMPLE; r++) {
		bool taken = false;
		for (uint64_t i = 0; i < even; i++)
			taken |= t->sample[i] == r;
		if (!taken && st_row_is_bad(&t->stats[r], t->a->cols))
			t->sample[t->n_sample++] = r;
	}
	struct st_row_stat part[ST_SAMPLE];
	for (uint64_t i = 0; i < t->n_sample; i++)
		part[i] = t->stats[t->sample[i]];
	st_pair_summarise(part, t->sample, t->n_sample, t->a->cols, &t->before);
}

enum st_status st_weight_explain(const struct st_model *ma, const struct st_model *mb, const struct st_rows *a,
                                 const struct st_rows *b, const struct st_row_stat *stats, struct st_pool *pool,
                                 struct st_weight_diff *d, struct st_error *err)
{
	struct st_trial t = { .ma = ma, .mb = mb, .a = a, .b = b, .stats = stats, .pool = pool, .d = d, .err = err };
	st_arena_init(&t.arena);
	choose_sample(&t);
	enum st_status st = ST_OK;
	for (size_t i = 0; i < sizeof tests / sizeof *tests && !t.done && st == ST_OK; i++)
		st = tests[i](&t);
	if (!t.done && !t.likely)
		d->cause = (struct st_cause){ .code = ST_CAUSE_UNEXPLAINED,
			                      .confidence = ST_UNEXPLAINED,
			                      .residual_before = d->rel_l2,
			                      .residual_after = d->rel_l2,
			                      .floor = d->predicted };
	st_arena_release(&t.arena);
	return st;
}
