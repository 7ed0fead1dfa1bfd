/*
 * weight_explain.c - which mistake turns one weight into the other: the tests in their order. They are tried simplest
 * first, and the first confirmed one wins.
 */
#include "compare/weight_trial.h"

static enum st_status (*const tests[])(struct st_trial *) = {
#define WEIGHT_TEST(name, function) st_test_##function,
#include <stele/causes.def>
};

/* Half of the sample spread evenly, the other half the first of the rows beyond their noise. */
static void choose_sample(struct st_trial *t)
{
	uint64_t n = t->a->rows, even = n < ST_SAMPLE ? n : ST_SAMPLE / 2;
	for (uint64_t i = 0; i < even; i++)
		t->sample[i] = i * n / even;
	t->n_sample = even;
	for (uint64_t r = 0; n > ST_SAMPLE && r < n && t->n_sample < ST_SAMPLE; r++) {
		bool taken = false;
		for (uint64_t i = 0; i < even; i++)
			taken |= t->sample[i] == r;
		if (!taken && t->stats[r].bad)
			t->sample[t->n_sample++] = r;
	}
	struct st_row_stat part[ST_SAMPLE];
	for (uint64_t i = 0; i < t->n_sample; i++)
		part[i] = t->stats[t->sample[i]];
	st_pair_summarise(part, t->sample, t->n_sample, &t->before);
}

enum st_status st_weight_explain(const struct st_model *ma, const struct st_model *mb, const struct st_rows *a,
                                 const struct st_rows *b, const struct st_row_stat *stats, struct st_pool *pool,
                                 struct st_weight_diff *d, struct st_error *err)
{
	struct st_trial t = { .ma = ma, .mb = mb, .a = a, .b = b, .stats = stats, .pool = pool, .d = d, .err = err };
	st_arena_init(&t.arena);
	choose_sample(&t);
	enum st_status st = ST_OK;
	for (size_t i = 0; i < sizeof tests / sizeof *tests && !t.done && st == ST_OK; i++)
		st = tests[i](&t);
	if (!t.done && !t.likely)
		d->cause = (struct st_cause){ .code = ST_CAUSE_UNEXPLAINED,
			                      .confidence = ST_UNEXPLAINED,
			                      .residual_before = d->rel_l2,
			                      .residual_after = d->rel_l2,
			                      .floor = d->predicted };
	st_arena_release(&t.arena);
	return st;
}
