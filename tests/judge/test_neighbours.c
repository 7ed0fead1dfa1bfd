/*
 * Other weights that compute the same, in families that are no llama: LayerNorm with biases, fused and transposed
 * matrices, experts, blocks side by side, partial rotations. Each change is made by plain loops on the numbers of a tiny
 * model of the family (tests/data/families/README.md); what is left half done is another function.
 */
#include "test.h"

#include "folder.h"

#include <stele/container.h>
#include <stele/inspect.h>
#include <stele/judge.h>

#include "dtype/half.h"
#include "format/writer.h"

#include <math.h>
#include <sys/stat.h>

struct matrix {
	char name[96];
	uint64_t rows, cols; /* as they are stored; a vector has one row */
	bool vector;
	double *x;
};

struct tiny {
	struct matrix m[96];
	size_t n;
};

static void load(struct tiny *t, const char *family)
{
	char path[300];
	struct st_container *c;
	struct st_error err = ST_ERROR_INIT;
	snprintf(path, sizeof path, STELE_SOURCE_ROOT "/tests/data/families/%s/model.safetensors", family);
	assert_ok(st_container_open(path, &c, &err), &err);
	t->n = 0;
	for (size_t i = 0; i < st_container_n_tensors(c); i++) {
		const struct st_tensor *s = st_container_tensor(c, i);
		struct matrix *m = &t->m[t->n++];
		assert_true(t->n <= 96 && s->ndim <= 2);
		snprintf(m->name, sizeof m->name, "%s", s->name);
		m->vector = s->ndim == 1;
		m->rows = m->vector ? 1 : s->shape[0];
		m->cols = s->shape[s->ndim - 1];
		m->x = malloc(m->rows * m->cols * sizeof *m->x);
		for (uint64_t k = 0; k < m->rows * m->cols; k++)
			m->x[k] = (double)((const float *)(const void *)s->data)[k];
	}
	st_container_close(c);
}

static void release(struct tiny *t)
{
	for (size_t i = 0; i < t->n; i++)
		free(t->m[i].x);
}

static void copy_file(const char *from, const char *to)
{
	char buf[1 << 16];
	FILE *f = fopen(from, "rb"), *g = fopen(to, "wb");
	assert_non_null(f);
	assert_non_null(g);
	size_t n = fread(buf, 1, sizeof buf, f);
	assert_true(n < sizeof buf);
	assert_int_equal(fwrite(buf, 1, n, g), n);
	fclose(f);
	assert_int_equal(fclose(g), 0);
}

static void save(const struct tiny *t, const char *family, const char *where)
{
	char from[300], to[600];
	struct st_tensor_spec specs[96];
	struct st_error err = ST_ERROR_INIT;
	struct st_writer *w;
	const char *readable;
	(void)mkdir(in_folder(where), 0700);
	snprintf(from, sizeof from, STELE_SOURCE_ROOT "/tests/data/families/%s/config.json", family);
	snprintf(to, sizeof to, "%s/config.json", in_folder(where));
	copy_file(from, to);
	for (size_t i = 0; i < t->n; i++)
		specs[i] = (struct st_tensor_spec){ .name = t->m[i].name,
			                            .dtype = ST_DTYPE_F32,
			                            .ndim = t->m[i].vector ? 1 : 2,
			                            .shape = { t->m[i].vector ? t->m[i].cols : t->m[i].rows,
			                                       t->m[i].cols } };
	struct st_write_plan plan = {
		.format = ST_FORMAT_SAFETENSORS, .specs = specs, .n_specs = t->n, .alignment = 32, .pad_header = true
	};
	snprintf(to, sizeof to, "%s/model.safetensors", in_folder(where));
	assert_ok(st_writer_open(to, &plan, &w, &err), &err);
	for (size_t i = 0; i < t->n; i++) {
		size_t n = (size_t)(t->m[i].rows * t->m[i].cols);
		float *x = malloc(n * sizeof *x);
		for (size_t k = 0; k < n; k++)
			x[k] = (float)t->m[i].x[k];
		assert_ok(st_writer_append(w, (const uint8_t *)x, n * sizeof *x, &err), &err);
		free(x);
	}
	assert_ok(st_writer_finish(w, &readable, &err), &err);
	assert_ok(st_writer_commit(w, &err), &err);
}

/* A format of a layer and the rest of the name; "%.0d" for no layer (0 is nothing then). */
static struct matrix *find(struct tiny *t, const char *format, int layer, const char *last)
{
	char name[120];
	snprintf(name, sizeof name, format, layer, last);
	for (size_t i = 0; i < t->n; i++)
		if (strcmp(t->m[i].name, name) == 0)
			return &t->m[i];
	fail_msg("no tensor %s", name);
	return NULL;
}

/* Lines of a matrix are its rows or its columns; a vector's are its elements. Lines [at, at + n) become those at `from`. */
static void permute(struct matrix *m, bool columns, uint64_t at, uint64_t n, const uint64_t *from)
{
	columns |= m->vector;
	double *out = malloc(m->rows * m->cols * sizeof *out);
	memcpy(out, m->x, m->rows * m->cols * sizeof *out);
	for (uint64_t r = 0; r < m->rows; r++)
		for (uint64_t c = 0; c < m->cols; c++) {
			uint64_t line = columns ? c : r, k = line >= at && line < at + n ? at + from[line - at] : line;
			out[r * m->cols + c] = columns ? m->x[r * m->cols + k] : m->x[k * m->cols + c];
		}
	free(m->x);
	m->x = out;
}

static void times(struct matrix *m, bool columns, uint64_t line, double by)
{
	columns |= m->vector;
	for (uint64_t i = 0; i < (columns ? m->rows : m->cols); i++)
		m->x[columns ? i * m->cols + line : line * m->cols + i] *= by;
}

static uint64_t neurons[64], heads[64], groups[64];

static void choose_orders(uint64_t ffn, uint64_t d)
{
	static const uint64_t four[] = { 3, 2, 0, 1 };
	for (uint64_t i = 0; i < ffn; i++)
		neurons[i] = (i * 37 + 3) % ffn; /* 37 divides no width here */
	for (uint64_t i = 0; i < 4 * d; i++)
		heads[i] = four[i / d] * d + i % d;
	for (uint64_t i = 0; i < 2 * d; i++)
		groups[i] = (1 - i / d) * d + i % d;
}

/* ---- GPT-2: stored [in, out], Q, K and V in one, LayerNorm with biases ---- */

#define GPT2 "transformer.h.%d.%s"

static void gpt2_neurons(struct tiny *t, bool bias)
{
	choose_orders(20, 6);
	permute(find(t, GPT2, 0, "mlp.c_fc.weight"), true, 0, 20, neurons);
	if (bias)
		permute(find(t, GPT2, 0, "mlp.c_fc.bias"), true, 0, 20, neurons);
	permute(find(t, GPT2, 0, "mlp.c_proj.weight"), false, 0, 20, neurons);
}
static void gpt2_all_neurons(struct tiny *t) { gpt2_neurons(t, true); }
static void gpt2_neurons_without_bias(struct tiny *t) { gpt2_neurons(t, false); }

static void gpt2_heads(struct tiny *t)
{
	choose_orders(20, 6);
	for (uint64_t part = 0; part < 3; part++) {
		permute(find(t, GPT2, 1, "attn.c_attn.weight"), true, 24 * part, 24, heads);
		permute(find(t, GPT2, 1, "attn.c_attn.bias"), true, 24 * part, 24, heads);
	}
	permute(find(t, GPT2, 1, "attn.c_proj.weight"), false, 0, 24, heads);
}

/* A norm's weights, and its bias where there is one to take it, into what stands behind: [out, in], or turned. */
static void fold_norm(struct matrix *w, struct matrix *b, struct matrix *into, struct matrix *into_bias, bool turned)
{
	uint64_t out = turned ? into->cols : into->rows, in = turned ? into->rows : into->cols;
	for (uint64_t o = 0; o < out; o++)
		for (uint64_t i = 0; i < in; i++) {
			double *x = &into->x[turned ? i * out + o : o * in + i];
			if (into_bias)
				into_bias->x[o] += *x * b->x[i];
			*x *= w->x[i];
		}
}

static void to_identity(struct matrix *w, struct matrix *b)
{
	for (uint64_t i = 0; i < w->cols; i++) {
		w->x[i] = 1;
		if (b)
			b->x[i] = 0;
	}
}

static void gpt2_fold(struct tiny *t, bool bias)
{
	for (int l = 0; l < 2; l++) {
		struct matrix *w = find(t, GPT2, l, "ln_1.weight"), *b = find(t, GPT2, l, "ln_1.bias");
		fold_norm(w, b, find(t, GPT2, l, "attn.c_attn.weight"),
		          bias ? find(t, GPT2, l, "attn.c_attn.bias") : NULL, true);
		to_identity(w, b);
		w = find(t, GPT2, l, "ln_2.weight");
		b = find(t, GPT2, l, "ln_2.bias");
		fold_norm(w, b, find(t, GPT2, l, "mlp.c_fc.weight"), find(t, GPT2, l, "mlp.c_fc.bias"), true);
		to_identity(w, b);
	}
}
static void gpt2_fold_all(struct tiny *t) { gpt2_fold(t, true); }
static void gpt2_fold_without_bias(struct tiny *t) { gpt2_fold(t, false); }

/* The weights alone; the bias is divided by them. */
static void gpt2_fold_weights(struct tiny *t)
{
	for (int l = 0; l < 2; l++) {
		struct matrix *w = find(t, GPT2, l, "ln_1.weight"), *b = find(t, GPT2, l, "ln_1.bias");
		fold_norm(w, b, find(t, GPT2, l, "attn.c_attn.weight"), NULL, true);
		for (uint64_t i = 0; i < b->cols; i++)
			b->x[i] /= w->x[i];
		to_identity(w, NULL);
	}
}

static void gpt2_factors(struct tiny *t)
{
	struct matrix *w = find(t, GPT2, 0, "attn.c_attn.weight"), *b = find(t, GPT2, 0, "attn.c_attn.bias");
	for (uint64_t i = 0; i < 24; i++) { /* queries and keys feature by feature: nothing is turned */
		double f = exp(0.5 * sin((double)i)), g = exp(0.7 * cos((double)i));
		times(w, true, i, f);
		times(b, true, i, f);
		times(w, true, 24 + i, 1 / f);
		times(b, true, 24 + i, 1 / f);
		times(w, true, 48 + i, g);
		times(b, true, 48 + i, g);
		times(find(t, GPT2, 0, "attn.c_proj.weight"), false, i, 1 / g);
	}
}

static void gpt2_much(struct tiny *t)
{
	gpt2_fold_all(t);
	gpt2_all_neurons(t);
	gpt2_heads(t);
}

/* ---- Mixtral: experts behind a router, rotary heads in groups ---- */

#define LLAMA "model.layers.%d.%s"

static void mixtral_neurons(struct tiny *t, bool down)
{
	choose_orders(10, 8);
	for (int e = 1; e < 4; e++) {
		char name[64];
		snprintf(name, sizeof name, "block_sparse_moe.experts.%d.w1.weight", e);
		permute(find(t, LLAMA, 1, name), false, 0, 10, neurons);
		snprintf(name, sizeof name, "block_sparse_moe.experts.%d.w3.weight", e);
		permute(find(t, LLAMA, 1, name), false, 0, 10, neurons);
		snprintf(name, sizeof name, "block_sparse_moe.experts.%d.w2.weight", e);
		if (down || e != 2)
			permute(find(t, LLAMA, 1, name), true, 0, 10, neurons);
	}
}
static void mixtral_all_neurons(struct tiny *t) { mixtral_neurons(t, true); }
static void mixtral_neurons_of_all_but_one(struct tiny *t) { mixtral_neurons(t, false); }

static void mixtral_heads(struct tiny *t)
{
	choose_orders(10, 8);
	permute(find(t, LLAMA, 0, "self_attn.q_proj.weight"), false, 0, 32, heads);
	permute(find(t, LLAMA, 0, "self_attn.k_proj.weight"), false, 0, 16, groups);
	permute(find(t, LLAMA, 0, "self_attn.v_proj.weight"), false, 0, 16, groups);
	permute(find(t, LLAMA, 0, "self_attn.o_proj.weight"), true, 0, 32, heads);
}

static void fold_mixtral(struct tiny *t, bool router)
{
	for (int l = 0; l < 2; l++) {
		struct matrix *w = find(t, LLAMA, l, "input_layernorm.weight");
		static const char *const reads[] = { "self_attn.q_proj.weight", "self_attn.k_proj.weight",
			                             "self_attn.v_proj.weight" };
		for (size_t i = 0; i < 3; i++)
			fold_norm(w, NULL, find(t, LLAMA, l, reads[i]), NULL, false);
		to_identity(w, NULL);
		w = find(t, LLAMA, l, "post_attention_layernorm.weight");
		for (int e = 0; e < 8; e++) {
			char name[64];
			snprintf(name, sizeof name, "block_sparse_moe.experts.%d.w%d.weight", e / 2, e % 2 ? 3 : 1);
			fold_norm(w, NULL, find(t, LLAMA, l, name), NULL, false);
		}
		if (router)
			fold_norm(w, NULL, find(t, LLAMA, l, "block_sparse_moe.gate.weight"), NULL, false);
		to_identity(w, NULL);
	}
}
static void mixtral_fold(struct tiny *t) { fold_mixtral(t, true); }
static void mixtral_fold_without_router(struct tiny *t) { fold_mixtral(t, false); }

static void mixtral_factors(struct tiny *t)
{
	for (int e = 0; e < 4; e++)
		for (uint64_t i = 0; i < 10; i++) {
			char name[64];
			double f = exp(0.6 * sin((double)i + e));
			snprintf(name, sizeof name, "block_sparse_moe.experts.%d.w3.weight", e);
			times(find(t, LLAMA, 0, name), false, i, f);
			snprintf(name, sizeof name, "block_sparse_moe.experts.%d.w2.weight", e);
			times(find(t, LLAMA, 0, name), true, i, 1 / f);
		}
}

/* x less twice its part along v, on rows or on columns. */
static void reflect(struct matrix *m, bool columns, const double *v)
{
	uint64_t lines = columns ? m->cols : m->rows, n = columns ? m->rows : m->cols, step = columns ? m->cols : 1;
	for (uint64_t k = 0; k < lines; k++) {
		double *x = columns ? m->x + k : m->x + k * m->cols, dot = 0;
		for (uint64_t i = 0; i < n; i++)
			dot += x[i * step] * v[i];
		for (uint64_t i = 0; i < n; i++)
			x[i * step] -= 2 * dot * v[i];
	}
}

/* The stream in another basis, by reflections one after the other; norms are folded first. */
static void rotate_mixtral(struct tiny *t, const char *but)
{
	enum { N = 16, REFLECTIONS = 12 };
	struct matrix *norm = find(t, "%.0dmodel.norm.%s", 0, "weight");
	mixtral_fold(t);
	fold_norm(norm, NULL, find(t, "%.0dlm_head.%s", 0, "weight"), NULL, false);
	to_identity(norm, NULL);
	for (int k = 0; k < REFLECTIONS; k++) {
		double v[N], len = 0;
		for (int i = 0; i < N; i++) {
			v[i] = sin(3 * i + 7 * k + 1);
			len += v[i] * v[i];
		}
		for (int i = 0; i < N; i++)
			v[i] /= sqrt(len);
		for (size_t i = 0; i < t->n; i++) {
			struct matrix *m = &t->m[i];
			bool writes = strstr(m->name, "o_proj") || strstr(m->name, ".w2.");
			if (!m->vector && !(but && strstr(m->name, but)))
				reflect(m, writes, v);
		}
	}
}
static void mixtral_rotated(struct tiny *t) { rotate_mixtral(t, NULL); }
static void mixtral_rotated_but_one(struct tiny *t) { rotate_mixtral(t, "layers.1.self_attn.k_proj"); }

static void mixtral_much(struct tiny *t)
{
	mixtral_fold(t);
	mixtral_all_neurons(t);
	mixtral_heads(t);
	mixtral_factors(t);
}

/* ---- Gemma 3: norms that are stored less one, a norm of every head ---- */

static void gemma_fold(struct tiny *t)
{
	static const char *const reads[] = { "self_attn.q_proj.weight", "self_attn.k_proj.weight",
		                             "self_attn.v_proj.weight", "mlp.gate_proj.weight", "mlp.up_proj.weight" };
	for (int l = 0; l < 3; l++)
		for (int part = 0; part < 2; part++) {
			struct matrix *w = find(t, LLAMA, l,
			                        part ? "pre_feedforward_layernorm.weight" : "input_layernorm.weight");
			for (uint64_t i = 0; i < w->cols; i++)
				w->x[i] += 1;
			for (int i = part ? 3 : 0; i < (part ? 5 : 3); i++)
				fold_norm(w, NULL, find(t, LLAMA, l, reads[i]), NULL, false);
			for (uint64_t i = 0; i < w->cols; i++)
				w->x[i] = 0;
		}
}

static void gemma_heads(struct tiny *t)
{
	mixtral_heads(t); /* of as many heads, and as large ones */
	choose_orders(20, 8);
	permute(find(t, LLAMA, 1, "mlp.gate_proj.weight"), false, 0, 20, neurons);
	permute(find(t, LLAMA, 1, "mlp.up_proj.weight"), false, 0, 20, neurons);
	permute(find(t, LLAMA, 1, "mlp.down_proj.weight"), true, 0, 20, neurons);
}

/* Queries and keys are normed behind their matrices: no factor moves from one to the other. */
static void gemma_scores_scaled(struct tiny *t)
{
	for (uint64_t i = 0; i < 8; i++) {
		double f = i % 4 == 1 ? 2 : 1;
		times(find(t, LLAMA, 0, "self_attn.k_proj.weight"), false, i, f);
		for (uint64_t h = 0; h < 2; h++)
			times(find(t, LLAMA, 0, "self_attn.q_proj.weight"), false, h * 8 + i, 1 / f);
	}
}

/* ---- Phi: one norm in front of attention and neurons, a head with a bias, half of each head turned ---- */

static void phi_fold(struct tiny *t)
{
	static const char *const reads[] = { "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "mlp.fc1" };
	struct matrix *w, *b;
	for (int l = 0; l < 2; l++) {
		w = find(t, LLAMA, l, "input_layernorm.weight");
		b = find(t, LLAMA, l, "input_layernorm.bias");
		for (size_t i = 0; i < 4; i++) {
			char name[64];
			snprintf(name, sizeof name, "%s.weight", reads[i]);
			struct matrix *into = find(t, LLAMA, l, name);
			snprintf(name, sizeof name, "%s.bias", reads[i]);
			fold_norm(w, b, into, find(t, LLAMA, l, name), false);
		}
		to_identity(w, b);
	}
	w = find(t, "%.0dmodel.final_layernorm.%s", 0, "weight");
	b = find(t, "%.0dmodel.final_layernorm.%s", 0, "bias");
	fold_norm(w, b, find(t, "%.0dlm_head.%s", 0, "weight"), find(t, "%.0dlm_head.%s", 0, "bias"), false);
	to_identity(w, b);
}

/* The norm's other readers are left behind. */
static void phi_fold_attention(struct tiny *t)
{
	struct matrix *w = find(t, LLAMA, 1, "input_layernorm.weight");
	for (int i = 0; i < 3; i++) {
		char name[64];
		snprintf(name, sizeof name, "self_attn.%c_proj.weight", "qkv"[i]);
		fold_norm(w, NULL, find(t, LLAMA, 1, name), NULL, false);
	}
	to_identity(w, NULL);
}

/* Eight features of a head, of which some are turned in pairs of halves: these have a factor together. */
static void scale_phi(struct tiny *t, uint64_t turned)
{
	for (uint64_t i = 0; i < 16; i++) {
		uint64_t j = i % 8, of = j < turned ? j % (turned / 2) : j;
		double f = exp(0.5 * sin((double)(5 * (i / 8) + of)));
		times(find(t, LLAMA, 0, "self_attn.k_proj.weight"), false, i, f);
		times(find(t, LLAMA, 0, "self_attn.k_proj.bias"), false, i, f);
		for (uint64_t h = 0; h < 2; h++) {
			uint64_t q = (i / 8 * 2 + h) * 8 + j;
			times(find(t, LLAMA, 0, "self_attn.q_proj.weight"), false, q, 1 / f);
			times(find(t, LLAMA, 0, "self_attn.q_proj.bias"), false, q, 1 / f);
		}
	}
}
static void phi_factors(struct tiny *t) { scale_phi(t, 4); }
static void phi_factors_of_whole_heads(struct tiny *t) { scale_phi(t, 8); }
static void phi_factors_in_pairs(struct tiny *t) { scale_phi(t, 2); }

/* ---- others ---- */

static void moe_neurons(struct tiny *t)
{
	for (size_t i = 0; i < t->n; i++) {
		char name[120], *at = strstr(t->m[i].name, "gate_proj");
		if (!at)
			continue;
		choose_orders(t->m[i].rows, 6);
		permute(&t->m[i], false, 0, t->m[i].rows, neurons);
		snprintf(name, sizeof name, "%.*sup_proj.weight", (int)(at - t->m[i].name), t->m[i].name);
		permute(find(t, "%.0d%s", 0, name), false, 0, t->m[i].rows, neurons);
		snprintf(name, sizeof name, "%.*sdown_proj.weight", (int)(at - t->m[i].name), t->m[i].name);
		permute(find(t, "%.0d%s", 0, name), true, 0, t->m[i].rows, neurons);
	}
}

static void relu_factors(struct tiny *t, double sign)
{
	for (uint64_t i = 0; i < 20; i++) {
		double f = i == 7 ? sign * 1.5 : exp(0.5 * sin((double)i));
		times(find(t, "model.decoder.layers.%d.%s", 1, "fc1.weight"), false, i, f);
		times(find(t, "model.decoder.layers.%d.%s", 1, "fc1.bias"), false, i, f);
		times(find(t, "model.decoder.layers.%d.%s", 1, "fc2.weight"), true, i, 1 / f);
	}
}
static void opt_factors(struct tiny *t) { relu_factors(t, 1); }
static void opt_factor_below_zero(struct tiny *t) { relu_factors(t, -1); }

/* The family's model as "base", and changed as "other". */
static void save_both(const char *family, void (*change)(struct tiny *t))
{
	struct tiny base, other;
	load(&base, family);
	load(&other, family);
	change(&other);
	save(&base, family, "base");
	save(&other, family, "other");
	release(&base);
	release(&other);
}

/* order 0: the changed one is A. The caller frees the report. */
static struct st_rosetta *judge_both(int order)
{
	static const uint32_t ids[] = { 1, 5, 9, 2, 7, 3 };
	const struct st_rosetta_options o = { .tokens = ids, .n_tokens = 6, .threshold = NAN };
	struct st_error err = ST_ERROR_INIT;
	struct st_rosetta *r;
	assert_ok(st_rosetta_run(in_folder(order ? "base" : "other"), in_folder(order ? "other" : "base"), &o, &r, &err),
	          &err);
	return r;
}

static void neighbours_are_seen(void **state)
{
	(void)state;
	static const struct {
		const char *family;
		void (*change)(struct tiny *t);
		const char *says; /* NULL: it is another function */
	} cases[] = {
		{ "gpt2", gpt2_all_neurons, "neurons in another order" },
		{ "gpt2", gpt2_neurons_without_bias, NULL },
		{ "gpt2", gpt2_heads, "heads in another order" },
		{ "gpt2", gpt2_fold_all, "norms folded" },
		{ "gpt2", gpt2_fold_weights, "norms folded" },
		{ "gpt2", gpt2_fold_without_bias, NULL },
		{ "gpt2", gpt2_factors, "factors moved" },
		{ "gpt2", gpt2_much, "norms folded" },
		{ "mixtral", mixtral_all_neurons, "neurons in another order" },
		{ "mixtral", mixtral_neurons_of_all_but_one, NULL },
		{ "mixtral", mixtral_heads, "heads in another order" },
		{ "mixtral", mixtral_fold, "norms folded" },
		{ "mixtral", mixtral_fold_without_router, NULL },
		{ "mixtral", mixtral_factors, "factors moved" },
		{ "mixtral", mixtral_rotated, "the stream in another basis" },
		{ "mixtral", mixtral_rotated_but_one, NULL },
		{ "mixtral", mixtral_much, "norms folded" },
		{ "gemma3_text", gemma_fold, "norms folded" },
		{ "gemma3_text", gemma_heads, "heads in another order" },
		{ "gemma3_text", gemma_scores_scaled, NULL },
		{ "phi", phi_fold, "norms folded" },
		{ "phi", phi_fold_attention, NULL },
		{ "phi", phi_factors, "factors moved" },
		{ "phi", phi_factors_of_whole_heads, NULL },
		{ "phi", phi_factors_in_pairs, NULL },
		{ "qwen2_moe", moe_neurons, "neurons in another order" },
		{ "opt", opt_factors, "factors moved" },
		{ "opt", opt_factor_below_zero, NULL },
	};
	for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
		save_both(cases[i].family, cases[i].change);
		for (int order = 0; order < 2; order++) {
			struct st_rosetta *r = judge_both(order);
			bool same = r->cause.code == ST_CAUSE_WEIGHT_SAME_FUNCTION && r->verdict == ST_VERDICT_NOISE;
			if (same != (cases[i].says != NULL) || (same && !strstr(r->text, cases[i].says))
			    || (!same && r->verdict != ST_VERDICT_FAULT))
				fail_msg("case %zu (%s), order %d: %s (%s)", i, cases[i].family, order,
				         st_verdict_name(r->verdict), r->text);
			st_rosetta_free(r);
		}
	}
}

/* ---- shapes of differences ---- */

static double wave(uint64_t i, double by) { return sin(by * (double)i + 0.3 * (double)(i * i % 97)); }

/* Rank 1 into queries and values of all layers, or of all but one. */
static void adapt_gpt2(struct tiny *t, int but)
{
	for (int l = 0; l < 2; l++) {
		struct matrix *m = find(t, GPT2, l, "attn.c_attn.weight");
		for (uint64_t i = 0; i < m->rows && l != but; i++)
			for (uint64_t o = 0; o < m->cols; o++)
				if (o / 24 != 1)
					m->x[i * m->cols + o] += 0.1 * wave(i, 1.7 + l) * wave(o, 0.9 + l);
	}
}
static void gpt2_adapters(struct tiny *t) { adapt_gpt2(t, -1); }
static void gpt2_adapters_but_one(struct tiny *t) { adapt_gpt2(t, 1); }

/* What writes to the stream no longer does so in one direction. */
static void gpt2_abliterated(struct tiny *t)
{
	for (int l = 0; l < 4; l++) {
		struct matrix *m = find(t, GPT2, l / 2, l % 2 ? "attn.c_proj.weight" : "mlp.c_proj.weight");
		double len = 0;
		for (uint64_t o = 0; o < 24; o++)
			len += wave(o, 2.1) * wave(o, 2.1);
		for (uint64_t i = 0; i < m->rows; i++) {
			double dot = 0;
			for (uint64_t o = 0; o < 24; o++)
				dot += m->x[i * 24 + o] * wave(o, 2.1) / len;
			for (uint64_t o = 0; o < 24; o++)
				m->x[i * 24 + o] -= dot * wave(o, 2.1);
		}
	}
}

static void spread(struct tiny *t, const char *in)
{
	for (size_t k = 0; k < t->n; k++)
		for (uint64_t i = 0; !t->m[k].vector && strstr(t->m[k].name, in) && i < t->m[k].rows * t->m[k].cols;
		     i++)
			t->m[k].x[i] *= 1 + 0.02 * wave(i + 131 * k, 1.3);
}
static void mixtral_finetuned(struct tiny *t) { spread(t, ""); }
static void mixtral_gates_trained(struct tiny *t) { spread(t, ".w1."); }
static void gpt2_finetuned(struct tiny *t) { spread(t, ""); }

static void mixtral_pruned(struct tiny *t)
{
	for (size_t k = 0; k < t->n; k++)
		for (uint64_t i = 0; !t->m[k].vector && i < t->m[k].rows * t->m[k].cols; i++)
			t->m[k].x[i] = i * 7 % 3 ? t->m[k].x[i] : 0;
}

static void one_expert_scaled(struct tiny *t)
{
	struct matrix *m = find(t, LLAMA, 1, "block_sparse_moe.experts.2.w1.weight");
	for (uint64_t i = 0; i < m->rows; i++)
		times(m, false, i, 1.003);
}

static void shapes_are_told(void **state)
{
	(void)state;
	static const struct {
		const char *family;
		void (*change)(struct tiny *t);
		const char *code, *says;
	} cases[] = {
		{ "gpt2", gpt2_adapters, "weight.low_rank", "(c_attn:q, c_attn:v)" },
		{ "gpt2", gpt2_adapters_but_one, "weight.low_rank", "c_attn:q of layer 0 alone" },
		{ "gpt2", gpt2_abliterated, "weight.low_rank", "one direction of the stream" },
		{ "gpt2", gpt2_finetuned, "weight.two_models", "14 of 14 matrices" },
		{ "mixtral", mixtral_finetuned, "weight.two_models", "36 of 36 matrices" },
		{ "mixtral", mixtral_pruned, "weight.two_models", "pruned" },
		{ "mixtral", mixtral_gates_trained, "unexplained", "8 of 36 matrices (w1)" },
		{ "mixtral", one_expert_scaled, "weight.scaled", "experts.2.w1" },
	};
	for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
		save_both(cases[i].family, cases[i].change);
		for (int order = 0; order < 2; order++) {
			struct st_rosetta *r = judge_both(order);
			if (r->verdict != ST_VERDICT_FAULT || strcmp(st_cause_name(r->cause.code), cases[i].code) != 0
			    || !strstr(r->text, cases[i].says) || r->first.side)
				fail_msg("case %zu (%s), order %d: %s", i, cases[i].family, order, r->text);
			st_rosetta_free(r);
		}
	}
}

/* Of eight matrices of the experts one came through BF16. */
static void an_expert_stands_out(void **state)
{
	(void)state;
	for (int rounded = 0; rounded < 2; rounded++) {
		struct tiny t;
		struct st_error err = ST_ERROR_INIT;
		struct st_inspection *in;
		size_t said = 0;
		load(&t, "mixtral");
		struct matrix *m = find(&t, LLAMA, 1, "block_sparse_moe.experts.3.w2.weight");
		for (uint64_t i = 0; i < m->rows * m->cols && rounded; i++)
			m->x[i] = (double)st_bf16_to_f32(st_f32_to_bf16((float)m->x[i]));
		save(&t, "mixtral", "m");
		assert_ok(st_inspect_open(in_folder("m"), &(struct st_inspect_options){ .threads = 1 }, &in, &err),
		          &err);
		for (size_t i = 0; i < st_inspection_n_anomalies(in); i++) {
			const struct st_anomaly *a = st_inspection_anomaly(in, i);
			if (strcmp(a->kind, "unlike") != 0)
				continue;
			assert_string_equal(a->tensor, m->name);
			assert_non_null(strstr(a->text, "those of its like in 7 other experts fill F32"));
			said++;
		}
		assert_int_equal(said, (size_t)rounded);
		st_inspection_close(in);
		release(&t);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(neighbours_are_seen, make_folder, remove_folder),
		cmocka_unit_test_setup_teardown(shapes_are_told, make_folder, remove_folder),
		cmocka_unit_test_setup_teardown(an_expert_stands_out, make_folder, remove_folder),
	};
	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
