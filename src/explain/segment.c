/*
 * segment.c - a captured value with what lies between it and the captured values before it.
 */
#include "explain/explain.h"

#include "base/error.h"
#include "base/rng.h"
#include "dtype/half.h"
#include "explain/rounding.h"
#include "graph/basis.h"

#include <math.h>
#include <string.h>

/* Positions that the trace lacks of an input are evaluated, so what was captured of it stands for it only where it has all
 * that are judged; all: of those before, too, which the operation looks back at. */
static void reach(struct st_explainer *x, uint32_t i, struct st_segment *s, bool all)
{
	all = all || st_node_looks_back(&x->g->nodes[i]);
	x->inner[i] = true;
	s->first = i < s->first ? i : s->first;
	s->n_inner++;
	for (uint32_t k = 0; k < ST_NODE_ALL_INPUTS; k++) {
		uint32_t in = st_node_input(&x->g->nodes[i], k);
		if (in == ST_NO_NODE || x->inner[in])
			continue;
		if (x->pass.at[in] && st_capture_covers(x, in, s->node, all)) {
			x->input[in] = true;
			s->from = in < s->from ? in : s->from;
		} else
			reach(x, in, s, all);
	}
}

void st_segment_find(struct st_explainer *x, uint32_t node, struct st_segment *s)
{
	memset(x->inner, 0, x->g->n_nodes * sizeof *x->inner);
	memset(x->input, 0, x->g->n_nodes * sizeof *x->input);
	*s = (struct st_segment){ .node = node, .first = node, .from = node };
	reach(x, node, s, false);
	s->from = s->first < s->from ? s->first : s->from;
}

static bool is_attention(const struct st_node *n) { return n->op == ST_OP_SCORES || n->op == ST_OP_MIX; }

/* The mode in which ggml multiplies by weights of a type: activations are rounded to what goes with it. */
static enum st_mode partner(const struct st_node *n)
{
	const struct st_tensor *t = n->w[0]->n_experts ? &n->w[0]->experts[0] : n->w[0]->tensor;
	const struct st_dtype_info *info = st_dtype_info(t->dtype);
	if (t->dtype == ST_DTYPE_F16)
		return ST_MODE_EMULATE_F16;
	if (t->dtype == ST_DTYPE_BF16)
		return ST_MODE_EMULATE_BF16;
	if (info->kind != ST_KIND_QUANT)
		return ST_MODE_EXACT;
	return info->block_elems >= 256 ? ST_MODE_EMULATE_Q8_K : ST_MODE_EMULATE_Q8_0;
}

/* What is rounded for one evaluation and then put back. */
struct operand {
	float *values, *kept;
	size_t n;
};

static enum st_status round_operand(const struct st_explainer *x, struct operand *o, float *values, size_t n,
                                    enum st_dtype type, size_t row, const struct st_order *as, struct st_error *err)
{
	*o = (struct operand){ .values = values, .n = n, .kept = st_alloc_array(n, sizeof *o->kept) };
	if (!o->kept)
		return st_fail(err, ST_ERR_NOMEM, "out of memory");
	memcpy(o->kept, values, n * sizeof *values);
	if (as->pairs)
		st_basis_to_pairs(values, n / as->head, as->head, as->pairs);
	if (as->turned)
		st_round_turned(x->exec.k, type, values, n, as->turned);
	else
		st_round_to(type, values, n, row);
	if (as->pairs)
		st_basis_to_half(values, n / as->head, as->head, as->pairs);
	return ST_OK;
}

static void put_back(struct operand *o)
{
	if (o->kept)
		memcpy(o->values, o->kept, o->n * sizeof *o->kept);
	free(o->kept);
}

/* Operands of attention and of GELU as the arithmetic has them. */
static enum st_status round_operands(struct st_explainer *x, const struct st_node *n, const struct st_arith *a,
                                     struct operand o[2], struct st_error *err)
{
	struct st_cached c = st_run_cached(x->run, n->layer);
	size_t P = st_run_positions(x->run);
	struct st_value in = st_run_value(x->run, n->in[0]);
	/* V is turned by 64. */
	struct st_order plain = { .head = n->head_dim, .turned = a->turned ? 64 : 0 }, key = st_key_order(x, n, a);
	bool gelu = n->op == ST_OP_ACT
	         && (n->act == ST_ACT_GELU || n->act == ST_ACT_GELU_TANH || n->act == ST_ACT_GELU_QUICK);
	if (gelu && a->table)
		return round_operand(x, &o[0], in.data, in.rows * in.cols, ST_DTYPE_F16, 1, &plain, err);
	if (n->op == ST_OP_SCORES && a->cache != ST_DTYPE_F32)
		ST_TRY(round_operand(x, &o[0], c.k, P * c.k_width, a->cache, c.k_width, &key, err));
	if (n->op == ST_OP_SCORES && a->query != ST_DTYPE_F32)
		ST_TRY(round_operand(x, &o[1], in.data, in.rows * in.cols, a->query, in.cols, &key, err));
	if (n->op == ST_OP_MIX && a->cache != ST_DTYPE_F32)
		ST_TRY(round_operand(x, &o[0], c.v, P * c.v_width, a->cache, c.v_width, &plain, err));
	return ST_OK;
}

/* Probabilities that were captured may lie where the mask hides: an engine that has lost it mixes them too. */
static void mix_hidden(struct st_explainer *x, const struct st_node *n, float *out)
{
	struct st_cached c = st_run_cached(x->run, n->layer);
	struct st_value probs = st_run_value(x->run, n->in[0]);
	size_t P = st_run_positions(x->run), T = st_run_tokens(x->run), group = n->heads / n->kv_heads,
	       d = c.v_width / n->kv_heads;
	for (size_t h = 0; h < n->heads && probs.rows * probs.cols == n->heads * T * P; h++)
		for (size_t t = 0; t < T; t++)
			for (size_t p = 0, q = P - T + t; p < P; p++) {
				bool seen = p <= q && (!n->window || p + n->window > q)
				         && (!n->chunk || p / n->chunk == q / n->chunk);
				float share = probs.data[(h * T + t) * P + p];
				for (size_t i = 0; i < d && !seen && share != 0; i++)
					out[(t * n->heads + h) * d + i] += share * c.v[p * c.v_width + h / group * d + i];
			}
}

/* The node as the run evaluates it. */
static enum st_status eval_as(struct st_explainer *x, uint32_t i, const struct st_node *n, const struct st_exec *e,
                              float *out, struct st_error *err)
{
	ST_TRY(st_run_eval_as(x->run, i, n, e, out, err));
	if (n->op == ST_OP_MIX && x->input[n->in[0]] && !x->inner[n->in[0]])
		mix_hidden(x, n, out);
	return ST_OK;
}

enum st_status st_eval_under(struct st_explainer *x, uint32_t i, const struct st_node *n, const struct st_arith *a,
                             float *out, struct st_error *err)
{
	struct st_exec e = x->exec;
	if (!a)
		return eval_as(x, i, n, &e, out, err);
	bool product = n->op == ST_OP_LINEAR || n->op == ST_OP_LINEAR_AT;
	if (product)
		e.mode = a->partner ? partner(n) : a->mode;
	else if (is_attention(n) && a->ops & (ST_ARITH_ATTENTION | ST_ARITH_ALL) && !a->partner)
		e.mode = a->mode;
	struct operand o[2] = { { 0 } };
	enum st_status st = n->in[0] == ST_NO_NODE ? ST_OK : round_operands(x, n, a, o, err);
	if (st == ST_OK)
		st = eval_as(x, i, n, &e, out, err);
	put_back(&o[1]);
	put_back(&o[0]);
	return st;
}

/* One node in a way: made, edited, or as it is. */
static enum st_status eval_node(struct st_explainer *x, uint32_t i, const struct st_way *w, float *out,
                                struct st_error *err)
{
	if (w->edit == i && w->make)
		return w->make(w->ctx, w, out, err);
	const struct st_node *also = w->also ? w->also(w->ctx, i) : NULL;
	const struct st_node *n = w->edit == i && w->as ? w->as : also ? also : &x->g->nodes[i];
	return st_eval_under(x, i, n, w->arith, out, err);
}

/* Moves values at random by a part of what rounding may do to them. */
static enum st_status move(struct st_explainer *x, uint32_t i, const struct st_way *w, float *v, size_t n,
                           struct st_error *err)
{
	if (x->g->nodes[i].op == ST_OP_TOP)
		return ST_OK; /* numbers of experts */
	memset(x->spare, 0, n * sizeof *x->spare);
	ST_TRY(st_bound_of_node(x, i, &x->g->nodes[i], w->arith, v, x->spare, err));
	uint64_t state = 0x9E3779B97F4A7C15u * (i + 1);
	for (size_t k = 0; k < n; k++)
		v[k] += (float)(w->jiggle * x->spare[k] * (2 * st_rng_uniform(&state) - 1));
	return ST_OK;
}

/* Within half a unit of the type that it was written down in. */
static void move_input(struct st_explainer *x, uint32_t i, enum st_dtype type, float *v, size_t n)
{
	uint64_t state = 0xD1B54A32D192ED03u * (i + 1);
	if (x->g->nodes[i].op == ST_OP_TOP)
		return;
	for (size_t k = 0; k < n; k++)
		v[k] += (float)(st_half_unit(type, v[k]) * (2 * st_rng_uniform(&state) - 1));
	st_run_put(x->run, i, v);
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
		if (!x->inner[i] && x->input[i] && w->move_inputs)
			move_input(x, i, w->arith->out, v.data, v.rows * v.cols);
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
		if (x->pass.at[i]) /* some positions of it are there */
			ST_TRY(st_capture_load(x, i, v.data, v.data, x->have_input, err));
		st_run_put(x->run, i, v.data);
	}
	return st_check_cancel(err);
}
