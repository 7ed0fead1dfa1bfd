/* mxfp4.c - OCP Microscaling FP4: E2M1 codes under a shared power of two. Decoder only. */
#include "dtype/codec.h"

#include "dtype/blocks.h"
#include "dtype/half.h"

/* Half of the E8M0 scale 2^(e-127), since the code values are doubled: 2^(e-128), an f32 subnormal for e < 2.
 * e = 255, which the OCP text calls NaN, stays the power of two it would be: existing readers agree on that. */
static float half_scale(uint8_t e) { return st_bits_f32(e < 2 ? 0x00200000u << e : (uint32_t)(e - 1) << 23); }

void st_decode_mxfp4(const void *src, float *dst, size_t n)
{
	const struct st_block_mxfp4 *b = src;
	for (const float *end = dst + n; dst < end; b++, dst += ST_QK) {
		float d = half_scale(b->e);
		for (unsigned i = 0; i < 16; i++) {
			dst[i] = d * (float)st_mxfp4_values[b->qs[i] & 15];
			dst[i + 16] = d * (float)st_mxfp4_values[b->qs[i] >> 4];
		}
	}
}
