/* files.h - paths, folders, digests of files, and what a run reads. */
#ifndef ST_BASE_FILES_H
#define ST_BASE_FILES_H

#include "base/error.h"
#include "base/mem.h"

/* DIR/NAME in the arena; NULL when out of memory. */
char *st_path(struct st_arena *a, const char *dir, const char *name);
/* mkdir, unless the folder is there. */
ST_MUST_CHECK enum st_status st_folder_make(const char *path, struct st_error *err);
/* Whatever came of reading a file: a failure gets the file's name, unless it has one. Returns st. */
static inline enum st_status st_in_file(const char *path, enum st_status st, struct st_error *err)
{
	if (st != ST_OK)
		st_error_in(err, path);
	return st;
}
/* SHA-256 of a file's bytes; *bytes (NULL: not asked for) is how many they are. */
ST_MUST_CHECK enum st_status st_file_sha256(const char *path, char hex[65], uint64_t *bytes, struct st_error *err);

/* The files that a run reads: no output may take one of them away. Paths are borrowed. All zero is an empty list. */
struct st_inputs {
	const char **paths;
	size_t n, cap;
};
/* A NULL is no file. */
ST_MUST_CHECK enum st_status st_inputs_add(struct st_inputs *in, const char *path, struct st_error *err);
/* Refuse to write `out` where it is one of them, or a folder that holds one. A NULL is a path that there was no memory
 * for. */
ST_MUST_CHECK enum st_status st_inputs_keep(const struct st_inputs *in, const char *out, struct st_error *err);
void st_inputs_release(struct st_inputs *in);

#endif
