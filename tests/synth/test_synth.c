/* test_synth.c - made-up models: the numbers, the containers, the vocabulary, and what is refused. */
#include "synth/helpers.h"

#include <stele/family.h>
#include <stele/token.h>
#include <stele/trace.h>

#include "arch/arch.h"
#include "arch/described.h"
#include "dtype/blocks.h"
#include "synth/numbers.h"

#include <dirent.h>
#include <math.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>

/* ---- numbers ---- */

/* What numbers.h promises, written down a second time: splitmix64's mixing of a counter, four 16-bit uniforms, a cubic.
 */
static double naive_draw(uint64_t key, uint64_t at)
{
	uint64_t z = key + (at + 1) * 0x9E3779B97F4A7C15u;
	z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
	z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
	z ^= z >> 31;
	double sum = 0;
	for (int i = 0; i < 4; i++)
		sum += (double)(z >> (16 * i) & 0xFFFF) - 32767.5;
	sum /= sqrt((0x1p32 - 1) / 3);
	return 0.7787 * sum + 0.07787 * sum * sum * sum;
}

static void draws_are_the_documented_ones(void **state)
{
	(void)state;
	float x[301];
	st_synth_draws(0x1234567890ABCDEFu, 1000, 301, 2, x);
	for (uint64_t i = 0; i < 301; i++)
		assert_float_equal(x[i], 2 * naive_draw(0x1234567890ABCDEFu, 1000 + i), 1e-5);
	float one;
	for (uint64_t i = 0; i < 301; i += 37) { /* in any order, in any piece */
		st_synth_draws(0x1234567890ABCDEFu, 1000 + i, 1, 2, &one);
		assert_true(one == x[i]);
	}
}

static void draws_have_the_documented_moments(void **state)
{
	(void)state;
	enum { N = 1 << 20 };
	float *x = malloc(N * sizeof *x);
	st_synth_draws(st_synth_row_key(st_synth_tensor_key(3, "a"), 5), 0, N, 1, x);
	double m1 = 0, m2 = 0, m4 = 0, most = 0, lag = 0;
	for (size_t i = 0; i < N; i++) {
		double v = x[i];
		m1 += v / N;
		m2 += v * v / N;
		m4 += v * v * v * v / N;
		most = fmax(most, fabs(v));
		lag += i ? v * x[i - 1] / N : 0;
	}
	assert_float_equal(m1, 0, 0.005);
	assert_float_equal(m2, 1, 0.01);
	assert_float_equal(m4, 4.4, 0.1);
	assert_float_equal(lag, 0, 0.005);
	assert_true(most > 4.5 && most < 6);
	free(x);
}

static void keys_differ(void **state)
{
	(void)state;
	uint64_t a = st_synth_tensor_key(1, "model.norm.weight");
	assert_true(a != st_synth_tensor_key(2, "model.norm.weight"));
	assert_true(a != st_synth_tensor_key(1, "model.norm.weighs"));
	assert_true(st_synth_row_key(a, 0) != st_synth_row_key(a, 1));
	float least = 9, most = 0;
	for (uint64_t i = 0; i < 100000; i++) {
		float f = st_synth_factor(a, i);
		least = f < least ? f : least;
		most = f > most ? f : most;
	}
	assert_true(least > 0.4f && most < 2.4f && least < 0.7f && most > 1.7f);
}

static double storage_error(enum st_dtype t, void (*encode)(const float *, void *, size_t), const float *x, size_t n)
{
	const struct st_dtype_info *info = st_dtype_info(t);
	uint8_t *b = malloc(n / info->block_elems * info->block_bytes);
	float *y = malloc(n * sizeof *y);
	double dd = 0, xx = 0;
	encode(x, b, n);
	info->decode(b, y, n);
	for (size_t i = 0; i < n; i++) {
		assert_true(isfinite(y[i]));
		dd += (double)(x[i] - y[i]) * (x[i] - y[i]);
		xx += (double)x[i] * x[i];
	}
	free(b);
	free(y);
	return xx > 0 ? sqrt(dd / xx) : sqrt(dd);
}

/* The promise beside the declaration: an error within a few percent of the searching encoder's. */
static void fast_encoders_are_nearly_as_good(void **state)
{
	(void)state;
	enum { N = 256 * 400 };
	float *x = malloc(N * sizeof *x);
	st_synth_draws(11, 0, N, 0.03f, x);
	double slow4 = storage_error(ST_DTYPE_Q4_K, st_dtype_info(ST_DTYPE_Q4_K)->encode, x, N),
	       fast4 = storage_error(ST_DTYPE_Q4_K, st_synth_encode_q4_k, x, N);
	double slow6 = storage_error(ST_DTYPE_Q6_K, st_dtype_info(ST_DTYPE_Q6_K)->encode, x, N),
	       fast6 = storage_error(ST_DTYPE_Q6_K, st_synth_encode_q6_k, x, N);
	assert_true(fast4 < 1.06 * slow4 && fast4 > 0.9 * slow4);
	assert_true(fast6 < 1.06 * slow6 && fast6 > 0.9 * slow6);
	free(x);
}

static void fast_encoders_take_odd_blocks(void **state)
{
	(void)state;
	const struct {
		enum st_dtype t;
		void (*encode)(const float *, void *, size_t);
		double worst;
	} encoders[] = {
		{ ST_DTYPE_Q4_K, st_synth_encode_q4_k, 0.13 },
		{ ST_DTYPE_Q6_K, st_synth_encode_q6_k, 0.05 },
	};
	for (size_t e = 0; e < 2; e++) {
		float x[256] = { 0 };
		assert_true(storage_error(encoders[e].t, encoders[e].encode, x, 256) == 0);
		for (int i = 0; i < 256; i++)
			x[i] = 0.25f; /* constant, of one sign */
		assert_true(storage_error(encoders[e].t, encoders[e].encode, x, 256) < 0.02);
		for (int i = 0; i < 256; i++)
			x[i] = -0.25f;
		assert_true(storage_error(encoders[e].t, encoders[e].encode, x, 256) < 0.02);
		for (int i = 0; i < 256; i++)
			x[i] = 1e-30f * (float)i; /* nothing left of it */
		(void)storage_error(encoders[e].t, encoders[e].encode, x, 256);
		st_synth_draws(5, 0, 256, 1, x);
		for (int i = 0; i < 32; i++)
			x[i] = 0; /* one silent sub-block */
		assert_true(storage_error(encoders[e].t, encoders[e].encode, x, 256) < encoders[e].worst);
		x[77] = 1000; /* an outlier takes the scale of its super-block */
		assert_true(storage_error(encoders[e].t, encoders[e].encode, x, 256) < 0.05);
	}
}

/* ---- files ---- */

static bool same_bytes(const char *a, const char *b)
{
	char cmd[400];
	snprintf(cmd, sizeof cmd, "cmp -s '%s' '%s'", a, b);
	return system(cmd) == 0;
}

static void threads_do_not_matter(void **state)
{
	(void)state;
	static const char *const types[] = { "F32", "Q4_K_M", "Q8_0" };
	static const char *const suffixes[] = { ".gguf", ".apr" };
	const char *config = write_config("t.json", "qwen2", "");
	for (size_t t = 0; t < 3; t++) {
		for (size_t s = 0; s < 2; s++) {
			char a[32], b[32];
			snprintf(a, sizeof a, "a%s", suffixes[s]);
			snprintf(b, sizeof b, "b%s", suffixes[s]);
			struct st_synth_options o = small(config, types[t]);
			o.threads = 1;
			synth(in_folder(a), &o);
			o.threads = 3;
			synth(in_folder(b), &o);
			assert_true(same_bytes(in_folder(a), in_folder(b)));
			o.seed++;
			synth(in_folder(b), &o);
			assert_false(same_bytes(in_folder(a), in_folder(b)));
		}
	}
}

static void assert_same_numbers(const char *path_a, const char *path_b)
{
	struct st_model *a = open_model(path_a), *b = open_model(path_b);
	assert_true(st_model_n_weights(a) > 25);
	for (size_t i = 0; i < st_model_n_weights(a); i++) {
		const struct st_weight *w = st_model_weight_at(a, i), *v = same_place(b, w);
		if (!w->tensor || w->role == ST_ROLE_ROPE_FREQS)
			continue;
		assert_non_null(v);
		size_t n, m;
		float *x = numbers_of(w, &n), *y = numbers_of(v, &m);
		assert_int_equal(n, m);
		if (memcmp(x, y, n * sizeof *x) != 0)
			fail_msg("%s differs between %s and %s", w->canonical, path_a, path_b);
		free(x);
		free(y);
	}
	st_model_close(a);
	st_model_close(b);
}

static const struct {
	const char *arch, *more;
} kinds[] = {
	{ "llama", "" },
	{ "llama", ", \"tie_word_embeddings\": true" },
	{ "qwen2", "" },
	{ "qwen3", ", \"tie_word_embeddings\": true" },
	{ "llama", ", \"rope_scaling\": {\"rope_type\": \"llama3\", \"factor\": 8.0, \"low_freq_factor\": 1.0, "
	           "\"high_freq_factor\": 4.0, "
	           "\"original_max_position_embeddings\": 64}" },
	{ "qwen2", ", \"rope_scaling\": {\"rope_type\": \"linear\", \"factor\": 4.0}" },
};
#define N_KINDS (sizeof kinds / sizeof *kinds)

static void containers_hold_one_model(void **state)
{
	(void)state;
	for (size_t k = 0; k < N_KINDS; k++) {
		const char *config = write_config("c.json", kinds[k].arch, kinds[k].more);
		struct st_synth_options o = small(config, NULL);
		synth(in_folder("c.gguf"), &o);
		synth(in_folder("c.apr"), &o);
		synth(in_folder("c"), &o);
		mkdir(in_folder("beside"), 0777);
		synth(in_folder("beside/c.safetensors"), &o);
		o.shards = 3;
		synth(in_folder("sharded"), &o);
		synth(in_folder("split.gguf"), &o);
		assert_same_numbers(in_folder("c.gguf"), in_folder("c.apr"));
		assert_same_numbers(in_folder("c.gguf"), in_folder("c"));
		assert_same_numbers(in_folder("c"), in_folder("beside/c.safetensors"));
		assert_same_numbers(in_folder("c"), in_folder("sharded"));
		assert_same_numbers(in_folder("c.gguf"), in_folder("split-00001-of-00003.gguf"));
	}
}

/* GGUF's llama order by a plain loop over the stored rows: 2i and 2i + 1 of the file are i and i + d/2 of the folder.
 */
static void llama_rows_are_in_pairs(void **state)
{
	(void)state;
	struct st_synth_options o = small(write_config("p.json", "llama", ""), NULL);
	struct st_error err = ST_ERROR_INIT;
	struct st_container *g, *h;
	synth(in_folder("p.gguf"), &o);
	synth(in_folder("p"), &o);
	assert_ok(st_container_open(in_folder("p.gguf"), &g, &err), &err);
	assert_ok(st_container_open(in_folder("p"), &h, &err), &err);
	const struct st_tensor *k = st_container_find(g, "blk.2.attn_k.weight"),
			       *v = st_container_find(g, "blk.2.attn_v.weight");
	const struct st_tensor *hk = st_container_find(h, "model.layers.2.self_attn.k_proj.weight");
	const struct st_tensor *hv = st_container_find(h, "model.layers.2.self_attn.v_proj.weight");
	assert_true(k && v && hk && hv);
	assert_memory_equal(v->data, hv->data, v->n_bytes);
	for (size_t head = 0; head < 2; head++)
		for (size_t i = 0; i < 32; i++) {
			assert_memory_equal(k->data + (64 * head + 2 * i) * k->row_bytes,
			                    hk->data + (64 * head + i) * k->row_bytes, k->row_bytes);
			assert_memory_equal(k->data + (64 * head + 2 * i + 1) * k->row_bytes,
			                    hk->data + (64 * head + 32 + i) * k->row_bytes, k->row_bytes);
		}
	st_container_close(g);
	st_container_close(h);
}

/* Every type is the F32 model, rounded. */
static void types_round_one_model(void **state)
{
	(void)state;
	static const struct {
		const char *type, *file;
	} list[] = {
		{ "F16", "y.gguf" },  { "BF16", "y.gguf" },   { "Q4_0", "y.gguf" }, { "Q4_1", "y.apr" },
		{ "Q5_0", "y.gguf" }, { "Q5_1", "y.apr" },    { "Q8_0", "y.gguf" }, { "q4_k", "y.apr" },
		{ "Q6_K", "y.gguf" }, { "Q4_K_M", "y.gguf" }, { "AprQ4", "y.apr" }, { "AprQ8", "y.apr" },
		{ "BF16", "y" },      { "F16", "y" },
	};
	const char *config = write_config("y.json", "llama", "");
	struct st_synth_options o = small(config, NULL);
	synth(in_folder("ref.gguf"), &o);
	struct st_model *ref = open_model(in_folder("ref.gguf"));
	for (size_t i = 0; i < sizeof list / sizeof *list; i++) {
		o = small(config, list[i].type);
		struct st_synth_result r = synth(in_folder(list[i].file), &o);
		assert_int_equal(r.n_fallbacks, 0);
		struct st_model *m = open_model(in_folder(list[i].file));
		uint64_t six_bits = 0;
		for (size_t k = 0; k < st_model_n_weights(ref); k++) {
			const struct st_weight *w = st_model_weight_at(ref, k), *v = same_place(m, w);
			assert_non_null(v);
			size_t n, n2;
			float *x = numbers_of(w, &n), *y = numbers_of(v, &n2);
			double dd = 0, xx = 0;
			for (size_t e = 0; e < n; e++) {
				dd += (double)(x[e] - y[e]) * (x[e] - y[e]);
				xx += (double)x[e] * x[e];
			}
			double rel = sqrt(dd / xx), nominal = st_dtype_info(v->tensor->dtype)->storage_rel_rms;
			/* The nominal error is that of normal data; ours have heavier tails, and AprQ8 has one scale
			 * for rows of all sizes. */
			double limit = v->tensor->dtype == ST_DTYPE_APR_Q8 ? 0.15 : 1.35 * nominal;
			if (!(rel <= limit) || (nominal > 0 && !(rel > 0.3 * nominal)))
				fail_msg("%s as %s: error %g, nominal %g", w->canonical, list[i].type, rel, nominal);
			bool hf = strcmp(list[i].file, "y") == 0;
			if (v->tensor->ndim == 1 && !hf)
				assert_int_equal(v->tensor->dtype, ST_DTYPE_F32);
			six_bits += v->tensor->dtype == ST_DTYPE_Q6_K;
			free(x);
			free(y);
		}
		if (strcmp(list[i].type, "Q4_K_M")
		    == 0) /* the head, and V and down of one of the three layers at the end and the third */
			assert_int_equal(six_bits, 1 + 2);
		st_model_close(m);
	}
	st_model_close(ref);
}

static void rows_that_do_not_divide_fall_back(void **state)
{
	(void)state;
	const char *path = in_folder("f.json");
	FILE *f = fopen(path, "w");
	assert_non_null(f);
	fprintf(f, "{\"model_type\": \"llama\", \"hidden_size\": 72, \"num_hidden_layers\": 2, "
	           "\"num_attention_heads\": 6, \"num_key_value_heads\": 3, "
	           "\"intermediate_size\": 96, \"vocab_size\": 300, \"rms_norm_eps\": 1e-5, "
	           "\"max_position_embeddings\": 64}\n");
	fclose(f);
	struct st_synth_options o = small(path, "Q4_K");
	struct st_synth_result r = synth(in_folder("f.gguf"), &o);
	assert_int_equal(r.n_fallbacks, 2 + 2 * 7);
	assert_non_null(
		strstr(r.fallback, "F16 instead of Q4_K: the rows of model.embed_tokens.weight have 72 elements"));
	struct st_model *m = open_model(in_folder("f.gguf"));
	assert_int_equal(st_model_role(m, ST_ROLE_Q, 1)->tensor->dtype, ST_DTYPE_F16);     /* 72 is no multiple of 32 */
	assert_int_equal(st_model_role(m, ST_ROLE_DOWN, 1)->tensor->dtype, ST_DTYPE_Q8_0); /* 96 is */
	st_model_close(m);
}

/* ---- what the numbers look like ---- */

struct seen {
	uint64_t bad;
	double logit_std, massive, rest;
	uint32_t n_tokens, first;
	bool all_same;
};

static void look(void *user, const struct st_trace_stats *s)
{
	struct seen *k = user;
	k->bad += s->n_nan + s->n_inf;
	if (s->stage == ST_STAGE_LM_HEAD)
		k->logit_std = s->std;
	if (s->stage == ST_STAGE_POST_FFN_RESIDUAL && s->layer == 1 && s->step == 0) {
		k->massive = fmax(fabs(s->min), fabs(s->max));
		k->rest = s->std;
	}
}

static void hear(void *user, uint32_t step, uint32_t token)
{
	struct seen *k = user;
	(void)step;
	if (k->n_tokens++ == 0) {
		k->first = token;
		k->all_same = true;
	}
	k->all_same &= token == k->first;
}

static void tiny_models_compute_something(void **state)
{
	(void)state;
	static const char *const archs[] = { "llama", "qwen2", "qwen3" };
	static const uint32_t tokens[] = { 17, 10, 17, 28 };
	for (size_t i = 0; i < 3; i++) {
		struct st_synth_options o = { .arch = archs[i], .preset = "tiny", .seed = 1, .replace = true };
		struct st_synth_result r = synth(in_folder("s.gguf"), &o);
		assert_string_equal(r.arch, archs[i]);
		assert_int_equal(r.layers, 4);
		struct st_error err = ST_ERROR_INIT;
		struct st_model *m = open_model(in_folder("s.gguf"));
		struct seen k = { 0 };
		struct st_trace_options t = { .tokens = tokens,
			                      .n_tokens = 4,
			                      .mode = "fast",
			                      .threads = 1,
			                      .steps = 8,
			                      .on_stage = look,
			                      .on_token = hear,
			                      .user = &k };
		assert_ok(st_trace_run(m, &t, &err), &err);
		assert_int_equal(k.bad, 0);
		assert_true(k.logit_std > 1 && k.logit_std < 8); /* neither uniform nor all on one token */
		assert_true(k.massive > 6 * k.rest);
		assert_false(k.all_same);
		st_model_close(m);
	}
}

/* The hallmarks, measured in the stored numbers. */
static void statistics_are_those_of_trained_models(void **state)
{
	(void)state;
	struct st_synth_options o = { .arch = "qwen2", .preset = "tiny", .seed = 1 };
	synth(in_folder("q.gguf"), &o);
	struct st_model *m = open_model(in_folder("q.gguf"));
	size_t n;
	float *b = numbers_of(st_model_role(m, ST_ROLE_K_BIAS, 2), &n);
	for (size_t i = 0; i < n; i++) {
		size_t pair = i % 32;
		if (pair == 31)
			assert_true(fabsf(b[i]) > 40 && fabsf(b[i]) < 93);
		if (pair < 16)
			assert_true(fabsf(b[i]) < 4);
	}
	free(b);
	float *e = numbers_of(st_model_role(m, ST_ROLE_EMBED, 0), &n);
	size_t dead = 0;
	for (size_t r = 0; r < n / 256; r++) {
		double ss = 0;
		for (size_t i = 0; i < 256; i++)
			ss += (double)e[256 * r + i] * e[256 * r + i];
		dead += sqrt(ss / 256) < 0.002;
	}
	assert_true(dead >= 2 && dead <= 30);
	free(e);
	float *before = numbers_of(st_model_role(m, ST_ROLE_ATTN_NORM, 1), &n),
	      *behind = numbers_of(st_model_role(m, ST_ROLE_ATTN_NORM, 2), &n);
	float least[2] = { 9, 9 };
	for (size_t i = 0; i < n; i++) {
		least[0] = before[i] < least[0] ? before[i] : least[0];
		least[1] = behind[i] < least[1] ? behind[i] : least[1];
	}
	assert_true(least[0] > 0.3f && least[1] < 0.06f);
	free(before);
	free(behind);
	st_model_close(m);
}

/* ---- the vocabulary ---- */

static void containers_tokenise_alike(void **state)
{
	(void)state;
	static const char *const texts[] = {
		"2+2=",
		"Once upon a time there was a model.",
		"It's 12345 tokens,\n\n  isn't it?\t\r\n",
		"\xC3\xA9t\xC3\xA9 \xE6\x97\xA5\xE6\x9C\xAC \xF0\x9F\x98\x80",
		"e\xCC\x81 decomposed",
		"a<|im_end|>b <extra_3> <|endoftext|>",
		" leading and trailing ",
		"",
	};
	static const char *const files[] = { "v.gguf", "v.apr", "v", "v-beside/v.safetensors" };
	mkdir(in_folder("v-beside"), 0777);
	for (size_t k = 0; k < 4; k++) {
		struct st_synth_options o = small(write_config("v.json", kinds[k].arch, kinds[k].more), "BF16");
		struct st_container *c[4];
		struct st_tokenizer *t[4];
		struct st_error err = ST_ERROR_INIT;
		for (size_t i = 0; i < 4; i++) {
			synth(in_folder(files[i]), &o);
			assert_ok(st_container_open(in_folder(files[i]), &c[i], &err), &err);
			assert_ok(st_tokenizer_open(c[i], &t[i], &err), &err);
			assert_int_equal(st_tokenizer_vocab_size(t[i]), 320);
			assert_int_equal(st_tokenizer_bos(t[i]), st_tokenizer_bos(t[0]));
			assert_int_equal(st_tokenizer_eos(t[i]), st_tokenizer_eos(t[0]));
			assert_int_equal(st_tokenizer_adds_bos(t[i]), strcmp(kinds[k].arch, "llama") == 0);
		}
		for (size_t x = 0; x < sizeof texts / sizeof *texts; x++) {
			uint32_t *ids[4];
			size_t n[4];
			for (size_t i = 0; i < 4; i++) {
				assert_ok(st_tokenize(t[i], texts[x], strlen(texts[x]),
				                      ST_TOKENIZE_BOS | ST_TOKENIZE_SPECIAL, &ids[i], &n[i], &err),
				          &err);
				assert_int_equal(n[i], n[0]);
				assert_memory_equal(ids[i], ids[0], n[0] * sizeof **ids);
			}
			/* Back to text; the decomposed one was composed on the way where the family does that. */
			char back[256] = "";
			size_t at = 0;
			for (size_t i = st_tokenizer_adds_bos(t[0]); i < n[0]; i++)
				at += st_tokenizer_decode(t[0], ids[0][i], back + at, sizeof back - at);
			back[at] = '\0';
			if (x != 4)
				assert_string_equal(back, texts[x]);
			for (size_t i = 0; i < 4; i++)
				free(ids[i]);
		}
		for (size_t i = 0; i < 4; i++) {
			st_tokenizer_close(t[i]);
			st_container_close(c[i]);
		}
	}
}

/* ---- families by their pages ---- */

/* One seed, one model: every weight has the same numbers in both containers, but for what is stored as 1 less or as a
 * logarithm. */
static void same_weights(const char *family, const struct st_model *a, const struct st_model *b)
{
	assert_int_equal(st_model_n_weights(a), st_model_n_weights(b));
	for (size_t i = 0; i < st_model_n_weights(a); i++) {
		const struct st_weight *x = st_model_weight_at(a, i), *y = st_model_place(b, x);
		if (!y || !y->tensor)
			fail_msg("%s: no %s", family, x->canonical);
		uint64_t rows = st_weight_rows(x), cols = st_weight_cols(x);
		rows = x->tensor->ndim == 1 ? 1 : rows;
		float *u = malloc(rows * cols * sizeof *u), *v = malloc(rows * cols * sizeof *v);
		st_weight_decode(x, 0, rows, u);
		st_weight_decode(y, 0, rows, v);
		float first = u[0], differ = 0;
		for (uint64_t k = 0; k < rows * cols; k++) {
			if (!(fabsf(u[k] - v[k]) <= 1e-6f * (1 + fabsf(u[k]))))
				fail_msg("%s: %s: %g and %g", family, x->canonical, (double)u[k], (double)v[k]);
			differ += u[k] != first;
		}
		if (rows * cols > 1 && differ == 0)
			fail_msg("%s: %s: all numbers are %g", family, x->canonical, (double)first);
		free(u);
		free(v);
	}
}

static void every_page_can_be_made(void **state)
{
	(void)state;
	size_t in_gguf = 0; /* the others have no name there, or GGUF cannot say the small model that is made */
	for (size_t i = 0; i < st_family_count(); i++) {
		const char *family = st_family_name(i);
		struct st_synth_options o = {
			.arch = family, .preset = "tiny", .seed = 5, .threads = 1, .replace = true
		};
		struct st_error err = ST_ERROR_INIT;
		struct st_synth_result r;
		enum st_status st = st_synth_write(in_folder("page"), &o, &r, &err);
		if (st == ST_ERR_UNSUPPORTED && strstr(err.message, "from GGUF files alone")) {
			assert_string_equal(family, "rwkv6");
			continue;
		}
		assert_ok(st, &err);
		struct st_model *hf = open_model(in_folder("page"));
		assert_int_equal(st_model_n_unused(hf), 0);
		st = st_synth_write(in_folder("page.gguf"), &o, &r, &err);
		if (st != ST_OK && st != ST_ERR_UNSUPPORTED)
			fail_msg("%s: %s", family, err.message);
		in_gguf += st == ST_OK;
		if (st == ST_OK) {
			struct st_model *gguf = open_model(in_folder("page.gguf"));
			same_weights(family, hf, gguf);
			st_model_close(gguf);
		}
		st_model_close(hf);
	}
	assert_true(in_gguf >= 45);
}

/* ---- what is refused ---- */

static void assert_refused(const char *path, const struct st_synth_options *o, enum st_status code, const char *part)
{
	struct st_error err = ST_ERROR_INIT;
	struct st_synth_result r;
	char line[1300];
	assert_int_equal(st_synth_write(path, o, &r, &err), code);
	st_error_format(&err, line, sizeof line);
	if (!strstr(line, part))
		fail_msg("\"%s\" does not say \"%s\"", line, part);
	assert_null(strchr(line, '\n'));
}

static void bad_requests_are_refused(void **state)
{
	(void)state;
	const char *config = write_config("r.json", "llama", ""), *out = in_folder("r.gguf");
	const struct {
		struct st_synth_options o;
		const char *path, *part;
		enum st_status code;
	} list[] = {
		{ { .arch = "gpt9", .preset = "tiny" },
		  out,
		  "unknown model family \"gpt9\"; stele family list",
		  ST_ERR_USAGE },
		{ { .arch = "gpt2", .preset = "llama-1b" }, out, "tiny is", ST_ERR_USAGE },
		{ { .arch = "gpt2", .preset = "tiny" },
		  in_folder("r.apr"),
		  "APR files hold llama",
		  ST_ERR_UNSUPPORTED },
		{ { .arch = "opt", .preset = "tiny" }, out, "GGUF does not know the family opt", ST_ERR_UNSUPPORTED },
		{ { .arch = "llama", .preset = "huge" },
		  out,
		  "unknown preset \"huge\"; known ones are tiny",
		  ST_ERR_USAGE },
		{ { .preset = "tiny" }, out, "say which: llama, qwen2, qwen3", ST_ERR_USAGE },
		{ { .arch = "llama", .preset = "qwen2-7b" }, out, "a model of the family qwen2", ST_ERR_USAGE },
		{ { .arch = "llama" }, out, "one of a preset", ST_ERR_USAGE },
		{ { .arch = "llama", .preset = "tiny", .config = config }, out, "one of a preset", ST_ERR_USAGE },
		{ { .arch = "qwen2", .config = config }, out, "describes a model of the family llama", ST_ERR_USAGE },
		{ { .config = "/nonexistent/config.json" }, out, "/nonexistent/config.json: no such file", ST_ERR_IO },
		{ { .config = config, .type = "Q8_K" }, out, "\"Q8_K\" cannot be written; F32, F16", ST_ERR_USAGE },
		{ { .config = config, .type = "Q4_0" },
		  in_folder("r"),
		  "safetensors holds no Q4_0",
		  ST_ERR_UNSUPPORTED },
		{ { .config = config, .type = "AprQ8" }, out, "GGUF holds no AprQ8", ST_ERR_UNSUPPORTED },
		{ { .config = config }, in_folder("r.bin"), "the suffix names no container", ST_ERR_USAGE },
		{ { .config = config, .format = "onnx" }, out, "unknown container \"onnx\"", ST_ERR_USAGE },
		{ { .config = config, .shards = 2 },
		  in_folder("r.apr"),
		  "an APR model is one file",
		  ST_ERR_UNSUPPORTED },
		{ { .config = config, .shards = 500 }, out, "500 files for 30 tensors", ST_ERR_USAGE },
		{ { .config = config, .plant = "weight.nonsense" },
		  out,
		  "unknown code \"weight.nonsense\"; known here: tokens.bos",
		  ST_ERR_USAGE },
		{ { .config = config, .plant = "weight.transposed:3" },
		  out,
		  "\"3\" is no layer of 0 to 2",
		  ST_ERR_USAGE },
		{ { .config = config, .plant = "weight.transposed:1x" }, out, "\"1x\" is no layer", ST_ERR_USAGE },
		{ { .config = config, .plant = "weight.transposed:" }, out, "\"\" is no layer", ST_ERR_USAGE },
		{ { .config = config, .plant = "bias.missing" }, out, "the file has no such tensor", ST_ERR_USAGE },
		{ { .config = config, .plant = "weight.block_scale" }, out, "the type has no blocks", ST_ERR_USAGE },
		{ { .config = config }, "/nonexistent/x.gguf", "/nonexistent/x.gguf: cannot create", ST_ERR_IO },
		{ { .config = config }, "/nonexistent/x", "cannot create folder", ST_ERR_IO },
	};
	for (size_t i = 0; i < sizeof list / sizeof *list; i++) {
		assert_refused(list[i].path, &list[i].o, list[i].code, list[i].part);
		if (list[i].path[1] == 't')
			assert_int_not_equal(access(list[i].path, F_OK), 0);
	}
}

/* A config.json whose family stands in "architectures" alone is of that family. */
static void families_by_class_alone(void **state)
{
	(void)state;
	static const char *const sizes =
		"\"hidden_size\": 64, \"num_hidden_layers\": 2, \"num_attention_heads\": 2, \"num_key_value_heads\": 2, "
		"\"head_dim\": 32, \"intermediate_size\": 96, \"vocab_size\": 640, \"rms_norm_eps\": 1e-6, \"rope_theta\": 10000";
	static const struct {
		const char *class, *family;
	} known[] = { { "Gemma2ForCausalLM", "gemma2" },
		      { "Qwen3ForCausalLM", "qwen3" },
		      { "LlamaForCausalLM", "llama" } };
	for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
		char text[600];
		struct st_error err = ST_ERROR_INIT;
		struct st_synth_result r;
		snprintf(text, sizeof text, "{ \"architectures\": [\"%s\"], %s }", known[i].class, sizes);
		FILE *f = fopen(in_folder("class.json"), "w");
		assert_non_null(f);
		assert_true(fputs(text, f) >= 0 && fclose(f) == 0);
		struct st_synth_options o = { .config = in_folder("class.json"), .seed = 1, .threads = 1, .replace = true };
		assert_ok(st_synth_write(in_folder("class"), &o, &r, &err), &err);
		struct st_model *m = open_model(in_folder("class"));
		assert_string_equal(st_model_described(m)->family->name, known[i].family);
		st_model_close(m);
		o.arch = i ? "qwen2" : "llama";
		assert_refused(in_folder("class"), &o, ST_ERR_USAGE, known[i].family);
	}
}

static size_t entries(const char *path)
{
	size_t n = 0;
	DIR *d = opendir(path);
	assert_non_null(d);
	while (readdir(d))
		n++;
	closedir(d);
	return n - 2;
}

/* Writes stop after 300 KB: no file, and nothing left over, in any container. */
static void a_full_disk_leaves_nothing(void **state)
{
	(void)state;
	static const char *const files[] = { "full/x.gguf", "full/x.apr", "full/x" };
	struct st_synth_options o = small(write_config("d.json", "qwen2", ""), "F32");
	mkdir(in_folder("full"), 0777);
	signal(SIGXFSZ, SIG_IGN);
	struct rlimit old, low;
	getrlimit(RLIMIT_FSIZE, &old);
	low = old;
	low.rlim_cur = 300000;
	for (size_t i = 0; i < 3; i++) {
		struct st_error err = ST_ERROR_INIT;
		struct st_synth_result r;
		setrlimit(RLIMIT_FSIZE, &low);
		enum st_status st = st_synth_write(in_folder(files[i]), &o, &r, &err);
		setrlimit(RLIMIT_FSIZE, &old);
		assert_int_equal(st, ST_ERR_IO);
		assert_non_null(strstr(err.message, "cannot write"));
		assert_int_equal(entries(in_folder("full")), 0);
	}
}

static void others_are_not_overwritten(void **state)
{
	(void)state;
	struct st_synth_options o = small(write_config("o.json", "llama", ""), "BF16");
	o.replace = false;
	mkdir(in_folder("o-beside"), 0777);
	synth(in_folder("o-beside/a.safetensors"), &o);
	synth(in_folder("o-beside/b.safetensors"), &o); /* the same documents */
	o.seed = 8;
	assert_refused(in_folder("o-beside/c.safetensors"), &o, ST_ERR_IO,
	               "config.json: already exists and belongs to another model");
	assert_int_not_equal(access(in_folder("o-beside/c.safetensors"), F_OK), 0);
	synth(in_folder("o-folder/"), &o);
	assert_refused(in_folder("o-folder"), &o, ST_ERR_IO, "already exists");
	synth(in_folder("o.gguf"), &o);
	assert_refused(in_folder("o.gguf"), &o, ST_ERR_IO, "already exists");
	o.replace = true;
	synth(in_folder("o-folder"), &o);
	synth(in_folder("o-beside/c.safetensors"), &o);
}

static void stop_soon(void *user, const char *what, uint64_t done, uint64_t total)
{
	(void)what;
	*(uint64_t *)user += 1;
	assert_true(done <= total);
	st_cancel();
}

static void cancelling_leaves_nothing(void **state)
{
	(void)state;
	uint64_t calls = 0;
	struct st_synth_options o = small(write_config("x.json", "llama", ""), "F32");
	o.hooks = (struct st_hooks){ .progress = stop_soon, .user = &calls };
	assert_refused(in_folder("x.gguf"), &o, ST_ERR_CANCELLED, "");
	st_cancel_reset();
	assert_int_equal(calls, 1);
	assert_int_not_equal(access(in_folder("x.gguf"), F_OK), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(draws_are_the_documented_ones),
		cmocka_unit_test(draws_have_the_documented_moments),
		cmocka_unit_test(keys_differ),
		cmocka_unit_test(fast_encoders_are_nearly_as_good),
		cmocka_unit_test(fast_encoders_take_odd_blocks),
		cmocka_unit_test(threads_do_not_matter),
		cmocka_unit_test(containers_hold_one_model),
		cmocka_unit_test(llama_rows_are_in_pairs),
		cmocka_unit_test(types_round_one_model),
		cmocka_unit_test(rows_that_do_not_divide_fall_back),
		cmocka_unit_test(tiny_models_compute_something),
		cmocka_unit_test(statistics_are_those_of_trained_models),
		cmocka_unit_test(containers_tokenise_alike),
		cmocka_unit_test(bad_requests_are_refused),
		cmocka_unit_test(families_by_class_alone),
		cmocka_unit_test(every_page_can_be_made),
		cmocka_unit_test(a_full_disk_leaves_nothing),
		cmocka_unit_test(others_are_not_overwritten),
		cmocka_unit_test(cancelling_leaves_nothing),
	};
	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests_name("synth", tests, make_folder, remove_folder);
}
