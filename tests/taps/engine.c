/*
 * An engine of a hundred lines: Mistral in f32, plain loops, with a cache, that writes what it computes by taps/stele_tap.h.
 *
 *	engine FOLDER TRACE [eps | pairs | scale]
 *
 * FOLDER: tests/data/families/mistral, whose sizes stand below. The prompt comes in two chunks, a decode step follows. The third
 * argument plants a mistake.
 */
#define STELE_TAP_IMPLEMENTATION
#include "stele_tap.h"

#include <math.h>

enum { D = 16, H = 4, G = 2, HD = 8, F = 20, L = 2, V = 32, WINDOW = 4, T_MAX = 16 };

static char *file, *numbers;
static const char *fault = "";
static float k_cache[L][T_MAX][G * HD], v_cache[L][T_MAX][G * HD];
static stele_tap *tap;

/* The numbers of a tensor: the safetensors header has "NAME":{...,"data_offsets":[A,B]}. */
static const float *weight(int layer, const char *name)
{
	char key[128];
	unsigned long at;
	const char *p;
	if (layer >= 0)
		snprintf(key, sizeof key, "\"model.layers.%d.%s.weight\"", layer, name);
	else
		snprintf(key, sizeof key, "\"%s.weight\"", name);
	p = strstr(file + 8, key);
	if (!p || !(p = strstr(p, "\"data_offsets\":[")) || sscanf(p, "\"data_offsets\":[%lu", &at) != 1)
		exit(2);
	return (const float *)(const void *)(numbers + at);
}

/* Rows `start`... of a value, under its name. */
static void put(int step, int layer, const char *stage, const float *x, int rows, int columns, int start)
{
	int32_t positions[T_MAX];
	stele_tap_value v = { 0 };
	for (int i = 0; i < rows; i++)
		positions[i] = start + i;
	v.stage = stage, v.layer = layer, v.step = step, v.data = x, v.positions = positions;
	v.rows = (size_t)rows, v.columns = (size_t)columns;
	stele_tap_put(tap, &v);
}

static void norm(float *y, const float *x, const float *w)
{
	float s = 0, eps = strcmp(fault, "eps") ? 1e-6f : 1e-2f;
	for (int i = 0; i < D; i++)
		s += x[i] * x[i];
	for (int i = 0; i < D; i++)
		y[i] = x[i] / sqrtf(s / D + eps) * w[i];
}

static void matmul(float *y, const float *w, const float *x, int out, int in)
{
	for (int o = 0; o < out; o++) {
		y[o] = 0;
		for (int i = 0; i < in; i++)
			y[o] += w[o * in + i] * x[i];
	}
}

static void rope(float *x, int heads, int position)
{
	int pairs = !strcmp(fault, "pairs");
	for (int h = 0; h < heads; h++)
		for (int i = 0; i < HD / 2; i++) {
			float *a = x + h * HD + (pairs ? 2 * i : i), *b = a + (pairs ? 1 : HD / 2), p = *a, q = *b;
			float angle = (float)position * powf(10000, -2.0f * (float)i / HD);
			*a = p * cosf(angle) - q * sinf(angle);
			*b = p * sinf(angle) + q * cosf(angle);
		}
}

static void attend(float *y, const float *q, int l, int at)
{
	float scale = strcmp(fault, "scale") ? 1 / sqrtf(HD) : 1.0f / HD;
	for (int h = 0; h < H; h++) {
		float p[T_MAX], sum = 0;
		int g = h / (H / G) * HD, first = at < WINDOW ? 0 : at - WINDOW + 1;
		for (int s = first; s <= at; s++) {
			p[s] = 0;
			for (int i = 0; i < HD; i++)
				p[s] += q[h * HD + i] * k_cache[l][s][g + i];
			sum += p[s] = expf(p[s] * scale);
		}
		for (int i = 0; i < HD; i++) {
			y[h * HD + i] = 0;
			for (int s = first; s <= at; s++)
				y[h * HD + i] += p[s] / sum * v_cache[l][s][g + i];
		}
	}
}

static void forward(const int32_t *ids, int n, int start, int step)
{
	float x[T_MAX][D], a[T_MAX][D], q[T_MAX][H * HD], y[T_MAX][H * HD], o[T_MAX][D], gate[T_MAX][F], up[T_MAX][F], logits[T_MAX][V];
	for (int t = 0; t < n; t++)
		memcpy(x[t], weight(-1, "model.embed_tokens") + ids[t] * D, sizeof x[t]);
	put(step, -1, "embedding", x[0], n, D, start);
	for (int l = 0; l < L; l++) {
		for (int t = 0; t < n; t++) {
			float *k = k_cache[l][start + t];
			norm(a[t], x[t], weight(l, "input_layernorm"));
			matmul(q[t], weight(l, "self_attn.q_proj"), a[t], H * HD, D);
			matmul(k, weight(l, "self_attn.k_proj"), a[t], G * HD, D);
			matmul(v_cache[l][start + t], weight(l, "self_attn.v_proj"), a[t], G * HD, D);
		}
		put(step, l, "attn_norm", a[0], n, D, start);
		put(step, l, "q_matmul", q[0], n, H * HD, start);
		put(step, l, "k_matmul", k_cache[l][start], n, G * HD, start);
		put(step, l, "v_matmul", v_cache[l][start], n, G * HD, start);
		for (int t = 0; t < n; t++) {
			rope(q[t], H, start + t);
			rope(k_cache[l][start + t], G, start + t);
			attend(y[t], q[t], l, start + t);
			matmul(o[t], weight(l, "self_attn.o_proj"), y[t], D, H * HD);
			for (int i = 0; i < D; i++)
				x[t][i] += o[t][i];
		}
		put(step, l, "q_post_rope", q[0], n, H * HD, start);
		put(step, l, "k_post_rope", k_cache[l][start], n, G * HD, start);
		put(step, l, "attention", y[0], n, H * HD, start);
		put(step, l, "attn_out", o[0], n, D, start);
		put(step, l, "post_attn_residual", x[0], n, D, start);
		for (int t = 0; t < n; t++) {
			norm(a[t], x[t], weight(l, "post_attention_layernorm"));
			matmul(gate[t], weight(l, "mlp.gate_proj"), a[t], F, D);
			matmul(up[t], weight(l, "mlp.up_proj"), a[t], F, D);
			for (int i = 0; i < F; i++)
				up[t][i] *= gate[t][i] / (1 + expf(-gate[t][i]));
			matmul(o[t], weight(l, "mlp.down_proj"), up[t], D, F);
			for (int i = 0; i < D; i++)
				x[t][i] += o[t][i];
		}
		put(step, l, "ffn_norm", a[0], n, D, start);
		put(step, l, "ffn_gate", gate[0], n, F, start);
		put(step, l, "ffn_swigl", up[0], n, F, start);
		put(step, l, "post_ffn_residual", x[0], n, D, start);
	}
	for (int t = 0; t < n; t++) {
		norm(a[t], x[t], weight(-1, "model.norm"));
		matmul(logits[t], weight(-1, "lm_head"), a[t], V, D);
	}
	put(step, -1, "final_norm", a[0], n, D, start);
	put(step, -1, "lm_head", logits[0], n, V, start);
}

int main(int argc, char **argv)
{
	const int32_t ids[] = { 14, 5, 17, 3, 16, 15, 5 };
	char path[4096], why[256];
	unsigned char length[8];
	FILE *f;
	if (argc < 3)
		return 2;
	fault = argc > 3 ? argv[3] : "";
	snprintf(path, sizeof path, "%s/model.safetensors", argv[1]);
	if (!(f = fopen(path, "rb")) || !(file = (char *)malloc(1 << 20)) || !fread(file, 1, 1 << 20, f) || fclose(f))
		return 2;
	memcpy(length, file, 8);
	numbers = file + 8 + (length[0] | length[1] << 8 | length[2] << 16);

	tap = stele_tap_open(argv[2]);
	stele_tap_meta(tap, "engine", "a hundred lines");
	stele_tap_meta(tap, "rope_layout", "half");
	stele_tap_meta(tap, "heads", "[4, 2, 8]");
	stele_tap_tokens(tap, ids, 6);
	forward(ids, 4, 0, 0); /* the prompt in two chunks */
	forward(ids + 4, 2, 4, 0);
	stele_tap_step(tap, 1, ids[6]);
	forward(ids + 6, 1, 6, 1);
	if (!stele_tap_close(tap, why, sizeof why))
		return 0;
	fprintf(stderr, "%s\n", why);
	return 3; /* the engine itself is well */
}
