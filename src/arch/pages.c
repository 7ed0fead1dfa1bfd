/* pages.c - the descriptions that are built in, one by one. */
#include <stele/family.h>

#include "family/family.h"

#include <string.h>

static bool is_family(const struct st_family_text *t) { return strstr(t->name, ".family") != NULL; }

size_t st_family_count(void)
{
	size_t n = 0;
	for (size_t i = 0; i < st_family_text_count; i++)
		n += is_family(&st_family_texts[i]);
	return n;
}

static const struct st_family_text *text_at(size_t n)
{
	for (size_t i = 0; i < st_family_text_count; i++)
		if (is_family(&st_family_texts[i]) && n-- == 0)
			return &st_family_texts[i];
	return NULL;
}

/* "gemma2.family" without its ending, for every description in turn: their texts are few and never change. */
const char *st_family_name(size_t i) { return text_at(i) ? text_at(i)->family : NULL; }

const char *st_family_text(const char *name, size_t *size)
{
	for (size_t i = 0; i < st_family_text_count; i++)
		if (is_family(&st_family_texts[i]) && strcmp(st_family_texts[i].family, name) == 0) {
			*size = st_family_texts[i].size;
			return st_family_texts[i].text;
		}
	return NULL;
}
