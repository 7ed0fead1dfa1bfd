/* stats.c - statistics of one stage's value. */
#include "trace/trace.h"

#include <math.h>

void st_stats_of(const float *x, size_t n, struct st_trace_stats *s)
{
	double sum = 0, squares = 0, min = INFINITY, max = -INFINITY;
	uint64_t nan = 0, inf = 0;
	for (size_t i = 0; i < n; i++) {
		double v = (double)x[i];
		if (!isfinite(v)) {
			nan += isnan(v) != 0;
			inf += isinf(v) != 0;
			continue;
		}
		sum += v;
		squares += v * v;
		min = v < min ? v : min;
		max = v > max ? v : max;
	}
	s->n_nan = nan;
	s->n_inf = inf;
	uint64_t finite = n - nan - inf;
	if (finite == 0) {
		s->min = s->max = s->mean = s->std = s->l2 = NAN;
		return;
	}
	/* A second pass for the spread: the difference of two large sums would lose it. */
	double mean = sum / (double)finite, spread = 0;
	for (size_t i = 0; i < n; i++) {
		double d = (double)x[i] - mean;
		if (isfinite(d))
			spread += d * d;
	}
	s->min = min;
	s->max = max;
	s->mean = mean;
	s->std = sqrt(spread / (double)finite);
	s->l2 = sqrt(squares);
}
