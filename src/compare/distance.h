/* distance.h - how far two sets of numbers are apart, element by element: how many are unequal and by how much. */
#ifndef ST_COMPARE_DISTANCE_H
#define ST_COMPARE_DISTANCE_H

#include "compare/sums.h"

/* Classes of distance in units of the last place of bf16: 0, 1, 2, 3-4, 5-16, 17-256, more, not finite. */
#define ST_ULP_CLASSES 8
#define ST_DISTANCE_TOP 32

struct st_distance {
	/* asked for: how many of the largest differences (0: one), at most ST_DISTANCE_TOP, and the classes */
	size_t want;
	bool by_ulps;
	uint64_t count, mismatched, bits; /* mismatched: unequal numbers; bits: unequal bits */
	struct st_sums s;
	uint64_t ulps[ST_ULP_CLASSES];
	struct st_top_diff worst[ST_DISTANCE_TOP]; /* largest first */
	size_t n_worst;
};
/* The n elements that follow those added so far. */
void st_distance_add(struct st_distance *m, const float *a, const float *b, uint64_t n, struct st_pool *pool);
/* Two tensors of one shape, piece by piece. */
ST_MUST_CHECK enum st_status st_distance_of(struct st_distance *m, const struct st_tensor *a, const struct st_tensor *b,
                                            struct st_pool *pool, struct st_error *err);
double st_distance_mean(const struct st_distance *m);

#endif
