/*
 * weight_columns.c - columns of a matrix, or elements of a vector, that are wrong by themselves.
 *
 * One input channel that was zeroed, scaled or overwritten is a small part of every row, and no row need stand out for
 * it in a coarse type. Down the column it is all there is, so a few hundred rows are enough to see it.
 */
#include "compare/weight_trial.h"
#include "compare/noise.h"

#include <math.h>
#include <stdlib.h>

#define ROWS 256 /* looked at, spread evenly */
/*
 * Above the worst that sound storage does to one column: where all of its elements fall on the end of the code that
 * clips, and an encoder holds it for unimportant and clips it further, its error is up to 6 times the expected one.
 */
#define COLUMN_FACTOR 8.0
#define FEWEST_ROWS 8 /* of a matrix: with fewer, rows say all there is */
#define TOUCHED 0.65  /* of a wrong column's elements are beyond their expected error; noise is so in one of three */
#define BLOCK 32

/* What one column says. */
struct column {
	double aa, ab, bb, dd, pred;
	uint64_t n, beyond; /* finite elements, and those beyond their expected error */
	bool bad;
};

struct columns {
	struct column *c;
	uint64_t n_bad, first, last;
};

/* Expected variance of each element of a row. */
static void predict(const struct st_tensor *t, const float *row, uint64_t n, double *out)
{
	uint64_t size = st_noise_block(t->dtype), group = st_noise_group(t->dtype);
	double v[ST_NOISE_BLOCKS];
	for (uint64_t i = 0; i < n; i += group) {
		uint64_t len = n - i < group ? n - i : group;
		st_noise_variances(t, row + i, (size_t)len, v);
		for (uint64_t j = 0; j < len; j++)
			out[i + j] += v[j / size];
	}
}

static void add_row(struct column *c, const float *x, const float *y, const double *pred, uint64_t cols)
{
	for (uint64_t i = 0; i < cols; i++) {
		double a = x[i], b = y[i], d = a - b;
		if (!isfinite(d))
			continue;
		c[i].aa += a * a;
		c[i].ab += a * b;
		c[i].bb += b * b;
		c[i].dd += d * d;
		c[i].pred += pred[i];
		c[i].n++;
		c[i].beyond += d * d > pred[i];
	}
}

/*
 * What f32 arithmetic on the way to a weight leaves is in proportion to the terms of a sum, not to what a small column
 * or element came out as: its share is taken of the mean over all columns.
 */
static void mark_bad(struct columns *s, uint64_t cols)
{
	double bb = 0, n = 0;
	for (uint64_t i = 0; i < cols; i++) {
		bb += s->c[i].bb;
		n += (double)s->c[i].n;
	}
	double least = n > 0 ? ST_NOISE_F32_REL * ST_NOISE_F32_REL * bb / n : 0;
	for (uint64_t i = 0; i < cols; i++) {
		struct column *c = &s->c[i];
		c->bad = c->dd > COLUMN_FACTOR * COLUMN_FACTOR * (c->pred + least * (double)c->n);
		if (!c->bad)
			continue;
		if (!s->n_bad++)
			s->first = i;
		s->last = i;
	}
}

/* Blocks that begin anywhere in a row say nothing of its columns. */
static bool out_of_step(const struct st_tensor *t)
{
	return t->layout == ST_LAYOUT_FLAT && st_tensor_cols(t) % st_noise_group(t->dtype) != 0;
}

static enum st_status measure(const struct st_rows *a, const struct st_rows *b, struct st_arena *arena,
                              struct columns *s, struct st_error *err)
{
	uint64_t cols = a->cols, n = a->rows < ROWS ? a->rows : ROWS;
	bool blocks = st_noise_block(a->type->dtype) > 1 || st_noise_block(b->type->dtype) > 1;
	*s = (struct columns){ .c = st_arena_alloc(arena, cols, sizeof *s->c) };
	float *x = st_arena_alloc(arena, cols, sizeof *x), *y = st_arena_alloc(arena, cols, sizeof *y);
	double *pred = st_arena_alloc(arena, cols, sizeof *pred);
	if (!s->c || !x || !y || !pred)
		return st_fail(err, ST_ERR_NOMEM, "out of memory");
	for (uint64_t i = 0; i < cols; i++)
		s->c[i] = (struct column){ .n = 0 };
	if ((a->rows < FEWEST_ROWS && (a->rows > 1 || blocks)) || out_of_step(a->type) || out_of_step(b->type))
		return ST_OK;
	for (uint64_t i = 0; i < n; i++) {
		a->get(a, i * a->rows / n, x);
		b->get(b, i * a->rows / n, y);
		for (uint64_t j = 0; j < cols; j++)
			pred[j] = 0;
		predict(a->type, x, cols, pred);
		predict(b->type, y, cols, pred);
		add_row(s->c, x, y, pred, cols);
	}
	mark_bad(s, cols);
	return ST_OK;
}

enum st_status st_columns_are_noise(const struct st_rows *a, const struct st_rows *b, bool *noise, struct st_error *err)
{
	struct st_arena arena;
	struct columns s;
	st_arena_init(&arena);
	enum st_status st = measure(a, b, &arena, &s, err);
	*noise = st == ST_OK && s.n_bad == 0;
	st_arena_release(&arena);
	return st;
}

/* Row r with each column multiplied by its factor, or taken from the other side where that is NaN. */
static void get_columns(const struct st_rows *s, uint64_t r, float *dst)
{
	float *x = malloc(s->cols * sizeof *x);
	if (!x) { /* fits nothing, so nothing is claimed */
		for (uint64_t i = 0; i < s->cols; i++)
			dst[i] = 0;
		return;
	}
	s->other->get(s->other, r, x);
	st_weight_decode(s->w, r, 1, dst);
	for (uint64_t i = 0; i < s->cols; i++)
		dst[i] = isnan(s->factors[i]) ? x[i] : (float)(s->factors[i] * dst[i]);
	free(x);
}

/*
 * Whole blocks with one factor for all of their columns: wrong scales, which have a test of their own. Not every column
 * of such a block need stand out.
 */
static bool are_blocks(const struct columns *s, uint64_t cols)
{
	for (uint64_t i = s->first / BLOCK * BLOCK; i <= s->last; i += BLOCK) {
		uint64_t end = cols - i < BLOCK ? cols : i + BLOCK;
		double aa = 0, ab = 0, bb = 0, dd = 0, pred = 0;
		bool touched = false;
		for (uint64_t j = i; j < end; j++) {
			const struct column *c = &s->c[j];
			touched |= c->bad;
			aa += c->aa;
			ab += c->ab;
			bb += c->bb;
			dd += c->dd;
			pred += c->pred;
		}
		if (!touched)
			continue;
		double gain = bb > 0 ? ab / bb : 0, left = aa - 2 * gain * ab + gain * gain * bb;
		/* A column that is wrong alone is beyond COLUMN_FACTOR^2, twice BLOCK, times its own noise. */
		if (gain < 0.1 || left > 0.05 * dd + 2 * pred)
			return false;
	}
	return true;
}

/* The side whose wrong columns are far from the size of the others. Single elements of a vector are of any size. */
static char odd_side(const struct columns *s, uint64_t cols)
{
	double good = 0, a = 0, b = 0;
	for (uint64_t i = 0; i < cols; i++) {
		if (s->c[i].bad) {
			a += s->c[i].aa / (double)s->n_bad;
			b += s->c[i].bb / (double)s->n_bad;
		} else {
			good += s->c[i].bb / (double)(cols - s->n_bad);
		}
	}
	bool a_odd = a > 9 * good || 9 * a<good, b_odd = b> 9 * good || 9 * b < good;
	return a_odd && !b_odd ? 'a' : b_odd && !a_odd ? 'b' : 0;
}

enum st_status st_test_columns(struct st_trial *t)
{
	struct columns s;
	uint64_t cols = t->a->cols, beyond = 0, n = 0;
	ST_TRY(measure(t->a, t->b, &t->arena, &s, t->err));
	for (uint64_t i = 0; i < cols; i++) {
		beyond += s.c[i].bad ? s.c[i].beyond : 0;
		n += s.c[i].bad ? s.c[i].n : 0;
	}
	if (s.n_bad == 0 || (double)beyond < TOUCHED * (double)n || are_blocks(&s, cols))
		return ST_OK;
	double *factors = st_arena_alloc(&t->arena, cols, sizeof *factors);
	if (!factors)
		return st_fail(t->err, ST_ERR_NOMEM, "out of memory");
	/* A few, or many that lie together; else each may have a factor of its own. */
	bool together = s.last - s.first + 1 == s.n_bad, few = s.n_bad * 4 <= cols * (together ? 3 : 1);
	/* A factor near 0 would explain anything by taking it away. */
	bool may_scale = t->a->rows > 1;
	for (uint64_t i = 0; i < cols; i++)
		may_scale &= !s.c[i].bad || (s.c[i].ab != 0 && s.c[i].ab * s.c[i].ab >= 0.25 * s.c[i].aa * s.c[i].bb);
	for (int scaled = !few; scaled < (may_scale ? 2 : 1) && !t->done; scaled++) {
		for (uint64_t i = 0; i < cols; i++)
			factors[i] = !scaled ? s.c[i].bad ? NAN : 1 : s.c[i].bb > 0 ? s.c[i].ab / s.c[i].bb : 1;
		struct st_rows b = *t->b;
		b.get = get_columns;
		b.other = t->a;
		b.factors = factors;
		struct st_cause c = { .code = scaled ? st_scaled_code(t->d->slot->role) : ST_CAUSE_WEIGHT_ROW_CORRUPT };
		st_cause_put_text(&c, ST_PARAM_AXIS, "column");
		if (!scaled) {
			st_cause_put(&c, ST_PARAM_COLUMNS, (double)s.n_bad);
			st_cause_put(&c, ST_PARAM_FIRST_COLUMN, (double)s.first);
			st_cause_put(&c, ST_PARAM_LAST_COLUMN, (double)s.last);
		}
		ST_TRY(st_trial_consider(t, t->a, &b, c, scaled || t->a->rows == 1 ? 0 : odd_side(&s, cols), false));
	}
	return ST_OK;
}
