/* documents.c - what the JSON containers say beside the tensors: config.json and its neighbours, APR metadata. */
#include "synth/synth.h"

#include "token/vocab.h"

#include <string.h>

/* Members collect in an object until one of them cannot be made; then the object is gone and stays NULL. */
static void set(json_t **o, const char *key, json_t *v)
{
	if (*o && json_object_set_new(*o, key, v) == 0)
		return;
	if (!*o)
		json_decref(v);
	json_decref(*o);
	*o = NULL;
}

static json_t *integer(uint64_t v) { return json_integer((json_int_t)v); }

static json_t *strings(const char *const *s, uint32_t n)
{
	json_t *a = json_array();
	for (uint32_t i = 0; a && i < n; i++)
		if (json_array_append_new(a, json_string(s[i])) != 0) {
			json_decref(a);
			a = NULL;
		}
	return a;
}

static json_t *rope_scaling(const struct st_config *cfg)
{
	if (cfg->rope_scaling == ST_ROPE_SCALING_LINEAR)
		return json_pack("{s:s, s:f}", "rope_type", "linear", "factor", cfg->rope_factor);
	return json_pack("{s:s, s:f, s:f, s:f, s:I}", "rope_type", "llama3", "factor", cfg->rope_factor,
	                 "low_freq_factor", cfg->rope_low_freq, "high_freq_factor", cfg->rope_high_freq,
	                 "original_max_position_embeddings", (json_int_t)cfg->rope_original_positions);
}

/* Sliding windows as each family spells them. */
static void put_window(json_t **o, const struct st_config *cfg)
{
	bool qwen = strncmp(cfg->arch, "qwen", 4) == 0;
	if (qwen) {
		set(o, "use_sliding_window", json_boolean(cfg->sliding_window > 0));
		if (cfg->sliding_window) {
			set(o, "max_window_layers", integer(cfg->window_from_layer));
			set(o, "sliding_window", integer(cfg->sliding_window));
		}
	} else if (cfg->sliding_window) {
		set(o, "sliding_window", integer(cfg->sliding_window));
	}
}

static void put_rope(json_t **o, const struct st_config *cfg)
{
	set(o, "rope_theta", json_real(cfg->rope_theta));
	if (cfg->rope_scaling != ST_ROPE_SCALING_NONE)
		set(o, "rope_scaling", rope_scaling(cfg));
}

/* A llama with a window is what transformers calls mistral. */
static const char *model_type(const struct st_config *cfg)
{
	return strcmp(cfg->arch, "llama") == 0 && cfg->sliding_window ? "mistral" : cfg->arch;
}

static const char *class_of(const struct st_config *cfg)
{
	static const char *const classes[][2] = {
		{ "llama", "LlamaForCausalLM" },
		{ "mistral", "MistralForCausalLM" },
		{ "qwen2", "Qwen2ForCausalLM" },
		{ "qwen3", "Qwen3ForCausalLM" },
	};
	for (size_t i = 0; i < sizeof classes / sizeof *classes; i++)
		if (strcmp(classes[i][0], model_type(cfg)) == 0)
			return classes[i][1];
	return cfg->arch;
}

static const char *torch_dtype(enum st_dtype t)
{
	return t == ST_DTYPE_BF16 ? "bfloat16" : t == ST_DTYPE_F16 ? "float16" : "float32";
}

static void put_names(json_t **o, const struct st_synth *s)
{
	set(o, "bos_token_id", integer(s->vocab.bos));
	set(o, "eos_token_id", integer(s->vocab.eos));
	set(o, "torch_dtype", json_string(torch_dtype(s->type)));
	set(o, "_name_or_path", json_string(s->title));
}

json_t *st_synth_hf_config(const struct st_synth *s)
{
	const struct st_config *cfg = &s->cfg;
	json_t *o = s->page ? json_deep_copy(s->page->config) : json_object();
	if (s->page) {
		put_names(&o, s);
		return o;
	}
	set(&o, "architectures", json_pack("[s]", class_of(cfg)));
	set(&o, "model_type", json_string(model_type(cfg)));
	set(&o, "hidden_act", json_string("silu"));
	set(&o, "hidden_size", integer(cfg->hidden));
	set(&o, "intermediate_size", integer(cfg->ffn));
	set(&o, "num_hidden_layers", integer(cfg->n_layers));
	set(&o, "num_attention_heads", integer(cfg->n_heads));
	set(&o, "num_key_value_heads", integer(cfg->n_kv_heads));
	set(&o, "head_dim", integer(cfg->head_dim));
	set(&o, "vocab_size", integer(cfg->vocab));
	set(&o, "max_position_embeddings", integer(cfg->max_positions));
	set(&o, "rms_norm_eps", json_real(cfg->norm_eps));
	put_rope(&o, cfg);
	put_window(&o, cfg);
	if (strcmp(cfg->arch, "qwen2") != 0) /* there biases are a property of the family */
		set(&o, "attention_bias", json_boolean(cfg->qkv_bias));
	set(&o, "tie_word_embeddings", json_boolean(cfg->tied));
	put_names(&o, s);
	return o;
}

json_t *st_synth_hf_generation_config(const struct st_synth *s)
{
	return json_pack("{s:I, s:I, s:b}", "bos_token_id", (json_int_t)s->vocab.bos, "eos_token_id",
	                 (json_int_t)s->vocab.eos, "do_sample", 0);
}

json_t *st_synth_hf_tokenizer_config(const struct st_synth *s)
{
	return json_pack("{s:s, s:s, s:s, s:b, s:I}", "tokenizer_class", "PreTrainedTokenizerFast", "bos_token",
	                 s->vocab.pieces[s->vocab.bos], "eos_token", s->vocab.pieces[s->vocab.eos], "add_bos_token",
	                 s->words.adds_bos, "model_max_length", (json_int_t)s->cfg.max_positions);
}

/* BOS in front of one text, and of each of a pair. */
static json_t *put_bos_first(const struct st_synth *s)
{
	const char *bos = s->vocab.pieces[s->vocab.bos];
	return json_pack("{s:s, s:[{s:{s:s, s:i}}, {s:{s:s, s:i}}], s:[{s:{s:s, s:i}}, {s:{s:s, s:i}}, {s:{s:s, s:i}}, "
	                 "{s:{s:s, s:i}}], "
	                 "s:{s:{s:s, s:[I], s:[s]}}}",
	                 "type", "TemplateProcessing", "single", "SpecialToken", "id", bos, "type_id", 0, "Sequence",
	                 "id", "A", "type_id", 0, "pair", "SpecialToken", "id", bos, "type_id", 0, "Sequence", "id",
	                 "A", "type_id", 0, "SpecialToken", "id", bos, "type_id", 1, "Sequence", "id", "B", "type_id",
	                 1, "special_tokens", bos, "id", bos, "ids", (json_int_t)s->vocab.bos, "tokens", bos);
}

static json_t *added_tokens(const struct st_synth_vocab *v)
{
	json_t *a = json_array();
	for (uint32_t id = 0; a && id < v->n; id++) {
		if (v->types[id] != ST_PIECE_CONTROL)
			continue;
		json_t *t = json_pack("{s:I, s:s, s:b, s:b, s:b, s:b, s:b}", "id", (json_int_t)id, "content",
		                      v->pieces[id], "single_word", 0, "lstrip", 0, "rstrip", 0, "normalized", 0,
		                      "special", 1);
		if (json_array_append_new(a, t) != 0) {
			json_decref(a);
			a = NULL;
		}
	}
	return a;
}

/* Special tokens stand in added_tokens alone, as in published files. */
static json_t *vocabulary(const struct st_synth_vocab *v)
{
	json_t *o = json_object();
	for (uint32_t id = 0; id < v->n; id++)
		if (v->types[id] != ST_PIECE_CONTROL)
			set(&o, v->pieces[id], integer(id));
	return o;
}

json_t *st_synth_hf_tokenizer(const struct st_synth *s)
{
	json_t *model = json_object(), *o = json_object();
	set(&model, "type", json_string("BPE"));
	set(&model, "dropout", json_null());
	set(&model, "unk_token", json_null());
	set(&model, "fuse_unk", json_false());
	set(&model, "byte_fallback", json_false());
	set(&model, "ignore_merges", json_boolean(s->words.ignore_merges));
	set(&model, "vocab", vocabulary(&s->vocab));
	set(&model, "merges", strings(s->vocab.merges, s->vocab.n_merges));
	set(&o, "version", json_string("1.0"));
	set(&o, "truncation", json_null());
	set(&o, "padding", json_null());
	set(&o, "added_tokens", added_tokens(&s->vocab));
	set(&o, "normalizer", s->words.nfc ? json_pack("{s:s}", "type", "NFC") : json_null());
	set(&o, "pre_tokenizer",
	    json_pack("{s:s, s:[{s:s, s:{s:s}, s:s, s:b}, {s:s, s:b, s:b, s:b}]}", "type", "Sequence", "pretokenizers",
	              "type", "Split", "pattern", "Regex", s->words.pattern, "behavior", "Isolated", "invert", 0,
	              "type", "ByteLevel", "add_prefix_space", 0, "trim_offsets", 1, "use_regex", 0));
	set(&o, "post_processor", s->words.adds_bos ? put_bos_first(s) : json_null());
	set(&o, "decoder",
	    json_pack("{s:s, s:b, s:b, s:b}", "type", "ByteLevel", "add_prefix_space", 0, "trim_offsets", 1,
	              "use_regex", 1));
	set(&o, "model", model);
	return o;
}

/* As writer A spells its keys. The last three of the tokenizer are optional in the format and leave nothing to be
 * inferred. */
json_t *st_synth_apr_metadata(const struct st_synth *s)
{
	const struct st_config *cfg = &s->cfg;
	const struct st_synth_vocab *v = &s->vocab;
	json_t *o = json_object(), *types = json_array();
	for (uint32_t i = 0; types && i < v->n; i++)
		if (json_array_append_new(types, integer(v->types[i])) != 0) {
			json_decref(types);
			types = NULL;
		}
	set(&o, "architecture", json_string(cfg->arch));
	set(&o, "model_type", json_string(cfg->arch));
	set(&o, "name", json_string(s->title));
	set(&o, "hidden_size", integer(cfg->hidden));
	set(&o, "num_layers", integer(cfg->n_layers));
	set(&o, "num_heads", integer(cfg->n_heads));
	set(&o, "num_kv_heads", integer(cfg->n_kv_heads));
	set(&o, "head_dim", integer(cfg->head_dim));
	set(&o, "intermediate_size", integer(cfg->ffn));
	set(&o, "vocab_size", integer(cfg->vocab));
	set(&o, "max_position_embeddings", integer(cfg->max_positions));
	set(&o, "rms_norm_eps", json_real(cfg->norm_eps));
	set(&o, "rope_type", integer(2)); /* split halves */
	put_rope(&o, cfg);
	put_window(&o, cfg);
	set(&o, "tied_embeddings", json_boolean(cfg->tied));
	set(&o, "tokenizer.model_type", json_string("bpe"));
	set(&o, "tokenizer.vocabulary", strings(v->pieces, v->n));
	set(&o, "tokenizer.merges", strings(v->merges, v->n_merges));
	set(&o, "tokenizer.bos_token_id", integer(v->bos));
	set(&o, "tokenizer.eos_token_id", integer(v->eos));
	set(&o, "tokenizer.pre", json_string(s->words.pre));
	set(&o, "tokenizer.token_type", types);
	set(&o, "tokenizer.add_bos_token", json_boolean(s->words.adds_bos));
	return o;
}
