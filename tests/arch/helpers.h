/* helpers.h - running whole models in tests. */
#ifndef ST_TESTS_ARCH_HELPERS_H
#define ST_TESTS_ARCH_HELPERS_H

#include "pools.h"

#include "arch/arch.h"
#include "base/error.h"

#include <math.h>

static inline struct st_model *open_model(const char *path)
{
	struct st_error err = ST_ERROR_INIT;
	struct st_model *m = NULL;
	assert_ok(st_model_open(path, &m, &err), &err);
	return m;
}

/* Logits of all T positions, [T, vocab], evaluated `chunk` tokens at a time. The caller frees. */
static inline float *graph_logits(const struct st_graph *g, const struct st_exec *e, const uint32_t *tokens, size_t T,
                                  size_t chunk)
{
	struct st_error err = ST_ERROR_INIT;
	struct st_run *r;
	float *logits = malloc(T * g->vocab * sizeof *logits);
	assert_non_null(logits);
	assert_ok(st_run_open(g, e, chunk, T, &r, &err), &err);
	for (size_t t = 0; t < T; t += chunk) {
		size_t n = T - t < chunk ? T - t : chunk;
		assert_ok(st_run_begin(r, tokens + t, n, &err), &err);
		for (uint32_t i = 0; i < g->n_nodes; i++)
			assert_ok(st_run_eval(r, i, &err), &err);
		struct st_value v = st_run_value(r, g->n_nodes - 1);
		assert_int_equal(v.rows, n);
		assert_int_equal(v.cols, g->vocab);
		memcpy(logits + t * g->vocab, v.data, n * g->vocab * sizeof *logits);
	}
	st_run_close(r);
	return logits;
}

static inline float *model_logits(const struct st_model *m, const struct st_exec *e, const uint32_t *tokens, size_t T,
                                  size_t chunk)
{
	return graph_logits(st_model_graph(m), e, tokens, T, chunk);
}

/* ||a - b|| / ||b|| */
static inline double rel_l2(const float *a, const double *b, size_t n)
{
	double d = 0, s = 0;
	for (size_t i = 0; i < n; i++) {
		d += (a[i] - b[i]) * (a[i] - b[i]);
		s += b[i] * b[i];
	}
	return sqrt(d / s);
}

static inline struct st_exec exec_in(enum st_mode mode)
{
	struct st_exec e = st_exec_default();
	e.mode = mode;
	e.pool = pool_of(2);
	return e;
}

#endif
