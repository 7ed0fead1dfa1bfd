/*
 * unknown.c - a model of a family that Stele cannot run, as far as two files of it can be compared: its tensors under
 * their own names. Nothing is known of what they are for but what the names say in every family.
 */
#include "arch/config.h"
#include "arch/model_state.h"

#include "base/error.h"
#include "format/tensors.h"

#include <string.h>

#define MOST_EXPERTS 4096

/* Experts that lie in one tensor, [expert, out, in], as GGUF stacks them. */
static uint64_t stacked(const struct st_model *m, const struct st_tensor *t)
{
	return m->gguf_names && t->ndim == 3 && t->shape[0] <= MOST_EXPERTS && t->shape[0] > 0
	                    && strstr(t->name, "_exps.weight") && t->layout == ST_LAYOUT_ROWS
	             ? t->shape[0]
	             : 1;
}

static bool is_weight(const struct st_tensor *t)
{
	return t->n_elems > 0 && st_dtype_info(t->dtype)->kind != ST_KIND_INT;
}

/* The tensor of one expert: a view of its rows. */
static const struct st_tensor *slice(struct st_model *m, const struct st_tensor *t, uint64_t e, struct st_error *err)
{
	struct st_tensor *s = st_arena_alloc(&m->arena, 1, sizeof *s);
	char *name = s ? st_arena_printf(&m->arena, "%s[%llu]", t->name, (unsigned long long)e) : NULL;
	if (!name) {
		(void)st_fail(err, ST_ERR_NOMEM, "no memory for the model's weights");
		return NULL;
	}
	uint64_t rows = t->shape[1];
	*s = *t;
	s->name = name;
	s->ndim = 2;
	s->shape[0] = t->shape[1];
	s->shape[1] = t->shape[2];
	s->n_elems = rows * s->shape[1];
	s->n_bytes = rows * t->row_bytes;
	s->data = t->data + e * s->n_bytes;
	s->offset = t->offset + e * s->n_bytes;
	return s;
}

static void add(struct st_model *m, const struct st_tensor *t)
{
	struct st_weight *w = &m->weights[m->n_weights];
	struct st_name_parts p;
	uint32_t layer = 0;
	st_name_take_apart(t->name, &p);
	*w = (struct st_weight){ .tensor = t, .heads = 1, .role = ST_ROLE_COUNT, .layer = p.layer, .expert = -1 };
	enum st_role role;
	if (p.text && st_role_of_name(t->name, &role, &layer) && role != ST_ROLE_ROPE_FREQS)
		w->role = role;
	/* Of other vectors it is known what kind they are of: what can happen to a norm can happen to them. */
	if (w->role != ST_ROLE_COUNT)
		w->kind = st_role_kind(w->role);
	else if (st_tensor_rows(t) == 1 && strcmp(p.last, "bias") == 0)
		w->kind = ST_WEIGHT_BIAS;
	else if (st_tensor_rows(t) == 1 && strcmp(p.last, "weight") == 0
	         && (strstr(p.stem, "norm") || strncmp(p.stem, "ln_", 3) == 0))
		w->kind = ST_WEIGHT_NORM;
	/* Only the order counts: before the layers, in them, behind them. */
	w->stage = p.layer >= 0 || w->role == ST_ROLE_EMBED || strstr(p.stem, "emb") ? ST_STAGE_EMBEDDING
	                                                                             : ST_STAGE_FINAL_NORM;
	snprintf(w->canonical, sizeof w->canonical, "%s", t->name);
	if (p.layer >= 0 && (uint32_t)p.layer >= m->cfg.n_layers)
		m->cfg.n_layers = (uint32_t)p.layer + 1;
	m->bound[m->n_bound++] = w;
	m->n_weights++;
}

static uint32_t key_u32(const struct st_container *c, const char *family, const char *gguf, const char *hf)
{
	struct st_error none = ST_ERROR_INIT;
	uint64_t v = 0;
	bool found = false;
	char key[96];
	if (c->format == ST_FORMAT_GGUF) {
		snprintf(key, sizeof key, "%.31s.%s", family, gguf);
		if (st_kv_u64(&c->keys, key, &v, &found, &none) != ST_OK || !found)
			return 0;
	} else {
		v = (uint64_t)json_integer_value(json_object_get(st_config_object(c), hf));
	}
	return v <= UINT32_MAX ? (uint32_t)v : 0;
}

/* Where a text begins and ends. An id of another form is no id. */
static void read_ends(const struct st_container *c, struct st_config *cfg)
{
	struct st_error none = ST_ERROR_INIT;
	if (c->format == ST_FORMAT_GGUF) {
		if (st_config_gguf_ids(c, cfg, &none) != ST_OK)
			cfg->bos = cfg->eos = -1;
		return;
	}
	bool apr = c->format == ST_FORMAT_APR;
	const json_t *own = st_config_object(c), *others[] = { c->docs.config, c->docs.generation_config };
	for (enum st_config_member m = ST_CONFIG_BOS; m <= ST_CONFIG_EOS; m++) {
		if (own && st_config_json_id(own, apr, m, cfg, &none) != ST_OK)
			continue;
		for (size_t i = 0; i < 2; i++)
			if (others[i] && others[i] != own && (m == ST_CONFIG_EOS || cfg->bos < 0)
			    && st_config_json_id(others[i], false, m, cfg, &none) != ST_OK)
				break;
	}
}

/* What the file says, taken as it stands: what is missing or of another form is 0. */
static void read_config(struct st_model *m)
{
	const struct st_container *c = m->c;
	struct st_config *cfg = &m->cfg;
	struct st_error none = ST_ERROR_INIT;
	const char *s = NULL;
	size_t n = 0;
	bool found;
	*cfg = (struct st_config){ .bos = -1, .eos = -1 };
	if (c->format == ST_FORMAT_GGUF) {
		if (st_kv_str(&c->keys, "general.architecture", &s, &n, &found, &none) == ST_OK && found)
			snprintf(cfg->arch, sizeof cfg->arch, "%.*s", (int)(n < 31 ? n : 31), s);
		if (st_kv_str(&c->keys, "general.name", &s, &n, &found, &none) == ST_OK && found)
			snprintf(cfg->name, sizeof cfg->name, "%.*s", (int)(n < 127 ? n : 127), s);
	} else {
		const json_t *o = st_config_object(c);
		s = json_string_value(json_object_get(o, c->format == ST_FORMAT_APR ? "architecture" : "model_type"));
		s = s ? s : json_string_value(json_array_get(json_object_get(o, "architectures"), 0));
		snprintf(cfg->arch, sizeof cfg->arch, "%.31s", s ? s : "?");
	}
	read_ends(c, cfg);
	cfg->n_heads = key_u32(c, cfg->arch, "attention.head_count", "num_attention_heads");
	cfg->n_kv_heads = key_u32(c, cfg->arch, "attention.head_count_kv", "num_key_value_heads");
	cfg->hidden = key_u32(c, cfg->arch, "embedding_length", "hidden_size");
	if (cfg->n_kv_heads == 0)
		cfg->n_kv_heads = cfg->n_heads;
	cfg->head_dim = key_u32(c, cfg->arch, "attention.key_length", "head_dim");
	if (cfg->head_dim == 0 && cfg->n_heads)
		cfg->head_dim = cfg->hidden / cfg->n_heads;
}

enum st_status st_model_bind_by_name(struct st_model *m, struct st_error *err)
{
	const struct st_container *c = m->c;
	st_described_close(m->described);
	m->described = NULL;
	m->by_name = true;
	m->graph = (struct st_graph){ 0 };
	m->gguf_names = c->format == ST_FORMAT_GGUF || st_container_find(c, "token_embd.weight");
	m->n_bound = m->n_weights = m->n_unused = 0;
	read_config(m);
	uint64_t n = 0;
	for (size_t i = 0; i < c->n_tensors; i++)
		n += is_weight(&c->tensors[i]) ? stacked(m, &c->tensors[i]) : 0;
	m->weights = st_arena_alloc(&m->arena, n ? n : 1, sizeof *m->weights);
	m->bound = st_arena_alloc(&m->arena, n ? n : 1, sizeof *m->bound);
	m->unused = st_arena_alloc(&m->arena, c->n_tensors, sizeof *m->unused);
	if (!m->weights || !m->bound || !m->unused)
		return st_fail(err, ST_ERR_NOMEM, "no memory for the model's weights");
	for (size_t i = 0; i < c->n_tensors; i++) {
		const struct st_tensor *t = &c->tensors[i];
		uint64_t k = stacked(m, t);
		if (!is_weight(t)) {
			m->unused[m->n_unused++] = t;
			continue;
		}
		for (uint64_t e = 0; e < k; e++) {
			const struct st_tensor *one = k > 1 ? slice(m, t, e, err) : t;
			if (!one)
				return err->code;
			add(m, one);
		}
	}
	return ST_OK;
}
