/* diagnose_list.c - the mistakes that are known, each as an edit of the step. */
#include "turboquant/diagnose.h"

#include "base/mem.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

struct hypothesis *st_hypothesis_add(struct table *t, enum st_cause_code code, const char *text)
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

struct hypothesis *st_hypothesis_add_value(struct table *t, enum st_cause_code code, enum st_param_name parameter,
                                           double value, const char *text)
{
	struct hypothesis *h = st_hypothesis_add(t, code, text);
	h->parameter = parameter;
	h->value = value;
	return h;
}

void st_list_mistakes(const struct step *s, struct table *t)
{
	const struct st_tq_params *p = &s->c->p;
	const uint32_t d = p->head_dim, cap = p->kv_capacity, len = p->kv_seq_len, H = p->num_heads,
		       G = p->num_kv_heads;
	const bool declared = s->decode.signs;

	if (!s->q_f16)
		st_hypothesis_add(t, ST_CAUSE_NUMERIC_LOW_PRECISION, "the query was rounded to f16 before the scores")
			->e.round = ROUND_F16;
	st_hypothesis_add(t, ST_CAUSE_NUMERIC_LOW_PRECISION, "the query was rounded to bf16 before the scores")
		->e.round = ROUND_BF16;

	st_hypothesis_add(t, ST_CAUSE_NUMERIC_LOW_PRECISION, "decoded keys and values were rounded to f16")
		->e.kv_round = ROUND_F16;
	st_hypothesis_add(t, ST_CAUSE_NUMERIC_LOW_PRECISION, "decoded keys and values were rounded to bf16")
		->e.kv_round = ROUND_BF16;
	struct hypothesis *h = st_hypothesis_add(t, ST_CAUSE_NUMERIC_LOW_PRECISION,
	                                         "the query and decoded keys and values were rounded to bf16");
	h->e.round = h->e.kv_round = ROUND_BF16;

	h = st_hypothesis_add(t, ST_CAUSE_CACHE_QUANTISER,
	                      declared ? "D1 signs are on the cache, not on the query and the output"
	                               : "D1 signs are on the query and the output, not on the cache");
	h->e.q_signs = h->e.out_signs = true;
	st_hypothesis_add(t, ST_CAUSE_CACHE_QUANTISER,
	                  declared ? "D1 signs are missing on the query" : "D1 signs are on the query alone")
		->e.q_signs = true;
	st_hypothesis_add(t, ST_CAUSE_CACHE_QUANTISER,
	                  declared ? "D1 signs are not undone on the output" : "D1 signs are on the output alone")
		->e.out_signs = true;
	st_hypothesis_add(t, ST_CAUSE_CACHE_QUANTISER, "the query was not transformed (FWHT on the cache side only)")
		->e.q_plain = true;
	st_hypothesis_add(t, ST_CAUSE_CACHE_QUANTISER, "the output was not transformed back (inverse FWHT missing)")
		->e.out_plain = true;
	h = st_hypothesis_add(t, ST_CAUSE_CACHE_QUANTISER,
	                      "neither query nor output were transformed (FWHT on the cache side only)");
	h->e.q_plain = h->e.out_plain = true;
	if (s->decode.bits == 4) {
		h = st_hypothesis_add(
			t, ST_CAUSE_CACHE_QUANTISER,
			"nibbles are swapped in keys and values: the even coordinate was taken from the high half");
		h->e.nibbles_k = h->e.nibbles_v = true;
		st_hypothesis_add(t, ST_CAUSE_CACHE_QUANTISER, "nibbles are swapped in the keys")->e.nibbles_k = true;
		st_hypothesis_add(t, ST_CAUSE_CACHE_QUANTISER, "nibbles are swapped in the values")->e.nibbles_v = true;
	}
	if (d == 512) {
		st_hypothesis_add(t, ST_CAUSE_CACHE_QUANTISER, "the two norms of a row are exchanged")->e.norm_block =
			ST_NORM_SWAPPED;
		st_hypothesis_add(t, ST_CAUSE_CACHE_QUANTISER, "both halves of a row use the first norm")
			->e.norm_block = ST_NORM_FIRST;
		st_hypothesis_add(t, ST_CAUSE_CACHE_QUANTISER, "both halves of a row use the second norm")
			->e.norm_block = ST_NORM_SECOND;
	}
	st_hypothesis_add(t, ST_CAUSE_CACHE_QUANTISER, "the norms of keys and values are exchanged")->e.norms_crossed =
		true;
	const double root = sqrt((double)d),
		     factors[] = { 1,  1 / root, root, 1 / (double)d,       1.0 / 16,
		                   16, 0.5,      2,    0.70710678118654752, 1.4142135623730951 };
	for (size_t i = 0; i < sizeof factors / sizeof *factors; i++) {
		if (fabs(factors[i] / s->decode.factor - 1) < 1e-9)
			continue;
		char text[160];
		snprintf(text, sizeof text, "a centroid was scaled by norm x %.6g instead of norm x %.6g", factors[i],
		         s->decode.factor);
		h = d == 512 ? st_hypothesis_add_value(t, ST_CAUSE_CACHE_QUANTISER, ST_PARAM_SCALE_FACTOR_D512,
		                                       1 / factors[i], text)
		             : st_hypothesis_add_value(t, ST_CAUSE_CACHE_QUANTISER, ST_PARAM_FACTOR, factors[i], text);
		h->e.factor = factors[i];
	}

	if (p->mask_type == ST_TQ_MASK_SLIDING) {
		st_hypothesis_add(t, ST_CAUSE_ATTN_WINDOW,
		                  "the window counts physical rows instead of chronological positions")
			->e.window = WINDOW_BY_ROW;
		st_hypothesis_add(t, ST_CAUSE_ATTN_WINDOW, "the sliding window is not applied")->e.window = WINDOW_NONE;
		st_hypothesis_add_value(t, ST_CAUSE_ATTN_WINDOW, ST_PARAM_SLIDING_WINDOW, p->sliding_window + 1.0,
		                        "the window is one row too long")
			->e.window_delta = 1;
		st_hypothesis_add_value(t, ST_CAUSE_ATTN_WINDOW, ST_PARAM_SLIDING_WINDOW, p->sliding_window - 1.0,
		                        "the window is one row too short")
			->e.window_delta = -1;
	}
	const struct {
		int64_t delta;
		const char *text;
	} starts[] = {
		{ -1, "the ring starts one row early: at the write position instead of the row after it" },
		{ 1, "the ring starts one row late" },
		{ -(int64_t)p->ring_start, "the ring start is taken as 0" },
		{ -2, "the ring starts two rows early" },
		{ 2, "the ring starts two rows late" },
		{ len, "the ring start is taken from the end of the sequence" },
	};
	for (size_t i = 0; i < sizeof starts / sizeof *starts; i++) {
		if (starts[i].delta % cap == 0)
			continue;
		int64_t at = (((int64_t)p->ring_start + starts[i].delta) % cap + cap) % cap;
		st_hypothesis_add_value(t, ST_CAUSE_CACHE_RING_START, ST_PARAM_RING_START, (double)at, starts[i].text)
			->e.ring_delta = starts[i].delta;
	}
	st_hypothesis_add(t, ST_CAUSE_CACHE_POSITION,
	                  s->physical ? "the whole ring is read, not only physical rows below the sequence length"
	                              : "only physical rows below the sequence length are read, so the wrapped part of "
	                                "the ring is lost")
		->e.physical = true;
	if (!s->physical && p->mask_type == ST_TQ_MASK_SLIDING && p->sliding_window < len) {
		h = st_hypothesis_add(
			t, ST_CAUSE_ATTN_WINDOW,
			"window and sequence both count physical rows: the last ones of rows 0 to the sequence length");
		h->e.window = WINDOW_BY_ROW;
		h->e.physical = true;
	}

	if (p->softcap > 0)
		st_hypothesis_add(t, ST_CAUSE_ATTN_SOFTCAP, "the soft-cap is missing")->e.softcap = -1;
	const double caps[] = { 20, 30, 50 };
	for (size_t i = 0; i < sizeof caps / sizeof *caps; i++)
		if (caps[i] != p->softcap)
			st_hypothesis_add_value(t, ST_CAUSE_ATTN_SOFTCAP, ST_PARAM_SOFTCAP, caps[i],
			                        p->softcap > 0 ? "the soft-cap has another value"
			                                       : "a soft-cap was applied")
				->e.softcap = caps[i];
	const double scales[] = { 1, 1 / root, 1 / (double)d, p->scale * p->scale, p->scale * root, p->scale / root };
	for (size_t i = 0; i < sizeof scales / sizeof *scales; i++)
		if (scales[i] != 0 && fabs(scales[i] / p->scale - 1) > 1e-6)
			st_hypothesis_add_value(t, ST_CAUSE_ATTN_SCALE, ST_PARAM_SCALE, scales[i],
			                        "the scores have another scale")
				->e.scale = scales[i];
	if (G > 1) {
		if (H != G)
			st_hypothesis_add(t, ST_CAUSE_ATTN_GQA_MAPPING,
			                  "query head h reads key/value head h mod num_kv_heads instead of h / "
			                  "(num_heads / num_kv_heads)")
				->e.map = MAP_MODULO;
		st_hypothesis_add(t, ST_CAUSE_ATTN_GQA_MAPPING, "key/value heads are read in reverse order")->e.map =
			MAP_REVERSED;
		st_hypothesis_add(t, ST_CAUSE_ATTN_GQA_MAPPING, "every query head reads key/value head 0")->e.map =
			MAP_FIRST;
	}
	st_hypothesis_add(t, ST_CAUSE_ATTN_KV_SWAPPED, "keys and values are exchanged")->e.kv_swapped = true;

	/* Rows past the end: a few, up to a tile's end, or all there are. */
	const uint32_t left = cap - len;
	st_hypothesis_add(t, ST_CAUSE_ATTN_MASK_OFF_BY_ONE, "the newest row is not seen")->e.extra = -1;
	const uint32_t tiles[] = { 8, 16, 32, 64, 128, 256 };
	uint32_t last = 0;
	for (uint32_t k = 1; k <= 4 && k <= left; k++) {
		st_hypothesis_add_value(t, ST_CAUSE_CACHE_POSITION, ST_PARAM_ROWS_BEYOND, k,
		                        "rows beyond the sequence are read")
			->e.extra = (int32_t)k;
		last = k;
	}
	for (size_t i = 0; i < sizeof tiles / sizeof *tiles; i++) {
		uint32_t k = (tiles[i] - len % tiles[i]) % tiles[i];
		if (k > last && k <= left) {
			st_hypothesis_add_value(t, ST_CAUSE_CACHE_POSITION, ST_PARAM_ROWS_BEYOND, k,
			                        "rows beyond the sequence are read, up to the end of a tile")
				->e.extra = (int32_t)k;
			last = k;
		}
	}
	if (left > last)
		st_hypothesis_add_value(t, ST_CAUSE_CACHE_POSITION, ST_PARAM_ROWS_BEYOND, left,
		                        "the whole capacity is read, not only the sequence")
			->e.extra = (int32_t)left;
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
