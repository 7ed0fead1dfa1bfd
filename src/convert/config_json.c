/* config_json.c - a configuration as config.json, and as the metadata of an APR file. */
#include "convert/config.h"

#include "arch/arch.h"
#include "convert/fields.h"

#include <stdlib.h>
#include <string.h>

/* A number that came out of an f32 is written as the shortest decimal that gives this f32 again: 1e-05, not
 * 9.9999997473787516e-06. */
double st_shortest_decimal(double v)
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

/* Takes the reference; false when making it failed. */
static bool put(json_t *o, const char *key, json_t *value) { return json_object_set_new(o, key, value) == 0; }

static json_t *field_value(const struct st_config *cfg, const struct st_field *f)
{
	return f->kind == ST_FIELD_F64 ? json_real(st_shortest_decimal(st_field_f64(cfg, f)))
	                               : json_integer(st_field_u32(cfg, f));
}

static json_t *scaling_value(const struct st_config *cfg)
{
	switch (cfg->rope_scaling) {
	case ST_ROPE_SCALING_LINEAR:
		return json_pack("{s:s, s:f}", "rope_type", "linear", "factor", st_shortest_decimal(cfg->rope_factor));
	case ST_ROPE_SCALING_LLAMA3:
		return json_pack("{s:s, s:f, s:f, s:f, s:I}", "rope_type", "llama3", "factor",
		                 st_shortest_decimal(cfg->rope_factor), "low_freq_factor",
		                 st_shortest_decimal(cfg->rope_low_freq), "high_freq_factor",
		                 st_shortest_decimal(cfg->rope_high_freq), "original_max_position_embeddings",
		                 (json_int_t)cfg->rope_original_positions);
	default:
		return json_null();
	}
}

/* rope_theta and scaling, in their older spelling, which every reader takes. */
static bool put_rope(json_t *o, const struct st_config *cfg)
{
	json_object_del(o, "rope_parameters");
	return put(o, "rope_theta", json_real(st_shortest_decimal(cfg->rope_theta)))
	    && put(o, "rope_scaling", scaling_value(cfg));
}

/* Whether a config.json of the family llama is Mistral's: only then it has a window, and one where it does not say. */
static bool is_mistral(const json_t *config)
{
	const json_t *type = json_object_get(config, "model_type");
	if (!json_is_string(type))
		type = json_array_get(json_object_get(config, "architectures"), 0);
	const char *name = json_is_string(type) ? json_string_value(type) : "";
	return strcmp(name, "mistral") == 0 || strcmp(name, "MistralForCausalLM") == 0;
}

static bool put_window(json_t *o, const struct st_target *to)
{
	const struct st_config *cfg = &to->cfg;
	bool qwen = to->arch != &st_arch_llama;
	json_object_del(o, "layer_types");
	if (!cfg->sliding_window) {
		json_object_del(o, "sliding_window");
		json_object_del(o, "max_window_layers");
		if (!qwen && is_mistral(o)) /* there silence means 4096 */
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

const char *st_torch_type(const struct st_plan *plan)
{
	for (size_t i = 0; i < plan->n; i++)
		if (plan->jobs[i].spec.ndim == 2)
			return plan->jobs[i].spec.dtype == ST_DTYPE_BF16 ? "bfloat16"
			     : plan->jobs[i].spec.dtype == ST_DTYPE_F16  ? "float16"
			                                                 : "float32";
	return "float32";
}

enum st_status st_config_hf_document(const struct st_conversion *v, json_t **out, struct st_error *err)
{
	const struct st_config *cfg = &v->dst.cfg;
	const json_t *old = st_model_container(v->src.model)->docs.config;
	bool same = v->src.format == v->dst.format, ok = true;
	json_t *o = *out = same ? json_deep_copy(old) : json_object();
	if (!o)
		return st_no_memory(err);
	/* Mistral is the llama family with a window; transformers' llama has none. */
	bool mistral = v->dst.arch == &st_arch_llama && cfg->sliding_window;
	if (same) {
		for (size_t i = 0; i < st_n_fields; i++)
			if (st_config_edited(&v->dst, st_fields[i].key) && strcmp(st_fields[i].key, "rope_theta") != 0)
				ok = ok && put(o, st_fields[i].hf, field_value(cfg, &st_fields[i]));
		if (st_config_edited(&v->dst, "rope_"))
			ok = ok && put_rope(o, cfg);
		if (st_config_edited(&v->dst, "sliding_window") || st_config_edited(&v->dst, "window_from_layer"))
			ok = ok && (!mistral || put_family(o, "MistralForCausalLM", "mistral"))
			  && put_window(o, &v->dst);
		if (v->dst.has_type)
			ok = ok && put(o, "torch_dtype", json_string(st_torch_type(&v->plan)));
		if (cfg->tied != st_model_config(v->src.model)->tied)
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
		if (classes[i].arch == v->dst.arch)
			class = mistral ? "MistralForCausalLM" : classes[i].class;
	ok = put_family(o, class, mistral ? "mistral" : v->dst.arch->name);
	if (cfg->name[0])
		ok = ok && put(o, "_name_or_path", json_string(cfg->name));
	for (size_t i = 0; i < st_n_fields; i++)
		if (st_fields[i].kind == ST_FIELD_F64 || st_field_u32(cfg, &st_fields[i]) != 0)
			ok = ok && put(o, st_fields[i].hf, field_value(cfg, &st_fields[i]));
	ok = ok && put(o, "hidden_act", json_string("silu")) && put_rope(o, cfg) && put_window(o, &v->dst);
	/* These families take biases on Q, K and V from here; of qwen2 they are a part. */
	if (v->dst.arch != &st_arch_qwen2)
		ok = ok && put(o, "attention_bias", json_boolean(cfg->qkv_bias));
	ok = ok && put(o, "bos_token_id", id_value(st_conversion_bos(v)))
	  && put(o, "eos_token_id", id_value(st_conversion_eos(v)));
	ok = ok && put(o, "tie_word_embeddings", json_boolean(cfg->tied))
	  && put(o, "torch_dtype", json_string(st_torch_type(&v->plan))) && put(o, "use_cache", json_true());
	return ok ? ST_OK : st_no_memory(err);
}

enum st_status st_config_apr_document(const struct st_conversion *v, json_t **out, struct st_error *err)
{
	const struct st_config *cfg = &v->dst.cfg;
	bool same = v->src.format == v->dst.format, ok = true;
	json_t *o = *out = same ? json_deep_copy(st_model_container(v->src.model)->docs.metadata) : json_object();
	if (!o)
		return st_no_memory(err);
	ok = put(o, "model_type", json_string(v->dst.arch->name))
	  && put(o, "architecture", json_string(v->dst.arch->name));
	if (cfg->name[0])
		ok = ok && put(o, "name", json_string(cfg->name));
	for (size_t i = 0; i < st_n_fields; i++) {
		const struct st_field *f = &st_fields[i];
		for (size_t k = 0; k < sizeof f->aliases / sizeof *f->aliases && f->aliases[k]; k++)
			json_object_del(o, f->aliases[k]);
		if (f->kind == ST_FIELD_F64 || st_field_u32(cfg, f) != 0)
			ok = ok && put(o, f->apr, field_value(cfg, f));
	}
	json_object_del(o, "tie_word_embeddings");
	json_object_del(o, "quantization");
	/* Rows of Q and K are in the split-half order under Hugging Face names. */
	ok = ok && put(o, "rope_type", json_integer(2)) && put(o, "tied_embeddings", json_boolean(cfg->tied));
	json_object_del(o, "rope_scaling");
	if (cfg->rope_scaling != ST_ROPE_SCALING_NONE)
		ok = ok && put_rope(o, cfg);
	ok = ok && put_window(o, &v->dst);
	if (v->dst.arch != &st_arch_qwen2 && cfg->qkv_bias)
		ok = ok && put(o, "attention_bias", json_true());
	if (!ok)
		return st_no_memory(err);
	if (!same && !v->vocab.t && (cfg->bos >= 0 || cfg->eos >= 0))
		ok = put(o, "bos_token_id", id_value(cfg->bos)) && put(o, "eos_token_id", id_value(cfg->eos));
	return ok ? ST_OK : st_no_memory(err);
}
