/* encoders.c - whether two encoders of one type can have written the numbers of two sides. */
#include "compare/encoders.h"

#include "base/error.h"
#include "base/mem.h"
#include "base/pool.h"
#include "compare/held.h"
#include "compare/lanes.h"
#include "dtype/geometry.h"

#include <math.h>
#include <stdlib.h>

#define SURE 35 /* chances below e^-SURE do not happen */

/* What a row says of numbers whose codes the two grids let one expect to differ. */
struct codes {
	double expected, differ;
	bool steps_differ; /* in some block */
	bool any;          /* blocks on grids */
};

struct look {
	struct st_encoders *e;
	struct st_held_grid type;
	uint64_t blocks;
	float *buf;         /* two rows of cells for every lane */
	struct codes *rows; /* [rows] */
};

/* One block of numbers: offset + step times whole numbers. */
struct grid {
	double step, offset;
	double least, most; /* the steps that give all numbers, as the present type rounds them */
	float first, last;  /* the smallest and the largest number: codes may end there */
};

/* What a number may have been before the present type rounded it. Blocks of the type itself round nothing. */
static double own_error(const struct st_rows *s, const struct st_cells *c, uint64_t i)
{
	double f32 = ST_CELLS_F32 * fabs((double)c->value[i]);
	return st_dtype_info(s->held.type)->kind == ST_KIND_QUANT ? f32
	                                                          : fmax(c->below[i], c->above[i]) + c->slack[i] + f32;
}

/*
 * The steps [g->least, g->most] under which all numbers x are whole, each to within its error, narrowed down from those
 * given. A number that leaves its code open is asked again when the others have told the step better.
 */
static bool narrow(const double *x, const double *error, unsigned n, struct grid *g)
{
	for (int again = 0; again < 2; again++)
		for (unsigned i = 0; i < n; i++) {
			double low = fmax(fabs(x[i]) - error[i], 0), high = fabs(x[i]) + error[i];
			double first = ceil(low / g->most), last = floor(high / g->least);
			if (first > last)
				return false;
			if (first < last || first == 0)
				continue;
			g->least = fmax(g->least, low / first);
			g->most = fmin(g->most, high / first);
			if (g->least > g->most)
				return false;
		}
	return true;
}

/* Whether the numbers of a block lie on a grid of the type, as exactly as storing them leaves it. */
static bool is_on_grid(const struct look *m, const struct st_rows *s, const struct st_cells *c, uint64_t at,
                       struct grid *g)
{
	double x[ST_BLOCK_MOST], error[ST_BLOCK_MOST], zero = 0, most = 0, of_most = 0;
	unsigned n = m->type.block;
	g->first = INFINITY;
	g->last = -INFINITY;
	for (unsigned i = 0; i < n; i++) {
		x[i] = (double)c->value[at + i];
		error[i] = own_error(s, c, at + i);
		if (!isfinite(x[i]) || !isfinite(error[i]))
			return false;
		if (c->value[at + i] < g->first) {
			g->first = c->value[at + i];
			zero = error[i];
		}
		g->last = fmaxf(g->last, c->value[at + i]);
	}
	g->offset = m->type.offset ? (double)g->first : 0;
	for (unsigned i = 0; i < n; i++) {
		x[i] -= g->offset;
		error[i] += m->type.offset ? zero : 0; /* of the offset, which is the smallest number */
		of_most = fabs(x[i]) > most ? error[i] : of_most;
		most = fmax(most, fabs(x[i]));
	}
	for (unsigned k = m->type.steps; k >= m->type.fewest; k--) {
		g->least = fmax(most - of_most, 0) / k;
		g->most = (most + of_most) / k;
		if (most <= of_most || narrow(x, error, n, g)) {
			g->step = (g->least + g->most) / 2;
			return true;
		}
	}
	return false;
}

/*
 * An original that is anywhere in the cell of x on the one grid has the same code on the other in as many cases as the cells
 * of this code overlap. Added: the share of the others, and whether y has another code.
 */
static void add_codes(const struct grid *of_x, const struct grid *of_y, double x, double y, struct codes *n)
{
	double s = of_x->step / 2, t = of_y->step / 2;
	double z = of_y->offset + of_y->step * rint((x - of_x->offset) / of_x->step);
	if (x <= (double)of_x->first || x >= (double)of_x->last || z <= (double)of_y->first || z >= (double)of_y->last)
		return;
	double overlap = fmin(x + s, z + t) - fmax(x - s, z - t);
	n->expected += 0.5 * (1 - fmax(overlap, 0) / (2 * s)); /* half: the other way about is asked as well */
	n->differ += fabs(y - z) > t ? 0.5 : 0;
}

static void look_at_rows(void *ctx, unsigned lane, uint64_t begin, uint64_t end)
{
	const struct look *m = ctx;
	const struct st_encoders *e = m->e;
	struct st_cells x, y;
	st_pair_cells(m->buf, lane, e->a.cols, &x, &y);
	for (uint64_t r = begin; r < end && !st_cancelled(); r++) {
		struct codes n = { 0 };
		e->a.get(&e->a, r, &x);
		e->b.get(&e->b, r, &y);
		for (uint64_t k = 0; k < m->blocks; k++) {
			struct grid g, h;
			uint64_t at = k * m->type.block;
			bool exact = is_on_grid(m, &e->a, &x, at, &g) && is_on_grid(m, &e->b, &y, at, &h);
			e->exact[r * m->blocks + k] = exact;
			n.any |= exact;
			if (!exact || (g.least <= h.most && h.least <= g.most))
				continue;
			n.steps_differ = true;
			for (uint64_t i = at; i < at + m->type.block; i++) {
				add_codes(&g, &h, (double)x.value[i], (double)y.value[i], &n);
				add_codes(&h, &g, (double)y.value[i], (double)x.value[i], &n);
			}
		}
		m->rows[r] = n;
	}
}

/*
 * Fewer than half of the codes that should differ do, and chance does not explain it: the probability of `differ` or
 * fewer of so many independent cases is below exp(-(E - d + d ln(d / E))).
 */
static bool kept_their_codes(const struct codes *n)
{
	double e = n->expected, d = n->differ;
	return 2 * d < e && e - d + (d > 0 ? d * log(d / e) : 0) > SURE;
}

enum st_status st_encoders_look(struct st_encoders *e, struct st_pool *pool, bool *same, struct st_error *err)
{
	uint64_t rows = e->a.rows, lanes = st_pool_threads(pool);
	struct look m = { .e = e, .type = st_held_grid_of(e->held_a.held.type) };
	m.blocks = e->a.cols / m.type.block;
	m.buf = st_alloc_array3(lanes, ST_PAIR_BUFFER, e->a.cols, sizeof *m.buf);
	m.rows = st_alloc_zeroed(rows, sizeof *m.rows);
	e->exact = st_alloc_array2(rows, m.blocks, sizeof *e->exact);
	enum st_status st = m.buf && m.rows && e->exact ? ST_OK : st_fail(err, ST_ERR_NOMEM, "out of memory");
	if (st == ST_OK) {
		struct codes all = { 0 };
		uint64_t other = 0, any = 0;
		st_pool_each(pool, rows, e->a.cols * 64, look_at_rows, &m);
		st = st_check_cancel(err);
		for (uint64_t r = 0; r < rows; r++) {
			all.expected += m.rows[r].expected;
			all.differ += m.rows[r].differ;
			other += m.rows[r].steps_differ;
			any += m.rows[r].any;
		}
		/* Another encoder chooses other scales all over; some rows among equal ones were written later. */
		bool whole = kept_their_codes(&all), few = 2 * other < any;
		for (uint64_t r = 0; r < rows; r++)
			same[r] = whole || kept_their_codes(&m.rows[r]) || (few && m.rows[r].steps_differ);
	}
	free(m.buf);
	free(m.rows);
	return st;
}

static void get_side(const struct st_rows *s, uint64_t r, const struct st_cells *dst, const struct st_rows *stored,
                     const struct st_rows *held)
{
	const struct st_encoders *e = s->ctx;
	uint64_t block = st_dtype_geometry(s->held.type)->sub, blocks = s->cols / block;
	stored->get(stored, r, dst);
	if (!dst->below)
		return;
	struct st_cells wide = { dst->spare, dst->spare + s->cols, dst->spare + 2 * s->cols, dst->spare + 3 * s->cols,
		                 NULL };
	held->get(held, r, &wide);
	for (uint64_t k = 0; k < blocks; k++)
		if (e->exact[r * blocks + k])
			st_cells_copy(&wide, k * block, dst, k * block, block);
}

static void get_a(const struct st_rows *s, uint64_t r, const struct st_cells *dst)
{
	const struct st_encoders *e = s->ctx;
	get_side(s, r, dst, &e->a, &e->held_a);
}

static void get_b(const struct st_rows *s, uint64_t r, const struct st_cells *dst)
{
	const struct st_encoders *e = s->ctx;
	get_side(s, r, dst, &e->b, &e->held_b);
}

void st_encoders_sides(const struct st_encoders *e, struct st_rows *a, struct st_rows *b)
{
	*a = e->held_a;
	*b = e->held_b;
	a->ctx = b->ctx = e;
	a->get = get_a;
	b->get = get_b;
}
