/* qwen3.c - Qwen3 (dense): RMS norm of each query and key head, head size of its own. */
#include "arch/arch.h"

const struct st_arch st_arch_qwen3 = {
	.name = "qwen3",
	.aliases = (const char *const[]){ "Qwen3ForCausalLM", NULL },
	.qk_norm = true,
};
