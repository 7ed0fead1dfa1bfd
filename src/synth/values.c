/*
 * values.c - what a trained model's numbers look like, made up.
 *
 * Seen in published models and kept here: matrices near normal with heavier tails and rows of different size;
 * norm weights around one value; biases of K that reach +-90 in the slowest rotary pairs (Qwen2); one
 * channel of the residual stream that an early layer drives far above the rest, and whose norm weights
 * hold it down afterwards; token embeddings that training has hardly touched.
 */
#include "synth/synth.h"

#include "graph/basis.h"
#include "synth/numbers.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

/* What a tensor is made of: weights of a matrix have standard deviation gain / sqrt(columns). */
enum kind { MATRIX, EMBEDDING, NORM, BIAS, K_BIAS, FREQS };
static const struct recipe {
	enum kind kind;
	float gain; /* MATRIX: above; EMBEDDING, BIAS: standard deviation; NORM: centre */
} recipes[ST_ROLE_COUNT] = {
	[ST_ROLE_EMBED] = { EMBEDDING, 0.02f },
	[ST_ROLE_ATTN_NORM] = { NORM, 1 },
	[ST_ROLE_FFN_NORM] = { NORM, 1 },
	[ST_ROLE_Q_NORM] = { NORM, 1.2f },
	[ST_ROLE_K_NORM] = { NORM, 1.2f },
	[ST_ROLE_Q] = { MATRIX, 1 },
	[ST_ROLE_K] = { MATRIX, 1 },
	[ST_ROLE_V] = { MATRIX, 1 },
	[ST_ROLE_O] = { MATRIX, 0.7f },
	[ST_ROLE_Q_BIAS] = { BIAS, 0.5f },
	[ST_ROLE_K_BIAS] = { K_BIAS, 0.5f },
	[ST_ROLE_V_BIAS] = { BIAS, 0.1f },
	[ST_ROLE_GATE] = { MATRIX, 1 },
	[ST_ROLE_UP] = { MATRIX, 1 },
	[ST_ROLE_DOWN] = { MATRIX, 0.7f },
	[ST_ROLE_FINAL_NORM] = { NORM, 2 },
	[ST_ROLE_HEAD] = { MATRIX, 1.5f }, /* with the final norm: logits of standard deviation 3 */
	[ST_ROLE_ROPE_FREQS] = { FREQS, 1 },
};

#define K_BIAS_MOST 90.0f
#define NEAR_DEAD 64         /* one embedding in so many */
#define NEAR_DEAD_SIZE 0.01f /* its size against the others */
#define SUPPRESSED 0.02f     /* norm weight of the massive channel */
#define NEURON_GAIN 3.0f     /* gate and up of the neuron that drives it most */

/* The channel, the layer that drives it and the neuron it hears most. */
static uint64_t massive_channel(const struct st_config *cfg) { return cfg->hidden / 3; }
static uint64_t massive_neuron(const struct st_config *cfg) { return cfg->ffn / 5; }
/* Layer 3 of 28, as in Qwen2-7B; 1 of 4. */
static uint32_t massive_layer(const struct st_config *cfg)
{
	return (cfg->n_layers + 5) / 9 < cfg->n_layers ? (cfg->n_layers + 5) / 9 : 0;
}

static uint64_t key_of(const struct st_synth *s, enum st_role role, uint32_t layer)
{
	char name[96];
	if (!st_role_hf_name(role, layer, name, sizeof name))
		(void)st_role_gguf_name(role, layer, name, sizeof name);
	return st_synth_tensor_key(s->seed, name);
}

/* Of a row of a matrix or embedding. */
static float row_scale(const struct st_config *cfg, enum st_role role, uint32_t layer, uint64_t key, uint64_t row,
                       uint64_t cols)
{
	const struct recipe *r = &recipes[role];
	float f = st_synth_factor(key, UINT64_MAX - 1); /* columns never reach that far */
	if (r->kind == EMBEDDING)
		return r->gain * f * (st_synth_row_key(key, 0) % NEAR_DEAD == 0 ? NEAR_DEAD_SIZE : 1);
	f *= r->gain / sqrtf((float)cols);
	if (layer == massive_layer(cfg)) {
		if (role == ST_ROLE_DOWN && row == massive_channel(cfg))
			f *= 2
			   * sqrtf((float)cfg
			                   ->hidden); /* with this, the channel alone is most of the stream's length */
		if ((role == ST_ROLE_GATE || role == ST_ROLE_UP) && row == massive_neuron(cfg))
			f *= NEURON_GAIN;
	}
	return f;
}

/* Elements [col, col + n) of a row; cols: all of them. */
static void matrix_part(const struct st_synth *s, enum st_role role, uint32_t layer, uint64_t row, uint64_t cols,
                        uint64_t col, size_t n, float *dst)
{
	uint64_t key = st_synth_row_key(key_of(s, role, layer), row);
	st_synth_draws(key, col, n, row_scale(&s->cfg, role, layer, key, row, cols), dst);
}

static void norm(const struct st_synth *s, enum st_role role, uint32_t layer, uint64_t n, float *dst)
{
	const struct st_config *cfg = &s->cfg;
	uint64_t key = key_of(s, role, layer), massive = massive_channel(cfg);
	float centre = recipes[role].gain;
	/* Where the head is the embedding, whose rows are short, the final norm makes up for it. */
	if (role == ST_ROLE_FINAL_NORM && cfg->tied)
		centre = 3 / (recipes[ST_ROLE_EMBED].gain * sqrtf((float)cfg->hidden));
	for (uint64_t i = 0; i < n; i++)
		dst[i] = centre * st_synth_factor(key, i);
	bool behind = role == ST_ROLE_FINAL_NORM
	           || (role == ST_ROLE_ATTN_NORM || role == ST_ROLE_FFN_NORM ? layer > massive_layer(cfg) : false);
	if (behind)
		dst[massive] *= SUPPRESSED;
}

/* Pair i of a head turns by theta^(-2i/d): the last ones hardly turn, and there the bias is large. */
static void k_bias(const struct st_synth *s, enum st_role role, uint32_t layer, uint64_t n, float *dst)
{
	uint64_t key = key_of(s, role, layer), half = s->cfg.head_dim / 2;
	st_synth_draws(key, 0, n, recipes[role].gain, dst);
	for (uint64_t i = 0; i < n; i++) {
		float u = (float)(i % half + 1) / (float)half, u4 = u * u * u * u, sign = dst[i] < 0 ? -1 : 1;
		float share = 0.5f + 0.5f * (float)(st_synth_row_key(key, i) >> 40) * 0x1p-24f;
		dst[i] += sign * K_BIAS_MOST * share * (u4 * u4 * u4);
	}
}

/* What llama3's scaling divides the frequency of each pair by, as GGUF files carry it. */
static void rope_freqs(const struct st_config *cfg, float *dst)
{
	for (uint32_t i = 0; i < cfg->head_dim / 2; i++) {
		double f = pow(cfg->rope_theta, -2.0 * i / cfg->head_dim), wave = 2 * M_PI / f;
		double turns = cfg->rope_original_positions / wave;
		double keep = (turns - cfg->rope_low_freq) / (cfg->rope_high_freq - cfg->rope_low_freq);
		keep = keep < 0 ? 0 : keep > 1 ? 1 : keep;
		dst[i] = (float)(1 / ((1 - keep) / cfg->rope_factor + keep));
	}
}

void st_synth_numbers(const struct st_synth *s, enum st_role role, uint32_t layer, uint64_t row, float *dst)
{
	uint64_t shape[2], n = st_role_shape(&s->cfg, role, shape) == 1 ? shape[0] : shape[1];
	switch (recipes[role].kind) {
	case MATRIX:
	case EMBEDDING:
		matrix_part(s, role, layer, row, n, 0, n, dst);
		break;
	case NORM:
		norm(s, role, layer, n, dst);
		break;
	case BIAS:
		st_synth_draws(key_of(s, role, layer), 0, n, recipes[role].gain, dst);
		break;
	case K_BIAS:
		k_bias(s, role, layer, n, dst);
		break;
	case FREQS:
		rope_freqs(&s->cfg, dst);
		break;
	}
}

void st_synth_touched(struct st_synth *s, const char *what)
{
	size_t n = strlen(s->planted);
	snprintf(s->planted + n, sizeof s->planted - n, "%s%s", strstr(s->planted, " in ") ? ", " : " in ", what);
}

struct st_synth_tensor *st_synth_find(struct st_synth *s, enum st_role role, uint32_t layer)
{
	if (role == ST_ROLE_COUNT) /* of a page's own weights, which no other can be told by */
		return NULL;
	for (size_t i = 0; i < s->n_tensors; i++)
		if (s->tensors[i].role == role && (!st_role_per_layer(role) || s->tensors[i].layer == layer))
			return &s->tensors[i];
	return NULL;
}

float st_synth_number(const struct st_synth *s, enum st_role role, uint32_t layer, uint64_t row, uint64_t col)
{
	uint64_t shape[2];
	float v;
	const struct st_synth_tensor *t = s->page ? st_synth_find((struct st_synth *)(uintptr_t)s, role, layer) : NULL;
	if (t)
		return t->image[row * t->cols + col];
	(void)st_role_shape(&s->cfg, role, shape);
	matrix_part(s, role, layer, row, shape[1], col, 1, &v);
	return v;
}

void st_synth_row(const struct st_synth *s, const struct st_synth_tensor *t, uint64_t row, float *dst)
{
	if (!t->image) {
		st_synth_numbers(s, t->from, t->from_layer, row, dst);
		return;
	}
	/* Numbers of another tensor in its place; a row behind the last holds numbers that belong nowhere. */
	const struct st_synth_tensor *own = st_synth_find((struct st_synth *)(uintptr_t)s, t->from, t->from_layer),
				     *from = own && (t->from != t->role || t->from_layer != t->layer) ? own : t;
	/* Rows change places where the one lies in rotary pairs and the other does not. */
	if (from != t && t->ndim == 2 && row < from->rows) {
		row = t->made->heads ? st_row_in_halves(row, t->rows / t->made->heads) : row;
		row = from->made->heads ? st_row_in_pairs(row, from->rows / from->made->heads) : row;
	}
	if (row < from->rows)
		memcpy(dst, from->image + row * from->cols, from->cols * sizeof *dst);
	else
		st_synth_draws(row, 0, t->cols, 1 / sqrtf((float)t->cols), dst);
}
