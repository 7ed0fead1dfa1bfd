/* jobs.c - which tensors the output has. */
#include "convert/convert.h"
#include "convert/fields.h"
#include "graph/basis.h"

#include <stdlib.h>
#include <string.h>

enum st_status st_add_job(struct st_plan *plan, struct st_job **out, struct st_error *err)
{
	if (!st_grow((void **)&plan->jobs, &plan->cap, plan->n + 1, sizeof *plan->jobs))
		return st_no_memory(err);
	*out = &plan->jobs[plan->n++];
	**out = (struct st_job){ .gain = 1, .role = ST_ROLE_COUNT };
	return ST_OK;
}

/* ---- the plan ---- */

static bool same_bytes(const struct st_tensor *a, const struct st_tensor *b)
{
	return a->dtype == b->dtype && a->layout == b->layout && a->layout != ST_LAYOUT_STRIDED
	    && a->layout != ST_LAYOUT_APART && a->n_bytes == b->n_bytes && a->scale == b->scale
	    && memcmp(a->data, b->data, (size_t)a->n_bytes) == 0;
}

static const char *output_name(struct st_conversion *v, enum st_role role, uint32_t layer, const struct st_tensor *src)
{
	char name[128];
	if (v->src.format == v->dst.format && v->dst.format != ST_FORMAT_APR && src)
		return src->name;
	if (v->dst.format == ST_FORMAT_GGUF ? !st_role_gguf_name(role, layer, name, sizeof name)
	                                    : !st_role_hf_name(role, layer, name, sizeof name))
		return NULL;
	return st_arena_strndup(&v->arena, name, strlen(name));
}

/* A job for a weight of the graph that takes it from `w`. */
static enum st_status weight_job(struct st_conversion *v, enum st_role role, uint32_t layer, const struct st_weight *w,
                                 struct st_error *err)
{
	struct st_job *j;
	ST_TRY(st_add_job(&v->plan, &j, err));
	j->role = role;
	j->layer = layer;
	j->src[0] = w->tensor;
	j->spec.ndim = st_role_shape(&v->dst.cfg, role, j->spec.shape);
	j->spec.name = output_name(v, role, layer, role == w->role ? w->tensor : NULL);
	if (!j->spec.name)
		return st_no_memory(err);
	const struct st_weight *from[2] = { w, NULL };
	ST_TRY(st_job_map(&v->dst, &v->arena, j, from, NULL, err));
	return st_job_settle(&v->dst, j, st_wanted_type(&v->dst, j, w->tensor->dtype), err);
}

/* llama3's scaling as GGUF spells it: a divisor for each pair of rotated dimensions. */
static enum st_status rope_freqs_job(struct st_conversion *v, struct st_error *err)
{
	uint32_t pairs = v->dst.cfg.head_dim / 2;
	float *by = st_arena_alloc(&v->arena, pairs, sizeof *by);
	struct st_job *j;
	if (!by)
		return st_no_memory(err);
	st_config_rope_divisors(&v->dst.cfg, by);
	ST_TRY(st_add_job(&v->plan, &j, err));
	*j = (struct st_job){ .kind = ST_JOB_VALUES, .values = by, .role = ST_ROLE_ROPE_FREQS, .gain = 1 };
	j->spec = (struct st_tensor_spec){
		.name = "rope_freqs.weight", .dtype = ST_DTYPE_F32, .ndim = 1, .shape = { pairs }
	};
	return ST_OK;
}

/* A tensor of divisors where the target has no place for one: its effect must be in the configuration. */
static enum st_status leave_rope_freqs(struct st_conversion *v, const struct st_tensor *t, struct st_error *err)
{
	if (v->dst.cfg.rope_scaling == ST_ROPE_SCALING_LLAMA3)
		return ST_OK;
	float row[ST_MAX_HEAD_DIM / 2];
	uint64_t n = st_tensor_cols(t);
	st_tensor_decode(t, 0, 1, row);
	for (uint64_t i = 0; i < n; i++)
		if (row[i] != 1)
			return st_fail_at(err, ST_ERR_UNSUPPORTED, t->offset, t->name,
			                  "its divisors are no scaling that %s can spell",
			                  st_format_name(v->dst.format));
	return ST_OK;
}

/* APR keeps a tied head as a copy; the others leave it out. A copy that the configuration ties is one tensor again; in
 * GGUF a stored head says that it is not tied. */
bool st_head_is_copy(const struct st_conversion *v, const struct st_weight *head)
{
	const struct st_container *c = st_model_container(v->src.model);
	const struct st_weight *embed = st_model_role(v->src.model, ST_ROLE_EMBED, 0);
	bool tied = v->src.format == ST_FORMAT_APR
	                  ? !json_is_false(json_object_get(c->docs.metadata, "tied_embeddings"))
	                  : json_is_true(json_object_get(c->docs.config, "tie_word_embeddings"));
	return tied && embed->tensor && same_bytes(embed->tensor, head->tensor);
}

static bool becomes_tied(const struct st_conversion *v, const struct st_weight *head)
{
	return (v->src.format != v->dst.format || v->dst.format == ST_FORMAT_APR) && st_head_is_copy(v, head);
}

static enum st_status bound_jobs(struct st_conversion *v, const struct st_weight *w, struct st_error *err)
{
	if (w->role == ST_ROLE_ROPE_FREQS && v->dst.format != ST_FORMAT_GGUF)
		return leave_rope_freqs(v, w->tensor, err);
	if (w->role == ST_ROLE_HEAD && v->dst.format != ST_FORMAT_APR && becomes_tied(v, w)) {
		st_note(&v->log, "%s is a copy of the embedding: stored once, as a tied head", w->tensor->name);
		return ST_OK;
	}
	return weight_job(v, w->role, w->layer < 0 ? 0 : (uint32_t)w->layer, w, err);
}

/* Tensors that no weight is keep their names, where readers of the target pass them over. */
static enum st_status unused_job(struct st_conversion *v, const struct st_tensor *t, struct st_error *err)
{
	bool int_only = st_dtype_info(t->dtype)->kind == ST_KIND_INT && !st_format_has(v->dst.format, t->dtype);
	if ((v->dst.format == ST_FORMAT_GGUF && v->src.format != v->dst.format) || int_only) {
		st_note(&v->log, "dropped: %s [%s], %s", t->name, st_dtype_info(t->dtype)->name,
		        int_only ? "a type the target does not have"
		                 : "which no weight is; readers of GGUF refuse tensors that they do not know");
		return ST_OK;
	}
	struct st_job *j;
	ST_TRY(st_add_job(&v->plan, &j, err));
	j->src[0] = t;
	j->spec = (struct st_tensor_spec){ .name = t->name, .ndim = t->ndim };
	memcpy(j->spec.shape, t->shape, sizeof j->spec.shape);
	return st_job_settle(&v->dst, j, t->dtype, err);
}

/*
 * Of a family that is not known: what is a matrix that may be stored in fewer bits. As llama.cpp's quantiser has it, that
 * is a weight of two or more dimensions but for norms, routers, positions, token types and the small matrices of state
 * space models and of RWKV's mixing.
 */
bool st_may_be_quantised(const struct st_tensor *t)
{
	static const char *const kept[] = { "_norm.weight",
		                            "ffn_gate_inp",
		                            "position_embd.weight",
		                            "token_types.weight",
		                            "ssm_conv1d.weight",
		                            "shortconv.conv.weight",
		                            "time_mix_first.weight",
		                            "time_mix_w0.weight",
		                            "time_mix_w1.weight",
		                            "time_mix_w2.weight",
		                            "time_mix_v0.weight",
		                            "time_mix_v1.weight",
		                            "time_mix_v2.weight",
		                            "time_mix_a0.weight",
		                            "time_mix_a1.weight",
		                            "time_mix_a2.weight",
		                            "time_mix_g1.weight",
		                            "time_mix_g2.weight",
		                            "time_mix_decay_w1.weight",
		                            "time_mix_decay_w2.weight",
		                            "time_mix_lerp_fused.weight",
		                            "attn_rel_b.weight",
		                            "altup",
		                            "laurel",
		                            "per_layer_model_proj" };
	size_t n = strlen(t->name);
	if (t->ndim < 2 || n < 6 || strcmp(t->name + n - 6, "weight") != 0
	    || st_dtype_info(t->dtype)->kind == ST_KIND_INT)
		return false;
	for (size_t i = 0; i < sizeof kept / sizeof *kept; i++)
		if (strstr(t->name, kept[i]))
			return false;
	return true;
}

static enum st_status jobs_by_name(struct st_conversion *v, struct st_error *err)
{
	const struct st_container *c = st_model_container(v->src.model);
	v->dst.cfg.tied = !st_container_find(c, "output.weight");
	for (size_t i = 0; i < c->n_tensors; i++) {
		const struct st_tensor *t = &c->tensors[i];
		struct st_job *j;
		enum st_role role;
		ST_TRY(st_add_job(&v->plan, &j, err));
		j->src[0] = t;
		j->spec = (struct st_tensor_spec){ .name = t->name, .ndim = t->ndim };
		memcpy(j->spec.shape, t->shape, sizeof j->spec.shape);
		j->is_matrix = st_may_be_quantised(t);
		if (j->is_matrix && st_role_of_name(t->name, &role, &j->layer))
			j->role = role;
		ST_TRY(st_job_settle(&v->dst, j, st_wanted_type(&v->dst, j, t->dtype), err));
	}
	return ST_OK;
}

static int by_name(const void *a, const void *b)
{
	return strcmp(((const struct st_job *)a)->spec.name, ((const struct st_job *)b)->spec.name);
}

static int by_place(const void *a, const void *b)
{
	const struct st_job *x = a, *y = b;
	return (x->src[0] > y->src[0]) - (x->src[0] < y->src[0]); /* tensors of a container stand in file order */
}

void st_sort_jobs(struct st_plan *plan, enum st_format to)
{
	if (to == ST_FORMAT_APR)
		qsort(plan->jobs, plan->n, sizeof *plan->jobs, by_name);
}

/* Where a repair changes llama3's scaling or what it acts on, its divisors are others; divisors of another kind depend
 * on no key. */
static bool divisors_change(const struct st_conversion *v)
{
	bool llama3 = st_model_config(v->src.model)->rope_scaling == ST_ROPE_SCALING_LLAMA3;
	return st_config_edited(&v->dst, "rope_scaling") || (llama3 && st_config_edited(&v->dst, "rope_"));
}

enum st_status st_plan_jobs(struct st_conversion *v, struct st_error *err)
{
	if (v->by_name)
		return jobs_by_name(v, err);
	const struct st_model *m = v->src.model;
	const struct st_weight *own_head = st_model_role(m, ST_ROLE_HEAD, 0);
	bool freqs = false, head = false;
	/* First, since the type of the embedding may depend on it. */
	if (own_head && own_head->tensor && becomes_tied(v, own_head))
		v->dst.cfg.tied = true;
	for (size_t i = 0; i < st_model_n_weights(m); i++) {
		const struct st_weight *w = st_model_weight_at(m, i);
		if (w->role == ST_ROLE_ROPE_FREQS && divisors_change(v))
			continue; /* made anew below, if the scaling needs any */
		freqs |= w->role == ST_ROLE_ROPE_FREQS;
		head |= w->role == ST_ROLE_HEAD;
		ST_TRY(bound_jobs(v, w, err));
	}
	if (v->dst.format == ST_FORMAT_APR && v->dst.cfg.tied && !head) {
		const struct st_weight *embed = st_model_role(m, ST_ROLE_EMBED, 0);
		if (embed->tensor)
			ST_TRY(weight_job(v, ST_ROLE_HEAD, 0, embed, err));
	}
	if (v->dst.format == ST_FORMAT_GGUF && v->dst.cfg.rope_scaling == ST_ROPE_SCALING_LLAMA3 && !freqs)
		ST_TRY(rope_freqs_job(v, err));
	for (size_t i = 0; i < st_model_n_unused(m); i++)
		ST_TRY(unused_job(v, st_model_unused_at(m, i), err));
	st_sort_jobs(&v->plan, v->dst.format);
	if (v->src.format == v->dst.format && v->dst.format != ST_FORMAT_APR)
		qsort(v->plan.jobs, v->plan.n, sizeof *v->plan.jobs, by_place);
	return ST_OK;
}
