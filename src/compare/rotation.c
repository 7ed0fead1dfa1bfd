/*
 * rotation.c - the residual stream in another basis: all that reads it times R, all that writes to it times R's
 * inverse.
 *
 * A rotation changes no product of two rows of a matrix that reads the stream. Norm weights are taken into these rows
 * first, since a rotation does not go through a norm that has weights. It changes no product of two columns of a matrix
 * that writes to the stream. The products of a few rows or columns are compared, and may differ by what storing both
 * sides can have done. That shows a rotation for each matrix. It does not show that all of them are one rotation; the
 * stages do.
 */
#include "compare/rotation.h"

#include "arch/arch.h"
#include "base/error.h"
#include "base/mem.h"

#include <math.h>
#include <stdlib.h>

#define VECTORS 48 /* whose products are compared */
/*
 * The least that vectors move, in proportion to their squares. Another basis moves them by twice their squares. A
 * finetune moves them by so little that their products differ by no more than noise does, and is no rotation.
 */
#define MOVED 0.25
#define ALLOWED \
	4 /* times the variance that storing the numbers adds to products: two sides, each once in either factor */

/* A part of a matrix: rows or columns of it are the vectors that may be turned. */
struct part {
	uint64_t row, rows, col, cols;
	bool columns;
};

static uint64_t length_of(const struct part *p) { return p->columns ? p->rows : p->cols; }

/* vectors [VECTORS, len] of a part of a weight, whose columns are taken times `gain` (of all columns; NULL: 1). */
static enum st_status gather(const struct st_weight *w, const struct part *p, const float *gain, float *vectors,
                             size_t *n, struct st_error *err)
{
	uint64_t from = p->columns ? p->cols : p->rows, len = length_of(p);
	float *row = st_alloc_array(st_weight_cols(w), sizeof *row);
	*n = from < VECTORS ? (size_t)from : VECTORS;
	if (!row)
		return st_fail(err, ST_ERR_NOMEM, "out of memory");
	for (uint64_t r = 0; r < (p->columns ? p->rows : *n); r++) {
		st_weight_decode(w, p->row + (p->columns ? r : r * p->rows / *n), 1, row);
		for (uint64_t k = 0; gain && k < p->cols; k++)
			row[p->col + k] *= gain[p->col + k];
		for (size_t i = 0; p->columns && i < *n; i++)
			vectors[i * len + r] = row[p->col + i * p->cols / *n];
		for (uint64_t k = 0; !p->columns && k < len; k++)
			vectors[r * len + k] = row[p->col + k];
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
		return st_model_role(m, ST_ROLE_ATTN_NORM, (uint32_t)slot->layer);
	case ST_ROLE_GATE:
	case ST_ROLE_UP:
		return st_model_role(m, ST_ROLE_FFN_NORM, (uint32_t)slot->layer);
	case ST_ROLE_HEAD:
		return st_model_role(m, ST_ROLE_FINAL_NORM, 0);
	default:
		return NULL;
	}
}

static double storage(const struct st_weight *w)
{
	double rel = st_dtype_info(w->tensor->dtype)->storage_rel_rms;
	return rel * rel + 1e-12;
}

/* Whether a part of a matrix of a has the products of b's. */
static enum st_status has_products(const struct st_model *ma, const struct st_model *mb, const struct st_weight_diff *d,
                                   const struct part *p, bool *yes, struct st_error *err)
{
	uint64_t len = length_of(p);
	const struct st_weight *na = norm_before(ma, d->slot), *nb = norm_before(mb, d->slot);
	float *x = st_alloc_array3(2, VECTORS, len, sizeof *x), *gain = st_alloc_array(d->cols, sizeof *gain);
	double *ga = st_alloc_array3(2, VECTORS, VECTORS, sizeof *ga), *gb = ga ? ga + VECTORS * VECTORS : NULL;
	enum st_status st = x && gain && ga ? ST_OK : st_fail(err, ST_ERR_NOMEM, "out of memory");
	size_t n = 0;
	*yes = false;
	for (int k = 0; k < 2 && st == ST_OK; k++) {
		const struct st_weight *norm = k ? nb : na;
		bool folds = norm && norm->tensor && st_tensor_cols(norm->tensor) == d->cols;
		if (folds)
			st_weight_decode(norm, 0, 1, gain);
		float *v = x + (uint64_t)k * VECTORS * len;
		st = gather(k ? d->b : d->a, p, folds ? gain : NULL, v, &n, err);
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
		    || st_weight_cols(d[i].a) != st_weight_cols(d[i].b) || d[i].nonfinite_a || d[i].nonfinite_b)
			return ST_OK;
		struct part all = { 0, d[i].rows, 0, d[i].cols,
			            d[i].slot->role == ST_ROLE_O || d[i].slot->role == ST_ROLE_DOWN };
		ST_TRY(has_products(ma, mb, &d[i], &all, &yes, err));
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

enum st_status st_find_turned_heads(const struct st_model *ma, const struct st_model *mb,
                                    const struct st_weight_diff *v, const struct st_weight_diff *o, bool *yes,
                                    struct st_error *err)
{
	const struct st_config *cfg = st_model_config(ma);
	uint64_t d = cfg->head_dim;
	*yes = true;
	for (uint64_t h = 0; h < cfg->n_kv_heads && *yes; h++)
		ST_TRY(has_products(ma, mb, v, &(struct part){ h * d, d, 0, v->cols, true }, yes, err));
	for (uint64_t h = 0; h < cfg->n_heads && *yes; h++)
		ST_TRY(has_products(ma, mb, o, &(struct part){ 0, o->rows, h * d, d, false }, yes, err));
	return ST_OK;
}
