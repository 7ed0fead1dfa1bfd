/* level_scalar.c - the kernels at one CPU level. */
#define VEC_SCALAR
#include "turboquant/vec.h"
#include "turboquant/level_impl.h"

const struct st_tq_level st_tq_level_scalar = { attend_any, normals, quantise_any };
