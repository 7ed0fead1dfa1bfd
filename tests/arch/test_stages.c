/* Every stage of another engine's clean runs, against ours. */
#include "arch/helpers.h"
#include "graph/basis.h"

#include <jansson.h>

#include "format/container.h"

/* The engine's Q and K are in adjacent-pair order for llama; the heads of `stage` are put into ours. */
static void to_half(const struct st_config *cfg, enum st_stage stage, float *x, size_t rows, size_t cols)
{
	for (size_t t = 0; t < rows; t++, x += cols) {
		if (stage == ST_STAGE_Q_POST_ROPE || stage == ST_STAGE_K_POST_ROPE)
			st_basis_to_half(x, cols / cfg->head_dim, cfg->head_dim, cfg->head_dim);
		else if (stage == ST_STAGE_QKV_MATMUL || stage == ST_STAGE_QKV_BIAS)
			st_basis_to_half(x, cfg->n_heads + cfg->n_kv_heads, cfg->head_dim, cfg->head_dim);
	}
}

static void capture(const char *folder, double bound)
{
	char rel[160];
	json_error_t je;
	struct st_error err = ST_ERROR_INIT;
	struct st_container *trace = NULL;
	snprintf(rel, sizeof rel, "captures/%s/case.json", folder);
	json_t *j = json_load_file(shared_path(rel), 0, &je);
	assert_non_null(j);
	snprintf(rel, sizeof rel, "captures/%s", json_string_value(json_object_get(j, "model")));
	struct st_model *m = open_model(shared_path(rel));
	snprintf(rel, sizeof rel, "captures/%s/trace.safetensors", folder);
	assert_ok(st_container_open(shared_path(rel), &trace, &err), &err);
	const char *layout = json_string_value(json_object_get(trace->docs.metadata, "rope_layout"));
	bool interleaved = strcmp(layout, "interleaved") == 0;

	uint32_t ids[64];
	const json_t *tokens = json_object_get(j, "tokens");
	size_t T = json_array_size(tokens), compared = 0;
	for (size_t t = 0; t < T; t++)
		ids[t] = (uint32_t)json_integer_value(json_array_get(tokens, t));
	const struct st_graph *g = st_model_graph(m);
	struct st_exec e = exec_in(ST_MODE_EXACT);
	struct st_run *r;
	assert_ok(st_run_open(g, &e, T, T, &r, &err), &err);
	assert_ok(st_run_begin(r, ids, T, &err), &err);
	for (uint32_t i = 0; i < g->n_nodes; i++) {
		const struct st_node *n = &g->nodes[i];
		assert_ok(st_run_eval(r, i, &err), &err);
		if (n->layer < 0)
			snprintf(rel, sizeof rel, "%s", st_stage_name(n->stage));
		else
			snprintf(rel, sizeof rel, "layers.%d.%s", n->layer, st_stage_name(n->stage));
		const struct st_tensor *t = st_container_find(trace, rel);
		if (!t)
			continue;
		struct st_value v = st_run_value(r, i);
		assert_int_equal(t->n_elems, v.rows * v.cols);
		float *want = malloc(t->n_elems * sizeof *want);
		double *wide = malloc(t->n_elems * sizeof *wide);
		st_tensor_decode(t, 0, st_tensor_rows(t), want);
		if (interleaved)
			to_half(st_model_config(m), n->stage, want, v.rows, v.cols);
		for (size_t k = 0; k < t->n_elems; k++)
			wide[k] = want[k];
		double d = rel_l2(v.data, wide, t->n_elems);
		if (!(d <= bound))
			fail_msg("%s: %s is %g from the capture, bound %g", folder, rel, d, bound);
		free(want);
		free(wide);
		compared++;
	}
	assert_int_equal(compared, trace->n_tensors);
	st_run_close(r);
	st_container_close(trace);
	st_model_close(m);
	json_decref(j);
}

static void llama(void **state)
{
	(void)state;
	capture("clean-stories260K-f32", 5e-6);
}
static void qwen2(void **state)
{
	(void)state;
	capture("clean-qwen2-d96-f32", 5e-6);
}
static void qwen3(void **state)
{
	(void)state;
	capture("clean-qwen3-d64-f32", 5e-6);
}

int main(void)
{
	const struct CMUnitTest tests[] = { cmocka_unit_test(llama), cmocka_unit_test(qwen2), cmocka_unit_test(qwen3) };
	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
