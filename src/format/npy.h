/* npy.h - one numpy array: a file of its own, or a member of an npz. */
#ifndef ST_FORMAT_NPY_H
#define ST_FORMAT_NPY_H

#include "format/container.h"

struct st_npy_header {
	char kind; /* 'f', 'i', 'u', 'b' are read; 'O', 'U', 'S', 'V', 'c', 'M', 'm' are known; 'r': a record */
	enum st_dtype dtype; /* of the kinds that are read */
	bool big_endian;
	bool fortran; /* first dimension fastest */
	uint32_t ndim;
	uint64_t shape[ST_MAX_DIMS];
	uint64_t data; /* offset of the elements from the first byte of the array */
};

/* The bytes of one array, and what messages call them. */
struct st_npy_bytes {
	const uint8_t *p;
	uint64_t n;
	uint64_t origin;  /* file offset of p */
	const char *what; /* "npy array", or the member's name */
};

/* A folder of arrays, a file each: NAME.npy, layer-N/NAME.npy (layers.N.NAME). */
bool st_npy_is_folder(const char *path);
enum st_status st_npy_folder_open(struct st_container *c, const char *path, struct st_error *err);

/* Read the header. */
ST_MUST_CHECK enum st_status st_npy_parse(const struct st_npy_bytes *b, struct st_npy_header *h, struct st_error *err);

/* Fill t (all but name and file) from a parsed header; the elements must end exactly at b->p + b->n.
 * Kinds that are not numbers are refused by name. Big-endian elements are turned round into
 * memory of the arena, all others are a view. */
ST_MUST_CHECK enum st_status st_npy_tensor(const struct st_npy_bytes *b, const struct st_npy_header *h,
                                           struct st_arena *arena, struct st_tensor *t, struct st_error *err);

#endif
