/*
 * ranges.h - what the target's types cannot hold.
 */
#ifndef ST_CONVERT_RANGES_H
#define ST_CONVERT_RANGES_H

#include "convert/job.h"

/* Read all numbers that are to be stored as another type, and refuse the first that would not survive: by tensor, row,
 * value, and the largest that the type holds. */
ST_MUST_CHECK enum st_status st_check_ranges(const struct st_plan *plan, struct st_pool *pool, struct st_error *err);

#endif
