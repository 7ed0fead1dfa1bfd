/* multistep.c - four positions with synthetic heads: is the kernel right, and is the error the quantiser's? */
#include "turboquant/replay_internal.h"

#include "base/error.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Regime of the recreated test. */
static const uint32_t positions[] = { 50, 500, 1050, 2048 };
enum { N_POSITIONS = sizeof positions / sizeof *positions };
static const struct st_tq_params regime = {
	.num_heads = 8,
	.num_kv_heads = 4,
	.head_dim = 256,
	.kv_seq_len = 1024,
	.kv_capacity = 1024,
	.scale = 1,
	.mask_type = ST_TQ_MASK_SLIDING,
	.sliding_window = 1024,
	.scale_factor_d512 = 1,
};
static const double verdict_threshold = 0.01;
/* Seeds of the floor's simulation, and how many standard deviations around its mean are "within". */
enum { FLOOR_SEEDS = 64 };
static const double floor_sigmas = 3;

struct row {
	uint32_t pos;
	struct st_tq_params p;
	double dequant, floor;
	struct st_expectation expect;
	bool is_floor, finite;
	const char *verdict;
};

static const char *verdict_of(double dequant, double floor, uint32_t pos)
{
	bool kernel_off = !(dequant < verdict_threshold), floor_off = !(floor < verdict_threshold);
	if (!kernel_off)
		return floor_off ? "dequant_spec_bug_confirmed" : "kernel_end_to_end_correct";
	if (!floor_off)
		return "fwht_pipeline_bug";
	return pos > 1000 ? "ring_start_or_dispatch_bug" : "h1_kernel_bug";
}

static void place(struct st_tq_params *p, uint32_t pos)
{
	p->kv_seq_len = pos + 1 < p->kv_capacity ? pos + 1 : p->kv_capacity;
	p->ring_start = st_tq_ring_start((uint64_t)pos + 1, p->kv_capacity);
}

/* The values of a seed, then the cache as a ring fills: position by position, row = position mod capacity. */
static enum st_status measure(const struct st_replay_run *r, unsigned bits, bool signs, uint64_t seed, struct row *row,
                              struct st_error *err)
{
	struct st_scene s;
	struct st_tq_cache kc = { 0 }, vc = { 0 };
	ST_TRY(st_scene_init(&s, &row->p, bits, signs, &r->exec, err));
	const uint32_t G = row->p.num_kv_heads, L = row->p.kv_seq_len, d = row->p.head_dim, H = row->p.num_heads;
	const enum st_seeding how = r->o->seeding_xor ? ST_SEEDING_XOR : ST_SEEDING_SPLITMIX;
	enum st_status st = ST_OK;
	st_draw_f32(st_draw_state(how, seed, row->pos, ST_DRAW_K), s.k, (size_t)G * L * d);
	st_draw_f32(st_draw_state(how, seed, row->pos, ST_DRAW_V), s.v, (size_t)G * L * d);
	st_draw_f32(st_draw_state(how, seed, row->pos, ST_DRAW_Q), s.q, (size_t)H * d);
	ST_TRY_OUT(st_tq_cache_init(&kc, &s.codec, G, row->p.kv_capacity, err));
	ST_TRY_OUT(st_tq_cache_init(&vc, &s.codec, G, row->p.kv_capacity, err));
	kc.written = vc.written = (uint64_t)row->pos + 1 - L;
	for (uint32_t i = 0; i < L; i++) {
		float k[4 * 256], v[4 * 256];
		for (uint32_t g = 0; g < G; g++) {
			memcpy(k + g * d, s.k + ((size_t)g * L + i) * d, d * sizeof *k);
			memcpy(v + g * d, s.v + ((size_t)g * L + i) * d, d * sizeof *v);
		}
		ST_TRY_OUT(st_tq_cache_append(&kc, &s.codec, k, true, err));
		ST_TRY_OUT(st_tq_cache_append(&vc, &s.codec, v, true, err));
	}
	const size_t rows = (size_t)G * row->p.kv_capacity, rb = st_tq_row_bytes(d, bits);
	memcpy(s.k_codes, kc.codes, rows * rb);
	memcpy(s.v_codes, vc.codes, rows * rb);
	memcpy(s.k_norms, kc.norms, rows * sizeof *s.k_norms);
	memcpy(s.v_norms, vc.norms, rows * sizeof *s.v_norms);
	ST_TRY_OUT(st_scene_kernel(&s, err));
	row->finite = true;
	for (size_t i = 0; i < (size_t)H * d; i++)
		row->finite &= isfinite(s.out[i]) != 0;
	ST_TRY_OUT(st_scene_dequant(&s, &row->dequant, err));
	st = st_scene_floor(&s, &row->floor, err);
out:
	st_tq_cache_release(&kc);
	st_tq_cache_release(&vc);
	st_scene_release(&s);
	return st;
}

/* The floor under each seed. */
struct seeds {
	const struct st_tq_params *p;
	unsigned bits;
	bool signs;
	struct st_tq_exec one;
	double *value;
	struct st_first_failure failure;
};

static enum st_status floor_of_seed(const struct seeds *k, uint64_t i, struct st_error *err)
{
	const struct st_tq_params *p = k->p;
	struct st_scene s;
	struct st_draw g;
	ST_TRY(st_check_cancel(err));
	ST_TRY(st_scene_init(&s, p, k->bits, k->signs, &k->one, err));
	/* The same regime, another generator, seeds that cannot be the measured one. */
	st_draw_init(&g, st_splitmix64_mix(ST_TQ_SEED + i), k->one.cpu);
	st_draw_normal(&g, s.k, (size_t)p->num_kv_heads * p->kv_seq_len * p->head_dim);
	st_draw_normal(&g, s.v, (size_t)p->num_kv_heads * p->kv_seq_len * p->head_dim);
	st_draw_normal(&g, s.q, (size_t)p->num_heads * p->head_dim);
	st_scene_encode(&s);
	enum st_status st = st_scene_kernel(&s, err);
	if (st == ST_OK)
		st = st_scene_floor(&s, &k->value[i], err);
	st_scene_release(&s);
	return st;
}

static void floor_of_seeds(void *ctx, unsigned lane, uint64_t begin, uint64_t end)
{
	struct seeds *k = ctx;
	(void)lane;
	for (uint64_t i = begin; i < end; i++) {
		struct st_error own = ST_ERROR_INIT;
		st_keep_failure(&k->failure, floor_of_seed(k, i, &own), &own);
	}
}

enum st_status st_expect_floor(const struct st_tq_params *p, unsigned bits, bool signs, const struct st_tq_exec *e,
                               uint32_t n, struct st_expectation *out, struct st_error *err)
{
	double sum = 0, sq = 0, value[1024];
	n = n < 1024 ? n : 1024;
	/* One seed at a time; the sums below run in seed order, so threads do not show. */
	struct seeds k = { .p = p, .bits = bits, .signs = signs, .one = *e, .value = value };
	k.one.pool = NULL;
	k.one.cpu = st_cpu_best(); /* every level has the same bits; the fastest will do */
	k.one.visibility = ST_TQ_CHRONOLOGICAL;
	st_pool_run(e->pool, n, 1, floor_of_seeds, &k);
	ST_TRY(st_first_failure(&k.failure, err));
	for (uint32_t i = 0; i < n; i++)
		sum += value[i];
	for (uint32_t i = 0; i < n; i++)
		sq += (value[i] - sum / n) * (value[i] - sum / n);
	*out = (struct st_expectation){ .mean = sum / n, .sd = sqrt(sq / (n - 1)), .n = n };
	return ST_OK;
}

static json_t *row_json(const struct st_replay_run *r, const struct row *row)
{
	json_t *j = st_json_visible(&row->p, r->exec.visibility), *e = json_object();
	st_json_put(j, "position", json_integer(row->pos));
	st_json_put(j, "kv_seq_len", json_integer(row->p.kv_seq_len));
	st_json_put(j, "ring_start", json_integer(row->p.ring_start));
	st_json_put(j, "dequant_oracle_nrmse", st_json_number(row->dequant));
	st_json_put(j, "independent_floor_nrmse", st_json_number(row->floor));
	st_json_put(e, "mean", st_json_number(row->expect.mean));
	st_json_put(e, "sd", st_json_number(row->expect.sd));
	st_json_put(e, "seeds", json_integer(row->expect.n));
	st_json_put(e, "low", st_json_number(row->expect.mean - floor_sigmas * row->expect.sd));
	st_json_put(e, "high", st_json_number(row->expect.mean + floor_sigmas * row->expect.sd));
	st_json_put(j, "floor_expected", e);
	st_json_put(j, "verdict", json_string(row->verdict));
	st_json_put(j, "quantiser_floor", json_boolean(row->is_floor));
	return j;
}

/* The same table for the terminal and, with `md`, for <out>.md. */
static void table(FILE *f, bool md, const struct row *rows)
{
	const char *bar = md ? "| " : "  ", *end = md ? " |" : "";
	fprintf(f, "%sposition%s rows %s dequant    %s floor   %s floor_expected   %s verdict%s\n", bar,
	        md ? " |" : " ", md ? "|" : " ", md ? "|" : " ", md ? "|" : " ", md ? "|" : " ", end);
	if (md)
		fprintf(f, "|---:|---:|---:|---:|---:|---|\n");
	for (int i = 0; i < N_POSITIONS; i++) {
		const struct row *r = rows + i;
		fprintf(f, "%s%8u%s %4u %s %.3e %s %.4f  %s %.4f +- %.4f %s %s%s%s\n", bar, r->pos, md ? " |" : " ",
		        r->p.kv_seq_len, md ? "|" : " ", r->dequant, md ? "|" : " ", r->floor, md ? "|" : " ",
		        r->expect.mean, r->expect.sd, md ? "|" : " ", r->verdict,
		        r->is_floor ? " (quantiser_floor)" : "", end);
	}
}

enum st_status st_replay_multistep(struct st_replay_run *r, struct st_error *err)
{
	const unsigned bits = r->o->bits ? r->o->bits : 4;
	const bool signs = r->o->signs == 1;
	const uint64_t seed = r->o->seed_given ? r->o->seed : ST_TQ_SEED;
	struct row rows[N_POSITIONS];
	ST_TRY(st_replay_open_json(r, err));
	ST_TRY(st_replay_open(r, ".md", &r->md_file, NULL, err));

	uint32_t worst_pos = 0;
	double worst_dequant = 0, worst_floor = 0;
	bool all_floor = true, finite = true;
	json_t *list = json_array();
	st_json_put(r->json, "rows", list);
	for (int i = 0; i < N_POSITIONS; i++) {
		struct row *row = rows + i;
		memset(row, 0, sizeof *row);
		row->pos = positions[i];
		row->p = regime;
		place(&row->p, row->pos);
		ST_TRY(measure(r, bits, signs, seed, row, err));
		ST_TRY(st_expect_floor(&row->p, bits, signs, &r->exec, FLOOR_SEEDS, &row->expect, err));
		row->verdict = verdict_of(row->dequant, row->floor, row->pos);
		row->is_floor = row->dequant < verdict_threshold
		             && fabs(row->floor - row->expect.mean) <= floor_sigmas * row->expect.sd;
		/* The overall rule sees the worst of each column and where the kernel was worst. */
		if (!isnan(worst_dequant) && !(row->dequant <= worst_dequant)) {
			worst_dequant = row->dequant;
			worst_pos = row->pos;
		}
		worst_floor = st_larger(worst_floor, row->floor);
		all_floor &= row->is_floor || row->floor < verdict_threshold;
		finite &= row->finite;
		json_array_append_new(list, row_json(r, row));
		if (r->o->hooks.progress)
			r->o->hooks.progress(r->o->hooks.user, "positions", (uint64_t)i + 1, N_POSITIONS);
	}
	const char *verdict = verdict_of(worst_dequant, worst_floor, worst_pos);
	const bool floor_only = !strcmp(verdict, "dequant_spec_bug_confirmed") && all_floor;
	r->exit_status = finite && (floor_only || !strcmp(verdict, "kernel_end_to_end_correct")) ? 0 : 2;

	st_json_put(r->json, "seed", json_sprintf("0x%llX", (unsigned long long)seed));
	st_json_put(r->json, "seeding", json_string(r->o->seeding_xor ? "xor" : "splitmix"));
	st_json_put(r->json, "bits", json_integer(bits));
	st_json_put(r->json, "signs", json_string(signs ? "d1" : "none"));
	st_json_put(r->json, "threshold", st_json_number(verdict_threshold));
	st_json_put(r->json, "any_nan_inf_in_output", json_boolean(!finite));
	st_json_put(r->json, "verdict", json_string(verdict));
	st_json_put(r->json, "quantiser_floor", json_boolean(floor_only));

	for (int md = 0; md < 2; md++) {
		char *buf = NULL;
		size_t len = 0;
		FILE *f = md ? open_memstream(&buf, &len) : r->text;
		if (!f)
			return st_fail(err, ST_ERR_NOMEM, "out of memory");
		fprintf(f,
		        "%sreplay multistep: %u query / %u key-value heads, d %u, capacity %u, window %u, %u bits, "
		        "signs %s\n",
		        md ? "# " : "", regime.num_heads, regime.num_kv_heads, regime.head_dim, regime.kv_capacity,
		        regime.sliding_window, bits, signs ? "d1" : "none");
		fprintf(f, "%sseed 0x%llX (%s), kernel %s, query %s, visibility %s\n\n", md ? "\n" : "",
		        (unsigned long long)seed, r->o->seeding_xor ? "xor" : "splitmix", st_cpu_name(r->exec.cpu),
		        r->exec.q_f16 ? "f16" : "f32",
		        r->exec.visibility == ST_TQ_PHYSICAL ? "physical" : "chronological");
		table(f, md, rows);
		fprintf(f, "\nverdict: %s%s\n", verdict,
		        floor_only ? " - quantiser_floor: the kernel reproduces its own cache, and the distance"
		                     " to the unquantised values is what this codebook costs"
		                   : "");
		if (!md)
			continue;
		if (fclose(f) != 0) {
			free(buf);
			return st_fail(err, ST_ERR_NOMEM, "out of memory");
		}
		enum st_status st = r->md_file ? st_outfile_write(r->md_file, buf, len, err) : ST_OK;
		free(buf);
		ST_TRY(st);
	}
	return ST_OK;
}
