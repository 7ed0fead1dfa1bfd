/* weight_blocks.c - stored blocks read or written wrongly: another type, wrong scales. */
#include "compare/weight_gain.h"
#include "compare/weight_trial.h"
#include "compare/sums.h"
#include "dtype/apart.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Codes of as many bits may be nearly multiples of each other (IQ4_NL is 16 times Q4_0): what a factor explains better
 * is scaled. */
static enum st_status unless_scaled(struct st_trial *t)
{
	struct st_cause label = t->d->cause;
	char side = t->d->side;
	t->done = t->likely = false;
	ST_TRY(st_test_scaled(t));
	if (!t->done || t->d->cause.residual_after >= label.residual_after) {
		t->d->cause = label;
		t->d->side = side;
		t->done = t->likely = true;
	}
	return ST_OK;
}

/* GPTQ's two formats differ in the code of zero, by one, and a file that says neither is taken for the first. */
static enum st_status try_zeros(struct st_trial *t)
{
	static const char *const formats[] = { "GPTQ v2", "GPTQ v1" };
	for (int k = 0; k < 2 && !t->done; k++) {
		const struct st_rows *s = k ? t->b : t->a;
		if (s->w->tensor->dtype != ST_DTYPE_GPTQ || !s->w->tensor->apart)
			continue;
		struct st_tensor read = *s->w->tensor;
		struct st_apart apart = *read.apart;
		apart.zeros_less_one = !apart.zeros_less_one;
		read.apart = &apart;
		struct st_weight w = *s->w;
		w.tensor = &read;
		struct st_rows side = st_rows_of(&w);
		struct st_cause c = { .code = ST_CAUSE_WEIGHT_DTYPE_MISLABELLED };
		st_cause_put_text(&c, ST_PARAM_LABEL, formats[!apart.zeros_less_one]);
		st_cause_put_text(&c, ST_PARAM_TYPE, formats[apart.zeros_less_one]);
		ST_TRY(st_trial_consider(t, k ? t->a : &side, k ? &side : t->b, c, k ? 'b' : 'a', false));
	}
	return ST_OK;
}

/*
 * The same bytes under another label: decode them as every other type that gives this shape
 * the same size.
 */
enum st_status st_test_mislabelled(struct st_trial *t)
{
	ST_TRY(try_zeros(t));
	if (t->done)
		return ST_OK;
	/* A wrong label makes NaN and infinities, so the side with more of them comes first. */
	bool b_first = t->d->nonfinite_b > t->d->nonfinite_a, even = t->d->nonfinite_a == t->d->nonfinite_b,
	     told = false;
	char wrong = 0;
	for (int turn = 0; turn < 2 && !t->done; turn++) {
		bool k = (turn == 1) != b_first; /* relabel b */
		const struct st_rows *s = k ? t->b : t->a, *other = k ? t->a : t->b;
		const struct st_tensor *x = s->w->tensor;
		bool apr = st_container_format(st_model_container(k ? t->mb : t->ma)) == ST_FORMAT_APR;
		if (x->layout != ST_LAYOUT_ROWS)
			continue;
		for (int dt = 0; dt < ST_DTYPE_COUNT && !t->done; dt++) {
			const struct st_dtype_info *info = st_dtype_info((enum st_dtype)dt);
			if (dt == (int)x->dtype || dt == ST_DTYPE_APR_Q8 || (dt == ST_DTYPE_APR_Q4 && !apr)
			    || info->kind == ST_KIND_INT || s->cols % info->block_elems != 0
			    || s->cols / info->block_elems * info->block_bytes != x->row_bytes)
				continue;
			struct st_tensor relabelled = *x;
			relabelled.dtype = (enum st_dtype)dt;
			relabelled.scale = 1;
			struct st_weight w = *s->w;
			w.tensor = &relabelled;
			struct st_rows side = st_rows_of(&w);
			struct st_cause c = { .code = ST_CAUSE_WEIGHT_DTYPE_MISLABELLED };
			st_cause_put_text(&c, ST_PARAM_LABEL, st_dtype_info(x->dtype)->name);
			st_cause_put_text(&c, ST_PARAM_TYPE, info->name);
			/* The same bytes under two labels: one of them is wrong. */
			bool either = even && dt == (int)other->w->tensor->dtype;
			if (either && !told) {
				ST_TRY(st_wrong_label(t, &wrong));
				told = true;
			}
			if (either && wrong && wrong != (k ? 'b' : 'a'))
				continue; /* it is the other one, whose turn comes */
			ST_TRY(st_trial_consider(t, k ? t->a : &side, k ? &side : t->b, c,
			                         either ? wrong
			                         : k    ? 'b'
			                                : 'a',
			                         false));
		}
	}
	return t->done ? unless_scaled(t) : ST_OK;
}

/* A side with each block of each row times a factor of its own. */
struct block_gains {
	const struct st_rows *from;
	uint64_t block, per_row;
	const double *factor; /* [rows, per_row] */
};

static void get_block_gains(const struct st_rows *s, uint64_t r, const struct st_cells *dst)
{
	const struct block_gains *x = s->ctx;
	x->from->get(x->from, r, dst);
	for (uint64_t i = 0, k = r * x->per_row; i < s->cols; i += x->block, k++) {
		struct st_cells part = st_cells_from(dst, i);
		if (x->factor[k] != 1)
			st_cells_affine(&part, s->cols - i < x->block ? s->cols - i : x->block, x->factor[k], 0);
	}
}

/*
 * The factor that brings each block of the bad rows to the other side's size, where it is a multiple of it. A factor
 * near 0 would explain anything by taking it away.
 */
static enum st_status fit_block_gains(struct st_trial *t, uint64_t block, double *factor)
{
	uint64_t cols = t->b->cols, per_row = st_ceil_div(cols, block);
	struct st_dense x, y;
	ST_TRY(st_dense_make(&t->arena, 1, cols, &x, t->err));
	ST_TRY(st_dense_make(&t->arena, 1, cols, &y, t->err));
	struct st_cells a = st_dense_row(&x, 0), b = st_dense_row(&y, 0);
	for (uint64_t r = 0; r < t->b->rows; r++) {
		for (uint64_t k = 0; k < per_row; k++)
			factor[r * per_row + k] = 1;
		if (!t->stats[r].bad)
			continue;
		t->a->get(t->a, r, &a);
		t->b->get(t->b, r, &b);
		for (uint64_t k = 0; k < per_row; k++) {
			struct st_gain g = ST_GAIN_NONE;
			for (uint64_t i = k * block; i < cols && i < (k + 1) * block; i++)
				st_gain_add(&g, &a, &b, i, 0);
			if (g.ab != 0 && g.ab * g.ab >= 0.25 * g.aa * g.bb)
				factor[r * per_row + k] = st_gain_of(&g);
		}
	}
	return st_check_cancel(t->err);
}

/* Scales of their own for whole rows, or for the blocks of a row. */
enum st_status st_test_block_scale(struct st_trial *t)
{
	uint64_t rows = t->b->rows, cols = t->b->cols;
	const uint64_t sizes[] = { cols, 256, 128, 32 };
	double share;
	if (rows < 2)
		return ST_OK;
	ST_TRY(st_blocks_apart(t, &share));
	for (size_t i = 0; i < sizeof sizes / sizeof *sizes && !t->done; i++) {
		bool per_row = i == 0;
		/* A few rows off by a factor are corrupt rows; all of them are scaled by row. */
		if (per_row ? t->d->bad_rows * 4 <= rows || share >= ST_ONE_FACTOR : share == 0 || cols < 2 * sizes[i])
			continue;
		uint64_t n = st_ceil_div(cols, sizes[i]);
		double *factor = st_arena_alloc2(&t->arena, rows, n, sizeof *factor);
		if (!factor)
			return st_fail(t->err, ST_ERR_NOMEM, "out of memory");
		ST_TRY(fit_block_gains(t, sizes[i], factor));
		struct block_gains x = { t->b, sizes[i], n, factor };
		struct st_rows b = *t->b;
		b.get = get_block_gains;
		b.ctx = &x;
		struct st_cause c = { .code = per_row ? st_scaled_code(t->d->slot)
			                              : ST_CAUSE_WEIGHT_BLOCK_SCALE };
		if (per_row)
			st_cause_put_text(&c, ST_PARAM_AXIS, "row");
		else
			st_cause_put(&c, ST_PARAM_BLOCK, (double)sizes[i]);
		st_cause_put(&c, ST_PARAM_BAD_ROWS, (double)t->d->bad_rows);
		st_cause_put(&c, ST_PARAM_FIRST_ROW, (double)t->d->first_bad_row);
		st_cause_put(&c, ST_PARAM_LAST_ROW, (double)t->d->last_bad_row);
		ST_TRY(st_trial_consider(t, t->a, &b, c, 0, false));
	}
	return ST_OK;
}
