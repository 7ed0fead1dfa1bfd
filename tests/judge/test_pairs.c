/*
 * Pairs whose difference is not one tensor of numbers: padded vocabularies, tied heads, layers that are not there; and
 * faults that no row shows by itself.
 */
#include "graph/stage.h"
#include "toy.h"
#include "folder.h"
#include "whole.h"

#include <stele/judge.h>

static const uint32_t tokens[] = { 5, 17, 3, 80, 42, 9 };

static struct st_rosetta *run(const char *a, const char *b, bool keep_going)
{
	struct st_rosetta *r = NULL;
	struct st_error err = ST_ERROR_INIT;
	struct st_rosetta_options o = {
		.tokens = tokens, .n_tokens = 6, .threshold = NAN, .threads = 2, .keep_going = keep_going
	};
	assert_ok(st_rosetta_run(a, b, &o, &r, &err), &err);
	return r;
}

static struct st_rosetta *compare(const char *a, const char *b) { return run(a, b, false); }
static struct st_rosetta *compare_all(const char *a, const char *b) { return run(a, b, true); }

/* In one order, 0: a first. */
static void verdict_in_order(int order, const char *a, const char *b, enum st_verdict want, const char *what)
{
	struct st_rosetta *r = compare(order ? b : a, order ? a : b);
	if (r->verdict != want)
		fail_msg("%s, order %d: %s (%s)", what, order, st_verdict_name(r->verdict), r->text);
	assert_int_equal(st_rosetta_exit(r, true), 0);
	st_rosetta_free(r);
}

static void expect_verdict(const char *a, const char *b, enum st_verdict want, const char *what)
{
	for (int order = 0; order < 2; order++)
		verdict_in_order(order, a, b, want, what);
}

static double param(const struct st_rosetta *r, const char *key)
{
	for (size_t i = 0; i < r->cause.n_params; i++)
		if (strcmp(st_param_info(r->cause.params[i].name)->key, key) == 0)
			return r->cause.params[i].number;
	fail_msg("no parameter %s", key);
	return 0;
}

/*
 * In one order, 0: a first. side: who is wrong when `a` is side a, or 0 where nothing tells. key: a parameter and its
 * value, or NULL.
 */
static void expect_in_order(int order, const char *a, const char *b, const char *code, const char *tensor, char side,
                            const char *key, double value, const char *what)
{
	struct st_rosetta *r = compare(order ? b : a, order ? a : b);
	char want = side && order ? (char)('a' + 'b' - side) : side;
	if (r->verdict != ST_VERDICT_FAULT || strcmp(st_cause_name(r->cause.code), code) != 0
	    || r->cause.confidence != ST_CONFIRMED || strcmp(r->first.tensor, tensor) != 0 || r->first.side != want)
		fail_msg("%s, order %d: %s, %s in \"%s\", side %c (%s)", what, order, st_verdict_name(r->verdict),
		         st_cause_name(r->cause.code), r->first.tensor, r->first.side ? r->first.side : '-', r->text);
	if (key && param(r, key) != value)
		fail_msg("%s: %s is %g", what, key, param(r, key));
	st_rosetta_free(r);
}

static void expect_fault(const char *a, const char *b, const char *code, const char *tensor, char side,
                         const char *what)
{
	for (int order = 0; order < 2; order++)
		expect_in_order(order, a, b, code, tensor, side, NULL, 0, what);
}

/* ---- vocabularies ---- */

/* Rows behind a vocabulary: zeros, or numbers nobody uses. */
static void pad(struct toy *m, uint64_t rows, bool zero)
{
	uint64_t seed = 77;
	for (size_t i = 0; i < m->n; i++) {
		struct toy_tensor *t = &m->t[i];
		if (t->rows != TOY_VOCAB || t->vector)
			continue;
		t->data = realloc(t->data, (t->rows + rows) * t->cols * sizeof *t->data);
		for (uint64_t k = t->rows * t->cols; k < (t->rows + rows) * t->cols; k++)
			t->data[k] = zero ? 0 : (float)(0.02 * toy_normal(&seed));
		t->rows += rows;
	}
	m->vocab += (uint32_t)rows;
}

static void padded_vocabularies_are_sound(void **state)
{
	(void)state;
	for (int kind = 0; kind < 4; kind++) {
		struct toy a, b;
		toy_make(&a, "qwen2", 64, kind % 2);
		toy_make(&b, "qwen2", 64, kind % 2);
		pad(&b, 32, kind < 2);
		toy_write(&a, in_folder("a.gguf"), ST_DTYPE_F32, true);
		toy_write(&a, in_folder("q.gguf"), ST_DTYPE_Q8_0, true);
		toy_write(&b, in_folder("b"), ST_DTYPE_F32, false);
		expect_verdict(in_folder("a.gguf"), in_folder("b"), ST_VERDICT_MATCH, "padded");
		expect_verdict(in_folder("q.gguf"), in_folder("b"), ST_VERDICT_NOISE, "padded, Q8_0");
		struct st_rosetta *r = compare(in_folder("b"), in_folder("a.gguf"));
		assert_non_null(
			strstr(r->vocab_note,
		               kind < 2 ? "A has 32 more rows in its vocabulary than the other's 96, all zero"
		                        : "A has 32 more rows in its vocabulary than the other's 96, not all zero"));
		assert_int_equal(r->skipped, 0);
		st_rosetta_free(r);
		toy_free(&a);
		toy_free(&b);
	}
}

static void padding_hides_no_fault(void **state)
{
	(void)state;
	struct toy a, b;
	toy_make(&a, "qwen2", 64, false);
	toy_make(&b, "qwen2", 64, false);
	pad(&b, 32, true);
	struct toy_tensor *e = toy_find(&b, "model.embed_tokens.weight");
	for (uint64_t i = 0; i < e->rows * e->cols; i++)
		e->data[i] *= 2;
	toy_write(&a, in_folder("a"), ST_DTYPE_F32, false);
	toy_write(&b, in_folder("b"), ST_DTYPE_F32, false);
	expect_fault(in_folder("a"), in_folder("b"), "embedding.scale", "model.embed_tokens.weight", 0,
	             "padded and scaled");
	toy_free(&b);
	/* A prompt that needs the rows that are missing cannot be compared. */
	toy_make(&b, "qwen2", 64, false);
	for (size_t i = 0; i < b.n; i++)
		if (b.t[i].rows == TOY_VOCAB)
			b.t[i].rows = 64;
	b.vocab = 64;
	toy_write(&b, in_folder("c"), ST_DTYPE_F32, false);
	expect_fault(in_folder("a"), in_folder("c"), "config.mismatch", "", 0, "token beyond the vocabulary");
	toy_free(&a);
	toy_free(&b);
}

/* ---- heads ---- */

/* A model with a head of its own, whose file says nothing (GGUF), that it is tied, or that it is not. */
static void heads_and_ties(void **state)
{
	(void)state;
	struct toy own, tied;
	toy_make(&own, "qwen2", 64, false);
	toy_make(&tied, "qwen2", 64, false);
	toy_find(&tied, "lm_head.weight")->absent = true;
	toy_write(&own, in_folder("own.gguf"), ST_DTYPE_F32, true);
	toy_write(&own, in_folder("own-says-own"), ST_DTYPE_F32, false);
	own.tied = tied.tied = true;
	toy_write(&own, in_folder("own-says-tied"), ST_DTYPE_F32, false);
	toy_write(&tied, in_folder("tied.gguf"), ST_DTYPE_F32, true);
	toy_write(&tied, in_folder("tied-says-tied"), ST_DTYPE_F32, false);
	static const struct {
		const char *a, *b, *code;
		char side;
	} cases[] = {
		{ "own.gguf", "tied.gguf", "head.tied", 0 },
		{ "own-says-own", "tied.gguf", "head.tied", 'b' },
		{ "own-says-own", "tied-says-tied", "head.tied", 0 },
		{ "own.gguf", "tied-says-tied", "head.untied", 'a' },
		{ "own-says-tied", "tied-says-tied", "head.untied", 'a' },
		{ "own-says-tied", "tied.gguf", "head.untied", 'a' },
	};
	for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
		expect_fault(in_folder(cases[i].a), in_folder(cases[i].b), cases[i].code, "lm_head.weight",
		             cases[i].side, cases[i].a);
	toy_free(&own);
	toy_free(&tied);
}

/*
 * The embedding is the head of both: a row that the prompt does not read is the logit of its token. Times 50, or -50,
 * it is the largest one; that row of a side stored in other types is judged like any matrix.
 */
static void tied_heads_are_judged(void **state)
{
	(void)state;
	struct toy good, bad;
	bool chosen = false;
	toy_make(&good, "llama", 64, true);
	toy_write(&good, in_folder("good.gguf"), ST_DTYPE_F32, true);
	toy_write(&good, in_folder("q.gguf"), ST_DTYPE_Q8_0, true);
	for (int sign = -1; sign < 2; sign += 2) {
		toy_make(&bad, "llama", 64, true);
		struct toy_tensor *e = toy_find(&bad, "model.embed_tokens.weight");
		for (uint64_t i = 0; i < e->cols; i++)
			e->data[60 * e->cols + i] *= (float)(50 * sign);
		toy_write(&bad, in_folder("bad.gguf"), ST_DTYPE_F32, true);
		expect_fault(in_folder("bad.gguf"), in_folder("good.gguf"), "weight.row_corrupt",
		             "model.embed_tokens.weight", 0, "tied, one row");
		struct st_rosetta *r = compare_all(in_folder("bad.gguf"), in_folder("good.gguf"));
		const struct st_stage_report *head = &r->stages[r->n_stages - 1];
		assert_int_equal(head->stage, ST_STAGE_LM_HEAD);
		assert_int_equal(head->status, ST_STATUS_FAULT);
		assert_int_equal(head->total.max_abs_index % TOY_VOCAB, 60);
		assert_false(head->shared);
		assert_int_not_equal(r->top1_b, 60);
		chosen |= r->top1_a == 60;
		st_rosetta_free(r);
		toy_free(&bad);
	}
	assert_true(chosen);
	struct st_rosetta *r = compare_all(in_folder("q.gguf"), in_folder("good.gguf"));
	const struct st_stage_report *head = &r->stages[r->n_stages - 1];
	assert_int_equal(r->verdict, ST_VERDICT_NOISE);
	assert_int_equal(head->stage, ST_STAGE_LM_HEAD);
	/* Q8_0's own error of 0.5 %, measured by the tests of storage. */
	assert_true(head->local_rel > 0.002 && head->local_rel < 0.01);
	assert_true(head->worst_token_ratio > 0.5 && head->worst_token_ratio < 2);
	st_rosetta_free(r);
	toy_free(&good);
}

/*
 * A's matrix on B's inputs leaves f32: products of both signs overflow, and in lanes of f32 their sum is NaN. That is
 * further from B's value than any number, though both runs stay finite.
 */
static void overflow_is_the_worst_error(void **state)
{
	(void)state;
	static const struct {
		const char *name;
		float a, b;
	} factors[] = {
		{ "model.layers.1.mlp.up_proj.weight", 1e-18f, 1e18f },
		{ "model.layers.1.mlp.down_proj.weight", 1e24f, 1e-18f },
	};
	struct toy a, b;
	toy_make(&a, "llama", 64, false);
	toy_make(&b, "llama", 64, false);
	for (size_t i = 0; i < sizeof factors / sizeof *factors; i++) {
		struct toy_tensor *x = toy_find(&a, factors[i].name), *y = toy_find(&b, factors[i].name);
		for (uint64_t k = 0; k < x->rows * x->cols; k++) {
			x->data[k] *= factors[i].a;
			y->data[k] *= factors[i].b;
		}
	}
	toy_write(&a, in_folder("a"), ST_DTYPE_F32, false);
	toy_write(&b, in_folder("b"), ST_DTYPE_F32, false);
	struct st_error err = ST_ERROR_INIT;
	struct st_rosetta *r;
	struct st_rosetta_options o = {
		.tokens = tokens, .n_tokens = 6, .threshold = NAN, .mode = "fast", .keep_going = true
	};
	assert_ok(st_rosetta_run(in_folder("a"), in_folder("b"), &o, &r, &err), &err);
	size_t seen = 0;
	for (size_t i = 0; i < r->n_stages; i++) {
		const struct st_stage_report *s = &r->stages[i];
		if (s->stage != ST_STAGE_FFN_OUT || s->layer != 1)
			continue;
		seen++;
		assert_int_equal(s->total.nonfinite_a + s->total.nonfinite_b, 0);
		assert_int_equal(s->status, ST_STATUS_FAULT);
		assert_true(isinf(s->worst_token_ratio));
		assert_int_equal(s->worst_token, 0);
	}
	assert_int_equal(seen, 1);
	st_rosetta_free(r);
	toy_free(&a);
	toy_free(&b);
}

/* Biases that a family may have or not: the side without them has another graph, and the first of them is what it
 * lacks. */
static void missing_biases_are_named(void **state)
{
	(void)state;
	struct toy with, without;
	uint64_t seed = 5;
	toy_make(&with, "llama", 64, false);
	toy_make(&without, "llama", 64, false);
	for (int l = 0; l < TOY_LAYERS; l++)
		for (int i = 0; i < 3; i++) {
			char name[96];
			snprintf(name, sizeof name, "model.layers.%d.self_attn.%c_proj.bias", l, "qkv"[i]);
			toy_add(&with, name, (i ? with.kv_heads : with.heads) * with.head_dim, 0, 0, 1, &seed);
		}
	toy_write(&with, in_folder("with"), ST_DTYPE_F32, false);
	toy_write(&without, in_folder("without"), ST_DTYPE_F32, false);
	toy_write(&without, in_folder("without.gguf"), ST_DTYPE_F32, true);
	expect_fault(in_folder("with"), in_folder("without"), "bias.missing", "model.layers.0.self_attn.q_proj.bias",
	             'b', "biases");
	expect_fault(in_folder("with"), in_folder("without.gguf"), "bias.missing",
	             "model.layers.0.self_attn.q_proj.bias", 'b', "biases");
	struct st_rosetta *r = compare(in_folder("with"), in_folder("without"));
	assert_string_equal(r->first.stage, "qkv_bias");
	assert_int_equal(r->first.layer, 0);
	assert_int_equal(r->missing, 3 * TOY_LAYERS);
	st_rosetta_free(r);
	toy_free(&with);
	toy_free(&without);
}

/* ---- layers ---- */

static void drop_last_layer(struct toy *m)
{
	for (size_t i = 0; i < m->n; i++)
		m->t[i].absent |= strncmp(m->t[i].name, "model.layers.1.", 15) == 0;
}

static void missing_layers_are_named(void **state)
{
	(void)state;
	struct toy good, bad;
	toy_make(&good, "qwen2", 64, false);
	toy_write(&good, in_folder("good"), ST_DTYPE_F32, false);
	for (int gguf = 0; gguf < 2; gguf++) {
		const char *path = in_folder(gguf ? "bad.gguf" : "bad");
		toy_make(&bad, "qwen2", 64, false);
		bad.layers = 1; /* counted wrongly */
		toy_write(&bad, path, ST_DTYPE_F32, gguf);
		expect_fault(path, in_folder("good"), "config.mismatch", "", 0, "a layer not counted");
		drop_last_layer(&bad); /* neither counted nor there */
		toy_write(&bad, path, ST_DTYPE_F32, gguf);
		expect_fault(path, in_folder("good"), "config.mismatch", "", 0, "a layer fewer");
		struct st_rosetta *r = compare(path, in_folder("good"));
		assert_string_equal(r->cause.params[0].text, "n_layers");
		st_rosetta_free(r);
		bad.layers = 2; /* counted and not there */
		toy_write(&bad, path, ST_DTYPE_F32, gguf);
		expect_fault(path, in_folder("good"), "weight.missing", "model.layers.1.input_layernorm.weight", 'a',
		             "a layer cut off");
		toy_free(&bad);
	}
	/* A file that cannot be run, beside one that agrees with it in all there is to compare. */
	toy_make(&bad, "qwen2", 64, false);
	bad.layers = 1;
	toy_write(&bad, in_folder("cut.gguf"), ST_DTYPE_F32, true);
	drop_last_layer(&bad);
	toy_write(&bad, in_folder("one.gguf"), ST_DTYPE_F32, true);
	struct st_error err = ST_ERROR_INIT;
	struct st_rosetta *r;
	struct st_rosetta_options o = { .tokens = tokens, .n_tokens = 6, .threshold = NAN };
	assert_int_equal(st_rosetta_run(in_folder("cut.gguf"), in_folder("one.gguf"), &o, &r, &err), ST_ERR_FORMAT);
	assert_non_null(strstr(err.message, "block_count"));
	toy_free(&good);
	toy_free(&bad);
}

/* ---- what no row shows by itself ---- */

#define GATE0 "model.layers.0.mlp.gate_proj.weight"
#define DOWN1 "model.layers.1.mlp.down_proj.weight"
#define Q1 "model.layers.1.self_attn.q_proj.weight"
#define K1 "model.layers.1.self_attn.k_proj.weight"
#define V1 "model.layers.1.self_attn.v_proj.weight"
#define NORM1 "model.layers.1.input_layernorm.weight"
#define BIAS1 "model.layers.1.self_attn.k_proj.bias"

static void times_columns(struct toy *m, uint64_t first, uint64_t n, double g)
{
	struct toy_tensor *t = toy_find(m, GATE0);
	for (uint64_t r = 0; r < t->rows; r++)
		for (uint64_t c = first; c < first + n; c++)
			t->data[r * t->cols + c] *= (float)g;
}

static void column_zero(struct toy *m) { times_columns(m, 9, 1, 0); }
static void column_doubled(struct toy *m) { times_columns(m, 9, 1, 2.5); }
static void columns_zero(struct toy *m) { times_columns(m, 192, 64, 0); }

static void block_doubled(struct toy *m) { times_columns(m, 64, 32, 2); }

static void columns_scaled(struct toy *m)
{
	struct toy_tensor *t = toy_find(m, GATE0);
	uint64_t seed = 5;
	for (uint64_t c = 0; c < t->cols; c++) {
		double g = 0.4 + 2 * toy_uniform(&seed);
		for (uint64_t r = 0; r < t->rows; r++)
			t->data[r * t->cols + c] *= (float)g;
	}
}

static void norm_element(struct toy *m) { toy_find(m, NORM1)->data[5] += 2; }
static void bias_element(struct toy *m) { toy_find(m, BIAS1)->data[3] -= 25; }

static void norm_minus_one(struct toy *m)
{
	struct toy_tensor *t = toy_find(m, NORM1);
	for (uint64_t i = 0; i < t->cols; i++)
		t->data[i] -= 1;
}

/* A fused matrix of [q0 q1 k0 v0 | q2 q3 k1 v1] that was cut where [Q | K | V] would be. */
static void fused(struct toy *m)
{
	struct toy_tensor *q = toy_find(m, Q1), *k = toy_find(m, K1), *v = toy_find(m, V1);
	size_t row = q->cols * sizeof(float), d = m->head_dim, groups = m->kv_heads, each = m->heads / groups;
	char *both = malloc((q->rows + 2 * k->rows) * row), *p = both;
	for (size_t g = 0; g < groups; g++) {
		memcpy(p, (char *)q->data + g * each * d * row, each * d * row);
		memcpy(p + each * d * row, (char *)k->data + g * d * row, d * row);
		memcpy(p + (each + 1) * d * row, (char *)v->data + g * d * row, d * row);
		p += (each + 2) * d * row;
	}
	memcpy(q->data, both, q->rows * row);
	memcpy(k->data, both + q->rows * row, k->rows * row);
	memcpy(v->data, both + (q->rows + k->rows) * row, v->rows * row);
	free(both);
}

static void scaled_and_a_row(struct toy *m)
{
	struct toy_tensor *t = toy_find(m, DOWN1);
	for (uint64_t i = 0; i < t->rows * t->cols; i++)
		t->data[i] *= 2;
	uint64_t seed = 31;
	for (uint64_t c = 0; c < t->cols; c++)
		t->data[7 * t->cols + c] = (float)(0.1 * toy_normal(&seed));
}

/* Three rows came in at the top, the last three went. */
static void pushed_down(struct toy *m)
{
	struct toy_tensor *t = toy_find(m, DOWN1);
	memmove(t->data + 3 * t->cols, t->data, (t->rows - 3) * t->cols * sizeof *t->data);
	memset(t->data, 0, 3 * t->cols * sizeof *t->data);
}

static const struct {
	const char *name;
	void (*plant)(struct toy *m);
	const char *code, *tensor;
	const char *key; /* a parameter of the answer */
	double value;
	char side; /* 'a': told to be the planted one */
} plants[] = {
	{ "column zero", column_zero, "weight.row_corrupt", GATE0, "first_column", 9, 0 },
	{ "column times 2.5", column_doubled, "weight.row_corrupt", GATE0, "columns", 1, 0 },
	{ "last quarter of the columns zero", columns_zero, "weight.row_corrupt", GATE0, "columns", 64, 0 },
	{ "a block of every row doubled", block_doubled, "weight.block_scale", GATE0, "block", 32, 0 },
	{ "every column scaled", columns_scaled, "weight.scaled", GATE0, NULL, 0, 0 },
	{ "element of a norm", norm_element, "weight.row_corrupt", NORM1, "first_column", 5, 0 },
	{ "element of a bias", bias_element, "weight.row_corrupt", BIAS1, "last_column", 3, 0 },
	{ "norm minus one", norm_minus_one, "norm.plus_one", NORM1, "offset", -1, 0 },
	{ "fused QKV in groups", fused, "weight.qkv_interleaved", Q1, "chunks", 2, 0 },
	{ "scaled, and an early row", scaled_and_a_row, "weight.scaled", DOWN1, NULL, 0, 0 },
	{ "pushed down by three rows", pushed_down, "weight.row_shift", DOWN1, "rows_lost", 3, 0 },
};

static void quiet_faults_are_named(void **state)
{
	(void)state;
	static const struct {
		enum st_dtype bad, good;
	} pairs[] = {
		{ ST_DTYPE_F32, ST_DTYPE_F32 },  { ST_DTYPE_BF16, ST_DTYPE_F16 }, { ST_DTYPE_Q8_0, ST_DTYPE_BF16 },
		{ ST_DTYPE_Q4_0, ST_DTYPE_F32 }, { ST_DTYPE_Q4_K, ST_DTYPE_F16 },
	};
	for (size_t k = 0; k < sizeof pairs / sizeof *pairs; k++) {
		struct toy good;
		toy_make(&good, "qwen2", 256, false);
		toy_write(&good, in_folder("good.gguf"), pairs[k].good, true);
		toy_free(&good);
		for (size_t i = 0; i < sizeof plants / sizeof *plants; i++) {
			struct toy bad;
			toy_make(&bad, "qwen2", 256, false);
			plants[i].plant(&bad);
			toy_write(&bad, in_folder("bad.gguf"), pairs[k].bad, true);
			char what[128];
			snprintf(what, sizeof what, "%s, %s against %s", plants[i].name,
			         st_dtype_info(pairs[k].bad)->name, st_dtype_info(pairs[k].good)->name);
			for (int order = 0; order < 2; order++)
				if (order == 0 || taken(i, k, 1, 2))
					expect_in_order(order, in_folder("bad.gguf"), in_folder("good.gguf"),
					                plants[i].code, plants[i].tensor, plants[i].side,
					                order ? NULL : plants[i].key, plants[i].value, what);
			toy_free(&bad);
		}
	}
}

/* A norm whose weights are near zero on one side: the rounding of the other side's BF16 is that of numbers near one. */
static void offsets_keep_their_noise(void **state)
{
	(void)state;
	struct toy good, bad;
	toy_make(&good, "qwen2", 64, false);
	toy_make(&bad, "qwen2", 64, false);
	norm_minus_one(&bad);
	toy_find(&good, NORM1)->dtype = toy_find(&bad, NORM1)->dtype = ST_DTYPE_BF16;
	toy_write(&good, in_folder("good"), ST_DTYPE_F32, false);
	toy_write(&bad, in_folder("bad"), ST_DTYPE_F32, false);
	expect_fault(in_folder("bad"), in_folder("good"), "norm.plus_one", NORM1, 0, "BF16");
	toy_free(&good);
	toy_free(&bad);
}

/* The stage of every norm is as far from its floor as its weights are from theirs. */
static void expect_norms_near_floor(const char *a, const char *b, const char *what)
{
	for (int order = 0; order < 2; order++) {
		struct st_rosetta *r = compare_all(order ? b : a, order ? a : b);
		size_t seen = 0;
		if (r->verdict != ST_VERDICT_NOISE)
			fail_msg("%s, order %d: %s (%s)", what, order, st_verdict_name(r->verdict), r->text);
		for (size_t i = 0; i < r->n_stages; i++) {
			const struct st_stage_report *s = &r->stages[i];
			if (s->stage != ST_STAGE_ATTN_NORM && s->stage != ST_STAGE_FFN_NORM
			    && s->stage != ST_STAGE_FINAL_NORM && s->stage != ST_STAGE_Q_POST_NORM
			    && s->stage != ST_STAGE_K_POST_NORM)
				continue;
			seen++;
			if (!(s->worst_token_ratio > 0.5 && s->worst_token_ratio < 3))
				fail_msg("%s, order %d: %s %d is %.3g times its floor", what, order,
				         st_stage_name(s->stage), (int)s->layer, s->worst_token_ratio);
		}
		assert_int_equal(seen, 4 * TOY_LAYERS + 1);
		st_rosetta_free(r);
	}
}

/* Hidden size 512 in 4 heads: the 128 that a qwen3 has where its file does not say. */
static void make_qwen3(struct toy *m)
{
	uint64_t seed = 20;
	toy_make(m, "qwen3", 512, false);
	for (int l = 0; l < TOY_LAYERS; l++)
		for (int k = 0; k < 2; k++) {
			char name[96];
			snprintf(name, sizeof name, "model.layers.%d.self_attn.%c_norm.weight", l, "qk"[k]);
			toy_add(m, name, m->head_dim, 0, 1.2, 0.3, &seed);
		}
}

/* Norms that another program's f32 arithmetic has moved, and norms so small that F16 stores them in its last steps. */
static void norms_follow_their_weights(void **state)
{
	(void)state;
	for (int tiny = 0; tiny < 2; tiny++) {
		struct toy good, moved;
		uint64_t seed = 21;
		make_qwen3(&good);
		make_qwen3(&moved);
		for (size_t i = 0; i < good.n; i++) {
			struct toy_tensor *g = &good.t[i], *m = &moved.t[i];
			for (uint64_t k = 0; g->vector && k < g->cols; k++) {
				if (tiny)
					g->data[k] *= 5e-6f;
				m->data[k] = tiny ? g->data[k] : (float)(g->data[k] * (1 + 2.5e-6 * toy_normal(&seed)));
			}
			if (g->vector && tiny)
				m->dtype = ST_DTYPE_F16;
		}
		toy_write(&good, in_folder("good"), ST_DTYPE_F32, false);
		toy_write(&moved, in_folder("moved"), ST_DTYPE_F32, false);
		expect_norms_near_floor(in_folder("moved"), in_folder("good"), tiny ? "tiny" : "f32 arithmetic");
		toy_free(&good);
		toy_free(&moved);
	}
}

/* Channels of very different sizes: small sub-blocks of a K-quant's super-block lose their scale's bits. */
static void uneven_channels_are_clean(void **state)
{
	(void)state;
	static const enum st_dtype stored[] = { ST_DTYPE_BF16, ST_DTYPE_Q8_0, ST_DTYPE_Q4_0, ST_DTYPE_Q4_K,
		                                ST_DTYPE_Q6_K };
	struct toy m;
	toy_make(&m, "qwen2", 256, false);
	for (size_t i = 0; i < m.n; i++) {
		uint64_t seed = 11;
		for (uint64_t c = 0; !m.t[i].vector && c < m.t[i].cols; c++) {
			double g = exp(2 * toy_normal(&seed));
			for (uint64_t r = 0; r < m.t[i].rows; r++)
				m.t[i].data[r * m.t[i].cols + c] *= (float)g;
		}
	}
	toy_write(&m, in_folder("good.gguf"), ST_DTYPE_F32, true);
	for (size_t i = 0; i < sizeof stored / sizeof *stored; i++) {
		toy_write(&m, in_folder("stored.gguf"), stored[i], true);
		expect_verdict(in_folder("stored.gguf"), in_folder("good.gguf"), ST_VERDICT_NOISE,
		               st_dtype_info(stored[i])->name);
	}
	toy_free(&m);
}

/* ---- numbers coarser than their label ---- */

/* Every tensor rounded to a type, vectors too where it is a float type. */
static void round_to(struct toy *m, enum st_dtype type)
{
	const struct st_dtype_info *info = st_dtype_info(type);
	for (size_t i = 0; i < m->n; i++) {
		struct toy_tensor *t = &m->t[i];
		size_t n = (size_t)(t->rows * t->cols);
		if (info->kind == ST_KIND_QUANT && t->vector)
			continue;
		if (type == ST_DTYPE_APR_Q8) { /* one step for the whole tensor */
			float most = 0;
			for (size_t k = 0; k < n; k++)
				most = fmaxf(most, fabsf(t->data[k]));
			for (size_t k = 0; k < n; k++)
				t->data[k] = roundf(t->data[k] / (most / 127)) * (most / 127);
			continue;
		}
		uint8_t *bytes = malloc(n * 4);
		info->encode(t->data, bytes, n);
		info->decode(bytes, t->data, n);
		free(bytes);
	}
}

/* A tied head that one file stores as well: its copy is no sign that the embedding is another tensor's. */
static void a_head_stored_twice_accuses_nobody(void **state)
{
	(void)state;
	struct toy twice, bad;
	toy_make(&twice, "llama", 64, false);
	struct toy_tensor *e = toy_find(&twice, "model.embed_tokens.weight"), *h = toy_find(&twice, "lm_head.weight");
	memcpy(h->data, e->data, e->rows * e->cols * sizeof *e->data);
	toy_write(&twice, in_folder("twice.gguf"), ST_DTYPE_F32, true);
	toy_make(&bad, "llama", 64, false);
	struct toy_tensor *b = toy_find(&bad, "model.embed_tokens.weight");
	memcpy(toy_find(&bad, "lm_head.weight")->data, b->data, b->rows * b->cols * sizeof *b->data);
	float *last = b->data + (b->rows - 1) * b->cols, row[64];
	memcpy(row, last, sizeof row);
	memmove(b->data + b->cols, b->data, (b->rows - 1) * b->cols * sizeof *b->data);
	memcpy(b->data, row, sizeof row);
	toy_write(&bad, in_folder("bad.gguf"), ST_DTYPE_F32, true);
	expect_fault(in_folder("bad.gguf"), in_folder("twice.gguf"), "embedding.row_shift", "model.embed_tokens.weight",
	             0, "rows moved by one");
	toy_free(&twice);
	toy_free(&bad);
}

/* BF16 bits read as F16: numbers so large that any fit takes most of them away, and still explains nothing. */
static void what_is_left_of_a_huge_difference_is_no_cause(void **state)
{
	(void)state;
	struct toy m;
	toy_make(&m, "qwen2", 64, false);
	toy_write(&m, in_folder("good.gguf"), ST_DTYPE_F32, true);
	struct toy_tensor *t = toy_find(&m, "model.layers.1.mlp.up_proj.weight");
	for (uint64_t i = 0; i < t->rows * t->cols; i++) {
		uint32_t u;
		memcpy(&u, &t->data[i], 4);
		uint16_t top = (uint16_t)(u >> 16);
		st_dtype_info(ST_DTYPE_F16)->decode(&top, &t->data[i], 1);
	}
	toy_write(&m, in_folder("bad.gguf"), ST_DTYPE_F32, true);
	for (int order = 0; order < 2; order++) {
		struct st_rosetta *r = compare(in_folder(order ? "good.gguf" : "bad.gguf"),
		                               in_folder(order ? "bad.gguf" : "good.gguf"));
		assert_int_equal(r->verdict, ST_VERDICT_FAULT);
		assert_string_equal(st_cause_name(r->cause.code), "unexplained");
		assert_int_equal(r->cause.confidence, ST_UNEXPLAINED);
		assert_true(r->cause.residual_before > 0);
		st_rosetta_free(r);
	}
	toy_free(&m);
}

static void decoded_models_are_clean(void **state)
{
	(void)state;
	static const enum st_dtype came_from[] = { ST_DTYPE_BF16, ST_DTYPE_F16,    ST_DTYPE_Q8_0,  ST_DTYPE_Q6_K,
		                                   ST_DTYPE_Q5_0, ST_DTYPE_Q5_1,   ST_DTYPE_Q4_K,  ST_DTYPE_Q4_0,
		                                   ST_DTYPE_Q4_1, ST_DTYPE_APR_Q4, ST_DTYPE_APR_Q8 };
	static const enum st_dtype stored[] = { ST_DTYPE_F32, ST_DTYPE_BF16, ST_DTYPE_Q8_0, ST_DTYPE_Q6_K };
	struct toy good, m;
	for (size_t i = 0; i < sizeof came_from / sizeof *came_from; i++) {
		uint32_t hidden = st_dtype_info(came_from[i])->block_elems == 256 ? 256 : 64;
		toy_make(&good, "qwen2", hidden, false);
		toy_write(&good, in_folder("good.gguf"), ST_DTYPE_F32, true);
		toy_write(&good, in_folder("q8.gguf"), ST_DTYPE_Q8_0, true);
		toy_free(&good);
		toy_make(&m, "qwen2", hidden, false);
		round_to(&m, came_from[i]);
		for (size_t k = sizeof stored / sizeof *stored; k-- > 0;) {
			char what[40];
			snprintf(what, sizeof what, "%s through %s", st_dtype_info(came_from[i])->name,
			         st_dtype_info(stored[k])->name);
			toy_write(&m, in_folder("f32.gguf"), stored[k], true);
			for (int order = 0; order < 2; order++)
				if (taken(i, k, (size_t)order, 2))
					verdict_in_order(order, in_folder("good.gguf"), in_folder("f32.gguf"),
					                 ST_VERDICT_NOISE, what);
		}
		expect_verdict(in_folder("f32.gguf"), in_folder("q8.gguf"),
		               came_from[i] == ST_DTYPE_Q8_0 ? ST_VERDICT_MATCH : ST_VERDICT_NOISE,
		               st_dtype_info(came_from[i])->name);
		/* A fault in such a model is one still. */
		times_columns(&m, 0, hidden, 2);
		toy_write(&m, in_folder("bad.gguf"), ST_DTYPE_F32, true);
		expect_fault(in_folder("bad.gguf"), in_folder("good.gguf"), "weight.scaled", GATE0, 0,
		             st_dtype_info(came_from[i])->name);
		toy_free(&m);
	}
	toy_make(&m, "qwen2", 64, false);
	for (size_t i = 0; i < m.n; i++)
		for (uint64_t k = 0; k < m.t[i].rows * m.t[i].cols; k++) {
			uint32_t u;
			memcpy(&u, &m.t[i].data[k], 4);
			u &= 0xFFFF0000u;
			memcpy(&m.t[i].data[k], &u, 4);
		}
	toy_write(&m, in_folder("cut.gguf"), ST_DTYPE_F32, true);
	expect_fault(in_folder("cut.gguf"), in_folder("good.gguf"), "weight.truncated_rounding",
	             "model.embed_tokens.weight", 'a', "cut, stored as F32");
	toy_free(&m);
}

/* A matrix that nothing explains: what comes nearest is listed, each code once and the nearest first. */
static void candidates_are_sorted(void **state)
{
	(void)state;
	struct toy good, bad;
	toy_make(&good, "llama", 64, false);
	toy_write(&good, in_folder("good"), ST_DTYPE_F32, false);
	for (uint64_t seed = 30; seed < 36; seed++) {
		uint64_t s = seed;
		toy_make(&bad, "llama", 64, false);
		struct toy_tensor *t = toy_find(&bad, "model.layers.0.self_attn.q_proj.weight");
		for (uint64_t i = 0; i < t->rows * t->cols; i++)
			t->data[i] = (float)(0.6 * t->data[i] + 0.02 * toy_normal(&s));
		toy_write(&bad, in_folder("bad"), ST_DTYPE_F32, false);
		struct st_rosetta *r = compare(in_folder("bad"), in_folder("good"));
		assert_string_equal(st_cause_name(r->cause.code), "unexplained");
		assert_true(r->n_candidates > 0);
		assert_true(r->candidates[r->n_candidates - 1].residual_after < r->cause.residual_before);
		for (size_t i = 1; i < r->n_candidates; i++) {
			assert_true(r->candidates[i - 1].residual_after <= r->candidates[i].residual_after);
			for (size_t k = 0; k < i; k++)
				assert_int_not_equal(r->candidates[k].code, r->candidates[i].code);
		}
		st_rosetta_free(r);
		toy_free(&bad);
	}
	toy_free(&good);
}

/* One NaN on each side: in other places it is a cause; moved along with its row it is not. */
static void nans_in_other_places(void **state)
{
	(void)state;
	static const char name[] = "model.layers.0.self_attn.o_proj.weight";
	struct toy good, bad;
	toy_make(&good, "llama", 64, false);
	toy_make(&bad, "llama", 64, false);
	toy_find(&good, name)->data[5] = NAN;
	toy_find(&bad, name)->data[64 * 9 + 3] = NAN;
	toy_write(&good, in_folder("good"), ST_DTYPE_F32, false);
	toy_write(&bad, in_folder("bad"), ST_DTYPE_F32, false);
	expect_fault(in_folder("bad"), in_folder("good"), "weight.nan", name, 0, "NaN elsewhere");
	toy_find(&bad, name)->data[64 * 9 + 3] = toy_find(&good, name)->data[64 * 9 + 3];
	toy_find(&bad, name)->data[5] = NAN;
	toy_transpose(&bad, name);
	toy_write(&bad, in_folder("bad"), ST_DTYPE_F32, false);
	expect_fault(in_folder("bad"), in_folder("good"), "weight.transposed", name, 0, "NaN moved along");
	toy_free(&good);
	toy_free(&bad);
}

/* ---- rows and codes that are nearly alike ---- */

#define EMBED "model.embed_tokens.weight"

/* Tokens that were never trained: every third row is one vector, but for a ten-thousandth. */
static void leave_untrained(struct toy *m)
{
	struct toy_tensor *t = toy_find(m, EMBED);
	uint64_t seed = 12;
	for (uint64_t r = 3; r < t->rows; r += r % 2 ? 1 : 2)
		for (uint64_t c = 0; c < t->cols; c++)
			t->data[r * t->cols + c] = t->data[c] + (float)(5e-5 * toy_normal(&seed));
}

static void embedding_pushed(struct toy *m)
{
	struct toy_tensor *t = toy_find(m, EMBED);
	float *last = malloc(t->cols * sizeof *last);
	memcpy(last, t->data + (t->rows - 1) * t->cols, t->cols * sizeof *last);
	memmove(t->data + t->cols, t->data, (t->rows - 1) * t->cols * sizeof *last);
	memcpy(t->data, last, t->cols * sizeof *last);
	free(last);
}

static void embedding_row(struct toy *m)
{
	struct toy_tensor *t = toy_find(m, EMBED);
	uint64_t seed = 13;
	for (uint64_t c = 0; c < t->cols; c++)
		t->data[5 * t->cols + c] = (float)(0.5 * toy_normal(&seed));
}

static void times_sixteen(struct toy *m)
{
	struct toy_tensor *t = toy_find(m, DOWN1);
	for (uint64_t i = 0; i < t->rows * t->cols; i++)
		t->data[i] *= 16;
}

static void likeness_misleads_nobody(void **state)
{
	(void)state;
	static const struct {
		void (*plant)(struct toy *m);
		enum st_dtype type;
		const char *code, *tensor;
	} cases[] = {
		{ embedding_pushed, ST_DTYPE_F32, "embedding.row_shift", EMBED },
		{ embedding_pushed, ST_DTYPE_Q8_0, "embedding.row_shift", EMBED },
		{ embedding_row, ST_DTYPE_F32, "weight.row_corrupt", EMBED },
		{ embedding_row, ST_DTYPE_F16, "weight.row_corrupt", EMBED },
		{ times_sixteen, ST_DTYPE_Q4_0, "weight.scaled", DOWN1 },
	};
	for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
		struct toy good, bad;
		toy_make(&good, "llama", 64, true);
		toy_make(&bad, "llama", 64, true);
		leave_untrained(&good);
		leave_untrained(&bad);
		cases[i].plant(&bad);
		toy_write(&good, in_folder("good.gguf"), cases[i].type == ST_DTYPE_Q4_0 ? ST_DTYPE_Q4_0 : ST_DTYPE_F32,
		          true);
		toy_write(&bad, in_folder("bad.gguf"), cases[i].type, true);
		expect_fault(in_folder("bad.gguf"), in_folder("good.gguf"), cases[i].code, cases[i].tensor, 0,
		             cases[i].code);
		toy_free(&good);
		toy_free(&bad);
	}
}

int main(int argc, char **argv)
{
	whole_if_asked(argc, argv);
#define CASE(f) cmocka_unit_test_setup_teardown(f, make_folder, remove_folder)
	const struct CMUnitTest tests[] = {
		CASE(padded_vocabularies_are_sound),
		CASE(padding_hides_no_fault),
		CASE(heads_and_ties),
		CASE(tied_heads_are_judged),
		CASE(overflow_is_the_worst_error),
		CASE(missing_biases_are_named),
		CASE(missing_layers_are_named),
		CASE(quiet_faults_are_named),
		CASE(offsets_keep_their_noise),
		CASE(norms_follow_their_weights),
		CASE(uneven_channels_are_clean),
		CASE(decoded_models_are_clean),
		CASE(a_head_stored_twice_accuses_nobody),
		CASE(what_is_left_of_a_huge_difference_is_no_cause),
		CASE(candidates_are_sorted),
		CASE(nans_in_other_places),
		CASE(likeness_misleads_nobody),
	};
	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
