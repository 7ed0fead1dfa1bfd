/*
 * toy.h - small models for the judge's tests, written by plain loops.
 *
 * A toy is a list of named matrices in memory under their Hugging Face names, [out, in]
 * row-major, Q and K in the split-half order. Faults are planted by editing the numbers (or,
 * for faults of storage, the encoded bytes) before a file is written; nothing here uses the
 * comparison, the graph or the name tables of the product.
 */
#ifndef ST_TESTS_JUDGE_TOY_H
#define ST_TESTS_JUDGE_TOY_H

#include "test.h"

#include <stele/dtype.h>

#include "dtype/geometry.h"
#include "format/writer.h"

#include <math.h>

#ifndef TOY_LAYERS
#define TOY_LAYERS 2
#endif
enum { TOY_VOCAB = 96 };

struct toy_tensor {
	char name[96];
	uint64_t rows, cols; /* rows 1 and vector set: one-dimensional */
	bool vector;
	float *data;
	/* Storage of this tensor in the next file; ST_DTYPE_COUNT: the file's own type. */
	enum st_dtype dtype;
	enum st_dtype label;                      /* what the header claims; ST_DTYPE_COUNT: the truth */
	void (*mangle)(uint8_t *bytes, size_t n); /* edits the encoded bytes, or NULL */
	bool absent;
};

struct toy {
	const char *arch; /* "llama" or "qwen2" */
	uint32_t hidden, heads, kv_heads, head_dim, ffn;
	uint32_t layers, vocab; /* as the configuration states them */
	double eps, theta;
	bool tied;
	const float *importance; /* of every element, as many as any tensor has; NULL: encoders round */
	struct toy_tensor t[64];
	size_t n;
};

static inline double toy_uniform(uint64_t *s)
{
	*s = *s * 6364136223846793005u + 1442695040888963407u; /* Knuth's MMIX generator */
	return (double)(*s >> 11) * 0x1p-53;
}

static inline double toy_normal(uint64_t *s)
{
	double u = toy_uniform(s), v = toy_uniform(s);
	return sqrt(-2 * log(u + 1e-300)) * cos(6.283185307179586 * v);
}

static inline struct toy_tensor *toy_add(struct toy *m, const char *name, uint64_t rows, uint64_t cols, double mean,
                                         double std, uint64_t *seed)
{
	struct toy_tensor *t = &m->t[m->n++];
	assert_true(m->n <= 64);
	memset(t, 0, sizeof *t);
	snprintf(t->name, sizeof t->name, "%s", name);
	t->vector = cols == 0;
	t->rows = t->vector ? 1 : rows;
	t->cols = t->vector ? rows : cols;
	t->dtype = t->label = ST_DTYPE_COUNT;
	t->data = malloc(t->rows * t->cols * sizeof *t->data);
	for (uint64_t i = 0; i < t->rows * t->cols; i++)
		t->data[i] = (float)(mean + std * toy_normal(seed));
	return t;
}

static inline void toy_draw(struct toy *m, const char *arch, uint32_t hidden, bool tied)
{
	uint64_t seed = 20261120;
	memset(m, 0, sizeof *m);
	m->arch = arch;
	m->hidden = hidden;
	m->layers = TOY_LAYERS;
	m->vocab = TOY_VOCAB;
	m->heads = 4;
	m->kv_heads = 2;
	m->head_dim = hidden / m->heads;
	m->ffn = hidden * 2;
	m->eps = 1e-5;
	m->theta = 10000;
	m->tied = tied;
	uint32_t D = hidden, q = m->heads * m->head_dim, kv = m->kv_heads * m->head_dim;
	double s = 1 / sqrt(D);
	toy_add(m, "model.embed_tokens.weight", TOY_VOCAB, D, 0, 0.5, &seed);
	for (int l = 0; l < TOY_LAYERS; l++) {
		const struct {
			const char *name;
			uint64_t rows, cols;
			double mean, std;
		} list[] = {
			{ "input_layernorm.weight", D, 0, 0.8, 0.2 },
			{ "self_attn.q_proj.weight", q, D, 0, s },
			{ "self_attn.k_proj.weight", kv, D, 0, s },
			{ "self_attn.v_proj.weight", kv, D, 0, s },
			{ "self_attn.o_proj.weight", D, q, 0, s },
			{ "post_attention_layernorm.weight", D, 0, 0.9, 0.15 },
			{ "mlp.gate_proj.weight", m->ffn, D, 0, s },
			{ "mlp.up_proj.weight", m->ffn, D, 0, s },
			{ "mlp.down_proj.weight", D, m->ffn, 0, 0.7 * s },
			{ "self_attn.q_proj.bias", q, 0, 0, 1 },
			{ "self_attn.k_proj.bias", kv, 0, 0, 4 },
			{ "self_attn.v_proj.bias", kv, 0, 0, 0.3 },
		};
		for (size_t i = 0; i < sizeof list / sizeof *list - (strcmp(arch, "qwen2") ? 3 : 0); i++) {
			char name[96];
			snprintf(name, sizeof name, "model.layers.%d.%s", l, list[i].name);
			toy_add(m, name, list[i].rows, list[i].cols, list[i].mean, list[i].std, &seed);
		}
	}
	toy_add(m, "model.norm.weight", D, 0, 1.5, 0.3, &seed);
	if (!tied)
		toy_add(m, "lm_head.weight", TOY_VOCAB, D, 0, s, &seed);
}

static inline void toy_free(struct toy *m)
{
	for (size_t i = 0; i < m->n; i++)
		free(m->t[i].data);
}

/* Models of one kind follow each other in most tests: the last one drawn is kept, and copied. */
static inline void toy_make(struct toy *m, const char *arch, uint32_t hidden, bool tied)
{
	static struct toy last;
	if (!last.arch || strcmp(last.arch, arch) != 0 || last.hidden != hidden || last.tied != tied) {
		toy_free(&last);
		toy_draw(&last, arch, hidden, tied);
	}
	*m = last;
	for (size_t i = 0; i < m->n; i++) {
		size_t size = m->t[i].rows * m->t[i].cols * sizeof(float);
		m->t[i].data = malloc(size);
		memcpy(m->t[i].data, last.t[i].data, size);
	}
}

static inline struct toy_tensor *toy_find(struct toy *m, const char *name)
{
	for (size_t i = 0; i < m->n; i++)
		if (strcmp(m->t[i].name, name) == 0)
			return &m->t[i];
	fail_msg("no tensor %s", name);
	return NULL;
}

/* ---- writing ---- */

/* Each gets the other's numbers. */
static inline void toy_swap(struct toy *m, const char *x, const char *y)
{
	struct toy_tensor *a = toy_find(m, x), *b = toy_find(m, y);
	float *t = a->data;
	a->data = b->data;
	b->data = t;
}

/* The matrix's transpose written over it, under the same label. */
static inline void toy_transpose(struct toy *m, const char *name)
{
	struct toy_tensor *t = toy_find(m, name);
	float *out = malloc(t->rows * t->cols * sizeof *out);
	for (uint64_t i = 0; i < t->rows; i++)
		for (uint64_t j = 0; j < t->cols; j++)
			out[j * t->rows + i] = t->data[i * t->cols + j];
	free(t->data);
	t->data = out;
}

/* Rows of a half-split matrix in the adjacent-pair order that GGUF wants for llama. */
static inline float *toy_interleaved(const struct toy_tensor *t, uint32_t heads)
{
	uint64_t n = t->rows * t->cols, rows = t->vector ? t->cols : t->rows, w = t->vector ? 1 : t->cols,
		 d = rows / heads;
	float *out = malloc(n * sizeof *out);
	for (uint64_t h = 0; h < heads; h++)
		for (uint64_t i = 0; i < d / 2; i++) {
			memcpy(out + (h * d + 2 * i) * w, t->data + (h * d + i) * w, w * sizeof *out);
			memcpy(out + (h * d + 2 * i + 1) * w, t->data + (h * d + d / 2 + i) * w, w * sizeof *out);
		}
	return out;
}

static inline bool toy_is(const char *name, const char *part) { return strstr(name, part) != NULL; }

/* Hugging Face name -> GGUF name. */
static inline void toy_gguf_name(const char *hf, char *out, size_t n)
{
	static const char *const pairs[][2] = {
		{ "input_layernorm.weight", "attn_norm.weight" },
		{ "self_attn.q_proj.weight", "attn_q.weight" },
		{ "self_attn.k_proj.weight", "attn_k.weight" },
		{ "self_attn.v_proj.weight", "attn_v.weight" },
		{ "self_attn.o_proj.weight", "attn_output.weight" },
		{ "post_attention_layernorm.weight", "ffn_norm.weight" },
		{ "mlp.gate_proj.weight", "ffn_gate.weight" },
		{ "mlp.up_proj.weight", "ffn_up.weight" },
		{ "mlp.down_proj.weight", "ffn_down.weight" },
		{ "self_attn.q_proj.bias", "attn_q.bias" },
		{ "self_attn.k_proj.bias", "attn_k.bias" },
		{ "self_attn.v_proj.bias", "attn_v.bias" },
	};
	int layer, at = 0;
	if (strcmp(hf, "model.embed_tokens.weight") == 0)
		snprintf(out, n, "token_embd.weight");
	else if (strcmp(hf, "model.norm.weight") == 0)
		snprintf(out, n, "output_norm.weight");
	else if (strcmp(hf, "lm_head.weight") == 0)
		snprintf(out, n, "output.weight");
	else if (sscanf(hf, "model.layers.%d.%n", &layer, &at) == 1 && at > 0) {
		for (size_t i = 0; i < sizeof pairs / sizeof *pairs; i++)
			if (strcmp(hf + at, pairs[i][0]) == 0)
				snprintf(out, n, "blk.%d.%s", layer, pairs[i][1]);
	} else
		snprintf(out, n, "%s", hf); /* an extra tensor keeps its name */
}

struct toy_kv_store {
	struct st_kv kv[24];
	uint64_t value[24];
	char text[24][80];
	size_t n;
};

static inline void toy_kv(struct toy_kv_store *s, const char *key, enum st_kv_type type, const void *value, size_t size)
{
	struct st_kv *k = &s->kv[s->n];
	*k = (struct st_kv){ .key = key, .type = type, .count = 1, .data = (const uint8_t *)&s->value[s->n] };
	if (type == ST_KV_STR) {
		uint64_t n = size;
		memcpy(s->text[s->n], &n, 8);
		memcpy(s->text[s->n] + 8, value, size);
		k->data = (const uint8_t *)s->text[s->n];
	} else {
		memcpy(&s->value[s->n], value, size);
	}
	s->n++;
}

static inline enum st_dtype toy_type(const struct toy_tensor *t, enum st_dtype file)
{
	enum st_dtype d = t->dtype != ST_DTYPE_COUNT ? t->dtype : t->vector ? ST_DTYPE_F32 : file;
	return t->cols % st_dtype_info(d)->block_elems == 0 ? d : ST_DTYPE_F16;
}

/* Write to a GGUF file, or to a Hugging Face folder when gguf is false. */
static inline void toy_write(struct toy *m, const char *path, enum st_dtype type, bool gguf)
{
	struct st_tensor_spec specs[64];
	char names[64][96], file[600];
	const struct toy_tensor *src[64];
	size_t n = 0;
	for (size_t i = 0; i < m->n; i++) {
		const struct toy_tensor *t = &m->t[i];
		if (t->absent)
			continue;
		if (gguf)
			toy_gguf_name(t->name, names[n], sizeof names[n]);
		else
			snprintf(names[n], sizeof names[n], "%s", t->name);
		specs[n] = (struct st_tensor_spec){ .name = names[n],
			                            .dtype = t->label != ST_DTYPE_COUNT ? t->label : toy_type(t, type),
			                            .ndim = t->vector ? 1 : 2,
			                            .shape = { t->vector ? t->cols : t->rows, t->cols } };
		src[n++] = t;
	}
	struct toy_kv_store kv = { .n = 0 };
	char key[12][64];
	struct st_write_plan plan = { .format = gguf ? ST_FORMAT_GGUF : ST_FORMAT_SAFETENSORS,
		                      .specs = specs,
		                      .n_specs = n,
		                      .alignment = 32,
		                      .pad_header = true };
	snprintf(file, sizeof file, "%s", path);
	if (gguf) {
		const struct {
			const char *suffix;
			uint32_t v;
		} ints[] = {
			{ "block_count", m->layers },
			{ "embedding_length", m->hidden },
			{ "feed_forward_length", m->ffn },
			{ "attention.head_count", m->heads },
			{ "attention.head_count_kv", m->kv_heads },
			{ "context_length", 512 },
		};
		float eps = (float)m->eps, theta = (float)m->theta;
		toy_kv(&kv, "general.architecture", ST_KV_STR, m->arch, strlen(m->arch));
		for (size_t i = 0; i < 6; i++) {
			snprintf(key[i], sizeof key[i], "%s.%s", m->arch, ints[i].suffix);
			toy_kv(&kv, key[i], ST_KV_U32, &ints[i].v, 4);
		}
		snprintf(key[6], sizeof key[6], "%s.attention.layer_norm_rms_epsilon", m->arch);
		toy_kv(&kv, key[6], ST_KV_F32, &eps, 4);
		snprintf(key[7], sizeof key[7], "%s.rope.freq_base", m->arch);
		toy_kv(&kv, key[7], ST_KV_F32, &theta, 4);
		plan.kv = kv.kv;
		plan.n_kv = kv.n;
	} else {
		char cmd[700];
		snprintf(cmd, sizeof cmd, "mkdir -p '%s'", path);
		assert_int_equal(system(cmd), 0);
		snprintf(file, sizeof file, "%s/config.json", path);
		FILE *f = fopen(file, "w");
		bool biases = false; /* a config.json has to ask for them */
		for (size_t i = 0; i < m->n; i++)
			biases |= toy_is(m->t[i].name, "q_proj.bias");
		assert_non_null(f);
		fprintf(f,
		        "{\"architectures\": [\"%s\"], \"model_type\": \"%s\", \"hidden_size\": %u, "
		        "\"num_hidden_layers\": %u, "
		        "\"num_attention_heads\": %u, \"num_key_value_heads\": %u, \"intermediate_size\": %u, "
		        "\"vocab_size\": %u, "
		        "\"rms_norm_eps\": %g, \"rope_theta\": %.17g, \"max_position_embeddings\": 512, "
		        "\"hidden_act\": \"silu\", "
		        "\"tie_word_embeddings\": %s%s}\n",
		        strcmp(m->arch, "qwen2") ? "LlamaForCausalLM" : "Qwen2ForCausalLM", m->arch, m->hidden,
		        m->layers, m->heads, m->kv_heads, m->ffn, m->vocab, m->eps, m->theta,
		        m->tied ? "true" : "false",
		        biases && strcmp(m->arch, "llama") == 0 ? ", \"qkv_bias\": true" : "");
		fclose(f);
		snprintf(file, sizeof file, "%s/model.safetensors", path);
	}
	struct st_error err = ST_ERROR_INIT;
	struct st_writer *w;
	const char *readable;
	assert_ok(st_writer_open(file, &plan, &w, &err), &err);
	for (size_t i = 0; i < n; i++) {
		const struct toy_tensor *t = src[i];
		enum st_dtype d = toy_type(t, type);
		const struct st_dtype_info *info = st_dtype_info(d);
		bool pairs = gguf && strcmp(m->arch, "llama") == 0
		          && (toy_is(t->name, "q_proj") || toy_is(t->name, "k_proj"));
		float *moved = pairs ? toy_interleaved(t, toy_is(t->name, "q_proj") ? m->heads : m->kv_heads) : NULL;
		size_t elems = (size_t)(t->rows * t->cols), bytes = elems / info->block_elems * info->block_bytes;
		uint8_t *buf = malloc(bytes);
		st_dtype_encode(d, moved ? moved : t->data, m->importance, buf, elems);
		if (t->mangle)
			t->mangle(buf, bytes);
		assert_ok(st_writer_append(w, buf, bytes, &err), &err);
		free(buf);
		free(moved);
	}
	assert_ok(st_writer_finish(w, &readable, &err), &err);
	assert_ok(st_writer_commit(w, &err), &err);
}

/* ---- faults of storage, for toy_tensor.mangle: what a wrong writer does to Q4_0 blocks ---- */

static inline void exchange_nibbles(uint8_t *p, size_t n)
{
	for (size_t b = 0; b + 18 <= n; b += 18)
		for (size_t i = 2; i < 18; i++)
			p[b + i] = (uint8_t)(p[b + i] >> 4 | p[b + i] << 4);
}

/* Elements 2i and 2i + 1 in byte i of a Q4_0 block, instead of i and i + 16. */
static inline void pairs_in_bytes(uint8_t *p, size_t n)
{
	for (size_t b = 0; b + 18 <= n; b += 18) {
		uint8_t code[32];
		for (size_t i = 0; i < 16; i++) {
			code[i] = p[b + 2 + i] & 15;
			code[i + 16] = p[b + 2 + i] >> 4;
		}
		for (size_t i = 0; i < 16; i++)
			p[b + 2 + i] = (uint8_t)(code[2 * i] | code[2 * i + 1] << 4);
	}
}

/* The f16 scales of three blocks of one row doubled: exponent plus one. */
static inline void double_scales(uint8_t *p, size_t n)
{
	assert_true(n > 18 * 40);
	for (size_t b = 33; b < 36; b++)
		p[18 * b + 1] = (uint8_t)(p[18 * b + 1] + 4);
}

#endif
