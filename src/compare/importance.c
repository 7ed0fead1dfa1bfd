/* importance.c - sums over the rows of what least squares makes zero in each of them. */
#include "compare/importance.h"

#include "base/error.h"
#include "base/mem.h"
#include "base/pool.h"
#include "compare/lanes.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/*
 * What the importance of a column is multiplied by in each row: 1; sqrt(mean square + x^2), as in ggml; or x^2, which
 * ggml takes where it knows of no importance. Sums that have one sign under each of these have it under any mixture of
 * them.
 */
enum { WEIGHTS = 3 };

/* Sums are whole numbers of 2^-30, so that their order does not matter; what a row adds is at most 2^12. */
#define UNIT 0x1p30
#define MOST_OF_A_ROW 0x1p12
#define MOST_ROWS ((uint64_t)1 << 20)

/* For every lane: two rows of cells, and sums that begin at zero. */
struct room {
	float *buf;
	void *sums;
};

static void release_room(struct room *r)
{
	free(r->buf);
	free(r->sums);
}

/* cols: elements of a row; sums: how many of `size` bytes a lane adds up. */
static enum st_status make_room(uint64_t lanes, uint64_t cols, uint64_t sums, size_t size, struct room *r,
                                struct st_error *err)
{
	r->buf = st_alloc_array3(lanes, ST_PAIR_BUFFER, cols, sizeof *r->buf);
	r->sums = st_alloc_array2(lanes, sums, size);
	if (r->buf && r->sums) {
		memset(r->sums, 0, (size_t)(lanes * sums) * size);
		return ST_OK;
	}
	release_room(r);
	return st_fail(err, ST_ERR_NOMEM, "out of memory");
}

/* The least and the most that a column's sum may be. */
struct column {
	int64_t least[WEIGHTS], most[WEIGHTS];
	bool any; /* a number other than 0 */
};

struct sums {
	const struct st_rows *fitted, *original;
	const uint64_t *idx;
	uint64_t begin;
	struct st_held via;
	bool affine;
	float *buf;            /* two rows of cells for every lane */
	struct column *column; /* [lanes, cols] */
};

/* One block of a row. Where an element of the original may be of any size nothing follows from the row. */
static void add_block(const struct sums *s, const struct st_cells *y, const struct st_cells *x, uint64_t from,
                      double rms, struct column *column)
{
	double t[ST_REFIT_BLOCK], e[ST_REFIT_BLOCK], g[WEIGHTS][ST_REFIT_BLOCK], most = 0;
	for (unsigned k = 0; k < ST_REFIT_BLOCK; k++) {
		uint64_t i = from + k;
		double v = x->value[i], w = y->value[i];
		double room = fmax(x->below[i], x->above[i]) + (double)x->slack[i] + ST_CELLS_F32 * (fabs(v) + rms)
		            + (double)y->slack[i];
		/* The fit of two unknowns is a difference of sums in f32. */
		room += s->affine ? ST_NEARLY_MET * 2.0 * fminf(y->below[i], y->above[i]) : 0;
		t[k] = w * (v - w);
		e[k] = fabs(w) * room;
		g[0][k] = 1;
		g[1][k] = sqrt(1 + v * v / (rms * rms));
		g[2][k] = v * v / (rms * rms);
		most = fmax(most, (fabs(t[k]) + e[k]) * fmax(g[1][k], g[2][k]));
		if (!isfinite(e[k]) || !isfinite(t[k]))
			return;
	}
	if (!(most > 0) || !isfinite(most))
		return;
	/* Rows may be added up with any factors. */
	double square = 0;
	for (unsigned k = 0; k < ST_REFIT_BLOCK; k++)
		square += (double)y->value[from + k] * y->value[from + k] / ST_REFIT_BLOCK;
	double scale = UNIT * fmin(1 / square, MOST_OF_A_ROW / most);
	for (unsigned k = 0; k < ST_REFIT_BLOCK; k++) {
		struct column *c = &column[from + k];
		c->any |= y->value[from + k] != 0;
		for (int w = 0; w < WEIGHTS; w++) {
			double sum = scale * g[w][k] * t[k], room = scale * g[w][k] * e[k];
			c->least[w] += (int64_t)floor(sum - room);
			c->most[w] += (int64_t)ceil(sum + room);
		}
	}
}

static void add_rows(void *ctx, unsigned lane, uint64_t begin, uint64_t end)
{
	const struct sums *s = ctx;
	uint64_t cols = s->fitted->cols;
	struct column *column = s->column + lane * cols;
	struct st_cells y, x;
	st_pair_cells(s->buf, lane, cols, &y, &x);
	for (uint64_t i = begin; i < end && !st_cancelled(); i++) {
		uint64_t r = s->idx ? s->idx[s->begin + i] : s->begin + i;
		double square = 0;
		st_pair_row(s->fitted, r, s->via, &y);
		st_pair_row(s->original, r, s->via, &x);
		for (uint64_t k = 0; k < cols; k++)
			square += (double)x.value[k] * x.value[k] / (double)cols;
		for (uint64_t k = 0; k < cols && square > 0 && isfinite(square); k += ST_REFIT_BLOCK)
			add_block(s, &y, &x, k, sqrt(square), column);
	}
}

/* Whether the sums of a block of columns have one sign: of those that hold numbers at all. */
static bool have_one_sign(const struct column *c)
{
	bool below = true, above = true, any = false;
	for (unsigned k = 0; k < ST_REFIT_BLOCK; k++) {
		if (!c[k].any)
			continue;
		any = true;
		for (int w = 0; w < WEIGHTS; w++) {
			below &= c[k].most[w] < 0;
			above &= c[k].least[w] > 0;
		}
	}
	return any && (below || above);
}

enum st_status st_some_importances(const struct st_rows *fitted, const struct st_rows *original, const uint64_t *idx,
                                   uint64_t begin, uint64_t end, struct st_held via, struct st_pool *pool, bool *some,
                                   struct st_error *err)
{
	uint64_t cols = fitted->cols, lanes = st_pool_threads(pool);
	struct sums s = { .fitted = fitted,
		          .original = original,
		          .idx = idx,
		          .begin = begin,
		          .via = via,
		          .affine = st_refit_of(fitted->held.type) == ST_REFIT_AFFINE };
	struct room room;
	*some = true;
	if (end - begin > MOST_ROWS)
		return ST_OK;
	ST_TRY(make_room(lanes, cols, cols, sizeof *s.column, &room, err));
	s.buf = room.buf;
	s.column = room.sums;
	st_pool_each(pool, end - begin, cols * 16, add_rows, &s);
	for (uint64_t l = 1; l < lanes; l++)
		for (uint64_t k = 0; k < cols; k++) {
			const struct column *from = &s.column[l * cols + k];
			s.column[k].any |= from->any;
			for (int w = 0; w < WEIGHTS; w++) {
				s.column[k].least[w] += from->least[w];
				s.column[k].most[w] += from->most[w];
			}
		}
	for (uint64_t k = 0; k < cols && *some; k += ST_REFIT_BLOCK)
		*some = !have_one_sign(s.column + k);
	release_room(&room);
	return st_check_cancel(err);
}

/* ---- both sides refitted ---- */

struct block_column {
	uint64_t equal, rescaled; /* rows */
};

struct same {
	const struct st_rows *a, *b;
	const uint64_t *idx;
	struct st_held via;
	float *buf;
	struct block_column *column; /* [lanes, blocks of a row] */
};

static double step_of(const struct st_cells *c)
{
	double half = INFINITY;
	for (unsigned k = 0; k < ST_REFIT_BLOCK; k++)
		half = fmin(half, fmin(c->below[k], c->above[k]));
	return 2 * half;
}

static bool have_equal_codes(const struct st_cells *a, const struct st_cells *b)
{
	double step_a = step_of(a), step_b = step_of(b);
	if (!(step_a > 0 && step_b > 0 && isfinite(step_a) && isfinite(step_b)))
		return false;
	for (unsigned k = 0; k < ST_REFIT_BLOCK; k++)
		if (rint((double)a->value[k] / step_a) != rint((double)b->value[k] / step_b))
			return false;
	return true;
}

static bool are_equal(const struct st_cells *a, const struct st_cells *b)
{
	for (unsigned k = 0; k < ST_REFIT_BLOCK; k++)
		if (a->value[k] != b->value[k])
			return false;
	return true;
}

static void look_for_equals(void *ctx, unsigned lane, uint64_t begin, uint64_t end)
{
	const struct same *s = ctx;
	uint64_t cols = s->a->cols, blocks = cols / ST_REFIT_BLOCK;
	struct st_cells a, b;
	st_pair_cells(s->buf, lane, cols, &a, &b);
	for (uint64_t i = begin; i < end && !st_cancelled(); i++) {
		uint64_t r = s->idx ? s->idx[i] : i;
		st_pair_row(s->a, r, s->via, &a);
		st_pair_row(s->b, r, s->via, &b);
		for (uint64_t k = 0; k < blocks; k++) {
			struct st_cells x = st_cells_from(&a, k * ST_REFIT_BLOCK),
					y = st_cells_from(&b, k * ST_REFIT_BLOCK);
			struct block_column *c = &s->column[lane * blocks + k];
			struct st_fit f;
			if (are_equal(&x, &y)) {
				c->equal += st_cells_largest(&x, ST_REFIT_BLOCK) > 0;
				continue;
			}
			st_fit_elements(&x, &y, ST_REFIT_BLOCK, st_cells_largest(&y, ST_REFIT_BLOCK), &f);
			c->rescaled += f.outside && have_equal_codes(&x, &y);
		}
	}
}

enum st_status st_same_importances_fit(const struct st_rows *a, const struct st_rows *b, const uint64_t *idx,
                                       uint64_t n, struct st_held via, struct st_pool *pool, bool *fit,
                                       struct st_error *err)
{
	uint64_t lanes = st_pool_threads(pool), blocks = a->cols / ST_REFIT_BLOCK;
	struct same s = { .a = a, .b = b, .idx = idx, .via = via };
	struct room room;
	*fit = true;
	ST_TRY(make_room(lanes, a->cols, blocks, sizeof *s.column, &room, err));
	s.buf = room.buf;
	s.column = room.sums;
	st_pool_each(pool, n, a->cols * 8, look_for_equals, &s);
	for (uint64_t k = 0; k < blocks; k++) {
		struct block_column all = { 0 };
		for (uint64_t l = 0; l < lanes; l++) {
			all.equal += s.column[l * blocks + k].equal;
			all.rescaled += s.column[l * blocks + k].rescaled;
		}
		*fit &= !(all.equal > ST_REFIT_BLOCK && all.rescaled);
	}
	release_room(&room);
	return st_check_cancel(err);
}
