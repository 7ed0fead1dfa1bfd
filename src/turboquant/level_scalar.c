/* level_scalar.c - the kernels at one CPU level. */
#define VEC_SCALAR
#include "kernel/vec.h"
#include "turboquant/level_impl.h"

const struct st_tq_level st_tq_level_scalar = {
	.attend = attend_any, .normals = normals, .fwht = fwht_any, .quantise = quantise_any
};
