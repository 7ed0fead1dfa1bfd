/*
 * bench_compare.c - two stored weights laid beside each other: could both have come from one original?
 *
 * The limit is what cannot be saved: both sides read and decoded, and nothing made of them. A ratio of 100 % would be a
 * look that costs nothing. Each pair is also held against the bandwidth of the memory.
 */
#include "bench.h"

#include "base/mem.h"
#include "base/pool.h"
#include "base/rng.h"
#include "compare/pair.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Rows enough to be larger than the last cache. */
enum { ROWS = 8192, COLS = 4096 };

/* Two sides of one original; the limit of the rows below is a function without an argument. */
static struct st_tensor side[2];
static float *rows; /* one of each side for every lane */

static void *must(void *p)
{
	if (!p) {
		fprintf(stderr, "bench: no memory\n");
		exit(1);
	}
	return p;
}

static void store(struct st_tensor *t, enum st_dtype type)
{
	const struct st_dtype_info *info = st_dtype_info(type);
	size_t row = COLS / info->block_elems * info->block_bytes;
	uint8_t *data = must(st_alloc_array(ROWS, row));
	float *x = must(st_alloc_array(COLS, sizeof *x));
	struct st_xoshiro r;
	st_xoshiro_seed(&r, 1);
	for (size_t n = 0; n < ROWS; n++) {
		/* Encoding every row anew would take a minute; the speed depends on few of the values. */
		if (n >= 64) {
			memcpy(data + n * row, data + (n - 64) * row, row);
			continue;
		}
		for (size_t i = 0; i < COLS; i++) {
			double sum = 0;
			for (int k = 0; k < 4; k++)
				sum += (double)(st_xoshiro_next(&r) >> 11) * 0x1p-53 - 0.5;
			x[i] = (float)(0.03 * sum);
		}
		info->encode(x, data + n * row, COLS);
	}
	free(x);
	*t = (struct st_tensor){ .name = "w",
		                 .dtype = type,
		                 .layout = ST_LAYOUT_ROWS,
		                 .ndim = 2,
		                 .shape = { ROWS, COLS },
		                 .n_elems = (uint64_t)ROWS * COLS,
		                 .n_bytes = (uint64_t)ROWS * row,
		                 .row_bytes = row,
		                 .scale = 1,
		                 .data = data };
}

static void judge(void *arg)
{
	const struct bench *b = arg;
	struct st_weight w[2] = { { .tensor = &side[0], .heads = 1, .layer = -1 },
		                  { .tensor = &side[1], .heads = 1, .layer = -1 } };
	struct st_error err = ST_ERROR_INIT;
	struct st_pair p;
	if (st_pair_open(&p, &w[0], &w[1], b->pool, &err) != ST_OK || !p.sum.noise) {
		fprintf(stderr, "bench: two sides of one original are not judged so\n");
		exit(1);
	}
	st_pair_close(&p);
}

static void decode_rows(void *ctx, unsigned lane, uint64_t begin, uint64_t end)
{
	(void)ctx;
	for (uint64_t r = begin; r < end; r++)
		for (int s = 0; s < 2; s++)
			st_tensor_decode(&side[s], r, 1, rows + (2 * (uint64_t)lane + (uint64_t)s) * COLS);
}

static void decode(void *arg)
{
	const struct bench *b = arg;
	st_pool_run(b->pool, ROWS, 16, decode_rows, NULL);
}

static double bytes_of_both(void) { return (double)(side[0].n_bytes + side[1].n_bytes); }

static double decode_speed(const struct bench *b)
{
	struct bench own = *b;
	return bytes_of_both() / bench_time(b, decode, &own);
}

static void pair(const struct bench *b, enum st_dtype x, enum st_dtype y)
{
	struct bench own = *b;
	char what[80];
	store(&side[0], x);
	store(&side[1], y);
	snprintf(what, sizeof what, "%s beside %s, limit: decoding both", st_dtype_info(x)->name,
	         st_dtype_info(y)->name);
	bench_row(b, what, judge, &own, bytes_of_both(), decode_speed, "GB/s", 1e9);
	snprintf(what, sizeof what, "%s beside %s, limit: reading both", st_dtype_info(x)->name,
	         st_dtype_info(y)->name);
	bench_row(b, what, judge, &own, bytes_of_both(), bench_read_bandwidth, "GB/s", 1e9);
	for (int s = 0; s < 2; s++)
		free((void *)(uintptr_t)side[s].data);
}

void bench_compare(const struct bench *b)
{
	rows = must(st_alloc_array3((size_t)b->threads, 2, COLS, sizeof *rows));
	pair(b, ST_DTYPE_Q8_0, ST_DTYPE_Q4_K);
	pair(b, ST_DTYPE_BF16, ST_DTYPE_Q8_0);
	pair(b, ST_DTYPE_BF16, ST_DTYPE_Q4_0);
	pair(b, ST_DTYPE_BF16, ST_DTYPE_F16);
	free(rows);
}
