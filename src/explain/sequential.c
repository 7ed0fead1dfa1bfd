/* sequential.c - a feed-forward part beside attention that reads what attention made, as if it stood behind it. */
#include "explain/hypotheses.h"

#include "base/error.h"

#include <stdlib.h>
#include <string.h>

static bool is_norm(const struct st_node *n) { return n->op == ST_OP_RMSNORM || n->op == ST_OP_LAYERNORM; }

/* What attention gives to the stream of this layer, before node i: its output projection, with its bias. */
static uint32_t attention_of(const struct st_trial *t)
{
	uint32_t found = ST_NO_NODE;
	for (uint32_t k = t->s->from; k < t->i; k++) {
		const struct st_node *n = st_trial_node(t, k);
		if (n->layer != t->n->layer || n->in[0] == ST_NO_NODE)
			continue;
		bool projects = n->op == ST_OP_LINEAR && st_trial_node(t, n->in[0])->op == ST_OP_MIX,
		     goes_on = n->in[0] == found && (n->op == ST_OP_BIAS || n->op == ST_OP_SCALE);
		if (projects || goes_on)
			found = k;
	}
	return found;
}

/* Every node of the segment reads the norm of stream and attention; afterwards the norm's value is as it was. */
static enum st_status try_source(struct st_trial *t, uint32_t norm, uint32_t branch, struct st_error *err)
{
	struct st_run *run = t->x->run;
	const struct st_node *n = st_trial_node(t, norm);
	struct st_value x = st_run_value(run, n->in[0]), a = st_run_value(run, branch), y = st_run_value(run, norm);
	if (x.cols != a.cols || x.rows != a.rows)
		return ST_OK;
	size_t len = x.rows * x.cols, size = y.rows * y.cols;
	float *stream = st_alloc_array(len, sizeof *stream), *own = st_alloc_array(size, sizeof *own);
	enum st_status st = stream && own ? ST_OK : st_fail(err, ST_ERR_NOMEM, "out of memory");
	if (st == ST_OK) {
		memcpy(stream, x.data, len * sizeof *stream);
		memcpy(own, y.data, size * sizeof *own);
		for (size_t k = 0; k < len; k++)
			x.data[k] += a.data[k];
		float *normed = st_trial_buffer(t);
		st = st_run_eval_as(run, norm, n, &t->x->exec, normed, err);
		memcpy(x.data, stream, len * sizeof *stream);
		struct st_cause c = st_blame(ST_CAUSE_RESIDUAL_SEQUENTIAL);
		if (st == ST_OK && norm == t->i) {
			st = st_try_value(t, normed, &c, err);
		} else if (st == ST_OK) {
			memcpy(y.data, normed, size * sizeof *own);
			st = st_try_node(t, t->n, &c, err);
			memcpy(y.data, own, size * sizeof *own);
			if (st == ST_OK && t->s->n_inner > 1)
				st = st_segment_eval(t->x, t->s, &(struct st_way){ .edit = ST_NO_NODE },
				                     t->x->candidate, err);
		}
	}
	free(stream);
	free(own);
	return st;
}

/* Tried on the norm of the feed-forward part; on the first product that reads it, where that norm is attention's
 * own. */
enum st_status st_test_sequential(struct st_trial *t, struct st_error *err)
{
	uint32_t norm = is_norm(t->n) ? t->i : t->n->in[0], branch = ST_NO_NODE;
	if (t->n->layer < 0 || norm == ST_NO_NODE || !is_norm(st_trial_node(t, norm))
	    || (norm != t->i && t->x->inner[norm]))
		return ST_OK;
	for (uint32_t k = t->s->first; k < t->i; k++) /* tried at the first product already */
		if (t->x->inner[k] && st_trial_node(t, k)->in[0] == norm)
			return ST_OK;
	struct st_segment all = *t->s;
	all.from = norm;
	struct st_trial at = *t;
	at.s = &all;
	branch = attention_of(&at);
	uint32_t stream = st_trial_node(t, norm)->in[0];
	bool sums = stream != ST_NO_NODE && branch != ST_NO_NODE;
	/* It stands beside attention when the two read the same stream. */
	for (uint32_t k = 0; sums && k < t->i; k++)
		if (st_trial_node(t, k)->op == ST_OP_ADD && st_trial_node(t, k)->layer == t->n->layer && k == stream)
			sums = false;
	return sums && st_run_holds(t->x->run, stream) && st_run_holds(t->x->run, branch)
	                    && st_run_holds(t->x->run, norm)
	             ? try_source(t, norm, branch, err)
	             : ST_OK;
}
