/*
 * ties.c - how keys and queries are coded in Q8_0, and codes that lie so near to the middle of two that an engine may
 * have either.
 *
 * A number that was turned by a Hadamard matrix is a sum in f32: engines that add up in another order have it some
 * units away, and where it lies in the middle of two codes they store another one. One step more in one key moves the
 * scores of every query that reads it, by the query's own number times the step. Such codes are counted, and their
 * steps are what a score may differ by.
 */
#include "explain/explain.h"

#include "base/error.h"
#include "base/mem.h"
#include "dtype/half.h"
#include "explain/rounding.h"
#include "graph/basis.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define BLOCK 32
#define UNIT 0x1p-24

struct st_order st_key_order(const struct st_explainer *x, const struct st_node *n, const struct st_arith *a)
{
	/* As ggml has it: K is turned by the largest power of two in a head. */
	struct st_order key = { .head = n->head_dim, .turned = a->turned ? n->head_dim & -n->head_dim : 0 };
	for (uint32_t i = 0; i < x->g->n_nodes && x->interleaved && n->op == ST_OP_SCORES; i++) {
		const struct st_node *rope = &x->g->nodes[i];
		if (rope->op == ST_OP_ROPE && rope->layer == n->layer && rope->head_dim == n->head_dim)
			key.pairs = rope->n_rot;
	}
	return key;
}

/* Keys or queries as they are rounded, and for each number what the other code would make of it. */
struct coded {
	float *v, *steps;
};

/* Rows of one head, in the basis in which they are coded. slack: what adding up may have done to each number. */
static void find_steps(const float *v, size_t n, double slack, float *steps)
{
	for (size_t b = 0; b < n; b += BLOCK) {
		double most = 0;
		for (size_t i = b; i < b + BLOCK; i++)
			most = fmax(most, fabs(v[i]));
		double d = most / 127, of_d = slack / most + 2 * UNIT;
		double other = st_f16_to_f32(st_f32_to_f16((float)(d * (1 + of_d))))
		             - st_f16_to_f32(st_f32_to_f16((float)(d * (1 - of_d))));
		for (size_t i = b; i < b + BLOCK; i++) {
			double code = most > 0 ? fabs(v[i]) / d : 0, from_middle = fabs(code - floor(code) - 0.5);
			bool either = most > 0 && from_middle <= slack / d + code * (of_d + 2 * UNIT);
			steps[i] = (float)((either ? d : 0) + (most > 0 ? code * other : 0));
		}
	}
}

static enum st_status code(const struct st_explainer *x, const float *from, size_t rows, size_t width, size_t ld,
                           const struct st_order *as, struct coded *c, struct st_error *err)
{
	size_t n = rows * width, block = as->turned ? as->turned : as->head;
	*c = (struct coded){ .v = st_alloc_array2(2, n, sizeof *c->v) };
	if (!c->v)
		return st_fail(err, ST_ERR_NOMEM, "out of memory");
	c->steps = c->v + n;
	for (size_t r = 0; r < rows; r++)
		memcpy(c->v + r * width, from + r * ld, width * sizeof *from);
	if (as->pairs)
		st_basis_to_pairs(c->v, n / as->head, as->head, as->pairs);
	for (size_t i = 0; i < n; i += block) {
		double square = 0;
		for (size_t k = i; k < i + block; k++)
			square += (double)c->v[k] * c->v[k];
		/* A turned number is a sum over the block: seven times 0.3 sqrt(K) units of the root of the sum of the
		 * squares of its terms (docs/floors.md, "What an engine's arithmetic may do"). */
		double slack = as->turned ? 2 * UNIT * sqrt((double)block) * sqrt(square / (double)block) : 0;
		if (as->turned)
			st_fwht(x->exec.k, c->v + i, block);
		find_steps(c->v + i, block, slack, c->steps + i);
		st_round_to(ST_DTYPE_Q8_0, c->v + i, block, block);
	}
	return ST_OK;
}

static double product(const float *steps, const float *other, const float *their_steps, size_t n)
{
	double sum = 0;
	for (size_t i = 0; i < n; i++)
		sum += steps[i] == 0 ? 0 : (double)steps[i] * (fabs(other[i]) + their_steps[i]);
	return sum;
}

static bool any(const float *v, size_t n)
{
	for (size_t i = 0; i < n; i++)
		if (v[i] != 0)
			return true;
	return false;
}

enum st_status st_bound_ties(struct st_explainer *x, const struct st_node *n, const struct st_arith *a, const float *in,
                             size_t ld, size_t T, size_t cols, float *bound, struct st_error *err)
{
	struct st_cached c = st_run_cached(x->run, n->layer);
	struct st_order as = st_key_order(x, n, a);
	size_t d = n->head_dim, group = n->heads / n->kv_heads, P = st_run_positions(x->run);
	struct coded k = { 0 }, q = { 0 };
	if (a->cache != ST_DTYPE_Q8_0 || a->query != ST_DTYPE_Q8_0 || d % BLOCK != 0 || c.k_width != n->kv_heads * d)
		return ST_OK;
	enum st_status st = code(x, c.k, P, c.k_width, c.k_width, &as, &k, err);
	if (st == ST_OK)
		st = code(x, in, T, n->heads * d, ld, &as, &q, err);
	for (size_t h = 0; h < n->heads && st == ST_OK; h++)
		for (size_t p = 0; p < P; p++) {
			size_t at_k = p * c.k_width + h / group * d;
			bool keys = any(k.steps + at_k, d);
			for (size_t t = 0; t < T; t++) {
				size_t at_q = (t * n->heads + h) * d;
				double may = keys ? product(k.steps + at_k, q.v + at_q, q.steps + at_q, d) : 0;
				may += product(q.steps + at_q, k.v + at_k, k.steps + at_k, d);
				bound[(h * T + t) * cols + p] += (float)(may * fabs(n->scale));
			}
		}
	free(k.v);
	free(q.v);
	return st;
}
