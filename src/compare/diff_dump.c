/*
 * diff_dump.c - what one dump leaves unsaid and the other tells: where rows end, which axis counts positions. And values
 * under names that are no stage.
 */
#include "compare/diff.h"

#include "base/error.h"
#include "trace/trace.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- axes ---- */

/* Values whose rows nobody knows (a stage file without shape), cut as those of the other side are. */
static enum st_status cut_like(const struct st_tensor **flat, const struct st_tensor *like, struct st_arena *arena,
                               struct st_error *err)
{
	uint64_t each = like->ndim == 2 ? like->shape[1] : 0, n = (*flat)->n_elems;
	if ((*flat)->ndim != 1 || each == 0 || n % each != 0 || (*flat)->layout != ST_LAYOUT_ROWS)
		return ST_OK;
	struct st_tensor *view = st_arena_alloc(arena, 1, sizeof *view);
	ST_NEED(view);
	*view = **flat;
	view->ndim = 2;
	view->shape[0] = n / each;
	view->shape[1] = each;
	view->row_bytes = view->n_bytes / (view->shape[0] ? view->shape[0] : 1);
	*flat = view;
	return ST_OK;
}

/* [a, b, size], where nothing in the dump says which of a and b counts positions. The other side's number of positions
 * tells. Where there are as many heads as positions, the nearer reading is taken. */
static enum st_status join_like(const struct st_tensor **open, const struct st_tensor *like, struct st_arena *arena,
                                struct st_error *err)
{
	const struct st_tensor *t = *open, *read[2];
	if (t->ndim != 3 || like->ndim != 2 || t->n_elems != like->n_elems || t->n_elems == 0
	    || t->layout == ST_LAYOUT_APART || t->layout == ST_LAYOUT_FLAT)
		return ST_OK;
	bool fits[2] = { t->shape[0] == like->shape[0], t->shape[1] == like->shape[0] };
	double apart[2] = { INFINITY, INFINITY };
	for (int i = 0; i < 2; i++) {
		if (!fits[i])
			continue;
		ST_TRY(st_trace_join_heads(t, i == 1, arena, &read[i], err));
		struct st_metrics m;
		ST_TRY(st_metrics_of_tensors(read[i], like, NULL, &m, err));
		apart[i] = m.norm_diff;
	}
	if (fits[0] || fits[1])
		*open = read[!fits[0] || (fits[1] && apart[1] < apart[0])];
	return ST_OK;
}

enum st_status st_diff_axes(const struct st_tensor **a, const struct st_tensor **b, struct st_arena *arena,
                            struct st_error *err)
{
	ST_TRY(cut_like(a, *b, arena, err));
	ST_TRY(cut_like(b, *a, arena, err));
	ST_TRY(join_like(a, *b, arena, err));
	return join_like(b, *a, arena, err);
}

/* ---- names that are no stage ---- */

static const struct st_tensor *find_other(const struct st_trace *t, const char *name)
{
	for (size_t i = 0; i < st_trace_n_others(t); i++)
		if (strcmp(st_trace_other_at(t, i)->name, name) == 0)
			return st_trace_other_at(t, i);
	return NULL;
}

/* [1, ...] is [...]: a leading one is a batch. */
static bool same_shape(const struct st_tensor *a, const struct st_tensor *b)
{
	uint32_t sa = a->ndim > 1 && a->shape[0] == 1, sb = b->ndim > 1 && b->shape[0] == 1;
	return a->ndim - sa == b->ndim - sb
	    && memcmp(a->shape + sa, b->shape + sb, (a->ndim - sa) * sizeof *a->shape) == 0;
}

static enum st_status judge_other(struct st_diff_state *s, struct st_tensor_diff *t, const struct st_diff_options *o,
                                  struct st_error *err)
{
	struct st_diff *d = &s->d;
	t->status = ST_DIFF_UNDECIDED;
	t->shapes_differ = !same_shape(t->a, t->b);
	if (t->shapes_differ) {
		st_diff_undecided(d, "values under a name that is no stage have other shapes");
		return ST_OK;
	}
	if (t->a->n_elems == 0)
		return ST_OK;
	ST_TRY(st_metrics_of_tensors(t->a, t->b, s->pool, &t->m, err));
	enum st_dtype ta, tb;
	bool meet = false;
	ST_TRY(st_diff_held(t->a, s->pool, &ta, err));
	ST_TRY(st_diff_held(t->b, s->pool, &tb, err));
	if (st_diff_short(ta, tb))
		ST_TRY(st_diff_all_meet(t->a, ta, t->b, tb, &meet, err));
	t->expected = ST_DIFF_ROUNDING;
	if (t->m.nonfinite_apart)
		t->status = ST_DIFF_FAULT;
	else if (st_diff_any(&t->m) && (t->m.rel_l2 <= ST_DIFF_ROUNDING || meet))
		t->status = ST_DIFF_EXPECTED;
	d->compared++;
	d->fault |= t->status == ST_DIFF_FAULT;
	d->over_threshold |= st_diff_beyond(o, t->m.max_abs, t->m.rel_l2);
	if (t->status == ST_DIFF_UNDECIDED && !(st_diff_any(&t->m) && st_diff_has_threshold(o)))
		st_diff_undecided(d,
		                  "values under a name that is no stage differ, and nothing says by how much they may");
	return ST_OK;
}

enum st_status st_diff_others(struct st_diff_state *s, const struct st_diff_options *o, struct st_error *err)
{
	struct st_diff *d = &s->d;
	const struct st_trace *a = s->a.trace, *b = s->b.trace;
	size_t na = st_trace_n_others(a), nb = st_trace_n_others(b);
	d->tensors = st_arena_alloc(&s->arena, na + nb ? na + nb : 1, sizeof *d->tensors);
	ST_NEED(d->tensors);
	for (size_t i = 0; i < na + nb; i++) {
		const struct st_tensor *t = i < na ? st_trace_other_at(a, i) : st_trace_other_at(b, i - na);
		if (!st_diff_wanted(o, t->name) || (i >= na && find_other(a, t->name)))
			continue;
		struct st_tensor_diff *x = &d->tensors[d->n_tensors++];
		*x = (struct st_tensor_diff){ .a = i < na ? t : NULL, .b = i < na ? find_other(b, t->name) : t };
		if (x->a && x->b)
			ST_TRY(judge_other(s, x, o, err));
	}
	return ST_OK;
}
