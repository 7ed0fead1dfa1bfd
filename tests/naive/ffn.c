/* ffn.c - feed-forward parts, dense and of experts. */
#include "engine.h"

static double activate(const struct run *r, int l, double x)
{
	enum activation a = r->m->act;
	if (on(r, FAULT_FFN_ACT, l, NULL))
		a = (enum activation)r->hit->value == a ? SILU : (enum activation)r->hit->value;
	if (on(r, FAULT_FFN_ACT, l, NULL) && a == r->m->act)
		a = GELU_TANH;
	bool table = r->o.gelu_table && (a == GELU_TANH || a == GELU_QUICK);
	if (table)
		x = to_f16(x);
	double y;
	switch (a) {
	case SILU:
		y = x / step(r, 1 + step(r, exp(-x)));
		break;
	case GELU_QUICK:
		y = x * out(r, step(r, 1 / (1 + exp(-out(r, 1.702 * x)))));
		break;
	case GELU_EXACT:
		y = 0.5 * x * step(r, 1 + erf(x * M_SQRT1_2));
		break;
	case RELU:
		y = x > 0 ? x : 0;
		break;
	default: {
		if (is_stream(r) && r->m->layernorm) { /* gpt2 writes it out, and each of its operations rounds */
			double third = out(r, 0.044715 * out(r, x * x * x)),
			       inner = out(r, 0.79788456080286535588 * out(r, x + third));
			return out(r, out(r, 0.5 * x) * out(r, 1 + out(r, tanh(inner))));
		}
		double cube = step(r, x + step(r, 0.044715 * step(r, x * x * x)));
		y = 0.5 * x * step(r, 1 + step(r, tanh(step(r, 0.79788456080286535588 * cube))));
	}
	}
	return table ? to_f16(y) : out(r, y);
}

struct ffn_names {
	const char *gate, *up, *silu, *swigl, *down;
};

/* act(gate) * up for a row of values of one or more experts; `width` of them. Keeps the stages. */
static double *gated(struct run *r, int l, const struct ffn_names *s, double *gate, double *up, size_t n, size_t width)
{
	double *a = rows(r, n, width), *y = rows(r, n, width);
	bool swap = on(r, FAULT_FFN_SWAPPED, l, NULL), clamp = on(r, FAULT_FFN_CLAMP_ADDED, l, NULL);
	const double *g = swap ? up : gate, *u = swap ? gate : up;
	double limit = r->hit->value;
	for (size_t i = 0; i < n * width; i++)
		a[i] = activate(r, l, clamp ? fmin(g[i], limit) : g[i]);
	keep(r, s->silu, l, a, n, width);
	for (size_t i = 0; i < n * width; i++) {
		double v = clamp ? fmax(fmin(u[i], limit), -limit) : u[i];
		y[i] = out(r, a[i]
		                      * (on(r, FAULT_FFN_NO_GATE, l, NULL)
		                                 ? 1
		                                 : v + (on(r, FAULT_FFN_UP_ADDED, l, NULL) ? 1 : 0)));
	}
	keep(r, s->swigl, l, y, n, width);
	return y;
}

/* A product of a whole batch with its bias, under the names of its stages. */
static double *linear(struct run *r, size_t l, enum slot s, enum slot bias, const char *stage, const double *x,
                      size_t n)
{
	struct weight w = get(r, l, s);
	double *y = rows(r, n, w.rows);
	char name[48];
	bool biased = bias != SLOTS && r->m->w[l][bias].v;
	product(r, l, s, &w, 0, w.rows, x, n, y, w.rows);
	if (!biased || !is_stream(r)) {
		round_all(r, y, n * w.rows);
		keep(r, stage, (int)l, y, n, w.rows);
	}
	if (biased) {
		snprintf(name, sizeof name, "%s_bias", stage);
		add_bias(r, l, bias, s, 0, y, n, w.rows, w.rows);
		round_all(r, y, n * w.rows);
		keep(r, name, (int)l, y, n, w.rows);
	}
	return y;
}

double *dense(struct run *r, size_t l, const double *x, size_t n)
{
	const struct model *m = r->m;
	static const struct ffn_names s = { "ffn_gate", "ffn_up", "ffn_silu", "ffn_swigl", "ffn_out" };
	double *y;
	if (m->gated) {
		double *gate, *up;
		if (m->w[l][GATE_BIAS].v) { /* both products stand before both biases */
			struct weight w = get(r, l, GATE), v = get(r, l, UP);
			gate = rows(r, n, m->F);
			up = rows(r, n, m->F);
			product(r, l, GATE, &w, 0, m->F, x, n, gate, m->F);
			product(r, l, UP, &v, 0, m->F, x, n, up, m->F);
			if (!is_stream(r)) {
				round_all(r, gate, n * m->F);
				round_all(r, up, n * m->F);
				keep(r, "ffn_gate", (int)l, gate, n, m->F);
				keep(r, "ffn_up", (int)l, up, n, m->F);
			}
			add_bias(r, l, GATE_BIAS, GATE, 0, gate, n, m->F, m->F);
			add_bias(r, l, UP_BIAS, UP, 0, up, n, m->F, m->F);
			round_all(r, gate, n * m->F);
			round_all(r, up, n * m->F);
			keep(r, "ffn_gate_bias", (int)l, gate, n, m->F);
			keep(r, "ffn_up_bias", (int)l, up, n, m->F);
		} else {
			gate = linear(r, l, GATE, SLOTS, s.gate, x, n);
			up = linear(r, l, UP, SLOTS, s.up, x, n);
		}
		y = gated(r, (int)l, &s, gate, up, n, m->F);
	} else {
		double *up = linear(r, l, UP, UP_BIAS, s.up, x, n);
		y = rows(r, n, m->F);
		for (size_t i = 0; i < n * m->F; i++)
			y[i] = activate(r, (int)l, up[i]);
		keep(r, s.silu, (int)l, y, n, m->F);
	}
	return linear(r, l, DOWN, DOWN_BIAS, s.down, y, n);
}

static void softmax_row(const struct run *r, const double *x, double *y, size_t n)
{
	double most = x[0], sum = 0;
	for (size_t i = 1; i < n; i++)
		most = fmax(most, x[i]);
	for (size_t i = 0; i < n; i++)
		sum = step(r, sum + (y[i] = step(r, exp(step(r, x[i] - most)))));
	for (size_t i = 0; i < n; i++)
		y[i] = step(r, y[i] / sum);
}

/* The k largest of n, largest first, of those that are allowed. */
static void top(const double *x, const bool *allowed, size_t n, size_t k, double *index)
{
	bool taken[256] = { false };
	for (size_t i = 0; i < k; i++) {
		size_t best = n;
		for (size_t j = 0; j < n; j++)
			if (!taken[j] && (!allowed || allowed[j]) && (best == n || x[j] > x[best]))
				best = j;
		taken[best] = true;
		index[i] = (double)best;
	}
}

/* Experts of the groups whose two best add up to most. */
static void allowed_groups(const struct model *m, const double *x, bool *allowed)
{
	double score[64], chosen[64];
	size_t per = m->E / m->groups;
	for (size_t g = 0; g < m->groups; g++) {
		double best[2];
		top(x + g * per, NULL, per, 2, best);
		score[g] = x[g * per + (size_t)best[0]] + x[g * per + (size_t)best[1]];
	}
	top(score, NULL, m->groups, m->used_groups, chosen);
	for (size_t e = 0; e < m->E; e++)
		allowed[e] = false;
	for (size_t g = 0; g < m->used_groups; g++)
		for (size_t i = 0; i < per; i++)
			allowed[(size_t)chosen[g] * per + i] = true;
}

static size_t route(struct run *r, size_t l, const double *x, size_t n, double **index, double **weight)
{
	const struct model *m = r->m;
	int L = (int)l;
	size_t E = m->E, k = m->used;
	if (on(r, FAULT_MOE_TOP_K, L, NULL)) {
		k = (size_t)r->hit->value == k ? k + 1 : (size_t)r->hit->value;
		r->hit->truth = (double)(k > E ? E : k);
	}
	k = k > E ? E : k;
	struct weight w = get(r, l, ROUTER);
	double *logits = rows(r, n, E), *probs = rows(r, n, E);
	product(r, l, ROUTER, &w, 0, E, x, n, logits, E);
	round_all(r, logits, n * E);
	keep(r, "moe_router", L, logits, n, E);
	bool ignored = on(r, FAULT_MOE_BIAS_IGNORED, L, NULL), other = on(r, FAULT_MOE_GATING, L, NULL);
	const float *bias = m->w[l][ROUTER_BIAS].v;
	if (m->expert_bias && bias) {
		for (size_t i = 0; i < n * E && !ignored; i++)
			logits[i] = out(r, logits[i] + bias[i % E]);
		keep(r, "moe_router_bias", L, logits, n, E);
	}
	*index = rows(r, n, k);
	*weight = rows(r, n, k);
	bool sigmoid = (m->expert_kind == EXPERTS_SIGMOID) != other, all = m->expert_kind != EXPERTS_SOFTMAX_CHOSEN;
	bool normed = (m->normed || !all) != on(r, FAULT_MOE_NORM, L, NULL);
	for (size_t t = 0; t < n; t++) {
		double *z = logits + t * E, *p = probs + t * E;
		if (sigmoid)
			for (size_t e = 0; e < E; e++)
				p[e] = step(r, 1 / step(r, 1 + step(r, exp(-z[e]))));
		else
			softmax_row(r, z, p, E);
	}
	if (all)
		keep(r, "moe_router_probs", L, probs, n, E);
	for (size_t t = 0; t < n; t++) {
		double *z = logits + t * E, *p = probs + t * E, *i = *index + t * k, *v = *weight + t * k, sum = 0,
		       choice[256];
		bool allowed[256];
		memcpy(choice, all ? p : z, E * sizeof *choice);
		if (m->expert_kind == EXPERTS_SIGMOID) {
			for (size_t e = 0; e < E && bias && !ignored; e++)
				choice[e] = step(r, choice[e] + bias[e]);
			allowed_groups(m, choice, allowed);
		}
		bool limited = m->expert_kind == EXPERTS_SIGMOID && !on(r, FAULT_MOE_GROUPS, L, NULL);
		top(choice, limited ? allowed : NULL, E, k, i);
		for (size_t j = 0; j < k; j++)
			sum = step(r, sum
			                      + (v[j] = on(r, FAULT_MOE_BIAS_WEIGHT, L, NULL) ? choice[(size_t)i[j]]
			                                                                      : p[(size_t)i[j]]));
		if (m->expert_kind == EXPERTS_SIGMOID)
			sum = step(r, sum + 1e-20);
		for (size_t j = 0; j < k; j++) {
			v[j] = normed ? step(r, v[j] / sum) : v[j];
			v[j] = step(r, v[j] * m->routed_scale);
			if (on(r, FAULT_MOE_SCALE, L, NULL)) {
				v[j] *= r->hit->value;
				r->hit->truth = r->hit->value * m->routed_scale;
			}
			v[j] = all || m->expert_bias ? out(r, v[j]) : v[j]; /* mixtral keeps them in f32 */
		}
	}
	add_value(r, "moe_router_indices", L, *index, n, k, 0)->integers = true;
	keep(r, "moe_router_weights", L, *weight, n, k);
	return k;
}

/* One stage of the chosen experts, [n, k * width], from x of `n` rows; `each`: x has k rows for each token. */
static double *expert_product(struct run *r, size_t l, enum slot s, enum slot bias, const char *stage, const double *x,
                              bool each, const double *index, size_t n, size_t k)
{
	const struct model *m = r->m;
	struct weight w = get(r, l, s);
	size_t width = w.rows / m->E;
	double *y = rows(r, n * k, width);
	bool biased = m->w[l][bias].v != NULL;
	char name[48];
	for (size_t t = 0; t < n * k; t++)
		product(r, l, s, &w, (size_t)index[t] * width, width, x + (each ? t : t / k) * w.cols, 1, y + t * width,
		        width);
	if (!biased || !is_stream(r) || m->expert_bias) {
		round_all(r, y, n * k * width);
		keep(r, stage, (int)l, y, n, k * width);
	}
	if (biased) {
		for (size_t t = 0; t < n * k; t++)
			add_bias(r, l, bias, s, (size_t)index[t] * width, y + t * width, 1, width, width);
		round_all(r, y, n * k * width);
		if (strcmp(stage, "expert_matmul") == 0)
			snprintf(name, sizeof name, "expert_out");
		else
			snprintf(name, sizeof name, "%s_bias", stage);
		keep(r, name, (int)l, y, n, k * width);
	}
	return y;
}

/* gpt_oss: one of gate and up within limits. */
static void clamp(struct run *r, size_t l, const char *stage, double *x, bool below, size_t n, size_t width)
{
	double limit = r->m->limit;
	for (size_t i = 0; i < n * width && !on(r, FAULT_FFN_CLAMP_MISSING, (int)l, NULL); i++)
		x[i] = fmax(fmin(x[i], limit), below ? -limit : -INFINITY);
	keep(r, stage, (int)l, x, n, width);
}

/* gpt_oss: 1 is added to up. */
static double *gated_plus_one(struct run *r, size_t l, const double *gate, const double *up, size_t n, size_t width)
{
	int L = (int)l;
	double *a = rows(r, n, width), *y = rows(r, n, width);
	bool swap = on(r, FAULT_FFN_SWAPPED, L, NULL);
	const double *u = swap ? gate : up;
	for (size_t i = 0; i < n * width; i++)
		a[i] = activate(r, L, swap ? up[i] : gate[i]);
	keep(r, "expert_silu", L, a, n, width);
	for (size_t i = 0; i < n * width; i++)
		y[i] = out(r, u[i] + (on(r, FAULT_FFN_UP_MISSING, L, NULL) ? 0 : 1));
	keep(r, "expert_up_one", L, y, n, width);
	for (size_t i = 0; i < n * width; i++)
		y[i] = out(r, on(r, FAULT_FFN_NO_GATE, L, NULL) ? a[i] : a[i] * y[i]);
	keep(r, "expert_swigl", L, y, n, width);
	return y;
}

static double *shared_expert(struct run *r, size_t l, const double *x, size_t n)
{
	const struct model *m = r->m;
	static const struct ffn_names s = { "shared_gate", "shared_up", "shared_silu", "shared_swigl", "shared_out" };
	double *gate = linear(r, l, SHARED_GATE, SLOTS, s.gate, x, n), *up = linear(r, l, SHARED_UP, SLOTS, s.up, x, n);
	double *y = linear(r, l, SHARED_DOWN, SLOTS, s.down, gated(r, (int)l, &s, gate, up, n, m->shared_F), n);
	if (m->w[l][SHARED_SHARE].v) {
		double *share = linear(r, l, SHARED_SHARE, SLOTS, "shared_share", x, n);
		for (size_t t = 0; t < n; t++)
			share[t] = out(r, step(r, 1 / step(r, 1 + exp(-share[t]))));
		keep(r, "shared_sigmoid", (int)l, share, n, 1);
		for (size_t i = 0; i < n * m->D; i++)
			y[i] = out(r, y[i] * share[i / m->D]);
		keep(r, "shared_weighted", (int)l, y, n, m->D);
	}
	return y;
}

double *experts(struct run *r, size_t l, const double *x, const double *stream, size_t n)
{
	const struct model *m = r->m;
	int L = (int)l;
	static const struct ffn_names mixtral = { "ffn_gate", "ffn_up", "ffn_silu", "ffn_swigl", "ffn_out" },
				      others = { "expert_gate", "expert_up", "expert_silu", "expert_swigl",
		                                 "expert_out" };
	const struct ffn_names *s = strcmp(m->family, "mixtral") == 0 ? &mixtral : &others;
	double *index, *weight;
	size_t k = route(r, l, on(r, FAULT_MOE_INPUT, L, NULL) ? stream : x, n, &index, &weight), D = m->D;
	double *gate = expert_product(r, l, GATE, GATE_BIAS, s->gate, x, false, index, n, k), *up, *y;
	size_t width = k * m->expert_F;
	if (m->limit > 0) {
		clamp(r, l, "expert_gate_clamp", gate, false, n, width);
		up = expert_product(r, l, UP, UP_BIAS, s->up, x, false, index, n, k);
		clamp(r, l, "expert_up_clamp", up, true, n, width);
		y = gated_plus_one(r, l, gate, up, n, width);
		y = expert_product(r, l, DOWN, DOWN_BIAS, "expert_matmul", y, true, index, n, k);
	} else {
		up = expert_product(r, l, UP, UP_BIAS, s->up, x, false, index, n, k);
		y = gated(r, L, s, gate, up, n, width);
		y = expert_product(r, l, DOWN, DOWN_BIAS, s->down, y, true, index, n, k);
	}
	double *sum = rows(r, n, D);
	size_t load[256] = { 0 };
	for (size_t t = 0; t < n; t++)
		for (size_t j = 0; j < k; j++) {
			size_t e = (size_t)index[t * k + j];
			double w = weight[t * k + (on(r, FAULT_MOE_WEIGHTS_PERMUTED, L, NULL) ? k - 1 - j : j)];
			if (on(r, FAULT_MOE_WEIGHTS_MISSING, L, NULL))
				w = 1;
			if (on(r, FAULT_MOE_CAPACITY, L, NULL) && load[e]++ >= 2)
				w = 0;
			if (on(r, FAULT_MOE_MISSING, L, NULL) && e == (size_t)index[0])
				w = 0;
			for (size_t i = 0; i < D; i++)
				sum[t * D + i] = out(r, sum[t * D + i] + out(r, w * y[(t * k + j) * D + i]));
		}
	keep(r, "moe_ffn_out", L, sum, n, D);
	if (m->w[l][SHARED_UP].v) {
		double *shared = shared_expert(r, l, x, n), *both = rows(r, n, D);
		double by = on(r, FAULT_MOE_SHARED_MISSING, L, NULL) ? 0
		          : on(r, FAULT_MOE_SHARED_SCALED, L, NULL)  ? r->hit->value
		                                                     : 1;
		for (size_t i = 0; i < n * D; i++)
			both[i] = out(r, sum[i] + by * shared[i]);
		keep(r, "ffn_out", L, both, n, D);
		return both;
	}
	return sum;
}
