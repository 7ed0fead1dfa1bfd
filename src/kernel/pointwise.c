/* pointwise.c - norms, rotary embedding, activations, sums: rows shared out over threads. */
#include "kernel/elementary.h"
#include "kernel/kernels.h"

#include <assert.h>
#include <string.h>

#define PIECE 512    /* features widened at a time; a multiple of the lanes */
#define PAIRS 64     /* angles at a time */
#define STRETCH 8192 /* elements of a pointwise operation that one thread takes at a time */

void st_rmsnorm(const struct st_exec *e, const float *x, size_t ldx, const float *w, double eps, size_t T, size_t D,
                float *y, size_t ldy)
{
	int threads = st_threads_for(e, T * D);
#pragma omp parallel for schedule(static) num_threads(threads) if (threads > 1)
	for (size_t t = 0; t < T; t++) {
		const float *row = x + t * ldx;
		_Alignas(64) double lanes[ST_LANES_F64] = { 0 };
		double sum;
		double wide[PIECE];
		for (size_t i = 0; i < D; i += PIECE) {
			size_t n = D - i < PIECE ? D - i : PIECE;
			e->k->widen(row + i, n, wide);
			e->k->dot_f64(row + i, D, 1, wide, PIECE, 1, n, lanes);
		}
		e->k->sum_f64(lanes, 1, &sum);
		e->k->scale_row(row, 1.0 / sqrt(sum / (double)D + eps), w, D, y + t * ldy);
	}
}

void st_rope(const struct st_exec *e, const float *x, size_t ldx, size_t T, size_t n_heads, size_t d, size_t n_rot,
             const double *inv_freq, double mscale, const uint32_t *pos, float *y, size_t ldy)
{
	assert(n_rot % 2 == 0 && n_rot <= d);
	size_t half = n_rot / 2;
	int threads = st_threads_for(e, T * n_heads * d * 4);
#pragma omp parallel for schedule(static) num_threads(threads) if (threads > 1)
	for (size_t t = 0; t < T; t++) {
		const float *a = x + t * ldx;
		float *b = y + t * ldy;
		for (size_t i = 0; i < half; i += PAIRS) {
			double angle[PAIRS], s[PAIRS], c[PAIRS];
			size_t n = half - i < PAIRS ? half - i : PAIRS;
			for (size_t k = 0; k < n; k++)
				angle[k] = (double)pos[t] * inv_freq[i + k];
			e->k->sincos(angle, n, s, c);
			for (size_t k = 0; k < n; k++) {
				s[k] *= mscale;
				c[k] *= mscale;
			}
			for (size_t h = 0; h < n_heads; h++) {
				size_t at = h * d + i;
				e->k->rotate(a + at, a + at + half, c, s, n, b + at, b + at + half);
			}
		}
		if (a != b)
			for (size_t h = 0; h < n_heads; h++)
				memcpy(b + h * d + n_rot, a + h * d + n_rot, (d - n_rot) * sizeof *b);
	}
}

void st_activate(const struct st_exec *e, enum st_activation act, const float *x, size_t n, float *y)
{
	int threads = st_threads_for(e, n * 4);
#pragma omp parallel for schedule(static) num_threads(threads) if (threads > 1)
	for (size_t i = 0; i < n; i += STRETCH)
		e->k->activate[act](x + i, n - i < STRETCH ? n - i : STRETCH, y + i);
}

static void two_operands(const struct st_exec *e, void (*f)(const float *, const float *, size_t, float *),
                         const float *a, const float *b, size_t n, float *y)
{
	int threads = st_threads_for(e, n);
#pragma omp parallel for schedule(static) num_threads(threads) if (threads > 1)
	for (size_t i = 0; i < n; i += STRETCH)
		f(a + i, b + i, n - i < STRETCH ? n - i : STRETCH, y + i);
}

void st_add(const struct st_exec *e, const float *a, const float *b, size_t n, float *y)
{
	two_operands(e, e->k->add, a, b, n, y);
}
void st_mul(const struct st_exec *e, const float *a, const float *b, size_t n, float *y)
{
	two_operands(e, e->k->mul, a, b, n, y);
}

void st_add_bias(const struct st_exec *e, const float *x, const float *b, size_t T, size_t D, float *y)
{
	int threads = st_threads_for(e, T * D);
#pragma omp parallel for schedule(static) num_threads(threads) if (threads > 1)
	for (size_t t = 0; t < T; t++)
		e->k->add(x + t * D, b, D, y + t * D);
}

void st_fwht(const struct st_kernels *k, float *x, size_t n)
{
	assert(n > 0 && (n & (n - 1)) == 0);
	k->fwht(x, n);
}
