/* apr_meta.c - what an APR file's metadata and names say: spellings, writer, order of dimensions. */
#include "format/apr.h"

#include "base/error.h"
#include "base/text.h"

#include <string.h>

/* ---- keys ---- */

/* Spellings met in files of both writers, preferred ones first. */
#define AT(m) ST_JSON_AT(struct st_apr_meta, m)
#define LIST(m, t) ST_JSON_AT_A(struct st_apr_meta, m, t)
static const struct st_json_field keys[] = {
	{ AT(hidden_size), .key = { "hidden_size", "hidden_dim", "d_model", "n_embd" } },
	{ AT(layers), .key = { "num_layers", "n_layers", "num_hidden_layers", "n_layer" } },
	{ AT(heads), .key = { "num_heads", "n_heads", "num_attention_heads", "n_head" } },
	{ AT(kv_heads), .key = { "num_kv_heads", "n_kv_heads", "num_key_value_heads" } },
	{ AT(vocab), .key = { "vocab_size", "n_vocab" } },
	{ AT(intermediate), .key = { "intermediate_size", "ffn_dim", "intermediate_dim", "n_inner" } },
	{ AT(positions), .key = { "max_position_embeddings", "max_seq_len", "context_length", "n_ctx" } },
	{ AT(rope_type), .key = { "rope_type" } },
	{ AT(head_dim), .key = { "head_dim" } },
	{ AT(experts), .key = { "num_experts" } },
	{ AT(experts_per_token), .key = { "num_experts_per_tok" } },
	{ AT(moe_intermediate), .key = { "moe_intermediate_size" } },
	{ AT(norm_eps), .key = { "rms_norm_eps", "layer_norm_eps", "norm_eps" } },
	{ AT(rope_theta), .key = { "rope_theta" } },
	{ AT(architecture), .key = { "architecture" } },
	{ AT(model_type), .key = { "model_type" } },
	{ LIST(vocabulary, ST_JSON_TEXTS), .key = { "tokenizer.vocabulary" } },
	{ LIST(merges, ST_JSON_TEXTS), .key = { "tokenizer.merges" } },
	{ LIST(scores, ST_JSON_NUMBERS), .key = { "tokenizer.scores" } },
};

enum st_status st_apr_read_metadata(const json_t *meta, uint64_t origin, struct st_apr_meta *m, struct st_error *err)
{
	*m = (struct st_apr_meta){ 0 };
	return st_json_read(meta, &(struct st_json_read){ .offset = origin }, keys, sizeof keys / sizeof *keys, m, NULL,
	                    err);
}

static bool there(const json_t *meta, const char *key)
{
	const json_t *v = json_object_get(meta, key);
	return v && !json_is_null(v);
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

static enum side side_of(const char *name)
{
	for (size_t i = 0; i < sizeof matrices / sizeof *matrices; i++)
		if (st_ends_in_parts(name, matrices[i].tail))
			return matrices[i].side;
	return NEITHER;
}

/* GPT-2 keeps its Conv1D weights as [in, out] in the checkpoint itself. */
static bool is_conv1d(const struct st_apr_meta *m, const char *name)
{
	bool gpt2 = (m->model_type && strncmp(m->model_type, "gpt2", 4) == 0)
	         || (m->architecture && strncmp(m->architecture, "gpt2", 4) == 0);
	return gpt2
	    && (st_ends_in_parts(name, "c_attn.weight") || st_ends_in_parts(name, "c_fc.weight") || st_ends_in_parts(name, "c_proj.weight"));
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
static uint64_t hidden_size(const struct st_container *c, const struct st_apr_meta *m)
{
	uint64_t n = m->hidden_size;
	for (size_t i = 0; n == 0 && i < c->n_tensors; i++) {
		const struct st_tensor *t = &c->tensors[i];
		if (t->ndim == 1
		    && (st_ends_in_parts(t->name, "model.norm.weight") || strcmp(t->name, "output_norm.weight") == 0
		        || st_ends_in_parts(t->name, "ln_f.weight")))
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
	return there(c->docs.metadata, "num_hidden_layers") && !there(c->docs.metadata, "num_layers") ? ST_APR_WRITER_B
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

void st_apr_orient(struct st_container *c, const struct st_apr_meta *m)
{
	const char *format = json_string_value(json_object_get(c->docs.metadata, "format"));
	bool turned = format && strcmp(format, "entrenar-checkpoint") == 0;
	uint64_t hidden = hidden_size(c, m);
	size_t votes[3] = { 0, 0, 0 };
	for (size_t i = 0; i < c->n_tensors; i++)
		if (!is_conv1d(m, c->tensors[i].name))
			votes[order_of(&c->tensors[i], hidden)]++;
	c->apr.writer = writer_of(c);
	/* Square matrices and unknown names follow the others; where none says anything, the writer's habit. */
	bool reversed = votes[IN_OUT] != votes[OUT_IN] ? votes[IN_OUT] > votes[OUT_IN]
	                                               : c->apr.writer == ST_APR_WRITER_B;
	for (size_t i = 0; i < c->n_tensors; i++) {
		struct st_tensor *t = &c->tensors[i];
		enum order order = order_of(t, hidden);
		bool conv1d = c->apr.writer == ST_APR_WRITER_A && is_conv1d(m, t->name);
		bool this_reversed = t->ndim >= 2 && (order != UNKNOWN ? order == IN_OUT : conv1d || reversed);
		set_shape(t, this_reversed, turned || conv1d);
	}
	c->apr.dims_reversed = reversed && !turned;
}
