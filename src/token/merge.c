/*
 * merge.c - byte-pair encoding: join neighbours, the best pair first.
 *
 * Symbols form a linked list over the word's bytes, candidate pairs a heap. A pair that went
 * stale (one side was joined elsewhere) is recognised when it comes up and dropped, so a word
 * of n symbols takes O(n log n) whatever it is.
 */
#include "token/tokenizer.h"

#include <stdlib.h>
#include <string.h>

struct st_symbol {
	uint32_t prev, next; /* ST_NO_ID at the ends */
	uint32_t start, len; /* bytes of the word; len 0: joined into its left neighbour */
	uint32_t id;         /* ST_NO_ID: no such piece */
};

struct st_candidate {
	uint64_t key; /* strength, then position of the left symbol: the smallest is joined first */
	uint32_t right, len, id;
};

enum st_status st_merges_init(struct st_tokenizer *t, uint64_t n, const char *what, struct st_error *err)
{
	if (n > ST_MAX_VOCAB)
		return st_fail_at(err, ST_ERR_LIMIT, ST_NO_OFFSET, what, "%llu merges, at most %u are handled",
		                  (unsigned long long)n, ST_MAX_VOCAB);
	uint32_t size = 16;
	while (size < n + n / 2)
		size *= 2;
	t->merges.mask = size - 1;
	t->merges.slots = st_arena_alloc(&t->arena, size, sizeof *t->merges.slots);
	t->merges.joined = st_arena_alloc(&t->arena, t->vocab.longest, 1);
	if (!t->merges.slots || !t->merges.joined)
		return st_fail(err, ST_ERR_NOMEM, "no memory for %llu merges", (unsigned long long)n);
	return ST_OK;
}

/* The slot of a pair, or the empty one where it would go. */
static struct st_merge *merge_slot(const struct st_merges *m, uint32_t left, uint32_t right)
{
	uint64_t h = ((uint64_t)left << 32 | right) * 0x9E3779B97F4A7C15u;
	uint32_t i = (uint32_t)(h >> 32) & m->mask;
	while (m->slots[i].order && (m->slots[i].left != left || m->slots[i].right != right))
		i = (i + 1) & m->mask;
	return &m->slots[i];
}

const struct st_merge *st_merges_find(const struct st_merges *m, uint32_t left, uint32_t right)
{
	const struct st_merge *slot = m->slots ? merge_slot(m, left, right) : NULL;
	return slot && slot->order ? slot : NULL;
}

/* The joined piece is nearly always the one after the last merge's: vocabularies list their pieces
 * in the order in which training made them. */
static uint32_t find_joined(struct st_tokenizer *t, const char *left, size_t nl, const char *right, size_t nr)
{
	struct st_merges *m = &t->merges;
	if (m->last + 1 < t->vocab.n) {
		const struct st_piece *p = &t->vocab.pieces[m->last + 1];
		if (p->len == nl + nr && memcmp(p->s, left, nl) == 0 && memcmp(p->s + nl, right, nr) == 0)
			return m->last + 1;
	}
	if (nl + nr > t->vocab.longest)
		return ST_NO_ID;
	memcpy(m->joined, left, nl);
	memcpy(m->joined + nl, right, nr);
	return st_vocab_find(&t->vocab, m->joined, nl + nr);
}

enum st_status st_merges_add(struct st_tokenizer *t, uint32_t rank, const char *left, size_t nl, const char *right,
                             size_t nr, const char *what, struct st_error *err)
{
	uint32_t l = st_vocab_find(&t->vocab, left, nl), r = st_vocab_find(&t->vocab, right, nr);
	uint32_t id = l == ST_NO_ID || r == ST_NO_ID ? ST_NO_ID : find_joined(t, left, nl, right, nr);
	if (id == ST_NO_ID) {
		bool parts = l != ST_NO_ID && r != ST_NO_ID;
		const char *s = l == ST_NO_ID ? left : right;
		size_t n = l == ST_NO_ID ? nl : nr;
		return st_fail_at(err, ST_ERR_FORMAT, ST_NO_OFFSET, what,
		                  "merge %u (\"%.*s\" + \"%.*s\"): %s%.*s%s is not in the vocabulary", rank,
		                  (int)(nl < 64 ? nl : 64), left, (int)(nr < 64 ? nr : 64), right,
		                  parts ? "the joined piece" : "\"", parts ? 0 : (int)(n < 64 ? n : 64), s,
		                  parts ? "" : "\"");
	}
	t->merges.last = id;
	struct st_merge *m = merge_slot(&t->merges, l, r);
	if (!m->order) /* a pair listed twice keeps its first rank */
		*m = (struct st_merge){ l, r, rank + 1, id };
	return ST_OK;
}

enum st_status st_merges_add_text(struct st_tokenizer *t, uint32_t rank, const char *s, size_t n, const char *what,
                                  struct st_error *err)
{
	/* Pieces of vocabularies without a byte alphabet may hold spaces: the space that separates is the one
	 * with a piece on both sides. */
	for (const char *sep = n ? memchr(s + 1, ' ', n - 1) : NULL; sep;
	     sep = memchr(sep + 1, ' ', (size_t)(s + n - sep - 1))) {
		size_t nl = (size_t)(sep - s), nr = n - nl - 1;
		const char *more = nr ? memchr(sep + 1, ' ', nr) : NULL;
		if (nr
		    && (!more
		        || (st_vocab_find(&t->vocab, s, nl) != ST_NO_ID
		            && st_vocab_find(&t->vocab, sep + 1, nr) != ST_NO_ID)))
			return st_merges_add(t, rank, s, nl, sep + 1, nr, what, err);
	}
	return st_fail_at(err, ST_ERR_FORMAT, ST_NO_OFFSET, what,
	                  "merge %u, \"%.*s\", is not two pieces with a space between", rank, (int)(n < 64 ? n : 64),
	                  s);
}

/* May merging produce this piece? Special pieces only come from added tokens, byte pieces only from fallback. */
static bool from_text(const struct st_tokenizer *t, uint32_t id)
{
	uint8_t type = t->vocab.pieces[id].type;
	return type == ST_PIECE_NORMAL || type == ST_PIECE_USER || type == ST_PIECE_UNUSED;
}

static uint32_t find_text(const struct st_tokenizer *t, const char *p, size_t n)
{
	uint32_t id = n <= t->vocab.longest ? st_vocab_find(&t->vocab, p, n) : ST_NO_ID;
	return id != ST_NO_ID && t->model == ST_MODEL_SCORED && !from_text(t, id) ? ST_NO_ID : id;
}

/* Floats as integers in reverse order, so that the highest score is the smallest key. */
static uint32_t score_order(float score)
{
	uint32_t u;
	score += 0.0f; /* -0 and 0 are one score */
	memcpy(&u, &score, 4);
	u = u >> 31 ? ~u : u | 0x80000000u;
	return ~u;
}

/* Can symbols l and r be joined, how strongly, and what do they become? */
static bool find_pair(const struct st_tokenizer *t, const char *word, const struct st_symbol *l,
                      const struct st_symbol *r, uint32_t *order, uint32_t *id)
{
	if (t->model == ST_MODEL_RANKED) {
		if (l->id == ST_NO_ID || r->id == ST_NO_ID)
			return false;
		const struct st_merge *m = merge_slot(&t->merges, l->id, r->id);
		*order = m->order;
		*id = m->id;
		return m->order != 0;
	}
	*id = find_text(t, word + l->start, (size_t)l->len + r->len);
	if (*id == ST_NO_ID)
		return false;
	*order = score_order(t->vocab.scores[*id]);
	return true;
}

static void sift_up(struct st_candidate *h, size_t i)
{
	struct st_candidate c = h[i];
	for (; i > 0 && h[(i - 1) / 2].key > c.key; i = (i - 1) / 2)
		h[i] = h[(i - 1) / 2];
	h[i] = c;
}

static void sift_down(struct st_candidate *h, size_t n)
{
	struct st_candidate c = h[0];
	size_t i = 0;
	for (size_t kid; (kid = 2 * i + 1) < n; i = kid) {
		if (kid + 1 < n && h[kid + 1].key < h[kid].key)
			kid++;
		if (h[kid].key >= c.key)
			break;
		h[i] = h[kid];
	}
	h[i] = c;
}

static bool push_pair(struct st_scratch *s, size_t *n_heap, const char *word, uint32_t left, uint32_t right)
{
	const struct st_symbol *l = &s->symbols[left], *r = &s->symbols[right];
	uint32_t order, id;
	if (!find_pair(s->t, word, l, r, &order, &id))
		return true;
	if (!st_grow((void **)&s->heap, &s->heap_cap, *n_heap + 1, sizeof *s->heap))
		return false;
	s->heap[*n_heap] = (struct st_candidate){ (uint64_t)order << 32 | left, right, l->len + r->len, id };
	sift_up(s->heap, (*n_heap)++);
	return true;
}

/* One symbol a byte in the byte alphabet, else one a character; a byte that is no UTF-8 stands alone. */
static size_t first_symbols(struct st_scratch *s, const char *word, size_t n)
{
	const struct st_tokenizer *t = s->t;
	uint32_t k = 0;
	for (size_t at = 0, len; at < n; at += len, k++) {
		len = t->byte_level ? 1 : st_utf8_step(word + at, n - at);
		if (len == 0)
			len = 1;
		uint32_t id = t->byte_level ? t->byte_id[(uint8_t)word[at]] : find_text(t, word + at, len);
		s->symbols[k] = (struct st_symbol){ k - 1, k + 1, (uint32_t)at, (uint32_t)len, id };
	}
	s->symbols[k - 1].next = ST_NO_ID; /* and symbols[0].prev is ST_NO_ID already: 0 - 1 */
	return k;
}

/* A word that is a piece as it stands. */
static uint32_t whole_word(struct st_scratch *s, const char *word, size_t n)
{
	const struct st_tokenizer *t = s->t;
	if (n > t->vocab.longest)
		return ST_NO_ID;
	if (!t->byte_level)
		return st_vocab_find(&t->vocab, word, n);
	s->word.n = 0;
	for (size_t i = 0; i < n; i++) {
		char c[2];
		if (!st_text_append(&s->word, c, st_byte_write((uint8_t)word[i], c)))
			return ST_NO_ID; /* merging will report the lack of memory */
	}
	return st_vocab_find(&t->vocab, s->word.s, s->word.n);
}

enum st_status st_merge_word(struct st_scratch *s, const char *word, size_t n, struct st_error *err)
{
	const struct st_tokenizer *t = s->t;
	if (t->ignore_merges) {
		uint32_t id = whole_word(s, word, n);
		if (id != ST_NO_ID)
			return st_push_id(s, id) ? ST_OK : st_fail(err, ST_ERR_NOMEM, "no memory for token ids");
	}
	if (!st_grow((void **)&s->symbols, &s->symbols_cap, n, sizeof *s->symbols))
		return st_fail(err, ST_ERR_NOMEM, "no memory to tokenise a word of %zu bytes", n);
	size_t n_symbols = first_symbols(s, word, n), n_heap = 0;
	struct st_symbol *sym = s->symbols;
	for (uint32_t i = 0; i + 1 < n_symbols; i++)
		if (!push_pair(s, &n_heap, word, i, i + 1))
			return st_fail(err, ST_ERR_NOMEM, "no memory to tokenise a word of %zu bytes", n);

	while (n_heap > 0) {
		struct st_candidate c = s->heap[0];
		s->heap[0] = s->heap[--n_heap];
		if (n_heap > 0)
			sift_down(s->heap, n_heap);
		uint32_t left = (uint32_t)c.key;
		struct st_symbol *l = &sym[left], *r = &sym[c.right];
		/* Symbols only grow or vanish, so equal length means that both are as they were. */
		if (l->len == 0 || r->len == 0 || l->next != c.right || l->len + r->len != c.len)
			continue;
		l->len = c.len;
		l->id = c.id;
		l->next = r->next;
		r->len = 0;
		if (l->next != ST_NO_ID)
			sym[l->next].prev = left;
		if ((l->prev != ST_NO_ID && !push_pair(s, &n_heap, word, l->prev, left))
		    || (l->next != ST_NO_ID && !push_pair(s, &n_heap, word, left, l->next)))
			return st_fail(err, ST_ERR_NOMEM, "no memory to tokenise a word of %zu bytes", n);
	}

	for (uint32_t i = 0; i != ST_NO_ID; i = sym[i].next) {
		if (sym[i].id == ST_NO_ID)
			ST_TRY(st_push_unknown(s, word + sym[i].start, sym[i].len, err));
		else if (!st_push_id(s, sym[i].id))
			return st_fail(err, ST_ERR_NOMEM, "no memory for token ids");
	}
	return ST_OK;
}
