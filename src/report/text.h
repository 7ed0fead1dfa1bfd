/*
 * text.h - a growing string, and tables of aligned columns in it.
 *
 * Reports are made in memory and printed by the command: the library never prints. Running
 * out of memory sticks (`failed`) and is asked about once, at the end.
 */
#ifndef ST_REPORT_TEXT_H
#define ST_REPORT_TEXT_H

#include <stele/status.h>

struct st_text {
	char *s; /* terminated; NULL while empty */
	size_t len, cap;
	bool failed;
};

void st_text_release(struct st_text *t);
void st_text_add(struct st_text *t, const char *s, size_t n);
void st_text_puts(struct st_text *t, const char *s);
void st_text_printf(struct st_text *t, const char *fmt, ...) ST_PRINTF(2, 3);
void st_text_pad(struct st_text *t, size_t n); /* n blanks */
/* A name from a file: control characters become '?', broken UTF-8 U+FFFD. */
void st_text_add_safe(struct st_text *t, const char *s, size_t n);
/* A token's text in quotes: blanks and control characters can be seen, and a byte that is no whole character. */
void st_text_add_quoted(struct st_text *t, const char *s, size_t n);
/* The text of a JSON document; characters beyond ASCII that could drive a terminal, which stand inside of strings, are
 * spelled \uXXXX. */
void st_text_add_json(struct st_text *t, const char *s);
/* Columns a terminal needs for it (wide characters take two). */
size_t st_text_width(const char *s, size_t n);

/*
 * Append the lines of s. One that is wider than `width` goes on, at a blank, in lines begun by `next`; blanks inside of
 * short quotations hold, and those before a unit. A word that is wider itself stays whole. width 0: the lines as they
 * are.
 */
void st_text_wrap(struct st_text *t, const char *s, size_t n, const char *next, size_t width);

/* Three significant figures in at most seven columns: "0.0343", "2.15e-4". */
void st_text_short(struct st_text *t, double v);
/* "1.5 GB": powers of 1000, three figures. */
void st_text_bytes(struct st_text *t, uint64_t n);
/* "[4, 1536]" */
void st_text_shape(struct st_text *t, const uint64_t *shape, uint32_t ndim);

#endif
