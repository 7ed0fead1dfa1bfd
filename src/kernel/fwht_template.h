/*
 * fwht_template.h - the Walsh-Hadamard transform in natural order, in the operations of vec.h, which comes first: in
 * place, times 1/sqrt(d), so that it is its own inverse. d = 128, 256, 512.
 */
#include <math.h>
#include <stdint.h>

/* Lane l of stage h: a[l] + a[l ^ h] where l has no bit h, else a[l ^ h] - a[l]; the products with +-1 are exact. */
VEC_WHOLE void fwht(float *x, uint32_t d)
{
	static const float sign[4][16] = {
		{ 1, -1, 1, -1, 1, -1, 1, -1, 1, -1, 1, -1, 1, -1, 1, -1 },
		{ 1, 1, -1, -1, 1, 1, -1, -1, 1, 1, -1, -1, 1, 1, -1, -1 },
		{ 1, 1, 1, 1, -1, -1, -1, -1, 1, 1, 1, 1, -1, -1, -1, -1 },
		{ 1, 1, 1, 1, 1, 1, 1, 1, -1, -1, -1, -1, -1, -1, -1, -1 },
	};
	v16 v[32];
	const uint32_t n = d / 16;
	for (uint32_t i = 0; i < n; i++) {
		v16 a = v_load(x + 16 * i);
		a = v_fma(a, v_load(sign[0]), v_swap1(a));
		a = v_fma(a, v_load(sign[1]), v_swap2(a));
		a = v_fma(a, v_load(sign[2]), v_swap4(a));
		v[i] = v_fma(a, v_load(sign[3]), v_swap8(a));
	}
	for (uint32_t h = 1; h < n; h *= 2) {
		for (uint32_t i = 0; i < n; i++) {
			if (i & h)
				continue;
			v16 a = v[i], b = v[i + h];
			v[i] = v_add(a, b);
			v[i + h] = v_sub(a, b);
		}
	}
	v16 s = v_set1((float)(1 / sqrt((double)d)));
	for (uint32_t i = 0; i < n; i++)
		v_store(x + 16 * i, v_mul(v[i], s));
}

static ST_TARGET void fwht_any(float *x, uint32_t d)
{
	if (d == 128)
		fwht(x, 128);
	else if (d == 256)
		fwht(x, 256);
	else
		fwht(x, 512);
}
