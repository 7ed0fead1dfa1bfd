/*
 * codebook.h - scalar quantisers for N(0,1): the optimum, computed, and tables others ship.
 *
 * A Lloyd-Max codebook of n levels c and boundaries b satisfies two conditions at once:
 * b[i] = (c[i] + c[i+1])/2 and c[i] = E[x | b[i-1] < x < b[i]]. Both are solved here from the
 * exact normal distribution, so no constant has to be trusted.
 */
#ifndef ST_TURBOQUANT_CODEBOOK_H
#define ST_TURBOQUANT_CODEBOOK_H

#include <stele/status.h>

enum { ST_TQ_MIN_BITS = 2, ST_TQ_MAX_BITS = 8, ST_TQ_MAX_LEVELS = 256 };

struct st_codebook {
	unsigned bits, n; /* n = 1 << bits levels, ascending */
	double level[ST_TQ_MAX_LEVELS];
	/* What the codec uses: levels rounded to f32, midpoints of the rounded levels. Entry n - 1 of
	 * the boundaries is +inf so that a search may read it. */
	float level_f32[ST_TQ_MAX_LEVELS], bound_f32[ST_TQ_MAX_LEVELS];
};

/* The optimum for 2..8 bits, to 1e-12 in every level. False for other widths. */
bool st_codebook_generate(struct st_codebook *cb, unsigned bits);
/* From given levels (n = 2^bits, strictly ascending, finite). */
ST_MUST_CHECK enum st_status st_codebook_from_levels(struct st_codebook *cb, const double *level, size_t n,
                                                     struct st_error *err);

/* What is known of a table that other implementations ship. Tables symmetric about zero are kept
 * as their positive half; n_levels 0 means that only the figures are known. */
struct st_codebook_known {
	const char *name;
	unsigned bits;
	unsigned n_levels; /* entries of `half` */
	const double *half;
	double outermost, rmse; /* as published; 0 = not known */
};
extern const struct st_codebook_known st_codebooks_known[];
extern const size_t st_codebooks_n_known;
bool st_codebook_from_known(struct st_codebook *cb, const struct st_codebook_known *k);

struct st_codebook_lint {
	double lloyd_move;         /* largest |c - E[x | cell of c]|: how far one Lloyd step moves a level */
	unsigned lloyd_level;      /* the level that moves most */
	double distance;           /* largest |c - optimum c| */
	double rmse, rmse_optimum; /* of quantising N(0,1) */
	double mse_excess;         /* MSE / optimal MSE - 1 */
	double outermost, outermost_optimum;
	double asymmetry; /* largest |c[i] + c[n-1-i]| */
	bool ok;          /* every level within ST_CODEBOOK_TOLERANCE of the optimum */
};
/* A table printed with 7 decimals of f32 levels is off by at most this; a further one is not the optimum. */
#define ST_CODEBOOK_TOLERANCE 1e-6
void st_codebook_lint(const struct st_codebook *cb, struct st_codebook_lint *out);

#endif
