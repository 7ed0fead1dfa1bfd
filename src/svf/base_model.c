/* base_model.c - rows of the base model's weights, whatever container they are in. */
#include "svf/inputs.h"

#include "base/error.h"
#include "base/pool.h"
#include "dtype/half.h"

#include <string.h>

const struct st_container *st_svf_base_container(const struct st_svf_base *b)
{
	return b->model ? st_model_container(b->model) : b->c;
}

enum st_status st_svf_base_open(const char *path, bool round_bf16, const struct st_hooks *hooks, struct st_svf_base *b,
                                struct st_error *err)
{
	*b = (struct st_svf_base){ .path = path, .round_bf16 = round_bf16 };
	ST_TRY(st_container_open(path, &b->c, err));
	enum st_status st = ST_OK;
	/* Hugging Face names are looked up as they are, which needs no configuration. Other containers have names and
	 * row orders of their own, which the model's family knows. */
	if (b->c->format != ST_FORMAT_SAFETENSORS && b->c->format != ST_FORMAT_TORCH) {
		st_container_close(b->c);
		b->c = NULL;
		st = st_model_open_partial(path, &b->model, err);
	}
	if (st == ST_OK) {
		st_hooks_log(hooks, "hashing %s", path);
		st = st_container_sha256(st_svf_base_container(b), b->sha256, err);
	}
	if (st != ST_OK)
		st_svf_base_close(b);
	return st_in_file(path, st, err);
}

void st_svf_base_close(struct st_svf_base *b)
{
	st_model_close(b->model);
	st_container_close(b->c);
	b->model = NULL;
	b->c = NULL;
}

/* Its tensor is NULL where the model has no such weight. */
static struct st_weight find(const struct st_svf_base *b, const char *name)
{
	const struct st_weight *found = b->model ? st_model_called(b->model, name) : NULL;
	return found    ? *found
	     : b->model ? (struct st_weight){ .layer = -1 }
	                : (struct st_weight){ .layer = -1, .tensor = st_container_find(b->c, name) };
}

static enum st_status find_matrix(const struct st_svf_base *b, const struct st_svf_entry *e, struct st_weight *w,
                                  struct st_error *err)
{
	*w = find(b, e->source_name);
	if (!w->tensor && strcmp(e->source_name, ST_SVF_LM_HEAD) == 0)
		*w = find(b, ST_SVF_EMBEDDING); /* a tied model stores the head as its embedding */
	const struct st_tensor *t = w->tensor;
	if (!t)
		return st_fail_at(err, ST_ERR_MISMATCH, ST_NO_OFFSET, e->source_name,
		                  "the base model has no such weight");
	if (t->ndim != 2 || t->shape[0] != e->rows || t->shape[1] != e->cols)
		return st_fail_at(err, ST_ERR_MISMATCH, t->offset, e->source_name,
		                  "the base model has [%llu, %llu] where the reference selects [%llu, %llu]",
		                  (unsigned long long)t->shape[0], (unsigned long long)(t->ndim > 1 ? t->shape[1] : 1),
		                  (unsigned long long)e->rows, (unsigned long long)e->cols);
	return st_dtype_info(t->dtype)->kind != ST_KIND_INT
	             ? ST_OK
	             : st_fail_at(err, ST_ERR_MISMATCH, t->offset, e->source_name,
	                          "the base model stores integers (%s)", st_dtype_info(t->dtype)->name);
}

enum st_status st_svf_base_find(const struct st_svf_base *b, const struct st_svf_entry *e, struct st_weight *w,
                                struct st_error *err)
{
	return st_in_file(b->path, find_matrix(b, e, w, err), err);
}

bool st_svf_base_tied(const struct st_svf_base *b, const struct st_svf_entry *x, const struct st_svf_entry *y)
{
	struct st_weight wx, wy;
	struct st_error ignored = ST_ERROR_INIT;
	if (st_svf_base_find(b, x, &wx, &ignored) != ST_OK || st_svf_base_find(b, y, &wy, &ignored) != ST_OK)
		return false;
	if (wx.tensor->data == wy.tensor->data)
		return true;
	/* Some files store the tied matrix twice. Both names, and the same bytes. */
	return strcmp(x->source_name, ST_SVF_EMBEDDING) == 0 && strcmp(y->source_name, ST_SVF_LM_HEAD) == 0
	    && wx.tensor->dtype == wy.tensor->dtype && wx.tensor->n_bytes == wy.tensor->n_bytes
	    && memcmp(wx.tensor->data, wy.tensor->data, wx.tensor->n_bytes) == 0;
}

enum st_status st_svf_tensor_rows(void *ctx, uint64_t row0, uint64_t n, float *dst, struct st_error *err)
{
	(void)err;
	st_tensor_decode(*(const struct st_tensor **)ctx, row0, n, dst);
	return ST_OK;
}

struct decoding {
	const struct st_svf_weight_rows *r;
	uint64_t row0;
	float *dst;
};

static void decode_rows(void *ctx, unsigned lane, uint64_t begin, uint64_t end)
{
	const struct decoding *d = ctx;
	uint64_t cols = st_tensor_cols(d->r->w.tensor);
	float *x = d->dst + begin * cols;
	(void)lane;
	st_weight_decode(&d->r->w, d->row0 + begin, end - begin, x);
	for (uint64_t k = 0; d->r->round_bf16 && k < (end - begin) * cols; k++)
		x[k] = st_bf16_to_f32(st_f32_to_bf16(x[k]));
}

enum st_status st_svf_weight_rows(void *ctx, uint64_t row0, uint64_t n, float *dst, struct st_error *err)
{
	const struct st_svf_weight_rows *r = ctx;
	(void)err;
	st_pool_run(r->pool, n, st_pool_piece(r->pool, n, 4 * st_tensor_cols(r->w.tensor)), decode_rows,
	            &(struct decoding){ r, row0, dst });
	return ST_OK;
}
