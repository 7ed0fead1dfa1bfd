/* attention.c - scores, masks, caches, one query at a time. */
#include "engine.h"

static bool sees(const struct run *r, size_t l, size_t p, size_t j, size_t P)
{
	const struct model *m = r->m;
	bool local = m->local[l];
	size_t window = m->window;
	if (on(r, FAULT_ATTN_WINDOW_UNWANTED, (int)l, NULL)) {
		local = true;
		window = (size_t)r->hit->value;
	}
	if (on(r, FAULT_ATTN_WINDOW_IGNORED, (int)l, NULL))
		local = false;
	if (on(r, FAULT_ATTN_WINDOW_OFF, (int)l, NULL)) {
		window += (size_t)(int)r->hit->value;
		r->hit->truth = (double)window;
	}
	if (on(r, FAULT_CACHE_RING, (int)l, NULL) && r->step > 0)
		window++;
	if (local && j + window <= p)
		return false;
	if (on(r, FAULT_ATTN_PADDING, (int)l, NULL) && j < (size_t)r->hit->value && p >= (size_t)r->hit->value)
		return false;
	if (on(r, FAULT_ATTN_NO_MASK, (int)l, NULL))
		return j < P;
	if (on(r, FAULT_ATTN_MASK_FUTURE, (int)l, NULL))
		return j <= p + 1;
	if (on(r, FAULT_ATTN_MASK_SELF, (int)l, NULL) && p > 0)
		return j < p;
	return j <= p;
}

static double score_of(struct run *r, size_t l, const double *q, const double *k)
{
	const struct model *m = r->m;
	double scale = m->scale, cap = m->cap;
	if (on(r, FAULT_ATTN_SCALE, (int)l, NULL))
		scale = r->hit->truth = r->hit->value > 0 ? r->hit->value
		                      : r->hit->value < 0 ? 1 / sqrt((double)m->D)
		                                          : 1 / (double)m->d;
	if (on(r, FAULT_ATTN_CAP_MISSING, (int)l, NULL))
		cap = 0;
	if (on(r, FAULT_ATTN_CAP_ADDED, (int)l, NULL))
		cap = r->hit->value;
	double s = out(r, dot(r->o.arith, r->o.order, q, k, m->d));
	s = out(r, s * step(r, scale));
	return cap > 0 ? out(r, out(r, step(r, tanh(out(r, s / cap)))) * cap) : s;
}

/* What is subtracted for each position in between. Heads beyond a power of two have every second slope of twice as
 * many. */
static double slope_of(const struct run *r, size_t l, size_t h)
{
	const struct model *m = r->m;
	size_t n = 1;
	while (n < m->H)
		n *= 2;
	double most = m->slopes;
	if (most == 0 || on(r, FAULT_ATTN_ALIBI_MISSING, (int)l, NULL))
		return 0;
	size_t half = n / 2, at = n == m->H ? h + 1 : h < half ? 2 * (h + 1) : 2 * (h - half) + 1;
	double power = on(r, FAULT_ATTN_ALIBI_POWER, (int)l, NULL) ? most * (double)(h + 1) / (double)m->H
	                                                           : most * (double)at / (double)n;
	return pow(2, -power) * (on(r, FAULT_ATTN_ALIBI_SCALED, (int)l, NULL) ? r->hit->value : 1);
}

/* One query of one head over the cache. p and s: rows of P for the trace. */
static void attend(struct run *r, size_t l, size_t h, size_t pos, size_t P, const double *query, double *s, double *p,
                   double *y)
{
	const struct model *m = r->m;
	size_t d = m->d, g = on(r, FAULT_ATTN_GQA, (int)l, NULL) ? h % m->G : h / (m->H / m->G), row = m->G * d;
	bool swapped = on(r, FAULT_ATTN_KV_SWAPPED, (int)l, NULL);
	double slope = slope_of(r, l, h);
	const double *keys = (swapped ? r->v : r->k)[l] + g * d, *values = (swapped ? r->k : r->v)[l] + g * d;
	bool half = r->o.kv == CACHE_F16 || r->o.kv == CACHE_BF16;
	double q[256], most = -INFINITY, sum = 0, sink = -INFINITY;
	memcpy(q, query, d * sizeof *q);
	for (size_t i = 0; i < d; i++)
		q[i] = r->o.kv == CACHE_F16 ? to_f16(q[i]) : r->o.kv == CACHE_BF16 ? to_bf16(q[i]) : q[i];
	if (r->o.kv == CACHE_Q8_0)
		to_q8_0(q, d);
	if (m->w[l][SINKS].v && !on(r, FAULT_ATTN_SINK_MISSING, (int)l, NULL))
		sink = out(r, m->w[l][SINKS].v[h]);
	if (on(r, FAULT_ATTN_SINK_ADDED, (int)l, NULL))
		sink = 0;
	if (r->o.flash != FLASH_NONE) { /* one pass: what was summed is made smaller whenever a larger score comes */
		double acc[256] = { 0 };
		bool low = r->o.flash == FLASH_F16;
		for (size_t j = 0; j < P; j++) {
			if (!sees(r, l, pos, j, P))
				continue;
			double x = out(r, score_of(r, l, q, keys + j * row) - slope * ((double)pos - (double)j)),
			       old = most, weight = 1, keep_of = 1;
			if (x > most) {
				most = x;
				keep_of = old == -INFINITY ? 0 : step(r, exp(old - most));
			} else {
				weight = step(r, exp(x - most));
			}
			for (size_t i = 0; i < d; i++) {
				double a = low ? to_f16(acc[i] * keep_of) : step(r, acc[i] * keep_of);
				a += low ? to_f16(weight) * values[j * row + i] : step(r, weight * values[j * row + i]);
				acc[i] = low ? to_f16(a) : step(r, a);
			}
			sum = step(r, step(r, sum * keep_of) + weight);
		}
		if (sink > -INFINITY) {
			double to = fmax(most, sink), by = exp(most - to);
			sum = step(r, sum * by + exp(sink - to));
			for (size_t i = 0; i < d; i++)
				acc[i] = step(r, acc[i] * by);
		}
		for (size_t i = 0; i < d; i++)
			y[i] = out(r, acc[i] / sum);
		return;
	}
	for (size_t j = 0; j < P; j++) {
		s[j] = sees(r, l, pos, j, P) ? score_of(r, l, q, keys + j * row) : 0;
		if (slope != 0 && sees(r, l, pos, j, P))
			s[j] = out(r, s[j] - step(r, slope * ((double)pos - (double)j)));
		if (sees(r, l, pos, j, P))
			most = fmax(most, s[j]);
	}
	bool rounds = sink > -INFINITY; /* gpt_oss takes the largest away before the softmax */
	most = fmax(most, sink);
	for (size_t j = 0; j < P; j++) {
		p[j] = sees(r, l, pos, j, P) ? step(r, exp(rounds ? out(r, s[j] - most) : step(r, s[j] - most))) : 0;
		sum = step(r, sum + p[j]);
	}
	if (sink > -INFINITY)
		sum = step(r, sum + step(r, exp(out(r, sink - most))));
	for (size_t j = 0; j < P; j++) {
		p[j] = out(r, step(r, p[j] / sum));
		if (on(r, FAULT_ATTN_DROPOUT, (int)l, NULL)) {
			r->hit->truth = 1 / (1 - r->hit->value);
			p[j] = mix64(((l * 64 + h) * 4096 + pos) * 4096 + j) % 10 == 0 ? 0 : p[j] / (1 - r->hit->value);
		}
	}
	double *column = malloc(2 * P * sizeof *column);
	if (!column)
		exit(2);
	for (size_t i = 0; i < d; i++) {
		for (size_t j = 0; j < P; j++) {
			column[j] = values[j * row + i];
			column[P + j] = half ? (r->o.kv == CACHE_F16 ? to_f16(p[j]) : to_bf16(p[j])) : p[j];
		}
		y[i] = out(r, dot(r->o.arith, r->o.order, column + P, column, P));
	}
	free(column);
}

static void into_cache(const struct run *r, double *x, size_t n)
{
	if (r->o.kv == CACHE_Q8_0)
		to_q8_0(x, n);
	else if (r->o.kv != CACHE_PLAIN)
		for (size_t i = 0; i < n; i++)
			x[i] = r->o.kv == CACHE_F16 ? to_f16(x[i]) : to_bf16(x[i]);
}

/* Four bits for each 32 values, and the least of them is taken for nothing. */
static void badly_quantised(double *x, size_t n)
{
	for (size_t b = 0; b < n; b += 32) {
		double lo = INFINITY, hi = -INFINITY;
		size_t m = n - b < 32 ? n - b : 32;
		for (size_t i = 0; i < m; i++) {
			lo = fmin(lo, x[b + i]);
			hi = fmax(hi, x[b + i]);
		}
		for (size_t i = 0; i < m; i++)
			x[b + i] = hi > lo ? rint((x[b + i] - lo) / (hi - lo) * 15) / 15 * (hi - lo) : 0;
	}
}

/* Queries, keys and values as attention takes them. */
static void parts_of(struct run *r, size_t l, const double *input, size_t n, size_t pos0, size_t seen, double *part[3])
{
	const struct model *m = r->m;
	size_t d = m->d, q = m->H * d, kv = m->G * d, all = q + 2 * kv;
	int L = (int)l;
	double *qkv = rows(r, n, all);
	const size_t at[3] = { 0, q, q + kv }, width[3] = { q, kv, kv };
	bool biased = get(r, l, Q_BIAS).v != NULL, fused = biased && is_stream(r);
	for (int i = 0; i < 3; i++) {
		struct weight w = get(r, l, (enum slot)(Q + i));
		product(r, l, (enum slot)(Q + i), &w, 0, w.rows, input, n, qkv + at[i], all);
	}
	if (!fused) {
		round_all(r, qkv, n * all);
		keep(r, "qkv_matmul", L, qkv, n, all);
	}
	if (biased) {
		for (int i = 0; i < 3; i++)
			add_bias(r, l, (enum slot)(Q_BIAS + i), (enum slot)(Q + i), 0, qkv + at[i], n, width[i], all);
		round_all(r, qkv, n * all);
		keep(r, "qkv_bias", L, qkv, n, all);
	}
	for (size_t i = 0; i < n * all && m->clip > 0; i++)
		qkv[i] = fmax(fmin(qkv[i], m->clip), -m->clip);
	if (m->clip > 0)
		keep(r, "qkv_clip", L, qkv, n, all);
	for (int i = 0; i < 3; i++) {
		part[i] = rows(r, n, width[i]);
		for (size_t t = 0; t < n; t++)
			memcpy(part[i] + t * width[i], qkv + t * all + at[i], width[i] * sizeof *qkv);
	}
	bool turns = m->turns[l], order = on(r, FAULT_NORM_ORDER, L, NULL);
	if (m->w[l][Q_NORM].v) {
		struct norm_of nq = { "q_post_norm", Q_NORM, SLOTS, m->qk_norm_whole ? 1 : m->H, m->qk_norm_whole };
		struct norm_of nk = { "k_post_norm", K_NORM, SLOTS, m->qk_norm_whole ? 1 : m->G, m->qk_norm_whole };
		if (order)
			rope(r, l, part[0], n, m->H, pos0, seen);
		part[0] = norm(r, L, &nq, part[0], n, q);
		part[1] = norm(r, L, &nk, part[1], n, kv);
	}
	if (turns) {
		double *plain = rows(r, n, kv);
		memcpy(plain, part[1], n * kv * sizeof *plain);
		if (!order)
			rope(r, l, part[0], n, m->H, pos0, seen);
		rope(r, l, part[1], n, m->G, pos0, seen);
		keep(r, "q_post_rope", L, part[0], n, q);
		keep(r, "k_post_rope", L, part[1], n, kv);
		if (on(r, FAULT_ROPE_ON_V, L, NULL))
			rope(r, l, part[2], n, m->G, pos0, seen);
	} else if (on(r, FAULT_ROPE_UNWANTED, L, NULL)) {
		rotate(r, l, part[0], n, m->H, pos0, seen);
		rotate(r, l, part[1], n, m->G, pos0, seen);
	}
}

double *attention(struct run *r, size_t l, const double *input, size_t n, size_t pos0)
{
	const struct model *m = r->m;
	size_t d = m->d, q = m->H * d, kv = m->G * d, P = pos0 + n, seen = r->step > 0 ? P : r->n_prompt;
	int L = (int)l;
	double *part[3];
	(m->latent ? latent_parts : parts_of)(r, l, input, n, pos0, seen, part);
	size_t slot = on(r, FAULT_CACHE_SLOT, L, NULL) && r->step > 0 ? 0 : pos0;
	bool lost = on(r, FAULT_CACHE_UPDATE, L, NULL) && r->step > 0;
	for (int i = 1; i < 3 && !lost; i++) {
		double *cache = (i == 1 ? r->k : r->v)[l] + slot * kv;
		memcpy(cache, part[i], n * kv * sizeof *cache);
		for (size_t t = 0; t < n; t++)
			into_cache(r, cache + t * kv, kv);
	}
	double *scores = rows(r, m->H * n, P), *probs = rows(r, m->H * n, P), *y = rows(r, n, q);
	for (size_t h = 0; h < m->H; h++)
		for (size_t t = 0; t < n; t++)
			attend(r, l, h, pos0 + t, P, part[0] + t * q + h * d, scores + (h * n + t) * P,
			       probs + (h * n + t) * P, y + t * q + h * d);
	if (r->o.flash == FLASH_NONE) {
		struct value *v = add_value(r, "attn_scores", L, scores, m->H, n, P);
		for (size_t e = 0; e < v->n; e++) {
			size_t h = e / P / n, t = e / P % n, j = e % P;
			if (!sees(r, l, pos0 + t, j, P))
				v->v[e] = r->o.mask_inf ? -INFINITY : 0;
			else if (r->o.raw_scores && m->slopes == 0)
				v->v[e] = out(r, dot(r->o.arith, r->o.order, part[0] + t * q + h * d,
				                     r->k[l] + j * kv + h / (m->H / m->G) * d, d));
		}
		add_value(r, "attn_softmax", L, probs, m->H, n, P);
	}
	for (size_t t = 0; t < n; t++) {
		double *a = y + t * q, *last = a + (m->H - 1) * d, was[256];
		if (on(r, FAULT_ATTN_HEAD_ZEROED, L, NULL)) {
			r->hit->truth = (double)((size_t)r->hit->value % m->H);
			memset(a + (size_t)r->hit->truth * d, 0, d * sizeof *a);
		}
		if (on(r, FAULT_ATTN_HEAD_PERMUTED, L, NULL)) {
			memcpy(was, a, d * sizeof *a);
			memcpy(a, last, d * sizeof *a);
			memcpy(last, was, d * sizeof *a);
		}
	}
	if (m->latent) { /* values are shorter than keys */
		q = m->H * m->vd;
		for (size_t k = 0; k < n * q; k++)
			y[k] = y[k / m->vd * d + k % m->vd];
	}
	keep(r, "attention", L, y, n, q);
	if (r->step == 0 && on(r, FAULT_CACHE_QUANTISER, L, NULL)) {
		badly_quantised(r->k[l], n * kv);
		badly_quantised(r->v[l], n * kv);
	}
	if (r->step == 0 && on(r, FAULT_CACHE_UNROTATED, L, NULL)) {
		/* What stood before the rotation: turned back. */
		const struct rotation *o = m->local[l] ? &m->local_rope : &m->rope;
		double f[128], scale;
		frequencies(r, l, o, o->dims, seen, f, &scale);
		for (size_t t = 0; t < n; t++)
			for (size_t h = 0; h < m->G; h++)
				for (size_t i = 0; i < o->dims / 2; i++) {
					double *a = r->k[l] + t * kv + h * d + (m->interleaved ? 2 * i : i),
					       *b = a + (m->interleaved ? 1 : o->dims / 2), u = *a, v = *b,
					       angle = (double)t * f[i];
					*a = (u * cos(angle) + v * sin(angle)) / scale;
					*b = (v * cos(angle) - u * sin(angle)) / scale;
				}
	}
	struct weight w = get(r, l, O);
	double *o = rows(r, n, m->D);
	product(r, l, O, &w, 0, m->D, y, n, o, m->D);
	if (!m->w[l][O_BIAS].v || !is_stream(r)) {
		round_all(r, o, n * m->D);
		keep(r, "attn_out", L, o, n, m->D);
	}
	if (m->w[l][O_BIAS].v) {
		add_bias(r, l, O_BIAS, O, 0, o, n, m->D, m->D);
		round_all(r, o, n * m->D);
		keep(r, "attn_out_bias", L, o, n, m->D);
	}
	return o;
}
