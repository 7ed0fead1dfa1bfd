/*
 * weight_trial.h - what the tests of one pair of weights share.
 *
 * A test proposes a side under a hypothesis; the proposal is measured on a sample of rows
 * and, when it fits there, on all of them. It is confirmed when what is left is noise.
 */
#ifndef ST_COMPARE_WEIGHT_TRIAL_H
#define ST_COMPARE_WEIGHT_TRIAL_H

#include "arch/arch.h"
#include "base/error.h"
#include "base/mem.h"
#include "compare/pair.h"

#define ST_SAMPLE 64 /* rows that every proposal must fit first */

struct st_trial {
	const struct st_model *ma, *mb;
	const struct st_rows *a, *b;     /* as stored */
	const struct st_row_stat *stats; /* of all rows, as stored */
	struct st_pool *pool;
	uint64_t sample[ST_SAMPLE], n_sample;
	struct st_pair_summary before; /* of the sample */
	struct st_weight_diff *d;
	struct st_arena arena;
	bool done;   /* a cause is confirmed */
	bool likely; /* d->cause holds a likely one */
	struct st_error *err;
};

/*
 * Measure side a against side b under hypothesis `c` (code and parameters). `side` is the
 * one that would be wrong, or 0. sampled: only the sample can be measured.
 */
ST_MUST_CHECK enum st_status st_trial_consider(struct st_trial *t, const struct st_rows *a, const struct st_rows *b,
                                               struct st_cause c, char side, bool sampled);

/*
 * Whether numbers alone say that it is not worth measuring: where half of some rows of the sample are no nearer than
 * they were. Sides are asked for values only.
 */
ST_MUST_CHECK enum st_status st_trial_is_far_off(struct st_trial *t, const struct st_rows *a, const struct st_rows *b,
                                                 bool *far_off);
#define ST_GLANCE 8 /* rows: sample[i * n_sample / n], of n = ST_GLANCE or fewer */

/* A cause that is a fact of the files, which no residual is needed for. */
void st_trial_decide(struct st_trial *t, struct st_cause c, char side);

/*
 * Which share of a bad row's blocks has a gain that is not the row's. A row off by one factor has none: its
 * blocks are no fault of their own. Where many are apart, no factor explains the row.
 */
ST_MUST_CHECK enum st_status st_blocks_apart(struct st_trial *t, double *share);
#define ST_ONE_FACTOR 0.25 /* where this share of blocks is apart there is no common factor */

/*
 * Rows or columns that differ, beside those that agree: which side's are of no size that numbers of this matrix have. A
 * small one says nothing, since tokens that were never trained and channels that are pruned are small in sound files,
 * and a few sound rows are ten times the others.
 */
struct st_odd {
	double good, bad_a, bad_b; /* largest squares */
};
void st_odd_add(struct st_odd *o, double aa, double bb, bool bad);
/* 'a', 'b', or 0 where nothing tells. */
char st_odd_side(const struct st_odd *o);
/* Of two labels over the same bytes the side whose label is wrong, where the files tell; else 0 (weight_label.c). */
ST_MUST_CHECK enum st_status st_wrong_label(struct st_trial *t, char *side);
/* The code of a factor on all of a weight. */
enum st_cause_code st_scaled_code(const struct st_weight *w);

/* Rows of blocks with bytes of padding behind each, which one side counts and the other does not (weight_padding.c). */
ST_MUST_CHECK enum st_status st_find_padded_blocks(struct st_trial *t);

/* The tests that <stele/causes.def> lists. Each sets t->done when it has confirmed its cause. */
#define WEIGHT_TEST(name, function) ST_MUST_CHECK enum st_status st_test_##function(struct st_trial *t);
#include <stele/causes.def>

/* What a factor may be in a transformer, and how reports call it: the i-th, or false behind the last. */
struct st_constant {
	const char *name;
	double value;
};
bool st_known_constant(const struct st_config *cfg, size_t i, struct st_constant *out);

/* The same matrix of any layer: of one role, or, without roles, of names that differ in their layer at most. */
bool st_weight_same_kind(const struct st_weight *a, const struct st_weight *b);

/*
 * Find the mistake that explains a pair whose rows are not noise; fills d->cause, d->side and
 * d->candidates. `stats` are those of all rows.
 */
ST_MUST_CHECK enum st_status st_weight_explain(const struct st_model *ma, const struct st_model *mb,
                                               const struct st_rows *a, const struct st_rows *b,
                                               const struct st_row_stat *stats, struct st_pool *pool,
                                               struct st_weight_diff *d, struct st_error *err);

#endif
