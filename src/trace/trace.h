/*
 * trace.h - the inside of a trace, for the files of this room.
 *
 * Reading: open.c turns a container's tensors into entries; key.c says what a name means, parts.c joins
 * separate Q, K and V, provenance.c reads the metadata. Writing: run.c evaluates a model and hands each
 * captured value to a tree (tree.c) and a bundle (bundle.c) as it appears.
 */
#ifndef ST_TRACE_TRACE_H
#define ST_TRACE_TRACE_H

#include <stele/trace.h>

#include "base/mem.h"
#include "format/container.h"
#include "graph/stage.h"

struct st_trace {
	struct st_container *c;
	struct st_arena arena;
	struct st_provenance prov;
	struct st_trace_entry *entries; /* sorted, st_trace_order() */
	size_t n_entries;
	const struct st_tensor **others; /* under names that are no stage */
	size_t n_others;
	struct st_trace_entry input; /* of layer 0, still without a stage; its tensor is NULL where there is none */
};

/* ---- names (key.c) ---- */

/* A third of a fused stage: Q, K or V. The numbers are their order in it. */
enum st_part { ST_PART_Q, ST_PART_K, ST_PART_V, ST_PART_ALL };

struct st_trace_key {
	uint32_t step; /* 0 = prompt */
	int32_t layer; /* -1 = whole model */
	enum st_stage stage;
	enum st_part part; /* ST_PART_ALL unless the name is q_matmul, v_matmul_bias, ... */
	bool token;        /* steps.<s>.token: no stage but the token evaluated in step s */
};

/* "steps.2.layers.0.attn_norm". False when the name is none. In an APRT tree a value's name comes from its path,
 * layer-0/steps.2.attn_norm.bin, so that its layer stands in front: "layers.0.steps.2.attn_norm". */
bool st_trace_key_parse(const char *name, bool tree, struct st_trace_key *out);
/* The name of a whole stage in a bundle, and in a tree. */
void st_trace_key_print(const struct st_trace_key *k, char *buf, size_t n);
void st_trace_tree_key_print(const struct st_trace_key *k, char *buf, size_t n);
/* Graph order: step; embedding, layers, final_norm, lm_head; stage. */
int st_trace_key_order(const struct st_trace_key *a, const struct st_trace_key *b);

/* ---- metadata (provenance.c) ---- */

/* From __metadata__ or trace.json. Lists come as JSON text or as JSON. Everything goes into the arena. */
ST_MUST_CHECK enum st_status st_provenance_read(const json_t *meta, struct st_provenance *p, struct st_arena *arena,
                                                struct st_error *err);
/* A map of strings, empty fields left out; NULL when out of memory. */
json_t *st_provenance_write(const struct st_provenance *p);
/* A list of integers as JSON text in a JSON string. */
json_t *st_list_write(const uint32_t *v, size_t n);

/* ---- separate Q, K, V (parts.c) ---- */

/* One tensor of a container under a parsed name. */
struct st_trace_item {
	struct st_trace_key key;
	const struct st_tensor *tensor;
	const uint32_t *positions;
	size_t n_positions;
	bool assumed; /* nobody says which position its one row is: it is taken for the last */
};

/* Give every item the axes [positions, features] that its stage has, and its position where it is the last one alone
 * (settle.c). n_tokens: 0 where unknown. */
ST_MUST_CHECK enum st_status st_trace_settle(struct st_trace_item *items, size_t n, size_t n_tokens,
                                             struct st_arena *arena, struct st_error *err);
/* The values of [positions, heads, size], or of [heads, positions, size], as [positions, heads * size]: a copy in the
 * arena. Plain types; the shape has been seen to have three dimensions and elements. */
ST_MUST_CHECK enum st_status st_trace_join_heads(const struct st_tensor *from, bool heads_first, struct st_arena *arena,
                                                 const struct st_tensor **out, struct st_error *err);

/* Replace the three parts at items[0..3), checked to be Q, K and V of one stage, by one item: values of one token side
 * by side in memory of the arena. */
ST_MUST_CHECK enum st_status st_parts_join(struct st_trace_item items[3], struct st_arena *arena, struct st_error *err);

/* ---- what transformers returns (hidden_states.c) ---- */

/* Whether the names are those of {input_ids, hidden_states, logits}, and none is a stage's. */
bool st_hidden_states_is(const struct st_container *c);
/* Items, and what is none into t->others, as read_names() does for stages. The embedding among the items is what goes
 * into layer 0. prov.tokens are known. */
ST_MUST_CHECK enum st_status st_hidden_states_read(struct st_trace *t, struct st_trace_item **items, size_t *n,
                                                   struct st_error *err);
/* The tensor's first dimension is that of several sequences. */
ST_MUST_CHECK enum st_status st_refuse_batch(const struct st_tensor *t, struct st_error *err);
/* Of what stage of the model the input of layer 0 is; it is an entry from then on. Nothing happens in other traces. */
void st_trace_set_input(struct st_trace *t, enum st_stage stage);

/* ---- capture (run.c, tree.c, bundle.c) ---- */

/* One value to be captured, known before anything is evaluated. */
struct st_capture {
	struct st_trace_key key;
	uint32_t node; /* in the graph */
	uint32_t ndim;
	uint64_t shape[3]; /* as captured */
	uint64_t n;        /* elements */
	bool last_only;    /* lm_head of the prompt's last position */
};

struct st_capture_plan {
	const struct st_provenance *prov;
	struct st_capture *items; /* in graph order: the order of evaluation */
	size_t n;
};

struct st_tree_writer;
ST_MUST_CHECK enum st_status st_tree_open(const char *path, bool replace, const struct st_capture_plan *plan,
                                          struct st_tree_writer **out, struct st_error *err);
/* c->n floats of the plan's item c. */
ST_MUST_CHECK enum st_status st_tree_put(struct st_tree_writer *w, const struct st_capture *c, const float *x,
                                         struct st_error *err);
/* Frees w, as abort does. `tokens`: what steps 1, 2, ... evaluated. */
ST_MUST_CHECK enum st_status st_tree_commit(struct st_tree_writer *w, const uint32_t *tokens, size_t n_tokens,
                                            struct st_error *err);
void st_tree_abort(struct st_tree_writer *w, struct st_error *err); /* err as in st_outdir_abort */

struct st_bundle_writer;
ST_MUST_CHECK enum st_status st_bundle_open(const char *path, const struct st_capture_plan *plan,
                                            struct st_bundle_writer **out, struct st_error *err);
/* The token that a step is about to evaluate; before the step's values. */
ST_MUST_CHECK enum st_status st_bundle_token(struct st_bundle_writer *w, uint32_t token, struct st_error *err);
/* Items come in the plan's order. */
ST_MUST_CHECK enum st_status st_bundle_put(struct st_bundle_writer *w, const struct st_capture *c, const float *x,
                                           struct st_error *err);
ST_MUST_CHECK enum st_status st_bundle_commit(struct st_bundle_writer *w, struct st_error *err);
void st_bundle_abort(struct st_bundle_writer *w);

/* Statistics of n values in f64, summed in order. Fills all but the stage, layer, step and shape. */
void st_stats_of(const float *x, size_t n, struct st_trace_stats *s);

#endif
