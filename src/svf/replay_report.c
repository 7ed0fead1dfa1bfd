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
                                       const struct st_svf_stages *t, json_t *variant, struct st_error *err)
{
	static const enum st_svf_stage stages[] = { ST_SVF_MATMUL, ST_SVF_ZERO, ST_SVF_ADAPTED };
	const struct st_svf_entry *e = w->engine.e;
	const struct st_tensor *theirs[3];
	struct distance d[2][3] = { 0 }; /* of ours, of theirs */
	uint64_t rows = e->rows < SAMPLE_ROWS ? e->rows : SAMPLE_ROWS;
	float *other = st_alloc_array2(3, e->cols, sizeof *other);
	double s = 0, scaled = 0;
	ST_NEED(other);
	/* One of another shape has no rows to be looked at. */
	for (size_t p = 0; p < 3; p++)
		theirs[p] = t->check[stages[p]].measured ? t->other[stages[p]] : NULL;
	json_t *o = json_object(), *list = json_array();
	st_json_put(variant, "f64_check", o);
	st_json_put(o, "rows", list);
	for (uint64_t k = 0; k < e->k; k++) {
		s += (double)w->factors.s[k];
		scaled += (double)w->factors.s[k] * (1.0 + (double)w->engine.offsets[k]);
	}
	enum st_status st = ST_OK;
	for (uint64_t i = 0; i < rows; i++) {
		uint64_t r = rows > 1 ? i * (e->rows - 1) / (rows - 1) : 0;
		/* The engine's buffers hold one row; the sums it keeps are not looked at any more. */
		ST_TRY_OUT(st_svf_engine_rows(&w->engine, r, 1, err));
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
				far(&d[0][p], exact[p], mine[p][c]);
				if (theirs[p])
					far(&d[1][p], exact[p], other[p * e->cols + c]);
			}
		}
	}
	for (size_t p = 0; p < 3; p++)
		st_json_put(o, st_svf_stage_names[stages[p]],
		            st_json_object(ST_IS("ours", distance_json(&d[0][p])),
		                           ST_IS("theirs", theirs[p] ? distance_json(&d[1][p]) : json_null())));
	fprintf(x->job.text, "  f64 check of %llu rows, adapted_source_f32: ours within %.3g of exact",
	        (unsigned long long)rows, d[0][2].max);
	if (theirs[2])
		fprintf(x->job.text, ", theirs %.3g", d[1][2].max);
	fputc('\n', x->job.text);
out:
	free(other);
	return st;
}

/* ---- the report ---- */

/* What both kinds of variant say. compared: with the reference's digest. */
static json_t *variant(const struct st_svf_replay_run *x, const struct st_svf_work *w, const struct st_svf_stages *t,
                       const char *label, bool compared)
{
	return st_json_put_all(st_svf_variant_json(&w->engine, t, label, compared ? x->job.ref.expected_hash : NULL),
	                       ST_IS("svd_provider", "python_components_safetensors"),
	                       ST_IS("compute_backend", ST_SVF_REPLAY_LABEL), ST_IS("source_name", t->e->source_name));
}

json_t *st_svf_replay_diagnostic(struct st_svf_replay_run *x, const struct st_svf_work *w,
                                 const struct st_svf_stages *t)
{
	char label[100];
	snprintf(label, sizeof label, "semantic_python_components_%s_v_layout_%s", ST_SVF_REPLAY_LABEL,
	         st_svf_layout_name(w->factors.layout));
	return st_json_put_all(variant(x, w, t, label, true), ST_IS("diagnostic", json_true()));
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
	const struct st_svf_exported *p = &x->python.said;
	bool current = it->sample && p->hash && strcmp(t->summary[ST_SVF_FINAL_BF16].sha256, p->hash) == 0;
	json_t *o = st_svf_put_details(variant(x, w, t, it->name, it->sample), &w->engine, t);
	return st_json_put_all(st_svf_put_entry(o, it->e), ST_IS("safe_key", it->e->safe),
	                       ST_IS("expected_bf16_sha256", it->sample ? x->job.ref.expected_hash : NULL),
	                       ST_IS("python_current_baseline_label", p->label),
	                       ST_IS("python_current_bf16_sha256", p->hash), ST_IS("matches_python_current", current),
	                       ST_IS("stage_debug", stage_debug(x, it, t)));
}

static json_t *paths(const struct st_svf_replay_run *x)
{
	const struct st_svf_replay_options *o = x->o;
	return st_json_object(ST_IS("router_vector", x->vector), ST_IS("reference_manifest", x->reference),
	                      ST_IS("components_dir", o->components_dir), ST_IS("python_report", o->python_report),
	                      ST_IS("stage_dir", o->stage_dir), ST_IS("model", o->model));
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
	const struct st_svf_exported *p = &x->python.said;
	json_t *baseline = st_json_object(
		ST_IS("label", p->label), ST_IS("observed_bf16_sha256", p->hash),
		ST_IS("expected_hash_reproducible", p->reproducible ? json_deep_copy(p->reproducible) : json_null()),
		ST_IS("source", "python_report_reference"));
	st_svf_put_evidence(j, NULL, x->covered);
	st_json_put_all(j->report, ST_IS("schema", "trinity_sakana_svd_parity_trace.v2"), ST_IS("paths", paths(x)),
	                ST_IS("reference", st_svf_put_entry(st_svf_sample_json(j), e)),
	                ST_IS("selection", selection(x)),
	                ST_IS("router_vector", st_svf_summary_floats(j->vector.f32, j->vector.n, 8)),
	                ST_IS("scale_offsets", st_svf_summary_floats(j->vector.f32 + e->start, e->k, 16)),
	                ST_IS("python_current_baseline", baseline),
	                ST_IS("python_component_metadata", x->manifest ? json_incref(x->manifest) : json_null()),
	                ST_IS("native_elixir_svd_variants", json_array()),
	                ST_IS("semantic_python_component_variants", json_incref(j->variants)));
	return st_json_write(x->o->out, j->report, err);
}
