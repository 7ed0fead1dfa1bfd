/* form.c - whether captured scores are scaled and capped, found by value where the trace does not say it. */
#include "explain/explain.h"

#include "base/error.h"

#include <math.h>
#include <string.h>

#define NEAR \
	0.02 /* relative L2: what arithmetic may do to scores, and no scale or limit that anyone takes for another */

static double apart(const struct st_explainer *x, uint32_t i, const float *a, const float *b)
{
	const struct st_node *n = &x->g->nodes[i];
	struct st_value v = st_run_value(x->run, i);
	double dd = 0, yy = 0;
	for (size_t k = 0; k < v.rows * v.cols; k++)
		if (st_capture_counts(x, n, &v, x->have, k / v.cols, k % v.cols)) {
			dd += ((double)a[k] - b[k]) * ((double)a[k] - b[k]);
			yy += (double)b[k] * b[k];
		}
	return yy > 0 ? sqrt(dd / yy) : 0;
}

/* What the next captured value is away from what these scores make; NAN where none is captured. */
static enum st_status consequence(struct st_explainer *x, uint32_t i, const float *scores, double *out,
                                  struct st_error *err)
{
	const struct st_graph *g = x->g;
	uint32_t at = i;
	*out = NAN;
	st_run_put(x->run, i, scores);
	for (uint32_t k = i + 1; k < g->n_nodes && g->nodes[k].layer == g->nodes[i].layer; k++) {
		if (g->nodes[k].in[0] != at || (g->nodes[k].op != ST_OP_SOFTMAX && g->nodes[k].op != ST_OP_MIX))
			continue;
		ST_TRY(st_run_eval_alone(x->run, g, k, &x->exec, x->tried, err));
		if (x->pass.at[k]) {
			ST_TRY(st_capture_load(x, k, x->tried, x->moved, x->have, err));
			*out = apart(x, k, x->moved, x->tried);
			return ST_OK;
		}
		st_run_put(x->run, k, x->tried);
		at = k;
	}
	return ST_OK;
}

enum st_status st_scores_form(struct st_explainer *x, uint32_t i, struct st_error *err)
{
	static const char *const forms[] = { "", "raw", "scaled" };
	const struct st_node *n = &x->g->nodes[i];
	double left[3], as_is, changed;
	size_t best = 0;
	ST_TRY(st_run_eval_alone(x->run, x->g, i, &x->exec, x->exact, err));
	for (size_t f = 0; f < 3; f++) {
		x->form = forms[f];
		ST_TRY(st_capture_load(x, i, x->exact, x->got, x->have, err));
		left[f] = apart(x, i, x->got, x->exact);
		best = left[f] < left[best] ? f : best;
	}
	x->form = forms[0];
	if (best == 0 || left[0] <= NEAR || !(left[best] <= NEAR) || (n->scale == 1 && n->softcap == 0))
		return ST_OK;
	/* An engine that goes on with them as they are has no other form: its scale or limit is wrong. */
	ST_TRY(st_capture_load(x, i, x->exact, x->got, x->have, err));
	ST_TRY(consequence(x, i, x->got, &as_is, err));
	x->form = forms[best];
	ST_TRY(st_capture_load(x, i, x->exact, x->got, x->have, err));
	ST_TRY(consequence(x, i, x->got, &changed, err));
	if (as_is < changed)
		x->form = forms[0];
	return ST_OK;
}
