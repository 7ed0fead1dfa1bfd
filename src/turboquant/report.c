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

bool st_all_finite(const float *x, size_t n)
{
	bool finite = true;
	for (size_t i = 0; i < n; i++)
		finite &= isfinite(x[i]) != 0;
	return finite;
}

json_t *st_json_visible(const struct st_tq_params *p, enum st_tq_visibility vis)
{
	struct st_tq_rows rows;
	st_tq_visible_rows(p, vis, &rows);
	return st_json_object({ "visible_rows", json_integer(rows.visible) },
	                      { "expected_rows", json_integer(rows.expected) });
}

json_t *st_json_moments(const struct st_moments *m)
{
	return st_json_object({ "mean", st_json_number(m->mean) }, { "sd", st_json_number(m->sd) },
	                      { "seeds", json_integer(m->n) });
}
