/*
 * unigram.c - SentencePiece unigram: of all ways to cut a word into pieces, the one with the
 * highest sum of scores (Viterbi). A character without a piece costs 10 more than the worst piece.
 */
#include "token/tokenizer.h"

#include <math.h>
#include <string.h>

#define UNK_PENALTY 10.0 /* SentencePiece's constant */

struct st_best {
	double score;   /* of the best cut of the bytes before this place */
	uint32_t start; /* where its last piece starts */
	uint32_t id;    /* that piece; ST_NO_ID: unknown */
	uint32_t next;  /* on the best way: where the piece that starts here ends */
};

enum st_status st_unigram_init(struct st_tokenizer *t, bool bytes_are_text, struct st_error *err)
{
	t->unigram.entries = st_arena_alloc(&t->arena, t->vocab.n, sizeof *t->unigram.entries);
	if (!t->unigram.entries)
		return st_fail(err, ST_ERR_NOMEM, "no memory for %u pieces", t->vocab.n);
	double worst = INFINITY;
	for (uint32_t id = 0; id < t->vocab.n; id++) {
		const struct st_piece *p = &t->vocab.pieces[id];
		bool text = p->type == ST_PIECE_NORMAL || (bytes_are_text && p->type == ST_PIECE_BYTE);
		if (text && t->vocab.scores[id] < worst)
			worst = t->vocab.scores[id];
		if (p->len && (text || p->type == ST_PIECE_USER || p->type == ST_PIECE_UNUSED))
			t->unigram.entries[t->unigram.n++] = (struct st_prefix){ p->s, p->len, id };
	}
	t->unk_score = (worst == INFINITY ? 0 : worst) - UNK_PENALTY;
	st_prefixes_sort(&t->unigram);
	return ST_OK;
}

/* Added pieces are wanted wherever they occur, whatever their stored score. */
static double piece_score(const struct st_tokenizer *t, uint32_t id)
{
	return t->vocab.pieces[id].type == ST_PIECE_USER ? 0 : t->vocab.scores[id];
}

enum st_status st_unigram_word(struct st_scratch *s, const char *word, size_t n, struct st_error *err)
{
	const struct st_tokenizer *t = s->t;
	if (!st_grow((void **)&s->best, &s->best_cap, n + 1, sizeof *s->best))
		return st_fail(err, ST_ERR_NOMEM, "no memory to tokenise a word of %zu bytes", n);
	struct st_best *best = s->best;
	for (size_t i = 1; i <= n; i++)
		best[i].score = -INFINITY;
	best[0] = (struct st_best){ 0, 0, ST_NO_ID, 0 };

	for (size_t at = 0, len; at < n; at += len) {
		len = st_utf8_step(word + at, n - at);
		if (len == 0)
			len = 1;
		bool one = false; /* is there a piece for just this character? */
		struct st_prefix_walk w = st_prefix_walk_start(&t->unigram);
		uint32_t id;
		for (size_t end = at; end < n && st_prefix_walk_next(&t->unigram, &w, (uint8_t)word[end], &id);) {
			end++;
			if (id == ST_NO_ID)
				continue;
			one |= end - at == len;
			double score = best[at].score + piece_score(t, id);
			if (score > best[end].score)
				best[end] = (struct st_best){ score, (uint32_t)at, id, 0 };
		}
		double score = best[at].score + t->unk_score;
		if (!one && score > best[at + len].score)
			best[at + len] = (struct st_best){ score, (uint32_t)at, ST_NO_ID, 0 };
	}

	/* The links lead backwards: turn them round, then read off the pieces. */
	for (uint32_t end = (uint32_t)n; end > 0; end = best[end].start)
		best[best[end].start].next = end;
	for (uint32_t at = 0, end; at < n; at = end) {
		end = best[at].next;
		if (best[end].id == ST_NO_ID)
			ST_TRY(st_push_unknown(s, word + at, end - at, err));
		else if (!st_push_id(s, best[end].id))
			return st_fail(err, ST_ERR_NOMEM, "no memory for token ids");
	}
	return ST_OK;
}
