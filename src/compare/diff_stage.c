/* diff_stage.c - two values of one stage, and the largest differences of any two tensors. */
#include "compare/diff.h"

#include "base/error.h"
#include "compare/sums.h"
#include "format/container.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum st_status st_top_diffs(const struct st_tensor *a, const struct st_tensor *b, size_t limit, struct st_top_diff *out,
                            size_t *n, struct st_error *err)
{
	*n = 0;
	uint64_t ca = st_tensor_cols(a), cb = st_tensor_cols(b), ra = UINT64_MAX, rb = UINT64_MAX;
	float *x = st_alloc_array(ca + cb, sizeof *x), *y = x ? x + ca : NULL;
	if (!x)
		return st_fail(err, ST_ERR_NOMEM, "out of memory");
	/* Rows may be cut differently on the two sides; each keeps its own current row. */
	for (uint64_t i = 0; limit > 0 && i < a->n_elems; i++) {
		if (i / ca != ra)
			st_tensor_decode(a, ra = i / ca, 1, x);
		if (i / cb != rb)
			st_tensor_decode(b, rb = i / cb, 1, y);
		double d = st_apart(x[i % ca], y[i % cb]);
		if (d > 0)
			st_top_offer(out, n, limit,
			             (struct st_top_diff){ .index = i, .a = x[i % ca], .b = y[i % cb], .abs = d });
		if (i % (1u << 20) == 0 && st_cancelled())
			break;
	}
	free(x);
	return st_check_cancel(err);
}

/* What a trace says of the order of its Q and K features, or NULL. */
static const char *layout_of(const struct st_diff_side *s)
{
	return json_string_value(json_object_get(s->c->docs.metadata, "rope_layout"));
}

/* Whether the two hold one value in two orders. */
static bool other_basis(const struct st_diff_state *s, const char *name)
{
	const char *a = layout_of(&s->a), *b = layout_of(&s->b);
	enum st_stage stage;
	return name && a && b && strcmp(a, b) != 0 && st_stage_parse(name, strlen(name), &stage)
	    && st_diff_basis_matters(stage);
}

/* One position alone meets the last of several. */
static void take_last(const struct st_tensor **of, const struct st_tensor *alone, struct st_tensor *view)
{
	const struct st_tensor *t = *of;
	uint64_t cols = t->ndim > 1 ? st_tensor_cols(t) : 0;
	if (cols == 0 || t->n_elems <= cols || alone->n_elems != cols || t->layout != ST_LAYOUT_ROWS)
		return;
	*view = *t;
	view->ndim = 2;
	view->shape[0] = 1;
	view->shape[1] = cols;
	view->n_elems = cols;
	view->data = t->data + (st_tensor_rows(t) - 1) * t->row_bytes;
	view->n_bytes = t->row_bytes;
	*of = view;
}

enum st_status st_diff_stages(struct st_diff_state *s, const struct st_diff_options *o, struct st_error *err)
{
	const struct st_tensor *a = s->a.stage, *b = s->b.stage;
	struct st_stage_diff *d = &s->d.stage;
	if (s->a.name && s->b.name && strcmp(s->a.name, s->b.name) != 0)
		return st_fail(err, ST_ERR_MISMATCH, "the stages differ: %s in A, %s in B", s->a.name, s->b.name);
	/* A stage file says its layer whatever it is called. */
	bool layers = (s->a.name && s->b.name) || (s->a.layer >= 0 && s->b.layer >= 0);
	if (layers && s->a.layer != s->b.layer)
		return st_fail(err, ST_ERR_MISMATCH, "the layers differ: %d in A, %d in B (-1: whole model)",
		               (int)s->a.layer, (int)s->b.layer);
	struct st_tensor last;
	uint64_t na = a->n_elems, nb = b->n_elems;
	take_last(&a, b, &last);
	take_last(&b, a, &last);
	if (na != nb && a->n_elems == b->n_elems)
		snprintf(s->d.note, sizeof s->d.note, "%s holds one position: compared with the last of %s",
		         na < nb ? "A" : "B", na < nb ? "B" : "A");
	if (a->n_elems != b->n_elems)
		return st_fail(err, ST_ERR_MISMATCH, "the lengths differ: %llu elements in A, %llu in B",
		               (unsigned long long)a->n_elems, (unsigned long long)b->n_elems);
	/* A leading dimension of one is a batch, and says nothing. */
	uint32_t sa = a->ndim > 1 && a->shape[0] == 1, sb = b->ndim > 1 && b->shape[0] == 1;
	bool known = a->ndim > 1 && b->ndim > 1;
	if (known
	    && (a->ndim - sa != b->ndim - sb
	        || memcmp(a->shape + sa, b->shape + sb, (a->ndim - sa) * sizeof *a->shape) != 0))
		return st_fail(err, ST_ERR_MISMATCH, "the shapes differ");
	const char *name = s->a.name ? s->a.name : s->b.name;
	if (name)
		snprintf(d->stage, sizeof d->stage, "%s", name);
	d->layer = s->a.name ? s->a.layer : s->b.layer;
	const struct st_tensor *shaped = a->ndim > 1 ? a : b;
	d->rows = shaped->ndim > 1 ? st_tensor_rows(shaped) : 1;
	d->cols = a->n_elems / (d->rows ? d->rows : 1);
	ST_TRY(st_metrics_of_tensors(a, b, s->pool, &d->m, err));
	d->top = st_arena_alloc(&s->arena, o->limit ? o->limit : 1, sizeof *d->top);
	if (!d->top)
		return st_fail(err, ST_ERR_NOMEM, "out of memory");
	ST_TRY(st_top_diffs(a, b, o->limit, d->top, &d->n_top, err));
	s->d.compared = st_diff_any(&d->m);
	enum st_dtype ta, tb;
	ST_TRY(st_diff_held(a, s->pool, &ta, err));
	ST_TRY(st_diff_held(b, s->pool, &tb, err));
	bool short_type = st_diff_short(ta, tb), meet = false;
	if (short_type)
		ST_TRY(st_diff_all_meet(a, ta, b, tb, &meet, err));
	d->same = d->m.nonfinite_apart == 0 && (d->m.rel_l2 <= ST_DIFF_ROUNDING || (short_type && meet));
	s->d.over_threshold = st_diff_beyond(o, d->m.max_abs, d->m.rel_l2);
	/* Two numbers without provenance: a difference beyond rounding has no floor to be held against, unless one
	 * side is not even finite. With a threshold the user has said what counts. */
	s->d.fault = d->m.nonfinite_apart > 0;
	if (!d->same && !s->d.fault && other_basis(s, name))
		st_diff_undecided(&s->d, "Q and K lie in another order on the two sides (rope_layout half, "
		                         "interleaved): not comparable element by element");
	else if (!d->same && !s->d.fault && !st_diff_has_threshold(o))
		st_diff_undecided(
			&s->d,
			"they differ, and nothing says by how much they may (--threshold, or traces with provenance)");
	s->d.first = d->same ? SIZE_MAX : 0;
	return ST_OK;
}
