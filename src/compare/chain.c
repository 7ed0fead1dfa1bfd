/* chain.c - how often numbers lie on a grid that they need not lie on. */
#include "compare/chain.h"

#include "base/error.h"
#include "base/pool.h"
#include "compare/lanes.h"
#include "dtype/geometry.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/*
 * A number is near the grid within a 16th of a step: an original that is anywhere in its cell is so in one case of
 * eight. A number of a block is asked only up to 4 steps and within a 64th of itself, which is not more. What was done
 * to numbers after they had left their blocks errs in proportion to them, and large ones may be a step away by it.
 */
#define NEAR 0.0625
#define FEW_STEPS 4
#define OF_ITSELF 0x1p-6
#define BY_CHANCE 0.125
#define TELLING 16 /* numbers of a row that came the same way as the others: fewer cannot say that it did not */

/*
 * The same by size: what rounding to the grid leaves is a twelfth of a squared step on average. A quarter of that, half
 * as far, is 6 standard deviations less in 64 numbers.
 */
#define QUARTER (1.0 / 48)
#define MEASURED 64

struct near {
	uint64_t told, near;
	uint64_t measured;
	double squares; /* of distances, in steps */
};

struct asked {
	const struct st_rows *a, *b, *grid;
	struct st_held held, other; /* of the grid's side, and of the other side */
	float *buf;                 /* two rows of cells for every lane */
	float *step;                /* two rows for every lane */
	struct near *rows;          /* [rows] */
};

static bool is_block_grid(struct st_held held)
{
	return st_dtype_info(held.type)->kind == ST_KIND_QUANT && st_dtype_geometry(held.type)->sub;
}

static void ask_rows(void *ctx, unsigned lane, uint64_t begin, uint64_t end)
{
	const struct asked *m = ctx;
	uint64_t cols = m->a->cols;
	bool blocks = st_dtype_info(m->held.type)->kind != ST_KIND_FLOAT;
	bool two = is_block_grid(m->other);
	float *step = m->step + lane * 2 * cols, *other = step + cols;
	struct st_cells x, y;
	st_pair_cells(m->buf, lane, cols, &x, &y);
	for (uint64_t r = begin; r < end && !st_cancelled(); r++) {
		struct near n = { 0 };
		double square = 0;
		m->a->get(m->a, r, &x);
		m->b->get(m->b, r, &y);
		const struct st_cells *grid = m->grid == m->a ? &x : &y;
		st_cells_steps(m->held, grid, cols, step);
		if (two)
			st_cells_steps(m->other, m->grid == m->a ? &y : &x, cols, other);
		for (uint64_t i = 0; i < cols; i++)
			square += (double)grid->value[i] * grid->value[i];
		double f32 = ST_CELLS_F32 * sqrt(square / (double)cols);
		for (uint64_t i = 0; i < cols; i++) {
			double d = fabs((double)x.value[i] - y.value[i]), size = fabs((double)grid->value[i]);
			double own = fmax(x.below[i], x.above[i]) + fmax(y.below[i], y.above[i]) + (double)x.slack[i]
			           + y.slack[i] + ST_CELLS_F32 * size + f32;
			/* What is zero may have been zero before. */
			if (size == 0 || !isfinite(step[i]) || !isfinite(d) || !(own <= NEAR * step[i]))
				continue;
			/* Grids of other steps are other chains: every second number of the one may lie on the other. */
			if (two && !(other[i] > 0.75f * step[i] && other[i] < 1.5f * step[i]))
				continue;
			/* A finer grid that came behind a coarse one moves numbers by as little as a finetune does. */
			if (!two) {
				n.measured++;
				n.squares += fmin(d / step[i], 1) * fmin(d / step[i], 1);
			}
			if (blocks && size > FEW_STEPS * step[i])
				continue;
			n.told++;
			n.near += d <= fmax(own, fmin(OF_ITSELF * size, NEAR * step[i]));
		}
		m->rows[r] = n;
	}
}

static bool are_small(const struct near *n)
{
	return n->measured >= MEASURED && n->squares < QUARTER * (double)n->measured;
}

/* Most of them are near, and eight standard deviations and a handful more than chance explains. */
static bool are_near(const struct near *n)
{
	if (are_small(n))
		return true;
	double chance = BY_CHANCE * (double)n->told;
	return 2 * n->near > n->told && (double)n->near > chance + 8 * sqrt(chance) + 5;
}

enum st_status st_same_chain(const struct st_rows *a, const struct st_rows *b, const struct st_rows *grid,
                             struct st_held held, struct st_held other, struct st_pool *pool, bool *same,
                             struct st_error *err)
{
	uint64_t lanes = st_pool_threads(pool);
	struct asked m = { .a = a, .b = b, .grid = grid, .held = held, .other = other };
	m.buf = st_alloc_array3(lanes, ST_PAIR_BUFFER, a->cols, sizeof *m.buf);
	m.step = st_alloc_array3(lanes, 2, a->cols, sizeof *m.step);
	m.rows = st_alloc_zeroed(a->rows, sizeof *m.rows);
	enum st_status st = m.buf && m.step && m.rows ? ST_OK : st_fail(err, ST_ERR_NOMEM, "out of memory");
	if (st == ST_OK) {
		struct near all = { 0 };
		st_pool_each(pool, a->rows, a->cols * 8, ask_rows, &m);
		st = st_check_cancel(err);
		for (uint64_t r = 0; r < a->rows; r++) {
			all.told += m.rows[r].told;
			all.near += m.rows[r].near;
			all.measured += m.rows[r].measured;
			all.squares += m.rows[r].squares;
		}
		bool whole = are_near(&all), mixed = false, two = is_block_grid(other);
		for (uint64_t r = 0; r < a->rows; r++)
			mixed |= m.rows[r].told >= TELLING / 2 && 4 * m.rows[r].near < m.rows[r].told
			      && !are_small(&m.rows[r]);
		for (uint64_t r = 0; r < a->rows; r++) {
			const struct near *n = &m.rows[r];
			/* A row that says little follows the others where these are of one kind. One among many that
			 * came another way is asked for as much as the whole; of two grids none is, since single rows
			 * of their numbers fall together. */
			same[r] = !whole            ? !two && are_near(n)
			        : n->told < TELLING ? !mixed
			                            : 2 * n->near > n->told || are_small(n);
		}
	}
	free(m.buf);
	free(m.step);
	free(m.rows);
	return st;
}
