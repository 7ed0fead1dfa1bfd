/* gguf: every kind of key and tensor, every way a file can be broken, splits. */
#include "files.h"

#include "base/cursor.h"
#include "format/writer.h"

#include <fcntl.h>

/* Every way to break the sample file. FAULT_NONE is the file as it should be. */
enum fault {
	FAULT_NONE,
	FAULT_MAGIC,
	FAULT_VERSION_0,
	FAULT_VERSION_1,
	FAULT_VERSION_4,
	FAULT_BIG_ENDIAN,
	FAULT_TENSORS_MAX,
	FAULT_TENSORS_ONE_MORE,
	FAULT_KEYS_MAX,
	FAULT_KEYS_ONE_MORE,
	FAULT_KEYS_ONE_LESS,
	FAULT_KEY_EMPTY,
	FAULT_KEY_NUL,
	FAULT_KEY_UTF8,
	FAULT_KEY_LONG,
	FAULT_KEY_MAX,
	FAULT_KEY_WRAPS,
	FAULT_KEY_TWICE,
	FAULT_VALUE_TYPE,
	FAULT_STRING_MAX,
	FAULT_STRING_WRAPS,
	FAULT_ARRAY_TYPE,
	FAULT_ARRAY_NESTED,
	FAULT_ARRAY_MAX,
	FAULT_ARRAY_WRAPS,
	FAULT_STRINGS_MAX,
	FAULT_STRINGS_INNER,
	FAULT_BOOL,
	FAULT_BOOL_IN_ARRAY,
	FAULT_ALIGN_0,
	FAULT_ALIGN_3,
	FAULT_ALIGN_STRING,
	FAULT_ALIGN_F32,
	FAULT_ALIGN_HUGE,
	FAULT_NAME_EMPTY,
	FAULT_NAME_NUL,
	FAULT_NAME_UTF8,
	FAULT_NAME_LONG,
	FAULT_NAME_MAX,
	FAULT_NAME_TWICE,
	FAULT_NDIMS_5,
	FAULT_NDIMS_MAX,
	FAULT_DIM_MAX,
	FAULT_DIMS_WRAP,
	FAULT_DIMS_WRAP_BESIDE_ZERO,
	FAULT_BYTES_WRAP,
	FAULT_TYPE_NEVER,
	FAULT_TYPE_Q1,
	FAULT_TYPE_Q2,
	FAULT_TYPE_WITHDRAWN,
	FAULT_ROW_NO_BLOCK,
	FAULT_OFFSET_ODD,
	FAULT_OFFSET_PAST_END,
	FAULT_OFFSET_WRAPS,
	FAULT_END_WRAPS,
	FAULT_OVERLAP,
	FAULT_DATA_SHORT,
	FAULT_COUNT
};

static const struct {
	enum st_status status;
	const char *text;
} expected[FAULT_COUNT] = {
	[FAULT_MAGIC] = { ST_ERR_FORMAT, "byte 0: is in no format" },
	[FAULT_VERSION_0] = { ST_ERR_UNSUPPORTED, "byte 4: version: GGUF v0" },
	[FAULT_VERSION_1] = { ST_ERR_UNSUPPORTED, "GGUF v1" },
	[FAULT_VERSION_4] = { ST_ERR_UNSUPPORTED, "GGUF v4" },
	[FAULT_BIG_ENDIAN] = { ST_ERR_UNSUPPORTED, "big-endian" },
	[FAULT_TENSORS_MAX] = { ST_ERR_FORMAT, "byte 8: tensor count: is 18446744073709551615" },
	[FAULT_TENSORS_ONE_MORE] = { ST_ERR_FORMAT, "tensor name" },
	[FAULT_KEYS_MAX] = { ST_ERR_FORMAT, "byte 16: key count" },
	[FAULT_KEYS_ONE_MORE] = { ST_ERR_FORMAT, "" },
	[FAULT_KEYS_ONE_LESS] = { ST_ERR_FORMAT, "" },
	[FAULT_KEY_EMPTY] = { ST_ERR_FORMAT, "key: is empty" },
	[FAULT_KEY_NUL] = { ST_ERR_FORMAT, "key: holds a NUL" },
	[FAULT_KEY_UTF8] = { ST_ERR_FORMAT, "key: is not UTF-8" },
	[FAULT_KEY_LONG] = { ST_ERR_LIMIT, "key: has 65536 bytes" },
	[FAULT_KEY_MAX] = { ST_ERR_FORMAT, "key: needs 18446744073709551615 bytes" },
	[FAULT_KEY_WRAPS] = { ST_ERR_FORMAT, "key: needs 18446744073709551584 bytes" },
	[FAULT_KEY_TWICE] = { ST_ERR_FORMAT, "general.name: the key is there twice" },
	[FAULT_VALUE_TYPE] = { ST_ERR_FORMAT, "x.extra: unknown value type 13" },
	[FAULT_STRING_MAX] = { ST_ERR_FORMAT, "x.extra: needs 18446744073709551615 bytes" },
	[FAULT_STRING_WRAPS] = { ST_ERR_FORMAT, "x.extra: needs" },
	[FAULT_ARRAY_TYPE] = { ST_ERR_FORMAT, "x.extra: unknown value type 99" },
	[FAULT_ARRAY_NESTED] = { ST_ERR_UNSUPPORTED, "x.extra: arrays of arrays" },
	[FAULT_ARRAY_MAX] = { ST_ERR_FORMAT, "x.extra: needs" },
	[FAULT_ARRAY_WRAPS] = { ST_ERR_FORMAT, "x.extra: needs" },
	[FAULT_STRINGS_MAX] = { ST_ERR_FORMAT, "x.extra: array of 18446744073709551615 strings" },
	[FAULT_STRINGS_INNER] = { ST_ERR_FORMAT, "x.extra: needs" },
	[FAULT_BOOL] = { ST_ERR_FORMAT, "x.extra: bool has the value 2" },
	[FAULT_BOOL_IN_ARRAY] = { ST_ERR_FORMAT, "x.extra: bool has the value 255" },
	[FAULT_ALIGN_0] = { ST_ERR_FORMAT, "general.alignment: is 0" },
	[FAULT_ALIGN_3] = { ST_ERR_FORMAT, "general.alignment: is 3" },
	[FAULT_ALIGN_STRING] = { ST_ERR_FORMAT, "general.alignment: has type string" },
	[FAULT_ALIGN_F32] = { ST_ERR_FORMAT, "general.alignment: has type f32" },
	[FAULT_ALIGN_HUGE] = { ST_ERR_FORMAT, "" },
	[FAULT_NAME_EMPTY] = { ST_ERR_FORMAT, "tensor name: is empty" },
	[FAULT_NAME_NUL] = { ST_ERR_FORMAT, "tensor name: holds a NUL" },
	[FAULT_NAME_UTF8] = { ST_ERR_FORMAT, "tensor name: is not UTF-8" },
	[FAULT_NAME_LONG] = { ST_ERR_LIMIT, "tensor name: has 257 bytes" },
	[FAULT_NAME_MAX] = { ST_ERR_FORMAT, "tensor name: needs 18446744073709551615 bytes" },
	[FAULT_NAME_TWICE] = { ST_ERR_FORMAT, "first: the tensor is listed twice" },
	[FAULT_NDIMS_5] = { ST_ERR_FORMAT, "second: has 5 dimensions" },
	[FAULT_NDIMS_MAX] = { ST_ERR_FORMAT, "second: has 4294967295 dimensions" },
	[FAULT_DIM_MAX] = { ST_ERR_FORMAT, "second: dimensions overflow" },
	[FAULT_DIMS_WRAP] = { ST_ERR_FORMAT, "second: dimensions overflow" },
	[FAULT_DIMS_WRAP_BESIDE_ZERO] = { ST_ERR_FORMAT, "second: dimensions overflow" },
	[FAULT_BYTES_WRAP] = { ST_ERR_FORMAT, "second: dimensions overflow" },
	[FAULT_TYPE_NEVER] = { ST_ERR_FORMAT, "second: unknown type 9999; supported: F32 F16" },
	[FAULT_TYPE_Q1] = { ST_ERR_UNSUPPORTED, "second: type Q1_0 (41) is not supported yet; supported: F32 F16" },
	[FAULT_TYPE_Q2] = { ST_ERR_UNSUPPORTED, "second: type Q2_0 (42)" },
	[FAULT_TYPE_WITHDRAWN] = { ST_ERR_UNSUPPORTED, "second: type Q4_2 (withdrawn) (4)" },
	[FAULT_ROW_NO_BLOCK] = { ST_ERR_FORMAT, "second: rows of 33 elements" },
	[FAULT_OFFSET_ODD] = { ST_ERR_FORMAT, "second: offset 68 is no multiple of the alignment 64" },
	[FAULT_OFFSET_PAST_END] = { ST_ERR_FORMAT, "second: data of 68 bytes reach past the end" },
	[FAULT_OFFSET_WRAPS] = { ST_ERR_FORMAT, "second: offset 18446744073709551552 overflows" },
	[FAULT_END_WRAPS] = { ST_ERR_FORMAT, "second: data of 68 bytes reach past the end" },
	[FAULT_OVERLAP] = { ST_ERR_FORMAT, "overlaps tensor" },
	[FAULT_DATA_SHORT] = { ST_ERR_FORMAT, "second: data of 68 bytes reach past the end" },
};

static void put_text(struct bytes *b, const char *s)
{
	put_u64(b, strlen(s));
	put(b, s, strlen(s));
}

static void put_key(struct bytes *b, const char *key, enum st_kv_type type)
{
	put_text(b, key);
	put_u32(b, type);
}

static void put_array(struct bytes *b, const char *key, uint32_t elem, uint64_t n)
{
	put_key(b, key, ST_KV_ARR);
	put_u32(b, elem);
	put_u64(b, n);
}

/* One more key, sound or broken. */
static void put_extra_key(struct bytes *b, enum fault f)
{
	switch (f) {
	case FAULT_KEY_EMPTY:
		put_key(b, "", ST_KV_U8);
		put_u8(b, 1);
		break;
	case FAULT_KEY_NUL:
		put_u64(b, 3);
		put(b, "a\0b", 3);
		put_u32(b, ST_KV_U8);
		put_u8(b, 1);
		break;
	case FAULT_KEY_UTF8:
		put_key(b, "a\xFF", ST_KV_U8);
		put_u8(b, 1);
		break;
	case FAULT_KEY_MAX:
		put_u64(b, UINT64_MAX);
		break;
	case FAULT_KEY_WRAPS:
		put_u64(b, UINT64_MAX - 31);
		break;
	case FAULT_KEY_TWICE:
		put_key(b, "general.name", ST_KV_U8);
		put_u8(b, 1);
		break;
	case FAULT_VALUE_TYPE:
		put_key(b, "x.extra", (enum st_kv_type)13);
		put_u64(b, 0);
		break;
	case FAULT_STRING_MAX:
		put_key(b, "x.extra", ST_KV_STR);
		put_u64(b, UINT64_MAX);
		break;
	case FAULT_STRING_WRAPS:
		put_key(b, "x.extra", ST_KV_STR);
		put_u64(b, UINT64_MAX - 200);
		break;
	case FAULT_ARRAY_TYPE:
		put_array(b, "x.extra", 99, 1);
		put_u64(b, 0);
		break;
	case FAULT_ARRAY_NESTED:
		put_array(b, "x.extra", ST_KV_ARR, 1);
		put_u32(b, ST_KV_U8);
		put_u64(b, 0);
		break;
	case FAULT_ARRAY_MAX:
		put_array(b, "x.extra", ST_KV_F32, UINT64_MAX);
		break;
	case FAULT_ARRAY_WRAPS:
		put_array(b, "x.extra", ST_KV_U64, UINT64_C(1) << 61);
		break;
	case FAULT_STRINGS_MAX:
		put_array(b, "x.extra", ST_KV_STR, UINT64_MAX);
		break;
	case FAULT_STRINGS_INNER:
		put_array(b, "x.extra", ST_KV_STR, 2);
		put_text(b, "a");
		put_u64(b, UINT64_MAX - 7);
		break;
	case FAULT_BOOL:
		put_key(b, "x.extra", ST_KV_BOOL);
		put_u8(b, 2);
		break;
	case FAULT_BOOL_IN_ARRAY:
		put_array(b, "x.extra", ST_KV_BOOL, 3);
		put_u8(b, 0);
		put_u8(b, 1);
		put_u8(b, 255);
		break;
	default:
		put_key(b, "x.extra", ST_KV_U8);
		put_u8(b, 1);
		break;
	}
}

static void put_alignment(struct bytes *b, enum fault f)
{
	switch (f) {
	case FAULT_ALIGN_STRING:
		put_key(b, "general.alignment", ST_KV_STR);
		put_text(b, "64");
		break;
	case FAULT_ALIGN_F32:
		put_key(b, "general.alignment", ST_KV_F32);
		put_u32(b, 0x42800000);
		break;
	case FAULT_ALIGN_HUGE:
		put_key(b, "general.alignment", ST_KV_U64);
		put_u64(b, UINT64_C(1) << 63);
		break;
	default:
		put_key(b, "general.alignment", ST_KV_U32);
		put_u32(b, f == FAULT_ALIGN_0 ? 0 : f == FAULT_ALIGN_3 ? 3 : 64);
	}
}

/* "second": Q8_0, [2, 32] as [out, in], 68 bytes at offset 64. */
static void put_second_tensor(struct bytes *b, enum fault f)
{
	char longest[258];
	memset(longest, 'n', 257);
	longest[257] = '\0';
	switch (f) {
	case FAULT_NAME_EMPTY:
		put_text(b, "");
		break;
	case FAULT_NAME_NUL:
		put_u64(b, 3);
		put(b, "a\0b", 3);
		break;
	case FAULT_NAME_UTF8:
		put_text(b, "\xC3(");
		break;
	case FAULT_NAME_LONG:
		put_text(b, longest);
		break;
	case FAULT_NAME_MAX:
		put_u64(b, UINT64_MAX);
		break;
	case FAULT_NAME_TWICE:
		put_text(b, "first");
		break;
	default:
		put_text(b, "second");
	}
	uint32_t ndim = f == FAULT_NDIMS_5                                       ? 5
	              : f == FAULT_NDIMS_MAX                                     ? UINT32_MAX
	              : f == FAULT_DIMS_WRAP || f == FAULT_DIMS_WRAP_BESIDE_ZERO ? 3
	                                                                         : 2;
	put_u32(b, ndim);
	put_u64(b, f == FAULT_ROW_NO_BLOCK ? 33 : 32);
	switch (f) {
	case FAULT_NDIMS_5:
		put_u64(b, 2);
		put_u64(b, 1);
		put_u64(b, 1);
		put_u64(b, 1);
		break;
	case FAULT_DIM_MAX:
		put_u64(b, UINT64_MAX);
		break;
	case FAULT_DIMS_WRAP:
		put_u64(b, UINT64_C(1) << 31);
		put_u64(b, UINT64_C(1) << 31);
		break; /* product is 2^67 */
	case FAULT_DIMS_WRAP_BESIDE_ZERO:
		put_u64(b, UINT64_C(1) << 63);
		put_u64(b, 0);
		break;
	case FAULT_BYTES_WRAP:
		put_u64(b, (UINT64_C(1) << 59) - 1);
		break; /* 2^64 - 32 elements, 34 bytes for 32 */
	default:
		put_u64(b, 2);
	}
	put_u32(b, f == FAULT_TYPE_NEVER       ? 9999
	           : f == FAULT_TYPE_Q1        ? 41
	           : f == FAULT_TYPE_Q2        ? 42
	           : f == FAULT_TYPE_WITHDRAWN ? 4
	                                       : 8);
	put_u64(b, f == FAULT_OFFSET_ODD        ? 68
	           : f == FAULT_OFFSET_PAST_END ? 1 << 20
	           : f == FAULT_OFFSET_WRAPS    ? UINT64_MAX - 63
	           : f == FAULT_OVERLAP         ? 0
	                                        : 64);
}

/* A small model with every kind of key: 18 keys, two tensors, alignment 64. */
static void build(struct bytes *b, enum fault f)
{
	static const uint32_t versions[] = {
		[FAULT_VERSION_0] = 0,
		[FAULT_VERSION_1] = 1,
		[FAULT_VERSION_4] = 4,
		[FAULT_BIG_ENDIAN] = 0x03000000,
	};
	b->n = 0;
	put(b, f == FAULT_MAGIC ? "GGUE" : "GGUF", 4);
	put_u32(b, f >= FAULT_VERSION_0 && f <= FAULT_BIG_ENDIAN ? versions[f] : 3);
	put_u64(b, f == FAULT_TENSORS_MAX ? UINT64_MAX : f == FAULT_TENSORS_ONE_MORE ? 3 : 2);
	put_u64(b, f == FAULT_KEYS_MAX        ? UINT64_MAX
	           : f == FAULT_KEYS_ONE_MORE ? 19
	           : f == FAULT_KEYS_ONE_LESS ? 17
	                                      : 18);

	put_key(b, "general.name", ST_KV_STR);
	put_text(b, "sample");
	put_alignment(b, f);
	put_key(b, "x.u8", ST_KV_U8);
	put_u8(b, 200);
	put_key(b, "x.i8", ST_KV_I8);
	put_u8(b, 0xFE);
	put_key(b, "x.u16", ST_KV_U16);
	put(b, "\x34\x12", 2);
	put_key(b, "x.i16", ST_KV_I16);
	put(b, "\xFF\xFF", 2);
	put_key(b, "x.u32", ST_KV_U32);
	put_u32(b, 0xFFFFFFFF);
	put_key(b, "x.i32", ST_KV_I32);
	put_u32(b, 0x80000000);
	put_key(b, "x.f32", ST_KV_F32);
	put_u32(b, 0x3FC00000); /* 1.5 */
	put_key(b, "x.bool", ST_KV_BOOL);
	put_u8(b, 1);
	put_key(b, "x.u64", ST_KV_U64);
	put_u64(b, UINT64_MAX);
	put_key(b, "x.i64", ST_KV_I64);
	put_u64(b, UINT64_MAX);
	put_key(b, "x.f64", ST_KV_F64);
	put_u64(b, UINT64_C(0xBFF4000000000000)); /* -1.25 */
	put_array(b, "x.strings", ST_KV_STR, 3);
	put_text(b, "a");
	put_text(b, "");
	put_text(b, "\xFF\0c");
	put_array(b, "x.floats", ST_KV_F32, 2);
	put_u32(b, 0x3F800000);
	put_u32(b, 0);
	put_array(b, "x.bools", ST_KV_BOOL, 2);
	put_u8(b, 0);
	put_u8(b, 1);
	put_array(b, "x.none", ST_KV_U64, 0);
	put_extra_key(b, f);

	put_text(b, "first");
	put_u32(b, 1);
	put_u64(b, 3);
	put_u32(b, 0);
	put_u64(b, 0);
	put_second_tensor(b, f);
	const size_t offset_at = b->n - 8;
	put_zeros_to(b, 64);
	if (f == FAULT_END_WRAPS) { /* begins 64 bytes before 2^64 and ends 4 behind it */
		uint64_t offset = 0 - (uint64_t)64 - b->n;
		memcpy(b->p + offset_at, &offset, 8);
	}
	for (int i = 0; i < 64; i++)
		put_u8(b, (uint8_t)i);
	for (int i = 0; i < (f == FAULT_DATA_SHORT ? 67 : 68); i++)
		put_u8(b, (uint8_t)(100 + i));
}

static void every_key_and_tensor_is_read(void **state)
{
	(void)state;
	static struct bytes b;
	struct st_error err = ST_ERROR_INIT;
	struct st_container *c;
	build(&b, FAULT_NONE);
	for (uint32_t version = 2; version <= 3; version++) {
		memcpy(b.p + 4, &version, 4);
		assert_ok(st_container_open(save("good.gguf", &b), &c, &err), &err);
		assert_int_equal(c->version, version);
		if (version == 2)
			st_container_close(c);
	}
	assert_int_equal(st_container_format(c), ST_FORMAT_GGUF);
	assert_string_equal(st_container_describe(c), "GGUF v3");
	assert_int_equal(c->keys.n, 18);
	assert_int_equal(c->alignment, 64);

	static const struct {
		const char *key;
		uint64_t v;
	} ints[] = {
		{ "x.u8", 200 },
		{ "x.u16", 0x1234 },
		{ "x.u32", 0xFFFFFFFF },
		{ "x.u64", UINT64_MAX },
	};
	uint64_t u;
	double d;
	bool flag, found;
	const char *s;
	size_t n;
	for (size_t i = 0; i < sizeof ints / sizeof *ints; i++) {
		assert_ok(st_kv_u64(&c->keys, ints[i].key, &u, &found, &err), &err);
		assert_true(found && u == ints[i].v);
	}
	static const char *const negative[] = { "x.i8", "x.i16", "x.i32", "x.i64" };
	for (size_t i = 0; i < 4; i++) {
		struct st_error why = ST_ERROR_INIT;
		assert_int_equal(st_kv_u64(&c->keys, negative[i], &u, &found, &why), ST_ERR_FORMAT);
		assert_string_equal(why.where, negative[i]);
	}
	static const struct {
		const char *key;
		double v;
	} numbers[] = {
		{ "x.f32", 1.5 },
		{ "x.f64", -1.25 },
		{ "x.i8", -2 },
		{ "x.i16", -1 },
		{ "x.i32", -2147483648.0 },
		{ "x.i64", -1 },
		{ "x.u64", 18446744073709551616.0 },
	};
	for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++) {
		assert_ok(st_kv_f64(&c->keys, numbers[i].key, &d, &found, &err), &err);
		assert_true(found && d == numbers[i].v);
	}
	assert_ok(st_kv_bool(&c->keys, "x.bool", &flag, &found, &err), &err);
	assert_true(found && flag);
	assert_ok(st_kv_str(&c->keys, "general.name", &s, &n, &found, &err), &err);
	assert_true(found && n == 6 && memcmp(s, "sample", 6) == 0);
	assert_ok(st_kv_u64(&c->keys, "absent", &u, &found, &err), &err);
	assert_false(found);

	/* A key of the wrong type is an error, never a default. */
	struct st_error why = ST_ERROR_INIT;
	assert_int_equal(st_kv_u64(&c->keys, "x.f32", &u, &found, &why), ST_ERR_FORMAT);
	st_error_clear(&why);
	assert_int_equal(st_kv_str(&c->keys, "x.strings", &s, &n, &found, &why), ST_ERR_FORMAT);
	assert_non_null(strstr(why.message, "array of string"));
	st_error_clear(&why);
	assert_int_equal(st_kv_bool(&c->keys, "x.u8", &flag, &found, &why), ST_ERR_FORMAT);
	st_error_clear(&why);
	assert_int_equal(st_kv_f64(&c->keys, "x.bool", &d, &found, &why), ST_ERR_FORMAT);

	const struct st_kv *kv = st_kv_find(&c->keys, "x.strings");
	assert_int_equal(kv->count, 3);
	assert_int_equal(st_kv_bytes(kv), 8 + 1 + 8 + 8 + 1);
	const uint8_t *p = kv->data;
	s = st_kv_next_str(&p, &n);
	assert_true(n == 1 && s[0] == 'a');
	st_kv_next_str(&p, &n);
	assert_int_equal(n, 0);
	assert_int_equal(st_kv_find(&c->keys, "x.none")->count, 0);
	assert_int_equal(st_kv_bytes(st_kv_find(&c->keys, "x.floats")), 8);

	assert_int_equal(st_container_n_tensors(c), 2);
	const struct st_tensor *t = st_container_tensor(c, 1);
	assert_string_equal(t->name, "second");
	assert_ptr_equal(st_container_find(c, "second"), t);
	assert_null(st_container_find(c, "third"));
	assert_int_equal(t->dtype, ST_DTYPE_Q8_0);
	assert_int_equal(t->ndim, 2);
	assert_true(t->shape[0] == 2 && t->shape[1] == 32 && t->file_dims[0] == 32 && t->file_dims[1] == 2);
	assert_true(t->n_elems == 64 && t->n_bytes == 68 && t->row_bytes == 34 && t->scale == 1
	            && t->layout == ST_LAYOUT_ROWS);
	assert_int_equal(t->data[0], 100);
	assert_int_equal(t->offset, b.n - 68);
	assert_memory_equal(st_container_find(c, "first")->data, "\0\1\2\3\4", 5);
	st_container_close(c);
}

static void every_fault_is_refused(void **state)
{
	(void)state;
	static struct bytes b;
	for (int f = 1; f < FAULT_COUNT; f++) {
		if (f == FAULT_KEY_LONG)
			continue; /* does not fit beside the others: below */
		char what[32];
		snprintf(what, sizeof what, "fault %d", f);
		build(&b, (enum fault)f);
		assert_refused(save("fault.gguf", &b), expected[f].status, expected[f].text, what);
	}
}

static void longest_key(void **state)
{
	(void)state;
	static uint8_t file[24 + 8 + 65536 + 5];
	uint64_t n = 65536, one = 1;
	memcpy(file, "GGUF\3", 5);
	memcpy(file + 16, &one, 8);
	memcpy(file + 24, &n, 8);
	memset(file + 32, 'k', 65536);
	assert_refused(save_n("key.gguf", file, sizeof file), expected[FAULT_KEY_LONG].status,
	               expected[FAULT_KEY_LONG].text, "key");
	n = 65535;
	memcpy(file + 24, &n, 8);
	memset(file + 32 + 65535, 0, 6);
	struct st_error err = ST_ERROR_INIT;
	struct st_container *c;
	assert_ok(st_container_open(save_n("key.gguf", file, sizeof file), &c, &err), &err);
	assert_int_equal(strlen(c->keys.kv[0].key), 65535);
	st_container_close(c);
}

/* Cut anywhere, the file is refused with the place. The sample ends with its last tensor. */
static void every_truncation_is_refused(void **state)
{
	(void)state;
	static struct bytes b;
	build(&b, FAULT_NONE);
	for (size_t n = 0; n < b.n; n++) {
		const char *path = save_n("cut.gguf", b.p, n);
		struct st_container *c = NULL;
		struct st_error err = ST_ERROR_INIT;
		enum st_status st = st_container_open(path, &c, &err);
		if (st != ST_ERR_FORMAT || c || strcmp(err.path, path) != 0 || err.offset == ST_NO_OFFSET
		    || !err.message[0])
			fail_msg("cut to %zu of %zu bytes: %s at %llu: %s", n, b.n, st_status_name(st),
			         (unsigned long long)err.offset, err.message);
	}
}

/* Every single byte of header and table set to 0, 0xFF and its complement: whatever comes out, no crash. */
static void any_byte_may_be_wrong(void **state)
{
	(void)state;
	static struct bytes b;
	build(&b, FAULT_NONE);
	for (size_t i = 0; i < b.n - 132; i++) {
		uint8_t was = b.p[i];
		const uint8_t tries[] = { 0, 0xFF, (uint8_t)~was };
		for (size_t k = 0; k < 3; k++) {
			struct st_container *c;
			struct st_error err = ST_ERROR_INIT;
			b.p[i] = tries[k];
			if (st_container_open(save("flip.gguf", &b), &c, &err) == ST_OK)
				st_container_close(c);
			else
				assert_true(err.message[0] && err.path[0]);
		}
		b.p[i] = was;
	}
}

static void counts_never_allocate_what_the_file_cannot_hold(void **state)
{
	(void)state;
	/* 1 GiB of hole could hold 44 million empty tensor entries by size; a table for them would take 14 GB. */
	const char *path = in_folder("sparse.gguf");
	int fd = open(path, O_RDWR | O_CREAT | O_TRUNC, 0600);
	uint8_t head[24] = "GGUF\3";
	uint64_t n = (UINT64_C(1) << 30) / 24 - 1;
	memcpy(head + 8, &n, 8);
	assert_int_equal(write(fd, head, 24), 24);
	assert_int_equal(ftruncate(fd, 1 << 30), 0);
	close(fd);
	assert_refused(path, ST_ERR_LIMIT, "tensors are too many for 1073741824 bytes", "sparse");
	assert_int_equal(unlink(path), 0);
}

static void suffix_that_lies_is_refused(void **state)
{
	(void)state;
	static struct bytes b;
	build(&b, FAULT_NONE);
	assert_refused(save("m.safetensors", &b), ST_ERR_FORMAT, "holds GGUF, but its name ends in .safetensors",
	               "suffix");
	struct st_container *c;
	struct st_error err = ST_ERROR_INIT;
	assert_ok(st_container_open(save("model", &b), &c, &err), &err);
	st_container_close(c);
}

static void zero_elements_and_no_dims(void **state)
{
	(void)state;
	static struct bytes b;
	b.n = 0;
	put(&b, "GGUF\3\0\0\0", 8);
	put_u64(&b, 2);
	put_u64(&b, 0);
	put_text(&b, "scalar");
	put_u32(&b, 0);
	put_u32(&b, 0);
	put_u64(&b, 0);
	put_text(&b, "empty");
	put_u32(&b, 2);
	put_u64(&b, 8);
	put_u64(&b, 0);
	put_u32(&b, 1);
	put_u64(&b, 0);
	put_zeros_to(&b, 32);
	put_u32(&b, 0x3F800000);
	struct st_container *c;
	struct st_error err = ST_ERROR_INIT;
	assert_ok(st_container_open(save("odd.gguf", &b), &c, &err), &err);
	assert_true(c->tensors[0].n_elems == 1 && c->tensors[0].n_bytes == 4 && c->tensors[0].ndim == 0);
	assert_true(c->tensors[1].n_elems == 0 && c->tensors[1].n_bytes == 0 && c->tensors[1].shape[0] == 0);
	st_container_close(c);
}

/* ---- splits ---- */

struct split {
	uint32_t no, count, total;
	uint32_t alignment;
	const char *tensor;
};

static void build_split(struct bytes *b, const struct split *s)
{
	b->n = 0;
	put(b, "GGUF\3\0\0\0", 8);
	put_u64(b, 1);
	put_u64(b, s->no == 0 ? 5 : 4);
	if (s->no == 0) {
		put_key(b, "general.architecture", ST_KV_STR);
		put_text(b, "llama");
	}
	put_key(b, "split.no", ST_KV_U16);
	put_u8(b, (uint8_t)s->no);
	put_u8(b, 0);
	put_key(b, "split.count", ST_KV_U16);
	put_u8(b, (uint8_t)s->count);
	put_u8(b, 0);
	put_key(b, "split.tensors.count", ST_KV_I32);
	put_u32(b, s->total);
	put_key(b, "general.alignment", ST_KV_U32);
	put_u32(b, s->alignment);
	put_text(b, s->tensor);
	put_u32(b, 1);
	put_u64(b, 1);
	put_u32(b, 0);
	put_u64(b, 0);
	put_zeros_to(b, s->alignment);
	put_u32(b, s->no + 1);
}

/* Write three splits of one tensor each, with part `i` (or none, -1) replaced by `other`. */
static const char *save_splits(int i, const struct split *other)
{
	static struct bytes b;
	static const char *const names[] = { "m-00001-of-00003.gguf", "m-00002-of-00003.gguf",
		                             "m-00003-of-00003.gguf" };
	static const struct split sound[] = {
		{ 0, 3, 3, 32, "a" },
		{ 1, 3, 3, 64, "b" },
		{ 2, 3, 3, 32, "c" },
	};
	for (int k = 0; k < 3; k++) {
		build_split(&b, k == i ? other : &sound[k]);
		save(names[k], &b);
	}
	return in_folder(names[0]);
}

static void splits_are_one_model(void **state)
{
	(void)state;
	struct st_container *c;
	struct st_error err = ST_ERROR_INIT;
	assert_ok(st_container_open(save_splits(-1, NULL), &c, &err), &err);
	assert_int_equal(st_container_n_files(c), 3);
	assert_int_equal(st_container_n_tensors(c), 3);
	assert_string_equal(st_container_describe(c), "GGUF v3, 3 splits");
	assert_non_null(st_kv_find(&c->keys, "general.architecture"));
	for (uint32_t i = 0; i < 3; i++) {
		assert_int_equal(c->tensors[i].file, i);
		assert_int_equal(st_load_u32(c->tensors[i].data), i + 1);
	}
	assert_non_null(strstr(st_container_file_path(c, 2), "-00003-of-00003.gguf"));
	st_container_close(c);
}

static void broken_splits_are_refused(void **state)
{
	(void)state;
	static const struct {
		int part;
		struct split s;
		const char *text;
	} cases[] = {
		{ 1, { 2, 3, 3, 32, "b" }, "says it is split 3 of 3, its name says 2 of 3" },
		{ 1, { 1, 4, 3, 32, "b" }, "says it is split 2 of 4" },
		{ 1, { 1, 3, 9, 32, "b" }, "split.tensors.count: is 9, the first split says 3" },
		{ 2, { 2, 3, 3, 32, "a" }, "tensor a is in two files" },
		{ 2, { 2, 3, 3, 3, "c" }, "m-00003-of-00003.gguf: byte" },
		{ 0, { 0, 0, 3, 32, "a" }, "split.count: is 0" },
		{ 0, { 0, 2, 3, 32, "a" }, "its name says otherwise" },
		{ 0, { 0, 3, 4, 32, "a" }, "split.tensors.count" },
	};
	for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
		assert_refused(save_splits(cases[i].part, &cases[i].s), ST_ERR_FORMAT, cases[i].text, cases[i].text);
	(void)save_splits(-1, NULL);
	assert_refused(in_folder("m-00002-of-00003.gguf"), ST_ERR_USAGE, "is split 2 of 3; open the first one",
	               "second");
	assert_int_equal(unlink(in_folder("m-00003-of-00003.gguf")), 0);
	assert_refused(in_folder("m-00001-of-00003.gguf"), ST_ERR_IO, "m-00003-of-00003.gguf: cannot open", "missing");
	assert_int_equal(rename(in_folder("m-00001-of-00003.gguf"), in_folder("renamed.gguf")), 0);
	assert_refused(in_folder("renamed.gguf"), ST_ERR_FORMAT, "name does not end in -00001-of-00003.gguf",
	               "renamed");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(every_key_and_tensor_is_read),
		cmocka_unit_test(every_fault_is_refused),
		cmocka_unit_test(longest_key),
		cmocka_unit_test(every_truncation_is_refused),
		cmocka_unit_test(any_byte_may_be_wrong),
		cmocka_unit_test(counts_never_allocate_what_the_file_cannot_hold),
		cmocka_unit_test(suffix_that_lies_is_refused),
		cmocka_unit_test(zero_elements_and_no_dims),
		cmocka_unit_test(splits_are_one_model),
		cmocka_unit_test(broken_splits_are_refused),
	};
	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
