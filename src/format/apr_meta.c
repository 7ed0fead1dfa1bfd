/* apr_meta.c - what an APR file's metadata and names say: spellings, writer, order of dimensions. */
#include "format/apr.h"

#include "base/error.h"

#include <string.h>

/* ---- keys ---- */

enum key_type { COUNT, NUMBER, TEXT, TEXTS, NUMBERS };

/* Spellings met in files of both writers, preferred ones first. A null means absent. */
static const struct {
	enum key_type type;
	const char *names[4];
} keys[] = {
	{ COUNT, { "hidden_size", "hidden_dim", "d_model", "n_embd" } },
	{ COUNT, { "num_layers", "n_layers", "num_hidden_layers", "n_layer" } },
	{ COUNT, { "num_heads", "n_heads", "num_attention_heads", "n_head" } },
	{ COUNT, { "num_kv_heads", "n_kv_heads", "num_key_value_heads" } },
	{ COUNT, { "vocab_size", "n_vocab" } },
	{ COUNT, { "intermediate_size", "ffn_dim", "intermediate_dim", "n_inner" } },
	{ COUNT, { "max_position_embeddings", "max_seq_len", "context_length", "n_ctx" } },
	{ COUNT, { "rope_type" } },
	{ COUNT, { "head_dim" } },
	{ COUNT, { "num_experts" } },
	{ COUNT, { "num_experts_per_tok" } },
	{ COUNT, { "moe_intermediate_size" } },
	{ NUMBER, { "rms_norm_eps", "layer_norm_eps", "norm_eps" } },
	{ NUMBER, { "rope_theta" } },
	{ TEXT, { "architecture" } },
	{ TEXT, { "model_type" } },
	{ TEXTS, { "tokenizer.vocabulary" } },
	{ TEXTS, { "tokenizer.merges" } },
	{ NUMBERS, { "tokenizer.scores" } },
};
#define MAX_SPELLINGS (sizeof keys[0].names / sizeof keys[0].names[0])

static const json_t *get(const json_t *meta, const char *key)
{
	const json_t *v = json_object_get(meta, key);
	return json_is_null(v) ? NULL : v;
}

static enum st_status check_items(const json_t *v, enum key_type type, const char *key, uint64_t origin,
                                  struct st_error *err)
{
	for (size_t i = 0; i < json_array_size(v); i++) {
		const json_t *item = json_array_get(v, i);
		if (type == TEXTS ? !json_is_string(item) : !json_is_number(item))
			return st_fail_at(err, ST_ERR_FORMAT, origin, key, "item %zu is not a %s", i,
			                  type == TEXTS ? "string" : "number");
	}
	return ST_OK;
}

static enum st_status check_type(const json_t *v, enum key_type type, const char *key, uint64_t origin,
                                 struct st_error *err)
{
	static const char *const wanted[] = {
		[COUNT] = "a whole number, zero or more",
		[NUMBER] = "a number",
		[TEXT] = "a string",
		[TEXTS] = "a list of strings",
		[NUMBERS] = "a list of numbers",
	};
	bool good = type == COUNT  ? json_is_integer(v) && json_integer_value(v) >= 0
	          : type == NUMBER ? json_is_number(v)
	          : type == TEXT   ? json_is_string(v)
	                           : json_is_array(v);
	if (!good)
		return st_fail_at(err, ST_ERR_FORMAT, origin, key, "must be %s", wanted[type]);
	return check_items(v, type, key, origin, err);
}

enum st_status st_apr_check_metadata(const json_t *meta, uint64_t origin, struct st_error *err)
{
	for (size_t k = 0; k < sizeof keys / sizeof *keys; k++) {
		const json_t *first = NULL;
		const char *first_name = NULL;
		for (size_t i = 0; i < MAX_SPELLINGS && keys[k].names[i]; i++) {
			const char *name = keys[k].names[i];
			const json_t *v = get(meta, name);
			if (!v)
				continue;
			ST_TRY(check_type(v, keys[k].type, name, origin, err));
			if (first && json_number_value(first) != json_number_value(v))
				return st_fail_at(err, ST_ERR_FORMAT, origin, first_name,
				                  "is %.17g, but %s, another spelling of it, is %.17g",
				                  json_number_value(first), name, json_number_value(v));
			first = v;
			first_name = name;
		}
	}
	return ST_OK;
}

/* Any spelling of a count; 0 when absent. */
static uint64_t count_of(const json_t *meta, const char *key)
{
	for (size_t k = 0; k < sizeof keys / sizeof *keys; k++) {
		if (strcmp(keys[k].names[0], key) != 0)
			continue;
		for (size_t i = 0; i < MAX_SPELLINGS && keys[k].names[i]; i++) {
			const json_t *v = get(meta, keys[k].names[i]);
			if (v)
				return (uint64_t)json_integer_value(v);
		}
	}
	return 0;
}

/* ---- order of dimensions ---- */

/* Which side of a matrix has the hidden size. Enough to tell [out, in] from [in, out]: the other
 * side (heads, feed-forward, vocabulary) differs from it, or the matrix is square and the label
 * says nothing. */
enum side { NEITHER, HIDDEN_IN, HIDDEN_OUT };

static const struct {
	const char *tail; /* the name, or what follows a dot in it */
	enum side side;
} matrices[] = {
	{ "embed_tokens.weight", HIDDEN_IN }, { "lm_head.weight", HIDDEN_IN },    { "q_proj.weight", HIDDEN_IN },
	{ "k_proj.weight", HIDDEN_IN },       { "v_proj.weight", HIDDEN_IN },     { "qkv_proj.weight", HIDDEN_IN },
	{ "o_proj.weight", HIDDEN_OUT },      { "gate_proj.weight", HIDDEN_IN },  { "up_proj.weight", HIDDEN_IN },
	{ "gate_up_proj.weight", HIDDEN_IN }, { "down_proj.weight", HIDDEN_OUT }, { "token_embd.weight", HIDDEN_IN },
	{ "output.weight", HIDDEN_IN },       { "attn_q.weight", HIDDEN_IN },     { "attn_k.weight", HIDDEN_IN },
	{ "attn_v.weight", HIDDEN_IN },       { "attn_qkv.weight", HIDDEN_IN },   { "attn_output.weight", HIDDEN_OUT },
	{ "ffn_gate.weight", HIDDEN_IN },     { "ffn_up.weight", HIDDEN_IN },     { "ffn_down.weight", HIDDEN_OUT },
	{ "wte.weight", HIDDEN_IN },          { "wpe.weight", HIDDEN_IN },        { "c_attn.weight", HIDDEN_IN },
	{ "c_fc.weight", HIDDEN_IN },         { "c_proj.weight", HIDDEN_OUT },
};

static bool ends_in(const char *name, const char *tail)
{
	size_t n = strlen(name), t = strlen(tail);
	return n >= t && strcmp(name + n - t, tail) == 0 && (n == t || name[n - t - 1] == '.');
}

static enum side side_of(const char *name)
{
	for (size_t i = 0; i < sizeof matrices / sizeof *matrices; i++)
		if (ends_in(name, matrices[i].tail))
			return matrices[i].side;
	return NEITHER;
}

/* GPT-2 keeps its Conv1D weights as [in, out] in the checkpoint itself. */
static bool is_conv1d(const struct st_container *c, const char *name)
{
	const char *type = json_string_value(get(c->docs.metadata, "model_type"));
	const char *arch = json_string_value(get(c->docs.metadata, "architecture"));
	bool gpt2 = (type && strncmp(type, "gpt2", 4) == 0) || (arch && strncmp(arch, "gpt2", 4) == 0);
	return gpt2
	    && (ends_in(name, "c_attn.weight") || ends_in(name, "c_fc.weight") || ends_in(name, "c_proj.weight"));
}

enum order { UNKNOWN, OUT_IN, IN_OUT };

/* What the label of a matrix says, measured by the hidden size. */
static enum order order_of(const struct st_tensor *t, uint64_t hidden)
{
	enum side side = side_of(t->name);
	if (t->ndim != 2 || hidden == 0 || side == NEITHER || t->file_dims[0] == t->file_dims[1])
		return UNKNOWN;
	uint64_t if_out_in = t->file_dims[side == HIDDEN_IN], if_in_out = t->file_dims[side == HIDDEN_OUT];
	return if_out_in == hidden ? OUT_IN : if_in_out == hidden ? IN_OUT : UNKNOWN;
}

/* The config's, or else the length of the last norm. */
static uint64_t hidden_size(const struct st_container *c)
{
	uint64_t n = count_of(c->docs.metadata, "hidden_size");
	for (size_t i = 0; n == 0 && i < c->n_tensors; i++) {
		const struct st_tensor *t = &c->tensors[i];
		if (t->ndim == 1
		    && (ends_in(t->name, "model.norm.weight") || strcmp(t->name, "output_norm.weight") == 0
		        || ends_in(t->name, "ln_f.weight")))
			n = t->file_dims[0];
	}
	return n;
}

static enum st_apr_writer writer_of(const struct st_container *c)
{
	for (size_t i = 0; i < c->n_tensors; i++) {
		const char *name = c->tensors[i].name;
		if (strncmp(name, "blk.", 4) == 0 || strncmp(name, "token_embd.", 11) == 0)
			return ST_APR_WRITER_B;
		if (strncmp(name, "model.", 6) == 0 || strncmp(name, "transformer.", 12) == 0)
			return ST_APR_WRITER_A;
	}
	return get(c->docs.metadata, "num_hidden_layers") && !get(c->docs.metadata, "num_layers") ? ST_APR_WRITER_B
	                                                                                          : ST_APR_WRITER_A;
}

/* shape from the label; `turned`: the bytes too are in the label's order, so that reading them
 * as [out, in] takes strides. */
static void set_shape(struct st_tensor *t, bool reversed, bool turned)
{
	uint64_t step = 1;
	t->layout = reversed && turned ? ST_LAYOUT_STRIDED : ST_LAYOUT_ROWS;
	for (uint32_t i = t->ndim; i-- > 0;) {
		uint32_t to = reversed ? t->ndim - 1 - i : i;
		t->shape[to] = t->file_dims[i];
		if (t->layout == ST_LAYOUT_STRIDED)
			t->strides[to] = (int64_t)step;
		step *= t->file_dims[i];
	}
}

void st_apr_orient(struct st_container *c)
{
	const char *format = json_string_value(get(c->docs.metadata, "format"));
	bool turned = format && strcmp(format, "entrenar-checkpoint") == 0;
	uint64_t hidden = hidden_size(c);
	size_t votes[3] = { 0, 0, 0 };
	for (size_t i = 0; i < c->n_tensors; i++)
		if (!is_conv1d(c, c->tensors[i].name))
			votes[order_of(&c->tensors[i], hidden)]++;
	c->apr.writer = writer_of(c);
	/* Square matrices and unknown names follow the others; where none says anything, the writer's habit. */
	bool reversed = votes[IN_OUT] != votes[OUT_IN] ? votes[IN_OUT] > votes[OUT_IN]
	                                               : c->apr.writer == ST_APR_WRITER_B;
	for (size_t i = 0; i < c->n_tensors; i++) {
		struct st_tensor *t = &c->tensors[i];
		enum order order = order_of(t, hidden);
		bool conv1d = c->apr.writer == ST_APR_WRITER_A && is_conv1d(c, t->name);
		bool this_reversed = t->ndim >= 2 && (order != UNKNOWN ? order == IN_OUT : conv1d || reversed);
		set_shape(t, this_reversed, turned || conv1d);
	}
	c->apr.dims_reversed = reversed && !turned;
}
