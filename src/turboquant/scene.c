#include "turboquant/scene.h"

#include "base/error.h"
#include "base/mem.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

struct st_oracle_decode st_oracle_decode_of(const struct st_tq_codec *c, const double *levels)
{
	return (struct st_oracle_decode){
		.bits = c->bits,
		.levels = levels,
		.signs = c->signs,
		.fwht = true,
		.factor = c->d == 512 ? 1 / c->scale_factor_d512 : 1 / sqrt((double)c->d),
	};
}

enum st_status st_scene_init(struct st_scene *s, const struct st_tq_params *p, unsigned bits, bool signs,
                             const struct st_tq_exec *e, struct st_error *err)
{
	memset(s, 0, sizeof *s);
	ST_TRY(st_tq_params_check(p, err));
	ST_TRY(st_tq_codec_init(&s->codec, p->head_dim, bits, signs, p->scale_factor_d512, e->cpu, err));
	s->p = *p;
	s->exec = *e;
	for (unsigned i = 0; i < s->codec.book.n; i++)
		s->levels[i] = s->codec.book.level_f32[i];
	const uint64_t values = (uint64_t)p->num_kv_heads * p->kv_seq_len * p->head_dim,
		       rows = (uint64_t)p->num_kv_heads * p->kv_capacity;
	const uint64_t heads = (uint64_t)p->num_heads * p->head_dim;
	const size_t rb = st_tq_row_bytes(p->head_dim, bits), nb = st_tq_norm_blocks(p->head_dim);
	s->k = st_alloc_array(values, sizeof *s->k);
	s->v = st_alloc_array(values, sizeof *s->v);
	s->q = st_alloc_array(heads, sizeof *s->q);
	s->k_codes = st_alloc_array(rows, rb);
	s->v_codes = st_alloc_array(rows, rb);
	s->k_norms = st_alloc_array(rows, nb * sizeof *s->k_norms);
	s->v_norms = st_alloc_array(rows, nb * sizeof *s->v_norms);
	s->out = st_alloc_array(heads, sizeof *s->out);
	s->ref = st_alloc_array(heads, sizeof *s->ref);
	if (s->k && s->v && s->q && s->k_codes && s->v_codes && s->k_norms && s->v_norms && s->out && s->ref)
		return ST_OK;
	st_scene_release(s);
	return st_fail(err, ST_ERR_NOMEM, "out of memory");
}

void st_scene_release(struct st_scene *s)
{
	free(s->k);
	free(s->v);
	free(s->q);
	free(s->k_codes);
	free(s->v_codes);
	free(s->k_norms);
	free(s->v_norms);
	free(s->out);
	free(s->ref);
	memset(s, 0, sizeof *s);
}

struct st_tq_kv st_scene_kv(const struct st_scene *s)
{
	return (struct st_tq_kv){
		.k_codes = s->k_codes, .v_codes = s->v_codes, .k_norms = s->k_norms, .v_norms = s->v_norms
	};
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
	/* The sequence is one physical run, or two where it crosses the end of the ring. */
	uint32_t first = p->kv_capacity - p->ring_start;
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
	const size_t n = (size_t)s->p.num_heads * s->p.head_dim;
	float *q = st_alloc_array(n, sizeof *q);
	if (!q)
		return st_fail(err, ST_ERR_NOMEM, "out of memory");
	memcpy(q, s->q, n * sizeof *q);
	st_tq_rotate(&s->codec, q, s->p.num_heads);
	struct st_tq_kv kv = st_scene_kv(s);
	enum st_status st = st_tq_attention(&s->exec, &s->codec, &s->p, &kv, q, s->out, err);
	st_tq_unrotate(&s->codec, s->out, s->p.num_heads);
	free(q);
	return st;
}

enum st_status st_scene_dequant(struct st_scene *s, double *nrmse, struct st_error *err)
{
	struct st_oracle_decode o = st_oracle_decode_of(&s->codec, s->levels);
	struct st_tq_kv kv = st_scene_kv(s);
	ST_TRY(st_oracle_dequant(&s->p, &o, &kv, s->q, s->ref, err));
	*nrmse = st_tq_nrmse(s->out, s->ref, (size_t)s->p.num_heads * s->p.head_dim);
	return ST_OK;
}

enum st_status st_scene_floor(struct st_scene *s, double *nrmse, struct st_error *err)
{
	ST_TRY(st_oracle_floor(&s->p, s->k, s->v, s->q, s->ref, err));
	*nrmse = st_tq_nrmse(s->out, s->ref, (size_t)s->p.num_heads * s->p.head_dim);
	return ST_OK;
}
