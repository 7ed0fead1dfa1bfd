/* diagnose_cache.c - do the packed rows hold the values they were made from? */
#include "turboquant/replay_internal.h"

#include <stele/cause.h>

#include "base/error.h"
#include "base/mem.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* How a writer may have encoded rows differently from what the capture declares. */
struct writer {
	enum st_cause_code code;
	const char *text;
	bool signs, no_fwht, nibbles, kv_swapped;
	unsigned norm_block;
	int shift;     /* row of position i holds position i + shift */
	bool fit_gain; /* any common factor on the norms */
};

struct check {
	const struct st_capture *c;
	struct st_oracle_decode decode;
	double expected;    /* nrmse of this quantiser on normal data */
	double gain, limit; /* of the last sample: the fitted factor, and what a sound writer may be off by */
};

static const float *pre_row(const struct st_capture *c, bool v, uint32_t g, uint32_t i)
{
	return (v ? c->v_pre : c->k_pre) + ((size_t)g * c->p.kv_seq_len + i) * c->p.head_dim;
}

static void decoded(const struct check *k, const struct writer *w, bool v, uint32_t g, uint32_t i, double *y)
{
	const struct st_tq_params *p = &k->c->p;
	struct st_oracle_decode o = k->decode;
	o.signs = o.signs != w->signs;
	o.fwht = !w->no_fwht;
	o.nibbles_swapped = w->nibbles;
	o.norm_block = w->norm_block;
	const bool from_v = v != w->kv_swapped;
	const size_t row = (size_t)g * p->kv_capacity + ((uint64_t)p->ring_start + i) % p->kv_capacity;
	st_oracle_decode_row(&o, p->head_dim,
	                     (from_v ? k->c->kv.v_codes : k->c->kv.k_codes)
	                             + row * st_tq_row_bytes(p->head_dim, o.bits),
	                     (from_v ? k->c->kv.v_norms : k->c->kv.k_norms) + row * st_tq_norm_blocks(p->head_dim), y);
}

/* nrmse of a stored row against position i of the values it should hold; gain 1 unless given. */
static double row_error(const struct check *k, const struct writer *w, bool v, uint32_t g, uint32_t stored, uint32_t i,
                        double gain)
{
	const float *x = pre_row(k->c, v, g, i);
	double y[512], diff = 0, total = 0;
	decoded(k, w, v, g, stored, y);
	for (uint32_t j = 0; j < k->c->p.head_dim; j++) {
		diff += (gain * y[j] - x[j]) * (gain * y[j] - x[j]);
		total += (double)x[j] * x[j];
	}
	return total > 0 ? sqrt(diff / total) : diff > 0 ? INFINITY : 0;
}

/* What the writer's quantiser itself costs at position i. Values with a few large coordinates in the rotated basis
 * leave the outermost level far behind, and then a sound row is off by much more than normal data would be. */
static double ideal_error(const struct check *k, const struct writer *w, bool v, uint32_t g, uint32_t i)
{
	const uint32_t d = k->c->p.head_dim, span = d == 512 ? 256 : d, top = (1u << k->decode.bits) - 1;
	const double *levels = k->decode.levels;
	const float *x = pre_row(k->c, v, g, i);
	double y[512], diff = 0, total = 0;
	for (uint32_t j = 0; j < d; j++)
		y[j] = (double)x[j] * (k->decode.signs != w->signs ? st_tq_sign(j) : 1);
	if (!w->no_fwht)
		st_oracle_fwht(y, d);
	for (uint32_t b = 0; b < d; b += span) {
		double sum = 0;
		for (uint32_t j = b; j < b + span; j++)
			sum += y[j] * y[j];
		const double rms = sqrt(sum / span);
		total += sum;
		/* Stored as 0 below this: the L2 norm of a row, or for d = 512 the RMS of a half. */
		if ((d == 512 ? rms : sqrt(sum)) < 1e-10) {
			diff += sum;
			continue;
		}
		for (uint32_t j = b; j < b + span; j++) {
			uint32_t lo = 0, hi = top;
			while (lo < hi) {
				uint32_t mid = (lo + hi) / 2;
				if (y[j] / rms > 0.5 * (levels[mid] + levels[mid + 1]))
					lo = mid + 1;
				else
					hi = mid;
			}
			diff += (y[j] - levels[lo] * rms) * (y[j] - levels[lo] * rms);
		}
	}
	return total > 0 ? sqrt(diff / total) : 0;
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
	const struct st_tq_params *p = &k->c->p;
	const uint64_t rows = (uint64_t)p->num_kv_heads * p->kv_seq_len, step = rows / 512 + 1;
	double sum = 0, limit = 0, xy = 0, yy = 0;
	uint64_t n = 0;
	k->gain = 1;
	for (int pass = w->fit_gain ? 0 : 1; pass < 2; pass++) {
		for (uint64_t r = 0; r < rows; r += step) {
			uint32_t g = (uint32_t)(r / p->kv_seq_len), i = (uint32_t)(r % p->kv_seq_len);
			int64_t of = (int64_t)i + w->shift;
			if (of < 0 || of >= p->kv_seq_len)
				continue;
			if (pass) {
				double e = row_error(k, w, v, g, i, (uint32_t)of, k->gain);
				double most = row_limit(k, w, v, g, (uint32_t)of);
				sum += isinf(e) ? 4 : e * e;
				limit += most * most;
				n++;
				continue;
			}
			const float *x = pre_row(k->c, v, g, (uint32_t)of);
			double y[512];
			decoded(k, w, v, g, i, y);
			for (uint32_t j = 0; j < p->head_dim; j++) {
				xy += y[j] * x[j];
				yy += y[j] * y[j];
			}
		}
		if (!pass && yy > 0)
			k->gain = xy / yy;
	}
	k->limit = n ? sqrt(limit / (double)n) : 0;
	return n ? sqrt(sum / (double)n) : INFINITY;
}

static json_t *cause(enum st_cause_code code, const char *confidence, const char *text, double before, double after,
                     double floor, json_t *parameters)
{
	json_t *j = json_object();
	st_json_put(j, "code", json_string(st_cause_name(code)));
	st_json_put(j, "confidence", json_string(confidence));
	st_json_put(j, "parameters", parameters);
	st_json_put(j, "residual_before", st_json_number(before));
	st_json_put(j, "residual_after", st_json_number(after));
	st_json_put(j, "floor", st_json_number(floor));
	st_json_put(j, "text", json_string(text));
	return j;
}

/* Most rows are wrong: one rule of the writer differs. */
static void systematic(struct st_replay_run *r, struct check *k, bool v, double before, json_t *out)
{
	const struct writer writers[] = {
		{ .code = ST_CAUSE_CACHE_QUANTISER,
		  .text = k->c->signs ? "rows were written without the D1 signs" : "rows were written with D1 signs",
		  .signs = true },
		{ .code = ST_CAUSE_CACHE_QUANTISER,
		  .text = "rows were written without the transform",
		  .no_fwht = true },
		{ .code = ST_CAUSE_CACHE_QUANTISER,
		  .text = "nibbles are swapped: the even coordinate lies in the high half",
		  .nibbles = true },
		{ .code = ST_CAUSE_CACHE_QUANTISER,
		  .text = "the two norms of a row are exchanged",
		  .norm_block = ST_NORM_SWAPPED },
		{ .code = ST_CAUSE_CACHE_RING_START,
		  .text = "every row holds the position after its own: the ring start is one row early",
		  .shift = 1 },
		{ .code = ST_CAUSE_CACHE_RING_START,
		  .text = "every row holds the position before its own: the ring start is one row late",
		  .shift = -1 },
		{ .code = ST_CAUSE_ATTN_KV_SWAPPED, .text = "keys and values are exchanged", .kv_swapped = true },
		{ .code = ST_CAUSE_CACHE_QUANTISER, .text = "norms carry another factor", .fit_gain = true },
	};
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
	json_t *par = json_object();
	st_json_put(par, "side", json_string(v ? "values" : "keys"));
	if (sure && best->fit_gain)
		st_json_put(par, "gain", st_json_number(gain));
	if (sure && best->shift)
		st_json_put(par, "shift", json_integer(best->shift));
	json_array_append_new(out, cause(sure ? best->code : ST_CAUSE_UNEXPLAINED, sure ? "confirmed" : "none",
	                                 sure ? best->text : "no known rule of a writer fits these rows", before, after,
	                                 k->expected, par));
	if (sure)
		fprintf(r->text,
		        "cache: %s - %s: %s; undone, the rows' nrmse falls from %.3g to %.4f (expected %.4f)\n",
		        st_cause_name(best->code), v ? "values" : "keys", best->text, before, after, k->expected);
	else
		fprintf(r->text, "cache: unexplained - %s are off by %.3g, and no known rule of a writer fits\n",
		        v ? "values" : "keys", before);
}

/* Single rows are wrong: stale ones. Whose position do they hold? */
static void single_rows(struct st_replay_run *r, struct check *k, bool v, const uint64_t *bad, size_t n, json_t *out)
{
	static const struct writer own = { 0 };
	const struct st_tq_params *p = &k->c->p;
	for (size_t b = 0; b < n; b++) {
		const uint32_t g = (uint32_t)(bad[b] / p->kv_seq_len), i = (uint32_t)(bad[b] % p->kv_seq_len);
		const double before = row_error(k, &own, v, g, i, i, 1);
		double best = INFINITY;
		uint32_t holds = 0;
		for (uint32_t m = 0; m < p->kv_seq_len; m++) {
			double e = row_error(k, &own, v, g, i, m, 1);
			if (e < best) {
				best = e;
				holds = m;
			}
		}
		const bool copy = best <= row_limit(k, &own, v, g, holds);
		json_t *par = json_object();
		char text[128];
		st_json_put(par, "side", json_string(v ? "values" : "keys"));
		st_json_put(par, "kv_head", json_integer(g));
		st_json_put(par, "position", json_integer(i));
		st_json_put(par, "row", json_integer((json_int_t)(((uint64_t)p->ring_start + i) % p->kv_capacity)));
		if (copy) {
			st_json_put(par, "holds_position", json_integer(holds));
			snprintf(text, sizeof text, "stale row: it holds position %u", holds);
		} else {
			snprintf(text, sizeof text, "stale row: it holds none of this sequence's positions");
		}
		/* Confirmed either way: with the row taken from the values it should hold, its error is the
		 * quantiser's. */
		json_array_append_new(out, cause(ST_CAUSE_CACHE_SLOT, "confirmed", text, before,
		                                 copy ? best : k->expected, k->expected, par));
		if (b < 4)
			fprintf(r->text,
			        "cache: cache.slot - %s, kv head %u, position %u: %s (nrmse %.3g, expected %.4f)\n",
			        v ? "values" : "keys", g, i, text, before, k->expected);
	}
	if (n > 4)
		fprintf(r->text, "cache: and %zu more rows\n", n - 4);
}

enum st_status st_diagnose_cache(struct st_replay_run *r, const struct st_capture *c, struct st_error *err)
{
	static const struct writer own = { 0 };
	if (!c->k_pre)
		return ST_OK;
	const struct st_tq_params *p = &c->p;
	struct st_codebook book;
	struct st_codebook_lint lint;
	double levels[ST_TQ_MAX_LEVELS];
	if (!st_codebook_generate(&book, c->bits))
		return st_fail(err, ST_ERR_LIMIT, "the codebook did not converge");
	st_codebook_lint(&book, &lint);
	for (unsigned i = 0; i < book.n; i++)
		levels[i] = book.level_f32[i];
	struct check k = { .c = c,
		           .expected = lint.rmse,
		           .decode = { .bits = c->bits,
		                       .levels = levels,
		                       .signs = c->signs,
		                       .fwht = true,
		                       .factor = p->head_dim == 512 ? 1 / p->scale_factor_d512
		                                                    : 1 / sqrt((double)p->head_dim) } };
	enum { MAX_LISTED = 64 };
	const uint64_t rows = (uint64_t)p->num_kv_heads * p->kv_seq_len;
	json_t *j = json_object(), *causes = json_array();
	uint64_t total_bad = 0;
	double nrmse[2];
	st_json_put(r->json, "cache", j);
	st_json_put(j, "causes", causes);
	for (int v = 0; v < 2; v++) {
		uint64_t bad[MAX_LISTED], n_bad = 0;
		double sum = 0;
		for (uint64_t i = 0; i < rows; i++) {
			const uint32_t g = (uint32_t)(i / p->kv_seq_len), at = (uint32_t)(i % p->kv_seq_len);
			double e = row_error(&k, &own, v, g, at, at, 1);
			sum += isfinite(e) ? e * e : 0;
			if (!(e <= row_limit(&k, &own, v, g, at))) {
				if (n_bad < MAX_LISTED)
					bad[n_bad] = i;
				n_bad++;
			}
			if (i % 4096 == 0)
				ST_TRY(st_check_cancel(err));
		}
		total_bad += n_bad;
		nrmse[v] = sqrt(sum / (double)rows);
		st_json_put(j, v ? "values_nrmse" : "keys_nrmse", st_json_number(nrmse[v]));
		st_json_put(j, v ? "values_bad_rows" : "keys_bad_rows", json_integer((json_int_t)n_bad));
		if (n_bad * 2 > rows)
			systematic(r, &k, v, nrmse[v], causes);
		else
			single_rows(r, &k, v, bad, n_bad < MAX_LISTED ? (size_t)n_bad : MAX_LISTED, causes);
	}
	st_json_put(j, "rows", json_integer((json_int_t)rows));
	st_json_put(j, "expected_nrmse", st_json_number(k.expected));
	st_json_put(j, "verdict", json_string(total_bad ? "fault" : "ok"));
	if (total_bad)
		r->exit_status = 2;
	else
		fprintf(r->text,
		        "cache: every row holds its values as well as %u bits can: nrmse of keys %.4f, of values %.4f "
		        "(N(0,1): %.4f)\n",
		        c->bits, nrmse[0], nrmse[1], k.expected);
	return ST_OK;
}
