/*
 * kquants.c - decoders of the K-quants: 256 elements in sub-blocks with small integer scales under one or two
 * f16 factors.
 *
 * The order of the f32 operations is part of the type: factor times integer scale first (one
 * rounding), then times the code, then minus the minimum. Never fused.
 */
#include "dtype/codec.h"

#include "base/cursor.h"
#include "base/levels.h"
#include "dtype/blocks.h"
#include "dtype/half.h"

/* 16 sub-blocks of 16: byte 32h + i of qs holds, from its lowest bits up, elements 128h + i,
 * + 32, + 64 and + 96. scales: low half scale, high half minimum. */
ST_LEVELS void st_decode_q2_k(const void *src, float *dst, size_t n)
{
	const struct st_block_q2_k *b = src;
	for (const float *end = dst + n; dst < end; b++, dst += ST_QKK) {
		float d = st_f16_to_f32(b->d), dmin = st_f16_to_f32(b->dmin);
		for (unsigned j = 0; j < 16; j++) {
			const uint8_t *q = b->qs + 32 * (j / 8) + 16 * (j % 2);
			unsigned shift = 2 * (j / 2 % 4);
			float scale = d * (float)(b->scales[j] & 15), min = dmin * (float)(b->scales[j] >> 4);
			for (unsigned i = 0; i < 16; i++)
				dst[16 * j + i] = scale * (float)(q[i] >> shift & 3) - min;
		}
	}
}

/* As Q2_K, with a third bit in hmask (bit j/2 of byte i % 32, set = no 4 taken off) and no minimum. */
ST_LEVELS void st_decode_q3_k(const void *src, float *dst, size_t n)
{
	const struct st_block_q3_k *b = src;
	for (const float *end = dst + n; dst < end; b++, dst += ST_QKK) {
		float d = st_f16_to_f32(b->d);
		for (unsigned j = 0; j < 16; j++) {
			const uint8_t *q = b->qs + 32 * (j / 8) + 16 * (j % 2), *h = b->hmask + 16 * (j % 2);
			unsigned shift = 2 * (j / 2 % 4);
			float scale = d * (float)st_q3k_scale(b->scales, j);
			for (unsigned i = 0; i < 16; i++) {
				int code = (q[i] >> shift & 3) | (h[i] >> (j / 2) & 1) << 2;
				dst[16 * j + i] = scale * (float)(code - 4);
			}
		}
	}
}

/* 8 sub-blocks of 32: bytes 32g .. 32g+31 hold sub-block 2g in their low halves, 2g + 1 in their high ones. */
ST_LEVELS void st_decode_q4_k(const void *src, float *dst, size_t n)
{
	const struct st_block_q4_k *b = src;
	for (const float *end = dst + n; dst < end; b++, dst += ST_QKK) {
		float d = st_f16_to_f32(b->d), dmin = st_f16_to_f32(b->dmin);
		for (unsigned j = 0; j < 8; j++) {
			const uint8_t *q = b->qs + 32 * (j / 2);
			unsigned sc, m, shift = 4 * (j % 2);
			st_k4_scale_min(b->scales, j, &sc, &m);
			float scale = d * (float)sc, min = dmin * (float)m;
			for (unsigned i = 0; i < 32; i++)
				dst[32 * j + i] = scale * (float)(q[i] >> shift & 15) - min;
		}
	}
}

/* As Q4_K, with a fifth bit in bit j of qh[i]. */
ST_LEVELS void st_decode_q5_k(const void *src, float *dst, size_t n)
{
	const struct st_block_q5_k *b = src;
	for (const float *end = dst + n; dst < end; b++, dst += ST_QKK) {
		float d = st_f16_to_f32(b->d), dmin = st_f16_to_f32(b->dmin);
		for (unsigned j = 0; j < 8; j++) {
			const uint8_t *q = b->qs + 32 * (j / 2);
			unsigned sc, m, shift = 4 * (j % 2);
			st_k4_scale_min(b->scales, j, &sc, &m);
			float scale = d * (float)sc, min = dmin * (float)m;
			for (unsigned i = 0; i < 32; i++)
				dst[32 * j + i] = scale * (float)((q[i] >> shift & 15) | (b->qh[i] >> j & 1) << 4)
				                - min;
		}
	}
}

/* 16 sub-blocks of 16 with signed 8-bit scales. Of each half of 128 elements, run r of 32 has its low 4 bits
 * in ql[32 (r % 2) + i], low half for r < 2, and its high 2 bits in bits 2r of qh[i]. */
ST_LEVELS void st_decode_q6_k(const void *src, float *dst, size_t n)
{
	const struct st_block_q6_k *b = src;
	for (const float *end = dst + n; dst < end; b++, dst += ST_QKK) {
		float d = st_f16_to_f32(b->d);
		for (unsigned j = 0; j < 16; j++) {
			unsigned half = j / 8, r = j / 2 % 4, at = 16 * (j % 2);
			const uint8_t *l = b->ql + 64 * half + 32 * (r % 2) + at, *h = b->qh + 32 * half + at;
			float scale = d * (float)b->scales[j];
			for (unsigned i = 0; i < 16; i++) {
				int code = (l[i] >> (4 * (r / 2)) & 15) | (h[i] >> (2 * r) & 3) << 4;
				dst[16 * j + i] = scale * (float)(code - 32);
			}
		}
	}
}

ST_LEVELS void st_decode_q8_k(const void *src, float *dst, size_t n)
{
	const struct st_block_q8_k *b = src;
	for (const float *end = dst + n; dst < end; b++, dst += ST_QKK) {
		float d = st_load_f32(&b->d);
		for (unsigned i = 0; i < ST_QKK; i++)
			dst[i] = d * (float)b->qs[i];
	}
}
