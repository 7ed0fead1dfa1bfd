/* weight_clip.c - numbers beyond a limit that were cut to it: 65504 for all that F16 cannot hold. */
#include "compare/weight_trial.h"
#include "dtype/geometry.h"

#include <math.h>

/* A side whose numbers end at a limit. */
struct cut {
	const struct st_rows *from;
	float limit;
};

static void get_cut(const struct st_rows *s, uint64_t r, const struct st_cells *dst)
{
	const struct cut *c = s->ctx;
	c->from->get(c->from, r, dst);
	for (uint64_t i = 0; i < s->cols; i++)
		if (fabsf(dst->value[i]) > c->limit) {
			struct st_cells one = st_cells_from(dst, i);
			*one.value = copysignf(c->limit, *one.value);
			st_cells_exact(&one, 1);
		}
}

/* What lies beyond the other side's largest number. */
struct beyond {
	uint64_t n;
	uint64_t cut; /* of these, where the other side has its largest number and the same sign */
};

static enum st_status count_beyond(struct st_trial *t, const struct st_rows *large, const struct st_rows *small,
                                   float limit, struct beyond *out)
{
	uint64_t cols = t->a->cols;
	float *x = st_arena_alloc(&t->arena, cols, sizeof *x), *y = st_arena_alloc(&t->arena, cols, sizeof *y);
	*out = (struct beyond){ 0 };
	if (!x || !y)
		return st_fail(t->err, ST_ERR_NOMEM, "out of memory");
	for (uint64_t r = 0; r < t->a->rows; r++) {
		large->get(large, r, &(struct st_cells){ .value = x });
		small->get(small, r, &(struct st_cells){ .value = y });
		for (uint64_t i = 0; i < cols; i++) {
			out->n += fabsf(x[i]) > limit;
			out->cut += fabsf(x[i]) > limit && y[i] == copysignf(limit, x[i]);
		}
		if (r % 256 == 0)
			ST_TRY(st_check_cancel(t->err));
	}
	return ST_OK;
}

/*
 * One number that is the largest of its tensor was cut or is wrong: only the limit of a type says which. Several at one
 * number that is the largest were cut.
 */
enum st_status st_test_clipped(struct st_trial *t)
{
	float most_a = 0, most_b = 0;
	if (t->d->nonfinite_a || t->d->nonfinite_b)
		return ST_OK;
	for (uint64_t r = 0; r < t->a->rows; r++) {
		const struct st_row_stat *row = &t->stats[r];
		most_a = fmaxf(most_a, row->largest_a);
		most_b = fmaxf(most_b, row->largest_b);
	}
	bool a_is_cut = most_a < most_b;
	float limit = a_is_cut ? most_a : most_b;
	const struct st_rows *small = a_is_cut ? t->a : t->b, *large = a_is_cut ? t->b : t->a;
	enum st_dtype type = small->held.type;
	/* The numbers of blocks have no limit. A file may hold them in a wider type than the one that they were cut to. */
	bool of_f16 = (double)limit == st_dtype_largest(ST_DTYPE_F16),
	     of_type = of_f16
	            || (st_dtype_info(type)->kind == ST_KIND_FLOAT && (double)limit == st_dtype_largest(type));
	struct beyond beyond;
	if (most_a == most_b || limit == 0)
		return ST_OK;
	ST_TRY(count_beyond(t, large, small, limit, &beyond));
	if (beyond.cut != beyond.n || (beyond.n < 2 && !of_type))
		return ST_OK;
	struct cut x = { large, limit };
	struct st_rows side = *large;
	side.get = get_cut;
	side.ctx = &x;
	side.whole = false;
	struct st_cause c = { .code = ST_CAUSE_WEIGHT_CLIPPED };
	st_cause_put(&c, ST_PARAM_CUT, (double)beyond.n);
	st_cause_put(&c, ST_PARAM_LIMIT, (double)limit);
	if (of_type)
		st_cause_put_text(&c, ST_PARAM_TYPE, st_dtype_info(of_f16 ? ST_DTYPE_F16 : type)->name);
	return st_trial_consider(t, a_is_cut ? t->a : &side, a_is_cut ? &side : t->b, c,
	                         !of_type   ? 0
	                         : a_is_cut ? 'a'
	                                    : 'b',
	                         false);
}
