/*
 * beside.c - a second trace of the same tokens: of another engine, placed on the same scale, or of the same one.
 *
 * Neither trace is the measure of the other. Each is judged by itself, by how far its values are from the exact ones given
 * its own inputs; so a reference that is the less exact side, or the wrong one, is seen.
 */
#include "explain/explain.h"

#include "base/error.h"
#include "kernel/kernel.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- greedy tokens that part ---- */

/* The last row of the logits of a pass; NULL, with ST_OK: they were not captured. Freed by the caller. */
static enum st_status last_logits(const struct st_explainer *x, uint32_t step, float **out, uint64_t *n,
                                  struct st_error *err)
{
	const struct st_trace_entry *e = st_trace_find(x->t, ST_STAGE_LM_HEAD, -1, step);
	*out = NULL;
	if (!e || !e->rows)
		return ST_OK;
	*n = e->cols;
	*out = st_alloc_array(e->cols, sizeof **out);
	if (!*out)
		return st_fail(err, ST_ERR_NOMEM, "out of memory");
	st_tensor_decode(e->tensor, e->rows - 1, 1, *out);
	return ST_OK;
}

/* Whether the two step tokens that differ first are each the best of its trace's own logits. */
static enum st_status find_parting(const struct st_explainer *x, const struct st_explainer *y, size_t step,
                                   struct st_beside *b, struct st_error *err)
{
	const struct st_provenance *p = &x->r.trace, *q = &y->r.trace;
	float *u = NULL, *v = NULL;
	uint64_t n = 0, m = 0;
	if (step >= p->n_steps || step >= q->n_steps)
		return ST_OK; /* one goes on for longer */
	enum st_status st = last_logits(x, (uint32_t)step, &u, &n, err);
	if (st == ST_OK)
		st = last_logits(y, (uint32_t)step, &v, &m, err);
	uint32_t here = p->step_tokens[step], there = q->step_tokens[step];
	if (st == ST_OK && u && v && n == m && here < n && there < n && st_lead_of(u, n).best == here
	    && st_lead_of(v, n).best == there) {
		b->parted = true;
		b->after = (uint32_t)step;
		b->here = here;
		b->there = there;
		b->gap_here = (double)u[here] - u[there];
		b->gap_there = (double)v[there] - v[here];
		for (size_t i = 0; i < n; i++)
			b->rank_here += u[i] >= u[there];
	}
	free(u);
	free(v);
	return st;
}

/* Whether both traces had the same tokens for a pass. */
static bool is_shared(const struct st_beside *b, uint32_t step) { return !b->parted || step <= b->after; }

/* ---- the same values ---- */

static const struct st_explained_stage *find_stage(const struct st_explain *r, const struct st_explained_stage *s)
{
	for (size_t i = 0; i < r->n_stages; i++)
		if (r->stages[i].stage == s->stage && r->stages[i].layer == s->layer && r->stages[i].step == s->step)
			return &r->stages[i];
	return NULL;
}

static bool same_list(const uint32_t *a, size_t n, const uint32_t *b, size_t m, size_t *at)
{
	for (*at = 0; *at < n && *at < m; ++*at)
		if (a[*at] != b[*at])
			return false;
	return n == m;
}

/* Distances to exact of the stages that both have. */
static void measure(const struct st_explain *a, struct st_beside *b)
{
	const struct st_explain *c = b->judged;
	double here = 0, there = 0;
	size_t shared = 0, shared_there = 0;
	for (size_t i = 0; i < a->n_stages; i++) {
		const struct st_explained_stage *s = &a->stages[i], *t = find_stage(c, s);
		if (!is_shared(b, s->step))
			continue;
		shared++;
		if (!t) {
			b->only_here++;
			continue;
		}
		if (!isfinite(s->m.rel_l2) || !isfinite(t->m.rel_l2))
			continue;
		b->compared++;
		here += s->m.rel_l2 * s->m.rel_l2;
		there += t->m.rel_l2 * t->m.rel_l2;
		b->nearer_here += s->m.rel_l2 < t->m.rel_l2;
		b->nearer_there += t->m.rel_l2 < s->m.rel_l2;
	}
	for (size_t i = 0; i < c->n_stages; i++)
		shared_there += is_shared(b, c->stages[i].step);
	b->only_there = shared_there - (shared - b->only_here);
	b->has_top1 = a->has_top1 && c->has_top1 && !b->parted;
	b->top1_agree = b->has_top1 && a->top1 == c->top1;
	b->rms_here = b->compared ? sqrt(here / (double)b->compared) : NAN;
	b->rms_there = b->compared ? sqrt(there / (double)b->compared) : NAN;
}

/* Whether two entries hold the same numbers, and how far they are apart. */
static enum st_status same_bits(const struct st_trace_entry *a, const struct st_trace_entry *b, bool *same, double *rel,
                                struct st_error *err)
{
	double dd = 0, yy = 0;
	*same = a->rows == b->rows && a->cols == b->cols && a->n_positions == b->n_positions;
	*rel = INFINITY;
	if (!*same)
		return ST_OK;
	float *u = st_alloc_array2(2, a->cols, sizeof *u), *v = u ? u + a->cols : NULL;
	if (!u)
		return st_fail(err, ST_ERR_NOMEM, "out of memory");
	for (uint64_t r = 0; r < a->rows; r++) {
		st_tensor_decode(a->tensor, r, 1, u);
		st_tensor_decode(b->tensor, r, 1, v);
		*same = *same && memcmp(u, v, a->cols * sizeof *u) == 0;
		for (uint64_t c = 0; c < a->cols; c++) {
			dd += ((double)u[c] - v[c]) * ((double)u[c] - v[c]);
			yy += (double)v[c] * v[c];
		}
	}
	free(u);
	*rel = yy > 0 ? sqrt(dd / yy) : 0;
	return ST_OK;
}

static enum st_status compare_bits(struct st_explainer *x, struct st_explainer *y, struct st_beside *b,
                                   struct st_error *err)
{
	const struct st_provenance *p = &x->r.trace, *q = &y->r.trace;
	b->same_path = strcmp(p->engine, q->engine) == 0 && strcmp(p->backend, q->backend) == 0
	            && strcmp(p->mode, q->mode) == 0;
	for (size_t i = 0; i < x->r.n_stages; i++) {
		const struct st_explained_stage *s = &x->r.stages[i];
		const struct st_trace_entry *e = st_trace_find(x->t, s->stage, s->layer, s->step),
					    *f = st_trace_find(y->t, s->stage, s->layer, s->step);
		bool same;
		double rel;
		if (!e || !f || !is_shared(b, s->step))
			continue;
		ST_TRY(same_bits(e, f, &same, &rel, err));
		b->equal += same;
		b->differ += !same;
		if (!same && b->first == SIZE_MAX) {
			b->first = i;
			b->rel = rel;
		}
	}
	return ST_OK;
}

enum st_status st_set_beside(struct st_explainer *x, struct st_explainer *y, bool bits, struct st_beside **out,
                             struct st_error *err)
{
	const struct st_provenance *p = &x->r.trace, *q = &y->r.trace;
	struct st_beside *b = st_arena_alloc(&x->arena, 1, sizeof *b);
	ST_NEED(b);
	b->judged = &y->r;
	b->first = SIZE_MAX;
	*out = b;
	b->same_tokens = same_list(p->tokens, p->n_tokens, q->tokens, q->n_tokens, &b->at);
	if (b->same_tokens && !same_list(p->step_tokens, p->n_steps, q->step_tokens, q->n_steps, &b->at)) {
		ST_TRY(find_parting(x, y, b->at, b, err));
		b->same_tokens = b->parted;
		b->at += p->n_tokens;
	}
	if (!b->same_tokens)
		return ST_OK;
	measure(&x->r, b);
	return bits ? compare_bits(x, y, b, err) : ST_OK;
}

/*
 * Equal inputs and another result. Where both are what arithmetic may do, this is noise that the engine makes. A fault of
 * the second run is one of the engine.
 */
void st_judge_again(struct st_explainer *x, const struct st_beside *b)
{
	if (x->r.verdict != ST_VERDICT_FAULT && b->judged->verdict == ST_VERDICT_FAULT) {
		x->r.verdict = ST_VERDICT_FAULT;
		x->r.first = b->judged->first;
		x->r.first.side = 'b';
	}
	if (x->r.verdict == ST_VERDICT_MATCH && (b->differ || b->judged->verdict == ST_VERDICT_NOISE))
		x->r.verdict = ST_VERDICT_NOISE;
	if (x->r.verdict != ST_VERDICT_FAULT && b->judged->verdict == ST_VERDICT_UNDECIDED)
		x->r.verdict = ST_VERDICT_UNDECIDED;
	if (b->first == SIZE_MAX || !b->same_path)
		return;
	const struct st_explained_stage *s = &x->r.stages[b->first];
	struct st_finding f = { .stage = b->first, .at = s->stage, .layer = s->layer };
	f.cause = (struct st_cause){ .code = ST_CAUSE_NUMERIC_NONDETERMINISTIC,
		                     .confidence = ST_CONFIRMED,
		                     .residual_before = b->rel,
		                     .floor = s->floor };
	snprintf(f.structure, sizeof f.structure, "%zu values are equal, %zu are not; what this one is made of is equal",
	         b->equal, b->differ);
	st_explain_say(x, &f);
	(void)st_finding_insert(x, &f);
}
