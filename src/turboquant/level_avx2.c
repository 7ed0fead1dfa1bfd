/* level_avx2.c - the kernels at one CPU level. */
#if defined(__x86_64__)
#define VEC_AVX2
#include "kernel/vec.h"
#include "turboquant/level_impl.h"

const struct st_tq_level st_tq_level_avx2 = {
	.attend = attend_any, .normals = normals, .fwht = fwht_any, .quantise = quantise_any
};
#else
typedef int st_tq_level_avx2_absent; /* ISO C wants a declaration in every unit */
#endif
