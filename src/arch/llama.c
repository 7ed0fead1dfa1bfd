/*
 * llama.c - LLaMA 1, 2 and 3, SmolLM and other models of that form, and Mistral, which
 * adds a sliding window to it.
 */
#include "arch/arch.h"

const struct st_arch st_arch_llama = {
	.name = "llama",
	.aliases = (const char *const[]){ "LlamaForCausalLM", "LLaMAForCausalLM", "mistral", "MistralForCausalLM",
	                                  NULL },
	.gguf_rope_interleaved = true,
};
