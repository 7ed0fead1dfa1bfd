/*
 * level_scalar.c - the reference: the numerics contract in plain C, and what runs where nothing
 * else does. Right first; fma is a library call on processors without the instruction.
 */
#define VEC_SCALAR
#include "kernel/vec.h"

#include "kernel/pointwise_template.h"

#define GEMM_ROWS 4
#define GEMM_VECTORS 4
#include "kernel/gemm_template.h"

static void dot_f32(const float *w, size_t ldw, size_t R, const float *x, size_t ldx, size_t T, size_t K, float *acc)
{
	for (size_t t = 0; t < T; t++)
		for (size_t r = 0; r < R; r++, acc += ST_LANES_F32) {
			const float *a = w + r * ldw, *b = x + t * ldx;
			for (size_t k = 0; k < K; k++)
				acc[k % ST_LANES_F32] = fmaf(a[k], b[k], acc[k % ST_LANES_F32]);
			/* The zeros that fill up the lanes: they turn a sum of -0 into +0. */
			for (size_t k = K; k % ST_LANES_F32; k++)
				acc[k % ST_LANES_F32] += 0.0f;
		}
}

/* x holds f32 values, and the product of two f32 is exact in f64: a rounded sum of it is a fused one. */
static void dot_f64(const float *w, size_t ldw, size_t R, const double *x, size_t ldx, size_t T, size_t K, double *acc)
{
	for (size_t t = 0; t < T; t++)
		for (size_t r = 0; r < R; r++, acc += ST_LANES_F64) {
			const float *a = w + r * ldw;
			const double *b = x + t * ldx;
			for (size_t k = 0; k < K; k++)
				acc[k % ST_LANES_F64] += (double)a[k] * b[k];
			for (size_t k = K; k % ST_LANES_F64; k++)
				acc[k % ST_LANES_F64] += 0.0;
		}
}

static void sum_f32(const float *acc, size_t n, float *y)
{
	for (size_t i = 0; i < n; i++, acc += ST_LANES_F32) {
		float s[ST_LANES_F32];
		for (int l = 0; l < ST_LANES_F32; l++)
			s[l] = acc[l];
		for (int h = ST_LANES_F32 / 2; h > 0; h /= 2)
			for (int l = 0; l < h; l++)
				s[l] += s[l + h];
		y[i] = s[0];
	}
}

static void sum_f64(const double *acc, size_t n, double *y)
{
	for (size_t i = 0; i < n; i++, acc += ST_LANES_F64) {
		double s[ST_LANES_F64];
		for (int l = 0; l < ST_LANES_F64; l++)
			s[l] = acc[l];
		for (int h = ST_LANES_F64 / 2; h > 0; h /= 2)
			for (int l = 0; l < h; l++)
				s[l] += s[l + h];
		y[i] = s[0];
	}
}

static void mix_f32(const float *prob, size_t P, const float *v, size_t ldv, size_t n, float *acc)
{
	for (size_t p = 0; p < P; p++)
		for (size_t i = 0; i < n; i++) {
			float *a = &acc[p % ST_LANES_MIX * ST_MIX_WIDTH + i];
			*a = fmaf(prob[p], v[p * ldv + i], *a);
		}
}

static void mix_f64(const float *prob, size_t P, const float *v, size_t ldv, size_t n, double *acc)
{
	for (size_t p = 0; p < P; p++)
		for (size_t i = 0; i < n; i++)
			acc[p % ST_LANES_MIX * ST_MIX_WIDTH + i] += (double)prob[p] * (double)v[p * ldv + i];
}

const struct st_kernels st_kernels_scalar = {
	.cpu = ST_CPU_SCALAR,
	.dot_f32 = dot_f32,
	.dot_f64 = dot_f64,
	.sum_f32 = sum_f32,
	.sum_f64 = sum_f64,
	.mix_f32 = mix_f32,
	.mix_f64 = mix_f64,
	ST_POINTWISE_TABLE,
	ST_GEMM_TABLE,
};
