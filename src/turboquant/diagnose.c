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

/* Nine tenths of an infinite residual, that of an output where the declared step gives none, are no measure; and of one
 * that is far too large almost anything takes most away. */
static bool removes_most(double after, double before) { return isfinite(before) && after < 0.1 * fmin(before, 1); }

/* `likely`: not confirmed, or NULL. Coarse numbers excuse nothing but what they explain down to the floor: under what
 * they leave a small fault may hide. */
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
			struct hypothesis copy = t->h[i], *h = st_hypothesis_add(t, copy.code, copy.text);
			*h = copy;
			h->e.round = ROUND_F16;
			size_t len = strlen(h->text);
			snprintf(h->text + len, sizeof h->text - len, "; and an f16 query");
		}
		st_fit_numbers(s, round, floor, t);
		st_find_rows(s, round, floor, t);
		t->failed |= !st_step_try(s, t->h + from, t->n - from);
		hit = confirmed(t, floor);
	}
	return hit;
}

/* Other edits that give the same output: the capture cannot tell them apart, and says so. */
static json_t *equivalents(const struct table *t, const struct hypothesis *h, double floor)
{
	json_t *list = json_array();
	for (size_t i = 0; i < t->n; i++)
		if (t->h + i != h && t->h[i].residual <= floor)
			json_array_append_new(list, json_pack("{s:s,s:s}", "code", st_cause_name(t->h[i].code), "text",
			                                      t->h[i].text));
	return list;
}

static json_t *cause_json(const struct hypothesis *h, const char *confidence, double before, double floor)
{
	json_t *j = json_object(), *par = json_object();
	st_json_put(j, "code", json_string(st_cause_name(h ? h->code : ST_CAUSE_UNEXPLAINED)));
	st_json_put(j, "confidence", json_string(confidence));
	if (h && h->parameter != ST_PARAM_NONE)
		st_json_put(par, st_param_info(h->parameter)->key, st_json_number(h->value));
	if (h && h->e.row_fault == ROW_COPY)
		st_json_put(par, "holds_row", json_integer(h->e.from));
	if (h && h->e.one_head)
		st_json_put(par, "kv_head", json_integer(h->e.kv_head));
	if (h && h->e.round == ROUND_F16)
		st_json_put(par, "q_dtype", json_string("f16"));
	if (h && h->e.round == ROUND_BF16)
		st_json_put(par, "q_dtype", json_string("bf16"));
	if (h && h->e.kv_round)
		st_json_put(par, "kv_dtype", json_string(h->e.kv_round == ROUND_F16 ? "f16" : "bf16"));
	st_json_put(j, "parameters", par);
	st_json_put(j, "residual_before", st_json_number(before));
	st_json_put(j, "residual_after", h ? st_json_number(h->residual) : json_null());
	st_json_put(j, "floor", st_json_number(floor));
	st_json_put(j, "text", h ? json_string(h->text) : json_null());
	return j;
}

/* What f32 arithmetic alone costs here: our own kernel against its oracle, with room for other summation orders. */
static enum st_status arithmetic_floor(const struct st_replay_run *r, const struct st_capture *c, const struct step *s,
                                       double *floor, struct st_error *err)
{
	struct st_tq_codec codec;
	ST_TRY(st_tq_codec_init(&codec, c->p.head_dim, c->bits, c->signs, c->p.scale_factor_d512, r->exec.cpu, err));
	float *q = st_alloc_array(s->n, sizeof *q), *out = st_alloc_array(s->n, sizeof *out);
	if (!q || !out) {
		free(q);
		free(out);
		return st_fail(err, ST_ERR_NOMEM, "out of memory");
	}
	memcpy(q, c->q, s->n * sizeof *q);
	st_tq_rotate(&codec, q, c->p.num_heads);
	enum st_status st = st_tq_attention(&r->exec, &codec, &c->p, &c->kv, q, out, err);
	st_tq_unrotate(&codec, out, c->p.num_heads);
	*floor = fmax(10 * st_tq_nrmse(out, s->out, s->n), 1e-5);
	free(q);
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

enum st_status st_diagnose_output(struct st_replay_run *r, const struct st_capture *c, const float *observed,
                                  struct st_error *err)
{
	const struct st_tq_params *p = &c->p;
	struct st_codebook book;
	double levels[ST_TQ_MAX_LEVELS];
	if (!st_codebook_generate(&book, c->bits))
		return st_fail(err, ST_ERR_LIMIT, "the codebook did not converge");
	for (unsigned i = 0; i < book.n; i++)
		levels[i] = book.level_f32[i];
	struct step s = { .c = c,
		          .observed = observed,
		          .n = (size_t)p->num_heads * p->head_dim,
		          .q_f16 = r->exec.q_f16,
		          .physical = r->exec.visibility == ST_TQ_PHYSICAL,
		          .pool = r->exec.pool,
		          .decode = { .bits = c->bits,
		                      .levels = levels,
		                      .signs = c->signs,
		                      .fwht = true,
		                      .factor = p->head_dim == 512 ? 1 / p->scale_factor_d512
		                                                   : 1 / sqrt((double)p->head_dim) } };
	struct table t = { 0 };
	const struct hypothesis **order = NULL;
	enum st_status st = ST_OK;
	if (!st_step_alloc(&s)) {
		st = st_fail(err, ST_ERR_NOMEM, "out of memory");
		goto out;
	}
	uint64_t bad = 0, bad_query = 0;
	for (size_t i = 0; i < s.n; i++) {
		bad += !isfinite(observed[i]);
		bad_query += !isfinite(c->q[i]);
	}
	json_t *j = json_object(), *list = json_array();
	st_json_put(r->json, "diagnosis", j);
	st_json_put(j, "candidates", list);
	st_json_put(j, "nonfinite", json_integer((json_int_t)bad));
	if (bad_query) {
		st_json_put(j, "verdict", json_string("undecided"));
		st_json_put(j, "cause",
		            json_pack("{s:s,s:s,s:s}", "code", st_cause_name(ST_CAUSE_NUMERIC_NAN), "confidence",
		                      "confirmed", "text", "the query of the capture is not finite"));
		fprintf(r->text, "verdict: undecided - no output follows from a query that is not finite\n");
		r->exit_status = 2;
		goto out;
	}
	if (bad) {
		st_json_put(j, "verdict", json_string("fault"));
		st_json_put(
			j, "cause",
			json_pack("{s:s,s:s}", "code", st_cause_name(ST_CAUSE_NUMERIC_NAN), "confidence", "confirmed"));
		fprintf(r->text, "verdict: fault - numeric.nan: %llu of %zu values are NaN or infinite\n",
		        (unsigned long long)bad, s.n);
		r->exit_status = 2;
		goto out;
	}
	double floor;
	st_step_evaluate(&s, &(struct edit){ 0 });
	const double before = st_step_difference(&s, 0, s.n);
	ST_TRY_OUT(arithmetic_floor(r, c, &s, &floor, err));
	const char *type;
	const double storage = storage_floor(observed, s.n, &type);
	floor = fmax(storage, floor);
	fprintf(r->text, "observed output against the declared step in f64: nrmse %.3e, floor of %s %.1e\n", before,
	        storage < floor        ? "f32 arithmetic"
	        : !strcmp(type, "f16") ? "an f16 output"
	                               : "a bf16 output",
	        floor);
	st_json_put(j, "output_dtype", json_string(type));
	st_json_put(j, "residual", st_json_number(before));
	st_json_put(j, "floor", st_json_number(floor));
	if (before <= floor) {
		st_json_put(j, "verdict", json_string("match"));
		st_json_put(j, "cause", json_null());
		fprintf(r->text, "verdict: match\n");
		goto out;
	}
	const struct hypothesis *hit = search(&s, &t, floor);
	order = st_alloc_array(t.n ? t.n : 1, sizeof *order);
	if (t.failed || !order) {
		st = st_fail(err, ST_ERR_NOMEM, "out of memory");
		goto out;
	}
	for (size_t i = 0; i < t.n; i++)
		order[i] = &t.h[i];
	qsort(order, t.n, sizeof *order, by_residual);
	const struct hypothesis *best = hit ? hit : t.n ? order[0] : NULL;
	const char *confidence = hit ? "confirmed" : best && removes_most(best->residual, before) ? "likely" : "none";
	const bool explained = strcmp(confidence, "none") != 0;
	const char *verdict = verdict_of(hit, explained ? best : NULL, before);
	st_json_put(j, "verdict", json_string(verdict));
	json_t *cause = cause_json(explained ? best : NULL, confidence, before, floor),
	       *same = equivalents(&t, best, floor);
	st_json_put(j, "cause", cause);
	st_json_put(cause, "equivalent", same);
	for (size_t i = 0; i < t.n && i < 5; i++)
		json_array_append_new(list,
		                      json_pack("{s:s,s:s,s:o}", "code", st_cause_name(order[i]->code), "text",
		                                order[i]->text, "residual_after", st_json_number(order[i]->residual)));
	if (explained)
		fprintf(r->text, "cause: %s (%s) - %s\n", st_cause_name(best->code), confidence, best->text);
	if (explained && best->parameter != ST_PARAM_NONE)
		fprintf(r->text, "       %s = %.9g\n", st_param_info(best->parameter)->key, best->value);
	if (explained)
		fprintf(r->text, "       applied to this capture, the residual falls from %.3e to %.3e\n", before,
		        best->residual);
	for (size_t i = 0; i < json_array_size(same); i++)
		fprintf(r->text, "       the same output follows from %s - %s\n",
		        json_string_value(json_object_get(json_array_get(same, i), "code")),
		        json_string_value(json_object_get(json_array_get(same, i), "text")));
	for (size_t i = 0; !explained && i < t.n && i < 3; i++)
		fprintf(r->text, "candidate: %s leaves %.3e - %s\n", st_cause_name(order[i]->code), order[i]->residual,
		        order[i]->text);
	fprintf(r->text, "verdict: %s%s\n", verdict,
	        !explained                      ? " - unexplained: none of the known mistakes reproduces this output"
	        : !strcmp(verdict, "undecided") ? " - what that leaves is above the floor"
	                                        : "");
	if (strcmp(verdict, "noise"))
		r->exit_status = 2;
out:
	st_step_free(&s);
	st_hypotheses_release(&t);
	free(order);
	return st;
}
