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

bool st_diff_short(enum st_dtype ta, enum st_dtype tb)
{
	return ta == ST_DTYPE_F16 || ta == ST_DTYPE_BF16 || tb == ST_DTYPE_F16 || tb == ST_DTYPE_BF16;
}

/* Half a unit of the last place of x in that type; 0 for types that hold every f32. */
static double half_unit(double x, enum st_dtype t)
{
	int bits = t == ST_DTYPE_F16 ? 11 : t == ST_DTYPE_BF16 ? 8 : 0, least = t == ST_DTYPE_F16 ? -14 : -126, e;
	if (bits == 0)
		return 0;
	frexp(x, &e); /* |x| is in [2^(e-1), 2^e) */
	e = x == 0 || e - 1 < least ? least : e - 1;
	return ldexp(1, e - bits);
}

enum st_diff_meeting st_diff_meets(double a, enum st_dtype ta, double b, enum st_dtype tb)
{
	double half_a = half_unit(a, ta), half_b = half_unit(b, tb), apart = fabs(a - b);
	if (apart == 0 || (ta != tb && apart <= half_a + half_b + ST_DIFF_ROUNDING * fabs(a)))
		return ST_DIFF_MEET;
	return ta == tb && apart <= half_a + half_b ? ST_DIFF_NEIGHBOURS : ST_DIFF_APART;
}

bool st_diff_few_neighbours(uint64_t neighbours, uint64_t n, enum st_dtype t)
{
	double unit = t == ST_DTYPE_BF16 ? 0x1p-8 : 0x1p-11; /* the least it is, relative to the number */
	double expected = (double)n * 2 * ST_DIFF_ROUNDING / unit;
	return (double)neighbours <= expected + 4 * sqrt(expected) + 1;
}
