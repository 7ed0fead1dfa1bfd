/*
 * stele/status.h - outcomes, errors, cancellation, progress.
 *
 * Every fallible function returns `enum st_status` and takes a `struct st_error *`
 * last. On success the error is untouched. On failure it holds a complete,
 * printable account: which file, where in it, and why. The first failure wins:
 * a function that cleans up after a failure never overwrites it.
 *
 * The library never prints, exits, reads the environment or touches signals.
 */
#ifndef STELE_STATUS_H
#define STELE_STATUS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define ST_MUST_CHECK __attribute__((warn_unused_result))
#define ST_PRINTF(f, a) __attribute__((format(printf, f, a)))

enum st_status {
	ST_OK = 0,
	ST_ERR_USAGE,       /* the caller's request makes no sense: an option, a name, a range */
	ST_ERR_IO,          /* the system refused: open, read, write, no space */
	ST_ERR_FORMAT,      /* the file contradicts its format, or itself */
	ST_ERR_UNSUPPORTED, /* sound, but a kind Stele does not handle; the message lists what it does */
	ST_ERR_MISMATCH,    /* two inputs that cannot be compared or combined */
	ST_ERR_LIMIT,       /* a stated limit is exceeded */
	ST_ERR_NOMEM,
	ST_ERR_CANCELLED, /* st_cancel() was called */
};

#define ST_NO_OFFSET UINT64_MAX

/* Fixed size, so that reporting a failure cannot itself fail. */
struct st_error {
	enum st_status code;
	uint64_t offset;   /* byte offset in the file, or ST_NO_OFFSET */
	char path[512];    /* file, or empty */
	char where[192];   /* tensor, key or option, or empty */
	char message[512]; /* the reason: one line, no trailing full stop or newline */
};

#define ST_ERROR_INIT                                 \
	{                                             \
		.code = ST_OK, .offset = ST_NO_OFFSET \
	}

void st_error_clear(struct st_error *err);

/* "PATH: byte N: WHERE: MESSAGE", absent parts left out. Returns the length that
 * the whole line has; `buf` is always terminated when n > 0. */
size_t st_error_format(const struct st_error *err, char *buf, size_t n);

/* "ok", "usage", "io", "format", ... : the `code` of stele.error/1. */
const char *st_status_name(enum st_status code);

/* Ask every running call of the library to stop soon with ST_ERR_CANCELLED.
 * Async-signal-safe. Stays in force until st_cancel_reset(). */
void st_cancel(void);
void st_cancel_reset(void);
bool st_cancelled(void);

/* What a long call tells its caller while it works. Any member may be NULL. */
struct st_hooks {
	void (*log)(void *user, const char *line); /* one line, no newline */
	void (*progress)(void *user, const char *what, uint64_t done, uint64_t total);
	void *user;
};

/* Which mapped file holds address `p`: its path, or NULL. Async-signal-safe, for a
 * SIGBUS handler that wants to name the file that shrank. */
const char *st_map_path_of(const void *p);

/* Name of the version of the library, "0.1.0". */
const char *st_version(void);

#endif
