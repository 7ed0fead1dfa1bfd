/* singlestep.c - one captured step: three variations, canaries, two oracles, and a foreign output to explain. */
#include "turboquant/replay_internal.h"

#include "base/error.h"
#include "base/map.h"
#include "base/mem.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Kernel against oracle: above this the kernel is wrong, whatever the query's type. */
static const double kernel_threshold = 0.01;
/* Rise that an asymmetric canary must cause. */
static const double canary_rise = 0.01;
enum { CANARY_POSITION = 10 };
static const float out_of_range_norm = 1e9f;

/* The kernel's two sides of one run, over a capture whose norms may be replaced. */
struct sides {
	const struct st_capture *c;
	struct st_tq_codec codec;
	double levels[ST_TQ_MAX_LEVELS];
	size_t n;                 /* H d */
	float *k_norms, *v_norms; /* the kernel's, when a canary changes them */
	size_t n_norms;
};

static struct st_tq_kv with_norms(const struct st_tq_kv *kv, const float *k, const float *v)
{
	struct st_tq_kv x = *kv;
	x.k_norms = k;
	x.v_norms = v;
	return x;
}

/* Variation A: rotate, kernel, rotate back. B: neither. C: the dense kernel on decoded rows. out: [H, d] */
static enum st_status run_variation(const struct st_replay_run *r, const struct sides *s, char variation,
                                    const struct st_tq_kv *kv, float *out, struct st_error *err)
{
	const struct st_tq_params *p = &s->c->p;
	const size_t rows = (size_t)p->num_kv_heads * p->kv_capacity;
	if (variation == 'C') {
		float *k = st_alloc_array(rows, p->head_dim * sizeof *k),
		      *v = st_alloc_array(rows, p->head_dim * sizeof *v);
		enum st_status st = ST_OK;
		if (!k || !v) {
			st = st_fail(err, ST_ERR_NOMEM, "out of memory");
		} else {
			st_tq_decode(&s->codec, kv->k_codes, kv->k_norms, rows, k);
			st_tq_decode(&s->codec, kv->v_codes, kv->v_norms, rows, v);
			const struct st_tq_kv dense = { .k_dense = k, .v_dense = v };
			st = st_tq_attention(&r->exec, NULL, p, &dense, s->c->q, out, err);
		}
		free(k);
		free(v);
		return st;
	}
	float *q = st_alloc_array(s->n, sizeof *q);
	if (!q)
		return st_fail(err, ST_ERR_NOMEM, "out of memory");
	memcpy(q, s->c->q, s->n * sizeof *q);
	if (variation == 'A')
		st_tq_rotate(&s->codec, q, p->num_heads);
	enum st_status st = st_tq_attention(&r->exec, &s->codec, p, kv, q, out, err);
	if (variation == 'A')
		st_tq_unrotate(&s->codec, out, p->num_heads);
	free(q);
	return st;
}

static void add_visible(struct st_replay_run *r, const struct st_capture *c)
{
	struct st_tq_rows rows;
	st_tq_visible_rows(&c->p, r->exec.visibility, &rows);
	json_object_update_new(r->json, st_json_visible(&c->p, r->exec.visibility));
	fprintf(r->text, "rows seen: %u of %u expected%s\n", rows.visible, rows.expected,
	        rows.visible < rows.expected ? " - the rest is silently dropped" : "");
}

/* [count][B] norms at chronological position i of kv head g. */
static float *norm_at(const struct st_tq_params *p, float *norms, uint32_t g, uint32_t i)
{
	size_t row = (size_t)g * p->kv_capacity + ((uint64_t)p->ring_start + i) % p->kv_capacity;
	return norms + row * st_tq_norm_blocks(p->head_dim);
}

static void double_norm(const struct st_tq_params *p, float *norms)
{
	float *n = norm_at(p, norms, 0, CANARY_POSITION);
	for (uint32_t b = 0; b < st_tq_norm_blocks(p->head_dim); b++)
		n[b] *= 2;
}

/* What the canary did to the kernel's result and to the reference. */
static enum st_status canary(struct st_replay_run *r, struct sides *s, const float *clean, double clean_nrmse,
                             const double *clean_ref, float *out, double *ref, struct st_error *err)
{
	const struct st_tq_params *p = &s->c->p;
	const enum st_replay_canary kind = r->o->canary;
	const uint32_t B = st_tq_norm_blocks(p->head_dim);
	json_t *j = json_object();
	st_json_put(r->json, "canary_result", j);
	if (kind != ST_CANARY_OUT_OF_RANGE && p->kv_seq_len <= CANARY_POSITION)
		return st_fail_at(err, ST_ERR_USAGE, ST_NO_OFFSET, "canary",
		                  "position %d is not in a sequence of %u rows", CANARY_POSITION, p->kv_seq_len);
	memcpy(s->k_norms, s->c->kv.k_norms, s->n_norms * sizeof *s->k_norms);
	memcpy(s->v_norms, s->c->kv.v_norms, s->n_norms * sizeof *s->v_norms);
	if (kind == ST_CANARY_OUT_OF_RANGE) {
		for (uint32_t g = 0; g < p->num_kv_heads; g++) {
			for (uint32_t i = p->kv_seq_len; i < p->kv_capacity; i++) {
				for (uint32_t b = 0; b < B; b++)
					norm_at(p, s->k_norms, g, i)[b] = norm_at(p, s->v_norms, g,
					                                          i)[b] = out_of_range_norm;
			}
		}
	} else if (s->c->k_norms_canary && s->c->v_norms_canary) {
		memcpy(s->k_norms, s->c->k_norms_canary, s->n_norms * sizeof *s->k_norms);
		memcpy(s->v_norms, s->c->v_norms_canary, s->n_norms * sizeof *s->v_norms);
	} else {
		double_norm(p, s->k_norms);
		double_norm(p, s->v_norms);
	}
	const struct st_tq_kv kv = with_norms(&s->c->kv, s->k_norms, s->v_norms);
	const struct st_oracle_decode o = st_oracle_decode_of(&s->codec, s->levels);
	ST_TRY(run_variation(r, s, r->o->variation, &kv, out, err));
	ST_TRY(st_oracle_dequant(p, &o, &kv, s->c->q, ref, err));
	double max_change = 0, leverage = 0, total = 0;
	for (size_t i = 0; i < s->n; i++) {
		max_change = st_larger(max_change, fabs((double)out[i] - clean[i]));
		leverage += (ref[i] - clean_ref[i]) * (ref[i] - clean_ref[i]);
		total += clean_ref[i] * clean_ref[i];
	}
	/* How far the canary moves the truth itself: the most that an asymmetric one can show. */
	leverage = total > 0 ? sqrt(leverage / total) : 0;
	const double nrmse = st_tq_nrmse(out, kind == ST_CANARY_ASYMMETRIC ? clean_ref : ref, s->n);
	const char *verdict, *why = " - the two arms cannot differ";
	if (r->o->variation == 'B' && kind != ST_CANARY_OUT_OF_RANGE) {
		/* Off on purpose already: that this run is near the reference or far from it says nothing of the
		 * canary. */
		verdict = "vacuous";
		why = " - variation B is not meant to follow the reference";
	} else if (kind == ST_CANARY_OUT_OF_RANGE)
		verdict = p->kv_seq_len == p->kv_capacity        ? "vacuous"
		        : memcmp(out, clean, s->n * sizeof *out) ? "failed"
		                                                 : "pass";
	else if (kind == ST_CANARY_ASYMMETRIC)
		verdict = leverage <= canary_rise ? "vacuous" : nrmse - clean_nrmse > canary_rise ? "pass" : "failed";
	else
		verdict = leverage == 0 ? "vacuous" : nrmse - clean_nrmse < 1e-3 ? "pass" : "failed";
	st_json_put(j, "verdict", json_string(verdict));
	st_json_put(j, "nrmse_clean", st_json_number(clean_nrmse));
	st_json_put(j, "nrmse_canary", st_json_number(nrmse));
	st_json_put(j, "reference_moved_by", st_json_number(leverage));
	st_json_put(j, "max_output_change", st_json_number(max_change));
	fprintf(r->text, "canary: %s; nrmse %.3e -> %.3e, reference moved by %.3e, output changed by at most %.3g%s\n",
	        verdict, clean_nrmse, nrmse, leverage, max_change, strcmp(verdict, "vacuous") ? "" : why);
	if (!strcmp(verdict, "failed"))
		r->exit_status = 2;
	return ST_OK;
}

/* The two arms of the toggle, variation A and B, must not agree. */
static enum st_status toggle(struct st_replay_run *r, const struct sides *s, const float *out, float *other,
                             bool *no_op, struct st_error *err)
{
	const char partner = r->o->variation == 'B' ? 'A' : 'B';
	ST_TRY(run_variation(r, s, partner, &s->c->kv, other, err));
	double diff = 0;
	for (size_t i = 0; i < s->n; i++)
		diff = st_larger(diff, fabs((double)out[i] - other[i]));
	*no_op = diff == 0;
	json_t *j = json_object();
	st_json_put(j, "against", json_stringn(&partner, 1));
	st_json_put(j, "max_abs_diff", st_json_number(diff));
	st_json_put(j, "no_op", json_boolean(*no_op));
	st_json_put(r->json, "toggle", j);
	if (*no_op)
		fprintf(r->text,
		        "no-op toggle: variations %c and %c give identical results, so neither proves anything\n",
		        r->o->variation, partner);
	return ST_OK;
}

static void head_maxima(struct st_replay_run *r, const struct st_capture *c, const float *out, const double *ref)
{
	const size_t d = c->p.head_dim;
	json_t *list = json_array();
	double worst = 0;
	for (size_t h = 0; h < c->p.num_heads; h++) {
		double m = 0;
		for (size_t i = h * d; i < (h + 1) * d; i++)
			m = st_larger(m, fabs((double)out[i] - ref[i]));
		worst = st_larger(worst, m);
		json_array_append_new(list, st_json_number(m));
	}
	st_json_put(r->json, "max_abs_diff", st_json_number(worst));
	st_json_put(r->json, "per_head_max_abs_diff", list);
}

static enum st_status read_foreign(const struct st_capture *c, const char *path, struct st_map *m, struct st_error *err)
{
	const uint64_t want = (uint64_t)c->p.num_heads * c->p.head_dim * 4;
	enum st_status st = st_map_open(m, path, err);
	if (st == ST_OK && m->size != want) {
		unsigned long long size = m->size;
		st_map_close(m);
		st = st_fail(err, ST_ERR_FORMAT, "%llu bytes, an output of %u heads of %u is %llu", size,
		             c->p.num_heads, c->p.head_dim, (unsigned long long)want);
		st_error_in(err, path);
	}
	if (st != ST_OK && !err->where[0])
		snprintf(err->where, sizeof err->where, "--against");
	return st;
}

static const char *canary_name(enum st_replay_canary c)
{
	static const char *const names[] = { "none", "in-range", "out-of-range", "in-range-asymmetric" };
	return names[c];
}

static void describe(struct st_replay_run *r, const struct st_capture *c)
{
	const struct st_tq_params *p = &c->p;
	static const char *const masks[] = { "none", "causal", "sliding" };
	fprintf(r->text, "capture: %u query / %u key-value heads, d %u, %u of %u rows, ring start %u, mask %s",
	        p->num_heads, p->num_kv_heads, p->head_dim, p->kv_seq_len, p->kv_capacity, p->ring_start,
	        masks[p->mask_type]);
	if (p->mask_type == ST_TQ_MASK_SLIDING)
		fprintf(r->text, " %u", p->sliding_window);
	fprintf(r->text, ", scale %g", p->scale);
	if (p->softcap > 0)
		fprintf(r->text, ", soft-cap %g", p->softcap);
	fprintf(r->text, ", %u bits, signs %s\n", c->bits, c->signs ? "d1" : "none");
	fprintf(r->text, "kernel %s, query %s, visibility %s\n", st_cpu_name(r->exec.cpu),
	        r->exec.q_f16 ? "f16" : "f32", r->exec.visibility == ST_TQ_PHYSICAL ? "physical" : "chronological");
	st_json_put(r->json, "manifest", st_json_text(r->o->manifest));
	st_json_put(r->json, "bits", json_integer(c->bits));
	st_json_put(r->json, "signs", json_string(c->signs ? "d1" : "none"));
	if (json_array_size(c->unread)) {
		char *names = json_dumps(c->unread, JSON_ENSURE_ASCII);
		fprintf(r->text, "params not read: %s\n", names ? names : "(no memory to list them)");
		free(names);
	}
	st_json_put(r->json, "params_not_read", json_incref(c->unread));
	st_json_put(r->json, "compact_sources", json_integer((json_int_t)c->n_compact));
}

/* A query that arrived broken is the input's fault, whatever the kernel makes of it. */
static void look_at_query(struct st_replay_run *r, const struct st_capture *c)
{
	const size_t n = (size_t)c->p.num_heads * c->p.head_dim;
	size_t bad = 0;
	for (size_t i = 0; i < n; i++)
		bad += !isfinite(c->q[i]);
	st_json_put(r->json, "q_nonfinite", json_integer((json_int_t)bad));
	if (bad) {
		fprintf(r->text,
		        "q_natural: %zu of %zu values are NaN or infinite in the capture itself - the fault lies "
		        "before this step\n",
		        bad, n);
		r->exit_status = 2;
	}
}

/* docs/replay.md lists them with what they mean. */
enum verdict { CORRECT, REAL, DISAGREES, NO_EFFECT, VACUOUS, NON_FINITE };
static const struct {
	const char *label, *why;
	int exit_status;
} verdicts[] = {
	[CORRECT] = { "kernel_end_to_end_correct", "", 0 },
	[REAL] = { "toggle_is_real", "", 0 },
	[DISAGREES] = { "kernel_disagrees_with_its_cache", "", 2 },
	[NO_EFFECT] = { "toggle_has_no_effect", "", 2 },
	[VACUOUS] = { "vacuous", " - whatever the kernel did, this capture could not show it", 2 },
	[NON_FINITE] = { "non_finite_output", "", 2 },
};

static enum st_status measure(struct st_replay_run *r, const struct st_capture *c, unsigned oracles,
                              struct st_error *err)
{
	struct sides s = { .c = c,
		           .n = (size_t)c->p.num_heads * c->p.head_dim,
		           .n_norms = (size_t)c->p.num_kv_heads * c->p.kv_capacity * st_tq_norm_blocks(c->p.head_dim) };
	ST_TRY(st_tq_codec_init(&s.codec, c->p.head_dim, c->bits, c->signs, c->p.scale_factor_d512, r->exec.cpu, err));
	for (unsigned i = 0; i < s.codec.book.n; i++)
		s.levels[i] = s.codec.book.level_f32[i];
	const struct st_oracle_decode o = st_oracle_decode_of(&s.codec, s.levels);
	const char v = r->o->variation;
	float *out = st_alloc_array(s.n, sizeof *out), *other = st_alloc_array(s.n, sizeof *other);
	double *ref = st_alloc_array(s.n, sizeof *ref), *ref2 = st_alloc_array(s.n, sizeof *ref2);
	s.k_norms = st_alloc_array(s.n_norms, sizeof *s.k_norms);
	s.v_norms = st_alloc_array(s.n_norms, sizeof *s.v_norms);
	enum st_status st = ST_OK;
	if (!out || !other || !ref || !ref2 || !s.k_norms || !s.v_norms) {
		st = st_fail(err, ST_ERR_NOMEM, "out of memory");
		goto out;
	}
	ST_TRY_OUT(run_variation(r, &s, v, &c->kv, out, err));
	ST_TRY_OUT(st_oracle_dequant(&c->p, &o, &c->kv, c->q, ref, err));
	const double dequant = st_tq_nrmse(out, ref, s.n);
	bool finite = true, empty = true, zero = true, no_op = false;
	for (size_t i = 0; i < s.n; i++) {
		finite &= isfinite(out[i]) != 0;
		empty &= ref[i] == 0;
		zero &= out[i] == 0;
	}
	st_json_put(r->json, "variation", json_stringn(&v, 1));
	st_json_put(r->json, "canary", json_string(canary_name(r->o->canary)));
	/* Whatever else is asked for: the verdict rests on it. */
	st_json_put(r->json, "dequant_oracle_nrmse", st_json_number(dequant));
	head_maxima(r, c, out, ref);
	fprintf(r->text, "variation %c against the decoded cache in f64: nrmse %.3e (a sound kernel: %s)\n", v, dequant,
	        v == 'B'        ? "far off, the rotation is missing on purpose"
	        : r->exec.q_f16 ? "about 1e-3 with an f16 query"
	                        : "below 1e-5");
	if (oracles & ST_ORACLE_FLOOR) {
		struct st_expectation x;
		ST_TRY_OUT(st_oracle_floor(&c->p, c->k_pre, c->v_pre, c->q, ref2, err));
		const double floor = st_tq_nrmse(out, ref2, s.n);
		ST_TRY_OUT(st_expect_floor(&c->p, c->bits, c->signs, &r->exec, 24, &x, err));
		json_t *e = json_object();
		st_json_put(r->json, "independent_floor_nrmse", st_json_number(floor));
		st_json_put(e, "mean", st_json_number(x.mean));
		st_json_put(e, "sd", st_json_number(x.sd));
		st_json_put(e, "seeds", json_integer(x.n));
		st_json_put(r->json, "floor_expected", e);
		fprintf(r->text,
		        "against the values before quantisation: nrmse %.4f (N(0,1) heads at this shape: %.4f +- "
		        "%.4f)\n",
		        floor, x.mean, x.sd);
	} else {
		st_json_put(r->json, "independent_floor_nrmse", json_null());
	}
	st_json_put(r->json, "any_nan_inf_in_gpu_output", json_boolean(!finite));
	if (!finite)
		fprintf(r->text, "the output holds NaN or infinity\n");
	if (v != 'C')
		ST_TRY_OUT(toggle(r, &s, out, other, &no_op, err));
	if (r->o->canary != ST_CANARY_NONE)
		ST_TRY_OUT(canary(r, &s, out, dequant, ref, other, ref2, err));
	/* Where the reference is zero everywhere, nrmse has nothing to measure by: zeros are right, and prove nothing.
	 */
	const bool off = empty ? !zero : !(dequant < kernel_threshold);
	const bool vacuous = no_op || (empty && (v == 'B' || !off));
	const enum verdict verdict = !finite  ? NON_FINITE
	                           : vacuous  ? VACUOUS
	                           : v == 'B' ? (off ? REAL : NO_EFFECT)
	                           : off      ? DISAGREES
	                                      : CORRECT;
	st_json_put(r->json, "verdict", json_string(verdicts[verdict].label));
	fprintf(r->text, "verdict: %s%s\n", verdicts[verdict].label, verdicts[verdict].why);
	if (verdicts[verdict].exit_status)
		r->exit_status = verdicts[verdict].exit_status;
	/* What the canary did to the output belongs into the file, so that two runs can be compared. */
	if (r->bin_file)
		st = st_outfile_write(r->bin_file, r->o->canary == ST_CANARY_NONE ? out : other, s.n * sizeof *out,
		                      err);
out:
	free(out);
	free(other);
	free(ref);
	free(ref2);
	free(s.k_norms);
	free(s.v_norms);
	return st;
}

enum st_status st_replay_singlestep(struct st_replay_run *r, struct st_error *err)
{
	const struct st_replay_options *o = r->o;
	struct st_capture c;
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
	ST_TRY(st_capture_open(&c, o->manifest, o->bits, o->signs, err));
	enum st_status st = ST_OK;
	struct st_map foreign = { 0 };
	unsigned oracles = o->oracles ? o->oracles : c.k_pre ? ST_ORACLE_DEQUANT | ST_ORACLE_FLOOR : ST_ORACLE_DEQUANT;
	if ((oracles & ST_ORACLE_FLOOR) && !c.k_pre) {
		st = st_fail_at(err, ST_ERR_USAGE, ST_NO_OFFSET, "oracle",
		                "independent-floor needs k_pre_quant and v_pre_quant in the manifest");
		goto out;
	}
	/* A capture has at most nine files. */
	r->inputs[0] = o->manifest;
	for (size_t i = 0; i < c.n_maps; i++)
		r->inputs[1 + i] = c.maps[i].path;
	r->inputs[1 + c.n_maps] = o->against;
	ST_TRY_OUT(st_replay_open_json(r, err));
	fprintf(r->text, "replay %s\n", o->manifest);
	describe(r, &c);
	add_visible(r, &c);
	look_at_query(r, &c);
	if (o->against) {
		ST_TRY_OUT(read_foreign(&c, o->against, &foreign, err));
		ST_TRY_OUT(st_diagnose_cache(r, &c, err));
		st = st_diagnose_output(r, &c, (const float *)foreign.data, err);
	} else {
		ST_TRY_OUT(st_replay_open(r, "_sdpa_out.bin", &r->bin_file, &r->bin_path, err));
		ST_TRY_OUT(measure(r, &c, oracles, err));
		st_json_put(r->json, "bin_path", r->bin_path ? st_json_text(r->bin_path) : json_null());
		if (c.k_pre)
			st = st_diagnose_cache(r, &c, err);
	}
out:
	st_map_close(&foreign);
	st_capture_close(&c);
	return st;
}
