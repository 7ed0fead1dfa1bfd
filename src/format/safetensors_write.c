/* safetensors_write.c - laying out a safetensors file. */
#include "format/writer.h"

#include "base/cursor.h"
#include "base/error.h"

#include <stdlib.h>
#include <string.h>

/* Adds `v` (a new reference, or NULL when making it failed) under `key`. */
static bool put(json_t *o, const char *key, json_t *v) { return json_object_set_new(o, key, v) == 0; }

static json_t *descriptor(const struct st_tensor_spec *t, uint64_t begin, uint64_t end)
{
	json_t *d = json_object(), *shape = json_array();
	bool ok = d && shape;
	for (uint32_t i = 0; ok && i < t->ndim; i++)
		ok = json_array_append_new(shape, json_integer((json_int_t)t->shape[i])) == 0;
	json_t *range = ok ? json_pack("[I, I]", (json_int_t)begin, (json_int_t)end) : NULL;
	ok = ok && put(d, "dtype", json_string(st_safetensors_name_of(t->dtype))) && put(d, "shape", json_incref(shape))
	  && put(d, "data_offsets", json_incref(range));
	json_decref(shape);
	json_decref(range);
	if (!ok) {
		json_decref(d);
		return NULL;
	}
	return d;
}

static enum st_status check_metadata(const json_t *meta, struct st_error *err)
{
	const char *key;
	json_t *v;
	if (meta && !json_is_object(meta))
		return st_fail(err, ST_ERR_USAGE, "safetensors metadata must be an object");
	json_object_foreach((json_t *)(uintptr_t)meta, key, v) if (!json_is_string(v)) return st_fail_at(
		err, ST_ERR_USAGE, ST_NO_OFFSET, key, "safetensors metadata holds strings only");
	return ST_OK;
}

/* Fill offsets (from the start of the data) and describe every tensor in `header`. */
static enum st_status describe_tensors(const struct st_write_plan *plan, json_t *header, uint64_t *offsets,
                                       uint64_t *size, struct st_error *err)
{
	uint64_t at = 0, bytes;
	for (size_t i = 0; i < plan->n_specs; i++) {
		const struct st_tensor_spec *t = &plan->specs[i];
		if (!st_safetensors_name_of(t->dtype))
			return st_fail_at(err, ST_ERR_UNSUPPORTED, ST_NO_OFFSET, t->name,
			                  "safetensors has no type for %s", st_dtype_info(t->dtype)->name);
		if (!st_utf8_valid(t->name, strlen(t->name)))
			return st_fail_at(err, ST_ERR_USAGE, ST_NO_OFFSET, t->name, "a tensor name that is not UTF-8");
		if (strcmp(t->name, "__metadata__") == 0)
			return st_fail_at(err, ST_ERR_UNSUPPORTED, ST_NO_OFFSET, t->name,
			                  "safetensors keeps this name for itself");
		offsets[i] = at;
		if (!st_stored_bytes(t->dtype, t->ndim, t->shape, &bytes) || !st_add_u64(at, bytes, &at)
		    || at > INT64_MAX)
			return st_fail_at(err, ST_ERR_USAGE, ST_NO_OFFSET, t->name, "dimensions overflow");
		if (!put(header, t->name, descriptor(t, offsets[i], at)))
			return st_fail(err, ST_ERR_NOMEM, "out of memory");
	}
	*size = at;
	return ST_OK;
}

enum st_status st_safetensors_layout(const struct st_write_plan *plan, struct st_arena *arena,
                                     struct st_write_layout *out, struct st_error *err)
{
	ST_TRY(check_metadata(plan->metadata, err));
	enum st_status st = ST_OK;
	char *text = NULL;
	uint64_t size = 0;
	json_t *header = json_object();
	out->offsets = st_arena_alloc(arena, plan->n_specs, sizeof *out->offsets);
	/* Not a copy: jansson's loses members when memory runs out, and says nothing. */
	if (!header || !out->offsets
	    || (plan->metadata && !put(header, "__metadata__", json_incref((json_t *)(uintptr_t)plan->metadata))))
		st = st_fail(err, ST_ERR_NOMEM, "out of memory");
	if (st == ST_OK)
		st = describe_tensors(plan, header, out->offsets, &size, err);
	if (st == ST_OK) {
		text = st_json_print(header, JSON_COMPACT); /* members in the order of the plan */
		if (!text)
			st = st_fail(err, ST_ERR_NOMEM, "out of memory"); /* all its strings are UTF-8 by now */
	}
	if (st == ST_OK) {
		uint64_t n = strlen(text), padded = plan->pad_header ? (n + 7) / 8 * 8 : n;
		out->header_size = 8 + padded;
		out->header = st_arena_alloc(arena, out->header_size, 1);
		if (out->header) {
			memcpy(out->header, &padded, 8);
			memset(out->header + 8, ' ', (size_t)padded);
			memcpy(out->header + 8, text, (size_t)n);
			for (size_t i = 0; i < plan->n_specs; i++)
				out->offsets[i] += out->header_size;
			out->end = out->header_size + size;
		} else {
			st = st_fail(err, ST_ERR_NOMEM, "out of memory");
		}
	}
	free(text);
	json_decref(header);
	return st;
}
