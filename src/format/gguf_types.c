/* gguf_types.c - GGUF's numbers for stored types. */
#include "format/gguf.h"

#include <stdio.h>
#include <string.h>

#define NONE ST_DTYPE_COUNT

/* Every number given out so far (ggml.h, 2026), also those of types Stele does not decode: a
 * refusal should name what it refuses. 4, 5, 31-33 and 36-38 were withdrawn. */
static const struct {
	const char *name;
	enum st_dtype dtype;
} types[] = {
	[0] = { "F32", ST_DTYPE_F32 },
	[1] = { "F16", ST_DTYPE_F16 },
	[2] = { "Q4_0", ST_DTYPE_Q4_0 },
	[3] = { "Q4_1", ST_DTYPE_Q4_1 },
	[4] = { "Q4_2 (withdrawn)", NONE },
	[5] = { "Q4_3 (withdrawn)", NONE },
	[6] = { "Q5_0", ST_DTYPE_Q5_0 },
	[7] = { "Q5_1", ST_DTYPE_Q5_1 },
	[8] = { "Q8_0", ST_DTYPE_Q8_0 },
	[9] = { "Q8_1", ST_DTYPE_Q8_1 },
	[10] = { "Q2_K", ST_DTYPE_Q2_K },
	[11] = { "Q3_K", ST_DTYPE_Q3_K },
	[12] = { "Q4_K", ST_DTYPE_Q4_K },
	[13] = { "Q5_K", ST_DTYPE_Q5_K },
	[14] = { "Q6_K", ST_DTYPE_Q6_K },
	[15] = { "Q8_K", ST_DTYPE_Q8_K },
	[16] = { "IQ2_XXS", ST_DTYPE_IQ2_XXS },
	[17] = { "IQ2_XS", ST_DTYPE_IQ2_XS },
	[18] = { "IQ3_XXS", ST_DTYPE_IQ3_XXS },
	[19] = { "IQ1_S", ST_DTYPE_IQ1_S },
	[20] = { "IQ4_NL", ST_DTYPE_IQ4_NL },
	[21] = { "IQ3_S", ST_DTYPE_IQ3_S },
	[22] = { "IQ2_S", ST_DTYPE_IQ2_S },
	[23] = { "IQ4_XS", ST_DTYPE_IQ4_XS },
	[24] = { "I8", ST_DTYPE_I8 },
	[25] = { "I16", ST_DTYPE_I16 },
	[26] = { "I32", ST_DTYPE_I32 },
	[27] = { "I64", ST_DTYPE_I64 },
	[28] = { "F64", ST_DTYPE_F64 },
	[29] = { "IQ1_M", ST_DTYPE_IQ1_M },
	[30] = { "BF16", ST_DTYPE_BF16 },
	[31] = { "Q4_0_4_4 (withdrawn)", NONE },
	[32] = { "Q4_0_4_8 (withdrawn)", NONE },
	[33] = { "Q4_0_8_8 (withdrawn)", NONE },
	[34] = { "TQ1_0", ST_DTYPE_TQ1_0 },
	[35] = { "TQ2_0", ST_DTYPE_TQ2_0 },
	[36] = { "IQ4_NL_4_4 (withdrawn)", NONE },
	[37] = { "IQ4_NL_4_8 (withdrawn)", NONE },
	[38] = { "IQ4_NL_8_8 (withdrawn)", NONE },
	[39] = { "MXFP4", ST_DTYPE_MXFP4 },
	[40] = { "NVFP4", ST_DTYPE_NVFP4 },
	[41] = { "Q1_0", NONE },
	[42] = { "Q2_0", NONE },
};
#define N_TYPES (sizeof types / sizeof *types)

bool st_gguf_type_to(uint32_t type, enum st_dtype *out)
{
	if (type >= N_TYPES || types[type].dtype == NONE)
		return false;
	*out = types[type].dtype;
	return true;
}

int st_gguf_type_of(enum st_dtype t)
{
	for (size_t i = 0; i < N_TYPES; i++)
		if (types[i].dtype == t && t != NONE)
			return (int)i;
	return -1;
}

const char *st_gguf_type_name(uint32_t type) { return type < N_TYPES ? types[type].name : NULL; }

void st_gguf_supported(char *buf, size_t n)
{
	size_t at = 0;
	buf[0] = '\0';
	for (size_t i = 0; i < N_TYPES && at < n; i++)
		if (types[i].dtype != NONE)
			at += (size_t)snprintf(buf + at, n - at, "%s%s", at ? " " : "", types[i].name);
}
