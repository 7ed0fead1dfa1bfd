/* rows.c - mistakes in what a cache holds of earlier positions, and a norm on the other side of its rotation. */
#include "explain/attend.h"

#include "base/error.h"
#include "graph/basis.h"

#include <math.h>
#include <stdlib.h>

static enum st_status try_rows(struct st_attention *a, enum st_cause_code code, int rows, size_t slot, double turn,
                               struct st_error *err)
{
	struct st_attend as = st_attend_own(a);
	struct st_cause c = st_blame(code);
	as.rows = rows;
	as.slot = slot;
	as.turn = turn;
	if (code == ST_CAUSE_CACHE_SLOT)
		st_cause_put(&c, ST_PARAM_POSITION, (double)slot);
	if (code == ST_CAUSE_CACHE_POSITION)
		st_cause_put(&c, ST_PARAM_OFFSET, turn);
	return st_try_attend(a, &as, &c, err);
}

enum st_status st_test_rows(struct st_attention *a, struct st_error *err)
{
	if (a->P == a->T || a->from != ST_OP_SCORES)
		return ST_OK;
	ST_TRY(try_rows(a, ST_CAUSE_CACHE_MISSING_UPDATE, ST_ROWS_NEWEST_ZERO, 0, 0, err));
	if (a->rope) {
		ST_TRY(try_rows(a, ST_CAUSE_CACHE_UNROTATED, ST_ROWS_UNROTATED, 0, 0, err));
		ST_TRY(try_rows(a, ST_CAUSE_CACHE_UNROTATED, ST_ROWS_ALL_UNROTATED, 0, 0, err));
		for (int by = -2; by <= 2; by++)
			if (by)
				ST_TRY(try_rows(a, ST_CAUSE_CACHE_POSITION, ST_ROWS_TURNED, 0, by, err));
	}
	static const char *const how[ST_BITS] = { "four bits, and the zero point is lost",
		                                  "four bits between the least and the largest",
		                                  "four bits about zero" };
	for (int kind = 0; kind < ST_BITS; kind++)
		for (int adjacent = 0; adjacent < (a->rope ? 2 : 1); adjacent++) {
			struct st_attend as = st_attend_own(a);
			struct st_cause c = st_blame(ST_CAUSE_CACHE_QUANTISER);
			as.rows = ST_ROWS_FOUR_BITS;
			as.slot = (size_t)kind;
			as.adjacent = adjacent;
			st_cause_put_text(&c, ST_PARAM_HOW, how[kind]);
			ST_TRY(st_try_attend(a, &as, &c, err));
		}
	static const int kinds[] = { ST_ROWS_OVER, ST_ROWS_COPIED, ST_ROWS_ZERO };
	for (size_t k = 0; k < 3; k++) {
		double least = INFINITY, left;
		size_t best = 0;
		for (size_t s = 0; s < a->P - a->T; s++) {
			struct st_attend as = st_attend_own(a);
			as.rows = kinds[k];
			as.slot = s;
			ST_TRY(st_attend_leaves(a, &as, &left, err));
			if (left < least) {
				least = left;
				best = s;
			}
		}
		ST_TRY(try_rows(a, ST_CAUSE_CACHE_SLOT, kinds[k], best, 0, err));
	}
	return ST_OK;
}

/* ---- queries or keys of a decode step at another position: as a rotation it is named already ---- */

enum st_status st_test_step_position(struct st_trial *t, struct st_error *err)
{
	struct st_finding *f = t->best;
	(void)err;
	if (t->x->pass.step && f->cause.code == ST_CAUSE_ROPE_POSITION_OFFSET && f->n_equivalent < ST_MAX_EQUIVALENT)
		f->equivalent[f->n_equivalent++] = ST_CAUSE_CACHE_POSITION;
	return ST_OK;
}

/* ---- the rotation before the norm of Q and K ---- */

/* x: a row of heads as they come to the norm; turned, then normed, each head or the whole row. */
static void turn_and_norm(const struct st_node *norm, const struct st_node *rope, const float *w, const float *x,
                          double position, double *z, float *y)
{
	size_t d = rope->head_dim, half = rope->n_rot / 2, width = (size_t)rope->heads * d;
	size_t run = norm->op == ST_OP_RMSNORM ? width : d;
	for (size_t i = 0; i < width; i++)
		z[i] = x[i];
	for (size_t h = 0; h < width; h += d)
		for (size_t i = h; i < h + half; i++) {
			double angle = position * rope->inv_freq[i - h], c = cos(angle) * rope->mscale,
			       s = sin(angle) * rope->mscale, u = z[i], v = z[i + half];
			z[i] = u * c - v * s;
			z[i + half] = u * s + v * c;
		}
	for (size_t at = 0; at < width; at += run) {
		double square = 0;
		for (size_t i = at; i < at + run; i++)
			square += z[i] * z[i];
		double by = 1 / sqrt(square / (double)run + norm->eps);
		for (size_t i = 0; i < run; i++)
			y[at + i] = (float)(z[at + i] * by * (double)w[i]);
	}
}

static const struct st_node *rope_of(const struct st_trial *t, uint32_t norm)
{
	const struct st_graph *g = t->x->g;
	for (uint32_t k = norm + 1; k < g->n_nodes && g->nodes[k].layer == g->nodes[norm].layer; k++)
		if (g->nodes[k].op == ST_OP_ROPE && g->nodes[k].in[0] == norm)
			return &g->nodes[k];
	return NULL;
}

/* A trace with the same numbers behind norm and rotation has two explanations. An engine that norms last has normed
 * numbers in both. An engine that turns the norm's value in place before it is copied has turned ones. The numbers at
 * hand tell. */
static enum st_status try_order(struct st_trial *t, const float *y, struct st_error *err)
{
	struct st_cause c = st_blame(ST_CAUSE_NORM_ORDER);
	struct st_finding kept = *t->best;
	bool aliased = kept.cause.code == ST_CAUSE_CAPTURE_ALIASED || kept.cause.code == ST_CAUSE_STAGE_MISLABELLED;
	if (aliased)
		t->best->cause.confidence = ST_UNEXPLAINED;
	ST_TRY(st_try_value(t, y, &c, err));
	if (aliased && t->best->cause.code != ST_CAUSE_NORM_ORDER)
		*t->best = kept;
	return ST_OK;
}

/* Tried on the norm, or on the rotation behind it where the norm was not captured. A norm without a weight commutes
 * with the rotation. */
enum st_status st_test_order(struct st_trial *t, struct st_error *err)
{
	bool of_norm = t->n->op != ST_OP_ROPE;
	uint32_t i_norm = of_norm ? t->i : t->n->in[0];
	const struct st_node *norm = &t->x->g->nodes[i_norm], *rope = of_norm ? rope_of(t, t->i) : t->n;
	const struct st_weight *weight = norm->n_w ? norm->w[0] : NULL;
	if ((norm->op != ST_OP_HEADNORM && norm->op != ST_OP_RMSNORM) || !rope || !rope->inv_freq || rope->beyond.from
	    || !weight || weight->n_experts || norm->width != rope->width || rope->width != rope->heads * rope->head_dim
	    || (!of_norm && !t->x->inner[i_norm]) || !st_run_holds(t->x->run, norm->in[0]))
		return ST_OK;
	float *w = st_alloc_array((size_t)weight->tensor->n_elems, sizeof *w), *y = st_trial_buffer(t);
	double *z = st_alloc_array(rope->width, sizeof *z);
	enum st_status st = w && z ? ST_OK : st_fail(err, ST_ERR_NOMEM, "out of memory");
	if (st == ST_OK) {
		st_weight_decode(weight, 0, st_tensor_rows(weight->tensor), w);
		struct st_value in = st_run_value(t->x->run, norm->in[0]);
		for (size_t r = 0; r < t->T; r++)
			turn_and_norm(norm, rope, w, in.data + r * in.cols + norm->from[0], (double)(t->P - t->T + r),
			              z, y + r * t->n->width);
		st = try_order(t, y, err);
	}
	free(z);
	free(w);
	return st;
}
