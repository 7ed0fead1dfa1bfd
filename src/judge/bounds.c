/*
 * bounds.c - what the noise of two weights may do to a product with them: floors.h, docs/floors.md, "What a stage may
 * do".
 *
 * Two weights that are noise to each other differ by known numbers d[n, k]. For inputs x output n differs by the sum of
 * d[n, k] x[k]. Rounding gives these differences signs that have nothing to do with each other or with the inputs, so
 * the square of an output is V[n] = sum of d[n, k]^2 x[k]^2 on average, whatever their sizes. The squares of a token's
 * outputs add up to sum V on average, and (Laurent and Massart, 2000) exceed
 *
 *     sum V + 2 sqrt(u sum V^2) + 2 u max V
 *
 * with a probability of exp(-u) at most. Coarse types also have a small gain. A cell holds more numbers on its inner
 * side than on its outer one, so an error of relative variance e^2 leaves a least-squares gain of 1 - e^2. The weights'
 * own gain, up to that, pulls one way; what it makes of the product is allowed on top. What exceeds both is no
 * rounding.
 */
#include "judge/floors.h"

#include "base/error.h"
#include "base/levels.h"
#include "base/mem.h"
#include "base/pool.h"
#include "compare/sums.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define GROUPS ((size_t)64) /* of rows, added up in order: the same sums for any number of threads */
#define FALSE_ALARMS 1e-9   /* in a whole run */

struct sums {
	double v, v2, most;
	double whole;      /* square of b's product; in the sums over all weights, of what the gain makes of it */
	double aa, ab, bb; /* of the rows that differ; those of token 0 alone are filled */
};

struct product {
	const struct st_weight *a, *b;
	const float *x, *x2; /* [T, K] */
	size_t T;
	const bool *beyond;   /* [T]: equal differences are added up first; NULL: of no token */
	float *rows;          /* per lane: a's row or differences, b's row or their squares */
	struct entry *sorted; /* per lane: [K], with beyond */
	struct sums *part;    /* [GROUPS, T] */
};

struct entry {
	float d;
	uint32_t k;
};

/* A padded vocabulary has more rows on one side. */
static uint64_t rows_of(const struct product *p)
{
	uint64_t a = st_weight_rows(p->a), b = st_weight_rows(p->b);
	return a < b ? a : b;
}

static int by_difference(const void *x, const void *y)
{
	const struct entry *a = x, *b = y;
	return a->d != b->d ? (a->d > b->d) - (a->d < b->d) : (a->k > b->k) - (a->k < b->k);
}

/* sum over the values that differences have of (d * sum of x)^2 */
static double grouped(const struct entry *e, size_t K, const float *x)
{
	double sum = 0, of_one = 0;
	for (size_t i = 0; i < K; i++) {
		of_one += x[e[i].k];
		if (i + 1 < K && e[i + 1].d == e[i].d)
			continue;
		sum += e[i].d * of_one * (e[i].d * of_one);
		of_one = 0;
	}
	return sum;
}

/* a becomes a - b. most: the largest magnitudes, in lanes; NaN counts as nothing. */
ST_LEVELS static void subtract_lanes(float *restrict a, const float *restrict b, uint64_t n, float most[ST_LANES])
{
	float top[ST_LANES] = { 0 };
	uint64_t i = 0;
	for (; i + ST_LANES <= n; i += ST_LANES)
		for (size_t l = 0; l < ST_LANES; l++) {
			float d = a[i + l] - b[i + l], size = fabsf(d);
			a[i + l] = d;
			top[l] = size > top[l] ? size : top[l];
		}
	for (; i < n; i++) {
		a[i] -= b[i];
		top[0] = fabsf(a[i]) > top[0] ? fabsf(a[i]) : top[0];
	}
	memcpy(most, top, sizeof top);
}

/* a becomes a - b; the largest magnitude. */
static float subtract(float *a, const float *b, uint64_t n)
{
	float most[ST_LANES];
	subtract_lanes(a, b, n, most);
	for (size_t l = 1; l < ST_LANES; l++)
		most[0] = most[l] > most[0] ? most[l] : most[0];
	return most[0];
}

/* Relative to the largest: squares of small numbers vanish. */
ST_LEVELS static void square_of(const float *restrict d, float most, uint64_t n, float *restrict square)
{
	for (uint64_t i = 0; i < n; i++) {
		float x = d[i] / most;
		square[i] = x * x;
	}
}

static void sum_rows(void *ctx, unsigned lane, uint64_t begin, uint64_t end)
{
	const struct product *p = ctx;
	uint64_t K = st_tensor_cols(p->b->tensor), N = rows_of(p);
	float *d = p->rows + lane * 2 * K, *square = d + K;
	struct entry *e = p->sorted ? p->sorted + lane * K : NULL;
	for (uint64_t g = begin; g < end; g++)
		for (uint64_t n = g * N / GROUPS; n < (g + 1) * N / GROUPS && !st_cancelled(); n++) {
			st_weight_decode(p->a, n, 1, d);
			st_weight_decode(p->b, n, 1, square);
			double aa = e ? st_sum_of_products(d, d, K) : 0, ab = e ? st_sum_of_products(d, square, K) : 0,
			       bb = e ? st_sum_of_products(square, square, K) : 0;
			float most = subtract(d, square, K);
			if (!(most > 0))
				continue;
			for (size_t t = 0; e && t < p->T; t++) {
				double of_b = p->beyond[t] ? st_sum_of_products(square, p->x + t * K, K) : 0;
				p->part[g * p->T + t].whole += of_b * of_b;
			}
			p->part[g * p->T].aa += aa;
			p->part[g * p->T].ab += ab;
			p->part[g * p->T].bb += bb;
			for (uint64_t k = 0; e && k < K; k++)
				e[k] = (struct entry){ d[k] / most, (uint32_t)k };
			square_of(d, most, K, square);
			if (e)
				qsort(e, (size_t)K, sizeof *e, by_difference);
			for (size_t t = 0; t < p->T; t++) {
				struct sums *s = &p->part[g * p->T + t];
				if (e && !p->beyond[t])
					continue;
				double v = (double)most * most
				         * (e ? grouped(e, (size_t)K, p->x + t * K)
				              : st_sum_of_products(square, p->x2 + t * K, (size_t)K));
				s->v += v;
				s->v2 += v * v;
				s->most = fmax(s->most, v);
			}
		}
}

/* How far a weight's gain is from 1, cut off where least squares would leave it. */
static double gain_of(const struct sums *part, size_t T)
{
	double aa = 0, ab = 0, bb = 0;
	for (size_t g = 0; g < GROUPS; g++) {
		aa += part[g * T].aa;
		ab += part[g * T].ab;
		bb += part[g * T].bb;
	}
	return aa > 0 && bb > 0 ? fmin(fabs(ab / bb - 1), fmax(1 - ab * ab / (aa * bb), 0)) : 0;
}

/* Adds the sums of one weight's rows to total[T]. */
static enum st_status add_weight(struct product *p, struct st_pool *pool, struct sums *total, struct st_error *err)
{
	uint64_t K = st_tensor_cols(p->b->tensor), N = rows_of(p);
	size_t lanes = st_pool_threads(pool);
	p->rows = st_alloc_array3(lanes, 2, K, sizeof *p->rows);
	p->part = st_alloc_array2(GROUPS, p->T, sizeof *p->part);
	p->sorted = p->beyond ? st_alloc_array2(lanes, K, sizeof *p->sorted) : NULL;
	enum st_status st = p->rows && p->part && (p->sorted || !p->beyond)
	                          ? ST_OK
	                          : st_fail(err, ST_ERR_NOMEM, "out of memory");
	if (st == ST_OK) {
		memset(p->part, 0, GROUPS * p->T * sizeof *p->part);
		st_pool_each(pool, GROUPS, N * K / GROUPS * (p->T + 4), sum_rows, p);
		double gain = p->beyond ? gain_of(p->part, p->T) : 0;
		for (size_t g = 0; g < GROUPS; g++)
			for (size_t t = 0; t < p->T; t++) {
				const struct sums *s = &p->part[g * p->T + t];
				total[t].v += s->v;
				total[t].v2 += s->v2;
				total[t].most = fmax(total[t].most, s->most);
				total[t].whole += gain * gain * s->whole;
			}
		st = st_check_cancel(err);
	}
	free(p->rows);
	free(p->part);
	free(p->sorted);
	return st;
}

static void bound_of(const struct sums *s, double u, struct st_token_bound *out)
{
	double most = sqrt(s->v + 2 * sqrt(u * s->v2) + 2 * u * s->most) + sqrt(s->whole);
	*out = (struct st_token_bound){ s->v, most * most };
}

enum st_status st_bound_of_linear(const struct st_node *a, const struct st_node *b, const float *x, size_t T,
                                  const double *local2, double tests, struct st_pool *pool, struct st_token_bound *out,
                                  struct st_error *err)
{
	uint64_t K = st_tensor_cols(b->w[0]->tensor);
	double u = log(tests / FALSE_ALARMS);
	float *x2 = st_alloc_array2(T, K, sizeof *x2);
	struct sums *total = st_alloc_zeroed(T, sizeof *total);
	bool *beyond = st_alloc_array(T, sizeof *beyond), any = false;
	enum st_status st = x2 && total && beyond ? ST_OK : st_fail(err, ST_ERR_NOMEM, "out of memory");
	for (size_t i = 0; i < T * K && st == ST_OK; i++)
		x2[i] = x[i] * x[i];
	for (uint32_t i = 0; i < b->n_w && st == ST_OK; i++)
		st = add_weight(&(struct product){ .a = a->w[i], .b = b->w[i], .x = x, .x2 = x2, .T = T }, pool, total,
		                err);
	for (size_t t = 0; t < T && st == ST_OK; t++) {
		bound_of(&total[t], u, &out[t]);
		beyond[t] = local2[t] > out[t].allowed;
		any |= beyond[t];
		if (beyond[t])
			total[t] = (struct sums){ 0 };
	}
	for (uint32_t i = 0; i < b->n_w && any && st == ST_OK; i++)
		st = add_weight(
			&(struct product){ .a = a->w[i], .b = b->w[i], .x = x, .x2 = x2, .T = T, .beyond = beyond },
			pool, total, err);
	for (size_t t = 0; t < T && any && st == ST_OK; t++)
		if (beyond[t])
			bound_of(&total[t], u, &out[t]);
	free(x2);
	free(total);
	free(beyond);
	return st;
}
