/* evidence.c - what makes a report evidence: environment, files and their digests, coverage. */
#include "svf/svf.h"

#include "base/error.h"
#include "base/map.h"

#include <errno.h>
#include <omp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/utsname.h>
#include <unistd.h>

int st_svf_threads(int asked) { return asked > 0 ? asked : omp_get_num_procs(); }

void st_svf_log(const struct st_hooks *h, const char *fmt, ...)
{
	char line[400];
	va_list ap;
	if (!h || !h->log)
		return;
	va_start(ap, fmt);
	vsnprintf(line, sizeof line, fmt, ap);
	va_end(ap);
	h->log(h->user, line);
}

json_t *st_svf_environment(int threads, const char *svd)
{
	char lapack[200];
	struct utsname u;
	json_t *o = json_object();
	st_json_put(o, "tool", json_string("stele"));
	st_json_put(o, "version", st_json_text(st_version()));
	st_json_put(o, "threads", json_integer(threads));
	st_json_put(o, "cpu_level", st_json_text(st_cpu_name(st_cpu_best())));
	st_json_put(o, "products",
	            json_string("f32 fused multiply-add, sums of 256 added in order; the bits do not depend on threads "
	                        "or CPU level"));
	st_json_put(o, "bf16_cast", json_string("round to nearest even"));
	st_json_put(o, "svd", st_json_text(svd));
	st_json_put(o, "lapack", st_json_text(st_svf_lapack_name(lapack, sizeof lapack)));
	st_json_put(o, "platform", uname(&u) == 0 ? json_sprintf("%s %s", u.sysname, u.machine) : json_null());
	return o;
}

char *st_svf_environment_key(struct st_arena *a, int threads)
{
	json_t *o = st_svf_environment(threads, NULL);
	char *text = st_json_ok(o) ? json_dumps(o, JSON_COMPACT | JSON_SORT_KEYS) : NULL;
	char *key = text ? st_arena_printf(a, "%s", text) : NULL;
	free(text);
	json_decref(o);
	return key;
}

enum st_status st_svf_file_sha256(const char *path, char hex[65], struct st_error *err)
{
	struct st_map m;
	ST_TRY(st_map_open(&m, path, err));
	enum st_status st = st_sha256_hex(m.data, m.size, hex, err);
	st_map_close(&m);
	return st;
}

enum st_status st_svf_add_file(json_t *files, const char *role, const char *path, struct st_error *err)
{
	struct st_map m;
	char hex[65];
	ST_TRY(st_map_open(&m, path, err));
	enum st_status st = st_sha256_hex(m.data, m.size, hex, err);
	if (st == ST_OK) {
		json_t *o = json_object();
		st_json_put(o, "role", st_json_text(role));
		st_json_put(o, "path", st_json_text(path));
		st_json_put(o, "bytes", json_integer((json_int_t)m.size));
		st_json_put(o, "sha256", st_json_text(hex));
		if (json_array_append_new(files, o) != 0)
			st = st_fail(err, ST_ERR_NOMEM, "out of memory");
	}
	st_map_close(&m);
	return st;
}

json_t *st_svf_scale_json(const struct st_svf_engine *g)
{
	const struct {
		const char *name;
		const float *x;
	} parts[] = {
		{ "singular_values", g->f->s },
		{ "typed_offsets", g->offsets },
		{ "scaled_s", g->scaled },
	};
	json_t *o = json_object();
	for (size_t i = 0; i < 3; i++) {
		struct st_svf_summary s;
		struct st_error ignored = ST_ERROR_INIT;
		uint64_t k = g->e->k;
		if (st_svf_summary_begin(&s, 16, true, &ignored) == ST_OK) {
			st_svf_summary_f32(&s, parts[i].x, k);
			st_svf_summary_end(&s);
			st_json_put(o, parts[i].name, st_svf_summary_json(&s, &k, 1));
		} else {
			st_json_put(o, parts[i].name, NULL);
		}
	}
	st_json_put(o, "sum_s", st_json_number((double)g->sum_s));
	st_json_put(o, "sum_scaled_s", st_json_number((double)g->sum_scaled));
	st_json_put(o, "normalization", st_json_number((double)g->norm));
	return o;
}

json_t *st_svf_coverage(const struct st_svf_reference *r, const bool *covered)
{
	json_t *o = json_object(), *missing = json_array();
	size_t n = 0;
	for (size_t i = 0; i < r->n; i++) {
		n += covered[i];
		if (!covered[i])
			json_array_append_new(missing, st_json_text(r->entries[i].source_name));
	}
	st_json_put(o, "selected", json_integer((json_int_t)r->n));
	st_json_put(o, "covered", json_integer((json_int_t)n));
	st_json_put(o, "missing", missing);
	return o;
}

enum st_status st_svf_make_dir(const char *path, struct st_error *err)
{
	struct stat sb;
	if (mkdir(path, 0777) == 0)
		return ST_OK;
	if (errno == EEXIST && stat(path, &sb) == 0 && S_ISDIR(sb.st_mode))
		return ST_OK;
	return st_fail_errno(err, path, "cannot create folder");
}

char *st_svf_path(struct st_arena *a, const char *dir, const char *name)
{
	size_t n = strlen(dir);
	return st_arena_printf(a, "%s%s%s", dir, n && dir[n - 1] == '/' ? "" : "/", name);
}

const char *st_svf_locate(struct st_arena *a, const char *named, const char *report, const char *dir)
{
	const char *slash = strrchr(report, '/'), *base = strrchr(named, '/');
	base = base ? base + 1 : named;
	if (access(named, R_OK) == 0)
		return named;
	const char *p = slash && named[0] != '/' ? st_arena_printf(a, "%.*s/%s", (int)(slash - report), report, named)
	                                         : NULL;
	if (p && access(p, R_OK) == 0)
		return p;
	p = slash ? st_arena_printf(a, "%.*s/%s", (int)(slash - report), report, base) : base;
	if (p && access(p, R_OK) == 0)
		return p;
	p = dir ? st_svf_path(a, dir, base) : NULL;
	return p && access(p, R_OK) == 0 ? p : NULL;
}

void st_svf_result_release(struct st_svf_result *r)
{
	free(r->text);
	free(r->json);
	memset(r, 0, sizeof *r);
}
