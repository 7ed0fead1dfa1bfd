/* run.h - one run of a mode: what it works on, and the report and the files that it builds. */
#ifndef ST_TURBOQUANT_RUN_H
#define ST_TURBOQUANT_RUN_H

#include "turboquant/capture.h"
#include "turboquant/scene.h"

#include "base/outfile.h"

#include <stele/replay.h>

#include <stdio.h>

/* The files that a mode can write, in the order in which they get their names: where the report is, they all are. */
enum st_replay_file { ST_FILE_BIN, ST_FILE_MD, ST_FILE_JSON, ST_N_FILES };

struct st_replay_run {
	const struct st_replay_options *o;
	struct st_tq_exec
		exec;  /* its caches: the capture's, or synthetic ones as the options say, else 4 bits, no signs */
	uint64_t seed; /* of synthetic data: the options', or the registered one */
	struct st_capture capture; /* in modes that read one */
	FILE *text;                /* memory stream behind the report's text */
	json_t *json;              /* the report's object */
	int exit_status;
	struct st_outfile *file[ST_N_FILES]; /* NULL: not written */
	char *path[ST_N_FILES];
	struct st_outdir *dir; /* that the files are in, where it is new */
	bool no_files;         /* nothing was measured that could be written */
};

/* What a run comes to; docs/replay.md lists them with what they mean. */
struct st_verdict {
	const char *label, *why; /* why: follows the label in the text, or "" */
	int exit_status;
};
/* Into the report, as `key` and as a line of text; the exit status follows unless it is worse already. */
void st_replay_verdict(struct st_replay_run *r, const struct st_verdict *v);

/* ---- pieces of reports ---- */

/* The larger one; NaN once met stays, so that a broken value is not lost in a maximum. */
static inline double st_larger(double m, double x) { return isnan(m) || x <= m ? m : x; }
/* How many of n are not finite. */
size_t st_nonfinite(const float *x, size_t n);
static inline const char *st_signs_name(bool signs) { return signs ? "d1" : "none"; }
static inline const char *st_q_name(const struct st_tq_exec *e) { return e->q_f16 ? "f16" : "f32"; }
static inline const char *st_visibility_name(const struct st_tq_exec *e)
{
	return e->visibility == ST_TQ_PHYSICAL ? "physical" : "chronological";
}
/* { visible_rows, expected_rows } */
json_t *st_json_visible(const struct st_tq_params *p, enum st_tq_visibility vis);
json_t *st_json_moments(const struct st_moments *m);

#endif
