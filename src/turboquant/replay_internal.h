/* replay_internal.h - what the modes of st_replay_run share. */
#ifndef ST_TURBOQUANT_REPLAY_INTERNAL_H
#define ST_TURBOQUANT_REPLAY_INTERNAL_H

#include "turboquant/draw.h"
#include "turboquant/scene.h"

#include "base/outfile.h"
#include "json/json.h"

#include <stele/replay.h>

#include <jansson.h>
#include <math.h>
#include <stdio.h>

/* ---- one run: options resolved, files opened, report being built ---- */

struct st_replay_run {
	const struct st_replay_options *o;
	struct st_tq_exec exec;
	FILE *text;   /* memory stream behind the report's text */
	json_t *json; /* the report's object */
	int exit_status;
	const char *inputs[16]; /* files that are read: no output may replace one; NULL ends them */
	struct st_outfile *json_file, *bin_file, *md_file;
	char *bin_path; /* of bin_file, or NULL */
};

ST_MUST_CHECK enum st_status st_replay_singlestep(struct st_replay_run *r, struct st_error *err);
ST_MUST_CHECK enum st_status st_replay_multistep(struct st_replay_run *r, struct st_error *err);
ST_MUST_CHECK enum st_status st_replay_production(struct st_replay_run *r, struct st_error *err);
ST_MUST_CHECK enum st_status st_replay_lint(struct st_replay_run *r, struct st_error *err);
ST_MUST_CHECK enum st_status st_replay_make(struct st_replay_run *r, struct st_error *err);
ST_MUST_CHECK enum st_status st_replay_gate(struct st_replay_run *r, struct st_error *err);

/* Open "<out>" + suffix for writing, `out` without a trailing ".json". No-op without an out; refused where that is one
 * of r->inputs. */
ST_MUST_CHECK enum st_status st_replay_open(struct st_replay_run *r, const char *suffix, struct st_outfile **f,
                                            char **path, struct st_error *err);
/* The usual <out>.json. */
ST_MUST_CHECK enum st_status st_replay_open_json(struct st_replay_run *r, struct st_error *err);

/* ---- JSON ---- */

/* The larger one; NaN once met stays, so that a broken value is not lost in a maximum. */
static inline double st_larger(double m, double x) { return isnan(m) || x <= m ? m : x; }
json_t *st_json_visible(const struct st_tq_params *p, enum st_tq_visibility vis);

/* ---- a captured step ---- */

struct st_capture {
	struct st_tq_params p;
	unsigned bits;
	bool signs;
	struct st_tq_kv kv;
	const float *q;                               /* [H, d] */
	const float *k_norms_canary, *v_norms_canary; /* or NULL */
	const float *k_pre, *v_pre;                   /* [G, L, d] chronological, or NULL */
	size_t n_compact;
	json_t *unread;      /* names of params that nothing reads; in no order */
	struct st_map *maps; /* keeps all of it */
	size_t n_maps;
};
/* bits 0 and signs -1: as the manifest says. */
ST_MUST_CHECK enum st_status st_capture_open(struct st_capture *c, const char *manifest, unsigned bits, int signs,
                                             struct st_error *err);
void st_capture_close(struct st_capture *c);

/* ---- sweeps (production.c, null.c, gates.c) ---- */

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
/* The registered band of a single draw: fixed before anything was measured, never widened. */
extern const double st_band_lower, st_band_upper;

struct st_sweep; /* position tables, shared by every seed */
struct st_sweep_result {
	double nrmse[ST_N_POINTS];    /* ring points: with ring_a */
	double nrmse_b[ST_N_POINTS];  /* ring points: with ring_b */
	uint64_t before[ST_N_POINTS]; /* 64-bit draws consumed before the point */
	uint64_t consumed;
};
ST_MUST_CHECK enum st_status st_sweep_new(struct st_sweep **out, struct st_error *err);
void st_sweep_free(struct st_sweep *s);
ST_MUST_CHECK enum st_status st_sweep_run(const struct st_sweep *s, uint64_t seed, unsigned bits, bool signs,
                                          const struct st_tq_exec *e, struct st_sweep_result *out,
                                          struct st_error *err);

struct st_null_stats {
	uint32_t n;
	double mean[ST_N_POINTS], sd[ST_N_POINTS], mean_b[ST_N_POINTS], sd_b[ST_N_POINTS];
	double outside[ST_N_POINTS]; /* share of seeds whose point lies outside the band */
	double band_rejection;       /* share of seeds with any point outside */
};
ST_MUST_CHECK enum st_status st_null_run(const struct st_sweep *s, uint32_t n, uint64_t avoid_seed, unsigned bits,
                                         bool signs, const struct st_tq_exec *e, struct st_null_stats *out,
                                         struct st_error *err);

/* One gate in this process: prints to `text`, sets *passed. */
ST_MUST_CHECK enum st_status st_gate_run(const char *gate, const struct st_tq_exec *e, FILE *text, bool *passed,
                                         struct st_error *err);

/* ---- multistep ---- */

struct st_expectation {
	double mean, sd;
	uint32_t n;
};
/* Floor of this quantiser at one position, by simulation over `n` unrelated seeds. */
ST_MUST_CHECK enum st_status st_expect_floor(const struct st_tq_params *p, unsigned bits, bool signs,
                                             const struct st_tq_exec *e, uint32_t n, struct st_expectation *out,
                                             struct st_error *err);

/* ---- diagnosis ---- */

/* Explain `observed` ([H, d], natural basis); adds "diagnosis" to the report. */
ST_MUST_CHECK enum st_status st_diagnose_output(struct st_replay_run *r, const struct st_capture *c,
                                                const float *observed, struct st_error *err);
/* Check the packed rows against the values before quantisation; adds "cache" to the report. */
ST_MUST_CHECK enum st_status st_diagnose_cache(struct st_replay_run *r, const struct st_capture *c,
                                               struct st_error *err);

#endif
