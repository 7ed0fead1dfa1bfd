/* trace: what is read from bundles, npz files and APRT trees, and what is refused. */
#include "support.h"

#include "trace/trace.h"

#include <math.h>
#include <zip.h>

/* ---- names ---- */

static void names(void **state)
{
	(void)state;
	struct st_trace_key k;
	assert_true(st_trace_key_parse("lm_head", false, &k) && k.stage == ST_STAGE_LM_HEAD && k.layer == -1
	            && k.step == 0);
	assert_true(st_trace_key_parse("layers.12.attn_norm", false, &k) && k.stage == ST_STAGE_ATTN_NORM
	            && k.layer == 12);
	assert_true(st_trace_key_parse("steps.3.layers.0.ffn_out", false, &k) && k.step == 3 && k.layer == 0);
	assert_true(st_trace_key_parse("layers.0.layer_output", false, &k) && k.stage == ST_STAGE_POST_FFN_RESIDUAL);
	assert_true(st_trace_key_parse("layers.1.v_matmul_bias", false, &k) && k.stage == ST_STAGE_QKV_BIAS
	            && k.part == ST_PART_V);
	assert_true(st_trace_key_parse("steps.2.token", false, &k) && k.token && k.step == 2);
	static const char *const bad[] = {
		"",
		"attn_norm",
		"layers.0.lm_head",
		"layers.00.attn_norm",
		"layers.-1.attn_norm",
		"layers.2147483648.attn_norm",
		"layers.99999999999999999999.attn_norm",
		"layers..attn_norm",
		"layers.0.",
		"layers.0.attn_norm ",
		"steps.0.lm_head",
		"steps.1.",
		"steps.x.lm_head",
		"token",
		"model.embed_tokens.weight",
		"layers.0.steps.1.attn_norm",
	};
	for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
		if (st_trace_key_parse(bad[i], false, &k))
			fail_msg("\"%s\" was taken for a stage", bad[i]);
	/* Printing is the inverse of parsing, for every stage. */
	for (unsigned s = 0; s < ST_STAGE_COUNT; s++) {
		struct st_trace_key in = { .step = s % 3,
			                   .layer = st_stage_per_layer((enum st_stage)s) ? (int32_t)s : -1,
			                   .stage = (enum st_stage)s,
			                   .part = ST_PART_ALL };
		char buf[96];
		st_trace_key_print(&in, buf, sizeof buf);
		assert_true(st_trace_key_parse(buf, false, &k));
		assert_int_equal(st_trace_key_order(&in, &k), 0);
		st_trace_tree_key_print(&in, buf, sizeof buf);
		assert_true(st_trace_key_parse(buf, true, &k));
		assert_int_equal(st_trace_key_order(&in, &k), 0);
	}
	assert_true(st_trace_key_parse("layers.3.steps.1.attn_norm", true, &k) && k.layer == 3 && k.step == 1);
	assert_true(st_trace_key_parse("layers.0.embedding", true, &k) && k.layer == -1);
	assert_false(st_trace_key_parse("layers.1.embedding", true, &k));
	assert_false(st_trace_key_parse("steps.1.layers.3.attn_norm", true, &k));
}

static void lists_of_stages(void **state)
{
	(void)state;
	struct st_stage_set m;
	struct st_error err = ST_ERROR_INIT;
	assert_ok(st_trace_parse_stages(" Attn_Norm ,\tqkv_matmul", &m, &err), &err);
	assert_int_equal(m.bits[0], (uint64_t)1 << ST_STAGE_ATTN_NORM | (uint64_t)1 << ST_STAGE_QKV_MATMUL);
	assert_ok(st_trace_parse_stages("ALL", &m, &err), &err);
	for (unsigned s = 0; s < ST_MAX_STAGES; s++)
		assert_true(st_stage_set_has(&m, (enum st_stage)s));
	static const char *const bad[] = {
		"", " ", "attn_norm,", ",attn_norm", "attn_norm,,lm_head", "attn", "attn_norm lm_head", "q_matmul"
	};
	for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
		st_error_clear(&err);
		assert_int_equal(st_trace_parse_stages(bad[i], &m, &err), ST_ERR_USAGE);
		assert_non_null(strstr(err.message, "post_ffn_residual final_norm lm_head"));
	}
}

/* ---- bundles ---- */

static void a_foreign_bundle(void **state)
{
	(void)state;
	struct st_trace *t = open_trace(shared_path("captures/clean-qwen2-d96-f32/trace.safetensors"));
	const struct st_provenance *p = st_trace_provenance(t);
	assert_true(p->known);
	assert_string_equal(p->engine, "llama.cpp");
	assert_string_equal(p->weights, "f32");
	assert_string_equal(p->rope_layout, "half");
	assert_int_equal(p->n_tokens, 10);
	assert_int_equal(p->tokens[0], 5);
	assert_int_equal(p->tokens[9], 121);
	/* 14 stages in each of 3 layers and 3 of the whole model, in graph order. */
	assert_int_equal(st_trace_n_entries(t), 3 * 14 + 3);
	assert_int_equal(st_trace_entry_at(t, 0)->stage, ST_STAGE_EMBEDDING);
	assert_int_equal(st_trace_entry_at(t, 1)->stage, ST_STAGE_ATTN_NORM);
	assert_int_equal(st_trace_entry_at(t, 2)->stage, ST_STAGE_QKV_MATMUL);
	assert_int_equal(st_trace_entry_at(t, 15)->layer, 1);
	assert_int_equal(st_trace_entry_at(t, 44)->stage, ST_STAGE_LM_HEAD);
	const struct st_trace_entry *e = st_trace_find(t, ST_STAGE_FFN_UP, 2, 0);
	assert_non_null(e);
	assert_int_equal(e->rows, 10);
	assert_int_equal(e->cols, 160);
	assert_string_equal(e->tensor->name, "layers.2.ffn_up");
	assert_null(st_trace_find(t, ST_STAGE_FFN_UP, 3, 0));
	assert_null(st_trace_find(t, ST_STAGE_FFN_SILU, 0, 0));
	st_trace_close(t);
}

#define META(rest) "\"__metadata__\":{\"format\":\"stele-trace\",\"version\":\"1\"" rest "}"
#define F32(key, shape, from, to) \
	"\"" key "\":{\"dtype\":\"F32\",\"shape\":" shape ",\"data_offsets\":[" #from "," #to "]}"

static const float numbers[64] = {
	0,  1,  2,  3,  4,  5,  6,  7,  8,  9,  10, 11, 12, 13, 14, 15,
	16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31,
};

static void positions_of_rows(void **state)
{
	(void)state;
	const char *path = in_folder("positions.safetensors");
	write_safetensors(path,
	                  "{" META(",\"tokens\":\"[7,8,9]\",\"positions.lm_head\":\"[0, 2]\"") "," F32(
				  "lm_head", "[2,2]", 0, 16) "," F32("embedding", "[3,1]", 16, 28) "}",
	                  numbers, 28);
	struct st_trace *t = open_trace(path);
	const struct st_trace_entry *e = st_trace_find(t, ST_STAGE_LM_HEAD, -1, 0);
	assert_int_equal(e->n_positions, 2);
	assert_int_equal(e->positions[0], 0);
	assert_int_equal(e->positions[1], 2);
	assert_null(st_trace_find(t, ST_STAGE_EMBEDDING, -1, 0)->positions);
	assert_int_equal(st_trace_entry_at(t, 0)->stage, ST_STAGE_EMBEDDING); /* not the file's order */
	st_trace_close(t);
}

static void separate_projections(void **state)
{
	(void)state;
	const char *path = in_folder("parts.safetensors");
	write_safetensors(path,
	                  "{" META(",\"tokens\":\"[1,2]\"") "," F32("layers.0.v_matmul", "[2,1]", 0, 8) "," F32(
				  "layers.0.q_matmul", "[2,2,1]", 8, 24) "," F32("layers.0.k_matmul", "[2,1]", 24,
	                                                                         32) "," F32("layers.1.qkv_matmul",
	                                                                                     "[2,4]", 32, 64) "}",
	                  numbers, 64);
	struct st_trace *t = open_trace(path);
	assert_int_equal(st_trace_n_entries(t), 2);
	const struct st_trace_entry *e = st_trace_find(t, ST_STAGE_QKV_MATMUL, 0, 0);
	assert_string_equal(e->tensor->name, "layers.0.qkv_matmul");
	assert_int_equal(e->rows, 2);
	assert_int_equal(e->cols, 4);
	float *x = values(e);
	/* q is 2..5, k 6..7, v 0..1; per token q, k, v. */
	const float want[] = { 2, 3, 6, 0, 4, 5, 7, 1 };
	assert_memory_equal(x, want, sizeof want);
	free(x);
	st_trace_close(t);
}

static void decode_steps(void **state)
{
	(void)state;
	const char *path = in_folder("steps.safetensors");
	write_safetensors(
		path,
		"{" META(",\"tokens\":\"[1,2]\"") "," F32("lm_head", "[2,2]", 0, 16) "," F32(
			"steps.1.lm_head", "[1,2]", 16,
			24) ",\"steps.2.token\":{\"dtype\":\"U32\",\"shape\":[1,1],\"data_offsets\":[24,28]}"
			    ",\"steps.1.token\":{\"dtype\":\"U32\",\"shape\":[1,1],\"data_offsets\":[28,32]}}",
		(const uint32_t[]){ 0, 0, 0, 0, 0, 0, 77, 66 }, 32);
	struct st_trace *t = open_trace(path);
	assert_int_equal(st_trace_n_entries(t), 2);
	assert_non_null(st_trace_find(t, ST_STAGE_LM_HEAD, -1, 1));
	assert_int_equal(st_trace_provenance(t)->n_steps, 2);
	assert_int_equal(st_trace_provenance(t)->step_tokens[0], 66);
	assert_int_equal(st_trace_provenance(t)->step_tokens[1], 77);
	st_trace_close(t);
}

/* Somebody's own script may have written the stages: without the mark their names decide, and nothing is known of them.
 */
static void unmarked_bundle(void **state)
{
	(void)state;
	static const char *const headers[] = { "{" F32("embedding", "[2,1]", 0, 8) "}",
		                               "{\"__metadata__\":{\"format\":\"pt\",\"tokens\":\"not ours\"}," F32(
						       "embedding", "[2,1]", 0, 8) "}" };
	for (int i = 0; i < 2; i++) {
		write_safetensors(in_folder("plain.safetensors"), headers[i], numbers, 8);
		struct st_trace *t = open_trace(in_folder("plain.safetensors"));
		assert_int_equal(st_trace_n_entries(t), 1);
		assert_false(st_trace_provenance(t)->known);
		assert_int_equal(st_trace_provenance(t)->n_tokens, 0);
		st_trace_close(t);
	}
}

/* Every way a bundle can contradict itself: refused with the key and the reason. */
static void broken_bundles(void **state)
{
	(void)state;
#define TOKENS ",\"tokens\":\"[1,2]\""
#define OK_TENSOR F32("embedding", "[2,1]", 0, 8)
	static const struct {
		const char *header;
		size_t n;
		enum st_status code;
		const char *where, *message;
	} cases[] = {
		{ "{" F32("model.norm.weight", "[2]", 0, 8) "}", 8, ST_ERR_FORMAT, "model.norm.weight",
		  "names no stage" },
		{ "{" META(TOKENS) "," F32("layers.0.q_matmul", "[4611686018427387904,0]", 0, 0) "}", 0, ST_ERR_FORMAT,
		  "layers.0.q_matmul", "no values" },
		{ "{\"__metadata__\":{\"format\":\"stele-trace\",\"version\":\"2\"}," OK_TENSOR "}", 8,
		  ST_ERR_UNSUPPORTED, "version", "only version" },
		{ "{" META(",\"tokens\":\"[1,2\"") "," OK_TENSOR "}", 8, ST_ERR_FORMAT, "tokens", "no JSON list" },
		{ "{" META(",\"tokens\":\"{}\"") "," OK_TENSOR "}", 8, ST_ERR_FORMAT, "tokens", "no JSON list" },
		{ "{" META(",\"tokens\":\"[]\"") "," OK_TENSOR "}", 8, ST_ERR_FORMAT, "tokens", "empty" },
		{ "{" META(",\"tokens\":\"[1,-2]\"") "," OK_TENSOR "}", 8, ST_ERR_FORMAT, "tokens", "item 1" },
		{ "{" META(",\"tokens\":\"[1,4294967296]\"") "," OK_TENSOR "}", 8, ST_ERR_FORMAT, "tokens", "item 1" },
		{ "{" META(",\"tokens\":\"[1.5,2]\"") "," OK_TENSOR "}", 8, ST_ERR_FORMAT, "tokens", "item 0" },
		{ "{" META(",\"tokens\":\"[1,2,3]\"") "," OK_TENSOR "}", 8, ST_ERR_FORMAT, "embedding",
		  "2 rows for 3 tokens" },
		{ "{" META(TOKENS ",\"rope_layout\":\"both\"") "," OK_TENSOR "}", 8, ST_ERR_FORMAT, "rope_layout",
		  "both" },
		{ "{" META(TOKENS ",\"heads\":\"[8,4]\"") "," OK_TENSOR "}", 8, ST_ERR_FORMAT, "heads", "head size" },
		{ "{" META(TOKENS ",\"heads\":\"[8,4,0]\"") "," OK_TENSOR "}", 8, ST_ERR_FORMAT, "heads", "head size" },
		{ "{" META(TOKENS ",\"model_sha256\":\"12\"") "," OK_TENSOR "}", 8, ST_ERR_FORMAT, "model_sha256",
		  "64" },
		{ "{" META(TOKENS ",\"positions.lm_head\":\"[1]\"") "," OK_TENSOR "}", 8, ST_ERR_FORMAT,
		  "positions.lm_head", "no value" },
		{ "{" META(TOKENS ",\"positions.embedding\":\"[1,1]\"") "," OK_TENSOR "}", 8, ST_ERR_FORMAT,
		  "positions.embedding", "ascending" },
		{ "{" META(TOKENS ",\"positions.embedding\":\"[1,2]\"") "," OK_TENSOR "}", 8, ST_ERR_FORMAT,
		  "positions.embedding", "position 2 of 2" },
		{ "{" META(TOKENS ",\"positions.embedding\":\"[1]\"") "," OK_TENSOR "}", 8, ST_ERR_FORMAT, "embedding",
		  "2 rows for 1 listed" },
		{ "{" META(TOKENS ",\"positions.embedding\":\"[]\"") "," OK_TENSOR "}", 8, ST_ERR_FORMAT,
		  "positions.embedding", "empty" },
		{ "{" META(TOKENS) "," F32("lm_head", "[3,2]", 0, 24) "}", 24, ST_ERR_FORMAT, "lm_head",
		  "3 rows for 2 tokens" },
		{ "{" META(TOKENS) "," F32("embedding", "[2]", 0, 8) "}", 8, ST_ERR_FORMAT, "embedding",
		  "1 dimensions" },
		{ "{" META(TOKENS) "," F32("embedding", "[]", 0, 4) "}", 4, ST_ERR_FORMAT, "embedding",
		  "single number" },
		{ "{" META(TOKENS) "," F32("layers.0.attn_scores", "[4,2]", 0, 32) "}", 32, ST_ERR_FORMAT,
		  "layers.0.attn_scores", "[heads" },
		{ "{" META(TOKENS) "," F32("layers.0.nonsense", "[2,1]", 0, 8) "}", 8, ST_ERR_FORMAT,
		  "layers.0.nonsense", "names no stage" },
		{ "{" META(TOKENS) "," F32("steps.1.lm_head", "[2,1]", 0, 8) "}", 8, ST_ERR_FORMAT, "steps.1.lm_head",
		  "2 rows for 1 tokens" },
		{ "{" META(TOKENS) "," F32("layers.0.layer_output", "[2,1]", 0, 8) "," F32("layers.0.post_ffn_residual",
		                                                                           "[2,1]", 8, 16) "}",
		  16, ST_ERR_FORMAT, "layers.0.", "same value as" },
		{ "{" META(TOKENS) "," F32("layers.0.q_matmul", "[2,1]", 0, 8) "," F32("layers.0.v_matmul", "[2,1]", 8,
		                                                                       16) "}",
		  16, ST_ERR_FORMAT, "layers.0.q_matmul", "one of 2 parts" },
		{ "{" META(TOKENS) "," F32("layers.0.q_matmul", "[2,1]", 0, 8) "," F32(
			  "layers.0.k_matmul", "[2,1]", 8, 16) "," F32("layers.0.v_matmul", "[1,2]", 16, 24) "}",
		  24, ST_ERR_FORMAT, "layers.0.v_matmul", "other positions" },
		{ "{" META(TOKENS) "," F32("layers.0.q_matmul", "[2,1]", 0, 8) "," F32(
			  "layers.0.k_matmul", "[2,1]", 8,
			  16) ",\"layers.0.v_matmul\":{\"dtype\":\"F16\",\"shape\":[2,1],\"data_offsets\":[16,20]}}",
		  20, ST_ERR_FORMAT, "layers.0.v_matmul", "another type" },
		{ "{" META(TOKENS) "," F32("layers.0.q_matmul", "[2,1]", 0, 8) "," F32("layers.0.qkv_matmul", "[2,3]",
		                                                                       8, 32) "}",
		  32, ST_ERR_FORMAT, "layers.0.qkv_matmul", "also in parts" },
		{ "{" META(TOKENS) "," OK_TENSOR
		                   ",\"steps.2.token\":{\"dtype\":\"U32\",\"shape\":[1,1],\"data_offsets\":[8,12]}}",
		  12, ST_ERR_FORMAT, "steps.2.token", "earlier step" },
		{ "{" META(TOKENS) "," OK_TENSOR "," F32("steps.1.token", "[1,1]", 8, 12) "}", 12, ST_ERR_FORMAT,
		  "steps.1.token", "integer" },
	};
	for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
		const char *path = in_folder("broken.safetensors");
		struct st_trace *t = (void *)1;
		struct st_error err = ST_ERROR_INIT;
		write_safetensors(path, cases[i].header, numbers, cases[i].n);
		enum st_status st = st_trace_open(path, &t, &err);
		if (st != cases[i].code || t || !strstr(err.where, cases[i].where)
		    || !strstr(err.message, cases[i].message) || strcmp(err.path, path) != 0)
			fail_msg("case %zu: status %s, \"%s\": %s: %s", i, st_status_name(st), err.path, err.where,
			         err.message);
	}
}

/* A good bundle cut anywhere never opens, and never does harm. */
static void truncated_bundle(void **state)
{
	(void)state;
	const char *path = in_folder("whole.safetensors"), *cut = in_folder("cut.safetensors");
	write_safetensors(path, "{" META(TOKENS) "," OK_TENSOR "," F32("lm_head", "[2,3]", 8, 32) "}", numbers, 32);
	size_t n;
	char *bytes = read_bytes(path, &n);
	for (size_t k = 0; k < n; k++) {
		struct st_trace *t;
		struct st_error err = ST_ERROR_INIT;
		write_bytes(cut, bytes, k);
		assert_int_not_equal(st_trace_open(cut, &t, &err), ST_OK);
		assert_null(t);
		assert_true(err.message[0]);
	}
	free(bytes);
}

/* ---- npz ---- */

/* One array of version 1, little endian, C order. */
static void add_npy(zip_t *z, const char *name, const char *descr, const char *shape, const void *data, size_t n)
{
	char head[128];
	memset(head, ' ', sizeof head);
	memcpy(head, "\x93NUMPY\x01\x00\x76\x00", 10);
	int k = snprintf(head + 10, 110, "{'descr': '%s', 'fortran_order': False, 'shape': %s, }", descr, shape);
	head[10 + k] = ' ';
	head[127] = '\n';
	char *all = malloc(128 + n);
	memcpy(all, head, 128);
	memcpy(all + 128, data, n);
	zip_source_t *s = zip_source_buffer(z, all, 128 + n, 1);
	assert_non_null(s);
	zip_int64_t at = zip_file_add(z, name, s, 0);
	assert_true(at >= 0);
	assert_int_equal(zip_set_file_compression(z, (zip_uint64_t)at, ZIP_CM_STORE, 0), 0);
}

static void npz_with_bundle_keys(void **state)
{
	(void)state;
	const char *path = in_folder("trace.npz");
	int code;
	zip_t *z = zip_open(path, ZIP_CREATE | ZIP_TRUNCATE, &code);
	assert_non_null(z);
	add_npy(z, "layers.0.attn_norm.npy", "<f4", "(2, 3)", numbers, 24);
	add_npy(z, "lm_head.npy", "<f4", "(1, 4)", numbers + 8, 16);
	add_npy(z, "tokens.npy", "<i8", "(2,)", (const int64_t[]){ 11, 12 }, 16);
	add_npy(z, "positions.lm_head.npy", "<i8", "(1,)", (const int64_t[]){ 1 }, 8);
	assert_int_equal(zip_close(z), 0);
	struct st_trace *t = open_trace(path);
	const struct st_provenance *p = st_trace_provenance(t);
	assert_int_equal(p->n_tokens, 2);
	assert_int_equal(p->tokens[1], 12);
	assert_int_equal(st_trace_n_entries(t), 2);
	const struct st_trace_entry *e = st_trace_find(t, ST_STAGE_LM_HEAD, -1, 0);
	assert_int_equal(e->positions[0], 1);
	float *x = values(e);
	assert_memory_equal(x, numbers + 8, 16);
	free(x);
	st_trace_close(t);

	/* Any other npz is no trace. */
	path = in_folder("other.npz");
	z = zip_open(path, ZIP_CREATE | ZIP_TRUNCATE, &code);
	add_npy(z, "weights.npy", "<f4", "(2, 3)", numbers, 24);
	assert_int_equal(zip_close(z), 0);
	struct st_error err = ST_ERROR_INIT;
	assert_int_equal(st_trace_open(path, &t, &err), ST_ERR_FORMAT);
	assert_string_equal(err.where, "weights");
}

/* ---- APRT trees ---- */

static void write_aprt(const char *path, uint32_t layer, const float *x, uint32_t n)
{
	uint32_t buf[64] = { 0x54525041, layer, n };
	memcpy(buf + 3, x, 4 * n);
	write_bytes(path, buf, 12 + 4 * n);
}

static void bare_tree(void **state)
{
	(void)state;
	mkdir(in_folder("bare"), 0777);
	mkdir(in_folder("bare/layer-0"), 0777);
	mkdir(in_folder("bare/layer-10"), 0777);
	mkdir(in_folder("bare/layer-2"), 0777);
	write_aprt(in_folder("bare/layer-0/embedding.bin"), 0, numbers, 6);
	write_aprt(in_folder("bare/layer-10/ffn_swigl.bin"), 10, numbers, 6);
	write_aprt(in_folder("bare/layer-2/ffn_swigl.bin"), 2, numbers, 0);
	write_aprt(in_folder("bare/lm_head.bin"), UINT32_MAX, numbers, 4);
	struct st_trace *t = open_trace(in_folder("bare"));
	assert_false(st_trace_provenance(t)->known);
	assert_null(st_trace_provenance(t)->tokens);
	assert_int_equal(st_trace_n_entries(t), 4);
	assert_int_equal(st_trace_entry_at(t, 0)->stage, ST_STAGE_EMBEDDING);
	assert_int_equal(st_trace_entry_at(t, 1)->layer, 2);
	assert_int_equal(st_trace_entry_at(t, 2)->layer, 10);
	const struct st_trace_entry *e = st_trace_find(t, ST_STAGE_EMBEDDING, -1, 0);
	assert_int_equal(e->rows, 1);
	assert_int_equal(e->cols, 6);
	st_trace_close(t);
}

static void tree_with_trace_json(void **state)
{
	(void)state;
	mkdir(in_folder("told"), 0777);
	mkdir(in_folder("told/layer-0"), 0777);
	write_aprt(in_folder("told/layer-0/attn_norm.bin"), 0, numbers, 6);
	write_aprt(in_folder("told/lm_head.bin"), UINT32_MAX, numbers, 4);
	static const char good[] = "{\"format\":\"stele-trace\",\"version\":\"1\",\"tokens\":[4,5],\"engine\":\"x\","
				   "\"positions.lm_head\":\"[1]\","
				   "\"shapes\":{\"layers.0.attn_norm\":[2,3],\"lm_head\":[1,4]}}";
	write_bytes(in_folder("told/trace.json"), good, sizeof good - 1);
	struct st_trace *t = open_trace(in_folder("told"));
	assert_true(st_trace_provenance(t)->known);
	assert_string_equal(st_trace_provenance(t)->engine, "x");
	assert_int_equal(st_trace_provenance(t)->tokens[1], 5);
	const struct st_trace_entry *e = st_trace_find(t, ST_STAGE_ATTN_NORM, 0, 0);
	assert_int_equal(e->rows, 2);
	assert_int_equal(e->cols, 3);
	assert_int_equal(st_trace_find(t, ST_STAGE_LM_HEAD, -1, 0)->positions[0], 1);
	st_trace_close(t);

	static const char *const bad[] = {
		"{\"tokens\":[4,5],\"shapes\":{\"layers.0.attn_norm\":[2,4]}}",
		"{\"tokens\":[4,5,6],\"shapes\":{\"layers.0.attn_norm\":[2,3]}}",
		"{\"format\":\"other\"}",
		"{\"engine\":1}",
		"{\"tokens\":[4,5],\"positions.lm_head\":[5]}",
		"[]",
		"{",
		"",
	};
	for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
		struct st_error err = ST_ERROR_INIT;
		write_bytes(in_folder("told/trace.json"), bad[i], strlen(bad[i]));
		assert_int_equal(st_trace_open(in_folder("told"), &t, &err), ST_ERR_FORMAT);
		assert_null(t);
	}
}

static void not_a_trace(void **state)
{
	(void)state;
	struct st_trace *t;
	struct st_error err = ST_ERROR_INIT;
	assert_int_equal(st_trace_open(shared_path("captures/models/qwen2-d96-f32.gguf"), &t, &err), ST_ERR_FORMAT);
	assert_non_null(strstr(err.message, "GGUF"));
	st_error_clear(&err);
	assert_int_equal(st_trace_open(in_folder("nowhere"), &t, &err), ST_ERR_IO);
}

/* ---- statistics ---- */

static void statistics(void **state)
{
	(void)state;
	struct st_trace_stats s;
	st_stats_of((const float[]){ 3, NAN, -1, INFINITY, 4, -INFINITY, NAN }, 7, &s);
	assert_true(s.n_nan == 2 && s.n_inf == 2 && s.min == -1 && s.max == 4 && s.mean == 2);
	assert_true(fabs(s.std - sqrt(14.0 / 3)) < 1e-15 && fabs(s.l2 - sqrt(26)) < 1e-15);
	st_stats_of((const float[]){ NAN }, 1, &s);
	assert_true(isnan(s.min) && isnan(s.mean) && isnan(s.l2) && s.n_nan == 1);
	st_stats_of(NULL, 0, &s);
	assert_true(isnan(s.max) && s.n_nan == 0);
	/* A large offset: the sum of squares less the square of the sum would lose the spread. */
	st_stats_of((const float[]){ 16777216, 16777214 }, 2, &s);
	assert_true(s.std == 1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(names),
		cmocka_unit_test(lists_of_stages),
		cmocka_unit_test(a_foreign_bundle),
		cmocka_unit_test(positions_of_rows),
		cmocka_unit_test(separate_projections),
		cmocka_unit_test(decode_steps),
		cmocka_unit_test(unmarked_bundle),
		cmocka_unit_test(broken_bundles),
		cmocka_unit_test(truncated_bundle),
		cmocka_unit_test(npz_with_bundle_keys),
		cmocka_unit_test(bare_tree),
		cmocka_unit_test(tree_with_trace_json),
		cmocka_unit_test(not_a_trace),
		cmocka_unit_test(statistics),
	};
	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
