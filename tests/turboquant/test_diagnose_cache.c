/*
 * the check of the packed rows: what a wrong writer leaves in a dump is named, and what a sound one leaves is not,
 * whatever the values are.
 */
#include "tq_test.h"
#include "folder.h"

/* ---- faults of the dump: what a wrong writer left ---- */

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
		uint8_t *p = read_bytes(path, &n);
		change(p, n);
		write_bytes(path, p, n);
		free(p);
	}
	snprintf(path, sizeof path, "%s/manifest.json", dir);
	const struct st_replay_options o = {
		.mode = ST_REPLAY_SINGLESTEP, .manifest = path, .variation = 'A', .signs = signs
	};
	assert_ok(st_replay_run(&o, &rep, &err), &err);
	json_t *j = json_loads(rep.json, 0, NULL),
	       *causes = json_incref(json_object_get(json_object_get(j, "cache"), "causes"));
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

static const char *code_of(const json_t *causes, size_t i)
{
	return json_string_value(json_object_get(json_array_get(causes, i), "code"));
}
static json_t *par(const json_t *causes, size_t i, const char *key)
{
	return json_object_get(json_object_get(json_array_get(causes, i), "parameters"), key);
}

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

/* ---- sound dumps whose values are not normal ---- */

static float *floats(const char *dir, const char *file, size_t *n)
{
	char path[300];
	snprintf(path, sizeof path, "%s/%s", dir, file);
	return read_bytes(path, n);
}

static void put(const char *dir, const char *file, const void *p, size_t n)
{
	char path[300];
	snprintf(path, sizeof path, "%s/%s", dir, file);
	write_bytes(path, p, n);
}

/* A "linear" capture of `bits` whose keys are `gain` times as far apart around a common vector: `offset` in every
 * coordinate. The writer is sound. stale: head 2, position 90 of the keys holds what belongs to position 91. */
static json_t *offset_capture(const char *name, unsigned bits, bool signs, float offset, float gain, bool stale,
                              int *status)
{
	struct st_error err = ST_ERROR_INIT;
	struct st_replay_report rep;
	struct st_tq_codec codec;
	char dir[256], path[300];
	size_t n, n_codes, n_norms;
	snprintf(dir, sizeof dir, "%s/%s", folder, name);
	const struct st_replay_options make = {
		.mode = ST_REPLAY_MAKE, .make = "linear", .bits = bits, .signs = signs, .out = dir
	};
	assert_ok(st_replay_run(&make, &rep, &err), &err);
	st_replay_report_release(&rep);
	float *k = floats(dir, "k_pre_quant.f32", &n), *norms = floats(dir, "k_norms.f32", &n_norms);
	snprintf(path, sizeof path, "%s/k_packed.u8", dir);
	uint8_t *codes = read_bytes(path, &n_codes);
	assert_ok(st_tq_codec_init(&codec, 256, bits, signs, 1, ST_CPU_SCALAR, &err), &err);
	const size_t rb = n_codes / (8 * 256);
	for (size_t i = 0; i < n / 4; i++)
		k[i] = offset + gain * k[i];
	for (size_t g = 0; g < 8; g++)
		st_tq_encode(&codec, k + g * 200 * 256, 200, codes + g * 256 * rb, norms + g * 256, NULL);
	if (stale) {
		memcpy(codes + (2 * 256 + 90) * rb, codes + (2 * 256 + 91) * rb, rb);
		norms[2 * 256 + 90] = norms[2 * 256 + 91];
	}
	put(dir, "k_pre_quant.f32", k, n);
	put(dir, "k_norms.f32", norms, n_norms);
	put(dir, "k_packed.u8", codes, n_codes);
	free(k), free(norms), free(codes);
	snprintf(path, sizeof path, "%s/manifest.json", dir);
	const struct st_replay_options o = { .mode = ST_REPLAY_SINGLESTEP,
		                             .manifest = path,
		                             .variation = 'A',
		                             .signs = -1,
		                             .oracles = ST_ORACLE_DEQUANT };
	assert_ok(st_replay_run(&o, &rep, &err), &err);
	json_t *j = json_loads(rep.json, 0, NULL), *cache = json_incref(json_object_get(j, "cache"));
	*status = rep.exit_status;
	st_replay_report_release(&rep);
	json_decref(j);
	return cache;
}

/* The quantiser's error is the row's own: a tail beyond the outermost level of a fine codebook, or a common offset that
 * the transform gathers in one coordinate, is no stale row - and a stale row among them still is. */
static void rows_are_judged_by_their_own_floor(void **state)
{
	(void)state;
	static const struct {
		const char *name;
		unsigned bits;
		bool signs;
		float offset, gain;
	} cases[] = {
		{ "own-6", 6, true, 0, 1 },            /* five standard deviations in 400,000 draws */
		{ "own-4-offset", 4, false, 2, 0.5f }, /* clips: three quarters of the energy in coordinate 0 */
		{ "own-8-offset", 8, false, 1, 1 },
		{ "own-4-close", 4, true, 2, 0.3f }, /* rows that differ by a fifth of their norm */
	};
	for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
		for (int stale = 0; stale < 2; stale++) {
			char name[40];
			int status;
			snprintf(name, sizeof name, "%s-%d", cases[i].name, stale);
			json_t *j = offset_capture(name, cases[i].bits, cases[i].signs, cases[i].offset, cases[i].gain,
			                           stale, &status),
			       *causes = json_object_get(j, "causes");
			if (status != 2 * stale || json_array_size(causes) != (size_t)stale)
				fail_msg("%s: status %d, %zu causes", name, status, json_array_size(causes));
			if (stale) {
				assert_string_equal(code_of(causes, 0), "cache.slot");
				assert_int_equal(json_integer_value(par(causes, 0, "kv_head")), 2);
				assert_int_equal(json_integer_value(par(causes, 0, "position")), 90);
				assert_int_equal(json_integer_value(par(causes, 0, "holds_position")), 91);
			}
			json_decref(j);
		}
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(faulty_dumps_are_named),
		cmocka_unit_test(rows_are_judged_by_their_own_floor),
	};
	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
