/*
 * What the field's converter and its engine lose on the way to GGUF: windows, scales, clamps, patterns of layers. A folder
 * against the file that is left of it: the key is named, with the layers that it changes and whether these tokens show it.
 */
#include "test.h"

#include "folder.h"

#include <stele/convert.h>
#include <stele/judge.h>

#include <jansson.h>
#include <math.h>
#include <sys/stat.h>

#define ROOT STELE_SOURCE_ROOT "/tests/data/families/"

/* A model's folder, its configuration changed by these members. */
static const char *make_model(const char *model, const char *name, const char *first, const char *then)
{
	char from[400], path[400], cmd[900];
	json_error_t e;
	const char *dir = in_folder(name);
	assert_int_equal(mkdir(dir, 0700), 0);
	snprintf(cmd, sizeof cmd, "cp '" ROOT "%s/model.safetensors' '%s'", model, dir);
	assert_int_equal(system(cmd), 0);
	snprintf(from, sizeof from, ROOT "%s/config.json", model);
	json_t *config = json_load_file(from, 0, &e);
	assert_non_null(config);
	for (int i = 0; i < 2; i++) {
		json_t *change = json_loads(i ? then : first, 0, &e);
		assert_non_null(change);
		assert_int_equal(json_object_update_recursive(config, change), 0);
		json_decref(change);
	}
	snprintf(path, sizeof path, "%s/config.json", dir);
	assert_int_equal(json_dump_file(config, path, 0), 0);
	json_decref(config);
	return dir;
}

/* clang-format off */
static const struct dropped {
	const char *model, *source, *left; /* changes of the configuration: of both, and of what becomes GGUF */
	const char *key, *stage;           /* "": the graphs have another form */
	int32_t layer;
	const char *layers; /* words of the diagnosis; "": all, or other words */
	bool hidden;        /* two tokens do not show it */
} cases[] = {
	{ "mistral", "{}", "{\"sliding_window\": null}", "sliding_window", "attn_scores", 0, "", true },
	{ "starcoder2", "{}", "{\"sliding_window\": null}", "window", "attn_scores", 0, "", true },
	{ "mixtral", "{\"sliding_window\": 4}", "{\"sliding_window\": null}", "window", "attn_scores", 0, "", true },
	{ "qwen2", "{}", "{\"use_sliding_window\": false, \"sliding_window\": null, \"layer_types\": null}", "sliding_window",
	  "attn_scores", 1, "changes attn_scores in layer 1", true },
	{ "qwen3", "{\"use_sliding_window\": true, \"sliding_window\": 4, \"max_window_layers\": 0,"
	  " \"layer_types\": [\"sliding_attention\", \"sliding_attention\"]}",
	  "{\"use_sliding_window\": false, \"sliding_window\": null, \"layer_types\": null}", "sliding_window", "attn_scores", 0, "", true },
	{ "gemma2", "{}", "{\"query_pre_attn_scalar\": 8}", "query_pre_attn_scalar", "attn_scores", 0, "no key there says it", false },
	{ "gpt_neox-serial", "{}", "{\"rope_parameters\": {\"rope_theta\": 10000.0}}", "rope_theta", "q_post_rope", 0, "", false },
	{ "bloom-post", "{}", "{\"apply_residual_connection_post_layernorm\": false}", "apply_residual_connection_post_layernorm", "config",
	  -1, "post_attn_residual of layer 0", false },
	{ "mpt", "{}", "{\"attn_config\": {\"softmax_scale\": null}}", "attn_config.softmax_scale", "attn_scores", 0, "", false },
	{ "lfm2_moe", "{\"routed_scaling_factor\": 2.5}", "{\"routed_scaling_factor\": 1.0}", "routed_scaling_factor", "moe_router_weights", 1,
	  "", false },
	{ "smollm3", "{}", "{\"no_rope_layers\": [1, 1, 1]}", "no_rope_layers", "config", -1, "layer 1", false },
	{ "gpt_oss", "{\"rope_parameters\": {\"truncate\": true}}", "{\"swiglu_limit\": 7.0}", "swiglu_limit", "expert_gate_clamp", 0,
	  "no key there says it", false },
	{ "gpt_oss", "{\"swiglu_limit\": 7.0}", "{\"rope_parameters\": {\"truncate\": true}}", "truncate", "q_post_rope", 0,
	  "no key there says it", false },
	{ "minicpm3", "{}", "{\"scale_emb\": 12, \"scale_depth\": 1.4, \"dim_model_base\": 256}", "scale_emb", "embedding", -1, "", false },
	{ "llama4_text", "{}", "{\"attention_chunk_size\": 8192}", "attention_chunk_size", "attn_scores", 0,
	  "changes attn_scores in layers 0 to 2", true },
};
/* clang-format on */

static const uint32_t ids[] = { 3, 7, 9, 1, 12, 5, 8, 2 };

static struct st_rosetta *compare(const char *a, const char *b, size_t n)
{
	struct st_rosetta_options o = { .tokens = ids, .n_tokens = n, .threshold = NAN, .threads = 1 };
	struct st_error err = ST_ERROR_INIT;
	struct st_rosetta *r;
	assert_ok(st_rosetta_run(a, b, &o, &r, &err), &err);
	return r;
}

static void check_shown(const struct dropped *c, const char *a, const char *b)
{
	struct st_rosetta *r = compare(a, b, 8);
	if (r->verdict != ST_VERDICT_FAULT || r->cause.code != ST_CAUSE_CONFIG_MISMATCH || !strstr(r->text, c->key)
	    || strcmp(r->first.stage, c->stage) != 0 || r->first.layer != c->layer || !strstr(r->text, c->layers))
		fail_msg("%s: %s at layer %d %s: %s", c->model, st_verdict_name(r->verdict), (int)r->first.layer,
		         r->first.stage, r->text);
	st_rosetta_free(r);
}

/* The verdict of two tokens is that they are the same; that others are not is told, and no match under an assertion. */
static void check_hidden(const struct dropped *c, const char *a, const char *b)
{
	struct st_rosetta *r = compare(a, b, 2);
	bool told = false;
	for (size_t i = 0; i < r->n_asides; i++)
		told |= strcmp(r->asides[i].key, c->key) == 0 || strcmp(r->asides[i].from_a.key, c->key) == 0
		     || strcmp(r->asides[i].from_b.key, c->key) == 0;
	if (r->verdict != ST_VERDICT_MATCH || !told || st_rosetta_exit(r, ST_ASSERT_MATCH) == 0)
		fail_msg("%s: %s, %zu asides: %s", c->model, st_verdict_name(r->verdict), r->n_asides, r->text);
	st_rosetta_free(r);
}

static void what_is_lost_is_named(void **state)
{
	(void)state;
	for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
		const struct dropped *c = &cases[i];
		struct st_convert_options o = { .threads = 1 };
		struct st_convert_result *result;
		struct st_error err = ST_ERROR_INIT;
		char name[32], source[400], gguf[400];
		snprintf(name, sizeof name, "source%zu", i);
		snprintf(source, sizeof source, "%s", make_model(c->model, name, c->source, "{}"));
		snprintf(name, sizeof name, "left%zu", i);
		const char *left = make_model(c->model, name, c->source, c->left);
		snprintf(name, sizeof name, "left%zu.gguf", i);
		snprintf(gguf, sizeof gguf, "%s", in_folder(name));
		assert_ok(st_convert(left, gguf, &o, &result, &err), &err);
		st_convert_result_free(result);
		check_shown(c, source, gguf);
		check_shown(c, gguf, source);
		if (c->hidden) {
			check_hidden(c, source, gguf);
			check_hidden(c, gguf, source);
		}
	}
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(what_is_lost_is_named, make_folder, remove_folder),
	};
	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
