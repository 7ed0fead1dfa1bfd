/*
 * naive.h - a forward pass in plain loops that shares no arithmetic with Stele's evaluator, with switches for mistakes.
 *
 * The judge of traces is judged by it. Weights come as floats from libstele's public reader; what is done with them is
 * written here a second time, as the field's engines do it: in doubles, in floats summed in several orders, in the
 * roundings of half-precision engines, with quantised activations and caches. A fault changes one operation, one weight
 * as it is read, or one value as it is captured.
 */
#ifndef ST_TESTS_NAIVE_H
#define ST_TESTS_NAIVE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <jansson.h>
#include <stele/container.h>

#define NAIVE_LAYERS 64

/* ---- what a model is ---- */

enum slot {
	EMBED,
	POSITIONS,
	FINAL_NORM,
	FINAL_NORM_BIAS,
	HEAD, /* of the whole model: layer 0 */
	ATTN_NORM,
	ATTN_NORM_BIAS,
	Q,
	K,
	V,
	Q_BIAS,
	K_BIAS,
	V_BIAS,
	Q_NORM,
	K_NORM,
	SINKS,
	O,
	O_BIAS,
	POST_ATTN_NORM,
	FFN_NORM,
	FFN_NORM_BIAS,
	ROUTER,
	ROUTER_BIAS,
	GATE,
	UP,
	DOWN,
	GATE_BIAS,
	UP_BIAS,
	DOWN_BIAS,
	SHARED_GATE,
	SHARED_UP,
	SHARED_DOWN,
	SHARED_SHARE,
	POST_FFN_NORM,
	LATENT_Q, /* queries beside a latent; what makes the latent, its norm, and keys and values from it */
	LATENT,
	LATENT_NORM,
	LATENT_B,
	SLOTS
};
extern const char *const slot_names[SLOTS];

/* rows * cols floats, [out, in]; of experts the rows of all, one after the other. v is NULL where the model has none. */
struct weight {
	float *v;
	size_t rows, cols;
	enum st_dtype type; /* as stored */
};

enum activation { SILU, GELU_TANH, GELU_EXACT, GELU_QUICK, RELU };
enum stretch { STRETCH_NONE, STRETCH_LINEAR, STRETCH_LLAMA3, STRETCH_YARN, STRETCH_LONGROPE };
enum expert_kind { EXPERTS_NONE, EXPERTS_SOFTMAX_CHOSEN, EXPERTS_SOFTMAX_ALL, EXPERTS_SIGMOID };

struct rotation {
	double theta, factor, low, high, fast, slow, attention;
	enum stretch stretch;
	size_t original, dims; /* dims: features of a head that turn */
	bool truncate;
	const double *short_factor, *long_factor;
};

struct model {
	char family[32], path[1024];
	size_t L, D, H, G, d, F, V, max_positions;
	double eps;
	bool layernorm, plus_one, parallel, qk_norm_whole, no_pre_norm; /* forms of norms and blocks */
	bool interleaved;                                               /* rotary pairs are neighbours */
	bool gguf;
	struct rotation rope, local_rope;
	bool rotates, local[NAIVE_LAYERS], turns[NAIVE_LAYERS], experts[NAIVE_LAYERS];
	size_t window;                                                          /* of local layers; 0: none */
	double scale, cap, final_cap, embed_scale, residual_scale, logit_scale; /* caps: 0 = none */
	enum activation act;
	bool gated, tied;
	enum expert_kind expert_kind;
	size_t E, used, expert_F, groups, used_groups, shared_F;
	bool expert_bias, normed;
	double routed_scale, limit; /* limit: of gpt_oss' clamps */
	size_t latent, nope, turned,
		vd;          /* of models with a latent: its size; features of a head that do not turn, that do, of V */
	double slopes, clip; /* ALiBi: the largest power of 1/2; of queries, keys and values; 0: none */
	double factors[2][64];
	struct weight (*w)[SLOTS];
};

/* Folder with config.json and model.safetensors, or a GGUF file with `config` beside it. Exits with a line on trouble. */
struct model *model_open(const char *path, const char *config);
void model_close(struct model *m);
/* A model with the tensors of `like` (a folder) at other sizes and random weights: "hidden_size=64,head_dim=16". */
void model_make(const char *like, const char *to, const char *settings, uint64_t seed, double outlier, double bias);
/* Edits a folder's F32 weights: two features of the stream are of that size, until the last layer takes them away. */
void model_make_massive(const char *folder, double size);

/* ---- arithmetic ---- */

enum arith {
	ARITH_F64,
	ARITH_F32,
	ARITH_F16,
	ARITH_BF16,
	ARITH_TF32,
	ARITH_BF16STREAM,
	ARITH_F16STREAM,
	ARITH_GGML,
	ARITH_Q8_0,
	ARITH_Q8_K
};
enum order { ORDER_SEQUENTIAL, ORDER_LANES, ORDER_BLOCKED };
enum cache_type { CACHE_PLAIN, CACHE_F16, CACHE_BF16, CACHE_Q8_0 };
enum flash { FLASH_NONE, FLASH_F32, FLASH_F16 };
extern const char *const arith_names[], *const order_names[], *const cache_names[], *const flash_names[];

double to_f16(double x);
double f16_of_bits(uint16_t h);
uint16_t f16_bits(double x);
double to_bf16(double x);
double to_tf32(double x);
/* In place; n need not be a multiple of the block, the rest stays as it is. */
void to_q8_0(double *x, size_t n);
void to_q8_k(double *x, size_t n);
/* A sum of products as the arithmetic has it. The operands hold what they were rounded to. */
double dot(enum arith a, enum order o, const double *x, const double *y, size_t n);

/* ---- faults ---- */

enum fault {
	FAULT_NONE,
#define FAULT(id, name, targets, values, needs, stage, also, says, what) FAULT_##id,
#include "faults.def"
	FAULTS
};

struct fault_row {
	const char *name;    /* CODE or CODE/VARIANT */
	const char *targets; /* what it can be done to, or "" */
	const char *values;  /* what it can be set to, or "" */
	const char *needs;   /* of the model: words of model_has */
	const char
		*stage;   /* where it is first seen: a stage, "@" the target, "*" by the target's weight, "" not told */
	const char *also; /* codes that the same values may be said to have */
	const char
		*says; /* the parameter that a report has to fit, with its number where that is not the planted one */
	const char *what;
};
extern const struct fault_row fault_table[FAULTS];
bool model_has(const struct model *m, size_t layer, const char *word);
/* All the words of a row, at that layer. */
bool fault_fits(const struct model *m, enum fault f, size_t layer, const char *target);
/* "CODE/VARIANT:TARGET=VALUE" taken apart. */
struct planted {
	enum fault fault;
	char target[48];
	double value; /* NAN: the default */
	int layer;    /* -1: every layer */
	double truth; /* what a report should say of it, where that is not the value: set in a run */
};
bool planted_parse(const char *text, struct planted *out);
void fault_code(enum fault f, char *buf, size_t n);

/* ---- a run ---- */

struct value {
	char stage[40];
	int layer; /* -1: whole model */
	unsigned step;
	size_t n_dims, dims[3], n; /* n: product */
	double *v;
	bool integers;
	size_t n_positions; /* 0: all; else the rows' positions */
	uint32_t *positions;
};

struct options {
	enum arith arith;
	size_t arith_layer; /* layer that alone has it, + 1, beside others in f32; 0: all have */
	enum order order;
	enum cache_type kv;
	enum flash flash;
	bool gelu_table; /* of half precision */
	bool last_only;  /* the head for the prompt's last position alone */
	bool raw_scores; /* are captured before their scale and cap */
	bool mask_inf;   /* masked cells of captured scores hold -inf, not 0 */
	struct planted plant;
	struct planted more[4]; /* further mistakes in the same run, of other kinds */
	size_t n_more;
};

struct run {
	const struct model *m;
	struct options o;
	uint32_t *tokens; /* evaluated */
	size_t n_tokens, n_prompt;
	size_t from;   /* of them this many in front are not listed */
	unsigned step; /* that is being evaluated */
	struct value *values;
	size_t n_values, room;
	double *k[NAIVE_LAYERS], *v[NAIVE_LAYERS]; /* caches [positions, G * d] */
	uint32_t last_position;
	void **scraps;
	size_t n_scraps;
	struct planted *hit; /* the mistake that was made last */
};

/* Evaluates a prompt and `steps` tokens one by one; continues greedily where `tokens` has no more. */
struct run *run_model(const struct model *m, const struct options *o, const uint32_t *tokens, size_t n,
                      size_t n_tokens);
void run_free(struct run *r);
const struct value *run_find(const struct run *r, const char *stage, int layer, unsigned step);
/* The evaluated tokens of an unspoilt run with other tokens are used by faults of capture. */
void run_spoil_capture(struct run *r, const struct run *other);

/* ---- traces ---- */

struct trace_options {
	enum st_dtype dtype; /* F32, BF16, F16, F64 */
	/* Comma separated, NULL: all; "-NAME" leaves one out; "usual": what engines' tools write; "outputs": hidden states */
	const char *stages;
	const char *layers; /* "a..b" or NULL */
	bool bare;          /* no metadata but the tokens */
	bool split;         /* Q, K and V apart */
	bool alias;         /* layer_output, and a value that nobody knows */
	bool unplaced;      /* positions are not said */
	bool last_rows;     /* behind the last layer's attention only the last position is there */
};
/* Whether it goes into the trace. */
bool trace_takes(const struct value *v, const struct trace_options *o);
/* Which value that goes into the trace (o NULL: any) is the first to differ; NULL: none. */
const struct value *run_first_difference(const struct run *clean, const struct run *faulty,
                                         const struct trace_options *o);
/* Values are put as the options say. */
void trace_arrange(struct run *r, const struct trace_options *o);
void trace_write(const struct run *r, const struct trace_options *o, const char *path);

#endif
