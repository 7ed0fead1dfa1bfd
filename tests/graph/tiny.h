/* tiny.h - the random decoder of naive.h as a graph built by hand, weights in memory. */
#ifndef ST_TESTS_GRAPH_TINY_H
#define ST_TESTS_GRAPH_TINY_H

#include "test.h"

#include "graph/graph.h"
#include "graph/naive.h"

#define TINY_NODES (3 + NAIVE_LAYERS * 19)
#define TINY_WEIGHTS (3 + NAIVE_LAYERS * 14)

struct tiny {
	struct naive n;
	bool interleaved; /* Q and K rows stored in adjacent-pair order */
	struct st_tensor tensors[TINY_WEIGHTS];
	struct st_weight weights[TINY_WEIGHTS];
	size_t n_weights;
	float *copies[2 * NAIVE_LAYERS * 2];
	size_t n_copies;
	double inv_freq[64];
	struct st_node nodes[TINY_NODES];
	struct st_graph g;
	int32_t layer;
};

static inline const struct st_weight *tiny_weight(struct tiny *t, const float *data, size_t rows, size_t cols)
{
	struct st_tensor *x = &t->tensors[t->n_weights];
	struct st_weight *w = &t->weights[t->n_weights++];
	x->name = "test";
	x->dtype = ST_DTYPE_F32;
	x->ndim = rows > 1 ? 2 : 1;
	x->shape[0] = rows > 1 ? rows : cols;
	x->shape[1] = rows > 1 ? cols : 0;
	x->n_elems = rows * cols;
	x->n_bytes = rows * cols * sizeof *data;
	x->row_bytes = cols * sizeof *data;
	x->scale = 1;
	x->data = (const uint8_t *)data;
	w->tensor = x;
	w->heads = 1;
	return w;
}

/* rows of `heads` heads, in the order that t->interleaved asks for */
static inline const struct st_weight *tiny_rotary(struct tiny *t, const float *data, size_t heads, size_t cols)
{
	size_t d = t->n.d, rows = heads * d;
	if (t->interleaved) {
		float *copy = malloc(rows * cols * sizeof *copy);
		for (size_t r = 0; r < rows; r++) {
			size_t i = r % d, from = r - i + (i % 2 ? d / 2 + i / 2 : i / 2);
			memcpy(copy + r * cols, data + from * cols, cols * sizeof *copy);
		}
		t->copies[t->n_copies++] = copy;
		data = copy;
	}
	struct st_weight *w = (struct st_weight *)(cols > 1 ? tiny_weight(t, data, rows, cols)
	                                                    : tiny_weight(t, data, 1, rows));
	w->interleaved = t->interleaved;
	w->heads = (uint32_t)heads;
	return w;
}

static inline uint32_t tiny_add(struct tiny *t, enum st_stage stage, struct st_node n)
{
	assert_true(t->g.n_nodes < TINY_NODES);
	st_node_place(&n, stage, t->layer);
	t->nodes[t->g.n_nodes] = n;
	return t->g.n_nodes++;
}

/* t->n has its sizes, flags and weights. */
static inline void tiny_build(struct tiny *t)
{
	const struct naive *m = &t->n;
	uint32_t D = (uint32_t)m->D, H = (uint32_t)m->H, G = (uint32_t)m->G, d = (uint32_t)m->d, F = (uint32_t)m->F;
	uint32_t Q = H * d, K = G * d;
	const uint32_t none = ST_NO_NODE;
	t->g = (struct st_graph){ .nodes = t->nodes,
		                  .n_layers = NAIVE_LAYERS,
		                  .vocab = (uint32_t)m->V,
		                  .n_slots = ST_GRAPH_VOCABULARY_SLOTS };
	t->n_weights = t->n_copies = 0;
	for (uint32_t i = 0; i < d / 2; i++)
		t->inv_freq[i] = pow(m->theta, -2.0 * i / d) / m->factor;
	t->layer = -1;
	uint32_t x = tiny_add(t, ST_STAGE_EMBEDDING,
	                      (struct st_node){ .op = ST_OP_EMBED,
	                                        .in = { none, none },
	                                        .width = D,
	                                        .w = { tiny_weight(t, m->embed, m->V, D) },
	                                        .n_w = 1 });
	for (int l = 0; l < NAIVE_LAYERS; l++) {
		const struct naive_layer *w = &m->layer[l];
		t->layer = l;
		uint32_t y = tiny_add(t, ST_STAGE_ATTN_NORM,
		                      (struct st_node){ .op = ST_OP_RMSNORM,
		                                        .in = { x, none },
		                                        .width = D,
		                                        .w = { tiny_weight(t, w->attn_norm, 1, D) },
		                                        .n_w = 1,
		                                        .eps = m->eps });
		uint32_t qkv = tiny_add(t, ST_STAGE_QKV_MATMUL,
		                        (struct st_node){ .op = ST_OP_LINEAR,
		                                          .in = { y, none },
		                                          .width = Q + 2 * K,
		                                          .w = { tiny_rotary(t, w->q, H, D), tiny_rotary(t, w->k, G, D),
		                                                 tiny_weight(t, w->v, K, D) },
		                                          .n_w = 3 });
		if (m->bias)
			qkv = tiny_add(
				t, ST_STAGE_QKV_BIAS,
				(struct st_node){ .op = ST_OP_BIAS,
			                          .in = { qkv, none },
			                          .width = Q + 2 * K,
			                          .w = { tiny_rotary(t, w->qb, H, 1), tiny_rotary(t, w->kb, G, 1),
			                                 tiny_weight(t, w->vb, 1, K) },
			                          .n_w = 3 });
		uint32_t q = qkv, k = qkv, k_slice = Q;
		if (m->qk_norm) {
			q = tiny_add(t, ST_STAGE_Q_POST_NORM,
			             (struct st_node){ .op = ST_OP_HEADNORM,
			                               .in = { qkv, none },
			                               .width = Q,
			                               .heads = H,
			                               .head_dim = d,
			                               .w = { tiny_weight(t, w->q_norm, 1, d) },
			                               .n_w = 1,
			                               .eps = m->eps });
			k = tiny_add(t, ST_STAGE_K_POST_NORM,
			             (struct st_node){ .op = ST_OP_HEADNORM,
			                               .in = { qkv, none },
			                               .from = { Q },
			                               .width = K,
			                               .heads = G,
			                               .head_dim = d,
			                               .w = { tiny_weight(t, w->k_norm, 1, d) },
			                               .n_w = 1,
			                               .eps = m->eps });
			k_slice = 0;
		}
		q = tiny_add(t, ST_STAGE_Q_POST_ROPE,
		             (struct st_node){ .op = ST_OP_ROPE,
		                               .in = { q, none },
		                               .width = Q,
		                               .heads = H,
		                               .head_dim = d,
		                               .inv_freq = t->inv_freq,
		                               .mscale = 1 });
		k = tiny_add(t, ST_STAGE_K_POST_ROPE,
		             (struct st_node){ .op = ST_OP_ROPE,
		                               .in = { k, none },
		                               .from = { k_slice },
		                               .width = K,
		                               .heads = G,
		                               .head_dim = d,
		                               .inv_freq = t->inv_freq,
		                               .mscale = 1 });
		struct st_node a = { .op = ST_OP_SCORES,
			             .in = { q, k },
			             .width = H,
			             .heads = H,
			             .kv_heads = G,
			             .head_dim = d,
			             .window = (size_t)l >= m->window_from ? (uint32_t)m->window : 0,
			             .scale = 1 / sqrt((double)d) };
		uint32_t s = tiny_add(t, ST_STAGE_ATTN_SCORES, a);
		a.op = ST_OP_SOFTMAX;
		a.in[0] = s;
		a.in[1] = none;
		a.in[0] = tiny_add(t, ST_STAGE_ATTN_SOFTMAX, a);
		a.op = ST_OP_MIX;
		a.in[1] = qkv;
		a.from[1] = Q + K;
		a.width = Q;
		y = tiny_add(t, ST_STAGE_ATTENTION, a);
		y = tiny_add(t, ST_STAGE_ATTN_OUT,
		             (struct st_node){ .op = ST_OP_LINEAR,
		                               .in = { y, none },
		                               .width = D,
		                               .w = { tiny_weight(t, w->o, D, Q) },
		                               .n_w = 1 });
		x = tiny_add(t, ST_STAGE_POST_ATTN_RESIDUAL,
		             (struct st_node){ .op = ST_OP_ADD, .in = { x, y }, .width = D });
		y = tiny_add(t, ST_STAGE_FFN_NORM,
		             (struct st_node){ .op = ST_OP_RMSNORM,
		                               .in = { x, none },
		                               .width = D,
		                               .w = { tiny_weight(t, w->ffn_norm, 1, D) },
		                               .n_w = 1,
		                               .eps = m->eps });
		uint32_t gate = tiny_add(t, ST_STAGE_FFN_GATE,
		                         (struct st_node){ .op = ST_OP_LINEAR,
		                                           .in = { y, none },
		                                           .width = F,
		                                           .w = { tiny_weight(t, w->gate, F, D) },
		                                           .n_w = 1 });
		uint32_t up = tiny_add(t, ST_STAGE_FFN_UP,
		                       (struct st_node){ .op = ST_OP_LINEAR,
		                                         .in = { y, none },
		                                         .width = F,
		                                         .w = { tiny_weight(t, w->up, F, D) },
		                                         .n_w = 1 });
		y = tiny_add(t, ST_STAGE_FFN_SILU,
		             (struct st_node){ .op = ST_OP_ACT, .in = { gate, none }, .width = F, .act = ST_ACT_SILU });
		y = tiny_add(t, ST_STAGE_FFN_SWIGL, (struct st_node){ .op = ST_OP_MUL, .in = { y, up }, .width = F });
		y = tiny_add(t, ST_STAGE_FFN_OUT,
		             (struct st_node){ .op = ST_OP_LINEAR,
		                               .in = { y, none },
		                               .width = D,
		                               .w = { tiny_weight(t, w->down, D, F) },
		                               .n_w = 1 });
		x = tiny_add(t, ST_STAGE_POST_FFN_RESIDUAL,
		             (struct st_node){ .op = ST_OP_ADD, .in = { x, y }, .width = D });
	}
	t->layer = -1;
	x = tiny_add(t, ST_STAGE_FINAL_NORM,
	             (struct st_node){ .op = ST_OP_RMSNORM,
	                               .in = { x, none },
	                               .width = D,
	                               .w = { tiny_weight(t, m->final_norm, 1, D) },
	                               .n_w = 1,
	                               .eps = m->eps });
	tiny_add(t, ST_STAGE_LM_HEAD,
	         (struct st_node){ .op = ST_OP_LINEAR,
	                           .in = { x, none },
	                           .width = (uint32_t)m->V,
	                           .w = { tiny_weight(t, m->head, m->V, D) },
	                           .n_w = 1 });
}

/* variant: bit 0 bias, 1 QK-norm, 2 interleaved rows, 3 sliding window, 4 tied head */
static inline struct tiny *tiny_new(unsigned variant, uint64_t seed)
{
	struct tiny *t = calloc(1, sizeof *t);
	assert_non_null(t);
	t->n = (struct naive){ .D = 48,
		               .H = 6,
		               .G = 3,
		               .d = 10,
		               .F = 80,
		               .V = 37,
		               .eps = 1e-5,
		               .theta = 500,
		               .factor = 1,
		               .bias = variant & 1,
		               .qk_norm = variant & 2,
		               .window = variant & 8 ? 4 : 0,
		               .window_from = 1,
		               .tied = variant & 16 };
	t->interleaved = variant & 4;
	naive_init(&t->n, seed);
	tiny_build(t);
	return t;
}

static inline void tiny_free(struct tiny *t)
{
	for (size_t i = 0; i < t->n_copies; i++)
		free(t->copies[i]);
	naive_free(&t->n);
	free(t);
}

#endif
