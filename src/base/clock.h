/* clock.h - time that only goes on. */
#ifndef ST_BASE_CLOCK_H
#define ST_BASE_CLOCK_H

#include <time.h>

/* Milliseconds since some moment before the process began. */
static inline double st_now_ms(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec * 1e3 + (double)t.tv_nsec * 1e-6;
}

#endif
