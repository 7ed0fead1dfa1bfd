/* scene.h - one decode step laid out in memory: values, packed cache, kernel output and references. */
#ifndef ST_TURBOQUANT_SCENE_H
#define ST_TURBOQUANT_SCENE_H

#include "base/mem.h"
#include "turboquant/draw.h"
#include "turboquant/oracle.h"

struct st_scene {
	struct st_tq_params p; /* kv_seq_len and ring_start change from step to step */
	struct st_tq_codec codec;
	struct st_tq_exec exec;
	float *pre[2], *q;  /* [G, L, d] chronological, [H, d]: never quantised */
	struct st_tq_kv kv; /* the packed cache: what codes and norms hold */
	uint8_t *codes[2];
	float *norms[2];
	float *out;  /* [H, d] natural basis */
	double *ref; /* [H, d] */
	struct st_arena mem;
};

/* p's kv_seq_len is the longest that will be used. Zeroed on failure. */
ST_MUST_CHECK enum st_status st_scene_init(struct st_scene *s, const struct st_tq_params *p, const struct st_tq_exec *e,
                                           struct st_error *err);
void st_scene_release(struct st_scene *s);
/* One with values of a seed, encoded and attended with. Release it; zeroed on failure. */
ST_MUST_CHECK enum st_status st_scene_of_seed(struct st_scene *s, const struct st_tq_params *p,
                                              const struct st_tq_exec *e, uint64_t seed, struct st_error *err);
/* Keys, values and query from one stream, in this order. */
void st_scene_draw(struct st_scene *s, struct st_draw *g);
/* pre -> the packed cache, position i in row (ring_start + i) mod P; every other row has norm 0. */
void st_scene_encode(struct st_scene *s);
/* The kernel's result in s->out. */
ST_MUST_CHECK enum st_status st_scene_kernel(struct st_scene *s, struct st_error *err);
/* nrmse of s->out against attention over the decoded cache, and over the values before it. */
ST_MUST_CHECK enum st_status st_scene_dequant(struct st_scene *s, double *nrmse, struct st_error *err);
ST_MUST_CHECK enum st_status st_scene_floor(struct st_scene *s, double *nrmse, struct st_error *err);

/* ---- many seeds ---- */

struct st_moments {
	double mean, sd;
	uint32_t n;
};
/* Of n values, `stride` doubles apart, summed in their order. */
struct st_moments st_moments_of(const double *x, uint32_t n, size_t stride);

/* Calls fn for every i < n, on any thread. The first failure is returned; an interrupt is one. */
typedef enum st_status (*st_seed_fn)(void *ctx, uint32_t i, struct st_error *err);
ST_MUST_CHECK enum st_status st_each_seed(struct st_pool *pool, uint32_t n, st_seed_fn fn, void *ctx,
                                          struct st_error *err);

/* Floor of this quantiser on N(0,1) heads at one shape, by simulation over n (2 to 1024) unrelated seeds. */
ST_MUST_CHECK enum st_status st_expect_floor(const struct st_tq_params *p, const struct st_tq_exec *e, uint32_t n,
                                             struct st_moments *out, struct st_error *err);

#endif
