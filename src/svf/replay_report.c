/* replay_report.c - what a replay says: one variant for each tensor, the check in f64, the report. */
#include "svf/replay.h"

#include "base/error.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define SAMPLE_ROWS 16 /* of --check f64 */

/* ---- a sample of rows in f64 ---- */

struct distance {
	double max, sum;
	uint64_t n;
};

static void far(struct distance *d, double exact, float x)
{
	double e = fabs(exact - (double)x);
	d->max = e > d->max ? e : d->max;
	d->sum += e;
	d->n++;
}

static json_t *distance_json(const struct distance *d)
{
	json_t *o = json_object();
	st_json_put(o, "max_abs_error", st_json_number(d->max));
	st_json_put(o, "mean_abs_error", st_json_number(d->n ? d->sum / (double)d->n : 0));
	return o;
}

enum st_status st_svf_replay_check_f64(struct st_svf_replay_run *x, struct st_svf_work *w,
                                       const struct st_svf_stages *t, json_t **out, struct st_error *err)
{
	static const enum st_svf_stage stages[] = { ST_SVF_MATMUL, ST_SVF_ZERO, ST_SVF_ADAPTED };
	const struct st_svf_entry *e = w->engine.e;
	const struct st_tensor *theirs[3];
	struct distance ours_d[3] = { { 0 } }, theirs_d[3] = { { 0 } };
	uint64_t rows = e->rows < SAMPLE_ROWS ? e->rows : SAMPLE_ROWS;
	float *other = st_alloc_array(3 * e->cols, sizeof *other);
	double s = 0, scaled = 0;
	if (!other)
		return st_fail(err, ST_ERR_NOMEM, "out of memory");
	/* One of another shape has no rows to be looked at. */
	for (size_t p = 0; p < 3; p++)
		theirs[p] = t->shape_match[stages[p]] ? t->other[stages[p]] : NULL;
	json_t *o = json_object(), *list = json_array();
	for (uint64_t k = 0; k < e->k; k++) {
		s += (double)w->factors.s[k];
		scaled += (double)w->factors.s[k] * (1.0 + (double)w->engine.offsets[k]);
	}
	enum st_status st = ST_OK;
	for (uint64_t i = 0; st == ST_OK && i < rows; i++) {
		uint64_t r = rows > 1 ? i * (e->rows - 1) / (rows - 1) : 0;
		/* The engine's buffers hold one row; the sums it keeps are not looked at any more. */
		st = st_svf_engine_rows(&w->engine, r, 1, err);
		if (st != ST_OK)
			break;
		json_array_append_new(list, json_integer((json_int_t)r));
		const float *mine[3] = { w->engine.matmul, w->engine.zero, w->engine.adapted }, *u = w->engine.u;
		for (size_t p = 0; p < 3; p++)
			if (theirs[p])
				st_tensor_decode(theirs[p], r, 1, other + p * e->cols);
		for (uint64_t c = 0; c < e->cols; c++) {
			double m = 0, z = 0;
			for (uint64_t k = 0; k < e->k; k++) {
				double v = (double)(w->factors.layout == ST_SVF_TORCH_V
				                            ? w->factors.v[c * e->k + k]
				                            : w->factors.v[k * e->cols + c]);
				double us = (double)u[k] * (double)w->factors.s[k];
				z += us * v;
				m += us * (1.0 + (double)w->engine.offsets[k]) * v;
			}
			double exact[3] = { m, z, m * (s / scaled) };
			for (size_t p = 0; p < 3; p++) {
				far(&ours_d[p], exact[p], mine[p][c]);
				if (theirs[p])
					far(&theirs_d[p], exact[p], other[p * e->cols + c]);
			}
		}
	}
	free(other);
	st_json_put(o, "rows", list);
	for (size_t p = 0; p < 3; p++) {
		json_t *d = json_object();
		st_json_put(d, "ours", distance_json(&ours_d[p]));
		st_json_put(d, "theirs", theirs[p] ? distance_json(&theirs_d[p]) : json_null());
		st_json_put(o, st_svf_stage_names[stages[p]], d);
	}
	if (st != ST_OK) {
		json_decref(o);
		return st;
	}
	fprintf(x->text, "  f64 check of %llu rows, adapted_source_f32: ours within %.3g of exact",
	        (unsigned long long)rows, ours_d[2].max);
	if (theirs[2])
		fprintf(x->text, ", theirs %.3g", theirs_d[2].max);
	fputc('\n', x->text);
	*out = o;
	return ST_OK;
}

/* ---- the report ---- */

static json_t *python_baseline(const struct st_svf_replay_run *x)
{
	const json_t *r = json_object_get(x->python, "reference");
	json_t *o = json_object();
	st_json_put(o, "label", json_incref(json_object_get(r, "current_python_baseline_label")));
	st_json_put(o, "observed_bf16_sha256", json_incref(json_object_get(r, "current_python_baseline_bf16_sha256")));
	st_json_put(o, "expected_hash_reproducible", json_incref(json_object_get(r, "expected_hash_reproducible")));
	st_json_put(o, "source", json_string("python_report_reference"));
	return o;
}

json_t *st_svf_replay_variant(struct st_svf_replay_run *x, const struct st_svf_replay_item *it, struct st_svf_work *w,
                              struct st_svf_stages *t, const char *stage_file)
{
	const struct st_svf_entry *e = it->e;
	json_t *o = json_object(), *debug = json_object(), *base = python_baseline(x);
	const char *hash = t->summary[ST_SVF_FINAL_BF16].sha256,
		   *theirs = json_string_value(json_object_get(base, "observed_bf16_sha256"));
	uint64_t shape[2] = { 0 };
	bool passed = true;
	for (size_t s = 0; s < ST_SVF_STAGES; s++)
		passed &= !x->profile.stage[s].required || st_svf_stages_passed(t, (enum st_svf_stage)s);
	st_svf_stage_shape(e, ST_SVF_FINAL_F32, t->turned, shape);
	st_json_put(o, "label", st_json_text(it->name));
	st_json_put(o, "svd_provider", json_string("python_components_safetensors"));
	st_json_put(o, "compute_backend", st_json_text(ST_SVF_REPLAY_LABEL));
	st_json_put(o, "v_layout", st_json_text(st_svf_layout_name(w->factors.layout)));
	st_json_put(o, "source_name", st_json_text(e->source_name));
	st_json_put(o, "elixir_name", st_json_text(e->target_name));
	st_json_put(o, "safe_key", st_json_text(e->safe));
	st_json_put(o, "offset_start", json_integer((json_int_t)e->start));
	st_json_put(o, "offset_end", json_integer((json_int_t)e->end));
	st_json_put(o, "s", st_svf_scale_json(&w->engine));
	st_json_put(o, "zero_offset_max_abs_error_vs_source", st_json_number(w->engine.zero_error));
	st_json_put(o, "u_orthogonality_error", st_json_number(w->engine.u_error));
	st_json_put(o, "final_f32_before_bf16", st_svf_summary_json(&t->summary[ST_SVF_FINAL_F32], shape, 2));
	st_json_put(o, "final", st_svf_summary_json(&t->summary[ST_SVF_FINAL_BF16], shape, 2));
	st_json_put(o, "observed_bf16_sha256", st_json_text(hash));
	st_json_put(o, "expected_bf16_sha256", it->sample ? st_json_text(x->job.ref.expected_hash) : json_null());
	st_json_put(o, "matches_expected", json_boolean(it->sample && strcmp(hash, x->job.ref.expected_hash) == 0));
	st_json_put(o, "python_current_baseline_label", json_incref(json_object_get(base, "label")));
	st_json_put(o, "python_current_bf16_sha256", st_json_text(theirs));
	st_json_put(o, "matches_python_current", json_boolean(it->sample && theirs && strcmp(hash, theirs) == 0));
	st_json_put(debug, "schema", json_string("trinity_sakana_elixir_stage_debug.v1"));
	st_json_put(debug, "stage_tensor_file", st_json_text(stage_file));
	st_json_put(debug, "stage_storage", st_json_text(x->o->digest ? "digest" : "full"));
	st_json_put(debug, "stage_final_orientation", st_json_text(it->sample ? "target" : "source"));
	st_json_put(debug, "digests", st_svf_stages_digests(t));
	st_json_put(debug, "source_name", st_json_text(e->source_name));
	st_json_put(debug, "elixir_name", st_json_text(e->target_name));
	st_json_put(debug, "compared_to_python_stage_tensors", json_true());
	st_json_put(debug, "functional_parity_passed", json_boolean(passed));
	st_json_put(debug, "checks", st_svf_stages_checks(t));
	st_json_put(o, "stage_debug", debug);
	json_decref(base);
	return o;
}

enum st_status st_svf_replay_report(struct st_svf_replay_run *x, struct st_error *err)
{
	const struct st_svf_entry *e = &x->job.ref.entries[x->job.ref.sample];
	json_t *paths = json_object(), *ref = json_object(), *sel = json_object();
	uint64_t source[2] = { e->rows, e->cols }, final[2];
	struct st_svf_summary s;
	st_svf_stage_shape(e, ST_SVF_FINAL_F32, e->turned, final);
	st_json_put(paths, "router_vector", st_json_text(x->o->vector));
	st_json_put(paths, "reference_manifest", st_json_text(x->o->reference));
	st_json_put(paths, "components_dir", st_json_text(x->o->components_dir));
	st_json_put(paths, "python_report", st_json_text(x->o->python_report));
	st_json_put(paths, "stage_dir", st_json_text(x->o->stage_dir));
	st_json_put(paths, "model", st_json_text(x->o->model));
	st_json_put(ref, "source_name", st_json_text(e->source_name));
	st_json_put(ref, "elixir_name", st_json_text(e->target_name));
	st_json_put(ref, "offset_start", json_integer((json_int_t)e->start));
	st_json_put(ref, "offset_end", json_integer((json_int_t)e->end));
	st_json_put(ref, "source_shape", st_json_shape(source, 2));
	st_json_put(ref, "sample_reconstructed_shape", st_json_shape(final, 2));
	st_json_put(ref, "expected_bf16_sha256", st_json_text(x->job.ref.expected_hash));
	st_json_put(sel, "selected_tensor_count", json_integer((json_int_t)x->job.ref.n));
	st_json_put(sel, "selected_singular_value_count", json_integer((json_int_t)x->job.ref.n_scales));
	st_json_put(sel, "all_selected_tensors", json_boolean(x->o->all_selected));
	st_json_put(sel, "selected_source_filter", st_json_text(x->o->filter));
	st_json_put(sel, "source_from_python_stage", json_boolean(x->o->source_from_python));
	st_json_put(sel, "sources",
	            st_json_text(x->o->source_from_python ? "the other side's source_f32: the check of it says nothing"
	                                                  : "base model"));
	st_json_put(sel, "offsets", json_string("router vector"));
	st_json_put(sel, "python_all_selected_stage_loaded", json_boolean(x->all_stages != NULL));
	st_json_put(sel, "native_svd_enabled", json_false());
	ST_TRY(st_svf_summary_begin(&s, 8, true, err));
	st_svf_summary_f32(&s, x->job.vector.f32, x->job.vector.n);
	st_svf_summary_end(&s);
	st_json_put(x->report, "schema", json_string("trinity_sakana_svd_parity_trace.v2"));
	st_json_put(x->report, "generated_at_utc", st_json_now());
	st_json_put(x->report, "paths", paths);
	st_json_put(x->report, "reference", ref);
	st_json_put(x->report, "selection", sel);
	st_json_put(x->report, "router_vector", st_svf_summary_json(&s, &x->job.vector.n, 1));
	ST_TRY(st_svf_summary_begin(&s, 16, true, err));
	st_svf_summary_f32(&s, x->job.vector.f32 + e->start, e->k);
	st_svf_summary_end(&s);
	st_json_put(x->report, "scale_offsets", st_svf_summary_json(&s, &e->k, 1));
	st_json_put(x->report, "python_current_baseline", python_baseline(x));
	st_json_put(x->report, "python_component_metadata", x->manifest ? json_incref(x->manifest) : json_null());
	st_json_put(x->report, "native_elixir_svd_variants", json_array());
	st_json_put(x->report, "semantic_python_component_variants", json_incref(x->variants));
	st_json_put(x->report, "environment", st_svf_environment(x->job.threads, NULL));
	st_json_put(x->report, "base_model_sha256", x->job.have_base ? st_json_text(x->job.base.sha256) : json_null());
	st_json_put(x->report, "files", json_incref(x->files));
	st_json_put(x->report, "tie_policy", st_json_text(st_svf_tie_name(x->job.tie)));
	st_json_put(x->report, "coverage", st_svf_coverage(&x->job.ref, x->covered));
	st_json_put(x->report, "warnings", json_incref(x->warnings));
	return st_svf_write_json(x->o->out, x->report, err);
}
