/*
 * stele/container.h - any file that holds tensors, behind one interface.
 *
 * A container is one or more mapped files: GGUF (and its splits), safetensors (file,
 * shard index, Hugging Face folder), APR, npy/npz, torch zip checkpoints, APRT stages
 * and trees. Opening checks every count, size and offset against the bytes that are
 * there; after a successful open every tensor view is readable.
 */
#ifndef STELE_CONTAINER_H
#define STELE_CONTAINER_H

#include <stele/dtype.h>

struct st_container;

enum st_format {
	ST_FORMAT_GGUF,
	ST_FORMAT_SAFETENSORS,
	ST_FORMAT_APR,
	ST_FORMAT_NPY,
	ST_FORMAT_NPZ,
	ST_FORMAT_TORCH,
	ST_FORMAT_APRT,
	ST_FORMAT_COUNT
};

/* "GGUF", "safetensors", "APR", ... */
const char *st_format_name(enum st_format f);

/* Recognises by content, never by suffix; a suffix that promises another format than the content
 * (.gguf, .safetensors, .apr, .npy, .npz) is refused. A folder is a Hugging Face model folder
 * or an APRT tree. The caller closes with st_container_close (NULL is fine). */
ST_MUST_CHECK enum st_status st_container_open(const char *path, struct st_container **out, struct st_error *err);
void st_container_close(struct st_container *c);

enum st_format st_container_format(const struct st_container *c);
/* "GGUF v3", "APR v2 (writer A)", "safetensors, 2 shards": for people. */
const char *st_container_describe(const struct st_container *c);
const char *st_container_path(const struct st_container *c);
/* Files mapped by this container; for shards more than one. */
size_t st_container_n_files(const struct st_container *c);
const char *st_container_file_path(const struct st_container *c, size_t i);
uint64_t st_container_file_size(const struct st_container *c, size_t i);

size_t st_container_n_tensors(const struct st_container *c);
/* In file order. Owned by the container. */
const struct st_tensor *st_container_tensor(const struct st_container *c, size_t i);
/* Exact name, or NULL. */
const struct st_tensor *st_container_find(const struct st_container *c, const char *name);

/* Lower-case hex SHA-256 of all files of the container: of the file's bytes when it is one,
 * else of the concatenated per-file digests (32 bytes each, in file order). */
ST_MUST_CHECK enum st_status st_container_sha256(const struct st_container *c, char hex[65], struct st_error *err);

#endif
