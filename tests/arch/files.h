/*
 * files.h - the random decoder of tests/graph/naive.h as a file. The names and keys are
 * written out here: they are the formats', not those of the tables under test.
 */
#ifndef ST_TESTS_ARCH_FILES_H
#define ST_TESTS_ARCH_FILES_H

#include "arch/helpers.h"
#include "format/writer.h"
#include "graph/naive.h"

#define FILE_TENSORS 64
#define FILE_KEYS 40

struct file_tensor {
	struct st_tensor_spec spec;
	char name[96];
	void *data; /* owned */
	size_t n_bytes;
};

struct file_model {
	struct file_tensor t[FILE_TENSORS];
	size_t n;
};

static const char *const hf_names[] = {
	"input_layernorm.weight",
	"self_attn.q_proj.weight",
	"self_attn.k_proj.weight",
	"self_attn.v_proj.weight",
	"self_attn.q_proj.bias",
	"self_attn.k_proj.bias",
	"self_attn.v_proj.bias",
	"self_attn.q_norm.weight",
	"self_attn.k_norm.weight",
	"self_attn.o_proj.weight",
	"post_attention_layernorm.weight",
	"mlp.gate_proj.weight",
	"mlp.up_proj.weight",
	"mlp.down_proj.weight",
};
static const char *const gguf_names[] = {
	"attn_norm.weight", "attn_q.weight",   "attn_k.weight",      "attn_v.weight",      "attn_q.bias",
	"attn_k.bias",      "attn_v.bias",     "attn_q_norm.weight", "attn_k_norm.weight", "attn_output.weight",
	"ffn_norm.weight",  "ffn_gate.weight", "ffn_up.weight",      "ffn_down.weight",
};

static inline void file_add(struct file_model *f, const char *name, enum st_dtype type, const void *data,
                            size_t n_bytes, uint64_t rows, uint64_t cols)
{
	assert_true(f->n < FILE_TENSORS);
	struct file_tensor *t = &f->t[f->n++];
	snprintf(t->name, sizeof t->name, "%s", name);
	t->spec = (struct st_tensor_spec){ .name = t->name, .dtype = type, .ndim = rows ? 2 : 1 };
	t->spec.shape[0] = rows ? rows : cols;
	t->spec.shape[1] = rows ? cols : 0;
	t->data = malloc(n_bytes);
	memcpy(t->data, data, n_bytes);
	t->n_bytes = n_bytes;
}

/* rows = 0: a vector */
static inline void file_add_f32(struct file_model *f, const char *name, const float *data, size_t rows, size_t cols)
{
	file_add(f, name, ST_DTYPE_F32, data, (rows ? rows : 1) * cols * sizeof *data, rows, cols);
}

/* Rows into adjacent-pair order, as the llama family has them under GGUF names. */
static inline void file_interleave(struct file_tensor *t, size_t d, size_t cols)
{
	size_t rows = t->n_bytes / sizeof(float) / cols;
	float *x = t->data, *copy = malloc(t->n_bytes);
	for (size_t r = 0; r < rows; r++) {
		size_t i = r % d, from = r - i + (i % 2 ? d / 2 + i / 2 : i / 2);
		memcpy(copy + r * cols, x + from * cols, cols * sizeof *x);
	}
	free(t->data);
	t->data = copy;
}

/* prefix: of Hugging Face names ("model."), or NULL for GGUF names. */
static inline void file_model_init(struct file_model *f, const struct naive *m, const char *prefix, bool interleaved)
{
	size_t D = m->D, Q = m->H * m->d, K = m->G * m->d, F = m->F;
	char name[96];
	f->n = 0;
	snprintf(name, sizeof name, prefix ? "%sembed_tokens.weight" : "%stoken_embd.weight", prefix ? prefix : "");
	file_add_f32(f, name, m->embed, m->V, D);
	for (int l = 0; l < NAIVE_LAYERS; l++) {
		const struct naive_layer *w = &m->layer[l];
		const struct {
			const float *data;
			size_t rows, cols;
			bool skip;
		} parts[] = {
			{ w->attn_norm, 0, D, false },
			{ w->q, Q, D, false },
			{ w->k, K, D, false },
			{ w->v, K, D, false },
			{ w->qb, 0, Q, !m->bias },
			{ w->kb, 0, K, !m->bias },
			{ w->vb, 0, K, !m->bias },
			{ w->q_norm, 0, m->d, !m->qk_norm },
			{ w->k_norm, 0, m->d, !m->qk_norm },
			{ w->o, D, Q, false },
			{ w->ffn_norm, 0, D, false },
			{ w->gate, F, D, false },
			{ w->up, F, D, false },
			{ w->down, D, F, false },
		};
		for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
			if (parts[i].skip)
				continue;
			if (prefix)
				snprintf(name, sizeof name, "%slayers.%d.%s", prefix, l, hf_names[i]);
			else
				snprintf(name, sizeof name, "blk.%d.%s", l, gguf_names[i]);
			file_add_f32(f, name, parts[i].data, parts[i].rows, parts[i].cols);
			if (interleaved && (i == 1 || i == 2))
				file_interleave(&f->t[f->n - 1], m->d, D);
			if (interleaved && (i == 4 || i == 5))
				file_interleave(&f->t[f->n - 1], m->d, 1);
		}
	}
	snprintf(name, sizeof name, prefix ? "%snorm.weight" : "%soutput_norm.weight", prefix ? prefix : "");
	file_add_f32(f, name, m->final_norm, 0, D);
	if (!m->tied)
		file_add_f32(f,
		             !prefix                                   ? "output.weight"
		             : strcmp(prefix, "language_model.model.") ? "lm_head.weight"
		                                                       : "language_model.lm_head.weight",
		             m->head, m->V, D);
}

static inline void file_model_free(struct file_model *f)
{
	for (size_t i = 0; i < f->n; i++)
		free(f->t[i].data);
	f->n = 0;
}

static inline struct file_tensor *file_find(struct file_model *f, const char *name)
{
	for (size_t i = 0; i < f->n; i++)
		if (strcmp(f->t[i].name, name) == 0)
			return &f->t[i];
	fail_msg("the test has no tensor %s", name);
	return NULL;
}

static inline void file_drop(struct file_model *f, const char *name)
{
	struct file_tensor *t = file_find(f, name);
	free(t->data);
	memmove(t, t + 1, (size_t)(f->t + f->n - (t + 1)) * sizeof *t);
	f->n--;
	for (size_t i = 0; i < f->n; i++)
		f->t[i].spec.name = f->t[i].name;
}

static int by_name(const void *a, const void *b)
{
	return strcmp(((const struct file_tensor *)a)->name, ((const struct file_tensor *)b)->name);
}

/* plan: format, kv, metadata; the tensors are f's. APR wants them sorted; any order will do for the others. */
static inline void file_write(struct file_model *f, struct st_write_plan plan, const char *path)
{
	struct st_error err = ST_ERROR_INIT;
	struct st_writer *w = NULL;
	const char *readable;
	qsort(f->t, f->n, sizeof *f->t, by_name);
	struct st_tensor_spec specs[FILE_TENSORS];
	for (size_t i = 0; i < f->n; i++) {
		f->t[i].spec.name = f->t[i].name;
		specs[i] = f->t[i].spec;
	}
	plan.specs = specs;
	plan.n_specs = f->n;
	plan.alignment = plan.format == ST_FORMAT_GGUF ? 32 : 0;
	assert_ok(st_writer_open(path, &plan, &w, &err), &err);
	for (size_t i = 0; i < f->n; i++)
		assert_ok(st_writer_append(w, f->t[i].data, f->t[i].n_bytes, &err), &err);
	assert_ok(st_writer_finish(w, &readable, &err), &err);
	assert_ok(st_writer_commit(w, &err), &err);
}

/* ---- GGUF keys ---- */

struct file_keys {
	struct st_kv kv[FILE_KEYS];
	char names[FILE_KEYS][64];
	uint8_t data[FILE_KEYS][80];
	size_t n;
};

static inline void *key_slot(struct file_keys *k, const char *name, enum st_kv_type type)
{
	size_t i = 0;
	while (i < k->n && strcmp(k->names[i], name) != 0) /* a second setting replaces the first */
		i++;
	assert_true(i < FILE_KEYS);
	k->n = i < k->n ? k->n : i + 1;
	snprintf(k->names[i], sizeof k->names[i], "%s", name);
	k->kv[i] = (struct st_kv){ .key = k->names[i], .type = type, .count = 1, .data = k->data[i] };
	return k->data[i];
}

static inline void key_u32(struct file_keys *k, const char *name, uint32_t v)
{
	memcpy(key_slot(k, name, ST_KV_U32), &v, 4);
}
static inline void key_f32(struct file_keys *k, const char *name, float v)
{
	memcpy(key_slot(k, name, ST_KV_F32), &v, 4);
}

static inline void key_str(struct file_keys *k, const char *name, const char *v)
{
	uint8_t *p = key_slot(k, name, ST_KV_STR);
	uint64_t n = strlen(v);
	assert_true(n <= 64);
	memcpy(p, &n, 8);
	memcpy(p + 8, v, n);
}

static inline void key_drop(struct file_keys *k, const char *name)
{
	for (size_t i = 0; i < k->n; i++)
		if (strcmp(k->names[i], name) == 0)
			snprintf(k->names[i], sizeof k->names[i], "unused.%zu", i);
}

/* The keys of a family's file for a decoder. */
static inline void file_keys_init(struct file_keys *k, const char *arch, const struct naive *m)
{
	char name[64];
	const struct {
		const char *suffix;
		size_t v;
	} counts[] = {
		{ "block_count", NAIVE_LAYERS },
		{ "embedding_length", m->D },
		{ "feed_forward_length", m->F },
		{ "attention.head_count", m->H },
		{ "attention.head_count_kv", m->G },
		{ "attention.key_length", m->d },
		{ "attention.value_length", m->d },
		{ "rope.dimension_count", m->d },
		{ "context_length", 64 },
	};
	k->n = 0;
	key_str(k, "general.architecture", arch);
	key_str(k, "general.name", "tiny");
	for (size_t i = 0; i < sizeof counts / sizeof *counts; i++) {
		snprintf(name, sizeof name, "%s.%s", arch, counts[i].suffix);
		key_u32(k, name, (uint32_t)counts[i].v);
	}
	snprintf(name, sizeof name, "%s.attention.layer_norm_rms_epsilon", arch);
	key_f32(k, name, (float)m->eps);
	snprintf(name, sizeof name, "%s.rope.freq_base", arch);
	key_f32(k, name, (float)m->theta);
}

/* ---- config.json, and the metadata of an APR file ---- */

static inline json_t *file_config(const char *arch, const struct naive *m)
{
	json_t *o = json_pack("{s:s, s:i, s:i, s:i, s:i, s:i, s:i, s:i, s:i, s:f, s:f, s:b, s:s}", "model_type", arch,
	                      "num_hidden_layers", NAIVE_LAYERS, "hidden_size", (int)m->D, "intermediate_size",
	                      (int)m->F, "num_attention_heads", (int)m->H, "num_key_value_heads", (int)m->G, "head_dim",
	                      (int)m->d, "vocab_size", (int)m->V, "max_position_embeddings", 64, "rms_norm_eps", m->eps,
	                      "rope_theta", m->theta, "tie_word_embeddings", (int)m->tied, "hidden_act", "silu");
	assert_non_null(o);
	return o;
}

#endif
