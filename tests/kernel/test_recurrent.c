/* Operations with a state against loops in long double: at once, in two calls, token by token, on any number of threads. */
#include "kernel_test.h"
#include "pools.h"

#include "kernel/choice.h"
#include "kernel/recurrent.h"

#include "base/rng.h"

#include <math.h>

enum { T = 11 };

static struct st_features at(const float *x, size_t ld, size_t t) { return (struct st_features){ x + t * ld, ld }; }

static void fill(float *x, size_t n, uint64_t seed)
{
	struct st_xoshiro r;
	st_xoshiro_seed(&r, seed);
	for (size_t i = 0; i < n; i++)
		x[i] = uniform(&r);
}

/* y is what the loops give, and the same bits come out in any pieces. `run` evaluates tokens t to t + n. */
struct recurrence {
	void (*run)(const struct st_exec *e, size_t t, size_t n, double *state, float *y);
	size_t width, state;
};

static void check(const struct recurrence *r, const long double *want)
{
	static const size_t pieces[] = { T, 4, 1 };
	float *first = malloc(T * r->width * sizeof *first), *y = malloc(T * r->width * sizeof *y);
	double *state = malloc(r->state * sizeof *state);
	for (size_t k = 0; k < 3; k++)
		for (unsigned threads = 1; threads <= 3; threads += 2) {
			struct st_exec e = st_exec_default();
			e.pool = pool_of(threads);
			memset(state, 0, r->state * sizeof *state);
			for (size_t t = 0; t < T; t += pieces[k])
				r->run(&e, t, T - t < pieces[k] ? T - t : pieces[k], state, y + t * r->width);
			if (k == 0 && threads == 1)
				memcpy(first, y, T * r->width * sizeof *y);
			assert_memory_equal(first, y, T * r->width * sizeof *y);
		}
	for (size_t i = 0; i < T * r->width; i++)
		assert_true(fabsl(first[i] - want[i]) <= 0x1.01p-24L * fabsl(want[i]) + 1e-13L);
	/* Without a result the state goes on alike. */
	struct st_exec e = st_exec_default();
	memset(state, 0, r->state * sizeof *state);
	r->run(&e, 0, T - 1, state, NULL);
	r->run(&e, T - 1, 1, state, y);
	assert_memory_equal(first + (T - 1) * r->width, y, r->width * sizeof *y);
	free(first);
	free(y);
	free(state);
}

/* ---- convolution ---- */

enum { C = 5, TAPS = 4 };
static float conv_x[T * (C + 2)], conv_w[C * TAPS];

static void run_conv(const struct st_exec *e, size_t t, size_t n, double *state, float *y)
{
	st_conv(e, conv_x + t * (C + 2), C + 2, conv_w, n, C, TAPS, state, y);
}

static void convolution(void **state)
{
	(void)state;
	long double want[T * C] = { 0 };
	fill(conv_x, T * (C + 2), 1);
	fill(conv_w, C * TAPS, 2);
	for (size_t t = 0; t < T; t++)
		for (size_t c = 0; c < C; c++)
			for (size_t k = 0; k < TAPS; k++)
				if (t + k + 1 >= TAPS)
					want[t * C + c] += (long double)conv_w[c * TAPS + k]
					                 * conv_x[(t + k + 1 - TAPS) * (C + 2) + c];
	check(&(struct recurrence){ run_conv, C, C * (TAPS - 1) }, want);
}

/* ---- delta rule ---- */

enum { H = 4, KH = 2, DK = 3, DV = 5 };
static float dq[T * KH * DK], dkey[T * H * DK], dval[T * H * DV], dg[T * H * DK], dbeta[T * H];
static bool g_each;

static void run_delta(const struct st_exec *e, size_t t, size_t n, double *state, float *y)
{
	size_t kh = g_each ? H : KH, g = g_each ? H * DK : H;
	struct st_delta_shape s = {
		.T = n, .heads = H, .key_heads = kh, .dk = DK, .dv = DV, .g_each = g_each, .scale = 0.3
	};
	st_delta_rule(e, &s, at(g_each ? dkey : dq, kh * DK, t), at(dkey, kh * DK, t), at(dval, H * DV, t),
	              at(dg, g, t), at(dbeta, H, t), state, y);
}

/* S as a matrix, S <- S exp(g) + k (v - k S) beta, in the form of Yang et al.: (1 - beta k k^T) S + beta k v^T. */
static void delta(bool each)
{
	long double S[H][DK][DV] = { 0 }, want[T * H * DV];
	size_t kh = each ? H : KH;
	g_each = each;
	for (size_t t = 0; t < T; t++)
		for (size_t h = 0; h < H; h++) {
			const float *q = (each ? dkey : dq) + (t * kh + h * kh / H) * DK,
				    *k = dkey + (t * kh + h * kh / H) * DK;
			long double next[DK][DV], beta = dbeta[t * H + h];
			for (size_t i = 0; i < DK; i++)
				for (size_t c = 0; c < DV; c++)
					S[h][i][c] *= expl(each ? dg[(t * H + h) * DK + i] : dg[t * H + h]);
			for (size_t i = 0; i < DK; i++)
				for (size_t c = 0; c < DV; c++) {
					next[i][c] = S[h][i][c] + beta * k[i] * dval[(t * H + h) * DV + c];
					for (size_t m = 0; m < DK; m++)
						next[i][c] -= beta * k[i] * k[m] * S[h][m][c];
				}
			memcpy(S[h], next, sizeof next);
			for (size_t c = 0; c < DV; c++) {
				long double sum = 0;
				for (size_t i = 0; i < DK; i++)
					sum += q[i] * S[h][i][c];
				want[(t * H + h) * DV + c] = sum * 0.3;
			}
		}
	check(&(struct recurrence){ run_delta, H * DV, H * DK * DV }, want);
}

static void delta_rule(void **state)
{
	(void)state;
	fill(dq, T * KH * DK, 3);
	fill(dkey, T * H * DK, 4);
	fill(dval, T * H * DV, 5);
	fill(dg, T * H * DK, 6);
	fill(dbeta, T * H, 7);
	delta(false);
	delta(true);
}

/* ---- linear attention ---- */

static float lfirst[H * DK];
static enum { NO_DECAYS, OF_HEADS, OF_FEATURES } decays;
static bool with_first;

static void run_linear(const struct st_exec *e, size_t t, size_t n, double *state, float *y)
{
	struct st_linear_attention_shape s = { .T = n, .heads = H, .dk = DK, .dv = DV, .g_each = decays == OF_FEATURES,
		                               .slopes = 8, .slope_scale = 0.7, .scale = 0.3 };
	size_t g = decays == OF_FEATURES ? H * DK : H;
	st_linear_attention(e, &s, at(dkey, H * DK, t), at(dg, H * DK, t), at(dval, H * DV, t),
	                    decays == NO_DECAYS ? (struct st_features){ 0 } : at(dbeta, g, t), with_first ? lfirst : NULL, state, y);
}

/* Unrolled: every value before, weighed by q k and by all decays since. */
static void linear_attention(void **state)
{
	(void)state;
	fill(dkey, T * H * DK, 20);
	fill(dg, T * H * DK, 21); /* keys here */
	fill(dval, T * H * DV, 22);
	fill(dbeta, T * H, 23);
	fill(lfirst, H * DK, 25);
	for (int kind = NO_DECAYS; kind <= OF_HEADS; kind++)
		for (int first = 0; first < 2; first++) {
			long double want[T * H * DV] = { 0 };
			decays = kind;
			with_first = first;
			for (size_t t = 0; t < T; t++)
				for (size_t h = 0; h < H; h++)
					for (size_t s = 0; s <= t; s++)
						for (size_t i = 0; i < DK; i++) {
							/* with a weight for the newest token decays begin behind the next one's result */
							long double power = 0, by = 1;
							for (size_t u = s + 1; u + (first ? 1 : 0) <= t; u++)
								power += kind == NO_DECAYS ? -0.7L * powl(2, -8.0L * (h + 1) / H) : dbeta[u * H + h];
							if (first && s == t)
								by = lfirst[h * DK + i];
							for (size_t c = 0; c < DV; c++)
								want[(t * H + h) * DV + c] += 0.3L * dkey[(t * H + h) * DK + i] * dg[(s * H + h) * DK + i]
								                            * by * expl(power) * dval[(s * H + h) * DV + c];
						}
			check(&(struct recurrence){ run_linear, H * DV, H * DK * DV }, want);
		}
}

/* A decay for each feature, equal in all of them, is one for each head. */
static void decays_of_features(void **state)
{
	(void)state;
	static float g[T * H * DK], y[2][T * H * DV];
	double S[H * DK * DV];
	struct st_exec e = st_exec_default();
	e.pool = pool_of(1);
	for (size_t i = 0; i < T * H * DK; i++)
		g[i] = dbeta[i / DK];
	for (int each = 0; each < 2; each++) {
		struct st_linear_attention_shape s = { .T = T, .heads = H, .dk = DK, .dv = DV, .g_each = each, .scale = 1 };
		memset(S, 0, sizeof S);
		st_linear_attention(&e, &s, at(dkey, H * DK, 0), at(dg, H * DK, 0), at(dval, H * DV, 0),
		                    each ? at(g, H * DK, 0) : at(dbeta, H, 0), NULL, S, y[each]);
	}
	assert_memory_equal(y[0], y[1], sizeof y[0]);
	/* One feature's decay is its own: with g = -inf but in feature 1, only what feature 1 saw is left. */
	for (size_t i = 0; i < T * H * DK; i++)
		g[i] = i % DK == 1 ? 0 : -1e30f;
	struct st_linear_attention_shape s = { .T = T, .heads = H, .dk = DK, .dv = DV, .g_each = true, .scale = 1 };
	memset(S, 0, sizeof S);
	st_linear_attention(&e, &s, at(dkey, H * DK, 0), at(dg, H * DK, 0), at(dval, H * DV, 0), at(g, H * DK, 0), NULL, S, y[0]);
	for (size_t h = 0; h < H; h++)
		for (size_t c = 0; c < DV; c++) {
			long double want = 0, t = T - 1;
			for (size_t i = 0; i < DK; i++)
				for (size_t u = i == 1 ? 0 : T - 1; u < T; u++)
					want += (long double)dkey[((size_t)t * H + h) * DK + i] * dg[(u * H + h) * DK + i]
					      * dval[(u * H + h) * DV + c];
			assert_true(fabsl(y[0][((size_t)t * H + h) * DV + c] - want) <= 0x1.01p-24L * fabsl(want) + 1e-13L);
		}
}

/* ---- scan ---- */

enum { P = 3, G = 2, N = 6 };
static float sx[T * H * P], sdt[T * H], sB[T * G * N], sC[T * G * N], sA[H * N], sD[H];
static bool a_each;

static void run_scan(const struct st_exec *e, size_t t, size_t n, double *state, float *y)
{
	struct st_scan_shape s = { .T = n, .heads = H, .head_dim = P, .groups = G, .N = N, .a_each = a_each };
	st_scan(e, &s, at(sx, H * P, t), at(sdt, H, t), at(sB, G * N, t), at(sC, G * N, t), sA, sD, state, y);
}

/* Unrolled: y[t] = sum over s <= t of C[t] exp(sum of dt A behind s) dt[s] B[s] x[s], plus D x[t]. */
static void scan(void **state)
{
	(void)state;
	fill(sx, T * H * P, 8);
	fill(sdt, T * H, 9);
	fill(sB, T * G * N, 10);
	fill(sC, T * G * N, 11);
	fill(sA, H * N, 12);
	fill(sD, H, 13);
	for (int each = 0; each < 2; each++) {
		long double want[T * H * P];
		a_each = each;
		for (size_t t = 0; t < T; t++)
			for (size_t i = 0; i < H * P; i++) {
				size_t h = i / P, g = h * G / H;
				long double sum = (long double)sD[h] * sx[t * H * P + i];
				for (size_t n = 0; n < N; n++)
					for (size_t s = 0; s <= t; s++) {
						long double A = each ? sA[h * N + n] : sA[h], power = 0;
						for (size_t u = s + 1; u <= t; u++)
							power += sdt[u * H + h] * A;
						sum += sC[(t * G + g) * N + n] * expl(power) * sdt[s * H + h]
						     * sB[(s * G + g) * N + n] * sx[s * H * P + i];
					}
				want[t * H * P + i] = sum;
			}
		check(&(struct recurrence){ run_scan, H * P, H * P * N }, want);
	}
}

/* ---- single features ---- */

enum { D = 6 };
static float fx[T * D], fr[T * D], fi[T * D], fp[D], fw[D];

static void run_lru(const struct st_exec *e, size_t t, size_t n, double *state, float *y)
{
	st_lru(e, at(fx, D, t), at(fr, D, t), at(fi, D, t), fp, n, D, t == 0, state, y);
}

static void run_shift(const struct st_exec *e, size_t t, size_t n, double *state, float *y)
{
	st_token_shift(e, fx + t * D, D, fw, n, D, state, y);
}

static void run_before(const struct st_exec *e, size_t t, size_t n, double *state, float *y)
{
	st_token_shift(e, fx + t * D, D, NULL, n, D, state, y);
}

static void run_wkv(const struct st_exec *e, size_t t, size_t n, double *state, float *y)
{
	st_wkv(e, at(fx, D, t), at(fi, D, t), fp, fw, n, D, t == 0, state, y);
}

static void features(void **state)
{
	(void)state;
	long double lru[T * D], shift[T * D], before[T * D], wkv[T * D];
	fill(fx, T * D, 14);
	fill(fr, T * D, 15);
	fill(fi, T * D, 16);
	fill(fp, D, 17);
	fill(fw, D, 18);
	for (size_t i = 0; i < T * D; i++) /* gates lie between 0 and 1 */
		fr[i] = fabsf(fr[i]), fi[i] = fabsf(fi[i]);
	for (size_t d = 0; d < D; d++)
		for (size_t t = 0; t < T; t++) {
			long double a = expl(-8 * fr[t * D + d] * logl(1 + expl(fp[d]))),
				    in = (long double)fi[t * D + d] * fx[t * D + d];
			lru[t * D + d] = t ? a * lru[(t - 1) * D + d] + sqrtl(1 - a * a) * in : in;
			shift[t * D + d] = (long double)fw[d] * fx[t * D + d]
			                 + (t ? (1 - (long double)fw[d]) * fx[(t - 1) * D + d] : 0);
			before[t * D + d] = t ? fx[(t - 1) * D + d] : 0;
			long double num = expl((long double)fw[d] + fx[t * D + d]) * fi[t * D + d],
				    den = expl((long double)fw[d] + fx[t * D + d]);
			for (size_t s = 0; s < t; s++) {
				long double share = expl(fx[s * D + d] - (long double)(t - 1 - s) * expl(fp[d]));
				num += share * fi[s * D + d];
				den += share;
			}
			wkv[t * D + d] = num / den;
		}
	check(&(struct recurrence){ run_lru, D, D }, lru);
	check(&(struct recurrence){ run_shift, D, D }, shift);
	check(&(struct recurrence){ run_wkv, D, 3 * D }, wkv);
	check(&(struct recurrence){ run_before, D, D }, before);
}

static void edges(void **state)
{
	(void)state;
	static const float x[] = { -80, -19, -1, 0, 0.5f, 30, 50, 1e30f };
	float y[8];
	st_softplus(x, 8, y);
	for (size_t i = 0; i < 8; i++)
		assert_true(ulps_f32(y[i], (double)(x[i] > 50 ? (long double)x[i] : log1pl(expl(x[i])))) <= 0.501);
	const float v[] = { 3, -4, 0 };
	st_l2norm(v, 0, 3, y);
	assert_true(y[0] == 0.6f && y[1] == -0.8f && y[2] == 0);
	st_l2norm(v, 75, 3, y); /* 25 + 75 */
	assert_true(y[0] == 0.3f && y[1] == -0.4f);
}

int main(void)
{
	const struct CMUnitTest tests[] = { cmocka_unit_test(convolution), cmocka_unit_test(delta_rule),
		                            cmocka_unit_test(linear_attention), cmocka_unit_test(decays_of_features),
		                            cmocka_unit_test(scan), cmocka_unit_test(features),
		                            cmocka_unit_test(edges) };
	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests_name("kernel recurrent", tests, NULL, NULL);
}
