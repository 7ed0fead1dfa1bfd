/* tokenizer.c - the public calls: open, tokenise, look at pieces. */
#include "token/tokenizer.h"

#include <stdlib.h>
#include <string.h>

enum st_status st_tokenizer_finish(struct st_tokenizer *t, struct st_error *err)
{
	uint32_t n = 0;
	for (uint32_t id = 0; id < t->vocab.n; id++) {
		uint8_t type = t->vocab.pieces[id].type;
		n += type == ST_PIECE_CONTROL || type == ST_PIECE_USER || type == ST_PIECE_UNKNOWN;
	}
	t->added.entries = st_arena_alloc(&t->arena, n, sizeof *t->added.entries);
	if (!t->added.entries)
		return st_fail(err, ST_ERR_NOMEM, "no memory for %u special tokens", n);
	for (uint32_t id = 0; id < t->vocab.n; id++) {
		const struct st_piece *p = &t->vocab.pieces[id];
		if (p->len == 0
		    || (p->type != ST_PIECE_CONTROL && p->type != ST_PIECE_USER && p->type != ST_PIECE_UNKNOWN))
			continue;
		/* They are looked for at every byte of a text, so their length bounds the time. */
		if (p->len > ST_MAX_ADDED)
			return st_fail(err, ST_ERR_LIMIT, "special token %u has %u bytes, at most %d are handled", id,
			               p->len, ST_MAX_ADDED);
		t->added.entries[t->added.n++] = (struct st_prefix){ p->s, p->len, id };
	}
	st_prefixes_sort(&t->added);
	return ST_OK;
}

enum st_status st_tokenizer_open(const struct st_container *c, struct st_tokenizer **out, struct st_error *err)
{
	struct st_tokenizer *t = st_alloc_zeroed(1, sizeof *t);
	if (!t)
		return st_fail(err, ST_ERR_NOMEM, "no memory for a tokenizer");
	st_arena_init(&t->arena);
	t->bos = t->eos = t->unk = t->pad = -1;
	enum st_status st;
	t->path = st_arena_strndup(&t->arena, c->path, strlen(c->path));
	if (!t->path)
		st = st_fail(err, ST_ERR_NOMEM, "no memory for a tokenizer");
	else if (c->format == ST_FORMAT_GGUF)
		st = st_tokenizer_from_gguf(t, c, err);
	else if (c->format == ST_FORMAT_APR)
		st = st_tokenizer_from_apr(t, c, err);
	else if (c->docs.tokenizer)
		st = st_tokenizer_from_hf(t, c, err);
	else
		st = st_fail(err, ST_ERR_UNSUPPORTED, "%s without a tokenizer.json: there is no tokenizer",
		             st_format_name(c->format));
	if (st == ST_OK)
		st = st_tokenizer_facts(t, c, err);
	if (st == ST_OK)
		st = st_tokenizer_finish(t, err);
	if (st != ST_OK) {
		st_error_in(err, c->path);
		st_tokenizer_close(t);
		return st;
	}
	*out = t;
	return ST_OK;
}

void st_tokenizer_close(struct st_tokenizer *t)
{
	if (!t)
		return;
	for (size_t i = 0; i < t->n_stages; i++)
		pcre2_code_free(t->stages[i].code);
	for (size_t i = 0; i < t->n_norms; i++)
		pcre2_code_free(t->norms[i].code);
	st_arena_release(&t->arena);
	free(t);
}

static void scratch_release(struct st_scratch *s)
{
	for (int i = 0; i < 2; i++) {
		free(s->text[i].s);
		free(s->words[i].v);
	}
	free(s->symbols);
	free(s->heap);
	free(s->best);
	free(s->word.s);
	free(s->ids);
	pcre2_match_data_free(s->match);
	pcre2_match_context_free(s->limits);
	pcre2_jit_stack_free(s->jit_stack);
}

/* Text between added tokens. */
static enum st_status tokenize_plain(struct st_scratch *s, const char *text, size_t n, bool first, struct st_error *err)
{
	const struct st_spans *words;
	if (n == 0)
		return ST_OK;
	ST_TRY(st_normalize(s, text, n, first, &text, &n, err));
	ST_TRY(st_split_words(s, text, n, &words, err));
	for (size_t i = 0; i < words->n; i++) {
		const struct st_span *w = &words->v[i];
		s->last_unk = false;
		enum st_model_kind kind = s->t->model;
		ST_TRY((kind == ST_MODEL_UNIGRAM     ? st_unigram_word
		        : kind == ST_MODEL_WORDPIECE ? st_wordpiece_word
		                                     : st_merge_word)(s, text + w->start, w->len, err));
	}
	return ST_OK;
}

/* The longest added token at p, of the kinds asked for; ST_NO_ID when none. */
static uint32_t added_at(const struct st_tokenizer *t, const char *p, size_t n, unsigned flags)
{
	struct st_prefix_walk w = st_prefix_walk_start(&t->added);
	uint32_t id, best = ST_NO_ID;
	for (size_t i = 0; i < n && st_prefix_walk_next(&t->added, &w, (uint8_t)p[i], &id); i++)
		if (id != ST_NO_ID && ((flags & ST_TOKENIZE_SPECIAL) || t->vocab.pieces[id].type == ST_PIECE_USER))
			best = id;
	return best;
}

static enum st_status tokenize_text(struct st_scratch *s, const char *text, size_t n, unsigned flags,
                                    struct st_error *err)
{
	const struct st_tokenizer *t = s->t;
	size_t done = 0;
	for (size_t at = 0; at < n;) {
		uint32_t id = t->added.n ? added_at(t, text + at, n - at, flags) : ST_NO_ID;
		if (id == ST_NO_ID) {
			at++;
			continue;
		}
		const struct st_piece *p = &t->vocab.pieces[id];
		size_t end = at;
		if (p->strip & ST_STRIP_LEFT)
			end -= st_space_before(text + done, at - done);
		ST_TRY(tokenize_plain(s, text + done, end - done, done == 0, err));
		if (!st_push_id(s, id))
			return st_fail(err, ST_ERR_NOMEM, "no memory for token ids");
		at += p->len;
		if (p->strip & ST_STRIP_RIGHT)
			for (size_t k; (k = st_space_step(text + at, n - at)) > 0;)
				at += k;
		done = at;
	}
	return tokenize_plain(s, text + done, n - done, done == 0, err);
}

static enum st_status push_all(struct st_scratch *s, const uint32_t *ids, size_t n, struct st_error *err)
{
	for (size_t i = 0; i < n; i++)
		if (!st_push_id(s, ids[i]))
			return st_fail(err, ST_ERR_NOMEM, "no memory for token ids");
	return ST_OK;
}

enum st_status st_tokenize(const struct st_tokenizer *t, const char *text, size_t n, unsigned flags, uint32_t **ids,
                           size_t *n_ids, struct st_error *err)
{
	if (n > ST_MAX_TEXT)
		return st_fail(err, ST_ERR_LIMIT, "the text has more than the %u bytes that are handled", ST_MAX_TEXT);
	struct st_scratch s = { .t = t };
	enum st_status st;
	/* An empty text has ids too: a malloc'ed array of none. */
	if (!st_grow((void **)&s.ids, &s.ids_cap, 1, sizeof *s.ids)) {
		st = st_fail(err, ST_ERR_NOMEM, "no memory for token ids");
		goto out;
	}
	if (flags & ST_TOKENIZE_BOS)
		ST_TRY_OUT(push_all(&s, t->before, t->n_before, err));
	ST_TRY_OUT(tokenize_text(&s, text, n, flags, err));
	if (flags & ST_TOKENIZE_BOS)
		ST_TRY_OUT(push_all(&s, t->after, t->n_after, err));
	*ids = s.ids;
	*n_ids = s.n_ids;
	s.ids = NULL;
out:
	if (st == ST_ERR_FORMAT || st == ST_ERR_UNSUPPORTED) /* the vocabulary cannot do it */
		st_error_in(err, t->path);
	scratch_release(&s);
	return st;
}

uint32_t st_tokenizer_vocab_size(const struct st_tokenizer *t) { return t->vocab.n; }
const char *st_tokenizer_describe(const struct st_tokenizer *t) { return t->describe; }
int64_t st_tokenizer_bos(const struct st_tokenizer *t) { return t->bos; }
int64_t st_tokenizer_eos(const struct st_tokenizer *t) { return t->eos; }
bool st_tokenizer_adds_bos(const struct st_tokenizer *t) { return t->n_before > 0; }

const char *st_tokenizer_piece(const struct st_tokenizer *t, uint32_t id, size_t *len)
{
	if (id >= t->vocab.n) {
		*len = 0;
		return NULL;
	}
	*len = t->vocab.pieces[id].len;
	return t->vocab.pieces[id].s ? t->vocab.pieces[id].s : "";
}

struct bytes {
	char *buf;
	size_t n, len;
};

static void put(struct bytes *b, const char *p, size_t n)
{
	for (size_t i = 0; i < n; i++, b->len++)
		if (b->len < b->n)
			b->buf[b->len] = p[i];
}

size_t st_tokenizer_decode(const struct st_tokenizer *t, uint32_t id, char *buf, size_t n)
{
	struct bytes b = { buf, n, 0 };
	if (id >= t->vocab.n)
		return 0;
	const struct st_piece *p = &t->vocab.pieces[id];
	int byte = p->type == ST_PIECE_BYTE ? st_byte_piece(p->s, p->len) : -1;
	bool literal = p->type == ST_PIECE_CONTROL || p->type == ST_PIECE_USER || p->type == ST_PIECE_UNKNOWN;
	if (byte >= 0) {
		put(&b, &(char){ (char)byte }, 1);
		return b.len;
	}
	/* A piece within a word goes on with it, the others begin one. */
	size_t begin = 0;
	if (t->model == ST_MODEL_WORDPIECE && !literal) {
		bool goes_on = t->continuing_len && p->len > t->continuing_len
		            && memcmp(p->s, t->continuing, t->continuing_len) == 0;
		begin = goes_on ? t->continuing_len : 0;
		if (!goes_on)
			put(&b, " ", 1);
	}
	for (size_t at = begin, len; at < p->len; at += len) {
		const char *s = p->s + at;
		len = st_utf8_step(s, p->len - at);
		len = len ? len : 1;
		/* The byte alphabet ends at U+0143, so its characters have at most two bytes. */
		int c = len == 1 ? (uint8_t)s[0] : len == 2 ? ((s[0] & 0x1F) << 6 | (s[1] & 0x3F)) : -1;
		int mapped = t->byte_level && !literal && c >= 0 ? st_char_byte((uint32_t)c) : -1;
		if (mapped >= 0)
			put(&b, &(char){ (char)mapped }, 1);
		else if (t->space_marker && !literal && len == 3 && memcmp(s, ST_SPACE_MARKER, 3) == 0)
			put(&b, " ", 1);
		else
			put(&b, s, len);
	}
	return b.len;
}
