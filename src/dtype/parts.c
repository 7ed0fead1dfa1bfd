/* parts.c - numbers and codes out of one part of a matrix that lies in several tensors. */
#include "dtype/apart.h"

#include "dtype/half.h"

#include <math.h>

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
