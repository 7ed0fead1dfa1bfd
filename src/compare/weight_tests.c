/*
 * weight_tests.c - which mistake turns one weight into the other.
 *
 * Each test proposes a side under a hypothesis; the proposal is measured on a sample of rows
 * and, when it fits there, on all of them. It is confirmed when what is left is noise. Tests
 * are tried in the order of the table, simplest first, and the first confirmed one wins.
 */
#include "base/error.h"
#include "base/mem.h"
#include "compare/pair.h"
#include "compare/sums.h"

#include <math.h>
#include <omp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SAMPLE 64                            /* rows that every proposal must fit first */
#define LIKELY 0.1                           /* residual left by a cause that is at least likely */
#define DENSE_LIMIT ((uint64_t)320 << 20)    /* bytes of a matrix held decoded: above it, transposition is judged on the sample */

struct trial {
	const struct st_model *ma, *mb;
	const struct st_rows *a, *b;         /* as stored */
	const struct st_row_stat *stats;     /* of all rows, as stored */
	int threads;
	uint64_t sample[SAMPLE], n_sample;
	struct st_pair_summary before;       /* of the sample */
	struct st_weight_diff *d;
	struct st_arena arena;
	bool done;                           /* a cause is confirmed */
	bool likely;                         /* d->cause holds a likely one */
	struct st_error *err;
};

static enum st_role role_of(const struct trial *t) { return t->d->slot->role; }

static bool is_norm(enum st_role r)
{
	return r == ST_ROLE_ATTN_NORM || r == ST_ROLE_FFN_NORM || r == ST_ROLE_FINAL_NORM || r == ST_ROLE_Q_NORM
	       || r == ST_ROLE_K_NORM;
}

static bool is_bias(enum st_role r)
{
	return r == ST_ROLE_Q_BIAS || r == ST_ROLE_K_BIAS || r == ST_ROLE_V_BIAS;
}

/* ---- proposing a cause ---- */

static void param_number(struct st_cause *c, const char *key, double v)
{
	if (c->n_params == ST_MAX_PARAMS)
		return;
	struct st_param *p = &c->params[c->n_params++];
	snprintf(p->key, sizeof p->key, "%s", key);
	p->number = v;
}

static void param_text(struct st_cause *c, const char *key, const char *text)
{
	if (c->n_params == ST_MAX_PARAMS)
		return;
	struct st_param *p = &c->params[c->n_params++];
	snprintf(p->key, sizeof p->key, "%s", key);
	snprintf(p->text, sizeof p->text, "%s", text);
}

static void add_candidate(struct st_weight_diff *d, const char *code, double after)
{
	struct st_candidate *c = d->candidates;
	size_t at = 0;
	while (at < d->n_candidates && c[at].residual_after <= after)
		at++;
	for (size_t i = 0; i < d->n_candidates; i++) {
		if (strcmp(c[i].code, code) == 0) {
			if (at <= i)
				c[i].residual_after = after;
			return;
		}
	}
	if (at == ST_MAX_CANDIDATES)
		return;
	if (d->n_candidates < ST_MAX_CANDIDATES)
		d->n_candidates++;
	memmove(c + at + 1, c + at, (d->n_candidates - 1 - at) * sizeof *c);
	c[at] = (struct st_candidate){ code, after };
}

/* Nothing beyond noise but, at most, one row in a hundred: a second, smaller fault must not hide the first. */
static bool fits(const struct st_pair_summary *s, uint64_t n)
{
	return s->noise || (s->bad_rows * 100 <= n && !s->apart && s->rest_noise);
}

/*
 * An explanation leaves less to explain: of the rows that are beyond noise as stored, half the residual at most; of
 * a whole that is beyond it while no row is, what a gain worth noticing makes up (pair.c). Without this a change too
 * small to matter would be confirmed where all but a few rows agree anyway.
 */
static bool helps(const struct trial *t, const struct st_row_stat *part)
{
	bool rows = t->d->bad_rows > 0;
	double before = 0, after = 0;
	for (uint64_t i = 0; i < t->n_sample; i++) {
		const struct st_row_stat *r = &t->stats[t->sample[i]];
		if (r->apart || (rows && !st_row_is_bad(r, t->a->cols)))
			continue;
		before += r->dd;
		after += part[i].dd;
	}
	return after <= (rows ? 0.5 : 0.85) * before;
}

/*
 * Measure side a against side b under hypothesis `c` (code and parameters). `side` is the
 * one that would be wrong, or 0. sampled: only the sample can be measured.
 */
static enum st_status consider(struct trial *t, const struct st_rows *a, const struct st_rows *b, struct st_cause c,
                               char side, bool sampled)
{
	struct st_row_stat part[SAMPLE];
	struct st_pair_summary s;
	ST_TRY(st_pair_measure(a, b, t->sample, t->n_sample, t->threads, part, t->err));
	st_pair_summarise(part, t->sample, t->n_sample, a->cols, &s);
	uint64_t n = t->n_sample;
	bool fit = fits(&s, n) && helps(t, part);
	if (fit && !sampled && a->rows > t->n_sample) {
		struct st_row_stat *all = st_alloc_array(a->rows, sizeof *all);
		if (!all)
			return st_fail(t->err, ST_ERR_NOMEM, "out of memory");
		enum st_status st = st_pair_measure(a, b, NULL, a->rows, t->threads, all, t->err);
		if (st == ST_OK)
			st_pair_summarise(all, NULL, a->rows, a->cols, &s);
		free(all);
		ST_TRY(st);
		n = a->rows;
		fit = fits(&s, n);
	}
	add_candidate(t->d, c.code, s.rel);
	bool likely = !t->likely && isfinite(s.rel) && s.rel <= LIKELY * t->d->rel_l2 && s.rel <= LIKELY * t->before.rel;
	if (!fit && !likely)
		return ST_OK;
	c.confidence = fit ? ST_CONFIRMED : ST_LIKELY;
	c.residual_before = t->d->rel_l2;
	c.residual_after = s.rel;
	c.floor = s.predicted;
	if (sampled)
		param_number(&c, "rows_checked", (double)t->n_sample);
	t->d->cause = c;
	t->d->side = side;
	t->done = fit;
	t->likely = true;
	return ST_OK;
}

/* ---- sides under a hypothesis ---- */

static void get_affine(const struct st_rows *s, uint64_t r, float *dst)
{
	st_weight_decode(s->w, r, 1, dst);
	for (uint64_t i = 0; i < s->cols; i++)
		dst[i] = (float)(s->gain * dst[i] + s->offset);
}

static void get_dense(const struct st_rows *s, uint64_t r, float *dst)
{
	memcpy(dst, s->dense + r * s->cols, s->cols * sizeof *dst);
}

static void get_mapped(const struct st_rows *s, uint64_t r, float *dst)
{
	if (s->dense)
		memcpy(dst, s->dense + s->map[r] * s->cols, s->cols * sizeof *dst);
	else
		st_weight_decode(s->w, s->map[r], 1, dst);
}

/* ---- the tests ---- */

static enum st_status test_nan(struct trial *t)
{
	struct st_weight_diff *d = t->d;
	if (d->nonfinite_a == d->nonfinite_b)
		return ST_OK;
	d->side = d->nonfinite_a > d->nonfinite_b ? 'a' : 'b';
	d->cause = (struct st_cause){ .code = "weight.nan", .confidence = ST_CONFIRMED, .residual_before = INFINITY,
	                              .residual_after = INFINITY, .floor = d->predicted };
	param_number(&d->cause, "nonfinite", (double)(d->side == 'a' ? d->nonfinite_a : d->nonfinite_b));
	param_number(&d->cause, "first_row", (double)d->first_bad_row);
	t->done = true;
	return ST_OK;
}

/* Whether every element is `want`. */
static enum st_status all_equal(struct trial *t, const struct st_rows *s, float want, bool *equal)
{
	float *row = st_alloc_array(s->cols, sizeof *row);
	if (!row)
		return st_fail(t->err, ST_ERR_NOMEM, "out of memory");
	*equal = true;
	for (uint64_t r = 0; r < s->rows && *equal; r++) {
		s->get(s, r, row);
		for (uint64_t i = 0; i < s->cols && *equal; i++)
			*equal = row[i] == want;
	}
	free(row);
	return ST_OK;
}

/* All zeros, or for a norm all ones, on one side only: the loader's stand-in for a tensor that was not there. */
static enum st_status test_constant(struct trial *t)
{
	enum st_role r = role_of(t);
	for (int k = 0; k < 4; k++) {
		bool ones = k >= 2, equal;
		if (ones && !is_norm(r))
			break;
		ST_TRY(all_equal(t, k % 2 ? t->b : t->a, ones, &equal));
		if (!equal)
			continue;
		t->d->side = k % 2 ? 'b' : 'a';
		t->d->cause = (struct st_cause){ .code = ones ? "norm.weight_missing" : is_bias(r) ? "bias.missing" : "weight.missing",
		                                 .confidence = ST_CONFIRMED, .residual_before = t->d->rel_l2, .residual_after = t->d->rel_l2 };
		param_number(&t->d->cause, "all", ones);
		t->done = true;
		return ST_OK;
	}
	return ST_OK;
}

/*
 * The same bytes under another label: decode them as every other type that gives this shape
 * the same size.
 */
static enum st_status test_mislabelled(struct trial *t)
{
	/* A wrong label makes NaN and infinities, so the side with more of them comes first. */
	bool b_first = t->d->nonfinite_b > t->d->nonfinite_a, even = t->d->nonfinite_a == t->d->nonfinite_b;
	for (int turn = 0; turn < 2 && !t->done; turn++) {
		bool k = (turn == 1) != b_first; /* relabel b */
		const struct st_rows *s = k ? t->b : t->a, *other = k ? t->a : t->b;
		const struct st_tensor *x = s->w->tensor;
		if (x->layout != ST_LAYOUT_ROWS)
			continue;
		for (int dt = 0; dt < ST_DTYPE_COUNT && !t->done; dt++) {
			const struct st_dtype_info *info = st_dtype_info((enum st_dtype)dt);
			if (dt == (int)x->dtype || dt == ST_DTYPE_APR_Q8 || info->kind == ST_KIND_INT || s->cols % info->block_elems != 0
			    || s->cols / info->block_elems * info->block_bytes != x->row_bytes)
				continue;
			struct st_tensor relabelled = *x;
			relabelled.dtype = (enum st_dtype)dt;
			relabelled.scale = 1;
			struct st_weight w = *s->w;
			w.tensor = &relabelled;
			struct st_rows side = st_rows_of(&w);
			struct st_cause c = { .code = "weight.dtype_mislabelled" };
			param_text(&c, "label", st_dtype_info(x->dtype)->name);
			param_text(&c, "type", info->name);
			/* The same bytes under two labels: one of them is wrong, and nothing says which. */
			bool either = even && dt == (int)other->w->tensor->dtype;
			ST_TRY(consider(t, k ? t->a : &side, k ? &side : t->b, c, either ? 0 : k ? 'b' : 'a', false));
		}
	}
	return ST_OK;
}

static const char *scaled_code(enum st_role r)
{
	return r == ST_ROLE_EMBED ? "embedding.scale" : r == ST_ROLE_HEAD ? "head.scale"
	       : is_bias(r) ? "bias.scaled" : "weight.scaled";
}

/* What a constant may be in a transformer; within 0.1 %, or not named. */
static void name_constant(const struct trial *t, struct st_cause *c, double g)
{
	const struct st_config *cfg = st_model_config(t->ma);
	const struct { const char *name; double value; } known[] = {
		{ "2", 2 }, { "1/2", 0.5 }, { "-1", -1 },
		{ "sqrt(head_dim)", sqrt(cfg->head_dim) }, { "1/sqrt(head_dim)", 1 / sqrt(cfg->head_dim) },
		{ "sqrt(hidden)", sqrt(cfg->hidden) }, { "1/sqrt(hidden)", 1 / sqrt(cfg->hidden) },
		{ "sqrt(2)", sqrt(2) }, { "1/sqrt(2)", sqrt(0.5) },
	};
	for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
		if (fabs(g / known[i].value - 1) < 1e-3) {
			param_text(c, "is", known[i].name);
			return;
		}
	}
}

/*
 * Which share of a bad row's blocks has a gain that is not the row's. A row off by one factor has none: its
 * blocks are no fault of their own. Where many are apart, no factor explains the row.
 */
static enum st_status blocks_apart(struct trial *t, double *share)
{
	uint64_t cols = t->a->cols, apart = 0;
	float *x = st_arena_alloc(&t->arena, cols, sizeof *x), *y = st_arena_alloc(&t->arena, cols, sizeof *y);
	if (!x || !y)
		return st_fail(t->err, ST_ERR_NOMEM, "out of memory");
	t->a->get(t->a, t->d->first_bad_row, x);
	t->b->get(t->b, t->d->first_bad_row, y);
	const struct st_row_stat *row = &t->stats[t->d->first_bad_row];
	double whole = row->bb > 0 ? row->ab / row->bb : 1;
	for (uint64_t i = 0; i < cols; i += 32) {
		struct st_sums s;
		st_sums_of(x + i, y + i, cols - i < 32 ? cols - i : 32, 0, &s);
		apart += s.bb > 0 && fabs(s.ab / s.bb - whole) > 0.1 * fabs(whole) + 0.05;
	}
	*share = (double)apart / (double)st_ceil_div(cols, 32);
	return ST_OK;
}

#define ONE_FACTOR 0.25 /* a larger share of blocks apart is no common factor */

static enum st_status test_scaled(struct trial *t)
{
	double share;
	ST_TRY(blocks_apart(t, &share));
	if (share > ONE_FACTOR)
		return ST_OK;
	/* The gain of the whole tensor; the median over sampled rows guards it against a few corrupt ones. */
	double g[SAMPLE];
	uint64_t n = 0;
	for (uint64_t i = 0; i < t->n_sample; i++) {
		const struct st_row_stat *r = &t->stats[t->sample[i]];
		if (r->bb > 0)
			g[n++] = r->ab / r->bb;
	}
	if (n == 0)
		return ST_OK;
	for (uint64_t i = 1; i < n; i++)
		for (uint64_t j = i; j > 0 && g[j] < g[j - 1]; j--) {
			double swap = g[j];
			g[j] = g[j - 1];
			g[j - 1] = swap;
		}
	double gains[2] = { t->d->gain, g[n / 2] };
	for (int k = 0; k < 2 && !t->done; k++) {
		if (!isfinite(gains[k]) || gains[k] == 0 || (k == 1 && gains[1] == gains[0]))
			continue;
		struct st_rows b = *t->b;
		b.get = get_affine;
		b.gain = gains[k];
		struct st_cause c = { .code = scaled_code(role_of(t)) };
		param_number(&c, "factor", gains[k]);
		name_constant(t, &c, gains[k]);
		ST_TRY(consider(t, t->a, &b, c, 0, false));
	}
	return ST_OK;
}

static enum st_status test_plus_one(struct trial *t)
{
	if (!is_norm(role_of(t)))
		return ST_OK;
	for (int k = 0; k < 2 && !t->done; k++) {
		struct st_rows b = *t->b;
		b.get = get_affine;
		b.offset = k ? -1 : 1;
		struct st_cause c = { .code = "norm.plus_one" };
		param_number(&c, "offset", b.offset);
		ST_TRY(consider(t, t->a, &b, c, 0, false));
	}
	return ST_OK;
}

/*
 * W^T written over the place of W: the bytes are [cols, rows] under the label [rows, cols].
 * Either side may be the one it happened to; for a square matrix the two are the same.
 *   way 0  a holds b's transpose:  flat element k*rows + n of a is b[n][k]
 *   way 1  b holds a's transpose:  a[n][k] is flat element k*rows + n of b
 * b is walked once and each element dropped where the hypothesis puts it.
 */
static void drop_transposed(const struct st_rows *b, int way, const uint64_t *slot, float *row, float *dense)
{
	uint64_t rows = b->rows, cols = b->cols;
	for (uint64_t n = 0; n < rows && !st_cancelled(); n++) {
		b->get(b, n, row);
		for (uint64_t k = 0; k < cols; k++) {
			uint64_t from = n * cols + k, to = way ? from % rows * cols + from / rows : k * rows + n, r = to / cols;
			if (slot[r] != UINT64_MAX)
				dense[slot[r] * cols + to % cols] = row[k];
		}
	}
}

static enum st_status test_transposed(struct trial *t)
{
	uint64_t rows = t->b->rows, cols = t->b->cols;
	if (rows < 2 || cols < 2)
		return ST_OK;
	bool whole = rows * cols <= DENSE_LIMIT / sizeof(float);
	float *dense = st_alloc_array((whole ? rows : t->n_sample) * cols, sizeof *dense);
	float *row = st_alloc_array(cols, sizeof *row);
	uint64_t *slot = st_alloc_array(rows, sizeof *slot); /* where in `dense` a row is kept, or nowhere */
	enum st_status st = ST_OK;
	if (!dense || !row || !slot) {
		st = st_fail(t->err, ST_ERR_NOMEM, "out of memory");
		goto out;
	}
	for (int way = 0; way < (rows == cols ? 1 : 2) && !t->done && st == ST_OK; way++) {
		for (uint64_t i = 0; i < rows; i++)
			slot[i] = whole ? i : UINT64_MAX;
		for (uint64_t i = 0; !whole && i < t->n_sample; i++)
			slot[t->sample[i]] = i;
		drop_transposed(t->b, way, slot, row, dense);
		struct st_rows b = *t->b;
		b.get = get_mapped;
		b.dense = dense;
		b.map = slot; /* rows that are not kept are not asked for */
		st = consider(t, t->a, &b, (struct st_cause){ .code = "weight.transposed" }, way ? 'b' : rows == cols ? 0 : 'a', !whole);
	}
out:
	free(dense);
	free(row);
	free(slot);
	return st;
}

/* Where row r of the adjacent-pair order comes from in the split-half order of heads of size d, and back. */
static uint64_t to_half(uint64_t r, uint64_t d)
{
	uint64_t i = r % d;
	return r - i + (i % 2 ? d / 2 + i / 2 : i / 2);
}

static uint64_t to_pairs(uint64_t r, uint64_t d)
{
	uint64_t i = r % d;
	return r - i + (i < d / 2 ? 2 * i : 2 * (i - d / 2) + 1);
}

/* A vector is seen as a column, so that its elements are rows. The copy lives in the arena. */
static enum st_status as_columns(struct trial *t, const struct st_rows *s, struct st_rows *out)
{
	*out = *s;
	if (s->rows > 1)
		return ST_OK;
	float *v = st_arena_alloc(&t->arena, s->cols, sizeof *v);
	if (!v)
		return st_fail(t->err, ST_ERR_NOMEM, "out of memory");
	s->get(s, 0, v);
	*out = (struct st_rows){ .type = s->type, .get = get_dense, .w = s->w, .dense = v, .gain = 1, .rows = s->cols, .cols = 1 };
	return ST_OK;
}

/* consider() for a permutation of rows, or of the elements of a vector: the latter is judged as one row, since a single
 * element has no noise statistics of its own. */
static enum st_status consider_map(struct trial *t, const uint64_t *map, struct st_cause c)
{
	struct st_rows b;
	ST_TRY(as_columns(t, t->b, &b));
	if (t->b->rows > 1) {
		b.get = get_mapped;
		b.map = map;
		return consider(t, t->a, &b, c, 0, false);
	}
	float *v = st_arena_alloc(&t->arena, b.rows, sizeof *v);
	if (!v)
		return st_fail(t->err, ST_ERR_NOMEM, "out of memory");
	for (uint64_t i = 0; i < b.rows; i++)
		v[i] = b.dense[map[i]];
	struct st_rows one = *t->b;
	one.get = get_dense;
	one.dense = v;
	return consider(t, t->a, &one, c, 0, false);
}

/*
 * Q and K rows, or their biases, in the wrong RoPE order. With P(h) the reordering for h heads,
 * a file may lack P (or have it twice), or have had it with a wrong head count before the
 * reader undid it with the right one.
 */
static enum st_status test_rope_order(struct trial *t)
{
	enum st_role r = role_of(t);
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
					uint64_t j = way % 2 ? to_half(i, d) : to_pairs(i, d);
					if (pass == 2)
						j = way % 2 ? to_pairs(j, d0) : to_half(j, d0);
					if (pass == 2 && way >= 2) { /* composed in the other order */
						j = way % 2 ? to_pairs(i, d0) : to_half(i, d0);
						j = way % 2 ? to_half(j, d) : to_pairs(j, d);
					}
					map[i] = j;
				}
				struct st_cause c = { .code = pass == 0 ? "weight.rope_permuted" : "weight.rope_permuted_wrong_heads" };
				param_number(&c, "heads", (double)right);
				if (pass > 0)
					param_number(&c, "wrong_heads", (double)h);
				param_text(&c, "order", way % 2 ? "pairs" : "half");
				ST_TRY(consider_map(t, map, c));
			}
		}
	}
	return ST_OK;
}

/* Which code a tensor found in another tensor's place gets. */
static const char *misplaced_code(const struct st_weight *slot, const struct st_weight *found)
{
	enum st_role r = slot->role, f = found->role;
	if (r == f)
		return "weight.layer_swapped";
	if (r == ST_ROLE_HEAD)
		return f == ST_ROLE_EMBED ? "head.tied" : "head.wrong_tensor";
	if (is_norm(r) && is_norm(f))
		return "norm.wrong_weight";
	bool qkv_r = (r >= ST_ROLE_Q && r <= ST_ROLE_V) || is_bias(r), qkv_f = (f >= ST_ROLE_Q && f <= ST_ROLE_V) || is_bias(f);
	if (qkv_r && qkv_f && slot->layer == found->layer)
		return "weight.qkv_swapped";
	if ((r == ST_ROLE_GATE && f == ST_ROLE_UP) || (r == ST_ROLE_UP && f == ST_ROLE_GATE))
		return slot->layer == found->layer ? "weight.gate_up_swapped" : "weight.wrong_tensor";
	return "weight.wrong_tensor";
}

/* The tensor of model m with the same bytes-worth of numbers as `side` at this slot's place, if any. */
static enum st_status find_misplaced(struct trial *t, const struct st_rows *side, const struct st_model *m,
                                     const struct st_weight **found)
{
	*found = NULL;
	struct st_row_stat part[SAMPLE];
	uint64_t few = t->n_sample < 4 ? t->n_sample : 4;
	for (size_t i = 0; i < st_model_n_weights(m) && !*found; i++) {
		const struct st_weight *w = st_model_weight_at(m, i);
		if (!w->tensor || (w->role == t->d->slot->role && w->layer == t->d->slot->layer)
		    || w->role == ST_ROLE_ROPE_FREQS)
			continue;
		struct st_rows other = st_rows_of(w);
		if (other.rows != side->rows || other.cols != side->cols)
			continue;
		struct st_pair_summary s;
		ST_TRY(st_pair_measure(side, &other, t->sample, few, t->threads, part, t->err));
		st_pair_summarise(part, t->sample, few, side->cols, &s);
		if (s.noise)
			*found = w;
	}
	return ST_OK;
}

static enum st_status test_misplaced(struct trial *t)
{
	const struct st_weight *in_b, *in_a;
	ST_TRY(find_misplaced(t, t->a, t->mb, &in_b)); /* a holds what b has elsewhere */
	ST_TRY(find_misplaced(t, t->b, t->ma, &in_a)); /* b holds what a has elsewhere */
	if (!in_a && !in_b)
		return ST_OK;
	/* When a's tensor is found elsewhere in b while b's is nowhere in a, a has lost its own: a is wrong. */
	char side = in_b && !in_a ? 'a' : in_a && !in_b ? 'b' : 0;
	const struct st_weight *found = in_b ? in_b : in_a;
	struct st_rows other = st_rows_of(found);
	struct st_cause c = { .code = misplaced_code(t->d->slot, found) };
	param_text(&c, "holds", found->canonical);
	if (found->layer >= 0)
		param_number(&c, "layer", found->layer);
	return in_b ? consider(t, t->a, &other, c, side, false) : consider(t, &other, t->b, c, side, false);
}

/* Where the 4-bit codes of a block lie. */
static const struct { enum st_dtype t; uint16_t first, count; } nibble_bytes[] = {
	{ ST_DTYPE_Q4_0, 2, 16 }, { ST_DTYPE_Q4_1, 4, 16 }, { ST_DTYPE_IQ4_NL, 2, 16 }, { ST_DTYPE_APR_Q4, 2, 16 },
	{ ST_DTYPE_MXFP4, 1, 16 }, { ST_DTYPE_Q4_K, 16, 128 }, { ST_DTYPE_Q5_0, 6, 16 }, { ST_DTYPE_Q5_1, 8, 16 },
	{ ST_DTYPE_Q5_K, 48, 128 }, { ST_DTYPE_IQ4_XS, 8, 128 },
};

static int nibble_row(enum st_dtype t)
{
	for (size_t i = 0; i < sizeof nibble_bytes / sizeof *nibble_bytes; i++)
		if (nibble_bytes[i].t == t)
			return (int)i;
	return -1;
}

/* `shift` says how the codes are read again: 0 nibbles of each byte exchanged; 1 codes in element order two to a byte
 * (instead of first half low, second half high); 2 the reverse of 1. */
static void get_nibbles(const struct st_rows *s, uint64_t r, float *dst)
{
	const struct st_tensor *x = s->w->tensor;
	const struct st_dtype_info *info = st_dtype_info(x->dtype);
	int at = nibble_row(x->dtype);
	uint8_t block[256];
	for (uint64_t b = 0; b < s->cols / info->block_elems; b++) {
		memcpy(block, x->data + r * x->row_bytes + b * info->block_bytes, info->block_bytes);
		uint8_t *q = block + nibble_bytes[at].first, old[128];
		size_t n = nibble_bytes[at].count;
		memcpy(old, q, n);
		for (size_t i = 0; i < n; i++) {
			size_t half = i % 16, base = i - half;
			if (s->shift == 0) {
				q[i] = (uint8_t)(old[i] >> 4 | old[i] << 4);
			} else if (s->shift == 1) {
				/* element e of 32 was written as nibble e % 2 of byte e / 2; read it into byte e % 16 */
				uint8_t lo = (uint8_t)(old[base + half / 2] >> (half % 2 * 4) & 15);
				uint8_t hi = (uint8_t)(old[base + 8 + half / 2] >> (half % 2 * 4) & 15);
				q[i] = (uint8_t)(lo | hi << 4);
			} else {
				size_t e = 2 * half;
				uint8_t lo = (uint8_t)(old[base + e % 16] >> (e / 16 * 4) & 15);
				uint8_t hi = (uint8_t)(old[base + (e + 1) % 16] >> ((e + 1) / 16 * 4) & 15);
				q[i] = (uint8_t)(lo | hi << 4);
			}
		}
		info->decode(block, dst + b * info->block_elems, info->block_elems);
	}
}

static enum st_status test_block_layout(struct trial *t)
{
	static const char *const orders[] = { "nibbles exchanged", "pairs", "halves" };
	for (int k = 0; k < 2 && !t->done; k++) {
		const struct st_rows *s = k ? t->b : t->a;
		const struct st_tensor *x = s->w->tensor;
		/* A permuted row order would have to be undone too; those rows are told apart by the other tests. */
		if (nibble_row(x->dtype) < 0 || x->layout != ST_LAYOUT_ROWS || s->w->interleaved)
			continue;
		for (uint64_t order = 0; order < 3 && !t->done; order++) {
			struct st_rows side = *s;
			side.get = get_nibbles;
			side.shift = order;
			struct st_cause c = { .code = "weight.block_layout" };
			param_text(&c, "order", orders[order]);
			/* Between two files of such types either may be the one that was written wrongly. */
			bool either = nibble_row((k ? t->a : t->b)->w->tensor->dtype) >= 0;
			ST_TRY(consider(t, k ? t->a : &side, k ? &side : t->b, c, either ? 0 : k ? 'b' : 'a', false));
		}
	}
	return ST_OK;
}

/* Row r with each block (of `shift` elements) that is a multiple of the other side's brought to its gain. A gain near 0
 * would explain anything by taking it away. */
static void get_block_gains(const struct st_rows *s, uint64_t r, float *dst)
{
	const struct st_rows *a = s->other;
	float *x = malloc(a->cols * sizeof *x);
	if (!x) { /* fits nothing, so nothing is claimed */
		memset(dst, 0, s->cols * sizeof *dst);
		return;
	}
	a->get(a, r, x);
	st_weight_decode(s->w, r, 1, dst);
	for (uint64_t i = 0; i < s->cols; i += s->shift) {
		uint64_t n = s->cols - i < s->shift ? s->cols - i : s->shift;
		struct st_sums sum;
		st_sums_of(x + i, dst + i, n, 0, &sum);
		double g = sum.ab != 0 && sum.ab * sum.ab >= 0.25 * sum.aa * sum.bb ? sum.ab / sum.bb : 1;
		for (uint64_t j = 0; j < n; j++)
			dst[i + j] = (float)(g * dst[i + j]);
	}
	free(x);
}

/* Scales of their own for whole rows, or for the blocks of a row. */
static enum st_status test_block_scale(struct trial *t)
{
	const uint64_t sizes[] = { t->b->cols, 256, 128, 32 };
	double share;
	if (t->b->rows < 2)
		return ST_OK;
	ST_TRY(blocks_apart(t, &share));
	for (size_t i = 0; i < sizeof sizes / sizeof *sizes && !t->done; i++) {
		bool per_row = i == 0;
		/* A few rows off by a factor are corrupt rows; all of them are scaled by row. */
		if (per_row ? t->d->bad_rows * 4 <= t->b->rows || share > ONE_FACTOR : share == 0 || t->b->cols < 2 * sizes[i])
			continue;
		struct st_rows b = *t->b;
		b.get = get_block_gains;
		b.other = t->a;
		b.shift = sizes[i];
		struct st_cause c = { .code = per_row ? scaled_code(role_of(t)) : "weight.block_scale" };
		if (per_row)
			param_text(&c, "axis", "row");
		else
			param_number(&c, "block", (double)sizes[i]);
		param_number(&c, "bad_rows", (double)t->d->bad_rows);
		param_number(&c, "first_row", (double)t->d->first_bad_row);
		param_number(&c, "last_row", (double)t->d->last_bad_row);
		ST_TRY(consider(t, t->a, &b, c, 0, false));
	}
	return ST_OK;
}

/* A few rows are wrong and all the others agree. */
static enum st_status test_row_corrupt(struct trial *t)
{
	struct st_weight_diff *d = t->d;
	/* More than a few must at least lie together: the end of a file that was cut off, say. */
	bool together = d->last_bad_row - d->first_bad_row + 1 == d->bad_rows;
	if (t->a->rows < 8 || d->bad_rows == 0 || d->bad_rows * 4 > t->a->rows * (together ? 3 : 1))
		return ST_OK;
	double dd = 0, pred = 0, bb = 0, bad_aa = 0, bad_bb = 0;
	for (uint64_t r = 0; r < t->a->rows; r++) {
		if (st_row_is_bad(&t->stats[r], t->a->cols)) {
			bad_aa += t->stats[r].aa;
			bad_bb += t->stats[r].bb;
			continue;
		}
		dd += t->stats[r].dd;
		pred += t->stats[r].pred;
		bb += t->stats[r].bb;
	}
	uint64_t good = t->a->rows - d->bad_rows;
	d->cause = (struct st_cause){ .code = "weight.row_corrupt", .confidence = ST_CONFIRMED, .residual_before = d->rel_l2,
	                              .residual_after = bb > 0 ? sqrt(dd / bb) : 0, .floor = bb > 0 ? sqrt(pred / bb) : 0 };
	param_number(&d->cause, "rows", (double)d->bad_rows);
	param_number(&d->cause, "first_row", (double)d->first_bad_row);
	param_number(&d->cause, "last_row", (double)d->last_bad_row);
	/* Rows of one matrix are of one size; bad rows far from it show which side was hit. */
	double typical = bb / (double)good, a = bad_aa / (double)d->bad_rows, b = bad_bb / (double)d->bad_rows;
	bool a_odd = a > 9 * typical || 9 * a < typical, b_odd = b > 9 * typical || 9 * b < typical;
	d->side = a_odd && !b_odd ? 'a' : b_odd && !a_odd ? 'b' : 0;
	t->done = true;
	return ST_OK;
}

/* A dot product whose lanes the compiler may keep in one register. */
static double dot(const float *a, const float *b, uint64_t n)
{
	float acc[16] = { 0 };
	uint64_t i = 0;
	for (; i + 16 <= n; i += 16)
		for (uint64_t l = 0; l < 16; l++)
			acc[l] += a[i + l] * b[i + l];
	double sum = 0;
	for (uint64_t l = 0; l < 16; l++)
		sum += acc[l];
	for (; i < n; i++)
		sum += (double)a[i] * b[i];
	return sum;
}

/* For each sampled row of a the row of b that points the same way best. best[i] = UINT64_MAX where none
 * comes near. */
static enum st_status match_rows(struct trial *t, uint64_t *best)
{
	const struct st_rows *a = t->a, *b = t->b;
	uint64_t cols = a->cols, S = t->n_sample;
	float *x = st_alloc_array(S * cols, sizeof *x), *row = st_alloc_array((uint64_t)t->threads * cols, sizeof *row);
	float *cosine = st_alloc_array(S * b->rows, sizeof *cosine);
	enum st_status st = ST_OK;
	if (!x || !row || !cosine) {
		st = st_fail(t->err, ST_ERR_NOMEM, "out of memory");
		goto out;
	}
	double norm[SAMPLE];
	for (uint64_t i = 0; i < S; i++) {
		a->get(a, t->sample[i], x + i * cols);
		norm[i] = sqrt(dot(x + i * cols, x + i * cols, cols));
	}
#pragma omp parallel for num_threads(t->threads) schedule(static)
	for (uint64_t r = 0; r < b->rows; r++) {
		if (st_cancelled())
			continue;
		float *y = row + (uint64_t)omp_get_thread_num() * cols;
		b->get(b, r, y);
		double len = sqrt(dot(y, y, cols));
		for (uint64_t i = 0; i < S; i++)
			cosine[i * b->rows + r] = len > 0 && norm[i] > 0 ? (float)(dot(x + i * cols, y, cols) / (len * norm[i])) : 0;
	}
	st = st_check_cancel(t->err);
	for (uint64_t i = 0; i < S; i++) {
		const float *c = cosine + i * b->rows;
		uint64_t at = 0;
		for (uint64_t r = 1; r < b->rows; r++)
			at = c[r] > c[at] ? r : at;
		best[i] = c[at] > 0.9f ? at : UINT64_MAX;
	}
out:
	free(x);
	free(row);
	free(cosine);
	return st;
}

/* Row r of a shifted side. Rows that came from beyond the edge are the other side's: nothing is known of them. */
static void get_shifted(const struct st_rows *s, uint64_t r, float *dst)
{
	if (s->map[r] == UINT64_MAX)
		s->other->get(s->other, r, dst);
	else
		get_mapped(s, r, dst);
}

/* Rows in another order: a constant shift, or any permutation (known for the sample only). */
static enum st_status test_row_order(struct trial *t)
{
	uint64_t n = t->a->rows, best[SAMPLE], matched = 0, votes = 0, shift = 0;
	if (n < 2 || t->a->cols < 8)
		return ST_OK;
	ST_TRY(match_rows(t, best));
	for (uint64_t i = 0; i < t->n_sample; i++) {
		if (best[i] == UINT64_MAX)
			continue;
		uint64_t s = (best[i] + n - t->sample[i]) % n;
		matched++;
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
	struct st_rows b = *t->b;
	b.get = get_mapped;
	b.map = map;
	/* Rotated; or moved by a little while other rows came in at the edge, where nothing can be asked of them. */
	uint64_t back = n - shift, lost = shift <= back ? shift : back;
	for (int edge = 0; edge < 2 && shift != 0 && !t->done && (!edge || lost <= n / 4); edge++) {
		for (uint64_t r = 0; r < n; r++) {
			bool beyond = shift <= back ? r + shift >= n : r < back;
			map[r] = edge && beyond ? UINT64_MAX : (r + shift) % n;
		}
		b.get = get_shifted;
		b.other = t->a;
		struct st_cause c = { .code = role_of(t) == ST_ROLE_EMBED ? "embedding.row_shift" : "weight.row_shift" };
		param_number(&c, "shift", shift <= n / 2 ? (double)shift : (double)shift - (double)n);
		if (edge)
			param_number(&c, "rows_lost", (double)lost);
		ST_TRY(consider(t, t->a, &b, c, 0, false));
	}
	if (t->done)
		return ST_OK;
	b.get = get_mapped;
	bool moved = false;
	for (uint64_t i = 0; i < t->n_sample; i++) {
		map[t->sample[i]] = best[i] == UINT64_MAX ? t->sample[i] : best[i];
		moved |= map[t->sample[i]] != t->sample[i];
	}
	return moved ? consider(t, t->a, &b, (struct st_cause){ .code = "weight.rows_permuted" }, 0, true) : ST_OK;
}

static void get_alternating(const struct st_rows *s, uint64_t r, float *dst)
{
	uint64_t i = s->shift + r; /* row of the pair of tensors, interleaved */
	const struct st_rows *from = i % 2 ? s->other : s;
	st_weight_decode(from->w, i / 2, 1, dst);
}

/* Gate and up written as g0 u0 g1 u1 ... and then cut in half. */
static enum st_status test_gate_up_interleaved(struct trial *t)
{
	enum st_role r = role_of(t);
	if (r != ST_ROLE_GATE && r != ST_ROLE_UP)
		return ST_OK;
	uint32_t layer = (uint32_t)t->d->slot->layer;
	for (int k = 0; k < 2 && !t->done; k++) {
		const struct st_model *m = k ? t->ma : t->mb; /* the sound side */
		const struct st_weight *gate = st_model_weight(m, ST_ROLE_GATE, layer), *up = st_model_weight(m, ST_ROLE_UP, layer);
		if (!gate || !gate->tensor || !up || !up->tensor)
			continue;
		struct st_rows side = st_rows_of(gate), other = st_rows_of(up);
		side.get = get_alternating;
		side.other = &other;
		side.shift = r == ST_ROLE_UP ? side.rows : 0;
		ST_TRY(consider(t, k ? &side : t->a, k ? t->b : &side, (struct st_cause){ .code = "weight.gate_up_interleaved" },
		                k ? 'b' : 'a', false));
	}
	return ST_OK;
}

/* Simple before complicated; what is decided bit by bit before what is fitted. */
static enum st_status (*const tests[])(struct trial *) = {
	test_mislabelled, test_nan, test_constant, test_plus_one, test_scaled, test_transposed,
	test_rope_order, test_misplaced, test_gate_up_interleaved, test_block_layout, test_row_order, test_block_scale,
	test_row_corrupt,
};

/* Half of the sample spread evenly, the other half the rows that fit worst. */
static void choose_sample(struct trial *t)
{
	uint64_t n = t->a->rows, even = n < SAMPLE ? n : SAMPLE / 2;
	for (uint64_t i = 0; i < even; i++)
		t->sample[i] = i * n / even;
	t->n_sample = even;
	for (uint64_t r = 0; n > SAMPLE && r < n && t->n_sample < SAMPLE; r++) {
		bool taken = false;
		for (uint64_t i = 0; i < even; i++)
			taken |= t->sample[i] == r;
		if (!taken && st_row_is_bad(&t->stats[r], t->a->cols))
			t->sample[t->n_sample++] = r;
	}
	struct st_row_stat part[SAMPLE];
	for (uint64_t i = 0; i < t->n_sample; i++)
		part[i] = t->stats[t->sample[i]];
	st_pair_summarise(part, t->sample, t->n_sample, t->a->cols, &t->before);
}

enum st_status st_weight_explain(const struct st_model *ma, const struct st_model *mb, const struct st_rows *a,
                                 const struct st_rows *b, const struct st_row_stat *stats, int threads,
                                 struct st_weight_diff *d, struct st_error *err)
{
	struct trial t = { .ma = ma, .mb = mb, .a = a, .b = b, .stats = stats, .threads = threads, .d = d, .err = err };
	st_arena_init(&t.arena);
	choose_sample(&t);
	enum st_status st = ST_OK;
	for (size_t i = 0; i < sizeof tests / sizeof *tests && !t.done && st == ST_OK; i++)
		st = tests[i](&t);
	if (!t.done && !t.likely)
		d->cause = (struct st_cause){ .code = "unexplained", .confidence = ST_UNEXPLAINED, .residual_before = d->rel_l2,
		                              .residual_after = d->rel_l2, .floor = d->predicted };
	st_arena_release(&t.arena);
	return st;
}
