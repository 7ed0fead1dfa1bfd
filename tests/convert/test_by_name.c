/* Within GGUF any family is stored anew: keys as they stand, matrices by their names, the rest untouched. */
#include "support.h"

#include "base/error.h"
#include "format/container.h"

enum { ROWS = 8, COLS = 64 };

static const struct {
	const char *name;
	uint32_t ndim;
	uint64_t shape[3];
	enum st_dtype after; /* of --type F16 */
} tensors[] = {
	{ "token_embd.weight", 2, { ROWS, COLS }, ST_DTYPE_F16 },
	{ "blk.0.attn_norm.weight", 1, { COLS }, ST_DTYPE_F32 },
	{ "blk.0.ssm_in.weight", 2, { ROWS, COLS }, ST_DTYPE_F16 },
	{ "blk.0.ssm_conv1d.weight", 2, { COLS, 4 }, ST_DTYPE_F32 }, /* too small to be worth it, and read as F32 */
	{ "blk.0.ssm_a", 2, { ROWS, COLS }, ST_DTYPE_F32 },
	{ "blk.0.ffn_gate_inp.weight", 2, { ROWS, COLS }, ST_DTYPE_F32 },
	{ "blk.0.ffn_up_exps.weight", 3, { 2, ROWS, COLS }, ST_DTYPE_F16 },
	{ "blk.0.time_mix_w1.weight", 2, { ROWS, COLS }, ST_DTYPE_F32 },
	{ "output_norm.weight", 1, { COLS }, ST_DTYPE_F32 },
};
#define N_TENSORS (sizeof tensors / sizeof *tensors)

/* Numbers that F16 holds exactly. */
static float number(size_t tensor, size_t i) { return (float)((int)((i * 37 + tensor * 11) % 1001) - 500) / 256; }

static void write_strange(const char *path, const char *family)
{
	static const int16_t odd[] = { -3, 0, 300 };
	struct toy_kv_store kv = { .n = 0 };
	double d = 1.0 / 3;
	uint8_t flag = 1;
	uint64_t big = (uint64_t)1 << 40;
	toy_kv(&kv, "general.architecture", ST_KV_STR, family, strlen(family));
	toy_kv(&kv, "tokenizer.ggml.model", ST_KV_STR, "none", 4);
	toy_kv(&kv, "zorp.third", ST_KV_F64, &d, 8);
	toy_kv(&kv, "zorp.flag", ST_KV_BOOL, &flag, 1);
	toy_kv(&kv, "zorp.big", ST_KV_U64, &big, 8);
	kv.kv[kv.n++] = (struct st_kv){
		.key = "zorp.odd", .type = ST_KV_ARR, .elem = ST_KV_I16, .count = 3, .data = (const uint8_t *)odd
	};
	struct st_tensor_spec specs[N_TENSORS];
	for (size_t i = 0; i < N_TENSORS; i++) {
		specs[i] = (struct st_tensor_spec){ .name = tensors[i].name, .ndim = tensors[i].ndim };
		memcpy(specs[i].shape, tensors[i].shape, sizeof tensors[i].shape);
	}
	struct st_write_plan plan = { .format = ST_FORMAT_GGUF,
		                      .specs = specs,
		                      .n_specs = N_TENSORS,
		                      .alignment = 32,
		                      .kv = kv.kv,
		                      .n_kv = kv.n };
	struct st_error err = ST_ERROR_INIT;
	struct st_writer *w;
	const char *readable;
	assert_ok(st_writer_open(path, &plan, &w, &err), &err);
	for (size_t i = 0; i < N_TENSORS; i++) {
		float x[2 * ROWS * COLS];
		size_t n = 1;
		for (uint32_t k = 0; k < tensors[i].ndim; k++)
			n *= tensors[i].shape[k];
		for (size_t k = 0; k < n; k++)
			x[k] = number(i, k);
		assert_ok(st_writer_append(w, x, n * sizeof *x, &err), &err);
	}
	assert_ok(st_writer_finish(w, &readable, &err), &err);
	assert_ok(st_writer_commit(w, &err), &err);
}

static void any_family_is_retyped(void **state)
{
	(void)state;
	struct st_error err = ST_ERROR_INIT;
	struct st_container *c;
	write_strange(in_folder("in.gguf"), "zorp");
	st_convert_result_free(convert_with(in_folder("in.gguf"), in_folder("out.gguf"),
	                                    &(struct st_convert_options){ .type = "F16", .threads = 2 }));
	assert_ok(st_container_open(in_folder("out.gguf"), &c, &err), &err);
	assert_int_equal(c->n_tensors, N_TENSORS);
	for (size_t i = 0; i < N_TENSORS; i++) {
		const struct st_tensor *t = &c->tensors[i];
		float x[2 * ROWS * COLS];
		assert_string_equal(t->name, tensors[i].name);
		if (t->dtype != tensors[i].after)
			fail_msg("%s is %s", t->name, st_dtype_info(t->dtype)->name);
		assert_int_equal(t->ndim, tensors[i].ndim);
		assert_memory_equal(t->shape, tensors[i].shape, t->ndim * sizeof *t->shape);
		st_tensor_decode(t, 0, st_tensor_rows(t), x);
		for (size_t k = 0; k < t->n_elems; k++)
			assert_true(x[k] == number(i, k));
	}
	const struct st_kv *kv = st_kv_find(&c->keys, "zorp.odd");
	assert_non_null(kv);
	assert_int_equal(kv->elem, ST_KV_I16);
	assert_memory_equal(kv->data, ((int16_t[]){ -3, 0, 300 }), 6);
	double third = 0;
	bool found;
	assert_ok(st_kv_f64(&c->keys, "zorp.third", &third, &found, &err), &err);
	assert_true(found && third == 1.0 / 3);
	const char *s;
	size_t n;
	assert_ok(st_kv_str(&c->keys, "tokenizer.ggml.model", &s, &n, &found, &err), &err);
	assert_true(found && n == 4 && memcmp(s, "none", 4) == 0);
	uint64_t type = 99;
	assert_ok(st_kv_u64(&c->keys, "general.file_type", &type, &found, &err), &err);
	assert_int_equal(type, 1); /* mostly F16 */
	st_container_close(c);
}

/* Another container has keys and names of its own, which need a family. */
static void other_containers_need_a_family(void **state)
{
	(void)state;
	static const char *const outs[] = { "out", "out.apr", "out.safetensors" };
	write_strange(in_folder("in.gguf"), "zorp");
	for (size_t i = 0; i < 3; i++) {
		struct st_error err = ST_ERROR_INIT;
		struct st_convert_result *r = NULL;
		assert_int_equal(st_convert(in_folder("in.gguf"), in_folder(outs[i]), &(struct st_convert_options){ 0 },
		                            &r, &err),
		                 ST_ERR_UNSUPPORTED);
		assert_non_null(strstr(err.message, "unknown model family \"zorp\""));
	}
	assert_int_equal(left_behind("in.gguf"), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(any_family_is_retyped, make_folder, remove_folder),
		cmocka_unit_test_setup_teardown(other_containers_need_a_family, make_folder, remove_folder),
	};
	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
