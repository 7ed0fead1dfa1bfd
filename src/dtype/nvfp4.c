/* nvfp4.c - E2M1 codes under E4M3 scales of 16 elements each, four of them in a block. Decoder only. */
#include "dtype/codec.h"

#include "dtype/blocks.h"
#include "dtype/half.h"

#include <math.h>

/* Half of the scale, since the code values are doubled. The sign bit has no meaning; 0x7F, which E4M3 calls NaN, is 0:
 * existing readers agree on both. */
float st_nvfp4_step(uint8_t d)
{
	int e = d >> 3 & 15, m = d & 7;
	if (d == 0x7F)
		return 0;
	return e ? ldexpf((float)(8 + m), e - 11) : ldexpf((float)m, -10);
}

/* Of 16 elements: the first eight in the low halves of 8 bytes, the others in the high halves. */
void st_decode_nvfp4(const void *src, float *dst, size_t n)
{
	const struct st_block_nvfp4 *b = src;
	for (const float *end = dst + n; dst < end; b++)
		for (unsigned j = 0; j < 4; j++, dst += 16) {
			float step = st_nvfp4_step(b->d[j]);
			for (unsigned i = 0; i < 8; i++) {
				dst[i] = step * (float)st_mxfp4_values[b->qs[8 * j + i] & 15];
				dst[i + 8] = step * (float)st_mxfp4_values[b->qs[8 * j + i] >> 4];
			}
		}
}
