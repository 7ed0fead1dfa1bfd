/* residual.c - mistakes made where values are added. */
#include "explain/hypotheses.h"

#include "base/error.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* y = a u + b v by least squares over the rows that were captured. */
static bool fit_two(const struct st_trial *t, const float *u, size_t ldu, const float *v, size_t ldv, double *a,
                    double *b)
{
	double uu = 0, vv = 0, uv = 0, yu = 0, yv = 0;
	for (size_t r = 0; r < t->T; r++)
		for (size_t i = 0; i < t->n->width && st_trial_has(t, r); i++) {
			double p = u[r * ldu + i], q = v[r * ldv + i], y = t->got[r * t->n->width + i];
			uu += p * p;
			vv += q * q;
			uv += p * q;
			yu += y * p;
			yv += y * q;
		}
	double det = uu * vv - uv * uv;
	if (!(det > 1e-12 * uu * vv))
		return false;
	*a = (yu * vv - yv * uv) / det;
	*b = (yv * uu - yu * uv) / det;
	return true;
}

static enum st_status try_sum(struct st_trial *t, const float *u, size_t ldu, double a, const float *v, size_t ldv,
                              double b, const struct st_cause *c, struct st_error *err)
{
	float *y = st_trial_buffer(t);
	for (size_t r = 0; r < t->T; r++)
		for (size_t i = 0; i < t->n->width; i++)
			y[r * t->n->width + i] = (float)(a * u[r * ldu + i] + (v ? b * v[r * ldv + i] : 0));
	return st_try_value(t, y, c, err);
}

/* Which input is the branch: the one that was made of the other. A stream comes from before. */
static int branch_of(const struct st_trial *t) { return t->n->in[1] > t->n->in[0] ? 1 : 0; }

static enum st_status test_sources(struct st_trial *t, int branch, struct st_error *err)
{
	for (uint32_t k = 0; k < t->i; k++) {
		const struct st_node *n = &t->x->g->nodes[k];
		if (n->width != t->n->width || n->op == ST_OP_SCORES || n->op == ST_OP_SOFTMAX || k == t->n->in[0]
		    || k == t->n->in[1] || !st_run_holds(t->x->run, k))
			continue;
		struct st_value v = st_run_value(t->x->run, k);
		for (int which = 0; which < 2; which++) { /* the other value in place of the stream, of the branch */
			int keep = which == 0 ? branch : 1 - branch;
			struct st_cause c = st_blame_holding(ST_CAUSE_RESIDUAL_WRONG_SOURCE, n);
			ST_TRY(try_sum(t, t->in[keep], t->ld[keep], 1, v.data, v.cols, 1, &c, err));
		}
	}
	return ST_OK;
}

static enum st_status test_clipped(struct st_trial *t, struct st_error *err)
{
	float *y = st_trial_buffer(t);
	struct st_value v = st_trial_value(t);
	double most = 0;
	for (size_t k = 0; st_trial_direct(t) && k < v.rows * v.cols; k++)
		most = fmax(most, fabs((double)t->got[k]));
	const double limits[] = { 65504, most };
	for (size_t l = 0; l < 2; l++) {
		bool cut = false;
		if (!(limits[l] > 0))
			continue;
		for (size_t r = 0; r < v.rows; r++)
			for (size_t i = 0; i < v.cols; i++) {
				double s = (double)t->in[0][r * t->ld[0] + i] + t->in[1][r * t->ld[1] + i];
				cut |= fabs(s) > limits[l];
				y[r * v.cols + i] = (float)fmin(fmax(s, -limits[l]), limits[l]);
			}
		struct st_cause c = st_blame(ST_CAUSE_RESIDUAL_CLIPPED);
		st_cause_put(&c, ST_PARAM_LIMIT, limits[l]);
		if (cut)
			ST_TRY(st_try_value(t, y, &c, err));
	}
	return ST_OK;
}

enum st_status st_test_add(struct st_trial *t, struct st_error *err)
{
	int branch = branch_of(t);
	const float *stream = t->in[1 - branch], *more = t->in[branch];
	size_t lds = t->ld[1 - branch], ldm = t->ld[branch];
	struct st_cause c = st_blame(ST_CAUSE_RESIDUAL_MISSING);
	ST_TRY(try_sum(t, more, ldm, 1, NULL, 0, 0, &c, err));
	c = st_blame(ST_CAUSE_RESIDUAL_BRANCH_MISSING);
	ST_TRY(try_sum(t, stream, lds, 1, NULL, 0, 0, &c, err));
	double a, b;
	if (st_trial_direct(t) && fit_two(t, stream, lds, more, ldm, &a, &b)) {
		c = st_blame(ST_CAUSE_RESIDUAL_SCALED);
		bool of_stream = fabs(a - 1) > fabs(b - 1);
		st_cause_put(&c, ST_PARAM_FACTOR, of_stream ? a : b);
		st_cause_put_text(&c, ST_PARAM_PART, of_stream ? "stream" : "branch");
		ST_TRY(try_sum(t, stream, lds, of_stream ? a : 1, more, ldm, of_stream ? 1 : b, &c, err));
	}
	ST_TRY(test_clipped(t, err));
	return t->best->cause.confidence == ST_CONFIRMED ? ST_OK : test_sources(t, branch, err);
}
