/*
 * factors.c - U, S and V of one tensor, from a torch checkpoint or a component file.
 *
 * U is as tall as its matrix and stays in the map; S and V are decoded.
 */
#include "svf/engine.h"

#include "base/error.h"

#include <math.h>
#include <stdlib.h>

static enum st_status find(const struct st_container *c, const struct st_svf_entry *e, char which,
                           const struct st_tensor **out, struct st_error *err)
{
	char name[1200];
	if (c->format == ST_FORMAT_TORCH)
		snprintf(name, sizeof name, "%s.%c", e->source_name, which);
	else
		snprintf(name, sizeof name, "svd.%c.%s", which, e->safe);
	*out = st_container_find(c, name);
	if (!*out)
		return st_fail_at(err, ST_ERR_FORMAT, ST_NO_OFFSET, name, "no such factor among the file's %zu tensors",
		                  c->n_tensors);
	if (st_dtype_info((*out)->dtype)->kind != ST_KIND_FLOAT)
		return st_fail_at(err, ST_ERR_FORMAT, (*out)->offset, name, "is %s, not a float",
		                  st_dtype_info((*out)->dtype)->name);
	return ST_OK;
}

static bool shaped(const struct st_tensor *t, uint64_t rows, uint64_t cols)
{
	return t->ndim == 2 && t->shape[0] == rows && t->shape[1] == cols;
}

static enum st_status misfit(const struct st_tensor *t, const struct st_svf_entry *e, uint64_t rows, uint64_t cols,
                             const char *hint, struct st_error *err)
{
	return st_fail_at(err, ST_ERR_FORMAT, t->offset, t->name,
	                  "has the shape [%llu, %llu]; [%llu, %llu] of %s needs [%llu, %llu]%s",
	                  (unsigned long long)t->shape[0], (unsigned long long)(t->ndim > 1 ? t->shape[1] : 1),
	                  (unsigned long long)e->rows, (unsigned long long)e->cols, e->source_name,
	                  (unsigned long long)rows, (unsigned long long)cols, hint);
}

static enum st_status check_shapes(const struct st_svf_entry *e, const struct st_svf_factors *f, struct st_error *err)
{
	bool as_v = f->layout == ST_SVF_TORCH_V;
	if (!shaped(f->u, e->rows, e->k))
		return misfit(f->u, e, e->rows, e->k, "", err);
	if (f->s_view->n_elems != e->k || f->s_view->ndim != 1)
		return st_fail_at(err, ST_ERR_FORMAT, f->s_view->offset, f->s_view->name,
		                  "has %llu numbers, %s has %llu singular values",
		                  (unsigned long long)f->s_view->n_elems, e->source_name, (unsigned long long)e->k);
	if (!shaped(f->v_view, as_v ? e->cols : e->k, as_v ? e->k : e->cols))
		return misfit(f->v_view, e, as_v ? e->cols : e->k, as_v ? e->k : e->cols,
		              shaped(f->v_view, as_v ? e->k : e->cols, as_v ? e->cols : e->k)
		                      ? as_v ? "; it fits the layout vh" : "; it fits the layout torch_v"
		                      : "",
		              err);
	return ST_OK;
}

static enum st_status all_finite(const struct st_tensor *t, const float *x, uint64_t n, struct st_error *err)
{
	for (uint64_t i = 0; i < n; i++)
		if (!isfinite(x[i]))
			return st_fail_at(err, ST_ERR_FORMAT, t->offset, t->name, "number %llu is %s",
			                  (unsigned long long)i, isnan(x[i]) ? "nan" : "infinite");
	return ST_OK;
}

static enum st_status load(struct st_svf_factors *f, const struct st_svf_entry *e, struct st_error *err)
{
	f->s = st_alloc_array(e->k, sizeof *f->s);
	f->v = st_alloc_array(f->v_view->n_elems, sizeof *f->v);
	if (!f->s || !f->v)
		return st_fail(err, ST_ERR_NOMEM, "no memory for the factors of %s", e->source_name);
	st_tensor_decode(f->s_view, 0, 1, f->s);
	st_tensor_decode(f->v_view, 0, st_tensor_rows(f->v_view), f->v);
	ST_TRY(all_finite(f->s_view, f->s, e->k, err));
	ST_TRY(all_finite(f->v_view, f->v, f->v_view->n_elems, err));
	ST_NEED(st_orthogonality(f->v, e->cols, e->k, f->layout != ST_SVF_TORCH_V, &f->v_error));
	f->descending = true;
	for (uint64_t i = 0; i < e->k; i++) {
		if (f->s[i] < 0)
			return st_fail_at(err, ST_ERR_FORMAT, f->s_view->offset, f->s_view->name,
			                  "singular value %llu is negative: %g", (unsigned long long)i,
			                  (double)f->s[i]);
		f->descending &= i == 0 || f->s[i] <= f->s[i - 1];
	}
	return ST_OK;
}

enum st_status st_svf_factors_open(const struct st_container *c, const struct st_svf_entry *e,
                                   enum st_svf_layout layout, struct st_svf_factors *f, struct st_error *err)
{
	*f = (struct st_svf_factors){ .path = c->path, .layout = layout };
	enum st_status st;
	ST_TRY_OUT(find(c, e, 'U', &f->u, err));
	ST_TRY_OUT(find(c, e, 'S', &f->s_view, err));
	ST_TRY_OUT(find(c, e, 'V', &f->v_view, err));
	ST_TRY_OUT(check_shapes(e, f, err));
	ST_TRY_OUT(load(f, e, err));
out:
	if (st != ST_OK)
		st_svf_factors_close(f);
	return st_in_file(c->path, st, err);
}

void st_svf_factors_close(struct st_svf_factors *f)
{
	free(f->s);
	free(f->v);
	f->s = f->v = NULL;
}

enum st_status st_svf_component_specs(const struct st_svf_entry *e, enum st_svf_layout layout, struct st_arena *a,
                                      struct st_tensor_spec specs[3], struct st_error *err)
{
	bool as_v = layout == ST_SVF_TORCH_V;
	const struct st_tensor_spec all[] = {
		{ NULL, ST_DTYPE_F32, 2, { e->rows, e->k } },
		{ NULL, ST_DTYPE_F32, 1, { e->k } },
		{ NULL, ST_DTYPE_F32, 2, { as_v ? e->cols : e->k, as_v ? e->k : e->cols } },
	};
	for (size_t i = 0; i < 3; i++) {
		specs[i] = all[i];
		specs[i].name = st_arena_printf(a, "svd.%c.%s", "USV"[i], e -> safe);
		ST_NEED(specs[i].name);
	}
	return ST_OK;
}

enum st_status st_svf_file_open(const char *path, const struct st_tensor_spec *specs, size_t n, struct st_writer **out,
                                struct st_error *err)
{
	const struct st_write_plan plan = {
		.format = ST_FORMAT_SAFETENSORS, .specs = specs, .n_specs = n, .pad_header = true
	};
	*out = NULL;
	return path ? st_writer_open(path, &plan, out, err) : st_fail(err, ST_ERR_NOMEM, "out of memory");
}

static enum st_status put_factor(void *ctx, size_t factor, uint64_t at, const float *x, uint64_t n,
                                 struct st_error *err)
{
	return st_writer_put(ctx, factor, at * sizeof *x, x, n * sizeof *x, err);
}

enum st_status st_svf_decompose(const struct st_svf_entry *e, struct st_row_source source, enum st_svf_svd method,
                                struct st_pool *pool, const char *path, struct st_svd_report *r,
                                const struct st_hooks *hooks, struct st_error *err)
{
	struct st_tensor_spec specs[3];
	struct st_writer *f;
	struct st_arena names;
	st_arena_init(&names);
	enum st_status st = st_svf_component_specs(e, ST_SVF_TORCH_V, &names, specs, err);
	if (st == ST_OK)
		st = st_svf_file_open(path, specs, 3, &f, err);
	if (st == ST_OK) {
		const struct st_svd d = { .name = e->source_name,
			                  .rows = e->rows,
			                  .cols = e->cols,
			                  .source = source,
			                  .jacobi = method == ST_SVF_GESVJ,
			                  .pool = pool,
			                  .hooks = hooks,
			                  .put = put_factor,
			                  .ctx = f };
		st = st_writer_close(f, st_svd_run(&d, r, err), err);
	}
	st_arena_release(&names);
	return st;
}
