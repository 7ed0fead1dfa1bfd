/*
 * stages.h - the ten stages of a tensor: numbers about each, two sides of each, their files.
 */
#ifndef ST_SVF_STAGES_H
#define ST_SVF_STAGES_H

#include "svf/engine.h"

#include "compare/distance.h"
#include "format/writer.h"
#include "inspect/summary.h"

/* ---- what a report says of numbers (summary.c) ---- */

json_t *st_svf_summary_json(const struct st_summary *s, const uint64_t *shape, size_t ndim);
/* Of n numbers at hand; NULL when out of memory. */
json_t *st_svf_summary_floats(const float *x, uint64_t n, size_t prefix);
/* Of a whole tensor; of rows that come from elsewhere, [rows, cols]. */
ST_MUST_CHECK enum st_status st_svf_summary_of(const struct st_tensor *t, size_t prefix, struct st_summary *s,
                                               struct st_error *err);
ST_MUST_CHECK enum st_status st_svf_summary_rows(const struct st_row_source *from, uint64_t rows, uint64_t cols,
                                                 size_t prefix, struct st_summary *s, struct st_error *err);
/* Rows to decode at a time: about a million elements, and no more than there are. At least 1. */
uint64_t st_svf_step(uint64_t rows, uint64_t cols);
/* Rows [0, rows) in such pieces, one after the other. x: [n, cols] */
typedef enum st_status (*st_svf_rows_fn)(void *ctx, const float *x, uint64_t n, struct st_error *err);
ST_MUST_CHECK enum st_status st_svf_each_piece(const struct st_row_source *from, uint64_t rows, uint64_t cols,
                                               st_svf_rows_fn fn, void *ctx, struct st_error *err);

/* ---- two values of one stage (tolerances.c) ---- */

/* All in one order, or a scalar and a list of one. */
bool st_svf_same_shape(uint64_t ndim_a, const uint64_t *a, uint64_t ndim_b, const uint64_t *b);

struct st_svf_tolerance {
	double max_abs, mean_abs;
	bool required;
};
struct st_svf_profile {
	char name[64];
	struct st_svf_tolerance stage[ST_SVF_STAGES];
};
/* "strict", "f32", or the path of a JSON file. */
ST_MUST_CHECK enum st_status st_svf_profile_read(const char *name, struct st_svf_profile *p, struct st_error *err);

/* One stage on two sides. */
struct st_svf_check {
	struct st_distance m;
	bool measured; /* numbers on both sides, of one shape */
	bool shape_match, byte_match, passed;
};
/* Within tolerance, of at least one number, all of them finite: two sides that are NaN alike show nothing. */
bool st_svf_passed(const struct st_distance *m, const struct st_svf_tolerance *t);
/* What a report says of it, whatever it calls stage and verdict. */
json_t *st_svf_check_json(const struct st_svf_check *c, const struct st_svf_tolerance *t, bool numbers);

/* ---- a tensor's stages: computed, summarised, written, compared (stages.c) ---- */

/* Sets of stages, a bit each. */
#define ST_SVF_BIT(stage) (1u << (stage))
#define ST_SVF_ALL (ST_SVF_BIT(ST_SVF_STAGES) - 1)
#define ST_SVF_SMALL (ST_SVF_BIT(ST_SVF_OFFSETS) | ST_SVF_BIT(ST_SVF_SCALED_S) | ST_SVF_BIT(ST_SVF_NORMALIZATION))

struct st_svf_stages {
	const struct st_svf_entry *e;
	bool turned;                                  /* final_* in the target's orientation */
	struct st_writer *file;                       /* or NULL */
	unsigned kept;                                /* the stages that it holds, one tensor after another */
	size_t first;                                 /* from this one on */
	const struct st_tensor *other[ST_SVF_STAGES]; /* the other side's values, or NULL */
	bool summaries;                               /* digests and ranges of every stage */
	struct st_svf_engine *winner; /* last-wins: whose result the model ends up with; NULL: this one's */
	const struct st_hooks *hooks;
	uint64_t *done, total; /* progress in rows, or NULL */
	const struct st_svf_profile *profile;
	/* results */
	struct st_summary summary[ST_SVF_STAGES];
	struct st_svf_check check[ST_SVF_STAGES];
};
/* Returns ndim. */
uint32_t st_svf_stage_shape(const struct st_svf_entry *e, enum st_svf_stage s, bool turned, uint64_t shape[2]);
/* Specs of those kept, with names "<prefix><stage>", in the arena; *n of them. */
ST_MUST_CHECK enum st_status st_svf_stage_specs(const struct st_svf_entry *e, bool turned, unsigned kept,
                                                const char *prefix, struct st_arena *a, struct st_tensor_spec *specs,
                                                size_t *n, struct st_error *err);
ST_MUST_CHECK enum st_status st_svf_stages_run(struct st_svf_stages *t, struct st_svf_engine *g, struct st_error *err);
json_t *st_svf_stage_json(const struct st_svf_stages *t, enum st_svf_stage s); /* its summary */
json_t *st_svf_stages_checks(const struct st_svf_stages *t);
json_t *st_svf_stages_digests(const struct st_svf_stages *t);

#endif
