/*
 * stele/trace.h - the values of a model's stages for some tokens: made, written, read.
 */
#ifndef STELE_TRACE_H
#define STELE_TRACE_H

#include <stele/model.h>

/* What a trace says of itself. Strings are empty where unknown. */
struct st_provenance {
	char engine[64], backend[64], mode[32], model[256], model_sha256[65], arch[32];
	char weights[64];     /* main stored type(s) */
	char rope_layout[16]; /* "half" or "interleaved": basis of the Q and K values */
	char kv_cache[32], flash_attention[32], activations[64], attn_scores_form[32];
	char tool[64];
	char *prompt;     /* or NULL; owned by the trace */
	uint32_t *tokens; /* owned by the trace; NULL when unknown */
	size_t n_tokens;
	uint32_t *step_tokens; /* what decode steps 1, 2, ... evaluated; owned by the trace; NULL when unknown */
	size_t n_steps;
	uint32_t heads[3]; /* query heads, key-value heads, size of a head; 0 when unknown */
	uint32_t layers;   /* of the model, where the trace shows their number (hidden states of all of them); else 0 */
	bool known;        /* false: a bare APRT tree without trace.json */
};

/* One captured value. Rows are positions in prompt order. */
struct st_trace_entry {
	uint32_t stage;
	int32_t layer;                  /* -1: whole model */
	uint32_t step;                  /* 0 = prompt; s > 0 = decode step s */
	const struct st_tensor *tensor; /* view: shape as stored (rank >= 1), any float or integer type */
	uint64_t rows, cols;            /* rows = product of all but the last dimension; a flat APRT stage with unknown
	                                 * width has rows = 1 */
	const uint32_t *positions;      /* positions the first axis holds, or NULL for all in order */
	size_t n_positions;
	bool assumed;                   /* one row that nobody says the position of: taken for the last one */
	bool misfit;                    /* has other rows than there are tokens, and no positions; st_trace_open_loose() only */
};

struct st_trace;

/* Read a bundle, an npz with bundle keys, an APRT tree, or the hidden states that transformers returns (by content). Views
 * stay in the map. */
ST_MUST_CHECK enum st_status st_trace_open(const char *path, struct st_trace **out, struct st_error *err);
/* The same, but a value that has other rows than there are tokens is no failure. */
ST_MUST_CHECK enum st_status st_trace_open_loose(const char *path, struct st_trace **out, struct st_error *err);
void st_trace_close(struct st_trace *t);
const struct st_provenance *st_trace_provenance(const struct st_trace *t);
size_t st_trace_n_entries(const struct st_trace *t); /* in graph order: step, layer, stage */
const struct st_trace_entry *st_trace_entry_at(const struct st_trace *t, size_t i);
/* Values under names that no stage has: nobody knows what they are. In the container's order. */
size_t st_trace_n_others(const struct st_trace *t);
const struct st_tensor *st_trace_other_at(const struct st_trace *t, size_t i);
const struct st_trace_entry *st_trace_find(const struct st_trace *t, uint32_t stage, int32_t layer, uint32_t step);

struct st_trace_stats {
	uint32_t stage;
	int32_t layer;
	uint32_t step;
	uint64_t rows, cols;
	double min, max, mean, std, l2; /* over the finite elements; NaN when there are none */
	uint64_t n_nan, n_inf;
};

struct st_trace_options {
	const uint32_t *tokens; /* what to run; at least one */
	size_t n_tokens;
	const char *prompt;              /* recorded as provenance, or NULL */
	const char *mode;                /* "exact" (default when NULL), "fast", "emulate:TYPE" */
	const char *cpu;                 /* NULL = best */
	int threads;                     /* 0 = all */
	uint32_t steps;                  /* greedy steps after the prompt */
	struct st_stage_set capture;     /* stages */
	uint32_t layer_first, layer_end; /* half open; 0, 0 = all */
	const char *tree;                /* write an APRT tree here, or NULL */
	const char *bundle;              /* write a bundle here, or NULL */
	bool force;                      /* replace an existing tree or bundle */
	bool lm_head_all;                /* bundle: logits of every position (a tree always holds the last one) */
	/* Called for every evaluated stage, captured or not; may be NULL. */
	void (*on_stage)(void *user, const struct st_trace_stats *s);
	/* Called for every greedy token; may be NULL. */
	void (*on_token)(void *user, uint32_t step, uint32_t token);
	/* Called at the end with the token that would come next; not called where every logit is NaN. May be NULL. */
	void (*on_next)(void *user, uint32_t token);
	void *user;
	struct st_hooks hooks;
};

/* Evaluate and capture. Two runs write byte-identical files. */
ST_MUST_CHECK enum st_status st_trace_run(const struct st_model *m, const struct st_trace_options *o,
                                          struct st_error *err);

/* Parse "attn_norm, qkv_matmul" or "all"; errors list the valid names: those of models opened so far. */
ST_MUST_CHECK enum st_status st_trace_parse_stages(const char *list, struct st_stage_set *out, struct st_error *err);

#endif
