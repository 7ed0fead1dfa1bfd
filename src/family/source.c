/* source.c - a weight as what a file stores: a tensor's name, and what is done to it. */
#include "family/parser.h"

#include "base/error.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#define MAX_ALTERNATIVES 8u

static enum st_status add_step(struct st_line *l, struct st_source *s, struct st_source_step step, struct st_error *err)
{
	if (s->n_steps == ST_SOURCE_STEPS)
		return st_line_fail(l, err, "a source of more than %d steps", ST_SOURCE_STEPS);
	s->steps[s->n_steps++] = step;
	return ST_OK;
}

static enum st_status closing(struct st_line *l, const char *mark, struct st_error *err)
{
	if (st_line_take(l, mark))
		return ST_OK;
	return st_line_fail(l, err, "\"%s\": expected \"%s\"", st_line_rest(l).text, mark);
}

static bool name_letter(char c)
{
	return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' || c == '.'
	    || c == '#' || c == '@';
}

static bool ends(const char *s, size_t n, const char *tail)
{
	size_t k = strlen(tail);
	return n >= k && memcmp(s + n - k, tail, k) == 0;
}

/* model.norm -> model.norm.weight; a name in quotes, or that of a bias, stands as it is. */
static enum st_status tensor_name(struct st_line *l, const char **out, struct st_error *err)
{
	st_line_blanks(l);
	bool quoted = st_line_take(l, "\"");
	const char *s = l->at;
	while (l->at < l->end && name_letter(*l->at))
		l->at++;
	size_t n = (size_t)(l->at - s);
	if (n == 0)
		return st_line_fail(l, err, "\"%s\": expected a tensor's name", st_line_rest(l).text);
	if (quoted)
		ST_TRY(closing(l, "\"", err));
	if (quoted || ends(s, n, ".bias") || ends(s, n, ".weight"))
		return st_line_copy(l, s, n, out, err);
	*out = st_arena_printf(l->arena, "%.*s.weight", (int)n, s);
	ST_NEED(*out);
	return ST_OK;
}

/* [a:b] [a::n] [,a::n] [each n: a:b of m], the bracket read */
static enum st_status rows(struct st_line *l, const struct st_family *f, struct st_source *s, struct st_error *err)
{
	struct st_source_step step = { .op = ST_SOURCE_ROWS };
	bool columns = st_line_take(l, ",");
	if (st_line_word(l, "each")) {
		step.op = ST_SOURCE_EACH;
		ST_TRY(st_expression_parse(l, f, false, &step.n, err));
		ST_TRY(closing(l, ":", err));
	}
	if (!st_line_take(l, ":")) {
		ST_TRY(st_expression_parse(l, f, false, &step.a, err));
		ST_TRY(closing(l, ":", err));
	}
	if (step.op == ST_SOURCE_EACH) {
		ST_TRY(st_expression_parse(l, f, false, &step.b, err));
		if (!st_line_word(l, "of"))
			return st_line_fail(l, err, "\"%s\": expected \"of\" and the rows of a group",
			                    st_line_rest(l).text);
		ST_TRY(st_expression_parse(l, f, false, &step.m, err));
	} else if (st_line_take(l, ":")) {
		step.op = columns ? ST_SOURCE_COLUMNS : ST_SOURCE_STRIDE;
		ST_TRY(st_expression_parse(l, f, false, &step.n, err));
	} else if (columns || !st_line_take(l, "]")) {
		ST_TRY(st_expression_parse(l, f, false, &step.b, err));
	} else {
		return add_step(l, s, step, err);
	}
	ST_TRY(closing(l, "]", err));
	if (columns && step.op != ST_SOURCE_COLUMNS)
		return st_line_fail(l, err, "of columns only every nth is known: [,a::n]");
	return add_step(l, s, step, err);
}

static enum st_status stored(struct st_line *l, const struct st_family *f, struct st_source *s, struct st_error *err)
{
	ST_TRY(tensor_name(l, &s->name, err));
	if (l->at < l->end && l->at[0] == '^') {
		if (!st_line_take(l, "^T"))
			return st_line_fail(l, err, "\"%s\": expected \"^T\"", st_line_rest(l).text);
		ST_TRY(add_step(l, s, (struct st_source_step){ .op = ST_SOURCE_TRANSPOSE }, err));
	}
	while (l->at < l->end && *l->at == '[') {
		l->at++;
		ST_TRY(rows(l, f, s, err));
	}
	if (l->at == l->end || *l->at != '{')
		return ST_OK;
	l->at++;
	do {
		if (s->n_label == ST_SOURCE_LABEL)
			return st_line_fail(l, err, "a label of more than %d sizes", ST_SOURCE_LABEL);
		ST_TRY(st_expression_parse(l, f, false, &s->label[s->n_label++], err));
	} while (st_line_take(l, ","));
	return closing(l, "}", err);
}

static enum st_status one(struct st_line *l, const struct st_family *f, struct st_source *s, struct st_error *err)
{
	struct st_source_step step = { .op = ST_SOURCE_PAIRS };
	if (st_line_take(l, "1+")) {
		ST_TRY(stored(l, f, s, err));
		return add_step(l, s, (struct st_source_step){ .op = ST_SOURCE_PLUS_ONE }, err);
	}
	if (st_line_take(l, "-exp(")) {
		ST_TRY(stored(l, f, s, err));
		ST_TRY(closing(l, ")", err));
		return add_step(l, s, (struct st_source_step){ .op = ST_SOURCE_NEG_EXP }, err);
	}
	if (st_line_take(l, "times(")) {
		step.op = ST_SOURCE_TIMES;
		ST_TRY(st_expression_parse(l, f, false, &step.a, err));
		ST_TRY(closing(l, ",", err));
		ST_TRY(stored(l, f, s, err));
		ST_TRY(closing(l, ")", err));
		return add_step(l, s, step, err);
	}
	if (st_line_take(l, "pairs(")) {
		ST_TRY(st_expression_parse(l, f, false, &step.n, err));
		ST_TRY(closing(l, ",", err));
		ST_TRY(stored(l, f, s, err));
		if (st_line_take(l, ","))
			ST_TRY(st_expression_parse(l, f, false, &step.m, err));
		ST_TRY(closing(l, ")", err));
		return add_step(l, s, step, err);
	}
	return stored(l, f, s, err);
}

enum st_status st_source_parse(struct st_line *l, const struct st_family *f, struct st_source **out, uint32_t *n,
                               struct st_error *err)
{
	struct st_source found[MAX_ALTERNATIVES] = { 0 };
	*n = 0;
	*out = NULL;
	if (st_line_nothing(l))
		return ST_OK;
	do {
		if (*n == MAX_ALTERNATIVES)
			return st_line_fail(l, err, "more than %u sources of one weight", MAX_ALTERNATIVES);
		ST_TRY(one(l, f, &found[(*n)++], err));
	} while (st_line_take(l, "|"));
	*out = st_arena_alloc(l->arena, *n, sizeof **out);
	ST_NEED(*out);
	memcpy(*out, found, *n * sizeof **out);
	return ST_OK;
}

size_t st_source_spell(const char *name, int32_t layer, int32_t expert, char *buf, size_t size)
{
	size_t n = 0;
	if (size)
		buf[0] = '\0';
	for (; *name; name++) {
		char *at = n < size ? buf + n : NULL;
		size_t room = n < size ? size - n : 0;
		if (*name == '#' || *name == '@')
			n += (size_t)snprintf(at, room, "%" PRId32, *name == '#' ? layer : expert);
		else
			n += (size_t)snprintf(at, room, "%c", *name);
	}
	return n;
}
