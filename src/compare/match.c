/* match.c - names first, values where names say nothing. */
#include "compare/match.h"

#include "arch/arch.h"
#include "base/error.h"
#include "base/mem.h"
#include "compare/pair.h"

#include <stdlib.h>
#include <string.h>

#define FEW 4             /* rows by which two tensors are found to be one */
#define MOST_TRIES 200000 /* pairs of tensors that are looked at for it */

struct item {
	const struct st_weight *w;
	struct st_name_parts name;
	size_t order;   /* in its model */
	size_t partner; /* among the other side's items, or SIZE_MAX */
};

struct side {
	struct item *item; /* sorted by layer, expert, stem */
	size_t n;
	bool gguf;
};

static int by_place(const void *x, const void *y)
{
	const struct item *a = x, *b = y;
	if (a->name.layer != b->name.layer)
		return a->name.layer < b->name.layer ? -1 : 1;
	if (a->name.expert != b->name.expert)
		return a->name.expert < b->name.expert ? -1 : 1;
	int s = strcmp(a->name.stem, b->name.stem);
	return s ? s : strcmp(a->name.last, b->name.last);
}

static enum st_status list(const struct st_model *m, struct side *s, struct st_error *err)
{
	*s = (struct side){ .n = st_model_n_weights(m), .gguf = st_model_has_gguf_names(m) };
	s->item = st_alloc_array(s->n ? s->n : 1, sizeof *s->item);
	if (!s->item)
		return st_fail(err, ST_ERR_NOMEM, "out of memory");
	for (size_t i = 0; i < s->n; i++) {
		const struct st_weight *w = st_model_weight_at(m, i);
		s->item[i] = (struct item){ .w = w, .order = i, .partner = SIZE_MAX };
		st_name_take_apart(w->tensor->name, &s->item[i].name);
	}
	qsort(s->item, s->n, sizeof *s->item, by_place);
	return ST_OK;
}

static void join(struct side *a, size_t i, struct side *b, size_t k)
{
	a->item[i].partner = k;
	b->item[k].partner = i;
}

/* The items of b with the layer and the expert of `like`: [*from, *to). */
static void group(const struct side *b, const struct item *like, size_t *from, size_t *to)
{
	size_t low = 0, high = b->n;
	while (low < high) {
		size_t mid = low + (high - low) / 2;
		const struct st_name_parts *p = &b->item[mid].name;
		bool before = p->layer != like->name.layer ? p->layer < like->name.layer
		                                           : p->expert < like->name.expert;
		if (before)
			low = mid + 1;
		else
			high = mid;
	}
	*from = low;
	while (low < b->n && b->item[low].name.layer == like->name.layer
	       && b->item[low].name.expert == like->name.expert)
		low++;
	*to = low;
}

/* How well two names fit: 0 best, -1 not at all. `whole`: only one and the same name. */
static int rank(const struct side *a, const struct item *x, const struct side *b, const struct item *y, bool whole)
{
	if (strcmp(x->name.last, y->name.last) != 0 || x->name.text != y->name.text)
		return -1;
	if (strcmp(x->name.stem, y->name.stem) == 0)
		return 0;
	if (whole || !x->name.text || a->gguf == b->gguf)
		return -1;
	return a->gguf ? st_tail_rank(x->name.stem, y->name.stem) : st_tail_rank(y->name.stem, x->name.stem);
}

/* Free items of b that x may be; *best is the one whose name comes first. */
static size_t options(const struct side *a, const struct item *x, const struct side *b, bool whole, size_t *best)
{
	size_t from, to, n = 0;
	int lowest = -1;
	group(b, x, &from, &to);
	for (size_t k = from; k < to; k++) {
		int r = b->item[k].partner == SIZE_MAX ? rank(a, x, b, &b->item[k], whole) : -1;
		if (r < 0)
			continue;
		n++;
		if (lowest < 0 || r < lowest) {
			lowest = r;
			*best = k;
		}
	}
	return n;
}

static void match_equal_names(struct side *a, struct side *b)
{
	size_t best = 0;
	for (size_t i = 0; i < a->n; i++)
		if (options(a, &a->item[i], b, true, &best) > 0)
			join(a, i, b, best);
}

/*
 * One spelling may stand for two words. In each layer the tensor goes first that has the fewest spellings to choose
 * from: what is left to the others is then theirs.
 */
static void match_spellings(struct side *a, struct side *b)
{
	struct side *g = a->gguf ? a : b, *h = a->gguf ? b : a;
	if (a->gguf == b->gguf)
		return;
	for (size_t from = 0, to; from < g->n; from = to) {
		group(g, &g->item[from], &from, &to);
		for (;;) {
			size_t pick = SIZE_MAX, fewest = SIZE_MAX, with = 0, best = 0;
			for (size_t i = from; i < to; i++) {
				size_t n = g->item[i].partner == SIZE_MAX ? options(g, &g->item[i], h, false, &best)
				                                          : 0;
				if (n == 0 || n >= fewest)
					continue;
				fewest = n;
				pick = i;
				with = best;
			}
			if (pick == SIZE_MAX)
				break;
			join(g, pick, h, with);
		}
	}
}

static enum st_status agree(const struct item *x, const struct item *y, struct st_pool *pool, bool *yes,
                            struct st_error *err)
{
	struct st_rows a = st_rows_of(x->w), b = st_rows_of(y->w);
	struct st_row_stat stats[FEW];
	struct st_pair_summary s;
	uint64_t idx[FEW], n = a.rows < FEW ? a.rows : FEW;
	*yes = false;
	if (a.rows != b.rows || a.cols != b.cols || a.rows == 0)
		return ST_OK;
	for (uint64_t i = 0; i < n; i++)
		idx[i] = i * a.rows / n;
	ST_TRY(st_pair_judge(&a, &b, idx, n, pool, stats, &s, err));
	/* Vectors of ones or zeros are alike in every layer, and say nothing. */
	*yes = s.noise && s.bb > 0 && s.rel < 0.5;
	return ST_OK;
}

/* The only free item of b that holds what x holds: one of its own layer before all others. */
static enum st_status find_by_value(const struct item *x, const struct side *b, struct st_pool *pool, size_t *tries,
                                    size_t *found, struct st_error *err)
{
	*found = SIZE_MAX;
	for (int elsewhere = 0; elsewhere < 2 && *found == SIZE_MAX; elsewhere++) {
		size_t n = 0;
		for (size_t k = 0; k < b->n && *tries < MOST_TRIES; k++) {
			const struct item *y = &b->item[k];
			bool here = y->name.layer == x->name.layer;
			if (y->partner != SIZE_MAX || here == (elsewhere == 1)
			    || y->w->tensor->n_elems != x->w->tensor->n_elems)
				continue;
			bool yes;
			++*tries;
			ST_TRY(agree(x, y, pool, &yes, err));
			if (yes) {
				n++;
				*found = k;
			}
		}
		if (n > 1) {
			*found = SIZE_MAX;
			return ST_OK;
		}
	}
	return ST_OK;
}

static enum st_status match_values(struct side *a, struct side *b, struct st_pool *pool, struct st_error *err)
{
	size_t tries = 0;
	for (size_t i = 0; i < a->n && tries < MOST_TRIES; i++) {
		if (a->item[i].partner != SIZE_MAX)
			continue;
		size_t k;
		ST_TRY(find_by_value(&a->item[i], b, pool, &tries, &k, err));
		if (k != SIZE_MAX)
			join(a, i, b, k);
		ST_TRY(st_check_cancel(err));
	}
	return ST_OK;
}

/* Kept in checkpoints, and made anew by whoever runs them: masks, and the frequencies of the rotary embedding. */
static bool is_derived(const struct st_tensor *t)
{
	static const char *const ends[] = { "rotary_emb.inv_freq", ".attn.bias", ".attn.masked_bias",
		                            "rope_freqs.weight", ".position_ids" };
	size_t n = strlen(t->name);
	for (size_t i = 0; i < sizeof ends / sizeof *ends; i++) {
		size_t k = strlen(ends[i]);
		bool mask = i == 1; /* a bias of attention is a vector */
		if (n >= k && strcmp(t->name + n - k, ends[i]) == 0 && (!mask || t->ndim > 1))
			return true;
	}
	return false;
}

/* The other side's embedding for a head that has no partner. */
static const struct st_weight *tied_head(const struct item *x, const struct st_model *other)
{
	const struct st_weight *embed = st_model_role(other, ST_ROLE_EMBED, 0);
	return x->w->role == ST_ROLE_HEAD && !st_model_role(other, ST_ROLE_HEAD, 0) && embed
	                    && embed->tensor->n_elems == x->w->tensor->n_elems
	             ? embed
	             : NULL;
}

static int by_order(const void *x, const void *y)
{
	const struct item *a = x, *b = y;
	return a->order < b->order ? -1 : a->order > b->order;
}

enum st_status st_match_by_name(const struct st_model *a, const struct st_model *b, struct st_pool *pool,
                                struct st_weight_diff *d, size_t *n, struct st_error *err)
{
	struct side x = { 0 }, y = { 0 };
	enum st_status st = list(a, &x, err);
	if (st == ST_OK)
		st = list(b, &y, err);
	if (st == ST_OK) {
		match_equal_names(&x, &y);
		match_spellings(&x, &y);
		st = match_values(&x, &y, pool, err);
	}
	*n = 0;
	/* Partners are places in y as it is sorted: x is put back into its own order, y is only walked. */
	if (st == ST_OK)
		qsort(x.item, x.n, sizeof *x.item, by_order);
	for (size_t i = 0; st == ST_OK && i < x.n; i++) {
		const struct item *p = &x.item[i];
		const struct st_weight *other = p->partner != SIZE_MAX ? y.item[p->partner].w : tied_head(p, b);
		if (!other && is_derived(p->w->tensor))
			continue;
		const struct st_weight *slot = other && x.gguf && !y.gguf && p->partner != SIZE_MAX ? other : p->w;
		d[(*n)++] = (struct st_weight_diff){ .slot = slot, .a = p->w, .b = other };
	}
	if (st == ST_OK)
		qsort(y.item, y.n, sizeof *y.item, by_order);
	for (size_t i = 0; st == ST_OK && i < y.n; i++) {
		const struct item *p = &y.item[i];
		if (p->partner == SIZE_MAX && !is_derived(p->w->tensor))
			d[(*n)++] = (struct st_weight_diff){ .slot = p->w, .a = tied_head(p, a), .b = p->w };
	}
	free(x.item);
	free(y.item);
	return st;
}
