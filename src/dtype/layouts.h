/*
 * layouts.h - the descriptors that the table of types points at, for the encoders, which the table also points at.
 */
#ifndef ST_DTYPE_LAYOUTS_H
#define ST_DTYPE_LAYOUTS_H

#include "dtype/geometry.h"

extern const struct st_geometry st_layout_none, st_layout_f32, st_layout_f16, st_layout_bf16, st_layout_f64,
	st_layout_f8_e4m3, st_layout_f8_e5m2, st_layout_q4_0, st_layout_q4_1, st_layout_q5_0, st_layout_q5_1,
	st_layout_q8_0, st_layout_q8_1, st_layout_iq4_nl, st_layout_mxfp4, st_layout_apr_q4, st_layout_tq2_0,
	st_layout_q2_k, st_layout_q3_k, st_layout_q4_k, st_layout_q5_k, st_layout_q6_k, st_layout_q8_k,
	st_layout_iq4_xs;

/* As st_block_reorder. */
void st_layout_reorder(const struct st_geometry *g, uint8_t *block, enum st_code_order order);

#endif
