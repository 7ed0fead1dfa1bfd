/*
 * graph.h - a model as a list of named stages, and the evaluator.
 *
 * One node per stage and layer, in evaluation order. A node's value for T tokens is f32,
 * [T, width], or [n_heads, T, P] for attention scores and probabilities. Q and K are in
 * the half-split basis whatever order the file stores their rows in.
 *
 * The evaluator keeps the values of the current layer, the residual stream and the KV
 * cache. Any value can be replaced before a later node uses it, and any one node can be
 * evaluated alone on the values a run holds: a judge needs both.
 */
#ifndef ST_GRAPH_GRAPH_H
#define ST_GRAPH_GRAPH_H

#include <stele/model.h>

#include "base/mem.h"
#include "graph/stage.h"
#include "kernel/choice.h"
#include "kernel/kernel.h"
#include "kernel/recurrent.h"

enum st_op {
	ST_OP_EMBED,          /* rows of w[0], times scale */
	ST_OP_EMBED_POSITION, /* rows of w[0] by position */
	ST_OP_RMSNORM,        /* in[0], weight w[0] or none, over the full width */
	ST_OP_HEADNORM,    /* in[0] seen as heads of head_dim; weight w[0] or none, for each head the same or its own */
	ST_OP_LAYERNORM,   /* in[0], weight w[0] or none, bias w[1] or none; heads: over each, or 0 */
	ST_OP_LINEAR,      /* in[0] times each of w[0..n_w), outputs side by side; softcap */
	ST_OP_BIAS,        /* in[0] plus w[0..n_w) side by side */
	ST_OP_SCALE,       /* in[0] times scale, or times the one number of w[0] */
	ST_OP_ROPE,        /* in[0] */
	ST_OP_SCORES,      /* in[0] = q, in[1] = k (all cached positions) */
	ST_OP_SOFTMAX,     /* in[0]; w[0]: one more score for each head, or none */
	ST_OP_MIX,         /* in[0] = probabilities, in[1] = v (all cached positions) */
	ST_OP_ADD,         /* in[0] + in[1] */
	ST_OP_ACT,         /* activation(in[0]) */
	ST_OP_MUL,         /* in[0] * in[1] */
	ST_OP_SOFTMAX_ALL, /* soft-max over the features of in[0] */
	ST_OP_SCALE_BY_POSITION, /* in[0] times 1 + scale log(1 + floor((position + 1) / offset)) */
	ST_OP_CONCAT, /* of each of `heads` heads the features of in[0], then those of in[1], which may be one head */
	ST_OP_XIELU,  /* of in[0]; alpha_p, alpha_n, beta, eps in w[0..3], or where they are NULL in xielu[] */
	ST_OP_NEAR_SHARES,   /* of in[0] those that in[1] names, as st_near_shares has it */
	ST_OP_BIAS_AT,       /* in[0], a part for each choice, plus the rows of w[0] that in[1] names */
	ST_OP_SPREAD,        /* in[0] times each of in[1], side by side */
	ST_OP_SLICE,         /* `width` features of in[0] from `offset` on */
	ST_OP_TIMES,         /* in[0] times w[0], feature by feature, or a number for each of `heads` */
	ST_OP_LINEAR_BLOCKS, /* of block h of in[0] the product with matrix h of w[0], stored [in, out] */
	ST_OP_SOFTPLUS,      /* of in[0] */
	ST_OP_L2NORM,        /* of heads of in[0] */
	ST_OP_CONV,          /* recurrent.h: in[0], w[0..n_w) one below another */
	ST_OP_TOKEN_SHIFT,   /* in[0], w[0] or none */
	ST_OP_DELTA_RULE,    /* q, k, v, g, beta */
	ST_OP_LINEAR_ATTENTION, /* q, k, v, g or none; w[0]: what the newest token counts there, or none */
	ST_OP_SCAN,          /* x, dt, B, C; A = w[0], D = w[1] or none */
	ST_OP_LRU,           /* x, r, i; w[0] */
	ST_OP_WKV,           /* k, v; decay = w[0], first = w[1] */
	ST_OP_CLAMP,         /* in[0], between low and high */
	ST_OP_TOP,        /* indices of the `width` largest of in[0] + w[0], the largest first; of equals the lowest */
	ST_OP_SOFTMAX_OF, /* soft-max over those elements of in[0] that in[1] names */
	ST_OP_CHOSEN,     /* those elements of in[0] that in[1] names, as `shares` says */
	ST_OP_LINEAR_AT,  /* in[0], one row or one for each choice, times the experts of w[0] that in[1] names */
	ST_OP_WEIGHTED_SUM, /* of in[0]'s parts, one for each choice, times in[1]; without one: the sum */
};

#define ST_NO_NODE UINT32_MAX

#define ST_NODE_INPUTS 2
#define ST_NODE_MORE 3    /* further inputs of a few operations */
#define ST_NODE_WEIGHTS 4 /* Q, K and V; xIELU has four numbers */

struct st_node {
	enum st_stage stage;
	int32_t layer; /* -1 for whole-model stages */
	enum st_op op;
	uint32_t slot;                 /* storage that it shares with its like in other layers, below n_slots */
	uint32_t in[ST_NODE_INPUTS];   /* node indices, ST_NO_NODE where unused */
	uint32_t from[ST_NODE_INPUTS]; /* first feature that is used of an input that holds more */
	uint32_t more[ST_NODE_MORE], more_from[ST_NODE_MORE]; /* the same of the inputs behind those, n_more of them */
	uint32_t n_more;
	/* Numbers that go on from token to token, f64. A node may be evaluated alone on the state before the current tokens; its state follows
	 * from its inputs, also where its value is put. */
	uint64_t state;
	uint32_t state_size; /* CONV: taps; DELTA_RULE, LINEAR_ATTENTION: features of a key; SCAN: N */
	uint32_t groups_of;  /* SCAN: groups of B and C; DELTA_RULE: heads of keys */
	/* SCAN: A holds a number for each state; DELTA_RULE, LINEAR_ATTENTION: a decay for each feature of a key */
	bool each;
	uint32_t width;      /* features per token of the value; scores: n_heads */
	const struct st_weight *w[ST_NODE_WEIGHTS];
	uint32_t n_w;
	double eps;                 /* norms */
	uint32_t heads, head_dim;   /* HEADNORM, ROPE: heads of in[0]; SCORES, MIX: query heads */
	uint32_t kv_heads;          /* SCORES, MIX */
	double low, high;           /* CLAMP */
	bool own_weights;           /* LAYERNORM over heads: w[0] and w[1] hold numbers for each of them */
	uint32_t window, chunk;     /* SCORES, SOFTMAX, MIX: 0 = all */
	double slopes, slope_scale; /* SCORES: ALiBi's; 0 = none. LINEAR_ATTENTION without g */
	double plus;                /* SCALE */
	double jitter;              /* NEAR_SHARES */
	double xielu[4];
	double scale, softcap; /* SCORES, LINEAR (0 = none); scale: EMBED, SCALE */
	uint32_t offset;       /* EMBED_POSITION: the row of position 0 */
	uint32_t choices;      /* LINEAR_AT, WEIGHTED_SUM: experts for each token */
	struct {               /* TOP: the choice is among the `used` of `all` equal runs with the largest ... */
		uint32_t all, used, best; /* ... sum of their `best` largest */
	} groups;
	struct st_shares shares; /* CHOSEN */
	enum st_activation act;  /* ACT */
	uint32_t n_rot;          /* ROPE: features of a head that are turned */
	const double *inv_freq;  /* ROPE: n_rot / 2 entries (scaling already applied) */
	double mscale;           /* ROPE */
	struct {                 /* ROPE: what holds once more than `from` positions have been seen; 0: never */
		uint32_t from;
		const double *inv_freq; /* NULL: inv_freq follows from the number of positions, as eval.c has it */
		double mscale, theta, factor;
	} beyond;
};

#define ST_NODE_SIZE 384 /* where pointers have 64 bits; graph.c asks for it */

struct st_graph {
	struct st_node *nodes;
	uint32_t n_nodes;
	uint32_t n_layers, vocab;
	uint32_t n_slots; /* of storage for values; the stream alternates between two */
};

/* Stage, layer and slot of a node in a graph whose stages are those of the vocabulary (n_slots:
 * ST_GRAPH_VOCABULARY_SLOTS). What is not set yet: heads turn whole, a table of embeddings is taken as it is. */
void st_node_place(struct st_node *n, enum st_stage stage, int32_t layer);
#define ST_GRAPH_VOCABULARY_SLOTS (ST_STAGE_COUNT + 1)

/* Input i of a node, or ST_NO_NODE. */
static inline uint32_t st_node_input(const struct st_node *n, uint32_t i)
{
	return i < ST_NODE_INPUTS             ? n->in[i]
	     : i - ST_NODE_INPUTS < n->n_more ? n->more[i - ST_NODE_INPUTS]
	                                      : ST_NO_NODE;
}
static inline uint32_t st_node_from(const struct st_node *n, uint32_t i)
{
	return i < ST_NODE_INPUTS ? n->from[i] : n->more_from[i - ST_NODE_INPUTS];
}
#define ST_NODE_ALL_INPUTS (ST_NODE_INPUTS + ST_NODE_MORE)

/* First node with that stage and layer (-1: whole model), or ST_NO_NODE. */
uint32_t st_graph_find(const struct st_graph *g, enum st_stage stage, int32_t layer);

/* Whether node i has the same place, operation, inputs and sizes in both graphs: only weights and parameters may differ. */
bool st_node_same_form(const struct st_graph *a, const struct st_graph *b, uint32_t i);
/* Whether all nodes do. */
bool st_graph_same_form(const struct st_graph *a, const struct st_graph *b);
/* Whether it is a decoder of the common kind: norms in front of rotary attention and of silu(gate) * up, two sums in each
 * layer, and nothing else. */
bool st_graph_is_plain(const struct st_graph *g);
/* Whether two nodes of equal form compute the same function of their inputs, weights aside, for prompts of that many
 * positions, which a longer window hides nothing of; 0: of any. */
bool st_node_same_parameters(const struct st_node *a, const struct st_node *b, size_t positions);

struct st_run;

/* A run evaluates one graph for at most max_positions tokens in all, at most max_tokens at
 * a time. The graph, its weights and `e` (copied) must outlive it. */
ST_MUST_CHECK enum st_status st_run_open(const struct st_graph *g, const struct st_exec *e, size_t max_tokens,
                                         size_t max_positions, struct st_run **out, struct st_error *err);
void st_run_close(struct st_run *r);
/* Anonymous bytes such a run allocates: known before it starts. UINT64_MAX when they cannot be counted. */
uint64_t st_run_memory(const struct st_graph *g, const struct st_exec *e, size_t max_tokens, size_t max_positions);

/* ST_RUN_HEAD_LAST: lm_head is evaluated for the last token of a begin only (its value has one
 * row): with a vocabulary of 150,000 the head is most of a short prefill's work and memory. */
enum { ST_RUN_HEAD_LAST = 1 };
ST_MUST_CHECK enum st_status st_run_open_flags(const struct st_graph *g, const struct st_exec *e, size_t max_tokens,
                                               size_t max_positions, unsigned flags, struct st_run **out,
                                               struct st_error *err);
uint64_t st_run_memory_flags(const struct st_graph *g, const struct st_exec *e, size_t max_tokens, size_t max_positions,
                             unsigned flags);

/* Start on the next T tokens, after those already in the cache. Ids are checked against the vocabulary. */
ST_MUST_CHECK enum st_status st_run_begin(struct st_run *r, const uint32_t *tokens, size_t T, struct st_error *err);
/* Evaluate node i from the values the run holds. Nodes must be evaluated (or put) in order. */
ST_MUST_CHECK enum st_status st_run_eval(struct st_run *r, uint32_t i, struct st_error *err);

struct st_value {
	float *data; /* contiguous; owned by the run until the node's stage is evaluated for another layer */
	size_t rows; /* T; scores: n_heads * T */
	size_t cols; /* width; scores: P */
};
struct st_value st_run_value(const struct st_run *r, uint32_t i);
/* Replace the value of node i (also where it was not evaluated); same size as st_run_value. */
void st_run_put(struct st_run *r, uint32_t i, const float *data);

/* Evaluate node i of graph g - this run's own or one of equal form - on THIS run's current inputs, in e's
 * mode, into out (the size of st_run_value(r, i)). Changes nothing in the run: a local error is
 * the difference between st_run_value and this. */
ST_MUST_CHECK enum st_status st_run_eval_alone(struct st_run *r, const struct st_graph *g, uint32_t i,
                                               const struct st_exec *e, float *out, struct st_error *err);

/* The same with node n in place of node i: a copy of it, of which parameters, weights or inputs were changed. Its value
 * has the size of node i's, and what it reads must be held. */
ST_MUST_CHECK enum st_status st_run_eval_as(struct st_run *r, uint32_t i, const struct st_node *n,
                                            const struct st_exec *e, float *out, struct st_error *err);

/* K and V as the attention of a layer reads them: rows of all positions seen, those of the current tokens last. NULL and
 * 0 where a layer has none. A caller may change rows for an evaluation, and puts them back. */
struct st_cached {
	float *k, *v; /* [P, k_width], [P, v_width] */
	size_t k_width, v_width;
};
struct st_cached st_run_cached(const struct st_run *r, int32_t layer);

/* Whether the run holds node i's value for the current tokens: a later one of its like may have its place. */
bool st_run_holds(const struct st_run *r, uint32_t i);
size_t st_run_tokens(const struct st_run *r);    /* T of the current begin */
size_t st_run_positions(const struct st_run *r); /* P: cached positions, the current tokens included */

#endif
