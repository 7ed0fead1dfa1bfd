#include "report/table.h"

#include "base/mem.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void st_table_init(struct st_table *t, const char *align)
{
	memset(t, 0, sizeof *t);
	t->align = align;
	t->n_cols = strlen(align);
}

void st_table_release(struct st_table *t)
{
	st_text_release(&t->text);
	free(t->cells);
	memset(t, 0, sizeof *t);
}

void st_table_cell(struct st_table *t, enum st_style style, const char *s)
{
	void *cells = t->cells;
	if (!st_grow(&cells, &t->cap, t->n_cells + 1, sizeof *t->cells)) {
		t->text.failed = true;
		return;
	}
	t->cells = cells;
	size_t off = t->text.len;
	if (s)
		st_text_add_safe(&t->text, s, strlen(s));
	t->cells[t->n_cells++] = (struct st_table_cell){ off, t->text.len - off, style };
}

void st_table_cellf(struct st_table *t, enum st_style style, const char *fmt, ...)
{
	char buf[1024];
	va_list ap;
	va_start(ap, fmt);
	vsnprintf(buf, sizeof buf, fmt, ap);
	va_end(ap);
	st_table_cell(t, style, buf);
}

void st_table_short(struct st_table *t, double v)
{
	struct st_text s = { 0 };
	st_text_short(&s, v);
	st_table_cell(t, ST_STYLE_PLAIN, s.s);
	t->text.failed |= s.failed;
	st_text_release(&s);
}

void st_table_number(struct st_table *t, double v, int digits)
{
	if (isnan(v))
		st_table_cell(t, ST_STYLE_PLAIN, "nan");
	else if (isinf(v))
		st_table_cell(t, ST_STYLE_PLAIN, v < 0 ? "-inf" : "inf");
	else
		st_table_cellf(t, ST_STYLE_PLAIN, "%.*g", digits, v);
}

const char *st_style_on(enum st_style style, bool colour)
{
	static const char *const on[] = { "", "\033[32m", "\033[33m", "\033[1;31m", "\033[2m" };
	return colour ? on[style] : "";
}

const char *st_style_off(enum st_style style, bool colour)
{
	return colour && style != ST_STYLE_PLAIN ? "\033[0m" : "";
}

/* Columns [first, end) of one row. */
static void render_piece(const struct st_table *t, size_t row, size_t first, size_t end, const size_t *width,
                         bool colour, struct st_text *out)
{
	size_t owed = 0;
	for (size_t col = first; col < end; col++) {
		const struct st_table_cell *c = &t->cells[row + col];
		size_t fill = width[col] - (c->len ? st_text_width(t->text.s + c->off, c->len) : 0);
		bool right = t->align[col] == 'r';
		st_text_pad(out, owed + (right ? fill : 0));
		st_text_puts(out, st_style_on(c->style, colour));
		if (c->len)
			st_text_add(out, t->text.s + c->off, c->len);
		st_text_puts(out, st_style_off(c->style, colour));
		owed = 2 + (right ? 0 : fill);
	}
	st_text_puts(out, "\n");
}

/* The column behind the last one that fits on a line with `first`; a column of its own always does. */
static size_t columns_that_fit(const size_t *width, size_t first, size_t n, size_t room)
{
	size_t used = width[first], end = first + 1;
	while (end < n && used + 2 + width[end] <= room)
		used += 2 + width[end++];
	return end;
}

void st_table_render(const struct st_table *t, struct st_text *out, const char *indent, const struct st_page *page)
{
	enum { FURTHER = 4 }; /* blanks in front of what goes on from the line above */
	size_t *width = st_alloc_zeroed(t->n_cols, sizeof *width);
	if (!width || t->text.failed) {
		free(width);
		out->failed = true;
		return;
	}
	for (size_t i = 0; i < t->n_cells; i++) {
		const struct st_table_cell *c = &t->cells[i];
		size_t w = c->len ? st_text_width(t->text.s + c->off, c->len) : 0;
		if (w > width[i % t->n_cols])
			width[i % t->n_cols] = w;
	}
	size_t margin = strlen(indent), room = !page->columns         ? SIZE_MAX / 2
	                                     : page->columns > margin ? page->columns - margin
	                                                              : 0;
	for (size_t row = 0; row < t->n_cells; row += t->n_cols) {
		size_t n = row + t->n_cols < t->n_cells ? t->n_cols : t->n_cells - row;
		for (size_t first = 0, end; first < t->n_cols; first = end) {
			size_t here = first ? room - (room > FURTHER ? FURTHER : 0) : room;
			end = columns_that_fit(width, first, t->n_cols, here);
			size_t last = end < n ? end : n;
			while (last > first && t->cells[row + last - 1].len == 0)
				last--; /* empty cells at the end leave no blanks */
			if (last <= first && first)
				continue;
			st_text_puts(out, indent);
			st_text_pad(out, first ? FURTHER : 0);
			render_piece(t, row, first, last, width, page->colour, out);
		}
	}
	free(width);
}
