/* configs.c - two configurations, key by key. */
#include <stele/compare.h>

#include "arch/arch.h"

#include <math.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum kind { TEXT, U32, F64, BOOL, I64, SCALING };

/* When a difference changes what is computed. */
enum matters { NEVER, ALWAYS, WINDOW, LINEAR_OR_LLAMA3, LLAMA3 };

static const struct key {
	const char *name;
	enum kind kind;
	size_t offset;
	enum matters matters;
	enum st_stage stage; /* first stage it changes */
} keys[] = {
#define KEY(field, kind, matters, stage)                                        \
	{                                                                       \
#field, kind, offsetof(struct st_config, field), matters, stage \
	}
	KEY(arch, TEXT, ALWAYS, ST_STAGE_EMBEDDING),
	KEY(name, TEXT, NEVER, ST_STAGE_EMBEDDING),
	KEY(n_layers, U32, ALWAYS, ST_STAGE_FINAL_NORM),
	KEY(hidden, U32, ALWAYS, ST_STAGE_EMBEDDING),
	KEY(vocab, U32, NEVER, ST_STAGE_EMBEDDING), /* rows that pad it; the others are compared by value */
	KEY(norm_eps, F64, ALWAYS, ST_STAGE_ATTN_NORM),
	KEY(n_heads, U32, ALWAYS, ST_STAGE_Q_POST_ROPE),
	KEY(n_kv_heads, U32, ALWAYS, ST_STAGE_Q_POST_ROPE),
	KEY(head_dim, U32, ALWAYS, ST_STAGE_Q_POST_ROPE),
	KEY(ffn, U32, ALWAYS, ST_STAGE_FFN_GATE),
	KEY(qkv_bias, BOOL, NEVER, ST_STAGE_QKV_BIAS), /* follows from the bias tensors, which are compared */
	KEY(qk_norm, BOOL, ALWAYS, ST_STAGE_Q_POST_NORM),
	KEY(rope_theta, F64, ALWAYS, ST_STAGE_Q_POST_ROPE),
	KEY(rope_scaling, SCALING, ALWAYS, ST_STAGE_Q_POST_ROPE),
	KEY(rope_factor, F64, LINEAR_OR_LLAMA3, ST_STAGE_Q_POST_ROPE),
	KEY(rope_low_freq, F64, LLAMA3, ST_STAGE_Q_POST_ROPE),
	KEY(rope_high_freq, F64, LLAMA3, ST_STAGE_Q_POST_ROPE),
	KEY(rope_original_positions, U32, LLAMA3, ST_STAGE_Q_POST_ROPE),
	KEY(sliding_window, U32, WINDOW, ST_STAGE_ATTN_SCORES),
	KEY(window_from_layer, U32, WINDOW, ST_STAGE_ATTN_SCORES),
	KEY(tied, BOOL, NEVER, ST_STAGE_LM_HEAD), /* the heads are compared by value */
	KEY(max_positions, U32, NEVER, ST_STAGE_EMBEDDING),
	KEY(bos, I64, NEVER, ST_STAGE_EMBEDDING),
	KEY(eos, I64, NEVER, ST_STAGE_EMBEDDING),
#undef KEY
};
_Static_assert(sizeof keys / sizeof *keys <= ST_MAX_CONFIG_DIFFS, "room for every key");

static const char *scaling_name(enum st_rope_scaling s)
{
	return s == ST_ROPE_SCALING_LINEAR ? "linear" : s == ST_ROPE_SCALING_LLAMA3 ? "llama3" : "none";
}

/* f32 in one container and decimal text in the other are one number; shown with the digits that tell it from the next.
 */
static void show_number(float x, char *buf, size_t n)
{
	for (int digits = 7; digits <= 9; digits++) {
		snprintf(buf, n, "%.*g", digits, (double)x);
		if (strtof(buf, NULL) == x)
			return;
	}
}

static void show(const struct key *k, const struct st_config *c, char *buf, size_t n)
{
	const char *p = (const char *)c + k->offset;
	switch (k->kind) {
	case TEXT:
		snprintf(buf, n, "%s", p);
		break;
	case U32:
		snprintf(buf, n, "%u", *(const uint32_t *)(const void *)p);
		break;
	case I64:
		snprintf(buf, n, "%lld", (long long)*(const int64_t *)(const void *)p);
		break;
	case BOOL:
		snprintf(buf, n, "%s", *(const bool *)p ? "true" : "false");
		break;
	case F64:
		show_number((float)*(const double *)(const void *)p, buf, n);
		break;
	case SCALING:
		snprintf(buf, n, "%s", scaling_name(*(const enum st_rope_scaling *)(const void *)p));
		break;
	}
}

/* A window no shorter than the context hides nothing. */
static bool windows_differ(const struct st_config *a, const struct st_config *b, size_t positions)
{
	uint32_t wa = a->sliding_window && a->sliding_window < positions ? a->sliding_window : 0;
	uint32_t wb = b->sliding_window && b->sliding_window < positions ? b->sliding_window : 0;
	return wa != wb || (wa && a->window_from_layer != b->window_from_layer);
}

/* llama3's parameters have several spellings: low and high factor count only in proportion to the original length, and
 * a file that holds their effect (rope_freqs.weight) leaves open what no pair shows. What they do to the frequencies
 * counts. */
static bool scalings_differ(const struct st_config *a, const struct st_config *b)
{
	if (a->rope_scaling != ST_ROPE_SCALING_LLAMA3)
		return true;
	for (uint32_t i = 0; i < a->head_dim / 2; i++) {
		double f = pow(a->rope_theta, -2.0 * i / a->head_dim), x = st_rope_llama3(a, f),
		       y = st_rope_llama3(b, f);
		if (!(fabs(x - y) <= 1e-5 * fabs(y))) /* as near as the reader asks divisors to be */
			return true;
	}
	return false;
}

static bool changes_arithmetic(const struct key *k, const struct st_config *a, const struct st_config *b,
                               size_t positions)
{
	switch (k->matters) {
	case NEVER:
		return false;
	case ALWAYS:
		return true;
	case WINDOW:
		return windows_differ(a, b, positions);
	case LINEAR_OR_LLAMA3:
		return a->rope_scaling == b->rope_scaling && a->rope_scaling != ST_ROPE_SCALING_NONE
		    && scalings_differ(a, b);
	case LLAMA3:
		return a->rope_scaling == b->rope_scaling && a->rope_scaling == ST_ROPE_SCALING_LLAMA3
		    && scalings_differ(a, b);
	}
	return true;
}

size_t st_compare_configs(const struct st_config *a, const struct st_config *b, size_t n_positions,
                          struct st_config_diff out[ST_MAX_CONFIG_DIFFS])
{
	size_t n = 0;
	for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
		struct st_config_diff d = { .key = keys[i].name, .stage = keys[i].stage };
		char x[128], y[128]; /* a long name is compared whole and shown cut */
		show(&keys[i], a, x, sizeof x);
		show(&keys[i], b, y, sizeof y);
		if (strcmp(x, y) == 0 || (keys[i].kind == TEXT && (!x[0] || !y[0]))) /* a name one side does not give */
			continue;
		snprintf(d.a, sizeof d.a, "%.*s", (int)sizeof d.a - 1, x);
		snprintf(d.b, sizeof d.b, "%.*s", (int)sizeof d.b - 1, y);
		d.matters = changes_arithmetic(&keys[i], a, b, n_positions);
		out[n++] = d;
	}
	return n;
}
