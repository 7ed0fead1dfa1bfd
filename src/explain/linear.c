/* linear.c - mistakes made in a matrix product: with another matrix, with its rows in another order, in a part of it. */
#include "explain/hypotheses.h"

#include "arch/arch.h"
#include "base/error.h"
#include "compare/eigen.h"
#include "dtype/half.h"
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

/* What the node really gives, in the trial's buffer. */
static enum st_status own_value(struct st_trial *t, struct st_error *err)
{
	return st_run_eval_as(t->x->run, t->i, t->n, &t->x->exec, st_trial_buffer(t), err);
}

/* ---- size ---- */

static enum st_status test_gain(struct st_trial *t, const struct part *p, struct st_error *err)
{
	double yy = 0, gy = 0;
	size_t cols = t->n->width;
	if (!st_trial_direct(t))
		return ST_OK;
	for (size_t r = 0; r < rows_of_value(t); r++)
		for (size_t i = p->at; i < p->at + p->len && st_trial_has(t, r); i++) {
			double y = t->exact[r * cols + i];
			yy += y * y;
			gy += y * t->got[r * cols + i];
		}
	double by = yy > 0 ? gy / yy : 1;
	float *y = st_trial_buffer(t);
	memcpy(y, t->exact, rows_of_value(t) * cols * sizeof *y);
	for (size_t r = 0; r < rows_of_value(t); r++)
		for (size_t i = p->at; i < p->at + p->len; i++)
			y[r * cols + i] *= (float)by;
	struct st_cause c = st_blame(fabs(by) < 1e-6 ? ST_CAUSE_WEIGHT_MISSING : ST_CAUSE_WEIGHT_SCALED);
	if (c.code == ST_CAUSE_WEIGHT_SCALED)
		st_cause_put(&c, ST_PARAM_FACTOR, by);
	if (p->w)
		st_blame_part(t, p->k, &c);
	return st_try_value(t, y, &c, err);
}

/* ---- the same numbers read otherwise ---- */

/* Where element (r, c) of the matrix really goes in a product: multiplies x[k], is added to y[n]. */
typedef void place_fn(const struct part *p, size_t r, size_t c, size_t *n, size_t *k);

static void in_place(const struct part *p, size_t r, size_t c, size_t *n, size_t *k)
{
	(void)p;
	*n = r;
	*k = c;
}

/* The bytes of the matrix taken for those of its transpose. */
static void bytes_as_transpose(const struct part *p, size_t r, size_t c, size_t *n, size_t *k)
{
	*k = (r * p->K + c) / p->len;
	*n = (r * p->K + c) % p->len;
}

/* The bytes of its transpose taken for those of the matrix. */
static void transpose_as_bytes(const struct part *p, size_t r, size_t c, size_t *n, size_t *k)
{
	*n = (c * p->len + r) / p->K;
	*k = (c * p->len + r) % p->K;
}

/* Inside of each block of 32 the halves alternate, or what alternates is taken for halves. */
static void halves_alternate(const struct part *p, size_t r, size_t c, size_t *n, size_t *k)
{
	size_t in = c % 32;
	(void)p;
	*n = r;
	*k = c - in + in % 16 * 2 + in / 16;
}

static void alternating_halves(const struct part *p, size_t r, size_t c, size_t *n, size_t *k)
{
	size_t in = c % 32;
	(void)p;
	*n = r;
	*k = c - in + in % 2 * 16 + in / 2;
}

static float bf16_as_f16(float w) { return st_f16_to_f32(st_f32_to_bf16(w)); }
static float f16_as_bf16(float w) { return st_bf16_to_f32(st_f32_to_f16(w)); }

/* The product in which elements stand elsewhere, or are other numbers, as the node's value in the trial's buffer. */
static enum st_status other_product(struct st_trial *t, const struct part *p, place_fn *place, float (*as)(float),
                                    struct st_error *err)
{
	size_t cols = t->n->width, N = p->len, K = p->K, rows = rows_of_value(t);
	ST_TRY(own_value(t, err));
	float *y = st_trial_buffer(t), *w = st_alloc_array(K, sizeof *w);
	double *sum = st_alloc_array2(rows, N, sizeof *sum);
	if (!w || !sum) {
		free(w);
		free(sum);
		return st_fail(err, ST_ERR_NOMEM, "out of memory");
	}
	memset(sum, 0, rows * N * sizeof *sum);
	for (size_t r = 0; r < N && !st_cancelled(); r++) {
		st_tensor_decode(p->w->tensor, r, 1, w);
		for (size_t c = 0; c < K; c++) {
			size_t n, k;
			place(p, r, c, &n, &k);
			float v = as ? as(w[c]) : w[c];
			for (size_t row = 0; row < rows; row++)
				sum[row * N + n] += (double)v * t->in[0][row * t->ld[0] + k];
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
	return st_check_cancel(err);
}

static enum st_status test_readings(struct st_trial *t, const struct part *p, struct st_error *err)
{
	static const struct {
		enum st_cause_code code;
		place_fn *place;
		float (*as)(float);
		const char *label, *type;
	} readings[] = {
		{ ST_CAUSE_WEIGHT_TRANSPOSED, transpose_as_bytes, NULL, NULL, NULL },
		{ ST_CAUSE_KERNEL_ORIENTATION, bytes_as_transpose, NULL, NULL, NULL },
		{ ST_CAUSE_WEIGHT_DTYPE_MISLABELLED, in_place, bf16_as_f16, "F16", "BF16" },
		{ ST_CAUSE_WEIGHT_DTYPE_MISLABELLED, in_place, f16_as_bf16, "BF16", "F16" },
	};
	if (p->w->group_rows || !p->len || !st_trial_direct(t))
		return ST_OK;
	for (int k = 0; k < 2 && p->K % 32 == 0; k++) {
		struct st_cause c = st_blame(ST_CAUSE_WEIGHT_BLOCK_LAYOUT);
		st_cause_put_text(&c, ST_PARAM_ORDER,
		                  k ? "halves of each block alternate" : "what alternates was taken for halves");
		ST_TRY(other_product(t, p, k ? alternating_halves : halves_alternate, NULL, err));
		ST_TRY(st_try_value(t, st_trial_buffer(t), &c, err));
	}
	for (size_t i = 0; i < sizeof readings / sizeof *readings; i++) {
		struct st_cause c = st_blame(readings[i].code);
		if (readings[i].label) {
			st_cause_put_text(&c, ST_PARAM_LABEL, readings[i].label);
			st_cause_put_text(&c, ST_PARAM_TYPE, readings[i].type);
		}
		ST_TRY(other_product(t, p, readings[i].place, readings[i].as, err));
		ST_TRY(st_try_value(t, st_trial_buffer(t), &c, err));
	}
	return ST_OK;
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
			double y = 0, got = t->got[r * cols + p->at + n],
			       d = got - (double)t->exact[r * cols + p->at + n];
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
		ST_TRY_OUT(st_try_node(t, &as, &c, err));
		if (k < t->n->n_w) {
			as.w[k] = p->w;
			st = st_try_node(t, &as, &c, err);
		}
	}
out:
	free(row);
	return st;
}

/* ---- rows in another order ---- */

/* Features to choose among: the node's own, and behind them those of a product with the same input. */
struct pool {
	const float *own, *other; /* [rows, N] each; other: NULL */
	size_t N, rows;
};

static float pooled(const struct pool *p, size_t r, size_t j)
{
	return j < p->N ? p->own[r * p->N + j] : p->other[r * p->N + j - p->N];
}

/* For each feature of what was captured the one that is nearest to it over all positions. False where each is its own. */
static bool match_rows(const struct st_trial *t, const struct pool *pool, uint32_t *from)
{
	size_t N = pool->N, all = pool->other ? 2 * N : N, moved = 0;
	for (size_t i = 0; i < N && !st_cancelled(); i++) {
		double best = INFINITY;
		for (size_t k = 0; k < all && best > 0; k++) {
			size_t j = (i + k) % all; /* its own place first */
			double d = 0;
			for (size_t r = 0; r < pool->rows && d < best; r++) {
				double e = st_trial_has(t, r) ? (double)t->got[r * N + i] - pooled(pool, r, j) : 0;
				d += e * e;
			}
			if (d < best) {
				best = d;
				from[i] = (uint32_t)j;
			}
		}
		moved += from[i] != i;
	}
	return moved > 0;
}

/* Features of a head: of the rotation that turns them, else of the weight's heads. */
static size_t head_size(const struct st_trial *t, const struct part *p)
{
	const struct st_graph *g = t->x->g;
	for (uint32_t k = t->i + 1; k < g->n_nodes && g->nodes[k].layer == t->n->layer; k++) {
		uint32_t from;
		if (g->nodes[k].op == ST_OP_ROPE && st_capture_turned(t->x, t->i, &g->nodes[k], &from) && from == p->at)
			return g->nodes[k].head_dim;
	}
	return p->w->heads ? p->len / p->w->heads : p->len;
}

/* Feature i of heads of d features in adjacent pairs, where halves are meant, or the other way round. */
static bool is_pairing(const uint32_t *from, size_t len, size_t at, size_t d, bool to_pairs)
{
	if (d < 4 || d % 2 || len % d)
		return false;
	for (size_t i = 0; i < len; i++)
		if (from[at + i] != at + (to_pairs ? st_row_in_halves(i, d) : st_row_in_pairs(i, d)))
			return false;
	return true;
}

/* One run that holds what stands a fixed distance away, while all others are in their places. */
static bool is_tile(const struct part *p, const uint32_t *from, size_t *first, size_t *last)
{
	size_t n = 0;
	int64_t shift = 0;
	for (size_t i = p->at; i < p->at + p->len; i++) {
		if (from[i] == i)
			continue;
		if (n && (i != *last + 1 || (int64_t)from[i] - (int64_t)i != shift))
			return false;
		shift = (int64_t)from[i] - (int64_t)i;
		*first = n++ ? *first : i;
		*last = i;
	}
	return n >= 4 && n < p->len && (uint64_t)llabs(shift) >= n;
}

static struct st_cause order_of(const struct st_trial *t, const struct part *p, const uint32_t *from)
{
	size_t d = head_size(t, p), first = 0, last = 0;
	struct st_cause c;
	for (size_t i = p->at; i < p->at + p->len; i++)
		if (from[i] >= t->n->width)
			return st_blame(ST_CAUSE_WEIGHT_GATE_UP_INTERLEAVED);
	for (size_t i = p->at; i < p->at + p->len; i++)
		if (from[i] < p->at || from[i] >= p->at + p->len)
			return st_blame(ST_CAUSE_WEIGHT_QKV_INTERLEAVED);
	for (int to_pairs = 0; to_pairs < 2; to_pairs++)
		for (size_t k = 0, size = d; size <= p->len; size = k ? size + 2 : 4, k++) /* the right one first */
			if (is_pairing(from, p->len, p->at, size, to_pairs)) {
				size_t heads = p->len / d, wrong = p->len / size;
				c = st_blame(size == d ? ST_CAUSE_WEIGHT_ROPE_PERMUTED
				                       : ST_CAUSE_WEIGHT_ROPE_PERMUTED_WRONG_HEADS);
				st_cause_put(&c, ST_PARAM_HEADS, (double)heads);
				if (size != d)
					st_cause_put(&c, ST_PARAM_WRONG_HEADS, (double)wrong);
				return c;
			}
	if (is_tile(p, from, &first, &last)) {
		c = st_blame(ST_CAUSE_KERNEL_STALE_TILE);
		st_cause_put(&c, ST_PARAM_FIRST_COLUMN, (double)first);
		st_cause_put(&c, ST_PARAM_LAST_COLUMN, (double)last);
		return c;
	}
	int64_t shift = (int64_t)from[p->at] - (int64_t)p->at;
	size_t alike = 0;
	for (size_t i = p->at; i < p->at + p->len; i++)
		alike += (int64_t)from[i] - (int64_t)i == shift;
	if (shift && alike * 10 >= p->len * 8) {
		c = st_blame(ST_CAUSE_WEIGHT_ROW_SHIFT);
		st_cause_put(&c, ST_PARAM_SHIFT, (double)shift);
		return c;
	}
	return st_blame(ST_CAUSE_WEIGHT_ROWS_PERMUTED);
}

static enum st_status try_order(struct st_trial *t, const struct pool *pool, uint32_t *from, struct st_error *err)
{
	size_t N = pool->N;
	if (!match_rows(t, pool, from))
		return ST_OK;
	float *y = st_trial_buffer(t);
	struct part worst = part_of(t, 0);
	size_t most = 0;
	for (uint32_t k = 0; k < t->n->n_w; k++) { /* the part that is most out of order gives the name */
		struct part p = part_of(t, k);
		size_t moved = 0;
		for (size_t i = p.at; i < p.at + p.len; i++)
			moved += from[i] != i;
		if (moved > most) {
			most = moved;
			worst = p;
		}
	}
	for (size_t r = 0; r < pool->rows; r++)
		for (size_t i = 0; i < N; i++)
			y[r * N + i] = pooled(pool, r, from[i]);
	struct st_cause c = order_of(t, &worst, from);
	return st_try_value(t, y, &c, err);
}

static enum st_status test_order(struct st_trial *t, struct st_error *err)
{
	struct pool pool = { .own = t->exact, .N = t->n->width, .rows = rows_of_value(t) };
	if (!st_trial_direct(t) || pool.N > MOST_ROWS || pool.rows < 2 || t->best->cause.confidence == ST_CONFIRMED)
		return ST_OK;
	uint32_t *from = st_alloc_array(pool.N, sizeof *from);
	float *other = st_alloc_array2(pool.rows, pool.N, sizeof *other);
	if (!from || !other) {
		free(from);
		free(other);
		return st_fail(err, ST_ERR_NOMEM, "out of memory");
	}
	enum st_status st = try_order(t, &pool, from, err);
	const struct st_graph *g = t->x->g;
	for (uint32_t k = 0; k < g->n_nodes && st == ST_OK && t->best->cause.confidence != ST_CONFIRMED; k++) {
		const struct st_node *n = &g->nodes[k];
		if (k == t->i || n->op != ST_OP_LINEAR || n->layer != t->n->layer || n->in[0] != t->n->in[0]
		    || n->width != t->n->width)
			continue;
		st = st_run_eval_as(t->x->run, k, n, &t->x->exec, other, err);
		pool.other = other;
		if (st == ST_OK)
			st = try_order(t, &pool, from, err);
	}
	free(from);
	free(other);
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
	return st == ST_OK ? st_try_value(t, st_trial_buffer(t), c, err) : st;
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
			size_t from = i * K / parts, to = (i + 1) * K / parts;
			st_cause_put(&c, ST_PARAM_FIRST_COLUMN, (double)from);
			st_cause_put(&c, ST_PARAM_LAST_COLUMN, (double)(to - 1));
			st_cause_put(&c, ST_PARAM_OF, (double)K);
			ST_TRY(try_sum(t, from, to, &c, err));
		}
	return ST_OK;
}

/* ---- a part of the result ---- */

struct wrong {
	size_t n, first, last; /* features that are wrong at every captured position but a few */
	bool zero;             /* and zero there */
	bool one_run;
};

static int by_value(const void *a, const void *b)
{
	float x = *(const float *)a, y = *(const float *)b;
	return (x > y) - (x < y);
}

/* A feature is wrong where its difference stands out among those of the others, at most positions. */
static enum st_status wrong_features(const struct st_trial *t, bool *is, struct wrong *w, struct st_error *err)
{
	size_t N = t->n->width, rows = rows_of_value(t), seen = 0;
	float *d = st_alloc_array2(3, N, sizeof *d), *count = d ? d + N : NULL, *sorted = d ? d + 2 * N : NULL;
	if (!d)
		return st_fail(err, ST_ERR_NOMEM, "out of memory");
	memset(count, 0, N * sizeof *count);
	*w = (struct wrong){ .zero = true, .one_run = true };
	for (size_t r = 0; r < rows; r++) {
		if (!st_trial_has(t, r))
			continue;
		double square = 0;
		seen++;
		for (size_t i = 0; i < N; i++) {
			d[i] = fabsf(t->got[r * N + i] - t->exact[r * N + i]);
			square += (double)t->exact[r * N + i] * t->exact[r * N + i];
		}
		memcpy(sorted, d, N * sizeof *d);
		qsort(sorted, N, sizeof *sorted, by_value);
		float limit = 20 * sorted[N / 2] + (float)(1e-5 * sqrt(square / (double)N));
		for (size_t i = 0; i < N; i++)
			count[i] += d[i] > limit ? 1 : 0;
	}
	for (size_t i = 0; i < N; i++) {
		is[i] = seen && count[i] * 10 >= (float)seen * 6;
		if (!is[i])
			continue;
		for (size_t r = 0; r < rows; r++)
			w->zero &= !st_trial_has(t, r) || t->got[r * N + i] == 0;
		w->first = w->n ? w->first : i;
		w->one_run &= !w->n || w->last + 1 == i;
		w->last = i;
		w->n++;
	}
	free(d);
	return ST_OK;
}

static enum st_status test_parts_of_result(struct st_trial *t, struct st_error *err)
{
	size_t N = t->n->width, rows = rows_of_value(t);
	if (!st_trial_direct(t))
		return ST_OK;
	bool *is = st_alloc_array(N, sizeof *is);
	if (!is)
		return st_fail(err, ST_ERR_NOMEM, "out of memory");
	struct wrong w;
	enum st_status st = wrong_features(t, is, &w, err);
	if (st == ST_OK && w.n && w.n * 2 < N) {
		float *y = st_trial_buffer(t);
		/* Of what is wrong otherwise than by being zero only the place can be told. */
		for (size_t r = 0; r < rows; r++)
			for (size_t i = 0; i < N; i++)
				y[r * N + i] = !is[i] ? t->exact[r * N + i] : w.zero ? 0 : t->got[r * N + i];
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
		st = st_try_value(t, y, &c, err);
	}
	free(is);
	return st;
}

/* ---- a matrix of low rank was added ---- */

/* The difference has fewer dimensions than there are positions: no rounding has that. */
static enum st_status test_low_rank(struct st_trial *t, struct st_error *err)
{
	size_t T = rows_of_value(t), N = t->n->width;
	if (!st_trial_direct(t) || T < 4 || T > 256 || N < 8)
		return ST_OK;
	double *a = st_alloc_array2(T, T, sizeof *a), *v = st_alloc_array2(T, T, sizeof *v);
	if (!a || !v) {
		free(a);
		free(v);
		return st_fail(err, ST_ERR_NOMEM, "out of memory");
	}
	memset(a, 0, T * T * sizeof *a);
	for (size_t i = 0; i < T; i++)
		for (size_t j = 0; j < T; j++)
			for (size_t k = 0; k < N && st_trial_has(t, i) && st_trial_has(t, j); k++)
				a[i * T + j] += ((double)t->got[i * N + k] - t->exact[i * N + k])
				              * ((double)t->got[j * N + k] - t->exact[j * N + k]);
	st_diagonalise(a, v, T);
	double most = 0;
	size_t rank = 0;
	for (size_t i = 0; i < T; i++)
		most = fmax(most, a[i * T + i]);
	for (size_t i = 0; i < T; i++)
		rank += a[i * T + i] > 1e-9 * most;
	enum st_status st = ST_OK;
	if (rank && rank * 2 <= T && rank * 2 <= N) {
		/* What is left beside the largest directions is what has to be noise. */
		float *y = st_trial_buffer(t);
		for (size_t i = 0; i < T; i++)
			for (size_t k = 0; k < N; k++) {
				double sum = 0;
				for (size_t j = 0; j < T; j++) {
					double weight = 0;
					for (size_t e = 0; e < T; e++)
						weight += a[e * T + e] > 1e-9 * most ? v[e * T + i] * v[e * T + j] : 0;
					sum += weight * ((double)t->got[j * N + k] - t->exact[j * N + k]);
				}
				y[i * N + k] = (float)(t->exact[i * N + k] + sum);
			}
		struct st_cause c = st_blame(ST_CAUSE_WEIGHT_LOW_RANK);
		st_cause_put(&c, ST_PARAM_RANK, (double)rank);
		st_cause_put(&c, ST_PARAM_SHARE, t->before);
		st = st_try_value(t, y, &c, err);
	}
	free(a);
	free(v);
	return st;
}

/* Products with the chosen experts: all of them missing, or times a constant. */
enum st_status st_test_experts(struct st_trial *t, struct st_error *err)
{
	struct part whole = { .len = t->n->width };
	return test_gain(t, &whole, err);
}

enum st_status st_test_linear(struct st_trial *t, struct st_error *err)
{
	for (uint32_t k = 0; k < t->n->n_w; k++) {
		struct part p = part_of(t, k);
		ST_TRY(test_gain(t, &p, err));
		ST_TRY(test_readings(t, &p, err));
		ST_TRY(test_other_tensors(t, &p, err));
	}
	ST_TRY(test_parts_of_sum(t, err));
	ST_TRY(test_order(t, err));
	if (t->best->cause.confidence != ST_CONFIRMED)
		ST_TRY(test_parts_of_result(t, err));
	return t->best->cause.confidence == ST_CONFIRMED ? ST_OK : test_low_rank(t, err);
}
