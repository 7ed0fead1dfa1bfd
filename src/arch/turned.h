/* turned.h - a square matrix that lies transposed, told by its numbers. */
#ifndef ST_ARCH_TURNED_H
#define ST_ARCH_TURNED_H

#include <stele/model.h>

/*
 * Whether a square matrix of a layer lies transposed among others that do not. Channels of the residual stream differ in
 * size, and the matrices that read it, or write to it, show that in their columns, or in their rows, much alike. A label
 * cannot say how a square matrix lies; this profile can, where it is strong enough. *turned stays false where it is not.
 */
ST_MUST_CHECK enum st_status st_weight_turned(const struct st_model *m, const struct st_weight *w, bool *turned,
                                              struct st_error *err);

#endif
