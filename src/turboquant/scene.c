#include "turboquant/scene.h"

#include "base/error.h"

#include <math.h>
#include <string.h>

enum st_status st_scene_init(struct st_scene *s, const struct st_tq_params *p, const struct st_tq_exec *e,
                             struct st_error *err)
{
	memset(s, 0, sizeof *s);
	ST_TRY(st_tq_params_check(p, err));
	ST_TRY(st_tq_codec_init(&s->codec, p->head_dim, e->bits, e->signs, p->scale_factor_d512, e->cpu, err));
	s->p = *p;
	s->exec = *e;
	const uint64_t G = p->num_kv_heads, d = p->head_dim, values = G * p->kv_seq_len, rows = G * p->kv_capacity;
	const size_t rb = st_tq_row_bytes(p->head_dim, e->bits), nb = st_tq_norm_blocks(p->head_dim);
	s->q = st_arena_alloc2(&s->mem, p->num_heads, d, sizeof *s->q);
	s->out = st_arena_alloc2(&s->mem, p->num_heads, d, sizeof *s->out);
	s->ref = st_arena_alloc2(&s->mem, p->num_heads, d, sizeof *s->ref);
	bool ok = s->q && s->out && s->ref;
	for (int v = 0; v < 2; v++) {
		s->pre[v] = st_arena_alloc2(&s->mem, values, d, sizeof *s->pre[v]);
		s->kv.codes[v] = s->codes[v] = st_arena_alloc2(&s->mem, rows, rb, 1);
		s->kv.norms[v] = s->norms[v] = st_arena_alloc2(&s->mem, rows, nb, sizeof *s->norms[v]);
		ok &= s->pre[v] && s->codes[v] && s->norms[v];
	}
	if (ok)
		return ST_OK;
	st_scene_release(s);
	return st_fail(err, ST_ERR_NOMEM, "out of memory");
}

void st_scene_release(struct st_scene *s)
{
	st_arena_release(&s->mem);
	memset(s, 0, sizeof *s);
}

void st_scene_draw(struct st_scene *s, struct st_draw *g)
{
	const size_t d = s->p.head_dim, values = (size_t)s->p.num_kv_heads * s->p.kv_seq_len * d;
	st_draw_normal(g, s->pre[0], values);
	st_draw_normal(g, s->pre[1], values);
	st_draw_normal(g, s->q, s->p.num_heads * d);
}

void st_scene_encode(struct st_scene *s)
{
	const struct st_tq_params *p = &s->p;
	const size_t rb = st_tq_row_bytes(p->head_dim, s->codec.bits), nb = st_tq_norm_blocks(p->head_dim),
		     rows = (size_t)p->num_kv_heads * p->kv_capacity;
	/* Chronological rows are one physical run, or two where they cross the end of the ring. */
	const uint32_t first = p->kv_capacity - p->ring_start;
	uint32_t run[2] = { p->kv_seq_len < first ? p->kv_seq_len : first, 0 };
	run[1] = p->kv_seq_len - run[0];
	for (int v = 0; v < 2; v++) {
		memset(s->codes[v], 0, rows * rb);
		memset(s->norms[v], 0, rows * nb * sizeof *s->norms[v]);
		for (size_t i = 0; i < 2 * p->num_kv_heads; i++) {
			const size_t g = i / 2, r = i % 2, to = g * p->kv_capacity + (r ? 0 : p->ring_start);
			st_tq_encode(&s->codec, s->pre[v] + (g * p->kv_seq_len + (r ? run[0] : 0)) * p->head_dim,
			             run[r], s->codes[v] + to * rb, s->norms[v] + to * nb, s->exec.pool);
		}
	}
}

enum st_status st_scene_kernel(struct st_scene *s, struct st_error *err)
{
	return st_tq_step(&s->exec, &s->codec, &s->p, &s->kv, s->q, s->out, err);
}

enum st_status st_scene_dequant(struct st_scene *s, double *nrmse, struct st_error *err)
{
	const struct st_oracle_decode o = st_oracle_decode_of(&s->codec);
	ST_TRY(st_oracle_dequant(&s->p, &o, &s->kv, s->q, s->ref, err));
	*nrmse = st_tq_nrmse(s->out, s->ref, (size_t)s->p.num_heads * s->p.head_dim);
	return ST_OK;
}

enum st_status st_scene_floor(struct st_scene *s, double *nrmse, struct st_error *err)
{
	ST_TRY(st_oracle_floor(&s->p, (const float *const *)s->pre, s->q, s->ref, err));
	*nrmse = st_tq_nrmse(s->out, s->ref, (size_t)s->p.num_heads * s->p.head_dim);
	return ST_OK;
}

enum st_status st_scene_of_seed(struct st_scene *s, const struct st_tq_params *p, const struct st_tq_exec *e,
                                uint64_t seed, struct st_error *err)
{
	struct st_draw g;
	ST_TRY(st_scene_init(s, p, e, err));
	st_draw_init(&g, seed, e->cpu);
	st_scene_draw(s, &g);
	st_scene_encode(s);
	enum st_status st = st_scene_kernel(s, err);
	if (st != ST_OK)
		st_scene_release(s);
	return st;
}

/* ---- many seeds ---- */

struct st_moments st_moments_of(const double *x, uint32_t n, size_t stride)
{
	double sum = 0, sq = 0;
	for (uint32_t i = 0; i < n; i++)
		sum += x[i * stride];
	for (uint32_t i = 0; i < n; i++)
		sq += (x[i * stride] - sum / n) * (x[i * stride] - sum / n);
	return (struct st_moments){ .mean = sum / n, .sd = sqrt(sq / (n - 1)), .n = n };
}

struct seeds {
	st_seed_fn fn;
	void *ctx;
	struct st_first_failure failure;
};

static void some_seeds(void *ctx, unsigned lane, uint64_t begin, uint64_t end)
{
	struct seeds *k = ctx;
	(void)lane;
	for (uint64_t i = begin; i < end; i++) {
		struct st_error own = ST_ERROR_INIT;
		enum st_status st = st_check_cancel(&own);
		st_keep_failure(&k->failure, st == ST_OK ? k->fn(k->ctx, (uint32_t)i, &own) : st, &own);
	}
}

enum st_status st_each_seed(struct st_pool *pool, uint32_t n, st_seed_fn fn, void *ctx, struct st_error *err)
{
	struct seeds k = { .fn = fn, .ctx = ctx };
	st_pool_run(pool, n, 1, some_seeds, &k);
	return st_first_failure(&k.failure, err);
}

struct floors {
	const struct st_tq_params *p;
	struct st_tq_exec one;
	double value[1024];
};

static enum st_status floor_of_seed(void *ctx, uint32_t i, struct st_error *err)
{
	struct floors *k = ctx;
	struct st_scene s;
	/* Another generator than multistep's, and seeds that cannot be the measured one. */
	ST_TRY(st_scene_of_seed(&s, k->p, &k->one, st_splitmix64_mix(ST_TQ_SEED + i), err));
	enum st_status st = st_scene_floor(&s, &k->value[i], err);
	st_scene_release(&s);
	return st;
}

enum st_status st_expect_floor(const struct st_tq_params *p, const struct st_tq_exec *e, uint32_t n,
                               struct st_moments *out, struct st_error *err)
{
	/* A seed is one thread's work. Every CPU level has the same bits; the fastest will do. */
	struct floors k = { .p = p,
		            .one = { .cpu = st_cpu_best(), .q_f16 = e->q_f16, .bits = e->bits, .signs = e->signs } };
	ST_TRY(st_each_seed(e->pool, n, floor_of_seed, &k, err));
	*out = st_moments_of(k.value, n, 1);
	return ST_OK;
}
