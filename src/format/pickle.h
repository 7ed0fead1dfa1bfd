/*
 * pickle.h - the pickles of torch checkpoints, read as data.
 *
 * A pickle is a program for a stack machine that may call any function of Python. This
 * machine knows only what torch.save writes for tensors and plain values: it can make
 * dictionaries, lists, tuples, numbers, strings, storages and tensor views, and refuses
 * everything else by name. Nothing is ever imported, called or executed.
 */
#ifndef ST_FORMAT_PICKLE_H
#define ST_FORMAT_PICKLE_H

#include "base/mem.h"

#include <stele/dtype.h>

enum st_pkl_kind {
	ST_PKL_NONE,
	ST_PKL_BOOL,
	ST_PKL_INT,
	ST_PKL_FLOAT,
	ST_PKL_STR,
	ST_PKL_OTHER, /* bytes and integers beyond 64 bits: allowed, of no use to tensors */
	ST_PKL_TUPLE,
	ST_PKL_LIST,
	ST_PKL_DICT,
	ST_PKL_GLOBAL, /* a name of the whitelist */
	ST_PKL_STORAGE,
	ST_PKL_TENSOR,
	ST_PKL_KIND_COUNT
};

struct st_pkl_storage {
	const char *key; /* name of the member that holds the bytes; not terminated */
	uint32_t key_len;
	bool typed; /* false: elements are bytes, the tensor says what they mean */
	enum st_dtype dtype;
	uint64_t n; /* elements, as declared */
};

/* Not yet checked against the storage's bytes, which only the caller sees. */
struct st_pkl_tensor {
	const struct st_pkl_storage *storage;
	enum st_dtype dtype;
	uint64_t first; /* element of the storage at which the view begins */
	uint32_t ndim;
	uint64_t shape[ST_MAX_DIMS], strides[ST_MAX_DIMS]; /* each <= INT64_MAX */
};

struct st_pkl {
	uint8_t kind; /* enum st_pkl_kind */
	uint32_t n;   /* bytes of a string; items of a tuple or list; keys and values of a dictionary together */
	uint32_t cap;
	union {
		int64_t i; /* INT, BOOL; GLOBAL: row of the whitelist */
		double f;
		const char *s;         /* UTF-8 in the pickle itself, not terminated */
		struct st_pkl **items; /* dictionary: key, value, key, value, ... */
		struct st_pkl_storage *storage;
		struct st_pkl_tensor *tensor;
	} v;
};

/* "dictionary", "tensor", ...: for messages. */
const char *st_pkl_kind_name(unsigned kind);

/*
 * Run the pickle of n bytes at p. *out and all it points at lie in the arena or at p, and may
 * share parts: a list can even hold itself, so a walk over it must bound its depth and its
 * length. At most max_ops instructions are run, which bounds memory to about 64 bytes each.
 * `origin` is the file offset of p.
 */
ST_MUST_CHECK enum st_status st_pickle_read(const uint8_t *p, uint64_t n, uint64_t origin, uint64_t max_ops,
                                            struct st_arena *arena, const struct st_pkl **out, struct st_error *err);

#endif
