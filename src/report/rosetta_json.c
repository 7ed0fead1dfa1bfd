#include "report/rosetta.h"

#include "report/json.h"

#include <string.h>

/* json_object_set_new fails for a NULL value and for itself; one flag gathers both. */
struct object {
	json_t *o;
	bool failed;
};

static void put(struct object *b, const char *key, json_t *v)
{
	if (json_object_set_new(b->o, key, v) != 0)
		b->failed = true;
}

static json_t *side(const struct st_side_info *s)
{
	return json_pack("{s:o, s:o, s:s, s:i, s:s, s:o, s:o}", "path", st_json_text(s->path), "format",
	                 st_json_text(s->format), "arch", s->arch, "layers", (int)s->layers, "dtypes", s->dtypes,
	                 "sha256", s->sha256[0] ? json_string(s->sha256) : json_null(), "tensors",
	                 st_json_u64(s->tensors));
}

static json_t *side_letter(char side) { return side ? json_stringn(&side, 1) : json_null(); }

static json_t *cause(const struct st_rosetta *r)
{
	const struct st_cause *c = &r->cause;
	if (c->code == ST_CAUSE_NONE)
		return json_null();
	return json_pack("{s:s, s:s, s:o, s:o, s:o, s:o, s:o}", "code", st_cause_name(c->code), "confidence",
	                 st_confidence_name(c->confidence), "parameters", st_json_params(c), "residual_before",
	                 st_json_number(c->residual_before), "residual_after", st_json_number(c->residual_after),
	                 "floor", st_json_number(c->floor), "text", st_json_text(r->text));
}

static json_t *divergence(const struct st_divergence *d)
{
	if (!d->found)
		return json_null();
	return json_pack("{s:s, s:o, s:o, s:o, s:o}", "stage", d->stage, "layer", st_json_layer(d->layer), "tensor",
	                 d->tensor[0] ? st_json_text(d->tensor) : json_null(), "position",
	                 d->position < 0 ? json_null() : json_integer((json_int_t)d->position), "side",
	                 side_letter(d->side));
}

static json_t *stage(const struct st_stage_report *p)
{
	struct object b = { .o = json_object() };
	const struct st_metrics *m = &p->total;
	put(&b, "stage", json_string(st_stage_name(p->stage)));
	put(&b, "layer", st_json_layer(p->layer));
	put(&b, "count", st_json_u64(m->count));
	put(&b, "shape_a", p->on_a ? st_json_shape(p->shape, p->ndim) : json_null());
	put(&b, "shape_b", p->on_b ? st_json_shape(p->shape, p->ndim) : json_null());
	put(&b, "max_abs", st_json_number(m->max_abs));
	put(&b, "max_abs_index", st_json_u64(m->max_abs_index));
	put(&b, "mean_abs", st_json_number(m->mean_abs));
	put(&b, "rms", st_json_number(m->rms));
	put(&b, "rel_l2", st_json_number(m->rel_l2));
	put(&b, "cosine", isnan(m->cosine) ? json_null() : st_json_number(m->cosine));
	put(&b, "gain", isnan(m->gain) ? json_null() : st_json_number(m->gain));
	put(&b, "nonfinite_a", st_json_u64(m->nonfinite_a));
	put(&b, "nonfinite_b", st_json_u64(m->nonfinite_b));
	put(&b, "floor", st_json_number(p->floor));
	put(&b, "local",
	    json_pack("{s:o, s:o, s:s, s:o, s:o}", "rel_l2", st_json_number(p->local_rel), "floor",
	              st_json_number(p->local_floor), "kind", st_floor_kind_name(p->kind), "worst_token_ratio",
	              st_json_number(p->worst_token_ratio), "worst_token", st_json_u64(p->worst_token)));
	put(&b, "inherited_rel_l2", st_json_number(p->inherited_rel));
	put(&b, "shared", json_boolean(p->shared));
	put(&b, "over_threshold", json_boolean(p->over_threshold));
	put(&b, "status", json_string(st_stage_status_name(p->status)));
	return b.o;
}

static json_t *name_of(const struct st_weight *w)
{
	return w && w->tensor ? st_json_text(w->tensor->name) : json_null();
}

/* What the stored types explain; null where nothing is apart by them. */
static json_t *stored_types(const struct st_noise_sizes *z)
{
	if (!z->tensors)
		return json_null();
	return json_pack("{s:o, s:o, s:o, s:o, s:o, s:o, s:o}", "tensors", st_json_u64(z->tensors), "judged",
	                 st_json_u64(z->judged), "outside", st_json_u64(z->outside), "median",
	                 st_json_number(z->median), "least", st_json_number(z->least), "most", st_json_number(z->most),
	                 "over_twice", st_json_u64(z->over_twice));
}

static json_t *apart(const struct st_weight_diff *d)
{
	return json_pack("{s:s, s:s, s:o, s:o, s:o, s:o}", "tensor", d->slot->canonical, "status",
	                 d->status == ST_WEIGHT_NOISE ? "noise" : "fault", "rel_l2", st_json_number(d->rel_l2), "floor",
	                 st_json_number(d->predicted), "judged", st_json_u64(d->judged), "outside",
	                 st_json_u64(d->outside));
}

static json_t *weights(const struct st_rosetta *r)
{
	json_t *differ = json_array(), *faults = json_array(), *only_a = json_array(), *only_b = json_array();
	int matched = 0, equal = 0, noise = 0;
	for (size_t i = 0; i < r->n_weights; i++) {
		const struct st_weight_diff *d = &r->weights[i];
		matched += d->status < ST_WEIGHT_ONLY_A;
		equal += d->status <= ST_WEIGHT_EQUAL_DECODED;
		noise += d->status == ST_WEIGHT_NOISE;
		if (d->status == ST_WEIGHT_ONLY_A || d->status == ST_WEIGHT_ONLY_B)
			json_array_append_new(d->status == ST_WEIGHT_ONLY_A ? only_a : only_b,
			                      json_string(d->slot->canonical));
		if (d->status == ST_WEIGHT_NOISE || d->status == ST_WEIGHT_FAULT)
			json_array_append_new(differ, apart(d));
		if (d->status == ST_WEIGHT_FAULT)
			json_array_append_new(
				faults, json_pack("{s:o, s:o, s:s, s:s, s:o, s:o, s:o, s:o}", "tensor_a", name_of(d->a),
			                          "tensor_b", name_of(d->b), "tensor", d->slot->canonical, "code",
			                          st_cause_name(d->cause.code), "parameters", st_json_params(&d->cause),
			                          "residual", st_json_number(d->cause.residual_after), "rel_l2",
			                          st_json_number(d->rel_l2), "side", side_letter(d->side)));
	}
	return json_pack("{s:i, s:i, s:i, s:o, s:o, s:o, s:o, s:o}", "matched", matched, "equal", equal, "noise", noise,
	                 "stored_types", stored_types(&r->sizes), "apart", differ, "faults", faults, "only_a", only_a,
	                 "only_b", only_b);
}

static json_t *ids(const uint32_t *p, size_t n)
{
	json_t *a = json_array();
	for (size_t i = 0; a && i < n; i++)
		json_array_append_new(a, json_integer(p[i]));
	return a;
}

static json_t *pieces(char (*p)[ST_PIECE_BYTES], size_t n)
{
	if (!p)
		return json_null();
	json_t *a = json_array();
	for (size_t i = 0; a && i < n; i++)
		json_array_append_new(a, st_json_text(p[i]));
	return a;
}

static void note(json_t *list, const char *text)
{
	if (text[0])
		json_array_append_new(list, st_json_text(text));
}

static json_t *token_json(uint32_t id, const char *text)
{
	return json_pack("{s:o, s:o}", "id", st_json_u64(id), "text", text[0] ? st_json_text(text) : json_null());
}

static json_t *position(const struct st_position *p)
{
	return json_pack("{s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o}", "prompt", st_json_u64(p->prompt), "position",
	                 st_json_u64(p->position), "token", token_json(p->token, p->text_token), "a",
	                 token_json(p->best_a, p->text_a), "b", token_json(p->best_b, p->text_b), "rank_in_a",
	                 st_json_u64(p->rank), "gap", st_json_number(p->gap), "kl", st_json_number(p->kl));
}

static json_t *choices(const struct st_choice *c, size_t n)
{
	json_t *list = json_array();
	for (size_t i = 0; i < n; i++)
		json_array_append_new(list, json_pack("{s:o, s:o, s:o}", "id", st_json_u64(c[i].token), "text",
		                                      c[i].text[0] ? st_json_text(c[i].text) : json_null(),
		                                      "probability", st_json_number(c[i].probability)));
	return list;
}

/* Where a configuration value comes from; null where it follows from tensors or other keys. */
static json_t *origin(const struct st_config_origin *o)
{
	return o->key[0] ? json_pack("{s:o, s:b}", "key", st_json_text(o->key), "default", !o->said) : json_null();
}

static json_t *agreement(const struct st_rosetta *r)
{
	const struct st_agreement *g = &r->agreement;
	struct object b = { .o = json_object() };
	json_t *list = json_array();
	if (!g->prompts) {
		json_decref(b.o);
		json_decref(list);
		return json_null();
	}
	for (size_t i = 0; i < g->n_changed; i++)
		json_array_append_new(list, position(&g->changed[i]));
	put(&b, "prompts", st_json_u64(g->prompts));
	put(&b, "positions", st_json_u64(g->positions));
	put(&b, "nonfinite", st_json_u64(g->nonfinite));
	put(&b, "top1", st_json_u64(g->top1));
	put(&b, "top5", st_json_u64(g->top5));
	put(&b, "kl_mean", g->positions ? st_json_number(g->kl_sum / (double)g->positions) : json_null());
	put(&b, "kl_max", st_json_number(g->kl_max));
	put(&b, "over_usual", isnan(g->over_usual) ? json_null() : st_json_number(g->over_usual));
	put(&b, "changed", list);
	list = json_array();
	for (size_t i = 0; i < g->n_each; i++)
		json_array_append_new(list, position(&g->each[i]));
	put(&b, "positions_of_first", list);
	put(&b, "last",
	    g->n_last ? json_pack("{s:o, s:o}", "a", choices(g->last_a, g->n_last), "b", choices(g->last_b, g->n_last))
	              : json_null());
	return b.o;
}

static json_t *layer_costs(const struct st_rosetta *r)
{
	if (!r->layers)
		return json_null();
	json_t *list = json_array();
	for (size_t i = 0; i < r->n_layers; i++) {
		const struct st_layer_cost *p = &r->layers[i];
		json_array_append_new(list,
		                      json_pack("{s:o, s:s, s:o, s:o, s:o}", "layer", st_json_layer(p->layer), "stage",
		                                st_stage_name(p->stage), "kl",
		                                isnan(p->kl) ? json_null() : st_json_number(p->kl), "added",
		                                st_json_number(p->added), "over_usual", st_json_number(p->over_usual)));
	}
	return list;
}

json_t *st_report_rosetta_json(const struct st_rosetta *r, int status)
{
	struct object b = { .o = json_object() };
	put(&b, "schema", json_string("stele.report/1"));
	put(&b, "tool", json_pack("{s:s, s:s}", "name", "stele", "version", st_version()));
	put(&b, "command", json_string("rosetta"));
	put(&b, "inputs", json_pack("{s:o, s:o}", "a", side(&r->a), "b", side(&r->b)));
	put(&b, "prompt", st_json_text(r->prompt));
	put(&b, "tokens", ids(r->tokens_a, r->n_tokens_a));
	if (r->n_tokens_a != r->n_tokens_b
	    || memcmp(r->tokens_a, r->tokens_b, r->n_tokens_a * sizeof *r->tokens_a) != 0)
		put(&b, "tokens_b", ids(r->tokens_b, r->n_tokens_b));
	put(&b, "token_text", pieces(r->pieces_a, r->n_tokens_a));
	if (r->pieces_b != r->pieces_a && r->n_tokens_b
	    && (r->n_tokens_a != r->n_tokens_b
	        || memcmp(r->tokens_a, r->tokens_b, r->n_tokens_a * sizeof *r->tokens_a) != 0))
		put(&b, "token_text_b", pieces(r->pieces_b, r->n_tokens_b));
	json_t *notes = json_array();
	note(notes, r->token_note);
	note(notes, r->vocab_note);
	note(notes, r->aside_note);
	put(&b, "notes", notes);
	put(&b, "mode", json_string(r->mode));
	put(&b, "threshold", isnan(r->threshold) ? json_null() : st_json_number(r->threshold));
	put(&b, "verdict", json_string(st_verdict_name(r->verdict)));
	put(&b, "first_divergence", divergence(&r->first));
	put(&b, "cause", cause(r));
	put(&b, "recommendation", r->recommendation[0] ? st_json_text(r->recommendation) : json_null());
	json_t *list = json_array();
	for (size_t i = 0; i < r->n_candidates; i++)
		json_array_append_new(list,
		                      json_pack("{s:s, s:o}", "code", st_cause_name(r->candidates[i].code),
		                                "residual_after", st_json_number(r->candidates[i].residual_after)));
	put(&b, "candidates", list);
	list = json_array();
	for (size_t i = 0; i < r->n_stages; i++)
		json_array_append_new(list, stage(&r->stages[i]));
	put(&b, "stages", list);
	put(&b, "weights", weights(r));
	list = json_array();
	for (size_t i = 0; i < r->n_config; i++)
		json_array_append_new(list, json_pack("{s:s, s:o, s:o, s:o, s:o, s:b}", "key", r->config[i].key, "a",
		                                      st_json_text(r->config[i].a), "b", st_json_text(r->config[i].b),
		                                      "origin_a", origin(&r->config[i].from_a), "origin_b",
		                                      origin(&r->config[i].from_b), "matters", r->config[i].matters));
	put(&b, "config", list);
	list = json_array();
	for (size_t i = 0; i < r->n_asides; i++) {
		const struct st_aside *x = &r->asides[i];
		json_array_append_new(list,
		                      json_pack("{s:s, s:s, s:o, s:o, s:o, s:o, s:o, s:b}", "code",
		                                st_cause_name(x->code), "key", x->key, "a", st_json_text(x->a), "b", st_json_text(x->b), "origin_a",
		                                origin(&x->from_a), "origin_b", origin(&x->from_b), "note",
		                                st_json_text(x->note[0] ? x->note : NULL), "one_sided", x->one_sided));
	}
	put(&b, "not_exercised", list);
	put(&b, "stages_not_evaluated", st_json_text(r->not_evaluated[0] ? r->not_evaluated : NULL));
	put(&b, "form", st_json_text(r->form_note[0] ? r->form_note : NULL));
	put(&b, "coverage",
	    json_pack("{s:o, s:o, s:o}", "compared", st_json_u64(r->compared), "skipped", st_json_u64(r->skipped),
	              "missing", st_json_u64(r->missing)));
	put(&b, "top1",
	    r->has_top1 ? json_pack("{s:o, s:o, s:b, s:o}", "a", st_json_u64(r->top1_a), "b", st_json_u64(r->top1_b),
	                            "agree", r->top1_agree, "gap", st_json_number(r->top1_gap))
	                : json_null());
	put(&b, "agreement", agreement(r));
	put(&b, "layer_costs", layer_costs(r));
	put(&b, "timing_ms",
	    json_pack("{s:o, s:o, s:o, s:o}", "load", st_json_number(r->ms_load), "run", st_json_number(r->ms_run),
	              "judge", st_json_number(r->ms_judge), "total", st_json_number(r->ms_total)));
	put(&b, "exit", json_integer(status));
	if (b.failed) {
		json_decref(b.o);
		return NULL;
	}
	return b.o;
}
