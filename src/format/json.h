/*
 * json.h - JSON from strangers (json.c), and values of documents that are written here (json_values.c).
 *
 * What makes a value returns a new reference, or NULL when out of memory (jansson's *_new setters take that and fail in
 * turn).
 */
#ifndef ST_FORMAT_JSON_H
#define ST_FORMAT_JSON_H

#include <stele/status.h>

#include <jansson.h>

/* ---- reading and printing ---- */

/* Parse JSON text of a file: duplicate keys rejected, byte position in errors, depth bounded
 * by jansson. `origin` is the file offset of text. Text whose tree would take far more memory
 * than any honest document of its size is refused unparsed. */
ST_MUST_CHECK enum st_status st_json_parse(const char *text, uint64_t n, uint64_t origin, json_t **out,
                                           struct st_error *err);
/* The same with the caller's own bound on the tree's memory, in bytes. */
ST_MUST_CHECK enum st_status st_json_parse_within(const char *text, uint64_t n, uint64_t origin, uint64_t budget,
                                                  json_t **out, struct st_error *err);
/* json_dumps(), but NULL instead of a text that lacks something when memory runs out on the way, and for a NULL. */
char *st_json_print(const json_t *j, size_t flags);
/* Map and parse a small JSON file; *out = NULL when the file does not exist. */
ST_MUST_CHECK enum st_status st_json_load(const char *path, json_t **out, struct st_error *err);

/* ---- values ---- */

/* JSON has no such numbers: NaN and the infinities become "nan", "inf", "-inf". */
json_t *st_json_number(double v);
/* Counts and offsets; above INT64_MAX a real. */
json_t *st_json_u64(uint64_t v);
/* Text that may come from a file or be a path: broken UTF-8 becomes U+FFFD. NULL becomes null. */
json_t *st_json_text(const char *s);
json_t *st_json_textn(const char *s, size_t n);
json_t *st_json_shape(const uint64_t *shape, size_t ndim);
/* "2026-01-31T12:00:00Z" of now. */
json_t *st_json_now(void);
/* Sets o[key] = v and takes v. Lack of memory, which a NULL is too, is seen once, by st_json_ok. */
void st_json_put(json_t *o, const char *key, json_t *v);
/* Whether nothing was lost while j was put together. */
bool st_json_ok(const json_t *j);

#endif
