/* tq_test.h - what the turboquant tests share: levels to try, plain random numbers, a folder. */
#ifndef ST_TESTS_TQ_TEST_H
#define ST_TESTS_TQ_TEST_H

#include "test.h"

#include "turboquant/run.h"
#include "turboquant/sweep.h"

#include <math.h>

/* Every CPU level that runs here. */
#define FOR_LEVELS(cpu)                                      \
	for (enum st_cpu cpu = 0; cpu < ST_CPU_COUNT; cpu++) \
		if (st_cpu_usable(cpu))

/* A generator of its own, so that test data does not come from the code under test. */
static uint64_t rnd_state = 88172645463325252u;
static inline double rnd(void)
{
	rnd_state ^= rnd_state << 13;
	rnd_state ^= rnd_state >> 7;
	rnd_state ^= rnd_state << 17;
	return (double)(rnd_state >> 11) * 0x1p-53;
}
static inline float rnd_normal(void)
{
	double s = 0;
	for (int i = 0; i < 12; i++)
		s += rnd();
	return (float)(s - 6);
}
static inline void fill_normal(float *x, size_t n)
{
	for (size_t i = 0; i < n; i++)
		x[i] = rnd_normal();
}

/* The published 4-bit levels, ascending: what a naive decoder of the format uses. */
static const double levels4[16] = {
	-2.7325896, -2.0690172, -1.6180464, -1.2562312, -0.9423405, -0.6567591, -0.3880483, -0.1283950,
	0.1283950,  0.3880483,  0.6567591,  0.9423405,  1.2562312,  1.6180464,  2.0690172,  2.7325896,
};

/* H[i][j] = (-1)^popcount(i & j) / sqrt(d): the definition, not the butterfly. */
static inline void naive_hadamard(const double *x, double *y, uint32_t d)
{
	for (uint32_t i = 0; i < d; i++) {
		y[i] = 0;
		for (uint32_t j = 0; j < d; j++)
			y[i] += __builtin_popcount(i & j) % 2 ? -x[j] : x[j];
		y[i] /= sqrt((double)d);
	}
}

#endif
