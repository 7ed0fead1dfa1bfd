/* pool.h - sharing out a loop over the threads of a run. */
#ifndef ST_BASE_POOL_H
#define ST_BASE_POOL_H

#include <stele/pool.h>

#include <stdatomic.h>

/*
 * Work on [begin, end). `lane` is below st_pool_threads and belongs to one thread for the length of the call, so it may
 * index scratch. Failures go into ctx.
 */
typedef void (*st_pool_fn)(void *ctx, unsigned lane, uint64_t begin, uint64_t end);

/*
 * Call fn for [0, n) in pieces of `piece` (at least 1), each once, in any order and on any thread, and return when all
 * are done. The caller works too. Loops of one piece, and calls from inside fn, run on the calling thread alone, as
 * lane 0: a loop inside a loop needs scratch of its own.
 */
void st_pool_run(struct st_pool *p, uint64_t n, uint64_t piece, st_pool_fn fn, void *ctx);

/* Elements of `cost` operations each that make a piece worth waking a thread for; at least 1. */
uint64_t st_pool_piece(const struct st_pool *p, uint64_t n, uint64_t cost);

/* From now on st_pool_piece is 1 whatever elements cost: for tests, whose loops are small. */
void st_pool_cut_all(struct st_pool *p);

/* st_pool_run in such pieces. */
void st_pool_each(struct st_pool *p, uint64_t n, uint64_t cost, st_pool_fn fn, void *ctx);

/* What failed first among pieces of work that fail one by one. Zero-initialised. */
struct st_first_failure {
	atomic_bool seen;
	enum st_status st;
	struct st_error err;
};
/* From any thread; `own` is that piece's. */
void st_keep_failure(struct st_first_failure *f, enum st_status st, const struct st_error *own);
/* After st_pool_run: the status, and the message in *err. */
ST_MUST_CHECK enum st_status st_first_failure(const struct st_first_failure *f, struct st_error *err);

#endif
