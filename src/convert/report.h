/*
 * report.h - a report of rosetta, as far as a repair needs it.
 */
#ifndef ST_CONVERT_REPORT_H
#define ST_CONVERT_REPORT_H

#include "convert/convert.h"

struct st_repair {
	json_t *doc;
	const json_t *faults; /* weights.faults, with the weights that only the other file has */
	char side;            /* which input of the report is repaired */
};

static inline const char *st_report_text(const json_t *o, const char *key)
{
	return json_string_value(json_object_get(o, key));
}

/* The side that a fault blames: 'a', 'b', or 0. */
char st_fault_side(const json_t *fault);
/* Is it a fault of the file that is repaired, or may it be? */
bool st_fault_concerns(const struct st_repair *r, const json_t *fault);

#endif
