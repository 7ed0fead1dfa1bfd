/*
 * consistency.c - one arithmetic for the whole trace.
 *
 * Every arithmetic is benign by itself. A layer that alone needs another one than the same operation has in all other
 * layers, on weights of the same type, does not do what the others do: an engine has one kernel for them. Engines that
 * place some layers on another device differ in more than one of them, and nothing is said.
 */
#include "explain/explain.h"

#include <stdio.h>
#include <string.h>

#define OTHERS 3     /* layers at least that agree */
#define FAR 4.0      /* times what f32 may do to an element: a bound of statistics may be exceeded by a little */
#define OF_SIZE 0.25 /* of what the arithmetic does, at least */

static const struct st_weight *weight_of(const struct st_explainer *x, const struct st_explained_stage *s)
{
	uint32_t i = st_graph_find(x->g, s->stage, s->layer);
	return i != ST_NO_NODE && x->g->nodes[i].n_w ? x->g->nodes[i].w[0] : NULL;
}

static bool alike(const struct st_explainer *x, const struct st_explained_stage *a, const struct st_explained_stage *b)
{
	const struct st_weight *v = weight_of(x, a), *w = weight_of(x, b);
	bool types = !v || !w ? v == w : v->tensor && w->tensor && v->tensor->dtype == w->tensor->dtype;
	return types && a->stage == b->stage && a->operations == b->operations && a->since == b->since
	    && a->layer - a->since_layer == b->layer - b->since_layer;
}

/* Its arithmetic is plainly coarser than f32. */
static bool coarse(const struct st_explainer *x, size_t i)
{
	const struct st_explained_stage *s = &x->r.stages[i];
	const struct st_fit *f = &x->fits[i];
	return s->status == ST_STATUS_NOISE && f->arith && !f->arith->dump && f->plain > FAR
	    && s->m.rel_l2 >= OF_SIZE * s->floor;
}

/* Whether stage i is coarse, and f32 accounts for its like in all other layers. */
static bool alone(const struct st_explainer *x, size_t i, size_t from, size_t end)
{
	size_t others = 0;
	if (!coarse(x, i))
		return false;
	for (size_t k = from; k < end; k++) {
		const struct st_explained_stage *s = &x->r.stages[k];
		if (k == i || !alike(x, &x->r.stages[i], s))
			continue;
		if (s->status != ST_STATUS_EXACT && s->status != ST_STATUS_ROUNDING)
			return false;
		others++;
	}
	return others >= OTHERS;
}

bool st_finding_insert(struct st_explainer *x, const struct st_finding *f)
{
	size_t at = x->r.n_findings;
	if (at == ST_MAX_FINDINGS)
		return false;
	while (at > 0 && x->r.findings[at - 1].stage != SIZE_MAX && x->r.findings[at - 1].stage >= f->stage)
		at--;
	memmove(&x->r.findings[at + 1], &x->r.findings[at], (x->r.n_findings - at) * sizeof *f);
	x->r.findings[at] = *f;
	x->r.n_findings++;
	return true;
}

static void find(struct st_explainer *x, size_t i, bool named)
{
	struct st_explained_stage *s = &x->r.stages[i];
	struct st_finding f = { .stage = i, .at = s->stage, .layer = s->layer };
	f.cause = (struct st_cause){ .code = ST_CAUSE_NUMERIC_LOW_PRECISION,
		                     .confidence = ST_CONFIRMED,
		                     .residual_before = s->m.rel_l2,
		                     .residual_after = x->fits[i].by_size ? s->m.rel_l2 : x->fits[i].rel,
		                     .floor = s->floor };
	st_cause_put_text(&f.cause, ST_PARAM_HOW, s->arithmetic);
	snprintf(f.structure, sizeof f.structure, "f32 accounts for %s in all other layers", st_stage_name(s->stage));
	s->status = ST_STATUS_FAULT;
	if (!named || !st_finding_insert(x, &f))
		x->r.n_more++;
}

void st_check_consistency(struct st_explainer *x, bool keep_going)
{
	for (size_t from = 0, end; from < x->r.n_stages; from = end) {
		int32_t layer = -1;
		bool one = true;
		for (end = from; end < x->r.n_stages && x->r.stages[end].step == x->r.stages[from].step;)
			end++;
		for (size_t i = from; i < end; i++)
			if (alone(x, i, from, end)) {
				one = one && (layer < 0 || layer == x->r.stages[i].layer);
				layer = x->r.stages[i].layer;
			}
		for (size_t i = from; i < end && one && layer >= 0; i++)
			if (x->r.stages[i].layer == layer && alone(x, i, from, end))
				find(x, i, keep_going || !x->r.n_findings || x->r.findings[0].stage > i);
	}
}
