#include "base/files.h"

#include "base/error.h"
#include "base/hash.h"
#include "base/map.h"
#include "base/outfile.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

char *st_path(struct st_arena *a, const char *dir, const char *name)
{
	size_t n = strlen(dir);
	return st_arena_printf(a, "%s%s%s", dir, n && dir[n - 1] == '/' ? "" : "/", name);
}

enum st_status st_folder_make(const char *path, struct st_error *err)
{
	struct stat sb;
	if (mkdir(path, 0777) == 0)
		return ST_OK;
	if (errno == EEXIST && stat(path, &sb) == 0 && S_ISDIR(sb.st_mode))
		return ST_OK;
	return st_fail_errno(err, path, "cannot create folder");
}

enum st_status st_file_sha256(const char *path, char hex[65], uint64_t *bytes, struct st_error *err)
{
	struct st_map m;
	ST_TRY(st_map_open(&m, path, err));
	enum st_status st = st_sha256_hex(m.data, m.size, hex, err);
	if (bytes)
		*bytes = m.size;
	st_map_close(&m);
	return st;
}

enum st_status st_inputs_add(struct st_inputs *in, const char *path, struct st_error *err)
{
	void *p = in->paths;
	if (!path)
		return ST_OK;
	if (!st_grow(&p, &in->cap, in->n + 1, sizeof *in->paths))
		return st_fail(err, ST_ERR_NOMEM, "out of memory");
	in->paths = p;
	in->paths[in->n++] = path;
	return ST_OK;
}

enum st_status st_inputs_keep(const struct st_inputs *in, const char *out, struct st_error *err)
{
	enum st_status st = out ? ST_OK : st_fail(err, ST_ERR_NOMEM, "out of memory");
	for (size_t i = 0; st == ST_OK && i < in->n; i++)
		if (st_out_takes(out, in->paths[i])) {
			st = st_fail(err, ST_ERR_USAGE, "is an input, or holds one");
			st_error_in(err, out);
		}
	return st;
}

void st_inputs_release(struct st_inputs *in)
{
	free(in->paths);
	*in = (struct st_inputs){ 0 };
}
