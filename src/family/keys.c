/* keys.c - which files are of a family, and the keys of its configuration. */
#include "family/parser.h"

#include "base/error.h"

#include <stdio.h>
#include <string.h>

#define MAX_SPELLINGS 8u
#define MAX_AMONG 16u

static enum st_status word(struct st_line *l, const char *what, const char **out, struct st_error *err)
{
	size_t n;
	const char *s = st_line_field(l, &n);
	if (!s)
		return st_line_fail(l, err, "expected %s", what);
	return st_line_copy(l, s, n, out, err);
}

/* gguf ARCHITECTURE [if KEY | unless KEY] */
static enum st_status gguf_name(struct st_line *l, struct st_family *f, struct st_error *err)
{
	struct st_family_name *name = &f->names[ST_SPELLING_GGUF][f->n_names[ST_SPELLING_GGUF]];
	ST_TRY(st_family_room(l, f->n_names[ST_SPELLING_GGUF]++, err));
	name->line = l->number;
	ST_TRY(word(l, "the name of an architecture", &name->name, err));
	name->unless = st_line_word(l, "unless");
	if (name->unless || st_line_word(l, "if"))
		ST_TRY(word(l, "the name of a key", &name->key, err));
	return ST_OK;
}

/* config MODEL_TYPE CLASS ..., apr ARCHITECTURE ... */
static enum st_status names(struct st_line *l, struct st_family *f, enum st_spelling where, struct st_error *err)
{
	do {
		struct st_family_name *name = &f->names[where][f->n_names[where]];
		ST_TRY(st_family_room(l, f->n_names[where]++, err));
		name->line = l->number;
		ST_TRY(word(l, where == ST_SPELLING_APR ? "an architecture" : "a model_type", &name->name, err));
	} while (!st_line_done(l));
	return ST_OK;
}

enum st_status st_parse_head(struct st_line *l, struct st_family *f, struct st_error *err)
{
	if (st_line_word(l, "family")) {
		if (f->name)
			return st_line_fail(l, err, "a second name of the family");
		return word(l, "the name of the family", &f->name, err);
	}
	if (st_line_word(l, "gguf"))
		return gguf_name(l, f, err);
	if (st_line_word(l, "config"))
		return names(l, f, ST_SPELLING_CONFIG, err);
	if (st_line_word(l, "apr"))
		return names(l, f, ST_SPELLING_APR, err);
	return st_line_fail(l, err, "\"%s\": expected family, gguf, config, apr or a section", st_line_rest(l).text);
}

static const struct {
	const char *name;
	enum st_key_type type;
} types[] = {
	{ "count", ST_KEY_COUNT }, { "real", ST_KEY_REAL },       { "flag", ST_KEY_FLAG },
	{ "text", ST_KEY_TEXT },   { "counts", ST_KEY_COUNTS },   { "reals", ST_KEY_REALS },
	{ "flags", ST_KEY_FLAGS }, { "texts", ST_KEY_TEXTS },     { "letters", ST_KEY_LETTERS },
	{ "set", ST_KEY_SET },     { "numbers", ST_KEY_NUMBERS },
};

/* a.b|c */
static enum st_status spellings(struct st_line *l, struct st_family_key *k, enum st_spelling where,
                                struct st_error *err)
{
	const char *found[MAX_SPELLINGS];
	size_t n;
	const char *s = st_line_field(l, &n), *end = s ? s + n : NULL;
	if (!s)
		return st_line_fail(l, err, "%s: expected its name in %s, or -", k->name,
		                    where == ST_SPELLING_GGUF     ? "GGUF files"
		                    : where == ST_SPELLING_CONFIG ? "config.json"
		                                                  : "APR files");
	if (n == 1 && *s == '-')
		return ST_OK;
	for (uint32_t i = 0;; i++) {
		const char *bar = memchr(s, '|', (size_t)(end - s)), *stop = bar ? bar : end;
		if (i == MAX_SPELLINGS || stop == s)
			return st_line_fail(l, err, "%s: %s", k->name,
			                    stop == s ? "an empty name" : "more than 8 names in one kind of file");
		ST_TRY(st_line_copy(l, s, (size_t)(stop - s), &found[i], err));
		k->n_spelled[where] = i + 1;
		if (!bar)
			break;
		s = bar + 1;
	}
	const char **names = st_arena_alloc(l->arena, k->n_spelled[where], sizeof *names);
	ST_NEED(names);
	memcpy(names, found, k->n_spelled[where] * sizeof *names);
	k->spelled[where] = names;
	return ST_OK;
}

/* "TEXT" "TEXT"...: what a file may say. */
static enum st_status among(struct st_line *l, struct st_family_key *k, struct st_error *err)
{
	const char *found[MAX_AMONG];
	if (k->type != ST_KEY_TEXT && k->type != ST_KEY_TEXTS && k->type != ST_KEY_LETTERS)
		return st_line_fail(l, err, "%s: among is for texts", k->name);
	while (st_line_take(l, "\"")) {
		const char *s = l->at, *end = memchr(s, '"', (size_t)(l->end - s));
		if (!end)
			return st_line_fail(l, err, "a text without its closing quote");
		if (k->n_among == MAX_AMONG)
			return st_line_fail(l, err, "%s: more than %u texts", k->name, MAX_AMONG);
		ST_TRY(st_line_copy(l, s, (size_t)(end - s), &found[k->n_among++], err));
		l->at = end + 1;
	}
	if (k->n_among == 0)
		return st_line_fail(l, err, "%s: \"%s\": expected texts in quotes", k->name, st_line_rest(l).text);
	const char **texts = st_arena_alloc(l->arena, k->n_among, sizeof *texts);
	ST_NEED(texts);
	memcpy(texts, found, k->n_among * sizeof *texts);
	k->among = texts;
	return ST_OK;
}

/* [= EXPR] [; null: EXPR] [; gguf: EXPR] [; config: EXPR] [; apr: EXPR] [; among: TEXTS] */
static enum st_status defaults(struct st_line *l, const struct st_family *f, struct st_family_key *k,
                               struct st_error *err)
{
	if (st_line_take(l, "=")) {
		struct st_expression absent;
		ST_TRY(st_expression_parse(l, f, false, &absent, err));
		for (int i = 0; i < ST_SPELLINGS; i++)
			k->absent[i] = absent;
	} else if (!st_line_done(l) && *l->at != ';') {
		return st_line_fail(l, err, "%s: \"%s\": expected = and a value", k->name, st_line_rest(l).text);
	}
	while (st_line_take(l, ";")) {
		if (st_line_word(l, "among")) {
			if (k->among || !st_line_take(l, ":"))
				return st_line_fail(l, err, "%s: \"%s\": expected one among: and texts", k->name,
				                    st_line_rest(l).text);
			ST_TRY(among(l, k, err));
			continue;
		}
		struct st_expression *e = st_line_word(l, "null")   ? &k->null
		                        : st_line_word(l, "gguf")   ? &k->absent[ST_SPELLING_GGUF]
		                        : st_line_word(l, "config") ? &k->absent[ST_SPELLING_CONFIG]
		                        : st_line_word(l, "apr")    ? &k->absent[ST_SPELLING_APR]
		                                                    : NULL;
		if (!e || !st_line_take(l, ":"))
			return st_line_fail(l, err, "%s: \"%s\": expected null:, gguf:, config:, apr: or among:", k->name,
			                    st_line_rest(l).text);
		k->own_apr_absent |= e == &k->absent[ST_SPELLING_APR];
		ST_TRY(st_expression_parse(l, f, false, e, err));
	}
	return ST_OK;
}

static const char *const taken[] = { "layer", "model", "gguf", "apr", "tensor", "rows", "true", "false",
	                             "if",    "else",  "and",  "or",     "not",  "each", "of" };

static enum st_status key_name(struct st_line *l, const struct st_family *f, const char **out, struct st_error *err)
{
	size_t n;
	const char *s = st_line_name(l, &n);
	if (!s)
		return st_line_fail(l, err, "\"%s\": expected the name of a key", st_line_rest(l).text);
	ST_TRY(st_line_copy(l, s, n, out, err));
	for (size_t i = 0; i < sizeof taken / sizeof *taken; i++)
		if (strcmp(*out, taken[i]) == 0)
			return st_line_fail(l, err, "\"%s\" has a meaning of its own", *out);
	if (st_family_find_key(f, *out) != ST_FAMILY_NONE)
		return st_line_fail(l, err, "a second key \"%s\"; the first is in line %u", *out,
		                    f->keys[st_family_find_key(f, *out)].line);
	return ST_OK;
}

static enum st_status let(struct st_line *l, struct st_family *f, struct st_error *err)
{
	struct st_family_key k = { .type = ST_KEY_LET, .line = l->number };
	ST_TRY(st_family_room(l, f->n_keys, err));
	ST_TRY(key_name(l, f, &k.name, err));
	if (!st_line_take(l, "="))
		return st_line_fail(l, err, "%s: \"%s\": expected =", k.name, st_line_rest(l).text);
	ST_TRY(st_expression_parse(l, f, false, &k.let, err));
	f->keys[f->n_keys++] = k;
	return ST_OK;
}

static enum st_status harmless(struct st_line *l, struct st_family *f, struct st_error *err)
{
	enum st_spelling where = st_line_word(l, "gguf")  ? ST_SPELLING_GGUF
	                       : st_line_word(l, "apr") ? ST_SPELLING_APR
	                                                : ST_SPELLING_CONFIG;
	if (where == ST_SPELLING_CONFIG && !st_line_word(l, "config"))
		return st_line_fail(l, err, "\"%s\": harmless in gguf, in config or in apr?", st_line_rest(l).text);
	do {
		ST_TRY(st_family_room(l, f->n_harmless[where], err));
		ST_TRY(word(l, "a key", &f->harmless[where][f->n_harmless[where]], err));
		f->n_harmless[where]++;
	} while (!st_line_done(l));
	return ST_OK;
}

/* The key of that name which stands above. */
static enum st_status known_key(struct st_line *l, struct st_family *f, struct st_family_key **out, struct st_error *err)
{
	size_t n;
	char name[64] = "";
	const char *s = st_line_name(l, &n);
	if (s)
		snprintf(name, sizeof name, "%.*s", (int)(n < 60 ? n : 60), s);
	uint32_t i = st_family_find_key(f, name);
	if (i == ST_FAMILY_NONE || f->keys[i].type == ST_KEY_LET)
		return st_line_fail(l, err, "\"%s\" is no key above this line", name);
	*out = &f->keys[i];
	return ST_OK;
}

/* default NAME = EXPR ...: other values where files do not say it, of a key that came from a group. */
static enum st_status other_default(struct st_line *l, struct st_family *f, struct st_error *err)
{
	struct st_family_key *k;
	ST_TRY(known_key(l, f, &k, err));
	memset(k->absent, 0, sizeof k->absent);
	return defaults(l, f, k, err);
}

/* apr NAME SPELLINGS [= EXPR]: what the metadata of APR files call a key, and its value where they do not say it. */
static enum st_status apr_spelling(struct st_line *l, struct st_family *f, struct st_error *err)
{
	struct st_family_key *k;
	ST_TRY(known_key(l, f, &k, err));
	k->own_apr = true;
	k->n_spelled[ST_SPELLING_APR] = 0;
	ST_TRY(spellings(l, k, ST_SPELLING_APR, err));
	if (!st_line_take(l, "="))
		return ST_OK;
	k->own_apr_absent = true;
	return st_expression_parse(l, f, false, &k->absent[ST_SPELLING_APR], err);
}

void st_inherit_apr(struct st_family *f)
{
	for (uint32_t i = 0; i < f->n_keys; i++) {
		struct st_family_key *k = &f->keys[i];
		if (!k->own_apr) {
			k->spelled[ST_SPELLING_APR] = k->spelled[ST_SPELLING_CONFIG];
			k->n_spelled[ST_SPELLING_APR] = k->n_spelled[ST_SPELLING_CONFIG];
		}
		if (!k->own_apr_absent)
			k->absent[ST_SPELLING_APR] = k->absent[ST_SPELLING_CONFIG];
	}
}

/* A page that spells a key of a group in a way of its own says so above the group, which then does without its line. */
static bool stands_above(struct st_line *l, const struct st_family *f)
{
	struct st_line ahead = *l;
	char name[96];
	size_t n;
	const char *s = st_line_name(&ahead, &n);
	snprintf(name, sizeof name, "%.*s", s && n < sizeof name ? (int)n : 0, s ? s : "");
	if (!strstr(l->file, ".keys") || st_family_find_key(f, name) == ST_FAMILY_NONE)
		return false;
	l->at = l->end;
	return true;
}

enum st_status st_parse_key(struct st_line *l, struct st_family *f, struct st_error *err)
{
	struct st_family_key k = { .line = l->number };
	if (st_line_word(l, "let"))
		return let(l, f, err);
	if (st_line_word(l, "harmless"))
		return harmless(l, f, err);
	if (st_line_word(l, "default"))
		return other_default(l, f, err);
	if (st_line_word(l, "apr"))
		return apr_spelling(l, f, err);
	if (st_line_word(l, "require")) {
		ST_TRY(st_family_room(l, f->n_requirements, err));
		return st_expression_parse(l, f, false, &f->requirements[f->n_requirements++].holds, err);
	}
	ST_TRY(st_family_room(l, f->n_keys, err));
	if (stands_above(l, f))
		return ST_OK;
	ST_TRY(key_name(l, f, &k.name, err));
	size_t i = 0, n = sizeof types / sizeof *types;
	while (i < n && !st_line_word(l, types[i].name))
		i++;
	if (i == n)
		return st_line_fail(l, err,
		                    "%s: \"%s\" is no type; known are count, real, flag and text, and counts, reals, "
		                    "flags, texts and letters with a value for each layer",
		                    k.name, st_line_rest(l).text);
	k.type = types[i].type;
	for (int where = 0; where < ST_COLUMNS; where++)
		ST_TRY(spellings(l, &k, (enum st_spelling)where, err));
	ST_TRY(defaults(l, f, &k, err));
	f->keys[f->n_keys++] = k;
	return ST_OK;
}
