/*
 * numbers.h - the numbers of a synthetic model, and how they are put into blocks.
 *
 * Every element is a function of the seed, the tensor's canonical name, its row and its column, so rows can
 * be made in any order, by any number of threads, and again for another container.
 */
#ifndef ST_SYNTH_NUMBERS_H
#define ST_SYNTH_NUMBERS_H

#include <stddef.h>
#include <stdint.h>

/* A key for each tensor and then for each row. */
uint64_t st_synth_tensor_key(uint64_t seed, const char *name);
uint64_t st_synth_row_key(uint64_t tensor_key, uint64_t row);

/*
 * dst[i] = scale * draw(first + i), i < n: mean 0, variance 1, symmetric, tails heavier than a normal
 * distribution's and bounded (|draw| < 6).
 */
void st_synth_draws(uint64_t key, uint64_t first, size_t n, float scale, float *dst);
/* A positive factor around 1, from 0.5 to 2.3: what rows and norm weights vary by. */
float st_synth_factor(uint64_t key, uint64_t at);

/*
 * Q4_K and Q6_K at the speed of generation: one proposal for each step, refined once by least squares
 * where the type table's encoders (dtype/kquants_encode.c) search twenty. The error is 3 to 5 % larger
 * (tests/synth), the time a tenth. n is a multiple of 256.
 */
void st_synth_encode_q4_k(const float *src, void *dst, size_t n);
void st_synth_encode_q6_k(const float *src, void *dst, size_t n);

#endif
