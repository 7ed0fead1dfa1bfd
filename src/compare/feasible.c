/* feasible.c - do the cells of two rows meet? */
#include "compare/feasible.h"

#include "base/levels.h"

#include <float.h>
#include <math.h>
#include <string.h>

enum st_refit st_refit_of(enum st_dtype t)
{
	return t == ST_DTYPE_Q4_0 || t == ST_DTYPE_Q5_0 ? ST_REFIT_SCALE
	     : t == ST_DTYPE_Q4_1 || t == ST_DTYPE_Q5_1 ? ST_REFIT_AFFINE
	                                                : ST_REFIT_NONE;
}

/* What one element says: d = a - b, the sum of the half cells that face each other, and what may come on top. */
struct element {
	float d, room, slack, mean;
};

static inline struct element element_of(const struct st_cells *a, const struct st_cells *b, uint64_t i, float rms)
{
	float d = a->value[i] - b->value[i], own = a->slack[i] + b->slack[i];
	float size = 0.5f * fabsf(a->value[i]) + 0.5f * fabsf(b->value[i]) + rms; /* in either order the same */
	float room = d > 0 ? a->below[i] + b->above[i] : a->above[i] + b->below[i];
	return (struct element){ fabsf(d), room, own + ST_CELLS_F32 * size, own + ST_CELLS_F32_MEAN * size };
}

/* ---- blocks whose scale was refitted ---- */

/*
 * Least squares under any weights puts the scale between the smallest and the largest x / code. A code of 1 stands for
 * numbers from 0.5 to 1.5 scales, so the scale is at most twice as small as the one that the codes were chosen under.
 */
#define FURTHEST 2.0

/*
 * Is there a q > 0 (and for affine types a p) that moves every cell of a, [lo, hi] to q [lo, hi] + p, to meet b's? All
 * are linear conditions; with two unknowns p is taken out by comparing every pair of them. q[0], q[1]: the least and
 * the most.
 */
static bool some_scale_fits(const double *lo, const double *hi, const double *xl, const double *xh, unsigned n,
                            bool affine, double furthest, double q[2])
{
	double least = 1 / furthest, most = furthest;
	for (unsigned i = 0; i < n; i++) {
		/* q lo_i + p <= xh_i  and  q hi_j + p >= xl_j  */
		for (unsigned j = affine ? 0 : n; j < n; j++) {
			double c = lo[i] - hi[j], r = xh[i] - xl[j];
			if (!(fabs(c) <= DBL_MAX) || !(fabs(r) <= DBL_MAX))
				continue;
			if (c > 0)
				most = fmin(most, r / c);
			else if (c < 0)
				least = fmax(least, r / c);
			else if (r < 0)
				return false;
		}
		if (affine && least > most)
			return false;
		if (affine)
			continue;
		if (fabs(lo[i]) <= DBL_MAX && fabs(xh[i]) <= DBL_MAX) {
			if (lo[i] > 0)
				most = fmin(most, xh[i] / lo[i]);
			else if (lo[i] < 0)
				least = fmax(least, xh[i] / lo[i]);
			else if (xh[i] < 0)
				return false;
		}
		if (fabs(hi[i]) <= DBL_MAX && fabs(xl[i]) <= DBL_MAX) {
			if (hi[i] > 0)
				least = fmax(least, xl[i] / hi[i]);
			else if (hi[i] < 0)
				most = fmin(most, xl[i] / hi[i]);
			else if (xl[i] > 0)
				return false;
		}
	}
	q[0] = least;
	q[1] = most;
	return least <= most;
}

/*
 * Whether the scale (for affine types the line) can be a least-squares fit under some weights. It cannot where another
 * one comes nearer to all elements at once. Such a one exists where size tells the elements that may lie beyond their
 * number from those that may lie short of it.
 */
static bool is_a_best_fit(const double *y, const double *slack, const double *xl, const double *xh, unsigned n,
                          bool affine)
{
	double most_over = -INFINITY, least_over = INFINITY, most_under = -INFINITY, least_under = INFINITY;
	bool any_over = false, any_under = false;
	for (unsigned i = 0; i < n; i++) {
		bool over = xh[i] >= y[i] - slack[i], under = xl[i] <= y[i] + slack[i];
		if (!affine && y[i] == 0)
			continue;
		if (!affine && y[i] < 0) {
			bool swap = over;
			over = under;
			under = swap;
		}
		any_over |= over;
		any_under |= under;
		if (over) {
			most_over = fmax(most_over, y[i]);
			least_over = fmin(least_over, y[i]);
		}
		if (under) {
			most_under = fmax(most_under, y[i]);
			least_under = fmin(least_under, y[i]);
		}
	}
	return any_over && any_under && (!affine || (most_over >= least_under && most_under >= least_over));
}

/*
 * Whether a block of a is what an encoder that refits its scale could have made of b. Where b was refitted as well, its
 * numbers are not those that a's scale was fitted to.
 */
static bool is_refitted(const struct st_cells *a, const struct st_cells *b, uint64_t from, float rms, bool affine,
                        bool both, double q[2])
{
	const unsigned n = ST_REFIT_BLOCK;
	double lo[ST_REFIT_BLOCK], hi[ST_REFIT_BLOCK], xl[ST_REFIT_BLOCK], xh[ST_REFIT_BLOCK], y[ST_REFIT_BLOCK],
		slack[ST_REFIT_BLOCK];
	for (unsigned k = 0; k < n; k++) {
		uint64_t i = from + k;
		double v = b->value[i], extra = (double)b->slack[i] + ST_CELLS_F32 * (fabsf(b->value[i]) + rms);
		y[k] = a->value[i];
		slack[k] = a->slack[i] + (affine ? ST_NEARLY_MET * 2.0 * fminf(a->below[i], a->above[i]) : 0);
		lo[k] = y[k] - a->below[i] - a->slack[i];
		hi[k] = y[k] + a->above[i] + a->slack[i];
		xl[k] = v - b->below[i] - extra;
		xh[k] = v + b->above[i] + extra;
	}
	/* With a minimum beside it, two elements of importance may put the scale anywhere. */
	double furthest = affine ? INFINITY : both ? FURTHEST * FURTHEST : FURTHEST;
	return some_scale_fits(lo, hi, xl, xh, n, affine, furthest, q)
	    && (both || is_a_best_fit(y, slack, xl, xh, n, affine));
}

/* ---- rows ---- */

static bool last_bit_is_even(float x, const struct st_cells *c, uint64_t i)
{
	/* A unit is twice the half cell away from zero. */
	double unit = 2.0 * (x > 0 ? c->above[i] : c->below[i]);
	return unit > 0 && isfinite(unit) && fmod(fabs(x) / unit, 2) == 0;
}

/*
 * Where cells touch, in the sum of their halves. Two cells with nothing but an end in common have no original between
 * them. A number that is known exactly may lie on the very edge of the other's cell: a tie was rounded there.
 */
static inline float edge_of(float width_a, float width_b)
{
	return ((width_a > 0) & (width_b > 0)) ? 1 - 0x1p-20f : 1 + 0x1p-20f;
}

/* The elements at the edge of their cells or beyond. */
static void find_near(const struct st_cells *a, const struct st_cells *b, uint64_t from, uint64_t end, float rms,
                      struct st_fit *f)
{
	for (uint64_t i = from; i < end; i++) {
		struct element e = element_of(a, b, i, rms);
		float edge = edge_of(a->below[i] + a->above[i], b->below[i] + b->above[i]);
		if (!(e.d > 0 && e.d >= e.room * edge && e.d <= FLT_MAX && e.room <= FLT_MAX))
			continue;
		if (e.d > e.room + e.slack) {
			f->outside++;
			f->worst = fmax(f->worst, (double)e.d / (e.room + e.slack));
		} else {
			f->touching++;
			f->even_a += last_bit_is_even(a->value[i], a, i);
			f->even_b += last_bit_is_even(b->value[i], b, i);
		}
	}
}

/* What a row says in general. */
struct overview {
	uint64_t outside, near; /* near: at the edge of the cells or beyond */
	uint64_t judged;
	double expected;
};

#define LANES ST_LANES
#define PIECE 256 /* elements at once */

/* The elements from `from` on, at most PIECE of them: loops over plain arrays. */
ST_LEVELS static void look(const struct st_cells *a, const struct st_cells *b, uint64_t from, uint64_t end, float rms,
                           struct overview *o)
{
	const float *restrict x = a->value + from, *restrict y = b->value + from;
	const float *restrict xd = a->below + from, *restrict yd = b->below + from;
	const float *restrict xu = a->above + from, *restrict yu = b->above + from;
	const float *restrict xs = a->slack + from, *restrict ys = b->slack + from;
	uint64_t n = end - from;
	float share[PIECE + LANES];
	st_f32x8 sum = { 0 }, v;
	int32_t outside = 0, near = 0, judged = 0;
	for (uint64_t i = 0; i < n; i++) {
		float d = x[i] - y[i], own = xs[i] + ys[i], size = 0.5f * fabsf(x[i]) + 0.5f * fabsf(y[i]) + rms;
		float over = xd[i] + yu[i], under = xu[i] + yd[i], room = d > 0 ? over : under, apart = fabsf(d);
		float mean = own + ST_CELLS_F32_MEAN * size;
		int32_t known = (apart <= FLT_MAX) & (room <= FLT_MAX);
		judged += known;
		outside += known & (apart > room + (own + ST_CELLS_F32 * size));
		near += known & (apart > 0) & (apart >= room * edge_of(xd[i] + xu[i], yd[i] + yu[i]));
		float part = mean < room ? mean : room, most = room > 0 ? room : 1;
		part = room > 0 ? part : 1;
		part /= most;
		/* Zeros that stayed zeros went through no arithmetic; through a coarser type they may have. */
		share[i] = known & ((x[i] != 0) | (y[i] != 0) | (own > 0)) ? part : 0;
	}
	memset(share + n, 0, LANES * sizeof *share);
	for (uint64_t i = 0; i < n; i += LANES) {
		memcpy(&v, share + i, sizeof v);
		sum += v;
	}
	for (size_t l = 0; l < LANES; l++)
		o->expected += (double)sum[l];
	o->outside += (uint64_t)outside;
	o->near += (uint64_t)near;
	o->judged += (uint64_t)judged;
}

/* All of them, piece by piece; in pieces where some are near these are looked at. */
static void look_at_all(const struct st_cells *a, const struct st_cells *b, uint64_t n, float rms, struct st_fit *f)
{
	struct overview o = { 0 };
	for (uint64_t i = 0; i < n; i += PIECE) {
		uint64_t end = n - i < PIECE ? n : i + PIECE, before = o.near;
		look(a, b, i, end, rms, &o);
		if (o.near > before)
			find_near(a, b, i, end, rms, f);
	}
	f->judged = o.judged;
	f->expected = o.expected;
}

void st_fit_elements(const struct st_cells *a, const struct st_cells *b, uint64_t n, float rms, struct st_fit *f)
{
	*f = (struct st_fit){ 0 };
	look_at_all(a, b, n, rms, f);
}

/* The same block by block; what a refitted scale explains is no fault. */
static void look_at_blocks(const struct st_cells *a, const struct st_cells *b, uint64_t n, enum st_refit refit_a,
                           enum st_refit refit_b, float rms, struct st_fit *f)
{
	const struct st_cells *moved = refit_a ? a : b, *fixed = refit_a ? b : a;
	bool affine = refit_a == ST_REFIT_AFFINE || refit_b == ST_REFIT_AFFINE;
	for (uint64_t from = 0; from < n; from += ST_REFIT_BLOCK) {
		struct overview block = { 0 };
		double q[2]; /* times the scale that is stored: the one that the codes were chosen under */
		look(a, b, from, from + ST_REFIT_BLOCK, rms, &block);
		f->judged += block.judged;
		if (block.outside && is_refitted(moved, fixed, from, rms, affine, refit_a && refit_b, q)) {
			f->refitted++;
			f->stretched += q[1] < 1;
			f->shrunk += q[0] > 1;
			f->excused += block.outside;
		} else {
			f->expected += block.expected;
			if (block.near)
				find_near(a, b, from, from + ST_REFIT_BLOCK, rms, f);
		}
	}
}

void st_fit_row(const struct st_cells *a, const struct st_cells *b, uint64_t n, enum st_refit refit_a,
                enum st_refit refit_b, float rms, struct st_fit *f)
{
	uint64_t blocks = refit_a || refit_b ? n / ST_REFIT_BLOCK : 0;
	st_fit_elements(a, b, n, rms, f);
	if (f->outside && blocks && n % ST_REFIT_BLOCK == 0) {
		*f = (struct st_fit){ 0 };
		look_at_blocks(a, b, n, refit_a, refit_b, rms, f);
	}
	f->blocks = blocks;
}

void st_fit_add(struct st_fit *t, const struct st_fit *f)
{
	t->judged += f->judged;
	t->outside += f->outside;
	t->worst = fmax(t->worst, f->worst);
	t->touching += f->touching;
	t->expected += f->expected;
	t->even_a += f->even_a;
	t->even_b += f->even_b;
	t->blocks += f->blocks;
	t->refitted += f->refitted;
	t->stretched += f->stretched;
	t->shrunk += f->shrunk;
	t->excused += f->excused;
}

bool st_fit_touches_too_often(const struct st_fit *f)
{
	return (double)f->touching > f->expected + 8 * sqrt(f->expected) + 5;
}

bool st_fit_is_noise(const struct st_fit *f) { return f->outside == 0 && !st_fit_touches_too_often(f); }
