/*
 * replay.h - one run of replay: what replay.c computes, replay_python.c reads of the other side, replay_report.c says.
 */
#ifndef ST_SVF_REPLAY_H
#define ST_SVF_REPLAY_H

#include "svf/job.h"

#define ST_SVF_REPLAY_LABEL "stele_cpu"

/* The exporting side: its report and, unless it keeps digests, its stage files. */
struct st_svf_python {
	json_t *json;
	struct st_svf_exported said;
	struct st_svf_python_file {
		const char *path;
		struct st_container *c;
	} sample, all;         /* NULL where it stored digests */
	const json_t *digests; /* NULL where it stored stages */
};

struct st_svf_replay_run {
	const struct st_svf_replay_options *o;
	const char *reference, *vector; /* as asked for, or as the other side's report names them */
	struct st_svf_job job;
	struct st_svf_profile profile;
	struct st_svf_python python;
	json_t *manifest;
	const char *components, *scales;
	char *key; /* what every tensor's result depends on */
	uint64_t done, total;
	bool failed, *covered;
	const char **notes;
	size_t n_notes;
};

/* One tensor in one orientation. */
struct st_svf_replay_item {
	const struct st_svf_entry *e;
	bool sample;
	const char *name, *path, *note; /* label, stage file, resume note */
};

/* replay_python.c: what the report says, and where reference and vector are; then its stages. */
ST_MUST_CHECK enum st_status st_svf_python_load(struct st_svf_replay_run *x, struct st_error *err);
ST_MUST_CHECK enum st_status st_svf_python_open(struct st_svf_replay_run *x, struct st_error *err);
void st_svf_python_close(struct st_svf_python *p);
/* Its ten stages of an item; a missing one is a fault of the setup. */
ST_MUST_CHECK enum st_status st_svf_python_stages(const struct st_svf_replay_run *x,
                                                  const struct st_svf_replay_item *it,
                                                  const struct st_tensor *out[ST_SVF_STAGES], struct st_error *err);

/* What the report says (replay_report.c). */
json_t *st_svf_replay_variant(struct st_svf_replay_run *x, const struct st_svf_replay_item *it, struct st_svf_work *w,
                              struct st_svf_stages *t);
/* The sample as a wrong reading of V would give it. */
json_t *st_svf_replay_diagnostic(struct st_svf_replay_run *x, const struct st_svf_work *w,
                                 const struct st_svf_stages *t);
/* The product stages of evenly spread rows from the same f32 factors and offsets, all in f64: how far each side is from
 * exact, as a member of the variant. */
ST_MUST_CHECK enum st_status st_svf_replay_check_f64(struct st_svf_replay_run *x, struct st_svf_work *w,
                                                     const struct st_svf_stages *t, json_t *variant,
                                                     struct st_error *err);
ST_MUST_CHECK enum st_status st_svf_replay_report(struct st_svf_replay_run *x, struct st_error *err);

#endif
