/* Logits of models with published or independently computed references. */
#include "arch/helpers.h"

#include <jansson.h>

static json_t *load(const char *rel)
{
	json_error_t e;
	json_t *j = json_load_file(shared_path(rel), 0, &e);
	assert_non_null(j);
	return j;
}

static size_t read_tokens(const json_t *list, uint32_t *out, size_t max)
{
	size_t n = json_array_size(list);
	assert_in_range(n, 1, max);
	for (size_t i = 0; i < n; i++)
		out[i] = (uint32_t)json_integer_value(json_array_get(list, i));
	return n;
}

/* One sequence: the whole within `bound`, and each position too. */
static void check_logits(const char *what, const struct st_model *m, enum st_mode mode, const uint32_t *tokens,
                         size_t T, const json_t *expected, double bound)
{
	struct st_exec e = exec_in(mode);
	size_t V = st_model_config(m)->vocab;
	double *want = malloc(T * V * sizeof *want);
	for (size_t t = 0; t < T; t++) {
		const json_t *row = json_array_get(expected, t);
		assert_int_equal(json_array_size(row), V);
		for (size_t i = 0; i < V; i++)
			want[t * V + i] = json_number_value(json_array_get(row, i));
	}
	float *got = model_logits(m, &e, tokens, T, T);
	double all = rel_l2(got, want, T * V), worst = 0;
	for (size_t t = 0; t < T; t++)
		worst = fmax(worst, rel_l2(got + t * V, want + t * V, V));
	if (!(all <= bound) || !(worst <= bound))
		fail_msg("%s in %s: relative L2 %g, worst position %g, bound %g", what, st_mode_name(mode), all, worst,
		         bound);
	free(got);
	free(want);
}

static void oracle(const char *folder)
{
	char rel[128];
	snprintf(rel, sizeof rel, "oracles/%s/expected.json", folder);
	json_t *j = load(rel);
	snprintf(rel, sizeof rel, "oracles/%s", folder);
	struct st_model *m = open_model(shared_path(rel));
	const json_t *tokens = json_object_get(j, "tokens"), *logits = json_object_get(j, "logits");
	assert_true(json_array_size(tokens) >= 3);
	for (size_t s = 0; s < json_array_size(tokens); s++) {
		uint32_t ids[64];
		size_t T = read_tokens(json_array_get(tokens, s), ids, 64);
		check_logits(folder, m, ST_MODE_EXACT, ids, T, json_array_get(logits, s), 1e-5);
		check_logits(folder, m, ST_MODE_FAST, ids, T, json_array_get(logits, s), 1e-4);
	}
	st_model_close(m);
	json_decref(j);
}

static void llama3(void **state)
{
	(void)state;
	oracle("ferrl-llama");
}
static void qwen3(void **state)
{
	(void)state;
	oracle("ferrl-qwen3");
}
static void qwen2(void **state)
{
	(void)state;
	oracle("neural-qwen2");
}

/* Families that are pages of text open as models: their weights one by one, with a graph. */
static void described_families_open(void **state)
{
	(void)state;
	static const struct {
		const char *folder, *name, *weight; /* the page's name of a weight that only such families have */
		int32_t expert;
	} known[] = {
		{ "ferrl-gemma4", "gemma4", "post_ffn_norm", -1 },
		{ "neural-gemma2", "gemma2", "post_ffn_norm", -1 },
		{ "neural-phi3", "phi3", "v", -1 },
		{ "neural-mixtral", "mixtral", "gate", 3 },
		{ "neural-gpt2", "gpt2", "up_bias", -1 },
		{ "neural-olmo2", "olmo2", "post_attn_norm", -1 },
	};
	for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
		char rel[128];
		struct st_error err = ST_ERROR_INIT;
		struct st_model *m = NULL;
		snprintf(rel, sizeof rel, "oracles/%s", known[i].folder);
		assert_ok(st_model_open(shared_path(rel), &m, &err), &err);
		assert_string_equal(st_model_config(m)->arch, known[i].name);
		assert_non_null(st_model_graph(m));
		size_t found = 0, first = 0;
		for (size_t k = 0; k < st_model_n_weights(m); k++) {
			const struct st_weight *w = st_model_weight_at(m, k);
			assert_ptr_equal(st_model_place(m, w), w);
			found += strcmp(w->name, known[i].weight) == 0 && w->expert == known[i].expert;
			first += w->role == ST_ROLE_EMBED;
		}
		assert_int_equal(found, st_model_config(m)->n_layers);
		assert_int_equal(first, 1);
		st_model_close(m);
	}
}

/* 24 greedy steps from BOS in every form of the same weights. */
static void stories_in_five_forms(void **state)
{
	(void)state;
	static const struct {
		const char *path;
		double exact, fast;
	} forms[] = {
		{ "model.gguf", 1e-6, 1e-5 },
		{ "hf", 1e-6, 1e-5 },
		{ "hf/model.safetensors", 1e-6, 1e-5 },
		{ "model-a.apr", 1e-6, 1e-5 },
		{ "model-b.apr", 1e-6, 1e-5 },
		{ "fault-dims-reversed.apr", 2e-3, 2e-3 }, /* stored as F16; reversed labels are harmless */
	};
	json_t *j = load("models/stories260k/golden_logits.json");
	uint32_t ids[64];
	size_t T = read_tokens(json_object_get(j, "input_ids"), ids, 64);
	assert_int_equal(T, 24);
	for (size_t i = 0; i < sizeof forms / sizeof *forms; i++) {
		char rel[128];
		snprintf(rel, sizeof rel, "models/stories260k/%s", forms[i].path);
		struct st_model *m = open_model(shared_path(rel));
		check_logits(forms[i].path, m, ST_MODE_EXACT, ids, T, json_object_get(j, "logits"), forms[i].exact);
		check_logits(forms[i].path, m, ST_MODE_FAST, ids, T, json_object_get(j, "logits"), forms[i].fast);

		/* Greedy decoding one token at a time reproduces the sequence. */
		struct st_exec e = exec_in(ST_MODE_EXACT);
		const struct st_graph *g = st_model_graph(m);
		const json_t *next = json_object_get(j, "greedy_next");
		struct st_error err = ST_ERROR_INIT;
		struct st_run *r;
		assert_ok(st_run_open_flags(g, &e, 1, T, ST_RUN_HEAD_LAST, &r, &err), &err);
		uint32_t token = ids[0];
		for (size_t t = 0; t < T; t++) {
			assert_ok(st_run_begin(r, &token, 1, &err), &err);
			for (uint32_t n = 0; n < g->n_nodes; n++)
				assert_ok(st_run_eval(r, n, &err), &err);
			const float *y = st_run_value(r, g->n_nodes - 1).data;
			token = 0;
			for (uint32_t v = 1; v < g->vocab; v++)
				if (y[v] > y[token])
					token = v;
			assert_int_equal(token, json_integer_value(json_array_get(next, t)));
		}
		st_run_close(r);
		st_model_close(m);
	}
	json_decref(j);
}

/* Bytes quantised once and put into two containers are one model, bit for bit. */
static void same_blocks_same_bits(void **state)
{
	(void)state;
	static const struct {
		const char *a, *b;
		uint32_t tokens[5];
		size_t n;
	} pairs[] = {
		{ "models/stories260k/model-q8_0.gguf",
		  "models/stories260k/model-q8_0.apr",
		  { 1, 403, 407, 261, 378 },
		  5 },
		{ "models/stories260k/model-a.apr", "models/stories260k/model-b.apr", { 1, 403, 407, 261, 378 }, 5 },
		{ "models/stories260k/model.gguf", "models/stories260k/hf", { 1, 403, 407, 261, 378 }, 5 },
		{ "models/qwen2-k/qwen2-k-q4_k.gguf", "models/qwen2-k/qwen2-k-q4_k-a.apr", { 17, 10, 17, 28 }, 4 },
		{ "models/qwen2-k/qwen2-k-q4_k-a.apr", "models/qwen2-k/qwen2-k-q4_k-b.apr", { 17, 10, 17, 28 }, 4 },
		{ "models/qwen2-tiny/qwen2-tiny-q4_k.gguf",
		  "models/qwen2-tiny/qwen2-tiny-q4_k.apr",
		  { 17, 10, 17, 28 },
		  4 },
	};
	for (size_t i = 0; i < sizeof pairs / sizeof *pairs; i++)
		for (int mode = ST_MODE_EXACT; mode <= ST_MODE_FAST; mode++) {
			struct st_model *a = open_model(shared_path(pairs[i].a)),
					*b = open_model(shared_path(pairs[i].b));
			size_t V = st_model_config(a)->vocab;
			/* GGUF stores epsilon and theta as f32, the others as decimals: give both sides one value. */
			struct st_graph *g[2] = { (struct st_graph *)st_model_graph(a),
				                  (struct st_graph *)st_model_graph(b) };
			assert_int_equal(g[0]->n_nodes, g[1]->n_nodes);
			for (uint32_t n = 0; n < g[0]->n_nodes; n++)
				g[1]->nodes[n].eps = g[0]->nodes[n].eps;
			struct st_exec e = exec_in((enum st_mode)mode);
			float *x = model_logits(a, &e, pairs[i].tokens, pairs[i].n, pairs[i].n);
			float *y = model_logits(b, &e, pairs[i].tokens, pairs[i].n, pairs[i].n);
			assert_memory_equal(x, y, pairs[i].n * V * sizeof *x);
			free(x);
			free(y);
			st_model_close(a);
			st_model_close(b);
		}
}

/* Stored blocks, every mode: neither level, threads nor chunks change a bit. */
static void quantised_same_bits_everywhere(void **state)
{
	(void)state;
	static const char *const models[] = { "models/qwen2-k/qwen2-k-q4_k.gguf", "models/stories260k/model-q8_0.gguf",
		                              "captures/models/stories260K-q5_1.gguf" };
	static const uint32_t ids[7] = { 17, 10, 17, 28, 300, 2, 511 };
	for (size_t i = 0; i < sizeof models / sizeof *models; i++) {
		struct st_model *m = open_model(shared_path(models[i]));
		size_t bytes = 7 * st_model_config(m)->vocab * sizeof(float);
		for (int mode = 0; mode < ST_MODE_COUNT; mode++) {
			struct st_exec e = { st_kernels_get(ST_CPU_SCALAR), (enum st_mode)mode, NULL };
			float *want = model_logits(m, &e, ids, 7, 7);
			for (int c = 0; c < ST_CPU_COUNT; c++) {
				if (!st_cpu_usable((enum st_cpu)c))
					continue;
				e = (struct st_exec){ st_kernels_get((enum st_cpu)c), (enum st_mode)mode,
					              pool_of(1 + c) };
				float *got = model_logits(m, &e, ids, 7, 1 + 2 * (size_t)c);
				if (memcmp(want, got, bytes) != 0)
					fail_msg("%s, %s: %s differs from scalar", models[i], st_mode_name(e.mode),
					         st_cpu_name((enum st_cpu)c));
				free(got);
			}
			free(want);
		}
		st_model_close(m);
	}
}

/* Quantised against the source: the README of the models gives the relative L2 of the logits. */
static void quantised_is_near_its_source(void **state)
{
	(void)state;
	static const struct {
		const char *quantised, *source;
		uint32_t tokens[5];
		size_t n;
		double expected;
	} pairs[] = {
		{ "models/stories260k/model-q8_0.gguf", "models/stories260k/hf", { 1, 403, 407, 261, 378 }, 5, 0.007 },
		{ "models/stories260k/model-q4_0.gguf", "models/stories260k/hf", { 1, 403, 407, 261, 378 }, 5, 0.16 },
		{ "models/qwen2-k/qwen2-k-q4_k.gguf", "models/qwen2-k/hf", { 17, 10, 17, 28 }, 4, 0.088 },
	};
	for (size_t i = 0; i < sizeof pairs / sizeof *pairs; i++) {
		struct st_model *a = open_model(shared_path(pairs[i].quantised)),
				*b = open_model(shared_path(pairs[i].source));
		size_t n = pairs[i].n * st_model_config(a)->vocab;
		struct st_exec e = exec_in(ST_MODE_EXACT);
		float *x = model_logits(a, &e, pairs[i].tokens, pairs[i].n, pairs[i].n);
		float *y = model_logits(b, &e, pairs[i].tokens, pairs[i].n, pairs[i].n);
		double *want = malloc(n * sizeof *want);
		for (size_t k = 0; k < n; k++)
			want[k] = y[k];
		double d = rel_l2(x, want, n);
		assert_true(d > pairs[i].expected * 0.9 && d < pairs[i].expected * 1.1);
		free(x);
		free(y);
		free(want);
		st_model_close(a);
		st_model_close(b);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(llama3),
		cmocka_unit_test(qwen3),
		cmocka_unit_test(qwen2),
		cmocka_unit_test(described_families_open),
		cmocka_unit_test(stories_in_five_forms),
		cmocka_unit_test(same_blocks_same_bits),
		cmocka_unit_test(quantised_same_bits_everywhere),
		cmocka_unit_test(quantised_is_near_its_source),
	};
	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
