/* move.c - whether a weight is another one moved about, and in which order its rows are. */
#include "compare/move.h"

#include "arch/arch.h"
#include "base/error.h"
#include "base/pool.h"
#include "compare/pair.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static struct st_cells element(const struct st_cells *c, uint64_t i)
{
	return c->below ? st_cells_from(c, i) : (struct st_cells){ .value = c->value + i };
}

/* x[i] gain + mate[i] mate_gain, where the gains are known to within `error`. */
static void turn(const struct st_cells *x, double gain, const struct st_cells *mate, double mate_gain, double error,
                 uint64_t n)
{
	for (uint64_t i = 0; x->below && i < n; i++)
		x->slack[i] += (float)(error / fmax(fabs(gain), 1e-6) * (fabsf(x->value[i]) + fabsf(mate->value[i])));
	st_cells_affine(x, n, gain, 0);
	st_cells_affine(mate, n, mate_gain, 0);
	for (uint64_t i = 0; i < n; i++) {
		x->value[i] += mate->value[i];
		if (!x->below)
			continue;
		x->below[i] += mate->below[i];
		x->above[i] += mate->above[i];
		x->slack[i] += mate->slack[i];
	}
}

/* Elements of a vector, of which `all` holds the row as it was. */
static void move_elements(const struct st_move *m, const struct st_cells *all, const struct st_cells *dst, uint64_t n)
{
	float room[4];
	struct st_cells mate = { room, dst->below ? room + 1 : NULL, room + 2, room + 3, NULL };
	for (uint64_t i = 0; i < n; i++) {
		struct st_cells one = element(dst, i);
		if (m->col || m->col_mate)
			st_cells_copy(all, m->col ? m->col[i] : i, &one, 0, 1);
		if (m->col_mate) {
			st_cells_copy(all, m->col ? m->col[m->col_mate[i]] : m->col_mate[i], &mate, 0, 1);
			turn(&one, m->col_gain[i], &mate, m->col_mate_gain[i], m->col_error[i], 1);
		} else if (m->col_gain) {
			st_cells_affine(&one, 1, m->col_gain[i], 0);
		}
		if (m->col_add) {
			one.value[0] += (float)m->col_add[i];
			if (one.below) { /* the error of a sum of many: it may be anywhere */
				one.below[0] += (float)m->col_add_error[i];
				one.above[0] += (float)m->col_add_error[i];
			}
		}
	}
}

static void get_moved(const struct st_rows *s, uint64_t r, const struct st_cells *dst)
{
	const struct st_moved *x = s->ctx;
	const struct st_move *m = &x->m;
	struct st_cells own = { dst->spare, dst->spare + s->cols, dst->spare + 2 * s->cols, dst->spare + 3 * s->cols,
		                NULL };
	if (!dst->below)
		own = (struct st_cells){ .value = dst->spare };
	bool elsewhere = m->col || m->col_mate;
	x->from.get(&x->from, m->row ? m->row[r] : r, elsewhere ? &own : dst);
	if (elsewhere || m->col_gain || m->col_add)
		move_elements(m, &own, dst, s->cols);
	if (m->row_mate) { /* of matrices whose columns stay where they are */
		struct st_move scaled = { .col_gain = m->col_gain };
		x->from.get(&x->from, m->row ? m->row[m->row_mate[r]] : m->row_mate[r], &own);
		move_elements(&scaled, NULL, &own, s->cols);
		turn(dst, m->row_gain[r], &own, m->row_mate_gain[r], m->row_error[r], s->cols);
	} else if (m->row_gain) {
		st_cells_affine(dst, s->cols, m->row_gain[r], 0);
	}
}

struct st_rows st_moved_rows(const struct st_moved *x)
{
	struct st_rows s = x->from;
	s.get = get_moved;
	s.ctx = x;
	s.whole = !x->m.col && !x->m.col_gain && !x->m.col_add && !x->m.row_mate && x->from.whole;
	return s;
}

const struct st_weight_diff *st_move_find(const struct st_move_search *s, const struct st_weight *w, int64_t expert)
{
	for (size_t i = 0; w && i < s->n; i++) {
		const struct st_weight *slot = s->d[i].slot;
		if (slot->layer == w->layer && slot->expert == expert && slot->name && w->name
		    && strcmp(slot->name, w->name) == 0)
			return &s->d[i];
	}
	return NULL;
}

const struct st_weight_diff *st_move_find_head(const struct st_move_search *s)
{
	const struct st_weight_diff *head = NULL;
	for (size_t i = 0; i < s->n; i++)
		if (s->d[i].slot->role == ST_ROLE_HEAD)
			head = &s->d[i];
	return head;
}

const struct st_weight_diff *st_move_of_expert(const struct st_move_search *s, const struct st_weight_diff *first,
                                               uint64_t expert)
{
	size_t i = first ? (size_t)(first - s->d) + expert : s->n;
	bool is = i < s->n && s->d[i].slot->expert == (int64_t)expert && s->d[i].slot->layer == first->slot->layer
	       && strcmp(s->d[i].slot->name, first->slot->name) == 0;
	return is ? &s->d[i] : NULL;
}

bool st_move_comparable(const struct st_weight_diff *d)
{
	return d && d->a && d->b && d->status <= ST_WEIGHT_FAULT && !d->nonfinite_a && !d->nonfinite_b
	    && st_weight_rows(d->a) == st_weight_rows(d->b) && st_weight_cols(d->a) == st_weight_cols(d->b);
}

#define FEW 64 /* rows that a move must fit first */

/* Whether a is b moved so, to within the noise. */
enum st_status st_move_fits(struct st_move_search *s, const struct st_weight_diff *d, const struct st_move *m,
                            bool *yes)
{
	struct st_rows a = st_rows_of(d->a);
	struct st_moved x = { st_rows_of(d->b), *m };
	struct st_rows b = st_moved_rows(&x);
	uint64_t few[FEW], n = a.rows < FEW ? a.rows : FEW;
	struct st_row_stat *stats = st_alloc_array(a.rows, sizeof *stats);
	struct st_pair_summary sum = { 0 };
	*yes = false;
	if (!stats)
		return st_fail(s->err, ST_ERR_NOMEM, "out of memory");
	for (uint64_t i = 0; i < n; i++)
		few[i] = i * a.rows / n;
	enum st_status st = st_pair_judge(&a, &b, few, n, s->pool, stats, &sum, s->err);
	if (st == ST_OK && sum.noise && n < a.rows)
		st = st_pair_judge(&a, &b, NULL, a.rows, s->pool, stats, &sum, s->err);
	*yes = sum.noise;
	free(stats);
	return st;
}

/* For the element-wise moves of a bias, whose elements are the rows of a matrix. */
struct st_move st_move_of_vector(const struct st_move *m)
{
	return (struct st_move){ .col = m->row,
		                 .col_gain = m->row_gain,
		                 .col_mate = m->row_mate,
		                 .col_mate_gain = m->row_mate_gain,
		                 .col_error = m->row_error };
}

/* ---- an order of rows ---- */

#define KEYS 64 /* columns that rows are known by */

struct keys {
	uint64_t rows, n;
	float *unit; /* [rows, n], each of length 1 */
};

/* Some columns of every row, spread evenly. */
static enum st_status find_keys(struct st_move_search *s, const struct st_rows *from, const double *col_gain,
                                struct keys *k)
{
	uint64_t cols = from->cols;
	*k = (struct keys){ .rows = from->rows, .n = cols < KEYS ? cols : KEYS };
	float *row = st_arena_alloc(&s->arena, cols, sizeof *row);
	k->unit = st_arena_alloc2(&s->arena, k->rows, k->n, sizeof *k->unit);
	if (!row || !k->unit)
		return st_fail(s->err, ST_ERR_NOMEM, "out of memory");
	for (uint64_t r = 0; r < k->rows; r++) {
		double sum = 0;
		float *u = k->unit + r * k->n;
		from->get(from, r, &(struct st_cells){ .value = row });
		for (uint64_t i = 0; i < k->n; i++) {
			uint64_t c = i * cols / k->n;
			u[i] = (float)(row[c] * (col_gain ? col_gain[c] : 1));
			sum += (double)u[i] * u[i];
		}
		for (uint64_t i = 0; i < k->n && sum > 0; i++)
			u[i] = (float)(u[i] / sqrt(sum));
	}
	return st_check_cancel(s->err);
}

/* Blocks of `block` rows of a, each beside the block of b that is most like it, row by row. */
struct match {
	const struct keys *a, *b;
	uint64_t block;
	uint64_t *best;
};

static void match_blocks(void *ctx, unsigned lane, uint64_t begin, uint64_t end)
{
	const struct match *m = ctx;
	uint64_t n = m->a->n, blocks = m->a->rows / m->block;
	(void)lane;
	for (uint64_t i = begin; i < end && !st_cancelled(); i++) {
		double most = -1;
		for (uint64_t j = 0; j < blocks; j++) {
			double sum = 0;
			for (uint64_t r = 0; r < m->block; r++) {
				const float *x = m->a->unit + (i * m->block + r) * n,
					    *y = m->b->unit + (j * m->block + r) * n;
				float dot = 0;
				for (uint64_t k = 0; k < n; k++)
					dot += x[k] * y[k];
				sum += fabs(dot);
			}
			if (sum > most) {
				most = sum;
				m->best[i] = j;
			}
		}
	}
}

#define GLANCE 32 /* rows that must be some rows of the other side */
#define LIKE 0.8  /* the least |cosine| of these, on average: what 2 bits leave of a row is more */

/* A few rows of a beside all of b: most weights that differ are other weights, and are not worth the whole search. */
static bool are_rows_of(const struct keys *a, const struct keys *b)
{
	uint64_t n = a->rows < GLANCE ? a->rows : GLANCE;
	double sum = 0;
	for (uint64_t i = 0; i < n; i++) {
		const float *x = a->unit + i * a->rows / n * a->n;
		float most = 0;
		for (uint64_t j = 0; j < b->rows; j++) {
			const float *y = b->unit + j * b->n;
			float dot = 0;
			for (uint64_t k = 0; k < a->n; k++)
				dot += x[k] * y[k];
			most = fmaxf(most, fabsf(dot));
		}
		sum += most;
	}
	return sum > LIKE * (double)n;
}

/* best[i]: the block of b that block i of a is. */
enum st_status st_move_order(struct st_move_search *s, const struct st_weight_diff *d, const double *col_gain,
                             uint64_t block, uint64_t **order)
{
	struct st_rows a = st_rows_of(d->a), b = st_rows_of(d->b);
	uint64_t blocks = a.rows / block;
	struct keys ka, kb;
	*order = NULL;
	uint64_t *best = st_arena_alloc(&s->arena, blocks, sizeof *best);
	bool *taken = st_arena_alloc(&s->arena, blocks, sizeof *taken);
	if (!best || !taken)
		return st_fail(s->err, ST_ERR_NOMEM, "out of memory");
	ST_TRY(find_keys(s, &a, NULL, &ka));
	ST_TRY(find_keys(s, &b, col_gain, &kb));
	if (block == 1 && !are_rows_of(&ka, &kb))
		return ST_OK;
	struct match m = { &ka, &kb, block, best };
	st_pool_each(s->pool, blocks, blocks * block * ka.n, match_blocks, &m);
	ST_TRY(st_check_cancel(s->err));
	memset(taken, 0, blocks * sizeof *taken);
	for (uint64_t i = 0; i < blocks; i++) {
		if (taken[best[i]])
			return ST_OK;
		taken[best[i]] = true;
	}
	*order = best;
	return ST_OK;
}

bool st_move_is_identity(const uint64_t *order, uint64_t n)
{
	for (uint64_t i = 0; i < n; i++)
		if (order[i] != i)
			return false;
	return true;
}

/* Rows of heads of d, in the order of the heads: map[h * d + j] = order[h] * d + j. */
enum st_status st_move_blocks(struct st_move_search *s, const uint64_t *order, uint64_t n, uint64_t d, uint64_t **map)
{
	*map = st_arena_alloc2(&s->arena, n, d, sizeof **map);
	if (!*map)
		return st_fail(s->err, ST_ERR_NOMEM, "out of memory");
	for (uint64_t i = 0; i < n * d; i++)
		(*map)[i] = order[i / d] * d + i % d;
	return ST_OK;
}

void st_move_claim(struct st_move_search *s, const struct st_weight_diff *const members[], size_t n, const char *how)
{
	for (size_t i = 0; i < n; i++)
		if (st_move_at_fault(members[i]))
			s->how[members[i] - s->d] = how;
}
