/* stream.c - rows out of a job: as bytes, as numbers, and into a file. */
#include "convert/job.h"

#include "dtype/aprq.h"
#include "dtype/blocks.h"
#include "dtype/half.h"
#include "base/cursor.h"
#include "graph/graph.h"
#include "kernel/kernel.h"

#include <stdlib.h>
#include <string.h>

#define PIECE ((uint64_t)4 << 20)  /* bytes that are copied at once */
#define FLOATS ((uint64_t)4 << 20) /* numbers that are held at once */
#define DENSE ((uint64_t)12 << 20) /* the same where every pass reads the whole tensor */

/* ---- bytes ---- */

static void scale_factor(uint8_t *at, double gain)
{
	uint16_t h = st_f32_to_f16((float)(gain * (double)st_f16_to_f32(st_load_u16(at))));
	memcpy(at, &h, sizeof h);
}

static void edit_blocks(const struct st_job *j, uint8_t *row, uint64_t n_bytes)
{
	const struct st_geometry *g = st_dtype_geometry(j->spec.dtype);
	uint32_t size = st_dtype_info(j->spec.dtype)->block_bytes;
	for (uint8_t *b = row; b < row + n_bytes; b += size) {
		if (j->gain != 1 && g->factor == ST_FACTOR_F16) {
			scale_factor(b + g->d_at, j->gain);
			/* The sum in a block of Q8_1 is a multiple of its scale as well. */
			int second = j->spec.dtype == ST_DTYPE_Q8_1 ? (int)offsetof(struct st_block_q8_1, s) : g->m_at;
			if (second >= 0)
				scale_factor(b + second, j->gain);
		}
		if (j->order != ST_CODES_OWN)
			st_block_reorder(j->spec.dtype, b, j->order);
	}
}

static bool edits(const struct st_job *j)
{
	return (j->gain != 1 && j->spec.dtype != ST_DTYPE_APR_Q8) || j->order != ST_CODES_OWN;
}

/* Stored row r of the sources together. */
static const uint8_t *stored_row(const struct st_job *j, uint64_t r)
{
	uint64_t first = j->src[1] ? st_tensor_rows(j->src[0]) : UINT64_MAX;
	const struct st_tensor *t = r < first ? j->src[0] : j->src[1];
	return t->data + (r < first ? r : r - first) * t->row_bytes;
}

void st_job_row_bytes(const struct st_job *j, uint64_t row, uint8_t *dst)
{
	const struct st_tensor *t = j->src[0];
	if (j->spec.ndim < 2 && j->map) {
		uint32_t size = st_dtype_info(t->dtype)->block_bytes;
		for (uint64_t i = 0; i < st_spec_cols(&j->spec); i++)
			memcpy(dst + i * size, t->data + j->map[i] * size, size);
		return;
	}
	memcpy(dst, stored_row(j, j->map ? j->map[row] : row), (size_t)t->row_bytes);
	edit_blocks(j, dst, t->row_bytes);
}

/* ---- numbers ---- */

static void affine(const struct st_job *j, float *x, uint64_t n)
{
	if (j->gain == 1 && j->offset == 0)
		return;
	for (uint64_t i = 0; i < n; i++)
		x[i] = (float)(j->gain * x[i] + j->offset);
}

/* Elements of a vector in any order. */
static enum st_status vector_floats(const struct st_job *j, float *dst, struct st_error *err)
{
	uint64_t n = st_spec_cols(&j->spec);
	st_tensor_decode(j->src[0], 0, 1, dst);
	if (j->map) {
		float *x = st_alloc_array(n, sizeof *x);
		if (!x)
			return st_no_memory(err);
		memcpy(x, dst, (size_t)n * sizeof *x);
		for (uint64_t i = 0; i < n; i++)
			dst[i] = x[j->map[i]];
		free(x);
	}
	affine(j, dst, n);
	return ST_OK;
}

/* Output rows of a matrix that lies transposed. Every stored row is decoded once for each piece of the output, and its
 * elements are dropped where they belong. Here `map` is the output row of each row of the graph's basis. */
struct transposed {
	const struct st_job *j;
	uint64_t row0, count; /* of the output */
	float *dst;
	float *buf; /* a stored row for every lane */
};

static void drop_rows(void *ctx, unsigned lane, uint64_t begin, uint64_t end)
{
	const struct transposed *t = ctx;
	const struct st_job *j = t->j;
	uint64_t rows = st_spec_rows(&j->spec), cols = st_spec_cols(&j->spec);
	uint64_t stored_cols = st_tensor_cols(j->from.tensor);
	float *x = t->buf + lane * stored_cols;
	for (uint64_t r = begin; r < end && !st_cancelled(); r++) {
		st_weight_decode(&j->from, r, 1, x);
		for (uint64_t c = 0; c < stored_cols; c++) {
			uint64_t f = r * stored_cols + c, n = f % rows, o = j->map ? j->map[n] : n;
			if (o >= t->row0 && o - t->row0 < t->count)
				t->dst[(o - t->row0) * cols + f / rows] = x[c];
		}
	}
}

static enum st_status transposed_floats(const struct st_job *j, uint64_t row0, uint64_t count, float *dst,
                                        struct st_pool *pool, struct st_error *err)
{
	uint64_t stored_rows = st_tensor_rows(j->from.tensor), stored_cols = st_tensor_cols(j->from.tensor);
	float *buf = st_alloc_array2(st_pool_threads(pool), stored_cols, sizeof *buf);
	if (!buf)
		return st_no_memory(err);
	struct transposed t = { j, row0, count, dst, buf };
	st_pool_each(pool, stored_rows, stored_cols * 8, drop_rows, &t);
	free(buf);
	return st_check_cancel(err);
}

/* Of a turned one: rows of each matrix of the output. */
static uint64_t rows_of_one(const struct st_job *j)
{
	uint64_t cols = st_spec_cols(&j->spec), matrices = cols ? j->n_rows / cols : 0;
	return matrices ? st_spec_rows(&j->spec) / matrices : 0;
}

/* A piece of the output whose columns are rows of weights, of one matrix or of a stack. */
static void drop_columns(void *ctx, unsigned lane, uint64_t begin, uint64_t end)
{
	const struct transposed *t = ctx;
	const struct st_job *j = t->j;
	uint64_t cols = st_spec_cols(&j->spec), rows = rows_of_one(j);
	float *x = t->buf + lane * rows;
	for (uint64_t c = begin; c < end && !st_cancelled(); c++) {
		uint64_t first = c / cols * rows, from = t->row0 > first ? t->row0 : first, behind = t->row0 + t->count;
		if (from >= first + rows || first >= behind)
			continue;
		st_weight_decode(j->rows[c].w, j->rows[c].row, 1, x);
		for (uint64_t r = from; r < first + rows && r < behind; r++)
			t->dst[(r - t->row0) * cols + c % cols] = x[r - first];
	}
}

static enum st_status turned_floats(const struct st_job *j, uint64_t row0, uint64_t count, float *dst,
                                    struct st_pool *pool, struct st_error *err)
{
	uint64_t rows = rows_of_one(j);
	float *buf = st_alloc_array2(st_pool_threads(pool), rows, sizeof *buf);
	if (!buf)
		return st_no_memory(err);
	struct transposed t = { j, row0, count, dst, buf };
	st_pool_each(pool, j->n_rows, rows * 8, drop_columns, &t);
	free(buf);
	return st_check_cancel(err);
}

bool st_job_by_rows(const struct st_job *j)
{
	if (j->kind == ST_JOB_GATHER)
		return !j->turned;
	return j->spec.ndim >= 2 && (j->kind == ST_JOB_COPY || j->kind == ST_JOB_ENCODE);
}

float st_stored_form(bool less_one, bool logarithm, float x)
{
	return logarithm ? (float)st_log(-(double)x) : less_one ? x - 1 : x;
}

void st_job_row(const struct st_job *j, uint64_t row, float *dst)
{
	if (j->kind == ST_JOB_GATHER) {
		const struct st_job_row *from = &j->rows[row];
		st_weight_decode(from->w, from->row, 1, dst);
		for (uint64_t i = 0; (j->less_one || j->logarithm) && i < st_spec_cols(&j->spec); i++)
			dst[i] = st_stored_form(j->less_one, j->logarithm, dst[i]);
		return;
	}
	uint64_t first = j->src[1] ? st_tensor_rows(j->src[0]) : UINT64_MAX, r = j->map ? j->map[row] : row;
	st_tensor_decode(r < first ? j->src[0] : j->src[1], r < first ? r : r - first, 1, dst);
	affine(j, dst, st_spec_cols(&j->spec));
}

/* Rows of a piece, row0 first, to dst: as floats or as bytes, `size` of them a row. */
struct rows_out {
	const struct st_job *j;
	uint64_t row0, size;
	float *x;
	uint8_t *bytes;
	float scale;                /* AprQ8: of the whole tensor */
	float largest[ST_POOL_MAX]; /* of every lane */
};

static void floats_of_rows(void *ctx, unsigned lane, uint64_t begin, uint64_t end)
{
	const struct rows_out *o = ctx;
	(void)lane;
	for (uint64_t i = begin; i < end && !st_cancelled(); i++)
		st_job_row(o->j, o->row0 + i, o->x + i * o->size);
}

enum st_status st_job_floats(const struct st_job *j, uint64_t row0, uint64_t n, float *dst, struct st_pool *pool,
                             struct st_error *err)
{
	uint64_t cols = st_spec_cols(&j->spec);
	if (j->kind == ST_JOB_VALUES) {
		memcpy(dst, j->values + row0 * cols, (size_t)(n * cols) * sizeof *dst);
		return ST_OK;
	}
	if (j->kind == ST_JOB_TRANSPOSE)
		return transposed_floats(j, row0, n, dst, pool, err);
	if (j->kind == ST_JOB_GATHER && j->turned)
		return turned_floats(j, row0, n, dst, pool, err);
	if (j->spec.ndim < 2)
		return vector_floats(j, dst, err);
	struct rows_out o = { .j = j, .row0 = row0, .size = cols, .x = dst };
	st_pool_each(pool, n, cols * 2, floats_of_rows, &o);
	return st_check_cancel(err);
}

uint64_t st_job_step(const struct st_job *j)
{
	uint64_t cols = st_spec_cols(&j->spec), rows = st_spec_rows(&j->spec);
	uint64_t n = (j->kind == ST_JOB_TRANSPOSE || j->turned ? DENSE : FLOATS) / (cols ? cols : 1);
	n = n < 32 ? 32 : n / 32 * 32; /* so that blocks over the flat tensor begin with a piece */
	return n < rows ? n : rows ? rows : 1;
}

/* ---- into the file ---- */

static enum st_status write_bytes(const uint8_t *p, uint64_t n, struct st_writer *w, struct st_error *err)
{
	for (uint64_t at = 0; at < n; at += PIECE) {
		ST_TRY(st_check_cancel(err));
		ST_TRY(st_writer_append(w, p + at, (size_t)(n - at < PIECE ? n - at : PIECE), err));
	}
	return ST_OK;
}

static void bytes_of_rows(void *ctx, unsigned lane, uint64_t begin, uint64_t end)
{
	const struct rows_out *o = ctx;
	(void)lane;
	for (uint64_t i = begin; i < end; i++)
		st_job_row_bytes(o->j, o->row0 + i, o->bytes + i * o->size);
}

static enum st_status write_copy(const struct st_job *j, struct st_writer *w, struct st_pool *pool,
                                 struct st_error *err)
{
	const struct st_tensor *t = j->src[0];
	if (t->dtype == ST_DTYPE_APR_Q8) {
		float scale = (float)(j->gain * t->scale);
		ST_TRY(st_writer_append(w, &scale, sizeof scale, err));
	}
	if (!j->map && !edits(j))
		return write_bytes(t->data, t->n_bytes, w, err);
	uint64_t rows = st_spec_rows(&j->spec), size = t->row_bytes, step = size ? PIECE / size : 1;
	step = step == 0 ? 1 : step < rows ? step : rows;
	uint8_t *buf = st_alloc_array(step, size);
	if (!buf)
		return st_no_memory(err);
	enum st_status st = ST_OK;
	for (uint64_t r = 0; r < rows && st == ST_OK; r += step) {
		uint64_t n = rows - r < step ? rows - r : step;
		struct rows_out o = { .j = j, .row0 = r, .size = size, .bytes = buf };
		st_pool_each(pool, n, size, bytes_of_rows, &o);
		st = st_check_cancel(err);
		if (st == ST_OK)
			st = st_writer_append(w, buf, (size_t)(n * size), err);
	}
	free(buf);
	return st;
}

static void largest_of_rows(void *ctx, unsigned lane, uint64_t begin, uint64_t end)
{
	struct rows_out *o = ctx;
	for (uint64_t i = begin; i < end; i++)
		o->largest[lane] = st_apr_q8_largest(o->largest[lane], o->x + i * o->size, (size_t)o->size);
}

static void codes_of_rows(void *ctx, unsigned lane, uint64_t begin, uint64_t end)
{
	const struct rows_out *o = ctx;
	(void)lane;
	for (uint64_t i = begin; i < end; i++)
		st_apr_q8_encode(o->x + i * o->size, (size_t)o->size, o->scale, (int8_t *)o->bytes + i * o->size);
}

/* Blocks are encoded one by one, so how threads share them changes nothing. */
static void encode_blocks(void *ctx, unsigned lane, uint64_t begin, uint64_t end)
{
	const struct rows_out *o = ctx;
	const struct st_dtype_info *info = st_dtype_info(o->j->spec.dtype);
	(void)lane;
	info->encode(o->x + begin * info->block_elems, o->bytes + begin * info->block_bytes,
	             (size_t)((end - begin) * info->block_elems));
}

/* The largest magnitude of the tensor: the scale of AprQ8 is in front of the numbers. */
static enum st_status write_scale(const struct st_job *j, float *x, float *scale, struct st_writer *w,
                                  struct st_pool *pool, struct st_error *err)
{
	uint64_t rows = st_spec_rows(&j->spec), cols = st_spec_cols(&j->spec), step = st_job_step(j);
	struct rows_out o = { .size = cols, .x = x };
	float largest = 0;
	for (uint64_t r = 0; r < rows; r += step) {
		uint64_t n = rows - r < step ? rows - r : step;
		ST_TRY(st_check_cancel(err));
		ST_TRY(st_job_floats(j, r, n, x, pool, err));
		st_pool_each(pool, n, cols, largest_of_rows, &o);
	}
	for (unsigned i = 0; i < ST_POOL_MAX; i++)
		largest = o.largest[i] > largest ? o.largest[i] : largest;
	*scale = st_apr_q8_scale(largest);
	return st_writer_append(w, scale, sizeof *scale, err);
}

static enum st_status write_numbers(const struct st_job *j, struct st_writer *w, struct st_pool *pool,
                                    struct st_error *err)
{
	const struct st_dtype_info *info = st_dtype_info(j->spec.dtype);
	uint64_t rows = st_spec_rows(&j->spec), cols = st_spec_cols(&j->spec), step = st_job_step(j),
		 be = info->block_elems;
	uint64_t most = st_ceil_div(step * cols, be) * be; /* a ragged end is filled up with zeros */
	float *x = st_alloc_array(most, sizeof *x), scale = 1;
	uint8_t *buf = st_alloc_array(most / be, info->block_bytes);
	enum st_status st = x && buf ? ST_OK : st_no_memory(err);
	if (st == ST_OK && j->spec.dtype == ST_DTYPE_APR_Q8)
		st = write_scale(j, x, &scale, w, pool, err);
	for (uint64_t r = 0; r < rows && st == ST_OK; r += step) {
		uint64_t n = rows - r < step ? rows - r : step, blocks = st_ceil_div(n * cols, be);
		memset(x + n * cols, 0, (size_t)(blocks * be - n * cols) * sizeof *x);
		st = st_job_floats(j, r, n, x, pool, err);
		if (st != ST_OK)
			break;
		struct rows_out o = { .j = j, .size = cols, .x = x, .bytes = buf, .scale = scale };
		if (j->spec.dtype == ST_DTYPE_APR_Q8)
			st_pool_each(pool, n, cols * 4, codes_of_rows, &o);
		else
			st_pool_each(pool, blocks, be * 16, encode_blocks, &o);
		st = st_check_cancel(err);
		if (st == ST_OK)
			st = st_writer_append(w, buf, (size_t)(blocks * info->block_bytes), err);
	}
	free(x);
	free(buf);
	return st;
}

/* Rows of whole blocks: each thread decodes and encodes its own; x holds a row for every lane. */
static void encode_rows(void *ctx, unsigned lane, uint64_t begin, uint64_t end)
{
	const struct rows_out *o = ctx;
	uint64_t cols = st_spec_cols(&o->j->spec);
	float *row = o->x + lane * cols;
	for (uint64_t i = begin; i < end && !st_cancelled(); i++) {
		if (o->j->raw) {
			const struct st_job_row *from = &o->j->rows[o->row0 + i];
			const struct st_tensor *t = from->w->tensor;
			memcpy(o->bytes + i * o->size,
			       t->data + st_weight_stored_row(from->w, from->row) * t->row_bytes, (size_t)o->size);
			continue;
		}
		st_job_row(o->j, o->row0 + i, row);
		st_dtype_encode(o->j->spec.dtype, row, o->j->importance, o->bytes + i * o->size, (size_t)cols);
	}
}

static enum st_status write_rows(const struct st_job *j, struct st_writer *w, struct st_pool *pool,
                                 struct st_error *err)
{
	const struct st_dtype_info *info = st_dtype_info(j->spec.dtype);
	uint64_t rows = st_spec_rows(&j->spec), cols = st_spec_cols(&j->spec),
		 size = cols / info->block_elems * info->block_bytes;
	uint64_t step = size ? 4 * PIECE / size : 1;
	step = step == 0 ? 1 : step < rows ? step : rows;
	float *x = st_alloc_array2(st_pool_threads(pool), cols, sizeof *x);
	uint8_t *buf = st_alloc_array(step, size);
	enum st_status st = x && buf ? ST_OK : st_no_memory(err);
	for (uint64_t r = 0; r < rows && st == ST_OK; r += step) {
		uint64_t n = rows - r < step ? rows - r : step;
		struct rows_out o = { .j = j, .row0 = r, .size = size, .x = x, .bytes = buf };
		st_pool_each(pool, n, cols * 16, encode_rows, &o);
		st = st_check_cancel(err);
		if (st == ST_OK)
			st = st_writer_append(w, buf, (size_t)(n * size), err);
	}
	free(x);
	free(buf);
	return st;
}

enum st_status st_job_write(const struct st_job *j, struct st_writer *w, struct st_pool *pool, struct st_error *err)
{
	if (j->kind == ST_JOB_COPY)
		return write_copy(j, w, pool, err);
	bool whole = st_spec_cols(&j->spec) % st_dtype_info(j->spec.dtype)->block_elems == 0
	          && j->spec.dtype != ST_DTYPE_APR_Q8;
	return st_job_by_rows(j) && whole ? write_rows(j, w, pool, err) : write_numbers(j, w, pool, err);
}
