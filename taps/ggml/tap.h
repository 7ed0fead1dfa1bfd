/*
 * tap.h - the preloaded tap of ggml programs: contract between its files.
 *
 *	preload.c   the symbol that takes ggml's place, what the environment asks for, the end of the process
 *	passes.c    which rows of which run of the graph belong to the trace: tokens and positions alone
 *	nodes.c     nodes of the graph: what they are, their values as dense rows
 *
 * ggml calls back for every node, before and after. The tap wants few of them, reads their values when they are there, and
 * puts the rows of its one sequence into a bundle (taps/stele_tap.h). Whatever goes wrong ends the tap with one line; the engine
 * never sees it.
 */
#ifndef ST_TAP_TAP_H
#define ST_TAP_TAP_H

#include "ggml.h"
#include "stele_tap.h"

/* ---- what was asked for (environment, set by `stele tap`) ---- */

struct st_tap_wish {
	const char *out;
	const char *stages; /* comma separated; NULL: all */
	int first, end;     /* layers; end 0: all */
	int prompt;         /* number of the prompt, from 0; -1: the first that is no warm-up */
	int32_t *tokens;    /* or the ids that it begins with */
	size_t n_tokens;
	int steps; /* decode steps to keep */
	bool all;  /* every node is asked for, so that nothing is fused */
};

/* ---- passes.c ---- */

/* Rows first .. first + n - 1 of a run of the graph are the trace's; position: of the first of them; step 0: the prompt's. */
struct st_tap_rows {
	size_t first, n;
	int32_t position;
	int step;
};

enum st_tap_answer {
	ST_TAP_IGNORE, /* nothing of this run is wanted */
	ST_TAP_TAKE,
	ST_TAP_BEGIN, /* take, and what was kept so far is no part of it: a warm-up, or another prompt */
	ST_TAP_END,   /* the trace is complete */
};

struct st_tap_passes {
	const struct st_tap_wish *wish;
	int prompts;        /* that began so far */
	bool following;     /* one of them is being traced */
	bool answered;      /* its last row had logits: what follows alone is a decode step */
	int32_t next;       /* position that would follow */
	size_t n_prompt;
	int step;
	int skipped; /* prompts that began at another position than 0 */
};

/* A run of the graph over n tokens at these positions. */
enum st_tap_answer st_tap_pass(struct st_tap_passes *p, const int32_t *tokens, const int32_t *positions, size_t n,
                               struct st_tap_rows *rows);

/* ---- nodes.c ---- */

enum st_tap_axis { WHOLE, ROWS, DEEP, SCORES };

struct st_tap_stage {
	const char *name; /* NULL: none */
	enum st_tap_axis axis;
	int layer; /* -1: of the whole model */
};

/* Which stage a node is. */
struct st_tap_stage st_tap_stage_of(const struct ggml *g, const struct ggml_tensor *t, const char *op);
/* "blk.7.attn_output.weight" of a product's weight: layer 7; -1 where it is not that weight. */
int st_tap_output_layer(const struct ggml_tensor *t);
bool st_tap_layout_is_known(const struct ggml *g, const struct ggml_tensor *t);

/* Dense values, the fastest axis first; quantised ones are decoded to F32. free() the data. */
struct st_tap_dense {
	void *data;
	enum stele_tap_type type;
	size_t size; /* of one element */
	int64_t ne[4];
};
/* NULL, or why there are none. */
const char *st_tap_read(const struct ggml *g, const struct ggml_tensor *t, struct st_tap_dense *d);
/* All integers of an I32 or I64 tensor, malloc'ed; NULL: it holds none that fit. */
int32_t *st_tap_ints(const struct ggml *g, const struct ggml_tensor *t, size_t *n);

#endif
