/* tokens.c - one prompt, two tokenizers. */
#include "judge/rosetta.h"

#include "base/error.h"

#include <stele/token.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static uint32_t *copy_ids(struct st_arena *a, const uint32_t *ids, size_t n)
{
	uint32_t *p = st_arena_alloc(a, n ? n : 1, sizeof *p);
	if (p)
		memcpy(p, ids, n * sizeof *p);
	return p;
}

/*
 * *t stays NULL when the file has no tokenizer that Stele can use; `why` then says so. With ids given nobody needs one,
 * and a damaged one is no failure either.
 */
static enum st_status open_tokenizer(const struct st_model *m, bool needed, struct st_tokenizer **t,
                                     struct st_error *why, struct st_error *err)
{
	*why = (struct st_error)ST_ERROR_INIT;
	enum st_status st = st_tokenizer_open(st_model_container(m), t, why);
	if (st == ST_OK || st == ST_ERR_UNSUPPORTED || (!needed && st == ST_ERR_FORMAT))
		return ST_OK;
	*err = *why;
	return st;
}

static enum st_status ids_of(struct st_rosetta_state *s, const struct st_tokenizer *t, const char *prompt,
                             uint32_t **ids, size_t *n, struct st_error *err)
{
	*ids = NULL;
	*n = 0;
	if (!t)
		return ST_OK;
	uint32_t *got = NULL;
	enum st_status st = st_tokenize(t, prompt, strlen(prompt), ST_TOKENIZE_BOS | ST_TOKENIZE_SPECIAL, &got, n, err);
	if (st == ST_OK && !(*ids = copy_ids(&s->arena, got, *n)))
		st = st_fail(err, ST_ERR_NOMEM, "out of memory");
	free(got);
	return st;
}

enum st_status st_rosetta_tokens(struct st_rosetta_state *s, const struct st_rosetta_options *o, struct st_error *err)
{
	struct st_rosetta *r = &s->r;
	if (!s->ta && !s->tb) { /* else this is not the first prompt */
		ST_TRY(open_tokenizer(s->ma, !o->tokens, &s->ta, &s->why_a, err));
		ST_TRY(open_tokenizer(s->mb, !o->tokens, &s->tb, &s->why_b, err));
	}
	if (o->tokens) {
		r->tokens_a = r->tokens_b = copy_ids(&s->arena, o->tokens, o->n_tokens);
		r->n_tokens_a = r->n_tokens_b = o->n_tokens;
		if (!r->tokens_a)
			return st_fail(err, ST_ERR_NOMEM, "out of memory");
	} else {
		r->prompt = st_arena_strndup(&s->arena, o->prompt, strlen(o->prompt));
		if (!r->prompt)
			return st_fail(err, ST_ERR_NOMEM, "out of memory");
		ST_TRY(ids_of(s, s->ta, o->prompt, &r->tokens_a, &r->n_tokens_a, err));
		ST_TRY(ids_of(s, s->tb, o->prompt, &r->tokens_b, &r->n_tokens_b, err));
		if (!r->tokens_a && !r->tokens_b) {
			*err = s->why_a;
			return s->why_a.code;
		}
		if (!r->tokens_a || !r->tokens_b) {
			bool no_a = !r->tokens_a;
			snprintf(r->token_note, sizeof r->token_note,
			         "%s carries no usable tokenizer: the ids of %s were used for both", no_a ? "A" : "B",
			         no_a ? "B" : "A");
			if (no_a) {
				r->tokens_a = r->tokens_b;
				r->n_tokens_a = r->n_tokens_b;
			} else {
				r->tokens_b = r->tokens_a;
				r->n_tokens_b = r->n_tokens_a;
			}
		}
	}
	s->tokens_differ = r->n_tokens_a != r->n_tokens_b
	                || memcmp(r->tokens_a, r->tokens_b, r->n_tokens_a * sizeof *r->tokens_a) != 0;
	if (r->n_tokens_a == 0)
		return st_fail(err, ST_ERR_USAGE, "the prompt gives no tokens: nothing can be compared");
	return ST_OK;
}
