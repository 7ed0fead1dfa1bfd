/* work.c - one tensor ready to be computed: where its source comes from, its factors, and what is odd about them. */
#include "svf/job.h"

#include "base/error.h"
#include "dtype/half.h"

#include <math.h>
#include <string.h>

static enum st_status composed_rows(void *ctx, uint64_t row0, uint64_t n, float *dst, struct st_error *err)
{
	const struct st_svf_composed *c = ctx;
	ST_TRY(st_svf_engine_adapted(c->g, row0, n, dst, err));
	for (uint64_t i = 0; c->round_bf16 && i < n * c->g->e->cols; i++)
		dst[i] = st_bf16_to_f32(st_f32_to_bf16(dst[i]));
	return ST_OK;
}

static enum st_status open_other(struct st_svf_job *j, struct st_svf_work *w, const struct st_svf_entry *o,
                                 struct st_error *err)
{
	struct st_container *factors = st_svf_job_factors(j, o);
	if (!factors)
		return st_fail_at(err, ST_ERR_USAGE, ST_NO_OFFSET, o->source_name,
		                  "the tie policy %s needs its factors", st_svf_ties[j->tie]);
	ST_TRY(st_svf_factors_open(factors, o, j->layout, &w->other_factors, err));
	/* Its own source is not asked for: only adapted rows are. */
	return st_svf_engine_open(&w->other, o, &w->other_factors, j->vector.f32 + o->start,
	                          (struct st_row_source){ 0 }, 1024, j->pool, err);
}

enum st_status st_svf_work_source(struct st_svf_job *j, struct st_svf_work *w, const struct st_svf_entry *e,
                                  const struct st_tensor *stored, struct st_error *err)
{
	const struct st_svf_entry *before = st_svf_job_before(j, e);
	if (stored) {
		w->stored = stored;
		w->source = (struct st_row_source){ .rows = st_svf_tensor_rows, .ctx = &w->stored };
		return ST_OK;
	}
	if (before) {
		ST_TRY(open_other(j, w, before, err));
		w->composed = (struct st_svf_composed){ &w->other, j->base.round_bf16 };
		w->source = (struct st_row_source){ .rows = composed_rows, .ctx = &w->composed };
		return ST_OK;
	}
	w->rows.round_bf16 = j->base.round_bf16;
	w->rows.pool = j->pool;
	w->source = (struct st_row_source){ st_svf_weight_rows, &w->rows, j->base.path };
	return st_svf_base_find(&j->base, e, &w->rows.w, err);
}

enum st_status st_svf_work_open(struct st_svf_job *j, struct st_svf_work *w, const struct st_svf_entry *e,
                                enum st_svf_layout layout, const struct st_tensor *stored, struct st_error *err)
{
	*w = (struct st_svf_work){ 0 };
	enum st_status st;
	const struct st_svf_entry *after = st_svf_job_after(j, e);
	ST_TRY_OUT(st_svf_work_source(j, w, e, stored, err));
	if (after)
		ST_TRY_OUT(open_other(j, w, after, err));
	ST_TRY_OUT(st_svf_factors_open(st_svf_job_factors(j, e), e, layout, &w->factors, err));
	st = st_svf_engine_open(&w->engine, e, &w->factors, j->vector.f32 + e->start, w->source, j->chunk, j->pool,
	                        err);
out:
	if (st != ST_OK)
		st_svf_work_close(w);
	return st;
}

enum st_status st_svf_work_run(struct st_svf_job *j, struct st_svf_work *w, struct st_svf_stages *t,
                               struct st_error *err)
{
	t->winner = st_svf_job_after(j, t->e) ? &w->other : NULL;
	t->hooks = &j->hooks;
	return st_svf_stages_run(t, &w->engine, err);
}

void st_svf_work_close(struct st_svf_work *w)
{
	st_svf_engine_close(&w->engine);
	st_svf_engine_close(&w->other);
	st_svf_factors_close(&w->factors);
	st_svf_factors_close(&w->other_factors);
}

/* ---- what is odd ---- */

/* f32 factors give their matrix back to about 1e-6 of its size; the wrong layout is off by all of it. */
#define ZERO_LIMIT 1e-3

bool st_svf_zero_test(const struct st_svf_engine *g, char *why, size_t n)
{
	double rel = g->source_dd > 0 ? sqrt(g->zero_dd / g->source_dd) : g->zero_dd > 0 ? INFINITY : 0;
	if (rel <= ZERO_LIMIT)
		return true;
	snprintf(why, n, "U S V^T is %.2g of the source away from it (largest difference %.3g)%s%s%s", rel,
	         g->zero_error, rel > 0.5 ? ": V has another layout than " : "",
	         rel > 0.5 ? st_svf_layout_name(g->f->layout) : "",
	         rel > 0.5 ? ", or these are factors of another matrix" : ": these are factors of another matrix");
	return false;
}

void st_svf_warn(struct st_svf_job *j, const char *tensor, const char *what)
{
	json_t *line = json_sprintf("%s: %s", tensor, what), *old;
	size_t i;
	/* One tensor is computed more than once: as it is, read back, among all. */
	json_array_foreach(j->warnings, i, old)
	{
		if (json_equal(old, line)) {
			json_decref(line);
			return;
		}
	}
	st_json_add(j->warnings, line);
	st_hooks_log(&j->hooks, "warning: %s: %s", tensor, what);
}

#define ORTHONORMAL 1e-3

static void not_orthonormal(struct st_svf_job *j, const char *tensor, char factor, double error)
{
	char why[80];
	if (error <= ORTHONORMAL)
		return;
	snprintf(why, sizeof why, "%c is %.3g away from orthonormal", factor, error);
	st_svf_warn(j, tensor, why);
}

void st_svf_factors_warnings(struct st_svf_job *j, const struct st_svf_factors *f, const char *tensor)
{
	if (!f->descending)
		st_svf_warn(j, tensor, "singular values are not in descending order");
	not_orthonormal(j, tensor, 'V', f->v_error);
}

void st_svf_work_warnings(struct st_svf_job *j, const struct st_svf_work *w)
{
	const char *tensor = w->engine.e->source_name;
	char why[200];
	if (!st_svf_zero_test(&w->engine, why, sizeof why))
		st_svf_warn(j, tensor, why);
	st_svf_factors_warnings(j, &w->factors, tensor);
	not_orthonormal(j, tensor, 'U', w->engine.u_error);
}

enum st_status st_svf_look_at_factors(struct st_svf_job *j, const struct st_svf_entry *e, struct st_error *err)
{
	struct st_svf_factors f;
	ST_TRY(st_svf_factors_open(j->factors, e, j->layout, &f, err));
	st_svf_factors_warnings(j, &f, e->source_name);
	st_svf_factors_close(&f);
	return ST_OK;
}
