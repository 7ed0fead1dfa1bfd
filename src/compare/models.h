/* models.h - what the differences of all weights say together. */
#ifndef ST_COMPARE_MODELS_H
#define ST_COMPARE_MODELS_H

#include <stele/compare.h>

/*
 * Where most matrices differ all over and nothing explains them, the two files are two models: each such weight
 * becomes weight.two_models, with how many there are and their median size.
 */
ST_MUST_CHECK enum st_status st_find_two_models(struct st_weight_diff *d, size_t n, struct st_error *err);

#endif
