/* bench.c - the harness: command line, clock, the two limits, the table. */
#include "bench.h"

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sysinfo.h>
#include <time.h>

#include "base/pool.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

static const struct {
	const char *name;
	void (*run)(const struct bench *);
} groups[] = {
	{ "kernel", bench_kernel }, { "compare", bench_compare }, { "model", bench_model },
	{ "replay", bench_replay }, { "svf", bench_svf },         { "load", bench_load },
};

static double now(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

double bench_time(const struct bench *b, bench_fn f, void *arg)
{
	double best = 1e300, end = now() + b->seconds;
	for (int i = 0; i < 3 || now() < end; i++) {
		double t = now();
		f(arg);
		t = now() - t;
		best = t < best ? t : best;
	}
	return best;
}

/* ---- read bandwidth ---- */

#define STREAM_BYTES ((size_t)512 << 20)
static uint64_t *stream;
static volatile uint64_t sink;

static void read_pieces(void *ctx, unsigned lane, uint64_t begin, uint64_t end)
{
	uint64_t total = 0;
	(void)ctx, (void)lane;
	for (size_t i = begin; i < end; i++)
		total += stream[i];
	sink = total;
}

static void read_stream(void *arg)
{
	const struct bench *b = arg;
	st_pool_run(b->pool, STREAM_BYTES / sizeof *stream, (size_t)1 << 20, read_pieces, NULL);
}

double bench_read_bandwidth(const struct bench *b)
{
	if (!stream) {
		stream = aligned_alloc(64, STREAM_BYTES);
		if (!stream) {
			fprintf(stderr, "bench: no memory\n");
			exit(1);
		}
		memset(stream, 1, STREAM_BYTES);
	}
	struct bench own = *b;
	return (double)STREAM_BYTES / bench_time(b, read_stream, &own);
}

/* ---- f32 fma ---- */

#define FMA_STEPS 2000000

#if defined(__x86_64__)
/* 12 chains hide the latency; each step depends on the one before, so none can be dropped. */
#define CHAINS(vec, set1, fma, lanes)                                                                        \
	vec s[12], a = set1(0.999999f), c = set1(1e-7f);                                                     \
	for (int i = 0; i < 12; i++)                                                                         \
		s[i] = set1((float)i);                                                                       \
	for (long k = 0; k < FMA_STEPS; k++)                                                                 \
		_Pragma("GCC unroll 12") for (int i = 0; i < 12; i++) s[i] = fma(s[i], a, c);                \
	float out[12][lanes];                                                                                \
	memcpy(out, s, sizeof out);                                                                          \
	return out[0][0] + out[1][0] + out[2][0] + out[3][0] + out[4][0] + out[5][0] + out[6][0] + out[7][0] \
	     + out[8][0] + out[9][0] + out[10][0] + out[11][0]

__attribute__((target("avx512f"))) static float chains_512(void)
{
	CHAINS(__m512, _mm512_set1_ps, _mm512_fmadd_ps, 16);
}
__attribute__((target("avx2,fma"))) static float chains_256(void)
{
	CHAINS(__m256, _mm256_set1_ps, _mm256_fmadd_ps, 8);
}

static void do_chains(void *ctx, unsigned lane, uint64_t begin, uint64_t end)
{
	(void)ctx, (void)lane;
	for (uint64_t i = begin; i < end; i++)
		sink = (uint64_t)(int64_t)(__builtin_cpu_supports("avx512f") ? chains_512() : chains_256());
}

static void run_chains(void *arg)
{
	const struct bench *b = arg;
	st_pool_run(b->pool, (uint64_t)b->threads, 1, do_chains, NULL);
}

double bench_fma_peak(const struct bench *b)
{
	if (!__builtin_cpu_supports("fma"))
		return 0;
	struct bench own = *b;
	double lanes = __builtin_cpu_supports("avx512f") ? 16 : 8;
	return 2 * lanes * 12.0 * FMA_STEPS * b->threads / bench_time(b, run_chains, &own);
}
#else
double bench_fma_peak(const struct bench *b)
{
	(void)b;
	return 0;
}
#endif

/* ---- rows ---- */

void bench_row(const struct bench *b, const char *what, bench_fn f, void *arg, double work,
               double (*limit)(const struct bench *), const char *unit, double divisor)
{
	double before = limit(b), measured = work / bench_time(b, f, arg), after = limit(b);
	double top = before > after ? before : after;
	if (top > 0)
		printf("%-44s %9.2f %9.2f %-7s %6.1f %%\n", what, measured / divisor, top / divisor, unit,
		       100 * measured / top);
	else
		printf("%-44s %9.2f %9s %-7s\n", what, measured / divisor, "?", unit);
	fflush(stdout);
}

void bench_row_seconds(const struct bench *b, const char *what, bench_fn f, void *arg, double limit)
{
	double t = bench_time(b, f, arg);
	printf("%-44s %9.3f %9.3f %-7s %6.1f %%\n", what, t, limit, "s", 100 * t / limit);
	fflush(stdout);
}

int main(int argc, char **argv)
{
	struct bench b = { .threads = 2, .seconds = 0.3 };
	const char *only = NULL;
	for (int i = 1; i < argc; i++) {
		unsigned long threads = strncmp(argv[i], "--threads=", 10) == 0 ? strtoul(argv[i] + 10, NULL, 10) : 0;
		if (threads > 0 && threads <= ST_POOL_MAX) {
			b.threads = (int)threads;
		} else if (strncmp(argv[i], "--seconds=", 10) == 0) {
			b.seconds = strtod(argv[i] + 10, NULL);
		} else if (strncmp(argv[i], "--data=", 7) == 0) {
			b.data = argv[i] + 7;
		} else if (strncmp(argv[i], "--stele=", 8) == 0) {
			b.stele = argv[i] + 8;
		} else if (argv[i][0] != '-') {
			only = argv[i];
		} else {
			fprintf(stderr,
			        "usage: stele-bench [--threads=N] [--seconds=S] [--data=FOLDER] [--stele=FILE] [GROUP]\n");
			return 1;
		}
	}
	struct st_error err = ST_ERROR_INIT;
	if (st_pool_open(b.threads, &b.pool, &err) != ST_OK || st_pool_threads(b.pool) != (unsigned)b.threads) {
		fprintf(stderr, "stele-bench: no %d threads\n", b.threads);
		return 1;
	}
	printf("%d threads of %d processors\n%-44s %9s %9s %-7s %8s\n", b.threads, get_nprocs(), "what", "measured",
	       "limit", "", "ratio");
	bool found = false;
	for (size_t i = 0; i < sizeof groups / sizeof groups[0]; i++)
		if (!only || strcmp(only, groups[i].name) == 0) {
			found = true;
			groups[i].run(&b);
		}
	if (!found) {
		fprintf(stderr, "stele-bench: no group '%s'\n", only);
		return 1;
	}
	st_pool_close(b.pool);
	free(stream);
	return 0;
}
