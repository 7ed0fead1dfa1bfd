/*
 * stele/model.h - a model: hyper-parameters, named weights, and the graph of stages.
 */
#ifndef STELE_MODEL_H
#define STELE_MODEL_H

#include <stele/container.h>

/* ---- stages: the vocabulary of traces ---- */

/*
 * A stage is known by its number: equal names have equal numbers. Names that most families have are numbered in graph
 * order; the others get theirs when a description that names them is bound, and keep it until the process ends.
 */
#define ST_MAX_STAGES 1024

const char *st_stage_name(uint32_t s);
/* Case-insensitive; aliases (layer_output) included. */
bool st_stage_parse(const char *name, size_t len, uint32_t *out);
bool st_stage_per_layer(uint32_t s);
/* Where a stage stands among those of a layer, or of what surrounds layers: the lower one comes first. */
uint64_t st_stage_order(uint32_t s);
/* How many have a number now. */
unsigned st_stage_count(void);

/* Some stages. */
struct st_stage_set {
	uint64_t bits[ST_MAX_STAGES / 64];
};
bool st_stage_set_has(const struct st_stage_set *set, uint32_t s);
void st_stage_set_add(struct st_stage_set *set, uint32_t s);
/* Those too that have no number yet. */
void st_stage_set_add_all(struct st_stage_set *set);
bool st_stage_set_empty(const struct st_stage_set *set);

/* ---- what a file says of its model ---- */

/* Where a key's value comes from. */
struct st_config_origin {
	bool said;    /* in the file; else it is the family's default, or follows from tensors or other members */
	char key[88]; /* as the file spells it; where it does not say it, the key that would; "" where there is none */
};

/* One of what every family has, in the order of reports: "arch", "n_layers", "rope_theta". */
struct st_model_key {
	const char *name;
	char value[128]; /* "llama", "4096", "true"; "0" or "-1" where there is none */
	struct st_config_origin from;
};

/* ---- weights ---- */

/* What the graph does with a weight. */
enum st_weight_kind {
	ST_WEIGHT_MATRIX,
	ST_WEIGHT_EMBEDDING, /* rows are looked up */
	ST_WEIGHT_NORM,      /* features are multiplied by it */
	ST_WEIGHT_BIAS,      /* it is added to features */
	ST_WEIGHT_OTHER,     /* divisors of frequencies, single numbers */
};

/*
 * A weight bound to its place. `tensor` shows it as stored; `interleaved` says that its
 * rows are in the adjacent-pair RoPE order (llama-family GGUF) with `heads` heads, so row
 * h*d + 2i is the half-split basis' row h*d + i, and row h*d + 2i + 1 its row h*d + d/2 + i.
 */
struct st_weight {
	const struct st_tensor *tensor; /* NULL: the model has none (bias, untied head, ...) */
	bool interleaved;
	uint32_t heads;
	/* What a file stores of it and what it means, where these differ: 1 + the stored number; of every `group_of`
	 * stored rows those from `group_from` on, `group_rows` of them (0: all rows are its own); one tensor for each
	 * expert. */
	bool plus_one;
	bool neg_exp;       /* -exp of the stored number */
	uint32_t pair_dims; /* of an interleaved one: features of each head that lie in pairs; 0: all */
	uint32_t group_from, group_rows, group_of;
	const struct st_tensor *experts;
	uint32_t n_experts;
	uint32_t role; /* which of those that causes know of, the library's own business; others have the largest */
	const char
		*name; /* as the family's description calls it: "q", "post_attn_norm"; NULL: known by the file's name */
	int32_t layer; /* -1 for whole-model weights */
	int32_t expert; /* of a stack, one weight each; -1: not of a stack */
	enum st_weight_kind kind;
	char canonical[128]; /* Hugging Face name */
	uint32_t stage;      /* the first stage that uses it */
};

struct st_model;

/* Open the container, read the configuration, bind every weight and check every shape. */
ST_MUST_CHECK enum st_status st_model_open(const char *path, struct st_model **out, struct st_error *err);
/* The same by a description of one's own: the path of its file, or the name of a built-in one (stele/family.h); NULL: the
 * family that the file names. */
ST_MUST_CHECK enum st_status st_model_open_as(const char *path, const char *family, struct st_model **out,
                                              struct st_error *err);
/* The same, but a weight that is missing or does not fit is no failure: its tensor is NULL or
 * has a shape of its own, st_model_check says what is wrong with the first one, and the model
 * cannot be run. For comparing weights, and for the load log of a file that cannot be used. */
ST_MUST_CHECK enum st_status st_model_open_partial(const char *path, struct st_model **out, struct st_error *err);
/* ST_OK when every weight is there and fits. */
ST_MUST_CHECK enum st_status st_model_check(const struct st_model *m, struct st_error *err);
void st_model_close(struct st_model *m);

size_t st_model_n_keys(const struct st_model *m);
void st_model_key_at(const struct st_model *m, size_t i, struct st_model_key *out);
const struct st_container *st_model_container(const struct st_model *m);
/* By the name that the family's description has for it: "q", "post_attn_norm". layer is ignored for weights of the whole
 * model. NULL when the family has no such weight; else a weight whose tensor may be NULL. */
const struct st_weight *st_model_weight(const struct st_model *m, const char *name, uint32_t layer);
/* All bound weights, in graph order. */
size_t st_model_n_weights(const struct st_model *m);
const struct st_weight *st_model_weight_at(const struct st_model *m, size_t i);
/* Tensors of the container that no weight uses. */
size_t st_model_n_unused(const struct st_model *m);
const struct st_tensor *st_model_unused_at(const struct st_model *m, size_t i);

/*
 * Accounts for every tensor of the container, in its order:
 * "[APR-LOAD] tensor 'N': dims=[..], dtype=.., expected [out, in] = [..], layout OK". Lines of layers that say the same
 * fold into one, "[APR-LOAD] layers 0..27 self_attn.q_proj.weight: dims=[..], dtype=.., layout OK"; `each` keeps them
 * apart. What does not fit always has a line of its own, and so has a square matrix that lies transposed by its numbers.
 */
void st_model_load_log(const struct st_model *m, bool each, const struct st_hooks *hooks);

/* Rows of a weight: those of its tensor, unless it has only some of them; of a vector that has some elements of its tensor,
 * how many. And the length of one row. */
uint64_t st_weight_rows(const struct st_weight *w);
uint64_t st_weight_cols(const struct st_weight *w);
/* Which row of the tensor is row r of the weight. */
uint64_t st_weight_stored_row(const struct st_weight *w, uint64_t r);
/* Decode rows [row0, row0 + n) of a weight in the half-split basis: n * cols floats. */
void st_weight_decode(const struct st_weight *w, uint64_t row0, uint64_t n, float *dst);

#endif
