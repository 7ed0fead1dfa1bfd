/* captures.c - values that are right and were written down wrongly: under another name, in other rows, on other
 * axes. */
#include "explain/hypotheses.h"

#include "base/error.h"
#include "graph/basis.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- rows ---- */

/* Row r of the value is row r + by of what it should be; rows that would come from outside stay as captured. */
static enum st_status try_shift(struct st_trial *t, int by, struct st_error *err)
{
	struct st_value v = st_trial_value(t);
	float *y = st_trial_buffer(t);
	for (size_t r = 0; r < v.rows; r++) {
		bool inside = (int64_t)r + by >= 0 && (int64_t)r + by < (int64_t)v.rows;
		memcpy(y + r * v.cols, inside ? t->exact + (size_t)((int64_t)r + by) * v.cols : t->got + r * v.cols,
		       v.cols * sizeof *y);
	}
	struct st_cause c = st_blame(ST_CAUSE_CAPTURE_ROW_SHIFT);
	st_cause_put(&c, ST_PARAM_SHIFT, by);
	return st_try_value(t, y, &c, err);
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
		double own = apart(t->got + r * v.cols, t->exact + r * v.cols, v.cols);
		if (st_trial_has(t, r) && own > most) {
			most = own;
			row = r;
		}
	}
	double least = most;
	for (size_t r = 0; r < v.rows; r++) {
		double d = apart(t->got + row * v.cols, t->exact + r * v.cols, v.cols);
		wrong += st_trial_has(t, r) && apart(t->got + r * v.cols, t->exact + r * v.cols, v.cols) > 0.01 * most;
		if (r != row && d < least) {
			least = d;
			from = r;
		}
	}
	if (wrong * 2 > v.rows || least > 0.01 * most || v.rows < 2)
		return ST_OK;
	float *y = st_trial_buffer(t);
	memcpy(y, t->exact, v.rows * v.cols * sizeof *y);
	memcpy(y + row * v.cols, t->exact + from * v.cols, v.cols * sizeof *y);
	char which[32];
	snprintf(which, sizeof which, "position %zu", from);
	static const enum st_cause_code codes[] = { ST_CAUSE_KERNEL_STALE_TOKEN, ST_CAUSE_CAPTURE_STALE_TOKEN };
	for (size_t k = 0; k < 2; k++) {
		struct st_cause c = st_blame(codes[k]);
		st_cause_put(&c, ST_PARAM_TOKEN, (double)row);
		st_cause_put_text(&c, ST_PARAM_HOLDS, which);
		memcpy(y + row * v.cols, t->exact + from * v.cols, v.cols * sizeof *y);
		ST_TRY(st_try_value(t, y, &c, err));
	}
	return ST_OK;
}

/* ---- names ---- */

/* Operations that are often done in place: what they make stands where their input was. */
static bool in_place(enum st_op op)
{
	return op == ST_OP_ACT || op == ST_OP_ROPE || op == ST_OP_ADD || op == ST_OP_MUL || op == ST_OP_BIAS
	    || op == ST_OP_SCALE || op == ST_OP_CLAMP;
}

static bool reads(const struct st_node *n, uint32_t i)
{
	for (uint32_t j = 0; j < ST_NODE_ALL_INPUTS; j++)
		if (st_node_input(n, j) == i)
			return true;
	return false;
}

static double relative(const float *a, const float *b, size_t n)
{
	double yy = 0;
	for (size_t i = 0; i < n; i++)
		yy += (double)b[i] * b[i];
	return yy > 0 ? sqrt(apart(a, b, n) / yy) : 0;
}

static struct st_cause under(const struct st_trial *t, uint32_t k, bool aliased)
{
	const struct st_node *n = &t->x->g->nodes[k];
	if (n->stage != t->n->stage)
		return st_blame_holding(aliased ? ST_CAUSE_CAPTURE_ALIASED : ST_CAUSE_STAGE_MISLABELLED, n);
	struct st_cause c = st_blame(ST_CAUSE_CAPTURE_LAYER_SHIFT);
	st_cause_put(&c, ST_PARAM_LAYER, n->layer);
	return c;
}

/* Bit for bit another captured value of this pass; or the value that should stand here stands under another name. */
static enum st_status test_names(struct st_trial *t, struct st_error *err)
{
	const struct st_explainer *x = t->x;
	struct st_value v = st_trial_value(t);
	float *other = st_trial_buffer(t);
	bool zero = true; /* zeros are nobody's in particular */
	for (size_t e = 0; e < v.rows * v.cols && zero; e++)
		zero = t->got[e] == 0;
	for (uint32_t k = 0; k < x->g->n_nodes && !zero; k++) {
		struct st_value w = st_run_value(x->run, k);
		if (k == t->i || reads(t->n, k) || !x->pass.at[k] || w.rows != v.rows || w.cols != v.cols)
			continue;
		ST_TRY(st_capture_load(t->x, k, t->got, other, x->have_input, err));
		struct st_cause c = under(t, k, k > t->i && in_place(x->g->nodes[k].op));
		if (memcmp(other, t->got, v.rows * v.cols * sizeof *other) == 0)
			ST_TRY(st_try_value(t, other, &c, err));
		else if (relative(other, t->exact, v.rows * v.cols) < 0.1) {
			c = under(t, k, false);
			ST_TRY(st_try_found(t, other, &c, err));
		}
	}
	return ST_OK;
}

/* Queries and keys that were turned, or normed, in place before they were copied. */
static enum st_status test_turned(struct st_trial *t, struct st_error *err)
{
	const struct st_explainer *x = t->x;
	struct st_value v = st_trial_value(t);
	float *y = st_alloc_array2(v.rows, v.cols, sizeof *y);
	if (!y)
		return st_fail(err, ST_ERR_NOMEM, "out of memory");
	memcpy(y, t->exact, v.rows * v.cols * sizeof *y);
	float *kept = st_alloc_array2(v.rows, v.cols, sizeof *kept);
	enum st_status st = kept ? ST_OK : st_fail(err, ST_ERR_NOMEM, "out of memory");
	const struct st_node *last = NULL;
	uint32_t from = t->i; /* the bias is added in place first */
	if (st == ST_OK) {
		memcpy(kept, v.data, v.rows * v.cols * sizeof *kept);
		st_run_put(x->run, t->i, t->exact);
	}
	for (uint32_t k = t->i + 1; st == ST_OK && k < x->g->n_nodes && x->g->nodes[k].layer == t->n->layer; k++)
		if (x->g->nodes[k].op == ST_OP_BIAS && x->g->nodes[k].in[0] == t->i && x->g->nodes[k].width == v.cols) {
			st = st_run_eval_as(x->run, k, &x->g->nodes[k], &x->exec, y, err);
			st_run_put(x->run, k, y);
			from = k;
		}
	for (uint32_t k = t->i + 1; st == ST_OK && k < x->g->n_nodes && x->g->nodes[k].layer == t->n->layer; k++) {
		const struct st_node *n = &x->g->nodes[k];
		if (n->op != ST_OP_ROPE || n->in[0] != from || n->width == v.cols)
			continue;
		float *out = st_trial_buffer(t);
		st = st_run_eval_as(x->run, k, n, &x->exec, out, err);
		for (size_t r = 0; r < v.rows && st == ST_OK; r++)
			memcpy(y + r * v.cols + n->from[0], out + r * n->width, n->width * sizeof *y);
		last = n;
	}
	if (kept && last) {
		st_run_put(x->run, t->i, kept);
		struct st_cause c = st_blame_holding(ST_CAUSE_CAPTURE_ALIASED, last);
		if (st == ST_OK)
			st = st_try_value(t, y, &c, err);
		/* V has no rotation to wait for: its bias may come later. */
		for (size_t r = 0; r < v.rows && st == ST_OK; r++)
			memcpy(y + r * v.cols + last->from[0] + last->width,
			       t->exact + r * v.cols + last->from[0] + last->width,
			       (v.cols - last->from[0] - last->width) * sizeof *y);
		if (st == ST_OK && from != t->i)
			st = st_try_value(t, y, &c, err);
	} else if (kept) {
		st_run_put(x->run, t->i, kept);
	}
	free(y);
	free(kept);
	return st;
}

/* What the next operation makes of the right value: the value behind was written down under this name. */
static enum st_status test_next(struct st_trial *t, struct st_error *err)
{
	const struct st_explainer *x = t->x;
	struct st_value v = st_trial_value(t);
	float *right = st_alloc_array2(v.rows, v.cols, sizeof *right);
	if (!right)
		return st_fail(err, ST_ERR_NOMEM, "out of memory");
	memcpy(right, v.data, v.rows * v.cols * sizeof *right);
	enum st_status st = ST_OK;
	st_run_put(x->run, t->i, t->exact);
	for (uint32_t k = t->i + 1; k < x->g->n_nodes && st == ST_OK; k++) {
		const struct st_node *n = &x->g->nodes[k];
		struct st_value w = st_run_value(x->run, k);
		bool unary = n->in[0] == t->i && n->in[1] == ST_NO_NODE && n->n_more == 0;
		if (!unary || w.rows != v.rows || w.cols != v.cols || n->slot == t->n->slot)
			continue;
		float *y = st_trial_buffer(t);
		st = st_run_eval_as(x->run, k, n, &x->exec, y, err);
		struct st_cause c = st_blame_holding(ST_CAUSE_STAGE_MISLABELLED, n);
		if (st == ST_OK)
			st = st_try_value(t, y, &c, err);
		st_run_put(x->run, t->i, t->exact);
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
			memcpy(y + (h * T + r) * d, t->exact + r * v.cols + h * d, d * sizeof *y);
	struct st_cause c = st_blame(ST_CAUSE_CAPTURE_AXES);
	return st_try_value(t, y, &c, err);
}

static enum st_status test_basis(struct st_trial *t, struct st_error *err)
{
	struct st_value v = st_trial_value(t);
	float *y = st_trial_buffer(t);
	bool moved = false;
	memcpy(y, t->exact, v.rows * v.cols * sizeof *y);
	for (size_t r = 0; r < v.rows; r++)
		moved |= st_capture_other_basis(t->x, t->i, y + r * v.cols);
	if (!moved)
		return ST_OK;
	struct st_cause c = st_blame(ST_CAUSE_CAPTURE_ROPE_LAYOUT);
	st_cause_put_text(&c, ST_PARAM_IS, t->x->interleaved ? "half" : "interleaved");
	return st_try_value(t, y, &c, err);
}

enum st_status st_test_capture(struct st_trial *t, struct st_error *err)
{
	if (t->i != t->s->node)
		return ST_OK;
	ST_TRY(test_basis(t, err));
	ST_TRY(test_axes(t, err));
	ST_TRY(test_names(t, err));
	ST_TRY(test_turned(t, err));
	ST_TRY(test_next(t, err));
	for (int by = 1; by <= 2 && st_trial_value(t).rows > 2; by++) {
		ST_TRY(try_shift(t, by, err));
		ST_TRY(try_shift(t, -by, err));
	}
	return test_stale(t, err);
}
