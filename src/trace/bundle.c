/* bundle.c - writing a bundle: one safetensors file whose header is complete before the first value is known. */
#include "trace/trace.h"

#include "base/error.h"
#include "format/writer.h"

#include <stdlib.h>
#include <string.h>

struct st_bundle_writer {
	struct st_writer *file;
};

struct specs {
	struct st_tensor_spec *list;
	size_t n;
};

static bool add_spec(struct specs *s, struct st_arena *arena, const struct st_trace_key *k, enum st_dtype t,
                     uint32_t ndim, const uint64_t *shape)
{
	char key[96];
	st_trace_key_print(k, key, sizeof key);
	struct st_tensor_spec *spec = &s->list[s->n++];
	spec->name = st_arena_strndup(arena, key, strlen(key));
	spec->dtype = t;
	spec->ndim = ndim;
	memcpy(spec->shape, shape, ndim * sizeof *shape);
	return spec->name != NULL;
}

/* The order of evaluation. In front of a step's values stands the token it evaluates: a tensor and not metadata, since
 * the header is written before the token is known. */
static bool list_specs(struct specs *s, struct st_arena *arena, const struct st_capture_plan *plan)
{
	const uint64_t one[2] = { 1, 1 };
	s->list = st_arena_alloc2(arena, plan->n, 2, sizeof *s->list);
	bool ok = s->list != NULL;
	for (size_t i = 0; i < plan->n && ok; i++) {
		const struct st_capture *c = &plan->items[i];
		if (c->key.step > (i ? plan->items[i - 1].key.step : 0)) {
			const struct st_trace_key token = { .step = c->key.step, .layer = -1, .token = true };
			ok = add_spec(s, arena, &token, ST_DTYPE_U32, 2, one);
		}
		ok = ok && add_spec(s, arena, &c->key, ST_DTYPE_F32, c->ndim, c->shape);
	}
	return ok;
}

static json_t *metadata(const struct st_capture_plan *plan)
{
	json_t *o = st_provenance_write(plan->prov);
	bool ok = o != NULL;
	for (size_t i = 0; i < plan->n && ok; i++)
		if (plan->items[i].last_only) {
			uint32_t last = (uint32_t)(plan->prov->n_tokens - 1);
			ok = json_object_set_new(o, "positions.lm_head", st_list_write(&last, 1)) == 0;
		}
	if (!ok) {
		json_decref(o);
		return NULL;
	}
	return o;
}

enum st_status st_bundle_open(const char *path, const struct st_capture_plan *plan, struct st_bundle_writer **out,
                              struct st_error *err)
{
	*out = NULL;
	struct st_arena arena;
	st_arena_init(&arena);
	struct specs specs = { 0 };
	struct st_bundle_writer *w = st_alloc_zeroed(1, sizeof *w);
	json_t *meta = metadata(plan);
	enum st_status st = ST_OK;
	if (!w || !meta || !list_specs(&specs, &arena, plan))
		st = st_fail(err, ST_ERR_NOMEM, "out of memory");
	if (st == ST_OK) {
		const struct st_write_plan file = { .format = ST_FORMAT_SAFETENSORS,
			                            .specs = specs.list,
			                            .n_specs = specs.n,
			                            .metadata = meta,
			                            .pad_header = true };
		st = st_writer_open(path, &file, &w->file, err);
	}
	json_decref(meta);
	st_arena_release(&arena);
	if (st == ST_OK)
		*out = w;
	else
		st_bundle_abort(w);
	return st;
}

enum st_status st_bundle_token(struct st_bundle_writer *w, uint32_t token, struct st_error *err)
{
	return st_writer_append(w->file, &token, sizeof token, err);
}

enum st_status st_bundle_put(struct st_bundle_writer *w, const struct st_capture *c, const float *x,
                             struct st_error *err)
{
	return st_writer_append(w->file, x, (size_t)c->n * sizeof *x, err);
}

enum st_status st_bundle_commit(struct st_bundle_writer *w, struct st_error *err)
{
	const char *readable;
	enum st_status st = st_writer_finish(w->file, &readable, err);
	if (st == ST_OK) {
		st = st_writer_commit(w->file, err);
		w->file = NULL; /* commit frees it either way */
	}
	st_bundle_abort(w);
	return st;
}

void st_bundle_abort(struct st_bundle_writer *w)
{
	if (!w)
		return;
	st_writer_abort(w->file);
	free(w);
}
