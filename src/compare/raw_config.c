/* raw_config.c - keys taken as they stand. */
#include "compare/raw_config.h"

#include "arch/arch.h"
#include "base/error.h"
#include "base/mem.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define MOST_KEYS 4096
#define DEEPEST 4 /* objects within objects of config.json */

struct entry {
	const char *key;
	enum { NUMBER, TEXT, LIST } kind;
	double number;
	char text[64];   /* as it is shown */
	uint64_t digest; /* of all of a text or a list */
	bool spelled;    /* a row of spellings[] speaks of it */
};

struct entries {
	struct entry *e;
	size_t n, cap;
	struct st_arena *arena;
};

/* ---- one file ---- */

static uint64_t digest_of(const void *p, size_t n)
{
	const uint8_t *s = p;
	uint64_t h = 0xcbf29ce484222325u; /* FNV-1a */
	for (size_t i = 0; i < n; i++)
		h = (h ^ s[i]) * 0x100000001b3u;
	return h;
}

static enum st_status add(struct entries *l, const char *key, struct entry e, struct st_error *err)
{
	void *p = l->e;
	if (l->n == MOST_KEYS)
		return ST_OK; /* no configuration has as many: what follows is something else */
	if (!st_grow(&p, &l->cap, l->n + 1, sizeof *l->e) || !key)
		return st_fail(err, ST_ERR_NOMEM, "out of memory");
	l->e = p;
	e.key = key;
	l->e[l->n++] = e;
	return ST_OK;
}

static struct entry of_text(const char *s, size_t n)
{
	struct entry e = { .kind = TEXT, .digest = digest_of(s, n) };
	snprintf(e.text, sizeof e.text, "%.*s", (int)(n < 63 ? n : 63), s);
	return e;
}

static struct entry of_number(double v)
{
	struct entry e = { .kind = NUMBER, .number = v };
	snprintf(e.text, sizeof e.text, "%.9g", v);
	return e;
}

static struct entry of_kv(const struct st_kv *kv)
{
	const uint8_t *p = kv->data;
	if (kv->type == ST_KV_STR) {
		size_t n;
		const char *s = st_kv_next_str(&p, &n);
		return of_text(s, n);
	}
	if (kv->type != ST_KV_ARR)
		return of_number(st_kv_number(kv->type, p));
	struct entry e = { .kind = LIST, .digest = digest_of(kv->data, (size_t)st_kv_bytes(kv)) + kv->elem };
	size_t at = 0;
	for (uint64_t i = 0; i < kv->count && i < 4 && kv->elem != ST_KV_STR; i++)
		at += (size_t)snprintf(e.text + at, sizeof e.text - at, "%s%.6g", i ? ", " : "[",
		                       st_kv_number(kv->elem, p + i * st_kv_size(kv->elem)));
	snprintf(e.text + at, sizeof e.text - at, "%s (%llu)", at ? ", ...]" : "list", (unsigned long long)kv->count);
	return e;
}

static enum st_status read_gguf(const struct st_container *c, const char *family, struct entries *l,
                                struct st_error *err)
{
	size_t n = strlen(family);
	for (size_t i = 0; i < c->keys.n; i++) {
		const struct st_kv *kv = &c->keys.kv[i];
		if (strncmp(kv->key, family, n) == 0 && kv->key[n] == '.')
			ST_TRY(add(l, kv->key + n + 1, of_kv(kv), err));
	}
	return ST_OK;
}

static enum st_status read_json(const json_t *o, const char *front, int depth, struct entries *l, struct st_error *err)
{
	const char *k;
	json_t *v;
	json_object_foreach((json_t *)(uintptr_t)o, k, v)
	{
		/* A text model within a larger one has keys of its own. */
		const char *key = strcmp(front, "text_config.") == 0 ? st_arena_strndup(l->arena, k, strlen(k))
		                                                     : st_arena_printf(l->arena, "%s%s", front, k);
		if (!key)
			return st_fail(err, ST_ERR_NOMEM, "out of memory");
		if (json_is_object(v) && depth < DEEPEST) {
			char *deeper = st_arena_printf(l->arena, "%s.", key);
			if (!deeper)
				return st_fail(err, ST_ERR_NOMEM, "out of memory");
			ST_TRY(read_json(v, deeper, depth + 1, l, err));
		} else if (json_is_number(v) || json_is_boolean(v)) {
			ST_TRY(add(l, key, of_number(json_is_number(v) ? json_number_value(v) : json_is_true(v)), err));
		} else if (json_is_string(v)) {
			ST_TRY(add(l, key, of_text(json_string_value(v), json_string_length(v)), err));
		} else if (json_is_array(v)) {
			char *s = st_json_print(v, JSON_COMPACT | JSON_ENCODE_ANY);
			if (!s)
				return st_fail(err, ST_ERR_NOMEM, "out of memory");
			struct entry e = of_text(s, strlen(s));
			e.kind = LIST;
			free(s);
			ST_TRY(add(l, key, e, err));
		}
	}
	return ST_OK;
}

static int by_key(const void *a, const void *b)
{
	return strcmp(((const struct entry *)a)->key, ((const struct entry *)b)->key);
}

static enum st_status read(const struct st_model *m, struct entries *l, struct st_error *err)
{
	const struct st_container *c = st_model_container(m);
	if (c->format == ST_FORMAT_GGUF)
		ST_TRY(read_gguf(c, st_model_config(m)->arch, l, err));
	else
		ST_TRY(read_json(c->format == ST_FORMAT_APR ? c->docs.metadata : c->docs.config, "", 0, l, err));
	if (l->n)
		qsort(l->e, l->n, sizeof *l->e, by_key);
	return ST_OK;
}

static struct entry *find(const struct entries *l, const char *key)
{
	struct entry want = { .key = key };
	return l->n ? bsearch(&want, l->e, l->n, sizeof want, by_key) : NULL;
}

/* ---- both ---- */

/* clang-format off */
/* GGUF's key, and what configurations call it. */
static const struct {
	const char *gguf, *hf[8];
} spellings[] = {
	{ "block_count", { "num_hidden_layers", "n_layer", "num_layers", "n_layers" } },
	{ "embedding_length", { "hidden_size", "n_embd", "d_model", "dim" } },
	{ "feed_forward_length", { "intermediate_size", "n_inner", "ffn_dim", "d_ff" } },
	{ "attention.head_count", { "num_attention_heads", "n_head", "num_heads", "n_heads" } },
	{ "attention.head_count_kv", { "num_key_value_heads", "num_kv_heads", "n_head_kv" } },
	{ "attention.key_length", { "head_dim" } },
	{ "attention.layer_norm_epsilon", { "layer_norm_eps", "layer_norm_epsilon", "norm_eps", "norm_epsilon" } },
	{ "attention.layer_norm_rms_epsilon", { "rms_norm_eps", "layer_norm_epsilon", "norm_epsilon", "norm_eps",
	                                        "layernorm_epsilon" } },
	{ "attention.sliding_window", { "sliding_window" } },
	{ "attention.kv_lora_rank", { "kv_lora_rank" } },
	{ "attention.q_lora_rank", { "q_lora_rank" } },
	{ "attn_logit_softcapping", { "attn_logit_softcapping" } },
	{ "final_logit_softcapping", { "final_logit_softcapping" } },
	{ "rope.freq_base", { "rope_theta", "rope_parameters.rope_theta", "rotary_emb_base" } },
	{ "rope.scaling.factor", { "rope_scaling.factor", "rope_parameters.factor" } },
	{ "expert_count", { "num_local_experts", "num_experts", "n_routed_experts" } },
	{ "expert_used_count", { "num_experts_per_tok", "num_experts_per_token" } },
	{ "expert_feed_forward_length", { "moe_intermediate_size" } },
	{ "leading_dense_block_count", { "first_k_dense_replace" } },
	{ "embedding_scale", { "embedding_multiplier" } },
	{ "residual_scale", { "residual_multiplier" } },
	{ "attention.scale", { "attention_multiplier" } },
	{ "ssm.conv_kernel", { "conv_kernel", "mamba_d_conv" } },
	{ "ssm.state_size", { "state_size", "mamba_d_state" } },
	{ "ssm.time_step_rank", { "time_step_rank", "mamba_dt_rank" } },
	{ "context_length", { "max_position_embeddings", "n_positions", "n_ctx", "max_seq_len" } },
	{ "vocab_size", { "vocab_size" } },
};

/* Keys, or beginnings of keys with a star, that change nothing of what the weights compute. */
static const char *const idle[] = { "context_length", "max_position_embeddings", "n_positions", "n_ctx", "max_seq_len*",
	"vocab_size", "bos_token_id", "eos_token_id", "pad_token_id", "unk_token_id", "sep_token_id", "cls_token_id",
	"decoder_start_token_id", "_name_or_path", "transformers_version", "torch_dtype", "dtype", "architectures", "auto_map*",
	"use_cache", "initializer*", "attention_dropout*", "*dropout", "*drop", "*dropout_prob", "*pdrop", "quantization*",
	"id2label*", "label2id*", "task_specific_params*", "summary_*", "output_*", "return_dict", "torchscript",
	"_attn_implementation*", "pretraining_tp", "router_aux_loss_coef", "use_return_dict", "name", "rope.dimension_count" };
/* clang-format on */

static bool is_idle(const char *key)
{
	size_t n = strlen(key);
	for (size_t i = 0; i < sizeof idle / sizeof *idle; i++) {
		const char *p = idle[i];
		size_t k = strlen(p);
		bool hit = p[0] == '*'     ? n >= k - 1 && strcmp(key + n - (k - 1), p + 1) == 0
		         : p[k - 1] == '*' ? strncmp(key, p, k - 1) == 0
		                           : strcmp(key, p) == 0;
		if (hit)
			return true;
	}
	return false;
}

/* GGUF keeps numbers as f32 that JSON has in decimals. */
static bool same(const struct entry *a, const struct entry *b)
{
	if (a->kind != b->kind)
		return false;
	if (a->kind == NUMBER)
		return a->number == b->number || (float)a->number == (float)b->number;
	return a->digest == b->digest;
}

static void note_diff(struct st_raw_configs *r, const struct entry *a, const struct entry *b, const char *key)
{
	r->compared++;
	if (same(a, b))
		return;
	if (r->n_diffs == ST_MAX_CONFIG_DIFFS) {
		r->left_out++;
		return;
	}
	struct st_config_diff *d = &r->diff[r->n_diffs++];
	*d = (struct st_config_diff){ .key = key, .matters = !is_idle(key) };
	snprintf(d->a, sizeof d->a, "%s", a->text);
	snprintf(d->b, sizeof d->b, "%s", b->text);
	d->from_a.said = d->from_b.said = true;
	snprintf(d->from_a.key, sizeof d->from_a.key, "%.87s", a->key);
	snprintf(d->from_b.key, sizeof d->from_b.key, "%.87s", b->key);
}

static void note_one(struct st_raw_configs *r, const struct entry *e, bool on_a)
{
	if (is_idle(e->key))
		return;
	if (r->n_asides == ST_MAX_ASIDES / 2) { /* the vocabularies need room, too */
		r->left_out++;
		return;
	}
	struct st_aside *x = &r->aside[r->n_asides++];
	*x = (struct st_aside){ .code = ST_CAUSE_CONFIG_MISMATCH, .one_sided = true };
	snprintf(x->key, sizeof x->key, "%.47s", e->key);
	snprintf(x->a, sizeof x->a, "%s", on_a ? e->text : "not there");
	snprintf(x->b, sizeof x->b, "%s", on_a ? "not there" : e->text);
}

static void compare_equal_names(const struct entries *a, const struct entries *b, struct st_raw_configs *r)
{
	for (size_t i = 0; i < a->n; i++) {
		const struct entry *other = find(b, a->e[i].key);
		if (other)
			note_diff(r, &a->e[i], other, a->e[i].key);
		else
			note_one(r, &a->e[i], true);
	}
	for (size_t i = 0; i < b->n; i++)
		if (!find(a, b->e[i].key))
			note_one(r, &b->e[i], false);
}

static void compare_spellings(const struct entries *a, const struct entries *b, bool gguf_a, struct st_raw_configs *r)
{
	const struct entries *g = gguf_a ? a : b, *h = gguf_a ? b : a;
	for (size_t i = 0; i < sizeof spellings / sizeof *spellings; i++) {
		struct entry *x = find(g, spellings[i].gguf), *y = NULL;
		for (size_t k = 0; k < 8 && spellings[i].hf[k]; k++) {
			struct entry *z = find(h, spellings[i].hf[k]);
			if (z)
				z->spelled = true;
			y = y ? y : z;
		}
		if (x)
			x->spelled = true;
		if (x && y && x->kind != LIST && y->kind != LIST)
			note_diff(r, gguf_a ? x : y, gguf_a ? y : x, spellings[i].gguf);
	}
}

static const char *last_word(const char *key)
{
	const char *dot = strrchr(key, '.');
	return dot ? dot + 1 : key;
}

/* The one number called so that no spelling speaks of; NULL where there is none, or more than one. */
static const struct entry *only_number(const struct entries *l, const char *word)
{
	const struct entry *found = NULL;
	for (size_t i = 0; i < l->n; i++) {
		const struct entry *e = &l->e[i];
		if (e->kind != NUMBER || e->spelled || strcmp(last_word(e->key), word) != 0)
			continue;
		if (found)
			return NULL;
		found = e;
	}
	return found;
}

/* Numbers that both conventions call the same: "ARCH.stripes" is what config.json has as "stripes". */
static void compare_words(const struct entries *a, const struct entries *b, struct st_raw_configs *r)
{
	for (size_t i = 0; i < a->n; i++) {
		const char *word = last_word(a->e[i].key);
		const struct entry *x = only_number(a, word), *y = only_number(b, word);
		if (x == &a->e[i] && y)
			note_diff(r, x, y, word);
	}
}

enum st_status st_compare_raw_configs(const struct st_model *a, const struct st_model *b, struct st_arena *arena,
                                      struct st_raw_configs *out, struct st_error *err)
{
	struct entries x = { .arena = arena }, y = { .arena = arena };
	bool gguf_a = st_model_container(a)->format == ST_FORMAT_GGUF,
	     gguf_b = st_model_container(b)->format == ST_FORMAT_GGUF;
	memset(out, 0, sizeof *out);
	enum st_status st = read(a, &x, err);
	if (st == ST_OK)
		st = read(b, &y, err);
	if (st == ST_OK && gguf_a == gguf_b) {
		compare_equal_names(&x, &y, out);
	} else if (st == ST_OK) {
		compare_spellings(&x, &y, gguf_a, out);
		compare_words(&x, &y, out);
	}
	free(x.e);
	free(y.e);
	return st;
}
