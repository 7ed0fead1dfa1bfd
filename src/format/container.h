/*
 * container.h - the inside of st_container, for the readers in this room and for the
 * rooms that interpret metadata (token, arch).
 *
 * A reader is one file with one function of type st_open_fn and a row in open.c's table. It fills the struct below;
 * everything it allocates comes from the arena, and everything it points at lies in the maps or in the arena.
 */
#ifndef ST_FORMAT_CONTAINER_H
#define ST_FORMAT_CONTAINER_H

#include <stele/container.h>
#include <stele/pool.h>

#include "base/files.h"
#include "base/map.h"
#include "base/mem.h"
#include "format/keys.h"
#include "json/json.h"

#include <jansson.h>

/* Which convention an APR file follows (docs/format-apr.md). */
enum st_apr_writer { ST_APR_WRITER_A, ST_APR_WRITER_B };

/* Documents beside the tensors; NULL where there is none. Owned, decref'ed at close. */
struct st_documents {
	json_t *metadata; /* APR metadata; safetensors __metadata__ (all strings); trace.json of a tree */
	json_t *config;   /* config.json of a Hugging Face folder (or beside a .safetensors file) */
	json_t *generation_config;
	json_t *tokenizer;        /* tokenizer.json */
	json_t *tokenizer_config; /* tokenizer_config.json */
};

struct st_container {
	enum st_format format;
	uint32_t version;   /* GGUF, APR: version of the format */
	uint64_t alignment; /* GGUF, APR: of tensors in the file */
	char *path;         /* as given by the caller */
	char *describe;
	struct st_arena arena;

	struct st_map *maps; /* n_maps files, in the arena; closed by st_container_close */
	size_t n_maps;

	struct st_tensor *tensors; /* each made by st_tensor_place() */
	size_t n_tensors;
	const struct st_tensor **by_name; /* sorted by strcmp; st_container_index() makes it */

	struct st_kv_table keys; /* GGUF */
	struct st_documents docs;
	struct {
		enum st_apr_writer writer;
		bool dims_reversed; /* labels are [in, out]; shape[] already has them turned round */
	} apr;

	struct st_pool *pool; /* threads of the run, while the container is opened */
};

typedef enum st_status (*st_open_fn)(struct st_container *c, const char *path, struct st_error *err);

/* Its files among what a run reads; c may be NULL. */
static inline enum st_status st_container_inputs(const struct st_container *c, struct st_inputs *in,
                                                 struct st_error *err)
{
	enum st_status st = ST_OK;
	for (size_t i = 0; c && st == ST_OK && i < st_container_n_files(c); i++)
		st = st_inputs_add(in, st_container_file_path(c, i), err);
	return st;
}

/* As st_container_open(), with the threads of a run. st_container_open() works in the calling thread alone. */
ST_MUST_CHECK enum st_status st_container_open_by(const char *path, struct st_pool *pool, struct st_container **out,
                                                  struct st_error *err);

/* Sort tensors by name and refuse duplicates. st_container_open does, for readers that need no look-up before. */
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

/* Whether it has the mark of a trace that Stele, or a tap, wrote. */
bool st_container_is_bundle(const struct st_container *c);

/* Readers, one file each. */
enum st_status st_gguf_open(struct st_container *c, const char *path, struct st_error *err);
/* What Hugging Face and torch keep a model in: a safetensors file, a torch checkpoint, a shard index, a folder. */
enum st_status st_checkpoint_open(struct st_container *c, const char *path, struct st_error *err);
enum st_status st_apr_open(struct st_container *c, const char *path, struct st_error *err);
enum st_status st_npy_open(struct st_container *c, const char *path, struct st_error *err);
enum st_status st_npz_open(struct st_container *c, const char *path, struct st_error *err);
/* Files, tensors, format and description of c, from the shards of one checkpoint. */
enum st_status st_torch_shards(struct st_container *c, const char *const *paths, size_t n, struct st_error *err);
enum st_status st_aprt_open(struct st_container *c, const char *path,
                            struct st_error *err); /* one stage file or a tree */

#endif
