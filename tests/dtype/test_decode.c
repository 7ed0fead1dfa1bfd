/* dtype: what stored bytes mean, against values made by another implementation and by arithmetic. */
#include "support.h"

#include <stele/dtype.h>

#include "dtype/blocks.h"
#include "dtype/half.h"

#include <float.h>

/* Types the shared data set has random blocks and their values for. */
static const enum st_dtype with_vectors[] = {
	ST_DTYPE_F16,   ST_DTYPE_BF16,    ST_DTYPE_Q4_0,   ST_DTYPE_Q4_1,    ST_DTYPE_Q5_0,
	ST_DTYPE_Q5_1,  ST_DTYPE_Q8_0,    ST_DTYPE_Q2_K,   ST_DTYPE_Q3_K,    ST_DTYPE_Q4_K,
	ST_DTYPE_Q5_K,  ST_DTYPE_Q6_K,    ST_DTYPE_IQ4_NL, ST_DTYPE_IQ4_XS,  ST_DTYPE_MXFP4,
	ST_DTYPE_NVFP4, ST_DTYPE_IQ1_S,   ST_DTYPE_IQ1_M,  ST_DTYPE_IQ2_XXS, ST_DTYPE_IQ2_XS,
	ST_DTYPE_IQ2_S, ST_DTYPE_IQ3_XXS, ST_DTYPE_IQ3_S,  ST_DTYPE_TQ1_0,   ST_DTYPE_TQ2_0,
};

/* Decode the bytes of one file of the set and compare bit for bit; both buffers end at a guard page. */
static void check_vectors(enum st_dtype t, const char *kind)
{
	const struct st_dtype_info *info = st_dtype_info(t);
	char name[64];
	size_t size, n;
	snprintf(name, sizeof name, "quants/%s.%s.bin", info->name, kind);
	uint8_t *bytes = load_shared(name, &size);
	snprintf(name, sizeof name, "quants/%s.%s.npy", info->name, kind);
	float *want = load_npy_f32(name, &n);
	assert_int_equal(n % info->block_elems, 0);
	assert_int_equal(n / info->block_elems * info->block_bytes, size);
	struct guarded src = guard(size, false), dst = guard(4 * n, false);
	memcpy(src.p, bytes, size);
	info->decode(src.p, (float *)(void *)dst.p, n);
	for (size_t i = 0; i < n; i++) {
		float got;
		memcpy(&got, dst.p + 4 * i, 4);
		if (st_f32_bits(got) != st_f32_bits(want[i]))
			fail_msg("%s element %zu: %a (%08x), not %a (%08x)", name, i, (double)got, st_f32_bits(got),
			         (double)want[i], st_f32_bits(want[i]));
	}
	unguard(src);
	unguard(dst);
	free(bytes);
	free(want);
}

static void random_blocks_decode_bit_for_bit(void **state)
{
	(void)state;
	for (size_t i = 0; i < sizeof with_vectors / sizeof *with_vectors; i++)
		check_vectors(with_vectors[i], "random");
}

static void encoded_blocks_decode_bit_for_bit(void **state)
{
	(void)state;
	static const enum st_dtype types[] = {
		ST_DTYPE_F16,  ST_DTYPE_BF16, ST_DTYPE_Q4_0,  ST_DTYPE_Q4_1,  ST_DTYPE_Q5_0,
		ST_DTYPE_Q5_1, ST_DTYPE_Q8_0, ST_DTYPE_MXFP4, ST_DTYPE_TQ1_0, ST_DTYPE_TQ2_0,
	};
	for (size_t i = 0; i < sizeof types / sizeof *types; i++)
		check_vectors(types[i], "encoded");
}

/* Every type, any bytes at all (so NaN and infinite scales too): no crash, nothing outside the buffers. */
static void any_bytes_decode(void **state)
{
	(void)state;
	struct st_xoshiro g;
	st_xoshiro_seed(&g, 1);
	for (unsigned t = 0; t < ST_DTYPE_COUNT; t++) {
		const struct st_dtype_info *info = st_dtype_info((enum st_dtype)t);
		for (unsigned round = 0; round < 64; round++) {
			size_t n = info->block_elems * (1 + round % 5),
			       size = n / info->block_elems * info->block_bytes;
			struct guarded src = guard(size, round & 1), dst = guard(4 * n, round & 2);
			for (size_t i = 0; i < size; i++)
				src.p[i] = round < 4 ? 0xFF : (uint8_t)st_xoshiro_next(&g);
			info->decode(src.p, (float *)(void *)dst.p, n);
			unguard(src);
			unguard(dst);
		}
	}
}

static void nan_scale_gives_nan(void **state)
{
	(void)state;
	struct st_block_q4_k b = { .d = 0x7E00, .dmin = 0x7C00 };
	memset(b.scales, 0x11, sizeof b.scales);
	float y[ST_QKK];
	st_dtype_info(ST_DTYPE_Q4_K)->decode(&b, y, ST_QKK);
	for (size_t i = 0; i < ST_QKK; i++)
		assert_true(isnan(y[i]));
}

/* All 65,536 halves: value from the definition, sign * 2^(e-15) * (1 + f/1024), and back again. */
static void every_half(void **state)
{
	(void)state;
	for (uint32_t h = 0; h < 65536; h++) {
		int e = (int)(h >> 10 & 31), f = (int)(h & 1023), s = h >> 15 ? -1 : 1;
		float got = st_f16_to_f32((uint16_t)h);
		if (e == 31 && f != 0) {
			assert_true(isnan(got));
			assert_int_equal(st_f32_bits(got),
			                 (uint32_t)(h & 0x8000) << 16 | 0x7F800000u | (uint32_t)f << 13);
			assert_int_equal(st_f32_to_f16(got), h | 0x200);
			continue;
		}
		double want = e == 31 ? INFINITY : e == 0 ? ldexp(f, -24) : ldexp(1024 + f, e - 25);
		if ((double)got != s * want || !!signbit(got) != (s < 0))
			fail_msg("half %04x: %a, not %a", h, (double)got, s * want);
		assert_int_equal(st_f32_to_f16(got), h);
		uint16_t b = (uint16_t)h;
		float bf = st_bf16_to_f32(b);
		assert_int_equal(st_f32_bits(bf), h << 16);
		assert_int_equal(st_f32_to_bf16(bf), isnan(bf) ? b | 0x40 : b);
	}
}

/* The midpoint of two neighbours goes to the even one; one step to either side goes to the nearer. */
static void halves_round_to_nearest_even(void **state)
{
	(void)state;
	for (uint32_t h = 0; h < 0x7C00; h++) {
		/* The step above the largest finite value counts as infinity's. */
		double lo = (double)st_f16_to_f32((uint16_t)h);
		double hi = h == 0x7BFF ? 65536 : (double)st_f16_to_f32((uint16_t)(h + 1));
		float mid = (float)((lo + hi) / 2);
		assert_true((double)mid == (lo + hi) / 2);
		assert_int_equal(st_f32_to_f16(mid), h + (h & 1));
		assert_int_equal(st_f32_to_f16(nextafterf(mid, 0)), h);
		assert_int_equal(st_f32_to_f16(nextafterf(mid, INFINITY)), h + 1);
		assert_int_equal(st_f32_to_f16(-mid), 0x8000 | (h + (h & 1)));
	}
	assert_int_equal(st_f32_to_f16(0x1p-149f), 0);
	assert_int_equal(st_f32_to_f16(FLT_MAX), 0x7C00);
	assert_int_equal(st_f32_to_f16(-INFINITY), 0xFC00);
	for (uint32_t h = 0; h < 0x7F80; h++) {
		float mid = st_bits_f32(h << 16 | 0x8000);
		assert_int_equal(st_f32_to_bf16(mid), h + (h & 1));
		assert_int_equal(st_f32_to_bf16(st_bits_f32((h << 16 | 0x8000) - 1)), h);
		assert_int_equal(st_f32_to_bf16(st_bits_f32((h << 16 | 0x8000) + 1)), h + 1);
	}
	/* A NaN whose payload lies only in the bits that are cut off stays a NaN, and is quiet. */
	assert_int_equal(st_f32_to_f16(st_bits_f32(0xFF800001u)), 0xFE00);
	assert_int_equal(st_f32_to_bf16(st_bits_f32(0xFF800001u)), 0xFFC0);
	assert_int_equal(st_f32_to_bf16(st_bits_f32(0x7FFFFFFFu)), 0x7FFF);
}

/* All 256 codes of both 8-bit floats, from their definition in OCP FP8. */
static void every_float8(void **state)
{
	(void)state;
	for (int b = 0; b < 256; b++) {
		uint8_t byte = (uint8_t)b;
		float got;
		int s = b >> 7 ? -1 : 1, e = b >> 3 & 15, f = b & 7;
		st_dtype_info(ST_DTYPE_F8_E4M3)->decode(&byte, &got, 1);
		if (e == 15 && f == 7)
			assert_true(isnan(got));
		else
			assert_true((double)got == s * (e == 0 ? ldexp(f, -9) : ldexp(8 + f, e - 10))
			            && !!signbit(got) == (s < 0));
		e = b >> 2 & 31;
		f = b & 3;
		st_dtype_info(ST_DTYPE_F8_E5M2)->decode(&byte, &got, 1);
		if (e == 31)
			assert_true(f == 0 ? isinf(got) && (got < 0) == (s < 0) : isnan(got));
		else
			assert_true((double)got == s * (e == 0 ? ldexp(f, -16) : ldexp(4 + f, e - 17))
			            && !!signbit(got) == (s < 0));
	}
}

static void integers_and_doubles(void **state)
{
	(void)state;
	float f[2];
	st_dtype_info(ST_DTYPE_I8)->decode((int8_t[]){ -128, 127 }, f, 2);
	assert_true(f[0] == -128 && f[1] == 127);
	st_dtype_info(ST_DTYPE_U8)->decode((uint8_t[]){ 255, 0 }, f, 2);
	assert_true(f[0] == 255 && f[1] == 0);
	st_dtype_info(ST_DTYPE_BOOL)->decode((uint8_t[]){ 0, 7 }, f, 2);
	assert_true(f[0] == 0 && f[1] == 1);
	st_dtype_info(ST_DTYPE_I16)->decode((int16_t[]){ INT16_MIN, 3 }, f, 2);
	assert_true(f[0] == -32768 && f[1] == 3);
	st_dtype_info(ST_DTYPE_U16)->decode((uint16_t[]){ 65535, 3 }, f, 2);
	assert_true(f[0] == 65535);
	/* 2^24 + 1 lies between two floats and goes to the even one; 2^24 + 3 likewise. */
	st_dtype_info(ST_DTYPE_I32)->decode((int32_t[]){ -16777217, 16777219 }, f, 2);
	assert_true(f[0] == -16777216.0f && f[1] == 16777220.0f);
	st_dtype_info(ST_DTYPE_U32)->decode((uint32_t[]){ UINT32_MAX, 5 }, f, 2);
	assert_true(f[0] == 4294967296.0f);
	/* Through f64 this would round twice: to 2^62 + 2^38 first, then down to 2^62. */
	int64_t just_above = ((int64_t)1 << 62) + ((int64_t)1 << 38) + 1;
	st_dtype_info(ST_DTYPE_I64)->decode(&just_above, f, 1);
	/* valgrind's processor itself converts through f64; there the type cannot do better. */
	volatile int64_t at_run_time = just_above;
	assert_true(f[0] == 0x1.000002p62f || (float)at_run_time != 0x1.000002p62f);
	st_dtype_info(ST_DTYPE_U64)->decode((uint64_t[]){ UINT64_MAX, 1 }, f, 2);
	assert_true(f[0] == 0x1p64f && f[1] == 1);
	st_dtype_info(ST_DTYPE_F64)->decode((double[]){ 1 + 0x1p-24, -1e300 }, f, 2);
	assert_true(f[0] == 1 && f[1] == -INFINITY);
}

static void names(void **state)
{
	(void)state;
	enum st_dtype t;
	assert_true(st_dtype_parse("q4_k", &t) && t == ST_DTYPE_Q4_K);
	assert_true(st_dtype_parse("aprQ8", &t) && t == ST_DTYPE_APR_Q8);
	assert_false(st_dtype_parse("q4", &t));
	assert_false(st_dtype_parse("", &t));
	for (unsigned i = 0; i < ST_DTYPE_COUNT; i++) {
		assert_true(st_dtype_parse(st_dtype_info((enum st_dtype)i)->name, &t));
		assert_int_equal(t, i);
	}
}

/* The set's own table of block sizes. */
static void block_sizes_of_the_set(void **state)
{
	(void)state;
	size_t size, seen = 0;
	uint8_t *text = load_shared("quants/manifest.json", &size);
	text[size] = '\0';
	for (const char *p = (const char *)text; (p = strstr(p, "\"type\": \""));) {
		char name[16];
		unsigned block, bytes;
		assert_int_equal(
			sscanf(p, "\"type\": \"%15[^\"]\", \"block\": %u, \"bytes\": %u", name, &block, &bytes), 3);
		p += 8;
		enum st_dtype t;
		if (!st_dtype_parse(name, &t))
			continue;
		assert_int_equal(st_dtype_info(t)->block_elems, block);
		assert_int_equal(st_dtype_info(t)->block_bytes, bytes);
		seen++;
	}
	assert_int_equal(seen, sizeof with_vectors / sizeof *with_vectors);
	free(text);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(random_blocks_decode_bit_for_bit),
		cmocka_unit_test(encoded_blocks_decode_bit_for_bit),
		cmocka_unit_test(any_bytes_decode),
		cmocka_unit_test(nan_scale_gives_nan),
		cmocka_unit_test(every_half),
		cmocka_unit_test(halves_round_to_nearest_even),
		cmocka_unit_test(every_float8),
		cmocka_unit_test(integers_and_doubles),
		cmocka_unit_test(names),
		cmocka_unit_test(block_sizes_of_the_set),
	};
	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
