/* keys.c - looking up GGUF's typed keys. */
#include "format/keys.h"

#include "base/cursor.h"
#include "base/error.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Sizes and names of GGUF's value types, in the format's numbering. */
static const struct {
	const char *name;
	uint32_t size;
} types[ST_KV_COUNT] = {
	[ST_KV_U8] = { "u8", 1 },     [ST_KV_I8] = { "i8", 1 },     [ST_KV_U16] = { "u16", 2 },
	[ST_KV_I16] = { "i16", 2 },   [ST_KV_U32] = { "u32", 4 },   [ST_KV_I32] = { "i32", 4 },
	[ST_KV_F32] = { "f32", 4 },   [ST_KV_BOOL] = { "bool", 1 }, [ST_KV_STR] = { "string", 0 },
	[ST_KV_ARR] = { "array", 0 }, [ST_KV_U64] = { "u64", 8 },   [ST_KV_I64] = { "i64", 8 },
	[ST_KV_F64] = { "f64", 8 },
};

const char *st_kv_type_name(enum st_kv_type t) { return t < ST_KV_COUNT ? types[t].name : "unknown"; }
uint32_t st_kv_size(enum st_kv_type t) { return t < ST_KV_COUNT ? types[t].size : 0; }

uint64_t st_kv_bytes(const struct st_kv *kv)
{
	enum st_kv_type t = kv->type == ST_KV_ARR ? kv->elem : kv->type;
	if (t != ST_KV_STR)
		return kv->count * types[t].size;
	const uint8_t *p = kv->data;
	for (uint64_t i = 0; i < kv->count; i++) {
		size_t n;
		st_kv_next_str(&p, &n);
	}
	return (uint64_t)(p - kv->data);
}

static int by_key(const void *a, const void *b)
{
	const struct st_kv *x = *(const struct st_kv *const *)a, *y = *(const struct st_kv *const *)b;
	int d = strcmp(x->key, y->key);
	return d ? d : (x->offset > y->offset) - (x->offset < y->offset);
}

enum st_status st_kv_index(struct st_kv_table *k, struct st_arena *arena, struct st_error *err)
{
	k->by_key = st_arena_alloc(arena, k->n, sizeof *k->by_key);
	if (!k->by_key)
		return st_fail(err, ST_ERR_NOMEM, "out of memory");
	for (size_t i = 0; i < k->n; i++)
		k->by_key[i] = &k->kv[i];
	qsort(k->by_key, k->n, sizeof *k->by_key, by_key);
	for (size_t i = 1; i < k->n; i++)
		if (strcmp(k->by_key[i - 1]->key, k->by_key[i]->key) == 0)
			return st_fail_at(err, ST_ERR_FORMAT, k->by_key[i]->offset, k->by_key[i]->key,
			                  "the key is there twice, first with its value at byte %llu",
			                  (unsigned long long)k->by_key[i - 1]->offset);
	return ST_OK;
}

const struct st_kv *st_kv_find(const struct st_kv_table *k, const char *key)
{
	for (size_t lo = 0, hi = k->by_key ? k->n : 0; lo < hi;) {
		size_t mid = lo + (hi - lo) / 2;
		int d = strcmp(key, k->by_key[mid]->key);
		if (d == 0)
			return k->by_key[mid];
		if (d < 0)
			hi = mid;
		else
			lo = mid + 1;
	}
	return NULL;
}

static enum st_status wrong_type(const struct st_kv *kv, const char *want, struct st_error *err)
{
	return st_fail_at(err, ST_ERR_FORMAT, kv->offset, kv->key, "has type %s%s%s, expected %s",
	                  st_kv_type_name(kv->type), kv->type == ST_KV_ARR ? " of " : "",
	                  kv->type == ST_KV_ARR ? st_kv_type_name(kv->elem) : "", want);
}

bool st_kv_integer(enum st_kv_type type, const uint8_t *p, int64_t *v, bool *big)
{
	*big = false;
	switch (type) {
	case ST_KV_U8:
		*v = *p;
		return true;
	case ST_KV_I8:
		*v = (int8_t)*p;
		return true;
	case ST_KV_U16:
		*v = st_load_u16(p);
		return true;
	case ST_KV_I16:
		*v = (int16_t)st_load_u16(p);
		return true;
	case ST_KV_U32:
		*v = st_load_u32(p);
		return true;
	case ST_KV_I32:
		*v = (int32_t)st_load_u32(p);
		return true;
	case ST_KV_I64:
		*v = (int64_t)st_load_u64(p);
		return true;
	case ST_KV_U64:
		*v = (int64_t)st_load_u64(p);
		*big = *v < 0;
		return true;
	default:
		return false;
	}
}

double st_kv_number(enum st_kv_type type, const uint8_t *p)
{
	int64_t v;
	bool big;
	if (st_kv_integer(type, p, &v, &big))
		return big ? (double)(uint64_t)v : (double)v;
	return type == ST_KV_F32  ? (double)st_load_f32(p)
	     : type == ST_KV_F64  ? st_load_f64(p)
	     : type == ST_KV_BOOL ? *p != 0
	                          : NAN;
}

/* Writers disagree on the width of counts, so any integer type will do; a float will not. */
enum st_status st_kv_u64(const struct st_kv_table *k, const char *key, uint64_t *out, bool *found, struct st_error *err)
{
	const struct st_kv *kv = st_kv_find(k, key);
	*found = kv != NULL;
	if (!kv)
		return ST_OK;
	int64_t v;
	bool big;
	if (!st_kv_integer(kv->type, kv->data, &v, &big))
		return wrong_type(kv, "an unsigned integer", err);
	if (v < 0 && !big)
		return st_fail_at(err, ST_ERR_FORMAT, kv->offset, key, "is %lld, must not be negative", (long long)v);
	*out = (uint64_t)v;
	return ST_OK;
}

enum st_status st_kv_f64(const struct st_kv_table *k, const char *key, double *out, bool *found, struct st_error *err)
{
	const struct st_kv *kv = st_kv_find(k, key);
	*found = kv != NULL;
	if (!kv)
		return ST_OK;
	if (kv->type == ST_KV_BOOL || st_kv_size(kv->type) == 0)
		return wrong_type(kv, "a number", err);
	*out = st_kv_number(kv->type, kv->data);
	return ST_OK;
}

enum st_status st_kv_bool(const struct st_kv_table *k, const char *key, bool *out, bool *found, struct st_error *err)
{
	const struct st_kv *kv = st_kv_find(k, key);
	*found = kv != NULL;
	if (!kv)
		return ST_OK;
	if (kv->type != ST_KV_BOOL)
		return wrong_type(kv, "bool", err);
	*out = *kv->data != 0;
	return ST_OK;
}

enum st_status st_kv_str(const struct st_kv_table *k, const char *key, const char **s, size_t *len, bool *found,
                         struct st_error *err)
{
	const struct st_kv *kv = st_kv_find(k, key);
	*found = kv != NULL;
	if (!kv)
		return ST_OK;
	if (kv->type != ST_KV_STR)
		return wrong_type(kv, "string", err);
	const uint8_t *p = kv->data;
	*s = st_kv_next_str(&p, len);
	return ST_OK;
}
