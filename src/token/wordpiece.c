/*
 * wordpiece.c - WordPiece (BERT): of each word the longest piece from its start, then the longest ones that go on with
 * it, which are spelled with "##". A word that cannot be cut so is unknown as a whole.
 */
#include "token/tokenizer.h"

#include <string.h>

static size_t count_chars(const char *p, size_t n)
{
	size_t chars = 0;
	for (size_t at = 0, len; at < n; at += len, chars++) {
		len = st_utf8_step(p + at, n - at);
		len = len ? len : 1;
	}
	return chars;
}

/* The longest piece of word[at, n), and where it ends; ST_NO_ID: there is none. */
static uint32_t longest(const struct st_scratch *s, const char *word, size_t at, size_t n, size_t *end)
{
	const struct st_tokenizer *t = s->t;
	struct st_prefix_walk w = st_prefix_walk_start(&t->unigram);
	uint32_t id, best = ST_NO_ID;
	if (at > 0)
		for (size_t i = 0; i < t->continuing_len; i++)
			if (!st_prefix_walk_next(&t->unigram, &w, (uint8_t)t->continuing[i], &id))
				return ST_NO_ID;
	for (size_t i = at; i < n && st_prefix_walk_next(&t->unigram, &w, (uint8_t)word[i], &id);) {
		i++;
		if (id != ST_NO_ID) {
			best = id;
			*end = i;
		}
	}
	return best;
}

enum st_status st_wordpiece_word(struct st_scratch *s, const char *word, size_t n, struct st_error *err)
{
	size_t before = s->n_ids;
	bool known = count_chars(word, n) <= s->t->longest_word;
	for (size_t at = 0, end = 0; at < n && known; at = end) {
		uint32_t id = longest(s, word, at, n, &end);
		known = id != ST_NO_ID;
		if (known && !st_push_id(s, id))
			return st_fail(err, ST_ERR_NOMEM, "no memory for token ids");
	}
	if (known)
		return ST_OK;
	s->n_ids = before;
	return st_push_unknown(s, word, n, err);
}

enum st_status st_wordpiece_init(struct st_tokenizer *t, const char *continuing, size_t n, uint64_t longest_word,
                                 struct st_error *err)
{
	t->continuing = continuing;
	t->continuing_len = n;
	t->longest_word = longest_word;
	t->unigram.entries = st_arena_alloc(&t->arena, t->vocab.n, sizeof *t->unigram.entries);
	if (!t->unigram.entries)
		return st_fail(err, ST_ERR_NOMEM, "no memory for %u pieces", t->vocab.n);
	for (uint32_t id = 0; id < t->vocab.n; id++) {
		const struct st_piece *p = &t->vocab.pieces[id];
		if (p->len)
			t->unigram.entries[t->unigram.n++] = (struct st_prefix){ p->s, p->len, id };
	}
	st_prefixes_sort(&t->unigram);
	return ST_OK;
}

/* GGUF marks the pieces that begin a word, with U+2581, and leaves the others bare. */
enum st_status st_wordpiece_respell(struct st_tokenizer *t, struct st_error *err)
{
	for (uint32_t id = 0; id < t->vocab.n; id++) {
		struct st_piece *p = &t->vocab.pieces[id];
		if (p->type == ST_PIECE_CONTROL || p->len == 0)
			continue;
		if (p->len > 3 && memcmp(p->s, ST_SPACE_MARKER, 3) == 0) {
			p->s += 3;
			p->len -= 3;
			continue;
		}
		char *s = st_arena_alloc(&t->arena, (uint64_t)p->len + 2, 1);
		if (!s)
			return st_fail(err, ST_ERR_NOMEM, "no memory for a piece");
		memcpy(s, "##", 2);
		memcpy(s + 2, p->s, p->len);
		p->s = s;
		p->len += 2;
	}
	return ST_OK;
}

#define PUNCTUATION "[\\p{P}!-/:-@\\[-`{-~]"
#define CJK                                                                                                      \
	"[\\x{4E00}-\\x{9FFF}\\x{3400}-\\x{4DBF}\\x{20000}-\\x{2A6DF}\\x{2A700}-\\x{2B73F}\\x{2B740}-\\x{2B81F}" \
	"\\x{2B920}-\\x{2CEAF}\\x{F900}-\\x{FAFF}\\x{2F800}-\\x{2FA1F}]"

static enum st_status add_pattern(struct st_tokenizer *t, const char *pattern, const char *by, const char *where,
                                  struct st_error *err)
{
	struct st_norm norm = { .kind = ST_NORM_REPLACE_PATTERN, .b = by, .b_len = strlen(by) };
	ST_TRY(st_pattern_compile(pattern, strlen(pattern), false, &norm.code, where, err));
	return st_norm_add(t, norm, where, err);
}

enum st_status st_bert_norms(struct st_tokenizer *t, struct st_bert_flags f, const char *where, struct st_error *err)
{
	if (f.clean) {
		ST_TRY(add_pattern(t, "(?![\\t\\n\\r])[\\p{Cc}\\p{Cf}\\p{Co}]|\\x{FFFD}", "", where, err));
		ST_TRY(add_pattern(t, "\\s", " ", where, err));
	}
	/* Blanks around it: it is a word of its own. */
	if (f.cjk)
		ST_TRY(st_stage_add(t, CJK, strlen(CJK), false, ST_SPLIT_ISOLATED, false, where, err));
	if (f.strip_accents) {
		ST_TRY(st_norm_add(t, (struct st_norm){ .kind = ST_NORM_NFD }, where, err));
		ST_TRY(add_pattern(t, "\\p{Mn}", "", where, err));
	}
	return f.lowercase ? st_norm_add(t, (struct st_norm){ .kind = ST_NORM_LOWERCASE }, where, err) : ST_OK;
}

enum st_status st_bert_words(struct st_tokenizer *t, const char *where, struct st_error *err)
{
	ST_TRY(st_stage_add(t, "\\s", 2, false, ST_SPLIT_REMOVED, false, where, err));
	return st_stage_add(t, PUNCTUATION, strlen(PUNCTUATION), false, ST_SPLIT_ISOLATED, false, where, err);
}
