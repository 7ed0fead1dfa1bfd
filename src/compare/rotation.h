/* rotation.h - the residual stream in another basis. */
#ifndef ST_COMPARE_ROTATION_H
#define ST_COMPARE_ROTATION_H

#include <stele/compare.h>

/* Sets how[] of every weight at fault where each is the other side's in one other basis of the stream; else none. */
ST_MUST_CHECK enum st_status st_find_rotation(const struct st_model *ma, const struct st_model *mb,
                                              const struct st_weight_diff *d, size_t n, const char **how,
                                              struct st_error *err);

#endif
