/*
 * rotation.c - the residual stream in another basis: all that reads it times R, all that writes to it times R's
 * inverse.
 *
 * A rotation leaves the products of rows as they were: of the rows of what reads the stream, norm weights taken in, since a
 * rotation goes through no norm that has any; of the columns of what writes to it. These products are compared, of a few
 * rows, with what storing both can have made of them. That says that a rotation exists for each matrix, and not
 * yet that it is one for all: the stages do.
 */
#include "compare/rotation.h"

#include "base/error.h"
#include "base/mem.h"

#include <math.h>
#include <stdlib.h>

#define VECTORS 48 /* whose products are compared */
/* Of the squares of vectors. A basis of its own moves them by twice their squares; a finetune by little, and so it changes
 * their products by no more than noise may. */
#define MOVED 0.25
#define ALLOWED \
	4 /* times the variance that storing the numbers adds to products: two sides, each once in either factor */

/* vectors [VECTORS, len] of a weight: rows times `gain`, or columns. */
static enum st_status gather(const struct st_weight *w, bool columns, const float *gain, float *vectors, size_t *n,
                             struct st_error *err)
{
	uint64_t rows = st_weight_rows(w), cols = st_weight_cols(w), from = columns ? cols : rows,
		 len = columns ? rows : cols;
	*n = from < VECTORS ? (size_t)from : VECTORS;
	if (!columns) {
		for (size_t i = 0; i < *n; i++) {
			st_weight_decode(w, i * rows / *n, 1, vectors + i * len);
			for (uint64_t k = 0; gain && k < len; k++)
				vectors[i * len + k] *= gain[k];
		}
		return st_check_cancel(err);
	}
	float *row = st_alloc_array(cols, sizeof *row);
	if (!row)
		return st_fail(err, ST_ERR_NOMEM, "out of memory");
	for (uint64_t r = 0; r < rows; r++) {
		st_weight_decode(w, r, 1, row);
		for (size_t i = 0; i < *n; i++)
			vectors[i * len + r] = row[i * cols / *n];
	}
	free(row);
	return st_check_cancel(err);
}

static void products(const float *v, size_t n, uint64_t len, double *g)
{
	for (size_t i = 0; i < n; i++)
		for (size_t k = 0; k <= i; k++) {
			double sum = 0;
			for (uint64_t j = 0; j < len; j++)
				sum += (double)v[i * len + j] * v[k * len + j];
			g[i * VECTORS + k] = sum;
		}
}

/* The norm that the readers of the stream in this place stand behind. */
static const struct st_weight *norm_before(const struct st_model *m, const struct st_weight *slot)
{
	switch (slot->role) {
	case ST_ROLE_Q:
	case ST_ROLE_K:
	case ST_ROLE_V:
		return st_model_weight(m, ST_ROLE_ATTN_NORM, (uint32_t)slot->layer);
	case ST_ROLE_GATE:
	case ST_ROLE_UP:
		return st_model_weight(m, ST_ROLE_FFN_NORM, (uint32_t)slot->layer);
	case ST_ROLE_HEAD:
		return st_model_weight(m, ST_ROLE_FINAL_NORM, 0);
	default:
		return NULL;
	}
}

static double storage(const struct st_weight *w)
{
	double rel = st_dtype_info(w->tensor->dtype)->storage_rel_rms;
	return rel * rel + 1e-12;
}

/* Whether a matrix of a has the products of b's. */
static enum st_status has_products(const struct st_model *ma, const struct st_model *mb, const struct st_weight_diff *d,
                                   bool *yes, struct st_error *err)
{
	bool columns = d->slot->role == ST_ROLE_O || d->slot->role == ST_ROLE_DOWN;
	uint64_t len = columns ? d->rows : d->cols;
	const struct st_weight *na = norm_before(ma, d->slot), *nb = norm_before(mb, d->slot);
	float *x = st_alloc_array3(2, VECTORS, len, sizeof *x), *gain = st_alloc_array2(2, len, sizeof *gain);
	double *ga = st_alloc_array3(2, VECTORS, VECTORS, sizeof *ga), *gb = ga ? ga + VECTORS * VECTORS : NULL;
	enum st_status st = x && gain && ga ? ST_OK : st_fail(err, ST_ERR_NOMEM, "out of memory");
	size_t n = 0;
	*yes = false;
	for (int k = 0; k < 2 && st == ST_OK; k++) {
		const struct st_weight *norm = k ? nb : na;
		bool folds = norm && norm->tensor && st_tensor_cols(norm->tensor) == len;
		if (folds)
			st_weight_decode(norm, 0, 1, gain);
		float *v = x + (uint64_t)k * VECTORS * len;
		st = gather(k ? d->b : d->a, columns, folds ? gain : NULL, v, &n, err);
		products(v, n, len, k ? gb : ga);
	}
	double away[VECTORS] = { 0 };
	for (size_t i = 0; i < n * len && st == ST_OK; i++) {
		double delta = (double)x[i] - x[VECTORS * len + i];
		away[i / len] += delta * delta;
	}
	double apart = 0, expected = 0, moved = 0, size = 0, noise = st == ST_OK ? storage(d->a) + storage(d->b) : 0;
	for (size_t i = 0; i < n && st == ST_OK; i++) {
		moved += away[i];
		size += gb[i * (VECTORS + 1)];
		for (size_t k = 0; k < i; k++) {
			double delta = ga[i * VECTORS + k] - gb[i * VECTORS + k];
			apart += delta * delta;
			/* an error of each vector, of a share of its length, in no direction of its own */
			expected += 2 * noise * gb[i * (VECTORS + 1)] * gb[k * (VECTORS + 1)] / (double)len;
		}
	}
	*yes = n > 2 && apart <= ALLOWED * expected && moved > MOVED * size;
	free(x);
	free(gain);
	free(ga);
	return st;
}

enum st_status st_find_rotation(const struct st_model *ma, const struct st_model *mb, const struct st_weight_diff *d,
                                size_t n, const char **how, struct st_error *err)
{
	size_t found = 0;
	bool embedding = false;
	for (size_t i = 0; i < n; i++) {
		bool yes, fault = d[i].status == ST_WEIGHT_FAULT;
		if (!fault)
			continue;
		if (d[i].slot->role == ST_ROLE_ATTN_NORM || d[i].slot->role == ST_ROLE_FFN_NORM
		    || d[i].slot->role == ST_ROLE_FINAL_NORM)
			continue; /* its weights go into the matrices behind it */
		if (d[i].rows == 1)
			return ST_OK; /* what is no part of the stream is not turned */
		if (!d[i].a || !d[i].b || st_weight_rows(d[i].a) != st_weight_rows(d[i].b)
		    || st_weight_cols(d[i].a) != st_weight_cols(d[i].b) || d[i].nonfinite_a
		    || d[i].nonfinite_b)
			return ST_OK;
		ST_TRY(has_products(ma, mb, &d[i], &yes, err));
		if (!yes)
			return ST_OK;
		found++;
		embedding |= d[i].slot->role == ST_ROLE_EMBED;
	}
	for (size_t i = 0; embedding && found > 2 && i < n; i++)
		if (d[i].status == ST_WEIGHT_FAULT)
			how[i] = "the stream in another basis";
	return ST_OK;
}
