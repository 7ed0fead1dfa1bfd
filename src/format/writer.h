/*
 * writer.h - writing tensors to GGUF v3, safetensors or APR v2 (writer A), streamed.
 *
 * The plan names every tensor before the first byte is written, so headers and offsets
 * are final from the start and memory does not depend on the model's size.
 */
#ifndef ST_FORMAT_WRITER_H
#define ST_FORMAT_WRITER_H

#include "format/container.h"

struct st_tensor_spec {
	const char *name;
	enum st_dtype dtype;
	uint32_t ndim;
	uint64_t shape[ST_MAX_DIMS]; /* [out, in] */
};

struct st_write_plan {
	enum st_format format;              /* GGUF, SAFETENSORS or APR */
	const struct st_tensor_spec *specs; /* APR: sorted bytewise by name, or it is refused */
	size_t n_specs;
	const struct st_kv *kv; /* GGUF: written in this order, data as in the format */
	size_t n_kv;
	uint64_t alignment;     /* GGUF: 32 unless general.alignment says otherwise */
	const json_t *metadata; /* safetensors: map of strings, or NULL; APR: the metadata object */
	bool pad_header;        /* safetensors: pad the header with spaces to 8 bytes */
};

struct st_writer;

ST_MUST_CHECK enum st_status st_writer_open(const char *path, const struct st_write_plan *plan, struct st_writer **out,
                                            struct st_error *err);
/* The bytes of tensor specs[0], then specs[1], ... in pieces of any size that do not cross
 * tensors; the writer pads between them. */
ST_MUST_CHECK enum st_status st_writer_append(struct st_writer *w, const void *p, size_t n, struct st_error *err);
/* Instead: bytes of tensor specs[i] from `byte` on, in any order. Nothing may be appended to such a file, it has no
 * footer, and what is never put reads as zeros. */
ST_MUST_CHECK enum st_status st_writer_put(struct st_writer *w, size_t i, uint64_t byte, const void *p, size_t n,
                                           struct st_error *err);
/* All bytes written: complete the file and return a path under which it can be read back. */
ST_MUST_CHECK enum st_status st_writer_finish(struct st_writer *w, const char **readable, struct st_error *err);
/* Give the file its name (after finish). Frees w; on failure nothing is left behind. */
ST_MUST_CHECK enum st_status st_writer_commit(struct st_writer *w, struct st_error *err);
void st_writer_abort(struct st_writer *w);
/* How writing ends: finish and commit where all went well so far, abort where it did not; says what came of it. */
ST_MUST_CHECK enum st_status st_writer_close(struct st_writer *w, enum st_status so_far, struct st_error *err);

/*
 * What a format's layout function works out from a plan: everything before the tensor
 * bytes, where each tensor goes, and how the file ends. writer.c does the streaming.
 */
struct st_write_layout {
	uint8_t *header; /* written first; in the arena */
	uint64_t header_size;
	uint64_t *offsets; /* absolute offset of each tensor, ascending; gaps are zeros */
	uint64_t end;      /* size of the file without the footer; zeros up to it */
	bool crc_footer;   /* APR: a u32 CRC-32 of all bytes before it follows */
};
enum st_status st_gguf_layout(const struct st_write_plan *plan, struct st_arena *arena, struct st_write_layout *out,
                              struct st_error *err);
enum st_status st_safetensors_layout(const struct st_write_plan *plan, struct st_arena *arena,
                                     struct st_write_layout *out, struct st_error *err);
enum st_status st_apr_layout(const struct st_write_plan *plan, struct st_arena *arena, struct st_write_layout *out,
                             struct st_error *err);

/* Stored size of a tensor of this type and shape, rows padded to no block; false when a row is
 * no multiple of the block or on overflow. */
bool st_stored_bytes(enum st_dtype t, uint32_t ndim, const uint64_t *shape, uint64_t *out);

/* dtype <-> the number or name a format gives it; -1 / NULL where the format has none. */
int st_gguf_type_of(enum st_dtype t);
bool st_gguf_type_to(uint32_t type, enum st_dtype *out);
const char *st_safetensors_name_of(enum st_dtype t);

#endif
