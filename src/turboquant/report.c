/* report.c - pieces that the reports of several modes have. */
#include "turboquant/run.h"

#include <math.h>

void st_replay_verdict(struct st_replay_run *r, const struct st_verdict *v)
{
	st_json_put(r->json, "verdict", json_string(v->label));
	fprintf(r->text, "verdict: %s%s\n", v->label, v->why);
	if (v->exit_status > r->exit_status)
		r->exit_status = v->exit_status;
}

size_t st_nonfinite(const float *x, size_t n)
{
	size_t bad = 0;
	for (size_t i = 0; i < n; i++)
		bad += !isfinite(x[i]);
	return bad;
}

json_t *st_json_visible(const struct st_tq_params *p, enum st_tq_visibility vis)
{
	struct st_tq_rows rows;
	st_tq_visible_rows(p, vis, &rows);
	return st_json_object(ST_IS("visible_rows", rows.visible), ST_IS("expected_rows", rows.expected));
}

json_t *st_json_moments(const struct st_moments *m)
{
	return st_json_object(ST_IS("mean", m->mean), ST_IS("sd", m->sd), ST_IS("seeds", m->n));
}
