/*
 * weight_gain.h - the factor between two sets of numbers: the least-squares one, as far as their cells allow it.
 *
 * Least squares knows a factor only as well as the numbers average their errors out. The cells know it better: every
 * element leaves an interval for it, and where all of these have something in common, the factor lies there.
 */
#ifndef ST_COMPARE_WEIGHT_GAIN_H
#define ST_COMPARE_WEIGHT_GAIN_H

#include "compare/cells.h"

struct st_gain {
	double aa, ab, bb, dd;
	double least[2], most[2]; /* of a factor above zero, and of one below it, by its size */
};

#define ST_GAIN_NONE ((struct st_gain){ .most = { INFINITY, INFINITY } })

/* One element of a = g b. rms: of b's row. */
void st_gain_add(struct st_gain *g, const struct st_cells *a, const struct st_cells *b, uint64_t i, float rms);
double st_gain_of(const struct st_gain *g);

#endif
