/* summary.c - digest, range, sum and first numbers of a tensor that comes in pieces. */
#include "svf/stages.h"

#include "base/error.h"
#include "dtype/half.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define PIECE ((size_t)16384) /* elements: hashed and looked at while they are in L2 */
#define LANES 8

enum st_status st_svf_summary_begin(struct st_svf_summary *s, size_t prefix, bool alt, struct st_error *err)
{
	*s = (struct st_svf_summary){ .min = INFINITY, .max = -INFINITY, .want_prefix = prefix < 16 ? prefix : 16 };
	s->hash = st_sha256_new();
	s->hash_bf16 = alt ? st_sha256_new() : NULL;
	if (s->hash && (!alt || s->hash_bf16))
		return ST_OK;
	st_svf_summary_end(s);
	return st_fail(err, ST_ERR_NOMEM, "out of memory");
}

static void look(struct st_svf_summary *s, const float *x, size_t n)
{
	float lo[LANES], hi[LANES], bad = 0;
	double sum[LANES] = { 0 };
	for (size_t l = 0; l < LANES; l++) {
		lo[l] = INFINITY;
		hi[l] = -INFINITY;
	}
	size_t i = 0;
	for (; i + LANES <= n; i += LANES)
		for (size_t l = 0; l < LANES; l++) {
			float v = x[i + l];
			lo[l] = v < lo[l] ? v : lo[l];
			hi[l] = v > hi[l] ? v : hi[l];
			sum[l] += (double)v;
			bad += v - v;
		}
	for (; i < n; i++) {
		lo[0] = x[i] < lo[0] ? x[i] : lo[0];
		hi[0] = x[i] > hi[0] ? x[i] : hi[0];
		sum[0] += (double)x[i];
		bad += x[i] - x[i];
	}
	for (size_t l = 0; l < LANES; l++) {
		s->min = (double)lo[l] < s->min ? (double)lo[l] : s->min;
		s->max = (double)hi[l] > s->max ? (double)hi[l] : s->max;
		s->sum += sum[l];
	}
	for (i = 0; bad != 0 && i < n; i++)
		s->nonfinite += !isfinite(x[i]);
	for (i = 0; s->n_prefix < s->want_prefix && i < n; i++)
		s->prefix[s->n_prefix++] = x[i];
	s->n += n;
}

void st_svf_summary_f32(struct st_svf_summary *s, const float *x, uint64_t n)
{
	uint16_t half[2048];
	for (uint64_t at = 0; at < n; at += PIECE) {
		size_t m = n - at < PIECE ? (size_t)(n - at) : PIECE;
		st_sha256_update(s->hash, x + at, m * sizeof *x);
		look(s, x + at, m);
		for (size_t i = 0; s->hash_bf16 && i < m; i += 2048) {
			size_t p = m - i < 2048 ? m - i : 2048;
			for (size_t j = 0; j < p; j++)
				half[j] = st_f32_to_bf16(x[at + i + j]);
			st_sha256_update(s->hash_bf16, half, p * sizeof *half);
		}
	}
}

void st_svf_summary_bf16(struct st_svf_summary *s, const uint16_t *x, uint64_t n)
{
	float wide[2048];
	s->bf16 = true;
	for (uint64_t at = 0; at < n; at += 2048) {
		size_t m = n - at < 2048 ? (size_t)(n - at) : 2048;
		for (size_t i = 0; i < m; i++)
			wide[i] = st_bf16_to_f32(x[at + i]);
		st_sha256_update(s->hash, x + at, m * sizeof *x);
		look(s, wide, m);
	}
}

static void take(struct st_sha256 **h, char hex[65])
{
	uint8_t digest[32];
	if (!*h)
		return;
	st_sha256_final(*h, digest);
	st_hex(digest, 32, hex);
	*h = NULL;
}

void st_svf_summary_end(struct st_svf_summary *s)
{
	take(&s->hash, s->sha256);
	take(&s->hash_bf16, s->sha256_bf16);
}

json_t *st_svf_summary_json(const struct st_svf_summary *s, const uint64_t *shape, size_t ndim)
{
	json_t *prefix = json_array();
	for (size_t i = 0; i < s->n_prefix; i++)
		st_json_add(prefix, st_json_number((double)s->prefix[i]));
	json_t *o = st_json_object(
		{ "shape", st_json_shape(shape, ndim) }, { "dtype", json_string(s->bf16 ? "bfloat16" : "float32") },
		{ "device", json_string("cpu") }, { "size", st_json_u64(s->n) }, { "sha256", st_json_text(s->sha256) },
		{ "min", st_json_number(s->nonfinite ? NAN : s->min) },
		{ "max", st_json_number(s->nonfinite ? NAN : s->max) }, { "sum", st_json_number(s->sum) },
		{ "prefix_f32", prefix });
	if (s->nonfinite)
		st_json_put(o, "nonfinite", st_json_u64(s->nonfinite));
	if (s->sha256_bf16[0])
		st_json_put_all(o, { "sha256_as_f32", st_json_text(s->sha256) },
		                { "sha256_as_bf16", st_json_text(s->sha256_bf16) });
	return o;
}

json_t *st_svf_summary_floats(const float *x, uint64_t n, size_t prefix)
{
	struct st_svf_summary s;
	struct st_error no_memory = ST_ERROR_INIT;
	if (st_svf_summary_begin(&s, prefix, true, &no_memory) != ST_OK)
		return NULL;
	st_svf_summary_f32(&s, x, n);
	st_svf_summary_end(&s);
	return st_svf_summary_json(&s, &n, 1);
}

uint64_t st_svf_step(uint64_t rows, uint64_t cols)
{
	uint64_t step = cols ? ((uint64_t)1 << 20) / cols + 1 : 1;
	return step < rows ? step : rows ? rows : 1;
}

enum st_status st_svf_summary_rows(const struct st_row_source *from, uint64_t rows, uint64_t cols, size_t prefix,
                                   struct st_svf_summary *s, struct st_error *err)
{
	uint64_t step = st_svf_step(rows, cols);
	float *x = st_alloc_array2(step, cols ? cols : 1, sizeof *x);
	ST_NEED(x);
	enum st_status st = st_svf_summary_begin(s, prefix, true, err);
	for (uint64_t r = 0; st == ST_OK && r < rows; r += step) {
		uint64_t n = rows - r < step ? rows - r : step;
		st = from->rows(from->ctx, r, n, x, err);
		if (st == ST_OK)
			st_svf_summary_f32(s, x, n * cols);
		if (st == ST_OK)
			st = st_check_cancel(err);
	}
	st_svf_summary_end(s);
	free(x);
	return st;
}

enum st_status st_svf_summary_of(const struct st_tensor *t, size_t prefix, struct st_svf_summary *s,
                                 struct st_error *err)
{
	const struct st_row_source from = { .rows = st_svf_tensor_rows, .ctx = &t };
	return st_svf_summary_rows(&from, st_tensor_rows(t), st_tensor_cols(t), prefix, s, err);
}
