/* biases.c - mistakes made with a bias. */
#include "explain/hypotheses.h"

#include "base/error.h"
#include "graph/basis.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Elements of weight k of the node. */
static size_t part_len(const struct st_trial *t, uint32_t k)
{
	const struct st_weight *w = t->n->w[k];
	return (size_t)(w->group_rows ? st_weight_rows(w) : st_weight_cols(w));
}

/* The node's value with each part's bias times a factor. */
static enum st_status try_parts(struct st_trial *t, const float *bias, const double by[ST_NODE_WEIGHTS],
                                struct st_cause *c, struct st_error *err)
{
	float *y = st_trial_buffer(t);
	for (size_t r = 0; r < t->T; r++) {
		size_t at = 0;
		for (uint32_t k = 0; k < t->n->n_w; k++) {
			size_t len = part_len(t, k);
			for (size_t i = at; i < at + len; i++)
				y[r * t->n->width + i] = (float)(t->in[0][r * t->ld[0] + i] + by[k] * bias[i]);
			at += len;
		}
	}
	return st_try_value(t, y, c, err);
}

/* The weights side by side; stored: in the order of the file, where that is another one. */
static enum st_status take_bias(struct st_trial *t, float *bias, float *stored, struct st_error *err)
{
	size_t at = 0;
	for (uint32_t k = 0; k < t->n->n_w; k++) {
		const struct st_weight *w = t->n->w[k];
		float *part = st_alloc_array((size_t)w->tensor->n_elems, sizeof *part);
		if (!part)
			return st_fail(err, ST_ERR_NOMEM, "out of memory");
		st_weight_decode(w, 0, 1, part);
		size_t len = part_len(t, k);
		memcpy(bias + at, part, len * sizeof *bias);
		if (w->interleaved && !w->group_rows)
			st_tensor_decode(w->tensor, 0, 1, part);
		memcpy(stored + at, part, len * sizeof *stored);
		free(part);
		at += len;
	}
	return at == t->n->width ? ST_OK
	                         : st_fail(err, ST_ERR_FORMAT, "a bias of %zu elements for %u", at, t->n->width);
}

/* The bias with each part's features in the other order of rotary pairs. */
static enum st_status test_orders(struct st_trial *t, const float *bias, struct st_error *err)
{
	const struct st_graph *g = t->x->g;
	float *other = st_alloc_array(t->n->width, sizeof *other);
	double ones[ST_NODE_WEIGHTS] = { 1, 1, 1, 1 };
	enum st_status st = other ? ST_OK : st_fail(err, ST_ERR_NOMEM, "out of memory");
	for (int to_pairs = 0; to_pairs < 2 && st == ST_OK; to_pairs++)
		for (int both = 0; both < 3 && st == ST_OK; both++) { /* q and k, q alone, k alone */
			memcpy(other, bias, t->n->width * sizeof *other);
			int n = 0;
			for (uint32_t k = t->i + 1; k < g->n_nodes && g->nodes[k].layer == t->n->layer; k++) {
				const struct st_node *rope = &g->nodes[k];
				uint32_t from;
				if (rope->op != ST_OP_ROPE || !st_capture_turned(t->x, t->i, rope, &from)
				    || (n++, both && n != both))
					continue;
				for (uint32_t i = 0; i < rope->heads * rope->head_dim; i++) {
					uint32_t in = i % rope->head_dim, h = i - in;
					uint64_t from_row = in >= rope->n_rot ? in
					                  : to_pairs          ? st_row_in_halves(in, rope->n_rot)
					                                      : st_row_in_pairs(in, rope->n_rot);
					other[from + i] = bias[from + h + from_row];
				}
			}
			struct st_cause c = st_blame(ST_CAUSE_BIAS_PERMUTED);
			if (n)
				st = try_parts(t, other, ones, &c, err);
		}
	free(other);
	return st;
}

/* Element t of the bias for position t, of all parts or of one; `stored`: in the order of the file. */
static enum st_status test_axis(struct st_trial *t, const float *bias, const float *stored, struct st_error *err)
{
	for (uint32_t k = 0; k <= t->n->n_w; k++) {
		float *y = st_trial_buffer(t);
		size_t at = 0;
		for (uint32_t j = 0; j < t->n->n_w; j++) {
			size_t len = part_len(t, j);
			for (size_t r = 0; r < t->T; r++)
				for (size_t i = 0; i < len; i++)
					y[r * t->n->width + at + i] = t->in[0][r * t->ld[0] + at + i]
					                            + (k == 0 || k == j + 1 ? stored[at + r % len]
					                                                    : bias[at + i]);
			at += len;
		}
		struct st_cause c = st_blame(ST_CAUSE_BIAS_WRONG_AXIS);
		if (k)
			st_blame_part(t, k - 1, &c);
		ST_TRY(st_try_value(t, y, &c, err));
	}
	return ST_OK;
}

enum st_status st_test_bias(struct st_trial *t, struct st_error *err)
{
	float *bias = st_alloc_array2(2, t->n->width, sizeof *bias), *stored = bias ? bias + t->n->width : NULL;
	if (!bias)
		return st_fail(err, ST_ERR_NOMEM, "out of memory");
	enum st_status st = take_bias(t, bias, stored, err);
	/* The whole bias missing, then each part. Then factors: as many as there are ranks that each add it, or a
	 * fitted one. */
	for (uint32_t k = 0; k <= t->n->n_w && st == ST_OK; k++) {
		if (k == 1 && t->n->n_w == 1)
			break;
		struct st_cause c = st_blame(ST_CAUSE_BIAS_MISSING);
		double by[ST_NODE_WEIGHTS];
		for (uint32_t j = 0; j < t->n->n_w; j++)
			by[j] = k == 0 || j + 1 == k ? 0 : 1;
		if (k)
			st_blame_part(t, k - 1, &c);
		st = try_parts(t, bias, by, &c, err);
	}
	if (st == ST_OK && st_trial_direct(t)) {
		double by[ST_NODE_WEIGHTS], most = 1;
		size_t at = 0;
		uint32_t which = 0;
		for (uint32_t k = 0; k < t->n->n_w; k++) {
			size_t len = part_len(t, k);
			double db = 0, bb = 0;
			for (size_t r = 0; r < t->T; r++)
				for (size_t i = at; i < at + len && st_trial_has(t, r); i++) {
					db += ((double)t->got[r * t->n->width + i] - t->in[0][r * t->ld[0] + i])
					    * bias[i];
					bb += (double)bias[i] * bias[i];
				}
			by[k] = bb > 0 ? db / bb : 1;
			if (fabs(by[k] - 1) > fabs(most - 1)) {
				most = by[k];
				which = k;
			}
			at += len;
		}
		struct st_cause c = st_blame(ST_CAUSE_BIAS_SCALED);
		st_cause_put(&c, ST_PARAM_FACTOR, most);
		st_blame_part(t, which, &c);
		st = try_parts(t, bias, by, &c, err);
	}
	if (st == ST_OK && t->best->cause.confidence != ST_CONFIRMED)
		st = test_orders(t, bias, err);
	if (st == ST_OK && t->best->cause.confidence != ST_CONFIRMED)
		st = test_axis(t, bias, stored, err);
	free(bias);
	return st;
}
