/*
 * cells.h - what a number of a side stands for: the cell that its original lies in.
 *
 * A stored number is the nearest one that its type could hold, so its original lies within half of the distance to its
 * neighbours. What the numbers went through before widens that: a coarser type that they still show the grid of
 * (held.c), or a finer one that left no trace. docs/floors.md, "Cells".
 */
#ifndef ST_COMPARE_CELLS_H
#define ST_COMPARE_CELLS_H

#include <stele/compare.h>

/*
 * What f32 arithmetic may have moved a number by, in proportion to the number and to the RMS of its row
 * (docs/floors.md, "Cells"). A merge or a fold adds up some tens of terms, and each sum rounds by up to 6e-8.
 * ST_CELLS_F32 is the most, ST_CELLS_F32_MEAN the mean.
 */
#define ST_CELLS_F32 0x1p-17f
#define ST_CELLS_F32_MEAN 1e-6f

/* What one sum in f32 rounds by, at most: half a unit in the last place. */
#define ST_CELLS_SUM 0x1p-24f

/*
 * The numbers of one row. The original of value[i] lies in [value - below, value + above]. Both are INFINITY where the
 * code is at an end of its range: encoders clip there. slack[i] is what may be added on top: the rounding of the
 * block's factors, and of a type that the number went through. A reader that wants values alone passes NULL for the
 * others. spare: room for four rows, for a side that is made of two; who judges pairs provides it.
 */
struct st_cells {
	float *value, *below, *above, *slack, *spare;
};

/*
 * Row r of a weight, in the basis of the graph, as numbers of the type that they came from: the stored one, or a
 * coarser one whose grid they show.
 */
void st_weight_cells(const struct st_weight *w, struct st_held held, uint64_t r, const struct st_cells *c);
/* Add to the slack what a finer type, which the n numbers went through before, may have rounded away. */
void st_cells_through(struct st_held via, const struct st_cells *c, uint64_t n);

/*
 * How far the numbers of a type stand apart that n numbers came from, at each of them; c: their own cells. INFINITY
 * where that is not known: at the ends of a block.
 */
void st_cells_steps(struct st_held held, const struct st_cells *c, uint64_t n, float *step);

/* n numbers that are known exactly. */
void st_cells_exact(const struct st_cells *c, uint64_t n);
/* Largest magnitude of n numbers. */
float st_cells_largest(const struct st_cells *c, uint64_t n);
/* Expected sum of the squared distances of n numbers from their originals, which may lie anywhere in the cells. */
double st_cells_variance(const struct st_cells *c, uint64_t n);

struct st_held st_held_own(const struct st_tensor *t);
/* The type that a tensor's numbers came from: its own, or a coarser one that all of them fit (held.c). */
ST_MUST_CHECK enum st_status st_held_type(const struct st_tensor *t, struct st_held *held, struct st_error *err);

/* Where a pointer to no intervals is passed on: the cells from element `at` on. */
struct st_cells st_cells_from(const struct st_cells *c, uint64_t at);

#endif
