/*
 * diagnose.c - which mistake turns this capture into that output.
 *
 * A hypothesis is an edit of how the step is evaluated. It is believed when the edited step, in f64,
 * reproduces the observed output down to the floor of f32 arithmetic - nothing else is evidence. All
 * evaluation happens in the stored (rotated) basis: the transform is orthonormal, so it only has to be
 * applied to the query and the result.
 */
#include "turboquant/replay_internal.h"

#include "base/error.h"
#include "base/mem.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum round { ROUND_DECLARED, ROUND_F16, ROUND_BF16 };
enum head_map { MAP_GROUP, MAP_MODULO, MAP_REVERSED, MAP_FIRST };
enum window { WINDOW_OWN, WINDOW_NONE, WINDOW_BY_ROW };
enum row_fault { ROW_OWN, ROW_MISSING, ROW_ZERO, ROW_PREVIOUS, ROW_NEXT };

/* What differs from the declared step; all zeros means nothing does. */
struct edit {
	bool q_signs, out_signs;      /* flipped against the declaration */
	bool q_plain, out_plain;      /* without the transform */
	bool nibbles_k, nibbles_v, kv_swapped, norms_crossed;
	unsigned norm_block;          /* ST_NORM_* */
	double factor;                /* of a centroid times a norm; 0 = its own */
	int64_t ring_delta;
	bool physical;
	enum window window;
	int32_t window_delta, extra;  /* rows more (or fewer) at the old and at the new end */
	double scale, softcap;        /* 0 = their own; softcap < 0: none */
	enum head_map map;
	enum row_fault row_fault;
	uint32_t row;                 /* chronological position of it */
	enum round round;
};

struct step {
	const struct st_capture *c;
	struct st_oracle_decode decode;
	bool q_f16, physical;         /* as declared by the options */
	int threads;
	const float *observed;
	size_t n;                     /* H d */
	/* scratch of evaluate() */
	double *q, *out, *scores;     /* [H, d], [H, d], [H, rows] */
	uint32_t *rows, n_rows;       /* physical rows of the last evaluation, in reading order */
	double *weights_top, *total;  /* [H] */
};

struct hypothesis {
	const char *code;
	char text[160];
	const char *parameter;        /* fitted value's name, or NULL */
	double value;
	struct edit e;
	double residual;
};

static bool alloc_scratch(struct step *s)
{
	const struct st_tq_params *p = &s->c->p;
	s->q = st_alloc_array(s->n, sizeof *s->q);
	s->out = st_alloc_array(s->n, sizeof *s->out);
	s->scores = st_alloc_array((uint64_t)p->num_heads * p->kv_capacity, sizeof *s->scores);
	s->rows = st_alloc_array(p->kv_capacity, sizeof *s->rows);
	s->weights_top = st_alloc_array(p->num_heads, sizeof *s->weights_top);
	s->total = st_alloc_array(p->num_heads, sizeof *s->total);
	return s->q && s->out && s->scores && s->rows && s->weights_top && s->total;
}

static void free_scratch(struct step *s)
{
	free(s->q);
	free(s->out);
	free(s->scores);
	free(s->rows);
	free(s->weights_top);
	free(s->total);
}

static float round_bf16(float x)
{
	uint32_t u;
	memcpy(&u, &x, 4);
	u = (u + 0x7fffu + (u >> 16 & 1)) & 0xffff0000u;
	memcpy(&x, &u, 4);
	return x;
}

/* Physical rows that the edited step reads. */
static void select_rows(struct step *s, const struct edit *e)
{
	const struct st_tq_params *p = &s->c->p;
	const int64_t cap = p->kv_capacity, len = (int64_t)p->kv_seq_len + e->extra;
	const int64_t start = (((int64_t)p->ring_start + e->ring_delta) % cap + cap) % cap;
	int64_t first = 0;
	if (p->mask_type == ST_TQ_MASK_SLIDING && e->window == WINDOW_OWN)
		first = (int64_t)p->kv_seq_len - p->sliding_window - e->window_delta;
	const bool physical = e->physical != s->physical;
	s->n_rows = 0;
	for (int64_t i = first > 0 ? first : 0; i < (len < cap ? len : cap); i++) {
		int64_t row = (start + i) % cap;
		if (physical && row >= p->kv_seq_len)
			continue;
		/* A window counted in physical rows: the last ones of the buffer's used part. */
		if (e->window == WINDOW_BY_ROW && row < (int64_t)p->kv_seq_len - p->sliding_window)
			continue;
		if (e->row_fault == ROW_MISSING && i == e->row)
			continue;
		s->rows[s->n_rows++] = (uint32_t)row;
	}
}

static uint32_t chronological(const struct st_tq_params *p, uint32_t row)
{
	return (uint32_t)(((uint64_t)row + p->kv_capacity - p->ring_start) % p->kv_capacity);
}

/* One stored row of keys (v = false) or values under the edit. */
static void edited_row(const struct step *s, const struct edit *e, bool v, uint32_t g, uint32_t row, double *y)
{
	const struct st_tq_params *p = &s->c->p;
	const struct st_tq_kv *kv = &s->c->kv;
	const uint32_t d = p->head_dim;
	const size_t rb = st_tq_row_bytes(d, s->decode.bits), nb = st_tq_norm_blocks(d);
	if (e->row_fault >= ROW_ZERO && chronological(p, row) == e->row) {
		if (e->row_fault == ROW_ZERO) {
			memset(y, 0, d * sizeof *y);
			return;
		}
		row = (uint32_t)(((uint64_t)row + (e->row_fault == ROW_NEXT ? 1 : p->kv_capacity - 1)) % p->kv_capacity);
	}
	struct st_oracle_decode o = s->decode;
	o.fwht = o.signs = false;
	o.nibbles_swapped = v ? e->nibbles_v : e->nibbles_k;
	o.norm_block = e->norm_block;
	if (e->factor > 0)
		o.factor = e->factor;
	const bool values = v != e->kv_swapped, norms = v != e->norms_crossed;
	const size_t at = (size_t)g * p->kv_capacity + row;
	st_oracle_decode_row(&o, d, (values ? kv->v_codes : kv->k_codes) + at * rb,
	                     ((e->kv_swapped ? values : norms) ? kv->v_norms : kv->k_norms) + at * nb, y);
}

static double dot(const double *a, const double *b, uint32_t d)
{
	double part[8] = { 0 };
	for (uint32_t j = 0; j < d; j += 8)
		for (int l = 0; l < 8; l++)
			part[l] += a[j + l] * b[j + l];
	return ((part[0] + part[4]) + (part[1] + part[5])) + ((part[2] + part[6]) + (part[3] + part[7]));
}

static uint32_t mapped(const struct st_tq_params *p, enum head_map m, uint32_t h)
{
	const uint32_t group = p->num_heads / p->num_kv_heads;
	return m == MAP_MODULO ? h % p->num_kv_heads : m == MAP_REVERSED ? p->num_kv_heads - 1 - h / group : m == MAP_FIRST ? 0 : h / group;
}

static double cap_score(const struct step *s, const struct edit *e, double x)
{
	const double cap = e->softcap < 0 ? 0 : e->softcap > 0 ? e->softcap : s->c->p.softcap;
	return cap > 0 ? cap * tanh(x / cap) : x;
}

static double scale_of(const struct step *s, const struct edit *e) { return e->scale != 0 ? e->scale : s->c->p.scale; }

static void rotate_query(struct step *s, const struct edit *e)
{
	const uint32_t d = s->c->p.head_dim;
	const bool signs = s->decode.signs != e->q_signs;
	for (uint32_t h = 0; h < s->c->p.num_heads; h++) {
		double *q = s->q + (size_t)h * d;
		for (uint32_t j = 0; j < d; j++)
			q[j] = (double)s->c->q[(size_t)h * d + j] * (signs ? st_tq_sign(j) : 1);
		if (!e->q_plain)
			st_oracle_fwht(q, d);
		for (uint32_t j = 0; j < d; j++) {
			if (e->round == ROUND_F16 || (e->round == ROUND_DECLARED && s->q_f16))
				q[j] = st_tq_round_f16((float)q[j]);
			else if (e->round == ROUND_BF16)
				q[j] = round_bf16((float)q[j]);
		}
	}
}

/* nrmse against the edited step; an edit that leaves nothing to compare with explains nothing. */
static double residual(const struct step *s)
{
	double total = 0;
	for (size_t i = 0; i < s->n; i++)
		total += s->out[i] * s->out[i];
	return total > 0 ? st_tq_nrmse(s->observed, s->out, s->n) : INFINITY;
}

/* Bring one head's result back to the natural basis. */
static void finish_head(const struct step *s, const struct edit *e, double *y)
{
	const uint32_t d = s->c->p.head_dim;
	if (!e->out_plain)
		st_oracle_fwht(y, d);
	for (uint32_t j = 0; s->decode.signs != e->out_signs && j < d; j++)
		y[j] *= st_tq_sign(j);
}

/* The whole step under an edit: s->out, and the scores of every head. */
static void evaluate(struct step *s, const struct edit *e)
{
	const struct st_tq_params *p = &s->c->p;
	const uint32_t d = p->head_dim, H = p->num_heads;
	double row[512];
	rotate_query(s, e);
	select_rows(s, e);
	memset(s->out, 0, s->n * sizeof *s->out);
	for (uint32_t h = 0; h < H; h++) {
		s->weights_top[h] = -INFINITY;
		s->total[h] = 0;
	}
	for (uint32_t g = 0; g < p->num_kv_heads; g++) {
		for (uint32_t i = 0; i < s->n_rows; i++) {
			edited_row(s, e, false, g, s->rows[i], row);
			for (uint32_t h = 0; h < H; h++) {
				if (mapped(p, e->map, h) != g)
					continue;
				double x = cap_score(s, e, scale_of(s, e) * dot(s->q + (size_t)h * d, row, d));
				s->scores[(size_t)h * p->kv_capacity + i] = x;
				s->weights_top[h] = fmax(s->weights_top[h], x);
			}
		}
		for (uint32_t i = 0; i < s->n_rows; i++) {
			edited_row(s, e, true, g, s->rows[i], row);
			for (uint32_t h = 0; h < H; h++) {
				if (mapped(p, e->map, h) != g)
					continue;
				double w = exp(s->scores[(size_t)h * p->kv_capacity + i] - s->weights_top[h]);
				s->total[h] += w;
				for (uint32_t j = 0; j < d && w > 1e-30; j++)
					s->out[(size_t)h * d + j] += w * row[j];
			}
		}
	}
	for (uint32_t h = 0; h < H; h++) {
		for (uint32_t j = 0; s->total[h] > 0 && j < d; j++)
			s->out[(size_t)h * d + j] /= s->total[h];
		finish_head(s, e, s->out + (size_t)h * d);
	}
}

/* ---- the hypotheses ---- */

struct table {
	struct hypothesis *h;
	size_t n, cap;
	bool failed;
};

static struct hypothesis *add(struct table *t, const char *code, const char *text)
{
	static struct hypothesis sink;
	if (!st_grow((void **)&t->h, &t->cap, t->n + 1, sizeof *t->h)) {
		t->failed = true;
		return &sink;
	}
	struct hypothesis *h = &t->h[t->n++];
	memset(h, 0, sizeof *h);
	h->code = code;
	snprintf(h->text, sizeof h->text, "%s", text);
	return h;
}

static struct hypothesis *add_value(struct table *t, const char *code, const char *parameter, double value, const char *text)
{
	struct hypothesis *h = add(t, code, text);
	h->parameter = parameter;
	h->value = value;
	return h;
}

/* Simple ones first: of two that explain the output equally, the first is reported. */
static void list_hypotheses(const struct step *s, struct table *t)
{
	const struct st_tq_params *p = &s->c->p;
	const uint32_t d = p->head_dim, cap = p->kv_capacity, len = p->kv_seq_len, H = p->num_heads, G = p->num_kv_heads;
	const bool declared = s->decode.signs;

	if (!s->q_f16)
		add(t, "numeric.low_precision", "the query was rounded to f16 before the scores")->e.round = ROUND_F16;
	add(t, "numeric.low_precision", "the query was rounded to bf16 before the scores")->e.round = ROUND_BF16;

	struct hypothesis *h = add(t, "cache.quantiser", declared ? "D1 signs are on the cache, not on the query and the output"
	                                                          : "D1 signs are on the query and the output, not on the cache");
	h->e.q_signs = h->e.out_signs = true;
	add(t, "cache.quantiser", declared ? "D1 signs are missing on the query" : "D1 signs are on the query alone")->e.q_signs = true;
	add(t, "cache.quantiser", declared ? "D1 signs are not undone on the output" : "D1 signs are on the output alone")->e.out_signs = true;
	add(t, "cache.quantiser", "the query was not transformed (FWHT on the cache side only)")->e.q_plain = true;
	add(t, "cache.quantiser", "the output was not transformed back (inverse FWHT missing)")->e.out_plain = true;
	h = add(t, "cache.quantiser", "neither query nor output were transformed (FWHT on the cache side only)");
	h->e.q_plain = h->e.out_plain = true;
	if (s->decode.bits == 4) {
		h = add(t, "cache.quantiser", "nibbles are swapped in keys and values: the even coordinate was taken from the high half");
		h->e.nibbles_k = h->e.nibbles_v = true;
		add(t, "cache.quantiser", "nibbles are swapped in the keys")->e.nibbles_k = true;
		add(t, "cache.quantiser", "nibbles are swapped in the values")->e.nibbles_v = true;
	}
	if (d == 512) {
		add(t, "cache.quantiser", "the two norms of a row are exchanged")->e.norm_block = ST_NORM_SWAPPED;
		add(t, "cache.quantiser", "both halves of a row use the first norm")->e.norm_block = ST_NORM_FIRST;
		add(t, "cache.quantiser", "both halves of a row use the second norm")->e.norm_block = ST_NORM_SECOND;
	}
	add(t, "cache.quantiser", "the norms of keys and values are exchanged")->e.norms_crossed = true;
	const double root = sqrt((double)d), factors[] = { 1, 1 / root, root, 1 / (double)d, 1.0 / 16, 16, 0.5, 2, 0.70710678118654752, 1.4142135623730951 };
	for (size_t i = 0; i < sizeof factors / sizeof *factors; i++) {
		if (fabs(factors[i] / s->decode.factor - 1) < 1e-9)
			continue;
		char text[160];
		snprintf(text, sizeof text, "a centroid was scaled by norm x %.6g instead of norm x %.6g", factors[i], s->decode.factor);
		h = d == 512 ? add_value(t, "cache.quantiser", "scale_factor_d512", 1 / factors[i], text)
		             : add_value(t, "cache.quantiser", "factor", factors[i], text);
		h->e.factor = factors[i];
	}

	if (p->mask_type == ST_TQ_MASK_SLIDING) {
		add(t, "attn.window", "the window counts physical rows instead of chronological positions")->e.window = WINDOW_BY_ROW;
		add(t, "attn.window", "the sliding window is not applied")->e.window = WINDOW_NONE;
		add_value(t, "attn.window", "sliding_window", p->sliding_window + 1.0, "the window is one row too long")->e.window_delta = 1;
		add_value(t, "attn.window", "sliding_window", p->sliding_window - 1.0, "the window is one row too short")->e.window_delta = -1;
	}
	const struct { int64_t delta; const char *text; } starts[] = {
		{ -1, "the ring starts one row early: at the write position instead of the row after it" },
		{ 1, "the ring starts one row late" },
		{ -(int64_t)p->ring_start, "the ring start is taken as 0" },
		{ -2, "the ring starts two rows early" }, { 2, "the ring starts two rows late" },
		{ len, "the ring start is taken from the end of the sequence" },
	};
	for (size_t i = 0; i < sizeof starts / sizeof *starts; i++) {
		if (starts[i].delta % cap == 0)
			continue;
		int64_t at = (((int64_t)p->ring_start + starts[i].delta) % cap + cap) % cap;
		add_value(t, "cache.ring_start", "ring_start", (double)at, starts[i].text)->e.ring_delta = starts[i].delta;
	}
	add(t, "cache.position", s->physical ? "the whole ring is read, not only physical rows below the sequence length"
	                                     : "only physical rows below the sequence length are read, so the wrapped part of the ring is lost")->e.physical = true;

	if (p->softcap > 0)
		add(t, "attn.softcap", "the soft-cap is missing")->e.softcap = -1;
	const double caps[] = { 20, 30, 50 };
	for (size_t i = 0; i < sizeof caps / sizeof *caps; i++)
		if (caps[i] != p->softcap)
			add_value(t, "attn.softcap", "softcap", caps[i], p->softcap > 0 ? "the soft-cap has another value" : "a soft-cap was applied")->e.softcap = caps[i];
	const double scales[] = { 1, 1 / root, 1 / (double)d, p->scale * p->scale, p->scale * root, p->scale / root };
	for (size_t i = 0; i < sizeof scales / sizeof *scales; i++)
		if (scales[i] != 0 && fabs(scales[i] / p->scale - 1) > 1e-6)
			add_value(t, "attn.scale", "scale", scales[i], "the scores have another scale")->e.scale = scales[i];
	if (G > 1) {
		if (H != G)
			add(t, "attn.gqa_mapping", "query head h reads key/value head h mod num_kv_heads instead of h / (num_heads / num_kv_heads)")->e.map = MAP_MODULO;
		add(t, "attn.gqa_mapping", "key/value heads are read in reverse order")->e.map = MAP_REVERSED;
		add(t, "attn.gqa_mapping", "every query head reads key/value head 0")->e.map = MAP_FIRST;
	}
	add(t, "attn.kv_swapped", "keys and values are exchanged")->e.kv_swapped = true;

	/* Rows past the end: a few, up to a tile's end, or all there are. */
	const uint32_t left = cap - len;
	add(t, "attn.mask_off_by_one", "the newest row is not seen")->e.extra = -1;
	const uint32_t tiles[] = { 8, 16, 32, 64, 128, 256 };
	uint32_t last = 0;
	for (uint32_t k = 1; k <= 4 && k <= left; k++) {
		add_value(t, "cache.position", "rows_beyond", k, "rows beyond the sequence are read")->e.extra = (int32_t)k;
		last = k;
	}
	for (size_t i = 0; i < sizeof tiles / sizeof *tiles; i++) {
		uint32_t k = (tiles[i] - len % tiles[i]) % tiles[i];
		if (k > last && k <= left) {
			add_value(t, "cache.position", "rows_beyond", k, "rows beyond the sequence are read, up to the end of a tile")->e.extra = (int32_t)k;
			last = k;
		}
	}
	if (left > last)
		add_value(t, "cache.position", "rows_beyond", left, "the whole capacity is read, not only the sequence")->e.extra = (int32_t)left;
}

/*
 * One bad row among many: for every visible row and head, what the result would be had the row been
 * missing, empty, or a copy of a neighbour - from the sums of the declared step, in O(d) each. Only the
 * best guess is returned; evaluate() then has to confirm it.
 */
static void scan_rows(struct step *s, enum round round, struct table *t)
{
	const struct st_tq_params *p = &s->c->p;
	const uint32_t d = p->head_dim, H = p->num_heads, group = H / p->num_kv_heads;
	const struct edit own = { .round = round };
	static const struct { enum row_fault fault; const char *text; } kinds[] = {
		{ ROW_ZERO, "the row was read before it was written (empty)" },
		{ ROW_PREVIOUS, "the row holds a copy of the one before it" },
		{ ROW_NEXT, "the row holds a copy of the one after it" },
		{ ROW_MISSING, "the row is not seen" },
	};
	evaluate(s, &own);
	const uint32_t n = s->n_rows;
	double *mix = st_alloc_array(s->n, sizeof *mix), *obs = st_alloc_array(s->n, sizeof *obs), *sum = st_alloc_array(H, sizeof *sum);
	if (!mix || !obs || !sum) {
		t->failed = true;
		goto out;
	}
	/* Weighted sums in the stored basis, and the observation brought there too. */
	for (uint32_t h = 0; h < H; h++) {
		double *o = obs + (size_t)h * d;
		sum[h] = 0;
		for (uint32_t i = 0; i < n; i++)
			sum[h] += exp(s->scores[(size_t)h * p->kv_capacity + i] - s->weights_top[h]);
		for (uint32_t j = 0; j < d; j++) {
			o[j] = (double)s->observed[(size_t)h * d + j] * (s->decode.signs ? st_tq_sign(j) : 1);
			mix[(size_t)h * d + j] = s->out[(size_t)h * d + j] * (s->decode.signs ? st_tq_sign(j) : 1);
		}
		st_oracle_fwht(o, d);
		st_oracle_fwht(mix + (size_t)h * d, d);
		for (uint32_t j = 0; j < d; j++)
			mix[(size_t)h * d + j] *= sum[h];
	}
	for (size_t k = 0; k < sizeof kinds / sizeof *kinds; k++) {
		double best = INFINITY;
		uint32_t best_row = 0;
		for (uint32_t i = 0; i < n; i++) {
			struct edit e = { .round = round, .row_fault = kinds[k].fault, .row = chronological(p, s->rows[i]) };
			double bad = 0;
			for (uint32_t g = 0; g < p->num_kv_heads && bad < best; g++) {
				double v[512], k2[512], v2[512];
				edited_row(s, &own, true, g, s->rows[i], v);
				if (kinds[k].fault != ROW_MISSING) {
					edited_row(s, &e, false, g, s->rows[i], k2);
					edited_row(s, &e, true, g, s->rows[i], v2);
				}
				for (uint32_t h = g * group; h < (g + 1) * group; h++) {
					double w = exp(s->scores[(size_t)h * p->kv_capacity + i] - s->weights_top[h]), w2 = 0;
					if (kinds[k].fault != ROW_MISSING)
						w2 = exp(cap_score(s, &own, p->scale * dot(s->q + (size_t)h * d, k2, d)) - s->weights_top[h]);
					for (uint32_t j = 0; j < d; j++) {
						double y = (mix[(size_t)h * d + j] - w * v[j] + (w2 > 0 ? w2 * v2[j] : 0)) / (sum[h] - w + w2);
						bad += (y - obs[(size_t)h * d + j]) * (y - obs[(size_t)h * d + j]);
					}
				}
			}
			if (bad < best) {
				best = bad;
				best_row = e.row;
			}
		}
		struct hypothesis *h = add_value(t, "cache.slot", "position", best_row, kinds[k].text);
		h->e.row_fault = kinds[k].fault;
		h->e.row = best_row;
		h->e.round = round;
	}
out:
	free(mix);
	free(obs);
	free(sum);
}

/* The factor that fits best on a logarithmic grid, then by golden section; for factors nobody lists. */
static double factor_residual(struct step *s, double log2_ratio, enum round round)
{
	struct edit e = { .round = round, .factor = s->decode.factor * exp2(log2_ratio) };
	evaluate(s, &e);
	return residual(s);
}

static void fit_factor(struct step *s, enum round round, struct table *t)
{
	double best = 0, at = 0;
	for (int i = -32; i <= 32; i++) {
		double r = factor_residual(s, i / 8.0, round);
		if (i == -32 || r < best) {
			best = r;
			at = i / 8.0;
		}
	}
	double lo = at - 0.125, hi = at + 0.125;
	for (int i = 0; i < 45; i++) {
		double a = hi - (hi - lo) * 0.61803398874989485, b = lo + (hi - lo) * 0.61803398874989485;
		if (factor_residual(s, a, round) < factor_residual(s, b, round))
			hi = b;
		else
			lo = a;
	}
	double factor = s->decode.factor * exp2(0.5 * (lo + hi));
	char text[160];
	snprintf(text, sizeof text, "a centroid was scaled by norm x %.6g instead of norm x %.6g (fitted)", factor, s->decode.factor);
	struct hypothesis *h = s->c->p.head_dim == 512 ? add_value(t, "cache.quantiser", "scale_factor_d512", 1 / factor, text)
	                                              : add_value(t, "cache.quantiser", "factor", factor, text);
	h->e.factor = factor;
	h->e.round = round;
}

static int by_residual(const void *a, const void *b)
{
	const struct hypothesis *x = *(const struct hypothesis *const *)a, *y = *(const struct hypothesis *const *)b;
	return x->residual != y->residual ? (x->residual < y->residual ? -1 : 1) : (x > y) - (x < y);
}

static void score(struct step *s, struct table *t, size_t from)
{
	/* Each thread evaluates whole hypotheses in scratch of its own. */
#pragma omp parallel num_threads(s->threads) if (s->threads > 1)
	{
		struct step mine = *s;
		bool ok = alloc_scratch(&mine);
#pragma omp for schedule(dynamic)
		for (size_t i = from; i < t->n; i++) {
			if (ok)
				evaluate(&mine, &t->h[i].e);
			t->h[i].residual = ok ? residual(&mine) : INFINITY;
		}
		if (!ok) {
#pragma omp atomic write
			t->failed = true;
		}
		free_scratch(&mine);
	}
}

/* First hypothesis at the floor, in the order of the table; else NULL. */
static const struct hypothesis *confirmed(const struct table *t, double floor)
{
	for (size_t i = 0; i < t->n; i++)
		if (t->h[i].residual <= floor)
			return &t->h[i];
	return NULL;
}

static bool is_noise(const struct hypothesis *h) { return !strcmp(h->code, "numeric.low_precision"); }

/* Everything with the declared query first; then row scans, a fitted factor, and all of it with an f16 query. */
static const struct hypothesis *search(struct step *s, struct table *t, double floor)
{
	const struct hypothesis *hit;
	list_hypotheses(s, t);
	const size_t listed = t->n;
	score(s, t, 0);
	hit = confirmed(t, floor);
	for (int pass = 0; pass < 2 && !hit; pass++) {
		const enum round round = pass ? ROUND_F16 : ROUND_DECLARED;
		size_t from = t->n;
		if (pass && s->q_f16)
			break;
		for (size_t i = 0; pass && i < listed && !t->failed; i++) {
			if (t->h[i].e.round != ROUND_DECLARED)
				continue;
			struct hypothesis copy = t->h[i], *h = add(t, copy.code, copy.text);
			*h = copy;
			h->e.round = ROUND_F16;
			size_t len = strlen(h->text);
			snprintf(h->text + len, sizeof h->text - len, "; and an f16 query");
		}
		scan_rows(s, round, t);
		fit_factor(s, round, t);
		score(s, t, from);
		hit = confirmed(t, floor);
	}
	return hit;
}

/* Other edits that give the same output: the capture cannot tell them apart, and says so. */
static json_t *equivalents(const struct table *t, const struct hypothesis *h, double floor)
{
	json_t *list = json_array();
	for (size_t i = 0; i < t->n; i++)
		if (t->h + i != h && t->h[i].residual <= floor)
			json_array_append_new(list, json_pack("{s:s,s:s}", "code", t->h[i].code, "text", t->h[i].text));
	return list;
}

static json_t *cause_json(const struct hypothesis *h, const char *confidence, double before, double floor)
{
	json_t *j = json_object(), *par = json_object();
	st_json_put(j, "code", json_string(h ? h->code : "unexplained"));
	st_json_put(j, "confidence", json_string(confidence));
	if (h && h->parameter)
		st_json_put(par, h->parameter, st_json_real(h->value));
	if (h && h->e.round == ROUND_F16)
		st_json_put(par, "q_dtype", json_string("f16"));
	if (h && h->e.round == ROUND_BF16)
		st_json_put(par, "q_dtype", json_string("bf16"));
	st_json_put(j, "parameters", par);
	st_json_put(j, "residual_before", st_json_real(before));
	st_json_put(j, "residual_after", h ? st_json_real(h->residual) : NULL);
	st_json_put(j, "floor", st_json_real(floor));
	st_json_put(j, "text", h ? json_string(h->text) : NULL);
	return j;
}

/* What f32 arithmetic alone costs here: our own kernel against its oracle, with room for other summation orders. */
static enum st_status arithmetic_floor(const struct st_replay_run *r, const struct st_capture *c, const struct step *s, double *floor, struct st_error *err)
{
	struct st_tq_codec codec;
	ST_TRY(st_tq_codec_init(&codec, c->p.head_dim, c->bits, c->signs, c->p.scale_factor_d512, r->exec.cpu, err));
	float *q = st_alloc_array(s->n, sizeof *q), *out = st_alloc_array(s->n, sizeof *out);
	if (!q || !out) {
		free(q);
		free(out);
		return st_fail(err, ST_ERR_NOMEM, "out of memory");
	}
	memcpy(q, c->q, s->n * sizeof *q);
	st_tq_rotate(&codec, q, c->p.num_heads);
	enum st_status st = st_tq_attention(&r->exec, &codec, &c->p, &c->kv, q, out, err);
	st_tq_unrotate(&codec, out, c->p.num_heads);
	*floor = fmax(10 * st_tq_nrmse(out, s->out, s->n), 1e-5);
	free(q);
	free(out);
	return st;
}

enum st_status st_diagnose_output(struct st_replay_run *r, const struct st_capture *c, const float *observed, struct st_error *err)
{
	const struct st_tq_params *p = &c->p;
	struct st_codebook book;
	double levels[ST_TQ_MAX_LEVELS];
	if (!st_codebook_generate(&book, c->bits))
		return st_fail(err, ST_ERR_LIMIT, "the codebook did not converge");
	for (unsigned i = 0; i < book.n; i++)
		levels[i] = book.level_f32[i];
	struct step s = { .c = c, .observed = observed, .n = (size_t)p->num_heads * p->head_dim, .q_f16 = r->exec.q_f16,
		.physical = r->exec.visibility == ST_TQ_PHYSICAL, .threads = r->exec.threads,
		.decode = { .bits = c->bits, .levels = levels, .signs = c->signs, .fwht = true,
		            .factor = p->head_dim == 512 ? 1 / p->scale_factor_d512 : 1 / sqrt((double)p->head_dim) } };
	struct table t = { 0 };
	const struct hypothesis **order = NULL;
	enum st_status st = ST_OK;
	if (!alloc_scratch(&s)) {
		st = st_fail(err, ST_ERR_NOMEM, "out of memory");
		goto out;
	}
	uint64_t bad = 0;
	for (size_t i = 0; i < s.n; i++)
		bad += !isfinite(observed[i]);
	json_t *j = json_object(), *list = json_array();
	st_json_put(r->json, "diagnosis", j);
	st_json_put(j, "candidates", list);
	st_json_put(j, "nonfinite", json_integer((json_int_t)bad));
	if (bad) {
		st_json_put(j, "verdict", json_string("fault"));
		st_json_put(j, "cause", json_pack("{s:s,s:s}", "code", "numeric.nan", "confidence", "confirmed"));
		fprintf(r->text, "verdict: fault - numeric.nan: %llu of %zu values are NaN or infinite\n", (unsigned long long)bad, s.n);
		r->exit_status = 2;
		goto out;
	}
	double floor;
	evaluate(&s, &(struct edit){ 0 });
	const double before = residual(&s);
	ST_TRY_OUT(arithmetic_floor(r, c, &s, &floor, err));
	fprintf(r->text, "observed output against the declared step in f64: nrmse %.3e, floor of f32 arithmetic %.1e\n", before, floor);
	st_json_put(j, "residual", st_json_real(before));
	st_json_put(j, "floor", st_json_real(floor));
	if (before <= floor) {
		st_json_put(j, "verdict", json_string("match"));
		st_json_put(j, "cause", NULL);
		fprintf(r->text, "verdict: match\n");
		goto out;
	}
	const struct hypothesis *hit = search(&s, &t, floor);
	order = st_alloc_array(t.n ? t.n : 1, sizeof *order);
	if (t.failed || !order) {
		st = st_fail(err, ST_ERR_NOMEM, "out of memory");
		goto out;
	}
	for (size_t i = 0; i < t.n; i++)
		order[i] = &t.h[i];
	qsort(order, t.n, sizeof *order, by_residual);
	const struct hypothesis *best = hit ? hit : t.n ? order[0] : NULL;
	const char *confidence = hit ? "confirmed" : best && best->residual <= 0.1 * before ? "likely" : "none";
	const bool explained = strcmp(confidence, "none") != 0;
	const char *verdict = explained && is_noise(best) ? "noise" : explained || before > 0.01 ? "fault" : "undecided";
	st_json_put(j, "verdict", json_string(verdict));
	json_t *cause = cause_json(explained ? best : NULL, confidence, before, floor), *same = equivalents(&t, best, floor);
	st_json_put(j, "cause", cause);
	st_json_put(cause, "equivalent", same);
	for (size_t i = 0; i < t.n && i < 5; i++)
		json_array_append_new(list, json_pack("{s:s,s:s,s:o}", "code", order[i]->code, "text", order[i]->text, "residual_after",
		                                         st_json_real(order[i]->residual)));
	if (explained)
		fprintf(r->text, "cause: %s (%s) - %s\n", best->code, confidence, best->text);
	if (explained && best->parameter)
		fprintf(r->text, "       %s = %.9g\n", best->parameter, best->value);
	if (explained)
		fprintf(r->text, "       applied to this capture, the residual falls from %.3e to %.3e\n", before, best->residual);
	for (size_t i = 0; i < json_array_size(same); i++)
		fprintf(r->text, "       the same output follows from %s - %s\n", json_string_value(json_object_get(json_array_get(same, i), "code")),
		        json_string_value(json_object_get(json_array_get(same, i), "text")));
	for (size_t i = 0; !explained && i < t.n && i < 3; i++)
		fprintf(r->text, "candidate: %s leaves %.3e - %s\n", order[i]->code, order[i]->residual, order[i]->text);
	fprintf(r->text, "verdict: %s%s\n", verdict, explained ? "" : " - unexplained: none of the known mistakes reproduces this output");
	if (strcmp(verdict, "noise"))
		r->exit_status = 2;
out:
	free_scratch(&s);
	free(t.h);
	free(order);
	return st;
}
