/*
 * replay.h - one run of replay: what replay.c computes, replay_python.c reads of the other side, replay_report.c says.
 */
#ifndef ST_SVF_REPLAY_H
#define ST_SVF_REPLAY_H

#include "svf/svf.h"

#define ST_SVF_REPLAY_LABEL "stele_cpu"

struct st_svf_replay_run {
	const struct st_svf_replay_options *o;
	struct st_svf_job job;
	struct st_svf_profile profile;
	json_t *python, *manifest, *report, *variants, *files, *warnings;
	struct st_container *sample_stages, *all_stages; /* the other side's; NULL where it stored digests */
	const char *sample_path, *all_path, *scales_path, *manifest_path;
	const json_t *digests;
	char *key; /* what every tensor's result depends on */
	uint64_t done, total;
	bool failed, *covered;
	size_t n_notes;
	char **notes;
	FILE *text;
};

/* One tensor in one orientation. */
struct st_svf_replay_item {
	const struct st_svf_entry *e;
	bool sample;
	char *name, *path, *note; /* label, stage file, resume note */
};

/* The other side (replay_python.c): its report and, unless it keeps digests, its stage files. */
ST_MUST_CHECK enum st_status st_svf_replay_open_python(struct st_svf_replay_run *x, struct st_error *err);
ST_MUST_CHECK enum st_status st_svf_replay_tie(struct st_svf_replay_run *x, struct st_error *err);
/* Its ten stages of an item; a missing one is a fault of the setup. */
ST_MUST_CHECK enum st_status st_svf_replay_find_stages(const struct st_svf_replay_run *x,
                                                       const struct st_svf_replay_item *it,
                                                       const struct st_tensor *out[ST_SVF_STAGES],
                                                       struct st_error *err);

/* What the report says (replay_report.c). */
json_t *st_svf_replay_variant(struct st_svf_replay_run *x, const struct st_svf_replay_item *it, struct st_svf_work *w,
                              struct st_svf_stages *t, const char *stage_file);
/* The product stages of evenly spread rows from the same f32 factors and offsets, all in f64: how far each side is from
 * exact. */
ST_MUST_CHECK enum st_status st_svf_replay_check_f64(struct st_svf_replay_run *x, struct st_svf_work *w,
                                                     const struct st_svf_stages *t, json_t **out, struct st_error *err);
ST_MUST_CHECK enum st_status st_svf_replay_report(struct st_svf_replay_run *x, struct st_error *err);

#endif
