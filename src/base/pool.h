/* pool.h - sharing out a loop over the threads of a run. */
#ifndef ST_BASE_POOL_H
#define ST_BASE_POOL_H

#include <stele/pool.h>

/*
 * Work on [begin, end). `lane` is below st_pool_threads and belongs to one thread for the length of the call, so it may
 * index scratch. Failures go into ctx.
 */
typedef void (*st_pool_fn)(void *ctx, unsigned lane, uint64_t begin, uint64_t end);

/*
 * Call fn for [0, n) in pieces of `piece` (at least 1), each once, in any order and on any thread, and return when all
 * are done. The caller works too. Loops of one piece, and calls from inside fn, run on the calling thread alone, as lane 0.
 */
void st_pool_run(struct st_pool *p, uint64_t n, uint64_t piece, st_pool_fn fn, void *ctx);

/* Elements of `cost` operations each that make a piece worth waking a thread for; at least 1. */
uint64_t st_pool_piece(const struct st_pool *p, uint64_t n, uint64_t cost);

#endif
