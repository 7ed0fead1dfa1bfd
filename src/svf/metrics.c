/* metrics.c - how far two values of a stage are apart, and how far they may be. */
#include "svf/stages.h"

#include "base/error.h"
#include "base/pool.h"
#include "dtype/half.h"

#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define PIECE ((uint64_t)1 << 16) /* part of the order of summation, so never a matter of threads */
#define ROUND 32                  /* pieces in flight; theirs live on the stack */

/* bf16 values in order, so that their difference counts representable numbers between them. */
static int32_t rank(float x)
{
	uint16_t b = st_f32_to_bf16(x);
	return b & 0x8000 ? -(int32_t)(b & 0x7FFF) : (int32_t)b;
}

static size_t ulp_class(float a, float b)
{
	if (!isfinite(a) || !isfinite(b))
		return ST_SVF_ULPS - 1;
	int32_t d = abs(rank(a) - rank(b));
	return d <= 2 ? (size_t)d : d <= 4 ? 3 : d <= 16 ? 4 : d <= 256 ? 5 : 6;
}

static void keep(struct st_svf_metrics *m, const struct st_svf_worst *w)
{
	size_t want = m->want ? m->want : 1, i = m->n_worst;
	if (i == want && !(w->diff > m->worst[i - 1].diff))
		return;
	i = i < want ? m->n_worst++ : i - 1;
	for (; i > 0 && w->diff > m->worst[i - 1].diff; i--)
		m->worst[i] = m->worst[i - 1];
	m->worst[i] = *w;
}

static double distance(float a, float b)
{
	if (isfinite(a) && isfinite(b))
		return fabs((double)a - (double)b);
	return (isnan(a) ? isnan(b) : a == b) ? 0 : INFINITY;
}

struct pieces {
	const float *a, *b;
	uint64_t n;
	struct st_svf_metrics *part;
};

static void measure(void *ctx, unsigned lane, uint64_t begin, uint64_t end)
{
	const struct pieces *p = ctx;
	(void)lane;
	for (uint64_t k = begin; k < end; k++) {
		struct st_svf_metrics *m = &p->part[k];
		const float *a = p->a + k * PIECE, *b = p->b + k * PIECE;
		uint64_t n = p->n - k * PIECE < PIECE ? p->n - k * PIECE : PIECE, first = m->count;
		m->count = n;
		st_sums_of(a, b, n, first, &m->s);
		for (uint64_t i = 0; i < n; i++) {
			m->mismatched += a[i] != b[i];
			m->bits += st_f32_bits(a[i]) != st_f32_bits(b[i]);
			if (m->by_ulps)
				m->ulps[ulp_class(a[i], b[i])]++;
			double d = distance(a[i], b[i]);
			if (d > 0)
				keep(m, &(struct st_svf_worst){ first + i, (double)a[i], (double)b[i], d });
		}
	}
}

static void merge(struct st_svf_metrics *m, const struct st_svf_metrics *p)
{
	m->count += p->count;
	m->mismatched += p->mismatched;
	m->bits += p->bits;
	st_sums_fold(&m->s, &p->s);
	for (size_t i = 0; i < ST_SVF_ULPS; i++)
		m->ulps[i] += p->ulps[i];
	for (size_t i = 0; i < p->n_worst; i++)
		keep(m, &p->worst[i]);
}

void st_svf_metrics_add(struct st_svf_metrics *m, const float *a, const float *b, uint64_t n, struct st_pool *pool)
{
	struct st_svf_metrics part[ROUND];
	for (uint64_t at = 0; at < n; at += ROUND * PIECE) {
		struct pieces p = { a + at, b + at, n - at < ROUND * PIECE ? n - at : ROUND * PIECE, part };
		uint64_t pieces = st_ceil_div(p.n, PIECE);
		for (uint64_t i = 0; i < pieces; i++)
			part[i] = (struct st_svf_metrics){ .want = m->want,
				                           .by_ulps = m->by_ulps,
				                           .count = m->count + i * PIECE };
		st_pool_run(pool, pieces, 1, measure, &p);
		for (uint64_t i = 0; i < pieces; i++)
			merge(m, &part[i]);
	}
}

enum st_status st_svf_metrics_of(struct st_svf_metrics *m, const struct st_tensor *a, const struct st_tensor *b,
                                 struct st_pool *pool, struct st_error *err)
{
	if (a->n_elems == 0)
		return ST_OK; /* of however many rows */
	uint64_t rows = st_tensor_rows(a), cols = st_tensor_cols(a), step = st_svf_step(rows, cols);
	float *x = st_alloc_array2(step, cols, sizeof *x), *y = st_alloc_array2(step, cols, sizeof *y);
	enum st_status st = x && y ? ST_OK : st_fail(err, ST_ERR_NOMEM, "out of memory");
	for (uint64_t r = 0; st == ST_OK && r < rows; r += step) {
		uint64_t n = rows - r < step ? rows - r : step;
		st_tensor_decode(a, r, n, x);
		st_tensor_decode(b, r, n, y);
		st_svf_metrics_add(m, x, y, n * cols, pool);
		st = st_check_cancel(err);
	}
	free(x);
	free(y);
	return st;
}

double st_svf_metrics_mean(const struct st_svf_metrics *m)
{
	return m->s.apart ? INFINITY : m->count ? m->s.abs / (double)m->count : 0;
}

bool st_svf_passed(const struct st_svf_metrics *m, const struct st_svf_tolerance *t)
{
	return m->count > 0 && m->s.bad_a == 0 && m->s.bad_b == 0 && m->s.max <= t->max_abs
	    && st_svf_metrics_mean(m) <= t->mean_abs;
}

/* ---- tolerances ---- */

#define AT(m) ST_JSON_AT(struct st_svf_tolerance, m)
static const struct st_json_field fields[] = {
	{ AT(max_abs), .key = { "max_abs_error" }, .max = DBL_MAX },
	{ AT(mean_abs), .key = { "mean_abs_error" }, .max = DBL_MAX },
	{ AT(required), .key = { "required" } },
};

json_t *st_svf_check_json(const struct st_svf_check *c, const struct st_svf_tolerance *t, bool numbers)
{
	return st_json_object({ "tolerance", st_json_put_fields(json_object(), fields, 2, t) },
	                      { "byte_match", json_boolean(c->byte_match) },
	                      { "shape_match", json_boolean(c->shape_match) },
	                      { "max_abs_error", numbers ? st_json_number(c->m.s.max) : json_null() },
	                      { "mean_abs_error", numbers ? st_json_number(st_svf_metrics_mean(&c->m)) : json_null() },
	                      { "mismatched_element_count", numbers ? st_json_u64(c->m.mismatched) : json_null() });
}

/* {max, mean} of the products; scales and the normalization are the same in every profile. The cast is reported, not
 * required. */
static void set(struct st_svf_profile *p, const char *name, double max, double mean)
{
	const struct st_svf_tolerance none = { 0, 0, true }, scale = { 1e-6, 1e-8, true }, norm = { 1e-6, 1e-6, true };
	snprintf(p->name, sizeof p->name, "%s", name);
	for (size_t s = 0; s < ST_SVF_STAGES; s++)
		p->stage[s] = (struct st_svf_tolerance){ max, mean, s != ST_SVF_FINAL_BF16 };
	p->stage[ST_SVF_SOURCE] = p->stage[ST_SVF_OFFSETS] = none;
	p->stage[ST_SVF_SCALED_S] = p->stage[ST_SVF_U_SCALED] = scale;
	p->stage[ST_SVF_NORMALIZATION] = norm;
}

static enum st_status read_profile(const json_t *o, struct st_svf_profile *p, struct st_error *err)
{
	const char *key;
	json_t *v;
	json_object_foreach((json_t *)(uintptr_t)o, key, v)
	{
		size_t s = 0;
		while (s < ST_SVF_STAGES && strcmp(st_svf_stage_names[s], key) != 0)
			s++;
		if (s == ST_SVF_STAGES)
			return st_fail_at(err, ST_ERR_FORMAT, ST_NO_OFFSET, key,
			                  "is no stage; the first is source_f32, the last final_bf16");
		if (!json_is_object(v))
			return st_json_bad(o, NULL, key, "not an object", err);
		ST_TRY(st_json_read(v, &(struct st_json_read){ .where = key, .refuse_unknown = true }, fields, 3,
		                    &p->stage[s], NULL, err));
	}
	return ST_OK;
}

enum st_status st_svf_profile_read(const char *name, struct st_svf_profile *p, struct st_error *err)
{
	json_t *o;
	set(p, "strict", 1e-3, 1e-5);
	if (!name || strcmp(name, "strict") == 0)
		return ST_OK;
	if (strcmp(name, "f32") == 0) {
		set(p, "f32", 1e-5, 1e-7);
		return ST_OK;
	}
	ST_TRY(st_json_load_object(name, 0, &o, err));
	enum st_status st = read_profile(o, p, err);
	if (st != ST_OK)
		st_error_in(err, name);
	snprintf(p->name, sizeof p->name, "%.63s", name);
	json_decref(o);
	return st;
}
