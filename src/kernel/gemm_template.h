/*
 * gemm_template.h - the register tile of a product of two f32 matrices (kernel.h, st_gemm_level): a column of a and a
 * row of b at a time. The includer defines GEMM_ROWS and GEMM_VECTORS, which fill the level's registers.
 */
ST_TARGET static void gemm_tile(size_t kc, const float *a, const float *b, float *c, size_t ldc, bool adding)
{
	vf s[GEMM_ROWS][GEMM_VECTORS];
	UNROLL for (int i = 0; i < GEMM_ROWS; i++) UNROLL for (int j = 0; j < GEMM_VECTORS; j++) s[i][j] = vf_zero();
	for (size_t k = 0; k < kc; k++, a += GEMM_ROWS, b += GEMM_VECTORS * VF_LANES) {
		vf row[GEMM_VECTORS];
		UNROLL for (int j = 0; j < GEMM_VECTORS; j++) row[j] = vf_load(b + j * VF_LANES);
		UNROLL for (int i = 0; i < GEMM_ROWS; i++)
		{
			vf x = vf_set1(a[i]);
			UNROLL for (int j = 0; j < GEMM_VECTORS; j++) s[i][j] = vf_fma(x, row[j], s[i][j]);
		}
	}
	UNROLL for (int i = 0; i < GEMM_ROWS; i++) UNROLL for (int j = 0; j < GEMM_VECTORS; j++)
	{
		float *y = c + (size_t)i * ldc + j * VF_LANES;
		vf_store(y, adding ? vf_add(vf_load(y), s[i][j]) : s[i][j]);
	}
}

#define ST_GEMM_TABLE .gemm = { GEMM_ROWS, GEMM_VECTORS * VF_LANES, gemm_tile }
