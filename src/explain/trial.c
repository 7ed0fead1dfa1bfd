/*
 * trial.c - one mistake after the other is made on purpose in the operations of a segment; the one under which the
 * difference vanishes is the cause.
 */
#include "explain/explain.h"

#include "base/error.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

float *st_trial_buffer(struct st_trial *t) { return t->x->buffer; }

static void add_candidate(struct st_finding *f, enum st_cause_code code, double after)
{
	size_t i = 0;
	while (i < f->n_candidates && f->candidates[i].code != code)
		i++;
	if (i < f->n_candidates) {
		f->candidates[i].residual_after = fmin(f->candidates[i].residual_after, after);
	} else if (f->n_candidates < ST_MAX_CANDIDATES) {
		f->candidates[f->n_candidates++] = (struct st_candidate){ code, after };
	} else {
		size_t worst = 0;
		for (i = 1; i < f->n_candidates; i++)
			worst = f->candidates[i].residual_after > f->candidates[worst].residual_after ? i : worst;
		if (after < f->candidates[worst].residual_after)
			f->candidates[worst] = (struct st_candidate){ code, after };
	}
}

static void add_equivalent(struct st_finding *f, enum st_cause_code code)
{
	for (size_t i = 0; i < f->n_equivalent; i++)
		if (f->equivalent[i] == code)
			return;
	if (code != f->cause.code && f->n_equivalent < ST_MAX_EQUIVALENT)
		f->equivalent[f->n_equivalent++] = code;
}

/* Of two causes that account for the whole difference the earlier one in the list is kept, as the simpler one, unless
 * the later one leaves less than half. */
static void keep(struct st_trial *t, const struct st_cause *c, const struct st_fit *fit)
{
	struct st_finding *f = t->best;
	struct st_cause now = *c;
	now.residual_before = t->before;
	now.residual_after = fit->rel;
	now.floor = fit->floor;
	now.confidence = st_confidence_of(fit->noise, t->before, fit->rel);
	if (!(fit->rel < t->before))
		return;
	if (now.confidence == ST_UNEXPLAINED || (now.confidence == ST_LIKELY && f->cause.confidence == ST_CONFIRMED)) {
		add_candidate(f, c->code, fit->rel);
		return;
	}
	bool first = f->cause.confidence < now.confidence;
	bool nearer = !first && fit->rel < 0.5 * f->cause.residual_after && fit->ratio < 0.5 * t->best_ratio;
	if (first || nearer) {
		if (!first && f->cause.confidence == ST_LIKELY)
			add_candidate(f, f->cause.code, f->cause.residual_after);
		f->cause = now;
		f->at = t->n->stage;
		f->layer = t->n->layer;
		t->best_ratio = fit->ratio;
		t->best_arith = fit->arith;
		f->n_equivalent = 0;
	} else if (now.confidence == ST_CONFIRMED) {
		add_equivalent(f, c->code);
	} else if (now.confidence == ST_LIKELY) {
		add_candidate(f, c->code, fit->rel);
	}
}

bool st_trial_promises(const struct st_trial *t, double left, double before)
{
	return !(left > 0.5 * before + 4 * t->reach);
}

static enum st_status try_way(struct st_trial *t, const struct st_way *w, const struct st_cause *c,
                              struct st_error *err)
{
	struct st_explainer *x = t->x;
	ST_TRY(st_segment_eval(x, t->s, w, x->candidate, err));
	struct st_fit f = { .rel = st_fit_left(x, t->s, x->candidate), .ratio = INFINITY };
	if (st_trial_promises(t, f.rel, t->before))
		ST_TRY(st_fit_of_value(x, t->s, w, x->candidate, &f, err));
	keep(t, c, &f);
	if (t->s->n_inner > 1) /* inner values as they were */
		ST_TRY(st_segment_eval(x, t->s, &(struct st_way){ .edit = ST_NO_NODE }, x->candidate, err));
	return ST_OK;
}

enum st_status st_try_node(struct st_trial *t, const struct st_node *as, const struct st_cause *c, struct st_error *err)
{
	return try_way(t, &(struct st_way){ .edit = t->i, .as = as }, c, err);
}

enum st_status st_try_value(struct st_trial *t, const float *value, const struct st_cause *c, struct st_error *err)
{
	return try_way(t, &(struct st_way){ .edit = t->i, .value = value }, c, err);
}

enum st_status st_try_found(struct st_trial *t, const float *found, const struct st_cause *c, struct st_error *err)
{
	struct st_explainer *x = t->x;
	float *got = x->got;
	x->got = (float *)(uintptr_t)found;
	struct st_fit f;
	enum st_status st = st_fit_of_value(x, t->s, &(struct st_way){ .edit = ST_NO_NODE }, x->exact, &f, err);
	x->got = got;
	if (st == ST_OK)
		keep(t, c, &f);
	return st;
}

enum st_status st_try_nodes(struct st_trial *t, st_edit_fn *also, void *ctx, const struct st_cause *c,
                            struct st_error *err)
{
	return try_way(t, &(struct st_way){ .edit = ST_NO_NODE, .also = also, .ctx = ctx }, c, err);
}

enum st_status st_try_made(struct st_trial *t, st_make_fn *make, void *ctx, const struct st_cause *c,
                           struct st_error *err)
{
	return try_way(t, &(struct st_way){ .edit = t->i, .make = make, .ctx = ctx }, c, err);
}

struct mapped {
	struct st_trial *t;
	st_map_fn *map;
	void *ctx;
};

static enum st_status make_mapped(void *ctx, const struct st_way *w, float *out, struct st_error *err)
{
	const struct mapped *m = ctx;
	struct st_value v = st_run_value(m->t->x->run, m->t->i);
	/* The right value is at hand. */
	if (w->arith || w->jiggle != 0 || m->t->i != m->t->s->node)
		ST_TRY(st_eval_under(m->t->x, m->t->i, m->t->n, w->arith, out, err));
	else
		memcpy(out, m->t->exact, v.rows * v.cols * sizeof *out);
	m->map(m->ctx, m->t, out);
	return ST_OK;
}

enum st_status st_try_map(struct st_trial *t, st_map_fn *map, void *ctx, const struct st_cause *c, struct st_error *err)
{
	struct mapped m = { t, map, ctx };
	return st_try_made(t, make_mapped, &m, c, err);
}

static void take_inputs(struct st_trial *t)
{
	for (uint32_t k = 0; k < ST_NODE_ALL_INPUTS; k++) {
		uint32_t in = st_node_input(t->n, k);
		t->in[k] = NULL;
		if (in == ST_NO_NODE)
			continue;
		struct st_value v = st_run_value(t->x->run, in), own = st_run_value(t->x->run, t->i);
		bool last = own.rows == 1 && v.rows > 1 && t->n->stage == ST_STAGE_LM_HEAD;
		t->in[k] = v.data + st_node_from(t->n, k) + (last ? (v.rows - 1) * v.cols : 0);
		t->ld[k] = v.cols;
	}
}

/*
 * Undo the operations between node i and the judged node: sums with a value that does not depend on it, biases,
 * factors. False where there are other operations. got: [value of node i].
 */
static bool invert(const struct st_explainer *x, const struct st_segment *s, uint32_t i, float *got)
{
	struct st_value v = st_run_value(x->run, s->node);
	memcpy(got, x->got, v.rows * v.cols * sizeof *got);
	for (uint32_t at = s->node; at != i;) {
		const struct st_node *n = &x->g->nodes[at];
		uint32_t in = n->in[0];
		if (n->op == ST_OP_ADD && !(x->inner[in] && in >= i))
			in = n->in[1];
		bool sum = n->op == ST_OP_BIAS || n->op == ST_OP_ADD, factor = n->op == ST_OP_SCALE && n->plus == 0;
		if ((!sum && !factor) || in == ST_NO_NODE || in < i || !x->inner[in]
		    || n->from[in == n->in[1] && n->op == ST_OP_ADD])
			return false;
		struct st_value u = st_run_value(x->run, in);
		if (u.rows != v.rows || u.cols != v.cols)
			return false;
		const float *y = at == s->node ? x->exact : st_run_value(x->run, at).data;
		double by = 1;
		if (factor) {
			double uu = 0, yu = 0;
			for (size_t k = 0; k < v.rows * v.cols; k++) {
				uu += (double)u.data[k] * u.data[k];
				yu += (double)y[k] * u.data[k];
			}
			by = uu > 0 ? yu / uu : 0;
			if (by == 0)
				return false;
		}
		for (size_t k = 0; k < v.rows * v.cols; k++)
			got[k] = factor ? (float)(got[k] / by) : (float)((double)got[k] - ((double)y[k] - u.data[k]));
		at = in;
	}
	return true;
}

/* The worst token and feature, and how much of the difference is a gain. */
static void describe(struct st_explainer *x, const struct st_segment *s, const struct st_fit *fit, char *buf, size_t n)
{
	const struct st_node *node = &x->g->nodes[s->node];
	struct st_value v = st_run_value(x->run, s->node);
	double dd = 0, yy = 0, dy = 0, worst = 0;
	size_t at = 0;
	for (size_t r = 0; r < v.rows; r++) {
		double row = 0;
		for (size_t i = 0; i < v.cols; i++) {
			if (!st_capture_counts(x, node, &v, x->have, r, i))
				continue;
			double y = x->exact[r * v.cols + i], d = x->got[r * v.cols + i] - y;
			row += d * d;
			yy += y * y;
			dy += d * y;
		}
		dd += row;
		if (row > worst) {
			worst = row;
			at = r;
		}
	}
	snprintf(buf, n, "gain %.6g, %.0f %% of the difference in row %zu, worst at feature %zu",
	         yy > 0 ? 1 + dy / yy : 0, dd > 0 ? 100 * worst / dd : 0, at, fit->col);
}

enum st_status st_find_cause(struct st_explainer *x, const struct st_segment *s, const struct st_fit *without,
                             const struct st_hypothesis_list *list, struct st_finding *out, struct st_error *err)
{
	struct st_trial t = {
		.x = x,
		.s = s,
		.T = x->pass.T,
		.P = st_run_positions(x->run),
		.before = without->rel,
		.reach = without->reach,
		.best = out,
	};
	*out = (struct st_finding){ .at = x->g->nodes[s->node].stage, .layer = x->g->nodes[s->node].layer };
	out->cause = (struct st_cause){ .code = ST_CAUSE_UNEXPLAINED,
		                        .confidence = ST_UNEXPLAINED,
		                        .residual_before = without->rel,
		                        .residual_after = without->rel,
		                        .floor = without->floor };
	for (size_t k = 0; k < list->n; k++)
		for (uint32_t i = s->first; i <= s->node; i++) {
			if (!x->inner[i] || !(list->rows[k].ops & ST_OP_BIT(x->g->nodes[i].op)))
				continue;
			t.i = i;
			t.n = &x->g->nodes[i];
			take_inputs(&t);
			t.got = i == s->node ? x->got : invert(x, s, i, x->undone) ? x->undone : NULL;
			t.exact = i == s->node ? x->exact : st_run_value(x->run, i).data;
			ST_TRY(list->rows[k].test(&t, err));
		}
	describe(x, s, without, out->structure, sizeof out->structure);
	return ST_OK;
}
