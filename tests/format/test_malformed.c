/* The shared collections of broken and odd files, each as its manifest says; and real models. */
#include "files.h"

/* Level "model" damage is for the room that interprets the contents; the container may open. */
static void follow(const char *kind)
{
	char rel[64];
	snprintf(rel, sizeof rel, "malformed/%s/manifest.json", kind);
	const char *path = shared_path(rel);
	json_t *list = json_load_file(path, 0, NULL), *e;
	assert_true(json_is_array(list) && json_array_size(list) > 0);
	size_t i, wrong = 0;
	json_array_foreach(list, i, e)
	{
		const char *file = json_string_value(json_object_get(e, "file")),
			   *expect = json_string_value(json_object_get(e, "expect"));
		const char *level = json_string_value(json_object_get(e, "level"));
		char full[1200], line[1400] = "";
		snprintf(full, sizeof full, "%.*s%s", (int)(strlen(path) - strlen("manifest.json")), path, file);
		struct st_container *c = NULL;
		struct st_error err = ST_ERROR_INIT;
		enum st_status st = st_container_open(full, &c, &err);
		st_error_format(&err, line, sizeof line);
		st_container_close(c);
		bool ok = strcmp(expect, "accept") == 0 ? st == ST_OK
		        : strcmp(expect, "reject") == 0 ? st != ST_OK || strcmp(level, "model") == 0
		                                        : true;
		/* Every refusal names a file and says why, on one line. */
		if (!ok || (st != ST_OK && (!err.path[0] || !err.message[0] || strchr(line, '\n')))) {
			fprintf(stderr, "%s: expected %s (%s): %s %s\n", file, expect, level, st_status_name(st), line);
			wrong++;
		}
	}
	json_decref(list);
	assert_int_equal(wrong, 0);
}

static void gguf(void **state)
{
	(void)state;
	follow("gguf");
}
static void safetensors(void **state)
{
	(void)state;
	follow("safetensors");
}

/* Counts as the data's README gives them: 48 tensors, tied head in the safetensors form (47); 3 layers of
 * 12 tensors, embedding and norm for the qwen2 models. */
static void real_models(void **state)
{
	(void)state;
	static const struct {
		const char *path;
		enum st_format format;
		size_t n;
		const char *tensor;
		enum st_dtype dtype;
		uint32_t ndim;
		uint64_t shape[2];
	} cases[] = {
		{ "models/stories260k/model.gguf",
		  ST_FORMAT_GGUF,
		  48,
		  "blk.0.ffn_down.weight",
		  ST_DTYPE_F32,
		  2,
		  { 64, 172 } },
		{ "models/stories260k/model-q8_0.gguf",
		  ST_FORMAT_GGUF,
		  48,
		  "blk.0.ffn_down.weight",
		  ST_DTYPE_F16,
		  2,
		  { 64, 172 } },
		{ "models/stories260k/model-q4_0.gguf",
		  ST_FORMAT_GGUF,
		  48,
		  "blk.4.attn_k.weight",
		  ST_DTYPE_Q4_0,
		  2,
		  { 32, 64 } },
		{ "models/stories260k/hf",
		  ST_FORMAT_SAFETENSORS,
		  47,
		  "model.layers.0.self_attn.k_proj.weight",
		  ST_DTYPE_F32,
		  2,
		  { 32, 64 } },
		{ "models/qwen2-tiny/qwen2-tiny-q4_k.gguf",
		  ST_FORMAT_GGUF,
		  38,
		  "token_embd.weight",
		  ST_DTYPE_Q5_0,
		  2,
		  { 151936, 64 } },
		{ "models/qwen2-k/hf",
		  ST_FORMAT_SAFETENSORS,
		  38,
		  "model.layers.2.self_attn.q_proj.bias",
		  ST_DTYPE_BF16,
		  1,
		  { 256, 0 } },
		{ "models/qwen2-k/qwen2-k-q4_k.gguf",
		  ST_FORMAT_GGUF,
		  38,
		  "blk.1.ffn_up.weight",
		  ST_DTYPE_Q4_K,
		  2,
		  { 512, 256 } },
	};
	for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
		struct st_container *c;
		struct st_error err = ST_ERROR_INIT;
		assert_ok(st_container_open(shared_path(cases[i].path), &c, &err), &err);
		assert_int_equal(st_container_format(c), cases[i].format);
		assert_int_equal(st_container_n_tensors(c), cases[i].n);
		const struct st_tensor *t = st_container_find(c, cases[i].tensor);
		assert_non_null(t);
		assert_int_equal(t->dtype, cases[i].dtype);
		assert_int_equal(t->ndim, cases[i].ndim);
		for (uint32_t d = 0; d < t->ndim; d++)
			assert_int_equal(t->shape[d], cases[i].shape[d]);
		st_container_close(c);
	}
}

static void digest_of_a_known_model(void **state)
{
	(void)state;
	struct st_container *c;
	struct st_error err = ST_ERROR_INIT;
	char hex[65];
	assert_ok(st_container_open(shared_path("models/stories260k/model.gguf"), &c, &err), &err);
	assert_ok(st_container_sha256(c, hex, &err), &err);
	assert_memory_equal(hex, "270cba1b", 8); /* as published with the model */
	st_container_close(c);
}

/* A vocabulary without weights is a container of keys. */
static void vocabulary_only(void **state)
{
	(void)state;
	struct st_container *c;
	struct st_error err = ST_ERROR_INIT;
	assert_ok(st_container_open(shared_path("tokenizers/ggml-vocab-gpt-2.gguf"), &c, &err), &err);
	assert_int_equal(st_container_n_tensors(c), 0);
	const struct st_kv *kv = st_kv_find(&c->keys, "tokenizer.ggml.tokens");
	assert_true(kv && kv->type == ST_KV_ARR && kv->elem == ST_KV_STR);
	assert_int_equal(kv->count, 50257);
	st_container_close(c);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(gguf),
		cmocka_unit_test(safetensors),
		cmocka_unit_test(real_models),
		cmocka_unit_test(digest_of_a_known_model),
		cmocka_unit_test(vocabulary_only),
	};
	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
