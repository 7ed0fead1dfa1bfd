/*
 * export.c - the source-of-truth side: factors, offsets, stages and a report of the sample tensor, and of every
 * selected one where that is asked for.
 *
 * Computed factors are kept beside the report, one file per tensor, until the run ends: an interrupted run goes on
 * where it was. Files that others read appear whole, the report last.
 */
#include "svf/export.h"

#include "base/error.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* ---- before anything is read ---- */

static enum st_status check_options(const struct st_svf_export_options *o, struct st_error *err)
{
	if (!o->no_components && !o->write_dir)
		return st_fail_at(err, ST_ERR_USAGE, ST_NO_OFFSET, "--write-components-dir",
		                  "is needed, or --no-write-components");
	if (o->no_components && o->all_selected)
		return st_fail_at(err, ST_ERR_USAGE, ST_NO_OFFSET, "--all-selected-tensors",
		                  "writes components, which --no-write-components forbids");
	return ST_OK;
}

static enum st_status refuse_cost(const struct st_svf_export_run *x, struct st_error *err)
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
	                  "needs --svd-weights, or --decompose-all-selected-if-missing to compute the factors of %zu "
	                  "tensors: about %.3g Gflop and %.3g MB of components",
	                  x->job.ref.n, flops / 1e9, (double)bytes / 1e6);
}

/* ---- variants of the sample ---- */

static json_t *variant_json(struct st_svf_export_run *x, const struct st_svf_stages *t, const struct st_svf_engine *g,
                            const char *label, const char *source, enum st_svf_layout layout)
{
	json_t *o = json_object();
	uint64_t shape[2] = { 0 };
	const char *hash = t->summary[ST_SVF_FINAL_BF16].sha256;
	bool same = strcmp(hash, x->job.ref.expected_hash) == 0;
	st_svf_stage_shape(t->e, ST_SVF_FINAL_F32, t->turned, shape);
	st_json_put(o, "label", st_json_text(label));
	st_json_put(o, "component_source", st_json_text(source));
	st_json_put(o, "v_layout", st_json_text(st_svf_layout_name(layout)));
	st_json_put(o, "zero_offset_max_abs_error_vs_source", st_json_number(g->zero_error));
	st_json_put(o, "zero_offset_max_abs_error_vs_source_bf16_roundtrip", st_json_number(g->zero_error_bf16));
	st_json_put(o, "u_orthogonality_error", st_json_number(g->u_error));
	st_json_put(o, "s", st_svf_scale_json(g));
	st_json_put(o, "final_f32_before_bf16", st_svf_summary_json(&t->summary[ST_SVF_FINAL_F32], shape, 2));
	st_json_put(o, "final", st_svf_summary_json(&t->summary[ST_SVF_FINAL_BF16], shape, 2));
	st_json_put(o, "observed_bf16_sha256", st_json_text(hash));
	st_json_put(o, "expected_bf16_sha256", st_json_text(x->job.ref.expected_hash));
	st_json_put(o, "matches_expected", json_boolean(same));
	x->matched |= same;
	return o;
}

/* Whether V can be read in another layout at all. */
static bool legal(const struct st_svf_entry *e, const struct st_svf_export_run *x, enum st_svf_layout l)
{
	return e->k == e->cols || (l == ST_SVF_TORCH_V) == (x->job.layout == ST_SVF_TORCH_V);
}

/* Runs the sample once from the factors at hand; its stages go to `file` where there is one. */
static enum st_status run_variant(struct st_svf_export_run *x, const char *label, const char *source,
                                  enum st_svf_layout layout, struct st_svf_stages *t, struct st_error *err)
{
	const struct st_svf_entry *e = st_svf_export_sample(x);
	struct st_svf_work w;
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
		fprintf(x->text, "%s: %s zero-offset error %.3g\n", label, t->summary[ST_SVF_FINAL_BF16].sha256,
		        w.engine.zero_error);
		if (layout == kept)
			st_svf_work_warnings(&w, x->warnings, &x->job.hooks);
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

static enum st_status variants_in_hand(struct st_svf_export_run *x, struct st_error *err)
{
	struct st_svf_stages t = { 0 };
	const char *source = st_svf_export_component_source(x);
	enum st_svf_layout layout = x->job.layout; /* torch_v where they were computed */
	if (!x->job.factors)
		return run_variant(x, "python_recomputed_torch_svd_v_final_bf16", source, layout, &t, err);
	ST_TRY(run_variant(x, "python_svd_weights_torch_v_final_bf16", source, layout, &t, err));
	memset(&t, 0, sizeof t);
	return run_variant(x, "python_svd_weights_vh_final_bf16", source,
	                   layout == ST_SVF_TORCH_V ? ST_SVF_VH : ST_SVF_TORCH_V, &t, err);
}

/* ---- stages ---- */

static enum st_status open_stage_file(struct st_svf_export_run *x, const char *path,
                                      const struct st_svf_entry *const *list, size_t n, bool sample,
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

static enum st_status readback_sample(struct st_svf_export_run *x, struct st_error *err)
{
	struct st_svf_stages *t = x->sample_stages;
	const struct st_svf_entry *e = st_svf_export_sample(x);
	struct st_svf_file *f = NULL;
	if (!x->o->no_stages) {
		x->stage_path = st_svf_path(&x->job.arena, x->read_dir, ST_SVF_STAGE_FILE);
		if (!x->stage_path)
			return st_fail(err, ST_ERR_NOMEM, "out of memory");
		ST_TRY(open_stage_file(x, x->stage_path, &e, 1, true, &f, err));
	}
	t->file = f;
	t->small_only = x->o->digest;
	enum st_status st = run_variant(x, "python_safetensors_readback_torch_v_final_bf16", "safetensors_readback",
	                                x->job.layout, t, err);
	t->file = NULL;
	if (st == ST_OK && f)
		return st_svf_file_commit(f, err);
	st_svf_file_abort(f);
	return st;
}

static enum st_status all_stages(struct st_svf_export_run *x, json_t *digests, struct st_error *err)
{
	const struct st_svf_entry **list = st_arena_alloc(&x->job.arena, x->n_list, sizeof *list);
	struct st_svf_file *f;
	x->all_stage_path = st_svf_path(&x->job.arena, x->read_dir, ST_SVF_ALL_STAGE_FILE);
	if (!list || !x->all_stage_path)
		return st_fail(err, ST_ERR_NOMEM, "out of memory");
	for (size_t i = 0; i < x->n_list; i++) {
		list[i] = st_svf_export_entry(x, i);
		x->total += list[i]->rows;
	}
	ST_TRY(open_stage_file(x, x->all_stage_path, list, x->n_list, false, &f, err));
	enum st_status st = ST_OK;
	for (size_t i = 0; st == ST_OK && i < x->n_list; i++) {
		struct st_svf_work w;
		struct st_svf_stages t = { .e = list[i],
			                   .file = f,
			                   .first = i * (x->o->digest ? 3 : ST_SVF_STAGES),
			                   .small_only = x->o->digest,
			                   .summaries = true,
			                   .hooks = &x->job.hooks,
			                   .done = &x->done,
			                   .total = x->total };
		st = st_svf_work_open(&x->job, &w, list[i], x->job.layout, NULL, err);
		if (st != ST_OK)
			break;
		t.winner = st_svf_job_after(&x->job, list[i]) ? &w.other : NULL;
		st = st_svf_stages_run(&t, &w.engine, err);
		if (st == ST_OK) {
			st_svf_work_warnings(&w, x->warnings, &x->job.hooks);
			st_json_put(digests, list[i]->safe, st_svf_stages_digests(&t));
			json_t *c = json_array_get(x->components, i);
			st_json_put(c, "source_sha256_as_f32", st_json_text(t.summary[ST_SVF_SOURCE].sha256));
			st_json_put(c, "zero_offset_max_abs_error_vs_source", st_json_number(w.engine.zero_error));
			st_json_put(c, "u_orthogonality_error", st_json_number(w.engine.u_error));
			st_json_put(c, "final_bf16_sha256", st_json_text(t.summary[ST_SVF_FINAL_BF16].sha256));
		}
		st_svf_work_close(&w);
	}
	if (st == ST_OK)
		return st_svf_file_commit(f, err);
	st_svf_file_abort(f);
	return st;
}

/* ---- the run ---- */

static enum st_status choose(struct st_svf_export_run *x, struct st_error *err)
{
	x->n_list = x->o->all_selected ? x->job.ref.n : 1;
	x->list = st_arena_alloc(&x->job.arena, x->n_list, sizeof *x->list);
	x->svd = st_arena_alloc(&x->job.arena, x->job.ref.n, sizeof *x->svd);
	x->job.computed = st_arena_alloc(&x->job.arena, x->job.ref.n, sizeof(struct st_container *));
	x->sample_stages = st_arena_alloc(&x->job.arena, 1, sizeof *x->sample_stages);
	if (!x->list || !x->svd || !x->job.computed || !x->sample_stages)
		return st_fail(err, ST_ERR_NOMEM, "out of memory");
	for (size_t i = 0; i < x->n_list; i++)
		x->list[i] = x->o->all_selected ? i : x->job.ref.sample;
	if (!x->o->all_selected
	    && (st_svf_job_before(&x->job, st_svf_export_sample(x))
	        || st_svf_job_after(&x->job, st_svf_export_sample(x))))
		return st_fail_at(err, ST_ERR_USAGE, ST_NO_OFFSET, "--tie",
		                  "%s needs the tied tensor too: --all-selected-tensors", st_svf_tie_name(x->job.tie));
	return ST_OK;
}

/* Opens what is left of the inputs; nothing that will be written may be one. */
static enum st_status keep_inputs(struct st_svf_export_run *x, const char *dir, struct st_error *err)
{
	static const char *const written[] = { ST_SVF_COMPONENTS, ST_SVF_SCALES, ST_SVF_DEBUG_MANIFEST };
	static const char *const stages[] = { ST_SVF_STAGE_FILE, ST_SVF_ALL_STAGE_FILE };
	const struct st_svf_export_options *o = x->o;
	struct st_arena *a = &x->job.arena;
	x->work_path = st_arena_printf(a, "%s.work", o->out);
	x->read_dir = o->readback_dir ? o->readback_dir : dir;
	if (o->svd_weights)
		ST_TRY(st_container_open(o->svd_weights, &x->job.factors, err));
	ST_TRY(st_svf_job_keep(&x->job, o->out, err));
	if (!o->svd_weights)
		ST_TRY(st_svf_job_keep(&x->job, x->work_path, err));
	for (size_t i = 0; dir && i < 3; i++)
		ST_TRY(st_svf_job_keep(&x->job, st_svf_path(a, dir, written[i]), err));
	for (size_t i = 0; x->read_dir && i < 2; i++)
		ST_TRY(st_svf_job_keep(&x->job, st_svf_path(a, x->read_dir, stages[i]), err));
	/* What is read back is an input to the report, whoever wrote it. */
	for (size_t i = 0; x->read_dir && i < 3; i++)
		ST_TRY(st_svf_keep(o->out, st_svf_path(a, x->read_dir, written[i]), err));
	return ST_OK;
}

static enum st_status run(struct st_svf_export_run *x, json_t *digests, struct st_error *err)
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
	ST_TRY(keep_inputs(x, dir, err));
	ST_TRY(st_svf_export_prepare(x, err));
	ST_TRY(st_svf_export_sources(x, err));
	for (size_t i = 0; i < x->n_list; i++) {
		json_t *c;
		ST_TRY(st_svf_export_describe(x, i, &c, err));
		json_array_append_new(x->components, c);
	}
	ST_TRY(variants_in_hand(x, err));
	json_t *bundle = NULL;
	ST_TRY(st_svf_export_bundle(x, st_svf_job_factors(&x->job, st_svf_export_sample(x)), &bundle, err));
	st_json_put(x->report, "component_bundle_before_write", bundle);
	st_json_put(x->report, "component_bundle_readback", json_null());
	if (dir) {
		ST_TRY(st_svf_make_dir(dir, err));
		ST_TRY(st_svf_export_components(x, st_svf_path(&x->job.arena, dir, ST_SVF_COMPONENTS), err));
		ST_TRY(st_svf_export_scales(x, st_svf_path(&x->job.arena, dir, ST_SVF_SCALES), err));
	}
	if (x->read_dir) {
		/* What others will read is what the stages are computed from. */
		st_container_close(x->job.factors);
		x->job.factors = NULL;
		if (!dir || x->read_dir != dir)
			ST_TRY(st_svf_components_layout(x->read_dir, &x->job.layout, NULL, err));
		ST_TRY(st_container_open(st_svf_path(&x->job.arena, x->read_dir, ST_SVF_COMPONENTS), &x->job.factors,
		                         err));
		ST_TRY(st_svf_export_bundle(x, x->job.factors, &bundle, err));
		st_json_put(x->report, "component_bundle_readback", bundle);
		ST_TRY(readback_sample(x, err));
		if (x->o->all_selected && !o->no_stages)
			ST_TRY(all_stages(x, digests, err));
		st_json_put(digests, "sample", st_svf_stages_digests(x->sample_stages));
	}
	if (dir)
		ST_TRY(st_svf_export_debug_manifest(x, st_svf_path(&x->job.arena, dir, ST_SVF_DEBUG_MANIFEST), err));
	return st_svf_export_report(x, digests, err);
}

enum st_status st_svf_export(const struct st_svf_export_options *o, struct st_svf_result *r, struct st_error *err)
{
	struct st_svf_export_run x = {
		.o = o,
		.job = { .tie = o->tie, .chunk = o->chunk_rows, .threads = o->threads, .hooks = o->hooks },
		.report = json_object(),
		.files = json_array(),
		.variants = json_array(),
		.components = json_array(),
		.warnings = json_array()
	};
	json_t *digests = json_object();
	size_t len = 0;
	memset(r, 0, sizeof *r);
	x.text = open_memstream(&r->text, &len);
	enum st_status st = x.text && x.report && x.files && x.variants && x.components && x.warnings && digests
	                          ? ST_OK
	                          : st_fail(err, ST_ERR_NOMEM, "out of memory");
	if (st == ST_OK)
		st = run(&x, digests, err);
	if (st == ST_OK) {
		fprintf(x.text, "stored reference hash: %s, %s\n", x.job.ref.expected_hash,
		        x.matched ? "reproduced" : "not reproduced");
		for (size_t i = 0; i < json_array_size(x.warnings); i++)
			fprintf(x.text, "warning: %s\n", json_string_value(json_array_get(x.warnings, i)));
		fprintf(x.text, "wrote %s\n", o->out);
		st_svf_export_remove_work(&x);
		r->exit_status = o->strict_hash && !x.matched;
		r->json = json_dumps(x.report, JSON_INDENT(2) | JSON_SORT_KEYS);
		if (!r->json)
			st = st_fail(err, ST_ERR_NOMEM, "out of memory");
	}
	if (st != ST_OK && x.work_dir)
		rmdir(x.work_dir); /* it stays where it holds factors for the next run */
	for (size_t i = 0; x.job.computed && i < x.job.ref.n; i++)
		st_container_close(x.job.computed[i]);
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
