/*
 * convert.h - the inside of a conversion.
 *
 * A conversion is a list of jobs, one for each tensor of the output, made before a byte is written
 * (jobs.c), perhaps edited by a repair (repair.c), then streamed (stream.c), and asked again when the
 * result is read back (check.c). Around it: the configuration (config.c) and the vocabulary (vocab*.c)
 * in each container's spelling.
 */
#ifndef ST_CONVERT_CONVERT_H
#define ST_CONVERT_CONVERT_H

#include <stele/convert.h>

#include "arch/arch.h"
#include "base/error.h"
#include "base/mem.h"
#include "base/pool.h"
#include "dtype/geometry.h"
#include "format/writer.h"
#include "graph/basis.h"
#include "token/tokenizer.h"

/* ---- jobs ---- */

enum st_job_kind {
	ST_JOB_COPY,      /* stored bytes, row by row */
	ST_JOB_ENCODE,    /* numbers, row by row, stored as spec.dtype */
	ST_JOB_TRANSPOSE, /* numbers of `from`, element (r, c) of which lies at flat place c * rows + r */
	ST_JOB_VALUES,    /* numbers made here */
};

/* One tensor of the output. Rows are those of spec.shape; the elements of a vector count as its rows
 * where `map` is concerned. */
struct st_job {
	struct st_tensor_spec spec;
	enum st_job_kind kind;
	const struct st_tensor *src[2]; /* [1]: rows behind those of [0], or NULL */
	const uint64_t *map;            /* output row -> stored row of src; NULL: the same. TRANSPOSE: row of the
	                                 * graph's basis -> output row */
	enum st_role role;              /* ST_ROLE_COUNT: a tensor that no weight is */
	uint32_t layer;
	/* Repairs: */
	double gain, offset;      /* stored number = gain * source + offset; for blocks the gain is on their scales */
	enum st_code_order order; /* order of 4-bit codes in a block of a COPY */
	struct st_weight from;    /* TRANSPOSE */
	const float *values;      /* VALUES */
	const char *repaired;     /* cause code, or NULL */
	const struct st_weight *sound; /* the other file's weight, which a repaired one must equal; or NULL */
};

static inline uint64_t st_spec_cols(const struct st_tensor_spec *s) { return s->ndim ? s->shape[s->ndim - 1] : 1; }
static inline uint64_t st_spec_rows(const struct st_tensor_spec *s)
{
	uint64_t n = 1;
	for (uint32_t i = 0; i + 1 < s->ndim; i++)
		n *= s->shape[i];
	return n;
}

/* ---- vocabulary ---- */

/* What every container can say of a tokenizer, in the reader's own normal form. */
struct st_vocabulary {
	struct st_tokenizer *t; /* of the source; NULL: the model has none */
	uint32_t n;             /* pieces to write: at least the configuration's vocabulary */
	const char *pre;        /* byte-level: the name of its word splitting */
	uint32_t (*merges)[2];  /* left and right id, strongest first */
	uint32_t n_merges;
	float *scores; /* NULL for byte-level */
	bool add_bos, add_eos, space_prefix, squeeze, mark_unknown;
	const char *charsmap; /* SentencePiece's map of characters, or NULL */
	size_t charsmap_len;
	int64_t pad;
	const char *chat_template; /* or NULL */
	size_t chat_template_len;
};

/* A piece as it is written. */
struct st_piece_view {
	const char *s;
	size_t len;
	uint8_t type;
	char made[24];
};

/* ---- one conversion ---- */

struct st_text_list {
	const char **v;
	size_t n, cap;
};

struct st_conversion {
	const struct st_convert_options *o;
	const char *in_path, *out_path;
	struct st_arena arena;       /* everything below that is a pointer, the lines of the result too */
	struct st_pool *pool;        /* while st_convert works */
	struct st_model *in, *other; /* other: the second input of a report, or NULL */
	enum st_format from, to;
	bool folder; /* the output is a Hugging Face folder */
	bool bare;   /* the output is a safetensors file alone */
	const struct st_arch *arch;
	struct st_config cfg;  /* what the output says */
	const char *edited[8]; /* keys of cfg that a repair has changed */
	size_t n_edited;
	bool has_type;
	enum st_dtype type;
	struct st_vocabulary vocab;
	struct st_job *jobs;
	size_t n_jobs, jobs_cap;
	struct st_text_list notes, left, repairs;
};

/* Append a line. Out of memory is found when the result is made. */
void st_note(struct st_conversion *v, const char *fmt, ...) ST_PRINTF(2, 3);
void st_list_add(struct st_text_list *l, const char *text);

static inline enum st_status st_no_memory(struct st_error *err) { return st_fail(err, ST_ERR_NOMEM, "out of memory"); }

/* jobs.c */
bool st_format_has(enum st_format f, enum st_dtype t);
ST_MUST_CHECK enum st_status st_plan_jobs(struct st_conversion *v, struct st_error *err);
/* APR lists tensors by name. */
void st_sort_jobs(struct st_conversion *v);
/* Type and kind of a job whose sources and rows are set: `want` where it can be had. */
ST_MUST_CHECK enum st_status st_job_settle(struct st_conversion *v, struct st_job *j, enum st_dtype want,
                                           struct st_error *err);
/* Set j->map so that output rows, in the basis of the output, are the rows `graph[r]` (r when NULL) of the
 * weights w[0], w[1] in the graph's. */
ST_MUST_CHECK enum st_status st_job_map(struct st_conversion *v, struct st_job *j, const struct st_weight *const w[2],
                                        const uint64_t *graph, struct st_error *err);
bool st_output_interleaved(const struct st_conversion *v, enum st_role role);
ST_MUST_CHECK enum st_status st_add_job(struct st_conversion *v, struct st_job **out, struct st_error *err);

/* stream.c */
/* Can its rows be had one by one? Then one of them, in any thread: */
bool st_job_by_rows(const struct st_job *j);
void st_job_row(const struct st_job *j, uint64_t row, float *dst);
/* Numbers of output rows [row0, row0 + n) to dst. */
ST_MUST_CHECK enum st_status st_job_floats(const struct st_job *j, uint64_t row0, uint64_t n, float *dst,
                                           struct st_pool *pool, struct st_error *err);
/* Can its numbers be scaled, or its codes be put in another order, block by block? */
bool st_type_has_scales(enum st_dtype t);
/* Rows that are handled at once. */
uint64_t st_job_step(const struct st_job *j);
/* COPY: bytes of a row of the output; of a vector with a map all of it. */
void st_job_row_bytes(const struct st_job *j, uint64_t row, uint8_t *dst);
ST_MUST_CHECK enum st_status st_job_write(struct st_conversion *v, const struct st_job *j, struct st_writer *w,
                                          struct st_error *err);

/* config.c */
/* rope_freqs.weight for llama3's scaling: head_dim / 2 divisors. */
void st_config_rope_divisors(const struct st_config *cfg, float *by);
/* Set a key of st_compare_configs from its text; false when the key is none that can be set. */
bool st_config_set(struct st_config *cfg, const char *key, const char *text);
/* Has a repair changed a key of this beginning? */
bool st_config_edited(const struct st_conversion *v, const char *prefix);
/* Is this how a container (GGUF: behind the family's prefix) spells a number of the configuration? */
bool st_config_has_key(enum st_format f, const char *key);

/* GGUF keys of the output. */
struct st_keys {
	struct st_kv *v;
	size_t n, cap;
	struct st_arena *arena;
	bool failed;
};
void st_key_value(struct st_keys *k, const char *key, enum st_kv_type type, const void *value, size_t size);
void st_key_u32(struct st_keys *k, const char *key, uint32_t v);
void st_key_bool(struct st_keys *k, const char *key, bool v);
void st_key_text(struct st_keys *k, const char *key, const char *s, size_t n);
ST_MUST_CHECK enum st_status st_config_keys(struct st_conversion *v, struct st_keys *k, struct st_error *err);
/* config.json; a new reference. */
ST_MUST_CHECK enum st_status st_config_hf_document(struct st_conversion *v, json_t **out, struct st_error *err);
/* The metadata of an APR file; a new reference. */
ST_MUST_CHECK enum st_status st_config_apr_document(struct st_conversion *v, json_t **out, struct st_error *err);

/* vocab.c */
ST_MUST_CHECK enum st_status st_vocabulary_read(struct st_conversion *v, struct st_error *err);
/* The piece of an id as it is written; ids without one get a placeholder. The view may point into *p. */
void st_vocabulary_piece(const struct st_vocabulary *v, uint32_t id, struct st_piece_view *p);
/* vocab_gguf.c, vocab_apr.c, vocab_hf.c */
ST_MUST_CHECK enum st_status st_vocabulary_keys(struct st_conversion *v, struct st_keys *k, struct st_error *err);
ST_MUST_CHECK enum st_status st_vocabulary_apr(struct st_conversion *v, json_t *meta, struct st_error *err);
ST_MUST_CHECK enum st_status st_vocabulary_hf(struct st_conversion *v, json_t **tokenizer, json_t **config,
                                              struct st_error *err);

/* folder.c: the documents of a Hugging Face folder */
/* Does a document go from folder to folder; is it a spelling of the vocabulary? */
bool st_folder_keeps(const char *name);
bool st_folder_is_vocabulary(const char *name);
/* A text beside the weights, in v->arena; NULL where there is no such file. */
ST_MUST_CHECK enum st_status st_folder_text(struct st_conversion *v, const char *name, const char **text, size_t *len,
                                            struct st_error *err);
ST_MUST_CHECK enum st_status st_folder_documents(struct st_conversion *v, const char *dir, struct st_error *err);

/* left.c: fill v->left. */
void st_list_left_out(struct st_conversion *v);

/* check.c: what lies at `path` is what the jobs say, read with the ordinary reader. */
ST_MUST_CHECK enum st_status st_check_result(struct st_conversion *v, const char *path, struct st_error *err);

/* repair.c */
/* Read the report and find out which input it is; change v->cfg, open v->other. Before st_plan_jobs. */
struct st_repair;
ST_MUST_CHECK enum st_status st_repair_open(struct st_conversion *v, struct st_repair **out, struct st_error *err);
/* Change the jobs of the tensors at fault. */
ST_MUST_CHECK enum st_status st_repair_apply(struct st_repair *r, struct st_conversion *v, struct st_error *err);
void st_repair_close(struct st_repair *r);

#endif
