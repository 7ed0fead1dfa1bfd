/*
 * Mistakes in files of the newer shapes: fused tensors in another order, experts in each other's places, norms with one
 * too many, halves for alternating rows, latents cut in the wrong place, bases and divisors of rotations exchanged. They
 * are planted in the bytes of the models of tests/data/families, and named in both orders of the arguments, against the
 * folder and, where it can be written, against its GGUF file. The same pairs without a mistake are clean.
 */
#include "test.h"

#include "folder.h"

#include <stele/convert.h>
#include <stele/judge.h>

#include <jansson.h>
#include <math.h>
#include <sys/stat.h>

#define ROOT STELE_SOURCE_ROOT "/tests/data/families/"
#define MOST (1u << 20)

/* ---- files ---- */

struct file {
	uint8_t *bytes;
	size_t n;
	json_t *header, *config;
};

static uint8_t *read_whole(const char *path, size_t *n)
{
	FILE *f = fopen(path, "rb");
	assert_non_null(f);
	uint8_t *p = malloc(MOST);
	*n = fread(p, 1, MOST, f);
	assert_true(*n < MOST);
	fclose(f);
	return p;
}

static struct file read_model(const char *model)
{
	struct file f;
	char path[400];
	json_error_t e;
	uint64_t header;
	snprintf(path, sizeof path, ROOT "%s/model.safetensors", model);
	f.bytes = read_whole(path, &f.n);
	memcpy(&header, f.bytes, sizeof header);
	f.header = json_loadb((char *)f.bytes + 8, header, 0, &e);
	snprintf(path, sizeof path, ROOT "%s/config.json", model);
	f.config = json_load_file(path, 0, &e);
	assert_non_null(f.header);
	assert_non_null(f.config);
	return f;
}

static void write_model(struct file *f, const char *name)
{
	char path[400];
	assert_int_equal(mkdir(in_folder(name), 0700), 0);
	snprintf(path, sizeof path, "%s/model.safetensors", in_folder(name));
	FILE *out = fopen(path, "wb");
	assert_non_null(out);
	assert_int_equal(fwrite(f->bytes, 1, f->n, out), f->n);
	assert_int_equal(fclose(out), 0);
	snprintf(path, sizeof path, "%s/config.json", in_folder(name));
	assert_int_equal(json_dump_file(f->config, path, 0), 0);
	free(f->bytes);
	json_decref(f->header);
	json_decref(f->config);
}

/* Numbers of a tensor: [rows, cols], a stack of so many of them. */
struct tensor {
	float *x;
	size_t stack, rows, cols;
};

static struct tensor find(const struct file *f, const char *name)
{
	const json_t *t = json_object_get(f->header, name), *shape = json_object_get(t, "shape");
	uint64_t header;
	if (!t)
		fail_msg("no tensor %s", name);
	memcpy(&header, f->bytes, sizeof header);
	size_t n = json_array_size(shape),
	       at = (size_t)json_integer_value(json_array_get(json_object_get(t, "data_offsets"), 0));
	struct tensor r = { (float *)(void *)(f->bytes + 8 + header + at), 1, 1, 1 };
	r.cols = (size_t)json_integer_value(json_array_get(shape, n - 1));
	if (n > 1)
		r.rows = (size_t)json_integer_value(json_array_get(shape, n - 2));
	if (n > 2)
		r.stack = (size_t)json_integer_value(json_array_get(shape, 0));
	if (n == 1) {
		r.rows = r.cols;
		r.cols = 1;
	}
	return r;
}

static size_t key(const struct file *f, const char *name)
{
	return (size_t)json_integer_value(json_object_get(f->config, name));
}

/* ---- mistakes ---- */

/* Row r becomes what row from(r) was. */
static void move_rows(struct tensor t, const size_t *from)
{
	size_t n = t.rows * t.cols;
	float *old = malloc(n * sizeof *old);
	memcpy(old, t.x, n * sizeof *old);
	for (size_t r = 0; r < t.rows; r++)
		memcpy(t.x + r * t.cols, old + from[r] * t.cols, t.cols * sizeof *old);
	free(old);
}

/* Of each of `groups` groups the runs of n[0], n[1], n[2] rows in the order `order`, as far as there are any. */
static void reorder(struct tensor t, size_t groups, const size_t n[3], const int order[3])
{
	size_t *from = malloc(t.rows * sizeof *from), at = 0, of = t.rows / groups, start[3] = { 0, n[0], n[0] + n[1] };
	for (size_t g = 0; g < groups; g++)
		for (int i = 0; i < 3; i++)
			for (size_t r = 0; r < n[order[i]]; r++)
				from[at++] = g * of + start[order[i]] + r;
	assert_int_equal(at, t.rows);
	move_rows(t, from);
	free(from);
}

/* Rows in `groups` groups of parts, put so that each part is in one piece. */
static void ungroup(struct tensor t, size_t groups, const size_t n[3])
{
	size_t *from = malloc(t.rows * sizeof *from), at = 0, of = t.rows / groups, start[3] = { 0, n[0], n[0] + n[1] };
	for (int i = 0; i < 3; i++)
		for (size_t g = 0; g < groups; g++)
			for (size_t r = 0; r < n[i]; r++)
				from[at++] = g * of + start[i] + r;
	assert_int_equal(at, t.rows);
	move_rows(t, from);
	free(from);
}

static void alternate(struct tensor t)
{
	size_t *from = malloc(t.rows * sizeof *from);
	for (size_t r = 0; r < t.rows; r++)
		from[r] = r % 2 * (t.rows / 2) + r / 2;
	move_rows(t, from);
	free(from);
}

static const int kqv[3] = { 1, 0, 2 }, qvk[3] = { 0, 2, 1 }, second_first[3] = { 1, 0, 2 };

static void phi3_kqv(struct file *f)
{
	reorder(find(f, "model.layers.1.self_attn.qkv_proj.weight"), 1, (size_t[3]){ 32, 16, 16 }, kqv);
}
static void phi3_qvk(struct file *f)
{
	reorder(find(f, "model.layers.1.self_attn.qkv_proj.weight"), 1, (size_t[3]){ 32, 16, 16 }, qvk);
}
static void phi3_up_gate(struct file *f)
{
	struct tensor t = find(f, "model.layers.1.mlp.gate_up_proj.weight");
	reorder(t, 1, (size_t[3]){ t.rows / 2, t.rows / 2, 0 }, second_first);
}
static void phi3_alternate(struct file *f) { alternate(find(f, "model.layers.1.mlp.gate_up_proj.weight")); }
static void neox_blocks(struct file *f)
{
	size_t heads = key(f, "num_attention_heads"), d = key(f, "hidden_size") / heads;
	ungroup(find(f, "gpt_neox.layers.1.attention.query_key_value.weight"), heads, (size_t[3]){ d, d, d });
}
static void neox_biases(struct file *f)
{
	size_t heads = key(f, "num_attention_heads"), d = key(f, "hidden_size") / heads;
	ungroup(find(f, "gpt_neox.layers.1.attention.query_key_value.bias"), heads, (size_t[3]){ d, d, d });
}
static void falcon_blocks(struct file *f)
{
	size_t heads = key(f, "num_attention_heads"), kv = key(f, "num_kv_heads"), d = key(f, "hidden_size") / heads;
	ungroup(find(f, "transformer.h.1.self_attention.query_key_value.weight"), kv,
	        (size_t[3]){ heads / kv * d, d, d });
}
/* gpt-oss stores experts [in, out]: columns alternate. */
static void oss_halves(struct file *f)
{
	struct tensor t = find(f, "model.layers.1.mlp.experts.gate_up_proj");
	float *old = malloc(t.cols * sizeof *old);
	for (size_t r = 0; r < t.stack * t.rows; r++) {
		float *x = t.x + r * t.cols;
		memcpy(old, x, t.cols * sizeof *old);
		for (size_t c = 0; c < t.cols; c++)
			x[c] = old[c < t.cols / 2 ? 2 * c : 2 * (c - t.cols / 2) + 1];
	}
	free(old);
}

static void exchange(struct file *f, const char *one, const char *other)
{
	struct tensor a = find(f, one), b = find(f, other);
	assert_true(a.rows == b.rows && a.cols == b.cols);
	for (size_t i = 0; i < a.rows * a.cols; i++) {
		float x = a.x[i];
		a.x[i] = b.x[i];
		b.x[i] = x;
	}
}
static void mixtral_experts(struct file *f)
{
	static const char *const parts[] = { "w1", "w2", "w3" };
	for (size_t i = 0; i < 3; i++) {
		char one[128], other[128];
		snprintf(one, sizeof one, "model.layers.1.block_sparse_moe.experts.0.%s.weight", parts[i]);
		snprintf(other, sizeof other, "model.layers.1.block_sparse_moe.experts.3.%s.weight", parts[i]);
		exchange(f, one, other);
	}
}
static void granite_stack(struct file *f)
{
	static const char *const parts[] = { "input", "output" };
	for (size_t i = 0; i < 2; i++) {
		char name[128];
		snprintf(name, sizeof name, "model.layers.1.block_sparse_moe.%s_linear.weight", parts[i]);
		struct tensor t = find(f, name);
		struct tensor rows = { t.x, 1, t.stack, t.rows * t.cols };
		size_t *from = malloc(t.stack * sizeof *from);
		for (size_t e = 0; e < t.stack; e++)
			from[e] = t.stack - 1 - e;
		move_rows(rows, from);
		free(from);
	}
}
static void shared_expert(struct file *f)
{
	static const char *const parts[] = { "gate", "up", "down" };
	for (size_t i = 0; i < 3; i++) {
		char one[128], other[128];
		snprintf(one, sizeof one, "model.layers.1.mlp.shared_experts.%s_proj.weight", parts[i]);
		snprintf(other, sizeof other, "model.layers.1.mlp.experts.2.%s_proj.weight", parts[i]);
		exchange(f, one, other);
	}
}

static void add(struct file *f, const char *name, float by)
{
	struct tensor t = find(f, name);
	for (size_t i = 0; i < t.rows * t.cols; i++)
		t.x[i] += by;
}
static void one_more(struct file *f) { add(f, "model.layers.1.input_layernorm.weight", 1); }
static void one_less(struct file *f) { add(f, "model.layers.1.input_layernorm.weight", -1); }

static void zero(struct file *f, const char *name)
{
	struct tensor t = find(f, name);
	memset(t.x, 0, t.rows * t.cols * sizeof *t.x);
}
static void no_correction(struct file *f) { zero(f, "model.layers.1.mlp.gate.e_score_correction_bias"); }
static void no_router_bias(struct file *f) { zero(f, "model.layers.1.mlp.router.bias"); }

static void latent_behind(struct file *f)
{
	struct tensor t = find(f, "model.layers.1.self_attn.kv_a_proj_with_mqa.weight");
	size_t latent = key(f, "kv_lora_rank");
	reorder(t, 1, (size_t[3]){ latent, t.rows - latent, 0 }, second_first);
}
static void values_first(struct file *f)
{
	size_t heads = key(f, "num_attention_heads");
	reorder(find(f, "model.layers.1.self_attn.kv_b_proj.weight"), heads,
	        (size_t[3]){ key(f, "qk_nope_head_dim"), key(f, "v_head_dim"), 0 }, second_first);
}
static void keys_then_values(struct file *f)
{
	size_t heads = key(f, "num_attention_heads");
	ungroup(find(f, "model.layers.1.self_attn.kv_b_proj.weight"), heads,
	        (size_t[3]){ key(f, "qk_nope_head_dim"), key(f, "v_head_dim"), 0 });
}
static void rope_first(struct file *f)
{
	size_t heads = key(f, "num_attention_heads");
	reorder(find(f, "model.layers.1.self_attn.q_b_proj.weight"), heads,
	        (size_t[3]){ key(f, "qk_nope_head_dim"), key(f, "qk_rope_head_dim"), 0 }, second_first);
}

static void exchange_keys(json_t *a, const char *one, json_t *b, const char *other)
{
	json_t *x = json_incref(json_object_get(a, one)), *y = json_incref(json_object_get(b, other));
	assert_true(x && y);
	json_object_set_new(a, one, y);
	json_object_set_new(b, other, x);
}
static void bases(struct file *f)
{
	json_t *r = json_object_get(f->config, "rope_parameters");
	exchange_keys(json_object_get(r, "full_attention"), "rope_theta", json_object_get(r, "sliding_attention"),
	              "rope_theta");
}
static void factors(struct file *f)
{
	json_t *r = json_object_get(f->config, "rope_parameters");
	exchange_keys(r, "short_factor", r, "long_factor");
}

/* ---- cases ---- */

static const struct plant {
	const char *model, *name;
	void (*edit)(struct file *f);
	const char *code, *stage;
	int32_t layer;
	bool gguf; /* the model goes into GGUF: compared with that file too */
} plants[] = {
	{ "phi3", "K, Q, V", phi3_kqv, "weight.fused_order", "qkv_matmul", 1, false },
	{ "phi3", "Q, V, K", phi3_qvk, "weight.qkv_swapped", "qkv_matmul", 1, false },
	{ "phi3", "up, gate", phi3_up_gate, "weight.gate_up_swapped", "ffn_gate", 1, false },
	{ "phi3", "gate and up in turn", phi3_alternate, "weight.gate_up_interleaved", "ffn_gate", 1, false },
	{ "glm4", "gate and up in turn", phi3_alternate, "weight.gate_up_interleaved", "ffn_gate", 1, true },
	{ "gpt_oss", "gate and up in halves", oss_halves, "weight.gate_up_interleaved", "expert_gate", 1, false },
	{ "gpt_neox", "heads as blocks", neox_blocks, "weight.qkv_interleaved", "qkv_matmul", 1, true },
	{ "gpt_neox", "biases of heads as blocks", neox_biases, "weight.fused_order", "qkv_bias", 1, true },
	{ "falcon", "groups as blocks", falcon_blocks, "weight.qkv_interleaved", "qkv_matmul", 1, true },
	{ "mixtral", "experts exchanged", mixtral_experts, "weight.expert_swapped", "ffn_gate", 1, true },
	{ "granitemoe", "stack the other way round", granite_stack, "weight.expert_swapped", "expert_gate", 1, true },
	{ "deepseek_v3", "shared expert", shared_expert, "weight.wrong_tensor", "", 1, true },
	{ "gemma", "one added", one_more, "norm.plus_one", "attn_norm", 1, true },
	{ "gemma2", "one taken away", one_less, "norm.plus_one", "attn_norm", 1, false },
	{ "nemotron", "one added", one_more, "norm.plus_one", "attn_norm", 1, true },
	{ "deepseek_v3", "no correction", no_correction, "bias.missing", "moe_router_indices", 1, true },
	{ "glm4_moe", "no correction", no_correction, "bias.missing", "moe_router_indices", 1, true },
	{ "gpt_oss", "no bias of the router", no_router_bias, "bias.missing", "moe_router_bias", 1, false },
	{ "deepseek_v3", "latent behind", latent_behind, "weight.fused_order", "kv_latent", 1, true },
	{ "deepseek_v3", "values first", values_first, "weight.fused_order", "kv_matmul", 1, true },
	{ "deepseek_v3", "keys, then values", keys_then_values, "weight.fused_order", "kv_matmul", 1, true },
	{ "deepseek_v3", "rotated part first", rope_first, "weight.fused_order", "q_matmul", 1, true },
	{ "gemma3_text", "bases exchanged", bases, "config.mismatch", "q_post_rope", 0, false },
	{ "phi3", "factors exchanged", factors, "config.mismatch", "q_post_rope", 0, false },
};

static struct st_rosetta *compare(const char *a, const char *b)
{
	static const uint32_t ids[] = { 3, 7, 9, 1, 12, 5 };
	struct st_rosetta_options o = { .tokens = ids, .n_tokens = 6, .threshold = NAN, .threads = 1 };
	struct st_error err = ST_ERROR_INIT;
	struct st_rosetta *r;
	assert_ok(st_rosetta_run(a, b, &o, &r, &err), &err);
	return r;
}

static void check_named(const struct plant *p, const char *a, const char *b)
{
	struct st_rosetta *r = compare(a, b);
	const char *code = st_cause_name(r->cause.code);
	bool right = r->verdict == ST_VERDICT_FAULT && strcmp(code, p->code) == 0 && r->first.layer == p->layer
	          && (!p->stage[0] || strcmp(r->first.stage, p->stage) == 0) && r->cause.confidence == ST_CONFIRMED;
	if (!right)
		fail_msg("%s, %s: %s %s at layer %d %s (%s)", p->model, p->name, st_verdict_name(r->verdict), code,
		         (int)r->first.layer, r->first.stage, r->text);
	st_rosetta_free(r);
}

static void write_gguf(const char *from, const char *to)
{
	struct st_convert_options o = { .threads = 1 };
	struct st_convert_result *result;
	struct st_error err = ST_ERROR_INIT;
	assert_ok(st_convert(from, to, &o, &result, &err), &err);
	st_convert_result_free(result);
}

static void mistakes_are_named(void **state)
{
	(void)state;
	for (size_t i = 0; i < sizeof plants / sizeof *plants; i++) {
		const struct plant *p = &plants[i];
		char name[32], sound[300];
		struct file f = read_model(p->model);
		snprintf(name, sizeof name, "wrong%zu", i);
		snprintf(sound, sizeof sound, ROOT "%s", p->model);
		p->edit(&f);
		write_model(&f, name);
		const char *wrong = in_folder(name);
		check_named(p, wrong, sound);
		check_named(p, sound, wrong);
		if (!p->gguf)
			continue;
		char gguf[400];
		snprintf(name, sizeof name, "sound%zu.gguf", i);
		snprintf(gguf, sizeof gguf, "%s", in_folder(name));
		write_gguf(sound, gguf);
		check_named(p, wrong, gguf);
		check_named(p, gguf, wrong);
	}
}

static void check_clean(const char *model, const char *a, const char *b)
{
	struct st_rosetta *r = compare(a, b);
	if (r->verdict != ST_VERDICT_MATCH || r->cause.code != ST_CAUSE_NONE)
		fail_msg("%s: %s (%s)", model, st_verdict_name(r->verdict), r->text);
	for (size_t i = 0; i < r->n_weights; i++)
		assert_true(r->weights[i].status < ST_WEIGHT_FAULT);
	st_rosetta_free(r);
}

static void the_same_is_clean(void **state)
{
	(void)state;
	for (size_t i = 0; i < sizeof plants / sizeof *plants; i++) {
		const struct plant *p = &plants[i];
		char name[32], sound[300], gguf[400], copy[400];
		bool seen = false;
		for (size_t k = 0; k < i; k++)
			seen |= strcmp(plants[k].model, p->model) == 0;
		if (seen)
			continue;
		struct file f = read_model(p->model);
		snprintf(sound, sizeof sound, ROOT "%s", p->model);
		snprintf(name, sizeof name, "copy%zu", i);
		snprintf(copy, sizeof copy, "%s", in_folder(name));
		write_model(&f, name);
		check_clean(p->model, copy, sound);
		if (!p->gguf)
			continue;
		snprintf(name, sizeof name, "clean%zu.gguf", i);
		snprintf(gguf, sizeof gguf, "%s", in_folder(name));
		write_gguf(sound, gguf);
		check_clean(p->model, gguf, sound);
		check_clean(p->model, copy, gguf);
	}
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(mistakes_are_named, make_folder, remove_folder),
		cmocka_unit_test_setup_teardown(the_same_is_clean, make_folder, remove_folder),
	};
	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
