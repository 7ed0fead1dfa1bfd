/* apr: both writers, every stored type, the order of dimensions, compression, every way a file can be broken. */
#include "files.h"
#include "manifest.h"

#include "format/writer.h"

#include <lz4.h>
#include <zlib.h>
#include <zstd.h>

/* ---- making files ---- */

struct item {
	const char *name;
	uint8_t code;
	uint8_t ndim;
	uint64_t dims[3];
	size_t size; /* stated and stored; bytes count 0, 1, 2, ... unless data is given */
	const void *data;
};

static struct bytes file;
static struct {
	size_t index, data, entry[16];
} at; /* places in the last file built */

static void fix_header_crc(struct bytes *b)
{
	uint32_t crc = (uint32_t)crc32(crc32(0, b->p, 40), b->p + 44, 20);
	memcpy(b->p + 40, &crc, 4);
}

static void put_u16(struct bytes *b, uint16_t v) { put(b, &v, 2); }

/* header, JSON, index, data, each padded to 64; the offsets are patched in at the end. */
static void build(const char *meta, const struct item *items, size_t n, unsigned flags, bool footer)
{
	file.n = 0;
	put(&file, "APR\0\2\0", 6);
	put_u16(&file, (uint16_t)flags);
	put_u32(&file, (uint32_t)n);
	put_u64(&file, 64);
	put_u32(&file, (uint32_t)strlen(meta));
	put_zeros_to(&file, 64);
	put(&file, meta, strlen(meta));
	put_zeros_to(&file, 64);
	at.index = file.n;
	uint64_t offset = 0;
	for (size_t i = 0; i < n; i++) {
		at.entry[i] = file.n;
		put_u16(&file, (uint16_t)strlen(items[i].name));
		put(&file, items[i].name, strlen(items[i].name));
		put_u8(&file, items[i].code);
		put_u8(&file, items[i].ndim);
		for (uint8_t d = 0; d < items[i].ndim; d++)
			put_u64(&file, items[i].dims[d]);
		put_u64(&file, offset);
		put_u64(&file, items[i].size);
		offset += (items[i].size + 63) / 64 * 64;
	}
	put_zeros_to(&file, 64);
	at.data = file.n;
	for (size_t i = 0; i < n; i++) {
		for (size_t k = 0; k < items[i].size; k++)
			put_u8(&file, items[i].data ? ((const uint8_t *)items[i].data)[k] : (uint8_t)k);
		put_zeros_to(&file, 64);
	}
	memcpy(file.p + 24, &at.index, 8);
	memcpy(file.p + 32, &at.data, 8);
	fix_header_crc(&file);
	if (footer)
		put_u32(&file, (uint32_t)crc32(0, file.p, (uInt)file.n));
}

static struct st_container *open_ok(const char *path)
{
	struct st_container *c;
	struct st_error err = ST_ERROR_INIT;
	assert_ok(st_container_open(path, &c, &err), &err);
	return c;
}

static void assert_shape(const struct st_tensor *t, uint64_t d0, uint64_t d1)
{
	assert_non_null(t);
	assert_int_equal(t->ndim, 2);
	assert_int_equal(t->shape[0], d0);
	assert_int_equal(t->shape[1], d1);
}

#define META_A "{\"model_type\":\"llama\",\"hidden_size\":4,\"num_layers\":1,\"vocab_size\":3}"
#define EMBED "model.embed_tokens.weight"
#define NORM "model.norm.weight"

static const float embed[12] = { 0, 1, 2, 3, 10, 11, 12, 13, 20, 21, 22, 23 };
static const float ones[4] = { 1, 1, 1, 1 };
static const struct item good[] = {
	{ .name = EMBED, .code = 0, .ndim = 2, .dims = { 3, 4 }, .size = 48, .data = embed },
	{ .name = NORM, .code = 0, .ndim = 1, .dims = { 4 }, .size = 16, .data = ones },
};

static void build_good(bool footer) { build(META_A, good, 2, 0x400, footer); }

static void check_good(const char *path, const char *describe)
{
	struct st_container *c = open_ok(path);
	assert_int_equal(st_container_format(c), ST_FORMAT_APR);
	assert_string_equal(st_container_describe(c), describe);
	assert_int_equal(st_container_n_tensors(c), 2);
	const struct st_tensor *t = st_container_find(c, EMBED);
	assert_shape(t, 3, 4);
	float got[12];
	st_tensor_decode(t, 0, 3, got);
	assert_memory_equal(got, embed, sizeof got);
	st_tensor_decode(st_container_find(c, NORM), 0, 1, got);
	assert_memory_equal(got, ones, sizeof ones);
	st_container_close(c);
}

/* ---- sound files ---- */

static void a_good_file(void **state)
{
	(void)state;
	build_good(true);
	check_good(save("m.apr", &file), "APR v2 (writer A)");
	build_good(false);
	check_good(save("m.apr", &file), "APR v2 (writer A)");
	memcpy(file.p, "APR2", 4);
	fix_header_crc(&file);
	check_good(save("m.apr", &file), "APR v2 (writer A)");
}

static void a_file_without_tensors(void **state)
{
	(void)state;
	build("{}", NULL, 0, 0, true);
	struct st_container *c = open_ok(save("m.apr", &file));
	assert_int_equal(st_container_n_tensors(c), 0);
	st_container_close(c);
}

static void compressed_images(void **state)
{
	(void)state;
	static struct bytes out;
	static uint8_t room[1 << 16];
	build(META_A, good, 2, 0x401, true);
	out.n = 0;
	put(&out, file.p, 64);
	put_u32(&out, (uint32_t)(file.n - 64));
	int n = LZ4_compress_default((const char *)file.p + 64, (char *)room, (int)file.n - 64, sizeof room);
	assert_true(n > 0);
	put(&out, room, (size_t)n);
	check_good(save("lz4.apr", &out), "APR v2 (writer A), LZ4");
	for (size_t cut = 64; cut < out.n; cut++)
		assert_refused(save_n("lz4.apr", out.p, cut), ST_ERR_FORMAT, "LZ4 block", "LZ4 cut");
	for (int known = 0; known < 2; known++) {
		build(META_A, good, 2, 0x402, true);
		ZSTD_CCtx *z = ZSTD_createCCtx();
		ZSTD_CCtx_setParameter(z, ZSTD_c_contentSizeFlag, known);
		size_t k = ZSTD_compress2(z, room, sizeof room, file.p + 64, file.n - 64);
		ZSTD_freeCCtx(z);
		assert_false(ZSTD_isError(k));
		out.n = 0;
		put(&out, file.p, 64);
		put(&out, room, k);
		assert_true((ZSTD_getFrameContentSize(room, k) == ZSTD_CONTENTSIZE_UNKNOWN) == !known);
		check_good(save("zstd.apr", &out), "APR v2 (writer A), zstd");
		for (size_t cut = 64; cut < out.n; cut++)
			assert_refused(save_n("zstd.apr", out.p, cut), ST_ERR_FORMAT, "zstd frame", "zstd cut");
		put_u8(&out, 0);
		assert_refused(save("zstd.apr", &out), ST_ERR_FORMAT, "1 bytes follow", "zstd and more");
	}
	/* The writer that sets the flag and compresses nothing */
	build(META_A, good, 2, 0x401, true);
	check_good(save("plain.apr", &file), "APR v2 (writer A), LZ4 flag on plain data");
}

static void bombs(void **state)
{
	(void)state;
	static struct bytes out;
	static uint8_t room[1 << 16];
	/* 200 MB of zeros in a few kilobytes of zstd, with and without a stated size */
	size_t big = 200u << 20;
	uint8_t *zeros = calloc(big, 1);
	assert_non_null(zeros);
	for (int known = 0; known < 2; known++) {
		build(META_A, good, 2, 0x402, true);
		ZSTD_CCtx *z = ZSTD_createCCtx();
		ZSTD_CCtx_setParameter(z, ZSTD_c_contentSizeFlag, known);
		size_t k = ZSTD_compress2(z, room, sizeof room, zeros, big);
		ZSTD_freeCCtx(z);
		assert_false(ZSTD_isError(k));
		out.n = 0;
		put(&out, file.p, 64);
		put(&out, room, k);
		assert_refused(save("bomb.apr", &out), ST_ERR_LIMIT, "the limit for this file", "zstd bomb");
	}
	free(zeros);
	build(META_A, good, 2, 0x401, true);
	out.n = 0;
	put(&out, file.p, 64);
	put_u32(&out, 0x70000000);
	put(&out, room, 1000);
	assert_refused(save("bomb.apr", &out), ST_ERR_FORMAT, "cannot unfold to 1879048192", "LZ4 bomb");
}

/* ---- stored types ---- */

static void sizes_settle_the_type(void **state)
{
	(void)state;
	/* Bytes by hand from the block layouts: 32 elements in 18, 20, 22, 24, 34 or 36 bytes, 256 in 84, 110, 144, 176
	 * or 210. */
	static const struct {
		uint8_t code;
		uint64_t rows, cols;
		size_t size;
		enum st_dtype dtype;
		enum st_layout layout;
		uint64_t row_bytes;
	} cases[] = {
		{ 0, 2, 32, 256, ST_DTYPE_F32, ST_LAYOUT_ROWS, 128 },
		{ 1, 2, 32, 128, ST_DTYPE_F16, ST_LAYOUT_ROWS, 64 },
		{ 30, 2, 32, 128, ST_DTYPE_BF16, ST_LAYOUT_ROWS, 64 },
		{ 2, 2, 32, 128, ST_DTYPE_BF16, ST_LAYOUT_ROWS, 64 },
		{ 2, 2, 32, 36, ST_DTYPE_Q4_0, ST_LAYOUT_ROWS, 18 },
		{ 3, 2, 32, 512, ST_DTYPE_F64, ST_LAYOUT_ROWS, 256 },
		{ 3, 2, 32, 40, ST_DTYPE_Q4_1, ST_LAYOUT_ROWS, 20 },
		{ 4, 2, 32, 256, ST_DTYPE_I32, ST_LAYOUT_ROWS, 128 },
		{ 5, 2, 32, 512, ST_DTYPE_I64, ST_LAYOUT_ROWS, 256 },
		{ 6, 2, 32, 64, ST_DTYPE_I8, ST_LAYOUT_ROWS, 32 },
		{ 6, 2, 32, 44, ST_DTYPE_Q5_0, ST_LAYOUT_ROWS, 22 },
		{ 7, 2, 32, 64, ST_DTYPE_U8, ST_LAYOUT_ROWS, 32 },
		{ 7, 2, 32, 48, ST_DTYPE_Q5_1, ST_LAYOUT_ROWS, 24 },
		{ 8, 2, 32, 36, ST_DTYPE_APR_Q4, ST_LAYOUT_ROWS, 18 },
		{ 8, 2, 32, 68, ST_DTYPE_Q8_0, ST_LAYOUT_ROWS, 34 },
		{ 9, 2, 32, 68, ST_DTYPE_APR_Q8, ST_LAYOUT_ROWS, 32 },
		{ 9, 2, 32, 72, ST_DTYPE_Q8_1, ST_LAYOUT_ROWS, 36 },
		{ 128, 2, 32, 36, ST_DTYPE_APR_Q4, ST_LAYOUT_ROWS, 18 },
		{ 129, 2, 32, 68, ST_DTYPE_APR_Q8, ST_LAYOUT_ROWS, 32 },
		{ 10, 2, 256, 168, ST_DTYPE_Q2_K, ST_LAYOUT_ROWS, 84 },
		{ 11, 2, 256, 220, ST_DTYPE_Q3_K, ST_LAYOUT_ROWS, 110 },
		{ 12, 2, 256, 288, ST_DTYPE_Q4_K, ST_LAYOUT_ROWS, 144 },
		{ 13, 2, 256, 352, ST_DTYPE_Q5_K, ST_LAYOUT_ROWS, 176 },
		{ 14, 2, 256, 420, ST_DTYPE_Q6_K, ST_LAYOUT_ROWS, 210 },
		{ 16, 2, 256, 132, ST_DTYPE_IQ2_XXS, ST_LAYOUT_ROWS, 66 },
		{ 17, 2, 256, 148, ST_DTYPE_IQ2_XS, ST_LAYOUT_ROWS, 74 },
		/* Rows that are no multiple of the block: 4 rows of 72 are 9 legacy blocks */
		{ 2, 4, 72, 162, ST_DTYPE_Q4_0, ST_LAYOUT_FLAT, 0 },
		{ 8, 3, 35, 72, ST_DTYPE_APR_Q4, ST_LAYOUT_FLAT, 0 },
		{ 8, 3, 35, 136, ST_DTYPE_Q8_0, ST_LAYOUT_FLAT, 0 },
		{ 9, 3, 35, 109, ST_DTYPE_APR_Q8, ST_LAYOUT_ROWS, 35 },
		/* 3 rows of 300: padded 3 * 2 blocks, flat ceil(900 / 256) = 4 */
		{ 12, 3, 300, 864, ST_DTYPE_Q4_K, ST_LAYOUT_ROWS, 288 },
		{ 12, 3, 300, 576, ST_DTYPE_Q4_K, ST_LAYOUT_FLAT, 0 },
		{ 14, 3, 300, 1260, ST_DTYPE_Q6_K, ST_LAYOUT_ROWS, 420 },
		{ 14, 3, 300, 840, ST_DTYPE_Q6_K, ST_LAYOUT_FLAT, 0 },
	};
	for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
		struct item it = { .name = "model.w",
			           .code = cases[i].code,
			           .ndim = 2,
			           .dims = { cases[i].rows, cases[i].cols },
			           .size = cases[i].size };
		build("{}", &it, 1, 0, false);
		struct st_container *c = open_ok(save("m.apr", &file));
		const struct st_tensor *t = st_container_tensor(c, 0);
		if (t->dtype != cases[i].dtype || t->layout != cases[i].layout || t->row_bytes != cases[i].row_bytes)
			fail_msg("case %zu: %s, layout %d, rows of %llu bytes", i, st_dtype_info(t->dtype)->name,
			         (int)t->layout, (unsigned long long)t->row_bytes);
		decode_all(c);
		st_container_close(c);
	}
}

static void sizes_that_fit_nothing(void **state)
{
	(void)state;
	static const struct {
		uint8_t code;
		uint64_t rows, cols;
		size_t size;
		enum st_status status;
		const char *why;
	} cases[] = {
		{ 0, 2, 32, 44, ST_ERR_FORMAT, "do not hold 64 elements of F32 (dtype code 0); some writers label" },
		{ 3, 2, 32, 256, ST_ERR_FORMAT, "F64 or Q4_1" },
		{ 2, 2, 33, 37, ST_ERR_FORMAT, "BF16 or Q4_0" }, /* 66 elements are no whole blocks */
		{ 8, 3, 35, 73, ST_ERR_FORMAT, "AprQ4 or Q8_0" },
		{ 12, 3, 300, 720, ST_ERR_FORMAT, "Q4_K" },
		{ 15, 2, 256, 584, ST_ERR_FORMAT, "unknown dtype code 15" },
		{ 255, 2, 32, 64, ST_ERR_FORMAT, "unknown dtype code 255" },
		{ 9, 1, 32, 36, ST_ERR_UNSUPPORTED, "may be AprQ8 or Q8_1" },
		{ 129, 1, 0, 0, ST_ERR_FORMAT, "" }, /* no room for the scale */
	};
	for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
		struct item it = { .name = "model.w",
			           .code = cases[i].code,
			           .ndim = 2,
			           .dims = { cases[i].rows, cases[i].cols },
			           .size = cases[i].size };
		build("{}", &it, 1, 0, false);
		assert_refused(save("m.apr", &file), cases[i].status, cases[i].why, cases[i].why);
	}
}

static void values_of_aprs_own_types(void **state)
{
	(void)state;
	/* AprQ8: scale 0.5, then int8. AprQ4 over 3 rows of 11: scale 2 (f16 0x4000), nibble i - 8; the second
	 * block holds one element, so that a row begins inside a block. */
	uint8_t q8[4 + 3] = { 0, 0, 0, 0x3f, 1, 0xfe, 127 }, q4[36] = { 0 };
	q4[1] = q4[19] = 0x40;
	for (int i = 0; i < 33; i++)
		q4[18 * (i / 32) + 2 + i % 32 / 2] |= (uint8_t)(i % 16 << (i % 2 ? 4 : 0));
	const struct item items[] = {
		{ .name = "model.a", .code = 9, .ndim = 1, .dims = { 3 }, .size = sizeof q8, .data = q8 },
		{ .name = "model.b", .code = 128, .ndim = 2, .dims = { 3, 11 }, .size = sizeof q4, .data = q4 },
	};
	build("{}", items, 2, 0, true);
	struct st_container *c = open_ok(save("m.apr", &file));
	float got[33];
	const struct st_tensor *t = st_container_find(c, "model.a");
	assert_true(t->scale == 0.5f && t->n_bytes == 3 && t->offset == at.data + 4);
	st_tensor_decode(t, 0, 1, got);
	assert_true(got[0] == 0.5f && got[1] == -1 && got[2] == 63.5f);
	t = st_container_find(c, "model.b");
	st_tensor_decode(t, 0, 3, got);
	for (int i = 0; i < 33; i++)
		assert_true(got[i] == 2.f * (float)(i % 16 - 8));
	st_container_close(c);
}

/* ---- order of dimensions ---- */

#define Q(n) "model.layers.0.self_attn." n "_proj.weight"

static void order_of_dimensions(void **state)
{
	(void)state;
	/* hidden 4, feed-forward 6, key-value size 2, vocabulary 3; all F32. The expected shapes are [out, in]. */
	static const struct item a[] = {
		{ .name = EMBED, .ndim = 2, .dims = { 3, 4 }, .size = 48 },
		{ .name = "model.layers.0.mlp.down_proj.weight", .ndim = 2, .dims = { 4, 6 }, .size = 96 },
		{ .name = Q("k"), .ndim = 2, .dims = { 2, 4 }, .size = 32 },
		{ .name = Q("o"), .ndim = 2, .dims = { 4, 4 }, .size = 64 },
		{ .name = "model.unknown", .ndim = 2, .dims = { 5, 7 }, .size = 140 },
	};
	struct item labels[5];
	/* HF names with sound labels, with all labels reversed, and with one of them reversed. */
	for (int kind = 0; kind < 3; kind++) {
		memcpy(labels, a, sizeof a);
		for (int i = 0; i < 5; i++) {
			if (kind == 1 || (kind == 2 && i == 1)) {
				labels[i].dims[0] = a[i].dims[1];
				labels[i].dims[1] = a[i].dims[0];
			}
		}
		build(kind == 2 ? "{}" : META_A, labels, 5, kind == 1 ? 0x400 : 0, false);
		/* Without hidden_size in the metadata nothing is known: labels are believed. */
		struct st_container *c = open_ok(save("m.apr", &file));
		assert_int_equal(c->apr.writer, ST_APR_WRITER_A);
		assert_int_equal(c->apr.dims_reversed, kind == 1);
		for (int i = 0; i < 5; i++) {
			const struct st_tensor *t = st_container_find(c, a[i].name);
			bool believed = kind == 2 && i == 1;
			assert_shape(t, a[i].dims[believed], a[i].dims[!believed]);
			assert_int_equal(t->layout, ST_LAYOUT_ROWS);
			assert_int_equal(t->file_dims[0], labels[i].dims[0]);
		}
		st_container_close(c);
	}
	/* One reversed label in a file whose hidden size is known */
	build(META_A, labels, 5, 0, false);
	struct st_container *c = open_ok(save("m.apr", &file));
	assert_false(c->apr.dims_reversed);
	assert_shape(st_container_find(c, a[1].name), 4, 6);
	st_container_close(c);
	/* The hidden size may also be that of the last norm. */
	struct item with_norm[] = { labels[1], { .name = NORM, .ndim = 1, .dims = { 4 }, .size = 16 } };
	build("{}", with_norm, 2, 0, false);
	c = open_ok(save("m.apr", &file));
	assert_shape(st_container_find(c, a[1].name), 4, 6);
	st_container_close(c);
}

static void order_of_writer_b(void **state)
{
	(void)state;
	static const struct item b[] = {
		{ .name = "blk.0.attn_k.weight", .ndim = 2, .dims = { 4, 2 }, .size = 32 },
		{ .name = "blk.0.attn_q.weight", .ndim = 2, .dims = { 4, 4 }, .size = 64 },
		{ .name = "blk.0.ffn_down_exps.weight", .ndim = 3, .dims = { 6, 4, 2 }, .size = 192 },
		{ .name = "blk.0.attn_norm.weight", .ndim = 1, .dims = { 4 }, .size = 16 },
	};
	/* With a config and without: GGUF names list the input side first. */
	for (int kind = 0; kind < 2; kind++) {
		build(kind ? "{\"hidden_size\":4,\"num_hidden_layers\":1}" : "{}", b, 4, 0x420, false);
		struct st_container *c = open_ok(save("m.apr", &file));
		assert_int_equal(c->apr.writer, ST_APR_WRITER_B);
		assert_true(c->apr.dims_reversed);
		assert_string_equal(st_container_describe(c),
		                    "APR v2 (writer B), dimensions listed as [in, out], index not sorted by name");
		assert_shape(st_container_find(c, b[0].name), 2, 4);
		const struct st_tensor *t = st_container_find(c, b[2].name);
		assert_true(t->shape[0] == 2 && t->shape[1] == 4 && t->shape[2] == 6);
		st_container_close(c);
	}
}

static void matrices_stored_transposed(void **state)
{
	(void)state;
	/* x[i][o] = 10 i + o stored as [in 4, out 6]; shape [out, in] must decode to its transpose. */
	float x[24], got[24];
	for (int i = 0; i < 24; i++)
		x[i] = (float)(10 * (i / 6) + i % 6);
	const struct item conv[] = {
		{ .name = "transformer.h.0.attn.c_proj.weight", .ndim = 2, .dims = { 4, 4 }, .size = 64, .data = x },
		{ .name = "transformer.h.0.mlp.c_fc.weight", .ndim = 2, .dims = { 4, 6 }, .size = 96, .data = x },
		{ .name = "transformer.wte.weight", .ndim = 2, .dims = { 6, 4 }, .size = 96, .data = x },
	};
	build("{\"model_type\":\"gpt2\",\"n_embd\":4}", conv, 3, 0x400, false);
	struct st_container *c = open_ok(save("m.apr", &file));
	assert_false(c->apr.dims_reversed);
	const struct st_tensor *t = st_container_find(c, conv[1].name);
	assert_shape(t, 6, 4);
	st_tensor_decode(t, 0, 6, got);
	for (int o = 0; o < 6; o++)
		for (int i = 0; i < 4; i++)
			assert_true(got[4 * o + i] == (float)(10 * i + o));
	t = st_container_find(c, conv[0].name); /* square: GPT-2 says how it lies */
	assert_int_equal(t->layout, ST_LAYOUT_STRIDED);
	t = st_container_find(c, conv[2].name); /* the embedding is no Conv1D */
	assert_int_equal(t->layout, ST_LAYOUT_ROWS);
	assert_shape(t, 6, 4);
	st_container_close(c);
	/* The same names in another family are ordinary matrices. */
	build("{\"model_type\":\"gptx\",\"n_embd\":4}", conv, 3, 0x400, false);
	c = open_ok(save("m.apr", &file));
	assert_int_equal(st_container_find(c, conv[1].name)->layout, ST_LAYOUT_ROWS);
	st_container_close(c);
	const struct item trained[] = {
		{ .name = "model.layers.0.mlp.up_proj.weight", .ndim = 2, .dims = { 4, 6 }, .size = 96, .data = x },
		{ .name = "model.layers.0.self_attn.q_proj.weight",
		  .ndim = 2,
		  .dims = { 4, 4 },
		  .size = 64,
		  .data = x },
	};
	build("{\"format\":\"entrenar-checkpoint\",\"hidden_size\":4}", trained, 2, 0x400, false);
	c = open_ok(save("m.apr", &file));
	t = st_container_find(c, trained[0].name);
	assert_shape(t, 6, 4);
	st_tensor_decode(t, 1, 1, got);
	assert_true(got[0] == 1 && got[3] == 31);
	assert_int_equal(st_container_find(c, trained[1].name)->layout, ST_LAYOUT_STRIDED);
	st_container_close(c);
	const struct item quantised = {
		.name = "model.layers.0.mlp.up_proj.weight", .code = 2, .ndim = 2, .dims = { 32, 64 }, .size = 1152
	};
	build("{\"format\":\"entrenar-checkpoint\",\"hidden_size\":32}", &quantised, 1, 0x400, false);
	assert_refused(save("m.apr", &file), ST_ERR_UNSUPPORTED, "a transposed matrix in blocks of Q4_0", "quantised");
}

/* ---- metadata ---- */

static void metadata_that_contradicts_itself(void **state)
{
	(void)state;
	static const struct {
		const char *meta;
		enum st_status status; /* ST_OK: opens */
		const char *why;
	} cases[] = {
		{ "{\"num_layers\":2,\"num_hidden_layers\":2,\"n_layer\":null}", ST_OK, "" },
		{ "{\"num_layers\":1,\"num_hidden_layers\":2}", ST_ERR_FORMAT,
		  "num_hidden_layers: is 2, but num_layers, another spelling of it, is 1" },
		{ "{\"n_embd\":4,\"d_model\":8}", ST_ERR_FORMAT, "n_embd: is 4, but d_model, another spelling of it, is 8" },
		{ "{\"rms_norm_eps\":1e-6,\"layer_norm_eps\":1e-5}", ST_ERR_FORMAT, "layer_norm_eps" },
		{ "{\"rms_norm_eps\":1e-6,\"norm_eps\":0.000001}", ST_OK, "" },
		{ "{\"num_layers\":-1}", ST_ERR_FORMAT, "num_layers: is -1, not an integer of at least 0" },
		{ "{\"num_layers\":\"1\"}", ST_ERR_FORMAT, "num_layers: is \"1\", not an integer" },
		{ "{\"num_heads\":2.5}", ST_ERR_FORMAT, "num_heads: is 2.5, not an integer" },
		{ "{\"rope_theta\":\"x\"}", ST_ERR_FORMAT, "rope_theta: is \"x\", not a number" },
		{ "{\"architecture\":7}", ST_ERR_FORMAT, "architecture: is 7, not a string" },
		{ "{\"tokenizer.vocabulary\":[\"a\",1]}", ST_ERR_FORMAT,
		  "tokenizer.vocabulary: item 1 is not a string" },
		{ "{\"tokenizer.scores\":[0.5,\"a\"]}", ST_ERR_FORMAT, "tokenizer.scores: item 1 is not a number" },
		{ "{\"a\":1,\"a\":1}", ST_ERR_FORMAT, "not valid JSON: duplicate" },
		{ "[]", ST_ERR_FORMAT, "not a JSON object" },
		{ "{", ST_ERR_FORMAT, "not valid JSON" },
		{ "", ST_ERR_FORMAT, "not valid JSON" },
	};
	for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
		build(cases[i].meta, good, 2, 0, true);
		const char *path = save("m.apr", &file);
		if (cases[i].status == ST_OK)
			st_container_close(open_ok(path));
		else
			assert_refused(path, cases[i].status, cases[i].why, cases[i].meta);
	}
}

/* ---- broken files ---- */

static void broken_fields(void **state)
{
	(void)state;
	enum { HEADER, ENTRY0, ENTRY1 }; /* what `where` counts from */
	/* Entry: u16, name, dtype, ndim, dims, offset, size. */
	const size_t n0 = sizeof EMBED - 1, n1 = sizeof NORM - 1;
	const struct {
		int base;
		size_t where, width;
		uint64_t value;
		enum st_status status;
		const char *why;
	} cases[] = {
		{ HEADER, 0, 4, 0x31525041, ST_ERR_UNSUPPORTED, "not an APR v2 file" },  /* APR1 */
		{ HEADER, 0, 4, 0x4e525041, ST_ERR_UNSUPPORTED, "version 1 container" }, /* APRN */
		{ HEADER, 4, 1, 3, ST_ERR_UNSUPPORTED, "version 3.0" },
		{ HEADER, 6, 2, 0x404, ST_ERR_UNSUPPORTED, "encrypted" },
		{ HEADER, 6, 2, 0x800, ST_ERR_UNSUPPORTED, "column-major" },
		{ HEADER, 6, 2, 0x10, ST_ERR_UNSUPPORTED, "sharded" },
		{ HEADER, 6, 2, 0x4000, ST_ERR_UNSUPPORTED, "unknown flags 0x4000" },
		{ HEADER, 6, 2, 3, ST_ERR_FORMAT, "both LZ4 and zstd" },
		{ HEADER, 8, 4, UINT32_MAX, ST_ERR_FORMAT, "4294967295 tensors" },
		{ HEADER, 8, 4, 3, ST_ERR_FORMAT, "" },
		{ HEADER, 8, 4, 1, ST_ERR_FORMAT, "follow the last tensor" },
		{ HEADER, 12, 8, 0, ST_ERR_FORMAT, "metadata at byte 0" },
		{ HEADER, 12, 8, UINT64_MAX, ST_ERR_FORMAT, "metadata at byte 18446744073709551615" },
		{ HEADER, 20, 4, UINT32_MAX, ST_ERR_LIMIT, "metadata of 4294967295 bytes" },
		{ HEADER, 20, 4, 1u << 26, ST_ERR_FORMAT, "tensor index" },
		{ HEADER, 24, 8, 64, ST_ERR_FORMAT, "tensor index at byte 64" },
		{ HEADER, 24, 8, UINT64_MAX - 15, ST_ERR_FORMAT, "tensor index at byte" },
		{ HEADER, 32, 8, UINT64_MAX - 15, ST_ERR_FORMAT, "data at byte" },
		{ HEADER, 32, 8, 64, ST_ERR_FORMAT, "data at byte 64" },
		{ HEADER, 32, 8, 1u << 20, ST_ERR_FORMAT, "data at byte 1048576" },
		{ ENTRY0, 0, 2, 0, ST_ERR_FORMAT, "tensor name: is empty" },
		{ ENTRY0, 0, 2, 65535, ST_ERR_FORMAT, "needs 65535 bytes" },
		{ ENTRY0, 2, 1, 0, ST_ERR_FORMAT, "NUL" },
		{ ENTRY0, 2, 1, 0xff, ST_ERR_FORMAT, "not UTF-8" },
		{ ENTRY0, 3 + n0, 1, 255, ST_ERR_LIMIT, "255 dimensions" },
		{ ENTRY0, 3 + n0, 1, 9, ST_ERR_LIMIT, "9 dimensions" },
		{ ENTRY0, 4 + n0, 8, 0, ST_ERR_FORMAT, "do not hold 0 elements" },
		{ ENTRY0, 4 + n0, 8, UINT64_C(1) << 63, ST_ERR_FORMAT, "overflow" },
		{ ENTRY0, 4 + n0, 8, UINT64_C(1) << 61, ST_ERR_FORMAT, "overflow" },
		{ ENTRY0, 20 + n0, 8, UINT64_MAX - 63, ST_ERR_FORMAT, "past the end" },
		{ ENTRY0, 20 + n0, 8, 64, ST_ERR_FORMAT, "overlaps" },
		{ ENTRY0, 28 + n0, 8, UINT64_C(1) << 62, ST_ERR_FORMAT, "past the end" },
		{ ENTRY0, 28 + n0, 8, 47, ST_ERR_FORMAT, "47 bytes do not hold 12 elements of F32" },
		{ ENTRY1, 12 + n1, 8, 0, ST_ERR_FORMAT, "overlaps" },
		{ ENTRY1, 12 + n1, 8, 32, ST_ERR_FORMAT, "no multiple of 64" },
		{ ENTRY1, 12 + n1, 8, 100, ST_ERR_FORMAT, "no multiple of 64" },
		{ ENTRY1, 12 + n1, 8, 128, ST_ERR_FORMAT, "past the end" },
	};
	for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
		build_good(false);
		size_t base = cases[i].base == HEADER ? 0 : at.entry[cases[i].base - ENTRY0];
		memcpy(file.p + base + cases[i].where, &cases[i].value, cases[i].width);
		fix_header_crc(&file);
		assert_refused(save("m.apr", &file), cases[i].status, cases[i].why, cases[i].why);
	}
	/* A tensor that reaches into the next by one row */
	build("{}",
	      (struct item[]){ { .name = "a", .ndim = 2, .dims = { 4, 4 }, .size = 64 },
	                       { .name = "b", .ndim = 1, .dims = { 4 }, .size = 16 } },
	      2, 0, false);
	file.p[at.entry[0] + 2 + 1 + 2] = 5;
	file.p[at.entry[0] + 2 + 1 + 2 + 24] = 80;
	assert_refused(save("m.apr", &file), ST_ERR_FORMAT, "b: overlaps a", "partial overlap");
	struct item twice[2] = { good[0], good[0] };
	build(META_A, twice, 2, 0, true);
	assert_refused(save("m.apr", &file), ST_ERR_FORMAT, EMBED ": the tensor is listed twice", "twice");
	build_good(true);
	file.p[40] ^= 1;
	assert_refused(save("m.apr", &file), ST_ERR_FORMAT, "byte 40: header: CRC-32", "header CRC");
	build_good(true);
	file.p[at.data] ^= 1;
	assert_refused(save("m.apr", &file), ST_ERR_FORMAT, "footer: CRC-32", "footer CRC");
	build_good(false);
	put_u8(&file, 0);
	assert_refused(save("m.apr", &file), ST_ERR_FORMAT, "1 bytes follow the last tensor", "one byte more");
}

static void every_truncation_is_refused(void **state)
{
	(void)state;
	build_good(true);
	for (size_t n = 0; n < file.n; n++) {
		char what[40];
		snprintf(what, sizeof what, "apr cut at %zu", n);
		const char *path = save_n("m.apr", file.p, n);
		if (n == file.n - 4) /* the footer may be absent */
			check_good(path, "APR v2 (writer A)");
		else
			assert_refused(path, ST_ERR_FORMAT, "", what);
	}
}

/* With the footer every changed byte is found; without it no byte does harm. */
static void damaged_bytes(void **state)
{
	(void)state;
	static const uint8_t values[] = { 0x00, 0x01, 0x7f, 0x80, 0xff };
	char line[1400];
	for (int footer = 0; footer < 2; footer++) {
		build_good(footer);
		for (size_t i = 0; i < at.data + 48; i++) {
			for (size_t k = 0; k < sizeof values; k++) {
				uint8_t was = file.p[i];
				if (was == values[k])
					continue;
				file.p[i] = values[k];
				if (i < 40
				    || (i >= 44 && i < 64)) /* the rest of the header is damaged with a sound CRC */
					fix_header_crc(&file);
				bool opened = opens(save("m.apr", &file), line);
				assert_false(footer && opened);
				file.p[i] = was;
				if (i < 64)
					fix_header_crc(&file);
			}
		}
	}
}

/* ---- writing ---- */

static void what_is_written_can_be_read(void **state)
{
	(void)state;
	static uint8_t data[5000];
	for (size_t i = 0; i < sizeof data; i++)
		data[i] = (uint8_t)(i * 7);
	static const struct st_tensor_spec specs[] = {
		{ .name = "a.bf16", .dtype = ST_DTYPE_BF16, .ndim = 2, .shape = { 3, 5 } },
		{ .name = "a.scalar", .dtype = ST_DTYPE_F32, .ndim = 0 },
		{ .name = "b.apr_q4", .dtype = ST_DTYPE_APR_Q4, .ndim = 2, .shape = { 2, 64 } },
		{ .name = "b.apr_q8", .dtype = ST_DTYPE_APR_Q8, .ndim = 2, .shape = { 2, 48 } },
		{ .name = "b.f64", .dtype = ST_DTYPE_F64, .ndim = 1, .shape = { 7 } },
		{ .name = "b.i8", .dtype = ST_DTYPE_I8, .ndim = 1, .shape = { 64 } },
		{ .name = "c.q4_0", .dtype = ST_DTYPE_Q4_0, .ndim = 2, .shape = { 3, 32 } },
		{ .name = "c.q4_1", .dtype = ST_DTYPE_Q4_1, .ndim = 2, .shape = { 3, 32 } },
		{ .name = "c.q4_k", .dtype = ST_DTYPE_Q4_K, .ndim = 2, .shape = { 3, 512 } },
		{ .name = "c.q5_0", .dtype = ST_DTYPE_Q5_0, .ndim = 2, .shape = { 3, 32 } },
		{ .name = "c.q5_1", .dtype = ST_DTYPE_Q5_1, .ndim = 2, .shape = { 3, 32 } },
		{ .name = "c.q6_k", .dtype = ST_DTYPE_Q6_K, .ndim = 2, .shape = { 1, 256 } },
		{ .name = "c.q8_0", .dtype = ST_DTYPE_Q8_0, .ndim = 2, .shape = { 3, 32 } },
	};
	/* By hand: 2 n; 4; 18 blocks of 32; 4 + n; 8 n; n; 18, 20, 144 x 2, 22, 24, 210, 34 a row */
	static const size_t sizes[] = { 30, 4, 72, 100, 56, 64, 54, 60, 864, 66, 72, 210, 102 };
	enum { N = sizeof specs / sizeof *specs };
	struct st_error err = ST_ERROR_INIT;
	json_t *meta = json_pack("{s:s, s:i, s:[s,s]}", "architecture", "llama", "num_layers", 2,
	                         "tokenizer.vocabulary", "a", "b");
	struct st_write_plan plan = { .format = ST_FORMAT_APR, .specs = specs, .n_specs = N, .metadata = meta };
	struct st_writer *w;
	const char *readable, *path = in_folder("w.apr");
	assert_ok(st_writer_open(path, &plan, &w, &err), &err);
	for (size_t i = 0; i < N; i++)
		assert_ok(st_writer_append(w, data + i, sizes[i], &err), &err);
	assert_ok(st_writer_finish(w, &readable, &err), &err);
	assert_ok(st_writer_commit(w, &err), &err);
	struct st_container *c = open_ok(path);
	assert_string_equal(st_container_describe(c), "APR v2 (writer A)");
	assert_int_equal(st_container_n_tensors(c), N);
	assert_int_equal(json_equal(c->docs.metadata, meta), 1);
	for (size_t i = 0; i < N; i++) {
		const struct st_tensor *t = st_container_tensor(c, i);
		size_t scale = specs[i].dtype == ST_DTYPE_APR_Q8 ? 4 : 0;
		assert_string_equal(t->name, specs[i].name);
		assert_int_equal(t->dtype, specs[i].dtype);
		assert_int_equal(t->ndim, specs[i].ndim);
		assert_int_equal(t->n_bytes, sizes[i] - scale);
		assert_int_equal((t->offset - scale) % 64, 0);
		assert_memory_equal(t->data, data + i + scale, t->n_bytes);
	}
	/* The header by the description of the format: flags row-major, quantised, vocabulary; CRC at the end. */
	const struct st_map *m = &c->maps[0];
	uint32_t crc;
	assert_memory_equal(m->data, "APR\0\2\0\x20\x06\x0d\0\0\0\x40\0\0\0\0\0\0\0", 20);
	assert_int_equal(m->size % 64, 4);
	memcpy(&crc, m->data + m->size - 4, 4);
	assert_int_equal(crc, crc32(0, m->data, (uInt)m->size - 4));
	st_container_close(c);
	json_decref(meta);
}

static void plans_that_are_refused(void **state)
{
	(void)state;
	char longer[258];
	memset(longer, 'x', 257);
	longer[257] = '\0';
	const struct {
		struct st_tensor_spec specs[2];
		size_t n;
		const char *meta;
		enum st_status status;
		const char *why;
	} cases[] = {
		{ { { .name = "b", .dtype = ST_DTYPE_F32 }, { .name = "a", .dtype = ST_DTYPE_F32 } },
		  2,
		  "{}",
		  ST_ERR_USAGE,
		  "sorted" },
		{ { { .name = longer, .dtype = ST_DTYPE_F32 } }, 1, "{}", ST_ERR_UNSUPPORTED, "1 to 256" },
		{ { { .name = "a", .dtype = ST_DTYPE_IQ4_NL, .ndim = 1, .shape = { 32 } } },
		  1,
		  "{}",
		  ST_ERR_UNSUPPORTED,
		  "no type for IQ4_NL" },
		{ { { .name = "a", .dtype = ST_DTYPE_Q8_1, .ndim = 1, .shape = { 32 } } },
		  1,
		  "{}",
		  ST_ERR_UNSUPPORTED,
		  "cannot be told" },
		{ { { .name = "a", .dtype = ST_DTYPE_F32 } },
		  1,
		  "{\"num_layers\":1,\"n_layers\":2}",
		  ST_ERR_FORMAT,
		  "another spelling" },
		{ { { .name = "a", .dtype = ST_DTYPE_F32 } }, 1, "[]", ST_ERR_USAGE, "must be an object" },
	};
	for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
		struct st_error err = ST_ERROR_INIT;
		json_t *meta = json_loads(cases[i].meta, 0, NULL);
		struct st_write_plan plan = {
			.format = ST_FORMAT_APR, .specs = cases[i].specs, .n_specs = cases[i].n, .metadata = meta
		};
		struct st_writer *w;
		assert_int_equal(st_writer_open(in_folder("w.apr"), &plan, &w, &err), cases[i].status);
		assert_non_null(strstr(err.message, cases[i].why));
		assert_int_equal(access(in_folder("w.apr"), F_OK), -1);
		json_decref(meta);
	}
}

/* ---- the shared files ---- */

static void shared_files(void **state)
{
	(void)state;
	check_manifest("apr");
	char line[1400];
	assert_false(opens(shared_path("malformed/apr/meta-alias-conflict.apr"), line));
	assert_non_null(strstr(line, "num_layers"));
	assert_non_null(strstr(line, "num_hidden_layers"));
}

static void assert_same(const struct st_tensor *a, const struct st_tensor *b)
{
	assert_true(a && b && a->ndim == b->ndim && a->dtype == b->dtype && a->n_bytes == b->n_bytes);
	for (uint32_t d = 0; d < a->ndim; d++)
		assert_int_equal(a->shape[d], b->shape[d]);
	assert_memory_equal(a->data, b->data, a->n_bytes);
}

/* Containers of one model: the same bytes under the same shapes, whatever the labels say. */
static void shared_models(void **state)
{
	(void)state;
	struct st_container *a = open_ok(shared_path("models/stories260k/model-a.apr"));
	struct st_container *b = open_ok(shared_path("models/stories260k/model-b.apr"));
	struct st_container *g = open_ok(shared_path("models/stories260k/model.gguf"));
	struct st_container *h = open_ok(shared_path("models/stories260k/hf"));
	assert_int_equal(a->apr.writer, ST_APR_WRITER_A);
	assert_int_equal(b->apr.writer, ST_APR_WRITER_B);
	assert_false(a->apr.dims_reversed);
	assert_true(b->apr.dims_reversed);
	assert_int_equal(st_container_n_tensors(b), st_container_n_tensors(g));
	for (size_t i = 0; i < st_container_n_tensors(g); i++)
		assert_same(st_container_tensor(g, i), st_container_find(b, st_container_tensor(g, i)->name));
	for (size_t i = 0; i < st_container_n_tensors(h); i++)
		assert_same(st_container_tensor(h, i), st_container_find(a, st_container_tensor(h, i)->name));
	st_container_close(b);
	st_container_close(g);
	st_container_close(h);
	/* Every label reversed, the bytes right. */
	struct st_container *r = open_ok(shared_path("models/stories260k/fault-dims-reversed.apr"));
	assert_int_equal(r->apr.writer, ST_APR_WRITER_A);
	assert_true(r->apr.dims_reversed);
	struct st_container *q = open_ok(shared_path("models/stories260k/fault-q-transposed.apr"));
	assert_false(q->apr.dims_reversed);
	for (size_t i = 0; i < st_container_n_tensors(q); i++) {
		const struct st_tensor *t = st_container_tensor(q, i), *u = st_container_find(r, t->name);
		if (strcmp(t->name, "model.layers.2.self_attn.q_proj.weight") != 0)
			assert_same(t, u);
		assert_int_equal(u->layout, ST_LAYOUT_ROWS);
	}
	st_container_close(a);
	st_container_close(r);
	st_container_close(q);
}

static void shared_quantised_models(void **state)
{
	(void)state;
	struct st_container *a = open_ok(shared_path("models/qwen2-k/qwen2-k-q4_k-a.apr"));
	struct st_container *b = open_ok(shared_path("models/qwen2-k/qwen2-k-q4_k-b.apr"));
	struct st_container *g = open_ok(shared_path("models/qwen2-k/qwen2-k-q4_k.gguf"));
	for (size_t i = 0; i < st_container_n_tensors(g); i++)
		assert_same(st_container_tensor(g, i), st_container_find(b, st_container_tensor(g, i)->name));
	assert_same(st_container_find(g, "blk.1.ffn_down.weight"),
	            st_container_find(a, "model.layers.1.mlp.down_proj.weight"));
	assert_same(st_container_find(g, "token_embd.weight"), st_container_find(a, "model.embed_tokens.weight"));
	st_container_close(a);
	st_container_close(b);
	st_container_close(g);
	a = open_ok(shared_path("models/qwen2-tiny/qwen2-tiny-q4_k.apr"));
	g = open_ok(shared_path("models/qwen2-tiny/qwen2-tiny-q4_k.gguf"));
	assert_int_equal(st_container_find(a, "model.embed_tokens.weight")->dtype, ST_DTYPE_Q5_0);
	assert_same(st_container_find(g, "blk.2.attn_v.weight"),
	            st_container_find(a, "model.layers.2.self_attn.v_proj.weight"));
	st_container_close(a);
	st_container_close(g);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(a_good_file, make_folder, remove_folder),
		cmocka_unit_test_setup_teardown(a_file_without_tensors, make_folder, remove_folder),
		cmocka_unit_test_setup_teardown(compressed_images, make_folder, remove_folder),
		cmocka_unit_test_setup_teardown(bombs, make_folder, remove_folder),
		cmocka_unit_test_setup_teardown(sizes_settle_the_type, make_folder, remove_folder),
		cmocka_unit_test_setup_teardown(sizes_that_fit_nothing, make_folder, remove_folder),
		cmocka_unit_test_setup_teardown(values_of_aprs_own_types, make_folder, remove_folder),
		cmocka_unit_test_setup_teardown(order_of_dimensions, make_folder, remove_folder),
		cmocka_unit_test_setup_teardown(order_of_writer_b, make_folder, remove_folder),
		cmocka_unit_test_setup_teardown(matrices_stored_transposed, make_folder, remove_folder),
		cmocka_unit_test_setup_teardown(metadata_that_contradicts_itself, make_folder, remove_folder),
		cmocka_unit_test_setup_teardown(broken_fields, make_folder, remove_folder),
		cmocka_unit_test_setup_teardown(every_truncation_is_refused, make_folder, remove_folder),
		cmocka_unit_test_setup_teardown(damaged_bytes, make_folder, remove_folder),
		cmocka_unit_test_setup_teardown(what_is_written_can_be_read, make_folder, remove_folder),
		cmocka_unit_test_setup_teardown(plans_that_are_refused, make_folder, remove_folder),
		cmocka_unit_test(shared_files),
		cmocka_unit_test(shared_models),
		cmocka_unit_test(shared_quantised_models),
	};
	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
