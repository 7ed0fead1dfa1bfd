/* rounding.h - numbers as other types hold them, and numbers at random. */
#ifndef ST_EXPLAIN_ROUNDING_H
#define ST_EXPLAIN_ROUNDING_H

#include <stele/dtype.h>

#include "base/rng.h"
#include "kernel/kernel.h"

/* v as the type holds it: F32 leaves it; F16, BF16; Q8_0 in blocks of 32 within rows of `row` elements, where it
 * fits. */
void st_round_to(enum st_dtype type, float *v, size_t n, size_t row);
/* The same of n numbers whose blocks (a power of two) are turned by a Hadamard matrix before and turned back after. */
void st_round_turned(const struct st_kernels *k, enum st_dtype type, float *v, size_t n, size_t block);
/* Half the distance of |y| to its neighbour in F32, F16 or BF16: what rounding to nearest may do to it. */
float st_half_unit(enum st_dtype type, float y);
/* The largest of that relative to a normal number: 2^-24, 2^-11, 2^-8. */
float st_unit_roundoff(enum st_dtype type);

/* v in two figures, where that is so near to it, relatively; else v. Above 0. */
double st_two_figures(double within, double v);
/* Significant bits of a number: 24 less the zeros at the end of its fraction; 0 of zero, and of what is not finite. */
int st_significant_bits(float v);

/* In [0, 1). */
static inline double st_rng_uniform(uint64_t *state) { return (double)(st_splitmix64(state) >> 11) * 0x1p-53; }

#endif
