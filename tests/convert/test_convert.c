/*
 * From every container into every other and back: the same bytes where the types allow, the same model in any case.
 */
#include "convert/support.h"

#include "convert/job.h"
#include "whole.h"

#include <fcntl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <signal.h>

static const enum st_dtype types[] = {
	ST_DTYPE_F32,  ST_DTYPE_F16,  ST_DTYPE_BF16, ST_DTYPE_Q8_0, ST_DTYPE_Q4_0,
	ST_DTYPE_Q4_1, ST_DTYPE_Q5_0, ST_DTYPE_Q5_1, ST_DTYPE_Q4_K, ST_DTYPE_Q6_K,
};
enum { N_TYPES = sizeof types / sizeof *types };

static void clear(void)
{
	char cmd[128];
	snprintf(cmd, sizeof cmd, "rm -rf '%s'/*", folder);
	assert_int_equal(system(cmd), 0);
}

/* GGUF -> APR -> GGUF keeps every byte; through safetensors block types become floats of the same values. */
static void gguf_round_trip(const char *arch, uint32_t hidden, bool tied, enum st_dtype t)
{
	struct toy m;
	toy_make(&m, arch, hidden, tied);
	toy_write(&m, in_folder("a.gguf"), t, true);
	toy_free(&m);
	convert(in_folder("a.gguf"), in_folder("b.apr"));
	convert(in_folder("b.apr"), in_folder("c.gguf"));
	same_tensors(in_folder("a.gguf"), in_folder("c.gguf"));
	same_model(in_folder("a.gguf"), in_folder("b.apr"), NULL);
	convert(in_folder("a.gguf"), in_folder("hf"));
	convert(in_folder("hf"), in_folder("d.gguf"));
	if (st_dtype_info(t)->kind != ST_KIND_QUANT)
		same_tensors(in_folder("a.gguf"), in_folder("d.gguf"));
	same_model(in_folder("a.gguf"), in_folder("hf"), NULL);
	same_model(in_folder("a.gguf"), in_folder("d.gguf"), NULL);
	convert(in_folder("b.apr"), in_folder("hf2"));
	same_tensors(in_folder("hf"), in_folder("hf2"));
	clear();
}

static void gguf_goes_around(void **state)
{
	(void)state;
	for (int i = 0; i < N_TYPES; i++) {
		uint32_t hidden = st_dtype_info(types[i])->block_elems == 256 ? 256 : 64;
		gguf_round_trip("llama", hidden, i % 2, types[i]);
		gguf_round_trip("qwen2", hidden, i % 2 == 0, types[i]);
	}
	gguf_round_trip("llama", 64, true, ST_DTYPE_F32);
}

/* qwen3 has norms on its heads; the toy writes it as a folder only. */
static void make_qwen3(struct toy *m)
{
	uint64_t seed = 5;
	toy_make(m, "qwen3", 128, false);
	for (int l = 0; l < TOY_LAYERS; l++)
		for (int k = 0; k < 2; k++) {
			char name[96];
			snprintf(name, sizeof name, "model.layers.%d.self_attn.%c_norm.weight", l, "qk"[k]);
			toy_add(m, name, 32, 0, 1, 0.2, &seed);
		}
}

static void put_file(const char *name, const char *text)
{
	FILE *f = fopen(in_folder(name), "w");
	assert_non_null(f);
	fputs(text, f);
	assert_int_equal(fclose(f), 0);
}

#define QWEN3_CONFIG(rest)                                                                                         \
	"{\"model_type\": \"qwen3\", \"hidden_size\": 128, \"num_hidden_layers\": 2, \"num_attention_heads\": 4, " \
	"\"num_key_value_heads\": 2, "                                                                             \
	"\"head_dim\": 32, \"intermediate_size\": 256, \"vocab_size\": 96, \"rms_norm_eps\": 1e-06, "              \
	"\"max_position_embeddings\": 512" rest "}"

static void folder_round_trip(struct toy *m, enum st_dtype t, const char *config)
{
	toy_write(m, in_folder("a"), t, false);
	if (config)
		put_file("a/config.json", config);
	convert(in_folder("a"), in_folder("b.apr"));
	convert(in_folder("b.apr"), in_folder("c"));
	convert(in_folder("a"), in_folder("d.gguf"));
	convert(in_folder("d.gguf"), in_folder("e"));
	convert(in_folder("d.gguf"), in_folder("f.apr"));
	convert(in_folder("f.apr"), in_folder("g.gguf"));
	same_tensors(in_folder("a"), in_folder("c"));
	same_tensors(in_folder("a"), in_folder("e"));
	same_tensors(in_folder("d.gguf"), in_folder("g.gguf"));
	same_tensors(in_folder("b.apr"), in_folder("f.apr"));
	static const char *const all[] = { "b.apr", "c", "d.gguf", "e", "f.apr", "g.gguf" };
	for (size_t i = 0; i < 6; i++)
		same_model(in_folder("a"), in_folder(all[i]), NULL);
	clear();
}

static void folders_go_around(void **state)
{
	(void)state;
	for (int i = 0; i < 3; i++) {
		struct toy m;
		toy_make(&m, i == 1 ? "qwen2" : "llama", 64, i == 2);
		folder_round_trip(&m, types[i], NULL);
		toy_free(&m);
		make_qwen3(&m);
		folder_round_trip(&m, types[i], QWEN3_CONFIG(", \"rope_theta\": 1000000.0"));
		toy_free(&m);
	}
}

/* Settings of a configuration that each container spells in its own way. */
static void settings_go_around(void **state)
{
	(void)state;
	static const char *const scalings[] = {
		(", \"rope_theta\": 500000.0, \"rope_scaling\": {\"rope_type\": \"llama3\", \"factor\": 8.0, "
		 "\"low_freq_factor\": 1.0, "
		 "\"high_freq_factor\": 4.0, \"original_max_position_embeddings\": 8192}"),
		/* GGUF gives the same frequencies back as low 1, high 2.5, original length 64. */
		(", \"rope_theta\": 10000.0, \"rope_scaling\": {\"rope_type\": \"llama3\", \"factor\": 8.0, "
		 "\"low_freq_factor\": 2.0, "
		 "\"high_freq_factor\": 5.0, \"original_max_position_embeddings\": 128}"),
		", \"rope_theta\": 10000.0, \"rope_scaling\": {\"type\": \"linear\", \"factor\": 4.0}",
		", \"rope_parameters\": {\"rope_theta\": 20000.0, \"rope_type\": \"default\"}, "
		"\"tie_word_embeddings\": false",
	};
	for (size_t i = 0; i < sizeof scalings / sizeof *scalings; i++) {
		struct toy m;
		char config[1024];
		make_qwen3(&m);
		snprintf(config, sizeof config, QWEN3_CONFIG("%s"), scalings[i]);
		folder_round_trip(&m, ST_DTYPE_F32, config);
		toy_free(&m);
	}
	/* A window: mistral's in all three; the layer from which it holds has no place in GGUF. */
	struct toy m;
	toy_make(&m, "llama", 64, false);
	folder_round_trip(
		&m, ST_DTYPE_F32,
		"{\"model_type\": \"mistral\", \"hidden_size\": 64, \"num_hidden_layers\": 2, \"num_attention_heads\": "
		"4, \"num_key_value_heads\": 2, "
		"\"intermediate_size\": 128, \"vocab_size\": 96, \"rms_norm_eps\": 1e-05, \"sliding_window\": 3}");
	toy_free(&m);
	make_qwen3(&m);
	toy_write(&m, in_folder("a"), ST_DTYPE_F32, false);
	put_file("a/config.json", QWEN3_CONFIG(", \"rope_theta\": 1e6, \"use_sliding_window\": true, "
	                                       "\"sliding_window\": 3, \"max_window_layers\": 1"));
	convert(in_folder("a"), in_folder("b.apr"));
	same_model(in_folder("a"), in_folder("b.apr"), NULL);
	struct st_error err = convert_fails(in_folder("a"), in_folder("c.gguf"), &(struct st_convert_options){ 0 });
	assert_string_equal(err.where, "max_window_layers");
	toy_free(&m);
}

/* ---- other stored types ---- */

static void types_are_encoded(void **state)
{
	(void)state;
	static const struct {
		const char *type, *out;
	} wanted[] = {
		{ "F32", "x.gguf" },  { "f16", "x.gguf" },  { "BF16", "x" },      { "F16", "x.safetensors" },
		{ "Q8_0", "x.gguf" }, { "Q4_0", "x.apr" },  { "Q4_1", "x.gguf" }, { "Q5_0", "x.apr" },
		{ "Q5_1", "x.gguf" }, { "Q4_K", "x.gguf" }, { "Q6_K", "x.apr" },  { "AprQ4", "x.apr" },
		{ "AprQ8", "x.apr" },
	};
	struct toy m;
	toy_make(&m, "llama", 256, false);
	toy_write(&m, in_folder("a.gguf"), ST_DTYPE_F32, true);
	toy_free(&m);
	for (size_t i = 0; i < sizeof wanted / sizeof *wanted; i++) {
		struct st_convert_result *r = convert_with(
			in_folder("a.gguf"), in_folder(wanted[i].out),
			&(struct st_convert_options){ .type = wanted[i].type, .force = true });
		enum st_dtype t;
		struct st_error err = ST_ERROR_INIT;
		struct st_container *c;
		assert_true(st_dtype_parse(wanted[i].type, &t));
		assert_int_equal(r->encoded, t == ST_DTYPE_F32
		                                     ? 0
		                                     : 16); /* embedding, head, seven matrices in each of two layers */
		st_convert_result_free(r);
		assert_ok(st_container_open(in_folder(wanted[i].out), &c, &err), &err);
		for (size_t k = 0; k < st_container_n_tensors(c); k++) {
			const struct st_tensor *x = st_container_tensor(c, k);
			assert_int_equal(x->dtype, x->ndim == 1 ? ST_DTYPE_F32 : t);
		}
		bool bare = st_container_format(c) == ST_FORMAT_SAFETENSORS && strstr(wanted[i].out, ".safetensors");
		st_container_close(c);
		if (bare)
			continue;
		struct st_rosetta *q = compare_files(in_folder(wanted[i].out), in_folder("a.gguf"), NULL);
		if (q->verdict > ST_VERDICT_NOISE)
			fprintf(stderr, "%s: %s\n", wanted[i].type, q->text);
		assert_true(q->verdict <= ST_VERDICT_NOISE);
		st_rosetta_free(q);
	}
}

/* Rows that do not divide take a type that fits, and it is said. */
static void rows_that_do_not_divide_fall_back(void **state)
{
	(void)state;
	struct toy m;
	toy_make(&m, "qwen2", 64, true);
	toy_write(&m, in_folder("a.gguf"), ST_DTYPE_F32, true);
	toy_free(&m);
	struct st_convert_result *r = convert_with(in_folder("a.gguf"), in_folder("b.gguf"),
	                                           &(struct st_convert_options){ .type = "Q4_K" });
	assert_true(has_note(r, "as Q5_0 instead of Q4_K"));
	st_convert_result_free(r);
	struct st_rosetta *q = compare_files(in_folder("b.gguf"), in_folder("a.gguf"), NULL);
	assert_int_equal(q->verdict, ST_VERDICT_NOISE);
	st_rosetta_free(q);
}

static void what_cannot_be_written_is_named(void **state)
{
	(void)state;
	struct toy m;
	toy_make(&m, "qwen2", 64, true);
	toy_write(&m, in_folder("a.gguf"), ST_DTYPE_F32, true);
	toy_free(&m);
	static const struct {
		const char *type, *out, *part;
	} cases[] = {
		{ "Q9_9", "x.gguf", "is no stored type" },
		{ "Q4_0", "x", "cannot be written to safetensors" },
		{ "Q8_K", "x.gguf", "cannot be written to GGUF" },
		{ "AprQ4", "x.gguf", "cannot be written to GGUF" },
	};
	for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
		struct st_error err = convert_fails(in_folder("a.gguf"), in_folder(cases[i].out),
		                                    &(struct st_convert_options){ .type = cases[i].type });
		assert_non_null(strstr(err.message, cases[i].part));
	}
	struct st_error err = convert_fails(in_folder("a.gguf"), in_folder("x.apr"),
	                                    &(struct st_convert_options){ .format = "gguf" });
	assert_non_null(strstr(err.message, "contradicts"));
	assert_int_equal(left_behind("a.gguf"), 0);
}

/* A folder is written where the name says so, or where it is asked for; a slip in a suffix is none. */
static void names_of_outputs(void **state)
{
	(void)state;
	struct toy m;
	toy_make(&m, "qwen2", 64, true);
	toy_write(&m, in_folder("a.gguf"), ST_DTYPE_F32, true);
	toy_free(&m);
	struct st_error err = convert_fails(in_folder("a.gguf"), in_folder("x.ggfu"),
	                                    &(struct st_convert_options){ 0 });
	assert_int_equal(err.code, ST_ERR_USAGE);
	assert_non_null(strstr(err.message, ".ggfu"));
	assert_non_null(strstr(err.message, "--to hf"));
	assert_int_equal(left_behind("a.gguf"), 0);
	static const struct {
		const char *out, *format;
		bool said;
	} cases[] = { { "plain", NULL, true }, { "slash/", NULL, false }, { "Model-1.7B", "hf", false } };
	for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
		struct st_convert_result *r = convert_with(in_folder("a.gguf"), in_folder(cases[i].out),
		                                           &(struct st_convert_options){ .format = cases[i].format });
		assert_string_equal(r->to, "Hugging Face folder");
		assert_int_equal(has_note(r, "--to hf"), cases[i].said);
		st_convert_result_free(r);
	}
}

/* Numbers that would not survive are found before anything is written: where, what, and the largest that would. */
static void what_a_type_cannot_hold_is_refused(void **state)
{
	(void)state;
	static const struct {
		float value;
		const char *type, *part; /* NULL: it is held */
	} cases[] = {
		{ 70000, "F16", "65504" },
		{ 65519, "F16", NULL },
		{ 70000, "BF16", NULL },
		{ 70000, "Q8_0", NULL },
		{ 1e7f, "Q8_0", "8.31901e+06" },
		{ 6e5f, "Q4_0", "524032" },
		{ -70000, "Q4_1", "-70000" },
		{ 70000, "Q4_1", NULL },
		{ 1e9f, "Q4_K", "6.19013e+07" }, /* 65504 * 63 * 15 */
		{ 3e38f, "Q4_K", "6.19013e+07" },
		{ 3e38f, "Q6_K", "2.66208e+08" }, /* 65504 * 127 * 32 */
		{ NAN, "Q8_0", "is NaN" },
		{ INFINITY, "Q4_K", "infinite" },
		{ INFINITY, "F16", NULL },
		{ 3.4e38f, "BF16", "3.38953e+38" },
	};
	for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
		struct toy m;
		toy_make(&m, "llama", 256, true);
		toy_find(&m, "model.layers.1.mlp.down_proj.weight")->data[3 * m.ffn + 5] = cases[i].value;
		toy_write(&m, in_folder("a.gguf"), ST_DTYPE_F32, true);
		toy_free(&m);
		struct st_convert_options o = { .type = cases[i].type, .force = true };
		if (!cases[i].part) {
			st_convert_result_free(convert_with(in_folder("a.gguf"), in_folder("b.gguf"), &o));
			continue;
		}
		unlink(in_folder("b.gguf"));
		struct st_error err = convert_fails(in_folder("a.gguf"), in_folder("b.gguf"), &o);
		assert_int_equal(err.code, ST_ERR_UNSUPPORTED);
		assert_string_equal(err.where, "blk.1.ffn_down.weight");
		if (!strstr(err.message, cases[i].part) || !strstr(err.message, "row 3, column 5"))
			fail_msg("%g as %s: %s", (double)cases[i].value, cases[i].type, err.message);
		assert_int_equal(left_behind("a.gguf"), 0);
	}
}

/* What llama.cpp's listing of a Q4_K_M file of 32 layers shows for V. */
static void layers_of_a_recipe(void **state)
{
	(void)state;
	static const unsigned char more[] = { 0, 1, 2, 3, 6, 9, 12, 15, 18, 21, 24, 27, 28, 29, 30, 31 };
	const struct st_recipe *r = st_recipe_find("q4_k_m");
	struct st_config cfg = { .n_layers = 32, .n_heads = 32, .n_kv_heads = 32, .hidden = 4096 };
	assert_non_null(r);
	for (uint32_t layer = 0; layer < 32; layer++) {
		struct st_job j = { .role = ST_ROLE_V, .layer = layer, .spec = { .ndim = 2, .shape = { 4096, 4096 } } };
		assert_int_equal(st_recipe_type(r, &cfg, &j),
		                 memchr(more, (int)layer, sizeof more) ? ST_DTYPE_Q6_K : ST_DTYPE_Q4_K);
		j.role = ST_ROLE_GATE;
		assert_int_equal(st_recipe_type(r, &cfg, &j), ST_DTYPE_Q4_K);
	}
	struct st_job head = { .role = ST_ROLE_HEAD, .spec = { .ndim = 2, .shape = { 32000, 4096 } } };
	assert_int_equal(st_recipe_type(r, &cfg, &head), ST_DTYPE_Q6_K);
	head.spec.shape[1] = 4128;
	assert_int_equal(st_recipe_type(r, &cfg, &head), ST_DTYPE_Q8_0);
}

/* What llama.cpp's own quantiser (of 2026) chose for models of the gguf package, a digit of the K type for each layer:
 * queries, keys, gate and up have the recipe's own, and the head, or the embedding where it is the head, Q6_K. */
static const struct recipe_case {
	const char *name;
	uint32_t file_type, layers, heads, kv_heads;
	bool tied;
	char output;
	const char *v, *down;
} recipe_cases[] = {
	/* clang-format off */
	{ "Q3_K_S", 11, 32, 8, 2, false, '3',
	  "33333333333333333333333333333333",
	  "33333333333333333333333333333333" },
	{ "Q3_K_M", 12, 32, 8, 2, false, '4',
	  "55444444444444444444444444444444",
	  "55444444444444444444444444444444" },
	{ "Q3_K_L", 13, 32, 8, 2, false, '5',
	  "55555555555555555555555555555555",
	  "55555555555555555555555555555555" },
	{ "Q4_K_S", 14, 32, 8, 2, false, '4',
	  "55554444444444444444444444444444",
	  "55554444444444444444444444444444" },
	{ "Q4_K_M", 15, 32, 8, 2, false, '4',
	  "66664464464464464464464464466666",
	  "66664464464464464464464464466666" },
	{ "Q5_K_S", 16, 32, 8, 2, false, '5',
	  "55555555555555555555555555555555",
	  "55555555555555555555555555555555" },
	{ "Q5_K_M", 17, 32, 8, 2, false, '5',
	  "66665565565565565565565565566666",
	  "66665565565565565565565565566666" },
	{ "Q3_K_S", 11, 22, 8, 8, true, '3',
	  "3333333333333333333333",
	  "3333333333333333333333" },
	{ "Q3_K_M", 12, 22, 8, 8, true, '4',
	  "5544444444444444444444",
	  "5444444444444444444444" },
	{ "Q3_K_L", 13, 22, 8, 8, true, '5',
	  "5555555555555555555555",
	  "5555555555555555555555" },
	{ "Q4_K_S", 14, 22, 8, 8, true, '4',
	  "5555444444444444444444",
	  "5544444444444444444444" },
	{ "Q4_K_M", 15, 22, 8, 8, true, '4',
	  "6644644644644644644666",
	  "6644644644644644644666" },
	{ "Q5_K_S", 16, 22, 8, 8, true, '5',
	  "5555555555555555555555",
	  "5555555555555555555555" },
	{ "Q5_K_M", 17, 22, 8, 8, true, '5',
	  "6655655655655655655666",
	  "6655655655655655655666" },
	{ "Q3_K_S", 11, 12, 8, 4, false, '3',
	  "333333333333",
	  "333333333333" },
	{ "Q3_K_M", 12, 12, 8, 4, false, '4',
	  "554444444444",
	  "444444444444" },
	{ "Q3_K_L", 13, 12, 8, 4, false, '5',
	  "555555555555",
	  "555555555555" },
	{ "Q4_K_S", 14, 12, 8, 4, false, '4',
	  "555544444444",
	  "544444444444" },
	{ "Q4_K_M", 15, 12, 8, 4, false, '4',
	  "644644644666",
	  "644644644666" },
	{ "Q5_K_S", 16, 12, 8, 4, false, '5',
	  "555555555555",
	  "555555555555" },
	{ "Q5_K_M", 17, 12, 8, 4, false, '5',
	  "655655655666",
	  "655655655666" },
	{ "Q3_K_S", 11, 80, 8, 1, false, '3',
	  "55555555555555555555555555555555555555555555555555555555555555555555555555555555",
	  "33333333333333333333333333333333333333333333333333333333333333333333333333333333" },
	{ "Q3_K_M", 12, 80, 8, 1, false, '4',
	  "55555555555555555555555555555555555555555555555555555555555555555555555555555555",
	  "55555444444444444444444444444444444444444444444444444444444444444444444444444444" },
	{ "Q4_K_S", 14, 80, 8, 1, false, '4',
	  "55555555555555555555555555555555555555555555555555555555555555555555555555555555",
	  "55555555554444444444444444444444444444444444444444444444444444444444444444444444" },
	{ "Q4_K_M", 15, 80, 8, 1, false, '4',
	  "66666666665565565565565565565565565565565565565565565565565565565565566666666666",
	  "66666666664464464464464464464464464464464464464464464464464464464464466666666666" },
	{ "Q3_K_S", 11, 5, 4, 4, true, '3',
	  "33333",
	  "33333" },
	{ "Q3_K_M", 12, 5, 4, 4, true, '4',
	  "55444",
	  "44444" },
	{ "Q3_K_L", 13, 5, 4, 4, true, '5',
	  "55555",
	  "55555" },
	{ "Q4_K_S", 14, 5, 4, 4, true, '4',
	  "55554",
	  "44444" },
	{ "Q4_K_M", 15, 5, 4, 4, true, '4',
	  "44646",
	  "44646" },
	{ "Q5_K_S", 16, 5, 4, 4, true, '5',
	  "55555",
	  "55555" },
	{ "Q5_K_M", 17, 5, 4, 4, true, '5',
	  "55656",
	  "55656" },
	/* clang-format on */
};

static char recipe_digit(const struct st_recipe *r, const struct st_config *cfg, enum st_role role, uint32_t layer)
{
	struct st_job j = { .role = role, .layer = layer, .spec = { .ndim = 2, .shape = { 256, 256 } } };
	return st_dtype_info(st_recipe_type(r, cfg, &j))->name[1];
}

static void recipes_of_llama_cpp(void **state)
{
	(void)state;
	for (size_t i = 0; i < sizeof recipe_cases / sizeof *recipe_cases; i++) {
		const struct recipe_case *k = &recipe_cases[i];
		const struct st_recipe *r = st_recipe_find(k->name);
		const struct st_config cfg = { .n_layers = k->layers,
			                       .n_heads = k->heads,
			                       .n_kv_heads = k->kv_heads,
			                       .hidden = 256,
			                       .tied = k->tied };
		assert_non_null(r);
		assert_int_equal(st_recipe_file_type(r), k->file_type);
		assert_int_equal(strlen(k->v), k->layers);
		static const enum st_role plain[] = { ST_ROLE_Q, ST_ROLE_K, ST_ROLE_GATE, ST_ROLE_UP };
		for (uint32_t l = 0; l < k->layers; l++) {
			if (recipe_digit(r, &cfg, ST_ROLE_V, l) != k->v[l]
			    || recipe_digit(r, &cfg, ST_ROLE_DOWN, l) != k->down[l]
			    || recipe_digit(r, &cfg, ST_ROLE_O, l) != k->output)
				fail_msg("%s of %u layers, layer %u", k->name, (unsigned)k->layers, (unsigned)l);
			for (size_t p = 0; p < 4; p++)
				assert_int_equal(recipe_digit(r, &cfg, plain[p], l), k->name[1]);
		}
		assert_int_equal(recipe_digit(r, &cfg, k->tied ? ST_ROLE_EMBED : ST_ROLE_HEAD, 0), '6');
		if (!k->tied)
			assert_int_equal(recipe_digit(r, &cfg, ST_ROLE_EMBED, 0), k->name[1]);
	}
}

/* A file of one importance for each column of every matrix, `columns` of them where that is not 0. */
static void write_importances(const char *path, const char *type, uint64_t columns)
{
	static const char *const parts[] = { "attn_q",   "attn_k", "attn_v",  "attn_output",
		                             "ffn_gate", "ffn_up", "ffn_down" };
	struct st_error err = ST_ERROR_INIT;
	struct st_tensor_spec specs[28];
	char names[28][48];
	size_t n = 0;
	struct toy_kv_store kv = { .n = 0 };
	toy_kv(&kv, "general.type", ST_KV_STR, type, strlen(type));
	for (int layer = 0; layer < 2; layer++)
		for (size_t i = 0; i < 7; i++)
			for (int counts = 0; counts < 2; counts++) {
				uint64_t cols = counts                       ? 1
				              : columns                      ? columns
				              : strcmp(parts[i], "ffn_down") ? 256
				                                             : 512;
				snprintf(names[n], sizeof names[n], "blk.%d.%s.weight.%s", layer, parts[i],
				         counts ? "counts" : "in_sum2");
				specs[n] = (struct st_tensor_spec){ names[n], ST_DTYPE_F32, 2, { 1, cols } };
				n++;
			}
	struct st_write_plan plan = {
		.format = ST_FORMAT_GGUF, .specs = specs, .n_specs = n, .kv = kv.kv, .n_kv = kv.n
	};
	struct st_writer *w;
	const char *readable;
	assert_ok(st_writer_open(path, &plan, &w, &err), &err);
	for (size_t i = 0; i < n; i++)
		for (uint64_t k = 0; k < specs[i].shape[1]; k++) {
			float x = specs[i].shape[1] == 1 ? 4 : k % 8 == 0 ? 400 : 4;
			assert_ok(st_writer_append(w, &x, sizeof x, &err), &err);
		}
	assert_ok(st_writer_finish(w, &readable, &err), &err);
	assert_ok(st_writer_commit(w, &err), &err);
}

/* Mean squared error of the columns that count and of the others, over a matrix. */
static void column_errors(const char *path, const struct toy_tensor *want, double *important, double *rest)
{
	struct st_error err = ST_ERROR_INIT;
	struct st_container *c;
	assert_ok(st_container_open(path, &c, &err), &err);
	const struct st_tensor *t = st_container_find(c, "blk.0.ffn_up.weight");
	float *row = malloc(want->cols * sizeof *row);
	*important = *rest = 0;
	for (uint64_t r = 0; r < want->rows; r++) {
		st_tensor_decode(t, r, 1, row);
		for (uint64_t k = 0; k < want->cols; k++) {
			double d = (double)row[k] - (double)want->data[r * want->cols + k];
			*(k % 8 == 0 ? important : rest) += d * d;
		}
	}
	free(row);
	st_container_close(c);
}

static void importances_move_the_error(void **state)
{
	(void)state;
	struct toy m;
	double before, after, rest;
	toy_make(&m, "llama", 256, true);
	toy_write(&m, in_folder("a.gguf"), ST_DTYPE_F32, true);
	write_importances(in_folder("im.gguf"), "imatrix", 0);
	struct st_convert_options o = { .type = "Q3_K", .force = true };
	st_convert_result_free(convert_with(in_folder("a.gguf"), in_folder("b.gguf"), &o));
	column_errors(in_folder("b.gguf"), toy_find(&m, "model.layers.0.mlp.up_proj.weight"), &before, &rest);
	char imatrix[512];
	snprintf(imatrix, sizeof imatrix, "%s/im.gguf", folder);
	o.imatrix = imatrix;
	struct st_convert_result *r = convert_with(in_folder("a.gguf"), in_folder("b.gguf"), &o);
	assert_true(has_note(r, "importances for 14 matrices; without: 1, the first token_embd.weight"));
	st_convert_result_free(r);
	column_errors(in_folder("b.gguf"), toy_find(&m, "model.layers.0.mlp.up_proj.weight"), &after, &rest);
	assert_true(after < 0.8 * before);
	toy_free(&m);
	/* What is no such file, or one for another model. */
	write_importances(in_folder("im.gguf"), "model", 0);
	assert_non_null(
		strstr(convert_fails(in_folder("a.gguf"), in_folder("c.gguf"), &o).message, "is no importance matrix"));
	write_importances(in_folder("im.gguf"), "imatrix", 64);
	assert_non_null(strstr(convert_fails(in_folder("a.gguf"), in_folder("c.gguf"), &o).message,
	                       "is no importance for the"));
	o.type = NULL;
	assert_int_equal(convert_fails(in_folder("a.gguf"), in_folder("c.gguf"), &o).code, ST_ERR_USAGE);
	o.type = "F16";
	assert_int_equal(convert_fails(in_folder("a.gguf"), in_folder("c.gguf"), &o).code, ST_ERR_USAGE);
	o.type = "Q3_K";
	o.imatrix = in_folder("absent");
	assert_int_equal(convert_fails(in_folder("a.gguf"), in_folder("c.gguf"), &o).code, ST_ERR_IO);
}

/* Tensors that no weight is: kept where readers pass over them, listed where they do not. */
static void unused_tensors_are_carried_or_listed(void **state)
{
	(void)state;
	struct toy m;
	uint64_t seed = 3;
	toy_make(&m, "llama", 64, true);
	struct toy_tensor *extra = toy_add(&m, "model.layers.0.self_attn.rotary_emb.inv_freq", 8, 0, 0, 1, &seed);
	toy_write(&m, in_folder("a"), ST_DTYPE_F32, false);
	struct st_convert_result *r = convert_with(in_folder("a"), in_folder("b.gguf"),
	                                           &(struct st_convert_options){ 0 });
	assert_true(has_note(r, "dropped: model.layers.0.self_attn.rotary_emb.inv_freq"));
	st_convert_result_free(r);
	r = convert_with(in_folder("a"), in_folder("b.apr"), &(struct st_convert_options){ 0 });
	assert_false(has_note(r, "dropped"));
	st_convert_result_free(r);
	struct st_error err = ST_ERROR_INIT;
	struct st_container *c;
	assert_ok(st_container_open(in_folder("b.apr"), &c, &err), &err);
	const struct st_tensor *t = st_container_find(c, extra->name);
	assert_non_null(t);
	assert_memory_equal(t->data, extra->data, 8 * sizeof(float));
	st_container_close(c);
	toy_free(&m);
}

/* ---- published files ---- */

static void published_models_go_around(void **state)
{
	(void)state;
	static const struct {
		const char *in, *prompt;
	} cases[] = {
		{ "models/stories260k/model.gguf", "Once upon a time" },
		{ "models/stories260k/model-q8_0.gguf", "Once upon a time" },
		{ "models/stories260k/model-q4_0.gguf", "Once upon a time" },
		{ "models/stories260k/hf", "Once upon a time" },
		{ "models/stories260k/model-a.apr", "Once upon a time" },
		{ "models/stories260k/model-b.apr", "Once upon a time" },
		{ "models/qwen2-k/hf", "2+2=" },
		{ "models/qwen2-k/qwen2-k-q4_k.gguf", "2+2= it's 123" },
		{ "models/qwen2-k/qwen2-k-q4_k-a.apr", "2+2=" },
		{ "models/qwen2-k/qwen2-k-q4_k-b.apr", "2+2=" },
		{ "models/qwen2-tiny/qwen2-tiny-q4_k.gguf", "2+2= Gr\xc3\xbc\xc3\x9f"
		                                            "e \xe4\xbd\xa0\xe5\xa5\xbd" },
		{ "models/qwen2-tiny/qwen2-tiny-q4_k.apr", "2+2=" }, /* a vocabulary of 150,000, for a second time */
	};
	for (size_t i = 0; i < sizeof cases / sizeof *cases - !whole; i++) {
		const char *in = shared_path(cases[i].in);
		convert(in, in_folder("b.apr"));
		convert(in, in_folder("c.gguf"));
		convert(in, in_folder("d"));
		convert(in_folder("b.apr"), in_folder("e.gguf"));
		convert(in_folder("d"), in_folder("f.gguf"));
		same_model(in, in_folder("b.apr"), cases[i].prompt);
		same_model(in, in_folder("c.gguf"), cases[i].prompt);
		same_model(in, in_folder("d"), cases[i].prompt);
		same_model(in, in_folder("e.gguf"), cases[i].prompt);
		same_model(in, in_folder("f.gguf"), cases[i].prompt);
		same_tensors(in_folder("c.gguf"), in_folder("e.gguf"));
		clear();
	}
}

/* The blocks of the quantised files under the other conversions that are published. */
static void published_blocks_are_the_same(void **state)
{
	(void)state;
	convert(shared_path("models/stories260k/model-q8_0.gguf"), in_folder("a.apr"));
	same_tensors(in_folder("a.apr"), shared_path("models/stories260k/model-q8_0.apr"));
	convert(shared_path("models/stories260k/model.gguf"), in_folder("b.apr"));
	same_tensors(in_folder("b.apr"), shared_path("models/stories260k/model-a.apr"));
	convert(shared_path("models/qwen2-k/qwen2-k-q4_k.gguf"), in_folder("c.apr"));
	same_tensors(in_folder("c.apr"), shared_path("models/qwen2-k/qwen2-k-q4_k-a.apr"));
	convert(shared_path("models/qwen2-tiny/qwen2-tiny-q4_k.apr"), in_folder("d.gguf"));
	same_tensors(in_folder("d.gguf"), shared_path("models/qwen2-tiny/qwen2-tiny-q4_k.gguf"));
}

static void assert_left_out(const char *in, const char *out, const char *const *want, size_t n)
{
	struct st_convert_result *r = convert_with(in, out, &(struct st_convert_options){ 0 });
	for (size_t i = 0; i < n && i < r->n_left_out; i++)
		assert_string_equal(r->left_out[i], want[i]);
	assert_int_equal(r->n_left_out, n);
	st_convert_result_free(r);
}

/* What has a place goes over, a chat template in a file of its own too; what has none is named. */
static void what_is_left_out_is_said(void **state)
{
	(void)state;
	char cmd[512], template[] = "{{ messages }}";
	snprintf(cmd, sizeof cmd, "cp -r '%s' '%s' && chmod -R u+w '%s'", shared_path("models/stories260k/hf"),
	         in_folder("a"), in_folder("a"));
	assert_int_equal(system(cmd), 0);
	put_file("a/README.md", "text");
	put_file("a/chat_template.jinja", template);
	put_file("a/generation_config.json",
	         "{\"bos_token_id\": 1, \"eos_token_id\": [2, 7], \"temperature\": 0.6, \"top_k\": null}");
	static const char *const from_folder[] = {
		"config.json: attention_dropout, initializer_range", "generation_config.json: eos_token_id (all but the first), temperature", "files: README.md",
	}, *const to_folder[] = { "files: README.md" }, *const from_gguf[] = { "keys: tokenizer.ggml.seperator_token_id" };
	assert_left_out(in_folder("a"), in_folder("b.gguf"), from_folder, 3);
	assert_left_out(in_folder("a"), in_folder("c.apr"), from_folder, 3);
	assert_left_out(in_folder("a"), in_folder("d"), to_folder, 1);
	assert_left_out(shared_path("models/stories260k/model.gguf"), in_folder("e"), from_gguf, 1);
	assert_left_out(shared_path("models/stories260k/model.gguf"), in_folder("f.gguf"), NULL, 0);
	struct st_error err = ST_ERROR_INIT;
	struct st_container *c;
	const char *got;
	size_t len;
	bool found;
	assert_ok(st_container_open(in_folder("b.gguf"), &c, &err), &err);
	assert_ok(st_kv_str(&c->keys, "tokenizer.chat_template", &got, &len, &found, &err), &err);
	assert_true(found && len == strlen(template) && memcmp(got, template, len) == 0);
	st_container_close(c);
}

/* ---- nothing is left behind ---- */

static void the_input_is_not_overwritten(void **state)
{
	(void)state;
	struct toy m;
	toy_make(&m, "qwen2", 64, true);
	toy_write(&m, in_folder("a.gguf"), ST_DTYPE_F32, true);
	toy_write(&m, in_folder("hf"), ST_DTYPE_F32, false);
	toy_free(&m);
	struct st_error err = convert_fails(in_folder("a.gguf"), in_folder("a.gguf"),
	                                    &(struct st_convert_options){ .force = true });
	assert_string_equal(err.message, "is an input, or holds one");
	assert_int_equal(symlink(in_folder("a.gguf"), in_folder("l.gguf")), 0);
	err = convert_fails(in_folder("a.gguf"), in_folder("l.gguf"), &(struct st_convert_options){ .force = true });
	assert_string_equal(err.message, "is an input, or holds one");
	err = convert_fails(in_folder("hf/model.safetensors"), in_folder("hf"),
	                    &(struct st_convert_options){ .force = true });
	assert_string_equal(err.message, "is an input, or holds one");
	/* Nothing that exists is replaced unasked. */
	put_file("x.apr", "x");
	err = convert_fails(in_folder("a.gguf"), in_folder("x.apr"), &(struct st_convert_options){ 0 });
	assert_non_null(strstr(err.message, "already exists"));
	st_convert_result_free(
		convert_with(in_folder("a.gguf"), in_folder("x.apr"), &(struct st_convert_options){ .force = true }));
	same_model(in_folder("a.gguf"), in_folder("x.apr"), NULL);
}

static void cancel_at_once(void *user, const char *what, uint64_t done, uint64_t total)
{
	(void)done, (void)total;
	if (!user || strcmp(what, user) == 0)
		st_cancel();
}

static void a_cancelled_run_leaves_nothing(void **state)
{
	(void)state;
	static char checking[] = "checking", converting[] = "converting";
	struct toy m;
	toy_make(&m, "qwen2", 64, true);
	toy_write(&m, in_folder("a.gguf"), ST_DTYPE_F32, true);
	toy_free(&m);
	static const char *const outs[] = { "b.apr", "b.gguf", "b" };
	for (size_t i = 0; i < 6; i++) {
		struct st_convert_options o = { .hooks = { .progress = cancel_at_once,
			                                   .user = i % 2 ? checking : converting } };
		struct st_error err = convert_fails(in_folder("a.gguf"), in_folder(outs[i / 2]), &o);
		st_cancel_reset();
		assert_int_equal(err.code, ST_ERR_CANCELLED);
		assert_int_equal(left_behind("a.gguf"), 0);
	}
}

static void a_full_disk_leaves_nothing(void **state)
{
	(void)state;
	struct toy m;
	toy_make(&m, "qwen2", 256, true);
	toy_write(&m, in_folder("a.gguf"), ST_DTYPE_F32, true);
	toy_free(&m);
	struct rlimit old, small = { .rlim_cur = 1 << 20 };
	assert_int_equal(getrlimit(RLIMIT_FSIZE, &old), 0);
	small.rlim_max = old.rlim_max;
	signal(SIGXFSZ, SIG_IGN);
	static const char *const outs[] = { "b.apr", "b.gguf", "b", "b.safetensors" };
	for (size_t i = 0; i < 4; i++) {
		assert_int_equal(setrlimit(RLIMIT_FSIZE, &small), 0);
		struct st_error err = convert_fails(in_folder("a.gguf"), in_folder(outs[i]),
		                                    &(struct st_convert_options){ 0 });
		assert_int_equal(setrlimit(RLIMIT_FSIZE, &old), 0);
		assert_int_equal(err.code, ST_ERR_IO);
		assert_string_equal(err.path,
		                    in_folder(i == 2 ? "b/model.safetensors" : outs[i])); /* not the temporary folder */
		assert_int_equal(left_behind("a.gguf"), 0);
	}
	/* A folder that cannot be written to: one that is not there, since tests may run as root. */
	for (size_t i = 0; i < 4; i++) {
		char path[256];
		snprintf(path, sizeof path, "%s/absent/%s", folder, outs[i]);
		struct st_error err = convert_fails(in_folder("a.gguf"), path, &(struct st_convert_options){ 0 });
		assert_int_equal(err.code, ST_ERR_IO);
	}
	assert_int_equal(left_behind("a.gguf"), 0);
}

/* ---- memory ---- */

enum { BIG_VOCAB = 81920, BIG_HIDDEN = 2048 }; /* an embedding of 320 MB in F16 */

static void write_big(const char *path)
{
	struct toy m;
	toy_make(&m, "llama", 64, true);
	toy_free(&m);
	struct toy_kv_store kv = { .n = 0 };
	const struct {
		const char *key;
		uint32_t v;
	} ints[] = {
		{ "llama.block_count", 1 },
		{ "llama.embedding_length", BIG_HIDDEN },
		{ "llama.feed_forward_length", BIG_HIDDEN },
		{ "llama.attention.head_count", 16 },
		{ "llama.attention.head_count_kv", 16 },
	};
	float eps = 1e-5f;
	toy_kv(&kv, "general.architecture", ST_KV_STR, "llama", 5);
	for (size_t i = 0; i < 5; i++)
		toy_kv(&kv, ints[i].key, ST_KV_U32, &ints[i].v, 4);
	toy_kv(&kv, "llama.attention.layer_norm_rms_epsilon", ST_KV_F32, &eps, 4);
	static const struct {
		const char *name;
		uint64_t rows;
	} list[] = {
		{ "token_embd.weight", BIG_VOCAB },      { "blk.0.attn_norm.weight", 0 },
		{ "blk.0.ffn_norm.weight", 0 },          { "output_norm.weight", 0 },
		{ "blk.0.attn_q.weight", BIG_HIDDEN },   { "blk.0.attn_k.weight", BIG_HIDDEN },
		{ "blk.0.attn_v.weight", BIG_HIDDEN },   { "blk.0.attn_output.weight", BIG_HIDDEN },
		{ "blk.0.ffn_gate.weight", BIG_HIDDEN }, { "blk.0.ffn_up.weight", BIG_HIDDEN },
		{ "blk.0.ffn_down.weight", BIG_HIDDEN },
	};
	enum { N = sizeof list / sizeof *list };
	struct st_tensor_spec specs[N];
	for (size_t i = 0; i < N; i++)
		specs[i] = (struct st_tensor_spec){ .name = list[i].name,
			                            .dtype = list[i].rows ? ST_DTYPE_F16 : ST_DTYPE_F32,
			                            .ndim = list[i].rows ? 2 : 1,
			                            .shape = { list[i].rows ? list[i].rows : BIG_HIDDEN, BIG_HIDDEN } };
	struct st_write_plan plan = {
		.format = ST_FORMAT_GGUF, .specs = specs, .n_specs = N, .kv = kv.kv, .n_kv = kv.n
	};
	struct st_error err = ST_ERROR_INIT;
	struct st_writer *w;
	const char *readable;
	assert_ok(st_writer_open(path, &plan, &w, &err), &err);
	float row[BIG_HIDDEN];
	uint16_t half[BIG_HIDDEN];
	uint64_t seed = 1;
	for (size_t i = 0; i < N; i++)
		for (uint64_t r = 0; r < (list[i].rows ? list[i].rows : 1); r++) {
			for (size_t k = 0; k < BIG_HIDDEN; k++)
				row[k] = (float)(toy_uniform(&seed) - 0.5);
			st_dtype_info(ST_DTYPE_F16)->encode(row, half, BIG_HIDDEN);
			assert_ok(list[i].rows ? st_writer_append(w, half, sizeof half, &err)
			                       : st_writer_append(w, row, sizeof row, &err),
			          &err);
		}
	assert_ok(st_writer_finish(w, &readable, &err), &err);
	assert_ok(st_writer_commit(w, &err), &err);
}

/* In a process of its own, started anew since threads do not survive fork(): convert under a limit on writable private
 * memory. */
static int limited_conversion(char **argv)
{
	struct rlimit limit = { .rlim_cur = 256u << 20, .rlim_max = 256u << 20 };
	struct st_error err = ST_ERROR_INIT;
	struct st_convert_result *r;
	struct st_convert_options o = { .type = argv[4][0] ? argv[4] : NULL, .threads = 4 };
	if (setrlimit(RLIMIT_DATA, &limit) != 0)
		return 2;
	if (st_convert(argv[2], argv[3], &o, &r, &err) != ST_OK) {
		char line[1400];
		st_error_format(&err, line, sizeof line);
		fprintf(stderr, "%s\n", line);
		return 1;
	}
	st_convert_result_free(r);
	return 0;
}

static void memory_does_not_depend_on_size(void **state)
{
	(void)state;
	static const struct {
		const char *out, *type;
	} cases[] = { { "b.gguf", "Q8_0" }, { "b", "" } };
	char self[1024];
	ssize_t len = readlink("/proc/self/exe", self,
	                       sizeof self - 1); /* by name: under valgrind the link itself is valgrind's */
	assert_true(len > 0);
	self[len] = '\0';
#ifdef __SANITIZE_ADDRESS__
	skip(); /* its shadow alone is beyond the limit */
#endif
	write_big(in_folder("a.gguf"));
	for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
		pid_t pid = fork();
		if (pid == 0) {
			execl(self, "test_convert", "--limited", in_folder("a.gguf"), in_folder(cases[i].out),
			      cases[i].type, (char *)NULL);
			_exit(3);
		}
		int status;
		assert_int_equal(waitpid(pid, &status, 0), pid);
		assert_true(WIFEXITED(status));
		assert_int_equal(WEXITSTATUS(status), 0);
		char cmd[300];
		snprintf(cmd, sizeof cmd, "rm -rf '%s'", in_folder(cases[i].out));
		assert_int_equal(system(cmd), 0);
	}
}

int main(int argc, char **argv)
{
	if (argc == 5 && strcmp(argv[1], "--limited") == 0)
		return limited_conversion(argv);
	whole_if_asked(argc, argv);
	const struct CMUnitTest tests[] = {
		CASE(gguf_goes_around),
		CASE(folders_go_around),
		CASE(settings_go_around),
		CASE(types_are_encoded),
		CASE(rows_that_do_not_divide_fall_back),
		CASE(what_cannot_be_written_is_named),
		CASE(names_of_outputs),
		CASE(what_a_type_cannot_hold_is_refused),
		CASE(layers_of_a_recipe),
		CASE(recipes_of_llama_cpp),
		CASE(importances_move_the_error),
		CASE(unused_tensors_are_carried_or_listed),
		CASE(published_models_go_around),
		CASE(published_blocks_are_the_same),
		CASE(what_is_left_out_is_said),
		CASE(the_input_is_not_overwritten),
		CASE(a_cancelled_run_leaves_nothing),
		CASE(a_full_disk_leaves_nothing),
		CASE(memory_does_not_depend_on_size),
	};
	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
