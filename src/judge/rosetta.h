/* rosetta.h - what the files of the judge share while a comparison is made. */
#ifndef ST_JUDGE_ROSETTA_H
#define ST_JUDGE_ROSETTA_H

#include <stele/judge.h>

#include "base/mem.h"
#include "graph/graph.h"

struct st_rosetta_state {
	struct st_rosetta r; /* what the caller sees; first, so that one pointer serves for both */
	struct st_model *ma, *mb;
	struct st_arena arena;
	bool tokens_differ;
};

/* tokens.c: the ids of both sides, from the options or from each side's own tokenizer. */
ST_MUST_CHECK enum st_status st_rosetta_tokens(struct st_rosetta_state *s, const struct st_rosetta_options *o,
                                               struct st_error *err);

/* verdict.c: first divergence, cause, diagnosis, recommendation and verdict from what was measured. */
void st_rosetta_decide(struct st_rosetta_state *s);

/* Whether two nodes of equal form compute the same function of their inputs, weights aside. */
bool st_node_same_parameters(const struct st_node *a, const struct st_node *b);

#endif
