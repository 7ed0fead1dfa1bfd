/* diff: stage files, traces, models and plain tensors, on files written here byte by byte. */
#include "graph/stage.h"
#include "test.h"
#include "folder.h"
#include "judge/toy.h"

#include "base/rng.h"
#include "compare/diff.h"

#include <stele/diff.h>

#include <jansson.h>
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
	uint64_t n = (uint64_t)snprintf(
		json, sizeof json,
		"{\"__metadata__\":{\"format\":\"stele-trace\",\"version\":\"1\"%s},"
		"\"layers.0.attn_norm\":{\"dtype\":\"F32\",\"shape\":[3,4],\"data_offsets\":[0,48]},"
		"\"lm_head\":{\"dtype\":\"F32\",\"shape\":[3,4],\"data_offsets\":[48,96]}}",
		meta);
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
	struct st_diff_options o = { .limit = 3, .threshold = threshold, .rel_threshold = NAN, .threads = 2 };
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

static const char known[] =
	",\"tokens\":\"[1,2,3]\",\"engine\":\"stele\",\"mode\":\"exact\",\"weights\":\"F32\",\"rope_layout\":\"half\"";
static const char quantised[] =
	",\"tokens\":\"[1,2,3]\",\"engine\":\"stele\",\"mode\":\"exact\",\"weights\":\"Q4_0\",\"rope_layout\":\"half\"";
static const char other_tokens[] =
	",\"tokens\":\"[1,2,4]\",\"engine\":\"stele\",\"mode\":\"exact\",\"weights\":\"F32\"";

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
		"{\"x\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]},\"y\":{\"dtype\":\"F32\",\"shape\":[1]"
		",\"data_offsets\":[8,12]}}",
		"{\"x\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]},\"z\":{\"dtype\":\"F32\",\"shape\":[1]"
		",\"data_offsets\":[8,12]}}",
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

/* One tensor in a file of its own; `type` is how the bytes are labelled. */
static void write_tensor(const char *path, const char *type, const char *shape, const void *data, size_t n)
{
	char json[200], head[220];
	uint64_t len = (uint64_t)snprintf(json, sizeof json,
	                                  "{\"w.weight\":{\"dtype\":\"%s\",\"shape\":%s,\"data_offsets\":[0,%zu]}}",
	                                  type, shape, n);
	memcpy(head, &len, 8);
	memcpy(head + 8, json, len);
	write_parts(path, head, 8 + len, data, n);
}

static int diff_exit(const char *a, const char *b)
{
	struct st_diff *d = diff(a, b, NAN);
	int status = st_diff_exit(d);
	assert_true((status == 3) == (d->why != NULL));
	st_diff_free(d);
	return status;
}

/* A set that lacks tensors, holds none, or holds nothing finite is never the same as another, itself included. */
static void nothing_compared_is_no_match(void **state)
{
	(void)state;
	struct toy one, two;
	toy_make(&one, "zorp", 64, false);
	toy_make(&two, "zorp", 64, false);
	toy_find(&two, "model.norm.weight")->absent = true;
	toy_write(&one, in_folder("all.gguf"), ST_DTYPE_F32, true);
	toy_write(&two, in_folder("fewer.gguf"), ST_DTYPE_F32, true);
	assert_int_equal(diff_exit(in_folder("all.gguf"), in_folder("all.gguf")), 0);
	assert_int_equal(diff_exit(in_folder("all.gguf"), in_folder("fewer.gguf")), 3);
	assert_int_equal(diff_exit(in_folder("fewer.gguf"), in_folder("all.gguf")), 3);
	toy_free(&one);
	toy_free(&two);
	float nan[4] = { NAN, NAN, NAN, NAN }, some[4] = { 1, NAN, 3, 4 };
	write_tensor(in_folder("nan.safetensors"), "F32", "[2,2]", nan, sizeof nan);
	write_tensor(in_folder("some.safetensors"), "F32", "[2,2]", some, sizeof some);
	write_tensor(in_folder("none.safetensors"), "F32", "[0,2]", nan, 0);
	assert_int_equal(diff_exit(in_folder("nan.safetensors"), in_folder("nan.safetensors")), 3);
	assert_int_equal(diff_exit(in_folder("none.safetensors"), in_folder("none.safetensors")), 3);
	assert_int_equal(diff_exit(in_folder("some.safetensors"), in_folder("some.safetensors")), 0);
	assert_int_equal(diff_exit(in_folder("some.safetensors"), in_folder("nan.safetensors")), 1);
	float x[12] = { 1, 2, 3, 4, NAN, NAN, NAN, NAN, 5, 6, 7, 8 };
	write_bundle(in_folder("row.safetensors"), known, x, x);
	assert_int_equal(diff_exit(in_folder("row.safetensors"), in_folder("row.safetensors")), 3);
	write_aprt(in_folder("attn_norm.bin"), 0, nan, 4);
	assert_int_equal(diff_exit(in_folder("attn_norm.bin"), in_folder("attn_norm.bin")), 3);
}

/* A family that is not known is held to the noise of its types, row by row. */
static void tensors_of_an_unknown_family(void **state)
{
	(void)state;
	struct toy m;
	toy_make(&m, "zorp", 64, false);
	toy_write(&m, in_folder("f32.gguf"), ST_DTYPE_F32, true);
	toy_write(&m, in_folder("q4.gguf"), ST_DTYPE_Q4_0, true);
	assert_int_equal(diff_exit(in_folder("f32.gguf"), in_folder("q4.gguf")), 0);
	struct toy_tensor *t = toy_find(&m, "model.layers.1.mlp.up_proj.weight");
	memset(t->data + 10 * t->cols, 0, 2 * t->cols * sizeof *t->data);
	toy_write(&m, in_folder("rows.gguf"), ST_DTYPE_Q4_0, true);
	struct st_diff *d = diff(in_folder("q4.gguf"), in_folder("rows.gguf"), NAN);
	assert_int_equal(st_diff_exit(d), 1);
	assert_string_equal(d->tensors[d->first].a->name, "blk.1.ffn_up.weight");
	st_diff_free(d);
	toy_free(&m);
	/* Numbers so small that F16 holds few of their digits: the step is what counts, 2^-24 from 2^-14 down. */
	float x[256];
	uint16_t half[256];
	uint64_t seed = 7;
	for (int i = 0; i < 256; i++)
		x[i] = (float)(1e-6 * toy_normal(&seed));
	st_dtype_info(ST_DTYPE_F16)->encode(x, half, 256);
	write_tensor(in_folder("small.safetensors"), "F32", "[4,64]", x, sizeof x);
	write_tensor(in_folder("half.safetensors"), "F16", "[4,64]", half, sizeof half);
	assert_int_equal(diff_exit(in_folder("small.safetensors"), in_folder("half.safetensors")), 0);
	/* Integers are equal or not. */
	int32_t p[2] = { 1 << 22, 3 }, q[2] = { (1 << 22) + 1, 3 };
	write_tensor(in_folder("p.safetensors"), "I32", "[2]", p, sizeof p);
	write_tensor(in_folder("q.safetensors"), "I32", "[2]", q, sizeof q);
	assert_int_equal(diff_exit(in_folder("p.safetensors"), in_folder("q.safetensors")), 1);
}

/* Divisors of the frequencies that no key of the configuration shows. */
static void frequencies(void **state)
{
	(void)state;
	struct toy m;
	uint64_t seed = 3;
	toy_make(&m, "llama", 64, false);
	toy_write(&m, in_folder("plain.gguf"), ST_DTYPE_F32, true);
	struct toy_tensor *t = toy_add(&m, "rope_freqs.weight", m.head_dim / 2, 0, 0, 0, &seed);
	for (uint32_t i = 0; i < m.head_dim / 2; i++)
		t->data[i] = 1;
	toy_write(&m, in_folder("ones.gguf"), ST_DTYPE_F32, true);
	for (uint32_t i = 0; i < m.head_dim / 2; i++)
		t->data[i] = (float)(1 + 20 * toy_uniform(&seed));
	toy_write(&m, in_folder("some.gguf"), ST_DTYPE_F32, true);
	assert_int_equal(diff_exit(in_folder("plain.gguf"), in_folder("ones.gguf")), 0);
	assert_int_equal(diff_exit(in_folder("some.gguf"), in_folder("some.gguf")), 0);
	assert_int_equal(diff_exit(in_folder("plain.gguf"), in_folder("some.gguf")), 1);
	assert_int_equal(diff_exit(in_folder("some.gguf"), in_folder("ones.gguf")), 1);
	toy_free(&m);
}

static void set_keys(const char *dir, json_int_t window, json_int_t positions)
{
	char path[400];
	snprintf(path, sizeof path, "%s/config.json", dir);
	json_t *j = json_load_file(path, 0, NULL);
	assert_non_null(j);
	json_object_set_new(j, "model_type", json_string("mistral"));
	json_object_set_new(j, "sliding_window", window ? json_integer(window) : json_null());
	if (positions)
		json_object_set_new(j, "max_position_embeddings", json_integer(positions));
	else
		json_object_del(j, "max_position_embeddings");
	assert_int_equal(json_dump_file(j, path, 0), 0);
	json_decref(j);
}

/* A window hides something as soon as one of the two models goes beyond it, whichever is named first. */
static void windows(void **state)
{
	(void)state;
	static const struct {
		json_int_t window, positions;
	} sides[] = { { 128, 128 }, { 0, 1024 }, { 0, 128 }, { 16, 0 }, { 0, 0 } };
	static const int expected[][3] = { { 0, 1, 1 }, { 0, 2, 0 }, { 1, 2, 0 }, { 3, 4, 1 }, { 0, 3, 1 } };
	struct toy m;
	toy_make(&m, "llama", 64, false);
	char dir[5][320];
	for (int i = 0; i < 5; i++) {
		snprintf(dir[i], sizeof dir[i], "%s/side%d", folder, i);
		toy_write(&m, dir[i], ST_DTYPE_F32, false);
		set_keys(dir[i], sides[i].window, sides[i].positions);
	}
	for (size_t i = 0; i < sizeof expected / sizeof *expected; i++) {
		assert_int_equal(diff_exit(dir[expected[i][0]], dir[expected[i][1]]), expected[i][2]);
		assert_int_equal(diff_exit(dir[expected[i][1]], dir[expected[i][0]]), expected[i][2]);
	}
	toy_free(&m);
}

/* Layers of a trace with a head of its own for each difference. */
static void write_layers(const char *path, const char *meta, const double *apart, size_t n)
{
	char json[2048], head[2100];
	float body[8 * 4];
	int at = snprintf(json, sizeof json, "{\"__metadata__\":{\"format\":\"stele-trace\",\"version\":\"1\"%s}",
	                  meta);
	for (size_t l = 0; l < n; l++) {
		at += snprintf(json + at, sizeof json - (size_t)at,
		               ",\"layers.%zu.ffn_out\":{\"dtype\":\"F32\",\"shape\":[1,4],\"data_offsets\":[%zu,%zu]}",
		               l, 16 * l, 16 * l + 16);
		for (int i = 0; i < 4; i++)
			body[4 * l + (size_t)i] = (float)(1 + (i % 2 ? 1 : -1) * apart[l]);
	}
	uint64_t len = (uint64_t)(at + snprintf(json + at, sizeof json - (size_t)at, "}"));
	memcpy(head, &len, 8);
	memcpy(head + 8, json, len);
	write_parts(path, head, 8 + len, body, 16 * n);
}

/* Without the weights nobody knows how much a model amplifies: what grows by and by is no fault, what appears at once
 * is. */
static void growth_is_no_fault(void **state)
{
	(void)state;
	static const char tokens[] = ",\"tokens\":\"[1]\",\"engine\":\"stele\",\"mode\":\"exact\",\"weights\":\"F32\"";
	static const char coarse[] = ",\"tokens\":\"[1]\",\"engine\":\"stele\",\"mode\":\"exact\",\"weights\":\"Q4_0\"";
	static const struct {
		const char *meta;
		double apart[4];
		int exit, first;
	} cases[] = {
		{ tokens, { 1e-7, 4e-7, 1.5e-6, 5e-6 }, 0, 0 }, /* each step within 4 times */
		{ tokens,
		  { 1e-7, 4e-6, 8e-5, 1e-3 },
		  3,
		  0 }, /* 20 times a layer, beyond what rounding is known to do */
		{ tokens, { 1e-7, 4e-7, 1e-2, 1e-2 }, 1, 2 }, /* a jump of 25,000 times */
		{ coarse, { 0.1, 0.2, 0.4, 0.6 }, 0, 0 },
		{ coarse, { 0.1, 0.2, 0.4, 1.3 }, 3, 0 }, /* nearly unrelated; 4 bits do that to nobody's knowledge */
	};
	double none[4] = { 0 };
	for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
		write_layers(in_folder("a.safetensors"), cases[i].meta, cases[i].apart, 4);
		write_layers(in_folder("b.safetensors"), tokens, none, 4);
		struct st_diff *d = diff(in_folder("a.safetensors"), in_folder("b.safetensors"), NAN);
		if (st_diff_exit(d) != cases[i].exit)
			fail_msg("case %zu: exit %d", i, st_diff_exit(d));
		if (cases[i].exit == 1)
			assert_int_equal(d->first, cases[i].first);
		st_diff_free(d);
	}
}

/* Several tensors "NAME TYPE SHAPE", their bytes one after another; no metadata. */
struct dump {
	const char *name, *type, *shape;
	const void *data;
	size_t n;
};

static void write_dump(const char *path, const struct dump *t, size_t n)
{
	char json[2048] = "{", body[4096];
	size_t at = 0, len = 1;
	for (size_t i = 0; i < n; i++) {
		len += (size_t)snprintf(json + len, sizeof json - len,
		                        "%s\"%s\":{\"dtype\":\"%s\",\"shape\":%s,\"data_offsets\":[%zu,%zu]}",
		                        i ? "," : "", t[i].name, t[i].type, t[i].shape, at, at + t[i].n);
		memcpy(body + at, t[i].data, t[i].n);
		at += t[i].n;
	}
	len += (size_t)snprintf(json + len, sizeof json - len, "}");
	char head[2100];
	uint64_t size = len;
	memcpy(head, &size, 8);
	memcpy(head + 8, json, len);
	write_parts(path, head, 8 + len, body, at);
}

static void expect(const char *a, const char *b, int exit, size_t first)
{
	struct st_diff *d = diff(a, b, NAN);
	assert_int_equal(d->kind, ST_DIFF_TRACES);
	if (st_diff_exit(d) != exit || d->first != first)
		fail_msg("exit %d, first %zd; expected %d, %zd", st_diff_exit(d), (ssize_t)d->first, exit,
		         (ssize_t)first);
	st_diff_free(d);
}

/* What porters have: a batch of one, heads apart, dumps of 16 bits, the last position alone, no word of provenance. */
static void dumps_of_porters(void **state)
{
	(void)state;
	float h[12], q[12], far[12], logits[6] = { 1, 5, 2, 4, 3, 0 };
	uint16_t half[12];
	/* Between two F16 numbers, 2^-12 above the one: nothing in 16 bits can say it. */
	for (int i = 0; i < 12; i++) {
		h[i] = (float)(i + 1);
		q[i] = 1.0f + (float)i / 16;
		far[i] = h[i];
		half[i] = (uint16_t)(0x3C00 + 64 * i);
	}
	far[7] += 0.5f;
	char a[512], b[512];
	snprintf(a, sizeof a, "%s", in_folder("a.safetensors"));
	snprintf(b, sizeof b, "%s", in_folder("b.safetensors"));
	const struct dump plain[] = { { "embedding", "F32", "[3,4]", h, 48 },
		                      { "layers.0.q_post_rope", "F32", "[3,4]", q, 48 },
		                      { "lm_head", "F32", "[3,2]", logits, 24 } };
	write_dump(a, plain, 3);
	write_dump(b,
	           (const struct dump[]){ { "embedding", "F32", "[1,3,4]", h, 48 },
	                                  { "layers.0.q_post_rope", "F32", "[1,3,2,2]", q, 48 },
	                                  { "lm_head", "F32", "[1,1,2]", logits + 4, 8 } },
	           3);
	expect(a, b, 0, SIZE_MAX);
	expect(b, a, 0, SIZE_MAX);
	struct st_diff *d = diff(a, b, NAN);
	assert_int_equal(d->rows[2].positions, 1); /* the last of three */
	assert_int_equal(d->rows[2].worst_position, 0);
	assert_int_equal(d->rows[2].top1, 1);
	st_diff_free(d);
	/* Stored in 16 bits: the very same values, and others. */
	write_dump(b,
	           (const struct dump[]){ { "embedding", "F32", "[3,4]", h, 48 },
	                                  { "layers.0.q_post_rope", "F16", "[3,4]", half, 24 },
	                                  { "lm_head", "F32", "[3,2]", logits, 24 } },
	           3);
	expect(a, b, 0, SIZE_MAX);
	for (int i = 0; i < 12; i++)
		q[i] *= 1 + 0x1p-12f;
	write_dump(a, plain, 3);
	expect(a, b, 0, SIZE_MAX);
	q[5] *= 1 + 0x1p-9f;
	write_dump(a, plain, 3);
	expect(a, b, 3, 1);
	/* The first stage apart has a name, whatever came after. */
	write_dump(b,
	           (const struct dump[]){ { "embedding", "F32", "[3,4]", h, 48 },
	                                  { "layers.0.q_post_rope", "F32", "[3,4]", far, 48 },
	                                  { "lm_head", "F32", "[3,2]", far, 24 } },
	           3);
	expect(a, b, 3, 1);
	/* Other logits at the one position that both have. */
	write_dump(b,
	           (const struct dump[]){ { "embedding", "F32", "[3,4]", h, 48 },
	                                  { "layers.0.q_post_rope", "F32", "[3,4]", q, 48 },
	                                  { "lm_head", "F32", "[1,2]", logits, 8 } },
	           3);
	expect(a, b, 3, 2);
	/* A stage may be missing, a layer not. */
	write_dump(b, plain, 2);
	expect(a, b, 0, SIZE_MAX);
	write_dump(b, (const struct dump[]){ plain[0], plain[2] }, 2);
	expect(a, b, 3, SIZE_MAX);
	/* Parts without a mark are a trace too. */
	write_dump(b,
	           (const struct dump[]){ { "layers.0.q_matmul", "F32", "[3,4]", h, 48 },
	                                  { "layers.0.k_matmul", "F32", "[3,2]", h, 24 },
	                                  { "layers.0.v_matmul", "F32", "[3,2]", h, 24 } },
	           3);
	expect(b, b, 0, SIZE_MAX);
}

/* [positions, heads, size] as [heads, positions, size]. */
static void heads_first(const float *x, size_t t, size_t h, size_t d, float *out)
{
	for (size_t i = 0; i < t * h; i++)
		memcpy(out + (i % h * t + i / h) * d, x + i * d, d * sizeof *x);
}

/* Heads in front of positions, as attention has them; where there are as many, the other stages or the other side
 * tell. */
static void axes_of_dumps(void **state)
{
	(void)state;
	float h[12], q[24], turned[24], k[12], k_turned[12], wrong[24];
	for (int i = 0; i < 24; i++)
		q[i] = sinf(1.0f + (float)i);
	for (int i = 0; i < 12; i++)
		h[i] = k[i] = cosf((float)i);
	char a[512], b[512];
	snprintf(a, sizeof a, "%s", in_folder("a.safetensors"));
	snprintf(b, sizeof b, "%s", in_folder("b.safetensors"));
	const struct dump plain[] = { { "embedding", "F32", "[3,4]", h, 48 },
		                      { "layers.0.q_post_rope", "F32", "[3,8]", q, 96 },
		                      { "layers.0.k_post_rope", "F32", "[3,4]", k, 48 } };
	struct dump other[3];
	memcpy(other, plain, sizeof other);
	write_dump(a, plain, 3);
	static const struct {
		size_t heads, heads_k;
		const char *q, *k;
	} shapes[] = {
		{ 4, 2, "[1,4,3,2]", "[1,2,3,2]" },
		{ 4, 2, "[4,3,2]", "[2,3,2]" },
		{ 2, 1, "[1,2,3,4]", "[1,1,3,4]" },
		{ 8, 4, "[1,8,3,1]", "[1,4,3,1]" },
	};
	for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
		heads_first(q, 3, shapes[i].heads, 8 / shapes[i].heads, turned);
		heads_first(k, 3, shapes[i].heads_k, 4 / shapes[i].heads_k, k_turned);
		other[1] = (struct dump){ "layers.0.q_post_rope", "F32", shapes[i].q, turned, 96 };
		other[2] = (struct dump){ "layers.0.k_post_rope", "F32", shapes[i].k, k_turned, 48 };
		write_dump(b, other, 3);
		expect(a, b, 0, SIZE_MAX);
		expect(b, a, 0, SIZE_MAX);
		/* Nothing else in the dump: the other side knows how many positions there are, or the pair of heads. */
		write_dump(b, other + 1, 2);
		struct st_diff *d = diff(a, b, NAN);
		assert_int_equal(st_diff_exit(d), 0);
		assert_int_equal(d->compared, 2);
		assert_int_equal(d->rows[1].positions, 3);
		st_diff_free(d);
		memcpy(wrong, turned, sizeof wrong);
		wrong[9] += 0.25f;
		other[1].data = wrong;
		write_dump(b, other, 3);
		expect(a, b, 3, 1);
	}
	/* As many heads as positions: one with fewer heads tells; alone, it is read as what it is nearer to. */
	const struct dump square[] = { { "embedding", "F32", "[2,4]", h, 32 },
		                       { "layers.0.q_post_rope", "F32", "[2,8]", q, 64 },
		                       { "layers.0.k_post_rope", "F32", "[2,4]", k, 32 } };
	write_dump(a, square, 3);
	memcpy(other, square, sizeof other);
	heads_first(q, 2, 2, 4, turned);
	other[1] = (struct dump){ "layers.0.q_post_rope", "F32", "[1,2,2,4]", turned, 64 };
	other[2] = (struct dump){ "layers.0.k_post_rope", "F32", "[1,1,2,4]", k, 32 };
	for (size_t n = 3; n > 1; n--) {
		write_dump(b, other, n);
		expect(a, b, 0, SIZE_MAX);
		expect(b, a, 0, SIZE_MAX);
	}
	other[1].data = q; /* [1, positions, heads, size] */
	write_dump(b, other, 2);
	expect(a, b, 0, SIZE_MAX);
}

/* Values that went through 16 bits and stand as floats; two dumps of one 16-bit type. */
static void sixteen_bits(void **state)
{
	(void)state;
	enum { N = 512 };
	static float x[N], rounded[N], off[N];
	static uint16_t half[N];
	for (size_t i = 0; i < N; i++) {
		x[i] = sinf(0.37f + (float)i);
		uint32_t u;
		memcpy(&u, &x[i], 4);
		u = (u + 0x7FFF + (u >> 16 & 1)) & 0xFFFF0000u;
		memcpy(&rounded[i], &u, 4);
		half[i] = (uint16_t)(u >> 16);
		off[i] = x[i] * (i % 9 ? 1 : 1.01f);
	}
	char a[512], b[512];
	snprintf(a, sizeof a, "%s", in_folder("a.safetensors"));
	snprintf(b, sizeof b, "%s", in_folder("b.safetensors"));
	write_dump(a, &(struct dump){ "embedding", "F32", "[4,128]", x, sizeof x }, 1);
	write_dump(b, &(struct dump){ "embedding", "F32", "[4,128]", rounded, sizeof rounded }, 1);
	expect(a, b, 0, SIZE_MAX);
	expect(b, a, 0, SIZE_MAX);
	write_dump(b, &(struct dump){ "embedding", "F32", "[4,128]", off, sizeof off }, 1);
	expect(a, b, 3, 0);
	/* Whole numbers are numbers of every type, and are rounded to none. */
	for (size_t i = 0; i < N; i++) {
		x[i] = (float)(i % 100);
		off[i] = x[i] * 1.001f;
	}
	write_dump(a, &(struct dump){ "embedding", "F32", "[4,128]", x, sizeof x }, 1);
	write_dump(b, &(struct dump){ "embedding", "F32", "[4,128]", off, sizeof off }, 1);
	expect(a, b, 3, 0);
	/* In one type the same number is stored as the same bits, but for one that lies in the middle. */
	write_dump(a, &(struct dump){ "embedding", "BF16", "[4,128]", half, sizeof half }, 1);
	half[100]++;
	write_dump(b, &(struct dump){ "embedding", "BF16", "[4,128]", half, sizeof half }, 1);
	expect(a, b, 0, SIZE_MAX);
	for (size_t i = 0; i < N; i += 20)
		half[i]++;
	write_dump(b, &(struct dump){ "embedding", "BF16", "[4,128]", half, sizeof half }, 1);
	expect(a, b, 3, 0);
}

/* Names that are no stage are compared by name or listed, never passed over. */
static void names_that_are_no_stage(void **state)
{
	(void)state;
	float h[12], far[12];
	for (int i = 0; i < 12; i++)
		h[i] = far[i] = (float)(i + 1);
	far[7] += 0.5f;
	char a[512], b[512];
	snprintf(a, sizeof a, "%s", in_folder("a.safetensors"));
	snprintf(b, sizeof b, "%s", in_folder("b.safetensors"));
	struct dump plain[] = { { "embedding", "F32", "[3,4]", h, 48 },
		                { "layers.0.my_tap", "F32", "[3,4]", h, 48 },
		                { "layers.0.theirs", "F32", "[3,4]", h, 48 } };
	write_dump(a, plain, 3);
	write_dump(b, plain, 2);
	struct st_diff *d = diff(a, b, NAN);
	assert_int_equal(d->kind, ST_DIFF_TRACES);
	assert_int_equal(st_diff_exit(d), 0);
	assert_int_equal(d->compared, 2);
	assert_int_equal(d->n_tensors, 2);
	assert_string_equal(d->tensors[0].a->name, "layers.0.my_tap");
	assert_int_equal(d->tensors[0].status, ST_DIFF_EXPECTED);
	assert_null(d->tensors[1].b);
	st_diff_free(d);
	plain[1].data = far;
	write_dump(b, plain, 2);
	expect(a, b, 3, SIZE_MAX);
	plain[1].shape = "[4,3]";
	write_dump(b, plain, 2);
	expect(a, b, 3, SIZE_MAX);
	/* One position alone, without an axis for it. */
	write_dump(b, &(struct dump){ "embedding", "F32", "[4]", h + 8, 16 }, 1);
	expect(a, b, 0, SIZE_MAX);
	/* Tokens, as a list or as models take them. */
	int64_t ids[2][3] = { { 5, 6, 7 }, { 5, 6, 8 } };
	plain[1] = (struct dump){ "tokens", "I64", "[3]", ids[0], 24 };
	write_dump(a, plain, 2);
	plain[1].shape = "[1,3]";
	write_dump(b, plain, 2);
	d = diff(a, b, NAN);
	assert_int_equal(st_diff_exit(d), 0);
	assert_int_equal(d->n_tensors, 0);
	st_diff_free(d);
	plain[1].data = ids[1];
	write_dump(b, plain, 2);
	refused(a, b, ST_ERR_MISMATCH, "token 2 is 7 in A, 8 in B");
}

/* A folder of npy files is a trace; a relative threshold is one. */
static void npy_folder(void **state)
{
	(void)state;
	static const char head[] = "\x93NUMPY\x01\x00\x48\x00{'descr': '<f4', 'fortran_order': False, 'shape': (2, 2), "
				   "}            \n";
	float x[4] = { 1, 2, 3, 4 }, y[4] = { 1, 2, 3, 4.5f };
	char a[512], b[512];
	snprintf(a, sizeof a, "%s", in_folder("a"));
	snprintf(b, sizeof b, "%s", in_folder("b"));
	mkdir(a, 0755);
	mkdir(b, 0755);
	mkdir(in_folder("b/layer-0"), 0755);
	write_parts(in_folder("a/layers.0.attn_norm.npy"), head, sizeof head - 1, x, sizeof x);
	write_parts(in_folder("b/layer-0/attn_norm.npy"), head, sizeof head - 1, x, sizeof x);
	expect(a, b, 0, SIZE_MAX);
	write_parts(in_folder("b/layer-0/attn_norm.npy"), head, sizeof head - 1, y, sizeof y);
	expect(a, b, 3, 0);
	for (int i = 0; i < 2; i++) {
		struct st_diff_options o = { .threshold = NAN, .rel_threshold = i ? 0.2 : 0.05 };
		struct st_diff *d;
		struct st_error err = ST_ERROR_INIT;
		assert_ok(st_diff_run(a, b, &o, &d, &err), &err);
		assert_int_equal(st_diff_exit(d), i ? 0 : 1); /* 0.5 beside 3 and 4.5 */
		st_diff_free(d);
	}
}

/* A tree that says nothing of shapes beside one that does; stage files of two layers under names that are no stage. */
static void trees_without_shapes(void **state)
{
	(void)state;
	float x[8] = { 1, 2, 3, 4, 5, 6, 7, 8 };
	static const char json[] = "{\"format\":\"stele-trace\",\"version\":\"1\",\"tokens\":[1,2],\"shapes\":"
				   "{\"layers.0.attn_norm\":[2,4],\"lm_head\":[1,8]},\"positions.lm_head\":[1]}";
	char a[512], b[512];
	snprintf(a, sizeof a, "%s", in_folder("a"));
	snprintf(b, sizeof b, "%s", in_folder("b"));
	mkdir(a, 0755);
	mkdir(b, 0755);
	mkdir(in_folder("a/layer-0"), 0755);
	mkdir(in_folder("b/layer-0"), 0755);
	write_aprt(in_folder("a/layer-0/attn_norm.bin"), 0, x, 8);
	write_aprt(in_folder("b/layer-0/attn_norm.bin"), 0, x, 8);
	write_aprt(in_folder("a/lm_head.bin"), UINT32_MAX, x, 8);
	write_aprt(in_folder("b/lm_head.bin"), UINT32_MAX, x, 8);
	write_parts(in_folder("a/trace.json"), json, sizeof json - 1, "", 0);
	expect(a, b, 0, SIZE_MAX);
	expect(b, a, 0, SIZE_MAX);
	struct st_diff *d = diff(b, a, NAN);
	assert_int_equal(d->rows[0].positions, 2);
	assert_int_equal(d->rows[1].positions, 1);
	st_diff_free(d);
	/* One position beside several, as files. */
	static const char head[] = "\x93NUMPY\x01\x00\x48\x00{'descr': '<f4', 'fortran_order': False, 'shape': (2, 4), "
				   "}            \n";
	write_parts(in_folder("both.npy"), head, sizeof head - 1, x, sizeof x);
	write_aprt(in_folder("last.bin"), 3, x + 4, 4);
	write_aprt(in_folder("first.bin"), 3, x, 4);
	snprintf(a, sizeof a, "%s", in_folder("both.npy"));
	for (int i = 0; i < 2; i++) {
		snprintf(b, sizeof b, "%s", in_folder(i ? "first.bin" : "last.bin"));
		for (int turned = 0; turned < 2; turned++) {
			d = turned ? diff(b, a, NAN) : diff(a, b, NAN);
			assert_int_equal(d->kind, ST_DIFF_STAGES);
			assert_int_equal(st_diff_exit(d), i ? 3 : 0);
			assert_true(strstr(d->note, "the last of") != NULL);
			st_diff_free(d);
		}
	}
	write_aprt(in_folder("mine.bin"), 3, x, 8);
	write_aprt(in_folder("yours.bin"), 4, x, 8);
	refused(in_folder("mine.bin"), in_folder("yours.bin"), ST_ERR_MISMATCH, "layers differ");
}

static void shared_models(void **state)
{
	(void)state;
	const char *gguf = shared_path("models/stories260k/model.gguf"),
		   *q4 = shared_path("models/stories260k/model-q4_0.gguf");
	const char *bad = shared_path("models/stories260k/fault-q-transposed.apr");
	struct st_diff *d = diff(gguf, q4, NAN);
	assert_int_equal(d->kind, ST_DIFF_MODELS);
	assert_int_equal(st_diff_exit(d), 0);
	st_diff_free(d);
	d = diff(bad, gguf, NAN);
	assert_int_equal(st_diff_exit(d), 1);
	assert_string_equal(st_cause_name(d->weights[d->first].cause.code), "weight.transposed");
	st_diff_free(d);
}

/* What llama.cpp computed, sound or with one fault, against Stele's own evaluation of the sound model. */
static void shared_captures(void **state)
{
	(void)state;
	static const char *const names[] = {
		"clean-qwen2-d96-f32",       "clean-qwen3-d64-f32",       "clean-stories260K-f32",
		"clean-stories260K-q8_0",    "clean-stories260K-q4_0",    "bias-v-qwen2-d96-L0",
		"gqa-qwen3-d64-L1",          "norm-eps-stories260K-L1",   "qk-norm-qwen3-d64-L2",
		"residual-qwen2-d96-L1",     "rope-style-stories260K-L4", "scaled-qwen3-d64-L1",
		"transposed-stories260K-L2",
	};
	char rel[200];
	for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
		struct st_error err = ST_ERROR_INIT;
		struct st_model *m;
		snprintf(rel, sizeof rel, "captures/%s/case.json", names[i]);
		json_t *c = json_load_file(shared_path(rel), 0, NULL), *expect = json_object_get(c, "expect");
		assert_non_null(expect);
		snprintf(rel, sizeof rel, "captures/%s", json_string_value(json_object_get(c, "model")));
		assert_ok(st_model_open(shared_path(rel), &m, &err), &err);
		uint32_t tokens[64];
		struct st_trace_options o = { .tokens = tokens,
			                      .threads = 2,
			                      .lm_head_all = true,
			                      .force = true,
			                      .bundle = in_folder("own.safetensors") };
		o.n_tokens = json_array_size(json_object_get(c, "tokens"));
		assert_in_range(o.n_tokens, 1, 64);
		for (size_t t = 0; t < o.n_tokens; t++)
			tokens[t] = (uint32_t)json_integer_value(json_array_get(json_object_get(c, "tokens"), t));
		assert_ok(st_trace_parse_stages("all", &o.capture, &err), &err);
		assert_ok(st_trace_run(m, &o, &err), &err);
		st_model_close(m);
		snprintf(rel, sizeof rel, "captures/%s/trace.safetensors", names[i]);
		struct st_diff *d = diff(shared_path(rel), in_folder("own.safetensors"), NAN);
		for (size_t k = 0; k < d->n_rows; k++)
			if (d->rows[k].stage == ST_STAGE_Q_POST_ROPE || d->rows[k].stage == ST_STAGE_QKV_MATMUL)
				assert_int_equal(d->rows[k].positions, o.n_tokens);
		bool fault = strcmp(json_string_value(json_object_get(expect, "verdict")), "fault") == 0;
		if (st_diff_exit(d) != fault)
			fail_msg("%s: exit %d", names[i], st_diff_exit(d));
		if (fault) {
			/* Those of llama hold Q and K in the order of the GGUF file, which is not ours. */
			assert_string_equal(st_stage_name(d->rows[d->first].stage),
			                    json_string_value(json_object_get(expect, "stage")));
			assert_int_equal(d->rows[d->first].layer, json_integer_value(json_object_get(expect, "layer")));
		}
		st_diff_free(d);
		json_decref(c);
	}
}

/* ---- numbers of two types, one by one ---- */

/* Half a unit of the last place by the C library: the type has `bits` digits, and its least exponent is `least`. */
static double half_unit(float x, enum st_dtype t)
{
	int bits = t == ST_DTYPE_F16 ? 11 : 8, least = t == ST_DTYPE_F16 ? -14 : -126, e;
	if (t != ST_DTYPE_F16 && t != ST_DTYPE_BF16)
		return 0;
	frexp((double)x, &e);
	return ldexp(1, (x == 0 || e - 1 < least ? least : e - 1) - bits);
}

static void count_one(float a, enum st_dtype ta, float b, enum st_dtype tb, struct st_diff_meetings *m)
{
	double half = half_unit(a, ta) + half_unit(b, tb), apart = fabs((double)a - (double)b);
	if (a == b || (isnan(a) && isnan(b)))
		return;
	if (!isfinite(a) || !isfinite(b))
		m->apart++;
	else if (ta == tb && apart <= half)
		m->neighbours++;
	else if (ta == tb || apart > half + 0x1p-20 * fabs((double)a))
		m->apart++;
}

/* Runs of every length below two vectors and some longer, of every size of number, some with numbers that are none. */
static void numbers_meet_as_counted_one_by_one(void **state)
{
	static const enum st_dtype types[] = { ST_DTYPE_F32, ST_DTYPE_F16, ST_DTYPE_BF16 };
	static const float odd[] = { 0, -0.0f, NAN, INFINITY, -INFINITY, 1e-42f, 6e-8f, -65504 };
	struct st_xoshiro r;
	(void)state;
	st_xoshiro_seed(&r, 3);
	for (int round = 0; round < 3000; round++) {
		float a[70], b[70];
		size_t n = round % 70;
		for (size_t i = 0; i < n; i++) {
			double size = ldexp(1, (int)(st_xoshiro_next(&r) % 48) - 34);
			uint64_t how = st_xoshiro_next(&r) % 12;
			a[i] = (float)(size * ((double)(st_xoshiro_next(&r) >> 11) * 0x1p-53 - 0.5));
			b[i] = (float)((double)a[i] * (1 + (how < 8 ? ldexp(how % 2 ? 1 : -1, -6 - 2 * (int)how) : 0)));
		}
		for (int k = 0; k < round % 3 && n > 0; k++)
			*(k ? &a[round % n] : &b[round / 3 % n]) = odd[st_xoshiro_next(&r) % 8];
		for (int k = 0; k < 9; k++) {
			struct st_diff_meetings got, want = { 0 };
			enum st_dtype ta = types[k / 3], tb = types[k % 3];
			if (!st_diff_short(ta, tb))
				continue;
			for (size_t i = 0; i < n; i++)
				count_one(a[i], ta, b[i], tb, &want);
			st_diff_meet(a, ta, b, tb, n, &got);
			assert_int_equal(got.apart, want.apart);
			assert_int_equal(got.neighbours, want.neighbours);
		}
	}
}

/* Which 16-bit type numbers came through, in memory: F16 goes down to 2^-24, of which the last digits are fewer. */
static void types_that_values_came_through(void **state)
{
	enum { ROWS = 3, COLS = 5000 };
	static float x[ROWS * COLS];
	struct st_xoshiro r;
	struct st_error err = ST_ERROR_INIT;
	(void)state;
	st_xoshiro_seed(&r, 4);
	static const struct {
		double size, unit; /* numbers of so many units, up to a size; 0: of any digits */
		int digits;        /* that a number has at most */
		float odd;         /* is put somewhere */
		enum st_dtype want;
	} cases[] = {
		{ 1, 0, 24, 0, ST_DTYPE_F32 },
		{ 1, 0, 8, 0, ST_DTYPE_BF16 },
		{ 1, 0, 11, 0, ST_DTYPE_F16 },
		{ 1, 0, 11, 1e-30f, ST_DTYPE_F32 },         /* no number of F16 */
		{ 1, 0, 11, 131072, ST_DTYPE_F32 },         /* nor this one */
		{ 1, 0, 11, INFINITY, ST_DTYPE_F16 },       /* says nothing */
		{ 1, 0, 8, 0x1.01p-3f, ST_DTYPE_F32 },      /* nine digits; and of F16 the last ones are never used */
		{ 0x1p-15, 0x1p-24, 24, 0, ST_DTYPE_F16 },  /* below its normal numbers */
		{ 0x1p-15, 0x1p-25, 24, 0, ST_DTYPE_F32 },  /* half a unit too fine */
		{ 500, 1, 24, 0, ST_DTYPE_F32 },            /* whole numbers: the last digits of F16 are never used */
	};
	for (size_t c = 0; c < sizeof cases / sizeof *cases; c++) {
		for (size_t i = 0; i < ROWS * COLS; i++) {
			double v = cases[c].size * ((double)(st_xoshiro_next(&r) >> 11) * 0x1p-52 - 1);
			int e;
			if (cases[c].unit > 0)
				v = round(v / cases[c].unit) * cases[c].unit;
			frexp(v, &e);
			if (cases[c].unit == 0 && e > -13)
				v = ldexp(round(ldexp(v, cases[c].digits - e)), e - cases[c].digits);
			else if (cases[c].unit == 0)
				v = 0;
			x[i] = (float)v;
		}
		if (cases[c].odd != 0)
			x[ROWS * COLS - 77] = cases[c].odd;
		struct st_tensor t = { .dtype = ST_DTYPE_F32,
			               .layout = ST_LAYOUT_ROWS,
			               .ndim = 2,
			               .shape = { ROWS, COLS },
			               .n_elems = ROWS * COLS,
			               .n_bytes = sizeof x,
			               .row_bytes = COLS * sizeof *x,
			               .scale = 1,
			               .data = (const uint8_t *)x };
		enum st_dtype held;
		assert_ok(st_diff_held(&t, NULL, &held, &err), &err);
		if (held != cases[c].want)
			fail_msg("case %zu: %s", c, st_dtype_info(held)->name);
	}
}

int main(void)
{
#define CASE(f) cmocka_unit_test_setup_teardown(f, make_folder, remove_folder)
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(numbers_meet_as_counted_one_by_one),
		cmocka_unit_test(types_that_values_came_through),
		CASE(dumps_of_porters),
		CASE(axes_of_dumps),
		CASE(sixteen_bits),
		CASE(names_that_are_no_stage),
		CASE(npy_folder),
		CASE(trees_without_shapes),
		CASE(stage_files),
		CASE(a_nan_on_one_side_is_infinitely_far),
		CASE(stages_that_are_not_the_same_are_refused),
		CASE(traces),
		CASE(one_stage_of_a_bundle),
		CASE(plain_tensors),
		CASE(nothing_compared_is_no_match),
		CASE(tensors_of_an_unknown_family),
		CASE(frequencies),
		CASE(windows),
		CASE(growth_is_no_fault),
		CASE(shared_models),
		CASE(shared_captures),
	};
	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
