/*
 * explain.c - the walk over the graph with an engine's values in hand.
 */
#include "explain/explain.h"

#include "arch/arch.h"
#include "base/clock.h"
#include "base/error.h"
#include "base/pool.h"
#include "kernel/kernel.h"
#include "trace/trace.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

/* ---- before any number ---- */

static enum st_status check_trace(struct st_explainer *x, struct st_error *err)
{
	const struct st_provenance *p = st_trace_provenance(x->t);
	if (!p->n_tokens)
		return st_fail(err, ST_ERR_MISMATCH,
		               "does not say which tokens were evaluated, so nothing can be evaluated again");
	for (size_t i = 0; i < p->n_tokens; i++)
		if (p->tokens[i] >= x->g->vocab)
			return st_fail(err, ST_ERR_MISMATCH,
			               "token %zu is id %u, and the model's vocabulary has %u ids", i, p->tokens[i],
			               x->g->vocab);
	for (size_t i = 0; i < p->n_steps; i++)
		if (p->step_tokens[i] >= x->g->vocab)
			return st_fail(err, ST_ERR_MISMATCH,
			               "the token of step %zu is id %u, and the model's vocabulary has %u ids", i + 1,
			               p->step_tokens[i], x->g->vocab);
	x->interleaved = strcmp(p->rope_layout, "interleaved") == 0;
	if (p->rope_layout[0] && !x->interleaved && strcmp(p->rope_layout, "half") != 0)
		return st_fail_at(err, ST_ERR_FORMAT, ST_NO_OFFSET, "rope_layout", "is \"%s\", not half or interleaved",
		                  p->rope_layout);
	return ST_OK;
}

/* Node that layer i reads from before it, its first input. */
static const struct st_node *input_of_layer(const struct st_graph *g, int32_t layer)
{
	for (uint32_t i = 0; i < g->n_nodes; i++)
		if (g->nodes[i].layer == layer)
			return g->nodes[i].in[0] == ST_NO_NODE ? NULL : &g->nodes[g->nodes[i].in[0]];
	return NULL;
}

/* Hidden states say how many layers there are, and only the model says what goes into the first one. */
static enum st_status place_hidden_states(struct st_explainer *x, struct st_error *err)
{
	uint32_t layers = st_trace_provenance(x->t)->layers;
	if (!layers)
		return ST_OK;
	if (layers != x->g->n_layers)
		return st_fail_at(err, ST_ERR_MISMATCH, ST_NO_OFFSET, "hidden_states",
		                  "are of %u layers, and the model has %u: another model's, or part of a dump", layers,
		                  x->g->n_layers);
	const struct st_node *first = input_of_layer(x->g, 0), *next = layers > 1 ? input_of_layer(x->g, 1) : NULL;
	if (!first || first->layer != -1 || (layers > 1 && (!next || next->stage != ST_STAGE_POST_FFN_RESIDUAL)))
		return st_fail_at(err, ST_ERR_UNSUPPORTED, ST_NO_OFFSET, "hidden_states",
		                  "have no stage in this family: its layers do not end in post_ffn_residual");
	st_trace_set_input(x->t, first->stage);
	return ST_OK;
}

/* Another file of the same weights has another digest: then the user must say that it is meant. */
static enum st_status check_file(const struct st_explainer *x, struct st_error *err)
{
	const char *said = st_trace_provenance(x->t)->model_sha256;
	char own[65];
	if (!said[0])
		return ST_OK;
	ST_TRY(st_container_sha256(st_model_container(x->m), own, err));
	if (strcasecmp(said, own) == 0)
		return ST_OK;
	return st_fail_at(err, ST_ERR_MISMATCH, ST_NO_OFFSET, "model_sha256",
	                  "is %.12s..., and %s has %.12s...: it is not the file that the engine ran; --other-file judges by "
	                  "it nevertheless",
	                  said, x->r.model.path, own);
}

/* Values that the model has no stage for; stages that no layer of the trace has. */
static enum st_status list_coverage(struct st_explainer *x, struct st_error *err)
{
	size_t n = st_trace_n_entries(x->t), others = st_trace_n_others(x->t), known = 0;
	x->unknown = st_arena_alloc(&x->arena, n + others, sizeof *x->unknown);
	x->r.missing = st_arena_alloc(&x->arena, x->g->n_nodes, sizeof *x->r.missing);
	ST_NEED(x->unknown);
	ST_NEED(x->r.missing);
	struct st_stage_set seen = { 0 };
	for (size_t i = 0; i < n; i++) {
		const struct st_trace_entry *e = st_trace_entry_at(x->t, i);
		if (st_graph_find(x->g, e->stage, e->layer) == ST_NO_NODE) {
			x->unknown[x->r.n_unknown++] = e->tensor->name;
			continue;
		}
		known++;
		st_stage_set_add(&seen, e->stage);
	}
	for (size_t i = 0; i < others; i++)
		x->unknown[x->r.n_unknown++] = st_trace_other_at(x->t, i)->name;
	if (!known)
		return st_fail(err, ST_ERR_MISMATCH, "has no stage that a model of this family has");
	for (uint32_t i = 0; i < x->g->n_nodes; i++) {
		if (st_stage_set_has(&seen, x->g->nodes[i].stage))
			continue;
		st_stage_set_add(&seen, x->g->nodes[i].stage);
		x->r.missing[x->r.n_missing++] = x->g->nodes[i].stage;
	}
	return ST_OK;
}

/* ---- one stage ---- */

static bool any_nonfinite(const struct st_explainer *x, const struct st_node *n, const struct st_value *v)
{
	for (size_t r = 0; r < v->rows; r++)
		for (size_t i = 0; i < v->cols; i++)
			if (!isfinite(x->got[r * v->cols + i]) && st_capture_counts(x, n, v, x->have, r, i))
				return true;
	return false;
}

/* Of elements that count; the others are made equal for that. */
static void measure(struct st_explainer *x, const struct st_node *n, const struct st_value *v, struct st_metrics *m)
{
	for (size_t r = 0; r < v->rows; r++)
		for (size_t i = 0; i < v->cols; i++)
			if (!st_capture_counts(x, n, v, x->have, r, i) && n->op != ST_OP_SCORES
			    && n->op != ST_OP_SOFTMAX)
				x->got[r * v->cols + i] = x->exact[r * v->cols + i];
	st_metrics_of(x->got, x->exact, v->rows * v->cols, x->exec.pool, m);
}

static enum st_stage_status status_of(const struct st_explained_stage *s, const struct st_fit *f)
{
	return !f->noise                 ? ST_STATUS_FAULT
	     : s->m.max_abs == 0         ? ST_STATUS_EXACT
	     : f->arith == &st_ariths[0] ? ST_STATUS_ROUNDING
	                                 : ST_STATUS_NOISE;
}

static void nonfinite_finding(struct st_finding *f, const struct st_explainer *x, const struct st_node *n,
                              const struct st_value *v)
{
	bool inf = false, nan = false;
	for (size_t k = 0; k < v->rows * v->cols; k++) {
		inf |= isinf(x->got[k]);
		nan |= isnan(x->got[k]);
	}
	*f = (struct st_finding){ .at = n->stage, .layer = n->layer };
	f->cause = (struct st_cause){ .code = inf && !nan ? ST_CAUSE_NUMERIC_OVERFLOW : ST_CAUSE_NUMERIC_NAN,
		                      .confidence = ST_CONFIRMED,
		                      .residual_before = INFINITY,
		                      .residual_after = 0 };
}

/* Of the last logits that were captured. */
static void note_top1(struct st_explainer *x, const struct st_value *v)
{
	const float *got = x->got + (v->rows - 1) * v->cols, *exact = x->exact + (v->rows - 1) * v->cols;
	if (!x->have[v->rows == 1 ? x->pass.T - 1 : v->rows - 1])
		return;
	struct st_lead of_exact = st_lead_of(exact, v->cols);
	x->r.has_top1 = true;
	x->r.top1 = (uint32_t)st_lead_of(got, v->cols).best;
	x->r.top1_exact = (uint32_t)of_exact.best;
	x->r.top1_gap = of_exact.gap;
}

static struct st_finding *next_finding(struct st_explainer *x)
{
	return x->r.n_findings < ST_MAX_FINDINGS ? &x->r.findings[x->r.n_findings] : NULL;
}

static enum st_status judge_node(struct st_explainer *x, uint32_t i, const struct st_explain_options *o,
                                 struct st_error *err)
{
	const struct st_node *n = &x->g->nodes[i];
	struct st_segment s;
	struct st_explained_stage *rep = &x->r.stages[x->r.n_stages];
	struct st_value v = st_run_value(x->run, i);
	st_segment_find(x, i, &s);
	struct st_way plain = { .edit = ST_NO_NODE };
	if (n->op == ST_OP_SCORES && !x->form && !x->r.trace.attn_scores_form[0])
		ST_TRY(st_scores_form(x, i, err));
	ST_TRY(st_run_eval_alone(x->run, x->g, i, &x->exec, x->exact, err));
	ST_TRY(st_capture_place(x, i, x->exact, err));
	ST_TRY(st_capture_load(x, i, x->exact, x->got, x->have, err));
	*rep = (struct st_explained_stage){ .stage = n->stage,
		                            .layer = n->layer,
		                            .step = x->pass.step,
		                            .rows = v.rows,
		                            .cols = v.cols,
		                            .operations = s.n_inner,
		                            .since = x->g->nodes[s.first].stage,
		                            .since_layer = x->g->nodes[s.first].layer,
		                            .visible = { NAN, NAN, NAN },
		                            .worst_position = -1 };
	measure(x, n, &v, &rep->m);
	if (n->stage == ST_STAGE_LM_HEAD)
		note_top1(x, &v);
	struct st_finding *f = next_finding(x);
	bool explain = f
	            && (o->keep_going || x->r.n_findings == 0 || x->r.findings[x->r.n_findings - 1].stage == SIZE_MAX);
	if (any_nonfinite(x, n, &v)) {
		bool inputs = rep->m.nonfinite_b > 0; /* they came in with the inputs */
		rep->status = inputs ? ST_STATUS_INHERITED : ST_STATUS_FAULT;
		rep->ratio = INFINITY;
		if (!inputs && explain) {
			nonfinite_finding(f, x, n, &v);
			f->stage = x->r.n_stages;
			x->r.n_findings++;
		} else if (!inputs) {
			x->r.n_more++;
		}
	} else {
		struct st_fit fit;
		ST_TRY(st_fit_of_value(x, &s, &plain, x->exact, &fit, err));
		rep->floor = fit.floor;
		if (n->op == ST_OP_TOP)
			rep->m.rel_l2 = fit.rel;
		rep->ratio = fit.ratio;
		rep->arithmetic = fit.noise ? fit.arith->name : NULL;
		rep->worst_position = v.rows == 1 ? (int64_t)x->pass.T - 1 : (int64_t)(fit.row % x->pass.T);
		rep->worst_feature = fit.col;
		rep->status = status_of(rep, &fit);
		x->fits[x->r.n_stages] = fit;
		if (fit.noise) {
			x->usual[n->stage] = (uint8_t)(fit.arith - st_ariths + 1);
			if (!fit.by_size && fit.arith != &st_ariths[0])
				x->exact_usual = x->usual[n->stage];
			ST_TRY(st_visible_of(x, i, &fit, &rep->visible, err));
		}
		if (!fit.noise && explain) {
			ST_TRY(st_find_cause(x, &s, &fit, &st_all_hypotheses, f, err));
			ST_TRY(st_ask_consumers(x, &s, f, err));
			f->stage = x->r.n_stages;
			x->r.n_findings++;
		} else if (!fit.noise) {
			x->r.n_more++;
		}
	}
	x->r.n_stages++;
	st_run_put(x->run, i, x->got); /* what follows was made of this */
	return ST_OK;
}

/* Values of more or fewer experts than the model's cannot be compared: that is the fault. */
static void other_choice(struct st_explainer *x, uint32_t i, const struct st_explain_options *o)
{
	const struct st_node *n = &x->g->nodes[i], *top = st_capture_choice(x, i);
	x->r.stages[x->r.n_stages] = (struct st_explained_stage){ .stage = n->stage,
		                                                  .layer = n->layer,
		                                                  .step = x->pass.step,
		                                                  .rows = x->pass.T,
		                                                  .cols = n->width / top->width * x->experts[i],
		                                                  .operations = 1,
		                                                  .since = n->stage,
		                                                  .since_layer = n->layer,
		                                                  .ratio = INFINITY,
		                                                  .visible = { NAN, NAN, NAN },
		                                                  .status = ST_STATUS_FAULT,
		                                                  .worst_position = -1 };
	struct st_finding *f = next_finding(x);
	if (f && (o->keep_going || x->r.n_findings == 0)) {
		*f = (struct st_finding){ .at = top->stage, .layer = n->layer, .stage = x->r.n_stages };
		f->cause = (struct st_cause){ .code = ST_CAUSE_MOE_TOP_K, .confidence = ST_CONFIRMED };
		st_cause_put(&f->cause, ST_PARAM_VALUE, x->experts[i]);
		st_cause_put(&f->cause, ST_PARAM_EXPECTED, top->width);
		x->r.n_findings++;
	} else {
		x->r.n_more++;
	}
	x->r.n_stages++;
}

/* ---- the walk ---- */

static enum st_status walk(struct st_explainer *x, uint32_t step, const struct st_explain_options *o,
                           struct st_error *err)
{
	int32_t counted = -1; /* layer whose experts were found to be more or fewer */
	ST_TRY(st_pass_begin(x, step, err));
	for (uint32_t i = 0; i < x->g->n_nodes; i++) {
		if (x->pass.at[i])
			ST_TRY(judge_node(x, i, o, err));
		else if (x->wanted[i])
			ST_TRY(st_run_eval(x->run, i, err));
		if (x->experts[i] && x->g->nodes[i].layer != counted) {
			counted = x->g->nodes[i].layer;
			other_choice(x, i, o);
		}
		if (o->hooks.progress)
			o->hooks.progress(o->hooks.user, "judging", i + 1, x->g->n_nodes);
	}
	return ST_OK;
}

/* Logits of the last position alone: the others are not evaluated. */
static unsigned run_flags(const struct st_explainer *x)
{
	const struct st_provenance *p = st_trace_provenance(x->t);
	const struct st_trace_entry *e = st_trace_find(x->t, ST_STAGE_LM_HEAD, -1, 0);
	bool last = !e || (e->positions && e->n_positions == 1 && e->positions[0] + 1 == p->n_tokens);
	return last ? ST_RUN_HEAD_LAST : 0;
}

static enum st_status open_run(struct st_explainer *x, struct st_error *err)
{
	const struct st_provenance *p = st_trace_provenance(x->t);
	return st_run_open_flags(x->g, &x->exec, p->n_tokens, p->n_tokens + p->n_steps, run_flags(x), &x->run, err);
}

static enum st_status prepare(struct st_explainer *x, struct st_error *err)
{
	const struct st_provenance *p = st_trace_provenance(x->t);
	size_t T = p->n_tokens, all = p->n_tokens + p->n_steps, nodes = x->g->n_nodes;
	ST_TRY(open_run(x, err));
	for (uint32_t i = 0; i < nodes; i++) {
		const struct st_node *n = &x->g->nodes[i];
		bool scores = n->op == ST_OP_SCORES || n->op == ST_OP_SOFTMAX;
		uint64_t size;
		if (!st_mul_u64(T, n->width, &size)
		    || (scores && !(st_mul_u64(n->heads, T, &size) && st_mul_u64(size, all, &size))))
			return st_fail(err, ST_ERR_NOMEM, "out of memory");
		x->widest = size > x->widest ? size : x->widest;
	}
	float **const buffers[] = { &x->got,   &x->exact,     &x->tried,  &x->bound, &x->spare,
		                    &x->moved, &x->candidate, &x->buffer, &x->undone };
	for (size_t i = 0; i < sizeof buffers / sizeof *buffers; i++) {
		*buffers[i] = st_arena_alloc(&x->arena, x->widest, sizeof **buffers[i]);
		ST_NEED(*buffers[i]);
	}
	x->have = st_arena_alloc(&x->arena, T, sizeof *x->have);
	x->have_input = st_arena_alloc(&x->arena, T, sizeof *x->have_input);
	x->inner = st_arena_alloc(&x->arena, nodes, sizeof *x->inner);
	x->input = st_arena_alloc(&x->arena, nodes, sizeof *x->input);
	x->wanted = st_arena_alloc(&x->arena, nodes, sizeof *x->wanted);
	x->experts = st_arena_alloc(&x->arena, nodes, sizeof *x->experts);
	x->pass.at = st_arena_alloc(&x->arena, nodes, sizeof *x->pass.at);
	x->pass.placed = st_arena_alloc(&x->arena, nodes, sizeof *x->pass.placed);
	x->usual = st_arena_alloc(&x->arena, ST_MAX_STAGES, sizeof *x->usual);
	x->r.stages = st_arena_alloc2(&x->arena, nodes, p->n_steps + 1, sizeof *x->r.stages);
	x->r.findings = st_arena_alloc(&x->arena, ST_MAX_FINDINGS, sizeof *x->r.findings);
	x->fits = st_arena_alloc2(&x->arena, nodes, p->n_steps + 1, sizeof *x->fits);
	if (!x->have || !x->have_input || !x->inner || !x->input || !x->wanted || !x->experts || !x->pass.at || !x->pass.placed
	    || !x->usual || !x->r.stages || !x->r.findings || !x->fits)
		return st_fail(err, ST_ERR_NOMEM, "out of memory");
	memset(x->usual, 0, ST_MAX_STAGES * sizeof *x->usual);
	return ST_OK;
}

static enum st_status walk_all(struct st_explainer *x, const struct st_explain_options *o, struct st_error *err)
{
	for (uint32_t step = 0; step <= x->r.trace.n_steps; step++)
		ST_TRY(walk(x, step, o, err));
	/* Where the trace does not say in which basis Q and K are, the values do. */
	if (x->r.trace.rope_layout[0] || !x->r.n_findings
	    || x->r.findings[x->r.n_findings - 1].cause.code != ST_CAUSE_CAPTURE_ROPE_LAYOUT || x->interleaved)
		return ST_OK;
	x->interleaved = true;
	x->r.n_findings = x->r.n_more = x->r.n_stages = 0;
	st_run_close(x->run);
	x->run = NULL;
	ST_TRY(open_run(x, err));
	return walk_all(x, o, err);
}

static void describe_model(struct st_explainer *x, const char *path)
{
	struct st_side_info *s = &x->r.model;
	const struct st_config *c = st_model_config(x->m);
	const struct st_container *k = st_model_container(x->m);
	snprintf(s->path, sizeof s->path, "%s", path);
	snprintf(s->format, sizeof s->format, "%s", st_format_name(st_container_format(k)));
	snprintf(s->arch, sizeof s->arch, "%s", c->arch);
	snprintf(s->name, sizeof s->name, "%s", c->name);
	s->layers = x->g->n_layers;
	s->tensors = st_container_n_tensors(k);
}

/* Nearly every product is off by about as much, and nothing explains the first: other weights all over. */
static void find_two_models(struct st_explainer *x)
{
	size_t linear = 0, wrong = 0;
	double least = INFINITY, most = 0;
	for (size_t i = 0; i < x->r.n_stages; i++) {
		const struct st_explained_stage *s = &x->r.stages[i];
		uint32_t k = st_graph_find(x->g, s->stage, s->layer);
		enum st_op op = x->g->nodes[k].op;
		if (op != ST_OP_LINEAR && op != ST_OP_EMBED && op != ST_OP_LINEAR_AT)
			continue;
		linear++;
		if (s->status != ST_STATUS_FAULT)
			continue;
		wrong++;
		least = fmin(least, s->m.rel_l2);
		most = fmax(most, s->m.rel_l2);
	}
	struct st_finding *f = x->r.n_findings ? &x->r.findings[0] : NULL;
	if (!f || f->stage == SIZE_MAX || f->cause.code != ST_CAUSE_UNEXPLAINED || linear < 4 || wrong * 10 < linear * 9
	    || most > 8 * least)
		return;
	f->cause.code = ST_CAUSE_WEIGHT_TWO_MODELS;
	f->cause.confidence = ST_LIKELY;
	f->cause.n_params = 0;
	st_cause_put(&f->cause, ST_PARAM_TENSORS, (double)wrong);
	st_cause_put(&f->cause, ST_PARAM_OF, (double)linear);
	st_cause_put(&f->cause, ST_PARAM_MEDIAN, (least + most) / 2);
}

static void decide(struct st_explainer *x, const struct st_explain_options *o)
{
	find_two_models(x);
	st_check_consistency(x, o->keep_going);
	struct st_explain *r = &x->r;
	r->verdict = ST_VERDICT_MATCH;
	for (size_t i = 0; i < r->n_stages; i++) {
		enum st_stage_status s = r->stages[i].status;
		if (s == ST_STATUS_FAULT && !r->first.found) {
			r->verdict = ST_VERDICT_FAULT;
			r->first = (struct st_divergence){ .found = true,
				                           .layer = r->stages[i].layer,
				                           .position = r->stages[i].worst_position };
			snprintf(r->first.stage, sizeof r->first.stage, "%s", st_stage_name(r->stages[i].stage));
		}
		if (s == ST_STATUS_NOISE && r->verdict == ST_VERDICT_MATCH)
			r->verdict = ST_VERDICT_NOISE;
	}
	if (!r->first.found && r->n_findings) { /* what could not be compared leaves it open */
		const struct st_finding *f = &r->findings[0];
		bool tokens = f->cause.code == ST_CAUSE_TOKENS_BOS || f->cause.code == ST_CAUSE_TOKENS_MISMATCH;
		r->verdict = tokens ? ST_VERDICT_FAULT : ST_VERDICT_UNDECIDED;
		r->first = (struct st_divergence){ .found = true, .layer = f->layer, .position = -1 };
		snprintf(r->first.stage, sizeof r->first.stage, "%s", st_stage_name(f->at));
	}
	for (size_t i = 0; i < r->n_findings; i++)
		st_explain_say(x, &r->findings[i]);
}

/* One trace by itself. *out is freed with st_explain_free. */
static enum st_status judge_trace(const char *trace, const char *model, const struct st_explain_options *o,
                                  struct st_explainer **out, struct st_error *err)
{
	*out = NULL;
	double start = st_now_ms();
	struct st_exec e;
	ST_TRY(st_exec_at(o->cpu, &e, err));
	struct st_explainer *x = st_alloc_zeroed(1, sizeof *x);
	if (!x)
		return st_fail(err, ST_ERR_NOMEM, "out of memory");
	st_arena_init(&x->arena);
	enum st_status st;
	ST_TRY_OUT(st_pool_open(o->threads, &e.pool, err));
	x->exec = e;
	/* The model first: its family gives further stages their names. */
	ST_TRY_OUT(st_model_open_as(model, o->family, &x->m, err));
	x->g = st_model_graph(x->m);
	ST_TRY_OUT(st_trace_open_loose(trace, &x->t, err));
	snprintf(x->r.trace_path, sizeof x->r.trace_path, "%s", trace);
	x->r.trace = *st_trace_provenance(x->t);
	describe_model(x, model);
	st = check_trace(x, err);
	if (st == ST_OK)
		st = place_hidden_states(x, err);
	if (st == ST_OK)
		st = list_coverage(x, err);
	if (st == ST_OK && !o->other_file)
		st = check_file(x, err);
	if (st == ST_OK)
		st = prepare(x, err);
	x->r.ms_load = st_now_ms() - start;
	bool stop = false;
	if (st == ST_OK)
		st = st_check_rows(x, &stop, err);
	if (st == ST_OK && !stop) {
		st_run_close(x->run);
		x->run = NULL;
		st = open_run(x, err);
	}
	if (st == ST_OK && !stop)
		st = walk_all(x, o, err);
	if (st != ST_OK) {
		st_error_in(err, trace);
		goto out;
	}
	decide(x, o);
	x->r.ms_total = st_now_ms() - start;
	x->r.ms_run = x->r.ms_total - x->r.ms_load;
	st_pool_close(e.pool);
	x->exec.pool = NULL;
	*out = x;
	return ST_OK;
out:
	st_pool_close(e.pool);
	st_explain_free(&x->r);
	return st;
}

/* ---- a second trace ---- */

/* Values for other tokens are not compared: that is the verdict. */
static void refuse_tokens(struct st_explainer *x, const struct st_beside *b)
{
	const struct st_provenance *p = &x->r.trace, *q = &b->judged->trace;
	struct st_finding f = { .stage = SIZE_MAX, .at = ST_STAGE_EMBEDDING, .layer = -1 };
	f.cause = (struct st_cause){ .code = ST_CAUSE_TOKENS_MISMATCH, .confidence = ST_CONFIRMED };
	st_cause_put(&f.cause, ST_PARAM_TOKEN, (double)b->at);
	if (b->at < p->n_tokens && b->at < q->n_tokens) {
		st_cause_put(&f.cause, ST_PARAM_VALUE, p->tokens[b->at]);
		st_cause_put(&f.cause, ST_PARAM_EXPECTED, q->tokens[b->at]);
	}
	snprintf(f.structure, sizeof f.structure, "%zu tokens here, %zu there", p->n_tokens, q->n_tokens);
	st_explain_say(x, &f);
	if (x->r.n_findings < ST_MAX_FINDINGS) {
		memmove(&x->r.findings[1], &x->r.findings[0], x->r.n_findings * sizeof f);
		x->r.n_findings++;
	}
	x->r.findings[0] = f;
	x->r.verdict = ST_VERDICT_FAULT;
	x->r.first = (struct st_divergence){ .found = true, .layer = -1, .position = (int64_t)b->at };
	snprintf(x->r.first.stage, sizeof x->r.first.stage, "tokens");
}

static enum st_status put_beside(struct st_explainer *x, const char *trace, const char *model, bool again,
                                 const struct st_explain_options *o, struct st_error *err)
{
	struct st_explainer *y;
	struct st_beside **slot = again ? &x->r.again : &x->r.reference;
	ST_TRY(judge_trace(trace, !again && o->reference_model ? o->reference_model : model, o, &y, err));
	enum st_status st = st_set_beside(x, y, again, slot, err);
	if (!*slot)
		st_explain_free(&y->r);
	ST_TRY(st);
	if (!(*slot)->same_tokens)
		refuse_tokens(x, *slot);
	else if (again)
		st_judge_again(x, *slot);
	return ST_OK;
}

enum st_status st_explain_run(const char *trace, const char *model, const struct st_explain_options *o,
                              struct st_explain **out, struct st_error *err)
{
	struct st_explainer *x;
	*out = NULL;
	ST_TRY(judge_trace(trace, model, o, &x, err));
	enum st_status st = o->reference ? put_beside(x, o->reference, model, false, o, err) : ST_OK;
	if (st == ST_OK && o->again)
		st = put_beside(x, o->again, model, true, o, err);
	if (st != ST_OK)
		st_explain_free(&x->r);
	else
		*out = &x->r;
	return st;
}

void st_explain_free(struct st_explain *r)
{
	if (!r)
		return;
	struct st_explainer *x = (struct st_explainer *)(void *)r;
	if (r->reference)
		st_explain_free(r->reference->judged);
	if (r->again)
		st_explain_free(r->again->judged);
	st_run_close(x->run);
	st_trace_close(x->t);
	st_model_close(x->m);
	st_arena_release(&x->arena);
	free(x);
}

const char *st_explain_unknown(const struct st_explain *r, size_t i)
{
	const struct st_explainer *x = (const struct st_explainer *)(const void *)r;
	return x->unknown[i];
}

int st_explain_exit(const struct st_explain *r)
{
	return r->verdict == ST_VERDICT_FAULT ? 1 : r->verdict == ST_VERDICT_UNDECIDED ? 3 : 0;
}
