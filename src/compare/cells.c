/* cells.c - the cells of stored numbers, and what their past adds to them. */
#include "compare/cells.h"

#include "base/levels.h"
#include "compare/noise.h"
#include "dtype/geometry.h"
#include "dtype/half.h"
#include "graph/basis.h"
#include "graph/graph.h"

#include <float.h>
#include <math.h>
#include <string.h>

struct st_cells st_cells_from(const struct st_cells *c, uint64_t at)
{
	return c->below ? (struct st_cells){ c->value + at, c->below + at, c->above + at, c->slack + at, NULL }
	                : (struct st_cells){ .value = c->value + at };
}

/* Half a unit of a float type at x. */
static inline float half_unit(const struct st_geometry *g, float x)
{
	int e = (int)(st_f32_bits(x) >> 23 & 255) - 127, least = g->least_exponent;
	e = (e > least ? e : least) - g->fraction - 1;
	float half = st_bits_f32((uint32_t)(e + 127) << 23);
	return e < -126 ? 0 : half;
}

/* A few numbers, by insertion. */
static void sort(float *x, size_t n)
{
	for (size_t i = 1; i < n; i++) {
		float v = x[i];
		size_t k = i;
		for (; k > 0 && x[k - 1] > v; k--)
			x[k] = x[k - 1];
		x[k] = v;
	}
}

/* What tells two numbers of one block apart, as they are stored now, and the grid that they lie on. */
struct grid {
	float least, most;
	float same; /* numbers no further apart may have been one */
	float step; /* INFINITY: all may have been one */
};

/*
 * The grid of one block of numbers whose step is no longer stored. The step is the smallest distance between two
 * numbers that differ by more than the present type's own error: codes lie so close that two of them are neighbours.
 */
static struct grid grid_of(const struct st_cells *c, size_t n)
{
	float x[ST_BLOCK_MOST], own = 0;
	for (size_t i = 0; i < n; i++) {
		float near = fminf(c->below[i], c->above[i]);
		own = fmaxf(own, (isfinite(near) ? near : 0) + c->slack[i]);
		x[i] = c->value[i];
	}
	sort(x, n);
	struct grid g = { .least = x[0], .most = x[n - 1], .step = INFINITY };
	g.same = 2 * own + ST_CELLS_F32 * fmaxf(fabsf(g.least), fabsf(g.most));
	for (size_t i = 1; i < n; i++)
		if (x[i] - x[i - 1] > g.same)
			g.step = fminf(g.step, x[i] - x[i - 1]);
	return g;
}

/* The smallest and the largest number may have been clipped. */
static void widen_by_grid(const struct st_cells *c, size_t n)
{
	struct grid g = grid_of(c, n);
	/* Each of the two may have been moved towards the other. */
	float half = (g.step + g.same) / 2;
	for (size_t i = 0; i < n; i++) {
		c->below[i] = c->value[i] <= g.least + g.same ? INFINITY : c->below[i] + half;
		c->above[i] = c->value[i] >= g.most - g.same ? INFINITY : c->above[i] + half;
		/* The codes are older than the rounding of the block's scale to F16, of which the step that was found
		 * may be twice the one. */
		if (isfinite(half))
			c->slack[i] += (fabsf(c->value[i]) + half) * (0x1p-11f + 0x1p-24f / g.step);
	}
}

void st_cells_steps(struct st_held held, const struct st_cells *c, uint64_t n, float *step)
{
	const struct st_geometry *g = st_dtype_geometry(held.type);
	for (uint64_t i = 0; i < n && !g->sub; i++)
		step[i] = held.type == ST_DTYPE_APR_Q8 ? held.scale : 2 * half_unit(g, c->value[i]);
	for (uint64_t i = 0; i < n && g->sub; i += g->sub) {
		struct st_cells part = st_cells_from(c, i);
		uint64_t here = n - i < g->sub ? n - i : g->sub;
		struct grid of = grid_of(&part, (size_t)here);
		for (uint64_t k = 0; k < here; k++)
			step[i + k] = c->value[i + k] <= of.least + of.same || c->value[i + k] >= of.most - of.same
			                    ? INFINITY
			                    : of.step;
	}
}

static void widen_by_held(struct st_held held, const struct st_cells *c, uint64_t n)
{
	const struct st_geometry *g = st_dtype_geometry(held.type);
	if (held.type == ST_DTYPE_APR_Q8) {
		for (uint64_t i = 0; i < n; i++) {
			c->below[i] += held.scale / 2;
			c->above[i] += held.scale / 2;
		}
	} else if (g->sub) {
		for (uint64_t i = 0; i < n; i += g->sub) {
			struct st_cells part = st_cells_from(c, i);
			widen_by_grid(&part, (size_t)(n - i < g->sub ? n - i : g->sub));
		}
	} else { /* a float type that the wider one holds exactly */
		for (uint64_t i = 0; i < n; i++) {
			float h = half_unit(g, c->value[i]);
			bool power = (st_f32_bits(c->value[i]) & 0x7FFFFFu) == 0 && h > half_unit(g, 0);
			c->below[i] = power && c->value[i] > 0 ? h / 2 : h;
			c->above[i] = power && c->value[i] < 0 ? h / 2 : h;
		}
	}
}

/*
 * Add what a type with blocks of 32 may have lost of each number: half a step, which follows from the largest number of
 * the block. Q6_K has sub-blocks of 16, whose steps are stored in 8 bits and were rounded themselves.
 */
static void slack_by_blocks(enum st_dtype via, const struct st_cells *c, uint64_t n)
{
	const struct st_geometry *g = st_dtype_geometry(via);
	uint64_t all = (uint64_t)g->sub * g->n_sub;
	int level = st_geometry_largest_level(g);
	for (uint64_t from = 0; from < n; from += all) {
		uint64_t end = n - from < all ? n : from + all;
		float largest = 0;
		for (uint64_t i = from; i < end; i++)
			largest = fmaxf(largest, fabsf(c->value[i]));
		float rounded = g->n_sub > 1 ? largest * 0.5f / (float)g->scale_top : 0;
		for (uint64_t i = from; i < end; i += g->sub) {
			uint64_t stop = end - i < g->sub ? end : i + g->sub;
			float most = 0;
			for (uint64_t k = i; k < stop; k++)
				most = fmaxf(most, fabsf(c->value[k]) + fminf(c->below[k], c->above[k]));
			for (uint64_t k = i; k < stop; k++)
				c->slack[k] += 0.5f * most / (float)(level - 1) + rounded;
		}
	}
}

/* The unit at the far end of the cell. */
ST_LEVELS static void slack_by_floats(const struct st_geometry *g, const struct st_cells *c, uint64_t n)
{
	const float *restrict value = c->value, *restrict below = c->below, *restrict above = c->above;
	float *restrict slack = c->slack;
	for (uint64_t i = 0; i < n; i++)
		slack[i] += half_unit(g, fabsf(value[i]) + (below[i] < above[i] ? below[i] : above[i]) + slack[i]);
}

void st_cells_through(struct st_held via, const struct st_cells *c, uint64_t n)
{
	const struct st_geometry *g = st_dtype_geometry(via.type);
	if (g->sub)
		slack_by_blocks(via.type, c, n);
	else if (via.type != ST_DTYPE_APR_Q8)
		slack_by_floats(g, c, n);
	else
		for (uint64_t i = 0; i < n; i++)
			c->slack[i] += via.scale / 2;
}

/* Distances to the neighbours of floats become cells. */
ST_LEVELS static void halve_floats(const struct st_cells *c, uint64_t n)
{
	float *restrict below = c->below, *restrict above = c->above;
	for (uint64_t i = 0; i < n; i++) {
		float down = below[i], up = above[i];
		/* The largest float has a cell like its neighbours: what lies beyond becomes infinite. */
		below[i] = 0.5f * (down > FLT_MAX ? up : down);
		above[i] = 0.5f * (up > FLT_MAX ? down : up);
	}
}

ST_LEVELS static void halve_codes(const struct st_cells *c, uint64_t n)
{
	float *restrict below = c->below, *restrict above = c->above;
	for (uint64_t i = 0; i < n; i++) {
		below[i] *= 0.5f;
		above[i] *= 0.5f;
	}
}

/* Row r of the tensor as it is stored. */
static void tensor_cells(const struct st_tensor *t, struct st_held held, uint64_t r, const struct st_cells *c)
{
	struct st_elements e = { c->value, c->below, c->above, c->slack };
	uint64_t n = st_tensor_cols(t);
	st_tensor_elements(t, r, &e);
	if (st_dtype_info(t->dtype)->kind == ST_KIND_FLOAT)
		halve_floats(c, n);
	else
		halve_codes(c, n);
	if (held.type != t->dtype)
		widen_by_held(held, c, n);
}

void st_weight_cells(const struct st_weight *w, struct st_held held, uint64_t r, const struct st_cells *c)
{
	const struct st_tensor *t = w->tensor;
	if (!c->below) {
		st_weight_decode(w, r, 1, c->value);
		return;
	}
	uint64_t cols = st_weight_cols(w);
	if (st_tensor_rows(t) > 1) {
		tensor_cells(t, held, st_weight_stored_row(w, r), c);
	} else { /* of a bias the elements are the rows of its matrix */
		float *of[] = { c->value, c->below, c->above, c->slack };
		for (uint64_t i = 0; i < st_weight_pieces(w); i++) {
			struct st_tensor piece = st_weight_piece(w, i);
			struct st_cells part = st_cells_from(c, i * w->group_rows);
			tensor_cells(&piece, held, 0, &part);
		}
		for (size_t i = 0; i < 4 && w->interleaved; i++)
			st_weight_vector_to_half(w, of[i], cols);
	}
	/* What is stored is the logarithm: the cell is the derivative wide, which is the number. */
	for (uint64_t i = 0; w->neg_exp && i < cols; i++) {
		float y = (float)-st_exp((double)c->value[i]), size = fabsf(y), below = c->below[i],
		      above = c->above[i];
		c->value[i] = y;
		c->below[i] = size * above * 2; /* twice: the exponential bends */
		c->above[i] = size * below * 2;
		c->slack[i] = size * c->slack[i] + ST_CELLS_SUM * size;
	}
	/* What is stored is the number less one: its cell is as wide as that. */
	for (uint64_t i = 0; w->plus_one && i < cols; i++) {
		c->value[i] = 1 + c->value[i];
		c->slack[i] += ST_CELLS_SUM * fabsf(c->value[i]);
	}
}

#define LANES ST_LANES
#define PIECE 256 /* elements at once */

ST_LEVELS static void fold_largest(const float *restrict x, uint64_t n, float most[LANES])
{
	st_f32x8 top = { 0 };
	for (uint64_t i = 0; i + LANES <= n; i += LANES) {
		st_f32x8 v;
		memcpy(&v, x + i, sizeof v);
		v = (st_f32x8)((st_i32x8)v & INT32_MAX);
		st_i32x8 more = v > top; /* never for NaN */
		top = (st_f32x8)((more & (st_i32x8)v) | (~more & (st_i32x8)top));
	}
	memcpy(most, &top, sizeof top);
}

float st_cells_largest(const struct st_cells *c, uint64_t n)
{
	float most[LANES];
	fold_largest(c->value, n, most);
	for (uint64_t i = n / LANES * LANES; i < n; i++)
		most[0] = fabsf(c->value[i]) > most[0] ? fabsf(c->value[i]) : most[0];
	for (size_t l = 1; l < LANES; l++)
		most[0] = most[l] > most[0] ? most[l] : most[0];
	return most[0];
}

/* Twelve times the variance of each. An end code has half a cell that is known; a number without a scale has none. */
ST_LEVELS static void square_widths(const struct st_cells *c, uint64_t n, float *restrict square)
{
	const float *restrict value = c->value, *restrict below = c->below, *restrict above = c->above;
	for (uint64_t i = 0; i < n; i++) {
		float down = below[i], up = above[i], other = down <= FLT_MAX ? down : 0;
		down = down <= FLT_MAX ? down : up;
		up = up <= FLT_MAX ? up : other;
		float width = down <= FLT_MAX ? down + up : 0, arithmetic = ST_CELLS_F32_MEAN * value[i];
		float v = width * width + 12 * arithmetic * arithmetic;
		square[i] = v <= FLT_MAX ? v : 0;
	}
}

/* Add n numbers, a whole number of lanes. */
ST_LEVELS static void fold_sum(const float *x, uint64_t n, double sum[LANES])
{
	st_f64x4 low, high, v;
	memcpy(&low, sum, sizeof low);
	memcpy(&high, sum + 4, sizeof high);
	for (uint64_t i = 0; i < n; i += LANES) {
		st_widen4(x + i, &v);
		low += v;
		st_widen4(x + i + 4, &v);
		high += v;
	}
	memcpy(sum, &low, sizeof low);
	memcpy(sum + 4, &high, sizeof high);
}

double st_cells_variance(const struct st_cells *c, uint64_t n)
{
	float square[PIECE];
	double sum[LANES] = { 0 };
	for (uint64_t i = 0; i < n; i += PIECE) {
		struct st_cells part = st_cells_from(c, i);
		uint64_t here = n - i < PIECE ? n - i : PIECE, whole = here / LANES * LANES;
		square_widths(&part, here, square);
		fold_sum(square, whole, sum);
		for (uint64_t k = whole; k < here; k++)
			sum[0] += (double)square[k];
	}
	for (size_t l = 1; l < LANES; l++)
		sum[0] += sum[l];
	return sum[0] / 12;
}

void st_cells_exact(const struct st_cells *c, uint64_t n)
{
	for (uint64_t i = 0; i < n && c->below; i++)
		c->below[i] = c->above[i] = c->slack[i] = 0;
}
