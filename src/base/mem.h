/* mem.h - checked size arithmetic and arenas. */
#ifndef ST_BASE_MEM_H
#define ST_BASE_MEM_H

#include <stele/status.h>

/* False on overflow; *out is then unspecified. */
static inline bool st_mul_u64(uint64_t a, uint64_t b, uint64_t *out) { return !__builtin_mul_overflow(a, b, out); }
static inline bool st_add_u64(uint64_t a, uint64_t b, uint64_t *out) { return !__builtin_add_overflow(a, b, out); }

/* ceil(a / b) without overflow; b > 0. */
static inline uint64_t st_ceil_div(uint64_t a, uint64_t b) { return a / b + (a % b != 0); }
/* Round up to a multiple of `to` (any positive number). False on overflow. */
static inline bool st_round_up(uint64_t a, uint64_t to, uint64_t *out)
{
	return st_mul_u64(st_ceil_div(a, to), to, out);
}

/*
 * An arena owns every allocation made from it until st_arena_release. Blocks are
 * 64-byte aligned and zeroed. Allocation returns NULL when the system has no memory
 * or the size overflows. One thread at a time.
 */
struct st_arena {
	struct st_arena_chunk *chunks;
	uint64_t total; /* bytes handed out, for memory plans */
};

void st_arena_init(struct st_arena *a);
void st_arena_release(struct st_arena *a); /* back to the state after init */
void *st_arena_alloc(struct st_arena *a, uint64_t n, uint64_t size);
void *st_arena_alloc2(struct st_arena *a, uint64_t n, uint64_t m, uint64_t size);
char *st_arena_strndup(struct st_arena *a, const char *s, size_t n);
char *st_arena_printf(struct st_arena *a, const char *fmt, ...) ST_PRINTF(2, 3);

/*
 * Memory for n, n * m or n * m * k elements: 64-byte aligned, not zeroed, freed with free(). NULL on overflow or no
 * memory. A product never stands in an argument, since it would wrap before anybody looks: that is what the factors are
 * for. malloc and its kin are used in this room only (banned.h).
 */
void *st_alloc_array(uint64_t n, uint64_t size);
void *st_alloc_array2(uint64_t n, uint64_t m, uint64_t size);
void *st_alloc_array3(uint64_t n, uint64_t m, uint64_t k, uint64_t size);
void *st_alloc_zeroed(uint64_t n, uint64_t size);
char *st_strdup(const char *s);
char *st_strndup(const char *s, size_t n);
/* Grow an array from here so that it holds at least `need` elements; *cap in elements. */
bool st_grow(void **p, size_t *cap, size_t need, size_t size);

#endif
