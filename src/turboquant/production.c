/* production.c - the production-faithful run: gates, one registered measurement, its null, audit.json. */
#include "turboquant/modes.h"
#include "turboquant/sweep.h"

#include "base/error.h"

#include <math.h>
#include <string.h>
#include <time.h>

/* Second verdict: a point is out of line when it lies further from its own null than this. The chance that one
 * of 13 normal draws does is 8e-4. The wrong start of a ring leg is a fault on purpose and stands beside them,
 * unjudged. */
static const double z_limit = 4;
static const char band_registration[] = "constant in the program, fixed before the first measurement";
enum { MIN_NULL = 200 };

/* ---- gates ---- */

/* The end of a gate's output, line by line, where a reader of the audit wants it. */
static json_t *last_lines(const char *text)
{
	json_t *list = json_array();
	const char *lines[12];
	size_t n = 0;
	for (const char *p = text; *p; p = strchr(p, '\n') ? strchr(p, '\n') + 1 : p + strlen(p))
		lines[n++ % 12] = p;
	for (size_t i = n > 12 ? n - 12 : 0; i < n; i++) {
		const char *p = lines[i % 12];
		st_json_add(list, st_json_textn(p, strcspn(p, "\n")));
	}
	return list;
}

/* Runs every gate; *failed names the first that did not pass, with its output in *why. */
static enum st_status run_gates(struct st_replay_run *r, json_t *gates, const char **failed,
                                struct st_replay_gate_result *why, struct st_error *err)
{
	const struct st_replay_options *o = r->o;
	*failed = NULL;
	const char *name;
	for (size_t i = 0; (name = st_replay_gate_name(i)) != NULL && !*failed; i++) {
		struct st_replay_gate_result g = { .exit_code = -1 };
		ST_TRY(st_check_cancel(err));
		bool started = o->run_gate(o->gate_user, name, &g);
		/* What was interrupted has not failed. */
		ST_TRY(st_check_cancel(err));
		g.build_id[sizeof g.build_id - 1] = g.output[sizeof g.output - 1] = '\0';
		/* A gate that ran in another program says nothing about this one. */
		bool foreign = started && strcmp(g.build_id, o->build_id) != 0;
		const char *status = !started         ? "not_started"
		                   : foreign          ? "foreign_build"
		                   : g.exit_code == 0 ? "pass"
		                                      : "fail";
		st_json_put(gates, name,
		            st_json_object(ST_IS("exit_code", json_integer(g.exit_code)), ST_IS("status", status),
		                           ST_IS("duration_ms", g.duration_ms), ST_IS("build_id", g.build_id),
		                           ST_IS("last_lines", last_lines(g.output))));
		fprintf(r->text, "gate %-10s %s (%.0f ms)\n", name, status, g.duration_ms);
		if (strcmp(status, "pass") != 0) {
			*failed = name;
			*why = g;
		}
	}
	return ST_OK;
}

/* ---- statistics ---- */

/* Spearman's rank correlation; ties share their mean rank. */
static double spearman(const double *x, const double *y, size_t n)
{
	double rx[ST_N_POINTS], ry[ST_N_POINTS], mean = (double)(n + 1) / 2, xy = 0, xx = 0, yy = 0;
	for (size_t i = 0; i < n; i++) {
		rx[i] = ry[i] = 0.5;
		for (size_t k = 0; k < n; k++) {
			rx[i] += (x[k] < x[i]) + 0.5 * (x[k] == x[i]);
			ry[i] += (y[k] < y[i]) + 0.5 * (y[k] == y[i]);
		}
	}
	for (size_t i = 0; i < n; i++) {
		xy += (rx[i] - mean) * (ry[i] - mean);
		xx += (rx[i] - mean) * (rx[i] - mean);
		yy += (ry[i] - mean) * (ry[i] - mean);
	}
	return xx > 0 && yy > 0 ? xy / sqrt(xx * yy) : 0;
}

static double range(const double *x, size_t n)
{
	double lo = x[0], hi = x[0];
	for (size_t i = 1; i < n; i++) {
		lo = fmin(lo, x[i]);
		hi = fmax(hi, x[i]);
	}
	return hi - lo;
}

/* ---- audit ---- */

static json_t *null_json(double measured, const struct st_moments *null)
{
	return st_json_object(ST_IS("mean", null->mean), ST_IS("sd", null->sd),
	                      ST_IS("z", (measured - null->mean) / null->sd));
}

static json_t *regime_json(const struct st_replay_run *r)
{
	const struct st_tq_params p = st_sweep_params(st_sweep_points, 0);
	return st_json_object(ST_IS("num_heads", p.num_heads), ST_IS("num_kv_heads", p.num_kv_heads),
	                      ST_IS("head_dim", p.head_dim), ST_IS("kv_capacity", p.kv_capacity),
	                      ST_IS("scale", p.scale), ST_IS("mask_type", p.mask_type),
	                      ST_IS("rms_eps", st_sweep_regime.rms_eps),
	                      ST_IS("rope_theta", st_sweep_regime.rope_theta), ST_IS("rope_style", "half_split"),
	                      ST_IS("bits", r->exec.bits), ST_IS("signs", st_signs_name(r->exec.signs)),
	                      ST_IS("q_dtype", st_q_name(&r->exec)), ST_IS("visibility", st_visibility_name(&r->exec)));
}

/* One measurement: point i. */
static json_t *point_json(const struct st_replay_run *r, int i, const struct st_sweep_result *m,
                          const struct st_null_stats *null)
{
	const struct st_sweep_point *pt = st_sweep_points + i;
	const double a = m->nrmse[i], b = m->nrmse_b[i];
	json_t *j = st_json_object(ST_IS("abs_pos", pt->pos), ST_IS("kvl_logical", pt->kvl),
	                           ST_IS("sliding_window", pt->window), ST_IS("band_ok", st_band_ok(a)),
	                           ST_IS("rng_u64s_consumed_before", m->before[i]));
	if (pt->ring_a == pt->ring_b)
		return st_json_put_all(j, ST_IS("nrmse", a),
		                       ST_IS("null", st_json_put_all(null_json(a, &null->a[i]),
		                                                     ST_IS("outside_band", null->outside[i]))));
	const struct st_tq_params pa = st_sweep_params(pt, pt->ring_a), pb = st_sweep_params(pt, pt->ring_b);
	/* Two readings of one cache from different rows that agree to the last bit compare nothing. */
	return st_json_put_all(j, ST_IS("ring_start_a", pt->ring_a), ST_IS("ring_start_b", pt->ring_b),
	                       ST_IS("rows_a", st_json_visible(&pa, r->exec.visibility)),
	                       ST_IS("rows_b", st_json_visible(&pb, r->exec.visibility)),
	                       ST_IS("ring_start_A_nrmse", a), ST_IS("ring_start_B_nrmse", b), ST_IS("ab_delta", b - a),
	                       ST_IS("vacuous", json_boolean(a == b)), ST_IS("null_a", null_json(a, &null->a[i])),
	                       ST_IS("null_b", null_json(b, &null->b[i])));
}

static json_t *sweep_json(const struct st_replay_run *r, const char *name, const struct st_sweep_result *m,
                          const struct st_null_stats *null)
{
	json_t *list = json_array();
	for (int i = 0; i < ST_N_POINTS; i++)
		if (!strcmp(st_sweep_points[i].sweep, name))
			st_json_add(list, point_json(r, i, m, null));
	return list;
}

/* The one (pos, kvl) that both sweeps visit, from two separate draws: equal digits would mean that one value
 * was written twice. */
static json_t *intersection_json(const struct st_sweep_result *m, bool *copied)
{
	int a = -1, b = -1;
	for (int i = 0; i < ST_N_POINTS; i++) {
		const struct st_sweep_point *pt = st_sweep_points + i;
		if (pt->pos == 500 && pt->kvl == 500)
			*(pt->sweep[0] == 'A' ? &a : &b) = i;
	}
	const double diff = fabs(m->nrmse[a] - m->nrmse[b]);
	*copied = m->before[a] == m->before[b] || diff < 5e-8;
	return st_json_object(ST_IS("abs_pos", json_integer(500)), ST_IS("kvl_logical", json_integer(500)),
	                      ST_IS("sweep_A_intersection_nrmse", m->nrmse[a]),
	                      ST_IS("sweep_B_intersection_nrmse", m->nrmse[b]),
	                      ST_IS("sweep_A_rng_u64s_consumed_before", m->before[a]),
	                      ST_IS("sweep_B_rng_u64s_consumed_before", m->before[b]),
	                      ST_IS("match_to_7_decimal_places", json_boolean(diff < 5e-8)), ST_IS("absdiff", diff),
	                      ST_IS("independent_draws", json_boolean(m->before[a] != m->before[b])));
}

/* Length and phase: rank correlation over sweep A, ranges of both. */
struct effects {
	double rho, range_a, range_b;
};

static struct effects effects_of(const double nrmse[ST_N_POINTS])
{
	double kvl[ST_N_SWEEP_A];
	for (int i = 0; i < ST_N_SWEEP_A; i++)
		kvl[i] = st_sweep_points[i].kvl;
	return (struct effects){ spearman(kvl, nrmse, ST_N_SWEEP_A), range(nrmse, ST_N_SWEEP_A),
		                 range(nrmse + ST_N_SWEEP_A, ST_N_SWEEP_B) };
}

static const char *band_verdict(const struct st_sweep_result *m, const struct effects *e)
{
	for (int i = 0; i < ST_N_POINTS; i++)
		if (!st_band_ok(m->nrmse[i]))
			return "BAND_PRE_FALSIFIED";
	return e->rho > 0.7 && e->range_b < 0.05      ? "LENGTH_EFFECT_CONFIRMED"
	     : e->range_b > 0.10 && e->range_a < 0.05 ? "PHASE_EFFECT_CONFIRMED"
	                                              : "FLOOR_IS_PHYSICS_CONSISTENT";
}

/* Against the null: whether any point is out of line, and what the null itself says of length and phase. */
static json_t *second_json(const struct st_sweep_result *m, const struct st_null_stats *null, double *worst,
                           const char **verdict)
{
	const struct st_sweep_point *at = st_sweep_points;
	double mean[ST_N_POINTS];
	*worst = 0;
	for (int i = 0; i < ST_N_POINTS; i++) {
		const double z = fabs(m->nrmse[i] - null->a[i].mean) / null->a[i].sd;
		mean[i] = null->a[i].mean;
		if (!isnan(*worst) && !(z <= *worst)) {
			*worst = z;
			at = st_sweep_points + i;
		}
	}
	const struct effects e = effects_of(mean);
	*verdict = *worst <= z_limit ? "NULL_CONSISTENT" : "NULL_REJECTED";
	return st_json_object(
		ST_IS("seeds", null->n), ST_IS("z_limit", z_limit), ST_IS("largest_abs_z", *worst),
		ST_IS("largest_abs_z_at", json_sprintf("sweep %s pos %u kvl %u", at->sweep, at->pos, at->kvl)),
		ST_IS("band_rejection_rate", null->band_rejection), ST_IS("spearman_rho_of_means_A", e.rho),
		ST_IS("range_of_means_A", e.range_a), ST_IS("range_of_means_B", e.range_b), ST_IS("verdict", *verdict));
}

static void print(struct st_replay_run *r, const struct st_sweep_result *m, const struct st_null_stats *null)
{
	fprintf(r->text, "sweep   pos   kvl  nrmse      band %.2f..%.2f  null mean +- sd     z      null outside\n",
	        st_band_lower, st_band_upper);
	for (int i = 0; i < ST_N_POINTS; i++) {
		const struct st_sweep_point *pt = st_sweep_points + i;
		const struct st_moments *x = &null->a[i];
		fprintf(r->text, "%-5s %5u  %4u  %.7f  %-15s  %.4f +- %.4f  %+5.2f  %3.0f %%", pt->sweep, pt->pos,
		        pt->kvl, m->nrmse[i], st_band_ok(m->nrmse[i]) ? "inside" : "OUTSIDE", x->mean, x->sd,
		        (m->nrmse[i] - x->mean) / x->sd, 100 * null->outside[i]);
		if (pt->ring_a != pt->ring_b) {
			struct st_tq_params p = st_sweep_params(pt, pt->ring_a);
			struct st_tq_rows rows;
			st_tq_visible_rows(&p, r->exec.visibility, &rows);
			fprintf(r->text, "  start %u sees %u of %u; start %u: %.7f%s", pt->ring_a, rows.visible,
			        rows.expected, pt->ring_b, m->nrmse_b[i],
			        m->nrmse[i] == m->nrmse_b[i] ? " (vacuous: the legs cannot differ)" : "");
		}
		fputc('\n', r->text);
	}
}

static enum st_status report(struct st_replay_run *r, const struct st_sweep_result *m, const struct st_null_stats *null,
                             struct st_error *err)
{
	const struct effects e = effects_of(m->nrmse);
	const char *verdict = band_verdict(m, &e), *second;
	double worst_z;
	/* Counters that only grow show one generator that was never reseeded. */
	bool copied, finite = true, single = true;
	for (int i = 0; i < ST_N_POINTS; i++) {
		finite &= isfinite(m->nrmse[i]) && isfinite(m->nrmse_b[i]);
		single &= i == 0 || m->before[i] > m->before[i - 1];
	}
	st_json_put_all(
		r->json, ST_IS("verdict", verdict),
		ST_IS("band", st_json_object(ST_IS("lower", st_band_lower), ST_IS("upper", st_band_upper),
	                                     ST_IS("registration", band_registration))),
		ST_IS("regime", regime_json(r)), ST_IS("sweep_A", sweep_json(r, "A", m, null)),
		ST_IS("sweep_B", sweep_json(r, "B", m, null)), ST_IS("ring_wrap", sweep_json(r, "ring", m, null)),
		ST_IS("statistics", st_json_object(ST_IS("spearman_rho_A", e.rho), ST_IS("range_A", e.range_a),
	                                           ST_IS("range_B", e.range_b))),
		ST_IS("rng",
	              st_json_object(ST_IS("seed_literal", json_sprintf("0x%llX", (unsigned long long)r->seed)),
	                             ST_IS("algorithm", "xoshiro256** seeded by splitmix64"),
	                             ST_IS("single_instance", single), ST_IS("total_u64s_consumed", m->consumed))),
		ST_IS("intersection_check", intersection_json(m, &copied)),
		ST_IS("null", second_json(m, null, &worst_z, &second)));
	st_json_put(r->json, "second_verdict", json_string(second));
	if (copied)
		return st_fail(
			err, ST_ERR_MISMATCH,
			"two measurements that should be separate draws have one value; refusing to write an audit");
	print(r, m, null);
	fprintf(r->text,
	        "length: rho(A) %.2f, range(A) %.3f; phase: range(B) %.3f; the band rejects %.0f %% of %u null seeds\n"
	        "verdict: %s; against the null: %s (largest |z| %.2f, limit %.0f)\n",
	        e.rho, e.range_a, e.range_b, 100 * null->band_rejection, null->n, verdict, second, worst_z, z_limit);
	r->exit_status = !finite || !strcmp(verdict, "BAND_PRE_FALSIFIED") ? 2 : 0;
	return ST_OK;
}

enum st_status st_production_check(struct st_replay_run *r, struct st_error *err)
{
	const uint32_t n = r->o->null_seeds;
	if (n && (n < MIN_NULL || n > 100000))
		return st_fail_at(err, ST_ERR_USAGE, ST_NO_OFFSET, "null-seeds", "%u is not in %d..100000", n,
		                  MIN_NULL);
	if (!r->o->run_gate || !r->o->build_id)
		return st_fail_at(err, ST_ERR_USAGE, ST_NO_OFFSET, "gate",
		                  "a production-faithful run needs a way to run its gates");
	return ST_OK;
}

enum st_status st_replay_production(struct st_replay_run *r, struct st_error *err)
{
	const struct st_replay_options *o = r->o;
	const char *failed;
	json_t *gates = json_object();
	struct st_replay_gate_result why;
	st_json_put_all(r->json, ST_IS("session", o->session ? st_json_text(o->session) : st_json_now()),
	                ST_IS("ran_at", time(NULL)), ST_IS("iter", json_integer(o->iter ? o->iter : 1)),
	                ST_IS("regression_gates", gates));
	const struct st_tq_params regime = st_sweep_params(st_sweep_points, 0);
	fprintf(r->text,
	        "replay production-faithful: %u query / %u key-value heads, d %u, %u bits, query %s, kernel %s, "
	        "visibility %s\n",
	        regime.num_heads, regime.num_kv_heads, regime.head_dim, r->exec.bits, st_q_name(&r->exec),
	        st_cpu_name(r->exec.cpu), st_visibility_name(&r->exec));
	ST_TRY(run_gates(r, gates, &failed, &why, err));
	if (failed) {
		/* Nothing was measured, so there is no audit: the gate's own output is the report. */
		st_outfile_abort(r->file[ST_FILE_JSON]);
		r->file[ST_FILE_JSON] = NULL;
		r->no_files = true;
		st_json_put(r->json, "verdict", json_string("GATE_FAILED"));
		fprintf(r->text, "%s%sverdict: GATE_FAILED (%s); nothing was measured\n", why.output,
		        why.output[0] && why.output[strlen(why.output) - 1] != '\n' ? "\n" : "", failed);
		r->exit_status = 3;
		return ST_OK;
	}
	struct st_sweep sweep;
	struct st_sweep_result m;
	struct st_null_stats null;
	enum st_status st;
	ST_TRY_OUT(st_sweep_init(&sweep, err));
	ST_TRY_OUT(st_sweep_run(&sweep, r->seed, &r->exec, &m, err));
	ST_TRY_OUT(st_null_run(&sweep, o->null_seeds ? o->null_seeds : MIN_NULL, r->seed, &r->exec, &null, err));
	st = report(r, &m, &null, err);
out:
	st_sweep_release(&sweep);
	return st;
}
