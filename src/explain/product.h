/*
 * product.h - a matrix product as mistakes are tried in it: rows of features, each made of a row of inputs by one
 * matrix. A product with chosen experts has one row for each choice, and as many matrices as there are experts.
 */
#ifndef ST_EXPLAIN_PRODUCT_H
#define ST_EXPLAIN_PRODUCT_H

#include "explain/hypotheses.h"

#include <math.h>

/* The value is [rows, N], the choices of a position one below another. */
struct st_product {
	const struct st_trial *t;
	size_t rows, N, C; /* C: rows of a position */
	size_t K;          /* features of an input row */
	size_t E;          /* matrices */
	size_t each;       /* floats from one choice's inputs to the next; 0: all choices have the same */
};

/* A weight, and where its features stand in a row. */
struct st_part {
	uint32_t k;
	const struct st_weight *w;
	size_t at, len;
};

static inline struct st_product st_product_of(const struct st_trial *t)
{
	struct st_value v = st_trial_value(t);
	const struct st_weight *w = t->n->w[0];
	bool experts = t->n->op == ST_OP_LINEAR_AT;
	struct st_product p = { .t = t, .C = experts ? t->n->choices : 1, .E = experts ? w->n_experts : 1 };
	p.rows = v.rows * p.C;
	p.N = v.cols / p.C;
	p.K = experts ? (size_t)st_tensor_cols(&w->experts[0]) : (size_t)st_weight_cols(w);
	p.each = experts && t->ld[0] != p.K ? p.K : 0;
	return p;
}

static inline struct st_part st_product_part(const struct st_trial *t, uint32_t k)
{
	struct st_part p = { .k = k, .w = t->n->w[k] };
	for (uint32_t j = 0; j < k; j++)
		p.at += (size_t)st_weight_rows(t->n->w[j]);
	p.len = t->n->op == ST_OP_LINEAR_AT ? t->n->width / t->n->choices : (size_t)st_weight_rows(p.w);
	return p;
}

static inline bool st_product_has(const struct st_product *p, size_t row) { return st_trial_has(p->t, row / p->C); }

static inline const float *st_product_input(const struct st_product *p, size_t row)
{
	return p->t->in[0] + row / p->C * p->t->ld[0] + row % p->C * p->each;
}

/* Which matrix a row is made by. */
static inline size_t st_product_matrix(const struct st_product *p, size_t row)
{
	return p->E == 1 ? 0 : (size_t)p->t->in[1][row / p->C * p->t->ld[1] + row % p->C];
}

/* Row n of matrix e of a weight of that form, in the order of the value's features. */
static inline void st_product_row(const struct st_product *p, const struct st_weight *w, size_t e, size_t n, float *to)
{
	if (p->t->n->op == ST_OP_LINEAR_AT)
		st_tensor_decode(&w->experts[e], n, 1, to);
	else
		st_weight_decode(w, n, 1, to);
}

/* A quick look at a few elements before the whole product is made under a hypothesis. */
struct st_glance {
	double left, before, square; /* sums of squares: of the difference under it, of the one without it, of the value */
};
#define ST_GLANCED ((size_t)16) /* features that are looked at */

static inline void st_glance_add(struct st_glance *g, double got, double exact, double tried)
{
	g->left += (tried - got) * (tried - got);
	g->before += (got - exact) * (got - exact);
	g->square += tried * tried;
}

static inline bool st_glance_promises(const struct st_glance *g, const struct st_trial *t)
{
	double n = sqrt(g->square);
	return n > 0 && g->before > 0 && st_trial_promises(t, sqrt(g->left) / n, sqrt(g->before) / n);
}

/* orders.c, parts.c */
ST_MUST_CHECK enum st_status st_test_product_order(struct st_trial *t, struct st_error *err);
ST_MUST_CHECK enum st_status st_test_parts_of_sum(struct st_trial *t, struct st_error *err);

#endif
