/* export_report.c - what an export says of itself: the report, and the debug manifest beside the components. */
#include "svf/export.h"

#include "base/error.h"

#include <string.h>

const char *st_svf_export_component_source(const struct st_svf_export_run *x)
{
	return x->o->svd_weights ? "svd_weights_pt" : "recomputed_torch_svd";
}

enum st_status st_svf_export_describe(struct st_svf_export_run *x, size_t i, json_t **out, struct st_error *err)
{
	const struct st_svf_entry *e = st_svf_export_entry(x, i);
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
	st_json_put(keys, "u", json_sprintf("svd.U.%s", e->safe));
	st_json_put(keys, "s", json_sprintf("svd.S.%s", e->safe));
	st_json_put(keys, "v", json_sprintf("svd.V.%s", e->safe));
	for (size_t s = 0; s < ST_SVF_STAGES; s++)
		st_json_put(stages, st_svf_stage_names[s],
		            json_sprintf("tensor.%s.%s", e->safe, st_svf_stage_names[s]));
	st_json_put(o, "index", json_integer((json_int_t)e->index));
	st_json_put(o, "source_name", st_json_text(e->source_name));
	st_json_put(o, "elixir_name", st_json_text(e->target_name));
	st_json_put(o, "safe_key", st_json_text(e->safe));
	st_json_put(o, "component_source", st_json_text(st_svf_export_component_source(x)));
	st_json_put(o, "component_v_layout", st_json_text(st_svf_layout_name(x->job.layout)));
	st_json_put(o, "component_tensors", keys);
	st_json_put(o, "scale_tensor", json_sprintf("svf.scale_offsets.%s", e->safe));
	st_json_put(o, "source_shape", st_json_shape(source, 2));
	st_json_put(o, "source_dtype", st_json_text(st_dtype_info(w.tensor->dtype)->name));
	st_json_put(o, "u_shape", st_json_shape(u, 2));
	st_json_put(o, "s_shape", st_json_shape(&e->k, 1));
	st_json_put(o, "v_shape", st_json_shape(v, 2));
	st_json_put(o, "offset_start", json_integer((json_int_t)e->start));
	st_json_put(o, "offset_end", json_integer((json_int_t)e->end));
	st_json_put(o, "singular_values", json_integer((json_int_t)e->k));
	st_json_put(o, "stage_final_orientation", json_string("source"));
	st_json_put(o, "stage_final_shape", st_json_shape(source, 2));
	st_json_put(o, "stage_tensors", stages);
	st_json_put(o, "offsets_sha256", st_json_text(offsets_hex));
	if (x->svd[e->index].method)
		st_json_put(o, "svd", st_svf_export_svd_json(&x->svd[e->index]));
	*out = o;
	return ST_OK;
}

enum st_status st_svf_export_debug_manifest(struct st_svf_export_run *x, const char *path, struct st_error *err)
{
	const struct st_svf_entry *e = st_svf_export_sample(x);
	json_t *m = json_object();
	st_json_put(m, "schema",
	            st_json_text(x->o->all_selected ? "trinity_sakana_selected_component_debug.v1"
	                                            : "trinity_sakana_sample_component_debug.v1"));
	st_json_put(m, "source_name", st_json_text(e->source_name));
	st_json_put(m, "component_source", st_json_text(st_svf_export_component_source(x)));
	st_json_put(m, "component_v_layout", st_json_text(st_svf_layout_name(x->job.layout)));
	st_json_put(m, "baseline_label", st_json_text(x->baseline_label));
	st_json_put(m, "baseline_observed_bf16_sha256", st_json_text(x->baseline_hash));
	st_json_put(m, "stored_reference_bf16_sha256", st_json_text(x->job.ref.expected_hash));
	st_json_put(m, "stored_reference_hash_reproducible", json_boolean(x->matched));
	st_json_put(m, "svd_weights_path", st_json_text(x->o->svd_weights));
	st_json_put(m, "tie_policy", st_json_text(st_svf_tie_name(x->job.tie)));
	st_json_put(m, "base_model_sha256", st_json_text(x->job.base.sha256));
	if (x->o->all_selected) {
		st_json_put(m, "all_selected_tensors", json_true());
		st_json_put(m, "decomposed_all_selected_if_missing", json_boolean(x->o->decompose_all));
		st_json_put(m, "selected_tensor_count", json_integer((json_int_t)x->n_list));
		st_json_put(m, "selected_tensors", json_incref(x->components));
	}
	enum st_status st = st_svf_write_json(path, m, err);
	json_decref(m);
	return st;
}

/* ---- the report ---- */

enum st_status st_svf_export_bundle(struct st_svf_export_run *x, struct st_container *c, json_t **out,
                                    struct st_error *err)
{
	const struct st_svf_entry *e = st_svf_export_sample(x);
	struct st_svf_factors f;
	struct st_svf_summary s;
	ST_TRY(st_svf_factors_open(c, e, x->job.layout, &f, err));
	st_svf_factors_close(&f);
	json_t *o = json_object();
	const struct {
		const char *key;
		const struct st_tensor *t;
		size_t prefix;
	} parts[] = { { "u", f.u, 4 }, { "s", f.s_view, 16 }, { "v", f.v_view, 4 } };
	enum st_status st = ST_OK;
	for (size_t i = 0; st == ST_OK && i < 3; i++) {
		st = st_svf_summary_of(parts[i].t, parts[i].prefix, &s, err);
		if (st == ST_OK)
			st_json_put(o, parts[i].key, st_svf_summary_json(&s, parts[i].t->shape, parts[i].t->ndim));
	}
	if (st == ST_OK)
		st = st_svf_summary_begin(&s, 16, true, err);
	if (st == ST_OK) {
		st_svf_summary_f32(&s, x->job.vector.f32 + e->start, e->k);
		st_svf_summary_end(&s);
		st_json_put(o, "offsets", st_svf_summary_json(&s, &e->k, 1));
		st_json_put(x->report, "scale_offsets", st_svf_summary_json(&s, &e->k, 1));
	}
	if (st != ST_OK) {
		json_decref(o);
		return st;
	}
	*out = o;
	return ST_OK;
}

static json_t *reference_json(const struct st_svf_export_run *x)
{
	const struct st_svf_entry *e = st_svf_export_sample(x);
	uint64_t source[2] = { e->rows, e->cols }, final[2];
	json_t *o = json_object();
	st_svf_stage_shape(e, ST_SVF_FINAL_F32, e->turned, final);
	st_json_put(o, "path", st_json_text(x->o->reference));
	st_json_put(o, "source_name", st_json_text(e->source_name));
	st_json_put(o, "elixir_name", st_json_text(e->target_name));
	st_json_put(o, "source_shape", st_json_shape(source, 2));
	st_json_put(o, "sample_reconstructed_shape", st_json_shape(final, 2));
	st_json_put(o, "expected_bf16_sha256", st_json_text(x->job.ref.expected_hash));
	st_json_put(o, "expected_hash_reproducible", json_boolean(x->matched));
	st_json_put(o, "current_python_baseline_label", st_json_text(x->baseline_label));
	st_json_put(o, "current_python_baseline_bf16_sha256", st_json_text(x->baseline_hash));
	st_json_put(o, "diagnosis",
	            st_json_text(x->matched ? "the stored reference hash was reproduced here"
	                                    : "the stored reference hash was not reproduced: it needs the factors it "
	                                      "was made with; compare against the current baseline"));
	return o;
}

static json_t *inputs_json(const struct st_svf_export_run *x, const struct st_tensor *source)
{
	json_t *o = json_object();
	st_json_put(o, "model_name", st_json_text(x->o->model));
	st_json_put(o, "model_torch_dtype_arg", st_json_text(x->o->model_bf16 ? "bfloat16" : "float32"));
	st_json_put(o, "source_tensor_dtype", st_json_text(st_dtype_info(source->dtype)->name));
	st_json_put(o, "router_vector", st_json_text(x->o->vector));
	st_json_put(o, "router_vector_sha256", st_json_text(x->job.vector.file_sha256));
	st_json_put(o, "router_vector_sha256_as_f32", st_json_text(x->job.vector.sha256_f32));
	st_json_put(o, "router_vector_dtype_after_load", st_json_text(x->o->vector_f64 ? "float64" : "float32"));
	st_json_put(o, "svd_weights", st_json_text(x->o->svd_weights));
	st_json_put(o, "write_components_dir", st_json_text(x->o->no_components ? NULL : x->o->write_dir));
	st_json_put(o, "component_source_written",
	            st_json_text(x->o->no_components ? NULL : st_svf_export_component_source(x)));
	st_json_put(o, "all_selected_tensors_written", json_boolean(x->o->all_selected));
	st_json_put(o, "readback_components_dir", st_json_text(x->read_dir));
	st_json_put(o, "stage_tensor_file", st_json_text(x->stage_path));
	st_json_put(o, "all_selected_stage_tensor_file", st_json_text(x->all_stage_path));
	return o;
}

static json_t *stage_debug_json(const struct st_svf_export_run *x, json_t *digests)
{
	json_t *o = json_object(), *keys = json_array(), *all = json_array();
	for (size_t s = 0; x->stage_path && s < ST_SVF_STAGES; s++)
		json_array_append_new(keys, json_sprintf("stage.%s", st_svf_stage_names[s]));
	for (size_t i = 0; x->all_stage_path && i < x->n_list; i++)
		for (size_t s = 0; s < ST_SVF_STAGES; s++)
			json_array_append_new(all, json_sprintf("tensor.%s.%s", st_svf_export_entry(x, i)->safe,
			                                        st_svf_stage_names[s]));
	st_json_put(o, "schema", json_string("trinity_sakana_stage_debug.v1"));
	st_json_put(o, "baseline_label", st_json_text(x->baseline_label));
	st_json_put(o, "stage_tensor_file", st_json_text(x->stage_path));
	st_json_put(o, "all_selected_stage_tensor_file", st_json_text(x->all_stage_path));
	st_json_put(o, "stage_keys", keys);
	st_json_put(o, "all_selected_stage_keys", all);
	st_json_put(o, "stage_storage", st_json_text(x->o->digest ? "digest" : "full"));
	st_json_put(o, "digests", json_incref(digests));
	return o;
}

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
	json_t *list = json_array();
	for (size_t i = 0; i < json_array_size(x->components); i++) {
		const json_t *c = json_array_get(x->components, i);
		json_t *o = json_object();
		for (size_t k = 0; k < sizeof keys / sizeof *keys; k++)
			st_json_put(o, keys[k], json_incref(json_object_get(c, keys[k])));
		json_array_append_new(list, o);
	}
	return list;
}

enum st_status st_svf_export_sources(struct st_svf_export_run *x, struct st_error *err)
{
	const struct st_svf_entry *e = st_svf_export_sample(x);
	struct st_weight w;
	struct st_svf_work work = { 0 };
	struct st_svf_summary s;
	uint64_t shape[2] = { e->rows, e->cols };
	ST_TRY(st_svf_base_find(&x->job.base, e, &w, err));
	ST_TRY(st_svf_summary_of(w.tensor, 16, &s, err));
	json_t *stored = st_svf_summary_json(&s, shape, 2);
	char hex[65];
	/* The digest over the bytes as stored, where stored numbers are what a program loads. */
	if (w.tensor->layout == ST_LAYOUT_ROWS && w.tensor->n_bytes == e->rows * w.tensor->row_bytes
	    && st_sha256_hex(w.tensor->data, w.tensor->n_bytes, hex, err) == ST_OK)
		st_json_put(stored, "sha256", st_json_text(hex));
	st_json_put(stored, "dtype",
	            st_json_text(w.tensor->dtype == ST_DTYPE_BF16  ? "bfloat16"
	                         : w.tensor->dtype == ST_DTYPE_F32 ? "float32"
	                                                           : st_dtype_info(w.tensor->dtype)->name));
	st_json_put(x->report, "source_tensor", stored);
	/* What is decomposed: rounded, in the order of rows that a graph has, composed, as the run asks for it. */
	enum st_status st = st_svf_work_source(&x->job, &work, e, NULL, err);
	if (st == ST_OK)
		st = st_svf_summary_rows(&work.source, e->rows, e->cols, 16, &s, err);
	if (st == ST_OK)
		st_json_put(x->report, "source_tensor_f32_svd_input", st_svf_summary_json(&s, shape, 2));
	st_svf_work_close(&work);
	return st;
}

static enum st_status list_files(struct st_svf_export_run *x, struct st_error *err)
{
	const char *dir = x->o->no_components ? NULL : x->o->write_dir;
	ST_TRY(st_svf_add_file(x->files, "reference", x->o->reference, err));
	ST_TRY(st_svf_add_file(x->files, "router_vector", x->o->vector, err));
	if (x->o->svd_weights)
		ST_TRY(st_svf_add_file(x->files, "svd_weights", x->o->svd_weights, err));
	if (dir) {
		ST_TRY(st_svf_add_file(x->files, "components", st_svf_path(&x->job.arena, dir, ST_SVF_COMPONENTS),
		                       err));
		ST_TRY(st_svf_add_file(x->files, "scale_offsets", st_svf_path(&x->job.arena, dir, ST_SVF_SCALES), err));
		ST_TRY(st_svf_add_file(x->files, "debug_manifest",
		                       st_svf_path(&x->job.arena, dir, ST_SVF_DEBUG_MANIFEST), err));
	}
	if (x->stage_path)
		ST_TRY(st_svf_add_file(x->files, "stages", x->stage_path, err));
	if (x->all_stage_path)
		ST_TRY(st_svf_add_file(x->files, "all_selected_stages", x->all_stage_path, err));
	return ST_OK;
}

enum st_status st_svf_export_report(struct st_svf_export_run *x, json_t *digests, struct st_error *err)
{
	struct st_weight w;
	bool *covered = st_arena_alloc(&x->job.arena, x->job.ref.n, sizeof *covered);
	if (!covered)
		return st_fail(err, ST_ERR_NOMEM, "out of memory");
	for (size_t i = 0; (x->stage_path || x->all_stage_path) && i < x->n_list; i++)
		covered[x->list[i]] = true;
	ST_TRY(st_svf_base_find(&x->job.base, st_svf_export_sample(x), &w, err));
	ST_TRY(list_files(x, err));
	st_json_put(x->report, "schema", json_string("trinity_sakana_python_svd_parity_trace.v2"));
	st_json_put(x->report, "generated_at_utc", st_json_now());
	st_json_put(x->report, "reference", reference_json(x));
	st_json_put(x->report, "inputs", inputs_json(x, w.tensor));
	st_json_put(x->report, "selected_tensor_components",
	            x->o->all_selected ? json_incref(x->components) : json_array());
	st_json_put(x->report, "selected_tensor_stage_debug",
	            x->o->all_selected ? selected_stage_debug(x) : json_array());
	st_json_put(x->report, "stage_debug", stage_debug_json(x, digests));
	st_json_put(x->report, "variants", json_incref(x->variants));
	const char *method = x->svd[x->job.ref.sample].method;
	st_json_put(x->report, "environment", st_svf_environment(x->job.threads, method));
	st_json_put(x->report, "base_model_sha256", st_json_text(x->job.base.sha256));
	st_json_put(x->report, "files", json_incref(x->files));
	st_json_put(x->report, "tie_policy", st_json_text(st_svf_tie_name(x->job.tie)));
	st_json_put(x->report, "coverage", st_svf_coverage(&x->job.ref, covered));
	st_json_put(x->report, "warnings", json_incref(x->warnings));
	if (method)
		st_json_put(x->report, "svd", st_svf_export_svd_json(&x->svd[x->job.ref.sample]));
	return st_svf_write_json(x->o->out, x->report, err);
}
