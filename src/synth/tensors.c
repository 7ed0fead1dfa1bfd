/* tensors.c - which tensors a file holds, what they are called there, and how each is stored. */
#include "synth/synth.h"

#include "format/apr.h"
#include "synth/numbers.h"

#include <stdlib.h>
#include <string.h>

bool st_synth_has_type(enum st_synth_target target, enum st_dtype t)
{
	if (target == ST_SYNTH_GGUF)
		return st_gguf_type_of(t) >= 0;
	if (target != ST_SYNTH_APR)
		return st_safetensors_name_of(t) != NULL;
	for (size_t i = 0; i < st_apr_n_codes; i++)
		if (st_apr_codes[i].dtype == t)
			return true;
	return false;
}

void (*st_synth_encoder(enum st_dtype t))(const float *, void *, size_t)
{
	return t == ST_DTYPE_Q4_K ? st_synth_encode_q4_k
	     : t == ST_DTYPE_Q6_K ? st_synth_encode_q6_k
	                          : st_dtype_info(t)->encode;
}

/* Q4_K_M as llama.cpp mixes it: six bits for the head, and for V and down of the first and last eighth of the layers
 * and of every third one between. */
static bool more_bits(const struct st_config *cfg, enum st_role role, uint32_t layer)
{
	uint32_t n = cfg->n_layers, eighth = n / 8;
	if (role == ST_ROLE_HEAD)
		return true;
	return (role == ST_ROLE_V || role == ST_ROLE_DOWN)
	    && (layer < eighth || layer >= 7 * n / 8 || (layer - eighth) % 3 == 2);
}

static enum st_dtype stored_as(const struct st_synth *s, struct st_synth_tensor *t)
{
	/* Vectors are small and sensitive: F32, but for folders in half precision, where they are as the rest. */
	bool folder = s->target == ST_SYNTH_HF || s->target == ST_SYNTH_SAFETENSORS;
	if (t->ndim == 1 || t->plain)
		return folder ? s->type : ST_DTYPE_F32;
	enum st_dtype want = s->mixed && more_bits(&s->cfg, t->role, t->layer) ? ST_DTYPE_Q6_K : s->type;
	if (t->cols % st_dtype_info(want)->block_elems == 0)
		return want;
	t->fallback = true;
	return t->cols % st_dtype_info(ST_DTYPE_Q8_0)->block_elems == 0 ? ST_DTYPE_Q8_0 : ST_DTYPE_F16;
}

/* Whether this model, in this container, has the tensor. */
static bool has(const struct st_synth *s, enum st_role role)
{
	switch (role) {
	case ST_ROLE_Q_BIAS:
	case ST_ROLE_K_BIAS:
	case ST_ROLE_V_BIAS:
		return s->cfg.qkv_bias;
	case ST_ROLE_Q_NORM:
	case ST_ROLE_K_NORM:
		return s->cfg.qk_norm;
	case ST_ROLE_HEAD:
		return !s->cfg.tied || s->target == ST_SYNTH_APR; /* writer A stores a tied head as a copy */
	case ST_ROLE_ROPE_FREQS:
		return s->target == ST_SYNTH_GGUF && s->cfg.rope_scaling == ST_ROPE_SCALING_LLAMA3;
	default:
		return true;
	}
}

static enum st_status add(struct st_synth *s, enum st_role role, uint32_t layer, struct st_error *err)
{
	if (!has(s, role))
		return ST_OK;
	struct st_synth_tensor *t = &s->tensors[s->n_tensors++];
	bool gguf = s->target == ST_SYNTH_GGUF;
	char name[96];
	uint64_t shape[2];
	if (!(gguf ? st_role_gguf_name : st_role_hf_name)(role, layer, name, sizeof name)
	    || !(t->name = st_arena_strndup(&s->arena, name, strlen(name))))
		return st_fail(err, ST_ERR_NOMEM, "out of memory");
	if (!st_role_hf_name(role, layer, t->canonical, sizeof t->canonical))
		snprintf(t->canonical, sizeof t->canonical, "%s", name);
	t->role = role;
	t->layer = layer;
	t->ndim = st_role_shape(&s->cfg, role, shape);
	t->rows = t->ndim == 1 ? 1 : shape[0];
	t->cols = t->ndim == 1 ? shape[0] : shape[1];
	t->dtype = t->label = stored_as(s, t);
	bool query = role == ST_ROLE_Q || role == ST_ROLE_Q_BIAS, key = role == ST_ROLE_K || role == ST_ROLE_K_BIAS;
	if (gguf && st_arch_find(s->cfg.arch, strlen(s->cfg.arch))->gguf_rope_interleaved)
		t->pairs = query ? s->cfg.n_heads : key ? s->cfg.n_kv_heads : 0;
	t->from = role == ST_ROLE_HEAD && s->cfg.tied ? ST_ROLE_EMBED : role;
	t->from_layer = layer;
	t->row = st_synth_row;
	return ST_OK;
}

/* The tensors of a page's model, as they were laid out. */
static enum st_status list_images(struct st_synth *s, struct st_error *err)
{
	const struct st_synth_page *p = s->page;
	s->tensors = st_arena_alloc(&s->arena, p->file.n, sizeof *s->tensors);
	if (!s->tensors)
		return st_fail(err, ST_ERR_NOMEM, "out of memory");
	for (size_t i = 0; i < p->file.n; i++) {
		const struct st_synth_image *x = &p->file.images[i];
		struct st_synth_tensor *t = &s->tensors[s->n_tensors++];
		t->name = x->name;
		snprintf(t->canonical, sizeof t->canonical, "%s", x->name);
		t->role = t->from = x->weight ? st_role_called(x->weight) : ST_ROLE_COUNT;
		t->layer = t->from_layer = x->layer < 0 ? 0 : (uint32_t)x->layer;
		t->ndim = x->rank;
		t->cols = x->dims[x->rank - 1];
		t->stack = x->rank == 3 ? x->dims[0] : 0;
		t->rows = x->rank == 1 ? 1 : x->rank == 3 ? x->dims[0] * x->dims[1] : x->dims[0];
		t->plain = !x->matrix;
		t->dtype = t->label = stored_as(s, t);
		t->image = x->data;
		t->made = x;
		t->row = st_synth_row;
	}
	return ST_OK;
}

static int by_name(const void *a, const void *b)
{
	return strcmp(((const struct st_synth_tensor *)a)->name, ((const struct st_synth_tensor *)b)->name);
}

static enum st_status order(struct st_synth *s, struct st_error *err)
{
	if (s->target != ST_SYNTH_GGUF) /* APR wants it; in folders it is as good an order as any */
		qsort(s->tensors, s->n_tensors, sizeof *s->tensors, by_name);
	for (size_t i = 0; i < s->n_tensors; i++)
		if (!st_synth_has_type(s->target, s->tensors[i].dtype))
			return st_fail_at(err, ST_ERR_UNSUPPORTED, ST_NO_OFFSET, "--type", "%s holds no %s (%s)",
			                  s->target == ST_SYNTH_APR    ? "APR"
			                  : s->target == ST_SYNTH_GGUF ? "GGUF"
			                                               : "safetensors",
			                  st_dtype_info(s->tensors[i].dtype)->name, s->tensors[i].canonical);
	return ST_OK;
}

enum st_status st_synth_list(struct st_synth *s, struct st_error *err)
{
	if (s->page) {
		ST_TRY(list_images(s, err));
		return order(s, err);
	}
	uint64_t most = ST_ROLE_COUNT + (uint64_t)s->cfg.n_layers * (ST_ROLE_DOWN - ST_ROLE_ATTN_NORM + 1);
	s->tensors = st_arena_alloc(&s->arena, most, sizeof *s->tensors);
	if (!s->tensors)
		return st_fail(err, ST_ERR_NOMEM, "out of memory");
	ST_TRY(add(s, ST_ROLE_EMBED, 0, err));
	for (uint32_t l = 0; l < s->cfg.n_layers; l++)
		for (int r = ST_ROLE_ATTN_NORM; r <= ST_ROLE_DOWN; r++)
			ST_TRY(add(s, (enum st_role)r, l, err));
	for (int r = ST_ROLE_FINAL_NORM; r < ST_ROLE_COUNT; r++)
		ST_TRY(add(s, (enum st_role)r, 0, err));
	return order(s, err);
}
