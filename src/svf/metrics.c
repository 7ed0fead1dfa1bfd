/* metrics.c - how far two values of a stage are apart, and how far they may be. */
#include "svf/svf.h"

#include "base/error.h"
#include "dtype/half.h"

#include <math.h>
#include <omp.h>
#include <stdlib.h>
#include <string.h>

#define PIECE ((uint64_t)1 << 16) /* part of the order of summation, so never a matter of threads */

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

static void careful(struct st_svf_metrics *m, const float *a, const float *b, uint64_t n, uint64_t first, bool ulps)
{
	for (uint64_t i = 0; i < n; i++) {
		double x = (double)a[i], y = (double)b[i], d = fabs(x - y);
		bool fx = isfinite(a[i]), fy = isfinite(b[i]);
		m->mismatched += a[i] != b[i];
		m->bits += st_f32_bits(a[i]) != st_f32_bits(b[i]);
		if (ulps)
			m->ulps[ulp_class(a[i], b[i])]++;
		if (!fx || !fy) {
			bool alike = isnan(a[i]) ? isnan(b[i]) : a[i] == b[i];
			m->nonfinite_a += !fx;
			m->nonfinite_b += !fy;
			m->apart += !alike;
			d = alike ? 0 : INFINITY;
		} else {
			m->sum_abs += d;
			m->sum_aa += x * x;
			m->sum_bb += y * y;
			m->sum_ab += x * y;
			m->sum_dd += d * d;
		}
		if (d > 0)
			keep(m, &(struct st_svf_worst){ .at = first + i, .a = x, .b = y, .diff = d });
		m->max_abs = d > m->max_abs ? d : m->max_abs;
	}
}

static void merge(struct st_svf_metrics *m, const struct st_svf_metrics *p)
{
	m->mismatched += p->mismatched;
	m->bits += p->bits;
	m->nonfinite_a += p->nonfinite_a;
	m->nonfinite_b += p->nonfinite_b;
	m->apart += p->apart;
	m->sum_abs += p->sum_abs;
	m->sum_aa += p->sum_aa;
	m->sum_bb += p->sum_bb;
	m->sum_ab += p->sum_ab;
	m->sum_dd += p->sum_dd;
	m->max_abs = p->max_abs > m->max_abs ? p->max_abs : m->max_abs;
	for (size_t i = 0; i < ST_SVF_ULPS; i++)
		m->ulps[i] += p->ulps[i];
	for (size_t i = 0; i < p->n_worst; i++)
		keep(m, &p->worst[i]);
}

void st_svf_metrics_add(struct st_svf_metrics *m, const float *a, const float *b, uint64_t n, uint64_t first, bool ulps,
                        int threads)
{
	m->count += n;
	if (n <= PIECE) {
		struct st_svf_metrics p = { .want = m->want };
		careful(&p, a, b, n, first, ulps);
		merge(m, &p);
		return;
	}
	uint64_t pieces = (n + PIECE - 1) / PIECE;
#pragma omp parallel for schedule(static) ordered num_threads(threads)
	for (uint64_t i = 0; i < pieces; i++) {
		uint64_t at = i * PIECE, len = n - at < PIECE ? n - at : PIECE;
		struct st_svf_metrics p = { .want = m->want };
		careful(&p, a + at, b + at, len, first + at, ulps);
#pragma omp ordered
		merge(m, &p);
	}
}

double st_svf_metrics_mean(const struct st_svf_metrics *m)
{
	return m->apart ? INFINITY : m->count ? m->sum_abs / (double)m->count : 0;
}

/* ---- tolerances ---- */

bool st_svf_metrics_passed(const struct st_svf_metrics *m, const struct st_svf_tolerance *t)
{
	return m->count > 0 && m->nonfinite_a == 0 && m->nonfinite_b == 0 && m->max_abs <= t->max_abs
	    && st_svf_metrics_mean(m) <= t->mean_abs;
}

/* {max, mean} for source and offsets; scaled_s, u_scaled; normalization; products. The cast is reported, not required.
 */
static void set(struct st_svf_profile *p, const char *name, double scale_max, double scale_mean, double product_max,
                double product_mean)
{
	const struct st_svf_tolerance none = { 0, 0, true }, scale = { scale_max, scale_mean, true },
				      norm = { 1e-6, 1e-6, true }, product = { product_max, product_mean, true };
	snprintf(p->name, sizeof p->name, "%s", name);
	p->stage[ST_SVF_SOURCE] = p->stage[ST_SVF_OFFSETS] = none;
	p->stage[ST_SVF_SCALED_S] = p->stage[ST_SVF_U_SCALED] = scale;
	p->stage[ST_SVF_NORMALIZATION] = norm;
	p->stage[ST_SVF_MATMUL] = p->stage[ST_SVF_ZERO] = p->stage[ST_SVF_ADAPTED] = p->stage[ST_SVF_FINAL_F32] =
		product;
	p->stage[ST_SVF_FINAL_BF16] = (struct st_svf_tolerance){ product_max, product_mean, false };
}

static enum st_status read_one(const json_t *o, const char *key, struct st_svf_tolerance *t, struct st_error *err)
{
	static const char *const none[] = { NULL }, *const keys[] = { "max_abs_error", "mean_abs_error", "required",
		                                                      NULL };
	if (!json_is_object(o))
		return st_fail_at(err, ST_ERR_FORMAT, ST_NO_OFFSET, key, "is not an object");
	ST_TRY(st_svf_check_keys(o, key, none, keys, err));
	const json_t *max = json_object_get(o, "max_abs_error"), *mean = json_object_get(o, "mean_abs_error"),
		     *req = json_object_get(o, "required");
	if ((max && (!json_is_number(max) || json_number_value(max) < 0))
	    || (mean && (!json_is_number(mean) || json_number_value(mean) < 0)) || (req && !json_is_boolean(req)))
		return st_fail_at(
			err, ST_ERR_FORMAT, ST_NO_OFFSET, key,
			"needs max_abs_error and mean_abs_error as numbers from 0, required as true or false");
	t->max_abs = max ? json_number_value(max) : t->max_abs;
	t->mean_abs = mean ? json_number_value(mean) : t->mean_abs;
	t->required = req ? json_is_true(req) : t->required;
	return ST_OK;
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
		ST_TRY(read_one(v, key, &p->stage[s], err));
	}
	return ST_OK;
}

enum st_status st_svf_profile_read(const char *name, struct st_svf_profile *p, struct st_error *err)
{
	json_t *o;
	set(p, "strict", 1e-6, 1e-8, 1e-3, 1e-5);
	if (!name || strcmp(name, "strict") == 0)
		return ST_OK;
	if (strcmp(name, "f32") == 0) {
		set(p, "f32", 1e-6, 1e-8, 1e-5, 1e-7);
		return ST_OK;
	}
	ST_TRY(st_svf_load_json(name, &o, err));
	enum st_status st = read_profile(o, p, err);
	if (st != ST_OK)
		st_error_in(err, name);
	snprintf(p->name, sizeof p->name, "%.63s", name);
	json_decref(o);
	return st;
}
