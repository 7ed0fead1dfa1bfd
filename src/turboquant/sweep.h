/* sweep.h - the production-faithful measurement: its registered points, one run of them, and their null distribution. */
#ifndef ST_TURBOQUANT_SWEEP_H
#define ST_TURBOQUANT_SWEEP_H

#include "turboquant/scene.h"

struct st_sweep_point {
	const char *sweep; /* "A", "B", "ring" */
	uint32_t pos, kvl, window;
	uint32_t ring_a, ring_b; /* the right ring start of the data, and the classic wrong one */
};
enum { ST_N_POINTS = 13, ST_N_SWEEP_A = 6, ST_N_SWEEP_B = 5, ST_N_RING = 2 };
extern const struct st_sweep_point st_sweep_points[ST_N_POINTS];
/* What every point has in common, and the step of one point; the audit states these and no copy of them. */
extern const struct st_sweep_regime {
	double rms_eps, rope_theta;
} st_sweep_regime;
struct st_tq_params st_sweep_params(const struct st_sweep_point *pt, uint32_t ring_start);

/*
 * Registered before any measurement, and never widened. A single draw at kvl 512 has mean 0.367 and standard deviation
 * 0.099, so this band rejects sound kernels more often than not. It stays as registered; the null says how often.
 */
extern const double st_band_lower, st_band_upper;
bool st_band_ok(double nrmse);

/* RoPE rows depend on positions alone: computed once, used by every seed. */
struct st_sweep {
	const float *table[ST_N_POINTS]; /* [kvl + 1, d]: keys, then the query */
	struct st_arena mem;
};
struct st_sweep_result {
	double nrmse[ST_N_POINTS];    /* ring points: with ring_a */
	double nrmse_b[ST_N_POINTS];  /* ring points: with ring_b */
	uint64_t before[ST_N_POINTS]; /* 64-bit draws consumed before the point */
	uint64_t consumed;
};
ST_MUST_CHECK enum st_status st_sweep_init(struct st_sweep *s, struct st_error *err); /* release it on failure too */
void st_sweep_release(struct st_sweep *s);
ST_MUST_CHECK enum st_status st_sweep_run(const struct st_sweep *s, uint64_t seed, const struct st_tq_exec *e,
                                          struct st_sweep_result *out, struct st_error *err);

struct st_null_stats {
	uint32_t n;
	struct st_moments a[ST_N_POINTS], b[ST_N_POINTS]; /* of nrmse and nrmse_b */
	double outside[ST_N_POINTS];                      /* share of seeds whose point lies outside the band */
	double band_rejection;                            /* share of seeds with any point outside */
};
ST_MUST_CHECK enum st_status st_null_run(const struct st_sweep *s, uint32_t n, uint64_t avoid_seed,
                                         const struct st_tq_exec *e, struct st_null_stats *out, struct st_error *err);

#endif
