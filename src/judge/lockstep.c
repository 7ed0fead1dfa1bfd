/*
 * lockstep.c - evaluate two models in lock-step and measure every stage.
 *
 * Graphs of different form are evaluated up to where they part. Side b is the reference. At each stage both values are
 * made, their difference is measured, and, where the two sides' weights or parameters differ, a's version of the stage is
 * also evaluated on b's inputs: that separates what this stage did from what it received.
 */
#include "judge/rosetta.h"

#include "arch/arch.h"
#include "base/error.h"
#include "compare/pair.h"
#include "judge/agreement.h"
#include "judge/floors.h"
#include "kernel/kernel.h"

#include <stdlib.h>
#include <string.h>

/* ---- what is compared with what ---- */

struct st_form st_form_of(const struct st_graph *a, const struct st_graph *b)
{
	struct st_form f = { .differs = ST_FORM_EQUAL };
	if (!a || !b)
		return (struct st_form){ .differs = ST_FORM_NO_GRAPH };
	uint32_t common = a->n_nodes < b->n_nodes ? a->n_nodes : b->n_nodes;
	for (; f.agree < common && f.differs == ST_FORM_EQUAL; f.agree++) {
		const struct st_node *x = &a->nodes[f.agree], *y = &b->nodes[f.agree];
		f.stage_a = x->stage;
		f.stage_b = y->stage;
		f.layer = x->layer;
		if (x->stage != y->stage || x->layer != y->layer) {
			f.differs = ST_FORM_STAGE;
		} else if (x->width != y->width) {
			f.differs = ST_FORM_WIDTH;
			f.a = x->width;
			f.b = y->width;
		} else if (!st_node_same_form(a, b, f.agree)) {
			f.differs = ST_FORM_INPUTS;
		}
	}
	if (f.differs != ST_FORM_EQUAL) {
		f.agree--;
	} else if (a->n_nodes != b->n_nodes) {
		f.differs = ST_FORM_STAGES;
		f.a = a->n_nodes;
		f.b = b->n_nodes;
	}
	if (common && a->n_layers != b->n_layers) {
		f.differs = ST_FORM_LAYERS;
		f.a = a->n_layers;
		f.b = b->n_layers;
	}
	return f;
}

/* The diffs of one weight. A stack of experts has one for each expert, and they stand one behind the other. */
struct diffs {
	const struct st_weight_diff *d;
	size_t n;
};

static struct diffs find_slot(const struct st_rosetta *r, const char *name, int32_t layer)
{
	struct diffs found = { 0 };
	for (size_t i = 0; i < r->n_weights; i++) {
		const struct st_weight *slot = r->weights[i].slot;
		if (slot->layer != layer || strcmp(slot->name, name) != 0)
			continue;
		found.d = found.n ? found.d : &r->weights[i];
		found.n++;
	}
	return found;
}

/*
 * What is known of a weight of a node. Where one side has a head of its own, the other's embedding was compared with it
 * in the head's slot; where both are tied, the head differs as the embedding does.
 */
static struct diffs diffs_of(const struct st_rosetta *r, const struct st_node *n, const struct st_weight *w)
{
	struct diffs head = { 0 };
	if (n->stage == ST_STAGE_LM_HEAD && w->kind != ST_WEIGHT_BIAS)
		head = find_slot(r, st_role_name(ST_ROLE_HEAD), -1);
	return head.n ? head : find_slot(r, w->name, w->layer);
}

/* How far the weights of a node are apart, at worst. */
static enum st_weight_status node_weights(const struct st_rosetta *r, const struct st_node *n)
{
	enum st_weight_status worst = ST_WEIGHT_EQUAL;
	for (uint32_t k = 0; k < n->n_w; k++) {
		struct diffs d = n->w[k] ? diffs_of(r, n, n->w[k]) : (struct diffs){ 0 };
		for (size_t i = 0; i < d.n; i++)
			worst = d.d[i].status > worst ? d.d[i].status : worst;
	}
	return worst;
}

/* The types whose noise the weights of a node have. */
static void node_types(const struct st_rosetta *r, const struct st_node *n, bool b, struct st_held held[])
{
	for (uint32_t k = 0; k < n->n_w; k++) {
		if (!n->w[k])
			continue;
		struct diffs d = diffs_of(r, n, n->w[k]);
		held[k] = d.n && d.d->a && d.d->b ? (b ? d.d->held_b : d.d->held_a) : st_held_own(n->w[k]->tensor);
	}
}

/* ---- one stage ---- */

struct lockstep {
	struct st_rosetta_state *s;
	const struct st_graph *ga, *gb;
	struct st_run *ra, *rb;
	struct st_exec exec;
	bool *same;             /* [n_nodes]: both sides hold the same bits */
	float *alone;           /* a's node on b's inputs; as large as the largest value */
	double *floor2;         /* [T] */
	double *base2, *local2; /* [T] */
	struct st_token_bound *bound;
	double threshold;
	bool fault_seen;
};

static bool inputs_same(const struct lockstep *l, const struct st_node *n)
{
	for (uint32_t i = 0; i < ST_NODE_ALL_INPUTS; i++)
		if (st_node_input(n, i) != ST_NO_NODE && !l->same[st_node_input(n, i)])
			return false;
	return true;
}

/* Squared norm of x - y (or of y alone) for token t; scores are [heads, T, P]. */
static double token_square(const struct st_value *v, const float *x, const float *y, size_t T, size_t t, bool scores)
{
	double sum = 0;
	size_t runs = scores ? v->rows / T : 1, len = scores ? v->cols : v->rows / T * v->cols;
	for (size_t h = 0; h < runs; h++) {
		size_t at = scores ? (h * T + t) * v->cols : t * len;
		for (size_t i = 0; i < len; i++) {
			double d = (double)x[at + i] - (y ? y[at + i] : 0);
			sum += d * d;
		}
	}
	return sum;
}

/* The error of f32 sums in modes other than exact is an estimate; so many times its variance are allowed
 * (docs/floors.md, "What a stage may do"). */
#define MODE_ALLOWS 16

/*
 * Each token's local difference: how much is expected, and how much is allowed (docs/floors.md, "What a stage may do").
 * A matrix product of weights that are noise to each other may do what their differences do by chance. A norm, a bias
 * and an embedding act element by element: their weights were judged so already, and the prediction of the stored types
 * is both. The same goes for a weight that is known to be wrong and for a parameter that differs.
 */
static enum st_status token_bounds(struct lockstep *l, uint32_t i, enum st_weight_status weights, struct st_error *err)
{
	const struct st_node *a = &l->ga->nodes[i], *b = &l->gb->nodes[i];
	size_t T = st_run_tokens(l->rb);
	bool exact = l->exec.mode == ST_MODE_EXACT,
	     noise = weights == ST_WEIGHT_NOISE && st_node_same_parameters(a, b, T);
	for (size_t t = 0; t < T; t++) {
		double expected = noise ? fmax(l->local2[t], l->base2[t]) : l->floor2[t];
		l->bound[t] = (struct st_token_bound){ expected, expected };
	}
	if (noise && b->op == ST_OP_LINEAR)
		ST_TRY(st_bound_of_linear(a, b, st_run_value(l->rb, b->in[0]).data, T, l->local2,
		                          (double)T * l->gb->n_nodes, l->exec.pool, l->bound, err));
	for (size_t t = 0; t < T && noise && b->op == ST_OP_LINEAR; t++) {
		l->bound[t].expected += l->base2[t];
		l->bound[t].allowed += l->base2[t] * (exact ? 1 : MODE_ALLOWS);
	}
	return ST_OK;
}

static enum st_status judge_stage(struct lockstep *l, uint32_t i, enum st_weight_status weights,
                                  struct st_stage_report *rep, struct st_error *err)
{
	const struct st_node *n = &l->gb->nodes[i];
	struct st_value a = st_run_value(l->ra, i), b = st_run_value(l->rb, i);
	size_t T = st_run_tokens(l->rb), count = b.rows * b.cols;
	bool scores = n->op == ST_OP_SCORES || n->op == ST_OP_SOFTMAX;
	bool same_function = weights <= ST_WEIGHT_EQUAL_DECODED
	                  && st_node_same_parameters(&l->ga->nodes[i], n, st_run_tokens(l->rb));

	st_metrics_of(a.data, b.data, count, l->exec.pool, &rep->total);
	double norm_b = rep->total.norm_b, inherited = 0, local2 = 0, floor2 = 0;
	bool beyond = false;
	if (same_function) {
		/* The local part is zero by construction; all of the difference came with the inputs. */
		inherited = rep->total.norm_diff;
		floor2 = norm_b * norm_b * 0x1p-46;
	} else {
		ST_TRY(st_run_eval_alone(l->rb, l->ga, i, &l->exec, l->alone, err));
		struct st_held held_a[ST_NODE_WEIGHTS], held_b[ST_NODE_WEIGHTS];
		const struct st_held *const held[2] = { held_a, held_b };
		node_types(&l->s->r, &l->ga->nodes[i], false, held_a);
		node_types(&l->s->r, n, true, held_b);
		ST_TRY(st_floor_of_node(l->ga, l->gb, i, l->rb, l->s->r.tokens_b, held, &l->exec, l->floor2, l->base2,
		                        err));
		struct st_metrics m;
		st_metrics_of(a.data, l->alone, count, l->exec.pool, &m);
		inherited = m.norm_diff;
		for (size_t t = 0; t < T; t++)
			l->local2[t] = token_square(&b, l->alone, b.data, T, t, scores);
		ST_TRY(token_bounds(l, i, weights, err));
		for (size_t t = 0; t < T; t++) {
			double d2 = l->local2[t];
			local2 += d2;
			floor2 += l->floor2[t];
			beyond |= !(d2 <= l->bound[t].allowed);
			double ratio = d2 == 0 ? 0 : sqrt(d2 / l->bound[t].expected);
			ratio = isnan(ratio) ? INFINITY
			                     : ratio; /* a weight or an input was not finite: worse than any number */
			if (ratio > rep->worst_token_ratio) {
				rep->worst_token_ratio = ratio;
				rep->worst_token = t;
			}
		}
	}
	rep->kind = weights >= ST_WEIGHT_NOISE ? ST_FLOOR_STORED_TYPES : ST_FLOOR_ROUNDING;
	rep->local_rel = norm_b > 0 ? sqrt(local2) / norm_b : local2 > 0 ? INFINITY : 0;
	rep->local_floor = norm_b > 0 ? sqrt(floor2) / norm_b : 0;
	rep->inherited_rel = norm_b > 0 ? inherited / norm_b : inherited > 0 ? INFINITY : 0;
	rep->floor = norm_b > 0 ? (inherited + sqrt(floor2)) / norm_b : 0;
	rep->over_threshold = !isnan(l->threshold) && rep->total.max_abs > l->threshold;

	if (rep->total.nonfinite_a || rep->total.nonfinite_b)
		/* Numbers that are not finite on both sides alike hide what follows. On one side alone: it broke
		 * here. */
		rep->status = rep->total.nonfinite_apart == 0 ? ST_STATUS_UNDECIDED
		            : l->fault_seen                   ? ST_STATUS_INHERITED
		                                              : ST_STATUS_FAULT;
	else if (weights >= ST_WEIGHT_FAULT && local2 > 0)
		rep->status = ST_STATUS_FAULT; /* what a weight that is known to be wrong does, however little */
	else if (beyond) /* the weights are noise to each other and pull one way: no weight is known to be wrong */
		rep->status = weights == ST_WEIGHT_NOISE && isfinite(rep->worst_token_ratio) ? ST_STATUS_UNDECIDED
		                                                                             : ST_STATUS_FAULT;
	else if (rep->total.max_abs == 0)
		rep->status = ST_STATUS_EXACT;
	else if (l->fault_seen)
		rep->status = ST_STATUS_INHERITED;
	else
		rep->status = rep->total.rel_l2 <= 0x1p-20 ? ST_STATUS_ROUNDING : ST_STATUS_NOISE;
	return ST_OK;
}

static enum st_status lockstep_stage(struct lockstep *l, uint32_t i, struct st_stage_report *rep, struct st_error *err)
{
	const struct st_node *n = &l->gb->nodes[i];
	enum st_weight_status weights = node_weights(&l->s->r, n);
	*rep = (struct st_stage_report){ .stage = n->stage, .layer = n->layer, .on_a = true, .on_b = true };
	ST_TRY(st_run_eval(l->rb, i, err));
	struct st_value b = st_run_value(l->rb, i);
	rep->shared = inputs_same(l, n) && weights <= ST_WEIGHT_EQUAL_DECODED
	           && st_node_same_parameters(&l->ga->nodes[i], n, st_run_tokens(l->rb));
	if (rep->shared)
		/* Equal weights, equal parameters and bit-equal inputs give equal bits: docs/numerics.md. */
		st_run_put(l->ra, i, b.data);
	else
		ST_TRY(st_run_eval(l->ra, i, err));
	bool scores = n->op == ST_OP_SCORES || n->op == ST_OP_SOFTMAX;
	size_t T = st_run_tokens(l->rb);
	rep->ndim = scores ? 3 : 2;
	rep->shape[0] = scores ? b.rows / T : T;
	rep->shape[1] = scores ? T : b.rows * b.cols / T;
	rep->shape[2] = b.cols;
	ST_TRY(judge_stage(l, i, weights, rep, err));
	l->same[i] = rep->total.max_abs == 0 && rep->total.nonfinite_a == 0 && rep->total.nonfinite_b == 0;
	return st_check_cancel(err);
}

/* ---- the run ---- */

static void note_top1(struct st_rosetta *r, const struct lockstep *l, uint32_t head)
{
	struct st_value a = st_run_value(l->ra, head), b = st_run_value(l->rb, head);
	const float *x = a.data + (a.rows - 1) * a.cols, *y = b.data + (b.rows - 1) * b.cols;
	for (size_t i = 0; i < b.cols; i++)
		if (isnan(x[i]) || isnan(y[i]))
			return; /* nothing is the largest of those */
	struct st_lead of_a = st_lead_of(x, b.cols), of_b = st_lead_of(y, b.cols);
	r->has_top1 = true;
	r->top1_a = (uint32_t)of_a.best;
	r->top1_b = (uint32_t)of_b.best;
	r->top1_agree = of_a.best == of_b.best;
	r->top1_gap = of_b.gap;
}

enum st_status st_rosetta_lockstep(struct st_rosetta_state *s, const struct st_rosetta_options *o,
                                   const struct st_exec *e, struct st_error *err)
{
	struct st_rosetta *r = &s->r;
	size_t T = r->n_tokens_b, widest = 0;
	struct lockstep l = {
		.s = s, .ga = st_model_graph(s->ma), .gb = st_model_graph(s->mb), .exec = *e, .threshold = o->threshold
	};
	enum st_status st = ST_OK;
	ST_TRY_OUT(st_run_open(l.ga, e, T, T, &l.ra, err));
	ST_TRY_OUT(st_run_open(l.gb, e, T, T, &l.rb, err));
	ST_TRY_OUT(st_run_begin(l.ra, r->tokens_b, T, err));
	ST_TRY_OUT(st_run_begin(l.rb, r->tokens_b, T, err));
	for (uint32_t i = 0; i < l.gb->n_nodes; i++) {
		struct st_value v = st_run_value(l.rb, i);
		widest = v.rows * v.cols > widest ? v.rows * v.cols : widest;
	}
	l.same = st_arena_alloc(&s->arena, l.gb->n_nodes, sizeof *l.same);
	l.floor2 = st_arena_alloc(&s->arena, T, sizeof *l.floor2);
	l.base2 = st_arena_alloc(&s->arena, T, sizeof *l.base2);
	l.local2 = st_arena_alloc(&s->arena, T, sizeof *l.local2);
	l.bound = st_arena_alloc(&s->arena, T, sizeof *l.bound);
	r->stages = st_arena_alloc(&s->arena, l.gb->n_nodes, sizeof *r->stages);
	l.alone = st_alloc_array(widest, sizeof *l.alone);
	if (!l.same || !l.floor2 || !l.base2 || !l.local2 || !l.bound || !r->stages || !l.alone) {
		st = st_fail(err, ST_ERR_NOMEM, "out of memory");
		goto out;
	}
	for (uint32_t i = 0; i < s->form.agree; i++) {
		struct st_stage_report *rep = &r->stages[r->n_stages];
		ST_TRY_OUT(lockstep_stage(&l, i, rep, err));
		r->n_stages++;
		r->over_threshold |= rep->over_threshold;
		/* A faulty weight is a fault of its stage also where these tokens do not show it. */
		l.fault_seen |= rep->status == ST_STATUS_FAULT || node_weights(r, &l.gb->nodes[i]) >= ST_WEIGHT_FAULT;
		if (o->hooks.progress)
			o->hooks.progress(o->hooks.user, "evaluating", i + 1, s->form.agree);
		if (rep->stage == ST_STAGE_LM_HEAD) {
			note_top1(r, &l, i);
			ST_TRY_OUT(st_agreement_add(&r->agreement, 0, r->tokens_b, st_run_value(l.ra, i),
			                            st_run_value(l.rb, i), e->pool, err));
		}
		/* Whether other weights compute the same is seen at the end. */
		if (((l.fault_seen && !s->same_function) || rep->over_threshold) && !o->keep_going)
			break;
	}
	if (s->how)
		st_rosetta_settle_function(s, o->keep_going);
	r->skipped = l.gb->n_nodes - r->n_stages;
	r->compared = r->n_stages;
out:
	st_run_close(l.ra);
	st_run_close(l.rb);
	free(l.alone);
	return st;
}
