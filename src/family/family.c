/* family.c - a description as a whole: sections, bounds, what every family has. */
#include "family/parser.h"

#include "base/error.h"
#include "base/hash.h"
#include "base/map.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *const sections[] = { "", "[keys]", "[weights]", "[graph]" };
enum section { SECTION_HEAD, SECTION_KEYS, SECTION_WEIGHTS, SECTION_GRAPH, SECTIONS };

/* "#" begins a comment at the beginning of a line, and behind a blank where a blank or nothing follows it: in
 * "blk.#.attn_q" it is the layer. */
static const char *comment(const char *s, const char *end)
{
	for (const char *c = s; c < end; c++)
		if (*c == '#'
		    && (c == s || ((c[-1] == ' ' || c[-1] == '\t') && (c + 1 == end || c[1] == ' ' || c[1] == '\t'))))
			return c;
	return end;
}

static enum st_status each_line(struct st_family *f, struct st_line *l, const char *text, size_t size,
                                enum section *section, struct st_graph_lines *g, struct st_error *err);

/* use NAME: keys that many families have in common, from the group of that name that is built in. */
static enum st_status group(struct st_line *l, struct st_family *f, struct st_error *err)
{
	size_t n;
	const char *s = st_line_name(l, &n);
	char name[64] = "";
	if (s)
		snprintf(name, sizeof name, "%.*s.keys", (int)(n < 50 ? n : 50), s);
	if (strstr(l->file, ".keys"))
		return st_line_fail(l, err, "a group of keys has no groups");
	for (size_t i = 0; i < st_family_text_count; i++) {
		if (strcmp(st_family_texts[i].name, name) != 0)
			continue;
		enum section section = SECTION_KEYS;
		struct st_line inner = { .file = st_family_texts[i].name, .arena = l->arena };
		struct st_error why = ST_ERROR_INIT;
		enum st_status st = each_line(f, &inner, st_family_texts[i].text, st_family_texts[i].size, &section,
		                              NULL, &why);
		return st == ST_OK ? ST_OK
		                   : st_family_fail(l->file, l->number, st, err, "use %s: %s",
		                                    st_family_texts[i].family, why.message);
	}
	return st_line_fail(l, err, "\"%s\" is no group of keys", s ? name : "");
}

static enum st_status line(struct st_line *l, struct st_family *f, enum section *section, struct st_graph_lines *g,
                           struct st_error *err)
{
	if (st_line_done(l))
		return ST_OK;
	if (*l->at == '[') {
		size_t n;
		const char *s = st_line_field(l, &n);
		if (*section + 1 == SECTIONS || strlen(sections[*section + 1]) != n
		    || memcmp(s, sections[*section + 1], n) != 0)
			return st_line_fail(l, err,
			                    "\"%.*s\": the sections are [keys], [weights] and [graph], in this order",
			                    (int)(n < 60 ? n : 60), s);
		(*section)++;
	} else if (*section == SECTION_HEAD) {
		ST_TRY(st_parse_head(l, f, err));
	} else if (*section == SECTION_KEYS) {
		ST_TRY(st_line_word(l, "use") ? group(l, f, err) : st_parse_key(l, f, err));
	} else if (*section == SECTION_WEIGHTS) {
		ST_TRY(st_parse_weight(l, f, err));
	} else {
		ST_TRY(st_parse_stage(l, f, g, err));
	}
	return st_line_done(l) ? ST_OK : st_line_fail(l, err, "\"%s\" is more than belongs here", st_line_rest(l).text);
}

/* Each line of a text to `section`'s parser. */
static enum st_status each_line(struct st_family *f, struct st_line *l, const char *text, size_t size,
                                enum section *section, struct st_graph_lines *g, struct st_error *err)
{
	const char *end = text + size;
	for (const char *s = text; s < end;) {
		const char *newline = memchr(s, '\n', (size_t)(end - s)), *stop = newline ? newline : end;
		l->number++;
		l->at = l->end = s;
		if (l->number > ST_FAMILY_MAX_LINES || stop - s > ST_FAMILY_MAX_LINE)
			return st_line_fail(l, err,
			                    l->number > ST_FAMILY_MAX_LINES ? "more than 4096 lines"
			                                                    : "a line of more than 1024 bytes");
		l->end = comment(s, stop > s && stop[-1] == '\r' ? stop - 1 : stop);
		for (const char *c = s; c < l->end; c++)
			if ((unsigned char)*c < ' ' && *c != '\t')
				return st_line_fail(l, err, "a control character");
		ST_TRY(line(l, f, section, g, err));
		s = stop + 1;
	}
	l->at = l->end;
	return ST_OK;
}

static enum st_status all_lines(struct st_family *f, const char *text, size_t size, struct st_graph_lines *g,
                                struct st_error *err)
{
	enum section section = SECTION_HEAD;
	struct st_line l = { .file = f->file, .arena = &f->arena };
	ST_TRY(each_line(f, &l, text, size, &section, g, err));
	l.number += l.number == 0; /* an empty text has a first line too */
	st_inherit_apr(f);
	if (g->n_when || g->scope == ST_SCOPE_LAYER)
		return st_line_fail(&l, err, "\"end\" is missing");
	if (!f->name)
		return st_line_fail(&l, err, "the family has no name");
	if (g->scope != ST_SCOPE_AFTER || f->stages[f->n_stages - 1].scope != ST_SCOPE_AFTER)
		return st_line_fail(&l, err,
		                    "the graph has no layers, or nothing behind them: its last stage is the logits");
	if (st_family_find_key(f, "layers") == ST_FAMILY_NONE || st_family_find_key(f, "vocab") == ST_FAMILY_NONE)
		return st_line_fail(&l, err, "the keys \"layers\" and \"vocab\" are missing");
	return ST_OK;
}

static bool reserve(struct st_family *f)
{
	struct st_arena *a = &f->arena;
	f->keys = st_arena_alloc(a, ST_FAMILY_MAX_ITEMS, sizeof *f->keys);
	f->requirements = st_arena_alloc(a, ST_FAMILY_MAX_ITEMS, sizeof *f->requirements);
	f->weights = st_arena_alloc(a, ST_FAMILY_MAX_ITEMS, sizeof *f->weights);
	f->ignored = st_arena_alloc(a, ST_FAMILY_MAX_ITEMS, sizeof *f->ignored);
	f->stage_names = st_arena_alloc(a, ST_FAMILY_MAX_ITEMS, sizeof *f->stage_names);
	f->stages = st_arena_alloc(a, ST_FAMILY_MAX_ITEMS, sizeof *f->stages);
	for (int i = 0; i < ST_SPELLINGS; i++) {
		f->names[i] = st_arena_alloc(a, ST_FAMILY_MAX_ITEMS, sizeof *f->names[i]);
		f->harmless[i] = st_arena_alloc(a, ST_FAMILY_MAX_ITEMS, sizeof *f->harmless[i]);
		if (!f->names[i] || !f->harmless[i])
			return false;
	}
	return f->keys && f->requirements && f->weights && f->ignored && f->stage_names && f->stages;
}

static enum st_status parse(struct st_family *f, const char *file, const char *text, size_t size, struct st_error *err)
{
	bool stands[ST_FAMILY_MAX_ITEMS] = { false };
	struct st_graph_lines g = { .stands = stands };
	f->file = st_arena_printf(&f->arena, "%s", file);
	ST_NEED(f->file && reserve(f));
	ST_TRY(st_sha256_hex(text, size, f->sha256, err));
	struct st_line l = { .file = f->file, .number = 1 };
	if (size > ST_FAMILY_MAX_BYTES)
		return st_line_fail(&l, err, "a description of more than %u bytes", ST_FAMILY_MAX_BYTES);
	f->stage_names[f->n_stage_names++] = "x";
	return all_lines(f, text, size, &g, err);
}

enum st_status st_family_parse(const char *file, const char *text, size_t size, struct st_family **out,
                               struct st_error *err)
{
	struct st_family *f = st_alloc_zeroed(1, sizeof *f);
	ST_NEED(f);
	st_arena_init(&f->arena);
	enum st_status st = parse(f, file, text, size, err);
	if (st != ST_OK) {
		st_family_close(f);
		return st;
	}
	*out = f;
	return ST_OK;
}

enum st_status st_family_open(const char *path, struct st_family **out, struct st_error *err)
{
	struct st_map m;
	ST_TRY(st_map_open(&m, path, err));
	const char *slash = strrchr(path, '/');
	enum st_status st = st_family_parse(slash ? slash + 1 : path, (const char *)m.data, (size_t)m.size, out, err);
	st_map_close(&m);
	return st;
}

void st_family_close(struct st_family *f)
{
	if (!f)
		return;
	st_arena_release(&f->arena);
	free(f);
}
