#include "base/cursor.h"

#include "base/error.h"

#include <utf8proc.h>

void st_cursor_init(struct st_cursor *c, const uint8_t *base, uint64_t size, uint64_t origin, struct st_error *err)
{
	*c = (struct st_cursor){ .base = base, .size = size, .origin = origin, .err = err, .st = ST_OK };
}

const uint8_t *st_cursor_bytes(struct st_cursor *c, uint64_t n, const char *what)
{
	if (c->st != ST_OK)
		return NULL;
	if (n > st_cursor_left(c)) {
		c->st = st_fail_at(c->err, ST_ERR_FORMAT, st_cursor_offset(c), what, "needs %llu bytes, %llu are left",
		                   (unsigned long long)n, (unsigned long long)st_cursor_left(c));
		return NULL;
	}
	/* An empty map has no base; an empty read of it is still a success. */
	static const uint8_t nothing[1];
	const uint8_t *p = c->base ? c->base + c->pos : nothing;
	c->pos += n;
	return p;
}

uint8_t st_cursor_u8(struct st_cursor *c, const char *what)
{
	const uint8_t *p = st_cursor_bytes(c, 1, what);
	return p ? *p : 0;
}

uint16_t st_cursor_u16(struct st_cursor *c, const char *what)
{
	const uint8_t *p = st_cursor_bytes(c, 2, what);
	return p ? st_load_u16(p) : 0;
}

uint32_t st_cursor_u32(struct st_cursor *c, const char *what)
{
	const uint8_t *p = st_cursor_bytes(c, 4, what);
	return p ? st_load_u32(p) : 0;
}

uint64_t st_cursor_u64(struct st_cursor *c, const char *what)
{
	const uint8_t *p = st_cursor_bytes(c, 8, what);
	return p ? st_load_u64(p) : 0;
}

bool st_utf8_valid(const char *s, size_t n)
{
	const utf8proc_uint8_t *p = (const utf8proc_uint8_t *)s;
	while (n > 0) {
		utf8proc_int32_t cp;
		utf8proc_ssize_t k = utf8proc_iterate(p, (utf8proc_ssize_t)(n > 4 ? 4 : n), &cp);
		if (k <= 0)
			return false;
		p += k;
		n -= (size_t)k;
	}
	return true;
}
