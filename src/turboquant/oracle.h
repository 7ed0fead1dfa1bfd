/*
 * oracle.h - attention in f64, from the definition. Shares nothing with the codec and the kernels
 * but the table of levels and the sign bits: own unpacking, own transform, the C library's
 * exp and tanh. It also evaluates every mistake the diagnosis knows, one field each.
 */
#ifndef ST_TURBOQUANT_ORACLE_H
#define ST_TURBOQUANT_ORACLE_H

#include "turboquant/tq.h"

/* How keys and values are decoded, or mis-decoded. */
struct st_oracle_decode {
	unsigned bits;
	const double *levels; /* 2^bits */
	bool signs, fwht;     /* undo the transform and the signs */
	bool nibbles_swapped;
	enum { ST_NORM_OWN, ST_NORM_SWAPPED, ST_NORM_FIRST, ST_NORM_SECOND } norm_block; /* d = 512 */
	double factor; /* what a centroid times a norm is worth: 1/sqrt(d), or 1/scale_factor_d512 */
};

/* codes, norms: one row -> y: [d] */
void st_oracle_decode_row(const struct st_oracle_decode *o, uint32_t d, const uint8_t *codes, const float *norms,
                          double *y);
/* x: [d] in place: orthonormal Walsh-Hadamard by its definition's recursion, sums in f64. */
void st_oracle_fwht(double *x, uint32_t d);

/* Attention over rows given as f64: row(i) of kv head g is k + (g n + i) d, i in [0, n).
 * scale and softcap of p; heads h read kv head head_map[h]. out: [H, d] */
ST_MUST_CHECK enum st_status st_oracle_attend(const struct st_tq_params *p, const uint32_t *head_map, const double *q,
                                              const double *k, const double *v, uint32_t n, double *out,
                                              struct st_error *err);

/* The reference of the kernel: decode what p's mask shows by chronology and attend.
 * q: [H, d] natural; codes and norms [G, P, ..]; out: [H, d] natural. */
ST_MUST_CHECK enum st_status st_oracle_dequant(const struct st_tq_params *p, const struct st_oracle_decode *o,
                                               const struct st_tq_kv *kv, const float *q, double *out,
                                               struct st_error *err);
/* Attention over values that were never quantised. k, v: [G, L, d] in chronological order. */
ST_MUST_CHECK enum st_status st_oracle_floor(const struct st_tq_params *p, const float *k, const float *v,
                                             const float *q, double *out, struct st_error *err);

#endif
