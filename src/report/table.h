/*
 * table.h - rows of aligned columns.
 *
 * Cells are added left to right, row after row; a full row begins the next one. Nothing is
 * ever cut off: a row that is too wide goes on in a second line, and the row of headings with it, so that figures stay
 * whole and below their headings.
 */
#ifndef ST_REPORT_TABLE_H
#define ST_REPORT_TABLE_H

#include "report/text.h"

enum st_style { ST_STYLE_PLAIN, ST_STYLE_GOOD, ST_STYLE_WARN, ST_STYLE_BAD, ST_STYLE_DIM };

/* What is printed on. Zeros: no limit, no colour. */
struct st_page {
	size_t columns; /* of a table's line */
	size_t wrap;    /* of a sentence; 0: a sentence stays on its line, which suits grep */
	bool colour;
};

struct st_table_cell {
	size_t off, len;
	enum st_style style;
};

struct st_table {
	const char *align; /* one 'l' or 'r' per column */
	size_t n_cols;
	struct st_text text; /* of all cells */
	struct st_table_cell *cells;
	size_t n_cells, cap;
};

/* `align` must outlive the table. */
void st_table_init(struct st_table *t, const char *align);
void st_table_release(struct st_table *t);
/* `s` is made safe for a terminal (text.h); NULL is an empty cell. */
void st_table_cell(struct st_table *t, enum st_style style, const char *s);
void st_table_cellf(struct st_table *t, enum st_style style, const char *fmt, ...) ST_PRINTF(3, 4);
/* Three significant figures in at most seven columns: "0.0343", "2.15e-4". */
void st_table_short(struct st_table *t, double v);
/* A number in `digits` significant figures, "nan", "inf" or "-inf". */
void st_table_number(struct st_table *t, double v, int digits);
/* Append the rows, each line begun by `indent`, columns two blanks apart, no trailing blanks. */
void st_table_render(const struct st_table *t, struct st_text *out, const char *indent, const struct st_page *page);

/* Escape sequences around a styled piece of text; empty strings without colour. */
const char *st_style_on(enum st_style style, bool colour);
const char *st_style_off(enum st_style style, bool colour);

#endif
