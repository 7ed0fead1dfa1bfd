/* rosetta.h - what the files of the judge share while a comparison is made. */
#ifndef ST_JUDGE_ROSETTA_H
#define ST_JUDGE_ROSETTA_H

#include <stele/judge.h>

#include "base/mem.h"
#include "compare/conventions.h"
#include "graph/graph.h"

/* Two graphs run in lock-step as far as they are one list of stages with the same widths. Behind that, what differs
 * first. */
struct st_form {
	enum {
		ST_FORM_EQUAL,
		ST_FORM_NO_GRAPH, /* a model lacks a weight; which one, the weights tell */
		ST_FORM_LAYERS,   /* a, b: how many */
		ST_FORM_STAGE,    /* stage_a stands where stage_b does */
		ST_FORM_WIDTH,    /* a, b: of stage_a */
		ST_FORM_INPUTS,   /* stage_a works on other stages, or in another way */
		ST_FORM_STAGES,   /* a, b: how many */
	} differs;
	enum st_stage stage_a, stage_b;
	int32_t layer;
	uint32_t a, b;
	uint32_t agree; /* so many nodes are alike; all, where the form is equal */
};

struct st_rosetta_state {
	struct st_rosetta r; /* what the caller sees; first, so that one pointer serves for both */
	struct st_model *ma, *mb;
	struct st_arena arena;
	bool tokens_differ;
	/* Of r.weights: how those at fault, with their neighbours, may compute the same (compare/function.h).
	 * same_function: all of them may, and nothing else differs; once the stages were evaluated, they do. */
	const char **how; /* NULL: that was not asked */
	bool same_function;
	const uint32_t **ids; /* of several prompts, which both sides take apart alike; n_ids: how many each has */
	size_t *n_ids, n_prompts;
	struct st_conventions conventions; /* of models by name */
	struct st_form form;               /* ST_FORM_EQUAL with no node also where the graphs were not looked at */
	struct st_tokenizer *ta, *tb;      /* NULL: the file has none that can be used; why_a and why_b say why */
	struct st_error why_a, why_b;
};

/* tokens.c: the ids of both sides, from the options or from each side's own tokenizer. */
ST_MUST_CHECK enum st_status st_rosetta_tokens(struct st_rosetta_state *s, const struct st_rosetta_options *o,
                                               struct st_error *err);

/* lockstep.c */
struct st_form st_form_of(const struct st_graph *a, const struct st_graph *b);
/* Evaluates both graphs as far as they are of one form (s->form), and fills r.stages; stops at the first fault unless told
 * to go on. */
ST_MUST_CHECK enum st_status st_rosetta_lockstep(struct st_rosetta_state *s, const struct st_rosetta_options *o,
                                                 const struct st_exec *e, struct st_error *err);
/* function.c: what weights may compute the same, before the stages; and what the stages say of that. */
ST_MUST_CHECK enum st_status st_rosetta_find_function(struct st_rosetta_state *s, struct st_pool *pool,
                                                      struct st_error *err);
void st_rosetta_settle_function(struct st_rosetta_state *s, bool keep_going);
/* asides.c: the differences that these tokens do not show; after the configurations were compared. */
ST_MUST_CHECK enum st_status st_rosetta_asides(struct st_rosetta_state *s, struct st_error *err);

/* by_name.c: two files of a family that Stele cannot run: tokens, keys and weights; fills what st_rosetta_decide
 * reads. */
ST_MUST_CHECK enum st_status st_rosetta_by_name(struct st_rosetta_state *s, const struct st_rosetta_options *o,
                                                struct st_pool *pool, struct st_error *err);

/* verdict.c: first divergence, cause, diagnosis, recommendation and verdict from what was measured. */
void st_rosetta_decide(struct st_rosetta_state *s);

#endif
