/*
 * weight_label.c - one set of bytes under two labels: which of the two is the wrong one.
 *
 * Two files that hold the same bytes and call them by two types say nothing of which is right; the bytes do. Weights of
 * a matrix are drawn from a distribution with a middle: their mean magnitude is 0.80 of their RMS for normal numbers,
 * 0.71 for Laplace's, and hardly ever leaves the range below. An exponent that is read with too few or too many bits
 * turns a factor of 2 into one of 2^8 or of 2^(1/8). Numbers of the former are nearly all far below their RMS, numbers
 * of the latter all near it.
 */
#include "compare/weight_trial.h"

#include <math.h>

#define LEAST 0.35 /* of mean magnitude over RMS */
#define MOST 0.93
#define ROWS 64 /* looked at, spread evenly */

/* Whether a matrix looks like weights when its bytes are read as `type`. */
static enum st_status looks_like_weights(struct st_trial *t, const struct st_weight *w, enum st_dtype type, bool *yes)
{
	struct st_tensor as = *w->tensor;
	uint64_t rows = st_tensor_rows(&as), cols = st_tensor_cols(&as), n = rows < ROWS ? rows : ROWS;
	float *row = st_arena_alloc(&t->arena, cols, sizeof *row);
	if (!row)
		return st_fail(t->err, ST_ERR_NOMEM, "out of memory");
	as.dtype = type;
	double sum = 0, square = 0, count = (double)n * (double)cols;
	for (uint64_t i = 0; i < n; i++) {
		st_tensor_decode(&as, i * rows / n, 1, row);
		for (uint64_t k = 0; k < cols; k++) {
			sum += fabs((double)row[k]);
			square += (double)row[k] * row[k];
		}
	}
	double ratio = sum / count / sqrt(square / count);
	*yes = isfinite(square) && ratio >= LEAST && ratio <= MOST;
	return ST_OK;
}

/* The share of a model's matrices, this one left out, that carry a label. */
static double share_of_label(const struct st_model *m, const struct st_weight *own, enum st_dtype label)
{
	double n = 0, all = 0;
	for (size_t i = 0; i < st_model_n_weights(m); i++) {
		const struct st_weight *w = st_model_weight_at(m, i);
		if (!w->tensor || w->tensor == own->tensor || w->tensor->ndim < 2)
			continue;
		n += w->tensor->dtype == label;
		all++;
	}
	return all > 0 ? n / all : 0;
}

enum st_status st_wrong_label(struct st_trial *t, char *side)
{
	const struct st_weight *a = t->a->w, *b = t->b->w;
	enum st_dtype la = a->tensor->dtype, lb = b->tensor->dtype;
	*side = 0;
	if (a->tensor->ndim < 2)
		return ST_OK;
	bool as_a, as_b;
	ST_TRY(looks_like_weights(t, a, la, &as_a));
	ST_TRY(looks_like_weights(t, a, lb, &as_b));
	if (as_a != as_b) {
		*side = as_a ? 'b' : 'a';
		return ST_OK;
	}
	/* A label that stands alone in its own file, where the other one is the rule there. */
	bool odd_a = share_of_label(t->ma, a, la) == 0 && share_of_label(t->ma, a, lb) > 0.5,
	     odd_b = share_of_label(t->mb, b, lb) == 0 && share_of_label(t->mb, b, la) > 0.5;
	*side = odd_a && !odd_b ? 'a' : odd_b && !odd_a ? 'b' : 0;
	return ST_OK;
}
