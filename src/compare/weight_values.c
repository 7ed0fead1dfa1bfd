/* weight_values.c - numbers that are wrong where they stand: not finite, constant, scaled, offset, or a few rows of
 * them. */
#include "compare/weight_trial.h"
#include "compare/sums.h"

#include <math.h>
#include <stdlib.h>

static void get_affine(const struct st_rows *s, uint64_t r, float *dst)
{
	st_weight_decode(s->w, r, 1, dst);
	for (uint64_t i = 0; i < s->cols; i++)
		dst[i] = (float)(s->gain * dst[i] + s->offset);
}

static void blame_nan(struct st_trial *t, char side)
{
	struct st_weight_diff *d = t->d;
	d->side = side;
	d->cause = (struct st_cause){ .code = ST_CAUSE_WEIGHT_NAN,
		                      .confidence = ST_CONFIRMED,
		                      .residual_before = INFINITY,
		                      .residual_after = INFINITY,
		                      .floor = d->predicted };
	st_cause_put(&d->cause, ST_PARAM_NONFINITE, (double)(d->side == 'a' ? d->nonfinite_a : d->nonfinite_b));
	st_cause_put(&d->cause, ST_PARAM_FIRST_ROW, (double)d->first_bad_row);
	t->done = true;
}

/* The side with more of them. */
enum st_status st_test_nan(struct st_trial *t)
{
	const struct st_weight_diff *d = t->d;
	if (d->nonfinite_a != d->nonfinite_b)
		blame_nan(t, d->nonfinite_a > d->nonfinite_b ? 'a' : 'b');
	return ST_OK;
}

/* As many on both sides, in other places, and no order of rows brought them together. */
enum st_status st_test_nan_elsewhere(struct st_trial *t)
{
	uint64_t apart = 0;
	for (uint64_t r = 0; r < t->a->rows; r++)
		apart += t->stats[r].apart;
	if (apart)
		blame_nan(t, 0);
	return ST_OK;
}

/* Whether every element is `want`. */
static enum st_status all_equal(struct st_trial *t, const struct st_rows *s, float want, bool *equal)
{
	float *row = st_alloc_array(s->cols, sizeof *row);
	if (!row)
		return st_fail(t->err, ST_ERR_NOMEM, "out of memory");
	*equal = true;
	for (uint64_t r = 0; r < s->rows && *equal; r++) {
		s->get(s, r, row);
		for (uint64_t i = 0; i < s->cols && *equal; i++)
			*equal = row[i] == want;
	}
	free(row);
	return ST_OK;
}

/* All zeros, or for a norm all ones, on one side only: the loader's stand-in for a tensor that was not there. */
enum st_status st_test_constant(struct st_trial *t)
{
	enum st_role r = t->d->slot->role;
	for (int k = 0; k < 4; k++) {
		bool ones = k >= 2, equal;
		if (ones && !st_role_is_norm(r))
			break;
		ST_TRY(all_equal(t, k % 2 ? t->b : t->a, ones, &equal));
		if (!equal)
			continue;
		t->d->side = k % 2 ? 'b' : 'a';
		t->d->cause = (struct st_cause){ .code = ones               ? ST_CAUSE_NORM_WEIGHT_MISSING
			                               : st_role_is_bias(r) ? ST_CAUSE_BIAS_MISSING
			                                                    : ST_CAUSE_WEIGHT_MISSING,
			                         .confidence = ST_CONFIRMED,
			                         .residual_before = t->d->rel_l2,
			                         .residual_after = t->d->rel_l2 };
		st_cause_put(&t->d->cause, ST_PARAM_ALL, ones);
		t->done = true;
		return ST_OK;
	}
	return ST_OK;
}

enum st_cause_code st_scaled_code(enum st_role r)
{
	return r == ST_ROLE_EMBED ? ST_CAUSE_EMBEDDING_SCALE
	     : r == ST_ROLE_HEAD  ? ST_CAUSE_HEAD_SCALE
	     : st_role_is_bias(r) ? ST_CAUSE_BIAS_SCALED
	                          : ST_CAUSE_WEIGHT_SCALED;
}

bool st_known_constant(const struct st_config *cfg, size_t i, struct st_constant *out)
{
	const struct st_constant known[] = {
		{ "2", 2 },
		{ "1/2", 0.5 },
		{ "-1", -1 },
		{ "sqrt(head_dim)", sqrt(cfg->head_dim) },
		{ "1/sqrt(head_dim)", 1 / sqrt(cfg->head_dim) },
		{ "sqrt(hidden)", sqrt(cfg->hidden) },
		{ "1/sqrt(hidden)", 1 / sqrt(cfg->hidden) },
		{ "sqrt(2)", sqrt(2) },
		{ "1/sqrt(2)", sqrt(0.5) },
	};
	if (i < sizeof known / sizeof *known)
		*out = known[i];
	return i < sizeof known / sizeof *known;
}

/* Within 0.1 %, or not named. */
static void name_constant(const struct st_trial *t, struct st_cause *c, double g)
{
	struct st_constant known;
	for (size_t i = 0; st_known_constant(st_model_config(t->ma), i, &known); i++) {
		if (fabs(g / known.value - 1) < 1e-3) {
			st_cause_put_text(c, ST_PARAM_IS, known.name);
			return;
		}
	}
}

enum st_status st_test_scaled(struct st_trial *t)
{
	double share;
	ST_TRY(st_blocks_apart(t, &share));
	if (share >= ST_ONE_FACTOR)
		return ST_OK;
	/* The gain of the whole tensor; the median over sampled rows guards it against a few corrupt ones. */
	double g[ST_SAMPLE];
	uint64_t n = 0;
	for (uint64_t i = 0; i < t->n_sample; i++) {
		const struct st_row_stat *r = &t->stats[t->sample[i]];
		if (r->bb > 0)
			g[n++] = r->ab / r->bb;
	}
	if (n == 0)
		return ST_OK;
	for (uint64_t i = 1; i < n; i++)
		for (uint64_t j = i; j > 0 && g[j] < g[j - 1]; j--) {
			double swap = g[j];
			g[j] = g[j - 1];
			g[j - 1] = swap;
		}
	double gains[2] = { t->d->gain, g[n / 2] };
	for (int k = 0; k < 2 && !t->done; k++) {
		if (!isfinite(gains[k]) || gains[k] == 0 || (k == 1 && gains[1] == gains[0]))
			continue;
		struct st_rows b = *t->b;
		b.get = get_affine;
		b.gain = gains[k];
		struct st_cause c = { .code = st_scaled_code(t->d->slot->role) };
		st_cause_put(&c, ST_PARAM_FACTOR, gains[k]);
		name_constant(t, &c, gains[k]);
		ST_TRY(st_trial_consider(t, t->a, &b, c, 0, false));
	}
	return ST_OK;
}

enum st_status st_test_plus_one(struct st_trial *t)
{
	if (!st_role_is_norm(t->d->slot->role))
		return ST_OK;
	for (int k = 0; k < 2 && !t->done; k++) {
		struct st_rows b = *t->b;
		b.get = get_affine;
		b.offset = k ? -1 : 1;
		struct st_cause c = { .code = ST_CAUSE_NORM_PLUS_ONE };
		st_cause_put(&c, ST_PARAM_OFFSET, b.offset);
		ST_TRY(st_trial_consider(t, t->a, &b, c, 0, false));
	}
	return ST_OK;
}

/* A few rows are wrong and all the others agree. */
enum st_status st_test_row_corrupt(struct st_trial *t)
{
	struct st_weight_diff *d = t->d;
	/* More than a few must at least lie together: the end of a file that was cut off, say. */
	bool together = d->last_bad_row - d->first_bad_row + 1 == d->bad_rows;
	if (t->a->rows < 8 || d->bad_rows == 0 || d->bad_rows * 4 > t->a->rows * (together ? 3 : 1))
		return ST_OK;
	double dd = 0, pred = 0, bb = 0, bad_aa = 0, bad_bb = 0;
	for (uint64_t r = 0; r < t->a->rows; r++) {
		if (st_row_is_bad(&t->stats[r], t->a->cols)) {
			bad_aa += t->stats[r].aa;
			bad_bb += t->stats[r].bb;
			continue;
		}
		dd += t->stats[r].dd;
		pred += t->stats[r].pred;
		bb += t->stats[r].bb;
	}
	uint64_t good = t->a->rows - d->bad_rows;
	d->cause = (struct st_cause){ .code = ST_CAUSE_WEIGHT_ROW_CORRUPT,
		                      .confidence = ST_CONFIRMED,
		                      .residual_before = d->rel_l2,
		                      .residual_after = bb > 0 ? sqrt(dd / bb) : 0,
		                      .floor = bb > 0 ? sqrt(pred / bb) : 0 };
	st_cause_put(&d->cause, ST_PARAM_ROWS, (double)d->bad_rows);
	st_cause_put(&d->cause, ST_PARAM_FIRST_ROW, (double)d->first_bad_row);
	st_cause_put(&d->cause, ST_PARAM_LAST_ROW, (double)d->last_bad_row);
	/* Rows of one matrix are of one size; bad rows far from it show which side was hit. */
	double typical = bb / (double)good, a = bad_aa / (double)d->bad_rows, b = bad_bb / (double)d->bad_rows;
	bool a_odd = a > 9 * typical || 9 * a<typical, b_odd = b> 9 * typical || 9 * b < typical;
	d->side = a_odd && !b_odd ? 'a' : b_odd && !a_odd ? 'b' : 0;
	t->done = true;
	return ST_OK;
}
