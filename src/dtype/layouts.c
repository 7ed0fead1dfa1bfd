/* layouts.c - the descriptors of all types. Offsets come from the structs in blocks.h. */
#include "dtype/layouts.h"

#include "dtype/blocks.h"

#include <stddef.h>

/* clang-format off */
#define AT(block, member) offsetof(struct block, member)
/* Numbers of `bits` in groups: the first of a group take the lowest bits of its bytes, the next ones the bits above. */
#define BITS(AT_, BITS_, GROUP) \
	{ .at = AT_, .bits = BITS_, .group = GROUP, .bytes = (GROUP) * (BITS_) / 8, .advance = (GROUP) * (BITS_) / 8 }
#define BYTES(AT_) BITS(AT_, 8, 32)
#define CODES(BIAS, TOP) .bias = BIAS, .lowest = 0, .highest = TOP
#define INT8_CODES .code_signed = true, .bias = 0, .lowest = -127, .highest = 127
#define F16_SCALE(block) .factor = ST_FACTOR_F16, .d_at = AT(block, d), .m_at = -1
#define F16_SCALE_MIN(block, min) .factor = ST_FACTOR_F16, .d_at = AT(block, d), .m_at = AT(block, min)
#define ONE_BLOCK(ELEMS) .sub = ELEMS, .n_sub = 1, .scale_top = 1
#define SUBS(SUB, N) .sub = SUB, .n_sub = N

/*
 * Scales and minima of Q4_K and Q5_K: 6 bits each, 8 + 8 in 12 bytes. The low four bits of the first four scales are
 * in bytes 0..3, those of the other four in 8..11. The low four bits of the first four minima are in bytes 4..7, those
 * of the other four in the upper halves of 8..11. The high two bits are in bytes 0..7: in bits 4 and 5 for the first
 * four of each kind, in bits 6 and 7 for the others.
 */
#define K4_SCALES(block) \
	.scale      = { .at = AT(block, scales),     .bits = 4, .group = 4, .bytes = 4, .advance = 8 }, \
	.scale_high = { .at = AT(block, scales),     .bits = 2, .group = 8, .bytes = 4, .advance = 4, .shift = 4 }, \
	.min        = { .at = AT(block, scales) + 4, .bits = 4, .group = 4, .bytes = 4, .advance = 4, .shift_advance = 4 }, \
	.min_high   = { .at = AT(block, scales) + 4, .bits = 2, .group = 8, .bytes = 4, .advance = 4, .shift = 4 }, \
	.scale_top = 63

static const struct st_levels iq4_levels = {
	.level = { -127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113 },
	.below = { 0, 23, 21, 18, 16, 14, 13, 12, 11, 12, 12, 13, 15, 16, 20, 24 },
	.above = { 23, 21, 18, 16, 14, 13, 12, 11, 12, 12, 13, 15, 16, 20, 24, 0 },
};

/* Magnitudes with a sign: both codes 0 and 8 are zero. */
static const struct st_levels mxfp4_levels = {
	.level = { 0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12 },
	.below = { 1, 1, 1, 1, 1, 2, 2, 4, 1, 1, 1, 1, 2, 2, 4, 0 },
	.above = { 1, 1, 1, 1, 2, 2, 4, 0, 1, 1, 1, 1, 1, 2, 2, 4 },
};

#define GEOMETRY(type, ...) const struct st_geometry st_layout_##type = { __VA_ARGS__ }

const struct st_geometry st_layout_none = { .d_at = -1, .m_at = -1 };
GEOMETRY(f32, .fraction = 23, .least_exponent = -126, .d_at = -1, .m_at = -1);
GEOMETRY(f16, .fraction = 10, .least_exponent = -14, .d_at = -1, .m_at = -1);
GEOMETRY(bf16, .fraction = 7, .least_exponent = -126, .d_at = -1, .m_at = -1);
GEOMETRY(f64, .fraction = 52, .least_exponent = -1022, .d_at = -1, .m_at = -1);
GEOMETRY(f8_e4m3, .fraction = 3, .least_exponent = -6, .d_at = -1, .m_at = -1);
GEOMETRY(f8_e5m2, .fraction = 2, .least_exponent = -14, .d_at = -1, .m_at = -1);

GEOMETRY(q4_0, ONE_BLOCK(ST_QK), F16_SCALE(st_block_q4_0), .code = BITS(AT(st_block_q4_0, qs), 4, 32), CODES(8, 15));
GEOMETRY(q4_1, ONE_BLOCK(ST_QK), F16_SCALE_MIN(st_block_q4_1, m), .code = BITS(AT(st_block_q4_1, qs), 4, 32),
         CODES(0, 15));
GEOMETRY(q5_0, ONE_BLOCK(ST_QK), F16_SCALE(st_block_q5_0), .code = BITS(AT(st_block_q5_0, qs), 4, 32),
         .code_high = BITS(AT(st_block_q5_0, qh), 1, 8), CODES(16, 31));
GEOMETRY(q5_1, ONE_BLOCK(ST_QK), F16_SCALE_MIN(st_block_q5_1, m), .code = BITS(AT(st_block_q5_1, qs), 4, 32),
         .code_high = BITS(AT(st_block_q5_1, qh), 1, 8), CODES(0, 31));
GEOMETRY(q8_0, ONE_BLOCK(ST_QK), F16_SCALE(st_block_q8_0), .code = BYTES(AT(st_block_q8_0, qs)), INT8_CODES);
GEOMETRY(q8_1, ONE_BLOCK(ST_QK), F16_SCALE(st_block_q8_1), .code = BYTES(AT(st_block_q8_1, qs)), INT8_CODES);
GEOMETRY(iq4_nl, ONE_BLOCK(ST_QK), F16_SCALE(st_block_iq4_nl), .code = BITS(AT(st_block_iq4_nl, qs), 4, 32),
         CODES(0, 15),
         .levels = &iq4_levels);
GEOMETRY(mxfp4, ONE_BLOCK(ST_QK), .factor = ST_FACTOR_E8M0, .d_at = AT(st_block_mxfp4, e), .m_at = -1,
         .code = BITS(AT(st_block_mxfp4, qs), 4, 32), CODES(0, 15), .levels = &mxfp4_levels);
GEOMETRY(apr_q4, ONE_BLOCK(ST_QK), F16_SCALE(st_block_apr_q4), .code = BITS(AT(st_block_apr_q4, qs), 4, 2),
         CODES(8, 15));

/* Of digits of base 3 and of vectors out of a table there are no bits that belong to one element (elements.c). */
GEOMETRY(tq2_0, ONE_BLOCK(ST_QKK), F16_SCALE(st_block_tq2_0), .code = BITS(AT(st_block_tq2_0, qs), 2, 128),
         CODES(1, 2));

GEOMETRY(q2_k, SUBS(16, 16), F16_SCALE_MIN(st_block_q2_k, dmin), .code = BITS(AT(st_block_q2_k, qs), 2, 128),
         CODES(0, 3),
         .scale = { .at = AT(st_block_q2_k, scales), .bits = 4, .group = 16, .bytes = 16 },
         .min = { .at = AT(st_block_q2_k, scales), .bits = 4, .group = 16, .bytes = 16, .shift = 4 }, .scale_top = 15);
GEOMETRY(q3_k, SUBS(16, 16), F16_SCALE(st_block_q3_k), .code = BITS(AT(st_block_q3_k, qs), 2, 128),
         .code_high = BITS(AT(st_block_q3_k, hmask), 1, 256), CODES(4, 7),
         .scale = BITS(AT(st_block_q3_k, scales), 4, 16), .scale_high = BITS(AT(st_block_q3_k, scales) + 8, 2, 16),
         .scale_bias = 32, .scale_top = 31);
GEOMETRY(q4_k, SUBS(32, 8), F16_SCALE_MIN(st_block_q4_k, dmin), .code = BITS(AT(st_block_q4_k, qs), 4, 64),
         CODES(0, 15),
         K4_SCALES(st_block_q4_k));
GEOMETRY(q5_k, SUBS(32, 8), F16_SCALE_MIN(st_block_q5_k, dmin), .code = BITS(AT(st_block_q5_k, qs), 4, 64),
         .code_high = BITS(AT(st_block_q5_k, qh), 1, 256), CODES(0, 31), K4_SCALES(st_block_q5_k));
GEOMETRY(q6_k, SUBS(16, 16), F16_SCALE(st_block_q6_k), .code = BITS(AT(st_block_q6_k, ql), 4, 128),
         .code_high = BITS(AT(st_block_q6_k, qh), 2, 128), CODES(32, 63), .scale = BYTES(AT(st_block_q6_k, scales)),
         .scale_signed = true, .scale_top = 127);
GEOMETRY(q8_k, ONE_BLOCK(ST_QKK), .factor = ST_FACTOR_F32, .d_at = AT(st_block_q8_k, d), .m_at = -1,
         .code = BYTES(AT(st_block_q8_k, qs)), INT8_CODES);
GEOMETRY(iq4_xs, SUBS(32, 8), F16_SCALE(st_block_iq4_xs), .code = BITS(AT(st_block_iq4_xs, qs), 4, 32), CODES(0, 15),
         .levels = &iq4_levels, .scale = BITS(AT(st_block_iq4_xs, scales_l), 4, 2),
         .scale_high = BITS(AT(st_block_iq4_xs, scales_h), 2, 4), .scale_bias = 32, .scale_top = 31);
/* clang-format on */
