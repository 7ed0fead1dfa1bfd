/*
 * arch.h - model families: how each spells its configuration and weights, and what graph they make.
 *
 * A family is one file with one `const struct st_arch` and a row in families.c.
 */
#ifndef ST_ARCH_ARCH_H
#define ST_ARCH_ARCH_H

#include <stele/model.h>

#include "format/container.h"
#include "graph/graph.h"

struct st_model; /* arch/model.c */

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
	uint32_t n_eos_generation; /* the last ones of them, which generation_config.json alone has */
	struct st_config_origin origin[ST_CONFIG_MEMBERS];
};

/* ---- weights that causes know of ---- */

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

/* The weight that is a whole tensor under this name of Hugging Face's convention, or of the file; NULL: there is none. */
const struct st_weight *st_model_called(const struct st_model *m, const char *name);
/* The weight of that role. layer is ignored for whole-model roles. NULL when the family has no such weight; else a weight
 * whose tensor may be NULL. */
const struct st_weight *st_model_role(const struct st_model *m, enum st_role role, uint32_t layer);
const struct st_config *st_model_config(const struct st_model *m);

const struct st_graph *st_model_graph(const struct st_model *m);
/* The first rows of a tensor whose rows lie one behind the other: a view of a view. */
struct st_tensor st_tensor_first_rows(const struct st_tensor *t, uint64_t rows);
/* By what a model is opened. */
enum st_open_how {
	ST_OPEN_FAMILY, /* the page of its family */
	ST_OPEN_NAMES,  /* tensors by their names */
};
/*
 * As st_model_open_partial(), but a family that Stele cannot run is no failure either (unknown.c): then, and where it is
 * asked for, the weights are the file's tensors, one by one under their own names, those of stacked experts as one each.
 * There is no graph, and st_model_check() says why. The configuration holds what reports and the tests of weights ask for:
 * family, name, layers, heads, ids. family: as in st_model_open_as(). pool (or NULL): for the sums of an APR file.
 */
ST_MUST_CHECK enum st_status st_model_open_any(const char *path, const char *family, enum st_open_how how,
                                               struct st_pool *pool, struct st_model **out, struct st_error *err);
bool st_model_is_by_name(const struct st_model *m);
/* Whether it is so for the other file's sake alone. */
bool st_model_could_run(const struct st_model *m);
/* What reports call a key of a page: the name that all families have for it, or its own. */
const char *st_key_in_reports(const char *key);
/* Keys of the file that the page of its family does not read and that may change numbers. */
size_t st_model_n_unread(const struct st_model *m);
const char *st_model_unread_at(const struct st_model *m, size_t i);
/* The weight of a model at the place that `slot` has in another one of its family; NULL where it has no such place. */
const struct st_weight *st_model_place(const struct st_model *m, const struct st_weight *slot);
/* The weight of that role in a slot's layer. */
const struct st_weight *st_model_weight_beside(const struct st_model *m, const struct st_weight *slot,
                                               enum st_role role);
/* Whether Stele can run a model of the family that the file names. */
bool st_model_knows_family(const struct st_model *m);
/* Whether the tensors are named as GGUF names them. */
bool st_model_has_gguf_names(const struct st_model *m);

/* What a tensor's name says, in any convention (tails.c). */
struct st_name_parts {
	int32_t layer, expert; /* -1: none */
	bool text;             /* a part of the text model; else `stem` is the name up to `last` */
	char stem[128];        /* between the layer and `last`, "#" for the expert: "mlp.experts.#.gate_proj" */
	const char *last;      /* "weight", "bias", or "" */
};
void st_name_take_apart(const char *name, struct st_name_parts *p);
/* Which of the Hugging Face spellings of a GGUF stem it is, from 0; -1: none. */
int st_tail_rank(const char *gguf_stem, const char *hf_stem);

/* Let the model have the first `vocab` ids only. False, and nothing done, where it has no graph or stores its rows in
 * another way. */
ST_MUST_CHECK bool st_model_limit_vocab(struct st_model *m, uint32_t vocab);

struct st_arch {
	const char *name;           /* general.architecture of GGUF, model_type of config.json */
	const char *const *aliases; /* further spellings ("LlamaForCausalLM", "mistral", ...), NULL-terminated */
	bool gguf_rope_interleaved; /* GGUF stores Q and K rows in adjacent-pair order */
	bool qkv_bias, qk_norm;     /* what the family always has; "optional" biases are found by tensor presence */
};

extern const struct st_arch st_arch_llama, st_arch_qwen2, st_arch_qwen3;

extern const struct st_arch *const st_arch_table[];
extern const size_t st_arch_count;
/* By any spelling; NULL when unknown. */
const struct st_arch *st_arch_find(const char *name, size_t len);

/* What a file is that is no language model, by its tensors' names ("an adapter (LoRA), ..."); NULL: nothing of the kind. */
const char *st_stranger(const struct st_container *c);
/* Whether a file says that its head is the embedding and holds another head: readers differ in which they take. */
bool st_model_tie_contradicts(const struct st_model *m);
/* A member as text: numbers with the digits that tell an f32 from the next, "true", "llama3". */
void st_config_show(const struct st_config *cfg, enum st_config_member m, char *buf, size_t n);
/* "10000 (default: no qwen2.rope.freq_base)", "1000000 (rope_theta)": the value, and where it comes from. */
void st_config_tell(const char *value, const char *name, const struct st_config_origin *from, char *buf, size_t n);
/* The method that packed a model's weights into several tensors each ("AWQ"), and one of those; NULL: none known. */
const char *st_packing(const struct st_container *c, const char **tensor);

/* Names of a weight in each convention; layer is ignored for whole-model roles. Return false where the
 * role has no name there. Used by readers, convert, synth and reports. */
bool st_role_hf_name(enum st_role role, uint32_t layer, char *buf, size_t n);
bool st_role_gguf_name(enum st_role role, uint32_t layer, char *buf, size_t n);
bool st_role_per_layer(enum st_role role);
/* What descriptions call it, and the role of such a name; ST_ROLE_COUNT: none of these. */
const char *st_role_name(enum st_role role);
enum st_role st_role_called(const char *name);
enum st_weight_kind st_role_kind(enum st_role role);
/* The role and layer of a tensor name in either convention; false when it is none. */
bool st_role_of_name(const char *name, enum st_role *role, uint32_t *layer);
/* Expected shape [out, in] (ndim 1 or 2) under a configuration. */
uint32_t st_role_shape(const struct st_config *cfg, enum st_role role, uint64_t shape[2]);

/* What llama3's scaling of the rotary frequencies multiplies frequency f by. */
double st_rope_bands(double f, double factor, double low, double high, double original);
static inline double st_rope_llama3(const struct st_config *cfg, double f)
{
	return st_rope_bands(f, cfg->rope_factor, cfg->rope_low_freq, cfg->rope_high_freq,
	                     cfg->rope_original_positions);
}

struct st_described;
/* The members that a page's keys say, of a description whose settings stand; what weights and documents tell is left out. */
void st_config_of(const struct st_described *d, struct st_config *cfg);

#endif
