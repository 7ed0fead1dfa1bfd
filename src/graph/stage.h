/* stage.h - the numbers of stages that code asks for by name; descriptions name further ones. */
#ifndef ST_GRAPH_STAGE_H
#define ST_GRAPH_STAGE_H

#include <stele/model.h>

/* In graph order. */
enum st_stage {
	ST_STAGE_EMBEDDING,
	ST_STAGE_ATTN_NORM,
	ST_STAGE_QKV_MATMUL,
	ST_STAGE_QKV_BIAS,
	ST_STAGE_Q_POST_NORM,
	ST_STAGE_K_POST_NORM,
	ST_STAGE_Q_POST_ROPE,
	ST_STAGE_K_POST_ROPE,
	ST_STAGE_ATTN_SCORES,
	ST_STAGE_ATTN_SOFTMAX,
	ST_STAGE_ATTENTION,
	ST_STAGE_ATTN_OUT,
	ST_STAGE_POST_ATTN_NORM,
	ST_STAGE_POST_ATTN_RESIDUAL,
	ST_STAGE_FFN_NORM,
	ST_STAGE_MOE_ROUTER,
	ST_STAGE_MOE_ROUTER_INDICES,
	ST_STAGE_FFN_GATE,
	ST_STAGE_FFN_UP,
	ST_STAGE_FFN_SILU,
	ST_STAGE_FFN_SWIGL,
	ST_STAGE_FFN_OUT,
	ST_STAGE_MOE_FFN_OUT,
	ST_STAGE_POST_FFN_NORM,
	ST_STAGE_POST_FFN_RESIDUAL,
	ST_STAGE_FINAL_NORM,
	ST_STAGE_LM_HEAD,
	ST_STAGE_COUNT
};

/*
 * The number of a name, which a new one gets here. after: the stage that the family evaluates before it, ST_STAGE_COUNT:
 * none. A stage is one of layers or of none: ST_ERR_FORMAT where the name has the other meaning already; ST_ERR_LIMIT.
 */
ST_MUST_CHECK enum st_status st_stage_of(const char *name, bool per_layer, uint32_t after, uint32_t *out,
                                         struct st_error *err);

/* "ffn_up of layer 3", or of the whole model "lm_head". */
void st_stage_place(uint32_t stage, int32_t layer, char *buf, size_t n);

#endif
