/*
 * importance.c - importance matrices: how much each column of a matrix matters, as llama-imatrix writes it to a GGUF file.
 *
 * For a matrix NAME the file holds NAME.in_sum2, the sums of squares of what was multiplied with each column, and
 * NAME.counts, the number of vectors that they are sums over. Their ratio weighs the squared error of an element.
 */
#include "convert/importance.h"

#include "arch/arch.h"
#include "format/container.h"

#include <math.h>
#include <string.h>

static enum st_status refuse(const char *path, struct st_error *err, const char *what)
{
	enum st_status st = st_fail(err, ST_ERR_FORMAT, "%s", what);
	st_error_in(err, path);
	return st;
}

static enum st_status check_kind(const struct st_container *c, const char *path, struct st_error *err)
{
	const char *type = NULL;
	size_t n = 0;
	bool found = false;
	if (st_container_format(c) != ST_FORMAT_GGUF)
		return refuse(path, err,
		              "is no GGUF file; importance matrices are read as llama-imatrix writes them to GGUF");
	ST_TRY(st_kv_str(&c->keys, "general.type", &type, &n, &found, err));
	if (!found || n != 7 || memcmp(type, "imatrix", 7) != 0)
		return refuse(path, err, "is no importance matrix (general.type is not \"imatrix\")");
	return ST_OK;
}

/* The importances of one matrix; *out is NULL where the file has none. */
static enum st_status find(const struct st_container *c, struct st_arena *arena, const char *name, uint64_t cols,
                           const float **out, struct st_error *err)
{
	const char *sums_name = st_arena_printf(arena, "%s.in_sum2", name),
		   *counts_name = st_arena_printf(arena, "%s.counts", name);
	*out = NULL;
	if (!sums_name || !counts_name)
		return st_no_memory(err);
	const struct st_tensor *sums = st_container_find(c, sums_name), *counts = st_container_find(c, counts_name);
	if (!sums)
		return ST_OK;
	if (!counts || sums->dtype != ST_DTYPE_F32 || counts->dtype != ST_DTYPE_F32 || sums->n_elems != cols
	    || counts->n_elems != 1)
		return st_fail_at(err, ST_ERR_FORMAT, sums->offset, sums->name,
		                  "is no importance for the %llu columns of %s (%llu numbers, counts %s)",
		                  (unsigned long long)cols, name, (unsigned long long)sums->n_elems,
		                  counts ? "there" : "missing");
	float *x = st_arena_alloc(arena, cols, sizeof *x), n;
	if (!x)
		return st_no_memory(err);
	st_tensor_decode(counts, 0, 1, &n);
	st_tensor_decode(sums, 0, st_tensor_rows(sums), x);
	for (uint64_t i = 0; i < cols; i++) {
		/* A matrix that no vector came to: all columns alike. */
		x[i] = n > 0 ? x[i] / n : 1;
		if (!(x[i] >= 0) || isinf(x[i]))
			return st_fail_at(err, ST_ERR_FORMAT, sums->offset, sums->name,
			                  "holds %g at column %llu, which is no sum of squares", (double)x[i],
			                  (unsigned long long)i);
	}
	*out = x;
	return ST_OK;
}

enum st_status st_importance_read(const char *path, struct st_plan *plan, struct st_arena *arena,
                                  struct st_importance *im, struct st_error *err)
{
	struct st_container *c;
	ST_TRY(st_container_open(path, &c, err));
	enum st_status st = check_kind(c, path, err);
	for (size_t i = 0; st == ST_OK && i < plan->n; i++) {
		struct st_job *j = &plan->jobs[i];
		char name[128];
		if ((j->kind != ST_JOB_ENCODE && (j->kind != ST_JOB_GATHER || j->raw)) || !st_job_is_matrix(j)
		    || j->spec.ndim != 2 || !st_dtype_weighted(j->spec.dtype))
			continue;
		if (j->is_matrix)
			snprintf(name, sizeof name, "%.127s", j->spec.name);
		else if (!st_role_gguf_name(j->role, j->layer, name, sizeof name))
			continue;
		st = find(c, arena, name, st_spec_cols(&j->spec), &j->importance, err);
		if (st != ST_OK)
			st_error_in(err, path);
		if (j->importance)
			im->used++;
		else if (!im->without++)
			im->first_without = j->spec.name;
	}
	if (st == ST_OK) {
		uint64_t chunks = 0;
		bool found;
		st = st_kv_u64(&c->keys, "imatrix.chunk_count", &chunks, &found, err);
		im->chunks = found ? chunks : 0;
		im->entries = st_container_n_tensors(c) / 2;
	}
	st_container_close(c);
	return st;
}
