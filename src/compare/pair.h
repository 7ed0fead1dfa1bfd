/*
 * pair.h - two sides laid beside each other, row by row: could both have been stored from one original?
 *
 * That is the one question that decides what is noise, here and for every hypothesis (docs/floors.md, "Weights"). The
 * sums beside it say how large the difference is and how large the cells let one expect it.
 */
#ifndef ST_COMPARE_PAIR_H
#define ST_COMPARE_PAIR_H

#include "compare/feasible.h"
#include "compare/rows.h"

struct st_pool;

/* Sums over elements whose codes are at no end of their range: what is cut there says nothing of a factor. */
struct st_inner_sums {
	double aa, bb, ab;
	double error_a, error_b; /* of a^2 (a - b)^2, and of b^2 (a - b)^2 */
	double steps;            /* of (a - b) in steps of the codes */
	uint64_t n;
};

struct st_row_stat {
	double aa, bb, ab, dd;        /* sums over the row */
	double pred;                  /* what dd is expected to be, of numbers that are anywhere in their cells */
	uint64_t bad_a, bad_b, apart; /* non-finite elements */
	double max;                   /* |a - b| */
	float largest_a, largest_b;   /* magnitudes */
	struct st_fit fit;
	bool wide; /* cells so wide that they hide a factor */
	struct st_inner_sums inner; /* of such a row */
	bool bad;  /* no original gives both rows */
};

/* What the rows say together. */
struct st_pair_summary {
	double aa, bb, ab, dd, pred, max;
	uint64_t nonfinite_a, nonfinite_b, apart;
	uint64_t bad_rows, first_bad, last_bad;
	struct st_fit fit;
	bool noise;         /* one original could have given both: every row, and the whole */
	struct st_held via; /* the finer type that one side went through before, where that explains it; else F32 */
	double rel;         /* sqrt(dd / bb) */
	double predicted;   /* sqrt(pred / bb) */
	double gain;
};

/* Numbers that went through no other type. */
#define ST_NO_PAST ((struct st_held){ ST_DTYPE_F32, 1 })

/* The sums of rows idx[0..n), or of rows 0..n when idx is NULL, where the numbers went through `via` (F32: nothing). */
ST_MUST_CHECK enum st_status st_pair_measure(const struct st_rows *a, const struct st_rows *b, const uint64_t *idx,
                                             uint64_t n, struct st_held via, struct st_pool *pool,
                                             struct st_row_stat *stats, struct st_error *err);
/* What they say together; sets `bad` of each. */
void st_pair_summarise(struct st_row_stat *stats, const uint64_t *idx, uint64_t n, struct st_pair_summary *s);

/*
 * Both: judge rows idx[0..n), or rows 0..n when idx is NULL. Where they are no noise by themselves, what the numbers
 * may have gone through before is tried (s->via).
 */
ST_MUST_CHECK enum st_status st_pair_judge(const struct st_rows *a, const struct st_rows *b, const uint64_t *idx,
                                           uint64_t n, struct st_pool *pool, struct st_row_stat *stats,
                                           struct st_pair_summary *s, struct st_error *err);

/* Two weights of one shape. */
struct st_pair {
	struct st_rows a, b;
	struct st_row_stat *stats; /* of every row */
	struct st_pair_summary sum;
};
ST_MUST_CHECK enum st_status st_pair_open(struct st_pair *p, const struct st_weight *a, const struct st_weight *b,
                                          struct st_pool *pool, struct st_error *err);
void st_pair_close(struct st_pair *p);

#endif
