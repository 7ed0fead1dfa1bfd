/* diff: stage files, traces, models and plain tensors, on files written here byte by byte. */
#include "test.h"
#include "folder.h"

#include <stele/diff.h>

#include <math.h>
#include <sys/stat.h>

static void write_parts(const char *path, const void *head, size_t n_head, const void *body, size_t n_body)
{
	FILE *f = fopen(path, "w");
	assert_non_null(f);
	assert_int_equal(fwrite(head, 1, n_head, f), n_head);
	assert_int_equal(fwrite(body, 1, n_body, f), n_body);
	fclose(f);
}

static void write_aprt(const char *path, uint32_t layer, const float *x, uint32_t n)
{
	uint32_t head[3] = { 0x54525041, layer, n };
	write_parts(path, head, sizeof head, x, n * sizeof *x);
}

/* A bundle of two stages, [3, 4] each. `meta` is put into __metadata__ after the format. */
static void write_bundle(const char *path, const char *meta, const float *norm, const float *logits)
{
	char json[1024];
	uint64_t n = (uint64_t)snprintf(json, sizeof json,
		"{\"__metadata__\":{\"format\":\"stele-trace\",\"version\":\"1\"%s},"
		"\"layers.0.attn_norm\":{\"dtype\":\"F32\",\"shape\":[3,4],\"data_offsets\":[0,48]},"
		"\"lm_head\":{\"dtype\":\"F32\",\"shape\":[3,4],\"data_offsets\":[48,96]}}", meta);
	float body[24];
	memcpy(body, norm, 48);
	memcpy(body + 12, logits, 48);
	char head[1100];
	memcpy(head, &n, 8);
	memcpy(head + 8, json, n);
	write_parts(path, head, 8 + n, body, sizeof body);
}

static enum st_status run(const char *a, const char *b, double threshold, struct st_diff **d, struct st_error *err)
{
	struct st_diff_options o = { .limit = 3, .threshold = threshold, .threads = 2 };
	return st_diff_run(a, b, &o, d, err);
}

static struct st_diff *diff(const char *a, const char *b, double threshold)
{
	struct st_diff *d;
	struct st_error err = ST_ERROR_INIT;
	assert_ok(run(a, b, threshold, &d, &err), &err);
	return d;
}

static void refused(const char *a, const char *b, enum st_status code, const char *part)
{
	struct st_diff *d;
	struct st_error err = ST_ERROR_INIT;
	assert_int_equal(run(a, b, NAN, &d, &err), code);
	if (!strstr(err.message, part))
		fail_msg("\"%s\" does not say \"%s\"", err.message, part);
}

static void stage_files(void **state)
{
	(void)state;
	float x[6] = { 1, 2, 3, 4, 5, 6 }, y[6] = { 1, 2.5f, 3, 4.25f, 5, 5.5f };
	write_aprt(in_folder("attn_norm.bin"), 3, x, 6);
	mkdir(in_folder("o"), 0755);
	write_aprt(in_folder("o/attn_norm.bin"), 3, y, 6);
	struct st_diff *d = diff(in_folder("attn_norm.bin"), in_folder("o/attn_norm.bin"), NAN);
	assert_int_equal(d->kind, ST_DIFF_STAGES);
	assert_string_equal(d->stage.stage, "attn_norm");
	assert_int_equal(d->stage.layer, 3);
	assert_true(d->stage.m.max_abs == 0.5 && d->stage.m.max_abs_index == 1);
	assert_true(fabs(d->stage.m.mean_abs - 1.25 / 6) < 1e-15);
	assert_int_equal(d->stage.n_top, 3);
	/* By size, ties by index. */
	assert_true(d->stage.top[0].index == 1 && d->stage.top[1].index == 5 && d->stage.top[2].index == 3);
	assert_true(d->stage.top[1].a == 6 && d->stage.top[1].b == 5.5f);
	assert_int_equal(st_diff_exit(d), 3); /* different, and nothing says by how much it may be */
	st_diff_free(d);
	d = diff(in_folder("attn_norm.bin"), in_folder("o/attn_norm.bin"), 0.6);
	assert_int_equal(st_diff_exit(d), 0);
	st_diff_free(d);
	d = diff(in_folder("attn_norm.bin"), in_folder("o/attn_norm.bin"), 0.4);
	assert_int_equal(st_diff_exit(d), 1);
	st_diff_free(d);
	d = diff(in_folder("attn_norm.bin"), in_folder("attn_norm.bin"), NAN);
	assert_int_equal(st_diff_exit(d), 0);
	st_diff_free(d);
}

static void a_nan_on_one_side_is_infinitely_far(void **state)
{
	(void)state;
	float x[3] = { 1, NAN, 3 }, y[3] = { 1, 2, 3 };
	write_aprt(in_folder("ffn_out.bin"), 0, x, 3);
	mkdir(in_folder("o"), 0755);
	write_aprt(in_folder("o/ffn_out.bin"), 0, y, 3);
	struct st_diff *d = diff(in_folder("ffn_out.bin"), in_folder("o/ffn_out.bin"), 1e9);
	assert_true(isinf(d->stage.m.max_abs));
	assert_int_equal(d->stage.m.nonfinite_a, 1);
	assert_int_equal(st_diff_exit(d), 1);
	st_diff_free(d);
}

static void stages_that_are_not_the_same_are_refused(void **state)
{
	(void)state;
	float x[6] = { 1, 2, 3, 4, 5, 6 };
	write_aprt(in_folder("attn_norm.bin"), 3, x, 6);
	write_aprt(in_folder("ffn_norm.bin"), 3, x, 6);
	mkdir(in_folder("l"), 0755);
	write_aprt(in_folder("l/attn_norm.bin"), 4, x, 6);
	mkdir(in_folder("n"), 0755);
	write_aprt(in_folder("n/attn_norm.bin"), 3, x, 5);
	refused(in_folder("attn_norm.bin"), in_folder("ffn_norm.bin"), ST_ERR_MISMATCH, "stages differ");
	refused(in_folder("attn_norm.bin"), in_folder("l/attn_norm.bin"), ST_ERR_MISMATCH, "layers differ");
	refused(in_folder("attn_norm.bin"), in_folder("n/attn_norm.bin"), ST_ERR_MISMATCH, "lengths differ");
	refused(in_folder("attn_norm.bin"), in_folder("absent"), ST_ERR_IO, "No such file");
}

static const char known[] = ",\"tokens\":\"[1,2,3]\",\"engine\":\"stele\",\"mode\":\"exact\",\"weights\":\"F32\",\"rope_layout\":\"half\"";
static const char quantised[] = ",\"tokens\":\"[1,2,3]\",\"engine\":\"stele\",\"mode\":\"exact\",\"weights\":\"Q4_0\",\"rope_layout\":\"half\"";
static const char other_tokens[] = ",\"tokens\":\"[1,2,4]\",\"engine\":\"stele\",\"mode\":\"exact\",\"weights\":\"F32\"";

static void traces(void **state)
{
	(void)state;
	float x[12], y[12], z[12];
	for (int i = 0; i < 12; i++) {
		x[i] = (float)(i + 1);
		y[i] = x[i] * (1 + 1e-7f);
		z[i] = x[i] + (i == 5 ? 1.0f : 0);
	}
	write_bundle(in_folder("a.safetensors"), known, x, x);
	write_bundle(in_folder("b.safetensors"), known, y, x);
	write_bundle(in_folder("c.safetensors"), known, x, z);
	struct st_diff *d = diff(in_folder("a.safetensors"), in_folder("b.safetensors"), NAN);
	assert_int_equal(d->kind, ST_DIFF_TRACES);
	assert_int_equal(d->compared, 2);
	assert_int_equal(st_diff_exit(d), 0); /* rounding */
	st_diff_free(d);
	d = diff(in_folder("a.safetensors"), in_folder("c.safetensors"), NAN);
	assert_int_equal(st_diff_exit(d), 1);
	assert_int_equal(d->first, 1);
	assert_int_equal(d->rows[1].stage, ST_STAGE_LM_HEAD);
	assert_int_equal(d->rows[1].worst_position, 1);
	/* Row 1 of c is 5, 7, 7, 8 against a's 5, 6, 7, 8. */
	assert_true(fabs(d->rows[1].max_rel_l2 - 1 / sqrt(25 + 49 + 49 + 64)) < 1e-12);
	st_diff_free(d);
	/* Against 4-bit weights a few percent are expected: no fault. */
	for (int i = 0; i < 12; i++)
		y[i] = x[i] * (1 + 0.03f * (i % 2 ? 1 : -1));
	write_bundle(in_folder("q.safetensors"), quantised, y, y);
	d = diff(in_folder("q.safetensors"), in_folder("a.safetensors"), NAN);
	assert_int_equal(st_diff_exit(d), 0);
	st_diff_free(d);
	/* Two traces that say nothing of their types: undecided. */
	write_bundle(in_folder("u.safetensors"), ",\"tokens\":\"[1,2,3]\"", y, y);
	d = diff(in_folder("u.safetensors"), in_folder("a.safetensors"), NAN);
	assert_int_equal(st_diff_exit(d), 3);
	st_diff_free(d);
	write_bundle(in_folder("t.safetensors"), other_tokens, x, x);
	refused(in_folder("t.safetensors"), in_folder("a.safetensors"), ST_ERR_MISMATCH, "tokens.mismatch");
	refused(in_folder("a.safetensors:no_such"), in_folder("a.safetensors"), ST_ERR_USAGE, "no tensor of that name");
}

static void one_stage_of_a_bundle(void **state)
{
	(void)state;
	float x[12];
	for (int i = 0; i < 12; i++)
		x[i] = (float)i;
	write_bundle(in_folder("a.safetensors"), known, x, x);
	write_aprt(in_folder("attn_norm.bin"), 0, x, 12);
	char key[300];
	snprintf(key, sizeof key, "%s:layers.0.attn_norm", in_folder("a.safetensors"));
	struct st_diff *d = diff(key, in_folder("attn_norm.bin"), NAN);
	assert_int_equal(d->kind, ST_DIFF_STAGES);
	assert_int_equal(st_diff_exit(d), 0);
	assert_int_equal(d->stage.rows, 3);
	st_diff_free(d);
	refused(in_folder("a.safetensors"), in_folder("attn_norm.bin"), ST_ERR_MISMATCH, "of one kind");
}

/* Containers that are no model are compared tensor by tensor, and nothing is left out. */
static void plain_tensors(void **state)
{
	(void)state;
	static const char *const heads[] = {
		"{\"x\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]},\"y\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[8,12]}}",
		"{\"x\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]},\"z\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[8,12]}}",
	};
	float body[3] = { 1, 2, 3 };
	for (int i = 0; i < 2; i++) {
		char head[300];
		uint64_t n = strlen(heads[i]);
		memcpy(head, &n, 8);
		memcpy(head + 8, heads[i], n);
		body[1] += (float)i;
		write_parts(in_folder(i ? "b.safetensors" : "a.safetensors"), head, 8 + n, body, sizeof body);
	}
	struct st_diff *d = diff(in_folder("a.safetensors"), in_folder("b.safetensors"), NAN);
	assert_int_equal(d->kind, ST_DIFF_TENSORS);
	assert_int_equal(d->compared, 1);
	assert_int_equal(d->only_a, 1);
	assert_int_equal(d->only_b, 1);
	assert_true(d->tensors[0].m.max_abs == 1);
	assert_int_equal(st_diff_exit(d), 1);
	st_diff_free(d);
}

static void shared_models_and_captures(void **state)
{
	(void)state;
	const char *gguf = shared_path("models/stories260k/model.gguf"), *q4 = shared_path("models/stories260k/model-q4_0.gguf");
	const char *bad = shared_path("models/stories260k/fault-q-transposed.apr");
	struct st_diff *d = diff(gguf, q4, NAN);
	assert_int_equal(d->kind, ST_DIFF_MODELS);
	assert_int_equal(st_diff_exit(d), 0);
	st_diff_free(d);
	d = diff(bad, gguf, NAN);
	assert_int_equal(st_diff_exit(d), 1);
	assert_string_equal(d->weights[d->first].cause.code, "weight.transposed");
	st_diff_free(d);
}

int main(void)
{
#define CASE(f) cmocka_unit_test_setup_teardown(f, make_folder, remove_folder)
	const struct CMUnitTest tests[] = {
		CASE(stage_files), CASE(a_nan_on_one_side_is_infinitely_far), CASE(stages_that_are_not_the_same_are_refused),
		CASE(traces), CASE(one_stage_of_a_bundle), CASE(plain_tensors), CASE(shared_models_and_captures),
	};
	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
