/* apart.c - which of the types with parts in several tensors it is. */
#include "dtype/apart.h"

#include <assert.h>

void st_apart_row(const struct st_apart *a, uint64_t r, const struct st_elements *e)
{
	r = a->step ? a->first + r * a->step : r;
	switch (a->method) {
	case ST_DTYPE_MXFP4:
		st_mxfp4_row(a, r, e);
		return;
	case ST_DTYPE_GPTQ:
		st_gptq_row(a, r, e);
		return;
	case ST_DTYPE_AWQ:
		st_awq_row(a, r, e);
		return;
	case ST_DTYPE_MLX:
		st_mlx_row(a, r, e);
		return;
	case ST_DTYPE_CT_PACK:
		st_ct_pack_row(a, r, e);
		return;
	case ST_DTYPE_BNB4:
		st_bnb4_row(a, r, e);
		return;
	case ST_DTYPE_F8_SCALED:
	case ST_DTYPE_I8_SCALED:
		st_scaled_row(a, r, e);
		return;
	default:
		assert(!"a type whose parts lie together");
	}
}
