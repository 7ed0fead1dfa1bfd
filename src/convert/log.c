/* log.c - the lines that a conversion says about itself. */
#include "convert/log.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

void st_list_add(struct st_log *log, struct st_text_list *l, const char *text)
{
	if (text && st_grow((void **)&l->v, &l->cap, l->n + 1, sizeof *l->v))
		l->v[l->n++] = text;
	else
		log->failed = true;
}

static void add_line(struct st_log *log, struct st_text_list *l, const char *fmt, va_list ap)
{
	va_list again;
	va_copy(again, ap);
	int n = vsnprintf(NULL, 0, fmt, ap);
	char *line = n < 0 ? NULL : st_arena_alloc(log->arena, (uint64_t)n + 1, 1);
	if (line)
		vsnprintf(line, (size_t)n + 1, fmt, again);
	va_end(again);
	st_list_add(log, l, line);
}

void st_log_line(struct st_log *log, struct st_text_list *l, const char *fmt, ...)
{
	va_list ap;
	va_start(ap, fmt);
	add_line(log, l, fmt, ap);
	va_end(ap);
}

void st_note(struct st_log *log, const char *fmt, ...)
{
	va_list ap;
	va_start(ap, fmt);
	add_line(log, &log->notes, fmt, ap);
	va_end(ap);
}

void st_log_release(struct st_log *log)
{
	free(log->notes.v);
	free(log->left.v);
	free(log->repairs.v);
}
