/* attention.c - which rows a query sees, and the kernel's tasks: split, run, merged in fixed order. */
#include "turboquant/level.h"
#include "turboquant/oracle.h"

#include "base/error.h"
#include "base/mem.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum st_status st_tq_params_check(const struct st_tq_params *p, struct st_error *err)
{
	const struct rule {
		const char *name;
		bool broken;
		const char *fmt; /* of `value`, then `other` */
		uint32_t value, other;
	} rules[] = {
		{ "head_dim", !st_tq_head_dim_ok(p->head_dim), "%u is not supported; 128, 256 and 512 are", p->head_dim,
		  0 },
		{ "num_kv_heads", p->num_kv_heads < 1 || p->num_kv_heads > 1024, "%u is not in 1..1024",
		  p->num_kv_heads, 0 },
		{ "num_heads", p->num_heads < 1 || p->num_heads > 4096, "%u is not in 1..4096", p->num_heads, 0 },
		{ "num_heads", p->num_kv_heads && p->num_heads % p->num_kv_heads,
		  "%u heads do not divide into %u key/value heads", p->num_heads, p->num_kv_heads },
		{ "kv_capacity", p->kv_capacity < 1 || p->kv_capacity > 1u << 28, "%u is not in 1..2^28",
		  p->kv_capacity, 0 },
		{ "kv_seq_len", p->kv_seq_len < 1, "%u: the sequence is empty", p->kv_seq_len, 0 },
		{ "kv_seq_len", p->kv_seq_len > p->kv_capacity, "%u exceeds kv_capacity %u", p->kv_seq_len,
		  p->kv_capacity },
		{ "ring_start", p->ring_start >= p->kv_capacity, "%u is not below kv_capacity %u", p->ring_start,
		  p->kv_capacity },
		{ "mask_type", p->mask_type > ST_TQ_MASK_SLIDING,
		  "%u; 0 (none), 1 (causal) and 2 (sliding window) are known", p->mask_type, 0 },
		{ "sliding_window", p->mask_type == ST_TQ_MASK_SLIDING && p->sliding_window < 1,
		  "%u: a window needs at least one row", p->sliding_window, 0 },
	};
	for (size_t i = 0; i < sizeof rules / sizeof *rules; i++)
		if (rules[i].broken)
			return st_fail_at(err, ST_ERR_USAGE, ST_NO_OFFSET, rules[i].name, rules[i].fmt, rules[i].value,
			                  rules[i].other);
	if (!isfinite(p->scale) || !isfinite((float)p->scale))
		return st_fail_at(err, ST_ERR_USAGE, ST_NO_OFFSET, "scale", "%g is not a finite f32", p->scale);
	if (p->softcap != 0 && !(p->softcap > 0 && isnormal((float)p->softcap)))
		return st_fail_at(err, ST_ERR_USAGE, ST_NO_OFFSET, "softcap",
		                  "%g is neither 0 nor a positive normal f32", p->softcap);
	/* The kernel divides by it, in f32. */
	if (!(p->scale_factor_d512 > 0) || !isnormal((float)(1 / p->scale_factor_d512)))
		return st_fail_at(err, ST_ERR_USAGE, ST_NO_OFFSET, "scale_factor_d512",
		                  "1 / %g is not a positive normal f32", p->scale_factor_d512);
	return ST_OK;
}

void st_tq_visible_rows(const struct st_tq_params *p, enum st_tq_visibility vis, struct st_tq_rows *rows)
{
	uint32_t len = p->kv_seq_len, cap = p->kv_capacity, first = 0;
	if (p->mask_type == ST_TQ_MASK_SLIDING && p->sliding_window < len)
		first = len - p->sliding_window;
	memset(rows, 0, sizeof *rows);
	rows->expected = len - first;
	/* Chronological [first, len) is one physical run, or two where it crosses the end of the ring. */
	uint32_t start = (uint32_t)(((uint64_t)p->ring_start + first) % cap);
	rows->start[0] = start;
	rows->count[0] = rows->expected < cap - start ? rows->expected : cap - start;
	rows->count[1] = rows->expected - rows->count[0];
	if (vis == ST_TQ_PHYSICAL) {
		/* Existing kernels walk physical rows 0..len-1 in that order and drop the rest. */
		uint32_t s[2] = { 0, start }, n[2] = { rows->count[1], rows->count[0] };
		for (int i = 0; i < 2; i++) {
			n[i] = s[i] >= len ? 0 : n[i] < len - s[i] ? n[i] : len - s[i];
			rows->start[i] = s[i];
			rows->count[i] = n[i];
		}
	}
	rows->visible = rows->count[0] + rows->count[1];
}

/* [d] between coordinate order and lane order (level_impl.h): position 16 n + l of a block is coordinate W l + n. */
static void reorder(const float *x, uint32_t d, unsigned bits, bool to_lanes, float *y)
{
	const uint32_t w = bits == 0 ? 1 : bits == 4 ? 8 : 4;
	for (uint32_t b = 0; b < d; b += 16 * w) {
		for (uint32_t n = 0; n < w; n++) {
			for (uint32_t l = 0; l < 16; l++) {
				const uint32_t lane = b + 16 * n + l, coordinate = b + w * l + n;
				y[to_lanes ? lane : coordinate] = x[to_lanes ? coordinate : lane];
			}
		}
	}
}

/* Splits in order: weights relative to the largest maximum of all. max, sum: [splits] ld apart. */
static void merge(const float *acc, const float *max, const float *sum, size_t splits, size_t ld, uint32_t d, float *y)
{
	float top = max[0], total = 0;
	for (size_t s = 1; s < splits; s++)
		top = top > max[s * ld] ? top : max[s * ld];
	memset(y, 0, d * sizeof *y);
	for (size_t s = 0; s < splits; s++) {
		/* st_exp has the same bits on every machine, the C library's need not. */
		float w = (float)st_exp((double)max[s * ld] - (double)top);
		total += w * sum[s * ld];
		for (uint32_t i = 0; i < d; i++)
			y[i] += w * acc[s * ld * d + i];
	}
	for (uint32_t i = 0; i < d; i++)
		y[i] /= total;
}

/* One task for each split of the rows, key/value head and pair of its query heads. */
struct tasks {
	const struct st_tq_exec *e;
	const struct st_tq_codec *codec;
	const struct st_tq_params *p;
	const struct st_tq_kv *kv;
	const struct st_tq_rows *rows;
	unsigned bits;
	const float *lanes;     /* the queries: [H, d] */
	float *acc, *max, *sum; /* [splits, H, d], [splits, H], [splits, H] */
};

static size_t pairs_of(const struct st_tq_params *p) { return st_ceil_div(p->num_heads / p->num_kv_heads, ST_TQ_PAIR); }

static void attend_some(void *ctx, unsigned lane, uint64_t begin, uint64_t end)
{
	const struct tasks *k = ctx;
	const struct st_tq_params *p = k->p;
	const struct st_tq_kv *kv = k->kv;
	const uint32_t H = p->num_heads, G = p->num_kv_heads, d = p->head_dim, group = H / G;
	const size_t rb = k->bits ? st_tq_row_bytes(d, k->bits) : 0, nb = st_tq_norm_blocks(d), pairs = pairs_of(p);
	const float factor = d == 512 ? (float)(1 / p->scale_factor_d512) : 1 / sqrtf((float)d);
	(void)lane;
	for (size_t i = (size_t)begin; i < end; i++) {
		size_t s = i / (G * pairs), g = i / pairs % G, h0 = g * group + i % pairs * ST_TQ_PAIR, at = s * H + h0;
		struct st_tq_task t = {
			.rows = k->rows,
			.d = d,
			.bits = k->bits,
			.table = k->bits ? k->codec->book.level_f32 : NULL,
			.scale = (float)p->scale,
			.softcap = (float)p->softcap,
			.factor = factor,
			.q = k->lanes + h0 * d,
			.first = (uint32_t)(s * ST_TQ_SPLIT),
			.acc = k->acc + at * d,
			.max = k->max + at,
			.sum = k->sum + at,
		};
		t.n_heads = group - (uint32_t)(i % pairs) * ST_TQ_PAIR < ST_TQ_PAIR ? 1 : 2;
		t.end = k->rows->visible - t.first < ST_TQ_SPLIT ? k->rows->visible : t.first + ST_TQ_SPLIT;
		for (int v = 0; v < 2; v++) {
			t.kv.codes[v] = k->bits ? kv->codes[v] + g * p->kv_capacity * rb : NULL;
			t.kv.norms[v] = k->bits ? kv->norms[v] + g * p->kv_capacity * nb : NULL;
			t.kv.dense[v] = k->bits ? NULL : kv->dense[v] + g * p->kv_capacity * d;
		}
		st_tq_level_get(k->e->cpu)->attend(&t);
	}
}

enum st_status st_tq_attention(const struct st_tq_exec *e, const struct st_tq_codec *codec,
                               const struct st_tq_params *p, const struct st_tq_kv *kv, const float *q, float *out,
                               struct st_error *err)
{
	const uint32_t H = p->num_heads, G = p->num_kv_heads, d = p->head_dim;
	const unsigned bits = kv->codes[0] ? codec->bits : 0;
	struct st_tq_rows rows;
	st_tq_visible_rows(p, e->visibility, &rows);
	if (rows.visible == 0) {
		memset(out, 0, (size_t)H * d * sizeof *out);
		return ST_OK;
	}
	const size_t splits = st_ceil_div(rows.visible, ST_TQ_SPLIT);
	/* The queries; partial results of every split: [splits, H, d] sums, [splits, H] maxima and weights. */
	float *lanes = st_alloc_array3(splits + 1, H, d + 2, sizeof *lanes);
	ST_NEED(lanes);
	float *acc = lanes + (size_t)H * d, *max = acc + splits * H * d, *sum = max + splits * H;
	for (uint32_t h = 0; h < H; h++) {
		float t[512];
		for (uint32_t i = 0; i < d; i++)
			t[i] = e->q_f16 ? st_tq_round_f16(q[(size_t)h * d + i]) : q[(size_t)h * d + i];
		reorder(t, d, bits, true, lanes + (size_t)h * d);
	}
	struct tasks k = { e, codec, p, kv, &rows, bits, lanes, acc, max, sum };
	uint64_t rows_a_task = rows.visible < ST_TQ_SPLIT ? rows.visible : ST_TQ_SPLIT;
	st_pool_each(e->pool, splits * G * pairs_of(p), rows_a_task * d * 2, attend_some, &k);
	for (uint32_t h = 0; h < H; h++) {
		float y[512];
		merge(acc + (size_t)h * d, max + h, sum + h, splits, H, d, y);
		reorder(y, d, bits, false, out + (size_t)h * d);
	}
	free(lanes);
	return ST_OK;
}

enum st_status st_tq_step(const struct st_tq_exec *e, const struct st_tq_codec *codec, const struct st_tq_params *p,
                          const struct st_tq_kv *kv, const float *q, float *out, struct st_error *err)
{
	float *rotated = st_alloc_array2(p->num_heads, p->head_dim, sizeof *rotated);
	ST_NEED(rotated);
	memcpy(rotated, q, (size_t)p->num_heads * p->head_dim * sizeof *rotated);
	st_tq_rotate(codec, rotated, p->num_heads);
	enum st_status st = st_tq_attention(e, codec, p, kv, rotated, out, err);
	st_tq_unrotate(codec, out, p->num_heads);
	free(rotated);
	return st;
}

double st_tq_nrmse(const float *a, const double *ref, size_t n)
{
	struct st_apart s = { 0 };
	for (size_t i = 0; i < n; i++)
		st_apart_add(&s, a[i], ref[i]);
	return s.total == 0 ? 0 : st_apart_nrmse(&s);
}
