/* choice.c - whether two choices are the same: as sets, and where they differ by how near a tie it was. */
#include "explain/explain.h"

#include "base/error.h"
#include "explain/rounding.h"

#include <math.h>
#include <stdlib.h>

static bool holds(const float *set, size_t n, float e)
{
	for (size_t i = 0; i < n; i++)
		if (set[i] == e)
			return true;
	return false;
}

/* How far apart an arithmetic may put two numbers that are equal: relative to the largest of them. */
static double unit_of(const struct st_explainer *x, const struct st_node *n, const struct st_arith *a)
{
	const struct st_trace_entry *e = x->pass.at[n->in[0]];
	double unit = 16 * 0x1p-24;
	if (e) /* the engine chose by finer numbers than were written down */
		return e->tensor->dtype == ST_DTYPE_F16 || e->tensor->dtype == ST_DTYPE_BF16
		             ? unit + 2 * (double)st_unit_roundoff(e->tensor->dtype)
		             : unit;
	if (!a)
		return unit;
	unit += a->out == ST_DTYPE_F32 ? 0 : 4 * (double)st_unit_roundoff(a->out);
	return unit
	     + (a->partner || a->mode == ST_MODE_EMULATE_Q8_0 || a->mode == ST_MODE_EMULATE_Q8_K ? 0x1p-6
	        : a->mode == ST_MODE_EMULATE_BF16                                                ? 0x1p-7
	        : a->mode == ST_MODE_EMULATE_F16                                                 ? 0x1p-10
	                                                                                         : 0);
}

enum st_status st_compare_choice(const struct st_explainer *x, const struct st_segment *s, const struct st_arith *a,
                                 const float *value, struct st_fit *f, struct st_error *err)
{
	const struct st_node *n = &x->g->nodes[s->node];
	struct st_value v = st_run_value(x->run, s->node), in = st_run_value(x->run, n->in[0]);
	const struct st_weight *w = n->n_w ? n->w[0] : NULL;
	float *bias = w ? st_alloc_array((size_t)w->tensor->n_elems, sizeof *bias) : NULL;
	if (w && !bias)
		return st_fail(err, ST_ERR_NOMEM, "out of memory");
	if (w)
		st_weight_decode(w, 0, st_tensor_rows(w->tensor), bias);
	double unit = unit_of(x, n, a), wrong = 0, all = 0;
	f->ratio = 0;
	f->row = f->col = 0;
	for (size_t r = 0; r < v.rows; r++) {
		const float *got = x->got + r * v.cols, *want = value + r * v.cols,
			    *z = in.data + r * in.cols + n->from[0];
		double best = -INFINITY, least = INFINITY, most = 0;
		if (!st_capture_counts(x, n, &v, x->have, r, 0))
			continue;
		for (size_t e = 0; e < in.cols - n->from[0]; e++)
			most = fmax(most, fabs((double)z[e]) + (bias ? fabs((double)bias[e]) : 0));
		for (size_t i = 0; i < v.cols; i++) {
			size_t e = (size_t)want[i], o = (size_t)fmaxf(got[i], 0);
			all++;
			if (!holds(got, v.cols, want[i])) {
				wrong++;
				best = fmax(best, z[e] + (bias ? (double)bias[e] : 0));
			}
			if (!holds(want, v.cols, got[i]))
				least = o < in.cols - n->from[0] ? fmin(least, z[o] + (bias ? (double)bias[o] : 0))
				                                 : -INFINITY;
		}
		double ratio = best > -INFINITY ? (least == INFINITY ? INFINITY : fabs(best - least) / (unit * most))
		                                : 0;
		if (ratio > f->ratio || isnan(ratio)) {
			f->ratio = isnan(ratio) ? INFINITY : ratio;
			f->row = r;
		}
	}
	free(bias);
	f->rel = all > 0 ? wrong / all : 0;
	f->noise = f->ratio <= 1;
	return ST_OK;
}
