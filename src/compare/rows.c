/* rows.c - sides that are made of stored weights, of memory, or of other sides. */
#include "compare/rows.h"

#include "base/error.h"
#include "base/mem.h"

#include <math.h>
#include <string.h>

static void get_weight(const struct st_rows *s, uint64_t r, const struct st_cells *dst)
{
	st_weight_cells(s->w, s->held, r, dst);
}

struct st_rows st_rows_held(const struct st_weight *w, struct st_held held)
{
	const struct st_tensor *t = w->tensor;
	return (struct st_rows){ .w = w,
		                 .held = held,
		                 .rows = t->ndim < 2 ? 1 : st_weight_rows(w),
		                 .cols = st_weight_cols(w),
		                 .whole = t->layout != ST_LAYOUT_FLAT,
		                 .get = get_weight };
}

struct st_rows st_rows_of(const struct st_weight *w)
{
	return st_rows_held(w, (struct st_held){ w->tensor->dtype, w->tensor->scale });
}

void st_cells_copy(const struct st_cells *from, uint64_t at, const struct st_cells *to, uint64_t to_at, uint64_t n)
{
	float *const dst[] = { to->value, to->below, to->above, to->slack };
	const float *const src[] = { from->value, from->below, from->above, from->slack };
	for (size_t k = 0; k < (to->below ? 4u : 1u); k++)
		memcpy(dst[k] + to_at, src[k] + at, (size_t)n * sizeof(float));
}

enum st_status st_dense_make(struct st_arena *arena, uint64_t rows, uint64_t cols, struct st_dense *d,
                             struct st_error *err)
{
	*d = (struct st_dense){ .rows = rows, .cols = cols };
	float **const part[] = { &d->value, &d->below, &d->above, &d->slack };
	for (size_t k = 0; k < 4; k++)
		if (!(*part[k] = st_arena_alloc2(arena, rows, cols, sizeof(float))))
			return st_fail(err, ST_ERR_NOMEM, "out of memory");
	return ST_OK;
}

struct st_cells st_dense_row(const struct st_dense *d, uint64_t r)
{
	struct st_cells all = { d->value, d->below, d->above, d->slack, NULL };
	return st_cells_from(&all, r * d->cols);
}

static void get_dense(const struct st_rows *s, uint64_t r, const struct st_cells *dst)
{
	struct st_cells row = st_dense_row(s->ctx, r);
	st_cells_copy(&row, 0, dst, 0, s->cols);
}

struct st_rows st_rows_dense(const struct st_dense *d, const struct st_rows *made_of)
{
	return (struct st_rows){
		.w = made_of->w, .held = made_of->held, .rows = d->rows, .cols = d->cols, .get = get_dense, .ctx = d
	};
}

static void get_mapped(const struct st_rows *s, uint64_t r, const struct st_cells *dst)
{
	const struct st_mapped *m = s->ctx;
	uint64_t from = m->map[r];
	if (from == UINT64_MAX)
		m->else_from->get(m->else_from, r, dst);
	else
		m->from->get(m->from, from, dst);
}

struct st_rows st_rows_mapped(const struct st_mapped *m)
{
	struct st_rows s = *m->from;
	s.get = get_mapped;
	s.ctx = m;
	return s;
}

void st_cells_affine(const struct st_cells *c, uint64_t n, double g, double offset)
{
	for (uint64_t i = 0; i < n; i++)
		c->value[i] = (float)(g * c->value[i] + offset);
	if (!c->below || g == 1)
		return;
	float size = (float)fabs(g);
	for (uint64_t i = 0; i < n; i++) {
		float down = c->below[i] * size, up = c->above[i] * size;
		c->below[i] = g < 0 ? up : down;
		c->above[i] = g < 0 ? down : up;
		c->slack[i] *= size;
	}
}
