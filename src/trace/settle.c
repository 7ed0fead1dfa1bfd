/*
 * settle.c - what a dump leaves unsaid about its axes: a batch of one in front, the features of heads apart, the last
 * position alone.
 */
#include "trace/trace.h"

#include "base/error.h"

#include <string.h>

static bool is_scores(enum st_stage s) { return s == ST_STAGE_ATTN_SCORES || s == ST_STAGE_ATTN_SOFTMAX; }

/* Stages whose features may come as [heads, size], so that three dimensions do not tell a batch from a token. */
static bool has_heads(enum st_stage s)
{
	return s == ST_STAGE_Q_POST_NORM || s == ST_STAGE_K_POST_NORM || s == ST_STAGE_Q_POST_ROPE
	    || s == ST_STAGE_K_POST_ROPE || s == ST_STAGE_ATTENTION || s == ST_STAGE_QKV_MATMUL
	    || s == ST_STAGE_QKV_BIAS;
}

/* How many positions the prompt has: said, or the most that a stage without heads holds. 0: nothing tells. */
static uint64_t n_positions(const struct st_trace_item *items, size_t n, size_t n_tokens)
{
	uint64_t most = n_tokens;
	for (size_t i = 0; n_tokens == 0 && i < n; i++) {
		const struct st_tensor *t = items[i].tensor;
		enum st_stage s = items[i].key.stage;
		if (items[i].key.step || is_scores(s) || has_heads(s) || items[i].positions)
			continue;
		uint64_t rows = t->ndim == 2 ? t->shape[0] : t->ndim == 3 && t->shape[0] == 1 ? t->shape[1] : 0;
		most = rows > most ? rows : most;
	}
	return most;
}

static bool has_batch(const struct st_trace_item *it, uint64_t positions)
{
	const struct st_tensor *t = it->tensor;
	uint64_t rows = it->positions ? it->n_positions : it->key.step ? 1 : positions;
	if (t->ndim == 0 || t->shape[0] != 1)
		return false;
	if (is_scores(it->key.stage))
		return t->ndim == 4;
	if (t->ndim < 3)
		return false;
	/* [1, heads, size] of one position looks like [1, tokens, size]: a number of tokens decides. */
	return t->ndim > 3 || !has_heads(it->key.stage) || (rows ? t->shape[1] == rows : true);
}

/* A view of the same bytes: without the batch, and with one axis of features. */
static enum st_status reshape(struct st_trace_item *it, bool batch, struct st_arena *arena, struct st_error *err)
{
	const struct st_tensor *from = it->tensor;
	bool flatten = !is_scores(it->key.stage) && from->layout == ST_LAYOUT_ROWS && from->ndim - batch > 2
	            && from->n_elems > 0;
	if (!batch && !flatten)
		return ST_OK;
	struct st_tensor *t = st_arena_alloc(arena, 1, sizeof *t);
	ST_NEED(t);
	*t = *from;
	t->ndim -= batch;
	for (uint32_t i = 0; i < t->ndim; i++) {
		t->shape[i] = from->shape[i + batch];
		t->strides[i] = from->strides[i + batch];
	}
	if (flatten) {
		t->ndim = 2;
		t->shape[1] = t->n_elems / t->shape[0];
		t->row_bytes = t->n_bytes / t->shape[0];
	}
	it->tensor = t;
	return ST_OK;
}

enum st_status st_trace_settle(struct st_trace_item *items, size_t n, size_t n_tokens, struct st_arena *arena,
                               struct st_error *err)
{
	uint64_t positions = n_positions(items, n, n_tokens);
	for (size_t i = 0; i < n; i++) {
		struct st_trace_item *it = &items[i];
		ST_TRY(reshape(it, has_batch(it, positions), arena, err));
		/* One row beside others with more: engines go on with the last position alone. */
		if (it->key.step || it->positions || is_scores(it->key.stage) || it->tensor->ndim != 2
		    || it->tensor->shape[0] != 1 || positions < 2 || positions > UINT32_MAX)
			continue;
		uint32_t *last = st_arena_alloc(arena, 1, sizeof *last);
		ST_NEED(last);
		*last = (uint32_t)positions - 1;
		it->positions = last;
		it->n_positions = 1;
	}
	return ST_OK;
}
