#include "turboquant/oracle.h"

#include "base/error.h"
#include "base/mem.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* H_2n = [H_n H_n; H_n -H_n]: transform both halves, then their sum and difference. */
static void hadamard(double *x, uint32_t n)
{
	if (n == 1)
		return;
	uint32_t half = n / 2;
	hadamard(x, half);
	hadamard(x + half, half);
	for (uint32_t i = 0; i < half; i++) {
		double a = x[i], b = x[half + i];
		x[i] = a + b;
		x[half + i] = a - b;
	}
}

void st_oracle_fwht(double *x, uint32_t d)
{
	hadamard(x, d);
	for (uint32_t i = 0; i < d; i++)
		x[i] /= sqrt((double)d);
}

void st_oracle_decode_row(const struct st_oracle_decode *o, uint32_t d, const uint8_t *codes, const float *norms,
                          double *y)
{
	double norm[2];
	for (unsigned own = 0; own < 2; own++) {
		unsigned block = o->norm_block == ST_NORM_SWAPPED ? (d == 512) - own
		               : o->norm_block == ST_NORM_FIRST   ? 0
		               : o->norm_block == ST_NORM_SECOND  ? d == 512
		                                                  : own;
		norm[own] = d == 512 || own == 0 ? norms[block] : 0;
	}
	for (uint32_t j = 0; o->bits == 4 && j < d; j += 2) {
		const double low = o->levels[codes[j / 2] % 16], high = o->levels[codes[j / 2] / 16];
		y[j] = (o->nibbles_swapped ? high : low) * norm[j / 256] * o->factor;
		y[j + 1] = (o->nibbles_swapped ? low : high) * norm[j / 256] * o->factor;
	}
	for (uint32_t j = 0; o->bits != 4 && j < d; j++)
		y[j] = o->levels[codes[j] % (1u << o->bits)] * norm[j / 256] * o->factor;
	if (o->fwht)
		st_oracle_fwht(y, d);
	for (uint32_t j = 0; o->signs && j < d; j++)
		y[j] *= st_tq_sign(j);
}

enum st_status st_oracle_attend(const struct st_tq_params *p, const uint32_t *head_map, const double *q,
                                const double *k, const double *v, uint32_t n, double *out, struct st_error *err)
{
	const uint32_t d = p->head_dim;
	double *s = st_alloc_array(n ? n : 1, sizeof *s);
	if (!s)
		return st_fail(err, ST_ERR_NOMEM, "out of memory");
	for (uint32_t h = 0; h < p->num_heads; h++) {
		const double *qh = q + (size_t)h * d, *kh = k + (size_t)head_map[h] * n * d,
			     *vh = v + (size_t)head_map[h] * n * d;
		double *y = out + (size_t)h * d, top = -INFINITY, total = 0;
		for (uint32_t i = 0; i < n; i++) {
			double dot = 0;
			for (uint32_t j = 0; j < d; j++)
				dot += qh[j] * kh[(size_t)i * d + j];
			s[i] = dot * p->scale;
			if (p->softcap > 0)
				s[i] = p->softcap * tanh(s[i] / p->softcap);
			top = fmax(top, s[i]);
		}
		memset(y, 0, d * sizeof *y);
		for (uint32_t i = 0; i < n; i++) {
			double w = exp(s[i] - top);
			total += w;
			for (uint32_t j = 0; j < d; j++)
				y[j] += w * vh[(size_t)i * d + j];
		}
		for (uint32_t j = 0; n && j < d; j++)
			y[j] /= total;
	}
	free(s);
	return ST_OK;
}

static void default_map(const struct st_tq_params *p, uint32_t *map)
{
	for (uint32_t h = 0; h < p->num_heads; h++)
		map[h] = h / (p->num_heads / p->num_kv_heads);
}

/* Chronological positions that the query sees, from the definition of the masks. */
static bool sees(const struct st_tq_params *p, uint32_t i)
{
	return i < p->kv_seq_len
	    && (p->mask_type != ST_TQ_MASK_SLIDING || (uint64_t)i + p->sliding_window >= p->kv_seq_len);
}

enum st_status st_oracle_dequant(const struct st_tq_params *p, const struct st_oracle_decode *o,
                                 const struct st_tq_kv *kv, const float *q, double *out, struct st_error *err)
{
	const uint32_t d = p->head_dim, G = p->num_kv_heads, H = p->num_heads;
	const size_t rb = o->bits == 4 ? d / 2 : d, nb = d == 512 ? 2 : 1;
	uint32_t n = 0;
	for (uint32_t i = 0; i < p->kv_seq_len; i++)
		n += sees(p, i);
	double *k = st_alloc_array((uint64_t)G * n * d, sizeof *k), *v = st_alloc_array((uint64_t)G * n * d, sizeof *v);
	double *qd = st_alloc_array((uint64_t)H * d, sizeof *qd);
	uint32_t *map = st_alloc_array(H, sizeof *map);
	enum st_status st = ST_OK;
	if (!k || !v || !qd || !map) {
		st = st_fail(err, ST_ERR_NOMEM, "out of memory");
		goto out;
	}
	default_map(p, map);
	for (size_t i = 0; i < (size_t)H * d; i++)
		qd[i] = q[i];
	for (uint32_t g = 0; g < G; g++) {
		uint32_t at = 0;
		for (uint32_t i = 0; i < p->kv_seq_len; i++) {
			if (!sees(p, i))
				continue;
			size_t row = (size_t)g * p->kv_capacity + ((uint64_t)p->ring_start + i) % p->kv_capacity;
			st_oracle_decode_row(o, d, kv->k_codes + row * rb, kv->k_norms + row * nb,
			                     k + ((size_t)g * n + at) * d);
			st_oracle_decode_row(o, d, kv->v_codes + row * rb, kv->v_norms + row * nb,
			                     v + ((size_t)g * n + at) * d);
			at++;
		}
	}
	st = st_oracle_attend(p, map, qd, k, v, n, out, err);
out:
	free(k);
	free(v);
	free(qd);
	free(map);
	return st;
}

enum st_status st_oracle_floor(const struct st_tq_params *p, const float *k, const float *v, const float *q,
                               double *out, struct st_error *err)
{
	const uint32_t d = p->head_dim, L = p->kv_seq_len;
	double *s = st_alloc_array(L, sizeof *s);
	if (!s)
		return st_fail(err, ST_ERR_NOMEM, "out of memory");
	for (uint32_t h = 0; h < p->num_heads; h++) {
		size_t g = h / (p->num_heads / p->num_kv_heads);
		const float *qh = q + (size_t)h * d, *kh = k + g * L * d, *vh = v + g * L * d;
		double *y = out + (size_t)h * d, top = -INFINITY, total = 0;
		for (uint32_t i = 0; i < L; i++) {
			if (!sees(p, i))
				continue;
			double part[8] = { 0 };
			for (uint32_t j = 0; j < d; j += 8)
				for (int l = 0; l < 8; l++)
					part[l] += (double)qh[j + l] * (double)kh[(size_t)i * d + j + l];
			s[i] = p->scale
			     * ((part[0] + part[4]) + (part[1] + part[5])
			        + ((part[2] + part[6]) + (part[3] + part[7])));
			if (p->softcap > 0)
				s[i] = p->softcap * tanh(s[i] / p->softcap);
			top = fmax(top, s[i]);
		}
		memset(y, 0, d * sizeof *y);
		for (uint32_t i = 0; i < L; i++) {
			double w = sees(p, i) ? exp(s[i] - top) : 0;
			/* Below 1e-30 of the largest weight a row cannot reach f64's last bit of the sum. */
			if (w < 1e-30)
				continue;
			total += w;
			for (uint32_t j = 0; j < d; j++)
				y[j] += w * (double)vh[(size_t)i * d + j];
		}
		for (uint32_t j = 0; j < d; j++)
			y[j] /= total;
	}
	free(s);
	return ST_OK;
}
