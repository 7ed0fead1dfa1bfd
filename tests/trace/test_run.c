/* trace: what a run captures and writes, against other engines' captures, against itself, and under every refusal. */
#include "arch/arch.h"
#include "graph/stage.h"
#include "support.h"

#include <dirent.h>
#include <math.h>

static struct st_model *open_model(const char *rel)
{
	struct st_model *m;
	struct st_error err = ST_ERROR_INIT;
	assert_ok(st_model_open(shared_path(rel), &m, &err), &err);
	return m;
}

static void run(const struct st_model *m, const struct st_trace_options *o)
{
	struct st_error err = ST_ERROR_INIT;
	assert_ok(st_trace_run(m, o, &err), &err);
}

static const uint32_t some_tokens[] = { 5, 77, 12, 200, 33, 91, 150 };
#define ALL_STAGES { { ((uint64_t)1 << ST_STAGE_COUNT) - 1 } }

static struct st_trace_options options(void)
{
	return (struct st_trace_options){ .tokens = some_tokens,
		                          .n_tokens = sizeof some_tokens / sizeof *some_tokens,
		                          .capture = ALL_STAGES,
		                          .threads = 2 };
}

/* ---- against captures of another engine ---- */

/* Row r of a trace's Q or K values in the half-split basis: another engine may store each head as pairs. Of the fused
 * stage the first n_rot features are Q and K, the rest V. */
static void to_half(float *row, size_t n_rot, size_t d)
{
	float tmp[512];
	assert_true(d <= 512);
	for (size_t h = 0; h < n_rot; h += d) {
		for (size_t i = 0; i < d / 2; i++) {
			tmp[i] = row[h + 2 * i];
			tmp[d / 2 + i] = row[h + 2 * i + 1];
		}
		memcpy(row + h, tmp, d * sizeof *tmp);
	}
}

/* How many leading features of a stage's rows lie in the rotary basis. */
static size_t rotary_features(const struct st_config *c, enum st_stage s)
{
	switch (s) {
	case ST_STAGE_QKV_MATMUL:
	case ST_STAGE_QKV_BIAS:
		return (size_t)(c->n_heads + c->n_kv_heads) * c->head_dim;
	case ST_STAGE_Q_POST_NORM:
	case ST_STAGE_Q_POST_ROPE:
		return (size_t)c->n_heads * c->head_dim;
	case ST_STAGE_K_POST_NORM:
	case ST_STAGE_K_POST_ROPE:
		return (size_t)c->n_kv_heads * c->head_dim;
	default:
		return 0;
	}
}

/* Largest relative L2 distance over the stages of a capture from our own exact run of its tokens. */
static double distance(const char *id, const char *model)
{
	char rel[128];
	snprintf(rel, sizeof rel, "captures/%s/trace.safetensors", id);
	struct st_trace *theirs = open_trace(shared_path(rel));
	snprintf(rel, sizeof rel, "captures/models/%s.gguf", model);
	struct st_model *m = open_model(rel);
	const struct st_config *cfg = st_model_config(m);
	const struct st_provenance *p = st_trace_provenance(theirs);
	struct st_trace_options o = options();
	o.tokens = p->tokens;
	o.n_tokens = p->n_tokens;
	o.lm_head_all = true;
	o.force = true; /* one file for all captures */
	o.bundle = in_folder("ours.safetensors");
	run(m, &o);
	struct st_trace *ours = open_trace(o.bundle);
	bool pairs = strcmp(p->rope_layout, "interleaved") == 0;
	double worst = 0;
	for (size_t i = 0; i < st_trace_n_entries(theirs); i++) {
		const struct st_trace_entry *b = st_trace_entry_at(theirs, i),
					    *a = st_trace_find(ours, b->stage, b->layer, 0);
		if (!a)
			fail_msg("%s: no %s of ours", id, b->tensor->name);
		assert_int_equal(a->rows, b->rows);
		assert_int_equal(a->cols, b->cols);
		float *x = values(a), *y = values(b);
		double diff = 0, norm = 0;
		for (uint64_t r = 0; r < b->rows; r++) {
			if (pairs)
				to_half(y + r * b->cols, rotary_features(cfg, b->stage), cfg->head_dim);
			for (uint64_t k = r * b->cols; k < (r + 1) * b->cols; k++) {
				diff += ((double)x[k] - (double)y[k]) * ((double)x[k] - (double)y[k]);
				norm += (double)x[k] * (double)x[k];
			}
		}
		double rel_l2 = sqrt(diff / norm);
		if (getenv("STELE_TEST_PRINT"))
			fprintf(stderr, "%s %s %.3g\n", id, b->tensor->name, rel_l2);
		worst = fmax(worst, rel_l2);
		free(x);
		free(y);
	}
	st_trace_close(ours);
	st_trace_close(theirs);
	st_model_close(m);
	return worst;
}

/* F32 runs: the other engine rounds in another order, and the difference grows over the layers. The bound is far below
 * the smallest planted fault (1e-3). */
static void clean_captures_agree(void **state)
{
	(void)state;
	assert_true(distance("clean-qwen2-d96-f32", "qwen2-d96-f32") < 2e-6);
	assert_true(distance("clean-qwen3-d64-f32", "qwen3-d64-f32") < 2e-6);
	assert_true(distance("clean-stories260K-f32", "stories260K-f32") < 2e-6);
}

/* The other engine rounds activations to 8 bits in front of quantised weights: 6e-3 per product, more in total. */
static void quantised_captures_stay_near(void **state)
{
	(void)state;
	double q8 = distance("clean-stories260K-q8_0", "stories260K-q8_0");
	assert_true(q8 > 1e-4 && q8 < 0.1);
}

/* ---- the files ---- */

static void provenance_of_a_bundle(void **state)
{
	(void)state;
	struct st_model *m = open_model("captures/models/stories260K-q4_0.gguf");
	struct st_trace_options o = options();
	o.prompt = "Once \"upon\"";
	o.bundle = in_folder("p.safetensors");
	run(m, &o);
	struct st_trace *t = open_trace(o.bundle);
	const struct st_provenance *p = st_trace_provenance(t);
	assert_string_equal(p->engine, "stele");
	assert_string_equal(p->backend, "cpu");
	assert_string_equal(p->mode, "exact");
	assert_string_equal(p->arch, "llama");
	assert_string_equal(p->rope_layout, "half");
	assert_string_equal(p->prompt, "Once \"upon\"");
	assert_true(strncmp(p->weights, "Q4_0", 4) == 0);
	char hex[65];
	struct st_error err = ST_ERROR_INIT;
	assert_ok(st_container_sha256(st_model_container(m), hex, &err), &err);
	assert_string_equal(p->model_sha256, hex);
	assert_int_equal(p->n_tokens, o.n_tokens);
	assert_memory_equal(p->tokens, some_tokens, sizeof some_tokens);
	/* The head of the last position only, and said so. */
	const struct st_trace_entry *head = st_trace_find(t, ST_STAGE_LM_HEAD, -1, 0);
	assert_int_equal(head->rows, 1);
	assert_int_equal(head->n_positions, 1);
	assert_int_equal(head->positions[0], o.n_tokens - 1);
	/* [heads, tokens, positions] */
	const struct st_trace_entry *scores = st_trace_find(t, ST_STAGE_ATTN_SCORES, 3, 0);
	assert_int_equal(scores->tensor->ndim, 3);
	assert_int_equal(scores->tensor->shape[0], st_model_config(m)->n_heads);
	assert_int_equal(scores->tensor->shape[1], o.n_tokens);
	st_trace_close(t);
	st_model_close(m);
}

/* Every entry of a also in b with the same bits; where b is a tree, lm_head is cut to its last row. */
static void assert_same_values(const struct st_trace *a, const struct st_trace *b)
{
	assert_int_equal(st_trace_n_entries(a), st_trace_n_entries(b));
	for (size_t i = 0; i < st_trace_n_entries(a); i++) {
		const struct st_trace_entry *x = st_trace_entry_at(a, i),
					    *y = st_trace_find(b, x->stage, x->layer, x->step);
		assert_non_null(y);
		assert_int_equal(x->cols, y->cols);
		assert_true(x->rows == y->rows || (x->stage == ST_STAGE_LM_HEAD && y->rows == 1));
		float *u = values(x), *v = values(y);
		assert_memory_equal(u + (x->rows - y->rows) * x->cols, v, y->rows * y->cols * sizeof *v);
		free(u);
		free(v);
	}
}

static void assert_same_file(const char *a, const char *b)
{
	size_t n, m;
	char *x = read_bytes(a, &n), *y = read_bytes(b, &m);
	assert_int_equal(n, m);
	if (memcmp(x, y, n) != 0)
		fail_msg("%s and %s differ", a, b);
	free(x);
	free(y);
}

static void tree_and_bundle_hold_the_same(void **state)
{
	(void)state;
	struct st_model *m = open_model("captures/models/qwen3-d64-f32.gguf");
	struct st_trace_options o = options();
	o.tree = in_folder("tree");
	o.bundle = in_folder("both.safetensors");
	o.lm_head_all = true;
	o.steps = 2;
	run(m, &o);
	struct st_trace *tree = open_trace(o.tree), *bundle = open_trace(o.bundle);
	assert_same_values(bundle, tree);
	assert_true(st_trace_provenance(tree)->known);
	assert_string_equal(st_trace_provenance(tree)->model_sha256, st_trace_provenance(bundle)->model_sha256);
	assert_int_equal(st_trace_provenance(tree)->n_steps, 2);
	assert_int_equal(st_trace_provenance(bundle)->n_steps, 2);
	assert_memory_equal(st_trace_provenance(tree)->step_tokens, st_trace_provenance(bundle)->step_tokens, 8);
	assert_int_equal(st_trace_find(bundle, ST_STAGE_LM_HEAD, -1, 0)->rows, o.n_tokens);
	assert_int_equal(st_trace_find(tree, ST_STAGE_LM_HEAD, -1, 0)->positions[0], o.n_tokens - 1);
	assert_int_equal(st_trace_find(tree, ST_STAGE_ATTN_NORM, 1, 2)->rows, 1);
	st_trace_close(tree);
	st_trace_close(bundle);

	/* The files other tools expect, and their exact form: 12 bytes and the values. */
	size_t n;
	char *bytes = read_bytes(in_folder("tree/layer-2/ffn_norm.bin"), &n);
	assert_memory_equal(bytes, ((const uint32_t[]){ 0x54525041, 2, 7 * 64 }), 12);
	assert_int_equal(n, 12 + 4 * 7 * 64);
	free(bytes);
	bytes = read_bytes(in_folder("tree/lm_head.bin"), &n);
	assert_memory_equal(bytes, ((const uint32_t[]){ 0x54525041, UINT32_MAX, 256 }), 12);
	free(bytes);
	assert_int_equal(access(in_folder("tree/layer-0/embedding.bin"), R_OK), 0);
	st_model_close(m);
}

/* Two runs, whatever the threads and the CPU level: the same bytes in every file. */
static void runs_are_byte_identical(void **state)
{
	(void)state;
	struct st_model *m = open_model("captures/models/stories260K-q8_0.gguf");
	static const char *const modes[] = { "exact", "fast" };
	for (size_t k = 0; k < 2; k++) {
		struct st_trace_options o = options();
		o.mode = modes[k];
		o.steps = 1;
		o.force = true;
		o.threads = 1;
		o.cpu = "scalar";
		o.tree = in_folder("t1");
		o.bundle = in_folder("b1.safetensors");
		run(m, &o);
		o.threads = 4;
		o.cpu = NULL;
		o.tree = in_folder("t2");
		o.bundle = in_folder("b2.safetensors");
		run(m, &o);
		assert_same_file(in_folder("b1.safetensors"), in_folder("b2.safetensors"));
		char cmd[512];
		snprintf(cmd, sizeof cmd, "diff -r '%s' '%s' >&2", in_folder("t1"), in_folder("t2"));
		assert_int_equal(system(cmd), 0);
	}
	st_model_close(m);
}

/* ---- decode steps ---- */

static uint32_t said[8];
static uint32_t n_said;

static void note_token(void *user, uint32_t step, uint32_t token)
{
	(void)user;
	assert_int_equal(step, n_said + 1);
	said[n_said++] = token;
}

/* Steps continue with the largest logit, and a step's values are those of the last row of a prompt that has the same
 * tokens from the start. */
static void steps_equal_a_longer_prompt(void **state)
{
	(void)state;
	struct st_model *m = open_model("captures/models/qwen2-d96-f32.gguf");
	struct st_trace_options o = options();
	o.steps = 3;
	o.on_token = note_token;
	n_said = 0;
	o.bundle = in_folder("steps.safetensors");
	run(m, &o);
	assert_int_equal(n_said, 3);
	struct st_trace *steps = open_trace(o.bundle);
	assert_memory_equal(st_trace_provenance(steps)->step_tokens, said, 12);

	uint32_t longer[10];
	memcpy(longer, some_tokens, sizeof some_tokens);
	memcpy(longer + 7, said, 12);
	struct st_trace_options all = options();
	all.tokens = longer;
	all.n_tokens = 10;
	all.lm_head_all = true;
	all.bundle = in_folder("longer.safetensors");
	run(m, &all);
	struct st_trace *whole = open_trace(all.bundle);
	for (uint32_t step = 1; step <= 3; step++) {
		const struct st_trace_entry *head = st_trace_find(whole, ST_STAGE_LM_HEAD, -1, 0);
		float *logits = values(head), *row = logits + (5 + step) * head->cols;
		for (uint64_t i = 0; i < head->cols; i++)
			assert_true(row[i] <= row[said[step - 1]]);
		free(logits);
		for (size_t i = 0; i < st_trace_n_entries(steps); i++) {
			const struct st_trace_entry *e = st_trace_entry_at(steps, i),
						    *w = st_trace_find(whole, e->stage, e->layer, 0);
			if (e->step != step || e->stage == ST_STAGE_ATTN_SCORES || e->stage == ST_STAGE_ATTN_SOFTMAX)
				continue;
			float *x = values(e), *y = values(w);
			assert_int_equal(e->rows, 1);
			assert_memory_equal(x, y + (6 + step) * w->cols, e->cols * sizeof *x);
			free(x);
			free(y);
		}
	}
	st_trace_close(steps);
	st_trace_close(whole);
	st_model_close(m);
}

/* ---- choices and refusals ---- */

static size_t lines, stages;

static void count_line(void *user, const char *line)
{
	(void)user;
	assert_non_null(strstr(line, "qkv_bias"));
	lines++;
}

static void count_stage(void *user, const struct st_trace_stats *s)
{
	(void)user;
	assert_true(s->min <= s->mean && s->mean <= s->max && s->n_nan == 0 && s->n_inf == 0);
	/* l2^2 = n (mean^2 + std^2) */
	double n = (double)(s->rows * s->cols);
	assert_true(fabs(s->l2 * s->l2 / (n * (s->mean * s->mean + s->std * s->std)) - 1) < 1e-9);
	stages++;
}

static void chosen_stages_and_layers(void **state)
{
	(void)state;
	struct st_model *m = open_model("captures/models/stories260K-f32.gguf");
	struct st_trace_options o = options();
	o.capture = (struct st_stage_set){ { (uint64_t)1 << ST_STAGE_FFN_UP | (uint64_t)1 << ST_STAGE_FINAL_NORM
		                             | (uint64_t)1 << ST_STAGE_QKV_BIAS } };
	o.layer_first = 1;
	o.layer_end = 3;
	o.bundle = in_folder("some.safetensors");
	o.hooks.log = count_line;
	o.on_stage = count_stage;
	lines = stages = 0;
	run(m, &o);
	assert_int_equal(lines, 1);   /* the family has no bias */
	assert_true(stages > 5 * 14); /* statistics are of every stage */
	struct st_trace *t = open_trace(o.bundle);
	assert_int_equal(st_trace_n_entries(t), 3);
	assert_int_equal(st_trace_entry_at(t, 0)->layer, 1);
	assert_int_equal(st_trace_entry_at(t, 1)->layer, 2);
	assert_int_equal(st_trace_entry_at(t, 2)->stage, ST_STAGE_FINAL_NORM);
	st_trace_close(t);
	st_model_close(m);
}

static void assert_refused(const struct st_model *m, const struct st_trace_options *o, enum st_status code,
                           const char *part)
{
	struct st_error err = ST_ERROR_INIT;
	enum st_status st = st_trace_run(m, o, &err);
	if (st != code || !strstr(err.message, part))
		fail_msg("%s: %s: %s, expected \"%s\"", st_status_name(st), err.where, err.message, part);
}

static void refusals(void **state)
{
	(void)state;
	struct st_model *m = open_model("captures/models/stories260K-f32.gguf");
	struct st_trace_options o = options();
	o.n_tokens = 0;
	assert_refused(m, &o, ST_ERR_USAGE, "no tokens");
	o = options();
	o.tokens = (const uint32_t[]){ 1, 512 };
	o.n_tokens = 2;
	assert_refused(m, &o, ST_ERR_USAGE, "512");
	o = options();
	o.layer_first = o.layer_end = 2;
	assert_refused(m, &o, ST_ERR_USAGE, "half open");
	o.layer_first = 4;
	o.layer_end = 6;
	assert_refused(m, &o, ST_ERR_USAGE, "5 layers");
	o = options();
	o.mode = "precise";
	assert_refused(m, &o, ST_ERR_USAGE, "precise");
	o = options();
	o.cpu = "mmx";
	assert_refused(m, &o, ST_ERR_USAGE, "mmx");
	o = options();
	o.bundle = in_folder("never.safetensors");
	o.capture = (struct st_stage_set){ { (uint64_t)1 << ST_STAGE_QKV_BIAS } };
	assert_refused(m, &o, ST_ERR_USAGE, "none of the chosen");
	o.capture = (struct st_stage_set){ 0 };
	assert_refused(m, &o, ST_ERR_USAGE, "no stage was chosen");
	assert_int_equal(access(o.bundle, F_OK), -1);
	o = options();
	o.bundle = in_folder("no/such/folder.safetensors");
	assert_refused(m, &o, ST_ERR_IO, "cannot create");
	st_model_close(m);
}

/* One head's scores of 100,000 tokens are 10^10 values; refused before anything is allocated or evaluated. */
static void too_much_for_a_tree(void **state)
{
	(void)state;
	struct st_model *m = open_model("captures/models/stories260K-f32.gguf");
	uint32_t *many = calloc(100000, sizeof *many);
	struct st_trace_options o = options();
	o.tokens = many;
	o.n_tokens = 100000;
	o.tree = in_folder("large");
	struct st_error err = ST_ERROR_INIT;
	assert_int_equal(st_trace_run(m, &o, &err), ST_ERR_LIMIT);
	assert_string_equal(err.where, "layers.0.attn_scores");
	assert_non_null(strstr(err.message, "write a bundle"));
	assert_int_equal(access(o.tree, F_OK), -1);
	free(many);
	st_model_close(m);
}

static size_t things_in(const char *path)
{
	size_t n = 0;
	DIR *d = opendir(path);
	for (struct dirent *e; d && (e = readdir(d));)
		n += e->d_name[0] != '.';
	if (d)
		closedir(d);
	return n;
}

static void cancel_at_once(void *user, const struct st_trace_stats *s)
{
	(void)user;
	if (s->layer == 2)
		st_cancel();
}

/* An existing tree is kept without force, replaced whole with it; a run that stops half-way leaves nothing. */
static void whole_or_not_at_all(void **state)
{
	(void)state;
	struct st_model *m = open_model("captures/models/stories260K-f32.gguf");
	char sub[128];
	snprintf(sub, sizeof sub, "%s", in_folder("alone"));
	mkdir(sub, 0777);
	struct st_trace_options o = options();
	o.tree = in_folder("alone/tree");
	run(m, &o);
	write_bytes(in_folder("alone/tree/layer-0/old.bin"), "x", 1);
	assert_refused(m, &o, ST_ERR_IO, "exists");
	assert_int_equal(access(in_folder("alone/tree/layer-0/old.bin"), F_OK), 0);
	o.force = true;
	o.bundle = in_folder("alone/bundle.safetensors");
	o.on_stage = cancel_at_once;
	struct st_error err = ST_ERROR_INIT;
	assert_int_equal(st_trace_run(m, &o, &err), ST_ERR_CANCELLED);
	st_cancel_reset();
	assert_int_equal(things_in(sub), 1); /* the old tree, and no bundle */
	assert_int_equal(access(in_folder("alone/tree/layer-0/old.bin"), F_OK), 0);
	o.on_stage = NULL;
	run(m, &o);
	assert_int_equal(things_in(sub), 2);
	assert_int_equal(access(in_folder("alone/tree/layer-0/old.bin"), F_OK), -1);
	struct st_trace *t = open_trace(in_folder("alone/tree"));
	st_trace_close(t);
	st_model_close(m);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(clean_captures_agree),     cmocka_unit_test(quantised_captures_stay_near),
		cmocka_unit_test(provenance_of_a_bundle),   cmocka_unit_test(tree_and_bundle_hold_the_same),
		cmocka_unit_test(runs_are_byte_identical),  cmocka_unit_test(steps_equal_a_longer_prompt),
		cmocka_unit_test(chosen_stages_and_layers), cmocka_unit_test(refusals),
		cmocka_unit_test(too_much_for_a_tree),      cmocka_unit_test(whole_or_not_at_all),
	};
	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
