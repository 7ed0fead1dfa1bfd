/* qwen2.c - Qwen2 and Qwen2.5: biases on Q, K and V. */
#include "arch/arch.h"

const struct st_arch st_arch_qwen2 = {
	.name = "qwen2",
	.aliases = (const char *const[]){ "Qwen2ForCausalLM", NULL },
	.qkv_bias = true,
};
