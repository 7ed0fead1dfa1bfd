/* attention.c - mistakes made in attention: scales and limits of scores, which head reads which, what is left out. */
#include "explain/attend.h"

#include "base/error.h"
#include "graph/basis.h"
#include "kernel/kernel.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- scale and limit: numbers of the node, searched where they are none that is usual ---- */

static enum st_status try_scores(struct st_attention *a, double scale, double cap, const struct st_cause *c,
                                 struct st_error *err)
{
	struct st_trial at = *a->t;
	struct st_node as = *a->scores;
	as.scale = scale;
	as.softcap = cap;
	at.i = a->i_scores;
	at.n = a->scores;
	enum st_status st = st_try_node(&at, &as, c, err);
	a->t->best_ratio = at.best_ratio;
	return st;
}

/* The scale or the limit between `from` and `to` that leaves least: the best of equal steps of its logarithm, then
 * smaller steps around that one. */
static enum st_status search(struct st_attention *a, bool cap, double from, double to, double *found,
                             struct st_error *err)
{
	bool coarse = !st_attention_got(a);
	int steps = coarse ? 24 : 48, closer = coarse ? 24 : 44;
	double lo = log(from), hi = log(to), step = (hi - lo) / steps, best = INFINITY, at = lo;
	struct st_attend as = st_attend_own(a);
	double *p = cap ? &as.softcap : &as.scale, left;
	for (int k = 0; k <= steps; k++) {
		*p = exp(lo + k * step);
		ST_TRY(st_attend_leaves(a, &as, &left, err));
		if (left < best) {
			best = left;
			at = lo + k * step;
		}
	}
	const double g = 0.6180339887498949;
	double x0 = at - step, x3 = at + step, x1 = x3 - g * (x3 - x0), x2 = x0 + g * (x3 - x0), l1, l2;
	*p = exp(x1);
	ST_TRY(st_attend_leaves(a, &as, &l1, err));
	*p = exp(x2);
	ST_TRY(st_attend_leaves(a, &as, &l2, err));
	for (int k = 0; k < closer; k++) {
		bool left_part = l1 < l2;
		if (left_part) {
			x3 = x2;
			x2 = x1;
			l2 = l1;
			x1 = x3 - g * (x3 - x0);
		} else {
			x0 = x1;
			x1 = x2;
			l1 = l2;
			x2 = x0 + g * (x3 - x0);
		}
		*p = exp(left_part ? x1 : x2);
		ST_TRY(st_attend_leaves(a, &as, left_part ? &l1 : &l2, err));
	}
	*found = exp(l1 < l2 ? x1 : x2);
	return ST_OK;
}

struct named {
	double value;
	const char *is;
};

static enum st_status try_scale(struct st_attention *a, double scale, const char *is, struct st_error *err)
{
	struct st_cause c = st_blame(ST_CAUSE_ATTN_SCALE);
	st_cause_put(&c, ST_PARAM_SCALE, scale);
	st_cause_put(&c, ST_PARAM_EXPECTED, a->scores->scale);
	if (is)
		st_cause_put_text(&c, ST_PARAM_IS, is);
	return try_scores(a, scale, a->scores->softcap, &c, err);
}

/* What a fitted scale is: one of those that are usual, or one over the root of a whole number. */
static enum st_status test_scale(struct st_attention *a, struct st_error *err)
{
	double d = (double)a->d, own = a->scores->scale, D = a->t->x->g->nodes[0].width, fitted;
	const struct named usual[] = {
		{ 1, "1" },
		{ 1 / sqrt(d), "1/sqrt(head_dim)" },
		{ 1 / d, "1/head_dim, which is 1/sqrt(head_dim) twice" },
		{ sqrt(d), "sqrt(head_dim)" },
		{ d, "head_dim" },
		{ 1 / sqrt(D), "1/sqrt(hidden)" },
		{ 1 / sqrt(D / (double)a->H), "1/sqrt(hidden / heads)" },
		{ a->dv ? 1 / sqrt((double)a->dv) : own, "1/sqrt(head_dim of V)" },
		{ own * own, "the scale twice" },
		{ own * 1.4426950408889634, "the scale times log2(e)" },
		{ own * 0.6931471805599453, "the scale times ln(2)" },
		{ own / sqrt(2), "the scale over sqrt(2)" },
		{ own * sqrt(2), "the scale times sqrt(2)" },
		{ own * sqrt(d), "the scale times sqrt(head_dim)" },
	};
	ST_TRY(search(a, false, own / 1024, own * 1024, &fitted, err));
	const struct named *near = NULL;
	for (size_t i = 0; i < sizeof usual / sizeof *usual; i++) {
		double off = fabs(usual[i].value / fitted - 1);
		if (off < 5e-3 && fabs(usual[i].value / own - 1) > 1e-6
		    && (!near || off < 0.5 * fabs(near->value / fitted - 1)))
			near = &usual[i];
	}
	if (near)
		ST_TRY(try_scale(a, near->value, near->is, err));
	if (near && a->t->best->cause.code == ST_CAUSE_ATTN_SCALE && a->t->best->cause.confidence == ST_CONFIRMED)
		return ST_OK;
	double whole = floor(1 / (fitted * fitted) + 0.5);
	char is[48];
	snprintf(is, sizeof is, "1/sqrt(%.0f)", whole);
	if (whole >= 2 && fabs(whole * fitted * fitted - 1) < 1e-3)
		ST_TRY(try_scale(a, 1 / sqrt(whole), is, err));
	return try_scale(a, fitted, NULL, err);
}

static enum st_status try_cap(struct st_attention *a, double cap, struct st_error *err)
{
	struct st_cause c = st_blame(ST_CAUSE_ATTN_SOFTCAP);
	st_cause_put(&c, ST_PARAM_SOFTCAP, cap);
	st_cause_put(&c, ST_PARAM_EXPECTED, a->scores->softcap);
	return try_scores(a, a->scores->scale, cap, &c, err);
}

static enum st_status test_softcap(struct st_attention *a, struct st_error *err)
{
	double fitted;
	if (a->scores->softcap != 0)
		ST_TRY(try_cap(a, 0, err));
	ST_TRY(search(a, true, 0.5, 512, &fitted, err));
	double p = pow(10, floor(log10(fitted)) - 1), round = floor(fitted / p + 0.5) * p;
	if (fabs(round / fitted - 1) < 2e-3)
		ST_TRY(try_cap(a, round, err));
	return try_cap(a, fitted, err);
}

/* ---- heads ---- */

static enum st_status try_heads(struct st_attention *a, const uint32_t *key, const uint32_t *value, const char *how,
                                struct st_error *err)
{
	struct st_attend as = st_attend_own(a);
	struct st_cause c = st_blame(ST_CAUSE_ATTN_GQA_MAPPING);
	as.key_head = key;
	as.value_head = value;
	st_cause_put_text(&c, ST_PARAM_HOW, how);
	return st_try_attend(a, &as, &c, err);
}

/* "0 2 1 ..." */
static void list_heads(const uint32_t *map, size_t n, char *buf, size_t size)
{
	size_t at = 0;
	for (size_t h = 0; h < n && at + 8 < size; h++)
		at += (size_t)snprintf(buf + at, size - at, "%s%u", h ? " " : "", map[h]);
}

static enum st_status test_mapping(struct st_attention *a, uint32_t *map, struct st_error *err)
{
	static const char *const how[] = { "head h reads h mod n", "in reverse", "all read the first",
		                           "all read the last" };
	size_t H = a->H, G = a->G < a->Gv || !a->Gv ? a->G : a->Gv, most = a->G > a->Gv ? a->G : a->Gv;
	if (G != most || H == 1 || G == 1)
		return ST_OK;
	for (int kind = 0; kind < 4; kind++) {
		for (size_t h = 0; h < H; h++)
			map[h] = (uint32_t)(kind == 0   ? h % G
			                    : kind == 1 ? G - 1 - h / (H / G)
			                    : kind == 2 ? 0
			                                : G - 1);
		if (kind == 0 && H == G)
			continue;
		ST_TRY(try_heads(a, a->q ? map : NULL, map, how[kind], err));
	}
	/* The best for each query head. */
	if (!st_attention_got(a) || a->t->best->cause.confidence == ST_CONFIRMED)
		return ST_OK;
	uint32_t *one = map + H;
	bool other = false;
	for (size_t h = 0; h < H; h++) {
		double least = INFINITY;
		for (uint32_t g = 0; g < G; g++) {
			struct st_attend as = st_attend_own(a);
			as.key_head = as.value_head = one;
			one[h] = g;
			double left = st_attend_head_leaves(a, &as, h, h);
			if (left < least) {
				least = left;
				map[h] = g;
			}
		}
		other |= map[h] != h / (H / G);
		ST_TRY(st_check_cancel(err));
	}
	char text[96] = "heads read ";
	list_heads(map, H, text + strlen(text), sizeof text - strlen(text));
	return other ? try_heads(a, map, map, text, err) : ST_OK;
}

static enum st_status test_order(struct st_attention *a, uint32_t *order, struct st_error *err)
{
	const float *got = st_attention_got(a);
	size_t H = a->H;
	bool *taken = st_alloc_zeroed(H, sizeof *taken), other = false, once = true;
	if (!taken)
		return st_fail(err, ST_ERR_NOMEM, "out of memory");
	for (size_t h = 0; h < H && got && H > 1; h++) {
		double least = INFINITY;
		struct st_attend as = st_attend_own(a);
		for (size_t k = 0; k < H; k++) {
			double left = st_attend_head_leaves(a, &as, h, k);
			if (left < least) {
				least = left;
				order[h] = (uint32_t)k;
			}
		}
		other |= order[h] != h;
		once = once && !taken[order[h]];
		taken[order[h]] = true;
	}
	free(taken);
	if (!other || !once)
		return ST_OK;
	struct st_attend as = st_attend_own(a);
	struct st_cause c = st_blame(ST_CAUSE_ATTN_HEAD_PERMUTED);
	char text[96];
	as.order = order;
	list_heads(order, H, text, sizeof text);
	st_cause_put_text(&c, ST_PARAM_HOW, text);
	return st_try_attend(a, &as, &c, err);
}

static enum st_status test_zeroed(struct st_attention *a, struct st_error *err)
{
	const float *got = st_attention_got(a);
	for (size_t h = 0; h < a->H; h++) {
		bool zero = true;
		for (size_t t = 0; got && t < a->T && zero; t++)
			for (size_t i = 0; i < a->dv && zero && a->t->x->have[t]; i++)
				zero = got[t * a->H * a->dv + h * a->dv + i] == 0;
		if (!zero || (!got && a->H > 64))
			continue;
		struct st_attend as = st_attend_own(a);
		struct st_cause c = st_blame(ST_CAUSE_ATTN_HEAD_ZEROED);
		as.no_head = (int64_t)h;
		st_cause_put(&c, ST_PARAM_HEAD, (double)h);
		ST_TRY(st_try_attend(a, &as, &c, err));
	}
	return ST_OK;
}

/* ---- sinks, dropout, what V is ---- */

static enum st_status test_sink(struct st_attention *a, struct st_error *err)
{
	struct st_attend as = st_attend_own(a);
	struct st_cause c = st_blame(ST_CAUSE_ATTN_SINK);
	as.sink = a->sinks ? ST_SINK_NONE : ST_SINK_ZERO;
	st_cause_put_text(&c, ST_PARAM_HOW, a->sinks ? "missing" : "a sink of 0 added");
	return st_try_attend(a, &as, &c, err);
}

/* Of the probabilities themselves: some are zero, all others larger by one factor. */
static enum st_status test_dropout(struct st_attention *a, struct st_error *err)
{
	const float *got = st_attention_got(a), *exact = a->t->exact;
	struct st_value v = st_trial_value(a->t);
	double gy = 0, yy = 0;
	size_t zeros = 0;
	if (!got || a->to != ST_OP_SOFTMAX)
		return ST_OK;
	for (size_t k = 0; k < v.rows * v.cols; k++) {
		if (!st_capture_counts(a->t->x, a->t->n, &v, a->t->x->have, k / v.cols, k % v.cols))
			continue;
		zeros += got[k] == 0 && exact[k] > 1e-6f;
		gy += got[k] != 0 ? (double)got[k] * exact[k] : 0;
		yy += got[k] != 0 ? (double)exact[k] * exact[k] : 0;
	}
	double by = yy > 0 ? gy / yy : 1;
	if (!zeros || by < 1.005)
		return ST_OK;
	struct st_cause c = st_blame(ST_CAUSE_ATTN_DROPOUT);
	st_cause_put(&c, ST_PARAM_FACTOR, by);
	float *y = st_trial_buffer(a->t);
	for (size_t k = 0; k < v.rows * v.cols; k++)
		y[k] = got[k] == 0 ? 0 : (float)(by * exact[k]);
	return st_try_value(a->t, y, &c, err);
}

/* In the order of features that the graph has, and in that of a file whose pairs are neighbours. */
static enum st_status test_values(struct st_attention *a, struct st_error *err)
{
	struct st_cached k = st_run_cached(a->t->x->run, a->scores->layer);
	bool alike = k.v && k.k_width == k.v_width && (!a->mix || (a->d == a->dv && a->G == a->Gv));
	for (int adjacent = 0; adjacent < (a->rope ? 2 : 1); adjacent++) {
		struct st_attend as = st_attend_own(a);
		struct st_cause c = st_blame(ST_CAUSE_ATTN_KV_SWAPPED);
		as.adjacent = adjacent;
		as.swapped = true;
		if (alike)
			ST_TRY(st_try_attend(a, &as, &c, err));
		as.swapped = false;
		as.values_turned = true;
		c = st_blame(ST_CAUSE_ROPE_ON_V);
		if (a->rope && a->mix && a->dv == a->d)
			ST_TRY(st_try_attend(a, &as, &c, err));
	}
	return ST_OK;
}

/* In a layer without rotation, that of the layers which have one. */
static enum st_status test_turned(struct st_attention *a, struct st_error *err)
{
	const struct st_graph *g = a->t->x->g;
	const struct st_node *rope = NULL, *q = &g->nodes[a->scores->in[0]], *k = &g->nodes[a->scores->in[1]];
	for (uint32_t i = 0; i < g->n_nodes && !rope; i++)
		if (g->nodes[i].op == ST_OP_ROPE && g->nodes[i].head_dim == a->d && g->nodes[i].inv_freq)
			rope = &g->nodes[i];
	if (!rope || q->op == ST_OP_ROPE || k->op == ST_OP_ROPE || a->d > ST_MAX_HEAD_DIM)
		return ST_OK;
	for (int adjacent = 0; adjacent < 2; adjacent++) {
		struct st_attend as = st_attend_own(a);
		struct st_cause c = st_blame(ST_CAUSE_ROPE_UNWANTED);
		as.turned = rope;
		as.adjacent = adjacent;
		ST_TRY(st_try_attend(a, &as, &c, err));
	}
	return ST_OK;
}

/* ---- ALiBi's slopes ---- */

static double own_slope(const struct st_attention *a, size_t h)
{
	struct st_attn_shape shape = { .n_heads = a->H,
		                       .slopes = a->scores->slopes,
		                       .slope_scale = a->scores->slope_scale };
	return st_attn_slope(&shape, h);
}

/* A score falls by its head's slope for each position: by least squares over the captured scores of a head. */
static void fit_slopes(const struct st_attention *a, double *slope)
{
	const struct st_trial *t = a->t;
	struct st_value v = st_trial_value(t);
	for (size_t h = 0; h < a->H; h++) {
		double dx = 0, xx = 0;
		for (size_t k = h * a->T; k < (h + 1) * a->T; k++)
			for (size_t p = 0; p < a->P; p++) {
				double far = (double)(a->P - a->T + k % a->T) - (double)p;
				if (!st_capture_counts(t->x, t->n, &v, t->x->have, k, p))
					continue;
				dx += ((double)t->exact[k * v.cols + p] - t->got[k * v.cols + p]) * far;
				xx += far * far;
			}
		slope[h] = own_slope(a, h) + (xx > 0 ? dx / xx : 0);
	}
}

/* slope: of each head; NULL: the model's, times a factor. */
static enum st_status try_slopes(struct st_attention *a, const double *slope, double times, const char *how,
                                 struct st_error *err)
{
	struct st_attend as = st_attend_own(a);
	struct st_cause c = st_blame(ST_CAUSE_ATTN_ALIBI);
	as.slopes = times;
	as.slope = slope;
	if (!slope)
		st_cause_put(&c, ST_PARAM_FACTOR, times);
	st_cause_put_text(&c, ST_PARAM_HOW, how);
	return st_try_attend(a, &as, &c, err);
}

/* The factor with which least is left, by quarter powers of two: where scores themselves were not captured. */
static enum st_status search_slopes(struct st_attention *a, double *times, struct st_error *err)
{
	double least = INFINITY, left;
	*times = 1;
	for (int k = -24; k <= 24; k++) {
		struct st_attend as = st_attend_own(a);
		as.slopes = pow(2, k / 4.0);
		ST_TRY(st_attend_leaves(a, &as, &left, err));
		*times = left < least ? as.slopes : *times;
		least = fmin(least, left);
	}
	return ST_OK;
}

/* Missing; times the scale of the scores, as where they are added before it; of a power of two of heads; fitted. */
static enum st_status test_slopes(struct st_attention *a, struct st_error *err)
{
	double most = a->scores->slopes, times;
	if (most == 0 || a->P < 2)
		return ST_OK;
	double *slope = st_alloc_array(a->H, sizeof *slope);
	if (!slope)
		return st_fail(err, ST_ERR_NOMEM, "out of memory");
	enum st_status st;
	ST_TRY_OUT(try_slopes(a, NULL, 0, "missing", err));
	ST_TRY_OUT(try_slopes(a, NULL, a->scores->scale, "added before the scale", err));
	ST_TRY_OUT(try_slopes(a, NULL, -1, "added, not subtracted", err));
	for (size_t h = 0; h < a->H; h++)
		slope[h] = pow(2, -most * (double)(h + 1) / (double)a->H) * a->scores->slope_scale;
	if ((a->H & (a->H - 1)) != 0)
		ST_TRY_OUT(try_slopes(a, slope, 1, "as of a power of two of heads", err));
	if (st_trial_direct(a->t) && a->to == ST_OP_SCORES) {
		fit_slopes(a, slope);
		ST_TRY_OUT(try_slopes(a, NULL, slope[0] / own_slope(a, 0), "times a factor", err));
		ST_TRY_OUT(try_slopes(a, slope, 1, "of each head another", err));
	} else {
		ST_TRY_OUT(search_slopes(a, &times, err));
		st = times == 1 ? ST_OK : try_slopes(a, NULL, times, "times a factor", err);
	}
out:
	free(slope);
	return st;
}

static enum st_status test_all(struct st_attention *a, uint32_t *heads, struct st_error *err)
{
	if (a->from == ST_OP_SCORES) {
		ST_TRY(test_turned(a, err));
		ST_TRY(test_slopes(a, err));
		ST_TRY(test_scale(a, err));
		ST_TRY(test_softcap(a, err));
	}
	/* Mistakes in what a cache holds come before masks: a wrong mask would have shown in the prompt already. */
	ST_TRY(st_test_rows(a, err));
	ST_TRY(st_test_masks(a, err));
	if (a->from != ST_OP_SOFTMAX) {
		ST_TRY(test_values(a, err));
		ST_TRY(test_mapping(a, heads, err));
	}
	if (a->mix) {
		ST_TRY(test_zeroed(a, err));
		ST_TRY(test_order(a, heads, err));
	}
	if (a->from != ST_OP_MIX && a->to != ST_OP_SCORES) {
		ST_TRY(test_sink(a, err));
		ST_TRY(test_dropout(a, err));
	}
	return ST_OK;
}

enum st_status st_test_attention(struct st_trial *t, struct st_error *err)
{
	struct st_attention a;
	bool found;
	ST_TRY(st_attention_open(t, &a, &found, err));
	if (!found)
		return ST_OK;
	uint32_t *heads = st_alloc_array2(2, a.H, sizeof *heads);
	for (size_t h = 0; heads && h < 2 * a.H; h++)
		heads[h] = 0;
	enum st_status st = heads ? test_all(&a, heads, err) : st_fail(err, ST_ERR_NOMEM, "out of memory");
	free(heads);
	st_attention_close(&a);
	return st;
}
