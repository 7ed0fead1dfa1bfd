/*
 * export_factors.c - factors of an export: given or computed, kept beside the report while the run lasts, and the files
 * that others read them from.
 */
#include "svf/export.h"
#include "linalg/lapack.h"

#include "base/error.h"

#include <stdlib.h>
#include <unistd.h>

/* ---- what is said of a decomposition, and read again by the next run ---- */

#define AT(m) ST_JSON_AT(struct st_svd_report, m), .required = true
static const struct st_json_field svd_fields[] = {
	{ AT(method), .key = { "method" } },
	{ AT(residual_rel), .key = { "relative_residual" } },
	{ AT(residual_max), .key = { "max_abs_residual" } },
	{ AT(u_error), .key = { "u_orthogonality_error" } },
	{ AT(v_error), .key = { "v_orthogonality_error" } },
	{ AT(gap_min), .key = { "smallest_relative_gap" } },
	{ AT(gap_at), .key = { "smallest_relative_gap_after" } },
	{ AT(gap_median), .key = { "median_relative_gap" } },
	{ AT(close), .key = { "gaps_below_1e-4" } },
	{ AT(seconds), .key = { "seconds" } },
};
#define N_SVD (sizeof svd_fields / sizeof *svd_fields)

json_t *st_svf_export_svd_json(const struct st_svd_report *r)
{
	return st_json_put_fields(json_object(), svd_fields, N_SVD, r);
}

/* ---- factors ---- */

/* What the factors of a tensor depend on; a composed source also on the span and the numbers of the tensor before. */
static char *work_key(struct st_svf_export_run *x, const struct st_svf_entry *e)
{
	struct st_svf_job *j = &x->job;
	bool composed = st_svf_job_before(j, e) != NULL;
	const char *environment = st_svf_environment_key(&j->arena, j->pool);
	if (!environment)
		return NULL;
	return st_arena_printf(&j->arena, "3|%s|%s|%d|%d|%s|%s|%s", j->base.sha256, e->source_name, (int)x->o->svd,
	                       (int)x->o->model_bf16, environment, composed ? j->vector.sha256_f32 : "",
	                       composed ? j->ref.file_sha256 : "");
}

/* True when an earlier run left these very factors. */
static bool resume(struct st_svf_export_run *x, const struct st_svf_entry *e, const char *path, const char *note,
                   const char *key)
{
	struct st_error unusable = ST_ERROR_INIT; /* then they are computed again */
	struct st_svd_report r;
	json_t *j = st_svf_note_read(note, key, path);
	bool same = j && st_json_read(json_object_get(j, "svd"), NULL, svd_fields, N_SVD, &r, NULL, &unusable) == ST_OK
	         && (r.method = st_arena_printf(&x->job.arena, "%s", r.method)) != NULL;
	if (same)
		x->svd[e->index] = r;
	json_decref(j);
	return same;
}

static enum st_status copy_tensor(struct st_writer *w, const struct st_tensor *t, struct st_error *err)
{
	uint64_t rows = st_tensor_rows(t), cols = st_tensor_cols(t), step = st_svf_step(rows, cols);
	float *x = st_alloc_array2(step, cols ? cols : 1, sizeof *x);
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
	return st_svf_component_specs(e, x->job.layout, &x->job.arena, specs, err);
}

static enum st_status write_components(const char *path, const struct st_tensor *const *from,
                                       const struct st_tensor_spec *specs, size_t n, struct st_error *err)
{
	struct st_writer *w;
	ST_TRY(st_svf_file_open(path, specs, n, &w, err));
	enum st_status st = ST_OK;
	for (size_t i = 0; st == ST_OK && i < n; i++)
		st = copy_tensor(w, from[i], err);
	return st_writer_close(w, st, err);
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
	st_hooks_log(&x->job.hooks, "%s: the factors of %s, which is the same matrix", e->source_name,
	             from->source_name);
	x->svd[e->index] = x->svd[from->index];
	x->svd[e->index].seconds = 0;
	return write_components(path, t, specs, 3, err);
}

static enum st_status decompose(struct st_svf_export_run *x, const struct st_svf_entry *e, const char *path,
                                struct st_error *err)
{
	struct st_svf_work w = { 0 };
	enum st_status st = st_svf_work_source(&x->job, &w, e, NULL, err);
	if (st == ST_OK)
		st = st_svf_decompose(e, w.source, x->o->svd, x->job.pool, path, &x->svd[e->index], &x->job.hooks, err);
	st_svf_work_close(&w);
	return st;
}

/* Of a tensor's factors while the run lasts: the file, or the note beside it. */
static char *work_path(struct st_svf_export_run *x, const struct st_svf_entry *e, const char *suffix)
{
	return st_arena_printf(&x->job.arena, "%s/%s%s", x->work_dir, e->safe, suffix);
}

static enum st_status compute_factors(struct st_svf_export_run *x, const struct st_svf_entry *e, struct st_error *err)
{
	char *path = work_path(x, e, ".safetensors"), *note = work_path(x, e, ".json"), *key = work_key(x, e);
	ST_NEED(path && note && key);
	if (resume(x, e, path, note, key)) {
		st_hooks_log(&x->job.hooks, "%s: factors of an earlier run taken over", e->source_name);
	} else {
		const struct st_svf_entry *from = same_matrix(x, e);
		ST_TRY(from ? take_factors(x, from, e, path, err) : decompose(x, e, path, err));
		ST_TRY(st_svf_note_write(note, key, path,
		                         st_json_object(ST_IS("svd", st_svf_export_svd_json(&x->svd[e->index]))), err));
	}
	return st_container_open(path, &x->job.computed[e->index], err);
}

enum st_status st_svf_export_prepare(struct st_svf_export_run *x, struct st_error *err)
{
	if (x->o->svd_weights) {
		x->job.layout = x->o->layout;
		/* Every tensor is looked at before the first file is written. */
		for (size_t i = 0; i < x->n_list; i++)
			ST_TRY(st_svf_look_at_factors(&x->job, st_svf_export_entry(x, i), err));
		return ST_OK;
	}
	const struct st_lapack *la; /* first: what decomposes is part of what factors depend on */
	ST_TRY(st_lapack_open(&la, err));
	x->work_dir = x->work_path;
	ST_TRY(st_folder_make(x->work_dir, err));
	for (size_t i = 0; i < x->n_list; i++)
		ST_TRY(compute_factors(x, st_svf_export_entry(x, i), err));
	return ST_OK;
}

void st_svf_export_remove_work(struct st_svf_export_run *x)
{
	static const char *const suffixes[] = { ".safetensors", ".json" };
	for (size_t i = 0; x->work_dir && i < 2 * x->n_list; i++) {
		const char *path = work_path(x, st_svf_export_entry(x, i / 2), suffixes[i % 2]);
		if (path)
			unlink(path);
	}
	if (x->work_dir)
		rmdir(x->work_dir);
}

/* ---- component files ---- */

static enum st_status write_scales(struct st_svf_export_run *x, struct st_error *err)
{
	struct st_tensor_spec *specs = st_arena_alloc(&x->job.arena, x->n_list, sizeof *specs);
	struct st_writer *w;
	for (size_t i = 0; specs && i < x->n_list; i++) {
		const struct st_svf_entry *e = st_svf_export_entry(x, i);
		specs[i] = (struct st_tensor_spec){
			st_arena_printf(&x->job.arena, "svf.scale_offsets.%s", e->safe), ST_DTYPE_F32, 1, { e->k }
		};
		if (!specs[i].name)
			specs = NULL;
	}
	ST_NEED(specs);
	ST_TRY(st_svf_file_open(x->scales, specs, x->n_list, &w, err));
	enum st_status st = ST_OK;
	for (size_t i = 0; st == ST_OK && i < x->n_list; i++) {
		const struct st_svf_entry *e = st_svf_export_entry(x, i);
		st = st_writer_append(w, x->job.vector.f32 + e->start, e->k * sizeof(float), err);
	}
	return st_writer_close(w, st, err);
}

enum st_status st_svf_export_components(struct st_svf_export_run *x, struct st_error *err)
{
	struct st_tensor_spec *specs = st_arena_alloc2(&x->job.arena, 3, x->n_list, sizeof *specs);
	const struct st_tensor **from = st_arena_alloc2(&x->job.arena, 3, x->n_list, sizeof *from);
	ST_NEED(specs && from);
	for (size_t i = 0; i < x->n_list; i++) {
		const struct st_svf_entry *e = st_svf_export_entry(x, i);
		ST_TRY(component_specs(x, e, e, from + 3 * i, specs + 3 * i, err));
	}
	ST_TRY(write_components(x->components, from, specs, 3 * x->n_list, err));
	return write_scales(x, err);
}
