/* qwen2.c - Qwen2 and Qwen2.5: biases on Q, K and V. */
#include "arch/config.h"

static enum st_status configure(const struct st_container *c, struct st_config *cfg, struct st_error *err)
{
	const json_t *o = st_config_object(c);
	return o ? st_config_qwen_window(o, cfg, err) : ST_OK;
}

const struct st_arch st_arch_qwen2 = {
	.name = "qwen2",
	.aliases = (const char *const[]){ "Qwen2ForCausalLM", NULL },
	.qkv_bias = true,
	.default_rope_theta = 10000, /* Qwen2Config; GGUF readers alike */
	.configure = configure,
};
