/*
 * agreement.c - whether both sides would say the same: their next tokens at every position, and what each layer of A
 * costs B's logits.
 */
#include "judge/agreement.h"

#include "base/error.h"
#include "kernel/kernel.h"

#include <stdlib.h>
#include <string.h>

/* ---- one position ---- */

struct prediction {
	struct st_position p;
	bool finite;
};

struct predictions {
	const float *a, *b; /* logits: [T, V] */
	size_t V;
	struct prediction *out; /* [T] */
};

static double log_sum_exp(const float *x, size_t n, double top)
{
	double sum = 0;
	for (size_t i = 0; i < n; i++)
		sum += st_exp((double)x[i] - top);
	return top + st_log(sum);
}

static void predict(const float *a, const float *b, size_t V, struct prediction *q)
{
	size_t above = 0;
	q->finite = true;
	for (size_t i = 0; i < V; i++)
		q->finite &= isfinite(a[i]) && isfinite(b[i]);
	if (!q->finite)
		return;
	struct st_lead of_b = st_lead_of(b, V);
	size_t best_a = st_lead_of(a, V).best, best_b = of_b.best;
	for (size_t i = 0; i < V; i++)
		above += a[i] > a[best_b] || (a[i] == a[best_b] && i < best_b);
	double la = log_sum_exp(a, V, (double)a[best_a]), lb = log_sum_exp(b, V, (double)b[best_b]), kl = 0;
	for (size_t i = 0; i < V; i++) {
		double ln_b = (double)b[i] - lb;
		kl += st_exp(ln_b) * (ln_b - ((double)a[i] - la));
	}
	q->p.rank = (uint32_t)above + 1;
	q->p.best_a = (uint32_t)best_a;
	q->p.best_b = (uint32_t)best_b;
	q->p.gap = of_b.gap;
	q->p.kl = kl > 0 ? kl : 0; /* a divergence is not negative; its rounding may be */
}

static void predict_some(void *ctx, unsigned lane, uint64_t begin, uint64_t end)
{
	const struct predictions *k = ctx;
	(void)lane;
	for (uint64_t t = begin; t < end && !st_cancelled(); t++)
		predict(k->a + t * k->V, k->b + t * k->V, k->V, &k->out[t]);
}

/* ---- all positions ---- */

/* The surest of B's predictions that A does not share come first. */
static void list_change(struct st_agreement *g, const struct st_position *p)
{
	size_t at = g->n_changed;
	while (at > 0 && g->changed[at - 1].gap < p->gap)
		at--;
	if (at == ST_MAX_CHANGED)
		return;
	g->n_changed += g->n_changed < ST_MAX_CHANGED;
	memmove(&g->changed[at + 1], &g->changed[at], (g->n_changed - 1 - at) * sizeof *p);
	g->changed[at] = *p;
}

/* The n largest logits, the first of equals first. */
static void likeliest(const float *x, size_t V, struct st_choice *out, size_t n)
{
	for (size_t k = 0; k < n; k++) {
		size_t best = SIZE_MAX;
		for (size_t i = 0; i < V; i++) {
			bool taken = k
			          && (x[i] > x[out[k - 1].token]
			              || (x[i] == x[out[k - 1].token] && i <= out[k - 1].token));
			if (!taken && (best == SIZE_MAX || x[i] > x[best]))
				best = i;
		}
		out[k].token = (uint32_t)best;
	}
	double sum = log_sum_exp(x, V, (double)x[out[0].token]);
	for (size_t k = 0; k < n; k++)
		out[k].probability = st_exp((double)x[out[k].token] - sum);
}

/* Of every token of one prompt; false when out of memory. */
static bool predictions_of(const float *a, const float *b, size_t T, size_t V, struct st_pool *pool,
                           struct prediction **out)
{
	struct predictions k = { a, b, V, st_alloc_zeroed(T, sizeof *k.out) };
	*out = k.out;
	if (k.out)
		st_pool_each(pool, T, V * 32, predict_some, &k);
	return k.out != NULL;
}

enum st_status st_agreement_add(struct st_agreement *g, uint32_t prompt, const uint32_t *tokens, struct st_value a,
                                struct st_value b, struct st_pool *pool, struct st_error *err)
{
	struct prediction *q;
	if (!predictions_of(a.data, b.data, b.rows, b.cols, pool, &q))
		return st_fail(err, ST_ERR_NOMEM, "out of memory");
	for (size_t t = 0; t < b.rows; t++) {
		if (!q[t].finite) {
			g->nonfinite++;
			continue;
		}
		struct st_position *p = &q[t].p;
		p->prompt = prompt;
		p->position = (uint32_t)t;
		p->token = tokens[t];
		g->positions++;
		g->top1 += p->best_a == p->best_b;
		g->top5 += p->rank <= 5;
		if (prompt == 0 && g->n_each < ST_MAX_EACH)
			g->each[g->n_each++] = *p;
		g->kl_sum += p->kl;
		g->kl_max = p->kl > g->kl_max ? p->kl : g->kl_max;
		if (p->best_a != p->best_b)
			list_change(g, p);
	}
	if (prompt == 0 && b.rows && q[b.rows - 1].finite) {
		g->n_last = b.cols < ST_MAX_LAST ? b.cols : ST_MAX_LAST;
		likeliest(a.data + (b.rows - 1) * b.cols, b.cols, g->last_a, g->n_last);
		likeliest(b.data + (b.rows - 1) * b.cols, b.cols, g->last_b, g->n_last);
	}
	g->prompts++;
	free(q);
	return st_check_cancel(err);
}

static enum st_status evaluate(struct st_run *r, const struct st_graph *g, const uint32_t *tokens, size_t n,
                               struct st_error *err)
{
	ST_TRY(st_run_begin(r, tokens, n, err));
	for (uint32_t i = 0; i < g->n_nodes; i++) {
		ST_TRY(st_run_eval(r, i, err));
		ST_TRY(st_check_cancel(err));
	}
	return ST_OK;
}

enum st_status st_agreement_of_prompt(struct st_agreement *g, const struct st_graph *ga, const struct st_graph *gb,
                                      uint32_t prompt, const uint32_t *tokens, size_t n, const struct st_exec *e,
                                      struct st_error *err)
{
	struct st_run *ra = NULL, *rb = NULL;
	enum st_status st;
	ST_TRY_OUT(st_run_open(ga, e, n, n, &ra, err));
	ST_TRY_OUT(st_run_open(gb, e, n, n, &rb, err));
	ST_TRY_OUT(evaluate(ra, ga, tokens, n, err));
	ST_TRY_OUT(evaluate(rb, gb, tokens, n, err));
	st = st_agreement_add(g, prompt, tokens, st_run_value(ra, ga->n_nodes - 1), st_run_value(rb, gb->n_nodes - 1),
	                      e->pool, err);
out:
	st_run_close(ra);
	st_run_close(rb);
	return st;
}

/* ---- layers ---- */

/* Nodes [first, end) of one layer; embedding, and final norm with head, are groups of their own. */
static uint32_t group_end(const struct st_graph *g, uint32_t first)
{
	uint32_t end = first + 1;
	while (end < g->n_nodes && g->nodes[end].layer == g->nodes[first].layer)
		end++;
	return end;
}

struct carried {
	const struct st_graph *ga, *gb;
	struct st_run *r;
	const struct st_exec *e;
	float *stream; /* values of B that groups begin with, one after another */
	float *logits; /* of B: [T, V] */
	float *alone;  /* as large as the largest value */
};

/* B with one group of A, from the stream that B has in front of it; *added: what the group then differs by. */
static enum st_status carry(const struct carried *c, uint32_t first, uint32_t end, const float *before,
                            const float *behind, double *kl, double *added, struct st_error *err)
{
	struct prediction *q = NULL;
	size_t T = st_run_tokens(c->r);
	if (first > 0)
		st_run_put(c->r, first - 1, before);
	for (uint32_t i = first; i < c->gb->n_nodes; i++) {
		ST_TRY(st_check_cancel(err));
		if (i >= end) {
			ST_TRY(st_run_eval(c->r, i, err));
			continue;
		}
		ST_TRY(st_run_eval_alone(c->r, c->ga, i, c->e, c->alone, err));
		st_run_put(c->r, i, c->alone);
		if (i + 1 < end)
			continue;
		struct st_value v = st_run_value(c->r, i);
		struct st_metrics m;
		st_metrics_of(v.data, behind, v.rows * v.cols, c->e->pool, &m);
		*added = m.rel_l2;
	}
	struct st_value y = st_run_value(c->r, c->gb->n_nodes - 1);
	if (!predictions_of(y.data, c->logits, T, y.cols, c->e->pool, &q))
		return st_fail(err, ST_ERR_NOMEM, "out of memory");
	double sum = 0;
	size_t n = 0;
	for (size_t t = 0; t < T; t++) {
		sum += q[t].finite ? q[t].p.kl : 0;
		n += q[t].finite;
	}
	free(q);
	*kl = n ? sum / (double)n : NAN;
	return ST_OK;
}

/* What the stages of a group add, over what their types account for: root mean square. NaN where none has a floor. */
static double over_usual(const struct st_stage_report *p, size_t n)
{
	double sum = 0;
	size_t used = 0;
	for (size_t i = 0; i < n; i++) {
		if (p[i].kind != ST_FLOOR_STORED_TYPES || !(p[i].local_floor > 0) || !isfinite(p[i].local_rel))
			continue;
		double x = p[i].local_rel / p[i].local_floor;
		sum += x * x;
		used++;
	}
	return used ? sqrt(sum / (double)used) : NAN;
}

void st_agreement_usual(struct st_agreement *g, const struct st_stage_report *stages, size_t n)
{
	g->over_usual = over_usual(stages, n);
}

enum st_status st_layer_costs(const struct st_graph *ga, const struct st_graph *gb, const uint32_t *tokens, size_t T,
                              const struct st_stage_report *stages, const struct st_exec *e,
                              const struct st_hooks *hooks, struct st_layer_cost *out, size_t *n, struct st_error *err)
{
	struct carried c = { .ga = ga, .gb = gb, .e = e };
	size_t widest = 0, total = 0;
	enum st_status st;
	*n = 0;
	ST_TRY_OUT(st_run_open(gb, e, T, T, &c.r, err));
	ST_TRY_OUT(st_run_begin(c.r, tokens, T, err));
	for (uint32_t i = 0; i < gb->n_nodes; i++) {
		struct st_value v = st_run_value(c.r, i);
		widest = v.rows * v.cols > widest ? v.rows * v.cols : widest;
		total += i + 1 == gb->n_nodes || gb->nodes[i + 1].layer != gb->nodes[i].layer ? v.rows * v.cols : 0;
	}
	c.alone = st_alloc_array(widest, sizeof *c.alone);
	c.stream = st_alloc_array(total, sizeof *c.stream);
	if (!c.alone || !c.stream) {
		st = st_fail(err, ST_ERR_NOMEM, "out of memory");
		goto out;
	}
	float *at = c.stream;
	for (uint32_t i = 0; i < gb->n_nodes; i++) {
		ST_TRY_OUT(st_run_eval(c.r, i, err));
		ST_TRY_OUT(st_check_cancel(err));
		struct st_value v = st_run_value(c.r, i);
		c.logits = at;
		if (i + 1 < gb->n_nodes && gb->nodes[i + 1].layer == gb->nodes[i].layer)
			continue;
		memcpy(at, v.data, v.rows * v.cols * sizeof *at);
		at += v.rows * v.cols;
	}
	const float *before = NULL;
	at = c.stream;
	for (uint32_t i = 0, end; i < gb->n_nodes; i = end) {
		end = group_end(gb, i);
		struct st_value v = st_run_value(c.r, end - 1);
		struct st_layer_cost cost = { .layer = gb->nodes[i].layer, .stage = gb->nodes[i].stage };
		cost.over_usual = over_usual(stages + i, end - i);
		if (!isnan(cost.over_usual)) {
			ST_TRY_OUT(carry(&c, i, end, before, at, &cost.kl, &cost.added, err));
			out[(*n)++] = cost;
		}
		before = at;
		at += v.rows * v.cols;
		if (hooks->progress)
			hooks->progress(hooks->user, "layer by layer", end, gb->n_nodes);
	}
out:
	st_run_close(c.r);
	free(c.alone);
	free(c.stream);
	return st;
}
