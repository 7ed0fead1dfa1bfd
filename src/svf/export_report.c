/* export_report.c - what an export says of itself: the report, and the debug manifest beside the components. */
#include "svf/export.h"

#include "base/error.h"
#include "base/hash.h"

#include <string.h>

enum st_status st_svf_export_describe(struct st_svf_export_run *x, size_t i, struct st_error *err)
{
	const struct st_svf_entry *e = st_svf_export_entry(x, i);
	struct st_weight w;
	struct st_tensor_spec usv[3];
	char offsets[65];
	ST_TRY(st_svf_base_find(&x->job.base, e, &w, err));
	ST_TRY(st_svf_component_specs(e, x->job.layout, &x->job.arena, usv, err));
	ST_TRY(st_sha256_hex(x->job.vector.f32 + e->start, e->k * sizeof(float), offsets, err));
	json_t *stages = json_object();
	for (size_t s = 0; s < ST_SVF_STAGES; s++)
		st_json_put(stages, st_svf_stage_names[s],
		            json_sprintf("tensor.%s.%s", e->safe, st_svf_stage_names[s]));
	json_t *o = st_json_object(
		ST_IS("index", e->index), ST_IS("safe_key", e->safe), ST_IS("component_source", x->component_source),
		ST_IS("component_v_layout", st_svf_layout_name(x->job.layout)),
		ST_IS("component_tensors",
	              st_json_object(ST_IS("u", usv[0].name), ST_IS("s", usv[1].name), ST_IS("v", usv[2].name))),
		ST_IS("scale_tensor", json_sprintf("svf.scale_offsets.%s", e->safe)),
		ST_IS("source_shape", st_json_shape(e->shape, 2)),
		ST_IS("source_dtype", st_dtype_info(w.tensor->dtype)->name),
		ST_IS("u_shape", st_json_shape(usv[0].shape, 2)), ST_IS("s_shape", st_json_shape(usv[1].shape, 1)),
		ST_IS("v_shape", st_json_shape(usv[2].shape, 2)), ST_IS("singular_values", e->k),
		ST_IS("stage_final_orientation", "source"), ST_IS("stage_final_shape", st_json_shape(e->shape, 2)),
		ST_IS("stage_tensors", stages), ST_IS("offsets_sha256", offsets));
	st_svf_put_entry(o, e);
	if (x->svd[e->index].method)
		st_json_put(o, "svd", st_svf_export_svd_json(&x->svd[e->index]));
	st_json_add(x->described, o);
	return ST_OK;
}

enum st_status st_svf_export_debug_manifest(struct st_svf_export_run *x, struct st_error *err)
{
	bool all = x->o->all_selected;
	json_t *m = st_json_object(
		ST_IS("schema",
	              all ? "trinity_sakana_selected_component_debug.v1" : "trinity_sakana_sample_component_debug.v1"),
		ST_IS("source_name", st_svf_job_sample(&x->job)->source_name),
		ST_IS("component_source", x->component_source),
		ST_IS("component_v_layout", st_svf_layout_name(x->job.layout)),
		ST_IS("baseline_label", x->baseline_label), ST_IS("baseline_observed_bf16_sha256", x->baseline_hash),
		ST_IS("stored_reference_bf16_sha256", x->job.ref.expected_hash),
		ST_IS("stored_reference_hash_reproducible", x->matched), ST_IS("svd_weights_path", x->o->svd_weights),
		ST_IS("tie_policy", st_svf_ties[x->job.tie]), ST_IS("base_model_sha256", x->job.base.sha256));
	if (all)
		st_json_put_all(m, ST_IS("all_selected_tensors", json_true()),
		                ST_IS("decomposed_all_selected_if_missing", x->o->decompose_all),
		                ST_IS("selected_tensor_count", x->n_list),
		                ST_IS("selected_tensors", json_incref(x->described)));
	enum st_status st = st_json_write(x->manifest, m, err);
	json_decref(m);
	return st;
}

void st_svf_export_variant(struct st_svf_export_run *x, const struct st_svf_stages *t, const struct st_svf_engine *g,
                           const char *label, const char *source)
{
	const char *expected = x->job.ref.expected_hash;
	json_t *v = st_svf_put_details(st_svf_variant_json(g, t, label, expected), g, t);
	x->matched |= strcmp(t->summary[ST_SVF_FINAL_BF16].sha256, expected) == 0;
	st_json_add(x->job.variants,
	            st_json_put_all(v, ST_IS("component_source", source), ST_IS("expected_bf16_sha256", expected),
	                            ST_IS("zero_offset_max_abs_error_vs_source_bf16_roundtrip", g->zero_error_bf16)));
}

/* ---- the report ---- */

enum st_status st_svf_export_bundle(struct st_svf_export_run *x, struct st_container *c, const char *key,
                                    struct st_error *err)
{
	const struct st_svf_entry *e = st_svf_job_sample(&x->job);
	struct st_svf_factors f;
	struct st_summary s;
	ST_TRY(st_svf_factors_open(c, e, x->job.layout, &f, err));
	st_svf_factors_close(&f);
	const struct {
		const char *key;
		const struct st_tensor *t;
		size_t prefix;
	} parts[] = { { "u", f.u, 4 }, { "s", f.s_view, 16 }, { "v", f.v_view, 4 } };
	json_t *o = json_object(), *offsets = st_svf_summary_floats(x->job.vector.f32 + e->start, e->k, 16);
	st_json_put(x->job.report, "scale_offsets", json_incref(offsets));
	st_json_put(o, "offsets", offsets);
	st_json_put(x->job.report, key, o);
	for (size_t i = 0; i < 3; i++) {
		ST_TRY(st_svf_summary_of(parts[i].t, parts[i].prefix, &s, err));
		st_json_put(o, parts[i].key, st_svf_summary_json(&s, parts[i].t->shape, parts[i].t->ndim));
	}
	return ST_OK;
}

enum st_status st_svf_export_sources(struct st_svf_export_run *x, struct st_error *err)
{
	const struct st_svf_entry *e = st_svf_job_sample(&x->job);
	struct st_weight w;
	struct st_svf_work work = { 0 };
	struct st_summary s;
	char hex[65];
	ST_TRY(st_svf_base_find(&x->job.base, e, &w, err));
	const struct st_tensor *t = w.tensor;
	ST_TRY(st_svf_summary_of(t, 16, &s, err));
	json_t *stored = st_svf_summary_json(&s, e->shape, 2);
	st_json_put(x->job.report, "source_tensor", stored);
	st_json_put(stored, "dtype",
	            json_string(t->dtype == ST_DTYPE_BF16  ? "bfloat16"
	                        : t->dtype == ST_DTYPE_F32 ? "float32"
	                                                   : st_dtype_info(t->dtype)->name));
	/* The digest over the bytes as stored, where stored numbers are what a program loads. */
	if (t->layout == ST_LAYOUT_ROWS && t->n_bytes == e->rows * t->row_bytes) {
		ST_TRY(st_sha256_hex(t->data, t->n_bytes, hex, err));
		st_json_put(stored, "sha256", json_string(hex));
	}
	/* What is decomposed: rounded, in the order of rows that a graph has, composed, as the run asks for it. */
	enum st_status st = st_svf_work_source(&x->job, &work, e, NULL, err);
	if (st == ST_OK)
		st = st_svf_summary_rows(&work.source, e->rows, e->cols, 16, &s, err);
	if (st == ST_OK)
		st_json_put(x->job.report, "source_tensor_f32_svd_input", st_svf_summary_json(&s, e->shape, 2));
	st_svf_work_close(&work);
	return st;
}

static json_t *reference_json(const struct st_svf_export_run *x)
{
	return st_json_put_all(
		st_svf_sample_json(&x->job), ST_IS("path", x->o->reference),
		ST_IS("expected_hash_reproducible", x->matched),
		ST_IS("current_python_baseline_label", x->baseline_label),
		ST_IS("current_python_baseline_bf16_sha256", x->baseline_hash),
		ST_IS("diagnosis",
	              x->matched ? "the stored reference hash was reproduced here"
	                         : "the stored reference hash was not reproduced: it needs the factors it was "
	                           "made with; compare against the current baseline"));
}

static json_t *inputs_json(const struct st_svf_export_run *x, const struct st_tensor *source)
{
	const struct st_svf_export_options *o = x->o;
	const struct st_svf_vector *v = &x->job.vector;
	return st_json_object(
		ST_IS("model_name", o->model), ST_IS("model_torch_dtype_arg", o->model_bf16 ? "bfloat16" : "float32"),
		ST_IS("source_tensor_dtype", st_dtype_info(source->dtype)->name), ST_IS("router_vector", o->vector),
		ST_IS("router_vector_sha256", v->file_sha256), ST_IS("router_vector_sha256_as_f32", v->sha256_f32),
		ST_IS("router_vector_dtype_after_load", o->vector_f64 ? "float64" : "float32"),
		ST_IS("svd_weights", o->svd_weights),
		ST_IS("write_components_dir", x->components ? o->write_dir : NULL),
		ST_IS("component_source_written", x->components ? x->component_source : NULL),
		ST_IS("all_selected_tensors_written", o->all_selected), ST_IS("readback_components_dir", x->read_dir),
		ST_IS("stage_tensor_file", x->stage_path), ST_IS("all_selected_stage_tensor_file", x->all_stage_path));
}

static json_t *stage_debug_json(const struct st_svf_export_run *x)
{
	json_t *keys = json_array(), *all = json_array();
	for (size_t s = 0; x->stage_path && s < ST_SVF_STAGES; s++)
		st_json_add(keys, json_sprintf("stage.%s", st_svf_stage_names[s]));
	for (size_t i = 0; x->all_stage_path && i < x->n_list; i++)
		for (size_t s = 0; s < ST_SVF_STAGES; s++)
			st_json_add(all, json_sprintf("tensor.%s.%s", st_svf_export_entry(x, i)->safe,
			                              st_svf_stage_names[s]));
	return st_json_object(
		ST_IS("schema", "trinity_sakana_stage_debug.v1"), ST_IS("baseline_label", x->baseline_label),
		ST_IS("stage_tensor_file", x->stage_path), ST_IS("all_selected_stage_tensor_file", x->all_stage_path),
		ST_IS("stage_keys", keys), ST_IS("all_selected_stage_keys", all),
		ST_IS("stage_storage", x->o->digest ? "digest" : "full"), ST_IS("digests", json_incref(x->digests)));
}

/* Of what the components are described by, what concerns their stages. */
static json_t *selected_stage_debug(const struct st_svf_export_run *x)
{
	static const char *const keys[] = { "index",
		                            "source_name",
		                            "elixir_name",
		                            "safe_key",
		                            "offset_start",
		                            "offset_end",
		                            "stage_final_orientation",
		                            "stage_final_shape",
		                            "stage_tensors" };
	json_t *list = json_array(), *c;
	size_t i;
	json_array_foreach(x->described, i, c)
	{
		json_t *o = json_object();
		for (size_t k = 0; k < sizeof keys / sizeof *keys; k++)
			st_json_put(o, keys[k], json_incref(json_object_get(c, keys[k])));
		st_json_add(list, o);
	}
	return list;
}

enum st_status st_svf_export_report(struct st_svf_export_run *x, struct st_error *err)
{
	struct st_svf_job *j = &x->job;
	struct st_weight w;
	const struct st_svf_listed files[] = {
		{ "reference", x->o->reference },     { "router_vector", x->o->vector },
		{ "svd_weights", x->o->svd_weights }, { "components", x->components },
		{ "scale_offsets", x->scales },       { "debug_manifest", x->manifest },
		{ "stages", x->stage_path },          { "all_selected_stages", x->all_stage_path }
	};
	bool all = x->o->all_selected, *covered = st_arena_alloc(&j->arena, j->ref.n, sizeof *covered);
	const char *method = x->svd[j->ref.sample].method;
	ST_NEED(covered);
	for (size_t i = 0; (x->stage_path || x->all_stage_path) && i < x->n_list; i++)
		covered[x->list[i]] = true;
	ST_TRY(st_svf_base_find(&j->base, st_svf_job_sample(j), &w, err));
	ST_TRY(st_svf_add_files(j, files, sizeof files / sizeof *files, err));
	st_svf_put_evidence(j, method, covered);
	st_json_put_all(j->report, ST_IS("schema", "trinity_sakana_python_svd_parity_trace.v2"),
	                ST_IS("reference", reference_json(x)), ST_IS("inputs", inputs_json(x, w.tensor)),
	                ST_IS("selected_tensor_components", all ? json_incref(x->described) : json_array()),
	                ST_IS("selected_tensor_stage_debug", all ? selected_stage_debug(x) : json_array()),
	                ST_IS("stage_debug", stage_debug_json(x)), ST_IS("variants", json_incref(j->variants)));
	if (method)
		st_json_put(j->report, "svd", st_svf_export_svd_json(&x->svd[j->ref.sample]));
	return st_json_write(x->o->out, j->report, err);
}
