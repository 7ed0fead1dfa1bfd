/* qwen3.c - Qwen3 (dense): RMS norm of each query and key head, head size of its own. */
#include "arch/config.h"

#include "base/error.h"

/* Qwen3Config's default, whatever hidden size / heads would give. */
#define HEAD_DIM 128

static enum st_status configure(const struct st_container *c, struct st_config *cfg, struct st_error *err)
{
	const json_t *o = st_config_object(c);
	if (!o)
		return ST_OK;
	bool found;
	if (c->docs.config && cfg->head_dim == 0) /* config.json; APR has defaults of its own */
		cfg->head_dim = HEAD_DIM;
	ST_TRY(st_config_json_member(o, !c->docs.config, ST_CONFIG_QKV_BIAS, cfg, &found, err));
	return st_config_qwen_window(o, cfg, err);
}

const struct st_arch st_arch_qwen3 = {
	.name = "qwen3",
	.aliases = (const char *const[]){ "Qwen3ForCausalLM", NULL },
	.qk_norm = true,
	.configure = configure,
};
