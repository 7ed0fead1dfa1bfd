/* rosetta.h - what a comparison of two models found, for people and for programs. */
#ifndef ST_REPORT_ROSETTA_H
#define ST_REPORT_ROSETTA_H

#include <stele/judge.h>

#include "report/text.h"

#include <jansson.h>

/* The lines "[ROSETTA] ...". verbose: every stage with its local error and gain, every weight that is not equal. */
void st_report_rosetta_text(const struct st_rosetta *r, bool verbose, bool colour, struct st_text *t);
/* stele.report/1; `status` is the command's exit status. NULL when out of memory. */
json_t *st_report_rosetta_json(const struct st_rosetta *r, int status);

#endif
