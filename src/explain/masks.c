/* masks.c - mistakes in what a query sees: later positions, windows, padding. */
#include "explain/attend.h"

#include "base/error.h"

#include <math.h>

static enum st_status test_causal(struct st_attention *a, struct st_error *err)
{
	static const int32_t ahead[] = { ST_ALL_AHEAD, 1, -1 };
	for (size_t i = 0; i < 3; i++) {
		struct st_attend as = st_attend_own(a);
		struct st_cause c = st_blame(i ? ST_CAUSE_ATTN_MASK_OFF_BY_ONE : ST_CAUSE_ATTN_MASK_MISSING);
		as.ahead = ahead[i];
		if (i)
			st_cause_put(&c, ST_PARAM_OFFSET, ahead[i]);
		if (ahead[i] < 0 || (a->q && a->T > 1))
			ST_TRY(st_try_attend(a, &as, &c, err));
	}
	return ST_OK;
}

static enum st_status try_window(struct st_attention *a, uint32_t window, struct st_error *err)
{
	struct st_attend as = st_attend_own(a);
	struct st_cause c = st_blame(ST_CAUSE_ATTN_WINDOW);
	as.window = window;
	st_cause_put(&c, ST_PARAM_SLIDING_WINDOW, window);
	st_cause_put(&c, ST_PARAM_EXPECTED, a->scores->window);
	for (uint32_t i = 0; i < a->t->x->g->n_nodes; i++) {
		const struct st_node *n = &a->t->x->g->nodes[i];
		if (n->op == ST_OP_SCORES && n->window == window && n->layer != a->scores->layer) {
			st_cause_put(&c, ST_PARAM_LAYER, n->layer); /* whose window it is */
			break;
		}
	}
	ST_TRY(st_try_attend(a, &as, &c, err));
	if (!a->scores->window || a->t->x->pass.step == 0)
		return ST_OK;
	/* In a decode step a ring that begins elsewhere shows the same. */
	c = st_blame(ST_CAUSE_CACHE_RING_START);
	st_cause_put(&c, ST_PARAM_RING_START, window && window < a->P ? (double)(a->P - window) : 0);
	return st_try_attend(a, &as, &c, err);
}

/* No window, then the window that leaves least: of all there can be, or of the usual ones where the prompt is long. */
static enum st_status test_window(struct st_attention *a, struct st_error *err)
{
	uint32_t own = a->scores->window, best = own, P = (uint32_t)a->P;
	double least = INFINITY, left;
	struct st_attend as = st_attend_own(a);
	if (own && own < P) {
		ST_TRY(try_window(a, 0, err));
		ST_TRY(try_window(a, own + 1, err));
		if (own > 1)
			ST_TRY(try_window(a, own - 1, err));
	}
	bool every = P <= (st_attention_got(a) ? 256u : 48u);
	for (uint32_t w = 1; w < P; w++) {
		if (!every && (w & (w - 1)) != 0 && ((w - 1) & (w - 2)) != 0 && ((w + 1) & w) != 0)
			continue;
		as.window = w;
		ST_TRY(st_attend_leaves(a, &as, &left, err));
		if (left < least) {
			least = left;
			best = w;
		}
	}
	return best != own ? try_window(a, best, err) : ST_OK;
}

static enum st_status try_hidden(struct st_attention *a, size_t from, size_t to, struct st_error *err)
{
	struct st_attend as = st_attend_own(a);
	struct st_cause c = st_blame(ST_CAUSE_ATTN_MASK_PADDING);
	as.hide_from = from;
	as.hide_to = to;
	st_cause_put(&c, ST_PARAM_TOKEN, (double)from);
	if (to > from + 1)
		st_cause_put(&c, ST_PARAM_ROWS, (double)(to - from));
	return st_try_attend(a, &as, &c, err);
}

/* The first positions, or one position, are hidden. */
static enum st_status test_padding(struct st_attention *a, struct st_error *err)
{
	size_t most = a->P <= 256 || a->T == 1 ? a->P - 1 : 64;
	for (int single = 0; single < 2; single++) {
		double least = INFINITY, left;
		size_t best = 0;
		for (size_t n = 1; n <= most && n < a->P; n++) {
			struct st_attend as = st_attend_own(a);
			as.hide_from = single ? n : 0;
			as.hide_to = single ? n + 1 : n;
			ST_TRY(st_attend_leaves(a, &as, &left, err));
			if (left < least) {
				least = left;
				best = n;
			}
		}
		if (best)
			ST_TRY(try_hidden(a, single ? best : 0, single ? best + 1 : best, err));
	}
	return ST_OK;
}

enum st_status st_test_masks(struct st_attention *a, struct st_error *err)
{
	if (a->P < 2)
		return ST_OK;
	ST_TRY(test_causal(a, err));
	ST_TRY(test_window(a, err));
	return a->t->best->cause.confidence == ST_CONFIRMED ? ST_OK : test_padding(a, err);
}
