/*
 * x86_sums.h - the ends of the reduction trees, the same for both x86 vector levels. Before them
 * come quarter_f32() and quarter_f64() of vec.h.
 */

ST_TARGET static void sum_f32(const float *acc, size_t n, float *y)
{
	size_t i = 0;
	for (; i + 4 <= n; i += 4, acc += 4 * ST_LANES_F32) {
		__m128 a = quarter_f32(acc), b = quarter_f32(acc + ST_LANES_F32);
		__m128 c = quarter_f32(acc + 2 * ST_LANES_F32), d = quarter_f32(acc + 3 * ST_LANES_F32);
		_MM_TRANSPOSE4_PS(a, b, c, d); /* a: lane 0 of each sum, ... */
		_mm_storeu_ps(y + i, _mm_add_ps(_mm_add_ps(a, c), _mm_add_ps(b, d)));
	}
	for (; i < n; i++, acc += ST_LANES_F32) {
		__m128 a = quarter_f32(acc);
		a = _mm_add_ps(a, _mm_movehl_ps(a, a));
		y[i] = _mm_cvtss_f32(_mm_add_ss(a, _mm_shuffle_ps(a, a, 1)));
	}
}

ST_TARGET static void sum_f64(const double *acc, size_t n, double *y)
{
	for (size_t i = 0; i < n; i++, acc += ST_LANES_F64) {
		__m128d a = quarter_f64(acc);
		y[i] = _mm_cvtsd_f64(_mm_add_sd(a, _mm_unpackhi_pd(a, a)));
	}
}
