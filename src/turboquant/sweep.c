/* sweep.c - the production-faithful data: draws, norms, RoPE, cache, kernel, floor - and their null distribution. */
#include "turboquant/sweep.h"

#include "base/error.h"
#include "base/mem.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

const double st_band_lower = 0.05, st_band_upper = 0.35;
bool st_band_ok(double nrmse) { return nrmse >= st_band_lower && nrmse <= st_band_upper; }

enum { HEADS = 16, KV_HEADS = 8, DIM = 256, CAPACITY = 1024 };
const struct st_sweep_regime st_sweep_regime = { .rms_eps = 1e-6, .rope_theta = 10000 };

#define RING(pos) (((pos) + 1) % CAPACITY), ((pos) % CAPACITY)
const struct st_sweep_point st_sweep_points[ST_N_POINTS] = {
	{ "A", 500, 128, 1024, 0, 0 },          { "A", 500, 256, 1024, 0, 0 },  { "A", 500, 500, 1024, 0, 0 },
	{ "A", 500, 512, 1024, 0, 0 },          { "A", 500, 768, 1024, 0, 0 },  { "A", 500, 1024, 1024, 0, 0 },
	{ "B", 50, 500, 1024, 0, 0 },           { "B", 100, 500, 1024, 0, 0 },  { "B", 200, 500, 1024, 0, 0 },
	{ "B", 500, 500, 1024, 0, 0 },          { "B", 1000, 500, 1024, 0, 0 }, { "ring", 1024, 256, 512, RING(1024) },
	{ "ring", 1050, 256, 512, RING(1050) },
};

struct st_tq_params st_sweep_params(const struct st_sweep_point *pt, uint32_t ring_start)
{
	return (struct st_tq_params){
		.num_heads = HEADS,
		.num_kv_heads = KV_HEADS,
		.head_dim = DIM,
		.kv_seq_len = pt->kvl,
		.kv_capacity = CAPACITY,
		.scale = 1,
		.mask_type = ST_TQ_MASK_SLIDING,
		.sliding_window = pt->window,
		.ring_start = ring_start,
		.scale_factor_d512 = 1,
	};
}

void st_sweep_release(struct st_sweep *s) { st_arena_release(&s->mem); }

enum st_status st_sweep_init(struct st_sweep *s, struct st_error *err)
{
	*s = (struct st_sweep){ 0 };
	for (int i = 0; i < ST_N_POINTS; i++) {
		const struct st_sweep_point *pt = st_sweep_points + i;
		uint32_t pos[CAPACITY + 1];
		float *table = st_arena_alloc2(&s->mem, pt->kvl + 1, DIM, sizeof *table);
		ST_NEED(table);
		/* Keys end at the query's own position; a cache longer than the sequence starts at 0. */
		for (uint32_t k = 0; k < pt->kvl; k++)
			pos[k] = pt->pos + 1 + k > pt->kvl ? pt->pos + 1 + k - pt->kvl : 0;
		pos[pt->kvl] = pt->pos;
		st_draw_rope_table(pos, pt->kvl + 1, DIM, (float)st_sweep_regime.rope_theta, table);
		s->table[i] = table;
	}
	return ST_OK;
}

enum st_status st_sweep_run(const struct st_sweep *s, uint64_t seed, const struct st_tq_exec *e,
                            struct st_sweep_result *out, struct st_error *err)
{
	/* Room for the longest point. */
	const struct st_tq_params p = st_sweep_params(&(struct st_sweep_point){ .kvl = CAPACITY, .window = CAPACITY },
	                                              0);
	struct st_scene c;
	struct st_draw g;
	memset(out, 0, sizeof *out);
	ST_TRY(st_scene_init(&c, &p, e, err));
	enum st_status st = ST_OK;
	st_draw_init(&g, seed, e->cpu);
	for (int i = 0; i < ST_N_POINTS; i++) {
		const struct st_sweep_point *pt = st_sweep_points + i;
		const size_t rows = (size_t)KV_HEADS * pt->kvl;
		ST_TRY_OUT(st_check_cancel(err));
		out->before[i] = g.consumed;
		c.p = st_sweep_params(pt, pt->ring_a);
		st_scene_draw(&c, &g);
		st_draw_rmsnorm(c.pre[0], rows, DIM, st_sweep_regime.rms_eps);
		st_draw_rmsnorm(c.pre[1], rows, DIM, st_sweep_regime.rms_eps);
		st_draw_rmsnorm(c.q, HEADS, DIM, st_sweep_regime.rms_eps);
		for (size_t r = 0; r < rows; r++)
			st_draw_rope(c.pre[0] + r * DIM, DIM, s->table[i] + r % pt->kvl * DIM);
		for (size_t h = 0; h < HEADS; h++)
			st_draw_rope(c.q + h * DIM, DIM, s->table[i] + (size_t)pt->kvl * DIM);
		st_scene_encode(&c);
		ST_TRY_OUT(st_scene_kernel(&c, err));
		ST_TRY_OUT(st_scene_floor(&c, &out->nrmse[i], err));
		if (pt->ring_a == pt->ring_b)
			continue;
		/* The same bytes, read with the wrong start: the only thing that differs between the legs. */
		c.p.ring_start = pt->ring_b;
		ST_TRY_OUT(st_scene_kernel(&c, err));
		ST_TRY_OUT(st_scene_floor(&c, &out->nrmse_b[i], err));
	}
	out->consumed = g.consumed;
out:
	st_scene_release(&c);
	return st;
}

struct nulls {
	const struct st_sweep *s;
	uint64_t avoid_seed;
	struct st_tq_exec one;
	struct st_sweep_result *r;
};

static enum st_status null_of_seed(void *ctx, uint32_t i, struct st_error *err)
{
	struct nulls *k = ctx;
	uint64_t seed = st_splitmix64_mix(ST_TQ_SEED + (uint64_t)i + 1);
	seed += seed == k->avoid_seed;
	return st_sweep_run(k->s, seed, &k->one, k->r + i, err);
}

enum st_status st_null_run(const struct st_sweep *s, uint32_t n, uint64_t avoid_seed, const struct st_tq_exec *e,
                           struct st_null_stats *out, struct st_error *err)
{
	/* A seed is one thread's work. */
	struct nulls k = { s, avoid_seed, *e, st_alloc_array(n, sizeof *k.r) };
	enum { STRIDE = sizeof *k.r / sizeof(double) };
	memset(out, 0, sizeof *out);
	ST_NEED(k.r);
	k.one.pool = NULL;
	enum st_status st = st_each_seed(e->pool, n, null_of_seed, &k, err);
	out->n = n;
	for (size_t p = 0; st == ST_OK && p < ST_N_POINTS; p++) {
		out->a[p] = st_moments_of(&k.r->nrmse[p], n, STRIDE);
		out->b[p] = st_moments_of(&k.r->nrmse_b[p], n, STRIDE);
	}
	for (uint32_t i = 0; st == ST_OK && i < n; i++) {
		bool ok = true;
		for (size_t p = 0; p < ST_N_POINTS; p++) {
			const bool in = st_band_ok(k.r[i].nrmse[p]);
			out->outside[p] += !in;
			ok &= in;
		}
		out->band_rejection += !ok;
	}
	for (size_t p = 0; p < ST_N_POINTS; p++)
		out->outside[p] /= n;
	out->band_rejection /= n;
	free(k.r);
	return st;
}
