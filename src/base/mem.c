#include "base/mem.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define ALIGN 64
#define CHUNK (64u << 10)

struct st_arena_chunk {
	struct st_arena_chunk *next;
	size_t used, size;
	char pad[ALIGN - 3 * sizeof(void *)];
	char data[];
};

void st_arena_init(struct st_arena *a) { memset(a, 0, sizeof *a); }

void st_arena_release(struct st_arena *a)
{
	for (struct st_arena_chunk *c = a->chunks, *next; c; c = next) {
		next = c->next;
		free(c);
	}
	st_arena_init(a);
}

void *st_arena_alloc(struct st_arena *a, uint64_t n, uint64_t size)
{
	uint64_t want;
	if (!st_mul_u64(n, size, &want) || !st_round_up(want ? want : 1, ALIGN, &want) || want > SIZE_MAX / 2)
		return NULL;
	struct st_arena_chunk *c = a->chunks;
	if (!c || c->size - c->used < want) {
		size_t body = want > CHUNK / 4 ? (size_t)want : CHUNK;
		c = aligned_alloc(ALIGN, sizeof *c + body);
		if (!c)
			return NULL;
		c->used = 0;
		c->size = body;
		/* A chunk of its own for a large block must not hide the free room of the head. */
		if (a->chunks && body != CHUNK) {
			c->next = a->chunks->next;
			a->chunks->next = c;
		} else {
			c->next = a->chunks;
			a->chunks = c;
		}
	}
	void *p = c->data + c->used;
	c->used += (size_t)want;
	a->total += want;
	return memset(p, 0, (size_t)want);
}

void *st_arena_alloc2(struct st_arena *a, uint64_t n, uint64_t m, uint64_t size)
{
	return st_mul_u64(n, m, &n) ? st_arena_alloc(a, n, size) : NULL;
}

char *st_arena_strndup(struct st_arena *a, const char *s, size_t n)
{
	char *p = st_arena_alloc(a, (uint64_t)n + 1, 1);
	if (p)
		memcpy(p, s, n);
	return p;
}

char *st_arena_printf(struct st_arena *a, const char *fmt, ...)
{
	va_list ap, again;
	va_start(ap, fmt);
	va_copy(again, ap);
	int n = vsnprintf(NULL, 0, fmt, ap);
	va_end(ap);
	char *p = n < 0 ? NULL : st_arena_alloc(a, (uint64_t)n + 1, 1);
	if (p)
		vsnprintf(p, (size_t)n + 1, fmt, again);
	va_end(again);
	return p;
}

void *st_alloc_array(uint64_t n, uint64_t size)
{
	uint64_t want;
	if (!st_mul_u64(n, size, &want) || !st_round_up(want ? want : 1, ALIGN, &want) || want > SIZE_MAX / 2)
		return NULL;
	return aligned_alloc(ALIGN, (size_t)want);
}

void *st_alloc_array2(uint64_t n, uint64_t m, uint64_t size)
{
	return st_mul_u64(n, m, &n) ? st_alloc_array(n, size) : NULL;
}

void *st_alloc_array3(uint64_t n, uint64_t m, uint64_t k, uint64_t size)
{
	return st_mul_u64(n, m, &n) ? st_alloc_array2(n, k, size) : NULL;
}

void *st_alloc_zeroed(uint64_t n, uint64_t size)
{
	void *p = st_alloc_array(n, size);
	return p ? memset(p, 0, (size_t)(n * size)) : NULL;
}

char *st_strndup(const char *s, size_t n)
{
	n = strnlen(s, n);
	char *p = st_alloc_array((uint64_t)n + 1, 1);
	if (!p)
		return NULL;
	memcpy(p, s, n);
	p[n] = '\0';
	return p;
}

char *st_strdup(const char *s) { return st_strndup(s, strlen(s)); }

bool st_grow(void **p, size_t *cap, size_t need, size_t size)
{
	if (need <= *cap)
		return true;
	size_t grown = *cap < 16 ? 16 : *cap;
	while (grown < need) {
		if (grown > SIZE_MAX / 2)
			return false;
		grown *= 2;
	}
	uint64_t bytes;
	if (!st_mul_u64(grown, size, &bytes))
		return false;
	void *q = realloc(*p, bytes);
	if (!q)
		return false;
	*p = q;
	*cap = grown;
	return true;
}
