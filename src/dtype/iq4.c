/* iq4.c - 4-bit codes into a fixed non-linear set of levels. */
#include "dtype/codec.h"

#include "dtype/blocks.h"
#include "dtype/half.h"

/* 32 codes in 16 bytes: element i in the low half of byte i, element 16 + i in its high half. */
static void decode_codes(float d, const uint8_t qs[16], float *y)
{
	for (unsigned i = 0; i < 16; i++) {
		y[i] = d * (float)st_iq4_values[qs[i] & 15];
		y[i + 16] = d * (float)st_iq4_values[qs[i] >> 4];
	}
}

void st_decode_iq4_nl(const void *src, float *dst, size_t n)
{
	const struct st_block_iq4_nl *b = src;
	for (const float *end = dst + n; dst < end; b++, dst += ST_QK)
		decode_codes(st_f16_to_f32(b->d), b->qs, dst);
}

void st_decode_iq4_xs(const void *src, float *dst, size_t n)
{
	const struct st_block_iq4_xs *b = src;
	for (const float *end = dst + n; dst < end; b++, dst += ST_QKK) {
		float d = st_f16_to_f32(b->d);
		for (unsigned j = 0; j < 8; j++)
			decode_codes(d * (float)st_iq4xs_scale(b, j), b->qs + 16 * j, dst + 32 * j);
	}
}
