/* forward.c - the stream through the layers: one prompt, then single tokens. */
#include "engine.h"

static double *add(struct run *r, int l, const char *stage, const double *stream, const double *branch,
                   const double *normed, size_t n)
{
	size_t D = r->m->D;
	double *y = rows(r, n, D);
	for (size_t i = 0; i < n * D; i++) {
		double a = stream[i], b = branch[i];
		if (on(r, FAULT_RES_MISSING, l, stage))
			a = 0;
		if (on(r, FAULT_RES_BRANCH_MISSING, l, stage))
			b = 0;
		if (on(r, FAULT_RES_SCALED, l, stage))
			b *= r->hit->value;
		if (on(r, FAULT_RES_SOURCE, l, stage) && normed)
			a = normed[i];
		y[i] = out(r, a + b);
		if (on(r, FAULT_RES_CLIPPED, l, stage))
			y[i] = fmax(fmin(y[i], r->hit->value), -r->hit->value);
	}
	keep(r, stage, l, y, n, D);
	return y;
}

static double *scaled(struct run *r, size_t l, const char *stage, const double *x, size_t n)
{
	double by = r->m->residual_scale, *y = rows(r, n, r->m->D);
	if (by == 1)
		return memcpy(y, x, n * r->m->D * sizeof *y);
	for (size_t i = 0; i < n * r->m->D; i++)
		y[i] = out(r, x[i] * step(r, by));
	keep(r, stage, (int)l, y, n, r->m->D);
	return y;
}

static double *layer(struct run *r, size_t l, double *x, size_t n, size_t pos0)
{
	const struct model *m = r->m;
	int L = (int)l;
	const struct norm_of before = { "attn_norm", ATTN_NORM, ATTN_NORM_BIAS, 1, false },
			     middle = { "ffn_norm", FFN_NORM, FFN_NORM_BIAS, 1, false };
	const struct norm_of after = { "post_attn_norm", POST_ATTN_NORM, SLOTS, 1, false },
			     last = { "post_ffn_norm", POST_FFN_NORM, SLOTS, 1, false };
	double *normed = m->no_pre_norm ? x : norm(r, L, &before, x, n, m->D);
	double *a = attention(r, l, normed, n, pos0), *h, *f;
	if (m->parallel) {
		double *in = normed, *both = rows(r, n, m->D);
		if (on(r, FAULT_RES_SEQUENTIAL, L, NULL)) {
			double *sum = rows(r, n, m->D);
			for (size_t i = 0; i < n * m->D; i++)
				sum[i] = x[i] + a[i];
			in = rows(r, n, m->D);
			norm_once(r, L, &before, sum, in, n, m->D);
		}
		f = dense(r, l, in, n);
		if (is_stream(r)) { /* the stream and attention first */
			for (size_t i = 0; i < n * m->D; i++)
				both[i] = out(r, x[i] + a[i]);
			return add(r, L, "post_ffn_residual", both, f, normed, n);
		}
		for (size_t i = 0; i < n * m->D; i++)
			both[i] = out(r, a[i] + f[i]);
		keep(r, "block_sum", L, both, n, m->D);
		return add(r, L, "post_ffn_residual", x, both, normed, n);
	}
	if (m->w[l][POST_ATTN_NORM].v)
		a = norm(r, L, &after, a, n, m->D);
	a = scaled(r, l, "attn_scaled", a, n);
	h = add(r, L, "post_attn_residual", x, a, m->no_pre_norm ? NULL : normed, n);
	const double *source = on(r, FAULT_RES_PARALLEL, L, NULL) ? x : h;
	double *middle_normed = m->no_pre_norm ? h : norm(r, L, &middle, source, n, m->D);
	f = m->experts[l] ? experts(r, l, middle_normed, h, n) : dense(r, l, middle_normed, n);
	if (m->w[l][POST_FFN_NORM].v)
		f = norm(r, L, &last, f, n, m->D);
	f = scaled(r, l, "ffn_scaled", f, n);
	return add(r, L, "post_ffn_residual", h, f, m->no_pre_norm ? NULL : middle_normed, n);
}

static double *embed(struct run *r, size_t pos0, size_t n)
{
	const struct model *m = r->m;
	struct weight e = get(r, 0, EMBED), p = get(r, 0, POSITIONS);
	double *x = rows(r, n, m->D), by = m->embed_scale;
	if (on(r, FAULT_EMBED_SCALE, -1, NULL))
		by = by == 1 ? sqrt((double)m->D) : 1;
	for (size_t t = 0; t < n; t++)
		for (size_t i = 0; i < m->D; i++) {
			size_t id = r->tokens[pos0 + t];
			if (on(r, FAULT_EMBED_ROW_SHIFT, -1, NULL))
				id = (id + 1) % m->V;
			double v = out(r, e.v[id * m->D + i]);
			x[t * m->D + i] = by == 1 ? v : out(r, v * out(r, by));
		}
	keep(r, "embedding", -1, x, n, m->D);
	if (!p.v)
		return x;
	double *where = rows(r, n, m->D), *sum = rows(r, n, m->D);
	for (size_t i = 0; i < n * m->D; i++) {
		size_t at = pos0 + i / m->D;
		if (on(r, FAULT_EMBED_POSITION_SHIFT, -1, NULL))
			at += (size_t)r->hit->value;
		where[i] = out(r, p.v[at % m->max_positions * m->D + i % m->D]);
	}
	keep(r, "position_embedding", -1, where, n, m->D);
	for (size_t i = 0; i < n * m->D; i++)
		sum[i] = out(r, x[i] + (on(r, FAULT_EMBED_POSITION_MISSING, -1, NULL) ? 0 : where[i]));
	keep(r, "embedding_sum", -1, sum, n, m->D);
	return sum;
}

static double *head(struct run *r, const double *x, size_t n)
{
	const struct model *m = r->m;
	bool tied = m->w[0][HEAD].v == NULL;
	struct weight w = get(r, 0, tied || on(r, FAULT_HEAD_TIED, -1, NULL) ? EMBED : HEAD);
	if (tied)
		w = spoil_weight(r, 0, HEAD, m->w[0][EMBED]);
	if (on(r, FAULT_HEAD_UNTIED, -1, NULL) || on(r, FAULT_HEAD_WRONG, -1, NULL)) {
		w = copy_of(r, w);
		for (size_t i = 0; i < w.rows * w.cols; i++)
			w.v[i] = (float)(noise(i + 31) * 0.2);
	}
	size_t from = r->o.last_only && n > 1 ? n - 1 : 0, rest = n - from;
	double *y = rows(r, rest, m->V), by = m->logit_scale, cap = m->final_cap;
	product(r, 0, HEAD, &w, 0, m->V, x + from * m->D, rest, y, m->V);
	round_all(r, y, rest * m->V);
	bool scales = strcmp(m->family, "cohere2") == 0 || strcmp(m->family, "granite") == 0;
	if (scales)
		keep(r, "head_matmul", -1, y, rest, m->V);
	if (on(r, FAULT_HEAD_SCALE, -1, NULL))
		by = by == 1 ? 1 / sqrt((double)m->D) : 1;
	if (on(r, FAULT_HEAD_SOFTCAP_MISSING, -1, NULL))
		cap = 0;
	if (on(r, FAULT_HEAD_SOFTCAP_ADDED, -1, NULL))
		cap = r->hit->value;
	for (size_t i = 0; i < rest * m->V; i++) {
		if (by != 1)
			y[i] = out(r, y[i] * step(r, by));
		if (cap > 0)
			y[i] = out(r, out(r, step(r, tanh(out(r, y[i] / cap)))) * cap);
	}
	keep(r, "lm_head", -1, y, rest, m->V);
	if (from > 0) {
		struct value *v = &r->values[r->n_values - 1];
		for (int k = 0; k < 1 + scales; k++, v--) {
			v->n_positions = 1;
			v->positions = room(r, 1, sizeof *v->positions);
			v->positions[0] = (uint32_t)(n - 1);
		}
	}
	return y + (rest - 1) * m->V;
}

struct run *run_model(const struct model *m, const struct options *o, const uint32_t *tokens, size_t n, size_t n_tokens)
{
	struct run *r = calloc(1, sizeof *r);
	if (!r)
		exit(2);
	r->m = m;
	r->o = *o;
	r->hit = room(r, 1, sizeof *r->hit);
	r->hit->truth = NAN;
	r->from = on(r, FAULT_TOKENS_BOS, -1, NULL) ? 1 : 0;
	r->tokens = calloc(n_tokens + 1, sizeof *r->tokens);
	if (r->from)
		r->tokens[0] = 1;
	memcpy(r->tokens + r->from, tokens, n * sizeof *tokens);
	r->n_prompt = n + r->from;
	r->n_tokens = n_tokens + r->from;
	for (size_t l = 0; l < m->L; l++) {
		r->k[l] = rows(r, r->n_tokens, m->G * m->d);
		r->v[l] = rows(r, r->n_tokens, m->G * m->d);
	}
	for (size_t pos = 0; pos < r->n_tokens;) {
		size_t chunk = pos == 0 ? r->n_prompt : 1;
		double *x = embed(r, pos, chunk);
		for (size_t l = 0; l < m->L; l++) {
			r->o.arith = o->arith_layer && o->arith_layer != l + 1 ? ARITH_F32 : o->arith;
			x = layer(r, l, x, chunk, pos);
		}
		r->o.arith = o->arith_layer ? ARITH_F32 : o->arith;
		const struct norm_of last = { "final_norm", FINAL_NORM, FINAL_NORM_BIAS, 1, false };
		const double *y = head(r, norm(r, -1, &last, x, chunk, m->D), chunk);
		pos += chunk;
		if (pos < r->n_tokens) {
			size_t best = 0;
			for (size_t i = 1; i < m->V; i++)
				if (y[i] > y[best])
					best = i;
			r->tokens[pos] = (uint32_t)best;
		}
		r->step++;
	}
	return r;
}

void run_free(struct run *r)
{
	for (size_t i = 0; r && i < r->n_values; i++)
		free(r->values[i].v);
	for (size_t i = 0; r && i < r->n_scraps; i++)
		free(r->scraps[i]);
	if (r) {
		free(r->values);
		free(r->scraps);
		free(r->tokens);
	}
	free(r);
}

const struct value *run_find(const struct run *r, const char *stage, int layer_, unsigned step_)
{
	for (size_t i = 0; i < r->n_values; i++)
		if (r->values[i].layer == layer_ && r->values[i].step == step_
		    && strcmp(r->values[i].stage, stage) == 0)
			return &r->values[i];
	return NULL;
}
