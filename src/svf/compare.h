/*
 * compare.h - two reports and their stage files: what sides.c reads, compare.c measures, sound.c, claims.c and
 * diagnose.c find, compare_report.c says.
 */
#ifndef ST_SVF_COMPARE_H
#define ST_SVF_COMPARE_H

#include "svf/stages.h"

#include <stele/cause.h>

/* The ten stages of one tensor in one orientation, as one side has them. */
struct st_svf_set {
	const char *source_name, *safe, *label, *file;
	bool target;                              /* final_* in the target's orientation */
	const struct st_tensor *t[ST_SVF_STAGES]; /* NULL where the side keeps a digest */
	const char *digest[ST_SVF_STAGES];        /* as recorded; NULL where there are numbers */
	const json_t *record[ST_SVF_STAGES]; /* what the digest stands in, with shape and count; NULL where there are
	                                        numbers */
	const float *offsets;                /* the numbers of that stage; NULL where there are none */
	const char *observed_hash;           /* of final_bf16, as the report states it, or NULL */
	const json_t *checks;                /* what the report says of this set, or NULL */
	bool claims_pass, claims;
};

struct st_svf_side {
	char name; /* 'A', 'B' */
	const char *path;
	json_t *json;
	bool python; /* written by the exporting side */
	struct st_svf_set *sets;
	size_t n_sets;
	struct st_svf_claim {
		const char *source, *target; /* target: NULL where it is not said */
	} * claimed;                         /* tensors that were selected, as it says */
	size_t n_claimed;
	/* It was asked for those alone that have `filter` in their names, or for the tensor `only`; NULL: for all. */
	const char *filter, *only;
	struct st_container **containers;
	size_t n_containers;
	uint32_t tie;           /* enum st_svf_tie */
	const char *components; /* folder, or NULL */
	bool copies;            /* its sources are the exporting side's stages */
};

/* One tensor that both sides have. */
struct st_svf_match {
	const char *name; /* of the source */
	bool target;      /* orientation of final_* */
	const struct st_svf_set *set[2];
	struct st_svf_check check[ST_SVF_STAGES];
	bool copied; /* one side's source_f32 is the other's, or both theirs are a third's */
	int first;   /* first stage that fails, or -1 */
};

struct st_svf_finding {
	const char *code, *tensor, *stage, *text; /* tensor, stage: NULL where it is of none */
	bool confirmed;
};

struct st_svf_comparison {
	const struct st_svf_compare_options *o;
	struct st_arena arena;
	struct st_pool *pool;
	struct st_svf_side side[2];
	struct st_svf_profile profile;
	struct st_svf_match *matches;
	size_t n_matches;
	const char **missing;                    /* tensors that are not on both sides with all ten stages */
	size_t n_missing, n_covered, n_expected; /* expected: of those selected, what both sides were asked for */
	size_t n_selected;
	bool unproved; /* both sides took their sources from a third */
	/* The tensor whose digests --strict-current-python and --strict-reference ask for was not asked of both sides. */
	bool sample_left_out;
	struct st_svf_finding *findings;
	size_t n_findings, cap_findings;
	bool lost; /* memory, on the way: nothing can be said */
};

/* Side of a report (sides.c). Everything goes into the comparison's arena. */
ST_MUST_CHECK enum st_status st_svf_side_open(struct st_svf_comparison *c, struct st_svf_side *s, const char *path,
                                              struct st_error *err);
void st_svf_side_close(struct st_svf_side *s);
/* A replay's verdict is about the export that it was made against: compared with another, it may fail and the verdict
 * still have been true. */
bool st_svf_made_for(const struct st_svf_side *replay, const struct st_svf_side *export);

/* Adds a finding about a tensor and a stage (NULL, -1: of none). */
void st_svf_find(struct st_svf_comparison *c, enum st_cause_code code, const char *tensor, int stage, bool confirmed,
                 const char *fmt, ...) ST_PRINTF(6, 7);

/* Whether a recorded digest is of numbers that can be compared: some, and all of them finite (sound.c). */
bool st_svf_record_sound(const json_t *record);
/* Whether the stages of both sides are in order by themselves; names what is not. */
bool st_svf_sound(struct st_svf_comparison *c, const struct st_svf_match *m);

/* What the sides say of themselves against what their files say: the files that they name, then their verdicts
 * (claims.c). */
ST_MUST_CHECK enum st_status st_svf_check_files(struct st_svf_comparison *c, struct st_error *err);
void st_svf_check_claims(struct st_svf_comparison *c);
/* Digests that were asked for. */
void st_svf_check_hashes(struct st_svf_comparison *c);

/* Names the causes of what fails (diagnose.c). */
void st_svf_diagnose(struct st_svf_comparison *c);

/* "match", "differ", "incomplete". */
const char *st_svf_verdict(const struct st_svf_comparison *c);
/* For people and for programs (compare_report.c); NULL when out of memory. */
char *st_svf_compare_text(const struct st_svf_comparison *c);
char *st_svf_compare_json(const struct st_svf_comparison *c);

#endif
