/* pointwise.c - norms, rotary embedding, activations, sums: rows shared out over threads. */
#include "kernel/elementary.h"
#include "kernel/kernels.h"

#include <assert.h>
#include <string.h>

#define PIECE 512 /* features widened at a time; a multiple of the lanes */
#define PAIRS 64  /* angles at a time */

struct norm {
	const struct st_exec *e;
	const float *x, *w, *b;
	size_t ldx, ldy, D;
	double eps;
	float *y;
};

static void norm_tokens(void *ctx, unsigned lane, uint64_t begin, uint64_t end)
{
	const struct norm *j = ctx;
	const struct st_kernels *k = j->e->k;
	size_t D = j->D;
	(void)lane;
	for (size_t t = (size_t)begin; t < end; t++) {
		const float *row = j->x + t * j->ldx;
		_Alignas(64) double lanes[ST_LANES_F64] = { 0 };
		double sum;
		double wide[PIECE];
		for (size_t i = 0; i < D; i += PIECE) {
			size_t n = D - i < PIECE ? D - i : PIECE;
			k->widen(row + i, n, wide);
			k->dot_f64(row + i, D, 1, wide, PIECE, 1, n, lanes);
		}
		k->sum_f64(lanes, 1, &sum);
		k->scale_row(row, 1.0 / sqrt(sum / (double)D + j->eps), j->w, D, j->y + t * j->ldy);
	}
}

void st_rmsnorm(const struct st_exec *e, const float *x, size_t ldx, const float *w, double eps, size_t T, size_t D,
                float *y, size_t ldy)
{
	struct norm j = { e, x, w, NULL, ldx, ldy, D, eps, y };
	st_pool_each(e->pool, T, D * 2, norm_tokens, &j);
}

static void norm_about_mean(void *ctx, unsigned lane, uint64_t begin, uint64_t end)
{
	const struct norm *j = ctx;
	const struct st_kernels *k = j->e->k;
	static const float ones[PIECE] = { [0 ... PIECE - 1] = 1 };
	size_t D = j->D;
	(void)lane;
	for (size_t t = (size_t)begin; t < end; t++) {
		const float *row = j->x + t * j->ldx;
		_Alignas(64) double sums[ST_LANES_F64] = { 0 }, squares[ST_LANES_F64] = { 0 };
		double wide[PIECE], mean, variance;
		for (size_t i = 0; i < D; i += PIECE) {
			size_t n = D - i < PIECE ? D - i : PIECE;
			k->widen(row + i, n, wide);
			k->dot_f64(ones, PIECE, 1, wide, PIECE, 1, n, sums);
		}
		k->sum_f64(sums, 1, &mean);
		mean /= (double)D;
		for (size_t i = 0; i < D; i++) {
			double d = (double)row[i] - mean;
			squares[i % ST_LANES_F64] += d * d;
		}
		k->sum_f64(squares, 1, &variance);
		k->centre_row(row, mean, 1.0 / sqrt(variance / (double)D + j->eps), j->w, j->b, D, j->y + t * j->ldy);
	}
}

void st_layernorm(const struct st_exec *e, const float *x, size_t ldx, const float *w, const float *b, double eps,
                  size_t T, size_t D, float *y, size_t ldy)
{
	struct norm j = { e, x, w, b, ldx, ldy, D, eps, y };
	st_pool_each(e->pool, T, D * 4, norm_about_mean, &j);
}

struct rope {
	const struct st_exec *e;
	const float *x;
	size_t ldx, ldy, n_heads, d, n_rot;
	const double *inv_freq;
	double mscale;
	const uint32_t *pos;
	float *y;
};

static void turn_tokens(void *ctx, unsigned lane, uint64_t begin, uint64_t end)
{
	const struct rope *j = ctx;
	size_t half = j->n_rot / 2, d = j->d;
	(void)lane;
	for (size_t t = (size_t)begin; t < end; t++) {
		const float *a = j->x + t * j->ldx;
		float *b = j->y + t * j->ldy;
		for (size_t i = 0; i < half; i += PAIRS) {
			double angle[PAIRS], s[PAIRS], c[PAIRS];
			size_t n = half - i < PAIRS ? half - i : PAIRS;
			for (size_t k = 0; k < n; k++)
				angle[k] = (double)j->pos[t] * j->inv_freq[i + k];
			j->e->k->sincos(angle, n, s, c);
			for (size_t k = 0; k < n; k++) {
				s[k] *= j->mscale;
				c[k] *= j->mscale;
			}
			for (size_t h = 0; h < j->n_heads; h++) {
				size_t at = h * d + i;
				j->e->k->rotate(a + at, a + at + half, c, s, n, b + at, b + at + half);
			}
		}
		if (a != b)
			for (size_t h = 0; h < j->n_heads; h++)
				memcpy(b + h * d + j->n_rot, a + h * d + j->n_rot, (d - j->n_rot) * sizeof *b);
	}
}

void st_rope(const struct st_exec *e, const float *x, size_t ldx, size_t T, size_t n_heads, size_t d, size_t n_rot,
             const double *inv_freq, double mscale, const uint32_t *pos, float *y, size_t ldy)
{
	assert(n_rot % 2 == 0 && n_rot <= d);
	struct rope j = { e, x, ldx, ldy, n_heads, d, n_rot, inv_freq, mscale, pos, y };
	st_pool_each(e->pool, T, n_heads * d * 4, turn_tokens, &j);
}

struct elements {
	void (*one)(const float *, size_t, float *);
	void (*two)(const float *, const float *, size_t, float *); /* where `one` is NULL */
	const float *a, *b;
	float *y;
};

static void each_element(void *ctx, unsigned lane, uint64_t begin, uint64_t end)
{
	const struct elements *j = ctx;
	size_t i = (size_t)begin, n = (size_t)(end - begin);
	(void)lane;
	if (j->one)
		j->one(j->a + i, n, j->y + i);
	else
		j->two(j->a + i, j->b + i, n, j->y + i);
}

void st_activate(const struct st_exec *e, enum st_activation act, const float *x, size_t n, float *y)
{
	struct elements j = { .one = e->k->activate[act], .a = x, .y = y };
	st_pool_each(e->pool, n, 4, each_element, &j);
}

void st_add(const struct st_exec *e, const float *a, const float *b, size_t n, float *y)
{
	struct elements j = { .two = e->k->add, .a = a, .b = b, .y = y };
	st_pool_each(e->pool, n, 1, each_element, &j);
}
void st_mul(const struct st_exec *e, const float *a, const float *b, size_t n, float *y)
{
	struct elements j = { .two = e->k->mul, .a = a, .b = b, .y = y };
	st_pool_each(e->pool, n, 1, each_element, &j);
}

struct biased {
	const struct st_exec *e;
	const float *x, *b;
	size_t D;
	float *y;
};

static void bias_tokens(void *ctx, unsigned lane, uint64_t begin, uint64_t end)
{
	const struct biased *j = ctx;
	(void)lane;
	for (size_t t = (size_t)begin; t < end; t++)
		j->e->k->add(j->x + t * j->D, j->b, j->D, j->y + t * j->D);
}

void st_add_bias(const struct st_exec *e, const float *x, const float *b, size_t T, size_t D, float *y)
{
	struct biased j = { e, x, b, D, y };
	st_pool_each(e->pool, T, D, bias_tokens, &j);
}

struct scaled {
	const struct st_exec *e;
	const float *x;
	double by, cap; /* cap: or what is added */
	float *y;
};

static void scale_elements(void *ctx, unsigned lane, uint64_t begin, uint64_t end)
{
	const struct scaled *j = ctx;
	(void)lane;
	j->e->k->scale_row(j->x + begin, j->by, NULL, (size_t)(end - begin), j->y + begin);
}

void st_scale(const struct st_exec *e, const float *x, double by, size_t n, float *y)
{
	struct scaled j = { e, x, by, 0, y };
	st_pool_each(e->pool, n, 1, scale_elements, &j);
}

static void scale_plus_elements(void *ctx, unsigned lane, uint64_t begin, uint64_t end)
{
	const struct scaled *j = ctx;
	(void)lane;
	for (uint64_t i = begin; i < end; i++)
		j->y[i] = st_canonical((float)((double)j->x[i] * j->by + j->cap));
}

void st_scale_plus(const struct st_exec *e, const float *x, double by, double plus, size_t n, float *y)
{
	struct scaled j = { e, x, by, plus, y };
	st_pool_each(e->pool, n, 1, scale_plus_elements, &j);
}

static void cap_elements(void *ctx, unsigned lane, uint64_t begin, uint64_t end)
{
	const struct scaled *j = ctx;
	(void)lane;
	j->e->k->finish_scores_f32(j->x + begin, 1, j->cap, (size_t)(end - begin), j->y + begin);
}

void st_cap(const struct st_exec *e, const float *x, double cap, size_t n, float *y)
{
	struct scaled j = { e, x, 1, cap, y };
	st_pool_each(e->pool, n, 8, cap_elements, &j);
}

void st_softmax(const struct st_exec *e, const float *x, size_t n, float *y) { e->k->softmax(x, n, y); }

/* Does a come before b? NaN comes last. */
static bool larger(float a, float b) { return a > b || (b != b && a == a); }

void st_top(const float *x, size_t n, size_t k, float *index)
{
	for (size_t found = 0; found < k; found++) {
		size_t best = n;
		for (size_t i = 0; i < n; i++) {
			bool taken = false;
			for (size_t c = 0; c < found; c++)
				taken |= index[c] == (float)i;
			if (!taken && (best == n || larger(x[i], x[best])))
				best = i;
		}
		index[found] = (float)best;
	}
}

struct st_lead st_lead_of(const float *x, size_t n)
{
	struct st_lead l = { 0, SIZE_MAX, 0 };
	for (size_t i = 1; i < n; i++)
		l.best = x[i] > x[l.best] ? i : l.best;
	for (size_t i = 0; i < n; i++)
		if (i != l.best && (l.next == SIZE_MAX || x[i] > x[l.next]))
			l.next = i;
	l.gap = l.next == SIZE_MAX ? 0 : (double)x[l.best] - x[l.next];
	return l;
}

void st_weighted_sum(const struct st_exec *e, const float *x, const float *w, size_t C, size_t D, float *y)
{
	(void)e;
	for (size_t i = 0; i < D; i++) {
		double sum = 0;
		for (size_t c = 0; c < C; c++)
			sum += (w ? (double)w[c] : 1) * (double)x[c * D + i];
		y[i] = st_canonical((float)sum);
	}
}

void st_fwht(const struct st_kernels *k, float *x, size_t n)
{
	assert(n > 0 && (n & (n - 1)) == 0);
	k->fwht(x, n);
}
