/*
 * dots.h - the product sums of a level in f32 and in f64, in the operations of vec.h. The includer defines ROWS, COLS
 * and ROWS1 (dot_template.h).
 */
#define ST_PASTE_(a, b) a##b
#define ST_PASTE(a, b) ST_PASTE_(a, b)

#define DOT dot_f32
#define MIX mix_f32
#define ELEM float
#define LANES ST_LANES_F32
#define VEC vf
#define WIDTH VF_LANES
#define LOAD vf_load
#define LOAD_N vf_first
#define GETX vf_load
#define GETX_N vf_first
#define SPLAT vf_set1
#define FMA vf_fma
#define GET vf_load
#define PUT vf_store
#include "kernel/dot_template.h"

#define DOT dot_f64
#define MIX mix_f64
#define ELEM double
#define LANES ST_LANES_F64
#define VEC vd
#define WIDTH VD_LANES
#define LOAD vd_wide
#define LOAD_N vd_wide_first
#define GETX vd_load
#define GETX_N vd_first
#define SPLAT(x) vd_set1((double)(x))
#define FMA vd_fma
#define GET vd_load
#define PUT vd_store
#include "kernel/dot_template.h"
