/*
 * replay.c - the second side: the same stages from the exported factors, compared with the exported stages.
 *
 * Sources come from the base model and offsets from the vector, so those checks say something; the other side's source
 * is used only on request, and the report says so. Each tensor's stage file appears whole and its result is noted
 * beside it, so that an interrupted run goes on with the next tensor.
 */
#include "svf/replay.h"

#include "base/error.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* ---- one item ---- */

/* Where the other side kept digests: equality is all that can be said. */
static void check_digests(const struct st_svf_replay_run *x, const struct st_svf_replay_item *it,
                          struct st_svf_stages *t)
{
	const json_t *d = json_object_get(x->digests, it->sample ? "sample" : it->e->safe);
	for (size_t s = 0; s < ST_SVF_STAGES; s++) {
		const json_t *one = json_object_get(d, st_svf_stage_names[s]);
		const char *sha = json_string_value(json_object_get(one, "sha256"));
		t->compared[s] = sha != NULL;
		t->shape_match[s] = t->byte_match[s] = sha && strcmp(sha, t->summary[s].sha256) == 0;
		/* The same bytes: what is true of ours is true of theirs. Different digests say that something is apart
		 * and not how far. */
		const struct st_svf_summary *ours = &t->summary[s];
		if (t->byte_match[s])
			t->metrics[s] = (struct st_svf_metrics){ .count = ours->n,
				                                 .nonfinite_a = ours->nonfinite,
				                                 .nonfinite_b = ours->nonfinite };
		else
			t->metrics[s] = (struct st_svf_metrics){ .count = 1, .apart = 1, .max_abs = INFINITY };
	}
}

static void tell(struct st_svf_replay_run *x, const json_t *variant, bool resumed)
{
	const json_t *debug = json_object_get(variant, "stage_debug"), *checks = json_object_get(debug, "checks");
	bool passed = json_is_true(json_object_get(debug, "functional_parity_passed"));
	size_t equal = 0, i;
	json_t *c;
	x->failed |= !passed;
	json_array_foreach(checks, i, c) equal += json_is_true(json_object_get(c, "byte_match"));
	fprintf(x->text, "%s [%s]: %s, %zu of %d stages byte-equal%s\n",
	        json_string_value(json_object_get(variant, "source_name")),
	        json_string_value(json_object_get(debug, "stage_final_orientation")), passed ? "passed" : "FAILED",
	        equal, ST_SVF_STAGES, resumed ? " (from an earlier run)" : "");
	json_array_foreach(checks, i, c) if (json_is_true(json_object_get(c, "required_for_functional_parity"))
	                                     && !json_is_true(json_object_get(c, "functional_passed")))
	{
		const json_t *max = json_object_get(c, "max_abs_error");
		if (json_is_real(max))
			fprintf(x->text, "  %s: max %.3g mean %.3g, %lld elements differ\n",
			        json_string_value(json_object_get(c, "stage")), json_real_value(max),
			        json_number_value(json_object_get(c, "mean_abs_error")),
			        (long long)json_integer_value(json_object_get(c, "mismatched_element_count")));
		else
			fprintf(x->text, "  %s: %s\n", json_string_value(json_object_get(c, "stage")),
			        json_is_true(json_object_get(c, "shape_match")) ? "differs"
			                                                        : "differs in shape or digest");
	}
}

/* An earlier run's result for these very inputs, or NULL. */
static json_t *resume(struct st_svf_replay_run *x, const struct st_svf_replay_item *it)
{
	json_t *j = NULL, *v = NULL;
	struct st_error ignored = ST_ERROR_INIT;
	char hex[65];
	if (st_json_load(it->note, &j, &ignored) != ST_OK || !j)
		return NULL;
	const char *key = json_string_value(json_object_get(j, "key")),
		   *sha = json_string_value(json_object_get(j, "sha256"));
	if (key && sha && strcmp(key, x->key) == 0 && st_svf_file_sha256(it->path, hex, &ignored) == ST_OK
	    && strcmp(hex, sha) == 0) {
		v = json_incref(json_object_get(j, "variant"));
		json_array_extend(x->warnings, json_object_get(j, "warnings"));
	}
	json_decref(j);
	return v;
}

/* Beside the stage file: the result, and the warnings that came with it, which begin at index `first`. */
static enum st_status note(struct st_svf_replay_run *x, const struct st_svf_replay_item *it, json_t *variant,
                           size_t first, struct st_error *err)
{
	char hex[65];
	ST_TRY(st_svf_file_sha256(it->path, hex, err));
	json_t *j = json_object(), *warnings = json_array();
	for (size_t i = first; i < json_array_size(x->warnings); i++)
		json_array_append(warnings, json_array_get(x->warnings, i));
	st_json_put(j, "warnings", warnings);
	st_json_put(j, "key", st_json_text(x->key));
	st_json_put(j, "sha256", st_json_text(hex));
	st_json_put(j, "variant", json_incref(variant));
	enum st_status st = st_svf_write_json(it->note, j, err);
	json_decref(j);
	return st;
}

static enum st_status compute(struct st_svf_replay_run *x, const struct st_svf_replay_item *it, json_t **variant,
                              struct st_error *err)
{
	const struct st_tensor *theirs[ST_SVF_STAGES];
	struct st_tensor_spec specs[ST_SVF_STAGES];
	struct st_svf_work w;
	size_t n_warnings = json_array_size(x->warnings), skip = x->o->digest ? ST_SVF_OFFSETS : 0,
	       n = x->o->digest ? 3 : ST_SVF_STAGES;
	struct st_svf_stages t = { .e = it->e,
		                   .turned = it->sample && it->e->turned,
		                   .summaries = true,
		                   .small_only = x->o->digest,
		                   .hooks = &x->job.hooks,
		                   .done = &x->done,
		                   .total = x->total,
		                   .profile = &x->profile };
	ST_TRY(st_svf_replay_find_stages(x, it, theirs, err));
	ST_TRY(st_svf_stage_specs(it->e, t.turned, "stage.", &x->job.arena, specs, err));
	memcpy(t.other, theirs, sizeof t.other);
	ST_TRY(st_svf_work_open(&x->job, &w, it->e, x->job.layout,
	                        x->o->source_from_python ? theirs[ST_SVF_SOURCE] : NULL, err));
	t.winner = st_svf_job_after(&x->job, it->e) ? &w.other : NULL;
	enum st_status st = st_svf_file_open(it->path, specs + skip, n, &t.file, err);
	if (st == ST_OK)
		st = st_svf_stages_run(&t, &w.engine, err);
	if (st == ST_OK && x->digests)
		check_digests(x, it, &t);
	if (st == ST_OK) {
		st_svf_work_warnings(&w, x->warnings, &x->job.hooks);
		*variant = st_svf_replay_variant(x, it, &w, &t, it->path);
	}
	json_t *f64 = NULL;
	if (st == ST_OK && x->o->check_f64)
		st = st_svf_replay_check_f64(x, &w, &t, &f64, err);
	if (f64)
		st_json_put(*variant, "f64_check", f64);
	if (st == ST_OK)
		st = st_svf_file_commit(t.file, err);
	else
		st_svf_file_abort(t.file);
	st_svf_work_close(&w);
	return st == ST_OK ? note(x, it, *variant, n_warnings, err) : st;
}

static enum st_status keep_inputs(const struct st_svf_replay_run *x, const char *out, struct st_error *err)
{
	const char *const read[] = { x->o->python_report, x->sample_path, x->all_path, x->scales_path,
		                     x->manifest_path };
	for (size_t i = 0; i < sizeof read / sizeof *read; i++)
		ST_TRY(st_svf_keep(out, read[i], err));
	return st_svf_job_keep(&x->job, out, err);
}

/* The paths of an item. None may be an input. */
static enum st_status place(struct st_svf_replay_run *x, struct st_svf_replay_item *it, struct st_error *err)
{
	struct st_arena *a = &x->job.arena;
	const char *layout = st_svf_layout_name(x->job.layout), *slug = it->sample ? "" : it->e->safe,
		   *sep = it->sample ? "" : "_";
	it->name = st_arena_printf(a, "semantic_python_components_%s_v_layout_%s%s%s", ST_SVF_REPLAY_LABEL, layout,
	                           it->sample ? "" : "_tensor_", slug);
	it->path = st_arena_printf(a, "%s/trinity_svf_elixir_stage_%s_%s%s%s.safetensors", x->o->stage_dir,
	                           ST_SVF_REPLAY_LABEL, layout, sep, slug);
	it->note = st_arena_printf(a, "%s/.trinity_svf_replay_%s%s%s.json", x->o->stage_dir, layout, sep, slug);
	if (!it->name || !it->path || !it->note)
		return st_fail(err, ST_ERR_NOMEM, "out of memory");
	ST_TRY(keep_inputs(x, it->path, err));
	return keep_inputs(x, it->note, err);
}

static enum st_status one(struct st_svf_replay_run *x, const struct st_svf_entry *e, bool sample, struct st_error *err)
{
	struct st_svf_replay_item it = { .e = e, .sample = sample };
	ST_TRY(place(x, &it, err));
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
static enum st_status other_layout(struct st_svf_replay_run *x, struct st_error *err)
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
		st_json_put(o, "label",
		            json_sprintf("semantic_python_components_%s_v_layout_%s", ST_SVF_REPLAY_LABEL,
		                         st_svf_layout_name(layout)));
		st_json_put(o, "svd_provider", json_string("python_components_safetensors"));
		st_json_put(o, "compute_backend", st_json_text(ST_SVF_REPLAY_LABEL));
		st_json_put(o, "v_layout", st_json_text(st_svf_layout_name(layout)));
		st_json_put(o, "source_name", st_json_text(e->source_name));
		st_json_put(o, "zero_offset_max_abs_error_vs_source", st_json_number(w.engine.zero_error));
		st_json_put(o, "final", st_svf_summary_json(&t.summary[ST_SVF_FINAL_BF16], shape, 2));
		st_json_put(o, "observed_bf16_sha256", st_json_text(t.summary[ST_SVF_FINAL_BF16].sha256));
		st_json_put(o, "matches_expected",
		            json_boolean(strcmp(t.summary[ST_SVF_FINAL_BF16].sha256, x->job.ref.expected_hash) == 0));
		st_json_put(o, "diagnostic", json_true());
		json_array_append_new(x->variants, o);
		fprintf(x->text, "read as %s instead, the zero-offset error would be %.3g\n",
		        st_svf_layout_name(layout), w.engine.zero_error);
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
		snprintf(buf, n, "%lld@%lld.%ld", (long long)sb.st_size, (long long)sb.st_mtim.tv_sec,
		         sb.st_mtim.tv_nsec);
}

static enum st_status make_key(struct st_svf_replay_run *x, struct st_error *err)
{
	char report[65], c[80], s[80], a[80];
	ST_TRY(st_svf_file_sha256(x->o->python_report, report, err));
	mark(c, sizeof c, st_svf_path(&x->job.arena, x->o->components_dir, ST_SVF_COMPONENTS));
	mark(s, sizeof s, x->sample_path);
	mark(a, sizeof a, x->all_path);
	const char *environment = st_svf_environment_key(&x->job.arena, x->job.threads);
	if (!environment)
		return st_fail(err, ST_ERR_NOMEM, "out of memory");
	x->key = st_arena_printf(&x->job.arena, "3|%s|%s|%s|%s|%s|%s|%s|%d%d%d%d|%s|%s", report, c, s, a,
	                         x->job.base.sha256, x->job.vector.sha256_f32, x->job.ref.file_sha256,
	                         x->o->source_from_python, x->o->digest, x->o->check_f64, x->o->model_bf16,
	                         st_svf_tie_name(x->job.tie), environment);
	return x->key ? ST_OK : st_fail(err, ST_ERR_NOMEM, "out of memory");
}

static bool selected(const struct st_svf_replay_run *x, const struct st_svf_entry *e)
{
	return !x->o->filter || strstr(e->source_name, x->o->filter) || strstr(e->target_name, x->o->filter);
}

/* The offsets that the other side exported beside its factors are not used, only looked at. */
static enum st_status check_scales(struct st_svf_replay_run *x, struct st_error *err)
{
	struct st_container *c;
	if (access(x->scales_path, F_OK) != 0) {
		st_svf_warn(x->warnings, &x->job.hooks, ST_SVF_SCALES, "is not among the components");
		return ST_OK;
	}
	ST_TRY(st_container_open(x->scales_path, &c, err));
	for (size_t i = 0; i < x->job.ref.n; i++) {
		const struct st_svf_entry *e = &x->job.ref.entries[i];
		char name[1100];
		snprintf(name, sizeof name, "svf.scale_offsets.%s", e->safe);
		const struct st_tensor *t = st_container_find(c, name);
		float *f = t && t->n_elems == e->k && t->ndim == 1 ? st_alloc_array(e->k, sizeof *f) : NULL;
		if (f)
			st_tensor_decode(t, 0, 1, f);
		if (t && (!f || memcmp(f, x->job.vector.f32 + e->start, e->k * sizeof *f) != 0))
			st_svf_warn(x->warnings, &x->job.hooks, e->source_name,
			            "the exported offsets are not this span of the vector");
		free(f);
	}
	st_container_close(c);
	return ST_OK;
}

static enum st_status list_inputs(struct st_svf_replay_run *x, struct st_error *err)
{
	ST_TRY(st_svf_add_file(x->files, "python_report", x->o->python_report, err));
	ST_TRY(st_svf_add_file(x->files, "reference", x->o->reference, err));
	ST_TRY(st_svf_add_file(x->files, "router_vector", x->o->vector, err));
	ST_TRY(st_svf_add_file(x->files, "components",
	                       st_svf_path(&x->job.arena, x->o->components_dir, ST_SVF_COMPONENTS), err));
	if (x->sample_path)
		ST_TRY(st_svf_add_file(x->files, "python_stages", x->sample_path, err));
	if (x->all_path)
		ST_TRY(st_svf_add_file(x->files, "python_all_selected_stages", x->all_path, err));
	return ST_OK;
}

/* The item can be written, the other side's stages are there, and its source can be this side's where that is asked
 * for. */
static enum st_status look_at_item(struct st_svf_replay_run *x, struct st_svf_replay_item *it, struct st_error *err)
{
	const struct st_tensor *theirs[ST_SVF_STAGES];
	ST_TRY(place(x, it, err));
	ST_TRY(st_svf_replay_find_stages(x, it, theirs, err));
	const struct st_tensor *s = x->o->source_from_python ? theirs[ST_SVF_SOURCE] : NULL;
	if (!s || (s->ndim == 2 && s->shape[0] == it->e->rows && s->shape[1] == it->e->cols))
		return ST_OK;
	enum st_status st = st_fail_at(err, ST_ERR_MISMATCH, s->offset, s->name, "is not [%llu, %llu], the shape of %s",
	                               (unsigned long long)it->e->rows, (unsigned long long)it->e->cols,
	                               it->e->source_name);
	st_error_in(err, it->sample ? x->sample_path : x->all_path);
	return st;
}

static enum st_status prepare(struct st_svf_replay_run *x, struct st_error *err)
{
	const struct st_svf_replay_options *o = x->o;
	size_t n = 0;
	if (!o->model && !o->source_from_python)
		return st_fail_at(err, ST_ERR_USAGE, ST_NO_OFFSET, "--model",
		                  "is needed, or --source-from-python-stage");
	ST_TRY(st_svf_profile_read("strict", &x->profile, err));
	ST_TRY(st_svf_job_open(&x->job, o->vector, o->reference, o->model, o->model_bf16, err));
	ST_TRY(st_svf_replay_open_python(x, err));
	ST_TRY(st_svf_replay_tie(x, err));
	ST_TRY(st_svf_components_layout(o->components_dir, &x->job.layout, &x->manifest, err));
	const char *components = st_svf_path(&x->job.arena, o->components_dir, ST_SVF_COMPONENTS);
	x->scales_path = st_svf_path(&x->job.arena, o->components_dir, ST_SVF_SCALES);
	x->manifest_path = st_svf_path(&x->job.arena, o->components_dir, ST_SVF_DEBUG_MANIFEST);
	if (!components || !x->scales_path || !x->manifest_path)
		return st_fail(err, ST_ERR_NOMEM, "out of memory");
	ST_TRY(st_container_open(components, &x->job.factors, err));
	x->covered = st_arena_alloc(&x->job.arena, x->job.ref.n, sizeof *x->covered);
	x->notes = st_arena_alloc(&x->job.arena, x->job.ref.n + 1, sizeof *x->notes);
	if (!x->covered || !x->notes)
		return st_fail(err, ST_ERR_NOMEM, "out of memory");
	ST_TRY(keep_inputs(x, o->out, err));
	/* Everything that will be needed is looked for before the first tensor is computed. */
	for (size_t i = 0; i < x->job.ref.n; i++) {
		const struct st_svf_entry *e = &x->job.ref.entries[i];
		bool sample = i == x->job.ref.sample;
		if (!selected(x, e) || (!sample && !o->all_selected))
			continue;
		struct st_svf_factors f;
		if (sample)
			ST_TRY(look_at_item(x, &(struct st_svf_replay_item){ .e = e, .sample = true }, err));
		if (o->all_selected)
			ST_TRY(look_at_item(x, &(struct st_svf_replay_item){ .e = e }, err));
		ST_TRY(st_svf_factors_open(x->job.factors, e, x->job.layout, &f, err));
		st_svf_factors_close(&f);
		n += sample;
		n += o->all_selected;
		x->total += e->rows * ((uint64_t)sample + o->all_selected);
	}
	if (o->source_from_python)
		st_svf_warn(x->warnings, &x->job.hooks, st_svf_stage_names[ST_SVF_SOURCE],
		            "is copied from the other side's stages, its check proves nothing");
	if (n == 0)
		return st_fail_at(err, ST_ERR_USAGE, ST_NO_OFFSET, "--selected-source-filter",
		                  "\"%.100s\" is in no selected tensor's name", o->filter ? o->filter : "");
	ST_TRY(check_scales(x, err));
	ST_TRY(make_key(x, err));
	return st_svf_make_dir(o->stage_dir, err);
}

static enum st_status run(struct st_svf_replay_run *x, struct st_error *err)
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
	ST_TRY(st_svf_replay_report(x, err));
	/* The report holds it all now. */
	for (size_t i = 0; i < x->n_notes; i++)
		unlink(x->notes[i]);
	return ST_OK;
}

enum st_status st_svf_replay(const struct st_svf_replay_options *o, struct st_svf_result *r, struct st_error *err)
{
	struct st_svf_replay_run x = { .o = o,
		                       .job = { .chunk = o->chunk_rows, .threads = o->threads, .hooks = o->hooks },
		                       .report = json_object(),
		                       .variants = json_array(),
		                       .files = json_array(),
		                       .warnings = json_array() };
	size_t len = 0;
	memset(r, 0, sizeof *r);
	x.text = open_memstream(&r->text, &len);
	enum st_status st = x.text && x.report && x.variants && x.files && x.warnings
	                          ? run(&x, err)
	                          : st_fail(err, ST_ERR_NOMEM, "out of memory");
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
