/*
 * Two files of one model: sound pairs must come out clean, planted faults must be named.
 *
 * Every fault is planted by editing a toy's numbers or bytes (toy.h) and looked for in both
 * orders and in several pairs of stored types.
 */
#include "toy.h"
#include "folder.h"
#include "whole.h"

#include <stele/judge.h>

static const uint32_t tokens[] = { 5, 17, 3, 80, 42, 9 };

static struct st_rosetta *compare(const char *a, const char *b)
{
	struct st_rosetta *r = NULL;
	struct st_error err = ST_ERROR_INIT;
	struct st_rosetta_options o = { .tokens = tokens, .n_tokens = 6, .threshold = NAN, .threads = 2 };
	assert_ok(st_rosetta_run(a, b, &o, &r, &err), &err);
	return r;
}

static void explain(const struct st_rosetta *r, const char *what)
{
	fprintf(stderr, "%s: %s, %s at %s layer %d %s: %s\n", what, st_verdict_name(r->verdict),
	        st_cause_name(r->cause.code), r->first.stage, (int)r->first.layer, r->first.tensor, r->text);
}

/* ---- sound pairs ---- */

static const enum st_dtype types[] = {
	ST_DTYPE_F32,  ST_DTYPE_F16,  ST_DTYPE_BF16, ST_DTYPE_Q8_0, ST_DTYPE_Q4_0,
	ST_DTYPE_Q4_1, ST_DTYPE_Q5_0, ST_DTYPE_Q5_1, ST_DTYPE_Q4_K, ST_DTYPE_Q6_K,
};
enum { N_TYPES = sizeof types / sizeof *types };

static void check_clean(const char *arch, uint32_t hidden, bool tied)
{
	struct toy m;
	toy_make(&m, arch, hidden, tied);
	char gguf[N_TYPES][256];
	for (int i = 0; i < N_TYPES; i++) {
		snprintf(gguf[i], sizeof gguf[i], "%s/%s.gguf", folder, st_dtype_info(types[i])->name);
		toy_write(&m, gguf[i], types[i], true);
	}
	toy_write(&m, in_folder("hf"), ST_DTYPE_F32, false);
	for (int i = 0; i < N_TYPES; i++) {
		if (hidden % st_dtype_info(types[i])->block_elems)
			continue;
		for (int j = -1; j < N_TYPES; j++) {
			if (j >= 0 && hidden % st_dtype_info(types[j])->block_elems)
				continue;
			if (i != j && !taken(i, j < 0 ? 0 : j, i > j, 2)) /* one of the two orders */
				continue;
			struct st_rosetta *r = compare(gguf[i], j < 0 ? in_folder("hf") : gguf[j]);
			bool same = j < 0 ? types[i] == ST_DTYPE_F32 : i == j;
			char what[64];
			snprintf(what, sizeof what, "%s %u %s against %s", arch, hidden, st_dtype_info(types[i])->name,
			         j < 0 ? "hf" : st_dtype_info(types[j])->name);
			if (r->verdict != (same ? ST_VERDICT_MATCH : ST_VERDICT_NOISE))
				explain(r, what);
			assert_int_equal(r->verdict, same ? ST_VERDICT_MATCH : ST_VERDICT_NOISE);
			assert_int_equal(r->skipped, 0);
			assert_int_equal(st_rosetta_exit(r, true), 0);
			st_rosetta_free(r);
		}
	}
	toy_free(&m);
}

static void sound_llama_pairs_are_clean(void **state)
{
	(void)state;
	check_clean("llama", 64, true);
}
static void sound_qwen2_pairs_are_clean(void **state)
{
	(void)state;
	check_clean("qwen2", 256, false);
}

/* A head written out that equals the embedding, and a tensor nobody uses. */
static void harmless_differences_are_clean(void **state)
{
	(void)state;
	struct toy a, b;
	uint64_t seed = 3;
	toy_make(&a, "qwen2", 64, true);
	toy_make(&b, "qwen2", 64, true);
	struct toy_tensor *head = toy_add(&b, "lm_head.weight", TOY_VOCAB, 64, 0, 1, &seed);
	memcpy(head->data, toy_find(&b, "model.embed_tokens.weight")->data, TOY_VOCAB * 64 * sizeof(float));
	toy_add(&b, "model.layers.0.self_attn.rotary_emb.inv_freq", 8, 0, 0, 1, &seed);
	toy_write(&a, in_folder("a.gguf"), ST_DTYPE_F32, true);
	toy_write(&b, in_folder("b"), ST_DTYPE_F32, false);
	struct st_rosetta *r = compare(in_folder("a.gguf"), in_folder("b"));
	if (r->verdict != ST_VERDICT_MATCH)
		explain(r, "harmless");
	assert_int_equal(r->verdict, ST_VERDICT_MATCH);
	assert_int_equal(r->unused_b, 1);
	st_rosetta_free(r);
	toy_free(&a);
	toy_free(&b);
}

/*
 * Encoders that weigh elements by importance give a block the step that suits its important ones and clip the rest;
 * some refit the scale to codes that are chosen. Here importances vary ten-thousandfold.
 */
static void importance_is_clean(void **state)
{
	(void)state;
	enum { MOST = 512 * 256 };
	static float importance[MOST];
	uint64_t seed = 31;
	for (int i = 0; i < MOST; i++)
		importance[i] = (float)exp(2 * toy_normal(&seed));
	struct toy m;
	toy_make(&m, "qwen2", 256, false);
	for (size_t i = 0; i < m.n; i++)
		assert_true(m.t[i].rows * m.t[i].cols <= MOST);
	toy_write(&m, in_folder("good.gguf"), ST_DTYPE_F32, true);
	m.importance = importance;
	for (int i = 0; i < N_TYPES; i++) {
		if (st_dtype_info(types[i])->kind != ST_KIND_QUANT)
			continue;
		toy_write(&m, in_folder("weighted.gguf"), types[i], true);
		struct st_rosetta *r = compare(in_folder(i % 2 ? "good.gguf" : "weighted.gguf"),
		                               in_folder(i % 2 ? "weighted.gguf" : "good.gguf"));
		if (r->verdict != ST_VERDICT_NOISE)
			explain(r, st_dtype_info(types[i])->name);
		assert_int_equal(r->verdict, ST_VERDICT_NOISE);
		st_rosetta_free(r);
	}
	toy_free(&m);
}

/*
 * Numbers whose rounding errors do not average out: one channel a hundred times the others, so that it is most of every
 * row; a matrix of one number; weights of two values.
 */
static void coherent_errors_are_clean(void **state)
{
	(void)state;
	static const enum st_dtype stored[] = { ST_DTYPE_F16,  ST_DTYPE_BF16, ST_DTYPE_Q8_0,
		                                ST_DTYPE_Q4_0, ST_DTYPE_Q5_1, ST_DTYPE_Q4_K };
	for (int kind = 0; kind < 3; kind++) {
		struct toy m;
		toy_make(&m, "qwen2", 256, false);
		for (size_t i = 0; i < m.n; i++) {
			struct toy_tensor *t = &m.t[i];
			for (uint64_t k = 0; !t->vector && k < t->rows * t->cols; k++)
				t->data[k] = kind == 1 ? 0.0123f
				           : kind == 2 ? copysignf(0.04f, t->data[k])
				                       : t->data[k] * (k % t->cols == 33 ? 100 : 1);
		}
		toy_write(&m, in_folder("good.gguf"), ST_DTYPE_F32, true);
		for (size_t i = 0; i < sizeof stored / sizeof *stored; i++) {
			toy_write(&m, in_folder("stored.gguf"), stored[i], true);
			for (int order = 0; order < 2; order++) {
				if (!taken(kind, i, order, 2))
					continue;
				struct st_rosetta *r = compare(in_folder(order ? "good.gguf" : "stored.gguf"),
				                               in_folder(order ? "stored.gguf" : "good.gguf"));
				if (r->verdict != ST_VERDICT_NOISE)
					explain(r, st_dtype_info(stored[i])->name);
				assert_int_equal(r->verdict, ST_VERDICT_NOISE);
				st_rosetta_free(r);
			}
		}
		toy_free(&m);
	}
}

/* Rows that a type's blocks divide; more numbers than that find no more in the quick suite. */
static uint32_t hidden_for(enum st_dtype t) { return whole || st_dtype_info(t)->block_elems == 256 ? 256 : 128; }

/* What a mode rounds itself is no difference of the files, whichever types they hold. */
static void every_mode_is_clean(void **state)
{
	(void)state;
	static const char *const modes[] = { "exact",        "fast",         "emulate:f16",
		                             "emulate:bf16", "emulate:q8_0", "emulate:q8_k" };
	static const enum st_dtype pairs[][2] = {
		{ ST_DTYPE_F16, ST_DTYPE_F32 },
		{ ST_DTYPE_F32, ST_DTYPE_Q8_0 },
		{ ST_DTYPE_BF16, ST_DTYPE_F16 },
		{ ST_DTYPE_Q4_K, ST_DTYPE_F32 },
	};
	struct toy m;
	for (size_t k = 0; k < sizeof pairs / sizeof *pairs; k++) {
		toy_make(&m, "llama", hidden_for(pairs[k][0]), false);
		toy_write(&m, in_folder("a.gguf"), pairs[k][0], true);
		toy_write(&m, in_folder("b.gguf"), pairs[k][1], true);
		for (size_t i = 0; i < sizeof modes / sizeof *modes; i++) {
			struct st_error err = ST_ERROR_INIT;
			struct st_rosetta *r;
			struct st_rosetta_options o = {
				.tokens = tokens, .n_tokens = 6, .threshold = NAN, .mode = modes[i], .threads = 2
			};
			assert_ok(st_rosetta_run(in_folder("a.gguf"), in_folder("b.gguf"), &o, &r, &err), &err);
			if (r->verdict != ST_VERDICT_NOISE)
				explain(r, modes[i]);
			assert_int_equal(r->verdict, ST_VERDICT_NOISE);
			assert_int_equal(st_rosetta_exit(r, true), 0);
			st_rosetta_free(r);
		}
		toy_free(&m);
	}
}

/* ---- planted faults ---- */

#define Q1 "model.layers.1.self_attn.q_proj.weight"
#define K0 "model.layers.0.self_attn.k_proj.weight"
#define O1 "model.layers.1.self_attn.o_proj.weight"
#define GATE0 "model.layers.0.mlp.gate_proj.weight"
#define UP0 "model.layers.0.mlp.up_proj.weight"
#define DOWN1 "model.layers.1.mlp.down_proj.weight"
#define EMBED "model.embed_tokens.weight"
#define HEAD "lm_head.weight"

static void scale(struct toy *m, const char *name, double g)
{
	struct toy_tensor *t = toy_find(m, name);
	for (uint64_t i = 0; i < t->rows * t->cols; i++)
		t->data[i] = (float)(g * t->data[i]);
}

static void shift_rows(struct toy *m, const char *name, uint64_t by)
{
	struct toy_tensor *t = toy_find(m, name);
	float *out = malloc(t->rows * t->cols * sizeof *out);
	for (uint64_t i = 0; i < t->rows; i++)
		memcpy(out + i * t->cols, t->data + (i + by) % t->rows * t->cols, t->cols * sizeof *out);
	free(t->data);
	t->data = out;
}

static void reorder(struct toy *m, const char *name, uint32_t heads)
{
	struct toy_tensor *t = toy_find(m, name);
	float *out = toy_interleaved(t, heads);
	free(t->data);
	t->data = out;
}

static void plant_transposed_q(struct toy *m) { toy_transpose(m, Q1); }
static void plant_transposed_gate(struct toy *m) { toy_transpose(m, GATE0); }
static void plant_scaled(struct toy *m) { scale(m, DOWN1, 1.26); }
static void plant_scaled_sqrt(struct toy *m) { scale(m, Q1, 1 / sqrt(m->head_dim)); }
static void plant_embedding_scale(struct toy *m) { scale(m, EMBED, sqrt(m->hidden)); }
static void plant_head_scale(struct toy *m) { scale(m, HEAD, 0.5); }
static void plant_bias_scaled(struct toy *m) { scale(m, "model.layers.0.self_attn.k_proj.bias", 2); }
static void plant_bias_zero(struct toy *m) { scale(m, "model.layers.1.self_attn.v_proj.bias", 0); }
static void plant_row_shift(struct toy *m) { shift_rows(m, O1, 3); }
static void plant_embedding_shift(struct toy *m) { shift_rows(m, EMBED, 1); }
static void plant_rope_q(struct toy *m) { reorder(m, Q1, m->heads); }
static void plant_rope_k_wrong(struct toy *m) { reorder(m, K0, m->heads); } /* query head count on keys */
static void plant_gate_up(struct toy *m) { toy_swap(m, GATE0, UP0); }
static void plant_kv(struct toy *m) { toy_swap(m, K0, "model.layers.0.self_attn.v_proj.weight"); }
static void plant_layers(struct toy *m) { toy_swap(m, O1, "model.layers.0.self_attn.o_proj.weight"); }
static void plant_norms(struct toy *m)
{
	toy_swap(m, "model.layers.1.input_layernorm.weight", "model.layers.1.post_attention_layernorm.weight");
}

static void plant_norm_ones(struct toy *m)
{
	struct toy_tensor *t = toy_find(m, "model.norm.weight");
	for (uint64_t i = 0; i < t->cols; i++)
		t->data[i] = 1;
}

static void plant_plus_one(struct toy *m)
{
	struct toy_tensor *t = toy_find(m, "model.layers.0.post_attention_layernorm.weight");
	for (uint64_t i = 0; i < t->cols; i++)
		t->data[i] += 1;
}

static void plant_corrupt_row(struct toy *m)
{
	struct toy_tensor *t = toy_find(m, O1);
	uint64_t seed = 99;
	for (uint64_t i = 0; i < t->cols; i++)
		t->data[7 * t->cols + i] = (float)(0.1 * toy_normal(&seed));
}

static void plant_scaled_row(struct toy *m)
{
	struct toy_tensor *t = toy_find(m, O1);
	for (uint64_t i = 0; i < t->cols; i++)
		t->data[7 * t->cols + i] *= 1.5f;
}

static void plant_nan(struct toy *m) { toy_find(m, DOWN1)->data[100] = NAN; }
/* A tensor with a few large numbers, and what F16 makes of them where a writer cuts instead of refusing. */
static void make_large(struct toy *m)
{
	struct toy_tensor *t = toy_find(m, DOWN1);
	t->data[100] = 70000;
	t->data[40 * t->cols + 7] = -90112;
}
static void make_one_large(struct toy *m) { toy_find(m, DOWN1)->data[100] = 70000; }

static void cut_to(struct toy *m, float limit)
{
	struct toy_tensor *t = toy_find(m, DOWN1);
	for (uint64_t i = 0; i < t->rows * t->cols; i++)
		t->data[i] = fminf(fmaxf(t->data[i], -limit), limit);
}

static void plant_head_is_embedding(struct toy *m)
{
	memcpy(toy_find(m, HEAD)->data, toy_find(m, EMBED)->data, TOY_VOCAB * m->hidden * sizeof(float));
}

static void plant_permuted_rows(struct toy *m)
{
	struct toy_tensor *t = toy_find(m, UP0);
	float *out = malloc(t->rows * t->cols * sizeof *out);
	for (uint64_t i = 0; i < t->rows; i++)
		memcpy(out + i * t->cols, t->data + i * 37 % t->rows * t->cols, t->cols * sizeof *out);
	free(t->data);
	t->data = out;
}

static void plant_interleaved(struct toy *m)
{
	struct toy_tensor *g = toy_find(m, GATE0), *u = toy_find(m, UP0);
	uint64_t n = g->rows, c = g->cols;
	float *both = malloc(2 * n * c * sizeof *both);
	for (uint64_t i = 0; i < n; i++) {
		memcpy(both + 2 * i * c, g->data + i * c, c * sizeof *both);
		memcpy(both + (2 * i + 1) * c, u->data + i * c, c * sizeof *both);
	}
	memcpy(g->data, both, n * c * sizeof *both);
	memcpy(u->data, both + n * c, n * c * sizeof *both);
	free(both);
}

/* Row r holds row r - 1; the first one stays. */
static void plant_head_off_by_one(struct toy *m)
{
	struct toy_tensor *t = toy_find(m, HEAD);
	memmove(t->data + t->cols, t->data, (t->rows - 1) * t->cols * sizeof *t->data);
}

static void plant_half_zero(struct toy *m)
{
	struct toy_tensor *t = toy_find(m, DOWN1);
	memset(t->data + t->rows / 2 * t->cols, 0, t->rows / 2 * t->cols * sizeof *t->data);
}

static void plant_all_zero(struct toy *m) { scale(m, DOWN1, 0); }

static void plant_scaled_and_row(struct toy *m)
{
	struct toy_tensor *t = toy_find(m, O1);
	scale(m, O1, 2);
	memset(t->data + 100 * t->cols, 0, t->cols * sizeof *t->data);
}

static void plant_missing(struct toy *m) { toy_find(m, DOWN1)->absent = true; }

enum { WITH_EXACT = 1, WITH_FLOATS = 2, WITH_QUANTS = 4, EVERY = 7 };

static const struct plant {
	const char *name;
	void (*plant)(struct toy *m);
	const char *code, *also;
	const char *tensor;
	const char *stage;
	int layer;
	unsigned types;
} plants[] = {
	{ "square transposed", plant_transposed_q, "weight.transposed", NULL, Q1, "qkv_matmul", 1, EVERY },
	{ "rectangular transposed", plant_transposed_gate, "weight.transposed", NULL, GATE0, "ffn_gate", 0, EVERY },
	{ "scaled by 1.26", plant_scaled, "weight.scaled", NULL, DOWN1, "ffn_out", 1, EVERY },
	{ "scaled by 1/sqrt(d)", plant_scaled_sqrt, "weight.scaled", NULL, Q1, "qkv_matmul", 1, EVERY },
	{ "embedding scaled", plant_embedding_scale, "embedding.scale", NULL, EMBED, "embedding", -1, EVERY },
	{ "head scaled", plant_head_scale, "head.scale", NULL, HEAD, "lm_head", -1, EVERY },
	{ "bias doubled", plant_bias_scaled, "bias.scaled", NULL, "model.layers.0.self_attn.k_proj.bias", "qkv_bias", 0,
	  EVERY },
	{ "bias zero", plant_bias_zero, "bias.missing", NULL, "model.layers.1.self_attn.v_proj.bias", "qkv_bias", 1,
	  EVERY },
	{ "rows shifted", plant_row_shift, "weight.row_shift", NULL, O1, "attn_out", 1, EVERY },
	{ "embedding shifted", plant_embedding_shift, "embedding.row_shift", NULL, EMBED, "embedding", -1, EVERY },
	{ "q in the other RoPE order", plant_rope_q, "weight.rope_permuted", NULL, Q1, "qkv_matmul", 1, EVERY },
	{ "k permuted with the query heads", plant_rope_k_wrong, "weight.rope_permuted_wrong_heads", NULL, K0,
	  "qkv_matmul", 0, EVERY },
	{ "gate and up exchanged", plant_gate_up, "weight.gate_up_swapped", NULL, GATE0, "ffn_gate", 0, EVERY },
	{ "k and v exchanged", plant_kv, "weight.qkv_swapped", NULL, K0, "qkv_matmul", 0, EVERY },
	{ "layers exchanged", plant_layers, "weight.layer_swapped", NULL, "model.layers.0.self_attn.o_proj.weight",
	  "attn_out", 0, EVERY },
	{ "norms exchanged", plant_norms, "norm.wrong_weight", NULL, "model.layers.1.input_layernorm.weight",
	  "attn_norm", 1, EVERY },
	{ "norm of ones", plant_norm_ones, "norm.weight_missing", NULL, "model.norm.weight", "final_norm", -1, EVERY },
	{ "norm plus one", plant_plus_one, "norm.plus_one", NULL, "model.layers.0.post_attention_layernorm.weight",
	  "ffn_norm", 0, EVERY },
	{ "one row is noise", plant_corrupt_row, "weight.row_corrupt", NULL, O1, "attn_out", 1, EVERY },
	{ "one row scaled", plant_scaled_row, "weight.row_corrupt", NULL, O1, "attn_out", 1, EVERY },
	{ "one NaN", plant_nan, "weight.nan", NULL, DOWN1, "ffn_out", 1, WITH_EXACT | WITH_FLOATS },
	{ "head is the embedding", plant_head_is_embedding, "head.tied", NULL, HEAD, "lm_head", -1, EVERY },
	{ "rows permuted", plant_permuted_rows, "weight.rows_permuted", NULL, UP0, "ffn_up", 0, EVERY },
	{ "gate and up interleaved", plant_interleaved, "weight.gate_up_interleaved", NULL, GATE0, "ffn_gate", 0,
	  EVERY },
	{ "head off by one", plant_head_off_by_one, "weight.row_shift", NULL, HEAD, "lm_head", -1, EVERY },
	{ "second half zero", plant_half_zero, "weight.row_corrupt", NULL, DOWN1, "ffn_out", 1, EVERY },
	{ "all zero", plant_all_zero, "weight.missing", NULL, DOWN1, "ffn_out", 1, EVERY },
	{ "scaled, and a row zero", plant_scaled_and_row, "weight.scaled", NULL, O1, "attn_out", 1, EVERY },
	{ "tensor missing", plant_missing, "weight.missing", NULL, DOWN1, "ffn_out", 1, WITH_EXACT },
};

enum { BAD_FIRST = 1, GOOD_FIRST = 2, BOTH_ORDERS = 3 };

static void check_fault(const struct plant *p, const char *bad, const char *good, const char *pair, int orders)
{
	for (int order = 0; order < 2; order++) {
		if (!(orders & 1 << order))
			continue;
		struct st_rosetta *r = order ? compare(good, bad) : compare(bad, good);
		bool right = r->verdict == ST_VERDICT_FAULT
		          && (strcmp(st_cause_name(r->cause.code), p->code) == 0
		              || (p->also && strcmp(st_cause_name(r->cause.code), p->also) == 0))
		          && strcmp(r->first.tensor, p->tensor) == 0 && strcmp(r->first.stage, p->stage) == 0
		          && r->first.layer == p->layer && r->cause.confidence == ST_CONFIRMED
		          && (!r->first.side || r->first.side == (order ? 'b' : 'a'));
		if (!right) {
			char what[128];
			snprintf(what, sizeof what, "%s, %s, order %d (side %c)", p->name, pair, order,
			         r->first.side ? r->first.side : '-');
			explain(r, what);
		}
		assert_true(right);
		assert_int_equal(st_rosetta_exit(r, false), 1);
		st_rosetta_free(r);
	}
}

static void planted_faults_are_named(void **state)
{
	(void)state;
	static const struct {
		enum st_dtype bad, good;
		unsigned kind;
		const char *name;
	} pairs[] = {
		{ ST_DTYPE_F32, ST_DTYPE_F32, WITH_EXACT, "F32 against F32" },
		{ ST_DTYPE_F16, ST_DTYPE_F32, WITH_FLOATS, "F16 against F32" },
		{ ST_DTYPE_BF16, ST_DTYPE_F32, WITH_FLOATS, "BF16 against F32" },
		{ ST_DTYPE_Q8_0, ST_DTYPE_BF16, WITH_QUANTS, "Q8_0 against BF16" },
		{ ST_DTYPE_Q4_0, ST_DTYPE_F32, WITH_QUANTS, "Q4_0 against F32" },
		{ ST_DTYPE_Q4_K, ST_DTYPE_Q8_0, WITH_QUANTS, "Q4_K against Q8_0" },
		{ ST_DTYPE_Q4_K, ST_DTYPE_Q4_K, WITH_QUANTS, "Q4_K against Q4_K" },
	};
	for (size_t k = 0; k < sizeof pairs / sizeof *pairs; k++) {
		struct toy good;
		toy_make(&good, "qwen2", hidden_for(pairs[k].bad), false);
		toy_write(&good, in_folder("good"), pairs[k].good, pairs[k].good >= ST_DTYPE_Q4_0);
		toy_free(&good);
		for (size_t i = 0; i < sizeof plants / sizeof *plants; i++) {
			if (!(plants[i].types & pairs[k].kind))
				continue;
			struct toy bad;
			toy_make(&bad, "qwen2", hidden_for(pairs[k].bad), false);
			plants[i].plant(&bad);
			toy_write(&bad, in_folder("bad.gguf"), pairs[k].bad, true);
			check_fault(&plants[i], in_folder("bad.gguf"), in_folder("good"), pairs[k].name,
			            (taken(i, k, 0, 2) ? BAD_FIRST : 0) | (taken(i, k, 1, 2) ? GOOD_FIRST : 0));
			toy_free(&bad);
		}
		char cmd[128];
		snprintf(cmd, sizeof cmd, "rm -rf '%s/good'", folder);
		assert_int_equal(system(cmd), 0);
	}
}

/* ---- faults of storage ---- */

static void double_scale(uint8_t *p, size_t n)
{
	assert_true(n > 18 * 40);
	p[18 * 33 + 1] = (uint8_t)(p[18 * 33 + 1] + 4);
}

static void cut_off(uint8_t *p, size_t n) { (void)p, (void)n; /* the numbers themselves are cut before encoding */ }

static void storage_fault_in(const char *arch, const char *tensor, const char *stage, enum st_dtype type,
                             enum st_dtype label, void (*mangle)(uint8_t *, size_t), enum st_dtype against,
                             const char *code, const char *also)
{
	struct toy good, bad;
	toy_make(&good, arch, 256, false);
	toy_make(&bad, arch, 256, false);
	struct toy_tensor *t = toy_find(&bad, tensor);
	t->label = label;
	t->mangle = mangle;
	if (mangle == cut_off) {
		for (uint64_t i = 0; i < t->rows * t->cols; i++) {
			uint32_t u;
			memcpy(&u, &t->data[i], 4);
			u &= 0xFFFF0000u;
			memcpy(&t->data[i], &u, 4);
		}
	}
	toy_write(&good, in_folder("good.gguf"), against, true);
	toy_write(&bad, in_folder("bad.gguf"), type, true);
	struct plant p = { .name = code, .code = code, .also = also, .tensor = tensor, .stage = stage, .layer = 1 };
	check_fault(&p, in_folder("bad.gguf"), in_folder("good.gguf"), st_dtype_info(type)->name, BOTH_ORDERS);
	toy_free(&good);
	toy_free(&bad);
}

static void storage_fault(enum st_dtype type, enum st_dtype label, void (*mangle)(uint8_t *, size_t),
                          enum st_dtype against, const char *code, const char *also)
{
	storage_fault_in("qwen2", O1, "attn_out", type, label, mangle, against, code, also);
}

/* Both f16 scales of every second super-block doubled: rows of two, of which one is right. */
static void double_every_second(uint8_t *p, size_t n)
{
	for (size_t b = 144; b < n; b += 2 * 144) {
		p[b + 1] = (uint8_t)(p[b + 1] + 4);
		p[b + 3] = (uint8_t)(p[b + 3] + 4);
	}
}

/* A square matrix of F32, turned as it lies in the file: in llama's GGUF its rows are in pairs by then. */
static void turn_stored(uint8_t *p, size_t n)
{
	size_t side = (size_t)sqrt((double)(n / 4));
	assert_int_equal(side * side * 4, n);
	for (size_t i = 0; i < side; i++)
		for (size_t k = 0; k < i; k++)
			for (int b = 0; b < 4; b++) {
				uint8_t *x = p + 4 * (i * side + k) + b, *y = p + 4 * (k * side + i) + b, z = *x;
				*x = *y;
				*y = z;
			}
}

/* One unit of the last place up or down, in one number of fifty. */
static void move_last_bits(uint8_t *p, size_t n)
{
	for (size_t i = 0; i + 1 < n; i += 100)
		p[i] ^= 1;
}

static void storage_faults_are_named(void **state)
{
	(void)state;
	enum st_dtype truth = ST_DTYPE_COUNT;
	storage_fault(ST_DTYPE_Q4_0, truth, exchange_nibbles, ST_DTYPE_F32, "weight.block_layout", NULL);
	storage_fault(ST_DTYPE_Q4_0, truth, exchange_nibbles, ST_DTYPE_Q4_0, "weight.block_layout", NULL);
	/* That order of nibbles is exactly what the type AprQ4 is, but GGUF has no such type. */
	storage_fault(ST_DTYPE_Q4_0, truth, pairs_in_bytes, ST_DTYPE_BF16, "weight.block_layout", NULL);
	/* Rows of Q in the order of the file, which is not the graph's. */
	storage_fault_in("llama", Q1, "qkv_matmul", ST_DTYPE_Q4_0, truth, exchange_nibbles, ST_DTYPE_F32,
	                 "weight.block_layout", NULL);
	storage_fault_in("llama", Q1, "qkv_matmul", ST_DTYPE_F32, truth, turn_stored, ST_DTYPE_F32, "weight.transposed",
	                 NULL);
	storage_fault_in("llama", Q1, "qkv_matmul", ST_DTYPE_F32, truth, turn_stored, ST_DTYPE_Q4_0,
	                 "weight.transposed", NULL);
	storage_fault(ST_DTYPE_Q4_0, truth, double_scales, ST_DTYPE_Q4_0, "weight.block_scale", NULL);
	storage_fault(ST_DTYPE_Q4_0, truth, double_scales, ST_DTYPE_F32, "weight.block_scale", NULL);
	/* Within the noise of two encoders; but one encoder wrote both files, and every other row is equal. */
	storage_fault(ST_DTYPE_Q4_0, truth, double_scale, ST_DTYPE_Q4_0, "weight.block_scale", "weight.row_corrupt");
	storage_fault(ST_DTYPE_F16, ST_DTYPE_BF16, NULL, ST_DTYPE_F32, "weight.dtype_mislabelled", NULL);
	storage_fault(ST_DTYPE_BF16, ST_DTYPE_F16, NULL, ST_DTYPE_F32, "weight.dtype_mislabelled", NULL);
	/* Read as the other type its scales are infinite: the label is the cause, not the NaN. */
	storage_fault(ST_DTYPE_Q4_K, ST_DTYPE_Q4_0, NULL, ST_DTYPE_Q4_K, "weight.dtype_mislabelled", NULL);
	storage_fault_in("qwen2", DOWN1, "ffn_out", ST_DTYPE_Q4_K, truth, double_every_second, ST_DTYPE_Q4_K,
	                 "weight.block_scale", NULL);
	storage_fault(ST_DTYPE_BF16, truth, cut_off, ST_DTYPE_F32, "weight.truncated_rounding", NULL);
	storage_fault(ST_DTYPE_BF16, truth, move_last_bits, ST_DTYPE_BF16, "weight.last_bits", NULL);
	storage_fault(ST_DTYPE_F16, truth, move_last_bits, ST_DTYPE_F16, "weight.last_bits", NULL);
}

/* Numbers that were cut are that, and no gain: one of them, several, and at a limit that is no type's. */
static void cut_numbers_are_named(void **state)
{
	(void)state;
	static const struct {
		void (*make)(struct toy *m);
		float limit;
		enum st_dtype bad, good;
		const char *code;
		char side;
	} cases[] = {
		{ make_large, 65504, ST_DTYPE_F16, ST_DTYPE_BF16, "weight.clipped", 'a' },
		{ make_large, 65504, ST_DTYPE_BF16, ST_DTYPE_F32, NULL, 0 }, /* BF16 has no 65504 */
		{ make_one_large, 65504, ST_DTYPE_F16, ST_DTYPE_F32, "weight.clipped", 'a' },
		{ make_one_large, 65504, ST_DTYPE_F32, ST_DTYPE_F32, "weight.clipped", 'a' },
		{ make_large, 1, ST_DTYPE_F32, ST_DTYPE_BF16, "weight.clipped", 0 },
		{ make_one_large, 1, ST_DTYPE_F32, ST_DTYPE_BF16, "weight.row_corrupt", 'b' },
	};
	for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
		struct toy good, bad;
		toy_make(&good, "qwen2", 128, false);
		toy_make(&bad, "qwen2", 128, false);
		cases[i].make(&good);
		cases[i].make(&bad);
		cut_to(&bad, cases[i].limit);
		toy_write(&good, in_folder("good.gguf"), cases[i].good, true);
		toy_write(&bad, in_folder("bad.gguf"), cases[i].bad, true);
		toy_free(&good);
		toy_free(&bad);
		struct st_rosetta *r = compare(in_folder("bad.gguf"), in_folder("good.gguf"));
		if (cases[i].code
		    && (strcmp(st_cause_name(r->cause.code), cases[i].code) != 0 || r->cause.confidence != ST_CONFIRMED
		        || r->first.side != cases[i].side)) {
			explain(r, "cut");
			fail_msg("case %zu: %s", i, st_cause_name(r->cause.code));
		}
		assert_int_equal(r->verdict, ST_VERDICT_FAULT);
		st_rosetta_free(r);
	}
}

/* ---- configuration ---- */

static void config_faults_are_placed(void **state)
{
	(void)state;
	static const struct {
		const char *key, *stage;
	} cases[] = {
		{ "norm_eps", "attn_norm" },
		{ "rope_theta", "q_post_rope" },
	};
	for (int i = 0; i < 2; i++) {
		struct toy a, b;
		toy_make(&a, "llama", 64, true);
		toy_make(&b, "llama", 64, true);
		if (i == 0)
			b.eps = 1e-3;
		else
			b.theta = 500000;
		toy_write(&a, in_folder("a.gguf"), ST_DTYPE_F32, true);
		toy_write(&b, in_folder("b.gguf"), ST_DTYPE_Q8_0, true);
		struct st_rosetta *r = compare(in_folder("a.gguf"), in_folder("b.gguf"));
		assert_int_equal(r->verdict, ST_VERDICT_FAULT);
		assert_string_equal(st_cause_name(r->cause.code), "config.mismatch");
		assert_string_equal(r->cause.params[0].text, cases[i].key);
		assert_string_equal(r->first.stage, cases[i].stage);
		assert_int_equal(r->first.layer, 0);
		st_rosetta_free(r);
		toy_free(&a);
		toy_free(&b);
	}
}

/* The earliest of two faults is reported, and with keep_going every stage is evaluated. */
static void first_of_two_faults(void **state)
{
	(void)state;
	struct toy good, bad;
	toy_make(&good, "qwen2", 64, false);
	toy_make(&bad, "qwen2", 64, false);
	plant_scaled(&bad);
	plant_gate_up(&bad);
	toy_write(&good, in_folder("good.gguf"), ST_DTYPE_F32, true);
	toy_write(&bad, in_folder("bad.gguf"), ST_DTYPE_F32, true);
	struct st_error err = ST_ERROR_INIT;
	struct st_rosetta *r;
	struct st_rosetta_options o = { .tokens = tokens, .n_tokens = 6, .threshold = NAN, .keep_going = true };
	assert_ok(st_rosetta_run(in_folder("bad.gguf"), in_folder("good.gguf"), &o, &r, &err), &err);
	assert_string_equal(st_cause_name(r->cause.code), "weight.gate_up_swapped");
	assert_int_equal(r->first.layer, 0);
	assert_int_equal(r->skipped, 0);
	size_t faults = 0;
	for (size_t i = 0; i < r->n_stages; i++)
		faults += r->stages[i].status == ST_STATUS_FAULT;
	assert_int_equal(faults,
	                 3); /* gate and up of layer 0, down of layer 1; everything else is exact or inherited */
	st_rosetta_free(r);
	toy_free(&good);
	toy_free(&bad);
}

static void threshold_is_a_plain_test(void **state)
{
	(void)state;
	struct toy m;
	toy_make(&m, "qwen2", 64, false);
	toy_write(&m, in_folder("a.gguf"), ST_DTYPE_F32, true);
	toy_write(&m, in_folder("b.gguf"), ST_DTYPE_Q4_0, true);
	struct st_error err = ST_ERROR_INIT;
	struct st_rosetta *r;
	struct st_rosetta_options o = { .tokens = tokens, .n_tokens = 6, .threshold = 1e-3 };
	assert_ok(st_rosetta_run(in_folder("a.gguf"), in_folder("b.gguf"), &o, &r, &err), &err);
	assert_int_equal(r->verdict, ST_VERDICT_NOISE);
	assert_true(r->over_threshold);
	assert_int_equal(st_rosetta_exit(r, false), 1);
	st_rosetta_free(r);
	toy_free(&m);
}

/* ---- published pairs ---- */

static void shared_cases(void **state)
{
	(void)state;
	json_error_t je;
	json_t *cases = json_load_file(shared_path("models/cases.json"), 0, &je), *c;
	assert_non_null(cases);
	size_t i;
	json_array_foreach(cases, i, c)
	{
		json_t *e = json_object_get(c, "expect"), *list = json_object_get(c, "tokens"), *t;
		uint32_t ids[32];
		size_t k, n = json_array_size(list);
		json_array_foreach(list, k, t) ids[k] = (uint32_t)json_integer_value(t);
		char a[512], b[512];
		snprintf(a, sizeof a, "models/%s", json_string_value(json_object_get(c, "a")));
		snprintf(b, sizeof b, "models/%s", json_string_value(json_object_get(c, "b")));
		const char *pa = shared_path(a), *pb = shared_path(b);
		for (int order = 0; order < 2; order++) {
			struct st_error err = ST_ERROR_INIT;
			struct st_rosetta *r;
			struct st_rosetta_options o = { .tokens = ids, .n_tokens = n, .threshold = NAN };
			assert_ok(st_rosetta_run(order ? pb : pa, order ? pa : pb, &o, &r, &err), &err);
			const char *verdict = json_string_value(json_object_get(e, "verdict"));
			explain(r, json_string_value(json_object_get(c, "id")));
			if (strcmp(verdict, "clean") == 0) {
				assert_true(r->verdict == ST_VERDICT_MATCH || r->verdict == ST_VERDICT_NOISE);
				assert_int_equal(st_rosetta_exit(r, true), 0);
			} else {
				assert_int_equal(r->verdict, ST_VERDICT_FAULT);
				assert_string_equal(st_cause_name(r->cause.code),
				                    json_string_value(json_object_get(e, "cause")));
				assert_string_equal(r->first.stage, json_string_value(json_object_get(e, "stage")));
				assert_int_equal(r->first.layer, json_integer_value(json_object_get(e, "layer")));
				assert_string_equal(r->first.tensor, json_string_value(json_object_get(e, "tensor")));
			}
			st_rosetta_free(r);
		}
	}
	json_decref(cases);
}

int main(int argc, char **argv)
{
	whole_if_asked(argc, argv);
#define CASE(f) cmocka_unit_test_setup_teardown(f, make_folder, remove_folder)
	const struct CMUnitTest tests[] = {
		CASE(sound_llama_pairs_are_clean),
		CASE(sound_qwen2_pairs_are_clean),
		CASE(harmless_differences_are_clean),
		CASE(importance_is_clean),
		CASE(coherent_errors_are_clean),
		CASE(every_mode_is_clean),
		CASE(planted_faults_are_named),
		CASE(storage_faults_are_named),
		CASE(cut_numbers_are_named),
		CASE(config_faults_are_placed),
		CASE(first_of_two_faults),
		CASE(threshold_is_a_plain_test),
		CASE(shared_cases),
	};
	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
