/*
 * diff_types.c - two dumps in types of their own: which 16-bit type the values came through, and whether two numbers
 * can be one, stored in theirs.
 *
 * Every value of both dumps is looked at, so the loops are made for vectors. They leave numbers that are rare aside
 * (not finite, below what F16 holds with all its digits); a run that has some is looked at one by one.
 */
#include "compare/diff.h"

#include "base/error.h"
#include "base/levels.h"
#include "compare/sums.h"
#include "dtype/half.h"

#include <math.h>
#include <stdlib.h>

bool st_diff_short(enum st_dtype ta, enum st_dtype tb)
{
	return ta == ST_DTYPE_F16 || ta == ST_DTYPE_BF16 || tb == ST_DTYPE_F16 || tb == ST_DTYPE_BF16;
}

/* ---- the type that values came through ---- */

#define FEWEST_NUMBERS 64
/* The last bit of numbers that were rounded to a type is set in half of them. Whole numbers and powers of two do not
 * have it set. */
#define LAST_BIT_SET 0.25

/* A run of numbers: zero and what is not finite say nothing. Of BF16, of F16. */
struct look {
	uint64_t n, last[2];
	bool fits[2];
};

ST_LEVELS static bool look_fast(const float *restrict x, uint32_t n, struct look *l)
{
	uint32_t all = 0, count = 0, bf16 = 0, f16 = 0, rare = 0;
	for (uint32_t i = 0; i < n; i++) {
		uint32_t bits, size;
		memcpy(&bits, x + i, sizeof bits);
		size = bits & 0x7FFFFFFF;
		all |= bits;
		count += size != 0;
		bf16 += bits >> 16 & 1;
		f16 += bits >> 13 & 1;
		/* below 2^-14 or from 2^16 on; 0 wraps around */
		rare |= (size - 1 < 0x38800000 - 1) | (size >= 0x47800000);
	}
	*l = (struct look){ count, { bf16, f16 }, { !(all & 0xFFFF), !(all & 0x1FFF) } };
	return !rare;
}

static void look_careful(const float *x, uint32_t n, struct look *l)
{
	*l = (struct look){ .fits = { true, true } };
	for (uint32_t i = 0; i < n && (l->fits[0] || l->fits[1]); i++) {
		if (x[i] == 0 || !isfinite(x[i]))
			continue;
		uint32_t bits = st_f32_bits(x[i]);
		uint16_t half = st_f32_to_f16(x[i]);
		l->n++;
		l->fits[0] &= (bits & 0xFFFF) == 0;
		l->fits[1] &= st_f16_to_f32(half) == x[i];
		l->last[0] += bits >> 16 & 1;
		l->last[1] += half & 1;
	}
}

struct looks {
	const struct st_tensor *t;
	float *buf; /* a row for every lane */
	atomic_uint_fast64_t n, last[2];
	atomic_bool misfit[2];
};

static void look_at_rows(void *ctx, unsigned lane, uint64_t begin, uint64_t end)
{
	enum { RUN = 4096 };
	struct looks *k = ctx;
	uint64_t cols = st_tensor_cols(k->t);
	for (uint64_t r = begin; r < end; r++) {
		if (k->misfit[0] && k->misfit[1])
			return;
		const float *x = st_floats_at(k->t, r * cols, cols, k->buf + lane * cols);
		for (uint64_t at = 0; at < cols; at += RUN) {
			uint32_t n = (uint32_t)(cols - at < RUN ? cols - at : RUN);
			struct look l;
			if (!look_fast(x + at, n, &l))
				look_careful(x + at, n, &l);
			k->n += l.n;
			for (int i = 0; i < 2; i++) {
				k->last[i] += l.last[i];
				if (!l.fits[i])
					k->misfit[i] = true;
			}
		}
	}
}

enum st_status st_diff_held(const struct st_tensor *t, struct st_pool *pool, enum st_dtype *held, struct st_error *err)
{
	*held = t->dtype;
	uint64_t cols = st_tensor_cols(t);
	if ((t->dtype != ST_DTYPE_F32 && t->dtype != ST_DTYPE_F64) || cols == 0)
		return ST_OK;
	struct looks k = { .t = t, .buf = st_alloc_array2(st_pool_threads(pool), cols, sizeof *k.buf) };
	ST_NEED(k.buf);
	st_pool_each(pool, t->n_elems / cols, cols, look_at_rows, &k);
	free(k.buf);
	for (int i = 0; i < 2 && k.n >= FEWEST_NUMBERS; i++)
		if (!k.misfit[i] && (double)k.last[i] >= LAST_BIT_SET * (double)k.n)
			*held = i ? ST_DTYPE_F16 : ST_DTYPE_BF16;
	return st_check_cancel(err);
}

/* ---- numbers that meet ---- */

/* Half a unit of the last place: of a number in [2^e, 2^(e+1)) it is `of` times 2^e, and 2^e is `least` at least. 0 for
 * types that hold every f32. */
struct half_unit {
	double of;
	int64_t least; /* the bits of a double */
};

#define BITS_OF_2_TO(e) ((int64_t)(1023 + (e)) << 52)

static struct half_unit half_unit_of(enum st_dtype t)
{
	switch (t) {
	case ST_DTYPE_F16:
		return (struct half_unit){ 0x1p-11, BITS_OF_2_TO(-14) };
	case ST_DTYPE_BF16:
		return (struct half_unit){ 0x1p-8, BITS_OF_2_TO(-126) };
	default:
		return (struct half_unit){ 0, BITS_OF_2_TO(-126) };
	}
}

static inline __attribute__((always_inline)) void half_units(const st_f64x4 *x, const struct half_unit *u, st_f64x4 *h)
{
	st_i64x4 e = (st_i64x4)*x & ((int64_t)0x7FF << 52), small = e < u->least;
	*h = (st_f64x4)((small & u->least) | (~small & e)) * u->of;
}

/* A type for each side. Whether all n pairs were finite, without which nothing is counted. */
ST_LEVELS static bool meet_fast(const float *restrict a, const float *restrict b, uint64_t n,
                                const struct half_unit u[2], bool one_type, struct st_diff_meetings *m)
{
	st_i64x4 meet = { 0 }, near = { 0 }, other = (st_i64x4){ 0 } - !one_type;
	st_f64x4 special = { 0 };
	for (uint64_t i = 0; i < n; i += 4) {
		float tail[2][4] = { { 0 } };
		bool whole = n - i >= 4;
		for (uint64_t k = i; !whole && k < n; k++) {
			tail[0][k - i] = a[k];
			tail[1][k - i] = b[k];
		}
		st_f64x4 x, y, ux, uy;
		st_widen4(whole ? a + i : tail[0], &x);
		st_widen4(whole ? b + i : tail[1], &y);
		half_units(&x, &u[0], &ux);
		half_units(&y, &u[1], &uy);
		st_f64x4 d = x - y;
		special += d * 0;
		d = (st_f64x4)((st_i64x4)d & INT64_MAX);
		st_f64x4 size = (st_f64x4)((st_i64x4)x & INT64_MAX), unit = ux + uy;
		st_i64x4 same = d == 0, within = d <= unit, rounded = d <= unit + ST_DIFF_ROUNDING * size;
		meet += same | (other & rounded);
		near += ~same & ~other & within;
	}
	uint64_t met = 0, neighbours = 0, counted = st_ceil_div(n, 4) * 4;
	double finite = 0;
	for (int l = 0; l < 4; l++) {
		met -= (uint64_t)meet[l];
		neighbours -= (uint64_t)near[l];
		finite += special[l];
	}
	*m = (struct st_diff_meetings){ .apart = counted - met - neighbours, .neighbours = neighbours };
	return finite == 0;
}

void st_diff_meet(const float *a, enum st_dtype ta, const float *b, enum st_dtype tb, uint64_t n,
                  struct st_diff_meetings *m)
{
	const struct half_unit u[2] = { half_unit_of(ta), half_unit_of(tb) };
	if (meet_fast(a, b, n, u, ta == tb, m))
		return;
	*m = (struct st_diff_meetings){ 0 };
	for (uint64_t i = 0; i < n; i++) {
		struct st_diff_meetings one = { 0 };
		if (isfinite(a[i]) && isfinite(b[i]))
			(void)meet_fast(a + i, b + i, 1, u, ta == tb, &one);
		else
			one.apart = st_apart(a[i], b[i]) != 0;
		m->apart += one.apart;
		m->neighbours += one.neighbours;
	}
}

bool st_diff_few_neighbours(uint64_t neighbours, uint64_t n, enum st_dtype t)
{
	double unit = t == ST_DTYPE_BF16 ? 0x1p-8 : 0x1p-11; /* the least it is, relative to the number */
	double expected = (double)n * 2 * ST_DIFF_ROUNDING / unit;
	return (double)neighbours <= expected + 4 * sqrt(expected) + 1;
}

enum st_status st_diff_all_meet(const struct st_tensor *a, enum st_dtype ta, const struct st_tensor *b,
                                enum st_dtype tb, bool *meet, struct st_error *err)
{
	uint64_t ca = st_tensor_cols(a), cb = st_tensor_cols(b), neighbours = 0;
	float *bx = st_alloc_array(ca, sizeof *bx), *by = st_alloc_array(cb, sizeof *by);
	*meet = bx && by;
	/* Rows may be cut differently on the two sides: as far as both go. */
	for (uint64_t i = 0, n; *meet && i < a->n_elems && !st_cancelled(); i += n) {
		uint64_t left_a = ca - i % ca, left_b = cb - i % cb;
		const float *x = st_floats_at(a, i - i % ca, ca, bx) + i % ca,
			    *y = st_floats_at(b, i - i % cb, cb, by) + i % cb;
		struct st_diff_meetings m;
		n = left_a < left_b ? left_a : left_b;
		st_diff_meet(x, ta, y, tb, n, &m);
		neighbours += m.neighbours;
		*meet = m.apart == 0;
	}
	*meet &= st_diff_few_neighbours(neighbours, a->n_elems, ta);
	enum st_status st = bx && by ? st_check_cancel(err) : st_fail(err, ST_ERR_NOMEM, "out of memory");
	free(bx);
	free(by);
	return st;
}
