/*
 * weight_padding.c - rows that were written with padding behind each and are read without, or the other way round: each
 * lies a little further from its place than the one before it.
 */
#include "compare/weight_trial.h"

#include <math.h>

#define KNOWN_BY 32 /* elements that the displacement of row 1 is found by */

/*
 * padded: the numbers are the rows of `from` one after another, each followed by `padding` others. Else they are taken
 * from `from` as if these were there. What is not from there is taken from `fill`.
 */
struct displaced {
	const struct st_rows *from, *fill;
	uint64_t padding;
	bool padded;
};

static void get_displaced(const struct st_rows *s, uint64_t r, const struct st_cells *dst)
{
	const struct displaced *x = s->ctx;
	uint64_t cols = s->cols, apart = cols + x->padding;
	struct st_cells row = { dst->spare, dst->spare + cols, dst->spare + 2 * cols, dst->spare + 3 * cols, NULL };
	if (!dst->below)
		row = (struct st_cells){ .value = dst->spare };
	x->fill->get(x->fill, r, dst);
	uint64_t at = r * (x->padded ? cols : apart); /* of the row's first number in the other's stream */
	for (uint64_t c = 0; c < cols;) {
		uint64_t i = at + c, in = x->padded ? i % apart : i % cols, source = x->padded ? i / apart : i / cols,
			 n = (x->padded ? apart : cols) - in;
		n = cols - c < n ? cols - c : n;
		if (source < s->rows && in < cols) {
			uint64_t part = cols - in < n ? cols - in : n;
			x->from->get(x->from, source, &row);
			st_cells_copy(&row, in, dst, c, part);
		}
		c += n;
	}
}

/* Where in `in` the first numbers of `what` stand best, from element 1 on; 0: nowhere. */
static uint64_t find(const float *what, const float *in, uint64_t cols)
{
	uint64_t best = 0;
	double least = 0.25; /* of the squares: unrelated numbers leave twice as much */
	for (uint64_t p = 1; p + KNOWN_BY <= cols; p++) {
		double apart = 0, size = 0;
		for (uint64_t j = 0; j < KNOWN_BY; j++) {
			apart += ((double)in[p + j] - what[j]) * ((double)in[p + j] - what[j]);
			size += (double)what[j] * what[j];
		}
		if (apart < least * size) {
			least = apart / size;
			best = p;
		}
	}
	return best;
}

static enum st_status gaps_are_zero(struct st_trial *t, const struct st_rows *s, uint64_t padding, bool *yes)
{
	uint64_t cols = s->cols, apart = cols + padding;
	float *row = st_arena_alloc(&t->arena, cols, sizeof *row);
	if (!row)
		return st_fail(t->err, ST_ERR_NOMEM, "out of memory");
	*yes = true;
	for (uint64_t r = 0; r < s->rows && *yes; r++) {
		s->get(s, r, &(struct st_cells){ .value = row });
		for (uint64_t c = 0; c < cols; c++)
			*yes &= (r * cols + c) % apart < cols || row[c] == 0;
	}
	return ST_OK;
}

enum st_status st_test_padding(struct st_trial *t)
{
	uint64_t rows = t->a->rows, cols = t->a->cols;
	if (rows < 4 || cols < 2 * KNOWN_BY || t->a->w->interleaved || t->b->w->interleaved)
		return ST_OK;
	float *a = st_arena_alloc(&t->arena, cols, sizeof *a), *b = st_arena_alloc(&t->arena, cols, sizeof *b);
	if (!a || !b)
		return st_fail(t->err, ST_ERR_NOMEM, "out of memory");
	t->a->get(t->a, 1, &(struct st_cells){ .value = a });
	t->b->get(t->b, 1, &(struct st_cells){ .value = b });
	/* Row 1 of what was padded begins later; of what was read as padded it begins with what stands later in the
	 * other. */
	const struct {
		uint64_t padding;
		bool of_b, padded;
	} tries[] = {
		{ find(b, a, cols), false, true },
		{ find(a, b, cols), true, true },
		{ find(a, b, cols), false, false },
		{ find(b, a, cols), true, false },
	};
	for (size_t i = 0; i < 4 && !t->done; i++) {
		const struct st_rows *own = tries[i].of_b ? t->b : t->a, *other = tries[i].of_b ? t->a : t->b;
		struct displaced x = { other, own, tries[i].padding, tries[i].padded };
		struct st_rows side = *other;
		bool zero = false;
		if (tries[i].padding == 0 || tries[i].padding > cols / 2)
			continue;
		side.get = get_displaced;
		side.ctx = &x;
		side.whole = false;
		if (tries[i].padded)
			ST_TRY(gaps_are_zero(t, own, tries[i].padding, &zero));
		struct st_cause c = { .code = ST_CAUSE_WEIGHT_ROW_SHIFT };
		st_cause_put(&c, ST_PARAM_PADDING, (double)tries[i].padding);
		ST_TRY(st_trial_consider(t, tries[i].of_b ? &side : t->a, tries[i].of_b ? t->b : &side, c,
		                         !zero           ? 0
		                         : tries[i].of_b ? 'b'
		                                         : 'a',
		                         false));
	}
	return ST_OK;
}

/* ---- rows of blocks ---- */

/* Rows that lie `apart` bytes from each other. What lies behind the tensor is taken from `fill`. */
struct apart {
	const struct st_rows *from, *fill;
	uint64_t apart;
};

static void get_apart(const struct st_rows *s, uint64_t r, const struct st_cells *dst)
{
	const struct apart *x = s->ctx;
	const struct st_weight *w = x->from->w;
	const struct st_tensor *t = w->tensor;
	if (r * x->apart + t->row_bytes > t->n_bytes) {
		x->fill->get(x->fill, r, dst);
		return;
	}
	struct st_tensor row = *t;
	row.ndim = 1;
	row.shape[0] = row.n_elems = s->cols;
	row.n_bytes = t->row_bytes;
	row.data = t->data + r * x->apart;
	struct st_weight one = { .tensor = &row, .heads = 1, .layer = -1 };
	st_weight_cells(&one, x->from->held, 0, dst);
}

/* How far numbers are from those of a block of bytes, in proportion to their squares. */
static double distance(const struct st_tensor *t, const uint8_t *bytes, const float *numbers, float *room)
{
	const struct st_dtype_info *info = st_dtype_info(t->dtype);
	double apart = 0, size = 0;
	info->decode(bytes, room, info->block_elems);
	for (uint64_t i = 0; i < info->block_elems; i++) {
		apart += ((double)room[i] - numbers[i]) * ((double)room[i] - numbers[i]);
		size += (double)numbers[i] * numbers[i];
	}
	return size > 0 && isfinite(apart) ? apart / size : INFINITY;
}

/* The padding behind row 0 after which the first block of row 1 comes; 0: none. */
static uint64_t find_bytes(const struct st_tensor *t, const float *row1, float *room)
{
	uint64_t best = 0, block = st_dtype_info(t->dtype)->block_bytes;
	double least = 0.25;
	for (uint64_t p = 1; p <= t->row_bytes && t->row_bytes + p + block <= t->n_bytes; p++) {
		double d = distance(t, t->data + t->row_bytes + p, row1, room);
		if (d < least) {
			least = d;
			best = p;
		}
	}
	return best;
}

/* Numbers in the gaps are rows that the other side may have passed over. */
static bool gaps_hold_zeros(const struct st_tensor *t, uint64_t apart)
{
	for (uint64_t i = 0; i < t->n_bytes; i++)
		if (i % apart >= t->row_bytes && t->data[i])
			return false;
	return true;
}

enum st_status st_find_padded_blocks(struct st_trial *t)
{
	uint64_t cols = t->a->cols;
	float *row = st_arena_alloc2(&t->arena, 2, cols, sizeof *row);
	if (!row)
		return st_fail(t->err, ST_ERR_NOMEM, "out of memory");
	for (int k = 0; k < 2 && !t->done; k++) {
		const struct st_rows *own = k ? t->b : t->a, *other = k ? t->a : t->b;
		const struct st_tensor *x = own->w->tensor;
		if (x->layout != ST_LAYOUT_ROWS || st_dtype_info(x->dtype)->kind != ST_KIND_QUANT || own->rows < 4
		    || own->w->interleaved || own->w->group_rows || x->row_bytes * own->rows != x->n_bytes)
			continue;
		other->get(other, 1, &(struct st_cells){ .value = row });
		struct apart s = { own, other, find_bytes(x, row, row + cols) };
		/* Whole rows in between are those of another matrix, unless there is nothing in them. */
		if (s.apart == 0 || (s.apart == x->row_bytes && !gaps_hold_zeros(x, 2 * s.apart)))
			continue;
		struct st_cause c = { .code = ST_CAUSE_WEIGHT_ROW_SHIFT };
		st_cause_put(&c, ST_PARAM_PADDING_BYTES, (double)s.apart);
		s.apart += x->row_bytes;
		struct st_rows side = *own;
		side.get = get_apart;
		side.ctx = &s;
		side.whole = false;
		ST_TRY(st_trial_consider(t, k ? t->a : &side, k ? &side : t->b, c,
		                         !gaps_hold_zeros(x, s.apart) ? 0
		                         : k                          ? 'b'
		                                                      : 'a',
		                         false));
	}
	return ST_OK;
}
