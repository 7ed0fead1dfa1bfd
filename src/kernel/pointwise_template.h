/*
 * pointwise_template.h - everything that works on one row of numbers, written in plain C once and
 * compiled for each level by including it there; the includer defines ST_TARGET, the function
 * attributes of the level. Each element has its own fixed sequence of operations, so
 * the compiler may vectorise as it likes.
 */
#include "dtype/half.h"
#include "kernel/elementary.h"
#include "kernel/kernels.h"

/* In and out may be the same row, but never overlap otherwise. */
#ifdef __clang__
#define EACH _Pragma("clang loop vectorize(assume_safety)") for
#else
#define EACH _Pragma("GCC ivdep") for
#endif
#define PIECE 128 /* numbers whose intermediate values lie on the stack */

ST_TARGET static void scale_row(const float *x, double r, const float *w, size_t n, float *y)
{
	if (w) {
		EACH(size_t i = 0; i < n; i++)
		y[i] = st_canonical((float)((double)x[i] * r * (double)w[i]));
	} else {
		EACH(size_t i = 0; i < n; i++)
		y[i] = st_canonical((float)((double)x[i] * r));
	}
}

ST_TARGET static void centre_row(const float *x, double mean, double r, const float *w, const float *b, size_t n,
                                 float *y)
{
	EACH(size_t i = 0; i < n; i++)
	{
		double d = ((double)x[i] - mean) * r * (w ? (double)w[i] : 1.0);
		y[i] = st_canonical((float)(b ? d + (double)b[i] : d));
	}
}

ST_TARGET static void finish_scores_f64(const double *x, double scale, double softcap, size_t n, float *y)
{
	if (softcap == 0) {
		EACH(size_t i = 0; i < n; i++)
		y[i] = st_canonical((float)(scale * x[i]));
	} else {
		EACH(size_t i = 0; i < n; i++)
		y[i] = st_canonical((float)(softcap * st_tanh_inline(scale * x[i] / softcap)));
	}
}

ST_TARGET static void finish_scores_f32(const float *x, double scale, double softcap, size_t n, float *y)
{
	double wide[PIECE];
	for (size_t at = 0; at < n; at += PIECE) {
		size_t m = n - at < PIECE ? n - at : PIECE;
		for (size_t i = 0; i < m; i++)
			wide[i] = (double)x[at + i];
		finish_scores_f64(wide, scale, softcap, m, y + at);
	}
}

/* e[i] = exp(x[i] - max) for one piece */
ST_INLINE ST_TARGET void exp_piece(const float *x, float max, size_t n, double *e)
{
	EACH(size_t i = 0; i < n; i++)
	e[i] = st_exp_inline((double)x[i] - (double)max);
}

/* exp is computed twice rather than stored: y has no room for the digits of f64. */
ST_TARGET static void softmax(const float *x, size_t n, float *y)
{
	float top[ST_LANES_F32];
	for (int l = 0; l < ST_LANES_F32; l++)
		top[l] = -INFINITY;
	size_t k = 0;
	for (; k + ST_LANES_F32 <= n; k += ST_LANES_F32)
		for (size_t l = 0; l < ST_LANES_F32; l++)
			top[l] = x[k + l] > top[l] ? x[k + l] : top[l];
	float max = -INFINITY;
	for (; k < n; k++)
		max = x[k] > max ? x[k] : max;
	for (int l = 0; l < ST_LANES_F32; l++)
		max = top[l] > max ? top[l] : max;

	double e[PIECE], lanes[ST_LANES_F64] = { 0 };
	for (size_t at = 0; at < n; at += PIECE) {
		size_t m = n - at < PIECE ? n - at : PIECE;
		exp_piece(x + at, max, m, e);
		for (size_t i = m; i % ST_LANES_F64; i++)
			e[i] = 0;
		for (size_t i = 0; i < m; i += ST_LANES_F64)
			for (size_t l = 0; l < ST_LANES_F64; l++)
				lanes[l] += e[i + l];
	}
	for (int h = ST_LANES_F64 / 2; h > 0; h /= 2)
		for (int l = 0; l < h; l++)
			lanes[l] += lanes[l + h];
	double sum = lanes[0];
	for (size_t at = 0; at < n; at += PIECE) {
		size_t m = n - at < PIECE ? n - at : PIECE;
		exp_piece(x + at, max, m, e);
		for (size_t i = 0; i < m; i++)
			y[at + i] = st_canonical((float)(e[i] / sum));
	}
}

#define ACTIVATION(name)                                                      \
	ST_TARGET static void name(const float *x, size_t n, float *y)        \
	{                                                                     \
		EACH(size_t i = 0; i < n; i++)                                \
		y[i] = st_canonical((float)st_##name##_inline((double)x[i])); \
	}
ACTIVATION(silu)
ACTIVATION(gelu_tanh)
ACTIVATION(gelu)
ACTIVATION(relu)
ACTIVATION(relu_squared)
ACTIVATION(sigmoid)
ACTIVATION(gelu_quick)
#undef ACTIVATION

ST_TARGET static void tanh_(const float *x, size_t n, float *y) /* the C library has the names without _ */
{
	EACH(size_t i = 0; i < n; i++)
	y[i] = st_canonical((float)st_tanh_inline((double)x[i]));
}

ST_TARGET static void exp_(const float *x, size_t n, float *y)
{
	EACH(size_t i = 0; i < n; i++)
	y[i] = st_canonical((float)st_exp_inline((double)x[i]));
}

ST_TARGET static void add(const float *a, const float *b, size_t n, float *y)
{
	EACH(size_t i = 0; i < n; i++)
	y[i] = st_canonical(a[i] + b[i]);
}

ST_TARGET static void mul(const float *a, const float *b, size_t n, float *y)
{
	EACH(size_t i = 0; i < n; i++)
	y[i] = st_canonical(a[i] * b[i]);
}

ST_TARGET static void widen(const float *x, size_t n, double *y)
{
	for (size_t i = 0; i < n; i++)
		y[i] = (double)x[i];
}

ST_TARGET static void round_f16(const float *x, size_t n, float *y)
{
	EACH(size_t i = 0; i < n; i++)
	y[i] = st_f16_to_f32(st_f32_to_f16(x[i]));
}

ST_TARGET static void round_bf16(const float *x, size_t n, float *y)
{
	EACH(size_t i = 0; i < n; i++)
	y[i] = st_bf16_to_f32(st_f32_to_bf16(x[i]));
}

ST_TARGET static void sincos_row(const double *x, size_t n, double *s, double *c)
{
	EACH(size_t i = 0; i < n; i++)
	st_sincos_inline(x[i], &s[i], &c[i]);
}

ST_TARGET static void rotate(const float *a, const float *b, const double *c, const double *s, size_t n, float *ya,
                             float *yb)
{
	EACH(size_t i = 0; i < n; i++)
	{
		double u = (double)a[i], v = (double)b[i];
		ya[i] = st_canonical((float)(u * c[i] - v * s[i]));
		yb[i] = st_canonical((float)(v * c[i] + u * s[i]));
	}
}

/* Butterflies of span h = 1, 2, 4, ...: (a, b) -> (a + b, a - b), each rounded to f32. */
ST_TARGET static void fwht(float *x, size_t n)
{
	for (size_t h = 1; h < n; h *= 2)
		for (size_t i = 0; i < n; i += 2 * h)
			EACH(size_t j = i; j < i + h; j++)
			{
				float a = x[j], b = x[j + h];
				x[j] = a + b;
				x[j + h] = a - b;
			}
	double r = 1.0 / sqrt((double)n);
	for (size_t i = 0; i < n; i++)
		x[i] = st_canonical((float)((double)x[i] * r));
}

#define ST_POINTWISE_TABLE                                                                        \
	.scale_row = scale_row, .centre_row = centre_row, .finish_scores_f32 = finish_scores_f32, \
	.finish_scores_f64 = finish_scores_f64, .softmax = softmax,                               \
	.activate = { [ST_ACT_SILU] = silu,                                                       \
		      [ST_ACT_GELU_TANH] = gelu_tanh,                                             \
		      [ST_ACT_GELU] = gelu,                                                       \
		      [ST_ACT_RELU] = relu,                                                       \
		      [ST_ACT_RELU_SQUARED] = relu_squared,                                       \
		      [ST_ACT_SIGMOID] = sigmoid,                                                 \
		      [ST_ACT_GELU_QUICK] = gelu_quick,                                           \
		      [ST_ACT_TANH] = tanh_,                                                      \
		      [ST_ACT_EXP] = exp_ },                                                      \
	.add = add, .mul = mul, .widen = widen, .round_f16 = round_f16, .round_bf16 = round_bf16, \
	.sincos = sincos_row, .rotate = rotate, .fwht = fwht
