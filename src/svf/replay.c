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
	const json_t *d = json_object_get(x->python.digests, it->sample ? "sample" : it->e->safe);
	for (size_t s = 0; s < ST_SVF_STAGES; s++) {
		struct st_svf_check *c = &t->check[s];
		const struct st_summary *ours = &t->summary[s];
		const char *sha = st_svf_text_in(json_object_get(d, st_svf_stage_names[s]), "sha256");
		bool same = sha && strcmp(sha, ours->sha256) == 0;
		/* The same bytes: what is true of ours is true of theirs. Different digests say that something is apart
		 * and not how far. */
		*c = (struct st_svf_check){ .shape_match = same, .byte_match = same };
		if (same)
			c->m = (struct st_distance){ .count = ours->n,
				                     .s = { .bad_a = ours->nonfinite, .bad_b = ours->nonfinite } };
		c->passed = same && st_svf_passed(&c->m, &x->profile.stage[s]);
	}
}

static bool is(const json_t *o, const char *key) { return json_is_true(json_object_get(o, key)); }

static void tell(struct st_svf_replay_run *x, const json_t *variant, bool resumed)
{
	const json_t *debug = json_object_get(variant, "stage_debug"), *checks = json_object_get(debug, "checks");
	bool passed = is(debug, "functional_parity_passed");
	FILE *f = x->job.text;
	size_t equal = 0, i;
	json_t *c;
	x->failed |= !passed;
	json_array_foreach(checks, i, c) equal += is(c, "byte_match");
	fprintf(f, "%s [%s]: %s, %zu of %d stages byte-equal%s\n", st_svf_text_in(variant, "source_name"),
	        st_svf_text_in(debug, "stage_final_orientation"), passed ? "passed" : "FAILED", equal, ST_SVF_STAGES,
	        resumed ? " (from an earlier run)" : "");
	json_array_foreach(checks, i, c)
	{
		const json_t *max = json_object_get(c, "max_abs_error");
		if (!is(c, "required_for_functional_parity") || is(c, "functional_passed"))
			continue;
		if (json_is_real(max))
			fprintf(f, "  %s: max %.3g mean %.3g, %lld elements differ\n", st_svf_text_in(c, "stage"),
			        json_real_value(max), json_number_value(json_object_get(c, "mean_abs_error")),
			        (long long)json_integer_value(json_object_get(c, "mismatched_element_count")));
		else
			fprintf(f, "  %s: %s\n", st_svf_text_in(c, "stage"),
			        is(c, "shape_match") ? "differs" : "differs in shape or digest");
	}
}

/* An earlier run's result for these very inputs, or NULL. */
static json_t *resume(struct st_svf_replay_run *x, const struct st_svf_replay_item *it)
{
	json_t *j = st_svf_note_read(it->note, x->key, it->path), *v = json_incref(json_object_get(j, "variant"));
	if (v && json_array_extend(x->job.warnings, json_object_get(j, "warnings")) != 0) {
		json_decref(v);
		v = NULL;
	}
	json_decref(j);
	return v;
}

/* Beside the stage file: the result, and the warnings that came with it, which begin at index `first`. */
static enum st_status note(struct st_svf_replay_run *x, const struct st_svf_replay_item *it, json_t *variant,
                           size_t first, struct st_error *err)
{
	json_t *warnings = json_array();
	for (size_t i = first; i < json_array_size(x->job.warnings); i++)
		st_json_add(warnings, json_incref(json_array_get(x->job.warnings, i)));
	return st_svf_note_write(it->note, x->key, it->path,
	                         st_json_object(ST_IS("warnings", warnings), ST_IS("variant", json_incref(variant))),
	                         err);
}

static enum st_status compute(struct st_svf_replay_run *x, const struct st_svf_replay_item *it, json_t **variant,
                              struct st_error *err)
{
	struct st_tensor_spec specs[ST_SVF_STAGES];
	struct st_svf_work w;
	size_t n_warnings = json_array_size(x->job.warnings), n;
	struct st_svf_stages t = { .e = it->e,
		                   .turned = it->sample && it->e->turned,
		                   .summaries = true,
		                   .kept = x->o->digest ? ST_SVF_SMALL : ST_SVF_ALL,
		                   .done = &x->done,
		                   .total = x->total,
		                   .profile = &x->profile };
	ST_TRY(st_svf_python_stages(x, it, t.other, err));
	ST_TRY(st_svf_stage_specs(it->e, t.turned, t.kept, "stage.", &x->job.arena, specs, &n, err));
	ST_TRY(st_svf_work_open(&x->job, &w, it->e, x->job.layout,
	                        x->o->source_from_python ? t.other[ST_SVF_SOURCE] : NULL, err));
	enum st_status st;
	ST_TRY_OUT(st_svf_file_open(it->path, specs, n, &t.file, err));
	ST_TRY_OUT(st_svf_work_run(&x->job, &w, &t, err));
	if (x->python.digests)
		check_digests(x, it, &t);
	st_svf_work_warnings(&x->job, &w);
	*variant = st_svf_replay_variant(x, it, &w, &t);
	if (x->o->check_f64)
		st = st_svf_replay_check_f64(x, &w, &t, *variant, err);
out:
	if (t.file)
		st = st_writer_close(t.file, st, err);
	st_svf_work_close(&w);
	return st == ST_OK ? note(x, it, *variant, n_warnings, err) : st;
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
	ST_NEED(it->name);
	ST_TRY(st_inputs_keep(&x->job.inputs, it->path, err));
	return st_inputs_keep(&x->job.inputs, it->note, err);
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
		st_json_add(x->job.variants, json_incref(variant));
		st = st_svf_add_files(&x->job, &(struct st_svf_listed){ "stages", it.path }, 1, err);
	}
	json_decref(variant);
	return st;
}

/* The sample in the layouts that it should not have: what a wrong reading would give. */
static enum st_status other_layout(struct st_svf_replay_run *x, struct st_error *err)
{
	const struct st_svf_entry *e = st_svf_job_sample(&x->job);
	enum st_svf_layout layout = x->job.layout == ST_SVF_TORCH_V ? ST_SVF_VH : ST_SVF_TORCH_V;
	struct st_svf_work w;
	struct st_svf_stages t = { .e = e, .turned = e->turned, .summaries = true, .profile = &x->profile };
	if (x->o->preferred_only || e->k != e->cols || x->o->source_from_python)
		return ST_OK;
	ST_TRY(st_svf_work_open(&x->job, &w, e, layout, NULL, err));
	enum st_status st = st_svf_work_run(&x->job, &w, &t, err);
	if (st == ST_OK) {
		st_json_add(x->job.variants, st_svf_replay_diagnostic(x, &w, &t));
		fprintf(x->job.text, "read as %s instead, the zero-offset error would be %.3g\n",
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
	ST_TRY(st_file_sha256(x->o->python_report, report, NULL, err));
	mark(c, sizeof c, x->components);
	mark(s, sizeof s, x->python.sample.path);
	mark(a, sizeof a, x->python.all.path);
	const char *environment = st_svf_environment_key(&x->job.arena, x->job.pool);
	x->key = !environment ? NULL
	                      : st_arena_printf(&x->job.arena, "3|%s|%s|%s|%s|%s|%s|%s|%d%d%d%d|%s|%s", report, c, s, a,
	                                        x->job.base.sha256, x->job.vector.sha256_f32, x->job.ref.file_sha256,
	                                        x->o->source_from_python, x->o->digest, x->o->check_f64,
	                                        x->o->model_bf16, st_svf_ties[x->job.tie], environment);
	return st_have(x->key, err);
}

static bool selected(const struct st_svf_replay_run *x, const struct st_svf_entry *e)
{
	return !x->o->filter || strstr(e->source_name, x->o->filter) || strstr(e->target_name, x->o->filter);
}

/* The offsets that the other side exported beside its factors are not used, only looked at. */
static enum st_status check_scales(struct st_svf_replay_run *x, struct st_error *err)
{
	struct st_container *c;
	enum st_status st = ST_OK;
	if (access(x->scales, F_OK) != 0) {
		st_svf_warn(&x->job, ST_SVF_SCALES, "is not among the components");
		return ST_OK;
	}
	ST_TRY(st_container_open(x->scales, &c, err));
	for (size_t i = 0; st == ST_OK && i < x->job.ref.n; i++) {
		const struct st_svf_entry *e = &x->job.ref.entries[i];
		char name[1100];
		snprintf(name, sizeof name, "svf.scale_offsets.%s", e->safe);
		const struct st_tensor *t = st_container_find(c, name);
		float *f = st_alloc_array(e->k, sizeof *f);
		bool fits = t && t->n_elems == e->k && t->ndim == 1;
		if (!f)
			st = st_fail(err, ST_ERR_NOMEM, "out of memory");
		if (f && fits)
			st_tensor_decode(t, 0, 1, f);
		if (f && t && (!fits || memcmp(f, x->job.vector.f32 + e->start, e->k * sizeof *f) != 0))
			st_svf_warn(&x->job, e->source_name, "the exported offsets are not this span of the vector");
		free(f);
	}
	st_container_close(c);
	return st;
}

static enum st_status list_inputs(struct st_svf_replay_run *x, struct st_error *err)
{
	const struct st_svf_listed files[] = { { "python_report", x->o->python_report },
		                               { "reference", x->reference },
		                               { "router_vector", x->vector },
		                               { "components", x->components },
		                               { "python_stages", x->python.sample.path },
		                               { "python_all_selected_stages", x->python.all.path } };
	return st_svf_add_files(&x->job, files, sizeof files / sizeof *files, err);
}

/* The item can be written, the other side's stages are there, and its source can be this side's where that is asked
 * for. */
static enum st_status look_at_item(struct st_svf_replay_run *x, struct st_svf_replay_item *it, struct st_error *err)
{
	const struct st_tensor *theirs[ST_SVF_STAGES];
	ST_TRY(place(x, it, err));
	ST_TRY(st_svf_python_stages(x, it, theirs, err));
	const struct st_tensor *s = x->o->source_from_python ? theirs[ST_SVF_SOURCE] : NULL;
	if (!s || (s->ndim == 2 && s->shape[0] == it->e->rows && s->shape[1] == it->e->cols))
		return ST_OK;
	return st_in_file(it->sample ? x->python.sample.path : x->python.all.path,
	                  st_fail_at(err, ST_ERR_MISMATCH, s->offset, s->name, "is not [%llu, %llu], the shape of %s",
	                             (unsigned long long)it->e->rows, (unsigned long long)it->e->cols,
	                             it->e->source_name),
	                  err);
}

static enum st_status open_components(struct st_svf_replay_run *x, struct st_error *err)
{
	const char *dir = x->o->components_dir, *manifest = st_path(&x->job.arena, dir, ST_SVF_DEBUG_MANIFEST);
	ST_TRY(st_svf_components_layout(dir, &x->job.layout, &x->manifest, err));
	x->components = st_path(&x->job.arena, dir, ST_SVF_COMPONENTS);
	x->scales = st_path(&x->job.arena, dir, ST_SVF_SCALES);
	ST_NEED(x->components && x->scales && manifest);
	ST_TRY(st_container_open(x->components, &x->job.factors, err));
	ST_TRY(st_inputs_add(&x->job.inputs, x->scales, err));
	ST_TRY(st_inputs_add(&x->job.inputs, manifest, err));
	return st_container_inputs(x->job.factors, &x->job.inputs, err);
}

/* Everything that will be needed is looked for before the first tensor is computed. */
static enum st_status look_at_items(struct st_svf_replay_run *x, struct st_error *err)
{
	const struct st_svf_replay_options *o = x->o;
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
		x->total += e->rows * ((uint64_t)sample + o->all_selected);
	}
	return x->total ? ST_OK
	                : st_fail_at(err, ST_ERR_USAGE, ST_NO_OFFSET, "--selected-source-filter",
	                             "\"%.100s\" is in no selected tensor's name", o->filter ? o->filter : "");
}

static enum st_status prepare(struct st_svf_replay_run *x, struct st_svf_result *r, struct st_error *err)
{
	const struct st_svf_replay_options *o = x->o;
	struct st_svf_job *j = &x->job;
	if (!o->model && !o->source_from_python)
		return st_fail_at(err, ST_ERR_USAGE, ST_NO_OFFSET, "--model",
		                  "is needed, or --source-from-python-stage");
	ST_TRY(st_svf_profile_read("strict", &x->profile, err));
	ST_TRY(st_svf_python_load(x, err));
	ST_TRY(st_svf_job_open(j, x->vector, x->reference, o->threads, r, err));
	if (o->model)
		ST_TRY(st_svf_job_base(j, o->model, o->model_bf16, err));
	ST_TRY(st_svf_python_open(x, err));
	ST_TRY(open_components(x, err));
	x->covered = st_arena_alloc(&j->arena, j->ref.n, sizeof *x->covered);
	x->notes = st_arena_alloc(&j->arena, j->ref.n + 1, sizeof *x->notes);
	ST_NEED(x->covered && x->notes);
	ST_TRY(st_inputs_keep(&j->inputs, o->out, err));
	ST_TRY(look_at_items(x, err));
	if (o->source_from_python)
		st_svf_warn(j, st_svf_stage_names[ST_SVF_SOURCE],
		            "is copied from the other side's stages: where it comes from, not a check of it");
	ST_TRY(check_scales(x, err));
	ST_TRY(make_key(x, err));
	return st_folder_make(o->stage_dir, err);
}

static enum st_status run(struct st_svf_replay_run *x, struct st_svf_result *r, struct st_error *err)
{
	ST_TRY(prepare(x, r, err));
	const struct st_svf_entry *s = st_svf_job_sample(&x->job);
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
	st_svf_job_wrote(&x->job, "wrote", x->o->out);
	return ST_OK;
}

enum st_status st_svf_replay(const struct st_svf_replay_options *o, struct st_svf_result *r, struct st_error *err)
{
	struct st_svf_replay_run x = { .o = o, .job = { .chunk = o->chunk_rows, .hooks = o->hooks } };
	*r = (struct st_svf_result){ 0 };
	enum st_status st = run(&x, r, err);
	st_svf_python_close(&x.python);
	json_decref(x.manifest);
	return st_svf_job_close(&x.job, st, x.failed, r, err);
}
