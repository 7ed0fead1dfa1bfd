/* choice.h - what a router does with its numbers besides soft-max and st_top: groups, shares, limits. */
#ifndef ST_KERNEL_CHOICE_H
#define ST_KERNEL_CHOICE_H

#include <stdbool.h>
#include <stddef.h>

/* x in `groups` runs of equal length: y is x in those `used` runs whose `best` (1 or 2) largest have the largest sum,
 * taken in f64; of equal runs the lower counts, NaN last. Elsewhere y is -inf. */
#define ST_MAX_GROUPS 256
void st_mask_groups(const float *x, size_t n, size_t groups, size_t used, size_t best, float *y);
/* y[c] = by x[index[c]]; with `shares`, of x[index[c]] / max(sum of the chosen + plus, least), the sum in f64 in order
 * of c; rounded once. */
struct st_shares {
	bool shares;
	double plus, least, by;
};
void st_chosen(const float *x, const float *index, size_t C, const struct st_shares *s, float *y);
/* y[i] = x[i], but no smaller than `low` and no larger than `high`; NaN stays. y may be x */
void st_clamp(const float *x, float low, float high, size_t n, float *y);

#endif
