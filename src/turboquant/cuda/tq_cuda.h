/*
 * tq_cuda.h - encode, transform and attention on an NVIDIA GPU, for d = 256 and 512 at 4 bits.
 *
 * Same results as the CPU levels within f32 rounding: sums run in another order. Buffers are host
 * memory; every call copies in, runs and copies out, because this exists to be compared, not served.
 */
#ifndef ST_TURBOQUANT_CUDA_TQ_CUDA_H
#define ST_TURBOQUANT_CUDA_TQ_CUDA_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Parameters of one step; the meaning of struct st_tq_params, in plain types that C and CUDA share. */
struct st_tq_cuda_step {
	uint32_t num_heads, num_kv_heads, head_dim, kv_seq_len, kv_capacity, ring_start;
	uint32_t window;      /* 0: all rows */
	float scale, softcap; /* softcap 0: none */
	float factor;         /* what a centroid times a norm is worth */
	float levels[16];
	const uint8_t *k_codes, *v_codes; /* [G, P, d/2] */
	const float *k_norms, *v_norms;   /* [G, P, d/256] */
};

/* NULL when a GPU can be used; else why not. */
const char *st_tq_cuda_unavailable(void);
/* Each returns NULL, or what the runtime said. */
/* x: [n, d] in place, orthonormal, after multiplying coordinate j by sign[j]. */
const char *st_tq_cuda_fwht(float *x, size_t n, uint32_t d, const float *sign);
/* x: [n, d] -> codes [n, d/2], norms [n, d/256]; sign: [d], bounds: 15 boundaries. */
const char *st_tq_cuda_encode(const float *x, size_t n, uint32_t d, const float *sign, const float *bounds,
                              uint8_t *codes, float *norms);
/* q, out: [H, d] in the rotated basis. */
const char *st_tq_cuda_attention(const struct st_tq_cuda_step *s, const float *q, float *out);

#ifdef __cplusplus
}
#endif

#endif
