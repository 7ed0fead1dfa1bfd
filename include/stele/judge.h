/*
 * stele/judge.h - two files of one model: where they part, whether it is noise, and why.
 */
#ifndef STELE_JUDGE_H
#define STELE_JUDGE_H

#include <math.h>

#include <stele/compare.h>

enum st_verdict {
	ST_VERDICT_MATCH, /* the same values, or apart by f32 rounding */
	ST_VERDICT_NOISE, /* apart by what the stored types account for */
	ST_VERDICT_FAULT,
	ST_VERDICT_UNDECIDED,
};
const char *st_verdict_name(enum st_verdict v);

enum st_stage_status {
	ST_STATUS_EXACT,
	ST_STATUS_ROUNDING,
	ST_STATUS_NOISE,
	ST_STATUS_INHERITED, /* right given its inputs; the inputs come from behind a fault */
	ST_STATUS_FAULT,
	ST_STATUS_MISSING, /* one side has no such stage; st_rosetta_run evaluates graphs of one form only and gives
	                      none */
	ST_STATUS_UNDECIDED,
	ST_STATUS_REARRANGED, /* other numbers by other weights, which the stages behind it make up for */
};
const char *st_stage_status_name(enum st_stage_status s);

/* What a floor is made of. */
enum st_floor_kind { ST_FLOOR_ROUNDING, ST_FLOOR_STORED_TYPES };
const char *st_floor_kind_name(enum st_floor_kind k);

/*
 * One stage of both sides. The total difference m is y_a - y_b. With f_w the stage under
 * weights w and x_b the inputs of side b, it splits into
 *     local      f_a(x_b) - f_b(x_b)   what this stage's own weights and parameters do
 *     inherited  f_a(x_a) - f_a(x_b)   what arrived with the inputs
 * and only the local part can put this stage at fault.
 */
struct st_stage_report {
	uint32_t stage;
	int32_t layer;
	uint64_t shape[3]; /* [T, width], or [heads, T, P] */
	uint32_t ndim;
	bool on_a, on_b; /* both, unless the status is ST_STATUS_MISSING */
	struct st_metrics total;
	double local_rel;   /* |local| / |y_b| */
	double local_floor; /* its expected size, from the weights' stored types and the inputs at hand */
	/* Largest |local| over tokens, against what it is expected to be: by the differences of the weights themselves
	 * where they are noise to each other, else by their stored types. */
	double worst_token_ratio;
	uint64_t worst_token;
	double inherited_rel; /* |inherited| / |y_b| */
	double floor;         /* of the total: inherited part plus local_floor */
	enum st_floor_kind kind;
	enum st_stage_status status;
	bool over_threshold;
	bool shared; /* equal weights on bit-equal inputs: evaluated once for both sides */
};

struct st_side_info {
	char path[512], format[160], arch[32], dtypes[128], name[128];
	uint32_t layers;
	uint64_t tensors;
	char sha256[65]; /* empty unless asked for */
};

struct st_divergence {
	bool found;
	char stage[24];   /* stage name, "tokens" or "config" */
	int32_t layer;    /* -1: whole model */
	char tensor[128]; /* canonical Hugging Face name, or empty */
	int64_t position; /* token with the largest local error, or -1 */
	char side;        /* 'a', 'b' or 0 */
};

/* ---- next tokens ---- */

/* The text of a token: terminated, cut to fit, empty without a tokenizer. */
#define ST_PIECE_BYTES 24

/* What both sides would say behind one token of a prompt. */
struct st_position {
	uint32_t prompt, position; /* which prompt, from 0, and where in it */
	uint32_t token;            /* stands there */
	uint32_t best_a, best_b;
	uint32_t rank; /* of best_b in A, from 1 */
	double gap;    /* B's best logit minus its second best */
	double kl;     /* sum p_b ln(p_b / p_a), in nats */
	char text_token[ST_PIECE_BYTES], text_a[ST_PIECE_BYTES], text_b[ST_PIECE_BYTES]; /* of the three */
};

struct st_choice {
	uint32_t token;
	double probability; /* softmax without temperature */
	char text[ST_PIECE_BYTES];
};

#define ST_MAX_CHANGED 8
#define ST_MAX_EACH 16
#define ST_MAX_LAST 5
/* Over every position of every prompt. B is the reference. */
struct st_agreement {
	uint64_t prompts, positions; /* 0: the logits were not reached */
	uint64_t top1;               /* positions with the same best token */
	uint64_t top5;               /* with B's best token among the best five of A */
	uint64_t nonfinite;          /* positions left out: a logit is not finite */
	double kl_sum, kl_max;       /* of the positions */
	/* Errors that the stages add over what their stored types usually cost: root mean square over stages; NaN where
	 * no weight is apart by its type. */
	double over_usual;
	struct st_position changed[ST_MAX_CHANGED]; /* other best tokens, B's surest first */
	size_t n_changed;
	struct st_position each[ST_MAX_EACH]; /* the first positions of the first prompt */
	size_t n_each;
	struct st_choice last_a[ST_MAX_LAST], last_b[ST_MAX_LAST]; /* behind its last token, the likeliest first */
	size_t n_last;
};

/* One layer of A in B: what it costs B's logits, over the positions of the first prompt. */
struct st_layer_cost {
	int32_t layer;     /* -1: whole model; */
	uint32_t stage;    /* its first stage tells which part then */
	double kl;         /* mean of B's logits against those with this layer from A */
	double added;      /* |difference| / |value| behind the layer */
	double over_usual; /* as in struct st_agreement, over its stages */
};

struct st_rosetta_options {
	const char *prompt;         /* tokenised with each side's own tokenizer; or */
	const char *const *prompts; /* several: the first is compared stage by stage, next tokens of all are; or */
	size_t n_prompts;
	const uint32_t *tokens; /* ids, used for both */
	size_t n_tokens;
	const char *mode;   /* NULL: "exact" */
	const char *cpu;    /* NULL: best */
	const char *family; /* a description for both models, as in st_model_open_as(); NULL: the files say */
	int threads;        /* 0: all */
	double threshold;   /* NAN: none */
	bool keep_going;    /* evaluate past the first fault */
	bool layer_costs;   /* fill st_rosetta.layers: one more evaluation for each layer */
	bool hash;          /* fill st_side_info.sha256 */
	bool log_all;       /* log the tensors of every container, not of APR files only */
	struct st_hooks hooks;
};

struct st_rosetta {
	struct st_side_info a, b;
	char *prompt; /* NULL when ids were given */
	uint32_t *tokens_a, *tokens_b;
	size_t n_tokens_a, n_tokens_b;
	char (*pieces_a)[ST_PIECE_BYTES]; /* text of tokens_a; NULL where no tokenizer is at hand */
	char (*pieces_b)[ST_PIECE_BYTES];
	char token_note[256]; /* "B has no tokenizer: A's ids were used for both", what a file leaves open, or empty */
	/* Why stages were not evaluated ("unknown family gemma"), or empty. Then the verdict speaks of tokens, keys and
	 * weights alone. */
	char not_evaluated[256];
	char left_open[128]; /* then: "KEY in A": one file alone has it and nothing reads it; or empty */
	char form_note[320]; /* in which form one of two conventions keeps weights, or where two graphs part; or empty */
	bool parted;         /* stages were evaluated up to where the graphs part */
	/* Then: configuration keys that both have; weights without a counterpart in the other convention. */
	size_t keys, no_partner;
	char vocab_note[160]; /* which rows of a padded vocabulary were not compared, or empty */
	const char *mode;
	double threshold;
	enum st_verdict verdict;
	struct st_divergence first;
	struct st_cause cause;    /* code ST_CAUSE_NONE: none */
	char text[512];           /* the diagnosis in words */
	char recommendation[256]; /* or empty */
	struct st_candidate candidates[ST_MAX_CANDIDATES];
	size_t n_candidates;
	struct st_config_diff config[ST_MAX_CONFIG_DIFFS];
	size_t n_config;
	struct st_aside asides[ST_MAX_ASIDES]; /* what these tokens do not show, and others may */
	size_t n_asides;
	char aside_note[208]; /* why vocabularies were not compared, or empty */
	struct st_weight_diff *weights;
	size_t n_weights;
	struct st_noise_sizes sizes; /* of those that are noise */
	size_t unused_a, unused_b;
	struct st_stage_report *stages;
	size_t n_stages;
	size_t compared, skipped, missing;
	bool has_top1, top1_agree;
	uint32_t top1_a, top1_b;
	double top1_gap; /* b's best logit minus its second best */
	struct st_agreement agreement;
	struct st_layer_cost *layers; /* in graph order; NULL unless asked for */
	size_t n_layers;
	bool over_threshold;
	double ms_load, ms_run, ms_judge, ms_total;
};

/* Load both, compare tokens, configuration and weights, and evaluate in lock-step. A fault is a
 * result, not an error. *out must be freed with st_rosetta_free; the models it points into are
 * kept open until then. */
ST_MUST_CHECK enum st_status st_rosetta_run(const char *path_a, const char *path_b, const struct st_rosetta_options *o,
                                            struct st_rosetta **out, struct st_error *err);
void st_rosetta_free(struct st_rosetta *r);
const struct st_model *st_rosetta_model(const struct st_rosetta *r, char side);

/* Asides that are no mere silence of one side. */
size_t st_rosetta_contradictions(const struct st_rosetta *r);

enum st_assertion {
	ST_ASSERT_NOTHING,
	ST_ASSERT_MATCH,  /* everything was compared and is at its floor, and no other prompt is known to differ */
	ST_ASSERT_PROMPT, /* the same for these tokens alone */
};
/* The command's exit status: 0, 1 (fault, or beyond a threshold; with an assertion anything that is not as it says),
 * 3 undecided. */
int st_rosetta_exit(const struct st_rosetta *r, enum st_assertion a);

#endif
