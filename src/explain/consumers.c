/*
 * consumers.c - what the engine went on with: where the next captured value follows from what the model says, and not
 * from what was captured, the engine was right and the capture is wrong.
 */
#include "explain/explain.h"

#include "base/error.h"

#include <stdlib.h>
#include <string.h>

/* How far the next captured value that is made of node i's is from what `value` makes of it; 0: by no more than
 * arithmetic does. tested: whether there is one. */
static enum st_status follows_from(struct st_explainer *x, uint32_t i, const float *value, bool *tested, double *apart,
                                   struct st_error *err)
{
	struct st_segment s;
	*tested = false;
	st_run_put(x->run, i, value);
	for (uint32_t k = i + 1; k < x->g->n_nodes; k++) {
		if (!x->pass.at[k] || x->g->nodes[k].op == ST_OP_TOP)
			continue;
		st_segment_find(x, k, &s);
		if (!x->input[i])
			continue;
		struct st_fit fit;
		struct st_way plain = { .edit = ST_NO_NODE };
		/* Values behind i that it reads too are taken from the trace. */
		for (uint32_t j = s.from; j < k; j++) {
			struct st_value v = st_run_value(x->run, j);
			if (!x->input[j] || j <= i)
				continue;
			ST_TRY(st_capture_load(x, j, v.data, v.data, x->have_input, err));
			st_run_put(x->run, j, v.data);
		}
		ST_TRY(st_segment_eval(x, &s, &plain, x->exact, err));
		ST_TRY(st_capture_load(x, k, x->exact, x->got, x->have, err));
		ST_TRY(st_fit_of_value(x, &s, &plain, x->exact, &fit, err));
		*tested = true;
		*apart = fit.noise ? 0 : fit.rel;
		return ST_OK;
	}
	return ST_OK;
}

/* Rows of another request have little in common with what should stand there: more than half of them is left. What is
 * nearer was made of the right rows, whatever happened to it. */
#define OTHER_ROWS 0.5

/* What a mistake of the capture is called that would be this one in the engine. */
static enum st_cause_code of_capture(enum st_cause_code c)
{
	switch (c) {
	case ST_CAUSE_UNEXPLAINED:
	case ST_CAUSE_CAPTURE_STITCHED:
		return ST_CAUSE_CAPTURE_BATCH_ROW;
	case ST_CAUSE_KERNEL_STALE_TOKEN:
		return ST_CAUSE_CAPTURE_STALE_TOKEN;
	case ST_CAUSE_WEIGHT_GATE_UP_SWAPPED:
	case ST_CAUSE_WEIGHT_QKV_SWAPPED:
	case ST_CAUSE_NORM_WRONG_WEIGHT:
	case ST_CAUSE_NORM_SKIPPED:
	case ST_CAUSE_NORM_APPLIED_TWICE:
		return ST_CAUSE_STAGE_MISLABELLED;
	default:
		return c;
	}
}

/* What is said of values that have nothing in common with what they should be. */
static bool is_of_matrix(enum st_cause_code c)
{
	return c == ST_CAUSE_WEIGHT_WRONG_TENSOR || c == ST_CAUSE_HEAD_WRONG_TENSOR || c == ST_CAUSE_HEAD_UNTIED;
}

/* A mistake in writing values down. The engine that a stitched trace goes on with has what was captured of it. */
static bool is_of_capture(enum st_cause_code c)
{
	return st_cause_info(c)->where == ST_ON_CAPTURE && c != ST_CAUSE_CAPTURE_STITCHED;
}

/* The engine's own mistakes alone are left. */
static void keep_engine(struct st_finding *f)
{
	size_t n = 0;
	for (size_t i = 0; i < f->n_equivalent; i++)
		if (!is_of_capture(f->equivalent[i]))
			f->equivalent[n++] = f->equivalent[i];
	f->n_equivalent = n;
	if (is_of_capture(f->cause.code) && n) {
		f->cause.code = f->equivalent[0];
		f->cause.n_params = 0;
		memmove(f->equivalent, f->equivalent + 1, (n - 1) * sizeof *f->equivalent);
		f->n_equivalent--;
	}
}

enum st_status st_ask_consumers(struct st_explainer *x, const struct st_segment *s, struct st_finding *f,
                                struct st_error *err)
{
	struct st_value v = st_run_value(x->run, s->node);
	size_t n = v.rows * v.cols;
	float *got = st_alloc_array2(2, n, sizeof *got), *exact = got ? got + n : NULL;
	bool *have = st_alloc_array(x->pass.T, sizeof *have), tested = false;
	double of_exact = 0, of_got = 0;
	if (!got || !have) {
		free(got);
		free(have);
		return st_fail(err, ST_ERR_NOMEM, "out of memory");
	}
	memcpy(got, x->got, n * sizeof *got);
	memcpy(exact, x->exact, n * sizeof *exact);
	memcpy(have, x->have, x->pass.T * sizeof *have);
	/* A trace that states the wrong basis does so of the next value, too. */
	bool basis = f->cause.code == ST_CAUSE_CAPTURE_ROPE_LAYOUT;
	x->interleaved = x->interleaved != basis;
	enum st_status st = follows_from(x, s->node, exact, &tested, &of_exact, err);
	x->interleaved = x->interleaved != basis;
	if (st == ST_OK && tested)
		st = follows_from(x, s->node, got, &tested, &of_got, err);
	memcpy(x->got, got, n * sizeof *got);
	memcpy(x->exact, exact, n * sizeof *exact);
	memcpy(x->have, have, x->pass.T * sizeof *have);
	free(got);
	free(have);
	struct st_segment again;
	st_segment_find(x, s->node, &again);
	if (st != ST_OK || !tested)
		return st;
	/* Neither follows exactly: the captured value has the engine's rounding, which the evaluation lacks. One that
	 * is five times nearer is the one that the engine went on with. */
	if (!(of_exact < 0.2 * of_got)) {
		keep_engine(f);
		/* The engine used what was captured: it was no mistake in writing it down. */
		if (is_of_capture(f->cause.code) && of_got < 0.2 * of_exact
		    && f->cause.code != ST_CAUSE_CAPTURE_ROPE_LAYOUT) {
			f->cause.code = ST_CAUSE_UNEXPLAINED;
			f->cause.confidence = ST_UNEXPLAINED;
			f->cause.n_params = 0;
			f->cause.residual_after = f->cause.residual_before;
		}
		return ST_OK;
	}
	bool likely = f->cause.confidence != ST_CONFIRMED;
	f->engine_right = true;
	if (f->cause.code == ST_CAUSE_UNEXPLAINED && f->cause.residual_before < OTHER_ROWS)
		return ST_OK;
	enum st_cause_code code = of_capture(likely && is_of_matrix(f->cause.code) ? ST_CAUSE_UNEXPLAINED
	                                                                           : f->cause.code);
	if (code != f->cause.code) {
		f->cause.code = code;
		f->cause.n_params = 0;
		f->n_equivalent = 0;
	}
	return ST_OK;
}
