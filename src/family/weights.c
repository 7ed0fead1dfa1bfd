/* weights.c - a line of the section [weights]. */
#include "family/parser.h"

#include "base/error.h"

#include <stdio.h>
#include <string.h>

/* ignore NAME...: tensors that mean nothing to a forward pass; "#" is a layer, "*" at the end anything. */
static enum st_status ignore(struct st_line *l, struct st_family *f, struct st_error *err)
{
	do {
		size_t n;
		const char *s = st_line_field(l, &n);
		if (!s)
			return st_line_fail(l, err, "expected the name of a tensor");
		ST_TRY(st_family_room(l, f->n_ignored, err));
		ST_TRY(st_line_copy(l, s, n, &f->ignored[f->n_ignored++], err));
	} while (!st_line_done(l));
	return ST_OK;
}

/* apr NAME SOURCE: the source of a weight above in APR files whose tensors have the names of config.json's column. */
static enum st_status apr_source(struct st_line *l, struct st_family *f, struct st_error *err)
{
	size_t n;
	char name[64] = "";
	const char *s = st_line_name(l, &n);
	if (s)
		snprintf(name, sizeof name, "%.*s", (int)(n < 60 ? n : 60), s);
	uint32_t i = st_family_find_weight(f, name), n_sources;
	if (i == ST_FAMILY_NONE || f->weights[i].n_sources[ST_SPELLING_CONFIG] != 1)
		return st_line_fail(l, err, "\"%s\" is no weight above this line with one source in config.json's column", name);
	ST_TRY(st_source_parse(l, f, &f->weights[i].apr, &n_sources, err));
	return n_sources == 1 ? ST_OK : st_line_fail(l, err, "%s: expected one source", name);
}

/* NAME  GGUF-SOURCE  CONFIG-SOURCE  SHAPE  [if COND] [optional [if COND]] */
enum st_status st_parse_weight(struct st_line *l, struct st_family *f, struct st_error *err)
{
	struct st_family_weight w = { .line = l->number };
	size_t n;
	if (st_line_word(l, "ignore"))
		return ignore(l, f, err);
	if (st_line_word(l, "apr"))
		return apr_source(l, f, err);
	const char *s = st_line_name(l, &n);
	if (!s)
		return st_line_fail(l, err, "\"%s\": expected the name of a weight", st_line_rest(l).text);
	ST_TRY(st_family_room(l, f->n_weights, err));
	ST_TRY(st_line_copy(l, s, n, &w.name, err));
	uint32_t first = st_family_find_weight(f, w.name);
	if (first != ST_FAMILY_NONE)
		return st_line_fail(l, err, "a second weight \"%s\"; the first is in line %u", w.name,
		                    f->weights[first].line);
	for (int where = 0; where < ST_COLUMNS; where++) {
		ST_TRY(st_source_parse(l, f, &w.sources[where], &w.n_sources[where], err));
		for (uint32_t i = 0; i < w.n_sources[where]; i++)
			w.per_layer |= strchr(w.sources[where][i].name, '#') != NULL;
	}
	do {
		if (w.rank == ST_WEIGHT_RANK)
			return st_line_fail(l, err, "%s: a shape of more than %d sizes", w.name, ST_WEIGHT_RANK);
		ST_TRY(st_expression_parse(l, f, true, &w.shape[w.rank++], err));
	} while (st_line_take(l, ","));
	if (st_line_word(l, "if"))
		ST_TRY(st_expression_parse(l, f, true, &w.condition, err));
	w.optional = st_line_word(l, "optional");
	if (w.optional && st_line_word(l, "if"))
		ST_TRY(st_expression_parse(l, f, true, &w.optional_if, err));
	f->weights[f->n_weights++] = w;
	return ST_OK;
}
