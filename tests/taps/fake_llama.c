/*
 * fake_llama.c - a program that runs graphs of llama.cpp's shape on fake_ggml.c, and a reader of what the tap kept of them.
 *
 *	fake-llama SCENARIO          run it
 *	fake-llama check TRACE       its numbers are those of their stage, layer, position and feature; prints stages and tokens
 */
#include "fake_ggml.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { D = 4, H = 2, LAYERS = 2, CELLS = 8, MOST = 16 };

/* The run at hand. */
static const int32_t *positions, *tokens, *outs;
static int T, n_outs, cells_from;
static bool quantised, half, strided, merged;
static char sched[2];
static bool theirs_asked, theirs_saw;

static float number(int stage, int layer, int position, int column)
{
	return (float)(stage * 1024 + layer * 512 + position * 16 + column);
}

/* What stage a node's `extra` says. */
struct what {
	int stage, layer;
	bool outputs;
};

static void put_number(struct ggml_tensor *t, char *at, float v)
{
	if (t->type == F16) { /* these are small whole numbers */
		int e;
		double m = frexp(v, &e);
		uint16_t bits = v == 0 ? 0 : (uint16_t)((e + 14) << 10 | (int)((m * 2 - 1) * 1024));
		memcpy(at, &bits, 2);
	} else {
		memcpy(at, &v, 4);
	}
}

static void fill(struct ggml_tensor *t)
{
	const struct what *w = t->extra;
	if (!w)
		return;
	for (int64_t c = 0; c < t->ne[2]; c++)
		for (int64_t b = 0; b < t->ne[1]; b++)
			for (int64_t a = 0; a < t->ne[0]; a++) {
				bool scores = w->stage == 4 || w->stage == 5, deep = w->stage == 2 || w->stage == 3;
				int64_t row = deep ? c : b, column = deep ? b * t->ne[0] + a : scores ? c * CELLS + a : a;
				int32_t p = positions[w->outputs ? outs[row] : row];
				char *at = (char *)t->data + (size_t)c * t->nb[2] + (size_t)b * t->nb[1];
				if (t->type == Q8_0)
					at[a / 32 * 34 + 2 + a % 32] = (char)(p * 16 + a % 4);
				else
					put_number(t, at + (size_t)a * t->nb[0], number(w->stage, w->layer, p, (int)column));
			}
}

static struct ggml_tensor *tensor(int type, int op, int64_t a, int64_t b, int64_t c, const char *name, struct ggml_tensor *s0,
                                  struct ggml_tensor *s1)
{
	struct ggml_tensor *t = calloc(1, sizeof *t);
	size_t each = type == I64 ? 8 : type == F16 ? 2 : type == Q8_0 ? 34 : 4;
	*t = (struct ggml_tensor){ .type = type, .op = op, .ne = { a, b, c, 1 }, .nb = { each }, .src = { s0, s1 }, .buffer = t };
	t->nb[1] = each * (size_t)(type == Q8_0 ? a / 32 : a);
	t->nb[2] = t->nb[1] * (size_t)b;
	t->nb[3] = t->nb[2] * (size_t)c;
	t->data = calloc(1, t->nb[3] * 4 + 64);
	snprintf(t->name, sizeof t->name, "%s", name);
	return t;
}

static struct ggml_tensor *node(struct ggml_tensor *t, int stage, int layer, bool outputs)
{
	struct what *w = malloc(sizeof *w);
	*w = (struct what){ stage, layer, outputs };
	t->extra = w;
	return t;
}

/* One run of the graph. */
static void run(int which, int n, const int32_t *ids, const int32_t *at, int n_out, const int32_t *out)
{
	struct ggml_tensor *nodes[64], *x, *w, *inp = tensor(I32, NONE, n, 1, 1, "inp_tokens", NULL, NULL);
	struct ggml_tensor *pos = tensor(I32, NONE, n, 1, 1, "inp_pos", NULL, NULL), *idx = tensor(I64, NONE, n, 1, 1, "attn_inp_k_idxs", NULL, NULL);
	struct ggml_tensor *out_ids = tensor(I32, NONE, n_out, 1, 1, "out_ids", NULL, NULL), *mask = tensor(F32, NONE, CELLS, n, 1, "mask", NULL, NULL);
	int k = 0, type = half ? F16 : F32;
	char name[64];
	T = n, tokens = ids, positions = at, outs = out, n_outs = n_out;
	memcpy(inp->data, ids, (size_t)n * 4);
	memcpy(pos->data, at, (size_t)n * 4);
	memcpy(out_ids->data, out, (size_t)n_out * 4);
	for (int i = 0; i < n; i++) {
		((int64_t *)idx->data)[i] = at[i] + cells_from;
		/* Each row sees the cells up to its own; merged: those of another sequence begin further on. */
		for (int c = 0; c < CELLS; c++)
			((float *)mask->data)[i * CELLS + c] = c <= at[i] && !(merged && i > 1 && c < 3) ? 0 : -INFINITY;
	}
	w = tensor(F32, NONE, D, 32, 1, "token_embd.weight", NULL, NULL);
	nodes[k++] = node(tensor(F32, GET_ROWS, D, n, 1, "embd", w, inp), 1, 0, false);
	for (int l = 0; l < LAYERS; l++) {
		bool last = l == LAYERS - 1;
		snprintf(name, sizeof name, "Qcur-%d", l);
		nodes[k++] = x = node(tensor(type, ROPE, D / H, H, n, name, NULL, pos), 2, l, false);
		x->op_params[2] = 2;
		snprintf(name, sizeof name, "Kcur-%d", l);
		nodes[k++] = x = node(tensor(F32, ROPE, D / H, H, n, name, NULL, pos), 3, l, false);
		if (strided) { /* rows lie three times as far apart */
			x->nb[2] *= 3;
			x->nb[3] *= 3;
		}
		nodes[k++] = tensor(F16, SET_ROWS, D, n, 1, "cache_k (view)", x, idx);
		snprintf(name, sizeof name, "kq-%d", l);
		x = node(tensor(F32, MUL_MAT, CELLS, n, H, name, nodes[k - 1], NULL), 4, l, false);
		nodes[k++] = x;
		snprintf(name, sizeof name, "kq_soft_max-%d", l);
		nodes[k++] = node(tensor(F32, SOFT_MAX, CELLS, n, H, name, x, mask), 5, l, false);
		snprintf(name, sizeof name, "blk.%d.attn_output.weight", l);
		w = tensor(quantised ? Q8_0 : F32, NONE, 32, 32, 1, name, NULL, NULL);
		x = node(tensor(F32, ADD, D, n, 1, "kqv_out", NULL, NULL), 6, l, false);
		fill(x); /* it is there before the product */
		nodes[k++] = node(tensor(F32, MUL_MAT, D, n, 1, "node_17", w, x), 7, l, false);
		if (last)
			nodes[k++] = tensor(F32, GET_ROWS, D, n_out, 1, "rows", x, out_ids);
		snprintf(name, sizeof name, "l_out-%d", l);
		nodes[k++] = node(tensor(quantised ? Q8_0 : F32, ADD, quantised ? 32 : D, last ? n_out : n, 1, name, NULL, NULL), 8, l, last);
	}
	nodes[k++] = node(tensor(F32, MUL, D, n_out, 1, "result_norm", NULL, NULL), 9, 0, true);
	nodes[k++] = node(tensor(F32, MUL_MAT, D, n_out, 1, "result_output", NULL, NULL), 10, 0, true);
	fake_compute(&sched[which], nodes, k, fill);
}

/* ---- scenarios ---- */

static const int32_t count[MOST] = { 0, 1, 2, 3, 4, 5, 6, 7, 8 }, ids[MOST] = { 20, 21, 22, 23, 24, 25, 26, 27 };

static void prompt(int from, int n, bool last) { run(0, n, ids + from, count + from, last ? 1 : 0, &(const int32_t){ n - 1 }); }

static bool theirs(struct ggml_tensor *t, bool ask, void *user)
{
	(void)user;
	if (strcmp(t->name, "node_17") == 0 && ask)
		return theirs_asked = true;
	theirs_saw |= !ask && strcmp(t->name, "node_17") == 0;
	return !ask;
}

static void warm_up(void) { run(0, 2, (const int32_t[]){ 1, 2 }, count, 1, &(const int32_t){ 1 }); }

static int play(const char *s)
{
	quantised = !strcmp(s, "quantised"), half = !strcmp(s, "half"), strided = !strcmp(s, "strided");
	cells_from = !strcmp(s, "cells") || !strcmp(s, "sequences") ? 2 : 0;
	bool own = !strcmp(s, "own-callback");
	ggml_backend_sched_set_eval_callback(&sched[1], NULL, NULL);
	ggml_backend_sched_set_eval_callback(&sched[0], own ? theirs : NULL, NULL);
	if (!strcmp(s, "pieces")) {
		warm_up();
		prompt(0, 2, false);
		prompt(2, 1, false); /* one token, and no step */
		prompt(3, 2, true);
	} else if (!strcmp(s, "two-prompts")) {
		run(0, 3, (const int32_t[]){ 20, 21, 9 }, count, 1, &(const int32_t){ 2 });
		prompt(3, 1, true);
		prompt(0, 5, true);
	} else if (!strcmp(s, "two-models")) {
		run(1, 3, (const int32_t[]){ 20, 21, 9 }, count, 1, &(const int32_t){ 2 });
		prompt(0, 5, true);
		run(1, 1, (const int32_t[]){ 9 }, count + 3, 1, &(const int32_t){ 0 });
	} else if (!strcmp(s, "sequences")) { /* two of them side by side, ours the second one */
		run(0, 8, (const int32_t[]){ 9, 9, 9, 20, 21, 22, 23, 24 }, (const int32_t[]){ 0, 1, 2, 0, 1, 2, 3, 4 }, 2, (const int32_t[]){ 2, 7 });
		run(0, 2, (const int32_t[]){ 9, 25 }, (const int32_t[]){ 3, 5 }, 2, (const int32_t[]){ 0, 1 });
		run(0, 2, (const int32_t[]){ 9, 26 }, (const int32_t[]){ 4, 6 }, 2, (const int32_t[]){ 0, 1 });
		return 0;
	} else if (!strcmp(s, "merged")) { /* positions follow each other, sequences do not */
		prompt(0, 2, false);
		merged = true;
		run(0, 3, (const int32_t[]){ 22, 23, 9 }, (const int32_t[]){ 2, 3, 4 }, 1, &(const int32_t){ 1 });
		return 0;
	} else if (!strcmp(s, "late")) {
		prompt(2, 3, true);
		return 0;
	} else {
		prompt(0, 5, true);
	}
	for (int step = 0; step < 2; step++)
		prompt(5 + step, 1, true);
	return own && !(theirs_asked && theirs_saw) ? 1 : 0;
}

/* ---- what was kept ---- */

static int check(const char *path)
{
	static char file[1 << 20];
	static const char *const names[] = { "",          "embedding", "q_post_rope",       "k_post_rope", "attn_scores", "attn_softmax",
		                             "attention", "attn_out",  "post_ffn_residual", "final_norm",  "lm_head" };
	FILE *f = fopen(path, "rb");
	size_t got = f ? fread(file, 1, sizeof file - 1, f) : 0, head = 0;
	int values = 0, wrong = 0;
	if (!got || fclose(f))
		return 2;
	for (int i = 0; i < 8; i++)
		head |= (size_t)(unsigned char)file[i] << 8 * i;
	char *header = file + 8, *data = header + head, *p;
	char first = *data;
	*data = 0;
	printf("%.*s\n", (int)strcspn(strstr(header, "\"tokens\""), "]"), strstr(header, "\"tokens\""));
	for (int step = 0; step <= 4; step++)
		for (int l = 0; l < LAYERS; l++)
			for (int s = 1; s <= 10; s++) {
				char key[128], at_key[160], dtype[8];
				bool whole = s == 1 || s > 8;
				unsigned long a, b, from, heads = 1;
				int n = step ? snprintf(key, sizeof key, "\"steps.%d.", step) : snprintf(key, sizeof key, "\"");
				n += whole ? 0 : snprintf(key + n, sizeof key - (size_t)n, "layers.%d.", l);
				snprintf(key + n, sizeof key - (size_t)n, "%s\":{", names[s]);
				if ((whole && l) || !(p = strstr(header, key)))
					continue;
				p += strlen(key);
				if (sscanf(p, "\"dtype\":\"%7[A-Z0-9]\",\"shape\":[%lu,%lu],\"data_offsets\":[%lu", dtype, &a, &b, &from) != 4
				    && sscanf(p, "\"dtype\":\"%7[A-Z0-9]\",\"shape\":[%lu,%lu,%lu],\"data_offsets\":[%lu", dtype, &heads, &a, &b, &from) != 5)
					return 2;
				/* positions of its rows: said, or all; of a step, the one behind the prompt's five and the steps before */
				int at[MOST] = { step ? 4 + step : 0 };
				snprintf(at_key, sizeof at_key, "\"positions.%.*s\":\"[", (int)strlen(key) - 4, key + 1);
				const char *list = step ? NULL : strstr(header, at_key);
				list = list ? list + strlen(at_key) : NULL;
				for (unsigned long r = 0; r < a; r++) {
					at[r] = list ? (int)strtol(list, NULL, 10) : at[0] + (int)r;
					list = list && strchr(list, ',') ? strchr(list, ',') + 1 : list;
				}
				*data = first;
				for (unsigned long h = 0; h < heads; h++)
					for (unsigned long r = 0; r < a; r++)
						for (unsigned long c = 0; c < b; c++) {
							float want = number(s, whole ? 0 : l, at[r], (int)(h * CELLS + c)), v;
							memcpy(&v, data + from + ((h * a + r) * b + c) * 4, 4);
							if (s == 8 && b == 32)
								want = (float)(at[r] * 16 + (int)c % 4);
							wrong += strcmp(dtype, "F32") == 0 && v != want;
						}
				*data = 0;
				values++;
			}
	printf("%d values, %d wrong\n", values, wrong);
	return wrong > 0;
}

int main(int argc, char **argv)
{
	if (argc == 3 && strcmp(argv[1], "check") == 0)
		return check(argv[2]);
	return argc == 2 ? play(argv[1]) : 2;
}
