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
		{ "tool", json_string("stele") }, { "version", st_json_text(st_version()) },
		{ "threads", json_integer(st_pool_threads(pool)) },
		{ "cpu_level", st_json_text(st_cpu_name(st_cpu_best())) },
		{ "products", json_string("f32 fused multiply-add, sums of 256 added in order; the bits do not depend "
	                                  "on threads or CPU level") },
		{ "bf16_cast", json_string("round to nearest even") }, { "svd", st_json_text(svd) },
		{ "lapack", st_json_text(st_lapack_name(lapack, sizeof lapack)) },
		{ "platform", uname(&u) == 0 ? json_sprintf("%s %s", u.sysname, u.machine) : json_null() });
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

enum st_status st_svf_add_file(struct st_svf_job *j, const char *role, const char *path, struct st_error *err)
{
	char hex[65];
	uint64_t bytes;
	if (!path)
		return ST_OK;
	ST_TRY(st_file_sha256(path, hex, &bytes, err));
	st_json_add(j->files, st_json_object({ "role", st_json_text(role) }, { "path", st_json_text(path) },
	                                     { "bytes", st_json_u64(bytes) }, { "sha256", st_json_text(hex) }));
	return ST_OK;
}

json_t *st_svf_put_entry(json_t *o, const struct st_svf_entry *e)
{
	return st_json_put_all(o, { "source_name", st_json_text(e->source_name) },
	                       { "elixir_name", st_json_text(e->target_name) },
	                       { "offset_start", st_json_u64(e->start) }, { "offset_end", st_json_u64(e->end) });
}

json_t *st_svf_scale_json(const struct st_svf_engine *g)
{
	uint64_t k = g->e->k;
	return st_json_object({ "singular_values", st_svf_summary_floats(g->f->s, k, 16) },
	                      { "typed_offsets", st_svf_summary_floats(g->offsets, k, 16) },
	                      { "scaled_s", st_svf_summary_floats(g->scaled, k, 16) },
	                      { "sum_s", st_json_number((double)g->sum_s) },
	                      { "sum_scaled_s", st_json_number((double)g->sum_scaled) },
	                      { "normalization", st_json_number((double)g->norm) });
}

json_t *st_svf_coverage(const struct st_svf_reference *r, const bool *covered)
{
	json_t *missing = json_array();
	for (size_t i = 0; i < r->n; i++)
		if (!covered[i])
			st_json_add(missing, st_json_text(r->entries[i].source_name));
	return st_json_object({ "selected", st_json_u64(r->n) },
	                      { "covered", st_json_u64(r->n - json_array_size(missing)) }, { "missing", missing });
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
	st_json_put_all(more, { "key", st_json_text(key) }, { "sha256", st_json_text(hex) });
	if (st == ST_OK)
		st = st_json_write(note, more, err);
	json_decref(more);
	return st;
}

void st_svf_result_release(struct st_svf_result *r)
{
	free(r->text);
	free(r->json);
	memset(r, 0, sizeof *r);
}
