/* held.h - the grids that numbers out of blocks lie on. */
#ifndef ST_COMPARE_HELD_H
#define ST_COMPARE_HELD_H

#include <stele/dtype.h>

/*
 * A grid: `steps` from zero to the largest magnitude, or with an offset from the smallest number to the largest;
 * encoders that search may use as few as half of them.
 */
struct st_held_grid {
	enum st_dtype type;
	unsigned block, steps, fewest;
	bool offset;
};
struct st_held_grid st_held_grid_of(enum st_dtype t);

#endif
