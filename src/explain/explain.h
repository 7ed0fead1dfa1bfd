/*
 * explain.h - the inside of the judge of an engine's trace.
 *
 * capture.c lays the values of a trace upon the nodes of the model's graph. explain.c walks the graph: what was
 * captured is evaluated again from what was captured before it (segment.c), compared with what each arithmetic may do
 * to a number (bound.c, arithmetic.c), and carried on as the engine had it. What no arithmetic accounts for goes to the
 * hypotheses (trial.c): each is a mistake made on purpose in one operation; the one under which the difference vanishes
 * is the cause.
 */
#ifndef ST_EXPLAIN_EXPLAIN_H
#define ST_EXPLAIN_EXPLAIN_H

#include <stele/explain.h>

#include "base/mem.h"
#include "graph/graph.h"

/* ---- one pass: the prompt, or a decode step ---- */

struct st_pass {
	uint32_t step;
	const uint32_t *tokens;
	size_t T;
	const struct st_trace_entry **at; /* [n_nodes]: what the trace has of a node; NULL: nothing */
	uint32_t *placed;                 /* [n_nodes]: position of its one row, where the trace does not say it */
};

struct st_fit;
struct st_explainer {
	struct st_explain r; /* what the caller sees; first, so that one pointer serves for both */
	struct st_model *m;
	struct st_trace *t;
	const struct st_graph *g;
	struct st_run *run;
	struct st_exec exec; /* mode exact */
	struct st_arena arena;
	struct st_pass pass;
	/* Of the segment at hand, as large as the largest value. */
	float *got;       /* the trace's value */
	float *exact;     /* evaluated */
	float *tried;     /* under an arithmetic or a hypothesis */
	float *bound;     /* what rounding may do to each element of it */
	float *spare;     /* of inner nodes */
	float *moved;     /* with inner values moved */
	float *candidate; /* under a hypothesis, before its arithmetics */
	float *undone;    /* the trace's value of an inner node, worked out */
	float *buffer;    /* a hypothesis's own: st_trial_buffer() */
	bool *have;       /* [T]: positions that the trace has of the value */
	bool *have_input;
	bool *inner;       /* [n_nodes]: belongs to the segment */
	bool *input;       /* [n_nodes]: is read by it */
	uint32_t *experts; /* [n_nodes]: of each token, where the trace has another number than the model; else 0 */
	bool *wanted;      /* [n_nodes]: is captured, or a captured value depends on it */
	size_t widest;
	const char **unknown;
	const char *form; /* of scores, where the trace does not say it and it was found by value; NULL: as it says */
	bool interleaved; /* Q and K of the trace are in adjacent pairs */
	uint8_t *usual;   /* [stages]: arithmetic that accounted for the stage last, + 1 */
	uint8_t exact_usual; /* the one, + 1, that accounted for products element by element last; 0: none did */
	struct st_fit *fits; /* [stages of the report] */
};

/* ---- capture.c ---- */

/* Which entry belongs to which node, for the pass that was begun; shapes are checked. */
ST_MUST_CHECK enum st_status st_pass_begin(struct st_explainer *x, uint32_t step, struct st_error *err);
/* The captured value of node i in Stele's basis and form, with the size of its value in the run; rows that the trace
 * does not have are taken from `otherwise`. have[T] tells which it has. */
ST_MUST_CHECK enum st_status st_capture_load(struct st_explainer *x, uint32_t i, const float *otherwise, float *out,
                                             bool *have, struct st_error *err);
/* Whether element e of a value belongs to a position that is captured and, of scores, may be seen by its query. */
bool st_capture_counts(const struct st_explainer *x, const struct st_node *n, const struct st_value *v,
                       const bool *have, size_t row, size_t col);

/* Whether the trace has of node `in` every position that it has of `node`, or every one of the pass. */
bool st_capture_covers(const struct st_explainer *x, uint32_t in, uint32_t node, bool all);
/* Operations in which later positions look at earlier ones. */
bool st_node_looks_back(const struct st_node *n);

/* Where node i has one row of more positions and nobody says which, this finds it by the row's numbers. exact: all rows
 * of its right value. It is a finding, unless it is the last position and nothing behind it looks at others. */
ST_MUST_CHECK enum st_status st_capture_place(struct st_explainer *x, uint32_t i, const float *exact,
                                              struct st_error *err);

/* A row of node i's right value as it would come out were the trace in the other basis than it is taken to be. False
 * where nothing of it is turned. */
bool st_capture_other_basis(const struct st_explainer *x, uint32_t i, float *row);

/* The choice of experts that node i's layer makes before it; NULL: none. */
const struct st_node *st_capture_choice(const struct st_explainer *x, uint32_t i);

/* Whether rotation `rope` turns features of node i's value, and from which on. */
bool st_capture_turned(const struct st_explainer *x, uint32_t i, const struct st_node *rope, uint32_t *from);

/* form.c: finds x->form by the scores of node i, which are captured. */
ST_MUST_CHECK enum st_status st_scores_form(struct st_explainer *x, uint32_t i, struct st_error *err);

/* ---- segment.c: a captured node with what lies between it and the captured values before it ---- */

struct st_segment {
	uint32_t node;    /* whose value is judged */
	uint32_t first;   /* of the nodes that are evaluated; node where it stands alone */
	uint32_t from;    /* first node that is read by them, or first
	                 * where nothing is */
	uint32_t n_inner; /* evaluated nodes, `node` included */
};
void st_segment_find(struct st_explainer *x, uint32_t node, struct st_segment *s);

struct st_way;
/* What stands in place of node i; NULL: the node itself. */
typedef const struct st_node *st_edit_fn(void *ctx, uint32_t i);
/* Makes the value of a node anew, under the way's arithmetic. */
typedef enum st_status st_make_fn(void *ctx, const struct st_way *w, float *out, struct st_error *err);

/* How a segment is evaluated: everything in f64 unless said otherwise. */
struct st_way {
	uint32_t edit;                /* node that is replaced, or ST_NO_NODE */
	const struct st_node *as;     /* by this copy; or */
	const float *value;           /* by these numbers, of the size of its value; or */
	st_make_fn *make;             /* by what this makes */
	st_edit_fn *also;             /* further nodes that are replaced, or NULL */
	void *ctx;                    /* of these two */
	const struct st_arith *arith; /* NULL: none */
	bool move_inputs; /* captured inputs too, by what writing them down in 16 bits may have done to them */
	double jiggle;    /* inner values are moved at random by so much of what rounding may do to them; 0 */
};
/* The value of the segment's node; the values of inner nodes are left as this evaluation has them. */
ST_MUST_CHECK enum st_status st_segment_eval(struct st_explainer *x, const struct st_segment *s, const struct st_way *w,
                                             float *out, struct st_error *err);

/* Node i's value, evaluated as node n from what the run holds, products and operands as the arithmetic has them (NULL:
 * in f64). */
ST_MUST_CHECK enum st_status st_eval_under(struct st_explainer *x, uint32_t i, const struct st_node *n,
                                           const struct st_arith *a, float *out, struct st_error *err);

/* ---- bound.c: what rounding may do to each element of one operation ---- */

/* a: the arithmetic, or NULL: f32. y: its value. Adds to bound[]. */
ST_MUST_CHECK enum st_status st_bound_of_node(struct st_explainer *x, uint32_t i, const struct st_node *n,
                                              const struct st_arith *a, const float *y, float *bound,
                                              struct st_error *err);

/* What summing up may do to one element of a product, by the size of its own terms: of rows that are larger than their
 * neighbours. False where the node is no product. */
bool st_bound_again(struct st_explainer *x, uint32_t i, const struct st_node *n, size_t row, size_t col, double *more);

/* ---- arithmetic.c: what sound engines do ---- */

struct st_arith {
	const char *name;
	enum st_mode mode;   /* of products */
	enum st_dtype out;   /* every result is rounded to it */
	enum st_dtype cache; /* K and V are, */
	enum st_dtype query; /* and Q */
	enum st_dtype sums;  /* attention adds up in it */
	bool partner;        /* products take activations in the type that goes with each weight's, as ggml has it */
	bool turned;         /* cache and queries are rounded in Hadamard's basis */
	bool table;          /* GELU is looked up by an argument in f16 */
	bool dump;           /* results are finer than what was written down of them */
	unsigned ops;        /* that it concerns: ST_ARITH_... */
};
enum { ST_ARITH_LINEAR = 1, ST_ARITH_ATTENTION = 2, ST_ARITH_ALL = 4, ST_ARITH_GELU = 8, ST_ARITH_LINEARS = 16 };
extern const struct st_arith st_ariths[];

/* Of each head, where blocks are formed in another basis than Stele's. */
struct st_order {
	size_t head, pairs; /* pairs: features of it that lie in pairs; 0: none */
	size_t turned;      /* numbers of a block that are turned before they are rounded; 0: none */
};
/* ties.c: of keys and queries */
struct st_order st_key_order(const struct st_explainer *x, const struct st_node *n, const struct st_arith *a);
/* ties.c: what codes of Q8_0 in the middle of two may do to scores, added to their bound [heads, T, cols]. in: T
 * queries. */
ST_MUST_CHECK enum st_status st_bound_ties(struct st_explainer *x, const struct st_node *n, const struct st_arith *a,
                                           const float *in, size_t ld, size_t T, size_t cols, float *bound,
                                           struct st_error *err);

extern const size_t st_n_ariths;

/* How well an evaluation accounts for what was captured. */
struct st_fit {
	bool noise;   /* every element is within its bound, or the whole is noise of the size that the arithmetic has */
	double ratio; /* of the worst element */
	size_t row, col;              /* where */
	double rel;                   /* relative L2 of what is left */
	double floor;                 /* relative L2 of what the arithmetic does */
	const struct st_arith *arith; /* that accounts for it, or the one that comes nearest */
	double plain;                 /* ratio of the worst element under f32 */
	bool by_size; /* the whole was found to be noise of its size: bounds of elements are those of outliers */
	double gain;  /* then: the least gain that would not have been */
	double reach; /* relative L2 of the most that any arithmetic may do: its own difference and its bound */
};
/* x->got against the segment's value `exact`, which was evaluated in the way w, under every arithmetic in turn until one
 * accounts for it. */
ST_MUST_CHECK enum st_status st_fit_of_value(struct st_explainer *x, const struct st_segment *s, const struct st_way *w,
                                             const float *exact, struct st_fit *out, struct st_error *err);
/* Relative L2 of x->got - value, over what counts. */
double st_fit_left(const struct st_explainer *x, const struct st_segment *s, const float *value);

/* ---- trial.c: the hypotheses ---- */

struct st_trial {
	struct st_explainer *x;
	const struct st_segment *s;
	uint32_t i; /* the node that mistakes are tried in */
	const struct st_node *n;
	const float *in[ST_NODE_ALL_INPUTS]; /* its inputs, and floats from one token to the next */
	size_t ld[ST_NODE_ALL_INPUTS];
	size_t T, P;
	/* What was captured of this node's value, and what it should be: its own, or, where only sums, biases and
	 * factors lie between it and the judged value, worked out from that. NULL: nothing can be fitted to it. */
	const float *got, *exact;
	double before; /* relative L2 without a hypothesis */
	double reach;  /* of the fit without one */
	struct st_finding *best;
	double best_ratio;
	const struct st_arith *best_arith; /* that accounts for what the best one leaves */
};
/* Whether parameters can be fitted to t->got. */
static inline bool st_trial_direct(const struct st_trial *t) { return t->got != NULL; }
/* A cause has to leave a tenth of the difference, or noise. What leaves half of it in exact arithmetic, and more than
 * several times what any arithmetic may do, does neither under any of them, so that these need not be evaluated. left,
 * before: relative L2 of the same elements. */
bool st_trial_promises(const struct st_trial *t, double left, double before);
/* Evaluate under an edited node, or under values for it, and keep the cause if it fits better than what was kept. */
ST_MUST_CHECK enum st_status st_try_node(struct st_trial *t, const struct st_node *as, const struct st_cause *c,
                                         struct st_error *err);
ST_MUST_CHECK enum st_status st_try_value(struct st_trial *t, const float *value, const struct st_cause *c,
                                          struct st_error *err);
/* What stands under another name is compared with what should stand here. */
ST_MUST_CHECK enum st_status st_try_found(struct st_trial *t, const float *found, const struct st_cause *c,
                                          struct st_error *err);
ST_MUST_CHECK enum st_status st_try_made(struct st_trial *t, st_make_fn *make, void *ctx, const struct st_cause *c,
                                         struct st_error *err);
/* What is done to the node's right value, in place; so the arithmetic acts on that before. y: the size of its value. */
typedef void st_map_fn(void *ctx, struct st_trial *t, float *y);
ST_MUST_CHECK enum st_status st_try_map(struct st_trial *t, st_map_fn *map, void *ctx, const struct st_cause *c,
                                        struct st_error *err);
/* Mistakes made in several nodes at once: `also` has those of the segment that are replaced. */
ST_MUST_CHECK enum st_status st_try_nodes(struct st_trial *t, st_edit_fn *also, void *ctx, const struct st_cause *c,
                                          struct st_error *err);
/* A buffer of the node's value size that belongs to the trial; what was in it is lost. */
float *st_trial_buffer(struct st_trial *t);

/* One row for each kind of mistake (hypotheses.c lists them): tried on nodes of these operations, in order. */
struct st_hypothesis {
	uint64_t ops; /* bits of enum st_op */
	enum st_status (*test)(struct st_trial *t, struct st_error *err);
};
struct st_hypothesis_list {
	const struct st_hypothesis *rows;
	size_t n;
};
extern const struct st_hypothesis_list st_all_hypotheses; /* hypotheses.c */

/* Explains x->got, which no arithmetic accounts for. */
ST_MUST_CHECK enum st_status st_find_cause(struct st_explainer *x, const struct st_segment *s,
                                           const struct st_fit *without, const struct st_hypothesis_list *list,
                                           struct st_finding *out, struct st_error *err);

/* consumers.c: whether the engine went on with what was captured, or with what the model says; settles what is the
 * capture's mistake and what the engine's. */
ST_MUST_CHECK enum st_status st_ask_consumers(struct st_explainer *x, const struct st_segment *s, struct st_finding *f,
                                              struct st_error *err);

/* preface.c: findings on entries whose rows are not those of the tokens; stop: there is nothing else to judge. */
ST_MUST_CHECK enum st_status st_check_rows(struct st_explainer *x, bool *stop, struct st_error *err);

/* visible.c: the least mistakes that x->bound, left by `fit`, would have shown at node i. */
ST_MUST_CHECK enum st_status st_visible_of(struct st_explainer *x, uint32_t i, const struct st_fit *fit,
                                           struct st_visible *out, struct st_error *err);

/* consistency.c: a layer that alone needs another arithmetic than all others is a finding. */
void st_check_consistency(struct st_explainer *x, bool keep_going);
/* Puts a finding of stage f->stage where it belongs among the others; false: there are too many. */
bool st_finding_insert(struct st_explainer *x, const struct st_finding *f);

/* beside.c: a second trace of the same tokens, judged too. */
ST_MUST_CHECK enum st_status st_set_beside(struct st_explainer *x, struct st_explainer *y, bool bits,
                                           struct st_beside **out, struct st_error *err);
/* What two runs of one engine that differ come to. */
void st_judge_again(struct st_explainer *x, const struct st_beside *b);

/* say.c: the text and the advice of a finding. */
void st_explain_say(const struct st_explainer *x, struct st_finding *f);

#define ST_OP_BIT(op) (UINT64_C(1) << (op))

#endif
