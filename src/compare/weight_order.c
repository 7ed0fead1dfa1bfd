/* weight_order.c - the right numbers in another order: transposed, rows permuted for RoPE, shifted or shuffled. */
#include "arch/arch.h"
#include "arch/turned.h"
#include "base/pool.h"
#include "compare/sums.h"
#include "compare/weight_trial.h"
#include "graph/basis.h"

#include <math.h>
#include <stdlib.h>

/* Bytes of a matrix held decoded, with its cells: above it, transposition is judged on the sample. */
#define DENSE_LIMIT ((uint64_t)640 << 20)

/*
 * W^T written over the place of W: the bytes are [cols, rows] under the label [rows, cols].
 * Either side may be the one it happened to; for a square matrix the two are the same. Nor does the way tell for
 * another one which file is wrong: bytes that were right may have been transposed because their dimensions were listed
 * the other way round.
 *   way 0  a holds b's transpose:  flat element k*rows + n of a is b[n][k]
 *   way 1  b holds a's transpose:  a[n][k] is flat element k*rows + n of b
 * b is walked once and each element dropped where the hypothesis puts it.
 */
static void drop_transposed(const struct st_rows *b, int way, const uint64_t *slot, const struct st_cells *row,
                            const struct st_dense *dense)
{
	uint64_t rows = b->rows, cols = b->cols;
	struct st_cells all = st_dense_row(dense, 0);
	if (!row->below)
		all = (struct st_cells){ .value = all.value };
	for (uint64_t n = 0; n < rows && !st_cancelled(); n++) {
		b->get(b, n, row);
		for (uint64_t k = 0; k < cols; k++) {
			uint64_t from = n * cols + k, to = way ? from % rows * cols + from / rows : k * rows + n,
				 r = to / cols;
			if (slot[r] != UINT64_MAX)
				st_cells_copy(row, k, &all, slot[r] * cols + to % cols, 1);
		}
	}
}

/* That a is b transposed. */
static enum st_status try_transposed(struct st_trial *t, const struct st_rows *a, const struct st_rows *from)
{
	uint64_t rows = from->rows, cols = from->cols;
	if (rows < 2 || cols < 2)
		return ST_OK;
	bool whole = rows * cols <= DENSE_LIMIT / (4 * sizeof(float));
	struct st_dense dense, one;
	uint64_t *slot = st_arena_alloc(&t->arena, rows, sizeof *slot); /* where in `dense` a row is kept, or nowhere */
	if (!slot)
		return st_fail(t->err, ST_ERR_NOMEM, "out of memory");
	ST_TRY(st_dense_make(&t->arena, whole ? rows : t->n_sample, cols, &dense, t->err));
	ST_TRY(st_dense_make(&t->arena, 1, cols, &one, t->err));
	struct st_cells row = st_dense_row(&one, 0);
	struct st_rows kept = st_rows_dense(&dense, from);
	struct st_mapped m = { .from = &kept, .map = slot }; /* rows that are not kept are not asked for */
	struct st_rows b = st_rows_mapped(&m);
	b.rows = rows;
	for (int way = 0; way < (rows == cols ? 1 : 2) && !t->done; way++) {
		/* The numbers of a few rows first. */
		uint64_t few = t->n_sample < ST_GLANCE ? t->n_sample : ST_GLANCE;
		bool far_off;
		for (uint64_t i = 0; i < rows; i++)
			slot[i] = UINT64_MAX;
		for (uint64_t i = 0; i < few; i++)
			slot[t->sample[i * t->n_sample / few]] = i;
		drop_transposed(from, way, slot, &(struct st_cells){ .value = row.value }, &dense);
		ST_TRY(st_trial_is_far_off(t, a, &b, &far_off));
		if (far_off)
			continue;
		for (uint64_t i = 0; i < rows; i++)
			slot[i] = whole ? i : UINT64_MAX;
		for (uint64_t i = 0; !whole && i < t->n_sample; i++)
			slot[t->sample[i]] = i;
		drop_transposed(from, way, slot, &row, &dense);
		ST_TRY(st_check_cancel(t->err));
		ST_TRY(st_trial_consider(t, a, &b, (struct st_cause){ .code = ST_CAUSE_WEIGHT_TRANSPOSED }, 0, !whole));
	}
	return ST_OK;
}

/* A weight as it is stored, in the order of rows that GGUF has for interleaved ones. */
static enum st_status stored_rows(struct st_trial *t, const struct st_rows *s, uint64_t heads, struct st_weight *w,
                                  struct st_mapped *m, struct st_rows *out)
{
	if (s->w->interleaved) {
		*w = *s->w;
		w->interleaved = false;
		*out = st_rows_held(w, s->held);
		return ST_OK;
	}
	uint64_t *map = st_arena_alloc(&t->arena, s->rows, sizeof *map);
	if (!map)
		return st_fail(t->err, ST_ERR_NOMEM, "out of memory");
	for (uint64_t r = 0; r < s->rows; r++)
		map[st_row_in_pairs(r, s->rows / heads)] = r;
	*m = (struct st_mapped){ .from = s, .map = map };
	*out = st_rows_mapped(m);
	return ST_OK;
}

/* Which of the two lies wrong, where one file's other matrices tell (arch/turned.h). */
static enum st_status blame_turned(struct st_trial *t)
{
	bool a, b;
	if (t->d->cause.code != ST_CAUSE_WEIGHT_TRANSPOSED)
		return ST_OK;
	ST_TRY(st_weight_turned(t->ma, t->d->a, &a, t->err));
	ST_TRY(st_weight_turned(t->mb, t->d->b, &b, t->err));
	t->d->side = a == b ? 0 : a ? 'a' : 'b';
	return ST_OK;
}

static enum st_status find_transposed(struct st_trial *t)
{
	const struct st_weight *a = t->a->w, *b = t->b->w;
	ST_TRY(try_transposed(t, t->a, t->b));
	uint64_t heads = a->interleaved ? a->heads : b->heads;
	if (t->done || (!a->interleaved && !b->interleaved) || t->a->rows == 1 || !heads || t->a->rows % heads
	    || t->a->rows / heads % 2)
		return ST_OK;
	/* Transposed as it lay in the file, its rows in pairs already. */
	struct st_weight wa, wb;
	struct st_mapped ma, mb;
	struct st_rows as, bs;
	ST_TRY(stored_rows(t, t->a, heads, &wa, &ma, &as));
	ST_TRY(stored_rows(t, t->b, heads, &wb, &mb, &bs));
	return try_transposed(t, &as, &bs);
}

enum st_status st_test_transposed(struct st_trial *t)
{
	ST_TRY(find_transposed(t));
	return blame_turned(t);
}

/* st_trial_consider() for a permutation of rows, or of the elements of a vector, which is one row still. */
static enum st_status consider_map(struct st_trial *t, const uint64_t *map, struct st_cause c)
{
	if (t->b->rows > 1) {
		struct st_mapped m = { .from = t->b, .map = map };
		struct st_rows b = st_rows_mapped(&m);
		return st_trial_consider(t, t->a, &b, c, 0, false);
	}
	struct st_dense own, moved;
	ST_TRY(st_dense_make(&t->arena, 1, t->b->cols, &own, t->err));
	ST_TRY(st_dense_make(&t->arena, 1, t->b->cols, &moved, t->err));
	struct st_cells from = st_dense_row(&own, 0), to = st_dense_row(&moved, 0);
	t->b->get(t->b, 0, &from);
	for (uint64_t i = 0; i < t->b->cols; i++)
		st_cells_copy(&from, map[i], &to, i, 1);
	struct st_rows one = st_rows_dense(&moved, t->b);
	return st_trial_consider(t, t->a, &one, c, 0, false);
}

/*
 * Q and K rows, or their biases, in the wrong RoPE order. With P(h) the reordering for h heads,
 * a file may lack P (or have it twice), or have had it with a wrong head count before the
 * reader undid it with the right one.
 */
enum st_status st_test_rope_order(struct st_trial *t)
{
	enum st_role r = t->d->slot->role;
	bool is_q = r == ST_ROLE_Q || r == ST_ROLE_Q_BIAS, is_k = r == ST_ROLE_K || r == ST_ROLE_K_BIAS;
	if (!is_q && !is_k)
		return ST_OK;
	const struct st_config *cfg = st_model_config(t->ma);
	uint64_t n = t->a->rows > 1 ? t->a->rows : t->a->cols;
	uint64_t right = is_q ? cfg->n_heads : cfg->n_kv_heads, d0 = right ? n / right : 0;
	uint64_t *map = st_arena_alloc(&t->arena, n, sizeof *map);
	if (!map)
		return st_fail(t->err, ST_ERR_NOMEM, "out of memory");
	if (right == 0 || n % right || d0 % 2)
		return ST_OK;
	/* The right count first, then every other; alone, and composed with the right one. */
	for (int pass = 0; pass < 3 && !t->done; pass++) {
		for (uint64_t h = 1; h <= n / 2 && !t->done; h++) {
			uint64_t d = n / h;
			if (n % h || d % 2 || (pass == 0) != (h == right))
				continue;
			if (pass > 0 && h > 1024)
				break; /* no model has more heads; the rest would be many proposals for nothing */
			for (int way = 0; way < (pass == 2 ? 4 : 2) && !t->done; way++) {
				for (uint64_t i = 0; i < n; i++) {
					uint64_t j = way % 2 ? st_row_in_halves(i, d) : st_row_in_pairs(i, d);
					if (pass == 2)
						j = way % 2 ? st_row_in_pairs(j, d0) : st_row_in_halves(j, d0);
					if (pass == 2 && way >= 2) { /* composed in the other order */
						j = way % 2 ? st_row_in_pairs(i, d0) : st_row_in_halves(i, d0);
						j = way % 2 ? st_row_in_halves(j, d) : st_row_in_pairs(j, d);
					}
					map[i] = j;
				}
				struct st_cause c = { .code = pass == 0 ? ST_CAUSE_WEIGHT_ROPE_PERMUTED
					                                : ST_CAUSE_WEIGHT_ROPE_PERMUTED_WRONG_HEADS };
				st_cause_put(&c, ST_PARAM_HEADS, (double)right);
				if (pass > 0)
					st_cause_put(&c, ST_PARAM_WRONG_HEADS, (double)h);
				st_cause_put_text(&c, ST_PARAM_ORDER, way % 2 ? "pairs" : "half");
				ST_TRY(consider_map(t, map, c));
			}
		}
	}
	return ST_OK;
}

/* Rows of b beside the sampled rows of a. */
struct cosines {
	const struct st_rows *b;
	uint64_t n_sample;
	const float *x;     /* [n_sample, cols] */
	const double *norm; /* [n_sample] */
	float *row;         /* a row for every lane */
	float *cosine;      /* [n_sample, rows of b] */
};

static void find_cosines(void *ctx, unsigned lane, uint64_t begin, uint64_t end)
{
	const struct cosines *k = ctx;
	const struct st_rows *b = k->b;
	uint64_t cols = b->cols;
	float *y = k->row + lane * cols;
	for (uint64_t r = begin; r < end && !st_cancelled(); r++) {
		b->get(b, r, &(struct st_cells){ .value = y });
		double len = sqrt(st_sum_of_products(y, y, cols));
		for (uint64_t i = 0; i < k->n_sample; i++)
			k->cosine[i * b->rows + r] = len > 0 && k->norm[i] > 0
			                                   ? (float)(st_sum_of_products(k->x + i * cols, y, cols)
			                                             / (len * k->norm[i]))
			                                   : 0;
	}
}

/* best[i]: the row of b that points most nearly the same way as sampled row i of a, UINT64_MAX where none comes near.
 * only[i]: no other row comes as near. Many tokens that were never trained have one embedding. */
static enum st_status match_rows(struct st_trial *t, uint64_t *best, bool *only)
{
	const struct st_rows *a = t->a, *b = t->b;
	uint64_t cols = a->cols, S = t->n_sample;
	float *x = st_alloc_array2(S, cols, sizeof *x),
	      *row = st_alloc_array2(st_pool_threads(t->pool), cols, sizeof *row),
	      *cosine = st_alloc_array2(S, b->rows, sizeof *cosine);
	enum st_status st = ST_OK;
	if (!x || !row || !cosine) {
		st = st_fail(t->err, ST_ERR_NOMEM, "out of memory");
		goto out;
	}
	double norm[ST_SAMPLE];
	for (uint64_t i = 0; i < S; i++) {
		a->get(a, t->sample[i], &(struct st_cells){ .value = x + i * cols });
		norm[i] = sqrt(st_sum_of_products(x + i * cols, x + i * cols, cols));
	}
	struct cosines k = { b, S, x, norm, row, cosine };
	st_pool_each(t->pool, b->rows, (S + 4) * cols, find_cosines, &k);
	st = st_check_cancel(t->err);
	for (uint64_t i = 0; i < S; i++) {
		const float *c = cosine + i * b->rows;
		uint64_t at = 0;
		for (uint64_t r = 1; r < b->rows; r++)
			at = c[r] > c[at] ? r : at;
		best[i] = c[at] > 0.9f ? at : UINT64_MAX;
		uint64_t near = 0;
		for (uint64_t r = 0; r < b->rows; r++)
			near += c[r] > c[at] - 0.01f;
		only[i] = near == 1;
	}
out:
	free(x);
	free(row);
	free(cosine);
	return st;
}

/* Rows in another order: a constant shift, or any permutation (known for the sample only). */
enum st_status st_test_row_order(struct st_trial *t)
{
	uint64_t n = t->a->rows, best[ST_SAMPLE], matched = 0, votes = 0, shift = 0;
	bool only[ST_SAMPLE];
	/* What moved is more than one row. */
	if (t->d->bad_rows < 2 || t->a->cols < 8)
		return ST_OK;
	ST_TRY(match_rows(t, best, only));
	for (uint64_t i = 0; i < t->n_sample; i++) {
		if (best[i] == UINT64_MAX)
			continue;
		uint64_t s = (best[i] + n - t->sample[i]) % n;
		matched++;
		if (!only[i])
			continue;
		if (votes == 0) /* majority vote: a shift that most rows share survives */
			shift = s;
		if (s == shift)
			votes++;
		else
			votes--;
	}
	if (matched * 10 < t->n_sample * 9)
		return ST_OK;
	uint64_t *map = st_arena_alloc(&t->arena, n, sizeof *map);
	if (!map)
		return st_fail(t->err, ST_ERR_NOMEM, "out of memory");
	/* Rows were rotated; or moved by a little while other rows came in at the edge. Nothing can be asked of those:
	 * they are taken from the other side. */
	struct st_mapped m = { .from = t->b, .else_from = t->a, .map = map };
	struct st_rows b = st_rows_mapped(&m);
	uint64_t back = n - shift, lost = shift <= back ? shift : back;
	for (int edge = 0; edge < 2 && shift != 0 && !t->done && (!edge || lost <= n / 4); edge++) {
		for (uint64_t r = 0; r < n; r++) {
			bool beyond = shift <= back ? r + shift >= n : r < back;
			map[r] = edge && beyond ? UINT64_MAX : (r + shift) % n;
		}
		struct st_cause c = { .code = t->d->slot->role == ST_ROLE_EMBED ? ST_CAUSE_EMBEDDING_ROW_SHIFT
			                                                        : ST_CAUSE_WEIGHT_ROW_SHIFT };
		st_cause_put(&c, ST_PARAM_SHIFT, shift <= n / 2 ? (double)shift : (double)shift - (double)n);
		if (edge)
			st_cause_put(&c, ST_PARAM_ROWS_LOST, (double)lost);
		ST_TRY(st_trial_consider(t, t->a, &b, c, 0, false));
	}
	if (t->done)
		return ST_OK;
	bool moved = false;
	for (uint64_t i = 0; i < t->n_sample; i++) {
		bool bad = t->stats[t->sample[i]].bad;
		map[t->sample[i]] = !bad || best[i] == UINT64_MAX ? t->sample[i] : best[i];
		moved |= map[t->sample[i]] != t->sample[i];
	}
	return moved ? st_trial_consider(t, t->a, &b, (struct st_cause){ .code = ST_CAUSE_WEIGHT_ROWS_PERMUTED }, 0,
	                                 true)
	             : ST_OK;
}
