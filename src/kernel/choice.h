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
/* y[c] = 1 / sum of exp(x[i] - m), m = x[index[c]], over the i that no index before c names and that are near to it: (m -
 * x[i]) / max(|x[i]|, m) <= 2 jitter. All in f64, in order of i; rounded once. */
void st_near_shares(const float *x, size_t n, const float *index, size_t C, double jitter, float *y);
/* y[i] = x[i], but no smaller than `low` and no larger than `high`; NaN stays. y may be x */
void st_clamp(const float *x, float low, float high, size_t n, float *y);
/* xIELU: beta x plus softplus(alpha_p) x^2 above 0, (beta + softplus(alpha_n)) (exp(min(x, eps)) - 1 - x) below; in f64,
 * rounded once. p: alpha_p, alpha_n, beta, eps. */
void st_xielu(const float *x, const double p[4], size_t n, float *y);
/* y[i] = x[i] / sqrt(sum of x^2 + eps), the sum in order; rounded once. y may be x */
void st_l2norm(const float *x, double eps, size_t n, float *y);

#endif
