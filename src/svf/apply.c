/*
 * apply.c - the adapted artifact: every selected tensor in bf16 and the target's orientation, the head in f32.
 *
 * The manifest is rewritten after every tensor, so that an interrupted run goes on with the next one; it says
 * "complete" last, after everything was read back and verified.
 */
#include "svf/artifact.h"

#include "base/error.h"
#include "dtype/half.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define MAX_TURNED ((uint64_t)512 << 20)

struct apply {
	const struct st_svf_apply_options *o;
	struct st_svf_job job;
	json_t *manifest, *warnings;
	const char *manifest_path;
	uint64_t done, total;
	FILE *text;
};

/* ---- one tensor ---- */

static json_t *entry_json(const struct apply *x, size_t i)
{
	return json_array_get(json_object_get(x->manifest, "selected_tensors"), i);
}

static char *checkpoint_name(struct apply *x, const struct st_svf_entry *e)
{
	char *p = st_arena_printf(&x->job.arena, "%s/%04zu_%s.safetensors", ST_SVF_CHECKPOINTS, e->index + 1,
	                          e->target_name);
	for (char *s = p ? p + sizeof ST_SVF_CHECKPOINTS : NULL; s && *s; s++)
		if (!((*s >= 'A' && *s <= 'Z') || (*s >= 'a' && *s <= 'z') || (*s >= '0' && *s <= '9')
		      || strchr("_.-", *s)))
			*s = '_';
	return p;
}

/* Which tensor's result stands in e's place. */
static const struct st_svf_entry *winner(const struct apply *x, const struct st_svf_entry *e)
{
	const struct st_svf_entry *w = st_svf_job_after(&x->job, e);
	return w ? w : e;
}

static enum st_status write_rows(struct apply *x, struct st_svf_engine *g, const struct st_svf_entry *place,
                                 struct st_svf_file *f, uint16_t *turned, struct st_error *err)
{
	uint64_t rows = place->rows, cols = place->cols;
	for (uint64_t r = 0; r < rows; r += g->chunk) {
		uint64_t n = rows - r < g->chunk ? rows - r : g->chunk;
		ST_TRY(st_svf_engine_rows(g, r, n, err));
		if (!turned)
			ST_TRY(st_svf_file_put(f, 0, 2 * r * cols, g->bf16, 2 * n * cols, err));
		for (uint64_t i = 0; turned && i < n; i++)
			for (uint64_t c = 0; c < cols; c++)
				turned[c * rows + r + i] = g->bf16[i * cols + c];
		x->done += n;
		if (x->job.hooks.progress)
			x->job.hooks.progress(x->job.hooks.user, place->source_name, x->done, x->total);
	}
	return turned ? st_svf_file_put(f, 0, 0, turned, 2 * rows * cols, err) : ST_OK;
}

static enum st_status make_checkpoint(struct apply *x, const struct st_svf_entry *e, const char *path,
                                      double *zero_error, struct st_error *err)
{
	const struct st_svf_entry *from = winner(x, e);
	const struct st_tensor_spec spec = {
		e->target_name, ST_DTYPE_BF16, 2, { e->turned ? e->cols : e->rows, e->turned ? e->rows : e->cols }
	};
	struct st_svf_work w;
	struct st_svf_file *f;
	char why[200];
	uint64_t bytes = 2 * e->rows * e->cols;
	uint16_t *turned = NULL;
	if (e->turned && bytes > MAX_TURNED)
		return st_fail_at(err, ST_ERR_LIMIT, ST_NO_OFFSET, e->source_name,
		                  "turning it over takes %llu MB, more than the %llu MB allowed",
		                  (unsigned long long)(bytes >> 20), (unsigned long long)(MAX_TURNED >> 20));
	if (e->turned && !(turned = st_alloc_array(e->rows * e->cols, sizeof *turned)))
		return st_fail(err, ST_ERR_NOMEM, "out of memory");
	enum st_status st = st_svf_work_open(&x->job, &w, from, x->job.layout, NULL, err);
	if (st == ST_OK) {
		st = st_svf_file_open(path, &spec, 1, &f, err);
		if (st == ST_OK)
			st = write_rows(x, &w.engine, e, f, turned, err);
		/* Factors of something else would make a model of something else. */
		if (st == ST_OK && !st_svf_zero_test(&w.engine, why, sizeof why)) {
			st = st_fail_at(err, ST_ERR_MISMATCH, ST_NO_OFFSET, from->source_name, "%s", why);
			st_error_in(err, w.factors.path);
		}
		if (st == ST_OK)
			st_svf_work_warnings(&w, x->warnings, &x->job.hooks);
		*zero_error = w.engine.zero_error;
		if (st == ST_OK)
			st = st_svf_file_commit(f, err);
		else
			st_svf_file_abort(f);
		st_svf_work_close(&w);
	}
	free(turned);
	return st;
}

static enum st_status save_manifest(struct apply *x, struct st_error *err)
{
	st_json_put(x->manifest, "updated_at", st_json_now());
	return st_svf_write_json(x->manifest_path, x->manifest, err);
}

/* Already there from an earlier run, and what the manifest says it is. */
static bool is_done(struct apply *x, size_t i, const char *path)
{
	const json_t *o = entry_json(x, i);
	const char *status = json_string_value(json_object_get(o, "status")),
		   *sha = json_string_value(json_object_get(o, "checkpoint_sha256"));
	struct st_error ignored = ST_ERROR_INIT;
	char hex[65];
	return status && sha && strcmp(status, "complete") == 0 && access(path, R_OK) == 0
	    && st_svf_file_sha256(path, hex, &ignored) == ST_OK && strcmp(hex, sha) == 0;
}

static enum st_status apply_one(struct apply *x, size_t i, struct st_error *err)
{
	const struct st_svf_entry *e = &x->job.ref.entries[i];
	const char *path = st_svf_path(&x->job.arena, x->o->out,
	                               json_string_value(json_object_get(entry_json(x, i), "checkpoint_path")));
	char hex[65];
	double zero_error = 0;
	if (!path)
		return st_fail(err, ST_ERR_NOMEM, "out of memory");
	if (is_done(x, i, path)) {
		x->done += e->rows;
		fprintf(x->text, "%s: kept from an earlier run\n", e->source_name);
		return ST_OK;
	}
	ST_TRY(make_checkpoint(x, e, path, &zero_error, err));
	ST_TRY(st_svf_file_sha256(path, hex, err));
	json_t *o = entry_json(x, i);
	st_json_put(o, "status", json_string("complete"));
	st_json_put(o, "checkpoint_sha256", st_json_text(hex));
	st_json_put(o, "python_component_zero_error", st_json_number(zero_error));
	fprintf(x->text, "%s: %s\n", e->source_name, hex);
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
	const char *path = st_svf_path(&x->job.arena, x->o->out, ST_SVF_HEAD_FILE), *ignored;
	struct st_writer *w;
	char hex[65];
	if (!path)
		return st_fail(err, ST_ERR_NOMEM, "out of memory");
	ST_TRY(st_writer_open(path, &plan, &w, err));
	enum st_status st = st_writer_append(w, x->job.vector.f32 + r->n_scales,
	                                     r->head_rows * r->head_cols * sizeof(float), err);
	if (st == ST_OK)
		st = st_writer_finish(w, &ignored, err);
	if (st != ST_OK) {
		st_writer_abort(w);
		return st;
	}
	ST_TRY(st_writer_commit(w, err));
	ST_TRY(st_svf_file_sha256(path, hex, err));
	st_json_put(x->manifest, "router_head_sha256", st_json_text(hex));
	fprintf(x->text, "router head [%llu, %llu]: %s\n", (unsigned long long)r->head_rows,
	        (unsigned long long)r->head_cols, hex);
	return save_manifest(x, err);
}

/* ---- the manifest ---- */

static json_t *segments(const char *name)
{
	json_t *list = json_array();
	for (const char *p = name; *p;) {
		size_t n = strcspn(p, ".");
		json_array_append_new(list, json_stringn(p, n));
		p += n + (p[n] == '.');
	}
	return list;
}

static json_t *seed_entry(struct apply *x, const struct st_svf_entry *e)
{
	json_t *o = json_object(), *keys = json_object();
	uint64_t shape[2] = { e->turned ? e->cols : e->rows, e->turned ? e->rows : e->cols };
	st_json_put(keys, "u", json_sprintf("svd.U.%s", e->safe));
	st_json_put(keys, "s", json_sprintf("svd.S.%s", e->safe));
	st_json_put(keys, "v", json_sprintf("svd.V.%s", e->safe));
	st_json_put(keys, "scale", json_sprintf("svf.scale_offsets.%s", e->safe));
	st_json_put(o, "index", json_integer((json_int_t)e->index + 1));
	st_json_put(o, "path", st_json_text(e->target_name));
	st_json_put(o, "source_name", st_json_text(e->source_name));
	st_json_put(o, "artifact_key", st_json_text(e->target_name));
	st_json_put(o, "segments", segments(e->target_name));
	st_json_put(o, "shape", st_json_shape(shape, 2));
	st_json_put(o, "type", json_string("{:bf, 16}"));
	st_json_put(o, "source_type", json_string("{:bf, 16}"));
	st_json_put(o, "status", json_string("pending"));
	st_json_put(o, "offset_start", json_integer((json_int_t)e->start));
	st_json_put(o, "offset_end", json_integer((json_int_t)e->end));
	st_json_put(o, "singular_values", json_integer((json_int_t)e->k));
	st_json_put(o, "checkpoint_path", st_json_text(checkpoint_name(x, e)));
	st_json_put(o, "checkpoint_sha256", json_null());
	st_json_put(o, "component_keys", keys);
	st_json_put(o, "python_v_layout", st_json_text(st_svf_layout_name(x->job.layout)));
	st_json_put(o, "python_component_zero_error", json_null());
	st_json_put(o, "target_verified", json_true());
	st_json_put(o, "error", json_null());
	return o;
}

static json_t *seed_manifest(struct apply *x, const char *components_sha)
{
	const struct st_svf_reference *r = &x->job.ref;
	json_t *m = json_object(), *list = json_array(), *split = json_object(), *source = json_object();
	uint64_t head[2] = { r->head_rows, r->head_cols };
	for (size_t i = 0; i < r->n; i++)
		json_array_append_new(list, seed_entry(x, &r->entries[i]));
	st_json_put(source, "scale_count", json_integer((json_int_t)r->n_scales));
	st_json_put(source, "hidden_size", json_integer((json_int_t)r->head_cols));
	st_json_put(source, "output_count", json_integer((json_int_t)r->head_rows));
	st_json_put(split, "scale_count", json_integer((json_int_t)r->n_scales));
	st_json_put(split, "head_count", json_integer((json_int_t)(r->head_rows * r->head_cols)));
	st_json_put(m, "artifact_version", json_integer(1));
	st_json_put(m, "status", json_string("running"));
	st_json_put(m, "export_complete", json_false());
	st_json_put(m, "partial_debug_only", json_false());
	st_json_put(m, "created_at", st_json_now());
	st_json_put(m, "updated_at", st_json_now());
	st_json_put(m, "base_model_repo", st_json_text(x->o->model));
	st_json_put(m, "base_model_sha256", st_json_text(x->job.base.sha256));
	/* Names that readers of these artifacts ask for. */
	st_json_put(m, "bumblebee_module", json_string("Bumblebee.Text.Qwen3"));
	st_json_put(m, "architecture", json_string("for_causal_language_modeling"));
	st_json_put(m, "xla_target", json_string("cpu"));
	st_json_put(m, "export_backend", json_string("stele"));
	st_json_put(m, "importer", json_sprintf("stele %s", st_version()));
	st_json_put(m, "python_manifest_path", json_null());
	st_json_put(m, "reference_manifest_path", st_json_text(x->o->reference));
	st_json_put(m, "reference_manifest_sha256", st_json_text(r->file_sha256));
	st_json_put(m, "source_vector_path", st_json_text(x->o->vector));
	st_json_put(m, "source_vector_tensor", st_json_text(ST_SVF_VECTOR_KEY));
	st_json_put(m, "source_vector_shape", st_json_shape(&x->job.vector.n, 1));
	st_json_put(m, "source_vector_sha256", st_json_text(x->job.vector.safetensors_sha256));
	st_json_put(m, "components_sha256", st_json_text(components_sha));
	st_json_put(m, "scale_offset_count", json_integer((json_int_t)r->n_scales));
	st_json_put(m, "router_head_shape", st_json_shape(head, 2));
	st_json_put(m, "router_head_artifact", st_json_text(ST_SVF_HEAD_FILE));
	st_json_put(m, "router_head_tensor_key", st_json_text(ST_SVF_HEAD_KEY));
	st_json_put(m, "router_head_sha256", json_null());
	st_json_put(m, "adapted_tensors_artifact", json_string("adapted_tensors.safetensors"));
	st_json_put(m, "artifact_layout", json_string("checkpoint_directory"));
	st_json_put(m, "selected_tensor_count", json_integer((json_int_t)r->n));
	st_json_put(m, "selected_singular_value_count", json_integer((json_int_t)r->n_scales));
	st_json_put(m, "selected_tensors", list);
	st_json_put(m, "source_split", source);
	st_json_put(m, "split", split);
	st_json_put(m, "tie_policy", st_json_text(st_svf_tie_name(x->job.tie)));
	st_json_put(m, "environment", st_svf_environment(x->job.threads, NULL));
	return m;
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
	json_t *old = NULL;
	ST_TRY(st_json_load(x->manifest_path, &old, err));
	if (!old)
		return ST_OK;
	const char *key = differs(old, x->manifest);
	enum st_status st = ST_OK;
	if (key && !x->o->force) {
		st = st_fail_at(err, ST_ERR_MISMATCH, ST_NO_OFFSET, key,
		                "the folder holds an artifact of other inputs; --force starts over");
		st_error_in(err, x->manifest_path);
	}
	/* Of the same inputs, but another version's or computed otherwise: made again, so that the manifest's
	 * environment is true of all. */
	bool same = json_equal(json_object_get(old, "environment"), json_object_get(x->manifest, "environment"));
	if (!key && !same)
		st_svf_log(&x->job.hooks,
		           "what is there was made by another version, library or number of threads: made again");
	for (size_t i = 0; !key && same && i < x->job.ref.n; i++) {
		const json_t *o = json_array_get(json_object_get(old, "selected_tensors"), i);
		static const char *const kept[] = { "status", "checkpoint_sha256", "python_component_zero_error" };
		for (size_t k = 0; o && k < 3; k++)
			if (json_object_get(o, kept[k]))
				st_json_put(entry_json(x, i), kept[k], json_incref(json_object_get(o, kept[k])));
	}
	json_decref(old);
	return st;
}

/* ---- the run ---- */

static enum st_status open_components(struct apply *x, struct st_error *err)
{
	struct stat sb;
	const char *path = x->o->components;
	x->job.layout = x->o->layout;
	if (stat(path, &sb) == 0 && S_ISDIR(sb.st_mode)) {
		ST_TRY(st_svf_components_layout(path, &x->job.layout, NULL, err));
		path = st_svf_path(&x->job.arena, path, ST_SVF_COMPONENTS);
		if (!path)
			return st_fail(err, ST_ERR_NOMEM, "out of memory");
	}
	ST_TRY(st_container_open(path, &x->job.factors, err));
	for (size_t i = 0; i < x->job.ref.n; i++) {
		struct st_svf_factors f;
		ST_TRY(st_svf_factors_open(x->job.factors, &x->job.ref.entries[i], x->job.layout, &f, err));
		st_svf_factors_warnings(&f, x->job.ref.entries[i].source_name, x->warnings, &x->job.hooks);
		st_svf_factors_close(&f);
		x->total += x->job.ref.entries[i].rows;
	}
	return ST_OK;
}

/* None of the files that will be written may be an input. */
static enum st_status keep_inputs(struct apply *x, struct st_error *err)
{
	static const char *const names[] = { ST_SVF_MANIFEST, ST_SVF_HEAD_FILE };
	struct st_arena *a = &x->job.arena;
	for (size_t i = 0; i < 2; i++)
		ST_TRY(st_svf_job_keep(&x->job, st_svf_path(a, x->o->out, names[i]), err));
	for (size_t i = 0; i < x->job.ref.n; i++) {
		const char *name = checkpoint_name(x, &x->job.ref.entries[i]);
		ST_TRY(st_svf_job_keep(&x->job, name ? st_svf_path(a, x->o->out, name) : NULL, err));
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

static enum st_status run(struct apply *x, struct st_error *err)
{
	const struct st_svf_apply_options *o = x->o;
	char components[65];
	struct st_svf_artifact check;
	ST_TRY(st_svf_job_open(&x->job, o->vector, o->reference, o->model, o->model_bf16, err));
	ST_TRY(open_components(x, err));
	ST_TRY(keep_inputs(x, err));
	ST_TRY(dry_run(x, err));
	st_svf_log(&x->job.hooks, "hashing %s", st_container_path(x->job.factors));
	ST_TRY(st_container_sha256(x->job.factors, components, err));
	x->manifest = seed_manifest(x, components);
	x->manifest_path = st_svf_path(&x->job.arena, o->out, ST_SVF_MANIFEST);
	if (!x->manifest_path || !st_json_ok(x->manifest))
		return st_fail(err, ST_ERR_NOMEM, "out of memory");
	if (access(o->out, F_OK) == 0)
		ST_TRY(resume(x, err));
	ST_TRY(st_svf_make_dir(o->out, err));
	ST_TRY(st_svf_make_dir(st_svf_path(&x->job.arena, o->out, ST_SVF_CHECKPOINTS), err));
	ST_TRY(save_manifest(x, err));
	ST_TRY(write_head(x, err));
	for (size_t i = 0; i < x->job.ref.n; i++)
		ST_TRY(apply_one(x, i, err));
	st_json_put(x->manifest, "status", json_string("complete"));
	st_json_put(x->manifest, "export_complete", json_true());
	ST_TRY(save_manifest(x, err));
	ST_TRY(st_svf_artifact_open(o->out, &check, err));
	st_svf_artifact_close(&check);
	return ST_OK;
}

enum st_status st_svf_apply(const struct st_svf_apply_options *o, struct st_svf_result *r, struct st_error *err)
{
	struct apply x = { .o = o,
		           .warnings = json_array(),
		           .job = { .tie = o->tie, .chunk = o->chunk_rows, .threads = o->threads, .hooks = o->hooks } };
	size_t len = 0;
	memset(r, 0, sizeof *r);
	x.text = open_memstream(&r->text, &len);
	enum st_status st = x.text && x.warnings ? run(&x, err) : st_fail(err, ST_ERR_NOMEM, "out of memory");
	if (st == ST_OK) {
		for (size_t i = 0; i < json_array_size(x.warnings); i++)
			fprintf(x.text, "warning: %s\n", json_string_value(json_array_get(x.warnings, i)));
		fprintf(x.text, "wrote and verified %s\n", o->out);
		r->json = json_dumps(x.manifest, JSON_INDENT(2) | JSON_SORT_KEYS);
		if (!r->json)
			st = st_fail(err, ST_ERR_NOMEM, "out of memory");
	}
	json_decref(x.manifest);
	json_decref(x.warnings);
	st_svf_job_close(&x.job);
	if (x.text && fclose(x.text) != 0 && st == ST_OK)
		st = st_fail(err, ST_ERR_NOMEM, "out of memory");
	if (st != ST_OK)
		st_svf_result_release(r);
	return st;
}
