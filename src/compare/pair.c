#include "compare/pair.h"

#include "base/error.h"
#include "base/mem.h"
#include "compare/noise.h"
#include "compare/sums.h"

#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/*
 * The limits of noise. A row's residual is a sum of many small errors, so it stays near its
 * prediction; encoders differ in how well they choose scales, which is what the factors leave
 * room for: a plain rounding encoder is within 1.4 of a searching one, and one that weighs
 * elements by importance spends a block on the few that matter and clips the rest. Over a whole
 * tensor that was seen to cost a factor of 2.2; over a row of few blocks more, hence the second term.
 */
#define ROW_FACTOR 5.0
#define ROW_FACTOR_BLOCKS 5.0
#define TOTAL_FACTOR 3.0
/* Where most rows are equal to the last bit one encoder wrote both sides: what differs then is not its choice of
 * scales. */
#define ROW_FACTOR_AMID_EQUAL 2.0
/*
 * Noise leaves a row pointing where it did. One that does not, and differs by more than coarse
 * types explain, is another row: factors alone would let that pass in types of 2 and 3 bits.
 */
#define ROW_COSINE 0.5
#define ROW_FACTOR_ASTRAY 2.0
/*
 * A gain is structure when it is many standard errors from 1, and more than storing can cause
 * by itself: a quantiser that minimises the error leaves a slope of 1 - (relative error)^2,
 * and where the same value or row stands many times, or one element is most of a row, its rounding
 * error is the whole error: half a step, for float types up to 2.35 times their RMS on each side.
 */
#define GAIN_SIGMAS 8.0
#define GAIN_SHRINK 4.0
#define GAIN_COHERENT_FLOAT 3.0
#define GAIN_COHERENT_BLOCK 0.5
#define GAIN_COHERENT_MXFP4 2.9 /* scales are powers of two: 8 steps of a block come out as 6 */
#define ROW_GAIN_BLOCKS 2.5
/*
 * Clipping makes a stored side smaller and never larger: so much of its own relative error (seen: 0.66
 * over tensors of 64 x 64, 0.35 over larger ones; over rows of 2 blocks 2.4).
 */
#define GAIN_CLIPPED 1.1
#define ROW_GAIN_CLIPPED 4.0

/* How much of the expected error may be one error, the same for every element. */
static double coherence(enum st_dtype a, enum st_dtype b)
{
	if (a == ST_DTYPE_MXFP4 || b == ST_DTYPE_MXFP4)
		return GAIN_COHERENT_MXFP4;
	if (a == ST_DTYPE_APR_Q8 || b == ST_DTYPE_APR_Q8)
		return GAIN_COHERENT_FLOAT; /* one step for all: half of it is 1.7 times the expected */
	return st_noise_block(a) > 1 || st_noise_block(b) > 1 ? GAIN_COHERENT_BLOCK : GAIN_COHERENT_FLOAT;
}

static void get_weight(const struct st_rows *s, uint64_t r, float *dst) { st_weight_decode(s->w, r, 1, dst); }

struct st_rows st_rows_of(const struct st_weight *w)
{
	return (struct st_rows){ .type = w->tensor,
		                 .get = get_weight,
		                 .w = w,
		                 .gain = 1,
		                 .rows = st_tensor_rows(w->tensor),
		                 .cols = st_tensor_cols(w->tensor) };
}

struct measure {
	const struct st_rows *a, *b;
	const uint64_t *idx; /* which rows; NULL: 0, 1, ... */
	float *buf;          /* two rows for every lane */
	struct st_row_stat *stats;
};

static void measure_rows(void *ctx, unsigned lane, uint64_t begin, uint64_t end)
{
	const struct measure *m = ctx;
	const struct st_rows *a = m->a, *b = m->b;
	struct st_row_stat *stats = m->stats;
	uint64_t cols = a->cols;
	float *x = m->buf + (uint64_t)lane * 2 * cols, *y = x + cols;
	uint32_t block_a = st_noise_block(a->type->dtype), block_b = st_noise_block(b->type->dtype),
		 largest = block_a > block_b ? block_a : block_b;
	for (uint64_t i = begin; i < end && !st_cancelled(); i++) {
		uint64_t r = m->idx ? m->idx[i] : i;
		a->get(a, r, x);
		b->get(b, r, y);
		struct st_sums s;
		st_sums_of(x, y, cols, 0, &s);
		stats[i] = (struct st_row_stat){ .aa = s.aa,
			                         .bb = s.bb,
			                         .ab = s.ab,
			                         .dd = s.dd,
			                         .max = s.max,
			                         .bad_a = s.bad_a,
			                         .bad_b = s.bad_b,
			                         .apart = s.apart };
		stats[i].coherent = coherence(a->type->dtype, b->type->dtype);
		stats[i].blocks = largest > 1 ? st_ceil_div(cols, largest) : 0;
		if (s.dd > 0) {
			for (uint64_t k = 0; k < cols && b->offset != 0; k++)
				y[k] -= (float)b->offset; /* what was stored is what its noise follows from */
			stats[i].pred_a = st_noise_row(a->type, x, (size_t)cols);
			stats[i].pred = stats[i].pred_a + st_noise_row(b->type, y, (size_t)cols);
		}
	}
}

enum st_status st_pair_measure(const struct st_rows *a, const struct st_rows *b, const uint64_t *idx, uint64_t n,
                               struct st_pool *pool, struct st_row_stat *stats, struct st_error *err)
{
	struct measure m = { a, b, idx, st_alloc_array3(st_pool_threads(pool), 2, a->cols, sizeof(float)), stats };
	if (!m.buf)
		return st_fail(err, ST_ERR_NOMEM, "out of memory");
	st_pool_each(pool, n, a->cols * 8, measure_rows, &m);
	free(m.buf);
	uint64_t differing = 0;
	for (uint64_t i = 0; i < n; i++)
		differing += stats[i].dd > 0;
	for (uint64_t i = 0; i < n; i++)
		stats[i].amid_equal = a->type->dtype == b->type->dtype && 2 * differing <= n;
	return st_check_cancel(err);
}

/* Whether a gain over n elements is structure. The extra terms are for what few blocks leave of averaging. */
static bool gain_stands_out(double bb, double ab, double pred_a, double pred, bool blocks, double coherent, uint64_t n,
                            double more, double more_clipped)
{
	if (bb <= 0 || pred <= 0)
		return false;
	double gain = ab / bb, rel2 = pred / bb;
	double limit = fmax(GAIN_SIGMAS * sqrt(rel2 / (double)n),
	                    fmax(GAIN_SHRINK * rel2, (coherent + more) * sqrt(rel2)));
	/* Below 1 the side that may have been clipped is a, above 1 it is b. */
	if (blocks)
		limit = fmax(limit, (GAIN_CLIPPED + more_clipped) * sqrt((gain < 1 ? pred_a : pred - pred_a) / bb));
	return fabs(gain - 1) > limit;
}

bool st_row_is_bad(const struct st_row_stat *r, uint64_t cols)
{
	if (r->apart)
		return true;
	if (r->dd == 0)
		return false;
	double few = r->blocks ? 1 / sqrt((double)r->blocks) : 0,
	       factor = r->amid_equal ? ROW_FACTOR_AMID_EQUAL : ROW_FACTOR + ROW_FACTOR_BLOCKS * few;
	bool astray = r->blocks && r->ab < ROW_COSINE * sqrt(r->aa * r->bb) + DBL_MIN
	           && r->dd > ROW_FACTOR_ASTRAY * ROW_FACTOR_ASTRAY * r->pred;
	return astray || r->dd > factor * factor * r->pred
	    || gain_stands_out(r->bb, r->ab, r->pred_a, r->pred, r->blocks > 0, r->coherent, cols,
	                       ROW_GAIN_BLOCKS * few, ROW_GAIN_CLIPPED * few);
}

void st_pair_summarise(const struct st_row_stat *stats, const uint64_t *idx, uint64_t n, uint64_t cols,
                       struct st_pair_summary *s)
{
	memset(s, 0, sizeof *s);
	uint64_t differing = 0;
	double rest = 0, rest_pred = 0;
	for (uint64_t i = 0; i < n; i++) {
		const struct st_row_stat *r = &stats[i];
		s->aa += r->aa;
		s->bb += r->bb;
		s->ab += r->ab;
		s->dd += r->dd;
		s->pred += r->pred;
		s->pred_a += r->pred_a;
		s->max = r->max > s->max ? r->max : s->max;
		s->nonfinite_a += r->bad_a;
		s->nonfinite_b += r->bad_b;
		s->apart += r->apart;
		differing += r->dd > 0;
		if (st_row_is_bad(r, cols)) {
			uint64_t at = idx ? idx[i] : i;
			if (!s->bad_rows++)
				s->first_bad = at;
			s->last_bad = at;
		} else {
			rest += r->dd;
			rest_pred += r->pred;
		}
	}
	s->rel = s->apart ? INFINITY : s->dd == 0 ? 0 : s->bb > 0 ? sqrt(s->dd / s->bb) : INFINITY;
	s->predicted = s->bb > 0 ? sqrt(s->pred / s->bb) : 0;
	s->gain = s->bb > 0 ? s->ab / s->bb : NAN;
	s->rest_noise = rest <= TOTAL_FACTOR * TOTAL_FACTOR * rest_pred;
	s->noise = s->bad_rows == 0 && s->dd <= TOTAL_FACTOR * TOTAL_FACTOR * s->pred
	        && (differing == 0
	            || !gain_stands_out(s->bb, s->ab, s->pred_a, s->pred, stats[0].blocks > 0, stats[0].coherent,
	                                n * cols, 0, 0));
}

/* Every row, what they say together, and the columns where the rows say nothing. */
static enum st_status measure(struct st_pair *p, struct st_pool *pool, struct st_error *err)
{
	ST_TRY(st_pair_measure(&p->a, &p->b, NULL, p->a.rows, pool, p->stats, err));
	st_pair_summarise(p->stats, NULL, p->a.rows, p->a.cols, &p->sum);
	return p->sum.noise && p->sum.dd > 0 ? st_columns_are_noise(&p->a, &p->b, &p->sum.noise, err) : ST_OK;
}

/* The tensor as one of another type would err. */
static const struct st_tensor *expect(const struct st_tensor *t, struct st_held held, struct st_tensor *as)
{
	*as = *t;
	as->dtype = held.type;
	as->scale = held.scale;
	return as;
}

/* Measured anew where the numbers came from coarser types than they are stored in. */
static enum st_status measure_as_held(struct st_pair *p, struct st_pool *pool, struct st_error *err)
{
	const struct st_tensor *a = p->a.type, *b = p->b.type;
	ST_TRY(st_held_type(a, &p->held_a, err));
	ST_TRY(st_held_type(b, &p->held_b, err));
	/* Both out of the same blocks are equal or not: one encoder wrote them, or few numbers fit any. */
	if (p->held_a.type == p->held_b.type && st_dtype_info(p->held_a.type)->kind == ST_KIND_QUANT) {
		p->held_a = st_held_own(a);
		p->held_b = st_held_own(b);
	}
	if (p->held_a.type == a->dtype && p->held_b.type == b->dtype)
		return ST_OK;
	p->a.type = expect(a, p->held_a, &p->as_a);
	p->b.type = expect(b, p->held_b, &p->as_b);
	return measure(p, pool, err);
}

enum st_status st_pair_open(struct st_pair *p, const struct st_weight *a, const struct st_weight *b,
                            struct st_pool *pool, struct st_error *err)
{
	*p = (struct st_pair){ .a = st_rows_of(a),
		               .b = st_rows_of(b),
		               .held_a = st_held_own(a->tensor),
		               .held_b = st_held_own(b->tensor) };
	p->stats = st_alloc_array(p->a.rows, sizeof *p->stats);
	if (!p->stats)
		return st_fail(err, ST_ERR_NOMEM, "out of memory");
	enum st_status st = measure(p, pool, err);
	if (st == ST_OK && !p->sum.noise)
		st = measure_as_held(p, pool, err);
	if (st != ST_OK)
		st_pair_close(p);
	return st;
}

void st_pair_close(struct st_pair *p)
{
	free(p->stats);
	p->stats = NULL;
}
