/* level_avx512.c - the kernels at one CPU level. */
#if defined(__x86_64__)
#define VEC_AVX512
#define ST_TQ_LEVEL st_tq_level_avx512
#include "kernel/vec.h"
#include "turboquant/level_impl.h"
#else
typedef int st_tq_level_avx512_absent; /* ISO C wants a declaration in every unit */
#endif
