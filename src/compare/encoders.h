/*
 * encoders.h - two sides whose numbers came out of blocks of one type.
 *
 * One encoder writes the same numbers twice. Two encoders, or one with other importances, choose other scales, and
 * what they wrote is noise as two such files are. What was done to numbers after they had left their blocks is told from
 * that by the grid of each block: numbers that are no multiples of one step any more are judged as they are stored, and
 * so are numbers that all kept their codes under another step (docs/floors.md, "Two encoders").
 */
#ifndef ST_COMPARE_ENCODERS_H
#define ST_COMPARE_ENCODERS_H

#include "compare/rows.h"

struct st_pool;

struct st_encoders {
	struct st_rows a, b;           /* as they are stored: floats, or blocks of the type itself */
	struct st_rows held_a, held_b; /* as numbers out of blocks */
	bool *exact;                   /* [rows, blocks] both sides lie on a grid there, whose owner frees it */
};

/* Looks at all blocks. same[r]: row r is the same on both sides but for what was done to it later. */
ST_MUST_CHECK enum st_status st_encoders_look(struct st_encoders *e, struct st_pool *pool, bool *same,
                                              struct st_error *err);
/* The sides with cells as wide as their grids where both have one, and as stored elsewhere; e outlives them. */
void st_encoders_sides(const struct st_encoders *e, struct st_rows *a, struct st_rows *b);

#endif
