/* router.c - mistakes made in the choice of experts and in their weights. */
#include "explain/hypotheses.h"

#include "base/error.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static bool reads(const struct st_trial *t, uint32_t i, uint64_t ops)
{
	for (uint32_t k = i + 1; k < t->x->g->n_nodes && st_trial_node(t, k)->layer == st_trial_node(t, i)->layer; k++)
		if (st_trial_node(t, k)->in[0] == i && ops & ST_OP_BIT(st_trial_node(t, k)->op))
			return true;
	return false;
}

static bool is_gating(const struct st_node *n)
{
	return n->op == ST_OP_SOFTMAX_ALL || (n->op == ST_OP_ACT && n->act == ST_ACT_SIGMOID);
}

/* Every expert's number, by each gating. */
enum gating { SOFTMAX, SIGMOID, PLAIN, GATINGS };
static const char *const gating_names[GATINGS] = { "softmax", "sigmoid", "none" };

static void gate(enum gating kind, const float *z, size_t n, double *y)
{
	double most = -INFINITY, sum = 0;
	for (size_t i = 0; i < n; i++)
		most = fmax(most, (double)z[i]);
	for (size_t i = 0; i < n; i++) {
		y[i] = kind == SOFTMAX ? exp(z[i] - most)
		     : kind == SIGMOID ? 1 / (1 + exp(-(double)z[i]))
		                       : (double)z[i];
		sum += y[i];
	}
	for (size_t i = 0; i < n && kind == SOFTMAX; i++)
		y[i] /= sum;
}

/* Numbers of all experts, from logits. */
enum st_status st_test_gating(struct st_trial *t, struct st_error *err)
{
	if (!is_gating(t->n) || !reads(t, t->i, ST_OP_BIT(ST_OP_TOP) | ST_OP_BIT(ST_OP_CHOSEN)))
		return ST_OK;
	size_t E = t->n->width;
	float *y = st_trial_buffer(t);
	double *p = st_alloc_array(E, sizeof *p);
	enum st_status st = p ? ST_OK : st_fail(err, ST_ERR_NOMEM, "out of memory");
	for (int kind = 0; kind < GATINGS && st == ST_OK; kind++) {
		struct st_cause c = st_blame(ST_CAUSE_MOE_GATING);
		st_cause_put_text(&c, ST_PARAM_IS, gating_names[kind]);
		if (kind == (t->n->op == ST_OP_SOFTMAX_ALL ? SOFTMAX : SIGMOID))
			continue;
		for (size_t r = 0; r < t->T; r++) {
			gate(kind, t->in[0] + r * t->ld[0], E, p);
			for (size_t e = 0; e < E; e++)
				y[r * E + e] = (float)p[e];
		}
		st = st_try_value(t, y, &c, err);
	}
	free(p);
	return st;
}

/* ---- the choice ---- */

enum st_status st_test_choice(struct st_trial *t, struct st_error *err)
{
	struct st_node as = *t->n;
	struct st_cause c = st_blame(ST_CAUSE_MOE_ROUTER_BIAS);
	if (t->n->n_w) {
		st_cause_put_text(&c, ST_PARAM_HOW, "left out of the choice");
		as.n_w = 0;
		as.w[0] = NULL;
		ST_TRY(st_try_node(t, &as, &c, err));
	}
	as = *t->n;
	c = st_blame(ST_CAUSE_MOE_GROUP_LIMIT);
	if (t->n->groups.used < t->n->groups.all) {
		uint32_t used = t->n->groups.used;
		st_cause_put(&c, ST_PARAM_EXPECTED, used);
		for (uint32_t k = t->n->groups.all; k > 0; k--) {
			struct st_cause d = c;
			as.groups.used = k;
			st_cause_put(&d, ST_PARAM_VALUE, k);
			if (k != used)
				ST_TRY(st_try_node(t, &as, &d, err));
		}
		as.groups.used = used;
		as.groups.best = 3 - t->n->groups.best;
		st_cause_put_text(&c, ST_PARAM_HOW, "groups are ranked by another number of experts");
		ST_TRY(st_try_node(t, &as, &c, err));
	}
	/* From logits by another gating: where a bias is added it is another choice. */
	const struct st_node *from = st_trial_node(t, t->n->in[0]);
	if (!t->n->n_w || !is_gating(from) || !st_run_holds(t->x->run, from->in[0]))
		return ST_OK;
	as = *t->n;
	as.in[0] = from->in[0];
	as.from[0] = from->from[0];
	c = st_blame(ST_CAUSE_MOE_GATING);
	st_cause_put_text(&c, ST_PARAM_IS, gating_names[PLAIN]);
	return st_try_node(t, &as, &c, err);
}

/* ---- weights ---- */

struct shares {
	struct st_trial *t;
	const float *logits; /* NULL: not at hand */
	size_t ld, E;
	const float *bias; /* of the choice, or NULL */
	double *p;
	float *y;
};

/* Of each token's chosen experts: by a gating of all or of the chosen ones, to a sum of 1 or not, times a factor. */
static void share(const struct shares *s, enum gating kind, bool of_chosen, bool normed, bool biased, double by)
{
	struct st_trial *t = s->t;
	size_t C = t->n->width;
	for (size_t r = 0; r < t->T; r++) {
		const float *z = s->logits + r * s->ld, *at = t->in[1] + r * t->ld[1];
		float *y = s->y + r * C, some[256];
		double sum = 0;
		if (of_chosen && C <= 256) {
			for (size_t c = 0; c < C; c++)
				some[c] = z[(size_t)at[c]];
			gate(kind, some, C, s->p);
		} else {
			gate(kind, z, s->E, s->p);
		}
		for (size_t c = 0; c < C; c++) {
			size_t e = (size_t)at[c];
			double v = s->p[of_chosen ? c : e] + (biased ? (double)s->bias[e] : 0);
			y[c] = (float)v;
			sum += v;
		}
		for (size_t c = 0; c < C; c++)
			y[c] = (float)(by * (normed ? y[c] / sum : (double)y[c]));
	}
}

static enum st_status test_shares(const struct shares *s, double by, struct st_error *err)
{
	struct st_trial *t = s->t;
	bool softmax_of = t->n->op == ST_OP_SOFTMAX_OF, normed = softmax_of || t->n->shares.shares;
	enum gating own = !softmax_of && st_trial_node(t, t->n->in[0])->op != ST_OP_SOFTMAX_ALL ? SIGMOID : SOFTMAX;
	struct st_cause c = st_blame(ST_CAUSE_MOE_TOPK_NORM);
	st_cause_put_text(&c, ST_PARAM_HOW, normed ? "left out" : "added");
	share(s, own, false, !normed, false, by);
	ST_TRY(st_try_value(t, s->y, &c, err));
	if (s->bias) {
		c = st_blame(ST_CAUSE_MOE_ROUTER_BIAS);
		st_cause_put_text(&c, ST_PARAM_HOW, "in the weights");
		share(s, own, false, normed, true, by);
		ST_TRY(st_try_value(t, s->y, &c, err));
	}
	static const char *const of_chosen[GATINGS] = { "softmax of the chosen", "sigmoid of the chosen", "none" };
	for (int kind = 0; kind < GATINGS; kind++)
		for (int some = 0; some < (kind == SOFTMAX ? 2 : 1); some++)
			for (int n = 0; n < 2; n++) {
				if (kind == (int)own && !some)
					continue;
				c = st_blame(ST_CAUSE_MOE_GATING);
				st_cause_put_text(&c, ST_PARAM_IS, some ? of_chosen[kind] : gating_names[kind]);
				share(s, kind, some, n == 0 ? normed : !normed, false, by);
				ST_TRY(st_try_value(t, s->y, &c, err));
			}
	return ST_OK;
}

/* The first of the chosen alone, where the trace does not say how many there are. */
static enum st_status test_fewer(struct st_trial *t, bool normed, struct st_error *err)
{
	size_t C = t->n->width;
	uint32_t top = t->n->in[1];
	float *y = st_trial_buffer(t);
	if (top == ST_NO_NODE || !t->x->inner[top])
		return ST_OK;
	for (size_t used = 1; used < C; used++) {
		for (size_t r = 0; r < t->T; r++) {
			const float *own = t->exact + r * C;
			double all = 0, some = 0;
			for (size_t c = 0; c < C; c++) {
				all += own[c];
				some += c < used ? (double)own[c] : 0;
			}
			for (size_t c = 0; c < C; c++)
				y[r * C + c] = c >= used ? 0 : (float)(own[c] * (normed && some > 0 ? all / some : 1));
		}
		struct st_cause c = st_blame(ST_CAUSE_MOE_TOP_K);
		st_cause_put(&c, ST_PARAM_VALUE, (double)used);
		st_cause_put(&c, ST_PARAM_EXPECTED, (double)C);
		ST_TRY(st_try_value(t, y, &c, err));
	}
	return ST_OK;
}

enum st_status st_test_shares(struct st_trial *t, struct st_error *err)
{
	size_t C = t->n->width;
	float *y = st_trial_buffer(t);
	double gy = 0, yy = 0, by = t->n->op == ST_OP_CHOSEN ? t->n->shares.by : 1;
	if (t->n->op == ST_OP_CHOSEN && by != 1) {
		struct st_node as = *t->n;
		struct st_cause c = st_blame(ST_CAUSE_MOE_WEIGHT_SCALE);
		as.shares.by = 1;
		st_cause_put(&c, ST_PARAM_VALUE, 1);
		st_cause_put(&c, ST_PARAM_EXPECTED, by);
		ST_TRY(st_try_node(t, &as, &c, err));
	}
	for (size_t k = 0; k < t->T * C && st_trial_direct(t); k++)
		if (st_trial_has(t, k / C)) {
			gy += (double)t->got[k] * t->exact[k];
			yy += (double)t->exact[k] * t->exact[k];
		}
	if (yy > 0) {
		struct st_cause c = st_blame(ST_CAUSE_MOE_WEIGHT_SCALE);
		double factor = gy / yy;
		st_cause_put(&c, ST_PARAM_VALUE, factor * by);
		st_cause_put(&c, ST_PARAM_EXPECTED, by);
		for (size_t k = 0; k < t->T * C; k++)
			y[k] = (float)(factor * t->exact[k]);
		ST_TRY(st_try_value(t, y, &c, err));
	}
	ST_TRY(test_fewer(t, t->n->op == ST_OP_SOFTMAX_OF || t->n->shares.shares, err));
	const struct st_node *from = st_trial_node(t, t->n->in[0]);
	uint32_t logits = is_gating(from) ? from->in[0] : t->n->in[0];
	if (t->n->op == ST_OP_NEAR_SHARES || !st_run_holds(t->x->run, logits))
		return ST_OK;
	struct st_value z = st_run_value(t->x->run, logits);
	const struct st_node *top = st_trial_node(t, t->n->in[1]);
	const struct st_weight *bias = top->op == ST_OP_TOP && top->n_w ? top->w[0] : NULL;
	float *b = bias ? st_alloc_array((size_t)bias->tensor->n_elems, sizeof *b) : NULL;
	struct shares s = { .t = t,
		            .logits = z.data + (is_gating(from) ? from->from[0] : t->n->from[0]),
		            .ld = z.cols,
		            .E = z.cols,
		            .bias = b,
		            .p = st_alloc_array(z.cols, sizeof *s.p),
		            .y = y };
	enum st_status st = s.p && (b || !bias) ? ST_OK : st_fail(err, ST_ERR_NOMEM, "out of memory");
	if (st == ST_OK && b)
		st_weight_decode(bias, 0, st_tensor_rows(bias->tensor), b);
	if (st == ST_OK)
		st = test_shares(&s, by, err);
	free(s.p);
	free(b);
	return st;
}

/* A router that read another value: as a product it is named already. */
enum st_status st_test_router_input(struct st_trial *t, struct st_error *err)
{
	struct st_cause *c = &t->best->cause;
	(void)err;
	bool router = reads(t, t->i, ST_OP_BIT(ST_OP_TOP) | ST_OP_BIT(ST_OP_SOFTMAX_OF));
	for (uint32_t k = t->i + 1; k < t->x->g->n_nodes && !router && st_trial_node(t, k)->layer == t->n->layer; k++)
		router = st_trial_node(t, k)->in[0] == t->i
		      && (is_gating(st_trial_node(t, k)) || st_trial_node(t, k)->op == ST_OP_BIAS)
		      && reads(t, k, ST_OP_BIT(ST_OP_TOP));
	if (router && c->code == ST_CAUSE_RESIDUAL_WRONG_SOURCE && t->best->at == t->n->stage)
		c->code = ST_CAUSE_MOE_ROUTER_INPUT;
	return ST_OK;
}
