/* iq1.c - IQ1_S and IQ1_M: vectors of 8 out of -1, 0 and 1, all moved by an eighth up or down. Decoders only. */
#include "dtype/codec.h"

#include "dtype/blocks.h"
#include "dtype/half.h"
#include "dtype/iq.h"

static void put_eight(float step, uint16_t vector, float shift, float *y)
{
	for (unsigned i = 0; i < 8; i++)
		y[i] = step * ((float)((int)(vector >> (2 * i) & 3) - 1) + shift);
}

/* Of 32 elements: 4 indices with 3 high bits each, a scale of 3 bits and the direction of the shift. */
unsigned st_iq1_s_steps(const void *block, float step[16])
{
	const struct st_block_iq1_s *b = block;
	for (unsigned j = 0; j < 8; j++)
		step[j] = st_f16_to_f32(b->d) * (float)(2 * (b->qh[j] >> 12 & 7) + 1);
	return 8;
}

void st_decode_iq1_s(const void *src, float *dst, size_t n)
{
	const struct st_block_iq1_s *b = src;
	for (const float *end = dst + n; dst < end; b++) {
		float step[16];
		st_iq1_s_steps(b, step);
		for (unsigned l = 0; l < 32; l++, dst += 8) {
			unsigned qh = b->qh[l / 4], high = qh >> (3 * (l % 4)) & 7;
			put_eight(step[l / 4], st_iq1_grid[b->qs[l] | high << 8], qh & 0x8000 ? -0.125f : 0.125f, dst);
		}
	}
}

/* The f16 scale lies in the top four bits of four 16-bit words, and each word has 3 bits for four groups of 16. */
unsigned st_iq1_m_steps(const void *block, float step[16])
{
	const struct st_block_iq1_m *b = block;
	unsigned s[4] = { b->scales[0], b->scales[1], b->scales[2], b->scales[3] };
	unsigned d = s[0] >> 12 | (s[1] >> 8 & 0xF0) | (s[2] >> 4 & 0xF00) | (s[3] & 0xF000);
	for (unsigned j = 0; j < 16; j++)
		step[j] = st_f16_to_f32((uint16_t)d) * (float)(2 * (s[j / 4] >> (3 * (j % 4)) & 7) + 1);
	return 16;
}

void st_decode_iq1_m(const void *src, float *dst, size_t n)
{
	const struct st_block_iq1_m *b = src;
	for (const float *end = dst + n; dst < end; b++) {
		float step[16];
		st_iq1_m_steps(b, step);
		for (unsigned l = 0; l < 32; l++, dst += 8) {
			unsigned qh = (unsigned)b->qh[l / 2] >> (4 * (l % 2));
			put_eight(step[l / 2], st_iq1_grid[b->qs[l] | (qh & 7) << 8], qh & 8 ? -0.125f : 0.125f, dst);
		}
	}
}
