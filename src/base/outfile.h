/*
 * outfile.h - files that appear whole or not at all.
 *
 * Bytes go to a nameless file in the target's folder (O_TMPFILE; a temporary name where
 * the file system has none). Commit flushes it to disk and gives it its name in one step,
 * replacing an older file. A symbolic link is written through: what it points at is replaced. Until then nothing is
 * visible, and a killed process leaves nothing behind on file systems with O_TMPFILE.
 */
#ifndef ST_BASE_OUTFILE_H
#define ST_BASE_OUTFILE_H

#include <stele/status.h>

struct st_outfile;

ST_MUST_CHECK enum st_status st_outfile_open(const char *path, struct st_outfile **out, struct st_error *err);
/* Append. Buffered; a write error may show up in a later call, at the latest in commit. */
ST_MUST_CHECK enum st_status st_outfile_write(struct st_outfile *f, const void *p, size_t n, struct st_error *err);
ST_MUST_CHECK enum st_status st_outfile_zeros(struct st_outfile *f, uint64_t n, struct st_error *err);
/* Overwrite bytes already written (a header whose fields were not known before), or write ahead: what lies
 * between reads as zeros. Nothing may be appended after writing ahead. */
ST_MUST_CHECK enum st_status st_outfile_patch(struct st_outfile *f, uint64_t off, const void *p, size_t n,
                                              struct st_error *err);
uint64_t st_outfile_size(const struct st_outfile *f);
/* Flush and return a path under which the uncommitted bytes can be opened for reading
 * (valid until commit or abort). */
ST_MUST_CHECK enum st_status st_outfile_readable(struct st_outfile *f, const char **path, struct st_error *err);
/* Both free f. Commit on failure aborts; abort(NULL) is fine. */
ST_MUST_CHECK enum st_status st_outfile_commit(struct st_outfile *f, struct st_error *err);
void st_outfile_abort(struct st_outfile *f);
/* A file of these bytes. path NULL: there was no memory for it. */
ST_MUST_CHECK enum st_status st_outfile_whole(const char *path, const void *p, size_t n, struct st_error *err);

/*
 * The same promise for a folder: build under a temporary name, then rename. A process that is killed outright (SIGKILL,
 * power) leaves its temporary folder, NAME.stele-PID-N, behind.
 *
 * `replaces`: patterns for the names in a folder of the kind that is written, NULL last; or NULL, and then no folder
 * may be there. An older folder is replaced if it is empty, or if it holds the first of these names and none that
 * matches no pattern. It changes places with the new one, in one step where the file system can do that, and is then
 * removed.
 */
struct st_outdir;
ST_MUST_CHECK enum st_status st_outdir_open(const char *path, const char *const *replaces, struct st_outdir **out,
                                            struct st_error *err);
const char *st_outdir_path(const struct st_outdir *d); /* of the temporary folder */
ST_MUST_CHECK enum st_status st_outdir_commit(struct st_outdir *d, struct st_error *err);
/* Removes what was written. err (may be NULL): a failure in a file of the temporary folder gets the path that the file
 * would have had. */
void st_outdir_abort(struct st_outdir *d, struct st_error *err);

/* Remove the temporary folder of every st_outdir that is open. Async-signal-safe: for a handler that is about to
 * end the process. */
void st_outdirs_remove(void);
/* Whether the output that was begun last has its name: an interrupt then undoes nothing. Async-signal-safe. */
bool st_outputs_placed(void);

/* The error of an output that is there already and may not be replaced. */
ST_MUST_CHECK enum st_status st_out_exists(const char *path, struct st_error *err);

/* Whether writing `out` would take `in` away: it is the same file, or a folder that holds it. */
bool st_out_takes(const char *out, const char *in);

#endif
