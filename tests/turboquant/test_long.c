/*
 * The slow half: the whole production-faithful run with its null distribution, and every gate; what the
 * audit must and must not contain.
 */
#include "tq_test.h"
#include "folder.h"

static bool in_process_gate(void *user, const char *gate, struct st_replay_gate_result *r)
{
	struct st_error err = ST_ERROR_INIT;
	struct st_replay_report rep;
	const struct st_replay_options o = { .mode = ST_REPLAY_GATE, .gate = gate, .signs = -1 };
	(void)user;
	if (st_replay_run(&o, &rep, &err) != ST_OK)
		return false;
	r->exit_code = rep.exit_status;
	r->duration_ms = 1;
	strcpy(r->build_id, "this");
	snprintf(r->output, sizeof r->output, "%s", rep.text);
	st_replay_report_release(&rep);
	return true;
}

static json_t *production(bool physical, bool f16, uint64_t seed, const char *out, int *status)
{
	struct st_error err = ST_ERROR_INIT;
	struct st_replay_report rep;
	const struct st_replay_options o = { .mode = ST_REPLAY_PRODUCTION,
		                             .physical = physical,
		                             .q_f16 = f16,
		                             .signs = -1,
		                             .out = out,
		                             .build_id = "this",
		                             .run_gate = in_process_gate,
		                             .seed_given = seed != 0,
		                             .seed = seed };
	assert_ok(st_replay_run(&o, &rep, &err), &err);
	json_t *j = json_loads(rep.json, JSON_REJECT_DUPLICATES, NULL);
	assert_non_null(j);
	*status = rep.exit_status;
	st_replay_report_release(&rep);
	return j;
}

static double num(const json_t *j, const char *key)
{
	const json_t *x = json_object_get(j, key);
	assert_true(json_is_number(x));
	return json_number_value(x);
}

static void audit(void **state)
{
	(void)state;
	int status;
	json_t *j = production(true, true, 0, in_folder("new"), &status);
	const json_t *a = json_object_get(j, "sweep_A"), *b = json_object_get(j, "sweep_B"),
		     *ring = json_object_get(j, "ring_wrap");
	assert_int_equal(json_array_size(a), 6);
	assert_int_equal(json_array_size(b), 5);
	assert_int_equal(json_array_size(ring), 2);
	/* A folder that was not there holds the audit, and nothing else. */
	json_t *file = json_load_file(in_folder("new/audit.json"), 0, NULL);
	assert_true(json_equal(file, j));
	json_decref(file);
	assert_true(num(j, "ran_at") > 1700000000);
	/* On record. */
	assert_true(fabs(num(json_array_get(a, 2), "nrmse") - 0.4234064) <= 5e-4);
	assert_true(fabs(num(json_array_get(b, 3), "nrmse") - 0.3686234) <= 5e-4);
	assert_true(num(json_array_get(a, 2), "rng_u64s_consumed_before") == 1581056);
	assert_true(num(json_array_get(b, 3), "rng_u64s_consumed_before") == 19238912);
	assert_string_equal(json_string_value(json_object_get(j, "verdict")), "BAND_PRE_FALSIFIED");
	assert_int_equal(status, 2);
	/* The band is the registered one, and band_ok follows from it. */
	const json_t *band = json_object_get(j, "band");
	assert_true(num(band, "lower") == 0.05 && num(band, "upper") == 0.35);
	uint64_t last = 0;
	size_t n = 0;
	double seen[32];
	for (int s = 0; s < 2; s++) {
		size_t i;
		json_t *x;
		json_array_foreach(s ? b : a, i, x)
		{
			double e = num(x, "nrmse"), before = num(x, "rng_u64s_consumed_before");
			assert_true(json_is_true(json_object_get(x, "band_ok")) == (e >= 0.05 && e <= 0.35));
			/* Draws follow one another: one generator, never reseeded, nothing measured twice. */
			assert_true(n == 0 || before > (double)last);
			last = (uint64_t)before;
			for (size_t k = 0; k < n; k++)
				assert_true(seen[k] != e);
			seen[n++] = e;
			const json_t *null = json_object_get(x, "null");
			assert_true(fabs((e - num(null, "mean")) / num(null, "sd") - num(null, "z")) < 1e-9);
			/* A single draw: mean 0.367, standard deviation 0.099 on record for kvl 512. */
			if (num(x, "kvl_logical") == 512) {
				assert_true(fabs(num(null, "mean") - 0.367) < 3 * 0.099 / sqrt(200));
				assert_true(fabs(num(null, "sd") / 0.099 - 1) < 0.15);
				assert_true(num(null, "outside_band") > 0.5);
			}
		}
	}
	/* The intersection is two draws, and the fields say by how much they differ. */
	const json_t *x = json_object_get(j, "intersection_check");
	assert_true(json_is_false(json_object_get(x, "match_to_7_decimal_places")));
	assert_true(
		fabs(num(x, "absdiff") - fabs(num(json_array_get(a, 2), "nrmse") - num(json_array_get(b, 3), "nrmse")))
		< 1e-12);
	assert_true(num(json_object_get(j, "null"), "seeds") >= 200);
	assert_true(num(json_object_get(j, "null"), "band_rejection_rate") > 0.5);
	assert_string_equal(json_string_value(json_object_get(j, "second_verdict")), "NULL_CONSISTENT");
	/* (256, 1024, 27) sees 229 of 256 in existing kernels. */
	x = json_object_get(json_array_get(ring, 1), "rows_a");
	assert_true(num(x, "visible_rows") == 229 && num(x, "expected_rows") == 256);
	size_t i;
	json_t *leg;
	json_array_foreach(ring, i, leg)
	{
		double ab = num(leg, "ring_start_B_nrmse") - num(leg, "ring_start_A_nrmse");
		assert_true(num(leg, "ab_delta") == ab);
		assert_true(json_is_true(json_object_get(leg, "vacuous")) == (ab == 0));
	}
	x = json_object_get(j, "rng");
	assert_true(num(x, "total_u64s_consumed") == 19238912 + 2 * (500 * 4096 + 4096) + 2 * (256 * 4096 + 4096));
	assert_string_equal(json_string_value(json_object_get(x, "seed_literal")), "0xC25EED");
	const char *gate;
	json_t *g;
	n = 0;
	json_object_foreach(json_object_get(j, "regression_gates"), gate, g)
	{
		assert_string_equal(json_string_value(json_object_get(g, "status")), "pass");
		assert_true(json_array_size(json_object_get(g, "last_lines")) > 0);
		n++;
	}
	assert_int_equal(n, 3);
	json_decref(j);
}

/* With every token seen, the wrong ring start of leg B costs something; and another seed agrees with the null. */
static void chronological_legs_differ(void **state)
{
	(void)state;
	int status;
	json_t *j = production(false, false, 0, NULL, &status), *leg;
	size_t i;
	json_array_foreach(json_object_get(j, "ring_wrap"), i, leg)
		assert_true(num(json_object_get(leg, "rows_a"), "visible_rows") == 256);
	leg = json_array_get(json_object_get(j, "ring_wrap"), 1);
	assert_true(json_is_false(json_object_get(leg, "vacuous")));
	assert_true(num(leg, "ab_delta") > 1e-4);
	json_decref(j);
	j = production(false, false, 12345, NULL, &status);
	assert_string_equal(json_string_value(json_object_get(j, "second_verdict")), "NULL_CONSISTENT");
	json_decref(j);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(audit),
		cmocka_unit_test(chronological_legs_differ),
	};
	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
