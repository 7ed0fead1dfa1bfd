/*
 * pool.c - parked workers and pieces claimed from a counter.
 *
 * A job is open while pieces may be left. Workers join an open job and leave it when the counter has passed the end;
 * the caller closes it and waits only for those that joined, so a worker that the system has not woken yet delays
 * nobody. Whoever waits spins for a moment, because the next stage of an evaluation follows within microseconds, and
 * then sleeps on a futex, because other processes may need the processor.
 */
#include "base/pool.h"

#include "base/error.h"
#include "base/mem.h"

#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

/* About 20 microseconds: a few times what a futex costs to sleep and wake. */
#define SPINS 400

/* A piece of this many operations takes about 30 microseconds, several times what waking a thread costs. */
#ifndef ST_PIECE_OPERATIONS /* the build under the thread sanitizer cuts smaller */
#define ST_PIECE_OPERATIONS ((uint64_t)1 << 17)
#endif
/* Pieces a thread: enough that one which is put aside by the system leaves the others something to do. */
#define PIECES_A_THREAD 8

#define OPEN 0x80000000u

struct worker {
	struct st_pool *pool;
	unsigned lane;
	pthread_t thread;
};

struct st_pool {
	unsigned threads;
	bool cut_all;
	struct worker *workers; /* threads - 1 */
	/* The job. Written by the caller while no worker is in it. */
	st_pool_fn fn;
	void *ctx;
	uint64_t n, piece;
	_Alignas(64) atomic_uint turn;  /* counts jobs; workers sleep on it */
	atomic_uint sleepers;           /* of `turn` */
	_Alignas(64) atomic_uint state; /* OPEN, and the number of workers in the job; the caller sleeps on it */
	atomic_bool taken, stop;
	_Alignas(64) atomic_uint_fast64_t next;
};

static void sleep_on(atomic_uint *word, unsigned seen)
{
	syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, seen, NULL, NULL, 0);
}

static void wake(atomic_uint *word, unsigned n) { syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, n, NULL, NULL, 0); }

static void pause_once(void)
{
#if defined(__x86_64__)
	__builtin_ia32_pause();
#elif defined(__aarch64__)
	__asm__ volatile("yield");
#endif
}

static void claim(struct st_pool *p, unsigned lane)
{
	for (;;) {
		uint64_t begin = atomic_fetch_add_explicit(&p->next, p->piece, memory_order_relaxed);
		if (begin >= p->n)
			return;
		p->fn(p->ctx, lane, begin, p->n - begin < p->piece ? p->n : begin + p->piece);
	}
}

static bool join(struct st_pool *p)
{
	unsigned s = atomic_load_explicit(&p->state, memory_order_relaxed);
	while (s & OPEN)
		if (atomic_compare_exchange_weak_explicit(&p->state, &s, s + 1, memory_order_acquire,
		                                          memory_order_relaxed))
			return true;
	return false;
}

static void *work(void *arg)
{
	const struct worker *me = arg;
	struct st_pool *p = me->pool;
	unsigned seen = 0;
	for (;;) {
		unsigned turn = atomic_load_explicit(&p->turn, memory_order_acquire);
		for (int i = 0; i < SPINS && turn == seen; i++) {
			pause_once();
			turn = atomic_load_explicit(&p->turn, memory_order_acquire);
		}
		while (turn == seen) {
			atomic_fetch_add(&p->sleepers, 1);
			sleep_on(&p->turn, seen);
			atomic_fetch_sub(&p->sleepers, 1);
			turn = atomic_load_explicit(&p->turn, memory_order_acquire);
		}
		seen = turn;
		if (atomic_load_explicit(&p->stop, memory_order_relaxed))
			return NULL;
		if (!join(p))
			continue;
		claim(p, me->lane);
		if (atomic_fetch_sub_explicit(&p->state, 1, memory_order_release) == 1)
			wake(&p->state, 1); /* the job is closed and this worker was the last in it */
	}
}

void st_pool_run(struct st_pool *p, uint64_t n, uint64_t piece, st_pool_fn fn, void *ctx)
{
	if (n == 0)
		return;
	piece = piece ? piece : 1;
	if (!p || p->threads == 1 || n <= piece || atomic_exchange(&p->taken, true)) {
		fn(ctx, 0, 0, n);
		return;
	}
	p->fn = fn;
	p->ctx = ctx;
	p->n = n;
	p->piece = piece;
	atomic_store_explicit(&p->next, 0, memory_order_relaxed);
	atomic_store_explicit(&p->state, OPEN, memory_order_release);
	atomic_fetch_add(&p->turn, 1);
	if (atomic_load(&p->sleepers) > 0) {
		uint64_t others = (n - 1) / piece; /* pieces that are not the caller's first */
		wake(&p->turn, others < p->threads - 1 ? (unsigned)others : p->threads - 1);
	}
	claim(p, 0);
	unsigned s = atomic_fetch_and_explicit(&p->state, ~OPEN, memory_order_acquire) & ~OPEN;
	for (int i = 0; i < SPINS && s != 0; i++) {
		pause_once();
		s = atomic_load_explicit(&p->state, memory_order_acquire);
	}
	while (s != 0) {
		sleep_on(&p->state, s);
		s = atomic_load_explicit(&p->state, memory_order_acquire);
	}
	atomic_store(&p->taken, false);
}

void st_keep_failure(struct st_first_failure *f, enum st_status st, const struct st_error *own)
{
	if (st == ST_OK || atomic_exchange(&f->seen, true))
		return;
	f->st = st;
	f->err = *own;
}

enum st_status st_first_failure(const struct st_first_failure *f, struct st_error *err)
{
	if (f->st != ST_OK)
		*err = f->err;
	return f->st;
}

uint64_t st_pool_piece(const struct st_pool *p, uint64_t n, uint64_t cost)
{
	if (p && p->cut_all)
		return 1;
	uint64_t least = st_ceil_div(ST_PIECE_OPERATIONS, cost ? cost : 1);
	uint64_t even = st_ceil_div(n, (uint64_t)st_pool_threads(p) * PIECES_A_THREAD);
	uint64_t piece = even > least ? even : least;
	return piece ? piece : 1;
}

void st_pool_cut_all(struct st_pool *p) { p->cut_all = true; }

void st_pool_each(struct st_pool *p, uint64_t n, uint64_t cost, st_pool_fn fn, void *ctx)
{
	st_pool_run(p, n, st_pool_piece(p, n, cost), fn, ctx);
}

unsigned st_pool_threads(const struct st_pool *p) { return p ? p->threads : 1; }

/* Processors this process may run on. */
static unsigned processors(void)
{
	cpu_set_t set;
	if (sched_getaffinity(0, sizeof set, &set) == 0)
		return (unsigned)CPU_COUNT(&set);
	long n = sysconf(_SC_NPROCESSORS_ONLN);
	return n > 0 ? (unsigned)n : 1;
}

enum st_status st_pool_open(int asked, struct st_pool **out, struct st_error *err)
{
	*out = NULL;
	unsigned threads = asked > 0 ? (unsigned)asked : processors();
	threads = threads > ST_POOL_MAX ? ST_POOL_MAX : threads;
	struct st_pool *p = st_alloc_array(1, sizeof *p);
	struct worker *workers = st_alloc_array(threads, sizeof *workers);
	if (!p || !workers) {
		free(p);
		free(workers);
		return st_fail(err, ST_ERR_NOMEM, "out of memory");
	}
	*p = (struct st_pool){ .threads = 1, .workers = workers };
	for (unsigned i = 0; i + 1 < threads; i++) {
		workers[i] = (struct worker){ .pool = p, .lane = i + 1 };
		if (pthread_create(&workers[i].thread, NULL, work, &workers[i]) != 0)
			break;
		p->threads++;
	}
	*out = p;
	return ST_OK;
}

void st_pool_close(struct st_pool *p)
{
	if (!p)
		return;
	atomic_store(&p->stop, true);
	atomic_fetch_add(&p->turn, 1);
	wake(&p->turn, ST_POOL_MAX);
	for (unsigned i = 0; i + 1 < p->threads; i++)
		pthread_join(p->workers[i].thread, NULL);
	free(p->workers);
	free(p);
}
