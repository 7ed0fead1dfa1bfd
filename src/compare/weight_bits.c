/* weight_bits.c - numbers of one float type that are equal bit for bit but for the last bits of some. */
#include "compare/weight_trial.h"

#include <math.h>

#define MOST_UNITS 4 /* apart: what was trained further is far more units apart where its numbers are small */
/* Of these, where all changed one way: a factor makes as many of BF16's numbers change by 1.0003. */
#define BY_A_FACTOR 20

struct bits {
	uint64_t n, apart, grown, rows, cols;
	double units; /* largest distance */
};

/* Units of the last place: the cell of a float is half a unit on its wide side. */
static double units_apart(const struct st_cells *a, const struct st_cells *b, uint64_t i)
{
	double half = fmin(fmax(a->below[i], a->above[i]), fmax(b->below[i], b->above[i]));
	return rint(fabs((double)a->value[i] - b->value[i]) / (2 * half));
}

static enum st_status count_bits(struct st_trial *t, struct bits *out)
{
	uint64_t rows = t->a->rows, cols = t->a->cols;
	struct st_dense x, y;
	bool *hit = st_arena_alloc(&t->arena, cols, sizeof *hit);
	*out = (struct bits){ 0 };
	if (!hit)
		return st_fail(t->err, ST_ERR_NOMEM, "out of memory");
	ST_TRY(st_dense_make(&t->arena, 1, cols, &x, t->err));
	ST_TRY(st_dense_make(&t->arena, 1, cols, &y, t->err));
	struct st_cells a = st_dense_row(&x, 0), b = st_dense_row(&y, 0);
	for (uint64_t i = 0; i < cols; i++)
		hit[i] = false;
	for (uint64_t r = 0; r < rows && out->units <= MOST_UNITS; r++) {
		uint64_t before = out->apart;
		t->a->get(t->a, r, &a);
		t->b->get(t->b, r, &b);
		for (uint64_t i = 0; i < cols; i++) {
			out->n++;
			if (a.value[i] == b.value[i])
				continue;
			out->apart++;
			out->grown += fabsf(a.value[i]) > fabsf(b.value[i]);
			out->cols += !hit[i];
			hit[i] = true;
			out->units = fmax(out->units, units_apart(&a, &b, i));
		}
		out->rows += out->apart > before;
		if (r % 256 == 0)
			ST_TRY(st_check_cancel(t->err));
	}
	return ST_OK;
}

/* As many rows, or columns, as elements that fall anywhere touch: two thirds of the smaller number, or more. */
static bool all_over(uint64_t apart, uint64_t hit, uint64_t of) { return 2 * hit >= (apart < of ? apart : of); }

/*
 * Another way to round, bits that flipped, arithmetic in between: what did it cannot be told. A factor is another
 * cause, and so are rows or columns that differ while the others do not.
 */
enum st_status st_test_last_bits(struct st_trial *t)
{
	enum st_dtype type = t->a->held.type;
	struct bits bits;
	if (type != t->b->held.type || st_dtype_info(type)->kind != ST_KIND_FLOAT || t->d->nonfinite_a
	    || t->d->nonfinite_b)
		return ST_OK;
	ST_TRY(count_bits(t, &bits));
	bool one_way = bits.grown == 0 || bits.grown == bits.apart;
	if (!(bits.units <= MOST_UNITS) || 2 * bits.apart > bits.n || (one_way && BY_A_FACTOR * bits.apart > bits.n)
	    || !all_over(bits.apart, bits.rows, t->a->rows) || !all_over(bits.apart, bits.cols, t->a->cols))
		return ST_OK;
	struct st_cause c = { .code = ST_CAUSE_WEIGHT_LAST_BITS, .residual_after = t->d->rel_l2 };
	st_cause_put(&c, ST_PARAM_ELEMENTS, (double)bits.apart);
	st_cause_put(&c, ST_PARAM_OF, (double)bits.n);
	st_cause_put(&c, ST_PARAM_UNITS, bits.units);
	st_cause_put_text(&c, ST_PARAM_TYPE, st_dtype_info(type)->name);
	st_trial_decide(t, c, 0);
	return ST_OK;
}
