/* gguf.c - the keys of a GGUF file. */
#include "synth/synth.h"

#include <string.h>

#define MAX_KEYS 160

struct keys {
	struct st_arena *arena;
	struct st_kv *kv;
	size_t n;
	bool failed;
};

/* A copy of the value under a copy of the key; "{arch}" is not expanded here. */
static void put(struct keys *k, const char *key, enum st_kv_type type, enum st_kv_type elem, uint64_t count,
                const void *data, uint64_t size)
{
	uint8_t *copy = st_arena_alloc(k->arena, size, 1);
	char *name = st_arena_strndup(k->arena, key, strlen(key));
	if (!copy || !name || k->n == MAX_KEYS) {
		k->failed = true;
		return;
	}
	memcpy(copy, data, (size_t)size);
	k->kv[k->n++] = (struct st_kv){ .key = name, .type = type, .elem = elem, .count = count, .data = copy };
}

static void put_u32(struct keys *k, const char *key, uint32_t v) { put(k, key, ST_KV_U32, ST_KV_U32, 1, &v, sizeof v); }
static void put_f32(struct keys *k, const char *key, double v)
{
	put(k, key, ST_KV_F32, ST_KV_F32, 1, &(float){ (float)v }, sizeof(float));
}
static void put_bool(struct keys *k, const char *key, bool v)
{
	put(k, key, ST_KV_BOOL, ST_KV_BOOL, 1, &(uint8_t){ v }, 1);
}

static void put_strings(struct keys *k, const char *key, const char *const *s, uint64_t n, bool array)
{
	uint64_t size = 0;
	for (uint64_t i = 0; i < n; i++)
		size += 8 + strlen(s[i]);
	uint8_t *blob = st_arena_alloc(k->arena, size, 1), *p = blob;
	if (!blob) {
		k->failed = true;
		return;
	}
	for (uint64_t i = 0; i < n; i++) {
		uint64_t len = strlen(s[i]);
		memcpy(p, &len, 8);
		memcpy(p + 8, s[i], (size_t)len);
		p += 8 + len;
	}
	put(k, key, array ? ST_KV_ARR : ST_KV_STR, ST_KV_STR, array ? n : 1, blob, size);
}

static void put_str(struct keys *k, const char *key, const char *s) { put_strings(k, key, &s, 1, false); }

struct key {
	char text[96];
};

static struct key in_arch(const struct st_config *cfg, const char *suffix)
{
	struct key k;
	snprintf(k.text, sizeof k.text, "%s.%s", cfg->arch, suffix);
	return k;
}

static void put_list(struct keys *k, const char *name, enum st_key_type type, const struct st_setting *v)
{
	if (type == ST_KEY_TEXTS) {
		const char **s = st_arena_alloc(k->arena, v->n, sizeof *s);
		for (size_t i = 0; s && i < v->n; i++)
			s[i] = v->items[i].text;
		k->failed |= !s;
		if (s)
			put_strings(k, name, s, v->n, true);
		return;
	}
	bool real = type == ST_KEY_REALS || type == ST_KEY_NUMBERS, flag = type == ST_KEY_FLAGS;
	uint8_t *data = st_arena_alloc(k->arena, v->n, 4), *at = data;
	k->failed |= !data;
	for (size_t i = 0; data && i < v->n; i++) {
		float f = (float)v->items[i].number;
		uint32_t u = (uint32_t)v->items[i].number;
		uint8_t b = v->items[i].number != 0;
		size_t n = flag ? 1 : 4;
		memcpy(at, flag ? (void *)&b : real ? (void *)&f : (void *)&u, n);
		at += n;
	}
	if (data)
		put(k, name, ST_KV_ARR,
		    flag   ? ST_KV_BOOL
		    : real ? ST_KV_F32
		           : ST_KV_U32,
		    v->n, data, (uint64_t)(at - data));
}

static void put_setting(struct keys *k, const char *name, enum st_key_type type, const struct st_setting *v)
{
	if (v->kind == ST_SETTING_LIST)
		put_list(k, name, type, v);
	else if (v->kind == ST_SETTING_TEXT)
		put_str(k, name, v->text);
	else if (type == ST_KEY_FLAG || type == ST_KEY_FLAGS)
		put_bool(k, name, v->number != 0);
	else if (type == ST_KEY_REAL || type == ST_KEY_REALS || type == ST_KEY_NUMBERS)
		put_f32(k, name, v->number);
	else
		put_u32(k, name, (uint32_t)v->number);
}

static void put_model(struct keys *k, const struct st_config *cfg)
{
	const struct {
		const char *suffix;
		uint32_t v;
	} counts[] = {
		{ "block_count", cfg->n_layers },
		{ "context_length", cfg->max_positions },
		{ "embedding_length", cfg->hidden },
		{ "feed_forward_length", cfg->ffn },
		{ "attention.head_count", cfg->n_heads },
		{ "attention.head_count_kv", cfg->n_kv_heads },
		{ "attention.key_length", cfg->head_dim },
		{ "attention.value_length", cfg->head_dim },
		{ "rope.dimension_count", cfg->head_dim },
		{ "vocab_size", cfg->vocab },
		{ "attention.sliding_window", cfg->sliding_window },
	};
	for (size_t i = 0; i < sizeof counts / sizeof *counts; i++)
		if (counts[i].v)
			put_u32(k, in_arch(cfg, counts[i].suffix).text, counts[i].v);
	put_f32(k, in_arch(cfg, "attention.layer_norm_rms_epsilon").text, cfg->norm_eps);
	put_f32(k, in_arch(cfg, "rope.freq_base").text, cfg->rope_theta);
	if (cfg->rope_scaling == ST_ROPE_SCALING_LINEAR) { /* llama3's is the tensor rope_freqs.weight */
		put_str(k, in_arch(cfg, "rope.scaling.type").text, "linear");
		put_f32(k, in_arch(cfg, "rope.scaling.factor").text, cfg->rope_factor);
	}
}

/* The settings of a page's model, in GGUF's spelling. What is written needs no default. */
static void put_settings(struct keys *k, const struct st_synth_page *p, const char *arch)
{
	for (uint32_t i = 0; i < p->family->n_keys; i++) {
		const struct st_family_key *f = &p->family->keys[i];
		const struct st_setting *v = &p->said.settings.keys[i];
		if (f->type == ST_KEY_LET || f->n_spelled[ST_SPELLING_GGUF] == 0 || v->kind == ST_SETTING_NONE)
			continue;
		const char *spelled = f->spelled[ST_SPELLING_GGUF][0];
		bool needed = !f->absent[ST_SPELLING_GGUF].n, part = strncmp(spelled, "rope.scaling.", 13) == 0;
		bool nothing = v->kind == ST_SETTING_NUMBER ? v->number == 0
		             : v->kind == ST_SETTING_TEXT
		                     ? !v->text[0] || strcmp(v->text, "none") == 0 || strcmp(v->text, "default") == 0
		                     : v->n == 0;
		char name[160];
		if (!needed && (nothing || (part && !p->stretched)))
			continue;
		snprintf(name, sizeof name, "%.60s%s%.90s", spelled[0] == '/' ? "" : arch, spelled[0] == '/' ? "" : ".",
		         spelled[0] == '/' ? spelled + 1 : spelled);
		bool twice = false; /* keys of the page that GGUF says with one */
		for (size_t n = 0; n < k->n && !twice; n++)
			twice = strcmp(k->kv[n].key, name) == 0;
		if (!twice)
			put_setting(k, name, f->type, v);
	}
}

static void put_tokenizer(struct keys *k, const struct st_synth *s)
{
	const struct st_synth_vocab *v = &s->vocab;
	int32_t *types = st_arena_alloc(k->arena, v->n, sizeof *types);
	if (!types) {
		k->failed = true;
		return;
	}
	for (uint32_t i = 0; i < v->n; i++)
		types[i] = v->types[i];
	put_str(k, "tokenizer.ggml.model", "gpt2");
	put_str(k, "tokenizer.ggml.pre", s->words.pre);
	put_strings(k, "tokenizer.ggml.tokens", v->pieces, v->n, true);
	put(k, "tokenizer.ggml.token_type", ST_KV_ARR, ST_KV_I32, v->n, types, v->n * sizeof *types);
	put_strings(k, "tokenizer.ggml.merges", v->merges, v->n_merges, true);
	put_u32(k, "tokenizer.ggml.bos_token_id", v->bos);
	put_u32(k, "tokenizer.ggml.eos_token_id", v->eos);
	put_bool(k, "tokenizer.ggml.add_bos_token", s->words.adds_bos);
}

enum st_status st_synth_gguf_keys(struct st_synth *s, const struct st_kv **kv, size_t *n, struct st_error *err)
{
	struct keys k = { .arena = &s->arena, .kv = st_arena_alloc(&s->arena, MAX_KEYS, sizeof *k.kv) };
	if (!k.kv)
		return st_fail(err, ST_ERR_NOMEM, "out of memory");
	const char *arch = s->page ? st_synth_page_gguf_name(s->page) : s->cfg.arch;
	put_str(&k, "general.architecture", arch);
	put_str(&k, "general.name", s->title);
	if (st_dtype_info(s->type)->kind == ST_KIND_QUANT)
		put_u32(&k, "general.quantization_version", 2); /* of ggml's block layouts */
	if (s->page)
		put_settings(&k, s->page, arch);
	else
		put_model(&k, &s->cfg);
	put_tokenizer(&k, s);
	if (k.failed)
		return st_fail(err, ST_ERR_NOMEM, "out of memory");
	*kv = k.kv;
	*n = k.n;
	return ST_OK;
}
