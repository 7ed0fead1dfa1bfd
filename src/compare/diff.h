/* diff.h - what the parts of a diff share. */
#ifndef ST_COMPARE_DIFF_H
#define ST_COMPARE_DIFF_H

#include <stele/diff.h>

#include "base/mem.h"
#include "base/pool.h"
#include "graph/stage.h"

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
/* Whether the filter that was given, if any, lets a name through. */
bool st_diff_wanted(const struct st_diff_options *o, const char *name);
/* diff_dump.c. Bring the axes of one value to [positions, features], as far as the other side shows them. */
ST_MUST_CHECK enum st_status st_diff_axes(const struct st_tensor **a, const struct st_tensor **b,
                                          struct st_arena *arena, struct st_error *err);
/* Values of two traces under names that are no stage: compared by name, listed where one side alone has them. */
ST_MUST_CHECK enum st_status st_diff_others(struct st_diff_state *s, const struct st_diff_options *o,
                                            struct st_error *err);
/* diff_types.c. Whether one of the types is so short that dumps of the same values differ. */
bool st_diff_short(enum st_dtype ta, enum st_dtype tb);
/* The 16-bit type that all values of a tensor are numbers of, whatever they are stored in; else its own. */
ST_MUST_CHECK enum st_status st_diff_held(const struct st_tensor *t, struct st_pool *pool, enum st_dtype *held,
                                          struct st_error *err);
/*
 * Whether two values can be one number, each stored in its type: a float stands for all that round to it, and two
 * programs differ by f32 rounding before. In one type they are equal then, but for the few numbers that lie so near the
 * middle of two neighbours that this rounding decides. Of n pairs: how many are neighbours, how many cannot.
 */
struct st_diff_meetings {
	uint64_t apart, neighbours;
};
void st_diff_meet(const float *a, enum st_dtype ta, const float *b, enum st_dtype tb, uint64_t n,
                  struct st_diff_meetings *m);
/* Whether so many neighbours among n pairs of one type are what f32 rounding leaves. */
bool st_diff_few_neighbours(uint64_t neighbours, uint64_t n, enum st_dtype t);
/* Whether every two elements can be one number, stored in these types. */
ST_MUST_CHECK enum st_status st_diff_all_meet(const struct st_tensor *a, enum st_dtype ta, const struct st_tensor *b,
                                              enum st_dtype tb, bool *meet, struct st_error *err);
/* f32 rounding of a few operations, relative: what two sound programs may differ by everywhere. */
#define ST_DIFF_ROUNDING 0x1p-20
/* diff_stage.c, diff_trace.c */
ST_MUST_CHECK enum st_status st_diff_stages(struct st_diff_state *s, const struct st_diff_options *o,
                                            struct st_error *err);
ST_MUST_CHECK enum st_status st_diff_traces(struct st_diff_state *s, const struct st_diff_options *o,
                                            struct st_error *err);

#endif
