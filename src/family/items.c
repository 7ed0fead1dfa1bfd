/* items.c - finding what a description holds by name. */
#include "family/parser.h"

#include "base/error.h"

#include <string.h>

/* Arrays of a family are allocated for the most items that a description may have lines. */
enum st_status st_family_room(const struct st_line *l, uint32_t n, struct st_error *err)
{
	if (n < ST_FAMILY_MAX_ITEMS)
		return ST_OK;
	return st_line_fail(l, err, "more than %u of a kind", ST_FAMILY_MAX_ITEMS);
}

uint32_t st_family_find_key(const struct st_family *f, const char *name)
{
	for (uint32_t i = 0; i < f->n_keys; i++)
		if (strcmp(f->keys[i].name, name) == 0)
			return i;
	return ST_FAMILY_NONE;
}

uint32_t st_family_find_weight(const struct st_family *f, const char *name)
{
	for (uint32_t i = 0; i < f->n_weights; i++)
		if (strcmp(f->weights[i].name, name) == 0)
			return i;
	return ST_FAMILY_NONE;
}

const struct st_expression *st_family_param(const struct st_family_stage *s, const char *name)
{
	for (uint32_t i = 0; i < s->n_params; i++)
		if (strcmp(s->params[i].name, name) == 0)
			return &s->params[i].value;
	return NULL;
}
