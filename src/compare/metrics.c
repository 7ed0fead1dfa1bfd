/* metrics.c - one pass over two sets of numbers. */
#include "compare/sums.h"

#include "base/error.h"
#include "base/levels.h"
#include "base/mem.h"
#include "base/pool.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Elements per chunk: two f32 chunks stay in L1 for a second look, which finds the place of the largest
 * difference so far. The chunking is part of the summation order, so it never depends on threads. */
#define CHUNK 2048
#define LANES ST_LANES

/* Each sum in its eight lanes. */
struct lanes {
	st_f64x4 aa[2], bb[2], ab[2], dd[2], abs[2], top[2];
};

static double fold_sum(const st_f64x4 v[2])
{
	double l[LANES];
	memcpy(l, v, sizeof l);
	return ((l[0] + l[4]) + (l[2] + l[6])) + ((l[1] + l[5]) + (l[3] + l[7]));
}

static double fold_max(const st_f64x4 v[2])
{
	double l[LANES], top = 0;
	memcpy(l, v, sizeof l);
	for (int i = 0; i < LANES; i++)
		top = l[i] > top ? l[i] : top;
	return top;
}

static inline __attribute__((always_inline)) void add_lanes(struct lanes *s, const float *a, const float *b)
{
	for (int h = 0; h < 2; h++) {
		st_f64x4 x, y, d, m;
		st_widen4(a + 4 * h, &x);
		st_widen4(b + 4 * h, &y);
		d = x - y;
		m = (st_f64x4)((st_i64x4)d & INT64_MAX);
		st_i64x4 more = m > s->top[h];
		s->aa[h] += x * x;
		s->bb[h] += y * y;
		s->ab[h] += x * y;
		s->dd[h] += d * d;
		s->abs[h] += m;
		s->top[h] = (st_f64x4)((more & (st_i64x4)m) | (~more & (st_i64x4)s->top[h]));
	}
}

ST_LEVELS static void chunk_fast(const float *restrict a, const float *restrict b, size_t n, struct st_sums *s)
{
	struct lanes t = { .aa = { { 0 } } };
	float x[LANES] = { 0 }, y[LANES] = { 0 };
	size_t i = 0;
	for (; i + LANES <= n; i += LANES)
		add_lanes(&t, a + i, b + i);
	memcpy(x, a + i, (n - i) * sizeof(float));
	memcpy(y, b + i, (n - i) * sizeof(float));
	add_lanes(&t, x, y);
	*s = (struct st_sums){ .aa = fold_sum(t.aa),
		               .bb = fold_sum(t.bb),
		               .ab = fold_sum(t.ab),
		               .dd = fold_sum(t.dd),
		               .abs = fold_sum(t.abs),
		               .max = fold_max(t.top) };
}

static bool alike(float x, float y) { return isnan(x) ? isnan(y) : x == y; }

double st_sum_of_products(const float *a, const float *b, uint64_t n)
{
	float lanes[16] = { 0 };
	uint64_t i = 0;
	for (; i + 16 <= n; i += 16)
		for (size_t l = 0; l < 16; l++)
			lanes[l] += a[i + l] * b[i + l];
	double sum = 0;
	for (size_t l = 0; l < 16; l++)
		sum += lanes[l];
	for (; i < n; i++)
		sum += (double)a[i] * b[i];
	return sum;
}

double st_apart(float a, float b)
{
	if (isfinite(a) && isfinite(b))
		return fabs((double)a - b);
	return alike(a, b) ? 0 : INFINITY;
}

static void chunk_careful(const float *a, const float *b, size_t n, struct st_sums *s)
{
	memset(s, 0, sizeof *s);
	for (size_t i = 0; i < n; i++) {
		s->bad_a += !isfinite(a[i]);
		s->bad_b += !isfinite(b[i]);
		if (!isfinite(a[i]) || !isfinite(b[i])) {
			if (!alike(a[i], b[i])) {
				s->apart++;
				s->max = INFINITY;
			}
			continue;
		}
		double x = a[i], y = b[i], d = x - y;
		s->aa += x * x;
		s->bb += y * y;
		s->ab += x * y;
		s->dd += d * d;
		s->abs += fabs(d);
		s->max = fabs(d) > s->max ? fabs(d) : s->max;
	}
}

/* Whether one of these is as far apart as that; of finite numbers. */
ST_LEVELS static bool has_distance(const float *restrict a, const float *restrict b, size_t n, double max)
{
	int found = 0;
	for (size_t i = 0; i < n; i++)
		found |= fabs((double)a[i] - (double)b[i]) == max;
	return found;
}

static size_t find_max(const float *a, const float *b, size_t n, double max)
{
	enum { STEP = 64 };
	size_t i = 0;
	while (isfinite(max) && i + STEP <= n && !has_distance(a + i, b + i, STEP, max))
		i += STEP;
	for (; i < n; i++)
		if (st_apart(a[i], b[i]) == max)
			return i;
	return 0;
}

/* `limit` is small, and most elements fail the first comparison. */
void st_top_offer(struct st_top_diff *top, size_t *n, size_t limit, struct st_top_diff d)
{
	if (limit == 0 || (*n == limit && !(d.abs > top[*n - 1].abs)))
		return;
	size_t at = *n < limit ? (*n)++ : limit - 1;
	while (at > 0 && d.abs > top[at - 1].abs) {
		top[at] = top[at - 1];
		at--;
	}
	top[at] = d;
}

void st_sums_fold(struct st_sums *t, const struct st_sums *s)
{
	t->aa += s->aa;
	t->bb += s->bb;
	t->ab += s->ab;
	t->dd += s->dd;
	t->abs += s->abs;
	if (s->max > t->max) {
		t->max = s->max;
		t->max_index = s->max_index;
	}
	t->bad_a += s->bad_a;
	t->bad_b += s->bad_b;
	t->apart += s->apart;
}

void st_sums_of(const float *a, const float *b, uint64_t n, uint64_t index, struct st_sums *t)
{
	memset(t, 0, sizeof *t);
	for (uint64_t i = 0; i < n; i += CHUNK) {
		size_t len = (size_t)(n - i < CHUNK ? n - i : CHUNK);
		struct st_sums s;
		chunk_fast(a + i, b + i, len, &s);
		if (!isfinite(s.aa + s.bb)) /* squares of f32 do not overflow: an element is not finite */
			chunk_careful(a + i, b + i, len, &s);
		s.max_index = s.max > t->max ? index + i + find_max(a + i, b + i, len, s.max)
		                             : 0; /* else it is not kept */
		st_sums_fold(t, &s);
	}
}

static void finish(const struct st_sums *t, uint64_t n, struct st_metrics *m)
{
	uint64_t used = n - (t->bad_a > t->bad_b ? t->bad_a : t->bad_b);
	*m = (struct st_metrics){
		.count = n,
		.nonfinite_a = t->bad_a,
		.nonfinite_b = t->bad_b,
		.nonfinite_apart = t->apart,
		.max_abs = t->max,
		.max_abs_index = t->max_index,
		.mean_abs = used ? t->abs / (double)used : 0,
		.rms = used ? sqrt(t->dd / (double)used) : 0,
		.rel_l2 = t->apart   ? INFINITY
		        : t->dd == 0 ? 0
		        : t->bb == 0 ? INFINITY
		                     : sqrt(t->dd / t->bb),
		.cosine = t->aa > 0 && t->bb > 0 ? t->ab / (sqrt(t->aa) * sqrt(t->bb)) : NAN,
		.gain = t->bb > 0 ? t->ab / t->bb : NAN,
		.norm_a = sqrt(t->aa),
		.norm_b = sqrt(t->bb),
		.norm_diff = sqrt(t->dd),
	};
}

/* A contiguous, aligned F32 tensor is read where it lies. NULL: this is none. */
static const float *in_place(const struct st_tensor *t)
{
	bool plain = t->dtype == ST_DTYPE_F32 && t->layout == ST_LAYOUT_ROWS && (uintptr_t)t->data % sizeof(float) == 0
	          && t->row_bytes == st_tensor_cols(t) * sizeof(float);
	return plain ? (const float *)(const void *)t->data : NULL;
}

const float *st_floats_at(const struct st_tensor *t, uint64_t at, uint64_t n, float *buf)
{
	const float *flat = in_place(t);
	if (flat)
		return flat + at;
	uint64_t cols = st_tensor_cols(t);
	st_tensor_decode(t, at / cols, n / cols, buf);
	return buf;
}

/*
 * Where a side's numbers come from: floats in memory, or a stored tensor that is decoded
 * group by group into `buf` (one group and the two rows that may stick out of it).
 */
struct source {
	const float *flat;
	const struct st_tensor *t;
};

#define GROUP ((uint64_t)64 * CHUNK) /* elements */

static uint64_t buffer_elems(const struct source *s) { return s->flat ? 0 : GROUP + 2 * st_tensor_cols(s->t); }

static const float *fetch(const struct source *s, uint64_t at, uint64_t n, float *buf)
{
	if (s->flat)
		return s->flat + at;
	uint64_t cols = st_tensor_cols(s->t), row = at / cols, end = st_ceil_div(at + n, cols);
	st_tensor_decode(s->t, row, end - row, buf);
	return buf + (at - row * cols);
}

/* A range of elements whose groups are summed one by one. */
struct groups {
	const struct source *a, *b;
	uint64_t base, n;  /* the range begins at base; n elements in all */
	uint64_t na, each; /* floats of scratch: of a side, of both */
	float *scratch;    /* `each` for every lane; NULL where both sides lie in memory */
	struct st_sums *part;
};

static void sum_groups(void *ctx, unsigned lane, uint64_t begin, uint64_t end)
{
	const struct groups *k = ctx;
	float *buf = k->scratch ? k->scratch + lane * k->each : NULL;
	for (uint64_t g = begin; g < end; g++) {
		uint64_t at = k->base + g * GROUP, len = k->n - at < GROUP ? k->n - at : GROUP;
		const float *x = fetch(k->a, at, len, buf), *y = fetch(k->b, at, len, buf ? buf + k->na : NULL);
		st_sums_of(x, y, len, at, &k->part[g]);
	}
}

/* Sums of each group of chunks, then of the groups in order: the same bits for any thread count. */
static enum st_status run(const struct source *a, const struct source *b, uint64_t n, struct st_pool *pool,
                          struct st_metrics *m, struct st_error *err)
{
	enum { ROUND = 128 }; /* groups in flight; their sums live on the stack */
	struct st_sums total = { 0 }, part[ROUND];
	uint64_t na = buffer_elems(a), each = na + buffer_elems(b);
	float *scratch = each ? st_alloc_array2(st_pool_threads(pool), each, sizeof(float)) : NULL;
	if (each && !scratch)
		return st_fail(err, ST_ERR_NOMEM, "out of memory");
	enum st_status st = ST_OK;
	for (uint64_t base = 0; base < n && st == ST_OK; base += GROUP * ROUND) {
		uint64_t groups = st_ceil_div(n - base, GROUP);
		if (groups > ROUND)
			groups = ROUND;
		struct groups k = { a, b, base, n, na, each, scratch, part };
		st_pool_run(pool, groups, 1, sum_groups, &k);
		for (uint64_t g = 0; g < groups; g++)
			st_sums_fold(&total, &part[g]);
		st = st_check_cancel(err);
	}
	free(scratch);
	finish(&total, n, m);
	return st;
}

void st_metrics_of(const float *a, const float *b, uint64_t n, struct st_pool *pool, struct st_metrics *m)
{
	struct st_error unused = ST_ERROR_INIT; /* nothing is allocated; a cancelled caller does not use the sums */
	(void)run(&(struct source){ .flat = a }, &(struct source){ .flat = b }, n, pool, m, &unused);
}

static struct source source_of(const struct st_tensor *t)
{
	const float *flat = in_place(t);
	return flat ? (struct source){ .flat = flat } : (struct source){ .t = t };
}

enum st_status st_metrics_of_tensors(const struct st_tensor *a, const struct st_tensor *b, struct st_pool *pool,
                                     struct st_metrics *m, struct st_error *err)
{
	struct source x = source_of(a), y = source_of(b);
	return run(&x, &y, a->n_elems, pool, m, err);
}
