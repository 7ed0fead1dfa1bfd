/* error.h - filling in struct st_error. */
#ifndef ST_BASE_ERROR_H
#define ST_BASE_ERROR_H

#include <stele/status.h>

/* Record a failure and return its code. `where` may be NULL. A failure already recorded
 * in err stays: the first one wins. */
enum st_status st_fail(struct st_error *err, enum st_status code, const char *fmt, ...) ST_PRINTF(3, 4);
enum st_status st_fail_at(struct st_error *err, enum st_status code, uint64_t offset, const char *where,
                          const char *fmt, ...) ST_PRINTF(5, 6);
/* "MESSAGE: strerror(errno)" with ST_ERR_IO and the path. */
enum st_status st_fail_errno(struct st_error *err, const char *path, const char *what);
/* Name the file of a recorded failure, unless it already has one. */
void st_error_in(struct st_error *err, const char *path);
/* Whatever came of a step: a failure gets this place (an option, a key) unless it has one. Returns st. */
enum st_status st_in_place(const char *where, enum st_status st, struct st_error *err);

/* Characters that could drive a terminal or show a line as what it is not: C0, DEL, C1, the controls of bidirectional
 * text, and the separators of lines and paragraphs. */
static inline bool st_drives_terminal(uint32_t cp)
{
	return cp < 0x20 || (cp >= 0x7F && cp < 0xA0) || cp == 0x61C || cp == 0x200E || cp == 0x200F
	    || (cp >= 0x2028 && cp <= 0x202E) || (cp >= 0x2066 && cp <= 0x2069);
}

/* Compilers do not know that a recorded failure is never ST_OK, and would warn of values that only a success
 * fills in. Seen through this they do. */
static inline enum st_status st_failure(enum st_status st) { return st != ST_OK ? st : ST_ERR_FORMAT; }
#define st_fail(...) st_failure((st_fail)(__VA_ARGS__))
#define st_fail_at(...) st_failure((st_fail_at)(__VA_ARGS__))
#define st_fail_errno(...) st_failure((st_fail_errno)(__VA_ARGS__))

#define ST_TRY(expr)                             \
	do {                                     \
		enum st_status st_try_ = (expr); \
		if (st_try_ != ST_OK)            \
			return st_try_;          \
	} while (0)

/* Memory that was asked for, one or several pointers joined by &&. */
#define ST_NEED(pointers)                                                   \
	do {                                                                \
		if (!(pointers))                                            \
			return st_fail(err, ST_ERR_NOMEM, "out of memory"); \
	} while (0)

/* The same where the status is wanted. */
static inline enum st_status st_have(bool pointers, struct st_error *err)
{
	return pointers ? ST_OK : st_fail(err, ST_ERR_NOMEM, "out of memory");
}

/* For functions with a cleanup label: needs `enum st_status st` and `out:` in scope. */
#define ST_TRY_OUT(expr)          \
	do {                      \
		st = (expr);      \
		if (st != ST_OK)  \
			goto out; \
	} while (0)

/* ST_ERR_CANCELLED when st_cancel() was called. Long loops ask once per tile of work. */
ST_MUST_CHECK enum st_status st_check_cancel(struct st_error *err);

/* Seconds of a clock that only goes on. */
double st_clock(void);

/* One line, cut at some length, to whoever listens; hooks may be NULL. */
void st_hooks_log(const struct st_hooks *h, const char *fmt, ...) ST_PRINTF(2, 3);
/* done of total, for whoever watches. */
static inline void st_hooks_progress(const struct st_hooks *h, const char *what, uint64_t done, uint64_t total)
{
	if (h && h->progress)
		h->progress(h->user, what, done, total);
}

#endif
