/* kernel_test.h - buffers between guard pages, random numbers, and the levels to test. */
#ifndef ST_TESTS_KERNEL_TEST_H
#define ST_TESTS_KERNEL_TEST_H

#include "test.h"

#include "base/rng.h"
#include "kernel/kernel.h"

#include <math.h>
#include <sys/mman.h>

/*
 * n bytes with an inaccessible page right before (side 0) or right after (side 1) them, so that
 * a kernel that reads or writes one byte too many is killed. Both sides are tried in turn.
 */
struct guarded {
	void *p;
	char *map;
	size_t mapped;
};

static inline void *guard_alloc(struct guarded *g, size_t n, int side)
{
	size_t page = (size_t)sysconf(_SC_PAGESIZE), body = (n + page - 1) / page * page;
	g->mapped = body + 2 * page;
	g->map = mmap(NULL, g->mapped, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	assert_ptr_not_equal(g->map, MAP_FAILED);
	if (body)
		assert_int_equal(mprotect(g->map + page, body, PROT_READ | PROT_WRITE), 0);
	return g->p = g->map + page + (side ? body - n : 0);
}

static inline void guard_free(struct guarded *g) { munmap(g->map, g->mapped); }

/* Uniform in [-1, 1). */
static inline float uniform(struct st_xoshiro *r)
{
	return (float)((double)(st_xoshiro_next(r) >> 11) * 0x1p-52 - 1.0);
}

/* Near normal, with a long tail now and then, as activations are. */
static inline void fill_values(struct st_xoshiro *r, float *x, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		x[i] = uniform(r) + uniform(r) + uniform(r);
		if (st_xoshiro_next(r) % 61 == 0)
			x[i] *= 300.0f;
	}
}

/* The levels this machine can run, the scalar one first. */
static inline size_t usable_levels(const struct st_kernels **k)
{
	size_t n = 0;
	for (int c = 0; c < ST_CPU_COUNT; c++)
		if (st_kernels_get((enum st_cpu)c))
			k[n++] = st_kernels_get((enum st_cpu)c);
	return n;
}

/* Distance in units in the last place of f32 of `ref`. */
static inline double ulps_f32(float got, double ref)
{
	int e;
	frexp(ref, &e);
	double ulp = ldexp(1.0, (e < -125 ? -125 : e) - 24);
	return fabs((double)got - ref) / ulp;
}

#endif
