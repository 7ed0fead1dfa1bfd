/* apart.c - what the types with parts in several tensors share. */
#include "dtype/apart.h"

#include "dtype/codec.h"
#include "dtype/half.h"

#include <assert.h>
#include <math.h>
#include <string.h>

/* The bytes of one tensor alone give no number. */
void st_decode_apart(const void *src, float *dst, size_t n)
{
	(void)src;
	for (size_t i = 0; i < n; i++)
		dst[i] = st_bits_f32(0x7FC00000u);
}

void st_apart_row(const struct st_apart *a, uint64_t r, const struct st_elements *e)
{
	switch (a->method) {
	case ST_DTYPE_GPTQ:
		st_gptq_row(a, r, e);
		return;
	case ST_DTYPE_AWQ:
		st_awq_row(a, r, e);
		return;
	case ST_DTYPE_MLX:
		st_mlx_row(a, r, e);
		return;
	case ST_DTYPE_CT_PACK:
		st_ct_pack_row(a, r, e);
		return;
	case ST_DTYPE_BNB4:
		st_bnb4_row(a, r, e);
		return;
	case ST_DTYPE_F8_SCALED:
	case ST_DTYPE_I8_SCALED:
		st_scaled_row(a, r, e);
		return;
	default:
		assert(!"a type whose parts lie together");
	}
}

float st_apart_number(const struct st_tensor *t, uint64_t i)
{
	float x;
	uint32_t size = st_dtype_info(t->dtype)->block_bytes;
	st_dtype_info(t->dtype)->decode(t->data + i * size, &x, 1);
	return x;
}

float st_apart_half_unit(const struct st_tensor *t, float v)
{
	const struct st_geometry *g = st_dtype_geometry(t->dtype);
	if (st_dtype_info(t->dtype)->kind != ST_KIND_FLOAT)
		return 0;
	int e = (int)(st_f32_bits(v) >> 23 & 255) - 127, fraction = g->fraction < 23 ? g->fraction : 23;
	e = e > g->least_exponent ? e : g->least_exponent;
	return ldexpf(0.5f, e - fraction);
}

unsigned st_apart_code(const uint8_t *p, uint64_t i, unsigned bits)
{
	uint64_t bit = i * bits;
	unsigned at = (unsigned)(bit % 8), v = p[bit / 8] >> at;
	if (at + bits > 8)
		v |= (unsigned)p[bit / 8 + 1] << (8 - at);
	return v & ((1u << bits) - 1);
}
