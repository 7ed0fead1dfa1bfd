/*
 * weight_fused.c - parts of one stored tensor in another order than the page says.
 *
 * A fused tensor holds the rows of several weights: one weight after the other, in the order that the family has, or
 * a few rows of each in turn, for each head or group of heads. Two files disagree when one of them has the parts in
 * another order or in groups of another size; read alike, rows of every part then stand among those of another.
 */
#include "arch/arch.h"
#include "compare/weight_trial.h"

#include <stdlib.h>
#include <string.h>

#define MAX_PARTS 4
#define MAX_GROUPS 1024u /* no model has more heads */

/* Row `row` of part i. */
struct place {
	uint32_t part;
	uint64_t row;
};

struct fused_tensor {
	const struct st_weight *part[MAX_PARTS];
	uint64_t rows[MAX_PARTS]; /* of each; of vectors the elements */
	uint32_t n;
	uint64_t all;
	struct place *at; /* what each stored row is, in the order in which they are stored */
};

static uint64_t rows_of(const struct st_weight *w)
{
	return st_weight_rows(w) > 1 ? st_weight_rows(w) : st_weight_cols(w);
}

/* The tensor of the file in which a weight lies. */
static const struct st_tensor *tensor_around(const struct st_model *m, const struct st_weight *w)
{
	const struct st_container *c = st_model_container(m);
	for (size_t i = 0; i < st_container_n_tensors(c); i++) {
		const struct st_tensor *t = st_container_tensor(c, i);
		if (w->tensor->data >= t->data && w->tensor->data < t->data + t->n_bytes)
			return t;
	}
	return NULL;
}

static const uint8_t *address(const struct st_weight *w, uint64_t r)
{
	bool vector = st_weight_rows(w) <= 1 || w->tensor->ndim == 1;
	uint64_t size = vector ? st_dtype_info(w->tensor->dtype)->block_bytes : w->tensor->row_bytes;
	return w->tensor->data + st_weight_stored_row(w, r) * size;
}

struct stored_row {
	const uint8_t *data;
	struct place is;
};

static int by_address(const void *x, const void *y)
{
	const struct stored_row *a = x, *b = y;
	return (a->data > b->data) - (a->data < b->data);
}

/* The weights that share the slot's tensor in model m, and the order of their rows. n stays below 2 where there is none. */
static enum st_status open_fused(struct st_trial *t, const struct st_model *m, const struct st_weight *slot,
                                 struct fused_tensor *f)
{
	const struct st_tensor *around = slot->tensor->layout == ST_LAYOUT_ROWS ? tensor_around(m, slot) : NULL;
	*f = (struct fused_tensor){ 0 };
	for (size_t i = 0; around && i < st_model_n_weights(m); i++) {
		const struct st_weight *w = st_model_weight_at(m, i);
		if (!w->tensor || w->layer != slot->layer || w->expert != slot->expert || tensor_around(m, w) != around)
			continue;
		bool plain = w->tensor->layout == ST_LAYOUT_ROWS && w->tensor->ndim == slot->tensor->ndim
		          && (w->tensor->ndim > 1 || st_dtype_info(w->tensor->dtype)->block_elems == 1);
		if (f->n == MAX_PARTS || !plain
		    || (w->tensor->ndim > 1 && st_tensor_cols(w->tensor) != st_tensor_cols(slot->tensor))) {
			f->n = 0;
			return ST_OK;
		}
		f->part[f->n] = w;
		f->rows[f->n] = rows_of(w);
		f->all += f->rows[f->n++];
	}
	if (f->n < 2)
		return ST_OK;
	struct stored_row *rows = st_alloc_array(f->all, sizeof *rows);
	f->at = st_arena_alloc(&t->arena, f->all, sizeof *f->at);
	if (!rows || !f->at) {
		free(rows);
		return st_fail(t->err, ST_ERR_NOMEM, "out of memory");
	}
	uint64_t n = 0;
	for (uint32_t i = 0; i < f->n; i++)
		for (uint64_t r = 0; r < f->rows[i]; r++)
			rows[n++] = (struct stored_row){ address(f->part[i], r), { i, r } };
	qsort(rows, (size_t)n, sizeof *rows, by_address);
	for (uint64_t i = 0; i < n; i++)
		f->at[i] = rows[i].is;
	free(rows);
	return ST_OK;
}

/* An order that a file may have: so many groups, and the parts in that order within each. */
struct order {
	uint32_t groups;
	uint32_t part[MAX_PARTS];
};

/* What stands at each stored row in that order; the rows of each part come in their own. */
static void lay_out(const struct fused_tensor *f, const struct order *o, const uint64_t *const own[MAX_PARTS],
                    struct place *out)
{
	for (uint32_t g = 0; g < o->groups; g++)
		for (uint32_t i = 0; i < f->n; i++) {
			uint32_t p = o->part[i];
			uint64_t n = f->rows[p] / o->groups;
			for (uint64_t r = 0; r < n; r++)
				*out++ = (struct place){ p, own[p][g * n + r] };
		}
}

/* Rows of the slot made of rows of all parts. */
struct gathered {
	struct st_rows part[MAX_PARTS];
	struct place *row; /* of the slot's rows, what the other side has there */
};

static void get_gathered(const struct st_rows *s, uint64_t r, const struct st_cells *dst)
{
	const struct gathered *g = s->ctx;
	const struct st_rows *from = &g->part[g->row[r].part];
	from->get(from, g->row[r].row, dst);
}

static enum st_status consider(struct st_trial *t, struct gathered *g, const struct order *o, const char *names)
{
	struct st_cause c = { .code = ST_CAUSE_WEIGHT_FUSED_ORDER };
	st_cause_put_text(&c, ST_PARAM_ORDER, names);
	st_cause_put(&c, ST_PARAM_CHUNKS, o->groups);
	if (t->a->rows > 1) {
		struct st_rows b = *t->b;
		b.get = get_gathered;
		b.ctx = g;
		return st_trial_consider(t, t->a, &b, c, 0, false);
	}
	struct st_dense own[MAX_PARTS], moved;
	ST_TRY(st_dense_make(&t->arena, 1, t->b->cols, &moved, t->err));
	struct st_cells to = st_dense_row(&moved, 0);
	for (uint32_t p = 0; p < MAX_PARTS && g->part[p].get; p++) {
		ST_TRY(st_dense_make(&t->arena, 1, g->part[p].cols, &own[p], t->err));
		struct st_cells from = st_dense_row(&own[p], 0);
		g->part[p].get(&g->part[p], 0, &from);
		for (uint64_t i = 0; i < t->b->cols; i++)
			if (g->row[i].part == p)
				st_cells_copy(&from, g->row[i].row, &to, i, 1);
	}
	struct st_rows one = st_rows_dense(&moved, t->b);
	return st_trial_consider(t, t->a, &one, c, 0, false);
}

static bool next_order(uint32_t *p, uint32_t n)
{
	uint32_t i = n - 1, j = n - 1;
	while (i > 0 && p[i - 1] >= p[i])
		i--;
	if (i == 0)
		return false;
	while (p[j] <= p[i - 1])
		j--;
	uint32_t swap = p[i - 1];
	p[i - 1] = p[j];
	p[j] = swap;
	for (j = n - 1; i < j; i++, j--) {
		swap = p[i];
		p[i] = p[j];
		p[j] = swap;
	}
	return true;
}

/* What is tried: the slot's part, and of each side the rows of each part as they come in its file. */
struct orders {
	const struct fused_tensor *a, *b;
	uint32_t slot;
	uint64_t *own[2][MAX_PARTS], *where[MAX_PARTS];
	struct place *laid;
	struct gathered g;
};

/* All orders of parts in so many groups: what the one file holds in it is read as if it were in the page's. A file with
 * a tensor for each part cannot have them in another order. */
static enum st_status try_groups(struct st_trial *t, struct orders *x, struct order *o)
{
	const struct fused_tensor *const side[2] = { x->a, x->b };
	do {
		char names[96] = "";
		for (uint32_t i = 0; i < x->b->n; i++)
			snprintf(names + strlen(names), sizeof names - strlen(names), "%s%.20s", i ? " " : "",
			         x->b->part[o->part[i]]->name);
		for (int wrong = 0; wrong < 2 && !t->done; wrong++) {
			bool moved = false;
			if (!side[wrong]->at)
				continue;
			lay_out(x->b, o, (const uint64_t *const *)x->own[wrong], x->laid);
			for (uint64_t p = 0; p < x->b->all; p++) {
				struct place is = x->laid[p], read = side[wrong]->at[p];
				x->where[is.part][is.row] = p;
				if (!wrong && read.part == x->slot)
					x->g.row[read.row] = is;
			}
			for (uint64_t r = 0; r < x->b->rows[x->slot]; r++) {
				if (wrong)
					x->g.row[r] = x->b->at[x->where[x->slot][r]];
				moved |= x->g.row[r].part != x->slot || x->g.row[r].row != r;
			}
			if (moved)
				ST_TRY(consider(t, &x->g, o, names));
		}
	} while (!t->done && next_order(o->part, x->b->n));
	return ST_OK;
}

/* The same parts as the other side's, each in a tensor of its own. */
static void open_apart(const struct st_model *m, const struct fused_tensor *other, struct fused_tensor *f)
{
	*f = (struct fused_tensor){ .n = other->n, .all = other->all };
	for (uint32_t i = 0; i < f->n; i++) {
		f->part[i] = st_model_place(m, other->part[i]);
		f->rows[i] = f->part[i] && f->part[i]->tensor ? rows_of(f->part[i]) : 0;
	}
}

static enum st_status prepare(struct st_trial *t, struct orders *x)
{
	const struct fused_tensor *const side[2] = { x->a, x->b };
	bool ok = true;
	x->g.row = st_arena_alloc(&t->arena, x->b->rows[x->slot], sizeof *x->g.row);
	x->laid = st_arena_alloc(&t->arena, x->b->all, sizeof *x->laid);
	for (uint32_t i = 0; i < x->b->n; i++) {
		x->g.part[i] = st_rows_of(x->b->part[i]);
		x->where[i] = st_arena_alloc(&t->arena, x->b->rows[i], sizeof **x->where);
		for (int s = 0; s < 2; s++) {
			x->own[s][i] = st_arena_alloc(&t->arena, x->b->rows[i], sizeof ***x->own);
			ok = ok && x->own[s][i];
		}
		ok = ok && x->where[i];
	}
	if (!ok || !x->g.row || !x->laid)
		return st_fail(t->err, ST_ERR_NOMEM, "out of memory");
	for (int s = 0; s < 2; s++) {
		uint64_t fill[MAX_PARTS] = { 0 };
		for (uint64_t p = 0; side[s]->at && p < x->b->all; p++)
			x->own[s][side[s]->at[p].part][fill[side[s]->at[p].part]++] = side[s]->at[p].row;
	}
	return ST_OK;
}

enum st_status st_test_fused_order(struct st_trial *t)
{
	struct fused_tensor fa, fb;
	struct orders x = { .a = &fa, .b = &fb };
	if (!t->d->a->name || !t->d->b->name)
		return ST_OK;
	ST_TRY(open_fused(t, t->ma, t->d->a, &fa));
	ST_TRY(open_fused(t, t->mb, t->d->b, &fb));
	if (fa.n < 2 && fb.n < 2)
		return ST_OK;
	if (fa.n < 2)
		open_apart(t->ma, &fb, &fa);
	else if (fb.n < 2)
		open_apart(t->mb, &fa, &fb);
	bool alike = fa.n == fb.n;
	for (uint32_t i = 0; alike && i < fa.n; i++) {
		alike = fa.part[i] && fb.part[i] && strcmp(fa.part[i]->name, fb.part[i]->name) == 0
		     && fa.rows[i] == fb.rows[i];
		x.slot = fb.part[i] == t->d->b ? i : x.slot;
	}
	if (!alike)
		return ST_OK;
	ST_TRY(prepare(t, &x));
	for (uint32_t groups = 1; groups <= MAX_GROUPS && !t->done; groups++) {
		struct order o = { .groups = groups };
		bool whole = true;
		for (uint32_t i = 0; i < fb.n; i++) {
			o.part[i] = i;
			whole &= fb.rows[i] % groups == 0;
		}
		if (whole)
			ST_TRY(try_groups(t, &x, &o));
	}
	return ST_OK;
}
