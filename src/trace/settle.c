/*
 * settle.c - what a dump leaves unsaid about its axes: a batch of one in front, the features of heads apart, before or
 * behind the positions, the last position alone.
 */
#include "graph/stage.h"
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

enum order { UNKNOWN, TOKENS_FIRST, HEADS_FIRST };

/* Of [a, b, size]: which of the two counts positions, of which there are `rows` (0: not known). */
static enum order order_by_rows(uint64_t a, uint64_t b, uint64_t rows)
{
	return rows == 0 || (a == rows) == (b == rows) ? UNKNOWN : a == rows ? TOKENS_FIRST : HEADS_FIRST;
}

static bool is_turned(enum st_stage s)
{
	return s == ST_STAGE_Q_POST_NORM || s == ST_STAGE_K_POST_NORM || s == ST_STAGE_Q_POST_ROPE
	    || s == ST_STAGE_K_POST_ROPE;
}

/* The first of the two axes in front of the size of heads; NULL where an item has no such axes. */
static const uint64_t *head_axes(const struct st_trace_item *it)
{
	const struct st_tensor *t = it->tensor;
	if (!has_heads(it->key.stage) || it->key.step)
		return NULL;
	return t->ndim == 3 && t->shape[0] != 1 ? t->shape : t->ndim == 4 && t->shape[0] == 1 ? t->shape + 1 : NULL;
}

/*
 * The order of the queries and keys of this dump, which were all taken at one place of the program: one of them whose
 * heads are not as many as its positions tells it, and so does a pair with other numbers of heads.
 */
static enum order order_of_dump(const struct st_trace_item *items, size_t n, uint64_t *positions)
{
	const uint64_t *first = NULL;
	for (size_t i = 0; i < n; i++) {
		const uint64_t *x = is_turned(items[i].key.stage) ? head_axes(&items[i]) : NULL;
		if (!x)
			continue;
		enum order o = order_by_rows(x[0], x[1], *positions);
		if (o == UNKNOWN && first && *positions == 0 && (x[0] == first[0]) != (x[1] == first[1])) {
			o = x[0] == first[0] ? TOKENS_FIRST : HEADS_FIRST;
			*positions = x[o == HEADS_FIRST];
		}
		if (o != UNKNOWN)
			return o;
		first = first ? first : x;
	}
	return UNKNOWN;
}

/* Where an element of a tensor of three dimensions lies. */
static const uint8_t *element(const struct st_tensor *t, size_t size, const uint64_t i[3])
{
	if (t->layout == ST_LAYOUT_STRIDED)
		return t->data
		     + ((int64_t)i[0] * t->strides[0] + (int64_t)i[1] * t->strides[1] + (int64_t)i[2] * t->strides[2])
		               * (int64_t)size;
	return t->data + (i[0] * t->shape[1] + i[1]) * t->row_bytes + i[2] * size;
}

enum st_status st_trace_join_heads(const struct st_tensor *from, bool heads_first, struct st_arena *arena,
                                   const struct st_tensor **out, struct st_error *err)
{
	struct st_tensor *t = st_arena_alloc(arena, 1, sizeof *t);
	uint8_t *data = st_arena_alloc(arena, from->n_bytes, 1), *to = data;
	if (!t || !data)
		return st_fail(err, ST_ERR_NOMEM, "out of memory");
	uint64_t rows = from->shape[heads_first], heads = from->shape[!heads_first], d = from->shape[2];
	size_t size = (size_t)(from->n_bytes / from->n_elems);
	for (uint64_t r = 0; r < rows; r++)
		for (uint64_t h = 0; h < heads; h++)
			for (uint64_t k = 0; k < d; k++, to += size)
				memcpy(to,
				       element(from, size,
				               (uint64_t[3]){ heads_first ? h : r, heads_first ? r : h, k }),
				       size);
	*t = *from;
	t->layout = ST_LAYOUT_ROWS;
	t->ndim = 2;
	t->shape[0] = rows;
	t->shape[1] = heads * d;
	t->row_bytes = t->shape[1] * size;
	t->data = data;
	*out = t;
	return ST_OK;
}

/* A view of the same bytes: without the batch, and with one axis of features. Values whose positions stand behind the
 * heads are copied; where nothing tells, three axes are left. */
static enum st_status reshape(struct st_trace_item *it, bool batch, uint64_t positions, enum order dump,
                              struct st_arena *arena, struct st_error *err)
{
	const struct st_tensor *from = it->tensor;
	bool flatten = !is_scores(it->key.stage) && from->ndim - batch > 2 && from->n_elems > 0;
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
	it->tensor = t;
	if (!flatten)
		return ST_OK;
	if (t->ndim == 3 && has_heads(it->key.stage)) {
		uint64_t rows = it->positions ? it->n_positions : it->key.step ? 1 : positions;
		enum order o = order_by_rows(t->shape[0], t->shape[1], rows);
		if (o == UNKNOWN && is_turned(it->key.stage) && (rows == 0 || t->shape[0] == rows))
			o = dump;
		bool plain = st_dtype_info(t->dtype)->kind != ST_KIND_QUANT && t->layout != ST_LAYOUT_APART
		          && t->layout != ST_LAYOUT_FLAT;
		if (o == UNKNOWN || !plain)
			return ST_OK;
		if (o == HEADS_FIRST || t->layout == ST_LAYOUT_STRIDED)
			return st_trace_join_heads(t, o == HEADS_FIRST, arena, &it->tensor, err);
	}
	if (t->layout != ST_LAYOUT_ROWS)
		return ST_OK;
	t->ndim = 2;
	t->shape[1] = t->n_elems / t->shape[0];
	t->row_bytes = t->n_bytes / t->shape[0];
	return ST_OK;
}

enum st_status st_trace_settle(struct st_trace_item *items, size_t n, size_t n_tokens, struct st_arena *arena,
                               struct st_error *err)
{
	uint64_t positions = n_positions(items, n, n_tokens);
	enum order dump = order_of_dump(items, n, &positions);
	for (size_t i = 0; i < n; i++) {
		struct st_trace_item *it = &items[i];
		ST_TRY(reshape(it, has_batch(it, positions), positions, dump, arena, err));
		/* One row beside others with more: engines go on with the last position alone. */
		if (it->key.step || it->positions || is_scores(it->key.stage) || it->tensor->ndim != 2
		    || it->tensor->shape[0] != 1 || positions < 2 || positions > UINT32_MAX)
			continue;
		uint32_t *last = st_arena_alloc(arena, 1, sizeof *last);
		ST_NEED(last);
		*last = (uint32_t)positions - 1;
		it->positions = last;
		it->n_positions = 1;
		it->assumed = true;
	}
	return ST_OK;
}
