/* asides.c - what differs between the two files although the tokens at hand do not show it. */
#include "judge/rosetta.h"

#include "arch/arch.h"

#include <stdio.h>
#include <string.h>

/* Why one side has no tokenizer to compare, or NULL. */
static const char *why_none(const struct st_tokenizer *t, const struct st_error *why)
{
	return t ? NULL : why->message[0] ? why->message : "there is no tokenizer";
}

static void tell_guess(const struct st_tokenizer *t, char side, char *buf, size_t n)
{
	size_t at = strlen(buf);
	if (t && st_tokenizer_guessed(t) && at < n)
		snprintf(buf + at, n - at, "%s%c does not say how words are split: read as %s", at ? "; " : "", side,
		         st_tokenizer_describe(t));
}

/* A file may hold a head and say that it has none. The heads were compared by value; here it is told what readers may
 * do. */
static void compare_ties(struct st_rosetta_state *s)
{
	struct st_rosetta *r = &s->r;
	bool a = s->ma && st_model_tie_contradicts(s->ma), b = s->mb && st_model_tie_contradicts(s->mb);
	if (a == b || r->n_asides == ST_MAX_ASIDES)
		return;
	struct st_aside *x = &r->asides[r->n_asides++];
	*x = (struct st_aside){ .code = ST_CAUSE_CONFIG_MISMATCH,
		                .from_a = st_model_config(s->ma)->origin[ST_CONFIG_TIED],
		                .from_b = st_model_config(s->mb)->origin[ST_CONFIG_TIED] };
	snprintf(x->key, sizeof x->key, "head");
	snprintf(x->a, sizeof x->a, "%s", a ? "said to be the embedding" : "its own");
	snprintf(x->b, sizeof x->b, "%s", b ? "said to be the embedding" : "its own");
	snprintf(x->note, sizeof x->note, "%c holds another head all the same: readers differ in which they take",
	         a ? 'A' : 'B');
}

enum st_status st_rosetta_asides(struct st_rosetta_state *s, struct st_error *err)
{
	struct st_rosetta *r = &s->r;
	tell_guess(s->ta, 'A', r->token_note, sizeof r->token_note);
	tell_guess(s->tb, 'B', r->token_note, sizeof r->token_note);
	st_compare_asides(r->config, r->n_config, r->asides, &r->n_asides);
	compare_ties(s);
	if (s->ta && s->tb)
		return st_compare_vocabularies(s->ta, s->tb, r->asides, &r->n_asides, err);
	const char *a = why_none(s->ta, &s->why_a), *b = why_none(s->tb, &s->why_b);
	if (a && b)
		snprintf(r->aside_note, sizeof r->aside_note, "neither file has a tokenizer to compare");
	else
		snprintf(r->aside_note, sizeof r->aside_note, "the vocabularies were not compared: %c: %.160s",
		         a ? 'A' : 'B', a ? a : b);
	return ST_OK;
}

size_t st_rosetta_contradictions(const struct st_rosetta *r)
{
	size_t n = 0;
	for (size_t i = 0; i < r->n_asides; i++)
		n += !r->asides[i].one_sided;
	return n;
}
