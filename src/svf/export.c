/*
 * export.c - the source-of-truth side: factors, offsets, stages and a report of the sample tensor, and of every selected one
 * where that is asked for.
 *
 * Computed factors are kept beside the report, one file per tensor, until the run ends: an interrupted run goes on
 * where it was. Files that others read appear whole, the report last.
 */
#include "svf/svf.h"

#include "base/error.h"
#include "base/outfile.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

struct export {
	const struct st_svf_export_options *o;
	struct st_svf_job job;
	size_t *list, n_list;     /* entries of the reference that components are written for */
	struct st_svf_svd_report *svd; /* [n of the reference]; method NULL where factors were given */
	struct st_container **computed; /* [n]: work files, in place of job.factors while they are made */
	char *work_dir;
	json_t *report, *files, *variants, *components, *warnings;
	char *stage_path, *all_stage_path;
	const char *read_dir;
	struct st_svf_stages *sample_stages;
	uint64_t done, total;
	FILE *text;
	bool matched;
	const char *baseline_label;
	char baseline_hash[65];
};

static const struct st_svf_entry *entry_of(const struct export *x, size_t i) { return &x->job.ref.entries[x->list[i]]; }
static const struct st_svf_entry *sample_of(const struct export *x) { return &x->job.ref.entries[x->job.ref.sample]; }

static void warn(struct export *x, const char *tensor, const char *what)
{
	json_array_append_new(x->warnings, json_sprintf("%s: %s", tensor, what));
	st_svf_log(&x->job.hooks, "warning: %s: %s", tensor, what);
}

/* ---- before anything is read ---- */

static enum st_status check_options(const struct st_svf_export_options *o, struct st_error *err)
{
	if (!o->no_components && !o->write_dir)
		return st_fail_at(err, ST_ERR_USAGE, ST_NO_OFFSET, "--write-components-dir", "is needed, or --no-write-components");
	if (o->no_components && o->all_selected)
		return st_fail_at(err, ST_ERR_USAGE, ST_NO_OFFSET, "--all-selected-tensors", "writes components, which --no-write-components forbids");
	return ST_OK;
}

static enum st_status refuse_cost(const struct export *x, struct st_error *err)
{
	double flops = 0;
	uint64_t bytes = 0;
	if (!x->o->all_selected || x->o->svd_weights || x->o->decompose_all)
		return ST_OK;
	for (size_t i = 0; i < x->job.ref.n; i++) {
		const struct st_svf_entry *e = &x->job.ref.entries[i];
		flops += st_svf_decompose_cost(e);
		bytes += 4 * (e->rows * e->k + e->k + e->cols * e->k);
	}
	return st_fail_at(err, ST_ERR_USAGE, ST_NO_OFFSET, "--all-selected-tensors",
	                  "needs --svd-weights, or --decompose-all-selected-if-missing to compute the factors of %zu tensors: about %.3g Gflop and %.3g MB of components",
	                  x->job.ref.n, flops / 1e9, (double)bytes / 1e6);
}

/* ---- factors ---- */

static char *work_path(struct export *x, const struct st_svf_entry *e, const char *suffix)
{
	return st_arena_printf(&x->job.arena, "%s/%s%s", x->work_dir, e->safe, suffix);
}

/* What the factors of a tensor depend on. */
static char *work_key(struct export *x, const struct st_svf_entry *e)
{
	bool composed = st_svf_job_before(&x->job, e) != NULL;
	return st_arena_printf(&x->job.arena, "1|%s|%s|%d|%d|%d|%s", x->job.base.sha256, e->source_name, (int)x->o->svd, (int)x->o->model_bf16,
	                       x->job.threads, composed ? x->job.vector.sha256_f32 : "");
}

static double real_of(const json_t *o, const char *key) { return json_number_value(json_object_get(o, key)); }

static json_t *svd_json(const struct st_svf_svd_report *r)
{
	json_t *o = json_object();
	st_svf_put(o, "method", st_svf_string(r->method));
	st_svf_put(o, "relative_residual", st_svf_number(r->residual_rel));
	st_svf_put(o, "max_abs_residual", st_svf_number(r->residual_max));
	st_svf_put(o, "u_orthogonality_error", st_svf_number(r->u_error));
	st_svf_put(o, "v_orthogonality_error", st_svf_number(r->v_error));
	st_svf_put(o, "smallest_relative_gap", st_svf_number(r->gap_min));
	st_svf_put(o, "smallest_relative_gap_after", json_integer((json_int_t)r->gap_at));
	st_svf_put(o, "median_relative_gap", st_svf_number(r->gap_median));
	st_svf_put(o, "gaps_below_1e-4", json_integer((json_int_t)r->close));
	st_svf_put(o, "seconds", st_svf_number(r->seconds));
	return o;
}

/* True when an earlier run left these very factors. */
static bool resume(struct export *x, const struct st_svf_entry *e, const char *path, const char *note, const char *key)
{
	json_t *j = NULL;
	struct st_error ignored = ST_ERROR_INIT;
	char hex[65];
	if (access(path, R_OK) != 0 || st_json_load(note, &j, &ignored) != ST_OK || !j)
		return false;
	const char *k = json_string_value(json_object_get(j, "key")), *sha = json_string_value(json_object_get(j, "sha256"));
	bool same = k && sha && strcmp(k, key) == 0 && st_svf_file_sha256(path, hex, &ignored) == ST_OK && strcmp(hex, sha) == 0;
	const json_t *s = json_object_get(j, "svd");
	if (same)
		x->svd[e->index] = (struct st_svf_svd_report){
			.residual_rel = real_of(s, "relative_residual"), .residual_max = real_of(s, "max_abs_residual"),
			.u_error = real_of(s, "u_orthogonality_error"), .v_error = real_of(s, "v_orthogonality_error"),
			.gap_min = real_of(s, "smallest_relative_gap"), .gap_median = real_of(s, "median_relative_gap"),
			.gap_at = (uint64_t)real_of(s, "smallest_relative_gap_after"), .close = (uint64_t)real_of(s, "gaps_below_1e-4"),
			.seconds = real_of(s, "seconds"),
			.method = st_arena_printf(&x->job.arena, "%s", json_string_value(json_object_get(s, "method"))),
		};
	json_decref(j);
	return same;
}

static enum st_status note_factors(const struct st_svf_svd_report *r, const char *path, const char *note, const char *key, struct st_error *err)
{
	char hex[65];
	ST_TRY(st_svf_file_sha256(path, hex, err));
	json_t *j = json_object();
	st_svf_put(j, "key", json_string(key));
	st_svf_put(j, "sha256", json_string(hex));
	st_svf_put(j, "svd", svd_json(r));
	enum st_status st = st_svf_write_json(note, j, err);
	json_decref(j);
	return st;
}

static enum st_status compute_factors(struct export *x, const struct st_svf_entry *e, struct st_error *err)
{
	char *path = work_path(x, e, ".safetensors"), *note = work_path(x, e, ".json"), *key = work_key(x, e);
	struct st_svf_work w = { 0 };
	if (!path || !note || !key)
		return st_fail(err, ST_ERR_NOMEM, "out of memory");
	if (resume(x, e, path, note, key)) {
		st_svf_log(&x->job.hooks, "%s: factors of an earlier run taken over", e->source_name);
		return st_container_open(path, &x->computed[e->index], err);
	}
	/* Composing asks for the factors of the tensor before. */
	const struct st_svf_entry *before = st_svf_job_before(&x->job, e);
	x->job.factors = before ? x->computed[before->index] : NULL;
	enum st_status st = st_svf_work_source(&x->job, &w, e, NULL, err);
	if (st == ST_OK)
		st = st_svf_decompose(e, w.source, x->o->svd, x->job.threads, path, &x->svd[e->index], &x->job.hooks, err);
	st_svf_work_close(&w);
	x->job.factors = NULL;
	if (st == ST_OK)
		st = note_factors(&x->svd[e->index], path, note, key, err);
	if (st == ST_OK)
		st = st_container_open(path, &x->computed[e->index], err);
	return st;
}

static enum st_status prepare_factors(struct export *x, struct st_error *err)
{
	if (x->o->svd_weights) {
		x->job.layout = x->o->layout;
		ST_TRY(st_container_open(x->o->svd_weights, &x->job.factors, err));
		/* Every tensor is looked at before the first file is written. */
		for (size_t i = 0; i < x->n_list; i++) {
			struct st_svf_factors f;
			ST_TRY(st_svf_factors_open(x->job.factors, entry_of(x, i), x->job.layout, &f, err));
			if (!f.descending)
				warn(x, entry_of(x, i)->source_name, "singular values are not in descending order");
			st_svf_factors_close(&f);
		}
		return ST_OK;
	}
	x->work_dir = st_arena_printf(&x->job.arena, "%s.work", x->o->out);
	if (!x->work_dir)
		return st_fail(err, ST_ERR_NOMEM, "out of memory");
	ST_TRY(st_svf_make_dir(x->work_dir, err));
	for (size_t i = 0; i < x->n_list; i++)
		ST_TRY(compute_factors(x, entry_of(x, i), err));
	return ST_OK;
}

static struct st_container *factors_of(const struct export *x, const struct st_svf_entry *e)
{
	return x->job.factors ? x->job.factors : x->computed[e->index];
}

static void remove_work(struct export *x)
{
	for (size_t i = 0; x->work_dir && i < x->n_list; i++) {
		unlink(work_path(x, entry_of(x, i), ".safetensors"));
		unlink(work_path(x, entry_of(x, i), ".json"));
	}
	if (x->work_dir)
		rmdir(x->work_dir);
}

/* ---- component files ---- */

static enum st_status copy_tensor(struct st_writer *w, const struct st_tensor *t, struct st_error *err)
{
	uint64_t rows = st_tensor_rows(t), cols = st_tensor_cols(t), step = cols ? (1u << 20) / cols + 1 : 1;
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

static enum st_status write_components(struct export *x, const char *path, struct st_error *err)
{
	struct st_tensor_spec *specs = st_arena_alloc(&x->job.arena, 3 * x->n_list, sizeof *specs);
	const struct st_tensor **from = st_arena_alloc(&x->job.arena, 3 * x->n_list, sizeof *from);
	if (!specs || !from)
		return st_fail(err, ST_ERR_NOMEM, "out of memory");
	for (size_t i = 0; i < x->n_list; i++) {
		const struct st_svf_entry *e = entry_of(x, i);
		struct st_svf_factors f;
		ST_TRY(st_svf_factors_open(factors_of(x, e), e, x->job.layout, &f, err));
		const struct st_tensor *t[3] = { f.u, f.s_view, f.v_view };
		st_svf_factors_close(&f);
		for (size_t k = 0; k < 3; k++) {
			from[3 * i + k] = t[k];
			specs[3 * i + k] = (struct st_tensor_spec){ st_arena_printf(&x->job.arena, "svd.%c.%s", "USV"[k], e->safe), ST_DTYPE_F32, t[k]->ndim,
			                                            { t[k]->shape[0], t[k]->ndim > 1 ? t[k]->shape[1] : 0 } };
			if (!specs[3 * i + k].name)
				return st_fail(err, ST_ERR_NOMEM, "out of memory");
		}
	}
	const struct st_write_plan plan = { .format = ST_FORMAT_SAFETENSORS, .specs = specs, .n_specs = 3 * x->n_list, .pad_header = true };
	struct st_writer *w;
	ST_TRY(st_writer_open(path, &plan, &w, err));
	enum st_status st = ST_OK;
	for (size_t i = 0; st == ST_OK && i < 3 * x->n_list; i++)
		st = copy_tensor(w, from[i], err);
	return finish_file(w, st, err);
}

static enum st_status write_scales(struct export *x, const char *path, struct st_error *err)
{
	struct st_tensor_spec *specs = st_arena_alloc(&x->job.arena, x->n_list, sizeof *specs);
	if (!specs)
		return st_fail(err, ST_ERR_NOMEM, "out of memory");
	for (size_t i = 0; i < x->n_list; i++) {
		specs[i] = (struct st_tensor_spec){ st_arena_printf(&x->job.arena, "svf.scale_offsets.%s", entry_of(x, i)->safe), ST_DTYPE_F32, 1, { entry_of(x, i)->k } };
		if (!specs[i].name)
			return st_fail(err, ST_ERR_NOMEM, "out of memory");
	}
	const struct st_write_plan plan = { .format = ST_FORMAT_SAFETENSORS, .specs = specs, .n_specs = x->n_list, .pad_header = true };
	struct st_writer *w;
	ST_TRY(st_writer_open(path, &plan, &w, err));
	enum st_status st = ST_OK;
	for (size_t i = 0; st == ST_OK && i < x->n_list; i++)
		st = st_writer_append(w, x->job.vector.f32 + entry_of(x, i)->start, entry_of(x, i)->k * sizeof(float), err);
	return finish_file(w, st, err);
}

static const char *component_source(const struct export *x) { return x->o->svd_weights ? "svd_weights_pt" : "recomputed_torch_svd"; }

/* One element of selected_tensors in the debug manifest and of selected_tensor_components in the report. */
static enum st_status describe(struct export *x, size_t i, json_t **out, struct st_error *err)
{
	const struct st_svf_entry *e = entry_of(x, i);
	struct st_weight w;
	char offsets_hex[65];
	ST_TRY(st_svf_base_find(&x->job.base, e, &w, err));
	ST_TRY(st_sha256_hex(x->job.vector.f32 + e->start, e->k * sizeof(float), offsets_hex, err));
	json_t *o = json_object(), *keys = json_object(), *stages = json_object();
	uint64_t source[2] = { e->rows, e->cols }, u[2] = { e->rows, e->k }, v[2] = { e->cols, e->k };
	if (x->job.layout != ST_SVF_TORCH_V) {
		v[0] = e->k;
		v[1] = e->cols;
	}
	st_svf_put(keys, "u", json_sprintf("svd.U.%s", e->safe));
	st_svf_put(keys, "s", json_sprintf("svd.S.%s", e->safe));
	st_svf_put(keys, "v", json_sprintf("svd.V.%s", e->safe));
	for (size_t s = 0; s < ST_SVF_STAGES; s++)
		st_svf_put(stages, st_svf_stage_names[s], json_sprintf("tensor.%s.%s", e->safe, st_svf_stage_names[s]));
	st_svf_put(o, "index", json_integer((json_int_t)e->index));
	st_svf_put(o, "source_name", json_string(e->source_name));
	st_svf_put(o, "elixir_name", json_string(e->target_name));
	st_svf_put(o, "safe_key", json_string(e->safe));
	st_svf_put(o, "component_source", json_string(component_source(x)));
	st_svf_put(o, "component_v_layout", json_string(st_svf_layout_name(x->job.layout)));
	st_svf_put(o, "component_tensors", keys);
	st_svf_put(o, "scale_tensor", json_sprintf("svf.scale_offsets.%s", e->safe));
	st_svf_put(o, "source_shape", st_svf_shape(source, 2));
	st_svf_put(o, "source_dtype", json_string(st_dtype_info(w.tensor->dtype)->name));
	st_svf_put(o, "u_shape", st_svf_shape(u, 2));
	st_svf_put(o, "s_shape", st_svf_shape(&e->k, 1));
	st_svf_put(o, "v_shape", st_svf_shape(v, 2));
	st_svf_put(o, "offset_start", json_integer((json_int_t)e->start));
	st_svf_put(o, "offset_end", json_integer((json_int_t)e->end));
	st_svf_put(o, "singular_values", json_integer((json_int_t)e->k));
	st_svf_put(o, "stage_final_orientation", json_string("source"));
	st_svf_put(o, "stage_final_shape", st_svf_shape(source, 2));
	st_svf_put(o, "stage_tensors", stages);
	st_svf_put(o, "offsets_sha256", json_string(offsets_hex));
	if (x->svd[e->index].method)
		st_svf_put(o, "svd", svd_json(&x->svd[e->index]));
	*out = o;
	return ST_OK;
}

static enum st_status write_debug_manifest(struct export *x, const char *path, struct st_error *err)
{
	const struct st_svf_entry *e = sample_of(x);
	json_t *m = json_object();
	st_svf_put(m, "schema", json_string(x->o->all_selected ? "trinity_sakana_selected_component_debug.v1" : "trinity_sakana_sample_component_debug.v1"));
	st_svf_put(m, "source_name", json_string(e->source_name));
	st_svf_put(m, "component_source", json_string(component_source(x)));
	st_svf_put(m, "component_v_layout", json_string(st_svf_layout_name(x->job.layout)));
	st_svf_put(m, "baseline_label", json_string(x->baseline_label));
	st_svf_put(m, "baseline_observed_bf16_sha256", json_string(x->baseline_hash));
	st_svf_put(m, "stored_reference_bf16_sha256", json_string(x->job.ref.expected_hash));
	st_svf_put(m, "stored_reference_hash_reproducible", json_boolean(x->matched));
	st_svf_put(m, "svd_weights_path", st_svf_string(x->o->svd_weights));
	st_svf_put(m, "tie_policy", json_string(st_svf_tie_name(x->job.tie)));
	st_svf_put(m, "base_model_sha256", json_string(x->job.base.sha256));
	if (x->o->all_selected) {
		st_svf_put(m, "all_selected_tensors", json_true());
		st_svf_put(m, "decomposed_all_selected_if_missing", json_boolean(x->o->decompose_all));
		st_svf_put(m, "selected_tensor_count", json_integer((json_int_t)x->n_list));
		st_svf_put(m, "selected_tensors", json_incref(x->components));
	}
	enum st_status st = st_svf_write_json(path, m, err);
	json_decref(m);
	return st;
}

/* ---- variants of the sample ---- */

static json_t *variant_json(struct export *x, const struct st_svf_stages *t, const struct st_svf_engine *g, const char *label,
                            const char *source, enum st_svf_layout layout)
{
	json_t *o = json_object();
	uint64_t shape[2] = { 0 };
	const char *hash = t->summary[ST_SVF_FINAL_BF16].sha256;
	bool same = strcmp(hash, x->job.ref.expected_hash) == 0;
	st_svf_stage_shape(t->e, ST_SVF_FINAL_F32, t->turned, shape);
	st_svf_put(o, "label", json_string(label));
	st_svf_put(o, "component_source", json_string(source));
	st_svf_put(o, "v_layout", json_string(st_svf_layout_name(layout)));
	st_svf_put(o, "zero_offset_max_abs_error_vs_source", st_svf_number(g->zero_error));
	st_svf_put(o, "zero_offset_max_abs_error_vs_source_bf16_roundtrip", st_svf_number(g->zero_error_bf16));
	st_svf_put(o, "u_orthogonality_error", st_svf_number(g->u_error));
	st_svf_put(o, "s", st_svf_scale_json(g));
	st_svf_put(o, "final_f32_before_bf16", st_svf_summary_json(&t->summary[ST_SVF_FINAL_F32], shape, 2));
	st_svf_put(o, "final", st_svf_summary_json(&t->summary[ST_SVF_FINAL_BF16], shape, 2));
	st_svf_put(o, "observed_bf16_sha256", json_string(hash));
	st_svf_put(o, "expected_bf16_sha256", json_string(x->job.ref.expected_hash));
	st_svf_put(o, "matches_expected", json_boolean(same));
	x->matched |= same;
	return o;
}

/* Whether V can be read in another layout at all. */
static bool legal(const struct st_svf_entry *e, const struct export *x, enum st_svf_layout l)
{
	return e->k == e->cols || (l == ST_SVF_TORCH_V) == (x->job.layout == ST_SVF_TORCH_V);
}

/* Runs the sample once from job.factors; its stages go to `file` where there is one. */
static enum st_status run_variant(struct export *x, const char *label, const char *source, enum st_svf_layout layout,
                                  struct st_svf_stages *t, struct st_error *err)
{
	const struct st_svf_entry *e = sample_of(x);
	struct st_svf_work w;
	char why[200];
	enum st_svf_layout kept = x->job.layout;
	if (!legal(e, x, layout))
		return ST_OK;
	x->job.layout = layout;
	enum st_status st = st_svf_work_open(&x->job, &w, e, layout, NULL, err);
	x->job.layout = kept;
	ST_TRY(st);
	t->e = e;
	t->turned = e->turned;
	t->summaries = true;
	t->winner = w.other_open && st_svf_job_after(&x->job, e) ? &w.other : NULL;
	st = st_svf_stages_run(t, &w.engine, err);
	if (st == ST_OK) {
		fprintf(x->text, "%s: %s zero-offset error %.3g\n", label, t->summary[ST_SVF_FINAL_BF16].sha256, w.engine.zero_error);
		if (layout == kept && !st_svf_zero_test(&w.engine, why, sizeof why))
			warn(x, e->source_name, why);
		if (layout == kept && w.engine.u_error > 1e-3) {
			snprintf(why, sizeof why, "U is %.3g away from orthonormal", w.engine.u_error);
			warn(x, e->source_name, why);
		}
		json_array_append_new(x->variants, variant_json(x, t, &w.engine, label, source, layout));
		/* Readback counts for most, then given factors. */
		if (layout == kept) {
			x->baseline_label = label;
			memcpy(x->baseline_hash, t->summary[ST_SVF_FINAL_BF16].sha256, sizeof x->baseline_hash);
		}
	}
	st_svf_work_close(&w);
	return st;
}

static enum st_status variants_in_hand(struct export *x, struct st_error *err)
{
	struct st_container *kept = x->job.factors;
	struct st_svf_stages t = { 0 };
	const char *source = component_source(x);
	x->job.factors = factors_of(x, sample_of(x));
	enum st_status st = run_variant(x, kept ? "python_svd_weights_torch_v_final_bf16" : "python_recomputed_torch_svd_v_final_bf16", source,
	                                kept ? x->job.layout : ST_SVF_TORCH_V, &t, err);
	if (st == ST_OK && kept) {
		memset(&t, 0, sizeof t);
		st = run_variant(x, "python_svd_weights_vh_final_bf16", source, x->job.layout == ST_SVF_TORCH_V ? ST_SVF_VH : ST_SVF_TORCH_V, &t, err);
	}
	x->job.factors = kept;
	return st;
}

/* ---- stages ---- */

static enum st_status open_stage_file(struct export *x, const char *path, const struct st_svf_entry *const *list, size_t n, bool sample,
                                      struct st_svf_file **f, struct st_error *err)
{
	size_t per = x->o->digest ? 3 : ST_SVF_STAGES;
	struct st_tensor_spec *specs = st_arena_alloc(&x->job.arena, per * n, sizeof *specs);
	if (!specs)
		return st_fail(err, ST_ERR_NOMEM, "out of memory");
	for (size_t i = 0; i < n; i++) {
		struct st_tensor_spec ten[ST_SVF_STAGES];
		const char *prefix = sample ? "stage." : st_arena_printf(&x->job.arena, "tensor.%s.", list[i]->safe);
		if (!prefix)
			return st_fail(err, ST_ERR_NOMEM, "out of memory");
		ST_TRY(st_svf_stage_specs(list[i], sample && list[i]->turned, prefix, &x->job.arena, ten, err));
		memcpy(specs + per * i, ten + (x->o->digest ? ST_SVF_OFFSETS : 0), per * sizeof *specs);
	}
	return st_svf_file_open(path, specs, per * n, f, err);
}

static enum st_status readback_sample(struct export *x, struct st_error *err)
{
	struct st_svf_stages *t = x->sample_stages;
	const struct st_svf_entry *e = sample_of(x);
	struct st_svf_file *f = NULL;
	if (!x->o->no_stages) {
		x->stage_path = st_svf_path(&x->job.arena, x->read_dir, ST_SVF_STAGE_FILE);
		if (!x->stage_path)
			return st_fail(err, ST_ERR_NOMEM, "out of memory");
		ST_TRY(open_stage_file(x, x->stage_path, &e, 1, true, &f, err));
	}
	t->file = f;
	t->small_only = x->o->digest;
	enum st_status st = run_variant(x, "python_safetensors_readback_torch_v_final_bf16", "safetensors_readback", x->job.layout, t, err);
	t->file = NULL;
	if (st == ST_OK && f)
		return st_svf_file_commit(f, err);
	st_svf_file_abort(f);
	return st;
}

static enum st_status all_stages(struct export *x, json_t *digests, struct st_error *err)
{
	const struct st_svf_entry **list = st_arena_alloc(&x->job.arena, x->n_list, sizeof *list);
	struct st_svf_file *f;
	x->all_stage_path = st_svf_path(&x->job.arena, x->read_dir, ST_SVF_ALL_STAGE_FILE);
	if (!list || !x->all_stage_path)
		return st_fail(err, ST_ERR_NOMEM, "out of memory");
	for (size_t i = 0; i < x->n_list; i++) {
		list[i] = entry_of(x, i);
		x->total += list[i]->rows;
	}
	ST_TRY(open_stage_file(x, x->all_stage_path, list, x->n_list, false, &f, err));
	enum st_status st = ST_OK;
	for (size_t i = 0; st == ST_OK && i < x->n_list; i++) {
		struct st_svf_work w;
		char why[200];
		struct st_svf_stages t = { .e = list[i], .file = f, .first = i * (x->o->digest ? 3 : ST_SVF_STAGES), .small_only = x->o->digest,
		                           .summaries = true, .hooks = &x->job.hooks, .done = &x->done, .total = x->total };
		st = st_svf_work_open(&x->job, &w, list[i], x->job.layout, NULL, err);
		if (st != ST_OK)
			break;
		t.winner = st_svf_job_after(&x->job, list[i]) ? &w.other : NULL;
		st = st_svf_stages_run(&t, &w.engine, err);
		if (st == ST_OK) {
			if (!st_svf_zero_test(&w.engine, why, sizeof why))
				warn(x, list[i]->source_name, why);
			st_svf_put(digests, list[i]->safe, st_svf_stages_digests(&t));
			json_t *c = json_array_get(x->components, i);
			st_svf_put(c, "source_sha256_as_f32", json_string(t.summary[ST_SVF_SOURCE].sha256));
			st_svf_put(c, "zero_offset_max_abs_error_vs_source", st_svf_number(w.engine.zero_error));
			st_svf_put(c, "u_orthogonality_error", st_svf_number(w.engine.u_error));
			st_svf_put(c, "final_bf16_sha256", json_string(t.summary[ST_SVF_FINAL_BF16].sha256));
		}
		st_svf_work_close(&w);
	}
	if (st == ST_OK)
		return st_svf_file_commit(f, err);
	st_svf_file_abort(f);
	return st;
}

/* ---- the report ---- */

static enum st_status bundle_summary(struct export *x, struct st_container *c, json_t **out, struct st_error *err)
{
	const struct st_svf_entry *e = sample_of(x);
	struct st_svf_factors f;
	struct st_svf_summary s;
	ST_TRY(st_svf_factors_open(c, e, x->job.layout, &f, err));
	st_svf_factors_close(&f);
	json_t *o = json_object();
	const struct { const char *key; const struct st_tensor *t; size_t prefix; } parts[] = { { "u", f.u, 4 }, { "s", f.s_view, 16 }, { "v", f.v_view, 4 } };
	enum st_status st = ST_OK;
	for (size_t i = 0; st == ST_OK && i < 3; i++) {
		st = st_svf_summary_of(parts[i].t, parts[i].prefix, &s, err);
		if (st == ST_OK)
			st_svf_put(o, parts[i].key, st_svf_summary_json(&s, parts[i].t->shape, parts[i].t->ndim));
	}
	if (st == ST_OK)
		st = st_svf_summary_begin(&s, 16, true, err);
	if (st == ST_OK) {
		st_svf_summary_f32(&s, x->job.vector.f32 + e->start, e->k);
		st_svf_summary_end(&s);
		st_svf_put(o, "offsets", st_svf_summary_json(&s, &e->k, 1));
		st_svf_put(x->report, "scale_offsets", st_svf_summary_json(&s, &e->k, 1));
	}
	if (st != ST_OK) {
		json_decref(o);
		return st;
	}
	*out = o;
	return ST_OK;
}

static json_t *reference_json(const struct export *x)
{
	const struct st_svf_entry *e = sample_of(x);
	uint64_t source[2] = { e->rows, e->cols }, final[2];
	json_t *o = json_object();
	st_svf_stage_shape(e, ST_SVF_FINAL_F32, e->turned, final);
	st_svf_put(o, "path", json_string(x->o->reference));
	st_svf_put(o, "source_name", json_string(e->source_name));
	st_svf_put(o, "elixir_name", json_string(e->target_name));
	st_svf_put(o, "source_shape", st_svf_shape(source, 2));
	st_svf_put(o, "sample_reconstructed_shape", st_svf_shape(final, 2));
	st_svf_put(o, "expected_bf16_sha256", json_string(x->job.ref.expected_hash));
	st_svf_put(o, "expected_hash_reproducible", json_boolean(x->matched));
	st_svf_put(o, "current_python_baseline_label", json_string(x->baseline_label));
	st_svf_put(o, "current_python_baseline_bf16_sha256", json_string(x->baseline_hash));
	st_svf_put(o, "diagnosis", json_string(x->matched ? "the stored reference hash was reproduced here" :
	           "the stored reference hash was not reproduced: it needs the factors it was made with; compare against the current baseline"));
	return o;
}

static json_t *inputs_json(const struct export *x, const struct st_tensor *source)
{
	json_t *o = json_object();
	st_svf_put(o, "model_name", json_string(x->o->model));
	st_svf_put(o, "model_torch_dtype_arg", json_string(x->o->model_bf16 ? "bfloat16" : "float32"));
	st_svf_put(o, "source_tensor_dtype", json_string(st_dtype_info(source->dtype)->name));
	st_svf_put(o, "router_vector", json_string(x->o->vector));
	st_svf_put(o, "router_vector_sha256", json_string(x->job.vector.file_sha256));
	st_svf_put(o, "router_vector_sha256_as_f32", json_string(x->job.vector.sha256_f32));
	st_svf_put(o, "router_vector_dtype_after_load", json_string(x->o->vector_f64 ? "float64" : "float32"));
	st_svf_put(o, "svd_weights", st_svf_string(x->o->svd_weights));
	st_svf_put(o, "write_components_dir", st_svf_string(x->o->no_components ? NULL : x->o->write_dir));
	st_svf_put(o, "component_source_written", st_svf_string(x->o->no_components ? NULL : component_source(x)));
	st_svf_put(o, "all_selected_tensors_written", json_boolean(x->o->all_selected));
	st_svf_put(o, "readback_components_dir", st_svf_string(x->read_dir));
	st_svf_put(o, "stage_tensor_file", st_svf_string(x->stage_path));
	st_svf_put(o, "all_selected_stage_tensor_file", st_svf_string(x->all_stage_path));
	return o;
}

static json_t *stage_debug_json(const struct export *x, json_t *digests)
{
	json_t *o = json_object(), *keys = json_array(), *all = json_array();
	for (size_t s = 0; x->stage_path && s < ST_SVF_STAGES; s++)
		json_array_append_new(keys, json_sprintf("stage.%s", st_svf_stage_names[s]));
	for (size_t i = 0; x->all_stage_path && i < x->n_list; i++)
		for (size_t s = 0; s < ST_SVF_STAGES; s++)
			json_array_append_new(all, json_sprintf("tensor.%s.%s", entry_of(x, i)->safe, st_svf_stage_names[s]));
	st_svf_put(o, "schema", json_string("trinity_sakana_stage_debug.v1"));
	st_svf_put(o, "baseline_label", json_string(x->baseline_label));
	st_svf_put(o, "stage_tensor_file", st_svf_string(x->stage_path));
	st_svf_put(o, "all_selected_stage_tensor_file", st_svf_string(x->all_stage_path));
	st_svf_put(o, "stage_keys", keys);
	st_svf_put(o, "all_selected_stage_keys", all);
	st_svf_put(o, "stage_storage", json_string(x->o->digest ? "digest" : "full"));
	st_svf_put(o, "digests", json_incref(digests));
	return o;
}

static json_t *selected_stage_debug(const struct export *x)
{
	static const char *const keys[] = { "index", "source_name", "elixir_name", "safe_key", "offset_start", "offset_end", "stage_final_orientation",
	                                    "stage_final_shape", "stage_tensors" };
	json_t *list = json_array();
	for (size_t i = 0; i < json_array_size(x->components); i++) {
		const json_t *c = json_array_get(x->components, i);
		json_t *o = json_object();
		for (size_t k = 0; k < sizeof keys / sizeof *keys; k++)
			st_svf_put(o, keys[k], json_incref(json_object_get(c, keys[k])));
		json_array_append_new(list, o);
	}
	return list;
}

static enum st_status source_summaries(struct export *x, struct st_error *err)
{
	const struct st_svf_entry *e = sample_of(x);
	struct st_weight w;
	struct st_svf_summary s;
	uint64_t shape[2] = { e->rows, e->cols };
	ST_TRY(st_svf_base_find(&x->job.base, e, &w, err));
	ST_TRY(st_svf_summary_of(w.tensor, 16, &s, err));
	json_t *stored = st_svf_summary_json(&s, shape, 2);
	char hex[65];
	/* The digest over the bytes as stored, where stored numbers are what a program loads. */
	if (w.tensor->layout == ST_LAYOUT_ROWS && w.tensor->n_bytes == e->rows * w.tensor->row_bytes &&
	    st_sha256_hex(w.tensor->data, w.tensor->n_bytes, hex, err) == ST_OK)
		st_svf_put(stored, "sha256", json_string(hex));
	st_svf_put(stored, "dtype", json_string(w.tensor->dtype == ST_DTYPE_BF16 ? "bfloat16" : w.tensor->dtype == ST_DTYPE_F32 ? "float32" : st_dtype_info(w.tensor->dtype)->name));
	st_svf_put(x->report, "source_tensor", stored);
	st_svf_put(x->report, "source_tensor_f32_svd_input", st_svf_summary_json(&s, shape, 2));
	return ST_OK;
}

static enum st_status list_files(struct export *x, struct st_error *err)
{
	const char *dir = x->o->no_components ? NULL : x->o->write_dir;
	ST_TRY(st_svf_add_file(x->files, "reference", x->o->reference, err));
	ST_TRY(st_svf_add_file(x->files, "router_vector", x->o->vector, err));
	if (x->o->svd_weights)
		ST_TRY(st_svf_add_file(x->files, "svd_weights", x->o->svd_weights, err));
	if (dir) {
		ST_TRY(st_svf_add_file(x->files, "components", st_svf_path(&x->job.arena, dir, ST_SVF_COMPONENTS), err));
		ST_TRY(st_svf_add_file(x->files, "scale_offsets", st_svf_path(&x->job.arena, dir, ST_SVF_SCALES), err));
		ST_TRY(st_svf_add_file(x->files, "debug_manifest", st_svf_path(&x->job.arena, dir, ST_SVF_DEBUG_MANIFEST), err));
	}
	if (x->stage_path)
		ST_TRY(st_svf_add_file(x->files, "stages", x->stage_path, err));
	if (x->all_stage_path)
		ST_TRY(st_svf_add_file(x->files, "all_selected_stages", x->all_stage_path, err));
	return ST_OK;
}

static enum st_status make_report(struct export *x, json_t *digests, struct st_error *err)
{
	struct st_weight w;
	bool *covered = st_arena_alloc(&x->job.arena, x->job.ref.n, sizeof *covered);
	if (!covered)
		return st_fail(err, ST_ERR_NOMEM, "out of memory");
	for (size_t i = 0; (x->stage_path || x->all_stage_path) && i < x->n_list; i++)
		covered[x->list[i]] = true;
	ST_TRY(st_svf_base_find(&x->job.base, sample_of(x), &w, err));
	ST_TRY(source_summaries(x, err));
	ST_TRY(list_files(x, err));
	st_svf_put(x->report, "schema", json_string("trinity_sakana_python_svd_parity_trace.v2"));
	st_svf_put(x->report, "generated_at_utc", st_svf_now());
	st_svf_put(x->report, "reference", reference_json(x));
	st_svf_put(x->report, "inputs", inputs_json(x, w.tensor));
	st_svf_put(x->report, "selected_tensor_components", x->o->all_selected ? json_incref(x->components) : json_array());
	st_svf_put(x->report, "selected_tensor_stage_debug", x->o->all_selected ? selected_stage_debug(x) : json_array());
	st_svf_put(x->report, "stage_debug", stage_debug_json(x, digests));
	st_svf_put(x->report, "variants", json_incref(x->variants));
	const char *method = x->svd[x->job.ref.sample].method;
	st_svf_put(x->report, "environment", st_svf_environment(x->job.threads, method));
	st_svf_put(x->report, "base_model_sha256", json_string(x->job.base.sha256));
	st_svf_put(x->report, "files", json_incref(x->files));
	st_svf_put(x->report, "tie_policy", json_string(st_svf_tie_name(x->job.tie)));
	st_svf_put(x->report, "coverage", st_svf_coverage(&x->job.ref, covered));
	st_svf_put(x->report, "warnings", json_incref(x->warnings));
	if (method)
		st_svf_put(x->report, "svd", svd_json(&x->svd[x->job.ref.sample]));
	return st_svf_write_json(x->o->out, x->report, err);
}

/* ---- the run ---- */

static enum st_status choose(struct export *x, struct st_error *err)
{
	x->n_list = x->o->all_selected ? x->job.ref.n : 1;
	x->list = st_arena_alloc(&x->job.arena, x->n_list, sizeof *x->list);
	x->svd = st_arena_alloc(&x->job.arena, x->job.ref.n, sizeof *x->svd);
	x->computed = st_arena_alloc(&x->job.arena, x->job.ref.n, sizeof(struct st_container *));
	x->sample_stages = st_arena_alloc(&x->job.arena, 1, sizeof *x->sample_stages);
	if (!x->list || !x->svd || !x->computed || !x->sample_stages)
		return st_fail(err, ST_ERR_NOMEM, "out of memory");
	for (size_t i = 0; i < x->n_list; i++)
		x->list[i] = x->o->all_selected ? i : x->job.ref.sample;
	if (!x->o->all_selected && (st_svf_job_before(&x->job, sample_of(x)) || st_svf_job_after(&x->job, sample_of(x))))
		return st_fail_at(err, ST_ERR_USAGE, ST_NO_OFFSET, "--tie", "%s needs the tied tensor too: --all-selected-tensors", st_svf_tie_name(x->job.tie));
	return ST_OK;
}

static enum st_status run(struct export *x, json_t *digests, struct st_error *err)
{
	const struct st_svf_export_options *o = x->o;
	const char *dir = o->no_components ? NULL : o->write_dir;
	ST_TRY(check_options(o, err));
	/* The reference says what would be computed: refused before a gigabyte is hashed. */
	ST_TRY(st_svf_job_open(&x->job, o->vector, o->reference, NULL, false, err));
	ST_TRY(refuse_cost(x, err));
	st_svf_job_close(&x->job);
	ST_TRY(st_svf_job_open(&x->job, o->vector, o->reference, o->model, o->model_bf16, err));
	ST_TRY(choose(x, err));
	ST_TRY(prepare_factors(x, err));
	for (size_t i = 0; i < x->n_list; i++) {
		json_t *c;
		ST_TRY(describe(x, i, &c, err));
		json_array_append_new(x->components, c);
	}
	ST_TRY(variants_in_hand(x, err));
	json_t *before = NULL, *after = NULL;
	ST_TRY(bundle_summary(x, factors_of(x, sample_of(x)), &before, err));
	st_svf_put(x->report, "component_bundle_before_write", before);
	if (dir) {
		ST_TRY(st_svf_make_dir(dir, err));
		ST_TRY(write_components(x, st_svf_path(&x->job.arena, dir, ST_SVF_COMPONENTS), err));
		ST_TRY(write_scales(x, st_svf_path(&x->job.arena, dir, ST_SVF_SCALES), err));
	}
	x->read_dir = o->readback_dir ? o->readback_dir : dir;
	if (x->read_dir) {
		/* What others will read is what the stages are computed from. */
		st_container_close(x->job.factors);
		x->job.factors = NULL;
		if (!dir || x->read_dir != dir)
			ST_TRY(st_svf_components_layout(x->read_dir, &x->job.layout, NULL, err));
		ST_TRY(st_container_open(st_svf_path(&x->job.arena, x->read_dir, ST_SVF_COMPONENTS), &x->job.factors, err));
		ST_TRY(bundle_summary(x, x->job.factors, &after, err));
		ST_TRY(readback_sample(x, err));
		if (x->o->all_selected && !o->no_stages)
			ST_TRY(all_stages(x, digests, err));
		st_svf_put(digests, "sample", st_svf_stages_digests(x->sample_stages));
	}
	st_svf_put(x->report, "component_bundle_readback", after ? after : json_null());
	if (dir)
		ST_TRY(write_debug_manifest(x, st_svf_path(&x->job.arena, dir, ST_SVF_DEBUG_MANIFEST), err));
	return make_report(x, digests, err);
}

enum st_status st_svf_export(const struct st_svf_export_options *o, struct st_svf_result *r, struct st_error *err)
{
	struct export x = { .o = o, .job = { .tie = o->tie, .chunk = o->chunk_rows, .threads = o->threads, .hooks = o->hooks },
	                    .report = json_object(), .files = json_array(), .variants = json_array(), .components = json_array(),
	                    .warnings = json_array() };
	json_t *digests = json_object();
	size_t len = 0;
	memset(r, 0, sizeof *r);
	x.text = open_memstream(&r->text, &len);
	enum st_status st = x.text && x.report && x.files && x.variants && x.components && x.warnings && digests
	                    ? ST_OK : st_fail(err, ST_ERR_NOMEM, "out of memory");
	if (st == ST_OK)
		st = run(&x, digests, err);
	if (st == ST_OK) {
		fprintf(x.text, "stored reference hash: %s, %s\n", x.job.ref.expected_hash, x.matched ? "reproduced" : "not reproduced");
		for (size_t i = 0; i < json_array_size(x.warnings); i++)
			fprintf(x.text, "warning: %s\n", json_string_value(json_array_get(x.warnings, i)));
		fprintf(x.text, "wrote %s\n", o->out);
		remove_work(&x);
		r->exit_status = o->strict_hash && !x.matched;
		r->json = json_dumps(x.report, JSON_INDENT(2) | JSON_SORT_KEYS);
		if (!r->json)
			st = st_fail(err, ST_ERR_NOMEM, "out of memory");
	}
	if (st != ST_OK && x.work_dir)
		rmdir(x.work_dir); /* it stays where it holds factors for the next run */
	for (size_t i = 0; x.computed && i < x.job.ref.n; i++)
		st_container_close(x.computed[i]);
	st_svf_job_close(&x.job);
	json_t *all[] = { x.report, x.files, x.variants, x.components, x.warnings, digests };
	for (size_t i = 0; i < sizeof all / sizeof *all; i++)
		json_decref(all[i]);
	if (x.text && fclose(x.text) != 0 && st == ST_OK)
		st = st_fail(err, ST_ERR_NOMEM, "out of memory");
	if (st != ST_OK)
		st_svf_result_release(r);
	return st;
}
