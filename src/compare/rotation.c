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

static double storage(const struct st_weight *w)
{
	double rel = st_dtype_info(w->tensor->dtype)->storage_rel_rms;
	return rel * rel + 1e-12;
}

/* Whether a part of a matrix of a has the products of b's. norm: what its columns read the stream through, or NULL. */
static enum st_status has_products(const struct st_weight_diff *norm, const struct st_weight_diff *d,
                                   const struct part *p, bool *yes, struct st_error *err)
{
	uint64_t len = length_of(p);
	float *x = st_alloc_array3(2, VECTORS, len, sizeof *x), *gain = st_alloc_array(d->cols, sizeof *gain);
	double *ga = st_alloc_array3(2, VECTORS, VECTORS, sizeof *ga), *gb = ga ? ga + VECTORS * VECTORS : NULL;
	enum st_status st = x && gain && ga ? ST_OK : st_fail(err, ST_ERR_NOMEM, "out of memory");
	size_t n = 0;
	*yes = false;
	for (int k = 0; k < 2 && st == ST_OK; k++) {
		bool folds = norm && norm->a && norm->b && norm->cols == d->cols;
		if (folds)
			st_weight_decode(k ? norm->b : norm->a, 0, 1, gain);
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

/* How each weight that is at fault meets the stream. */
struct use {
	bool reads, writes; /* neither: not at all, as far as is known */
	const struct st_weight_diff *norm;
	bool is_norm; /* its weights go into the matrices behind it */
};

static enum st_status find_uses(struct st_move_search *s, struct use *use, struct st_error *err)
{
	const struct st_graph *g = st_model_graph(s->ma);
	for (uint32_t i = 0; i < g->n_nodes; i++) {
		const struct st_node *n = &g->nodes[i];
		if (n->op == ST_OP_EMBED) {
			const struct st_weight_diff *d = st_move_find(s, n->w[0], -1);
			if (d)
				use[d - s->d].reads = true;
		}
		if (n->op != ST_OP_LINEAR && n->op != ST_OP_LINEAR_AT)
			continue;
		struct st_stream_use u = st_stream_use_of(g, i);
		const struct st_node *by = u.norm == ST_NO_NODE ? NULL : &g->nodes[u.norm];
		const struct st_weight_diff *norm = by && by->n_w ? st_move_find(s, by->w[0], -1) : NULL;
		if (norm)
			use[norm - s->d].is_norm = true;
		const struct st_weight_diff *head = n->stage == ST_STAGE_LM_HEAD ? st_move_find_head(s) : NULL;
		if (head)
			use[head - s->d] = (struct use){ by != NULL, u.writes, norm, false };
		for (uint32_t k = 0; k < n->n_w; k++) {
			bool stack = n->w[k]->n_experts > 0;
			const struct st_weight_diff *first = st_move_find(s, n->w[k], stack ? 0 : -1);
			for (uint64_t e = 0; e < (stack ? n->w[k]->n_experts : 1); e++) {
				const struct st_weight_diff *d = stack ? st_move_of_expert(s, first, e) : first;
				if (d)
					use[d - s->d] = (struct use){ by != NULL, u.writes, norm, false };
			}
		}
		ST_TRY(st_check_cancel(err));
	}
	return ST_OK;
}

/* Whether every weight at fault is the other side's in another basis, as far as products can tell. */
static enum st_status all_turned(struct st_move_search *s, const struct use *use, bool *yes, struct st_error *err)
{
	size_t found = 0;
	bool embedding = false;
	*yes = false;
	for (size_t i = 0; i < s->n; i++) {
		const struct st_weight_diff *d = &s->d[i];
		bool one;
		if (d->status != ST_WEIGHT_FAULT || use[i].is_norm)
			continue;
		if (d->rows == 1 || !st_move_comparable(d) || (!use[i].reads && !use[i].writes))
			return ST_OK; /* what is no part of the stream is not turned */
		struct part all = { 0, d->rows, 0, d->cols, use[i].writes };
		ST_TRY(has_products(use[i].norm, d, &all, &one, err));
		if (!one)
			return ST_OK;
		found++;
		embedding |= d->slot->role == ST_ROLE_EMBED;
	}
	*yes = embedding && found > 2;
	return ST_OK;
}

enum st_status st_find_rotation(struct st_move_search *s, struct st_error *err)
{
	struct use *use = st_alloc_zeroed(s->n ? s->n : 1, sizeof *use);
	bool yes = false;
	enum st_status st = use ? find_uses(s, use, err) : st_fail(err, ST_ERR_NOMEM, "out of memory");
	if (st == ST_OK)
		st = all_turned(s, use, &yes, err);
	for (size_t i = 0; yes && i < s->n; i++)
		if (s->d[i].status == ST_WEIGHT_FAULT)
			s->how[i] = "the stream in another basis";
	free(use);
	return st;
}

enum st_status st_find_turned_heads(const struct st_weight_diff *norm, const struct st_weight_diff *v,
                                    const struct st_weight_diff *o, const struct st_heads *h, bool *yes,
                                    struct st_error *err)
{
	uint64_t d = h->d_v;
	*yes = true;
	for (uint64_t i = 0; i < h->groups && *yes; i++)
		ST_TRY(has_products(norm, v, &(struct part){ i * d, d, 0, v->cols, true }, yes, err));
	for (uint64_t i = 0; i < h->heads && *yes; i++)
		ST_TRY(has_products(NULL, o, &(struct part){ 0, o->rows, i * d, d, false }, yes, err));
	return ST_OK;
}
