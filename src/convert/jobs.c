/* jobs.c - which tensors the output has, in which type, and from which stored rows. */
#include "convert/convert.h"

#include "format/apr.h"

#include <stdlib.h>
#include <string.h>

bool st_format_has(enum st_format f, enum st_dtype t)
{
	if (f == ST_FORMAT_GGUF)
		return st_gguf_type_of(t) >= 0;
	if (f == ST_FORMAT_SAFETENSORS)
		return st_safetensors_name_of(t) != NULL;
	for (size_t i = 0; i < st_apr_n_codes; i++)
		if (st_apr_codes[i].dtype == t)
			return true;
	return false;
}

enum st_status st_add_job(struct st_conversion *v, struct st_job **out, struct st_error *err)
{
	if (!st_grow((void **)&v->jobs, &v->jobs_cap, v->n_jobs + 1, sizeof *v->jobs))
		return st_no_memory(err);
	*out = &v->jobs[v->n_jobs++];
	**out = (struct st_job){ .gain = 1, .role = ST_ROLE_COUNT };
	return ST_OK;
}

/* ---- stored types ---- */

/* Where rows do not divide into the blocks of a type: the type of 32 elements that comes nearest, then F16. */
static enum st_dtype smaller_block(enum st_dtype t)
{
	switch (t) {
	case ST_DTYPE_Q2_K:
	case ST_DTYPE_Q3_K:
	case ST_DTYPE_IQ4_XS:
		return ST_DTYPE_Q4_0;
	case ST_DTYPE_Q4_K:
		return ST_DTYPE_Q5_0;
	case ST_DTYPE_Q5_K:
		return ST_DTYPE_Q5_1;
	case ST_DTYPE_Q6_K:
	case ST_DTYPE_Q8_K:
		return ST_DTYPE_Q8_0;
	default:
		return ST_DTYPE_F16;
	}
}

/* The plain type that holds every value of t. */
static enum st_dtype exact_type(enum st_dtype t)
{
	switch (t) {
	case ST_DTYPE_F16:
	case ST_DTYPE_F8_E4M3:
	case ST_DTYPE_F8_E5M2:
		return ST_DTYPE_F16;
	case ST_DTYPE_BF16:
		return ST_DTYPE_BF16;
	default:
		return ST_DTYPE_F32;
	}
}

static bool rows_fit(enum st_dtype t, const struct st_tensor_spec *s)
{
	uint64_t bytes;
	return st_stored_bytes(t, s->ndim, s->shape, &bytes);
}

/* Rows lie one behind the other in whole blocks, as a writer puts them. */
static bool in_rows(const struct st_tensor *t)
{
	const struct st_dtype_info *info = st_dtype_info(t->dtype);
	uint64_t cols = st_tensor_cols(t);
	return t->layout == ST_LAYOUT_ROWS && cols % info->block_elems == 0
	    && t->row_bytes == cols / info->block_elems * info->block_bytes;
}

static bool copyable(const struct st_job *j, enum st_dtype want)
{
	const struct st_tensor *x = j->src[0], *y = j->src[1];
	const struct st_dtype_info *info = st_dtype_info(want);
	if (j->kind == ST_JOB_TRANSPOSE || j->kind == ST_JOB_VALUES || x->dtype != want || j->offset != 0
	    || !rows_fit(want, &j->spec))
		return false;
	if (j->gain != 1 && !st_type_has_scales(want))
		return false;
	/* APR's nibbles run over the rows' ends in the target too. */
	if (x->layout == ST_LAYOUT_FLAT)
		return want == ST_DTYPE_APR_Q4 && !j->map && !y && j->gain == 1 && j->order == ST_CODES_OWN;
	bool vector = j->spec.ndim < 2;
	return in_rows(x) && st_tensor_cols(x) == st_spec_cols(&j->spec)
	    && (!vector || !j->map || info->block_elems == 1)
	    && (!y
	        || (y->dtype == want && in_rows(y) && st_tensor_cols(y) == st_tensor_cols(x) && y->scale == x->scale));
}

enum st_status st_job_settle(struct st_conversion *v, struct st_job *j, enum st_dtype want, struct st_error *err)
{
	enum st_dtype t = want;
	bool can_copy = copyable(j, t) && st_format_has(v->to, t);
	if (can_copy) {
		j->kind = ST_JOB_COPY;
		j->spec.dtype = t;
		return ST_OK;
	}
	if (j->src[0] && st_dtype_info(j->src[0]->dtype)->kind == ST_KIND_INT)
		return st_fail_at(err, ST_ERR_UNSUPPORTED, ST_NO_OFFSET, j->spec.name, "%s has no type for %s",
		                  st_format_name(v->to), st_dtype_info(j->src[0]->dtype)->name);
	/* What is not asked to change holds its values exactly; changed blocks go into the nearest type that can be
	 * written. */
	bool same_numbers = j->kind != ST_JOB_TRANSPOSE && j->gain == 1 && j->offset == 0 && j->src[0]
	                 && t == j->src[0]->dtype;
	bool plain = st_dtype_info(t)->kind != ST_KIND_QUANT;
	if (!st_format_has(v->to, t) || (!st_dtype_info(t)->encode && (same_numbers || plain))
	    || (same_numbers && !rows_fit(t, &j->spec)))
		t = exact_type(t);
	while (!rows_fit(t, &j->spec) || !st_dtype_info(t)->encode || !st_format_has(v->to, t))
		t = smaller_block(t);
	if (j->kind != ST_JOB_TRANSPOSE && j->kind != ST_JOB_VALUES)
		j->kind = copyable(j, t) ? ST_JOB_COPY : ST_JOB_ENCODE;
	j->spec.dtype = t;
	return ST_OK;
}

/* ---- order of rows ---- */

bool st_output_interleaved(const struct st_conversion *v, enum st_role role)
{
	bool q = role == ST_ROLE_Q || role == ST_ROLE_Q_BIAS, k = role == ST_ROLE_K || role == ST_ROLE_K_BIAS;
	return (q || k) && v->to == ST_FORMAT_GGUF && v->arch->gguf_rope_interleaved;
}

enum st_status st_job_map(struct st_conversion *v, struct st_job *j, const struct st_weight *const w[2],
                          const uint64_t *graph, struct st_error *err)
{
	bool out_pairs = st_output_interleaved(v, j->role);
	j->map = NULL;
	if (!graph && !w[1] && w[0]->interleaved == out_pairs)
		return ST_OK;
	bool vector = j->spec.ndim < 2;
	uint64_t n = vector ? st_spec_cols(&j->spec) : st_spec_rows(&j->spec), d = v->cfg.head_dim;
	uint64_t *map = st_arena_alloc(&v->arena, n, sizeof *map);
	if (!map)
		return st_no_memory(err);
	for (uint64_t r = 0; r < n; r++) {
		uint64_t g = out_pairs ? st_row_in_halves(r, d) : r; /* row of the graph's basis that output row r is */
		uint64_t s = graph ? graph[g] : g;                   /* the source's row, in the same basis */
		uint64_t first = w[1] && s >= n ? n : 0;
		const struct st_weight *from = first ? w[1] : w[0];
		s -= first;
		map[r] = first + (from->interleaved ? st_row_in_pairs(s, d) : s);
	}
	j->map = map;
	return ST_OK;
}

/* ---- the plan ---- */

static bool same_bytes(const struct st_tensor *a, const struct st_tensor *b)
{
	return a->dtype == b->dtype && a->layout == b->layout && a->layout != ST_LAYOUT_STRIDED
	    && a->n_bytes == b->n_bytes && a->scale == b->scale && memcmp(a->data, b->data, (size_t)a->n_bytes) == 0;
}

static const char *output_name(struct st_conversion *v, enum st_role role, uint32_t layer, const struct st_tensor *src)
{
	char name[128];
	if (v->from == v->to && v->to != ST_FORMAT_APR && src)
		return src->name;
	if (v->to == ST_FORMAT_GGUF ? !st_role_gguf_name(role, layer, name, sizeof name)
	                            : !st_role_hf_name(role, layer, name, sizeof name))
		return NULL;
	return st_arena_strndup(&v->arena, name, strlen(name));
}

/* A job for a weight of the graph that takes it from `w`. */
static enum st_status weight_job(struct st_conversion *v, enum st_role role, uint32_t layer, const struct st_weight *w,
                                 struct st_error *err)
{
	struct st_job *j;
	ST_TRY(st_add_job(v, &j, err));
	j->role = role;
	j->layer = layer;
	j->src[0] = w->tensor;
	j->spec.ndim = st_role_shape(&v->cfg, role, j->spec.shape);
	j->spec.name = output_name(v, role, layer, role == w->role ? w->tensor : NULL);
	if (!j->spec.name)
		return st_no_memory(err);
	const struct st_weight *from[2] = { w, NULL };
	ST_TRY(st_job_map(v, j, from, NULL, err));
	bool matrix = j->spec.ndim == 2;
	return st_job_settle(v, j, v->has_type && matrix ? v->type : w->tensor->dtype, err);
}

/* llama3's scaling as GGUF spells it: a divisor for each pair of rotated dimensions. */
static enum st_status rope_freqs_job(struct st_conversion *v, struct st_error *err)
{
	uint32_t pairs = v->cfg.head_dim / 2;
	float *by = st_arena_alloc(&v->arena, pairs, sizeof *by);
	struct st_job *j;
	if (!by)
		return st_no_memory(err);
	st_config_rope_divisors(&v->cfg, by);
	ST_TRY(st_add_job(v, &j, err));
	*j = (struct st_job){ .kind = ST_JOB_VALUES, .values = by, .role = ST_ROLE_ROPE_FREQS, .gain = 1 };
	j->spec = (struct st_tensor_spec){
		.name = "rope_freqs.weight", .dtype = ST_DTYPE_F32, .ndim = 1, .shape = { pairs }
	};
	return ST_OK;
}

/* A tensor of divisors where the target has no place for one: its effect must be in the configuration. */
static enum st_status leave_rope_freqs(struct st_conversion *v, const struct st_tensor *t, struct st_error *err)
{
	if (v->cfg.rope_scaling == ST_ROPE_SCALING_LLAMA3)
		return ST_OK;
	float row[ST_MAX_HEAD_DIM / 2];
	uint64_t n = st_tensor_cols(t);
	st_tensor_decode(t, 0, 1, row);
	for (uint64_t i = 0; i < n; i++)
		if (row[i] != 1)
			return st_fail_at(err, ST_ERR_UNSUPPORTED, t->offset, t->name,
			                  "its divisors are no scaling that %s can spell", st_format_name(v->to));
	return ST_OK;
}

/* APR keeps a tied head as a copy; the others leave it out. A copy that the configuration ties is one tensor again; in
 * GGUF a stored head says that it is not tied. */
static bool head_is_copy(const struct st_conversion *v, const struct st_weight *head)
{
	const struct st_container *c = st_model_container(v->in);
	const struct st_weight *embed = st_model_weight(v->in, ST_ROLE_EMBED, 0);
	bool tied = v->from == ST_FORMAT_APR ? !json_is_false(json_object_get(c->docs.metadata, "tied_embeddings"))
	                                     : json_is_true(json_object_get(c->docs.config, "tie_word_embeddings"));
	return tied && embed->tensor && same_bytes(embed->tensor, head->tensor);
}

static enum st_status bound_jobs(struct st_conversion *v, const struct st_weight *w, struct st_error *err)
{
	if (w->role == ST_ROLE_ROPE_FREQS && v->to != ST_FORMAT_GGUF)
		return leave_rope_freqs(v, w->tensor, err);
	if (w->role == ST_ROLE_HEAD && (v->from != v->to || v->to == ST_FORMAT_APR) && head_is_copy(v, w)) {
		v->cfg.tied = true;
		if (v->to != ST_FORMAT_APR) {
			st_note(v, "%s is a copy of the embedding: stored once, as a tied head", w->tensor->name);
			return ST_OK;
		}
	}
	return weight_job(v, w->role, w->layer < 0 ? 0 : (uint32_t)w->layer, w, err);
}

/* Tensors that no weight is keep their names, where readers of the target pass them over. */
static enum st_status unused_job(struct st_conversion *v, const struct st_tensor *t, struct st_error *err)
{
	bool int_only = st_dtype_info(t->dtype)->kind == ST_KIND_INT && !st_format_has(v->to, t->dtype);
	if ((v->to == ST_FORMAT_GGUF && v->from != v->to) || int_only) {
		st_note(v, "dropped: %s [%s], %s", t->name, st_dtype_info(t->dtype)->name,
		        int_only ? "a type the target does not have"
		                 : "which no weight is; readers of GGUF refuse tensors that they do not know");
		return ST_OK;
	}
	struct st_job *j;
	ST_TRY(st_add_job(v, &j, err));
	j->src[0] = t;
	j->spec = (struct st_tensor_spec){ .name = t->name, .ndim = t->ndim };
	memcpy(j->spec.shape, t->shape, sizeof j->spec.shape);
	return st_job_settle(v, j, t->dtype, err);
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

void st_sort_jobs(struct st_conversion *v)
{
	if (v->to == ST_FORMAT_APR)
		qsort(v->jobs, v->n_jobs, sizeof *v->jobs, by_name);
}

/* Where a repair changes llama3's scaling or what it acts on, its divisors are others; divisors of another kind depend
 * on no key. */
static bool divisors_change(const struct st_conversion *v)
{
	bool llama3 = st_model_config(v->in)->rope_scaling == ST_ROPE_SCALING_LLAMA3;
	return st_config_edited(v, "rope_scaling") || (llama3 && st_config_edited(v, "rope_"));
}

enum st_status st_plan_jobs(struct st_conversion *v, struct st_error *err)
{
	const struct st_model *m = v->in;
	bool freqs = false, head = false;
	for (size_t i = 0; i < st_model_n_weights(m); i++) {
		const struct st_weight *w = st_model_weight_at(m, i);
		if (w->role == ST_ROLE_ROPE_FREQS && divisors_change(v))
			continue; /* made anew below, if the scaling needs any */
		freqs |= w->role == ST_ROLE_ROPE_FREQS;
		head |= w->role == ST_ROLE_HEAD;
		ST_TRY(bound_jobs(v, w, err));
	}
	if (v->to == ST_FORMAT_APR && v->cfg.tied && !head) {
		const struct st_weight *embed = st_model_weight(m, ST_ROLE_EMBED, 0);
		if (embed->tensor)
			ST_TRY(weight_job(v, ST_ROLE_HEAD, 0, embed, err));
	}
	if (v->to == ST_FORMAT_GGUF && v->cfg.rope_scaling == ST_ROPE_SCALING_LLAMA3 && !freqs)
		ST_TRY(rope_freqs_job(v, err));
	for (size_t i = 0; i < st_model_n_unused(m); i++)
		ST_TRY(unused_job(v, st_model_unused_at(m, i), err));
	st_sort_jobs(v);
	if (v->from == v->to && v->to != ST_FORMAT_APR)
		qsort(v->jobs, v->n_jobs, sizeof *v->jobs, by_place);
	return ST_OK;
}
