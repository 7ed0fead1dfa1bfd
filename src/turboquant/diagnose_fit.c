/* diagnose_fit.c - numbers that nobody lists: the value that fits best, on a logarithmic grid and then by golden section. */
#include "turboquant/diagnose.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

enum { OCTAVES = 4, PER_OCTAVE = 8, GRID = 2 * OCTAVES * PER_OCTAVE + 1 };
/* A grid that removes less of the residual than this has nothing near the answer on it. */
static const double promising = 0.7;

static const struct number {
	const char *code, *name, *text;
	size_t field;             /* of struct edit: a double, 0 = its own */
} numbers[] = {
	{ "cache.quantiser", "factor", "a centroid was scaled by norm x %.6g instead of norm x %.6g (fitted)", offsetof(struct edit, factor) },
	{ "attn.scale", "scale", "the scores have the scale %.6g instead of %.6g (fitted)", offsetof(struct edit, scale) },
	{ "attn.softcap", "softcap", "the soft-cap is %.6g instead of %.6g (fitted)", offsetof(struct edit, softcap) },
};

static struct edit with(const struct number *f, enum round round, double own, double log2_ratio)
{
	struct edit e = { .round = round };
	double x = own * exp2(log2_ratio);
	memcpy((char *)&e + f->field, &x, sizeof x);
	return e;
}

static double residual_at(struct step *s, const struct number *f, enum round round, double own, double log2_ratio)
{
	const struct edit e = with(f, round, own, log2_ratio);
	st_step_evaluate(s, &e);
	return st_step_residual(s);
}

static void fit(struct step *s, const struct number *f, enum round round, double own, double before, struct table *t)
{
	struct hypothesis grid[GRID] = { 0 };
	int at = 0;
	for (int i = 0; i < GRID; i++)
		grid[i].e = with(f, round, own, (double)i / PER_OCTAVE - OCTAVES);
	t->failed |= !st_step_try(s, grid, GRID);
	for (int i = 1; i < GRID; i++)
		at = grid[i].residual < grid[at].residual ? i : at;
	if (!(grid[at].residual < promising * before))
		return;
	/* The residual falls towards one value from both sides: keep the side with the smaller of two inner points. */
	const double inner = 0.38196601125010515;
	double lo = (at - 1.0) / PER_OCTAVE - OCTAVES, hi = (at + 1.0) / PER_OCTAVE - OCTAVES;
	double a = lo + inner * (hi - lo), b = hi - inner * (hi - lo);
	double ra = residual_at(s, f, round, own, a), rb = residual_at(s, f, round, own, b);
	while (hi - lo > 1e-9) {
		if (ra < rb) {
			hi = b, b = a, rb = ra;
			a = lo + inner * (hi - lo);
			ra = residual_at(s, f, round, own, a);
		} else {
			lo = a, a = b, ra = rb;
			b = hi - inner * (hi - lo);
			rb = residual_at(s, f, round, own, b);
		}
	}
	const double value = own * exp2(0.5 * (lo + hi));
	const bool sf = s->c->p.head_dim == 512 && f == &numbers[0];
	struct hypothesis *h = st_hypothesis_add_value(t, f->code, sf ? "scale_factor_d512" : f->name, sf ? 1 / value : value, "");
	snprintf(h->text, sizeof h->text, f->text, value, own);
	h->e = with(f, round, own, 0.5 * (lo + hi));
}

void st_fit_numbers(struct step *s, enum round round, struct table *t)
{
	const double own[] = { s->decode.factor, s->c->p.scale, s->c->p.softcap };
	st_step_evaluate(s, &(struct edit){ .round = round });
	const double before = st_step_residual(s);
	for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++)
		if (own[i] != 0)
			fit(s, numbers + i, round, own[i], before, t);
}
