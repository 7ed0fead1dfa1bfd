/* stage.c - the vocabulary of traces: one row per stage, in graph order, and behind them the names of descriptions. */
#include <stele/model.h>

#include "base/error.h"
#include "base/mem.h"
#include "graph/stage.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

struct stage_row {
	const char *name;
	const char *alias; /* further spelling accepted on input, or NULL */
	bool per_layer;
};

static const struct stage_row stages[ST_STAGE_COUNT] = {
	[ST_STAGE_EMBEDDING] = { "embedding", NULL, false },
	[ST_STAGE_ATTN_NORM] = { "attn_norm", NULL, true },
	[ST_STAGE_QKV_MATMUL] = { "qkv_matmul", NULL, true },
	[ST_STAGE_QKV_BIAS] = { "qkv_bias", NULL, true },
	[ST_STAGE_Q_POST_NORM] = { "q_post_norm", NULL, true },
	[ST_STAGE_K_POST_NORM] = { "k_post_norm", NULL, true },
	[ST_STAGE_Q_POST_ROPE] = { "q_post_rope", NULL, true },
	[ST_STAGE_K_POST_ROPE] = { "k_post_rope", NULL, true },
	[ST_STAGE_ATTN_SCORES] = { "attn_scores", NULL, true },
	[ST_STAGE_ATTN_SOFTMAX] = { "attn_softmax", NULL, true },
	[ST_STAGE_ATTENTION] = { "attention", NULL, true },
	[ST_STAGE_ATTN_OUT] = { "attn_out", NULL, true },
	[ST_STAGE_POST_ATTN_NORM] = { "post_attn_norm", NULL, true },
	[ST_STAGE_POST_ATTN_RESIDUAL] = { "post_attn_residual", NULL, true },
	[ST_STAGE_FFN_NORM] = { "ffn_norm", NULL, true },
	[ST_STAGE_MOE_ROUTER] = { "moe_router", NULL, true },
	[ST_STAGE_MOE_ROUTER_INDICES] = { "moe_router_indices", NULL, true },
	[ST_STAGE_FFN_GATE] = { "ffn_gate", NULL, true },
	[ST_STAGE_FFN_UP] = { "ffn_up", NULL, true },
	[ST_STAGE_FFN_SILU] = { "ffn_silu", NULL, true },
	[ST_STAGE_FFN_SWIGL] = { "ffn_swigl", NULL, true }, /* spelled so in existing files */
	[ST_STAGE_FFN_OUT] = { "ffn_out", NULL, true },
	[ST_STAGE_MOE_FFN_OUT] = { "moe_ffn_out", NULL, true },
	[ST_STAGE_POST_FFN_NORM] = { "post_ffn_norm", NULL, true },
	[ST_STAGE_POST_FFN_RESIDUAL] = { "post_ffn_residual", "layer_output", true },
	[ST_STAGE_FINAL_NORM] = { "final_norm", NULL, false },
	[ST_STAGE_LM_HEAD] = { "lm_head", NULL, false },
};

/* Names are added one at a time and never change: whoever reads their count first may read them without the lock. */
static struct further {
	const char *name;
	bool per_layer;
	uint64_t order;
} further[ST_MAX_STAGES - ST_STAGE_COUNT];
static atomic_uint n_further;
static pthread_mutex_t adding = PTHREAD_MUTEX_INITIALIZER;

unsigned st_stage_count(void) { return ST_STAGE_COUNT + atomic_load_explicit(&n_further, memory_order_acquire); }

static const struct further *further_at(enum st_stage s)
{
	return (unsigned)s >= ST_STAGE_COUNT && (unsigned)s < st_stage_count() ? &further[s - ST_STAGE_COUNT] : NULL;
}

const char *st_stage_name(enum st_stage s)
{
	const struct further *f = further_at(s);
	return (unsigned)s < ST_STAGE_COUNT ? stages[s].name : f ? f->name : "unknown";
}

static bool same(const char *known, const char *name, size_t len)
{
	return known && strlen(known) == len && strncasecmp(known, name, len) == 0;
}

bool st_stage_parse(const char *name, size_t len, enum st_stage *out)
{
	unsigned n = st_stage_count();
	for (unsigned s = 0; s < n; s++)
		if (same(st_stage_name((enum st_stage)s), name, len)
		    || (s < ST_STAGE_COUNT && same(stages[s].alias, name, len))) {
			*out = (enum st_stage)s;
			return true;
		}
	return false;
}

bool st_stage_per_layer(enum st_stage s)
{
	const struct further *f = further_at(s);
	return (unsigned)s < ST_STAGE_COUNT ? stages[s].per_layer : f && f->per_layer;
}

/* Between two that stand above there is room for 2^32 others. */
uint64_t st_stage_order(enum st_stage s)
{
	const struct further *f = further_at(s);
	return (unsigned)s < ST_STAGE_COUNT ? ((uint64_t)s + 1) << 32 : f ? f->order : UINT64_MAX;
}

enum st_status st_stage_of(const char *name, bool per_layer, enum st_stage after, enum st_stage *out,
                           struct st_error *err)
{
	pthread_mutex_lock(&adding);
	enum st_status st = ST_OK;
	unsigned n = st_stage_count();
	if (st_stage_parse(name, strlen(name), out)) {
		if (st_stage_per_layer(*out) != per_layer)
			st = st_fail(err, ST_ERR_FORMAT, "\"%s\" is the name of a stage %s", name,
			             per_layer ? "that is in no layer" : "of layers");
	} else if (n == ST_MAX_STAGES) {
		st = st_fail(err, ST_ERR_LIMIT, "\"%s\": more than %u names of stages", name, ST_MAX_STAGES);
	} else {
		char *own = st_strdup(name); /* for as long as the process */
		if (own) {
			further[n - ST_STAGE_COUNT] = (struct further){
				own, per_layer, after == ST_STAGE_COUNT ? 0 : st_stage_order(after) + 1
			};
			*out = (enum st_stage)n;
			atomic_store_explicit(&n_further, n + 1 - ST_STAGE_COUNT, memory_order_release);
		} else {
			st = st_fail(err, ST_ERR_NOMEM, "out of memory");
		}
	}
	pthread_mutex_unlock(&adding);
	return st;
}

bool st_stage_set_has(const struct st_stage_set *set, enum st_stage s)
{
	return (unsigned)s < ST_MAX_STAGES && set->bits[s / 64] >> (s % 64) & 1;
}

void st_stage_set_add(struct st_stage_set *set, enum st_stage s)
{
	if ((unsigned)s < ST_MAX_STAGES)
		set->bits[s / 64] |= (uint64_t)1 << (s % 64);
}

void st_stage_set_add_all(struct st_stage_set *set) { memset(set, 0xff, sizeof *set); }

bool st_stage_set_empty(const struct st_stage_set *set)
{
	uint64_t any = 0;
	for (size_t i = 0; i < ST_MAX_STAGES / 64; i++)
		any |= set->bits[i];
	return any == 0;
}

void st_stage_place(uint32_t stage, int32_t layer, char *buf, size_t n)
{
	if (layer < 0)
		snprintf(buf, n, "%s", st_stage_name(stage));
	else
		snprintf(buf, n, "%s of layer %d", st_stage_name(stage), layer);
}
