/*
 * apr_write.c - laying out an APR v2 file as writer A does: names as given, dimensions
 * [out, in], everything at multiples of 64, and a CRC of the file behind it.
 */
#include "format/apr.h"
#include "format/writer.h"

#include "base/error.h"

#include <stdlib.h>
#include <string.h>

static const struct st_apr_code *code_of(enum st_dtype t)
{
	for (size_t i = 0; i < st_apr_n_codes; i++)
		if (st_apr_codes[i].dtype == t)
			return &st_apr_codes[i];
	return NULL;
}

/* Two types share code 9, and 36 bytes are 32 elements of either: written, nobody could tell. */
static bool is_ambiguous(enum st_dtype t, uint64_t bytes) { return t == ST_DTYPE_Q8_1 && bytes == 36; }

/* Offsets from the start of the data; *index and *data are the sizes of both sections. */
static enum st_status lay_out(const struct st_write_plan *plan, uint64_t *offsets, uint64_t *index, uint64_t *data,
                              struct st_error *err)
{
	*index = *data = 0;
	for (size_t i = 0; i < plan->n_specs; i++) {
		const struct st_tensor_spec *t = &plan->specs[i];
		size_t len = strlen(t->name);
		uint64_t bytes;
		if (i > 0 && strcmp(plan->specs[i - 1].name, t->name) >= 0)
			return st_fail_at(err, ST_ERR_USAGE, ST_NO_OFFSET, t->name, "APR lists tensors sorted by name");
		if (len == 0 || len > ST_APR_MAX_NAME || t->ndim > ST_MAX_DIMS)
			return st_fail_at(err, ST_ERR_UNSUPPORTED, ST_NO_OFFSET, t->name,
			                  "APR names have 1 to %u bytes, shapes at most %d dimensions", ST_APR_MAX_NAME,
			                  ST_MAX_DIMS);
		if (!code_of(t->dtype))
			return st_fail_at(err, ST_ERR_UNSUPPORTED, ST_NO_OFFSET, t->name, "APR has no type for %s",
			                  st_dtype_info(t->dtype)->name);
		if (!st_stored_bytes(t->dtype, t->ndim, t->shape, &bytes))
			return st_fail_at(err, ST_ERR_USAGE, ST_NO_OFFSET, t->name,
			                  "cannot be stored as %s with this shape", st_dtype_info(t->dtype)->name);
		if (is_ambiguous(t->dtype, bytes))
			return st_fail_at(err, ST_ERR_UNSUPPORTED, ST_NO_OFFSET, t->name,
			                  "one block of Q8_1 cannot be told from AprQ8 in an APR file");
		*index += 2 + len + 2 + 8 * (uint64_t)t->ndim + 16;
		offsets[i] = *data;
		if (!st_add_u64(*data, bytes, data) || !st_round_up(*data, ST_APR_ALIGN, data))
			return st_fail_at(err, ST_ERR_USAGE, ST_NO_OFFSET, t->name, "the file would exceed 2^64 bytes");
	}
	return ST_OK;
}

static uint8_t *put(uint8_t *p, const void *src, size_t n)
{
	memcpy(p, src, n);
	return p + n;
}

static uint8_t *put_entry(uint8_t *p, const struct st_tensor_spec *t, uint64_t offset)
{
	uint16_t len = (uint16_t)strlen(t->name);
	uint8_t kind[2] = { code_of(t->dtype)->code, (uint8_t)t->ndim };
	uint64_t bytes = 0;
	bool known = st_stored_bytes(t->dtype, t->ndim, t->shape, &bytes);
	(void)known; /* lay_out() has asked before */
	p = put(p, &len, 2);
	p = put(p, t->name, len);
	p = put(p, kind, 2);
	p = put(p, t->shape, 8 * (size_t)t->ndim);
	p = put(p, &offset, 8);
	return put(p, &bytes, 8);
}

static uint16_t flags_of(const struct st_write_plan *plan)
{
	unsigned flags = ST_APR_ROW_MAJOR;
	for (size_t i = 0; i < plan->n_specs; i++)
		if (st_dtype_info(plan->specs[i].dtype)->kind == ST_KIND_QUANT)
			flags |= ST_APR_QUANTISED;
	if (json_object_get(plan->metadata, "tokenizer.vocabulary"))
		flags |= ST_APR_VOCABULARY;
	return (uint16_t)flags;
}

static enum st_status put_header(const struct st_write_plan *plan, struct st_arena *arena, const char *text,
                                 uint64_t index, struct st_write_layout *out, struct st_error *err)
{
	uint64_t n_text = strlen(text), index_at, data_at;
	if (n_text > ST_APR_MAX_METADATA)
		return st_fail(err, ST_ERR_LIMIT, "APR metadata of %llu bytes; the limit is 64 MiB",
		               (unsigned long long)n_text);
	if (plan->n_specs > UINT32_MAX || !st_round_up(ST_APR_HEADER + n_text, ST_APR_ALIGN, &index_at)
	    || !st_add_u64(index_at, index, &data_at) || !st_round_up(data_at, ST_APR_ALIGN, &data_at))
		return st_fail(err, ST_ERR_LIMIT, "too many tensors for an APR file");
	out->header_size = data_at;
	out->header = st_arena_alloc(arena, data_at, 1);
	if (!out->header)
		return st_fail(err, ST_ERR_NOMEM, "out of memory");
	const uint8_t version[2] = { 2, 0 };
	uint16_t flags = flags_of(plan);
	uint32_t count = (uint32_t)plan->n_specs, meta_size = (uint32_t)n_text, crc;
	uint64_t meta_at = ST_APR_HEADER;
	uint8_t *p = put(out->header, "APR", 4);
	p = put(p, version, 2);
	p = put(p, &flags, 2);
	p = put(p, &count, 4);
	p = put(p, &meta_at, 8);
	p = put(p, &meta_size, 4);
	p = put(p, &index_at, 8);
	p = put(p, &data_at, 8);
	crc = st_apr_header_crc(out->header);
	put(p, &crc, 4);
	put(out->header + meta_at, text, (size_t)n_text);
	p = out->header + index_at;
	for (size_t i = 0; i < plan->n_specs; i++) {
		p = put_entry(p, &plan->specs[i], out->offsets[i]);
		if (!st_add_u64(out->offsets[i], data_at, &out->offsets[i]))
			return st_fail(err, ST_ERR_LIMIT, "the file would exceed 2^64 bytes");
	}
	return ST_OK;
}

enum st_status st_apr_layout(const struct st_write_plan *plan, struct st_arena *arena, struct st_write_layout *out,
                             struct st_error *err)
{
	uint64_t index = 0, data = 0;
	if (plan->metadata && !json_is_object(plan->metadata))
		return st_fail(err, ST_ERR_USAGE, "APR metadata must be an object");
	ST_TRY(st_apr_read_metadata(plan->metadata, 0, &(struct st_apr_meta){ 0 }, err));
	out->offsets = st_arena_alloc(arena, plan->n_specs, sizeof *out->offsets);
	if (!out->offsets)
		return st_fail(err, ST_ERR_NOMEM, "out of memory");
	ST_TRY(lay_out(plan, out->offsets, &index, &data, err));
	char *text = plan->metadata ? st_json_print(plan->metadata, JSON_COMPACT) : st_strdup("{}");
	if (!text)
		return st_fail(err, ST_ERR_NOMEM, "out of memory");
	enum st_status st = put_header(plan, arena, text, index, out, err);
	free(text);
	if (st == ST_OK && !st_add_u64(out->header_size, data, &out->end))
		st = st_fail(err, ST_ERR_LIMIT, "the file would exceed 2^64 bytes");
	out->crc_footer = true;
	return st;
}
