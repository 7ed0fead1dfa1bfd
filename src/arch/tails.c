/*
 * tails.c - names of tensors whose family is not known: which name of the one convention stands for which of the other.
 *
 * What follows the number of a layer is much the same in all families of a convention, and GGUF has one word where
 * Hugging Face's modules have several. A spelling may stand for two GGUF words (a norm behind the attention); then it
 * is the other words of the file that tell, so a rank says which spelling comes first.
 */
#include "arch/arch.h"

#include <stdio.h>
#include <string.h>

/* clang-format off */
static const struct {
	const char *gguf, *hf[12];
} tails[] = {
	{ "token_embd", { "embed_tokens", "wte", "word_embeddings", "embeddings.word_embeddings", "embed_in", "embeddings",
	                  "tok_embeddings", "embedding.word_embeddings", "embedding" } },
	{ "position_embd", { "wpe", "embeddings.position_embeddings", "embed_positions" } },
	{ "token_types", { "embeddings.token_type_embeddings" } },
	{ "token_embd_norm", { "embeddings.LayerNorm", "word_embeddings_layernorm", "embeddings.norm" } },
	{ "output_norm", { "norm", "ln_f", "final_layernorm", "norm_f", "final_layer_norm", "embedding_norm",
	                   "final_norm" } },
	{ "output", { "lm_head", "embed_out", "output", "output_layer" } },
	{ "attn_norm", { "input_layernorm", "ln_1", "ln_mlp", "norm", "attention_norm", "operator_norm", "input_norm",
	                 "norm_1", "norm1", "ln1", "self_attn_layer_norm" } },
	{ "attn_norm_2", { "ln_attn" } },
	{ "attn_q", { "self_attn.q_proj", "attention.self.query", "attention.wq", "attn.q_proj", "attention.q_proj",
	              "attn.attention.q_proj" } },
	{ "attn_k", { "self_attn.k_proj", "attention.self.key", "attention.wk", "attn.k_proj", "attention.k_proj",
	              "attn.attention.k_proj" } },
	{ "attn_v", { "self_attn.v_proj", "attention.self.value", "attention.wv", "attn.v_proj", "attention.v_proj",
	              "attn.attention.v_proj" } },
	{ "attn_qkv", { "self_attn.qkv_proj", "attn.c_attn", "attention.query_key_value", "self_attention.query_key_value",
	                "attn.Wqkv", "self_attn.W_pack", "attention.wqkv", "linear_attn.in_proj_qkv", "attn.qkv_proj" } },
	{ "attn_output", { "self_attn.o_proj", "self_attn.out_proj", "attn.c_proj", "attention.dense",
	                   "self_attention.dense", "attention.output.dense", "attn.out_proj", "attention.wo",
	                   "self_attn.dense", "attn.attention.out_proj", "attention.o_proj" } },
	{ "attn_output_norm", { "attention.output.LayerNorm" } },
	{ "layer_output_norm", { "output.LayerNorm" } },
	{ "attn_q_norm", { "self_attn.q_norm", "self_attn.q_layernorm", "self_attn.query_layernorm", "attn.q_ln" } },
	{ "attn_k_norm", { "self_attn.k_norm", "self_attn.k_layernorm", "self_attn.key_layernorm", "attn.k_ln" } },
	{ "attn_gate", { "self_attn.gate_proj", "linear_attn.in_proj_z" } },
	{ "attn_q_a", { "self_attn.q_a_proj" } },
	{ "attn_q_b", { "self_attn.q_b_proj" } },
	{ "attn_kv_a_mqa", { "self_attn.kv_a_proj_with_mqa" } },
	{ "attn_kv_b", { "self_attn.kv_b_proj" } },
	{ "attn_q_a_norm", { "self_attn.q_a_layernorm" } },
	{ "attn_kv_a_norm", { "self_attn.kv_a_layernorm" } },
	{ "post_attention_norm", { "post_attention_layernorm", "post_self_attn_layernorm" } },
	{ "ffn_norm", { "pre_feedforward_layernorm", "post_attention_layernorm", "ln_2", "ffn_norm", "pre_ff_layernorm",
	                "pre_mlp_layernorm", "norm_2", "norm2", "ln2" } },
	{ "post_ffw_norm", { "post_feedforward_layernorm", "post_mlp_layernorm" } },
	{ "ffn_gate", { "mlp.gate_proj", "feed_forward.w1", "feed_forward.gate_proj", "shared_mlp.gate_proj" } },
	{ "ffn_up", { "mlp.up_proj", "mlp.gate_up_proj", "mlp.c_fc", "mlp.dense_h_to_4h", "mlp.fc1", "intermediate.dense",
	              "feed_forward.w3", "feed_forward.up_proj", "fc1" } },
	{ "ffn_down", { "mlp.down_proj", "mlp.c_proj", "mlp.dense_4h_to_h", "mlp.fc2", "output.dense", "feed_forward.w2",
	                "feed_forward.down_proj", "fc2" } },
	{ "ffn_gate_inp", { "mlp.gate", "block_sparse_moe.gate", "mlp.router", "feed_forward.router",
	                    "block_sparse_moe.router.layer" } },
	{ "ffn_gate_exps", { "mlp.experts.#.gate_proj", "block_sparse_moe.experts.#.w1" } },
	{ "ffn_up_exps", { "mlp.experts.#.up_proj", "block_sparse_moe.experts.#.w3" } },
	{ "ffn_down_exps", { "mlp.experts.#.down_proj", "block_sparse_moe.experts.#.w2" } },
	{ "ffn_gate_shexp", { "mlp.shared_expert.gate_proj", "mlp.shared_experts.gate_proj" } },
	{ "ffn_up_shexp", { "mlp.shared_expert.up_proj", "mlp.shared_experts.up_proj" } },
	{ "ffn_down_shexp", { "mlp.shared_expert.down_proj", "mlp.shared_experts.down_proj" } },
	{ "ffn_gate_inp_shexp", { "mlp.shared_expert_gate" } },
	{ "ssm_in", { "mixer.in_proj", "mamba.in_proj" } },
	{ "ssm_conv1d", { "mixer.conv1d", "mamba.conv1d", "linear_attn.conv1d" } },
	{ "ssm_x", { "mixer.x_proj", "mamba.x_proj" } },
	{ "ssm_dt", { "mixer.dt_proj", "mamba.dt_proj" } },
	{ "ssm_d", { "mixer.D", "mamba.D" } },
	{ "ssm_norm", { "mixer.norm", "mamba.norm", "linear_attn.norm" } },
	{ "ssm_out", { "mixer.out_proj", "mamba.out_proj", "linear_attn.out_proj" } },
};

/* What stands before the number of a layer, or before the name of a tensor that has none, in a text model. */
static const char *const fronts[] = { "model", "transformer", "language_model", "backbone", "bert", "roberta", "gpt_neox",
	"decoder", "encoder", "module", "_orig_mod", "base_model", "text_model", "layers", "layer", "blocks", "blk", "h" };
/* clang-format on */

int st_tail_rank(const char *gguf_stem, const char *hf_stem)
{
	for (size_t i = 0; i < sizeof tails / sizeof *tails; i++)
		for (int k = 0; k < 12 && tails[i].hf[k] && strcmp(tails[i].gguf, gguf_stem) == 0; k++)
			if (strcmp(tails[i].hf[k], hf_stem) == 0)
				return k;
	return -1;
}

static bool is_front(const char *s, size_t n)
{
	for (size_t i = 0; i < sizeof fronts / sizeof *fronts; i++)
		if (strlen(fronts[i]) == n && memcmp(fronts[i], s, n) == 0)
			return true;
	return false;
}

/* A part of a name that is a number of at most six digits; -1: it is none. */
static int32_t number(const char *s, size_t n)
{
	int32_t v = 0;
	for (size_t i = 0; i < n; i++) {
		if (s[i] < '0' || s[i] > '9')
			return -1;
		v = v * 10 + (s[i] - '0');
	}
	return n > 0 && n <= 6 ? v : -1;
}

void st_name_take_apart(const char *name, struct st_name_parts *p)
{
	*p = (struct st_name_parts){ .layer = -1, .expert = -1, .text = true, .last = "" };
	const char *dot = strrchr(name, '.'), *end = name + strlen(name), *s = name;
	if (dot && (strcmp(dot, ".weight") == 0 || strcmp(dot, ".bias") == 0)) {
		p->last = dot + 1;
		end = dot;
	}
	/* A slice of stacked experts is called NAME[i]: its last part has the number behind it. */
	const char *slice = strrchr(name, '[');
	if (slice && slice > name && name[strlen(name) - 1] == ']') {
		p->expert = number(slice + 1, strlen(slice) - 2);
		end = slice;
		if (end - name > 7 && strncmp(end - 7, ".weight", 7) == 0) {
			end -= 7;
			p->last = "weight";
		}
	}
	/* Up to the layer, or up to the first part that is no front. */
	const char *begin = name;
	bool sliced = p->expert >= 0;
	for (const char *q = s; q <= end; q++) {
		if (q < end && *q != '.')
			continue;
		size_t n = (size_t)(q - s);
		int32_t v = number(s, n);
		if (v >= 0 && p->layer < 0) {
			/* Whatever stood before it must have been fronts. */
			for (const char *f = name, *g = name; g < s; g++)
				if (*g == '.') {
					p->text &= is_front(f, (size_t)(g - f));
					f = g + 1;
				}
			p->layer = v;
			begin = q < end ? q + 1 : end;
		} else if (v < 0 && p->layer < 0 && begin == s && is_front(s, n) && q < end) {
			begin = q + 1;
		} else if (v >= 0 && p->expert < 0 && !sliced) {
			p->expert = v;
		}
		s = q + 1;
	}
	if (!p->text)
		begin = name;
	size_t at = 0;
	for (const char *f = begin, *q = begin; q <= end && at + 1 < sizeof p->stem; q++) {
		if (q < end && *q != '.')
			continue;
		int n = (int)(q - f);
		bool expert = p->text && !sliced && p->expert >= 0 && number(f, (size_t)n) == p->expert;
		at += (size_t)snprintf(p->stem + at, sizeof p->stem - at, "%s%.*s", at ? "." : "", expert ? 1 : n,
		                       expert ? "#" : f);
		f = q + 1;
	}
}
