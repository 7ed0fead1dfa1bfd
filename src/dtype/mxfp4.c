/* mxfp4.c - OCP Microscaling FP4: E2M1 codes under a shared power of two. Decoder only. */
#include "dtype/codec.h"

#include "dtype/blocks.h"
#include "dtype/half.h"

void st_decode_mxfp4(const void *src, float *dst, size_t n)
{
	const struct st_block_mxfp4 *b = src;
	for (const float *end = dst + n; dst < end; b++, dst += ST_QK) {
		float d = st_e8m0_half(b->e);
		for (unsigned i = 0; i < 16; i++) {
			dst[i] = d * (float)st_mxfp4_values[b->qs[i] & 15];
			dst[i + 16] = d * (float)st_mxfp4_values[b->qs[i] >> 4];
		}
	}
}
