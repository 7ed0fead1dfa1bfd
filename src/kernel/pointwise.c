/* pointwise.c - norms, rotary embedding, activations, sums: rows shared out over threads. */
#include "kernel/elementary.h"
#include "kernel/kernels.h"

#include <assert.h>
#include <string.h>

#define PIECE 512 /* features widened at a time; a multiple of the lanes */
#define PAIRS 64  /* angles at a time */

struct norm {
	const struct st_exec *e;
	const float *x, *w;
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
	struct norm j = { e, x, w, ldx, ldy, D, eps, y };
	st_pool_each(e->pool, T, D * 2, norm_tokens, &j);
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

void st_fwht(const struct st_kernels *k, float *x, size_t n)
{
	assert(n > 0 && (n & (n - 1)) == 0);
	k->fwht(x, n);
}
