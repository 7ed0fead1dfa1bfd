/* gguf_write.c - laying out a GGUF v3 file. */
#include "format/gguf.h"

#include "base/cursor.h"
#include "base/error.h"

#include <string.h>

/* The same walk counts the bytes (p NULL) and then writes them. */
struct sink {
	uint8_t *p;
	uint64_t n;
};

static void put(struct sink *s, const void *p, uint64_t n)
{
	if (s->p && n)
		memcpy(s->p + s->n, p, (size_t)n);
	s->n += n;
}

static void put_u32(struct sink *s, uint32_t v) { put(s, &v, 4); }
static void put_u64(struct sink *s, uint64_t v) { put(s, &v, 8); }

static void put_string(struct sink *s, const char *t)
{
	put_u64(s, strlen(t));
	put(s, t, strlen(t));
}

/* offsets: absolute, or NULL while counting. */
static void put_header(struct sink *s, const struct st_write_plan *plan, uint64_t data, const uint64_t *offsets)
{
	put(s, "GGUF", 4);
	put_u32(s, 3);
	put_u64(s, plan->n_specs);
	put_u64(s, plan->n_kv);
	for (size_t i = 0; i < plan->n_kv; i++) {
		const struct st_kv *kv = &plan->kv[i];
		put_string(s, kv->key);
		put_u32(s, kv->type);
		if (kv->type == ST_KV_ARR) {
			put_u32(s, kv->elem);
			put_u64(s, kv->count);
		}
		put(s, kv->data, st_kv_bytes(kv));
	}
	for (size_t i = 0; i < plan->n_specs; i++) {
		const struct st_tensor_spec *t = &plan->specs[i];
		put_string(s, t->name);
		put_u32(s, t->ndim);
		for (uint32_t d = t->ndim; d-- > 0;)
			put_u64(s, t->shape[d]); /* fastest first */
		put_u32(s, (uint32_t)st_gguf_type_of(t->dtype));
		put_u64(s, offsets ? offsets[i] - data : 0);
	}
}

/* The alignment that readers will use is the key's, so the plan must say the same. */
static enum st_status plan_alignment(const struct st_write_plan *plan, uint64_t *out, struct st_error *err)
{
	uint64_t said = ST_GGUF_ALIGNMENT;
	for (size_t i = 0; i < plan->n_kv; i++) {
		if (strcmp(plan->kv[i].key, "general.alignment") != 0)
			continue;
		if (plan->kv[i].type != ST_KV_U32)
			return st_fail_at(err, ST_ERR_USAGE, ST_NO_OFFSET, "general.alignment",
			                  "must be written as u32");
		said = st_load_u32(plan->kv[i].data);
	}
	*out = plan->alignment ? plan->alignment : said;
	if (*out != said || said == 0 || (said & (said - 1)) != 0)
		return st_fail_at(err, ST_ERR_USAGE, ST_NO_OFFSET, "general.alignment",
		                  "is %llu while the plan says %llu; both must be one power of two",
		                  (unsigned long long)said, (unsigned long long)*out);
	return ST_OK;
}

static enum st_status check_plan(const struct st_write_plan *plan, struct st_error *err)
{
	for (size_t i = 0; i < plan->n_kv; i++) {
		const struct st_kv *kv = &plan->kv[i];
		if (kv->type >= ST_KV_COUNT
		    || (kv->type == ST_KV_ARR && (kv->elem >= ST_KV_COUNT || kv->elem == ST_KV_ARR)))
			return st_fail_at(err, ST_ERR_USAGE, ST_NO_OFFSET, kv->key, "type cannot be written");
	}
	for (size_t i = 0; i < plan->n_specs; i++) {
		const struct st_tensor_spec *t = &plan->specs[i];
		if (st_gguf_type_of(t->dtype) < 0)
			return st_fail_at(err, ST_ERR_UNSUPPORTED, ST_NO_OFFSET, t->name, "GGUF has no type for %s",
			                  st_dtype_info(t->dtype)->name);
		if (t->ndim > ST_GGUF_MAX_DIMS)
			return st_fail_at(err, ST_ERR_UNSUPPORTED, ST_NO_OFFSET, t->name,
			                  "has %u dimensions, GGUF allows %u", t->ndim, ST_GGUF_MAX_DIMS);
		if (strlen(t->name) > ST_GGUF_MAX_NAME)
			return st_fail_at(err, ST_ERR_UNSUPPORTED, ST_NO_OFFSET, t->name,
			                  "the name is longer than %u bytes", ST_GGUF_MAX_NAME);
	}
	return ST_OK;
}

enum st_status st_gguf_layout(const struct st_write_plan *plan, struct st_arena *arena, struct st_write_layout *out,
                              struct st_error *err)
{
	uint64_t alignment = ST_GGUF_ALIGNMENT, data, bytes;
	ST_TRY(check_plan(plan, err));
	ST_TRY(plan_alignment(plan, &alignment, err));
	struct sink count = { 0 };
	put_header(&count, plan, 0, NULL);
	out->offsets = st_arena_alloc(arena, plan->n_specs, sizeof *out->offsets);
	if (!st_round_up(count.n, alignment, &data) || !out->offsets)
		return st_fail(err, ST_ERR_NOMEM, "out of memory");
	uint64_t at = data;
	for (size_t i = 0; i < plan->n_specs; i++) {
		const struct st_tensor_spec *t = &plan->specs[i];
		out->offsets[i] = at;
		/* The last tensor is padded too: llama.cpp reads the data section in whole aligned pieces. */
		if (!st_stored_bytes(t->dtype, t->ndim, t->shape, &bytes) || !st_add_u64(at, bytes, &at)
		    || !st_round_up(at, alignment, &at))
			return st_fail_at(err, ST_ERR_USAGE, ST_NO_OFFSET, t->name,
			                  "cannot be stored as %s with this shape", st_dtype_info(t->dtype)->name);
	}
	out->end = at;
	out->header_size = count.n;
	out->header = st_arena_alloc(arena, count.n, 1);
	if (!out->header)
		return st_fail(err, ST_ERR_NOMEM, "out of memory");
	struct sink sink = { .p = out->header };
	put_header(&sink, plan, data, out->offsets);
	return ST_OK;
}
