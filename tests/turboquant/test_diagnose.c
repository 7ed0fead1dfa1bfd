/*
 * diagnosis: every known mistake planted in a naive engine or in the dump, each to be named and confirmed;
 * and sound engines, which must stay clean.
 */
#include "tq_test.h"
#include "folder.h"

#include <sys/stat.h>

/* The manifest of a synthetic capture, made once per kind and sign. */
static const char *capture(const char *kind, bool signs)
{
	static char path[8][256];
	static unsigned turn;
	char *p = path[turn++ % 8], name[64];
	snprintf(name, sizeof name, "%s-%d", kind, signs);
	if (access(in_folder(name), F_OK) != 0) {
		struct st_error err = ST_ERROR_INIT;
		struct st_replay_report rep;
		const struct st_replay_options o = { .mode = ST_REPLAY_MAKE, .make = kind, .signs = signs, .out = in_folder(name) };
		assert_ok(st_replay_run(&o, &rep, &err), &err);
		st_replay_report_release(&rep);
	}
	snprintf(p, sizeof path[0], "%s/%s/manifest.json", folder, name);
	return p;
}

/* ---- a plain engine in f32, and its mistakes ---- */

struct engine {
	bool flip_q_signs, flip_out_signs, no_fwht_q, no_fwht_out, swap_nibbles, swap_kv, physical, window_by_row, no_window, no_cap, q_f16;
	int norm_block;      /* 1: exchanged, 2: first, 3: second */
	double factor;       /* times the right one; 0 = 1 */
	int ring_delta, extra, window_delta, map; /* map 1: h mod G, 2: reversed, 3: first */
	int zero_row, copy_row; /* chronological position + 1; copy of the one before */
	double scale;        /* times the right one; 0 = 1 */
	double noise;
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

static void engine_row(const struct st_capture *c, const struct engine *m, bool v, size_t row, float *y)
{
	const uint32_t d = c->p.head_dim, nb = d == 512 ? 2 : 1;
	const uint8_t *codes = (v ? c->kv.v_codes : c->kv.k_codes) + row * (d / 2);
	const float *norms = (v ? c->kv.v_norms : c->kv.k_norms) + row * nb;
	for (uint32_t j = 0; j < d; j++) {
		int high = (j & 1) ^ m->swap_nibbles, code = high ? codes[j / 2] >> 4 : codes[j / 2] & 15;
		uint32_t b = nb == 1 ? 0 : m->norm_block == 1 ? 1 - j / 256 : m->norm_block == 2 ? 0 : m->norm_block == 3 ? 1 : j / 256;
		double f = (d == 512 ? 1 / c->p.scale_factor_d512 : 1 / sqrt((double)d)) * (m->factor > 0 ? m->factor : 1);
		y[j] = (float)levels4[code] * (norms[b] * (float)f);
	}
}

/* Eleven bits of significand, ties to even: f16 wherever it is normal. */
static float half(float x)
{
	int e;
	float m = frexpf(x, &e);
	return ldexpf(rintf(ldexpf(m, 11)), e - 11);
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
			q[j] = c->q[(size_t)h * d + j] * (c->signs != m->flip_q_signs ? st_tq_sign(j) : 1);
		if (!m->no_fwht_q)
			hadamard_f32(q, d);
		for (uint32_t j = 0; j < d && m->q_f16; j++)
			q[j] = half(q[j]);
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
			s[n] = 0;
			for (uint32_t j = 0; j < d; j++)
				s[n] += q[j] * k[(size_t)n * d + j];
			s[n] *= (float)(p->scale * (m->scale > 0 ? m->scale : 1));
			if (p->softcap > 0 && !m->no_cap)
				s[n] = (float)p->softcap * tanhf(s[n] / (float)p->softcap);
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
			y[j] *= c->signs != m->flip_out_signs ? st_tq_sign(j) : 1;
		for (uint32_t j = 0; j < d && m->noise > 0; j++)
			y[j] *= 1 + (float)m->noise * rnd_normal();
	}
	free(k), free(v);
}

static void write_floats(const char *path, const float *x, size_t n)
{
	FILE *f = fopen(path, "wb");
	assert_non_null(f);
	assert_int_equal(fwrite(x, 4, n, f), n);
	assert_int_equal(fclose(f), 0);
}

/* Run the engine, have its output explained; the report's JSON. */
static json_t *explain(const char *manifest, const struct engine *m, const struct st_replay_options *extra, int *exit_status)
{
	struct st_error err = ST_ERROR_INIT;
	struct st_capture c;
	struct st_replay_options o = extra ? *extra : (struct st_replay_options){ .signs = -1 };
	struct st_replay_report rep;
	assert_ok(st_capture_open(&c, manifest, 0, -1, &err), &err);
	size_t n = (size_t)c.p.num_heads * c.p.head_dim;
	float *out = malloc(n * 4);
	engine_run(&c, m, out);
	write_floats(in_folder("foreign.f32"), out, n);
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
	{ "signs missing on query and output", "linear", true, { .flip_q_signs = true, .flip_out_signs = true }, "cache.quantiser", NULL, 0 },
	{ "signs on query and output alone", "linear", false, { .flip_q_signs = true, .flip_out_signs = true }, "cache.quantiser", NULL, 0 },
	{ "signs not undone", "linear", true, { .flip_out_signs = true }, "cache.quantiser", NULL, 0 },
	{ "query not transformed", "linear", true, { .no_fwht_q = true }, "cache.quantiser", NULL, 0 },
	{ "output not transformed", "linear", false, { .no_fwht_out = true }, "cache.quantiser", NULL, 0 },
	{ "neither transformed", "d128", false, { .no_fwht_q = true, .no_fwht_out = true }, "cache.quantiser", NULL, 0 },
	{ "nibbles swapped", "linear", true, { .swap_nibbles = true }, "cache.quantiser", NULL, 0 },
	{ "norms exchanged", "d512", true, { .norm_block = 1 }, "cache.quantiser", NULL, 0 },
	{ "first norm for both", "d512", false, { .norm_block = 2 }, "cache.quantiser", NULL, 0 },
	{ "second norm for both", "d512", false, { .norm_block = 3 }, "cache.quantiser", NULL, 0 },
	{ "scale factor 16", "d512", false, { .factor = 1.0 / 16 }, "cache.quantiser", "scale_factor_d512", 16 },
	{ "odd scale factor", "d512", true, { .factor = 1 / 1.37 }, "cache.quantiser", "scale_factor_d512", 1.37 },
	{ "sqrt(d) forgotten", "linear", false, { .factor = 16 }, "cache.quantiser", "factor", 1 },
	{ "ring start at the write position", "partial", true, { .ring_delta = -1 }, "cache.ring_start", "ring_start", 26 },
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
	{ "ring start and f16", "partial", false, { .ring_delta = -1, .q_f16 = true }, "cache.ring_start", "ring_start", 26 },
};

static void planted_faults_are_named(void **state)
{
	(void)state;
	for (size_t i = 0; i < sizeof plants / sizeof *plants; i++) {
		int status;
		json_t *j = explain(capture(plants[i].kind, plants[i].signs), &plants[i].m, NULL, &status);
		const json_t *cause = json_object_get(json_object_get(j, "diagnosis"), "cause");
		const char *code = at(j, "diagnosis", "cause", "code");
		if (strcmp(code, plants[i].code) || strcmp(at(j, "diagnosis", "cause", "confidence"), "confirmed"))
			fail_msg("%s: %s (%s), %s", plants[i].what, code, at(j, "diagnosis", "cause", "confidence"), at(j, "diagnosis", "cause", "text"));
		assert_string_equal(at(j, "diagnosis", "verdict", NULL), "fault");
		assert_int_equal(status, 2);
		/* Confirmed means applied: the residual fell to the floor. */
		assert_true(json_real_value(json_object_get(cause, "residual_after")) <= json_real_value(json_object_get(cause, "floor")));
		assert_true(json_real_value(json_object_get(cause, "residual_before")) > 10 * json_real_value(json_object_get(cause, "floor")));
		if (plants[i].parameter) {
			double value = json_number_value(json_object_get(json_object_get(cause, "parameters"), plants[i].parameter));
			if (fabs(value - plants[i].value) > 1e-4 * fabs(plants[i].value))
				fail_msg("%s: %s = %g", plants[i].what, plants[i].parameter, value);
		}
		if (plants[i].m.q_f16)
			assert_string_equal(json_string_value(json_object_get(json_object_get(cause, "parameters"), "q_dtype")), "f16");
		/* The dump itself is sound in all of these. */
		assert_string_equal(at(j, "cache", "verdict", NULL), "ok");
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
	json_decref(j);
	/* Declared, it is no deviation at all. */
	j = explain(capture("linear", true), &(struct engine){ .q_f16 = true }, &(struct st_replay_options){ .signs = -1, .q_f16 = true }, &status);
	assert_string_equal(at(j, "diagnosis", "verdict", NULL), "match");
	json_decref(j);
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
	float *x = calloc(16 * 256, 4);
	x[5] = NAN;
	x[6] = INFINITY;
	write_floats(in_folder("nan.f32"), x, 16 * 256);
	free(x);
	const struct st_replay_options o = { .mode = ST_REPLAY_SINGLESTEP, .manifest = capture("linear", false), .against = in_folder("nan.f32"), .variation = 'A', .signs = -1 };
	assert_ok(st_replay_run(&o, &rep, &err), &err);
	json_t *j = json_loads(rep.json, 0, NULL);
	assert_string_equal(at(j, "diagnosis", "cause", "code"), "numeric.nan");
	assert_int_equal(json_integer_value(json_object_get(json_object_get(j, "diagnosis"), "nonfinite")), 2);
	assert_int_equal(rep.exit_status, 2);
	json_decref(j);
	st_replay_report_release(&rep);
}

/* ---- faults of the dump: what a wrong writer left ---- */

static uint8_t *slurp(const char *path, size_t *n)
{
	FILE *f = fopen(path, "rb");
	assert_non_null(f);
	fseek(f, 0, SEEK_END);
	*n = (size_t)ftell(f);
	rewind(f);
	uint8_t *p = malloc(*n);
	assert_int_equal(fread(p, 1, *n, f), *n);
	fclose(f);
	return p;
}

static void spill(const char *path, const uint8_t *p, size_t n)
{
	FILE *f = fopen(path, "wb");
	assert_non_null(f);
	assert_int_equal(fwrite(p, 1, n, f), n);
	assert_int_equal(fclose(f), 0);
}

/* A fresh "linear" capture with one file changed; the causes the cache check lists. */
static json_t *cache_causes(const char *name, const char *file, void (*change)(uint8_t *p, size_t n), int signs)
{
	struct st_error err = ST_ERROR_INIT;
	struct st_replay_report rep;
	char dir[256], path[300];
	snprintf(dir, sizeof dir, "%s/%s", folder, name);
	const struct st_replay_options make = { .mode = ST_REPLAY_MAKE, .make = "linear", .signs = 1, .out = dir };
	assert_ok(st_replay_run(&make, &rep, &err), &err);
	st_replay_report_release(&rep);
	if (file) {
		size_t n;
		snprintf(path, sizeof path, "%s/%s", dir, file);
		uint8_t *p = slurp(path, &n);
		change(p, n);
		spill(path, p, n);
		free(p);
	}
	snprintf(path, sizeof path, "%s/manifest.json", dir);
	const struct st_replay_options o = { .mode = ST_REPLAY_SINGLESTEP, .manifest = path, .variation = 'A', .signs = signs };
	assert_ok(st_replay_run(&o, &rep, &err), &err);
	json_t *j = json_loads(rep.json, 0, NULL), *causes = json_incref(json_object_get(json_object_get(j, "cache"), "causes"));
	assert_int_equal(rep.exit_status, 2);
	st_replay_report_release(&rep);
	json_decref(j);
	return causes;
}

static void swap_all_nibbles(uint8_t *p, size_t n)
{
	for (size_t i = 0; i < n; i++)
		p[i] = (uint8_t)(p[i] << 4 | p[i] >> 4);
}

/* kv head 3, position 120 keeps what position 119 wrote: codes of 128 bytes, capacity 256. */
static void stale_copy(uint8_t *p, size_t n)
{
	(void)n;
	memcpy(p + (3 * 256 + 120) * 128, p + (3 * 256 + 119) * 128, 128);
}

static void stale_unknown(uint8_t *p, size_t n)
{
	(void)n;
	memcpy(p + (5 * 256 + 199) * 128, p + (5 * 256 + 230) * 128, 128);
}

static void shift_rows(uint8_t *p, size_t n)
{
	/* Every head's rows one slot early: row i holds position i + 1. */
	for (size_t g = 0; g < n / (256 * 128); g++)
		memmove(p + g * 256 * 128, p + g * 256 * 128 + 128, 255 * 128);
}

static void halve_norms(uint8_t *p, size_t n)
{
	for (size_t i = 0; i < n; i += 4) {
		float f;
		memcpy(&f, p + i, 4);
		f *= 0.0625f;
		memcpy(p + i, &f, 4);
	}
}

static const char *code_of(const json_t *causes, size_t i) { return json_string_value(json_object_get(json_array_get(causes, i), "code")); }
static json_t *par(const json_t *causes, size_t i, const char *key) { return json_object_get(json_object_get(json_array_get(causes, i), "parameters"), key); }

static void faulty_dumps_are_named(void **state)
{
	(void)state;
	/* The capture's rows carry signs; declared as having none. */
	json_t *c = cache_causes("dump-signs", NULL, NULL, 0);
	assert_int_equal(json_array_size(c), 2);
	assert_string_equal(code_of(c, 0), "cache.quantiser");
	assert_non_null(strstr(json_string_value(json_object_get(json_array_get(c, 0), "text")), "with D1 signs"));
	json_decref(c);

	c = cache_causes("dump-nibbles", "k_packed.u8", swap_all_nibbles, -1);
	assert_int_equal(json_array_size(c), 1);
	assert_string_equal(code_of(c, 0), "cache.quantiser");
	assert_string_equal(json_string_value(par(c, 0, "side")), "keys");
	assert_non_null(strstr(json_string_value(json_object_get(json_array_get(c, 0), "text")), "nibbles"));
	json_decref(c);

	c = cache_causes("dump-stale", "v_packed.u8", stale_copy, -1);
	assert_int_equal(json_array_size(c), 1);
	assert_string_equal(code_of(c, 0), "cache.slot");
	assert_int_equal(json_integer_value(par(c, 0, "kv_head")), 3);
	assert_int_equal(json_integer_value(par(c, 0, "position")), 120);
	assert_int_equal(json_integer_value(par(c, 0, "holds_position")), 119);
	json_decref(c);

	c = cache_causes("dump-unknown", "k_packed.u8", stale_unknown, -1);
	assert_int_equal(json_array_size(c), 1);
	assert_string_equal(code_of(c, 0), "cache.slot");
	assert_int_equal(json_integer_value(par(c, 0, "position")), 199);
	assert_null(par(c, 0, "holds_position"));
	json_decref(c);

	c = cache_causes("dump-shift", "k_packed.u8", shift_rows, -1);
	assert_string_equal(code_of(c, 0), "cache.ring_start");
	assert_int_equal(json_integer_value(par(c, 0, "shift")), 1);
	json_decref(c);

	c = cache_causes("dump-norms", "v_norms.f32", halve_norms, -1);
	assert_string_equal(code_of(c, 0), "cache.quantiser");
	assert_true(fabs(json_real_value(par(c, 0, "gain")) - 16) < 0.2);
	json_decref(c);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(sound_engines_stay_clean),
		cmocka_unit_test(planted_faults_are_named),
		cmocka_unit_test(low_precision_is_noise),
		cmocka_unit_test(the_unknown_stays_unexplained),
		cmocka_unit_test(nan_is_named),
		cmocka_unit_test(faulty_dumps_are_named),
	};
	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
