/* described_check.c - a description bound to a model, told and tried. */
#include <stele/family.h>

#include "arch/near.h"

#include "base/error.h"
#include "base/pool.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct check {
	struct st_family_check c; /* first, so that the one is the other */
	struct st_arena arena;
	struct st_container *container;
	struct st_family *family;
	struct st_described *d;
};

void st_family_check_close(struct st_family_check *c)
{
	struct check *k = (struct check *)c;
	if (!k)
		return;
	st_described_close(k->d);
	st_family_close(k->family);
	st_container_close(k->container);
	st_arena_release(&k->arena);
	free(k);
}

static size_t print_one(char *buf, size_t size, const struct st_setting *v)
{
	if (v->kind == ST_SETTING_TEXT)
		return (size_t)snprintf(buf, size, "%s", v->text);
	return (size_t)snprintf(buf, size, "%.9g", v->number);
}

static void print_value(char *buf, size_t size, const struct st_setting *v)
{
	size_t n = 0;
	if (v->kind != ST_SETTING_LIST) {
		(void)print_one(buf, size, v);
		return;
	}
	for (size_t i = 0; i < v->n && n + 8 < size; i++) {
		n += (size_t)snprintf(buf + n, size - n, i ? ", " : "[");
		n += n + 8 < size ? print_one(buf + n, size - n, &v->items[i]) : 0;
	}
	if (n + 2 < size)
		snprintf(buf + n, size - n, "]");
}

static enum st_status tell_values(struct check *k, struct st_error *err)
{
	const struct st_family *f = k->d->family;
	struct st_family_value *values = st_arena_alloc(&k->arena, f->n_keys, sizeof *values);
	ST_NEED(values);
	for (uint32_t i = 0; i < f->n_keys; i++) {
		char text[200] = "";
		struct st_setting v = k->d->settings.keys[i];
		struct st_error none = ST_ERROR_INIT;
		bool known = f->keys[i].type != ST_KEY_LET
		          || st_expression_value(&f->keys[i].let, &k->d->settings, &v, &none) == ST_OK;
		if (known)
			print_value(text, sizeof text, &v);
		values[i] = (struct st_family_value){ .name = f->keys[i].name,
			                              .value = st_arena_printf(&k->arena, "%s", text),
			                              .key = k->d->origin[i].key,
			                              .said = k->d->origin[i].said };
		ST_NEED(values[i].value);
	}
	k->c.values = values;
	k->c.n_values = f->n_keys;
	return ST_OK;
}

static void left_over(struct check *k)
{
	k->c.unused = k->d->unused;
	k->c.n_unused = k->d->n_unused;
	k->c.unread = k->d->unread;
	k->c.n_unread = k->d->n_unread;
}

static void count_weights(struct check *k)
{
	const struct st_family *f = k->d->family;
	for (uint32_t i = 0; i < f->n_weights; i++)
		for (uint32_t l = 0; l < (f->weights[i].per_layer ? k->d->n_layers : 1); l++) {
			const struct st_weight *w = &k->d->weights[i][l];
			k->c.n_weights += w->n_experts ? w->n_experts : w->tensor != NULL;
		}
	left_over(k);
}

static enum st_status tell_fault(struct check *k, struct st_family_fault *f, const char *what, const char *why,
                                 struct st_error *err)
{
	f->what = st_arena_printf(&k->arena, "%s", what);
	f->why = st_arena_printf(&k->arena, "%s", why);
	ST_NEED(f->what && f->why);
	return ST_OK;
}

/* "self_attn.q_proj.weight [64, 64]" */
static const char *tensor_words(struct check *k, const struct st_tensor *t)
{
	char shape[160];
	size_t n = 0;
	shape[0] = '\0';
	for (uint32_t i = 0; i < t->ndim && n < sizeof shape; i++)
		n += (size_t)snprintf(shape + n, sizeof shape - n, "%s%llu", i ? ", " : "",
		                      (unsigned long long)t->shape[i]);
	return st_arena_printf(&k->arena, "%s [%s]", t->name, shape);
}

static enum st_status tell_faults(struct check *k, struct st_error *err)
{
	const struct st_described *d = k->d;
	struct st_family_fault *faults = st_arena_alloc(&k->arena, d->n_absent + d->n_faults, sizeof *faults);
	double likeness[3];
	ST_NEED(faults);
	k->c.faults = faults;
	for (size_t i = 0; i < d->n_absent; i++) {
		struct st_family_fault *f = &faults[k->c.n_faults++];
		const char *key = d->origin[d->absent[i]].key;
		ST_TRY(tell_fault(k, f, key ? key : d->family->keys[d->absent[i]].name, "is missing", err));
		f->n_near = st_near_keys(d, d->absent[i], 3, f->near, likeness);
	}
	for (size_t i = 0; i < d->n_faults; i++) {
		const struct st_described_fault *of = &d->faults[i];
		const struct st_tensor *near[3];
		struct st_family_fault *f = &faults[k->c.n_faults++];
		const char *what = of->tensor ? of->tensor : d->family->weights[of->weight].name;
		ST_TRY(tell_fault(k, f, what, of->why.message, err));
		f->n_near = of->missing ? st_near_tensors(d, of, 3, near, likeness) : 0;
		for (size_t m = 0; m < f->n_near; m++) {
			f->near[m] = tensor_words(k, near[m]);
			ST_NEED(f->near[m]);
		}
	}
	return ST_OK;
}

static void find_top(struct st_family_check *c, const float *logits)
{
	for (; c->n_top < ST_FAMILY_TOP && c->n_top < c->vocab; c->n_top++) {
		uint32_t best = UINT32_MAX;
		for (uint32_t i = 0; i < c->vocab; i++) {
			bool taken = isnan(logits[i]);
			for (size_t k = 0; k < c->n_top; k++)
				taken |= c->top[k] == i;
			if (!taken && (best == UINT32_MAX || logits[i] > logits[best]))
				best = i;
		}
		if (best == UINT32_MAX)
			return;
		c->top[c->n_top] = best;
		c->logit[c->n_top] = logits[best];
	}
}

static enum st_status run(struct check *k, const uint32_t *tokens, size_t n, int threads, struct st_error *err)
{
	struct st_exec e = st_exec_default();
	struct st_run *r = NULL;
	const struct st_graph *g = &k->d->graph;
	ST_TRY(st_pool_open(threads, &e.pool, err));
	enum st_status st;
	ST_TRY_OUT(st_run_open_flags(g, &e, n, n, ST_RUN_HEAD_LAST, &r, err));
	ST_TRY_OUT(st_run_begin(r, tokens, n, err));
	for (uint32_t i = 0; i < g->n_nodes; i++)
		ST_TRY_OUT(st_run_eval(r, i, err));
	struct st_value v = st_run_value(r, g->n_nodes - 1);
	find_top(&k->c, v.data + (v.rows - 1) * v.cols);
	if (k->c.n_top == 0)
		st = st_fail(err, ST_ERR_FORMAT, "every logit is NaN");
out:
	st_run_close(r);
	st_pool_close(e.pool);
	return st;
}

enum st_status st_described_page(const char *name, struct st_arena *arena, struct st_family **out, struct st_error *err)
{
	size_t size;
	const char *text = st_family_text(name, &size), *file = text ? st_arena_printf(arena, "%s.family", name) : NULL;
	if (!text)
		return st_family_open(name, out, err);
	ST_NEED(file);
	ST_TRY(st_family_parse(file, text, size, out, err));
	(*out)->built_in = true;
	return ST_OK;
}

enum st_status st_family_check(const char *family, const char *model, const uint32_t *tokens, size_t n, int threads,
                               struct st_family_check **out, struct st_error *err)
{
	struct check *k = st_alloc_zeroed(1, sizeof *k);
	ST_NEED(k);
	st_arena_init(&k->arena);
	enum st_status st = ST_OK;
	if (family)
		ST_TRY_OUT(st_described_page(family, &k->arena, &k->family, err));
	ST_TRY_OUT(st_container_open(model, &k->container, err));
	ST_TRY_OUT(st_described_try(k->container, k->family, &k->d, err));
	const struct st_family *f = k->d->family;
	k->c.family = f->name;
	k->c.file = f->file;
	k->c.sha256 = f->sha256;
	k->c.n_layers = k->d->n_layers;
	k->c.vocab = k->d->vocab;
	k->c.n_stages = k->d->graph.n_nodes;
	ST_TRY_OUT(tell_faults(k, err));
	if (k->d->problem.code != ST_OK) {
		left_over(k);
		*err = k->d->problem;
		st_error_in(err, model);
		*out = &k->c;
		return err->code;
	}
	ST_TRY_OUT(tell_values(k, err));
	count_weights(k);
	if (n)
		st = run(k, tokens, n, threads, err);
out:
	if (st != ST_OK) {
		st_error_in(err, model);
		st_family_check_close(&k->c);
		return st;
	}
	*out = &k->c;
	return ST_OK;
}
