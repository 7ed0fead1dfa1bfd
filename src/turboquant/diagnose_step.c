/* diagnose_step.c - one decode step in f64 under an edit. */
#include "turboquant/diagnose.h"

#include "base/mem.h"
#include "dtype/half.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

bool st_step_alloc(struct step *s)
{
	const uint32_t H = s->c->p.num_heads, d = s->c->p.head_dim, P = s->c->p.kv_capacity;
	s->mem = (struct st_arena){ 0 };
	s->q = st_arena_alloc2(&s->mem, H, d, sizeof *s->q);
	s->out = st_arena_alloc2(&s->mem, H, d, sizeof *s->out);
	s->scores = st_arena_alloc2(&s->mem, H, P, sizeof *s->scores);
	s->rows = st_arena_alloc(&s->mem, P, sizeof *s->rows);
	s->map = st_arena_alloc(&s->mem, H, sizeof *s->map);
	s->weights_top = st_arena_alloc(&s->mem, H, sizeof *s->weights_top);
	s->total = st_arena_alloc(&s->mem, H, sizeof *s->total);
	return s->q && s->out && s->scores && s->rows && s->map && s->weights_top && s->total;
}

void st_step_free(struct step *s) { st_arena_release(&s->mem); }

static double rounded(enum round r, double x)
{
	return r == ROUND_F16  ? st_tq_round_f16((float)x)
	     : r == ROUND_BF16 ? st_bf16_to_f32(st_f32_to_bf16((float)x))
	                       : x;
}

/* Physical rows that the edited step reads. */
static void select_rows(struct step *s, const struct edit *e)
{
	const struct st_tq_params *p = &s->c->p;
	const int64_t cap = p->kv_capacity, len = (int64_t)p->kv_seq_len + e->extra;
	const int64_t start = (((int64_t)p->ring_start + e->ring_delta) % cap + cap) % cap;
	int64_t first = 0;
	if (p->mask_type == ST_TQ_MASK_SLIDING && e->window == WINDOW_OWN)
		first = (int64_t)p->kv_seq_len - p->sliding_window - e->window_delta;
	const bool physical = e->physical != s->physical;
	s->n_rows = 0;
	for (int64_t i = first > 0 ? first : 0; i < (len < cap ? len : cap); i++) {
		int64_t row = (start + i) % cap;
		if (physical && row >= p->kv_seq_len)
			continue;
		/* A window counted in physical rows: the last ones of the buffer's used part. */
		if (e->window == WINDOW_BY_ROW && row < (int64_t)p->kv_seq_len - p->sliding_window)
			continue;
		s->rows[s->n_rows++] = (uint32_t)row;
	}
}

uint32_t st_step_position(const struct st_tq_params *p, uint32_t row)
{
	return (uint32_t)(((uint64_t)row + p->kv_capacity - p->ring_start) % p->kv_capacity);
}

/* The fault that the edit puts on this row of this head. */
static enum row_fault fault_of(const struct step *s, const struct edit *e, uint32_t g, uint32_t row)
{
	const bool here = e->row_fault && st_step_position(&s->c->p, row) == e->row
	               && (!e->one_head || g == e->kv_head);
	return here ? e->row_fault : ROW_OWN;
}

void st_step_row(const struct step *s, const struct edit *e, bool v, uint32_t g, uint32_t row, double *y)
{
	const struct st_tq_params *p = &s->c->p;
	const struct st_tq_kv *kv = &s->c->kv;
	const uint32_t d = p->head_dim;
	const size_t rb = st_tq_row_bytes(d, s->decode.bits), nb = st_tq_norm_blocks(d);
	switch (fault_of(s, e, g, row)) {
	case ROW_ZERO:
		memset(y, 0, d * sizeof *y);
		return;
	case ROW_FOREIGN:
		/* Its key is unknown: st_step_evaluate takes its scores as they were found. */
		memset(y, 0, d * sizeof *y);
		if (v)
			memcpy(y, e->foreign->v + (size_t)g * d, d * sizeof *y);
		return;
	case ROW_COPY:
		row = e->from;
		break;
	case ROW_OWN:
	case ROW_MISSING:
		break;
	}
	struct st_oracle_decode o = s->decode;
	o.fwht = o.signs = false;
	o.nibbles_swapped = v ? e->nibbles_v : e->nibbles_k;
	o.norm_block = e->norm_block;
	const bool here = !e->one_head || g == e->kv_head;
	if (e->factor > 0 && here)
		o.factor = e->factor;
	const bool codes = v != e->kv_swapped, norms = e->kv_swapped ? codes : v != e->norms_crossed;
	const size_t at = (size_t)g * p->kv_capacity + row;
	st_oracle_decode_row(&o, d, kv->codes[codes] + at * rb, kv->norms[norms] + at * nb, y);
	const double gain = v ? e->v_gain : e->k_gain;
	for (uint32_t j = 0; gain > 0 && here && j < d; j++)
		y[j] *= gain;
	for (uint32_t j = 0; e->kv_round && j < d; j++)
		y[j] = rounded(e->kv_round, y[j]);
}

static uint32_t mapped(const struct st_tq_params *p, enum head_map m, uint32_t h)
{
	const uint32_t group = p->num_heads / p->num_kv_heads;
	return m == MAP_MODULO   ? h % p->num_kv_heads
	     : m == MAP_REVERSED ? p->num_kv_heads - 1 - h / group
	     : m == MAP_FIRST    ? 0
	                         : h / group;
}

static double scale_of(const struct step *s, const struct edit *e) { return e->scale != 0 ? e->scale : s->c->p.scale; }

static double softcap_of(const struct step *s, const struct edit *e)
{
	return e->softcap < 0 ? 0 : e->softcap > 0 ? e->softcap : s->c->p.softcap;
}

double st_step_score(const struct step *s, const struct edit *e, uint32_t h, const double *k)
{
	const uint32_t d = s->c->p.head_dim;
	return st_oracle_score(s->q + (size_t)h * d, k, d, scale_of(s, e), softcap_of(s, e));
}

static void rotate_query(struct step *s, const struct edit *e)
{
	const uint32_t d = s->c->p.head_dim;
	const bool signs = s->decode.signs != e->q_signs;
	for (uint32_t h = 0; h < s->c->p.num_heads; h++) {
		double *q = s->q + (size_t)h * d;
		for (uint32_t j = 0; j < d; j++)
			q[j] = (double)s->c->q[(size_t)h * d + j] * (signs ? st_tq_sign(j) : 1);
		if (!e->q_plain)
			st_oracle_fwht(q, d);
		for (uint32_t j = 0; j < d; j++)
			q[j] = rounded(e->round == ROUND_DECLARED && s->q_f16 ? ROUND_F16 : e->round, q[j]);
	}
}

static struct st_apart apart(const struct step *s, size_t from, size_t n)
{
	struct st_apart a = { 0 };
	for (size_t i = from; i < from + n; i++)
		st_apart_add(&a, s->observed[i], s->out[i]);
	return a;
}

double st_step_residual(const struct step *s)
{
	const struct st_apart a = apart(s, 0, s->n);
	return a.total > 0 ? st_apart_nrmse(&a) : INFINITY;
}

double st_step_difference(const struct step *s, size_t from, size_t n)
{
	const struct st_apart a = apart(s, from, n);
	return st_apart_nrmse(&a);
}

uint32_t st_step_worst_head(const struct step *s, double floor, bool *one_head)
{
	const struct st_tq_params *p = &s->c->p;
	const size_t span = (size_t)(p->num_heads / p->num_kv_heads) * p->head_dim;
	uint32_t worst = 0, n_off = 0;
	double largest = -1;
	for (uint32_t g = 0; g < p->num_kv_heads; g++) {
		const double e = st_step_difference(s, g * span, span);
		n_off += e > floor;
		if (e > largest) {
			largest = e;
			worst = g;
		}
	}
	*one_head = n_off == 1 && p->num_kv_heads > 1;
	return worst;
}

/* Bring one head's result back to the natural basis. */
static void finish_head(const struct step *s, const struct edit *e, double *y)
{
	const uint32_t d = s->c->p.head_dim;
	if (!e->out_plain)
		st_oracle_fwht(y, d);
	for (uint32_t j = 0; s->decode.signs != e->out_signs && j < d; j++)
		y[j] *= st_tq_sign(j);
}

struct edited {
	const struct step *s;
	const struct edit *e;
};

static void edited_row(const void *ctx, bool v, uint32_t g, uint32_t i, double *y)
{
	const struct edited *c = ctx;
	st_step_row(c->s, c->e, v, g, c->s->rows[i], y);
}

static bool edited_score(const void *ctx, uint32_t h, uint32_t g, uint32_t i, double *x)
{
	const struct edited *c = ctx;
	const enum row_fault fault = fault_of(c->s, c->e, g, c->s->rows[i]);
	if (fault != ROW_MISSING && fault != ROW_FOREIGN)
		return false;
	*x = fault == ROW_MISSING ? -INFINITY : c->e->foreign->score[h];
	return true;
}

void st_step_evaluate(struct step *s, const struct edit *e)
{
	const struct st_tq_params *p = &s->c->p;
	const struct edited ctx = { s, e };
	rotate_query(s, e);
	select_rows(s, e);
	for (uint32_t h = 0; h < p->num_heads; h++)
		s->map[h] = mapped(p, e->map, h);
	st_oracle_attend(&(struct st_oracle_step){ .p = p,
	                                           .scale = scale_of(s, e),
	                                           .softcap = softcap_of(s, e),
	                                           .q = s->q,
	                                           .map = s->map,
	                                           .n = s->n_rows,
	                                           .row = edited_row,
	                                           .score = edited_score,
	                                           .ctx = &ctx,
	                                           .scores = s->scores,
	                                           .top = s->weights_top,
	                                           .total = s->total,
	                                           .out = s->out });
	for (uint32_t h = 0; h < p->num_heads; h++)
		finish_head(s, e, s->out + (size_t)h * p->head_dim);
}

struct trials {
	struct step *lanes; /* scratch of every lane */
	struct hypothesis *h;
};

static void try_some(void *ctx, unsigned lane, uint64_t begin, uint64_t end)
{
	const struct trials *t = ctx;
	struct step *mine = &t->lanes[lane];
	for (uint64_t i = begin; i < end; i++) {
		st_step_evaluate(mine, &t->h[i].e);
		t->h[i].residual = st_step_residual(mine);
	}
}

bool st_step_try(const struct step *s, struct hypothesis *h, size_t n)
{
	unsigned threads = st_pool_threads(s->pool), ready = 0;
	struct trials t = { .lanes = st_alloc_array(threads, sizeof *t.lanes), .h = h };
	if (!t.lanes)
		return false;
	bool ok = true;
	for (; ok && ready < threads; ready++) {
		t.lanes[ready] = *s;
		ok = st_step_alloc(&t.lanes[ready]);
	}
	if (ok)
		st_pool_run(s->pool, n, 1, try_some, &t);
	while (ready > 0)
		st_step_free(&t.lanes[--ready]);
	free(t.lanes);
	return ok;
}
