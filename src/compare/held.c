/*
 * held.c - which type the numbers of a tensor came from.
 *
 * A file that was rounded to BF16 once and written as F32 later errs as BF16 does, and one that went through Q4_K
 * errs as Q4_K does whatever it is stored in now. The label says what the numbers could hold; the numbers say what
 * they do hold. Numbers out of blocks lie on a grid in every block: a step times a whole number, and for some types
 * an offset. They are looked for there, as exactly as the present type leaves them.
 */
#include "base/error.h"
#include "base/mem.h"
#include "compare/cells.h"
#include "compare/held.h"
#include "compare/noise.h"
#include "dtype/geometry.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define ROWS 64 /* looked at for grids, spread evenly */
#define LARGEST_BLOCK 32
#define MOST 0.95          /* of the blocks that say something: a few may hold what was repaired later */
#define FEWEST 16          /* such blocks */
#define MOST_NUMBERS 0.995 /* of a tensor with one step */
#define MOST_OPEN 0.4      /* of that step is what the present type may have lost: four in five would pass by chance */

/*
 * The types of grids, coarsest first: a coarse grid is a fine one as well. Q4_1 and Q5_1 have the grids of Q4_K and Q5_K
 * and nearly their error. They stand for these, since scales may have been refitted.
 */
static const enum st_dtype grid_types[] = {
	ST_DTYPE_Q2_K, ST_DTYPE_Q3_K, ST_DTYPE_Q4_0, ST_DTYPE_Q4_1,
	ST_DTYPE_Q5_0, ST_DTYPE_Q5_1, ST_DTYPE_Q6_K, ST_DTYPE_Q8_0,
};

struct st_held_grid st_held_grid_of(enum st_dtype t)
{
	const struct st_geometry *g = st_dtype_geometry(t);
	unsigned steps = (unsigned)st_geometry_largest_level(g);
	return (struct st_held_grid){ t, g->sub, steps, (steps + 1) / 2, g->m_at >= 0 };
}

static int by_size(const void *x, const void *y)
{
	float a = fabsf(*(const float *)x), b = fabsf(*(const float *)y);
	return (a > b) - (a < b);
}

/* How far a number of the present type may be from what it was: nearly the largest rounding error. */
struct slack {
	double absolute, relative;
};

/* Of n elements from `at` on in a row of `cols`. */
static struct slack slack_of(const struct st_tensor *t, const float *row, uint64_t cols, uint64_t at, size_t n)
{
	double v[ST_NOISE_BLOCKS], rel = st_dtype_info(t->dtype)->storage_rel_rms, largest = 0;
	if (st_dtype_info(t->dtype)->kind
	    == ST_KIND_FLOAT) /* half an ulp is up to 2.35 times its RMS, and f32 arithmetic made the number */
		return (struct slack){ t->dtype == ST_DTYPE_F16 ? 0x1p-25 : 0, 2.4 * rel + ST_NOISE_F32_REL };
	uint64_t group = st_noise_group(t->dtype), block = st_noise_block(t->dtype), first = at / group * group;
	st_noise_variances(t, row + first, (size_t)(cols - first < group ? cols - first : group), v);
	for (uint64_t b = (at - first) / block; b <= (at - first + n - 1) / block && b * block < group; b++)
		largest = fmax(largest, v[b]);
	return (struct slack){ 1.9 * sqrt(largest), ST_NOISE_F32_REL }; /* half a step is 1.73 times its RMS */
}

enum fit { OFF_GRID, OPEN, ON_GRID };

/* Whether x is a whole number of steps; where the slack leaves that open, nothing is told. The step is fitted, so there
 * is some error in it. */
static bool near_grid(double x, double step, double slack, size_t *told)
{
	if (3.6 * slack > step)
		return true;
	++*told;
	return fabs(x - step * round(x / step)) <= 1.3 * slack;
}

/* x[] ascending in magnitude, all of them whole multiples of one step, the largest `k` times it? */
static enum fit fits_steps(const float *x, size_t n, unsigned k, struct slack s)
{
	double step = fabsf(x[n - 1]) / k, xq = 0, qq = 0;
	/* The small ones are known for sure, and make the step better known for the larger ones. */
	for (size_t i = 0; i < n; i++) {
		double q = round(x[i] / step);
		xq += x[i] * q;
		qq += q * q;
		if (qq > 0)
			step = xq / qq;
	}
	/* Small numbers that are half a step of the largest's have made it half as wide: more steps than the type has. */
	if (fabsf(x[n - 1]) > 1.25 * k * step)
		return OFF_GRID;
	size_t told = 0;
	for (size_t i = 0; i < n; i++)
		if (!near_grid(x[i], step, s.absolute + s.relative * fabsf(x[i]), &told))
			return OFF_GRID;
	return 2 * told >= n ? ON_GRID : OPEN;
}

/* The same with an offset: the smallest number is 0 steps and the largest k. */
static enum fit fits_offset(const float *x, size_t n, unsigned k, float least, float most, struct slack s)
{
	double step = ((double)most - least) / k, offset = least, size = fmax(fabsf(least), fabsf(most));
	double sq = 0, sqq = 0, sx = 0, sxq = 0;
	for (size_t i = 0; i < n; i++) {
		double q = round((x[i] - offset) / step);
		sq += q;
		sqq += q * q;
		sx += x[i];
		sxq += x[i] * q;
	}
	step = ((double)n * sxq - sq * sx) / ((double)n * sqq - sq * sq);
	offset = (sx - step * sq) / (double)n;
	/* The rounding of the larger product is that of the difference, and of the offset that was fitted. */
	double slack = s.absolute + (ST_NOISE_F32_REL + 0.5 * s.relative) * size;
	size_t told = 0;
	for (size_t i = 0; i < n; i++)
		if (!near_grid(x[i] - offset, step, slack + s.relative * fabsf(x[i]), &told))
			return OFF_GRID;
	return 2 * told >= n ? ON_GRID : OPEN;
}

/* Fewer than 3 magnitudes lie on any grid. */
static enum fit fits_block(const struct st_held_grid *g, const float *block, struct slack s)
{
	float x[LARGEST_BLOCK], least = block[0], most = block[0];
	memcpy(x, block, g->block * sizeof *x);
	for (size_t i = 0; i < g->block; i++) {
		least = x[i] < least ? x[i] : least;
		most = x[i] > most ? x[i] : most;
		if (!isfinite(x[i]))
			return OFF_GRID;
	}
	qsort(x, g->block, sizeof *x, by_size);
	unsigned kinds = 1;
	for (size_t i = 1; i < g->block; i++)
		kinds += fabsf(x[i]) > fabsf(x[i - 1]);
	if (kinds < 3 || !(most > least))
		return OPEN;
	enum fit best = OFF_GRID;
	for (unsigned k = g->steps; k >= g->fewest && best != ON_GRID; k--) {
		enum fit f = g->offset ? fits_offset(x, g->block, k, least, most, s) : fits_steps(x, g->block, k, s);
		best = f > best ? f : best;
	}
	return best;
}

static bool fits_grid(const struct st_tensor *t, const struct st_held_grid *g, float *row)
{
	uint64_t cols = st_tensor_cols(t), rows = st_tensor_rows(t), n = rows < ROWS ? rows : ROWS, on = 0, off = 0;
	if (cols % st_dtype_info(g->type)->block_elems)
		return false;
	for (uint64_t i = 0; i < n; i++) {
		st_tensor_decode(t, i * rows / n, 1, row);
		for (uint64_t k = 0; k < cols; k += g->block) {
			enum fit fit = fits_block(g, row + k, slack_of(t, row, cols, k, g->block));
			on += fit == ON_GRID;
			off += fit == OFF_GRID;
		}
		if (off > FEWEST && off > on)
			return false;
	}
	return on >= FEWEST && (double)on >= MOST * (double)(on + off);
}

/* Stored in the order of the file: blocks end where rows do, and a permutation of rows changes nothing. */
static bool fits_floats(const struct st_tensor *t, enum st_dtype as, float *row, float *back, uint8_t *bytes)
{
	const struct st_dtype_info *info = st_dtype_info(as);
	uint64_t cols = st_tensor_cols(t), rows = st_tensor_rows(t);
	for (uint64_t r = 0; r < rows; r++) {
		st_tensor_decode(t, r, 1, row);
		info->encode(row, bytes, (size_t)cols);
		info->decode(bytes, back, (size_t)cols);
		if (memcmp(row, back, cols * sizeof *row) != 0)
			return false;
	}
	return true;
}

/*
 * AprQ8: one step for the whole tensor, the largest magnitude 127 times it. Numbers of a few steps are known for sure
 * and tell the step more exactly than the largest does, which may have been rounded since.
 */
static bool fits_one_step(const struct st_tensor *t, float *row, struct st_held *held)
{
	enum { LARGEST = 127, SURE = 16 };
	const struct st_weight w = { .tensor = t, .heads = 1, .layer = -1 };
	uint64_t cols = st_tensor_cols(t), rows = st_tensor_rows(t), n = rows < ROWS ? rows : ROWS, told = 0, near = 0;
	double most = 0, xq = 0, qq = 0;
	for (uint64_t r = 0; r < rows; r++) {
		st_tensor_decode(t, r, 1, row);
		for (uint64_t k = 0; k < cols; k++)
			most = fmax(most, fabsf(row[k]));
	}
	double step = most / LARGEST;
	if (!(step > 0) || !isfinite(most))
		return false;
	/* The small ones first; with the step that they give the others are sure as well, and they tell it better. */
	for (int sure = SURE; sure <= LARGEST; sure += LARGEST - SURE) {
		xq = qq = 0;
		for (uint64_t i = 0; i < n; i++) {
			st_tensor_decode(t, i * rows / n, 1, row);
			for (uint64_t k = 0; k < cols; k++) {
				double q = round(row[k] / step);
				if (fabs(q) <= sure) {
					xq += row[k] * q;
					qq += q * q;
				}
			}
		}
		if (!(qq > 0))
			return false;
		step = xq / qq;
	}
	const struct st_cells c = { row, row + cols, row + 2 * cols, row + 3 * cols, NULL };
	for (uint64_t i = 0; i < n; i++) {
		st_weight_cells(&w, st_held_own(t), i * rows / n, &c);
		for (uint64_t k = 0; k < cols; k++) {
			/* Within this a number counts as a whole number of steps: half a step of the present type. A
			 * share of 2 own / step of numbers lies so near by chance. */
			double own = c.slack[k] + fmin(c.below[k], c.above[k]);
			if (row[k] == 0 || !(own < MOST_OPEN * step))
				continue;
			told++;
			/* The step is fitted, so there is some error in it. */
			double fitted = 3 * own / sqrt(qq) * fabs(row[k]) / step;
			near += fabs(row[k] - step * round(row[k] / step))
			     <= own + fitted + ST_CELLS_F32 * fabsf(row[k]);
		}
	}
	if (told < FEWEST * LARGEST_BLOCK || (double)near < MOST_NUMBERS * (double)told)
		return false;
	*held = (struct st_held){ ST_DTYPE_APR_Q8, (float)step };
	return true;
}

struct st_held st_held_own(const struct st_tensor *t) { return (struct st_held){ t->dtype, t->scale }; }

static bool is_coarser(enum st_dtype type, const struct st_tensor *t)
{
	return st_dtype_info(type)->storage_rel_rms > 2 * st_dtype_info(t->dtype)->storage_rel_rms;
}

enum st_status st_held_type(const struct st_tensor *t, struct st_held *held, struct st_error *err)
{
	*held = st_held_own(t);
	if (st_dtype_info(t->dtype)->kind == ST_KIND_INT)
		return ST_OK;
	uint64_t cols = st_tensor_cols(t);
	float *row = st_alloc_array2(4, cols, sizeof *row);
	uint8_t *bytes = st_alloc_array(cols, sizeof(float));
	enum st_status st = ST_OK;
	if (!row || !bytes) {
		st = st_fail(err, ST_ERR_NOMEM, "out of memory");
		goto out;
	}
	/* Where one step serves all, small numbers are few steps, and would pass for a coarser type's. */
	if (t->ndim == 2 && st_dtype_info(t->dtype)->storage_rel_rms < st_dtype_info(ST_DTYPE_APR_Q8)->storage_rel_rms
	    && fits_one_step(t, row, held))
		goto out;
	for (size_t i = 0; t->ndim == 2 && i < sizeof grid_types / sizeof *grid_types; i++) {
		struct st_held_grid g = st_held_grid_of(grid_types[i]);
		if (is_coarser(g.type, t) && fits_grid(t, &g, row)) {
			held->type = g.type;
			goto out;
		}
	}
	if ((t->dtype == ST_DTYPE_F32 || t->dtype == ST_DTYPE_F16)
	    && fits_floats(t, ST_DTYPE_BF16, row, row + cols, bytes))
		held->type = ST_DTYPE_BF16;
	else if (t->dtype == ST_DTYPE_F32 && fits_floats(t, ST_DTYPE_F16, row, row + cols, bytes))
		held->type = ST_DTYPE_F16;
out:
	free(row);
	free(bytes);
	return st;
}
