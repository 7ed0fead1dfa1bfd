/* diff_state.c - what the kinds of a diff have in common. */
#include "compare/diff.h"

#include <math.h>

#include <fnmatch.h>

void st_diff_undecided(struct st_diff *d, const char *why)
{
	d->undecided = true;
	if (!d->why)
		d->why = why;
}

bool st_diff_any(const struct st_metrics *m) { return m->nonfinite_a < m->count || m->nonfinite_apart > 0; }

bool st_diff_wanted(const struct st_diff_options *o, const char *name)
{
	return !o->filter || fnmatch(o->filter, name, 0) == 0;
}

bool st_diff_basis_matters(enum st_stage s)
{
	return s == ST_STAGE_QKV_MATMUL || s == ST_STAGE_QKV_BIAS || s == ST_STAGE_Q_POST_NORM
	    || s == ST_STAGE_K_POST_NORM || s == ST_STAGE_Q_POST_ROPE || s == ST_STAGE_K_POST_ROPE;
}

bool st_diff_beyond(const struct st_diff_options *o, double max_abs, double rel_l2)
{
	return (!isnan(o->threshold) && max_abs > o->threshold)
	    || (!isnan(o->rel_threshold) && rel_l2 > o->rel_threshold);
}

bool st_diff_has_threshold(const struct st_diff_options *o) { return !isnan(o->threshold) || !isnan(o->rel_threshold); }
