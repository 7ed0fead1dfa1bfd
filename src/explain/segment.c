/*
 * segment.c - a captured value with what lies between it and the captured values before it.
 */
#include "explain/explain.h"

#include "base/error.h"
#include "base/rng.h"
#include "dtype/half.h"
#include "explain/rounding.h"

#include <math.h>
#include <string.h>

static void reach(struct st_explainer *x, uint32_t i, struct st_segment *s)
{
	x->inner[i] = true;
	s->first = i < s->first ? i : s->first;
	s->n_inner++;
	for (uint32_t k = 0; k < ST_NODE_ALL_INPUTS; k++) {
		uint32_t in = st_node_input(&x->g->nodes[i], k);
		if (in == ST_NO_NODE || x->inner[in])
			continue;
		if (x->pass.at[in]) {
			x->input[in] = true;
			s->from = in < s->from ? in : s->from;
		} else
			reach(x, in, s);
	}
}

void st_segment_find(struct st_explainer *x, uint32_t node, struct st_segment *s)
{
	memset(x->inner, 0, x->g->n_nodes * sizeof *x->inner);
	memset(x->input, 0, x->g->n_nodes * sizeof *x->input);
	*s = (struct st_segment){ .node = node, .first = node, .from = node };
	reach(x, node, s);
}

static bool is_attention(const struct st_node *n) { return n->op == ST_OP_SCORES || n->op == ST_OP_MIX; }

/* One node in a way: under an arithmetic its products are made in its mode, K and V are rounded as its cache has them. */
static enum st_status eval_node(struct st_explainer *x, uint32_t i, const struct st_way *w, float *out,
                                struct st_error *err)
{
	const struct st_node *n = w->edit == i && w->as ? w->as : &x->g->nodes[i];
	struct st_exec e = x->exec;
	bool product = n->op == ST_OP_LINEAR || n->op == ST_OP_LINEAR_AT;
	if (w->arith && (product || (is_attention(n) && w->arith->ops & ST_ARITH_ATTENTION)))
		e.mode = w->arith->mode;
	if (!w->arith || w->arith->cache == ST_DTYPE_F32 || !is_attention(n))
		return st_run_eval_as(x->run, i, n, &e, out, err);
	struct st_cached c = st_run_cached(x->run, n->layer);
	float *rows = n->op == ST_OP_SCORES ? c.k : c.v;
	size_t len = st_run_positions(x->run) * (n->op == ST_OP_SCORES ? c.k_width : c.v_width);
	float *kept = st_alloc_array(len, sizeof *kept);
	if (!kept)
		return st_fail(err, ST_ERR_NOMEM, "out of memory");
	memcpy(kept, rows, len * sizeof *kept);
	st_round_to(w->arith->cache, rows, len, n->head_dim);
	enum st_status st = st_run_eval_as(x->run, i, n, &e, out, err);
	memcpy(rows, kept, len * sizeof *kept);
	free(kept);
	return st;
}

/* Moves values at random by a part of what rounding may do to them. */
static enum st_status move(struct st_explainer *x, uint32_t i, const struct st_way *w, float *v, size_t n,
                           struct st_error *err)
{
	memset(x->spare, 0, n * sizeof *x->spare);
	ST_TRY(st_bound_of_node(x, i, &x->g->nodes[i], w->arith ? w->arith->out : ST_DTYPE_F32, v, x->spare, err));
	uint64_t state = 0x9E3779B97F4A7C15u * (i + 1);
	for (size_t k = 0; k < n; k++)
		v[k] += (float)(w->jiggle * x->spare[k] * (2 * st_rng_uniform(&state) - 1));
	return ST_OK;
}

enum st_status st_segment_eval(struct st_explainer *x, const struct st_segment *s, const struct st_way *w, float *out,
                               struct st_error *err)
{
	for (uint32_t i = s->n_inner > 1 ? s->from : s->node; i <= s->node; i++) {
		struct st_value v = st_run_value(x->run, i);
		if (!x->inner[i] && x->input[i] && !st_run_holds(x->run, i)) {
			/* A later value of its like has its place by now. */
			ST_TRY(st_capture_load(x, i, v.data, v.data, x->have_input, err));
			st_run_put(x->run, i, v.data);
		}
		if (!x->inner[i])
			continue;
		float *to = i == s->node ? out : x->spare;
		if (w->edit == i && w->value)
			memmove(to, w->value, v.rows * v.cols * sizeof *to);
		else
			ST_TRY(eval_node(x, i, w, to, err));
		if (i == s->node)
			break;
		memcpy(v.data, to, v.rows * v.cols * sizeof *to);
		if (w->jiggle != 0)
			ST_TRY(move(x, i, w, v.data, v.rows * v.cols, err));
		st_run_put(x->run, i, v.data);
	}
	return st_check_cancel(err);
}
