/* model.c - opening a model, and looking at it. */
#include "arch/model_state.h"

#include "base/error.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

/* What is needed to tell the family. */
static enum st_status check_kind(const struct st_container *c, struct st_error *err)
{
	const json_t *o = c->format == ST_FORMAT_APR ? c->docs.metadata : c->docs.config;
	if (c->format == ST_FORMAT_APR && json_object_size(o) == 0)
		return st_fail(err, ST_ERR_FORMAT, "no metadata: the family and sizes are unknown");
	if (c->format != ST_FORMAT_GGUF && !o)
		return st_fail(err, ST_ERR_UNSUPPORTED, "%s without a config.json beside it is no model",
		               st_format_name(c->format));
	if (c->format != ST_FORMAT_GGUF && !json_is_object(o))
		return st_fail(err, ST_ERR_FORMAT, "config.json is no object");
	return ST_OK;
}

/* By the page that was asked for, or the built-in one that knows the file. */
static enum st_status bind_family(struct st_model *m, struct st_error *err)
{
	ST_TRY(check_kind(m->c, err));
	if (!m->page)
		ST_TRY(st_described_family(m->c, &m->page, err));
	if (!m->page)
		return st_described_unknown(m->c, err);
	if (m->c->n_tensors == 0)
		return st_fail(err, ST_ERR_UNSUPPORTED, "holds no tensors: a vocabulary alone is no model to run");
	return st_model_bind_described(m, err);
}

/* Whether the file says of which family it is. */
static bool names_family(const struct st_container *c)
{
	return c->n_tensors > 0
	    && (c->format == ST_FORMAT_GGUF || c->format == ST_FORMAT_APR || json_is_object(c->docs.config));
}

static enum st_status open_model(const char *path, const char *family, bool any, enum st_open_how how,
                                 struct st_pool *pool, struct st_model **out, struct st_error *err)
{
	struct st_model *m = st_alloc_zeroed(1, sizeof *m);
	if (!m)
		return st_fail(err, ST_ERR_NOMEM, "no memory for a model");
	st_arena_init(&m->arena);
	st_error_clear(&m->problem);
	enum st_status st = ST_OK;
	if (family) {
		st = st_described_page(family, &m->arena, &m->page, err);
		st_error_in(err, family);
	}
	ST_TRY_OUT(st);
	ST_TRY_OUT(st_container_open_by(path, pool, &m->c, err));
	const char *stranger = st_stranger(m->c);
	if (stranger)
		ST_TRY_OUT(st_fail(err, ST_ERR_UNSUPPORTED, "is %s", stranger));
	const char *packed, *method = st_packing(m->c, &packed);
	if (method)
		ST_TRY_OUT(st_fail_at(err, ST_ERR_UNSUPPORTED, ST_NO_OFFSET, packed,
		                      "weights are packed by %s, which Stele does not decode: unpack the model first "
		                      "(dequantise and save it)",
		                      method));
	struct st_error why = ST_ERROR_INIT;
	st = bind_family(m, any ? &why : err);
	m->could_run = st == ST_OK && how == ST_OPEN_NAMES;
	if (m->could_run)
		(void)st_fail(&why, ST_ERR_UNSUPPORTED, "is compared with a file of a family that Stele cannot run");
	if (any && why.code == ST_ERR_UNSUPPORTED && names_family(m->c)) {
		m->problem = why;
		st = st_model_bind_by_name(m, err);
	} else if (st != ST_OK && any) {
		*err = why;
	}
	ST_TRY_OUT(st);
	st_error_in(&m->problem, path);
out:
	if (st != ST_OK) {
		st_error_in(err, path);
		st_model_close(m);
		return st;
	}
	*out = m;
	return ST_OK;
}

enum st_status st_model_open_partial(const char *path, struct st_model **out, struct st_error *err)
{
	return open_model(path, NULL, false, ST_OPEN_FAMILY, NULL, out, err);
}

enum st_status st_model_open_any(const char *path, const char *family, enum st_open_how how, struct st_pool *pool,
                                 struct st_model **out, struct st_error *err)
{
	return open_model(path, family, true, how, pool, out, err);
}

enum st_status st_model_check(const struct st_model *m, struct st_error *err)
{
	if (m->problem.code != ST_OK && err->code == ST_OK)
		*err = m->problem;
	return m->problem.code;
}

enum st_status st_model_open(const char *path, struct st_model **out, struct st_error *err)
{
	return st_model_open_as(path, NULL, out, err);
}

enum st_status st_model_open_as(const char *path, const char *family, struct st_model **out, struct st_error *err)
{
	struct st_model *m;
	*out = NULL;
	ST_TRY(open_model(path, family, false, ST_OPEN_FAMILY, NULL, &m, err));
	enum st_status st = st_model_check(m, err);
	if (st == ST_OK)
		*out = m;
	else
		st_model_close(m);
	return st;
}

void st_model_close(struct st_model *m)
{
	if (!m)
		return;
	st_described_close(m->described);
	st_family_close(m->page);
	st_container_close(m->c);
	st_arena_release(&m->arena);
	free(m);
}

struct st_tensor st_tensor_first_rows(const struct st_tensor *t, uint64_t rows)
{
	struct st_tensor first = *t;
	first.shape[0] = rows;
	first.n_elems = rows * st_tensor_cols(t);
	first.n_bytes = rows * t->row_bytes;
	return first;
}

bool st_model_limit_vocab(struct st_model *m, uint32_t vocab)
{
	static const enum st_role roles[] = { ST_ROLE_EMBED, ST_ROLE_HEAD };
	struct st_weight *w[2];
	if (!st_model_graph(m) || vocab > m->cfg.vocab)
		return false;
	if (vocab == m->cfg.vocab)
		return true; /* nothing to cut off, however rows are stored */
	for (int i = 0; i < 2; i++) {
		w[i] = (struct st_weight *)(uintptr_t)st_model_role(m, roles[i], 0);
		if (w[i] && w[i]->tensor && (w[i]->tensor->layout != ST_LAYOUT_ROWS || w[i]->group_rows))
			return false;
	}
	struct st_tensor *view = st_arena_alloc(&m->arena, 2, sizeof *view);
	if (!view)
		return false;
	for (int i = 0; i < 2; i++) {
		if (!w[i] || !w[i]->tensor)
			continue;
		view[i] = st_tensor_first_rows(w[i]->tensor, vocab);
		w[i]->tensor = &view[i];
	}
	m->cfg.vocab = m->graph.vocab = vocab;
	for (uint32_t i = 0; i < m->graph.n_nodes; i++)
		if (m->graph.nodes[i].stage == ST_STAGE_LM_HEAD)
			m->graph.nodes[i].width = vocab;
	return true;
}

const struct st_config *st_model_config(const struct st_model *m) { return &m->cfg; }
const struct st_container *st_model_container(const struct st_model *m) { return m->c; }
const struct st_graph *st_model_graph(const struct st_model *m) { return m->graph.n_nodes ? &m->graph : NULL; }

const struct st_weight *st_model_role(const struct st_model *m, enum st_role role, uint32_t layer)
{
	if (role >= ST_ROLE_COUNT)
		return NULL;
	if (m->described)
		return st_described_place(m, st_role_name(role), (int32_t)layer, -1);
	for (size_t i = 0; i < m->n_weights; i++)
		if (m->weights[i].role == role && (!st_role_per_layer(role) || m->weights[i].layer == (int32_t)layer))
			return &m->weights[i];
	return NULL;
}

const struct st_weight *st_model_weight(const struct st_model *m, const char *name, uint32_t layer)
{
	if (m->described)
		return st_described_place(m, name, (int32_t)layer, -1);
	enum st_role role = st_role_called(name);
	return role < ST_ROLE_COUNT && strcmp(st_role_name(role), name) == 0 ? st_model_role(m, role, layer) : NULL;
}

const struct st_weight *st_model_called(const struct st_model *m, const char *name)
{
	for (size_t i = 0; i < m->n_bound; i++)
		if (strcmp(m->bound[i]->canonical, name) == 0)
			return m->bound[i];
	for (size_t i = 0; i < m->n_bound; i++)
		if (strcmp(m->bound[i]->tensor->name, name) == 0
		    && st_weight_rows(m->bound[i]) == st_tensor_rows(m->bound[i]->tensor))
			return m->bound[i];
	return NULL;
}

size_t st_model_n_keys(const struct st_model *m) { return m ? ST_CONFIG_MEMBERS : 0; }

void st_model_key_at(const struct st_model *m, size_t i, struct st_model_key *out)
{
	out->name = st_config_member_name((enum st_config_member)i);
	st_config_show(&m->cfg, (enum st_config_member)i, out->value, sizeof out->value);
	out->from = m->cfg.origin[i];
}

const struct st_weight *st_model_place(const struct st_model *m, const struct st_weight *slot)
{
	return m->described ? st_described_place(m, slot->name, slot->layer, slot->expert)
	                    : st_model_role(m, slot->role, slot->layer < 0 ? 0 : (uint32_t)slot->layer);
}

const struct st_weight *st_model_weight_beside(const struct st_model *m, const struct st_weight *slot,
                                               enum st_role role)
{
	if (!m->described || slot->expert < 0)
		return st_model_role(m, role, slot->layer < 0 ? 0 : (uint32_t)slot->layer);
	char stack[24];
	snprintf(stack, sizeof stack, "%ss", st_role_name(role));
	const struct st_weight *w = st_described_place(m, stack, slot->layer, slot->expert);
	return w ? w : st_described_place(m, st_role_name(role), slot->layer, slot->expert);
}

bool st_model_knows_family(const struct st_model *m)
{
	return m->page != NULL;
}

const struct st_described *st_model_described(const struct st_model *m) { return m->described; }

bool st_model_is_by_name(const struct st_model *m) { return m->by_name; }
bool st_model_could_run(const struct st_model *m) { return !m->by_name || m->could_run; }
bool st_model_has_gguf_names(const struct st_model *m) { return m->gguf_names; }
size_t st_model_n_unread(const struct st_model *m) { return m->n_unread; }
const char *st_model_unread_at(const struct st_model *m, size_t i) { return m->unread[i]; }
size_t st_model_n_weights(const struct st_model *m) { return m->n_bound; }
const struct st_weight *st_model_weight_at(const struct st_model *m, size_t i) { return m->bound[i]; }
size_t st_model_n_unused(const struct st_model *m) { return m->n_unused; }
const struct st_tensor *st_model_unused_at(const struct st_model *m, size_t i) { return m->unused[i]; }
