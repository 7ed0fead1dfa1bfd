#include "turboquant/scene.h"

#include "base/error.h"

#include <math.h>
#include <string.h>

enum st_status st_scene_init(struct st_scene *s, const struct st_tq_params *p, unsigned bits, bool signs,
                             const struct st_tq_exec *e, struct st_error *err)
{
	memset(s, 0, sizeof *s);
	ST_TRY(st_tq_params_check(p, err));
	ST_TRY(st_tq_codec_init(&s->codec, p->head_dim, bits, signs, p->scale_factor_d512, e->cpu, err));
	s->p = *p;
	s->exec = *e;
	const uint64_t G = p->num_kv_heads, d = p->head_dim, values = G * p->kv_seq_len, rows = G * p->kv_capacity;
	const size_t rb = st_tq_row_bytes(p->head_dim, bits), nb = st_tq_norm_blocks(p->head_dim);
	s->k = st_arena_alloc2(&s->mem, values, d, sizeof *s->k);
	s->v = st_arena_alloc2(&s->mem, values, d, sizeof *s->v);
	s->q = st_arena_alloc2(&s->mem, p->num_heads, d, sizeof *s->q);
	s->k_codes = st_arena_alloc2(&s->mem, rows, rb, 1);
	s->v_codes = st_arena_alloc2(&s->mem, rows, rb, 1);
	s->k_norms = st_arena_alloc2(&s->mem, rows, nb, sizeof *s->k_norms);
	s->v_norms = st_arena_alloc2(&s->mem, rows, nb, sizeof *s->v_norms);
	s->out = st_arena_alloc2(&s->mem, p->num_heads, d, sizeof *s->out);
	s->ref = st_arena_alloc2(&s->mem, p->num_heads, d, sizeof *s->ref);
	s->kv = (struct st_tq_kv){
		.k_codes = s->k_codes, .v_codes = s->v_codes, .k_norms = s->k_norms, .v_norms = s->v_norms
	};
	if (s->k && s->v && s->q && s->k_codes && s->v_codes && s->k_norms && s->v_norms && s->out && s->ref)
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
	st_draw_normal(g, s->k, values);
	st_draw_normal(g, s->v, values);
	st_draw_normal(g, s->q, s->p.num_heads * d);
}

void st_scene_encode(struct st_scene *s)
{
	const struct st_tq_params *p = &s->p;
	const size_t rb = st_tq_row_bytes(p->head_dim, s->codec.bits), nb = st_tq_norm_blocks(p->head_dim);
	const size_t rows = (size_t)p->num_kv_heads * p->kv_capacity;
	memset(s->k_codes, 0, rows * rb);
	memset(s->v_codes, 0, rows * rb);
	memset(s->k_norms, 0, rows * nb * sizeof *s->k_norms);
	memset(s->v_norms, 0, rows * nb * sizeof *s->v_norms);
	/* Chronological rows are one physical run, or two where they cross the end of the ring. */
	const uint32_t first = p->kv_capacity - p->ring_start;
	uint32_t run[2] = { p->kv_seq_len < first ? p->kv_seq_len : first, 0 };
	run[1] = p->kv_seq_len - run[0];
	for (size_t g = 0; g < p->num_kv_heads; g++) {
		for (int r = 0; r < 2; r++) {
			size_t from = (g * p->kv_seq_len + (r ? run[0] : 0)) * p->head_dim,
			       to = g * p->kv_capacity + (r ? 0 : p->ring_start);
			st_tq_encode(&s->codec, s->k + from, run[r], s->k_codes + to * rb, s->k_norms + to * nb,
			             s->exec.pool);
			st_tq_encode(&s->codec, s->v + from, run[r], s->v_codes + to * rb, s->v_norms + to * nb,
			             s->exec.pool);
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
	ST_TRY(st_oracle_floor(&s->p, s->k, s->v, s->q, s->ref, err));
	*nrmse = st_tq_nrmse(s->out, s->ref, (size_t)s->p.num_heads * s->p.head_dim);
	return ST_OK;
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
	unsigned bits;
	bool signs;
	struct st_tq_exec one;
	double value[1024];
};

static enum st_status floor_of_seed(void *ctx, uint32_t i, struct st_error *err)
{
	struct floors *k = ctx;
	struct st_scene s;
	struct st_draw g;
	ST_TRY(st_scene_init(&s, k->p, k->bits, k->signs, &k->one, err));
	/* Another generator than multistep's, and seeds that cannot be the measured one. */
	st_draw_init(&g, st_splitmix64_mix(ST_TQ_SEED + i), k->one.cpu);
	st_scene_draw(&s, &g);
	st_scene_encode(&s);
	enum st_status st = st_scene_kernel(&s, err);
	if (st == ST_OK)
		st = st_scene_floor(&s, &k->value[i], err);
	st_scene_release(&s);
	return st;
}

enum st_status st_expect_floor(const struct st_tq_params *p, unsigned bits, bool signs, const struct st_tq_exec *e,
                               uint32_t n, struct st_moments *out, struct st_error *err)
{
	/* A seed is one thread's work. Every CPU level has the same bits; the fastest will do. */
	struct floors k = { .p = p, .bits = bits, .signs = signs, .one = { .cpu = st_cpu_best(), .q_f16 = e->q_f16 } };
	ST_TRY(st_each_seed(e->pool, n, floor_of_seed, &k, err));
	*out = st_moments_of(k.value, n, 1);
	return ST_OK;
}
