/* parser.h - inside of this room: reading a description line by line. */
#ifndef ST_FAMILY_PARSER_H
#define ST_FAMILY_PARSER_H

#include "family/family.h"

/* Generous against any description known (gemma 4 has 90 lines), small against a stranger's. */
#define ST_FAMILY_MAX_BYTES (256u << 10)
#define ST_FAMILY_MAX_LINES 4096u
#define ST_FAMILY_MAX_LINE 1024u
#define ST_FAMILY_MAX_ITEMS 1024u /* keys, weights, stages, names: of each */

/* A line without its comment, and how far it was read. */
struct st_line {
	const char *file;
	uint32_t number;
	const char *at, *end;
	struct st_arena *arena;
};

enum st_status st_line_fail(const struct st_line *l, struct st_error *err, const char *fmt, ...) ST_PRINTF(3, 4);
#define st_line_fail(...) st_failure((st_line_fail)(__VA_ARGS__))

void st_line_blanks(struct st_line *l);
bool st_line_done(struct st_line *l); /* nothing but blanks is left */
/* The words left, cut for a message. */
struct st_line_rest {
	char text[48];
};
struct st_line_rest st_line_rest(const struct st_line *l);
/* True, and read past, when these characters come next, behind blanks. A word is not followed by another letter. */
bool st_line_take(struct st_line *l, const char *text);
bool st_line_word(struct st_line *l, const char *word);
/* "-" alone: there is none. */
bool st_line_nothing(struct st_line *l);
/* A name: letters, digits and "_", beginning with no digit. NULL: none comes next; the length in *n. */
const char *st_line_name(struct st_line *l, size_t *n);
/* Characters up to the next blank; brackets and quotes keep blanks inside. NULL: nothing is left. */
const char *st_line_field(struct st_line *l, size_t *n);
/* A copy that lives as long as the family. */
ST_MUST_CHECK enum st_status st_line_copy(const struct st_line *l, const char *s, size_t n, const char **out,
                                          struct st_error *err);

/* An expression from here to where it ends. `plain`: without "a if b else c", unless in brackets. */
ST_MUST_CHECK enum st_status st_expression_parse(struct st_line *l, const struct st_family *f, bool plain,
                                                 struct st_expression *out, struct st_error *err);

/* "1+model.layers.#.norm | ..." -> the sources, none for "-". */
ST_MUST_CHECK enum st_status st_source_parse(struct st_line *l, const struct st_family *f, struct st_source **out,
                                             uint32_t *n, struct st_error *err);

/* Whether there is room for one more of something. */
ST_MUST_CHECK enum st_status st_family_room(const struct st_line *l, uint32_t n, struct st_error *err);

/* At the end: keys that say nothing of APR files are spelled there as in config.json. */
void st_inherit_apr(struct st_family *f);
/* One line of a section each. */
ST_MUST_CHECK enum st_status st_parse_head(struct st_line *l, struct st_family *f, struct st_error *err);
ST_MUST_CHECK enum st_status st_parse_key(struct st_line *l, struct st_family *f, struct st_error *err);
ST_MUST_CHECK enum st_status st_parse_weight(struct st_line *l, struct st_family *f, struct st_error *err);

/* What the lines above mean for a line of the graph. */
struct st_graph_lines {
	enum st_scope scope;
	const struct st_expression *when[ST_FAMILY_WHEN];
	bool not_when[ST_FAMILY_WHEN];
	uint32_t n_when;
	bool *stands; /* by name: a stage of that name stands above; [ST_FAMILY_MAX_ITEMS] */
};
ST_MUST_CHECK enum st_status st_parse_stage(struct st_line *l, struct st_family *f, struct st_graph_lines *g,
                                            struct st_error *err);

#endif
