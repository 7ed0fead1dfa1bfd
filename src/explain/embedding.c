/* embedding.c - mistakes made with embeddings, learned positions and the head. */
#include "explain/hypotheses.h"

#include "base/error.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static enum st_status test_scale(struct st_trial *t, struct st_error *err)
{
	double D = t->n->width, own = t->n->scale, gy = 0, yy = 0;
	const struct {
		double value;
		const char *is;
	} usual[] = { { 1, "1" }, { sqrt(D), "sqrt(hidden)" }, { 1 / sqrt(D), "1/sqrt(hidden)" } };
	for (size_t k = 0; k < t->T * t->n->width && st_trial_direct(t); k++)
		if (st_trial_has(t, k / t->n->width)) {
			gy += (double)t->got[k] * t->exact[k];
			yy += (double)t->exact[k] * t->exact[k];
		}
	double fitted = yy > 0 ? own * gy / yy : own;
	for (size_t i = 0; i <= 3; i++) {
		struct st_node as = *t->n;
		struct st_cause c = st_blame(ST_CAUSE_EMBEDDING_SCALE);
		as.scale = i < 3 ? usual[i].value : fitted;
		if (fabs(as.scale / own - 1) < 1e-6 || (i < 3 && yy > 0 && fabs(as.scale / fitted - 1) > 0.01))
			continue;
		st_cause_put(&c, ST_PARAM_FACTOR, as.scale / own);
		st_cause_put(&c, ST_PARAM_EXPECTED, own);
		if (i < 3)
			st_cause_put_text(&c, ST_PARAM_IS, usual[i].is);
		ST_TRY(st_try_node(t, &as, &c, err));
	}
	return ST_OK;
}

/* Row ids + by for every token. */
static enum st_status try_rows(struct st_trial *t, int by, struct st_error *err)
{
	size_t D = t->n->width, V = t->x->g->vocab;
	float *y = st_trial_buffer(t);
	for (size_t r = 0; r < t->T; r++) {
		int64_t id = (int64_t)t->x->pass.tokens[r] + by;
		st_weight_decode(t->n->w[0], (uint64_t)((id + (int64_t)V) % (int64_t)V), 1, y + r * D);
		for (size_t i = 0; i < D; i++)
			y[r * D + i] = (float)(t->n->scale * y[r * D + i]);
	}
	struct st_cause c = st_blame(ST_CAUSE_EMBEDDING_ROW_SHIFT);
	st_cause_put(&c, ST_PARAM_SHIFT, by);
	return st_try_value(t, y, &c, err);
}

/* The row that a token's embedding is, where it is not its own. */
static enum st_status test_ids(struct st_trial *t, struct st_error *err)
{
	size_t D = t->n->width, V = t->x->g->vocab, wrong = 0, first = 0;
	float *y = st_trial_buffer(t), *row = st_alloc_array(D, sizeof *row);
	double *least = st_alloc_array(t->T, sizeof *least);
	uint32_t *id = st_alloc_array(t->T, sizeof *id);
	enum st_status st = row && least && id ? ST_OK : st_fail(err, ST_ERR_NOMEM, "out of memory");
	for (size_t r = 0; st == ST_OK && r < t->T; r++) {
		double left = 0;
		for (size_t i = 0; i < D; i++)
			left += fabs((double)t->got[r * D + i] - t->exact[r * D + i]);
		id[r] = t->x->pass.tokens[r];
		least[r] = st_trial_has(t, r) ? left : 0;
	}
	for (uint32_t v = 0; st == ST_OK && v < V; v++) {
		st_weight_decode(t->n->w[0], v, 1, row);
		for (size_t r = 0; r < t->T; r++) {
			double left = 0;
			for (size_t i = 0; i < D && left < least[r]; i++)
				left += fabs((double)t->got[r * D + i] - t->n->scale * row[i]);
			if (left < least[r]) {
				least[r] = left;
				id[r] = v;
			}
		}
		if (v % 4096 == 0)
			st = st_check_cancel(err);
	}
	for (size_t r = 0; st == ST_OK && r < t->T; r++) {
		st_weight_decode(t->n->w[0], id[r], 1, y + r * D);
		for (size_t i = 0; i < D; i++)
			y[r * D + i] = (float)(t->n->scale * y[r * D + i]);
		if (id[r] != t->x->pass.tokens[r])
			first = wrong++ ? first : r;
	}
	if (st == ST_OK && wrong) {
		struct st_cause c = st_blame(ST_CAUSE_TOKENS_MISMATCH);
		st_cause_put(&c, ST_PARAM_TOKEN, (double)first);
		st_cause_put(&c, ST_PARAM_VALUE, id[first]);
		st_cause_put(&c, ST_PARAM_EXPECTED, t->x->pass.tokens[first]);
		st = st_try_value(t, y, &c, err);
	}
	free(row);
	free(least);
	free(id);
	return st;
}

enum st_status st_test_embedding(struct st_trial *t, struct st_error *err)
{
	ST_TRY(test_scale(t, err));
	for (int by = -2; by <= 2; by++)
		if (by)
			ST_TRY(try_rows(t, by, err));
	return st_trial_direct(t) ? test_ids(t, err) : ST_OK;
}

enum st_status st_test_positions(struct st_trial *t, struct st_error *err)
{
	struct st_cause c = st_blame(ST_CAUSE_EMBEDDING_POSITION);
	float *y = st_trial_buffer(t);
	st_cause_put_text(&c, ST_PARAM_HOW, "missing");
	memset(y, 0, t->T * t->n->width * sizeof *y);
	ST_TRY(st_try_value(t, y, &c, err));
	uint64_t rows = st_tensor_rows(t->n->w[0]->tensor);
	int64_t first = (int64_t)(t->P - t->T);
	for (int64_t by = -first - 3; by <= 3; by++) {
		struct st_node as = *t->n;
		int64_t offset = (int64_t)t->n->offset + by;
		if (by == 0 || (by < -3 && by > -first) || offset + first < 0 || offset < 0 || offset + t->P > rows)
			continue;
		as.offset = (uint32_t)offset;
		c = st_blame(ST_CAUSE_EMBEDDING_POSITION);
		st_cause_put(&c, ST_PARAM_OFFSET, (double)by);
		ST_TRY(st_try_node(t, &as, &c, err));
	}
	return ST_OK;
}

/* Where they are added to the embeddings, and are right themselves. */
enum st_status st_test_position_sum(struct st_trial *t, struct st_error *err)
{
	const struct st_node *nodes = t->x->g->nodes;
	for (int k = 0; k < 2; k++) {
		if (nodes[t->n->in[k]].op != ST_OP_EMBED_POSITION)
			continue;
		struct st_cause c = st_blame(ST_CAUSE_EMBEDDING_POSITION);
		float *y = st_trial_buffer(t);
		st_cause_put_text(&c, ST_PARAM_HOW, "missing");
		for (size_t r = 0; r < t->T; r++)
			memcpy(y + r * t->n->width, t->in[1 - k] + r * t->ld[1 - k], t->n->width * sizeof *y);
		ST_TRY(st_try_value(t, y, &c, err));
	}
	return ST_OK;
}

/* ---- the head ---- */

static void limit(void *ctx, struct st_trial *t, float *y)
{
	const double *cap = ctx;
	struct st_value v = st_trial_value(t);
	for (size_t k = 0; k < v.rows * v.cols; k++)
		y[k] = (float)(*cap * tanh(y[k] / *cap));
}

/* As the product has it; behind a factor, which has none. */
static enum st_status try_cap(struct st_trial *t, double cap, struct st_error *err)
{
	struct st_node as = *t->n;
	struct st_cause c = st_blame(ST_CAUSE_HEAD_SOFTCAP);
	as.softcap = cap;
	st_cause_put(&c, ST_PARAM_VALUE, cap);
	st_cause_put(&c, ST_PARAM_EXPECTED, t->n->softcap);
	return t->n->op == ST_OP_LINEAR ? st_try_node(t, &as, &c, err) : st_try_map(t, limit, &cap, &c, err);
}

/* The limit under which least is left of the captured logits; plain: without one. */
static double fit_cap(const struct st_trial *t, const float *plain)
{
	struct st_value v = st_trial_value(t);
	double best = INFINITY, at = 0, lo = log(0.5), hi = log(512);
	for (int turn = 0; turn < 8; turn++) {
		double step = (hi - lo) / 40;
		for (int k = 0; k <= 40; k++) {
			double cap = exp(lo + k * step), left = 0;
			for (size_t i = 0; i < v.rows * v.cols; i++) {
				double d = cap * tanh(plain[i] / cap) - t->got[i];
				left += st_trial_has(t, i / v.cols) ? d * d : 0;
			}
			if (left < best) {
				best = left;
				at = lo + k * step;
			}
		}
		lo = at - step;
		hi = at + step;
	}
	return exp(at);
}

static enum st_status test_cap(struct st_trial *t, struct st_error *err)
{
	if (t->n->softcap != 0)
		ST_TRY(try_cap(t, 0, err));
	if (!st_trial_direct(t))
		return ST_OK;
	struct st_node as = *t->n;
	float *y = st_trial_buffer(t);
	as.softcap = 0;
	ST_TRY(st_run_eval_as(t->x->run, t->i, &as, &t->x->exec, y, err));
	double cap = fit_cap(t, y), p = pow(10, floor(log10(cap)) - 1), round = floor(cap / p + 0.5) * p;
	if (fabs(round / cap - 1) < 5e-3)
		ST_TRY(try_cap(t, round, err));
	return try_cap(t, cap, err);
}

/* Logits times a factor, before they are limited. */
struct factor {
	double by, cap;
};

static void multiply(void *ctx, struct st_trial *t, float *y)
{
	const struct factor *f = ctx;
	struct st_value v = st_trial_value(t);
	for (size_t k = 0; k < v.rows * v.cols; k++) {
		double z = f->cap != 0 ? f->cap * atanh(fmax(fmin(y[k] / f->cap, 1 - 0x1p-24), -1 + 0x1p-24))
		                       : (double)y[k];
		y[k] = (float)(f->cap != 0 ? f->cap * tanh(f->by * z / f->cap) : f->by * z);
	}
}

static enum st_status test_gain(struct st_trial *t, struct st_error *err)
{
	struct st_value v = st_trial_value(t);
	struct factor f = { .cap = t->n->softcap };
	double gy = 0, yy = 0, D = t->x->g->nodes[0].width;
	for (size_t k = 0; k < v.rows * v.cols && st_trial_direct(t); k++) {
		double got = t->got[k], y = t->exact[k];
		if (!st_trial_has(t, k / v.cols) || (f.cap != 0 && fmax(fabs(got), fabs(y)) > 0.98 * f.cap))
			continue;
		if (f.cap != 0) {
			got = atanh(got / f.cap);
			y = atanh(y / f.cap);
		}
		gy += got * y;
		yy += y * y;
	}
	if (!(yy > 0) || !(gy > 0))
		return ST_OK;
	f.by = gy / yy;
	struct st_cause c = st_blame(ST_CAUSE_HEAD_SCALE);
	st_cause_put(&c, ST_PARAM_FACTOR, f.by);
	if (fabs(f.by * sqrt(D) - 1) < 1e-3)
		st_cause_put_text(&c, ST_PARAM_IS, "1/sqrt(hidden)");
	if (fabs(f.by / sqrt(D) - 1) < 1e-3)
		st_cause_put_text(&c, ST_PARAM_IS, "sqrt(hidden)");
	return st_try_map(t, multiply, &f, &c, err);
}

enum st_status st_test_head(struct st_trial *t, struct st_error *err)
{
	if (t->n->layer >= 0 || t->n->width != t->x->g->vocab)
		return ST_OK;
	ST_TRY(test_cap(t, err));
	if (t->n->op != ST_OP_LINEAR || t->n->n_w != 1)
		return ST_OK;
	ST_TRY(test_gain(t, err));
	const struct st_weight *own = t->n->w[0];
	for (size_t i = 0; i < st_model_n_weights(t->x->m); i++) {
		const struct st_weight *w = st_model_weight_at(t->x->m, i);
		if (w == own || !w->tensor || w->tensor == own->tensor || w->n_experts
		    || st_weight_rows(w) != st_weight_rows(own) || st_weight_cols(w) != st_weight_cols(own))
			continue;
		struct st_node as = *t->n;
		bool tied = w->kind == ST_WEIGHT_EMBEDDING;
		struct st_cause c = st_blame(tied ? ST_CAUSE_HEAD_TIED : ST_CAUSE_HEAD_WRONG_TENSOR);
		as.w[0] = w;
		st_cause_put_text(&c, ST_PARAM_HOLDS, w->canonical);
		ST_TRY(st_try_node(t, &as, &c, err));
	}
	return ST_OK;
}
