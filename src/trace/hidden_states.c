/*
 * hidden_states.c - what a transformers model returns, saved as it is: {input_ids, hidden_states, logits, attentions}.
 *
 * hidden_states are L + 1 tensors, or one that stacks them: [0] goes into layer 0, [i] comes out of layer i - 1, and
 * [L] is the last norm's output, not the last layer's. What goes into layer 0 is the embedding in most families and a
 * sum with positions in others: without the model nobody can say, so that it has no stage until one is given to it.
 */
#include "trace/trace.h"

#include "base/error.h"

#include <stdlib.h>
#include <string.h>

static const char states[] = "hidden_states", weights[] = "attentions";

/* "WORD", "WORD.3", "WORD_3" or "WORD[3]". *i: the number, -1 where there is none. *deep: more numbers follow. */
static bool is_series(const char *name, const char *word, int64_t *i, bool *deep)
{
	size_t n = strlen(word);
	*i = -1;
	*deep = false;
	if (strncmp(name, word, n) != 0)
		return false;
	const char *s = name + n;
	if (*s == '\0')
		return true;
	if (!strchr("._[", *s) || s[1] < '0' || s[1] > '9')
		return false;
	bool bracket = *s == '[';
	char *end;
	*i = strtol(s + 1, &end, 10);
	if (bracket && *end++ != ']')
		return false;
	*deep = *end == '.' || *end == '_' || *end == '[';
	return (*end == '\0' || *deep) && *i < INT32_MAX;
}

bool st_hidden_states_is(const struct st_container *c)
{
	if (st_container_is_bundle(c)
	    || (c->format != ST_FORMAT_SAFETENSORS && c->format != ST_FORMAT_NPZ && c->format != ST_FORMAT_NPY
	        && c->format != ST_FORMAT_TORCH))
		return false;
	bool found = false;
	for (size_t i = 0; i < c->n_tensors; i++) {
		struct st_trace_key key;
		int64_t number;
		bool deep;
		if (st_trace_key_parse(c->tensors[i].name, false, &key))
			return false;
		found = found || is_series(c->tensors[i].name, states, &number, &deep);
	}
	return found;
}

struct reading {
	struct st_trace *t;
	struct st_trace_item *items;
	size_t n, n_states, cap;
	struct st_error *err;
};

enum st_status st_refuse_batch(const struct st_tensor *t, struct st_error *err)
{
	return st_fail_at(err, ST_ERR_UNSUPPORTED, ST_NO_OFFSET, t->name,
	                  "holds a batch of %llu sequences; save one of them, without padding",
	                  (unsigned long long)t->shape[0]);
}

/* A mask with a zero in it has padding: rows that stand for no token. */
static enum st_status check_mask(const struct st_tensor *t, struct st_error *err)
{
	if (t->ndim != 2 || t->n_elems == 0 || st_dtype_info(t->dtype)->kind == ST_KIND_QUANT)
		return ST_OK;
	if (t->shape[0] != 1)
		return st_refuse_batch(t, err);
	double *v = st_alloc_array(t->n_elems, sizeof *v);
	ST_NEED(v);
	st_tensor_decode_f64(t, 0, 1, v);
	enum st_status st = ST_OK;
	for (uint64_t i = 0; i < t->n_elems && st == ST_OK; i++)
		if (v[i] == 0)
			st = st_fail_at(err, ST_ERR_UNSUPPORTED, ST_NO_OFFSET, t->name,
			                "position %llu is padding; save the sequence without it", (unsigned long long)i);
	free(v);
	return st;
}

static enum st_status add(struct reading *r, const struct st_tensor *t, enum st_stage stage, int64_t layer,
                          uint32_t batch_of)
{
	if (t->ndim == batch_of && t->shape[0] != 1)
		return st_refuse_batch(t, r->err);
	if (t->ndim + 1 != batch_of && t->ndim != batch_of)
		return st_fail_at(r->err, ST_ERR_FORMAT, ST_NO_OFFSET, t->name, "has %u dimensions, expected %u or %u",
		                  t->ndim, batch_of - 1, batch_of);
	if (t->n_elems == 0)
		return st_fail_at(r->err, ST_ERR_FORMAT, ST_NO_OFFSET, t->name, "holds no values");
	r->items[r->n++] = (struct st_trace_item){
		.key = { .layer = (int32_t)layer, .stage = stage, .part = ST_PART_ALL }, .tensor = t
	};
	return ST_OK;
}

static enum st_status add_state(struct reading *r, const struct st_tensor *t, int64_t i, int64_t n)
{
	if (i == 0)
		return add(r, t, ST_STAGE_EMBEDDING, -1, 3);
	return i == n - 1 ? add(r, t, ST_STAGE_FINAL_NORM, -1, 3) : add(r, t, ST_STAGE_POST_FFN_RESIDUAL, i - 1, 3);
}

static enum st_status add_weights(struct reading *r, const struct st_tensor *t, int64_t i, int64_t n)
{
	(void)n;
	return add(r, t, ST_STAGE_ATTN_SOFTMAX, i, 4);
}

/* A series is given by its word, how many dimensions one of it has with a batch, and what an item becomes. */
struct series {
	const char *word;
	uint32_t ndim;
	enum st_status (*add)(struct reading *r, const struct st_tensor *t, int64_t i, int64_t n);
};

/* Views of the items of a stack. */
static enum st_status unstack(struct reading *r, const struct series *s, const struct st_tensor *t)
{
	uint64_t n = t->shape[0];
	if (t->layout != ST_LAYOUT_ROWS || st_dtype_info(t->dtype)->kind == ST_KIND_QUANT)
		return st_fail_at(r->err, ST_ERR_UNSUPPORTED, ST_NO_OFFSET, t->name,
		                  "is a stack that is not stored in row-major order");
	for (uint64_t i = 0; i < n; i++) {
		struct st_tensor *one = st_arena_alloc(&r->t->arena, 1, sizeof *one);
		char *name = st_arena_printf(&r->t->arena, "%s.%llu", s->word, (unsigned long long)i);
		if (!one || !name)
			return st_fail(r->err, ST_ERR_NOMEM, "out of memory");
		*one = *t;
		one->name = name;
		one->ndim--;
		memmove(one->shape, t->shape + 1, one->ndim * sizeof *one->shape);
		memcpy(one->file_dims, one->shape, sizeof one->file_dims);
		one->n_elems = t->n_elems / n;
		one->n_bytes = t->n_bytes / n;
		one->data = t->data + i * one->n_bytes;
		one->offset = t->offset + i * one->n_bytes;
		ST_TRY(s->add(r, one, (int64_t)i, (int64_t)n));
	}
	return ST_OK;
}

static enum st_status read_stack(struct reading *r, const struct series *s, const struct st_tensor *t, uint64_t *n)
{
	if (t->ndim != s->ndim + 1 && t->ndim != s->ndim)
		return st_fail_at(r->err, ST_ERR_FORMAT, ST_NO_OFFSET, t->name,
		                  "has %u dimensions; a stack of what all layers return has %u or %u", t->ndim, s->ndim,
		                  s->ndim + 1);
	uint64_t rows = t->shape[t->ndim - 2];
	/* Other tools write [tokens, layers, features] or one layer alone under the same name. */
	if (r->t->prov.n_tokens && rows != r->t->prov.n_tokens)
		return st_fail_at(r->err, ST_ERR_FORMAT, ST_NO_OFFSET, t->name,
		                  "has %llu rows for %zu tokens; expected the states of all layers, one above another",
		                  (unsigned long long)rows, r->t->prov.n_tokens);
	*n = t->n_elems ? t->shape[0] : 0;
	return *n <= r->cap ? unstack(r, s, t)
	                    : st_fail_at(r->err, ST_ERR_LIMIT, ST_NO_OFFSET, t->name, "stacks too many tensors");
}

/* *n: how many there are; one stack, or numbers from 0 without a gap. */
static enum st_status read_series(struct reading *r, const struct series *s, uint64_t *n)
{
	const struct st_container *c = r->t->c;
	const struct st_tensor **list = st_arena_alloc(&r->t->arena, c->n_tensors, sizeof(const struct st_tensor *));
	const struct st_tensor *stack = NULL;
	uint64_t count = 0;
	if (!list)
		return st_fail(r->err, ST_ERR_NOMEM, "out of memory");
	memset(list, 0, c->n_tensors * sizeof(const struct st_tensor *));
	for (size_t k = 0; k < c->n_tensors; k++) {
		const struct st_tensor *t = &c->tensors[k];
		int64_t i;
		bool deep;
		if (!is_series(t->name, s->word, &i, &deep))
			continue;
		if (deep)
			return st_fail_at(r->err, ST_ERR_UNSUPPORTED, ST_NO_OFFSET, t->name,
			                  "is one of many passes, as generate() returns them; save what one call of the model "
			                  "returns");
		if (i < 0) {
			stack = t;
		} else if ((uint64_t)i >= c->n_tensors) {
			return st_fail_at(r->err, ST_ERR_FORMAT, ST_NO_OFFSET, t->name,
			                  "is not one of a series without gaps: part of the dump is missing");
		} else if (list[i]) {
			return st_fail_at(r->err, ST_ERR_FORMAT, ST_NO_OFFSET, t->name, "is the same value as %s",
			                  list[i]->name);
		} else {
			list[i] = t;
			count++;
		}
	}
	*n = count;
	if (stack && count)
		return st_fail_at(r->err, ST_ERR_FORMAT, ST_NO_OFFSET, stack->name, "is there whole and also in parts");
	if (stack)
		return read_stack(r, s, stack, n);
	for (uint64_t i = 0; i < count; i++)
		if (!list[i])
			return st_fail_at(r->err, ST_ERR_FORMAT, ST_NO_OFFSET, s->word,
			                  "%llu of the series is missing, so that nobody can say which is the last: part of "
			                  "the dump",
			                  (unsigned long long)i);
	for (uint64_t i = 0; i < count; i++)
		ST_TRY(s->add(r, list[i], (int64_t)i, (int64_t)count));
	return ST_OK;
}

static enum st_status read_rest(struct reading *r)
{
	struct st_trace *t = r->t;
	for (size_t i = 0; i < t->c->n_tensors; i++) {
		const struct st_tensor *x = &t->c->tensors[i];
		int64_t number;
		bool deep;
		if (strcmp(x->name, "input_ids") == 0 || is_series(x->name, states, &number, &deep)
		    || is_series(x->name, weights, &number, &deep))
			continue;
		if (strcmp(x->name, "logits") == 0)
			ST_TRY(add(r, x, ST_STAGE_LM_HEAD, -1, 3));
		else if (strcmp(x->name, "attention_mask") == 0)
			ST_TRY(check_mask(x, r->err));
		else
			t->others[t->n_others++] = x;
	}
	return ST_OK;
}

/* What a connector of vLLM writes has the same name, and layers that the file does not name. */
static enum st_status refuse_connector(const struct st_container *c, struct st_error *err)
{
	const struct st_tensor *t = st_container_find(c, states);
	if (t && st_container_find(c, "token_ids") && !st_container_find(c, "input_ids"))
		return st_fail_at(err, ST_ERR_UNSUPPORTED, ST_NO_OFFSET, t->name,
		                  "beside token_ids is what vLLM's connector writes: the file does not say of which layers");
	return ST_OK;
}

enum st_status st_hidden_states_read(struct st_trace *t, struct st_trace_item **items, size_t *n, struct st_error *err)
{
	static const struct series all[] = { { states, 3, add_state }, { weights, 4, add_weights } };
	uint64_t counts[2], room = 1;
	ST_TRY(refuse_connector(t->c, err));
	struct reading r = { .t = t, .err = err };
	/* A stack counts its items itself. Each has at least one byte, and the file holds them. */
	for (size_t i = 0; i < t->c->n_tensors; i++) {
		const struct st_tensor *x = &t->c->tensors[i];
		int64_t number;
		bool deep, one = is_series(x->name, states, &number, &deep) || is_series(x->name, weights, &number, &deep);
		room += one && number < 0 && x->ndim > 2 && x->shape[0] <= x->n_bytes ? x->shape[0] : 1;
	}
	r.cap = room;
	r.items = st_arena_alloc(&t->arena, room, sizeof *r.items);
	t->others = st_arena_alloc(&t->arena, t->c->n_tensors, sizeof(const struct st_tensor *));
	if (!r.items || !t->others)
		return st_fail(err, ST_ERR_NOMEM, "out of memory");
	for (size_t i = 0; i < 2; i++)
		ST_TRY(read_series(&r, &all[i], &counts[i]));
	if (counts[0] < 2)
		return st_fail_at(err, ST_ERR_FORMAT, ST_NO_OFFSET, states, "is one state; those of all layers are needed");
	if (counts[1] && counts[1] + 1 != counts[0])
		return st_fail_at(err, ST_ERR_FORMAT, ST_NO_OFFSET, weights,
		                  "are of %llu layers, and the hidden states of %llu", (unsigned long long)counts[1],
		                  (unsigned long long)counts[0] - 1);
	if (counts[0] - 1 > INT32_MAX)
		return st_fail_at(err, ST_ERR_LIMIT, ST_NO_OFFSET, states, "are too many");
	ST_TRY(read_rest(&r));
	t->prov.layers = (uint32_t)(counts[0] - 1);
	*items = r.items;
	*n = r.n;
	return ST_OK;
}

void st_trace_set_input(struct st_trace *t, enum st_stage stage)
{
	if (!t->input.tensor)
		return;
	const struct st_trace_key key = { .layer = -1, .stage = stage, .part = ST_PART_ALL };
	size_t at = 0;
	for (; at < t->n_entries; at++) {
		const struct st_trace_entry *e = &t->entries[at];
		const struct st_trace_key k = { .step = e->step, .layer = e->layer, .stage = e->stage };
		if (st_trace_key_order(&key, &k) < 0)
			break;
	}
	memmove(t->entries + at + 1, t->entries + at, (t->n_entries - at) * sizeof *t->entries);
	t->entries[at] = t->input;
	t->entries[at].stage = stage;
	t->n_entries++;
	t->n_others--; /* the last one, where open.c put it */
	t->input.tensor = NULL;
}
