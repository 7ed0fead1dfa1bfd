/* families.c - the table of model families. A new one is one more file and a row here. */
#include "arch/config.h"

#include "base/error.h"

#include <stele/family.h>

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

enum st_status st_config_unknown_family(const char *key, const char *name, size_t len, struct st_error *err)
{
	return st_fail_at(err, ST_ERR_UNSUPPORTED, ST_NO_OFFSET, key,
	                  "unknown model family \"%.*s\": none of the %zu that stele family list shows",
	                  (int)(len < 64 ? len : 64), name, st_family_count());
}
