/* captures.c - values that are right and were written down wrongly: under another name, in other rows, on other axes. */
#include "explain/hypotheses.h"

#include "base/error.h"
#include "graph/basis.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void name_of(const struct st_node *n, char *buf, size_t size)
{
	if (n->layer >= 0)
		snprintf(buf, size, "%s of layer %d", st_stage_name(n->stage), n->layer);
	else
		snprintf(buf, size, "%s", st_stage_name(n->stage));
}

static struct st_cause holds(enum st_cause_code code, const struct st_node *n)
{
	struct st_cause c = st_blame(code);
	char name[64];
	name_of(n, name, sizeof name);
	st_cause_put_text(&c, ST_PARAM_HOLDS, name);
	return c;
}

/* ---- rows ---- */

/* Row r of the value is row r + by of what it should be; rows that would come from outside stay as captured. */
static enum st_status try_shift(struct st_trial *t, int by, struct st_error *err)
{
	struct st_value v = st_trial_value(t);
	float *y = st_trial_buffer(t);
	for (size_t r = 0; r < v.rows; r++) {
		bool inside = (int64_t)r + by >= 0 && (int64_t)r + by < (int64_t)v.rows;
		memcpy(y + r * v.cols,
		       inside ? t->x->exact + (size_t)((int64_t)r + by) * v.cols : t->x->got + r * v.cols,
		       v.cols * sizeof *y);
	}
	struct st_cause c = st_blame(ST_CAUSE_CAPTURE_ROW_SHIFT);
	st_cause_put(&c, ST_PARAM_SHIFT, by);
	return st_try_value(t, y, &c, NULL, err);
}

static double apart(const float *a, const float *b, size_t n)
{
	double sum = 0;
	for (size_t i = 0; i < n; i++)
		sum += ((double)a[i] - b[i]) * ((double)a[i] - b[i]);
	return sum;
}

/* One row that is another token's: the one that is nearest to it among all. */
static enum st_status test_stale(struct st_trial *t, struct st_error *err)
{
	struct st_value v = st_trial_value(t);
	size_t wrong = 0, row = 0, from = 0;
	double most = 0;
	for (size_t r = 0; r < v.rows; r++) {
		double own = apart(t->x->got + r * v.cols, t->x->exact + r * v.cols, v.cols);
		if (st_trial_has(t, r) && own > most) {
			most = own;
			row = r;
		}
	}
	double least = most;
	for (size_t r = 0; r < v.rows; r++) {
		double d = apart(t->x->got + row * v.cols, t->x->exact + r * v.cols, v.cols);
		wrong += st_trial_has(t, r)
		      && apart(t->x->got + r * v.cols, t->x->exact + r * v.cols, v.cols) > 0.01 * most;
		if (r != row && d < least) {
			least = d;
			from = r;
		}
	}
	if (wrong * 2 > v.rows || least > 0.01 * most || v.rows < 2)
		return ST_OK;
	float *y = st_trial_buffer(t);
	memcpy(y, t->x->exact, v.rows * v.cols * sizeof *y);
	memcpy(y + row * v.cols, t->x->exact + from * v.cols, v.cols * sizeof *y);
	char which[32];
	snprintf(which, sizeof which, "position %zu", from);
	static const enum st_cause_code codes[] = { ST_CAUSE_KERNEL_STALE_TOKEN, ST_CAUSE_CAPTURE_STALE_TOKEN };
	for (size_t k = 0; k < 2; k++) {
		struct st_cause c = st_blame(codes[k]);
		st_cause_put(&c, ST_PARAM_TOKEN, (double)row);
		st_cause_put_text(&c, ST_PARAM_HOLDS, which);
		memcpy(y + row * v.cols, t->x->exact + from * v.cols, v.cols * sizeof *y);
		ST_TRY(st_try_value(t, y, &c, NULL, err));
	}
	return ST_OK;
}

/* ---- names ---- */

/* Bit for bit another captured value of this pass. */
static enum st_status test_same_as_captured(struct st_trial *t, struct st_error *err)
{
	const struct st_explainer *x = t->x;
	struct st_value v = st_trial_value(t);
	float *other = st_trial_buffer(t);
	for (uint32_t k = 0; k < x->g->n_nodes; k++) {
		const struct st_node *n = &x->g->nodes[k];
		struct st_value w = st_run_value(x->run, k);
		bool input = false;
		for (uint32_t j = 0; j < ST_NODE_ALL_INPUTS; j++)
			input |= st_node_input(t->n, j) == k;
		if (k == t->i || input || !x->pass.at[k] || w.rows != v.rows || w.cols != v.cols)
			continue;
		ST_TRY(st_capture_load(t->x, k, x->got, other, x->have_input, err));
		bool same = true;
		for (size_t e = 0; e < v.rows * v.cols && same; e++)
			same = other[e] == x->got[e];
		if (!same)
			continue;
		/* A later value: the buffer may have been reused before it was copied. */
		struct st_cause c = holds(k > t->i ? ST_CAUSE_CAPTURE_ALIASED : ST_CAUSE_STAGE_MISLABELLED, n);
		if (n->stage == t->n->stage) {
			c = st_blame(ST_CAUSE_CAPTURE_LAYER_SHIFT);
			st_cause_put(&c, ST_PARAM_LAYER, n->layer);
		}
		ST_TRY(st_try_value(t, other, &c, NULL, err));
		if (k > t->i && n->stage != t->n->stage) {
			c = holds(ST_CAUSE_STAGE_MISLABELLED, n);
			ST_TRY(st_capture_load(t->x, k, x->got, other, x->have_input, err));
			ST_TRY(st_try_value(t, other, &c, NULL, err));
		}
	}
	return ST_OK;
}

/* What the next operation makes of the right value: the value behind was written down under this name. */
static enum st_status test_next(struct st_trial *t, struct st_error *err)
{
	const struct st_explainer *x = t->x;
	struct st_value v = st_trial_value(t);
	float *right = st_alloc_array(v.rows * v.cols, sizeof *right);
	if (!right)
		return st_fail(err, ST_ERR_NOMEM, "out of memory");
	memcpy(right, v.data, v.rows * v.cols * sizeof *right);
	enum st_status st = ST_OK;
	st_run_put(x->run, t->i, x->exact);
	for (uint32_t k = t->i + 1; k < x->g->n_nodes && st == ST_OK; k++) {
		const struct st_node *n = &x->g->nodes[k];
		struct st_value w = st_run_value(x->run, k);
		bool unary = n->in[0] == t->i && n->in[1] == ST_NO_NODE && n->n_more == 0;
		if (!unary || w.rows != v.rows || w.cols != v.cols || n->slot == t->n->slot)
			continue;
		float *y = st_trial_buffer(t);
		st = st_run_eval_as(x->run, k, n, &x->exec, y, err);
		struct st_cause c = holds(ST_CAUSE_STAGE_MISLABELLED, n);
		if (st == ST_OK)
			st = st_try_value(t, y, &c, NULL, err);
		st_run_put(x->run, t->i, x->exact);
	}
	st_run_put(x->run, t->i, right);
	free(right);
	return st;
}

/* ---- axes and basis ---- */

/* [heads, positions, size] read as [positions, heads, size]. */
static enum st_status test_axes(struct st_trial *t, struct st_error *err)
{
	struct st_value v = st_trial_value(t);
	size_t H = t->n->heads, T = t->T;
	if (!H || v.cols % H || T < 2 || v.rows != T || H < 2)
		return ST_OK;
	size_t d = v.cols / H;
	float *y = st_trial_buffer(t);
	for (size_t r = 0; r < T; r++)
		for (size_t h = 0; h < H; h++)
			memcpy(y + (h * T + r) * d, t->x->exact + r * v.cols + h * d, d * sizeof *y);
	struct st_cause c = st_blame(ST_CAUSE_CAPTURE_AXES);
	return st_try_value(t, y, &c, NULL, err);
}

static enum st_status test_basis(struct st_trial *t, struct st_error *err)
{
	struct st_value v = st_trial_value(t);
	float *y = st_trial_buffer(t);
	bool moved = false;
	memcpy(y, t->x->exact, v.rows * v.cols * sizeof *y);
	for (size_t r = 0; r < v.rows; r++)
		moved |= st_capture_other_basis(t->x, t->i, y + r * v.cols);
	if (!moved)
		return ST_OK;
	struct st_cause c = st_blame(ST_CAUSE_CAPTURE_ROPE_LAYOUT);
	st_cause_put_text(&c, ST_PARAM_IS, t->x->interleaved ? "half" : "interleaved");
	return st_try_value(t, y, &c, NULL, err);
}

enum st_status st_test_capture(struct st_trial *t, struct st_error *err)
{
	if (!st_trial_direct(t))
		return ST_OK;
	ST_TRY(test_basis(t, err));
	ST_TRY(test_axes(t, err));
	ST_TRY(test_same_as_captured(t, err));
	ST_TRY(test_next(t, err));
	for (int by = 1; by <= 2 && st_trial_value(t).rows > 2; by++) {
		ST_TRY(try_shift(t, by, err));
		ST_TRY(try_shift(t, -by, err));
	}
	return test_stale(t, err);
}
