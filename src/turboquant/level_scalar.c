/* level_scalar.c - the kernels at one CPU level. */
#define VEC_SCALAR
#define ST_TQ_LEVEL st_tq_level_scalar
#include "kernel/vec.h"
#include "turboquant/level_impl.h"
