/* multistep.c - four positions with synthetic heads: is the kernel right, and is the error the quantiser's? */
#include "turboquant/modes.h"

#include "base/error.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* The labels are those of the recreated test; docs/replay.md says what they mean. */
enum verdict { CORRECT, FLOOR_ABOVE, KERNEL_ABOVE, BOTH_ABOVE, BOTH_ABOVE_WRAPPED, QUANTISER_FLOOR };
static const struct st_verdict verdicts[] = {
	[CORRECT] = { "kernel_end_to_end_correct", "", 0 },
	[FLOOR_ABOVE] = { "dequant_spec_bug_confirmed", "", 2 },
	[KERNEL_ABOVE] = { "fwht_pipeline_bug", "", 2 },
	[BOTH_ABOVE] = { "h1_kernel_bug", "", 2 },
	[BOTH_ABOVE_WRAPPED] = { "ring_start_or_dispatch_bug", "", 2 },
	[QUANTISER_FLOOR] = { "dequant_spec_bug_confirmed",
	                      " - quantiser_floor: the kernel reproduces its own cache, and the distance to the"
	                      " unquantised values is what this codebook costs",
	                      0 },
};

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
	double dequant, floor, max_abs_diff; /* max_abs_diff: from the decoded cache */
	struct st_moments expect;
	bool is_floor, finite;
	enum verdict verdict;
};

static enum verdict verdict_of(double dequant, double floor, uint32_t pos)
{
	const bool kernel_off = !(dequant < verdict_threshold), floor_off = !(floor < verdict_threshold);
	return kernel_off && floor_off ? (pos > 1000 ? BOTH_ABOVE_WRAPPED : BOTH_ABOVE)
	     : kernel_off              ? KERNEL_ABOVE
	     : floor_off               ? FLOOR_ABOVE
	                               : CORRECT;
}

/* The values of a seed, then the cache as a ring fills: position by position, row = position mod capacity. */
static enum st_status measure(const struct st_replay_run *r, struct row *row, struct st_error *err)
{
	struct st_scene s;
	struct st_tq_cache cache[2] = { 0 };
	ST_TRY(st_scene_init(&s, &row->p, &r->exec, err));
	const uint32_t G = row->p.num_kv_heads, L = row->p.kv_seq_len, d = row->p.head_dim, H = row->p.num_heads;
	const enum st_seeding how = r->o->seeding_xor ? ST_SEEDING_XOR : ST_SEEDING_SPLITMIX;
	enum st_status st = ST_OK;
	st_draw_f32(st_draw_state(how, r->seed, row->pos, ST_DRAW_Q), s.q, (size_t)H * d);
	for (int v = 0; v < 2; v++) {
		st_draw_f32(st_draw_state(how, r->seed, row->pos, v ? ST_DRAW_V : ST_DRAW_K), s.pre[v],
		            (size_t)G * L * d);
		ST_TRY_OUT(st_tq_cache_init(&cache[v], &s.codec, G, row->p.kv_capacity, err));
		cache[v].written = (uint64_t)row->pos + 1 - L;
		for (uint32_t i = 0; i < L; i++) {
			float x[4 * 256];
			for (uint32_t g = 0; g < G; g++)
				memcpy(x + g * d, s.pre[v] + ((size_t)g * L + i) * d, d * sizeof *x);
			ST_TRY_OUT(st_tq_cache_append(&cache[v], &s.codec, x, true, err));
		}
		s.kv.codes[v] = cache[v].codes;
		s.kv.norms[v] = cache[v].norms;
	}
	ST_TRY_OUT(st_scene_kernel(&s, err));
	row->finite = !st_nonfinite(s.out, (size_t)H * d);
	ST_TRY_OUT(st_scene_dequant(&s, &row->dequant, err));
	for (size_t i = 0; i < (size_t)H * d; i++)
		row->max_abs_diff = st_larger(row->max_abs_diff, fabs(s.out[i] - s.ref[i]));
	st = st_scene_floor(&s, &row->floor, err);
out:
	st_tq_cache_release(&cache[0]);
	st_tq_cache_release(&cache[1]);
	st_scene_release(&s);
	return st;
}

/* before: the row of the position before, or NULL. */
static enum st_status run_row(const struct st_replay_run *r, const struct row *before, struct row *row, uint32_t pos,
                              struct st_error *err)
{
	*row = (struct row){ .pos = pos, .p = regime };
	row->p.kv_seq_len = pos + 1 < regime.kv_capacity ? pos + 1 : regime.kv_capacity;
	row->p.ring_start = st_tq_ring_start((uint64_t)pos + 1, regime.kv_capacity);
	ST_TRY(measure(r, row, err));
	/* Where the ring is cut changes no bit of it. */
	if (before && before->p.kv_seq_len == row->p.kv_seq_len)
		row->expect = before->expect;
	else
		ST_TRY(st_expect_floor(&row->p, &r->exec, FLOOR_SEEDS, &row->expect, err));
	row->verdict = verdict_of(row->dequant, row->floor, pos);
	row->is_floor = row->dequant < verdict_threshold
	             && fabs(row->floor - row->expect.mean) <= floor_sigmas * row->expect.sd;
	return ST_OK;
}

static json_t *row_json(const struct st_replay_run *r, const struct row *row)
{
	const struct st_moments *x = &row->expect;
	return st_json_put_all(
		st_json_visible(&row->p, r->exec.visibility), ST_IS("abs_pos", row->pos),
		ST_IS("kvl_logical", row->p.kv_seq_len), ST_IS("ring_start", row->p.ring_start),
		ST_IS("dequant_oracle_nrmse", row->dequant), ST_IS("independent_floor_nrmse", row->floor),
		ST_IS("max_abs_diff", row->max_abs_diff),
		{ "floor_expected", st_json_put_all(st_json_moments(x), ST_IS("low", x->mean - floor_sigmas * x->sd),
	                                            ST_IS("high", x->mean + floor_sigmas * x->sd)) },
		ST_IS("verdict", verdicts[row->verdict].label), ST_IS("quantiser_floor", row->is_floor));
}

/* The whole report, for the terminal and, with `md`, for <out>.md. */
static void print(const struct st_replay_run *r, FILE *f, bool md, const struct row *rows)
{
	const char *bar = md ? "| " : "  ", *mid = md ? "|" : " ", *end = md ? " |" : "";
	fprintf(f,
	        "%sreplay multistep: %u query / %u key-value heads, d %u, capacity %u, window %u, %u bits, signs %s\n",
	        md ? "# " : "", regime.num_heads, regime.num_kv_heads, regime.head_dim, regime.kv_capacity,
	        regime.sliding_window, r->exec.bits, st_signs_name(r->exec.signs));
	fprintf(f, "%sseed 0x%llX (%s), kernel %s, query %s, visibility %s\n\n", md ? "\n" : "",
	        (unsigned long long)r->seed, r->o->seeding_xor ? "xor" : "splitmix", st_cpu_name(r->exec.cpu),
	        st_q_name(&r->exec), st_visibility_name(&r->exec));
	fprintf(f, "%sposition%s rows %s dequant    %s floor   %s floor_expected   %s verdict%s\n", bar,
	        md ? " |" : " ", mid, mid, mid, mid, end);
	if (md)
		fprintf(f, "|---:|---:|---:|---:|---:|---|\n");
	for (const struct row *x = rows; x < rows + N_POSITIONS; x++)
		fprintf(f, "%s%8u%s %4u %s %.3e %s %.4f  %s %.4f +- %.4f %s %s%s%s\n", bar, x->pos, md ? " |" : " ",
		        x->p.kv_seq_len, mid, x->dequant, mid, x->floor, mid, x->expect.mean, x->expect.sd, mid,
		        verdicts[x->verdict].label, x->is_floor ? " (quantiser_floor)" : "", end);
	fputc('\n', f);
}

static enum st_status write_md(struct st_replay_run *r, const struct row *rows, const struct st_verdict *v,
                               struct st_error *err)
{
	char *buf = NULL;
	size_t len = 0;
	FILE *f = open_memstream(&buf, &len);
	if (f) {
		print(r, f, true, rows);
		fprintf(f, "verdict: %s%s\n", v->label, v->why);
	}
	enum st_status st = f && fclose(f) == 0 ? st_outfile_write(r->file[ST_FILE_MD], buf, len, err)
	                                        : st_fail(err, ST_ERR_NOMEM, "out of memory");
	free(buf);
	return st;
}

enum st_status st_replay_multistep(struct st_replay_run *r, struct st_error *err)
{
	struct row rows[N_POSITIONS];
	uint32_t worst_pos = 0;
	double worst_dequant = 0, worst_floor = 0;
	bool all_floor = true, finite = true;
	json_t *list = json_array();
	st_json_put(r->json, "rows", list);
	for (uint32_t i = 0; i < N_POSITIONS; i++) {
		struct row *row = rows + i;
		ST_TRY(run_row(r, i ? row - 1 : NULL, row, positions[i], err));
		/* The overall rule sees the worst of each column and where the kernel was worst. */
		if (!isnan(worst_dequant) && !(row->dequant <= worst_dequant)) {
			worst_dequant = row->dequant;
			worst_pos = row->pos;
		}
		worst_floor = st_larger(worst_floor, row->floor);
		all_floor &= row->is_floor || row->floor < verdict_threshold;
		finite &= row->finite;
		st_json_add(list, row_json(r, row));
		if (r->o->hooks.progress)
			r->o->hooks.progress(r->o->hooks.user, "positions", (uint64_t)i + 1, N_POSITIONS);
	}
	enum verdict verdict = verdict_of(worst_dequant, worst_floor, worst_pos);
	if (verdict == FLOOR_ABOVE && all_floor)
		verdict = QUANTISER_FLOOR;
	st_json_put_all(r->json, ST_IS("seed", json_sprintf("0x%llX", (unsigned long long)r->seed)),
	                ST_IS("seeding", r->o->seeding_xor ? "xor" : "splitmix"), ST_IS("bits", r->exec.bits),
	                ST_IS("signs", st_signs_name(r->exec.signs)), ST_IS("threshold", verdict_threshold),
	                ST_IS("any_nan_inf_in_output", json_boolean(!finite)),
	                ST_IS("quantiser_floor", json_boolean(verdict == QUANTISER_FLOOR)));
	print(r, r->text, false, rows);
	st_replay_verdict(r, verdicts + verdict);
	if (!finite)
		r->exit_status = 2;
	return r->file[ST_FILE_MD] ? write_md(r, rows, verdicts + verdict, err) : ST_OK;
}
