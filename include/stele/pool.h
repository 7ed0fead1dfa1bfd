/* stele/pool.h - the threads of a run. */
#ifndef STELE_POOL_H
#define STELE_POOL_H

#include <stele/status.h>

/*
 * A pool is started for a run and passed to what works in it; NULL stands for the calling thread alone. Its threads
 * sleep between jobs, so a pool that is not in use costs no time. One thread at a time hands it work; results never
 * depend on the number of its threads.
 */
struct st_pool;

/*
 * threads: 0 means one for each processor that this process may use; at most ST_POOL_MAX. The calling thread is one of
 * them. Where the system grants fewer threads than asked for, the pool has those.
 */
#define ST_POOL_MAX 512
ST_MUST_CHECK enum st_status st_pool_open(int threads, struct st_pool **out, struct st_error *err);
void st_pool_close(struct st_pool *p); /* NULL is none */
/* How many threads work, the caller included; 1 for NULL. */
unsigned st_pool_threads(const struct st_pool *p);

#endif
