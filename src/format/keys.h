/* keys.h - GGUF's typed keys: one value, the list of a file, and looking values up by name and type. */
#ifndef ST_FORMAT_KEYS_H
#define ST_FORMAT_KEYS_H

#include "base/mem.h"

/* GGUF's typed metadata values; the numbers are the format's own. */
enum st_kv_type {
	ST_KV_U8 = 0,
	ST_KV_I8,
	ST_KV_U16,
	ST_KV_I16,
	ST_KV_U32,
	ST_KV_I32,
	ST_KV_F32,
	ST_KV_BOOL,
	ST_KV_STR,
	ST_KV_ARR,
	ST_KV_U64,
	ST_KV_I64,
	ST_KV_F64,
	ST_KV_COUNT
};

/* One GGUF key. Strings and arrays stay in the map: `data` is the first byte of the value
 * (for a string its u64 length, for an array its first element). Checked at open: every
 * element of every array lies inside the file. */
struct st_kv {
	const char *key; /* arena copy, terminated */
	enum st_kv_type type;
	enum st_kv_type elem; /* arrays: type of the elements (never ST_KV_ARR) */
	uint64_t count;       /* arrays: number of elements; else 1 */
	const uint8_t *data;
	uint64_t offset; /* of data in its file, for messages */
};

/* The keys of a file. */
struct st_kv_table {
	struct st_kv *kv; /* in file order */
	size_t n;
	const struct st_kv **by_key; /* sorted by strcmp; st_kv_index() makes it */
};

/* Sort by key (in the arena) and refuse duplicates. */
ST_MUST_CHECK enum st_status st_kv_index(struct st_kv_table *k, struct st_arena *arena, struct st_error *err);

/* Getters say in *found whether the key is there; one of the wrong type is an error that names it, so that a default
 * never hides a damaged file. */
/* Bytes of the value at kv->data; the value has been checked or was made by Stele. */
uint64_t st_kv_bytes(const struct st_kv *kv);
const char *st_kv_type_name(enum st_kv_type t); /* "u32", "string", ... */
/* Bytes of one value of a plain type; 0 for strings and arrays. */
uint32_t st_kv_size(enum st_kv_type t);
/* One value of a plain type at p, at any alignment. False where the type is no integer. An unsigned one above INT64_MAX
 * comes back as negative with *big set. */
bool st_kv_integer(enum st_kv_type type, const uint8_t *p, int64_t *v, bool *big);
/* The nearest f64 of a value of any plain type; a bool is 0 or 1. NaN for the others. */
double st_kv_number(enum st_kv_type type, const uint8_t *p);
const struct st_kv *st_kv_find(const struct st_kv_table *k, const char *key);
ST_MUST_CHECK enum st_status st_kv_u64(const struct st_kv_table *k, const char *key, uint64_t *out, bool *found,
                                       struct st_error *err);
ST_MUST_CHECK enum st_status st_kv_f64(const struct st_kv_table *k, const char *key, double *out, bool *found,
                                       struct st_error *err);
ST_MUST_CHECK enum st_status st_kv_bool(const struct st_kv_table *k, const char *key, bool *out, bool *found,
                                        struct st_error *err);
/* Not terminated: *len bytes in the map. */
ST_MUST_CHECK enum st_status st_kv_str(const struct st_kv_table *k, const char *key, const char **s, size_t *len,
                                       bool *found, struct st_error *err);

/* Walk the strings of a string array in order: p = kv->data; repeat count times. */
static inline const char *st_kv_next_str(const uint8_t **p, size_t *len)
{
	uint64_t n;
	__builtin_memcpy(&n, *p, 8);
	const char *s = (const char *)*p + 8;
	*p += 8 + n;
	*len = (size_t)n;
	return s;
}

#endif
