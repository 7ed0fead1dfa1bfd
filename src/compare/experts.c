/*
 * experts.c - a choice among experts in another order.
 *
 * The graph says what belongs to one choice: what makes the scores that the best are chosen by, and the experts that the
 * chosen ones stand for. Where all of it is the other side's in one order, the choice is the same function.
 */
#include "compare/experts.h"

#include "arch/arch.h"
#include "base/error.h"
#include "graph/graph.h"

#define MOST 24 /* weights of one choice, of which each may be as many as there are experts */

struct choice {
	const struct st_graph *g;
	uint32_t top, experts;
	const struct st_weight *member[MOST];
	const struct st_weight_diff *router;
	size_t n;
	bool known; /* everything that the order reaches is understood */
};

/* A weight of a's graph; one that is not compared leaves the choice open. */
static void add(const struct st_move_search *s, struct choice *c, const struct st_weight *w)
{
	if (!w || !w->tensor)
		return;
	for (size_t k = 0; k < c->n; k++)
		if (c->member[k] == w)
			return;
	c->known &= c->n < MOST && (st_move_find(s, w, -1) || st_move_find(s, w, 0));
	if (c->known)
		c->member[c->n++] = w;
}

/* The scores of node i, one for each expert: from the router's product on, each step treats all experts alike. */
static void add_scores(const struct st_move_search *s, struct choice *c, uint32_t i)
{
	while (c->known) {
		const struct st_node *n = &c->g->nodes[i];
		bool alike = n->op == ST_OP_LINEAR || n->op == ST_OP_BIAS || n->op == ST_OP_SOFTMAX_ALL
		          || n->op == ST_OP_ACT || n->op == ST_OP_CLAMP || n->op == ST_OP_SOFTPLUS
		          || (n->op == ST_OP_SCALE && n->n_w == 0);
		if (!alike || n->width != c->experts || n->n_w > 1 || n->from[0]) {
			c->known = false;
			return;
		}
		if (n->n_w) {
			const struct st_weight_diff *d = st_move_find(s, n->w[0], -1);
			add(s, c, n->w[0]);
			if (n->op == ST_OP_LINEAR) {
				c->known &= d && (!c->router || c->router == d);
				c->router = d;
				return;
			}
		}
		i = n->in[0];
	}
}

/* What is done with the experts that were chosen. */
static void add_users(const struct st_move_search *s, struct choice *c)
{
	for (uint32_t i = c->top + 1; i < c->g->n_nodes && c->known; i++) {
		const struct st_node *n = &c->g->nodes[i];
		bool uses = false;
		for (uint32_t k = 0; k < ST_NODE_ALL_INPUTS; k++)
			uses |= st_node_input(n, k) == c->top;
		if (!uses)
			continue;
		if (n->in[1] == c->top && (n->op == ST_OP_LINEAR_AT || n->op == ST_OP_BIAS_AT))
			add(s, c, n->w[0]);
		else if (n->in[1] == c->top
		         && (n->op == ST_OP_SOFTMAX_OF || n->op == ST_OP_CHOSEN || n->op == ST_OP_NEAR_SHARES))
			add_scores(s, c, n->in[0]);
		else
			c->known = false;
	}
}

/* The best groups are chosen first: experts that were together must stay so. */
static bool keeps_groups(const uint64_t *order, uint64_t n, uint64_t groups)
{
	uint64_t of = groups > 1 ? n / groups : n;
	for (uint64_t i = 0; i < n; i++)
		if (order[i] / of != order[i / of * of] / of)
			return false;
	return true;
}

/* A weight of each expert, or a row or a number for each in one. */
static enum st_status has_order(struct st_move_search *s, const struct st_weight *w, const uint64_t *order,
                                uint64_t experts, bool *yes)
{
	const struct st_weight_diff *d = st_move_find(s, w, -1);
	struct st_move rows = { .row = order }, m = d && d->rows == 1 ? st_move_of_vector(&rows) : rows, none = { 0 };
	*yes = d && st_move_comparable(d) && (d->rows == experts || (d->rows == 1 && d->cols == experts));
	if (d)
		return *yes ? st_move_fits(s, d, &m, yes) : ST_OK;
	const struct st_weight_diff *first = st_move_find(s, w, 0);
	*yes = true;
	for (uint64_t e = 0; e < experts && *yes; e++) {
		const struct st_weight_diff *own = st_move_of_expert(s, first, e), *other = st_move_of_expert(s, first, order[e]);
		*yes = own && other && st_move_comparable(own) && st_move_comparable(other);
		if (!*yes)
			return ST_OK;
		struct st_weight_diff pair = *own;
		pair.b = other->b;
		ST_TRY(st_move_fits(s, &pair, &none, yes));
	}
	return ST_OK;
}

static void claim(struct st_move_search *s, const struct choice *c)
{
	static const char how[] = "experts in another order, and their router with them";
	for (size_t i = 0; i < c->n; i++) {
		const struct st_weight_diff *d = st_move_find(s, c->member[i], -1), *first = st_move_find(s, c->member[i], 0);
		st_move_claim(s, &d, 1, how);
		for (uint64_t e = 0; e < c->experts && first; e++) {
			d = st_move_of_expert(s, first, e);
			st_move_claim(s, &d, 1, how);
		}
	}
}

static enum st_status find_choice(struct st_move_search *s, const struct st_graph *g, uint32_t top)
{
	const struct st_node *n = &g->nodes[top];
	struct choice c = { .g = g, .top = top, .experts = g->nodes[n->in[0]].width, .known = true };
	uint64_t *order;
	bool yes = true;
	add_scores(s, &c, n->in[0]);
	if (n->n_w && c.known)
		add(s, &c, n->w[0]);
	add_users(s, &c);
	if (!c.known || !c.router || !st_move_comparable(c.router) || c.router->rows != c.experts
	    || !st_move_at_fault(c.router)) /* another order is another router */
		return ST_OK;
	ST_TRY(st_move_order(s, c.router, NULL, 1, &order));
	if (!order || st_move_is_identity(order, c.experts) || !keeps_groups(order, c.experts, n->groups.all))
		return ST_OK;
	for (size_t i = 0; i < c.n && yes; i++)
		ST_TRY(has_order(s, c.member[i], order, c.experts, &yes));
	if (yes)
		claim(s, &c);
	return ST_OK;
}

enum st_status st_find_expert_orders(struct st_move_search *s)
{
	const struct st_graph *g = st_model_graph(s->ma);
	enum st_status st = ST_OK;
	for (uint32_t i = 0; g && i < g->n_nodes && st == ST_OK; i++) {
		if (g->nodes[i].op != ST_OP_TOP)
			continue;
		st_arena_init(&s->arena);
		st = find_choice(s, g, i);
		st_arena_release(&s->arena);
	}
	return st;
}
