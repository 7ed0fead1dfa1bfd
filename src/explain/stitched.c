/* stitched.c - what a layer went on with was another stream than the one that was captured before it. */
#include "explain/hypotheses.h"

#include "base/error.h"

#include <stdlib.h>
#include <string.h>

/* A captured sum behind node i that `stream` goes into; ST_NO_NODE: none. */
static uint32_t sum_of(const struct st_trial *t, uint32_t stream)
{
	const struct st_graph *g = t->x->g;
	for (uint32_t k = t->i + 1; k < g->n_nodes && g->nodes[k].layer == t->n->layer; k++) {
		const struct st_node *n = &g->nodes[k];
		if (n->op == ST_OP_ADD && t->x->pass.at[k] && (n->in[0] == stream || n->in[1] == stream))
			return k;
	}
	return ST_NO_NODE;
}

/* The stream that the sum was really made of: what was captured of it, less what was added to it. to: with the captured
 * stream on entry. */
static enum st_status undo_sum(struct st_explainer *x, uint32_t stream, uint32_t sum, float *to, struct st_error *err)
{
	struct st_value v = st_run_value(x->run, sum);
	struct st_segment s;
	float *got = x->moved;
	bool *have = x->have_input;
	st_segment_find(x, sum, &s);
	for (uint32_t j = stream + 1; j < sum; j++) {
		struct st_value in = st_run_value(x->run, j);
		if (!x->input[j])
			continue;
		ST_TRY(st_capture_load(x, j, in.data, in.data, have, err));
		st_run_put(x->run, j, in.data);
	}
	ST_TRY(st_segment_eval(x, &s, &(struct st_way){ .edit = ST_NO_NODE }, x->candidate, err));
	ST_TRY(st_capture_load(x, sum, x->candidate, got, have, err));
	for (size_t k = 0; k < v.rows * v.cols; k++)
		to[k] += (float)((double)got[k] - x->candidate[k]);
	return ST_OK;
}

/* Two readers of a stream agree with each other, and not with what was captured of it: the trace was put together, or
 * the stream was changed between the two layers. */
enum st_status st_test_stitched(struct st_trial *t, struct st_error *err)
{
	struct st_explainer *x = t->x;
	uint32_t stream = t->n->in[0];
	if (t->i != t->s->node || t->best->cause.confidence == ST_CONFIRMED || stream == ST_NO_NODE || !x->input[stream]
	    || t->n->from[0] || !st_run_holds(x->run, stream))
		return ST_OK;
	uint32_t sum = sum_of(t, stream);
	struct st_value v = st_run_value(x->run, stream), u = st_trial_value(t);
	if (sum == ST_NO_NODE || st_run_value(x->run, sum).rows != v.rows || st_run_value(x->run, sum).cols != v.cols)
		return ST_OK;
	size_t size = v.rows * v.cols, own = u.rows * u.cols;
	float *kept = st_alloc_array(size, sizeof *kept), *other = st_alloc_array(size, sizeof *other),
	      *value = st_alloc_array(own, sizeof *value);
	enum st_status st = kept && other && value ? ST_OK : st_fail(err, ST_ERR_NOMEM, "out of memory");
	if (st == ST_OK) {
		memcpy(kept, v.data, size * sizeof *kept);
		memcpy(other, v.data, size * sizeof *other);
		memcpy(value, u.data, own * sizeof *value);
		st_run_put(x->run, t->i, x->got); /* what was captured is what the rest was made of */
		st = undo_sum(x, stream, sum, other, err);
		struct st_segment again;
		st_segment_find(x, t->s->node, &again);
		st_run_put(x->run, t->i, value);
		st_run_put(x->run, stream, other);
		if (st == ST_OK)
			st = st_run_eval_as(x->run, t->i, t->n, &x->exec, st_trial_buffer(t), err);
		st_run_put(x->run, stream, kept);
		struct st_cause c = st_blame(ST_CAUSE_CAPTURE_STITCHED);
		if (st == ST_OK)
			st = st_try_value(t, st_trial_buffer(t), &c, err);
	}
	free(kept);
	free(other);
	free(value);
	return st;
}
