/*
 * shared.c - faults in what pages put together: tensors of several weights, experts, what the router adds, numbers of the
 * rotation that stand twice. They are planted in the numbers of a page's model, through the views that the page gives.
 */
#include "synth/synth.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MOST_PARTS 4u

/* A row of a shared tensor: where it lies, and whose it is. */
struct row {
	float *at;
	uint32_t part;
};

/* A tensor that several weights share, its rows in the order of the file. */
struct shared {
	struct st_synth_image *image;
	uint32_t n_parts, weight[MOST_PARTS];
	uint64_t size[MOST_PARTS]; /* rows of each */
	uint64_t groups;           /* that each part is dealt out to */
	struct row *rows;
	uint64_t n, cols, step; /* floats from one column to the next */
};

static const char *const no_memory = "there is no memory for it";

static const struct st_weight *weight_at(const struct st_synth_page *p, uint32_t i, uint32_t layer)
{
	const struct st_family_weight *w = &p->family->weights[i];
	const struct st_weight *x = w->per_layer ? &p->file.bound->weights[i][layer] : NULL;
	return x && x->tensor ? x : NULL;
}

static const struct st_weight *weight_called(const struct st_synth_page *p, const char *name, uint32_t layer)
{
	uint32_t i = st_family_find_weight(p->family, name);
	return i == ST_FAMILY_NONE ? NULL : weight_at(p, i, layer);
}

static struct st_synth_image *image_of(const struct st_synth_page *p, const struct st_tensor *t)
{
	for (size_t i = 0; i < p->file.n; i++) {
		struct st_synth_image *x = &p->file.images[i];
		uint64_t n = 1;
		for (uint32_t k = 0; k < x->rank; k++)
			n *= x->dims[k];
		if ((const float *)(const void *)t->data >= x->data
		    && (const float *)(const void *)t->data < x->data + n)
			return x;
	}
	return NULL;
}

static bool begins(const char *s, const char *with) { return strncmp(s, with, strlen(with)) == 0; }

/* Gate and up are exchanged and dealt out in ways of their own. */
static bool is_gate(const char *name) { return begins(name, "gate") || begins(name, "expert_gate"); }
static bool is_up(const char *name) { return begins(name, "up") || begins(name, "expert_up"); }

static int by_place(const void *a, const void *b)
{
	const struct row *x = a, *y = b;
	return (x->at > y->at) - (x->at < y->at);
}

static uint64_t groups_of(const struct st_weight *w) { return w->group_rows ? st_weight_rows(w) / w->group_rows : 1; }

/* The rows of its parts; NULL, or why it is not one. The caller frees s->rows. */
static const char *collect(const struct st_synth_page *p, struct shared *s, uint32_t layer)
{
	s->n = 0;
	for (uint32_t k = 0; k < s->n_parts; k++) {
		const struct st_weight *w = weight_at(p, s->weight[k], layer);
		s->size[k] = st_weight_rows(w);
		s->n += s->size[k];
		if (k && (st_weight_cols(w) != s->cols || groups_of(w) != s->groups))
			return "its parts are of several kinds";
		s->cols = st_weight_cols(w);
		s->groups = groups_of(w);
	}
	s->rows = st_alloc_zeroed(s->n, sizeof *s->rows);
	if (!s->rows)
		return no_memory;
	uint64_t n = 0;
	for (uint32_t k = 0; k < s->n_parts; k++) {
		const struct st_weight *w = weight_at(p, s->weight[k], layer);
		for (uint64_t r = 0; r < s->size[k]; r++)
			s->rows[n++] = (struct row){ st_synth_element(w->tensor, st_weight_stored_row(w, r), 0), k };
		s->step = s->cols > 1
		                ? (uint64_t)(st_synth_element(w->tensor, 0, 1) - st_synth_element(w->tensor, 0, 0))
		                : 1;
	}
	qsort(s->rows, s->n, sizeof *s->rows, by_place);
	return NULL;
}

/* The first tensor of the layer that is made of several matrices, one of them called `with` where that is given. */
static const char *find_shared(const struct st_synth_page *p, const char *with, uint32_t layer, struct shared *s)
{
	*s = (struct shared){ 0 };
	for (uint32_t i = 0; i < p->family->n_weights; i++) {
		const struct st_weight *w = weight_at(p, i, layer);
		const char *name = p->family->weights[i].name;
		if (!w || p->family->weights[i].rank != 2 || is_gate(name) || is_up(name)
		    || (with && strcmp(with, name) != 0))
			continue;
		s->image = image_of(p, w->tensor);
		s->n_parts = 0;
		for (uint32_t k = 0; k < p->family->n_weights && s->n_parts < MOST_PARTS; k++) {
			const struct st_weight *x = weight_at(p, k, layer);
			if (x && p->family->weights[k].rank == 2 && image_of(p, x->tensor) == s->image)
				s->weight[s->n_parts++] = k;
		}
		if (s->n_parts > 1)
			return collect(p, s, layer);
	}
	return "no tensor of this layer is made of several";
}

/* Rows in another order: row i of the file holds what row from[i] held. */
static const char *move_rows(const struct shared *s, const uint64_t *from)
{
	uint64_t numbers;
	float *copy = st_mul_u64(s->n, s->cols, &numbers) ? st_alloc_zeroed(numbers, sizeof *copy) : NULL;
	if (!copy)
		return no_memory;
	for (uint64_t i = 0; i < s->n; i++)
		for (uint64_t c = 0; c < s->cols; c++)
			copy[i * s->cols + c] = s->rows[i].at[c * s->step];
	for (uint64_t i = 0; i < s->n; i++)
		for (uint64_t c = 0; c < s->cols; c++)
			s->rows[i].at[c * s->step] = copy[from[i] * s->cols + c];
	free(copy);
	return NULL;
}

/* The end of a plant, unless `why` tells what is in its way; frees what it took. */
static const char *put_in_order(struct st_synth *s, struct shared *x, uint64_t *from, const char *why, bool apply)
{
	if (!why && apply) {
		why = move_rows(x, from);
		st_synth_touched(s, x->image->name);
	}
	free(from);
	free(x->rows);
	return why;
}

/* Rows first to first + n of a part, as they follow one another in the file, to the end of the list. */
static void append(const struct shared *s, uint32_t part, uint64_t first, uint64_t n, uint64_t *list, uint64_t *at)
{
	uint64_t k = 0;
	for (uint64_t i = 0; i < s->n; i++)
		if (s->rows[i].part == part && k++ >= first && k <= first + n)
			list[(*at)++] = i;
}

/* The part that lies first behind the others, in every group. */
static void rotated(const struct shared *s, uint64_t *list)
{
	uint64_t at = 0;
	uint32_t order[MOST_PARTS], n = 0; /* of the parts in the first group */
	bool seen[MOST_PARTS] = { false };
	for (uint64_t i = 0; i < s->n; i++)
		if (!seen[s->rows[i].part]) {
			seen[s->rows[i].part] = true;
			order[n++] = s->rows[i].part;
		}
	for (uint64_t g = 0; g < s->groups; g++)
		for (uint32_t k = 0; k < n; k++) {
			uint32_t part = order[(k + 1) % n];
			append(s, part, g * (s->size[part] / s->groups), s->size[part] / s->groups, list, &at);
		}
}

/* Parts of one size in each other's places are exchanged matrices; others are cut in wrong places. */
static const char *mislay_order_of(struct st_synth *s, const char *with, bool equal, uint32_t layer, bool apply)
{
	struct shared x;
	const char *why = find_shared(s->page, with, layer, &x);
	bool same = true;
	for (uint32_t k = 1; !why && k < x.n_parts; k++)
		same &= x.size[k] == x.size[0];
	if (!why && same != equal)
		why = same ? "its parts are of one size: they are exchanged (weight.qkv_swapped)"
		           : "its parts are of several sizes";
	uint64_t *list = why ? NULL : st_alloc_zeroed(x.n, sizeof *list);
	if (!why && !list)
		why = no_memory;
	if (!why && apply)
		rotated(&x, list);
	return put_in_order(s, &x, list, why, apply);
}

const char *st_synth_mislay_order(struct st_synth *s, uint32_t layer, bool apply)
{
	return mislay_order_of(s, NULL, false, layer, apply);
}
const char *st_synth_mislay_parts(struct st_synth *s, uint32_t layer, bool apply)
{
	return mislay_order_of(s, "q", true, layer, apply);
}
const char *st_synth_mislay_latent(struct st_synth *s, uint32_t layer, bool apply)
{
	return mislay_order_of(s, "kv_latent", false, layer, apply);
}

/* Heads or groups one behind the other as blocks of Q, K, V, or blocks dealt out to groups. */
const char *st_synth_mislay_groups(struct st_synth *s, uint32_t layer, bool apply)
{
	struct shared x;
	double kv = 0;
	const char *why = find_shared(s->page, "q", layer, &x);
	bool dealt = !why && x.groups > 1;
	uint64_t n = dealt                                          ? 1
	           : st_synth_page_number(s->page, "kv_heads", &kv) ? (uint64_t)kv
	                                                            : (uint64_t)s->cfg.n_heads;
	uint64_t *list = NULL, at = 0;
	if (!why && !dealt && n < 2)
		why = "there is one group of heads only";
	for (uint32_t k = 0; !why && k < x.n_parts; k++)
		if (x.size[k] % n)
			why = "its parts do not divide into groups";
	if (!why && !(list = st_alloc_zeroed(x.n, sizeof *list)))
		why = no_memory;
	for (uint64_t g = 0; !why && g < n; g++)
		for (uint32_t k = 0; k < x.n_parts; k++)
			append(&x, k, g * (x.size[k] / n), x.size[k] / n, list, &at);
	return put_in_order(s, &x, list, why, apply);
}

/* ---- gate and up in one tensor ---- */

/* Halves of a tensor dealt out in turn, or rows that lie in turn as halves. */
static const char *deal_out(const struct st_weight *gate, const struct st_weight *up)
{
	uint64_t n = st_weight_rows(gate);
	struct shared x = { .n = 2 * n, .cols = st_weight_cols(gate) };
	uint64_t *from = st_alloc_zeroed(x.n, sizeof *from);
	x.rows = st_alloc_zeroed(x.n, sizeof *x.rows);
	const char *why = x.rows && from ? NULL : no_memory;
	for (uint64_t i = 0; !why && i < n; i++) {
		x.rows[i] = (struct row){ st_synth_element(gate->tensor, st_weight_stored_row(gate, i), 0), 0 };
		x.rows[n + i] = (struct row){ st_synth_element(up->tensor, st_weight_stored_row(up, i), 0), 1 };
	}
	if (!why) {
		x.step = (uint64_t)(st_synth_element(gate->tensor, 0, 1) - st_synth_element(gate->tensor, 0, 0));
		qsort(x.rows, 2 * n, sizeof *x.rows, by_place);
		bool turns = x.rows[1].part != x.rows[0].part;
		for (uint64_t i = 0; i < 2 * n; i++)
			from[i] = turns ? (i < n ? 2 * i : 2 * (i - n) + 1) : (i % 2 ? n + i / 2 : i / 2);
		why = move_rows(&x, from);
	}
	free(x.rows);
	free(from);
	return why;
}

/* A matrix, or one of a stack. */
static struct st_weight matrix_of(const struct st_weight *w, uint32_t expert)
{
	struct st_weight one = *w;
	one.tensor = w->n_experts ? &w->experts[expert] : w->tensor;
	return one;
}

const char *st_synth_mislay_gate_up(struct st_synth *s, uint32_t layer, bool apply)
{
	const struct st_family *f = s->page->family;
	for (uint32_t i = 0; i < f->n_weights; i++)
		for (uint32_t k = 0; k < f->n_weights; k++) {
			const struct st_weight *gate = weight_at(s->page, i, layer), *up = weight_at(s->page, k, layer);
			if (!gate || !up || !is_gate(f->weights[i].name) || !is_up(f->weights[k].name)
			    || f->weights[i].rank < 2 || f->weights[i].rank != f->weights[k].rank)
				continue;
			struct st_synth_image *x = image_of(s->page, gate->tensor);
			if (!x || image_of(s->page, up->tensor) != x || st_weight_cols(gate) < 2)
				continue;
			for (uint32_t e = 0; apply && e < (gate->n_experts ? gate->n_experts : 1); e++) {
				struct st_weight g = matrix_of(gate, e), u = matrix_of(up, e);
				const char *why = deal_out(&g, &u);
				if (why)
					return why;
			}
			if (apply)
				st_synth_touched(s, x->name);
			return NULL;
		}
	return "gate and up are not in one tensor of this layer";
}

/* ---- experts ---- */

/* Numbers of two weights of one shape. */
static void exchange(const struct st_weight *a, const struct st_weight *b)
{
	for (uint64_t r = 0; r < st_weight_rows(a); r++)
		for (uint64_t c = 0; c < st_weight_cols(a); c++) {
			float *x = st_synth_element(a->tensor, st_weight_stored_row(a, r), c),
			      *y = st_synth_element(b->tensor, st_weight_stored_row(b, r), c), keep = *x;
			*x = *y;
			*y = keep;
		}
}

/* All experts of the layer in reverse order, the router's rows as they were. */
const char *st_synth_mislay_experts(struct st_synth *s, uint32_t layer, bool apply)
{
	bool any = false;
	for (uint32_t i = 0; i < s->page->family->n_weights; i++) {
		const struct st_weight *w = weight_at(s->page, i, layer);
		if (!w || w->n_experts < 2 || s->page->family->weights[i].rank != 3)
			continue;
		for (uint32_t e = 0; apply && e < w->n_experts / 2; e++) {
			struct st_weight a = matrix_of(w, e), b = matrix_of(w, w->n_experts - 1 - e);
			exchange(&a, &b);
		}
		struct st_synth_image *x = image_of(s->page, &w->experts[0]);
		if (apply && !any)
			st_synth_touched(s, x->name);
		any = true;
	}
	return any ? NULL : "this layer has no experts";
}

/* The shared expert's gate, and that of the first routed one. */
const char *st_synth_mislay_shared(struct st_synth *s, uint32_t layer, bool apply)
{
	static const char *const pairs[][2] = {
		{ "shared_gate", "gates" },
		{ "shared_up", "ups" },
		{ "shared_down", "downs" },
	};
	bool any = false;
	for (size_t i = 0; i < sizeof pairs / sizeof *pairs; i++) {
		const struct st_weight *a = weight_called(s->page, pairs[i][0], layer),
				       *b = weight_called(s->page, pairs[i][1], layer);
		if (!a || !b || !b->n_experts)
			continue;
		struct st_weight first = matrix_of(b, 0);
		if (st_weight_rows(a) != st_weight_rows(&first) || st_weight_cols(a) != st_weight_cols(&first))
			return "a shared expert is of another size than a routed one";
		if (apply)
			exchange(a, &first);
		if (apply && !any)
			st_synth_touched(s, image_of(s->page, a->tensor)->name);
		any = true;
	}
	return any ? NULL : "this layer has no shared expert";
}

/* What the router adds, to its numbers or to the choice by them. */
const char *st_synth_mislay_router_bias(struct st_synth *s, uint32_t layer, bool apply)
{
	const struct st_weight *w = weight_called(s->page, "router_bias", layer);
	if (!w)
		return "the router of this layer has no bias";
	for (uint64_t i = 0; apply && i < w->tensor->n_elems; i++)
		*st_synth_element(w->tensor, 0, i) = 0;
	if (apply)
		st_synth_touched(s, image_of(s->page, w->tensor)->name);
	return NULL;
}

/* ---- numbers that stand twice ---- */

const char *st_synth_mislay_bases(struct st_synth *s, uint32_t layer, bool apply)
{
	(void)layer;
	double local, global;
	const char *whole = "theta";
	if (st_family_find_key(s->page->family, "global_theta") != ST_FAMILY_NONE)
		whole = "global_theta";
	if (!st_synth_page_number(s->page, "local_theta", &local) || !st_synth_page_number(s->page, whole, &global)
	    || local == global)
		return "there are no two base frequencies";
	if (!apply)
		return NULL;
	if (!st_synth_page_say(s->page, "local_theta", global) || !st_synth_page_say(s->page, whole, local))
		return "the file does not say the base frequencies";
	st_synth_touched(s, "the base frequencies of local and global layers");
	return NULL;
}

const char *st_synth_mislay_factors(struct st_synth *s, uint32_t layer, bool apply)
{
	(void)layer;
	const struct st_synth_page *p = s->page;
	uint32_t a = st_family_find_weight(p->family, "rope_short"), b = st_family_find_weight(p->family, "rope_long");
	const struct st_weight *x = a == ST_FAMILY_NONE ? NULL : &p->file.bound->weights[a][0],
			       *y = b == ST_FAMILY_NONE ? NULL : &p->file.bound->weights[b][0];
	if (x && y && x->tensor && y->tensor) {
		if (apply)
			exchange(x, y);
	} else if (!st_synth_page_exchange(s->page, "short", "long", apply)) {
		return "the rotation has no factors for short and long texts";
	}
	if (apply)
		st_synth_touched(s, "the factors of short and long texts");
	return NULL;
}
