/* json.h - what reports have in common as JSON. */
#ifndef ST_REPORT_JSON_H
#define ST_REPORT_JSON_H

#include "json/json.h"

/* {"schema": "stele.error/1", "code", "message", "path", "offset"} */
json_t *st_json_error(const struct st_error *err);

#endif
