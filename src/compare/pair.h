/*
 * pair.h - two weights laid side by side, row by row, and how their rows differ.
 *
 * A side is anything that yields rows of floats: a stored weight, or a stored weight under
 * a hypothesis (scaled, transposed, permuted, read as another type). Measuring two sides
 * gives each row's residual beside the variance that the stored types predict for it.
 */
#ifndef ST_COMPARE_PAIR_H
#define ST_COMPARE_PAIR_H

#include <stele/compare.h>

#include "base/pool.h"

struct st_rows {
	const struct st_tensor *type; /* predicts the noise of the rows: dtype and scale */
	/* Row r to dst (cols floats). Called from many threads at once. */
	void (*get)(const struct st_rows *s, uint64_t r, float *dst);
	const struct st_weight *w; /* stored rows */
	const float *dense;        /* rows in memory: [rows, cols] */
	uint64_t rows, cols;
	/* Parameters of the hypotheses in weight_*.c. */
	double gain, offset;
	uint64_t shift;
	const uint64_t *map;          /* row r comes from row map[r] */
	const struct st_fused *fused; /* weight_place.c */
	const double *factors;        /* of each column */
	const struct st_rows *other;  /* a second source: the sibling of an interleaved tensor, the other side */
};

/* The rows of a weight as the graph sees them (half-split basis). */
struct st_rows st_rows_of(const struct st_weight *w);

struct st_row_stat {
	double aa, bb, ab, dd;        /* sums over the row */
	double pred, pred_a;          /* predicted value of dd, and a's share of it */
	uint64_t bad_a, bad_b, apart; /* non-finite elements */
	double max;
	uint64_t blocks; /* of the side with the larger ones; 0 where neither is stored in blocks */
	double coherent; /* the share of the error that may be the same for every element */
	bool amid_equal; /* both sides have one type, and most rows are equal */
};

/* What the rows say together. */
struct st_pair_summary {
	double aa, bb, ab, dd, pred, pred_a, max;
	uint64_t nonfinite_a, nonfinite_b, apart;
	uint64_t bad_rows, first_bad, last_bad; /* rows beyond their noise, or with a gain of their own */
	bool noise;                             /* nothing beyond what the types predict */
	bool rest_noise;                        /* nothing but the bad rows is */
	double rel;                             /* sqrt(dd / bb) */
	double predicted;                       /* sqrt(pred / bb) */
	double gain;
};

/* Measure rows idx[0..n), or rows 0..n when idx is NULL. */
ST_MUST_CHECK enum st_status st_pair_measure(const struct st_rows *a, const struct st_rows *b, const uint64_t *idx,
                                             uint64_t n, struct st_pool *pool, struct st_row_stat *stats,
                                             struct st_error *err);
void st_pair_summarise(const struct st_row_stat *stats, const uint64_t *idx, uint64_t n, uint64_t cols,
                       struct st_pair_summary *s);
/* Whether no column, and in a vector no element, stands out of its noise (weight_columns.c). */
ST_MUST_CHECK enum st_status st_columns_are_noise(const struct st_rows *a, const struct st_rows *b, bool *noise,
                                                  struct st_error *err);
/*
 * Two weights of one shape: their rows, and whether these differ by what the types account for - the stored types, or
 * coarser ones that the numbers came from.
 */
struct st_pair {
	struct st_rows a, b;
	struct st_held held_a, held_b;
	struct st_tensor as_a, as_b; /* the two as the held types err; `a` and `b` may point here */
	struct st_row_stat *stats;   /* of every row */
	struct st_pair_summary sum;
};
/* *p must stay where it is until st_pair_close. */
ST_MUST_CHECK enum st_status st_pair_open(struct st_pair *p, const struct st_weight *a, const struct st_weight *b,
                                          struct st_pool *pool, struct st_error *err);
void st_pair_close(struct st_pair *p);

bool st_row_is_bad(const struct st_row_stat *r, uint64_t cols);

struct st_held st_held_own(const struct st_tensor *t);
/* The type that a tensor's numbers came from: its own, or a coarser one that all of them fit (held.c). */
ST_MUST_CHECK enum st_status st_held_type(const struct st_tensor *t, struct st_held *held, struct st_error *err);

/* What a factor may be in a transformer, and how reports call it: the i-th, or false behind the last. */
struct st_constant {
	const char *name;
	double value;
};
bool st_known_constant(const struct st_config *cfg, size_t i, struct st_constant *out);

bool st_role_is_norm(enum st_role r);
bool st_role_is_bias(enum st_role r);

/*
 * Find the mistake that explains a pair whose rows are not noise; fills d->cause, d->side and
 * d->candidates. `stats` are those of all rows.
 */
ST_MUST_CHECK enum st_status st_weight_explain(const struct st_model *ma, const struct st_model *mb,
                                               const struct st_rows *a, const struct st_rows *b,
                                               const struct st_row_stat *stats, struct st_pool *pool,
                                               struct st_weight_diff *d, struct st_error *err);

#endif
