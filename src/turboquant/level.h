/* level.h - what one CPU level provides; level_*.c each compile level_impl.h once. */
#ifndef ST_TURBOQUANT_LEVEL_H
#define ST_TURBOQUANT_LEVEL_H

#include "turboquant/tq.h"

/* Visible rows per softmax step, and per independently reduced stretch of the sequence. Both are part
 * of the numeric contract: changing them changes bits. */
enum { ST_TQ_CHUNK = 64, ST_TQ_SPLIT = 8192 };

/* Query heads that share one pass over the rows: their accumulators fill the vector registers. */
enum { ST_TQ_PAIR = 2 };

/* One task: 1 or 2 query heads of one key/value head over visible rows [first, end). */
struct st_tq_task {
	struct st_tq_kv kv; /* of the head: [P, row bytes], [P, B]; or [P, d] */
	const float *table; /* codebook, 2^bits entries */
	const struct st_tq_rows *rows;
	uint32_t first, end, d, n_heads; /* n_heads: 1 or 2 */
	unsigned bits;                   /* 0: dense */
	float factor;                    /* times a norm: what a centroid is worth */
	float scale, softcap;
	const float *q;   /* [n_heads, d] in lane order */
	float *acc;       /* [n_heads, d] in lane order: sum of p v */
	float *max, *sum; /* [n_heads]: largest score, sum of p */
};

struct st_tq_level {
	void (*attend)(const struct st_tq_task *t);
	/* In place, natural order, times 1/sqrt(d): its own inverse. d = 128, 256, 512. */
	void (*fwht)(float *x, uint32_t d);
	/* n pairs of uniforms (u1 in (0, 1], u2 in [0, 1)) -> 2 n normals: Box-Muller, f64 inside, radius and
	 * angle rounded to f32 between. */
	void (*normals)(const double *u, size_t n, float *x);
	/* One vector in the rotated basis -> d indices and B norms. */
	void (*quantise)(const float *x, uint32_t d, unsigned bits, const float *bounds, bool per_block, uint8_t *index,
	                 float *norms);
};

extern const struct st_tq_level st_tq_level_scalar;
extern const struct st_tq_level st_tq_level_avx2;
extern const struct st_tq_level st_tq_level_avx512;
extern const struct st_tq_level st_tq_level_neon;

/* Scalar where the level is not compiled in; callers have checked st_cpu_usable. */
const struct st_tq_level *st_tq_level_get(enum st_cpu cpu);

#endif
