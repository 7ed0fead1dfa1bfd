/* text.c - text that grows, and steps through UTF-8 that may be broken. */
#include "token/tokenizer.h"

#include <string.h>
#include <utf8proc.h>

bool st_text_append(struct st_text *t, const char *p, size_t n)
{
	if (n > 4 * (size_t)ST_MAX_TEXT - t->n || !st_grow((void **)&t->s, &t->cap, t->n + n + 1, 1))
		return false;
	if (n)
		memcpy(t->s + t->n, p, n);
	t->n += n;
	return true;
}

size_t st_utf8_step(const char *p, size_t n)
{
	if ((unsigned char)*p < 0x80)
		return 1;
	utf8proc_int32_t cp;
	utf8proc_ssize_t k = utf8proc_iterate((const utf8proc_uint8_t *)p, (utf8proc_ssize_t)(n > 4 ? 4 : n), &cp);
	return k > 0 ? (size_t)k : 0;
}
