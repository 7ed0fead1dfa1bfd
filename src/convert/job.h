/*
 * job.h - what a conversion goes from and to, and the list of jobs in between: one for each tensor of the output.
 *
 * types.c says in which type a tensor is stored, rows.c from which stored rows it comes, stream.c makes its bytes.
 */
#ifndef ST_CONVERT_JOB_H
#define ST_CONVERT_JOB_H

#include "arch/arch.h"
#include "base/error.h"
#include "base/mem.h"
#include "base/pool.h"
#include "dtype/geometry.h"
#include "format/writer.h"

/* ---- from, to ---- */

struct st_input {
	const char *path;
	struct st_model *model;
	struct st_model *other; /* the second input of a report, or NULL */
	enum st_format format;
};

struct st_target {
	const char *path;
	enum st_format format;
	bool folder; /* a Hugging Face folder */
	bool bare;   /* a safetensors file alone */
	const struct st_arch *arch;
	const char *family;    /* as GGUF calls it */
	struct st_config cfg;  /* what the output says */
	const char *edited[8]; /* keys of cfg that a repair has changed */
	size_t n_edited;
	bool has_type;                  /* matrices are stored as `type`, or as the recipe says */
	enum st_dtype type;             /* of a recipe: its base */
	const struct st_recipe *recipe; /* or NULL */
};

/* ---- jobs ---- */

enum st_job_kind {
	ST_JOB_COPY,      /* stored bytes, row by row */
	ST_JOB_ENCODE,    /* numbers, row by row, stored as spec.dtype */
	ST_JOB_TRANSPOSE, /* numbers of `from`, element (r, c) of which lies at flat place c * rows + r */
	ST_JOB_VALUES,    /* numbers made here */
	ST_JOB_GATHER,    /* rows of several weights (described.c) */
};

/* A row of a weight, in the basis of the graph. */
struct st_job_row {
	const struct st_weight *w;
	uint64_t row;
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
	bool is_matrix;                 /* of a family that is not known: a matrix by its name */
	uint32_t layer;
	/* Repairs: */
	double gain, offset;      /* stored number = gain * source + offset; for blocks the gain is on their scales */
	enum st_code_order order; /* order of 4-bit codes in a block of a COPY */
	struct st_weight from;    /* TRANSPOSE */
	const float *values;      /* VALUES */
	/* GATHER: what each output row is; turned: each output column, of a matrix that lies transposed. raw: stored bytes are
	 * taken as they are. less_one, logarithm: what is stored (st_stored_form). */
	const struct st_job_row *rows;
	uint64_t n_rows;
	bool turned, less_one, logarithm, raw;
	const float *importance;       /* ENCODE: of each column, or NULL */
	const char *repaired;          /* cause code, or NULL */
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

/* Does --type speak of it? */
static inline bool st_job_is_matrix(const struct st_job *j)
{
	return j->is_matrix || (j->spec.ndim == 2 && j->role != ST_ROLE_COUNT);
}

struct st_plan {
	struct st_job *jobs;
	size_t n, cap;
};

static inline enum st_status st_no_memory(struct st_error *err) { return st_fail(err, ST_ERR_NOMEM, "out of memory"); }

/* jobs.c: one more job, with a gain of 1 and nothing else; *out until the next one. */
ST_MUST_CHECK enum st_status st_add_job(struct st_plan *plan, struct st_job **out, struct st_error *err);
/* APR lists tensors by name. */
void st_sort_jobs(struct st_plan *plan, enum st_format to);

/* ---- types.c ---- */

bool st_format_has(enum st_format f, enum st_dtype t);
/* Have its blocks a scale that can be multiplied in place of the numbers? */
bool st_type_has_scales(enum st_dtype t);
/* The type that is asked for: that of the tensor's source where nothing is. */
enum st_dtype st_wanted_type(const struct st_target *to, const struct st_job *j, enum st_dtype stored);
/* Type and kind of a job whose sources and rows are set: `want` where it can be had. */
ST_MUST_CHECK enum st_status st_job_settle(const struct st_target *to, struct st_job *j, enum st_dtype want,
                                           struct st_error *err);
/* general.file_type of GGUF; false where there is no number for it. */
bool st_file_type(const struct st_target *to, const struct st_plan *plan, uint32_t *out);

/* ---- recipes.c: llama.cpp's mixed recipes ---- */

struct st_recipe;
const struct st_recipe *st_recipe_find(const char *name);
/* Name of the i-th, or NULL behind the last. */
const char *st_recipe_at(size_t i);
enum st_dtype st_recipe_base(const struct st_recipe *r);
uint32_t st_recipe_file_type(const struct st_recipe *r);
/* The type of a matrix, whose role, layer and shape the job has. */
enum st_dtype st_recipe_type(const struct st_recipe *r, const struct st_config *cfg, const struct st_job *j);

/* ---- rows.c ---- */

/* Has the output adjacent RoPE pairs in the rows of this role? */
bool st_output_interleaved(const struct st_target *to, enum st_role role);
/* Set j->map so that output rows, in the basis of the output, are the rows `graph[r]` (r when NULL) of the weights w[0],
 * w[1] in the graph's. */
ST_MUST_CHECK enum st_status st_job_map(const struct st_target *to, struct st_arena *arena, struct st_job *j,
                                        const struct st_weight *const w[2], const uint64_t *graph,
                                        struct st_error *err);

/* ---- stream.c ---- */

/* Can its rows be had one by one? Then one of them, in any thread: */
bool st_job_by_rows(const struct st_job *j);
void st_job_row(const struct st_job *j, uint64_t row, float *dst);
/* What files hold of a number: itself, the number less one, or the logarithm of what is taken away. */
float st_stored_form(bool less_one, bool logarithm, float x);
/* Numbers of output rows [row0, row0 + n) to dst. */
ST_MUST_CHECK enum st_status st_job_floats(const struct st_job *j, uint64_t row0, uint64_t n, float *dst,
                                           struct st_pool *pool, struct st_error *err);
/* Rows that are handled at once. */
uint64_t st_job_step(const struct st_job *j);
/* COPY: bytes of a row of the output; of a vector with a map all of it. */
void st_job_row_bytes(const struct st_job *j, uint64_t row, uint8_t *dst);
ST_MUST_CHECK enum st_status st_job_write(const struct st_job *j, struct st_writer *w, struct st_pool *pool,
                                          struct st_error *err);

#endif
