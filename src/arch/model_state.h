/* model_state.h - inside of this room: what a model consists of. */
#ifndef ST_ARCH_MODEL_STATE_H
#define ST_ARCH_MODEL_STATE_H

#include "arch/arch.h"
#include "arch/described.h"
#include "arch/roles.h"

/* How a place and the tensor found for it fit. */
enum st_fit {
	ST_FIT_ABSENT, /* nothing there, and nothing needed */
	ST_FIT_OK,
	ST_FIT_REVERSED, /* APR: the label lists [in, out] over [out, in] bytes; harmless */
	ST_FIT_MISSING,
	ST_FIT_TRANSPOSED, /* the label says [in, out] where labels are to be believed */
	ST_FIT_SIZE,
	ST_FIT_TYPE, /* integers */
};

struct st_model {
	struct st_container *c;
	struct st_arena arena; /* everything below that is a pointer */
	struct st_config cfg;
	const struct st_arch *arch;

	struct st_naming naming;
	struct st_family *page;         /* that was asked for, or that knows the file; NULL: none */
	struct st_described *described; /* the family's page, bound; NULL: one of families.c, or none */
	struct st_weight ***stacks;     /* then: the experts of each of its weights, by layer */
	bool by_name; /* no places of a family: weights are the tensors in file order (unknown.c) */

	/* Every place of the family in graph order: the embedding, the layers, the end. */
	struct st_weight *weights;
	enum st_fit *fit;
	size_t n_weights;
	const struct st_weight **bound; /* those with a tensor */
	size_t n_bound;
	size_t *place;            /* of each tensor of the container: index into weights, or SIZE_MAX */
	struct st_tensor *turned; /* APR: by tensor, the views of those whose label is the other way round */
	const struct st_tensor **unused;
	size_t n_unused;
	const char **unread; /* keys that the page does not read */
	size_t n_unread;

	struct st_graph graph;   /* no nodes while there is a problem */
	struct st_error problem; /* the first weight that is missing or does not fit */
};

/* The roles that stand between ATTN_NORM and DOWN are per layer, and in graph order. */
#define ST_ROLES_PER_LAYER ((size_t)(ST_ROLE_DOWN - ST_ROLE_ATTN_NORM + 1))
size_t st_model_slot(const struct st_model *m, enum st_role role, uint32_t layer);

/* What the file calls that weight; false when the role has no name there. */
bool st_naming_spell(const struct st_model *m, enum st_role role, uint32_t layer, char *buf, size_t n);
/* The tensor of that name, or NULL. */
const struct st_tensor *st_naming_tensor(const struct st_model *m, enum st_role role, uint32_t layer);

/* By m->page. Keys and tensors that may change numbers and are read by nothing are
 * ST_ERR_UNSUPPORTED. */
ST_MUST_CHECK enum st_status st_model_bind_described(struct st_model *m, struct st_error *err);
/* The weight that the description calls so; its tensor may be NULL. */
const struct st_weight *st_described_place(const struct st_model *m, const char *name, int32_t layer, int32_t expert);

/* What a family's places would be for, made of the names alone; m->problem says why. */
ST_MUST_CHECK enum st_status st_model_bind_by_name(struct st_model *m, struct st_error *err);

/* Find the tensor of every place; fills weights, fit, bound, place, unused and problem. */
ST_MUST_CHECK enum st_status st_model_bind(struct st_model *m, struct st_error *err);
/* inv: head_dim / 2 radians per position, scaled as the configuration and rope_freqs.weight say. Where that
 * tensor is llama3's scaling in another spelling, the configuration names it afterwards. */
ST_MUST_CHECK enum st_status st_rope_frequencies(struct st_model *m, double *inv, struct st_error *err);
/* The graph of a decoder with rotary attention and a gated feed-forward part, after binding. */
ST_MUST_CHECK enum st_status st_decoder_graph(struct st_model *m, struct st_error *err);

#endif
