/*
 * stages.c - the ten stages of one tensor: computed block by block and, as wanted, summarised, written to a stage
 * file and compared with another side's values.
 */
#include "svf/stages.h"

#include "base/error.h"
#include "base/pool.h"
#include "dtype/half.h"

#include <stdlib.h>
#include <string.h>

/* A result that is turned over is held whole, in f32. Only matrices of layers are, and theirs are far below this. */
#define MAX_TURNED ((uint64_t)1 << 30)

uint32_t st_svf_stage_shape(const struct st_svf_entry *e, enum st_svf_stage s, bool turned, uint64_t shape[2])
{
	bool final = s == ST_SVF_FINAL_F32 || s == ST_SVF_FINAL_BF16;
	shape[0] = turned && final ? e->cols : e->rows;
	shape[1] = s == ST_SVF_U_SCALED ? e->k : turned && final ? e->rows : e->cols;
	if (!(ST_SVF_SMALL & ST_SVF_BIT(s)))
		return 2;
	shape[0] = s == ST_SVF_NORMALIZATION ? 1 : e->k;
	return 1;
}

enum st_status st_svf_stage_specs(const struct st_svf_entry *e, bool turned, unsigned kept, const char *prefix,
                                  struct st_arena *a, struct st_tensor_spec *specs, size_t *n, struct st_error *err)
{
	*n = 0;
	for (enum st_svf_stage s = 0; s < ST_SVF_STAGES; s++) {
		if (!(kept & ST_SVF_BIT(s)))
			continue;
		struct st_tensor_spec *t = &specs[(*n)++];
		*t = (struct st_tensor_spec){ .dtype = s == ST_SVF_FINAL_BF16 ? ST_DTYPE_BF16 : ST_DTYPE_F32 };
		t->ndim = st_svf_stage_shape(e, s, turned, t->shape);
		t->name = st_arena_printf(a, "%s%s", prefix, st_svf_stage_names[s]);
		ST_NEED(t->name);
	}
	return ST_OK;
}

/* ---- one piece of one stage ---- */

/* Rows [row0, row0 + n) of stage s, `x` f32 or bf16. */
struct piece {
	enum st_svf_stage s;
	const void *x;
	uint64_t row0, n, width; /* width in elements of a row; a vector is one row */
};

struct summarising {
	struct st_svf_stages *t;
	const struct piece *p;
};

/* A digest is one chain; the stages' chains are independent of each other. */
static void summarise(void *ctx, unsigned lane, uint64_t begin, uint64_t end)
{
	const struct summarising *k = ctx;
	(void)lane;
	for (const struct piece *p = k->p + begin; p < k->p + end; p++)
		(p->s == ST_SVF_FINAL_BF16 ? st_summary_bf16 : st_summary_f32)(&k->t->summary[p->s], p->x,
		                                                               p->n * p->width);
}

static enum st_status write_piece(struct st_svf_stages *t, const struct piece *p, struct st_error *err)
{
	uint64_t size = p->s == ST_SVF_FINAL_BF16 ? 2 : 4;
	unsigned bit = ST_SVF_BIT(p->s);
	if (!t->file || !(t->kept & bit))
		return ST_OK;
	return st_writer_put(t->file, t->first + (size_t)__builtin_popcount(t->kept & (bit - 1)),
	                     p->row0 * p->width * size, p->x, p->n * p->width * size, err);
}

static enum st_status compare_piece(struct st_svf_stages *t, const struct piece *p, struct st_pool *pool,
                                    struct st_error *err)
{
	struct st_svf_check *c = &t->check[p->s];
	uint64_t step = st_svf_step(p->n, p->width);
	if (!c->measured)
		return ST_OK;
	float *theirs = st_alloc_array2(step, p->width, sizeof *theirs),
	      *wide = st_alloc_array2(step, p->width, sizeof *wide);
	enum st_status st = theirs && wide ? ST_OK : st_fail(err, ST_ERR_NOMEM, "out of memory");
	for (uint64_t r = 0; st == ST_OK && r < p->n; r += step) {
		uint64_t n = p->n - r < step ? p->n - r : step, at = r * p->width;
		bool bf16 = p->s == ST_SVF_FINAL_BF16;
		st_tensor_decode(t->other[p->s], p->row0 + r, n, theirs);
		for (uint64_t i = 0; bf16 && i < n * p->width; i++)
			wide[i] = st_bf16_to_f32(((const uint16_t *)p->x)[at + i]);
		st_distance_add(&c->m, bf16 ? wide : (const float *)p->x + at, theirs, n * p->width, pool);
		st = st_check_cancel(err);
	}
	free(theirs);
	free(wide);
	return st;
}

/* summaries: of how many of the pieces, from the first on. */
static enum st_status emit(struct st_svf_stages *t, const struct piece *p, size_t n, size_t summaries,
                           struct st_svf_engine *g, struct st_error *err)
{
	double t0 = st_clock();
	if (t->summaries)
		st_pool_run(g->pool, summaries, 1, summarise, &(struct summarising){ t, p });
	if (g->times)
		g->times->hashing += st_clock() - t0;
	for (size_t i = 0; i < n; i++) {
		ST_TRY(write_piece(t, &p[i], err));
		ST_TRY(compare_piece(t, &p[i], g->pool, err));
	}
	return ST_OK;
}

/* ---- a whole tensor ---- */

bool st_svf_same_shape(uint64_t ndim_a, const uint64_t *a, uint64_t ndim_b, const uint64_t *b)
{
	if (ndim_a < 2 && ndim_b < 2 && (ndim_a == 0 || a[0] == 1) && (ndim_b == 0 || b[0] == 1))
		return true;
	return ndim_a == ndim_b && memcmp(a, b, ndim_a * sizeof *a) == 0;
}

static void check_shapes(struct st_svf_stages *t)
{
	for (enum st_svf_stage s = 0; s < ST_SVF_STAGES; s++) {
		const struct st_tensor *o = t->other[s];
		uint64_t shape[2] = { 0 };
		uint32_t ndim = st_svf_stage_shape(t->e, s, t->turned, shape);
		t->check[s].measured = t->check[s].shape_match = o && st_svf_same_shape(ndim, shape, o->ndim, o->shape);
		t->check[s].m.by_ulps = s == ST_SVF_FINAL_BF16;
	}
}

static enum st_status small_stages(struct st_svf_stages *t, struct st_svf_engine *g, struct st_error *err)
{
	const struct piece p[] = { { ST_SVF_OFFSETS, g->offsets, 0, 1, t->e->k },
		                   { ST_SVF_SCALED_S, g->scaled, 0, 1, t->e->k },
		                   { ST_SVF_NORMALIZATION, &g->norm, 0, 1, 1 } };
	return emit(t, p, 3, 3, g, err);
}

/* The result the other way round: turned is [cols, rows]. */
static enum st_status finals(struct st_svf_stages *t, struct st_svf_engine *g, const float *turned,
                             struct st_error *err)
{
	uint64_t rows = t->e->cols, width = t->e->rows, step = st_svf_step(rows, width);
	uint16_t *bf16 = st_alloc_array2(step, width, sizeof *bf16);
	enum st_status st = bf16 ? ST_OK : st_fail(err, ST_ERR_NOMEM, "out of memory");
	for (uint64_t r = 0; st == ST_OK && r < rows; r += step) {
		uint64_t n = rows - r < step ? rows - r : step;
		const float *x = turned + r * width;
		for (uint64_t i = 0; i < n * width; i++)
			bf16[i] = st_f32_to_bf16(x[i]);
		const struct piece p[] = { { ST_SVF_FINAL_F32, x, r, n, width },
			                   { ST_SVF_FINAL_BF16, bf16, r, n, width } };
		st = emit(t, p, 2, 2, g, err);
	}
	free(bf16);
	return st;
}

/* A result that keeps its orientation: this tensor's own, or of the tensor that the tied storage ends up with. */
static enum st_status straight(struct st_svf_stages *t, struct st_svf_engine *g, uint64_t r, uint64_t n,
                               struct st_error *err)
{
	uint64_t cols = t->e->cols;
	struct piece p[] = { { ST_SVF_FINAL_BF16, g->bf16, r, n, cols }, { ST_SVF_FINAL_F32, g->adapted, r, n, cols } };
	if (t->winner) {
		ST_TRY(st_svf_engine_adapted(t->winner, r, n, g->matmul, err));
		for (uint64_t i = 0; i < n * cols; i++)
			g->bf16[i] = st_f32_to_bf16(g->matmul[i]);
		p[1].x = g->matmul;
	}
	/* Its own f32 result is the adapted matrix: that digest is taken over at the end, not computed twice. */
	return emit(t, p, 2, t->winner ? 2 : 1, g, err);
}

static enum st_status blocks(struct st_svf_stages *t, struct st_svf_engine *g, float *turned, struct st_error *err)
{
	uint64_t rows = t->e->rows, cols = t->e->cols, k = t->e->k;
	for (uint64_t r = 0; r < rows; r += g->chunk) {
		uint64_t n = rows - r < g->chunk ? rows - r : g->chunk;
		ST_TRY(st_svf_engine_rows(g, r, n, err));
		const struct piece p[] = { { ST_SVF_MATMUL, g->matmul, r, n, cols },
			                   { ST_SVF_ZERO, g->zero, r, n, cols },
			                   { ST_SVF_ADAPTED, g->adapted, r, n, cols },
			                   { ST_SVF_U_SCALED, g->u_scaled, r, n, k },
			                   { ST_SVF_SOURCE, g->src, r, n, cols } };
		ST_TRY(emit(t, p, 5, 5, g, err));
		if (turned)
			st_matrix_turn(g->adapted, n, cols, turned, r, rows, g->pool);
		else
			ST_TRY(straight(t, g, r, n, err));
		if (t->done)
			*t->done += n;
		if (t->done)
			st_hooks_progress(t->hooks, t->e->source_name, *t->done, t->total);
	}
	return ST_OK;
}

enum st_status st_svf_stages_run(struct st_svf_stages *t, struct st_svf_engine *g, struct st_error *err)
{
	uint64_t n = t->e->rows * t->e->cols;
	float *turned = NULL;
	enum st_status st = ST_OK;
	check_shapes(t);
	if (t->turned && n > MAX_TURNED / sizeof *turned)
		return st_fail_at(err, ST_ERR_LIMIT, ST_NO_OFFSET, t->e->source_name,
		                  "turning over [%llu, %llu] takes more memory than the %llu MB allowed",
		                  (unsigned long long)t->e->rows, (unsigned long long)t->e->cols,
		                  (unsigned long long)(MAX_TURNED >> 20));
	if (t->turned && !(turned = st_alloc_array2(t->e->rows, t->e->cols, sizeof *turned)))
		return st_fail(err, ST_ERR_NOMEM, "out of memory");
	size_t s = 0;
	for (; t->summaries && s < ST_SVF_STAGES && st == ST_OK; s++)
		st = st_summary_begin(&t->summary[s], 8, false, err);
	if (st == ST_OK)
		st = small_stages(t, g, err);
	if (st == ST_OK)
		st = blocks(t, g, turned, err);
	if (st == ST_OK && turned)
		st = finals(t, g, turned, err);
	for (size_t i = 0; i < s; i++)
		st_summary_end(&t->summary[i]);
	if (st == ST_OK && t->summaries && !t->turned && !t->winner)
		t->summary[ST_SVF_FINAL_F32] = t->summary[ST_SVF_ADAPTED];
	for (size_t i = 0; i < ST_SVF_STAGES; i++) {
		struct st_svf_check *c = &t->check[i];
		c->byte_match = c->measured && c->m.bits == 0;
		c->passed = c->measured && t->profile && st_svf_passed(&c->m, &t->profile->stage[i]);
	}
	free(turned);
	return st;
}

/* ---- what came of it ---- */

json_t *st_svf_stage_json(const struct st_svf_stages *t, enum st_svf_stage s)
{
	uint64_t shape[2] = { 0 };
	uint32_t ndim = st_svf_stage_shape(t->e, s, t->turned, shape);
	return st_svf_summary_json(&t->summary[s], shape, ndim);
}

json_t *st_svf_stages_checks(const struct st_svf_stages *t)
{
	json_t *list = json_array();
	for (enum st_svf_stage s = 0; s < ST_SVF_STAGES; s++) {
		const struct st_svf_check *c = &t->check[s];
		json_t *o = st_svf_check_json(c, &t->profile->stage[s], c->shape_match);
		st_json_put_all(o, ST_IS("stage", json_sprintf("stage.%s", st_svf_stage_names[s])),
		                ST_IS("required_for_functional_parity", t->profile->stage[s].required),
		                ST_IS("functional_passed", c->passed));
		if (t->summaries)
			st_json_put(o, "elixir", st_svf_stage_json(t, s));
		st_json_add(list, o);
	}
	return list;
}

json_t *st_svf_stages_digests(const struct st_svf_stages *t)
{
	json_t *all = json_object();
	for (enum st_svf_stage s = 0; s < ST_SVF_STAGES; s++)
		st_json_put(all, st_svf_stage_names[s], st_svf_stage_json(t, s));
	return all;
}
