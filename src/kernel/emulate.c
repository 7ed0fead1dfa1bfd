/* emulate.c - activations on their way into a product: widened, or as other engines store them (rounded to f16
 * or bf16, or in 8-bit blocks). */
#include "dtype/blocks.h"
#include "kernel/kernels.h"

#include <assert.h>
#include <string.h>

static bool all_finite(const float *x, size_t n)
{
	for (size_t i = 0; i < n; i++)
		if (!isfinite(x[i]))
			return false;
	return true;
}

/* There and back through Q8_0. A block that is not finite has no code; it stays as it is. */
static void round_q8_0(const float *x, size_t n, float *y)
{
	const struct st_dtype_info *info = st_dtype_info(ST_DTYPE_Q8_0);
	for (size_t i = 0; i < n; i += ST_QK) {
		struct st_block_q8_0 block;
		if (all_finite(x + i, ST_QK)) {
			info->encode(x + i, &block, ST_QK);
			info->decode(&block, y + i, ST_QK);
		} else {
			memcpy(y + i, x + i, ST_QK * sizeof *y);
		}
	}
}

/*
 * Through Q8_K, which engines form only in memory: with m the value of largest magnitude (the first of
 * equals), s = -127 / m, codes x s to nearest even and at most 127, and factor 1 / s kept in f32. Where m is so small
 * that s is beyond f32 (below 3.7e-37), the block is zeros.
 */
static void round_q8_k(const float *x, size_t n, float *y)
{
	for (size_t i = 0; i < n; i += ST_QKK) {
		const float *b = x + i;
		float m = 0;
		for (size_t j = 0; j < ST_QKK; j++)
			if (fabsf(b[j]) > fabsf(m))
				m = b[j];
		if (!all_finite(b, ST_QKK)) {
			memcpy(y + i, b, ST_QKK * sizeof *y);
			continue;
		}
		float s = -127.0f / m, d = 1.0f / s; /* m = 0 gives an infinite s too */
		if (isinf(s)) {
			memset(y + i, 0, ST_QKK * sizeof *y);
			continue;
		}
		for (size_t j = 0; j < ST_QKK; j++) {
			float q = b[j] * s + 0x1.8p23f - 0x1.8p23f; /* to an integer: |b s| < 2^22 */
			y[i + j] = d * (q > 127 ? 127 : q);
		}
	}
}

void st_round_row(const struct st_exec *e, const float *x, size_t n, float *y)
{
	assert(st_mode_rounds_both(e->mode));
	if (e->mode == ST_MODE_EMULATE_F16)
		e->k->round_f16(x, n, y);
	else
		e->k->round_bf16(x, n, y);
}

void st_prepare_row(const struct st_exec *e, const float *x, size_t n, void *y)
{
	switch (e->mode) {
	case ST_MODE_EXACT:
		e->k->widen(x, n, y);
		return;
	case ST_MODE_EMULATE_F16:
	case ST_MODE_EMULATE_BF16:
		st_round_row(e, x, n, y);
		return;
	case ST_MODE_EMULATE_Q8_K:
		if (n % ST_QKK == 0) {
			round_q8_k(x, n, y);
			return;
		}
		/* fall through */
	case ST_MODE_EMULATE_Q8_0:
		if (n % ST_QK == 0) {
			round_q8_0(x, n, y);
			return;
		}
		/* fall through */
	case ST_MODE_FAST:
		memcpy(y, x, n * sizeof *x);
		return;
	case ST_MODE_COUNT:
		break;
	}
	assert(!"mode");
}
