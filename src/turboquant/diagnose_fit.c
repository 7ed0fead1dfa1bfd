/* diagnose_fit.c - numbers that nobody lists: the value that fits best, on a logarithmic grid and then between its
 * points. */
#include "turboquant/diagnose.h"

#include <math.h>
#include <string.h>

enum { OCTAVES = 4, PER_OCTAVE = 8, GRID = 2 * OCTAVES * PER_OCTAVE + 1, STEPS = 5 };
/* A value that leaves more of the residual than this is not worth a line among the candidates. */
static const double promising = 0.7;

static const char scaled[] = "a centroid was scaled by norm x %.6g instead of norm x %.6g (fitted)";
static const struct number {
	enum st_cause_code code;
	enum st_param_name name;
	const char *text;
	size_t field;  /* of struct edit: a double, 0 = its own */
	bool one_head; /* fitted where one key/value head alone is off, the others where several are */
} numbers[] = {
	{ ST_CAUSE_CACHE_QUANTISER, ST_PARAM_FACTOR, scaled, offsetof(struct edit, factor), false },
	{ ST_CAUSE_ATTN_SCALE, ST_PARAM_SCALE, "the scores have the scale %.6g instead of %.6g (fitted)",
	  offsetof(struct edit, scale), false },
	{ ST_CAUSE_ATTN_SOFTCAP, ST_PARAM_SOFTCAP, "the soft-cap is %.6g instead of %.6g (fitted)",
	  offsetof(struct edit, softcap), false },
	{ ST_CAUSE_CACHE_QUANTISER, ST_PARAM_K_GAIN, "keys carry the factor %.6g instead of %.6g (fitted)",
	  offsetof(struct edit, k_gain), true },
	{ ST_CAUSE_CACHE_QUANTISER, ST_PARAM_FACTOR, scaled, offsetof(struct edit, factor), true },
};

/* What all fits of a pass have in common: the query under test and where the output is off. */
struct place {
	enum round round;
	bool one_head;
	uint32_t kv_head;
	double before; /* residual of the declared step with that query */
};

static struct edit with(const struct number *f, const struct place *at, double own, double log2_ratio)
{
	struct edit e = { .round = at->round, .one_head = f->one_head, .kv_head = f->one_head ? at->kv_head : 0 };
	double x = own * exp2(log2_ratio);
	memcpy((char *)&e + f->field, &x, sizeof x);
	return e;
}

static void fit(struct step *s, const struct number *f, const struct place *place, double own, struct table *t)
{
	struct hypothesis grid[GRID] = { 0 }, near[3] = { 0 };
	int at = 0;
	for (int i = 0; i < GRID; i++)
		grid[i].e = with(f, place, own, (double)i / PER_OCTAVE - OCTAVES);
	t->failed |= !st_step_try(s, grid, GRID);
	for (int i = 1; i < GRID; i++)
		at = grid[i].residual < grid[at].residual ? i : at;
	/* The square of the residual is a parabola near its least value: the vertex of the one through three points,
	 * ever closer. */
	double x = (double)at / PER_OCTAVE - OCTAVES, span = 1.0 / PER_OCTAVE;
	for (int step = 0; step < STEPS; step++) {
		double y[3];
		for (int i = 0; i < 3; i++)
			near[i].e = with(f, place, own, x + (i - 1) * span);
		t->failed |= !st_step_try(s, near, 3);
		for (int i = 0; i < 3; i++)
			y[i] = near[i].residual * near[i].residual;
		const double bend = y[0] - 2 * y[1] + y[2], move = 0.5 * (y[0] - y[2]) / bend;
		if (!(bend > 0 && fabs(move) <= 2))
			return;
		x += span * move;
		span /= PER_OCTAVE;
	}
	if (!(near[1].residual < promising * place->before))
		return;
	const double value = own * exp2(x);
	const bool sf = s->c->p.head_dim == 512 && f->field == offsetof(struct edit, factor);
	struct hypothesis *h = st_hypothesis_add(t, f->code, "", sf ? ST_PARAM_SCALE_FACTOR_D512 : f->name,
	                                         sf ? 1 / value : value, with(f, place, own, x));
	st_hypothesis_say(h, f->text, value, own);
	st_hypothesis_say_head(h);
}

/* A factor on the values is one on the output, so no grid is needed. s holds the evaluation of the declared step. */
static void fit_v_gain(struct step *s, const struct place *place, struct table *t)
{
	const struct st_tq_params *p = &s->c->p;
	const size_t span = place->one_head ? (size_t)(p->num_heads / p->num_kv_heads) * p->head_dim : s->n;
	const size_t from = place->one_head ? place->kv_head * span : 0;
	double xy = 0, yy = 0;
	for (size_t i = from; i < from + span; i++) {
		xy += s->observed[i] * s->out[i];
		yy += s->out[i] * s->out[i];
	}
	if (!(xy > 0 && yy > 0))
		return;
	struct hypothesis *h = st_hypothesis_add(t, ST_CAUSE_CACHE_QUANTISER, "", ST_PARAM_V_GAIN, xy / yy,
	                                         (struct edit){ .round = place->round,
	                                                        .one_head = place->one_head,
	                                                        .kv_head = place->one_head ? place->kv_head : 0,
	                                                        .v_gain = xy / yy });
	st_hypothesis_say(h, "values carry the factor %.6g (fitted)", xy / yy);
	st_hypothesis_say_head(h);
}

void st_fit_numbers(struct step *s, enum round round, double floor, struct table *t)
{
	const double own[] = { s->decode.factor, s->c->p.scale, s->c->p.softcap, 1, s->decode.factor };
	_Static_assert(sizeof own / sizeof *own == sizeof numbers / sizeof *numbers, "one value for each number");
	struct place place = { .round = round };
	st_step_evaluate(s, &(struct edit){ .round = round });
	place.before = st_step_residual(s);
	place.kv_head = st_step_worst_head(s, floor, &place.one_head);
	fit_v_gain(s, &place, t);
	for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++)
		if (own[i] != 0 && numbers[i].one_head == place.one_head)
			fit(s, numbers + i, &place, own[i], t);
}
