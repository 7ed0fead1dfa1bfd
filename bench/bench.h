/*
 * bench.h - figures beside their limits. A figure without the limit of the machine it was taken on says
 * little, and shared machines make the limit vary from minute to minute: every row measures its own.
 *
 * To add rows: a file bench_NAME.c with one function, a line in the table of bench.c and in meson.build.
 */
#ifndef ST_BENCH_H
#define ST_BENCH_H

#include <stdbool.h>
#include <stddef.h>
#include <stele/pool.h>

struct bench {
	int threads;
	struct st_pool *pool; /* of so many */
	double seconds;       /* at least this long per figure */
	const char *data;     /* folder with large models, or NULL */
	const char *stele;    /* the command, or NULL */
};

/* One measured thing, run once per call. */
typedef void (*bench_fn)(void *arg);

/* Seconds of the fastest call in b->seconds (at least 3 calls). */
double bench_time(const struct bench *b, bench_fn f, void *arg);

/* Bytes per second that b->threads threads read from an array far larger than any cache. */
double bench_read_bandwidth(const struct bench *b);
/* f32 operations per second (an fma is two) that they reach in registers, with the widest vectors here; 0 where
 * not known how to measure. */
double bench_fma_peak(const struct bench *b);

/* Measure f between two measurements of a limit and print the row. `work`: what one call does, in the unit
 * of the limit (bytes or operations); unit and divisor for people: "GB/s", 1e9. */
void bench_row(const struct bench *b, const char *what, bench_fn f, void *arg, double work,
               double (*limit)(const struct bench *), const char *unit, double divisor);
/* A row whose limit is a stated one, in seconds. */
void bench_row_seconds(const struct bench *b, const char *what, bench_fn f, void *arg, double limit);

void bench_kernel(const struct bench *b);
void bench_replay(const struct bench *b);
void bench_model(const struct bench *b);
void bench_svf(const struct bench *b);
void bench_load(const struct bench *b);
void bench_compare(const struct bench *b);

#endif
