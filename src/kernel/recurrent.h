/*
 * recurrent.h - operations that carry a state from token to token.
 *
 * All of them: f64 inside, in plain order, so that the bits are the same everywhere; a state is f64 and is never rounded, so that tokens
 * one by one give the bits of tokens at once; each result is rounded to f32 once. A state begins as zeros and is left as the last
 * token makes it. y may be NULL: only the state goes on.
 */
#ifndef ST_KERNEL_RECURRENT_H
#define ST_KERNEL_RECURRENT_H

#include "kernel/kernel.h"

#define ST_MAX_STATE 4096 /* dv of the delta rule, N of a scan */

/* Each feature over the last K tokens: y[t, c] = sum over k, ascending, of w[c, k] x[t - K + 1 + k, c]; w: [C, K]; state: [C, K - 1], the inputs
 * before these. */
void st_conv(const struct st_exec *e, const float *x, size_t ldx, const float *w, size_t T, size_t C, size_t K,
             double *state, float *y);

/*
 * The gated delta rule. For each head S[dk, dv]: S = exp(g) S, row by row where there is a g for each; d = (v - sum_i k[i] S[i]) beta; S[i] += k[i]
 * d; y = scale sum_i q[i] S[i]. Sums over i ascending. Head h has the query and key of head h key_heads / heads.
 */
struct st_delta_shape {
	size_t T, heads, key_heads, dk, dv;
	bool g_each; /* g: [T, heads dk]; else [T, heads] */
	double scale;
};
struct st_features {
	const float *x;
	size_t ld; /* floats from one token's row to the next */
};
void st_delta_rule(const struct st_exec *e, const struct st_delta_shape *s, struct st_features q, struct st_features k,
                   struct st_features v, struct st_features g, struct st_features beta, double *state, float *y);

/*
 * Linear attention. For each head S[dk, dv]: S = exp(g) S + k v, with a g for each head or each feature of its keys, or the same at
 * every token: g = -slope_scale 2^(-slopes (h + 1) / heads). y = scale sum_i q[i] S[i], i ascending; with `first` the newest token's k v
 * comes in there times first[i], and S decays behind it (RWKV 6).
 */
struct st_linear_attention_shape {
	size_t T, heads, dk, dv;
	bool g_each;                /* g: [T, heads dk]; else [T, heads] */
	double slopes, slope_scale; /* where g.x is NULL */
	double scale;
};
void st_linear_attention(const struct st_exec *e, const struct st_linear_attention_shape *s, struct st_features q, struct st_features k,
                         struct st_features v, struct st_features g, const float *first, double *state, float *y);

/*
 * A selective scan (Mamba 1: heads of one feature, a_each; Mamba 2: one number of A for each head). For each feature i of head h, and n < N:
 * H[n] = exp(dt[h] A[h, n]) H[n] + dt[h] B[n] x[i]; y = sum_n C[n] H[n], ascending, + D[h] x[i]. Head h has B and C of group h groups / heads.
 */
struct st_scan_shape {
	size_t T, heads, head_dim, groups, N;
	bool a_each; /* A: [heads, N]; else [heads] */
};
void st_scan(const struct st_exec *e, const struct st_scan_shape *s, struct st_features x, struct st_features dt,
             struct st_features B, struct st_features C, const float *A, const float *D, double *state, float *y);

/*
 * The real-gated linear recurrence: a = exp(-8 r softplus(p)); h = a h + sqrt(1 - a^2) i x, but h = i x for the first token of all. r, i: the gates, [T,
 * D]; p, state: [D].
 */
void st_lru(const struct st_exec *e, struct st_features x, struct st_features r, struct st_features i, const float *p,
            size_t T, size_t D, bool first, double *state, float *y);

/* y[t, i] = w[i] x[t, i] + (1 - w[i]) x[t - 1, i], without w the token before alone; state: [D], that token. */
void st_token_shift(const struct st_exec *e, const float *x, size_t ldx, const float *w, size_t T, size_t D,
                    double *state, float *y);

/*
 * RWKV 4: sums of values weighed by exp(key), falling by exp(-exp(decay)) a token, the newest times exp(first). state: [3, D]: numerator, denominator,
 * the exponent that both are relative to.
 */
void st_wkv(const struct st_exec *e, struct st_features k, struct st_features v, const float *decay, const float *first,
            size_t T, size_t D, bool begin, double *state, float *y);

/* log(1 + exp(x)) in f64, rounded once; y may be x */
void st_softplus(const float *x, size_t n, float *y);

#endif
