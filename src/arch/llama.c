/*
 * llama.c - LLaMA 1, 2 and 3, SmolLM and other models of that form, and Mistral, which
 * adds a sliding window to it.
 */
#include "arch/config.h"

#include "base/error.h"

#include <string.h>

/* transformers' MistralConfig: a config.json without the key means this, null means none. */
#define MISTRAL_WINDOW 4096

bool st_config_is_mistral(const json_t *config)
{
	const json_t *type = json_object_get(config, "model_type");
	if (!json_is_string(type))
		type = json_array_get(json_object_get(config, "architectures"), 0);
	const char *name = json_is_string(type) ? json_string_value(type) : "";
	return strcmp(name, "mistral") == 0 || strcmp(name, "MistralForCausalLM") == 0;
}

static enum st_status configure(const struct st_container *c, struct st_config *cfg, struct st_error *err)
{
	const json_t *o = st_config_object(c);
	if (!o)
		return ST_OK; /* GGUF: {arch}.attention.sliding_window, read with the shared keys */
	bool found;
	bool document = c->docs.config != NULL, mistral = document && st_config_is_mistral(o);
	if (mistral && !json_object_get(o, "sliding_window"))
		cfg->sliding_window = MISTRAL_WINDOW;
	/* transformers' llama passes over a window in its config.json; in the metadata of an APR file it is meant. */
	if (mistral || !document)
		ST_TRY(st_config_json_member(o, !document, ST_CONFIG_SLIDING_WINDOW, cfg, &found, err));
	/* "attention_bias" asks for biases on Q, K, V and the output; the latter is refused by its tensor. */
	ST_TRY(st_config_json_member(o, !document, ST_CONFIG_QKV_BIAS, cfg, &found, err));
	return st_config_layer_types(o, cfg, err);
}

const struct st_arch st_arch_llama = {
	.name = "llama",
	.aliases = (const char *const[]){ "LlamaForCausalLM", "LLaMAForCausalLM", "mistral", "MistralForCausalLM",
	                                  NULL },
	.gguf_rope_interleaved = true,
	.default_rope_theta = 10000, /* LlamaConfig and MistralConfig; GGUF readers alike */
	.configure = configure,
};
