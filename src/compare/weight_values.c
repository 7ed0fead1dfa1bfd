/* weight_values.c - numbers that are wrong where they stand: not finite, constant, scaled, offset, or a few rows of
 * them. */
#include "compare/weight_gain.h"
#include "compare/weight_trial.h"

#include <math.h>
#include <stdlib.h>

/* A side times a factor, plus a number. */
struct affine {
	const struct st_rows *from;
	double gain, offset;
};

static void get_affine(const struct st_rows *s, uint64_t r, const struct st_cells *dst)
{
	const struct affine *f = s->ctx;
	f->from->get(f->from, r, dst);
	st_cells_affine(dst, s->cols, f->gain, f->offset);
}

static struct st_rows affine_rows(const struct affine *f)
{
	struct st_rows s = *f->from;
	s.get = get_affine;
	s.ctx = f;
	return s;
}

static void blame_nan(struct st_trial *t, char side)
{
	const struct st_weight_diff *d = t->d;
	struct st_cause c = { .code = ST_CAUSE_WEIGHT_NAN, .residual_after = INFINITY };
	st_cause_put(&c, ST_PARAM_NONFINITE, (double)(side == 'a' ? d->nonfinite_a : d->nonfinite_b));
	st_cause_put(&c, ST_PARAM_FIRST_ROW, (double)d->first_bad_row);
	st_trial_decide(t, c, side);
}

/* The side with more of them. */
enum st_status st_test_nan(struct st_trial *t)
{
	const struct st_weight_diff *d = t->d;
	if (d->nonfinite_a != d->nonfinite_b)
		blame_nan(t, d->nonfinite_a > d->nonfinite_b ? 'a' : 'b');
	return ST_OK;
}

/* Both sides have as many, in other places, and no order of rows brought them together. */
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
		s->get(s, r, &(struct st_cells){ .value = row });
		for (uint64_t i = 0; i < s->cols && *equal; i++)
			*equal = row[i] == want;
	}
	free(row);
	return ST_OK;
}

/* All zeros, or for a norm all ones, on one side only: the loader's stand-in for a tensor that was not there. */
enum st_status st_test_constant(struct st_trial *t)
{
	enum st_weight_kind kind = t->d->slot->kind;
	for (int k = 0; k < 4; k++) {
		bool ones = k >= 2, equal;
		if (ones && kind != ST_WEIGHT_NORM)
			break;
		ST_TRY(all_equal(t, k % 2 ? t->b : t->a, ones, &equal));
		if (!equal)
			continue;
		struct st_cause c = { .code = ones                   ? ST_CAUSE_NORM_WEIGHT_MISSING
			                    : kind == ST_WEIGHT_BIAS ? ST_CAUSE_BIAS_MISSING
			                                             : ST_CAUSE_WEIGHT_MISSING,
			              .residual_after = t->d->rel_l2 };
		st_cause_put(&c, ST_PARAM_ALL, ones);
		st_trial_decide(t, c, k % 2 ? 'b' : 'a');
		return ST_OK;
	}
	return ST_OK;
}

enum st_cause_code st_scaled_code(const struct st_weight *w)
{
	return w->role == ST_ROLE_EMBED  ? ST_CAUSE_EMBEDDING_SCALE
	     : w->role == ST_ROLE_HEAD   ? ST_CAUSE_HEAD_SCALE
	     : w->kind == ST_WEIGHT_BIAS ? ST_CAUSE_BIAS_SCALED
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

static int by_value(const void *x, const void *y)
{
	double a = *(const double *)x, b = *(const double *)y;
	return (a > b) - (a < b);
}

/*
 * One factor for all rows: what the cells of every row allow, or, where a few corrupt rows allow none, the median of
 * the rows' own factors.
 */
static enum st_status common_gain(struct st_trial *t, double *out)
{
	uint64_t cols = t->a->cols, rows = t->a->rows, n = 0;
	struct st_dense x, y;
	double *of_row = st_arena_alloc(&t->arena, rows, sizeof *of_row);
	struct st_gain all = ST_GAIN_NONE;
	if (!of_row)
		return st_fail(t->err, ST_ERR_NOMEM, "out of memory");
	ST_TRY(st_dense_make(&t->arena, 1, cols, &x, t->err));
	ST_TRY(st_dense_make(&t->arena, 1, cols, &y, t->err));
	struct st_cells a = st_dense_row(&x, 0), b = st_dense_row(&y, 0);
	for (uint64_t r = 0; r < rows; r++) {
		if (t->stats[r].bb > 0)
			of_row[n++] = t->stats[r].ab / t->stats[r].bb;
		t->a->get(t->a, r, &a);
		t->b->get(t->b, r, &b);
		float rms = (float)sqrt(t->stats[r].bb / (double)cols);
		for (uint64_t i = 0; i < cols; i++)
			st_gain_add(&all, &a, &b, i, rms);
		if (r % 256 == 0)
			ST_TRY(st_check_cancel(t->err));
	}
	*out = NAN;
	if (n == 0)
		return ST_OK;
	qsort(of_row, n, sizeof *of_row, by_value);
	double median = of_row[n / 2], fitted = st_gain_of(&all);
	int sign = fitted < 0;
	*out = all.least[sign] <= all.most[sign] ? fitted : median;
	return ST_OK;
}

#define FEW 20 /* of so many floats that are multiplied by 1.0003 one is another number of BF16 */

/* What one element carries is no factor of the tensor, nor is what nearly all floats do not show. */
static bool is_of_few(const struct st_trial *t)
{
	uint64_t apart = 0, judged = 0;
	bool floats = st_dtype_info(t->a->held.type)->kind == ST_KIND_FLOAT
	           && st_dtype_info(t->b->held.type)->kind == ST_KIND_FLOAT;
	for (uint64_t r = 0; r < t->a->rows; r++) {
		apart += st_fit_apart(&t->stats[r].fit);
		judged += t->stats[r].bb > 0 ? t->stats[r].fit.judged : 0;
	}
	return (t->d->outside == 1 && t->a->rows * t->a->cols > 1) || (floats && FEW * apart < judged);
}

enum st_status st_test_scaled(struct st_trial *t)
{
	double share;
	if (is_of_few(t))
		return ST_OK;
	ST_TRY(st_blocks_apart(t, &share));
	if (share >= ST_ONE_FACTOR)
		return ST_OK;
	double g;
	ST_TRY(common_gain(t, &g));
	if (!isfinite(g) || g == 0 || g == 1)
		return ST_OK;
	struct affine f = { t->b, g, 0 };
	struct st_rows b = affine_rows(&f);
	struct st_cause c = { .code = st_scaled_code(t->d->slot) };
	st_cause_put(&c, ST_PARAM_FACTOR, g);
	name_constant(t, &c, g);
	return st_trial_consider(t, t->a, &b, c, 0, false);
}

enum st_status st_test_plus_one(struct st_trial *t)
{
	if (t->d->slot->kind != ST_WEIGHT_NORM)
		return ST_OK;
	for (int k = 0; k < 2 && !t->done; k++) {
		struct affine f = { t->b, 1, k ? -1 : 1 };
		struct st_rows b = affine_rows(&f);
		struct st_cause c = { .code = ST_CAUSE_NORM_PLUS_ONE };
		st_cause_put(&c, ST_PARAM_OFFSET, f.offset);
		ST_TRY(st_trial_consider(t, t->a, &b, c, 0, false));
	}
	return ST_OK;
}

/* A few rows are wrong and all the others agree: those that are wrong are taken from the other side. */
enum st_status st_test_row_corrupt(struct st_trial *t)
{
	struct st_weight_diff *d = t->d;
	uint64_t rows = t->a->rows;
	/* More than a few must at least lie together: the end of a file that was cut off, say. */
	bool together = d->last_bad_row - d->first_bad_row + 1 == d->bad_rows;
	if (rows < 8 || d->bad_rows == 0 || d->bad_rows * 4 > rows * (together ? 3 : 1))
		return ST_OK;
	uint64_t *map = st_arena_alloc(&t->arena, rows, sizeof *map);
	if (!map)
		return st_fail(t->err, ST_ERR_NOMEM, "out of memory");
	struct st_odd odd = { 0 };
	bool lost_a = together && d->last_bad_row == rows - 1, lost_b = lost_a;
	for (uint64_t r = 0; r < rows; r++) {
		const struct st_row_stat *row = &t->stats[r];
		map[r] = row->bad ? UINT64_MAX : r;
		st_odd_add(&odd, row->aa, row->bb, row->bad);
		lost_a &= row->bad ? row->aa == 0 : row->bb > 0;
		lost_b &= row->bad ? row->bb == 0 : row->aa > 0;
	}
	/* A tensor that ends in zeros was not written to its end. Rows of a vocabulary that nobody uses may be zero. */
	bool vocabulary = d->slot->role == ST_ROLE_EMBED || d->slot->role == ST_ROLE_HEAD;
	char side = lost_a != lost_b && !vocabulary ? lost_a ? 'a' : 'b' : st_odd_side(&odd);
	struct st_mapped m = { .from = t->b, .else_from = t->a, .map = map };
	struct st_rows rest = st_rows_mapped(&m);
	struct st_cause c = { .code = ST_CAUSE_WEIGHT_ROW_CORRUPT };
	st_cause_put(&c, ST_PARAM_ROWS, (double)d->bad_rows);
	st_cause_put(&c, ST_PARAM_FIRST_ROW, (double)d->first_bad_row);
	st_cause_put(&c, ST_PARAM_LAST_ROW, (double)d->last_bad_row);
	return st_trial_consider(t, t->a, &rest, c, side, false);
}
