/* eval.c - the arithmetic of one node: which kernel, on which values. */
#include "graph/run.h"
#include "graph/basis.h"

#include "base/error.h"

#include <assert.h>
#include <stdio.h>

/* What a node works on: filled in once, so that each operation below is its formula only. */
struct job {
	struct st_run *r;
	const struct st_node *n;
	const struct st_exec *e;
	const float *in[2]; /* value of in[j]; NULL where the node has none */
	size_t ld[2];       /* floats from one token's row of in[j] to the next */
	size_t T;
	float *out;
};

static void embed(const struct job *j)
{
	for (size_t t = 0; t < j->T; t++)
		st_weight_decode(j->n->w[0], j->r->tokens[t], 1, j->out + t * j->n->width);
}

static void rmsnorm(const struct job *j)
{
	const struct st_node *n = j->n;
	st_weight_decode(n->w[0], 0, 1, j->r->vec);
	st_rmsnorm(j->e, j->in[0], j->ld[0], j->r->vec, n->eps, j->T, n->width, j->out, n->width);
}

/* in[0] rows hold more than the slice, so tokens go one by one: heads of a token are contiguous. */
static void headnorm(const struct job *j)
{
	const struct st_node *n = j->n;
	st_weight_decode(n->w[0], 0, 1, j->r->vec);
	for (size_t t = 0; t < j->T; t++)
		st_rmsnorm(j->e, j->in[0] + t * j->ld[0] + n->slice, n->head_dim, j->r->vec, n->eps, n->heads,
		           n->head_dim, j->out + t * n->width, n->head_dim);
}

/* y[t] = (W0 x[t] | W1 x[t] | ...). Rows stored in adjacent-pair order come out in that order
 * and are put into the half-split basis here, at the border. */
static void linear(const struct job *j)
{
	const struct st_node *n = j->n;
	const float *x = j->in[0];
	size_t T = j->T, K = j->ld[0], col = 0;
	if (n->stage == ST_STAGE_LM_HEAD && (j->r->flags & ST_RUN_HEAD_LAST)) {
		x += (T - 1) * K;
		T = 1;
	}
	for (uint32_t i = 0; i < n->n_w; i++) {
		const struct st_weight *w = n->w[i];
		size_t rows = (size_t)st_tensor_rows(w->tensor);
		st_matmul(j->e, w->tensor, x, T, K, j->out + col, n->width, j->r->scratch);
		if (w->interleaved)
			for (size_t t = 0; t < T; t++)
				st_basis_to_half(j->out + t * n->width + col, w->heads, rows / w->heads);
		col += rows;
	}
}

static void bias(const struct job *j)
{
	const struct st_node *n = j->n;
	float *b = j->r->vec;
	for (uint32_t i = 0; i < n->n_w; i++) {
		st_weight_decode(n->w[i], 0, 1, b);
		b += st_tensor_cols(n->w[i]->tensor);
	}
	st_add_bias(j->e, j->in[0], j->r->vec, j->T, n->width, j->out);
}

static void rope(const struct job *j)
{
	const struct st_node *n = j->n;
	st_rope(j->e, j->in[0] + n->slice, j->ld[0], j->T, n->heads, n->head_dim, n->head_dim, n->inv_freq, n->mscale,
	        j->r->pos, j->out, n->width);
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
		.scale = n->scale,
		.softcap = n->softcap,
	};
	if (n->op == ST_OP_SCORES)
		st_attn_scores(j->e, &s, j->in[0], j->ld[0], c->k, c->k_width, j->out);
	else if (n->op == ST_OP_SOFTMAX)
		st_attn_softmax(j->e, &s, j->in[0], j->out);
	else
		st_attn_mix(j->e, &s, j->in[0], c->v, c->v_width, j->out);
}

/* The arithmetic of one node of g on r's inputs; out has the size of st_run_value(r, i). */
static enum st_status node_eval(struct st_run *r, const struct st_graph *g, uint32_t i, const struct st_exec *e,
                                float *out, struct st_error *err)
{
	struct job j = { .r = r, .n = &g->nodes[i], .e = e, .T = r->T, .out = out };
	const struct st_node *n = j.n;
	for (int k = 0; k < 2; k++)
		if (n->in[k] != ST_NO_NODE) {
			struct st_value v = st_run_value(r, n->in[k]);
			j.in[k] = v.data;
			j.ld[k] = v.cols;
		}
	size_t elems = r->T * n->width;
	switch (n->op) {
	case ST_OP_EMBED:
		for (size_t t = 0; t < r->T; t++) /* another graph's vocabulary may be smaller than this run's */
			if (r->tokens[t] >= g->vocab)
				return st_fail(err, ST_ERR_MISMATCH, "token id %u, the other vocabulary has %u ids",
				               r->tokens[t], g->vocab);
		embed(&j);
		break;
	case ST_OP_RMSNORM:
		rmsnorm(&j);
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
		st_add(e, j.in[0], j.in[1], elems, out);
		break;
	case ST_OP_ACT:
		st_activate(e, n->act, j.in[0], elems, out);
		break;
	case ST_OP_MUL:
		st_mul(e, j.in[0], j.in[1], elems, out);
		break;
	}
	return ST_OK;
}

/* ---- one node of a run ---- */

struct label {
	char text[64];
};

/* "ffn_up of layer 3", "lm_head" */
static struct label label(const struct st_node *n)
{
	struct label l;
	if (n->layer < 0)
		snprintf(l.text, sizeof l.text, "%s", st_stage_name(n->stage));
	else
		snprintf(l.text, sizeof l.text, "%s of layer %d", st_stage_name(n->stage), n->layer);
	return l;
}

static enum st_status check_inputs(const struct st_run *r, uint32_t i, struct st_error *err)
{
	const struct st_node *n = &r->g->nodes[i];
	if (r->T == 0)
		return st_fail(err, ST_ERR_USAGE, "the run has not begun: no tokens");
	for (int j = 0; j < 2; j++) {
		if (n->in[j] == ST_NO_NODE)
			continue;
		const struct st_node *in = &r->g->nodes[n->in[j]];
		if (r->held[st_run_slot(in)] != n->in[j])
			return st_fail(err, ST_ERR_USAGE, "%s needs %s, which the run does not hold", label(n).text,
			               label(in).text);
	}
	return st_check_cancel(err);
}

enum st_status st_run_eval(struct st_run *r, uint32_t i, struct st_error *err)
{
	assert(i < r->g->n_nodes);
	ST_TRY(check_inputs(r, i, err));
	ST_TRY(node_eval(r, r->g, i, &r->e, st_run_value(r, i).data, err));
	st_run_settle(r, i);
	return ST_OK;
}

/* Same place in the same net, with inputs of the same size: only weights and parameters may differ. */
static bool equal_form(const struct st_graph *ga, const struct st_graph *gb, uint32_t i)
{
	if (i >= gb->n_nodes)
		return false;
	const struct st_node *a = &ga->nodes[i], *b = &gb->nodes[i];
	for (int j = 0; j < 2; j++)
		if (a->in[j] != ST_NO_NODE
		    && (b->in[j] != a->in[j] || ga->nodes[a->in[j]].width != gb->nodes[b->in[j]].width))
			return false;
	return a->stage == b->stage && a->layer == b->layer && a->op == b->op && a->in[0] == b->in[0]
	    && a->in[1] == b->in[1] && a->slice == b->slice && a->width == b->width && a->n_w == b->n_w
	    && a->heads == b->heads && a->head_dim == b->head_dim && a->kv_heads == b->kv_heads;
}

enum st_status st_run_eval_alone(struct st_run *r, const struct st_graph *g, uint32_t i, const struct st_exec *e,
                                 float *out, struct st_error *err)
{
	assert(i < r->g->n_nodes);
	if (!equal_form(r->g, g, i))
		return st_fail(err, ST_ERR_MISMATCH, "the other model has no %s of this form",
		               label(&r->g->nodes[i]).text);
	ST_TRY(check_inputs(r, i, err));
	return node_eval(r, g, i, e, out, err);
}
