#include "base/error.h"

#include <errno.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <time.h>
#include <string.h>

static volatile sig_atomic_t cancel_flag;

void st_cancel(void) { cancel_flag = 1; }
void st_cancel_reset(void) { cancel_flag = 0; }
bool st_cancelled(void) { return cancel_flag != 0; }

const char *st_version(void) { return STELE_VERSION; }

void st_error_clear(struct st_error *err)
{
	memset(err, 0, sizeof *err);
	err->offset = ST_NO_OFFSET;
}

/* Bytes of the UTF-8 character at s; 0 where there is none. */
static size_t character(const unsigned char *s, uint32_t *cp)
{
	size_t n = s[0] < 0x80                 ? 1
	         : s[0] >= 0xC2 && s[0] < 0xE0 ? 2
	         : s[0] >= 0xE0 && s[0] < 0xF0 ? 3
	         : s[0] >= 0xF0 && s[0] < 0xF5 ? 4
	                                       : 0;
	*cp = n < 2 ? s[0] : s[0] & (0x7Fu >> n);
	for (size_t i = 1; i < n; i++) {
		if ((s[i] & 0xC0) != 0x80)
			return 0;
		*cp = *cp << 6 | (s[i] & 0x3Fu);
	}
	return n;
}

/* Messages quote names from files: one line and printable, whatever the file holds. */
static void sanitise(char *s)
{
	uint32_t cp;
	for (size_t n; *s; s += n ? n : 1) {
		n = character((const unsigned char *)s, &cp);
		for (size_t i = 0; i < n && st_drives_terminal(cp); i++)
			s[i] = '?';
		if (n == 0)
			*s = '?';
	}
}

/* Cutting at the buffer's end may split a UTF-8 sequence; drop the broken tail. */
static void trim_utf8(char *s)
{
	size_t n = strlen(s), i = n;
	while (i > 0 && ((unsigned char)s[i - 1] & 0xC0) == 0x80 && n - i < 3)
		i--;
	if (i == 0)
		return;
	unsigned char lead = (unsigned char)s[i - 1];
	size_t need = lead >= 0xF0 ? 4 : lead >= 0xE0 ? 3 : lead >= 0xC0 ? 2 : 1;
	if (lead >= 0x80 && n - (i - 1) < need)
		s[i - 1] = '\0';
}

static void copy_text(char *dst, size_t size, const char *src)
{
	snprintf(dst, size, "%s", src);
	trim_utf8(dst);
	sanitise(dst);
}

static enum st_status record(struct st_error *err, enum st_status code, uint64_t offset, const char *where,
                             const char *fmt, va_list ap)
{
	if (err->code != ST_OK)
		return err->code;
	err->code = code;
	err->offset = offset;
	if (where)
		copy_text(err->where, sizeof err->where, where);
	vsnprintf(err->message, sizeof err->message, fmt, ap);
	trim_utf8(err->message);
	sanitise(err->message);
	return code;
}

enum st_status(st_fail)(struct st_error *err, enum st_status code, const char *fmt, ...)
{
	va_list ap;
	va_start(ap, fmt);
	enum st_status st = record(err, code, ST_NO_OFFSET, NULL, fmt, ap);
	va_end(ap);
	return st;
}

enum st_status(st_fail_at)(struct st_error *err, enum st_status code, uint64_t offset, const char *where,
                           const char *fmt, ...)
{
	va_list ap;
	va_start(ap, fmt);
	enum st_status st = record(err, code, offset, where, fmt, ap);
	va_end(ap);
	return st;
}

enum st_status(st_fail_errno)(struct st_error *err, const char *path, const char *what)
{
	int e = errno;
	enum st_status st = st_fail(err, e == ENOMEM ? ST_ERR_NOMEM : ST_ERR_IO, "%s: %s", what, strerror(e));
	st_error_in(err, path);
	return st;
}

void st_error_in(struct st_error *err, const char *path)
{
	if (err->code != ST_OK && !err->path[0] && path)
		copy_text(err->path, sizeof err->path, path);
}

enum st_status st_in_place(const char *where, enum st_status st, struct st_error *err)
{
	if (st != ST_OK && !err->where[0])
		copy_text(err->where, sizeof err->where, where);
	return st;
}

enum st_status st_check_cancel(struct st_error *err)
{
	return cancel_flag ? st_fail(err, ST_ERR_CANCELLED, "interrupted") : ST_OK;
}

size_t st_error_format(const struct st_error *err, char *buf, size_t n)
{
	char place[32] = "";
	if (err->offset != ST_NO_OFFSET)
		snprintf(place, sizeof place, "byte %llu: ", (unsigned long long)err->offset);
	int len = snprintf(buf, n, "%s%s%s%s%s%s", err->path, err->path[0] ? ": " : "", place, err->where,
	                   err->where[0] ? ": " : "", err->message);
	return len < 0 ? 0 : (size_t)len;
}

const char *st_status_name(enum st_status code)
{
	static const char *const names[] = {
		[ST_OK] = "ok",
		[ST_ERR_USAGE] = "usage",
		[ST_ERR_IO] = "io",
		[ST_ERR_FORMAT] = "format",
		[ST_ERR_UNSUPPORTED] = "unsupported",
		[ST_ERR_MISMATCH] = "mismatch",
		[ST_ERR_LIMIT] = "limit",
		[ST_ERR_NOMEM] = "memory",
		[ST_ERR_CANCELLED] = "cancelled",
	};
	return (size_t)code < sizeof names / sizeof *names ? names[code] : "unknown";
}

void st_hooks_log(const struct st_hooks *h, const char *fmt, ...)
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

double st_clock(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}
