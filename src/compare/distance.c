/* distance.c - two sets of numbers, element by element. */
#include "compare/distance.h"

#include "base/error.h"
#include "base/mem.h"
#include "base/pool.h"
#include "dtype/half.h"

#include <math.h>
#include <stdlib.h>

#define PIECE ((uint64_t)1 << 16)   /* part of the order of summation, so never a matter of threads */
#define ST_SOME ((uint64_t)1 << 20) /* elements to decode at a time */
#define ROUND 32                    /* pieces in flight; theirs live on the stack */

/* bf16 values in order, so that their difference counts representable numbers between them. */
static int32_t rank(float x)
{
	uint16_t b = st_f32_to_bf16(x);
	return b & 0x8000 ? -(int32_t)(b & 0x7FFF) : (int32_t)b;
}

static size_t ulp_class(float a, float b)
{
	if (!isfinite(a) || !isfinite(b))
		return ST_ULP_CLASSES - 1;
	int32_t d = abs(rank(a) - rank(b));
	return d <= 2 ? (size_t)d : d <= 4 ? 3 : d <= 16 ? 4 : d <= 256 ? 5 : 6;
}

static void keep(struct st_distance *m, struct st_top_diff d)
{
	st_top_offer(m->worst, &m->n_worst, m->want ? m->want : 1, d);
}

struct pieces {
	const float *a, *b;
	uint64_t n;
	struct st_distance *part;
};

static void measure(void *ctx, unsigned lane, uint64_t begin, uint64_t end)
{
	const struct pieces *p = ctx;
	(void)lane;
	for (uint64_t k = begin; k < end; k++) {
		struct st_distance *m = &p->part[k];
		const float *a = p->a + k * PIECE, *b = p->b + k * PIECE;
		uint64_t n = p->n - k * PIECE < PIECE ? p->n - k * PIECE : PIECE, first = m->count;
		m->count = n;
		st_sums_of(a, b, n, first, &m->s);
		for (uint64_t i = 0; i < n; i++) {
			m->mismatched += a[i] != b[i];
			m->bits += st_f32_bits(a[i]) != st_f32_bits(b[i]);
			if (m->by_ulps)
				m->ulps[ulp_class(a[i], b[i])]++;
			double d = st_apart(a[i], b[i]);
			if (d > 0)
				keep(m, (struct st_top_diff){ first + i, a[i], b[i], d });
		}
	}
}

static void merge(struct st_distance *m, const struct st_distance *p)
{
	m->count += p->count;
	m->mismatched += p->mismatched;
	m->bits += p->bits;
	st_sums_fold(&m->s, &p->s);
	for (size_t i = 0; i < ST_ULP_CLASSES; i++)
		m->ulps[i] += p->ulps[i];
	for (size_t i = 0; i < p->n_worst; i++)
		keep(m, p->worst[i]);
}

void st_distance_add(struct st_distance *m, const float *a, const float *b, uint64_t n, struct st_pool *pool)
{
	struct st_distance part[ROUND];
	for (uint64_t at = 0; at < n; at += ROUND * PIECE) {
		struct pieces p = { a + at, b + at, n - at < ROUND * PIECE ? n - at : ROUND * PIECE, part };
		uint64_t pieces = st_ceil_div(p.n, PIECE);
		for (uint64_t i = 0; i < pieces; i++)
			part[i] = (struct st_distance){ .want = m->want,
				                        .by_ulps = m->by_ulps,
				                        .count = m->count + i * PIECE };
		st_pool_run(pool, pieces, 1, measure, &p);
		for (uint64_t i = 0; i < pieces; i++)
			merge(m, &part[i]);
	}
}

enum st_status st_distance_of(struct st_distance *m, const struct st_tensor *a, const struct st_tensor *b,
                              struct st_pool *pool, struct st_error *err)
{
	if (a->n_elems == 0)
		return ST_OK; /* of however many rows */
	uint64_t rows = st_tensor_rows(a), cols = st_tensor_cols(a), step = ST_SOME / cols + 1;
	step = step < rows ? step : rows;
	float *x = st_alloc_array2(step, cols, sizeof *x), *y = st_alloc_array2(step, cols, sizeof *y);
	enum st_status st = x && y ? ST_OK : st_fail(err, ST_ERR_NOMEM, "out of memory");
	for (uint64_t r = 0; st == ST_OK && r < rows; r += step) {
		uint64_t n = rows - r < step ? rows - r : step;
		st_tensor_decode(a, r, n, x);
		st_tensor_decode(b, r, n, y);
		st_distance_add(m, x, y, n * cols, pool);
		st = st_check_cancel(err);
	}
	free(x);
	free(y);
	return st;
}

double st_distance_mean(const struct st_distance *m)
{
	return m->s.apart ? INFINITY : m->count ? m->s.abs / (double)m->count : 0;
}
