/*
 * kernels.h - what one CPU level offers, and how the drivers split work.
 *
 * Every function of a table gives the same bits as the scalar level's, NaN payloads aside:
 * the drivers store st_canonical() of what may be NaN. Pointers need the alignment of
 * their type only, unless a comment says otherwise.
 */
#ifndef ST_KERNEL_KERNELS_H
#define ST_KERNEL_KERNELS_H

#include "base/pool.h"
#include "kernel/kernel.h"

#include <math.h>

#define ST_LANES_F32 16  /* partial sums of a fast product sum */
#define ST_LANES_F64 8   /* of an exact one */
#define ST_LANES_MIX 4   /* of a sum over positions; each lane is a vector over features */
#define ST_MIX_WIDTH 256 /* features of one mix call at most */

#define ST_FUSED_TOKENS 4
#define ST_SUM_BYTES 64 /* the lanes of one sum, in either type */

typedef void (*st_decode_fn)(const void *src, float *dst, size_t n);

struct st_kernels {
	enum st_cpu cpu;

	/* As st_dtype_info.decode; NULL: use that. src at any alignment. */
	st_decode_fn decode[ST_DTYPE_COUNT];

	/*
	 * acc[t][r][l] += sum over k = l mod lanes, ascending, of w[r][k] x[t][k], each step one
	 * fma; k runs on to a multiple of the lane count with zeros.
	 * w: [R, K] rows ldw apart   x: [T, K] rows ldx apart   acc: [T, R, lanes], 64-byte aligned
	 * Exact sums take x in f64 already: converting it at every use would cost as much as the products.
	 */
	void (*dot_f32)(const float *w, size_t ldw, size_t R, const float *x, size_t ldx, size_t T, size_t K,
	                float *acc);
	void (*dot_f64)(const float *w, size_t ldw, size_t R, const double *x, size_t ldx, size_t T, size_t K,
	                double *acc);
	/* dot on stored blocks, R rows row_bytes apart, K a multiple of the block, T <= ST_FUSED_TOKENS; NULL: decode,
	 * then dot */
	void (*fused_f32[ST_DTYPE_COUNT])(const uint8_t *w, size_t row_bytes, size_t R, const float *x, size_t ldx,
	                                  size_t T, size_t K, float *acc);
	void (*fused_f64[ST_DTYPE_COUNT])(const uint8_t *w, size_t row_bytes, size_t R, const double *x, size_t ldx,
	                                  size_t T, size_t K, double *acc);
	/* y[i] = sum of the lanes acc[i][...], by the tree l += l + 8, + 4, + 2, + 1. */
	void (*sum_f32)(const float *acc, size_t n, float *y);
	void (*sum_f64)(const double *acc, size_t n, double *y);

	/* acc[p mod 4][i] = fma(prob[p], v[p][i], acc)   v: [P, n] rows ldv apart   acc: [4, ST_MIX_WIDTH] */
	void (*mix_f32)(const float *prob, size_t P, const float *v, size_t ldv, size_t n, float *acc);
	void (*mix_f64)(const float *prob, size_t P, const float *v, size_t ldv, size_t n, double *acc);

	/* y[i] = (x[i] r) w[i] in f64; w NULL: x[i] r */
	void (*scale_row)(const float *x, double r, const float *w, size_t n, float *y);
	/* y[i] = (x[i] - mean) r w[i] + b[i] in f64; w NULL: 1, b NULL: nothing added */
	void (*centre_row)(const float *x, double mean, double r, const float *w, const float *b, size_t n, float *y);
	/* x[i] -> softcap(scale x[i]); softcap 0 = none */
	void (*finish_scores_f32)(const float *x, double scale, double softcap, size_t n, float *y);
	void (*finish_scores_f64)(const double *x, double scale, double softcap, size_t n, float *y);
	/* softmax of one row in f64; may run in place */
	void (*softmax)(const float *x, size_t n, float *y);
	void (*activate[ST_ACT_COUNT])(const float *x, size_t n, float *y);
	void (*add)(const float *a, const float *b, size_t n, float *y);
	void (*mul)(const float *a, const float *b, size_t n, float *y);
	void (*widen)(const float *x, size_t n, double *y);
	void (*round_f16)(const float *x, size_t n, float *y);
	void (*round_bf16)(const float *x, size_t n, float *y);
	void (*sincos)(const double *x, size_t n, double *s, double *c);
	/* (a[i], b[i]) turned by the angle with cosine c[i], sine s[i]; may run in place */
	void (*rotate)(const float *a, const float *b, const double *c, const double *s, size_t n, float *ya,
	               float *yb);
	void (*fwht)(float *x, size_t n);
	struct st_gemm_level gemm;
};

extern const struct st_kernels st_kernels_scalar, st_kernels_avx2, st_kernels_avx512, st_kernels_neon;

/* The one NaN Stele writes; processors differ in the sign and payload of theirs. */
static inline float st_canonical(float x) { return x == x ? x : (float)NAN; }

/* Activations as a mode's dot takes them: f64 in exact mode, rounded in emulate modes, as they are in fast mode. */
static inline bool st_mode_prepares(enum st_mode mode) { return mode != ST_MODE_FAST; }
static inline size_t st_mode_operand(enum st_mode mode)
{
	return mode == ST_MODE_EXACT ? sizeof(double) : sizeof(float);
}
/* One whole row of n: blocks of 8-bit modes begin at its start. y: n operands */
void st_prepare_row(const struct st_exec *e, const float *x, size_t n, void *y);

/* Does the mode round weights, and the operands of attention? (All emulate modes round st_matmul's x.) */
static inline bool st_mode_rounds_both(enum st_mode mode)
{
	return mode == ST_MODE_EMULATE_F16 || mode == ST_MODE_EMULATE_BF16;
}
/* In a mode that rounds both; y may be x. */
void st_round_row(const struct st_exec *e, const float *x, size_t n, float *y);

/* The table's dot for a mode: exact sums in f64, all others in f32. x: operands; acc: [T, R] sums of ST_SUM_BYTES. */
static inline void st_dot(const struct st_exec *e, const float *w, size_t ldw, size_t R, const void *x, size_t ldx,
                          size_t T, size_t K, void *acc)
{
	if (e->mode == ST_MODE_EXACT)
		e->k->dot_f64(w, ldw, R, x, ldx, T, K, acc);
	else
		e->k->dot_f32(w, ldw, R, x, ldx, T, K, acc);
}

#endif
