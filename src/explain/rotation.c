/* rotation.c - mistakes made in a rotary embedding: the angles that a trace really has, and what they are. */
#include "explain/hypotheses.h"

#include "arch/arch.h"
#include "base/error.h"
#include "dtype/half.h"
#include "graph/basis.h"
#include "explain/rounding.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define PI 3.14159265358979323846

/* How values are turned. */
struct turn {
	const double *freq; /* of n_rot / 2 pairs; NULL: the node's own */
	double times, offset, mscale;
	uint32_t n_rot;
	uint32_t apart; /* of HALVES: from one feature of a pair to the other; 0: n_rot / 2 */
	enum { HALVES, ADJACENT, HALVES_OF_PAIRS } pairs;
	enum st_dtype precision; /* of angles */
	double beyond;           /* positions are counted modulo it; 0: not */
};

static struct turn own_turn(const struct st_trial *t)
{
	return (struct turn){ .times = 1, .mscale = t->n->mscale, .n_rot = t->n->n_rot, .precision = ST_DTYPE_F32 };
}

static size_t position(const struct st_trial *t, size_t r) { return t->P - t->T + r; }

static void turn_head(const struct st_trial *t, const struct turn *w, const float *x, double pos, float *y)
{
	size_t d = t->n->head_dim, half = w->n_rot / 2, apart = w->apart ? w->apart : half;
	float pairs[ST_MAX_HEAD_DIM], turned[ST_MAX_HEAD_DIM];
	const float *in = x;
	if (w->pairs == HALVES_OF_PAIRS) { /* the file's own order, in which pairs are adjacent */
		for (size_t i = 0; i < d; i++)
			pairs[i] = i < w->n_rot ? x[i % 2 ? half + i / 2 : i / 2] : x[i];
		in = pairs;
	}
	memcpy(turned, in, d * sizeof *turned);
	const double *freq = w->freq ? w->freq : t->n->inv_freq;
	for (size_t i = 0; i < half; i++) {
		double angle;
		if (w->precision != ST_DTYPE_F32) {
			float f = (float)freq[i], p = (float)(pos + w->offset);
			st_round_to(w->precision, &f, 1, 1);
			st_round_to(w->precision, &p, 1, 1);
			float a = f * p;
			st_round_to(w->precision, &a, 1, 1);
			angle = a;
		} else {
			angle = w->times * (pos + w->offset) * freq[i];
		}
		size_t a = w->pairs == ADJACENT ? 2 * i : i, b = w->pairs == ADJACENT ? a + 1 : a + apart;
		double c = cos(angle) * w->mscale, s = sin(angle) * w->mscale;
		turned[a] = (float)(in[a] * c - in[b] * s);
		turned[b] = (float)(in[a] * s + in[b] * c);
	}
	if (w->pairs != HALVES_OF_PAIRS) {
		memcpy(y, turned, d * sizeof *y);
		return;
	}
	for (size_t i = 0; i < d; i++)
		y[i < w->n_rot ? (i % 2 ? half + i / 2 : i / 2) : i] = turned[i];
}

static void turn_all(const struct st_trial *t, const struct turn *w, float *y)
{
	for (size_t r = 0; r < t->T; r++)
		for (size_t h = 0; h < t->n->heads; h++)
			turn_head(t, w, t->in[0] + r * t->ld[0] + h * t->n->head_dim, (double)position(t, r),
			          y + r * t->n->width + h * t->n->head_dim);
}

static enum st_status try_turn(struct st_trial *t, const struct turn *w, const struct st_cause *c, struct st_error *err)
{
	turn_all(t, w, st_trial_buffer(t));
	return st_try_value(t, st_trial_buffer(t), c, err);
}

/* Square of what a turn leaves of the captured value; of a value that is captured itself. */
static double leaves(const struct st_trial *t, const struct turn *w)
{
	double sum = 0;
	float y[ST_MAX_HEAD_DIM];
	for (size_t r = 0; r < t->T; r++)
		for (size_t h = 0; h < t->n->heads && st_trial_has(t, r); h++) {
			turn_head(t, w, t->in[0] + r * t->ld[0] + h * t->n->head_dim, (double)position(t, r), y);
			for (size_t i = 0; i < t->n->head_dim; i++) {
				double d = y[i] - (double)t->got[r * t->n->width + h * t->n->head_dim + i];
				sum += d * d;
			}
		}
	return sum;
}

/* The angle of pair i of row r, over all heads, and how much longer the pairs became. */
static double measured(const struct st_trial *t, size_t r, size_t i, double *longer)
{
	double re = 0, im = 0, before = 0, after = 0;
	size_t half = t->n->n_rot / 2;
	for (size_t h = 0; h < t->n->heads; h++) {
		const float *x = t->in[0] + r * t->ld[0] + h * t->n->head_dim;
		const float *y = t->got + r * t->n->width + h * t->n->head_dim;
		re += (double)x[i] * y[i] + (double)x[i + half] * y[i + half];
		im += (double)x[i] * y[i + half] - (double)x[i + half] * y[i];
		before += (double)x[i] * x[i] + (double)x[i + half] * x[i + half];
		after += (double)y[i] * y[i] + (double)y[i + half] * y[i + half];
	}
	if (longer)
		*longer = before > 0 ? sqrt(after / before) : 1;
	return atan2(im, re);
}

static double wrap(double a) { return a - 2 * PI * floor(a / (2 * PI) + 0.5); }

/* The frequency of each pair: from the smallest position, then followed through the larger ones. False where no
 * position but 0 is there. */
static bool fit_frequencies(const struct st_trial *t, double *freq)
{
	size_t first = SIZE_MAX;
	for (size_t r = 0; r < t->T && first == SIZE_MAX; r++)
		if (st_trial_has(t, r) && position(t, r) > 0)
			first = r;
	if (first == SIZE_MAX)
		return false;
	for (size_t i = 0; i < t->n->n_rot / 2; i++) {
		double p = (double)position(t, first), f = measured(t, first, i, NULL) / p;
		for (size_t r = first + 1; r < t->T; r++) {
			double q = (double)position(t, r);
			if (!st_trial_has(t, r) || q > 2 * p + 1)
				continue;
			f = (q * f + wrap(measured(t, r, i, NULL) - q * f)) / q;
			p = q;
		}
		freq[i] = f;
	}
	return true;
}

static double fit_mscale(const struct st_trial *t)
{
	double sum = 0, n = 0, longer;
	for (size_t r = 0; r < t->T; r++)
		for (size_t i = 0; i < t->n->n_rot / 2 && st_trial_has(t, r); i++) {
			measured(t, r, i, &longer);
			sum += longer;
			n++;
		}
	return n ? sum / n : 1;
}

static void pure(double theta, uint32_t n_rot, double *freq)
{
	for (uint32_t i = 0; i < n_rot / 2; i++)
		freq[i] = pow(theta, -2.0 * i / n_rot);
}

static int by_size(const void *a, const void *b)
{
	double p = *(const double *)a, q = *(const double *)b;
	return (p > q) - (p < q);
}

/* Theta that a set of frequencies has; 0: most have none. Pairs without length (a norm may have weights of 0 there)
 * show no angle: those that are far from the middle one are not counted. */
static double theta_of(const double *freq, uint32_t n_rot)
{
	uint32_t half = n_rot / 2, used = 0, near = 0;
	double logs[ST_MAX_HEAD_DIM / 2], sum = 0;
	for (uint32_t i = 1; i < half; i++)
		if (freq[i] > 0)
			logs[used++] = -log(freq[i]) * n_rot / (2.0 * i);
	if (used == 0 || used < half / 2)
		return 0;
	qsort(logs, used, sizeof *logs, by_size);
	for (uint32_t i = 0; i < used; i++)
		if (fabs(logs[i] - logs[used / 2]) < 0.01) {
			sum += logs[i];
			near++;
		}
	return exp(sum / near);
}

static enum st_status try_theta(struct st_trial *t, double theta, double expected, struct st_error *err)
{
	double freq[ST_MAX_HEAD_DIM / 2];
	struct turn w = own_turn(t);
	struct st_cause c = st_blame(ST_CAUSE_ROPE_THETA);
	pure(theta, t->n->n_rot, freq);
	w.freq = freq;
	st_cause_put(&c, ST_PARAM_VALUE, theta);
	st_cause_put(&c, ST_PARAM_EXPECTED, expected);
	return try_turn(t, &w, &c, err);
}

static enum st_status test_frequencies(struct st_trial *t, struct st_error *err)
{
	static const double thetas[] = { 1e4, 1e5, 5e5, 1e6, 1e7, 2.5e5, 5e4, 1.6e5, 8e6, 1e3, 2e5, 2e6, 5e6 };
	uint32_t n = t->n->n_rot, half = n / 2;
	double freq[ST_MAX_HEAD_DIM / 2], plain[ST_MAX_HEAD_DIM / 2];
	if (!t->n->inv_freq || half < 2)
		return ST_OK;
	/* The model's own base: of its fastest pairs, which no scaling touches. */
	double said = st_model_config(t->x->m)->rope_theta;
	double own = said > 0 ? said : st_two_figures(0.02, exp(-log(t->n->inv_freq[1] / t->n->inv_freq[0]) * n / 2.0));
	struct turn w = own_turn(t);
	struct st_cause c;
	pure(own, n, plain);
	bool scaled = false;
	for (uint32_t i = 0; i < half; i++)
		scaled |= fabs(plain[i] / t->n->inv_freq[i] - 1) > 1e-3;
	if (scaled) {
		c = st_blame(ST_CAUSE_ROPE_FREQ_SCALING);
		st_cause_put_text(&c, ST_PARAM_HOW, "ignored");
		w.freq = plain;
		ST_TRY(try_turn(t, &w, &c, err));
		w.mscale = 1;
		if (t->n->mscale != 1)
			ST_TRY(try_turn(t, &w, &c, err));
		w.mscale = t->n->mscale;
	}
	if (!st_trial_direct(t) || !fit_frequencies(t, freq)) {
		for (size_t i = 0; i < sizeof thetas / sizeof *thetas; i++)
			if (fabs(thetas[i] / own - 1) > 1e-6)
				ST_TRY(try_theta(t, thetas[i], own, err));
		return ST_OK;
	}
	double theta = theta_of(freq, n);
	if (theta > 1) {
		ST_TRY(try_theta(t, st_two_figures(0.02, theta), own, err));
		ST_TRY(try_theta(t, theta, own, err));
	}
	/* Scaled as the model says, of another base. */
	double by = 0;
	for (uint32_t i = 0; i < half; i++)
		plain[i] = freq[i] / t->n->inv_freq[i];
	by = theta_of(plain, n);
	if (scaled && by > 0) {
		theta = st_two_figures(0.02, own * by);
		for (uint32_t i = 0; i < half; i++)
			plain[i] = t->n->inv_freq[i] * pow(theta / own, -2.0 * i / n);
		c = st_blame(ST_CAUSE_ROPE_THETA);
		st_cause_put(&c, ST_PARAM_VALUE, theta);
		st_cause_put(&c, ST_PARAM_EXPECTED, own);
		w.freq = plain;
		ST_TRY(try_turn(t, &w, &c, err));
		w.freq = NULL;
	}
	double sum = 0, least = INFINITY, most = 0;
	for (uint32_t i = 0; i < half; i++) {
		double ratio = freq[i] / t->n->inv_freq[i];
		sum += ratio;
		least = fmin(least, ratio);
		most = fmax(most, ratio);
	}
	c = st_blame(ST_CAUSE_ROPE_FREQ_SCALING);
	double ratio = sum / half;
	if (most < 1.02 * least && ratio > 0) { /* all alike: linear */
		w.freq = NULL;
		w.times = fabs(1 / ratio - floor(1 / ratio + 0.5)) < 0.02 / ratio ? 1 / floor(1 / ratio + 0.5) : ratio;
		st_cause_put_text(&c, ST_PARAM_HOW, "linear");
		st_cause_put(&c, ST_PARAM_FACTOR, 1 / w.times);
		ST_TRY(try_turn(t, &w, &c, err));
	}
	return ST_OK;
}

/* A frequency of its own for each pair: what has so many parameters comes last. */
static enum st_status test_each_pair(struct st_trial *t, struct st_error *err)
{
	double freq[ST_MAX_HEAD_DIM / 2], least = INFINITY;
	if (!st_trial_direct(t) || t->n->n_rot < 4 || !fit_frequencies(t, freq))
		return ST_OK;
	for (uint32_t i = 0; i < t->n->n_rot / 2; i++)
		least = fmin(least, freq[i] / t->n->inv_freq[i]);
	struct turn w = own_turn(t);
	struct st_cause c = st_blame(ST_CAUSE_ROPE_FREQ_SCALING);
	w.freq = freq;
	w.mscale = fit_mscale(t);
	st_cause_put_text(&c, ST_PARAM_HOW, "each pair has another frequency");
	st_cause_put(&c, ST_PARAM_FACTOR, least > 0 ? 1 / least : 0);
	return try_turn(t, &w, &c, err);
}

static enum st_status test_offset(struct st_trial *t, struct st_error *err)
{
	struct turn w = own_turn(t);
	int reach = t->P < 64 ? (int)t->P : 64, best = 0;
	double least = INFINITY;
	for (int o = -reach; o <= reach; o++) {
		w.offset = o;
		struct st_cause c = st_blame(ST_CAUSE_ROPE_POSITION_OFFSET);
		st_cause_put(&c, ST_PARAM_OFFSET, o);
		if (o == 0)
			continue;
		if (!st_trial_direct(t)) {
			if (abs(o) <= 2)
				ST_TRY(try_turn(t, &w, &c, err));
			continue;
		}
		double left = leaves(t, &w);
		if (left < least) {
			least = left;
			best = o;
		}
	}
	if (!best)
		return ST_OK;
	w.offset = best;
	struct st_cause c = st_blame(ST_CAUSE_ROPE_POSITION_OFFSET);
	st_cause_put(&c, ST_PARAM_OFFSET, best);
	return try_turn(t, &w, &c, err);
}

/* Frequencies that pairs may have when another part of a head turns. */
enum { OF_PART, OF_MODEL, FIRST_OF_MODEL, SPREAD_OF_MODEL, SCALED_OF_PART, PARTS };

static bool part_frequencies(const struct st_trial *t, int kind, double theta, uint32_t n_rot, double *freq)
{
	uint32_t n = t->n->n_rot;
	bool less = n_rot < n;
	const double *own = t->n->inv_freq;
	for (uint32_t i = 0; i < n_rot / 2; i++) {
		double of_part = pow(theta, -2.0 * i / n_rot), of_model = pow(theta, -2.0 * i / n);
		freq[i] = kind == OF_PART        ? of_part
		        : kind == OF_MODEL       ? of_model
		        : kind == SCALED_OF_PART ? of_part * (i < n / 2 ? own[i] / of_model : 1)
		        : !less                  ? 0
		        : kind == FIRST_OF_MODEL ? own[i]
		                                 : own[i * (n / n_rot)];
	}
	return kind == OF_PART || kind == OF_MODEL || kind == SCALED_OF_PART
	    || (less && (kind == FIRST_OF_MODEL || n % n_rot == 0));
}

/* Pairs are features a half of that part apart, or, where a file's pairs are neighbours, a half of the model's. */
static enum st_status test_partial(struct st_trial *t, struct st_error *err)
{
	double freq[ST_MAX_HEAD_DIM / 2];
	uint32_t n = t->n->n_rot, d = t->n->head_dim;
	if (n < 4)
		return ST_OK;
	double theta = exp(-log(t->n->inv_freq[1] / t->n->inv_freq[0]) * n / 2.0),
	       said = st_model_config(t->x->m)->rope_theta;
	for (uint32_t k = 1; k <= 8; k++)
		for (int kind = 0; kind < PARTS; kind++)
			for (int wide = 0; wide < 2; wide++) {
				struct turn w = own_turn(t);
				struct st_cause c = st_blame(ST_CAUSE_ROPE_PARTIAL);
				w.n_rot = d * k / 8 / 2 * 2;
				w.apart = wide ? n / 2 : 0;
				if (w.n_rot < 2 || w.n_rot == n || (wide && w.n_rot > n)
				    || !part_frequencies(t, kind, said > 0 ? said : theta, w.n_rot, freq))
					continue;
				w.freq = freq;
				st_cause_put(&c, ST_PARAM_VALUE, w.n_rot);
				st_cause_put(&c, ST_PARAM_EXPECTED, n);
				ST_TRY(try_turn(t, &w, &c, err));
			}
	return ST_OK;
}

static enum st_status test_kinds(struct st_trial *t, struct st_error *err)
{
	static const struct {
		enum st_cause_code code;
		double times;
		int pairs;
		enum st_dtype precision;
	} kinds[] = {
		{ ST_CAUSE_ROPE_NOT_APPLIED, 0, HALVES, ST_DTYPE_F32 },
		{ ST_CAUSE_ROPE_STYLE, 1, ADJACENT, ST_DTYPE_F32 },
		{ ST_CAUSE_ROPE_STYLE, 1, HALVES_OF_PAIRS, ST_DTYPE_F32 },
		{ ST_CAUSE_ROPE_DIRECTION, -1, HALVES, ST_DTYPE_F32 },
		{ ST_CAUSE_ROPE_APPLIED_TWICE, 2, HALVES, ST_DTYPE_F32 },
		{ ST_CAUSE_ROPE_LOW_PRECISION, 1, HALVES, ST_DTYPE_BF16 },
		{ ST_CAUSE_ROPE_LOW_PRECISION, 1, HALVES, ST_DTYPE_F16 },
	};
	for (size_t k = 0; k < sizeof kinds / sizeof *kinds; k++) {
		struct turn w = own_turn(t);
		struct st_cause c = st_blame(kinds[k].code);
		w.times = kinds[k].times;
		w.pairs = kinds[k].pairs;
		w.precision = kinds[k].precision;
		if (kinds[k].times == 0)
			w.mscale = 1;
		if (kinds[k].precision != ST_DTYPE_F32)
			st_cause_put_text(&c, ST_PARAM_TYPE, st_dtype_info(kinds[k].precision)->name);
		ST_TRY(try_turn(t, &w, &c, err));
	}
	if (st_trial_direct(t)) {
		struct turn w = own_turn(t);
		struct st_cause c = st_blame(ST_CAUSE_ROPE_SCALE);
		w.mscale = fit_mscale(t);
		st_cause_put(&c, ST_PARAM_VALUE, w.mscale);
		st_cause_put(&c, ST_PARAM_EXPECTED, t->n->mscale);
		ST_TRY(try_turn(t, &w, &c, err));
	}
	ST_TRY(test_offset(t, err));
	ST_TRY(test_frequencies(t, err));
	ST_TRY(test_partial(t, err));
	return test_each_pair(t, err);
}

/* With the frequencies that hold for so many positions. */
enum st_status st_test_rope(struct st_trial *t, struct st_error *err)
{
	struct st_node own = *t->n;
	struct st_trial at = *t;
	if (own.beyond.from && t->P > own.beyond.from) {
		own.inv_freq = own.beyond.inv_freq;
		own.mscale = own.beyond.mscale;
	}
	if (own.head_dim > ST_MAX_HEAD_DIM || !own.inv_freq)
		return ST_OK;
	at.n = &own;
	enum st_status st = test_kinds(&at, err);
	t->best_ratio = at.best_ratio;
	return st;
}
