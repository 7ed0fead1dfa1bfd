/*
 * export.c - the source-of-truth side: factors, offsets, stages and a report of the sample tensor, and of every
 * selected one where that is asked for.
 *
 * Computed factors are kept beside the report, one file per tensor, until the run ends: an interrupted run goes on
 * where it was. Files that others read appear whole, the report last.
 */
#include "svf/export.h"

#include "base/error.h"

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
		flops += st_svd_cost(e->rows, e->cols);
		bytes += 4 * (e->rows * e->k + e->k + e->cols * e->k);
	}
	return st_fail_at(err, ST_ERR_USAGE, ST_NO_OFFSET, "--all-selected-tensors",
	                  "needs --svd-weights, or --decompose-all-selected-if-missing to compute the factors of %zu "
	                  "tensors: about %.3g Gflop and %.3g MB of components",
	                  x->job.ref.n, flops / 1e9, (double)bytes / 1e6);
}

static enum st_status choose(struct st_svf_export_run *x, struct st_error *err)
{
	struct st_svf_job *j = &x->job;
	const struct st_svf_entry *sample = st_svf_job_sample(j);
	x->n_list = x->o->all_selected ? j->ref.n : 1;
	x->list = st_arena_alloc(&j->arena, x->n_list, sizeof *x->list);
	x->svd = st_arena_alloc(&j->arena, j->ref.n, sizeof *x->svd);
	j->computed = st_arena_alloc(&j->arena, j->ref.n, sizeof(struct st_container *));
	ST_NEED(x->list && x->svd && j->computed);
	for (size_t i = 0; i < x->n_list; i++)
		x->list[i] = x->o->all_selected ? i : j->ref.sample;
	if (!x->o->all_selected && (st_svf_job_before(j, sample) || st_svf_job_after(j, sample)))
		return st_fail_at(err, ST_ERR_USAGE, ST_NO_OFFSET, "--tie",
		                  "%s needs the tied tensor too: --all-selected-tensors", st_svf_ties[j->tie]);
	return ST_OK;
}

/* Places the outputs and opens what is left of the inputs; nothing that will be written may be one. */
static enum st_status keep_inputs(struct st_svf_export_run *x, struct st_error *err)
{
	const struct st_svf_export_options *o = x->o;
	struct st_svf_job *j = &x->job;
	const char *dir = o->no_components ? NULL : o->write_dir;
	x->read_dir = o->readback_dir ? o->readback_dir : dir;
	bool stages = x->read_dir && !o->no_stages;
	const struct {
		const char **path, *dir, *name;
	} outputs[] = {
		{ &x->components, dir, ST_SVF_COMPONENTS },
		{ &x->scales, dir, ST_SVF_SCALES },
		{ &x->manifest, dir, ST_SVF_DEBUG_MANIFEST },
		{ &x->stage_path, stages ? x->read_dir : NULL, ST_SVF_STAGE_FILE },
		{ &x->all_stage_path, stages && o->all_selected ? x->read_dir : NULL, ST_SVF_ALL_STAGE_FILE },
	};
	if (o->svd_weights)
		ST_TRY(st_container_open(o->svd_weights, &j->factors, err));
	ST_TRY(st_container_inputs(j->factors, &j->inputs, err));
	x->work_path = st_arena_printf(&j->arena, "%s.work", o->out);
	ST_TRY(st_inputs_keep(&j->inputs, o->out, err));
	if (!o->svd_weights)
		ST_TRY(st_inputs_keep(&j->inputs, x->work_path, err));
	for (size_t i = 0; i < sizeof outputs / sizeof *outputs; i++) {
		if (outputs[i].dir) {
			*outputs[i].path = st_path(&j->arena, outputs[i].dir, outputs[i].name);
			ST_TRY(st_inputs_keep(&j->inputs, *outputs[i].path, err));
		}
		/* What is read back is an input to the report, whoever wrote it. */
		struct st_inputs back = { 0 };
		enum st_status st = st_inputs_add(
			&back, x->read_dir ? st_path(&j->arena, x->read_dir, outputs[i].name) : NULL, err);
		if (st == ST_OK)
			st = st_inputs_keep(&back, o->out, err);
		st_inputs_release(&back);
		ST_TRY(st);
	}
	return ST_OK;
}

/* ---- variants of the sample ---- */

/* Whether V can be read in another layout at all. */
static bool legal(const struct st_svf_entry *e, const struct st_svf_export_run *x, enum st_svf_layout l)
{
	return e->k == e->cols || (l == ST_SVF_TORCH_V) == (x->job.layout == ST_SVF_TORCH_V);
}

/* Runs the sample once from the factors at hand; its stages go to t->file where there is one. */
static enum st_status run_variant(struct st_svf_export_run *x, const char *label, const char *source,
                                  enum st_svf_layout layout, struct st_svf_stages *t, struct st_error *err)
{
	const struct st_svf_entry *e = st_svf_job_sample(&x->job);
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
	st = st_svf_work_run(&x->job, &w, t, err);
	if (st == ST_OK) {
		const char *hash = t->summary[ST_SVF_FINAL_BF16].sha256;
		fprintf(x->job.text, "%s: %s zero-offset error %.3g\n", label, hash, w.engine.zero_error);
		st_svf_export_variant(x, t, &w.engine, label, source);
		/* The last one is the baseline: what was read back, or else the factors at hand. */
		if (layout == kept) {
			st_svf_work_warnings(&x->job, &w);
			x->baseline_label = label;
			memcpy(x->baseline_hash, hash, sizeof x->baseline_hash);
		}
	}
	st_svf_work_close(&w);
	return st;
}

static enum st_status variants_in_hand(struct st_svf_export_run *x, struct st_error *err)
{
	struct st_svf_stages t = { 0 }, other = { 0 };
	enum st_svf_layout layout = x->job.layout; /* torch_v where they were computed */
	if (!x->job.factors)
		return run_variant(x, "python_recomputed_torch_svd_v_final_bf16", x->component_source, layout, &t, err);
	ST_TRY(run_variant(x, "python_svd_weights_torch_v_final_bf16", x->component_source, layout, &t, err));
	return run_variant(x, "python_svd_weights_vh_final_bf16", x->component_source,
	                   layout == ST_SVF_TORCH_V ? ST_SVF_VH : ST_SVF_TORCH_V, &other, err);
}

/* ---- stages ---- */

static unsigned kept(const struct st_svf_export_run *x) { return x->o->digest ? ST_SVF_SMALL : ST_SVF_ALL; }

static enum st_status readback_sample(struct st_svf_export_run *x, struct st_error *err)
{
	const struct st_svf_entry *e = st_svf_job_sample(&x->job);
	struct st_tensor_spec specs[ST_SVF_STAGES];
	struct st_svf_stages t = { .kept = kept(x) };
	size_t n;
	ST_TRY(st_svf_stage_specs(e, e->turned, kept(x), "stage.", &x->job.arena, specs, &n, err));
	if (x->stage_path)
		ST_TRY(st_svf_file_open(x->stage_path, specs, n, &t.file, err));
	enum st_status st = run_variant(x, "python_safetensors_readback_torch_v_final_bf16", "safetensors_readback",
	                                x->job.layout, &t, err);
	if (x->stage_path)
		st = st_writer_close(t.file, st, err);
	if (st == ST_OK)
		st_json_put(x->digests, "sample", st_svf_stages_digests(&t));
	return st;
}

static enum st_status stages_of(struct st_svf_export_run *x, size_t i, struct st_svf_stages *t, struct st_error *err)
{
	struct st_svf_work w;
	ST_TRY(st_svf_work_open(&x->job, &w, t->e, x->job.layout, NULL, err));
	enum st_status st = st_svf_work_run(&x->job, &w, t, err);
	if (st == ST_OK) {
		st_svf_work_warnings(&x->job, &w);
		st_json_put(x->digests, t->e->safe, st_svf_stages_digests(t));
		st_json_put_all(json_array_get(x->described, i),
		                ST_IS("source_sha256_as_f32", t->summary[ST_SVF_SOURCE].sha256),
		                ST_IS("zero_offset_max_abs_error_vs_source", w.engine.zero_error),
		                ST_IS("u_orthogonality_error", w.engine.u_error),
		                ST_IS("final_bf16_sha256", t->summary[ST_SVF_FINAL_BF16].sha256));
	}
	st_svf_work_close(&w);
	return st;
}

static enum st_status all_stages(struct st_svf_export_run *x, struct st_error *err)
{
	struct st_tensor_spec *specs = st_arena_alloc2(&x->job.arena, x->n_list, ST_SVF_STAGES, sizeof *specs);
	struct st_writer *f;
	size_t n = 0, some;
	ST_NEED(specs);
	for (size_t i = 0; i < x->n_list; i++, n += some) {
		const struct st_svf_entry *e = st_svf_export_entry(x, i);
		const char *prefix = st_arena_printf(&x->job.arena, "tensor.%s.", e->safe);
		ST_NEED(prefix);
		ST_TRY(st_svf_stage_specs(e, false, kept(x), prefix, &x->job.arena, specs + n, &some, err));
		x->total += e->rows;
	}
	ST_TRY(st_svf_file_open(x->all_stage_path, specs, n, &f, err));
	enum st_status st = ST_OK;
	for (size_t i = 0; st == ST_OK && i < x->n_list; i++) {
		struct st_svf_stages t = { .e = st_svf_export_entry(x, i),
			                   .file = f,
			                   .kept = kept(x),
			                   .first = i * (n / x->n_list),
			                   .summaries = true,
			                   .done = &x->done,
			                   .total = x->total };
		st = stages_of(x, i, &t, err);
	}
	return st_writer_close(f, st, err);
}

/* What others will read is what the stages are computed from. */
static enum st_status read_back(struct st_svf_export_run *x, struct st_error *err)
{
	struct st_svf_job *j = &x->job;
	const char *path = st_path(&j->arena, x->read_dir, ST_SVF_COMPONENTS);
	ST_NEED(path);
	st_container_close(j->factors);
	j->factors = NULL;
	if (x->o->readback_dir || !x->components)
		ST_TRY(st_svf_components_layout(x->read_dir, &j->layout, NULL, err));
	ST_TRY(st_container_open(path, &j->factors, err));
	ST_TRY(st_svf_export_bundle(x, j->factors, "component_bundle_readback", err));
	ST_TRY(readback_sample(x, err));
	return x->all_stage_path ? all_stages(x, err) : ST_OK;
}

/* ---- the run ---- */

static enum st_status run(struct st_svf_export_run *x, struct st_svf_result *r, struct st_error *err)
{
	const struct st_svf_export_options *o = x->o;
	struct st_svf_job *j = &x->job;
	ST_TRY(check_options(o, err));
	ST_TRY(st_svf_job_open(j, o->vector, o->reference, o->threads, r, err));
	/* The reference says what would be computed: refused before a gigabyte is hashed. */
	ST_TRY(refuse_cost(x, err));
	ST_TRY(st_svf_job_base(j, o->model, o->model_bf16, err));
	ST_TRY(choose(x, err));
	ST_TRY(keep_inputs(x, err));
	ST_TRY(st_svf_export_prepare(x, err));
	ST_TRY(st_svf_export_sources(x, err));
	for (size_t i = 0; i < x->n_list; i++)
		ST_TRY(st_svf_export_describe(x, i, err));
	ST_TRY(variants_in_hand(x, err));
	st_json_put(j->report, "component_bundle_readback", json_null());
	ST_TRY(st_svf_export_bundle(x, st_svf_job_factors(j, st_svf_job_sample(j)), "component_bundle_before_write",
	                            err));
	if (x->components) {
		ST_TRY(st_folder_make(o->write_dir, err));
		ST_TRY(st_svf_export_components(x, err));
	}
	if (x->read_dir)
		ST_TRY(read_back(x, err));
	if (x->manifest)
		ST_TRY(st_svf_export_debug_manifest(x, err));
	ST_TRY(st_svf_export_report(x, err));
	st_svf_export_remove_work(x);
	fprintf(j->text, "stored reference hash: %s, %s\n", j->ref.expected_hash,
	        x->matched ? "reproduced" : "not reproduced");
	st_svf_job_wrote(j, "wrote", o->out);
	return ST_OK;
}

enum st_status st_svf_export(const struct st_svf_export_options *o, struct st_svf_result *r, struct st_error *err)
{
	struct st_svf_export_run x = { .o = o,
		                       .job = { .tie = o->tie, .chunk = o->chunk_rows, .hooks = o->hooks },
		                       .component_source = o->svd_weights ? "svd_weights_pt" : "recomputed_torch_svd",
		                       .described = json_array(),
		                       .digests = json_object() };
	*r = (struct st_svf_result){ 0 }; /* options are looked at before the job begins */
	enum st_status st = run(&x, r, err);
	if (st != ST_OK && x.work_dir)
		rmdir(x.work_dir); /* it stays where it holds factors for the next run */
	json_decref(x.described);
	json_decref(x.digests);
	return st_svf_job_close(&x.job, st, o->strict_hash && !x.matched, r, err);
}
