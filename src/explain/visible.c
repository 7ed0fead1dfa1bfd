/*
 * visible.c - how large a mistake would have been seen where none was: what "no fault" excludes.
 *
 * A mistake that moves an element by more than its bound is seen, whatever the engine's own rounding does: that is at most
 * the difference at hand, which is added. One element is enough.
 */
#include "explain/explain.h"

#include "base/error.h"

#include <math.h>
#include <stdlib.h>

static int order(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;
	return (x > y) - (x < y);
}

/* Of the finite ones; NaN where there are none. */
static double median(double *v, size_t n)
{
	size_t kept = 0;
	for (size_t i = 0; i < n; i++)
		if (isfinite(v[i]))
			v[kept++] = v[i];
	qsort(v, kept, sizeof *v, order);
	return kept ? v[kept / 2] : NAN;
}

static double moves(const struct st_explainer *x, size_t k)
{
	return (double)x->bound[k] + fabs((double)x->got[k] - x->exact[k]);
}

/* The least angle that moves one of the pairs' numbers too far: the other one's size is how fast it moves. */
static void angles(const struct st_explainer *x, const struct st_node *n, const struct st_value *v, double *least)
{
	size_t half = n->n_rot / 2, pairs = n->heads * half;
	for (size_t p = 0; p < pairs; p++) {
		least[p] = INFINITY;
		for (size_t r = 0; r < v->rows; r++) {
			size_t a = r * v->cols + p / half * n->head_dim + p % half, b = a + half;
			if (!st_capture_counts(x, n, v, x->have, r, 0))
				continue;
			if (x->exact[b] != 0)
				least[p] = fmin(least[p], moves(x, a) / fabs(x->exact[b]));
			if (x->exact[a] != 0)
				least[p] = fmin(least[p], moves(x, b) / fabs(x->exact[a]));
		}
	}
}

enum st_status st_visible_of(struct st_explainer *x, uint32_t i, const struct st_fit *fit, struct st_visible *out,
                             struct st_error *err)
{
	const struct st_node *n = &x->g->nodes[i];
	struct st_value v = st_run_value(x->run, i);
	*out = (struct st_visible){ NAN, NAN, NAN };
	if (n->op == ST_OP_TOP)
		return ST_OK;
	double *least = st_alloc_array(v.cols, sizeof *least), all = INFINITY;
	if (!least)
		return st_fail(err, ST_ERR_NOMEM, "out of memory");
	for (size_t c = 0; c < v.cols; c++)
		least[c] = INFINITY;
	for (size_t r = 0; r < v.rows; r++)
		for (size_t c = 0; c < v.cols; c++) {
			size_t k = r * v.cols + c;
			if (x->exact[k] == 0 || !st_capture_counts(x, n, &v, x->have, r, c))
				continue;
			least[c] = fmin(least[c], moves(x, k) / fabs(x->exact[k]));
		}
	for (size_t c = 0; c < v.cols; c++)
		all = fmin(all, least[c]);
	out->gain = fit->by_size ? fmin(all, fit->gain + fabs(x->r.stages[x->r.n_stages].m.gain - 1)) : all;
	out->gain = isfinite(out->gain) ? out->gain : NAN;
	if (n->op != ST_OP_SCORES && n->op != ST_OP_SOFTMAX)
		out->row = median(least, v.cols);
	if (n->op == ST_OP_ROPE && n->n_rot && n->heads * n->n_rot / 2 <= v.cols) {
		angles(x, n, &v, least);
		out->angle = median(least, n->heads * (n->n_rot / 2));
	}
	free(least);
	return ST_OK;
}
