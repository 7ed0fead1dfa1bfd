/* norms.c - mistakes made in a norm. */
#include "explain/hypotheses.h"

#include "arch/arch.h"
#include "base/error.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

struct geometry {
	size_t groups, D; /* of a token: how many runs are normed, and how long each is */
};

static struct geometry geometry_of(const struct st_node *n)
{
	bool heads = n->op == ST_OP_HEADNORM || (n->op == ST_OP_LAYERNORM && n->heads);
	return heads ? (struct geometry){ n->heads, n->head_dim } : (struct geometry){ 1, n->width };
}

/* Epsilon from the gain of each run: y = x w / sqrt(ms + eps), so (y' / y)^2 = (ms + eps) / (ms + eps'). Runs of the
 * smallest mean squares tell it best; theirs give the median. */
static int by_size(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;
	return (x > y) - (x < y);
}

static double fit_eps(const struct st_trial *t)
{
	struct geometry g = geometry_of(t->n);
	double *eps = st_alloc_array2(t->T, g.groups, sizeof *eps);
	size_t n = 0;
	for (size_t r = 0; eps && r < t->T; r++)
		for (size_t h = 0; h < g.groups && st_trial_has(t, r); h++) {
			const float *in = t->in[0] + r * t->ld[0] + h * g.D;
			const float *got = t->got + r * t->n->width + h * g.D,
				    *y = t->exact + r * t->n->width + h * g.D;
			double square = 0, mean = 0, gy = 0, yy = 0;
			for (size_t i = 0; i < g.D; i++)
				mean += in[i];
			mean = t->n->op == ST_OP_LAYERNORM ? mean / (double)g.D : 0;
			for (size_t i = 0; i < g.D; i++) {
				square += (in[i] - mean) * (in[i] - mean);
				gy += (double)got[i] * y[i];
				yy += (double)y[i] * y[i];
			}
			if (gy > 0 && yy > 0)
				eps[n++] = (square / (double)g.D + t->n->eps) * (yy / gy) * (yy / gy)
				         - square / (double)g.D;
		}
	double found = NAN;
	if (n) {
		qsort(eps, n, sizeof *eps, by_size);
		found = eps[n / 2];
	}
	free(eps);
	return found;
}

/* A power of ten, or a round multiple of one, where it is near to that. */
static double rounded(double v)
{
	double p = pow(10, floor(log10(v))), m = v / p;
	for (int k = 1; k <= 10; k++)
		if (fabs(m - k) < 0.1 * k)
			return k * p;
	return v;
}

static enum st_status try_eps(struct st_trial *t, double eps, struct st_error *err)
{
	struct st_node as = *t->n;
	struct st_cause c = st_blame(ST_CAUSE_NORM_EPS);
	as.eps = eps;
	st_cause_put(&c, ST_PARAM_VALUE, eps);
	st_cause_put(&c, ST_PARAM_EXPECTED, t->n->eps);
	return st_try_node(t, &as, &c, err);
}

static enum st_status test_eps(struct st_trial *t, struct st_error *err)
{
	static const double usual[] = { 1e-3, 1e-4, 1e-5, 1e-6, 1e-7, 1e-8, 1e-12, 0 };
	double fitted = st_trial_direct(t) ? fit_eps(t) : NAN;
	if (fitted > 0) {
		ST_TRY(try_eps(t, rounded(fitted), err));
		return t->best->cause.code == ST_CAUSE_NORM_EPS ? ST_OK : try_eps(t, fitted, err);
	}
	for (size_t i = 0; i < sizeof usual / sizeof *usual; i++)
		if (fabs(usual[i] - t->n->eps) > 1e-9 * usual[i])
			ST_TRY(try_eps(t, usual[i], err));
	return ST_OK;
}

/* The weight as the node multiplies it, `plus` added; NULL: ones. */
static enum st_status try_weight(struct st_trial *t, const float *w, const float *b, const struct st_cause *c,
                                 struct st_error *err)
{
	struct geometry g = geometry_of(t->n);
	struct st_node as = *t->n;
	struct st_value v = st_trial_value(t);
	float *y = st_trial_buffer(t);
	as.n_w = 0;
	as.w[0] = as.w[1] = NULL;
	ST_TRY(st_run_eval_as(t->x->run, t->i, &as, &t->x->exec, y, err));
	for (size_t k = 0; k < v.rows * v.cols; k++) {
		size_t i = t->n->own_weights ? k % v.cols : k % v.cols % g.D;
		y[k] = (w ? y[k] * w[i] : y[k]) + (b ? b[i] : 0);
	}
	return st_try_value(t, y, c, err);
}

static float *decoded(const struct st_weight *w)
{
	size_t n = w && w->tensor ? (size_t)(w->group_rows ? st_weight_rows(w) : w->tensor->n_elems) : 0;
	float *v = n ? st_alloc_array((size_t)w->tensor->n_elems, sizeof *v) : NULL;
	if (v)
		st_weight_decode(w, 0, st_tensor_rows(w->tensor), v);
	return v;
}

/* Other vectors of the model that fit into the weight's place. */
static enum st_status test_other_weights(struct st_trial *t, const float *bias, struct st_error *err)
{
	const struct st_weight *own = t->n->w[0];
	for (size_t i = 0; i < st_model_n_weights(t->x->m); i++) {
		const struct st_weight *w = st_model_weight_at(t->x->m, i);
		if (w == own || !w->tensor || w->kind != ST_WEIGHT_NORM || w->n_experts || own->n_experts
		    || w->tensor->n_elems != own->tensor->n_elems)
			continue;
		/* Neighbours first would not matter: each is tried, and the one that fits is kept. */
		float *v = decoded(w);
		if (!v)
			return st_fail(err, ST_ERR_NOMEM, "out of memory");
		struct st_cause c = st_blame(ST_CAUSE_NORM_WRONG_WEIGHT);
		st_cause_put_text(&c, ST_PARAM_HOLDS, w->canonical);
		if (w->layer >= 0)
			st_cause_put(&c, ST_PARAM_LAYER, w->layer);
		enum st_status st = try_weight(t, v, bias, &c, err);
		free(v);
		ST_TRY(st);
	}
	return ST_OK;
}

static enum st_status test_weight(struct st_trial *t, struct st_error *err)
{
	struct st_cause c = st_blame(ST_CAUSE_NORM_WEIGHT_MISSING);
	if (!t->n->n_w || !t->n->w[0] || t->n->w[0]->n_experts)
		return ST_OK;
	float *w = decoded(t->n->w[0]), *b = t->n->n_w > 1 ? decoded(t->n->w[1]) : NULL;
	if (!w)
		return st_fail(err, ST_ERR_NOMEM, "out of memory");
	size_t n = (size_t)t->n->w[0]->tensor->n_elems;
	enum st_status st = try_weight(t, NULL, b, &c, err);
	for (int by = -1; by <= 1 && st == ST_OK; by += 2) {
		float *moved = st_alloc_array(n, sizeof *moved);
		if (!moved) {
			st = st_fail(err, ST_ERR_NOMEM, "out of memory");
			break;
		}
		for (size_t i = 0; i < n; i++)
			moved[i] = w[i] + (float)by;
		c = st_blame(ST_CAUSE_NORM_PLUS_ONE);
		st_cause_put(&c, ST_PARAM_OFFSET, by);
		st = try_weight(t, moved, b, &c, err);
		free(moved);
	}
	if (st == ST_OK && b) {
		c = st_blame(ST_CAUSE_BIAS_MISSING);
		st = try_weight(t, w, NULL, &c, err);
	}
	if (st == ST_OK)
		st = test_other_weights(t, b, err);
	free(w);
	free(b);
	return st;
}

/* Another mean square for each run: of a part of it, of all heads at once, of each head. */
static enum st_status try_reduction(struct st_trial *t, size_t first, size_t count, bool whole_row,
                                    const struct st_cause *c, struct st_error *err)
{
	struct geometry g = geometry_of(t->n);
	struct st_value v = st_trial_value(t);
	float *y = st_trial_buffer(t);
	bool mean_off = t->n->op == ST_OP_LAYERNORM;
	ST_TRY(st_run_eval_as(t->x->run, t->i, t->n, &t->x->exec, y, err));
	for (size_t r = 0; r < v.rows && !mean_off; r++)
		for (size_t h = 0; h < g.groups; h++) {
			const float *row = t->in[0] + r * t->ld[0], *in = row + h * g.D;
			double own = 0, other = 0;
			for (size_t i = 0; i < g.D; i++)
				own += (double)in[i] * in[i];
			const float *from = whole_row ? row : in;
			for (size_t i = first; i < first + count; i++)
				other += (double)from[i] * from[i];
			double by = sqrt((own / (double)g.D + t->n->eps) / (other / (double)count + t->n->eps));
			for (size_t i = 0; i < g.D; i++)
				y[r * v.cols + h * g.D + i] *= (float)by;
		}
	return mean_off ? ST_OK : st_try_value(t, y, c, err);
}

static enum st_status test_reduction(struct st_trial *t, struct st_error *err)
{
	struct geometry g = geometry_of(t->n);
	if (g.groups > 1) {
		struct st_cause c = st_blame(ST_CAUSE_NORM_PER_HEAD);
		ST_TRY(try_reduction(t, 0, t->n->width, true, &c, err));
	}
	/* The sum over a part: what whole tiles leave over, halves, quarters. The mean is of the part or of the row. */
	for (size_t tile = 2; tile <= 1024; tile *= 2) {
		size_t tail = g.D - g.D % tile, part = g.D / tile;
		struct st_cause c = st_blame(ST_CAUSE_NORM_PARTIAL_REDUCTION);
		st_cause_put(&c, ST_PARAM_OF, (double)g.D);
		st_cause_put(&c, ST_PARAM_COLUMNS, (double)tail);
		if (tail && tail < g.D)
			ST_TRY(try_reduction(t, 0, tail, false, &c, err));
		c = st_blame(ST_CAUSE_NORM_PARTIAL_REDUCTION);
		st_cause_put(&c, ST_PARAM_OF, (double)g.D);
		st_cause_put(&c, ST_PARAM_COLUMNS, (double)part);
		if (tile <= 8 && part && g.D % tile == 0)
			ST_TRY(try_reduction(t, 0, part, false, &c, err));
	}
	return ST_OK;
}

/* A row normed as runs of d features, each by its own mean square. */
static enum st_status try_runs(struct st_trial *t, size_t d, struct st_error *err)
{
	struct st_value v = st_trial_value(t);
	float *y = st_trial_buffer(t);
	size_t runs = v.cols / d;
	ST_TRY(st_run_eval_as(t->x->run, t->i, t->n, &t->x->exec, y, err));
	for (size_t r = 0; r < v.rows; r++) {
		const float *in = t->in[0] + r * t->ld[0];
		double own = 0;
		for (size_t i = 0; i < v.cols; i++)
			own += (double)in[i] * in[i];
		for (size_t at = 0; at < v.cols; at += d) {
			double part = 0;
			for (size_t i = at; i < at + d; i++)
				part += (double)in[i] * in[i];
			double by = sqrt((own / (double)v.cols + t->n->eps) / (part / (double)d + t->n->eps));
			for (size_t i = at; i < at + d; i++)
				y[r * v.cols + i] *= (float)by;
		}
	}
	struct st_cause c = st_blame(ST_CAUSE_NORM_PER_HEAD);
	st_cause_put(&c, ST_PARAM_HEADS, (double)runs);
	return st_try_value(t, y, &c, err);
}

static enum st_status test_runs(struct st_trial *t, struct st_error *err)
{
	struct geometry g = geometry_of(t->n);
	for (size_t d = 32; g.groups == 1 && t->n->op == ST_OP_RMSNORM && d < g.D; d *= 2)
		if (g.D % d == 0)
			ST_TRY(try_runs(t, d, err));
	return ST_OK;
}

/* One run as the node norms it, with the mean taken away or not. out may be in. */
static void norm_run(const struct st_trial *t, const float *in, size_t D, bool mean_off, const float *w, const float *b,
                     float *out)
{
	double mean = 0, square = 0;
	for (size_t i = 0; i < D && mean_off; i++)
		mean += in[i];
	mean /= (double)D;
	for (size_t i = 0; i < D; i++)
		square += (in[i] - mean) * (in[i] - mean);
	double by = 1 / sqrt(square / (double)D + t->n->eps);
	for (size_t i = 0; i < D; i++)
		out[i] = (float)((in[i] - mean) * by * (w ? w[i] : 1) + (b ? b[i] : 0));
}

/* With the mean where it should be taken away or the other way round, not at all, twice. */
static enum st_status test_kind(struct st_trial *t, struct st_error *err)
{
	bool layer = t->n->op == ST_OP_LAYERNORM;
	const enum st_cause_code kinds[] = { layer ? ST_CAUSE_NORM_RMS : ST_CAUSE_NORM_LAYERNORM, ST_CAUSE_NORM_SKIPPED,
		                             ST_CAUSE_NORM_APPLIED_TWICE };
	struct geometry g = geometry_of(t->n);
	struct st_value v = st_trial_value(t);
	float *w = t->n->n_w && t->n->w[0] && !t->n->w[0]->n_experts ? decoded(t->n->w[0]) : NULL;
	float *b = t->n->n_w > 1 ? decoded(t->n->w[1]) : NULL, *y = st_trial_buffer(t);
	enum st_status st = ST_OK;
	for (int kind = 0; kind < 3 && st == ST_OK; kind++) {
		for (size_t r = 0; r < v.rows; r++)
			for (size_t h = 0; h < g.groups; h++) {
				const float *in = t->in[0] + r * t->ld[0] + h * g.D;
				float *out = y + r * v.cols + h * g.D;
				size_t own = t->n->own_weights ? h * g.D : 0;
				const float *wh = w ? w + own : NULL, *bh = b ? b + own : NULL;
				if (kinds[kind] == ST_CAUSE_NORM_SKIPPED)
					memcpy(out, in, g.D * sizeof *out);
				else
					norm_run(t, in, g.D, layer == (kinds[kind] == ST_CAUSE_NORM_APPLIED_TWICE), wh,
					         bh, out);
				if (kinds[kind] == ST_CAUSE_NORM_APPLIED_TWICE)
					norm_run(t, out, g.D, layer, wh, bh, out);
			}
		struct st_cause c = st_blame(kinds[kind]);
		st = st_try_value(t, y, &c, err);
	}
	free(w);
	free(b);
	return st;
}

/* Mean and mean square of each feature over the positions. */
static enum st_status test_axis(struct st_trial *t, struct st_error *err)
{
	struct geometry g = geometry_of(t->n);
	struct st_value v = st_trial_value(t);
	float *y = st_trial_buffer(t);
	bool layer = t->n->op == ST_OP_LAYERNORM;
	if (v.rows < 2 || (t->n->n_w && t->n->w[0] && t->n->w[0]->n_experts))
		return ST_OK;
	float *w = t->n->n_w ? decoded(t->n->w[0]) : NULL, *b = t->n->n_w > 1 ? decoded(t->n->w[1]) : NULL;
	for (size_t i = 0; i < v.cols; i++) {
		double mean = 0, square = 0;
		size_t at = t->n->own_weights ? i : i % g.D;
		for (size_t r = 0; r < v.rows && layer; r++)
			mean += t->in[0][r * t->ld[0] + i] / (double)v.rows;
		for (size_t r = 0; r < v.rows; r++) {
			double d = t->in[0][r * t->ld[0] + i] - mean;
			square += d * d;
		}
		double by = (w ? (double)w[at] : 1) / sqrt(square / (double)v.rows + t->n->eps);
		for (size_t r = 0; r < v.rows; r++)
			y[r * v.cols + i] = (float)((t->in[0][r * t->ld[0] + i] - mean) * by + (b ? (double)b[at] : 0));
	}
	free(w);
	free(b);
	struct st_cause c = st_blame(ST_CAUSE_NORM_AXIS);
	return st_try_value(t, y, &c, err);
}

/* Another value of the stream in place of the input. Where branches run one after the other, the first branch's input
 * is the one that a model with both side by side would read. */
enum st_status st_test_source(struct st_trial *t, struct st_error *err)
{
	const struct st_graph *g = t->x->g;
	if (t->n->in[0] == ST_NO_NODE || t->n->from[0])
		return ST_OK;
	const struct st_node *own = &g->nodes[t->n->in[0]];
	for (uint32_t k = 0; k < t->i; k++) {
		const struct st_node *n = &g->nodes[k];
		if (k == t->n->in[0] || n->width != own->width || n->op == ST_OP_SCORES || n->op == ST_OP_SOFTMAX
		    || !st_run_holds(t->x->run, k))
			continue;
		struct st_node as = *t->n;
		as.in[0] = k;
		bool stream = own->op == ST_OP_ADD && (own->in[0] == k || own->in[1] == k)
		           && (n->op == ST_OP_ADD || n->layer < 0 || n->layer < t->n->layer);
		struct st_cause c = stream ? st_blame(ST_CAUSE_RESIDUAL_PARALLEL)
		                           : st_blame_holding(ST_CAUSE_RESIDUAL_WRONG_SOURCE, n);
		ST_TRY(st_try_node(t, &as, &c, err));
	}
	return ST_OK;
}

enum st_status st_test_norm(struct st_trial *t, struct st_error *err)
{
	ST_TRY(test_eps(t, err));
	ST_TRY(test_kind(t, err));
	ST_TRY(test_weight(t, err));
	ST_TRY(test_reduction(t, err));
	ST_TRY(test_runs(t, err));
	return test_axis(t, err);
}
