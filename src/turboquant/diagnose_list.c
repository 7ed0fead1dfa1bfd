/* diagnose_list.c - the mistakes that are known, each as an edit of the step. */
#include "turboquant/diagnose.h"

#include "base/mem.h"

#include <math.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

struct hypothesis *st_hypothesis_add(struct table *t, enum st_cause_code code, const char *text,
                                     enum st_param_name parameter, double value, struct edit e)
{
	static struct hypothesis sink;
	const bool ok = st_grow((void **)&t->h, &t->cap, t->n + 1, sizeof *t->h);
	struct hypothesis *h = ok ? &t->h[t->n++] : &sink;
	t->failed |= !ok;
	*h = (struct hypothesis){ .code = code, .parameter = parameter, .value = value, .e = e };
	st_hypothesis_say(h, "%s", text);
	return h;
}

void st_hypothesis_say(struct hypothesis *h, const char *fmt, ...)
{
	va_list ap;
	const size_t len = strlen(h->text);
	va_start(ap, fmt);
	vsnprintf(h->text + len, sizeof h->text - len, fmt, ap);
	va_end(ap);
}

void st_hypothesis_say_head(struct hypothesis *h)
{
	if (h->e.one_head)
		st_hypothesis_say(h, ", for key/value head %u alone", h->e.kv_head);
}

/* ---- mistakes whose values depend on the capture ---- */

static void factors(const struct step *s, struct table *t)
{
	const uint32_t d = s->c->p.head_dim;
	const double root = sqrt((double)d), value[] = { 1,  1 / root, root, 1 / (double)d,       1.0 / 16,
		                                         16, 0.5,      2,    0.70710678118654752, 1.4142135623730951 };
	for (size_t i = 0; i < sizeof value / sizeof *value; i++)
		if (!(fabs(value[i] / s->decode.factor - 1) < 1e-9))
			st_hypothesis_say(st_hypothesis_add(t, ST_CAUSE_CACHE_QUANTISER, "",
			                                    d == 512 ? ST_PARAM_SCALE_FACTOR_D512 : ST_PARAM_FACTOR,
			                                    d == 512 ? 1 / value[i] : value[i],
			                                    (struct edit){ .factor = value[i] }),
			                  "a centroid was scaled by norm x %.6g instead of norm x %.6g", value[i],
			                  s->decode.factor);
}

static void windows(const struct step *s, struct table *t)
{
	const double w = s->c->p.sliding_window;
	st_hypothesis_add(t, ST_CAUSE_ATTN_WINDOW, "the window is one row too long", ST_PARAM_SLIDING_WINDOW, w + 1,
	                  (struct edit){ .window_delta = 1 });
	st_hypothesis_add(t, ST_CAUSE_ATTN_WINDOW, "the window is one row too short", ST_PARAM_SLIDING_WINDOW, w - 1,
	                  (struct edit){ .window_delta = -1 });
}

static void ring_starts(const struct step *s, struct table *t)
{
	const struct st_tq_params *p = &s->c->p;
	const int64_t cap = p->kv_capacity, own = p->ring_start;
	const struct {
		int64_t delta;
		const char *text;
	} starts[] = {
		{ -1, "the ring starts one row early: at the write position instead of the row after it" },
		{ 1, "the ring starts one row late" },
		{ -own, "the ring start is taken as 0" },
		{ -2, "the ring starts two rows early" },
		{ 2, "the ring starts two rows late" },
		{ p->kv_seq_len, "the ring start is taken from the end of the sequence" },
	};
	for (size_t i = 0; i < sizeof starts / sizeof *starts; i++)
		if (starts[i].delta % cap)
			st_hypothesis_add(t, ST_CAUSE_CACHE_RING_START, starts[i].text, ST_PARAM_RING_START,
			                  (double)(((own + starts[i].delta) % cap + cap) % cap),
			                  (struct edit){ .ring_delta = starts[i].delta });
}

static void physical(const struct step *s, struct table *t)
{
	const struct st_tq_params *p = &s->c->p;
	st_hypothesis_add(t, ST_CAUSE_CACHE_POSITION,
	                  s->physical ? "the whole ring is read, not only physical rows below the sequence length"
	                              : "only physical rows below the sequence length are read, so the wrapped part of "
	                                "the ring is lost",
	                  ST_PARAM_NONE, 0, (struct edit){ .physical = true });
	if (!s->physical && p->mask_type == ST_TQ_MASK_SLIDING && p->sliding_window < p->kv_seq_len)
		st_hypothesis_add(
			t, ST_CAUSE_ATTN_WINDOW,
			"window and sequence both count physical rows: the last ones of rows 0 to the sequence length",
			ST_PARAM_NONE, 0, (struct edit){ .window = WINDOW_BY_ROW, .physical = true });
}

static void softcaps_and_scales(const struct step *s, struct table *t)
{
	const struct st_tq_params *p = &s->c->p;
	const double root = sqrt((double)p->head_dim), own = p->scale, caps[] = { 20, 30, 50 },
		     scales[] = { 1, 1 / root, 1 / (double)p->head_dim, own * own, own * root, own / root };
	if (p->softcap > 0)
		st_hypothesis_add(t, ST_CAUSE_ATTN_SOFTCAP, "the soft-cap is missing", ST_PARAM_NONE, 0,
		                  (struct edit){ .softcap = -1 });
	for (size_t i = 0; i < sizeof caps / sizeof *caps; i++)
		if (caps[i] != p->softcap)
			st_hypothesis_add(t, ST_CAUSE_ATTN_SOFTCAP,
			                  p->softcap > 0 ? "the soft-cap has another value" : "a soft-cap was applied",
			                  ST_PARAM_SOFTCAP, caps[i], (struct edit){ .softcap = caps[i] });
	for (size_t i = 0; i < sizeof scales / sizeof *scales; i++)
		if (scales[i] != 0 && fabs(scales[i] / own - 1) > 1e-6)
			st_hypothesis_add(t, ST_CAUSE_ATTN_SCALE, "the scores have another scale", ST_PARAM_SCALE,
			                  scales[i], (struct edit){ .scale = scales[i] });
}

/* Rows past the end: a few, up to a tile's end, or all there are. */
static void rows_beyond(const struct step *s, struct table *t)
{
	const uint32_t len = s->c->p.kv_seq_len, left = s->c->p.kv_capacity - len;
	static const uint32_t tiles[] = { 1, 2, 3, 4, 8, 16, 32, 64, 128, 256, UINT32_MAX };
	uint32_t last = 0;
	for (size_t i = 0; i < sizeof tiles / sizeof *tiles; i++) {
		const bool few = tiles[i] <= 4, all = tiles[i] == UINT32_MAX;
		const uint32_t k = few ? tiles[i] : all ? left : (tiles[i] - len % tiles[i]) % tiles[i];
		if (k <= last || k > left)
			continue;
		st_hypothesis_add(t, ST_CAUSE_CACHE_POSITION,
		                  few   ? "rows beyond the sequence are read"
		                  : all ? "the whole capacity is read, not only the sequence"
		                        : "rows beyond the sequence are read, up to the end of a tile",
		                  ST_PARAM_ROWS_BEYOND, k, (struct edit){ .extra = (int32_t)k });
		last = k;
	}
}

/* ---- the list ---- */

/* What must hold of the capture for a mistake to be possible. */
enum { QUERY_F32 = 1, BITS_4 = 2, D_512 = 4, SLIDING = 8, KV_HEADS = 16, GROUPS = 32, SIGNS = 64, NO_SIGNS = 128 };

/* Simple ones first: of two that explain the output equally, the first is reported. */
/* clang-format off */
static const struct mistake {
	unsigned when;
	enum st_cause_code code;
	const char *text;
	struct edit e;
	void (*many)(const struct step *s, struct table *t); /* adds several instead */
} mistakes[] = {
	{ QUERY_F32, ST_CAUSE_NUMERIC_LOW_PRECISION, "the query was rounded to f16 before the scores", { .round = ROUND_F16 }, NULL },
	{ 0, ST_CAUSE_NUMERIC_LOW_PRECISION, "the query was rounded to bf16 before the scores", { .round = ROUND_BF16 }, NULL },
	{ 0, ST_CAUSE_NUMERIC_LOW_PRECISION, "decoded keys and values were rounded to f16", { .kv_round = ROUND_F16 }, NULL },
	{ 0, ST_CAUSE_NUMERIC_LOW_PRECISION, "decoded keys and values were rounded to bf16", { .kv_round = ROUND_BF16 }, NULL },
	{ 0, ST_CAUSE_NUMERIC_LOW_PRECISION, "the query and decoded keys and values were rounded to bf16",
	  { .round = ROUND_BF16, .kv_round = ROUND_BF16 }, NULL },
	{ SIGNS, ST_CAUSE_CACHE_QUANTISER, "D1 signs are on the cache, not on the query and the output",
	  { .q_signs = true, .out_signs = true }, NULL },
	{ SIGNS, ST_CAUSE_CACHE_QUANTISER, "D1 signs are missing on the query", { .q_signs = true }, NULL },
	{ SIGNS, ST_CAUSE_CACHE_QUANTISER, "D1 signs are not undone on the output", { .out_signs = true }, NULL },
	{ NO_SIGNS, ST_CAUSE_CACHE_QUANTISER, "D1 signs are on the query and the output, not on the cache",
	  { .q_signs = true, .out_signs = true }, NULL },
	{ NO_SIGNS, ST_CAUSE_CACHE_QUANTISER, "D1 signs are on the query alone", { .q_signs = true }, NULL },
	{ NO_SIGNS, ST_CAUSE_CACHE_QUANTISER, "D1 signs are on the output alone", { .out_signs = true }, NULL },
	{ 0, ST_CAUSE_CACHE_QUANTISER, "the query was not transformed (FWHT on the cache side only)", { .q_plain = true }, NULL },
	{ 0, ST_CAUSE_CACHE_QUANTISER, "the output was not transformed back (inverse FWHT missing)", { .out_plain = true }, NULL },
	{ 0, ST_CAUSE_CACHE_QUANTISER, "neither query nor output were transformed (FWHT on the cache side only)",
	  { .q_plain = true, .out_plain = true }, NULL },
	{ BITS_4, ST_CAUSE_CACHE_QUANTISER,
	  "nibbles are swapped in keys and values: the even coordinate was taken from the high half",
	  { .nibbles_k = true, .nibbles_v = true }, NULL },
	{ BITS_4, ST_CAUSE_CACHE_QUANTISER, "nibbles are swapped in the keys", { .nibbles_k = true }, NULL },
	{ BITS_4, ST_CAUSE_CACHE_QUANTISER, "nibbles are swapped in the values", { .nibbles_v = true }, NULL },
	{ D_512, ST_CAUSE_CACHE_QUANTISER, "the two norms of a row are exchanged", { .norm_block = ST_NORM_SWAPPED }, NULL },
	{ D_512, ST_CAUSE_CACHE_QUANTISER, "both halves of a row use the first norm", { .norm_block = ST_NORM_FIRST }, NULL },
	{ D_512, ST_CAUSE_CACHE_QUANTISER, "both halves of a row use the second norm", { .norm_block = ST_NORM_SECOND }, NULL },
	{ 0, ST_CAUSE_CACHE_QUANTISER, "the norms of keys and values are exchanged", { .norms_crossed = true }, NULL },
	{ .many = factors },
	{ SLIDING, ST_CAUSE_ATTN_WINDOW, "the window counts physical rows instead of chronological positions",
	  { .window = WINDOW_BY_ROW }, NULL },
	{ SLIDING, ST_CAUSE_ATTN_WINDOW, "the sliding window is not applied", { .window = WINDOW_NONE }, NULL },
	{ SLIDING, .many = windows },
	{ .many = ring_starts },
	{ .many = physical },
	{ .many = softcaps_and_scales },
	{ GROUPS, ST_CAUSE_ATTN_GQA_MAPPING,
	  "query head h reads key/value head h mod num_kv_heads instead of h / (num_heads / num_kv_heads)",
	  { .map = MAP_MODULO }, NULL },
	{ KV_HEADS, ST_CAUSE_ATTN_GQA_MAPPING, "key/value heads are read in reverse order", { .map = MAP_REVERSED }, NULL },
	{ KV_HEADS, ST_CAUSE_ATTN_GQA_MAPPING, "every query head reads key/value head 0", { .map = MAP_FIRST }, NULL },
	{ 0, ST_CAUSE_ATTN_KV_SWAPPED, "keys and values are exchanged", { .kv_swapped = true }, NULL },
	{ 0, ST_CAUSE_ATTN_MASK_OFF_BY_ONE, "the newest row is not seen", { .extra = -1 }, NULL },
	{ .many = rows_beyond },
};
/* clang-format on */

void st_list_mistakes(const struct step *s, struct table *t)
{
	const struct st_tq_params *p = &s->c->p;
	const bool kv_heads = p->num_kv_heads > 1;
	const unsigned holds = (s->q_f16 ? 0 : QUERY_F32) | (s->decode.bits == 4 ? BITS_4 : 0)
	                     | (p->head_dim == 512 ? D_512 : 0) | (p->mask_type == ST_TQ_MASK_SLIDING ? SLIDING : 0)
	                     | (kv_heads ? KV_HEADS : 0) | (kv_heads && p->num_heads != p->num_kv_heads ? GROUPS : 0)
	                     | (s->decode.signs ? SIGNS : NO_SIGNS);
	for (const struct mistake *m = mistakes; m < mistakes + sizeof mistakes / sizeof *mistakes; m++) {
		if (m->when & ~holds)
			continue;
		if (m->many)
			m->many(s, t);
		else
			st_hypothesis_add(t, m->code, m->text, ST_PARAM_NONE, 0, m->e);
	}
}

void st_hypotheses_release(struct table *t)
{
	for (size_t i = 0; i < t->n_foreign; i++) {
		free(t->foreign[i].v);
		free(t->foreign[i].score);
	}
	free(t->h);
	memset(t, 0, sizeof *t);
}
