/* safetensors: headers sound and broken, shards, Hugging Face folders. */
#include "files.h"

#include "format/writer.h"

/* A file from its header text and n bytes of data that count 0, 1, 2, ... */
static void build(struct bytes *b, const char *header, size_t n)
{
	b->n = 0;
	put_u64(b, strlen(header));
	put(b, header, strlen(header));
	for (size_t i = 0; i < n; i++)
		put_u8(b, (uint8_t)i);
}

static const char good[] = "{\"__metadata__\":{\"format\":\"pt\",\"note\":\"\\u00e9\"},"
			   "\"w\":{\"dtype\":\"F32\",\"shape\":[2,3],\"data_offsets\":[3,27]},"
			   "\"b\":{\"shape\":[3],\"data_offsets\":[0,3],\"dtype\":\"U8\"},"
			   "\"none\":{\"dtype\":\"F16\",\"shape\":[0,4],\"data_offsets\":[27,27]},"
			   "\"s\":{\"dtype\":\"I64\",\"shape\":[],\"data_offsets\":[27,35]}}  ";
#define GOOD_BYTES 35

/* As MLX writes it. */
static void no_metadata_may_be_null(void **state)
{
	(void)state;
	static struct bytes b;
	struct st_container *c;
	struct st_error err = ST_ERROR_INIT;
	build(&b, "{\"__metadata__\":null,\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]}}", 1);
	assert_ok(st_container_open(save("null.safetensors", &b), &c, &err), &err);
	assert_null(c->docs.metadata);
	assert_int_equal(st_container_n_tensors(c), 1);
	st_container_close(c);
}

static void a_sound_file(void **state)
{
	(void)state;
	static struct bytes b;
	struct st_container *c;
	struct st_error err = ST_ERROR_INIT;
	build(&b, good, GOOD_BYTES);
	assert_ok(st_container_open(save("good.safetensors", &b), &c, &err), &err);
	assert_int_equal(st_container_format(c), ST_FORMAT_SAFETENSORS);
	assert_string_equal(st_container_describe(c), "safetensors");
	assert_string_equal(json_string_value(json_object_get(c->docs.metadata, "note")), "\xC3\xA9");
	assert_int_equal(st_container_n_tensors(c), 4);
	/* By place, whatever the order of the header. */
	static const char *const order[] = { "b", "w", "none", "s" };
	for (size_t i = 0; i < 4; i++)
		assert_string_equal(st_container_tensor(c, i)->name, order[i]);
	const struct st_tensor *w = st_container_find(c, "w");
	assert_int_equal(w->dtype, ST_DTYPE_F32);
	assert_true(w->ndim == 2 && w->shape[0] == 2 && w->shape[1] == 3 && w->row_bytes == 12 && w->n_bytes == 24
	            && w->n_elems == 6);
	assert_int_equal(w->data[0], 3); /* three bytes in: not aligned, and no harm */
	assert_int_equal(w->offset, 8 + strlen(good) + 3);
	const struct st_tensor *s = st_container_find(c, "s");
	assert_true(s->ndim == 0 && s->n_elems == 1 && s->n_bytes == 8 && s->data[0] == 27);
	assert_int_equal(st_container_find(c, "none")->n_elems, 0);
	st_container_close(c);
}

/* Names and sizes from the format's documentation. */
static void every_dtype(void **state)
{
	(void)state;
	static const struct {
		const char *name;
		enum st_dtype dtype;
		unsigned size;
	} types[] = {
		{ "BOOL", ST_DTYPE_BOOL, 1 },       { "U8", ST_DTYPE_U8, 1 },           { "I8", ST_DTYPE_I8, 1 },
		{ "F8_E5M2", ST_DTYPE_F8_E5M2, 1 }, { "F8_E4M3", ST_DTYPE_F8_E4M3, 1 }, { "I16", ST_DTYPE_I16, 2 },
		{ "U16", ST_DTYPE_U16, 2 },         { "F16", ST_DTYPE_F16, 2 },         { "BF16", ST_DTYPE_BF16, 2 },
		{ "I32", ST_DTYPE_I32, 4 },         { "U32", ST_DTYPE_U32, 4 },         { "F32", ST_DTYPE_F32, 4 },
		{ "F64", ST_DTYPE_F64, 8 },         { "I64", ST_DTYPE_I64, 8 },         { "U64", ST_DTYPE_U64, 8 },
	};
	static struct bytes b;
	for (size_t i = 0; i < sizeof types / sizeof *types; i++) {
		char header[128];
		struct st_container *c;
		struct st_error err = ST_ERROR_INIT;
		snprintf(header, sizeof header, "{\"t\":{\"dtype\":\"%s\",\"shape\":[5],\"data_offsets\":[0,%u]}}",
		         types[i].name, 5 * types[i].size);
		build(&b, header, 5 * types[i].size);
		assert_ok(st_container_open(save("t.safetensors", &b), &c, &err), &err);
		assert_int_equal(c->tensors[0].dtype, types[i].dtype);
		st_container_close(c);
	}
}

#define T(fields) "{\"a\":{" fields "}}"
#define TWO(a, b) "{\"a\":{\"dtype\":\"U8\",\"shape\":" a "},\"b\":{\"dtype\":\"U8\",\"shape\":" b "}}"
#define FORMAT ST_ERR_FORMAT

static const struct broken {
	const char *header;
	size_t data;
	enum st_status status;
	const char *text;
} broken[] = {
	{ "[]", 0, FORMAT, "byte 8: header: does not begin with a brace" },
	{ " {}", 0, FORMAT, "byte 8: header: does not begin with a brace" },
	{ "{", 0, FORMAT, "byte 9: not valid JSON" },
	{ "{}x", 0, FORMAT, "not valid JSON: end of file expected" },
	{ "{\"a\":}", 0, FORMAT, "not valid JSON" },
	{ "{\"a\":NaN}", 0, FORMAT, "not valid JSON" },
	{ "{'a':1}", 0, FORMAT, "not valid JSON" },
	{ "{\"a\":1,}", 0, FORMAT, "not valid JSON" },
	{ "{\"a\xC0\x80\":1}", 0, FORMAT, "not valid JSON: unable to decode byte 0xc0" },
	{ "{\"a\\u0000b\":1}", 0, FORMAT, "not valid JSON: NUL byte in object key" },
	{ "{\"\\ud800\":1}", 0, FORMAT, "not valid JSON: invalid Unicode" },
	{ "{\"a\":1,\"a\":1}", 0, FORMAT, "not valid JSON: duplicate object key" },
	{ T("\"dtype\":\"U8\",\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]"), 1, FORMAT,
	  "duplicate object key" },
	{ "{\"\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]}}", 1, FORMAT, "tensor name: is empty" },
	{ "{\"a\":null}", 0, FORMAT, "byte 9: a: is not an object with dtype" },
	{ "{\"a\":[]}", 0, FORMAT, "a: is not an object with dtype" },
	{ T("\"shape\":[1],\"data_offsets\":[0,1]"), 1, FORMAT, "a: is not an object with dtype" },
	{ T("\"dtype\":\"U8\",\"data_offsets\":[0,1]"), 1, FORMAT, "a: is not an object with dtype" },
	{ T("\"dtype\":\"U8\",\"shape\":[1]"), 1, FORMAT, "a: is not an object with dtype" },
	{ T("\"dtype\":7,\"shape\":[1],\"data_offsets\":[0,1]"), 1, FORMAT, "a: dtype is not a string" },
	{ T("\"dtype\":\"u8\",\"shape\":[1],\"data_offsets\":[0,1]"), 1, ST_ERR_UNSUPPORTED,
	  "a: dtype u8 is not supported; supported: F64" },
	{ T("\"dtype\":\"F4\",\"shape\":[2],\"data_offsets\":[0,1]"), 1, ST_ERR_UNSUPPORTED,
	  "a: dtype F4 is not supported" },
	{ T("\"dtype\":\"C64\",\"shape\":[1],\"data_offsets\":[0,8]"), 8, ST_ERR_UNSUPPORTED,
	  "a: dtype C64 is not supported" },
	{ T("\"dtype\":\"U8\",\"shape\":3,\"data_offsets\":[0,3]"), 3, FORMAT, "a: shape is not a list" },
	{ T("\"dtype\":\"U8\",\"shape\":[3.0],\"data_offsets\":[0,3]"), 3, FORMAT, "a: shape is not a list" },
	{ T("\"dtype\":\"U8\",\"shape\":[3e0],\"data_offsets\":[0,3]"), 3, FORMAT, "a: shape is not a list" },
	{ T("\"dtype\":\"U8\",\"shape\":[\"3\"],\"data_offsets\":[0,3]"), 3, FORMAT, "a: shape is not a list" },
	{ T("\"dtype\":\"U8\",\"shape\":[[3]],\"data_offsets\":[0,3]"), 3, FORMAT, "a: shape is not a list" },
	{ T("\"dtype\":\"U8\",\"shape\":[-3],\"data_offsets\":[0,3]"), 3, FORMAT, "a: shape is not a list" },
	{ T("\"dtype\":\"U8\",\"shape\":[03],\"data_offsets\":[0,3]"), 3, FORMAT, "not valid JSON" },
	{ T("\"dtype\":\"U8\",\"shape\":[1,1,1,1,1,1,1,1,3],\"data_offsets\":[0,3]"), 3, ST_ERR_LIMIT,
	  "a: has 9 dimensions" },
	{ T("\"dtype\":\"U8\",\"shape\":[18446744073709551616],\"data_offsets\":[0,3]"), 3, FORMAT, "too big integer" },
	{ T("\"dtype\":\"F32\",\"shape\":[4611686018427387910],\"data_offsets\":[0,24]"), 24, FORMAT,
	  "a: dimensions overflow" },
	{ T("\"dtype\":\"U8\",\"shape\":[4294967296,4294967297],\"data_offsets\":[0,4]"), 4, FORMAT,
	  "a: dimensions overflow" },
	{ T("\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[0,3]"), 3, FORMAT,
	  "a: data of 4 bytes reach past the end" },
	{ T("\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[0,3]"), 3, FORMAT,
	  "a: shape and dtype need 2 bytes, data_offsets span 3" },
	{ T("\"dtype\":\"U8\",\"shape\":[3],\"data_offsets\":[3]"), 3, FORMAT, "a: data_offsets is not a pair" },
	{ T("\"dtype\":\"U8\",\"shape\":[3],\"data_offsets\":[0,1,3]"), 3, FORMAT, "a: data_offsets is not a pair" },
	{ T("\"dtype\":\"U8\",\"shape\":[3],\"data_offsets\":[-3,0]"), 3, FORMAT, "a: data_offsets is not a pair" },
	{ T("\"dtype\":\"U8\",\"shape\":[3],\"data_offsets\":[3,0]"), 3, FORMAT, "a: data_offsets end at 0" },
	{ T("\"dtype\":\"U8\",\"shape\":[3],\"data_offsets\":[9223372036854775804,9223372036854775807]"), 3, FORMAT,
	  "a: data of 3 bytes reach past the end" },
	{ TWO("[2],\"data_offsets\":[0,2]", "[2],\"data_offsets\":[1,3]"), 3, FORMAT, "b: overlaps tensor a" },
	{ TWO("[2],\"data_offsets\":[0,2]", "[2],\"data_offsets\":[0,2]"), 2, FORMAT, "b: overlaps tensor a" },
	{ TWO("[2],\"data_offsets\":[0,2]", "[2],\"data_offsets\":[3,5]"), 5, FORMAT,
	  "b: 1 bytes before it belong to no tensor" },
	{ TWO("[2],\"data_offsets\":[1,3]", "[2],\"data_offsets\":[3,5]"), 5, FORMAT,
	  "a: 1 bytes before it belong to no tensor" },
	{ TWO("[2],\"data_offsets\":[0,2]", "[2],\"data_offsets\":[2,4]"), 7, FORMAT,
	  "3 bytes behind the last tensor" },
	{ "{}", 1, FORMAT, "1 bytes behind the last tensor" },
	{ "{\"__metadata__\":[]}", 0, FORMAT, "__metadata__: is not an object" },
	{ "{\"__metadata__\":{\"x\":1}}", 0, FORMAT, "__metadata__: the value of x is not a string" },
	{ "{\"__metadata__\":{\"x\":{}}}", 0, FORMAT, "__metadata__: the value of x is not a string" },
};

static void broken_headers_are_refused(void **state)
{
	(void)state;
	static struct bytes b;
	for (size_t i = 0; i < sizeof broken / sizeof *broken; i++) {
		build(&b, broken[i].header, broken[i].data);
		assert_refused(save("x.safetensors", &b), broken[i].status, broken[i].text, broken[i].header);
	}
}

static void header_lengths(void **state)
{
	(void)state;
	static struct bytes b;
	static const struct {
		uint64_t n;
		const char *text;
	} cases[] = {
		{ UINT64_MAX, "header length: is 18446744073709551615, but only" },
		{ UINT64_C(1) << 63, "header length: is" },
		{ UINT64_MAX - 7, "header length: is" },
		{ 1000, "header length: is 1000, but only 2 bytes follow" },
		{ 0, "header length: is 0" },
		{ 1, "byte 9: not valid JSON" },
	};
	for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
		build(&b, "{}", 0);
		memcpy(b.p, &cases[i].n, 8);
		assert_refused(save("x.safetensors", &b), FORMAT, cases[i].text, cases[i].text);
	}
	/* Over the limit in a file that could hold it: not parsed at all. */
	const char *path = in_folder("long.safetensors");
	uint64_t n = 100000001;
	memcpy(b.p, &n, 8);
	save("long.safetensors", &b);
	assert_int_equal(truncate(path, 100000009), 0);
	assert_refused(path, ST_ERR_LIMIT, "at most 100000000 are allowed", "100 MB");
	assert_int_equal(unlink(path), 0);
}

/* 20 MB of empty objects would become 2 GB of tree. */
static void a_small_text_is_no_large_tree(void **state)
{
	(void)state;
	const size_t n = 20000000;
	char *text = calloc(1, n + 8);
	assert_non_null(text);
	uint64_t len = n;
	memcpy(text, &len, 8);
	memcpy(text + 8, "{\"a\":[", 6);
	for (size_t i = 14; i + 3 <= n + 8; i += 3)
		memcpy(text + i, "{},", 3);
	assert_refused(save_n("bomb.safetensors", text, n + 8), ST_ERR_LIMIT, "bytes of memory", "bomb");
	free(text);
	assert_int_equal(unlink(in_folder("bomb.safetensors")), 0);
}

static void deep_nesting_is_refused(void **state)
{
	(void)state;
	static struct bytes b;
	static char text[50001];
	memset(text, '[', 50000);
	memcpy(text, "{\"a\":", 5);
	build(&b, text, 0);
	assert_refused(save("deep.safetensors", &b), FORMAT, "maximum parsing depth", "depth");
}

static void every_truncation_is_refused(void **state)
{
	(void)state;
	static struct bytes b;
	build(&b, good, GOOD_BYTES);
	for (size_t n = 0; n < b.n; n++) {
		const char *path = save_n("cut.safetensors", b.p, n);
		struct st_container *c = NULL;
		struct st_error err = ST_ERROR_INIT;
		enum st_status st = st_container_open(path, &c, &err);
		if (st != ST_ERR_FORMAT || c || strcmp(err.path, path) != 0 || err.offset == ST_NO_OFFSET
		    || !err.message[0])
			fail_msg("cut to %zu of %zu bytes: %s at %llu: %s", n, b.n, st_status_name(st),
			         (unsigned long long)err.offset, err.message);
	}
}

static void any_byte_may_be_wrong(void **state)
{
	(void)state;
	static struct bytes b;
	build(&b, good, GOOD_BYTES);
	static const char tries[] = "\0\"{}[]:,0-9.e\\\xFF ";
	for (size_t i = 0; i < b.n; i++) {
		uint8_t was = b.p[i];
		for (size_t k = 0; k < sizeof tries; k++) {
			struct st_container *c;
			struct st_error err = ST_ERROR_INIT;
			b.p[i] = (uint8_t)tries[k];
			if (st_container_open(save("flip.safetensors", &b), &c, &err) == ST_OK)
				st_container_close(c);
			else
				assert_true(err.message[0] && err.path[0]);
		}
		b.p[i] = was;
	}
}

/* ---- folders ---- */

#define SHARD(name, n) "{\"" name "\":{\"dtype\":\"U8\",\"shape\":[" n "],\"data_offsets\":[0," n "]}}"

/* A fresh folder with two shards: a in the first, b in the second. */
static const char *make_model(const char *name)
{
	static struct bytes b;
	static char path[256];
	char file[128];
	snprintf(path, sizeof path, "%s/%s", folder, name);
	assert_int_equal(mkdir(path, 0700), 0);
	snprintf(file, sizeof file, "%s/model-00001-of-00002.safetensors", name);
	build(&b, SHARD("a", "3"), 3);
	save(file, &b);
	snprintf(file, sizeof file, "%s/model-00002-of-00002.safetensors", name);
	build(&b, SHARD("b", "5"), 5);
	save(file, &b);
	return path;
}

static void put_file(const char *dir, const char *name, const char *text)
{
	char file[128];
	snprintf(file, sizeof file, "%s/%s", strrchr(dir, '/') + 1, name);
	save_text(file, text);
}

#define INDEX "model.safetensors.index.json"
#define MAP(a, b) "{\"metadata\":{\"total_size\":8},\"weight_map\":{\"a\":" a ",\"b\":" b "}}"
#define ONE "\"model-00001-of-00002.safetensors\""
#define TWO_OF "\"model-00002-of-00002.safetensors\""

static void shards_and_documents(void **state)
{
	(void)state;
	struct st_container *c;
	struct st_error err = ST_ERROR_INIT;
	const char *dir = make_model("sound");
	put_file(dir, INDEX, MAP(ONE, TWO_OF));
	put_file(dir, "config.json", "{\"num_hidden_layers\":1,\"head_dim\":null}");
	put_file(dir, "generation_config.json", "{\"x\":2}");
	put_file(dir, "tokenizer.json", "{\"x\":3}");
	put_file(dir, "tokenizer_config.json", "{\"x\":4}");
	char index[300], shard[300];
	snprintf(index, sizeof index, "%s/%s", dir, INDEX);
	snprintf(shard, sizeof shard, "%s/model-00002-of-00002.safetensors", dir);
	const char *const paths[] = { dir, index, shard };
	for (size_t i = 0; i < 3; i++) {
		assert_ok(st_container_open(paths[i], &c, &err), &err);
		assert_int_equal(st_container_n_files(c), i == 2 ? 1 : 2);
		assert_string_equal(st_container_describe(c), i == 0   ? "safetensors, 2 shards (Hugging Face folder)"
		                                              : i == 1 ? "safetensors, 2 shards"
		                                                       : "safetensors");
		assert_int_equal(st_container_find(c, "b")->n_bytes, 5);
		assert_int_equal(st_container_find(c, "b")->file, i == 2 ? 0 : 1);
		/* The model's documents belong to it however it is opened. */
		assert_int_equal(json_integer_value(json_object_get(c->docs.config, "num_hidden_layers")), 1);
		assert_int_equal(json_integer_value(json_object_get(c->docs.generation_config, "x")), 2);
		assert_int_equal(json_integer_value(json_object_get(c->docs.tokenizer, "x")), 3);
		assert_int_equal(json_integer_value(json_object_get(c->docs.tokenizer_config, "x")), 4);
		st_container_close(c);
	}
}

/* Two sets of weights: an index of shards and one file of another save. */
static void a_stray_file_beside_an_index(void **state)
{
	(void)state;
	struct st_container *c;
	struct st_error err = ST_ERROR_INIT;
	const char *dir = make_model("stray");
	char command[700], path[300];
	put_file(dir, INDEX, MAP(ONE, TWO_OF));
	snprintf(command, sizeof command, "cp '%s'/model-00001-of-00002.safetensors '%s'/model.safetensors", dir, dir);
	assert_int_equal(system(command), 0);
	assert_refused(dir, ST_ERR_UNSUPPORTED, "both model.safetensors and an index of other files", "both");
	/* Either by its name, and an index of the single file, are no question. */
	snprintf(path, sizeof path, "%s/model.safetensors", dir);
	assert_ok(st_container_open(path, &c, &err), &err);
	assert_int_equal(st_container_n_tensors(c), 1);
	st_container_close(c);
	snprintf(path, sizeof path, "%s/%s", dir, INDEX);
	assert_ok(st_container_open(path, &c, &err), &err);
	assert_int_equal(st_container_n_tensors(c), 2);
	st_container_close(c);
	put_file(dir, INDEX, "{\"weight_map\":{\"a\":\"model.safetensors\"}}");
	assert_ok(st_container_open(dir, &c, &err), &err);
	st_container_close(c);
}

static void documents_that_were_not_fetched(void **state)
{
	(void)state;
	static const char pointer[] = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 17210084\n";
	static const char *const names[] = { "config.json", "tokenizer.json", "tokenizer_config.json" };
	for (size_t i = 0; i < 3; i++) {
		char name[40];
		snprintf(name, sizeof name, "lfs-%zu", i);
		const char *dir = make_model(name);
		put_file(dir, INDEX, MAP(ONE, TWO_OF));
		put_file(dir, names[i], pointer);
		assert_refused(dir, ST_ERR_UNSUPPORTED, "Git LFS pointer", names[i]);
		assert_refused(dir, ST_ERR_UNSUPPORTED, names[i], names[i]);
	}
}

static void a_bundle_in_a_model_folder_is_no_model(void **state)
{
	(void)state;
	static struct bytes b;
	struct st_container *c;
	struct st_error err = ST_ERROR_INIT;
	const char *dir = make_model("bundle");
	put_file(dir, "config.json", "not json");
	build(&b, "{\"__metadata__\":{\"format\":\"stele-trace\"}}", 0);
	assert_ok(st_container_open(save("bundle/trace.safetensors", &b), &c, &err), &err);
	assert_null(c->docs.config);
	st_container_close(c);
}

static void broken_folders_are_refused(void **state)
{
	(void)state;
	static const struct {
		const char *file, *text;
		enum st_status status;
		const char *says;
	} cases[] = {
		{ INDEX, "[]", FORMAT, "without an object weight_map" },
		{ INDEX, "{\"weight_map\":[]}", FORMAT, "without an object weight_map" },
		{ INDEX, "{\"weight_map\":{", FORMAT, INDEX ": byte 15: not valid JSON" },
		{ INDEX, MAP(ONE, "1"), FORMAT, "b: weight_map does not give it a file name" },
		{ INDEX, MAP(ONE, "\"\""), FORMAT, "b: weight_map points outside" },
		{ INDEX, MAP(ONE, "\"..\""), FORMAT, "b: weight_map points outside" },
		{ INDEX, MAP(ONE, "\"../../../etc/passwd\""), FORMAT, "b: weight_map points outside" },
		{ INDEX, MAP(ONE, "\"/etc/passwd\""), FORMAT, "b: weight_map points outside" },
		{ INDEX, MAP(ONE, "\"absent.safetensors\""), ST_ERR_IO, "absent.safetensors: cannot open" },
		{ INDEX, MAP(ONE, ONE), FORMAT,
		  "b: weight_map puts it into model-00001-of-00002.safetensors, which does not hold it" },
		{ INDEX, MAP(TWO_OF, ONE), FORMAT,
		  "weight_map puts it into model-00002-of-00002.safetensors, but it is in" },
		{ INDEX, MAP(ONE, "\"config.json\""), FORMAT, "config.json" },
		{ "model-00002-of-00002.safetensors", "{}", FORMAT,
		  "model-00002-of-00002.safetensors: byte 0: header length" },
		{ "model-00002-of-00002.safetensors", "", FORMAT,
		  "model-00002-of-00002.safetensors: byte 0: the file is empty" },
		{ "model-00001-of-00002.safetensors", "version https://git-lfs.github.com/spec/v1\noid sha256:00\n",
		  ST_ERR_UNSUPPORTED, "model-00001-of-00002.safetensors: byte 0: is a Git LFS pointer" },
		{ "config.json", "", FORMAT, "config.json: byte 0: not valid JSON" },
		{ "config.json", "{\"architectures\": [", FORMAT, "config.json: byte" },
		{ "config.json", "[1]", FORMAT, "config.json: byte 0: must be a JSON object" },
		{ "config.json", "{\"a\":1,\"a\":2}", FORMAT, "config.json: byte 10: not valid JSON: duplicate" },
		{ "config.json", "{\"num_hidden_layers\":-1}", FORMAT, "config.json: num_hidden_layers: is -1" },
		{ "config.json", "{\"vocab_size\":\"512\"}", FORMAT,
		  "config.json: vocab_size: is \"512\", not an integer" },
		{ "tokenizer.json", "{\"model\":", FORMAT, "tokenizer.json: byte" },
		{ "tokenizer_config.json", "7", FORMAT, "tokenizer_config.json: byte" },
	};
	for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
		char name[32];
		snprintf(name, sizeof name, "broken-%zu", i);
		const char *dir = make_model(name);
		put_file(dir, "config.json", "{}");
		put_file(dir, INDEX, MAP(ONE, TWO_OF));
		put_file(dir, cases[i].file, cases[i].text);
		assert_refused(dir, cases[i].status, cases[i].says, cases[i].text);
	}
}

static void a_tensor_in_two_shards_is_refused(void **state)
{
	(void)state;
	static struct bytes b;
	const char *dir = make_model("twice");
	put_file(dir, INDEX, MAP(ONE, TWO_OF));
	build(&b, TWO("[2],\"data_offsets\":[0,2]", "[2],\"data_offsets\":[2,4]"), 4);
	save("twice/model-00002-of-00002.safetensors", &b);
	assert_refused(dir, FORMAT, "tensor a is in two files", "twice");
}

static void which_file_of_a_folder(void **state)
{
	(void)state;
	static struct bytes b;
	struct st_container *c;
	struct st_error err = ST_ERROR_INIT;
	const char *dir = make_model("choice");
	assert_refused(dir, ST_ERR_UNSUPPORTED, "folder holds 2 .safetensors files and 0 shard indexes",
	               "two files, no index");
	put_file(dir, "other.safetensors.index.json", MAP(ONE, TWO_OF));
	assert_ok(st_container_open(dir, &c, &err), &err);
	assert_int_equal(c->n_tensors, 2);
	st_container_close(c);
	build(&b, SHARD("c", "1"), 1);
	save("choice/model.safetensors", &b);
	assert_ok(st_container_open(dir, &c, &err), &err);
	assert_non_null(st_container_find(c, "c"));
	st_container_close(c);

	assert_int_equal(mkdir(in_folder("nothing"), 0700), 0);
	assert_refused(in_folder("nothing"), ST_ERR_UNSUPPORTED, "folder is neither", "empty folder");
	save_text("nothing/config.json", "{}");
	assert_refused(in_folder("nothing"), FORMAT, "config.json but no weights", "config only");
	save_text("nothing/pytorch_model-00001-of-00002.bin", "x");
	assert_refused(in_folder("nothing"), ST_ERR_UNSUPPORTED, "neither pytorch_model.bin nor",
	               "a torch shard without its index");
	assert_int_equal(unlink(in_folder("nothing/pytorch_model-00001-of-00002.bin")), 0);
	save_text("nothing/tokenizer.json", "{}");
	assert_ok(st_container_open(in_folder("nothing"), &c, &err), &err);
	assert_int_equal(c->n_tensors, 0);
	assert_null(st_container_find(c, "a"));
	assert_non_null(c->docs.tokenizer);
	st_container_close(c);
}

static void digest_of_shards_is_the_digest_of_digests(void **state)
{
	(void)state;
	struct st_container *c;
	struct st_error err = ST_ERROR_INIT;
	const char *dir = make_model("digest");
	put_file(dir, INDEX, MAP(ONE, TWO_OF));
	assert_ok(st_container_open(dir, &c, &err), &err);
	char hex[65];
	assert_ok(st_container_sha256(c, hex, &err), &err);
	st_container_close(c);
	/* By sha256sum: of the two files' digests as 64 bytes, and of the first file. */
	assert_string_equal(hex, "e56f426dc5d2a0a180a832b03f42d08f0790c15c1f793cf6e9554a781a5eaccc");
	assert_ok(st_container_open(in_folder("digest/model-00001-of-00002.safetensors"), &c, &err), &err);
	assert_ok(st_container_sha256(c, hex, &err), &err);
	st_container_close(c);
	assert_string_equal(hex, "9fb7cade50123f28c6cbdd60bec99728b3db67b1150d0159fbe85e5cc159dd1e");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_sound_file),
		cmocka_unit_test(no_metadata_may_be_null),
		cmocka_unit_test(every_dtype),
		cmocka_unit_test(broken_headers_are_refused),
		cmocka_unit_test(header_lengths),
		cmocka_unit_test(a_small_text_is_no_large_tree),
		cmocka_unit_test(deep_nesting_is_refused),
		cmocka_unit_test(every_truncation_is_refused),
		cmocka_unit_test(any_byte_may_be_wrong),
		cmocka_unit_test(shards_and_documents),
		cmocka_unit_test(a_stray_file_beside_an_index),
		cmocka_unit_test(documents_that_were_not_fetched),
		cmocka_unit_test(a_bundle_in_a_model_folder_is_no_model),
		cmocka_unit_test(broken_folders_are_refused),
		cmocka_unit_test(a_tensor_in_two_shards_is_refused),
		cmocka_unit_test(which_file_of_a_folder),
		cmocka_unit_test(digest_of_shards_is_the_digest_of_digests),
	};
	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
