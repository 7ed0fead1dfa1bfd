/* config_apr.c - metadata of an APR file, in the spellings of both writers. */
#include "arch/config.h"

#include "base/error.h"

#include <string.h>

static const struct st_json_field fields[] = {
	{ offsetof(struct st_config, n_layers), true, { "num_layers", "n_layers", "num_hidden_layers", "n_layer" } },
	{ offsetof(struct st_config, hidden), true, { "hidden_size", "hidden_dim", "d_model", "n_embd" } },
	{ offsetof(struct st_config, n_heads), true, { "num_heads", "n_heads", "num_attention_heads", "n_head" } },
	{ offsetof(struct st_config, n_kv_heads), false, { "num_kv_heads", "n_kv_heads", "num_key_value_heads" } },
	{ offsetof(struct st_config, head_dim), false, { "head_dim" } },
	{ offsetof(struct st_config, ffn), true, { "intermediate_size", "ffn_dim", "intermediate_dim", "n_inner" } },
	{ offsetof(struct st_config, vocab), true, { "vocab_size", "n_vocab" } },
	{ offsetof(struct st_config, max_positions),
	  false,
	  { "max_position_embeddings", "max_seq_len", "context_length", "n_ctx" } },
};

/* "architecture" is the family; "model_type" may be a writer's word of its own ("transformer_lm_q4k"). */
static enum st_status family(const json_t *o, const struct st_arch **arch, struct st_error *err)
{
	const char *name = NULL, *type = NULL;
	bool found, typed;
	ST_TRY(st_json_str(o, ST_NAMES("architecture"), &name, &found, err));
	ST_TRY(st_json_str(o, ST_NAMES("model_type"), &type, &typed, err));
	if (!found && !typed)
		return st_fail_at(err, ST_ERR_FORMAT, ST_NO_OFFSET, "architecture", "is missing");
	const char *key = found ? "architecture" : "model_type";
	if (!found)
		name = type;
	*arch = st_arch_find(name, strlen(name));
	if (!*arch)
		return st_config_unknown_family(key, name, strlen(name), err);
	const struct st_arch *other = typed ? st_arch_find(type, strlen(type)) : NULL;
	if (other && other != *arch)
		return st_fail_at(err, ST_ERR_FORMAT, ST_NO_OFFSET, "model_type",
		                  "\"%.64s\" contradicts architecture \"%.64s\"", type, name);
	return ST_OK;
}

/* Writer B never writes the head size: the query matrix of the first layer has it. */
static void head_dim_from_shape(const struct st_container *c, struct st_config *cfg)
{
	static const char *const queries[] = { "blk.0.attn_q.weight", "model.layers.0.self_attn.q_proj.weight" };
	for (size_t i = 0; i < 2; i++) {
		const struct st_tensor *t = st_container_find(c, queries[i]);
		if (!t || t->ndim != 2 || t->shape[1] != cfg->hidden || t->shape[0] % cfg->n_heads)
			continue;
		uint64_t d = t->shape[0] / cfg->n_heads;
		if (d <= UINT32_MAX)
			cfg->head_dim = (uint32_t)d;
	}
}

enum st_status st_config_apr(const struct st_container *c, struct st_config *cfg, const struct st_arch **arch,
                             struct st_error *err)
{
	const json_t *o = c->metadata;
	bool found;
	const char *name = NULL;
	if (!json_is_object(o) || json_object_size(o) == 0)
		return st_fail(err, ST_ERR_FORMAT, "no metadata: the family and sizes are unknown");
	ST_TRY(family(o, arch, err));
	ST_TRY(st_json_refuse(o, err));
	ST_TRY(st_json_fields(o, fields, sizeof fields / sizeof *fields, cfg, err));
	if (cfg->head_dim == 0)
		head_dim_from_shape(c, cfg);
	ST_TRY(st_json_f64(o, ST_NAMES("rms_norm_eps", "layer_norm_eps", "norm_eps"), &cfg->norm_eps, &found, err));
	if (!found)
		return st_fail_at(err, ST_ERR_FORMAT, ST_NO_OFFSET, "rms_norm_eps", "is missing");
	ST_TRY(st_json_rope(o, cfg, err));
	/* Writers may leave both the head and this key out: then the head is the embedding. */
	cfg->tied = true;
	ST_TRY(st_json_bool(o, ST_NAMES("tied_embeddings", "tie_word_embeddings"), &cfg->tied, &found, err));
	cfg->tie_said = !found ? ST_TIE_UNSAID : cfg->tied ? ST_TIE_YES : ST_TIE_NO;
	ST_TRY(st_json_id(o, ST_NAMES("tokenizer.bos_token_id", "bos_token_id"), &cfg->bos, err));
	ST_TRY(st_json_id(o, ST_NAMES("tokenizer.eos_token_id", "eos_token_id"), &cfg->eos, err));
	ST_TRY(st_json_str(o, ST_NAMES("name"), &name, &found, err));
	if (found)
		snprintf(cfg->name, sizeof cfg->name, "%s", name);
	return ST_OK;
}
