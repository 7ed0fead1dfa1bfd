/* job.c - what export, replay and apply have in common: inputs, and where each tensor's source comes from. */
#include "svf/svf.h"

#include "base/error.h"
#include "base/outfile.h"
#include "dtype/half.h"

#include <cblas.h>
#include <math.h>
#include <string.h>

enum st_status st_svf_job_open(struct st_svf_job *j, const char *vector, const char *reference, const char *model,
                               bool round_bf16, struct st_error *err)
{
	st_arena_init(&j->arena);
	j->threads = st_svf_threads(j->threads);
	openblas_set_num_threads(j->threads);
	ST_TRY(st_svf_vector_read(vector, &j->arena, &j->vector, err));
	ST_TRY(st_svf_reference_read(reference, &j->vector, &j->arena, &j->ref, err));
	if (!model)
		return ST_OK;
	ST_TRY(st_svf_base_open(model, round_bf16, &j->hooks, &j->base, err));
	j->have_base = true;
	for (size_t i = 0; i < j->ref.n; i++) {
		struct st_weight w;
		ST_TRY(st_svf_base_find(&j->base, &j->ref.entries[i], &w, err));
	}
	return ST_OK;
}

void st_svf_job_close(struct st_svf_job *j)
{
	st_container_close(j->factors);
	if (j->have_base)
		st_svf_base_close(&j->base);
	st_svf_reference_release(&j->ref);
	st_arena_release(&j->arena);
	j->factors = NULL;
	j->have_base = false;
}

enum st_status st_svf_keep(const char *out, const char *in, struct st_error *err)
{
	if (!in || !st_out_takes(out, in))
		return ST_OK;
	enum st_status st = st_fail(err, ST_ERR_USAGE, "is an input, or holds one");
	st_error_in(err, out);
	return st;
}

enum st_status st_svf_keep_files(const char *out, const struct st_container *c, struct st_error *err)
{
	for (size_t i = 0; c && i < st_container_n_files(c); i++)
		ST_TRY(st_svf_keep(out, st_container_file_path(c, i), err));
	return ST_OK;
}

enum st_status st_svf_job_keep(const struct st_svf_job *j, const char *out, struct st_error *err)
{
	if (!out)
		return st_fail(err, ST_ERR_NOMEM, "out of memory");
	ST_TRY(st_svf_keep(out, j->vector.path, err));
	ST_TRY(st_svf_keep(out, j->ref.path, err));
	ST_TRY(st_svf_keep_files(out, j->factors, err));
	return j->have_base ? st_svf_keep_files(out, st_svf_base_container(&j->base), err) : ST_OK;
}

enum st_status st_svf_components_layout(const char *dir, enum st_svf_layout *layout, json_t **manifest,
                                        struct st_error *err)
{
	char path[4096];
	json_t *m;
	snprintf(path, sizeof path, "%s/%s", dir, ST_SVF_DEBUG_MANIFEST);
	*layout = ST_SVF_TORCH_V;
	if (manifest)
		*manifest = NULL;
	ST_TRY(st_json_load(path, &m, err));
	if (!m)
		return ST_OK;
	enum st_status st = ST_OK;
	const json_t *name = json_object_get(m, "component_v_layout"), *schema = json_object_get(m, "schema");
	if (!json_is_string(schema)
	    || (strcmp(json_string_value(schema), "trinity_sakana_sample_component_debug.v1") != 0
	        && strcmp(json_string_value(schema), "trinity_sakana_selected_component_debug.v1") != 0))
		st = st_fail_at(err, ST_ERR_UNSUPPORTED, ST_NO_OFFSET, "schema",
		                "is \"%.60s\"; trinity_sakana_sample_component_debug.v1 and "
		                "..selected_component_debug.v1 are read",
		                json_is_string(schema) ? json_string_value(schema) : "?");
	else if (json_is_string(name) && !st_svf_layout_parse(json_string_value(name), layout))
		st = st_fail_at(err, ST_ERR_UNSUPPORTED, ST_NO_OFFSET, "component_v_layout",
		                "is \"%.40s\"; torch_v, vh and nx are known", json_string_value(name));
	if (st != ST_OK)
		st_error_in(err, path);
	if (st == ST_OK && manifest)
		*manifest = m;
	else
		json_decref(m);
	return st;
}

struct st_container *st_svf_job_factors(const struct st_svf_job *j, const struct st_svf_entry *e)
{
	return j->factors ? j->factors : j->computed ? j->computed[e->index] : NULL;
}

static const struct st_svf_entry *tied(const struct st_svf_job *j, const struct st_svf_entry *e, size_t from, size_t to)
{
	for (size_t i = from; j->have_base && i < to; i++)
		if (i != e->index
		    && st_svf_base_tied(&j->base, &j->ref.entries[i < e->index ? i : e->index],
		                        &j->ref.entries[i < e->index ? e->index : i]))
			return &j->ref.entries[i];
	return NULL;
}

const struct st_svf_entry *st_svf_job_before(const struct st_svf_job *j, const struct st_svf_entry *e)
{
	return j->tie == ST_SVF_COMPOSE ? tied(j, e, 0, e->index) : NULL;
}

const struct st_svf_entry *st_svf_job_after(const struct st_svf_job *j, const struct st_svf_entry *e)
{
	return j->tie == ST_SVF_LAST_WINS ? tied(j, e, e->index + 1, j->ref.n) : NULL;
}

static enum st_status composed_rows(void *ctx, uint64_t row0, uint64_t n, float *dst, struct st_error *err)
{
	const struct st_svf_composed *c = ctx;
	ST_TRY(st_svf_engine_adapted(c->g, row0, n, dst, err));
	for (uint64_t i = 0; c->round_bf16 && i < n * c->g->e->cols; i++)
		dst[i] = st_bf16_to_f32(st_f32_to_bf16(dst[i]));
	return ST_OK;
}

enum st_status st_svf_tensor_rows(void *ctx, uint64_t row0, uint64_t n, float *dst, struct st_error *err)
{
	const struct st_svf_tensor_rows *r = ctx;
	(void)err;
	st_tensor_decode(r->t, row0, n, dst);
	return ST_OK;
}

static enum st_status open_other(struct st_svf_job *j, struct st_svf_work *w, const struct st_svf_entry *o,
                                 struct st_error *err)
{
	struct st_container *factors = st_svf_job_factors(j, o);
	if (!factors)
		return st_fail_at(err, ST_ERR_USAGE, ST_NO_OFFSET, o->source_name,
		                  "the tie policy %s needs its factors", st_svf_tie_name(j->tie));
	ST_TRY(st_svf_factors_open(factors, o, j->layout, &w->other_factors, err));
	/* Its own source is not asked for: only adapted rows are. */
	enum st_status st = st_svf_engine_open(&w->other, o, &w->other_factors, j->vector.f32 + o->start,
	                                       (struct st_svf_source){ 0 }, 1024, j->threads, err);
	w->other_open = st == ST_OK;
	return st;
}

enum st_status st_svf_work_source(struct st_svf_job *j, struct st_svf_work *w, const struct st_svf_entry *e,
                                  const struct st_tensor *stored, struct st_error *err)
{
	const struct st_svf_entry *before = st_svf_job_before(j, e);
	if (stored) {
		w->stored.t = stored;
		w->source = (struct st_svf_source){ .rows = st_svf_tensor_rows, .ctx = &w->stored };
		return ST_OK;
	}
	if (before) {
		ST_TRY(open_other(j, w, before, err));
		w->composed = (struct st_svf_composed){ &w->other, j->base.round_bf16 };
		w->source = (struct st_svf_source){ .rows = composed_rows, .ctx = &w->composed };
		return ST_OK;
	}
	w->rows.round_bf16 = j->base.round_bf16;
	w->rows.threads = j->threads;
	w->source = (struct st_svf_source){ st_svf_weight_rows, &w->rows, j->base.path };
	return st_svf_base_find(&j->base, e, &w->rows.w, err);
}

enum st_status st_svf_work_open(struct st_svf_job *j, struct st_svf_work *w, const struct st_svf_entry *e,
                                enum st_svf_layout layout, const struct st_tensor *stored, struct st_error *err)
{
	memset(w, 0, sizeof *w);
	enum st_status st = st_svf_work_source(j, w, e, stored, err);
	const struct st_svf_entry *after = st_svf_job_after(j, e);
	if (st == ST_OK && after)
		st = open_other(j, w, after, err);
	if (st == ST_OK)
		st = st_svf_factors_open(st_svf_job_factors(j, e), e, layout, &w->factors, err);
	if (st == ST_OK)
		st = st_svf_engine_open(&w->engine, e, &w->factors, j->vector.f32 + e->start, w->source, j->chunk,
		                        j->threads, err);
	w->open = st == ST_OK;
	if (st != ST_OK)
		st_svf_work_close(w);
	else
		w->engine.times = &j->times;
	return st;
}

void st_svf_work_close(struct st_svf_work *w)
{
	if (w->open)
		st_svf_engine_close(&w->engine);
	if (w->other_open)
		st_svf_engine_close(&w->other);
	st_svf_factors_close(&w->factors);
	st_svf_factors_close(&w->other_factors);
	w->open = w->other_open = false;
}

/* f32 factors give their matrix back to about 1e-6 of its size; the wrong layout is off by all of it. */
#define ZERO_LIMIT 1e-3

bool st_svf_zero_test(const struct st_svf_engine *g, char *why, size_t n)
{
	double rel = g->source_dd > 0 ? sqrt(g->zero_dd / g->source_dd) : g->zero_dd > 0 ? INFINITY : 0;
	if (rel <= ZERO_LIMIT)
		return true;
	snprintf(why, n, "U S V^T is %.2g of the source away from it (largest difference %.3g)%s", rel, g->zero_error,
	         rel > 0.5 ? ": V has another layout than " : ": these are factors of another matrix");
	if (rel > 0.5)
		snprintf(why + strlen(why), n - strlen(why), "%s, or these are factors of another matrix",
		         st_svf_layout_name(g->f->layout));
	return false;
}

void st_svf_warn(json_t *list, const struct st_hooks *hooks, const char *tensor, const char *what)
{
	json_t *line = json_sprintf("%s: %s", tensor, what), *old;
	size_t i;
	/* One tensor is computed more than once: as it is, read back, among all. */
	json_array_foreach(list, i, old) if (json_equal(old, line))
	{
		json_decref(line);
		return;
	}
	json_array_append_new(list, line);
	st_svf_log(hooks, "warning: %s: %s", tensor, what);
}

#define ORTHONORMAL 1e-3

static void not_orthonormal(json_t *list, const struct st_hooks *hooks, const char *tensor, char factor, double error)
{
	char why[80];
	if (error <= ORTHONORMAL)
		return;
	snprintf(why, sizeof why, "%c is %.3g away from orthonormal", factor, error);
	st_svf_warn(list, hooks, tensor, why);
}

void st_svf_factors_warnings(const struct st_svf_factors *f, const char *tensor, json_t *list,
                             const struct st_hooks *hooks)
{
	if (!f->descending)
		st_svf_warn(list, hooks, tensor, "singular values are not in descending order");
	not_orthonormal(list, hooks, tensor, 'V', f->v_error);
}

void st_svf_work_warnings(const struct st_svf_work *w, json_t *list, const struct st_hooks *hooks)
{
	const char *tensor = w->engine.e->source_name;
	char why[200];
	if (!st_svf_zero_test(&w->engine, why, sizeof why))
		st_svf_warn(list, hooks, tensor, why);
	st_svf_factors_warnings(&w->factors, tensor, list, hooks);
	not_orthonormal(list, hooks, tensor, 'U', w->engine.u_error);
}
