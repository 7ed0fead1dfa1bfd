/* support.h - for the tests of stored types: whole files, npy payloads, buffers that end at a guard page. */
#ifndef ST_TESTS_DTYPE_SUPPORT_H
#define ST_TESTS_DTYPE_SUPPORT_H

#include "test.h"

#include "base/rng.h"

#include <math.h>
#include <sys/mman.h>

/* The bytes of a file of the shared data set; the caller frees them. */
static inline uint8_t *load_shared(const char *rel, size_t *size) { return read_bytes(shared_path(rel), size); }

/* The elements of a little-endian f32 .npy file (version 1 header); the caller frees them. */
static inline float *load_npy_f32(const char *rel, size_t *n)
{
	size_t size;
	uint8_t *p = load_shared(rel, &size);
	assert_true(size > 10 && memcmp(p, "\x93NUMPY\x01", 7) == 0);
	size_t body = 10 + (size_t)(p[8] | p[9] << 8);
	assert_non_null(memmem(p, body, "'<f4'", 5));
	*n = (size - body) / 4;
	float *x = malloc(*n * 4 + 1);
	memcpy(x, p + body, *n * 4);
	free(p);
	return x;
}

/* n bytes that end where an unmapped page begins (or, with `front`, begin where one ends): a read
 * or write past them kills the test. */
struct guarded {
	uint8_t *map, *p;
	size_t pages;
};

static inline struct guarded guard(size_t n, bool front)
{
	size_t page = (size_t)sysconf(_SC_PAGESIZE), body = (n + page - 1) / page * page;
	struct guarded g = { .pages = body + 2 * page };
	g.map = mmap(NULL, g.pages, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	assert_true(g.map != MAP_FAILED);
	if (body > 0)
		assert_int_equal(mprotect(g.map + page, body, PROT_READ | PROT_WRITE), 0);
	g.p = front ? g.map + page : g.map + page + body - n;
	return g;
}

static inline void unguard(struct guarded g) { munmap(g.map, g.pages); }

static inline double uniform(struct st_xoshiro *g) { return (double)(st_xoshiro_next(g) >> 11) * 0x1p-53; }

/* N(0,1) by Box and Muller. */
static inline float normal(struct st_xoshiro *g)
{
	double u = 1 - uniform(g), v = uniform(g);
	return (float)(sqrt(-2 * log(u)) * cos(6.283185307179586 * v));
}

/* RMS of a - b over RMS of a. */
static inline double rel_rms(const float *a, const float *b, size_t n)
{
	double e = 0, s = 0;
	for (size_t i = 0; i < n; i++) {
		double d = (double)a[i] - (double)b[i];
		e += d * d;
		s += (double)a[i] * (double)a[i];
	}
	return sqrt(e / s);
}

#endif
