/* scene.h - one decode step laid out in memory: values, packed cache, kernel output and references. */
#ifndef ST_TURBOQUANT_SCENE_H
#define ST_TURBOQUANT_SCENE_H

#include "turboquant/oracle.h"

struct st_scene {
	struct st_tq_params p; /* kv_seq_len and ring_start change from step to step */
	struct st_tq_codec codec;
	struct st_tq_exec exec;
	double levels[ST_TQ_MAX_LEVELS]; /* what a code stands for: the codec's f32 levels */
	float *k, *v, *q;                /* [G, L, d] chronological, [G, L, d], [H, d]: never quantised */
	uint8_t *k_codes, *v_codes;      /* [G, P, row bytes] */
	float *k_norms, *v_norms;        /* [G, P, B] */
	float *out;                      /* [H, d] natural basis */
	double *ref;                     /* [H, d] */
};

/* p's kv_seq_len is the longest that will be used. Zeroed on failure. */
ST_MUST_CHECK enum st_status st_scene_init(struct st_scene *s, const struct st_tq_params *p, unsigned bits, bool signs,
                                           const struct st_tq_exec *e, struct st_error *err);
void st_scene_release(struct st_scene *s);
/* k, v -> the packed cache, position i in row (ring_start + i) mod P; every other row has norm 0. */
void st_scene_encode(struct st_scene *s);
/* Rotate q, run the kernel, rotate back: s->out. */
ST_MUST_CHECK enum st_status st_scene_kernel(struct st_scene *s, struct st_error *err);
/* nrmse of s->out against attention over the decoded cache, and over the values before it. */
ST_MUST_CHECK enum st_status st_scene_dequant(struct st_scene *s, double *nrmse, struct st_error *err);
ST_MUST_CHECK enum st_status st_scene_floor(struct st_scene *s, double *nrmse, struct st_error *err);
struct st_tq_kv st_scene_kv(const struct st_scene *s);
struct st_oracle_decode st_oracle_decode_of(const struct st_tq_codec *c, const double *levels);

#endif
