/* rosetta.h - what a comparison of two models found, for people and for programs. */
#ifndef ST_REPORT_ROSETTA_H
#define ST_REPORT_ROSETTA_H

#include <stele/judge.h>

#include "report/table.h"

#include <jansson.h>

/* The lines "[ROSETTA] ...": the summary first. verbose: every stage, every weight that is not equal, every token. */
void st_report_rosetta_text(const struct st_rosetta *r, bool verbose, const struct st_page *page, struct st_text *t);
/* stele.report/1; `status` is the command's exit status. NULL when out of memory. */
json_t *st_report_rosetta_json(const struct st_rosetta *r, int status);

#endif
