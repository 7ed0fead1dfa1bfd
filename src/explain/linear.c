/* linear.c - mistakes made in a matrix product: with another matrix, with its rows in another order, in a part of it. */
#include "explain/hypotheses.h"

#include "arch/arch.h"
#include "base/error.h"
#include "graph/basis.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MOST_ROWS ((size_t)16384) /* that are matched with each other */

/* The weight at hand, and where its features stand. */
struct part {
	uint32_t k;
	const struct st_weight *w;
	size_t at, len, K;
};

static size_t rows_of_value(const struct st_trial *t) { return st_trial_value(t).rows; }

static struct part part_of(const struct st_trial *t, uint32_t k)
{
	struct part p = { .k = k, .w = t->n->w[k] };
	for (uint32_t j = 0; j < k; j++)
		p.at += (size_t)st_weight_rows(t->n->w[j]);
	p.len = (size_t)st_weight_rows(p.w);
	p.K = (size_t)st_weight_cols(p.w);
	return p;
}

static void name_part(const struct st_trial *t, const struct part *p, struct st_cause *c)
{
	static const char *const names[] = { "q", "k", "v" };
	if (t->n->n_w == 3)
		st_cause_put_text(c, ST_PARAM_PART, names[p->k]);
}

/* What the node really gives, in the trial's buffer. */
static enum st_status own_value(struct st_trial *t, struct st_error *err)
{
	return st_run_eval_as(t->x->run, t->i, t->n, &t->x->exec, st_trial_buffer(t), err);
}

/* ---- size ---- */

static enum st_status test_scaled(struct st_trial *t, const struct part *p, struct st_error *err)
{
	double yy = 0, gy = 0;
	size_t cols = t->n->width;
	if (!st_trial_direct(t))
		return ST_OK;
	for (size_t r = 0; r < rows_of_value(t); r++)
		for (size_t i = p->at; i < p->at + p->len && st_trial_has(t, r); i++) {
			double y = t->x->exact[r * cols + i];
			yy += y * y;
			gy += y * t->x->got[r * cols + i];
		}
	double by = yy > 0 ? gy / yy : 1;
	float *y = st_trial_buffer(t);
	memcpy(y, t->x->exact, rows_of_value(t) * cols * sizeof *y);
	for (size_t r = 0; r < rows_of_value(t); r++)
		for (size_t i = p->at; i < p->at + p->len; i++)
			y[r * cols + i] *= (float)by;
	struct st_cause c = st_blame(fabs(by) < 1e-6 ? ST_CAUSE_WEIGHT_MISSING : ST_CAUSE_WEIGHT_SCALED);
	if (c.code == ST_CAUSE_WEIGHT_SCALED)
		st_cause_put(&c, ST_PARAM_FACTOR, by);
	name_part(t, p, &c);
	return st_try_value(t, y, &c, NULL, err);
}

/* ---- orientation ---- */

/* The same bytes read as a matrix of K rows: element k N + n multiplies x[k] and goes to y[n]. */
static enum st_status test_transposed(struct st_trial *t, const struct part *p, struct st_error *err)
{
	size_t cols = t->n->width, N = p->len, K = p->K, rows = rows_of_value(t);
	if (p->w->group_rows || !N || (N > MOST_ROWS && !st_trial_direct(t)))
		return ST_OK;
	ST_TRY(own_value(t, err));
	float *y = st_trial_buffer(t), *w = st_alloc_array(K, sizeof *w);
	double *sum = st_alloc_zeroed(rows * N, sizeof *sum);
	if (!w || !sum) {
		free(w);
		free(sum);
		return st_fail(err, ST_ERR_NOMEM, "out of memory");
	}
	for (size_t r = 0; r < N && !st_cancelled(); r++) {
		st_tensor_decode(p->w->tensor, r, 1, w);
		for (size_t c = 0; c < K; c++) {
			size_t k = (r * K + c) / N, n = (r * K + c) % N;
			for (size_t row = 0; row < rows; row++)
				sum[row * N + n] += (double)w[c] * t->in[0][row * t->ld[0] + k];
		}
	}
	for (size_t row = 0; row < rows; row++) {
		for (size_t n = 0; n < N; n++)
			y[row * cols + p->at + n] = (float)sum[row * N + n];
		if (p->w->interleaved)
			st_basis_to_half(y + row * cols + p->at, p->w->heads, N / p->w->heads,
			                 p->w->pair_dims ? p->w->pair_dims : N / p->w->heads);
	}
	free(w);
	free(sum);
	bool square = N == K;
	struct st_cause c = st_blame(square ? ST_CAUSE_WEIGHT_TRANSPOSED : ST_CAUSE_KERNEL_ORIENTATION);
	ST_TRY(st_try_value(t, y, &c, NULL, err));
	if (!square || t->best->cause.code != ST_CAUSE_WEIGHT_TRANSPOSED)
		return ST_OK;
	c = st_blame(ST_CAUSE_KERNEL_ORIENTATION); /* the file may be right, and the product wrong */
	return st_try_value(t, y, &c, NULL, err);
}

/* ---- another tensor ---- */

static bool same_layer_kind(const struct st_weight *a, const struct st_weight *b)
{
	return a->name && b->name && strcmp(a->name, b->name) == 0;
}

static bool is_one_of(const struct st_weight *w, const char *const *names)
{
	for (; w->name && *names; names++)
		if (strcmp(w->name, *names) == 0)
			return true;
	return false;
}

static enum st_cause_code code_of(const struct st_weight *own, const struct st_weight *other)
{
	static const char *const qkv[] = { "q", "k", "v", NULL }, *const ffn[] = { "gate", "up", NULL };
	if (own->layer == other->layer && is_one_of(own, qkv) && is_one_of(other, qkv))
		return ST_CAUSE_WEIGHT_QKV_SWAPPED;
	if (own->layer == other->layer && is_one_of(own, ffn) && is_one_of(other, ffn))
		return ST_CAUSE_WEIGHT_GATE_UP_SWAPPED;
	return same_layer_kind(own, other) ? ST_CAUSE_WEIGHT_LAYER_SWAPPED : ST_CAUSE_WEIGHT_WRONG_TENSOR;
}

/* Whether some rows of another weight give what was captured: a quick look before the whole product. */
static bool promises(const struct st_trial *t, const struct part *p, const struct st_weight *other, float *row)
{
	size_t cols = t->n->width, rows = rows_of_value(t), tried = p->len < 16 ? p->len : 16;
	double left = 0, before = 0;
	for (size_t k = 0; k < tried; k++) {
		size_t n = k * p->len / tried;
		st_weight_decode(other, n, 1, row);
		for (size_t r = 0; r < rows; r++) {
			if (!st_trial_has(t, r))
				continue;
			double y = 0, got = t->x->got[r * cols + p->at + n],
			       d = got - (double)t->x->exact[r * cols + p->at + n];
			for (size_t i = 0; i < p->K; i++)
				y += (double)row[i] * t->in[0][r * t->ld[0] + i];
			left += (y - got) * (y - got);
			before += d * d;
		}
	}
	return left < 0.25 * before;
}

static enum st_status test_other_tensors(struct st_trial *t, const struct part *p, struct st_error *err)
{
	if (!st_trial_direct(t) || p->w->n_experts)
		return ST_OK;
	float *row = st_alloc_array(p->K, sizeof *row);
	if (!row)
		return st_fail(err, ST_ERR_NOMEM, "out of memory");
	enum st_status st = ST_OK;
	for (size_t i = 0; i < st_model_n_weights(t->x->m) && st == ST_OK; i++) {
		const struct st_weight *other = st_model_weight_at(t->x->m, i);
		if (other == p->w || !other->tensor || other->n_experts || other->kind != ST_WEIGHT_MATRIX
		    || st_weight_rows(other) != p->len || st_weight_cols(other) != p->K || !promises(t, p, other, row))
			continue;
		struct st_node as = *t->n;
		struct st_cause c = st_blame(code_of(p->w, other));
		as.w[p->k] = other;
		st_cause_put_text(&c, ST_PARAM_HOLDS, other->canonical);
		if (other->layer >= 0)
			st_cause_put(&c, ST_PARAM_LAYER, other->layer);
		/* Its neighbour may hold this one's. */
		uint32_t k = 0;
		while (k < t->n->n_w && t->n->w[k] != other)
			k++;
		ST_TRY_OUT(st_try_node(t, &as, &c, NULL, err));
		if (k < t->n->n_w) {
			as.w[k] = p->w;
			st = st_try_node(t, &as, &c, NULL, err);
		}
	}
out:
	free(row);
	return st;
}

/* ---- rows in another order ---- */

/* For each feature of what was captured the feature of the model's value that is nearest to it over all positions. */
static bool match_rows(const struct st_trial *t, uint32_t *perm)
{
	size_t N = t->n->width, rows = rows_of_value(t), moved = 0;
	for (size_t i = 0; i < N && !st_cancelled(); i++) {
		double best = INFINITY;
		for (size_t k = 0; k < N && best > 0; k++) {
			size_t j = (i + k) % N; /* its own place first */
			double d = 0;
			for (size_t r = 0; r < rows && d < best; r++) {
				double e = st_trial_has(t, r) ? (double)t->x->got[r * N + i] - t->x->exact[r * N + j]
				                              : 0;
				d += e * e;
			}
			if (d < best) {
				best = d;
				perm[i] = (uint32_t)j;
			}
		}
		moved += perm[i] != i;
	}
	return moved > 0;
}

/* Feature i of heads of d features in adjacent pairs, where halves are meant. */
static bool is_pairing(const uint32_t *perm, size_t len, size_t at, size_t d, bool to_pairs)
{
	if (d < 4 || d % 2 || len % d)
		return false;
	for (size_t i = 0; i < len; i++)
		if (perm[at + i] != at + (to_pairs ? st_row_in_halves(i, d) : st_row_in_pairs(i, d)))
			return false;
	return true;
}

static struct st_cause order_of(const struct st_trial *t, const struct part *p, const uint32_t *perm)
{
	size_t heads = p->w->heads ? p->w->heads : 1, d = p->len / heads;
	struct st_cause c;
	for (int to_pairs = 0; to_pairs < 2; to_pairs++)
		for (size_t size = 4; size <= p->len; size += 2)
			if (is_pairing(perm, p->len, p->at, size, to_pairs)) {
				c = st_blame(size == d ? ST_CAUSE_WEIGHT_ROPE_PERMUTED
				                       : ST_CAUSE_WEIGHT_ROPE_PERMUTED_WRONG_HEADS);
				st_cause_put(&c, ST_PARAM_HEADS, (double)(p->len / d));
				if (size != d)
					st_cause_put(&c, ST_PARAM_WRONG_HEADS, (double)(p->len / size));
				return c;
			}
	int64_t shift = (int64_t)perm[p->at] - (int64_t)p->at;
	size_t alike = 0;
	for (size_t i = 0; i < p->len; i++)
		alike += (int64_t)perm[p->at + i] - (int64_t)(p->at + i) == shift;
	if (shift && alike * 20 >= p->len * 19) {
		c = st_blame(ST_CAUSE_WEIGHT_ROW_SHIFT);
		st_cause_put(&c, ST_PARAM_SHIFT, (double)shift);
		return c;
	}
	bool strays = false;
	for (size_t i = 0; i < p->len; i++)
		strays |= perm[p->at + i] < p->at || perm[p->at + i] >= p->at + p->len;
	(void)t;
	return st_blame(strays ? ST_CAUSE_WEIGHT_QKV_INTERLEAVED : ST_CAUSE_WEIGHT_ROWS_PERMUTED);
}

static enum st_status test_order(struct st_trial *t, struct st_error *err)
{
	size_t N = t->n->width, rows = rows_of_value(t);
	if (!st_trial_direct(t) || N > MOST_ROWS || t->best->cause.confidence == ST_CONFIRMED)
		return ST_OK;
	uint32_t *perm = st_alloc_array(N, sizeof *perm);
	if (!perm)
		return st_fail(err, ST_ERR_NOMEM, "out of memory");
	enum st_status st = ST_OK;
	if (match_rows(t, perm)) {
		float *y = st_trial_buffer(t);
		struct part worst = part_of(t, 0);
		size_t most = 0;
		for (uint32_t k = 0; k < t->n->n_w; k++) { /* the part that is most out of order gives the name */
			struct part p = part_of(t, k);
			size_t moved = 0;
			for (size_t i = p.at; i < p.at + p.len; i++)
				moved += perm[i] != i;
			if (moved > most) {
				most = moved;
				worst = p;
			}
		}
		for (size_t r = 0; r < rows; r++)
			for (size_t i = 0; i < N; i++)
				y[r * N + i] = t->x->exact[r * N + perm[i]];
		struct st_cause c = order_of(t, &worst, perm);
		st = st_try_value(t, y, &c, NULL, err);
	}
	free(perm);
	return st;
}

/* ---- a part of the sum ---- */

static enum st_status try_sum(struct st_trial *t, size_t first, size_t end, struct st_cause *c, struct st_error *err)
{
	struct st_value in = st_run_value(t->x->run, t->n->in[0]);
	float *x = in.data, *kept = st_alloc_array2(in.rows, in.cols, sizeof *kept);
	if (!kept)
		return st_fail(err, ST_ERR_NOMEM, "out of memory");
	memcpy(kept, x, in.rows * in.cols * sizeof *x);
	for (size_t r = 0; r < in.rows; r++)
		for (size_t i = 0; i < in.cols; i++)
			if (i < first || i >= end)
				x[r * in.cols + i] = 0;
	enum st_status st = own_value(t, err);
	memcpy(x, kept, in.rows * in.cols * sizeof *x);
	free(kept);
	return st == ST_OK ? st_try_value(t, st_trial_buffer(t), c, NULL, err) : st;
}

static enum st_status test_parts_of_sum(struct st_trial *t, struct st_error *err)
{
	size_t K = t->ld[0];
	for (size_t tile = 4; tile <= 1024; tile *= 2) {
		size_t whole = K - K % tile;
		struct st_cause c = st_blame(ST_CAUSE_KERNEL_TAIL);
		st_cause_put(&c, ST_PARAM_FIRST_COLUMN, (double)whole);
		st_cause_put(&c, ST_PARAM_OF, (double)K);
		st_cause_put_text(&c, ST_PARAM_AXIS, "sum");
		if (whole && whole < K && (tile == 4 || whole != K - K % (tile / 2)))
			ST_TRY(try_sum(t, 0, whole, &c, err));
	}
	for (size_t parts = 2; parts <= 8; parts *= 2)
		for (size_t i = 0; i < parts && K % parts == 0; i++) {
			struct st_cause c = st_blame(ST_CAUSE_KERNEL_PARTIAL_SUM);
			st_cause_put(&c, ST_PARAM_FIRST_COLUMN, (double)(i * K / parts));
			st_cause_put(&c, ST_PARAM_LAST_COLUMN, (double)((i + 1) * K / parts - 1));
			st_cause_put(&c, ST_PARAM_OF, (double)K);
			ST_TRY(try_sum(t, i * K / parts, (i + 1) * K / parts, &c, err));
		}
	return ST_OK;
}

/* ---- a part of the result ---- */

struct wrong {
	size_t n, first, last; /* features that are wrong at every captured position but a few */
	bool zero;             /* and zero there */
	bool one_run;
};

/* A feature is wrong where the difference is beyond what rounding may do, at most positions. */
static struct wrong wrong_features(const struct st_trial *t, bool *is)
{
	size_t N = t->n->width, rows = rows_of_value(t);
	struct wrong w = { .zero = true, .one_run = true };
	for (size_t i = 0; i < N; i++) {
		size_t bad = 0, seen = 0, zeros = 0;
		for (size_t r = 0; r < rows; r++) {
			if (!st_trial_has(t, r))
				continue;
			double d = fabs((double)t->x->got[r * N + i] - t->x->exact[r * N + i]),
			       y = fabs((double)t->x->exact[r * N + i]);
			seen++;
			bad += d > 0.02 * y + 1e-12;
			zeros += t->x->got[r * N + i] == 0;
		}
		is[i] = seen && bad * 10 >= seen * 9;
		if (!is[i])
			continue;
		w.zero &= zeros == seen;
		w.first = w.n ? w.first : i;
		w.one_run &= !w.n || w.last + 1 == i;
		w.last = i;
		w.n++;
	}
	return w;
}

static enum st_status test_parts_of_result(struct st_trial *t, struct st_error *err)
{
	size_t N = t->n->width, rows = rows_of_value(t);
	if (!st_trial_direct(t))
		return ST_OK;
	bool *is = st_alloc_array(N, sizeof *is);
	if (!is)
		return st_fail(err, ST_ERR_NOMEM, "out of memory");
	struct wrong w = wrong_features(t, is);
	enum st_status st = ST_OK;
	if (w.n && w.n * 2 < N) {
		float *y = st_trial_buffer(t);
		/* Of what is wrong otherwise than by being zero only the place can be told. */
		for (size_t r = 0; r < rows; r++)
			for (size_t i = 0; i < N; i++)
				y[r * N + i] = !is[i] ? t->x->exact[r * N + i] : w.zero ? 0 : t->x->got[r * N + i];
		bool tail = w.one_run && w.last + 1 == N && w.n < 1024,
		     tile = w.one_run && w.first % 16 == 0 && (w.last + 1) % 16 == 0;
		struct st_cause c = st_blame(tail   ? ST_CAUSE_KERNEL_TAIL
		                             : tile ? ST_CAUSE_KERNEL_STALE_TILE
		                                    : ST_CAUSE_WEIGHT_ROW_CORRUPT);
		if (c.code == ST_CAUSE_WEIGHT_ROW_CORRUPT) {
			st_cause_put(&c, ST_PARAM_ROWS, (double)w.n);
			st_cause_put(&c, ST_PARAM_FIRST_ROW, (double)w.first);
			st_cause_put(&c, ST_PARAM_LAST_ROW, (double)w.last);
		} else {
			st_cause_put(&c, ST_PARAM_FIRST_COLUMN, (double)w.first);
			if (tail) {
				st_cause_put(&c, ST_PARAM_OF, (double)N);
				st_cause_put_text(&c, ST_PARAM_AXIS, "result");
			} else {
				st_cause_put(&c, ST_PARAM_LAST_COLUMN, (double)w.last);
			}
		}
		st = st_try_value(t, y, &c, NULL, err);
	}
	free(is);
	return st;
}

enum st_status st_test_linear(struct st_trial *t, struct st_error *err)
{
	for (uint32_t k = 0; k < t->n->n_w; k++) {
		struct part p = part_of(t, k);
		ST_TRY(test_scaled(t, &p, err));
		ST_TRY(test_transposed(t, &p, err));
		ST_TRY(test_other_tensors(t, &p, err));
	}
	ST_TRY(test_parts_of_sum(t, err));
	ST_TRY(test_order(t, err));
	return t->best->cause.confidence == ST_CONFIRMED ? ST_OK : test_parts_of_result(t, err);
}
