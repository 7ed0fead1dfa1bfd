/*
 * vocabulary.c - two tokenizers compared whole: what any text may show, not the text at hand.
 *
 * Containers spell one vocabulary in different ways. A piece is compared by the bytes it stands for, its type by what a
 * reader does with it, the splitting into words by what it does to a text full of corner cases. What one side leaves
 * unsaid is told and contradicts nothing.
 */
#include <stele/compare.h>

#include "token/tokenizer.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct list {
	struct st_aside *v;
	size_t n;
};

/* "the first of 12 that differ" */
static const char *which(size_t differ, char *buf, size_t n)
{
	if (differ == 1)
		snprintf(buf, n, "the only one that differs");
	else
		snprintf(buf, n, "the first of %zu that differ", differ);
	return buf;
}

static struct st_aside *add(struct list *l, const char *key, bool one_sided)
{
	static struct st_aside beyond; /* more kinds than there is room for: there are not */
	struct st_aside *x = l->n < ST_MAX_ASIDES ? &l->v[l->n++] : &beyond;
	*x = (struct st_aside){ .code = ST_CAUSE_VOCAB_MISMATCH, .one_sided = one_sided };
	snprintf(x->key, sizeof x->key, "%s", key);
	return x;
}

/* A piece as a report can show it: control characters and broken UTF-8 as \xNN. */
static void show(const char *s, size_t n, char *buf, size_t size)
{
	size_t at = 0;
	buf[at++] = '"';
	for (size_t i = 0, len; i < n && at + 8 < size; i += len) {
		len = st_utf8_step(s + i, n - i);
		bool plain = len > 0 && ((unsigned char)s[i] >= 0x20 && s[i] != 0x7F);
		len = len ? len : 1;
		if (plain) {
			memcpy(buf + at, s + i, len);
			at += len;
		} else {
			at += (size_t)snprintf(buf + at, size - at, "\\x%02X", (unsigned char)s[i]);
		}
	}
	snprintf(buf + at, size - at, "\"");
}

/* The bytes that a piece stands for, or its spelling where it stands for none. */
struct bytes {
	char s[256];
	size_t n;
};

static void bytes_of(const struct st_tokenizer *t, uint32_t id, struct bytes *b)
{
	b->n = st_tokenizer_decode(t, id, b->s, sizeof b->s);
	b->n = b->n < sizeof b->s ? b->n : sizeof b->s;
}

static bool same_piece(const struct st_tokenizer *a, const struct st_tokenizer *b, uint32_t id)
{
	const struct st_piece *x = &a->vocab.pieces[id], *y = &b->vocab.pieces[id];
	if (x->len == y->len && (x->len == 0 || memcmp(x->s, y->s, x->len) == 0))
		return true;
	struct bytes p, q;
	bytes_of(a, id, &p);
	bytes_of(b, id, &q);
	return p.n == q.n && memcmp(p.s, q.s, p.n) == 0;
}

/* An id that no text has: rows that pad the embedding, holes. Writers fill them with pieces of their own making. */
static bool is_padding(const struct st_tokenizer *t, uint32_t id)
{
	const struct st_piece *p = &t->vocab.pieces[id];
	return !p->s || p->len == 0 || p->type == ST_PIECE_UNUSED
	    || (p->len > 4 && p->s[p->len - 1] == ']' && memcmp(p->s, "[PAD", 4) == 0);
}

static void compare_pieces(struct list *l, const struct st_tokenizer *a, const struct st_tokenizer *b)
{
	uint32_t common = a->vocab.n < b->vocab.n ? a->vocab.n : b->vocab.n;
	size_t differ = 0, more = 0;
	char some[48];
	uint32_t first = 0, first_more = 0;
	for (uint32_t id = 0; id < common; id++)
		if (!same_piece(a, b, id) && !(is_padding(a, id) && is_padding(b, id)) && differ++ == 0)
			first = id;
	if (differ) {
		struct st_aside *x = add(l, "vocabulary", false);
		show(a->vocab.pieces[first].s, a->vocab.pieces[first].len, x->a, sizeof x->a);
		show(b->vocab.pieces[first].s, b->vocab.pieces[first].len, x->b, sizeof x->b);
		snprintf(x->note, sizeof x->note, "piece %u, %s", first, which(differ, some, sizeof some));
	}
	const struct st_tokenizer *longer = a->vocab.n > b->vocab.n ? a : b;
	for (uint32_t id = common; id < longer->vocab.n; id++)
		if (!is_padding(longer, id) && more++ == 0)
			first_more = id;
	if (more) {
		struct st_aside *x = add(l, "vocabulary size", false);
		snprintf(x->a, sizeof x->a, "%u", a->vocab.n);
		snprintf(x->b, sizeof x->b, "%u", b->vocab.n);
		char piece[64];
		show(longer->vocab.pieces[first_more].s, longer->vocab.pieces[first_more].len, piece, sizeof piece);
		snprintf(x->note, sizeof x->note, "%c alone has piece %u, %s", longer == a ? 'A' : 'B', first_more,
		         piece);
	}
}

/* What a reader does with a piece where it stands in a text. */
enum use { PLAIN, ALWAYS, ON_REQUEST };
static enum use use_of(const struct st_piece *p)
{
	return p->type == ST_PIECE_USER                                   ? ALWAYS
	     : p->type == ST_PIECE_CONTROL || p->type == ST_PIECE_UNKNOWN ? ON_REQUEST
	                                                                  : PLAIN;
}

static bool says_types(const struct st_tokenizer *t)
{
	for (uint32_t id = 0; id < t->vocab.n; id++)
		if (use_of(&t->vocab.pieces[id]) != PLAIN)
			return true;
	return false;
}

static void compare_types(struct list *l, const struct st_tokenizer *a, const struct st_tokenizer *b)
{
	static const char *const words[] = { "part of the text", "always one token", "a special token" };
	uint32_t common = a->vocab.n < b->vocab.n ? a->vocab.n : b->vocab.n, first = 0;
	size_t differ = 0;
	char some[48];
	bool one_sided = !says_types(a) || !says_types(b);
	for (uint32_t id = 0; id < common; id++)
		if (use_of(&a->vocab.pieces[id]) != use_of(&b->vocab.pieces[id]) && !is_padding(a, id)
		    && !is_padding(b, id) && differ++ == 0)
			first = id;
	if (!differ)
		return;
	struct st_aside *x = add(l, "piece types", one_sided);
	char piece[64];
	show(a->vocab.pieces[first].s, a->vocab.pieces[first].len, piece, sizeof piece);
	snprintf(x->a, sizeof x->a, "%s", words[use_of(&a->vocab.pieces[first])]);
	snprintf(x->b, sizeof x->b, "%s", words[use_of(&b->vocab.pieces[first])]);
	snprintf(x->note, sizeof x->note, "piece %u, %s, %s", first, piece, which(differ, some, sizeof some));
}

/* Whether blanks beside a piece go with it. A file that names no such piece may have no room to say so. */
static void compare_strips(struct list *l, const struct st_tokenizer *a, const struct st_tokenizer *b)
{
	static const char *const words[] = { "none", "in front", "behind", "on both sides" };
	uint32_t common = a->vocab.n < b->vocab.n ? a->vocab.n : b->vocab.n, first = 0;
	size_t differ = 0, in_a = 0, in_b = 0;
	char some[48], piece[64];
	for (uint32_t id = 0; id < common; id++) {
		const struct st_piece *p = &a->vocab.pieces[id], *q = &b->vocab.pieces[id];
		in_a += p->strip != 0;
		in_b += q->strip != 0;
		if (p->strip != q->strip && same_piece(a, b, id) && differ++ == 0)
			first = id;
	}
	if (!differ)
		return;
	struct st_aside *x = add(l, "blanks taken in", in_a == 0 || in_b == 0);
	show(a->vocab.pieces[first].s, a->vocab.pieces[first].len, piece, sizeof piece);
	snprintf(x->a, sizeof x->a, "%s", words[a->vocab.pieces[first].strip & 3]);
	snprintf(x->b, sizeof x->b, "%s", words[b->vocab.pieces[first].strip & 3]);
	snprintf(x->note, sizeof x->note, "piece %u, %s, %s", first, piece, which(differ, some, sizeof some));
}

/* Only pieces that a text is cut into are scored; writers give the others any number. Where pieces are merged, one of a
 * single character stands from the start, and nobody asks for its score. */
static bool is_scored(const struct st_tokenizer *t, uint32_t id)
{
	const struct st_piece *p = &t->vocab.pieces[id];
	if (use_of(p) != PLAIN || p->type != ST_PIECE_NORMAL)
		return false;
	return t->model == ST_MODEL_UNIGRAM || (p->s && st_utf8_step(p->s, p->len) < p->len);
}

static int by_score(const void *x, const void *y, void *scores)
{
	uint32_t i = *(const uint32_t *)x, j = *(const uint32_t *)y;
	const float *s = scores;
	return s[i] != s[j] ? (s[i] < s[j] ? -1 : 1) : (i > j) - (i < j);
}

static int sign(float x) { return (x > 0) - (x < 0); }

/* A unigram model adds scores up, so their values count. Where pieces are merged only the order of the scores does:
 * files without scores get them from the order of their merges. */
static enum st_status compare_scores(struct list *l, const struct st_tokenizer *a, const struct st_tokenizer *b,
                                     struct st_error *err)
{
	uint32_t common = a->vocab.n < b->vocab.n ? a->vocab.n : b->vocab.n, first = 0, n = 0;
	const float *p = a->vocab.scores, *q = b->vocab.scores;
	size_t differ = 0;
	char some[48];
	if (!p || !q)
		return ST_OK;
	uint32_t *ids = st_alloc_array(common, sizeof *ids);
	if (!ids)
		return st_fail(err, ST_ERR_NOMEM, "out of memory");
	for (uint32_t id = 0; id < common; id++)
		if (is_scored(a, id) && is_scored(b, id))
			ids[n++] = id;
	bool values = a->model == ST_MODEL_UNIGRAM || b->model == ST_MODEL_UNIGRAM;
	if (!values)
		qsort_r(ids, n, sizeof *ids, by_score, (void *)(uintptr_t)p);
	for (uint32_t i = values ? 0 : 1; i < n; i++) {
		uint32_t id = ids[i], before = ids[i ? i - 1 : 0];
		bool apart = values ? fabsf(p[id] - q[id]) > 1e-6f * fabsf(q[id])
		                    : sign(p[id] - p[before]) != sign(q[id] - q[before]);
		if (apart && differ++ == 0)
			first = id;
	}
	free(ids);
	if (!differ)
		return ST_OK;
	struct st_aside *x = add(l, values ? "scores" : "order of scores", false);
	snprintf(x->a, sizeof x->a, "%.9g", (double)p[first]);
	snprintf(x->b, sizeof x->b, "%.9g", (double)q[first]);
	snprintf(x->note, sizeof x->note, "piece %u, %s", first, which(differ, some, sizeof some));
	return ST_OK;
}

/* Merges of one that the other lacks. */
static size_t missing_merges(const struct st_tokenizer *a, const struct st_tokenizer *b, uint32_t *left,
                             uint32_t *right, size_t *n)
{
	size_t missing = 0;
	*n = 0;
	for (uint32_t i = 0; a->merges.slots && i <= a->merges.mask; i++) {
		const struct st_merge *m = &a->merges.slots[i];
		if (!m->order)
			continue;
		++*n;
		if (st_merges_find(&b->merges, m->left, m->right))
			continue;
		if (missing++ == 0) {
			*left = m->left;
			*right = m->right;
		}
	}
	return missing;
}

static void show_merge(const struct st_tokenizer *t, uint32_t left, uint32_t right, char *buf, size_t n)
{
	char x[48], y[48];
	show(t->vocab.pieces[left].s, t->vocab.pieces[left].len, x, sizeof x);
	show(t->vocab.pieces[right].s, t->vocab.pieces[right].len, y, sizeof y);
	snprintf(buf, n, "%s + %s", x, y);
}

/* Only the order of ranks matters: of two merges that both sides have, the same one comes first. Where no merge is
 * missing, ranks are equal. Where some are, the count of them says enough. */
static void compare_merges(struct list *l, const struct st_tokenizer *a, const struct st_tokenizer *b)
{
	uint32_t left = 0, right = 0, l2 = 0, r2 = 0;
	size_t na, nb, only_a = missing_merges(a, b, &left, &right, &na), only_b = missing_merges(b, a, &l2, &r2, &nb);
	size_t moved = 0;
	if (a->model != ST_MODEL_RANKED || b->model != ST_MODEL_RANKED)
		return;
	if (only_a || only_b) {
		char first[112];
		struct st_aside *x = add(l, "merges", false);
		snprintf(x->a, sizeof x->a, "%zu", na);
		snprintf(x->b, sizeof x->b, "%zu", nb);
		show_merge(only_a ? a : b, only_a ? left : l2, only_a ? right : r2, first, sizeof first);
		snprintf(x->note, sizeof x->note, "%zu only in A, %zu only in B, first %s", only_a, only_b, first);
		return;
	}
	for (uint32_t i = 0; a->merges.slots && i <= a->merges.mask; i++) {
		const struct st_merge *m = &a->merges.slots[i],
				      *o = m->order ? st_merges_find(&b->merges, m->left, m->right) : NULL;
		if (o && o->order != m->order && moved++ == 0) {
			left = m->left;
			right = m->right;
		}
	}
	if (moved) {
		char first[112];
		struct st_aside *x = add(l, "order of merges", false);
		show_merge(a, left, right, first, sizeof first);
		snprintf(x->a, sizeof x->a, "rank %u", st_merges_find(&a->merges, left, right)->order - 1);
		snprintf(x->b, sizeof x->b, "rank %u", st_merges_find(&b->merges, left, right)->order - 1);
		snprintf(x->note, sizeof x->note, "%s, one of %zu that moved", first, moved);
	}
}

/* How a text becomes words and these become ids. Looked at where the pieces are the same. */
static enum st_status compare_cuts(struct list *l, const struct st_tokenizer *a, const struct st_tokenizer *b,
                                   struct st_error *err)
{
	uint32_t *x = NULL, *y = NULL;
	size_t nx = 0, ny = 0, at = 0;
	bool alike = true, words = a->byte_level && b->byte_level;
	enum st_status st = st_tokenize(a, st_probe, st_probe_len, 0, &x, &nx, err);
	if (st == ST_OK)
		st = st_tokenize(b, st_probe, st_probe_len, 0, &y, &ny, err);
	if (st == ST_OK && words)
		st = st_probe_alike(a, b, &alike, err);
	while (at < nx && at < ny && x[at] == y[at])
		at++;
	bool differ = st == ST_OK && (at < nx || at < ny);
	if (differ || (st == ST_OK && !alike)) {
		struct st_aside *d = add(l, "pre-tokeniser", false);
		snprintf(d->a, sizeof d->a, "%s", a->describe);
		snprintf(d->b, sizeof d->b, "%s", b->describe);
		if (differ)
			snprintf(d->note, sizeof d->note,
			         "a text of corner cases is %zu tokens in A and %zu in B; they part at token %zu", nx,
			         ny, at);
		else
			snprintf(d->note, sizeof d->note,
			         "a text of corner cases is cut into other words, which these pieces do not show");
	}
	free(x);
	free(y);
	return st;
}

static void compare_id(struct list *l, const char *key, int64_t a, int64_t b)
{
	if (a == b)
		return;
	struct st_aside *x = add(l, key, a < 0 || b < 0);
	snprintf(x->a, sizeof x->a, a < 0 ? "none" : "%lld", (long long)a);
	snprintf(x->b, sizeof x->b, b < 0 ? "none" : "%lld", (long long)b);
}

static void compare_around(struct list *l, const char *key, const uint32_t *a, size_t na, const uint32_t *b, size_t nb)
{
	if (na == nb && memcmp(a, b, na * sizeof *a) == 0)
		return;
	struct st_aside *x = add(l, key, false);
	snprintf(x->a, sizeof x->a, na ? "%u" : "none", na ? a[0] : 0);
	snprintf(x->b, sizeof x->b, nb ? "%u" : "none", nb ? b[0] : 0);
}

/* White space at the end is the file's, not the template's. */
static size_t trimmed(const char *s, size_t n)
{
	while (n > 0 && strchr(" \t\r\n", s[n - 1]))
		n--;
	return n;
}

static void compare_templates(struct list *l, const struct st_tokenizer *a, const struct st_tokenizer *b)
{
	size_t na, nb, at = 0;
	const char *x = st_tokenizer_chat_template(a, &na), *y = st_tokenizer_chat_template(b, &nb);
	na = x ? trimmed(x, na) : 0;
	nb = y ? trimmed(y, nb) : 0;
	if (na == nb && (na == 0 || memcmp(x, y, na) == 0))
		return;
	struct st_aside *d = add(l, "chat template", false);
	snprintf(d->a, sizeof d->a, na ? "%zu bytes" : "none", na);
	snprintf(d->b, sizeof d->b, nb ? "%zu bytes" : "none", nb);
	while (at < na && at < nb && x[at] == y[at])
		at++;
	if (na && nb)
		snprintf(d->note, sizeof d->note, "they part at byte %zu", at);
}

enum st_status st_compare_vocabularies(const struct st_tokenizer *a, const struct st_tokenizer *b,
                                       struct st_aside out[ST_MAX_ASIDES], size_t *n, struct st_error *err)
{
	struct list l = { out, *n };
	size_t before = l.n;
	compare_pieces(&l, a, b);
	bool same_pieces = l.n == before;
	compare_types(&l, a, b);
	compare_strips(&l, a, b);
	if (same_pieces) {
		ST_TRY(compare_scores(&l, a, b, err));
		compare_merges(&l, a, b);
		ST_TRY(compare_cuts(&l, a, b, err));
	}
	compare_id(&l, "unk", a->unk, b->unk);
	compare_id(&l, "pad", a->pad, b->pad);
	compare_around(&l, "tokens in front", a->before, a->n_before, b->before, b->n_before);
	compare_around(&l, "tokens behind", a->after, a->n_after, b->after, b->n_after);
	compare_templates(&l, a, b);
	*n = l.n;
	return ST_OK;
}
