#include "report/text.h"

#include "base/error.h"
#include "base/mem.h"

#include <inttypes.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

void st_text_release(struct st_text *t)
{
	free(t->s);
	memset(t, 0, sizeof *t);
}

static bool reserve(struct st_text *t, size_t more)
{
	uint64_t need;
	void *p = t->s;
	if (t->failed || !st_add_u64(t->len + 1, more, &need) || !st_grow(&p, &t->cap, need, 1)) {
		t->failed = true;
		return false;
	}
	t->s = p;
	return true;
}

void st_text_add(struct st_text *t, const char *s, size_t n)
{
	if (!reserve(t, n))
		return;
	memcpy(t->s + t->len, s, n);
	t->len += n;
	t->s[t->len] = '\0';
}

void st_text_puts(struct st_text *t, const char *s) { st_text_add(t, s, strlen(s)); }

void st_text_printf(struct st_text *t, const char *fmt, ...)
{
	va_list ap;
	va_start(ap, fmt);
	int n = vsnprintf(NULL, 0, fmt, ap);
	va_end(ap);
	if (n < 0 || !reserve(t, (size_t)n)) {
		t->failed = true;
		return;
	}
	va_start(ap, fmt);
	vsnprintf(t->s + t->len, (size_t)n + 1, fmt, ap);
	va_end(ap);
	t->len += (size_t)n;
}

void st_text_pad(struct st_text *t, size_t n)
{
	while (n--)
		st_text_add(t, " ", 1);
}

void st_text_add_safe(struct st_text *t, const char *s, size_t n)
{
	for (size_t i = 0; i < n;) {
		utf8proc_int32_t cp;
		utf8proc_ssize_t len = utf8proc_iterate((const utf8proc_uint8_t *)s + i, (utf8proc_ssize_t)(n - i),
		                                        &cp);
		if (len <= 0) {
			st_text_puts(t, "\xEF\xBF\xBD");
			i++;
			continue;
		}
		if (st_drives_terminal((uint32_t)cp))
			st_text_puts(t, "?");
		else
			st_text_add(t, s + i, (size_t)len);
		i += (size_t)len;
	}
}

void st_text_add_quoted(struct st_text *t, const char *s, size_t n)
{
	static const char from[] = "\n\r\t\"\\", to[] = "nrt\"\\";
	st_text_puts(t, "\"");
	for (size_t i = 0; i < n;) {
		utf8proc_int32_t cp;
		utf8proc_ssize_t len = utf8proc_iterate((const utf8proc_uint8_t *)s + i, (utf8proc_ssize_t)(n - i),
		                                        &cp);
		const char *hit = s[i] ? strchr(from, s[i]) : NULL;
		if (hit)
			st_text_printf(t, "\\%c", to[hit - from]);
		else if (len <= 0 || cp < 0x20 || cp == 0x7f)
			st_text_printf(t, "\\x%02x", (unsigned char)s[i]);
		else
			st_text_add_safe(t, s + i, (size_t)len);
		i += len > 0 ? (size_t)len : 1;
	}
	st_text_puts(t, "\"");
}

void st_text_add_json(struct st_text *t, const char *s)
{
	for (const char *p = s; *p;) {
		utf8proc_int32_t cp = 0;
		utf8proc_ssize_t n = (unsigned char)*p < 0x80 ? 1
		                                              : utf8proc_iterate((const utf8proc_uint8_t *)p, -1, &cp);
		if (n > 1 && st_drives_terminal((uint32_t)cp))
			st_text_printf(t, "\\u%04x", (unsigned)cp);
		else
			st_text_add(t, p, n > 0 ? (size_t)n : 1);
		p += n > 0 ? n : 1;
	}
}

size_t st_text_width(const char *s, size_t n)
{
	size_t w = 0;
	for (size_t i = 0; i < n;) {
		utf8proc_int32_t cp;
		utf8proc_ssize_t len = utf8proc_iterate((const utf8proc_uint8_t *)s + i, (utf8proc_ssize_t)(n - i),
		                                        &cp);
		if (len <= 0) {
			w++;
			i++;
			continue;
		}
		int cw = utf8proc_charwidth(cp);
		w += cw > 0 ? (size_t)cw : 0;
		i += (size_t)len;
	}
	return w;
}

/* Bytes of the escape sequence at s, which take no columns. */
static size_t escape_length(const char *s, size_t n)
{
	size_t i = 0;
	if (n < 2 || s[0] != '\033')
		return 0;
	while (i < n && s[i] != 'm')
		i++;
	return i < n ? i + 1 : n;
}

static size_t printed_width(const char *s, size_t n)
{
	size_t w = 0;
	for (size_t i = 0, end; i < n; i = end) {
		size_t escape = escape_length(s + i, n - i);
		end = i + (escape ? escape : 1);
		while (!escape && end < n && s[end] != '\033')
			end++;
		w += escape ? 0 : st_text_width(s + i, end - i);
	}
	return w;
}

/* Whether "%" or "s" follows, the units of a figure before it. */
static bool unit_follows(const char *s, size_t n)
{
	return n > 1 && s[0] == ' ' && (s[1] == '%' || (s[1] == 's' && n == 2));
}

/* The end of the word at s: a blank, but none inside of a short quotation, and none before a unit. */
static size_t word_length(const char *s, size_t n)
{
	enum { SHORT = 32 };
	size_t i = 0;
	while (i < n && (s[i] != ' ' || (i > 0 && unit_follows(s + i, n - i)))) {
		const char *close = s[i] == '"' ? memchr(s + i + 1, '"', n - i - 1) : NULL;
		i = close && close - (s + i) <= SHORT ? (size_t)(close - s) + 1 : i + 1;
	}
	return i;
}

static void wrap_line(struct st_text *t, const char *s, size_t n, const char *next, size_t width)
{
	size_t used = 0, margin = st_text_width(next, strlen(next));
	bool fresh = true; /* nothing but the margin stands on the line */
	for (size_t i = 0; i < n;) {
		size_t blanks = 0;
		while (i + blanks < n && s[i + blanks] == ' ')
			blanks++;
		size_t word = word_length(s + i + blanks, n - i - blanks), w = printed_width(s + i + blanks, word);
		/* A word that would not fit there either stays where it is. */
		if (!fresh && word && used + blanks + w > width && margin + w <= width) {
			st_text_puts(t, "\n");
			st_text_puts(t, next);
			used = margin;
			i += blanks;
			blanks = 0;
		}
		st_text_add(t, s + i, blanks + word);
		used += blanks + w;
		i += blanks + word;
		fresh = false;
	}
}

void st_text_wrap(struct st_text *t, const char *s, size_t n, const char *next, size_t width)
{
	for (size_t i = 0, end; i < n; i = end + 1) {
		const char *stop = memchr(s + i, '\n', n - i);
		end = stop ? (size_t)(stop - s) : n;
		if (width)
			wrap_line(t, s + i, end - i, next, width);
		else
			st_text_add(t, s + i, end - i);
		st_text_puts(t, "\n");
	}
}

void st_text_short(struct st_text *t, double v)
{
	char buf[40];
	double size = fabs(v);
	snprintf(buf, sizeof buf,
	         size > 0 && size < 1e-3 ? "%.2e"
	         : size >= 99999.5       ? "%.2e"
	         : size >= 999.5         ? "%.0f"
	                                 : "%.3g",
	         v);
	/* "2.15e-04" -> "2.15e-4", "1.20e+06" -> "1.20e6" */
	char *e = isfinite(v) ? strchr(buf, 'e') : NULL;
	if (e) {
		char *from = e + 1, *to = e + 1;
		if (*from == '-')
			*to++ = '-';
		from++;
		from += strspn(from, "0");
		memmove(to, from, strlen(from) + 1);
	}
	st_text_puts(t, buf);
}

void st_text_bytes(struct st_text *t, uint64_t n)
{
	static const char *const units[] = { "kB", "MB", "GB", "TB", "PB", "EB" };
	if (n < 1000) {
		st_text_printf(t, "%" PRIu64 " B", n);
		return;
	}
	double v = (double)n / 1000;
	size_t u = 0;
	/* 999.5 would print as 1000: three figures belong to the next unit. */
	while (v >= 999.5) {
		v /= 1000;
		u++;
	}
	st_text_printf(t, v < 9.995 ? "%.2f %s" : v < 99.95 ? "%.1f %s" : "%.0f %s", v, units[u]);
}

void st_text_shape(struct st_text *t, const uint64_t *shape, uint32_t ndim)
{
	st_text_puts(t, "[");
	for (uint32_t i = 0; i < ndim; i++)
		st_text_printf(t, "%s%" PRIu64, i ? ", " : "", shape[i]);
	st_text_puts(t, "]");
}
