/* configs.c - two configurations, key by key. */
#include <stele/compare.h>

#include "compare/settings.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

/* When a difference changes what is computed. */
enum matters { NEVER, ALWAYS, WINDOW, LINEAR_OR_LLAMA3, LLAMA3 };

static const struct key {
	enum matters matters;
	enum st_stage stage; /* first stage it changes */
} keys[ST_CONFIG_MEMBERS] = {
	[ST_CONFIG_ARCH] = { ALWAYS, ST_STAGE_EMBEDDING },
	[ST_CONFIG_NAME] = { NEVER, ST_STAGE_EMBEDDING },
	[ST_CONFIG_N_LAYERS] = { ALWAYS, ST_STAGE_FINAL_NORM },
	[ST_CONFIG_HIDDEN] = { ALWAYS, ST_STAGE_EMBEDDING },
	[ST_CONFIG_VOCAB] = { NEVER, ST_STAGE_EMBEDDING }, /* rows that pad it; the others are compared by value */
	[ST_CONFIG_NORM_EPS] = { ALWAYS, ST_STAGE_ATTN_NORM },
	[ST_CONFIG_N_HEADS] = { ALWAYS, ST_STAGE_Q_POST_ROPE },
	[ST_CONFIG_N_KV_HEADS] = { ALWAYS, ST_STAGE_Q_POST_ROPE },
	[ST_CONFIG_HEAD_DIM] = { ALWAYS, ST_STAGE_Q_POST_ROPE },
	[ST_CONFIG_FFN] = { ALWAYS, ST_STAGE_FFN_GATE },
	[ST_CONFIG_QKV_BIAS] = { NEVER, ST_STAGE_QKV_BIAS }, /* follows from the bias tensors, which are compared */
	[ST_CONFIG_QK_NORM] = { ALWAYS, ST_STAGE_Q_POST_NORM },
	[ST_CONFIG_ROPE_THETA] = { ALWAYS, ST_STAGE_Q_POST_ROPE },
	[ST_CONFIG_ROPE_SCALING] = { ALWAYS, ST_STAGE_Q_POST_ROPE },
	[ST_CONFIG_ROPE_FACTOR] = { LINEAR_OR_LLAMA3, ST_STAGE_Q_POST_ROPE },
	[ST_CONFIG_ROPE_LOW_FREQ] = { LLAMA3, ST_STAGE_Q_POST_ROPE },
	[ST_CONFIG_ROPE_HIGH_FREQ] = { LLAMA3, ST_STAGE_Q_POST_ROPE },
	[ST_CONFIG_ROPE_ORIGINAL_POSITIONS] = { LLAMA3, ST_STAGE_Q_POST_ROPE },
	[ST_CONFIG_SLIDING_WINDOW] = { WINDOW, ST_STAGE_ATTN_SCORES },
	[ST_CONFIG_WINDOW_FROM_LAYER] = { WINDOW, ST_STAGE_ATTN_SCORES },
	[ST_CONFIG_TIED] = { NEVER, ST_STAGE_LM_HEAD }, /* the heads are compared by value */
	[ST_CONFIG_MAX_POSITIONS] = { NEVER, ST_STAGE_EMBEDDING },
	[ST_CONFIG_BOS] = { NEVER, ST_STAGE_EMBEDDING },
	[ST_CONFIG_EOS] = { NEVER, ST_STAGE_EMBEDDING },
};
_Static_assert(ST_CONFIG_MEMBERS <= ST_MAX_CONFIG_DIFFS, "room for every key");

/* A window no shorter than the context hides nothing. */
static bool windows_differ(const struct st_config *a, const struct st_config *b, size_t positions)
{
	uint32_t wa = a->sliding_window && a->sliding_window < positions ? a->sliding_window : 0;
	uint32_t wb = b->sliding_window && b->sliding_window < positions ? b->sliding_window : 0;
	return wa != wb || (wa && a->window_from_layer != b->window_from_layer);
}

static bool ends_at(const struct st_config *c, int64_t id)
{
	bool found = c->eos == id;
	for (uint32_t i = 0; i < c->n_eos_also; i++)
		found |= c->eos_also[i] == id;
	return found;
}

/* Files that name several ids list them in any order, and a container that has room for one keeps any of them. */
static bool same_ends(const struct st_config *a, const struct st_config *b)
{
	return ends_at(a, b->eos) || ends_at(b, a->eos);
}

/* Whether the one file ends at every id that the other ends at. */
static bool ends_within(const struct st_config *a, const struct st_config *b)
{
	bool within = ends_at(b, a->eos);
	for (uint32_t i = 0; i < a->n_eos_also; i++)
		within &= ends_at(b, a->eos_also[i]);
	return within;
}

static void show_ends(const struct st_config *c, char *buf, size_t n)
{
	size_t used = (size_t)snprintf(buf, n, "%" PRId64, c->eos);
	for (uint32_t i = 0; i < c->n_eos_also && used < n; i++)
		used += (size_t)snprintf(buf + used, n - used, ", %" PRId64, c->eos_also[i]);
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

static bool changes_arithmetic(enum st_config_member m, const struct st_config *a, const struct st_config *b,
                               size_t positions)
{
	switch (keys[m].matters) {
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
	for (enum st_config_member m = 0; m < ST_CONFIG_MEMBERS; m++) {
		struct st_config_diff d = { .key = st_config_member_name(m),
			                    .from_a = a->origin[m],
			                    .from_b = b->origin[m],
			                    .stage = keys[m].stage };
		char x[128], y[128]; /* a long name is compared whole and shown cut */
		bool text = m == ST_CONFIG_ARCH || m == ST_CONFIG_NAME;
		st_config_show(a, m, x, sizeof x);
		st_config_show(b, m, y, sizeof y);
		if (m == ST_CONFIG_EOS && !(ends_within(a, b) && ends_within(b, a))) {
			show_ends(a, x, sizeof x);
			show_ends(b, y, sizeof y);
		}
		if (strcmp(x, y) == 0 || (text && (!x[0] || !y[0]))) /* a name one side does not give */
			continue;
		/* Containers of one kind have room for the same ids. */
		d.among = m == ST_CONFIG_EOS && strcmp(a->origin[m].key, b->origin[m].key) != 0 && same_ends(a, b);
		snprintf(d.a, sizeof d.a, "%.*s", (int)sizeof d.a - 1, x);
		snprintf(d.b, sizeof d.b, "%.*s", (int)sizeof d.b - 1, y);
		d.matters = changes_arithmetic(m, a, b, n_positions);
		out[n++] = d;
	}
	return n;
}

void st_compare_asides(const struct st_config_diff *diffs, size_t n_diffs, struct st_aside out[ST_MAX_ASIDES],
                       size_t *n)
{
	static const enum st_config_member may_matter[] = { ST_CONFIG_SLIDING_WINDOW, ST_CONFIG_WINDOW_FROM_LAYER,
		                                            ST_CONFIG_MAX_POSITIONS, ST_CONFIG_BOS, ST_CONFIG_EOS };
	for (size_t i = 0; i < n_diffs; i++) {
		const struct st_config_diff *d = &diffs[i];
		bool listed = d->may_matter;
		for (size_t k = 0; k < sizeof may_matter / sizeof *may_matter; k++)
			listed |= strcmp(d->key, st_config_member_name(may_matter[k])) == 0;
		if (!listed || d->matters || *n == ST_MAX_ASIDES)
			continue;
		struct st_aside *x = &out[(*n)++];
		bool bos = strcmp(d->key, "bos") == 0, ids = bos || strcmp(d->key, "eos") == 0;
		const char *none = ids ? "-1" : "0";
		bool no_a = strcmp(d->a, none) == 0, no_b = strcmp(d->b, none) == 0;
		/* A window that is none is known to be none, and a text that ends nowhere is no other spelling of one
		 * that ends. */
		*x = (struct st_aside){ .code = ids ? ST_CAUSE_VOCAB_MISMATCH : ST_CAUSE_CONFIG_MISMATCH,
			                .one_sided = (no_a || no_b) && (bos || strcmp(d->key, "max_positions") == 0) };
		snprintf(x->key, sizeof x->key, "%s", d->key);
		if (d->among) {
			x->one_sided = true;
			snprintf(x->note, sizeof x->note,
			         "the one file's first is among the ids that the other ends at");
		}
		if (d->layers[0])
			snprintf(x->note, sizeof x->note, "it changes %s in %s%s%s", st_stage_name(d->stage),
			         strcmp(d->layers, "all") == 0 ? "all layers" : "layers ",
			         strcmp(d->layers, "all") == 0 ? "" : d->layers, " of prompts that reach it");
		x->from_a = d->from_a;
		x->from_b = d->from_b;
		snprintf(x->a, sizeof x->a, "%s", no_a ? "none" : d->a);
		snprintf(x->b, sizeof x->b, "%s", no_b ? "none" : d->b);
	}
}
