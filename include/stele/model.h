/*
 * stele/model.h - a model: hyper-parameters, named weights, and the graph of stages.
 */
#ifndef STELE_MODEL_H
#define STELE_MODEL_H

#include <stele/container.h>

/* ---- stages: the vocabulary of traces ---- */

/*
 * A stage's name as a number: equal names have equal numbers. Those that most families have stand here, in graph order;
 * the others get theirs when a description that names them is bound, and keep it until the process ends.
 */
enum st_stage {
	ST_STAGE_EMBEDDING,
	ST_STAGE_ATTN_NORM,
	ST_STAGE_QKV_MATMUL,
	ST_STAGE_QKV_BIAS,
	ST_STAGE_Q_POST_NORM,
	ST_STAGE_K_POST_NORM,
	ST_STAGE_Q_POST_ROPE,
	ST_STAGE_K_POST_ROPE,
	ST_STAGE_ATTN_SCORES,
	ST_STAGE_ATTN_SOFTMAX,
	ST_STAGE_ATTENTION,
	ST_STAGE_ATTN_OUT,
	ST_STAGE_POST_ATTN_NORM,
	ST_STAGE_POST_ATTN_RESIDUAL,
	ST_STAGE_FFN_NORM,
	ST_STAGE_MOE_ROUTER,
	ST_STAGE_MOE_ROUTER_INDICES,
	ST_STAGE_FFN_GATE,
	ST_STAGE_FFN_UP,
	ST_STAGE_FFN_SILU,
	ST_STAGE_FFN_SWIGL,
	ST_STAGE_FFN_OUT,
	ST_STAGE_MOE_FFN_OUT,
	ST_STAGE_POST_FFN_NORM,
	ST_STAGE_POST_FFN_RESIDUAL,
	ST_STAGE_FINAL_NORM,
	ST_STAGE_LM_HEAD,
	ST_STAGE_COUNT
};
#define ST_MAX_STAGES 1024

const char *st_stage_name(enum st_stage s);
/* Case-insensitive; aliases (layer_output) included. */
bool st_stage_parse(const char *name, size_t len, enum st_stage *out);
bool st_stage_per_layer(enum st_stage s);
/* Where a stage stands among those of a layer, or of what surrounds layers: the lower one comes first. */
uint64_t st_stage_order(enum st_stage s);
/* How many have a number now. */
unsigned st_stage_count(void);
/*
 * The number of a name, which a new one gets here. after: the stage that the family evaluates before it, ST_STAGE_COUNT:
 * none. A stage is one of layers or of none: ST_ERR_FORMAT where the name has the other meaning already; ST_ERR_LIMIT.
 */
ST_MUST_CHECK enum st_status st_stage_of(const char *name, bool per_layer, enum st_stage after, enum st_stage *out,
                                         struct st_error *err);

struct st_stage_set {
	uint64_t bits[ST_MAX_STAGES / 64];
};
bool st_stage_set_has(const struct st_stage_set *set, enum st_stage s);
void st_stage_set_add(struct st_stage_set *set, enum st_stage s);
/* Those too that have no number yet. */
void st_stage_set_add_all(struct st_stage_set *set);
bool st_stage_set_empty(const struct st_stage_set *set);

/* ---- hyper-parameters ---- */

enum st_rope_scaling { ST_ROPE_SCALING_NONE, ST_ROPE_SCALING_LINEAR, ST_ROPE_SCALING_LLAMA3 };

enum st_tie { ST_TIE_UNSAID, ST_TIE_YES, ST_TIE_NO };

/* What st_config holds, in the order of reports. */
enum st_config_member {
	ST_CONFIG_ARCH,
	ST_CONFIG_NAME,
	ST_CONFIG_N_LAYERS,
	ST_CONFIG_HIDDEN,
	ST_CONFIG_VOCAB,
	ST_CONFIG_NORM_EPS,
	ST_CONFIG_N_HEADS,
	ST_CONFIG_N_KV_HEADS,
	ST_CONFIG_HEAD_DIM,
	ST_CONFIG_FFN,
	ST_CONFIG_QKV_BIAS,
	ST_CONFIG_QK_NORM,
	ST_CONFIG_ROPE_THETA,
	ST_CONFIG_ROPE_SCALING,
	ST_CONFIG_ROPE_FACTOR,
	ST_CONFIG_ROPE_LOW_FREQ,
	ST_CONFIG_ROPE_HIGH_FREQ,
	ST_CONFIG_ROPE_ORIGINAL_POSITIONS,
	ST_CONFIG_SLIDING_WINDOW,
	ST_CONFIG_WINDOW_FROM_LAYER,
	ST_CONFIG_TIED,
	ST_CONFIG_MAX_POSITIONS,
	ST_CONFIG_BOS,
	ST_CONFIG_EOS,
	ST_CONFIG_MEMBERS
};

/* "rope_theta": the member as reports call it. */
const char *st_config_member_name(enum st_config_member m);

/* Where a member's value comes from. */
struct st_config_origin {
	bool said;    /* in the file; else it is the family's default, or follows from tensors or other members */
	char key[88]; /* as the file spells it; where it does not say it, the key that would; "" where there is none */
};

struct st_config {
	char arch[32];  /* family: "llama", "qwen2", "qwen3" */
	char name[128]; /* what the file calls the model, or empty */
	uint32_t n_layers, hidden, n_heads, n_kv_heads, head_dim, ffn, vocab, max_positions;
	double norm_eps;
	double rope_theta;
	enum st_rope_scaling rope_scaling;
	double rope_factor;                   /* linear, llama3 */
	double rope_low_freq, rope_high_freq; /* llama3 */
	uint32_t rope_original_positions;     /* llama3 */
	uint32_t sliding_window;              /* 0 = none */
	uint32_t window_from_layer;           /* layers below it attend to everything (qwen2 max_window_layers) */
	bool qkv_bias, qk_norm;
	bool tied;            /* the head is the embedding */
	enum st_tie tie_said; /* what the file says of that, whatever tensors it holds */
	int64_t bos, eos;     /* -1 = none */
	int64_t eos_also[7];  /* further ids that end a text; generation_config.json and lists have them */
	uint32_t n_eos_also;
	struct st_config_origin origin[ST_CONFIG_MEMBERS];
};

/* ---- weights ---- */

enum st_role {
	ST_ROLE_EMBED,
	ST_ROLE_ATTN_NORM,
	ST_ROLE_Q,
	ST_ROLE_K,
	ST_ROLE_V,
	ST_ROLE_Q_BIAS,
	ST_ROLE_K_BIAS,
	ST_ROLE_V_BIAS,
	ST_ROLE_Q_NORM,
	ST_ROLE_K_NORM,
	ST_ROLE_O,
	ST_ROLE_FFN_NORM,
	ST_ROLE_GATE,
	ST_ROLE_UP,
	ST_ROLE_DOWN,
	ST_ROLE_FINAL_NORM,
	ST_ROLE_HEAD,
	ST_ROLE_ROPE_FREQS,
	ST_ROLE_COUNT
};

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
	enum st_role role;
	const char
		*name; /* as the family's description calls it: "q", "post_attn_norm"; NULL: known by the file's name */
	int32_t layer; /* -1 for whole-model weights */
	int32_t expert; /* of a stack, one weight each; -1: not of a stack */
	enum st_weight_kind kind;
	char canonical[128]; /* Hugging Face name */
	enum st_stage stage; /* the first stage that uses it */
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

const struct st_config *st_model_config(const struct st_model *m);
const struct st_container *st_model_container(const struct st_model *m);
/* layer is ignored for whole-model roles. NULL when the family has no such weight; else a
 * weight whose tensor may be NULL. */
const struct st_weight *st_model_weight(const struct st_model *m, enum st_role role, uint32_t layer);
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
 * apart. What does not fit always has a line of its own.
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
