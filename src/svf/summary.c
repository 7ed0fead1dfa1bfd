/* summary.c - what a report says of numbers, and of tensors that are read for it. */
#include "svf/stages.h"

#include "base/error.h"
#include "base/hash.h"

#include <math.h>
#include <stdlib.h>

json_t *st_svf_summary_json(const struct st_summary *s, const uint64_t *shape, size_t ndim)
{
	json_t *prefix = json_array();
	for (size_t i = 0; i < s->n_prefix; i++)
		st_json_add(prefix, st_json_number((double)s->prefix[i]));
	json_t *o = st_json_object(ST_IS("shape", st_json_shape(shape, ndim)),
	                           ST_IS("dtype", s->bf16 ? "bfloat16" : "float32"), ST_IS("device", "cpu"),
	                           ST_IS("size", s->n), ST_IS("sha256", s->sha256),
	                           ST_IS("min", s->nonfinite ? NAN : s->min), ST_IS("max", s->nonfinite ? NAN : s->max),
	                           ST_IS("sum", s->sum), ST_IS("prefix_f32", prefix));
	if (s->nonfinite)
		st_json_put(o, "nonfinite", st_json_u64(s->nonfinite));
	if (s->sha256_bf16[0])
		st_json_put_all(o, ST_IS("sha256_as_f32", s->sha256), ST_IS("sha256_as_bf16", s->sha256_bf16));
	return o;
}

json_t *st_svf_summary_floats(const float *x, uint64_t n, size_t prefix)
{
	struct st_summary s;
	struct st_error no_memory = ST_ERROR_INIT;
	if (st_summary_begin(&s, prefix, true, &no_memory) != ST_OK)
		return NULL;
	st_summary_f32(&s, x, n);
	st_summary_end(&s);
	return st_svf_summary_json(&s, &n, 1);
}

uint64_t st_svf_step(uint64_t rows, uint64_t cols)
{
	uint64_t step = cols ? ((uint64_t)1 << 20) / cols + 1 : 1;
	return step < rows ? step : rows ? rows : 1;
}

enum st_status st_svf_summary_rows(const struct st_row_source *from, uint64_t rows, uint64_t cols, size_t prefix,
                                   struct st_summary *s, struct st_error *err)
{
	uint64_t step = st_svf_step(rows, cols);
	float *x = st_alloc_array2(step, cols ? cols : 1, sizeof *x);
	ST_NEED(x);
	enum st_status st = st_summary_begin(s, prefix, true, err);
	for (uint64_t r = 0; st == ST_OK && r < rows; r += step) {
		uint64_t n = rows - r < step ? rows - r : step;
		st = from->rows(from->ctx, r, n, x, err);
		if (st == ST_OK)
			st_summary_f32(s, x, n * cols);
		if (st == ST_OK)
			st = st_check_cancel(err);
	}
	st_summary_end(s);
	free(x);
	return st;
}

enum st_status st_svf_summary_of(const struct st_tensor *t, size_t prefix, struct st_summary *s, struct st_error *err)
{
	const struct st_row_source from = { .rows = st_svf_tensor_rows, .ctx = &t };
	return st_svf_summary_rows(&from, st_tensor_rows(t), st_tensor_cols(t), prefix, s, err);
}
