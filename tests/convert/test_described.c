/*
 * Families that are pages of text, converted to GGUF and back: what was written is evaluated, and its logits are held
 * against those that transformers computed for the original (tests/data/families/README.md).
 */
#include "arch/helpers.h"
#include "family/oracle.h"
#include "folder.h"

#include <stele/convert.h>

#include <dirent.h>
#include <jansson.h>
#include <sys/stat.h>

/* What GGUF's readers have no key for: such models are refused, with a word of the reason. */
static const struct {
	const char *folder, *word;
} refused[] = {
	{ "apertus", "alpha_p" }, /* weights that are keys there */
	{ "bamba", "no GGUF files" },
	{ "bitnet", "not gguf" },           /* readers have silu in the place of its activation */
	{ "bloom-post", "apply_residual" }, /* residuals from behind the norms */
	{ "codegen", "no GGUF files" },
	{ "cohere2", "another form" },         /* layers without rotation, in another pattern than readers assume */
	{ "deepseek_v2", "mscale" },           /* GGUF has one number for mscale and mscale_all_dim */
	{ "dots1", "sliding_window" },         /* GGUF's dots1 has no window */
	{ "exaone4", "another form" },         /* as cohere2 */
	{ "falcon-rw", "beside" },             /* two norms, one after the other: GGUF has one for both parts */
	{ "gemma2", "query_pre_attn_scalar" }, /* 12, where readers take the size of a head */
	{ "gemma3_text", "layer_types" },      /* every third layer, where readers take every sixth */
	{ "gemma4_text-experts",
	  "attn_v" }, /* readers look whether layer 5 has values, which these two models have not */
	{ "gemma4_text-inputs", "attn_v" },
	{ "gpt_neo", "no GGUF files" },
	{ "gpt_oss", "truncate" }, /* readers take whole pairs always, and a clamp of 7 */
	{ "helium", "no GGUF files" },
	{ "hunyuan_v1_dense", "dynamic" }, /* converters stretch theta by hand */
	{ "internlm2-bias", "no place" },
	{ "kimi_linear", "not gguf" },
	{ "llama-dynamic", "dynamic" },
	{ "llama4_text", "attention_chunk_size" },
	{ "minimax", "no GGUF files" },
	{ "minicpm3", "scale_emb" }, /* readers have 12, 1.4 and 256 in their code */
	{ "mpt", "softmax_scale" },
	{ "nanochat", "no GGUF files" },
	{ "nemotron_h", "ffn_up" }, /* plain parts beside experts */
	{ "olmo3", "layer_types" },
	{ "opt", "no GGUF files" },
	{ "opt-350m", "no GGUF files" },
	{ "qwen2", "max_window_layers" },
	{ "qwen2_moe", "no place" }, /* dense layers among sparse ones */
	{ "qwen3_5_moe_text", "lk == lv" },
	{ "qwen3_5_text", "lk == lv" },
	{ "qwen3_moe", "no place" },
	{ "qwen3_next", "attn_q" }, /* attention in another pattern than the key's */
	{ "recurrent_gemma", "no GGUF files" },
	{ "rwkv", "no GGUF files" },
	{ "rwkv-eps", "no GGUF files" },
	{ "smollm3", "another form" },
	{ "smollm3-window", "another form" },
};

/* Not refused by GGUF's nature, and not written backwards yet: refused, or right. */
static const char *const open_ends[] = { "gpt_oss-mxfp4", "llama", "phimoe" };

/* Come back under the names of the class that transformers has for them. */
static const char *const renamed[] = { "chatglm" };

static const char *reason_of(const char *name)
{
	for (size_t i = 0; i < sizeof refused / sizeof *refused; i++)
		if (strcmp(refused[i].folder, name) == 0)
			return refused[i].word;
	return NULL;
}

static bool is_among(const char *const *names, size_t n, const char *name)
{
	for (size_t i = 0; i < n; i++)
		if (strcmp(names[i], name) == 0)
			return true;
	return false;
}

/* The first sequence of expected.json, at once. */
static void check_logits(const char *path, const json_t *expected)
{
	struct st_model *m = open_model(path);
	size_t V = st_model_graph(m)->vocab;
	const struct oracle_sequence o = read_oracle(json_array_get(json_object_get(expected, "tokens"), 0),
	                                             json_array_get(json_object_get(expected, "logits"), 0), V);
	struct st_exec e = exec_in(ST_MODE_EXACT);
	float *got = model_logits(m, &e, o.tokens, o.T, o.T);
	double rel = rel_l2(got, o.logits, o.T * V);
	if (!(rel <= 1e-5))
		fail_msg("%s: relative L2 %g", path, rel);
	free(got);
	free(o.logits);
	st_model_close(m);
}

/* transformers wants the shapes that it wrote: a convolution's [features, 1, taps], numbers of each head as [heads, size]. */
static void check_labels(const char *path, const char *original)
{
	struct st_model *a = open_model(original), *b = open_model(path);
	const struct st_container *ca = st_model_container(a), *cb = st_model_container(b);
	for (size_t i = 0; i < st_container_n_tensors(cb); i++) {
		const struct st_tensor *y = st_container_tensor(cb, i), *x = st_container_find(ca, y->name);
		char packed[200];
		snprintf(packed, sizeof packed, "%s_mxfp4", y->name); /* comes back as plain numbers */
		if (!x && st_container_find(ca, packed))
			continue;
		if (!x)
			fail_msg("%s: %s is not in the original", original, y->name);
		if (x->ndim != y->ndim || memcmp(x->shape, y->shape, x->ndim * sizeof *x->shape) != 0)
			fail_msg("%s: %s has another shape than in the original", original, y->name);
	}
	st_model_close(a);
	st_model_close(b);
}

static void there_and_back(void **state)
{
	const char *model = *state, *name = strrchr(model, '/') + 1, *reason = reason_of(name);
	struct st_convert_options o = { .threads = 1 };
	struct st_convert_result *r = NULL;
	struct st_error err = ST_ERROR_INIT;
	char path[600];
	snprintf(path, sizeof path, "%s/expected.json", model);
	json_error_t e;
	json_t *expected = json_load_file(path, 0, &e);
	assert_non_null(expected);
	enum st_status st = st_convert(model, in_folder("m.gguf"), &o, &r, &err);
	if (reason) {
		assert_int_not_equal(st, ST_OK);
		if (!strstr(err.message, reason) && !strstr(err.where, reason))
			fail_msg("%s: %s: %s; expected \"%s\"", name, err.where, err.message, reason);
		assert_int_equal(access(in_folder("m.gguf"), F_OK), -1);
		json_decref(expected);
		return;
	}
	bool open = is_among(open_ends, sizeof open_ends / sizeof *open_ends, name);
	if (!open)
		assert_ok(st, &err);
	if (st == ST_OK) {
		st_convert_result_free(r);
		check_logits(in_folder("m.gguf"), expected);
		st = st_convert(in_folder("m.gguf"), in_folder("back"), &o, &r, &err);
		if (!open)
			assert_ok(st, &err);
	}
	if (st == ST_OK) {
		st_convert_result_free(r);
		check_logits(in_folder("back"), expected);
		if (!is_among(renamed, sizeof renamed / sizeof *renamed, name))
			check_labels(in_folder("back"), model);
	}
	json_decref(expected);
}

/* Of these the model above has something that GGUF does not say. Without it: stacks of experts that lie transposed, columns
 * that alternate, one number in the place of two. */
static const struct {
	const char *folder, *changes;
} sayable[] = {
	{ "gpt_oss", "{\"swiglu_limit\": 7.0, \"rope_parameters\": {\"truncate\": true}}" },
	{ "llama4_text", "{\"attention_chunk_size\": 8192, \"floor_scale\": 8192}" },
	{ "deepseek_v2", "{\"rope_parameters\": {\"mscale\": 0.5}}" },
	{ "gemma2", "{\"query_pre_attn_scalar\": 8}" },
	{ "minicpm3", "{\"scale_emb\": 12, \"scale_depth\": 1.4, \"dim_model_base\": 256}" },
	{ "cohere2", "{\"layer_types\": [\"sliding_attention\", \"sliding_attention\"]}" },
};

static void make_sayable(size_t i, const char *dir)
{
	char from[400], cmd[900];
	json_error_t e;
	assert_int_equal(mkdir(dir, 0700), 0);
	snprintf(from, sizeof from, STELE_SOURCE_ROOT "/tests/data/families/%s", sayable[i].folder);
	snprintf(cmd, sizeof cmd, "cp '%s/model.safetensors' '%s'", from, dir);
	assert_int_equal(system(cmd), 0);
	snprintf(cmd, sizeof cmd, "%s/config.json", from);
	json_t *config = json_load_file(cmd, 0, &e), *changes = json_loads(sayable[i].changes, 0, &e);
	assert_non_null(config);
	assert_int_equal(json_object_update_recursive(config, changes), 0);
	snprintf(cmd, sizeof cmd, "%s/config.json", dir);
	assert_int_equal(json_dump_file(config, cmd, 0), 0);
	json_decref(config);
	json_decref(changes);
}

static float *logits_of(const char *path, size_t *n)
{
	static const uint32_t ids[] = { 3, 7, 9, 1, 12, 5, 8, 2 };
	struct st_model *m = open_model(path);
	struct st_exec e = exec_in(ST_MODE_EXACT);
	*n = 8 * st_model_graph(m)->vocab;
	float *x = model_logits(m, &e, ids, 8, 8);
	st_model_close(m);
	return x;
}

static void what_gguf_says_comes_back(void **state)
{
	(void)state;
	for (size_t i = 0; i < sizeof sayable / sizeof *sayable; i++) {
		struct st_convert_options o = { .threads = 2, .force = true };
		struct st_error err = ST_ERROR_INIT;
		struct st_convert_result *r;
		char name[32], source[400], back[400];
		size_t n, k;
		snprintf(name, sizeof name, "source%zu", i);
		snprintf(source, sizeof source, "%s", in_folder(name));
		snprintf(name, sizeof name, "back%zu", i);
		snprintf(back, sizeof back, "%s", in_folder(name));
		make_sayable(i, source);
		assert_ok(st_convert(source, in_folder("s.gguf"), &o, &r, &err), &err);
		st_convert_result_free(r);
		assert_ok(st_convert(in_folder("s.gguf"), back, &o, &r, &err), &err);
		st_convert_result_free(r);
		check_labels(back, source);
		float *want = logits_of(source, &n), *gguf = logits_of(in_folder("s.gguf"), &k),
		      *got = logits_of(back, &k);
		for (k = 0; k < n; k++)
			if (fabsf(gguf[k] - want[k]) > 1e-5f || got[k] != want[k])
				fail_msg("%s: logit %zu is %.9g, %.9g in GGUF, %.9g behind it", sayable[i].folder, k,
				         want[k], gguf[k], got[k]);
		free(want);
		free(gguf);
		free(got);
	}
}

#define MOST 256
static struct CMUnitTest tests[MOST];

int main(void)
{
	static const char root[] = STELE_SOURCE_ROOT "/tests/data/families";
	size_t n = 0;
	DIR *dir = opendir(root);
	for (struct dirent *e; dir && (e = readdir(dir));) {
		struct st_model *m = NULL;
		struct st_error err = ST_ERROR_INIT;
		char path[500];
		snprintf(path, sizeof path, "%s/%s", root, e->d_name);
		if (e->d_name[0] == '.' || strchr(e->d_name, '.') || n + 1 >= MOST)
			continue;
		/* Families that have no page yet are refused elsewhere. */
		enum st_status st = st_model_open(path, &m, &err);
		st_model_close(m);
		if (st != ST_OK)
			continue;
		tests[n++] = (struct CMUnitTest){ .name = strdup(e->d_name),
			                          .test_func = there_and_back,
			                          .setup_func = make_folder,
			                          .teardown_func = remove_folder,
			                          .initial_state = strdup(path) };
	}
	if (dir)
		closedir(dir);
	tests[n++] = (struct CMUnitTest){ .name = "what GGUF says comes back",
		                          .test_func = what_gguf_says_comes_back,
		                          .setup_func = make_folder,
		                          .teardown_func = remove_folder };
	cmocka_set_message_output(CM_OUTPUT_TAP);
	return n >= 45 ? _cmocka_run_group_tests("convert-described", tests, n, NULL, NULL) : 1;
}
