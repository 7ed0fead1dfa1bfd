/*
 * tq.h - the packed KV cache and the decode-step attention kernel that reads it.
 *
 * Letters: H query heads, G key/value heads, d head size, P cache capacity in rows, B norm
 * blocks of a row (2 for d = 512, else 1), L rows of the sequence.
 *
 * A row of one head is stored as codes (two per byte at 4 bits, coordinate 2i in the low
 * nibble; one per byte at 5, 6, 8 bits) and B norms. All codes [G, P, d/2 or d], all norms [G, P, B].
 */
#ifndef ST_TURBOQUANT_TQ_H
#define ST_TURBOQUANT_TQ_H

#include "base/mem.h"
#include "base/pool.h"
#include "kernel/kernel.h"
#include "turboquant/codebook.h"

/* ---- shapes ---- */

/* 1 for the head sizes the cache has (128, 256, 512); and bits a cache can store (4, 5, 6, 8). */
bool st_tq_head_dim_ok(uint32_t d);
bool st_tq_bits_ok(unsigned bits);
static inline size_t st_tq_row_bytes(uint32_t d, unsigned bits) { return bits == 4 ? d / 2 : d; }
static inline uint32_t st_tq_norm_blocks(uint32_t d) { return d == 512 ? 2 : 1; }

/* ---- constants of the format (the only part the oracle shares) ---- */

/* -1 or +1 for coordinate j < 512 under the D1 sign table. */
float st_tq_sign(uint32_t j);

/* ---- quantiser ---- */

struct st_tq_codec {
	uint32_t d;
	unsigned bits;
	bool signs; /* D1 signs before the transform */
	double scale_factor_d512;
	enum st_cpu cpu;
	struct st_codebook book;
	float sign[512]; /* of each coordinate; ones without signs */
};

/* Names the parameter that does not fit. */
ST_MUST_CHECK enum st_status st_tq_codec_init(struct st_tq_codec *c, uint32_t d, unsigned bits, bool signs,
                                              double scale_factor_d512, enum st_cpu cpu, struct st_error *err);
/* Signs then transform, in place; and the way back. x: [n, d] */
void st_tq_rotate(const struct st_tq_codec *c, float *x, size_t n);
void st_tq_unrotate(const struct st_tq_codec *c, float *x, size_t n);
/* x: [n, d] -> codes: [n, row bytes], norms: [n, B]. Rows split over threads. */
void st_tq_encode(const struct st_tq_codec *c, const float *x, size_t n, uint8_t *codes, float *norms,
                  struct st_pool *pool);
/* codes, norms -> y: [n, d] in the rotated basis; st_tq_unrotate brings it back. */
void st_tq_decode_rotated(const struct st_tq_codec *c, const uint8_t *codes, const float *norms, size_t n, float *y);
void st_tq_decode(const struct st_tq_codec *c, const uint8_t *codes, const float *norms, size_t n, float *y);
/* Round to f16 (to nearest even) and back. */
float st_tq_round_f16(float x);

/* A cache that is written position by position. */
struct st_tq_cache {
	uint32_t n_kv_heads, capacity;
	uint64_t written; /* positions ever written */
	uint8_t *codes;   /* [G, P, row bytes]; unwritten rows have norm 0 */
	float *norms;     /* [G, P, B] */
	struct st_arena mem;
};
ST_MUST_CHECK enum st_status st_tq_cache_init(struct st_tq_cache *c, const struct st_tq_codec *codec,
                                              uint32_t n_kv_heads, uint32_t capacity, struct st_error *err);
void st_tq_cache_release(struct st_tq_cache *c);
/* Append the row x: [G, d] of one position. `ring`: overwrite the oldest row when full; otherwise a
 * full cache refuses. Row = position mod capacity. */
ST_MUST_CHECK enum st_status st_tq_cache_append(struct st_tq_cache *c, const struct st_tq_codec *codec, const float *x,
                                                bool ring, struct st_error *err);
/* Where chronological position 0 of the visible sequence lies once `written` positions are in:
 * 0 until the ring is full, then the row after the newest one. */
uint32_t st_tq_ring_start(uint64_t written, uint32_t capacity);

/* ---- attention ---- */

enum st_tq_mask { ST_TQ_MASK_NONE, ST_TQ_MASK_CAUSAL, ST_TQ_MASK_SLIDING };
enum st_tq_visibility { ST_TQ_CHRONOLOGICAL, ST_TQ_PHYSICAL };

struct st_tq_params {
	uint32_t num_heads, num_kv_heads, head_dim, kv_seq_len, kv_capacity;
	double scale;
	uint32_t mask_type; /* enum st_tq_mask */
	uint32_t sliding_window;
	double softcap; /* 0 = none */
	uint32_t ring_start;
	double scale_factor_d512;
};
/* Every rule of the format; the error's `where` is the parameter's name. */
ST_MUST_CHECK enum st_status st_tq_params_check(const struct st_tq_params *p, struct st_error *err);

/* The rows a query sees, as at most two runs of physical rows in reading order. */
struct st_tq_rows {
	uint32_t start[2], count[2];
	uint32_t visible;  /* sum of count */
	uint32_t expected; /* rows that the mask lets through by chronology */
};
void st_tq_visible_rows(const struct st_tq_params *p, enum st_tq_visibility vis, struct st_tq_rows *rows);

/* What the kernel reads: packed codes and norms, or dense f32 rows [G, P, d]. In this room keys are [0] of every pair and
 * values are [1]. */
struct st_tq_kv {
	const uint8_t *codes[2];
	const float *norms[2];
	const float *dense[2]; /* where codes are NULL */
};

struct st_tq_exec {
	enum st_cpu cpu;
	struct st_pool *pool; /* or NULL */
	bool q_f16;           /* round the query to f16 first, as existing kernels do */
	enum st_tq_visibility visibility;
	/* Of caches that are made for it: the width of a code, and whether D1 signs come before the transform. */
	unsigned bits;
	bool signs;
};

/*
 * out[h] = sum_i softmax_i(softcap(scale q[h].k[g,i])) v[g,i]      q: [H, d]  out: [H, d], both in the rotated basis
 * Dequantisation happens in registers; scores live for 64 rows at a time. Bits do not depend on cpu,
 * threads or where the ring is cut. p must have passed st_tq_params_check; codec may be NULL for dense.
 */
ST_MUST_CHECK enum st_status st_tq_attention(const struct st_tq_exec *e, const struct st_tq_codec *codec,
                                             const struct st_tq_params *p, const struct st_tq_kv *kv, const float *q,
                                             float *out, struct st_error *err);

/* The kernel as an engine calls it: the query is rotated, attended with, and the result rotated back.
 * q, out: [H, d], natural basis. */
ST_MUST_CHECK enum st_status st_tq_step(const struct st_tq_exec *e, const struct st_tq_codec *codec,
                                        const struct st_tq_params *p, const struct st_tq_kv *kv, const float *q,
                                        float *out, struct st_error *err);

/* sqrt(sum (a - ref)^2 / sum ref^2), 0 when the denominator is 0. */
double st_tq_nrmse(const float *a, const double *ref, size_t n);

#endif
