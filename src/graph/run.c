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

/* Where K is all of a node's value, and V none of it, it lives in the cache only: there is no copy to disagree. */
static bool is_cached_k(const struct st_run *r, uint32_t i)
{
	const struct st_node *n = &r->g->nodes[i];
	if (n->layer < 0 || r->cache[n->layer].k_node != i)
		return false;
	const struct st_layer_cache *c = &r->cache[n->layer];
	return c->k_width == n->width && c->v_node != i;
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
			c->k_from = n->from[1];
			c->k_width = width;
		} else {
			c->v_node = n->in[1];
			c->v_from = n->from[1];
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
	uint64_t vec = 0, experts = 0, state = 0;
	r->scratch_size = 0;

	r->tokens = take(l, r->max_tokens, sizeof *r->tokens);
	r->pos = take(l, r->max_tokens, sizeof *r->pos);
	memset(r->elems, 0, g->n_slots * sizeof *r->elems);
	for (uint32_t i = 0; i < g->n_nodes; i++) {
		const struct st_node *n = &g->nodes[i];
		uint64_t size = 0;
		if (!st_mul_u64(value_rows(r, n, r->max_tokens), value_cols(n, r->max_positions), &size))
			l->overflow = true;
		uint64_t *slot = &r->elems[n->slot];
		if (size > *slot && !is_cached_k(r, i))
			*slot = size;
		if (n->n_w && n->op != ST_OP_LINEAR && n->op != ST_OP_LINEAR_AT) {
			uint64_t need = (uint64_t)n->width * (n->op == ST_OP_LAYERNORM ? 2 : 1);
			for (uint32_t k = 0; k < n->n_w; k++) /* parts are decoded with what they are parts of */
				need += n->w[k] && n->w[k]->group_rows ? n->w[k]->tensor->n_elems : 0;
			vec = need > vec ? need : vec;
		}
		if (n->state) {
			r->state[i].before = take(l, n->state, sizeof(double));
			r->state[i].after = take(l, n->state, sizeof(double));
			state = n->state > state ? n->state : state;
			for (uint32_t k = 0, w = 0; k < n->n_w; k++) { /* all of them are decoded side by side */
				w += n->w[k] ? (uint32_t)n->w[k]->tensor->n_elems : 0;
				vec = w > vec ? w : vec;
			}
		}
		if (n->op == ST_OP_LINEAR_BLOCKS && n->w[0]->tensor->n_elems > vec)
			vec = n->w[0]->tensor->n_elems;
		if (n->op == ST_OP_XIELU && vec < 1)
			vec = 1;
		if (n->op == ST_OP_TOP) { /* a bias, its sum with the input, and that without the other groups */
			uint64_t need = 3 * (uint64_t)g->nodes[n->in[0]].width;
			vec = need > vec ? need : vec;
		}
		if (n->op == ST_OP_LINEAR || n->op == ST_OP_LINEAR_AT) {
			size_t s = scratch_for(&r->e, r->max_tokens, g->nodes[n->in[0]].width);
			r->scratch_size = s > r->scratch_size ? s : r->scratch_size;
		}
		if (n->op == ST_OP_LINEAR_AT) { /* a row for each choice goes in and comes out */
			uint64_t in = 0, both = 0, need = 0;
			if (!st_mul_u64(n->choices, st_tensor_cols(&n->w[0]->experts[0]), &in)
			    || !st_add_u64(in, n->width, &both) || !st_mul_u64(both, r->max_tokens, &need))
				l->overflow = true;
			experts = need > experts ? need : experts;
		}
	}
	for (uint32_t s = 0; s < g->n_slots; s++)
		r->slot[s] = r->elems[s] ? take(l, r->elems[s], sizeof(float)) : NULL;
	for (uint32_t i = 0; i < g->n_layers; i++) {
		struct st_layer_cache *c = &r->cache[i];
		/* Positions fit 32 bits and widths fit 24 (a family's limits), so that this cannot overflow. */
		c->k = take(l, (uint64_t)r->max_positions * c->k_width, sizeof(float));
		c->v = take(l, (uint64_t)r->max_positions * c->v_width, sizeof(float));
	}
	r->state_alone = take(l, state, sizeof(double));
	r->vec = take(l, vec, sizeof(float));
	r->experts = take(l, experts, sizeof(float));
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
	r->cache = st_alloc_zeroed(g->n_layers, sizeof *r->cache);
	r->slot = st_alloc_zeroed(g->n_slots, sizeof *r->slot);
	r->state = st_alloc_zeroed(g->n_nodes, sizeof *r->state);
	r->held = st_alloc_zeroed(g->n_slots, sizeof *r->held);
	r->elems = st_alloc_zeroed(g->n_slots, sizeof *r->elems);
	if (!r->cache || !r->slot || !r->state || !r->held || !r->elems)
		return false;
	for (uint32_t s = 0; s < g->n_slots; s++)
		r->held[s] = ST_NO_NODE;
	find_cached(r);
	return true;
}

static void release_parts(struct st_run *r)
{
	free(r->cache);
	free(r->slot);
	free(r->state);
	free(r->held);
	free(r->elems);
}

uint64_t st_run_memory_flags(const struct st_graph *g, const struct st_exec *e, size_t max_tokens, size_t max_positions,
                             unsigned flags)
{
	struct st_run r;
	struct layout l = { 0 };
	if (max_positions > UINT32_MAX)
		return UINT64_MAX;
	bool ready = prepare(&r, g, e, max_tokens, max_positions, flags);
	if (ready)
		lay_out(&r, &l);
	release_parts(&r);
	if (!ready)
		return UINT64_MAX;
	uint64_t slots = (uint64_t)g->n_slots * (sizeof *r.slot + sizeof *r.held + sizeof *r.elems);
	uint64_t fixed = sizeof r + (uint64_t)g->n_layers * sizeof *r.cache + slots, all;
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
		st_run_close(r);
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
	for (uint32_t i = 0; i < g->n_nodes; i++)
		if (g->nodes[i].state)
			memset(r->state[i].before, 0, g->nodes[i].state * sizeof(double));
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
	release_parts(r);
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
	for (uint32_t i = 0; i < r->g->n_nodes; i++) {
		struct st_node_state *s = &r->state[i];
		if (r->P > 0 && s->after_at == r->P && s->before_at != r->P)
			*s = (struct st_node_state){ s->after, s->before, s->after_at, s->before_at };
	}
	r->T = T;
	r->P += T;
	for (uint32_t s = 0; s < r->g->n_slots; s++)
		r->held[s] = ST_NO_NODE;
	return ST_OK;
}

struct st_value st_run_value(const struct st_run *r, uint32_t i)
{
	const struct st_node *n = &r->g->nodes[i];
	struct st_value v = { .rows = value_rows(r, n, r->T), .cols = value_cols(n, r->P) };
	if (is_cached_k(r, i))
		v.data = r->cache[n->layer].k + (r->P - r->T) * r->cache[n->layer].k_width;
	else
		v.data = r->slot[n->slot];
	return v;
}

static void keep(const struct st_run *r, const struct st_value *v, uint32_t from, size_t width, float *cache)
{
	const float *src = v->data + from;
	float *dst = cache + (r->P - r->T) * width;
	for (size_t t = 0; t < r->T; t++, src += v->cols, dst += width)
		memcpy(dst, src, width * sizeof *dst);
}

void st_run_settle(struct st_run *r, uint32_t i)
{
	const struct st_node *n = &r->g->nodes[i];
	r->held[n->slot] = i;
	if (n->layer < 0)
		return;
	const struct st_layer_cache *c = &r->cache[n->layer];
	struct st_value v = st_run_value(r, i);
	if (c->k_node == i && !is_cached_k(r, i))
		keep(r, &v, c->k_from, c->k_width, c->k);
	if (c->v_node == i)
		keep(r, &v, c->v_from, c->v_width, c->v);
}

struct st_cached st_run_cached(const struct st_run *r, int32_t layer)
{
	if (layer < 0 || (uint32_t)layer >= r->g->n_layers)
		return (struct st_cached){ 0 };
	const struct st_layer_cache *c = &r->cache[layer];
	return (struct st_cached){ c->k, c->v, c->k_width, c->v_width };
}

bool st_run_holds(const struct st_run *r, uint32_t i) { return r->held[r->g->nodes[i].slot] == i; }
size_t st_run_tokens(const struct st_run *r) { return r->T; }
size_t st_run_positions(const struct st_run *r) { return r->P; }
