/* dtype.c - the table of stored types. */
#include <stele/dtype.h>

#include "dtype/blocks.h"
#include "dtype/codec.h"
#include "dtype/geometry.h"

#include <assert.h>
#include <stddef.h>
#include <strings.h>

/* clang-format off */
/* ---- descriptors: offsets come from the structs in blocks.h ---- */

#define AT(block, member) offsetof(struct block, member)
/* Numbers of `bits` in groups: the first of a group take the lowest bits of its bytes, the next ones the bits above. */
#define BITS(AT_, BITS_, GROUP) \
	{ .at = AT_, .bits = BITS_, .group = GROUP, .bytes = (GROUP) * (BITS_) / 8, .advance = (GROUP) * (BITS_) / 8 }
#define BYTES(AT_) BITS(AT_, 8, 1)
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

#define GEOMETRY(type, ...) static const struct st_geometry geometry_##type = { __VA_ARGS__ }

static const struct st_geometry geometry_none = { .d_at = -1, .m_at = -1 };
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

/* ---- the table ---- */

#define PLAIN(NAME, KIND, BYTES, type, dec, enc, rms) \
	{ { .name = NAME, .kind = KIND, .block_elems = 1, .block_bytes = BYTES, .decode = dec, .encode = enc, \
	    .storage_rel_rms = rms }, &geometry_##type, NULL }
#define VECTORS(NAME, ELEMS, type, rms) \
	{ { .name = NAME, .kind = ST_KIND_QUANT, .block_elems = ELEMS, .block_bytes = sizeof(struct st_block_##type), \
	    .decode = st_decode_##type, .storage_rel_rms = rms }, &geometry_none, NULL }
#define BLOCK(NAME, ELEMS, type, enc, weighted, rms) \
	{ { .name = NAME, .kind = ST_KIND_QUANT, .block_elems = ELEMS, .block_bytes = sizeof(struct st_block_##type), \
	    .decode = st_decode_##type, .encode = enc, .storage_rel_rms = rms }, &geometry_##type, weighted }

static const struct {
	struct st_dtype_info info;
	const struct st_geometry *geometry;
	/* As encode, by importances; NULL: importances change nothing. */
	void (*weighted)(const float *src, const float *importance, void *dst, size_t n);
} table[ST_DTYPE_COUNT] = {
	/* The last column is measured on N(0,1) data (tests/dtype/test_storage.c does it again); for types without an
	 * encoder here, with a plain search for the best scales. */
	[ST_DTYPE_F32]     = PLAIN("F32", ST_KIND_FLOAT, 4, f32, st_decode_f32, st_encode_f32, 0),
	[ST_DTYPE_F16]     = PLAIN("F16", ST_KIND_FLOAT, 2, f16, st_decode_f16, st_encode_f16, 0.000208),
	[ST_DTYPE_BF16]    = PLAIN("BF16", ST_KIND_FLOAT, 2, bf16, st_decode_bf16, st_encode_bf16, 0.00166),
	[ST_DTYPE_F64]     = PLAIN("F64", ST_KIND_FLOAT, 8, f64, st_decode_f64, NULL, 0),
	[ST_DTYPE_F8_E4M3] = PLAIN("F8_E4M3", ST_KIND_FLOAT, 1, f8_e4m3, st_decode_f8_e4m3, NULL, 0.0265),
	[ST_DTYPE_F8_E5M2] = PLAIN("F8_E5M2", ST_KIND_FLOAT, 1, f8_e5m2, st_decode_f8_e5m2, NULL, 0.0526),
	[ST_DTYPE_BOOL]    = PLAIN("BOOL", ST_KIND_INT, 1, none, st_decode_bool, NULL, 0),
	[ST_DTYPE_I8]      = PLAIN("I8", ST_KIND_INT, 1, none, st_decode_i8, NULL, 0),
	[ST_DTYPE_U8]      = PLAIN("U8", ST_KIND_INT, 1, none, st_decode_u8, NULL, 0),
	[ST_DTYPE_I16]     = PLAIN("I16", ST_KIND_INT, 2, none, st_decode_i16, NULL, 0),
	[ST_DTYPE_U16]     = PLAIN("U16", ST_KIND_INT, 2, none, st_decode_u16, NULL, 0),
	[ST_DTYPE_I32]     = PLAIN("I32", ST_KIND_INT, 4, none, st_decode_i32, NULL, 0),
	[ST_DTYPE_U32]     = PLAIN("U32", ST_KIND_INT, 4, none, st_decode_u32, NULL, 0),
	[ST_DTYPE_I64]     = PLAIN("I64", ST_KIND_INT, 8, none, st_decode_i64, NULL, 0),
	[ST_DTYPE_U64]     = PLAIN("U64", ST_KIND_INT, 8, none, st_decode_u64, NULL, 0),
	[ST_DTYPE_Q4_0]    = BLOCK("Q4_0", ST_QK, q4_0, st_encode_q4_0, st_encode_weighted_q4_0, 0.086),
	[ST_DTYPE_Q4_1]    = BLOCK("Q4_1", ST_QK, q4_1, st_encode_q4_1, st_encode_weighted_q4_1, 0.0781),
	[ST_DTYPE_Q5_0]    = BLOCK("Q5_0", ST_QK, q5_0, st_encode_q5_0, st_encode_weighted_q5_0, 0.0427),
	[ST_DTYPE_Q5_1]    = BLOCK("Q5_1", ST_QK, q5_1, st_encode_q5_1, st_encode_weighted_q5_1, 0.0378),
	[ST_DTYPE_Q8_0]    = BLOCK("Q8_0", ST_QK, q8_0, st_encode_q8_0, NULL, 0.00535),
	[ST_DTYPE_Q8_1]    = BLOCK("Q8_1", ST_QK, q8_1, NULL, NULL, 0.00535),
	[ST_DTYPE_Q2_K]    = BLOCK("Q2_K", ST_QKK, q2_k, st_encode_q2_k, st_encode_weighted_q2_k, 0.282),
	[ST_DTYPE_Q3_K]    = BLOCK("Q3_K", ST_QKK, q3_k, st_encode_q3_k, st_encode_weighted_q3_k, 0.152),
	[ST_DTYPE_Q4_K]    = BLOCK("Q4_K", ST_QKK, q4_k, st_encode_q4_k, st_encode_weighted_q4_k, 0.0713),
	[ST_DTYPE_Q5_K]    = BLOCK("Q5_K", ST_QKK, q5_k, st_encode_q5_k, st_encode_weighted_q5_k, 0.0357),
	[ST_DTYPE_Q6_K]    = BLOCK("Q6_K", ST_QKK, q6_k, st_encode_q6_k, st_encode_weighted_q6_k, 0.0177),
	[ST_DTYPE_Q8_K]    = BLOCK("Q8_K", ST_QKK, q8_k, NULL, NULL, 0.00697),
	[ST_DTYPE_IQ4_NL]  = BLOCK("IQ4_NL", ST_QK, iq4_nl, st_encode_iq4_nl, st_encode_weighted_iq4_nl, 0.0771),
	[ST_DTYPE_IQ4_XS]  = BLOCK("IQ4_XS", ST_QKK, iq4_xs, st_encode_iq4_xs, st_encode_weighted_iq4_xs, 0.0778),
	[ST_DTYPE_MXFP4]   = BLOCK("MXFP4", ST_QK, mxfp4, st_encode_mxfp4, st_encode_weighted_mxfp4, 0.114),
	[ST_DTYPE_APR_Q4]  = BLOCK("AprQ4", ST_QK, apr_q4, st_encode_apr_q4, NULL, 0.086),
	/* In units of the tensor's scale: see dtype/aprq.h. */
	[ST_DTYPE_APR_Q8]  = PLAIN("AprQ8", ST_KIND_QUANT, 1, none, st_decode_apr_q8, st_encode_apr_q8, 0.0127),
	/* As ggml's encoders leave N(0,1) data where all elements weigh the same. */
	[ST_DTYPE_NVFP4]   = VECTORS("NVFP4", 64, nvfp4, 0.0953),
	[ST_DTYPE_IQ1_S]   = VECTORS("IQ1_S", ST_QKK, iq1_s, 0.486),
	[ST_DTYPE_IQ1_M]   = VECTORS("IQ1_M", ST_QKK, iq1_m, 0.451),
	[ST_DTYPE_IQ2_XXS] = VECTORS("IQ2_XXS", ST_QKK, iq2_xxs, 0.343),
	[ST_DTYPE_IQ2_XS]  = VECTORS("IQ2_XS", ST_QKK, iq2_xs, 0.299),
	[ST_DTYPE_IQ2_S]   = VECTORS("IQ2_S", ST_QKK, iq2_s, 0.249),
	[ST_DTYPE_IQ3_XXS] = VECTORS("IQ3_XXS", ST_QKK, iq3_xxs, 0.182),
	[ST_DTYPE_IQ3_S]   = VECTORS("IQ3_S", ST_QKK, iq3_s, 0.137),
	[ST_DTYPE_TQ1_0]   = VECTORS("TQ1_0", ST_QKK, tq1_0, 0.81),
	[ST_DTYPE_TQ2_0]   = BLOCK("TQ2_0", ST_QKK, tq2_0, NULL, NULL, 0.81),
};
/* clang-format on */

const struct st_dtype_info *st_dtype_info(enum st_dtype t)
{
	assert((unsigned)t < ST_DTYPE_COUNT);
	return &table[t].info;
}

const struct st_geometry *st_dtype_geometry(enum st_dtype t)
{
	assert((unsigned)t < ST_DTYPE_COUNT);
	return table[t].geometry;
}

void st_dtype_encode(enum st_dtype t, const float *src, const float *importance, void *dst, size_t n)
{
	if (importance && table[t].weighted)
		table[t].weighted(src, importance, dst, n);
	else
		table[t].info.encode(src, dst, n);
}

bool st_dtype_parse(const char *name, enum st_dtype *out)
{
	for (unsigned t = 0; t < ST_DTYPE_COUNT; t++)
		if (strcasecmp(name, table[t].info.name) == 0) {
			*out = (enum st_dtype)t;
			return true;
		}
	return false;
}
