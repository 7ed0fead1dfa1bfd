/* aprt: one stage in a file, and trees of them. */
#include "files.h"
#include "manifest.h"

static struct bytes file;

#define WHOLE UINT32_MAX

/* Bit patterns with a negative zero, an infinity and a NaN with a payload: kept as they are. */
static const uint32_t patterns[6] = { 0x3f800000, 0x80000000, 0x7f800000, 0x7fc01234, 0xff800001, 0x00000001 };

static void build(uint32_t layer, uint32_t n)
{
	file.n = 0;
	put(&file, "APRT", 4);
	put_u32(&file, layer);
	put_u32(&file, n);
	for (uint32_t i = 0; i < n; i++)
		put_u32(&file, patterns[i % 6]);
}

static const char *stage(const char *name, uint32_t layer, uint32_t n)
{
	build(layer, n);
	return save(name, &file);
}

static void make(const char *name) { assert_int_equal(mkdir(in_folder(name), 0777), 0); }

static struct st_container *open_ok(const char *path)
{
	struct st_container *c;
	struct st_error err = ST_ERROR_INIT;
	assert_ok(st_container_open(path, &c, &err), &err);
	return c;
}

static void one_stage(void **state)
{
	(void)state;
	static const struct {
		const char *file;
		uint32_t layer, n;
		const char *key;
	} cases[] = {
		{ "attn_norm.bin", 0, 6, "layers.0.attn_norm" }, { "ffn_out.bin", 27, 6, "layers.27.ffn_out" },
		{ "lm_head.bin", WHOLE, 6, "lm_head" },          { "embedding.bin", 0, 6, "embedding" },
		{ "empty.bin", 1, 0, "layers.1.empty" },         { "no-suffix", 2, 6, "layers.2.no-suffix" },
	};
	for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
		struct st_container *c = open_ok(stage(cases[i].file, cases[i].layer, cases[i].n));
		const struct st_tensor *t = st_container_tensor(c, 0);
		assert_int_equal(st_container_format(c), ST_FORMAT_APRT);
		assert_string_equal(t->name, cases[i].key);
		assert_int_equal(t->ndim, 1);
		assert_int_equal(t->shape[0], cases[i].n);
		assert_memory_equal(t->data, patterns, 4 * cases[i].n);
		st_container_close(c);
	}
}

static void sizes_are_exact(void **state)
{
	(void)state;
	build(0, 6);
	for (size_t n = 0; n < file.n; n++) {
		char what[40];
		snprintf(what, sizeof what, "aprt cut at %zu", n);
		assert_refused(save_n("x.bin", file.p, n), ST_ERR_FORMAT, "", what);
	}
	put_u8(&file, 0);
	assert_refused(save("x.bin", &file), ST_ERR_FORMAT, "37 bytes where 6 values make 36", "one more");
	build(0, 6);
	memset(file.p + 8, 0xff, 4);
	assert_refused(save("x.bin", &file), ST_ERR_FORMAT, "36 bytes where 4294967295 values make 17179869192",
	               "count");
}

static void make_tree(void)
{
	make("t");
	make("t/layer-0");
	make("t/layer-10");
	make("t/layer-2");
	stage("t/layer-0/embedding.bin", 0, 6);
	stage("t/layer-0/attn_norm.bin", 0, 6);
	stage("t/layer-10/attn_norm.bin", 10, 2);
	stage("t/layer-2/attn_norm.bin", 2, 3);
	stage("t/final_norm.bin", WHOLE, 4);
}

static void a_tree(void **state)
{
	(void)state;
	static const char *const keys[] = { "layers.0.attn_norm", "embedding", "layers.2.attn_norm",
		                            "layers.10.attn_norm", "final_norm" };
	make_tree();
	save_text("t/notes.txt", "not a stage");
	struct st_container *c = open_ok(in_folder("t"));
	assert_int_equal(st_container_n_tensors(c), 5);
	assert_int_equal(st_container_n_files(c), 5);
	assert_null(c->docs.metadata);
	assert_string_equal(st_container_describe(c),
	                    "APRT tree, 5 stages in 3 layers, provenance unknown (no trace.json)");
	for (size_t i = 0; i < 5; i++)
		assert_string_equal(st_container_tensor(c, i)->name, keys[i]);
	assert_int_equal(st_container_find(c, "layers.2.attn_norm")->n_elems, 3);
	st_container_close(c);
}

static void a_tree_with_provenance(void **state)
{
	(void)state;
	make_tree();
	save_text("t/trace.json", "{\"format\":\"stele-trace\",\"tokens\":\"[1,2]\",\"shapes\":{\"layers.0.attn_norm\":"
	                          "[2,3],\"embedding\":[3,2]}}");
	struct st_container *c = open_ok(in_folder("t/"));
	assert_string_equal(json_string_value(json_object_get(c->docs.metadata, "format")), "stele-trace");
	assert_string_equal(st_container_describe(c), "APRT tree, 5 stages in 3 layers");
	const struct st_tensor *t = st_container_find(c, "layers.0.attn_norm");
	assert_true(t->ndim == 2 && t->shape[0] == 2 && t->shape[1] == 3 && t->row_bytes == 12);
	float row[3];
	st_tensor_decode(t, 1, 1, row);
	assert_memory_equal(row, patterns + 3, 12);
	assert_int_equal(st_container_find(c, "final_norm")->ndim, 1);
	st_container_close(c);
	static const struct {
		const char *json, *why;
	} cases[] = {
		{ "{\"shapes\":{\"embedding\":[2,4]}}",
		  "embedding: the shape in trace.json does not make the 6 values" },
		{ "{\"shapes\":{\"embedding\":[-2,-3]}}", "does not make" },
		{ "{\"shapes\":{\"embedding\":\"2,3\"}}", "does not make" },
		{ "{\"shapes\":{\"embedding\":[6,1,1,1,1,1,1,1,1]}}", "does not make" },
		{ "{\"shapes\":{\"embedding\":[4294967296,4294967296,6]}}", "does not make" },
		{ "[]", "trace.json: not a JSON object" },
		{ "{\"a\":1,\"a\":2}", "trace.json" },
	};
	for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
		save_text("t/trace.json", cases[i].json);
		assert_refused(in_folder("t"), ST_ERR_FORMAT, cases[i].why, cases[i].json);
	}
}

static void broken_trees(void **state)
{
	(void)state;
	make_tree();
	stage("t/layer-2/attn_norm.bin", 3, 3);
	assert_refused(in_folder("t"), ST_ERR_FORMAT,
	               "t/layer-2/attn_norm.bin: byte 4: header says layer 3, folder says layer 2", "layer");
	stage("t/layer-2/attn_norm.bin", WHOLE, 3);
	assert_refused(in_folder("t"), ST_ERR_FORMAT, "header says whole model, folder says one layer",
	               "whole in a layer");
	stage("t/layer-2/attn_norm.bin", 2, 3);
	stage("t/final_norm.bin", 4, 4);
	assert_refused(in_folder("t"), ST_ERR_FORMAT, "header says one layer, folder says whole model",
	               "layer in the root");
	stage("t/final_norm.bin", WHOLE, 4);
	/* Engines disagree about the header of the embedding; both are taken. */
	stage("t/layer-0/embedding.bin", WHOLE, 6);
	st_container_close(open_ok(in_folder("t")));
	stage("t/embedding.bin", WHOLE, 6);
	assert_refused(in_folder("t"), ST_ERR_FORMAT, "embedding", "embedding twice");
	assert_int_equal(unlink(in_folder("t/embedding.bin")), 0);
	save_text("t/layer-2/q.bin", "not APRT at all");
	assert_refused(in_folder("t"), ST_ERR_FORMAT, "t/layer-2/q.bin: byte 0: not an APRT file", "other file");
	assert_int_equal(unlink(in_folder("t/layer-2/q.bin")), 0);
	static const char *const wrong[] = {
		"layer-", "layer-02", "layer-x", "layer-4294967295", "layer-99999999999999999999", "layer--1", "other"
	};
	for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
		char name[64];
		snprintf(name, sizeof name, "t/%s", wrong[i]);
		make(name);
		assert_refused(in_folder("t"), ST_ERR_FORMAT, "not named layer-<N>", wrong[i]);
		assert_int_equal(rmdir(in_folder(name)), 0);
	}
	make("e");
	make("e/layer-0");
	assert_refused(in_folder("e"), ST_ERR_FORMAT, "without stage files", "no stages");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(one_stage, make_folder, remove_folder),
		cmocka_unit_test_setup_teardown(sizes_are_exact, make_folder, remove_folder),
		cmocka_unit_test_setup_teardown(a_tree, make_folder, remove_folder),
		cmocka_unit_test_setup_teardown(a_tree_with_provenance, make_folder, remove_folder),
		cmocka_unit_test_setup_teardown(broken_trees, make_folder, remove_folder),
	};
	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
