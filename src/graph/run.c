/* run.c - a run's storage: planned in one pass, allocated in one piece. */
#include "graph/run.h"

#include "base/error.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#define ALIGN 64

/* Lays out the block. With base == NULL it only counts: the plan and the allocation are one code. */
struct layout {
	char *base;
	uint64_t used;
	bool overflow;
};

static void *take(struct layout *l, uint64_t n, uint64_t size)
{
	uint64_t bytes, end;
	if (!st_mul_u64(n, size, &bytes) || !st_round_up(bytes, ALIGN, &bytes) || !st_add_u64(l->used, bytes, &end)) {
		l->overflow = true;
		return NULL;
	}
	void *p = l->base ? l->base + l->used : NULL;
	l->used = end;
	return p;
}

unsigned st_run_slot(const struct st_node *n)
{
	if (n->stage == ST_STAGE_POST_FFN_RESIDUAL && n->layer % 2 == 1)
		return ST_SLOT_RESIDUAL_ODD;
	return n->stage;
}

/* Rows of a node's value for T tokens. Scores and probabilities: one row per head and token. */
static size_t value_rows(const struct st_run *r, const struct st_node *n, size_t T)
{
	if (n->op == ST_OP_SCORES || n->op == ST_OP_SOFTMAX)
		return (size_t)n->heads * T;
	if (n->stage == ST_STAGE_LM_HEAD && (r->flags & ST_RUN_HEAD_LAST))
		return 1;
	return T;
}

static size_t value_cols(const struct st_node *n, size_t P)
{
	return n->op == ST_OP_SCORES || n->op == ST_OP_SOFTMAX ? P : n->width;
}

static bool is_cached_k(const struct st_run *r, uint32_t i)
{
	int32_t layer = r->g->nodes[i].layer;
	return layer >= 0 && r->cache[layer].k_node == i;
}

/* Which nodes fill the cache of each layer, as the attention nodes read it. */
static void find_cached(struct st_run *r)
{
	const struct st_graph *g = r->g;
	for (uint32_t l = 0; l < g->n_layers; l++)
		r->cache[l].k_node = r->cache[l].v_node = ST_NO_NODE;
	for (uint32_t i = 0; i < g->n_nodes; i++) {
		const struct st_node *n = &g->nodes[i];
		if (n->op != ST_OP_SCORES && n->op != ST_OP_MIX)
			continue;
		struct st_layer_cache *c = &r->cache[n->layer];
		size_t width = (size_t)n->kv_heads * n->head_dim;
		if (n->op == ST_OP_SCORES) {
			c->k_node = n->in[1];
			c->k_width = width;
		} else {
			c->v_node = n->in[1];
			c->v_slice = n->slice;
			c->v_width = width;
		}
	}
}

static size_t scratch_for(const struct st_exec *e, size_t T, size_t K)
{
	/* A node may be evaluated alone in any mode, so the plan covers all of them. */
	size_t most = 0;
	for (int m = 0; m < ST_MODE_COUNT; m++) {
		struct st_exec each = *e;
		each.mode = (enum st_mode)m;
		size_t n = st_matmul_scratch(&each, T, K);
		most = n > most ? n : most;
	}
	return most;
}

/* Everything the block holds, in this order. r->cache must be filled in (find_cached). */
static void lay_out(struct st_run *r, struct layout *l)
{
	const struct st_graph *g = r->g;
	uint64_t elems[ST_SLOT_COUNT] = { 0 }, vec = 0;
	r->scratch_size = 0;

	r->tokens = take(l, r->max_tokens, sizeof *r->tokens);
	r->pos = take(l, r->max_tokens, sizeof *r->pos);
	for (uint32_t i = 0; i < g->n_nodes; i++) {
		const struct st_node *n = &g->nodes[i];
		uint64_t size = 0;
		if (!st_mul_u64(value_rows(r, n, r->max_tokens), value_cols(n, r->max_positions), &size))
			l->overflow = true;
		uint64_t *slot = &elems[st_run_slot(n)];
		if (size > *slot && !is_cached_k(r, i))
			*slot = size;
		if (n->op == ST_OP_RMSNORM || n->op == ST_OP_HEADNORM || n->op == ST_OP_BIAS)
			vec = n->width > vec ? n->width : vec;
		if (n->op == ST_OP_LINEAR) {
			size_t s = scratch_for(&r->e, r->max_tokens, g->nodes[n->in[0]].width);
			r->scratch_size = s > r->scratch_size ? s : r->scratch_size;
		}
	}
	for (unsigned s = 0; s < ST_SLOT_COUNT; s++)
		r->slot[s] = elems[s] ? take(l, elems[s], sizeof(float)) : NULL;
	for (uint32_t i = 0; i < g->n_layers; i++) {
		struct st_layer_cache *c = &r->cache[i];
		/* Positions fit 32 bits and widths fit 24 (a family's limits), so that this cannot overflow. */
		c->k = take(l, (uint64_t)r->max_positions * c->k_width, sizeof(float));
		c->v = take(l, (uint64_t)r->max_positions * c->v_width, sizeof(float));
	}
	r->vec = take(l, vec, sizeof(float));
	r->scratch = take(l, r->scratch_size, 1);
}

/* The fixed part of a run: known sizes, no storage yet. */
static bool prepare(struct st_run *r, const struct st_graph *g, const struct st_exec *e, size_t max_tokens,
                    size_t max_positions, unsigned flags)
{
	memset(r, 0, sizeof *r);
	r->g = g;
	r->e = *e;
	r->max_tokens = max_tokens;
	r->max_positions = max_positions;
	r->flags = flags;
	for (unsigned s = 0; s < ST_SLOT_COUNT; s++)
		r->held[s] = ST_NO_NODE;
	r->cache = st_alloc_zeroed(g->n_layers, sizeof *r->cache);
	if (!r->cache)
		return false;
	find_cached(r);
	return true;
}

uint64_t st_run_memory_flags(const struct st_graph *g, const struct st_exec *e, size_t max_tokens, size_t max_positions,
                             unsigned flags)
{
	struct st_run r;
	struct layout l = { 0 };
	if (max_positions > UINT32_MAX || !prepare(&r, g, e, max_tokens, max_positions, flags))
		return UINT64_MAX;
	lay_out(&r, &l);
	free(r.cache);
	uint64_t fixed = sizeof r + (uint64_t)g->n_layers * sizeof *r.cache, all;
	return l.overflow || !st_add_u64(l.used, fixed, &all) ? UINT64_MAX : all;
}

uint64_t st_run_memory(const struct st_graph *g, const struct st_exec *e, size_t max_tokens, size_t max_positions)
{
	return st_run_memory_flags(g, e, max_tokens, max_positions, 0);
}

enum st_status st_run_open_flags(const struct st_graph *g, const struct st_exec *e, size_t max_tokens,
                                 size_t max_positions, unsigned flags, struct st_run **out, struct st_error *err)
{
	if (max_tokens == 0 || max_positions < max_tokens || max_positions > UINT32_MAX)
		return st_fail(err, ST_ERR_USAGE,
		               "a run of at most %zu tokens at a time and %zu positions makes no sense", max_tokens,
		               max_positions);
	struct st_run *r = st_alloc_array(1, sizeof *r);
	if (!r)
		return st_fail(err, ST_ERR_NOMEM, "no memory for a run");
	if (!prepare(r, g, e, max_tokens, max_positions, flags)) {
		free(r);
		return st_fail(err, ST_ERR_NOMEM, "no memory for a run");
	}
	struct layout count = { 0 };
	lay_out(r, &count);
	struct layout real = { 0 };
	real.base = r->block = count.overflow ? NULL : st_alloc_array(count.used, 1);
	if (!r->block) {
		st_run_close(r);
		return st_fail(err, ST_ERR_NOMEM,
		               "no memory for a run of %zu tokens at a time and %zu positions (%llu bytes)", max_tokens,
		               max_positions, (unsigned long long)count.used);
	}
	lay_out(r, &real);
	assert(real.used == count.used);
	*out = r;
	return ST_OK;
}

enum st_status st_run_open(const struct st_graph *g, const struct st_exec *e, size_t max_tokens, size_t max_positions,
                           struct st_run **out, struct st_error *err)
{
	return st_run_open_flags(g, e, max_tokens, max_positions, 0, out, err);
}

void st_run_close(struct st_run *r)
{
	if (!r)
		return;
	free(r->block);
	free(r->cache);
	free(r);
}

enum st_status st_run_begin(struct st_run *r, const uint32_t *tokens, size_t T, struct st_error *err)
{
	if (T == 0)
		return st_fail(err, ST_ERR_USAGE, "no tokens to evaluate");
	if (T > r->max_tokens)
		return st_fail(err, ST_ERR_LIMIT, "%zu tokens at once, the run was opened for %zu", T, r->max_tokens);
	if (T > r->max_positions - r->P)
		return st_fail(err, ST_ERR_LIMIT, "%zu more tokens after %zu exceed the %zu positions of the run", T,
		               r->P, r->max_positions);
	for (size_t t = 0; t < T; t++)
		if (tokens[t] >= r->g->vocab)
			return st_fail(err, ST_ERR_USAGE, "token %zu is id %u, the vocabulary has %u ids", t, tokens[t],
			               r->g->vocab);
	for (size_t t = 0; t < T; t++) {
		r->tokens[t] = tokens[t];
		r->pos[t] = (uint32_t)(r->P + t);
	}
	r->T = T;
	r->P += T;
	for (unsigned s = 0; s < ST_SLOT_COUNT; s++)
		r->held[s] = ST_NO_NODE;
	return ST_OK;
}

struct st_value st_run_value(const struct st_run *r, uint32_t i)
{
	const struct st_node *n = &r->g->nodes[i];
	struct st_value v = { .rows = value_rows(r, n, r->T), .cols = value_cols(n, r->P) };
	if (is_cached_k(r, i)) /* K lives in the cache only: nothing to copy, nothing to disagree */
		v.data = r->cache[n->layer].k + (r->P - r->T) * r->cache[n->layer].k_width;
	else
		v.data = r->slot[st_run_slot(n)];
	return v;
}

void st_run_settle(struct st_run *r, uint32_t i)
{
	const struct st_node *n = &r->g->nodes[i];
	r->held[st_run_slot(n)] = i;
	if (n->layer < 0 || r->cache[n->layer].v_node != i)
		return;
	const struct st_layer_cache *c = &r->cache[n->layer];
	const float *src = st_run_value(r, i).data + c->v_slice;
	float *dst = c->v + (r->P - r->T) * c->v_width;
	for (size_t t = 0; t < r->T; t++, src += n->width, dst += c->v_width)
		memcpy(dst, src, c->v_width * sizeof *dst);
}

void st_run_put(struct st_run *r, uint32_t i, const float *data)
{
	struct st_value v = st_run_value(r, i);
	if (data != v.data)
		memcpy(v.data, data, v.rows * v.cols * sizeof *data);
	st_run_settle(r, i);
}

size_t st_run_tokens(const struct st_run *r) { return r->T; }
size_t st_run_positions(const struct st_run *r) { return r->P; }
