/*
 * kernel.h - the arithmetic of the forward pass, in three modes and several CPU levels.
 *
 * docs/numerics.md is the contract: accumulator, lanes, reduction tree and rounding of
 * each operation. Within a mode the bits do not depend on CPU level, thread count or tile.
 * Values between stages are f32 in every mode; a mode says how one operation gets from
 * f32 inputs to f32 outputs.
 *
 * Matrices are row-major; T tokens, D hidden, K/N in/out features, H/G query/key-value
 * heads, d head size, P positions in the cache.
 */
#ifndef ST_KERNEL_KERNEL_H
#define ST_KERNEL_KERNEL_H

#include <stele/dtype.h>
#include <stele/pool.h>

enum st_cpu { ST_CPU_SCALAR, ST_CPU_AVX2, ST_CPU_AVX512, ST_CPU_NEON, ST_CPU_COUNT };

enum st_mode {
	ST_MODE_EXACT,       /* f64 products and sums, one rounding to f32 at the end: the judge */
	ST_MODE_FAST,        /* f32 fused multiply-add, 16 lanes */
	ST_MODE_EMULATE_F16, /* fast, with both operands of every product rounded to f16 */
	ST_MODE_EMULATE_BF16,
	ST_MODE_EMULATE_Q8_0, /* fast, with activations stored as Q8_0 where the row is a multiple of 32 */
	ST_MODE_EMULATE_Q8_K, /* likewise Q8_K, 256; Q8_0 where only 32 divides the row */
	ST_MODE_COUNT
};

/* "exact", "fast", "emulate:f16", ...; case-insensitive parse. */
const char *st_mode_name(enum st_mode m);
bool st_mode_parse(const char *name, enum st_mode *out);
/* "scalar", "avx2", "avx512", "neon". */
const char *st_cpu_name(enum st_cpu c);
bool st_cpu_parse(const char *name, enum st_cpu *out);
bool st_cpu_usable(enum st_cpu c); /* compiled in, and this processor has it */
enum st_cpu st_cpu_best(void);

struct st_kernels; /* one CPU level's table of functions; several may be in use in one process */
/* NULL when not usable here. */
const struct st_kernels *st_kernels_get(enum st_cpu c);
enum st_cpu st_kernels_cpu(const struct st_kernels *k);

/* How to run: passed to every kernel. */
struct st_exec {
	const struct st_kernels *k;
	enum st_mode mode;
	struct st_pool *pool; /* NULL: the calling thread alone */
};
/* Best level, mode exact, no pool. */
struct st_exec st_exec_default(void);
/* The same at a level by name; NULL: the best. ST_ERR_USAGE of "--cpu" where it is none, or cannot be used here. */
ST_MUST_CHECK enum st_status st_exec_at(const char *cpu, struct st_exec *out, struct st_error *err);

/* Scratch that st_matmul needs for T tokens of K features (rounded operands). */
size_t st_matmul_scratch(const struct st_exec *e, size_t T, size_t K);

/*
 * y[t, n] = sum_k x[t, k] w[n, k]
 * x: [T, K], rows K floats apart   w: [N, K] stored, any layout   y: [T, N], rows ldy floats apart
 * scratch: st_matmul_scratch bytes, 64-byte aligned.
 * Splits output rows over threads. Decodes a tile of w into cache and multiplies it at once.
 */
void st_matmul(const struct st_exec *e, const struct st_tensor *w, const float *x, size_t T, size_t K, float *y,
               size_t ldy, void *scratch);

/* y[t, i] = w[i] x[t, i] / sqrt(mean_i x^2 + eps)   x, y: [T, D] rows ld apart; w: [D] or NULL for ones */
void st_rmsnorm(const struct st_exec *e, const float *x, size_t ldx, const float *w, double eps, size_t T, size_t D,
                float *y, size_t ldy);

/* y[t, i] = w[i] (x[t, i] - mean_i x) / sqrt(mean_i (x - mean)^2 + eps) + b[i]
 * w: [D] or NULL for ones; b: [D] or NULL */
void st_layernorm(const struct st_exec *e, const float *x, size_t ldx, const float *w, const float *b, double eps,
                  size_t T, size_t D, float *y, size_t ldy);

/* Rotary embedding in the half-split basis: pairs (i, i + n_rot/2) of each head; dims >= n_rot pass through.
 * angle of pair i at position p = p * inv_freq[i], evaluated in f64; mscale multiplies cos and sin.
 * x: [T, n_heads*d] rows ldx apart -> y likewise. */
void st_rope(const struct st_exec *e, const float *x, size_t ldx, size_t T, size_t n_heads, size_t d, size_t n_rot,
             const double *inv_freq, double mscale, const uint32_t *pos, float *y, size_t ldy);

struct st_attn_shape {
	size_t T, P; /* new tokens; cached positions, the new ones last: token t is position P - T + t */
	size_t n_heads, n_kv_heads, head_dim;
	uint32_t window; /* 0 = all; else a query sees itself and window - 1 positions before it */
	uint32_t chunk;  /* 0 = all; else it sees those of its own run of `chunk` positions only */
	double scale;    /* multiplies q.k */
	double softcap;  /* 0 = none */
	/* ALiBi: slope(h) times the distance is taken from a score; 0 = none. The slopes are powers of 2^(-slopes / n), n
	 * the largest power of two among the heads; heads beyond it have the odd powers of 2^(-slopes / 2n). */
	double slopes, slope_scale; /* slope_scale multiplies them all */
};
/* scores[h, t, p] = softcap(scale * q.k) - slope(h) (distance of t and p), masked cells 0.   q: [T, H d] ldq   k: [P, G d] ldk   scores: [H, T, P] */
void st_attn_scores(const struct st_exec *e, const struct st_attn_shape *s, const float *q, size_t ldq, const float *k,
                    size_t ldk, float *scores);
/* probs[h, t, p]: softmax over the visible p of scores, masked cells 0. May run in place. */
void st_attn_softmax(const struct st_exec *e, const struct st_attn_shape *s, const float *scores, float *probs);
/* The same with one score more for each head, sinks[H], whose own probability is not kept. */
void st_attn_softmax_sinks(const struct st_exec *e, const struct st_attn_shape *s, const float *scores,
                           const float *sinks, float *probs);
/* What head h takes off for each position of distance. */
double st_attn_slope(const struct st_attn_shape *s, size_t h);
/* y[t, h d + i] = sum_p probs[h, t, p] v[p, g(h) d + i]   v: [P, G d] ldv   y: [T, H d] */
void st_attn_mix(const struct st_exec *e, const struct st_attn_shape *s, const float *probs, const float *v, size_t ldv,
                 float *y);

enum st_activation {
	ST_ACT_SILU,
	ST_ACT_GELU_TANH,
	ST_ACT_GELU,
	ST_ACT_RELU,
	ST_ACT_RELU_SQUARED,
	ST_ACT_SIGMOID,
	ST_ACT_GELU_QUICK,
	ST_ACT_TANH,
	ST_ACT_EXP,
	ST_ACT_COUNT
};
void st_activate(const struct st_exec *e, enum st_activation act, const float *x, size_t n, float *y);
void st_add(const struct st_exec *e, const float *a, const float *b, size_t n, float *y);
void st_mul(const struct st_exec *e, const float *a, const float *b, size_t n, float *y);
/* y[i] = by x[i]; y may be x */
void st_scale(const struct st_exec *e, const float *x, double by, size_t n, float *y);
/* y[i] = by x[i] + plus, in f64; y may be x */
void st_scale_plus(const struct st_exec *e, const float *x, double by, double plus, size_t n, float *y);
/* y[i] = cap tanh(x[i] / cap); y may be x */
void st_cap(const struct st_exec *e, const float *x, double cap, size_t n, float *y);
/* Soft-max of one row; y may be x. */
void st_softmax(const struct st_exec *e, const float *x, size_t n, float *y);
/* Indices of the k largest of x[n], the largest first; of equals the lowest first, NaN last. */
void st_top(const float *x, size_t n, size_t k, float *index);
/* Of x[n], n > 0, without NaN: the largest and the next largest (SIZE_MAX of one alone), of equals the lowest index, and by
 * how much the one leads. */
struct st_lead {
	size_t best, next;
	double gap; /* 0 of one alone */
};
struct st_lead st_lead_of(const float *x, size_t n);
/* y[i] = sum_c w[c] x[c D + i] in f64, in order of c, rounded once; w NULL: ones */
void st_weighted_sum(const struct st_exec *e, const float *x, const float *w, size_t C, size_t D, float *y);
/* y[t, i] = x[t, i] + b[i]   x, y: [T, D] */
void st_add_bias(const struct st_exec *e, const float *x, const float *b, size_t T, size_t D, float *y);

/* Elementary functions with fixed bits on every machine; bounds in docs/numerics.md, checked against MPFR. */
double st_exp(double x);
double st_log(double x);
void st_sincos(double x, double *s, double *c);

/* Register tiles of a product of two f32 matrices: fma in order of k from zero, the same bits at every level. */
struct st_gemm_level {
	size_t mr, nr; /* rows and columns of a tile */
	/* c[mr, nr] (+)= sum over kc of a[k mr + i] b[k nr + j]; a, b packed, c rows ldc apart */
	void (*tile)(size_t kc, const float *a, const float *b, float *c, size_t ldc, bool add);
};
/* The reference's where the level is not usable. */
const struct st_gemm_level *st_gemm_level(enum st_cpu c);

/* In-place fast Walsh-Hadamard transform, natural order, times 1/sqrt(n); n a power of two. The same bits at every
 * level. */
void st_fwht(const struct st_kernels *k, float *x, size_t n);

#endif
