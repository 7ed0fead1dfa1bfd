/*
 * Traces with bytes changed, judged by one thread and by three: no crash, a refusal that says why, and an answer that is the
 * same for both. A trace of no sound value is no match.
 *
 *   test_explain_damaged [CASES]
 */
#include "robust/damage.h"

#include <stele/explain.h>

static uint64_t n_cases = 300;

static void make_trace(void)
{
	struct st_error err = ST_ERROR_INIT;
	struct st_model *m;
	const uint32_t tokens[] = { 3, 1, 4 };
	struct st_stage_set all;
	assert_ok(st_model_open(in_folder("model.gguf"), &m, &err), &err);
	assert_ok(st_trace_parse_stages("all", &all, &err), &err);
	const struct st_trace_options o = {
		.tokens = tokens, .n_tokens = 3, .threads = 1, .steps = 1, .capture = all, .bundle = in_folder("all.safetensors")
	};
	assert_ok(st_trace_run(m, &o, &err), &err);
	st_model_close(m);
}

static struct st_explain *judge(int threads, struct st_error *err)
{
	struct st_explain *x = NULL;
	const struct st_explain_options o = { .threads = threads, .keep_going = true };
	enum st_status st = st_explain_run(in_folder("damaged.safetensors"), in_folder("model.gguf"), &o, &x, err);
	if ((st == ST_OK) != (x != NULL) || (st != ST_OK) != (err->message[0] != 0) || strchr(err->message, '\n'))
		fail_msg("status %d, \"%s\"", st, err->message);
	return x;
}

static void damaged_traces(void **state)
{
	(void)state;
	size_t n, refused = 0, faulty = 0;
	make_trace();
	uint8_t *whole = read_bytes(in_folder("all.safetensors"), &n), *p = malloc(n + 64);
	assert_non_null(p);
	uint64_t header;
	memcpy(&header, whole, sizeof header);
	for (uint64_t k = 0; k < n_cases; k++) {
		struct st_error one = ST_ERROR_INIT, three = ST_ERROR_INIT;
		size_t len = n;
		st_xoshiro_seed(&rng, k);
		memcpy(p, whole, n);
		if (k % 10 == 0)
			len = below(n); /* cut */
		else if (k % 2) /* a digit of a number in the header, so that it is still JSON */
			for (uint64_t i = 1 + below(3); i > 0;) {
				size_t at = 8 + below(header);
				i -= p[at] >= '0' && p[at] <= '9';
				if (p[at] >= '0' && p[at] <= '9')
					p[at] = (uint8_t)('0' + below(10));
			}
		else
			p[8 + header + below(n - 8 - header)] ^= (uint8_t)(1 + below(255));
		save_n("damaged.safetensors", p, len);
		struct st_explain *x = judge(1, &one), *y = judge(3, &three);
		assert_int_equal(x != NULL, y != NULL);
		assert_string_equal(one.message, three.message);
		refused += !x;
		if (x) {
			assert_true(x->n_stages > 0 || x->verdict >= ST_VERDICT_FAULT);
			assert_int_equal(x->verdict, y->verdict);
			assert_int_equal(x->n_findings, y->n_findings);
			assert_int_equal(x->n_stages, y->n_stages);
			for (size_t i = 0; i < x->n_findings; i++)
				assert_string_equal(x->findings[i].text, y->findings[i].text);
			faulty += x->verdict == ST_VERDICT_FAULT;
			st_explain_free(x);
			st_explain_free(y);
		}
		st_error_clear(&one);
		st_error_clear(&three);
	}
	print_message("# %llu traces: %zu refused, %zu at fault\n", (unsigned long long)n_cases, refused, faulty);
	assert_true(refused > n_cases / 20 && faulty > n_cases / 20 && refused + faulty < n_cases);
	free(whole);
	free(p);
}

int main(int argc, char **argv)
{
	if (argc > 1)
		n_cases = strtoull(argv[1], NULL, 10);
	const struct CMUnitTest tests[] = { cmocka_unit_test(damaged_traces) };
	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests(tests, make_good_files, remove_folder);
}
