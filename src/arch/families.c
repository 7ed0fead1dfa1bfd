/* families.c - the table of model families. A new one is one more file and a row here. */
#include "arch/arch.h"

#include <string.h>

const struct st_arch *const st_arch_table[] = { &st_arch_llama, &st_arch_qwen2, &st_arch_qwen3 };
const size_t st_arch_count = sizeof st_arch_table / sizeof *st_arch_table;

static bool same(const char *known, const char *name, size_t len)
{
	return strlen(known) == len && memcmp(known, name, len) == 0;
}

const struct st_arch *st_arch_find(const char *name, size_t len)
{
	for (size_t i = 0; i < st_arch_count; i++) {
		const struct st_arch *a = st_arch_table[i];
		if (same(a->name, name, len))
			return a;
		for (const char *const *alias = a->aliases; alias && *alias; alias++)
			if (same(*alias, name, len))
				return a;
	}
	return NULL;
}
