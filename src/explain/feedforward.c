/* feedforward.c - mistakes made between the matrices of a feed-forward part: activations, gates, limits, constants. */
#include "explain/hypotheses.h"

#include "base/error.h"
#include "explain/rounding.h"

#include <math.h>
#include <stdlib.h>

static const char *const act_names[ST_ACT_COUNT] = {
	[ST_ACT_SILU] = "silu",
	[ST_ACT_GELU_TANH] = "gelu_tanh",
	[ST_ACT_GELU] = "gelu",
	[ST_ACT_RELU] = "relu",
	[ST_ACT_RELU_SQUARED] = "relu2",
	[ST_ACT_SIGMOID] = "sigmoid",
	[ST_ACT_GELU_QUICK] = "gelu_quick",
	[ST_ACT_TANH] = "tanh",
	[ST_ACT_EXP] = "exp",
};

/* A row of input k of the node. */
static const float *row_of(const struct st_trial *t, int k, size_t r) { return t->in[k] + r * t->ld[k]; }

/* The node that takes this activation times another value. */
static const struct st_node *product_of(const struct st_trial *t)
{
	for (uint32_t k = t->i + 1; k < t->x->g->n_nodes; k++) {
		const struct st_node *n = &t->x->g->nodes[k];
		if (n->op == ST_OP_MUL && (n->in[0] == t->i || n->in[1] == t->i))
			return n;
	}
	return NULL;
}

/* The largest number that a clamp lets through, by which least is left: sums of squares of the whole value. */
struct limit {
	struct st_trial *t;
	const float *gate, *up; /* up: NULL: the activation alone */
	size_t ld_gate, ld_up;
	enum st_activation act;
	float *y;
};

static void limited(const struct limit *l, double limit)
{
	struct st_trial *t = l->t;
	size_t n = t->n->width;
	for (size_t r = 0; r < t->T; r++) {
		float *y = l->y + r * n;
		for (size_t i = 0; i < n; i++)
			y[i] = fminf(l->gate[r * l->ld_gate + i], (float)limit);
		st_activate(&t->x->exec, l->act, y, n, y);
		for (size_t i = 0; i < n && l->up; i++) {
			double u = (double)l->up[r * l->ld_up + i];
			y[i] = (float)((double)y[i] * fmax(fmin(u, limit), -limit));
		}
	}
}

static double leaves(const struct st_trial *t, const float *y)
{
	double sum = 0;
	for (size_t r = 0; r < t->T; r++)
		for (size_t i = 0; i < t->n->width && st_trial_has(t, r); i++) {
			double d = (double)y[r * t->n->width + i] - t->got[r * t->n->width + i];
			sum += d * d;
		}
	return sum;
}

static enum st_status test_limit(const struct limit *l, struct st_error *err)
{
	struct st_trial *t = l->t;
	double most = 0, best = INFINITY, at = 0, step = 0;
	if (!st_trial_direct(t))
		return ST_OK;
	for (size_t r = 0; r < t->T; r++)
		for (size_t i = 0; i < t->n->width; i++) {
			most = fmax(most, (double)l->gate[r * l->ld_gate + i]);
			most = l->up ? fmax(most, fabs((double)l->up[r * l->ld_up + i])) : most;
		}
	if (!(most > 0))
		return ST_OK;
	/* By steps of the whole, then between the neighbours of the best. */
	double lo = most / 64, hi = most;
	for (int turn = 0; turn < 9; turn++) {
		step = (hi - lo) / 32;
		for (int k = 0; k <= 32; k++) {
			limited(l, lo + k * step);
			double left = leaves(t, l->y);
			if (left < best) {
				best = left;
				at = lo + k * step;
			}
		}
		lo = fmax(at - step, most / 128);
		hi = at + step;
		ST_TRY(st_check_cancel(err));
	}
	struct st_cause c = st_blame(ST_CAUSE_FFN_CLAMP);
	st_cause_put(&c, ST_PARAM_VALUE, st_two_figures(2e-3, at));
	limited(l, st_two_figures(2e-3, at));
	return st_try_value(t, l->y, &c, err);
}

/* All activations of a segment are changed together: of experts, and of the one that is shared. */
struct others {
	const struct st_trial *t;
	enum st_activation act;
	struct st_node as;
};

static const struct st_node *another_activation(void *ctx, uint32_t i)
{
	struct others *o = ctx;
	const struct st_node *n = &o->t->x->g->nodes[i];
	if (n->op != ST_OP_ACT || n->act != o->t->n->act)
		return NULL;
	o->as = *n;
	o->as.act = o->act;
	return &o->as;
}

/* Whether the segment has a later one and none before it. */
static bool first_of_its_kind(const struct st_trial *t)
{
	bool later = false;
	for (uint32_t i = t->s->first; i <= t->s->node; i++) {
		const struct st_node *n = &t->x->g->nodes[i];
		bool alike = t->x->inner[i] && n->op == t->n->op && n->act == t->n->act;
		if (alike && i < t->i)
			return false;
		later |= alike && i > t->i;
	}
	return later;
}

enum st_status st_test_activation(struct st_trial *t, struct st_error *err)
{
	const struct st_node *product = product_of(t);
	for (int k = 0; k < ST_ACT_COUNT; k++) {
		struct st_node as = *t->n;
		struct st_cause c = st_blame(ST_CAUSE_FFN_ACTIVATION);
		as.act = (enum st_activation)k;
		st_cause_put_text(&c, ST_PARAM_IS, act_names[k]);
		if (as.act == t->n->act)
			continue;
		ST_TRY(st_try_node(t, &as, &c, err));
		struct others o = { .t = t, .act = as.act };
		if (t->s->n_inner > 1 && first_of_its_kind(t))
			ST_TRY(st_try_nodes(t, another_activation, &o, &c, err));
	}
	struct st_cause c = st_blame(ST_CAUSE_FFN_ACTIVATION);
	float *y = st_trial_buffer(t);
	st_cause_put_text(&c, ST_PARAM_IS, "none");
	for (size_t r = 0; r < t->T; r++)
		for (size_t i = 0; i < t->n->width; i++)
			y[r * t->n->width + i] = row_of(t, 0, r)[i];
	ST_TRY(st_try_value(t, y, &c, err));
	if (!product)
		return ST_OK;
	bool second = product->in[1] == t->i;
	uint32_t up = product->in[!second];
	if (st_run_holds(t->x->run, up) || t->x->pass.at[up]) {
		/* Up may be evaluated behind the activation: from the trace. */
		struct st_value v = st_run_value(t->x->run, up);
		if (!st_run_holds(t->x->run, up))
			ST_TRY(st_capture_load(t->x, up, v.data, v.data, t->x->have_input, err));
		for (size_t r = 0; r < t->T; r++)
			st_activate(&t->x->exec, t->n->act, v.data + r * v.cols + product->from[!second], t->n->width,
			            y + r * t->n->width);
		c = st_blame(ST_CAUSE_FFN_GATE_UP_SWAPPED);
		ST_TRY(st_try_value(t, y, &c, err));
	}
	const struct limit l = { .t = t, .gate = t->in[0], .ld_gate = t->ld[0], .act = t->n->act, .y = y };
	return test_limit(&l, err);
}

/* ---- products ---- */

enum st_status st_test_product(struct st_trial *t, struct st_error *err)
{
	struct st_explainer *x = t->x;
	float *y = st_trial_buffer(t);
	size_t n = t->n->width;
	for (int k = 0; k < 2; k++) { /* one factor alone */
		for (size_t r = 0; r < t->T; r++)
			for (size_t i = 0; i < n; i++)
				y[r * n + i] = row_of(t, k, r)[i];
		struct st_cause c = st_blame(ST_CAUSE_FFN_NO_GATE);
		ST_TRY(st_try_value(t, y, &c, err));
	}
	int a = x->g->nodes[t->n->in[0]].op == ST_OP_ACT ? 0 : 1; /* which factor is the activation */
	double ga = 0, aa = 0;
	for (size_t r = 0; r < t->T && st_trial_direct(t); r++)
		for (size_t i = 0; i < n && st_trial_has(t, r); i++) {
			double p = row_of(t, a, r)[i];
			ga += (t->got[r * n + i] - p * row_of(t, 1 - a, r)[i]) * p;
			aa += p * p;
		}
	double plus = aa > 0 ? ga / aa : 1;
	plus = fabs(plus - floor(plus + 0.5)) < 1e-3 ? floor(plus + 0.5) : plus;
	for (size_t r = 0; r < t->T; r++)
		for (size_t i = 0; i < n; i++)
			y[r * n + i] = (float)(row_of(t, a, r)[i] * (row_of(t, 1 - a, r)[i] + plus));
	struct st_cause c = st_blame(ST_CAUSE_FFN_UP_OFFSET);
	st_cause_put(&c, ST_PARAM_OFFSET, plus);
	ST_TRY(st_try_value(t, y, &c, err));
	const struct st_node *act = &x->g->nodes[t->n->in[a]];
	if (act->op != ST_OP_ACT || !st_run_holds(x->run, act->in[0]))
		return ST_OK;
	struct st_value g = st_run_value(x->run, act->in[0]);
	const float *gate = g.data + act->from[0];
	if (x->inner[t->n->in[a]]) { /* else the activation was seen to be right */
		for (size_t r = 0; r < t->T; r++) {
			st_activate(&x->exec, act->act, row_of(t, 1 - a, r), n, y + r * n);
			for (size_t i = 0; i < n; i++)
				y[r * n + i] *= gate[r * g.cols + i];
		}
		c = st_blame(ST_CAUSE_FFN_GATE_UP_SWAPPED);
		ST_TRY(st_try_value(t, y, &c, err));
		const struct limit l = { .t = t,
			                 .gate = gate,
			                 .up = t->in[1 - a],
			                 .ld_gate = g.cols,
			                 .ld_up = t->ld[1 - a],
			                 .act = act->act,
			                 .y = y };
		ST_TRY(test_limit(&l, err));
	}
	return ST_OK;
}

/* ---- limits and constants that are operations of their own ---- */

enum st_status st_test_clamp(struct st_trial *t, struct st_error *err)
{
	struct st_node as = *t->n;
	struct st_cause c = st_blame(ST_CAUSE_FFN_CLAMP);
	st_cause_put_text(&c, ST_PARAM_HOW, "missing");
	as.low = -INFINITY;
	as.high = INFINITY;
	ST_TRY(st_try_node(t, &as, &c, err));
	double most = 0, least = 0;
	for (size_t r = 0; r < t->T && st_trial_direct(t); r++)
		for (size_t i = 0; i < t->n->width && st_trial_has(t, r); i++) {
			most = fmax(most, (double)t->got[r * t->n->width + i]);
			least = fmin(least, (double)t->got[r * t->n->width + i]);
		}
	if (!(most > 0))
		return ST_OK;
	as = *t->n;
	as.high = most;
	as.low = t->n->low <= -1e30 && least < -most ? t->n->low : -most;
	c = st_blame(ST_CAUSE_FFN_CLAMP);
	st_cause_put(&c, ST_PARAM_VALUE, most);
	st_cause_put(&c, ST_PARAM_EXPECTED, t->n->high);
	return st_try_node(t, &as, &c, err);
}

/* A factor, and a constant that is added behind it. */
enum st_status st_test_scale(struct st_trial *t, struct st_error *err)
{
	struct st_value v = st_trial_value(t);
	struct st_node as = *t->n;
	if (t->n->plus != 0) {
		struct st_cause c = st_blame(ST_CAUSE_FFN_UP_OFFSET);
		st_cause_put(&c, ST_PARAM_OFFSET, -t->n->plus);
		as.plus = 0;
		ST_TRY(st_try_node(t, &as, &c, err));
	}
	if (!st_trial_direct(t) || t->n->n_w)
		return ST_OK;
	double gx = 0, xx = 0;
	for (size_t r = 0; r < v.rows; r++)
		for (size_t i = 0; i < v.cols && st_trial_has(t, r); i++) {
			double p = row_of(t, 0, r)[i];
			gx += ((double)t->got[r * v.cols + i] - t->n->plus) * p;
			xx += p * p;
		}
	as = *t->n;
	as.scale = xx > 0 ? gx / xx : 1;
	as.scale = fabs(as.scale - 1) < 1e-4 ? 1 : as.scale;
	struct st_cause c = st_blame(t->n->layer >= 0                  ? ST_CAUSE_RESIDUAL_SCALED
	                             : t->n->stage == ST_STAGE_LM_HEAD ? ST_CAUSE_HEAD_SCALE
	                                                               : ST_CAUSE_EMBEDDING_SCALE);
	st_cause_put(&c, ST_PARAM_FACTOR, as.scale / t->n->scale);
	if (c.code == ST_CAUSE_RESIDUAL_SCALED)
		st_cause_put_text(&c, ST_PARAM_PART, "branch");
	return st_try_node(t, &as, &c, err);
}
