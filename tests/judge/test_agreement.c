/*
 * Next tokens of two sides and what layers cost: against plain loops in long double, hand-made logits, and models in
 * which one layer was exchanged before they were written.
 */
#include "toy.h"
#include "folder.h"
#include "pools.h"

#include "arch/arch.h"
#include "judge/agreement.h"

static const uint32_t tokens[] = { 5, 17, 3, 80, 42, 9 };
enum { T = 6 };

/* KL of the softmax of y against that of x, by the definition. */
static double kl_of(const float *x, const float *y, size_t V)
{
	long double sx = 0, sy = 0, kl = 0;
	for (size_t i = 0; i < V; i++) {
		sx += expl((long double)x[i]);
		sy += expl((long double)y[i]);
	}
	for (size_t i = 0; i < V; i++) {
		long double p = expl((long double)y[i]) / sy, q = expl((long double)x[i]) / sx;
		kl += p * logl(p / q);
	}
	return (double)kl;
}

static void add(struct st_agreement *g, float *a, float *b, size_t rows, size_t V, int threads)
{
	static const uint32_t ids[64];
	struct st_error err = ST_ERROR_INIT;
	assert_ok(st_agreement_add(g, 0, ids, (struct st_value){ a, rows, V }, (struct st_value){ b, rows, V },
	                           pool_of(threads), &err),
	          &err);
}

/* The five likeliest behind the last token, the first of equals first, with the shares that the softmax gives; the rank
 * of B's best in A; and each of the first positions, in order. */
static void likeliest_and_ranks(void **state)
{
	(void)state;
	enum { V = 8 };
	float a[2][V] = { { 1, 9, 2, 3, 4, 5, 6, 7 } }, b[2][V] = { { 9 } };
	const double shares[V] = { 0.1, 0.05, 0.3, 0.02, 0.1, 0.4, 0.02, 0.01 };
	for (int i = 0; i < V; i++) {
		b[1][i] = (float)log(shares[i]);
		a[1][i] = (float)-i;
	}
	struct st_agreement g = { 0 };
	add(&g, a[0], b[0], 2, V, 1);
	static const uint32_t want[] = { 5, 2, 0, 4, 1 };
	assert_int_equal(g.n_last, 5);
	for (size_t i = 0; i < 5; i++) {
		assert_int_equal(g.last_b[i].token, want[i]);
		assert_true(fabs(g.last_b[i].probability - shares[want[i]]) < 1e-6);
		assert_int_equal(g.last_a[i].token, i);
	}
	assert_int_equal(g.n_each, 2);
	assert_int_equal(g.each[0].position, 0);
	assert_int_equal(g.each[0].rank, 8); /* token 0 is the least of A's there */
	assert_int_equal(g.each[1].rank, 6); /* token 5 the sixth */
	assert_int_equal(g.top5, 0);
}

static void hand_made_logits(void **state)
{
	(void)state;
	enum { V = 8 };
	float a[4][V] = { { 0 } }, b[4][V] = { { 0 } };
	/* 0: equal. 1: halves against a quarter and three quarters, the rest nothing: ln 2 / 2 - ln 1.5 / 2.
	 * 2: B's best is A's last. 3: not a number. */
	for (int i = 0; i < V; i++) {
		a[0][i] = b[0][i] = (float)i;
		a[1][i] = b[1][i] = -200;
		a[2][i] = (float)-i;
		b[2][i] = i == 7 ? 5 : (float)(-2 * i);
		b[3][i] = NAN;
	}
	b[1][0] = b[1][1] = logf(0.5f);
	a[1][0] = logf(0.25f);
	a[1][1] = logf(0.75f);
	struct st_agreement g = { 0 };
	add(&g, a[0], b[0], 4, V, 1);
	assert_int_equal(g.prompts, 1);
	assert_int_equal(g.positions, 3);
	assert_int_equal(g.nonfinite, 1);
	assert_int_equal(g.top1, 1);
	assert_int_equal(g.top5, 2);
	assert_int_equal(g.n_changed, 2);
	/* B is sure by 5 in position 2, and not at all in position 1. */
	assert_int_equal(g.changed[0].position, 2);
	assert_float_equal(g.changed[0].gap, 5, 0);
	assert_int_equal(g.changed[0].best_a, 0);
	assert_int_equal(g.changed[0].best_b, 7);
	assert_int_equal(g.changed[1].position, 1);
	assert_float_equal(g.changed[1].gap, 0, 0);
	assert_float_equal(g.changed[1].kl, 0.14384103622589045, 1e-7);
	assert_float_equal(g.kl_max, kl_of(a[2], b[2], V), 1e-12);
}

static void plain_loops(void **state)
{
	(void)state;
	enum { V = 777, ROWS = 40 };
	static float a[ROWS][V], b[ROWS][V];
	uint64_t seed = 4;
	double sum = 0, most = 0;
	unsigned same = 0, five = 0;
	for (int t = 0; t < ROWS; t++) {
		for (int i = 0; i < V; i++) {
			b[t][i] = (float)(2 * toy_normal(&seed));
			a[t][i] = b[t][i] + (float)(0.4 * toy_normal(&seed));
		}
		int best_a = 0, best_b = 0, above = 0;
		for (int i = 1; i < V; i++) {
			best_a = a[t][i] > a[t][best_a] ? i : best_a;
			best_b = b[t][i] > b[t][best_b] ? i : best_b;
		}
		for (int i = 0; i < V; i++)
			above += a[t][i] > a[t][best_b];
		double kl = kl_of(a[t], b[t], V);
		sum += kl;
		most = kl > most ? kl : most;
		same += best_a == best_b;
		five += above < 5;
	}
	assert_true(same > 0 && same < ROWS && five > same);
	struct st_agreement first = { 0 };
	for (int threads = 1; threads <= 5; threads++) {
		struct st_agreement g = { 0 };
		add(&g, a[0], b[0], ROWS, V, threads);
		assert_int_equal(g.top1, same);
		assert_int_equal(g.top5, five);
		assert_float_equal(g.kl_sum, sum, 1e-10);
		assert_float_equal(g.kl_max, most, 1e-11);
		for (size_t i = 1; i < g.n_changed; i++)
			assert_true(g.changed[i - 1].gap >= g.changed[i].gap);
		if (threads == 1)
			first = g;
		assert_true(g.kl_sum == first.kl_sum);
	}
}

/* The logits of a file, [T, V]. */
static float *logits_of(const char *path, size_t *V)
{
	struct st_error err = ST_ERROR_INIT;
	struct st_model *m;
	struct st_run *r;
	struct st_exec e = st_exec_default();
	assert_ok(st_model_open(path, &m, &err), &err);
	const struct st_graph *g = st_model_graph(m);
	assert_ok(st_run_open(g, &e, T, T, &r, &err), &err);
	assert_ok(st_run_begin(r, tokens, T, &err), &err);
	for (uint32_t i = 0; i < g->n_nodes; i++)
		assert_ok(st_run_eval(r, i, &err), &err);
	struct st_value v = st_run_value(r, g->n_nodes - 1);
	float *out = malloc(v.rows * v.cols * sizeof *out);
	assert_non_null(out);
	assert_int_equal(v.rows, T);
	memcpy(out, v.data, v.rows * v.cols * sizeof *out);
	*V = v.cols;
	st_run_close(r);
	st_model_close(m);
	return out;
}

static double mean_kl(const char *a, const char *b)
{
	size_t V;
	float *x = logits_of(a, &V), *y = logits_of(b, &V);
	double sum = 0;
	for (size_t t = 0; t < T; t++)
		sum += kl_of(x + t * V, y + t * V, V);
	free(x);
	free(y);
	return sum / T;
}

/* Every number of layer `layer` off by about `by` of itself; -1: of the embedding, with a head of its own beside it. */
static void disturb(struct toy *m, int layer, double by)
{
	char part[32] = "embed_tokens";
	uint64_t seed = 77 + (uint64_t)layer;
	if (layer >= 0)
		snprintf(part, sizeof part, "layers.%d.", layer);
	for (size_t i = 0; i < m->n; i++)
		for (uint64_t k = 0; strstr(m->t[i].name, part) && k < m->t[i].rows * m->t[i].cols; k++)
			m->t[i].data[k] *= (float)(1 + by * toy_normal(&seed));
}

static const char *write_with(const char *name, const double by[3])
{
	struct toy m;
	toy_make(&m, "qwen2", 64, false);
	for (int i = 0; i < 3; i++)
		if (by[i] != 0)
			disturb(&m, i - 1, by[i]);
	const char *path = in_folder(name);
	toy_write(&m, path, ST_DTYPE_F32, true);
	toy_free(&m);
	return path;
}

static void layers_cost_what_their_exchange_costs(void **state)
{
	(void)state;
	static const double by[3] = { 0.02, 0.05, 0.01 };
	struct st_error err = ST_ERROR_INIT;
	struct st_rosetta *r;
	char a[256], b[256], one[3][256];
	snprintf(b, sizeof b, "%s", write_with("b.gguf", (double[3]){ 0 }));
	snprintf(a, sizeof a, "%s", write_with("a.gguf", by));
	for (int i = 0; i < 3; i++) {
		double only[3] = { 0 };
		char name[32];
		only[i] = by[i];
		snprintf(name, sizeof name, "one%d.gguf", i);
		snprintf(one[i], sizeof one[i], "%s", write_with(name, only));
	}
	const struct st_rosetta_options o = {
		.tokens = tokens, .n_tokens = T, .threads = 2, .threshold = NAN, .keep_going = true, .layer_costs = true
	};
	assert_ok(st_rosetta_run(a, b, &o, &r, &err), &err);
	assert_int_equal(r->agreement.positions, T);
	assert_float_equal(r->agreement.kl_sum / T, mean_kl(a, b), 1e-9);
	assert_int_equal(r->n_layers, 3); /* final norm and head are equal */
	for (int i = 0; i < 3; i++) {
		assert_int_equal(r->layers[i].layer, i - 1);
		double want = mean_kl(one[i], b);
		assert_true(want > 1e-7);
		assert_float_equal(r->layers[i].kl, want, 1e-9);
		assert_true(r->layers[i].added > 0 && r->layers[i].added < 1);
	}
	assert_true(r->layers[1].kl > r->layers[2].kl); /* five times the noise */
	st_rosetta_free(r);
}

/* A sound pair: stored types cost about what they usually do, and equal files agree in everything. */
static void sound_pairs(void **state)
{
	(void)state;
	struct st_error err = ST_ERROR_INIT;
	struct st_rosetta *r;
	struct toy m;
	char b[256], a[256];
	snprintf(b, sizeof b, "%s", write_with("sound.gguf", (double[3]){ 0 }));
	toy_make(&m, "qwen2", 64, false);
	snprintf(a, sizeof a, "%s", in_folder("stored.gguf"));
	toy_write(&m, a, ST_DTYPE_Q8_0, true);
	toy_free(&m);
	const struct st_rosetta_options o = {
		.tokens = tokens, .n_tokens = T, .threads = 1, .threshold = NAN, .layer_costs = true
	};
	assert_ok(st_rosetta_run(a, b, &o, &r, &err), &err);
	assert_int_equal(r->verdict, ST_VERDICT_NOISE);
	assert_int_equal(r->agreement.positions, T);
	assert_float_equal(r->agreement.kl_sum / T, mean_kl(a, b), 1e-9);
	assert_true(r->agreement.over_usual > 0.7 && r->agreement.over_usual < 1.4);
	assert_true(r->n_layers >= 3);
	st_rosetta_free(r);
	assert_ok(st_rosetta_run(b, b, &o, &r, &err), &err);
	assert_int_equal(r->agreement.top1, T);
	assert_int_equal(r->agreement.top5, T);
	assert_true(r->agreement.kl_max == 0 && r->n_layers == 0 && isnan(r->agreement.over_usual));
	st_rosetta_free(r);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(hand_made_logits), cmocka_unit_test(likeliest_and_ranks),
		cmocka_unit_test(plain_loops),      cmocka_unit_test(layers_cost_what_their_exchange_costs),
		cmocka_unit_test(sound_pairs),
	};
	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
