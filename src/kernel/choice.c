/* choice.c - groups, shares and limits: a few numbers for each token, in plain order. */
#include "kernel/choice.h"

#include "kernel/kernels.h"

#include <assert.h>

void st_mask_groups(const float *x, size_t n, size_t groups, size_t used, size_t best, float *y)
{
	size_t each = n / groups;
	double sum[ST_MAX_GROUPS] = { 0 };
	assert(groups > 0 && groups <= ST_MAX_GROUPS && n % groups == 0 && best <= each && best <= 2);
	for (size_t g = 0; g < groups; g++) {
		float at[2];
		st_top(x + g * each, each, best, at);
		for (size_t b = 0; b < best; b++)
			sum[g] += (double)x[g * each + (size_t)at[b]];
	}
	for (size_t g = 0; g < groups; g++) {
		size_t before = 0; /* runs that come first */
		for (size_t o = 0; o < groups; o++)
			before += sum[o] > sum[g] || (sum[g] != sum[g] && sum[o] == sum[o])
			       || (o < g && (sum[o] == sum[g] || (sum[o] != sum[o] && sum[g] != sum[g])));
		for (size_t i = g * each; i < (g + 1) * each; i++)
			y[i] = before < used ? x[i] : -INFINITY;
	}
}

void st_chosen(const float *x, const float *index, size_t C, const struct st_shares *s, float *y)
{
	double sum = s->plus;
	for (size_t c = 0; c < C && s->shares; c++)
		sum += (double)x[(size_t)index[c]];
	sum = !s->shares ? 1 : sum < s->least ? s->least : sum;
	for (size_t c = 0; c < C; c++)
		y[c] = st_canonical((float)((double)x[(size_t)index[c]] / sum * s->by));
}

void st_clamp(const float *x, float low, float high, size_t n, float *y)
{
	for (size_t i = 0; i < n; i++)
		y[i] = st_canonical(x[i] > high ? high : x[i] < low ? low : x[i]);
}

void st_near_shares(const float *x, size_t n, const float *index, size_t C, double jitter, float *y)
{
	for (size_t c = 0; c < C; c++) {
		double m = (double)x[(size_t)index[c]], sum = 0;
		for (size_t i = 0; i < n; i++) {
			double v = (double)x[i], size = fabs(v) < m ? m : fabs(v);
			bool before = false;
			for (size_t b = 0; b < c; b++)
				before |= index[b] == (float)i;
			if (!before && !((m - v) / size > 2 * jitter))
				sum += st_exp(v - m);
		}
		y[c] = st_canonical((float)(1 / sum));
	}
}

/* log(1 + exp(x)) */
static double softplus(double x) { return x > 40 ? x : st_log(1 + st_exp(x)); }

/* exp(x) - 1 - x, where for small x all of it would cancel. x <= 0 */
static double beyond_line(double x)
{
	if (x > -1e-2)
		return x * x / 2 * (1 + x / 3 * (1 + x / 4 * (1 + x / 5 * (1 + x / 6))));
	return st_exp(x) - 1 - x;
}

void st_xielu(const float *x, const double p[4], size_t n, float *y)
{
	double above = softplus(p[0]), below = p[2] + softplus(p[1]), beta = p[2], eps = p[3];
	for (size_t i = 0; i < n; i++) {
		double v = (double)x[i], part;
		if (v > 0)
			part = above * v * v;
		else if (v > eps)
			part = (beyond_line(eps) + eps - v) * below;
		else
			part = beyond_line(v) * below;
		y[i] = st_canonical((float)(part + beta * v));
	}
}

void st_l2norm(const float *x, double eps, size_t n, float *y)
{
	double sum = 0;
	for (size_t i = 0; i < n; i++)
		sum += (double)x[i] * (double)x[i];
	double r = 1 / sqrt(sum + eps);
	for (size_t i = 0; i < n; i++)
		y[i] = st_canonical((float)((double)x[i] * r));
}
