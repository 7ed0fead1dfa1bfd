/*
 * Could two rows have been stored from one original? Pairs that could, and pairs that are a little off, in every kind
 * of type. Originals, noise and the plain encoders are the test's own.
 */
#include "test.h"

#include <stele/compare.h>

#include "compare/pair.h"
#include "dtype/blocks.h"
#include "dtype/geometry.h"
#include "dtype/half.h"

#include <math.h>

enum { ROWS = 64, COLS = 256, N = ROWS * COLS };

static uint64_t seed;

static double uniform(void)
{
	seed = seed * 6364136223846793005u + 1442695040888963407u;
	return (double)(seed >> 11) * 0x1p-53;
}

static double normal(void) { return sqrt(-2 * log(uniform() + 1e-300)) * cos(6.283185307179586 * uniform()); }

/* ---- encoders, as their formats' texts describe them ---- */

static void to_bf16(const float *x, uint8_t *out)
{
	for (int i = 0; i < N; i++) {
		uint32_t u = st_f32_bits(x[i]);
		uint16_t h = (uint16_t)((u + 0x7FFF + (u >> 16 & 1)) >> 16);
		memcpy(out + 2 * i, &h, 2);
	}
}

static void to_f16(const float *x, uint8_t *out)
{
	for (int i = 0; i < N; i++) {
		uint16_t h = st_f32_to_f16(x[i]);
		memcpy(out + 2 * i, &h, 2);
	}
}

static void to_q8_0(const float *x, uint8_t *out)
{
	struct st_block_q8_0 *b = (struct st_block_q8_0 *)(void *)out;
	for (int k = 0; k < N / 32; k++, x += 32) {
		float most = 0;
		for (int i = 0; i < 32; i++)
			most = fmaxf(most, fabsf(x[i]));
		b[k].d = st_f32_to_f16(most / 127);
		for (int i = 0; i < 32; i++)
			b[k].qs[i] = (int8_t)(most > 0 ? roundf(x[i] / (most / 127)) : 0);
	}
}

/* Codes -8..7 under `step`, and the scale that is stored beside them. */
static void put_q4_0(struct st_block_q4_0 *b, const float *x, float step, const float *weight)
{
	int code[32];
	double xl = 0, ll = 0;
	for (int i = 0; i < 32; i++) {
		double v = step != 0 ? rint(x[i] / step) : 0;
		code[i] = (int)fmin(fmax(v, -8), 7);
		xl += weight ? (double)weight[i] * x[i] * code[i] : 0;
		ll += weight ? (double)weight[i] * code[i] * code[i] : 0;
	}
	b->d = st_f32_to_f16(weight && ll > 0 ? (float)(xl / ll) : step);
	for (int i = 0; i < 16; i++)
		b->qs[i] = (uint8_t)((code[i] + 8) | (code[i + 16] + 8) << 4);
}

static float signed_most(const float *x)
{
	float most = 0;
	for (int i = 0; i < 32; i++)
		most = fabsf(x[i]) > fabsf(most) ? x[i] : most;
	return most;
}

static void to_q4_0(const float *x, uint8_t *out)
{
	for (int k = 0; k < N / 32; k++)
		put_q4_0((struct st_block_q4_0 *)(void *)(out + 18 * k), x + 32 * k, signed_most(x + 32 * k) / -8,
		         NULL);
}

/* Weights of the elements that vary a thousandfold: the codes are chosen first and the scale is fitted to them. */
static void to_q4_0_by_importance(const float *x, uint8_t *out)
{
	float weight[COLS];
	for (int i = 0; i < COLS; i++)
		weight[i] = (float)exp(2 * normal());
	for (int k = 0; k < N / 32; k++) {
		float step = signed_most(x + 32 * k) / (float)-(7.1 + 1.8 * uniform());
		put_q4_0((struct st_block_q4_0 *)(void *)(out + 18 * k), x + 32 * k, step, weight + 32 * k % COLS);
	}
}

/*
 * The same for rows with one large number in each block, in a column of no importance: it is cut to the largest code of
 * a scale that the others are fitted to.
 */
static void to_q4_0_clipping(const float *x, uint8_t *out)
{
	float weight[COLS];
	for (int i = 0; i < COLS; i++)
		weight[i] = i % 32 == 3 ? 1e-6f : 1;
	for (int k = 0; k < N / 32; k++)
		put_q4_0((struct st_block_q4_0 *)(void *)(out + 18 * k), x + 32 * k, signed_most(x + 32 * k) / -8.9f,
		         weight + 32 * k % COLS);
}

static void to_f32(const float *x, uint8_t *out) { memcpy(out, x, N * sizeof *x); }

static const struct type {
	enum st_dtype dtype;
	void (*encode)(const float *x, uint8_t *out);
} F32 = { ST_DTYPE_F32, to_f32 }, F16 = { ST_DTYPE_F16, to_f16 }, BF16 = { ST_DTYPE_BF16, to_bf16 },
  Q8_0 = { ST_DTYPE_Q8_0, to_q8_0 }, Q4_0 = { ST_DTYPE_Q4_0, to_q4_0 },
  Q4_0_IMPORTANCE = { ST_DTYPE_Q4_0, to_q4_0_by_importance };

/* ---- pairs ---- */

struct side {
	uint8_t bytes[N * 4];
	struct st_tensor t;
	struct st_weight w;
};

static void store_as(struct side *s, enum st_dtype type, float scale)
{
	const struct st_dtype_info *info = st_dtype_info(type);
	s->t = (struct st_tensor){ .name = "w",
		                   .dtype = type,
		                   .layout = ST_LAYOUT_ROWS,
		                   .ndim = 2,
		                   .shape = { ROWS, COLS },
		                   .n_elems = N,
		                   .n_bytes = (uint64_t)N / info->block_elems * info->block_bytes,
		                   .row_bytes = (uint64_t)COLS / info->block_elems * info->block_bytes,
		                   .scale = scale,
		                   .data = s->bytes };
	s->w = (struct st_weight){ .tensor = &s->t, .heads = 1, .layer = -1 };
}

static void store(struct side *s, struct type type, const float *x)
{
	type.encode(x, s->bytes);
	store_as(s, type.dtype, 1);
}

static struct st_pair_summary judge(struct side *a, struct side *b)
{
	struct st_error err = ST_ERROR_INIT;
	struct st_pair p;
	assert_ok(st_pair_open(&p, &a->w, &b->w, NULL, &err), &err);
	struct st_pair_summary s = p.sum;
	st_pair_close(&p);
	return s;
}

static void expect(struct side *a, struct side *b, bool noise, const char *what)
{
	for (int order = 0; order < 2; order++) {
		struct st_pair_summary s = judge(order ? b : a, order ? a : b);
		if (s.noise != noise)
			fail_msg(
				"%s, order %d: %llu elements outside, %llu touch where %.1f are expected, %llu bad rows",
				what, order, (unsigned long long)s.fit.outside, (unsigned long long)s.fit.touching,
				s.fit.expected, (unsigned long long)s.bad_rows);
	}
}

static float x[N], y[N];
static struct side a, b;

static void draw(int kind)
{
	seed = 11 + (uint64_t)kind;
	for (int i = 0; i < N; i++) {
		double z = normal();
		/* Normal; with a heavy tail; channels of very different sizes. */
		x[i] = (float)(0.03 * z * (kind == 1 && uniform() < 0.02 ? 8 : kind == 2 ? exp(2 * sin(i % COLS)) : 1));
	}
}

static void one_original_is_noise(void **state)
{
	(void)state;
	const struct type types[] = { F32, F16, BF16, Q8_0, Q4_0, Q4_0_IMPORTANCE };
	for (int kind = 0; kind < 3; kind++) {
		draw(kind);
		for (size_t i = 0; i < sizeof types / sizeof *types; i++)
			for (size_t k = 0; k < i; k++) {
				char what[64];
				snprintf(what, sizeof what, "kind %d, %zu against %zu", kind, i, k);
				store(&a, types[i], x);
				store(&b, types[k], x);
				expect(&a, &b, true, what);
			}
	}
}

/* ---- uneven levels ---- */

static const int iq4[16] = { -127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113 };

static unsigned nearest_iq4(double v)
{
	unsigned best = 0;
	for (unsigned c = 1; c < 16; c++)
		if (fabs(v - iq4[c]) < fabs(v - iq4[best]))
			best = c;
	return best;
}

/* Codes under the step before it is rounded to F16: where it is subnormal there it moves by more than 2^-11. */
static void to_iq4_nl(const float *from, uint8_t *out)
{
	struct st_block_iq4_nl *block = (struct st_block_iq4_nl *)(void *)out;
	for (int k = 0; k < N / 32; k++, from += 32) {
		double step = (double)signed_most(from) / iq4[0];
		block[k].d = st_f32_to_f16((float)step);
		for (int i = 0; i < 16; i++)
			block[k].qs[i] = (uint8_t)(nearest_iq4(from[i] / step) | nearest_iq4(from[i + 16] / step) << 4);
	}
}

/*
 * Eight sub-blocks under one scale. lost: the sub-block whose scale the importances made 0; its codes are then all the
 * one nearest to zero (own = false) or, where somebody lost the scale later, its own.
 */
static void to_iq4_xs(const float *from, uint8_t *out, unsigned lost, bool own)
{
	const struct st_geometry *g = st_dtype_geometry(ST_DTYPE_IQ4_XS);
	for (int k = 0; k < N / 256; k++, from += 256) {
		struct st_block_parts p = { 0 };
		float most[8], d = 0;
		for (unsigned j = 0; j < 8; j++) {
			most[j] = signed_most(from + 32 * j) / (float)iq4[0];
			d = fabsf(most[j]) > fabsf(d) ? most[j] : d;
		}
		p.d = st_f16_to_f32(st_f32_to_f16(d / -32));
		for (unsigned j = 0; j < 8; j++) {
			int scale = (int)fmin(fmax(rint((double)(most[j] / p.d)), -32), 31);
			scale = scale ? scale : 1;
			for (unsigned i = 32 * j; i < 32 * j + 32; i++)
				p.code[i] = (int16_t)(j == lost && !own ? 8
				                                        : nearest_iq4((double)from[i] / (p.d * scale)));
			p.scale[j] = (int16_t)(j == lost ? 0 : scale);
		}
		st_block_pack(g, &p, out + (size_t)k * sizeof(struct st_block_iq4_xs));
	}
}

static void uneven_levels_are_noise(void **state)
{
	(void)state;
	const struct type IQ4_NL = { ST_DTYPE_IQ4_NL, to_iq4_nl };
	draw(0);
	for (int i = 0; i < N; i++)
		x[i] *= 0.01f;
	store(&a, IQ4_NL, x);
	store(&b, F32, x);
	expect(&a, &b, true, "IQ4_NL under subnormal steps");
	a.bytes[2 + 18 * 7] ^= 0x20;
	expect(&a, &b, false, "the same and a code that is off by two");
	draw(0);
	store(&b, F32, x);
	store_as(&a, ST_DTYPE_IQ4_XS, 1);
	to_iq4_xs(x, a.bytes, 8, false);
	expect(&a, &b, true, "IQ4_XS");
	to_iq4_xs(x, a.bytes, 5, false);
	expect(&a, &b, true, "IQ4_XS, a sub-block that importances rounded away");
	to_iq4_xs(x, a.bytes, 5, true);
	expect(&a, &b, false, "IQ4_XS, a sub-block that lost its scale");
}

/* Rounded to one type on the way to another: to F16 before BF16, to BF16 before Q8_0, to Q8_0 before Q4_0. */
static void two_steps_are_noise(void **state)
{
	(void)state;
	draw(0);
	store(&b, F32, x);
	for (int i = 0; i < N; i++)
		y[i] = st_f16_to_f32(st_f32_to_f16(x[i]));
	store(&a, BF16, y);
	expect(&a, &b, true, "F16, BF16 against F32");
	store(&b, BF16, x);
	assert_memory_not_equal(a.bytes, b.bytes, 2 * N);
	expect(&a, &b, true, "F16, BF16 against BF16");
	store(&b, F32, x);
	for (int i = 0; i < N; i++)
		y[i] = st_bf16_to_f32(st_f32_to_bf16(x[i]));
	store(&a, Q8_0, y);
	expect(&a, &b, true, "BF16, Q8_0 against F32");
	store(&a, Q8_0, x);
	st_dtype_info(ST_DTYPE_Q8_0)->decode(a.bytes, y, N);
	store(&a, Q4_0, y);
	expect(&a, &b, true, "Q8_0, Q4_0 against F32");
}

/* Rounded to whole steps of the tensor, as AprQ8 does, on the way to finer types. */
static void one_step_for_all_shows_in_finer_types(void **state)
{
	(void)state;
	const struct type types[] = { F32, BF16, Q8_0 };
	draw(0);
	float most = 0;
	for (int i = 0; i < N; i++)
		most = fmaxf(most, fabsf(x[i]));
	for (int i = 0; i < N; i++)
		y[i] = roundf(x[i] / (most / 127)) * (most / 127);
	store(&b, F32, x);
	for (size_t i = 0; i < sizeof types / sizeof *types; i++) {
		store(&a, types[i], y);
		expect(&a, &b, true, st_dtype_info(types[i].dtype)->name);
	}
}

/* Numbers that are known exactly and lie half way between two of the other type: ties, in a tenth of the elements. */
static void ties_are_noise(void **state)
{
	(void)state;
	draw(0);
	for (int i = 0; i < N; i++) {
		x[i] = st_f16_to_f32(st_f32_to_f16(x[i]));
		int e;
		(void)frexpf(x[i], &e);
		if (i % 10 == 0 && e > -13)
			x[i] += ldexpf(1, e - 12); /* half a unit of F16 */
	}
	store(&a, F16, x);
	float zero[COLS] = { 0 }, decoded[COLS];
	for (int r = 0; r < ROWS; r++) {
		struct st_fit f;
		float below[COLS], above[COLS], slack[COLS];
		struct st_cells stored = { decoded, below, above, slack, NULL },
				exact = { x + r * COLS, zero, zero, zero, NULL };
		st_weight_cells(&a.w, (struct st_held){ ST_DTYPE_F16, 1 }, (uint64_t)r, &stored);
		st_fit_row(&stored, &exact, COLS, ST_REFIT_NONE, ST_REFIT_NONE, 0.03f, &f);
		assert_true(st_fit_is_noise(&f));
		assert_int_equal(f.touching, 0);
	}
}

static void disturb(double relative)
{
	for (int i = 0; i < N; i++)
		y[i] = (float)(x[i] * (1 + relative * normal()));
}

static void a_little_noise_is_seen(void **state)
{
	(void)state;
	for (int kind = 0; kind < 3; kind++) {
		draw(kind);
		disturb(0.05);
		store(&a, Q4_0, y);
		store(&b, F32, x);
		expect(&a, &b, false, "5 % under Q4_0");
		store(&b, Q4_0, x);
		expect(&a, &b, false, "5 % between two of Q4_0");
		disturb(0.01);
		store(&a, Q8_0, y);
		store(&b, F32, x);
		expect(&a, &b, false, "1 % under Q8_0");
		store(&b, Q8_0, x);
		expect(&a, &b, false, "1 % between two of Q8_0");
		disturb(0.001);
		store(&a, BF16, y);
		store(&b, BF16, x);
		expect(&a, &b, false, "a finetune in BF16");
	}
}

static void one_unit_in_a_hundred_is_seen(void **state)
{
	(void)state;
	draw(0);
	store(&a, BF16, x);
	store(&b, BF16, x);
	for (int i = 0; i < N; i += 100)
		a.bytes[2 * i] ^= 1;
	expect(&a, &b, false, "a unit of BF16 in 1 %");
	store(&b, F32, x);
	expect(&a, &b, false, "a unit of BF16 in 1 %, against F32");
}

/* Numbers out of blocks or of one step for all, stored more finely since. */
static void through(struct type grid, struct type as, const float *from, struct side *to)
{
	static float z[N];
	store(to, grid, from);
	st_dtype_info(grid.dtype)->decode(to->bytes, z, N);
	store(to, as, z);
}

static void draw_more(int kind)
{
	draw(kind % 3);
	for (int i = 0; i < N; i++) {
		int r = i / COLS;
		if (kind == 3) /* all about as large, and zeros among them */
			x[i] = i % 5 ? (float)((x[i] < 0 ? -0.1 : 0.1) * (0.4 + 0.6 * uniform())) : 0;
		else if (kind == 4) /* most rows say nothing: zero, or one number */
			x[i] = r % 4 == 0 ? x[i] : r % 4 == 1 ? 0 : 0.02f;
		else if (kind == 5) /* many rows are one */
			x[i] = r % 4 == 0 ? x[i] : x[i % COLS];
		else if (kind == 6) /* near the smallest numbers of F16 */
			x[i] *= 1e-4f;
	}
	if (kind == 7 || kind == 8) { /* out of blocks already */
		store(&a, kind == 7 ? Q4_0 : Q8_0, x);
		st_dtype_info(a.t.dtype)->decode(a.bytes, x, N);
	}
}

/* Another original may lie anywhere in the cells of a grid. */
static void another_original_is_noise(void **state)
{
	(void)state;
	const struct type grids[] = { Q8_0, Q4_0, Q4_0_IMPORTANCE }, as[] = { BF16, F16, F32 };
	for (int kind = 0; kind < 9; kind++)
		for (size_t g = 0; g < sizeof grids / sizeof *grids; g++)
			for (size_t k = 0; k < 9; k++) {
				char what[80];
				if (kind && k % 4 != 0)
					continue;
				draw_more(kind);
				if ((kind == 8 && g == 0) || (kind == 7 && g > 0) || (kind == 6 && k / 3 == 1))
					continue; /* the same blocks again; F16 has no finer numbers there than the grid */
				snprintf(what, sizeof what, "kind %d, grid %zu as %zu against %zu", kind, g, k / 3,
				         k % 3);
				through(grids[g], as[k / 3], x, &a);
				store(&b, as[k % 3], x);
				expect(&a, &b, true, what);
			}
	/* Q4_0 of numbers that came out of blocks of half its step: half of them are equal. */
	draw(0);
	for (int i = 0; i < N; i += 32) {
		float half = signed_most(x + i) / -16;
		for (int k = 0; k < 32; k++)
			y[i + k] = fminf(fmaxf(rintf(x[i + k] / half), -16), 15) * half;
	}
	for (size_t k = 0; k < 3; k++) {
		through(Q4_0, as[k], y, &a);
		store(&b, as[k], y);
		expect(&a, &b, true, "Q4_0 of numbers out of Q5_0");
	}
	/* Some rows came the same way: others were written into the file later. */
	for (int part = 1; part < 8; part++) {
		draw(0);
		through(Q8_0, BF16, x, &a);
		store(&b, BF16, x);
		for (int r = 0; r < ROWS; r++)
			if (r % 8 < part)
				memcpy(b.bytes + (size_t)r * COLS * 2, a.bytes + (size_t)r * COLS * 2, COLS * 2);
		expect(&a, &b, true, "rows of both kinds");
		for (int i = 0; i < N; i++)
			y[i] = i / COLS % 8 < part ? st_bf16_to_f32(st_f32_to_bf16(x[i])) : x[i];
		store(&b, F32, y);
		for (int i = 0; i < N; i++)
			y[i] = st_bf16_to_f32(st_f32_to_bf16(x[i]));
		store(&a, F32, y);
		expect(&a, &b, true, "rows of both kinds in F32");
	}
}

/* What was done to numbers after they had left their blocks is no rounding to these blocks. */
static void the_same_chain_is_equal_or_not(void **state)
{
	(void)state;
	const struct type grids[] = { Q8_0, Q4_0 }, as[] = { BF16, F16, F32 };
	const int every[3][3] = { { 3, 30, 60 }, { 3, 10, 20 }, { 3, 30, 100 } };
	for (int kind = 0; kind < 3; kind++)
		for (size_t g = 0; g < 2; g++)
			for (size_t k = 0; k < 3; k++) {
				char what[80];
				draw_more(kind);
				snprintf(what, sizeof what, "kind %d, grid %zu as %zu", kind, g, k);
				size_t unit = st_dtype_info(as[k].dtype)->block_bytes;
				for (size_t e = 0; e < 3; e++) {
					through(grids[g], as[k], x, &a);
					memcpy(b.bytes, a.bytes, sizeof b.bytes);
					store_as(&b, as[k].dtype, 1);
					for (int i = 0; i < N; i += every[k][e])
						b.bytes[unit * (size_t)i + (k == 2)] ^=
							1; /* of F32 beyond what arithmetic does */
					if (k == 2)
						for (int i = 0; i < N; i += every[k][e])
							b.bytes[unit * (size_t)i + 1] ^= 2;
					expect(&a, &b, false, what);
				}
				/* Against the numbers unchanged in another float type. */
				if (k == 0) {
					through(grids[g], BF16, x, &b);
					for (int i = 0; i < N; i += 60)
						b.bytes[2 * (size_t)i] ^= 1;
					for (size_t other = 1; other < 3; other++) {
						through(grids[g], as[other], x, &a);
						expect(&a, &b, false, "units of BF16 against a finer type");
					}
				}
				/* All of them a little, and one row. */
				store(&a, grids[g], x);
				st_dtype_info(grids[g].dtype)->decode(a.bytes, x, N);
				store(&a, as[k], x);
				for (int i = 0; i < N; i++)
					y[i] = x[i] * 1.003f;
				store(&b, as[k], y);
				expect(&a, &b, false, "a gain");
				disturb(0.003);
				store(&b, as[k], y);
				expect(&a, &b, false, "noise");
				/* As a finetune does, by a tenth of the grid's step: kind 0 is 0.03 large, its
				 * largest of 32 about 0.06. */
				for (int i = 0; i < N && kind == 0; i++)
					y[i] = x[i] + (float)((g ? 0.06 / 80 : 0.06 / 1270) * normal());
				store(&b, as[k], y);
				if (kind == 0)
					expect(&a, &b, false, "a finetune");
				memcpy(y, x, sizeof y);
				for (int i = 0; i < COLS; i++)
					y[9 * COLS + i] *= 1.003f;
				store(&b, as[k], y);
				expect(&a, &b, false, "a gain of one row");
			}
}

/* Another rule for the scale, and ties that go the other way: what some encoders do. */
static void to_q8_0_otherwise(const float *from, uint8_t *out)
{
	struct st_block_q8_0 *block = (struct st_block_q8_0 *)(void *)out;
	for (int k = 0; k < N / 32; k++, from += 32) {
		float most = fabsf(signed_most(from));
		uint16_t d = st_f32_to_f16(most / (k % 3 ? 126.5f : 127));
		float step = st_f16_to_f32(d);
		block[k].d = d;
		for (int i = 0; i < 32; i++)
			block[k].qs[i] = (int8_t)(step > 0 ? fminf(rintf(from[i] / step), 127) : 0);
	}
}

/* The scale under which the sum of squares is least, of a few. */
static void to_q4_0_searching(const float *from, uint8_t *out)
{
	for (int k = 0; k < N / 32; k++, from += 32) {
		float best = 0;
		double least = INFINITY;
		for (int j = -6; j <= 6; j++) {
			float step = signed_most(from) / (float)(-8 + 0.1 * j);
			double sum = 0;
			for (int i = 0; i < 32 && step != 0; i++) {
				double e = from[i] - step * fmin(fmax(rint((double)(from[i] / step)), -8), 7);
				sum += e * e;
			}
			if (sum < least) {
				least = sum;
				best = step;
			}
		}
		put_q4_0((struct st_block_q4_0 *)(void *)(out + 18 * k), from, best, NULL);
	}
}

static void two_encoders_of_one_type_are_noise(void **state)
{
	(void)state;
	const struct type as[] = { BF16, F16, F32 };
	const struct type pairs[][2] = {
		{ Q8_0, { ST_DTYPE_Q8_0, to_q8_0_otherwise } },
		{ Q4_0, Q4_0_IMPORTANCE },
		{ Q4_0, { ST_DTYPE_Q4_0, to_q4_0_searching } },
	};
	static float z[N];
	for (int kind = 0; kind < 4; kind++)
		for (size_t g = 0; g < sizeof pairs / sizeof *pairs; g++)
			for (size_t k = 0; k < 12; k++) {
				char what[120];
				if ((k + g) % 4 != (size_t)kind) /* all types at every pair of encoders, and kind by kind */
					continue;
				struct type one = as[k / 4], other = k % 4 < 3 ? as[k % 4] : pairs[g][1];
				size_t unit = st_dtype_info(one.dtype)->block_bytes;
				snprintf(what, sizeof what, "kind %d, encoders %zu as %s and %s", kind, g,
				         st_dtype_info(one.dtype)->name, st_dtype_info(other.dtype)->name);
				draw_more(kind);
				through(pairs[g][0], one, x, &a);
				if (k % 4 < 3)
					through(pairs[g][1], other, x, &b);
				else
					store(&b, other, x);
				expect(&a, &b, true, what);
				/*
				 * Units, of F32 beyond what arithmetic does: in 1 % of the numbers, and where these
				 * leave no grid of 4 bits, by which the numbers are an original, in 0.1 %.
				 */
				static uint8_t sound[N * 4];
				memcpy(sound, a.bytes, sizeof sound);
				for (int i = 5; i < N; i += g ? 1000 : 100) {
					a.bytes[unit * (size_t)i + (one.dtype == ST_DTYPE_F32)] ^= 1;
					a.bytes[unit * (size_t)i + 1] ^= one.dtype == ST_DTYPE_F32 ? 2 : 0;
				}
				/* Of numbers that are all large a unit is a step of their grid. */
				if (kind < 3)
					expect(&a, &b, false, strcat(what, ", units"));
				/* A row that is another's. */
				memcpy(a.bytes, sound, sizeof sound);
				memcpy(a.bytes + COLS * unit * 7, sound + COLS * unit * 8, COLS * unit);
				expect(&a, &b, false, strcat(what, ", a row"));
				/* Noise before the blocks; refitted scales hide as much of it as they do in blocks. */
				disturb(g ? 0.3 : 0.01);
				memcpy(z, y, sizeof z);
				through(pairs[g][0], one, z, &a);
				expect(&a, &b, false, strcat(what, ", noise"));
			}
	/* A gain is no other scale, since all codes are kept. */
	for (size_t g = 0; g < 2; g++)
		for (size_t k = 0; k < 3; k++) {
			draw_more(0);
			store(&a, g ? Q4_0 : Q8_0, x);
			st_dtype_info(a.t.dtype)->decode(a.bytes, x, N);
			store(&a, as[k], x);
			for (int i = 0; i < N; i++)
				y[i] = x[i] * 1.01f;
			store(&b, as[k], y);
			expect(&a, &b, false, "a gain of 1.01");
		}
}

static void a_small_gain_is_seen(void **state)
{
	(void)state;
	draw(0);
	for (int i = 0; i < N; i++)
		y[i] = x[i] * 1.003f;
	store(&a, BF16, y);
	store(&b, BF16, x);
	expect(&a, &b, false, "1.003 in BF16");
	store(&b, F32, x);
	expect(&a, &b, false, "1.003 in BF16 against F32");
	store(&a, Q8_0, y);
	expect(&a, &b, false, "1.003 in Q8_0 against F32");
	/* Refitted scales may hide 1 %, but not a tenth. */
	for (int i = 0; i < N; i++)
		y[i] = x[i] * 1.1f;
	store(&a, Q4_0_IMPORTANCE, y);
	expect(&a, &b, false, "1.1 in Q4_0 by importance against F32");
}

/* A gain is asked of the sums that importances make zero, to which clipped numbers add what their weight lets them. */
static void refits_are_those_of_importances(void **state)
{
	(void)state;
	const struct type CLIPPING = { ST_DTYPE_Q4_0, to_q4_0_clipping };
	draw(0);
	for (int i = 3; i < COLS; i += 32)
		x[5 * COLS + i] = 0.2f;
	store(&a, CLIPPING, x);
	store(&b, F32, x);
	expect(&a, &b, true, "large numbers of no importance");
	draw(0);
	store(&b, F32, x);
	const double gains[] = { 0.9, 1.1, 1.3 };
	for (size_t k = 0; k < sizeof gains / sizeof *gains; k++) {
		for (int i = 0; i < N; i++)
			y[i] = (float)(x[i] * gains[k]);
		store(&a, Q4_0_IMPORTANCE, y);
		{
			char what[64];
			snprintf(what, sizeof what, "gain %g", gains[k]);
			expect(&a, &b, false, what);
		}
	}
	/* Two encoders, and one scale too many by two: every other block is equal. */
	store(&a, Q4_0, x);
	store(&b, Q4_0_IMPORTANCE, x);
	expect(&a, &b, true, "with and without importance");
	store(&a, Q4_0_IMPORTANCE, x);
	seed = 77;
	expect(&a, &b, true, "two sets of importances");
	store(&a, Q4_0_IMPORTANCE, x);
	memcpy(&b, &a, sizeof b);
	b.t.data = b.bytes;
	b.w.tensor = &b.t;
	b.bytes[18 * 33 + 1] = (uint8_t)(b.bytes[18 * 33 + 1] + 4);
	expect(&a, &b, false, "one scale doubled");
	for (int k = 0; k < N / 32; k++)
		b.bytes[18 * k + 1] = (uint8_t)(a.bytes[18 * k + 1] + 4);
	expect(&a, &b, false, "all scales doubled");
}

/* A row, and a column, among many that agree. */
static void one_row_is_seen(void **state)
{
	(void)state;
	const struct type types[] = { BF16, Q8_0, Q4_0, Q4_0_IMPORTANCE };
	for (size_t k = 0; k < sizeof types / sizeof *types; k++) {
		draw(0);
		store(&b, F32, x);
		memcpy(y, x, sizeof y);
		for (int i = 0; i < COLS; i++)
			y[5 * COLS + i] *= 1.3f;
		store(&a, types[k], y);
		struct st_pair_summary s = judge(&a, &b);
		assert_false(s.noise);
		assert_int_equal(s.bad_rows, 1);
		assert_int_equal(s.first_bad, 5);
		memcpy(y, x, sizeof y);
		for (int r = 0; r < ROWS; r++)
			y[r * COLS + 9] = 0;
		store(&a, types[k], y);
		expect(&a, &b, false, "a column of zeros");
	}
}

/* Every number rounded by the same amount: to whole steps of a tensor (AprQ8), or to 6 from 7.68 (MXFP4). */
static void one_error_for_all_is_noise(void **state)
{
	(void)state;
	draw(0);
	for (int i = 0; i < N; i++) {
		double sign = fabs(x[i]) < 0.02 ? 0 : x[i] < 0 ? -1 : 1;
		y[i] = (float)(sign * 1.49);
		a.bytes[i] = (uint8_t)(int8_t)sign;
	}
	a.bytes[0] = 127; /* what makes the step 1 */
	y[0] = 127;
	store_as(&a, ST_DTYPE_APR_Q8, 1);
	store(&b, F32, y);
	expect(&a, &b, true, "AprQ8");
	for (int i = 0; i < N; i++) {
		int sign = fabs(x[i]) < 0.02 ? 0 : x[i] < 0 ? -1 : 1;
		struct st_block_mxfp4 *m = (struct st_block_mxfp4 *)(void *)a.bytes + i / 32;
		int at = i % 32, code = sign > 0 ? 7 : sign < 0 ? 15 : 0; /* 6, -6, 0 */
		m->e = 127;
		if (at < 16)
			m->qs[at] = (uint8_t)code;
		else
			m->qs[at - 16] |= (uint8_t)(code << 4);
		y[i] = (float)(sign * 7.68);
	}
	store_as(&a, ST_DTYPE_MXFP4, 1);
	store(&b, F32, y);
	expect(&a, &b, true, "MXFP4");
}

/* How large the cells let one expect the difference: what it is, where an encoder does nothing but round. */
static void the_expected_size_is_the_measured_one(void **state)
{
	(void)state;
	const struct type types[] = { F16, BF16, Q8_0, Q4_0 };
	for (int kind = 0; kind < 3; kind++) {
		draw(kind);
		store(&b, F32, x);
		for (size_t k = 0; k < sizeof types / sizeof *types; k++) {
			store(&a, types[k], x);
			struct st_pair_summary s = judge(&a, &b);
			double ratio = s.rel / s.predicted;
			/* A channel far below the step of its block has a smaller error than half of it. */
			if (!(ratio > (kind == 2 ? 0.7 : 0.93) && ratio < 1.07))
				fail_msg("kind %d, %s: %.3f", kind, st_dtype_info(types[k].dtype)->name, ratio);
		}
	}
}

/* The second look: faults and equal weights say nothing, the median decides, not the largest. */
static void sizes_are_of_what_is_noise(void **state)
{
	(void)state;
	struct st_weight_diff d[] = {
		{ .status = ST_WEIGHT_EQUAL },
		{ .status = ST_WEIGHT_FAULT, .rel_l2 = 9, .predicted = 1, .judged = 7, .outside = 7 },
		{ .status = ST_WEIGHT_NOISE, .rel_l2 = 0.25, .predicted = 0.25, .judged = 100 },
		{ .status = ST_WEIGHT_NOISE, .rel_l2 = 0.75, .predicted = 0.25, .judged = 50, .outside = 1 },
		{ .status = ST_WEIGHT_NOISE, .rel_l2 = 0.3, .predicted = 0.25, .judged = 10 },
		{ .status = ST_WEIGHT_ONLY_A, .rel_l2 = INFINITY },
	};
	struct st_noise_sizes z;
	struct st_error err = ST_ERROR_INIT;
	assert_ok(st_noise_sizes_of(d, sizeof d / sizeof *d, &z, &err), &err);
	assert_int_equal(z.tensors, 3);
	assert_int_equal(z.judged, 160);
	assert_int_equal(z.outside, 1);
	assert_true(z.least == 1 && z.median == 0.3 / 0.25 && z.most == 3);
	assert_int_equal(z.over_twice, 1);
	d[4].rel_l2 = 0.6;
	assert_ok(st_noise_sizes_of(d, sizeof d / sizeof *d, &z, &err), &err);
	assert_int_equal(z.over_twice, 2);
	assert_ok(st_noise_sizes_of(d, 2, &z, &err), &err);
	assert_int_equal(z.tensors, 0);
	assert_ok(st_noise_sizes_of(NULL, 0, &z, &err), &err);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(one_original_is_noise),
		cmocka_unit_test(uneven_levels_are_noise),
		cmocka_unit_test(two_steps_are_noise),
		cmocka_unit_test(one_step_for_all_shows_in_finer_types),
		cmocka_unit_test(ties_are_noise),
		cmocka_unit_test(a_little_noise_is_seen),
		cmocka_unit_test(one_unit_in_a_hundred_is_seen),
		cmocka_unit_test(another_original_is_noise),
		cmocka_unit_test(the_same_chain_is_equal_or_not),
		cmocka_unit_test(two_encoders_of_one_type_are_noise),
		cmocka_unit_test(a_small_gain_is_seen),
		cmocka_unit_test(refits_are_those_of_importances),
		cmocka_unit_test(one_row_is_seen),
		cmocka_unit_test(one_error_for_all_is_noise),
		cmocka_unit_test(the_expected_size_is_the_measured_one),
		cmocka_unit_test(sizes_are_of_what_is_noise),
	};
	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
