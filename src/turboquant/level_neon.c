/* level_neon.c - the kernels at one CPU level. */
#if defined(__aarch64__)
#define VEC_NEON
#define ST_TQ_LEVEL st_tq_level_neon
#include "kernel/vec.h"
#include "turboquant/level_impl.h"
#else
typedef int st_tq_level_neon_absent; /* ISO C wants a declaration in every unit */
#endif
