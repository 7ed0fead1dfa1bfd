/*
 * weights.c - every weight of two models, by value.
 *
 * Equal bytes are recognised without decoding, at the speed of memory. What is left is
 * decoded row by row into the basis of the graph, so the order in which a file lists
 * dimensions, the order in which it stores Q and K rows, and the stored type itself are no
 * difference. Only what exceeds the predicted noise is handed to the tests of weight_trial.h.
 */
#include "arch/arch.h"
#include "arch/described.h"
#include "base/error.h"
#include "base/mem.h"
#include "base/pool.h"
#include "compare/match.h"
#include "compare/models.h"
#include "compare/noise.h"
#include "compare/weight_trial.h"

#include <math.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define PIECE ((uint64_t)1 << 20)

struct two_copies {
	const uint8_t *a, *b;
	uint64_t n_bytes;
	atomic_bool differ;
};

static void compare_pieces(void *ctx, unsigned lane, uint64_t begin, uint64_t end)
{
	struct two_copies *c = ctx;
	(void)lane;
	uint64_t at = begin * PIECE, stop = c->n_bytes / PIECE < end ? c->n_bytes : end * PIECE;
	for (; at < stop && !atomic_load_explicit(&c->differ, memory_order_relaxed); at += PIECE)
		if (memcmp(c->a + at, c->b + at, (size_t)(stop - at < PIECE ? stop - at : PIECE)) != 0)
			atomic_store_explicit(&c->differ, true, memory_order_relaxed);
}

static bool bytes_equal(const struct st_weight *a, const struct st_weight *b, struct st_pool *pool)
{
	const struct st_tensor *x = a->tensor, *y = b->tensor;
	if (x->dtype != y->dtype || x->layout != y->layout || x->layout == ST_LAYOUT_STRIDED
	    || x->layout == ST_LAYOUT_APART || x->n_bytes != y->n_bytes || x->scale != y->scale
	    || a->interleaved != b->interleaved || (a->interleaved && a->heads != b->heads)
	    || a->pair_dims != b->pair_dims || a->plus_one != b->plus_one || a->neg_exp != b->neg_exp
	    || a->group_rows != b->group_rows || a->group_from != b->group_from || a->group_of != b->group_of
	    || (x->layout == ST_LAYOUT_ROWS && x->row_bytes != y->row_bytes))
		return false;
	struct two_copies c = { .a = x->data, .b = y->data, .n_bytes = x->n_bytes };
	st_pool_run(pool, st_ceil_div(x->n_bytes, PIECE), 1, compare_pieces, &c);
	return !atomic_load(&c.differ);
}

static uint32_t bits_of(float x)
{
	uint32_t u;
	memcpy(&u, &x, sizeof u);
	return u;
}

/*
 * BF16 cut off instead of rounded is within the noise, and yet a converter's fault: every weight
 * comes out a little too small. Against a side with more bits it is decided bit by bit: the
 * sampled rows must all be the other side's truncated, and some elements not be its rounding.
 * Between two BF16 sides one is truncated when it is never the larger one, and one step smaller
 * about half of the time, whatever the first digits are: that is likely, since the original is not at hand. A factor
 * moves numbers with large digits more often.
 */
struct truncation {
	char side; /* 0: none */
	enum st_confidence confidence;
};

/* Of numbers from 1 to 1.25 times a power of two, and so on: how many moved. */
struct by_digits {
	uint64_t n[4], moved[4];
};

/* Under a factor the last quarter moves 1.67 times as often as the first. */
static bool follow_digits(const struct by_digits *d)
{
	double first = (double)d->moved[0] / (double)(d->n[0] ? d->n[0] : 1),
	       last = (double)d->moved[3] / (double)(d->n[3] ? d->n[3] : 1);
	return d->n[0] >= 256 && d->n[3] >= 256 && last > 1.3 * first;
}

static enum st_status find_truncation(const struct st_rows *a, const struct st_rows *b, struct truncation *out,
                                      struct st_error *err)
{
	*out = (struct truncation){ 0 };
	enum st_dtype ta = a->held.type, tb = b->held.type;
	bool both = ta == ST_DTYPE_BF16 && tb == ST_DTYPE_BF16;
	bool cut_a = ta == ST_DTYPE_BF16 && (tb == ST_DTYPE_F32 || tb == ST_DTYPE_F64);
	bool cut_b = tb == ST_DTYPE_BF16 && (ta == ST_DTYPE_F32 || ta == ST_DTYPE_F64);
	if (!both && !cut_a && !cut_b)
		return ST_OK;
	uint64_t n = a->rows < 64 ? a->rows : 64, seen = 0, below = 0, above = 0, lost = 0, other = 0;
	struct by_digits digits = { { 0 }, { 0 } };
	float *x = st_alloc_array2(2, a->cols, sizeof *x), *y = x ? x + a->cols : NULL;
	if (!x)
		return st_fail(err, ST_ERR_NOMEM, "out of memory");
	for (uint64_t i = 0; i < n && other == 0; i++) {
		a->get(a, i * a->rows / n, &(struct st_cells){ .value = x });
		b->get(b, i * a->rows / n, &(struct st_cells){ .value = y });
		for (uint64_t j = 0; j < a->cols; j++, seen++) {
			uint32_t u = bits_of(x[j]), v = bits_of(y[j]);
			if (both) {
				int64_t steps = ((int64_t)u - (int64_t)v)
				              / 0x10000; /* sign and magnitude: larger bits, larger magnitude */
				digits.n[(v >> 21) & 3]++;
				digits.moved[(v >> 21) & 3] += steps != 0;
				below += steps == -1;
				above += steps == 1;
				other += (u ^ v) >> 31 || steps < -1 || steps > 1;
			} else {
				uint32_t full = cut_a ? v : u, cut = cut_a ? u : v;
				other += cut != (full & 0xFFFF0000u);
				lost += (full & 0xFFFF) > 0x8000; /* rounding would have gone up */
			}
		}
	}
	free(x);
	if (other == 0 && lost > 0)
		*out = (struct truncation){ cut_a ? 'a' : 'b', ST_CONFIRMED };
	if (both && other == 0 && seen >= 64 && (below == 0 || above == 0) && 4 * (below + above) > seen
	    && 4 * (below + above) < 3 * seen && !follow_digits(&digits))
		*out = (struct truncation){ below ? 'a' : 'b', ST_LIKELY };
	return ST_OK;
}

static void shape_param(struct st_cause *c, enum st_param_name p, const struct st_tensor *t)
{
	char shape[64];
	snprintf(shape, sizeof shape, "[%llu, %llu]", (unsigned long long)st_tensor_rows(t),
	         (unsigned long long)st_tensor_cols(t));
	st_cause_put_text(c, p, shape);
}

/*
 * Shapes differ. Either the models have other sizes (the configuration tells), or one label
 * lists the dimensions the other way round in a format whose labels are to be believed; then the
 * values say whether the matrix lies transposed.
 */
static enum st_status compare_shapes(struct st_pool *pool, struct st_weight_diff *d, struct st_error *err)
{
	const struct st_tensor *x = d->a->tensor, *y = d->b->tensor;
	d->status = ST_WEIGHT_FAULT;
	d->rel_l2 = d->max_abs = INFINITY;
	d->gain = NAN;
	d->cause = (struct st_cause){ .code = ST_CAUSE_CONFIG_MISMATCH,
		                      .confidence = ST_CONFIRMED,
		                      .residual_before = INFINITY,
		                      .residual_after = INFINITY };
	shape_param(&d->cause, ST_PARAM_SHAPE_A, x);
	shape_param(&d->cause, ST_PARAM_SHAPE_B, y);
	uint64_t rows = st_tensor_rows(x), cols = st_tensor_cols(x);
	if (rows != st_tensor_cols(y) || cols != st_tensor_rows(y))
		return ST_OK;
	/* Rows of the transpose of a's matrix are columns of it. */
	struct st_arena arena;
	struct st_dense own, turned;
	struct st_rows from = st_rows_of(d->a), b = st_rows_of(d->b), a;
	struct st_row_stat *stats = st_alloc_array(cols, sizeof *stats);
	st_arena_init(&arena);
	enum st_status st = stats ? ST_OK : st_fail(err, ST_ERR_NOMEM, "out of memory");
	if (st == ST_OK)
		st = st_dense_make(&arena, 1, cols, &own, err);
	if (st == ST_OK)
		st = st_dense_make(&arena, cols, rows, &turned, err);
	if (st == ST_OK) {
		struct st_cells row = st_dense_row(&own, 0), all = st_dense_row(&turned, 0);
		for (uint64_t r = 0; r < rows; r++) {
			from.get(&from, r, &row);
			for (uint64_t k = 0; k < cols; k++)
				st_cells_copy(&row, k, &all, k * rows + r, 1);
		}
		a = st_rows_dense(&turned, &from);
		struct st_pair_summary s;
		st = st_pair_judge(&a, &b, NULL, cols, pool, stats, &s, err);
		if (st == ST_OK && s.noise) {
			d->cause.code = ST_CAUSE_WEIGHT_TRANSPOSED;
			d->cause.residual_after = s.rel;
			d->cause.floor = s.predicted;
		}
	}
	st_arena_release(&arena);
	free(stats);
	return st;
}

/* A vocabulary padded to a round number has more rows on one side: those that both have are compared. */
static bool is_padded(const struct st_weight_diff *d)
{
	const struct st_tensor *x = d->a->tensor, *y = d->b->tensor;
	return (d->slot->role == ST_ROLE_EMBED || d->slot->role == ST_ROLE_HEAD) && x->ndim == 2 && y->ndim == 2
	    && st_tensor_cols(x) == st_tensor_cols(y) && x->layout == ST_LAYOUT_ROWS && y->layout == ST_LAYOUT_ROWS;
}

static enum st_status compare_pair(const struct st_model *ma, const struct st_model *mb, struct st_pool *pool,
                                   struct st_weight_diff *d, struct st_error *err);

static enum st_status compare_common_rows(const struct st_model *ma, const struct st_model *mb, struct st_pool *pool,
                                          struct st_weight_diff *d, struct st_error *err)
{
	const struct st_weight *a = d->a, *b = d->b;
	uint64_t rows_a = st_tensor_rows(a->tensor), rows_b = st_tensor_rows(b->tensor),
		 rows = rows_a < rows_b ? rows_a : rows_b;
	struct st_tensor ta = st_tensor_first_rows(a->tensor, rows), tb = st_tensor_first_rows(b->tensor, rows);
	struct st_weight wa = *a, wb = *b;
	wa.tensor = &ta;
	wb.tensor = &tb;
	d->a = &wa;
	d->b = &wb;
	enum st_status st = compare_pair(ma, mb, pool, d, err);
	d->a = a;
	d->b = b;
	/* Other rows altogether are another vocabulary. */
	return st == ST_OK && d->status == ST_WEIGHT_FAULT && d->cause.confidence == ST_UNEXPLAINED
	             ? compare_shapes(pool, d, err)
	             : st;
}

/* Equal bytes may still hold the same NaN twice: that is no difference, and is counted by the stages. */
static enum st_status compare_pair(const struct st_model *ma, const struct st_model *mb, struct st_pool *pool,
                                   struct st_weight_diff *d, struct st_error *err)
{
	struct st_rows a = st_rows_of(d->a), b = st_rows_of(d->b);
	d->rows = a.rows;
	d->cols = a.cols;
	d->held_a = st_held_own(d->a->tensor);
	d->held_b = st_held_own(d->b->tensor);
	if (a.rows != b.rows && is_padded(d))
		return compare_common_rows(ma, mb, pool, d, err);
	if (a.rows != b.rows || a.cols != b.cols)
		return compare_shapes(pool, d, err);
	if (bytes_equal(d->a, d->b, pool)) {
		d->status = ST_WEIGHT_EQUAL;
		d->gain = 1;
		return st_check_cancel(err);
	}
	struct st_pair p;
	ST_TRY(st_pair_open(&p, d->a, d->b, pool, err));
	const struct st_pair_summary *s = &p.sum;
	d->held_a = p.a.held;
	d->held_b = p.b.held;
	d->rel_l2 = s->rel;
	d->predicted = s->predicted;
	d->gain = s->gain;
	d->max_abs = s->max;
	d->nonfinite_a = s->nonfinite_a;
	d->nonfinite_b = s->nonfinite_b;
	d->judged = s->fit.judged;
	d->outside = s->fit.outside;
	d->bad_rows = s->bad_rows;
	d->first_bad_row = s->first_bad;
	d->last_bad_row = s->last_bad;
	d->status = s->dd == 0 && !s->apart ? ST_WEIGHT_EQUAL_DECODED : s->noise ? ST_WEIGHT_NOISE : ST_WEIGHT_FAULT;
	struct truncation cut = { 0 };
	enum st_status st = d->status >= ST_WEIGHT_NOISE ? find_truncation(&p.a, &p.b, &cut, err) : ST_OK;
	if (cut.side) {
		d->status = ST_WEIGHT_FAULT;
		d->side = cut.side;
		d->cause = (struct st_cause){ .code = ST_CAUSE_WEIGHT_TRUNCATED_ROUNDING,
			                      .confidence = cut.confidence,
			                      .residual_before = s->rel,
			                      .residual_after = cut.confidence == ST_CONFIRMED ? 0 : s->rel,
			                      .floor = s->predicted };
	} else if (st == ST_OK && d->status == ST_WEIGHT_FAULT) {
		st = st_weight_explain(ma, mb, &p.a, &p.b, p.stats, pool, d, err);
	}
	st_pair_close(&p);
	return st;
}

/* The weight a model has for a slot, or NULL. */
static const struct st_weight *bound(const struct st_model *m, const struct st_weight *slot)
{
	const struct st_weight *w = st_model_place(m, slot);
	return w && w->tensor ? w : NULL;
}

/* The weight that fills a slot: for a tied head that is the embedding. */
static const struct st_weight *filled(const struct st_model *m, const struct st_weight *slot)
{
	const struct st_weight *w = bound(m, slot);
	return !w && slot->role == ST_ROLE_HEAD && st_model_config(m)->tied
	             ? bound(m, st_model_role(m, ST_ROLE_EMBED, 0))
	             : w;
}

/* Whether files of this kind do not store it: a number that is a weight in the one kind and a key in the other is compared as what it
 * does in the graph, with the configuration. */
static bool is_elsewhere(const struct st_model *m, const struct st_weight *slot)
{
	const struct st_described *d = st_model_described(m);
	uint32_t i = d && slot->name ? st_family_find_weight(d->family, slot->name) : ST_FAMILY_NONE;
	return i != ST_FAMILY_NONE && d->family->weights[i].n_sources[st_described_columns(d)] == 0;
}

static void one_sided(struct st_weight_diff *d)
{
	d->status = d->a ? ST_WEIGHT_ONLY_A : ST_WEIGHT_ONLY_B;
	d->side = d->a ? 'b' : 'a';
	d->rel_l2 = INFINITY;
	d->cause = (struct st_cause){ .code = d->slot->kind == ST_WEIGHT_BIAS ? ST_CAUSE_BIAS_MISSING
		                                                              : ST_CAUSE_WEIGHT_MISSING,
		                      .confidence = ST_CONFIRMED,
		                      .residual_before = INFINITY,
		                      .residual_after = INFINITY };
}

enum st_status st_compare_weights(const struct st_model *a, const struct st_model *b, struct st_pool *pool,
                                  const struct st_hooks *hooks, struct st_weight_diff **out, size_t *n,
                                  struct st_error *err)
{
	*out = NULL;
	*n = 0;
	size_t na = st_model_n_weights(a), nb = st_model_n_weights(b), cap = na + nb, used = 0;
	struct st_weight_diff *d = st_alloc_zeroed(cap ? cap : 1, sizeof *d);
	if (!d)
		return st_fail(err, ST_ERR_NOMEM, "out of memory");
	uint64_t total = 0, done = 0;
	bool by_name = st_model_is_by_name(a) && st_model_is_by_name(b);
	enum st_status st = by_name ? st_match_by_name(a, b, pool, d, &used, err) : ST_OK;
	for (size_t i = 0; i < used; i++)
		total += (d[i].a ? d[i].a->tensor->n_bytes : 0) + (d[i].b ? d[i].b->tensor->n_bytes : 0);
	for (size_t i = 0; i < cap && !by_name; i++) {
		/* The slots of a, then those that only b has. */
		const struct st_weight *slot = i < na ? st_model_weight_at(a, i) : st_model_weight_at(b, i - na);
		if (slot->role == ST_ROLE_ROPE_FREQS)
			continue; /* a way to write frequencies: they are compared as frequencies, with the
			             configuration */
		if (i >= na && bound(a, slot))
			continue; /* one of a's slots, already there */
		struct st_weight_diff *w = &d[used];
		*w = (struct st_weight_diff){ .slot = slot, .a = filled(a, slot), .b = filled(b, slot) };
		if (!w->a && !w->b)
			continue; /* optional, and neither has it */
		if ((!w->a && is_elsewhere(a, slot)) || (!w->b && is_elsewhere(b, slot)))
			continue;
		used++;
		total += (w->a ? w->a->tensor->n_bytes : 0) + (w->b ? w->b->tensor->n_bytes : 0);
	}
	for (size_t i = 0; i < used && st == ST_OK; i++) {
		struct st_weight_diff *w = &d[i];
		if (w->a && w->b)
			st = compare_pair(a, b, pool, w, err);
		else
			one_sided(w);
		done += (w->a ? w->a->tensor->n_bytes : 0) + (w->b ? w->b->tensor->n_bytes : 0);
		if (hooks && hooks->progress)
			hooks->progress(hooks->user, "comparing weights", done, total);
	}
	if (st == ST_OK)
		st = st_find_shape(d, used, err);
	if (st != ST_OK) {
		free(d);
		return st;
	}
	*out = d;
	*n = used;
	return ST_OK;
}
