#include "token/vocab.h"

#include "base/cursor.h"

#include <stdlib.h>
#include <string.h>

/* Eight bytes a step: the keys are short and there are some 450,000 look-ups in opening a
 * large vocabulary. The multiplier is 2^64 / golden ratio, made odd. */
static uint32_t hash_text(const char *s, size_t n)
{
	const uint64_t mul = 0x9E3779B97F4A7C15u;
	uint64_t h = n * mul, word;
	for (; n >= 8; s += 8, n -= 8) {
		memcpy(&word, s, 8);
		h = (h ^ word) * mul;
		h ^= h >> 29;
	}
	word = 0;
	memcpy(&word, s, n);
	h = (h ^ word) * mul;
	return (uint32_t)(h >> 32);
}

/* st_utf8_valid, but fast over ASCII, which most pieces are. */
static bool is_text(const char *s, size_t n)
{
	for (size_t i = 0; i < n; i++)
		if ((unsigned char)s[i] >= 0x80)
			return st_utf8_valid(s + i, n - i);
	return true;
}

enum st_status st_vocab_init(struct st_vocab *v, struct st_arena *arena, uint64_t n, bool scores, const char *what,
                             struct st_error *err)
{
	if (n == 0)
		return st_fail_at(err, ST_ERR_FORMAT, ST_NO_OFFSET, what, "the vocabulary is empty");
	if (n > ST_MAX_VOCAB)
		return st_fail_at(err, ST_ERR_LIMIT, ST_NO_OFFSET, what, "%llu pieces, at most %u are handled",
		                  (unsigned long long)n, ST_MAX_VOCAB);
	v->n = (uint32_t)n;
	v->pieces = st_arena_alloc(arena, n, sizeof *v->pieces);
	v->scores = scores ? st_arena_alloc(arena, n, sizeof *v->scores) : NULL;
	if (!v->pieces || (scores && !v->scores))
		return st_fail(err, ST_ERR_NOMEM, "no memory for %u pieces", v->n);
	return ST_OK;
}

enum st_status st_vocab_index(struct st_vocab *v, struct st_arena *arena, const char *what, struct st_error *err)
{
	uint32_t size = 16;
	while (size < 2 * v->n)
		size *= 2;
	v->mask = size - 1;
	v->slots = st_arena_alloc(arena, size, sizeof *v->slots);
	if (!v->slots)
		return st_fail(err, ST_ERR_NOMEM, "no memory to index %u pieces", v->n);
	for (uint32_t id = 0; id < v->n; id++) {
		const struct st_piece *p = &v->pieces[id];
		if (p->len == 0)
			continue;
		if (!is_text(p->s, p->len))
			return st_fail_at(err, ST_ERR_FORMAT, ST_NO_OFFSET, what, "piece %u is not valid UTF-8", id);
		v->longest = p->len > v->longest ? p->len : v->longest;
		uint32_t i = hash_text(p->s, p->len) & v->mask;
		for (; v->slots[i]; i = (i + 1) & v->mask) {
			const struct st_piece *q = &v->pieces[v->slots[i] - 1];
			if (q->len == p->len && memcmp(q->s, p->s, p->len) == 0)
				return st_fail_at(err, ST_ERR_FORMAT, ST_NO_OFFSET, what,
				                  "piece \"%.*s\" has two ids, %u and %u",
				                  (int)(p->len < 64 ? p->len : 64), p->s, v->slots[i] - 1, id);
		}
		v->slots[i] = id + 1;
	}
	return ST_OK;
}

uint32_t st_vocab_find(const struct st_vocab *v, const char *s, size_t n)
{
	for (uint32_t i = hash_text(s, n) & v->mask; v->slots[i]; i = (i + 1) & v->mask) {
		const struct st_piece *q = &v->pieces[v->slots[i] - 1];
		if (q->len == n && memcmp(q->s, s, n) == 0)
			return v->slots[i] - 1;
	}
	return ST_NO_ID;
}

static int by_text(const void *a, const void *b)
{
	const struct st_prefix *x = a, *y = b;
	int c = memcmp(x->s, y->s, x->len < y->len ? x->len : y->len);
	return c ? c : (x->len > y->len) - (x->len < y->len);
}

void st_prefixes_sort(struct st_prefixes *p)
{
	if (p->n)
		qsort(p->entries, p->n, sizeof *p->entries, by_text);
}

bool st_prefix_walk_next(const struct st_prefixes *p, struct st_prefix_walk *w, uint8_t byte, uint32_t *id)
{
	const struct st_prefix *e = p->entries;
	uint32_t lo = w->lo, hi = w->hi, at = w->depth;
	/* An entry that ended at this depth sorts before those that go on. */
	if (lo < hi && e[lo].len == at)
		lo++;
	for (uint32_t top = hi; lo < top;) {
		uint32_t mid = lo + (top - lo) / 2;
		if ((uint8_t)e[mid].s[at] < byte)
			lo = mid + 1;
		else
			top = mid;
	}
	for (uint32_t bottom = lo; bottom < hi;) {
		uint32_t mid = bottom + (hi - bottom) / 2;
		if ((uint8_t)e[mid].s[at] > byte)
			hi = mid;
		else
			bottom = mid + 1;
	}
	*w = (struct st_prefix_walk){ lo, hi, at + 1 };
	if (lo >= hi)
		return false;
	*id = e[lo].len == at + 1 ? e[lo].id : ST_NO_ID;
	return true;
}
