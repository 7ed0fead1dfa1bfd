/* dtype.c - the table of stored types. */
#include <stele/dtype.h>

#include "dtype/blocks.h"
#include "dtype/codec.h"
#include "dtype/layouts.h"

#include <assert.h>
#include <strings.h>

/* clang-format off */
#define PLAIN(NAME, KIND, BYTES, type, dec, enc, rms) \
	{ { .name = NAME, .kind = KIND, .block_elems = 1, .block_bytes = BYTES, .decode = dec, .encode = enc, \
	    .storage_rel_rms = rms }, &st_layout_##type, NULL }
#define VECTORS(NAME, ELEMS, type, rms) \
	{ { .name = NAME, .kind = ST_KIND_QUANT, .block_elems = ELEMS, .block_bytes = sizeof(struct st_block_##type), \
	    .decode = st_decode_##type, .storage_rel_rms = rms }, &st_layout_none, NULL }
#define BLOCK(NAME, ELEMS, type, enc, weighted, rms) \
	{ { .name = NAME, .kind = ST_KIND_QUANT, .block_elems = ELEMS, .block_bytes = sizeof(struct st_block_##type), \
	    .decode = st_decode_##type, .encode = enc, .storage_rel_rms = rms }, &st_layout_##type, weighted }

#define APART(NAME, rms) \
	{ { .name = NAME, .kind = ST_KIND_QUANT, .block_elems = 1, .block_bytes = 1, .decode = st_decode_apart, \
	    .storage_rel_rms = rms }, &st_layout_none, NULL }

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
	/* With 4 bits and groups of 128 (MLX, NF4: 64), each number rounded to the nearest code. */
	[ST_DTYPE_GPTQ]    = APART("GPTQ", 0.112),
	[ST_DTYPE_AWQ]     = APART("AWQ", 0.102),
	[ST_DTYPE_MLX]     = APART("MLX", 0.091),
	[ST_DTYPE_CT_PACK] = APART("CT-pack", 0.112),
	[ST_DTYPE_BNB4]    = APART("BNB4", 0.092),
	[ST_DTYPE_F8_SCALED] = APART("FP8-scaled", 0.0265),
	[ST_DTYPE_I8_SCALED] = APART("int8-scaled", 0.0075),
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

bool st_dtype_weighted(enum st_dtype t)
{
	assert((unsigned)t < ST_DTYPE_COUNT);
	return table[t].weighted != NULL;
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
