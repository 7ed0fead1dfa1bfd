/* verdict.c - from what was measured to what it means. */
#include "judge/rosetta.h"

#include "arch/arch.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

const char *st_verdict_name(enum st_verdict v)
{
	static const char *const names[] = { "match", "noise", "fault", "undecided" };
	return names[v];
}

const char *st_stage_status_name(enum st_stage_status s)
{
	static const char *const names[] = {
		"exact", "rounding", "noise", "inherited", "fault", "missing", "undecided", "rearranged",
	};
	return names[s];
}

const char *st_floor_kind_name(enum st_floor_kind k) { return k == ST_FLOOR_ROUNDING ? "rounding" : "stored types"; }

/* Place of a stage in graph order, as far as stages have one order in all graphs; whole-model stages before and behind
 * the layers. */
static long place(enum st_stage stage, int32_t layer)
{
	long order = (long)(st_stage_order(stage) >> 32 << 10 | (st_stage_order(stage) & 1023));
	if (layer < 0)
		return st_stage_order(stage) < st_stage_order(ST_STAGE_ATTN_NORM) ? order : (1L << 60) + order;
	return ((long)layer + 1) << 24 | order;
}

/* "blk.3.attn_q.weight": the names in the two files, and one that a reader of either knows. */
static const char *file_name(const struct st_weight *w) { return w && w->tensor ? w->tensor->name : "?"; }

static char upper(char side) { return (char)(side - 'a' + 'A'); }

/* What the cause says of this pair, in words. */
static void describe_weight(const struct st_weight_diff *d, char *buf, size_t n)
{
	const struct st_cause *c = &d->cause;
	char x = d->side ? upper(d->side) : 'A';
	struct st_saying say = { .name = file_name(x == 'A' ? d->a : d->b),
		                 .either = !d->side,
		                 .vector = d->rows == 1 };
	bool tied_a = d->a && d->a->role == ST_ROLE_EMBED, tied_b = d->b && d->b->role == ST_ROLE_EMBED,
	     one_tied = d->slot->role == ST_ROLE_HEAD && d->a && d->b && tied_a != tied_b
	             && (c->code == ST_CAUSE_HEAD_TIED || c->code == ST_CAUSE_HEAD_UNTIED);
	bool one_sided = d->status >= ST_WEIGHT_ONLY_A;
	if (one_tied) {
		say.name = NULL; /* the files differ, not a tensor of theirs */
		x = tied_a ? 'A' : 'B';
	} else if (one_sided) {
		say.name = d->slot->canonical;
	}
	say.x = x;
	say.y = x == 'A' ? 'B' : 'A';
	size_t used = (size_t)snprintf(buf, n, "%s - ", st_cause_name(c->code));
	used += (size_t)st_cause_say(c, &say, buf + used, n - used);
	if (used >= n || one_tied || one_sided || c->code == ST_CAUSE_WEIGHT_TWO_MODELS
	    || c->code == ST_CAUSE_WEIGHT_SAME_FUNCTION || c->code == ST_CAUSE_WEIGHT_LAST_BITS
	    || c->confidence == ST_UNEXPLAINED || !isfinite(c->residual_after) || st_cause_has(c, ST_PARAM_ALL))
		return;
	snprintf(buf + used, n - used, " (residual %.2g%s)", c->residual_after,
	         c->confidence == ST_LIKELY               ? ", likely"
	         : c->code == ST_CAUSE_WEIGHT_ROW_CORRUPT ? " in the rest"
	                                                  : " after undoing it");
}

static void recommend_weight(const struct st_weight_diff *d, char *buf, size_t n)
{
	const struct st_cause *c = &d->cause;
	char x = d->side ? upper(d->side) : 'A', y = x == 'A' ? 'B' : 'A', name[160], unsure[64] = "";
	snprintf(name, sizeof name, "%s of %c",
	         d->status >= ST_WEIGHT_ONLY_A ? d->slot->canonical : file_name(x == 'A' ? d->a : d->b), x);
	if (c->code == ST_CAUSE_WEIGHT_TWO_MODELS) { /* neither is wrong */
		st_cause_advise(c->code, NULL, buf, n);
		return;
	}
	/* Between two files that differ neither is wrong by itself; the advice begins with what it rests on. */
	if (!d->side)
		snprintf(unsure, sizeof unsure, "if %c is the one to trust: ", y);
	size_t at = strlen(unsure);
	snprintf(buf, n, "%s", unsure);
	size_t used = (size_t)st_cause_advise(c->code, name, buf + at, n - at);
	if (c->confidence == ST_UNEXPLAINED || !used)
		snprintf(buf + at, n - at, "convert %s again from a sound source", name);
}

/* The earliest difference wins; at one stage a weight explains it before a configuration key does. */
struct first {
	long at;
	const struct st_weight_diff *weight;
	const struct st_config_diff *config;
	const struct st_stage_report *stage;
};

static void earlier(struct first *f, long at, const struct st_weight_diff *w, const struct st_config_diff *c,
                    const struct st_stage_report *s)
{
	if (at < f->at)
		*f = (struct first){ .at = at };
	if (at != f->at)
		return;
	/* The stage's own report names position and residual; the cause may come from either list. */
	f->weight = f->weight ? f->weight : w;
	f->config = f->config ? f->config : c;
	f->stage = f->stage ? f->stage : s;
}

static void diagnose_tokens(struct st_rosetta_state *s)
{
	struct st_rosetta *r = &s->r;
	const uint32_t *a = r->tokens_a, *b = r->tokens_b;
	size_t na = r->n_tokens_a, nb = r->n_tokens_b, at = 0;
	bool extra_a = na == nb + 1 && memcmp(a + 1, b, nb * sizeof *b) == 0;
	bool extra_b = nb == na + 1 && memcmp(b + 1, a, na * sizeof *a) == 0;
	while (at < na && at < nb && a[at] == b[at])
		at++;
	r->first = (struct st_divergence){ .found = true, .stage = "tokens", .layer = -1, .position = (int64_t)at };
	r->cause = (struct st_cause){ .code = extra_a || extra_b ? ST_CAUSE_TOKENS_BOS : ST_CAUSE_TOKENS_MISMATCH,
		                      .confidence = ST_CONFIRMED };
	if (extra_a || extra_b) {
		snprintf(r->text, sizeof r->text, "%s - %c puts token %u in front of the prompt, %c does not",
		         st_cause_name(r->cause.code), extra_a ? 'A' : 'B', (unsigned)(extra_a ? a[0] : b[0]),
		         extra_a ? 'B' : 'A');
		snprintf(r->recommendation, sizeof r->recommendation,
		         "make both files agree on the begin-of-sequence token, or compare with --tokens");
	} else {
		char id_a[16] = "no token", id_b[16] = "no token"; /* where one list ends */
		if (at < na)
			snprintf(id_a, sizeof id_a, "%u", (unsigned)a[at]);
		if (at < nb)
			snprintf(id_b, sizeof id_b, "%u", (unsigned)b[at]);
		snprintf(r->text, sizeof r->text,
		         "%s - the tokenizers part at position %zu: %s in A, %s in B (%zu and %zu ids)",
		         st_cause_name(r->cause.code), at, id_a, id_b, na, nb);
		snprintf(r->recommendation, sizeof r->recommendation,
		         "correct the tokenizer, or compare with --tokens");
	}
}

/* How the graphs differ, in words; nothing where they do not, or where there is none to look at. */
static void describe_form(const struct st_form *f, char *buf, size_t n)
{
	buf[0] = '\0';
	switch (f->differs) {
	case ST_FORM_EQUAL:
	case ST_FORM_NO_GRAPH:
		break;
	case ST_FORM_LAYERS:
		snprintf(buf, n, "A has %u layers, B has %u", (unsigned)f->a, (unsigned)f->b);
		break;
	case ST_FORM_STAGE:
		snprintf(buf, n, "A has %s where B has %s in layer %d", st_stage_name(f->stage_a),
		         st_stage_name(f->stage_b), (int)f->layer);
		break;
	case ST_FORM_WIDTH:
		snprintf(buf, n, "%s is %u wide in A and %u in B", st_stage_name(f->stage_a), (unsigned)f->a,
		         (unsigned)f->b);
		break;
	case ST_FORM_INPUTS:
		snprintf(buf, n, "%s of layer %d is made in another way in A than in B", st_stage_name(f->stage_a),
		         (int)f->layer);
		break;
	case ST_FORM_STAGES:
		snprintf(buf, n, "A has %u stages, B has %u", (unsigned)f->a, (unsigned)f->b);
		break;
	}
}

/* Two graphs that are alike for some stages: up to where, and what is different there. */
static void tell_parting(struct st_rosetta_state *s)
{
	struct st_rosetta *r = &s->r;
	char form[160], last[64];
	describe_form(&s->form, form, sizeof form);
	if (!form[0] || !r->n_stages || r->n_stages < s->form.agree)
		return;
	const struct st_stage_report *p = &r->stages[r->n_stages - 1];
	st_stage_place(p->stage, p->layer, last, sizeof last);
	r->parted = true;
	snprintf(r->form_note, sizeof r->form_note, "the stages are of one form up to %s; then %s", last, form);
}

/* Without graphs to look at, a stage of each layer counts as another one. */
static int32_t config_layer(const struct st_config_diff *c) { return c->layers[0] ? c->layer : 0; }

/* A value and the key that it comes from. Some kinds of file have no key for what the other file says: then that. */
static void tell_value(const char *value, const char *key, const struct st_config_origin *own,
                       const struct st_config_origin *other, char *buf, size_t n)
{
	st_config_tell(value, key, own, buf, n);
	size_t used = strlen(buf);
	if (!own->key[0] && !own->said && other->said)
		snprintf(buf + used, n - used, " (no key there says it)");
}

static void diagnose_config(struct st_rosetta *r, const struct st_config_diff *c, const struct st_form *f)
{
	char form[160];
	describe_form(f, form, sizeof form);
	r->cause = (struct st_cause){ .code = ST_CAUSE_CONFIG_MISMATCH, .confidence = ST_CONFIRMED };
	st_cause_put_text(&r->cause, ST_PARAM_KEY, c->key);
	st_cause_put_text(&r->cause, ST_PARAM_A, c->a);
	st_cause_put_text(&r->cause, ST_PARAM_B, c->b);
	char a[136], b[136], what[420];
	tell_value(c->a, c->key, &c->from_a, &c->from_b, a, sizeof a);
	tell_value(c->b, c->key, &c->from_b, &c->from_a, b, sizeof b);
	size_t used = (size_t)snprintf(what, sizeof what, "%s is %s in A, %s in B", c->key, a, b);
	if (c->layers[0] && strcmp(c->layers, "all") != 0)
		snprintf(what + used, sizeof what - used, ", which changes %s in %s %s", st_stage_name(c->stage),
		         strpbrk(c->layers, " ,") ? "layers" : "layer", c->layers);
	snprintf(r->text, sizeof r->text, "%s - %.300s%s%s", st_cause_name(r->cause.code), what, form[0] ? "; " : "",
	         form);
	/* A file that leaves a key open where the other gives it is the one that lacks it. */
	bool open_a = !c->from_a.said && c->from_a.key[0] && c->from_b.said,
	     open_b = !c->from_b.said && c->from_b.key[0] && c->from_a.said;
	if (open_a || open_b) {
		r->first.side = open_a ? 'a' : 'b';
		snprintf(r->recommendation, sizeof r->recommendation,
		         "if %s is right in %c: write %s = %s into %c, which does not say it", c->key,
		         open_a ? 'B' : 'A', open_a ? c->from_a.key : c->from_b.key, open_a ? c->b : c->a,
		         open_a ? 'A' : 'B');
	} else {
		snprintf(r->recommendation, sizeof r->recommendation,
		         "if %s is right in B: set it so in A; if in A: set it so in B", c->key);
	}
}

/* Files of two different models: another family or other sizes. No key of either is to be corrected. */
static void recommend_one_model(struct st_rosetta *r)
{
	static const char *const keys[] = { "arch", "n_layers", "hidden", "ffn", "n_heads", "head_dim" };
	size_t n = 0;
	char list[128] = "";
	for (size_t i = 0; i < r->n_config; i++)
		for (size_t k = 0; k < sizeof keys / sizeof *keys && r->config[i].matters; k++)
			if (strcmp(r->config[i].key, keys[k]) == 0) {
				size_t at = strlen(list);
				snprintf(list + at, sizeof list - at, "%s%s", n++ ? ", " : "", keys[k]);
			}
	if (n > 1 || strcmp(list, "arch") == 0)
		snprintf(r->recommendation, sizeof r->recommendation,
		         "compare two files of one model: these two differ in %s", list);
}

/* Neither file is wrong against the other: both break at one place. */
static void diagnose_blank(struct st_rosetta *r, const struct st_stage_report *p)
{
	char where[64];
	if (p->layer >= 0)
		snprintf(where, sizeof where, "layer %d %s", (int)p->layer, st_stage_name(p->stage));
	else
		snprintf(where, sizeof where, "%s", st_stage_name(p->stage));
	r->cause = (struct st_cause){ .code = ST_CAUSE_NUMERIC_NAN, .confidence = ST_CONFIRMED };
	size_t n = (size_t)snprintf(r->text, sizeof r->text, "%s - ", st_cause_name(r->cause.code));
	st_cause_say(&r->cause, &(struct st_saying){ .name = where, .x = 'A', .y = 'B', .either = true }, r->text + n,
	             sizeof r->text - n);
	snprintf(r->recommendation, sizeof r->recommendation, "convert both again from a sound source");
}

/* Whether either side has a head of its own; else the embedding serves both. */
static bool has_head(const struct st_rosetta *r)
{
	for (size_t i = 0; i < r->n_weights; i++)
		if (r->weights[i].slot->role == ST_ROLE_HEAD)
			return true;
	return false;
}

/* Between two conventions nobody can say of a family that is not known whether each weight has a counterpart. */
static bool is_open(const struct st_rosetta_state *s, const struct st_weight_diff *d)
{
	return s->r.not_evaluated[0]
	    && ((d->status >= ST_WEIGHT_ONLY_A && d->cause.code == ST_CAUSE_NONE)
	        || (!d->side && st_convention_is_open(&s->conventions, d->cause.code)));
}

/* A stage of weights that are the same function with their neighbours, beside others that are not. */
static bool is_rearranged(const struct st_rosetta *r, const struct st_stage_report *p)
{
	for (size_t i = 0; i < r->n_weights; i++)
		if (r->weights[i].cause.code == ST_CAUSE_WEIGHT_SAME_FUNCTION && r->weights[i].slot->stage == p->stage
		    && r->weights[i].slot->layer == p->layer)
			return true;
	return false;
}

void st_rosetta_decide(struct st_rosetta_state *s)
{
	struct st_rosetta *r = &s->r;
	const struct st_config_diff *structural = NULL;
	struct first f = { .at = INT64_MAX };
	bool fault = false, undecided = false, noise = false, open = false;
	const struct st_weight_diff *rearranged = NULL;
	const struct st_stage_report *blank = NULL; /* the first with NaN or infinity, the same on both sides */
	tell_parting(s);
	bool form_differs = s->form.differs > ST_FORM_NO_GRAPH;

	for (size_t i = 0; i < r->n_config; i++) {
		const struct st_config_diff *c = &r->config[i];
		if (!c->matters)
			continue;
		fault = true;
		if (!structural)
			structural = c;
		bool whole = !st_stage_per_layer(c->stage);
		earlier(&f, place(c->stage, whole ? -1 : config_layer(c)), NULL, c, NULL);
	}
	uint32_t layers = r->a.layers < r->b.layers ? r->a.layers : r->b.layers;
	for (size_t i = 0; i < r->n_weights; i++) {
		const struct st_weight_diff *d = &r->weights[i];
		noise |= d->status == ST_WEIGHT_NOISE;
		r->missing += d->status >= ST_WEIGHT_ONLY_A;
		if (d->cause.code == ST_CAUSE_WEIGHT_SAME_FUNCTION) {
			rearranged = rearranged ? rearranged : d;
			noise = true;
			continue;
		}
		if (d->status < ST_WEIGHT_FAULT)
			continue;
		if (is_open(s, d)) {
			open = true;
			continue;
		}
		fault = true;
		if (d->status >= ST_WEIGHT_ONLY_A && d->slot->layer >= (int32_t)layers && r->a.layers != r->b.layers)
			continue; /* of a layer that one side does not claim to have: the number of layers says so */
		earlier(&f, place(d->slot->stage, d->slot->layer), d, NULL, NULL);
	}
	for (size_t i = 0; i < r->n_stages; i++) {
		const struct st_stage_report *p = &r->stages[i];
		undecided |= p->status == ST_STATUS_UNDECIDED;
		if (!blank && p->total.nonfinite_a && !p->total.nonfinite_apart)
			blank = p;
		noise |= p->status == ST_STATUS_NOISE;
		if (is_rearranged(r, p))
			continue;
		if (p->status == ST_STATUS_FAULT)
			fault = true;
		if (p->status == ST_STATUS_FAULT || place(p->stage, p->layer) == f.at)
			earlier(&f, place(p->stage, p->layer), NULL, NULL, p);
	}
	if (s->tokens_differ) {
		diagnose_tokens(s);
		fault = true;
	} else if (form_differs && !structural
	           && !f.weight) { /* a weight that one side lacks says what the form does, and more */
		fault = true;
		r->first = (struct st_divergence){ .found = true, .stage = "config", .layer = -1, .position = -1 };
		r->cause = (struct st_cause){ .code = ST_CAUSE_UNEXPLAINED };
		describe_form(&s->form, r->text, sizeof r->text);
	} else if (fault && f.at != INT64_MAX) {
		struct st_divergence *d = &r->first;
		*d = (struct st_divergence){ .found = true, .layer = -1, .position = -1 };
		const struct st_stage_report *p = f.stage;
		enum st_stage stage = f.weight ? f.weight->slot->stage : f.config ? f.config->stage : p->stage;
		snprintf(d->stage, sizeof d->stage, "%s",
		         !r->not_evaluated[0] ? st_stage_name(stage)
		         : f.weight           ? "weights"
		                              : "config");
		d->layer = f.weight ? f.weight->slot->layer
		         : f.config ? (st_stage_per_layer(stage) ? config_layer(f.config) : -1)
		                    : p->layer;
		if (p && p->worst_token_ratio > 1)
			d->position = (int64_t)p->worst_token;
		if (f.weight) {
			snprintf(d->tensor, sizeof d->tensor, "%s", f.weight->slot->canonical);
			d->side = f.weight->side;
			r->cause = f.weight->cause;
			memcpy(r->candidates, f.weight->candidates, sizeof r->candidates);
			r->n_candidates = f.weight->n_candidates;
			describe_weight(f.weight, r->text, sizeof r->text);
			recommend_weight(f.weight, r->recommendation, sizeof r->recommendation);
			size_t n = strlen(r->text);
			if (p && p->total.max_abs == 0)
				snprintf(r->text + n, sizeof r->text - n, "; these tokens do not touch it%s",
				         f.weight->slot->role == ST_ROLE_EMBED && !has_head(r)
				                 ? ", but the head is tied to it"
				                 : "");
		} else if (f.config) {
			if (form_differs)
				*d = (struct st_divergence){
					.found = true, .stage = "config", .layer = -1, .position = -1
				};
			diagnose_config(r, f.config, &s->form);
		} else if (p->total.nonfinite_apart) {
			bool a = p->total.nonfinite_a > p->total.nonfinite_b;
			d->side = a ? 'a' : 'b';
			r->cause = (struct st_cause){ .code = ST_CAUSE_NUMERIC_NAN, .confidence = ST_CONFIRMED };
			struct st_saying say = { .x = a ? 'A' : 'B', .y = a ? 'B' : 'A' };
			size_t n = (size_t)snprintf(r->text, sizeof r->text, "%s - ", st_cause_name(r->cause.code));
			st_cause_say(&r->cause, &say, r->text + n, sizeof r->text - n);
		} else {
			r->cause = (struct st_cause){ .code = ST_CAUSE_UNEXPLAINED,
				                      .residual_before = p->local_rel,
				                      .residual_after = p->local_rel,
				                      .floor = p->local_floor };
			snprintf(r->text, sizeof r->text,
			         "%s - local error %.3g against a floor of %.3g at position %llu",
			         st_cause_name(r->cause.code), p->local_rel, p->local_floor,
			         (unsigned long long)p->worst_token);
		}
	}
	if (r->cause.code == ST_CAUSE_TOKENS_MISMATCH || r->cause.code == ST_CAUSE_TOKENS_BOS
	    || r->cause.code == ST_CAUSE_CONFIG_MISMATCH)
		recommend_one_model(r);
	if (!fault && rearranged) {
		r->cause = rearranged->cause;
		describe_weight(rearranged, r->text, sizeof r->text);
	}
	if (!fault && blank)
		diagnose_blank(r, blank);
	/* Nothing compared is never a match. */
	size_t matched = 0;
	for (size_t i = 0; i < r->n_weights && r->not_evaluated[0]; i++)
		matched += r->weights[i].status < ST_WEIGHT_ONLY_A;
	undecided |= !fault && (r->compared + matched == 0 || open || r->left_open[0]);
	r->verdict = fault     ? ST_VERDICT_FAULT
	           : undecided ? ST_VERDICT_UNDECIDED
	           : noise     ? ST_VERDICT_NOISE
	                       : ST_VERDICT_MATCH;
}

int st_rosetta_exit(const struct st_rosetta *r, enum st_assertion a)
{
	if (r->verdict == ST_VERDICT_FAULT || r->over_threshold)
		return 1;
	if (a == ST_ASSERT_MATCH && st_rosetta_contradictions(r))
		return 1;
	if (a != ST_ASSERT_NOTHING
	    && (r->verdict == ST_VERDICT_UNDECIDED || r->skipped || r->missing || r->not_evaluated[0]))
		return 1;
	return r->verdict == ST_VERDICT_UNDECIDED ? 3 : 0;
}
