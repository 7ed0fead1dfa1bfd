/* config_apr.c - metadata of an APR file, in the spellings of both writers. */
#include "arch/config.h"

#include "base/error.h"

#include <string.h>

/* "architecture" is the family; "model_type" may be a writer's word of its own ("transformer_lm_q4k"). */
static enum st_status family(const json_t *o, const struct st_arch **arch, struct st_config *cfg, struct st_error *err)
{
	const char *name = NULL, *type = NULL;
	const struct st_json_field f = { ST_JSON_IN(name), .key = { "architecture" } },
				   t = { ST_JSON_IN(type), .key = { "model_type" } };
	ST_TRY(st_json_read_one(o, NULL, &f, &name, NULL, err));
	ST_TRY(st_json_read_one(o, NULL, &t, &type, NULL, err));
	const char *key = name ? f.key[0] : t.key[0];
	const struct st_arch *other = type ? st_arch_find(type, strlen(type)) : NULL;
	if (!name && !type)
		return st_fail_at(err, ST_ERR_FORMAT, ST_NO_OFFSET, f.key[0], "is missing");
	if (!name)
		name = type;
	st_config_said(cfg, ST_CONFIG_ARCH, key, true);
	*arch = st_arch_find(name, strlen(name));
	if (!*arch)
		return st_config_unknown_family(key, name, strlen(name), err);
	if (other && other != *arch)
		return st_fail_at(err, ST_ERR_FORMAT, ST_NO_OFFSET, t.key[0],
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
	const json_t *o = c->docs.metadata;
	if (!json_is_object(o) || json_object_size(o) == 0)
		return st_fail(err, ST_ERR_FORMAT, "no metadata: the family and sizes are unknown");
	ST_TRY(family(o, arch, cfg, err));
	/* Writers may leave both the head and this key out: then the head is the embedding. */
	cfg->tied = true;
	ST_TRY(st_config_json(o, true, cfg, err));
	if (cfg->head_dim == 0)
		head_dim_from_shape(c, cfg);
	return ST_OK;
}
