/* level_neon.c - the kernels at one CPU level. */
#if defined(__aarch64__)
#define VEC_NEON
#include "kernel/vec.h"
#include "turboquant/level_impl.h"

const struct st_tq_level st_tq_level_neon = {
	.attend = attend_any, .normals = normals, .fwht = fwht_any, .quantise = quantise_any
};
#else
typedef int st_tq_level_neon_absent; /* ISO C wants a declaration in every unit */
#endif
