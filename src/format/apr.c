/*
 * apr.c - APR v2 model files of both writers (docs/format-apr.md).
 *
 * Everything after the header may be compressed as a whole; then offsets count in the
 * unfolded image, and so do the offsets in messages and in st_tensor.
 */
#include "format/apr.h"

#include "format/tensors.h"
#include "format/unpack.h"

#include "base/cursor.h"
#include "base/error.h"
#include "base/pool.h"

#include <stdlib.h>
#include <string.h>
#include <libdeflate.h>
#include <zlib.h> /* crc32_combine */

const struct st_apr_code st_apr_codes[] = {
	{ 0, ST_DTYPE_F32, false },     { 1, ST_DTYPE_F16, false },      { 30, ST_DTYPE_BF16, false },
	{ 2, ST_DTYPE_BF16, false },    { 2, ST_DTYPE_Q4_0, false },     { 3, ST_DTYPE_F64, false },
	{ 3, ST_DTYPE_Q4_1, false },    { 4, ST_DTYPE_I32, false },      { 5, ST_DTYPE_I64, false },
	{ 6, ST_DTYPE_I8, false },      { 6, ST_DTYPE_Q5_0, false },     { 7, ST_DTYPE_U8, false },
	{ 7, ST_DTYPE_Q5_1, false },    { 128, ST_DTYPE_APR_Q4, true },  { 8, ST_DTYPE_APR_Q4, true },
	{ 8, ST_DTYPE_Q8_0, true },     { 129, ST_DTYPE_APR_Q8, false }, { 9, ST_DTYPE_APR_Q8, false },
	{ 9, ST_DTYPE_Q8_1, false },    { 10, ST_DTYPE_Q2_K, true },     { 11, ST_DTYPE_Q3_K, true },
	{ 12, ST_DTYPE_Q4_K, true },    { 13, ST_DTYPE_Q5_K, true },     { 14, ST_DTYPE_Q6_K, true },
	{ 16, ST_DTYPE_IQ2_XXS, true }, { 17, ST_DTYPE_IQ2_XS, true },
};
const size_t st_apr_n_codes = sizeof st_apr_codes / sizeof *st_apr_codes;

struct entry {
	uint8_t code;
	uint64_t at; /* of the entry in the index, for messages */
	uint64_t offset, size;
};

struct apr {
	struct st_container *c;
	struct st_error *err;
	const uint8_t *p; /* the image: the map, or what it unfolds to */
	uint64_t n;
	unsigned flags;
	uint32_t count;
	uint64_t meta, meta_size, index, data;
	struct entry *entries;
	bool unsorted;
	const char *packing;
};

uint32_t st_apr_header_crc(const uint8_t h[ST_APR_HEADER]) { return (uint32_t)crc32_z(crc32_z(0, h, 40), h + 44, 20); }

/* ---- header and sections ---- */

static enum st_status check_flags(const struct apr *a)
{
	static const struct {
		unsigned flag;
		const char *what;
	} refused[] = {
		{ ST_APR_ENCRYPTED, "encrypted APR files are not read" },
		{ ST_APR_COLUMN_MAJOR, "column-major APR files are not read" },
		{ ST_APR_SHARDED, "sharded APR files are not read" },
	};
	for (size_t i = 0; i < sizeof refused / sizeof *refused; i++)
		if (a->flags & refused[i].flag)
			return st_fail_at(a->err, ST_ERR_UNSUPPORTED, 6, "flags", "%s", refused[i].what);
	if (a->flags & ~(unsigned)ST_APR_KNOWN_FLAGS)
		return st_fail_at(a->err, ST_ERR_UNSUPPORTED, 6, "flags", "unknown flags 0x%x",
		                  a->flags & ~(unsigned)ST_APR_KNOWN_FLAGS);
	if ((a->flags & ST_APR_LZ4) && (a->flags & ST_APR_ZSTD))
		return st_fail_at(a->err, ST_ERR_FORMAT, 6, "flags", "both LZ4 and zstd");
	return ST_OK;
}

static enum st_status read_header(struct apr *a)
{
	const uint8_t *h = a->p;
	if (a->n >= 4 && memcmp(h, "APRN", 4) == 0)
		return st_fail_at(a->err, ST_ERR_UNSUPPORTED, 0, NULL,
		                  "an APR version 1 container (APRN): it holds no transformer; version 2 is read");
	if (a->n >= 4 && memcmp(h, "APR\0", 4) != 0 && memcmp(h, "APR2", 4) != 0)
		return st_fail_at(a->err, memcmp(h, "APR", 3) ? ST_ERR_FORMAT : ST_ERR_UNSUPPORTED, 0, NULL,
		                  "not an APR v2 file (magic APR\\0 or APR2)");
	if (a->n < ST_APR_HEADER)
		return st_fail_at(a->err, ST_ERR_FORMAT, a->n, "header", "needs %u bytes, the file has %llu",
		                  ST_APR_HEADER, (unsigned long long)a->n);
	if (h[4] != 2)
		return st_fail_at(a->err, ST_ERR_UNSUPPORTED, 4, "header", "APR version %u.%u; version 2 is read", h[4],
		                  h[5]);
	uint32_t stated = st_load_u32(h + 40), crc = st_apr_header_crc(h);
	if (crc != stated)
		return st_fail_at(a->err, ST_ERR_FORMAT, 40, "header", "CRC-32 is %08x, the file says %08x",
		                  (unsigned)crc, (unsigned)stated);
	a->flags = st_load_u16(h + 6);
	a->count = st_load_u32(h + 8);
	a->meta = st_load_u64(h + 12);
	a->meta_size = st_load_u32(h + 20);
	a->index = st_load_u64(h + 24);
	a->data = st_load_u64(h + 32);
	return check_flags(a);
}

/* Header, metadata, index and data follow each other inside the image. */
static enum st_status check_sections(const struct apr *a, struct st_error *err)
{
	if (a->meta < ST_APR_HEADER || a->meta > a->n)
		return st_fail_at(err, ST_ERR_FORMAT, 12, "header",
		                  "metadata at byte %llu, outside the file of %llu or inside the header",
		                  (unsigned long long)a->meta, (unsigned long long)a->n);
	if (a->meta_size > ST_APR_MAX_METADATA)
		return st_fail_at(err, ST_ERR_LIMIT, 20, "header", "metadata of %llu bytes; the limit is 64 MiB",
		                  (unsigned long long)a->meta_size);
	if (a->index > a->n || a->index < a->meta || a->index - a->meta < a->meta_size)
		return st_fail_at(err, ST_ERR_FORMAT, 24, "header",
		                  "tensor index at byte %llu, outside the file or inside the metadata",
		                  (unsigned long long)a->index);
	if (a->data > a->n || a->data < a->index)
		return st_fail_at(err, ST_ERR_FORMAT, 32, "header",
		                  "data at byte %llu, outside the file or before the index",
		                  (unsigned long long)a->data);
	return ST_OK;
}

static enum st_status read_metadata(struct apr *a, struct st_error *err)
{
	ST_TRY(check_sections(a, err));
	/* A vocabulary takes some ten times its text: bounded by the file, which is the larger the more of it is
	 * weights. */
	ST_TRY(st_json_parse_within((const char *)a->p + a->meta, a->meta_size, a->meta, a->n + (UINT64_C(64) << 20),
	                            &a->c->docs.metadata, err));
	if (!json_is_object(a->c->docs.metadata))
		return st_fail_at(err, ST_ERR_FORMAT, a->meta, "metadata", "not a JSON object");
	return ST_OK;
}

/* The image. One writer sets the LZ4 flag and compresses nothing; metadata that can be read as
 * it stands settles it, since no compressed stream is JSON of the stated length by chance. */
static enum st_status open_image(struct apr *a)
{
	unsigned packed = a->flags & (ST_APR_LZ4 | ST_APR_ZSTD);
	const char *method = packed & ST_APR_LZ4 ? "LZ4" : "zstd";
	a->packing = "";
	if (!packed)
		return read_metadata(a, a->err);
	struct st_error plain = ST_ERROR_INIT;
	if (read_metadata(a, &plain) == ST_OK) {
		a->packing = packed & ST_APR_LZ4 ? ", LZ4 flag on plain data" : ", zstd flag on plain data";
		return ST_OK;
	}
	json_decref(a->c->docs.metadata);
	a->c->docs.metadata = NULL;
	const uint8_t *src = a->p + ST_APR_HEADER;
	uint64_t n = a->n - ST_APR_HEADER, limit = st_unpack_limit(a->n);
	uint8_t *image = NULL;
	if (packed & ST_APR_LZ4)
		ST_TRY(st_unpack_lz4(src, n, ST_APR_HEADER, ST_APR_HEADER, limit, &a->c->arena, &image, &a->n, a->err));
	else
		ST_TRY(st_unpack_zstd(src, n, ST_APR_HEADER, ST_APR_HEADER, limit, &a->c->arena, &image, &a->n,
		                      a->err));
	memcpy(image, a->p, ST_APR_HEADER);
	a->p = image;
	a->packing = st_arena_printf(&a->c->arena, ", %s", method);
	if (!a->packing)
		return st_fail(a->err, ST_ERR_NOMEM, "out of memory");
	return read_metadata(a, a->err);
}

/* ---- index ---- */

static enum st_status read_entry(struct apr *a, struct st_cursor *cur, struct st_tensor *t, struct entry *e)
{
	e->at = st_cursor_offset(cur);
	uint64_t len = st_cursor_u16(cur, "tensor index");
	const char *name = (const char *)st_cursor_bytes(cur, len, "tensor index");
	if (!name)
		return cur->st;
	ST_TRY(st_container_name(a->c, name, len, ST_APR_MAX_NAME, e->at, "tensor name", &t->name, a->err));
	e->code = st_cursor_u8(cur, t->name);
	t->ndim = st_cursor_u8(cur, t->name);
	if (cur->st == ST_OK && t->ndim > ST_MAX_DIMS)
		return st_fail_at(a->err, ST_ERR_LIMIT, e->at, t->name, "%u dimensions; the limit is %d", t->ndim,
		                  ST_MAX_DIMS);
	for (uint32_t i = 0; i < t->ndim && cur->st == ST_OK; i++)
		t->file_dims[i] = st_cursor_u64(cur, t->name);
	e->offset = st_cursor_u64(cur, t->name);
	e->size = st_cursor_u64(cur, t->name);
	if (cur->st != ST_OK)
		return cur->st;
	uint64_t not_zero;
	if (!st_shape_elems(t->ndim, t->file_dims, &not_zero, &t->n_elems) || not_zero > INT64_MAX)
		return st_fail_at(a->err, ST_ERR_FORMAT, e->at, t->name, "dimensions overflow 64 bits");
	if (e->offset % ST_APR_ALIGN != 0)
		return st_fail_at(a->err, ST_ERR_FORMAT, e->at, t->name,
		                  "lies at byte %llu of the data, no multiple of %u", (unsigned long long)e->offset,
		                  ST_APR_ALIGN);
	if (e->offset > a->n - a->data || e->size > a->n - a->data - e->offset)
		return st_fail_at(a->err, ST_ERR_FORMAT, e->at, t->name,
		                  "%llu bytes at %llu of the data reach past the end of the file",
		                  (unsigned long long)e->size, (unsigned long long)e->offset);
	return ST_OK;
}

static enum st_status read_index(struct apr *a)
{
	struct st_container *c = a->c;
	/* Name of one byte, no dimensions. */
	if (a->count > (a->data - a->index) / 21)
		return st_fail_at(a->err, ST_ERR_FORMAT, 8, "header", "%u tensors in an index of %llu bytes",
		                  (unsigned)a->count, (unsigned long long)(a->data - a->index));
	c->tensors = st_container_table(c, a->count, sizeof *c->tensors, "tensors", a->err);
	a->entries = st_container_table(c, a->count, sizeof *a->entries, "tensors", a->err);
	if (!c->tensors || !a->entries)
		return a->err->code;
	c->n_tensors = a->count;
	struct st_cursor cur;
	st_cursor_init(&cur, a->p + a->index, a->data - a->index, a->index, a->err);
	for (uint32_t i = 0; i < a->count; i++) {
		ST_TRY(read_entry(a, &cur, &c->tensors[i], &a->entries[i]));
		a->unsorted |= i > 0 && strcmp(c->tensors[i - 1].name, c->tensors[i].name) > 0;
	}
	return ST_OK;
}

/* ---- stored types ---- */

/*
 * Do `size` bytes hold the tensor in this type? Then *as is it in that type. Plain types and legacy blocks run over the
 * flat tensor. K-quants have padded rows in newer files and run flat in older ones.
 */
static bool fits(const struct st_apr_code *code, const struct st_tensor *t, uint64_t size, struct st_tensor *as)
{
	const struct st_dtype_info *info = st_dtype_info(code->dtype);
	if (code->dtype == ST_DTYPE_APR_Q8)
		size = size < 4 ? UINT64_MAX : size - 4; /* the scale in front */
	*as = *t;
	as->dtype = code->dtype;
	bool even = st_tensor_cols(t) % info->block_elems == 0;
	if ((even || info->block_elems == 256) && st_tensor_measure(as) && as->n_bytes == size)
		return true;
	as->layout = ST_LAYOUT_FLAT;
	return !even && t->layout == ST_LAYOUT_ROWS && (code->ragged || t->n_elems % info->block_elems == 0)
	    && st_tensor_measure(as) && as->n_bytes == size;
}

static enum st_status refuse_code(const struct apr *a, const struct st_tensor *t, const struct entry *e)
{
	const char *names[2] = { NULL, NULL };
	for (size_t i = 0, n = 0; i < st_apr_n_codes; i++)
		if (st_apr_codes[i].code == e->code && n < 2)
			names[n++] = st_dtype_info(st_apr_codes[i].dtype)->name;
	if (!names[0])
		return st_fail_at(a->err, ST_ERR_FORMAT, e->at, t->name, "unknown dtype code %u", e->code);
	return st_fail_at(a->err, ST_ERR_FORMAT, e->at, t->name,
	                  "%llu bytes do not hold %llu elements of %s%s%s (dtype code %u)%s",
	                  (unsigned long long)e->size, (unsigned long long)t->n_elems, names[0], names[1] ? " or " : "",
	                  names[1] ? names[1] : "", e->code,
	                  e->code == 0 ? "; some writers label types they do not know as F32" : "");
}

static enum st_status place(const struct apr *a, struct st_tensor *t, const struct entry *e)
{
	const struct st_apr_code *found = NULL;
	struct st_tensor as = *t, chosen = *t;
	for (size_t i = 0; i < st_apr_n_codes; i++) {
		const struct st_apr_code *code = &st_apr_codes[i];
		if (code->code != e->code)
			continue;
		if (t->layout == ST_LAYOUT_STRIDED && st_dtype_info(code->dtype)->kind == ST_KIND_QUANT) {
			as = *t;
			as.layout = ST_LAYOUT_ROWS;
			if (fits(code, &as, e->size, &as))
				return st_fail_at(a->err, ST_ERR_UNSUPPORTED, e->at, t->name,
				                  "a transposed matrix in blocks of %s",
				                  st_dtype_info(code->dtype)->name);
			continue;
		}
		if (!fits(code, t, e->size, &as))
			continue;
		/* 36 bytes are 32 elements of AprQ8 as well as of Q8_1; an empty tensor may be anything. */
		if (found && t->n_elems > 0)
			return st_fail_at(a->err, ST_ERR_UNSUPPORTED, e->at, t->name,
			                  "%llu bytes may be %s or %s (dtype code %u)", (unsigned long long)e->size,
			                  st_dtype_info(found->dtype)->name, st_dtype_info(code->dtype)->name, e->code);
		found = code;
		chosen = as;
	}
	if (!found)
		return refuse_code(a, t, e);
	uint64_t skip = chosen.dtype == ST_DTYPE_APR_Q8 && e->size >= 4 ? 4 : 0;
	*t = chosen;
	ST_TRY(st_tensor_place(t, &(struct st_span){ a->p, a->n, 0 }, a->data + e->offset + skip, a->err));
	if (skip)
		t->scale = st_load_f32(t->data - 4);
	return ST_OK;
}

/* ---- the end of the file ---- */

static int by_offset(const void *x, const void *y)
{
	const struct entry *const *a = x, *const *b = y;
	if ((*a)->offset != (*b)->offset)
		return ((*a)->offset > (*b)->offset) - ((*a)->offset < (*b)->offset);
	return ((*a)->size > (*b)->size) - ((*a)->size < (*b)->size);
}

/* No two tensors share bytes; *end is where the last one ends, from the data on. */
static enum st_status check_overlaps(const struct apr *a, uint64_t *end)
{
	const struct entry **order = st_container_table(a->c, a->count, sizeof *order, "tensors", a->err);
	if (!order)
		return a->err->code;
	for (uint32_t i = 0; i < a->count; i++)
		order[i] = &a->entries[i];
	qsort(order, a->count, sizeof *order, by_offset);
	*end = 0;
	const struct entry *last = NULL;
	for (uint32_t i = 0; i < a->count; i++) {
		const struct entry *e = order[i];
		if (e->size == 0)
			continue;
		if (last && e->offset < *end)
			return st_fail_at(a->err, ST_ERR_FORMAT, e->at, a->c->tensors[e - a->entries].name,
			                  "overlaps %s", a->c->tensors[last - a->entries].name);
		*end = e->offset + e->size;
		last = e;
	}
	return ST_OK;
}

/* CRC-32 of a whole model: in pieces, joined in order, so that threads share them out. */
struct crc_pieces {
	const uint8_t *p;
	uint64_t n, piece;
	uint32_t sums[1024];
};

static void sum_pieces(void *ctx, unsigned lane, uint64_t begin, uint64_t end)
{
	struct crc_pieces *c = ctx;
	(void)lane;
	for (uint64_t i = begin; i < end; i++) {
		uint64_t at = i * c->piece, len = c->n - at < c->piece ? c->n - at : c->piece;
		c->sums[i] = st_cancelled() ? 0 : libdeflate_crc32(0, c->p + at, (size_t)len);
	}
}

static enum st_status file_crc(const uint8_t *p, uint64_t n, struct st_pool *pool, uint32_t *crc, struct st_error *err)
{
	struct crc_pieces c = { .p = p, .n = n, .piece = UINT64_C(16) << 20 };
	uint64_t least = st_ceil_div(n, sizeof c.sums / sizeof *c.sums);
	c.piece = c.piece < least ? least : c.piece;
	uint64_t n_pieces = st_ceil_div(n, c.piece);
	st_pool_run(pool, n_pieces, 1, sum_pieces, &c);
	*crc = 0;
	for (uint64_t i = 0; i < n_pieces; i++)
		*crc = (uint32_t)crc32_combine(*crc, c.sums[i],
		                               (z_off_t)(n - i * c.piece < c.piece ? n - i * c.piece : c.piece));
	return st_check_cancel(err);
}

/* Behind the last tensor, padded to 64 bytes, comes nothing or a CRC of all before it. */
static enum st_status check_end(const struct apr *a)
{
	uint64_t end = 0, padded;
	ST_TRY(check_overlaps(a, &end));
	if (!st_round_up(a->data + end, ST_APR_ALIGN, &padded) || padded > a->n)
		return st_fail_at(a->err, ST_ERR_FORMAT, a->n, NULL,
		                  "the file is cut inside the padding of its last tensor");
	if (a->n == padded)
		return ST_OK;
	if (a->n - padded != 4)
		return st_fail_at(a->err, ST_ERR_FORMAT, padded, NULL,
		                  "%llu bytes follow the last tensor, neither none nor a CRC: an entry is missing from "
		                  "the index, or the file is cut",
		                  (unsigned long long)(a->n - padded));
	uint32_t stated = st_load_u32(a->p + padded), crc;
	ST_TRY(file_crc(a->p, padded, a->c->pool, &crc, a->err));
	if (crc != stated)
		return st_fail_at(a->err, ST_ERR_FORMAT, padded, "footer",
		                  "CRC-32 of the file is %08x, the footer says %08x", (unsigned)crc, (unsigned)stated);
	return ST_OK;
}

enum st_status st_apr_open(struct st_container *c, const char *path, struct st_error *err)
{
	uint32_t file;
	ST_TRY(st_container_add_file(c, path, &file, err));
	struct st_apr_meta meta;
	struct apr a = { .c = c, .err = err, .p = c->maps[file].data, .n = c->maps[file].size };
	c->format = ST_FORMAT_APR;
	c->version = 2;
	c->alignment = ST_APR_ALIGN;
	ST_TRY(read_header(&a));
	ST_TRY(open_image(&a));
	ST_TRY(st_apr_read_metadata(c->docs.metadata, a.meta, &meta, err));
	ST_TRY(read_index(&a));
	st_apr_orient(c, &meta);
	for (uint32_t i = 0; i < a.count; i++)
		ST_TRY(place(&a, &c->tensors[i], &a.entries[i]));
	ST_TRY(check_end(&a));
	c->describe = st_arena_printf(&c->arena, "APR v2 (writer %c)%s%s%s",
	                              c->apr.writer == ST_APR_WRITER_A ? 'A' : 'B', a.packing,
	                              c->apr.dims_reversed ? ", dimensions listed as [in, out]" : "",
	                              a.unsorted ? ", index not sorted by name" : "");
	if (!c->describe)
		return st_fail(err, ST_ERR_NOMEM, "out of memory");
	return ST_OK;
}
