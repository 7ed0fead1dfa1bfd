#include "report/explain.h"

#include "report/json.h"

#include <math.h>

static json_t *text_or_null(const char *s) { return s[0] ? st_json_text(s) : json_null(); }

static json_t *cause(const struct st_finding *f)
{
	const struct st_cause *c = &f->cause;
	json_t *equivalent = json_array();
	for (size_t i = 0; i < f->n_equivalent; i++)
		json_array_append_new(equivalent, json_string(st_cause_name(f->equivalent[i])));
	return json_pack("{s:s, s:s, s:o, s:o, s:o, s:o, s:o, s:s, s:o, s:o, s:o, s:b}", "code", st_cause_name(c->code),
	                 "confidence", st_confidence_name(c->confidence), "parameters", st_json_params(c),
	                 "residual_before", st_json_number(c->residual_before), "residual_after",
	                 st_json_number(c->residual_after), "floor", st_json_number(c->floor), "text",
	                 st_json_text(f->text), "stage", st_stage_name(f->at), "layer", st_json_layer(f->layer),
	                 "equivalent", equivalent, "structure", text_or_null(f->structure), "engine_right",
	                 f->engine_right);
}

static json_t *candidates(const struct st_finding *f)
{
	json_t *a = json_array();
	for (size_t i = 0; f && i < f->n_candidates; i++)
		json_array_append_new(a, json_pack("{s:s, s:o}", "code", st_cause_name(f->candidates[i].code),
		                                   "residual_after", st_json_number(f->candidates[i].residual_after)));
	return a;
}

static json_t *divergence(const struct st_explain *x)
{
	const struct st_divergence *d = &x->first;
	if (!d->found)
		return json_null();
	return json_pack("{s:s, s:o, s:n, s:o, s:s}", "stage", d->stage, "layer", st_json_layer(d->layer), "tensor",
	                 "position", d->position < 0 ? json_null() : json_integer((json_int_t)d->position), "side",
	                 d->side == 'b' ? "b" : "a");
}

static json_t *known(double v) { return isnan(v) ? json_null() : st_json_number(v); }

static json_t *stage(const struct st_explained_stage *s)
{
	const struct st_metrics *m = &s->m;
	uint64_t shape[2] = { s->rows, s->cols };
	json_t *since = s->operations > 1 ? json_pack("{s:s, s:o}", "stage", st_stage_name(s->since), "layer",
	                                              st_json_layer(s->since_layer))
	                                  : json_null();
	return json_pack(
		"{s:s, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:{s:o, s:o, s:o, s:o, "
		"s:o}, s:{s:o, s:o, s:o}, s:o, s:o, s:s}",
		"stage", st_stage_name(s->stage), "layer", st_json_layer(s->layer), "step", st_json_u64(s->step),
		"count", st_json_u64(m->count), "shape_a", st_json_shape(shape, 2), "shape_b", st_json_shape(shape, 2),
		"max_abs", st_json_number(m->max_abs), "max_abs_index", st_json_u64(m->max_abs_index), "mean_abs",
		st_json_number(m->mean_abs), "rms", st_json_number(m->rms), "rel_l2", st_json_number(m->rel_l2),
		"cosine", isnan(m->cosine) ? json_null() : st_json_number(m->cosine), "gain",
		isnan(m->gain) ? json_null() : st_json_number(m->gain), "nonfinite_a", st_json_u64(m->nonfinite_a),
		"nonfinite_b", st_json_u64(m->nonfinite_b), "local", "rel_l2", st_json_number(m->rel_l2), "floor",
		st_json_number(s->floor), "kind", s->arithmetic ? json_string(s->arithmetic) : json_null(), "ratio",
		st_json_number(s->ratio), "worst_feature", st_json_u64(s->worst_feature), "visible", "gain",
		known(s->visible.gain), "row", known(s->visible.row), "angle", known(s->visible.angle), "worst_position",
		s->worst_position < 0 ? json_null() : json_integer((json_int_t)s->worst_position), "segment_from",
		since, "status", st_stage_status_name(s->status));
}

static json_t *finding(const struct st_explain *x, const struct st_finding *f)
{
	const struct st_explained_stage of_trace = { .stage = f->at, .layer = f->layer };
	const struct st_explained_stage *s = f->stage == SIZE_MAX ? &of_trace : &x->stages[f->stage];
	return json_pack("{s:s, s:o, s:o, s:o, s:o, s:o}", "stage", st_stage_name(s->stage), "layer",
	                 st_json_layer(s->layer), "step", st_json_u64(s->step), "cause", cause(f), "candidates",
	                 candidates(f), "recommendation", text_or_null(f->recommendation));
}

static json_t *size_or_null(size_t i) { return i == SIZE_MAX ? json_null() : st_json_u64(i); }

/* A second trace: how it is judged by itself, and how it stands beside the first. */
static json_t *beside(const struct st_beside *b)
{
	if (!b)
		return json_null();
	const struct st_explain *y = b->judged;
	const struct st_finding *f = y->n_findings ? &y->findings[0] : NULL;
	json_t *judged = json_pack("{s:o, s:o, s:o, s:o, s:s, s:o, s:o}", "path", st_json_text(y->trace_path), "engine",
	                           text_or_null(y->trace.engine), "backend", text_or_null(y->trace.backend), "mode",
	                           text_or_null(y->trace.mode), "verdict", st_verdict_name(y->verdict),
	                           "first_divergence", divergence(y), "cause", f ? cause(f) : json_null());
	json_t *parted = !b->parted ? json_null()
	                            : json_pack("{s:o, s:o, s:o, s:o, s:o, s:o}", "after", st_json_u64(b->after), "here",
	                                        st_json_u64(b->here), "there", st_json_u64(b->there), "gap_here",
	                                        st_json_number(b->gap_here), "gap_there", st_json_number(b->gap_there),
	                                        "rank_here", st_json_u64(b->rank_here));
	return json_pack("{s:o, s:b, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:b}", "judged", judged,
	                 "same_tokens", b->same_tokens, "first_other_token",
	                 b->same_tokens && !b->parted ? json_null() : st_json_u64(b->at), "parted", parted, "top1_agree",
	                 b->has_top1 ? json_boolean(b->top1_agree) : json_null(), "compared", st_json_u64(b->compared),
	                 "nearer_here", st_json_u64(b->nearer_here), "nearer_there", st_json_u64(b->nearer_there),
	                 "rms_here", known(b->rms_here), "rms_there", known(b->rms_there), "only_here",
	                 st_json_u64(b->only_here), "only_there", st_json_u64(b->only_there), "equal",
	                 st_json_u64(b->equal), "differ", st_json_u64(b->differ), "first", size_or_null(b->first), "rel",
	                 b->first == SIZE_MAX ? json_null() : st_json_number(b->rel), "same_path", b->same_path);
}

json_t *st_report_explain_json(const struct st_explain *x, int status)
{
	const struct st_finding *f = x->n_findings ? &x->findings[0] : NULL;
	if (x->first.side == 'b' && x->again->judged->n_findings) /* the second trace alone is faulty */
		f = &x->again->judged->findings[0];
	const struct st_provenance *p = &x->trace;
	json_t *stages = json_array(), *all = json_array(), *missing = json_array(), *unknown = json_array(),
	       *tokens = json_array();
	for (size_t i = 0; i < x->n_stages; i++)
		json_array_append_new(stages, stage(&x->stages[i]));
	for (size_t i = 0; i < x->n_findings; i++)
		json_array_append_new(all, finding(x, &x->findings[i]));
	for (size_t i = 0; i < x->n_missing; i++)
		json_array_append_new(missing, json_string(st_stage_name(x->missing[i])));
	for (size_t i = 0; i < x->n_unknown; i++)
		json_array_append_new(unknown, st_json_text(st_explain_unknown(x, i)));
	for (size_t i = 0; i < p->n_tokens; i++)
		json_array_append_new(tokens, json_integer(p->tokens[i]));
	json_t *trace = json_pack("{s:o, s:o, s:o, s:o, s:o}", "path", st_json_text(x->trace_path), "engine",
	                          text_or_null(p->engine), "backend", text_or_null(p->backend), "weights",
	                          text_or_null(p->weights), "rope_layout", text_or_null(p->rope_layout));
	json_t *model = json_pack("{s:o, s:s, s:s, s:i, s:o}", "path", st_json_text(x->model.path), "format",
	                          x->model.format, "arch", x->model.arch, "layers", (int)x->model.layers, "tensors",
	                          st_json_u64(x->model.tensors));
	return json_pack(
		"{s:s, s:{s:s, s:s}, s:s, s:{s:o, s:o}, s:o, s:s, s:n, s:s, s:o, s:o, s:o, s:o, s:o, s:o, s:{s:o, s:o, "
		"s:o, s:o}, s:o, s:o, s:o, s:{s:o, s:o, s:o}, s:i}",
		"schema", "stele.report/1", "tool", "name", "stele", "version", st_version(), "command", "explain",
		"inputs", "trace", trace, "model", model, "tokens", tokens, "mode", "exact", "threshold", "verdict",
		st_verdict_name(x->verdict), "first_divergence", divergence(x), "cause", f ? cause(f) : json_null(),
		"recommendation", f ? text_or_null(f->recommendation) : json_null(), "candidates", candidates(f),
		"findings", all, "stages", stages, "coverage", "compared", st_json_u64(x->n_stages), "missing", missing,
		"unknown", unknown, "not_explained", st_json_u64(x->n_more), "reference", beside(x->reference), "again", beside(x->again),
		"top1",
		x->has_top1 ? json_pack("{s:o, s:o, s:b, s:o}", "a", st_json_u64(x->top1), "b", st_json_u64(x->top1_exact),
	                                "agree", x->top1 == x->top1_exact, "gap", st_json_number(x->top1_gap))
			    : json_null(),
		"timing_ms", "load",
		st_json_number(x->ms_load), "run", st_json_number(x->ms_run), "total", st_json_number(x->ms_total),
		"exit", status);
}
