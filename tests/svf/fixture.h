/*
 * fixture.h - a small tied qwen3 base model (hidden 64, vocabulary 512, three layers), a short vector and its manifest,
 * in a folder of their own; and a second implementation of the ten stages, in plain loops, that can make every known
 * mistake. Nothing here calls the room under test.
 */
#ifndef ST_TESTS_SVF_FIXTURE_H
#define ST_TESTS_SVF_FIXTURE_H

#include "test.h"

#include "../graph/naive.h"

#include "dtype/half.h"
#include "format/writer.h"

#include <stele/svf.h>

#include <ftw.h>
#include <jansson.h>
#include <sys/stat.h>

#define FX_TENSORS 9
#define FX_HIDDEN 64
#define FX_SCALES (FX_TENSORS * 64)
#define FX_HEAD (10 * FX_HIDDEN)
#define FX_VECTOR (FX_SCALES + FX_HEAD)

struct fx_tensor {
	const char *source, *target;
	uint64_t rows, cols;
	const float *w;
};

struct fx {
	char dir[64];
	struct naive m;
	struct fx_tensor t[FX_TENSORS];
	float vector[FX_VECTOR];
	char model[96], reference[96], npy[96], st[96];
};

static inline char *fx_path(const struct fx *x, const char *name)
{
	static char buf[16][256];
	static unsigned turn;
	char *p = buf[turn++ % 16];
	snprintf(p, sizeof buf[0], "%s/%s", x->dir, name);
	return p;
}

static inline void fx_json(const char *path, json_t *j)
{
	assert_non_null(j);
	assert_int_equal(json_dump_file(j, path, JSON_INDENT(1)), 0);
	json_decref(j);
}

struct fx_out {
	const char *name;
	enum st_dtype dtype;
	uint32_t ndim;
	uint64_t shape[2];
	const void *data;
};

/* A list of tensors to a file. */
static inline void fx_file(const char *path, enum st_format format, const struct fx_out *o, size_t n)
{
	struct st_error err = ST_ERROR_INIT;
	struct st_tensor_spec *specs = calloc(n, sizeof *specs);
	struct st_writer *w;
	const char *ignored;
	for (size_t i = 0; i < n; i++)
		specs[i] = (struct st_tensor_spec){
			o[i].name, o[i].dtype, o[i].ndim, { o[i].shape[0], o[i].shape[1] }
		};
	const struct st_write_plan plan = { .format = format, .specs = specs, .n_specs = n, .pad_header = true };
	assert_ok(st_writer_open(path, &plan, &w, &err), &err);
	for (size_t i = 0; i < n; i++) {
		uint64_t elems = o[i].shape[0] * (o[i].ndim > 1 ? o[i].shape[1] : 1);
		const struct st_dtype_info *d = st_dtype_info(o[i].dtype);
		assert_ok(st_writer_append(w, o[i].data, elems / d->block_elems * d->block_bytes, &err), &err);
	}
	assert_ok(st_writer_finish(w, &ignored, &err), &err);
	assert_ok(st_writer_commit(w, &err), &err);
	free(specs);
}

static inline void fx_tensors(const char *path, const struct fx_out *o, size_t n)
{
	fx_file(path, ST_FORMAT_SAFETENSORS, o, n);
}

/* ---- the base model ---- */

static inline void fx_round(float *x, size_t n)
{
	for (size_t i = 0; i < n; i++)
		x[i] = st_bf16_to_f32(st_f32_to_bf16(x[i]));
}

static inline uint16_t *fx_bf16(const float *x, size_t n)
{
	uint16_t *h = malloc(n * sizeof *h);
	for (size_t i = 0; i < n; i++)
		h[i] = st_f32_to_bf16(x[i]);
	return h;
}

struct fx_weights {
	struct fx_out o[64];
	char names[64][96];
	size_t n;
};

static inline void fx_weight(struct fx_weights *l, const char *name, float *x, uint64_t rows, uint64_t cols)
{
	size_t i = l->n++;
	snprintf(l->names[i], sizeof l->names[i], "%s", name);
	fx_round(x, rows * (cols ? cols : 1));
	l->o[i] = (struct fx_out){
		l->names[i], ST_DTYPE_BF16, cols ? 2 : 1, { rows, cols }, fx_bf16(x, rows * (cols ? cols : 1))
	};
}

static inline void fx_model(struct fx *x)
{
	struct naive *m = &x->m;
	static struct fx_weights l;
	char name[96];
	*m = (struct naive){ .D = FX_HIDDEN,
		             .H = 8,
		             .G = 4,
		             .d = 16,
		             .F = 192,
		             .V = 512,
		             .eps = 1e-6,
		             .theta = 1e6,
		             .factor = 1,
		             .qk_norm = true,
		             .tied = true };
	naive_init(m, 11);
	for (size_t i = 0; i < m->V * m->D; i++)
		m->embed[i] *= 0.1f;
	memset(&l, 0, sizeof l);
	fx_weight(&l, "model.embed_tokens.weight", m->embed, m->V, m->D);
	for (int i = 0; i < NAIVE_LAYERS; i++) {
		struct naive_layer *w = &m->layer[i];
		const struct {
			const char *n;
			float *x;
			uint64_t r, c;
		} p[] = {
			{ "input_layernorm", w->attn_norm, m->D, 0 },
			{ "self_attn.q_proj", w->q, m->H * m->d, m->D },
			{ "self_attn.k_proj", w->k, m->G * m->d, m->D },
			{ "self_attn.v_proj", w->v, m->G * m->d, m->D },
			{ "self_attn.o_proj", w->o, m->D, m->H * m->d },
			{ "self_attn.q_norm", w->q_norm, m->d, 0 },
			{ "self_attn.k_norm", w->k_norm, m->d, 0 },
			{ "post_attention_layernorm", w->ffn_norm, m->D, 0 },
			{ "mlp.gate_proj", w->gate, m->F, m->D },
			{ "mlp.up_proj", w->up, m->F, m->D },
			{ "mlp.down_proj", w->down, m->D, m->F },
		};
		for (size_t k = 0; k < sizeof p / sizeof *p; k++) {
			snprintf(name, sizeof name, "model.layers.%d.%s.weight", i, p[k].n);
			fx_weight(&l, name, p[k].x, p[k].r, p[k].c);
		}
	}
	fx_weight(&l, "model.norm.weight", m->final_norm, m->D, 0);
	snprintf(x->model, sizeof x->model, "%s", fx_path(x, "model"));
	assert_int_equal(mkdir(x->model, 0777), 0);
	fx_tensors(fx_path(x, "model/model.safetensors"), l.o, l.n);
	for (size_t i = 0; i < l.n; i++)
		free((void *)(uintptr_t)l.o[i].data);
	fx_json(fx_path(x, "model/config.json"),
	        json_pack("{s:s, s:[s], s:i, s:i, s:i, s:i, s:i, s:i, s:i, s:i, s:f, s:f, s:b, s:s}", "model_type",
	                  "qwen3", "architectures", "Qwen3ForCausalLM", "hidden_size", 64, "num_hidden_layers",
	                  NAIVE_LAYERS, "num_attention_heads", 8, "num_key_value_heads", 4, "head_dim", 16,
	                  "intermediate_size", 192, "vocab_size", 512, "max_position_embeddings", 128, "rms_norm_eps",
	                  1e-6, "rope_theta", 1e6, "tie_word_embeddings", 1, "torch_dtype", "bfloat16"));
}

/* ---- vector and manifest ---- */

static inline json_t *fx_manifest(const struct fx *x, size_t sample, const char *sha)
{
	json_t *list = json_array();
	for (size_t i = 0; i < FX_TENSORS; i++)
		json_array_append_new(list,
		                      json_pack("{s:s, s:s, s:[I,I], s:i, s:I, s:I}", "source_name", x->t[i].source,
		                                "elixir_name", x->t[i].target, "shape", (json_int_t)x->t[i].rows,
		                                (json_int_t)x->t[i].cols, "singular_values", 64, "offset_start",
		                                (json_int_t)(64 * i), "offset_end", (json_int_t)(64 * i + 64)));
	const struct fx_tensor *t = &x->t[sample];
	bool turned = strncmp(t->source, "model.layers.", 13) == 0;
	json_t *s = json_pack("{s:s, s:s, s:I, s:I, s:[I,I], s:[I,I], s:s}", "source_name", t->source, "elixir_name",
	                      t->target, "offset_start", (json_int_t)(64 * sample), "offset_end",
	                      (json_int_t)(64 * sample + 64), "source_shape", (json_int_t)t->rows, (json_int_t)t->cols,
	                      "sample_reconstructed_shape", (json_int_t)(turned ? t->cols : t->rows),
	                      (json_int_t)(turned ? t->rows : t->cols), "sample_reconstructed_bf16_sha256",
	                      "0000000000000000000000000000000000000000000000000000000000000000");
	return json_pack("{s:s, s:i, s:i, s:o, s:o}", "source_vector_sha256", sha, "selected_tensor_count", FX_TENSORS,
	                 "selected_singular_value_count", FX_SCALES, "selected_tensors", list, "sample_adapted_tensor",
	                 s);
}

static inline void fx_sha(const char *path, char hex[65])
{
	char cmd[400];
	snprintf(cmd, sizeof cmd, "sha256sum '%s'", path);
	FILE *f = popen(cmd, "r");
	assert_non_null(f);
	assert_int_equal(fscanf(f, "%64s", hex), 1);
	pclose(f);
}

static inline void fx_npy(const char *path, const double *v, size_t n)
{
	char head[128];
	memset(head, ' ', sizeof head);
	memcpy(head, "\x93NUMPY\1\0\x76\0", 10);
	int k = snprintf(head + 10, 100, "{'descr': '<f8', 'fortran_order': False, 'shape': (%zu,), }", n);
	head[10 + k] = ' ';
	head[127] = '\n';
	FILE *f = fopen(path, "wb");
	fwrite(head, 1, sizeof head, f);
	fwrite(v, sizeof *v, n, f);
	fclose(f);
}

/* In [-1, 1). */
static inline double fx_uniform(struct st_xoshiro *g) { return (double)(st_xoshiro_next(g) >> 11) * 0x1p-52 - 1; }

static inline void fx_open(struct fx *x)
{
	struct st_xoshiro g;
	char sha[65];
	double wide[FX_VECTOR];
	memset(x, 0, sizeof *x);
	/* In memory where that can be: every file that is written here is flushed to its disk. */
	snprintf(x->dir, sizeof x->dir, "%s/stele-svf-XXXXXX", access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp");
	assert_non_null(mkdtemp(x->dir));
	fx_model(x);
	const struct naive_layer *w = &x->m.layer[1];
	const struct fx_tensor t[FX_TENSORS] = {
		{ "model.embed_tokens.weight", "embedder.token_embedding.kernel", 512, 64, x->m.embed },
		{ "model.layers.1.self_attn.q_proj.weight", "decoder.blocks.1.self_attention.query.kernel", 128, 64,
		  w->q },
		{ "model.layers.1.self_attn.k_proj.weight", "decoder.blocks.1.self_attention.key.kernel", 64, 64,
		  w->k },
		{ "model.layers.1.self_attn.v_proj.weight", "decoder.blocks.1.self_attention.value.kernel", 64, 64,
		  w->v },
		{ "model.layers.1.self_attn.o_proj.weight", "decoder.blocks.1.self_attention.output.kernel", 64, 128,
		  w->o },
		{ "model.layers.1.mlp.gate_proj.weight", "decoder.blocks.1.ffn.gate.kernel", 192, 64, w->gate },
		{ "model.layers.1.mlp.up_proj.weight", "decoder.blocks.1.ffn.intermediate.kernel", 192, 64, w->up },
		{ "model.layers.1.mlp.down_proj.weight", "decoder.blocks.1.ffn.output.kernel", 64, 192, w->down },
		{ "lm_head.weight", "language_modeling_head.output.kernel", 512, 64, x->m.embed },
	};
	memcpy(x->t, t, sizeof t);
	st_xoshiro_seed(&g, 5);
	for (size_t i = 0; i < FX_VECTOR; i++) {
		x->vector[i] = (float)(0.03 + 0.2 * fx_uniform(&g));
		wide[i] = (double)x->vector[i] * (1 + 1e-12); /* rounds to the same f32 */
	}
	snprintf(x->npy, sizeof x->npy, "%s", fx_path(x, "vector.npy"));
	snprintf(x->st, sizeof x->st, "%s", fx_path(x, "vector.safetensors"));
	snprintf(x->reference, sizeof x->reference, "%s", fx_path(x, "reference.json"));
	fx_npy(x->npy, wide, FX_VECTOR);
	fx_tensors(x->st, &(struct fx_out){ "trinity_router_es_vector", ST_DTYPE_F32, 1, { FX_VECTOR }, x->vector }, 1);
	fx_sha(x->st, sha);
	fx_json(x->reference, fx_manifest(x, 5, sha));
}

static inline int fx_remove(const char *p, const struct stat *s, int k, struct FTW *f)
{
	(void)s, (void)k, (void)f;
	return remove(p);
}

static inline void fx_close(struct fx *x)
{
	naive_free(&x->m);
	nftw(x->dir, fx_remove, 16, FTW_DEPTH | FTW_PHYS);
}

/* ---- the oracle: ten stages in plain loops ---- */

enum fx_fault {
	FX_NONE,
	FX_V_LAYOUT,
	FX_ALPHABETICAL,
	FX_OFFSETS_BF16,
	FX_SCALAR_IN_U,
	FX_SCALAR_IN_PRODUCT,
	FX_TRUNCATE,
	FX_NOT_TRANSPOSED,
	FX_SWAPPED,
	FX_COMPOSE,
	FX_LAST_WINS,
	FX_TF32,
	FX_LIES
};

struct fx_stages {
	uint64_t rows, cols, k;
	float *source, *offsets, *scaled, norm, *u_scaled, *matmul, *zero, *adapted, *final_f32;
	uint16_t *final_bf16;
};

static inline float fx_tf32(float x)
{
	uint32_t u = st_f32_bits(x);
	return st_bits_f32((u + 0xFFFu + (u >> 13 & 1u)) & 0xFFFFE000u);
}

/* u: [rows, k], v: [cols, k]. turned: final_* is the transpose. */
static inline void fx_compute(struct fx_stages *g, const float *w, const float *offsets, const float *u, const float *s,
                              const float *v, uint64_t rows, uint64_t cols, bool turned, enum fx_fault fault)
{
	uint64_t k = rows < cols ? rows : cols, n = rows * cols;
	double sum = 0, scaled = 0;
	*g = (struct fx_stages){ .rows = rows,
		                 .cols = cols,
		                 .k = k,
		                 .source = malloc(4 * n),
		                 .offsets = malloc(4 * k),
		                 .scaled = malloc(4 * k),
		                 .u_scaled = malloc(4 * rows * k),
		                 .matmul = malloc(4 * n),
		                 .zero = malloc(4 * n),
		                 .adapted = malloc(4 * n),
		                 .final_f32 = malloc(4 * n),
		                 .final_bf16 = malloc(2 * n) };
	memcpy(g->source, w, 4 * n);
	for (uint64_t i = 0; i < k; i++) {
		g->offsets[i] = fault == FX_OFFSETS_BF16 ? st_bf16_to_f32(st_f32_to_bf16(offsets[i])) : offsets[i];
		g->scaled[i] = s[i] * (1.0f + g->offsets[i]);
		sum += s[i];
		scaled += g->scaled[i];
	}
	g->norm = (float)(sum / scaled);
	for (uint64_t r = 0; r < rows; r++) {
		for (uint64_t i = 0; i < k; i++)
			g->u_scaled[r * k + i] = u[r * k + i] * g->scaled[i]
			                       * (fault == FX_SCALAR_IN_U ? g->norm : 1.0f);
		for (uint64_t c = 0; c < cols; c++) {
			double m = 0, z = 0;
			for (uint64_t i = 0; i < k; i++) {
				float vi = fault == FX_V_LAYOUT ? v[i * cols + c] : v[c * k + i],
				      us = g->u_scaled[r * k + i], zs = u[r * k + i] * s[i];
				if (fault == FX_TF32) {
					vi = fx_tf32(vi);
					us = fx_tf32(us);
					zs = fx_tf32(zs);
				}
				m += (double)us * vi;
				z += (double)zs * vi;
			}
			bool early = fault == FX_SCALAR_IN_U || fault == FX_SCALAR_IN_PRODUCT;
			g->matmul[r * cols + c] = (float)(fault == FX_SCALAR_IN_PRODUCT ? m * g->norm : m);
			g->zero[r * cols + c] = (float)z;
			g->adapted[r * cols + c] = g->matmul[r * cols + c] * (early ? 1.0f : g->norm);
		}
	}
	turned = turned && fault != FX_NOT_TRANSPOSED;
	for (uint64_t r = 0; r < rows; r++)
		for (uint64_t c = 0; c < cols; c++)
			g->final_f32[turned ? c * rows + r : r * cols + c] = g->adapted[r * cols + c];
	for (uint64_t i = 0; i < n; i++)
		g->final_bf16[i] = fault == FX_TRUNCATE ? (uint16_t)(st_f32_bits(g->final_f32[i]) >> 16)
		                                        : st_f32_to_bf16(g->final_f32[i]);
}

static inline void fx_free(struct fx_stages *g)
{
	void *all[] = { g->source, g->offsets, g->scaled,    g->u_scaled,  g->matmul,
		        g->zero,   g->adapted, g->final_f32, g->final_bf16 };
	for (size_t i = 0; i < sizeof all / sizeof *all; i++)
		free(all[i]);
}

static inline void fx_stage_file(const char *path, const struct fx_stages *g, bool turned)
{
	uint64_t fr = turned ? g->cols : g->rows, fc = turned ? g->rows : g->cols;
	const struct fx_out o[] = {
		{ "stage.source_f32", ST_DTYPE_F32, 2, { g->rows, g->cols }, g->source },
		{ "stage.offsets_f32", ST_DTYPE_F32, 1, { g->k }, g->offsets },
		{ "stage.scaled_s", ST_DTYPE_F32, 1, { g->k }, g->scaled },
		{ "stage.normalization", ST_DTYPE_F32, 1, { 1 }, &g->norm },
		{ "stage.u_scaled", ST_DTYPE_F32, 2, { g->rows, g->k }, g->u_scaled },
		{ "stage.matmul_pre_norm", ST_DTYPE_F32, 2, { g->rows, g->cols }, g->matmul },
		{ "stage.zero_source_f32", ST_DTYPE_F32, 2, { g->rows, g->cols }, g->zero },
		{ "stage.adapted_source_f32", ST_DTYPE_F32, 2, { g->rows, g->cols }, g->adapted },
		{ "stage.final_f32", ST_DTYPE_F32, 2, { fr, fc }, g->final_f32 },
		{ "stage.final_bf16", ST_DTYPE_BF16, 2, { fr, fc }, g->final_bf16 },
	};
	fx_tensors(path, o, 10);
}

static inline float *fx_values(const struct st_container *c, const char *fmt, const char *name)
{
	char key[200];
	snprintf(key, sizeof key, fmt, name);
	const struct st_tensor *t = st_container_find(c, key);
	assert_non_null(t);
	float *x = malloc(4 * t->n_elems);
	st_tensor_decode(t, 0, st_tensor_rows(t), x);
	return x;
}

static inline int fx_by_name(const void *a, const void *b)
{
	return strcmp(**(const char *const *const *)a, **(const char *const *const *)b);
}

/* Where the offsets of tensor i begin. */
static inline size_t fx_span(const struct fx *x, size_t i, enum fx_fault fault)
{
	if (fault == FX_SWAPPED && (i == 0 || i == 8))
		return 64 * (8 - i);
	if (fault != FX_ALPHABETICAL)
		return 64 * i;
	const char *const *order[FX_TENSORS];
	for (size_t k = 0; k < FX_TENSORS; k++)
		order[k] = &x->t[k].source;
	qsort(order, FX_TENSORS, sizeof *order, fx_by_name);
	for (size_t k = 0; k < FX_TENSORS; k++)
		if (*order[k] == x->t[i].source)
			return 64 * k;
	return 0;
}

/* A replaying side's report and stage files in `dir`, from the components in `components`: every selected tensor, and
 * the sample (index `sample`) in the target's orientation. The fault is made in tensor `only` (SIZE_MAX: in all). */
static inline void fx_replay(const struct fx *x, const char *dir, const char *components, const char *report,
                             size_t sample, enum fx_fault fault, size_t only)
{
	struct st_error err = ST_ERROR_INIT;
	struct st_container *c;
	char path[300];
	struct fx_stages all[FX_TENSORS];
	json_t *variants = json_array();
	snprintf(path, sizeof path, "%s/trinity_svf_components.safetensors", components);
	assert_ok(st_container_open(path, &c, &err), &err);
	mkdir(dir, 0777);
	for (size_t n = 0; n <= FX_TENSORS; n++) {
		size_t i = n == FX_TENSORS ? sample : n;
		const struct fx_tensor *t = &x->t[i];
		bool target = n == FX_TENSORS, turned = target && strncmp(t->source, "model.layers.", 13) == 0;
		enum fx_fault f = only == SIZE_MAX || only == i ? fault : FX_NONE;
		float *u = fx_values(c, "svd.U.%s", t->source), *s = fx_values(c, "svd.S.%s", t->source),
		      *v = fx_values(c, "svd.V.%s", t->source);
		struct fx_stages g;
		fx_compute(&g, t->w, x->vector + fx_span(x, i, f), u, s, v, t->rows, t->cols, turned, f);
		if (fault == FX_COMPOSE && i == 8)
			memcpy(g.source, all[0].adapted, 4 * g.rows * g.cols);
		snprintf(path, sizeof path, "%s/stage_%zu%s.safetensors", dir, i, target ? "_target" : "");
		if (!target)
			all[i] = g;
		if (!(fault == FX_LAST_WINS && i == 0))
			fx_stage_file(path, &g, turned && f != FX_NOT_TRANSPOSED);
		if (target)
			fx_free(&g);
		json_t *debug = json_pack("{s:s, s:s, s:s}", "schema", "trinity_sakana_elixir_stage_debug.v1",
		                          "stage_tensor_file", path, "stage_final_orientation",
		                          target ? "target" : "source");
		if (fault == FX_LIES) {
			static const char *const names[] = { "source_f32",      "offsets_f32",        "scaled_s",
				                             "normalization",   "u_scaled",           "matmul_pre_norm",
				                             "zero_source_f32", "adapted_source_f32", "final_f32",
				                             "final_bf16" };
			json_t *checks = json_array();
			for (size_t k = 0; k < 10; k++) {
				char stage[64];
				snprintf(stage, sizeof stage, "stage.%s", names[k]);
				json_array_append_new(
					checks, json_pack("{s:s, s:b, s:b, s:b, s:{s:f, s:f}, s:b}", "stage", stage,
				                          "required_for_functional_parity", 1, "byte_match", 1,
				                          "shape_match", 1, "tolerance", "max_abs_error", 1e-3,
				                          "mean_abs_error", 1e-5, "functional_passed", 1));
			}
			json_object_set_new(debug, "checks", checks);
			json_object_set_new(debug, "functional_parity_passed", json_true());
		}
		json_array_append_new(variants, json_pack("{s:s, s:s, s:s, s:o}", "label",
		                                          target ? "semantic" : "semantic_tensor_", "source_name",
		                                          t->source, "safe_key", t->source, "stage_debug", debug));
		free(u);
		free(s);
		free(v);
	}
	if (fault == FX_LAST_WINS) {
		memcpy(all[0].final_f32, all[8].adapted, 4 * 512 * 64);
		for (size_t k = 0; k < 512 * 64; k++)
			all[0].final_bf16[k] = st_f32_to_bf16(all[0].final_f32[k]);
		snprintf(path, sizeof path, "%s/stage_0.safetensors", dir);
		fx_stage_file(path, &all[0], false);
	}
	for (size_t i = 0; i < FX_TENSORS; i++)
		fx_free(&all[i]);
	st_container_close(c);
	fx_json(report, json_pack("{s:s, s:o, s:{s:s, s:s}, s:{s:b}}", "schema", "trinity_sakana_svd_parity_trace.v2",
	                          "semantic_python_component_variants", variants, "paths", "components_dir", components,
	                          "router_vector", x->st, "selection", "all_selected_tensors", 1));
}

#endif
