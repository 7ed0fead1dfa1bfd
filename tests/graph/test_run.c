/* The evaluator, on a small random decoder built in memory. */
#include "pools.h"

#include "base/error.h"
#include "graph/tiny.h"

#include <malloc.h>

#define T_MAX 11
static const uint32_t ids[T_MAX] = { 3, 17, 0, 36, 5, 5, 22, 9, 30, 1, 14 };

static struct st_run *open_run(const struct tiny *t, const struct st_exec *e, size_t max_tokens, size_t max_positions)
{
	struct st_error err = ST_ERROR_INIT;
	struct st_run *r = NULL;
	assert_ok(st_run_open(&t->g, e, max_tokens, max_positions, &r, &err), &err);
	return r;
}

static void begin(struct st_run *r, size_t from, size_t n)
{
	struct st_error err = ST_ERROR_INIT;
	assert_ok(st_run_begin(r, ids + from, n, &err), &err);
}

/* Nodes [i, end). */
static void eval(struct st_run *r, uint32_t i, uint32_t end)
{
	struct st_error err = ST_ERROR_INIT;
	for (; i < end; i++)
		assert_ok(st_run_eval(r, i, &err), &err);
}

static size_t elems(const struct st_run *r, uint32_t i)
{
	struct st_value v = st_run_value(r, i);
	return v.rows * v.cols;
}

static float *copy_of(const struct st_run *r, uint32_t i)
{
	size_t n = elems(r, i) * sizeof(float);
	float *x = malloc(n);
	assert_non_null(x);
	return memcpy(x, st_run_value(r, i).data, n);
}

/* Logits of all ids, `chunk` at a time; the caller frees. */
static float *logits(const struct tiny *t, const struct st_exec *e, size_t chunk)
{
	size_t V = t->n.V;
	struct st_run *r = open_run(t, e, chunk, T_MAX);
	float *out = malloc(T_MAX * V * sizeof *out);
	for (size_t from = 0; from < T_MAX; from += chunk) {
		size_t n = T_MAX - from < chunk ? T_MAX - from : chunk;
		begin(r, from, n);
		eval(r, 0, t->g.n_nodes);
		assert_int_equal(st_run_tokens(r), n);
		assert_int_equal(st_run_positions(r), from + n);
		memcpy(out + from * V, st_run_value(r, t->g.n_nodes - 1).data, n * V * sizeof *out);
	}
	st_run_close(r);
	return out;
}

static struct st_exec mode(enum st_mode m)
{
	struct st_exec e = st_exec_default();
	e.mode = m;
	return e;
}

static void every_variant_equals_plain_loops(void **state)
{
	(void)state;
	for (unsigned variant = 0; variant < 32; variant++) {
		struct tiny *t = tiny_new(variant, 100 + variant);
		size_t n = T_MAX * t->n.V;
		double *want = malloc(n * sizeof *want);
		naive_forward(&t->n, ids, T_MAX, want);
		static const struct {
			enum st_mode mode;
			double bound;
		} modes[] = { { ST_MODE_EXACT, 2e-6 }, { ST_MODE_FAST, 1e-5 } };
		for (size_t k = 0; k < 2; k++) {
			struct st_exec e = mode(modes[k].mode);
			float *got = logits(t, &e, T_MAX);
			double d = 0, s = 0;
			for (size_t i = 0; i < n; i++) {
				d += (got[i] - want[i]) * (got[i] - want[i]);
				s += want[i] * want[i];
			}
			if (!(sqrt(d / s) <= modes[k].bound))
				fail_msg("variant %u, %s: relative L2 %g", variant, st_mode_name(modes[k].mode),
				         sqrt(d / s));
			free(got);
		}
		free(want);
		tiny_free(t);
	}
}

static void same_bits_in_any_chunks(void **state)
{
	(void)state;
	static const unsigned variants[] = { 0, 1 | 4 | 8, 2 | 8 };
	for (size_t v = 0; v < 3; v++) {
		struct tiny *t = tiny_new(variants[v], 7);
		for (int m = 0; m < ST_MODE_COUNT; m++) {
			struct st_exec e = mode((enum st_mode)m);
			float *one = logits(t, &e, 1);
			for (size_t chunk = 2; chunk <= T_MAX; chunk++) {
				float *many = logits(t, &e, chunk);
				assert_memory_equal(one, many, T_MAX * t->n.V * sizeof *one);
				free(many);
			}
			free(one);
		}
		tiny_free(t);
	}
}

static void same_bits_on_any_threads_and_levels(void **state)
{
	(void)state;
	struct tiny *t = tiny_new(1 | 2 | 8, 9);
	size_t levels = 0;
	for (int m = 0; m < ST_MODE_COUNT; m++) {
		struct st_exec ref = { st_kernels_get(ST_CPU_SCALAR), (enum st_mode)m, NULL };
		float *want = logits(t, &ref, T_MAX);
		for (int c = 0; c < ST_CPU_COUNT; c++) {
			if (!st_cpu_usable((enum st_cpu)c))
				continue;
			levels++;
			for (int threads = 1; threads <= 5; threads += 2) {
				struct st_exec e = { st_kernels_get((enum st_cpu)c), (enum st_mode)m,
					             pool_of(threads) };
				float *got = logits(t, &e, T_MAX);
				assert_memory_equal(want, got, T_MAX * t->n.V * sizeof *want);
				free(got);
			}
		}
		free(want);
	}
	assert_true(levels >= ST_MODE_COUNT);
	tiny_free(t);
}

/* Alone on its own graph a node gives what it gave in order, in the second chunk too, and leaves
 * everything as it was. */
static void alone_equals_in_order(void **state)
{
	(void)state;
	struct st_error err = ST_ERROR_INIT;
	struct tiny *t = tiny_new(1 | 2 | 4, 21);
	struct st_exec e = mode(ST_MODE_EXACT);
	struct st_run *r = open_run(t, &e, 6, T_MAX);
	for (size_t from = 0; from < T_MAX; from += 6) {
		begin(r, from, T_MAX - from < 6 ? T_MAX - from : 6);
		for (uint32_t i = 0; i < t->g.n_nodes; i++) {
			eval(r, i, i + 1);
			/* At the end of a layer, all of its nodes can still be asked. */
			uint32_t first = i;
			if (t->nodes[i].stage == ST_STAGE_POST_FFN_RESIDUAL)
				first = st_graph_find(&t->g, ST_STAGE_ATTN_NORM, t->nodes[i].layer);
			for (uint32_t k = first; k <= i; k++) {
				float *before = copy_of(r, k), *out = malloc(elems(r, k) * sizeof *out);
				assert_ok(st_run_eval_alone(r, &t->g, k, &e, out, &err), &err);
				assert_memory_equal(before, out, elems(r, k) * sizeof *out);
				assert_memory_equal(before, st_run_value(r, k).data, elems(r, k) * sizeof *out);
				free(before);
				free(out);
			}
		}
	}
	st_run_close(r);
	tiny_free(t);
}

/* Alone on another graph: that graph's weights and parameters, this run's inputs. The same is
 * had by putting this run's inputs into a run of the other graph. */
static void alone_on_another_graph(void **state)
{
	(void)state;
	struct st_error err = ST_ERROR_INIT;
	struct tiny *a = tiny_new(1 | 2, 31), *b = tiny_new(1 | 2 | 4, 32);
	struct st_exec e = mode(ST_MODE_FAST), judge = mode(ST_MODE_EXACT);
	for (uint32_t i = 0; i < b->g.n_nodes; i++)
		b->nodes[i].eps *= 3;
	struct st_run *ra = open_run(a, &e, T_MAX, T_MAX), *rb = open_run(b, &judge, T_MAX, T_MAX);
	begin(ra, 0, 5);
	begin(rb, 0, 5);
	size_t different = 0;
	for (int chunk = 0; chunk < 2; chunk++) {
		for (uint32_t i = 0; i < a->g.n_nodes; i++) {
			eval(ra, i, i + 1);
			float *out = malloc(elems(ra, i) * sizeof *out);
			assert_ok(st_run_eval_alone(ra, &b->g, i, &judge, out, &err), &err);
			eval(rb, i, i + 1);
			assert_memory_equal(out, st_run_value(rb, i).data, elems(rb, i) * sizeof *out);
			different += memcmp(out, st_run_value(ra, i).data, elems(ra, i) * sizeof *out) != 0;
			st_run_put(rb, i, st_run_value(ra, i).data); /* so that the next node has this run's inputs */
			free(out);
		}
		if (chunk == 0) { /* the second chunk reads the cached K and V of the first */
			begin(ra, 5, 4);
			begin(rb, 5, 4);
		}
	}
	assert_true(different > a->g.n_nodes);
	st_run_close(ra);
	st_run_close(rb);
	tiny_free(a);
	tiny_free(b);
}

static void put_is_seen_downstream(void **state)
{
	(void)state;
	struct tiny *t = tiny_new(1 | 2, 41);
	struct st_exec e = mode(ST_MODE_EXACT);
	float *clean = logits(t, &e, 6);
	uint32_t last = t->g.n_nodes - 1;
	for (uint32_t i = 0; i < last; i++) {
		struct st_run *r = open_run(t, &e, 6, T_MAX);
		begin(r, 0, 6);
		eval(r, 0, i + 1);
		float *x = copy_of(r, i);
		st_run_put(r, i, x); /* the same values: nothing changes */
		eval(r, i + 1, last + 1);
		assert_memory_equal(clean, st_run_value(r, last).data, elems(r, last) * sizeof(float));
		st_run_close(r);

		r = open_run(t, &e, 6, T_MAX);
		begin(r, 0, 6);
		eval(r, 0, i);
		for (size_t k = 0; k < elems(r, i); k++)
			x[k] *= 1.5f + (float)(k % 3); /* not a plain factor: a norm would hide that */
		st_run_put(r, i, x);                   /* without having been evaluated */
		assert_memory_equal(x, st_run_value(r, i).data, elems(r, i) * sizeof *x);
		eval(r, i + 1, last + 1);
		assert_memory_not_equal(clean, st_run_value(r, last).data, elems(r, last) * sizeof(float));
		/* A later chunk sees the first one through K and V only. */
		begin(r, 6, 5);
		eval(r, 0, last + 1);
		bool same = memcmp(clean + 6 * t->n.V, st_run_value(r, last).data, elems(r, last) * sizeof(float)) == 0;
		int32_t layer = t->nodes[i].layer;
		bool after_cache = layer < 0 ? i != 0
		                             : layer == NAIVE_LAYERS - 1 && t->nodes[i].stage > ST_STAGE_K_POST_ROPE;
		bool query_only = layer == NAIVE_LAYERS - 1
		               && (t->nodes[i].stage == ST_STAGE_Q_POST_NORM
		                   || t->nodes[i].stage == ST_STAGE_Q_POST_ROPE);
		assert_int_equal(same, after_cache || query_only);
		st_run_close(r);
		free(x);
	}
	free(clean);
	tiny_free(t);
}

/* A V put after the attention was evaluated reaches the next evaluation of it. */
static void put_reaches_the_cache(void **state)
{
	(void)state;
	struct tiny *t = tiny_new(0, 43);
	struct st_exec e = mode(ST_MODE_EXACT);
	struct st_run *r = open_run(t, &e, 4, 4);
	begin(r, 0, 4);
	uint32_t qkv = st_graph_find(&t->g, ST_STAGE_QKV_MATMUL, 0), mix = st_graph_find(&t->g, ST_STAGE_ATTENTION, 0);
	eval(r, 0, mix + 1);
	float *x = copy_of(r, qkv), *y = copy_of(r, mix);
	size_t v = t->nodes[mix].from[1], width = t->nodes[qkv].width;
	for (size_t row = 0; row < 4; row++)
		for (size_t k = v; k < width; k++)
			x[row * width + k] *= 2;
	st_run_put(r, qkv, x);
	eval(r, mix, mix + 1);
	for (size_t k = 0; k < elems(r, mix); k++) /* twice V is twice the mixture: powers of two are exact */
		assert_true(st_run_value(r, mix).data[k] == 2 * y[k]);
	free(x);
	free(y);
	st_run_close(r);
	tiny_free(t);
}

static void last_position_only(void **state)
{
	(void)state;
	struct st_error err = ST_ERROR_INIT;
	struct tiny *t = tiny_new(16, 51);
	struct st_exec e = mode(ST_MODE_FAST);
	float *all = logits(t, &e, T_MAX);
	struct st_run *r;
	assert_ok(st_run_open_flags(&t->g, &e, T_MAX, T_MAX, ST_RUN_HEAD_LAST, &r, &err), &err);
	begin(r, 0, T_MAX);
	eval(r, 0, t->g.n_nodes);
	struct st_value v = st_run_value(r, t->g.n_nodes - 1);
	assert_int_equal(v.rows, 1);
	assert_int_equal(v.cols, t->n.V);
	assert_memory_equal(v.data, all + (T_MAX - 1) * t->n.V, t->n.V * sizeof *all);
	st_run_close(r);
	free(all);
	tiny_free(t);
}

static void misuse_is_refused(void **state)
{
	(void)state;
	struct st_error err = ST_ERROR_INIT;
	struct tiny *t = tiny_new(0, 61);
	struct st_exec e = mode(ST_MODE_FAST);
	struct st_run *r = NULL;
	assert_int_equal(st_run_open(&t->g, &e, 0, 4, &r, &err), ST_ERR_USAGE);
	st_error_clear(&err);
	assert_int_equal(st_run_open(&t->g, &e, 5, 4, &r, &err), ST_ERR_USAGE);
	st_error_clear(&err);
	r = open_run(t, &e, 4, 6);
	assert_int_equal(st_run_eval(r, 0, &err), ST_ERR_USAGE); /* no tokens yet */
	st_error_clear(&err);
	assert_int_equal(st_run_begin(r, ids, 0, &err), ST_ERR_USAGE);
	st_error_clear(&err);
	assert_int_equal(st_run_begin(r, ids, 5, &err), ST_ERR_LIMIT);
	st_error_clear(&err);
	uint32_t beyond[2] = { 36, 37 }; /* the vocabulary has 37 ids */
	assert_int_equal(st_run_begin(r, beyond, 2, &err), ST_ERR_USAGE);
	assert_non_null(strstr(err.message, "37"));
	st_error_clear(&err);
	assert_int_equal(st_run_positions(r), 0);
	begin(r, 0, 4);
	assert_int_equal(st_run_eval(r, 3, &err), ST_ERR_USAGE); /* its input was not evaluated */
	assert_non_null(strstr(err.message, "qkv_matmul"));
	st_error_clear(&err);
	eval(r, 0, t->g.n_nodes);
	assert_int_equal(st_run_begin(r, ids, 3, &err), ST_ERR_LIMIT); /* 4 + 3 > 6 */
	st_error_clear(&err);
	begin(r, 4, 2);
	assert_int_equal(st_run_eval(r, 1, &err), ST_ERR_USAGE); /* the last chunk's embedding is no input */
	st_error_clear(&err);
	struct tiny *other = tiny_new(1, 62); /* has biases: another form */
	float out[64];
	assert_int_equal(st_run_eval_alone(r, &other->g, 3, &e, out, &err), ST_ERR_MISMATCH);
	st_error_clear(&err);
	/* A feed-forward part of another size: its down projection reads other inputs, though its output fits. */
	uint32_t out_node = st_graph_find(&t->g, ST_STAGE_FFN_OUT, 0),
		 swigl = st_graph_find(&t->g, ST_STAGE_FFN_SWIGL, 0);
	struct tiny *wide = tiny_new(0, 63);
	wide->nodes[swigl].width += 16;
	eval(r, 0, out_node + 1);
	float y[2 * 48];
	assert_int_equal(st_run_eval_alone(r, &wide->g, out_node, &e, y, &err), ST_ERR_MISMATCH);
	assert_non_null(strstr(err.message, "ffn_out of layer 0"));
	st_error_clear(&err);
	tiny_free(wide);
	st_cancel();
	assert_int_equal(st_run_eval(r, 0, &err), ST_ERR_CANCELLED);
	st_cancel_reset();
	st_run_close(r);
	tiny_free(other);
	tiny_free(t);
}

static void memory_is_known_before(void **state)
{
	(void)state;
	struct tiny *t = tiny_new(0, 71);
	struct st_exec e = mode(ST_MODE_FAST);
	uint64_t plan = st_run_memory(&t->g, &e, 512, 4096);
	struct mallinfo2 before = mallinfo2();
	struct st_run *r = open_run(t, &e, 512, 4096);
	struct mallinfo2 after = mallinfo2();
	uint64_t used = (after.uordblks + after.hblkhd) - (before.uordblks + before.hblkhd);
	st_run_close(r);
	if (used) /* sanitizers and valgrind bring a malloc that mallinfo2 does not count */
		assert_true(used >= plan && used <= plan + 64 * 1024); /* malloc's own pages */
	/* Counted by hand: cache, scores and probabilities, logits. */
	uint64_t cache = (uint64_t)NAIVE_LAYERS * 4096 * 2 * (3 * 10) * 4, scores = 2ull * 6 * 512 * 4096 * 4,
		 head = 512ull * 37 * 4;
	assert_true(plan > cache + scores + head && plan < cache + scores + head + 4 * 1024 * 1024);
	uint64_t last = st_run_memory_flags(&t->g, &e, 512, 4096, ST_RUN_HEAD_LAST);
	assert_true(plan - last <= head && plan - last >= head - 37 * 4 - 64);
	assert_true(st_run_memory(&t->g, &e, SIZE_MAX / 2, SIZE_MAX / 2) == UINT64_MAX);
	tiny_free(t);
}

/* Matrices of experts that are much wider than high: what the tokens bring is larger than what comes out. */
static void experts_equal_plain_loops(void **state)
{
	(void)state;
	enum { V = 37, K = 4096, E = 5, N = 2, C = 4 };
	static float embedding[V * K], router[E * K], matrix[E][N * K];
	static struct st_tensor experts[E];
	struct tiny *t = calloc(1, sizeof *t);
	for (size_t i = 0; i < V * K; i++)
		embedding[i] = (float)((i * 131 + 7) % 97) / 48 - 1;
	for (size_t i = 0; i < E * K; i++)
		router[i] = (float)((i * 89 + 3) % 101) / 50 - 1;
	for (size_t e = 0; e < E; e++)
		for (size_t i = 0; i < N * K; i++)
			matrix[e][i] = (float)((i * 53 + e * 17) % 89) / 44 - 1;
	for (size_t e = 0; e < E; e++)
		experts[e] = *tiny_weight(t, matrix[e], N, K)->tensor;
	struct st_weight stack = { .tensor = experts, .heads = 1, .experts = experts, .n_experts = E };
	const struct st_weight *table = tiny_weight(t, embedding, V, K), *by = tiny_weight(t, router, E, K);
	struct st_node nodes[] = {
		{ .stage = ST_STAGE_EMBEDDING,
		  .op = ST_OP_EMBED,
		  .in = { ST_NO_NODE, ST_NO_NODE },
		  .width = K,
		  .w = { table },
		  .n_w = 1,
		  .scale = 1 },
		{ .stage = ST_STAGE_MOE_ROUTER,
		  .op = ST_OP_LINEAR,
		  .in = { 0, ST_NO_NODE },
		  .width = E,
		  .w = { by },
		  .n_w = 1 },
		{ .stage = ST_STAGE_MOE_ROUTER_INDICES, .op = ST_OP_TOP, .in = { 1, ST_NO_NODE }, .width = C },
		{ .stage = ST_STAGE_FFN_UP,
		  .op = ST_OP_LINEAR_AT,
		  .in = { 0, 2 },
		  .width = C * N,
		  .w = { &stack },
		  .n_w = 1,
		  .choices = C },
	};
	for (uint32_t i = 0; i < 4; i++) {
		nodes[i].layer = -1;
		nodes[i].slot = i;
	}
	t->g = (struct st_graph){ .nodes = nodes, .n_nodes = 4, .vocab = V, .n_slots = 4 };
	struct st_exec e = st_exec_default();
	struct st_run *r = open_run(t, &e, T_MAX, T_MAX);
	begin(r, 0, T_MAX);
	eval(r, 0, 4);
	const float *chosen = st_run_value(r, 2).data, *got = st_run_value(r, 3).data;
	for (size_t k = 0; k < T_MAX; k++)
		for (size_t c = 0; c < C; c++)
			for (size_t n = 0; n < N; n++) {
				double sum = 0;
				for (size_t i = 0; i < K; i++)
					sum += (double)matrix[(size_t)chosen[k * C + c]][n * K + i]
					     * embedding[ids[k] * K + i];
				assert_true(fabs(got[(k * C + c) * N + n] - sum) <= 1e-6 * (1 + fabs(sum)));
			}
	/* Indices that a trace brings name experts that are there, or are refused. */
	static const float none[] = { E, -1, 0.5f, NAN, 1e30f };
	for (size_t i = 0; i < sizeof none / sizeof *none; i++) {
		struct st_error err = ST_ERROR_INIT;
		float index[T_MAX * C] = { 0 };
		index[T_MAX * C - 1] = none[i];
		st_run_put(r, 2, index);
		assert_int_equal(st_run_eval(r, 3, &err), ST_ERR_MISMATCH);
	}
	st_run_close(r);
	free(t);
}

/* A node with a state: its numbers do not depend on the pieces, it can be evaluated alone on what was before the current tokens, what is put
 * leaves the state that follows from its inputs, and tokens that were passed over are told. */
static void states_go_on(void **state)
{
	(void)state;
	enum { V = 37, K = 4, TAPS = 3 };
	static float embedding[V * K], taps[K * TAPS];
	struct tiny *t = calloc(1, sizeof *t);
	for (size_t i = 0; i < V * K; i++)
		embedding[i] = (float)((i * 131 + 7) % 97) / 48 - 1;
	for (size_t i = 0; i < K * TAPS; i++)
		taps[i] = (float)((i * 29 + 3) % 23) / 11 - 1;
	struct st_node nodes[] = {
		{ .op = ST_OP_EMBED,
		  .in = { ST_NO_NODE, ST_NO_NODE },
		  .width = K,
		  .w = { tiny_weight(t, embedding, V, K) },
		  .n_w = 1,
		  .scale = 1 },
		{ .op = ST_OP_CONV,
		  .in = { 0, ST_NO_NODE },
		  .width = K,
		  .w = { tiny_weight(t, taps, K, TAPS) },
		  .n_w = 1,
		  .state = K * (TAPS - 1),
		  .state_size = TAPS },
	};
	for (uint32_t i = 0; i < 2; i++) {
		nodes[i].layer = -1;
		nodes[i].slot = i;
		nodes[i].stage = (enum st_stage)i;
	}
	t->g = (struct st_graph){ .nodes = nodes, .n_nodes = 2, .vocab = V, .n_slots = 2 };
	struct st_exec e = st_exec_default();
	struct st_error err = ST_ERROR_INIT;
	struct st_run *r = open_run(t, &e, T_MAX, T_MAX);
	begin(r, 0, T_MAX);
	eval(r, 0, 2);
	float *whole = copy_of(r, 1), alone[T_MAX * K], zeros[T_MAX * K] = { 0 };
	for (size_t k = 0; k < T_MAX; k++)
		for (size_t c = 0; c < K; c++) {
			double sum = 0;
			for (size_t i = 0; i < TAPS; i++)
				if (k + i + 1 >= TAPS)
					sum += (double)taps[c * TAPS + i] * embedding[ids[k + i + 1 - TAPS] * K + c];
			assert_true(fabs(whole[k * K + c] - sum) <= 1e-6);
		}
	st_run_close(r);
	for (int put = 0; put < 2; put++) {
		static const size_t pieces[] = { 4, 1, 6 };
		size_t from = 0;
		r = open_run(t, &e, T_MAX, T_MAX);
		for (size_t i = 0; i < 3; from += pieces[i++]) {
			begin(r, from, pieces[i]);
			eval(r, 0, put && i == 0 ? 1 : 2);
			if (put && i == 0) {
				st_run_put(r, 1, zeros);
				continue;
			}
			assert_ok(st_run_eval_alone(r, &t->g, 1, &e, alone, &err), &err);
			assert_memory_equal(alone, whole + from * K, pieces[i] * K * sizeof *alone);
			assert_memory_equal(st_run_value(r, 1).data, alone, pieces[i] * K * sizeof *alone);
			eval(r, 1, 2); /* again: the same */
			assert_memory_equal(st_run_value(r, 1).data, alone, pieces[i] * K * sizeof *alone);
		}
		st_run_close(r);
	}
	r = open_run(t, &e, T_MAX, T_MAX);
	begin(r, 0, 2);
	eval(r, 0, 1);
	begin(r, 2, 2);
	eval(r, 0, 1);
	assert_int_equal(st_run_eval(r, 1, &err), ST_ERR_USAGE);
	st_run_close(r);
	free(whole);
	free(t);
}

/* Two nodes are of the same parameters only if every one that changes a number is the same. */
static void every_parameter_counts(void **state)
{
	(void)state;
	const double inv[2] = { 1, 0.5 }, other[2] = { 1, 0.25 };
	const struct st_node base = { .op = ST_OP_ROPE,
		                      .n_rot = 4,
		                      .inv_freq = inv,
		                      .mscale = 1,
		                      .scale = 0.3,
		                      .beyond = { .from = 8, .inv_freq = inv, .mscale = 1, .theta = 10, .factor = 2 } };
	struct st_node n[24];
	size_t k = 0;
	for (size_t i = 0; i < 24; i++)
		n[i] = base;
	n[k++].chunk = 4;
	n[k++].slopes = 8;
	n[k++].slope_scale = 0.5;
	n[k++].plus = 1;
	n[k++].low = -1;
	n[k++].high = 1;
	n[k++].high = INFINITY;
	n[k++].jitter = 0.01;
	n[k++].scale = 0.3 * (1 + 1e-6);
	n[k++].own_weights = true;
	n[k++].state_size = 3;
	n[k++].groups_of = 2;
	n[k++].each = true;
	n[k++].beyond.from = 9;
	n[k++].beyond.mscale = 1.1;
	n[k++].beyond.theta = 11;
	n[k++].beyond.factor = 3;
	n[k++].beyond.inv_freq = other;
	n[k++].inv_freq = other;
	assert_true(st_node_same_parameters(&base, &base, 0));
	for (size_t i = 0; i < k; i++) {
		assert_false(st_node_same_parameters(&base, &n[i], 0));
		assert_false(st_node_same_parameters(&n[i], &base, 0));
	}
	/* What no token reaches is the same, and so are a number in f32 and its decimals. */
	n[23].chunk = 20;
	n[23].beyond.mscale = 7;
	n[23].scale = (double)0.3f;
	assert_true(st_node_same_parameters(&base, &n[23], 8));
	assert_false(st_node_same_parameters(&base, &n[23], 21));
	struct st_node x = { .op = ST_OP_XIELU, .xielu = { 0.25, 0.5, 1, -1 } }, y = x;
	assert_true(st_node_same_parameters(&x, &y, 0));
	y.xielu[2] = 2;
	assert_false(st_node_same_parameters(&x, &y, 0));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(every_parameter_counts),
		cmocka_unit_test(states_go_on),
		cmocka_unit_test(every_variant_equals_plain_loops),
		cmocka_unit_test(same_bits_in_any_chunks),
		cmocka_unit_test(same_bits_on_any_threads_and_levels),
		cmocka_unit_test(alone_equals_in_order),
		cmocka_unit_test(alone_on_another_graph),
		cmocka_unit_test(put_is_seen_downstream),
		cmocka_unit_test(put_reaches_the_cache),
		cmocka_unit_test(last_position_only),
		cmocka_unit_test(misuse_is_refused),
		cmocka_unit_test(memory_is_known_before),
		cmocka_unit_test(experts_equal_plain_loops),
	};
	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
