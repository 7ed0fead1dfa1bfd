/* function.h - whether weights that differ compute the same together. */
#ifndef ST_COMPARE_FUNCTION_H
#define ST_COMPARE_FUNCTION_H

#include <stele/compare.h>

/*
 * A matrix may take in what stood in its neighbour: a norm's weights, the order of neurons or of heads, factors, and
 * all of them a rotation of the stream. how[i]: in words what happened to d[i], where it and its neighbours together
 * are the other side's to within the noise; NULL elsewhere. Whether the function is the same is for the stages to say.
 */
ST_MUST_CHECK enum st_status st_find_same_function(const struct st_model *ma, const struct st_model *mb,
                                                   const struct st_weight_diff *d, size_t n, struct st_pool *pool,
                                                   const char **how, struct st_error *err);

#endif
