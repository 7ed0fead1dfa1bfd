/* diagnose_cache.c - do the packed rows hold the values they were made from? */
#include "turboquant/diagnose.h"

#include "base/error.h"

#include <math.h>
#include <string.h>

/* How a writer may have encoded rows differently from what the capture declares. */
struct writer {
	enum st_cause_code code;
	const char *text, *other_text; /* other_text: of signs, where the capture declares them */
	bool signs, no_fwht;           /* flipped against the declaration; without the transform */
	int shift;                     /* row of position i holds position i + shift */
	bool fit_gain;                 /* any common factor on the norms */
	struct edit e;                 /* how its rows are to be read */
};

struct check {
	struct step step;   /* the declared step: only its rows are looked at */
	double expected;    /* nrmse of this quantiser on normal data */
	double gain, limit; /* of the last sample: the fitted factor, and what a sound writer may be off by */
};

/* The values of position i in the basis in which the writer stored them: [d] */
static void stored_basis(const struct check *k, const struct writer *w, bool v, uint32_t g, uint32_t i, double *y)
{
	const struct st_capture *c = k->step.c;
	const uint32_t d = c->p.head_dim;
	const float *x = st_capture_pre(c, v, g, i);
	for (uint32_t j = 0; j < d; j++)
		y[j] = (double)x[j] * (k->step.decode.signs != w->signs ? st_tq_sign(j) : 1);
	if (!w->no_fwht)
		st_oracle_fwht(y, d);
}

static void stored_row(const struct check *k, const struct writer *w, bool v, uint32_t g, uint32_t i, double *y)
{
	const struct st_tq_params *p = &k->step.c->p;
	st_step_row(&k->step, &w->e, v, g, (uint32_t)st_capture_row(p, 0, i), y);
}

/* nrmse of a stored row against position i of the values it should hold; gain 1 unless given. */
static double row_error(const struct check *k, const struct writer *w, bool v, uint32_t g, uint32_t stored, uint32_t i,
                        double gain)
{
	double x[512], y[512];
	struct st_apart a = { 0 };
	stored_basis(k, w, v, g, i, x);
	stored_row(k, w, v, g, stored, y);
	for (uint32_t j = 0; j < k->step.c->p.head_dim; j++)
		st_apart_add(&a, gain * y[j], x[j]);
	return st_apart_nrmse(&a);
}

/* What the writer's quantiser itself costs at position i. Values with a few large coordinates in the rotated basis
 * leave the outermost level far behind, and then a sound row is off by much more than normal data would be. */
static double ideal_error(const struct check *k, const struct writer *w, bool v, uint32_t g, uint32_t i)
{
	const uint32_t d = k->step.c->p.head_dim, span = d == 512 ? 256 : d, top = (1u << k->step.decode.bits) - 1;
	const float *levels = k->step.decode.levels;
	double y[512];
	struct st_apart a = { 0 };
	stored_basis(k, w, v, g, i, y);
	for (uint32_t b = 0; b < d; b += span) {
		const double norm = sqrt(st_oracle_dot(y + b, y + b, span)), rms = norm / sqrt(span);
		/* Stored as 0 below this: the L2 norm of a row, or for d = 512 the RMS of a half. */
		const bool zero = (d == 512 ? rms : norm) < 1e-10;
		for (uint32_t j = b; j < b + span; j++) {
			uint32_t lo = 0, hi = top;
			while (!zero && lo < hi) {
				uint32_t mid = (lo + hi) / 2;
				if (y[j] / rms > 0.5 * ((double)levels[mid] + levels[mid + 1]))
					lo = mid + 1;
				else
					hi = mid;
			}
			st_apart_add(&a, zero ? 0 : levels[lo] * rms, y[j]);
		}
	}
	return a.total > 0 ? st_apart_nrmse(&a) : 0;
}

/* A row is sound as long as what it adds to its quantiser's own error is less than that error on normal data: f32
 * rounding and ties add a thousandth of it, another position's values many times as much. */
static double row_limit(const struct check *k, const struct writer *w, bool v, uint32_t g, uint32_t i)
{
	return hypot(ideal_error(k, w, v, g, i), k->expected);
}

/* Root mean square of row errors over an even sample of at most 512 rows of keys (v = 0) or values. */
static double sampled(struct check *k, const struct writer *w, bool v)
{
	const struct st_tq_params *p = &k->step.c->p;
	const uint32_t n_pre = k->step.c->n_pre, first = p->kv_seq_len - n_pre;
	const uint64_t rows = (uint64_t)p->num_kv_heads * n_pre, step = rows / 512 + 1;
	double sum = 0, limit = 0, xy = 0, yy = 0;
	uint64_t n = 0;
	k->gain = 1;
	for (int pass = w->fit_gain ? 0 : 1; pass < 2; pass++) {
		for (uint64_t r = 0; r < rows; r += step) {
			const uint32_t g = (uint32_t)(r / n_pre), i = first + (uint32_t)(r % n_pre);
			const int64_t of = (int64_t)i + w->shift;
			if (of < first || of >= p->kv_seq_len)
				continue;
			if (pass == 0) {
				double x[512], y[512];
				stored_basis(k, w, v, g, (uint32_t)of, x);
				stored_row(k, w, v, g, i, y);
				xy += st_oracle_dot(x, y, p->head_dim);
				yy += st_oracle_dot(y, y, p->head_dim);
				continue;
			}
			const double e = row_error(k, w, v, g, i, (uint32_t)of, k->gain),
				     most = row_limit(k, w, v, g, (uint32_t)of);
			sum += isinf(e) ? 4 : e * e;
			limit += most * most;
			n++;
		}
		if (pass == 0 && yy > 0)
			k->gain = xy / yy;
	}
	k->limit = n ? sqrt(limit / (double)n) : 0;
	return n ? sqrt(sum / (double)n) : INFINITY;
}

static json_t *cause(const struct check *k, enum st_cause_code code, const char *text, double before, double after,
                     json_t *parameters)
{
	return st_json_object(ST_IS("code", st_cause_name(code)),
	                      ST_IS("confidence", code == ST_CAUSE_UNEXPLAINED ? "none" : "confirmed"),
	                      ST_IS("parameters", parameters), ST_IS("residual_before", before),
	                      ST_IS("residual_after", after), ST_IS("floor", k->expected), ST_IS("text", text));
}

static const char *side_name(bool v) { return v ? "values" : "keys"; }

/* clang-format off */
static const struct writer writers[] = {
	{ .code = ST_CAUSE_CACHE_QUANTISER, .text = "rows were written with D1 signs", .other_text = "rows were written without the D1 signs", .signs = true },
	{ .code = ST_CAUSE_CACHE_QUANTISER, .text = "rows were written without the transform", .no_fwht = true },
	{ .code = ST_CAUSE_CACHE_QUANTISER, .text = "nibbles are swapped: the even coordinate lies in the high half", .e = { .nibbles_k = true, .nibbles_v = true } },
	{ .code = ST_CAUSE_CACHE_QUANTISER, .text = "the two norms of a row are exchanged", .e = { .norm_block = ST_NORM_SWAPPED } },
	{ .code = ST_CAUSE_CACHE_RING_START, .text = "every row holds the position after its own: the ring start is one row early", .shift = 1 },
	{ .code = ST_CAUSE_CACHE_RING_START, .text = "every row holds the position before its own: the ring start is one row late", .shift = -1 },
	{ .code = ST_CAUSE_ATTN_KV_SWAPPED, .text = "keys and values are exchanged", .e = { .kv_swapped = true } },
	{ .code = ST_CAUSE_CACHE_QUANTISER, .text = "norms carry another factor", .fit_gain = true },
};
/* clang-format on */

/* Most rows are wrong: one rule of the writer differs. */
static void systematic(struct st_replay_run *r, struct check *k, bool v, double before, json_t *out)
{
	const struct writer *best = NULL;
	double after = before, gain = 1, limit = 0;
	for (size_t i = 0; i < sizeof writers / sizeof *writers; i++) {
		double e = sampled(k, writers + i, v);
		if (e < after && (!best || e < 0.9 * after)) {
			best = writers + i;
			after = e;
			gain = k->gain;
			limit = k->limit;
		}
	}
	const bool sure = best && after <= limit;
	const char *text = !sure                                    ? "no known rule of a writer fits these rows"
	                 : best->other_text && k->step.decode.signs ? best->other_text
	                                                            : best->text;
	json_t *par = st_json_object(ST_IS("side", side_name(v)));
	if (sure && best->fit_gain)
		st_json_put(par, "gain", st_json_number(gain));
	if (sure && best->shift)
		st_json_put(par, "shift", json_integer(best->shift));
	st_json_add(out, cause(k, sure ? best->code : ST_CAUSE_UNEXPLAINED, text, before, after, par));
	if (sure)
		fprintf(r->text,
		        "cache: %s - %s: %s; undone, the rows' nrmse falls from %.3g to %.4f (expected %.4f)\n",
		        st_cause_name(best->code), side_name(v), text, before, after, k->expected);
	else
		fprintf(r->text, "cache: unexplained - %s are off by %.3g, and no known rule of a writer fits\n",
		        side_name(v), before);
}

/* Single rows are wrong: stale ones. Whose position do they hold? */
static void single_rows(struct st_replay_run *r, struct check *k, bool v, const uint64_t *bad, size_t n, json_t *out)
{
	static const struct writer own = { 0 };
	const struct st_tq_params *p = &k->step.c->p;
	for (size_t b = 0; b < n; b++) {
		const uint32_t n_pre = k->step.c->n_pre, first = p->kv_seq_len - n_pre;
		const uint32_t g = (uint32_t)(bad[b] / n_pre), i = first + (uint32_t)(bad[b] % n_pre);
		const double before = row_error(k, &own, v, g, i, i, 1);
		double best = INFINITY;
		uint32_t holds = 0;
		for (uint32_t m = first; m < p->kv_seq_len; m++) {
			double e = row_error(k, &own, v, g, i, m, 1);
			if (e < best) {
				best = e;
				holds = m;
			}
		}
		const bool copy = best <= row_limit(k, &own, v, g, holds);
		json_t *par = st_json_object(ST_IS("side", side_name(v)), ST_IS("kv_head", g), ST_IS("position", i),
		                             ST_IS("row", st_capture_row(p, 0, i)));
		char text[128] = "stale row: it holds none of this sequence's positions";
		if (copy) {
			st_json_put(par, "holds_position", json_integer(holds));
			snprintf(text, sizeof text, "stale row: it holds position %u", holds);
		}
		/* Confirmed either way: with the row taken from the values it should hold, its error is the
		 * quantiser's. */
		st_json_add(out, cause(k, ST_CAUSE_CACHE_SLOT, text, before, copy ? best : k->expected, par));
		if (b < 4)
			fprintf(r->text,
			        "cache: cache.slot - %s, kv head %u, position %u: %s (nrmse %.3g, expected %.4f)\n",
			        side_name(v), g, i, text, before, k->expected);
	}
	if (n > 4)
		fprintf(r->text, "cache: and %zu more rows\n", n - 4);
}

enum st_status st_diagnose_cache(struct st_replay_run *r, struct st_error *err)
{
	static const struct writer own = { 0 };
	const struct st_capture *c = &r->capture;
	const struct st_tq_params *p = &c->p;
	struct st_codebook_lint lint;
	if (!c->pre[0])
		return ST_OK;
	st_codebook_lint(&c->codec.book, &lint);
	struct check k = { .step = { .c = c, .decode = st_oracle_decode_of(&c->codec) }, .expected = lint.rmse };
	enum { MAX_LISTED = 64 };
	const uint64_t rows = (uint64_t)p->num_kv_heads * c->n_pre;
	json_t *causes = json_array();
	uint64_t n_bad[2] = { 0, 0 };
	double nrmse[2];
	for (int v = 0; v < 2; v++) {
		uint64_t bad[MAX_LISTED];
		double sum = 0;
		for (uint64_t i = 0; i < rows; i++) {
			const uint32_t g = (uint32_t)(i / c->n_pre),
				       at = p->kv_seq_len - c->n_pre + (uint32_t)(i % c->n_pre);
			const double e = row_error(&k, &own, v, g, at, at, 1);
			sum += isfinite(e) ? e * e : 0;
			if (!(e <= row_limit(&k, &own, v, g, at))) {
				if (n_bad[v] < MAX_LISTED)
					bad[n_bad[v]] = i;
				n_bad[v]++;
			}
			if (i % 4096 == 0) {
				enum st_status st = st_check_cancel(err);
				if (st != ST_OK) {
					json_decref(causes);
					return st;
				}
			}
		}
		nrmse[v] = sqrt(sum / (double)rows);
		if (n_bad[v] * 2 > rows)
			systematic(r, &k, v, nrmse[v], causes);
		else
			single_rows(r, &k, v, bad, n_bad[v] < MAX_LISTED ? (size_t)n_bad[v] : MAX_LISTED, causes);
	}
	const bool fault = n_bad[0] + n_bad[1] > 0;
	st_json_put(r->json, "cache",
	            st_json_object(ST_IS("verdict", fault ? "fault" : "ok"), ST_IS("rows", rows),
	                           ST_IS("expected_nrmse", k.expected), ST_IS("keys_nrmse", nrmse[0]),
	                           ST_IS("keys_bad_rows", n_bad[0]), ST_IS("values_nrmse", nrmse[1]),
	                           ST_IS("values_bad_rows", n_bad[1]), ST_IS("causes", causes)));
	if (fault)
		r->exit_status = 2;
	else
		fprintf(r->text,
		        "cache: %s holds its values as well as %u bits can: nrmse of keys %.4f, of values %.4f "
		        "(N(0,1): %.4f)\n",
		        c->n_pre == p->kv_seq_len ? "every row" : "the newest row", c->codec.bits, nrmse[0], nrmse[1],
		        k.expected);
	return ST_OK;
}
