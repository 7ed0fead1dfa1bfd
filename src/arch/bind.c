/* bind.c - which tensor of the container is which weight, and whether it fits. */
#include "arch/config.h"
#include "arch/model_state.h"

#include "base/error.h"
#include "format/tensors.h"

#include <inttypes.h>
#include <string.h>

static enum st_status no_memory(struct st_error *err)
{
	return st_fail(err, ST_ERR_NOMEM, "no memory for the model's weights");
}

size_t st_model_slot(const struct st_model *m, enum st_role role, uint32_t layer)
{
	if (role == ST_ROLE_EMBED)
		return 0;
	if (role <= ST_ROLE_DOWN)
		return 1 + layer * ST_ROLES_PER_LAYER + (size_t)(role - ST_ROLE_ATTN_NORM);
	return 1 + m->cfg.n_layers * ST_ROLES_PER_LAYER + (size_t)(role - ST_ROLE_FINAL_NORM);
}

/* Whether Q and K rows are in adjacent-pair order. With GGUF names the family decides, as in GGUF
 * itself (the second APR writer only guesses rope_type); with Hugging Face names rows are
 * half-split unless the file says rope_type 0. */
static enum st_status rows_interleaved(const struct st_model *m, bool *out, struct st_error *err)
{
	*out = m->naming.gguf && m->arch->gguf_rope_interleaved;
	if (m->naming.gguf || m->c->format != ST_FORMAT_APR)
		return ST_OK;
	uint32_t type = 2;
	const struct st_json_field f = { ST_JSON_IN(type), .key = { "rope_type" } };
	ST_TRY(st_json_read_one(m->c->docs.metadata, NULL, &f, &type, NULL, err));
	if (type != 0 && type != 2)
		return st_fail_at(err, ST_ERR_UNSUPPORTED, ST_NO_OFFSET, "rope_type",
		                  "%u is unknown; known are 0 (adjacent pairs) and 2 (split halves)", type);
	*out = type == 0;
	return ST_OK;
}

/* ---- fit ---- */

static bool shape_is(const struct st_tensor *t, uint32_t ndim, const uint64_t *shape)
{
	/* Dimensions of 1 in front are labels only. */
	if (ndim == 1)
		return t->ndim >= 1 && t->n_elems == shape[0] && st_tensor_cols(t) == shape[0];
	if (t->ndim < 2 || st_tensor_cols(t) != shape[1] || st_tensor_rows(t) != shape[0])
		return false;
	return t->shape[t->ndim - 2] == shape[0];
}

/* The same bytes under the other label, where they hold as many rows of that length. */
static const struct st_tensor *turned(struct st_model *m, const struct st_tensor *t, const uint64_t shape[2])
{
	struct st_tensor *copy = &m->turned[t - m->c->tensors];
	*copy = *t;
	copy->shape[0] = shape[0];
	copy->shape[1] = shape[1];
	return t->layout == ST_LAYOUT_ROWS && shape[1] % st_dtype_info(t->dtype)->block_elems == 0
	                    && st_tensor_measure(copy) && copy->n_bytes == t->n_bytes
	             ? copy
	             : NULL;
}

static enum st_fit fit(struct st_model *m, struct st_weight *w)
{
	const struct st_tensor *t = w->tensor;
	uint64_t shape[2];
	uint32_t ndim = st_role_shape(&m->cfg, w->role, shape);
	if (st_dtype_info(t->dtype)->kind == ST_KIND_INT)
		return ST_FIT_TYPE;
	bool apr = m->c->format == ST_FORMAT_APR;
	if (shape_is(t, ndim, shape)) {
		/* A square label says nothing; it follows the file's others. */
		bool reversed = t->file_dims[0] != t->shape[0] || (shape[0] == shape[1] && m->c->apr.dims_reversed);
		return apr && ndim == 2 && reversed ? ST_FIT_REVERSED : ST_FIT_OK;
	}
	uint64_t other[2] = { shape[1], shape[0] };
	if (ndim == 1 || !shape_is(t, 2, other))
		return ST_FIT_SIZE;
	/* APR bytes are [out, in] whatever order the label has. */
	const struct st_tensor *copy = apr && t->ndim == 2 ? turned(m, t, shape) : NULL;
	if (!copy)
		return ST_FIT_TRANSPOSED;
	w->tensor = copy;
	return ST_FIT_REVERSED;
}

/* What is wrong with one place, in words. */
static void complain(const struct st_model *m, const struct st_weight *w, enum st_fit f, const char *name,
                     struct st_error *err)
{
	const struct st_tensor *t = w->tensor;
	uint64_t s[2];
	const char *keys[2];
	char found[128] = "";
	bool two = st_role_shape(&m->cfg, w->role, s) == 2;
	st_role_shape_names(w->role, m->naming.gguf, keys);
	if (f == ST_FIT_MISSING && t) {
		(void)st_fail_at(err, ST_ERR_FORMAT, t->offset, name,
		                 "is missing: the tensor has no elements, as in a checkpoint that was saved while its "
		                 "weights were spread over several machines");
		return;
	}
	if (f == ST_FIT_MISSING) {
		(void)st_fail_at(err, ST_ERR_FORMAT, ST_NO_OFFSET, name, "is missing%s",
		                 w->role == ST_ROLE_HEAD
		                         ? ", and the configuration says that the head is not the embedding"
		                         : "");
		return;
	}
	if (f == ST_FIT_TYPE) {
		(void)st_fail_at(err, ST_ERR_FORMAT, t->offset, name, "is stored as %s, which is no type for a weight",
		                 st_dtype_info(t->dtype)->name);
		return;
	}
	for (uint32_t i = 0, n = 0; i < t->ndim && n < sizeof found; i++)
		n += (uint32_t)snprintf(found + n, sizeof found - n, "%s%" PRIu64, i ? ", " : "", t->shape[i]);
	if (two)
		(void)st_fail_at(err, ST_ERR_FORMAT, t->offset, name,
		                 "is [%s], expected [%" PRIu64 ", %" PRIu64 "] = [%s, %s]%s", found, s[0], s[1],
		                 keys[0], keys[1], f == ST_FIT_TRANSPOSED ? ": transposed" : "");
	else
		(void)st_fail_at(err, ST_ERR_FORMAT, t->offset, name, "is [%s], expected [%" PRIu64 "] = [%s]", found,
		                 s[0], keys[0]);
}

/* ---- binding ---- */

static const enum st_stage first_stage[ST_ROLE_COUNT] = {
	[ST_ROLE_EMBED] = ST_STAGE_EMBEDDING,    [ST_ROLE_ATTN_NORM] = ST_STAGE_ATTN_NORM,
	[ST_ROLE_Q] = ST_STAGE_QKV_MATMUL,       [ST_ROLE_K] = ST_STAGE_QKV_MATMUL,
	[ST_ROLE_V] = ST_STAGE_QKV_MATMUL,       [ST_ROLE_Q_BIAS] = ST_STAGE_QKV_BIAS,
	[ST_ROLE_K_BIAS] = ST_STAGE_QKV_BIAS,    [ST_ROLE_V_BIAS] = ST_STAGE_QKV_BIAS,
	[ST_ROLE_Q_NORM] = ST_STAGE_Q_POST_NORM, [ST_ROLE_K_NORM] = ST_STAGE_K_POST_NORM,
	[ST_ROLE_O] = ST_STAGE_ATTN_OUT,         [ST_ROLE_FFN_NORM] = ST_STAGE_FFN_NORM,
	[ST_ROLE_GATE] = ST_STAGE_FFN_GATE,      [ST_ROLE_UP] = ST_STAGE_FFN_UP,
	[ST_ROLE_DOWN] = ST_STAGE_FFN_OUT,       [ST_ROLE_FINAL_NORM] = ST_STAGE_FINAL_NORM,
	[ST_ROLE_HEAD] = ST_STAGE_LM_HEAD,       [ST_ROLE_ROPE_FREQS] = ST_STAGE_Q_POST_ROPE,
};

enum need { NEED_NOT, NEED_MAYBE, NEED_MUST };

static enum need need(const struct st_model *m, enum st_role role)
{
	switch (role) {
	case ST_ROLE_Q_BIAS:
	case ST_ROLE_K_BIAS:
	case ST_ROLE_V_BIAS:
		return m->cfg.qkv_bias ? NEED_MUST : NEED_NOT;
	case ST_ROLE_Q_NORM:
	case ST_ROLE_K_NORM:
		return m->cfg.qk_norm ? NEED_MUST : NEED_NOT;
	case ST_ROLE_HEAD:
		return m->cfg.tied ? NEED_MAYBE : NEED_MUST;
	case ST_ROLE_ROPE_FREQS:
		return m->naming.gguf ? NEED_MAYBE : NEED_NOT;
	default:
		return NEED_MUST;
	}
}

/* Of two tied tensors some writers store the head and not the embedding. Where the configuration ties them, either is
 * both. */
static const struct st_tensor *tied_head(const struct st_model *m)
{
	return m->cfg.tie_said == ST_TIE_YES ? st_naming_tensor(m, ST_ROLE_HEAD, 0) : NULL;
}

static void bind_place(struct st_model *m, enum st_role role, uint32_t layer, bool interleaved)
{
	size_t i = st_model_slot(m, role, layer);
	struct st_weight *w = &m->weights[i];
	char name[256];
	w->role = role;
	w->name = st_role_name(role);
	w->kind = st_role_kind(role);
	w->expert = -1;
	w->layer = st_role_per_layer(role) ? (int32_t)layer : -1;
	w->stage = first_stage[role];
	bool query = role == ST_ROLE_Q || role == ST_ROLE_Q_BIAS, key = role == ST_ROLE_K || role == ST_ROLE_K_BIAS;
	bool value = role == ST_ROLE_V || role == ST_ROLE_V_BIAS;
	w->heads = query ? m->cfg.n_heads : key || value ? m->cfg.n_kv_heads : 1;
	w->interleaved = interleaved && (query || key);
	if (!st_role_hf_name(role, layer, w->canonical, sizeof w->canonical))
		(void)st_role_gguf_name(role, layer, w->canonical, sizeof w->canonical);
	enum need n = need(m, role);
	if (n == NEED_NOT || !st_naming_spell(m, role, layer, name, sizeof name))
		return;
	const struct st_tensor *t = st_naming_tensor(m, role, layer);
	if (!t && role == ST_ROLE_EMBED)
		t = tied_head(m);
	if (role == ST_ROLE_HEAD && t && t == m->weights[st_model_slot(m, ST_ROLE_EMBED, 0)].tensor)
		t = NULL; /* it stands for the embedding, which is the head */
	w->tensor = t;
	if (!t) {
		m->fit[i] = n == NEED_MUST ? ST_FIT_MISSING : ST_FIT_ABSENT;
	} else {
		m->place[t - m->c->tensors] = i;
		m->fit[i] = t->n_elems ? fit(m, w) : ST_FIT_MISSING;
	}
	if (m->fit[i] > ST_FIT_REVERSED)
		complain(m, w, m->fit[i], name, &m->problem);
	if (t && t->n_elems == 0)
		w->tensor = NULL;
}

/* Biases are a property of the file where the family leaves them open: one of them asks for all. */
static void find_biases(struct st_model *m)
{
	static const enum st_role biases[] = { ST_ROLE_Q_BIAS, ST_ROLE_K_BIAS, ST_ROLE_V_BIAS };
	for (uint32_t l = 0; l < m->cfg.n_layers; l++)
		for (size_t i = 0; i < 3; i++)
			if (st_naming_tensor(m, biases[i], l))
				m->cfg.qkv_bias = true;
}

/* ---- tensors that no place asks for ---- */

/* Parts of other families and of adapted or packed checkpoints. With such a tensor in the file, the
 * known arithmetic gives wrong numbers, so it is refused rather than left out. */
static const char *const foreign_layer[] = {
	"self_attn.o_proj.bias",
	"mlp.gate_proj.bias",
	"mlp.up_proj.bias",
	"mlp.down_proj.bias",
	"attn_output.bias",
	"ffn_gate.bias",
	"ffn_up.bias",
	"ffn_down.bias",
	"self_attn.q_norm.weight",
	"self_attn.k_norm.weight",
	"self_attn.q_layernorm.weight",
	"self_attn.k_layernorm.weight",
	"attn_q_norm.weight",
	"attn_k_norm.weight",
	"input_layernorm.bias",
	"post_attention_layernorm.bias",
	"attn_norm.bias",
	"ffn_norm.bias",
	"pre_feedforward_layernorm.weight",
	"post_feedforward_layernorm.weight",
	"post_attention_norm.weight",
	"post_ffw_norm.weight",
	"attn_sub_norm.weight",
	"ffn_sub_norm.weight",
	"attn_norm_2.weight",
	"self_attn.sinks",
	"attn_sinks.weight",
	"mlp.gate.weight",
	"block_sparse_moe.gate.weight",
	"ffn_gate_inp.weight",
};
static const char *const foreign_model[] = {
	"lm_head.bias",
	"output.bias",
	"norm.bias",
	"model.norm.bias",
	"output_norm.bias",
	"token_embd_norm.weight",
	"position_embd.weight",
	"rope_factors_long.weight",
	"rope_factors_short.weight",
};
static const char *const foreign_endings[] = {
	".weight_scale",  ".weight_scale_inv", ".input_scale", ".qweight",
	".lora_A.weight", ".lora_B.weight",    ".lora_a",      ".lora_b",
};

static bool ends(const char *s, const char *with)
{
	size_t n = strlen(s), k = strlen(with);
	return n >= k && strcmp(s + n - k, with) == 0;
}

static bool is_foreign(const char *name, const char *suffix)
{
	for (size_t i = 0; suffix && i < sizeof foreign_layer / sizeof *foreign_layer; i++)
		if (strcmp(suffix, foreign_layer[i]) == 0)
			return true;
	for (size_t i = 0; i < sizeof foreign_model / sizeof *foreign_model; i++)
		if (strcmp(name, foreign_model[i]) == 0)
			return true;
	for (size_t i = 0; i < sizeof foreign_endings / sizeof *foreign_endings; i++)
		if (ends(name, foreign_endings[i]))
			return true;
	return false;
}

static enum st_status sort_out_unused(struct st_model *m, struct st_error *err)
{
	m->unused = st_arena_alloc(&m->arena, m->c->n_tensors, sizeof *m->unused);
	if (!m->unused)
		return no_memory(err);
	for (size_t i = 0; i < m->c->n_tensors; i++) {
		if (m->place[i] != SIZE_MAX)
			continue;
		const struct st_tensor *t = &m->c->tensors[i];
		uint32_t layer = 0;
		enum st_role role;
		const char *own = st_naming_own(&m->naming, t), *suffix = st_layer_suffix(own, &layer);
		m->unused[m->n_unused++] = t;
		if (is_foreign(own, suffix))
			return st_fail_at(err, ST_ERR_UNSUPPORTED, t->offset, t->name,
			                  "has no place in the family %s as Stele knows it", m->arch->name);
		/* A count too small is a problem of the model, like a weight that is missing: beside another file it
		 * can be named. */
		if (suffix && layer >= m->cfg.n_layers && st_role_of_name(own, &role, &layer)
		    && m->problem.code == ST_OK)
			(void)st_fail_at(&m->problem, ST_ERR_FORMAT, t->offset, t->name, "is layer %u, but %s is %u",
			                 layer, m->naming.gguf ? "block_count" : "the number of layers",
			                 m->cfg.n_layers);
	}
	return ST_OK;
}

/* How many weights are missing although their names are there, behind the container's description. */
static enum st_status say_empty(struct st_model *m, struct st_error *err)
{
	size_t n = 0;
	for (size_t i = 0; i < m->c->n_tensors; i++)
		n += m->place[i] != SIZE_MAX && m->c->tensors[i].n_elems == 0;
	if (n == 0)
		return ST_OK;
	char *said = st_arena_printf(&m->c->arena, "%s, %zu empty tensor%s", m->c->describe, n, n > 1 ? "s" : "");
	if (!said)
		return no_memory(err);
	m->c->describe = said;
	return ST_OK;
}

enum st_status st_model_bind(struct st_model *m, struct st_error *err)
{
	const struct st_container *c = m->c;
	bool interleaved;
	ST_TRY(st_naming_find(&m->naming, m->c, NULL, &m->arena, err));
	ST_TRY(st_naming_say(&m->naming, m->c, err));
	ST_TRY(rows_interleaved(m, &interleaved, err));
	if (c->n_tensors == 0)
		return st_fail(err, ST_ERR_UNSUPPORTED, "holds no tensors: a vocabulary alone is no model to run");
	/* Every layer has tensors: a count beyond theirs is false, and must not size anything. */
	if (m->cfg.n_layers > c->n_tensors)
		return st_fail_at(err, ST_ERR_FORMAT, ST_NO_OFFSET, m->naming.gguf ? "block_count" : "number of layers",
		                  "%u, but the file holds %zu tensors in all", m->cfg.n_layers, c->n_tensors);
	find_biases(m);
	m->n_weights = 1 + m->cfg.n_layers * ST_ROLES_PER_LAYER + (ST_ROLE_COUNT - ST_ROLE_FINAL_NORM);
	m->weights = st_arena_alloc(&m->arena, m->n_weights, sizeof *m->weights);
	m->fit = st_arena_alloc(&m->arena, m->n_weights, sizeof *m->fit);
	m->bound = st_arena_alloc(&m->arena, m->n_weights, sizeof *m->bound);
	m->place = st_arena_alloc(&m->arena, c->n_tensors, sizeof *m->place);
	m->turned = st_arena_alloc(&m->arena, c->format == ST_FORMAT_APR ? c->n_tensors : 0, sizeof *m->turned);
	if (!m->weights || !m->fit || !m->bound || !m->place || !m->turned)
		return no_memory(err);
	for (size_t i = 0; i < c->n_tensors; i++)
		m->place[i] = SIZE_MAX;
	bind_place(m, ST_ROLE_EMBED, 0, interleaved);
	for (uint32_t l = 0; l < m->cfg.n_layers; l++)
		for (int r = ST_ROLE_ATTN_NORM; r <= ST_ROLE_DOWN; r++)
			bind_place(m, (enum st_role)r, l, interleaved);
	for (int r = ST_ROLE_FINAL_NORM; r < ST_ROLE_COUNT; r++)
		bind_place(m, (enum st_role)r, 0, interleaved);
	for (size_t i = 0; i < m->n_weights; i++)
		if (m->weights[i].tensor)
			m->bound[m->n_bound++] = &m->weights[i];
	ST_TRY(say_empty(m, err));
	const struct st_tensor *embedding = m->weights[st_model_slot(m, ST_ROLE_EMBED, 0)].tensor;
	if (embedding && embedding == tied_head(m)) {
		char *said = st_arena_printf(&m->c->arena, "%s, embedding read from %s, to which it is tied",
		                             m->c->describe, embedding->name);
		if (!said)
			return no_memory(err);
		m->c->describe = said;
	}
	/* A copy of the embedding stored as a head is used as the head. */
	m->cfg.tied = m->cfg.tied && !m->weights[st_model_slot(m, ST_ROLE_HEAD, 0)].tensor;
	return sort_out_unused(m, err);
}
