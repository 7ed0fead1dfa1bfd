/* plain.c - types with one number per element: floats, integers, booleans. */
#include "dtype/codec.h"

#include "base/cursor.h"
#include "dtype/half.h"

#include <string.h>

void st_decode_f32(const void *src, float *dst, size_t n) { memcpy(dst, src, n * sizeof *dst); }
void st_encode_f32(const float *src, void *dst, size_t n) { memcpy(dst, src, n * sizeof *src); }

void st_decode_bool(const void *src, float *dst, size_t n)
{
	const uint8_t *p = src;
	for (size_t i = 0; i < n; i++)
		dst[i] = p[i] != 0;
}

/* One loop per type: load the element from any address, convert it with one rounding (to nearest
 * even; 64-bit integers go to f32 directly, not through f64). */
#define PLAIN_DECODER(name, type, convert)                      \
	ST_DECODER(name)                                        \
	{                                                       \
		const uint8_t *p = src;                         \
		for (size_t i = 0; i < n; i++) {                \
			type v;                                 \
			memcpy(&v, p + i * sizeof v, sizeof v); \
			dst[i] = convert(v);                    \
		}                                               \
	}

PLAIN_DECODER(f16, uint16_t, st_f16_to_f32)
PLAIN_DECODER(bf16, uint16_t, st_bf16_to_f32)
PLAIN_DECODER(f64, double, (float))
PLAIN_DECODER(i8, int8_t, (float))
PLAIN_DECODER(u8, uint8_t, (float))
PLAIN_DECODER(i16, int16_t, (float))
PLAIN_DECODER(u16, uint16_t, (float))
PLAIN_DECODER(i32, int32_t, (float))
PLAIN_DECODER(u32, uint32_t, (float))
PLAIN_DECODER(i64, int64_t, (float))
PLAIN_DECODER(u64, uint64_t, (float))

#define PLAIN_ENCODER(name, type, convert)                      \
	ST_ENCODER(name)                                        \
	{                                                       \
		uint8_t *p = dst;                               \
		for (size_t i = 0; i < n; i++) {                \
			type v = convert(src[i]);               \
			memcpy(p + i * sizeof v, &v, sizeof v); \
		}                                               \
	}

PLAIN_ENCODER(f16, uint16_t, st_f32_to_f16)
PLAIN_ENCODER(bf16, uint16_t, st_f32_to_bf16)

#define WIDE(type)                                      \
	for (size_t i = 0; i < n; i++) {                \
		type v;                                 \
		memcpy(&v, p + i * sizeof v, sizeof v); \
		dst[i] = (double)v;                     \
	}                                               \
	return true

bool st_decode_wide(enum st_dtype t, const void *src, double *dst, size_t n)
{
	const uint8_t *p = src;
	switch (t) {
	case ST_DTYPE_F64:
		WIDE(double);
	case ST_DTYPE_I32:
		WIDE(int32_t);
	case ST_DTYPE_U32:
		WIDE(uint32_t);
	case ST_DTYPE_I64:
		WIDE(int64_t);
	case ST_DTYPE_U64:
		WIDE(uint64_t);
	default:
		return false;
	}
}

/* The bytes of one tensor alone give no number. */
void st_decode_apart(const void *src, float *dst, size_t n)
{
	(void)src;
	for (size_t i = 0; i < n; i++)
		dst[i] = st_bits_f32(0x7FC00000u);
}
