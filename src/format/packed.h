/* packed.h - weights that other programs store as several tensors, put together. */
#ifndef ST_FORMAT_PACKED_H
#define ST_FORMAT_PACKED_H

#include "format/container.h"

/*
 * Replace the parts of each packed matrix by one tensor of the name that the matrix has in an unpacked model
 * ("...q_proj.weight"), [out, in]. What does not have the shapes and types that its method asks for stays as it is, and
 * st_packing() names it. Behind the container's description stands what was put together.
 */
ST_MUST_CHECK enum st_status st_packed_fold(struct st_container *c, struct st_error *err);

#endif
