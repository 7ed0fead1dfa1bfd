/*
 * synth.h - between the files of this room: a model about to be written.
 *
 * st_synth_write() makes a configuration and a vocabulary, lists the tensors of the file, lets a fault edit
 * that list, and then streams the numbers. Everything before the streaming is small and lies in one arena.
 */
#ifndef ST_SYNTH_SYNTH_H
#define ST_SYNTH_SYNTH_H

#include <stele/synth.h>

#include "arch/arch.h"
#include "base/error.h"
#include "base/mem.h"
#include "base/pool.h"
#include "format/writer.h"
#include "synth/page.h"
#include "token/synth_vocab.h"

struct st_synth;
struct st_synth_tensor;

/* One row of a tensor, in the order of its source: cols floats. */
typedef void (*st_synth_row_fn)(const struct st_synth *s, const struct st_synth_tensor *t, uint64_t row, float *dst);

/*
 * A tensor of the file. Row r of the file is row order(r) of what `row` gives, changed by `edit`, encoded as `dtype` by
 * `encode`, its bytes changed by `mangle`. A sound tensor has row = st_synth_row and none of the rest. A vector is one
 * row.
 */
struct st_synth_tensor {
	const char *name;   /* in the file */
	char canonical[96]; /* Hugging Face name: what the numbers depend on, and what people are told */
	enum st_role role;
	uint32_t layer;
	uint32_t ndim;
	uint64_t rows, cols;
	enum st_dtype dtype, label; /* of the bytes, and what the header says */
	bool fallback;              /* not the type that was asked for: the rows do not divide */
	uint32_t pairs;    /* > 0: rows (elements of a vector) go to adjacent rotary pairs, for so many heads */
	enum st_role from; /* whose numbers it holds: its own unless a fault says otherwise */
	uint32_t from_layer;
	st_synth_row_fn row;
	void (*edit)(const struct st_synth *s, const struct st_synth_tensor *t, uint64_t row, float *x);
	void (*encode)(const float *x, void *dst, size_t n); /* NULL: the type's own (st_synth_encoder) */
	void (*mangle)(const struct st_synth_tensor *t, uint64_t row, uint8_t *bytes);
	bool missing;
	const float *image;                /* of a page's model: all numbers, as the file has them */
	const struct st_synth_image *made; /* how it lies there, and what files label it with */
	uint64_t stack;                    /* matrices in it, one behind the other; 0: it is none */
	bool plain;                        /* no matrix: stored in plain numbers */
};

/* Where and how: what the suffix of a path, or --format, chooses. */
enum st_synth_target { ST_SYNTH_GGUF, ST_SYNTH_APR, ST_SYNTH_SAFETENSORS, ST_SYNTH_HF };

/* How a family's text is cut into words (tokenizer.ggml.pre) and whether BOS goes in front. */
struct st_synth_words {
	const char *pre, *pattern; /* `pattern`: of a Split in tokenizer.json */
	bool nfc, ignore_merges, adds_bos;
};

struct st_synth {
	struct st_arena arena;
	struct st_config cfg;       /* as written: a fault may have edited it */
	struct st_synth_page *page; /* a model by its family's page; NULL: one of those that this room knows itself */
	char title[64];             /* general.name and the like */
	struct st_synth_vocab vocab;
	struct st_synth_words words;
	enum st_synth_target target;
	enum st_dtype type;
	bool mixed; /* Q4_K_M */
	uint64_t seed;
	struct st_synth_tensor *tensors;
	size_t n_tensors;
	char planted[256];
};

/* config.c */
ST_MUST_CHECK enum st_status st_synth_configure(struct st_synth *s, const struct st_synth_options *o,
                                                struct st_error *err);

/* The tensors of a page's model and their numbers. */
ST_MUST_CHECK enum st_status st_synth_lay_out(struct st_synth *s, enum st_format to, struct st_error *err);

/* tensors.c: the tensors that the family, the container and the type ask for. */
ST_MUST_CHECK enum st_status st_synth_list(struct st_synth *s, struct st_error *err);
/* The encoder of a type in this room; dtype's own but for Q4_K and Q6_K. */
void (*st_synth_encoder(enum st_dtype t))(const float *, void *, size_t);
/* Whether the container has a name for the type. */
bool st_synth_has_type(enum st_synth_target target, enum st_dtype t);

/* values.c: what a fault touched goes to its name, "CODE in A, B". */
void st_synth_touched(struct st_synth *s, const char *what);
/* The tensor of a place, NULL when the file has none. */
struct st_synth_tensor *st_synth_find(struct st_synth *s, enum st_role role, uint32_t layer);
/* Row `row` of the sound tensor (role, layer), and one of its elements. */
void st_synth_numbers(const struct st_synth *s, enum st_role role, uint32_t layer, uint64_t row, float *dst);
float st_synth_number(const struct st_synth *s, enum st_role role, uint32_t layer, uint64_t row, uint64_t col);
/* The row of t's source: st_synth_numbers(s, t->from, t->from_layer, ...). */
void st_synth_row(const struct st_synth *s, const struct st_synth_tensor *t, uint64_t row, float *dst);

/* plants.c: edit the list as `plant` ("CODE[/WHICH][:LAYER]") says. */
ST_MUST_CHECK enum st_status st_synth_plant(struct st_synth *s, const char *plant, struct st_error *err);

/* shared.c: faults of what a page puts together. NULL, or why this model has no place for it; the numbers are changed only where
 * `apply` says so. */
typedef const char *(*st_synth_mislay_fn)(struct st_synth *s, uint32_t layer, bool apply);
const char *st_synth_mislay_order(struct st_synth *s, uint32_t layer, bool apply);
const char *st_synth_mislay_parts(struct st_synth *s, uint32_t layer, bool apply);
const char *st_synth_mislay_latent(struct st_synth *s, uint32_t layer, bool apply);
const char *st_synth_mislay_groups(struct st_synth *s, uint32_t layer, bool apply);
const char *st_synth_mislay_gate_up(struct st_synth *s, uint32_t layer, bool apply);
const char *st_synth_mislay_experts(struct st_synth *s, uint32_t layer, bool apply);
const char *st_synth_mislay_shared(struct st_synth *s, uint32_t layer, bool apply);
const char *st_synth_mislay_router_bias(struct st_synth *s, uint32_t layer, bool apply);
const char *st_synth_mislay_bases(struct st_synth *s, uint32_t layer, bool apply);
const char *st_synth_mislay_factors(struct st_synth *s, uint32_t layer, bool apply);

/* stream.c: all bytes of tensors[0..n), in order. *done and total are for progress. */
ST_MUST_CHECK enum st_status st_synth_stream(const struct st_synth *s, struct st_synth_tensor *const *tensors, size_t n,
                                             struct st_pool *pool, const struct st_hooks *hooks, uint64_t *done,
                                             uint64_t total, struct st_writer *w, struct st_error *err);

/* What each container says beside the tensors. gguf.c: keys, in the arena. apr.c, hf.c: new references, NULL when
 * there is no memory. */
ST_MUST_CHECK enum st_status st_synth_gguf_keys(struct st_synth *s, const struct st_kv **kv, size_t *n,
                                                struct st_error *err);
json_t *st_synth_apr_metadata(const struct st_synth *s);
json_t *st_synth_hf_config(const struct st_synth *s);
json_t *st_synth_hf_generation_config(const struct st_synth *s);
json_t *st_synth_hf_tokenizer(const struct st_synth *s);
json_t *st_synth_hf_tokenizer_config(const struct st_synth *s);

#endif
