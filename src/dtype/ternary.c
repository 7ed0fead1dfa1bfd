/* ternary.c - TQ1_0 and TQ2_0: a sign or zero under one scale of 256 elements. Decoders only. */
#include "dtype/codec.h"

#include "dtype/blocks.h"
#include "dtype/half.h"

/*
 * Digit i of five in base 3. The byte is a fraction, byte / 256 = 0.d0 d1 d2 d3 d4 in base 3. Times 3^i, cut to the
 * part behind the point, the fraction begins with digit i; three times that has the digit in front of the point.
 */
static int digit(uint8_t byte, unsigned i)
{
	static const uint8_t power[5] = { 1, 3, 9, 27, 81 };
	return (uint8_t)(byte * power[i]) * 3 >> 8;
}

/* 5 digits each: of 32 bytes for elements 0..159, of 16 bytes for 160..239; 4 digits of 4 bytes for the rest. */
void st_decode_tq1_0(const void *src, float *dst, size_t n)
{
	static const struct {
		uint8_t at, bytes, digits;
	} parts[] = { { 0, 32, 5 }, { 32, 16, 5 }, { 48, 4, 4 } };
	const struct st_block_tq1_0 *b = src;
	for (const float *end = dst + n; dst < end; b++) {
		float d = st_f16_to_f32(b->d);
		for (unsigned p = 0; p < 3; p++)
			for (unsigned i = 0; i < parts[p].digits; i++)
				for (unsigned m = 0; m < parts[p].bytes; m++)
					*dst++ = d * (float)(digit(b->qs[parts[p].at + m], i) - 1);
	}
}

/* Four codes in a byte; code 3, which no encoder writes, is 2. */
void st_decode_tq2_0(const void *src, float *dst, size_t n)
{
	const struct st_block_tq2_0 *b = src;
	for (const float *end = dst + n; dst < end; b++) {
		float d = st_f16_to_f32(b->d);
		for (unsigned i = 0; i < 256; i++)
			*dst++ = d * (float)((int)(b->qs[i / 128 * 32 + i % 32] >> (2 * (i / 32 % 4)) & 3) - 1);
	}
}
