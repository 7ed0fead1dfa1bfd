/*
 * keys.h - the GGUF keys of an output, in the order in which they are written.
 */
#ifndef ST_CONVERT_KEYS_H
#define ST_CONVERT_KEYS_H

#include "base/mem.h"
#include "format/container.h"

/* Memory that could not be had is remembered in `failed`, so that a list is asked once, at its end. */
struct st_keys {
	struct st_kv *v;
	size_t n, cap;
	struct st_arena *arena; /* keys and values */
	bool failed;
};

/* Set a key; one that is in the list keeps its place. `value` is copied. */
void st_key_value(struct st_keys *k, const char *key, enum st_kv_type type, const void *value, size_t size);
void st_key_u32(struct st_keys *k, const char *key, uint32_t v);
void st_key_f32(struct st_keys *k, const char *key, double v);
void st_key_bool(struct st_keys *k, const char *key, bool v);
void st_key_text(struct st_keys *k, const char *key, const char *s, size_t n);
/* An array; key and data stay where they are. NULL data: no memory was had for them. */
void st_key_array(struct st_keys *k, const char *key, enum st_kv_type elem, uint64_t count, const void *data);
void st_key_drop(struct st_keys *k, const char *key);

#endif
