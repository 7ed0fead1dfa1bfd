/*
 * importance.h - importance matrices, given to the jobs that they belong to.
 */
#ifndef ST_CONVERT_IMPORTANCE_H
#define ST_CONVERT_IMPORTANCE_H

#include "convert/job.h"

struct st_importance {
	size_t used, without;      /* matrices that are encoded by importances, and without */
	const char *first_without; /* the first of these */
	uint64_t entries, chunks;  /* of the file */
};

/* Set j->importance, in the arena, of every job whose type takes notice of it. */
ST_MUST_CHECK enum st_status st_importance_read(const char *path, struct st_plan *plan, struct st_arena *arena,
                                                struct st_importance *im, struct st_error *err);

#endif
