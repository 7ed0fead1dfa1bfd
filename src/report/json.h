/* json.h - what reports have in common as JSON. */
#ifndef ST_REPORT_JSON_H
#define ST_REPORT_JSON_H

#include <stele/cause.h>

#include "json/json.h"

/* {"schema": "stele.error/1", "code", "message", "path", "offset"} */
json_t *st_json_error(const struct st_error *err);

/* A layer's number; null: the whole model. */
json_t *st_json_layer(int32_t layer);
/* The parameters of a cause by name; NULL when out of memory. */
json_t *st_json_params(const struct st_cause *c);

#endif
