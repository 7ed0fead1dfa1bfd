/* types.c - which stored types a container has, and which of them a tensor gets. */
#include "convert/job.h"

#include "format/apr.h"

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

bool st_type_has_scales(enum st_dtype t)
{
	return t == ST_DTYPE_APR_Q8 || st_dtype_geometry(t)->factor == ST_FACTOR_F16;
}

/* Where rows do not divide into the blocks of a type: the type of 32 elements that comes nearest, then F16. */
static enum st_dtype smaller_block(enum st_dtype t)
{
	switch (t) {
	case ST_DTYPE_Q2_K:
	case ST_DTYPE_Q3_K:
	case ST_DTYPE_IQ4_XS:
		return ST_DTYPE_IQ4_NL;
	case ST_DTYPE_IQ4_NL: /* where the container has no such type */
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

enum st_dtype st_wanted_type(const struct st_target *to, const struct st_job *j, enum st_dtype stored)
{
	if (!to->has_type || !st_job_is_matrix(j))
		return stored;
	return to->recipe ? st_recipe_type(to->recipe, &to->cfg, j) : to->type;
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

enum st_status st_job_settle(const struct st_target *to, struct st_job *j, enum st_dtype want, struct st_error *err)
{
	enum st_dtype t = want;
	bool can_copy = copyable(j, t) && st_format_has(to->format, t);
	if (can_copy) {
		j->kind = ST_JOB_COPY;
		j->spec.dtype = t;
		return ST_OK;
	}
	if (j->src[0] && st_dtype_info(j->src[0]->dtype)->kind == ST_KIND_INT)
		return st_fail_at(err, ST_ERR_UNSUPPORTED, ST_NO_OFFSET, j->spec.name, "%s has no type for %s",
		                  st_format_name(to->format), st_dtype_info(j->src[0]->dtype)->name);
	/* What is not asked to change holds its values exactly; changed blocks go into the nearest type that can be
	 * written. */
	bool same_numbers = j->kind != ST_JOB_TRANSPOSE && j->gain == 1 && j->offset == 0 && j->src[0]
	                 && t == j->src[0]->dtype;
	bool plain = st_dtype_info(t)->kind != ST_KIND_QUANT;
	if (!st_format_has(to->format, t) || (!st_dtype_info(t)->encode && (same_numbers || plain))
	    || (same_numbers && !rows_fit(t, &j->spec)))
		t = exact_type(t);
	while (!rows_fit(t, &j->spec) || !st_dtype_info(t)->encode || !st_format_has(to->format, t))
		t = smaller_block(t);
	if (j->kind != ST_JOB_TRANSPOSE && j->kind != ST_JOB_VALUES)
		j->kind = copyable(j, t) ? ST_JOB_COPY : ST_JOB_ENCODE;
	j->spec.dtype = t;
	return ST_OK;
}

/* ---- what GGUF says of the whole file ---- */

/* general.file_type as llama.cpp numbers it, from the type that most matrices' bytes are in. */
bool st_file_type(const struct st_target *to, const struct st_plan *plan, uint32_t *out)
{
	static const struct {
		enum st_dtype t;
		uint32_t number;
	} numbers[] = {
		{ ST_DTYPE_F32, 0 },     { ST_DTYPE_F16, 1 },     { ST_DTYPE_Q4_0, 2 },  { ST_DTYPE_Q4_1, 3 },
		{ ST_DTYPE_Q8_0, 7 },    { ST_DTYPE_Q5_0, 8 },    { ST_DTYPE_Q5_1, 9 },  { ST_DTYPE_Q2_K, 10 },
		{ ST_DTYPE_Q3_K, 12 },   { ST_DTYPE_Q4_K, 15 },   { ST_DTYPE_Q5_K, 17 }, { ST_DTYPE_Q6_K, 18 },
		{ ST_DTYPE_IQ4_NL, 25 }, { ST_DTYPE_IQ4_XS, 30 }, { ST_DTYPE_BF16, 32 }, { ST_DTYPE_MXFP4, 38 },
	};
	if (to->recipe) {
		*out = st_recipe_file_type(to->recipe);
		return true;
	}
	uint64_t bytes[ST_DTYPE_COUNT] = { 0 }, most = 0;
	enum st_dtype best = ST_DTYPE_F32;
	for (size_t i = 0; i < plan->n; i++) {
		const struct st_tensor_spec *s = &plan->jobs[i].spec;
		if (s->ndim >= 2)
			bytes[s->dtype] += st_spec_rows(s) * st_spec_cols(s);
	}
	for (int t = 0; t < ST_DTYPE_COUNT; t++)
		if (bytes[t] > most) {
			most = bytes[t];
			best = (enum st_dtype)t;
		}
	for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++)
		if (numbers[i].t == best) {
			*out = numbers[i].number;
			return true;
		}
	return false;
}
