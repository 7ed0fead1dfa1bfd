/*
 * levels.h - plain loops at the width of the processor.
 *
 * A function marked ST_LEVELS is compiled for several instruction sets, one of which is chosen when the program
 * starts. That changes its speed only: nothing contracts, and what is summed is summed in the lanes that are written
 * there. Its loops have to be ones that compilers turn into vectors: one counter, arrays that do not overlap, choices
 * between values in place of branches, and no division that a choice guards.
 */
#ifndef ST_BASE_LEVELS_H
#define ST_BASE_LEVELS_H

#include <stdint.h>
#include <string.h>

/* Not under sanitizers, which are not ready yet when the choice is made; not by clang 14, which gives such functions
 * names that no other file can call. */
#if defined(__x86_64__) && !defined(__clang__) && !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
#define ST_LEVELS __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define ST_LEVELS
#endif

/*
 * Sums are taken in eight lanes: element i belongs to lane i % 8. Lanes lie in vectors of 32 bytes, since compilers
 * take larger ones apart by way of memory.
 */
#define ST_LANES 8
typedef float st_f32x4 __attribute__((vector_size(16)));
typedef double st_f64x4 __attribute__((vector_size(32)));
typedef int64_t st_i64x4 __attribute__((vector_size(32)));
typedef float st_f32x8 __attribute__((vector_size(32)));
typedef int32_t st_i32x8 __attribute__((vector_size(32)));

/* Four floats as doubles. Vectors are passed by address: how they are passed by value depends on the processor. */
static inline __attribute__((always_inline)) void st_widen4(const float *x, st_f64x4 *wide)
{
	st_f32x4 v;
	memcpy(&v, x, sizeof v);
	*wide = __builtin_convertvector(v, st_f64x4);
}

#endif
