/*
 * noise.h - how large the error of storing numbers in a type should be.
 *
 * Float types err in proportion to each element, block types in proportion to the largest
 * element of a (sub-)block. Either way the size follows from the stored numbers themselves
 * and from the type's measured error on N(0,1) data (st_dtype_info.storage_rel_rms), so
 * nothing is configured. docs/floors.md has the derivation.
 */
#ifndef ST_COMPARE_NOISE_H
#define ST_COMPARE_NOISE_H

#include <stele/dtype.h>

/*
 * What two programs that arrive at a weight by f32 arithmetic (a merge, a fold, another libm) may differ by, as an RMS
 * relative error: some tens of roundings of 4e-8 each.
 */
#define ST_NOISE_F32_REL 1e-6

/* Elements that share one step of quantisation; 1 for types that err element by element. */
uint32_t st_noise_block(enum st_dtype t);

/*
 * Variance of the storage error of each element, per (sub-)block: of n decoded values that share what they share, a
 * super-block where the type has them (st_noise_group elements; fewer at the end of a row). Returns the number of
 * blocks.
 */
#define ST_NOISE_BLOCKS 16
uint32_t st_noise_group(enum st_dtype t);
size_t st_noise_variances(const struct st_tensor *t, const float *row, size_t n, double v[ST_NOISE_BLOCKS]);

/* Sum of the variances over n decoded values (one row, in the stored order). */
double st_noise_row(const struct st_tensor *t, const float *row, size_t n);

/* Variance of the error that storing W's row as t's type puts into sum_k w_k x_k:
 * for each token s of x2 [T, ceil(n / block)], out[s] += sum_b variance(b) x2[s, b],
 * where x2 holds the sums of squares of x over the blocks. */
void st_noise_dot(const struct st_tensor *t, const float *row, size_t n, const double *x2, size_t T, double *out);

#endif
