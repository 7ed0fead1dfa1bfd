/* weight_gain.c - factors between two sides. */
#include "compare/weight_gain.h"

#include <float.h>
#include <math.h>

static bool known(double x) { return fabs(x) <= DBL_MAX; }

/* least and most of the g > 0 for which g [lo, hi] meets [xl, xh] */
static void narrow(double lo, double hi, double xl, double xh, double *least, double *most)
{
	if (known(lo) && known(xh)) { /* g lo <= xh */
		if (lo > 0)
			*most = fmin(*most, xh / lo);
		else if (lo < 0)
			*least = fmax(*least, xh / lo);
		else if (xh < 0)
			*most = -1;
	}
	if (known(hi) && known(xl)) { /* g hi >= xl */
		if (hi > 0)
			*least = fmax(*least, xl / hi);
		else if (hi < 0)
			*most = fmin(*most, xl / hi);
		else if (xl > 0)
			*most = -1;
	}
}

void st_gain_add(struct st_gain *g, const struct st_cells *a, const struct st_cells *b, uint64_t i, float rms)
{
	double x = a->value[i], y = b->value[i];
	if (!known(x) || !known(y))
		return;
	g->aa += x * x;
	g->ab += x * y;
	g->bb += y * y;
	g->dd += (x - y) * (x - y);
	double lost = ST_CELLS_F32 * (fabs(y) + rms), sa = a->slack[i] + fabs(x) * ST_CELLS_F32,
	       sb = b->slack[i] + lost;
	double xl = x - a->below[i] - sa, xh = x + a->above[i] + sa, lo = y - b->below[i] - sb,
	       hi = y + b->above[i] + sb;
	narrow(lo, hi, xl, xh, &g->least[0], &g->most[0]);
	narrow(-hi, -lo, xl, xh, &g->least[1], &g->most[1]);
}

double st_gain_of(const struct st_gain *g)
{
	if (!(g->bb > 0))
		return 1;
	double fit = g->ab / g->bb, size = fabs(fit);
	int sign = fit < 0;
	if (!(g->least[sign] <= g->most[sign]))
		return fit;
	/* Not at the edge, where a rounding of the factor would leave it. */
	double room = fmin(g->most[sign], 2 * size) - g->least[sign], edge = 0.01 * fmax(room, 0);
	size = fmin(fmax(size, g->least[sign] + edge), g->most[sign] - edge);
	return sign ? -size : size;
}
