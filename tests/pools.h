/* pools.h - pools for tests, opened once and kept until the process ends. They cut every loop, however small. */
#ifndef ST_TESTS_POOLS_H
#define ST_TESTS_POOLS_H

#include "test.h"

#include "base/pool.h"

#define POOLS 8
static struct st_pool *pools_[POOLS + 1];

static inline void close_pools_(void)
{
	for (int i = 0; i <= POOLS; i++)
		st_pool_close(pools_[i]);
}

/* For 1 to POOLS threads; one thread is NULL. */
static inline struct st_pool *pool_of(int threads)
{
	static bool opened;
	struct st_error err = ST_ERROR_INIT;
	assert_true(threads >= 1 && threads <= POOLS);
	if (threads == 1)
		return NULL;
	if (!opened)
		atexit(close_pools_);
	opened = true;
	if (!pools_[threads]) {
		assert_ok(st_pool_open(threads, &pools_[threads], &err), &err);
		st_pool_cut_all(pools_[threads]);
	}
	return pools_[threads];
}

#endif
