/* singlestep.c - one captured step: three variations, canaries and two oracles; or a foreign output to explain. */
#include "turboquant/diagnose.h"
#include "turboquant/modes.h"

#include "base/files.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Kernel against oracle: above this the kernel is wrong, whatever the query's type. */
static const double kernel_threshold = 0.01;
/* Rise that an asymmetric canary must cause. */
static const double canary_rise = 0.01;
/* Seeds of the floor on N(0,1) heads that stands beside the measured one. */
enum { CANARY_POSITION = 10, FLOOR_SEEDS = 24 };
static const float out_of_range_norm = 1e9f;

/* One cache as the kernel and the reference see it, and what came of it. */
struct arm {
	struct st_tq_kv kv, ref_kv;
	struct st_tq_params ref_p; /* how ref_kv lies in memory */
	float *out;                /* [H, d] */
	double *ref;               /* [H, d]: attention over the decoded cache */
	double nrmse;              /* of out against ref */
};

/* Variation A: rotate, kernel, rotate back. B: neither. C: the dense kernel on decoded rows. out: [H, d] */
static enum st_status run_variation(const struct st_replay_run *r, char variation, const struct st_tq_kv *kv,
                                    float *out, struct st_error *err)
{
	const struct st_capture *c = &r->capture;
	const struct st_tq_params *p = &c->p;
	if (variation == 'A')
		return st_tq_step(&r->exec, &c->codec, p, kv, c->q, out, err);
	if (variation == 'B')
		return st_tq_attention(&r->exec, &c->codec, p, kv, c->q, out, err);
	const size_t rows = (size_t)p->num_kv_heads * p->kv_capacity;
	float *x = st_alloc_array3(2, rows, p->head_dim, sizeof *x), *values = x + rows * p->head_dim;
	ST_NEED(x);
	st_tq_decode(&c->codec, kv->codes[0], kv->norms[0], rows, x);
	st_tq_decode(&c->codec, kv->codes[1], kv->norms[1], rows, values);
	const struct st_tq_kv dense = { .dense = { x, values } };
	enum st_status st = st_tq_attention(&r->exec, NULL, p, &dense, c->q, out, err);
	free(x);
	return st;
}

static enum st_status run_arm(const struct st_replay_run *r, struct arm *a, struct st_error *err)
{
	const struct st_capture *c = &r->capture;
	const struct st_oracle_decode o = st_oracle_decode_of(&c->codec);
	ST_TRY(run_variation(r, r->o->variation, &a->kv, a->out, err));
	ST_TRY(st_oracle_dequant(&a->ref_p, &o, &a->ref_kv, c->q, a->ref, err));
	a->nrmse = st_tq_nrmse(a->out, a->ref, (size_t)c->p.num_heads * c->p.head_dim);
	return ST_OK;
}

/* ---- canaries ---- */

static const char *const canary_names[] = { "none", "in-range", "out-of-range", "in-range-asymmetric" };

/* A cache with norms of its own, under the canary: [G, P, B] of p. Files of the capture stand for norms beyond the
 * sequence. */
static bool poison(const struct st_replay_run *r, const struct st_tq_params *p, const struct st_tq_kv *from,
                   struct st_tq_kv *to, struct st_arena *mem)
{
	const struct st_capture *c = &r->capture;
	const uint32_t B = st_tq_norm_blocks(p->head_dim);
	const size_t rows = (size_t)p->num_kv_heads * p->kv_capacity;
	const bool beyond = r->o->canary == ST_CANARY_OUT_OF_RANGE;
	*to = *from;
	for (int v = 0; v < 2; v++) {
		const float *given = beyond && from == &c->kv ? c->norms_canary[v] : NULL;
		float *x = st_arena_alloc2(mem, rows, B, sizeof *x);
		if (!x)
			return false;
		to->norms[v] = memcpy(x, given ? given : from->norms[v], rows * B * sizeof *x);
		for (uint32_t b = 0; !beyond && b < B; b++)
			x[st_capture_row(p, 0, CANARY_POSITION) * B + b] *= 2;
		for (uint32_t g = 0; beyond && !given && g < p->num_kv_heads; g++)
			for (uint32_t i = p->kv_seq_len; i < p->kv_capacity; i++)
				for (uint32_t b = 0; b < B; b++)
					x[st_capture_row(p, g, i) * B + b] = out_of_range_norm;
	}
	return true;
}

/* What the canary did to the kernel's result and to the reference. */
static enum st_status canary(struct st_replay_run *r, const struct arm *clean, struct arm *a, struct st_arena *mem,
                             struct st_error *err)
{
	const struct st_capture *c = &r->capture;
	const struct st_tq_params *p = &c->p;
	const enum st_replay_canary kind = r->o->canary;
	const size_t n = (size_t)p->num_heads * p->head_dim;
	struct st_tq_params ref_p;
	const struct st_tq_kv *ref_kv = st_capture_reference(c, &ref_p);
	a->ref_p = ref_p;
	ST_NEED(poison(r, p, &c->kv, &a->kv, mem) && poison(r, &ref_p, ref_kv, &a->ref_kv, mem));
	ST_TRY(run_arm(r, a, err));
	double max_change = 0;
	struct st_apart moved = { 0 };
	for (size_t i = 0; i < n; i++) {
		max_change = st_larger(max_change, fabs((double)a->out[i] - clean->out[i]));
		st_apart_add(&moved, a->ref[i], clean->ref[i]);
	}
	/* How far the canary moves the truth itself: the most that an asymmetric one can show. */
	const double leverage = moved.total > 0 ? st_apart_nrmse(&moved) : 0;
	if (kind == ST_CANARY_ASYMMETRIC) {
		memcpy(a->ref, clean->ref, n * sizeof *a->ref);
		a->ref_kv = clean->ref_kv;
		a->nrmse = st_tq_nrmse(a->out, a->ref, n);
	}
	const bool off_on_purpose = r->o->variation == 'B' && kind != ST_CANARY_OUT_OF_RANGE;
	const bool same_arms = kind == ST_CANARY_OUT_OF_RANGE ? p->kv_seq_len == p->kv_capacity
	                     : kind == ST_CANARY_ASYMMETRIC   ? leverage <= canary_rise
	                                                      : leverage == 0;
	const double rise = a->nrmse - clean->nrmse;
	const bool pass = kind == ST_CANARY_OUT_OF_RANGE ? !memcmp(a->out, clean->out, n * sizeof *a->out)
	                : kind == ST_CANARY_ASYMMETRIC   ? rise > canary_rise
	                                                 : rise < 1e-3;
	const char *verdict = off_on_purpose || same_arms ? "vacuous" : pass ? "pass" : "failed";
	st_json_put(r->json, "canary_result",
	            st_json_object(ST_IS("verdict", verdict), ST_IS("nrmse_clean", clean->nrmse),
	                           ST_IS("nrmse_canary", a->nrmse), ST_IS("reference_moved_by", leverage),
	                           ST_IS("max_output_change", max_change)));
	fprintf(r->text, "canary: %s; nrmse %.3e -> %.3e, reference moved by %.3e, output changed by at most %.3g%s\n",
	        verdict, clean->nrmse, a->nrmse, leverage, max_change,
	        off_on_purpose ? " - variation B is not meant to follow the reference"
	        : same_arms    ? " - the two arms cannot differ"
	                       : "");
	if (!off_on_purpose && !same_arms && !pass)
		r->exit_status = 2;
	return ST_OK;
}

/* ---- the step ---- */

/* The two arms of the toggle, variation A and B, must not agree. scratch: [H, d] */
static enum st_status toggle(struct st_replay_run *r, const struct arm *a, float *scratch, bool *no_op,
                             struct st_error *err)
{
	const size_t n = (size_t)r->capture.p.num_heads * r->capture.p.head_dim;
	const char partner = r->o->variation == 'B' ? 'A' : 'B';
	ST_TRY(run_variation(r, partner, &r->capture.kv, scratch, err));
	double diff = 0;
	for (size_t i = 0; i < n; i++)
		diff = st_larger(diff, fabs((double)a->out[i] - scratch[i]));
	*no_op = diff == 0;
	st_json_put(r->json, "toggle",
	            st_json_object(ST_IS("against", json_stringn(&partner, 1)), ST_IS("max_abs_diff", diff),
	                           ST_IS("no_op", *no_op)));
	if (*no_op)
		fprintf(r->text,
		        "no-op toggle: variations %c and %c give identical results, so neither proves anything\n",
		        r->o->variation, partner);
	return ST_OK;
}

static void head_maxima(struct st_replay_run *r, const struct arm *a)
{
	const size_t d = r->capture.p.head_dim;
	json_t *list = json_array();
	double worst = 0;
	for (size_t h = 0; h < r->capture.p.num_heads; h++) {
		double m = 0;
		for (size_t i = h * d; i < (h + 1) * d; i++)
			m = st_larger(m, fabs((double)a->out[i] - a->ref[i]));
		worst = st_larger(worst, m);
		st_json_add(list, st_json_object(ST_IS("head", h), ST_IS("max_abs_diff", m)));
	}
	st_json_put_all(r->json, ST_IS("max_abs_diff", worst), ST_IS("per_head_max_abs_diff", list));
}

/*
 * Values before quantisation for the reference: [G, L, d]. Positions that the capture does not hold are taken decoded,
 * as arm a reads them; what an in-range canary doubles is doubled here too.
 */
static void unquantised(const struct st_replay_run *r, const struct arm *a, bool v, float *to)
{
	const struct st_capture *c = &r->capture;
	const struct st_tq_params *p = &a->ref_p;
	const struct st_oracle_decode o = st_oracle_decode_of(&c->codec);
	const uint32_t d = p->head_dim, L = p->kv_seq_len;
	for (uint32_t g = 0; g < p->num_kv_heads; g++) {
		for (uint32_t i = 0; i < L; i++) {
			float *y = to + ((size_t)g * L + i) * d;
			const float *x = st_capture_pre(c, v, g, i);
			const bool twice = r->o->canary == ST_CANARY_IN_RANGE && g == 0 && i == CANARY_POSITION;
			const size_t row = st_capture_row(p, g, i);
			double decoded[512];
			if (!x)
				st_oracle_decode_row(&o, d, a->ref_kv.codes[v] + row * st_tq_row_bytes(d, o.bits),
				                     a->ref_kv.norms[v] + row * st_tq_norm_blocks(d), decoded);
			for (uint32_t j = 0; j < d; j++)
				y[j] = !x ? (float)decoded[j] : twice ? 2 * x[j] : x[j];
		}
	}
}

static enum st_status floor_of(struct st_replay_run *r, const struct arm *a, struct st_arena *mem, struct st_error *err)
{
	const struct st_capture *c = &r->capture;
	const struct st_tq_params *p = &c->p;
	const uint64_t rows = (uint64_t)p->num_kv_heads * p->kv_seq_len;
	double *ref = st_arena_alloc2(mem, p->num_heads, p->head_dim, sizeof *ref);
	float *pre[2];
	ST_NEED(ref);
	for (int v = 0; v < 2; v++) {
		pre[v] = st_arena_alloc2(mem, rows, p->head_dim, sizeof *pre[v]);
		ST_NEED(pre[v]);
		unquantised(r, a, v, pre[v]);
	}
	ST_TRY(st_oracle_floor(p, (const float *const *)pre, c->q, ref, err));
	const double floor = st_tq_nrmse(a->out, ref, (size_t)p->num_heads * p->head_dim);
	st_json_put(r->json, "independent_floor_nrmse", st_json_number(floor));
	if (c->n_pre < p->kv_seq_len) {
		fprintf(r->text, "with the newest row before quantisation and the others decoded: nrmse %.4f\n", floor);
		return ST_OK;
	}
	struct st_moments x;
	ST_TRY(st_expect_floor(p, &r->exec, FLOOR_SEEDS, &x, err));
	st_json_put(r->json, "floor_expected", st_json_moments(&x));
	fprintf(r->text,
	        "against the values before quantisation: nrmse %.4f (N(0,1) heads at this shape: %.4f +- %.4f)\n",
	        floor, x.mean, x.sd);
	return ST_OK;
}

/* A query that arrived broken is the input's fault, whatever the kernel makes of it. */
static void look_at_query(struct st_replay_run *r)
{
	const struct st_capture *c = &r->capture;
	const size_t n = (size_t)c->p.num_heads * c->p.head_dim, bad = st_nonfinite(c->q, n);
	st_json_put(r->json, "q_nonfinite", json_integer((json_int_t)bad));
	if (!bad)
		return;
	fprintf(r->text,
	        "q_natural: %zu of %zu values are NaN or infinite in the capture itself - the fault lies before this "
	        "step\n",
	        bad, n);
	r->exit_status = 2;
}

static const struct st_verdict correct = { "kernel_end_to_end_correct", "", 0 }, real = { "toggle_is_real", "", 0 },
			       disagrees = { "kernel_disagrees_with_its_cache", "", 2 },
			       no_effect = { "toggle_has_no_effect", "", 2 },
			       non_finite = { "non_finite_output", "", 2 },
			       vacuous = { "vacuous", " - whatever the kernel did, this capture could not show it", 2 };

static enum st_status measure(struct st_replay_run *r, struct arm *a, struct arm *other, struct st_arena *mem,
                              struct st_error *err)
{
	const char v = r->o->variation;
	const struct st_capture *c = &r->capture;
	const size_t n = (size_t)c->p.num_heads * c->p.head_dim;
	const unsigned all = c->pre[0] ? ST_ORACLE_DEQUANT | ST_ORACLE_FLOOR : ST_ORACLE_DEQUANT,
		       oracles = r->o->oracles ? r->o->oracles : all;
	bool empty = true, zero = true, no_op = false;
	if (oracles & ~all)
		return st_fail_at(err, ST_ERR_USAGE, ST_NO_OFFSET, "oracle",
		                  "independent-floor needs k_pre_quant and v_pre_quant in the manifest");
	if (r->o->canary != ST_CANARY_NONE && r->o->canary != ST_CANARY_OUT_OF_RANGE
	    && c->p.kv_seq_len <= CANARY_POSITION)
		return st_fail_at(err, ST_ERR_USAGE, ST_NO_OFFSET, "canary",
		                  "position %d is not in a sequence of %u rows", CANARY_POSITION, c->p.kv_seq_len);
	a->kv = c->kv;
	a->ref_kv = *st_capture_reference(c, &a->ref_p);
	ST_TRY(run_arm(r, a, err));
	for (size_t i = 0; i < n; i++) {
		empty &= a->ref[i] == 0;
		zero &= a->out[i] == 0;
	}
	fprintf(r->text, "variation %c against the decoded cache in f64: nrmse %.3e (a sound kernel: %s)\n", v,
	        a->nrmse,
	        v == 'B'        ? "far off, the rotation is missing on purpose"
	        : r->exec.q_f16 ? "about 1e-3 with an f16 query"
	                        : "below 1e-5");
	if (v != 'C')
		ST_TRY(toggle(r, a, other->out, &no_op, err));
	/* With a canary the figures are those of its run, as the written output is; canary_result has the clean one. */
	const struct arm *shown = r->o->canary == ST_CANARY_NONE ? a : other;
	if (shown == other)
		ST_TRY(canary(r, a, other, mem, err));
	const bool finite = !st_nonfinite(a->out, n) && !st_nonfinite(shown->out, n);
	st_json_put_all(r->json, ST_IS("variation", json_stringn(&v, 1)), ST_IS("canary", canary_names[r->o->canary]),
	                ST_IS("dequant_oracle_nrmse", shown->nrmse),
	                ST_IS("any_nan_inf_in_gpu_output", json_boolean(!finite)),
	                ST_IS("exit_status", finite ? "ok" : "NaN/Inf"), ST_IS("independent_floor_nrmse", json_null()),
	                ST_IS("bin_path", r->path[ST_FILE_BIN]));
	head_maxima(r, shown);
	if (oracles & ST_ORACLE_FLOOR)
		ST_TRY(floor_of(r, shown, mem, err));
	if (!finite)
		fprintf(r->text, "the output holds NaN or infinity\n");
	/* Where the reference is zero everywhere, nrmse has nothing to measure by: zeros are right, and prove nothing. */
	const bool off = empty ? !zero : !(a->nrmse < kernel_threshold);
	st_replay_verdict(r, !finite                                  ? &non_finite
	                     : no_op || (empty && (v == 'B' || !off)) ? &vacuous
	                     : v == 'B'                               ? (off ? &real : &no_effect)
	                     : off                                    ? &disagrees
	                                                              : &correct);
	return r->file[ST_FILE_BIN] ? st_outfile_write(r->file[ST_FILE_BIN], shown->out, n * sizeof *shown->out, err)
	                            : ST_OK;
}

enum st_status st_singlestep_check(struct st_replay_run *r, struct st_error *err)
{
	const struct st_replay_options *o = r->o;
	if (!o->manifest)
		return st_fail_at(err, ST_ERR_USAGE, ST_NO_OFFSET, "--manifest", "a single step needs a capture");
	if (o->variation < 'A' || o->variation > 'C')
		return st_fail_at(err, ST_ERR_USAGE, ST_NO_OFFSET, "variation", "'%c' is unknown; A, B and C are known",
		                  o->variation ? o->variation : '?');
	if ((unsigned)o->canary > ST_CANARY_ASYMMETRIC)
		return st_fail_at(err, ST_ERR_USAGE, ST_NO_OFFSET, "canary", "%d is unknown", (int)o->canary);
	if (o->oracles & ~(unsigned)(ST_ORACLE_DEQUANT | ST_ORACLE_FLOOR))
		return st_fail_at(err, ST_ERR_USAGE, ST_NO_OFFSET, "oracle",
		                  "unknown; dequant, independent-floor and both are known");
	return ST_OK;
}

enum st_status st_replay_singlestep(struct st_replay_run *r, struct st_error *err)
{
	const uint32_t H = r->capture.p.num_heads, d = r->capture.p.head_dim;
	struct st_arena mem = { 0 };
	struct arm arm[2] = { 0 };
	enum st_status st = ST_OK;
	look_at_query(r);
	for (int i = 0; i < 2; i++) {
		arm[i].out = st_arena_alloc2(&mem, H, d, sizeof *arm->out);
		arm[i].ref = st_arena_alloc2(&mem, H, d, sizeof *arm->ref);
		if (!arm[i].out || !arm[i].ref)
			st = st_fail(err, ST_ERR_NOMEM, "out of memory");
	}
	if (st == ST_OK)
		st = measure(r, arm, arm + 1, &mem, err);
	if (st == ST_OK)
		st = st_diagnose_cache(r, err);
	st_arena_release(&mem);
	return st;
}

enum st_status st_replay_against(struct st_replay_run *r, struct st_error *err)
{
	const struct st_tq_params *p = &r->capture.p;
	const uint64_t want = (uint64_t)p->num_heads * p->head_dim * 4;
	struct st_map m = { 0 };
	enum st_status st = st_map_open(&m, r->o->against, err);
	if (st == ST_OK && m.size != want)
		st = st_fail(err, ST_ERR_FORMAT, "%llu bytes, an output of %u heads of %u is %llu",
		             (unsigned long long)m.size, p->num_heads, p->head_dim, (unsigned long long)want);
	st = st_in_file(r->o->against, st_in_place("--against", st, err), err);
	look_at_query(r);
	if (st == ST_OK)
		st = st_diagnose_cache(r, err);
	if (st == ST_OK)
		st = st_diagnose_output(r, (const float *)m.data, err);
	st_map_close(&m);
	return st;
}
