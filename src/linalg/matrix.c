/* matrix.c - matrices turned over, and how orthonormal their columns are. */
#include "linalg/linalg.h"

#include "base/mem.h"
#include "base/pool.h"

#include <math.h>
#include <stdlib.h>

#define SQUARE 32 /* stays in the first cache */

struct turning {
	const float *src;
	uint64_t rows, cols;
	float *dst;
	uint64_t at, width;
};

static void turn_rows(void *ctx, unsigned lane, uint64_t begin, uint64_t end)
{
	const struct turning *t = ctx;
	(void)lane;
	for (uint64_t r0 = begin * SQUARE; r0 < end * SQUARE && r0 < t->rows; r0 += SQUARE)
		for (uint64_t c0 = 0; c0 < t->cols; c0 += SQUARE)
			for (uint64_t c = c0; c < t->cols && c < c0 + SQUARE; c++)
				for (uint64_t r = r0; r < t->rows && r < r0 + SQUARE; r++)
					t->dst[c * t->width + t->at + r] = t->src[r * t->cols + c];
}

void st_matrix_turn(const float *src, uint64_t rows, uint64_t cols, float *dst, uint64_t at, uint64_t width,
                    struct st_pool *pool)
{
	struct turning t = { src, rows, cols, dst, at, width };
	uint64_t n = st_ceil_div(rows, SQUARE);
	st_pool_run(pool, n, st_pool_piece(pool, n, SQUARE * cols), turn_rows, &t);
}

/* Which columns stand for all: evenly spread. */
static uint64_t picked(uint64_t i, uint64_t k) { return k <= ST_GRAM ? i % k : i * (k - 1) / (ST_GRAM - 1); }

/* y += s x, [k] */
static void add_scaled(float *y, const float *x, float s, uint64_t k)
{
	for (uint64_t c = 0; c < k; c++)
		y[c] += s * x[c];
}

/* x y, [n]; in lanes, so that the error of the sum stays that of short sums. */
static float dot(const float *x, const float *y, uint64_t n)
{
	enum { LANES = 64 };
	float lane[LANES] = { 0 }, sum = 0;
	for (uint64_t i = 0; i < n; i += LANES)
		for (uint64_t l = 0; l < LANES && i + l < n; l++)
			lane[l] += x[i + l] * y[i + l];
	for (uint64_t l = 0; l < LANES; l++)
		sum += lane[l];
	return sum;
}

void st_gram_add(const float *u, uint64_t rows, uint64_t k, float *gram)
{
	float some[64 * ST_GRAM];
	for (uint64_t r = 0; r < rows; r += 64) {
		uint64_t n = rows - r < 64 ? rows - r : 64;
		for (uint64_t i = 0; i < n; i++)
			for (uint64_t j = 0; j < ST_GRAM; j++)
				some[i * ST_GRAM + j] = u[(r + i) * k + picked(j, k)];
		for (uint64_t j = 0; j < ST_GRAM; j++)
			for (uint64_t i = 0; i < n; i++)
				add_scaled(gram + j * k, u + (r + i) * k, some[i * ST_GRAM + j], k);
	}
}

double st_gram_error(const float *gram, uint64_t k)
{
	double worst = 0;
	for (uint64_t i = 0; i < ST_GRAM; i++)
		for (uint64_t j = 0; j < k; j++) {
			double d = fabs((double)gram[i * k + j] - (picked(i, k) == j));
			worst = d > worst ? d : worst;
		}
	return worst;
}

bool st_orthogonality(const float *x, uint64_t n, uint64_t k, bool turned, double *error)
{
	float *gram = st_alloc_zeroed(k, sizeof(float[ST_GRAM]));
	if (!gram)
		return false;
	if (!turned)
		st_gram_add(x, n, k, gram);
	for (uint64_t i = 0; turned && i < ST_GRAM; i++)
		for (uint64_t j = 0; j < k; j++)
			gram[i * k + j] = dot(x + j * n, x + picked(i, k) * n, n);
	*error = st_gram_error(gram, k);
	free(gram);
	return true;
}
