/* orders.c - a matrix product whose features stand in another order, or come from its neighbour. */
#include "explain/product.h"

#include "arch/arch.h"
#include "base/error.h"
#include "graph/basis.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define MOST_ROWS ((size_t)16384) /* that are matched with each other */

/* Features to choose among: the node's own, and behind them those of a product with the same input. */
struct pool {
	const float *own, *other; /* [rows, N] each; other: NULL */
	size_t N, rows;
};

static float pooled(const struct pool *p, size_t r, size_t j)
{
	return j < p->N ? p->own[r * p->N + j] : p->other[r * p->N + j - p->N];
}

/* For each feature of what was captured the one that is nearest to it over all rows. False where each is its own. */
static bool match_rows(const struct st_product *p, const struct pool *pool, uint32_t *from)
{
	const struct st_trial *t = p->t;
	size_t N = pool->N, all = pool->other ? 2 * N : N, moved = 0;
	for (size_t i = 0; i < N && !st_cancelled(); i++) {
		double best = INFINITY;
		for (size_t k = 0; k < all && best > 0; k++) {
			size_t j = (i + k) % all; /* its own place first */
			double d = 0;
			for (size_t r = 0; r < pool->rows && d < best; r++) {
				double e = st_product_has(p, r) ? (double)t->got[r * N + i] - pooled(pool, r, j) : 0;
				d += e * e;
			}
			if (d < best) {
				best = d;
				from[i] = (uint32_t)j;
			}
		}
		moved += from[i] != i;
	}
	return moved > 0;
}

/* Features of a head: of the rotation that turns them, else of the weight's heads. */
static size_t head_size(const struct st_trial *t, const struct st_part *p)
{
	const struct st_graph *g = t->x->g;
	for (uint32_t k = t->i + 1; k < g->n_nodes && g->nodes[k].layer == t->n->layer; k++) {
		uint32_t from;
		if (g->nodes[k].op == ST_OP_ROPE && st_capture_turned(t->x, t->i, &g->nodes[k], &from) && from == p->at)
			return g->nodes[k].head_dim;
	}
	return p->w->heads ? p->len / p->w->heads : p->len;
}

/* Feature i of heads of d features in adjacent pairs, where halves are meant, or the other way round. */
static bool is_pairing(const uint32_t *from, size_t len, size_t at, size_t d, bool to_pairs)
{
	if (d < 4 || d % 2 || len % d)
		return false;
	for (size_t i = 0; i < len; i++)
		if (from[at + i] != at + (to_pairs ? st_row_in_halves(i, d) : st_row_in_pairs(i, d)))
			return false;
	return true;
}

/* One run that holds what stands a fixed distance away, while all others are in their places. */
static bool is_tile(const struct st_part *p, const uint32_t *from, size_t *first, size_t *last)
{
	size_t n = 0;
	int64_t shift = 0;
	for (size_t i = p->at; i < p->at + p->len; i++) {
		if (from[i] == i)
			continue;
		if (n && (i != *last + 1 || (int64_t)from[i] - (int64_t)i != shift))
			return false;
		shift = (int64_t)from[i] - (int64_t)i;
		*first = n++ ? *first : i;
		*last = i;
	}
	return n >= 4 && n < p->len && (uint64_t)llabs(shift) >= n;
}

static struct st_cause order_of(const struct st_trial *t, const struct st_part *p, const uint32_t *from)
{
	size_t d = head_size(t, p), first = 0, last = 0, N = st_product_of(t).N;
	struct st_cause c;
	for (size_t i = p->at; i < p->at + p->len; i++)
		if (from[i] >= N)
			return st_blame(ST_CAUSE_WEIGHT_GATE_UP_INTERLEAVED);
	for (size_t i = p->at; i < p->at + p->len; i++)
		if (from[i] < p->at || from[i] >= p->at + p->len)
			return st_blame(ST_CAUSE_WEIGHT_QKV_INTERLEAVED);
	for (int to_pairs = 0; to_pairs < 2; to_pairs++)
		for (size_t k = 0, size = d; size <= p->len; size = k ? size + 2 : 4, k++) /* the right one first */
			if (is_pairing(from, p->len, p->at, size, to_pairs)) {
				size_t heads = p->len / d, wrong = p->len / size;
				c = st_blame(size == d ? ST_CAUSE_WEIGHT_ROPE_PERMUTED
				                       : ST_CAUSE_WEIGHT_ROPE_PERMUTED_WRONG_HEADS);
				st_cause_put(&c, ST_PARAM_HEADS, (double)heads);
				if (size != d)
					st_cause_put(&c, ST_PARAM_WRONG_HEADS, (double)wrong);
				return c;
			}
	if (is_tile(p, from, &first, &last)) {
		c = st_blame(ST_CAUSE_KERNEL_STALE_TILE);
		st_cause_put(&c, ST_PARAM_FIRST_COLUMN, (double)first);
		st_cause_put(&c, ST_PARAM_LAST_COLUMN, (double)last);
		return c;
	}
	int64_t shift = (int64_t)from[p->at] - (int64_t)p->at;
	size_t alike = 0;
	for (size_t i = p->at; i < p->at + p->len; i++)
		alike += (int64_t)from[i] - (int64_t)i == shift;
	if (shift && alike * 10 >= p->len * 8) {
		c = st_blame(ST_CAUSE_WEIGHT_ROW_SHIFT);
		st_cause_put(&c, ST_PARAM_SHIFT, (double)shift);
		return c;
	}
	return st_blame(ST_CAUSE_WEIGHT_ROWS_PERMUTED);
}

/* The part that is most out of order gives the name. */
static struct st_part most_moved(const struct st_trial *t, const uint32_t *from)
{
	struct st_part worst = st_product_part(t, 0);
	size_t most = 0;
	for (uint32_t k = 0; k < t->n->n_w; k++) {
		struct st_part p = st_product_part(t, k);
		size_t moved = 0;
		for (size_t i = p.at; i < p.at + p.len; i++)
			moved += from[i] != i;
		if (moved > most) {
			most = moved;
			worst = p;
		}
	}
	return worst;
}

static enum st_status try_order(struct st_trial *t, const struct st_product *p, const struct pool *pool, uint32_t *from,
                                struct st_error *err)
{
	if (!match_rows(p, pool, from))
		return ST_OK;
	float *y = st_trial_buffer(t);
	struct st_part worst = most_moved(t, from);
	for (size_t r = 0; r < pool->rows; r++)
		for (size_t i = 0; i < pool->N; i++)
			y[r * pool->N + i] = pooled(pool, r, from[i]);
	struct st_cause c = order_of(t, &worst, from);
	return st_try_value(t, y, &c, err);
}

enum st_status st_test_product_order(struct st_trial *t, struct st_error *err)
{
	struct st_product p = st_product_of(t);
	struct pool pool = { .own = t->exact, .N = p.N, .rows = p.rows };
	if (!st_trial_direct(t) || pool.N > MOST_ROWS || pool.rows < 2)
		return ST_OK;
	uint32_t *from = st_alloc_array(pool.N, sizeof *from);
	float *other = st_alloc_array2(pool.rows, pool.N, sizeof *other);
	if (!from || !other) {
		free(from);
		free(other);
		return st_fail(err, ST_ERR_NOMEM, "out of memory");
	}
	enum st_status st = try_order(t, &p, &pool, from, err);
	const struct st_graph *g = t->x->g;
	for (uint32_t k = 0; k < g->n_nodes && st == ST_OK && t->best->cause.confidence != ST_CONFIRMED; k++) {
		const struct st_node *n = &g->nodes[k];
		if (k == t->i || n->op != t->n->op || n->layer != t->n->layer || n->in[0] != t->n->in[0]
		    || n->in[1] != t->n->in[1] || n->width != t->n->width)
			continue;
		st = st_run_eval_as(t->x->run, k, n, &t->x->exec, other, err);
		pool.other = other;
		if (st == ST_OK)
			st = try_order(t, &p, &pool, from, err);
	}
	free(from);
	free(other);
	return st;
}
