/*
 * Files of one model whose graphs have different forms: biases, norms or layers that one lacks. What is missing is named, the
 * stages before it are compared, and the report says where the two part. A file of each form against itself is clean.
 */
#include "test.h"

#include "folder.h"

#include <stele/judge.h>

#include <jansson.h>
#include <math.h>
#include <sys/stat.h>

#define ROOT STELE_SOURCE_ROOT "/tests/data/families/"

/* clang-format off */
static const struct apart {
	const char *model, *drop[3], *change; /* names of tensors that hold one of these go; members of the configuration */
	enum st_cause_code code;
	const char *stage;
	int32_t layer;
	const char *last; /* stage that both have and that was compared last; "": all */
} cases[] = {
	{ "llama", { ".bias" }, "{\"attention_bias\": false, \"mlp_bias\": false}", ST_CAUSE_BIAS_MISSING, "qkv_bias", 0, "qkv_matmul of layer 0" },
	{ "llama", { "gate_proj.bias", "up_proj.bias", "down_proj.bias" }, "{\"mlp_bias\": false}", ST_CAUSE_BIAS_MISSING, "ffn_gate_bias", 0,
	  "ffn_up of layer 0" },
	{ "cohere", { "q_norm", "k_norm" }, "{\"use_qk_norm\": false}", ST_CAUSE_WEIGHT_MISSING, "q_post_norm", 0, "qkv_matmul of layer 0" },
	{ "stablelm", { "_layernorm.norms" }, "{\"qk_layernorm\": false}", ST_CAUSE_WEIGHT_MISSING, "q_post_norm", 0, "qkv_bias of layer 0" },
	{ "stablelm", { "_proj.bias" }, "{\"use_qkv_bias\": false}", ST_CAUSE_BIAS_MISSING, "qkv_bias", 0, "qkv_matmul of layer 0" },
	{ "stablelm", { "lm_head" }, "{\"tie_word_embeddings\": true}", ST_CAUSE_HEAD_TIED, "lm_head", -1, "" },
	{ "llama", { "layers.1." }, "{\"num_hidden_layers\": 1}", ST_CAUSE_CONFIG_MISMATCH, "config", -1, "post_ffn_residual of layer 0" },
};
/* clang-format on */

static bool goes(const struct apart *c, const char *name)
{
	for (size_t i = 0; i < 3 && c->drop[i]; i++)
		if (strstr(name, c->drop[i]))
			return true;
	return false;
}

/* The model's folder without what the case drops. */
static void write_less(const struct apart *c, const char *to)
{
	char path[400];
	size_t n, at = 0;
	uint64_t header;
	json_error_t e;
	snprintf(path, sizeof path, ROOT "%s/model.safetensors", c->model);
	uint8_t *whole = read_bytes(path, &n), *data = malloc(n);
	memcpy(&header, whole, sizeof header);
	json_t *all = json_loadb((char *)whole + 8, header, 0, &e), *kept = json_object(), *one;
	const char *name;
	json_object_foreach(all, name, one) {
		json_t *span = json_object_get(one, "data_offsets");
		size_t from = (size_t)json_integer_value(json_array_get(span, 0)),
		       len = (size_t)json_integer_value(json_array_get(span, 1)) - from;
		if (span && goes(c, name))
			continue;
		json_object_set(kept, name, one);
		if (!span)
			continue;
		memcpy(data + at, whole + 8 + header + from, len);
		json_object_set_new(one, "data_offsets", json_pack("[I, I]", (json_int_t)at, (json_int_t)(at + len)));
		at += len;
	}
	assert_int_equal(mkdir(to, 0700), 0);
	char *text = json_dumps(kept, JSON_COMPACT);
	header = strlen(text);
	snprintf(path, sizeof path, "%s/model.safetensors", to);
	FILE *f = fopen(path, "wb");
	assert_non_null(f);
	assert_int_equal(fwrite(&header, 1, 8, f) + fwrite(text, 1, header, f) + fwrite(data, 1, at, f), 8 + header + at);
	assert_int_equal(fclose(f), 0);
	free(text);
	free(whole);
	free(data);
	json_decref(kept);
	json_decref(all);

	snprintf(path, sizeof path, ROOT "%s/config.json", c->model);
	json_t *config = json_load_file(path, 0, &e), *change = json_loads(c->change, 0, &e);
	assert_int_equal(json_object_update(config, change), 0);
	snprintf(path, sizeof path, "%s/config.json", to);
	assert_int_equal(json_dump_file(config, path, 0), 0);
	json_decref(config);
	json_decref(change);
}

static struct st_rosetta *compare(const char *a, const char *b)
{
	static const uint32_t ids[] = { 3, 7, 9, 1 };
	struct st_rosetta_options o = { .tokens = ids, .n_tokens = 4, .threshold = NAN, .threads = 1, .keep_going = true };
	struct st_error err = ST_ERROR_INIT;
	struct st_rosetta *r;
	assert_ok(st_rosetta_run(a, b, &o, &r, &err), &err);
	return r;
}

static void check(const struct apart *c, const char *a, const char *b)
{
	struct st_rosetta *r = compare(a, b);
	bool right = r->verdict == ST_VERDICT_FAULT && r->cause.code == c->code && strcmp(r->first.stage, c->stage) == 0
	          && r->first.layer == c->layer && r->n_stages > 0 && r->parted == (c->last[0] != 0)
	          && (r->skipped > 0) == r->parted && strstr(r->form_note, c->last);
	for (size_t i = 0; i < r->n_stages; i++)
		right &= (r->stages[i].status == ST_STATUS_EXACT) != (!r->parted && i + 1 == r->n_stages);
	if (!right)
		fail_msg("%s without %s: %s at layer %d %s, %zu stages, \"%s\": %s", c->model, c->drop[0],
		         st_verdict_name(r->verdict), (int)r->first.layer, r->first.stage, r->n_stages, r->form_note, r->text);
	st_rosetta_free(r);
}

static void what_both_have_is_compared(void **state)
{
	(void)state;
	for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
		char whole[300], less[300], name[16];
		snprintf(whole, sizeof whole, ROOT "%s", cases[i].model);
		snprintf(name, sizeof name, "less%zu", i);
		snprintf(less, sizeof less, "%s", in_folder(name));
		write_less(&cases[i], less);
		check(&cases[i], whole, less);
		check(&cases[i], less, whole);
		struct st_rosetta *r = compare(less, less);
		assert_int_equal(r->verdict, ST_VERDICT_MATCH);
		assert_int_equal(r->skipped, 0);
		assert_int_equal(r->parted, false);
		st_rosetta_free(r);
	}
}

/* Two families that could each be evaluated: their files are compared by name, and the report says so. */
static void two_families(void **state)
{
	(void)state;
	struct st_rosetta *r = compare(ROOT "glm4", ROOT "glm");
	assert_int_equal(r->verdict, ST_VERDICT_FAULT);
	assert_string_equal(r->not_evaluated, "A is of family glm4, B of glm: their stages are not matched");
	assert_true(r->n_weights > 0);
	st_rosetta_free(r);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(what_both_have_is_compared, make_folder, remove_folder),
		cmocka_unit_test(two_families),
	};
	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
