/* bench_replay.c - packed attention beside its bytes and beside dense f32, encoding, and the null distribution. */
#include "bench.h"

#include "base/mem.h"
#include "turboquant/sweep.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { HEADS = 16, KV_HEADS = 8, DIM = 256 };

struct step {
	struct st_tq_params p;
	struct st_tq_codec codec;
	struct st_tq_exec e;
	struct st_tq_kv kv;
	float *q, *out;
};

static void *must(void *p)
{
	if (!p) {
		fprintf(stderr, "bench: no memory\n");
		exit(1);
	}
	return p;
}

static void ok(enum st_status st, const struct st_error *err)
{
	if (st != ST_OK) {
		fprintf(stderr, "bench: %s\n", err->message);
		exit(1);
	}
}

static void attend(void *arg)
{
	struct step *s = arg;
	struct st_error err = ST_ERROR_INIT;
	ok(st_tq_attention(&s->e, &s->codec, &s->p, &s->kv, s->q, s->out, &err), &err);
}

/* Packed and dense at one length. The bits of the codes do not matter to the speed, their number does. */
static void attention(const struct bench *b, uint32_t rows)
{
	struct st_error err = ST_ERROR_INIT;
	const size_t n = (size_t)KV_HEADS * rows;
	struct step s = {
		.p = { HEADS, KV_HEADS, DIM, rows, rows, 0.0625, ST_TQ_MASK_CAUSAL, 0, 0, 0, 1 },
		.e = { .cpu = st_cpu_best(), .pool = b->pool },
	};
	struct st_draw g;
	uint8_t *codes = must(st_alloc_array(2 * n, DIM / 2));
	float *norms = must(st_alloc_array(2 * n, sizeof *norms)),
	      *dense = must(st_alloc_array(2 * n, DIM * sizeof *dense));
	char what[96];
	ok(st_tq_codec_init(&s.codec, DIM, 4, false, 1, s.e.cpu, &err), &err);
	st_draw_init(&g, 1, s.e.cpu);
	s.q = must(st_alloc_array(HEADS * DIM, sizeof *s.q));
	s.out = must(st_alloc_array(HEADS * DIM, sizeof *s.out));
	st_draw_normal(&g, s.q, HEADS * DIM);
	for (size_t i = 0; i < 2 * n * DIM / 2; i++)
		codes[i] = (uint8_t)(i * 2654435761u >> 24);
	for (size_t i = 0; i < 2 * n; i++)
		norms[i] = 16;
	for (size_t i = 0; i < 2 * n; i++)
		st_tq_decode_rotated(&s.codec, codes + i * (DIM / 2), norms + i, 1, dense + i * DIM);
	s.kv = (struct st_tq_kv){ .codes = { codes, codes + n * (DIM / 2) }, .norms = { norms, norms + n } };
	snprintf(what, sizeof what, "attention, 4-bit cache, %u rows", rows);
	bench_row(b, what, attend, &s, (double)n * (DIM + 2 * sizeof(float)), bench_read_bandwidth, "GB/s", 1e9);
	double packed = bench_time(b, attend, &s);
	s.kv = (struct st_tq_kv){ .dense = { dense, dense + n * DIM } };
	snprintf(what, sizeof what, "attention, dense f32, %u rows", rows);
	bench_row(b, what, attend, &s, (double)n * 2 * DIM * sizeof(float), bench_read_bandwidth, "GB/s", 1e9);
	double full = bench_time(b, attend, &s);
	printf("  packed is %.2f times as fast as dense f32 at %u rows\n", full / packed, rows);
	free(codes);
	free(norms);
	free(dense);
	free(s.q);
	free(s.out);
}

struct rows {
	struct st_tq_codec codec;
	float *x, *norms;
	uint8_t *codes;
	struct st_pool *pool;
};

enum { ENCODE_ROWS = 65536 };

static void encode(void *arg)
{
	struct rows *r = arg;
	st_tq_encode(&r->codec, r->x, ENCODE_ROWS, r->codes, r->norms, r->pool);
}

/* Once: bench_time would run it three times. Stated for two cores. */
static void null_distribution(const struct bench *b)
{
	struct st_error err = ST_ERROR_INIT;
	const struct st_tq_exec e = { .cpu = st_cpu_best(), .pool = b->pool, .bits = 4 };
	struct st_sweep s;
	struct st_null_stats null;
	struct timespec t0, t1;
	clock_gettime(CLOCK_MONOTONIC, &t0);
	ok(st_sweep_init(&s, &err), &err);
	ok(st_null_run(&s, 200, ST_TQ_SEED, &e, &null, &err), &err);
	st_sweep_release(&s);
	clock_gettime(CLOCK_MONOTONIC, &t1);
	double t = (double)(t1.tv_sec - t0.tv_sec) + (double)(t1.tv_nsec - t0.tv_nsec) * 1e-9;
	printf("%-44s %9.3f %9.3f %-7s %6.1f %%\n", "null distribution, 200 seeds, all points", t, 60.0, "s",
	       100 * t / 60);
}

void bench_replay(const struct bench *b)
{
	struct st_error err = ST_ERROR_INIT;
	struct rows r = { .pool = b->pool };
	struct st_draw g;
	attention(b, 1024);
	attention(b, 131072);
	ok(st_tq_codec_init(&r.codec, DIM, 4, true, 1, st_cpu_best(), &err), &err);
	r.x = must(st_alloc_array((uint64_t)ENCODE_ROWS * DIM, sizeof *r.x));
	r.norms = must(st_alloc_array(ENCODE_ROWS, sizeof *r.norms));
	r.codes = must(st_alloc_array(ENCODE_ROWS, DIM / 2));
	st_draw_init(&g, 1, r.codec.cpu);
	st_draw_normal(&g, r.x, (size_t)ENCODE_ROWS * DIM);
	bench_row(b, "encode to 4 bits, d 256, bytes of f32", encode, &r, (double)ENCODE_ROWS * DIM * 4,
	          bench_read_bandwidth, "GB/s", 1e9);
	free(r.x);
	free(r.norms);
	free(r.codes);
	null_distribution(b);
}
