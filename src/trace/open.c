/*
 * open.c - reading a trace: a bundle, an npz with bundle keys, an APRT tree.
 *
 * The container has checked every byte range. Here names get their meaning, lists of positions their
 * tensors, and whatever contradicts itself is refused by name: a value that nobody can place would
 * otherwise be compared with the wrong one, or silently not at all.
 */
#include "graph/stage.h"
#include "trace/trace.h"

#include "base/error.h"

#include <stdlib.h>
#include <string.h>

struct reader {
	struct st_trace *t;
	bool loose, states; /* states: hidden_states.c reads it */
	struct st_trace_item *items;
	size_t n_items;
};

/* ---- lists in an npz: arrays of integers ---- */

static enum st_status read_array(const struct st_tensor *t, struct st_arena *arena, uint32_t **out, size_t *n,
                                 struct st_error *err)
{
	bool batch = t->ndim == 2 && t->shape[0] == 1; /* of one, as models take them */
	if (st_dtype_info(t->dtype)->kind != ST_KIND_INT || (t->ndim != 1 && !batch))
		return st_fail_at(err, ST_ERR_FORMAT, ST_NO_OFFSET, t->name, "is no list of integers");
	double *v = st_alloc_array(t->n_elems, sizeof *v);
	uint32_t *list = st_arena_alloc(arena, t->n_elems, sizeof *list);
	enum st_status st = v && list ? ST_OK : st_fail(err, ST_ERR_NOMEM, "out of memory");
	if (st == ST_OK)
		st_tensor_decode_f64(t, 0, 1, v);
	for (uint64_t i = 0; i < t->n_elems && st == ST_OK; i++) {
		if (v[i] < 0 || v[i] > UINT32_MAX)
			st = st_fail_at(err, ST_ERR_FORMAT, ST_NO_OFFSET, t->name,
			                "item %llu is not from 0 to 4294967295", (unsigned long long)i);
		else
			list[i] = (uint32_t)v[i];
	}
	free(v);
	if (st == ST_OK) {
		*out = list;
		*n = (size_t)t->n_elems;
	}
	return st;
}

/* Arrays of integers beside the values: tokens, positions. A marked bundle has them in its metadata. */
static bool has_lists(const struct st_container *c)
{
	return c->format == ST_FORMAT_NPZ || c->format == ST_FORMAT_NPY
	    || (c->format == ST_FORMAT_SAFETENSORS && !st_container_is_bundle(c));
}

static enum st_status read_provenance(struct reader *r, struct st_error *err)
{
	struct st_trace *t = r->t;
	if (t->c->docs.metadata && (st_container_is_bundle(t->c) || t->c->format != ST_FORMAT_SAFETENSORS)) {
		ST_TRY(st_provenance_read(t->c->docs.metadata, &t->prov, &t->arena, err));
		t->prov.known = true;
	}
	const struct st_tensor *tokens = st_container_find(t->c, r->states ? "input_ids" : "tokens");
	if (r->states && tokens && tokens->ndim == 2 && tokens->shape[0] > 1)
		return st_refuse_batch(tokens, err);
	if (tokens && (r->states || has_lists(t->c))) {
		ST_TRY(read_array(tokens, &t->arena, &t->prov.tokens, &t->prov.n_tokens, err));
		t->prov.known = true;
	}
	return ST_OK;
}

/* ---- tensors to items ---- */

#define POSITIONS "positions."

static bool is_positions(const char *name) { return strncmp(name, POSITIONS, strlen(POSITIONS)) == 0; }

/* The token of a decode step: one integer. Kept in step order in prov.step_tokens. */
static enum st_status read_step_token(struct reader *r, const struct st_trace_item *it, uint32_t n_steps,
                                      struct st_error *err)
{
	struct st_provenance *p = &r->t->prov;
	const struct st_tensor *t = it->tensor;
	double v = -1;
	if (t->n_elems != 1 || st_dtype_info(t->dtype)->kind != ST_KIND_INT)
		return st_fail_at(err, ST_ERR_FORMAT, ST_NO_OFFSET, t->name, "is not one integer");
	st_tensor_decode_f64(t, 0, 1, &v);
	if (v < 0 || v > UINT32_MAX)
		return st_fail_at(err, ST_ERR_FORMAT, ST_NO_OFFSET, t->name, "is no token id");
	if (it->key.step > n_steps)
		return st_fail_at(err, ST_ERR_FORMAT, ST_NO_OFFSET, t->name, "the token of an earlier step is missing");
	p->step_tokens[it->key.step - 1] = (uint32_t)v;
	return ST_OK;
}

/* There are as many tokens as token tensors: with unique names, steps 1, 2, ... without a gap. */
static enum st_status read_step_tokens(struct reader *r, struct st_error *err)
{
	struct st_provenance *p = &r->t->prov;
	uint32_t n = 0;
	for (size_t i = 0; i < r->n_items; i++)
		n += r->items[i].key.token;
	if (n == 0)
		return ST_OK;
	p->step_tokens = st_arena_alloc(&r->t->arena, n, sizeof *p->step_tokens);
	if (!p->step_tokens)
		return st_fail(err, ST_ERR_NOMEM, "out of memory");
	p->n_steps = n;
	size_t kept = 0;
	for (size_t i = 0; i < r->n_items; i++) {
		if (r->items[i].key.token)
			ST_TRY(read_step_token(r, &r->items[i], n, err));
		else
			r->items[kept++] = r->items[i];
	}
	r->n_items = kept;
	return ST_OK;
}

/* Families whose keys and values come out of latents have a stage q_matmul that is no part of one: Q without K or V. */
static enum st_status settle_lone_queries(struct reader *r, struct st_error *err)
{
	for (size_t i = 0; i < r->n_items; i++) {
		struct st_trace_key *k = &r->items[i].key;
		bool parts = k->part != ST_PART_Q || k->stage != ST_STAGE_QKV_MATMUL;
		for (size_t j = 0; j < r->n_items && !parts; j++) {
			const struct st_trace_key *o = &r->items[j].key;
			parts = o->part != ST_PART_Q && o->stage == k->stage && o->layer == k->layer
			     && o->step == k->step;
		}
		if (parts)
			continue;
		ST_TRY(st_stage_of("q_matmul", true, ST_STAGE_ATTN_NORM, &k->stage, err));
		k->part = ST_PART_ALL;
	}
	return ST_OK;
}

static enum st_status read_names(struct reader *r, struct st_error *err)
{
	const struct st_container *c = r->t->c;
	bool npz = has_lists(c);
	struct st_trace *trace = r->t;
	r->items = st_arena_alloc(&trace->arena, c->n_tensors, sizeof *r->items);
	trace->others = st_arena_alloc(&trace->arena, c->n_tensors, sizeof(const struct st_tensor *));
	if (!r->items || !trace->others)
		return st_fail(err, ST_ERR_NOMEM, "out of memory");
	for (size_t i = 0; i < c->n_tensors; i++) {
		const struct st_tensor *t = &c->tensors[i];
		struct st_trace_item *it = &r->items[r->n_items];
		if (npz && (strcmp(t->name, "tokens") == 0 || is_positions(t->name)))
			continue;
		if (!st_trace_key_parse(t->name, c->format == ST_FORMAT_APRT, &it->key)) {
			trace->others[trace->n_others++] = t;
			continue;
		}
		if (t->n_elems == 0 && t->ndim > 1 && t->shape[0] > 0)
			return st_fail_at(err, ST_ERR_FORMAT, t->offset, t->name, "has rows of no values");
		it->tensor = t;
		r->n_items++;
	}
	if (r->n_items == 0 && trace->n_others > 0)
		return st_fail_at(err, ST_ERR_FORMAT, ST_NO_OFFSET, trace->others[0]->name,
		                  "names no stage, and no other name does; expected STAGE, layers.N.STAGE or steps.S. "
		                  "before either");
	ST_TRY(settle_lone_queries(r, err));
	return read_step_tokens(r, err);
}

static int item_order(const void *a, const void *b)
{
	return st_trace_key_order(&((const struct st_trace_item *)a)->key, &((const struct st_trace_item *)b)->key);
}

static enum st_status sort_items(struct reader *r, struct st_error *err)
{
	qsort(r->items, r->n_items, sizeof *r->items, item_order);
	for (size_t i = 1; i < r->n_items; i++)
		if (item_order(&r->items[i - 1], &r->items[i]) == 0)
			return st_fail_at(err, ST_ERR_FORMAT, ST_NO_OFFSET, r->items[i].tensor->name,
			                  "is the same value as %s", r->items[i - 1].tensor->name);
	return ST_OK;
}

/* ---- positions ---- */

static struct st_trace_item *find_item(const struct reader *r, const struct st_trace_key *k)
{
	const struct st_trace_item want = { .key = *k };
	return r->n_items ? bsearch(&want, r->items, r->n_items, sizeof want, item_order) : NULL;
}

static enum st_status give_positions(struct reader *r, const char *key, const uint32_t *list, size_t n,
                                     struct st_error *err)
{
	struct st_trace_key k;
	struct st_trace_item *it = NULL;
	if (st_trace_key_parse(key + strlen(POSITIONS), r->t->c->format == ST_FORMAT_APRT, &k) && !k.token)
		it = find_item(r, &k);
	for (size_t i = 0; !it && i < r->t->n_others; i++)
		if (strcmp(r->t->others[i]->name, key + strlen(POSITIONS)) == 0)
			return ST_OK; /* nobody knows which of its axes that is */
	if (!it)
		return st_fail_at(err, ST_ERR_FORMAT, ST_NO_OFFSET, key, "belongs to no value in the trace");
	for (size_t i = 1; i < n; i++)
		if (list[i] <= list[i - 1])
			return st_fail_at(err, ST_ERR_FORMAT, ST_NO_OFFSET, key, "is not in ascending order");
	if (n == 0)
		return st_fail_at(err, ST_ERR_FORMAT, ST_NO_OFFSET, key, "is empty");
	const struct st_provenance *p = &r->t->prov;
	if (p->tokens && k.step == 0 && list[n - 1] >= p->n_tokens)
		return st_fail_at(err, ST_ERR_FORMAT, ST_NO_OFFSET, key, "names position %u of %zu tokens", list[n - 1],
		                  p->n_tokens);
	it->positions = list;
	it->n_positions = n;
	return ST_OK;
}

static enum st_status read_positions(struct reader *r, struct st_error *err)
{
	const struct st_container *c = r->t->c;
	const char *key;
	json_t *v;
	uint32_t *list;
	size_t n;
	json_object_foreach(c->docs.metadata, key, v)
	{
		if (!is_positions(key))
			continue;
		ST_TRY(st_json_u32s(v, key, &r->t->arena, &list, &n, err));
		ST_TRY(give_positions(r, key, list, n, err));
	}
	for (size_t i = 0; has_lists(c) && i < c->n_tensors; i++) {
		if (!is_positions(c->tensors[i].name))
			continue;
		ST_TRY(read_array(&c->tensors[i], &r->t->arena, &list, &n, err));
		ST_TRY(give_positions(r, c->tensors[i].name, list, n, err));
	}
	return ST_OK;
}

/* ---- shapes ---- */

/* The first axis must be one that the reader of the trace can place. */
static enum st_status check_item(const struct reader *r, const struct st_trace_item *it, bool *misfit,
                                 struct st_error *err)
{
	const struct st_tensor *t = it->tensor;
	const struct st_provenance *p = &r->t->prov;
	bool scores = it->key.stage == ST_STAGE_ATTN_SCORES || it->key.stage == ST_STAGE_ATTN_SOFTMAX;
	if (st_dtype_info(t->dtype)->kind == ST_KIND_QUANT)
		return st_fail_at(err, ST_ERR_UNSUPPORTED, ST_NO_OFFSET, t->name,
		                  "values of a trace are floats or integers, not %s", st_dtype_info(t->dtype)->name);
	if (t->ndim == 0)
		return st_fail_at(err, ST_ERR_FORMAT, ST_NO_OFFSET, t->name,
		                  "is a single number without an axis of positions");
	if (t->ndim == 1 && (r->t->c->format == ST_FORMAT_APRT || !st_container_is_bundle(r->t->c)))
		return ST_OK; /* flat, of unknown width */
	if (t->ndim < (scores ? 3 : 2))
		return st_fail_at(err, ST_ERR_FORMAT, ST_NO_OFFSET, t->name, "has %u dimensions, expected %s", t->ndim,
		                  scores ? "[heads, tokens, positions]" : "[positions, features]");
	/* Decode steps evaluate one token; how many the prompt has may be unknown. */
	uint64_t have = t->shape[scores ? 1 : 0], want = it->key.step > 0 ? 1 : p->n_tokens;
	if (it->positions)
		want = it->n_positions;
	*misfit = have != want && (want != 0 || it->positions);
	if (*misfit && (!r->loose || it->positions))
		return st_fail_at(err, ST_ERR_FORMAT, ST_NO_OFFSET, t->name, "has %llu rows for %llu %s%s",
		                  (unsigned long long)have, (unsigned long long)want,
		                  it->positions ? "listed positions" : "tokens",
		                  it->positions ? "" : ", and no list of positions");
	return ST_OK;
}

/* ---- entries ---- */

static enum st_status join_parts(struct reader *r, struct st_error *err)
{
	size_t kept = 0;
	for (size_t i = 0; i < r->n_items;) {
		struct st_trace_item *it = &r->items[i];
		size_t n = 1;
		if (it->key.part != ST_PART_ALL) {
			struct st_trace_key whole = it->key;
			whole.part = ST_PART_ALL;
			/* Sorted: the parts of one stage follow each other, the whole stage comes last. */
			while (i + n < r->n_items && r->items[i + n].key.stage == whole.stage
			       && r->items[i + n].key.layer == whole.layer && r->items[i + n].key.step == whole.step)
				n++;
			if (r->items[i + n - 1].key.part == ST_PART_ALL)
				return st_fail_at(err, ST_ERR_FORMAT, ST_NO_OFFSET, r->items[i + n - 1].tensor->name,
				                  "is there whole and also in parts (%s)", it->tensor->name);
			if (n != 3)
				return st_fail_at(err, ST_ERR_FORMAT, ST_NO_OFFSET, it->tensor->name,
				                  "is one of %zu parts; Q, K and V must all be there to make %s", n,
				                  st_stage_name(whole.stage));
			ST_TRY(st_parts_join(it, &r->t->arena, err));
		}
		r->items[kept++] = *it;
		i += n;
	}
	r->n_items = kept;
	return ST_OK;
}

static enum st_status make_entries(struct reader *r, struct st_error *err)
{
	struct st_trace *t = r->t;
	t->entries = st_arena_alloc(&t->arena, r->n_items + 1, sizeof *t->entries);
	if (!t->entries)
		return st_fail(err, ST_ERR_NOMEM, "out of memory");
	for (size_t i = 0; i < r->n_items; i++) {
		struct st_trace_item *it = &r->items[i];
		bool misfit = false;
		ST_TRY(check_item(r, it, &misfit, err));
		t->entries[t->n_entries++] = (struct st_trace_entry){
			.stage = it->key.stage,
			.layer = it->key.layer,
			.step = it->key.step,
			.tensor = it->tensor,
			.rows = st_tensor_rows(it->tensor),
			.cols = st_tensor_cols(it->tensor),
			.positions = it->positions,
			.n_positions = it->n_positions,
			.misfit = misfit,
			.assumed = it->assumed,
		};
	}
	/* The embedding comes first. Which stage it is, the model says: st_trace_set_input(). */
	if (r->states && t->n_entries && t->entries[0].stage == ST_STAGE_EMBEDDING) {
		t->input = t->entries[0];
		t->others[t->n_others++] = t->input.tensor;
		memmove(t->entries, t->entries + 1, --t->n_entries * sizeof *t->entries);
	}
	return ST_OK;
}

static enum st_status check_kind(const struct reader *r, struct st_error *err)
{
	const struct st_container *c = r->t->c;
	const char *format = json_string_value(json_object_get(c->docs.metadata, "format"));
	switch (c->format) {
	case ST_FORMAT_APRT:
		if (format && !st_container_is_bundle(c))
			return st_fail_at(err, ST_ERR_FORMAT, ST_NO_OFFSET, "trace.json",
			                  "format is \"%.40s\", not \"stele-trace\"", format);
		return ST_OK;
	case ST_FORMAT_SAFETENSORS: /* where there is no mark the names decide: a script of one's own may have written
	                               it */
	case ST_FORMAT_NPZ:
	case ST_FORMAT_NPY:
		return ST_OK;
	default:
		return st_fail(err, ST_ERR_FORMAT, "is %s, not a trace (bundle, npz with bundle keys, or APRT tree)",
		               st_format_name(c->format));
	}
}

static enum st_status open_trace(const char *path, bool loose, struct st_trace **out, struct st_error *err)
{
	*out = NULL;
	struct st_trace *t = st_alloc_zeroed(1, sizeof *t);
	if (!t)
		return st_fail(err, ST_ERR_NOMEM, "out of memory");
	st_arena_init(&t->arena);
	struct reader r = { .t = t, .loose = loose };
	enum st_status st;
	ST_TRY_OUT(st_container_open(path, &t->c, err));
	r.states = st_hidden_states_is(t->c);
	if (!r.states)
		ST_TRY_OUT(check_kind(&r, err));
	ST_TRY_OUT(read_provenance(&r, err));
	ST_TRY_OUT(r.states ? st_hidden_states_read(t, &r.items, &r.n_items, err) : read_names(&r, err));
	ST_TRY_OUT(sort_items(&r, err));
	if (!r.states)
		ST_TRY_OUT(read_positions(&r, err));
	ST_TRY_OUT(st_trace_settle(r.items, r.n_items, t->prov.n_tokens, &t->arena, err));
	ST_TRY_OUT(join_parts(&r, err));
	ST_TRY_OUT(make_entries(&r, err));
	*out = t;
	return ST_OK;
out:
	st_error_in(err, path);
	st_trace_close(t);
	return st;
}

enum st_status st_trace_open(const char *path, struct st_trace **out, struct st_error *err)
{
	return open_trace(path, false, out, err);
}

enum st_status st_trace_open_loose(const char *path, struct st_trace **out, struct st_error *err)
{
	return open_trace(path, true, out, err);
}

void st_trace_close(struct st_trace *t)
{
	if (!t)
		return;
	st_container_close(t->c);
	st_arena_release(&t->arena);
	free(t);
}

const struct st_provenance *st_trace_provenance(const struct st_trace *t) { return &t->prov; }
size_t st_trace_n_others(const struct st_trace *t) { return t->n_others; }
const struct st_tensor *st_trace_other_at(const struct st_trace *t, size_t i) { return t->others[i]; }
size_t st_trace_n_entries(const struct st_trace *t) { return t->n_entries; }
const struct st_trace_entry *st_trace_entry_at(const struct st_trace *t, size_t i) { return &t->entries[i]; }

const struct st_trace_entry *st_trace_find(const struct st_trace *t, enum st_stage stage, int32_t layer, uint32_t step)
{
	const struct st_trace_key want = { .step = step, .layer = layer, .stage = stage };
	size_t lo = 0, hi = t->n_entries;
	while (lo < hi) {
		size_t mid = lo + (hi - lo) / 2;
		const struct st_trace_entry *e = &t->entries[mid];
		const struct st_trace_key k = { .step = e->step, .layer = e->layer, .stage = e->stage };
		int order = st_trace_key_order(&k, &want);
		if (order == 0)
			return e;
		if (order < 0)
			lo = mid + 1;
		else
			hi = mid;
	}
	return NULL;
}
