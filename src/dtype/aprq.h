/*
 * aprq.h - AprQ8's one scale for a whole tensor.
 *
 * The type has no blocks: an element is int8 times st_tensor.scale, which an APR file stores in
 * front of the elements. The table's codec therefore works in units of the scale. To write a tensor:
 *
 *	float largest = 0;
 *	for each piece of the tensor: largest = st_apr_q8_largest(largest, x, n);
 *	float scale = st_apr_q8_scale(largest);            // write it, 4 bytes
 *	for each piece: st_apr_q8_encode(x, n, scale, q);  // write n bytes
 */
#ifndef ST_DTYPE_APRQ_H
#define ST_DTYPE_APRQ_H

#include <stddef.h>
#include <stdint.h>

/* Largest magnitude seen so far; values that are not finite do not count. */
float st_apr_q8_largest(float so_far, const float *x, size_t n);
/* largest / 127, the scale that uses the whole range; 0 for a tensor of zeros. */
float st_apr_q8_scale(float largest);
/* q[i] = x[i] / scale, to nearest (ties away from zero), saturating at +-127; NaN and scale 0 give 0. */
void st_apr_q8_encode(const float *x, size_t n, float scale, int8_t *q);

#endif
