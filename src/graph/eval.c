/* eval.c - the arithmetic of one node: which kernel, on which values. */
#include "graph/run.h"
#include "graph/basis.h"

#include "base/error.h"

#include <assert.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

/* What a node works on: filled in once, so that each operation below is its formula only. */
struct job {
	struct st_run *r;
	const struct st_node *n;
	const struct st_exec *e;
	const float *in[ST_NODE_ALL_INPUTS]; /* value of input j; NULL where the node has none */
	size_t ld[ST_NODE_ALL_INPUTS];       /* floats from one token's row of in[j] to the next */
	size_t T;
	double *state; /* before the current tokens; left as they make it */
	float *out;    /* NULL: only the state */
};

static void embed(const struct job *j)
{
	const struct st_node *n = j->n;
	for (size_t t = 0; t < j->T; t++)
		st_weight_decode(n->w[0], n->op == ST_OP_EMBED ? j->r->tokens[t] : j->r->pos[t] + n->offset, 1,
		                 j->out + t * n->width);
	if (n->op == ST_OP_EMBED && n->scale != 1)
		st_scale(j->e, j->out, n->scale, j->T * n->width, j->out);
}

/* Weight i of the node, decoded behind those before it; NULL where the node has none. */
static const float *vector(const struct job *j, uint32_t i, size_t at)
{
	const struct st_weight *w = i < j->n->n_w ? j->n->w[i] : NULL;
	if (!w)
		return NULL;
	if (w->n_experts) { /* a vector for each head */
		struct st_weight one = *w;
		for (uint32_t h = 0; h < w->n_experts; h++) {
			one.tensor = &w->experts[h];
			st_weight_decode(&one, 0, 1, j->r->vec + at + h * st_tensor_cols(one.tensor));
		}
	} else {
		st_weight_decode(w, 0, st_tensor_rows(w->tensor), j->r->vec + at);
	}
	return j->r->vec + at;
}

static void rmsnorm(const struct job *j)
{
	const struct st_node *n = j->n;
	st_rmsnorm(j->e, j->in[0], j->ld[0], vector(j, 0, 0), n->eps, j->T, n->width, j->out, n->width);
}

/* Over the whole width, or over each head, whose weights may be its own. */
static void layernorm(const struct job *j)
{
	const struct st_node *n = j->n;
	if (n->heads) {
		size_t d = n->head_dim, own = n->own_weights ? d : 0;
		const float *w = vector(j, 0, 0), *b = vector(j, 1, n->width);
		for (size_t t = 0; t < j->T; t++)
			for (size_t h = 0; h < n->heads; h++)
				st_layernorm(j->e, j->in[0] + t * j->ld[0] + h * d, d, w ? w + h * own : NULL,
				             b ? b + h * own : NULL, n->eps, 1, d, j->out + t * n->width + h * d, d);
		return;
	}
	st_layernorm(j->e, j->in[0], j->ld[0], vector(j, 0, 0), vector(j, 1, n->width), n->eps, j->T, n->width, j->out,
	             n->width);
}

/* The rows of in[0] may hold more than these heads, so tokens go one by one: heads of a token are contiguous. */
static void headnorm(const struct job *j)
{
	const struct st_node *n = j->n;
	const float *w = vector(j, 0, 0);
	for (size_t t = 0; t < j->T; t++)
		st_rmsnorm(j->e, j->in[0] + t * j->ld[0], n->head_dim, w, n->eps, n->heads, n->head_dim,
		           j->out + t * n->width, n->head_dim);
}

/* The rows of a weight that are its own, group by group: views of its tensor. */
static struct st_tensor group(const struct st_weight *w, uint64_t g)
{
	struct st_tensor t = *w->tensor;
	uint64_t row0 = g * w->group_of + w->group_from;
	t.data += row0 * t.row_bytes;
	t.ndim = 2;
	t.shape[1] = st_tensor_cols(w->tensor);
	t.shape[0] = w->group_rows;
	t.n_elems = w->group_rows * t.shape[1];
	t.n_bytes = w->group_rows * t.row_bytes;
	return t;
}

/* y[t] = (W0 x[t] | W1 x[t] | ...). Rows stored in adjacent-pair order come out in that order
 * and are put into the half-split basis here, at the border. */
static void linear(const struct job *j)
{
	const struct st_node *n = j->n;
	const float *x = j->in[0];
	size_t T = j->T, K = j->ld[0], col = 0;
	for (uint32_t i = 0; i < n->n_w; i++) {
		const struct st_weight *w = n->w[i];
		size_t rows = (size_t)st_weight_rows(w), groups = w->group_rows ? rows / w->group_rows : 0;
		for (size_t g = 0; g < groups; g++) {
			struct st_tensor part = group(w, g);
			st_matmul(j->e, &part, x, T, K, j->out + col + g * w->group_rows, n->width, j->r->scratch);
		}
		if (!groups)
			st_matmul(j->e, w->tensor, x, T, K, j->out + col, n->width, j->r->scratch);
		if (w->interleaved)
			for (size_t t = 0; t < T; t++)
				st_basis_to_half(j->out + t * n->width + col, w->heads, rows / w->heads,
				                 w->pair_dims ? w->pair_dims : rows / w->heads);
		col += rows;
	}
	if (n->softcap != 0)
		st_cap(j->e, j->out, n->softcap, T * n->width, j->out);
}

static void bias(const struct job *j)
{
	const struct st_node *n = j->n;
	float *b = j->r->vec;
	for (uint32_t i = 0; i < n->n_w;
	     i++) { /* a part of a vector is decoded with the rest of it, which then gives way */
		st_weight_decode(n->w[i], 0, 1, b);
		b += n->w[i]->group_rows ? st_weight_rows(n->w[i]) : st_tensor_cols(n->w[i]->tensor);
	}
	st_add_bias(j->e, j->in[0], j->r->vec, j->T, n->width, j->out);
}

/* The base grows with the positions seen: theta (factor P / from - (factor - 1))^(n / (n - 2)) for n features. */
static void dynamic(const struct st_node *n, size_t P, double *inv)
{
	double by = n->beyond.factor * (double)P / n->beyond.from - (n->beyond.factor - 1);
	double ln = st_log(n->beyond.theta) + st_log(by) * n->n_rot / (n->n_rot - 2.0);
	for (uint32_t i = 0; i < n->n_rot / 2; i++)
		inv[i] = st_exp(-ln * (2.0 * i) / n->n_rot);
}

static void rope(const struct job *j)
{
	const struct st_node *n = j->n;
	const double *inv = n->inv_freq;
	double mscale = n->mscale, grown[ST_MAX_HEAD_DIM / 2];
	if (n->beyond.from && j->r->P > n->beyond.from) { /* what is cached keeps the rotation that it was given */
		mscale = n->beyond.mscale;
		inv = n->beyond.inv_freq ? n->beyond.inv_freq : grown;
		if (inv == grown)
			dynamic(n, j->r->P, grown);
	}
	st_rope(j->e, j->in[0], j->ld[0], j->T, n->heads, n->head_dim, n->n_rot, inv, mscale, j->r->pos, j->out,
	        n->width);
}

static void scale(const struct job *j)
{
	const struct st_node *n = j->n;
	double by = n->scale;
	if (n->n_w) {
		st_weight_decode(n->w[0], 0, 1, j->r->vec);
		by = j->r->vec[0];
	}
	size_t rows = j->ld[0] == n->width ? 1 : j->T,
	       len = j->T / rows * n->width; /* token by token, where the input holds more */
	for (size_t t = 0; t < rows; t++)
		if (n->plus != 0)
			st_scale_plus(j->e, j->in[0] + t * j->ld[0], by, n->plus, len, j->out + t * len);
		else
			st_scale(j->e, j->in[0] + t * j->ld[0], by, len, j->out + t * len);
}

/* All at once, or token by token where an input holds more. */
static void in_pieces(const struct job *j,
                      void (*two)(const struct st_exec *, const float *, const float *, size_t, float *))
{
	size_t w = j->n->width;
	if (j->ld[0] == w && j->ld[1] == w)
		two(j->e, j->in[0], j->in[1], j->T * w, j->out);
	else
		for (size_t t = 0; t < j->T; t++)
			two(j->e, j->in[0] + t * j->ld[0], j->in[1] + t * j->ld[1], w, j->out + t * w);
}

static struct st_features rows(const struct job *j, uint32_t i) { return (struct st_features){ j->in[i], j->ld[i] }; }

static void times(const struct job *j)
{
	const float *w = vector(j, 0, 0);
	size_t width = j->n->width, d = j->n->heads ? width / j->n->heads : 0;
	for (size_t t = 0; t < j->T; t++) {
		if (!d)
			st_mul(j->e, j->in[0] + t * j->ld[0], w, width, j->out + t * width);
		for (size_t i = 0; d && i < width; i += d)
			st_scale(j->e, j->in[0] + t * j->ld[0] + i, (double)w[i / d], d, j->out + t * width + i);
	}
}

static void linear_blocks(const struct job *j)
{
	const struct st_node *n = j->n;
	size_t d = n->head_dim;
	const float *w = vector(j, 0, 0);
	for (size_t t = 0; t < j->T; t++)
		for (size_t i = 0; i < n->width; i++) {
			const float *x = j->in[0] + t * j->ld[0] + i / d * d, *m = w + i / d * d * d + i % d;
			double sum = 0;
			for (size_t k = 0; k < d; k++)
				sum += (double)x[k] * (double)m[k * d];
			j->out[t * n->width + i] = sum == sum ? (float)sum : (float)NAN;
		}
}

static void l2norm(const struct job *j)
{
	const struct st_node *n = j->n;
	for (size_t t = 0; t < j->T; t++)
		for (size_t h = 0; h < n->heads; h++)
			st_l2norm(j->in[0] + t * j->ld[0] + h * n->head_dim, n->eps, n->head_dim,
			          j->out + t * n->width + h * n->head_dim);
}

/* What goes on from token to token. */
static void recur(const struct job *j)
{
	const struct st_node *n = j->n;
	bool first = j->r->P == j->T;
	switch (n->op) {
	case ST_OP_CONV: {
		size_t at = 0;
		for (uint32_t i = 0; i < n->n_w; i++) {
			(void)vector(j, i, at);
			at += n->w[i]->tensor->n_elems;
		}
		st_conv(j->e, j->in[0], j->ld[0], j->r->vec, j->T, n->width, n->state_size, j->state, j->out);
		break;
	}
	case ST_OP_TOKEN_SHIFT:
		st_token_shift(j->e, j->in[0], j->ld[0], vector(j, 0, 0), j->T, n->width, j->state, j->out);
		break;
	case ST_OP_DELTA_RULE: {
		struct st_delta_shape s = { .T = j->T,
			                    .heads = n->heads,
			                    .key_heads = n->groups_of,
			                    .dk = n->state_size,
			                    .dv = n->head_dim,
			                    .g_each = n->each,
			                    .scale = n->scale };
		st_delta_rule(j->e, &s, rows(j, 0), rows(j, 1), rows(j, 2), rows(j, 3), rows(j, 4), j->state, j->out);
		break;
	}
	case ST_OP_LINEAR_ATTENTION: {
		struct st_linear_attention_shape s = { .T = j->T,
			                               .heads = n->heads,
			                               .dk = n->state_size,
			                               .dv = n->head_dim,
			                               .g_each = n->each,
			                               .slopes = n->slopes,
			                               .slope_scale = n->slope_scale,
			                               .scale = n->scale };
		st_linear_attention(j->e, &s, rows(j, 0), rows(j, 1), rows(j, 2), rows(j, 3), vector(j, 0, 0), j->state,
		                    j->out);
		break;
	}
	case ST_OP_SCAN: {
		struct st_scan_shape s = { .T = j->T,
			                   .heads = n->heads,
			                   .head_dim = n->head_dim,
			                   .groups = n->groups_of,
			                   .N = n->state_size,
			                   .a_each = n->each };
		const float *A = vector(j, 0, 0), *D = vector(j, 1, n->w[0]->tensor->n_elems);
		st_scan(j->e, &s, rows(j, 0), rows(j, 1), rows(j, 2), rows(j, 3), A, D, j->state, j->out);
		break;
	}
	case ST_OP_LRU:
		st_lru(j->e, rows(j, 0), rows(j, 1), rows(j, 2), vector(j, 0, 0), j->T, n->width, first, j->state,
		       j->out);
		break;
	default:
		st_wkv(j->e, rows(j, 0), rows(j, 1), vector(j, 0, 0), vector(j, 1, n->width), j->T, n->width, first,
		       j->state, j->out);
	}
}

static void scale_by_position(const struct job *j)
{
	const struct st_node *n = j->n;
	for (size_t t = 0; t < j->T; t++) {
		uint32_t whole = (j->r->pos[t] + 1) / n->offset;
		double by = 1 + n->scale * st_log(1 + (double)whole);
		st_scale(j->e, j->in[0] + t * j->ld[0], by, n->width, j->out + t * n->width);
	}
}

static void concat(const struct job *j)
{
	const struct st_node *n = j->n;
	size_t b = n->head_dim, a = n->width / n->heads - b;
	size_t next = n->kv_heads == 1 ? 0 : b; /* one head of the second serves all */
	for (size_t t = 0; t < j->T; t++)
		for (size_t h = 0; h < n->heads; h++) {
			float *y = j->out + t * n->width + h * (a + b);
			memcpy(y, j->in[0] + t * j->ld[0] + h * a, a * sizeof *y);
			memcpy(y + a, j->in[1] + t * j->ld[1] + h * next, b * sizeof *y);
		}
}

static void xielu(const struct job *j)
{
	const struct st_node *n = j->n;
	double p[4];
	for (uint32_t i = 0; i < 4; i++) {
		const float *w = vector(j, i, 0);
		p[i] = w ? (double)w[0] : n->xielu[i];
	}
	for (size_t t = 0; t < j->T; t++)
		st_xielu(j->in[0] + t * j->ld[0], p, n->width, j->out + t * n->width);
}

/* ---- experts ---- */

static void top(const struct job *j)
{
	const struct st_node *n = j->n;
	size_t N = j->ld[0];
	const float *b = vector(j, 0, 0);
	float *sum = j->r->vec + N, *among = sum + N;
	for (size_t t = 0; t < j->T; t++) {
		const float *x = j->in[0] + t * N;
		if (b) {
			st_add(j->e, x, b, N, sum);
			x = sum;
		}
		if (n->groups.used < n->groups.all) {
			st_mask_groups(x, N, n->groups.all, n->groups.used, n->groups.best, among);
			x = among;
		}
		st_top(x, N, n->width, j->out + t * n->width);
	}
}

static void chosen(const struct job *j)
{
	const struct st_node *n = j->n;
	for (size_t t = 0; t < j->T; t++)
		st_chosen(j->in[0] + t * j->ld[0], j->in[1] + t * j->ld[1], n->width, &n->shares,
		          j->out + t * n->width);
}

static void softmax_all(const struct job *j)
{
	for (size_t t = 0; t < j->T; t++)
		st_softmax(j->e, j->in[0] + t * j->ld[0], j->n->width, j->out + t * j->n->width);
}

static void softmax_of(const struct job *j)
{
	const struct st_node *n = j->n;
	for (size_t t = 0; t < j->T; t++) {
		float *y = j->out + t * n->width;
		for (size_t i = 0; i < n->width; i++)
			y[i] = j->in[0][t * j->ld[0] + (size_t)j->in[1][t * j->ld[1] + i]];
		st_softmax(j->e, y, n->width, y);
	}
}

/* Tokens that chose the same expert go through its matrix together, so that it is read once; experts that nobody chose
 * are not read. */
static void linear_at(const struct job *j)
{
	const struct st_node *n = j->n;
	const struct st_weight *w = n->w[0];
	size_t C = n->choices, N = n->width / C, K = (size_t)st_tensor_cols(&w->experts[0]);
	size_t each = j->ld[0] == K ? 0 : K; /* one row for all choices, or one for each */
	float *x = j->r->experts, *y = x + j->T * C * K;
	for (uint32_t e = 0; e < w->n_experts; e++) {
		size_t rows = 0;
		for (size_t i = 0; i < j->T * C; i++)
			if (j->in[1][i / C * j->ld[1] + i % C] == (float)e)
				memcpy(x + rows++ * K, j->in[0] + i / C * j->ld[0] + i % C * each, K * sizeof *x);
		for (size_t at = 0; at < rows; at += j->T) { /* scratch is planned for T rows */
			size_t some = rows - at < j->T ? rows - at : j->T;
			st_matmul(j->e, &w->experts[e], x + at * K, some, K, y + at * N, N, j->r->scratch);
		}
		rows = 0;
		for (size_t i = 0; i < j->T * C; i++)
			if (j->in[1][i / C * j->ld[1] + i % C] == (float)e)
				memcpy(j->out + i * N, y + rows++ * N, N * sizeof *y);
	}
}

static void bias_at(const struct job *j)
{
	const struct st_node *n = j->n;
	size_t N = n->width / n->choices;
	for (size_t i = 0; i < j->T * n->choices; i++) {
		size_t t = i / n->choices, c = i % n->choices;
		st_weight_decode(n->w[0], (uint64_t)j->in[1][t * j->ld[1] + c], 1, j->r->vec);
		st_add(j->e, j->in[0] + t * j->ld[0] + c * N, j->r->vec, N, j->out + i * N);
	}
}

static void spread(const struct job *j)
{
	const struct st_node *n = j->n;
	size_t N = n->width / n->choices;
	for (size_t t = 0; t < j->T; t++)
		for (size_t c = 0; c < n->choices; c++)
			st_scale(j->e, j->in[0] + t * j->ld[0], (double)j->in[1][t * j->ld[1] + c], N,
			         j->out + t * n->width + c * N);
}

/* Indices that were put into a run are not those of `top`: what they name must be there. */
static enum st_status check_indices(const struct job *j, size_t C, size_t limit, struct st_error *err)
{
	for (size_t t = 0; t < j->T; t++)
		for (size_t c = 0; c < C; c++) {
			float i = j->in[1][t * j->ld[1] + c];
			if (!(i >= 0 && i < (float)limit && i == floorf(i)))
				return st_fail(err, ST_ERR_MISMATCH, "index %g of token %zu is none of %zu experts",
				               (double)i, t, limit);
		}
	return ST_OK;
}

static void weighted_sum(const struct job *j)
{
	const struct st_node *n = j->n;
	for (size_t t = 0; t < j->T; t++)
		st_weighted_sum(j->e, j->in[0] + t * j->ld[0], j->in[1] ? j->in[1] + t * j->ld[1] : NULL, n->choices,
		                n->width, j->out + t * n->width);
}

static void attend(const struct job *j)
{
	const struct st_node *n = j->n;
	const struct st_layer_cache *c = &j->r->cache[n->layer];
	struct st_attn_shape s = {
		.T = j->T,
		.P = j->r->P,
		.n_heads = n->heads,
		.n_kv_heads = n->kv_heads,
		.head_dim = n->head_dim,
		.window = n->window,
		.chunk = n->chunk,
		.scale = n->scale,
		.softcap = n->softcap,
		.slopes = n->slopes,
		.slope_scale = n->slope_scale,
	};
	if (n->op == ST_OP_SCORES)
		st_attn_scores(j->e, &s, j->in[0], j->ld[0], c->k, c->k_width, j->out);
	else if (n->op == ST_OP_SOFTMAX)
		st_attn_softmax_sinks(j->e, &s, j->in[0], vector(j, 0, 0), j->out);
	else
		st_attn_mix(j->e, &s, j->in[0], c->v, c->v_width, j->out);
}

/* The arithmetic of node n, which stands at place i, on r's inputs; out has the size of st_run_value(r, i). */
static enum st_status node_eval(struct st_run *r, const struct st_node *n, uint32_t vocab, uint32_t i,
                                const struct st_exec *e, double *state, float *out, struct st_error *err)
{
	struct job j = { .r = r, .n = n, .e = e, .T = r->T, .state = state, .out = out };
	for (uint32_t k = 0; k < ST_NODE_ALL_INPUTS; k++)
		if (st_node_input(n, k) != ST_NO_NODE) {
			struct st_value v = st_run_value(r, st_node_input(n, k));
			j.in[k] = v.data + st_node_from(n, k);
			j.ld[k] = v.cols;
		}
	if (n->state) /* what is before the current tokens stays, so that the node can be evaluated again */
		memcpy(state, r->state[i].before, n->state * sizeof *state);
	if (n->stage == ST_STAGE_LM_HEAD && (r->flags & ST_RUN_HEAD_LAST)) {
		for (int k = 0; k < ST_NODE_INPUTS; k++)
			if (j.in[k])
				j.in[k] += (r->T - 1) * j.ld[k];
		j.T = 1;
	}
	size_t elems = j.T * n->width;
	switch (n->op) {
	case ST_OP_EMBED:
		for (size_t t = 0; t < r->T; t++) /* another graph's vocabulary may be smaller than this run's */
			if (r->tokens[t] >= vocab)
				return st_fail(err, ST_ERR_MISMATCH, "token id %u, the other vocabulary has %u ids",
				               r->tokens[t], vocab);
		embed(&j);
		break;
	case ST_OP_EMBED_POSITION:
		if (r->P + n->offset > st_tensor_rows(n->w[0]->tensor))
			return st_fail(err, ST_ERR_LIMIT, "%zu positions, the model has learned %llu", r->P,
			               (unsigned long long)st_tensor_rows(n->w[0]->tensor) - n->offset);
		embed(&j);
		break;
	case ST_OP_RMSNORM:
		rmsnorm(&j);
		break;
	case ST_OP_LAYERNORM:
		layernorm(&j);
		break;
	case ST_OP_SCALE:
		scale(&j);
		break;
	case ST_OP_TOP:
		top(&j);
		break;
	case ST_OP_SLICE:
		for (size_t t = 0; t < r->T; t++)
			memcpy(out + t * n->width, j.in[0] + t * j.ld[0] + n->offset, n->width * sizeof *out);
		break;
	case ST_OP_TIMES:
		times(&j);
		break;
	case ST_OP_LINEAR_BLOCKS:
		linear_blocks(&j);
		break;
	case ST_OP_SOFTPLUS:
		for (size_t t = 0; t < r->T; t++)
			st_softplus(j.in[0] + t * j.ld[0], n->width, out + t * n->width);
		break;
	case ST_OP_L2NORM:
		l2norm(&j);
		break;
	case ST_OP_CONV:
	case ST_OP_TOKEN_SHIFT:
	case ST_OP_DELTA_RULE:
	case ST_OP_LINEAR_ATTENTION:
	case ST_OP_SCAN:
	case ST_OP_LRU:
	case ST_OP_WKV:
		recur(&j);
		break;
	case ST_OP_SCALE_BY_POSITION:
		scale_by_position(&j);
		break;
	case ST_OP_CONCAT:
		concat(&j);
		break;
	case ST_OP_XIELU:
		xielu(&j);
		break;
	case ST_OP_NEAR_SHARES:
		ST_TRY(check_indices(&j, n->width, j.ld[0], err));
		for (size_t t = 0; t < r->T; t++)
			st_near_shares(j.in[0] + t * j.ld[0], j.ld[0], j.in[1] + t * j.ld[1], n->width, n->jitter,
			               out + t * n->width);
		break;
	case ST_OP_BIAS_AT:
		ST_TRY(check_indices(&j, n->choices, (size_t)st_tensor_rows(n->w[0]->tensor), err));
		bias_at(&j);
		break;
	case ST_OP_SPREAD:
		spread(&j);
		break;
	case ST_OP_CHOSEN:
		ST_TRY(check_indices(&j, n->width, j.ld[0] - n->from[0], err));
		chosen(&j);
		break;
	case ST_OP_SOFTMAX_ALL:
		softmax_all(&j);
		break;
	case ST_OP_CLAMP:
		for (size_t t = 0; t < r->T; t++)
			st_clamp(j.in[0] + t * j.ld[0], (float)n->low, (float)n->high, n->width, out + t * n->width);
		break;
	case ST_OP_SOFTMAX_OF:
		ST_TRY(check_indices(&j, n->width, j.ld[0] - n->from[0], err));
		softmax_of(&j);
		break;
	case ST_OP_LINEAR_AT:
		ST_TRY(check_indices(&j, n->choices, n->w[0]->n_experts, err));
		if (st_matmul_scratch(e, r->T, j.ld[0]) > r->scratch_size)
			return st_fail(err, ST_ERR_USAGE, "more threads than the run was opened for");
		linear_at(&j);
		break;
	case ST_OP_WEIGHTED_SUM:
		weighted_sum(&j);
		break;
	case ST_OP_HEADNORM:
		headnorm(&j);
		break;
	case ST_OP_LINEAR:
		if (st_matmul_scratch(e, r->T, j.ld[0]) > r->scratch_size)
			return st_fail(err, ST_ERR_USAGE, "more threads than the run was opened for");
		linear(&j);
		break;
	case ST_OP_BIAS:
		bias(&j);
		break;
	case ST_OP_ROPE:
		rope(&j);
		break;
	case ST_OP_SCORES:
	case ST_OP_SOFTMAX:
	case ST_OP_MIX:
		attend(&j);
		break;
	case ST_OP_ADD:
		in_pieces(&j, st_add);
		break;
	case ST_OP_ACT:
		if (j.ld[0] == n->width)
			st_activate(e, n->act, j.in[0], elems, out);
		for (size_t t = 0; t < r->T && j.ld[0] != n->width; t++)
			st_activate(e, n->act, j.in[0] + t * j.ld[0], n->width, out + t * n->width);
		break;
	case ST_OP_MUL:
		in_pieces(&j, st_mul);
		break;
	}
	return ST_OK;
}

/* ---- one node of a run ---- */

struct label {
	char text[64];
};

static struct label label(const struct st_node *n)
{
	struct label l;
	st_stage_place(n->stage, n->layer, l.text, sizeof l.text);
	return l;
}

static enum st_status check_inputs(const struct st_run *r, const struct st_node *n, uint32_t i, struct st_error *err)
{
	if (r->T == 0)
		return st_fail(err, ST_ERR_USAGE, "the run has not begun: no tokens");
	for (uint32_t j = 0; j < ST_NODE_ALL_INPUTS; j++) {
		if (st_node_input(n, j) == ST_NO_NODE)
			continue;
		const struct st_node *in = &r->g->nodes[st_node_input(n, j)];
		if (r->held[in->slot] != st_node_input(n, j))
			return st_fail(err, ST_ERR_USAGE, "%s needs %s, which the run does not hold", label(n).text,
			               label(in).text);
	}
	if (n->state && r->state[i].before_at != r->P - r->T)
		return st_fail(err, ST_ERR_USAGE, "%s: its state was not carried on to token %zu", label(n).text,
		               r->P - r->T);
	return st_check_cancel(err);
}

/* The state of node i goes on over the current tokens, whatever its value is. */
static void advance(struct st_run *r, uint32_t i)
{
	struct st_error unused = ST_ERROR_INIT;
	const struct st_node *n = &r->g->nodes[i];
	if (check_inputs(r, n, i, &unused) == ST_OK
	    && node_eval(r, n, r->g->vocab, i, &r->e, r->state[i].after, NULL, &unused) == ST_OK)
		r->state[i].after_at = r->P;
}

void st_run_put(struct st_run *r, uint32_t i, const float *data)
{
	struct st_value v = st_run_value(r, i);
	if (r->g->nodes[i].state)
		advance(r, i);
	if (data != v.data)
		memcpy(v.data, data, v.rows * v.cols * sizeof *data);
	st_run_settle(r, i);
}

enum st_status st_run_eval(struct st_run *r, uint32_t i, struct st_error *err)
{
	assert(i < r->g->n_nodes);
	const struct st_node *n = &r->g->nodes[i];
	ST_TRY(check_inputs(r, n, i, err));
	ST_TRY(node_eval(r, n, r->g->vocab, i, &r->e, r->state[i].after, st_run_value(r, i).data, err));
	r->state[i].after_at = r->P;
	st_run_settle(r, i);
	return ST_OK;
}

enum st_status st_run_eval_alone(struct st_run *r, const struct st_graph *g, uint32_t i, const struct st_exec *e,
                                 float *out, struct st_error *err)
{
	assert(i < r->g->n_nodes);
	if (!st_node_same_form(r->g, g, i))
		return st_fail(err, ST_ERR_MISMATCH, "the other model has no %s of this form",
		               label(&r->g->nodes[i]).text);
	ST_TRY(check_inputs(r, &g->nodes[i], i, err));
	return node_eval(r, &g->nodes[i], g->vocab, i, e, r->state_alone, out, err);
}

enum st_status st_run_eval_as(struct st_run *r, uint32_t i, const struct st_node *n, const struct st_exec *e,
                              float *out, struct st_error *err)
{
	assert(i < r->g->n_nodes && n->width == r->g->nodes[i].width && n->state == r->g->nodes[i].state);
	ST_TRY(check_inputs(r, n, i, err));
	return node_eval(r, n, r->g->vocab, i, e, r->state_alone, out, err);
}
