/*
 * ranges.c - what the target's types cannot hold, found before anything is written.
 *
 * A number beyond the largest of a float type would become infinite; one beyond the largest scale of a block makes the whole
 * block infinite; a NaN has no code in any block.
 */
#include "convert/ranges.h"

#include "convert/log.h"

#include <float.h>
#include <math.h>
#include <string.h>

struct found {
	uint64_t row, col; /* row UINT64_MAX: none */
	float value;
};

struct scan {
	const struct st_job *j;
	const float *given; /* the rows' numbers, or NULL: they are had row by row */
	uint64_t row0;
	float *x;       /* a row for every lane */
	uint8_t *bytes; /* an encoded row for every lane */
	uint64_t size;  /* of such a row */
	struct found first[ST_POOL_MAX];
};

/* Floats: a finite number that rounds to infinity. */
static bool float_holds(enum st_dtype t, float x)
{
	float y;
	uint8_t stored[4];
	if (!isfinite(x))
		return true; /* so it was, and so it stays */
	st_dtype_info(t)->encode(&x, stored, 1);
	st_dtype_info(t)->decode(stored, &y, 1);
	return isfinite(y);
}

/* Whether a row needs a closer look: every f16 scale reaches numbers as large as itself. */
static bool within(const float *x, uint64_t n)
{
	bool all = true;
	for (uint64_t i = 0; i < n; i++)
		all &= fabsf(x[i]) <= 65504;
	return all;
}

static uint64_t first_bad(const struct scan *s, const float *x, uint64_t cols, uint8_t *bytes)
{
	enum st_dtype t = s->j->spec.dtype;
	const struct st_dtype_info *info = st_dtype_info(t);
	if (within(x, cols))
		return UINT64_MAX;
	if (info->kind != ST_KIND_QUANT) {
		for (uint64_t i = 0; i < cols; i++)
			if (!float_holds(t, x[i]))
				return i;
		return UINT64_MAX;
	}
	for (uint64_t i = 0; i < cols; i++)
		if (!isfinite(x[i]))
			return i;
	/* One step for the whole tensor reaches any number. */
	if (t == ST_DTYPE_APR_Q8)
		return UINT64_MAX;
	/* Whole blocks; what is left over at the end of a row has the same largest number. */
	uint32_t be = info->block_elems;
	float y[ST_BLOCK_MOST], block[ST_BLOCK_MOST];
	for (uint64_t at = 0; at < cols; at += be) {
		uint64_t n = cols - at < be ? cols - at : be, worst = 0;
		memset(block, 0, sizeof block);
		memcpy(block, x + at, (size_t)n * sizeof *block);
		st_dtype_encode(t, block, s->j->importance && n == be ? s->j->importance + at : NULL, bytes, be);
		info->decode(bytes, y, be);
		for (uint64_t i = 0; i < n; i++)
			worst = fabsf(block[i]) > fabsf(block[worst]) ? i : worst;
		for (uint64_t i = 0; i < n; i++)
			if (!isfinite(y[i]))
				return at + worst;
		/* Encoders that search for a scale find none for such a number, and write zeros. */
		if (fabsf(block[worst]) > st_dtype_largest(t))
			return at + worst;
	}
	return UINT64_MAX;
}

static void look(struct scan *s, unsigned lane, uint64_t row, const float *x)
{
	uint64_t cols = st_spec_cols(&s->j->spec);
	struct found *f = &s->first[lane];
	if (row >= f->row)
		return;
	uint8_t block[ST_BLOCK_BYTES_MOST];
	uint64_t c = first_bad(s, x, cols, block);
	if (c != UINT64_MAX)
		*f = (struct found){ row, c, x[c] };
}

static void scan_rows(void *ctx, unsigned lane, uint64_t begin, uint64_t end)
{
	struct scan *s = ctx;
	uint64_t cols = st_spec_cols(&s->j->spec);
	for (uint64_t i = begin; i < end && !st_cancelled(); i++) {
		float *x = s->x + lane * cols;
		if (!s->given)
			st_job_row(s->j, s->row0 + i, x);
		look(s, lane, s->row0 + i, s->given ? s->given + i * cols : x);
	}
}

/* A copy whose blocks' scales are multiplied. */
static void scan_scaled(void *ctx, unsigned lane, uint64_t begin, uint64_t end)
{
	struct scan *s = ctx;
	const struct st_tensor *t = s->j->src[0];
	uint64_t cols = st_spec_cols(&s->j->spec);
	for (uint64_t i = begin; i < end && !st_cancelled(); i++) {
		float *x = s->x + lane * cols;
		uint8_t *bytes = s->bytes + lane * s->size;
		st_job_row_bytes(s->j, i, bytes);
		st_dtype_info(t->dtype)->decode(bytes, x, (size_t)cols);
		for (uint64_t c = 0; c < cols && i < s->first[lane].row; c++)
			if (!isfinite(x[c]))
				s->first[lane] = (struct found){ i, c, x[c] };
	}
}

static enum st_status report(const struct st_job *j, const struct found *f, struct st_error *err)
{
	double largest = st_dtype_largest(j->spec.dtype);
	const char *type = st_dtype_info(j->spec.dtype)->name;
	if (!isfinite(f->value))
		return st_fail_at(err, ST_ERR_UNSUPPORTED, ST_NO_OFFSET, j->spec.name,
		                  "row %llu, column %llu is %s, and %s has no code for it; nothing was written",
		                  (unsigned long long)f->row, (unsigned long long)f->col,
		                  isnan(f->value) ? "NaN"
		                  : f->value > 0  ? "infinite"
		                                  : "minus infinity",
		                  type);
	return st_fail_at(err, ST_ERR_UNSUPPORTED, ST_NO_OFFSET, j->spec.name,
	                  "row %llu, column %llu is %g, and the largest that %s holds is %g; nothing was written",
	                  (unsigned long long)f->row, (unsigned long long)f->col, (double)f->value, type, largest);
}

/* The stored type holds nothing that the target does not. */
static bool cannot_overflow(const struct st_job *j)
{
	enum st_dtype to = j->spec.dtype;
	if (j->gain != 1 || j->offset != 0)
		return false;
	if (j->kind == ST_JOB_COPY || j->raw || to == ST_DTYPE_F32)
		return true;
	enum st_dtype from = j->src[0] ? j->src[0]->dtype : ST_DTYPE_F32;
	return st_dtype_info(to)->kind == ST_KIND_FLOAT && (from == ST_DTYPE_F16 || to == from);
}

static enum st_status check_job(const struct st_job *j, struct st_pool *pool, struct st_error *err)
{
	uint64_t rows = st_spec_rows(&j->spec), cols = st_spec_cols(&j->spec), step = st_job_step(j);
	bool copy = j->kind == ST_JOB_COPY, by_rows = st_job_by_rows(j);
	struct scan s = { .j = j, .size = copy ? j->src[0]->row_bytes : 0 };
	if (cannot_overflow(j) || (copy && (j->spec.ndim < 2 || j->spec.dtype == ST_DTYPE_APR_Q8)))
		return ST_OK;
	for (unsigned i = 0; i < ST_POOL_MAX; i++)
		s.first[i].row = UINT64_MAX;
	float *given = by_rows ? NULL : st_alloc_array2(step, cols, sizeof *given);
	s.x = st_alloc_array2(st_pool_threads(pool), cols, sizeof *s.x);
	s.bytes = copy ? st_alloc_array2(st_pool_threads(pool), s.size, 1) : NULL;
	enum st_status st = s.x && (s.bytes || !copy) && (given || by_rows) ? ST_OK : st_no_memory(err);
	for (uint64_t r = 0; st == ST_OK && r < rows; r += by_rows ? rows : step) {
		uint64_t n = by_rows ? rows : rows - r < step ? rows - r : step;
		s.row0 = r;
		s.given = given;
		if (given)
			st = st_job_floats(j, r, n, given, pool, err);
		if (st == ST_OK)
			st_pool_each(pool, n, cols * 2, copy ? scan_scaled : scan_rows, &s);
		if (st == ST_OK)
			st = st_check_cancel(err);
	}
	struct found first = { .row = UINT64_MAX };
	for (unsigned i = 0; i < ST_POOL_MAX; i++)
		first = s.first[i].row < first.row ? s.first[i] : first;
	free(given);
	free(s.x);
	free(s.bytes);
	return st == ST_OK && first.row != UINT64_MAX ? report(j, &first, err) : st;
}

enum st_status st_check_ranges(const struct st_plan *plan, struct st_pool *pool, struct st_error *err)
{
	for (size_t i = 0; i < plan->n; i++)
		ST_TRY(check_job(&plan->jobs[i], pool, err));
	return ST_OK;
}
