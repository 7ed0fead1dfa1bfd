/*
 * by_name.c - two files of a family that Stele cannot run: there are no stages to evaluate, but weights need no graph.
 * Tokens, vocabularies, configuration keys and weights are compared, and the verdict speaks of these alone.
 */
#include "compare/settings.h"
#include "judge/rosetta.h"

#include "arch/arch.h"
#include "base/error.h"
#include "compare/raw_config.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Why that file has no graph, without its path. */
static void tell_reason(const struct st_model *m, char *buf, size_t n)
{
	struct st_error why = ST_ERROR_INIT;
	const char *family = st_model_config(m)->arch;
	enum st_status st = st_model_check(m, &why);
	if (!st_model_knows_family(m))
		snprintf(buf, n, "unknown family %s", family);
	else if (st != ST_OK)
		snprintf(buf, n, "%.60s%s%.120s", why.where, why.where[0] ? ": " : "", why.message);
}

static void tell_reasons(struct st_rosetta_state *s)
{
	char a[220] = "", b[220] = "";
	struct st_rosetta *r = &s->r;
	tell_reason(s->ma, a, sizeof a);
	tell_reason(s->mb, b, sizeof b);
	bool unknown_a = !st_model_knows_family(s->ma);
	if (st_model_could_run(s->ma) && st_model_could_run(s->mb))
		snprintf(r->not_evaluated, sizeof r->not_evaluated,
		         "A is of family %.64s, B of %.64s: their stages are not matched",
		         st_model_config(s->ma)->arch, st_model_config(s->mb)->arch);
	else if (strcmp(a, b) == 0)
		snprintf(r->not_evaluated, sizeof r->not_evaluated, "%s", a);
	else if (unknown_a && !st_model_knows_family(s->mb))
		snprintf(r->not_evaluated, sizeof r->not_evaluated, "%.120s in A, %.120s in B", a, b + 8);
	else if (unknown_a || st_model_could_run(s->mb))
		snprintf(r->not_evaluated, sizeof r->not_evaluated, "%s in A", a);
	else
		snprintf(r->not_evaluated, sizeof r->not_evaluated, "%s in B", b);
}

/* A tokenizer of a kind that cannot be read is no reason not to compare the rest. */
static enum st_status tokens(struct st_rosetta_state *s, const struct st_rosetta_options *o, struct st_error *err)
{
	struct st_rosetta *r = &s->r;
	struct st_rosetta_options one = *o;
	struct st_error why = ST_ERROR_INIT;
	if (o->prompts && o->n_prompts == 0)
		return st_fail(err, ST_ERR_USAGE, "there is no prompt: nothing can be compared");
	enum st_status st = ST_OK;
	char *first = NULL;
	for (size_t i = 0; st == ST_OK && i < (o->prompts ? o->n_prompts : 1) && !s->tokens_differ; i++) {
		one.prompt = o->prompts ? o->prompts[i] : o->prompt;
		st = st_rosetta_tokens(s, &one, &why);
		first = i ? first : r->prompt;
	}
	if (!s->tokens_differ)
		r->prompt = first;
	if (st == ST_OK)
		return ST_OK;
	if (st != ST_ERR_UNSUPPORTED && st != ST_ERR_FORMAT) {
		*err = why;
		return st;
	}
	snprintf(r->token_note, sizeof r->token_note, "no tokens: %.200s", why.message);
	r->n_tokens_a = r->n_tokens_b = 0;
	r->tokens_a = r->tokens_b = st_arena_alloc(&s->arena, 1, sizeof *r->tokens_a);
	return r->tokens_a ? ST_OK : st_fail(err, ST_ERR_NOMEM, "out of memory");
}

/* Where a text begins and ends needs no family. */
static void ids(struct st_rosetta *r, const struct st_config *a, const struct st_config *b)
{
	struct st_config_diff all[ST_MAX_CONFIG_DIFFS];
	size_t n = st_compare_configs(a, b, 0, all);
	for (size_t i = 0; i < n && r->n_config < ST_MAX_CONFIG_DIFFS; i++)
		if (strcmp(all[i].key, st_config_member_name(ST_CONFIG_BOS)) == 0
		    || strcmp(all[i].key, st_config_member_name(ST_CONFIG_EOS)) == 0)
			r->config[r->n_config++] = all[i];
}

static enum st_status keys(struct st_rosetta_state *s, struct st_error *err)
{
	struct st_rosetta *r = &s->r;
	struct st_raw_configs *raw = st_arena_alloc(&s->arena, 1, sizeof *raw);
	if (!raw)
		return st_fail(err, ST_ERR_NOMEM, "out of memory");
	ST_TRY(st_compare_raw_configs(s->ma, s->mb, &s->arena, raw, err));
	const char *a = st_model_config(s->ma)->arch, *b = st_model_config(s->mb)->arch;
	memcpy(r->config, raw->diff, sizeof r->config);
	r->n_config = raw->n_diffs;
	r->keys = raw->compared;
	memcpy(r->asides, raw->aside, sizeof r->asides);
	r->n_asides = raw->n_asides;
	/* Which keys change numbers is known of families that have a page. */
	if (raw->n_asides && !st_model_knows_family(s->ma) && !st_model_knows_family(s->mb))
		snprintf(r->left_open, sizeof r->left_open, "%.90s in %c", raw->aside[0].key,
		         strcmp(raw->aside[0].b, "not there") == 0 ? 'A' : 'B');
	ids(r, st_model_config(s->ma), st_model_config(s->mb));
	/* Between two conventions a family may have two names. */
	bool same_form = st_model_has_gguf_names(s->ma) == st_model_has_gguf_names(s->mb);
	if (strcmp(a, b) != 0 && r->n_config < ST_MAX_CONFIG_DIFFS) {
		struct st_config_diff *d = &r->config[r->n_config++];
		*d = (struct st_config_diff){ .key = st_config_member_name(ST_CONFIG_ARCH), .matters = same_form };
		snprintf(d->a, sizeof d->a, "%s", a);
		snprintf(d->b, sizeof d->b, "%s", b);
		d->from_a.said = d->from_b.said = true;
	}
	ST_TRY(st_rosetta_asides(s, err));
	if (raw->left_out && !r->aside_note[0])
		snprintf(r->aside_note, sizeof r->aside_note, "%zu more keys differ", raw->left_out);
	return ST_OK;
}

static bool same_name(const struct st_weight *a, const struct st_weight *b)
{
	struct st_name_parts p, q;
	st_name_take_apart(a->tensor->name, &p);
	st_name_take_apart(b->tensor->name, &q);
	return strcmp(p.stem, q.stem) == 0 && strcmp(p.last, q.last) == 0;
}

/* Between two conventions a weight that has a counterpart in no layer may be kept in another form there. One that has
 * in other layers is missing in this one. */
static void excuse_strangers(struct st_rosetta *r)
{
	for (size_t i = 0; i < r->n_weights; i++) {
		struct st_weight_diff *d = &r->weights[i];
		const struct st_weight *own = d->a ? d->a : d->b;
		bool elsewhere = false;
		for (size_t k = 0; k < r->n_weights && d->status >= ST_WEIGHT_ONLY_A && !elsewhere; k++)
			elsewhere = r->weights[k].status < ST_WEIGHT_ONLY_A
			         && same_name(d->a ? r->weights[k].a : r->weights[k].b, own);
		if (d->status < ST_WEIGHT_ONLY_A || elsewhere)
			continue;
		d->cause = (struct st_cause){ .code = ST_CAUSE_NONE };
		d->side = 0;
		r->no_partner++;
	}
}

/* "gemma2.rope.new" without the family, as GGUF files spell it. */
static const char *within_family(const struct st_model *m, const char *key)
{
	const char *family = st_model_config(m)->arch;
	size_t n = strlen(family);
	return st_model_has_gguf_names(m) && strncmp(key, family, n) == 0 && key[n] == '.' ? key + n + 1 : key;
}

/* A key of one file that its family's page does not read, and that the other file has not. */
static const char *unread_alone(const struct st_model *m, const struct st_model *other)
{
	for (size_t i = 0; i < st_model_n_unread(m); i++) {
		bool shared = false;
		for (size_t k = 0; k < st_model_n_unread(other) && !shared; k++)
			shared = strcmp(within_family(m, st_model_unread_at(m, i)),
			                within_family(other, st_model_unread_at(other, k)))
			      == 0;
		if (!shared)
			return st_model_unread_at(m, i);
	}
	return NULL;
}

static void leave_open(struct st_rosetta_state *s)
{
	const char *a = unread_alone(s->ma, s->mb), *b = unread_alone(s->mb, s->ma);
	if (a || b)
		snprintf(s->r.left_open, sizeof s->r.left_open, "%.90s in %c", a ? a : b, a ? 'A' : 'B');
}

enum st_status st_rosetta_by_name(struct st_rosetta_state *s, const struct st_rosetta_options *o, struct st_pool *pool,
                                  struct st_error *err)
{
	struct st_rosetta *r = &s->r;
	tell_reasons(s);
	ST_TRY(tokens(s, o, err));
	ST_TRY(keys(s, err));
	leave_open(s);
	r->unused_a = st_model_n_unused(s->ma);
	r->unused_b = st_model_n_unused(s->mb);
	if (s->tokens_differ && !o->keep_going)
		return ST_OK;
	ST_TRY(st_compare_weights(s->ma, s->mb, pool, &o->hooks, &r->weights, &r->n_weights, err));
	st_settle_conventions(s->ma, s->mb, r->weights, r->n_weights, &s->conventions);
	snprintf(r->form_note, sizeof r->form_note, "%s", s->conventions.note);
	if (st_model_has_gguf_names(s->ma) != st_model_has_gguf_names(s->mb))
		excuse_strangers(r);
	return ST_OK;
}
