/* config.c - a configuration in the spelling of each container. */
#include "convert/convert.h"

#include "base/cursor.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum kind { U32, F64 };

/* A number of st_config and its key in GGUF (behind the family's prefix), config.json and APR; APR's other spellings
 * are taken out when a file of the second writer becomes one of the first. */
static const struct field {
	const char *key; /* as st_compare_configs calls it */
	enum kind kind;
	size_t offset;
	const char *gguf, *hf, *apr;
	const char *aliases[5];
} fields[] = {
#define F(key, kind, ...)                                                \
	{                                                                \
#key, kind, offsetof(struct st_config, key), __VA_ARGS__ \
	}
	F(hidden, U32, "embedding_length", "hidden_size", "hidden_size", { "hidden_dim", "d_model", "n_embd" }),
	F(n_layers, U32, "block_count", "num_hidden_layers", "num_layers",
	  { "n_layers", "num_hidden_layers", "n_layer" }),
	F(n_heads, U32, "attention.head_count", "num_attention_heads", "num_heads",
	  { "n_heads", "num_attention_heads", "n_head" }),
	F(n_kv_heads, U32, "attention.head_count_kv", "num_key_value_heads", "num_kv_heads",
	  { "n_kv_heads", "num_key_value_heads" }),
	F(head_dim, U32, "attention.key_length", "head_dim", "head_dim", { NULL }),
	F(ffn, U32, "feed_forward_length", "intermediate_size", "intermediate_size",
	  { "ffn_dim", "intermediate_dim", "n_inner" }),
	F(vocab, U32, "vocab_size", "vocab_size", "vocab_size", { "n_vocab" }),
	F(max_positions, U32, "context_length", "max_position_embeddings", "max_position_embeddings",
	  { "max_seq_len", "context_length", "n_ctx" }),
	F(norm_eps, F64, "attention.layer_norm_rms_epsilon", "rms_norm_eps", "rms_norm_eps",
	  { "layer_norm_eps", "norm_eps" }),
	F(rope_theta, F64, "rope.freq_base", "rope_theta", "rope_theta", { NULL }),
#undef F
};
#define N_FIELDS (sizeof fields / sizeof *fields)

static uint32_t u32_of(const struct st_config *cfg, const struct field *f)
{
	uint32_t v;
	memcpy(&v, (const char *)cfg + f->offset, sizeof v);
	return v;
}

static double f64_of(const struct st_config *cfg, const struct field *f)
{
	double v;
	memcpy(&v, (const char *)cfg + f->offset, sizeof v);
	return v;
}

/* A number that came out of an f32 is written as the shortest decimal that gives this f32 again: 1e-05, not
 * 9.9999997473787516e-06. */
static double shortest(double v)
{
	char buf[40];
	if (v != (double)(float)v)
		return v;
	for (int p = 1; p <= 9; p++) {
		snprintf(buf, sizeof buf, "%.*g", p, v);
		double d = strtod(buf, NULL);
		if ((float)d == (float)v)
			return d;
	}
	return v;
}

/* ---- a repaired key ---- */

static bool parse_scaling(const char *text, enum st_rope_scaling *out)
{
	static const char *const names[] = { [ST_ROPE_SCALING_NONE] = "none",
		                             [ST_ROPE_SCALING_LINEAR] = "linear",
		                             [ST_ROPE_SCALING_LLAMA3] = "llama3" };
	for (size_t i = 0; i < 3; i++)
		if (strcmp(text, names[i]) == 0) {
			*out = (enum st_rope_scaling)i;
			return true;
		}
	return false;
}

bool st_config_set(struct st_config *cfg, const char *key, const char *text)
{
	static const struct {
		const char *key;
		size_t offset;
	} doubles[] = {
		{ "norm_eps", offsetof(struct st_config, norm_eps) }, { "rope_theta", offsetof(struct st_config, rope_theta) },
		{ "rope_factor", offsetof(struct st_config, rope_factor) }, { "rope_low_freq", offsetof(struct st_config, rope_low_freq) },
		{ "rope_high_freq", offsetof(struct st_config, rope_high_freq) },
	}, counts[] = {
		{ "n_heads", offsetof(struct st_config, n_heads) }, { "n_kv_heads", offsetof(struct st_config, n_kv_heads) },
		{ "head_dim", offsetof(struct st_config, head_dim) }, { "sliding_window", offsetof(struct st_config, sliding_window) },
		{ "window_from_layer", offsetof(struct st_config, window_from_layer) },
		{ "rope_original_positions", offsetof(struct st_config, rope_original_positions) },
		{ "max_positions", offsetof(struct st_config, max_positions) },
	};
	if (strcmp(key, "rope_scaling") == 0)
		return parse_scaling(text, &cfg->rope_scaling);
	char *end;
	for (size_t i = 0; i < sizeof doubles / sizeof *doubles; i++) {
		if (strcmp(doubles[i].key, key) != 0)
			continue;
		double v = strtod(text, &end);
		memcpy((char *)cfg + doubles[i].offset, &v, sizeof v);
		return end != text && *end == '\0' && isfinite(v);
	}
	for (size_t i = 0; i < sizeof counts / sizeof *counts; i++) {
		if (strcmp(counts[i].key, key) != 0)
			continue;
		unsigned long v = strtoul(text, &end, 10);
		uint32_t n = (uint32_t)v;
		memcpy((char *)cfg + counts[i].offset, &n, sizeof n);
		return end != text && *end == '\0' && v <= UINT32_MAX;
	}
	return false;
}

bool st_config_edited(const struct st_conversion *v, const char *prefix)
{
	for (size_t i = 0; i < v->n_edited; i++)
		if (strncmp(v->edited[i], prefix, strlen(prefix)) == 0)
			return true;
	return false;
}

bool st_config_has_key(enum st_format f, const char *key)
{
	for (size_t i = 0; i < N_FIELDS; i++) {
		const struct field *x = &fields[i];
		if (strcmp(key, f == ST_FORMAT_GGUF ? x->gguf : f == ST_FORMAT_APR ? x->apr : x->hf) == 0)
			return true;
		for (size_t k = 0; f == ST_FORMAT_APR && k < sizeof x->aliases / sizeof *x->aliases && x->aliases[k];
		     k++)
			if (strcmp(key, x->aliases[k]) == 0)
				return true;
	}
	return false;
}

/* ---- GGUF ---- */

void st_config_rope_divisors(const struct st_config *cfg, float *by)
{
	for (uint32_t i = 0; i < cfg->head_dim / 2; i++)
		by[i] = (float)(1 / st_rope_llama3(cfg, pow(cfg->rope_theta, -2.0 * i / cfg->head_dim)));
}

void st_key_value(struct st_keys *k, const char *key, enum st_kv_type type, const void *value, size_t size)
{
	uint8_t *copy = st_arena_alloc(k->arena, size ? size : 1, 1);
	char *name = st_arena_strndup(k->arena, key, strlen(key));
	struct st_kv *at = NULL;
	for (size_t i = 0; i < k->n && !at; i++)
		if (strcmp(k->v[i].key, key) == 0)
			at = &k->v[i];
	if (!at && st_grow((void **)&k->v, &k->cap, k->n + 1, sizeof *k->v))
		at = &k->v[k->n++];
	if (!copy || !name || !at) {
		k->failed = true;
		return;
	}
	memcpy(copy, value, size);
	*at = (struct st_kv){ .key = name, .type = type, .count = 1, .data = copy };
}

void st_key_u32(struct st_keys *k, const char *key, uint32_t v) { st_key_value(k, key, ST_KV_U32, &v, 4); }

static void key_f32(struct st_keys *k, const char *key, double v)
{
	float f = (float)v;
	st_key_value(k, key, ST_KV_F32, &f, 4);
}

void st_key_bool(struct st_keys *k, const char *key, bool v)
{
	uint8_t b = v;
	st_key_value(k, key, ST_KV_BOOL, &b, 1);
}

void st_key_text(struct st_keys *k, const char *key, const char *s, size_t n)
{
	uint8_t *buf = st_arena_alloc(k->arena, 8 + n, 1);
	if (!buf) {
		k->failed = true;
		return;
	}
	uint64_t len = n;
	memcpy(buf, &len, 8);
	memcpy(buf + 8, s, n);
	st_key_value(k, key, ST_KV_STR, buf, 8 + n);
}

static void drop_key(struct st_keys *k, const char *key)
{
	for (size_t i = 0; i < k->n; i++)
		if (strcmp(k->v[i].key, key) == 0) {
			memmove(k->v + i, k->v + i + 1, (k->n - i - 1) * sizeof *k->v);
			k->n--;
			return;
		}
}

struct prefixed {
	char text[96];
};
static struct prefixed in_arch(const struct st_conversion *v, const char *suffix)
{
	struct prefixed p;
	snprintf(p.text, sizeof p.text, "%s.%s", v->arch->name, suffix);
	return p;
}

/* general.file_type as llama.cpp numbers it, from the type that most matrices' bytes are in. */
static bool file_type(const struct st_conversion *v, uint32_t *out)
{
	static const struct {
		enum st_dtype t;
		uint32_t number;
	} numbers[] = {
		{ ST_DTYPE_F32, 0 },     { ST_DTYPE_F16, 1 },     { ST_DTYPE_Q4_0, 2 },  { ST_DTYPE_Q4_1, 3 },
		{ ST_DTYPE_Q8_0, 7 },    { ST_DTYPE_Q5_0, 8 },    { ST_DTYPE_Q5_1, 9 },  { ST_DTYPE_Q2_K, 10 },
		{ ST_DTYPE_Q3_K, 12 },   { ST_DTYPE_Q4_K, 15 },   { ST_DTYPE_Q5_K, 17 }, { ST_DTYPE_Q6_K, 18 },
		{ ST_DTYPE_IQ4_NL, 25 }, { ST_DTYPE_IQ4_XS, 30 }, { ST_DTYPE_BF16, 32 }, { ST_DTYPE_MXFP4, 38 },
	};
	uint64_t bytes[ST_DTYPE_COUNT] = { 0 }, most = 0;
	enum st_dtype best = ST_DTYPE_F32;
	for (size_t i = 0; i < v->n_jobs; i++) {
		const struct st_tensor_spec *s = &v->jobs[i].spec;
		if (s->ndim == 2)
			bytes[s->dtype] += st_spec_rows(s) * st_spec_cols(s);
	}
	for (int t = 0; t < ST_DTYPE_COUNT; t++)
		if (bytes[t] > most) {
			most = bytes[t];
			best = (enum st_dtype)t;
		}
	for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++)
		if (numbers[i].t == best) {
			*out = numbers[i].number;
			return true;
		}
	return false;
}

static void field_key(struct st_conversion *v, struct st_keys *k, const struct field *f)
{
	const struct st_config *cfg = &v->cfg;
	struct prefixed p = in_arch(v, f->gguf);
	if (f->kind == F64)
		key_f32(k, p.text, f64_of(cfg, f));
	else if (u32_of(cfg, f) != 0)
		st_key_u32(k, p.text, u32_of(cfg, f));
}

static enum st_status window_key(struct st_conversion *v, struct st_keys *k, struct st_error *err)
{
	const struct st_config *cfg = &v->cfg;
	struct prefixed p = in_arch(v, "attention.sliding_window");
	if (cfg->window_from_layer)
		return st_fail_at(err, ST_ERR_UNSUPPORTED, ST_NO_OFFSET, "max_window_layers",
		                  "GGUF cannot say that the window begins at layer %u", cfg->window_from_layer);
	if (cfg->sliding_window)
		st_key_u32(k, p.text, cfg->sliding_window);
	else
		drop_key(k, p.text);
	return ST_OK;
}

static void scaling_keys(struct st_conversion *v, struct st_keys *k)
{
	const struct st_config *cfg = &v->cfg;
	bool linear = cfg->rope_scaling == ST_ROPE_SCALING_LINEAR;
	drop_key(k, in_arch(v, "rope.scale_linear").text);
	drop_key(k, in_arch(v, "rope.scaling.type").text);
	drop_key(k, in_arch(v, "rope.scaling.factor").text);
	if (linear) {
		st_key_text(k, in_arch(v, "rope.scaling.type").text, "linear", 6);
		key_f32(k, in_arch(v, "rope.scaling.factor").text, cfg->rope_factor);
	}
}

static void head_size_keys(struct st_conversion *v, struct st_keys *k)
{
	const struct st_config *cfg = &v->cfg;
	if (cfg->head_dim * cfg->n_heads != cfg->hidden) {
		st_key_u32(k, in_arch(v, "attention.key_length").text, cfg->head_dim);
		st_key_u32(k, in_arch(v, "attention.value_length").text, cfg->head_dim);
	}
	st_key_u32(k, in_arch(v, "rope.dimension_count").text, cfg->head_dim);
}

/* The keys of the source as they are, but for those that a repair or another type changes. */
static enum st_status same_keys(struct st_conversion *v, struct st_keys *k, struct st_error *err)
{
	const struct st_container *c = st_model_container(v->in);
	for (size_t i = 0; i < c->keys.n; i++) {
		if (strncmp(c->keys.kv[i].key, "split.", 6) == 0)
			continue; /* the parts have become one file */
		if (!st_grow((void **)&k->v, &k->cap, k->n + 1, sizeof *k->v))
			return st_no_memory(err);
		k->v[k->n++] = c->keys.kv[i];
	}
	for (size_t i = 0; i < N_FIELDS; i++)
		if (st_config_edited(v, fields[i].key) && strcmp(fields[i].key, "head_dim") != 0)
			field_key(v, k, &fields[i]);
	if (st_config_edited(v, "head_dim") || st_config_edited(v, "n_heads"))
		head_size_keys(v, k);
	if (st_config_edited(v, "rope_"))
		scaling_keys(v, k);
	return st_config_edited(v, "sliding_window") ? window_key(v, k, err) : ST_OK;
}

static enum st_status new_keys(struct st_conversion *v, struct st_keys *k, struct st_error *err)
{
	st_key_text(k, "general.architecture", v->arch->name, strlen(v->arch->name));
	if (v->cfg.name[0])
		st_key_text(k, "general.name", v->cfg.name, strlen(v->cfg.name));
	for (size_t i = 0; i < N_FIELDS; i++)
		if (strcmp(fields[i].key, "head_dim") != 0)
			field_key(v, k, &fields[i]);
	head_size_keys(v, k);
	scaling_keys(v, k);
	ST_TRY(window_key(v, k, err));
	return st_vocabulary_keys(v, k, err);
}

enum st_status st_config_keys(struct st_conversion *v, struct st_keys *k, struct st_error *err)
{
	bool same = v->from == v->to, blocks = false;
	uint32_t type;
	ST_TRY(same ? same_keys(v, k, err) : new_keys(v, k, err));
	for (size_t i = 0; i < v->n_jobs; i++)
		blocks |= st_dtype_info(v->jobs[i].spec.dtype)->kind == ST_KIND_QUANT;
	if ((!same || v->has_type) && file_type(v, &type))
		st_key_u32(k, "general.file_type", type);
	if ((!same || v->has_type) && blocks)
		st_key_u32(k, "general.quantization_version", 2);
	return k->failed ? st_no_memory(err) : ST_OK;
}

/* ---- JSON ---- */

/* Takes the reference; false when making it failed. */
static bool put(json_t *o, const char *key, json_t *value) { return json_object_set_new(o, key, value) == 0; }

static json_t *field_value(const struct st_config *cfg, const struct field *f)
{
	return f->kind == F64 ? json_real(shortest(f64_of(cfg, f))) : json_integer(u32_of(cfg, f));
}

static json_t *scaling_value(const struct st_config *cfg)
{
	switch (cfg->rope_scaling) {
	case ST_ROPE_SCALING_LINEAR:
		return json_pack("{s:s, s:f}", "rope_type", "linear", "factor", shortest(cfg->rope_factor));
	case ST_ROPE_SCALING_LLAMA3:
		return json_pack("{s:s, s:f, s:f, s:f, s:I}", "rope_type", "llama3", "factor",
		                 shortest(cfg->rope_factor), "low_freq_factor", shortest(cfg->rope_low_freq),
		                 "high_freq_factor", shortest(cfg->rope_high_freq), "original_max_position_embeddings",
		                 (json_int_t)cfg->rope_original_positions);
	default:
		return json_null();
	}
}

/* rope_theta and scaling, in their older spelling, which every reader takes. */
static bool put_rope(json_t *o, const struct st_config *cfg)
{
	json_object_del(o, "rope_parameters");
	return put(o, "rope_theta", json_real(shortest(cfg->rope_theta))) && put(o, "rope_scaling", scaling_value(cfg));
}

static bool put_window(json_t *o, const struct st_conversion *v)
{
	const struct st_config *cfg = &v->cfg;
	bool qwen = v->arch != &st_arch_llama;
	json_object_del(o, "layer_types");
	if (!cfg->sliding_window) {
		json_object_del(o, "sliding_window");
		json_object_del(o, "max_window_layers");
		if (!qwen && st_config_is_mistral(o)) /* there silence means 4096 */
			return put(o, "sliding_window", json_null());
		return !qwen || put(o, "use_sliding_window", json_false());
	}
	bool ok = put(o, "sliding_window", json_integer(cfg->sliding_window));
	if (qwen)
		ok = ok && put(o, "use_sliding_window", json_true())
		  && put(o, "max_window_layers", json_integer(cfg->window_from_layer));
	return ok;
}

static bool put_family(json_t *o, const char *class, const char *type)
{
	return put(o, "architectures", json_pack("[s]", class)) && put(o, "model_type", json_string(type));
}

static json_t *id_value(int64_t id) { return id < 0 ? json_null() : json_integer(id); }

/* BOS and EOS that the vocabulary implies count where the configuration is silent. */
static int64_t bos_of(const struct st_conversion *v)
{
	return v->cfg.bos >= 0 || !v->vocab.t ? v->cfg.bos : v->vocab.t->bos;
}
static int64_t eos_of(const struct st_conversion *v)
{
	return v->cfg.eos >= 0 || !v->vocab.t ? v->cfg.eos : v->vocab.t->eos;
}

static const char *torch_type(const struct st_conversion *v)
{
	for (size_t i = 0; i < v->n_jobs; i++)
		if (v->jobs[i].spec.ndim == 2)
			return v->jobs[i].spec.dtype == ST_DTYPE_BF16 ? "bfloat16"
			     : v->jobs[i].spec.dtype == ST_DTYPE_F16  ? "float16"
			                                              : "float32";
	return "float32";
}

enum st_status st_config_hf_document(struct st_conversion *v, json_t **out, struct st_error *err)
{
	const struct st_config *cfg = &v->cfg;
	const json_t *old = st_model_container(v->in)->docs.config;
	bool same = v->from == v->to, ok = true;
	json_t *o = *out = same ? json_deep_copy(old) : json_object();
	if (!o)
		return st_no_memory(err);
	/* Mistral is the llama family with a window; transformers' llama has none. */
	bool mistral = v->arch == &st_arch_llama && cfg->sliding_window;
	if (same) {
		for (size_t i = 0; i < N_FIELDS; i++)
			if (st_config_edited(v, fields[i].key) && strcmp(fields[i].key, "rope_theta") != 0)
				ok = ok && put(o, fields[i].hf, field_value(cfg, &fields[i]));
		if (st_config_edited(v, "rope_"))
			ok = ok && put_rope(o, cfg);
		if (st_config_edited(v, "sliding_window") || st_config_edited(v, "window_from_layer"))
			ok = ok && (!mistral || put_family(o, "MistralForCausalLM", "mistral")) && put_window(o, v);
		if (v->has_type)
			ok = ok && put(o, "torch_dtype", json_string(torch_type(v)));
		if (cfg->tied != st_model_config(v->in)->tied)
			ok = ok && put(o, "tie_word_embeddings", json_boolean(cfg->tied));
		return ok ? ST_OK : st_no_memory(err);
	}
	static const struct {
		const struct st_arch *arch;
		const char *class;
	} classes[] = {
		{ &st_arch_llama, "LlamaForCausalLM" },
		{ &st_arch_qwen2, "Qwen2ForCausalLM" },
		{ &st_arch_qwen3, "Qwen3ForCausalLM" },
	};
	const char *class = "";
	for (size_t i = 0; i < sizeof classes / sizeof *classes; i++)
		if (classes[i].arch == v->arch)
			class = mistral ? "MistralForCausalLM" : classes[i].class;
	ok = put_family(o, class, mistral ? "mistral" : v->arch->name);
	if (cfg->name[0])
		ok = ok && put(o, "_name_or_path", json_string(cfg->name));
	for (size_t i = 0; i < N_FIELDS; i++)
		if (fields[i].kind == F64 || u32_of(cfg, &fields[i]) != 0)
			ok = ok && put(o, fields[i].hf, field_value(cfg, &fields[i]));
	ok = ok && put(o, "hidden_act", json_string("silu")) && put_rope(o, cfg) && put_window(o, v);
	/* These families take biases on Q, K and V from here; of qwen2 they are a part. */
	if (v->arch != &st_arch_qwen2)
		ok = ok && put(o, "attention_bias", json_boolean(cfg->qkv_bias));
	ok = ok && put(o, "bos_token_id", id_value(bos_of(v))) && put(o, "eos_token_id", id_value(eos_of(v)));
	ok = ok && put(o, "tie_word_embeddings", json_boolean(cfg->tied))
	  && put(o, "torch_dtype", json_string(torch_type(v))) && put(o, "use_cache", json_true());
	return ok ? ST_OK : st_no_memory(err);
}

enum st_status st_config_apr_document(struct st_conversion *v, json_t **out, struct st_error *err)
{
	const struct st_config *cfg = &v->cfg;
	bool same = v->from == v->to, ok = true;
	json_t *o = *out = same ? json_deep_copy(st_model_container(v->in)->docs.metadata) : json_object();
	if (!o)
		return st_no_memory(err);
	ok = put(o, "model_type", json_string(v->arch->name)) && put(o, "architecture", json_string(v->arch->name));
	if (cfg->name[0])
		ok = ok && put(o, "name", json_string(cfg->name));
	for (size_t i = 0; i < N_FIELDS; i++) {
		const struct field *f = &fields[i];
		for (size_t k = 0; k < sizeof f->aliases / sizeof *f->aliases && f->aliases[k]; k++)
			json_object_del(o, f->aliases[k]);
		if (f->kind == F64 || u32_of(cfg, f) != 0)
			ok = ok && put(o, f->apr, field_value(cfg, f));
	}
	json_object_del(o, "tie_word_embeddings");
	json_object_del(o, "quantization");
	/* Rows of Q and K are in the split-half order under Hugging Face names. */
	ok = ok && put(o, "rope_type", json_integer(2)) && put(o, "tied_embeddings", json_boolean(cfg->tied));
	json_object_del(o, "rope_scaling");
	if (cfg->rope_scaling != ST_ROPE_SCALING_NONE)
		ok = ok && put_rope(o, cfg);
	ok = ok && put_window(o, v);
	if (v->arch != &st_arch_qwen2 && cfg->qkv_bias)
		ok = ok && put(o, "attention_bias", json_true());
	if (!ok)
		return st_no_memory(err);
	if (same)
		return ST_OK; /* the vocabulary is there already */
	if (!v->vocab.t && (cfg->bos >= 0 || cfg->eos >= 0))
		ok = put(o, "bos_token_id", id_value(cfg->bos)) && put(o, "eos_token_id", id_value(cfg->eos));
	return ok ? st_vocabulary_apr(v, o, err) : st_no_memory(err);
}
