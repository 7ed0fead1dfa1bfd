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
	return st_json_object(ST_IS("max_abs_error", d->max),
	                      ST_IS("mean_abs_error", d->n ? d->sum / (double)d->n : 0));
}

enum st_status st_svf_replay_check_f64(struct st_svf_replay_run *x, struct st_svf_work *w,
                                       const struct st_svf_stages *t, json_t **out, struct st_error *err)
{
	static const enum st_svf_stage stages[] = { ST_SVF_MATMUL, ST_SVF_ZERO, ST_SVF_ADAPTED };
	const struct st_svf_entry *e = w->engine.e;
	const struct st_tensor *theirs[3];
	struct distance ours_d[3] = { { 0 } }, theirs_d[3] = { { 0 } };
	uint64_t rows = e->rows < SAMPLE_ROWS ? e->rows : SAMPLE_ROWS;
	float *other = st_alloc_array2(3, e->cols, sizeof *other);
	double s = 0, scaled = 0;
	ST_NEED(other);
	/* One of another shape has no rows to be looked at. */
	for (size_t p = 0; p < 3; p++)
		theirs[p] = t->check[stages[p]].measured ? t->other[stages[p]] : NULL;
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
		st_json_add(list, st_json_u64(r));
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
	for (size_t p = 0; p < 3; p++)
		st_json_put(o, st_svf_stage_names[stages[p]],
		            st_json_object(ST_IS("ours", distance_json(&ours_d[p])),
		                           ST_IS("theirs", theirs[p] ? distance_json(&theirs_d[p]) : json_null())));
	if (st != ST_OK) {
		json_decref(o);
		return st;
	}
	fprintf(x->job.text, "  f64 check of %llu rows, adapted_source_f32: ours within %.3g of exact",
	        (unsigned long long)rows, ours_d[2].max);
	if (theirs[2])
		fprintf(x->job.text, ", theirs %.3g", theirs_d[2].max);
	fputc('\n', x->job.text);
	*out = o;
	return ST_OK;
}

/* ---- the report ---- */

/* What both kinds of variant say. */
static json_t *variant(const struct st_svf_replay_run *x, const struct st_svf_entry *e, const char *label,
                       enum st_svf_layout layout, const struct st_svf_work *w, const struct st_svf_stages *t,
                       bool compared)
{
	uint64_t shape[2];
	const char *hash = t->summary[ST_SVF_FINAL_BF16].sha256;
	st_svf_stage_shape(e, ST_SVF_FINAL_F32, t->turned, shape);
	return st_json_object(
		ST_IS("label", label), ST_IS("svd_provider", "python_components_safetensors"),
		ST_IS("compute_backend", ST_SVF_REPLAY_LABEL), ST_IS("v_layout", st_svf_layout_name(layout)),
		ST_IS("source_name", e->source_name),
		ST_IS("zero_offset_max_abs_error_vs_source", w->engine.zero_error),
		ST_IS("final", st_svf_summary_json(&t->summary[ST_SVF_FINAL_BF16], shape, 2)),
		ST_IS("observed_bf16_sha256", hash),
		ST_IS("matches_expected", json_boolean(compared && strcmp(hash, x->job.ref.expected_hash) == 0)));
}

json_t *st_svf_replay_diagnostic(struct st_svf_replay_run *x, enum st_svf_layout layout, const struct st_svf_work *w,
                                 const struct st_svf_stages *t)
{
	char label[100];
	snprintf(label, sizeof label, "semantic_python_components_%s_v_layout_%s", ST_SVF_REPLAY_LABEL,
	         st_svf_layout_name(layout));
	return st_json_put_all(variant(x, t->e, label, layout, w, t, true), ST_IS("diagnostic", json_true()));
}

static json_t *stage_debug(struct st_svf_replay_run *x, const struct st_svf_replay_item *it,
                           const struct st_svf_stages *t)
{
	bool passed = true;
	for (size_t s = 0; s < ST_SVF_STAGES; s++)
		passed &= !x->profile.stage[s].required || t->check[s].passed;
	return st_json_object(
		ST_IS("schema", "trinity_sakana_elixir_stage_debug.v1"), ST_IS("stage_tensor_file", it->path),
		ST_IS("stage_storage", x->o->digest ? "digest" : "full"),
		ST_IS("stage_final_orientation", it->sample ? "target" : "source"),
		ST_IS("digests", st_svf_stages_digests(t)), ST_IS("source_name", it->e->source_name),
		ST_IS("elixir_name", it->e->target_name), ST_IS("compared_to_python_stage_tensors", json_true()),
		ST_IS("functional_parity_passed", passed), ST_IS("checks", st_svf_stages_checks(t)));
}

json_t *st_svf_replay_variant(struct st_svf_replay_run *x, const struct st_svf_replay_item *it, struct st_svf_work *w,
                              struct st_svf_stages *t)
{
	const struct st_svf_python *p = &x->python;
	uint64_t shape[2];
	st_svf_stage_shape(it->e, ST_SVF_FINAL_F32, t->turned, shape);
	bool current = it->sample && p->hash && strcmp(t->summary[ST_SVF_FINAL_BF16].sha256, p->hash) == 0;
	return st_svf_put_entry(
		st_json_put_all(
			variant(x, it->e, it->name, w->factors.layout, w, t, it->sample),
			ST_IS("safe_key", it->e->safe), ST_IS("s", st_svf_scale_json(&w->engine)),
			ST_IS("u_orthogonality_error", w->engine.u_error),
			ST_IS("final_f32_before_bf16", st_svf_summary_json(&t->summary[ST_SVF_FINAL_F32], shape, 2)),
			ST_IS("expected_bf16_sha256", it->sample ? x->job.ref.expected_hash : NULL),
			ST_IS("python_current_baseline_label", p->label), ST_IS("python_current_bf16_sha256", p->hash),
			ST_IS("matches_python_current", current), ST_IS("stage_debug", stage_debug(x, it, t))),
		it->e);
}

static json_t *paths(const struct st_svf_replay_run *x)
{
	const struct st_svf_replay_options *o = x->o;
	return st_json_object(ST_IS("router_vector", x->vector), ST_IS("reference_manifest", x->reference),
	                      ST_IS("components_dir", o->components_dir), ST_IS("python_report", o->python_report),
	                      ST_IS("stage_dir", o->stage_dir), ST_IS("model", o->model));
}

static json_t *reference(const struct st_svf_job *j)
{
	const struct st_svf_entry *e = st_svf_job_sample(j);
	uint64_t final[2];
	st_svf_stage_shape(e, ST_SVF_FINAL_F32, e->turned, final);
	return st_svf_put_entry(st_json_object(ST_IS("source_shape", st_json_shape(e->shape, 2)),
	                                       ST_IS("sample_reconstructed_shape", st_json_shape(final, 2)),
	                                       ST_IS("expected_bf16_sha256", j->ref.expected_hash)),
	                        e);
}

static json_t *selection(const struct st_svf_replay_run *x)
{
	const struct st_svf_replay_options *o = x->o;
	return st_json_object(
		ST_IS("selected_tensor_count", x->job.ref.n),
		ST_IS("selected_singular_value_count", x->job.ref.n_scales),
		ST_IS("all_selected_tensors", o->all_selected), ST_IS("selected_source_filter", o->filter),
		ST_IS("source_from_python_stage", o->source_from_python),
		ST_IS("sources", o->source_from_python
	                                 ? "the other side's source_f32: where it comes from, not a check of it"
	                                 : "base model"),
		ST_IS("offsets", "router vector"),
		ST_IS("python_all_selected_stage_loaded", json_boolean(x->python.all.c != NULL)),
		ST_IS("native_svd_enabled", json_false()));
}

enum st_status st_svf_replay_report(struct st_svf_replay_run *x, struct st_error *err)
{
	struct st_svf_job *j = &x->job;
	const struct st_svf_entry *e = st_svf_job_sample(j);
	const struct st_svf_python *p = &x->python;
	json_t *baseline = st_json_object(
		ST_IS("label", p->label), ST_IS("observed_bf16_sha256", p->hash),
		ST_IS("expected_hash_reproducible", p->reproducible ? json_deep_copy(p->reproducible) : json_null()),
		ST_IS("source", "python_report_reference"));
	st_json_put_all(j->report, ST_IS("schema", "trinity_sakana_svd_parity_trace.v2"),
	                ST_IS("generated_at_utc", st_json_now()), ST_IS("paths", paths(x)),
	                ST_IS("reference", reference(j)), ST_IS("selection", selection(x)),
	                ST_IS("router_vector", st_svf_summary_floats(j->vector.f32, j->vector.n, 8)),
	                ST_IS("scale_offsets", st_svf_summary_floats(j->vector.f32 + e->start, e->k, 16)),
	                ST_IS("python_current_baseline", baseline),
	                ST_IS("python_component_metadata", x->manifest ? json_incref(x->manifest) : json_null()),
	                ST_IS("native_elixir_svd_variants", json_array()),
	                ST_IS("semantic_python_component_variants", json_incref(j->variants)),
	                ST_IS("environment", st_svf_environment(j->pool, NULL)),
	                ST_IS("base_model_sha256", j->have_base ? j->base.sha256 : NULL),
	                ST_IS("files", json_incref(j->files)), ST_IS("tie_policy", st_svf_ties[j->tie]),
	                ST_IS("coverage", st_svf_coverage(&j->ref, x->covered)),
	                ST_IS("warnings", json_incref(j->warnings)));
	return st_json_write(x->o->out, j->report, err);
}
