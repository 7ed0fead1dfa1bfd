/*
 * test_fits.c - what `stele explain` says of a mistake besides its name: the number that was fitted, and which one it is.
 *
 * Traces come from the plain engine of tests/naive, which shares no arithmetic with the judge. Each row is a mistake, what is
 * captured, and what must be said.
 */
#include "test.h"

#include "naive/naive.h"

#include <stele/explain.h>

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define FAMILIES STELE_SOURCE_ROOT "/tests/data/families/"
#define ATTENTION "embedding,qkv_matmul,qkv_bias,q_post_rope,k_post_rope,attention"

struct row {
	const char *family, *fault, *stages;
	size_t tokens, steps;
	const char *code;
	enum st_param_name param; /* ST_PARAM_NONE: none is looked at */
	double value;             /* of it; */
	const char *text;         /* or this */
};

static const struct row rows[] = {
	/* clang-format off */
	/* From scores, and from what became of them. */
	{ "llama", "attn.scale=1", NULL, 9, 0, "attn.scale", ST_PARAM_SCALE, 1, NULL },
	{ "llama", "attn.scale=1", ATTENTION, 9, 0, "attn.scale", ST_PARAM_IS, 0, "1" },
	{ "llama", "attn.scale=0.77", ATTENTION, 9, 0, "attn.scale", ST_PARAM_SCALE, 0.77, NULL },
	{ "qwen2", "attn.scale=-1", ATTENTION, 9, 0, "attn.scale", ST_PARAM_IS, 0, "1/sqrt(hidden)" },
	{ "llama", "attn.softcap/added=2", NULL, 9, 0, "attn.softcap", ST_PARAM_SOFTCAP, 2, NULL },
	{ "llama", "attn.softcap/added=2", ATTENTION, 9, 0, "attn.softcap", ST_PARAM_SOFTCAP, 2, NULL },
	{ "gemma2", "attn.softcap/missing", ATTENTION, 9, 0, "attn.softcap", ST_PARAM_SOFTCAP, 0, NULL },
	{ "llama", "attn.mask_missing", ATTENTION, 9, 0, "attn.mask_missing", ST_PARAM_NONE, 0, NULL },
	{ "llama", "attn.mask_off_by_one/future", ATTENTION, 9, 0, "attn.mask_off_by_one", ST_PARAM_OFFSET, 1, NULL },
	{ "llama", "attn.mask_off_by_one/self", ATTENTION, 9, 0, "attn.mask_off_by_one", ST_PARAM_OFFSET, -1, NULL },
	{ "llama", "attn.mask_padding=2", ATTENTION, 9, 0, "attn.mask_padding", ST_PARAM_ROWS, 2, NULL },
	{ "llama", "attn.window/unwanted=4", ATTENTION, 9, 0, "attn.window", ST_PARAM_SLIDING_WINDOW, 4, NULL },
	{ "gemma2", "attn.window/ignored", ATTENTION, 20, 0, "attn.window", ST_PARAM_SLIDING_WINDOW, 0, NULL },
	{ "llama", "attn.gqa_mapping", ATTENTION, 9, 0, "attn.gqa_mapping", ST_PARAM_HOW, 0, "head h reads h mod n" },
	{ "llama", "attn.head_zeroed=1", ATTENTION, 9, 0, "attn.head_zeroed", ST_PARAM_HEAD, 1, NULL },
	{ "llama", "attn.kv_swapped", ATTENTION, 9, 0, "attn.kv_swapped", ST_PARAM_NONE, 0, NULL },
	{ "llama", "rope.on_v", ATTENTION, 9, 0, "rope.on_v", ST_PARAM_NONE, 0, NULL },
	{ "gpt_oss", "attn.sink/missing", ATTENTION, 9, 0, "attn.sink", ST_PARAM_HOW, 0, "missing" },
	{ "llama", "attn.dropout=0.1", NULL, 12, 0, "attn.dropout", ST_PARAM_FACTOR, 1 / 0.9, NULL },
	/* Only in a step, of what earlier positions left. */
	{ "llama", "cache.missing_update", ATTENTION, 9, 1, "cache.missing_update", ST_PARAM_NONE, 0, NULL },
	{ "llama", "cache.unrotated", ATTENTION, 9, 1, "cache.unrotated", ST_PARAM_NONE, 0, NULL },
	{ "llama", "cache.slot", ATTENTION, 9, 1, "cache.slot", ST_PARAM_POSITION, 0, NULL },
	/* Between matrices. */
	{ "llama", "ffn.activation=4", NULL, 9, 0, "ffn.activation", ST_PARAM_IS, 0, "relu" },
	{ "llama", "ffn.clamp/added=0.25", NULL, 9, 0, "ffn.clamp", ST_PARAM_VALUE, 0.25, NULL },
	{ "llama", "ffn.up_offset/added", NULL, 9, 0, "ffn.up_offset", ST_PARAM_OFFSET, 1, NULL },
	{ "gpt_oss", "ffn.up_offset/missing", NULL, 9, 0, "ffn.up_offset", ST_PARAM_OFFSET, -1, NULL },
	/* Experts. */
	{ "qwen3_moe", "moe.gating", NULL, 9, 0, "moe.gating", ST_PARAM_IS, 0, "sigmoid" },
	{ "mixtral", "moe.top_k=3", NULL, 9, 0, "moe.top_k", ST_PARAM_VALUE, 3, NULL },
	{ "dots1", "moe.weight_scale=0.5", NULL, 9, 0, "moe.weight_scale", ST_PARAM_NONE, 0, NULL },
	{ "dots1", "moe.shared_scaled=2", NULL, 9, 0, "moe.shared_scaled", ST_PARAM_FACTOR, 2, NULL },
	{ "mixtral", "moe.expert_permuted", NULL, 9, 0, "moe.expert_permuted", ST_PARAM_SHIFT, 1, NULL },
	{ "mixtral", "moe.capacity", NULL, 20, 0, "moe.capacity", ST_PARAM_NONE, 0, NULL },
	/* Before and behind the layers. */
	{ "llama", "embedding.scale", NULL, 9, 0, "embedding.scale", ST_PARAM_IS, 0, "sqrt(hidden)" },
	{ "gemma2", "embedding.scale", NULL, 9, 0, "embedding.scale", ST_PARAM_IS, 0, "1" },
	{ "llama", "embedding.row_shift=1", NULL, 9, 0, "embedding.row_shift", ST_PARAM_SHIFT, 1, NULL },
	{ "gpt2", "embedding.position/shifted=2", NULL, 9, 0, "embedding.position", ST_PARAM_OFFSET, 2, NULL },
	{ "llama", "head.softcap/added=3", NULL, 9, 0, "head.softcap", ST_PARAM_VALUE, 3, NULL },
	/* clang-format on */
};

static bool says(const struct st_cause *c, const struct row *r)
{
	if (strcmp(st_cause_name(c->code), r->code) != 0 || c->confidence != ST_CONFIRMED)
		return false;
	if (r->param == ST_PARAM_NONE)
		return true;
	if (r->text)
		return strcmp(st_cause_text(c, r->param), r->text) == 0;
	return fabs(st_cause_number(c, r->param, NAN) - r->value) <= 1e-4 * fabs(r->value);
}

static bool judge(const struct row *r, const char *trace)
{
	char folder[300], config[340];
	uint32_t ids[64];
	struct options o = { .arith = ARITH_F32, .order = ORDER_LANES };
	struct trace_options t = { .dtype = ST_DTYPE_F32, .stages = r->stages };
	snprintf(folder, sizeof folder, FAMILIES "%s", r->family);
	snprintf(config, sizeof config, "%s/config.json", folder);
	struct model *m = model_open(folder, config);
	if (!planted_parse(r->fault, &o.plant))
		return false;
	for (size_t i = 0; i < r->tokens; i++)
		ids[i] = (uint32_t)((i * 37 + 11) % m->V);
	struct run *run = run_model(m, &o, ids, r->tokens, r->tokens + r->steps);
	trace_write(run, &t, trace);
	run_free(run);
	model_close(m);
	struct st_error err = ST_ERROR_INIT;
	struct st_explain *x;
	struct st_explain_options eo = { .threads = 1 };
	if (st_explain_run(trace, folder, &eo, &x, &err) != ST_OK) {
		print_message("%s of %s: %s\n", r->fault, r->family, err.message);
		return false;
	}
	bool right = x->n_findings > 0 && says(&x->findings[0].cause, r);
	if (!right)
		print_message("%s of %s: %s\n", r->fault, r->family, x->n_findings ? x->findings[0].text : "no fault");
	st_explain_free(x);
	return right;
}

static void mistakes_are_named_with_their_numbers(void **state)
{
	(void)state;
	char trace[] = "/tmp/stele-fits-XXXXXX";
	size_t wrong = 0;
	int fd = mkstemp(trace);
	assert_true(fd >= 0);
	close(fd);
	for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
		wrong += !judge(&rows[i], trace);
	unlink(trace);
	assert_int_equal(wrong, 0);
}

/* Scores before their scale, masked by 0 or by -inf, and a trace that does not say so. */
static void forms_of_scores_are_found(void **state)
{
	(void)state;
	static const char *const families[] = { "llama", "gemma2", "gpt_oss" };
	char trace[] = "/tmp/stele-forms-XXXXXX", folder[300], config[340];
	int fd = mkstemp(trace);
	assert_true(fd >= 0);
	close(fd);
	for (size_t i = 0; i < 12; i++) {
		struct options o = { .arith = ARITH_F32, .raw_scores = i % 2, .mask_inf = i / 2 % 2 };
		struct trace_options t = { .dtype = ST_DTYPE_F32, .bare = true };
		uint32_t ids[12];
		snprintf(folder, sizeof folder, FAMILIES "%s", families[i / 4]);
		snprintf(config, sizeof config, "%s/config.json", folder);
		struct model *m = model_open(folder, config);
		for (size_t k = 0; k < 12; k++)
			ids[k] = (uint32_t)((k * 37 + 11) % m->V);
		struct run *run = run_model(m, &o, ids, 12, 13);
		trace_write(run, &t, trace);
		run_free(run);
		model_close(m);
		struct st_error err = ST_ERROR_INIT;
		struct st_explain *x;
		struct st_explain_options eo = { .threads = 1 };
		assert_int_equal(st_explain_run(trace, folder, &eo, &x, &err), ST_OK);
		if (x->n_findings)
			print_message("%s: %s\n", families[i / 4], x->findings[0].text);
		assert_int_equal(st_explain_exit(x), 0);
		st_explain_free(x);
	}
	unlink(trace);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(mistakes_are_named_with_their_numbers),
		cmocka_unit_test(forms_of_scores_are_found),
	};
	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests_name("explain fits", tests, NULL, NULL);
}
