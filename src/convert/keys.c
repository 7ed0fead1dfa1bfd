/* keys.c - a list of GGUF keys that grows. */
#include "convert/keys.h"

#include <string.h>

void st_key_value(struct st_keys *k, const char *key, enum st_kv_type type, const void *value, size_t size)
{
	uint8_t *copy = st_arena_alloc(k->arena, size ? size : 1, 1);
	char *name = st_arena_strndup(k->arena, key, strlen(key));
	struct st_kv *at = NULL;
	for (size_t i = 0; i < k->n && !at; i++)
		if (strcmp(k->v[i].key, key) == 0)
			at = &k->v[i];
	if (!at && st_grow((void **)&k->v, &k->cap, k->n + 1, sizeof *k->v))
		at = &k->v[k->n++];
	if (!copy || !name || !at) {
		k->failed = true;
		return;
	}
	memcpy(copy, value, size);
	*at = (struct st_kv){ .key = name, .type = type, .count = 1, .data = copy };
}

void st_key_u32(struct st_keys *k, const char *key, uint32_t v) { st_key_value(k, key, ST_KV_U32, &v, 4); }

void st_key_f32(struct st_keys *k, const char *key, double v)
{
	float f = (float)v;
	st_key_value(k, key, ST_KV_F32, &f, 4);
}

void st_key_bool(struct st_keys *k, const char *key, bool v)
{
	uint8_t b = v;
	st_key_value(k, key, ST_KV_BOOL, &b, 1);
}

void st_key_text(struct st_keys *k, const char *key, const char *s, size_t n)
{
	uint8_t *buf = st_arena_alloc(k->arena, 8 + n, 1);
	if (!buf) {
		k->failed = true;
		return;
	}
	uint64_t len = n;
	memcpy(buf, &len, 8);
	memcpy(buf + 8, s, n);
	st_key_value(k, key, ST_KV_STR, buf, 8 + n);
}

void st_key_drop(struct st_keys *k, const char *key)
{
	for (size_t i = 0; i < k->n; i++)
		if (strcmp(k->v[i].key, key) == 0) {
			memmove(k->v + i, k->v + i + 1, (k->n - i - 1) * sizeof *k->v);
			k->n--;
			return;
		}
}

void st_key_array(struct st_keys *k, const char *key, enum st_kv_type elem, uint64_t count, const void *data)
{
	if (!data || !st_grow((void **)&k->v, &k->cap, k->n + 1, sizeof *k->v)) {
		k->failed = true;
		return;
	}
	k->v[k->n++] = (struct st_kv){ .key = key, .type = ST_KV_ARR, .elem = elem, .count = count, .data = data };
}
