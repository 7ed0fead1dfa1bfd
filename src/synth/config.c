/* config.c - what kind of model: presets, or somebody's config.json. */
#include "synth/synth.h"

#include <stele/family.h>

#include <math.h>
#include <string.h>

#define CONTRACTIONS "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
#define WORDS(digits)                                         \
	CONTRACTIONS "|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|" digits \
		     "| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"

/*
 * What the published models of each family do. A preset without an `arch` exists for every family:
 * the family's own properties below fill it in.
 */
static const struct family {
	const char *arch;
	struct st_synth_words words;
	bool tiny_tied; /* as the small published models of the family are */
	double theta, eps;
} families[] = {
	{ "llama", { "llama-bpe", WORDS("\\p{N}{1,3}"), false, true, true }, false, 500000, 1e-5 },
	{ "qwen2", { "qwen2", WORDS("\\p{N}"), true, false, false }, false, 1000000, 1e-6 },
	{ "qwen3", { "qwen2", WORDS("\\p{N}"), true, false, false }, true, 1000000, 1e-6 },
};

static const struct preset {
	const char *name, *arch;
	struct st_config cfg;
} presets[] = {
	/* Seconds to compare, rows that K-quants can store, grouped key-value heads. */
	{ "tiny",
	  NULL,
	  { .n_layers = 4,
	    .hidden = 256,
	    .n_heads = 4,
	    .n_kv_heads = 2,
	    .head_dim = 64,
	    .ffn = 768,
	    .vocab = 640,
	    .max_positions = 2048 } },
	{ "qwen2-7b",
	  "qwen2",
	  { .n_layers = 28,
	    .hidden = 3584,
	    .n_heads = 28,
	    .n_kv_heads = 4,
	    .head_dim = 128,
	    .ffn = 18944,
	    .vocab = 152064,
	    .max_positions = 32768,
	    .norm_eps = 1e-6,
	    .rope_theta = 1000000 } },
	{ "qwen3-0.6b",
	  "qwen3",
	  { .n_layers = 28,
	    .hidden = 1024,
	    .n_heads = 16,
	    .n_kv_heads = 8,
	    .head_dim = 128,
	    .ffn = 3072,
	    .vocab = 151936,
	    .max_positions = 40960,
	    .norm_eps = 1e-6,
	    .rope_theta = 1000000,
	    .tied = true } },
	{ "llama-1b",
	  "llama",
	  { .n_layers = 16,
	    .hidden = 2048,
	    .n_heads = 32,
	    .n_kv_heads = 8,
	    .head_dim = 64,
	    .ffn = 8192,
	    .vocab = 128256,
	    .max_positions = 131072,
	    .norm_eps = 1e-5,
	    .rope_theta = 500000,
	    .tied = true,
	    .rope_scaling = ST_ROPE_SCALING_LLAMA3,
	    .rope_factor = 32,
	    .rope_low_freq = 1,
	    .rope_high_freq = 4,
	    .rope_original_positions = 8192 } },
};
#define N_PRESETS (sizeof presets / sizeof *presets)
#define N_FAMILIES (sizeof families / sizeof *families)

#define FAMILIES "llama, qwen2, qwen3" /* without the other names that readers know them by */

const char *st_synth_presets(void) { return "tiny, qwen2-7b, qwen3-0.6b, llama-1b"; }

static const struct family *family_of(const char *arch)
{
	for (size_t i = 0; i < N_FAMILIES; i++)
		if (strcmp(families[i].arch, arch) == 0)
			return &families[i];
	return NULL;
}

static enum st_status from_preset(struct st_synth *s, const char *name, const struct st_arch *arch,
                                  struct st_error *err)
{
	const struct preset *p = NULL;
	for (size_t i = 0; i < N_PRESETS; i++)
		if (strcmp(presets[i].name, name) == 0)
			p = &presets[i];
	if (!p)
		return st_fail_at(err, ST_ERR_USAGE, ST_NO_OFFSET, "--preset",
		                  "unknown preset \"%.64s\"; known ones are %s", name, st_synth_presets());
	if (!arch && !p->arch)
		return st_fail_at(err, ST_ERR_USAGE, ST_NO_OFFSET, "--arch",
		                  "preset %s exists for several families; say which: " FAMILIES, name);
	if (!arch)
		arch = st_arch_find(p->arch, strlen(p->arch));
	if (p->arch && strcmp(p->arch, arch->name) != 0)
		return st_fail_at(err, ST_ERR_USAGE, ST_NO_OFFSET, "--preset", "%s is a model of the family %s, not %s",
		                  name, p->arch, arch->name);
	const struct family *f = family_of(arch->name);
	s->cfg = p->cfg;
	if (!p->arch) {
		s->cfg.tied = f->tiny_tied;
		s->cfg.rope_theta = f->theta;
		s->cfg.norm_eps = f->eps;
	}
	snprintf(s->cfg.arch, sizeof s->cfg.arch, "%s", arch->name);
	s->cfg.qkv_bias = arch->qkv_bias;
	s->cfg.qk_norm = arch->qk_norm;
	snprintf(s->title, sizeof s->title, "synthetic %s %s, seed %llu", arch->name, name,
	         (unsigned long long)s->seed);
	return ST_OK;
}

/* A key's number in a layer; 0: the page has no such key. */
static double said_number(const struct st_described *d, const char *key, int32_t layer)
{
	uint32_t k = st_family_find_key(d->family, key);
	struct st_settings at = st_described_at(d, layer);
	struct st_setting v = k == ST_FAMILY_NONE ? (struct st_setting){ 0 } : d->settings.keys[k];
	struct st_error none = ST_ERROR_INIT;
	if (k != ST_FAMILY_NONE && d->family->keys[k].type == ST_KEY_LET
	    && st_expression_value(&d->family->keys[k].let, &at, &v, &none) != ST_OK)
		return 0;
	return v.kind == ST_SETTING_NUMBER ? v.number : 0;
}

/* The configuration that a config.json says, by the page of its family. */
static enum st_status read_page(struct st_synth *s, const struct st_container *c, struct st_error *err)
{
	struct st_family *f;
	struct st_described d = { .c = c };
	ST_TRY(st_described_family(c, &f, err));
	if (!f)
		return st_described_unknown(c, err);
	st_arena_init(&d.arena);
	d.family = f;
	enum st_status st = st_described_settings(&d, err);
	if (st == ST_OK) {
		const struct st_arch *arch = st_arch_find(f->name, strlen(f->name));
		uint32_t from = 0;
		st_config_of(&d, &s->cfg);
		s->cfg.n_layers = d.n_layers;
		s->cfg.vocab = d.vocab;
		s->cfg.qk_norm = arch && arch->qk_norm;
		s->cfg.qkv_bias = (arch && arch->qkv_bias) || said_number(&d, "said_qkv_bias", -1) != 0;
		/* Windows of some families begin at a layer. */
		while (st_family_find_key(f, "sliding") != ST_FAMILY_NONE && from < d.n_layers
		       && said_number(&d, "sliding", (int32_t)from) == 0)
			from++;
		s->cfg.sliding_window = from < d.n_layers ? s->cfg.sliding_window : 0;
		s->cfg.window_from_layer = s->cfg.sliding_window ? from : 0;
	}
	st_arena_release(&d.arena);
	st_family_close(f);
	return st;
}

static enum st_status from_json(struct st_synth *s, const char *path, const struct st_arch *arch, struct st_error *err)
{
	struct st_container c = { .format = ST_FORMAT_SAFETENSORS };
	enum st_status st = st_json_load(path, &c.docs.config, err);
	if (st == ST_OK && !c.docs.config)
		st = st_fail(err, ST_ERR_IO, "no such file");
	if (st == ST_OK)
		st = read_page(s, &c, err);
	if (st == ST_OK && arch && strcmp(arch->name, s->cfg.arch) != 0)
		st = st_fail_at(err, ST_ERR_USAGE, ST_NO_OFFSET, "--arch",
		                "%s, but the file describes a model of the family %s", arch->name, s->cfg.arch);
	json_decref(c.docs.config);
	if (st != ST_OK)
		st_error_in(err, path);
	snprintf(s->title, sizeof s->title, "synthetic %s, seed %llu", s->cfg.arch, (unsigned long long)s->seed);
	return st;
}

static enum st_status own_family(struct st_synth *s, const struct st_synth_options *o, struct st_error *err)
{
	const struct st_arch *arch = o->arch ? st_arch_find(o->arch, strlen(o->arch)) : NULL;
	if (o->arch && !arch)
		return st_fail_at(err, ST_ERR_USAGE, ST_NO_OFFSET, "--arch",
		                  "unknown model family \"%.64s\"; stele family list shows the known ones", o->arch);
	ST_TRY(o->preset ? from_preset(s, o->preset, arch, err) : from_json(s, o->config, arch, err));
	s->words = family_of(s->cfg.arch)->words;
	if (s->cfg.window_from_layer && s->target == ST_SYNTH_GGUF)
		return st_fail_at(err, ST_ERR_UNSUPPORTED, ST_NO_OFFSET, "max_window_layers",
		                  "GGUF cannot say that the window begins at layer %u", s->cfg.window_from_layer);
	return ST_OK;
}

/* ---- families with a page ---- */

#define QWEN2_WORDS 1 /* of families[]: no BOS in front */

static uint32_t count_of(const struct st_synth *s, const char *key)
{
	double v = 0;
	return st_synth_page_number(s->page, key, &v) && v >= 0 && v < UINT32_MAX ? (uint32_t)v : 0;
}

static enum st_status from_page(struct st_synth *s, const char *arch, const char *config, struct st_error *err)
{
	s->page = st_arena_alloc(&s->arena, 1, sizeof *s->page);
	if (!s->page)
		return st_fail(err, ST_ERR_NOMEM, "out of memory");
	ST_TRY(st_synth_page_open(s->page, arch, config, err));
	const char *family = s->page->family->name;
	snprintf(s->title, sizeof s->title, "synthetic %.24s%s, seed %llu", family, config ? "" : " tiny",
	         (unsigned long long)s->seed);
	snprintf(s->cfg.arch, sizeof s->cfg.arch, "%s", family);
	s->cfg.n_layers = s->page->said.n_layers;
	s->cfg.vocab = s->page->said.vocab;
	s->cfg.hidden = count_of(s, "hidden");
	s->cfg.n_heads = count_of(s, "heads");
	s->cfg.n_kv_heads = count_of(s, "kv_heads");
	s->cfg.head_dim = count_of(s, "head_dim");
	s->cfg.tied = count_of(s, "tied") != 0;
	s->cfg.max_positions = count_of(s, "positions") ? count_of(s, "positions") : 2048;
	s->words = families[QWEN2_WORDS].words;
	return ST_OK;
}

enum st_status st_synth_lay_out(struct st_synth *s, enum st_format to, struct st_error *err)
{
	struct st_synth_page *p = s->page;
	size_t n = 0;
	const struct st_kv *kv = NULL;
	if (s->target == ST_SYNTH_APR)
		return st_fail_at(err, ST_ERR_UNSUPPORTED, ST_NO_OFFSET, "--format", "APR files hold " FAMILIES);
	if (s->target == ST_SYNTH_GGUF && !st_synth_page_gguf_name(p)[0])
		return st_fail_at(err, ST_ERR_UNSUPPORTED, ST_NO_OFFSET, "--format", "GGUF does not know the family %s",
		                  p->family->name);
	struct st_kv_table keys = { 0 };
	if (s->target == ST_SYNTH_GGUF) {
		ST_TRY(st_synth_gguf_keys(s, &kv, &n, err));
		keys = (struct st_kv_table){ .kv = (struct st_kv *)(uintptr_t)kv, .n = n };
	}
	return st_synth_page_make(p, to, s->target == ST_SYNTH_GGUF ? &keys : NULL, s->seed, err);
}

/* Whether a family, or that of a config.json, is one of those that this room knows itself. */
static enum st_status is_own(const struct st_synth_options *o, bool *own, struct st_error *err)
{
	size_t size;
	*own = o->arch && (st_arch_find(o->arch, strlen(o->arch)) || !st_family_text(o->arch, &size));
	if (o->arch || !o->config)
		return ST_OK;
	struct st_container c = { .format = ST_FORMAT_SAFETENSORS };
	struct st_family *page = NULL;
	ST_TRY(st_json_load(o->config, &c.docs.config, err));
	enum st_status st = json_is_object(c.docs.config) ? st_described_family(&c, &page, err) : ST_OK;
	if (st != ST_OK)
		st_error_in(err, o->config);
	*own = page ? st_arch_find(page->name, strlen(page->name)) != NULL
	            : !json_string_value(json_object_get(c.docs.config, "model_type")); /* and is refused */
	st_family_close(page);
	json_decref(c.docs.config);
	return st;
}

enum st_status st_synth_configure(struct st_synth *s, const struct st_synth_options *o, struct st_error *err)
{
	bool own;
	s->seed = o->seed;
	if (!o->preset == !o->config)
		return st_fail(err, ST_ERR_USAGE, "one of a preset (%s) and a config.json must be given",
		               st_synth_presets());
	ST_TRY(is_own(o, &own, err));
	if (own || (!o->arch && !o->config)) {
		ST_TRY(own_family(s, o, err));
	} else {
		if (o->preset && strcmp(o->preset, "tiny") != 0)
			return st_fail_at(err, ST_ERR_USAGE, ST_NO_OFFSET, "--preset",
			                  "%s is no size of the family %s; tiny is", o->preset, o->arch);
		ST_TRY(from_page(s, o->arch, o->config, err));
	}
	if (s->cfg.vocab < ST_SYNTH_VOCAB_MIN)
		return st_fail_at(err, ST_ERR_USAGE, ST_NO_OFFSET, "vocab_size",
		                  "%u; the made-up vocabulary has at least %u pieces", s->cfg.vocab,
		                  ST_SYNTH_VOCAB_MIN);
	ST_TRY(st_synth_vocab_make(&s->arena, s->cfg.vocab, &s->vocab, err));
	s->cfg.bos = s->vocab.bos;
	s->cfg.eos = s->vocab.eos;
	snprintf(s->cfg.name, sizeof s->cfg.name, "%s", s->title);
	return ST_OK;
}
