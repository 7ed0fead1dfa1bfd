/*
 * diagnose.c - which mistake turns this capture into that output.
 *
 * A hypothesis is an edit of how the step is evaluated. It is believed when the edited step, in f64,
 * reproduces the observed output down to the floor of f32 arithmetic - nothing else is evidence.
 */
#include "turboquant/diagnose.h"

#include "base/error.h"
#include "base/mem.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static int by_residual(const void *a, const void *b)
{
	const struct hypothesis *x = *(const struct hypothesis *const *)a, *y = *(const struct hypothesis *const *)b;
	return x->residual != y->residual ? (x->residual < y->residual ? -1 : 1) : (x > y) - (x < y);
}

/*
 * Of the hypotheses at the floor, the first in the order of the table that does about as well as the best of them:
 * where a few rows carry all the weight, a neighbouring mistake can come near the floor as well.
 */
static const struct hypothesis *confirmed(const struct table *t, double floor)
{
	double best = floor;
	for (size_t i = 0; i < t->n; i++)
		best = fmin(best, t->h[i].residual);
	for (size_t i = 0; i < t->n; i++)
		if (t->h[i].residual <= fmin(2 * best, floor))
			return &t->h[i];
	return NULL;
}

static bool is_noise(const struct hypothesis *h) { return h->code == ST_CAUSE_NUMERIC_LOW_PRECISION; }

/* A hypothesis is likely when it takes nine tenths of the residual away. An infinite residual, where the declared step
 * gives zeros, has no tenths. Of a residual far above 1 almost any edit takes most: what counts then is 1. */
static bool removes_most(double after, double before)
{
	return isfinite(before) && st_confidence_of(false, before, after) == ST_LIKELY;
}

/* `likely`: not confirmed, or NULL. Low precision is noise only where it explains the residual down to the floor: under
 * what it leaves a small fault may hide. */
static const char *verdict_of(const struct hypothesis *confirmed, const struct hypothesis *likely, double before)
{
	if (confirmed)
		return is_noise(confirmed) ? "noise" : "fault";
	if (likely)
		return is_noise(likely) ? "undecided" : "fault";
	return before > 0.01 ? "fault" : "undecided";
}

/* Everything with the declared query first; then fitted numbers, single rows, and all of it with an f16 query. */
static const struct hypothesis *search(struct step *s, struct table *t, double floor)
{
	const struct hypothesis *hit;
	st_list_mistakes(s, t);
	const size_t listed = t->n;
	t->failed |= !st_step_try(s, t->h, t->n);
	hit = confirmed(t, floor);
	for (int pass = 0; pass < 2 && !hit; pass++) {
		const enum round round = pass ? ROUND_F16 : ROUND_DECLARED;
		size_t from = t->n;
		if (pass && s->q_f16)
			break;
		for (size_t i = 0; pass && i < listed && !t->failed; i++) {
			if (t->h[i].e.round != ROUND_DECLARED)
				continue;
			const struct hypothesis copy = t->h[i];
			struct hypothesis *h = st_hypothesis_add(t, copy.code, copy.text, copy.parameter, copy.value,
			                                         copy.e);
			h->e.round = ROUND_F16;
			st_hypothesis_say(h, "; and an f16 query");
		}
		st_fit_numbers(s, round, floor, t);
		st_find_rows(s, round, floor, t);
		t->failed |= !st_step_try(s, t->h + from, t->n - from);
		hit = confirmed(t, floor);
	}
	return hit;
}

static const char *const round_names[] = { NULL, "f16", "bf16" };

/* h: NULL where nothing explains it */
static json_t *cause_json(const struct hypothesis *h, const char *confidence, double before, double floor, json_t *same)
{
	json_t *par = json_object();
	if (h && h->parameter != ST_PARAM_NONE)
		st_json_put(par, st_param_info(h->parameter)->key, st_json_number(h->value));
	if (h && h->e.row_fault == ROW_COPY)
		st_json_put(par, "holds_row", json_integer(h->e.from));
	if (h && h->e.one_head)
		st_json_put(par, "kv_head", json_integer(h->e.kv_head));
	if (h && h->e.round)
		st_json_put(par, "q_dtype", json_string(round_names[h->e.round]));
	if (h && h->e.kv_round)
		st_json_put(par, "kv_dtype", json_string(round_names[h->e.kv_round]));
	return st_json_object(ST_IS("code", st_cause_name(h ? h->code : ST_CAUSE_UNEXPLAINED)),
	                      ST_IS("confidence", confidence), ST_IS("parameters", par),
	                      ST_IS("residual_before", before),
	                      ST_IS("residual_after", h ? st_json_number(h->residual) : json_null()),
	                      ST_IS("floor", floor), ST_IS("text", h ? h->text : NULL), ST_IS("equivalent", same));
}

/* What f32 arithmetic alone costs here: our own kernel against its oracle, with room for other summation orders. */
static enum st_status arithmetic_floor(const struct st_replay_run *r, const struct step *s, double *floor,
                                       struct st_error *err)
{
	const struct st_capture *c = &r->capture;
	float *out = st_alloc_array2(c->p.num_heads, c->p.head_dim, sizeof *out);
	ST_NEED(out);
	enum st_status st = st_tq_step(&r->exec, &c->codec, &c->p, &c->kv, c->q, out, err);
	if (st == ST_OK)
		*floor = fmax(10 * st_tq_nrmse(out, s->out, s->n), 1e-5);
	free(out);
	return st;
}

/* Engines often hand their output on in 16 bits. Then every value is one of that type, and its rounding, at most half a
 * unit in the last place, is no fault. Returns what that may cost. */
static double storage_floor(const float *x, size_t n, const char **type)
{
	bool f16 = true, bf16 = true;
	for (size_t i = 0; i < n; i++) {
		uint32_t u;
		memcpy(&u, x + i, 4);
		f16 &= st_tq_round_f16(x[i]) == x[i];
		bf16 &= (u & 0xffff) == 0;
	}
	/* Of moderate size, what bf16 holds f16 holds as well. */
	*type = bf16 ? "bf16" : f16 ? "f16" : "f32";
	return bf16 ? 0x1p-9 : f16 ? 0x1p-11 : 0;
}

/* Numbers that are not finite: of the query, then nothing can be said of the output, or of the output alone. */
static bool nonfinite(struct st_replay_run *r, json_t *j, const float *observed, size_t n)
{
	const size_t bad = st_nonfinite(observed, n), bad_query = st_nonfinite(r->capture.q, n);
	st_json_put(j, "nonfinite", json_integer((json_int_t)bad));
	if (!bad && !bad_query)
		return false;
	json_t *cause = st_json_object(ST_IS("code", st_cause_name(ST_CAUSE_NUMERIC_NAN)),
	                               ST_IS("confidence", "confirmed"));
	st_json_put_all(j, ST_IS("verdict", bad_query ? "undecided" : "fault"), ST_IS("cause", cause));
	if (bad_query) {
		st_json_put(cause, "text", json_string("the query of the capture is not finite"));
		fprintf(r->text, "verdict: undecided - no output follows from a query that is not finite\n");
	} else {
		fprintf(r->text, "verdict: fault - numeric.nan: %zu of %zu values are NaN or infinite\n", bad, n);
	}
	r->exit_status = 2;
	return true;
}

/* The search's result into the report. hit: the confirmed one, or NULL. */
static enum st_status conclude(struct st_replay_run *r, json_t *j, const struct table *t, const struct hypothesis *hit,
                               double before, double floor, struct st_error *err)
{
	const struct hypothesis **order = st_alloc_array(t->n ? t->n : 1, sizeof *order);
	if (t->failed || !order) {
		free(order);
		return st_fail(err, ST_ERR_NOMEM, "out of memory");
	}
	for (size_t i = 0; i < t->n; i++)
		order[i] = &t->h[i];
	qsort(order, t->n, sizeof *order, by_residual);
	const struct hypothesis *best = hit ? hit : t->n ? order[0] : NULL;
	const bool explained = hit || (best && removes_most(best->residual, before));
	const char *confidence = hit       ? "confirmed"
	                       : explained ? "likely"
	                                   : "none",
		   *verdict = verdict_of(hit, explained ? best : NULL, before);
	json_t *list = json_array(), *same = json_array();
	for (size_t i = 0; i < t->n && i < 5; i++)
		st_json_add(list,
		            st_json_object(ST_IS("code", st_cause_name(order[i]->code)), ST_IS("text", order[i]->text),
		                           ST_IS("residual_after", order[i]->residual)));
	if (explained)
		fprintf(r->text, "cause: %s (%s) - %s\n", st_cause_name(best->code), confidence, best->text);
	if (explained && best->parameter != ST_PARAM_NONE)
		fprintf(r->text, "       %s = %.9g\n", st_param_info(best->parameter)->key, best->value);
	if (explained)
		fprintf(r->text, "       applied to this capture, the residual falls from %.3e to %.3e\n", before,
		        best->residual);
	/* Other edits that give the same output: the capture cannot tell them apart. */
	for (size_t i = 0; i < t->n; i++) {
		const struct hypothesis *h = &t->h[i];
		if (h == best || h->residual > floor)
			continue;
		st_json_add(same, st_json_object(ST_IS("code", st_cause_name(h->code)), ST_IS("text", h->text)));
		fprintf(r->text, "       the same output follows from %s - %s\n", st_cause_name(h->code), h->text);
	}
	for (size_t i = 0; !explained && i < t->n && i < 3; i++)
		fprintf(r->text, "candidate: %s leaves %.3e - %s\n", st_cause_name(order[i]->code), order[i]->residual,
		        order[i]->text);
	fprintf(r->text, "verdict: %s%s\n", verdict,
	        !explained                      ? " - unexplained: none of the known mistakes reproduces this output"
	        : !strcmp(verdict, "undecided") ? " - what that leaves is above the floor"
	                                        : "");
	st_json_put_all(j, ST_IS("verdict", verdict),
	                ST_IS("cause", cause_json(explained ? best : NULL, confidence, before, floor, same)),
	                ST_IS("candidates", list));
	if (strcmp(verdict, "noise") != 0)
		r->exit_status = 2;
	free(order);
	return ST_OK;
}

static enum st_status explain(struct st_replay_run *r, json_t *j, struct step *s, struct st_error *err)
{
	double floor;
	st_step_evaluate(s, &(struct edit){ 0 });
	const double before = st_step_difference(s, 0, s->n);
	ST_TRY(arithmetic_floor(r, s, &floor, err));
	const char *type;
	const double storage = storage_floor(s->observed, s->n, &type);
	floor = fmax(storage, floor);
	fprintf(r->text, "observed output against the declared step in f64: nrmse %.3e, floor of %s %.1e\n", before,
	        storage < floor        ? "f32 arithmetic"
	        : !strcmp(type, "f16") ? "an f16 output"
	                               : "a bf16 output",
	        floor);
	st_json_put_all(j, ST_IS("output_dtype", type), ST_IS("residual", before), ST_IS("floor", floor));
	if (before <= floor) {
		st_json_put_all(j, ST_IS("verdict", "match"), ST_IS("cause", json_null()));
		fprintf(r->text, "verdict: match\n");
		return ST_OK;
	}
	struct table t = { 0 };
	const struct hypothesis *hit = search(s, &t, floor);
	enum st_status st = conclude(r, j, &t, hit, before, floor, err);
	st_hypotheses_release(&t);
	return st;
}

enum st_status st_diagnose_output(struct st_replay_run *r, const float *observed, struct st_error *err)
{
	const struct st_tq_params *p = &r->capture.p;
	struct step s = { .c = &r->capture,
		          .observed = observed,
		          .n = (size_t)p->num_heads * p->head_dim,
		          .q_f16 = r->exec.q_f16,
		          .physical = r->exec.visibility == ST_TQ_PHYSICAL,
		          .pool = r->exec.pool,
		          .decode = st_oracle_decode_of(&r->capture.codec) };
	json_t *j = st_json_object(ST_IS("candidates", json_array()));
	st_json_put(r->json, "diagnosis", j);
	if (nonfinite(r, j, observed, s.n))
		return ST_OK;
	enum st_status st = st_step_alloc(&s) ? explain(r, j, &s, err) : st_fail(err, ST_ERR_NOMEM, "out of memory");
	st_step_free(&s);
	return st;
}
