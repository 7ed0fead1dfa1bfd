/*
 * job.h - what export, replay and apply share: inputs, a tensor ready to be computed, and the parts of a report.
 */
#ifndef ST_SVF_JOB_H
#define ST_SVF_JOB_H

#include "svf/stages.h"

#include <stdio.h>

/* ---- a run (job.c) ---- */

struct st_svf_job {
	/* set by the caller */
	enum st_svf_layout layout;
	enum st_svf_tie tie;
	uint64_t chunk;
	struct st_hooks hooks;
	/* inputs */
	struct st_arena arena;
	struct st_pool *pool;
	struct st_inputs inputs;
	struct st_svf_vector vector;
	struct st_svf_reference ref;
	struct st_svf_base base;
	bool have_base;
	struct st_container *factors;   /* owned */
	struct st_container **computed; /* [n of the reference] or NULL: each tensor's factors in a file of its own,
	                                   where `factors` is NULL */
	/* what it tells: lines for people, and the report with its lists */
	FILE *text;
	size_t length;
	json_t *report, *files, *variants, *warnings;
};
/* Starts the threads and the text. Close it whatever came of it. */
ST_MUST_CHECK enum st_status st_svf_job_begin(struct st_svf_job *j, int threads, struct st_svf_result *r,
                                              struct st_error *err);
/* The same, and reads vector and reference. */
ST_MUST_CHECK enum st_status st_svf_job_open(struct st_svf_job *j, const char *vector, const char *reference,
                                             int threads, struct st_svf_result *r, struct st_error *err);
/* The base model, which must have every selected tensor. */
ST_MUST_CHECK enum st_status st_svf_job_base(struct st_svf_job *j, const char *model, bool round_bf16,
                                             struct st_error *err);
/* Ends it: the result is filled where all went well so far, and says `exit_status`. */
ST_MUST_CHECK enum st_status st_svf_job_close(struct st_svf_job *j, enum st_status so_far, int exit_status,
                                              struct st_svf_result *r, struct st_error *err);
/* The last lines of the text: warnings, and what was written. */
void st_svf_job_wrote(struct st_svf_job *j, const char *verb, const char *path);
const struct st_svf_entry *st_svf_job_sample(const struct st_svf_job *j);
struct st_container *st_svf_job_factors(const struct st_svf_job *j, const struct st_svf_entry *e); /* NULL: none yet */
/* The earlier (or, for last-wins, later) tensor whose storage this one shares in the base model; NULL: none, or the
 * policy is independent. */
const struct st_svf_entry *st_svf_job_before(const struct st_svf_job *j, const struct st_svf_entry *e);
const struct st_svf_entry *st_svf_job_after(const struct st_svf_job *j, const struct st_svf_entry *e);

/* How V is stored in a folder of components, by its debug manifest; torch_v where there is none. `manifest`: the
 * manifest too, the caller's (NULL where absent). */
ST_MUST_CHECK enum st_status st_svf_components_layout(const char *dir, enum st_svf_layout *layout, json_t **manifest,
                                                      struct st_error *err);

/* ---- one tensor ready to be computed (work.c) ---- */

struct st_svf_work {
	struct st_svf_factors factors, other_factors;
	struct st_svf_engine engine, other; /* other: the tied tensor that this one needs */
	struct st_svf_weight_rows rows;
	struct st_svf_composed {
		struct st_svf_engine *g;
		bool round_bf16;
	} composed;
	const struct st_tensor *stored;
	struct st_row_source source;
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
/* All its stages, into t, whose e is set. */
ST_MUST_CHECK enum st_status st_svf_work_run(struct st_svf_job *j, struct st_svf_work *w, struct st_svf_stages *t,
                                             struct st_error *err);
void st_svf_work_close(struct st_svf_work *w);
/* The zero-offset test: does U S V^T give the source? False with what is wrong in `why`. */
bool st_svf_zero_test(const struct st_svf_engine *g, char *why, size_t n);
/* Adds "tensor: what" to the warnings unless it is there, and logs it. */
void st_svf_warn(struct st_svf_job *j, const char *tensor, const char *what);
/* What is odd about factors and does not stop a run; of a tensor after its last row, everything. */
void st_svf_factors_warnings(struct st_svf_job *j, const struct st_svf_factors *f, const char *tensor);
void st_svf_work_warnings(struct st_svf_job *j, const struct st_svf_work *w);
/* Opens the factors of each of n tensors for a look, and warns. */
ST_MUST_CHECK enum st_status st_svf_look_at_factors(struct st_svf_job *j, const struct st_svf_entry *e,
                                                    struct st_error *err);

/* ---- what the report of an exporting side says (exported.c) ---- */

/* Texts and values are borrowed from the report, NULL where it does not say. */
struct st_svf_exported {
	const char *schema, *source;    /* source: the sample's name */
	const char *sample, *all;       /* files of the sample's stages and of all selected tensors' */
	const char *storage;            /* "digest", or anything else */
	const json_t *digests;          /* by tensor */
	const char *baseline;           /* label of the variant that its stages are of */
	const char *components;         /* folder that it read back */
	const char *reference, *vector; /* its inputs */
	const char *label, *hash;       /* of its result today */
	const json_t *reproducible;     /* what it says of the reference's digest */
	uint32_t tie;                   /* enum st_svf_tie */
};
ST_MUST_CHECK enum st_status st_svf_exported_read(const json_t *report, struct st_svf_exported *e,
                                                  struct st_error *err);

/* ---- parts of reports (report.c) ---- */

json_t *st_svf_environment(struct st_pool *pool, const char *svd);
/* The same as one line, in the arena: what an earlier run left is taken over where this has not changed, so that a
 * report's environment is that of everything in it. NULL when out of memory. */
char *st_svf_environment_key(struct st_arena *a, struct st_pool *pool);
/* {path, role, bytes, sha256} of each; appended to the report's files. A path that is NULL is no file. */
struct st_svf_listed {
	const char *role, *path;
};
ST_MUST_CHECK enum st_status st_svf_add_files(struct st_svf_job *j, const struct st_svf_listed *files, size_t n,
                                              struct st_error *err);
/* Names and span of an entry. Returns o. */
json_t *st_svf_put_entry(json_t *o, const struct st_svf_entry *e);
/* The reference's sample: names, shapes, the digest that its result should have. */
json_t *st_svf_sample_json(const struct st_svf_job *j);
/* One run of a tensor: V's layout, how near the zero offset comes, the result. expected: its digest, or NULL. */
json_t *st_svf_variant_json(const struct st_svf_engine *g, const struct st_svf_stages *t, const char *label,
                            const char *expected);
/* The same run's singular values and its result before the cast. Returns o. */
json_t *st_svf_put_details(json_t *o, const struct st_svf_engine *g, const struct st_svf_stages *t);
/* What every report has at its end: when and where it was made, from which files, which tensors it covers ([n of the
 * reference]). svd: what decomposed, or NULL. */
void st_svf_put_evidence(struct st_svf_job *j, const char *svd, const bool *covered);
/* A file that a report names: as named, beside the report, or in `dir`. NULL where it is in none of them. */
const char *st_svf_locate(struct st_arena *a, const char *named, const char *report, const char *dir);

/* A note beside a file that took long to make, for a run that was interrupted: what the file depends on, its digest,
 * and more. Read: NULL where there is none, or the file is not the one. */
json_t *st_svf_note_read(const char *note, const char *key, const char *path);
ST_MUST_CHECK enum st_status st_svf_note_write(const char *note, const char *key, const char *path, json_t *more,
                                               struct st_error *err);

#endif
