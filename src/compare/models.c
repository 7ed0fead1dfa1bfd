#include "compare/models.h"

#include "base/error.h"
#include "base/mem.h"

#include <stdlib.h>

#define FEWEST 3     /* matrices, to speak of a model */
#define MOST 0.5     /* of the matrices are like that: a converter's mistake is made in a kind of tensor, not in most */
#define OF_ROWS 0.25 /* of a matrix are wrong and lie over three quarters of it: it differs all over */

static bool is_matrix(const struct st_weight_diff *d)
{
	return d->a && d->b && d->rows > 1 && d->cols > 1 && d->status < ST_WEIGHT_ONLY_A;
}

static bool differs_all_over(const struct st_weight_diff *d)
{
	return d->status == ST_WEIGHT_FAULT && d->cause.code == ST_CAUSE_UNEXPLAINED && !d->nonfinite_a
	    && !d->nonfinite_b && (double)d->bad_rows >= OF_ROWS * (double)d->rows
	    && (double)(d->last_bad_row - d->first_bad_row) >= 0.75 * (double)(d->rows - 1);
}

static int ascending(const void *x, const void *y)
{
	double a = *(const double *)x, b = *(const double *)y;
	return (a > b) - (a < b);
}

enum st_status st_find_two_models(struct st_weight_diff *d, size_t n, struct st_error *err)
{
	size_t matrices = 0, differ = 0;
	double *size = st_alloc_array(n ? n : 1, sizeof *size);
	if (!size)
		return st_fail(err, ST_ERR_NOMEM, "out of memory");
	for (size_t i = 0; i < n; i++) {
		matrices += is_matrix(&d[i]);
		if (is_matrix(&d[i]) && differs_all_over(&d[i]))
			size[differ++] = d[i].rel_l2;
	}
	if (differ >= FEWEST && (double)differ > MOST * (double)matrices) {
		qsort(size, differ, sizeof *size, ascending);
		for (size_t i = 0; i < n; i++) {
			if (!is_matrix(&d[i]) || !differs_all_over(&d[i]))
				continue;
			struct st_cause c = { .code = ST_CAUSE_WEIGHT_TWO_MODELS,
				              .confidence = ST_LIKELY,
				              .residual_before = d[i].rel_l2,
				              .residual_after = d[i].rel_l2,
				              .floor = d[i].predicted };
			st_cause_put(&c, ST_PARAM_TENSORS, (double)differ);
			st_cause_put(&c, ST_PARAM_OF, (double)matrices);
			st_cause_put(&c, ST_PARAM_MEDIAN, size[differ / 2]);
			d[i].cause = c;
		}
	}
	free(size);
	return ST_OK;
}
