/* A verdict does not depend on which file is named first: sound and faulty pairs of many stored types, both ways. */
#include "toy.h"

#include "folder.h"

#include <stele/judge.h>

#define V0 "model.layers.0.self_attn.v_proj.weight"
#define Q1 "model.layers.1.self_attn.q_proj.weight"
#define GATE0 "model.layers.0.mlp.gate_proj.weight"
#define DOWN1 "model.layers.1.mlp.down_proj.weight"
#define NORM1 "model.layers.1.input_layernorm.weight"

static void multiply(struct toy *m, const char *name, double by)
{
	struct toy_tensor *t = toy_find(m, name);
	for (uint64_t i = 0; i < t->rows * t->cols; i++)
		t->data[i] = (float)(t->data[i] * by);
}

static void disturb(struct toy *m, const char *name, double by)
{
	struct toy_tensor *t = toy_find(m, name);
	uint64_t seed = 91;
	for (uint64_t i = 0; i < t->rows * t->cols; i++)
		t->data[i] = (float)(t->data[i] * (1 + by * toy_normal(&seed)));
}

static void small_gain(struct toy *m) { multiply(m, DOWN1, 1.003); }
static void gain(struct toy *m) { multiply(m, V0, 1.03); }
static void large_gain(struct toy *m) { multiply(m, Q1, 8); }
static void some_noise(struct toy *m) { disturb(m, GATE0, 0.01); }
static void more_noise(struct toy *m) { disturb(m, DOWN1, 0.1); }
static void norm_gain(struct toy *m) { multiply(m, NORM1, 1.02); }
static void exchanged(struct toy *m) { toy_swap(m, GATE0, "model.layers.0.mlp.up_proj.weight"); }
static void transposed(struct toy *m) { toy_transpose(m, Q1); }
static void negated(struct toy *m) { multiply(m, V0, -1); }

static void row_lost(struct toy *m)
{
	struct toy_tensor *t = toy_find(m, DOWN1);
	memset(t->data + 5 * t->cols, 0, t->cols * sizeof *t->data);
}

static void rows_moved(struct toy *m)
{
	struct toy_tensor *t = toy_find(m, GATE0);
	float first[1024];
	memcpy(first, t->data, t->cols * sizeof *first);
	memmove(t->data, t->data + t->cols, (t->rows - 1) * t->cols * sizeof *t->data);
	memcpy(t->data + (t->rows - 1) * t->cols, first, t->cols * sizeof *first);
}

static void adapter(struct toy *m)
{
	struct toy_tensor *t = toy_find(m, V0);
	uint64_t seed = 17;
	double u[1024], v[1024];
	for (uint64_t k = 0; k < t->cols; k++)
		v[k] = toy_normal(&seed);
	for (uint64_t r = 0; r < t->rows; r++)
		u[r] = 0.02 * toy_normal(&seed);
	for (uint64_t i = 0; i < t->rows * t->cols; i++)
		t->data[i] += (float)(u[i / t->cols] * v[i % t->cols]);
}

static void trained(struct toy *m)
{
	for (size_t i = 0; i < m->n; i++)
		if (!m->t[i].vector)
			disturb(m, m->t[i].name, 0.02);
}

static void value_lost(struct toy *m) { toy_find(m, GATE0)->data[77] = NAN; }

static void (*const edits[])(struct toy *m) = {
	NULL,       small_gain, gain,     large_gain, some_noise, more_noise, norm_gain,  exchanged,
	transposed, negated,    row_lost, rows_moved, adapter,    trained,    value_lost,
};

struct said {
	enum st_verdict verdict;
	enum st_cause_code code;
	enum st_confidence confidence;
	char side, tensor[200], text[512];
};

static void judge(const char *a, const char *b, struct said *s)
{
	static const uint32_t tokens[] = { 5, 17, 60 };
	struct st_rosetta_options o = { .tokens = tokens, .n_tokens = 3, .threshold = NAN, .threads = 1 };
	struct st_error err = ST_ERROR_INIT;
	struct st_rosetta *r;
	assert_ok(st_rosetta_run(in_folder(a), in_folder(b), &o, &r, &err), &err);
	*s = (struct said){ r->verdict, r->cause.code, r->cause.confidence, r->first.side, "", "" };
	snprintf(s->tensor, sizeof s->tensor, "%s", r->verdict == ST_VERDICT_FAULT ? r->first.tensor : "");
	snprintf(s->text, sizeof s->text, "%s", r->text);
	st_rosetta_free(r);
}

static unsigned differ;

/* All pairs of types; the edit is made on the one side, in each of its types. */
static void try_types(const char *arch, uint32_t hidden, const enum st_dtype *types, size_t n, size_t e)
{
	char other[16], sound[16];
	for (size_t i = 0; i < n; i++) {
		struct toy m;
		snprintf(sound, sizeof sound, "s%zu.gguf", i);
		snprintf(other, sizeof other, "o%zu.gguf", i);
		toy_make(&m, arch, hidden, false);
		toy_write(&m, in_folder(sound), types[i], true);
		if (edits[e])
			edits[e](&m);
		toy_write(&m, in_folder(other), types[i], true);
		toy_free(&m);
	}
	for (size_t i = 0; i < n; i++)
		for (size_t k = 0; k < n; k++) {
			struct said one, two;
			if ((i + k + e) % 2) /* half of them: every edit meets every type */
				continue;
			snprintf(other, sizeof other, "o%zu.gguf", i);
			snprintf(sound, sizeof sound, "s%zu.gguf", k);
			judge(other, sound, &one);
			judge(sound, other, &two);
			char back = two.side ? (char)('a' + 'b' - two.side) : 0;
			if (one.verdict != two.verdict || one.code != two.code || one.confidence != two.confidence
			    || one.side != back || strcmp(one.tensor, two.tensor) != 0) {
				fprintf(stderr,
				        "# %s, edit %zu, %s against %s:\n#  %s %s %c %s: %s\n#  %s %s %c %s: %s\n",
				        arch, e, st_dtype_info(types[i])->name, st_dtype_info(types[k])->name,
				        st_verdict_name(one.verdict), st_cause_name(one.code),
				        one.side ? one.side : '-', one.tensor, one.text, st_verdict_name(two.verdict),
				        st_cause_name(two.code), back ? back : '-', two.tensor, two.text);
				differ++;
			}
			if (!edits[e])
				assert_true(one.verdict == ST_VERDICT_NOISE || one.verdict == ST_VERDICT_MATCH);
		}
}

static void both_orders_say_the_same(void **state)
{
	(void)state;
	static const enum st_dtype small[] = { ST_DTYPE_F32,  ST_DTYPE_F16,  ST_DTYPE_BF16,
		                               ST_DTYPE_Q8_0, ST_DTYPE_Q5_1, ST_DTYPE_Q4_0 },
				   large[] = { ST_DTYPE_BF16, ST_DTYPE_Q6_K, ST_DTYPE_Q4_K };
	for (size_t e = 0; e < sizeof edits / sizeof *edits; e++) {
		try_types("llama", 64, small, sizeof small / sizeof *small, e);
		if (e % 3 == 0)
			try_types("qwen2", 256, large, sizeof large / sizeof *large, e);
	}
	assert_int_equal(differ, 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(both_orders_say_the_same, make_folder, remove_folder),
	};
	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
