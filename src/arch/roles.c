/* roles.c - what each weight is called in either convention, and its shape. */
#include "arch/arch.h"
#include "arch/roles.h"

#include <stdio.h>
#include <string.h>

/* Dimensions a shape is made of, as indices into dim_value(). */
enum dim { DIM_NONE, DIM_VOCAB, DIM_HIDDEN, DIM_Q, DIM_KV, DIM_FFN, DIM_HEAD, DIM_PAIRS };

/* Per-layer names stand behind "model.layers.N." and "blk.N."; the others behind "model." or nothing. */
static const struct role_row {
	const char *name; /* in descriptions */
	enum st_weight_kind kind;
	const char *hf, *gguf;
	bool per_layer;
	enum dim out, in; /* in == DIM_NONE: a vector */
} roles[ST_ROLE_COUNT] = {
	[ST_ROLE_EMBED] = { "embed", ST_WEIGHT_EMBEDDING, "embed_tokens.weight", "token_embd.weight", false, DIM_VOCAB, DIM_HIDDEN },
	[ST_ROLE_ATTN_NORM] = { "attn_norm", ST_WEIGHT_NORM, "input_layernorm.weight", "attn_norm.weight", true, DIM_HIDDEN, DIM_NONE },
	[ST_ROLE_Q] = { "q", ST_WEIGHT_MATRIX, "self_attn.q_proj.weight", "attn_q.weight", true, DIM_Q, DIM_HIDDEN },
	[ST_ROLE_K] = { "k", ST_WEIGHT_MATRIX, "self_attn.k_proj.weight", "attn_k.weight", true, DIM_KV, DIM_HIDDEN },
	[ST_ROLE_V] = { "v", ST_WEIGHT_MATRIX, "self_attn.v_proj.weight", "attn_v.weight", true, DIM_KV, DIM_HIDDEN },
	[ST_ROLE_Q_BIAS] = { "q_bias", ST_WEIGHT_BIAS, "self_attn.q_proj.bias", "attn_q.bias", true, DIM_Q, DIM_NONE },
	[ST_ROLE_K_BIAS] = { "k_bias", ST_WEIGHT_BIAS, "self_attn.k_proj.bias", "attn_k.bias", true, DIM_KV, DIM_NONE },
	[ST_ROLE_V_BIAS] = { "v_bias", ST_WEIGHT_BIAS, "self_attn.v_proj.bias", "attn_v.bias", true, DIM_KV, DIM_NONE },
	[ST_ROLE_Q_NORM] = { "q_norm", ST_WEIGHT_NORM, "self_attn.q_norm.weight", "attn_q_norm.weight", true, DIM_HEAD, DIM_NONE },
	[ST_ROLE_K_NORM] = { "k_norm", ST_WEIGHT_NORM, "self_attn.k_norm.weight", "attn_k_norm.weight", true, DIM_HEAD, DIM_NONE },
	[ST_ROLE_O] = { "o", ST_WEIGHT_MATRIX, "self_attn.o_proj.weight", "attn_output.weight", true, DIM_HIDDEN, DIM_Q },
	[ST_ROLE_FFN_NORM] = { "ffn_norm", ST_WEIGHT_NORM, "post_attention_layernorm.weight", "ffn_norm.weight", true, DIM_HIDDEN, DIM_NONE },
	[ST_ROLE_GATE] = { "gate", ST_WEIGHT_MATRIX, "mlp.gate_proj.weight", "ffn_gate.weight", true, DIM_FFN, DIM_HIDDEN },
	[ST_ROLE_UP] = { "up", ST_WEIGHT_MATRIX, "mlp.up_proj.weight", "ffn_up.weight", true, DIM_FFN, DIM_HIDDEN },
	[ST_ROLE_DOWN] = { "down", ST_WEIGHT_MATRIX, "mlp.down_proj.weight", "ffn_down.weight", true, DIM_HIDDEN, DIM_FFN },
	[ST_ROLE_FINAL_NORM] = { "final_norm", ST_WEIGHT_NORM, "norm.weight", "output_norm.weight", false, DIM_HIDDEN, DIM_NONE },
	[ST_ROLE_HEAD] = { "head", ST_WEIGHT_MATRIX, "lm_head.weight", "output.weight", false, DIM_VOCAB, DIM_HIDDEN },
	[ST_ROLE_ROPE_FREQS] = { "rope_freqs", ST_WEIGHT_OTHER, NULL, "rope_freqs.weight", false, DIM_PAIRS, DIM_NONE },
};

/* Published checkpoints of one text model differ in what stands before "layers.N": the usual
 * first; a bare decoder; a text model inside a larger one, in two generations. */
const struct st_hf_prefix st_hf_prefixes[] = {
	{ "model.", "lm_head.weight" },
	{ "", "lm_head.weight" },
	{ "language_model.model.", "language_model.lm_head.weight" },
	{ "model.language_model.", "lm_head.weight" },
};
const size_t st_hf_prefix_count = sizeof st_hf_prefixes / sizeof *st_hf_prefixes;

const char *st_role_name(enum st_role role) { return roles[role].name; }
enum st_weight_kind st_role_kind(enum st_role role) { return roles[role].kind; }

/* A stack of experts beside other matrices of a layer has the plural: gates, ups, downs. */
enum st_role st_role_called(const char *name)
{
	for (int r = 0; r < ST_ROLE_COUNT; r++) {
		size_t n = strlen(roles[r].name);
		bool stack = r >= ST_ROLE_GATE && r <= ST_ROLE_DOWN;
		if (strncmp(name, roles[r].name, n) == 0 && (!name[n] || (stack && strcmp(name + n, "s") == 0)))
			return (enum st_role)r;
	}
	return ST_ROLE_COUNT;
}

bool st_role_per_layer(enum st_role role) { return roles[role].per_layer; }

bool st_role_prefixed_name(const struct st_hf_prefix *p, enum st_role role, uint32_t layer, char *buf, size_t n)
{
	const struct role_row *r = &roles[role];
	if (!r->hf)
		return false;
	if (role == ST_ROLE_HEAD)
		snprintf(buf, n, "%s", p->head);
	else if (r->per_layer)
		snprintf(buf, n, "%slayers.%u.%s", p->text, layer, r->hf);
	else
		snprintf(buf, n, "%s%s", p->text, r->hf);
	return true;
}

bool st_role_hf_name(enum st_role role, uint32_t layer, char *buf, size_t n)
{
	return st_role_prefixed_name(&st_hf_prefixes[0], role, layer, buf, n);
}

bool st_role_gguf_name(enum st_role role, uint32_t layer, char *buf, size_t n)
{
	const struct role_row *r = &roles[role];
	if (!r->gguf)
		return false;
	if (r->per_layer)
		snprintf(buf, n, "blk.%u.%s", layer, r->gguf);
	else
		snprintf(buf, n, "%s", r->gguf);
	return true;
}

/* "N." at s: the layer and what follows, or NULL. No leading zeros, so that names are unique. */
static const char *parse_layer(const char *s, uint32_t *layer)
{
	uint32_t v = 0;
	size_t n = 0;
	for (; s[n] >= '0' && s[n] <= '9' && n < 9; n++)
		v = v * 10 + (uint32_t)(s[n] - '0');
	if (n == 0 || s[n] != '.' || (n > 1 && s[0] == '0'))
		return NULL;
	*layer = v;
	return s + n + 1;
}

static bool starts(const char *s, const char *with) { return strncmp(s, with, strlen(with)) == 0; }

const char *st_layer_suffix(const char *name, uint32_t *layer)
{
	if (starts(name, "blk."))
		return parse_layer(name + 4, layer);
	for (size_t i = 0; i < st_hf_prefix_count; i++) {
		size_t n = strlen(st_hf_prefixes[i].text);
		if (starts(name, st_hf_prefixes[i].text) && starts(name + n, "layers."))
			return parse_layer(name + n + 7, layer);
	}
	return NULL;
}

bool st_role_of_name(const char *name, enum st_role *role, uint32_t *layer)
{
	uint32_t l = 0;
	const char *suffix = st_layer_suffix(name, &l);
	for (unsigned i = 0; i < ST_ROLE_COUNT; i++) {
		const struct role_row *r = &roles[i];
		bool hit = false;
		if (r->per_layer) {
			const char *known = starts(name, "blk.") ? r->gguf : r->hf;
			hit = suffix && strcmp(suffix, known) == 0;
		} else {
			hit = strcmp(name, r->gguf) == 0;
			char buf[96];
			for (size_t p = 0; p < st_hf_prefix_count && !hit; p++)
				hit = st_role_prefixed_name(&st_hf_prefixes[p], (enum st_role)i, 0, buf, sizeof buf)
				   && strcmp(name, buf) == 0;
		}
		if (hit) {
			*role = (enum st_role)i;
			*layer = l;
			return true;
		}
	}
	return false;
}

static uint64_t dim_value(const struct st_config *cfg, enum dim d)
{
	switch (d) {
	case DIM_NONE:
		return 1;
	case DIM_VOCAB:
		return cfg->vocab;
	case DIM_HIDDEN:
		return cfg->hidden;
	case DIM_Q:
		return (uint64_t)cfg->n_heads * cfg->head_dim;
	case DIM_KV:
		return (uint64_t)cfg->n_kv_heads * cfg->head_dim;
	case DIM_FFN:
		return cfg->ffn;
	case DIM_HEAD:
		return cfg->head_dim;
	case DIM_PAIRS:
		return cfg->head_dim / 2;
	}
	return 0;
}

uint32_t st_role_shape(const struct st_config *cfg, enum st_role role, uint64_t shape[2])
{
	const struct role_row *r = &roles[role];
	shape[0] = dim_value(cfg, r->out);
	shape[1] = dim_value(cfg, r->in);
	return r->in == DIM_NONE ? 1 : 2;
}
