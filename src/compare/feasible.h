/*
 * feasible.h - whether two rows could have been stored from one original.
 *
 * They could when every element's two cells meet (cells.h). What does not meet is counted, and so is what meets only
 * because of the rounding of factors: codes that two roundings of one scale make differ are few, and known in number.
 * docs/floors.md, "Feasible".
 */
#ifndef ST_COMPARE_FEASIBLE_H
#define ST_COMPARE_FEASIBLE_H

#include "compare/cells.h"

/*
 * Some encoders choose codes first and then refit the scale of the block: Q4_0, Q5_0, Q4_1 and Q5_1 with an importance
 * matrix. Their codes are the nearest ones under another scale, and for two of the types another minimum.
 */
enum st_refit { ST_REFIT_NONE, ST_REFIT_SCALE, ST_REFIT_AFFINE };
enum st_refit st_refit_of(enum st_dtype t);
#define ST_REFIT_BLOCK 32 /* elements of a block of these types */

/*
 * In steps: how far a line that was fitted in f32 may miss an element (docs/floors.md, "Refitted scales"). Where one
 * element is N times as important as the others, the line meets it to within N 2^-24 steps only, and the rounding of
 * the sums decides how it meets the others. Some columns of real models are 2^20 times as important as others.
 */
#define ST_NEARLY_MET 0x1p-4

/* One row, or several summed up. */
struct st_fit {
	uint64_t judged;            /* finite elements whose cells are closed on the side where they differ */
	uint64_t outside;           /* no original lies in both cells */
	double worst;               /* largest distance of these, in the sum of their half cells */
	uint64_t touching;          /* they meet only within the slack */
	double expected;            /* how many of these the slack explains */
	uint64_t even_a, even_b;    /* of the touching ones, those whose last bit is 0 in a float type */
	uint64_t blocks, refitted;  /* blocks of types that are refitted, and those that need it */
	uint64_t stretched, shrunk; /* of the refitted, those whose scale became larger or smaller by it */
	uint64_t excused;           /* elements that are outside but for it */
};

/* n elements of a and b, whose RMS is `rms`, that of both. A side with a refit begins at a block. */
void st_fit_row(const struct st_cells *a, const struct st_cells *b, uint64_t n, enum st_refit refit_a,
                enum st_refit refit_b, float rms, struct st_fit *f);
/* The same without blocks. */
void st_fit_elements(const struct st_cells *a, const struct st_cells *b, uint64_t n, float rms, struct st_fit *f);
void st_fit_add(struct st_fit *total, const struct st_fit *f);

/* Elements that do not agree. */
static inline uint64_t st_fit_apart(const struct st_fit *f) { return f->outside + f->touching; }
/* Whether more elements touch than the slack explains: eight standard deviations of their number, and a handful. */
bool st_fit_touches_too_often(const struct st_fit *f);
/* Whether one original could have given both. */
bool st_fit_is_noise(const struct st_fit *f);

#endif
