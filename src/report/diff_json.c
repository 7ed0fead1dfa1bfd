#include "graph/stage.h"
#include "report/diff.h"

#include "report/json.h"

#include <math.h>
#include <string.h>

static void put(json_t *o, const char *key, json_t *v, bool *failed)
{
	if (json_object_set_new(o, key, v) != 0)
		*failed = true;
}

static json_t *defined(double v) { return isnan(v) ? json_null() : st_json_number(v); }

static void metrics(json_t *o, const struct st_metrics *m, bool *f)
{
	put(o, "dim_product", st_json_u64(m->count), f);
	put(o, "max_abs_diff", st_json_number(m->max_abs), f);
	put(o, "max_abs_diff_index", st_json_u64(m->max_abs_index), f);
	put(o, "mean_abs_diff", st_json_number(m->mean_abs), f);
	put(o, "rms_diff", st_json_number(m->rms), f);
	put(o, "rel_l2", st_json_number(m->rel_l2), f);
	put(o, "cosine_sim", defined(m->cosine), f);
	put(o, "gain", defined(m->gain), f);
	put(o, "nonfinite_a", st_json_u64(m->nonfinite_a), f);
	put(o, "nonfinite_b", st_json_u64(m->nonfinite_b), f);
}

static void stage_json(const struct st_diff *d, json_t *o, bool *f)
{
	const struct st_stage_diff *s = &d->stage;
	put(o, "stage", s->stage[0] ? json_string(s->stage) : json_null(), f);
	put(o, "layer", s->layer < 0 ? json_string("whole-model") : json_integer(s->layer), f);
	metrics(o, &s->m, f);
	json_t *top = json_array();
	for (size_t i = 0; i < s->n_top; i++)
		json_array_append_new(top, json_pack("{s:o, s:o, s:o, s:o}", "index", st_json_u64(s->top[i].index), "a",
		                                     st_json_number(s->top[i].a), "b", st_json_number(s->top[i].b),
		                                     "abs_diff", st_json_number(s->top[i].abs)));
	put(o, "top_diffs", top, f);
}

static const char *const status_names[] = { "expected", "undecided", "fault" };

static json_t *trace_row(const struct st_trace_row *r, bool *f)
{
	json_t *o = json_object();
	put(o, "stage", json_string(st_stage_name(r->stage)), f);
	put(o, "layer", st_json_layer(r->layer), f);
	put(o, "step", json_integer(r->step), f);
	put(o, "side", !r->on_a ? json_string("b") : !r->on_b ? json_string("a") : json_null(), f);
	put(o, "positions", st_json_u64(r->positions), f);
	put(o, "positions_a", st_json_u64(r->positions_a), f);
	put(o, "positions_b", st_json_u64(r->positions_b), f);
	put(o, "min_cosine", defined(r->min_cosine), f);
	put(o, "max_rel_l2", st_json_number(r->max_rel_l2), f);
	put(o, "worst_position", st_json_u64(r->worst_position), f);
	put(o, "max_abs_diff", st_json_number(r->max_abs), f);
	put(o, "nonfinite_a", st_json_u64(r->nonfinite_a), f);
	put(o, "nonfinite_b", st_json_u64(r->nonfinite_b), f);
	put(o, "floor", defined(r->floor), f);
	put(o, "stored_rounding", json_boolean(r->rounding), f);
	if (r->stage == ST_STAGE_LM_HEAD && r->positions) {
		put(o, "top1_agree", st_json_u64(r->top1), f);
		put(o, "top5_overlap", defined(r->top5), f);
	}
	put(o, "status", json_string(status_names[r->status]), f);
	return o;
}

static json_t *weight_row(const struct st_weight_diff *w, bool *f)
{
	static const char *const words[] = { "equal", "equal-decoded", "noise", "fault", "only-a", "only-b" };
	json_t *o = json_object();
	put(o, "tensor", json_string(w->slot->canonical), f);
	put(o, "tensor_a", w->a ? st_json_text(w->a->tensor->name) : json_null(), f);
	put(o, "tensor_b", w->b ? st_json_text(w->b->tensor->name) : json_null(), f);
	put(o, "status", json_string(words[w->status]), f);
	put(o, "rel_l2", st_json_number(w->rel_l2), f);
	put(o, "expected", st_json_number(w->predicted), f);
	put(o, "judged", st_json_u64(w->judged), f);
	put(o, "outside", st_json_u64(w->outside), f);
	put(o, "gain", defined(w->gain), f);
	put(o, "max_abs_diff", st_json_number(w->max_abs), f);
	put(o, "code", w->cause.code != ST_CAUSE_NONE ? json_string(st_cause_name(w->cause.code)) : json_null(), f);
	return o;
}

static json_t *tensor_row(const struct st_tensor_diff *x, bool *f)
{
	json_t *o = json_object();
	put(o, "tensor", st_json_text((x->a ? x->a : x->b)->name), f);
	put(o, "side", !x->a ? json_string("b") : !x->b ? json_string("a") : json_null(), f);
	put(o, "shapes_differ", json_boolean(x->shapes_differ), f);
	if (!x->a || !x->b)
		return o;
	put(o, "status", json_string(status_names[x->status]), f);
	if (!x->shapes_differ) {
		put(o, "expected", st_json_number(x->expected), f);
		metrics(o, &x->m, f);
	}
	return o;
}

json_t *st_report_diff_json(const struct st_diff *d, int status)
{
	static const char *const schemas[] = { "stele.stage-diff/1", "stele.trace-diff/1", "stele.model-diff/1",
		                               "stele.tensor-diff/1" };
	static const char *const lists[] = { NULL, "stages", "weights", "tensors" };
	const size_t counts[] = { 0, d->n_rows, d->n_weights, d->n_tensors };
	bool failed = false;
	json_t *o = json_object();
	put(o, "schema", json_string(schemas[d->kind]), &failed);
	put(o, "path_a", st_json_text(d->path_a), &failed);
	put(o, "path_b", st_json_text(d->path_b), &failed);
	if (d->note[0])
		put(o, "note", st_json_text(d->note), &failed);
	if (d->kind == ST_DIFF_STAGES)
		stage_json(d, o, &failed);
	if (d->kind == ST_DIFF_MODELS) {
		json_t *config = json_array();
		for (size_t i = 0; i < d->n_config; i++)
			json_array_append_new(config,
			                      json_pack("{s:s, s:o, s:o, s:b}", "key", d->config[i].key, "a",
			                                st_json_text(d->config[i].a), "b", st_json_text(d->config[i].b),
			                                "matters", d->config[i].matters));
		put(o, "config", config, &failed);
		for (int side = 0; side < 2; side++) {
			json_t *unused = json_array();
			for (size_t i = 0; i < (side ? d->n_unused_b : d->n_unused_a); i++)
				json_array_append_new(unused,
				                      st_json_text((side ? d->unused_b : d->unused_a)[i]->name));
			put(o, side ? "unused_b" : "unused_a", unused, &failed);
		}
	}
	if (lists[d->kind]) {
		json_t *list = json_array();
		for (size_t i = 0; i < counts[d->kind]; i++)
			json_array_append_new(list, d->kind == ST_DIFF_TRACES   ? trace_row(&d->rows[i], &failed)
			                            : d->kind == ST_DIFF_MODELS ? weight_row(&d->weights[i], &failed)
			                                                        : tensor_row(&d->tensors[i], &failed));
		put(o, lists[d->kind], list, &failed);
		put(o, "first", d->first == SIZE_MAX ? json_null() : st_json_u64(d->first), &failed);
	}
	if (d->kind == ST_DIFF_TRACES) {
		json_t *others = json_array();
		for (size_t i = 0; i < d->n_tensors; i++)
			json_array_append_new(others, tensor_row(&d->tensors[i], &failed));
		put(o, "no_stage", others, &failed);
	}
	put(o, "coverage",
	    json_pack("{s:o, s:o, s:o}", "compared", st_json_u64(d->compared), "only_a", st_json_u64(d->only_a),
	              "only_b", st_json_u64(d->only_b)),
	    &failed);
	put(o, "verdict",
	    json_string(d->fault || d->over_threshold ? "fault"
	                : d->undecided                ? "undecided"
	                                              : "match"),
	    &failed);
	put(o, "why", d->why ? json_string(d->why) : json_null(), &failed);
	put(o, "exit", json_integer(status), &failed);
	if (failed) {
		json_decref(o);
		return NULL;
	}
	return o;
}
