/* function.c - other weights that compute the same: claimed by the weights, borne out by the stages. */
#include "compare/function.h"

#include "base/error.h"
#include "judge/rosetta.h"

#include <string.h>

enum st_status st_rosetta_find_function(struct st_rosetta_state *s, struct st_pool *pool, struct st_error *err)
{
	struct st_rosetta *r = &s->r;
	size_t faults = 0, explained = 0;
	s->how = st_arena_alloc(&s->arena, r->n_weights ? r->n_weights : 1, sizeof *s->how);
	if (!s->how)
		return st_fail(err, ST_ERR_NOMEM, "out of memory");
	ST_TRY(st_find_same_function(s->ma, s->mb, r->weights, r->n_weights, pool, s->how, err));
	for (size_t i = 0; i < r->n_weights; i++) {
		faults += r->weights[i].status >= ST_WEIGHT_FAULT;
		explained += s->how[i] != NULL;
	}
	s->same_function = faults > 0 && explained == faults && !s->tokens_differ;
	for (size_t i = 0; i < r->n_config; i++)
		s->same_function &= !r->config[i].matters;
	return ST_OK;
}

static void claim(struct st_rosetta_state *s, enum st_confidence confidence, double left)
{
	struct st_rosetta *r = &s->r;
	size_t n = 0;
	for (size_t i = 0; i < r->n_weights; i++)
		n += s->how[i] != NULL;
	for (size_t i = 0; i < r->n_weights; i++) {
		struct st_weight_diff *d = &r->weights[i];
		if (!s->how[i])
			continue;
		d->side = 0;
		d->n_candidates = 0;
		d->cause = (struct st_cause){ .code = ST_CAUSE_WEIGHT_SAME_FUNCTION,
			                      .confidence = confidence,
			                      .residual_before = d->rel_l2,
			                      .residual_after = left,
			                      .floor = d->predicted };
		st_cause_put_text(&d->cause, ST_PARAM_HOW, s->how[i]);
		st_cause_put(&d->cause, ST_PARAM_TENSORS, (double)n);
	}
}

void st_rosetta_settle_function(struct st_rosetta_state *s, bool keep_going)
{
	struct st_rosetta *r = &s->r;
	if (!s->same_function) { /* something else is wrong, too, and the stages show that */
		claim(s, ST_LIKELY, NAN);
		return;
	}
	const struct st_stage_report *head = r->n_stages ? &r->stages[r->n_stages - 1] : NULL;
	/* The floors of all stages, as if all of them pulled one way. Values that have nothing in common are sqrt(2)
	 * apart, so more than half of the size is never allowed. */
	double allowed = 0;
	for (size_t i = 0; i < r->n_stages; i++)
		allowed += r->stages[i].local_floor;
	s->same_function = head && head->stage == ST_STAGE_LM_HEAD && !head->total.nonfinite_a
	                && !head->total.nonfinite_b && head->total.rel_l2 <= fmin(allowed, 0.5);
	if (s->same_function) {
		claim(s, ST_CONFIRMED, head->total.rel_l2);
		for (size_t i = 0; i < r->n_stages; i++) {
			struct st_stage_report *p = &r->stages[i];
			if (p->status < ST_STATUS_INHERITED)
				continue;
			p->status = p->total.rel_l2 > fmin(allowed, 0.5) ? ST_STATUS_REARRANGED
			          : p->total.rel_l2 > 0x1p-20            ? ST_STATUS_NOISE
			                                                 : ST_STATUS_ROUNDING;
		}
		return;
	}
	/* The logits do not agree. The first fault is where it was. */
	for (size_t i = 0; i < r->n_stages && !keep_going; i++)
		if (r->stages[i].status == ST_STATUS_FAULT)
			r->n_stages = i + 1;
}
