/* experts.c - mistakes made where experts are taken and added up. */
#include "explain/hypotheses.h"

#include "base/error.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define MOST 32 /* experts of a token */

/* The choice that the parts of a sum were made with: that of the product they come from. */
static uint32_t choice_of(const struct st_trial *t)
{
	uint32_t i = t->n->in[0];
	while (i != ST_NO_NODE && st_trial_node(t, i)->op != ST_OP_LINEAR_AT
	       && st_trial_node(t, i)->layer == t->n->layer)
		i = st_trial_node(t, i)->in[0];
	return i == ST_NO_NODE || st_trial_node(t, i)->op != ST_OP_LINEAR_AT ? ST_NO_NODE : st_trial_node(t, i)->in[1];
}

/* The sum with these factors, [T, C]. */
static enum st_status try_factors(struct st_trial *t, const double *w, const struct st_cause *c, struct st_error *err)
{
	size_t N = t->n->width, C = t->n->choices;
	float *y = st_trial_buffer(t);
	for (size_t r = 0; r < t->T; r++)
		for (size_t i = 0; i < N; i++) {
			double sum = 0;
			for (size_t k = 0; k < C; k++)
				sum += w[r * C + k] * t->in[0][r * t->ld[0] + k * N + i];
			y[r * N + i] = (float)sum;
		}
	return st_try_value(t, y, c, err);
}

/* Factors of a token's parts by least squares; false where they are not independent. */
static bool solve(const struct st_trial *t, size_t r, double *w)
{
	size_t N = t->n->width, C = t->n->choices;
	double m[MOST][MOST + 1];
	const float *x = t->in[0] + r * t->ld[0], *got = t->got + r * N;
	for (size_t a = 0; a < C; a++)
		for (size_t b = 0; b <= C; b++) {
			m[a][b] = 0;
			for (size_t i = 0; i < N; i++)
				m[a][b] += (double)x[a * N + i] * (b == C ? got[i] : x[b * N + i]);
		}
	for (size_t a = 0; a < C; a++) {
		double pivot = m[a][a];
		if (!(pivot > 0))
			return false;
		for (size_t b = a + 1; b < C; b++) {
			double by = m[b][a] / pivot;
			for (size_t k = a; k <= C; k++)
				m[b][k] -= by * m[a][k];
			if (!(m[b][b] > 1e-10 * pivot) && b == a + 1)
				return false;
		}
	}
	for (size_t a = C; a-- > 0;) {
		w[a] = m[a][C];
		for (size_t b = a + 1; b < C; b++)
			w[a] -= m[a][b] * w[b];
		w[a] /= m[a][a];
	}
	return true;
}

/* Parts that are left out: everywhere the same expert's, or of tokens. */
static enum st_status test_left_out(struct st_trial *t, const double *own, double *w, struct st_error *err)
{
	size_t C = t->n->choices, lost = 0, first = 0;
	double fitted[MOST];
	uint32_t choice = choice_of(t);
	memcpy(w, own, t->T * C * sizeof *w);
	for (size_t r = 0; r < t->T; r++) {
		if (!st_trial_has(t, r) || !solve(t, r, fitted))
			continue;
		for (size_t k = 0; k < C; k++)
			if (fabs(fitted[k]) < 0.1 * fabs(own[r * C + k])) {
				w[r * C + k] = 0;
				first = lost++ ? first : r;
			}
	}
	if (!lost)
		return ST_OK;
	if (choice != ST_NO_NODE && st_run_holds(t->x->run, choice)) {
		struct st_value e = st_run_value(t->x->run, choice);
		bool one = true, all = true;
		float which = -1;
		for (size_t k = 0; k < t->T * C; k++)
			if (w[k] == 0 && own[k] != 0) {
				one = one && (which < 0 || e.data[k / C * e.cols + k % C] == which);
				which = e.data[k / C * e.cols + k % C];
			}
		for (size_t k = 0; k < t->T * C && one; k++)
			all = all && (e.data[k / C * e.cols + k % C] != which || w[k] == 0 || !st_trial_has(t, k / C));
		if (one && all) {
			struct st_cause c = st_blame(ST_CAUSE_MOE_EXPERT_MISSING);
			st_cause_put(&c, ST_PARAM_HEAD, (double)which);
			ST_TRY(try_factors(t, w, &c, err));
		}
	}
	struct st_cause c = st_blame(ST_CAUSE_MOE_CAPACITY);
	st_cause_put(&c, ST_PARAM_TOKEN, (double)first);
	return try_factors(t, w, &c, err);
}

/* Each expert's parts left out, where nothing can be fitted. */
static enum st_status test_each_expert(struct st_trial *t, const double *own, double *w, struct st_error *err)
{
	size_t C = t->n->choices;
	uint32_t choice = choice_of(t);
	if (choice == ST_NO_NODE || !st_run_holds(t->x->run, choice))
		return ST_OK;
	struct st_value e = st_run_value(t->x->run, choice);
	for (size_t which = 0; which < 64; which++) {
		bool any = false;
		memcpy(w, own, t->T * C * sizeof *w);
		for (size_t k = 0; k < t->T * C; k++)
			if (e.data[k / C * e.cols + k % C] == (float)which) {
				w[k] = 0;
				any = true;
			}
		struct st_cause c = st_blame(ST_CAUSE_MOE_EXPERT_MISSING);
		st_cause_put(&c, ST_PARAM_HEAD, (double)which);
		if (any)
			ST_TRY(try_factors(t, w, &c, err));
	}
	return ST_OK;
}

/* Another expert's weight: in reverse, sorted, around. */
static enum st_status test_permuted(struct st_trial *t, const double *own, double *w, struct st_error *err)
{
	size_t C = t->n->choices;
	for (size_t by = 0; by < C; by++) { /* 0: in reverse; else so many places on */
		for (size_t k = 0; k < t->T * C; k++)
			w[k] = own[k / C * C + (by ? (k % C + by) % C : C - 1 - k % C)];
		struct st_cause c = st_blame(ST_CAUSE_MOE_WEIGHTS_PERMUTED);
		st_cause_put_text(&c, ST_PARAM_HOW, by ? "moved by some places" : "in reverse");
		ST_TRY(try_factors(t, w, &c, err));
	}
	/* In the order of the experts' numbers. */
	uint32_t choice = choice_of(t);
	if (choice == ST_NO_NODE || !st_run_holds(t->x->run, choice))
		return ST_OK;
	struct st_value e = st_run_value(t->x->run, choice);
	for (size_t k = 0; k < t->T * C; k++) {
		const float *at = e.data + k / C * e.cols;
		size_t before = 0;
		for (size_t j = 0; j < C; j++)
			before += at[j] < at[k % C];
		w[k] = own[k / C * C + before];
	}
	struct st_cause c = st_blame(ST_CAUSE_MOE_WEIGHTS_PERMUTED);
	st_cause_put_text(&c, ST_PARAM_HOW, "in the order of the experts' numbers");
	return try_factors(t, w, &c, err);
}

static enum st_status test_sum(struct st_trial *t, const double *own, double *w, struct st_error *err)
{
	size_t C = t->n->choices;
	struct st_cause c = st_blame(ST_CAUSE_MOE_WEIGHTS_MISSING);
	for (size_t k = 0; k < t->T * C; k++)
		w[k] = 1;
	ST_TRY(try_factors(t, w, &c, err));
	if (C == 1)
		return ST_OK;
	for (size_t k = 0; k < t->T * C; k++)
		w[k] = 1.0 / (double)C;
	ST_TRY(try_factors(t, w, &c, err));
	ST_TRY(test_permuted(t, own, w, err));
	if (st_trial_direct(t) && C <= MOST)
		return test_left_out(t, own, w, err);
	return test_each_expert(t, own, w, err);
}

enum st_status st_test_weighted_sum(struct st_trial *t, struct st_error *err)
{
	size_t C = t->n->choices;
	double *own = st_alloc_array3(t->T, C, 2, sizeof *own), *w = own ? own + t->T * C : NULL;
	if (!own)
		return st_fail(err, ST_ERR_NOMEM, "out of memory");
	for (size_t k = 0; k < t->T * C; k++)
		own[k] = t->in[1] ? (double)t->in[1][k / C * t->ld[1] + k % C] : 1;
	enum st_status st = test_sum(t, own, w, err);
	free(own);
	return st;
}

/* ---- biases of experts ---- */

enum st_status st_test_expert_bias(struct st_trial *t, struct st_error *err)
{
	size_t N = t->n->width;
	float *y = st_trial_buffer(t), *bias = st_alloc_array2(t->T, N, sizeof *bias);
	if (!bias)
		return st_fail(err, ST_ERR_NOMEM, "out of memory");
	enum st_status st = st_run_eval_as(t->x->run, t->i, t->n, &t->x->exec, bias, err);
	double gb = 0, bb = 0;
	for (size_t k = 0; k < t->T * N && st == ST_OK; k++) {
		float in = t->in[0][k / N * t->ld[0] + k % N];
		bias[k] -= in;
		y[k] = in;
		if (st_trial_direct(t) && st_trial_has(t, k / N)) {
			gb += ((double)t->got[k] - in) * bias[k];
			bb += (double)bias[k] * bias[k];
		}
	}
	struct st_cause c = st_blame(ST_CAUSE_BIAS_MISSING);
	if (st == ST_OK)
		st = st_try_value(t, y, &c, err);
	if (st == ST_OK && bb > 0) {
		double by = fabs(gb / bb - floor(gb / bb + 0.5)) < 1e-3 ? floor(gb / bb + 0.5) : gb / bb;
		c = st_blame(ST_CAUSE_BIAS_SCALED);
		st_cause_put(&c, ST_PARAM_FACTOR, by);
		for (size_t k = 0; k < t->T * N; k++)
			y[k] = (float)(t->in[0][k / N * t->ld[0] + k % N] + by * bias[k]);
		st = st_try_value(t, y, &c, err);
	}
	free(bias);
	return st;
}

/* ---- another expert's matrices ---- */

/* Every product of the segment, and what is added to it, with the experts of another number. */
#define PRODUCTS 8
struct order {
	const struct st_trial *t;
	uint32_t by; /* so many on; the number of experts: in reverse */
	struct st_weight w[PRODUCTS];
	struct st_node as[PRODUCTS];
	struct st_tensor *tensors; /* [PRODUCTS, experts] */
	float *biases[PRODUCTS];
};

static uint32_t other(const struct order *o, uint32_t e, uint32_t E)
{
	return o->by == E ? E - 1 - e : (e + o->by) % E;
}

/* The rows of a bias in that order, as numbers of F32. */
static bool move_bias(struct order *o, uint32_t k, const struct st_weight *w, uint32_t E)
{
	size_t cols = (size_t)st_weight_cols(w);
	float *rows = o->biases[k] ? o->biases[k] : st_alloc_array2(E, cols, sizeof *rows);
	struct st_tensor *to = o->tensors + (size_t)k * E;
	o->biases[k] = rows;
	if (!rows)
		return false;
	for (uint32_t e = 0; e < E; e++)
		st_weight_decode(w, other(o, e, E), 1, rows + e * cols);
	*to = (struct st_tensor){
		.name = w->tensor->name, .dtype = ST_DTYPE_F32, .layout = ST_LAYOUT_ROWS, .scale = 1
	};
	to->ndim = 2;
	to->shape[0] = E;
	to->shape[1] = cols;
	to->n_elems = E * cols;
	to->row_bytes = cols * sizeof *rows;
	to->n_bytes = E * to->row_bytes;
	to->data = (const unsigned char *)rows;
	o->w[k] = (struct st_weight){ .tensor = to, .layer = w->layer, .kind = w->kind };
	return true;
}

static const struct st_node *in_other_order(void *ctx, uint32_t i)
{
	struct order *o = ctx;
	const struct st_node *n = st_trial_node(o->t, i);
	uint32_t E = o->t->n->w[0]->n_experts, k = 0;
	bool product = n->op == ST_OP_LINEAR_AT && n->w[0]->n_experts == E, bias = n->op == ST_OP_BIAS_AT;
	if ((!product && !bias) || n->layer != o->t->n->layer)
		return NULL;
	for (uint32_t j = o->t->s->first; j < i; j++)
		k += st_trial_node(o->t, j)->layer == n->layer
		  && (st_trial_node(o->t, j)->op == ST_OP_LINEAR_AT || st_trial_node(o->t, j)->op == ST_OP_BIAS_AT);
	if (k >= PRODUCTS)
		return NULL;
	struct st_tensor *to = o->tensors + (size_t)k * E;
	if (product) {
		for (uint32_t e = 0; e < E; e++)
			to[e] = n->w[0]->experts[other(o, e, E)];
		o->w[k] = *n->w[0];
		o->w[k].experts = to;
	} else if (!move_bias(o, k, n->w[0], E)) {
		return NULL;
	}
	o->as[k] = *n;
	o->as[k].w[0] = &o->w[k];
	return &o->as[k];
}

/* Tried once for all products of a segment. */
enum st_status st_test_expert_order(struct st_trial *t, struct st_error *err)
{
	uint32_t E = t->n->w[0]->n_experts, most = E <= 16 ? E - 1 : 2;
	for (uint32_t i = t->s->first; i < t->i; i++)
		if (t->x->inner[i] && st_trial_node(t, i)->op == ST_OP_LINEAR_AT
		    && st_trial_node(t, i)->layer == t->n->layer)
			return ST_OK;
	struct order o = { .t = t, .tensors = st_alloc_array2(E, PRODUCTS, sizeof *o.tensors) };
	if (!o.tensors)
		return st_fail(err, ST_ERR_NOMEM, "out of memory");
	enum st_status st = ST_OK;
	for (uint32_t k = 1; k <= most + 1 && E > 1 && st == ST_OK; k++) {
		struct st_cause c = st_blame(ST_CAUSE_MOE_EXPERT_PERMUTED);
		o.by = k > most ? E : E > 16 && k == 2 ? E - 1 : k;
		if (k <= most)
			st_cause_put(&c, ST_PARAM_SHIFT, o.by <= E / 2 ? o.by : (double)o.by - E);
		else
			st_cause_put_text(&c, ST_PARAM_HOW, "in reverse");
		st = st_try_nodes(t, in_other_order, &o, &c, err);
	}
	for (size_t k = 0; k < PRODUCTS; k++)
		free(o.biases[k]);
	free(o.tensors);
	return st;
}

/* ---- a shared expert ---- */

/* It is what is added to the sum of the chosen ones and is no stream. */
enum st_status st_test_shared(struct st_trial *t, struct st_error *err)
{
	const struct st_node *a = st_trial_node(t, t->n->in[0]), *b = st_trial_node(t, t->n->in[1]);
	int shared = a->op == ST_OP_WEIGHTED_SUM && a->choices > 1 ? 1
	           : b->op == ST_OP_WEIGHTED_SUM && b->choices > 1 ? 0
	                                                           : -1;
	if (shared < 0 || st_trial_node(t, t->n->in[shared])->op == ST_OP_ADD
	    || st_trial_node(t, t->n->in[shared])->op == ST_OP_EMBED)
		return ST_OK;
	size_t N = t->n->width;
	float *y = st_trial_buffer(t);
	double gx = 0, xx = 0;
	for (size_t r = 0; r < t->T; r++)
		for (size_t i = 0; i < N; i++) {
			double s = t->in[shared][r * t->ld[shared] + i],
			       m = t->in[1 - shared][r * t->ld[1 - shared] + i];
			y[r * N + i] = (float)m;
			if (!st_trial_direct(t) || !st_trial_has(t, r))
				continue;
			gx += (t->got[r * N + i] - m) * s;
			xx += s * s;
		}
	struct st_cause c = st_blame(ST_CAUSE_MOE_SHARED_MISSING);
	ST_TRY(st_try_value(t, y, &c, err));
	if (!(xx > 0) || fabs(gx / xx) < 1e-6) /* left out, which is said */
		return ST_OK;
	c = st_blame(ST_CAUSE_MOE_SHARED_SCALED);
	st_cause_put(&c, ST_PARAM_FACTOR, gx / xx);
	for (size_t r = 0; r < t->T; r++)
		for (size_t i = 0; i < N; i++)
			y[r * N + i] = (float)(t->in[1 - shared][r * t->ld[1 - shared] + i]
			                       + gx / xx * t->in[shared][r * t->ld[shared] + i]);
	return st_try_value(t, y, &c, err);
}
