/*
 * lanes.h - the rows of two sides as a lane of a pool reads them: room for one of each, and what the numbers may have
 * gone through before.
 */
#ifndef ST_COMPARE_LANES_H
#define ST_COMPARE_LANES_H

#include "compare/rows.h"

/* Whether numbers of a type may have gone through another one that left no trace. */
bool st_may_come_through(enum st_dtype type, enum st_dtype via);
/* Widen the cells of a side's row by what `via` may have rounded away; F32: nothing. */
void st_cells_go_through(const struct st_rows *s, struct st_held via, const struct st_cells *dst);
/* Row r of a side whose numbers may have gone through `via`. */
void st_pair_row(const struct st_rows *s, uint64_t r, struct st_held via, const struct st_cells *dst);

/* Room for one row of either side, in floats a column, and where a lane's two rows lie in it. */
#define ST_PAIR_BUFFER 16
void st_pair_cells(float *buf, unsigned lane, uint64_t cols, struct st_cells *a, struct st_cells *b);

#endif
