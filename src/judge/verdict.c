/* verdict.c - from what was measured to what it means. */
#include "judge/rosetta.h"

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
		"exact", "rounding", "noise", "inherited", "fault", "missing", "undecided"
	};
	return names[s];
}

const char *st_floor_kind_name(enum st_floor_kind k) { return k == ST_FLOOR_ROUNDING ? "rounding" : "stored types"; }

/* Place of a stage in graph order; whole-model stages before and behind the layers. */
static long place(enum st_stage stage, int32_t layer)
{
	if (layer < 0)
		return stage == ST_STAGE_EMBEDDING ? 0 : (1L << 40) + (long)stage;
	return 1 + (long)layer * ST_STAGE_COUNT + (long)stage;
}

/* "blk.3.attn_q.weight": the names in the two files, and one that a reader of either knows. */
static const char *file_name(const struct st_weight *w) { return w && w->tensor ? w->tensor->name : "?"; }

static char upper(char side) { return (char)(side - 'a' + 'A'); }

static double number_of(const struct st_cause *c, const char *key, double otherwise)
{
	for (size_t i = 0; i < c->n_params; i++)
		if (strcmp(c->params[i].key, key) == 0 && !c->params[i].text[0])
			return c->params[i].number;
	return otherwise;
}

static const char *text_of(const struct st_cause *c, const char *key)
{
	for (size_t i = 0; i < c->n_params; i++)
		if (strcmp(c->params[i].key, key) == 0 && c->params[i].text[0])
			return c->params[i].text;
	return "";
}

static void describe_columns(const struct st_weight_diff *d, char y, char *buf, size_t n)
{
	const struct st_cause *c = &d->cause;
	double count = number_of(c, "columns", 0), first = number_of(c, "first_column", 0);
	const char *what = d->rows == 1 ? "element" : "column";
	if (count > 1)
		snprintf(buf, n, "differs from %c's in %g %ss (%g to %g) and agrees in the rest", y, count, what, first,
		         number_of(c, "last_column", 0));
	else
		snprintf(buf, n, "differs from %c's in %s %g and agrees in the rest", y, what, first);
}

/* What the code says of this pair, in words. `x` is the side that is named as differing, `y` the other. */
static void describe_weight(const struct st_weight_diff *d, char *buf, size_t n)
{
	const struct st_cause *c = &d->cause;
	char x = d->side ? upper(d->side) : 'A', y = x == 'A' ? 'B' : 'A';
	const char *name = file_name(x == 'A' ? d->a : d->b), *code = c->code;
	char what[256];
	bool tied_a = d->a && d->a->role == ST_ROLE_EMBED, tied_b = d->b && d->b->role == ST_ROLE_EMBED;
	if (d->slot->role == ST_ROLE_HEAD && d->a && d->b && tied_a != tied_b && strncmp(code, "head.", 5) == 0
	    && strstr(code, "tied")) {
		snprintf(buf, n, "%s - %c uses its embedding as the head, %c has another head of its own%s", code,
		         tied_a ? 'A' : 'B', tied_a ? 'B' : 'A',
		         strcmp(code, "head.untied") == 0 ? ", where it should be tied" : "");
		return;
	}
	if (strcmp(code, "weight.transposed") == 0)
		snprintf(what, sizeof what, "is %c's matrix transposed", y);
	else if (strcmp(code, "weight.rope_permuted") == 0)
		snprintf(what, sizeof what, "has %c's rows in the other RoPE order (%g heads)", y,
		         number_of(c, "heads", 0));
	else if (strcmp(code, "weight.rope_permuted_wrong_heads") == 0)
		snprintf(what, sizeof what, "has %c's rows permuted for %g heads; the model has %g", y,
		         number_of(c, "wrong_heads", 0), number_of(c, "heads", 0));
	else if (strstr(code, ".row_shift"))
		snprintf(what, sizeof what, "has %c's rows shifted by %g", y, number_of(c, "shift", 0));
	else if (strstr(code, "scale") && c->n_params && strcmp(c->params[0].key, "factor") == 0)
		snprintf(what, sizeof what, "is %c's times %.6g%s%s", y, number_of(c, "factor", 0),
		         text_of(c, "is")[0] ? " = " : "", text_of(c, "is"));
	else if (text_of(c, "axis")[0] && number_of(c, "columns", 0) > 0)
		describe_columns(d, y, what, sizeof what);
	else if (text_of(c, "axis")[0])
		snprintf(what, sizeof what, "is %c's with every %s times a constant of its own", y, text_of(c, "axis"));
	else if (number_of(c, "all", -1) >= 0)
		snprintf(what, sizeof what, "is all %s", number_of(c, "all", 0) > 0 ? "ones" : "zero");
	else if (strcmp(code, "weight.block_scale") == 0
	         && number_of(c, "bad_rows", 0) == 0) /* no row stands out, columns do */
		snprintf(what, sizeof what, "has wrong scales on some blocks of %g", number_of(c, "block", 0));
	else if (strcmp(code, "weight.block_scale") == 0)
		snprintf(what, sizeof what, "has wrong scales on blocks of %g in %g row%s", number_of(c, "block", 0),
		         number_of(c, "bad_rows", 0), number_of(c, "bad_rows", 0) > 1 ? "s" : "");
	else if (strcmp(code, "weight.row_corrupt") == 0 && number_of(c, "rows", 0) > 1)
		snprintf(what, sizeof what, "differs from %c's in %g rows (%g to %g) and agrees in the rest", y,
		         number_of(c, "rows", 0), number_of(c, "first_row", 0), number_of(c, "last_row", 0));
	else if (strcmp(code, "weight.row_corrupt") == 0)
		snprintf(what, sizeof what, "differs from %c's in row %g and agrees in the rest", y,
		         number_of(c, "first_row", 0));
	else if (strcmp(code, "weight.dtype_mislabelled") == 0)
		snprintf(what, sizeof what, "is labelled %s and holds %s", text_of(c, "label"), text_of(c, "type"));
	else if (strcmp(code, "weight.block_layout") == 0)
		snprintf(what, sizeof what, "has the values inside its blocks in another order (%s)",
		         text_of(c, "order"));
	else if (text_of(c, "holds")[0])
		snprintf(what, sizeof what, "holds %s", text_of(c, "holds"));
	else if (text_of(c, "shape_a")[0])
		snprintf(what, sizeof what, "is %s, %s's is %s", text_of(c, x == 'A' ? "shape_a" : "shape_b"),
		         y == 'A' ? "A" : "B", text_of(c, x == 'A' ? "shape_b" : "shape_a"));
	else if (strcmp(code, "weight.qkv_interleaved") == 0)
		snprintf(what, sizeof what,
		         "has rows of %c's Q, K and V: %g chunks of all three were read as one after the other, or the "
		         "other way round",
		         y, number_of(c, "chunks", 0));
	else if (strcmp(code, "norm.plus_one") == 0)
		snprintf(what, sizeof what, "is %c's plus %g", y, number_of(c, "offset", 0));
	else if (strcmp(code, "weight.nan") == 0 && !d->side)
		snprintf(what, sizeof what, "has as many non-finite elements as %c's, %g, in other places", y,
		         number_of(c, "nonfinite", 0));
	else if (strcmp(code, "weight.nan") == 0)
		snprintf(what, sizeof what, "has %g non-finite elements, the first in row %g",
		         number_of(c, "nonfinite", 0), number_of(c, "first_row", 0));
	else if (d->status >= ST_WEIGHT_ONLY_A) {
		snprintf(buf, n, "%s - %s is missing from %c", code, d->slot->canonical, upper(d->side));
		return;
	} else {
		const struct st_cause_info *info = st_cause_find(code);
		if (c->confidence == ST_UNEXPLAINED || !info)
			snprintf(what, sizeof what,
			         "differs from %c's beyond the floor, and no tested cause explains it", y);
		else
			snprintf(what, sizeof what, "against %c's: %s", y, info->meaning);
	}
	int used = snprintf(buf, n, "%s - %s of %c %s", code, name, x, what);
	if (used > 0 && (size_t)used < n && c->confidence != ST_UNEXPLAINED && isfinite(c->residual_after)
	    && number_of(c, "all", -1) < 0)
		snprintf(buf + used, n - (size_t)used, " (residual %.2g%s)", c->residual_after,
		         c->confidence == ST_LIKELY                ? ", likely"
		         : strcmp(code, "weight.row_corrupt") == 0 ? " in the rest"
		                                                   : " after undoing it");
}

static void recommend_weight(const struct st_weight_diff *d, char *buf, size_t n)
{
	const struct st_cause *c = &d->cause;
	char x = d->side ? upper(d->side) : 'A', y = x == 'A' ? 'B' : 'A';
	const char *name = d->status >= ST_WEIGHT_ONLY_A ? d->slot->canonical : file_name(x == 'A' ? d->a : d->b);
	const struct st_cause_info *info = st_cause_find(c->code);
	char unsure[64] = "";
	/* Between two files that differ neither is wrong by itself; say what the advice rests on. */
	if (!d->side)
		snprintf(unsure, sizeof unsure, ", if %c is the one to trust", y);
	if (c->confidence == ST_UNEXPLAINED || !info || !info->repair)
		snprintf(buf, n, "convert %s of %c again from a sound source%s", name, x, unsure);
	else if (strcmp(c->code, "weight.transposed") == 0)
		snprintf(buf, n, "rewrite %s of %c as its transpose%s", name, x, unsure);
	else
		snprintf(buf, n, "%s: %s of %c%s", info->repair, name, x, unsure);
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
	r->cause = (struct st_cause){ .code = extra_a || extra_b ? "tokens.bos" : "tokens.mismatch",
		                      .confidence = ST_CONFIRMED };
	if (extra_a || extra_b) {
		snprintf(r->text, sizeof r->text, "tokens.bos - %c puts token %u in front of the prompt, %c does not",
		         extra_a ? 'A' : 'B', (unsigned)(extra_a ? a[0] : b[0]), extra_a ? 'B' : 'A');
		snprintf(r->recommendation, sizeof r->recommendation,
		         "make both files agree on the begin-of-sequence token, or compare with --tokens");
	} else {
		char id_a[16] = "no token", id_b[16] = "no token"; /* where one list ends */
		if (at < na)
			snprintf(id_a, sizeof id_a, "%u", (unsigned)a[at]);
		if (at < nb)
			snprintf(id_b, sizeof id_b, "%u", (unsigned)b[at]);
		snprintf(r->text, sizeof r->text,
		         "tokens.mismatch - the tokenizers part at position %zu: %s in A, %s in B (%zu and %zu ids)",
		         at, id_a, id_b, na, nb);
		snprintf(r->recommendation, sizeof r->recommendation,
		         "correct the tokenizer, or compare with --tokens");
	}
}

static void diagnose_config(struct st_rosetta *r, const struct st_config_diff *c)
{
	char form[512];
	snprintf(form, sizeof form, "%s", r->text); /* why the graphs differ, if they do */
	r->cause = (struct st_cause){ .code = "config.mismatch", .confidence = ST_CONFIRMED, .n_params = 3 };
	struct st_param *p = r->cause.params;
	snprintf(p[0].key, sizeof p[0].key, "key");
	snprintf(p[0].text, sizeof p[0].text, "%s", c->key);
	snprintf(p[1].key, sizeof p[1].key, "a");
	snprintf(p[1].text, sizeof p[1].text, "%s", c->a);
	snprintf(p[2].key, sizeof p[2].key, "b");
	snprintf(p[2].text, sizeof p[2].text, "%s", c->b);
	snprintf(r->text, sizeof r->text, "config.mismatch - %s is %s in A and %s in B%s%.200s", c->key, c->a, c->b,
	         form[0] ? "; " : "", form);
	snprintf(r->recommendation, sizeof r->recommendation, "correct %s in the file that is wrong", c->key);
}

/* Files of two models have other sizes or another family altogether, and no key of one of them is to be corrected. */
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

/* Whether either side has a head of its own; else the embedding serves both. */
static bool has_head(const struct st_rosetta *r)
{
	for (size_t i = 0; i < r->n_weights; i++)
		if (r->weights[i].slot->role == ST_ROLE_HEAD)
			return true;
	return false;
}

void st_rosetta_decide(struct st_rosetta_state *s)
{
	struct st_rosetta *r = &s->r;
	const struct st_config_diff *structural = NULL;
	struct first f = { .at = INT64_MAX };
	bool fault = false, undecided = false, noise = false;
	size_t unexplained = 0;
	bool form_differs = r->text[0] && r->n_stages == 0;

	for (size_t i = 0; i < r->n_config; i++) {
		const struct st_config_diff *c = &r->config[i];
		if (!c->matters)
			continue;
		fault = true;
		if (!structural)
			structural = c;
		bool whole = !st_stage_per_layer(c->stage);
		earlier(&f, place(c->stage, whole ? -1 : 0), NULL, c, NULL);
	}
	uint32_t layers = r->a.layers < r->b.layers ? r->a.layers : r->b.layers;
	for (size_t i = 0; i < r->n_weights; i++) {
		const struct st_weight_diff *d = &r->weights[i];
		noise |= d->status == ST_WEIGHT_NOISE;
		r->missing += d->status >= ST_WEIGHT_ONLY_A;
		if (d->status < ST_WEIGHT_FAULT)
			continue;
		fault = true;
		if (d->status >= ST_WEIGHT_ONLY_A && d->slot->layer >= (int32_t)layers && r->a.layers != r->b.layers)
			continue; /* of a layer that one side does not claim to have: the number of layers says so */
		unexplained += d->cause.code && d->cause.confidence == ST_UNEXPLAINED;
		earlier(&f, place(d->slot->stage, d->slot->layer), d, NULL, NULL);
	}
	for (size_t i = 0; i < r->n_stages; i++) {
		const struct st_stage_report *p = &r->stages[i];
		undecided |= p->status == ST_STATUS_UNDECIDED;
		noise |= p->status == ST_STATUS_NOISE;
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
		r->cause = (struct st_cause){ .code = "unexplained" };
	} else if (fault && f.at != INT64_MAX) {
		struct st_divergence *d = &r->first;
		*d = (struct st_divergence){ .found = true, .layer = -1, .position = -1 };
		const struct st_stage_report *p = f.stage;
		enum st_stage stage = f.weight ? f.weight->slot->stage : f.config ? f.config->stage : p->stage;
		snprintf(d->stage, sizeof d->stage, "%s", st_stage_name(stage));
		d->layer = f.weight ? f.weight->slot->layer
		         : f.config ? (st_stage_per_layer(stage) ? 0 : -1)
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
			else if (unexplained > 1 && unexplained == r->n_weights)
				snprintf(r->text + n, sizeof r->text - n,
				         "; so do all %zu weights: these are two models", unexplained);
		} else if (f.config) {
			if (form_differs)
				*d = (struct st_divergence){
					.found = true, .stage = "config", .layer = -1, .position = -1
				};
			diagnose_config(r, f.config);
		} else if (p->total.nonfinite_apart) {
			bool a = p->total.nonfinite_a > p->total.nonfinite_b;
			d->side = a ? 'a' : 'b';
			r->cause = (struct st_cause){ .code = "numeric.nan", .confidence = ST_CONFIRMED };
			snprintf(r->text, sizeof r->text, "numeric.nan - non-finite values appear in %c",
			         a ? 'A' : 'B');
		} else {
			r->cause = (struct st_cause){ .code = "unexplained",
				                      .residual_before = p->local_rel,
				                      .residual_after = p->local_rel,
				                      .floor = p->local_floor };
			snprintf(r->text, sizeof r->text,
			         "unexplained - local error %.3g against a floor of %.3g at position %llu",
			         p->local_rel, p->local_floor, (unsigned long long)p->worst_token);
		}
	}
	if (r->cause.code
	    && (strncmp(r->cause.code, "tokens.", 7) == 0 || strcmp(r->cause.code, "config.mismatch") == 0))
		recommend_one_model(r);
	/* Nothing compared is never a match. */
	undecided |= !fault && r->compared == 0;
	r->verdict = fault     ? ST_VERDICT_FAULT
	           : undecided ? ST_VERDICT_UNDECIDED
	           : noise     ? ST_VERDICT_NOISE
	                       : ST_VERDICT_MATCH;
}

int st_rosetta_exit(const struct st_rosetta *r, bool assert_match)
{
	if (r->verdict == ST_VERDICT_FAULT || r->over_threshold)
		return 1;
	if (assert_match && (r->verdict == ST_VERDICT_UNDECIDED || r->skipped || r->missing))
		return 1;
	return r->verdict == ST_VERDICT_UNDECIDED ? 3 : 0;
}
