/*
 * stats.c - moments, extremes and constant rows of one stored tensor, streamed.
 *
 * The tensor is cut into pieces of at most PIECE elements: whole rows, or parts of one long
 * row. Pieces are decoded and summed independently, on any thread, and combined in order, so
 * the result is the same for every number of threads.
 */
#include <stele/inspect.h>

#include "base/error.h"
#include "base/mem.h"
#include "base/pool.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define PIECE (UINT64_C(1) << 16)
#define LANES 8
#define BATCH 256 /* pieces between two looks at progress and cancellation */

struct piece {
	uint64_t finite, n_nan, n_inf;
	double min, max, mean, m2;                  /* m2: sum of squared distances from mean */
	double first;                               /* first element, as decoded */
	bool constant;                              /* all elements of the piece are equal */
	uint64_t constant_rows, first_constant_row; /* of a piece of whole rows */
};

/* How a tensor is cut. Either each piece is `rows` whole rows, or `per_row` pieces make a row. */
struct cut {
	uint64_t rows, cols;
	uint64_t piece_rows; /* 0: rows are cut */
	uint64_t per_row;    /* 1 when rows are not cut */
	uint64_t part;       /* elements of a part of a row, a multiple of the type's block */
	uint64_t n_pieces;
};

static struct cut cut_tensor(const struct st_tensor *t)
{
	struct cut c = { .rows = st_tensor_rows(t), .cols = st_tensor_cols(t), .per_row = 1 };
	if (t->n_elems == 0)
		return c;
	if (c.cols <= PIECE) {
		c.piece_rows = PIECE / c.cols;
		c.n_pieces = st_ceil_div(c.rows, c.piece_rows);
		return c;
	}
	/* A flat tensor's rows may begin inside a block; cut long, it is one row. */
	if (t->layout == ST_LAYOUT_FLAT) {
		c.cols = t->n_elems;
		c.rows = 1;
	}
	c.part = PIECE; /* every block length divides it */
	c.per_row = st_ceil_div(c.cols, c.part);
	c.n_pieces = c.rows * c.per_row;
	return c;
}

/* Part p of the row that begins at element row * cols, as a tensor of one row. */
static struct st_tensor part_of(const struct st_tensor *t, const struct cut *c, uint64_t row, uint64_t p)
{
	const struct st_dtype_info *d = st_dtype_info(t->dtype);
	struct st_tensor s = *t;
	uint64_t begin = p * c->part, left = c->cols - begin;
	s.ndim = 1;
	s.shape[0] = s.n_elems = left < c->part ? left : c->part;
	if (t->layout == ST_LAYOUT_STRIDED) {
		/* Offsets of the leading dimensions, innermost first. */
		int64_t off = (int64_t)begin * t->strides[t->ndim - 1];
		for (uint32_t i = t->ndim - 1; i-- > 0;) {
			off += (int64_t)(row % t->shape[i]) * t->strides[i];
			row /= t->shape[i];
		}
		s.data = t->data + off * (int64_t)d->block_bytes;
		s.strides[0] = t->strides[t->ndim - 1];
	} else {
		uint64_t row_bytes = t->layout == ST_LAYOUT_ROWS ? t->row_bytes : 0;
		s.data = t->data + row * row_bytes + begin / d->block_elems * d->block_bytes;
		s.layout = ST_LAYOUT_ROWS;
		s.row_bytes = s.n_bytes = st_ceil_div(s.n_elems, d->block_elems) * d->block_bytes;
	}
	return s;
}

/* x: n floats, or doubles when wide. Written once for both; `wide` is a constant in each caller. */
static inline __attribute__((always_inline)) void sum_up(const void *x, bool wide, uint64_t n, struct piece *p)
{
	const float *f = x;
	const double *d = x;
	double min[LANES], max[LANES], sum[LANES] = { 0 };
	uint64_t finite[LANES] = { 0 };
	for (int l = 0; l < LANES; l++) {
		min[l] = INFINITY;
		max[l] = -INFINITY;
	}
	uint64_t body = n - n % LANES;
	for (uint64_t i = 0; i < n; i += LANES) {
		int lanes = i < body ? LANES : (int)(n - body);
		for (int l = 0; l < lanes; l++) {
			double v = wide ? d[i + (uint64_t)l] : (double)f[i + (uint64_t)l];
			bool ok = fabs(v) <= 0x1.fffffffffffffp1023;
			double w = ok ? v : 0;
			sum[l] += w;
			finite[l] += ok;
			min[l] = ok && v < min[l] ? v : min[l];
			max[l] = ok && v > max[l] ? v : max[l];
		}
	}
	double total = 0;
	p->min = INFINITY;
	p->max = -INFINITY;
	for (int l = 0; l < LANES; l++) {
		total += sum[l];
		p->finite += finite[l];
		p->min = min[l] < p->min ? min[l] : p->min;
		p->max = max[l] > p->max ? max[l] : p->max;
	}
	p->mean = p->finite ? total / (double)p->finite : 0;
	double m2[LANES] = { 0 };
	for (uint64_t i = 0; i < n; i += LANES) {
		int lanes = i < body ? LANES : (int)(n - body);
		for (int l = 0; l < lanes; l++) {
			double v = wide ? d[i + (uint64_t)l] : (double)f[i + (uint64_t)l];
			bool ok = fabs(v) <= 0x1.fffffffffffffp1023;
			double e = ok ? v - p->mean : 0;
			m2[l] += e * e;
		}
	}
	for (int l = 0; l < LANES; l++)
		p->m2 += m2[l];
	for (uint64_t i = 0; p->finite + p->n_nan + p->n_inf < n && i < n; i++) {
		double v = wide ? d[i] : (double)f[i];
		p->n_nan += isnan(v) != 0;
		p->n_inf += isinf(v) != 0;
	}
}

static double element(const void *x, bool wide, uint64_t i)
{
	return wide ? ((const double *)x)[i] : (double)((const float *)x)[i];
}

static bool all_equal(const void *x, bool wide, uint64_t n)
{
	for (uint64_t i = 1; i < n; i++)
		if (!(element(x, wide, i) == element(x, wide, 0)))
			return false;
	return n > 0 && !isnan(element(x, wide, 0));
}

/* Integers beyond 2^24 and F64 do not fit f32. */
static bool needs_f64(const struct st_tensor *t)
{
	return t->dtype == ST_DTYPE_F64 || st_dtype_info(t->dtype)->kind == ST_KIND_INT;
}

static void do_piece(const struct st_tensor *t, const struct cut *c, uint64_t i, void *buf, struct piece *p)
{
	bool wide = needs_f64(t), whole = c->piece_rows != 0;
	struct st_tensor part;
	uint64_t row0 = whole ? i * c->piece_rows : 0, n_rows = 1, cols = c->cols;
	const struct st_tensor *src = t;
	if (whole) {
		n_rows = c->rows - row0 < c->piece_rows ? c->rows - row0 : c->piece_rows;
	} else {
		part = part_of(t, c, i / c->per_row, i % c->per_row);
		src = &part;
		cols = part.n_elems;
	}
	if (wide)
		st_tensor_decode_f64(src, row0, n_rows, buf);
	else
		st_tensor_decode(src, row0, n_rows, buf);
	uint64_t n = n_rows * cols;
	if (wide)
		sum_up(buf, true, n, p);
	else
		sum_up(buf, false, n, p);
	if (n == 0)
		return;
	p->first = element(buf, wide, 0);
	p->constant = all_equal(buf, wide, n);
	for (uint64_t r = 0; whole && cols > 1 && r < n_rows; r++) {
		const char *row = (const char *)buf + r * cols * (wide ? sizeof(double) : sizeof(float));
		if (!all_equal(row, wide, cols))
			continue;
		if (p->constant_rows++ == 0)
			p->first_constant_row = row0 + r;
	}
}

static void combine(const struct piece *pieces, const struct cut *c, struct st_tensor_stats *out)
{
	uint64_t finite = 0;
	double mean = 0, m2 = 0;
	out->min = INFINITY;
	out->max = -INFINITY;
	out->constant = c->rows * c->cols > 1;
	bool row_constant = true;
	for (uint64_t i = 0; i < c->n_pieces; i++) {
		const struct piece *p = &pieces[i];
		out->n_nan += p->n_nan;
		out->n_inf += p->n_inf;
		out->min = p->min < out->min ? p->min : out->min;
		out->max = p->max > out->max ? p->max : out->max;
		out->constant &= p->constant && p->first == pieces[0].first;
		if (p->finite) { /* Chan, Golub and LeVeque: moments of two sets from the moments of each */
			double d = p->mean - mean, a = (double)finite, b = (double)p->finite;
			mean += d * b / (a + b);
			m2 += p->m2 + d * d * a * b / (a + b);
			finite += p->finite;
		}
		uint64_t rows_here = p->constant_rows, first = p->first_constant_row;
		if (!c->piece_rows) {
			uint64_t part = i % c->per_row;
			row_constant = (part == 0 || row_constant) && p->constant && p->first == pieces[i - part].first;
			rows_here = part + 1 == c->per_row && row_constant;
			first = i / c->per_row;
		}
		if (rows_here && out->constant_rows == 0)
			out->first_constant_row = first;
		out->constant_rows += rows_here;
	}
	out->mean = finite ? mean : NAN;
	out->std = finite ? sqrt(m2 / (double)finite) : NAN;
	if (!finite)
		out->min = out->max = NAN;
}

struct pieces {
	const struct st_tensor *t;
	const struct cut *c;
	uint64_t first;
	double *bufs; /* PIECE elements for every lane */
	struct piece *pieces;
};

static void do_pieces(void *ctx, unsigned lane, uint64_t begin, uint64_t end)
{
	const struct pieces *k = ctx;
	for (uint64_t i = k->first + begin; i < k->first + end; i++)
		do_piece(k->t, k->c, i, k->bufs + lane * PIECE, &k->pieces[i]);
}

enum st_status st_tensor_stats_of(const struct st_tensor *t, struct st_pool *pool, const struct st_hooks *hooks,
                                  struct st_tensor_stats *out, struct st_error *err)
{
	memset(out, 0, sizeof *out);
	struct cut c = cut_tensor(t);
	struct piece *pieces = st_alloc_zeroed(c.n_pieces, sizeof *pieces);
	double *bufs = st_alloc_array2(st_pool_threads(pool), PIECE, sizeof *bufs);
	enum st_status st = ST_OK;
	if (!pieces || !bufs) {
		st = st_fail_at(err, ST_ERR_NOMEM, ST_NO_OFFSET, t->name, "out of memory for statistics");
		goto out;
	}
	for (uint64_t first = 0; first < c.n_pieces; first += BATCH) {
		uint64_t end = c.n_pieces - first < BATCH ? c.n_pieces : first + BATCH;
		struct pieces k = { t, &c, first, bufs, pieces };
		st_pool_run(pool, end - first, 1, do_pieces, &k);
		ST_TRY_OUT(st_check_cancel(err));
		if (hooks && hooks->progress)
			hooks->progress(hooks->user, t->name,
			                (uint64_t)((double)t->n_bytes * (double)end / (double)c.n_pieces), t->n_bytes);
	}
	ST_TRY_OUT(st_check_cancel(err));
	combine(pieces, &c, out);
out:
	free(bufs);
	free(pieces);
	return st;
}
