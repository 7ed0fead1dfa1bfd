/* text.h - ends of texts. */
#ifndef ST_BASE_TEXT_H
#define ST_BASE_TEXT_H

#include <stdbool.h>
#include <string.h>

static inline bool st_ends_with(const char *s, const char *end)
{
	size_t n = strlen(s), k = strlen(end);
	return n >= k && strcmp(s + n - k, end) == 0;
}

/* Whether the last parts of a name, which dots separate, are those. */
static inline bool st_ends_in_parts(const char *name, const char *parts)
{
	size_t n = strlen(name), k = strlen(parts);
	return st_ends_with(name, parts) && (n == k || name[n - k - 1] == '.');
}

#endif
