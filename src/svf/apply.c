/*
 * apply.c - the adapted artifact: every selected tensor in bf16 and the target's orientation, the head in f32.
 *
 * The manifest is rewritten after every tensor, so that an interrupted run goes on with the next one; it says
 * "complete" last, after everything was read back and verified.
 */
#include "svf/artifact.h"
#include "svf/job.h"

#include "base/error.h"

#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

struct apply {
	const struct st_svf_apply_options *o;
	struct st_svf_job job; /* its report is the manifest */
	const char *manifest_path, *head_path;
	struct place {
		const char *name, *path; /* of a tensor's checkpoint in the folder; with the folder */
		json_t *entry;           /* in the manifest */
	} * places;
	uint64_t done, total;
};

/* ---- one tensor ---- */

static char *checkpoint_name(struct apply *x, const struct st_svf_entry *e)
{
	char *p = st_arena_printf(&x->job.arena, "%s/%04zu_%s.safetensors", ST_SVF_CHECKPOINTS, e->index + 1,
	                          e->target_name);
	for (char *s = p ? p + sizeof ST_SVF_CHECKPOINTS : NULL; s && *s; s++)
		*s = st_svf_plain(*s) ? *s : '_';
	return p;
}

static enum st_status make_checkpoint(struct apply *x, const struct st_svf_entry *e, const char *path,
                                      double *zero_error, struct st_error *err)
{
	/* The tensor whose result is stored in e's place. */
	const struct st_svf_entry *after = st_svf_job_after(&x->job, e), *from = after ? after : e;
	struct st_tensor_spec spec = { .name = e->target_name, .dtype = ST_DTYPE_BF16 };
	struct st_svf_stages t = { .e = from,
		                   .turned = e->turned,
		                   .kept = ST_SVF_BIT(ST_SVF_FINAL_BF16),
		                   .done = &x->done,
		                   .total = x->total };
	struct st_svf_work w;
	char why[200];
	spec.ndim = st_svf_stage_shape(e, ST_SVF_FINAL_BF16, e->turned, spec.shape);
	ST_TRY(st_svf_work_open(&x->job, &w, from, x->job.layout, NULL, err));
	enum st_status st;
	ST_TRY_OUT(st_svf_file_open(path, &spec, 1, &t.file, err));
	ST_TRY_OUT(st_svf_work_run(&x->job, &w, &t, err));
	/* Factors of something else would make a model of something else. */
	if (!st_svf_zero_test(&w.engine, why, sizeof why))
		ST_TRY_OUT(st_in_file(w.factors.path,
		                      st_fail_at(err, ST_ERR_MISMATCH, ST_NO_OFFSET, from->source_name, "%s", why),
		                      err));
	st_svf_work_warnings(&x->job, &w);
	*zero_error = w.engine.zero_error;
out:
	if (t.file)
		st = st_writer_close(t.file, st, err);
	st_svf_work_close(&w);
	return st;
}

static enum st_status save_manifest(struct apply *x, struct st_error *err)
{
	st_json_put(x->job.report, "updated_at", st_json_now());
	return st_json_write(x->manifest_path, x->job.report, err);
}

/* Already there from an earlier run, and what the manifest says it is. */
static bool is_done(const struct place *p)
{
	const char *status = st_svf_text_in(p->entry, "status"), *sha = st_svf_text_in(p->entry, "checkpoint_sha256");
	struct st_error unusable = ST_ERROR_INIT; /* then it is made again */
	char hex[65];
	return status && sha && strcmp(status, "complete") == 0 && access(p->path, R_OK) == 0
	    && st_file_sha256(p->path, hex, NULL, &unusable) == ST_OK && strcmp(hex, sha) == 0;
}

static enum st_status apply_one(struct apply *x, size_t i, struct st_error *err)
{
	const struct st_svf_entry *e = &x->job.ref.entries[i];
	const struct place *p = &x->places[i];
	char hex[65];
	double zero_error = 0;
	if (is_done(p)) {
		x->done += e->rows;
		fprintf(x->job.text, "%s: kept from an earlier run\n", e->source_name);
		return ST_OK;
	}
	ST_TRY(make_checkpoint(x, e, p->path, &zero_error, err));
	ST_TRY(st_file_sha256(p->path, hex, NULL, err));
	st_json_put_all(p->entry, ST_IS("status", "complete"), ST_IS("checkpoint_sha256", hex),
	                ST_IS("python_component_zero_error", zero_error));
	fprintf(x->job.text, "%s: %s\n", e->source_name, hex);
	return save_manifest(x, err);
}

/* ---- the head ---- */

static enum st_status write_head(struct apply *x, struct st_error *err)
{
	const struct st_svf_reference *r = &x->job.ref;
	const struct st_tensor_spec spec = { ST_SVF_HEAD_KEY, ST_DTYPE_F32, 2, { r->head_rows, r->head_cols } };
	/* The published file's header is not padded, and its digest is of every byte. */
	const struct st_write_plan plan = {
		.format = ST_FORMAT_SAFETENSORS, .specs = &spec, .n_specs = 1, .pad_header = false
	};
	struct st_writer *w;
	char hex[65];
	ST_TRY(st_writer_open(x->head_path, &plan, &w, err));
	enum st_status st = st_writer_append(w, x->job.vector.f32 + r->n_scales,
	                                     r->head_rows * r->head_cols * sizeof(float), err);
	ST_TRY(st_writer_close(w, st, err));
	ST_TRY(st_file_sha256(x->head_path, hex, NULL, err));
	st_json_put(x->job.report, "router_head_sha256", json_string(hex));
	fprintf(x->job.text, "router head [%llu, %llu]: %s\n", (unsigned long long)r->head_rows,
	        (unsigned long long)r->head_cols, hex);
	return save_manifest(x, err);
}

/* ---- the manifest ---- */

static json_t *segments(const char *name)
{
	json_t *list = json_array();
	for (const char *p = name; *p;) {
		size_t n = strcspn(p, ".");
		st_json_add(list, json_stringn(p, n));
		p += n + (p[n] == '.');
	}
	return list;
}

static json_t *seed_entry(const struct apply *x, const struct st_svf_entry *e, const char *checkpoint)
{
	uint64_t shape[2];
	st_svf_stage_shape(e, ST_SVF_FINAL_BF16, e->turned, shape);
	return st_json_object(
		ST_IS("index", e->index + 1), ST_IS("path", e->target_name), ST_IS("source_name", e->source_name),
		ST_IS("artifact_key", e->target_name), ST_IS("segments", segments(e->target_name)),
		ST_IS("shape", st_json_shape(shape, 2)), ST_IS("type", "{:bf, 16}"), ST_IS("source_type", "{:bf, 16}"),
		ST_IS("status", "pending"), ST_IS("offset_start", e->start), ST_IS("offset_end", e->end),
		ST_IS("singular_values", e->k), ST_IS("checkpoint_path", checkpoint),
		ST_IS("checkpoint_sha256", json_null()),
		{ "component_keys", st_json_object(ST_IS("u", json_sprintf("svd.U.%s", e->safe)),
	                                           ST_IS("s", json_sprintf("svd.S.%s", e->safe)),
	                                           ST_IS("v", json_sprintf("svd.V.%s", e->safe)),
	                                           ST_IS("scale", json_sprintf("svf.scale_offsets.%s", e->safe))) },
		ST_IS("python_v_layout", st_svf_layout_name(x->job.layout)),
		ST_IS("python_component_zero_error", json_null()), ST_IS("target_verified", json_true()),
		ST_IS("error", json_null()));
}

static void seed_manifest(struct apply *x, const char *components_sha)
{
	const struct st_svf_reference *r = &x->job.ref;
	const struct st_svf_apply_options *o = x->o;
	json_t *list = json_array();
	uint64_t head[2] = { r->head_rows, r->head_cols };
	for (size_t i = 0; i < r->n; i++) {
		x->places[i].entry = seed_entry(x, &r->entries[i], x->places[i].name);
		st_json_add(list, x->places[i].entry);
	}
	st_json_put_all(x->job.report, ST_IS("artifact_version", json_integer(1)), ST_IS("status", "running"),
	                ST_IS("export_complete", json_false()), ST_IS("partial_debug_only", json_false()),
	                ST_IS("created_at", st_json_now()), ST_IS("updated_at", st_json_now()),
	                ST_IS("base_model_repo", o->model), ST_IS("base_model_sha256", x->job.base.sha256),
	                /* Names that readers of these artifacts ask for. */
	                ST_IS("bumblebee_module", "Bumblebee.Text.Qwen3"),
	                ST_IS("architecture", "for_causal_language_modeling"), ST_IS("xla_target", "cpu"),
	                ST_IS("export_backend", "stele"), ST_IS("importer", json_sprintf("stele %s", st_version())),
	                ST_IS("python_manifest_path", json_null()), ST_IS("reference_manifest_path", o->reference),
	                ST_IS("reference_manifest_sha256", r->file_sha256), ST_IS("source_vector_path", o->vector),
	                ST_IS("source_vector_tensor", ST_SVF_VECTOR_KEY),
	                ST_IS("source_vector_shape", st_json_shape(&x->job.vector.n, 1)),
	                ST_IS("source_vector_sha256", x->job.vector.safetensors_sha256),
	                ST_IS("components_sha256", components_sha), ST_IS("scale_offset_count", r->n_scales),
	                ST_IS("router_head_shape", st_json_shape(head, 2)),
	                ST_IS("router_head_artifact", ST_SVF_HEAD_FILE),
	                ST_IS("router_head_tensor_key", ST_SVF_HEAD_KEY), ST_IS("router_head_sha256", json_null()),
	                ST_IS("adapted_tensors_artifact", "adapted_tensors.safetensors"),
	                ST_IS("artifact_layout", "checkpoint_directory"), ST_IS("selected_tensor_count", r->n),
	                ST_IS("selected_singular_value_count", r->n_scales), ST_IS("selected_tensors", list),
	                ST_IS("source_split",
	                      st_json_object(ST_IS("scale_count", r->n_scales), ST_IS("hidden_size", r->head_cols),
	                                     ST_IS("output_count", r->head_rows))),
	                ST_IS("split", st_json_object(ST_IS("scale_count", r->n_scales),
	                                              ST_IS("head_count", r->head_rows * r->head_cols))),
	                ST_IS("tie_policy", st_svf_ties[x->job.tie]),
	                ST_IS("environment", st_svf_environment(x->job.pool, NULL)));
}

/* What must be the same for checkpoints of an earlier run to be this run's. */
static const char *differs(const json_t *a, const json_t *b)
{
	static const char *const keys[] = {
		"artifact_version",  "base_model_sha256", "source_vector_sha256",          "reference_manifest_sha256",
		"components_sha256", "tie_policy",        "selected_singular_value_count", NULL
	};
	for (const char *const *k = keys; *k; k++)
		if (!json_equal(json_object_get(a, *k), json_object_get(b, *k)))
			return *k;
	/* One layout for all tensors. */
	const json_t *first[2] = { json_array_get(json_object_get(a, "selected_tensors"), 0),
		                   json_array_get(json_object_get(b, "selected_tensors"), 0) };
	return json_equal(json_object_get(first[0], "python_v_layout"), json_object_get(first[1], "python_v_layout"))
	             ? NULL
	             : "python_v_layout";
}

static enum st_status resume(struct apply *x, struct st_error *err)
{
	static const char *const kept[] = { "status", "checkpoint_sha256", "python_component_zero_error" };
	json_t *old = NULL;
	ST_TRY(st_json_load(x->manifest_path, &old, err));
	if (!old)
		return ST_OK;
	const char *key = differs(old, x->job.report);
	enum st_status st = !key || x->o->force
	                          ? ST_OK
	                          : st_fail_at(err, ST_ERR_MISMATCH, ST_NO_OFFSET, key,
	                                       "the folder holds an artifact of other inputs; --force starts over");
	/* Of the same inputs, but another version's or computed otherwise: made again, so that the manifest's
	 * environment is true of all. */
	bool same = json_equal(json_object_get(old, "environment"), json_object_get(x->job.report, "environment"));
	if (!key && !same)
		st_hooks_log(&x->job.hooks,
		             "what is there was made by another version, library or number of threads: made again");
	for (size_t i = 0; !key && same && i < x->job.ref.n; i++) {
		const json_t *o = json_array_get(json_object_get(old, "selected_tensors"), i);
		for (size_t k = 0; k < 3; k++)
			if (json_object_get(o, kept[k]))
				st_json_put(x->places[i].entry, kept[k], json_incref(json_object_get(o, kept[k])));
	}
	json_decref(old);
	return st_in_file(x->manifest_path, st, err);
}

/* ---- the run ---- */

static enum st_status open_components(struct apply *x, struct st_error *err)
{
	struct stat sb;
	const char *path = x->o->components;
	x->job.layout = x->o->layout;
	if (stat(path, &sb) == 0 && S_ISDIR(sb.st_mode)) {
		ST_TRY(st_svf_components_layout(path, &x->job.layout, NULL, err));
		path = st_path(&x->job.arena, path, ST_SVF_COMPONENTS);
		ST_NEED(path);
	}
	ST_TRY(st_container_open(path, &x->job.factors, err));
	for (size_t i = 0; i < x->job.ref.n; i++) {
		ST_TRY(st_svf_look_at_factors(&x->job, &x->job.ref.entries[i], err));
		x->total += x->job.ref.entries[i].rows;
	}
	return st_container_inputs(x->job.factors, &x->job.inputs, err);
}

/* Where everything goes. None of it may be an input. */
static enum st_status place_outputs(struct apply *x, struct st_error *err)
{
	struct st_arena *a = &x->job.arena;
	const struct st_inputs *in = &x->job.inputs;
	x->manifest_path = st_path(a, x->o->out, ST_SVF_MANIFEST);
	ST_TRY(st_inputs_keep(in, x->manifest_path, err));
	x->head_path = st_path(a, x->o->out, ST_SVF_HEAD_FILE);
	ST_TRY(st_inputs_keep(in, x->head_path, err));
	x->places = st_arena_alloc(a, x->job.ref.n, sizeof *x->places);
	ST_NEED(x->places);
	for (size_t i = 0; i < x->job.ref.n; i++) {
		struct place *p = &x->places[i];
		p->name = checkpoint_name(x, &x->job.ref.entries[i]);
		p->path = p->name ? st_path(a, x->o->out, p->name) : NULL;
		ST_TRY(st_inputs_keep(in, p->path, err));
	}
	return ST_OK;
}

/* What would make the run fail half way, asked before the folder is made: sums that cannot be divided by. */
static enum st_status dry_run(struct apply *x, struct st_error *err)
{
	for (size_t i = 0; i < x->job.ref.n; i++) {
		struct st_svf_work w;
		ST_TRY(st_svf_work_open(&x->job, &w, &x->job.ref.entries[i], x->job.layout, NULL, err));
		st_svf_work_close(&w);
	}
	return ST_OK;
}

static enum st_status run(struct apply *x, struct st_svf_result *r, struct st_error *err)
{
	const struct st_svf_apply_options *o = x->o;
	struct st_svf_job *j = &x->job;
	char components[65];
	struct st_svf_artifact check;
	ST_TRY(st_svf_job_open(j, o->vector, o->reference, o->threads, r, err));
	ST_TRY(st_svf_job_base(j, o->model, o->model_bf16, err));
	ST_TRY(open_components(x, err));
	ST_TRY(place_outputs(x, err));
	ST_TRY(dry_run(x, err));
	const char *folder = st_path(&j->arena, o->out, ST_SVF_CHECKPOINTS);
	ST_NEED(folder);
	st_hooks_log(&j->hooks, "hashing %s", st_container_path(j->factors));
	ST_TRY(st_container_sha256(j->factors, components, err));
	seed_manifest(x, components);
	ST_NEED(st_json_ok(j->report));
	if (access(o->out, F_OK) == 0)
		ST_TRY(resume(x, err));
	ST_TRY(st_folder_make(o->out, err));
	ST_TRY(st_folder_make(folder, err));
	ST_TRY(save_manifest(x, err));
	ST_TRY(write_head(x, err));
	for (size_t i = 0; i < j->ref.n; i++)
		ST_TRY(apply_one(x, i, err));
	st_json_put_all(j->report, ST_IS("status", "complete"), ST_IS("export_complete", json_true()));
	ST_TRY(save_manifest(x, err));
	ST_TRY(st_svf_artifact_open(o->out, &check, err));
	st_svf_artifact_close(&check);
	st_svf_job_wrote(j, "wrote and verified", o->out);
	return ST_OK;
}

enum st_status st_svf_apply(const struct st_svf_apply_options *o, struct st_svf_result *r, struct st_error *err)
{
	struct apply x = { .o = o, .job = { .tie = o->tie, .chunk = o->chunk_rows, .hooks = o->hooks } };
	*r = (struct st_svf_result){ 0 };
	return st_svf_job_close(&x.job, run(&x, r, err), 0, r, err);
}
