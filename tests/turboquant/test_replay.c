/* the modes of replay through the public call: values on record, files, canaries, gates, refusals. */
#include "captures.h"
#include "pools.h"

#include <dirent.h>

static size_t entries(const char *path)
{
	size_t n = 0;
	DIR *d = opendir(path);
	assert_non_null(d);
	for (struct dirent *e; (e = readdir(d));)
		n += e->d_name[0] != '.';
	closedir(d);
	return n;
}

static json_t *replay(const struct st_replay_options *o, int *exit_status)
{
	struct st_error err = ST_ERROR_INIT;
	struct st_replay_report rep;
	assert_ok(st_replay_run(o, &rep, &err), &err);
	json_t *j = json_loads(rep.json, JSON_REJECT_DUPLICATES, NULL);
	assert_non_null(j);
	assert_string_equal(json_string_value(json_object_get(j, "schema")), "stele.replay/1");
	assert_int_equal(json_integer_value(json_object_get(j, "exit")), rep.exit_status);
	assert_true(strlen(rep.text) > 0);
	/* One screen. */
	size_t lines = 0;
	for (const char *p = rep.text; (p = strchr(p, '\n')); p++)
		lines++;
	assert_true(lines <= 40);
	*exit_status = rep.exit_status;
	st_replay_report_release(&rep);
	return j;
}

/* Refused: the code, the parameter it names, and nothing written. */
static void refused(const struct st_replay_options *o, const char *where)
{
	struct st_error err = ST_ERROR_INIT;
	struct st_replay_report rep;
	size_t before = entries(folder);
	assert_true(st_replay_run(o, &rep, &err) != ST_OK);
	if (strcmp(err.where, where))
		fail_msg("names \"%s\" instead of \"%s\": %s", err.where, where, err.message);
	assert_null(rep.text);
	assert_null(rep.json);
	assert_int_equal(entries(folder), before);
}

static double num(const json_t *j, const char *a, const char *b)
{
	const json_t *x = json_object_get(j, a);
	x = b ? json_object_get(x, b) : x;
	assert_true(json_is_number(x));
	return json_number_value(x);
}

static const char *str(const json_t *j, const char *a, const char *b)
{
	const json_t *x = json_object_get(j, a);
	x = b ? json_object_get(x, b) : x;
	return json_is_string(x) ? json_string_value(x) : "";
}

/* The longest of half its heads. */
static const char *capture(const char *kind, int signs) { return capture_of(kind, signs, !strcmp(kind, "ring")); }

static void multistep_values_on_record(void **state)
{
	(void)state;
	static const double dequant[] = { 6.85e-4, 1.119e-3, 8.89e-4, 5.72e-4 },
			    floor[] = { 0.4550, 0.5497, 0.4906, 0.3231 };
	static const int position[] = { 50, 500, 1050, 2048 };
	int status;
	const struct st_replay_options o = {
		.mode = ST_REPLAY_MULTISTEP, .seeding_xor = true, .q_f16 = true, .out = in_folder("multi"), .signs = -1
	};
	json_t *j = replay(&o, &status), *rows = json_object_get(j, "rows");
	assert_int_equal(json_array_size(rows), 4);
	for (size_t i = 0; i < 4; i++) {
		const json_t *r = json_array_get(rows, i);
		assert_int_equal(num(r, "abs_pos", NULL), position[i]);
		assert_int_equal(num(r, "kvl_logical", NULL), position[i] < 1024 ? position[i] + 1 : 1024);
		assert_int_equal(num(r, "ring_start", NULL), position[i] < 1024 ? 0 : (position[i] + 1) % 1024);
		assert_true(num(r, "max_abs_diff", NULL) > 0);
		assert_true(fabs(num(r, "dequant_oracle_nrmse", NULL) - dequant[i]) <= 5e-6);
		assert_true(fabs(num(r, "independent_floor_nrmse", NULL) - floor[i]) <= 5e-4);
		assert_string_equal(str(r, "verdict", NULL), "dequant_spec_bug_confirmed");
		assert_true(json_is_true(json_object_get(r, "quantiser_floor")));
		assert_true(num(r, "floor_expected", "low") < floor[i] && num(r, "floor_expected", "high") > floor[i]);
		assert_int_equal(num(r, "visible_rows", NULL), num(r, "expected_rows", NULL));
	}
	assert_string_equal(str(j, "verdict", NULL), "dequant_spec_bug_confirmed");
	assert_true(json_is_true(json_object_get(j, "quantiser_floor")));
	assert_int_equal(status, 0);
	json_t *file = json_load_file(in_folder("multi.json"), 0, NULL);
	assert_true(json_equal(file, j));
	assert_int_equal(access(in_folder("multi.md"), R_OK), 0);
	json_decref(file);
	json_decref(j);
}

/* The default seeding, f32 query, every level: the kernel is exact to f32, whatever the floor is. */
static void multistep_on_every_level(void **state)
{
	(void)state;
	double first[4] = { 0 };
	int seen = 0;
	FOR_LEVELS(cpu)
	{
		int status;
		const struct st_replay_options o = {
			.mode = ST_REPLAY_MULTISTEP, .kernel = st_cpu_name(cpu), .signs = -1, .bits = 5, .threads = 2
		};
		json_t *j = replay(&o, &status);
		for (size_t i = 0; i < 4; i++) {
			double e = num(json_array_get(json_object_get(j, "rows"), i), "independent_floor_nrmse", NULL);
			assert_true(num(json_array_get(json_object_get(j, "rows"), i), "dequant_oracle_nrmse", NULL)
			            < 1e-5);
			first[i] = seen ? first[i] : e;
			assert_true(e == first[i]);
		}
		seen++;
		assert_string_equal(str(j, "kernel", NULL), st_cpu_name(cpu));
		assert_int_equal(status, 0);
		json_decref(j);
	}
}

static void production_values_on_record(void **state)
{
	(void)state;
	struct st_error err = ST_ERROR_INIT;
	struct st_sweep s;
	struct st_sweep_result m, again;
	const struct st_tq_exec e = { st_cpu_best(), NULL, true, ST_TQ_PHYSICAL, 4, false },
				scalar = { ST_CPU_SCALAR, pool_of(2), true, ST_TQ_PHYSICAL, 4, false };
	assert_ok(st_sweep_init(&s, &err), &err);
	assert_ok(st_sweep_run(&s, ST_TQ_SEED, &e, &m, &err), &err);
	assert_true(fabs(m.nrmse[2] - 0.4234064) <= 5e-4);
	assert_true(fabs(m.nrmse[9] - 0.3686234) <= 5e-4);
	/* Rotary tables in f32: with f64 ones a single code falls to the other side, and this is 0.3879. */
	assert_true(st_sweep_points[12].pos == 1050 && fabs(m.nrmse[12] - 0.3843) <= 5e-4);
	assert_int_equal(st_sweep_points[2].kvl, 500);
	assert_int_equal(st_sweep_points[9].pos, 500);
	assert_true(m.before[2] == 1581056 && m.before[9] == 19238912);
	assert_ok(st_sweep_run(&s, ST_TQ_SEED, &scalar, &again, &err), &err);
	assert_memory_equal(&m, &again, sizeof m);
	st_sweep_release(&s);
	/* The regime is the registered one, at every point; the audit states what this function says. */
	for (size_t i = 0; i < ST_N_POINTS; i++) {
		const struct st_tq_params p = st_sweep_params(st_sweep_points + i, 7);
		assert_true(p.num_heads == 16 && p.num_kv_heads == 8 && p.head_dim == 256 && p.kv_capacity == 1024
		            && p.scale == 1 && p.mask_type == 2);
		assert_true(p.softcap == 0 && p.ring_start == 7 && p.kv_seq_len == st_sweep_points[i].kvl
		            && p.sliding_window == (i < 11 ? 1024 : 512));
	}
	assert_true(st_sweep_regime.rms_eps == 1e-6 && st_sweep_regime.rope_theta == 10000);
	/* The band is what was registered. */
	assert_true(st_band_lower == 0.05 && st_band_upper == 0.35);
}

static void variations(void **state)
{
	(void)state;
	static const char *const kinds[] = { "linear", "ring", "partial", "d512", "d128" };
	for (size_t i = 0; i < 5; i++) {
		const char *manifest = capture(kinds[i], i % 2);
		for (char v = 'A'; v <= 'C'; v++) {
			int status;
			char out[32];
			snprintf(out, sizeof out, "run-%s-%c.json", kinds[i], v);
			const struct st_replay_options o = { .mode = ST_REPLAY_SINGLESTEP,
				                             .manifest = manifest,
				                             .variation = v,
				                             .signs = -1,
				                             .out = in_folder(out),
				                             .oracles = v == 'A' ? 0 : ST_ORACLE_DEQUANT };
			json_t *j = replay(&o, &status);
			double e = num(j, "dequant_oracle_nrmse", NULL);
			assert_true(v == 'B' ? e > 0.5 : e < 1e-5);
			assert_int_equal(status, 0);
			assert_true(str(j, "variation", NULL)[0] == v);
			assert_true(json_is_false(json_object_get(j, "any_nan_inf_in_gpu_output")));
			assert_string_equal(str(j, "exit_status", NULL), "ok");
			if (v != 'C')
				assert_true(json_is_false(json_object_get(json_object_get(j, "toggle"), "no_op")));
			if (v == 'A') {
				double floor = num(j, "independent_floor_nrmse", NULL);
				assert_true(fabs(floor - num(j, "floor_expected", "mean"))
				            < 5 * num(j, "floor_expected", "sd"));
			}
			/* The largest of the heads is the largest. */
			double worst = 0;
			size_t h;
			json_t *x;
			json_array_foreach(json_object_get(j, "per_head_max_abs_diff"), h, x)
			{
				assert_int_equal(num(x, "head", NULL), h);
				worst = fmax(worst, num(x, "max_abs_diff", NULL));
			}
			assert_true(worst == num(j, "max_abs_diff", NULL));
			struct stat sb;
			assert_int_equal(stat(str(j, "bin_path", NULL), &sb), 0);
			assert_int_equal(sb.st_size, h * (i == 3 ? 512 : i == 4 ? 128 : 256) * 4);
			json_decref(j);
		}
	}
}

/* What one run wrote is explained by the next: its own output matches. */
static void own_output_matches(void **state)
{
	(void)state;
	int status;
	const char *manifest = capture("partial", 1);
	struct st_replay_options o = { .mode = ST_REPLAY_SINGLESTEP,
		                       .manifest = manifest,
		                       .variation = 'A',
		                       .signs = -1,
		                       .out = in_folder("own") };
	json_decref(replay(&o, &status));
	o.out = NULL;
	o.against = in_folder("own_sdpa_out.bin");
	json_t *j = replay(&o, &status);
	assert_string_equal(str(j, "diagnosis", "verdict"), "match");
	assert_int_equal(status, 0);
	json_decref(j);
	/* With physical visibility declared, it is this output that sees too much. */
	o.physical = true;
	j = replay(&o, &status);
	assert_string_equal(str(j, "diagnosis", "verdict"), "fault");
	assert_string_equal(str(json_object_get(j, "diagnosis"), "cause", "code"), "cache.position");
	json_decref(j);
}

/* The verdict rests on the kernel's own error, so that is reported whichever reference was asked for. */
static void every_oracle_reports_the_kernel(void **state)
{
	(void)state;
	static const unsigned oracles[] = { ST_ORACLE_DEQUANT, ST_ORACLE_FLOOR, ST_ORACLE_DEQUANT | ST_ORACLE_FLOOR };
	for (size_t i = 0; i < 3; i++) {
		int status;
		const struct st_replay_options o = { .mode = ST_REPLAY_SINGLESTEP,
			                             .manifest = capture("partial", 0),
			                             .variation = 'A',
			                             .signs = -1,
			                             .oracles = oracles[i],
			                             .physical = true };
		json_t *j = replay(&o, &status);
		assert_true(num(j, "dequant_oracle_nrmse", NULL) > 0.1);
		assert_true(num(j, "max_abs_diff", NULL) > 0);
		assert_int_equal(json_array_size(json_object_get(j, "per_head_max_abs_diff")), 16);
		assert_true(json_is_number(json_object_get(j, "independent_floor_nrmse")) == (i > 0));
		assert_int_equal(status, 2);
		json_decref(j);
	}
}

/* The capture "partial" in other words: values of the newest row alone, or of the cache as the sequence runs. Returns
 * the manifest. extra: its `compact_sources`, or NULL. */
static const char *reworded(bool newest, json_t *compact)
{
	enum { G = 8, L = 256, P = 1024, D = 256, RING = 27 };
	static const struct {
		const char *file, *key;
		size_t row;
	} parts[] = { { "k_packed.u8", "k_packed_compact", D / 2 },
		      { "v_packed.u8", "v_packed_compact", D / 2 },
		      { "k_norms.f32", "k_norms_compact", 4 },
		      { "v_norms.f32", "v_norms_compact", 4 } };
	static const char *const pre[] = { "k_pre_quant", "v_pre_quant" };
	static char path[300];
	char name[96];
	size_t size;
	json_t *j = json_load_file(capture("partial", 0), 0, NULL);
	for (int v = 0; newest && v < 2; v++) {
		snprintf(name, sizeof name, "partial-0/%s.f32", pre[v]);
		float *all = read_bytes(in_folder(name), &size), one[G * D];
		for (size_t g = 0; g < G; g++)
			memcpy(one + g * D, all + (g * L + L - 1) * D, D * sizeof *one);
		snprintf(name, sizeof name, "partial-0/%s.newest", pre[v]);
		write_bytes(in_folder(name), one, sizeof one);
		json_object_set_new(json_object_get(j, "dump_paths"), pre[v], json_string(name + strlen("partial-0/")));
		free(all);
	}
	for (int k = 0; compact && k < 4; k++) {
		snprintf(name, sizeof name, "partial-0/%s", parts[k].file);
		char *all = read_bytes(in_folder(name), &size), *rows = malloc(G * L * parts[k].row);
		for (size_t i = 0; i < G * L; i++)
			memcpy(rows + i * parts[k].row, all + (i / L * P + (RING + i % L) % P) * parts[k].row,
			       parts[k].row);
		snprintf(name, sizeof name, "partial-0/%s", parts[k].key);
		write_bytes(in_folder(name), rows, G * L * parts[k].row);
		json_object_set_new(compact, parts[k].key, json_string(parts[k].key));
		free(all);
		free(rows);
	}
	if (compact)
		json_object_set_new(j, "compact_sources", compact);
	snprintf(path, sizeof path, "%s/partial-0/reworded.json", folder);
	assert_int_equal(json_dump_file(j, path, 0), 0);
	json_decref(j);
	return path;
}

static json_t *step(const char *manifest, enum st_replay_canary canary, const char *out)
{
	int status;
	const struct st_replay_options o = { .mode = ST_REPLAY_SINGLESTEP,
		                             .manifest = manifest,
		                             .variation = 'A',
		                             .signs = -1,
		                             .canary = canary,
		                             .out = out };
	json_t *j = replay(&o, &status);
	assert_int_equal(status, 0);
	return j;
}

/* Engines dump the values of the position they write alone. The rest of the reference is decoded then, so it is nearer
 * to the output than with all values. A row that holds something else is found. */
static void the_newest_row_alone_will_do(void **state)
{
	(void)state;
	json_t *all = step(capture("partial", 0), ST_CANARY_NONE, NULL),
	       *one = step(reworded(true, NULL), ST_CANARY_NONE, NULL);
	assert_true(num(one, "independent_floor_nrmse", NULL) > 1e-3);
	assert_true(num(one, "independent_floor_nrmse", NULL) < 0.5 * num(all, "independent_floor_nrmse", NULL));
	assert_int_equal(num(one, "cache", "rows"), 8);
	assert_int_equal(num(one, "cache", "keys_bad_rows"), 0);
	assert_null(json_object_get(one, "floor_expected"));
	json_decref(all);
	json_decref(one);

	size_t size;
	int status;
	float *v = read_bytes(in_folder("partial-0/v_pre_quant.newest"), &size);
	for (size_t i = 0; i < 256; i++)
		v[5 * 256 + i] = -v[5 * 256 + i];
	write_bytes(in_folder("partial-0/v_pre_quant.newest"), v, size);
	const struct st_replay_options o = { .mode = ST_REPLAY_SINGLESTEP,
		                             .manifest = in_folder("partial-0/reworded.json"),
		                             .variation = 'A',
		                             .signs = -1 };
	one = replay(&o, &status);
	assert_int_equal(status, 2);
	assert_int_equal(num(one, "cache", "values_bad_rows"), 1);
	json_t *p = json_object_get(json_array_get(json_object_get(json_object_get(one, "cache"), "causes"), 0),
	                            "parameters");
	assert_true(num(p, "kv_head", NULL) == 5 && num(p, "position", NULL) == 255);
	json_decref(one);
	free(v);
}

/* Where compact_sources are given the reference reads those: a cache that says something else disagrees with them. */
static void compact_sources_are_the_oracle(void **state)
{
	(void)state;
	int status;
	json_t *j = step(reworded(false, json_object()), ST_CANARY_NONE, NULL);
	assert_true(json_is_true(json_object_get(j, "compact_sources")));
	assert_true(num(j, "dequant_oracle_nrmse", NULL) < 1e-5);
	json_decref(j);
	j = step(in_folder("partial-0/reworded.json"), ST_CANARY_IN_RANGE, NULL); /* on both sides */
	assert_string_equal(str(j, "canary_result", "verdict"), "pass");
	assert_true(num(j, "dequant_oracle_nrmse", NULL) < 1e-5);
	json_decref(j);

	size_t size;
	float *x = read_bytes(in_folder("partial-0/v_norms_compact"), &size);
	for (size_t i = 0; i < size / 4; i++)
		x[i] *= 1.5f;
	write_bytes(in_folder("partial-0/v_norms_compact"), x, size);
	const struct st_replay_options o = { .mode = ST_REPLAY_SINGLESTEP,
		                             .manifest = in_folder("partial-0/reworded.json"),
		                             .variation = 'A',
		                             .signs = -1 };
	j = replay(&o, &status);
	assert_int_equal(status, 2);
	assert_true(fabs(num(j, "dequant_oracle_nrmse", NULL) - 1.0 / 3) < 1e-5); /* |1 - 1.5| / 1.5 */
	json_decref(j);
	write_bytes(in_folder("partial-0/v_norms_compact"), x, size - 4);
	refused(&o, "v_norms_compact");
	free(x);
	assert_int_equal(unlink(in_folder("partial-0/v_norms_compact")), 0);
	refused(&o, "v_norms_compact");

	/* Empty names are none, some of the four too few. */
	json_t *m = json_load_file(in_folder("partial-0/reworded.json"), 0, NULL),
	       *c = json_object_get(m, "compact_sources");
	json_object_set_new(c, "v_norms_compact", json_string(""));
	assert_int_equal(json_dump_file(m, in_folder("partial-0/reworded.json"), 0), 0);
	refused(&o, "v_norms_compact");
	json_object_set_new(c, "k_norms_compact", json_string(""));
	json_object_set_new(c, "k_packed_compact", json_string(""));
	json_object_set_new(c, "v_packed_compact", json_string(""));
	assert_int_equal(json_dump_file(m, in_folder("partial-0/reworded.json"), 0), 0);
	j = step(in_folder("partial-0/reworded.json"), ST_CANARY_NONE, NULL);
	assert_true(json_is_false(json_object_get(j, "compact_sources")));
	json_decref(j);
	json_decref(m);
}

/* With a canary the report and the written output are of one run. */
static void canary_report_and_output_are_one_run(void **state)
{
	(void)state;
	size_t n[2];
	json_t *clean = step(capture("linear", 0), ST_CANARY_NONE, in_folder("one-clean")),
	       *j = step(capture("linear", 0), ST_CANARY_IN_RANGE, in_folder("one-canary"));
	float *a = read_bytes(in_folder("one-clean_sdpa_out.bin"), &n[0]),
	      *b = read_bytes(in_folder("one-canary_sdpa_out.bin"), &n[1]);
	double change = 0;
	assert_int_equal(n[0], n[1]);
	for (size_t i = 0; i < n[0] / 4; i++)
		change = fmax(change, fabs((double)a[i] - b[i]));
	assert_true(change > 0.1);
	assert_true(change == num(j, "canary_result", "max_output_change"));
	assert_true(num(j, "canary_result", "nrmse_clean") == num(clean, "dequant_oracle_nrmse", NULL));
	assert_true(num(j, "canary_result", "nrmse_canary") == num(j, "dequant_oracle_nrmse", NULL));
	/* Head 0 reads the row that was changed. */
	assert_true(num(json_array_get(json_object_get(j, "per_head_max_abs_diff"), 0), "max_abs_diff", NULL)
	            != num(json_array_get(json_object_get(clean, "per_head_max_abs_diff"), 0), "max_abs_diff", NULL));
	/* What the canary doubles is doubled before quantisation too. */
	assert_true(num(j, "independent_floor_nrmse", NULL) < 2 * num(clean, "independent_floor_nrmse", NULL));
	/* Seconds since 1970, as text. */
	assert_true(strtoll(str(j, "ran_at", NULL), NULL, 10) > 1700000000);
	json_decref(clean);
	json_decref(j);
	free(a);
	free(b);
}

static void canaries(void **state)
{
	(void)state;
	static const struct {
		const char *kind;
		enum st_replay_canary canary;
		const char *verdict;
	} cases[] = {
		{ "linear", ST_CANARY_IN_RANGE, "pass" },
		{ "linear", ST_CANARY_OUT_OF_RANGE, "pass" },
		{ "linear", ST_CANARY_ASYMMETRIC, "pass" },
		{ "partial", ST_CANARY_OUT_OF_RANGE, "pass" },
		{ "d512", ST_CANARY_IN_RANGE, "pass" },
		{ "d512", ST_CANARY_OUT_OF_RANGE, "pass" },
		/* A full ring has no row out of range, and position 10 of it lies outside the window. */
		{ "ring", ST_CANARY_OUT_OF_RANGE, "vacuous" },
		{ "ring", ST_CANARY_IN_RANGE, "vacuous" },
		{ "ring", ST_CANARY_ASYMMETRIC, "vacuous" },
	};
	for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
		int status;
		const struct st_replay_options o = { .mode = ST_REPLAY_SINGLESTEP,
			                             .manifest = capture(cases[i].kind, 1),
			                             .variation = 'A',
			                             .signs = -1,
			                             .canary = cases[i].canary,
			                             .oracles = ST_ORACLE_DEQUANT };
		json_t *j = replay(&o, &status);
		assert_string_equal(str(j, "canary_result", "verdict"), cases[i].verdict);
		assert_int_equal(status, 0);
		double clean = num(j, "canary_result", "nrmse_clean"), canary = num(j, "canary_result", "nrmse_canary");
		if (cases[i].canary == ST_CANARY_ASYMMETRIC && !strcmp(cases[i].verdict, "pass"))
			assert_true(canary - clean > 0.01);
		else
			assert_true(canary < 1e-5);
		if (cases[i].canary == ST_CANARY_OUT_OF_RANGE)
			assert_true(num(j, "canary_result", "max_output_change") == 0);
		json_decref(j);
	}
}

/* Variation B is far off on purpose: in-range canaries have nothing to be compared with there, and that is no failure
 * of them. What lies out of range must still not change a bit. */
static void canaries_of_variation_b(void **state)
{
	(void)state;
	static const char *const kinds[] = { "linear", "partial", "d512", "d128" };
	static const enum st_replay_canary canary[] = { ST_CANARY_IN_RANGE, ST_CANARY_ASYMMETRIC,
		                                        ST_CANARY_OUT_OF_RANGE };
	for (size_t i = 0; i < 4; i++) {
		for (size_t k = 0; k < 3; k++) {
			int status;
			const struct st_replay_options o = { .mode = ST_REPLAY_SINGLESTEP,
				                             .manifest = capture(kinds[i], 0),
				                             .variation = 'B',
				                             .signs = -1,
				                             .canary = canary[k],
				                             .oracles = ST_ORACLE_DEQUANT };
			json_t *j = replay(&o, &status);
			assert_string_equal(str(j, "canary_result", "verdict"), k == 2 ? "pass" : "vacuous");
			assert_int_equal(status, 0);
			json_decref(j);
		}
	}
}

/* Visibility of existing kernels: counted, and off by far more than a rounding. */
static void physical_visibility_is_reported(void **state)
{
	(void)state;
	int status;
	const struct st_replay_options o = { .mode = ST_REPLAY_SINGLESTEP,
		                             .manifest = capture("partial", 0),
		                             .variation = 'A',
		                             .signs = -1,
		                             .physical = true };
	json_t *j = replay(&o, &status);
	assert_int_equal(num(j, "visible_rows", NULL), 229);
	assert_int_equal(num(j, "expected_rows", NULL), 256);
	assert_true(num(j, "dequant_oracle_nrmse", NULL) > 0.1);
	assert_string_equal(str(j, "verdict", NULL), "kernel_disagrees_with_its_cache");
	assert_int_equal(status, 2);
	json_decref(j);
}

/* Values of zero: variations A and B cannot differ, and the report says so. */
static void no_op_toggle_is_reported(void **state)
{
	(void)state;
	int status;
	char path[300];
	float zero[4 * 128] = { 0 };
	capture("d128", 0);
	const struct st_replay_options make = { .mode = ST_REPLAY_MAKE, .make = "d128", .out = in_folder("zeroq") };
	json_decref(replay(&make, &status));
	snprintf(path, sizeof path, "%s/zeroq/q_natural.f32", folder);
	write_bytes(path, zero, sizeof zero);
	/* Values of zero as well: norms 0. */
	snprintf(path, sizeof path, "%s/zeroq/v_norms.f32", folder);
	write_bytes(path, zero, sizeof zero);
	snprintf(path, sizeof path, "%s/zeroq/manifest.json", folder);
	/* The reference is zero everywhere: no variation can prove or disprove the kernel. */
	for (char v = 'A'; v <= 'C'; v++) {
		const struct st_replay_options o = { .mode = ST_REPLAY_SINGLESTEP,
			                             .manifest = path,
			                             .variation = v,
			                             .signs = -1,
			                             .oracles = ST_ORACLE_DEQUANT };
		json_t *j = replay(&o, &status);
		if (v != 'C')
			assert_true(json_is_true(json_object_get(json_object_get(j, "toggle"), "no_op")));
		assert_string_equal(str(j, "verdict", NULL), "vacuous");
		assert_int_equal(status, 2);
		json_decref(j);
	}
}

static void write_text(const char *path, const char *s) { write_bytes(path, s, strlen(s)); }

/* One key of a sound manifest replaced; NULL removes it. */
static const char *edited(const char *object, const char *key, json_t *value)
{
	static char path[300];
	json_t *j = json_load_file(capture("linear", 0), 0, NULL);
	assert_non_null(j);
	if (value)
		json_object_set_new(json_object_get(j, object), key, value);
	else
		json_object_del(json_object_get(j, object), key);
	snprintf(path, sizeof path, "%s/linear-0/edited.json", folder);
	assert_int_equal(json_dump_file(j, path, 0), 0);
	json_decref(j);
	return path;
}

/* A copy of n floats with one that is not a number. */
static void with_nan(const char *from, const char *to, size_t n, size_t at)
{
	size_t size;
	float *x = read_bytes(in_folder(from), &size);
	assert_int_equal(size, n * 4);
	x[at] = NAN;
	write_bytes(in_folder(to), x, size);
	free(x);
}

/* A query that came in broken: said so, before any kernel is blamed. */
static void broken_query_is_the_inputs_fault(void **state)
{
	(void)state;
	int status;
	capture("linear", 0);
	with_nan("linear-0/q_natural.f32", "linear-0/q-nan.f32", 16 * 256, 7);
	struct st_replay_options o = { .mode = ST_REPLAY_SINGLESTEP, .variation = 'A', .signs = -1 };
	o.manifest = edited("dump_paths", "q_natural", json_string("q-nan.f32"));
	json_t *j = replay(&o, &status);
	assert_int_equal(num(j, "q_nonfinite", NULL), 1);
	assert_string_equal(str(j, "verdict", NULL), "non_finite_output");
	assert_int_equal(status, 2);
	/* Head 0 alone is NaN, and no finite head after it hides that. */
	const json_t *heads = json_object_get(j, "per_head_max_abs_diff");
	assert_string_equal(str(json_array_get(heads, 0), "max_abs_diff", NULL), "nan");
	assert_true(num(json_array_get(heads, 15), "max_abs_diff", NULL) < 1e-5);
	assert_string_equal(str(j, "max_abs_diff", NULL), "nan");
	assert_string_equal(str(j, "toggle", "max_abs_diff"), "nan");
	json_decref(j);
	/* Nothing but NaN on both sides of the toggle is not "no difference". */
	float nan[16 * 256];
	for (size_t i = 0; i < 16 * 256; i++)
		nan[i] = NAN;
	write_bytes(in_folder("linear-0/q-nan.f32"), nan, sizeof nan);
	j = replay(&o, &status);
	assert_true(json_is_false(json_object_get(json_object_get(j, "toggle"), "no_op")));
	assert_string_equal(str(j, "verdict", NULL), "non_finite_output");
	json_decref(j);
	o.against = in_folder("linear-0/q_natural.f32");
	j = replay(&o, &status);
	assert_string_equal(str(j, "diagnosis", "verdict"), "undecided");
	assert_string_equal(str(json_object_get(j, "diagnosis"), "cause", "code"), "numeric.nan");
	assert_int_equal(status, 2);
	json_decref(j);
}

static void bad_manifests_are_refused(void **state)
{
	(void)state;
	capture("linear", 0);
	struct st_replay_options o = {
		.mode = ST_REPLAY_SINGLESTEP, .variation = 'A', .signs = -1, .out = in_folder("never")
	};
	const struct {
		const char *object, *key;
		json_t *value;
		const char *where;
	} cases[] = {
		{ "params", "ring_start", json_integer(256), "ring_start" },
		{ "params", "kv_seq_len", json_integer(257), "kv_seq_len" },
		{ "params", "num_heads", json_integer(15), "num_heads" },
		{ "params", "head_dim", json_integer(96), "head_dim" },
		{ "params", "head_dim", json_real(256.5), "head_dim" },
		{ "params", "kv_capacity", json_integer(-1), "kv_capacity" },
		{ "params", "kv_capacity", json_integer(1 << 27), "k_packed_padded" },
		{ "params", "scale", json_string("x"), "scale" },
		{ "params", "mask_type", json_integer(7), "mask_type" },
		{ "params", "softcap", json_real(-2), "softcap" },
		{ "params", "softcap", json_real(1e-60), "softcap" },
		{ "params", "softcap", json_real(1e300), "softcap" },
		{ "params", "scale_factor_d512", json_real(1e300), "scale_factor_d512" },
		{ "params", "scale_factor_d512", json_real(1e-300), "scale_factor_d512" },
		{ "params", "scale_factor_d512", json_real(0), "scale_factor_d512" },
		{ "params", "scale", json_real(1e300), "scale" },
		{ "params", "bits", json_integer(3), "bits" },
		{ "params", "bits", json_integer(8), "k_packed_padded" },
		{ "params", "signs", json_string("d2"), "signs" },
		{ "params", "num_kv_heads", NULL, "num_kv_heads" },
		{ "params", "scale", NULL, "scale" },
		{ "dump_paths", "q_natural", NULL, "q_natural" },
		{ "dump_paths", "q_natural", json_string("absent.f32"), "q_natural" },
		{ "dump_paths", "q_natural", json_string("k_norms.f32"), "q_natural" },
		{ "dump_paths", "k_packed_padded", json_integer(3), "k_packed_padded" },
		{ "dump_paths", "v_norms_padded", json_string("v_packed.u8"), "v_norms_padded" },
		{ "dump_paths", "v_pre_quant", NULL, "v_pre_quant" },
		{ "dump_paths", "k_packed_padded", json_string("/tmp"), "k_packed_padded" },
	};
	for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
		o.manifest = edited(cases[i].object, cases[i].key, cases[i].value);
		refused(&o, cases[i].where);
	}
	/* NaN among the norms. */
	float norms[8 * 256];
	for (int i = 0; i < 8 * 256; i++)
		norms[i] = 1;
	norms[77] = NAN;
	write_bytes(in_folder("linear-0/nan.f32"), norms, sizeof norms);
	o.manifest = edited("dump_paths", "k_norms_padded", json_string("nan.f32"));
	refused(&o, "k_norms_padded");
	/* One canary without the other would be left out in silence. */
	o.manifest = edited("dump_paths", "v_norms_canary", json_string("v_norms.f32"));
	refused(&o, "k_norms_canary");
	/* NaN among the values before quantisation would compare with nothing and look like a match. */
	with_nan("linear-0/v_pre_quant.f32", "linear-0/nan.f32", 8 * 200 * 256, 12345);
	o.manifest = edited("dump_paths", "v_pre_quant", json_string("nan.f32"));
	refused(&o, "v_pre_quant");
	/* Not JSON, no params, no file. */
	write_text(in_folder("linear-0/bad.json"), "{ \"params\": ");
	o.manifest = in_folder("linear-0/bad.json");
	refused(&o, "");
	write_text(in_folder("linear-0/bad.json"), "{ \"dump_paths\": {} }");
	refused(&o, "params");
	write_text(in_folder("linear-0/bad.json"), "{ \"params\": {}, \"params\": {} }");
	refused(&o, "");
	o.manifest = in_folder("absent.json");
	refused(&o, "--manifest");
	o.manifest = NULL;
	refused(&o, "--manifest");
}

/* A cache of 8 bits has the size of one of 5: told by its codes. What lies outside the sequence is nobody's code. */
static void codes_of_another_width_are_refused(void **state)
{
	(void)state;
	int status;
	size_t n;
	const struct st_replay_options make = {
		.mode = ST_REPLAY_MAKE, .make = "linear", .bits = 8, .out = in_folder("wide")
	};
	json_decref(replay(&make, &status));
	json_t *j = json_load_file(in_folder("wide/manifest.json"), 0, NULL);
	json_object_del(json_object_get(j, "params"), "bits");
	json_object_del(json_object_get(j, "dump_paths"), "k_pre_quant");
	json_object_del(json_object_get(j, "dump_paths"), "v_pre_quant");
	assert_int_equal(json_dump_file(j, in_folder("wide/any.json"), 0), 0);
	json_decref(j);
	uint8_t *k = read_bytes(in_folder("wide/k_packed.u8"), &n), *v = read_bytes(in_folder("wide/v_packed.u8"), &n);
	assert_int_equal(n, 8 * 256 * 256);
	struct st_replay_options o = {
		.mode = ST_REPLAY_SINGLESTEP, .variation = 'A', .manifest = in_folder("wide/any.json"), .signs = -1
	};
	for (unsigned bits = 5; bits <= 6; bits++) {
		struct st_error err = ST_ERROR_INIT;
		struct st_replay_report rep;
		size_t first = 0;
		while (k[first] < 1u << bits)
			first++;
		o.bits = bits;
		assert_true(st_replay_run(&o, &rep, &err) != ST_OK);
		assert_string_equal(err.where, "k_packed_padded");
		assert_string_equal(err.path, in_folder("wide/k_packed.u8"));
		assert_true(err.offset == first && first < 200 * 256);
	}
	o.bits = 8;
	json_decref(replay(&o, &status));
	assert_int_equal(status, 0);
	/* As it comes from a cache of 6 bits, but for row 230 of each head, beyond the 200 of the sequence. */
	for (size_t i = 0; i < n; i++) {
		k[i] = i / 256 % 256 == 230 ? 0xff : k[i] >> 2;
		v[i] >>= 2;
	}
	write_bytes(in_folder("wide/k_packed.u8"), k, n);
	write_bytes(in_folder("wide/v_packed.u8"), v, n);
	o.bits = 6;
	json_decref(replay(&o, &status));
	assert_int_equal(status, 0);
	/* The last code of the sequence counts. */
	v[(7 * 256 + 199) * 256 + 255] = 64;
	write_bytes(in_folder("wide/v_packed.u8"), v, n);
	refused(&o, "v_packed_padded");
	free(k), free(v);
}

/* The other names of keys, and a cache whose second name is used. */
static void aliases_are_read(void **state)
{
	(void)state;
	int status;
	json_t *j = json_load_file(capture("linear", 0), 0, NULL), *paths = json_object_get(j, "dump_paths");
	static const char *const names[][2] = { { "k_packed_padded", "k_packed_post_quant" },
		                                { "v_packed_padded", "v_packed_post_quant" },
		                                { "k_norms_padded", "k_norms_post_quant" },
		                                { "v_norms_padded", "v_norms_post_quant" } };
	for (int i = 0; i < 4; i++) {
		json_object_set(paths, names[i][1], json_object_get(paths, names[i][0]));
		json_object_del(paths, names[i][0]);
	}
	json_object_set(j, "inputs", paths);
	json_object_del(j, "dump_paths");
	json_object_set_new(j, "compact_sources", json_pack("{s:s}", "k", "somewhere.bin"));
	json_object_set_new(json_object_get(j, "params"), "soft_cap", json_real(30));
	assert_int_equal(json_dump_file(j, in_folder("linear-0/alias.json"), 0), 0);
	json_decref(j);
	const struct st_replay_options o = { .mode = ST_REPLAY_SINGLESTEP,
		                             .manifest = in_folder("linear-0/alias.json"),
		                             .variation = 'A',
		                             .signs = -1 };
	j = replay(&o, &status);
	assert_true(num(j, "dequant_oracle_nrmse", NULL) < 1e-5);
	assert_true(json_is_false(json_object_get(j, "compact_sources")));
	assert_int_equal(json_array_size(json_object_get(j, "params_not_read")), 1);
	assert_string_equal(json_string_value(json_array_get(json_object_get(j, "params_not_read"), 0)), "soft_cap");
	json_decref(j);
}

/* No output takes the place of a file that is read, under whichever name. */
static void inputs_are_not_overwritten(void **state)
{
	(void)state;
	int status;
	const struct st_replay_options make = { .mode = ST_REPLAY_MAKE, .make = "d128", .out = in_folder("kept") };
	json_decref(replay(&make, &status));
	json_t *j = json_load_file(in_folder("kept/manifest.json"), 0, NULL);
	json_object_set_new(json_object_get(j, "dump_paths"), "q_natural", json_string("q_sdpa_out.bin"));
	assert_int_equal(json_dump_file(j, in_folder("kept/q.json"), 0), 0);
	assert_int_equal(rename(in_folder("kept/q_natural.f32"), in_folder("kept/q_sdpa_out.bin")), 0);
	assert_int_equal(symlink("kept/q.json", in_folder("link.json")), 0);
	static const char *const outs[] = { "kept/q.json", "kept/q", "link.json", "kept/../kept/q", "other.json" };
	for (size_t i = 0; i < 5; i++) {
		/* The last: its .bin would be the query. */
		if (i == 4)
			assert_int_equal(symlink("kept/q_sdpa_out.bin", in_folder("other_sdpa_out.bin")), 0);
		const struct st_replay_options o = { .mode = ST_REPLAY_SINGLESTEP,
			                             .variation = 'A',
			                             .signs = -1,
			                             .manifest = in_folder("kept/q.json"),
			                             .out = in_folder(outs[i]) };
		refused(&o, "--out");
		json_t *now = json_load_file(in_folder("kept/q.json"), 0, NULL);
		assert_true(json_equal(now, j));
		json_decref(now);
	}
	json_decref(j);
	/* The foreign output, and a table of levels. */
	write_bytes(in_folder("engine.json"), (float[4 * 128]){ 0 }, 4 * 128 * 4);
	const struct st_replay_options o = { .mode = ST_REPLAY_SINGLESTEP,
		                             .variation = 'A',
		                             .signs = -1,
		                             .manifest = in_folder("kept/q.json"),
		                             .against = in_folder("engine.json"),
		                             .out = in_folder("engine") };
	refused(&o, "--out");
	write_text(in_folder("levels.json"), "0.4527800 1.5104176\n");
	const struct st_replay_options lint = { .mode = ST_REPLAY_LINT,
		                                .table = in_folder("levels.json"),
		                                .out = in_folder("levels") };
	refused(&lint, "--out");
}

static void bad_options_are_refused(void **state)
{
	(void)state;
	const char *m = capture("linear", 0);
	const struct st_replay_options base = {
		.mode = ST_REPLAY_SINGLESTEP, .manifest = m, .variation = 'A', .signs = -1
	};
	struct st_replay_options o = base;
	o.variation = 'D';
	refused(&o, "variation");
	o = base, o.oracles = 8;
	refused(&o, "oracle");
	o = base, o.canary = (enum st_replay_canary)9;
	refused(&o, "canary");
	o = base, o.kernel = "mmx";
	refused(&o, "kernel");
	o = base, o.bits = 7;
	refused(&o, "bits");
	o = base, o.bits = 5;
	refused(&o, "bits");
	o = base, o.out = in_folder("no/such/folder/x");
	refused(&o, "--out");
	o = base, o.out = "";
	refused(&o, "--out");
	o = base, o.against = in_folder("absent.bin");
	refused(&o, "--against");
	o = base, o.against = m;
	refused(&o, "--against");
	o = (struct st_replay_options){ .mode = ST_REPLAY_MAKE, .make = "tube", .out = in_folder("x") };
	refused(&o, "make-manifest");
	o = (struct st_replay_options){ .mode = ST_REPLAY_MAKE };
	refused(&o, "--out");
	o = (struct st_replay_options){ .mode = ST_REPLAY_MAKE, .out = in_folder("linear-0") };
	refused(&o, "--out"); /* exists */
	o = (struct st_replay_options){ .mode = ST_REPLAY_GATE, .gate = "wooden" };
	refused(&o, "gate");
	o = (struct st_replay_options){ .mode = ST_REPLAY_PRODUCTION, .null_seeds = 50 };
	refused(&o, "null-seeds");
	o = (struct st_replay_options){ .mode = ST_REPLAY_PRODUCTION };
	refused(&o, "gate"); /* no way to run them */
	o = (struct st_replay_options){ .mode = ST_REPLAY_LINT, .table = in_folder("absent.txt") };
	refused(&o, "--table");
	write_text(in_folder("linear-0/t.txt"), "1 2 three 4");
	o.table = in_folder("linear-0/t.txt");
	refused(&o, "--table");
	write_text(in_folder("linear-0/t.txt"), "1 2 3");
	refused(&o, "--table");
}

static void lint_reads_tables(void **state)
{
	(void)state;
	int status;
	struct st_replay_options o = { .mode = ST_REPLAY_LINT, .out = in_folder("lint") };
	json_t *j = replay(&o, &status);
	assert_int_equal(status, 0);
	assert_int_equal(json_array_size(json_object_get(j, "codebooks")), 7 + 3);
	const json_t *known = json_array_get(json_object_get(j, "known"), 0);
	assert_string_equal(str(known, "name", NULL), "shipped-8bit");
	assert_true(fabs(num(known, "mse_excess", NULL) - 0.52) < 0.01);
	json_decref(j);
	/* The published 4-bit half table is recognised and optimal; with one level moved it is caught. */
	write_text(in_folder("t.txt"),
	           "# half\n0.1283950, 0.3880483, 0.6567591 0.9423405 1.2562312 1.6180464 2.0690172 2.7325896f\n");
	o = (struct st_replay_options){ .mode = ST_REPLAY_LINT, .table = in_folder("t.txt") };
	j = replay(&o, &status);
	assert_int_equal(status, 0);
	assert_string_equal(str(json_array_get(json_object_get(j, "codebooks"), 0), "recognised", NULL),
	                    "published-4bit");
	json_decref(j);
	/* With more digits than an f64 has they are the same numbers; what is longer than any f64 is refused, not cut.
	 */
	static const double half[] = { 0.1283950, 0.3880483, 0.6567591, 0.9423405,
		                       1.2562312, 1.6180464, 2.0690172, 2.7325896 };
	static char digits[9 * 1100];
	size_t n = 0;
	for (int i = 0; i < 8; i++)
		n += (size_t)snprintf(digits + n, sizeof digits - n, "%.*f\n", 60 + 100 * i, half[i]);
	write_text(in_folder("t.txt"), digits);
	j = replay(&o, &status);
	assert_int_equal(status, 0);
	assert_string_equal(str(json_array_get(json_object_get(j, "codebooks"), 0), "recognised", NULL),
	                    "published-4bit");
	json_decref(j);
	snprintf(digits + n, sizeof digits - n, "%.1022f\n", 3.5);
	write_text(in_folder("t.txt"), digits);
	refused(&o, "--table");
	write_text(in_folder("t.txt"),
	           "0.1283950 0.3880483 0.6567591 0.9423405 1.2562312 1.6180464 2.0690172 2.8325896");
	j = replay(&o, &status);
	assert_int_equal(status, 2);
	assert_true(fabs(num(json_array_get(json_object_get(j, "codebooks"), 0), "distance_from_optimum", NULL) - 0.1)
	            < 1e-6);
	json_decref(j);
}

/* ---- gates ---- */

struct fake {
	const char *fail, *build;
	bool refuse;
	int calls;
};

static bool fake_gate(void *user, const char *gate, struct st_replay_gate_result *r)
{
	struct fake *f = user;
	f->calls++;
	r->exit_code = f->fail && !strcmp(f->fail, gate) ? 3 : 0;
	r->duration_ms = 1;
	strcpy(r->build_id, f->build);
	snprintf(r->output, sizeof r->output, "%s: measured 1, expected 2: FAILED\n", gate);
	return !f->refuse;
}

/* A failing gate, a gate of another build, a gate that cannot start: nothing is measured, no audit, status 3. */
static void gates_stop_the_run(void **state)
{
	(void)state;
	static const struct {
		struct fake f;
		const char *gate, *status;
		int calls;
	} cases[] = {
		{ { "bitwidth", "mine", false, 0 }, "bitwidth", "fail", 2 },
		{ { NULL, "theirs", false, 0 }, "round_trip", "foreign_build", 1 },
		{ { NULL, "", false, 0 }, "round_trip", "foreign_build", 1 },
		{ { NULL, "mine", true, 0 }, "round_trip", "not_started", 1 },
	};
	for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
		struct fake f = cases[i].f;
		int status;
		const struct st_replay_options o = { .mode = ST_REPLAY_PRODUCTION,
			                             .out = in_folder("audit"),
			                             .run_gate = fake_gate,
			                             .gate_user = &f,
			                             .build_id = "mine",
			                             .signs = -1 };
		json_t *j = replay(&o, &status);
		assert_int_equal(status, 3);
		assert_int_equal(f.calls, cases[i].calls);
		assert_string_equal(str(j, "verdict", NULL), "GATE_FAILED");
		assert_string_equal(str(json_object_get(j, "regression_gates"), cases[i].gate, "status"),
		                    cases[i].status);
		assert_null(json_object_get(j, "sweep_A"));
		assert_true(access(in_folder("audit.json"), F_OK) != 0);
		assert_true(access(in_folder("audit"), F_OK) != 0);
		json_decref(j);
	}
}

static bool interrupted_gate(void *user, const char *gate, struct st_replay_gate_result *r)
{
	(void)gate;
	++*(int *)user;
	r->exit_code = 130;
	st_cancel();
	return true;
}

/* A gate that an interrupt ended says nothing about the build. */
static void an_interrupt_is_no_failed_gate(void **state)
{
	(void)state;
	struct st_error err = ST_ERROR_INIT;
	struct st_replay_report rep;
	int calls = 0;
	const struct st_replay_options o = { .mode = ST_REPLAY_PRODUCTION,
		                             .out = in_folder("audit"),
		                             .run_gate = interrupted_gate,
		                             .gate_user = &calls,
		                             .build_id = "mine",
		                             .signs = -1 };
	assert_int_equal(st_replay_run(&o, &rep, &err), ST_ERR_CANCELLED);
	st_cancel_reset();
	assert_int_equal(calls, 1);
	assert_true(access(in_folder("audit.json"), F_OK) != 0);
}

static void round_trip_gate_passes(void **state)
{
	(void)state;
	FOR_LEVELS(cpu)
	{
		int status;
		const struct st_replay_options o = {
			.mode = ST_REPLAY_GATE, .gate = "round_trip", .kernel = st_cpu_name(cpu), .signs = -1
		};
		json_t *j = replay(&o, &status);
		assert_true(json_is_true(json_object_get(j, "passed")));
		assert_int_equal(status, 0);
		json_decref(j);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(multistep_values_on_record),
		cmocka_unit_test(multistep_on_every_level),
		cmocka_unit_test(production_values_on_record),
		cmocka_unit_test(variations),
		cmocka_unit_test(own_output_matches),
		cmocka_unit_test(every_oracle_reports_the_kernel),
		cmocka_unit_test(the_newest_row_alone_will_do),
		cmocka_unit_test(compact_sources_are_the_oracle),
		cmocka_unit_test(canary_report_and_output_are_one_run),
		cmocka_unit_test(canaries),
		cmocka_unit_test(canaries_of_variation_b),
		cmocka_unit_test(broken_query_is_the_inputs_fault),
		cmocka_unit_test(physical_visibility_is_reported),
		cmocka_unit_test(no_op_toggle_is_reported),
		cmocka_unit_test(bad_manifests_are_refused),
		cmocka_unit_test(codes_of_another_width_are_refused),
		cmocka_unit_test(aliases_are_read),
		cmocka_unit_test(inputs_are_not_overwritten),
		cmocka_unit_test(bad_options_are_refused),
		cmocka_unit_test(lint_reads_tables),
		cmocka_unit_test(gates_stop_the_run),
		cmocka_unit_test(an_interrupt_is_no_failed_gate),
		cmocka_unit_test(round_trip_gate_passes),
	};
	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
