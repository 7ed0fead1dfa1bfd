/*
 * Norms, rotary embedding, attention, sums, Walsh-Hadamard: each against a plain loop in long double, and
 * the same bits at every level, number of threads and chunking of tokens. Buffers lie between guard pages.
 */
#include "kernel_test.h"
#include "pools.h"

#include "dtype/half.h"
#include "kernel/choice.h"
#include "kernel/kernels.h"

/* Calls body once per level and thread count with `e` set; `mode` in scope. */
#define EACH_EXEC(e)                                                                      \
	const struct st_kernels *levels_[ST_CPU_COUNT];                                   \
	size_t n_levels_ = usable_levels(levels_), turn_ = 0;                             \
	for (struct st_exec e = { .k = levels_[0], .mode = mode }; turn_ < 2 * n_levels_; \
	     turn_++, e.k = levels_[turn_ / 2 % n_levels_], e.pool = pool_of(turn_ % 2 ? 3 : 1))

static void same_bits(const char *what, const struct st_exec *e, const float *got, const float *want, size_t n)
{
	for (size_t i = 0; i < n; i++)
		if (memcmp(&got[i], &want[i], 4) != 0)
			fail_msg("%s, %s, %s, %u threads: [%zu] is %a, scalar says %a", what, st_mode_name(e->mode),
			         st_cpu_name(st_kernels_cpu(e->k)), st_pool_threads(e->pool), i, (double)got[i],
			         (double)want[i]);
}

static void rmsnorm(void **state)
{
	(void)state;
	static const size_t Ds[] = { 1, 7, 8, 64, 129, 3584 };
	struct st_xoshiro r;
	st_xoshiro_seed(&r, 1);
	for (size_t c = 0; c < sizeof Ds / sizeof Ds[0]; c++)
		for (int weighted = 0; weighted < 2; weighted++)
			for (int side = 0; side < 2; side++) {
				enum st_mode mode = weighted ? ST_MODE_EXACT : ST_MODE_FAST;
				size_t D = Ds[c], T = 9, ld = D + 2, n = (T - 1) * ld + D;
				struct guarded gx, gw, gy;
				float *x = guard_alloc(&gx, n * 4, side), *w = guard_alloc(&gw, D * 4, side),
				      *y = guard_alloc(&gy, T * D * 4, side);
				float *first = malloc(T * D * 4);
				fill_values(&r, x, n);
				fill_values(&r, w, D);
				EACH_EXEC(e)
				{
					st_rmsnorm(&e, x, ld, weighted ? w : NULL, 1e-6, T, D, y, D);
					if (turn_ == 0)
						memcpy(first, y, T * D * 4);
					same_bits("rmsnorm", &e, y, first, T * D);
				}
				for (size_t t = 0; t < T; t++) {
					long double sum = 0;
					for (size_t i = 0; i < D; i++)
						sum += (long double)x[t * ld + i] * x[t * ld + i];
					long double d = sqrtl(sum / D + 1e-6L);
					for (size_t i = 0; i < D; i++)
						assert_true(ulps_f32(first[t * D + i],
						                     (double)(x[t * ld + i] / d
						                              * (weighted ? (long double)w[i] : 1)))
						            <= 0.5001);
				}
				free(first);
				guard_free(&gx);
				guard_free(&gw);
				guard_free(&gy);
			}
}

static void rope(void **state)
{
	(void)state;
	static const struct {
		size_t T, H, d, rot;
		double mscale;
	} cases[] = {
		{ 5, 3, 64, 64, 1 },     { 3, 2, 128, 96, 1.25 }, { 7, 1, 6, 2, 1 },
		{ 2, 4, 256, 256, 0.7 }, { 40, 4, 128, 128, 1 },  { 1, 2, 10, 0, 1 },
	};
	struct st_xoshiro r;
	st_xoshiro_seed(&r, 2);
	for (size_t c = 0; c < sizeof cases / sizeof cases[0]; c++) {
		size_t T = cases[c].T, H = cases[c].H, d = cases[c].d, rot = cases[c].rot, ld = H * d + 3,
		       n = (T - 1) * ld + H * d;
		enum st_mode mode = ST_MODE_EXACT;
		struct guarded gx, gy;
		float *x = guard_alloc(&gx, n * 4, (int)c % 2), *y = guard_alloc(&gy, T * H * d * 4, (int)c % 2),
		      *first = malloc(T * H * d * 4);
		double inv_freq[128];
		uint32_t pos[40];
		fill_values(&r, x, n);
		for (size_t i = 0; i < rot / 2; i++)
			inv_freq[i] = pow(10000.0, -2.0 * (double)i / (double)rot);
		for (size_t t = 0; t < T; t++)
			pos[t] = t == 1 ? 9999999 : (uint32_t)(st_xoshiro_next(&r) % 100000);
		EACH_EXEC(e)
		{
			st_rope(&e, x, ld, T, H, d, rot, inv_freq, cases[c].mscale, pos, y, H * d);
			if (turn_ == 0)
				memcpy(first, y, T * H * d * 4);
			same_bits("rope", &e, y, first, T * H * d);
		}
		for (size_t t = 0; t < T; t++)
			for (size_t h = 0; h < H; h++)
				for (size_t i = 0; i < d; i++) {
					const float *a = x + t * ld + h * d;
					float got = first[(t * H + h) * d + i];
					if (i >= rot) {
						assert_true(got == a[i]);
						continue;
					}
					size_t p = i % (rot / 2);
					long double u = a[p], v = a[p + rot / 2],
						    angle = (long double)((double)pos[t] * inv_freq[p]);
					long double want = (i < rot / 2 ? u * cosl(angle) - v * sinl(angle)
					                                : v * cosl(angle) + u * sinl(angle))
					                 * cases[c].mscale;
					long double bound = fabsl(want) * 0x1.01p-24L
					                  + (fabsl(u) + fabsl(v)) * 0x1p-50L;
					assert_true(fabsl((long double)got - want) <= bound);
				}
		/* in place */
		struct st_exec e = { .k = st_kernels_get(st_cpu_best()), .mode = mode, .pool = pool_of(2) };
		st_rope(&e, x, ld, T, H, d, rot, inv_freq, cases[c].mscale, pos, x, ld);
		for (size_t t = 0; t < T; t++)
			same_bits("rope in place", &e, x + t * ld, first + t * H * d, H * d);
		free(first);
		guard_free(&gx);
		guard_free(&gy);
	}
}

/* ---- attention ---- */

static bool sees(const struct st_attn_shape *s, size_t t, size_t p)
{
	size_t pos = s->P - s->T + t;
	return p <= pos && (s->window == 0 || pos - p < s->window) && (s->chunk == 0 || p / s->chunk == pos / s->chunk);
}

/* ALiBi's slopes as Press et al. and BLOOM have them, as powers of two: of three heads, and of six. */
static double slope(const struct st_attn_shape *s, size_t h)
{
	static const int of_3[] = { -4, -8, -2 }, of_6[] = { -2, -4, -6, -8, -1, -3 };
	if (s->slopes == 0)
		return 0;
	assert_true(s->slopes == 8 && (s->n_heads == 3 || s->n_heads == 6));
	return ldexp(s->slope_scale, s->n_heads == 3 ? of_3[h] : of_6[h]);
}

static float stored(enum st_mode mode, float x)
{
	return mode == ST_MODE_EMULATE_F16  ? st_f16_to_f32(st_f32_to_f16(x))
	     : mode == ST_MODE_EMULATE_BF16 ? st_bf16_to_f32(st_f32_to_bf16(x))
	                                    : x;
}

/* Each stage against long double, from that stage's own inputs. */
static void check_attention(enum st_mode mode, const struct st_attn_shape *s, const float *q, size_t ldq,
                            const float *k, const float *v, size_t ldk, const float *scores, const float *probs,
                            const float *y)
{
	size_t d = s->head_dim, group = s->n_heads / s->n_kv_heads;
	long double eps = mode == ST_MODE_EXACT ? 0x1p-45L : 0x1p-21L;
	for (size_t h = 0; h < s->n_heads; h++)
		for (size_t t = 0; t < s->T; t++) {
			const float *qr = q + t * ldq + h * d, *sc = scores + (h * s->T + t) * s->P,
				    *pr = probs + (h * s->T + t) * s->P;
			long double total = 0, top = -INFINITY;
			for (size_t p = 0; p < s->P; p++) {
				if (!sees(s, t, p)) {
					assert_true(st_f32_bits(sc[p]) == 0 && st_f32_bits(pr[p]) == 0);
					continue;
				}
				const float *kr = k + p * ldk + h / group * d;
				long double dot = 0, size = 0;
				for (size_t i = 0; i < d; i++) {
					long double prod = (long double)stored(mode, qr[i]) * stored(mode, kr[i]);
					dot += prod;
					size += fabsl(prod);
				}
				long double want = dot * s->scale;
				if (s->softcap != 0)
					want = s->softcap * tanhl(want / s->softcap);
				long double room = size * fabsl((long double)s->scale) * eps
				                 + fabsl(want) * 0x1.01p-24L;
				if (s->slopes != 0) { /* rounded once more */
					want -= slope(s, h) * (double)(s->P - s->T + t - p);
					room += fabsl(want) * 0x1.01p-24L;
				}
				assert_true(fabsl(sc[p] - want) <= room);
				top = sc[p] > top ? sc[p] : top;
			}
			for (size_t p = 0; p < s->P; p++)
				if (sees(s, t, p))
					total += expl(sc[p] - top);
			for (size_t p = 0; p < s->P; p++)
				if (sees(s, t, p))
					assert_true(ulps_f32(pr[p], (double)(expl(sc[p] - top) / total)) <= 0.5001);
			for (size_t i = 0; i < d; i++) {
				long double sum = 0, size = 0;
				for (size_t p = 0; p < s->P; p++)
					if (sees(s, t, p)) {
						long double prod = (long double)stored(mode, pr[p])
						                 * stored(mode, v[p * ldk + h / group * d + i]);
						sum += prod;
						size += fabsl(prod);
					}
				assert_true(fabsl(y[(t * s->n_heads + h) * d + i] - sum)
				            <= size * eps + fabsl(sum) * 0x1.01p-24L);
			}
		}
}

static void attention(void **state)
{
	(void)state;
	static const struct st_attn_shape cases[] = {
		{ .T = 1, .P = 1, .n_heads = 1, .n_kv_heads = 1, .head_dim = 8, .scale = 1 },
		{ .T = 9, .P = 9, .n_heads = 4, .n_kv_heads = 2, .head_dim = 64, .scale = 0.125 },
		{ .T = 5, .P = 77, .n_heads = 6, .n_kv_heads = 2, .head_dim = 80, .scale = 0.1118 },
		{ .T = 13,
		  .P = 40,
		  .n_heads = 3,
		  .n_kv_heads = 3,
		  .head_dim = 33,
		  .scale = 0.17,
		  .window = 7,
		  .softcap = 30 },
		{ .T = 3, .P = 300, .n_heads = 2, .n_kv_heads = 1, .head_dim = 300, .scale = 0.05, .window = 129 },
		{ .T = 40,
		  .P = 41,
		  .n_heads = 2,
		  .n_kv_heads = 2,
		  .head_dim = 16,
		  .scale = 0.25,
		  .window = 1,
		  .softcap = 0.5 },
		{ .T = 2, .P = 9, .n_heads = 2, .n_kv_heads = 1, .head_dim = 5, .scale = 1, .window = 1000 },
		{ .T = 13, .P = 20, .n_heads = 2, .n_kv_heads = 1, .head_dim = 5, .scale = 0.5, .chunk = 4 },
		{ .T = 9,
		  .P = 40,
		  .n_heads = 2,
		  .n_kv_heads = 2,
		  .head_dim = 5,
		  .scale = 0.5,
		  .chunk = 7,
		  .window = 5 },
		{ .T = 7,
		  .P = 37,
		  .n_heads = 3,
		  .n_kv_heads = 3,
		  .head_dim = 8,
		  .scale = 0.5,
		  .slopes = 8,
		  .slope_scale = 1 },
		{ .T = 40,
		  .P = 41,
		  .n_heads = 6,
		  .n_kv_heads = 2,
		  .head_dim = 8,
		  .scale = 0.25,
		  .slopes = 8,
		  .slope_scale = 0.3 },
	};
	struct st_xoshiro r;
	st_xoshiro_seed(&r, 3);
	for (size_t c = 0; c < sizeof cases / sizeof cases[0]; c++)
		for (int m = 0; m < ST_MODE_COUNT; m++) {
			const struct st_attn_shape *s = &cases[c];
			enum st_mode mode = (enum st_mode)m;
			size_t d = s->head_dim, wq = s->n_heads * d, wk = s->n_kv_heads * d, ldq = wq + 1, ldk = wk + 5,
			       cells = s->n_heads * s->T * s->P;
			size_t nq = (s->T - 1) * ldq + wq, nk = (s->P - 1) * ldk + wk;
			struct guarded gq, gk, gv, gs, gy;
			int side = (int)(c + (size_t)m) % 2;
			float *q = guard_alloc(&gq, nq * 4, side), *k = guard_alloc(&gk, nk * 4, side),
			      *v = guard_alloc(&gv, nk * 4, side);
			float *scores = guard_alloc(&gs, cells * 4, side), *y = guard_alloc(&gy, s->T * wq * 4, side);
			float *s1 = malloc(cells * 4), *p1 = malloc(cells * 4), *y1 = malloc(s->T * wq * 4);
			for (size_t i = 0; i < nq; i++)
				q[i] = uniform(&r) * 3;
			for (size_t i = 0; i < nk; i++) {
				k[i] = uniform(&r) * 3;
				v[i] = uniform(&r);
			}
			EACH_EXEC(e)
			{
				memset(scores, 0xFF, cells * 4);
				st_attn_scores(&e, s, q, ldq, k, ldk, scores);
				if (turn_ == 0)
					memcpy(s1, scores, cells * 4);
				same_bits("scores", &e, scores, s1, cells);
				st_attn_softmax(&e, s, scores, scores);
				if (turn_ == 0)
					memcpy(p1, scores, cells * 4);
				same_bits("softmax", &e, scores, p1, cells);
				st_attn_mix(&e, s, scores, v, ldk, y);
				if (turn_ == 0)
					memcpy(y1, y, s->T * wq * 4);
				same_bits("mix", &e, y, y1, s->T * wq);
			}
			check_attention(mode, s, q, ldq, k, v, ldk, s1, p1, y1);
			/* Token by token with the cache as it was then: the same bits. */
			for (size_t t = 0; t < s->T; t++) {
				struct st_attn_shape one = *s;
				struct st_exec e = { .k = st_kernels_get(st_cpu_best()), .mode = mode };
				one.T = 1;
				one.P = s->P - s->T + t + 1;
				float *cell = malloc(s->n_heads * one.P * 4), *out = malloc(wq * 4);
				st_attn_scores(&e, &one, q + t * ldq, ldq, k, ldk, cell);
				for (size_t h = 0; h < s->n_heads; h++)
					same_bits("one token's scores", &e, cell + h * one.P,
					          s1 + (h * s->T + t) * s->P, one.P);
				st_attn_softmax(&e, &one, cell, cell);
				st_attn_mix(&e, &one, cell, v, ldk, out);
				same_bits("one token's mix", &e, out, y1 + t * wq, wq);
				free(cell);
				free(out);
			}
			free(s1);
			free(p1);
			free(y1);
			guard_free(&gq);
			guard_free(&gk);
			guard_free(&gv);
			guard_free(&gs);
			guard_free(&gy);
		}
}

/* What no token sees must not touch the result, whatever it holds; what one sees must. */
static void attention_passes_on_what_is_not_finite(void **state)
{
	(void)state;
	enum { P = 20, T = 4, d = 8 };
	struct st_attn_shape s = {
		.T = T, .P = P, .n_heads = 1, .n_kv_heads = 1, .head_dim = d, .scale = 0.3, .window = 6
	};
	float q[T * d], k[P * d], v[P * d], scores[T * P], y[T * d];
	for (int m = 0; m < ST_MODE_COUNT; m++) {
		enum st_mode mode = (enum st_mode)m;
		EACH_EXEC(e)
		{
			for (size_t i = 0; i < T * d; i++)
				q[i] = 1;
			for (size_t i = 0; i < P * d; i++)
				k[i] = v[i] = (float)(i % 5) - 2;
			k[3 * d] = NAN; /* before every window: token 0 is position 16 and sees 11.. */
			v[4 * d] = INFINITY;
			k[18 * d] = NAN;          /* position 18: tokens 2 and 3 */
			v[11 * d + 1] = INFINITY; /* token 0 only */
			st_attn_scores(&e, &s, q, d, k, d, scores);
			st_attn_softmax(&e, &s, scores, scores);
			st_attn_mix(&e, &s, scores, v, d, y);
			for (size_t t = 0; t < T; t++)
				for (size_t i = 0; i < d; i++) {
					if (t >= 2)
						assert_int_equal(st_f32_bits(y[t * d + i]), 0x7FC00000);
					else if (t == 0 && i == 1)
						assert_true(isinf(y[t * d + i]));
					else
						assert_true(isfinite(y[t * d + i]));
				}
		}
	}
}

/* A sink takes its share of a head's probabilities. */
static void softmax_sinks(void **state)
{
	(void)state;
	enum { T = 5, P = 9, H = 2 };
	enum st_mode mode = ST_MODE_EXACT;
	struct st_attn_shape s = {
		.T = T, .P = P, .n_heads = H, .n_kv_heads = 1, .head_dim = 1, .scale = 1, .window = 4
	};
	static const float sinks[H] = { 0.7f, -2 }, far[H] = { 1e30f, -INFINITY };
	float scores[H * T * P], got[H * T * P], first[H * T * P];
	struct st_xoshiro r;
	st_xoshiro_seed(&r, 12);
	for (size_t i = 0; i < H * T * P; i++)
		scores[i] = uniform(&r) * 4;
	EACH_EXEC(e)
	{
		st_attn_softmax_sinks(&e, &s, scores, sinks, got);
		if (turn_ == 0)
			memcpy(first, got, sizeof got);
		same_bits("sinks", &e, got, first, H * T * P);
		for (size_t h = 0; h < H; h++)
			for (size_t t = 0; t < T; t++) {
				const float *x = scores + (h * T + t) * P, *y = got + (h * T + t) * P;
				long double sum = expl(sinks[h]);
				for (size_t p = 0; p < P; p++)
					sum += sees(&s, t, p) ? expl(x[p]) : 0;
				for (size_t p = 0; p < P; p++)
					assert_true(sees(&s, t, p)
					                    ? ulps_f32(y[p], (double)(expl(x[p]) / sum)) <= 0.5001
					                    : st_f32_bits(y[p]) == 0);
			}
		/* One that takes all, one that takes nothing. */
		st_attn_softmax_sinks(&e, &s, scores, far, got);
		st_attn_softmax(&e, &s, scores, first);
		for (size_t i = 0; i < T * P; i++)
			assert_true(got[i] == 0 && fabsf(got[T * P + i] - first[T * P + i]) <= 1e-6f);
		st_attn_softmax_sinks(&e, &s, scores, sinks, first);
	}
}

static void softmax_extremes(void **state)
{
	(void)state;
	enum st_mode mode = ST_MODE_EXACT;
	struct st_attn_shape s = { .T = 1, .P = 3, .n_heads = 1, .n_kv_heads = 1, .head_dim = 1, .scale = 1 };
	EACH_EXEC(e)
	{
		float far[3] = { -1e30f, 1e30f, 1e30f }, inf[3] = { 0, -INFINITY, 0 },
		      none[3] = { -INFINITY, -INFINITY, -INFINITY }, top[3] = { INFINITY, 0, 0 };
		st_attn_softmax(&e, &s, far, far);
		assert_true(far[0] == 0 && far[1] == 0.5f && far[2] == 0.5f);
		st_attn_softmax(&e, &s, inf, inf);
		assert_true(inf[0] == 0.5f && inf[1] == 0);
		st_attn_softmax(&e, &s, none, none);
		assert_int_equal(st_f32_bits(none[1]), 0x7FC00000);
		st_attn_softmax(&e, &s, top, top);
		assert_int_equal(st_f32_bits(top[0]), 0x7FC00000);
	}
}

/* ---- sums, products, Walsh-Hadamard ---- */

static void add_mul_bias(void **state)
{
	(void)state;
	enum st_mode mode = ST_MODE_FAST;
	static const size_t ns[] = { 1, 5, 16, 33, 8192, 40001 };
	struct st_xoshiro r;
	st_xoshiro_seed(&r, 4);
	for (size_t c = 0; c < 6; c++) {
		size_t n = ns[c];
		struct guarded ga, gb, gy;
		float *a = guard_alloc(&ga, n * 4, (int)c % 2), *b = guard_alloc(&gb, n * 4, (int)c % 2),
		      *y = guard_alloc(&gy, n * 4, (int)c % 2);
		EACH_EXEC(e)
		{
			fill_values(&r, a, n);
			fill_values(&r, b, n);
			a[n / 2] = -NAN;
			st_add(&e, a, b, n, y);
			for (size_t i = 0; i < n; i++)
				assert_true(i == n / 2 ? st_f32_bits(y[i]) == 0x7FC00000 : y[i] == a[i] + b[i]);
			st_mul(&e, a, b, n, y);
			for (size_t i = 0; i < n; i++)
				assert_true(i == n / 2 ? st_f32_bits(y[i]) == 0x7FC00000 : y[i] == a[i] * b[i]);
			if (n % 5 == 0) {
				st_add_bias(&e, a, b, 5, n / 5, y);
				for (size_t i = 0; i < n; i++)
					assert_true(i == n / 2 || y[i] == a[i] + b[i % (n / 5)]);
			}
			memcpy(y, a, n * 4);
			st_add(&e, y, b, n, y); /* in place */
			for (size_t i = 0; i < n; i++)
				assert_true(i == n / 2 || y[i] == a[i] + b[i]);
		}
		guard_free(&ga);
		guard_free(&gb);
		guard_free(&gy);
	}
}

static void layernorm(void **state)
{
	(void)state;
	enum st_mode mode = ST_MODE_EXACT;
	static const size_t Ds[] = { 1, 7, 8, 64, 129, 1600 };
	struct st_xoshiro r;
	st_xoshiro_seed(&r, 11);
	for (size_t c = 0; c < sizeof Ds / sizeof Ds[0]; c++)
		for (int with = 0; with < 3; with++) { /* nothing, a weight, a weight and a bias */
			size_t D = Ds[c], T = 5, ld = D + 3, n = (T - 1) * ld + D;
			struct guarded gx, gw, gb, gy;
			float *x = guard_alloc(&gx, n * 4, with % 2), *w = guard_alloc(&gw, D * 4, with % 2),
			      *b = guard_alloc(&gb, D * 4, with % 2), *y = guard_alloc(&gy, T * D * 4, with % 2);
			float *first = malloc(T * D * 4);
			fill_values(&r, x, n);
			fill_values(&r, w, D);
			fill_values(&r, b, D);
			EACH_EXEC(e)
			{
				st_layernorm(&e, x, ld, with > 0 ? w : NULL, with > 1 ? b : NULL, 1e-5, T, D, y, D);
				if (turn_ == 0)
					memcpy(first, y, T * D * 4);
				same_bits("layernorm", &e, y, first, T * D);
			}
			for (size_t t = 0; t < T; t++) {
				const float *row = x + t * ld;
				long double mean = 0, var = 0;
				for (size_t i = 0; i < D; i++)
					mean += row[i];
				mean /= (long double)D;
				for (size_t i = 0; i < D; i++)
					var += (row[i] - mean) * (row[i] - mean);
				long double d = sqrtl(var / (long double)D + 1e-5L);
				for (size_t i = 0; i < D; i++) {
					long double want = (row[i] - mean) / d * (with > 0 ? (long double)w[i] : 1),
						    add = with > 1 ? b[i] : 0;
					/* Where the bias cancels the rest, what counts is the error of the parts. */
					long double bound = (fabsl(want) + fabsl(add)) * 0x1p-24L * 1.001L + 0x1p-149L;
					assert_true(fabsl((long double)first[t * D + i] - (want + add)) <= bound);
				}
			}
			free(first);
			guard_free(&gx);
			guard_free(&gw);
			guard_free(&gb);
			guard_free(&gy);
		}
}

static void scale_and_cap(void **state)
{
	(void)state;
	enum st_mode mode = ST_MODE_FAST;
	struct st_xoshiro r;
	st_xoshiro_seed(&r, 12);
	size_t n = 777;
	struct guarded gx, gy;
	float *x = guard_alloc(&gx, n * 4, 1), *y = guard_alloc(&gy, n * 4, 1);
	fill_values(&r, x, n);
	EACH_EXEC(e)
	{
		st_scale(&e, x, 0.1, n, y);
		for (size_t i = 0; i < n; i++)
			assert_true(y[i] == (float)((double)x[i] * 0.1));
		st_cap(&e, x, 3, n, y);
		for (size_t i = 0; i < n; i++)
			assert_true(ulps_f32(y[i], (double)(3 * tanhl((long double)x[i] / 3))) <= 0.51);
	}
	guard_free(&gx);
	guard_free(&gy);
}

static void plain_activations(void **state)
{
	(void)state;
	enum st_mode mode = ST_MODE_FAST;
	struct st_xoshiro r;
	st_xoshiro_seed(&r, 13);
	size_t n = 777;
	struct guarded gx, gy;
	float *x = guard_alloc(&gx, n * 4, 1), *y = guard_alloc(&gy, n * 4, 1);
	fill_values(&r, x, n);
	x[0] = NAN;
	x[1] = INFINITY;
	x[2] = -INFINITY;
	EACH_EXEC(e)
	{
		st_activate(&e, ST_ACT_RELU, x, n, y);
		assert_true(isnan(y[0]) && y[1] == INFINITY && y[2] == 0);
		for (size_t i = 3; i < n; i++)
			assert_true(y[i] == (x[i] > 0 ? x[i] : 0));
		st_activate(&e, ST_ACT_RELU_SQUARED, x, n, y);
		for (size_t i = 3; i < n; i++)
			assert_true(y[i] == (x[i] > 0 ? (float)((double)x[i] * x[i]) : 0));
		st_activate(&e, ST_ACT_SIGMOID, x, n, y);
		assert_true(isnan(y[0]) && y[1] == 1 && y[2] == 0);
		for (size_t i = 3; i < n; i++)
			assert_true(ulps_f32(y[i], (double)(1 / (1 + expl(-(long double)x[i])))) <= 0.5001);
		st_activate(&e, ST_ACT_TANH, x, n, y);
		assert_true(isnan(y[0]) && y[1] == 1 && y[2] == -1);
		for (size_t i = 3; i < n; i++)
			assert_true(ulps_f32(y[i], (double)tanhl((long double)x[i])) <= 0.5001);
		st_activate(&e, ST_ACT_EXP, x, n, y);
		assert_true(isnan(y[0]) && y[1] == INFINITY && y[2] == 0);
		for (size_t i = 3; i < n; i++)
			assert_true(x[i] > 88.8f ? y[i] == INFINITY : ulps_f32(y[i], (double)expl((long double)x[i])) <= 0.5001);
		st_activate(&e, ST_ACT_GELU_QUICK, x, n, y);
		for (size_t i = 3; i < n; i++)
			assert_true(ulps_f32(y[i], (double)(x[i] / (1 + expl(-1.702L * (long double)x[i])))) <= 0.5001);
	}
	guard_free(&gx);
	guard_free(&gy);
}

/* The choice of experts, by hand: ties go to the lower index, what is no number comes last. */
static void top(void **state)
{
	(void)state;
	const float x[] = { 1, 5, -INFINITY, 5, NAN, 2 };
	const float want[] = { 1, 3, 5, 0, 2, 4 };
	float got[6];
	for (size_t k = 1; k <= 6; k++) {
		st_top(x, 6, k, got);
		assert_memory_equal(got, want, k * sizeof *got);
	}
}

/* Groups by their best one or their two best; of equal groups the lower; NaN last. */
static void groups(void **state)
{
	(void)state;
	const float x[] = { 4, 0, 3, 3, -1, 5, 1, 2 }, inf = -INFINITY;
	float y[8];
	st_mask_groups(x, 8, 4, 2, 1, y); /* best: 4, 3, 5, 2 */
	assert_memory_equal(y, ((float[]){ 4, 0, inf, inf, -1, 5, inf, inf }), sizeof y);
	st_mask_groups(x, 8, 4, 2, 2, y); /* sums: 4, 6, 4, 3 */
	assert_memory_equal(y, ((float[]){ 4, 0, 3, 3, inf, inf, inf, inf }), sizeof y);
	const float with_nan[] = { NAN, NAN, -7, -8, NAN, 1, -9, -9 };
	st_mask_groups(with_nan, 8, 4, 2, 2, y); /* sums: NaN, -15, NaN, -18 */
	assert_memory_equal(y, ((float[]){ inf, inf, -7, -8, inf, inf, -9, -9 }), sizeof y);
}

static void chosen(void **state)
{
	(void)state;
	const float x[] = { 0.5f, 0.25f, 0.125f }, at[] = { 2, 0 };
	float y[2];
	st_chosen(x, at, 2, &(struct st_shares){ .by = 3, .plus = 1, .least = 1 }, y); /* no shares: these do nothing */
	assert_true(y[0] == 0.375f && y[1] == 1.5f);
	st_chosen(x, at, 2, &(struct st_shares){ .shares = true, .plus = 0.375, .by = 1 }, y); /* over 1 */
	assert_true(y[0] == 0.125f && y[1] == 0.5f);
	st_chosen(x, at, 2, &(struct st_shares){ .shares = true, .least = 2, .by = 4 }, y); /* over 2, not 0.625 */
	assert_true(y[0] == 0.25f && y[1] == 1);
	st_chosen(x, at, 2, &(struct st_shares){ .shares = true, .by = 1 }, y);
	assert_true(y[0] == (float)(0.125 / 0.625) && y[1] == (float)(0.5 / 0.625));
}

static void clamp(void **state)
{
	(void)state;
	float x[] = { -3, -2, 0.5f, 2, INFINITY, NAN };
	st_clamp(x, -2, 2, 6, x);
	assert_true(x[0] == -2 && x[1] == -2 && x[2] == 0.5f && x[3] == 2 && x[4] == 2 && isnan(x[5]));
}

/* Shares by hand: the first of 3, 2.99 and 1 are near to each other, 1 is not; behind 3 only 2.99 is left. */
static void near_shares(void **state)
{
	(void)state;
	const float x[] = { 1, 3, 2.99f }, at[] = { 1, 2 }, below[] = { -3, -3.02f, -9 }, first[] = { 0 };
	float y[2];
	st_near_shares(x, 3, at, 2, 0.01, y);
	assert_true(ulps_f32(y[0], (double)(1 / (1 + expl((long double)2.99f - 3)))) <= 0.5001 && y[1] == 1);
	st_near_shares(below, 3, first, 1, 0.01, y); /* 0.02 / 3.02 is near, 6 / 9 is not */
	assert_true(ulps_f32(y[0], (double)(1 / (1 + expl((long double)-3.02f + 3)))) <= 0.5001);
	st_near_shares(below, 3, first, 1, 0.003, y);
	assert_true(y[0] == 1);
}

static void xielu(void **state)
{
	(void)state;
	static const double p[4] = { 0.3, -0.4, 0.5, -1e-6 };
	float x[] = { -90, -3, -0.5f, -0.011f, -0.009f, -1e-4f, -1e-6f, -3e-7f, -0.0f, 1e-6f, 0.7f, 30, NAN }, y[13];
	st_xielu(x, p, 13, y);
	for (size_t i = 0; i < 12; i++) {
		long double v = x[i], ap = logl(1 + expl(p[0])), an = p[2] + logl(1 + expl(p[1])),
			    low = v < (long double)p[3] ? v : (long double)p[3];
		long double want = v > 0 ? ap * v * v + p[2] * v : (expm1l(low) - v) * an + p[2] * v;
		assert_true(ulps_f32(y[i], (double)want) <= 0.501);
	}
	assert_int_equal(st_f32_bits(y[12]), 0x7FC00000);
}

static void scale_plus(void **state)
{
	(void)state;
	enum st_mode mode = ST_MODE_EXACT;
	float x[] = { 0, 1.5f, -3, 1e30f, INFINITY }, y[5];
	EACH_EXEC(e)
	{
		st_scale_plus(&e, x, 2, 1, 5, y);
		assert_true(y[0] == 1 && y[1] == 4 && y[2] == -5 && y[3] == 2e30f && y[4] == INFINITY);
	}
}

static void weighted_sum(void **state)
{
	(void)state;
	enum st_mode mode = ST_MODE_EXACT;
	const float x[] = { 1, 2, 3, 10, 20, 30 }, w[] = { 0.5f, 0.25f };
	EACH_EXEC(e)
	{
		float y[3];
		st_weighted_sum(&e, x, w, 2, 3, y);
		assert_true(y[0] == 3 && y[1] == 6 && y[2] == 9);
	}
}

static void fwht(void **state)
{
	(void)state;
	enum st_mode mode = ST_MODE_EXACT;
	struct st_xoshiro r;
	st_xoshiro_seed(&r, 5);
	for (size_t n = 1; n <= 1024; n *= 2) {
		struct guarded g;
		float *x = guard_alloc(&g, n * 4, n % 3 == 1), *in = malloc(n * 4), *first = malloc(n * 4);
		fill_values(&r, in, n);
		EACH_EXEC(e)
		{
			memcpy(x, in, n * 4);
			st_fwht(e.k, x, n);
			if (turn_ == 0)
				memcpy(first, x, n * 4);
			same_bits("fwht", &e, x, first, n);
		}
		long double size = 0;
		for (size_t i = 0; i < n; i++)
			size += (long double)in[i] * in[i];
		for (size_t i = 0; i < n; i++) {
			/* row i of the Hadamard matrix: (-1)^popcount(i & j) */
			long double sum = 0;
			for (size_t j = 0; j < n; j++)
				sum += __builtin_parityll(i & j) ? -(long double)in[j] : (long double)in[j];
			assert_true(fabsl(first[i] - sum / sqrtl((long double)n)) <= sqrtl(size) * 0x1p-22L);
		}
		st_fwht(st_kernels_get(st_cpu_best()), first, n); /* its own inverse */
		for (size_t i = 0; i < n; i++)
			assert_true(fabsl((long double)first[i] - in[i]) <= sqrtl(size) * 0x1p-21L);
		free(in);
		free(first);
		guard_free(&g);
	}
}

static void names(void **state)
{
	(void)state;
	for (int m = 0; m < ST_MODE_COUNT; m++) {
		enum st_mode got;
		assert_true(st_mode_parse(st_mode_name((enum st_mode)m), &got) && got == (enum st_mode)m);
	}
	for (int c = 0; c < ST_CPU_COUNT; c++) {
		enum st_cpu got;
		assert_true(st_cpu_parse(st_cpu_name((enum st_cpu)c), &got) && got == (enum st_cpu)c);
		assert_true((st_kernels_get((enum st_cpu)c) != NULL) == st_cpu_usable((enum st_cpu)c));
	}
	enum st_mode m;
	enum st_cpu c;
	assert_true(st_mode_parse("Emulate:BF16", &m) && m == ST_MODE_EMULATE_BF16);
	assert_false(st_mode_parse("emulate", &m) || st_cpu_parse("sse", &c));
	assert_true(st_cpu_usable(ST_CPU_SCALAR) && st_cpu_usable(st_cpu_best()));
	struct st_exec e = st_exec_default();
	assert_true(e.mode == ST_MODE_EXACT && !e.pool && st_kernels_cpu(e.k) == st_cpu_best());
}

/* 127 / 3.4e38 = 3.73e-37: a block whose largest is smaller has no factor in f32, and one beside it keeps its own. */
static void tiny_blocks_are_zeros_in_q8_k(void **state)
{
	(void)state;
	static const float largest[] = { 1e-45f, 1e-38f, 3.7e-37f, -3.7e-37f, 3.8e-37f, -1e-36f };
	float x[512], y[512];
	struct st_exec e = { .k = st_kernels_get(ST_CPU_SCALAR), .mode = ST_MODE_EMULATE_Q8_K };
	for (size_t c = 0; c < sizeof largest / sizeof *largest; c++) {
		for (int i = 0; i < 256; i++) {
			x[i] = largest[c] * (float)(256 - i) / 256;
			x[256 + i] = i == 7 ? -1 : 0;
		}
		st_prepare_row(&e, x, 512, y);
		bool zeros = fabsf(largest[c]) < 3.73e-37f;
		for (int i = 0; i < 256; i++)
			assert_true(zeros ? y[i] == 0 : fabsf(y[i] - x[i]) <= 0.502f * fabsf(largest[c]) / 127);
		for (int i = 0; i < 256; i++)
			assert_true(fabsf(y[256 + i] - x[256 + i]) < 1e-6f);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(rmsnorm),
		cmocka_unit_test(rope),
		cmocka_unit_test(attention),
		cmocka_unit_test(attention_passes_on_what_is_not_finite),
		cmocka_unit_test(softmax_sinks),
		cmocka_unit_test(softmax_extremes),
		cmocka_unit_test(add_mul_bias),
		cmocka_unit_test(layernorm),
		cmocka_unit_test(scale_and_cap),
		cmocka_unit_test(plain_activations),
		cmocka_unit_test(top),
		cmocka_unit_test(groups),
		cmocka_unit_test(chosen),
		cmocka_unit_test(clamp),
		cmocka_unit_test(near_shares),
		cmocka_unit_test(xielu),
		cmocka_unit_test(scale_plus),
		cmocka_unit_test(weighted_sum),
		cmocka_unit_test(fwht),
		cmocka_unit_test(names),
		cmocka_unit_test(tiny_blocks_are_zeros_in_q8_k),
	};
	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests_name("kernel rows", tests, NULL, NULL);
}
