/*
 * decoder.c - the graph of a pre-norm decoder: rotary attention with grouped heads, gated
 * feed-forward part. Biases and QK-norm appear where the model has their weights.
 */
#include "arch/model_state.h"

#include "base/error.h"

#include <math.h>

#define NODES_PER_LAYER 19 /* upper bound: with bias and QK-norm */

struct builder {
	const struct st_model *m;
	struct st_graph *g;
	const double *inv_freq;
	int32_t layer; /* under construction; -1 outside the layers */
};

static uint32_t add(struct builder *b, enum st_stage stage, struct st_node n)
{
	st_node_place(&n, stage, b->layer);
	b->g->nodes[b->g->n_nodes] = n;
	return b->g->n_nodes++;
}

static const struct st_weight *weight(const struct builder *b, enum st_role role)
{
	return &b->m->weights[st_model_slot(b->m, role, b->layer < 0 ? 0 : (uint32_t)b->layer)];
}

static uint32_t norm(struct builder *b, enum st_stage stage, enum st_role role, uint32_t in)
{
	return add(b, stage,
	           (struct st_node){ .op = ST_OP_RMSNORM,
	                             .in = { in, ST_NO_NODE },
	                             .width = b->m->cfg.hidden,
	                             .w = { weight(b, role) },
	                             .n_w = 1,
	                             .eps = b->m->cfg.norm_eps });
}

static uint32_t linear(struct builder *b, enum st_stage stage, enum st_role role, uint32_t in, uint32_t width)
{
	return add(b, stage,
	           (struct st_node){ .op = ST_OP_LINEAR,
	                             .in = { in, ST_NO_NODE },
	                             .width = width,
	                             .w = { weight(b, role) },
	                             .n_w = 1 });
}

static uint32_t plus(struct builder *b, enum st_stage stage, uint32_t x, uint32_t y)
{
	return add(b, stage, (struct st_node){ .op = ST_OP_ADD, .in = { x, y }, .width = b->m->cfg.hidden });
}

/* Some heads of `in`, those from feature *slice on. The result holds these heads alone. */
static uint32_t head_norm(struct builder *b, enum st_stage stage, enum st_role role, uint32_t in, uint32_t *slice,
                          uint32_t heads)
{
	uint32_t d = b->m->cfg.head_dim;
	uint32_t i = add(b, stage,
	                 (struct st_node){ .op = ST_OP_HEADNORM,
	                                   .in = { in, ST_NO_NODE },
	                                   .from = { *slice },
	                                   .width = heads * d,
	                                   .heads = heads,
	                                   .head_dim = d,
	                                   .w = { weight(b, role) },
	                                   .n_w = 1,
	                                   .eps = b->m->cfg.norm_eps });
	*slice = 0;
	return i;
}

static uint32_t rope(struct builder *b, enum st_stage stage, uint32_t in, uint32_t slice, uint32_t heads)
{
	uint32_t d = b->m->cfg.head_dim;
	return add(b, stage,
	           (struct st_node){ .op = ST_OP_ROPE,
	                             .in = { in, ST_NO_NODE },
	                             .from = { slice },
	                             .width = heads * d,
	                             .heads = heads,
	                             .head_dim = d,
	                             .inv_freq = b->inv_freq,
	                             .mscale = 1 });
}

/* Normed stream -> heads' mixture of values, side by side. */
static uint32_t attention(struct builder *b, uint32_t in)
{
	const struct st_config *cfg = &b->m->cfg;
	uint32_t H = cfg->n_heads, G = cfg->n_kv_heads, d = cfg->head_dim;
	uint32_t q_slice = 0, k_slice = H * d, v_slice = (H + G) * d, all = (H + 2 * G) * d;

	uint32_t qkv = add(
		b, ST_STAGE_QKV_MATMUL,
		(struct st_node){ .op = ST_OP_LINEAR,
	                          .in = { in, ST_NO_NODE },
	                          .width = all,
	                          .n_w = 3,
	                          .w = { weight(b, ST_ROLE_Q), weight(b, ST_ROLE_K), weight(b, ST_ROLE_V) } });
	if (cfg->qkv_bias)
		qkv = add(b, ST_STAGE_QKV_BIAS,
		          (struct st_node){ .op = ST_OP_BIAS,
		                            .in = { qkv, ST_NO_NODE },
		                            .width = all,
		                            .n_w = 3,
		                            .w = { weight(b, ST_ROLE_Q_BIAS), weight(b, ST_ROLE_K_BIAS),
		                                   weight(b, ST_ROLE_V_BIAS) } });
	uint32_t q = qkv, k = qkv;
	if (cfg->qk_norm) {
		q = head_norm(b, ST_STAGE_Q_POST_NORM, ST_ROLE_Q_NORM, qkv, &q_slice, H);
		k = head_norm(b, ST_STAGE_K_POST_NORM, ST_ROLE_K_NORM, qkv, &k_slice, G);
	}
	q = rope(b, ST_STAGE_Q_POST_ROPE, q, q_slice, H);
	k = rope(b, ST_STAGE_K_POST_ROPE, k, k_slice, G);

	bool windowed = (uint32_t)b->layer >= cfg->window_from_layer;
	struct st_node n = { .op = ST_OP_SCORES,
		             .in = { q, k },
		             .width = H,
		             .heads = H,
		             .kv_heads = G,
		             .head_dim = d,
		             .window = windowed ? cfg->sliding_window : 0,
		             .scale = 1 / sqrt((double)d) };
	uint32_t scores = add(b, ST_STAGE_ATTN_SCORES, n);
	n.op = ST_OP_SOFTMAX;
	n.in[0] = scores;
	n.in[1] = ST_NO_NODE;
	uint32_t probs = add(b, ST_STAGE_ATTN_SOFTMAX, n);
	n.op = ST_OP_MIX;
	n.in[0] = probs;
	n.in[1] = qkv;
	n.from[1] = v_slice;
	n.width = H * d;
	return add(b, ST_STAGE_ATTENTION, n);
}

static uint32_t feed_forward(struct builder *b, uint32_t in)
{
	uint32_t ffn = b->m->cfg.ffn;
	uint32_t gate = linear(b, ST_STAGE_FFN_GATE, ST_ROLE_GATE, in, ffn);
	uint32_t up = linear(b, ST_STAGE_FFN_UP, ST_ROLE_UP, in, ffn);
	uint32_t act = add(
		b, ST_STAGE_FFN_SILU,
		(struct st_node){ .op = ST_OP_ACT, .in = { gate, ST_NO_NODE }, .width = ffn, .act = ST_ACT_SILU });
	uint32_t both = add(b, ST_STAGE_FFN_SWIGL,
	                    (struct st_node){ .op = ST_OP_MUL, .in = { act, up }, .width = ffn });
	return linear(b, ST_STAGE_FFN_OUT, ST_ROLE_DOWN, both, b->m->cfg.hidden);
}

enum st_status st_decoder_graph(struct st_model *m, struct st_error *err)
{
	struct st_graph *g = &m->graph;
	double *inv = st_arena_alloc(&m->arena, m->cfg.head_dim / 2, sizeof *inv);
	g->nodes = st_arena_alloc2(&m->arena, (uint64_t)m->cfg.n_layers + 1, NODES_PER_LAYER, sizeof *g->nodes);
	if (!inv || !g->nodes)
		return st_fail(err, ST_ERR_NOMEM, "no memory for the graph");
	ST_TRY(st_rope_frequencies(m, inv, err));
	g->n_layers = m->cfg.n_layers;
	g->vocab = m->cfg.vocab;
	g->n_slots = ST_GRAPH_VOCABULARY_SLOTS;

	struct builder b = { .m = m, .g = g, .inv_freq = inv, .layer = -1 };
	uint32_t x = add(&b, ST_STAGE_EMBEDDING,
	                 (struct st_node){ .op = ST_OP_EMBED,
	                                   .in = { ST_NO_NODE, ST_NO_NODE },
	                                   .width = m->cfg.hidden,
	                                   .w = { weight(&b, ST_ROLE_EMBED) },
	                                   .n_w = 1 });
	for (uint32_t l = 0; l < m->cfg.n_layers; l++) {
		b.layer = (int32_t)l;
		uint32_t mixed = attention(&b, norm(&b, ST_STAGE_ATTN_NORM, ST_ROLE_ATTN_NORM, x));
		uint32_t y = linear(&b, ST_STAGE_ATTN_OUT, ST_ROLE_O, mixed, m->cfg.hidden);
		x = plus(&b, ST_STAGE_POST_ATTN_RESIDUAL, x, y);
		y = feed_forward(&b, norm(&b, ST_STAGE_FFN_NORM, ST_ROLE_FFN_NORM, x));
		x = plus(&b, ST_STAGE_POST_FFN_RESIDUAL, x, y);
	}
	b.layer = -1;
	x = norm(&b, ST_STAGE_FINAL_NORM, ST_ROLE_FINAL_NORM, x);
	linear(&b, ST_STAGE_LM_HEAD, m->cfg.tied ? ST_ROLE_EMBED : ST_ROLE_HEAD, x, m->cfg.vocab);
	return ST_OK;
}
