/* inspect.h - an inspection as text and as JSON ("stele.inspect/1", one element of "files"). */
#ifndef ST_REPORT_INSPECT_H
#define ST_REPORT_INSPECT_H

#include <stele/inspect.h>

#include "report/table.h"

#include <jansson.h>

void st_report_inspection(const struct st_inspection *in, struct st_text *out, const struct st_page *page);
json_t *st_report_inspection_json(const struct st_inspection *in);

#endif
