/*
 * svf.h - the inside of this room: inputs, factors, the ten stages, files.
 *
 * W [rows, cols] = U [rows, k] diag(S [k]) V^T [k, cols], k = min(rows, cols). A tensor is worked on in blocks of rows;
 * nothing of its size is held except V and, where the result is turned over, that result.
 */
#ifndef ST_SVF_SVF_H
#define ST_SVF_SVF_H

#include <stele/svf.h>

#include "arch/arch.h"
#include "base/hash.h"
#include "format/writer.h"
#include "svf/gemm.h"

#include <jansson.h>
#include <stdio.h>

/* ---- names ---- */

enum st_svf_stage {
	ST_SVF_SOURCE,
	ST_SVF_OFFSETS,
	ST_SVF_SCALED_S,
	ST_SVF_NORMALIZATION,
	ST_SVF_U_SCALED,
	ST_SVF_MATMUL,
	ST_SVF_ZERO,
	ST_SVF_ADAPTED,
	ST_SVF_FINAL_F32,
	ST_SVF_FINAL_BF16,
	ST_SVF_STAGES
};
extern const char *const st_svf_stage_names[ST_SVF_STAGES];

#define ST_SVF_COMPONENTS "trinity_svf_components.safetensors"
#define ST_SVF_SCALES "trinity_svf_scale_offsets.safetensors"
#define ST_SVF_DEBUG_MANIFEST "trinity_svf_debug_manifest.json"
#define ST_SVF_STAGE_FILE "trinity_svf_stage_debug.safetensors"
#define ST_SVF_ALL_STAGE_FILE "trinity_svf_all_selected_stage_debug.safetensors"
#define ST_SVF_VECTOR_KEY "trinity_router_es_vector"
#define ST_SVF_HEAD_KEY "trinity_router_head"
#define ST_SVF_AGENTS 7
#define ST_SVF_ROLES 3

const char *st_svf_layout_name(enum st_svf_layout l); /* "torch_v", "vh", "nx" */
bool st_svf_layout_parse(const char *s, enum st_svf_layout *out);
const char *st_svf_tie_name(enum st_svf_tie t); /* "independent", "compose", "last-wins" */
bool st_svf_tie_parse(const char *s, enum st_svf_tie *out);
/* '/' becomes "__", then anything but [A-Za-z0-9_.-]. */
char *st_svf_safe_name(struct st_arena *a, const char *name);

/* ---- JSON (json.c) ---- */

/* Indented, members sorted, one newline, whole or not at all. */
ST_MUST_CHECK enum st_status st_svf_write_json(const char *path, const json_t *j, struct st_error *err);
/* A JSON object that must exist. */
ST_MUST_CHECK enum st_status st_svf_load_json(const char *path, json_t **out, struct st_error *err);

/* Members of a file's object; failures name the key and the value. */
ST_MUST_CHECK enum st_status st_svf_get_text(const json_t *o, const char *where, const char *key, const char **out,
                                             struct st_error *err);
ST_MUST_CHECK enum st_status st_svf_get_u64(const json_t *o, const char *where, const char *key, uint64_t *out,
                                            struct st_error *err);
ST_MUST_CHECK enum st_status st_svf_get_shape(const json_t *o, const char *where, const char *key, uint64_t shape[2],
                                              struct st_error *err);
/* Keys of o that are in neither list are refused by name. Lists end with NULL. */
ST_MUST_CHECK enum st_status st_svf_check_keys(const json_t *o, const char *where, const char *const *required,
                                               const char *const *optional, struct st_error *err);

/* ---- inputs ---- */

/* The trained vector (vector.c). */
struct st_svf_vector {
	const char *path;
	float *f32; /* [n], in the arena */
	uint64_t n;
	enum st_dtype stored;
	char file_sha256[65], sha256_f32[65];
	char safetensors_sha256[65]; /* of the numbers as the one-tensor safetensors file that manifests name */
};
ST_MUST_CHECK enum st_status st_svf_vector_read(const char *path, struct st_arena *a, struct st_svf_vector *v,
                                                struct st_error *err);

struct st_svf_entry {
	size_t index;
	const char *source_name, *target_name, *safe;
	uint64_t rows, cols, k; /* of the source, [out, in]; singular values */
	uint64_t start, end;    /* span of the vector */
	bool turned;            /* the target holds the transpose */
};

/* The reference manifest (reference.c): spans in its own order, checked against the vector. */
struct st_svf_reference {
	const char *path;
	char file_sha256[65];
	json_t *json;
	struct st_svf_entry *entries; /* in manifest order */
	size_t n;
	uint64_t n_scales;             /* of all spans: [0, n_scales) of the vector */
	uint64_t head_rows, head_cols; /* [n_scales, n) */
	size_t sample;                 /* index of the sample tensor */
	const char *expected_hash;
};
ST_MUST_CHECK enum st_status st_svf_reference_read(const char *path, const struct st_svf_vector *v, struct st_arena *a,
                                                   struct st_svf_reference *r, struct st_error *err);
void st_svf_reference_release(struct st_svf_reference *r);

/* The base model (base_model.c). */
struct st_svf_base {
	const char *path;
	struct st_model *model; /* GGUF and APR; else NULL */
	struct st_container *c; /* owned when there is no model */
	char sha256[65];
	bool round_bf16;
};
ST_MUST_CHECK enum st_status st_svf_base_open(const char *path, bool round_bf16, const struct st_hooks *hooks,
                                              struct st_svf_base *b, struct st_error *err);
void st_svf_base_close(struct st_svf_base *b);
const struct st_container *st_svf_base_container(const struct st_svf_base *b);
/* The weight by its Hugging Face name, whatever the file calls it; the head of a tied model is its embedding. */
ST_MUST_CHECK enum st_status st_svf_base_find(const struct st_svf_base *b, const struct st_svf_entry *e,
                                              struct st_weight *w, struct st_error *err);
bool st_svf_base_tied(const struct st_svf_base *b, const struct st_svf_entry *x, const struct st_svf_entry *y);

/* Factors of one tensor (factors.c). U stays where it is. */
struct st_svf_factors {
	const char *path; /* of the file they are in */
	const struct st_tensor *u, *s_view, *v_view;
	float *s, *v; /* malloc'ed */
	enum st_svf_layout layout;
	bool descending;
	double v_error; /* |V^T V - 1|, columns against some of them */
};
/* From a torch checkpoint (<source>.U) or a component file (svd.U.<safe>); checks names, shapes and numbers. */
ST_MUST_CHECK enum st_status st_svf_factors_open(const struct st_container *c, const struct st_svf_entry *e,
                                                 enum st_svf_layout layout, struct st_svf_factors *f,
                                                 struct st_error *err);
void st_svf_factors_close(struct st_svf_factors *f);

/* ---- the computation (engine.c) ---- */

/* Rows of the source matrix in f32. */
struct st_svf_source {
	enum st_status (*rows)(void *ctx, uint64_t row0, uint64_t n, float *dst, struct st_error *err);
	void *ctx;
	const char *path; /* of the base model where the rows are from there, or NULL */
};

/* Where time went, in seconds. */
struct st_svf_times {
	double products, hashing, rest;
};

struct st_svf_engine {
	const struct st_svf_entry *e;
	const struct st_svf_factors *f;
	struct st_svf_source source;
	int threads;
	float *offsets, *scaled; /* [k] */
	float norm, sum_s, sum_scaled;
	struct st_gemm_b b;
	uint64_t chunk; /* rows of a block */
	/* of the current block: [n, cols], u and u_scaled [n, k]; offsets are elements */
	float *src, *u, *u_scaled, *matmul, *zero, *adapted;
	uint16_t *bf16;
	float *buffer;
	double *row_sums; /* [chunk, 2] */
	/* Sums over all rows so far. */
	double zero_error, zero_error_bf16; /* max |zero - source|, and against the source rounded to bf16 */
	double zero_dd, source_dd;          /* their squares */
	double u_error;                     /* after the last block: |U^T U - 1|, columns against some of them */
	float *gram;                        /* [ST_SVF_GRAM, k] */
	struct st_svf_times *times;         /* or NULL */
};
#define ST_SVF_GRAM 16

ST_MUST_CHECK enum st_status st_svf_engine_open(struct st_svf_engine *g, const struct st_svf_entry *e,
                                                const struct st_svf_factors *f, const float *offsets,
                                                struct st_svf_source source, uint64_t chunk, int threads,
                                                struct st_error *err);
/* All stages for rows [row0, row0 + n), n <= chunk, into the buffers above. */
ST_MUST_CHECK enum st_status st_svf_engine_rows(struct st_svf_engine *g, uint64_t row0, uint64_t n,
                                                struct st_error *err);
/* The adapted rows alone: what `compose` starts the next tensor from. */
ST_MUST_CHECK enum st_status st_svf_engine_adapted(struct st_svf_engine *g, uint64_t row0, uint64_t n, float *dst,
                                                   struct st_error *err);
void st_svf_engine_close(struct st_svf_engine *g);
/* src [rows, cols] transposed into columns [at, at + rows) of dst [cols, width]. */
void st_svf_turn(const float *src, uint64_t rows, uint64_t cols, float *dst, uint64_t at, uint64_t width, int threads);
double st_svf_clock(void);

/* ---- numbers about a tensor (summary.c) ---- */

struct st_svf_summary {
	struct st_sha256 *hash, *hash_bf16;
	bool bf16; /* the elements are bf16 */
	double min, max, sum;
	uint64_t n, nonfinite;
	float prefix[16];
	size_t n_prefix, want_prefix;
	char sha256[65], sha256_bf16[65];
};
/* alt: also the digest of the values as bf16. */
ST_MUST_CHECK enum st_status st_svf_summary_begin(struct st_svf_summary *s, size_t prefix, bool alt,
                                                  struct st_error *err);
void st_svf_summary_f32(struct st_svf_summary *s, const float *x, uint64_t n);
void st_svf_summary_bf16(struct st_svf_summary *s, const uint16_t *x, uint64_t n);
void st_svf_summary_end(struct st_svf_summary *s); /* also releases */
json_t *st_svf_summary_json(const struct st_svf_summary *s, const uint64_t *shape, size_t ndim);
/* Rows to decode at a time: about a million elements, and no more than there are. At least 1. */
uint64_t st_svf_step(uint64_t rows, uint64_t cols);
ST_MUST_CHECK enum st_status st_svf_summary_of(const struct st_tensor *t, size_t prefix, struct st_svf_summary *s,
                                               struct st_error *err);
/* Of rows that come from elsewhere than a tensor: [rows, cols]. */
struct st_svf_source;
ST_MUST_CHECK enum st_status st_svf_summary_rows(const struct st_svf_source *from, uint64_t rows, uint64_t cols,
                                                 size_t prefix, struct st_svf_summary *s, struct st_error *err);

/* ---- two values of one stage (metrics.c) ---- */

#define ST_SVF_ULPS \
	8 /* classes of distance in units of the last place of bf16: 0, 1, 2, 3-4, 5-16, 17-256, more, not finite */
struct st_svf_worst {
	uint64_t at;
	double a, b, diff;
};
#define ST_SVF_TOP 32
struct st_svf_metrics {
	uint64_t count, mismatched, bits, nonfinite_a, nonfinite_b,
		apart; /* mismatched: unequal numbers; bits: unequal bits;
	                * apart: not finite on one side only, or differently */
	double max_abs, sum_abs, sum_aa, sum_bb, sum_ab, sum_dd;
	uint64_t ulps[ST_SVF_ULPS];
	struct st_svf_worst worst[ST_SVF_TOP]; /* largest first */
	size_t n_worst, want;
};
void st_svf_metrics_add(struct st_svf_metrics *m, const float *a, const float *b, uint64_t n, uint64_t first, bool ulps,
                        int threads);
double st_svf_metrics_mean(const struct st_svf_metrics *m);

struct st_svf_tolerance {
	double max_abs, mean_abs;
	bool required;
};
/* Within tolerance, of at least one number, all of them finite: two sides that are NaN alike show nothing. */
bool st_svf_metrics_passed(const struct st_svf_metrics *m, const struct st_svf_tolerance *t);
struct st_svf_profile {
	char name[64];
	struct st_svf_tolerance stage[ST_SVF_STAGES];
};
/* "strict", "f32", or the path of a JSON file. */
ST_MUST_CHECK enum st_status st_svf_profile_read(const char *name, struct st_svf_profile *p, struct st_error *err);

/* ---- stage files (stage_file.c) ---- */

/* A safetensors file whose tensors are written in pieces at any place. */
struct st_svf_file;
ST_MUST_CHECK enum st_status st_svf_file_open(const char *path, const struct st_tensor_spec *specs, size_t n,
                                              struct st_svf_file **out, struct st_error *err);
ST_MUST_CHECK enum st_status st_svf_file_put(struct st_svf_file *f, size_t tensor, uint64_t byte, const void *p,
                                             uint64_t n, struct st_error *err);
ST_MUST_CHECK enum st_status st_svf_file_commit(struct st_svf_file *f, struct st_error *err);
void st_svf_file_abort(struct st_svf_file *f);

/* ---- a tensor's stages: computed, summarised, written, compared (stages.c) ---- */

struct st_svf_stages {
	const struct st_svf_entry *e;
	bool turned;                                  /* final_* in the target's orientation */
	struct st_svf_file *file;                     /* or NULL */
	size_t first;                                 /* tensor of the file that is ST_SVF_SOURCE */
	const struct st_tensor *other[ST_SVF_STAGES]; /* the other side's values, or NULL */
	bool summaries;                               /* digests and ranges of every stage */
	struct st_svf_engine *winner; /* last-wins: whose result the model ends up with; NULL: this one's */
	bool small_only;              /* the file holds offsets, scaled_s and normalization alone, in this order */
	const struct st_hooks *hooks;
	uint64_t *done, total; /* progress in rows, or NULL */
	const struct st_svf_profile *profile;
	/* results */
	struct st_svf_summary summary[ST_SVF_STAGES];
	struct st_svf_metrics metrics[ST_SVF_STAGES];
	bool compared[ST_SVF_STAGES], shape_match[ST_SVF_STAGES], byte_match[ST_SVF_STAGES];
};
uint64_t st_svf_stage_shape(const struct st_svf_entry *e, enum st_svf_stage s, bool turned,
                            uint64_t shape[2]); /* returns ndim */
/* Ten specs with names "<prefix><stage>", in the arena. */
ST_MUST_CHECK enum st_status st_svf_stage_specs(const struct st_svf_entry *e, bool turned, const char *prefix,
                                                struct st_arena *a, struct st_tensor_spec *specs, struct st_error *err);
ST_MUST_CHECK enum st_status st_svf_stages_run(struct st_svf_stages *t, struct st_svf_engine *g, struct st_error *err);
bool st_svf_stages_passed(const struct st_svf_stages *t, enum st_svf_stage s);
json_t *st_svf_stages_checks(const struct st_svf_stages *t);
json_t *st_svf_stages_digests(const struct st_svf_stages *t);

/* ---- singular value decomposition (svd.c) ---- */

struct st_svf_svd_report {
	double residual_rel, residual_max, u_error, v_error;
	double gap_min, gap_median; /* relative gaps (s[i] - s[i+1]) / s[i] */
	uint64_t gap_at, close;     /* index of the smallest; pairs closer than 1e-4 */
	double seconds;
	const char *method;
};
/* Factors of a source, written as svd.{U,S,V}.<safe> (torch_v) to a component file at `path`. */
ST_MUST_CHECK enum st_status st_svf_decompose(const struct st_svf_entry *e, struct st_svf_source source,
                                              enum st_svf_svd method, int threads, const char *path,
                                              struct st_svf_svd_report *r, const struct st_hooks *hooks,
                                              struct st_error *err);
/* Operations that it takes, for a warning beforehand. */
double st_svf_decompose_cost(const struct st_svf_entry *e);
const char *st_svf_lapack_name(char *buf, size_t n);
void st_svf_gram_add(const float *u, uint64_t rows, uint64_t k,
                     float *gram); /* gram [ST_SVF_GRAM, k] += picked columns^T u */
double st_svf_gram_error(const float *gram, uint64_t k);
/* Of the n x k matrix whose columns should be orthonormal; x holds it [n, k] or, turned, [k, n]. NaN: no memory. */
double st_svf_orthogonality(const float *x, uint64_t n, uint64_t k, bool turned);

/* ---- reports (evidence.c) ---- */

json_t *st_svf_environment(int threads, const char *svd);
/* The same as one line, in the arena: what an earlier run left is taken over where this has not changed, so that a
 * report's environment is that of everything in it. NULL when out of memory. */
char *st_svf_environment_key(struct st_arena *a, int threads);
/* {path, role, bytes, sha256}; appended to files. */
ST_MUST_CHECK enum st_status st_svf_add_file(json_t *files, const char *role, const char *path, struct st_error *err);
ST_MUST_CHECK enum st_status st_svf_file_sha256(const char *path, char hex[65], struct st_error *err);
json_t *st_svf_scale_json(const struct st_svf_engine *g); /* the member "s" of a variant */
json_t *st_svf_coverage(const struct st_svf_reference *r, const bool *covered);
void st_svf_log(const struct st_hooks *h, const char *fmt, ...) ST_PRINTF(2, 3);
int st_svf_threads(int asked);
/* mkdir unless it is there. */
ST_MUST_CHECK enum st_status st_svf_make_dir(const char *path, struct st_error *err);
/* DIR/NAME in the arena; NULL when out of memory. */
char *st_svf_path(struct st_arena *a, const char *dir, const char *name);
/* A file that a report names: as named, beside the report, or in `dir`. NULL where it is in none of them. */
const char *st_svf_locate(struct st_arena *a, const char *named, const char *report, const char *dir);

/* Rows of a tensor, to be read as they are; ctx is a struct st_svf_tensor_rows. */
struct st_svf_tensor_rows {
	const struct st_tensor *t;
};
enum st_status st_svf_tensor_rows(void *ctx, uint64_t row0, uint64_t n, float *dst, struct st_error *err);
/* Rows of a stored weight; ctx is a struct st_svf_weight_rows. */
struct st_svf_weight_rows {
	struct st_weight w;
	bool round_bf16;
	int threads;
};
enum st_status st_svf_weight_rows(void *ctx, uint64_t row0, uint64_t n, float *dst, struct st_error *err);
/* ---- what export, replay and apply share (job.c) ---- */

struct st_svf_job {
	struct st_arena arena;
	struct st_svf_vector vector;
	struct st_svf_reference ref;
	struct st_svf_base base;
	bool have_base;
	struct st_container *factors;   /* owned */
	struct st_container **computed; /* [n of the reference] or NULL: each tensor's factors in a file of its own,
	                                   where `factors` is NULL */
	enum st_svf_layout layout;
	enum st_svf_tie tie;
	uint64_t chunk;
	int threads;
	struct st_hooks hooks;
	struct st_svf_times times;
};
/* Reads vector, reference and (unless model is NULL) base model, and checks every selected tensor against it. */
ST_MUST_CHECK enum st_status st_svf_job_open(struct st_svf_job *j, const char *vector, const char *reference,
                                             const char *model, bool round_bf16, struct st_error *err);
void st_svf_job_close(struct st_svf_job *j);
/* Refuse to write `out` where that would take an input away: a file, the files of a container, all that a job has read
 * so far. An input that is NULL is none. */
ST_MUST_CHECK enum st_status st_svf_keep(const char *out, const char *in, struct st_error *err);
ST_MUST_CHECK enum st_status st_svf_keep_files(const char *out, const struct st_container *c, struct st_error *err);
ST_MUST_CHECK enum st_status st_svf_job_keep(const struct st_svf_job *j, const char *out, struct st_error *err);
struct st_container *st_svf_job_factors(const struct st_svf_job *j, const struct st_svf_entry *e); /* NULL: none yet */
/* The earlier (or, for last-wins, later) tensor whose storage this one shares in the base model; NULL: none, or the
 * policy is independent. */
const struct st_svf_entry *st_svf_job_before(const struct st_svf_job *j, const struct st_svf_entry *e);
const struct st_svf_entry *st_svf_job_after(const struct st_svf_job *j, const struct st_svf_entry *e);

/* How V is stored in a folder of components, by its debug manifest; torch_v where there is none. `manifest`: the
 * manifest too, the caller's (NULL where absent). */
ST_MUST_CHECK enum st_status st_svf_components_layout(const char *dir, enum st_svf_layout *layout, json_t **manifest,
                                                      struct st_error *err);

/* One tensor ready to be computed. */
struct st_svf_work {
	struct st_svf_factors factors, other_factors;
	struct st_svf_engine engine, other; /* other: the tied tensor that this one needs */
	bool open, other_open;
	struct st_svf_weight_rows rows;
	struct st_svf_composed {
		struct st_svf_engine *g;
		bool round_bf16;
	} composed;
	struct st_svf_tensor_rows stored;
	struct st_svf_source source;
};
/* Its source by the tie policy; composing needs the factors of the tensor before. `stored`: take the source from there
 * instead. */
ST_MUST_CHECK enum st_status st_svf_work_source(struct st_svf_job *j, struct st_svf_work *w,
                                                const struct st_svf_entry *e, const struct st_tensor *stored,
                                                struct st_error *err);
/* Source, factors and engine. */
ST_MUST_CHECK enum st_status st_svf_work_open(struct st_svf_job *j, struct st_svf_work *w, const struct st_svf_entry *e,
                                              enum st_svf_layout layout, const struct st_tensor *stored,
                                              struct st_error *err);
void st_svf_work_close(struct st_svf_work *w);
/* The zero-offset test: does U S V^T give the source? False with what is wrong in `why`. */
bool st_svf_zero_test(const struct st_svf_engine *g, char *why, size_t n);
/* Appends "tensor: what" unless it is there, and logs it. */
void st_svf_warn(json_t *list, const struct st_hooks *hooks, const char *tensor, const char *what);
/* What is odd about factors and does not stop a run; of a tensor after its last row, everything. */
void st_svf_factors_warnings(const struct st_svf_factors *f, const char *tensor, json_t *list,
                             const struct st_hooks *hooks);
void st_svf_work_warnings(const struct st_svf_work *w, json_t *list, const struct st_hooks *hooks);

#endif
