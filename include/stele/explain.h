/*
 * stele/explain.h - what an engine computed, judged against the model's own weights.
 */
#ifndef STELE_EXPLAIN_H
#define STELE_EXPLAIN_H

#include <stele/judge.h>
#include <stele/trace.h>

/*
 * One captured value. It is evaluated again in f64 from what the engine itself had captured before it, so that only its
 * own operations can be at fault.
 */
/* The least mistake of a kind that would have been seen at a stage; NaN where the kind does not apply. */
struct st_visible {
	double gain;  /* all numbers too large by this part of themselves */
	double row;   /* one feature is, in the middle of the features */
	double angle; /* rotary pairs turned too far by so many radians, in the middle of the pairs */
};

struct st_explained_stage {
	uint32_t stage;
	int32_t layer; /* -1: whole model */
	uint32_t step; /* 0: the prompt; else the decode step */
	uint64_t rows; /* positions captured, times heads for scores */
	uint64_t cols;
	uint32_t operations; /* judged at once: 1, or more where what lies between was not captured */
	uint32_t since;      /* the first of them */
	int32_t since_layer;
	/* a: the trace, b: the evaluation. rel_l2 of a choice of experts is the gap between the keys of those exchanged, in
	 * parts of the largest key, and floor is how far such keys may be off. */
	struct st_metrics m;
	double floor;           /* relative L2 of what the arithmetic accounts for */
	double ratio;           /* the largest |difference| against what that arithmetic may do to the element */
	const char *arithmetic; /* the least one that accounts for it: "f32", "q8_k activations"; NULL: none does */
	struct st_visible visible; /* of a sound stage */
	enum st_stage_status status;
	int64_t worst_position; /* of the largest ratio; -1: none */
	uint64_t worst_feature;
};

#define ST_MAX_EQUIVALENT 4
/* A stage that is itself wrong, and why. */
struct st_finding {
	size_t stage;          /* index among the stages; SIZE_MAX: of the trace as a whole */
	struct st_cause cause; /* ST_CAUSE_UNEXPLAINED when nothing fits */
	uint32_t at;           /* the operation that the mistake is made in */
	int32_t layer;
	enum st_cause_code equivalent[ST_MAX_EQUIVALENT]; /* what these values cannot tell from it */
	size_t n_equivalent;
	struct st_candidate candidates[ST_MAX_CANDIDATES]; /* of what is unexplained: what came nearest */
	size_t n_candidates;
	bool engine_right;        /* the next value follows from what the model says: the capture alone is wrong */
	char structure[192];      /* what the difference looks like */
	char text[512];           /* in words */
	char recommendation[256]; /* or empty */
};

struct st_explain_options {
	const char *cpu;    /* NULL: best */
	const char *family; /* a description for the model, as in st_model_open_as(); NULL: the file says */
	const char *reference; /* another engine's trace of the same tokens, or NULL */
	const char *reference_model; /* that it ran; NULL: the same */
	const char *again;     /* another trace of the same engine and tokens, or NULL */
	bool other_file;       /* judge by MODEL although the trace says that it was made of another file */
	int threads;           /* 0: all */
	bool keep_going;    /* name the cause of every faulty stage, not of the first alone */
	struct st_hooks hooks;
};

/* A second trace of the same tokens beside the judged one. */
struct st_beside {
	struct st_explain *judged; /* it, by itself */
	bool same_tokens;          /* false: nothing below is set but `at` */
	size_t at;                 /* the first token that differs */
	/* Both go on with the best token of their own logits, and these differ: the passes up to those logits are
	 * compared. */
	bool parted;
	uint32_t after;        /* pass of these logits: 0 the prompt, else the step */
	uint32_t here, there;  /* best tokens */
	double gap_here;       /* in the judged trace's logits its own best is so far ahead of the other's */
	double gap_there;      /* and the other way round */
	size_t rank_here;      /* of the other's best in the judged trace's logits; 1: the best */
	/* Best tokens of the last logits that both have. */
	bool has_top1, top1_agree;
	/* Stages that both have and that are finite: how far from exact, given their own inputs: relative L2, and the
	 * root mean square of these. */
	size_t compared, nearer_here, nearer_there;
	double rms_here, rms_there;
	size_t only_here, only_there; /* measured on one side alone */
	/* Bit for bit, of two traces of one engine: */
	size_t equal, differ;
	size_t first; /* that differs, among the stages of the judged trace; what it reads is equal. SIZE_MAX: none */
	double rel;   /* how far it is from the other */
	bool same_path; /* both say that they took the same: engine, backend and mode */
};

#define ST_MAX_FINDINGS 64
struct st_explain {
	struct st_side_info model;
	char trace_path[512];
	struct st_provenance trace; /* views into the trace */
	enum st_verdict verdict;
	struct st_divergence first;
	struct st_finding *findings; /* in the order of evaluation */
	size_t n_findings, n_more;   /* n_more: faulty stages whose cause was not looked for */
	struct st_explained_stage *stages;
	size_t n_stages;
	uint32_t *missing; /* stages of the model that no layer of the trace has; owned */
	size_t n_missing;
	/* The best token of the last logits, in the trace and in their evaluation, and how far that is ahead of the next. */
	bool has_top1;
	uint32_t top1, top1_exact;
	double top1_gap;
	size_t n_unknown; /* values of the trace that the model has no stage for; st_explain_unknown() names them */
	struct st_beside *reference, *again; /* NULL: not asked for */
	double ms_load, ms_run, ms_total;
};

/* A fault is a result, not an error. *out is freed with st_explain_free. */
ST_MUST_CHECK enum st_status st_explain_run(const char *trace, const char *model, const struct st_explain_options *o,
                                            struct st_explain **out, struct st_error *err);
void st_explain_free(struct st_explain *x);
/* Name of the i-th value that the model has no stage for. */
const char *st_explain_unknown(const struct st_explain *x, size_t i);
/* The command's exit status: 0, 1 fault, 3 undecided. */
int st_explain_exit(const struct st_explain *x);

#endif
