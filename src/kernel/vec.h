/*
 * vec.h - the vectors of one CPU level, under names that every level has.
 *
 * The including file defines exactly one of VEC_SCALAR, VEC_AVX2, VEC_AVX512, VEC_NEON. It gets
 *   ST_TARGET        the attributes that every function with vectors needs
 *   vf, vd           one register of f32, of f64, with VF_LANES and VD_LANES of them
 *   v16, i16         sixteen f32, sixteen 32-bit integers, in as many registers as that takes
 * and the same operations on them. Each rounds the same way everywhere: add, mul, div and fma are IEEE, min and max are
 * "a < b ? a : b" and "a > b ? a : b", so what is written in them has one set of bits.
 */
#ifndef ST_KERNEL_VEC_H
#define ST_KERNEL_VEC_H

#include <math.h>
#include <stdint.h>
#include <string.h>

#if defined(VEC_AVX512)
#include <immintrin.h>
#define ST_TARGET __attribute__((target("avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq")))
#elif defined(VEC_AVX2)
#include <immintrin.h>
#define ST_TARGET __attribute__((target("avx2,fma,f16c")))
#elif defined(VEC_NEON)
#include <arm_neon.h>
#define ST_TARGET
#else
#define ST_TARGET
#endif

#define UNROLL _Pragma("GCC unroll 16")

/*
 * VEC_INLINE is for operations; VEC_WHOLE for functions that want some arguments as constants: one copy per
 * combination. The reference does without, and calls its operations on sixteen lanes: unrolled into one another under a
 * sanitizer they would take the compiler minutes, and fmaf costs more than the calls.
 */
#define VEC_REGISTER static inline __attribute__((always_inline, unused)) ST_TARGET
#if defined(VEC_SCALAR)
#define VEC_INLINE static __attribute__((noinline, unused))
#define VEC_WHOLE static
#else
#define VEC_INLINE static inline __attribute__((always_inline, unused)) ST_TARGET
#define VEC_WHOLE VEC_INLINE
#endif

#if defined(VEC_AVX512)

#define VF_LANES 16
#define VD_LANES 8
typedef __m512 vf;
typedef __m512d vd;
VEC_REGISTER __mmask16 first_(int n) { return n <= 0 ? 0 : n >= 16 ? 0xFFFF : (__mmask16)((1u << n) - 1); }
VEC_REGISTER vf vf_zero(void) { return _mm512_setzero_ps(); }
VEC_REGISTER vf vf_set1(float x) { return _mm512_set1_ps(x); }
VEC_REGISTER vf vf_load(const float *p) { return _mm512_loadu_ps(p); }
/* The first n, zeros beyond; n may be 0 or less, and reads nothing then. */
VEC_REGISTER vf vf_first(const float *p, int n) { return _mm512_maskz_loadu_ps(first_(n), p); }
VEC_REGISTER void vf_store(float *p, vf a) { _mm512_storeu_ps(p, a); }
VEC_REGISTER vf vf_add(vf a, vf b) { return _mm512_add_ps(a, b); }
VEC_REGISTER vf vf_fma(vf a, vf b, vf c) { return _mm512_fmadd_ps(a, b, c); }
VEC_REGISTER vd vd_set1(double x) { return _mm512_set1_pd(x); }
VEC_REGISTER vd vd_load(const double *p) { return _mm512_loadu_pd(p); }
VEC_REGISTER vd vd_first(const double *p, int n) { return _mm512_maskz_loadu_pd((__mmask8)first_(n), p); }
/* Of floats. */
VEC_REGISTER vd vd_wide(const float *p) { return _mm512_cvtps_pd(_mm256_loadu_ps(p)); }
VEC_REGISTER vd vd_wide_first(const float *p, int n)
{
	return _mm512_cvtps_pd(_mm256_maskz_loadu_ps((__mmask8)first_(n), p));
}
VEC_REGISTER void vd_store(double *p, vd a) { _mm512_storeu_pd(p, a); }
VEC_REGISTER vd vd_fma(vd a, vd b, vd c) { return _mm512_fmadd_pd(a, b, c); }
/* 16 lanes down to 4 by halving: l + 8, l + 4; and 8 of f64 down to 2. */
VEC_REGISTER __m128 quarter_f32(const float *p)
{
	__m512 v = _mm512_loadu_ps(p);
	__m256 h = _mm256_add_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps(v, 1));
	return _mm_add_ps(_mm256_castps256_ps128(h), _mm256_extractf128_ps(h, 1));
}
VEC_REGISTER __m128d quarter_f64(const double *p)
{
	__m512d v = _mm512_loadu_pd(p);
	__m256d h = _mm256_add_pd(_mm512_castpd512_pd256(v), _mm512_extractf64x4_pd(v, 1));
	return _mm_add_pd(_mm256_castpd256_pd128(h), _mm256_extractf128_pd(h, 1));
}

typedef __m512 v16;
typedef __m512i i16;
VEC_INLINE v16 v_load(const float *p) { return _mm512_loadu_ps(p); }
VEC_INLINE void v_store(float *p, v16 a) { _mm512_storeu_ps(p, a); }
VEC_INLINE v16 v_set1(float a) { return _mm512_set1_ps(a); }
VEC_INLINE v16 v_add(v16 a, v16 b) { return _mm512_add_ps(a, b); }
VEC_INLINE v16 v_sub(v16 a, v16 b) { return _mm512_sub_ps(a, b); }
VEC_INLINE v16 v_mul(v16 a, v16 b) { return _mm512_mul_ps(a, b); }
VEC_INLINE v16 v_div(v16 a, v16 b) { return _mm512_div_ps(a, b); }
VEC_INLINE v16 v_fma(v16 a, v16 b, v16 c) { return _mm512_fmadd_ps(a, b, c); }
VEC_INLINE v16 v_max(v16 a, v16 b) { return _mm512_max_ps(a, b); }
/* a < b ? x : y */
VEC_INLINE v16 v_lt(v16 a, v16 b, v16 x, v16 y)
{
	return _mm512_mask_blend_ps(_mm512_cmp_ps_mask(a, b, _CMP_LT_OQ), y, x);
}
VEC_INLINE v16 v_abs(v16 a) { return _mm512_abs_ps(a); }
/* a * 2^n for integral n in [-126, 127] */
VEC_INLINE v16 v_exp2i(v16 n)
{
	return _mm512_castsi512_ps(
		_mm512_slli_epi32(_mm512_add_epi32(_mm512_cvtps_epi32(n), _mm512_set1_epi32(127)), 23));
}
VEC_INLINE i16 i_load(const uint8_t *p) { return _mm512_loadu_si512(p); }
VEC_INLINE i16 i_zero(void) { return _mm512_setzero_si512(); }
VEC_INLINE i16 i_shr(i16 a, unsigned n) { return _mm512_srli_epi32(a, n); }
/* c + step where x > b */
VEC_INLINE i16 i_step(i16 c, v16 x, v16 b, unsigned step)
{
	return _mm512_mask_or_epi32(c, _mm512_cmp_ps_mask(x, b, _CMP_GT_OQ), c, _mm512_set1_epi32((int)step));
}
VEC_INLINE i16 i_add1(i16 c, unsigned n) { return _mm512_add_epi32(c, _mm512_set1_epi32((int)n)); }
VEC_INLINE void i_store_u8(uint8_t *p, i16 a) { _mm_storeu_si128((__m128i *)p, _mm512_cvtepi32_epi8(a)); }
/* t[i mod n]; i may have any bits above those. */
VEC_INLINE v16 v_lut16(const float *t, i16 i) { return _mm512_permutexvar_ps(i, _mm512_loadu_ps(t)); }
VEC_INLINE v16 v_lut32(const float *t, i16 i)
{
	return _mm512_permutex2var_ps(_mm512_loadu_ps(t), i, _mm512_loadu_ps(t + 16));
}
VEC_INLINE v16 v_lut64(const float *t, i16 i)
{
	return _mm512_mask_blend_ps(_mm512_test_epi32_mask(i, _mm512_set1_epi32(32)), v_lut32(t, i),
	                            v_lut32(t + 32, i));
}
VEC_INLINE v16 v_lut256(const float *t, i16 i)
{
	return _mm512_i32gather_ps(_mm512_and_si512(i, _mm512_set1_epi32(255)), t, 4);
}
/* Lane l of the result is lane l ^ h; h = 1, 2, 4, 8. */
VEC_INLINE v16 v_swap1(v16 a) { return _mm512_permute_ps(a, 0xB1); }
VEC_INLINE v16 v_swap2(v16 a) { return _mm512_permute_ps(a, 0x4E); }
VEC_INLINE v16 v_swap4(v16 a) { return _mm512_shuffle_f32x4(a, a, 0xB1); }
VEC_INLINE v16 v_swap8(v16 a) { return _mm512_shuffle_f32x4(a, a, 0x4E); }
/* Lane i of the result = the sum of a[i]'s lanes by halving: l + (l+8), then 4, 2, 1. Each round packs
 * two half-summed vectors into one; the order of pairs puts the results in place. */
#define RED(x, y, f, lo, hi) _mm512_add_ps(f(x, y, lo), f(x, y, hi))
VEC_INLINE v16 v_reduce16(const v16 *a)
{
	v16 p[8], q[4];
	for (int b8 = 0; b8 < 2; b8++)
		for (int e = 0; e < 4; e++)
			p[b8 * 4 + e] = RED(a[8 * b8 + e], a[8 * b8 + e + 4], _mm512_shuffle_f32x4, 0x44, 0xEE);
	for (int e = 0; e < 4; e++)
		q[e] = RED(p[e], p[e + 4], _mm512_shuffle_f32x4, 0x88, 0xDD);
	v16 r = RED(q[0], q[1], _mm512_shuffle_ps, 0x44, 0xEE), s = RED(q[2], q[3], _mm512_shuffle_ps, 0x44, 0xEE);
	return RED(r, s, _mm512_shuffle_ps, 0x88, 0xDD);
}
#undef RED

#elif defined(VEC_AVX2)

#define VF_LANES 8
#define VD_LANES 4
typedef __m256 vf;
typedef __m256d vd;
/* Eight ones then eight zeros: the mask of the first n elements begins at 8 - n. */
static const int32_t mask_bits_[16] = { -1, -1, -1, -1, -1, -1, -1, -1 };
VEC_REGISTER __m256i first8_(int n)
{
	n = n < 0 ? 0 : n > 8 ? 8 : n;
	return _mm256_loadu_si256((const __m256i *)(mask_bits_ + 8 - n));
}
VEC_REGISTER __m128i first4_(int n)
{
	n = n < 0 ? 0 : n > 4 ? 4 : n;
	return _mm_loadu_si128((const __m128i *)(mask_bits_ + 8 - n));
}
VEC_REGISTER vf vf_zero(void) { return _mm256_setzero_ps(); }
VEC_REGISTER vf vf_set1(float x) { return _mm256_set1_ps(x); }
VEC_REGISTER vf vf_load(const float *p) { return _mm256_loadu_ps(p); }
VEC_REGISTER vf vf_first(const float *p, int n) { return _mm256_maskload_ps(p, first8_(n)); }
VEC_REGISTER void vf_store(float *p, vf a) { _mm256_storeu_ps(p, a); }
VEC_REGISTER vf vf_add(vf a, vf b) { return _mm256_add_ps(a, b); }
VEC_REGISTER vf vf_fma(vf a, vf b, vf c) { return _mm256_fmadd_ps(a, b, c); }
VEC_REGISTER vd vd_set1(double x) { return _mm256_set1_pd(x); }
VEC_REGISTER vd vd_load(const double *p) { return _mm256_loadu_pd(p); }
VEC_REGISTER vd vd_first(const double *p, int n) { return _mm256_maskload_pd(p, _mm256_cvtepi32_epi64(first4_(n))); }
VEC_REGISTER vd vd_wide(const float *p) { return _mm256_cvtps_pd(_mm_loadu_ps(p)); }
VEC_REGISTER vd vd_wide_first(const float *p, int n) { return _mm256_cvtps_pd(_mm_maskload_ps(p, first4_(n))); }
VEC_REGISTER void vd_store(double *p, vd a) { _mm256_storeu_pd(p, a); }
VEC_REGISTER vd vd_fma(vd a, vd b, vd c) { return _mm256_fmadd_pd(a, b, c); }
VEC_REGISTER __m128 halves_(__m256 lo, __m256 hi)
{
	__m256 h = _mm256_add_ps(lo, hi);
	return _mm_add_ps(_mm256_castps256_ps128(h), _mm256_extractf128_ps(h, 1));
}
VEC_REGISTER __m128 quarter_f32(const float *p) { return halves_(_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)); }
VEC_REGISTER __m128d quarter_f64(const double *p)
{
	__m256d h = _mm256_add_pd(_mm256_loadu_pd(p), _mm256_loadu_pd(p + 4));
	return _mm_add_pd(_mm256_castpd256_pd128(h), _mm256_extractf128_pd(h, 1));
}

typedef struct {
	__m256 a, b;
} v16;
typedef struct {
	__m256i a, b;
} i16;
#define V2(f) \
	(v16) { f(x.a, y.a), f(x.b, y.b) }
VEC_INLINE v16 v_load(const float *p) { return (v16){ _mm256_loadu_ps(p), _mm256_loadu_ps(p + 8) }; }
VEC_INLINE void v_store(float *p, v16 x)
{
	_mm256_storeu_ps(p, x.a);
	_mm256_storeu_ps(p + 8, x.b);
}
VEC_INLINE v16 v_set1(float x) { return (v16){ _mm256_set1_ps(x), _mm256_set1_ps(x) }; }
VEC_INLINE v16 v_add(v16 x, v16 y) { return V2(_mm256_add_ps); }
VEC_INLINE v16 v_sub(v16 x, v16 y) { return V2(_mm256_sub_ps); }
VEC_INLINE v16 v_mul(v16 x, v16 y) { return V2(_mm256_mul_ps); }
VEC_INLINE v16 v_div(v16 x, v16 y) { return V2(_mm256_div_ps); }
VEC_INLINE v16 v_max(v16 x, v16 y) { return V2(_mm256_max_ps); }
VEC_INLINE v16 v_fma(v16 x, v16 y, v16 z)
{
	return (v16){ _mm256_fmadd_ps(x.a, y.a, z.a), _mm256_fmadd_ps(x.b, y.b, z.b) };
}
VEC_INLINE v16 v_lt(v16 a, v16 b, v16 x, v16 y)
{
	return (v16){ _mm256_blendv_ps(y.a, x.a, _mm256_cmp_ps(a.a, b.a, _CMP_LT_OQ)),
		      _mm256_blendv_ps(y.b, x.b, _mm256_cmp_ps(a.b, b.b, _CMP_LT_OQ)) };
}
VEC_INLINE v16 v_abs(v16 x)
{
	v16 y = v_set1(-0.0f);
	return (v16){ _mm256_andnot_ps(y.a, x.a), _mm256_andnot_ps(y.b, x.b) };
}
VEC_INLINE __m256 exp2i_8(__m256 n)
{
	return _mm256_castsi256_ps(
		_mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127)), 23));
}
VEC_INLINE v16 v_exp2i(v16 n) { return (v16){ exp2i_8(n.a), exp2i_8(n.b) }; }
VEC_INLINE i16 i_load(const uint8_t *p)
{
	return (i16){ _mm256_loadu_si256((const __m256i *)p), _mm256_loadu_si256((const __m256i *)(p + 32)) };
}
VEC_INLINE i16 i_zero(void) { return (i16){ _mm256_setzero_si256(), _mm256_setzero_si256() }; }
VEC_INLINE i16 i_shr(i16 x, unsigned n)
{
	return (i16){ _mm256_srli_epi32(x.a, (int)n), _mm256_srli_epi32(x.b, (int)n) };
}
VEC_INLINE __m256i step_8(__m256i c, __m256 x, __m256 b, __m256i s)
{
	return _mm256_or_si256(c, _mm256_and_si256(s, _mm256_castps_si256(_mm256_cmp_ps(x, b, _CMP_GT_OQ))));
}
VEC_INLINE i16 i_step(i16 c, v16 x, v16 b, unsigned step)
{
	__m256i s = _mm256_set1_epi32((int)step);
	return (i16){ step_8(c.a, x.a, b.a, s), step_8(c.b, x.b, b.b, s) };
}
VEC_INLINE i16 i_add1(i16 c, unsigned n)
{
	__m256i s = _mm256_set1_epi32((int)n);
	return (i16){ _mm256_add_epi32(c.a, s), _mm256_add_epi32(c.b, s) };
}
VEC_INLINE void i_store_u8(uint8_t *p, i16 c)
{
	uint32_t w[16];
	_mm256_storeu_si256((__m256i *)w, c.a);
	_mm256_storeu_si256((__m256i *)(w + 8), c.b);
	for (int l = 0; l < 16; l++)
		p[l] = (uint8_t)w[l];
}
VEC_INLINE __m256 lut16_8(const float *t, __m256i i)
{
	__m256 lo = _mm256_permutevar8x32_ps(_mm256_loadu_ps(t), i),
	       hi = _mm256_permutevar8x32_ps(_mm256_loadu_ps(t + 8), i);
	return _mm256_blendv_ps(lo, hi, _mm256_castsi256_ps(_mm256_slli_epi32(i, 28)));
}
VEC_INLINE __m256 gather_8(const float *t, __m256i i, int mask)
{
	return _mm256_i32gather_ps(t, _mm256_and_si256(i, _mm256_set1_epi32(mask)), 4);
}
VEC_INLINE v16 v_lut16(const float *t, i16 i) { return (v16){ lut16_8(t, i.a), lut16_8(t, i.b) }; }
VEC_INLINE v16 v_lut32(const float *t, i16 i) { return (v16){ gather_8(t, i.a, 31), gather_8(t, i.b, 31) }; }
VEC_INLINE v16 v_lut64(const float *t, i16 i) { return (v16){ gather_8(t, i.a, 63), gather_8(t, i.b, 63) }; }
VEC_INLINE v16 v_lut256(const float *t, i16 i) { return (v16){ gather_8(t, i.a, 255), gather_8(t, i.b, 255) }; }
VEC_INLINE v16 v_swap1(v16 x) { return (v16){ _mm256_permute_ps(x.a, 0xB1), _mm256_permute_ps(x.b, 0xB1) }; }
VEC_INLINE v16 v_swap2(v16 x) { return (v16){ _mm256_permute_ps(x.a, 0x4E), _mm256_permute_ps(x.b, 0x4E) }; }
VEC_INLINE v16 v_swap4(v16 x)
{
	return (v16){ _mm256_permute2f128_ps(x.a, x.a, 1), _mm256_permute2f128_ps(x.b, x.b, 1) };
}
VEC_INLINE v16 v_swap8(v16 x) { return (v16){ x.b, x.a }; }
VEC_INLINE float reduce1(v16 x)
{
	__m128 q = halves_(x.a, x.b);
	q = _mm_add_ps(q, _mm_movehl_ps(q, q));
	return _mm_cvtss_f32(_mm_add_ss(q, _mm_shuffle_ps(q, q, 1)));
}
VEC_INLINE v16 v_reduce16(const v16 *a)
{
	float r[16];
	for (int i = 0; i < 16; i++)
		r[i] = reduce1(a[i]);
	return v_load(r);
}
#undef V2

#elif defined(VEC_NEON)

#define VF_LANES 4
#define VD_LANES 2
typedef float32x4_t vf;
typedef float64x2_t vd;
VEC_REGISTER vf vf_zero(void) { return vdupq_n_f32(0); }
VEC_REGISTER vf vf_set1(float x) { return vdupq_n_f32(x); }
VEC_REGISTER vf vf_load(const float *p) { return vld1q_f32(p); }
VEC_REGISTER vf vf_first(const float *p, int n)
{
	float v[4] = { 0 };
	for (int i = 0; i < 4 && i < n; i++)
		v[i] = p[i];
	return vld1q_f32(v);
}
VEC_REGISTER void vf_store(float *p, vf a) { vst1q_f32(p, a); }
VEC_REGISTER vf vf_add(vf a, vf b) { return vaddq_f32(a, b); }
VEC_REGISTER vf vf_fma(vf a, vf b, vf c) { return vfmaq_f32(c, a, b); }
VEC_REGISTER vd vd_set1(double x) { return vdupq_n_f64(x); }
VEC_REGISTER vd vd_load(const double *p) { return vld1q_f64(p); }
VEC_REGISTER vd vd_first(const double *p, int n)
{
	double v[2] = { n > 0 ? p[0] : 0, n > 1 ? p[1] : 0 };
	return vld1q_f64(v);
}
VEC_REGISTER vd vd_wide(const float *p) { return vcvt_f64_f32(vld1_f32(p)); }
VEC_REGISTER vd vd_wide_first(const float *p, int n)
{
	double v[2] = { n > 0 ? (double)p[0] : 0, n > 1 ? (double)p[1] : 0 };
	return vld1q_f64(v);
}
VEC_REGISTER void vd_store(double *p, vd a) { vst1q_f64(p, a); }
VEC_REGISTER vd vd_fma(vd a, vd b, vd c) { return vfmaq_f64(c, a, b); }

typedef struct {
	float32x4_t v[4];
} v16;
typedef struct {
	uint32x4_t v[4];
} i16;
#define EACH(expr)                          \
	do {                                \
		for (int k = 0; k < 4; k++) \
			r.v[k] = (expr);    \
	} while (0)
VEC_INLINE v16 v_load(const float *p)
{
	v16 r;
	EACH(vld1q_f32(p + 4 * k));
	return r;
}
VEC_INLINE void v_store(float *p, v16 x)
{
	for (int k = 0; k < 4; k++)
		vst1q_f32(p + 4 * k, x.v[k]);
}
VEC_INLINE v16 v_set1(float x)
{
	v16 r;
	EACH(vdupq_n_f32(x));
	return r;
}
VEC_INLINE v16 v_add(v16 x, v16 y)
{
	v16 r;
	EACH(vaddq_f32(x.v[k], y.v[k]));
	return r;
}
VEC_INLINE v16 v_sub(v16 x, v16 y)
{
	v16 r;
	EACH(vsubq_f32(x.v[k], y.v[k]));
	return r;
}
VEC_INLINE v16 v_mul(v16 x, v16 y)
{
	v16 r;
	EACH(vmulq_f32(x.v[k], y.v[k]));
	return r;
}
VEC_INLINE v16 v_div(v16 x, v16 y)
{
	v16 r;
	EACH(vdivq_f32(x.v[k], y.v[k]));
	return r;
}
VEC_INLINE v16 v_fma(v16 x, v16 y, v16 z)
{
	v16 r;
	EACH(vfmaq_f32(z.v[k], x.v[k], y.v[k]));
	return r;
}
VEC_INLINE v16 v_max(v16 x, v16 y)
{
	v16 r;
	EACH(vbslq_f32(vcgtq_f32(x.v[k], y.v[k]), x.v[k], y.v[k]));
	return r;
}
VEC_INLINE v16 v_lt(v16 a, v16 b, v16 x, v16 y)
{
	v16 r;
	EACH(vbslq_f32(vcltq_f32(a.v[k], b.v[k]), x.v[k], y.v[k]));
	return r;
}
VEC_INLINE v16 v_abs(v16 x)
{
	v16 r;
	EACH(vabsq_f32(x.v[k]));
	return r;
}
VEC_INLINE v16 v_exp2i(v16 n)
{
	v16 r;
	EACH(vreinterpretq_f32_s32(vshlq_n_s32(vaddq_s32(vcvtnq_s32_f32(n.v[k]), vdupq_n_s32(127)), 23)));
	return r;
}
VEC_INLINE i16 i_load(const uint8_t *p)
{
	i16 r;
	EACH(vreinterpretq_u32_u8(vld1q_u8(p + 16 * k)));
	return r;
}
VEC_INLINE i16 i_zero(void)
{
	i16 r;
	EACH(vdupq_n_u32(0));
	return r;
}
VEC_INLINE i16 i_shr(i16 x, unsigned n)
{
	i16 r;
	EACH(vshlq_u32(x.v[k], vdupq_n_s32(-(int)n)));
	return r;
}
VEC_INLINE i16 i_step(i16 c, v16 x, v16 b, unsigned step)
{
	i16 r;
	EACH(vorrq_u32(c.v[k], vandq_u32(vcgtq_f32(x.v[k], b.v[k]), vdupq_n_u32(step))));
	return r;
}
VEC_INLINE i16 i_add1(i16 c, unsigned n)
{
	i16 r;
	EACH(vaddq_u32(c.v[k], vdupq_n_u32(n)));
	return r;
}
VEC_INLINE void i_store_u8(uint8_t *p, i16 c)
{
	uint32_t w[16];
	for (int k = 0; k < 4; k++)
		vst1q_u32(w + 4 * k, c.v[k]);
	for (int l = 0; l < 16; l++)
		p[l] = (uint8_t)w[l];
}
VEC_INLINE v16 lut_any(const float *t, i16 i, uint32_t mask)
{
	uint32_t w[16];
	float f[16];
	for (int k = 0; k < 4; k++)
		vst1q_u32(w + 4 * k, i.v[k]);
	for (int l = 0; l < 16; l++)
		f[l] = t[w[l] & mask];
	return v_load(f);
}
VEC_INLINE v16 v_lut16(const float *t, i16 i) { return lut_any(t, i, 15); }
VEC_INLINE v16 v_lut32(const float *t, i16 i) { return lut_any(t, i, 31); }
VEC_INLINE v16 v_lut64(const float *t, i16 i) { return lut_any(t, i, 63); }
VEC_INLINE v16 v_lut256(const float *t, i16 i) { return lut_any(t, i, 255); }
VEC_INLINE v16 v_swap1(v16 x)
{
	v16 r;
	EACH(vrev64q_f32(x.v[k]));
	return r;
}
VEC_INLINE v16 v_swap2(v16 x)
{
	v16 r;
	EACH(vextq_f32(x.v[k], x.v[k], 2));
	return r;
}
VEC_INLINE v16 v_swap4(v16 x)
{
	v16 r;
	EACH(x.v[k ^ 1]);
	return r;
}
VEC_INLINE v16 v_swap8(v16 x)
{
	v16 r;
	EACH(x.v[k ^ 2]);
	return r;
}
VEC_INLINE float reduce1(v16 x)
{
	float32x4_t q = vaddq_f32(vaddq_f32(x.v[0], x.v[2]), vaddq_f32(x.v[1], x.v[3]));
	float32x2_t h = vadd_f32(vget_low_f32(q), vget_high_f32(q));
	return vget_lane_f32(h, 0) + vget_lane_f32(h, 1);
}
VEC_INLINE v16 v_reduce16(const v16 *a)
{
	float r[16];
	for (int i = 0; i < 16; i++)
		r[i] = reduce1(a[i]);
	return v_load(r);
}
#undef EACH

#else /* VEC_SCALAR: plain C, the reference */

#define VF_LANES 1
typedef float vf;
VEC_REGISTER vf vf_zero(void) { return 0; }
VEC_REGISTER vf vf_set1(float x) { return x; }
VEC_REGISTER vf vf_load(const float *p) { return *p; }
VEC_REGISTER void vf_store(float *p, vf a) { *p = a; }
VEC_REGISTER vf vf_add(vf a, vf b) { return a + b; }
VEC_REGISTER vf vf_fma(vf a, vf b, vf c) { return fmaf(a, b, c); }

typedef struct {
	float f[16];
} v16;
typedef struct {
	uint32_t u[16];
} i16;
#define EACH(expr)                           \
	do {                                 \
		for (int l = 0; l < 16; l++) \
			r.f[l] = (expr);     \
	} while (0)
#define EACH_I(expr)                         \
	do {                                 \
		for (int l = 0; l < 16; l++) \
			r.u[l] = (expr);     \
	} while (0)
VEC_INLINE v16 v_load(const float *p)
{
	v16 r;
	memcpy(r.f, p, 64);
	return r;
}
VEC_INLINE void v_store(float *p, v16 a) { memcpy(p, a.f, 64); }
VEC_INLINE v16 v_set1(float a)
{
	v16 r;
	EACH(a);
	return r;
}
VEC_INLINE v16 v_add(v16 a, v16 b)
{
	v16 r;
	EACH(a.f[l] + b.f[l]);
	return r;
}
VEC_INLINE v16 v_sub(v16 a, v16 b)
{
	v16 r;
	EACH(a.f[l] - b.f[l]);
	return r;
}
VEC_INLINE v16 v_mul(v16 a, v16 b)
{
	v16 r;
	EACH(a.f[l] * b.f[l]);
	return r;
}
VEC_INLINE v16 v_div(v16 a, v16 b)
{
	v16 r;
	EACH(a.f[l] / b.f[l]);
	return r;
}
VEC_INLINE v16 v_fma(v16 a, v16 b, v16 c)
{
	v16 r;
	EACH(fmaf(a.f[l], b.f[l], c.f[l]));
	return r;
}
VEC_INLINE v16 v_max(v16 a, v16 b)
{
	v16 r;
	EACH(a.f[l] > b.f[l] ? a.f[l] : b.f[l]);
	return r;
}
VEC_INLINE v16 v_lt(v16 a, v16 b, v16 x, v16 y)
{
	v16 r;
	EACH(a.f[l] < b.f[l] ? x.f[l] : y.f[l]);
	return r;
}
VEC_INLINE v16 v_abs(v16 a)
{
	v16 r;
	EACH(fabsf(a.f[l]));
	return r;
}
VEC_INLINE v16 v_exp2i(v16 n)
{
	v16 r;
	for (int l = 0; l < 16; l++) {
		uint32_t u = (uint32_t)((int32_t)n.f[l] + 127) << 23;
		memcpy(&r.f[l], &u, 4);
	}
	return r;
}
VEC_INLINE i16 i_load(const uint8_t *p)
{
	i16 r;
	memcpy(r.u, p, 64);
	return r;
}
VEC_INLINE i16 i_zero(void)
{
	i16 r;
	EACH_I(0);
	return r;
}
VEC_INLINE i16 i_shr(i16 a, unsigned n)
{
	i16 r;
	EACH_I(a.u[l] >> n);
	return r;
}
VEC_INLINE i16 i_step(i16 c, v16 x, v16 b, unsigned step)
{
	i16 r;
	EACH_I(x.f[l] > b.f[l] ? c.u[l] | step : c.u[l]);
	return r;
}
VEC_INLINE i16 i_add1(i16 c, unsigned n)
{
	i16 r;
	EACH_I(c.u[l] + n);
	return r;
}
VEC_INLINE void i_store_u8(uint8_t *p, i16 a)
{
	for (int l = 0; l < 16; l++)
		p[l] = (uint8_t)a.u[l];
}
VEC_INLINE v16 v_lut16(const float *t, i16 i)
{
	v16 r;
	EACH(t[i.u[l] & 15]);
	return r;
}
VEC_INLINE v16 v_lut32(const float *t, i16 i)
{
	v16 r;
	EACH(t[i.u[l] & 31]);
	return r;
}
VEC_INLINE v16 v_lut64(const float *t, i16 i)
{
	v16 r;
	EACH(t[i.u[l] & 63]);
	return r;
}
VEC_INLINE v16 v_lut256(const float *t, i16 i)
{
	v16 r;
	EACH(t[i.u[l] & 255]);
	return r;
}
VEC_INLINE v16 v_swap1(v16 a)
{
	v16 r;
	EACH(a.f[l ^ 1]);
	return r;
}
VEC_INLINE v16 v_swap2(v16 a)
{
	v16 r;
	EACH(a.f[l ^ 2]);
	return r;
}
VEC_INLINE v16 v_swap4(v16 a)
{
	v16 r;
	EACH(a.f[l ^ 4]);
	return r;
}
VEC_INLINE v16 v_swap8(v16 a)
{
	v16 r;
	EACH(a.f[l ^ 8]);
	return r;
}
VEC_INLINE v16 v_reduce16(const v16 *a)
{
	v16 r;
	for (int i = 0; i < 16; i++) {
		v16 s = a[i];
		for (int h = 8; h > 0; h /= 2)
			for (int l = 0; l < h; l++)
				s.f[l] += s.f[l + h];
		r.f[i] = s.f[0];
	}
	return r;
}
#undef EACH
#undef EACH_I

#endif

#endif
