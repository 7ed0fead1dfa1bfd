/*
 * container.h - the inside of st_container, for the readers in this room and for the
 * rooms that interpret metadata (token, arch).
 *
 * A reader is one file with one function of type st_open_fn and a row in container.c's
 * table. It fills the struct below; everything it allocates comes from the arena, and
 * everything it points at lies in the maps.
 */
#ifndef ST_FORMAT_CONTAINER_H
#define ST_FORMAT_CONTAINER_H

#include <stele/container.h>

#include "base/map.h"
#include "base/mem.h"
#include "json/json.h"

#include <jansson.h>

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

/* Which convention an APR file follows (docs/format-apr.md). */
enum st_apr_writer { ST_APR_WRITER_A, ST_APR_WRITER_B };

struct st_container {
	enum st_format format;
	char *path; /* as given by the caller */
	char *describe;
	struct st_arena arena;
	struct st_map *maps; /* n_maps files, in the arena; closed by st_container_close */
	size_t n_maps;
	struct st_tensor *tensors;
	size_t n_tensors;
	const struct st_tensor **by_name; /* sorted by strcmp; st_container_index() makes it */

	/* GGUF */
	uint32_t version; /* GGUF, APR: version of the format */
	uint64_t alignment;
	struct st_kv *kv; /* in file order */
	size_t n_kv;
	const struct st_kv **kv_by_key; /* sorted by strcmp; st_kv_index() makes it */

	/* JSON documents; NULL where the container has none. Owned, decref'ed at close. */
	json_t *metadata; /* APR metadata; safetensors __metadata__ (all strings); trace.json of a tree */
	json_t *config;   /* config.json of a Hugging Face folder (or beside a .safetensors file) */
	json_t *generation_config;
	json_t *tokenizer;        /* tokenizer.json */
	json_t *tokenizer_config; /* tokenizer_config.json */

	enum st_apr_writer apr_writer;
	bool apr_dims_reversed; /* APR: labels are [in, out]; shape[] already has them turned round */
};

typedef enum st_status (*st_open_fn)(struct st_container *c, const char *path, struct st_error *err);

/* Sort tensors by name and refuse duplicates. Every reader calls it last. */
ST_MUST_CHECK enum st_status st_container_index(struct st_container *c, struct st_error *err);

/* Map one more file of the container and return its index. */
ST_MUST_CHECK enum st_status st_container_add_file(struct st_container *c, const char *path, uint32_t *index,
                                                   struct st_error *err);

/* A zeroed table for n items that a file claims to hold. Counts come from strangers: a table (with 64
 * bytes a name) that is out of proportion to the mapped files is refused with ST_ERR_LIMIT before it
 * is allocated. NULL on failure; `what` is a plural, "tensors". Add every file first. */
void *st_container_table(struct st_container *c, uint64_t n, size_t size, const char *what, struct st_error *err);

/* Arena copy of a tensor's name or a key as the file spells it. Refuses what reports could not print or
 * would confuse: empty, longer than `max`, with a NUL inside, or not UTF-8. `what`: "tensor name". */
ST_MUST_CHECK enum st_status st_container_name(struct st_container *c, const char *s, uint64_t n, uint64_t max,
                                               uint64_t offset, const char *what, const char **out,
                                               struct st_error *err);

/* The file's name without folders and without `suffix` (".npy"), for formats in which the one tensor of a file
 * has no name; "array" where that is not UTF-8. */
ST_MUST_CHECK enum st_status st_container_name_of_file(struct st_container *c, const char *path, const char *suffix,
                                                       const char **out, struct st_error *err);

/* Fill n_elems, n_bytes, row_bytes and layout ROWS of a tensor whose dtype, ndim and shape are set, and
 * check that [offset, offset + n_bytes) lies in map t->file; sets data. Messages name the tensor. */
ST_MUST_CHECK enum st_status st_container_place(const struct st_container *c, struct st_tensor *t, uint64_t offset,
                                                struct st_error *err);

/* GGUF keys. Getters return false when the key is absent; a key of the wrong type is an
 * error that names it (so that a default never hides a damaged file). */
/* Sort c->kv by key into kv_by_key (in the arena) and refuse duplicates. */
ST_MUST_CHECK enum st_status st_kv_index(struct st_container *c, struct st_arena *arena, struct st_error *err);
/* Bytes of the value at kv->data; the value has been checked or was made by Stele. */
uint64_t st_kv_bytes(const struct st_kv *kv);
const char *st_kv_type_name(enum st_kv_type t); /* "u32", "string", ... */
/* Bytes of one value of a plain type; 0 for strings and arrays. */
uint32_t st_kv_size(enum st_kv_type t);
const struct st_kv *st_kv_find(const struct st_container *c, const char *key);
ST_MUST_CHECK enum st_status st_kv_u64(const struct st_container *c, const char *key, uint64_t *out, bool *found,
                                       struct st_error *err);
ST_MUST_CHECK enum st_status st_kv_f64(const struct st_container *c, const char *key, double *out, bool *found,
                                       struct st_error *err);
ST_MUST_CHECK enum st_status st_kv_bool(const struct st_container *c, const char *key, bool *out, bool *found,
                                        struct st_error *err);
/* Not terminated: *len bytes in the map. */
ST_MUST_CHECK enum st_status st_kv_str(const struct st_container *c, const char *key, const char **s, size_t *len,
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

/* Readers, one file each. */
enum st_status st_gguf_open(struct st_container *c, const char *path, struct st_error *err);
enum st_status st_safetensors_open(struct st_container *c, const char *path,
                                   struct st_error *err); /* file, index or folder */
enum st_status st_apr_open(struct st_container *c, const char *path, struct st_error *err);
enum st_status st_npy_open(struct st_container *c, const char *path, struct st_error *err);
enum st_status st_npz_open(struct st_container *c, const char *path, struct st_error *err);
enum st_status st_torch_open(struct st_container *c, const char *path, struct st_error *err);
enum st_status st_aprt_open(struct st_container *c, const char *path,
                            struct st_error *err); /* one stage file or a tree */

#endif
