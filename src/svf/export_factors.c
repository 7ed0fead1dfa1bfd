/*
 * export_factors.c - factors of an export: given or computed, kept beside the report while the run lasts, and the files
 * that others read them from.
 */
#include "svf/export.h"

#include "base/error.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* ---- factors ---- */

static char *work_path(struct st_svf_export_run *x, const struct st_svf_entry *e, const char *suffix)
{
	return st_arena_printf(&x->job.arena, "%s/%s%s", x->work_dir, e->safe, suffix);
}

/* What the factors of a tensor depend on; a composed source also on the span and the numbers of the tensor before. */
static char *work_key(struct st_svf_export_run *x, const struct st_svf_entry *e)
{
	bool composed = st_svf_job_before(&x->job, e) != NULL;
	const char *environment = st_svf_environment_key(&x->job.arena, x->job.threads);
	if (!environment)
		return NULL;
	return st_arena_printf(&x->job.arena, "3|%s|%s|%d|%d|%s|%s|%s", x->job.base.sha256, e->source_name,
	                       (int)x->o->svd, (int)x->o->model_bf16, environment,
	                       composed ? x->job.vector.sha256_f32 : "", composed ? x->job.ref.file_sha256 : "");
}

static double real_of(const json_t *o, const char *key) { return json_number_value(json_object_get(o, key)); }

json_t *st_svf_export_svd_json(const struct st_svf_svd_report *r)
{
	json_t *o = json_object();
	st_json_put(o, "method", st_json_text(r->method));
	st_json_put(o, "relative_residual", st_json_number(r->residual_rel));
	st_json_put(o, "max_abs_residual", st_json_number(r->residual_max));
	st_json_put(o, "u_orthogonality_error", st_json_number(r->u_error));
	st_json_put(o, "v_orthogonality_error", st_json_number(r->v_error));
	st_json_put(o, "smallest_relative_gap", st_json_number(r->gap_min));
	st_json_put(o, "smallest_relative_gap_after", json_integer((json_int_t)r->gap_at));
	st_json_put(o, "median_relative_gap", st_json_number(r->gap_median));
	st_json_put(o, "gaps_below_1e-4", json_integer((json_int_t)r->close));
	st_json_put(o, "seconds", st_json_number(r->seconds));
	return o;
}

/* True when an earlier run left these very factors. */
static bool resume(struct st_svf_export_run *x, const struct st_svf_entry *e, const char *path, const char *note,
                   const char *key)
{
	json_t *j = NULL;
	struct st_error ignored = ST_ERROR_INIT;
	char hex[65];
	if (access(path, R_OK) != 0 || st_json_load(note, &j, &ignored) != ST_OK || !j)
		return false;
	const char *k = json_string_value(json_object_get(j, "key")),
		   *sha = json_string_value(json_object_get(j, "sha256"));
	bool same = k && sha && strcmp(k, key) == 0 && st_svf_file_sha256(path, hex, &ignored) == ST_OK
	         && strcmp(hex, sha) == 0;
	const json_t *s = json_object_get(j, "svd");
	if (same)
		x->svd[e->index] = (struct st_svf_svd_report){
			.residual_rel = real_of(s, "relative_residual"),
			.residual_max = real_of(s, "max_abs_residual"),
			.u_error = real_of(s, "u_orthogonality_error"),
			.v_error = real_of(s, "v_orthogonality_error"),
			.gap_min = real_of(s, "smallest_relative_gap"),
			.gap_median = real_of(s, "median_relative_gap"),
			.gap_at = (uint64_t)real_of(s, "smallest_relative_gap_after"),
			.close = (uint64_t)real_of(s, "gaps_below_1e-4"),
			.seconds = real_of(s, "seconds"),
			.method = st_arena_printf(&x->job.arena, "%s", json_string_value(json_object_get(s, "method"))),
		};
	json_decref(j);
	return same;
}

static enum st_status note_factors(const struct st_svf_svd_report *r, const char *path, const char *note,
                                   const char *key, struct st_error *err)
{
	char hex[65];
	ST_TRY(st_svf_file_sha256(path, hex, err));
	json_t *j = json_object();
	st_json_put(j, "key", st_json_text(key));
	st_json_put(j, "sha256", st_json_text(hex));
	st_json_put(j, "svd", st_svf_export_svd_json(r));
	enum st_status st = st_svf_write_json(note, j, err);
	json_decref(j);
	return st;
}

static enum st_status copy_tensor(struct st_writer *w, const struct st_tensor *t, struct st_error *err)
{
	uint64_t rows = st_tensor_rows(t), cols = st_tensor_cols(t), step = st_svf_step(rows, cols);
	float *x = st_alloc_array(step * (cols ? cols : 1), sizeof *x);
	enum st_status st = x ? ST_OK : st_fail(err, ST_ERR_NOMEM, "out of memory");
	for (uint64_t r = 0; st == ST_OK && r < rows; r += step) {
		uint64_t n = rows - r < step ? rows - r : step;
		st_tensor_decode(t, r, n, x);
		st = st_writer_append(w, x, n * cols * sizeof *x, err);
		if (st == ST_OK)
			st = st_check_cancel(err);
	}
	free(x);
	return st;
}

static enum st_status finish_file(struct st_writer *w, enum st_status st, struct st_error *err)
{
	const char *ignored;
	if (st == ST_OK)
		st = st_writer_finish(w, &ignored, err);
	if (st == ST_OK)
		return st_writer_commit(w, err);
	st_writer_abort(w);
	return st;
}

/* The factors of `from`, and what they are called as those of e. */
static enum st_status component_specs(struct st_svf_export_run *x, const struct st_svf_entry *from,
                                      const struct st_svf_entry *e, const struct st_tensor *t[3],
                                      struct st_tensor_spec specs[3], struct st_error *err)
{
	struct st_svf_factors f;
	ST_TRY(st_svf_factors_open(st_svf_job_factors(&x->job, from), from, x->job.layout, &f, err));
	t[0] = f.u;
	t[1] = f.s_view;
	t[2] = f.v_view;
	st_svf_factors_close(&f);
	for (size_t k = 0; k < 3; k++) {
		specs[k] = (struct st_tensor_spec){ st_arena_printf(&x->job.arena, "svd.%c.%s", "USV"[k], e -> safe),
			                            ST_DTYPE_F32,
			                            t[k]->ndim,
			                            { t[k]->shape[0], t[k]->ndim > 1 ? t[k]->shape[1] : 0 } };
		if (!specs[k].name)
			return st_fail(err, ST_ERR_NOMEM, "out of memory");
	}
	return ST_OK;
}

static enum st_status write_components(const char *path, const struct st_tensor *const *from,
                                       const struct st_tensor_spec *specs, size_t n, struct st_error *err)
{
	const struct st_write_plan plan = {
		.format = ST_FORMAT_SAFETENSORS, .specs = specs, .n_specs = n, .pad_header = true
	};
	struct st_writer *w;
	ST_TRY(st_writer_open(path, &plan, &w, err));
	enum st_status st = ST_OK;
	for (size_t i = 0; st == ST_OK && i < n; i++)
		st = copy_tensor(w, from[i], err);
	return finish_file(w, st, err);
}

/* An earlier tensor whose factors are this one's: both are the same matrix of the base model, as a tied embedding and
 * head are. */
static const struct st_svf_entry *same_matrix(const struct st_svf_export_run *x, const struct st_svf_entry *e)
{
	if (st_svf_job_before(&x->job, e))
		return NULL; /* composed: it starts from another one */
	for (size_t i = 0; i < e->index; i++)
		if (x->job.computed[i] && st_svf_base_tied(&x->job.base, &x->job.ref.entries[i], e))
			return &x->job.ref.entries[i];
	return NULL;
}

static enum st_status take_factors(struct st_svf_export_run *x, const struct st_svf_entry *from,
                                   const struct st_svf_entry *e, const char *path, struct st_error *err)
{
	const struct st_tensor *t[3];
	struct st_tensor_spec specs[3];
	ST_TRY(component_specs(x, from, e, t, specs, err));
	st_svf_log(&x->job.hooks, "%s: the factors of %s, which is the same matrix", e->source_name, from->source_name);
	x->svd[e->index] = x->svd[from->index];
	x->svd[e->index].seconds = 0;
	return write_components(path, t, specs, 3, err);
}

static enum st_status compute_factors(struct st_svf_export_run *x, const struct st_svf_entry *e, struct st_error *err)
{
	char *path = work_path(x, e, ".safetensors"), *note = work_path(x, e, ".json"), *key = work_key(x, e);
	struct st_svf_work w = { 0 };
	if (!path || !note || !key)
		return st_fail(err, ST_ERR_NOMEM, "out of memory");
	if (resume(x, e, path, note, key)) {
		st_svf_log(&x->job.hooks, "%s: factors of an earlier run taken over", e->source_name);
		return st_container_open(path, &x->job.computed[e->index], err);
	}
	const struct st_svf_entry *from = same_matrix(x, e);
	enum st_status st = from ? take_factors(x, from, e, path, err) : st_svf_work_source(&x->job, &w, e, NULL, err);
	if (st == ST_OK && !from)
		st = st_svf_decompose(e, w.source, x->o->svd, x->job.threads, path, &x->svd[e->index], &x->job.hooks,
		                      err);
	st_svf_work_close(&w);
	if (st == ST_OK)
		st = note_factors(&x->svd[e->index], path, note, key, err);
	if (st == ST_OK)
		st = st_container_open(path, &x->job.computed[e->index], err);
	return st;
}

enum st_status st_svf_export_prepare(struct st_svf_export_run *x, struct st_error *err)
{
	if (x->o->svd_weights) {
		x->job.layout = x->o->layout;
		/* Every tensor is looked at before the first file is written. */
		for (size_t i = 0; i < x->n_list; i++) {
			struct st_svf_factors f;
			ST_TRY(st_svf_factors_open(x->job.factors, st_svf_export_entry(x, i), x->job.layout, &f, err));
			st_svf_factors_warnings(&f, st_svf_export_entry(x, i)->source_name, x->warnings, &x->job.hooks);
			st_svf_factors_close(&f);
		}
		return ST_OK;
	}
	x->work_dir = x->work_path;
	ST_TRY(st_svf_make_dir(x->work_dir, err));
	for (size_t i = 0; i < x->n_list; i++)
		ST_TRY(compute_factors(x, st_svf_export_entry(x, i), err));
	return ST_OK;
}

void st_svf_export_remove_work(struct st_svf_export_run *x)
{
	for (size_t i = 0; x->work_dir && i < x->n_list; i++) {
		unlink(work_path(x, st_svf_export_entry(x, i), ".safetensors"));
		unlink(work_path(x, st_svf_export_entry(x, i), ".json"));
	}
	if (x->work_dir)
		rmdir(x->work_dir);
}

/* ---- component files ---- */

enum st_status st_svf_export_components(struct st_svf_export_run *x, const char *path, struct st_error *err)
{
	struct st_tensor_spec *specs = st_arena_alloc(&x->job.arena, 3 * x->n_list, sizeof *specs);
	const struct st_tensor **from = st_arena_alloc(&x->job.arena, 3 * x->n_list, sizeof *from);
	if (!specs || !from)
		return st_fail(err, ST_ERR_NOMEM, "out of memory");
	for (size_t i = 0; i < x->n_list; i++) {
		const struct st_svf_entry *e = st_svf_export_entry(x, i);
		ST_TRY(component_specs(x, e, e, from + 3 * i, specs + 3 * i, err));
	}
	return write_components(path, from, specs, 3 * x->n_list, err);
}

enum st_status st_svf_export_scales(struct st_svf_export_run *x, const char *path, struct st_error *err)
{
	struct st_tensor_spec *specs = st_arena_alloc(&x->job.arena, x->n_list, sizeof *specs);
	if (!specs)
		return st_fail(err, ST_ERR_NOMEM, "out of memory");
	for (size_t i = 0; i < x->n_list; i++) {
		specs[i] = (struct st_tensor_spec){ st_arena_printf(&x->job.arena, "svf.scale_offsets.%s",
			                                            st_svf_export_entry(x, i)->safe),
			                            ST_DTYPE_F32,
			                            1,
			                            { st_svf_export_entry(x, i)->k } };
		if (!specs[i].name)
			return st_fail(err, ST_ERR_NOMEM, "out of memory");
	}
	const struct st_write_plan plan = {
		.format = ST_FORMAT_SAFETENSORS, .specs = specs, .n_specs = x->n_list, .pad_header = true
	};
	struct st_writer *w;
	ST_TRY(st_writer_open(path, &plan, &w, err));
	enum st_status st = ST_OK;
	for (size_t i = 0; st == ST_OK && i < x->n_list; i++)
		st = st_writer_append(w, x->job.vector.f32 + st_svf_export_entry(x, i)->start,
		                      st_svf_export_entry(x, i)->k * sizeof(float), err);
	return finish_file(w, st, err);
}
