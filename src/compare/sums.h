/* sums.h - the sums behind st_metrics, for those who add up in pieces of their own. */
#ifndef ST_COMPARE_SUMS_H
#define ST_COMPARE_SUMS_H

#include <stele/diff.h>

/* Over the elements that are finite on both sides; d = a - b. */
struct st_sums {
	double aa, bb, ab, dd, abs;
	double max;         /* of |d|; infinite where one side only is not finite */
	uint64_t max_index; /* first place of max */
	uint64_t bad_a, bad_b, apart;
};

/* n floats of a tensor from element `at` on (the start of a row): in place where they lie as floats, else in buf. */
const float *st_floats_at(const struct st_tensor *t, uint64_t at, uint64_t n, float *buf);

/* The sums of n elements; `index` is the number of the first one. One thread. */
void st_sums_of(const float *a, const float *b, uint64_t n, uint64_t index, struct st_sums *s);
/* Add the sums of the elements that follow. */
void st_sums_fold(struct st_sums *total, const struct st_sums *next);

/* sum of a b, in f32 lanes that do not depend on the compiler and it may keep in registers. */
double st_sum_of_products(const float *a, const float *b, uint64_t n);

/* |a - b|; 0 where both are not finite alike, infinite where they are not. */
double st_apart(float a, float b);
/* Keep d among the `limit` largest, in order; of equal ones the first. *n: how many are kept so far. */
void st_top_offer(struct st_top_diff *top, size_t *n, size_t limit, struct st_top_diff d);

#endif
