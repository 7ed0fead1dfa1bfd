/* sizes.c - the second look at noise: how large it is beside what the types cost. */
#include <stele/compare.h>

#include "base/error.h"
#include "base/mem.h"

#include <stdlib.h>

#define TOO_LARGE 2 /* times the floor */
/* What the rounding of a block's two factors to F16 may do to its numbers. The floor knows only steps, and these vanish
 * where all numbers of a block are equal. */
#define OF_FACTORS 0x1p-10

static int by_value(const void *x, const void *y)
{
	double a = *(const double *)x, b = *(const double *)y;
	return (a > b) - (a < b);
}

enum st_status st_noise_sizes_of(const struct st_weight_diff *d, size_t n, struct st_noise_sizes *out,
                                 struct st_error *err)
{
	double *ratio = st_alloc_array(n ? n : 1, sizeof *ratio);
	*out = (struct st_noise_sizes){ 0 };
	if (!ratio)
		return st_fail(err, ST_ERR_NOMEM, "out of memory");
	for (size_t i = 0; i < n; i++) {
		if (d[i].status != ST_WEIGHT_NOISE || !(d[i].predicted > 0))
			continue;
		out->judged += d[i].judged;
		out->outside += d[i].outside;
		ratio[out->tensors] = d[i].rel_l2 / d[i].predicted;
		out->over_twice += ratio[out->tensors++] > TOO_LARGE && d[i].rel_l2 > OF_FACTORS;
	}
	if (out->tensors) {
		qsort(ratio, out->tensors, sizeof *ratio, by_value);
		out->median = ratio[out->tensors / 2];
		out->least = ratio[0];
		out->most = ratio[out->tensors - 1];
	}
	free(ratio);
	return ST_OK;
}
