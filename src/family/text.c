/* text.c - a description's lines and words. */
#include "family/parser.h"

#include "base/error.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

enum st_status st_family_vfail(const char *file, uint32_t line, enum st_status code, struct st_error *err,
                               const char *fmt, va_list ap)
{
	char message[500], path[300];
	vsnprintf(message, sizeof message, fmt, ap);
	snprintf(path, sizeof path, "%.256s:%u", file, line);
	enum st_status st = st_fail(err, code, "%s", message);
	st_error_in(err, path);
	return st;
}

enum st_status(st_family_fail)(const char *file, uint32_t line, enum st_status code, struct st_error *err,
                               const char *fmt, ...)
{
	va_list ap;
	va_start(ap, fmt);
	enum st_status st = st_family_vfail(file, line, code, err, fmt, ap);
	va_end(ap);
	return st;
}

enum st_status(st_line_fail)(const struct st_line *l, struct st_error *err, const char *fmt, ...)
{
	va_list ap;
	va_start(ap, fmt);
	enum st_status st = st_family_vfail(l->file, l->number, ST_ERR_FORMAT, err, fmt, ap);
	va_end(ap);
	return st;
}

void st_line_blanks(struct st_line *l)
{
	while (l->at < l->end && (*l->at == ' ' || *l->at == '\t'))
		l->at++;
}

bool st_line_done(struct st_line *l)
{
	st_line_blanks(l);
	return l->at == l->end;
}

struct st_line_rest st_line_rest(const struct st_line *l)
{
	struct st_line_rest r;
	struct st_line ahead = *l;
	st_line_blanks(&ahead);
	size_t n = (size_t)(ahead.end - ahead.at);
	if (n == 0)
		snprintf(r.text, sizeof r.text, "end of line");
	else
		snprintf(r.text, sizeof r.text, "%.*s%s", (int)(n < 40 ? n : 40), ahead.at, n > 40 ? "..." : "");
	return r;
}

bool st_line_take(struct st_line *l, const char *text)
{
	size_t n = strlen(text);
	st_line_blanks(l);
	if ((size_t)(l->end - l->at) < n || memcmp(l->at, text, n) != 0)
		return false;
	l->at += n;
	return true;
}

static bool letter(char c)
{
	return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_';
}

bool st_line_word(struct st_line *l, const char *word)
{
	const char *from = l->at;
	if (!st_line_take(l, word))
		return false;
	if (l->at == l->end || !letter(*l->at))
		return true;
	l->at = from;
	return false;
}

bool st_line_nothing(struct st_line *l)
{
	st_line_blanks(l);
	if (l->at == l->end || *l->at != '-' || (l->at + 1 < l->end && l->at[1] != ' ' && l->at[1] != '\t'))
		return false;
	l->at++;
	return true;
}

const char *st_line_name(struct st_line *l, size_t *n)
{
	st_line_blanks(l);
	const char *s = l->at;
	if (s == l->end || !letter(*s) || (*s >= '0' && *s <= '9'))
		return NULL;
	while (l->at < l->end && letter(*l->at))
		l->at++;
	*n = (size_t)(l->at - s);
	return s;
}

const char *st_line_field(struct st_line *l, size_t *n)
{
	st_line_blanks(l);
	const char *s = l->at;
	int depth = 0;
	bool quoted = false;
	for (; l->at < l->end; l->at++) {
		char c = *l->at;
		quoted ^= c == '"';
		depth += (c == '(' || c == '[') - (c == ')' || c == ']');
		if ((c == ' ' || c == '\t') && depth <= 0 && !quoted)
			break;
	}
	*n = (size_t)(l->at - s);
	return *n ? s : NULL;
}

enum st_status st_line_copy(const struct st_line *l, const char *s, size_t n, const char **out, struct st_error *err)
{
	*out = st_arena_strndup(l->arena, s, n);
	ST_NEED(*out);
	return ST_OK;
}
