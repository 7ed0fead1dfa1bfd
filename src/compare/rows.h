/*
 * rows.h - a side of a comparison: anything that yields rows of numbers with their cells.
 *
 * A stored weight is a side, and so is a stored weight under a hypothesis: scaled, transposed, permuted, read as
 * another type. A derived side keeps what it is made of in its context and moves the cells along with the numbers.
 */
#ifndef ST_COMPARE_ROWS_H
#define ST_COMPARE_ROWS_H

#include "base/mem.h"
#include "compare/cells.h"

struct st_rows {
	const struct st_weight *w; /* the stored weight that it is made of */
	struct st_held held;       /* what its numbers came from: the stored type, or a coarser one (held.c) */
	uint64_t rows, cols;
	bool whole; /* each row is a stored one, so that blocks begin where they did */
	/* Row r to the `cols` places of each array of dst. Called from many threads at once. */
	void (*get)(const struct st_rows *s, uint64_t r, const struct st_cells *dst);
	const void *ctx; /* of get; it outlives the side */
};

/* The rows of a weight as the graph sees them (half-split basis). */
struct st_rows st_rows_of(const struct st_weight *w);
/* The same as numbers of another type, which they came from. */
struct st_rows st_rows_held(const struct st_weight *w, struct st_held held);

/* Numbers and cells in memory, [rows, cols] each; below is NULL where only values are kept. */
struct st_dense {
	float *value, *below, *above, *slack;
	uint64_t rows, cols;
};
/* In an arena. */
ST_MUST_CHECK enum st_status st_dense_make(struct st_arena *arena, uint64_t rows, uint64_t cols, struct st_dense *d,
                                           struct st_error *err);
/* Row r, as a place to write to or to read from. */
struct st_cells st_dense_row(const struct st_dense *d, uint64_t r);
void st_cells_copy(const struct st_cells *from, uint64_t at, const struct st_cells *to, uint64_t to_at, uint64_t n);

/* Other rows of a side: row r is row map[r] of `from`, or of `else_from` where map[r] is UINT64_MAX. */
struct st_mapped {
	const struct st_rows *from, *else_from;
	const uint64_t *map;
};
struct st_rows st_rows_mapped(const struct st_mapped *m);
/* A matrix in memory; w and held are those of the weight it was made of. */
struct st_rows st_rows_dense(const struct st_dense *d, const struct st_rows *made_of);

/* Multiply n numbers by g, and add; the cells go along. */
void st_cells_affine(const struct st_cells *c, uint64_t n, double g, double offset);

#endif
