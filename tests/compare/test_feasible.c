/*
 * Rows are judged many elements at a time. Here one element at a time, as feasible.h and cells.h say it, in every pair
 * of types: numbers that one original gave, and any bytes at all.
 */
#include "test.h"

#include "base/rng.h"
#include "compare/feasible.h"
#include "dtype/geometry.h"

#include <float.h>
#include <math.h>

enum { COLS = 512, SETS = 3 };
static const float rms = 0.03f;

/* ---- sides ---- */

struct side {
	uint8_t bytes[COLS * 8];
	float value[COLS], below[COLS], above[COLS], slack[COLS];
};

static struct st_cells cells_of(struct side *s)
{
	return (struct st_cells){ s->value, s->below, s->above, s->slack, NULL };
}

/* Set 0: the same numbers in each type that can be written, with some that no type likes. 1: these bytes with a bit
 * turned here and there. 2: any bytes. */
static void fill(struct side *s, enum st_dtype type, int set, struct st_xoshiro *r)
{
	const struct st_dtype_info *info = st_dtype_info(type);
	size_t size = COLS / info->block_elems * info->block_bytes;
	float x[COLS];
	struct st_xoshiro same;
	st_xoshiro_seed(&same, 5);
	for (int i = 0; i < COLS; i++) {
		x[i] = ldexpf((float)(int32_t)(uint32_t)st_xoshiro_next(&same), -34);
		x[i] = i % 32 == 7 ? 0 : i % 64 == 9 ? ldexpf(1, -(i % 11)) : i / 32 == 5 ? 0x1p-30f * x[i] : x[i];
		x[i] = i / 32 == 6 ? 0.0625f : x[i];
	}
	if (set < 2 && info->encode)
		info->encode(x, s->bytes, COLS);
	else
		for (size_t i = 0; i < size; i++)
			s->bytes[i] = (uint8_t)st_xoshiro_next(r);
	for (size_t i = 0; set == 1 && i < size; i += 1 + st_xoshiro_next(r) % 40)
		s->bytes[i] ^= (uint8_t)(1u << (st_xoshiro_next(r) % 8));
	struct st_tensor t = { .name = "w",
		               .dtype = type,
		               .layout = ST_LAYOUT_ROWS,
		               .ndim = 2,
		               .shape = { 1, COLS },
		               .n_elems = COLS,
		               .n_bytes = size,
		               .row_bytes = size,
		               .scale = type == ST_DTYPE_APR_Q8 ? 0.003f : 1,
		               .data = s->bytes };
	struct st_weight w = { .tensor = &t, .heads = 1, .layer = -1 };
	struct st_cells c = cells_of(s);
	st_weight_cells(&w, st_held_own(&t), 0, &c);
}

/* ---- one at a time ---- */

static bool even(float x, float below, float above)
{
	double unit = 2.0 * (x > 0 ? above : below);
	return unit > 0 && isfinite(unit) && fmod(fabs(x) / unit, 2) == 0;
}

static void add_one(const struct side *a, const struct side *b, int i, struct st_fit *f)
{
	float d = a->value[i] - b->value[i], apart = fabsf(d);
	float size = 0.5f * fabsf(a->value[i]) + 0.5f * fabsf(b->value[i]) + rms;
	float room = d > 0 ? a->below[i] + b->above[i] : a->above[i] + b->below[i];
	float own = a->slack[i] + b->slack[i], wide = own + ST_CELLS_F32 * size, mean = own + ST_CELLS_F32_MEAN * size;
	bool exact = a->below[i] + a->above[i] == 0 || b->below[i] + b->above[i] == 0;
	if (!isfinite(d) || !isfinite(room))
		return;
	f->judged++;
	if (a->value[i] != 0 || b->value[i] != 0 || own > 0) /* zeros on both sides went through no arithmetic */
		f->expected += (double)(room <= 0 || mean >= room ? 1 : mean / room);
	if (apart == 0 || apart < room * (exact ? 1 + 0x1p-20f : 1 - 0x1p-20f))
		return;
	if (apart > room + wide) {
		f->outside++;
		f->worst = fmax(f->worst, (double)apart / (room + wide));
	} else {
		f->touching++;
		f->even_a += even(a->value[i], a->below[i], a->above[i]);
		f->even_b += even(b->value[i], b->below[i], b->above[i]);
	}
}

static double variance_of(const struct side *s, int from, int end)
{
	double sum = 0;
	for (int i = from; i < end; i++) {
		double down = s->below[i], up = s->above[i], f32 = ST_CELLS_F32_MEAN * s->value[i];
		double width = isinf(down) && isinf(up) ? 0 : isinf(down) ? 2 * up : isinf(up) ? 2 * down : down + up;
		double v = width * width + 12 * f32 * f32;
		sum += v <= FLT_MAX ? v : 0;
	}
	return sum / 12;
}

/* Sums of f32 numbers: squares below its range are zeros. */
static bool near(double x, double y) { return fabs(x - y) <= 1e-5 * fabs(y) + 1e-35; }

static void check(enum st_dtype ta, enum st_dtype tb, struct side *a, struct side *b, int from, int end)
{
	struct st_cells ca = cells_of(a), cb = cells_of(b), x = st_cells_from(&ca, (uint64_t)from),
			y = st_cells_from(&cb, (uint64_t)from);
	struct st_fit got, want = { 0 };
	st_fit_elements(&x, &y, (uint64_t)(end - from), rms, &got);
	for (int i = from; i < end; i++)
		add_one(a, b, i, &want);
	if (got.judged != want.judged || got.outside != want.outside || got.touching != want.touching
	    || got.even_a != want.even_a || got.even_b != want.even_b || got.worst != want.worst
	    || !near(got.expected, want.expected))
		fail_msg("%s, %s, %d to %d: judged %d of %d, outside %d of %d, touching %d of %d, expected %g of %g",
		         st_dtype_info(ta)->name, st_dtype_info(tb)->name, from, end, (int)got.judged, (int)want.judged,
		         (int)got.outside, (int)want.outside, (int)got.touching, (int)want.touching, got.expected,
		         want.expected);
	double v = st_cells_variance(&x, (uint64_t)(end - from)), v_want = variance_of(a, from, end);
	float largest = st_cells_largest(&x, (uint64_t)(end - from)), largest_want = 0;
	for (int i = from; i < end; i++)
		largest_want = fabsf(a->value[i]) > largest_want ? fabsf(a->value[i]) : largest_want;
	if (!near(v, v_want) || largest != largest_want)
		fail_msg("%s, %d to %d: variance %g of %g, largest %g of %g", st_dtype_info(ta)->name, from, end, v,
		         v_want, (double)largest, (double)largest_want);
}

static void counts_are_those_of_one_element_at_a_time(void **state)
{
	(void)state;
	static struct side side[SETS][ST_DTYPE_COUNT];
	struct st_xoshiro r;
	uint64_t seen = 0;
	st_xoshiro_seed(&r, 20);
	for (int set = 0; set < SETS; set++)
		for (int t = 0; t < ST_DTYPE_COUNT; t++)
			fill(&side[set][t], (enum st_dtype)t, set, &r);
	for (int sa = 0; sa < SETS; sa++)
		for (int sb = 0; sb < SETS; sb++)
			for (int ta = 0; ta < ST_DTYPE_COUNT; ta++)
				for (int tb = 0; tb < ST_DTYPE_COUNT; tb++) {
					int from = (int)(st_xoshiro_next(&r) % 20), end = COLS - (ta * tb + sa) % 23;
					check((enum st_dtype)ta, (enum st_dtype)tb, &side[sa][ta], &side[sb][tb], from,
					      end);
					seen++;
				}
	assert_int_equal(seen, SETS * SETS * ST_DTYPE_COUNT * ST_DTYPE_COUNT);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(counts_are_those_of_one_element_at_a_time),
	};
	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
