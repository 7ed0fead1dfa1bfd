/*
 * basis.h - the two orders of a head's features.
 *
 * Rotary embedding turns pairs of features. Some files keep a pair adjacent (2i, 2i + 1),
 * Stele's stages keep its members half a head apart (i, i + d/2).
 */
#ifndef ST_GRAPH_BASIS_H
#define ST_GRAPH_BASIS_H

#include <stele/status.h>

/* Far above any known model (512); configurations beyond it are refused. */
#define ST_MAX_HEAD_DIM 4096

/* x: heads * d features in adjacent-pair order -> half-split order, in place. d even, <= ST_MAX_HEAD_DIM. */
void st_basis_to_half(float *x, size_t heads, size_t d);

#endif
