/*
 * geometry.h - where the parts of a block lie, and what a stored number stands for.
 *
 * A block of a quantised type holds codes and the factors that turn them into numbers. A super-block of 256 elements
 * also holds a small integer scale, and for some types a small integer minimum, for each of its sub-blocks:
 *
 *	number = d * level(code)                              Q4_0, Q5_0, Q8_0, IQ4_NL, MXFP4, AprQ4 ...
 *	number = d * level(code) + m                          Q4_1, Q5_1
 *	number = (d * scale) * level(code)                    Q3_K, Q6_K, IQ4_XS
 *	number = (d * scale) * level(code) - (m * min)        Q2_K, Q4_K, Q5_K
 *
 * Each row of the table of types has a descriptor that says where these parts lie. Whoever takes blocks apart, edits
 * them, or reads them under another assumption does it through the descriptor: a hypothesis about a layout is a copy of
 * the descriptor with one field changed.
 */
#ifndef ST_DTYPE_GEOMETRY_H
#define ST_DTYPE_GEOMETRY_H

#include <stele/dtype.h>

#define ST_BLOCK_MOST 256 /* elements of the largest block */
#define ST_BLOCK_BYTES_MOST 292
#define ST_SUBS_MOST 16 /* sub-blocks of the largest block */

/*
 * Where the bits of a list of small numbers lie. Number i belongs to group g = i / group and is number e = i % group in
 * it. Its bits are in byte at + g * advance + e % bytes, from bit shift + g * shift_advance + bits * (e / bytes) on.
 * So the first `bytes` numbers of a group take the lowest bits of as many bytes, the next ones the bits above them.
 */
struct st_bits {
	uint16_t at;  /* byte of the block */
	uint8_t bits; /* per number; 0: the block has no such list */
	uint16_t group, bytes, advance;
	uint8_t shift, shift_advance;
};

/* How a factor of a block is stored. */
enum st_factor {
	ST_FACTOR_NONE, /* not in the block: AprQ8 has one for the tensor, plain types have none */
	ST_FACTOR_F16,
	ST_FACTOR_F32,
	ST_FACTOR_E8M0, /* a power of two, 8 bits of exponent; d is half of it, since the levels are doubled */
};

/* The levels of a code that are not evenly spaced; level[code] is what d is multiplied by. */
struct st_levels {
	int8_t level[16];
	uint8_t below[16], above[16]; /* distance to the next lower and higher level; 0: there is none */
};

struct st_geometry {
	/* Plain floats: bits of the fraction behind the leading one, exponent of the smallest normal number. A number x
	 * has the unit 2^(max(exponent of x, least_exponent) - fraction). 0 and 0 for all other types. */
	uint8_t fraction;
	int16_t least_exponent;

	/* Blocks. `sub` is 0 for plain types, which have no codes. */
	uint16_t sub;  /* elements that share one step */
	uint8_t n_sub; /* such sub-blocks in a block */
	enum st_factor factor;
	int16_t d_at, m_at;             /* bytes of the two factors in the block; -1: there is none */
	struct st_bits code, code_high; /* of each element; the high bits are put on top of the others */
	bool code_signed;               /* two's complement: the level itself. Else level = code - bias */
	int16_t bias, lowest, highest;  /* lowest and highest code that encoders use */
	const struct st_levels *levels; /* NULL: level = code - bias */
	struct st_bits scale, scale_high, min, min_high; /* of each sub-block of a super-block */
	bool scale_signed;
	int16_t scale_bias;
	int16_t scale_top; /* largest positive scale; 1 for blocks without sub-blocks */
};

/* The row's descriptor; t < ST_DTYPE_COUNT. */
const struct st_geometry *st_dtype_geometry(enum st_dtype t);

/*
 * Encode n elements, whole blocks of a type that has an encoder. importance: one number, not negative, for each
 * element, by which its squared error counts, or NULL. F32, F16, BF16, Q8_0 and APR's types take no notice of it.
 */
void st_dtype_encode(enum st_dtype t, const float *src, const float *importance, void *dst, size_t n);
/* Does the type take notice? */
bool st_dtype_weighted(enum st_dtype t);

/* A block taken apart. */
struct st_block_parts {
	float d, m;                  /* 0 where there is none */
	int16_t scale[ST_SUBS_MOST]; /* what d is multiplied by: the bias is taken off; 1 where there is none */
	int16_t min[ST_SUBS_MOST];   /* what m is multiplied by; 0 where there is none */
	int16_t code[ST_BLOCK_MOST]; /* as stored, sign extended; in the order of the elements */
};

/* Only for types of blocks (g->sub != 0). */
void st_block_unpack(const struct st_geometry *g, const uint8_t *block, struct st_block_parts *p);
/* Write the parts back. What the descriptor does not name (the sums of Q8_1 and Q8_K) stays as it is. */
void st_block_pack(const struct st_geometry *g, const struct st_block_parts *p, uint8_t *block);
/* The numbers: the same bits as the type's decoder gives. dst: n_sub * sub floats. */
void st_block_numbers(const struct st_geometry *g, const struct st_block_parts *p, float *dst);
/* What the code of an element multiplies d by. */
int st_block_level(const struct st_geometry *g, int code);
/* Largest |level|. */
int st_geometry_largest_level(const struct st_geometry *g);
/* Largest magnitude that the type holds. INFINITY for the types that hold every finite f32, and for integers. */
double st_dtype_largest(enum st_dtype t);

/* Orders of the 4-bit codes in the bytes of a block, beside the type's own. */
enum st_code_order {
	ST_CODES_OWN,
	ST_CODES_EXCHANGED,  /* the two codes of each byte are exchanged */
	ST_CODES_FROM_PAIRS, /* element i was written to nibble i % 2 of byte i / 2 */
	ST_CODES_TO_PAIRS,   /* the reverse: the codes were read in pairs out of a block in the type's own order */
};

/* Whether the type has codes of 4 bits (with or without high bits elsewhere). */
bool st_dtype_has_nibbles(enum st_dtype t);
/* Put the codes of a block, which lie in `order`, into the type's own order. has_nibbles(t) only. */
void st_block_reorder(enum st_dtype t, uint8_t *block, enum st_code_order order);

/*
 * What each number of a row stands for. Arrays of as many elements as the row has columns.
 *
 * value:    as decoded.
 * below,
 * above:    the distance to the value of the next lower and the next higher code of the same block. A number that was
 *           rounded to the nearest code lies within half of it. INFINITY where there is no such code, since encoders
 *           clip there. 0 for integers, whose numbers are exact. In a (sub-)block whose step is zero all codes give
 *           one value: both are 0, or INFINITY where nothing bounds what that step was.
 * rounding: how far the rounding of the block's factors may have moved the ends of that half step: half a unit of each
 *           stored factor times what it multiplies there. Encoders that choose codes before they round the factors do
 *           that. Where a step was rounded to zero it holds all that the number could have been.
 */
struct st_elements {
	float *value, *below, *above, *rounding;
};
void st_tensor_elements(const struct st_tensor *t, uint64_t row, const struct st_elements *e);

#endif
