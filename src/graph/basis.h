/*
 * basis.h - the two orders of a head's features.
 *
 * Rotary embedding turns pairs of features. Some files keep a pair adjacent (2i, 2i + 1),
 * Stele's stages keep its members half a head apart (i, i + d/2).
 */
#ifndef ST_GRAPH_BASIS_H
#define ST_GRAPH_BASIS_H

#include <stele/model.h>

/* Far above any known model (512); configurations beyond it are refused. */
#define ST_MAX_HEAD_DIM 4096

/* Where row r of the split-half order lies in that of adjacent pairs, and the reverse. d: rows of a head, even. */
static inline uint64_t st_row_in_pairs(uint64_t r, uint64_t d)
{
	uint64_t i = r % d;
	return r - i + (i < d / 2 ? 2 * i : 2 * (i - d / 2) + 1);
}
static inline uint64_t st_row_in_halves(uint64_t r, uint64_t d)
{
	uint64_t i = r % d;
	return r - i + (i % 2 ? d / 2 + i / 2 : i / 2);
}

/* x: heads * d features, of which the first n of each head are in adjacent-pair order -> half-split order, in place. n
 * even, <= d <= ST_MAX_HEAD_DIM. */
void st_basis_to_half(float *x, size_t heads, size_t d, size_t n);
/* The reverse. */
void st_basis_to_pairs(float *x, size_t heads, size_t d, size_t n);

/* A vector of which the weight has some elements lies in pieces: how many, and piece i as a tensor of one row; the pieces
 * one behind the other are the vector as it is stored. */
uint64_t st_weight_pieces(const struct st_weight *w);
struct st_tensor st_weight_piece(const struct st_weight *w, uint64_t i);
/* The n features of a vector's weight from the order of adjacent pairs. */
void st_weight_vector_to_half(const struct st_weight *w, float *x, uint64_t n);

#endif
