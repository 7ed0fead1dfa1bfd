/*
 * pool.c - parked workers and pieces claimed from counters.
 *
 * The pieces are shared out evenly at first, so that a loop over data that was used before finds its part in the cache
 * of the same processor. Who is through with its share takes from the others'. A job is open while pieces may be left.
 * Workers join an open job and leave it when every counter has passed the end of its share; the caller closes the job
 * and waits only for those that joined, so a worker that the system has not woken yet delays nobody. Whoever waits spins
 * for a moment, because the next stage of an evaluation follows within microseconds, and then sleeps on a futex, because
 * other processes may need the processor.
 */
#include "base/pool.h"

#include "base/error.h"
#include "base/mem.h"

#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

/* Nanoseconds: twice what it takes to wake a thread whose processor sleeps, on a virtual machine. On processors of their
 * own a futex costs a tenth. */
#define SPIN_TIME 50000

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

/* Pieces of a job: those that are left of one thread's share. */
struct share {
	_Alignas(64) atomic_uint_fast64_t next;
	uint64_t end;
};

struct st_pool {
	unsigned threads;
	bool cut_all;
	struct worker *workers; /* threads - 1 */
	/* The job. Written by the caller while no worker is in it. */
	st_pool_fn fn;
	void *ctx;
	uint64_t n, piece;
	struct share *shares;           /* of every thread */
	_Alignas(64) atomic_uint turn;  /* counts jobs; workers sleep on it */
	atomic_uint sleepers;           /* of `turn` */
	_Alignas(64) atomic_uint state; /* OPEN, and the number of workers in the job; the caller sleeps on it */
	atomic_bool taken, stop;
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

static uint64_t now(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

/* What is in the word as soon as it is no longer `seen`, or `seen` when it is time to sleep. */
static unsigned spin(const atomic_uint *word, unsigned seen)
{
	unsigned is = atomic_load_explicit(word, memory_order_acquire);
	for (uint64_t end = is == seen ? now() + SPIN_TIME : 0; is == seen && now() < end;)
		for (int i = 0; i < 32 && is == seen; i++) { /* a microsecond or two */
			pause_once();
			is = atomic_load_explicit(word, memory_order_acquire);
		}
	return is;
}

static void claim(struct st_pool *p, unsigned lane)
{
	for (unsigned i = 0; i < p->threads; i++) {
		struct share *s = &p->shares[(lane + i) % p->threads];
		for (;;) {
			uint64_t k = atomic_fetch_add_explicit(&s->next, 1, memory_order_relaxed), begin = k * p->piece;
			if (k >= s->end)
				break;
			p->fn(p->ctx, lane, begin, p->n - begin < p->piece ? p->n : begin + p->piece);
		}
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
		unsigned turn = spin(&p->turn, seen);
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
	uint64_t pieces = st_ceil_div(n, piece), each = pieces / p->threads, more = pieces % p->threads;
	for (uint64_t i = 0, at = 0; i < p->threads; i++) {
		atomic_store_explicit(&p->shares[i].next, at, memory_order_relaxed);
		p->shares[i].end = at += each + (i < more);
	}
	atomic_store_explicit(&p->state, OPEN, memory_order_release);
	atomic_fetch_add(&p->turn, 1);
	if (atomic_load(&p->sleepers) > 0) {
		uint64_t others = pieces - 1; /* all but the caller's first */
		wake(&p->turn, others < p->threads - 1 ? (unsigned)others : p->threads - 1);
	}
	claim(p, 0);
	unsigned s = atomic_fetch_and_explicit(&p->state, ~OPEN, memory_order_acquire) & ~OPEN;
	while (s != 0) {
		unsigned then = spin(&p->state, s);
		if (then == s)
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
	struct share *shares = st_alloc_array(threads, sizeof *shares);
	if (!p || !workers || !shares) {
		free(p);
		free(workers);
		free(shares);
		return st_fail(err, ST_ERR_NOMEM, "out of memory");
	}
	*p = (struct st_pool){ .threads = 1, .workers = workers, .shares = shares };
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
	free(p->shares);
	free(p);
}
