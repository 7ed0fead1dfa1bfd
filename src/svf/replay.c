/*
 * replay.c - the second side: the same stages from the exported factors, compared with the exported stages.
 *
 * Sources come from the base model and offsets from the vector, so those checks say something; the other side's source is used
 * only on request, and the report says so. Each tensor's stage file appears whole and its result is noted beside it, so
 * that an interrupted run goes on with the next tensor.
 */
#include "svf/svf.h"

#include "base/error.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define LABEL "stele_cpu"
#define SAMPLE_ROWS 16 /* of --check f64 */

struct replay {
	const struct st_svf_replay_options *o;
	struct st_svf_job job;
	struct st_svf_profile profile;
	json_t *python, *manifest, *report, *variants, *files, *warnings;
	struct st_container *sample_stages, *all_stages; /* the other side's; NULL where it stored digests */
	const char *sample_path, *all_path;
	const json_t *digests;
	char *key;                 /* what every tensor's result depends on */
	uint64_t done, total;
	bool failed, *covered;
	size_t n_notes;
	char **notes;
	FILE *text;
};

/* One tensor in one orientation. */
struct item {
	const struct st_svf_entry *e;
	bool sample;
	char *name, *path, *note;  /* label, stage file, resume note */
};

static void warn(struct replay *x, const char *tensor, const char *what)
{
	json_array_append_new(x->warnings, json_sprintf("%s: %s", tensor, what));
	st_svf_log(&x->job.hooks, "warning: %s: %s", tensor, what);
}

/* ---- the other side ---- */

static const char *text_at(const json_t *o, const char *a, const char *b)
{
	const json_t *v = json_object_get(json_object_get(o, a), b);
	return json_is_string(v) && json_string_length(v) ? json_string_value(v) : NULL;
}

static enum st_status open_stages(struct replay *x, const char *key, const char **path, struct st_container **c, struct st_error *err)
{
	const char *named = text_at(x->python, "stage_debug", key);
	if (!named)
		named = text_at(x->python, "inputs", key);
	if (!named) {
		enum st_status st = st_fail_at(err, ST_ERR_MISMATCH, ST_NO_OFFSET, key, "the report names no such file: export it with stage tensors%s",
		                               strncmp(key, "all", 3) == 0 ? " and --all-selected-tensors" : "");
		st_error_in(err, x->o->python_report);
		return st;
	}
	*path = st_svf_locate(&x->job.arena, named, x->o->python_report, x->o->components_dir);
	if (!*path) {
		enum st_status st = st_fail_at(err, ST_ERR_IO, ST_NO_OFFSET, key, "%.300s is not there, nor beside the report", named);
		st_error_in(err, x->o->python_report);
		return st;
	}
	return st_container_open(*path, c, err);
}

static enum st_status open_python(struct replay *x, struct st_error *err)
{
	const char *schema, *storage;
	ST_TRY(st_svf_load_json(x->o->python_report, &x->python, err));
	enum st_status st = st_svf_get_text(x->python, "", "schema", &schema, err);
	if (st == ST_OK && strcmp(schema, "trinity_sakana_python_svd_parity_trace.v2") != 0)
		st = st_fail_at(err, ST_ERR_UNSUPPORTED, ST_NO_OFFSET, "schema", "is \"%.80s\"; trinity_sakana_python_svd_parity_trace.v2 is read", schema);
	if (st != ST_OK) {
		st_error_in(err, x->o->python_report);
		return st;
	}
	storage = text_at(x->python, "stage_debug", "stage_storage");
	if (storage && strcmp(storage, "digest") == 0) {
		x->digests = json_object_get(json_object_get(x->python, "stage_debug"), "digests");
		if (x->o->source_from_python)
			return st_fail_at(err, ST_ERR_MISMATCH, ST_NO_OFFSET, "--source-from-python-stage", "the report holds digests of its stages, not the stages");
		return ST_OK;
	}
	ST_TRY(open_stages(x, "stage_tensor_file", &x->sample_path, &x->sample_stages, err));
	return x->o->all_selected ? open_stages(x, "all_selected_stage_tensor_file", &x->all_path, &x->all_stages, err) : ST_OK;
}

static enum st_status resolve_tie(struct replay *x, struct st_error *err)
{
	const json_t *v = json_object_get(x->python, "tie_policy");
	enum st_svf_tie theirs = ST_SVF_INDEPENDENT;
	if (v && (!json_is_string(v) || !st_svf_tie_parse(json_string_value(v), &theirs))) {
		enum st_status st = st_fail_at(err, ST_ERR_UNSUPPORTED, ST_NO_OFFSET, "tie_policy", "is not independent, compose or last-wins");
		st_error_in(err, x->o->python_report);
		return st;
	}
	x->job.tie = x->o->tie < 0 ? theirs : (enum st_svf_tie)x->o->tie;
	return ST_OK;
}

/* The other side's ten stages of an item; a missing one is a fault of the setup. */
static enum st_status find_stages(const struct replay *x, const struct item *it, const struct st_tensor *out[ST_SVF_STAGES], struct st_error *err)
{
	struct st_container *c = it->sample ? x->sample_stages : x->all_stages;
	memset(out, 0, ST_SVF_STAGES * sizeof *out);
	if (x->digests)
		return ST_OK;
	for (size_t s = 0; s < ST_SVF_STAGES; s++) {
		char name[1200];
		if (it->sample)
			snprintf(name, sizeof name, "stage.%s", st_svf_stage_names[s]);
		else
			snprintf(name, sizeof name, "tensor.%s.%s", it->e->safe, st_svf_stage_names[s]);
		out[s] = st_container_find(c, name);
		if (!out[s]) {
			enum st_status st = st_fail_at(err, ST_ERR_MISMATCH, ST_NO_OFFSET, name, "the stage file has no such tensor");
			st_error_in(err, it->sample ? x->sample_path : x->all_path);
			return st;
		}
	}
	return ST_OK;
}

/* ---- a sample of rows in f64 ---- */

struct distance { double max, sum; uint64_t n; };

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
	st_svf_put(o, "max_abs_error", st_svf_number(d->max));
	st_svf_put(o, "mean_abs_error", st_svf_number(d->n ? d->sum / (double)d->n : 0));
	return o;
}

/* The product stages of evenly spread rows from the same f32 factors and offsets, all in f64: how far each side is from exact. */
static json_t *check_f64(struct replay *x, struct st_svf_work *w, const struct st_tensor *const theirs[ST_SVF_STAGES], struct st_error *err)
{
	static const enum st_svf_stage stages[] = { ST_SVF_MATMUL, ST_SVF_ZERO, ST_SVF_ADAPTED };
	const struct st_svf_entry *e = w->engine.e;
	struct distance ours_d[3] = { { 0 } }, theirs_d[3] = { { 0 } };
	uint64_t rows = e->rows < SAMPLE_ROWS ? e->rows : SAMPLE_ROWS;
	float *other = st_alloc_array(3 * e->cols, sizeof *other);
	json_t *o = json_object(), *list = json_array();
	double s = 0, scaled = 0;
	for (uint64_t k = 0; k < e->k; k++) {
		s += (double)w->factors.s[k];
		scaled += (double)w->factors.s[k] * (1.0 + (double)w->engine.offsets[k]);
	}
	for (uint64_t i = 0; other && i < rows; i++) {
		uint64_t r = rows > 1 ? i * (e->rows - 1) / (rows - 1) : 0;
		/* The engine's buffers hold one row; the sums it keeps are not looked at any more. */
		if (st_svf_engine_rows(&w->engine, r, 1, err) != ST_OK)
			break;
		json_array_append_new(list, json_integer((json_int_t)r));
		const float *mine[3] = { w->engine.matmul, w->engine.zero, w->engine.adapted }, *u = w->engine.u;
		for (size_t p = 0; p < 3; p++)
			if (theirs[stages[p]])
				st_tensor_decode(theirs[stages[p]], r, 1, other + p * e->cols);
		for (uint64_t c = 0; c < e->cols; c++) {
			double m = 0, z = 0;
			for (uint64_t k = 0; k < e->k; k++) {
				double v = (double)(w->factors.layout == ST_SVF_TORCH_V ? w->factors.v[c * e->k + k] : w->factors.v[k * e->cols + c]);
				double us = (double)u[k] * (double)w->factors.s[k];
				z += us * v;
				m += us * (1.0 + (double)w->engine.offsets[k]) * v;
			}
			double exact[3] = { m, z, m * (s / scaled) };
			for (size_t p = 0; p < 3; p++) {
				far(&ours_d[p], exact[p], mine[p][c]);
				if (theirs[stages[p]])
					far(&theirs_d[p], exact[p], other[p * e->cols + c]);
			}
		}
	}
	free(other);
	st_svf_put(o, "rows", list);
	for (size_t p = 0; p < 3; p++) {
		json_t *d = json_object();
		st_svf_put(d, "ours", distance_json(&ours_d[p]));
		st_svf_put(d, "theirs", theirs[stages[p]] ? distance_json(&theirs_d[p]) : json_null());
		st_svf_put(o, st_svf_stage_names[stages[p]], d);
	}
	fprintf(x->text, "  f64 check of %llu rows, adapted_source_f32: ours within %.3g of exact, theirs %.3g\n", (unsigned long long)rows,
	        ours_d[2].max, theirs_d[2].max);
	return o;
}

/* ---- one item ---- */

static json_t *python_baseline(const struct replay *x)
{
	const json_t *r = json_object_get(x->python, "reference");
	json_t *o = json_object();
	st_svf_put(o, "label", json_incref(json_object_get(r, "current_python_baseline_label")));
	st_svf_put(o, "observed_bf16_sha256", json_incref(json_object_get(r, "current_python_baseline_bf16_sha256")));
	st_svf_put(o, "expected_hash_reproducible", json_incref(json_object_get(r, "expected_hash_reproducible")));
	st_svf_put(o, "source", json_string("python_report_reference"));
	return o;
}

/* Where the other side kept digests: equality is all that can be said. */
static void check_digests(const struct replay *x, const struct item *it, struct st_svf_stages *t)
{
	const json_t *d = json_object_get(x->digests, it->sample ? "sample" : it->e->safe);
	for (size_t s = 0; s < ST_SVF_STAGES; s++) {
		const json_t *one = json_object_get(d, st_svf_stage_names[s]);
		const char *sha = json_string_value(json_object_get(one, "sha256"));
		t->compared[s] = sha != NULL;
		t->shape_match[s] = t->byte_match[s] = sha && strcmp(sha, t->summary[s].sha256) == 0;
		/* Different digests say that something is apart and not how far. */
		if (!t->byte_match[s])
			t->metrics[s] = (struct st_svf_metrics){ .count = 1, .apart = 1, .max_abs = INFINITY };
	}
}

static json_t *variant_json(struct replay *x, const struct item *it, struct st_svf_work *w, struct st_svf_stages *t, const char *stage_file)
{
	const struct st_svf_entry *e = it->e;
	json_t *o = json_object(), *debug = json_object(), *base = python_baseline(x);
	const char *hash = t->summary[ST_SVF_FINAL_BF16].sha256, *theirs = json_string_value(json_object_get(base, "observed_bf16_sha256"));
	uint64_t shape[2] = { 0 };
	bool passed = true;
	for (size_t s = 0; s < ST_SVF_STAGES; s++)
		passed &= !x->profile.stage[s].required || st_svf_stages_passed(t, (enum st_svf_stage)s);
	st_svf_stage_shape(e, ST_SVF_FINAL_F32, t->turned, shape);
	st_svf_put(o, "label", json_string(it->name));
	st_svf_put(o, "svd_provider", json_string("python_components_safetensors"));
	st_svf_put(o, "compute_backend", json_string(LABEL));
	st_svf_put(o, "v_layout", json_string(st_svf_layout_name(w->factors.layout)));
	st_svf_put(o, "source_name", json_string(e->source_name));
	st_svf_put(o, "elixir_name", json_string(e->target_name));
	st_svf_put(o, "safe_key", json_string(e->safe));
	st_svf_put(o, "offset_start", json_integer((json_int_t)e->start));
	st_svf_put(o, "offset_end", json_integer((json_int_t)e->end));
	st_svf_put(o, "s", st_svf_scale_json(&w->engine));
	st_svf_put(o, "zero_offset_max_abs_error_vs_source", st_svf_number(w->engine.zero_error));
	st_svf_put(o, "u_orthogonality_error", st_svf_number(w->engine.u_error));
	st_svf_put(o, "final_f32_before_bf16", st_svf_summary_json(&t->summary[ST_SVF_FINAL_F32], shape, 2));
	st_svf_put(o, "final", st_svf_summary_json(&t->summary[ST_SVF_FINAL_BF16], shape, 2));
	st_svf_put(o, "observed_bf16_sha256", json_string(hash));
	st_svf_put(o, "expected_bf16_sha256", it->sample ? json_string(x->job.ref.expected_hash) : json_null());
	st_svf_put(o, "matches_expected", json_boolean(it->sample && strcmp(hash, x->job.ref.expected_hash) == 0));
	st_svf_put(o, "python_current_baseline_label", json_incref(json_object_get(base, "label")));
	st_svf_put(o, "python_current_bf16_sha256", st_svf_string(theirs));
	st_svf_put(o, "matches_python_current", json_boolean(it->sample && theirs && strcmp(hash, theirs) == 0));
	st_svf_put(debug, "schema", json_string("trinity_sakana_elixir_stage_debug.v1"));
	st_svf_put(debug, "stage_tensor_file", st_svf_string(stage_file));
	st_svf_put(debug, "stage_storage", json_string(x->o->digest ? "digest" : "full"));
	st_svf_put(debug, "stage_final_orientation", json_string(it->sample ? "target" : "source"));
	st_svf_put(debug, "digests", st_svf_stages_digests(t));
	st_svf_put(debug, "source_name", json_string(e->source_name));
	st_svf_put(debug, "elixir_name", json_string(e->target_name));
	st_svf_put(debug, "compared_to_python_stage_tensors", json_true());
	st_svf_put(debug, "functional_parity_passed", json_boolean(passed));
	st_svf_put(debug, "checks", st_svf_stages_checks(t));
	st_svf_put(o, "stage_debug", debug);
	json_decref(base);
	return o;
}

static void tell(struct replay *x, const json_t *variant, bool resumed)
{
	const json_t *debug = json_object_get(variant, "stage_debug"), *checks = json_object_get(debug, "checks");
	bool passed = json_is_true(json_object_get(debug, "functional_parity_passed"));
	size_t equal = 0, i;
	json_t *c;
	x->failed |= !passed;
	json_array_foreach(checks, i, c)
		equal += json_is_true(json_object_get(c, "byte_match"));
	fprintf(x->text, "%s [%s]: %s, %zu of %d stages byte-equal%s\n", json_string_value(json_object_get(variant, "source_name")),
	        json_string_value(json_object_get(debug, "stage_final_orientation")), passed ? "passed" : "FAILED", equal, ST_SVF_STAGES,
	        resumed ? " (from an earlier run)" : "");
	json_array_foreach(checks, i, c)
		if (json_is_true(json_object_get(c, "required_for_functional_parity")) && !json_is_true(json_object_get(c, "functional_passed"))) {
			const json_t *max = json_object_get(c, "max_abs_error");
			if (json_is_real(max))
				fprintf(x->text, "  %s: max %.3g mean %.3g, %lld elements differ\n", json_string_value(json_object_get(c, "stage")), json_real_value(max),
				        json_number_value(json_object_get(c, "mean_abs_error")), (long long)json_integer_value(json_object_get(c, "mismatched_element_count")));
			else
				fprintf(x->text, "  %s: %s\n", json_string_value(json_object_get(c, "stage")),
				        json_is_true(json_object_get(c, "shape_match")) ? "differs" : "differs in shape or digest");
		}
}

/* An earlier run's result for these very inputs, or NULL. */
static json_t *resume(struct replay *x, const struct item *it)
{
	json_t *j = NULL, *v = NULL;
	struct st_error ignored = ST_ERROR_INIT;
	char hex[65];
	if (st_json_load(it->note, &j, &ignored) != ST_OK || !j)
		return NULL;
	const char *key = json_string_value(json_object_get(j, "key")), *sha = json_string_value(json_object_get(j, "sha256"));
	if (key && sha && strcmp(key, x->key) == 0 && st_svf_file_sha256(it->path, hex, &ignored) == ST_OK && strcmp(hex, sha) == 0)
		v = json_incref(json_object_get(j, "variant"));
	json_decref(j);
	return v;
}

static enum st_status note(struct replay *x, const struct item *it, json_t *variant, struct st_error *err)
{
	char hex[65];
	ST_TRY(st_svf_file_sha256(it->path, hex, err));
	json_t *j = json_object();
	st_svf_put(j, "key", json_string(x->key));
	st_svf_put(j, "sha256", json_string(hex));
	st_svf_put(j, "variant", json_incref(variant));
	enum st_status st = st_svf_write_json(it->note, j, err);
	json_decref(j);
	return st;
}

static enum st_status compute(struct replay *x, const struct item *it, json_t **variant, struct st_error *err)
{
	const struct st_tensor *theirs[ST_SVF_STAGES];
	struct st_tensor_spec specs[ST_SVF_STAGES];
	struct st_svf_work w;
	char why[200];
	size_t skip = x->o->digest ? ST_SVF_OFFSETS : 0, n = x->o->digest ? 3 : ST_SVF_STAGES;
	struct st_svf_stages t = { .e = it->e, .turned = it->sample && it->e->turned, .summaries = true, .small_only = x->o->digest,
	                           .hooks = &x->job.hooks, .done = &x->done, .total = x->total, .profile = &x->profile };
	ST_TRY(find_stages(x, it, theirs, err));
	ST_TRY(st_svf_stage_specs(it->e, t.turned, "stage.", &x->job.arena, specs, err));
	memcpy(t.other, theirs, sizeof t.other);
	ST_TRY(st_svf_work_open(&x->job, &w, it->e, x->job.layout, x->o->source_from_python ? theirs[ST_SVF_SOURCE] : NULL, err));
	t.winner = st_svf_job_after(&x->job, it->e) ? &w.other : NULL;
	enum st_status st = st_svf_file_open(it->path, specs + skip, n, &t.file, err);
	if (st == ST_OK)
		st = st_svf_stages_run(&t, &w.engine, err);
	if (st == ST_OK && x->digests)
		check_digests(x, it, &t);
	if (st == ST_OK) {
		if (!st_svf_zero_test(&w.engine, why, sizeof why))
			warn(x, it->e->source_name, why);
		if (w.engine.u_error > 1e-3) {
			snprintf(why, sizeof why, "U is %.3g away from orthonormal", w.engine.u_error);
			warn(x, it->e->source_name, why);
		}
		if (!w.factors.descending)
			warn(x, it->e->source_name, "singular values are not in descending order");
		*variant = variant_json(x, it, &w, &t, it->path);
		if (x->o->check_f64)
			st_svf_put(*variant, "f64_check", check_f64(x, &w, theirs, err));
		st = st_svf_file_commit(t.file, err);
	} else {
		st_svf_file_abort(t.file);
	}
	st_svf_work_close(&w);
	return st == ST_OK ? note(x, it, *variant, err) : st;
}

static enum st_status one(struct replay *x, const struct st_svf_entry *e, bool sample, struct st_error *err)
{
	struct st_arena *a = &x->job.arena;
	const char *layout = st_svf_layout_name(x->job.layout), *slug = sample ? "" : e->safe, *sep = sample ? "" : "_";
	struct item it = { .e = e, .sample = sample };
	it.name = st_arena_printf(a, "semantic_python_components_%s_v_layout_%s%s%s", LABEL, layout, sample ? "" : "_tensor_", slug);
	it.path = st_arena_printf(a, "%s/trinity_svf_elixir_stage_%s_%s%s%s.safetensors", x->o->stage_dir, LABEL, layout, sep, slug);
	it.note = st_arena_printf(a, "%s/.trinity_svf_replay_%s%s%s.json", x->o->stage_dir, layout, sep, slug);
	if (!it.name || !it.path || !it.note)
		return st_fail(err, ST_ERR_NOMEM, "out of memory");
	json_t *variant = resume(x, &it);
	bool resumed = variant != NULL;
	if (resumed)
		x->done += e->rows;
	enum st_status st = resumed ? ST_OK : compute(x, &it, &variant, err);
	if (st == ST_OK) {
		x->covered[e->index] = true;
		x->notes[x->n_notes++] = it.note;
		tell(x, variant, resumed);
		json_array_append(x->variants, variant);
		st = st_svf_add_file(x->files, "stages", it.path, err);
	}
	json_decref(variant);
	return st;
}

/* The sample in the layouts that it should not have: what a wrong reading would give. */
static enum st_status other_layout(struct replay *x, struct st_error *err)
{
	const struct st_svf_entry *e = &x->job.ref.entries[x->job.ref.sample];
	enum st_svf_layout kept = x->job.layout, layout = kept == ST_SVF_TORCH_V ? ST_SVF_VH : ST_SVF_TORCH_V;
	struct st_svf_work w;
	struct st_svf_stages t = { .e = e, .turned = e->turned, .summaries = true, .profile = &x->profile };
	if (x->o->preferred_only || e->k != e->cols || x->o->source_from_python)
		return ST_OK;
	ST_TRY(st_svf_work_open(&x->job, &w, e, layout, NULL, err));
	enum st_status st = st_svf_stages_run(&t, &w.engine, err);
	if (st == ST_OK) {
		json_t *o = json_object();
		uint64_t shape[2];
		st_svf_stage_shape(e, ST_SVF_FINAL_F32, t.turned, shape);
		st_svf_put(o, "label", json_sprintf("semantic_python_components_%s_v_layout_%s", LABEL, st_svf_layout_name(layout)));
		st_svf_put(o, "svd_provider", json_string("python_components_safetensors"));
		st_svf_put(o, "compute_backend", json_string(LABEL));
		st_svf_put(o, "v_layout", json_string(st_svf_layout_name(layout)));
		st_svf_put(o, "source_name", json_string(e->source_name));
		st_svf_put(o, "zero_offset_max_abs_error_vs_source", st_svf_number(w.engine.zero_error));
		st_svf_put(o, "final", st_svf_summary_json(&t.summary[ST_SVF_FINAL_BF16], shape, 2));
		st_svf_put(o, "observed_bf16_sha256", json_string(t.summary[ST_SVF_FINAL_BF16].sha256));
		st_svf_put(o, "matches_expected", json_boolean(strcmp(t.summary[ST_SVF_FINAL_BF16].sha256, x->job.ref.expected_hash) == 0));
		st_svf_put(o, "diagnostic", json_true());
		json_array_append_new(x->variants, o);
		fprintf(x->text, "read as %s instead, the zero-offset error would be %.3g\n", st_svf_layout_name(layout), w.engine.zero_error);
	}
	st_svf_work_close(&w);
	return st;
}

/* ---- the run ---- */

/* Size and time of a file that is too large to hash again at every start. */
static void mark(char *buf, size_t n, const char *path)
{
	struct stat sb;
	if (!path || stat(path, &sb) != 0)
		snprintf(buf, n, "-");
	else
		snprintf(buf, n, "%lld@%lld.%ld", (long long)sb.st_size, (long long)sb.st_mtim.tv_sec, sb.st_mtim.tv_nsec);
}

static enum st_status make_key(struct replay *x, struct st_error *err)
{
	char report[65], c[80], s[80], a[80];
	ST_TRY(st_svf_file_sha256(x->o->python_report, report, err));
	mark(c, sizeof c, st_svf_path(&x->job.arena, x->o->components_dir, ST_SVF_COMPONENTS));
	mark(s, sizeof s, x->sample_path);
	mark(a, sizeof a, x->all_path);
	x->key = st_arena_printf(&x->job.arena, "1|%s|%s|%s|%s|%s|%s|%s|%d%d%d%d|%s", report, c, s, a, x->job.base.sha256, x->job.vector.sha256_f32,
	                         x->job.ref.file_sha256, x->o->source_from_python, x->o->digest, x->o->check_f64, x->o->model_bf16,
	                         st_svf_tie_name(x->job.tie));
	return x->key ? ST_OK : st_fail(err, ST_ERR_NOMEM, "out of memory");
}

static bool selected(const struct replay *x, const struct st_svf_entry *e)
{
	return !x->o->filter || strstr(e->source_name, x->o->filter) || strstr(e->target_name, x->o->filter);
}

/* The offsets that the other side exported beside its factors are not used, only looked at. */
static enum st_status check_scales(struct replay *x, struct st_error *err)
{
	struct st_container *c;
	const char *path = st_svf_path(&x->job.arena, x->o->components_dir, ST_SVF_SCALES);
	if (!path || access(path, F_OK) != 0) {
		warn(x, ST_SVF_SCALES, "is not among the components");
		return ST_OK;
	}
	ST_TRY(st_container_open(path, &c, err));
	for (size_t i = 0; i < x->job.ref.n; i++) {
		const struct st_svf_entry *e = &x->job.ref.entries[i];
		char name[1100];
		snprintf(name, sizeof name, "svf.scale_offsets.%s", e->safe);
		const struct st_tensor *t = st_container_find(c, name);
		float *f = t && t->n_elems == e->k && t->ndim == 1 ? st_alloc_array(e->k, sizeof *f) : NULL;
		if (f)
			st_tensor_decode(t, 0, 1, f);
		if (t && (!f || memcmp(f, x->job.vector.f32 + e->start, e->k * sizeof *f) != 0))
			warn(x, e->source_name, "the exported offsets are not this span of the vector");
		free(f);
	}
	st_container_close(c);
	return ST_OK;
}

static enum st_status list_inputs(struct replay *x, struct st_error *err)
{
	ST_TRY(st_svf_add_file(x->files, "python_report", x->o->python_report, err));
	ST_TRY(st_svf_add_file(x->files, "reference", x->o->reference, err));
	ST_TRY(st_svf_add_file(x->files, "router_vector", x->o->vector, err));
	ST_TRY(st_svf_add_file(x->files, "components", st_svf_path(&x->job.arena, x->o->components_dir, ST_SVF_COMPONENTS), err));
	if (x->sample_path)
		ST_TRY(st_svf_add_file(x->files, "python_stages", x->sample_path, err));
	if (x->all_path)
		ST_TRY(st_svf_add_file(x->files, "python_all_selected_stages", x->all_path, err));
	return ST_OK;
}

static enum st_status make_report(struct replay *x, struct st_error *err)
{
	const struct st_svf_entry *e = &x->job.ref.entries[x->job.ref.sample];
	json_t *paths = json_object(), *ref = json_object(), *sel = json_object();
	uint64_t source[2] = { e->rows, e->cols }, final[2];
	struct st_svf_summary s;
	st_svf_stage_shape(e, ST_SVF_FINAL_F32, e->turned, final);
	st_svf_put(paths, "router_vector", json_string(x->o->vector));
	st_svf_put(paths, "reference_manifest", json_string(x->o->reference));
	st_svf_put(paths, "components_dir", json_string(x->o->components_dir));
	st_svf_put(paths, "python_report", json_string(x->o->python_report));
	st_svf_put(paths, "stage_dir", json_string(x->o->stage_dir));
	st_svf_put(paths, "model", st_svf_string(x->o->model));
	st_svf_put(ref, "source_name", json_string(e->source_name));
	st_svf_put(ref, "elixir_name", json_string(e->target_name));
	st_svf_put(ref, "offset_start", json_integer((json_int_t)e->start));
	st_svf_put(ref, "offset_end", json_integer((json_int_t)e->end));
	st_svf_put(ref, "source_shape", st_svf_shape(source, 2));
	st_svf_put(ref, "sample_reconstructed_shape", st_svf_shape(final, 2));
	st_svf_put(ref, "expected_bf16_sha256", json_string(x->job.ref.expected_hash));
	st_svf_put(sel, "selected_tensor_count", json_integer((json_int_t)x->job.ref.n));
	st_svf_put(sel, "selected_singular_value_count", json_integer((json_int_t)x->job.ref.n_scales));
	st_svf_put(sel, "all_selected_tensors", json_boolean(x->o->all_selected));
	st_svf_put(sel, "selected_source_filter", st_svf_string(x->o->filter));
	st_svf_put(sel, "source_from_python_stage", json_boolean(x->o->source_from_python));
	st_svf_put(sel, "sources", json_string(x->o->source_from_python ? "the other side's source_f32: the check of it says nothing" : "base model"));
	st_svf_put(sel, "offsets", json_string("router vector"));
	st_svf_put(sel, "python_all_selected_stage_loaded", json_boolean(x->all_stages != NULL));
	st_svf_put(sel, "native_svd_enabled", json_false());
	ST_TRY(st_svf_summary_begin(&s, 8, true, err));
	st_svf_summary_f32(&s, x->job.vector.f32, x->job.vector.n);
	st_svf_summary_end(&s);
	st_svf_put(x->report, "schema", json_string("trinity_sakana_svd_parity_trace.v2"));
	st_svf_put(x->report, "generated_at_utc", st_svf_now());
	st_svf_put(x->report, "paths", paths);
	st_svf_put(x->report, "reference", ref);
	st_svf_put(x->report, "selection", sel);
	st_svf_put(x->report, "router_vector", st_svf_summary_json(&s, &x->job.vector.n, 1));
	ST_TRY(st_svf_summary_begin(&s, 16, true, err));
	st_svf_summary_f32(&s, x->job.vector.f32 + e->start, e->k);
	st_svf_summary_end(&s);
	st_svf_put(x->report, "scale_offsets", st_svf_summary_json(&s, &e->k, 1));
	st_svf_put(x->report, "python_current_baseline", python_baseline(x));
	st_svf_put(x->report, "python_component_metadata", x->manifest ? json_incref(x->manifest) : json_null());
	st_svf_put(x->report, "native_elixir_svd_variants", json_array());
	st_svf_put(x->report, "semantic_python_component_variants", json_incref(x->variants));
	st_svf_put(x->report, "environment", st_svf_environment(x->job.threads, NULL));
	st_svf_put(x->report, "base_model_sha256", x->job.have_base ? json_string(x->job.base.sha256) : json_null());
	st_svf_put(x->report, "files", json_incref(x->files));
	st_svf_put(x->report, "tie_policy", json_string(st_svf_tie_name(x->job.tie)));
	st_svf_put(x->report, "coverage", st_svf_coverage(&x->job.ref, x->covered));
	st_svf_put(x->report, "warnings", json_incref(x->warnings));
	return st_svf_write_json(x->o->out, x->report, err);
}

static enum st_status prepare(struct replay *x, struct st_error *err)
{
	const struct st_svf_replay_options *o = x->o;
	size_t n = 0;
	if (!o->model && !o->source_from_python)
		return st_fail_at(err, ST_ERR_USAGE, ST_NO_OFFSET, "--model", "is needed, or --source-from-python-stage");
	ST_TRY(st_svf_profile_read("strict", &x->profile, err));
	ST_TRY(st_svf_job_open(&x->job, o->vector, o->reference, o->model, o->model_bf16, err));
	ST_TRY(open_python(x, err));
	ST_TRY(resolve_tie(x, err));
	ST_TRY(st_svf_components_layout(o->components_dir, &x->job.layout, &x->manifest, err));
	const char *components = st_svf_path(&x->job.arena, o->components_dir, ST_SVF_COMPONENTS);
	if (!components)
		return st_fail(err, ST_ERR_NOMEM, "out of memory");
	ST_TRY(st_container_open(components, &x->job.factors, err));
	x->covered = st_arena_alloc(&x->job.arena, x->job.ref.n, sizeof *x->covered);
	x->notes = st_arena_alloc(&x->job.arena, x->job.ref.n + 1, sizeof *x->notes);
	if (!x->covered || !x->notes)
		return st_fail(err, ST_ERR_NOMEM, "out of memory");
	/* Everything that will be needed is looked for before the first tensor is computed. */
	for (size_t i = 0; i < x->job.ref.n; i++) {
		const struct st_svf_entry *e = &x->job.ref.entries[i];
		bool sample = i == x->job.ref.sample;
		if (!selected(x, e) || (!sample && !o->all_selected))
			continue;
		const struct st_tensor *theirs[ST_SVF_STAGES];
		struct st_svf_factors f;
		if (sample)
			ST_TRY(find_stages(x, &(struct item){ .e = e, .sample = true }, theirs, err));
		if (o->all_selected)
			ST_TRY(find_stages(x, &(struct item){ .e = e }, theirs, err));
		if (o->source_from_python && theirs[ST_SVF_SOURCE] && (theirs[ST_SVF_SOURCE]->ndim != 2 || theirs[ST_SVF_SOURCE]->shape[0] != e->rows ||
		                                                       theirs[ST_SVF_SOURCE]->shape[1] != e->cols))
			return st_fail_at(err, ST_ERR_MISMATCH, theirs[ST_SVF_SOURCE]->offset, theirs[ST_SVF_SOURCE]->name, "is not [%llu, %llu], the shape of %s",
			                  (unsigned long long)e->rows, (unsigned long long)e->cols, e->source_name);
		ST_TRY(st_svf_factors_open(x->job.factors, e, x->job.layout, &f, err));
		st_svf_factors_close(&f);
		n += sample;
		n += o->all_selected;
		x->total += e->rows * ((uint64_t)sample + o->all_selected);
	}
	if (n == 0)
		return st_fail_at(err, ST_ERR_USAGE, ST_NO_OFFSET, "--selected-source-filter", "\"%.100s\" is in no selected tensor's name", o->filter ? o->filter : "");
	ST_TRY(check_scales(x, err));
	ST_TRY(make_key(x, err));
	return st_svf_make_dir(o->stage_dir, err);
}

static enum st_status run(struct replay *x, struct st_error *err)
{
	const struct st_svf_entry *s;
	ST_TRY(prepare(x, err));
	s = &x->job.ref.entries[x->job.ref.sample];
	if (selected(x, s)) {
		ST_TRY(one(x, s, true, err));
		ST_TRY(other_layout(x, err));
	}
	for (size_t i = 0; x->o->all_selected && i < x->job.ref.n; i++)
		if (selected(x, &x->job.ref.entries[i]))
			ST_TRY(one(x, &x->job.ref.entries[i], false, err));
	ST_TRY(list_inputs(x, err));
	ST_TRY(make_report(x, err));
	/* The report holds it all now. */
	for (size_t i = 0; i < x->n_notes; i++)
		unlink(x->notes[i]);
	return ST_OK;
}

enum st_status st_svf_replay(const struct st_svf_replay_options *o, struct st_svf_result *r, struct st_error *err)
{
	struct replay x = { .o = o, .job = { .chunk = o->chunk_rows, .threads = o->threads, .hooks = o->hooks }, .report = json_object(),
	                    .variants = json_array(), .files = json_array(), .warnings = json_array() };
	size_t len = 0;
	memset(r, 0, sizeof *r);
	x.text = open_memstream(&r->text, &len);
	enum st_status st = x.text && x.report && x.variants && x.files && x.warnings ? run(&x, err) : st_fail(err, ST_ERR_NOMEM, "out of memory");
	if (st == ST_OK) {
		for (size_t i = 0; i < json_array_size(x.warnings); i++)
			fprintf(x.text, "warning: %s\n", json_string_value(json_array_get(x.warnings, i)));
		fprintf(x.text, "wrote %s\n", o->out);
		r->exit_status = x.failed;
		r->json = json_dumps(x.report, JSON_INDENT(2) | JSON_SORT_KEYS);
		if (!r->json)
			st = st_fail(err, ST_ERR_NOMEM, "out of memory");
	}
	st_container_close(x.sample_stages);
	st_container_close(x.all_stages);
	st_svf_job_close(&x.job);
	json_t *all[] = { x.python, x.manifest, x.report, x.variants, x.files, x.warnings };
	for (size_t i = 0; i < sizeof all / sizeof *all; i++)
		json_decref(all[i]);
	if (x.text && fclose(x.text) != 0 && st == ST_OK)
		st = st_fail(err, ST_ERR_NOMEM, "out of memory");
	if (st != ST_OK)
		st_svf_result_release(r);
	return st;
}
