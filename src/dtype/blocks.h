/*
 * blocks.h - how the block-quantised types lie in a file, written once.
 *
 * All fields are little endian and blocks follow each other without padding, at any address:
 * structs are packed (alignment 1), so a pointer into a map may be cast to one of them.
 * `st_half` fields are binary16 bit patterns (dtype/half.h turns them into numbers).
 * Layouts and meanings of the bits: docs/dtypes.md.
 */
#ifndef ST_DTYPE_BLOCKS_H
#define ST_DTYPE_BLOCKS_H

#include <assert.h>
#include <stdint.h>

typedef uint16_t st_half;

#define ST_PACKED __attribute__((packed))

#define ST_QK 32   /* elements of a legacy block, IQ4_NL, MXFP4 and AprQ4 */
#define ST_QKK 256 /* elements of a K-quant super-block and IQ4_XS */

/* ---- 32 elements; nibble i of the low halves is element i, of the high halves element 16 + i ---- */

struct ST_PACKED st_block_q4_0 {
	st_half d;
	uint8_t qs[16];
}; /* d (q - 8) */
struct ST_PACKED st_block_q4_1 {
	st_half d, m;
	uint8_t qs[16];
}; /* d q + m */
struct ST_PACKED st_block_q5_0 {
	st_half d;
	uint8_t qh[4], qs[16];
}; /* d (q - 16); bit i of qh tops element i */
struct ST_PACKED st_block_q5_1 {
	st_half d, m;
	uint8_t qh[4], qs[16];
}; /* d q + m */
struct ST_PACKED st_block_q8_0 {
	st_half d;
	int8_t qs[32];
}; /* d q */
struct ST_PACKED st_block_q8_1 {
	st_half d, s;
	int8_t qs[32];
}; /* d q; s = d * sum(q), for products */
struct ST_PACKED st_block_iq4_nl {
	st_half d;
	uint8_t qs[16];
}; /* d * st_iq4_values[q] */
struct ST_PACKED st_block_mxfp4 {
	uint8_t e;
	uint8_t qs[16];
}; /* 2^(e-128) * st_mxfp4_values[q] */
struct ST_PACKED st_block_apr_q4 {
	st_half d;
	uint8_t qs[16];
}; /* d (q - 8); element i in byte i/2, low nibble even */

/* ---- 256 elements in sub-blocks of 16 (Q2, Q3, Q6) or 32 (Q4, Q5) with integer scales ---- */

struct ST_PACKED st_block_q2_k {
	uint8_t scales[16], qs[64];
	st_half d, dmin;
};
struct ST_PACKED st_block_q3_k {
	uint8_t hmask[32], qs[64], scales[12];
	st_half d;
};
struct ST_PACKED st_block_q4_k {
	st_half d, dmin;
	uint8_t scales[12], qs[128];
};
struct ST_PACKED st_block_q5_k {
	st_half d, dmin;
	uint8_t scales[12], qh[32], qs[128];
};
struct ST_PACKED st_block_q6_k {
	uint8_t ql[128], qh[64];
	int8_t scales[16];
	st_half d;
};
struct ST_PACKED st_block_q8_k {
	float d;
	int8_t qs[256];
	int16_t bsums[16];
}; /* d q; bsums: sums of 16 q */
struct ST_PACKED st_block_iq4_xs {
	st_half d;
	uint16_t scales_h;
	uint8_t scales_l[4], qs[128];
};

/* ---- vectors out of a table (iq.h), ternary digits, FP4 under small floats ---- */

struct ST_PACKED st_block_iq2_xxs {
	st_half d;
	uint8_t qs[64]; /* 8 x: 4 indices, then 4 x 7 signs and a scale of 4 bits in 32 bits */
};
struct ST_PACKED st_block_iq2_xs {
	st_half d;
	uint16_t qs[32]; /* index of 9 bits, 7 signs */
	uint8_t scales[8];
};
struct ST_PACKED st_block_iq2_s {
	st_half d;
	uint8_t qs[32], signs[32], qh[8], scales[8];
};
struct ST_PACKED st_block_iq3_xxs {
	st_half d;
	uint8_t qs[64], signs[32]; /* signs: 8 x 4 x 7 of them and a scale of 4 bits */
};
struct ST_PACKED st_block_iq3_s {
	st_half d;
	uint8_t qs[64], qh[8], signs[32], scales[4];
};
struct ST_PACKED st_block_iq1_s {
	st_half d;
	uint8_t qs[32];
	uint16_t qh[8];
};
struct ST_PACKED st_block_iq1_m {
	uint8_t qs[32], qh[16];
	uint16_t scales[4]; /* and the f16 factor, four bits in each */
};
struct ST_PACKED st_block_tq1_0 {
	uint8_t qs[52];
	st_half d;
};
struct ST_PACKED st_block_tq2_0 {
	uint8_t qs[64];
	st_half d;
};
struct ST_PACKED st_block_nvfp4 {
	uint8_t d[4]; /* unsigned E4M3, of 16 elements each */
	uint8_t qs[32];
}; /* d / 2 * st_mxfp4_values[q] */

static_assert(sizeof(struct st_block_iq2_xxs) == 66, "IQ2_XXS");
static_assert(sizeof(struct st_block_iq2_xs) == 74, "IQ2_XS");
static_assert(sizeof(struct st_block_iq2_s) == 82, "IQ2_S");
static_assert(sizeof(struct st_block_iq3_xxs) == 98, "IQ3_XXS");
static_assert(sizeof(struct st_block_iq3_s) == 110, "IQ3_S");
static_assert(sizeof(struct st_block_iq1_s) == 50, "IQ1_S");
static_assert(sizeof(struct st_block_iq1_m) == 56, "IQ1_M");
static_assert(sizeof(struct st_block_tq1_0) == 54, "TQ1_0");
static_assert(sizeof(struct st_block_tq2_0) == 66, "TQ2_0");
static_assert(sizeof(struct st_block_nvfp4) == 36, "NVFP4");
static_assert(sizeof(struct st_block_q4_0) == 18, "Q4_0");
static_assert(sizeof(struct st_block_q4_1) == 20, "Q4_1");
static_assert(sizeof(struct st_block_q5_0) == 22, "Q5_0");
static_assert(sizeof(struct st_block_q5_1) == 24, "Q5_1");
static_assert(sizeof(struct st_block_q8_0) == 34, "Q8_0");
static_assert(sizeof(struct st_block_q8_1) == 36, "Q8_1");
static_assert(sizeof(struct st_block_iq4_nl) == 18, "IQ4_NL");
static_assert(sizeof(struct st_block_mxfp4) == 17, "MXFP4");
static_assert(sizeof(struct st_block_apr_q4) == 18, "APR_Q4");
static_assert(sizeof(struct st_block_q2_k) == 84, "Q2_K");
static_assert(sizeof(struct st_block_q3_k) == 110, "Q3_K");
static_assert(sizeof(struct st_block_q4_k) == 144, "Q4_K");
static_assert(sizeof(struct st_block_q5_k) == 176, "Q5_K");
static_assert(sizeof(struct st_block_q6_k) == 210, "Q6_K");
static_assert(sizeof(struct st_block_q8_k) == 292, "Q8_K");
static_assert(sizeof(struct st_block_iq4_xs) == 136, "IQ4_XS");

/* The 16 levels of IQ4_NL and IQ4_XS. */
static const int8_t st_iq4_values[16] = {
	-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113,
};

/* The 16 values of E2M1 (OCP Microscaling), doubled so that they are integers. The code of
 * minus zero decodes to plus zero. */
static const int8_t st_mxfp4_values[16] = {
	0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12,
};

/* Scale and minimum of sub-block j (0..7) of Q4_K and Q5_K: 6 bits each, packed in 12 bytes. The first four
 * pairs lie in the low 6 bits of bytes 0..7; the other four take nibbles of bytes 8..11 and the top 2 bits of 0..7. */
static inline void st_k4_scale_min(const uint8_t s[12], unsigned j, unsigned *scale, unsigned *min)
{
	if (j < 4) {
		*scale = s[j] & 63u;
		*min = s[j + 4] & 63u;
	} else {
		*scale = (s[j + 4] & 15u) | (unsigned)(s[j - 4] >> 6) << 4;
		*min = (unsigned)(s[j + 4] >> 4) | (unsigned)(s[j] >> 6) << 4;
	}
}

/* Scale of sub-block j (0..15) of Q3_K: 6 bits, biased by 32; nibbles in bytes 0..7, top pairs in 8..11. */
static inline int st_q3k_scale(const uint8_t s[12], unsigned j)
{
	unsigned low = j < 8 ? s[j] & 15u : (unsigned)(s[j - 8] >> 4);
	unsigned high = (unsigned)(s[8 + j % 4] >> (2 * (j / 4))) & 3u;
	return (int)(low | high << 4) - 32;
}

/* Scale of sub-block j (0..7) of IQ4_XS: 6 bits, biased by 32. */
static inline int st_iq4xs_scale(const struct st_block_iq4_xs *b, unsigned j)
{
	unsigned low = (unsigned)(b->scales_l[j / 2] >> (4 * (j % 2))) & 15u;
	return (int)(low | (((unsigned)b->scales_h >> (2 * j)) & 3u) << 4) - 32;
}

#endif
