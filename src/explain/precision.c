/* precision.c - a stage that keeps fewer bits than those around it. */
#include "explain/hypotheses.h"

#include "explain/rounding.h"

#include <math.h>

static float rounded(float v, int bits)
{
	int e;
	float m = frexpf(v, &e);
	return v == 0 || !isfinite(v) ? v : ldexpf(rintf(ldexpf(m, bits)), e - bits);
}

enum st_status st_test_precision(struct st_trial *t, struct st_error *err)
{
	struct st_value v = st_trial_value(t);
	int most = 0;
	if (t->i != t->s->node)
		return ST_OK;
	for (size_t k = 0; k < v.rows * v.cols; k++)
		if (st_trial_has(t, k / v.cols) && st_significant_bits(t->got[k]) > most)
			most = st_significant_bits(t->got[k]);
	if (most < 2 || most > 16)
		return ST_OK;
	float *y = st_trial_buffer(t);
	/* A number near the middle between two may go either way: then it is as captured. */
	for (size_t k = 0; k < v.rows * v.cols; k++) {
		float right = rounded(t->exact[k], most),
		      unit = fabsf(ldexpf(1, ilogbf(t->exact[k] == 0 ? 1 : t->exact[k]) - most + 1));
		bool near = fabsf(t->got[k] - t->exact[k]) <= 0.501f * unit;
		y[k] = near ? t->got[k] : right;
	}
	struct st_cause c = st_blame(ST_CAUSE_NUMERIC_LOW_PRECISION);
	st_cause_put(&c, ST_PARAM_VALUE, most);
	return st_try_value(t, y, &c, err);
}
