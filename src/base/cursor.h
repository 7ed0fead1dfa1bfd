/*
 * cursor.h - reading little-endian fields from a byte range that nobody trusts.
 *
 * The first failure sticks: later reads return zeros, so a parser may read a whole
 * record and ask once. Offsets in messages are offsets in the file.
 */
#ifndef ST_BASE_CURSOR_H
#define ST_BASE_CURSOR_H

#include <stele/status.h>

struct st_cursor {
	const uint8_t *base;
	uint64_t size;   /* bytes at base */
	uint64_t pos;    /* <= size */
	uint64_t origin; /* file offset of base */
	struct st_error *err;
	enum st_status st;
};

void st_cursor_init(struct st_cursor *c, const uint8_t *base, uint64_t size, uint64_t origin, struct st_error *err);
static inline uint64_t st_cursor_left(const struct st_cursor *c) { return c->size - c->pos; }
static inline uint64_t st_cursor_offset(const struct st_cursor *c) { return c->origin + c->pos; }

/* n bytes, or NULL after recording "WHAT needs n bytes, m are left". */
const uint8_t *st_cursor_bytes(struct st_cursor *c, uint64_t n, const char *what);
uint8_t st_cursor_u8(struct st_cursor *c, const char *what);
uint16_t st_cursor_u16(struct st_cursor *c, const char *what);
uint32_t st_cursor_u32(struct st_cursor *c, const char *what);
uint64_t st_cursor_u64(struct st_cursor *c, const char *what);

/* Unaligned little-endian loads from anywhere. */
static inline uint16_t st_load_u16(const void *p)
{
	uint16_t v;
	__builtin_memcpy(&v, p, 2);
	return v;
}
static inline uint32_t st_load_u32(const void *p)
{
	uint32_t v;
	__builtin_memcpy(&v, p, 4);
	return v;
}
static inline uint64_t st_load_u64(const void *p)
{
	uint64_t v;
	__builtin_memcpy(&v, p, 8);
	return v;
}
static inline float st_load_f32(const void *p)
{
	float v;
	__builtin_memcpy(&v, p, 4);
	return v;
}
static inline double st_load_f64(const void *p)
{
	double v;
	__builtin_memcpy(&v, p, 8);
	return v;
}
#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "Stele reads little-endian files on little-endian machines only"
#endif

/* True when the n bytes are well-formed UTF-8 (no surrogates, nothing overlong). */
bool st_utf8_valid(const char *s, size_t n);

#endif
