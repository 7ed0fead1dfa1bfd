/* model.c - configuration and weights by name: sixteen families, Hugging Face folders and GGUF files. */
#include "naive.h"

#include <math.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

const char *const slot_names[SLOTS] = {
	"embed",
	"positions",
	"final_norm",
	"final_norm_bias",
	"head",
	"attn_norm",
	"attn_norm_bias",
	"q",
	"k",
	"v",
	"q_bias",
	"k_bias",
	"v_bias",
	"q_norm",
	"k_norm",
	"sinks",
	"o",
	"o_bias",
	"post_attn_norm",
	"ffn_norm",
	"ffn_norm_bias",
	"router",
	"router_bias",
	"gate",
	"up",
	"down",
	"gate_bias",
	"up_bias",
	"down_bias",
	"shared_gate",
	"shared_up",
	"shared_down",
	"shared_share",
	"post_ffn_norm",
	"latent_q",
	"latent",
	"latent_norm",
	"latent_b",
};

static void fail(const char *fmt, ...)
{
	va_list ap;
	va_start(ap, fmt);
	fputs("naive: ", stderr);
	vfprintf(stderr, fmt, ap);
	va_end(ap);
	fputc('\n', stderr);
	exit(2);
}

/* ---- configuration ---- */

static double number(const json_t *j, const char *key, double otherwise)
{
	const json_t *v = json_object_get(j, key);
	return json_is_number(v) ? json_number_value(v) : json_is_boolean(v) ? json_is_true(v) : otherwise;
}

static const char *text(const json_t *j, const char *key)
{
	const char *s = json_string_value(json_object_get(j, key));
	return s ? s : "";
}

static void read_rotation(struct rotation *r, const json_t *c, const json_t *j, struct model *m)
{
	const json_t *more = j ? j : json_object_get(c, "rope_scaling");
	const char *kind = json_is_object(more) ? text(more, "rope_type") : "";
	if (*kind == '\0' && json_is_object(more))
		kind = text(more, "type");
	r->theta = number(more, "rope_theta", number(c, "rope_theta", 10000));
	r->factor = number(more, "factor", 1);
	r->low = number(more, "low_freq_factor", 1);
	r->high = number(more, "high_freq_factor", 4);
	r->fast = number(more, "beta_fast", 32);
	r->slow = number(more, "beta_slow", 1);
	r->original = (size_t)number(more, "original_max_position_embeddings",
	                             number(c, "original_max_position_embeddings", (double)m->max_positions));
	r->truncate = number(more, "truncate", 1) != 0;
	r->dims = (size_t)(number(more, "partial_rotary_factor", number(c, "partial_rotary_factor", 1)) * (double)m->d);
	r->dims = m->latent ? m->turned : r->dims;
	r->attention = 1;
	if (strcmp(kind, "linear") == 0) {
		r->stretch = STRETCH_LINEAR;
	} else if (strcmp(kind, "llama3") == 0) {
		r->stretch = STRETCH_LLAMA3;
	} else if (strcmp(kind, "yarn") == 0) {
		r->stretch = STRETCH_YARN;
		r->attention = number(more, "attention_factor", r->factor > 1 ? 0.1 * log(r->factor) + 1 : 1);
	} else if (strcmp(kind, "longrope") == 0) {
		r->stretch = STRETCH_LONGROPE;
		r->factor = (double)m->max_positions / (double)r->original;
		r->attention = r->factor > 1 ? sqrt(1 + log(r->factor) / log((double)r->original)) : 1;
		for (int k = 0; k < 2; k++) {
			const json_t *list = json_object_get(more, k ? "long_factor" : "short_factor");
			for (size_t i = 0; i < json_array_size(list) && i < 64; i++)
				m->factors[k][i] = json_number_value(json_array_get(list, i));
		}
		r->short_factor = m->factors[0];
		r->long_factor = m->factors[1];
	} else if (*kind != '\0' && strcmp(kind, "default") != 0) {
		fail("rope_type %s", kind);
	}
}

static bool is(const struct model *m, const char *family) { return strcmp(m->family, family) == 0; }

static void read_config(struct model *m, const json_t *c)
{
	const char *names[] = { "llama",   "qwen2",   "qwen3",     "gemma2",   "gemma3_text", "phi3",
		                "gpt2",    "mixtral", "qwen3_moe", "gpt_oss",  "granite",     "smollm3",
		                "cohere2", "olmo2",   "dots1",     "qwen2_moe", "mpt",
		                "deepseek_v2" };
	bool known = false;
	snprintf(m->family, sizeof m->family, "%s", text(c, "model_type"));
	for (size_t i = 0; i < sizeof names / sizeof *names; i++)
		known = known || is(m, names[i]);
	if (!known)
		fail("model_type '%s'", m->family);
	bool gemma = is(m, "gemma2") || is(m, "gemma3_text"), gpt2 = is(m, "gpt2"), mpt = is(m, "mpt");
	m->L = (size_t)number(c, gpt2 ? "n_layer" : mpt ? "n_layers" : "num_hidden_layers", 0);
	m->D = (size_t)number(c, gpt2 ? "n_embd" : mpt ? "d_model" : "hidden_size", 0);
	m->H = (size_t)number(c, gpt2 ? "n_head" : mpt ? "n_heads" : "num_attention_heads", 0);
	m->G = (size_t)number(c, "num_key_value_heads", (double)m->H);
	m->d = (size_t)number(c, "head_dim", (double)(m->D / m->H));
	m->latent = is(m, "deepseek_v2") ? (size_t)number(c, "kv_lora_rank", 0) : 0;
	m->nope = (size_t)number(c, "qk_nope_head_dim", 0);
	m->turned = (size_t)number(c, "qk_rope_head_dim", 0);
	m->vd = (size_t)number(c, "v_head_dim", 0);
	if (m->latent)
		m->d = m->nope + m->turned;
	m->F = (size_t)number(c, gpt2 ? "n_inner" : "intermediate_size", number(c, "expansion_ratio", 4) * (double)m->D);
	m->V = (size_t)number(c, "vocab_size", 0);
	m->max_positions = (size_t)number(c, gpt2 ? "n_positions" : mpt ? "max_seq_len" : "max_position_embeddings", 2048);
	m->eps = number(c, gpt2 || mpt ? "layer_norm_epsilon" : is(m, "cohere2") ? "layer_norm_eps" : "rms_norm_eps", 1e-6);
	m->layernorm = gpt2 || mpt || is(m, "cohere2");
	m->plus_one = gemma && !m->gguf;
	m->parallel = is(m, "cohere2");
	m->qk_norm_whole = m->no_pre_norm = is(m, "olmo2");
	m->rotates = !gpt2 && !mpt;
	m->gated = !gpt2 && !mpt;
	m->tied = number(c, "tie_word_embeddings", gpt2 || mpt || gemma || is(m, "cohere2")) != 0;
	m->interleaved = is(m, "cohere2") || m->latent
	              || (m->gguf && (is(m, "llama") || is(m, "mixtral") || is(m, "granite") || is(m, "smollm3")));
	m->window = (size_t)number(c, "sliding_window", 0);
	if (number(c, "use_sliding_window", 1) == 0)
		m->window = 0;
	const json_t *kinds = json_object_get(c, "layer_types"), *no_rope = json_object_get(c, "no_rope_layers");
	size_t dense_first = (size_t)number(c, "first_k_dense_replace", 0);
	for (size_t l = 0; l < m->L && l < NAIVE_LAYERS; l++) {
		const char *kind = json_string_value(json_array_get(kinds, l));
		m->local[l] = m->window != 0 && (kind ? strcmp(kind, "sliding_attention") == 0 : true);
		m->turns[l] = m->rotates && (!no_rope || json_integer_value(json_array_get(no_rope, l)) == 1)
		           && (!is(m, "cohere2") || m->local[l]);
		m->experts[l] = is(m, "mixtral") || is(m, "gpt_oss") || is(m, "qwen3_moe") || is(m, "qwen2_moe")
		             || ((is(m, "dots1") || m->latent) && l >= dense_first);
		const json_t *alone = json_object_get(c, "mlp_only_layers");
		for (size_t i = 0; i < json_array_size(alone); i++)
			if (json_integer_value(json_array_get(alone, i)) == (json_int_t)l)
				m->experts[l] = false;
	}
	m->scale = 1 / sqrt((double)m->d);
	if (gemma)
		m->scale = 1 / sqrt(number(c, "query_pre_attn_scalar", (double)m->d));
	m->scale = number(c, "attention_multiplier", m->scale);
	const json_t *attention = json_object_get(c, "attn_config");
	if (mpt && number(attention, "softmax_scale", 0) != 0)
		m->scale = number(attention, "softmax_scale", 0);
	m->clip = mpt ? number(attention, "clip_qkv", 0) : 0;
	m->slopes = mpt ? number(attention, "alibi_bias_max", 8) : 0;
	m->cap = number(c, "attn_logit_softcapping", 0);
	m->final_cap = number(c, "final_logit_softcapping", 0);
	m->embed_scale = gemma ? sqrt((double)m->D) : number(c, "embedding_multiplier", 1);
	m->residual_scale = number(c, "residual_multiplier", 1);
	m->logit_scale = number(c, "logit_scale", 1) / number(c, "logits_scaling", 1);
	m->act = mpt ? GELU_EXACT : gemma || gpt2 ? GELU_TANH : is(m, "gpt_oss") ? GELU_QUICK : SILU;
	m->expert_kind = is(m, "mixtral") || is(m, "gpt_oss")     ? EXPERTS_SOFTMAX_CHOSEN
	               : is(m, "qwen3_moe") || is(m, "qwen2_moe") || m->latent ? EXPERTS_SOFTMAX_ALL
	               : is(m, "dots1")                           ? EXPERTS_SIGMOID
	                                                          : EXPERTS_NONE;
	m->E = (size_t)number(c, "num_local_experts", number(c, "num_experts", number(c, "n_routed_experts", 0)));
	m->used = (size_t)number(c, "num_experts_per_tok", 0);
	m->expert_F = (size_t)number(c, "moe_intermediate_size", (double)m->F);
	m->expert_bias = is(m, "gpt_oss");
	m->normed = number(c, "norm_topk_prob", 0) != 0;
	m->groups = (size_t)number(c, "n_group", 1);
	m->used_groups = (size_t)number(c, "topk_group", 1);
	m->routed_scale = number(c, "routed_scaling_factor", 1);
	m->shared_F = (size_t)number(c, "shared_expert_intermediate_size",
	                             number(c, "n_shared_experts", 0) * (double)m->expert_F);
	m->limit = number(c, "swiglu_limit", 0);
	const json_t *rope = json_object_get(c, "rope_parameters");
	const json_t *full = json_object_get(rope, "full_attention"),
		     *local = json_object_get(rope, "sliding_attention");
	read_rotation(&m->rope, c, full ? full : rope, m);
	m->local_rope = m->rope;
	if (local)
		read_rotation(&m->local_rope, c, local, m);
	if (m->L == 0 || m->L > NAIVE_LAYERS || m->D == 0 || m->H == 0 || m->G == 0 || m->V == 0 || m->d > 256)
		fail("sizes of %s", m->family);
}

/* ---- weights ---- */

struct source {
	struct model *m;
	const struct st_container *c;
};

/* The tensor of the first name that is there ("A|B", each with %u for the layer and %e for the expert), or NULL. */
static const struct st_tensor *find(const struct source *s, const char *names, size_t layer, size_t expert)
{
	char one[160];
	for (const char *p = names; *p != '\0';) {
		size_t n = 0;
		for (; *p != '\0' && *p != '|'; p++) {
			if (p[0] == '%' && (p[1] == 'u' || p[1] == 'e')) {
				n += (size_t)snprintf(one + n, sizeof one - n, "%zu", p[1] == 'u' ? layer : expert);
				p++;
			} else {
				one[n++] = *p;
			}
		}
		one[n] = '\0';
		p += *p == '|';
		const struct st_tensor *t = st_container_find(s->c, one);
		if (t)
			return t;
	}
	return NULL;
}

static struct weight fresh(size_t rows, size_t cols, enum st_dtype type)
{
	struct weight w = { .v = calloc(rows * cols, sizeof(float)), .rows = rows, .cols = cols, .type = type };
	if (!w.v)
		fail("no memory");
	return w;
}

static struct weight whole(const struct source *s, const char *names, size_t layer)
{
	const struct st_tensor *t = find(s, names, layer, 0);
	if (!t)
		return (struct weight){ 0 };
	struct weight w = fresh(st_tensor_rows(t), st_tensor_cols(t), t->dtype);
	st_tensor_decode(t, 0, w.rows, w.v);
	return w;
}

static struct weight turned(struct weight w)
{
	if (!w.v)
		return w;
	struct weight t = fresh(w.cols, w.rows, w.type);
	for (size_t i = 0; i < w.rows; i++)
		for (size_t j = 0; j < w.cols; j++)
			t.v[j * w.rows + i] = w.v[i * w.cols + j];
	free(w.v);
	return t;
}

/* Rows from, from + step, ... `count` of them. */
static struct weight rows_of(struct weight w, size_t from, size_t step, size_t count)
{
	if (!w.v)
		return w;
	struct weight t = fresh(count, w.cols, w.type);
	for (size_t i = 0; i < count; i++)
		memcpy(t.v + i * w.cols, w.v + (from + i * step) * w.cols, w.cols * sizeof(float));
	return t;
}

/* A vector as a column, so that rows_of takes elements; and back. */
static struct weight column(struct weight w)
{
	w.rows *= w.cols;
	w.cols = 1;
	return w;
}
static struct weight row(struct weight w)
{
	w.cols *= w.rows;
	w.rows = w.v ? 1 : 0;
	return w;
}

/* One tensor for each expert, stacked. */
static struct weight stack(const struct source *s, const char *names, size_t layer)
{
	const struct st_tensor *t = find(s, names, layer, 0);
	if (!t)
		return (struct weight){ 0 };
	size_t rows = st_tensor_rows(t), cols = st_tensor_cols(t);
	struct weight w = fresh(rows * s->m->E, cols, t->dtype);
	for (size_t e = 0; e < s->m->E; e++) {
		t = find(s, names, layer, e);
		if (!t || st_tensor_rows(t) != rows)
			fail("layer %zu: expert %zu: %s", layer, e, names);
		st_tensor_decode(t, 0, rows, w.v + e * rows * cols);
	}
	return w;
}

/* Each of E matrices turned, and of the result the rows from, from + step, ... */
static struct weight turned_experts(const struct source *s, const char *name, size_t layer, size_t from, size_t step)
{
	struct weight w = whole(s, name, layer);
	if (!w.v)
		return w;
	size_t E = s->m->E, in = w.rows / E, out = w.cols / step;
	struct weight t = fresh(E * out, in, w.type);
	for (size_t e = 0; e < E; e++)
		for (size_t i = 0; i < out; i++)
			for (size_t j = 0; j < in; j++)
				t.v[(e * out + i) * in + j] = w.v[(e * in + j) * w.cols + from + i * step];
	free(w.v);
	return t;
}

static void read_hf_layer(const struct source *s, size_t l, struct weight *w)
{
	struct model *m = s->m;
	size_t q = m->H * m->d, kv = m->G * m->d;
#define LAYER "model.layers.%u."
	w[ATTN_NORM] = whole(s, LAYER "input_layernorm.weight", l);
	if (m->latent) {
		w[LATENT_Q] = whole(s, LAYER "self_attn.q_proj.weight", l);
		w[LATENT] = whole(s, LAYER "self_attn.kv_a_proj_with_mqa.weight", l);
		w[LATENT_NORM] = whole(s, LAYER "self_attn.kv_a_layernorm.weight", l);
		w[LATENT_B] = whole(s, LAYER "self_attn.kv_b_proj.weight", l);
	} else if (is(m, "phi3")) {
		struct weight fused = whole(s, LAYER "self_attn.qkv_proj.weight", l);
		w[Q] = rows_of(fused, 0, 1, q);
		w[K] = rows_of(fused, q, 1, kv);
		w[V] = rows_of(fused, q + kv, 1, kv);
		free(fused.v);
		fused = whole(s, LAYER "mlp.gate_up_proj.weight", l);
		w[GATE] = rows_of(fused, 0, 1, m->F);
		w[UP] = rows_of(fused, m->F, 1, m->F);
		free(fused.v);
	} else {
		w[Q] = whole(s, LAYER "self_attn.q_proj.weight", l);
		w[K] = whole(s, LAYER "self_attn.k_proj.weight", l);
		w[V] = whole(s, LAYER "self_attn.v_proj.weight", l);
	}
	w[Q_BIAS] = row(whole(s, LAYER "self_attn.q_proj.bias", l));
	w[K_BIAS] = row(whole(s, LAYER "self_attn.k_proj.bias", l));
	w[V_BIAS] = row(whole(s, LAYER "self_attn.v_proj.bias", l));
	w[Q_NORM] = whole(s, LAYER "self_attn.q_norm.weight", l);
	w[K_NORM] = whole(s, LAYER "self_attn.k_norm.weight", l);
	w[SINKS] = whole(s, LAYER "self_attn.sinks", l);
	w[O] = whole(s, LAYER "self_attn.o_proj.weight", l);
	w[O_BIAS] = whole(s, LAYER "self_attn.o_proj.bias", l);
	bool both = is(m, "gemma2") || is(m, "gemma3_text");
	if (both || m->no_pre_norm) {
		w[POST_ATTN_NORM] = whole(s, LAYER "post_attention_layernorm.weight", l);
		w[FFN_NORM] = whole(s, LAYER "pre_feedforward_layernorm.weight", l);
		w[POST_FFN_NORM] = whole(s, LAYER "post_feedforward_layernorm.weight", l);
	} else {
		w[FFN_NORM] = whole(s, LAYER "post_attention_layernorm.weight", l);
	}
	if (is(m, "gpt_oss")) {
		w[ROUTER] = whole(s, LAYER "mlp.router.weight", l);
		w[ROUTER_BIAS] = whole(s, LAYER "mlp.router.bias", l);
		w[GATE] = turned_experts(s, LAYER "mlp.experts.gate_up_proj", l, 0, 2);
		w[UP] = turned_experts(s, LAYER "mlp.experts.gate_up_proj", l, 1, 2);
		w[DOWN] = turned_experts(s, LAYER "mlp.experts.down_proj", l, 0, 1);
		struct weight b = column(whole(s, LAYER "mlp.experts.gate_up_proj_bias", l));
		w[GATE_BIAS] = row(rows_of(b, 0, 2, m->E * m->expert_F));
		w[UP_BIAS] = row(rows_of(b, 1, 2, m->E * m->expert_F));
		free(b.v);
		w[DOWN_BIAS] = row(whole(s, LAYER "mlp.experts.down_proj_bias", l));
	} else if (m->experts[l]) {
		w[ROUTER] = whole(s, LAYER "block_sparse_moe.gate.weight|" LAYER "mlp.gate.weight", l);
		w[ROUTER_BIAS] = whole(s, LAYER "mlp.gate.e_score_correction_bias", l);
		w[GATE] = stack(
			s, LAYER "block_sparse_moe.experts.%e.w1.weight|" LAYER "mlp.experts.%e.gate_proj.weight", l);
		w[UP] = stack(s, LAYER "block_sparse_moe.experts.%e.w3.weight|" LAYER "mlp.experts.%e.up_proj.weight",
		              l);
		w[DOWN] = stack(
			s, LAYER "block_sparse_moe.experts.%e.w2.weight|" LAYER "mlp.experts.%e.down_proj.weight", l);
		w[SHARED_GATE] = whole(
			s, LAYER "mlp.shared_experts.gate_proj.weight|" LAYER "mlp.shared_expert.gate_proj.weight", l);
		w[SHARED_UP] = whole(
			s, LAYER "mlp.shared_experts.up_proj.weight|" LAYER "mlp.shared_expert.up_proj.weight", l);
		w[SHARED_DOWN] = whole(
			s, LAYER "mlp.shared_experts.down_proj.weight|" LAYER "mlp.shared_expert.down_proj.weight", l);
		w[SHARED_SHARE] = whole(s, LAYER "mlp.shared_expert_gate.weight", l);
	} else {
		if (!w[GATE].v)
			w[GATE] = whole(s, LAYER "mlp.gate_proj.weight", l);
		if (!w[UP].v)
			w[UP] = whole(s, LAYER "mlp.up_proj.weight", l);
		w[DOWN] = whole(s, LAYER "mlp.down_proj.weight", l);
		w[GATE_BIAS] = whole(s, LAYER "mlp.gate_proj.bias", l);
		w[UP_BIAS] = whole(s, LAYER "mlp.up_proj.bias", l);
		w[DOWN_BIAS] = whole(s, LAYER "mlp.down_proj.bias", l);
	}
}

/* Both conventions of gpt2: [in, out] in folders, [out, in] in GGUF. */
static void read_gpt2_layer(const struct source *s, size_t l, struct weight *w)
{
	struct model *m = s->m;
	const char *const hf[] = { "ln_1.weight",        "ln_1.bias",        "attn.c_attn.weight", "attn.c_attn.bias",
		                   "attn.c_proj.weight", "attn.c_proj.bias", "ln_2.weight",        "ln_2.bias",
		                   "mlp.c_fc.weight",    "mlp.c_fc.bias",    "mlp.c_proj.weight",  "mlp.c_proj.bias" };
	const char *const gguf[] = { "attn_norm.weight",   "attn_norm.bias",   "attn_qkv.weight", "attn_qkv.bias",
		                     "attn_output.weight", "attn_output.bias", "ffn_norm.weight", "ffn_norm.bias",
		                     "ffn_up.weight",      "ffn_up.bias",      "ffn_down.weight", "ffn_down.bias" };
	struct weight t[12];
	for (size_t i = 0; i < 12; i++) {
		char names[120];
		if (m->gguf)
			snprintf(names, sizeof names, "blk.%%u.%s", gguf[i]);
		else
			snprintf(names, sizeof names, "transformer.h.%%u.%s|h.%%u.%s", hf[i], hf[i]);
		t[i] = whole(s, names, l);
		if (!m->gguf && t[i].v && t[i].rows > 1)
			t[i] = turned(t[i]);
	}
	w[ATTN_NORM] = t[0];
	w[ATTN_NORM_BIAS] = t[1];
	struct weight bias = column(t[3]);
	for (int i = 0; i < 3; i++) {
		w[Q + i] = rows_of(t[2], (size_t)i * m->D, 1, m->D);
		w[Q_BIAS + i] = row(rows_of(bias, (size_t)i * m->D, 1, m->D));
	}
	free(t[2].v);
	free(bias.v);
	w[O] = t[4];
	w[O_BIAS] = t[5];
	w[FFN_NORM] = t[6];
	w[FFN_NORM_BIAS] = t[7];
	w[UP] = t[8];
	w[UP_BIAS] = t[9];
	w[DOWN] = t[10];
	w[DOWN_BIAS] = t[11];
}

static void read_mpt_layer(const struct source *s, size_t l, struct weight *w)
{
	struct model *m = s->m;
	struct weight fused = whole(s, "transformer.blocks.%u.attn.Wqkv.weight", l);
	w[ATTN_NORM] = whole(s, "transformer.blocks.%u.norm_1.weight", l);
	for (int i = 0; i < 3; i++)
		w[Q + i] = rows_of(fused, (size_t)i * m->D, 1, m->D);
	free(fused.v);
	w[O] = whole(s, "transformer.blocks.%u.attn.out_proj.weight", l);
	w[FFN_NORM] = whole(s, "transformer.blocks.%u.norm_2.weight", l);
	w[UP] = whole(s, "transformer.blocks.%u.ffn.up_proj.weight", l);
	w[DOWN] = whole(s, "transformer.blocks.%u.ffn.down_proj.weight", l);
}

static void read_gguf_layer(const struct source *s, size_t l, struct weight *w)
{
	static const struct {
		enum slot slot;
		const char *names;
	} rows[] = {
		{ ATTN_NORM, "blk.%u.attn_norm.weight" },
		{ Q, "blk.%u.attn_q.weight" },
		{ K, "blk.%u.attn_k.weight" },
		{ V, "blk.%u.attn_v.weight" },
		{ Q_BIAS, "blk.%u.attn_q.bias" },
		{ K_BIAS, "blk.%u.attn_k.bias" },
		{ V_BIAS, "blk.%u.attn_v.bias" },
		{ Q_NORM, "blk.%u.attn_q_norm.weight" },
		{ K_NORM, "blk.%u.attn_k_norm.weight" },
		{ SINKS, "blk.%u.attn_sinks.weight|blk.%u.attn_sinks" },
		{ O, "blk.%u.attn_output.weight" },
		{ O_BIAS, "blk.%u.attn_output.bias" },
		{ FFN_NORM, "blk.%u.ffn_norm.weight" },
		{ POST_ATTN_NORM, "blk.%u.post_attention_norm.weight" },
		{ POST_FFN_NORM, "blk.%u.post_ffw_norm.weight" },
		{ ROUTER, "blk.%u.ffn_gate_inp.weight" },
		{ ROUTER_BIAS, "blk.%u.ffn_gate_inp.bias|blk.%u.exp_probs_b.bias|blk.%u.exp_probs_b" },
		{ GATE, "blk.%u.ffn_gate_exps.weight|blk.%u.ffn_gate.weight" },
		{ UP, "blk.%u.ffn_up_exps.weight|blk.%u.ffn_up.weight" },
		{ DOWN, "blk.%u.ffn_down_exps.weight|blk.%u.ffn_down.weight" },
		{ GATE_BIAS, "blk.%u.ffn_gate_exps.bias|blk.%u.ffn_gate.bias" },
		{ UP_BIAS, "blk.%u.ffn_up_exps.bias|blk.%u.ffn_up.bias" },
		{ DOWN_BIAS, "blk.%u.ffn_down_exps.bias|blk.%u.ffn_down.bias" },
		{ SHARED_GATE, "blk.%u.ffn_gate_shexp.weight" },
		{ SHARED_UP, "blk.%u.ffn_up_shexp.weight" },
		{ SHARED_DOWN, "blk.%u.ffn_down_shexp.weight" },
		{ SHARED_SHARE, "blk.%u.ffn_gate_inp_shexp.weight" },
	};
	struct model *m = s->m;
	size_t q = m->H * m->d, kv = m->G * m->d;
	for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
		w[rows[i].slot] = whole(s, rows[i].names, l);
	if (is(m, "phi3")) {
		struct weight fused = whole(s, "blk.%u.attn_qkv.weight", l);
		w[Q] = rows_of(fused, 0, 1, q);
		w[K] = rows_of(fused, q, 1, kv);
		w[V] = rows_of(fused, q + kv, 1, kv);
		free(fused.v);
		fused = w[UP];
		w[GATE] = rows_of(fused, 0, 1, m->F);
		w[UP] = rows_of(fused, m->F, 1, m->F);
		free(fused.v);
	}
	if (is(m, "gpt_oss") && !w[FFN_NORM].v) {
		w[FFN_NORM] = w[POST_ATTN_NORM];
		w[POST_ATTN_NORM] = (struct weight){ 0 };
	}
	w[DOWN_BIAS] = row(w[DOWN_BIAS]);
	w[UP_BIAS] = row(w[UP_BIAS]);
	w[GATE_BIAS] = row(w[GATE_BIAS]);
}

static void check_layer(const struct model *m, size_t l, const struct weight *w)
{
	struct {
		enum slot slot;
		bool must;
		size_t rows, cols;
	} want[] = {
		{ ATTN_NORM, !m->no_pre_norm, 1, m->D },
		{ Q, !m->latent, m->H * m->d, m->D },
		{ K, !m->latent, m->G * m->d, m->D },
		{ V, !m->latent, m->G * m->d, m->D },
		{ LATENT_Q, m->latent, m->H * m->d, m->D },
		{ LATENT, m->latent, m->latent + m->turned, m->D },
		{ LATENT_NORM, m->latent, 1, m->latent },
		{ LATENT_B, m->latent, m->H * (m->nope + m->vd), m->latent },
		{ O, true, m->D, m->H * (m->latent ? m->vd : m->d) },
		{ FFN_NORM, !m->no_pre_norm && !m->parallel, 1, m->D },
		{ ROUTER, m->experts[l], m->E, m->D },
		{ GATE, m->gated, m->experts[l] ? m->E * m->expert_F : m->F, m->D },
		{ UP, true, m->experts[l] ? m->E * m->expert_F : m->F, m->D },
		{ DOWN, true, m->experts[l] ? m->E * m->D : m->D, m->experts[l] ? m->expert_F : m->F },
	};
	for (size_t i = 0; i < sizeof want / sizeof *want; i++) {
		const struct weight *x = &w[want[i].slot];
		if (want[i].must && !x->v)
			fail("layer %zu: no %s", l, slot_names[want[i].slot]);
		if (x->v && (x->rows != want[i].rows || x->cols != want[i].cols))
			fail("layer %zu: %s is [%zu, %zu], wanted [%zu, %zu]", l, slot_names[want[i].slot], x->rows,
			     x->cols, want[i].rows, want[i].cols);
	}
}

static json_t *load_json(const char *path)
{
	json_error_t e;
	json_t *j = json_load_file(path, 0, &e);
	if (!j)
		fail("%s: %s", path, e.text);
	return j;
}

struct model *model_open(const char *path, const char *config)
{
	struct st_error err = { 0 };
	struct st_container *c = NULL;
	if (st_container_open(path, &c, &err) != ST_OK)
		fail("%s: %s", path, err.message);
	struct model *m = calloc(1, sizeof *m);
	if (!m)
		fail("no memory");
	snprintf(m->path, sizeof m->path, "%s", path);
	m->gguf = st_container_format(c) == ST_FORMAT_GGUF;
	char file[1200];
	snprintf(file, sizeof file, "%s/config.json", path);
	json_t *j = load_json(config ? config : file);
	read_config(m, j);
	json_decref(j);
	m->w = calloc(m->L, sizeof *m->w);
	if (!m->w)
		fail("no memory");
	struct source s = { m, c };
	struct weight *w = m->w[0];
	w[EMBED] = whole(
		&s, m->gguf ? "token_embd.weight" : "model.embed_tokens.weight|transformer.wte.weight|wte.weight", 0);
	w[POSITIONS] = whole(&s, m->gguf ? "position_embd.weight" : "transformer.wpe.weight|wpe.weight", 0);
	w[FINAL_NORM] = whole(
		&s, m->gguf ? "output_norm.weight" : "model.norm.weight|transformer.ln_f.weight|ln_f.weight|transformer.norm_f.weight", 0);
	w[FINAL_NORM_BIAS] = whole(&s, m->gguf ? "output_norm.bias" : "transformer.ln_f.bias|ln_f.bias", 0);
	if (!m->tied || m->gguf)
		w[HEAD] = whole(&s, m->gguf ? "output.weight" : "lm_head.weight", 0);
	if (!w[EMBED].v || !w[FINAL_NORM].v || (!m->tied && !w[HEAD].v))
		fail("%s: no embedding, final norm or head", path);
	for (size_t l = 0; l < m->L; l++) {
		if (is(m, "gpt2"))
			read_gpt2_layer(&s, l, m->w[l]);
		else if (is(m, "mpt"))
			read_mpt_layer(&s, l, m->w[l]);
		else if (m->gguf)
			read_gguf_layer(&s, l, m->w[l]);
		else
			read_hf_layer(&s, l, m->w[l]);
		check_layer(m, l, m->w[l]);
	}
	st_container_close(c);
	return m;
}

void model_close(struct model *m)
{
	for (size_t l = 0; m && l < m->L; l++)
		for (size_t i = 0; i < SLOTS; i++)
			free(m->w[l][i].v);
	if (m)
		free(m->w);
	free(m);
}
