/* models.h - what the differences of all weights say together. */
#ifndef ST_COMPARE_MODELS_H
#define ST_COMPARE_MODELS_H

#include <stele/compare.h>

/*
 * The shape of the difference of two models, added to the causes of their weights: how many matrices of how many differ
 * the same way and which kinds, whether differences of rank one lie in one direction of the stream, and where nothing
 * explains most matrices and they differ all over, that these are two models (weight.two_models).
 */
ST_MUST_CHECK enum st_status st_find_shape(struct st_weight_diff *d, size_t n, struct st_error *err);

#endif
