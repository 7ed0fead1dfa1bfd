/* production.c - the production-faithful run: gates, one registered measurement, its null, audit.json. */
#include "turboquant/replay_internal.h"

#include "base/error.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

/* Registered before any measurement. A single draw at kvl 512 has mean 0.367 and standard deviation 0.099, so
 * this band rejects sound kernels more often than not; it stays as registered, and the null says how often. */
const double st_band_lower = 0.05, st_band_upper = 0.35;
static const char band_registration[] = "constant in the program, fixed before the first measurement";

/* Second verdict: a point is out of line when it lies further from its own null than this. The chance that one
 * of 13 normal draws does is 8e-4. The wrong start of a ring leg is a fault on purpose and stands beside them,
 * unjudged. */
static const double z_limit = 4;
enum { MIN_NULL = 200 };

static bool band_ok(double x) { return x >= st_band_lower && x <= st_band_upper; }

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
		json_array_append_new(list, json_stringn(p, strcspn(p, "\n")));
	}
	return list;
}

/* Runs every gate; *failed names the first that did not pass, with its output in *why. */
static enum st_status run_gates(struct st_replay_run *r, json_t *gates, const char **failed,
                                struct st_replay_gate_result *why, struct st_error *err)
{
	const struct st_replay_options *o = r->o;
	*failed = NULL;
	if (!o->run_gate || !o->build_id)
		return st_fail_at(err, ST_ERR_USAGE, ST_NO_OFFSET, "gate",
		                  "a production-faithful run needs a way to run its gates");
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
		json_t *j = json_object();
		st_json_put(j, "exit_code", json_integer(g.exit_code));
		st_json_put(j, "status", json_string(status));
		st_json_put(j, "duration_ms", st_json_number(g.duration_ms));
		st_json_put(j, "build_id", json_string(g.build_id));
		st_json_put(j, "last_lines", last_lines(g.output));
		st_json_put(gates, name, j);
		fprintf(r->text, "gate %-10s %s (%.0f ms)\n", name, status, g.duration_ms);
		if (strcmp(status, "pass")) {
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

static json_t *null_fields(double measured, double mean, double sd)
{
	json_t *j = json_object();
	st_json_put(j, "mean", st_json_number(mean));
	st_json_put(j, "sd", st_json_number(sd));
	st_json_put(j, "z", st_json_number((measured - mean) / sd));
	return j;
}

static json_t *regime_json(const struct st_replay_run *r, unsigned bits, bool signs)
{
	const struct st_tq_params p = st_sweep_params(st_sweep_points, 0);
	json_t *j = json_object();
	st_json_put(j, "num_heads", json_integer(p.num_heads));
	st_json_put(j, "num_kv_heads", json_integer(p.num_kv_heads));
	st_json_put(j, "head_dim", json_integer(p.head_dim));
	st_json_put(j, "kv_capacity", json_integer(p.kv_capacity));
	st_json_put(j, "scale", st_json_number(p.scale));
	st_json_put(j, "mask_type", json_integer(p.mask_type));
	st_json_put(j, "rms_eps", st_json_number(st_sweep_regime.rms_eps));
	st_json_put(j, "rope_theta", st_json_number(st_sweep_regime.rope_theta));
	st_json_put(j, "rope_style", json_string("half_split"));
	st_json_put(j, "bits", json_integer(bits));
	st_json_put(j, "signs", json_string(signs ? "d1" : "none"));
	st_json_put(j, "q_dtype", json_string(r->exec.q_f16 ? "f16" : "f32"));
	st_json_put(j, "visibility", json_string(r->exec.visibility == ST_TQ_PHYSICAL ? "physical" : "chronological"));
	return j;
}

/* One entry per measurement of sweep `name`. */
static json_t *sweep_json(const char *name, const struct st_sweep_result *m, const struct st_null_stats *null)
{
	json_t *list = json_array();
	for (int i = 0; i < ST_N_POINTS; i++) {
		const struct st_sweep_point *pt = st_sweep_points + i;
		if (strcmp(pt->sweep, name))
			continue;
		json_t *j = json_object();
		st_json_put(j, "abs_pos", json_integer(pt->pos));
		st_json_put(j, "kvl_logical", json_integer(pt->kvl));
		st_json_put(j, "sliding_window", json_integer(pt->window));
		st_json_put(j, "nrmse", st_json_number(m->nrmse[i]));
		st_json_put(j, "band_ok", json_boolean(band_ok(m->nrmse[i])));
		st_json_put(j, "rng_u64s_consumed_before", json_integer((json_int_t)m->before[i]));
		json_t *n = null_fields(m->nrmse[i], null->mean[i], null->sd[i]);
		st_json_put(n, "outside_band", st_json_number(null->outside[i]));
		st_json_put(j, "null", n);
		json_array_append_new(list, j);
	}
	return list;
}

static json_t *ring_json(const struct st_replay_run *r, const struct st_sweep_result *m,
                         const struct st_null_stats *null)
{
	json_t *list = json_array();
	for (int i = ST_N_SWEEP_A + ST_N_SWEEP_B; i < ST_N_POINTS; i++) {
		const struct st_sweep_point *pt = st_sweep_points + i;
		struct st_tq_params pa = st_sweep_params(pt, pt->ring_a), pb = st_sweep_params(pt, pt->ring_b);
		json_t *j = json_object();
		st_json_put(j, "abs_pos", json_integer(pt->pos));
		st_json_put(j, "kvl_logical", json_integer(pt->kvl));
		st_json_put(j, "sliding_window", json_integer(pt->window));
		st_json_put(j, "ring_start_a", json_integer(pt->ring_a));
		st_json_put(j, "ring_start_b", json_integer(pt->ring_b));
		st_json_put(j, "rows_a", st_json_visible(&pa, r->exec.visibility));
		st_json_put(j, "rows_b", st_json_visible(&pb, r->exec.visibility));
		st_json_put(j, "ring_start_A_nrmse", st_json_number(m->nrmse[i]));
		st_json_put(j, "ring_start_B_nrmse", st_json_number(m->nrmse_b[i]));
		st_json_put(j, "ab_delta", st_json_number(m->nrmse_b[i] - m->nrmse[i]));
		/* Two readings of one cache from different rows that agree to the last bit compare nothing. */
		st_json_put(j, "vacuous", json_boolean(m->nrmse[i] == m->nrmse_b[i]));
		st_json_put(j, "band_ok", json_boolean(band_ok(m->nrmse[i])));
		st_json_put(j, "rng_u64s_consumed_before", json_integer((json_int_t)m->before[i]));
		st_json_put(j, "null_a", null_fields(m->nrmse[i], null->mean[i], null->sd[i]));
		st_json_put(j, "null_b", null_fields(m->nrmse_b[i], null->mean_b[i], null->sd_b[i]));
		json_array_append_new(list, j);
	}
	return list;
}

/* The one (pos, kvl) that both sweeps visit, from two separate draws: equal digits would mean that one value
 * was written twice. */
static json_t *intersection_json(const struct st_sweep_result *m, bool *copied)
{
	json_t *j = json_object();
	int a = -1, b = -1;
	for (int i = 0; i < ST_N_POINTS; i++) {
		const struct st_sweep_point *pt = st_sweep_points + i;
		if (pt->pos == 500 && pt->kvl == 500)
			*(pt->sweep[0] == 'A' ? &a : &b) = i;
	}
	double diff = fabs(m->nrmse[a] - m->nrmse[b]);
	*copied = m->before[a] == m->before[b] || diff < 5e-8;
	st_json_put(j, "abs_pos", json_integer(500));
	st_json_put(j, "kvl_logical", json_integer(500));
	st_json_put(j, "sweep_A_nrmse", st_json_number(m->nrmse[a]));
	st_json_put(j, "sweep_B_nrmse", st_json_number(m->nrmse[b]));
	st_json_put(j, "sweep_A_rng_u64s_consumed_before", json_integer((json_int_t)m->before[a]));
	st_json_put(j, "sweep_B_rng_u64s_consumed_before", json_integer((json_int_t)m->before[b]));
	st_json_put(j, "match_to_7_decimal_places", json_boolean(diff < 5e-8));
	st_json_put(j, "absdiff", st_json_number(diff));
	st_json_put(j, "independent_draws", json_boolean(m->before[a] != m->before[b]));
	return j;
}

static const char *band_verdict(const struct st_sweep_result *m, double rho, double range_a, double range_b)
{
	for (int i = 0; i < ST_N_POINTS; i++)
		if (!band_ok(m->nrmse[i]))
			return "BAND_PRE_FALSIFIED";
	if (rho > 0.7 && range_b < 0.05)
		return "LENGTH_EFFECT_CONFIRMED";
	if (range_b > 0.10 && range_a < 0.05)
		return "PHASE_EFFECT_CONFIRMED";
	return "FLOOR_IS_PHYSICS_CONSISTENT";
}

/* Against the null: whether any point is out of line, and what the null itself says of length and phase. */
static json_t *null_json(const struct st_sweep_result *m, const struct st_null_stats *null, double *worst,
                         const char **verdict)
{
	json_t *j = json_object();
	int at = 0;
	*worst = 0;
	for (int i = 0; i < ST_N_POINTS; i++) {
		double z = fabs(m->nrmse[i] - null->mean[i]) / null->sd[i];
		if (!isnan(*worst) && !(z <= *worst)) {
			*worst = z;
			at = i;
		}
	}
	*verdict = *worst <= z_limit ? "NULL_CONSISTENT" : "NULL_REJECTED";
	double kvl[ST_N_SWEEP_A];
	for (int i = 0; i < ST_N_SWEEP_A; i++)
		kvl[i] = st_sweep_points[i].kvl;
	st_json_put(j, "seeds", json_integer(null->n));
	st_json_put(j, "z_limit", st_json_number(z_limit));
	st_json_put(j, "largest_abs_z", st_json_number(*worst));
	st_json_put(j, "largest_abs_z_at",
	            json_sprintf("sweep %s pos %u kvl %u", st_sweep_points[at].sweep, st_sweep_points[at].pos,
	                         st_sweep_points[at].kvl));
	st_json_put(j, "band_rejection_rate", st_json_number(null->band_rejection));
	st_json_put(j, "spearman_rho_of_means_A", st_json_number(spearman(kvl, null->mean, ST_N_SWEEP_A)));
	st_json_put(j, "range_of_means_A", st_json_number(range(null->mean, ST_N_SWEEP_A)));
	st_json_put(j, "range_of_means_B", st_json_number(range(null->mean + ST_N_SWEEP_A, ST_N_SWEEP_B)));
	st_json_put(j, "verdict", json_string(*verdict));
	return j;
}

/* <out> is the audit itself, or a folder that gets audit.json. */
static enum st_status open_audit(struct st_replay_run *r, struct st_error *err)
{
	struct stat sb;
	if (r->o->out && stat(r->o->out, &sb) == 0 && S_ISDIR(sb.st_mode)) {
		char *path = NULL;
		if (asprintf(&path, "%s/audit.json", r->o->out) < 0)
			return st_fail(err, ST_ERR_NOMEM, "out of memory");
		enum st_status st = st_outfile_open(path, &r->json_file, err);
		if (st != ST_OK && !err->where[0])
			snprintf(err->where, sizeof err->where, "--out");
		free(path);
		return st;
	}
	return st_replay_open_json(r, err);
}

static void text_report(struct st_replay_run *r, const struct st_sweep_result *m, const struct st_null_stats *null)
{
	fprintf(r->text, "sweep   pos   kvl  nrmse      band %.2f..%.2f  null mean +- sd     z      null outside\n",
	        st_band_lower, st_band_upper);
	for (int i = 0; i < ST_N_POINTS; i++) {
		const struct st_sweep_point *pt = st_sweep_points + i;
		fprintf(r->text, "%-5s %5u  %4u  %.7f  %-15s  %.4f +- %.4f  %+5.2f  %3.0f %%", pt->sweep, pt->pos,
		        pt->kvl, m->nrmse[i], band_ok(m->nrmse[i]) ? "inside" : "OUTSIDE", null->mean[i], null->sd[i],
		        (m->nrmse[i] - null->mean[i]) / null->sd[i], 100 * null->outside[i]);
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

enum st_status st_replay_production(struct st_replay_run *r, struct st_error *err)
{
	const struct st_replay_options *o = r->o;
	const unsigned bits = o->bits ? o->bits : 4;
	const bool signs = o->signs == 1;
	const uint64_t seed = o->seed_given ? o->seed : ST_TQ_SEED;
	const uint32_t n_null = o->null_seeds ? o->null_seeds : MIN_NULL;
	if (n_null < MIN_NULL || n_null > 100000)
		return st_fail_at(err, ST_ERR_USAGE, ST_NO_OFFSET, "null-seeds", "%u is not in %d..100000", n_null,
		                  MIN_NULL);
	ST_TRY(open_audit(r, err));

	const json_t *ran_at = json_object_get(r->json, "ran_at");
	st_json_put(r->json, "session",
	            o->session ? st_json_text(o->session) : json_sprintf("replay %s", json_string_value(ran_at)));
	st_json_put(r->json, "iter", json_integer(o->iter ? o->iter : 1));
	json_t *gates = json_object();
	const char *failed;
	struct st_replay_gate_result why;
	st_json_put(r->json, "regression_gates", gates);
	const struct st_tq_params regime = st_sweep_params(st_sweep_points, 0);
	fprintf(r->text,
	        "replay production-faithful: %u query / %u key-value heads, d %u, %u bits, query %s, kernel %s, "
	        "visibility %s\n",
	        regime.num_heads, regime.num_kv_heads, regime.head_dim, bits, r->exec.q_f16 ? "f16" : "f32",
	        st_cpu_name(r->exec.cpu), r->exec.visibility == ST_TQ_PHYSICAL ? "physical" : "chronological");
	ST_TRY(run_gates(r, gates, &failed, &why, err));
	if (failed) {
		/* Nothing was measured, so there is no audit: the gate's own output is the report. */
		st_outfile_abort(r->json_file);
		r->json_file = NULL;
		st_json_put(r->json, "verdict", json_string("GATE_FAILED"));
		fprintf(r->text, "%s%sverdict: GATE_FAILED (%s); nothing was measured\n", why.output,
		        why.output[0] && why.output[strlen(why.output) - 1] != '\n' ? "\n" : "", failed);
		r->exit_status = 3;
		return ST_OK;
	}

	struct st_sweep *sweep;
	struct st_sweep_result m;
	struct st_null_stats null;
	ST_TRY(st_sweep_new(&sweep, err));
	enum st_status st = st_sweep_run(sweep, seed, bits, signs, &r->exec, &m, err);
	if (st == ST_OK)
		st = st_null_run(sweep, n_null, seed, bits, signs, &r->exec, &null, err);
	st_sweep_free(sweep);
	if (st != ST_OK)
		return st;

	double kvl[ST_N_SWEEP_A], worst_z;
	for (int i = 0; i < ST_N_SWEEP_A; i++)
		kvl[i] = st_sweep_points[i].kvl;
	const double rho = spearman(kvl, m.nrmse, ST_N_SWEEP_A), range_a = range(m.nrmse, ST_N_SWEEP_A);
	const double range_b = range(m.nrmse + ST_N_SWEEP_A, ST_N_SWEEP_B);
	const char *verdict = band_verdict(&m, rho, range_a, range_b), *second;
	bool finite = true, copied;
	for (int i = 0; i < ST_N_POINTS; i++)
		finite &= isfinite(m.nrmse[i]) && isfinite(m.nrmse_b[i]);

	json_t *band = json_object();
	st_json_put(r->json, "verdict", json_string(verdict));
	st_json_put(band, "lower", st_json_number(st_band_lower));
	st_json_put(band, "upper", st_json_number(st_band_upper));
	st_json_put(band, "registration", json_string(band_registration));
	st_json_put(r->json, "band", band);
	st_json_put(r->json, "regime", regime_json(r, bits, signs));
	st_json_put(r->json, "sweep_A", sweep_json("A", &m, &null));
	st_json_put(r->json, "sweep_B", sweep_json("B", &m, &null));
	st_json_put(r->json, "ring_wrap", ring_json(r, &m, &null));
	json_t *stats = json_object(), *rng = json_object();
	st_json_put(stats, "spearman_rho_A", st_json_number(rho));
	st_json_put(stats, "range_A", st_json_number(range_a));
	st_json_put(stats, "range_B", st_json_number(range_b));
	st_json_put(r->json, "statistics", stats);
	st_json_put(rng, "seed_literal", json_sprintf("0x%llX", (unsigned long long)seed));
	st_json_put(rng, "algorithm", json_string("xoshiro256** seeded by splitmix64"));
	/* Counters that only grow show one generator that was never reseeded. */
	bool single = true;
	for (int i = 1; i < ST_N_POINTS; i++)
		single &= m.before[i] > m.before[i - 1];
	st_json_put(rng, "single_instance", json_boolean(single));
	st_json_put(rng, "total_u64s_consumed", json_integer((json_int_t)m.consumed));
	st_json_put(r->json, "rng", rng);
	st_json_put(r->json, "intersection_check", intersection_json(&m, &copied));
	st_json_put(r->json, "null", null_json(&m, &null, &worst_z, &second));
	st_json_put(r->json, "second_verdict", json_string(second));
	if (copied)
		return st_fail(
			err, ST_ERR_MISMATCH,
			"two measurements that should be separate draws have one value; refusing to write an audit");

	text_report(r, &m, &null);
	fprintf(r->text,
	        "length: rho(A) %.2f, range(A) %.3f; phase: range(B) %.3f; the band rejects %.0f %% of %u null seeds\n",
	        rho, range_a, range_b, 100 * null.band_rejection, null.n);
	fprintf(r->text, "verdict: %s; against the null: %s (largest |z| %.2f, limit %.0f)\n", verdict, second, worst_z,
	        z_limit);
	r->exit_status = !finite || !strcmp(verdict, "BAND_PRE_FALSIFIED") ? 2 : 0;
	return ST_OK;
}
