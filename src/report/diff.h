/* diff.h - what st_diff_run found, for people and for programs. */
#ifndef ST_REPORT_DIFF_H
#define ST_REPORT_DIFF_H

#include <stele/diff.h>

#include "report/table.h"

#include <jansson.h>

struct st_report_diff_options {
	size_t limit; /* rows printed; never limits what was compared */
	bool values;  /* the largest differences of each row that is not equal */
	struct st_page page;
};

ST_MUST_CHECK enum st_status st_report_diff_text(const struct st_diff *d, const struct st_report_diff_options *o,
                                                 struct st_text *t, struct st_error *err);
/* stele.stage-diff/1, stele.trace-diff/1, stele.model-diff/1 or stele.tensor-diff/1. NULL when out of memory. */
json_t *st_report_diff_json(const struct st_diff *d, int status);

#endif
