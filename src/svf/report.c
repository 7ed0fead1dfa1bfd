/* report.c - what makes a report evidence: environment, files and their digests, coverage. */
#include "svf/job.h"

#include "base/error.h"

#include <stdlib.h>
#include <string.h>
#include <sys/utsname.h>
#include <unistd.h>

json_t *st_svf_environment(struct st_pool *pool, const char *svd)
{
	char lapack[200];
	struct utsname u;
	return st_json_object(
		ST_IS("tool", "stele"), ST_IS("version", st_version()), ST_IS("threads", st_pool_threads(pool)),
		ST_IS("cpu_level", st_cpu_name(st_cpu_best())),
		ST_IS("products", "f32 fused multiply-add, sums of 256 added in order; the bits do not depend "
	                          "on threads or CPU level"),
		ST_IS("bf16_cast", "round to nearest even"), ST_IS("svd", svd),
		ST_IS("lapack", st_lapack_name(lapack, sizeof lapack)),
		ST_IS("platform", uname(&u) == 0 ? json_sprintf("%s %s", u.sysname, u.machine) : json_null()));
}

char *st_svf_environment_key(struct st_arena *a, struct st_pool *pool)
{
	json_t *o = st_svf_environment(pool, NULL);
	char *text = st_json_ok(o) ? st_json_print(o, JSON_COMPACT | JSON_SORT_KEYS) : NULL;
	char *key = text ? st_arena_printf(a, "%s", text) : NULL;
	free(text);
	json_decref(o);
	return key;
}

enum st_status st_svf_add_files(struct st_svf_job *j, const struct st_svf_listed *files, size_t n, struct st_error *err)
{
	for (const struct st_svf_listed *f = files; f < files + n; f++) {
		char hex[65];
		uint64_t bytes;
		if (!f->path)
			continue;
		ST_TRY(st_file_sha256(f->path, hex, &bytes, err));
		st_json_add(j->files, st_json_object(ST_IS("role", f->role), ST_IS("path", f->path),
		                                     ST_IS("bytes", bytes), ST_IS("sha256", hex)));
	}
	return ST_OK;
}

json_t *st_svf_put_entry(json_t *o, const struct st_svf_entry *e)
{
	return st_json_put_all(o, ST_IS("source_name", e->source_name), ST_IS("elixir_name", e->target_name),
	                       ST_IS("offset_start", e->start), ST_IS("offset_end", e->end));
}

json_t *st_svf_sample_json(const struct st_svf_job *j)
{
	const struct st_svf_entry *e = st_svf_job_sample(j);
	uint64_t final[2];
	st_svf_stage_shape(e, ST_SVF_FINAL_F32, e->turned, final);
	return st_json_object(ST_IS("source_name", e->source_name), ST_IS("elixir_name", e->target_name),
	                      ST_IS("source_shape", st_json_shape(e->shape, 2)),
	                      ST_IS("sample_reconstructed_shape", st_json_shape(final, 2)),
	                      ST_IS("expected_bf16_sha256", j->ref.expected_hash));
}

json_t *st_svf_variant_json(const struct st_svf_engine *g, const struct st_svf_stages *t, const char *label,
                            const char *expected)
{
	const char *hash = t->summary[ST_SVF_FINAL_BF16].sha256;
	return st_json_object(ST_IS("label", label), ST_IS("v_layout", st_svf_layout_name(g->f->layout)),
	                      ST_IS("zero_offset_max_abs_error_vs_source", g->zero_error),
	                      ST_IS("final", st_svf_stage_json(t, ST_SVF_FINAL_BF16)),
	                      ST_IS("observed_bf16_sha256", hash),
	                      ST_IS("matches_expected", json_boolean(expected && strcmp(hash, expected) == 0)));
}

json_t *st_svf_put_details(json_t *o, const struct st_svf_engine *g, const struct st_svf_stages *t)
{
	uint64_t k = g->e->k;
	json_t *s = st_json_object(ST_IS("singular_values", st_svf_summary_floats(g->f->s, k, 16)),
	                           ST_IS("typed_offsets", st_svf_summary_floats(g->offsets, k, 16)),
	                           ST_IS("scaled_s", st_svf_summary_floats(g->scaled, k, 16)), ST_IS("sum_s", g->sum_s),
	                           ST_IS("sum_scaled_s", g->sum_scaled), ST_IS("normalization", g->norm));
	return st_json_put_all(o, ST_IS("s", s), ST_IS("u_orthogonality_error", g->u_error),
	                       ST_IS("final_f32_before_bf16", st_svf_stage_json(t, ST_SVF_FINAL_F32)));
}

void st_svf_put_evidence(struct st_svf_job *j, const char *svd, const bool *covered)
{
	json_t *missing = json_array();
	for (size_t i = 0; i < j->ref.n; i++)
		if (!covered[i])
			st_json_add(missing, st_json_text(j->ref.entries[i].source_name));
	st_json_put_all(j->report, ST_IS("generated_at_utc", st_json_now()),
	                ST_IS("environment", st_svf_environment(j->pool, svd)),
	                ST_IS("base_model_sha256", j->have_base ? j->base.sha256 : NULL),
	                ST_IS("files", json_incref(j->files)), ST_IS("tie_policy", st_svf_ties[j->tie]),
	                ST_IS("coverage", st_json_object(ST_IS("selected", j->ref.n),
	                                                 ST_IS("covered", j->ref.n - json_array_size(missing)),
	                                                 ST_IS("missing", missing))),
	                ST_IS("warnings", json_incref(j->warnings)));
}

const char *st_svf_locate(struct st_arena *a, const char *named, const char *report, const char *dir)
{
	const char *slash = strrchr(report, '/'), *base = strrchr(named, '/');
	base = base ? base + 1 : named;
	const char *folder = slash ? st_arena_strndup(a, report, (size_t)(slash - report)) : NULL;
	const char *places[] = { named, folder && named[0] != '/' ? st_path(a, folder, named) : NULL,
		                 folder ? st_path(a, folder, base) : base, dir ? st_path(a, dir, base) : NULL };
	for (size_t i = 0; i < sizeof places / sizeof *places; i++)
		if (places[i] && access(places[i], R_OK) == 0)
			return places[i];
	return NULL;
}

struct note {
	const char *key, *sha256;
};
static const struct st_json_field note_fields[] = {
	{ ST_JSON_AT(struct note, key), .key = { "key" }, .required = true },
	{ ST_JSON_AT(struct note, sha256), .key = { "sha256" }, .required = true },
};

json_t *st_svf_note_read(const char *note, const char *key, const char *path)
{
	json_t *j = NULL;
	struct note n;
	struct st_error unusable = ST_ERROR_INIT; /* then the file is made again */
	char hex[65];
	if (access(path, R_OK) == 0 && st_json_load(note, &j, &unusable) == ST_OK && j
	    && st_json_read(j, NULL, note_fields, 2, &n, NULL, &unusable) == ST_OK && strcmp(n.key, key) == 0
	    && st_file_sha256(path, hex, NULL, &unusable) == ST_OK && strcmp(hex, n.sha256) == 0)
		return j;
	json_decref(j);
	return NULL;
}

enum st_status st_svf_note_write(const char *note, const char *key, const char *path, json_t *more,
                                 struct st_error *err)
{
	char hex[65];
	enum st_status st = st_file_sha256(path, hex, NULL, err);
	st_json_put_all(more, ST_IS("key", key), ST_IS("sha256", hex));
	if (st == ST_OK)
		st = st_json_write(note, more, err);
	json_decref(more);
	return st;
}
