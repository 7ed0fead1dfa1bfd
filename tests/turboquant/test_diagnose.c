/*
 * diagnosis: every known mistake planted in a naive engine, each to be named and confirmed; and sound engines, which
 * must stay clean.
 */
#include "captures.h"

/* Of half the heads, but where there are few. */
static const char *capture(const char *kind, bool signs) { return capture_of(kind, signs, kind[0] != 'd'); }

/* ---- a plain engine in f32, and its mistakes ---- */

struct engine {
	bool flip_q_signs, flip_out_signs, no_fwht_q, no_fwht_out, swap_nibbles, swap_kv, physical, window_by_row,
		no_window, no_cap;
	bool q_f16, q_bf16;
	int norm_block;                           /* 1: exchanged, 2: first, 3: second */
	double factor;                            /* times the right one; 0 = 1 */
	int ring_delta, extra, window_delta, map; /* map 1: h mod G, 2: reversed, 3: first */
	int zero_row, copy_row;                   /* chronological position + 1; copy of the one before */
	int stale_row, stale_from, stale_head;    /* position + 1; physical row + 1 of what it holds, 0 = of another
	                                             sequence; head + 1, 0 = all */
	double scale;                             /* times the right one; 0 = 1 */
	double cap;                               /* soft-cap; 0 = the right one */
	double k_gain, v_gain;                    /* of the keys, values; 0 = 1 */
	int gain_head;                            /* head + 1, 0 = all */
	double head_gain[2];                      /* of the whole output of query heads 0 and 1; 0 = 1 */
	double offset;                            /* added to coordinate 7 of both */
	double noise;
	int out_bits, kv_bits; /* bits of significand that the output, or decoded rows, keep; 0 = all */
};

static void hadamard_f32(float *x, uint32_t d)
{
	double a[512], b[512];
	for (uint32_t j = 0; j < d; j++)
		a[j] = x[j];
	naive_hadamard(a, b, d);
	for (uint32_t j = 0; j < d; j++)
		x[j] = (float)b[j];
}

/* So many bits of significand, ties to even: 11 are f16 wherever it is normal, 8 are bf16. */
static float keep_bits(float x, int bits)
{
	int e;
	float m = frexpf(x, &e);
	/* f16 counts in 2^-24 below 2^-14. */
	int unit = bits == 11 && e - bits < -24 ? -24 : e - bits;
	return ldexpf(rintf(ldexpf(m, e - unit)), unit);
}

static void engine_row(const struct st_capture *c, const struct engine *m, bool v, size_t row, float *y)
{
	const uint32_t d = c->p.head_dim, nb = d == 512 ? 2 : 1;
	const uint8_t *codes = c->kv.codes[v] + row * (d / 2);
	const float *norms = c->kv.norms[v] + row * nb;
	for (uint32_t j = 0; j < d; j++) {
		int high = (j & 1) ^ m->swap_nibbles, code = high ? codes[j / 2] >> 4 : codes[j / 2] & 15;
		uint32_t b = nb == 1            ? 0
		           : m->norm_block == 1 ? 1 - j / 256
		           : m->norm_block == 2 ? 0
		           : m->norm_block == 3 ? 1
		                                : j / 256;
		double f = (d == 512 ? 1 / c->p.scale_factor_d512 : 1 / sqrt((double)d))
		         * (m->factor > 0 ? m->factor : 1);
		y[j] = (float)levels4[code] * (norms[b] * (float)f);
		y[j] = m->kv_bits ? keep_bits(y[j], m->kv_bits) : y[j];
	}
}

/* What another sequence left, packed like any row: the same for every query head of a key/value head. */
static void another_sequence(uint32_t g, bool v, uint32_t d, float *y)
{
	uint64_t x = 0x5EED0 + 2 * g + v;
	for (uint32_t j = 0; j < d; j++) {
		float sum = -6;
		for (int i = 0; i < 12; i++) {
			x = x * 6364136223846793005u + 1442695040888963407u;
			sum += (float)(x >> 40) * 0x1p-24f;
		}
		int code = 0;
		while (code < 15 && sum > (levels4[code] + levels4[code + 1]) / 2)
			code++;
		y[j] = (float)levels4[code] * (j < 256 ? 0.91f : 1.07f);
	}
}

static void engine_run(const struct st_capture *c, const struct engine *m, float *out)
{
	const struct st_tq_params *p = &c->p;
	const uint32_t d = p->head_dim, cap = p->kv_capacity, G = p->num_kv_heads;
	float *k = malloc((size_t)cap * d * 4), *v = malloc((size_t)cap * d * 4);
	for (uint32_t h = 0; h < p->num_heads; h++) {
		const uint32_t group = p->num_heads / G;
		uint32_t g = m->map == 1 ? h % G : m->map == 2 ? G - 1 - h / group : m->map == 3 ? 0 : h / group, n = 0;
		float q[512], s[2048], top = -INFINITY, total = 0, *y = out + (size_t)h * d;
		for (uint32_t j = 0; j < d; j++)
			q[j] = c->q[(size_t)h * d + j] * (c->codec.signs != m->flip_q_signs ? st_tq_sign(j) : 1);
		if (!m->no_fwht_q)
			hadamard_f32(q, d);
		for (uint32_t j = 0; j < d && (m->q_f16 || m->q_bf16); j++)
			q[j] = keep_bits(q[j], m->q_f16 ? 11 : 8);
		int64_t first = 0;
		if (p->mask_type == 2 && !m->no_window && !m->window_by_row)
			first = (int64_t)p->kv_seq_len - p->sliding_window - m->window_delta;
		for (int64_t i = first > 0 ? first : 0; i < (int64_t)p->kv_seq_len + m->extra; i++) {
			size_t row = (size_t)((p->ring_start + m->ring_delta + i + cap) % cap);
			if (m->physical && row >= p->kv_seq_len)
				continue;
			if (m->window_by_row && (int64_t)row < (int64_t)p->kv_seq_len - p->sliding_window)
				continue;
			size_t from = (size_t)g * cap + (i == m->copy_row - 1 ? (row + cap - 1) % cap : row);
			engine_row(c, m, m->swap_kv, from, k + (size_t)n * d);
			engine_row(c, m, !m->swap_kv, from, v + (size_t)n * d);
			if (i == m->zero_row - 1) {
				memset(k + (size_t)n * d, 0, d * 4);
				memset(v + (size_t)n * d, 0, d * 4);
			}
			if (i == m->stale_row - 1 && (!m->stale_head || g == (uint32_t)m->stale_head - 1)) {
				for (int x = 0; x < 2; x++) {
					float *to = (x ? v : k) + (size_t)n * d;
					if (m->stale_from)
						engine_row(c, m, x, (size_t)g * cap + (size_t)m->stale_from - 1, to);
					else
						another_sequence(g, x, d, to);
				}
			}
			for (uint32_t j = 0; j < d && (!m->gain_head || g == (uint32_t)m->gain_head - 1); j++) {
				k[(size_t)n * d + j] *= m->k_gain > 0 ? (float)m->k_gain : 1;
				v[(size_t)n * d + j] *= m->v_gain > 0 ? (float)m->v_gain : 1;
			}
			s[n] = 0;
			for (uint32_t j = 0; j < d; j++)
				s[n] += q[j] * k[(size_t)n * d + j];
			s[n] *= (float)(p->scale * (m->scale > 0 ? m->scale : 1));
			if (p->softcap > 0 && !m->no_cap) {
				float limit = m->cap > 0 ? (float)m->cap : (float)p->softcap;
				s[n] = limit * tanhf(s[n] / limit);
			}
			top = fmaxf(top, s[n]);
			n++;
		}
		memset(y, 0, d * 4);
		for (uint32_t i = 0; i < n; i++) {
			float w = expf(s[i] - top);
			total += w;
			for (uint32_t j = 0; j < d; j++)
				y[j] += w * v[(size_t)i * d + j];
		}
		for (uint32_t j = 0; j < d; j++)
			y[j] /= total;
		if (!m->no_fwht_out)
			hadamard_f32(y, d);
		for (uint32_t j = 0; j < d; j++)
			y[j] *= c->codec.signs != m->flip_out_signs ? st_tq_sign(j) : 1;
		for (uint32_t j = 0; j < d && h < 2 && m->head_gain[h] != 0; j++)
			y[j] *= (float)m->head_gain[h];
		y[7] += h < 2 ? (float)m->offset : 0;
		for (uint32_t j = 0; j < d && m->noise > 0; j++)
			y[j] *= 1 + (float)m->noise * rnd_normal();
		for (uint32_t j = 0; j < d && m->out_bits; j++)
			y[j] = keep_bits(y[j], m->out_bits);
	}
	free(k), free(v);
}

/* Run the engine, have its output explained; the report's JSON. */
static json_t *explain(const char *manifest, const struct engine *m, const struct st_replay_options *extra,
                       int *exit_status)
{
	struct st_error err = ST_ERROR_INIT;
	struct st_capture c;
	struct st_replay_options o = extra ? *extra : (struct st_replay_options){ .signs = -1 };
	struct st_replay_report rep;
	assert_ok(st_capture_open(&c, manifest, 0, -1, ST_CPU_SCALAR, &err), &err);
	size_t n = (size_t)c.p.num_heads * c.p.head_dim;
	float *out = malloc(n * 4);
	engine_run(&c, m, out);
	write_bytes(in_folder("foreign.f32"), out, n * 4);
	free(out);
	st_capture_close(&c);
	o.mode = ST_REPLAY_SINGLESTEP;
	o.manifest = manifest;
	o.against = in_folder("foreign.f32");
	o.variation = 'A';
	assert_ok(st_replay_run(&o, &rep, &err), &err);
	*exit_status = rep.exit_status;
	json_t *j = json_loads(rep.json, JSON_REJECT_DUPLICATES, NULL);
	assert_non_null(j);
	st_replay_report_release(&rep);
	return j;
}

static const char *at(const json_t *j, const char *a, const char *b, const char *c)
{
	const json_t *x = json_object_get(json_object_get(j, a), b);
	if (c)
		x = json_object_get(x, c);
	return json_is_string(x) ? json_string_value(x) : "";
}

static void sound_engines_stay_clean(void **state)
{
	(void)state;
	static const char *const kinds[] = { "linear", "ring", "partial", "d512", "d128" };
	for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
		for (int signs = 0; signs < 2; signs++) {
			int status;
			json_t *j = explain(capture(kinds[i], signs), &(struct engine){ 0 }, NULL, &status);
			assert_string_equal(at(j, "diagnosis", "verdict", NULL), "match");
			assert_string_equal(at(j, "cache", "verdict", NULL), "ok");
			assert_true(json_is_null(json_object_get(json_object_get(j, "diagnosis"), "cause")));
			assert_int_equal(status, 0);
			json_decref(j);
		}
	}
}

static const struct plant {
	const char *what, *kind;
	bool signs;
	struct engine m;
	const char *code, *parameter;
	double value;
} plants[] = {
	{ "signs missing on query and output",
	  "linear",
	  true,
	  { .flip_q_signs = true, .flip_out_signs = true },
	  "cache.quantiser",
	  NULL,
	  0 },
	{ "signs on query and output alone",
	  "linear",
	  false,
	  { .flip_q_signs = true, .flip_out_signs = true },
	  "cache.quantiser",
	  NULL,
	  0 },
	{ "signs not undone", "linear", true, { .flip_out_signs = true }, "cache.quantiser", NULL, 0 },
	{ "query not transformed", "linear", true, { .no_fwht_q = true }, "cache.quantiser", NULL, 0 },
	{ "output not transformed", "linear", false, { .no_fwht_out = true }, "cache.quantiser", NULL, 0 },
	{ "neither transformed",
	  "d128",
	  false,
	  { .no_fwht_q = true, .no_fwht_out = true },
	  "cache.quantiser",
	  NULL,
	  0 },
	{ "nibbles swapped", "linear", true, { .swap_nibbles = true }, "cache.quantiser", NULL, 0 },
	{ "norms exchanged", "d512", true, { .norm_block = 1 }, "cache.quantiser", NULL, 0 },
	{ "first norm for both", "d512", false, { .norm_block = 2 }, "cache.quantiser", NULL, 0 },
	{ "second norm for both", "d512", false, { .norm_block = 3 }, "cache.quantiser", NULL, 0 },
	{ "scale factor 16", "d512", false, { .factor = 1.0 / 16 }, "cache.quantiser", "scale_factor_d512", 16 },
	{ "odd scale factor", "d512", true, { .factor = 1 / 1.37 }, "cache.quantiser", "scale_factor_d512", 1.37 },
	{ "sqrt(d) forgotten", "linear", false, { .factor = 16 }, "cache.quantiser", "factor", 1 },
	{ "ring start at the write position",
	  "partial",
	  true,
	  { .ring_delta = -1 },
	  "cache.ring_start",
	  "ring_start",
	  26 },
	{ "ring start one late, full ring", "ring", false, { .ring_delta = 1 }, "cache.ring_start", "ring_start", 28 },
	{ "ring start 0", "partial", false, { .ring_delta = -27 }, "cache.ring_start", "ring_start", 0 },
	{ "physical rows", "partial", false, { .physical = true }, "cache.position", NULL, 0 },
	{ "physical window", "ring", true, { .window_by_row = true }, "attn.window", NULL, 0 },
	{ "no window", "ring", false, { .no_window = true }, "attn.window", NULL, 0 },
	{ "window one too long", "ring", false, { .window_delta = 1 }, "attn.window", "sliding_window", 513 },
	{ "no soft-cap", "d512", false, { .no_cap = true }, "attn.softcap", NULL, 0 },
	{ "heads modulo", "linear", true, { .map = 1 }, "attn.gqa_mapping", NULL, 0 },
	{ "heads reversed", "d128", false, { .map = 2 }, "attn.gqa_mapping", NULL, 0 },
	{ "first head for all", "d512", false, { .map = 3 }, "attn.gqa_mapping", NULL, 0 },
	{ "keys and values exchanged", "linear", false, { .swap_kv = true }, "attn.kv_swapped", NULL, 0 },
	{ "newest row not yet written", "linear", true, { .zero_row = 200 }, "cache.slot", "position", 199 },
	{ "row 77 stale: a copy of 76", "linear", false, { .copy_row = 78 }, "cache.slot", "position", 77 },
	{ "one row beyond", "linear", false, { .extra = 1 }, "cache.position", "rows_beyond", 1 },
	{ "a tile of rows beyond", "linear", true, { .extra = 24 }, "cache.position", "rows_beyond", 24 },
	{ "all rows", "partial", false, { .extra = 768, .no_window = false }, "cache.position", "rows_beyond", 768 },
	{ "newest row not seen", "linear", false, { .extra = -1 }, "attn.mask_off_by_one", NULL, 0 },
	{ "scale 1", "linear", false, { .scale = 16 }, "attn.scale", "scale", 1 },
	{ "a scale that nobody lists", "linear", true, { .scale = 0.9 }, "attn.scale", "scale", 0.9 * 0.0625 },
	{ "a soft-cap that nobody lists", "d512", false, { .cap = 4.5 }, "attn.softcap", "softcap", 4.5 },
	{ "a scale that is hardly off", "partial", true, { .scale = 1.002 }, "attn.scale", "scale", 1.002 * 0.0625 },
	{ "values too large", "linear", false, { .v_gain = 1.002 }, "cache.quantiser", "v_gain", 1.002 },
	{ "values of one head too large",
	  "linear",
	  false,
	  { .v_gain = 1.002, .gain_head = 1 },
	  "cache.quantiser",
	  "v_gain",
	  1.002 },
	{ "values of one head too small",
	  "partial",
	  true,
	  { .v_gain = 0.75, .gain_head = 4 },
	  "cache.quantiser",
	  "v_gain",
	  0.75 },
	{ "values of one head, no group",
	  "d128",
	  true,
	  { .v_gain = 1.01, .gain_head = 2 },
	  "cache.quantiser",
	  "v_gain",
	  1.01 },
	{ "keys of one head too large",
	  "partial",
	  false,
	  { .k_gain = 1.01, .gain_head = 3 },
	  "cache.quantiser",
	  "k_gain",
	  1.01 },
	{ "a head's norms",
	  "linear",
	  true,
	  { .k_gain = 1.1, .v_gain = 1.1, .gain_head = 4 },
	  "cache.quantiser",
	  "factor",
	  1.1 / 16 },
	{ "the same, d 512",
	  "d512",
	  false,
	  { .k_gain = 2, .v_gain = 2, .gain_head = 2 },
	  "cache.quantiser",
	  "scale_factor_d512",
	  0.5 },
	{ "values of a head, f16",
	  "linear",
	  false,
	  { .v_gain = 1.01, .gain_head = 1, .q_f16 = true },
	  "cache.quantiser",
	  "v_gain",
	  1.01 },
	{ "ring start and f16",
	  "partial",
	  false,
	  { .ring_delta = -1, .q_f16 = true },
	  "cache.ring_start",
	  "ring_start",
	  26 },
};

static int64_t parameter(const json_t *j, const char *name)
{
	const json_t *x = json_object_get(
		json_object_get(json_object_get(json_object_get(j, "diagnosis"), "cause"), "parameters"), name);
	return json_is_number(x) ? (int64_t)json_number_value(x) : -1;
}

static void planted_faults_are_named(void **state)
{
	(void)state;
	for (size_t i = 0; i < sizeof plants / sizeof *plants; i++) {
		int status;
		json_t *j = explain(capture(plants[i].kind, plants[i].signs), &plants[i].m, NULL, &status);
		const json_t *cause = json_object_get(json_object_get(j, "diagnosis"), "cause");
		const char *code = at(j, "diagnosis", "cause", "code");
		if (strcmp(code, plants[i].code) || strcmp(at(j, "diagnosis", "cause", "confidence"), "confirmed"))
			fail_msg("%s: %s (%s), %s", plants[i].what, code, at(j, "diagnosis", "cause", "confidence"),
			         at(j, "diagnosis", "cause", "text"));
		assert_string_equal(at(j, "diagnosis", "verdict", NULL), "fault");
		assert_int_equal(status, 2);
		/* Confirmed means applied: the residual fell to the floor. */
		assert_true(json_real_value(json_object_get(cause, "residual_after"))
		            <= json_real_value(json_object_get(cause, "floor")));
		assert_true(json_real_value(json_object_get(cause, "residual_before"))
		            > 10 * json_real_value(json_object_get(cause, "floor")));
		if (plants[i].parameter) {
			double value = json_number_value(
				json_object_get(json_object_get(cause, "parameters"), plants[i].parameter));
			if (fabs(value - plants[i].value) > 1e-4 * fabs(plants[i].value))
				fail_msg("%s: %s = %g", plants[i].what, plants[i].parameter, value);
		}
		if (plants[i].m.gain_head)
			assert_int_equal(parameter(j, "kv_head"), plants[i].m.gain_head - 1);
		if (plants[i].m.q_f16)
			assert_string_equal(
				json_string_value(json_object_get(json_object_get(cause, "parameters"), "q_dtype")),
				"f16");
		/* The dump itself is sound in all of these. */
		assert_string_equal(at(j, "cache", "verdict", NULL), "ok");
		json_decref(j);
	}
}

/* The capture's manifest with another window, beside it. */
static const char *with_window(const char *manifest, int window)
{
	static char path[300];
	json_t *j = json_load_file(manifest, 0, NULL);
	assert_non_null(j);
	json_object_set_new(json_object_get(j, "params"), "sliding_window", json_integer(window));
	snprintf(path, sizeof path, "%.*s/window.json", (int)(strrchr(manifest, '/') - manifest), manifest);
	assert_int_equal(json_dump_file(j, path, 0), 0);
	json_decref(j);
	return path;
}

/* Existing kernels walk rows 0 to the length and count the window there: both at once where the ring is not full. */
static void physical_window_of_a_partial_ring(void **state)
{
	(void)state;
	int status;
	json_t *j = explain(with_window(capture("partial", true), 240),
	                    &(struct engine){ .physical = true, .window_by_row = true }, NULL, &status);
	assert_string_equal(at(j, "diagnosis", "cause", "code"), "attn.window");
	assert_string_equal(at(j, "diagnosis", "cause", "confidence"), "confirmed");
	assert_int_equal(status, 2);
	json_decref(j);
}

/* A stale row inside the engine, with a sound dump: its position is found, and what it holds where the capture has it.
 */
static void stale_rows_are_found(void **state)
{
	(void)state;
	static const struct {
		const char *what, *kind;
		struct engine m;
		int64_t position, holds, head;
	} cases[] = {
		{ "another position's content", "linear", { .stale_row = 41, .stale_from = 151 }, 40, 150, -1 },
		{ "a row outside the sequence", "partial", { .stale_row = 201, .stale_from = 501 }, 200, 500, -1 },
		{ "one head only", "ring", { .stale_row = 1001, .stale_from = 78, .stale_head = 4 }, 1000, 77, 3 },
		{ "another sequence", "linear", { .stale_row = 200 }, 199, -1, -1 },
		{ "another sequence, d 512", "d512", { .stale_row = 61 }, 60, -1, -1 },
		{ "another sequence, one head, f16 query",
		  "partial",
		  { .stale_row = 31, .stale_head = 3, .q_f16 = true },
		  30,
		  -1,
		  2 },
	};
	for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
		int status;
		json_t *j = explain(capture(cases[i].kind, i % 2), &cases[i].m, NULL, &status);
		if (strcmp(at(j, "diagnosis", "cause", "code"), "cache.slot")
		    || strcmp(at(j, "diagnosis", "cause", "confidence"), "confirmed"))
			fail_msg("%s: %s (%s)", cases[i].what, at(j, "diagnosis", "cause", "code"),
			         at(j, "diagnosis", "cause", "confidence"));
		assert_int_equal(parameter(j, "position"), cases[i].position);
		assert_int_equal(parameter(j, "holds_row"), cases[i].holds);
		assert_int_equal(parameter(j, "kv_head"), cases[i].head);
		assert_int_equal(status, 2);
		json_decref(j);
	}
	/* With one query head per key/value head such a row could be any: nothing may be claimed. */
	int status;
	json_t *j = explain(capture("d128", true), &(struct engine){ .stale_row = 51 }, NULL, &status);
	assert_string_equal(at(j, "diagnosis", "verdict", NULL), "fault");
	assert_string_not_equal(at(j, "diagnosis", "cause", "confidence"), "confirmed");
	json_decref(j);
}

/* Content from elsewhere in wider codes: those of one row of head 1 in another order, run by the kernel; explained by
 * the sound capture. */
static void stale_rows_of_wider_codes(void **state)
{
	(void)state;
	for (unsigned bits = 5; bits <= 8; bits += bits == 6 ? 2 : 1) {
		struct st_error err = ST_ERROR_INIT;
		struct st_replay_report rep;
		char dir[300], file[2][340], manifest[340], out[340];
		snprintf(dir, sizeof dir, "%s/wide-%u", folder, bits);
		snprintf(manifest, sizeof manifest, "%s/manifest.json", dir);
		snprintf(file[0], sizeof file[0], "%s/k_packed.u8", dir);
		snprintf(file[1], sizeof file[1], "%s/v_packed.u8", dir);
		snprintf(out, sizeof out, "%s_sdpa_out.bin", dir);
		struct st_replay_options o = { .mode = ST_REPLAY_MAKE, .make = "d512", .bits = bits, .out = dir };
		assert_ok(st_replay_run(&o, &rep, &err), &err);
		st_replay_report_release(&rep);
		o = (struct st_replay_options){ .mode = ST_REPLAY_SINGLESTEP,
			                        .manifest = manifest,
			                        .out = dir,
			                        .variation = 'A',
			                        .signs = -1,
			                        .oracles = ST_ORACLE_DEQUANT };
		for (int back = 0; back < 2; back++) {
			for (int i = 0; i < 2; i++) {
				size_t n;
				uint8_t *p = read_bytes(file[i], &n), *row = p + (128 + 60) * 512;
				for (int k = 0; k < 256; k++) {
					uint8_t keep = row[k];
					row[k] = row[511 - k];
					row[511 - k] = keep;
				}
				write_bytes(file[i], p, n);
				free(p);
			}
			assert_ok(st_replay_run(&o, &rep, &err), &err);
			json_t *j = json_loads(rep.json, 0, NULL);
			if (back) {
				assert_string_equal(at(j, "diagnosis", "cause", "code"), "cache.slot");
				assert_string_equal(at(j, "diagnosis", "cause", "confidence"), "confirmed");
				assert_int_equal(parameter(j, "position"), 60);
				assert_int_equal(parameter(j, "kv_head"), 1);
			}
			json_decref(j);
			st_replay_report_release(&rep);
			o.against = out;
		}
	}
}

/* With free content one row or another would reproduce each of these down to the floor; but it would be content that no
 * row can hold, or less simple than a factor. Query heads 0 and 1 share a key/value head. */
static void no_row_is_made_up(void **state)
{
	(void)state;
	static const struct engine cases[] = {
		{ .head_gain = { 1.002, 1.001 } },
		{ .head_gain = { 1e-20, 1e-20 } },
		{ .offset = 0.1 },
		{ .head_gain = { 1.002, 1.001 }, .q_f16 = true },
	};
	for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
		int status;
		json_t *j = explain(capture("linear", i % 2), cases + i, NULL, &status);
		if (!strcmp(at(j, "diagnosis", "cause", "code"), "cache.slot")
		    && !strcmp(at(j, "diagnosis", "cause", "confidence"), "confirmed"))
			fail_msg("case %zu: %s", i, at(j, "diagnosis", "cause", "text"));
		assert_int_equal(status, 2);
		json_decref(j);
	}
}

static void low_precision_is_noise(void **state)
{
	(void)state;
	int status;
	json_t *j = explain(capture("linear", true), &(struct engine){ .q_f16 = true }, NULL, &status);
	assert_string_equal(at(j, "diagnosis", "cause", "code"), "numeric.low_precision");
	assert_string_equal(at(j, "diagnosis", "cause", "confidence"), "confirmed");
	assert_string_equal(at(j, "diagnosis", "verdict", NULL), "noise");
	assert_int_equal(status, 0);
	/* A kernel that decodes into 16 bits; and the same with such a query. */
	static const struct engine coarse[] = { { .kv_bits = 11 },
		                                { .kv_bits = 8 },
		                                { .kv_bits = 11, .q_f16 = true },
		                                { .q_bf16 = true },
		                                { .kv_bits = 8, .q_bf16 = true } };
	for (size_t i = 0; i < sizeof coarse / sizeof *coarse; i++) {
		json_decref(j);
		j = explain(capture("partial", i % 2), coarse + i, NULL, &status);
		assert_string_equal(at(j, "diagnosis", "cause", "code"), "numeric.low_precision");
		assert_string_equal(at(j, "diagnosis", "cause", "confidence"), "confirmed");
		assert_string_equal(at(j, "diagnosis", "verdict", NULL), "noise");
		assert_int_equal(status, 0);
	}
	json_decref(j);
	/* Declared, it is no deviation at all. */
	j = explain(capture("linear", true), &(struct engine){ .q_f16 = true },
	            &(struct st_replay_options){ .signs = -1, .q_f16 = true }, &status);
	assert_string_equal(at(j, "diagnosis", "verdict", NULL), "match");
	json_decref(j);
}

/* Coarse numbers that explain most of it are no excuse for the rest: here half a thousandth of gain in one head. */
static void low_precision_hides_nothing(void **state)
{
	(void)state;
	int status;
	json_t *j = explain(capture_of("linear", false, false),
	                    &(struct engine){ .q_bf16 = true, .v_gain = 1.0005, .gain_head = 1 }, NULL, &status);
	assert_string_equal(at(j, "diagnosis", "cause", "code"), "numeric.low_precision");
	assert_string_equal(at(j, "diagnosis", "cause", "confidence"), "likely");
	assert_string_equal(at(j, "diagnosis", "verdict", NULL), "undecided");
	assert_int_equal(status, 2);
	json_decref(j);
}

/* Where the values have no size nothing but zeros is right, and no share of an infinite distance explains anything. */
static void zeros_match_zeros_alone(void **state)
{
	(void)state;
	static const struct {
		float size;
		const char *verdict;
		int status;
	} cases[] = {
		{ 0, "match", 0 },
		{ 1, "fault", 2 },
		{ 1e6f, "fault", 2 },
		{ 1e-6f, "fault", 2 },
	};
	static float zero[4 * 256], out[8 * 256];
	capture("linear", false);
	json_t *m = json_load_file(in_folder("linear-0h/manifest.json"), 0, NULL);
	json_object_set_new(json_object_get(m, "dump_paths"), "v_norms_padded", json_string("zero.f32"));
	json_object_del(json_object_get(m, "dump_paths"), "k_pre_quant");
	json_object_del(json_object_get(m, "dump_paths"), "v_pre_quant");
	assert_int_equal(json_dump_file(m, in_folder("linear-0h/zero.json"), 0), 0);
	json_decref(m);
	write_bytes(in_folder("linear-0h/zero.f32"), zero, sizeof zero);
	for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
		struct st_error err = ST_ERROR_INIT;
		struct st_replay_report rep;
		for (size_t k = 0; k < 8 * 256; k++)
			out[k] = cases[i].size * rnd_normal();
		write_bytes(in_folder("zeros.f32"), out, sizeof out);
		const struct st_replay_options o = { .mode = ST_REPLAY_SINGLESTEP,
			                             .manifest = in_folder("linear-0h/zero.json"),
			                             .against = in_folder("zeros.f32"),
			                             .variation = 'A',
			                             .signs = -1 };
		assert_ok(st_replay_run(&o, &rep, &err), &err);
		json_t *j = json_loads(rep.json, 0, NULL);
		assert_string_equal(at(j, "diagnosis", "verdict", NULL), cases[i].verdict);
		if (cases[i].status)
			assert_string_equal(at(j, "diagnosis", "cause", "code"), "unexplained");
		assert_int_equal(rep.exit_status, cases[i].status);
		json_decref(j);
		st_replay_report_release(&rep);
	}
}

/* An output stored in 16 bits is rounded, not wrong; and a fault under it is still named. */
static void outputs_in_16_bits(void **state)
{
	(void)state;
	static const int bits[] = { 11, 8 };
	for (size_t i = 0; i < 2; i++) {
		int status;
		json_t *j = explain(capture("ring", i), &(struct engine){ .out_bits = bits[i] }, NULL, &status);
		assert_string_equal(at(j, "diagnosis", "verdict", NULL), "match");
		assert_string_equal(at(j, "diagnosis", "output_dtype", NULL), i ? "bf16" : "f16");
		assert_int_equal(status, 0);
		json_decref(j);
		j = explain(capture("ring", i), &(struct engine){ .out_bits = bits[i], .ring_delta = -1 }, NULL,
		            &status);
		assert_string_equal(at(j, "diagnosis", "cause", "code"), "cache.ring_start");
		assert_string_equal(at(j, "diagnosis", "cause", "confidence"), "confirmed");
		json_decref(j);
		j = explain(capture("linear", i),
		            &(struct engine){ .out_bits = bits[i], .stale_row = 150, .stale_from = 12 }, NULL, &status);
		assert_string_equal(at(j, "diagnosis", "cause", "code"), "cache.slot");
		assert_string_equal(at(j, "diagnosis", "cause", "confidence"), "confirmed");
		assert_int_equal(parameter(j, "position"), 149);
		assert_int_equal(parameter(j, "holds_row"), 11);
		json_decref(j);
	}
}

static void the_unknown_stays_unexplained(void **state)
{
	(void)state;
	int status;
	json_t *j = explain(capture("linear", false), &(struct engine){ .noise = 0.05 }, NULL, &status);
	assert_string_equal(at(j, "diagnosis", "cause", "code"), "unexplained");
	assert_string_equal(at(j, "diagnosis", "verdict", NULL), "fault");
	assert_int_equal(status, 2);
	json_decref(j);
	j = explain(capture("linear", false), &(struct engine){ .noise = 0.002 }, NULL, &status);
	assert_string_equal(at(j, "diagnosis", "verdict", NULL), "undecided");
	json_decref(j);
	/* Two faults at once are not pinned on one of them. */
	j = explain(capture("linear", false), &(struct engine){ .map = 1, .extra = -3 }, NULL, &status);
	assert_string_not_equal(at(j, "diagnosis", "cause", "confidence"), "confirmed");
	json_decref(j);
}

static void nan_is_named(void **state)
{
	(void)state;
	struct st_error err = ST_ERROR_INIT;
	struct st_replay_report rep;
	float *x = calloc(8 * 256, 4);
	x[5] = NAN;
	x[6] = INFINITY;
	write_bytes(in_folder("nan.f32"), x, 8 * 256 * 4);
	free(x);
	const struct st_replay_options o = { .mode = ST_REPLAY_SINGLESTEP,
		                             .manifest = capture("linear", false),
		                             .against = in_folder("nan.f32"),
		                             .variation = 'A',
		                             .signs = -1 };
	assert_ok(st_replay_run(&o, &rep, &err), &err);
	json_t *j = json_loads(rep.json, 0, NULL);
	assert_string_equal(at(j, "diagnosis", "cause", "code"), "numeric.nan");
	assert_int_equal(json_integer_value(json_object_get(json_object_get(j, "diagnosis"), "nonfinite")), 2);
	assert_int_equal(rep.exit_status, 2);
	json_decref(j);
	st_replay_report_release(&rep);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(sound_engines_stay_clean),
		cmocka_unit_test(planted_faults_are_named),
		cmocka_unit_test(physical_window_of_a_partial_ring),
		cmocka_unit_test(stale_rows_are_found),
		cmocka_unit_test(stale_rows_of_wider_codes),
		cmocka_unit_test(no_row_is_made_up),
		cmocka_unit_test(low_precision_is_noise),
		cmocka_unit_test(low_precision_hides_nothing),
		cmocka_unit_test(zeros_match_zeros_alone),
		cmocka_unit_test(outputs_in_16_bits),
		cmocka_unit_test(the_unknown_stays_unexplained),
		cmocka_unit_test(nan_is_named),
	};
	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
