/*
 * oracle.h - attention in f64, from the definition. Shares nothing with the codec and the kernels
 * but the table of levels and the sign bits: own unpacking, own transform, the C library's
 * exp and tanh. It also evaluates every mistake the diagnosis knows, one field each.
 */
#ifndef ST_TURBOQUANT_ORACLE_H
#define ST_TURBOQUANT_ORACLE_H

#include "turboquant/tq.h"

#include <math.h>

/* How keys and values are decoded, or mis-decoded. */
struct st_oracle_decode {
	unsigned bits;
	const float *levels; /* 2^bits, the codec's */
	bool signs, fwht;    /* undo the transform and the signs */
	bool nibbles_swapped;
	enum { ST_NORM_OWN, ST_NORM_SWAPPED, ST_NORM_FIRST, ST_NORM_SECOND } norm_block; /* d = 512 */
	double factor; /* what a centroid times a norm is worth: 1/sqrt(d), or 1/scale_factor_d512 */
};
/* As the codec decodes; it must outlive the result. */
struct st_oracle_decode st_oracle_decode_of(const struct st_tq_codec *c);

/* codes, norms: one row -> y: [d] */
void st_oracle_decode_row(const struct st_oracle_decode *o, uint32_t d, const uint8_t *codes, const float *norms,
                          double *y);
/* x: [d] in place: orthonormal Walsh-Hadamard by its definition's recursion, sums in f64. */
void st_oracle_fwht(double *x, uint32_t d);
/* Sum of a[j] b[j] in eight parts; d is a multiple of 8. */
double st_oracle_dot(const double *a, const double *b, uint32_t d);
/* scale q.k under a soft-cap; softcap 0: none. */
double st_oracle_score(const double *q, const double *k, uint32_t d, double scale, double softcap);

/* One step of attention over rows that come from a function. */
struct st_oracle_step {
	const struct st_tq_params *p; /* of it: the heads and the head size */
	double scale, softcap;
	const double *q;     /* [H, d] */
	const uint32_t *map; /* [H]: the key/value head of each query head; NULL: h / (H / G) */
	uint32_t n;          /* rows that are seen */
	/* Key or value (v) row i < n of a key/value head, in q's basis -> y: [d] */
	void (*row)(const void *ctx, bool v, uint32_t g, uint32_t i, double *y);
	/* True: *x is the score of query head h, whatever its key says. Or NULL. */
	bool (*score)(const void *ctx, uint32_t h, uint32_t g, uint32_t i, double *x);
	const void *ctx;
	double *scores, *top, *total, *out; /* [H, n]; [H] largest score; [H] sum of weights; [H, d] */
};
void st_oracle_attend(const struct st_oracle_step *s);

/* The reference of the kernel: decode what p's mask shows by chronology and attend.
 * q: [H, d] natural; codes and norms [G, P, ..]; out: [H, d] natural. */
ST_MUST_CHECK enum st_status st_oracle_dequant(const struct st_tq_params *p, const struct st_oracle_decode *o,
                                               const struct st_tq_kv *kv, const float *q, double *out,
                                               struct st_error *err);
/* Attention over keys and values that were never quantised: [G, L, d] in chronological order. */
ST_MUST_CHECK enum st_status st_oracle_floor(const struct st_tq_params *p, const float *const pre[2], const float *q,
                                             double *out, struct st_error *err);

/* The sums behind an nrmse, added up value by value. */
struct st_apart {
	double diff, total;
};
static inline void st_apart_add(struct st_apart *s, double a, double ref)
{
	s->diff += (a - ref) * (a - ref);
	s->total += ref * ref;
}
/* Against a reference of zeros, zeros are equal and all else is infinitely far. */
static inline double st_apart_nrmse(const struct st_apart *s)
{
	return s->total != 0 ? sqrt(s->diff / s->total) : s->diff == 0 ? 0 : INFINITY;
}

#endif
