/*
 * Two files of families that Stele cannot run: weights need no graph. Names of the two conventions meet by rule or by
 * value, keys are compared as they stand, what GGUF keeps in another form on purpose is no fault, and nothing is
 * claimed of stages.
 */
#include "toy.h"

#include "folder.h"

#include <stele/judge.h>

#include <math.h>

#define K1 "model.layers.1.self_attn.k_proj.weight"
#define V1 "model.layers.1.self_attn.v_proj.weight"
#define DOWN0 "model.layers.0.mlp.down_proj.weight"
#define DOWN1 "model.layers.1.mlp.down_proj.weight"
#define NORM0 "model.layers.0.input_layernorm.weight"

static struct st_rosetta *compare(const char *a, const char *b)
{
	static const uint32_t ids[] = { 5, 17, 60 };
	struct st_rosetta_options o = { .tokens = ids, .n_tokens = 3, .threshold = NAN };
	struct st_error err = ST_ERROR_INIT;
	struct st_rosetta *r;
	assert_ok(st_rosetta_run(in_folder(a), in_folder(b), &o, &r, &err), &err);
	assert_int_equal(r->n_stages, 0);
	return r;
}

static size_t matched(const struct st_rosetta *r)
{
	size_t n = 0;
	for (size_t i = 0; i < r->n_weights; i++)
		n += r->weights[i].status < ST_WEIGHT_ONLY_A;
	return n;
}

static void expect(const char *a, const char *b, enum st_verdict verdict, enum st_cause_code code, const char *tensor)
{
	struct st_rosetta *r = compare(a, b);
	if (r->verdict != verdict || r->cause.code != code || strcmp(r->first.tensor, tensor) != 0)
		fail_msg("%s against %s: %s, %s, %s: %s", a, b, st_verdict_name(r->verdict),
		         st_cause_name(r->cause.code), r->first.tensor, r->text);
	st_rosetta_free(r);
}

static void make(struct toy *m, const char *family)
{
	toy_make(m, "llama", 64, true);
	m->arch = family;
}

static void interleave(struct toy *m)
{
	for (size_t i = 0; i < m->n; i++) {
		struct toy_tensor *t = &m->t[i];
		if (!toy_is(t->name, "q_proj") && !toy_is(t->name, "k_proj"))
			continue;
		float *pairs = toy_interleaved(t, toy_is(t->name, "q_proj") ? m->heads : m->kv_heads);
		free(t->data);
		t->data = pairs;
	}
}

static void add_to_norms(struct toy *m, float x)
{
	for (size_t i = 0; i < m->n; i++)
		for (uint64_t k = 0; m->t[i].vector && k < m->t[i].cols; k++)
			m->t[i].data[k] += x;
}

static void one_convention(void **state)
{
	(void)state;
	struct toy m;
	make(&m, "zorp");
	toy_write(&m, in_folder("a.gguf"), ST_DTYPE_F32, true);
	toy_write(&m, in_folder("q.gguf"), ST_DTYPE_Q8_0, true);
	struct st_rosetta *r = compare("a.gguf", "a.gguf");
	assert_int_equal(r->verdict, ST_VERDICT_MATCH);
	assert_string_equal(r->not_evaluated, "unknown family zorp");
	assert_int_equal(matched(r), m.n);
	assert_int_equal(r->keys, 8);
	assert_int_equal(st_rosetta_exit(r, ST_ASSERT_NOTHING), 0);
	assert_int_equal(st_rosetta_exit(r, ST_ASSERT_MATCH), 1); /* stages were not compared */
	st_rosetta_free(r);
	expect("q.gguf", "a.gguf", ST_VERDICT_NOISE, ST_CAUSE_NONE, "");
	/* Faults. */
	struct toy_tensor *v = toy_find(&m, V1);
	for (uint64_t i = 0; i < v->rows * v->cols; i++)
		v->data[i] *= 1.5f;
	toy_write(&m, in_folder("scaled.gguf"), ST_DTYPE_F32, true);
	expect("scaled.gguf", "a.gguf", ST_VERDICT_FAULT, ST_CAUSE_WEIGHT_SCALED, "blk.1.attn_v.weight");
	toy_free(&m);
	make(&m, "zorp");
	memcpy(toy_find(&m, DOWN1)->data, toy_find(&m, DOWN0)->data, 64 * 128 * sizeof(float));
	toy_write(&m, in_folder("layer.gguf"), ST_DTYPE_F32, true);
	expect("layer.gguf", "a.gguf", ST_VERDICT_FAULT, ST_CAUSE_WEIGHT_LAYER_SWAPPED, "blk.1.ffn_down.weight");
	toy_find(&m, DOWN1)->absent = true;
	toy_write(&m, in_folder("missing.gguf"), ST_DTYPE_F32, true);
	expect("missing.gguf", "a.gguf", ST_VERDICT_FAULT, ST_CAUSE_WEIGHT_MISSING, "blk.1.ffn_down.weight");
	toy_free(&m);
	make(&m, "zorp");
	m.eps = 1e-6;
	toy_write(&m, in_folder("eps.gguf"), ST_DTYPE_F32, true);
	expect("eps.gguf", "a.gguf", ST_VERDICT_FAULT, ST_CAUSE_CONFIG_MISMATCH, "");
	/* Another family in one file is a difference, too. */
	m.eps = 1e-5;
	m.arch = "zarp";
	toy_write(&m, in_folder("zarp.gguf"), ST_DTYPE_F32, true);
	expect("zarp.gguf", "a.gguf", ST_VERDICT_FAULT, ST_CAUSE_CONFIG_MISMATCH, "");
	toy_free(&m);
}

static void two_conventions(void **state)
{
	(void)state;
	struct toy m;
	make(&m, "zorp");
	toy_write(&m, in_folder("hf"), ST_DTYPE_F32, false);
	toy_write(&m, in_folder("a.gguf"), ST_DTYPE_F16, true);
	expect("a.gguf", "hf", ST_VERDICT_NOISE, ST_CAUSE_NONE, "");
	struct st_rosetta *r = compare("hf", "a.gguf");
	assert_int_equal(matched(r), m.n);
	assert_int_equal(r->n_config, 0);
	assert_true(r->keys >= 7); /* layers, sizes, heads, epsilon, theta */
	st_rosetta_free(r);
	/* A tensor of a name that no rule knows is found by what it holds; one that is nowhere leaves the question
	 * open. */
	snprintf(toy_find(&m, V1)->name, 96, "blk.1.attn_zorp.weight");
	toy_write(&m, in_folder("renamed.gguf"), ST_DTYPE_F16, true);
	r = compare("renamed.gguf", "hf");
	assert_int_equal(r->verdict, ST_VERDICT_NOISE);
	assert_int_equal(matched(r), m.n);
	st_rosetta_free(r);
	uint64_t seed = 5;
	toy_add(&m, "blk.0.zorp_mix.weight", 24, 64, 0, 1, &seed);
	toy_write(&m, in_folder("more.gguf"), ST_DTYPE_F16, true);
	r = compare("more.gguf", "hf");
	assert_int_equal(r->verdict, ST_VERDICT_UNDECIDED);
	assert_int_equal(r->no_partner, 1);
	assert_int_equal(st_rosetta_exit(r, ST_ASSERT_NOTHING), 3);
	st_rosetta_free(r);
	toy_free(&m);
	/* One that other layers have is missing here. */
	make(&m, "zorp");
	toy_find(&m, DOWN1)->absent = true;
	toy_write(&m, in_folder("missing.gguf"), ST_DTYPE_F32, true);
	expect("missing.gguf", "hf", ST_VERDICT_FAULT, ST_CAUSE_WEIGHT_MISSING, DOWN1);
	toy_free(&m);
}

/* Rows in pairs: as granite's files have them; in a family that nobody knows it stays open, in one file it is a
 * fault. */
static void rope_order_is_a_form(void **state)
{
	(void)state;
	struct toy m;
	make(&m, "xverse");
	toy_write(&m, in_folder("hf"), ST_DTYPE_F32, false);
	m.arch = "zorp";
	toy_write(&m, in_folder("zorp"), ST_DTYPE_F32, false);
	toy_write(&m, in_folder("straight.gguf"), ST_DTYPE_F32, true);
	interleave(&m);
	toy_write(&m, in_folder("zorp.gguf"), ST_DTYPE_F32, true);
	m.arch = "xverse";
	toy_write(&m, in_folder("a.gguf"), ST_DTYPE_F32, true);
	struct st_rosetta *r = compare("a.gguf", "hf");
	assert_int_equal(r->verdict, ST_VERDICT_MATCH);
	assert_non_null(strstr(r->form_note, "every one of 4"));
	st_rosetta_free(r);
	r = compare("zorp.gguf", "zorp");
	assert_int_equal(r->verdict, ST_VERDICT_UNDECIDED);
	assert_non_null(strstr(r->form_note, "not known"));
	st_rosetta_free(r);
	expect("zorp.gguf", "straight.gguf", ST_VERDICT_FAULT, ST_CAUSE_WEIGHT_ROPE_PERMUTED, "blk.0.attn_q.weight");
	toy_free(&m);
	/* One that is not as all others are is the one at fault, in either order. */
	struct toy plain;
	make(&m, "zorp");
	make(&plain, "zorp");
	interleave(&m);
	struct toy_tensor *k1 = toy_find(&m, K1);
	memcpy(k1->data, toy_find(&plain, K1)->data, k1->rows * k1->cols * sizeof *k1->data);
	toy_write(&m, in_folder("odd.gguf"), ST_DTYPE_F32, true);
	for (int b = 0; b < 2; b++) {
		r = b ? compare("zorp", "odd.gguf") : compare("odd.gguf", "zorp");
		assert_int_equal(r->verdict, ST_VERDICT_FAULT);
		assert_int_equal(r->cause.code, ST_CAUSE_WEIGHT_ROPE_PERMUTED);
		assert_int_equal(r->first.layer, 1);
		assert_int_equal(r->first.side, b ? 'b' : 'a');
		assert_non_null(strstr(r->text, "blk.1.attn_k.weight"));
		st_rosetta_free(r);
	}
	toy_free(&plain);
	toy_free(&m);
}

static void plus_one_is_a_form(void **state)
{
	(void)state;
	struct toy m;
	make(&m, "gemma");
	toy_write(&m, in_folder("hf"), ST_DTYPE_F32, false);
	add_to_norms(&m, 1);
	toy_write(&m, in_folder("a.gguf"), ST_DTYPE_F32, true);
	struct toy_tensor *t = toy_find(&m, NORM0);
	for (uint64_t i = 0; i < t->cols; i++)
		t->data[i] -= 1;
	toy_write(&m, in_folder("forgotten.gguf"), ST_DTYPE_F32, true);
	struct st_rosetta *r = compare("hf", "a.gguf");
	assert_true(r->verdict <= ST_VERDICT_NOISE);
	assert_non_null(strstr(r->form_note, "every one of 5"));
	st_rosetta_free(r);
	r = compare("hf", "forgotten.gguf");
	assert_int_equal(r->verdict, ST_VERDICT_FAULT);
	assert_int_equal(r->cause.code, ST_CAUSE_NORM_PLUS_ONE);
	assert_string_equal(r->first.tensor, NORM0);
	assert_int_equal(r->first.side, 'b');
	st_rosetta_free(r);
	toy_free(&m);
}

/* A number that both call by one word is compared, though no rule knows the word. */
static void words_of_two_conventions(void **state)
{
	(void)state;
	struct toy m;
	make(&m, "zorp");
	while (m.n > 1)
		free(m.t[--m.n].data);
	toy_write(&m, in_folder("hf"), ST_DTYPE_F32, false);
	uint32_t stripes = 7, rows = TOY_VOCAB;
	struct toy_kv_store kv = { .n = 0 };
	toy_kv(&kv, "general.architecture", ST_KV_STR, "zorp", 4);
	toy_kv(&kv, "zorp.vocab_size", ST_KV_U32, &rows, 4);
	toy_kv(&kv, "zorp.attention.stripes", ST_KV_U32, &stripes, 4);
	struct st_tensor_spec spec = { .name = "token_embd.weight", .ndim = 2, .shape = { TOY_VOCAB, 64 } };
	struct st_write_plan plan = {
		.format = ST_FORMAT_GGUF, .specs = &spec, .n_specs = 1, .alignment = 32, .kv = kv.kv, .n_kv = kv.n
	};
	struct st_error err = ST_ERROR_INIT;
	struct st_writer *w;
	const char *readable;
	assert_ok(st_writer_open(in_folder("a.gguf"), &plan, &w, &err), &err);
	assert_ok(st_writer_append(w, m.t[0].data, TOY_VOCAB * 64 * sizeof(float), &err), &err);
	assert_ok(st_writer_finish(w, &readable, &err), &err);
	assert_ok(st_writer_commit(w, &err), &err);
	toy_free(&m);
	for (int said = 7; said <= 9; said += 2) {
		FILE *f = fopen(in_folder("hf/config.json"), "w");
		assert_non_null(f);
		fprintf(f, "{\"architectures\": [\"Zorp\"], \"model_type\": \"zorp\", \"vocab_size\": %u, \"stripes\": %d}\n",
		        rows, said);
		fclose(f);
		expect("a.gguf", "hf", said == 7 ? ST_VERDICT_MATCH : ST_VERDICT_FAULT,
		       said == 7 ? ST_CAUSE_NONE : ST_CAUSE_CONFIG_MISMATCH, "");
		expect("hf", "a.gguf", said == 7 ? ST_VERDICT_MATCH : ST_VERDICT_FAULT,
		       said == 7 ? ST_CAUSE_NONE : ST_CAUSE_CONFIG_MISMATCH, "");
	}
}

/* Experts that GGUF stacks in one tensor are compared one by one with those of Hugging Face. */
static void experts_are_unstacked(void **state)
{
	(void)state;
	enum { E = 3, OUT = 8, IN = 32 };
	/* An expert with the number of its layer among them. */
	static const char *const names[] = { "model.layers.1.mlp.experts.0.up_proj.weight",
		                             "model.layers.1.mlp.experts.1.up_proj.weight",
		                             "model.layers.1.mlp.experts.2.up_proj.weight" };
	float x[E * OUT * IN];
	uint64_t seed = 77;
	for (size_t i = 0; i < E * OUT * IN; i++)
		x[i] = (float)toy_normal(&seed);
	for (int swapped = 0; swapped < 2; swapped++) {
		struct toy m;
		make(&m, "zorp");
		while (m.n > 1) /* the embedding and the experts are enough */
			free(m.t[--m.n].data);
		for (int e = 0; e < E; e++) {
			struct toy_tensor *t = toy_add(&m, names[e], OUT, IN, 0, 1, &seed);
			int from = swapped && e > 0 ? E - e : e; /* 1 and 2 exchanged */
			memcpy(t->data, x + from * OUT * IN, OUT * IN * sizeof *x);
		}
		toy_write(&m, in_folder(swapped ? "swapped" : "hf"), ST_DTYPE_F32, false);
		struct toy_kv_store kv = { .n = 0 };
		toy_kv(&kv, "general.architecture", ST_KV_STR, "zorp", 4);
		struct st_tensor_spec specs[] = {
			{ .name = "token_embd.weight", .ndim = 2, .shape = { TOY_VOCAB, 64 } },
			{ .name = "blk.1.ffn_up_exps.weight", .ndim = 3, .shape = { E, OUT, IN } },
		};
		struct st_write_plan plan = {
			.format = ST_FORMAT_GGUF, .specs = specs, .n_specs = 2, .alignment = 32, .kv = kv.kv, .n_kv = 1
		};
		struct st_error err = ST_ERROR_INIT;
		struct st_writer *w;
		const char *readable;
		assert_ok(st_writer_open(in_folder("stacked.gguf"), &plan, &w, &err), &err);
		assert_ok(st_writer_append(w, m.t[0].data, TOY_VOCAB * 64 * sizeof(float), &err), &err);
		assert_ok(st_writer_append(w, x, sizeof x, &err), &err);
		assert_ok(st_writer_finish(w, &readable, &err), &err);
		assert_ok(st_writer_commit(w, &err), &err);
		toy_free(&m);
		if (!swapped)
			expect("stacked.gguf", "hf", ST_VERDICT_MATCH, ST_CAUSE_NONE, "");
		else
			expect("swapped", "stacked.gguf", ST_VERDICT_FAULT, ST_CAUSE_WEIGHT_WRONG_TENSOR, names[1]);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(one_convention, make_folder, remove_folder),
		cmocka_unit_test_setup_teardown(two_conventions, make_folder, remove_folder),
		cmocka_unit_test_setup_teardown(words_of_two_conventions, make_folder, remove_folder),
		cmocka_unit_test_setup_teardown(rope_order_is_a_form, make_folder, remove_folder),
		cmocka_unit_test_setup_teardown(plus_one_is_a_form, make_folder, remove_folder),
		cmocka_unit_test_setup_teardown(experts_are_unstacked, make_folder, remove_folder),
	};
	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
