/*
 * stages.c - the ten stages of one tensor: computed block by block and, as wanted, summarised, written to a stage
 * file and compared with another side's values.
 */
#include "svf/svf.h"

#include "base/error.h"
#include "dtype/half.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

/* A result that is turned over is held whole, in f32. Only matrices of layers are, and theirs are far below this. */
#define MAX_TURNED ((uint64_t)512 << 20)

uint64_t st_svf_stage_shape(const struct st_svf_entry *e, enum st_svf_stage s, bool turned, uint64_t shape[2])
{
	switch (s) {
	case ST_SVF_OFFSETS:
	case ST_SVF_SCALED_S:
		shape[0] = e->k;
		return 1;
	case ST_SVF_NORMALIZATION:
		shape[0] = 1;
		return 1;
	case ST_SVF_U_SCALED:
		shape[0] = e->rows;
		shape[1] = e->k;
		return 2;
	default:
		turned = turned && (s == ST_SVF_FINAL_F32 || s == ST_SVF_FINAL_BF16);
		shape[0] = turned ? e->cols : e->rows;
		shape[1] = turned ? e->rows : e->cols;
		return 2;
	}
}

enum st_status st_svf_stage_specs(const struct st_svf_entry *e, bool turned, const char *prefix, struct st_arena *a,
                                  struct st_tensor_spec *specs, struct st_error *err)
{
	for (size_t s = 0; s < ST_SVF_STAGES; s++) {
		uint64_t shape[2] = { 0 };
		specs[s] = (struct st_tensor_spec){ .dtype = s == ST_SVF_FINAL_BF16 ? ST_DTYPE_BF16 : ST_DTYPE_F32 };
		specs[s].ndim = (uint32_t)st_svf_stage_shape(e, (enum st_svf_stage)s, turned, shape);
		memcpy(specs[s].shape, shape, sizeof shape);
		specs[s].name = st_arena_printf(a, "%s%s", prefix, st_svf_stage_names[s]);
		if (!specs[s].name)
			return st_fail(err, ST_ERR_NOMEM, "out of memory");
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

static void summarise(struct st_svf_stages *t, const struct piece *p)
{
	if (p->s == ST_SVF_FINAL_BF16)
		st_svf_summary_bf16(&t->summary[p->s], p->x, p->n * p->width);
	else
		st_svf_summary_f32(&t->summary[p->s], p->x, p->n * p->width);
}

static enum st_status write_piece(struct st_svf_stages *t, const struct piece *p, struct st_error *err)
{
	uint64_t size = p->s == ST_SVF_FINAL_BF16 ? 2 : 4;
	bool small = p->s == ST_SVF_OFFSETS || p->s == ST_SVF_SCALED_S || p->s == ST_SVF_NORMALIZATION;
	if (t->small_only && !small)
		return ST_OK;
	return st_svf_file_put(t->file, t->first + (size_t)p->s - (t->small_only ? ST_SVF_OFFSETS : 0),
	                       p->row0 * p->width * size, p->x, p->n * p->width * size, err);
}

#define COMPARE_ROWS ((uint64_t)1 << 20) /* elements decoded at a time */

static enum st_status compare_piece(struct st_svf_stages *t, const struct piece *p, int threads, struct st_error *err)
{
	const struct st_tensor *o = t->other[p->s];
	if (!t->shape_match[p->s])
		return ST_OK;
	uint64_t step = COMPARE_ROWS / p->width + 1;
	step = step > p->n ? p->n : step;
	float *theirs = st_alloc_array(step * p->width, sizeof *theirs),
	      *wide = st_alloc_array(step * p->width, sizeof *wide);
	enum st_status st = theirs && wide ? ST_OK : st_fail(err, ST_ERR_NOMEM, "out of memory");
	for (uint64_t r = 0; st == ST_OK && r < p->n; r += step) {
		uint64_t n = p->n - r < step ? p->n - r : step, at = (p->row0 + r) * p->width;
		const float *ours = wide;
		st_tensor_decode(o, p->row0 + r, n, theirs);
		if (p->s == ST_SVF_FINAL_BF16)
			for (uint64_t i = 0; i < n * p->width; i++)
				wide[i] = st_bf16_to_f32(((const uint16_t *)p->x)[r * p->width + i]);
		else
			ours = (const float *)p->x + r * p->width;
		st_svf_metrics_add(&t->metrics[p->s], ours, theirs, n * p->width, at, p->s == ST_SVF_FINAL_BF16,
		                   threads);
		st = st_check_cancel(err);
	}
	free(theirs);
	free(wide);
	return st;
}

static enum st_status emit(struct st_svf_stages *t, struct piece *p, size_t n, struct st_svf_engine *g,
                           struct st_error *err)
{
	double t0 = st_svf_clock();
	if (t->summaries) {
		/* A digest is one chain; the stages' chains are independent of each other. */
#pragma omp parallel for schedule(dynamic, 1) num_threads(g->threads)
		for (size_t i = 0; i < n; i++)
			summarise(t, &p[i]);
	}
	if (g->times)
		g->times->hashing += st_svf_clock() - t0;
	for (size_t i = 0; i < n; i++) {
		if (t->file)
			ST_TRY(write_piece(t, &p[i], err));
		if (t->other[p[i].s])
			ST_TRY(compare_piece(t, &p[i], g->threads, err));
	}
	return ST_OK;
}

/* ---- a whole tensor ---- */

static void check_shapes(struct st_svf_stages *t)
{
	for (size_t s = 0; s < ST_SVF_STAGES; s++) {
		const struct st_tensor *o = t->other[s];
		uint64_t shape[2] = { 0 };
		uint64_t ndim = st_svf_stage_shape(t->e, (enum st_svf_stage)s, t->turned, shape);
		t->compared[s] = o != NULL;
		/* A single number may come as a scalar. */
		t->shape_match[s] = o
		                 && ((o->ndim == ndim && o->shape[0] == shape[0]
		                      && (ndim < 2 || o->shape[1] == shape[1]))
		                     || (s == ST_SVF_NORMALIZATION && o->n_elems == 1 && o->ndim < 2));
	}
}

static enum st_status small_stages(struct st_svf_stages *t, struct st_svf_engine *g, struct st_error *err)
{
	struct piece p[] = { { ST_SVF_OFFSETS, g->offsets, 0, 1, t->e->k },
		             { ST_SVF_SCALED_S, g->scaled, 0, 1, t->e->k },
		             { ST_SVF_NORMALIZATION, &g->norm, 0, 1, 1 } };
	return emit(t, p, 3, g, err);
}

static enum st_status finals(struct st_svf_stages *t, struct st_svf_engine *g, const float *turned,
                             struct st_error *err)
{
	uint64_t n = t->e->rows * t->e->cols;
	uint16_t *bf16 = st_alloc_array(n, sizeof *bf16);
	if (!bf16)
		return st_fail(err, ST_ERR_NOMEM, "out of memory");
	for (uint64_t i = 0; i < n; i++)
		bf16[i] = st_f32_to_bf16(turned[i]);
	struct piece p[] = { { ST_SVF_FINAL_F32, turned, 0, t->e->cols, t->e->rows },
		             { ST_SVF_FINAL_BF16, bf16, 0, t->e->cols, t->e->rows } };
	enum st_status st = emit(t, p, 2, g, err);
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
		return emit(t, p, 2, g, err);
	}
	/* The same bytes as the adapted matrix: written and compared, the digest is taken over at the end. */
	ST_TRY(emit(t, p, 1, g, err));
	if (t->file)
		ST_TRY(write_piece(t, &p[1], err));
	return t->other[ST_SVF_FINAL_F32] ? compare_piece(t, &p[1], g->threads, err) : ST_OK;
}

static enum st_status blocks(struct st_svf_stages *t, struct st_svf_engine *g, float *turned, struct st_error *err)
{
	uint64_t rows = t->e->rows, cols = t->e->cols, k = t->e->k;
	for (uint64_t r = 0; r < rows; r += g->chunk) {
		uint64_t n = rows - r < g->chunk ? rows - r : g->chunk;
		ST_TRY(st_svf_engine_rows(g, r, n, err));
		struct piece p[] = { { ST_SVF_MATMUL, g->matmul, r, n, cols },
			             { ST_SVF_ZERO, g->zero, r, n, cols },
			             { ST_SVF_ADAPTED, g->adapted, r, n, cols },
			             { ST_SVF_U_SCALED, g->u_scaled, r, n, k },
			             { ST_SVF_SOURCE, g->src, r, n, cols } };
		ST_TRY(emit(t, p, sizeof p / sizeof *p, g, err));
		if (turned)
			st_svf_turn(g->adapted, n, cols, turned, r, rows, g->threads);
		else
			ST_TRY(straight(t, g, r, n, err));
		if (t->done)
			*t->done += n;
		if (t->done && t->hooks && t->hooks->progress)
			t->hooks->progress(t->hooks->user, t->e->source_name, *t->done, t->total);
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
	if (t->turned && !(turned = st_alloc_array(n, sizeof *turned)))
		return st_fail(err, ST_ERR_NOMEM, "out of memory");
	size_t s = 0;
	for (; t->summaries && s < ST_SVF_STAGES && st == ST_OK; s++)
		st = st_svf_summary_begin(&t->summary[s], 8, false, err);
	if (st == ST_OK)
		st = small_stages(t, g, err);
	if (st == ST_OK)
		st = blocks(t, g, turned, err);
	if (st == ST_OK && turned)
		st = finals(t, g, turned, err);
	for (size_t i = 0; i < s; i++)
		st_svf_summary_end(&t->summary[i]);
	if (st == ST_OK && t->summaries && !t->turned && !t->winner)
		t->summary[ST_SVF_FINAL_F32] = t->summary[ST_SVF_ADAPTED];
	for (size_t i = 0; i < ST_SVF_STAGES; i++)
		t->byte_match[i] = t->shape_match[i] && t->metrics[i].bits == 0;
	free(turned);
	return st;
}

/* ---- what came of it ---- */

bool st_svf_stages_passed(const struct st_svf_stages *t, enum st_svf_stage s)
{
	return t->compared[s] && t->shape_match[s] && st_svf_metrics_passed(&t->metrics[s], &t->profile->stage[s]);
}

json_t *st_svf_stages_checks(const struct st_svf_stages *t)
{
	json_t *list = json_array();
	for (size_t s = 0; s < ST_SVF_STAGES; s++) {
		const struct st_svf_tolerance *tol = &t->profile->stage[s];
		const struct st_svf_metrics *m = &t->metrics[s];
		char name[64];
		json_t *o = json_object(), *tolerance = json_object();
		uint64_t shape[2] = { 0 };
		uint64_t ndim = st_svf_stage_shape(t->e, (enum st_svf_stage)s, t->turned, shape);
		bool number = t->compared[s] && t->shape_match[s];
		snprintf(name, sizeof name, "stage.%s", st_svf_stage_names[s]);
		st_json_put(tolerance, "max_abs_error", json_real(tol->max_abs));
		st_json_put(tolerance, "mean_abs_error", json_real(tol->mean_abs));
		st_json_put(o, "stage", st_json_text(name));
		st_json_put(o, "required_for_functional_parity", json_boolean(tol->required));
		st_json_put(o, "byte_match", json_boolean(t->byte_match[s]));
		st_json_put(o, "shape_match", json_boolean(t->shape_match[s]));
		st_json_put(o, "max_abs_error", number ? st_json_number(m->max_abs) : json_null());
		st_json_put(o, "mean_abs_error", number ? st_json_number(st_svf_metrics_mean(m)) : json_null());
		st_json_put(o, "mismatched_element_count",
		            number ? json_integer((json_int_t)m->mismatched) : json_null());
		st_json_put(o, "tolerance", tolerance);
		st_json_put(o, "functional_passed", json_boolean(st_svf_stages_passed(t, (enum st_svf_stage)s)));
		if (t->summaries)
			st_json_put(o, "elixir", st_svf_summary_json(&t->summary[s], shape, (size_t)ndim));
		json_array_append_new(list, o);
	}
	return list;
}

json_t *st_svf_stages_digests(const struct st_svf_stages *t)
{
	json_t *all = json_object();
	for (size_t s = 0; s < ST_SVF_STAGES; s++) {
		uint64_t shape[2] = { 0 };
		uint64_t ndim = st_svf_stage_shape(t->e, (enum st_svf_stage)s, t->turned, shape);
		st_json_put(all, st_svf_stage_names[s], st_svf_summary_json(&t->summary[s], shape, (size_t)ndim));
	}
	return all;
}
