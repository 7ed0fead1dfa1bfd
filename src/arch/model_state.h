/* model_state.h - inside of this room: what a model consists of. */
#ifndef ST_ARCH_MODEL_STATE_H
#define ST_ARCH_MODEL_STATE_H

#include "arch/arch.h"
#include "arch/described.h"
#include "arch/roles.h"

struct st_model {
	struct st_container *c;
	struct st_arena arena; /* everything below that is a pointer */
	struct st_config cfg;
	bool gguf_names;                /* tensors are named as GGUF names them */
	struct st_family *page;         /* that was asked for, or that knows the file; NULL: none */
	struct st_described *described; /* the same, bound; NULL: it could not be */
	struct st_weight ***stacks;     /* then: the experts of each of its weights, by layer */
	bool by_name; /* no places of a family: weights are the tensors in file order (unknown.c) */
	bool could_run; /* then: it is bound so because that was asked for */

	struct st_weight *weights; /* then */
	size_t n_weights;
	const struct st_weight **bound; /* those with a tensor, in the order of the graph */
	size_t n_bound;
	const struct st_tensor **unused;
	size_t n_unused;
	const char **unread; /* keys that the page does not read */
	size_t n_unread;

	struct st_graph graph;   /* no nodes while there is a problem */
	struct st_error problem; /* the first weight that is missing or does not fit */
};

/* By m->page. Keys and tensors that may change numbers and are read by nothing are
 * ST_ERR_UNSUPPORTED. */
ST_MUST_CHECK enum st_status st_model_bind_described(struct st_model *m, struct st_error *err);
/* The weight that the description calls so; its tensor may be NULL. */
const struct st_weight *st_described_place(const struct st_model *m, const char *name, int32_t layer, int32_t expert);

/* What a family's places would be for, made of the names alone; m->problem says why. */
ST_MUST_CHECK enum st_status st_model_bind_by_name(struct st_model *m, struct st_error *err);

#endif
