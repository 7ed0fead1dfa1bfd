/* config_gguf.c - a configuration as GGUF's keys. */
#include "convert/config.h"

#include "convert/fields.h"

#include <string.h>

struct prefixed {
	char text[96];
};
static struct prefixed in_arch(const struct st_target *to, const char *suffix)
{
	struct prefixed p;
	snprintf(p.text, sizeof p.text, "%s.%s", to->arch->name, suffix);
	return p;
}

static void field_key(const struct st_target *to, struct st_keys *k, const struct st_field *f)
{
	const struct st_config *cfg = &to->cfg;
	struct prefixed p = in_arch(to, f->gguf);
	if (f->kind == ST_FIELD_F64)
		st_key_f32(k, p.text, st_field_f64(cfg, f));
	else if (st_field_u32(cfg, f) != 0)
		st_key_u32(k, p.text, st_field_u32(cfg, f));
}

static enum st_status window_key(const struct st_target *to, struct st_keys *k, struct st_error *err)
{
	const struct st_config *cfg = &to->cfg;
	struct prefixed p = in_arch(to, "attention.sliding_window");
	if (cfg->window_from_layer)
		return st_fail_at(err, ST_ERR_UNSUPPORTED, ST_NO_OFFSET, "max_window_layers",
		                  "GGUF cannot say that the window begins at layer %u", cfg->window_from_layer);
	if (cfg->sliding_window)
		st_key_u32(k, p.text, cfg->sliding_window);
	else
		st_key_drop(k, p.text);
	return ST_OK;
}

static void scaling_keys(const struct st_target *to, struct st_keys *k)
{
	const struct st_config *cfg = &to->cfg;
	bool linear = cfg->rope_scaling == ST_ROPE_SCALING_LINEAR;
	st_key_drop(k, in_arch(to, "rope.scale_linear").text);
	st_key_drop(k, in_arch(to, "rope.scaling.type").text);
	st_key_drop(k, in_arch(to, "rope.scaling.factor").text);
	if (linear) {
		st_key_text(k, in_arch(to, "rope.scaling.type").text, "linear", 6);
		st_key_f32(k, in_arch(to, "rope.scaling.factor").text, cfg->rope_factor);
	}
}

static void head_size_keys(const struct st_target *to, struct st_keys *k)
{
	const struct st_config *cfg = &to->cfg;
	if (cfg->head_dim * cfg->n_heads != cfg->hidden) {
		st_key_u32(k, in_arch(to, "attention.key_length").text, cfg->head_dim);
		st_key_u32(k, in_arch(to, "attention.value_length").text, cfg->head_dim);
	}
	st_key_u32(k, in_arch(to, "rope.dimension_count").text, cfg->head_dim);
}

/* The keys of the source as they are, but for those that a repair or another type changes. */
enum st_status st_config_same_keys(const struct st_input *from, const struct st_target *to, struct st_keys *k,
                                   struct st_error *err)
{
	const struct st_container *c = st_model_container(from->model);
	for (size_t i = 0; i < c->keys.n; i++) {
		if (strncmp(c->keys.kv[i].key, "split.", 6) == 0)
			continue; /* the parts have become one file */
		if (!st_grow((void **)&k->v, &k->cap, k->n + 1, sizeof *k->v))
			return st_no_memory(err);
		k->v[k->n++] = c->keys.kv[i];
	}
	for (size_t i = 0; i < st_n_fields; i++)
		if (st_config_edited(to, st_fields[i].key) && strcmp(st_fields[i].key, "head_dim") != 0)
			field_key(to, k, &st_fields[i]);
	if (st_config_edited(to, "head_dim") || st_config_edited(to, "n_heads"))
		head_size_keys(to, k);
	if (st_config_edited(to, "rope_"))
		scaling_keys(to, k);
	return st_config_edited(to, "sliding_window") ? window_key(to, k, err) : ST_OK;
}

enum st_status st_config_new_keys(const struct st_target *to, struct st_keys *k, struct st_error *err)
{
	st_key_text(k, "general.architecture", to->arch->name, strlen(to->arch->name));
	if (to->cfg.name[0])
		st_key_text(k, "general.name", to->cfg.name, strlen(to->cfg.name));
	for (size_t i = 0; i < st_n_fields; i++)
		if (strcmp(st_fields[i].key, "head_dim") != 0)
			field_key(to, k, &st_fields[i]);
	head_size_keys(to, k);
	scaling_keys(to, k);
	return window_key(to, k, err);
}
