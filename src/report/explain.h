/* explain.h - what st_explain_run found, for people and for programs. */
#ifndef ST_REPORT_EXPLAIN_H
#define ST_REPORT_EXPLAIN_H

#include <stele/explain.h>

#include "report/table.h"

#include <jansson.h>

void st_report_explain_text(const struct st_explain *x, bool verbose, const struct st_page *page, struct st_text *t);
/* stele.report/1; `status` is the command's exit status. NULL when out of memory. */
json_t *st_report_explain_json(const struct st_explain *x, int status);

#endif
