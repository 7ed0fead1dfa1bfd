/* diff.h - what the parts of a diff share. */
#ifndef ST_COMPARE_DIFF_H
#define ST_COMPARE_DIFF_H

#include <stele/diff.h>

#include "base/mem.h"
#include "base/pool.h"

/* One input, opened as what it is. */
struct st_diff_side {
	const char *path;
	struct st_container *c; /* a stage file, or plain tensors */
	struct st_trace *trace;
	struct st_model *model;
	const struct st_tensor *stage; /* ST_DIFF_STAGES: the one tensor */
	const char *name;              /* its stage name, or NULL */
	int32_t layer;
};

struct st_diff_state {
	struct st_diff d; /* first: one pointer serves for both */
	struct st_diff_side a, b;
	struct st_arena arena;
	struct st_pool *pool; /* while st_diff_run works */
};

/* diff_state.c. The first reason is the one that is told. */
void st_diff_undecided(struct st_diff *d, const char *why);
/* Q and K behind the projection are in a basis; values of two bases are not comparable element by element. */
bool st_diff_basis_matters(enum st_stage s);
/* Whether there was anything to compare: elements that are not finite on both sides alike are none. */
bool st_diff_any(const struct st_metrics *m);
/* Whether a difference is beyond a threshold that was given. */
bool st_diff_beyond(const struct st_diff_options *o, double max_abs, double rel_l2);
bool st_diff_has_threshold(const struct st_diff_options *o);
/* Whether two values can be one number, each stored in its type: a float stands for all that round to it. */
bool st_diff_meets(double a, enum st_dtype ta, double b, enum st_dtype tb);
/* Whether one of the types is so short that dumps of the same values differ. */
bool st_diff_short(enum st_dtype ta, enum st_dtype tb);
/* f32 rounding of a few operations, relative: what two sound programs may differ by everywhere. */
#define ST_DIFF_ROUNDING 0x1p-20
bool st_diff_wanted(const struct st_diff_options *o, const char *name);
/* diff_stage.c, diff_trace.c */
ST_MUST_CHECK enum st_status st_diff_stages(struct st_diff_state *s, const struct st_diff_options *o,
                                            struct st_error *err);
ST_MUST_CHECK enum st_status st_diff_traces(struct st_diff_state *s, const struct st_diff_options *o,
                                            struct st_error *err);

#endif
