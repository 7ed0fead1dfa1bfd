/*
 * json.h - values of reports as JSON. Everything returns a new reference, or NULL when out
 * of memory (jansson's *_new setters take that and fail in turn).
 */
#ifndef ST_REPORT_JSON_H
#define ST_REPORT_JSON_H

#include <stele/dtype.h>

#include <jansson.h>

/* JSON has no such numbers: NaN and the infinities become "nan", "inf", "-inf". */
json_t *st_json_number(double v);
/* Counts and offsets; above INT64_MAX a real. */
json_t *st_json_u64(uint64_t v);
/* Text that may come from a file: broken UTF-8 becomes U+FFFD. NULL becomes null. */
json_t *st_json_text(const char *s);
json_t *st_json_textn(const char *s, size_t n);
json_t *st_json_shape(const uint64_t *shape, uint32_t ndim);
/* {"schema": "stele.error/1", "code", "message", "path", "offset"} */
json_t *st_json_error(const struct st_error *err);

#endif
