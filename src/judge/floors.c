/* floors.c - the expected variances of floors.h, operation by operation (docs/floors.md, "What storing a number costs a
 * stage" and "What a stage may do"). */
#include "judge/floors.h"

#include "base/error.h"
#include "base/mem.h"
#include "base/pool.h"
#include "compare/noise.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Relative to the token's norm: four units of f32 (docs/floors.md, "What a stage may do"). One is the rounding of the
 * result; the others leave room for what an operation of few steps rounds before. */
#define ROUNDING 0x1p-22
#define GROUPS ((size_t)64)

/* sum_k x^2 over the noise blocks of a row of K elements: x2 [T, blocks]. */
static void block_squares(const float *x, size_t T, size_t K, size_t block, double *x2)
{
	size_t blocks = (K + block - 1) / block;
	for (size_t t = 0; t < T; t++)
		for (size_t b = 0; b < blocks; b++) {
			double sum = 0;
			for (size_t k = b * block; k < K && k < (b + 1) * block; k++)
				sum += (double)x[t * K + k] * x[t * K + k];
			x2[t * blocks + b] = sum;
		}
}

/* A fixed number of groups of rows, added up in order: the same floor for any number of threads. */
struct groups {
	const struct st_weight *w;
	const struct st_tensor *as; /* what its rows err like */
	const double *x2;
	size_t T;
	float *rows;  /* a row for every lane */
	double *part; /* [GROUPS, T] */
};

static void sum_groups(void *ctx, unsigned lane, uint64_t begin, uint64_t end)
{
	const struct groups *k = ctx;
	uint64_t K = st_weight_cols(k->w), N = st_weight_rows(k->w);
	float *row = k->rows + lane * K;
	for (uint64_t g = begin; g < end; g++)
		for (uint64_t n = g * N / GROUPS; n < (g + 1) * N / GROUPS && !st_cancelled(); n++) {
			st_tensor_decode(k->w->tensor, st_weight_stored_row(k->w, n), 1, row);
			st_noise_dot(k->as, row, (size_t)K, k->x2, k->T, k->part + g * k->T);
		}
}

/* out[t] += sum over rows n of the variance of W[n] x[t] as a type predicts it for w: its stored type, or the one that
 * the mode rounds it to. */
static enum st_status add_linear(const struct st_weight *w, struct st_held held, const float *x, size_t T,
                                 struct st_pool *pool, double *out, struct st_error *err)
{
	const struct st_tensor *stored = w->tensor;
	struct st_tensor as = *stored, *t = &as;
	t->dtype = held.type;
	t->scale = held.scale;
	uint64_t K = st_weight_cols(w), N = st_weight_rows(w);
	size_t block = st_noise_block(t->dtype), blocks = (size_t)st_ceil_div(K, block);
	double *x2 = st_alloc_array2(T, blocks, sizeof *x2);
	double *part = st_alloc_array2(GROUPS, T, sizeof *part);
	float *rows = st_alloc_array2(st_pool_threads(pool), K, sizeof *rows);
	enum st_status st = ST_OK;
	if (!x2 || !part || !rows) {
		st = st_fail(err, ST_ERR_NOMEM, "out of memory");
		goto out;
	}
	memset(part, 0, GROUPS * T * sizeof *part);
	block_squares(x, T, K, block, x2);
	struct groups k = { w, t, x2, T, rows, part };
	st_pool_each(pool, GROUPS, N * K / GROUPS * 4, sum_groups, &k);
	for (size_t g = 0; g < GROUPS; g++)
		for (size_t s = 0; s < T; s++)
			out[s] += part[g * T + s];
	st = st_check_cancel(err);
out:
	free(x2);
	free(part);
	free(rows);
	return st;
}

/*
 * Modes other than exact add errors of their own, which two sides share only where their weights are equal:
 * weights rounded to the mode's type, and f32 sums whose lanes hold K/16 terms (docs/numerics.md).
 */
static enum st_status add_mode(const struct st_weight *w, enum st_mode mode, const float *x, size_t T,
                               struct st_pool *pool, double *out, double *base, struct st_error *err)
{
	if (mode == ST_MODE_EXACT)
		return ST_OK;
	double *sum = st_alloc_zeroed(T, sizeof *sum);
	if (!sum)
		return st_fail(err, ST_ERR_NOMEM, "out of memory");
	bool rounds = mode == ST_MODE_EMULATE_F16 || mode == ST_MODE_EMULATE_BF16;
	enum st_dtype type = mode == ST_MODE_EMULATE_F16 ? ST_DTYPE_F16 : ST_DTYPE_BF16;
	enum st_status st = add_linear(w, (struct st_held){ type, 1 }, x, T, pool, sum, err);
	double rel = st_dtype_info(type)->storage_rel_rms, lanes = (double)st_tensor_cols(w->tensor) / 16 + 4;
	/* Both are in proportion to sum (w x)^2, so the one follows from the other. */
	double factor = (rounds ? 1 : 0) + 0x1p-48 * lanes / (rel * rel);
	for (size_t t = 0; t < T; t++) {
		out[t] += factor * sum[t];
		base[t] += factor * sum[t];
	}
	free(sum);
	return st;
}

/*
 * A norm multiplies each normed input by its weight. out[t] += sum over the features of their squares times the
 * weight's variance: a matrix product of one row, but that a head's norm has one for each head.
 */
static enum st_status add_norm(const struct st_node *n, struct st_held held, const struct st_value *x, size_t T,
                               double *out, struct st_error *err)
{
	struct st_tensor as = *n->w[0]->tensor;
	as.dtype = held.type;
	as.scale = held.scale;
	size_t D = (size_t)st_tensor_cols(&as), heads = n->op == ST_OP_HEADNORM ? n->heads : 1;
	size_t width = x->rows * x->cols / T, block = st_noise_block(held.type), blocks = (size_t)st_ceil_div(D, block);
	float *row = st_alloc_array2(2, D, sizeof *row), *normed = row ? row + D : NULL;
	double *x2 = st_alloc_array(blocks, sizeof *x2);
	enum st_status st = row && x2 ? ST_OK : st_fail(err, ST_ERR_NOMEM, "out of memory");
	struct st_weight stored = *n->w[0];
	stored.plus_one = false; /* what is stored errs, not what it means */
	if (st == ST_OK)
		st_weight_decode(&stored, 0, 1, row);
	for (size_t i = 0; i < T * heads && st == ST_OK; i++) {
		const float *in = x->data + i / heads * width + n->from[0] + i % heads * D;
		double sum = 0;
		for (size_t k = 0; k < D; k++)
			sum += (double)in[k] * in[k];
		double r = 1 / sqrt(sum / (double)D + n->eps);
		for (size_t k = 0; k < D; k++)
			normed[k] = (float)(in[k] * r);
		block_squares(normed, 1, D, block, x2);
		st_noise_dot(&as, row, D, x2, 1, out + i / heads);
	}
	free(row);
	free(x2);
	return st;
}

/* What the chosen experts' weights do: a matrix product for each token and choice. */
static enum st_status add_experts(const struct st_node *n, struct st_held held, const struct st_run *r, size_t T,
                                  struct st_pool *pool, double *out, struct st_error *err)
{
	struct st_value x = st_run_value(r, n->in[0]), index = st_run_value(r, n->in[1]);
	const struct st_weight *w = n->w[0];
	size_t K = (size_t)st_tensor_cols(&w->experts[0]), width = x.rows * x.cols / T;
	for (size_t i = 0; i < T * n->choices; i++) {
		float e = index.data[i];
		if (!(e >= 0 && e < (float)w->n_experts))
			continue;
		const struct st_weight one = { .tensor = &w->experts[(uint32_t)e], .heads = 1 };
		const float *in = x.data + i / n->choices * width + (width > K ? i % n->choices * K : 0);
		ST_TRY(add_linear(&one, held, in, 1, pool, out + i / n->choices, err));
	}
	return ST_OK;
}

/* Relative variance of normal numbers in the worst of the stored types. */
static double worst_rel_variance(const struct st_node *n, const struct st_held *held)
{
	double worst = 0;
	for (uint32_t i = 0; i < n->n_w; i++)
		worst = fmax(worst, st_dtype_info(held[i].type)->storage_rel_rms);
	return worst * worst + ST_NOISE_F32_REL * ST_NOISE_F32_REL;
}

enum st_status st_floor_of_node(const struct st_graph *ga, const struct st_graph *gb, uint32_t node,
                                const struct st_run *r, const uint32_t *tokens, const struct st_held *const held[2],
                                const struct st_exec *e, double *out, double *base, struct st_error *err)
{
	const struct st_node *na = &ga->nodes[node], *nb = &gb->nodes[node];
	struct st_value y = st_run_value(r, node);
	size_t T = st_run_tokens(r), width = y.rows * y.cols / T;
	bool scores = nb->op == ST_OP_SCORES || nb->op == ST_OP_SOFTMAX;
	for (size_t t = 0; t < T; t++) {
		double sum = 0;
		if (scores) { /* [heads, T, P] */
			for (size_t h = 0; h < y.rows / T; h++)
				for (size_t p = 0; p < y.cols; p++) {
					double v = y.data[(h * T + t) * y.cols + p];
					sum += v * v;
				}
		} else {
			for (size_t i = 0; i < width; i++)
				sum += (double)y.data[t * width + i] * y.data[t * width + i];
		}
		out[t] = base[t] = ROUNDING * ROUNDING * sum;
		/* Where many weights are one number they err alike, and the product errs as they do instead of
		 * averaging. */
		if (nb->op == ST_OP_LINEAR)
			out[t] += (worst_rel_variance(na, held[0]) + worst_rel_variance(nb, held[1])) * sum;
	}
	for (int side = 0; side < 2; side++) {
		const struct st_node *n = side ? nb : na;
		for (uint32_t i = 0; i < n->n_w; i++) {
			const struct st_weight *w = n->w[i];
			if (!w)
				continue;
			if (n->op == ST_OP_RMSNORM || n->op == ST_OP_HEADNORM) {
				struct st_value x = st_run_value(r, n->in[0]);
				ST_TRY(add_norm(n, held[side][i], &x, T, out, err));
			} else if (n->op == ST_OP_LINEAR) {
				struct st_value x = st_run_value(r, n->in[0]);
				ST_TRY(add_linear(w, held[side][i], x.data, T, e->pool, out, err));
				ST_TRY(add_mode(w, e->mode, x.data, T, e->pool, out, base, err));
			} else if (n->op == ST_OP_LINEAR_AT) {
				ST_TRY(add_experts(n, held[side][i], r, T, e->pool, out, err));
			} else if (n->op == ST_OP_BIAS || n->op == ST_OP_EMBED) {
				uint64_t cols = st_weight_cols(w);
				struct st_tensor as = *w->tensor;
				as.dtype = held[side][i].type;
				as.scale = held[side][i].scale;
				float *row = st_alloc_array(cols, sizeof *row);
				if (!row)
					return st_fail(err, ST_ERR_NOMEM, "out of memory");
				for (size_t t = 0; t < T; t++) {
					if (n->op == ST_OP_EMBED || t == 0)
						st_weight_decode(w, n->op == ST_OP_EMBED ? tokens[t] : 0, 1, row);
					double scale = n->op == ST_OP_EMBED ? n->scale : 1;
					out[t] += scale * scale * st_noise_row(&as, row, (size_t)cols);
				}
				free(row);
			}
		}
	}
	return ST_OK;
}
